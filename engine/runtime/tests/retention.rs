//! Logs that keep themselves within bounds: by bytes, by age, and beyond the hard limit past a member that is down.

mod common;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use common::{free_addresses, make_cluster, temporary_directory, wait_for};
use synod::{Batch, Config, Log, Node, NodeId, ReadItem, Retention, Role, Slot, Status};

const PATIENCE: Duration = Duration::from_secs(20);
const SEGMENT_BYTES: u64 = 2 << 20;

fn config(directories: &[PathBuf], listens: &[SocketAddr], node: u32, retention: Retention) -> Config {
    let own = node as usize - 1;
    let mut config = Config::new(&directories[own], NodeId(node), listens[own]);
    config.peers = (1..).map(NodeId).zip(listens.iter().copied()).filter(|(peer, _)| peer.0 != node).collect();
    config.io_memory_bytes = 16 << 20;
    config.retention = retention;
    config
}

fn leading(logs: &[Log]) -> Log {
    wait_for("a leader", PATIENCE, || logs.iter().find(|log| log.status().role == Role::Leader).cloned())
}

/// Appends about this many bytes at whoever leads.
fn fill(logs: &[Log], bytes: u64) {
    let batch: Batch = (0..64).map(|_| [7; 1024]).collect();
    let mut appended = 0;
    wait_for("the load", PATIENCE, || {
        if leading(logs).append_batch_blocking(batch.clone()).is_ok() {
            appended += batch.bytes().len() as u64;
        }
        (appended >= bytes).then_some(())
    });
}

#[test]
fn bytes_and_age_propose_trims() {
    let root = temporary_directory();
    let directories = make_cluster(root.path(), 1, SEGMENT_BYTES);
    let listens = free_addresses(1);
    let by_bytes = Retention { bytes: Some(4 * SEGMENT_BYTES), ..Retention::default() };
    let mut node = Node::start(config(&directories, &listens, 1, by_bytes)).expect("the node starts");
    let logs = [node.log()];
    fill(&logs, 10 * SEGMENT_BYTES);
    let log = &logs[0];
    let kept = |status: &Status| status.wal.live_bytes <= 5 * SEGMENT_BYTES;
    let status = wait_for("the log to shrink", PATIENCE, || Some(log.status()).filter(kept));
    assert!(status.base > Slot::FIRST && status.counters.trims > 0 && status.counters.trims_past == 0, "{status:?}");
    let first = match log.reader(Slot::FIRST).next_blocking().expect("the node serves") {
        ReadItem::Trimmed { first } => first,
        ReadItem::Body(body) => panic!("slot 1 is still there: {body:?}"),
    };
    assert!(first >= status.base, "a reader that is too slow is told where the log begins");
    node.shutdown().expect("an orderly end");
    drop(node);

    // Everything is old soon; only whole segments are given up, so those in use stay.
    let by_age = Retention { age: Some(Duration::from_millis(300)), ..Retention::default() };
    let node = Node::start(config(&directories, &listens, 1, by_age)).expect("the node starts");
    let log = node.log();
    let aged = |status: &Status| status.wal.live_bytes <= 3 * SEGMENT_BYTES;
    let status = wait_for("old segments to go", PATIENCE, || Some(log.status()).filter(aged));
    assert!(status.base > first, "{status:?}");
}

#[test]
fn a_member_that_is_down_holds_the_log_up_to_the_hard_limit_and_comes_back() {
    let root = temporary_directory();
    let directories = make_cluster(root.path(), 3, SEGMENT_BYTES);
    let listens = free_addresses(3);
    let (soft, hard) = (4 * SEGMENT_BYTES, 10 * SEGMENT_BYTES);
    let retention = Retention { bytes: Some(soft), age: None, hard_bytes: Some(hard) };
    let start = |node| Node::start(config(&directories, &listens, node, retention)).expect("the node starts");
    let mut nodes: Vec<Node> = (1..=3).map(start).collect();
    let mut logs: Vec<Log> = nodes.iter().map(Node::log).collect();
    fill(&logs, SEGMENT_BYTES);
    // Whoever follows goes; it had everything up to now.
    let leader = leading(&logs).status().node;
    let away = logs.iter().position(|log| log.status().node != leader).expect("there are followers");
    let mut gone = nodes.remove(away);
    logs.remove(away);
    gone.shutdown().expect("an orderly end");
    let (gone_id, mark) = (gone.status().node, gone.status().mark.slot);
    drop(gone);

    fill(&logs, 7 * SEGMENT_BYTES);
    let held = wait_for("the leader to say who holds the log", PATIENCE, || leading(&logs).status().held_by);
    assert_eq!(held, gone_id);
    assert!(leading(&logs).status().wal.live_bytes > soft);

    fill(&logs, 8 * SEGMENT_BYTES);
    let bounded = |log: &Log| log.status().wal.live_bytes <= hard;
    wait_for("both logs to be within the hard limit", PATIENCE, || logs.iter().all(bounded).then_some(()));
    assert!(logs.iter().any(|log| log.status().counters.trims_past > 0));

    let returned = start(gone_id.0);
    // What it lacks is gone: its log begins where the others' logs do, and its readers are told.
    let installed = |status: &Status| status.mark.slot >= leading(&logs).status().base && status.base > mark;
    let status = wait_for("the node to begin anew", PATIENCE, || Some(returned.status()).filter(installed));
    assert_eq!(status.behind, None);
    let mut reader = returned.log().reader(mark);
    let first = match reader.next_blocking().expect("the node serves") {
        ReadItem::Trimmed { first } => first,
        ReadItem::Body(body) => panic!("the slot is still there: {body:?}"),
    };
    assert!(first > mark, "{first}");
    let end = leading(&logs).status().mark;
    wait_for("the node to catch up", PATIENCE, || (returned.status().mark.slot >= end.slot).then_some(()));
    // Everybody has everything: ordinary trims go on.
    let trims = leading(&logs).status().counters.trims;
    fill(&logs, 6 * SEGMENT_BYTES);
    wait_for("ordinary trims", PATIENCE, || (leading(&logs).status().counters.trims > trims).then_some(()));
}
