//! Three nodes in one process, through the embedding API.

mod common;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use common::{free_addresses, make_cluster, temporary_directory, wait_for};
use futures_lite::future::{block_on, poll_once};
use synod::{
    AppendError, BarrierError, Batch, BodyKind, Config, Log, Node, NodeId, ReadItem, Role, SharedBody, Slot,
    TransferError, TrimError,
};

const PATIENCE: Duration = Duration::from_secs(10);

fn config(directories: &[PathBuf], listens: &[SocketAddr], node: u32) -> Config {
    let own = node as usize - 1;
    let mut config = Config::new(&directories[own], NodeId(node), listens[own]);
    config.peers = (1..).map(NodeId).zip(listens.iter().copied()).filter(|(peer, _)| peer.0 != node).collect();
    config.io_memory_bytes = 16 << 20;
    config
}

/// Reads until the commands up to `end` are there.
fn read_until(log: &Log, end: Slot) -> Vec<SharedBody> {
    let mut reader = log.reader(Slot::FIRST);
    let mut bodies = Vec::new();
    while reader.position() < end {
        match reader.next_blocking().expect("the node serves") {
            ReadItem::Body(body) => {
                let expected = bodies.last().map_or(Slot::FIRST, |last: &SharedBody| last.handle().end());
                assert_eq!(body.handle().first, expected, "bodies follow each other");
                bodies.push(body);
            }
            ReadItem::Trimmed { first } => panic!("nothing is trimmed up to {first}"),
        }
    }
    bodies
}

#[test]
fn a_cluster_commits_reads_trims_and_comes_back() {
    let root = temporary_directory();
    let directories = make_cluster(root.path(), 3, 2 << 20);
    let listens = free_addresses(3);
    let start = |node| Node::start(config(&directories, &listens, node)).expect("the node starts");
    let mut nodes: Vec<Node> = (1..=3).map(start).collect();

    let leader = nodes[0].log().wait_for_leader_blocking(PATIENCE).expect("a leader");
    let leading = wait_for("a leader that knows it", PATIENCE, || {
        nodes.iter().find(|node| node.status().role == Role::Leader).map(Node::log)
    });
    let following = nodes.iter().find(|node| node.status().role == Role::Follower).expect("a follower").log();

    // One command, and a batch, from a thread of no executor.
    let slot = leading.append_blocking(b"first").expect("chosen");
    let batch: Batch = (0..1000u32).map(u32::to_le_bytes).collect();
    let slots = leading.append_batch_blocking(batch.clone()).expect("chosen");
    assert!(slots.start > slot && slots.end == slots.start.plus(1000));
    assert!(leading.status().mark.slot >= slots.end, "a status covers what was acknowledged");

    // A follower says who leads.
    match following.append_blocking(b"elsewhere") {
        Err(AppendError::NotLeader { leader: named, address: Some(_), .. }) => assert_eq!(named, leader),
        other => panic!("{other:?}"),
    }
    assert_eq!(leading.append_batch_blocking(Batch::new()), Err(AppendError::Empty));
    let huge = vec![0; 2 << 20];
    assert!(matches!(leading.append_blocking(&huge), Err(AppendError::TooLarge { .. })));
    let large = vec![7; 700 << 10];
    let large_slot = leading.append_blocking(&large).expect("a large command has a body of its own");

    // Many threads, and a dropped future.
    let appenders: Vec<_> = (0..4u8)
        .map(|thread| {
            let log = leading.clone();
            thread::spawn(move || {
                for number in 0..200u32 {
                    let mut command = vec![thread; 64];
                    command[..4].copy_from_slice(&number.to_le_bytes());
                    log.append_blocking(&command).expect("chosen");
                }
            })
        })
        .collect();
    for appender in appenders {
        appender.join().expect("an appender");
    }
    let dropped = Box::pin(leading.append(b"dropped"));
    drop(dropped);
    let outcome = leading.try_append_batch([b"handed in"].into_iter().collect()).expect("there is room");
    let last = block_on(outcome).expect("chosen");

    // The same on all replicas, in order; and equal chains.
    let logs: Vec<Vec<SharedBody>> = nodes.iter().map(|node| read_until(&node.log(), last.end)).collect();
    for log in &logs {
        assert_eq!(log.len(), logs[0].len());
        assert!(log.iter().zip(&logs[0]).all(|(one, other)| one.bytes() == other.bytes()));
    }
    let commands = common::commands(&logs[0]);
    let at = |slot: Slot| commands.iter().find(|(other, _)| *other == slot).map(|(_, command)| command.as_slice());
    assert_eq!(at(slot), Some(&b"first"[..]));
    assert_eq!(at(slots.start.plus(999)), Some(&999u32.to_le_bytes()[..]));
    assert_eq!(at(large_slot), Some(large.as_slice()));
    assert_eq!(at(last.start), Some(&b"handed in"[..]));
    for thread in 0..4u8 {
        let numbers: Vec<u32> = commands
            .iter()
            .filter(|(_, command)| command.len() == 64 && command[4..].iter().all(|byte| *byte == thread))
            .map(|(_, command)| u32::from_le_bytes(command[..4].try_into().unwrap()))
            .collect();
        assert_eq!(numbers, (0..200).collect::<Vec<_>>(), "one thread's commands stay in order");
    }
    assert!(
        logs[0].iter().all(|body| body.handle().kind == BodyKind::Commands || body.handle().kind == BodyKind::NoOp)
    );
    let marks: Vec<_> = nodes.iter().map(|node| node.log().mark_at_blocking(last.end)).collect();
    assert!(marks[0].is_some() && marks.iter().all(|mark| *mark == marks[0]), "{marks:?}");

    // A reader at the tail waits, and a dropped wait loses nothing.
    let mut tail = following.reader(last.end);
    assert!(block_on(poll_once(tail.next())).is_none());
    let more = leading.append_blocking(b"more").expect("chosen");
    match tail.next_blocking().expect("the node serves") {
        ReadItem::Body(body) => assert_eq!(body.handle().first, more),
        other => panic!("{other:?}"),
    }

    // A trim is agreed by all, once all have it durably.
    assert!(matches!(following.trim_blocking(more), Err(TrimError::NotLeader { .. })));
    let base = wait_for("a trim", PATIENCE, || leading.trim_blocking(slots.end).ok());
    assert!(base <= slots.end && base > Slot::FIRST);
    for node in &nodes {
        wait_for("the trim everywhere", PATIENCE, || (node.status().base > Slot::FIRST).then_some(()));
        let mut reader = node.log().reader(Slot::FIRST);
        assert!(matches!(reader.next_blocking(), Ok(ReadItem::Trimmed { first }) if first == node.status().base));
    }

    // Everything survives an orderly restart of all.
    let mark = leading.status().mark;
    for node in &mut nodes {
        node.shutdown().expect("it ends in order");
    }
    assert_eq!(leading.append_blocking(b"late"), Err(AppendError::Shutdown));
    drop(nodes);
    let nodes: Vec<Node> = (1..=3).map(start).collect();
    for node in &nodes {
        wait_for("the log", PATIENCE, || (node.status().mark.slot >= mark.slot).then_some(()));
        assert_eq!(node.log().mark_at_blocking(mark.slot), Some(mark));
    }
}

