//! A log that may not grow: client commands are refused with the reason, a full leader hands over, a restart works, and
//! a trim still gets through and makes room.

mod common;

use std::time::Duration;

use common::{free_addresses, make_cluster, temporary_directory, wait_for};
use synod::{AppendError, Batch, Config, Log, Node, NodeId, Role, Slot};

const PATIENCE: Duration = Duration::from_secs(10);
const SEGMENT_BYTES: u64 = 2 << 20;

/// As many files as `init` makes: none may be added.
const FILES: u32 = 8;

#[test]
fn a_full_log_refuses_commands_and_takes_a_trim() {
    let root = temporary_directory();
    let directories = make_cluster(root.path(), 1, SEGMENT_BYTES);
    let mut config = Config::new(&directories[0], NodeId(1), free_addresses(1)[0]);
    config.pool_files_max = FILES;
    config.io_memory_bytes = 16 << 20;
    let mut node = Node::start(config.clone()).expect("the node starts");
    let log = node.log();
    log.wait_for_leader_blocking(PATIENCE).expect("a leader");

    let batch: Batch = (0..64).map(|_| [7; 1024]).collect();
    let bytes_max = SEGMENT_BYTES * u64::from(FILES);
    let (mut appended, mut last) = (0, Slot::FIRST);
    let refusal = loop {
        match log.append_batch_blocking(batch.clone()) {
            Ok(slots) => (appended, last) = (appended + batch.bytes().len() as u64, slots.end),
            Err(refusal) => break refusal,
        }
        assert!(appended < bytes_max, "more than the files can hold");
    };
    assert_eq!(refusal, AppendError::DiskFull);
    assert!(appended > bytes_max / 3, "only {appended} bytes went into files of {bytes_max}");
    assert_eq!(log.append_blocking(b"still full"), Err(AppendError::DiskFull));
    // The status may be some milliseconds old.
    wait_for("the status", PATIENCE, || log.status().full.then_some(()));

    // A restart needs a segment, and finds one that was kept for it.
    node.shutdown().expect("an orderly end");
    drop(node);
    let mut node = Node::start(config).expect("a full log opens");
    let log = node.log();
    log.wait_for_leader_blocking(PATIENCE).expect("a leader");
    wait_for("the status", PATIENCE, || log.status().full.then_some(()));
    assert_eq!(log.append_blocking(b"still full"), Err(AppendError::DiskFull));

    let trimmed = wait_for("a trim", PATIENCE, || log.trim_blocking(last).ok());
    assert!(trimmed > Slot::FIRST && trimmed <= last);
    let slot = wait_for("room again", PATIENCE, || log.append_blocking(b"room again").ok());
    assert!(slot >= last, "slots go on behind what was there");
    node.shutdown().expect("an orderly end");
}

#[test]
fn a_full_leader_hands_over_to_a_node_with_room() {
    let root = temporary_directory();
    let directories = make_cluster(root.path(), 3, SEGMENT_BYTES);
    let listens = free_addresses(3);
    let nodes: Vec<Node> = (1..=3)
        .map(|node: u32| {
            let own = node as usize - 1;
            let mut config = Config::new(&directories[own], NodeId(node), listens[own]);
            config.peers = (1..).map(NodeId).zip(listens.iter().copied()).filter(|(peer, _)| peer.0 != node).collect();
            config.io_memory_bytes = 16 << 20;
            config.pool_files_max = if node == 1 { FILES } else { 4 * FILES };
            Node::start(config).expect("the node starts")
        })
        .collect();
    let logs: Vec<Log> = nodes.iter().map(Node::log).collect();
    let leads = |log: &Log| log.status().role == Role::Leader;
    wait_for("node 1 to lead", PATIENCE, || {
        let leading = logs.iter().find(|log| leads(log))?;
        // It may be refused, or the target not know yet that it leads: look again.
        let _ = (!leads(&logs[0])).then(|| leading.transfer_leadership_blocking(NodeId(1)));
        leads(&logs[0]).then_some(())
    });

    // More than node 1 has room for, at whoever leads. A refusal says that nothing was appended; nobody loses anything.
    let batch: Batch = (0..64).map(|_| [7; 1024]).collect();
    let wanted = SEGMENT_BYTES * u64::from(FILES) * 5 / 4;
    let mut appended = 0;
    wait_for("more commands than node 1 has room for", 3 * PATIENCE, || {
        let leading = logs.iter().find(|log| leads(log))?;
        match leading.append_batch_blocking(batch.clone()) {
            Ok(_) => appended += batch.bytes().len() as u64,
            Err(
                AppendError::DiskFull | AppendError::NoLeader | AppendError::NotLeader { .. } | AppendError::Unknown,
            ) => {}
            Err(error) => panic!("{error}"),
        }
        (appended >= wanted).then_some(())
    });
    wait_for("node 1 to be full", PATIENCE, || logs[0].status().full.then_some(()));
    assert!(!leads(&logs[0]));
    let told = wait_for("the leader to know", PATIENCE, || {
        let status = logs.iter().find(|log| leads(log))?.status();
        status.peers.iter().find(|peer| peer.node == NodeId(1)).copied()
    });
    assert!(told.full, "{told:?}");
}
