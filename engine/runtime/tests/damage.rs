//! Nodes on damaged disks: they open, abstain from what the damage could touch, heal from their peers, and say all of it.

mod common;

use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{free_addresses, make_cluster, temporary_directory, wait_for};
use synod::{Config, Log, Node, NodeId, ReadItem, Role, Slot};
use synod_wal::directory::{self, DirectoryStore};
use synod_wal::{RecoveredLog, recover};

const PATIENCE: Duration = Duration::from_secs(20);
const SEGMENT_BYTES: u64 = 2 << 20;
const BLOCK: u64 = 4096;
const COMMANDS: u64 = 40;

fn config(directories: &[PathBuf], listens: &[SocketAddr], node: u32) -> Config {
    let own = node as usize - 1;
    let mut config = Config::new(&directories[own], NodeId(node), listens[own]);
    config.peers = (1..).map(NodeId).zip(listens.iter().copied()).filter(|(peer, _)| peer.0 != node).collect();
    config.io_memory_bytes = 16 << 20;
    // Found by the scrub within the test, not in some hours.
    config.scrub_bytes_per_second = 64 << 20;
    config
}

/// A command and where it was told to be.
type Told = (Slot, Vec<u8>);

/// Three nodes with some commands, one a body; and all of them ended in order.
fn filled(root: &Path) -> (Vec<PathBuf>, Vec<SocketAddr>, Vec<Told>) {
    let (directories, listens) = (make_cluster(root, 3, SEGMENT_BYTES), free_addresses(3));
    let mut nodes: Vec<Node> =
        (1..=3).map(|node| Node::start(config(&directories, &listens, node)).expect("a sound node starts")).collect();
    let logs: Vec<Log> = nodes.iter().map(Node::log).collect();
    let told = (0..COMMANDS).map(|number| append(&logs, number)).collect();
    let end = logs.iter().map(|log| log.status().mark.slot).max();
    wait_for("everybody to have everything", PATIENCE, || {
        logs.iter().all(|log| Some(log.status().stable) >= end).then_some(())
    });
    nodes.iter_mut().for_each(|node| node.shutdown().expect("an orderly end"));
    (directories, listens, told)
}

fn append(logs: &[Log], number: u64) -> Told {
    let command = format!("command {number} {}", "x".repeat(2000)).into_bytes();
    let slot = wait_for("a leader", PATIENCE, || {
        let leader = logs.iter().find(|log| log.status().role == Role::Leader)?;
        leader.append_blocking(command.clone()).ok()
    });
    (slot, command)
}

fn recovered(directory: &Path) -> RecoveredLog {
    let identity = directory::read_identity(directory).expect("a store");
    let store = DirectoryStore::new(directory::log_path(directory, 0));
    let expected = identity.log_identity(0).expect("bootstrapped").expected();
    recover(&store, &expected, identity.segment_bytes).expect("it opens")
}

/// Overwrites a few bytes of a segment file.
fn spoil(directory: &Path, file: synod_wal::FileId, offset: u64) {
    let path = directory::log_path(directory, 0).join(file.file_name());
    let file = OpenOptions::new().write(true).open(path).expect("a segment file");
    file.write_all_at(b"rotten to the core", offset).expect("it can be written");
}

fn start_all(directories: &[PathBuf], listens: &[SocketAddr]) -> (Vec<Node>, Vec<Log>) {
    let start = |node| Node::start(config(directories, listens, node)).expect("a damaged node starts");
    let nodes: Vec<Node> = (1..=3).map(start).collect();
    let logs = nodes.iter().map(Node::log).collect();
    (nodes, logs)
}

/// Every command is where it was told to be, at that node.
fn holds(log: &Log, told: &[Told]) {
    for (slot, command) in told {
        let mut reader = log.reader(*slot);
        let ReadItem::Body(body) = reader.next_blocking().expect("it can be read") else {
            panic!("slot {slot} is gone")
        };
        let commands = body.commands().expect("a body of commands");
        let index = (slot.0 - body.handle().first.0) as u32;
        assert_eq!(commands.get(index).expect("valid"), command.as_slice(), "slot {slot}");
    }
}

