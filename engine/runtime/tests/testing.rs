//! The cluster in one process and its faults.

mod common;

use std::time::Duration;

use common::wait_for;
use synod::testing::Cluster;
use synod::{AppendError, Entry, Log, NodeId, ReadItem, Role, Slot};

const PATIENCE: Duration = Duration::from_secs(20);

fn commands(log: &Log) -> Vec<Vec<u8>> {
    let end = log.status().mark.slot;
    let mut reader = log.reader(Slot::FIRST);
    let mut found = Vec::new();
    while reader.position() < end {
        let ReadItem::Body(body) = reader.next_blocking().expect("it serves") else { panic!("nothing was trimmed") };
        let Ok(entries) = body.entries() else { continue };
        for entry in entries {
            if let Entry::Command { command, .. } = entry.expect("a valid command") {
                found.push(command.to_vec());
            }
        }
    }
    found
}

/// Appends until it is chosen, at whoever leads; a command whose outcome is unknown is looked for first.
fn append(cluster: &Cluster, command: &[u8]) {
    loop {
        let log = cluster.log(cluster.wait_for_leader());
        match log.append_blocking(command) {
            Ok(_) => return,
            Err(error) if error.is_certain() => {}
            Err(_) => {
                cluster.wait_until_level();
                let log = cluster.log(cluster.wait_for_leader());
                if commands(&log).iter().any(|found| found == command) {
                    return;
                }
            }
        }
    }
}

#[test]
fn no_ring_is_needed() {
    let cluster = Cluster::start(1).expect("it starts");
    append(&cluster, b"one");
    let mut links = std::fs::read_dir("/proc/self/fd").expect("proc is mounted").flatten();
    // Other tests of this file share the process, and they need none either.
    let ring = links.find_map(|entry| {
        let target = std::fs::read_link(entry.path()).ok()?;
        target.to_string_lossy().contains("io_uring").then_some(target)
    });
    assert_eq!(ring, None);
}

#[test]
fn crashes_of_each_node_in_turn_lose_nothing() {
    let cluster = Cluster::start(3).expect("it starts");
    let mut expected = Vec::new();
    for (round, node) in [NodeId(1), NodeId(2), NodeId(3)].into_iter().cycle().take(9).enumerate() {
        for step in 0..10 {
            let command = format!("{round} {step}").into_bytes();
            append(&cluster, &command);
            expected.push(command);
        }
        cluster.crash(node);
        append(&cluster, format!("without {node}").as_bytes());
        expected.push(format!("without {node}").into_bytes());
        cluster.restart(node).expect("it starts again");
    }
    append(&cluster, b"last");
    expected.push(b"last".to_vec());
    cluster.wait_until_level();
    for node in cluster.nodes() {
        assert_eq!(commands(&cluster.log(*node)), expected, "{node}");
    }
}

#[test]
fn a_minority_stops_and_catches_up() {
    let cluster = Cluster::start(3).expect("it starts");
    append(&cluster, b"one");
    let old = cluster.wait_for_leader();
    let lone = cluster.log(old);
    cluster.isolate(old);
    append(&cluster, b"two");
    assert_ne!(cluster.wait_for_leader(), old);
    // It steps down for want of a quorum, and says so.
    lone.watch().wait_for_blocking(|status| status.role != Role::Leader).expect("it runs");
    let refused = lone.append_blocking(b"lost").expect_err("there is no quorum");
    assert!(matches!(refused, AppendError::NoLeader | AppendError::NotLeader { .. }), "{refused}");
    assert!(lone.barrier_blocking().is_err(), "no read passes for fresh there");
    cluster.heal();
    append(&cluster, b"three");
    cluster.wait_until_level();
    assert_eq!(commands(&lone), [b"one".to_vec(), b"two".to_vec(), b"three".to_vec()]);
}

#[test]
fn slow_and_failing_disks() {
    let cluster = Cluster::start(3).expect("it starts");
    append(&cluster, b"one");
    let leader = cluster.wait_for_leader();
    let follower = *cluster.nodes().iter().find(|node| **node != leader).expect("three nodes");
    cluster.slow_disk(follower, Duration::from_millis(50));
    append(&cluster, b"two");
    cluster.slow_disk(follower, Duration::ZERO);
    cluster.fail_disk(follower, true);
    append(&cluster, b"three");
    let fenced = cluster.log(follower);
    wait_for("a fenced node", PATIENCE, || fenced.status().stopped);
    assert_eq!(fenced.append_blocking(b"x"), Err(AppendError::Poisoned));
    cluster.crash(follower);
    cluster.fail_disk(follower, false);
    cluster.restart(follower).expect("it starts again");
    cluster.wait_until_level();
    assert_eq!(commands(&cluster.log(follower)).len(), 3);
}

#[test]
fn one_lying_disk_of_three_is_made_good_by_the_others() {
    let cluster = Cluster::start(3).expect("it starts");
    append(&cluster, b"one");
    let leader = cluster.wait_for_leader();
    let liar = *cluster.nodes().iter().find(|node| **node != leader).expect("three nodes");
    cluster.wait_until_level();
    cluster.lose_syncs(liar, true);
    for _ in 0..50 {
        append(&cluster, b"more");
    }
    cluster.wait_until_level();
    let before = cluster.log(liar).status().stable;
    cluster.crash(liar);
    cluster.lose_syncs(liar, false);
    cluster.restart(liar).expect("it starts again");
    assert!(cluster.log(liar).status().mark.slot < before, "it has forgotten what it called durable");
    cluster.wait_until_level();
    assert_eq!(commands(&cluster.log(liar)).len(), 51);
}
