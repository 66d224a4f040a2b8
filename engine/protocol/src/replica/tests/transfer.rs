//! Handing the leadership over: to a target that keeps pace, or not at all.

use std::time::Duration;

use super::cluster::{Cluster, Disk, is, is_to, n};
use crate::body::BodyKind;
use crate::effect::TransferOutcome;
use crate::message::Message;
use crate::replica::{Role, TransferError};

/// Leader 1 of three, whom all follow, with three chosen slots that all have.
fn settled() -> Cluster {
    let mut cluster = Cluster::new(3);
    cluster.elect(n(1));
    cluster.commit(n(1), 3);
    cluster.run(Duration::from_millis(200));
    cluster
}

#[test]
fn the_target_leads_after_one_exchange_and_without_a_pre_vote() {
    let mut cluster = settled();
    let (old, asked) = (cluster.replica(n(1)).promised(), cluster.sent("PreVote"));
    cluster.transfer(n(1), n(2)).expect("node 2 keeps pace");
    assert_eq!(cluster.opening(n(1)), None, "nothing new is proposed meanwhile");
    assert_eq!(cluster.replica(n(1)).status().transfer, Some(n(2)));
    let now = cluster.now;
    cluster.deliver_all();
    assert_eq!((cluster.leader(), cluster.now), (Some(n(2)), now), "no time passes");
    assert_eq!(cluster.sent("PreVote"), asked);
    assert!(cluster.replica(n(2)).promised() > old);
    assert_eq!(cluster.node(n(1)).transfers, [(n(2), TransferOutcome::Gone)]);
    cluster.commit(n(2), 1);
}

#[test]
fn what_is_open_is_closed_before_the_target_takes_over() {
    let mut cluster = settled();
    let open = cluster.propose(n(1), 2);
    cluster.take(is("Accept"));
    cluster.transfer(n(1), n(2)).expect("node 2 keeps pace");
    cluster.deliver_all();
    assert_eq!(cluster.role(n(1)), Role::Leader, "the body is still open");
    cluster.run(cluster.settings().retransmit_interval * 2);
    assert_eq!(cluster.leader(), Some(n(2)));
    let log = cluster.delivered(n(2));
    assert_eq!(log.last(), Some(&open), "nothing was lost, and nothing had to be recovered");
    assert!(log.iter().all(|body| body.kind == BodyKind::Commands));
}

#[test]
fn a_target_that_could_not_take_over_is_refused() {
    let mut cluster = settled();
    assert_eq!(cluster.transfer(n(2), n(3)), Err(TransferError::NotLeader));
    assert_eq!(cluster.transfer(n(1), n(1)), Err(TransferError::LeadsAlready(n(1))));
    assert_eq!(cluster.transfer(n(1), n(9)), Err(TransferError::NotMember(n(9))));

    cluster.isolate(n(3));
    cluster.run(cluster.settings().election_timeout);
    assert_eq!(cluster.transfer(n(1), n(3)), Err(TransferError::Silent(n(3))));

    // It answers, but lacks what it was told of.
    for _ in 0..5 {
        cluster.commit(n(1), 1);
    }
    cluster.heal();
    cluster.run(cluster.settings().heartbeat_interval);
    for packet in cluster.take(is_to("Fetch", n(1))) {
        drop(packet);
    }
    cluster.now = cluster.replica(n(1)).poll_deadline();
    cluster.time_out(n(1));
    for packet in cluster.take(is_to("Heartbeat", n(3))) {
        cluster.deliver(packet);
    }
    for packet in cluster.take(is_to("HeartbeatReply", n(1))) {
        cluster.deliver(packet);
    }
    assert_eq!(cluster.transfer(n(1), n(3)), Err(TransferError::Lagging { target: n(3), slots: 5 }));
    cluster.transfer(n(1), n(2)).expect("node 2 keeps pace");
    assert_eq!(cluster.transfer(n(1), n(3)), Err(TransferError::UnderWay(n(2))));
}

#[test]
fn a_recovering_leader_hands_nothing_over() {
    let mut cluster = settled();
    cluster.isolate(n(3));
    let body = cluster.propose(n(1), 1);
    for packet in cluster.take(is_to("Accept", n(2))) {
        cluster.deliver(packet);
    }
    cluster.network.clear();
    cluster.heal();
    cluster.isolate(n(1));
    // Node 3 learns from the promise of node 2 that the body may be chosen, and doesn't get its bytes.
    for _ in 0..30 {
        cluster.now = cluster.now.max(cluster.replica(n(3)).poll_deadline());
        cluster.time_out(n(3));
        while let Some(packet) = cluster.network.pop_front() {
            if !is("Supply")(&packet) {
                cluster.deliver(packet);
            }
        }
        if cluster.role(n(3)) == Role::Recovering {
            break;
        }
    }
    assert_eq!(cluster.transfer(n(3), n(2)), Err(TransferError::Recovering), "{body:?}");
}

#[test]
fn a_target_that_does_not_take_over_costs_one_timeout() {
    let mut cluster = settled();
    let old = cluster.replica(n(1)).promised();
    cluster.transfer(n(1), n(2)).expect("node 2 keeps pace");
    cluster.take(is_to("Heartbeat", n(2)));
    cluster.isolate(n(2));
    cluster.run(cluster.settings().election_timeout);
    assert_eq!(cluster.node(n(1)).transfers, [(n(2), TransferOutcome::RolledBack)]);
    assert_eq!((cluster.leader(), cluster.replica(n(1)).promised()), (Some(n(1)), old), "the same leadership goes on");
    cluster.commit(n(1), 1);

    // The same if it hears the request, and its disk doesn't take the promise.
    cluster.heal();
    cluster.run(Duration::from_secs(1));
    cluster.node_mut(n(2)).disk = Disk::WhenTold;
    cluster.transfer(n(1), n(2)).expect("node 2 keeps pace");
    cluster.run(cluster.settings().election_timeout * 4);
    let leader = cluster.leader().expect("one of the others");
    assert_ne!(leader, n(2));
    cluster.commit(leader, 1);
}

#[test]
fn an_old_request_moves_nobody() {
    let mut cluster = settled();
    cluster.transfer(n(1), n(2)).expect("node 2 keeps pace");
    for kind in ["Heartbeat", "HeartbeatReply"] {
        for packet in cluster.take(is(kind)) {
            cluster.deliver(packet);
        }
    }
    let request = cluster.take(is("HandOver")).remove(0);
    let Message::HandOver { ballot, .. } = request.message else { unreachable!("taken by kind") };
    cluster.network.clear();
    cluster.isolate(n(2));
    cluster.run(cluster.settings().election_timeout);
    cluster.heal();
    cluster.run(Duration::from_secs(1));
    let elected = cluster.replica(n(1)).promised();
    assert_eq!(ballot, elected, "the transfer was rolled back");
    cluster.deliver(request);
    cluster.inject(n(3), n(2), Message::HandOver { ballot, beat: cluster.replica(n(2)).leader_beat });
    assert_eq!((cluster.role(n(2)), cluster.replica(n(2)).promised()), (Role::Follower, elected));
}
