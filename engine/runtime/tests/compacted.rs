//! Nodes on compacted logs: they start, give out what was packed, and feed it to one that lags behind.

mod common;

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use common::{free_addresses, make_cluster, temporary_directory, wait_for};
use synod::{Config, Log, Node, NodeId, ReadItem, Role, SharedBody, Slot};
use synod_wal::directory::{CompactOptions, compact};

const PATIENCE: Duration = Duration::from_secs(20);
const SEGMENT_BYTES: u64 = 2 << 20;

fn start(directories: &[PathBuf], listens: &[SocketAddr], node: u32) -> Node {
    let own = node as usize - 1;
    let mut config = Config::new(&directories[own], NodeId(node), listens[own]);
    config.peers = (1..).map(NodeId).zip(listens.iter().copied()).filter(|(peer, _)| peer.0 != node).collect();
    config.io_memory_bytes = 16 << 20;
    Node::start(config).expect("the node starts")
}

fn leader(nodes: &[Node]) -> Log {
    wait_for("a leader", PATIENCE, || nodes.iter().find(|node| node.status().role == Role::Leader).map(Node::log))
}

/// All commands below `end`, with their slots.
fn read_until(log: &Log, end: Slot) -> Vec<(Slot, Vec<u8>)> {
    let mut reader = log.reader(Slot::FIRST);
    let mut bodies: Vec<SharedBody> = Vec::new();
    while reader.position() < end {
        match reader.next_blocking().expect("the node serves") {
            ReadItem::Body(body) => bodies.push(body),
            ReadItem::Trimmed { first } => panic!("nothing is trimmed up to {first}"),
        }
    }
    common::commands(&bodies)
}

fn append(log: &Log, count: u32) -> Slot {
    let mut last = Slot::FIRST;
    for number in 0..count {
        // One after the other: each is a body of its own.
        last = log.append_blocking([number as u8; 100]).expect("chosen");
    }
    last.plus(1)
}

#[test]
fn a_cluster_goes_on_from_compacted_logs() {
    let root = temporary_directory();
    let directories = make_cluster(root.path(), 3, SEGMENT_BYTES);
    let listens = free_addresses(3);
    let mut nodes: Vec<Node> = (1..=3).map(|node| start(&directories, &listens, node)).collect();
    append(&leader(&nodes), 300);

    // Node 3 misses most of it.
    nodes.pop().expect("three nodes").shutdown().expect("an orderly end");
    let end = wait_for("a leader among two", PATIENCE, || {
        let log = nodes.iter().find(|node| node.status().role == Role::Leader).map(Node::log)?;
        log.append_blocking(b"without the third").is_ok().then(|| append(&log, 1200))
    });
    let before = read_until(&leader(&nodes), end);
    for node in &mut nodes {
        node.shutdown().expect("an orderly end");
    }
    drop(nodes);

    for directory in &directories[..2] {
        let done =
            compact(directory, &CompactOptions::default(), &mut |_| ControlFlow::Continue(())).expect("compacts");
        assert!(done[0].replaced && done[0].built.packed > 1000, "{done:?}");
    }
    let mut nodes: Vec<Node> = (1..=3).map(|node| start(&directories, &listens, node)).collect();
    let end_now = append(&leader(&nodes), 20);
    for node in &nodes {
        let found = read_until(&node.log(), end_now);
        assert_eq!(found[..before.len()], before, "node {:?}", node.status().node);
        assert_eq!(found.len(), before.len() + 20);
    }
    for node in &mut nodes {
        node.shutdown().expect("an orderly end");
    }
}