#[test]
fn barriers_are_never_stale_and_the_leadership_moves_without_loss() {
    let root = temporary_directory();
    let directories = make_cluster(root.path(), 3, 2 << 20);
    let listens = free_addresses(3);
    let start = |node| Node::start(config(&directories, &listens, node)).expect("the node starts");
    let mut nodes: Vec<Node> = (1..=3).map(start).collect();
    // On a busy machine the leadership may move by itself at any time.
    let leads = |node: &NodeId| nodes[node.0 as usize - 1].status().role == Role::Leader;
    let leader = || wait_for("a leader that knows it", PATIENCE, || (1..=3).map(NodeId).find(leads));
    let log = |node: NodeId| nodes[node.0 as usize - 1].log();
    let append = |command: &[u8]| wait_for("an append", PATIENCE, || log(leader()).append_blocking(command).ok());

    // Whatever was acknowledged is there after a barrier, at every node, every time.
    for number in 0..50u32 {
        let slot = append(&number.to_le_bytes());
        for node in (1..=3).map(NodeId) {
            let reached = wait_for("a barrier", PATIENCE, || log(node).barrier_blocking().ok());
            assert!(reached > slot, "{node} reached {reached}, the command is at {slot}");
            assert!(log(node).status().mark.slot >= reached);
        }
    }

    let nobody = wait_for("a leader's refusal", PATIENCE, || {
        let refused = log(leader()).transfer_leadership_blocking(NodeId(9));
        (refused != Err(TransferError::Refused(synod::TransferRefusal::NotLeader))).then_some(refused)
    });
    assert_eq!(nobody, Err(TransferError::Refused(synod::TransferRefusal::NotMember(NodeId(9)))));

    // Commands that are under way while the leadership moves are chosen, or their clients know that they may be.
    let before = leader();
    let appending = log(before);
    let appender = thread::spawn(move || {
        let mut acked = Vec::new();
        loop {
            match appending.append_blocking(b"under way") {
                Ok(slot) => acked.push(slot),
                Err(AppendError::Unknown) => {}
                Err(AppendError::NotLeader { .. } | AppendError::NoLeader) => return acked,
                Err(error) => panic!("{error}"),
            }
        }
    });
    let target = NodeId(before.0 % 3 + 1);
    wait_for("the leadership to move", PATIENCE, || {
        let moved = log(before).transfer_leadership_blocking(target).is_ok();
        (moved || !leads(&before)).then_some(())
    });
    let acked = appender.join().expect("the appender");
    let end = append(b"after");
    let third = NodeId(target.0 % 3 + 1);
    let commands = common::commands(&read_until(&log(third), end.plus(1)));
    for slot in acked {
        assert!(commands.contains(&(slot, b"under way".to_vec())), "{slot} is lost");
    }

    // Without a quorum nobody can promise anything.
    let lonely = nodes.pop().expect("three are left");
    drop(nodes);
    wait_for("a refusal", PATIENCE, || (lonely.log().barrier_blocking() == Err(BarrierError::NoLeader)).then_some(()));
}

#[test]
fn a_leader_that_is_shut_down_leaves_nobody_waiting_for_its_silence() {
    let root = temporary_directory();
    let directories = make_cluster(root.path(), 3, 2 << 20);
    let listens = free_addresses(3);
    let timeout = Duration::from_secs(4);
    let start = |node| {
        let mut config = config(&directories, &listens, node);
        config.settings.election_timeout = timeout;
        Node::start(config).expect("the node starts")
    };
    let mut nodes: Vec<Node> = (1..=3).map(start).collect();
    let leads = |node: &Node| node.status().role == Role::Leader;
    let leader = wait_for("a leader", PATIENCE, || nodes.iter().position(leads));
    let old = nodes[leader].status().node;
    wait_for("all to follow", PATIENCE, || nodes.iter().all(|node| node.status().leader == Some(old)).then_some(()));
    let mut leaving = nodes.remove(leader);
    let left = std::time::Instant::now();
    leaving.shutdown().expect("an orderly end");
    wait_for("another leader", PATIENCE, || nodes.iter().position(leads));
    assert!(left.elapsed() < timeout, "they waited {:?} of {timeout:?}", left.elapsed());
}