#[test]
fn rotten_bodies_are_healed_from_the_other_members() {
    let root = temporary_directory();
    let (directories, listens, mut told) = filled(root.path());
    // A different third of the bodies rots on each disk, and a header on one.
    for (node, directory) in directories.iter().enumerate() {
        let log = recovered(directory);
        let bodies: Vec<_> = log.index.iter_from(Slot::FIRST).collect();
        for entry in bodies.iter().skip(node).step_by(3) {
            spoil(directory, entry.location.file, entry.location.offset + 1500);
        }
    }
    let log = recovered(&directories[0]);
    let first = &log.segments[0];
    spoil(&directories[0], first.file, 100);
    let lost: Vec<usize> = directories.iter().map(|directory| recovered(directory).damaged.len()).collect();
    assert!(lost.iter().all(|lost| *lost > 5), "{lost:?}");

    let (nodes, logs) = start_all(&directories, &listens);
    told.push(append(&logs, COMMANDS));
    for (log, lost) in logs.iter().zip(&lost) {
        let healed = wait_for("the log to heal", PATIENCE, || {
            let damage = log.status().damage;
            (damage.lost == 0 && damage.healed as usize >= *lost && damage.doubts == 0).then_some(damage)
        });
        assert!(healed.found > 0 && !healed.unsure, "{healed:?}");
        wait_for("the news", PATIENCE, || (log.status().mark.slot > told.last()?.0).then_some(()));
        holds(log, &told);
    }
    drop(logs);
    drop(nodes);
    assert!(directories.iter().all(|directory| recovered(directory).damaged.is_empty()), "what is healed stays so");
}

#[test]
fn a_rotten_tail_costs_no_promise() {
    let root = temporary_directory();
    let (directories, listens, mut told) = filled(root.path());
    // The last records of one node: nobody can tell what they were.
    let log = recovered(&directories[2]);
    let last = log.segments.last().expect("a segment");
    let end = log.end.offset(SEGMENT_BYTES);
    for block in 1..=3 {
        spoil(&directories[2], last.file, end - block * BLOCK);
    }
    let log = recovered(&directories[2]);
    assert!(log.unsure && log.end_lost, "{:?}", log.damages);

    let (mut nodes, logs) = start_all(&directories, &listens);
    let sure = |log: &Log| {
        let damage = log.status().damage;
        (!damage.unsure && damage.doubts == 0).then_some(())
    };
    wait_for("the damaged node to vote again", PATIENCE, || sure(&logs[2]));
    told.push(append(&logs, COMMANDS));
    // Its vote counts: with one of the others gone it makes the quorum.
    nodes[0].shutdown().expect("an orderly end");
    let others = [logs[1].clone(), logs[2].clone()];
    told.push(append(&others, COMMANDS + 1));
    wait_for("the news", PATIENCE, || (logs[2].status().mark.slot > told.last()?.0).then_some(()));
    holds(&logs[2], &told);
}

#[test]
fn the_scrub_finds_what_rots_while_a_node_runs() {
    let root = temporary_directory();
    let (directories, listens, told) = filled(root.path());
    let (_nodes, logs) = start_all(&directories, &listens);
    wait_for("a leader", PATIENCE, || logs.iter().find(|log| log.status().role == Role::Leader).map(|_| ()));
    let log = recovered(&directories[1]);
    let entry = *log.index.get(told[3].0).expect("a body of its own");
    spoil(&directories[1], entry.location.file, entry.location.offset + 1500);
    wait_for("the scrub", PATIENCE, || {
        let damage = logs[1].status().damage;
        (damage.found > 0 && damage.healed > 0 && damage.lost == 0).then_some(())
    });
    holds(&logs[1], &told);
}
