//! Full disks: nothing new is proposed where too few have room, a full leader hands over, and a trim still gets through.

use std::time::Duration;

use super::cluster::{Cluster, is, n, s};
use crate::body::BodyKind;
use crate::message::{Message, RejectReason};
use crate::replica::Role;

/// Leader 1 of three, whom all follow, with three chosen slots that all have.
fn settled() -> Cluster {
    let mut cluster = Cluster::new(3);
    cluster.elect(n(1));
    for _ in 0..3 {
        cluster.commit(n(1), 1);
    }
    beat(&mut cluster);
    cluster
}

/// Long enough for a heartbeat and its answers.
fn beat(cluster: &mut Cluster) {
    cluster.run(Duration::from_millis(200));
}

#[test]
fn a_full_leader_hands_over_to_a_follower_that_has_room() {
    let mut cluster = settled();
    cluster.replica_mut(n(1)).set_disk_full(true);
    assert_eq!(cluster.opening(n(1)), None, "no new commands from here on");
    let asked = cluster.sent("PreVote");
    beat(&mut cluster);
    let successor = cluster.leader().expect("somebody leads");
    assert_ne!(successor, n(1));
    assert_eq!(cluster.sent("PreVote"), asked, "nobody had to notice a silence");
    // Two of three have room, and that is a quorum; the full one keeps to its reserve.
    assert!(cluster.opening(successor).is_some());
    cluster.commit(successor, 2);
    beat(&mut cluster);
    assert_eq!(cluster.leader(), Some(successor), "nobody takes it back");
    let full: Vec<bool> = cluster.replica(successor).status().peers.iter().map(|peer| peer.full).collect();
    assert_eq!(full.iter().filter(|full| **full).count(), 1, "{full:?}");
}

#[test]
fn nobody_hands_over_to_whom_it_would_not_help() {
    let mut cluster = settled();
    for id in [1, 2] {
        cluster.replica_mut(n(id)).set_disk_full(true);
    }
    cluster.run(Duration::from_secs(5));
    assert_eq!(cluster.leader(), Some(n(1)), "node 3 alone is no quorum");
    assert_eq!(cluster.sent("HandOver"), 0);
    assert!(cluster.replica(n(1)).is_full());
    for id in [1, 2] {
        cluster.replica_mut(n(id)).set_disk_full(false);
    }
    beat(&mut cluster);
    assert!(cluster.opening(n(1)).is_some(), "it goes on by itself");
}

#[test]
fn a_leader_with_room_proposes_nothing_that_no_quorum_could_take() {
    let mut cluster = settled();
    cluster.replica_mut(n(2)).set_disk_full(true);
    beat(&mut cluster);
    assert!(cluster.opening(n(1)).is_some(), "a quorum has room");
    cluster.replica_mut(n(3)).set_disk_full(true);
    beat(&mut cluster);
    assert_eq!(cluster.opening(n(1)), None);
    assert_eq!(cluster.leader(), Some(n(1)), "it has room itself, and hands over to nobody");
    cluster.replica_mut(n(3)).set_disk_full(false);
    beat(&mut cluster);
    assert!(cluster.opening(n(1)).is_some());
}

#[test]
fn a_refusal_tells_the_leader_before_the_next_heartbeat_does() {
    let mut cluster = settled();
    for id in [2, 3] {
        cluster.replica_mut(n(id)).set_disk_full(true);
    }
    let (first, second) = (cluster.propose(n(1), 1), cluster.propose(n(1), 1));
    cluster.deliver_all();
    assert!(cluster.mark(n(1)).slot > first.first, "what holds up the prefix is taken");
    assert_eq!(cluster.opening(n(1)), None);
    assert_eq!(cluster.mark(n(1)).slot, second.first, "the one behind was refused");
}

#[test]
fn a_disk_that_runs_out_keeps_what_is_left_for_votes() {
    let mut cluster = settled();
    cluster.replica_mut(n(3)).set_disk_full(true);
    cluster.replica_mut(n(3)).set_disk_reserved(true);
    let stood = cluster.mark(n(3)).slot;
    for _ in 0..3 {
        cluster.commit(n(1), 1);
    }
    cluster.run(Duration::from_secs(3));
    assert_eq!(cluster.mark(n(3)).slot, stood, "nothing is taken, and nothing fetched");
    // Its vote is there when it is needed.
    cluster.crash(n(1), 0);
    cluster.run(Duration::from_secs(3));
    assert_eq!(cluster.leader(), Some(n(2)));
    cluster.restart(n(1));
    cluster.replica_mut(n(3)).set_disk_full(false);
    cluster.replica_mut(n(3)).set_disk_reserved(false);
    cluster.run(Duration::from_secs(3));
    assert_eq!(cluster.mark(n(3)), cluster.mark(n(2)), "it goes on by itself");
}

/// Without the exception for what holds up the prefix this stands still for ever: the trim is accepted, but lies behind
/// commands that full followers refuse.
#[test]
fn a_trim_gets_through_behind_commands_that_were_refused() {
    let mut cluster = settled();
    for id in [2, 3] {
        cluster.replica_mut(n(id)).set_disk_full(true);
    }
    let bodies = [1, 1, 1, 1].map(|count| cluster.propose(n(1), count));
    let refused: Vec<_> = cluster.take(is("Accept"));
    for packet in refused {
        cluster.deliver(packet);
    }
    let reasons: Vec<_> = cluster
        .network
        .iter()
        .filter_map(|packet| match packet.message {
            Message::Reject { reason, .. } => Some(reason),
            _ => None,
        })
        .collect();
    assert!(reasons.contains(&RejectReason::DiskFull), "{reasons:?}");
    cluster.replica_mut(n(1)).trim(s(3)).expect("everybody has the first slots");
    cluster.drive(n(1));
    cluster.run(Duration::from_secs(3));
    for id in cluster.ids() {
        let log = cluster.delivered(id);
        assert!(bodies.iter().all(|body| log.contains(body)), "{id} lacks some of {bodies:?}");
        assert_eq!(log.last().map(|body| body.kind), Some(BodyKind::Trim { upto: s(3) }));
    }
    assert_eq!(cluster.role(n(1)), Role::Leader);
}
