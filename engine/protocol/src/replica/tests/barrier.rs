//! Barriers: reads that are never stale, asked of any replica, confirmed by a quorum after the question.

use std::time::Duration;

use super::cluster::{Cluster, ballot, is, is_to, n, refusals, s};
use crate::config::Configuration;
use crate::effect::{BarrierId, BarrierOutcome};
use crate::limits::BARRIERS_MAX;
use crate::message::{Message, RejectReason};
use crate::replica::{BarrierError, Role};

/// Leader 1 of three, whom all follow, with three chosen slots.
fn settled() -> Cluster {
    let mut cluster = Cluster::new(3);
    cluster.elect(n(1));
    cluster.commit(n(1), 3);
    cluster
}

#[test]
fn a_barrier_at_the_leader_waits_for_answers_to_a_heartbeat_sent_after_it() {
    let mut cluster = settled();
    cluster.run(Duration::from_millis(90));
    cluster.isolate(n(3));
    // An answer from before the barrier proves nothing about now.
    let before = cluster.sent("Heartbeat");
    let barrier = cluster.barrier(n(1)).expect("it leads");
    assert_eq!(cluster.node(n(1)).barriers, []);
    assert_eq!(cluster.sent("Heartbeat"), before + 2, "it asks at once");
    cluster.deliver_all();
    assert_eq!(cluster.node(n(1)).barriers, [(barrier, BarrierOutcome::Reached(s(4)))]);
}

#[test]
fn barriers_that_come_meanwhile_share_the_next_confirmation() {
    let mut cluster = settled();
    let before = cluster.sent("Heartbeat");
    let barriers: Vec<BarrierId> = (0..10).map(|_| cluster.barrier(n(1)).expect("it leads")).collect();
    cluster.deliver_all();
    let ended: Vec<BarrierId> = cluster.node(n(1)).barriers.iter().map(|(id, _)| *id).collect();
    assert_eq!(ended, barriers, "in order");
    assert_eq!(cluster.sent("Heartbeat") - before, 4, "two rounds for ten: one for the first, one for the others");
}

#[test]
fn a_follower_asks_the_leader_and_waits_for_delivery() {
    let mut cluster = settled();
    let news = cluster.propose(n(1), 1);
    let votes = |cluster: &mut Cluster| {
        for kind in ["Accept", "Accepted"] {
            for packet in cluster.take(is(kind)) {
                if packet.from == n(2) || packet.to == n(2) {
                    cluster.deliver(packet);
                }
            }
        }
    };
    votes(&mut cluster);
    assert_eq!(cluster.mark(n(1)).slot, news.end(), "chosen, and node 3 hasn't heard of it");
    cluster.take(|packet| packet.to == n(3));
    let barrier = cluster.barrier(n(3)).expect("it follows");
    for kind in ["AskReadPoint", "Heartbeat", "HeartbeatReply"] {
        for packet in cluster.take(|packet| is(kind)(packet) && packet.to != n(3)) {
            cluster.deliver(packet);
        }
    }
    for packet in cluster.take(is_to("ReadPoint", n(3))) {
        cluster.deliver(packet);
    }
    assert_eq!(cluster.node(n(3)).barriers, [], "it has a read point, and not the body");
    cluster.run(Duration::from_millis(500));
    assert_eq!(cluster.node(n(3)).barriers, [(barrier, BarrierOutcome::Reached(s(5)))]);
}

#[test]
fn a_deposed_leader_confirms_nothing() {
    let mut cluster = settled();
    cluster.isolate(n(1));
    let barrier = cluster.barrier(n(1)).expect("it can't know yet");
    cluster.elect(n(2));
    cluster.commit(n(2), 1);
    cluster.deliver_all();
    assert_eq!(cluster.node(n(1)).barriers, [], "what node 2 has committed would be missed");
    cluster.run(Duration::from_secs(3));
    assert_eq!(cluster.node(n(1)).barriers, [(barrier, BarrierOutcome::Lost)], "no leader is a clear answer");
    assert_eq!(cluster.barrier(n(1)), Err(BarrierError::NoLeader));
    cluster.heal();
    cluster.run(Duration::from_secs(1));
    let barrier = cluster.barrier(n(1)).expect("it follows");
    cluster.run(Duration::from_millis(50));
    assert_eq!(cluster.node(n(1)).barriers.last(), Some(&(barrier, BarrierOutcome::Reached(s(5)))));
}

#[test]
fn a_barrier_outlives_a_change_of_leaders() {
    let mut cluster = settled();
    cluster.isolate(n(1));
    let barrier = cluster.barrier(n(3)).expect("it can't know yet");
    cluster.elect(n(2));
    cluster.deliver_all();
    cluster.run(cluster.settings().retransmit_interval * 2);
    assert_eq!(cluster.node(n(3)).barriers, [(barrier, BarrierOutcome::Reached(s(4)))], "the new leader was asked");
}

#[test]
fn a_read_point_covers_what_phase_one_recovered() {
    let mut cluster = settled();
    let body = cluster.propose(n(1), 1);
    for packet in cluster.take(is_to("Accept", n(2))) {
        cluster.deliver(packet);
    }
    for packet in cluster.take(is_to("Accepted", n(1))) {
        cluster.deliver(packet);
    }
    assert_eq!(cluster.mark(n(1)).slot, body.end(), "chosen, acknowledged, and only node 1 knows");
    cluster.network.clear();
    cluster.isolate(n(1));
    cluster.elect(n(2));
    let barrier = cluster.barrier(n(2)).expect("it leads");
    cluster.deliver_all();
    assert_eq!(cluster.node(n(2)).barriers, [(barrier, BarrierOutcome::Reached(body.end()))]);
}

#[test]
fn lost_questions_and_answers_are_asked_for_again() {
    for lost in ["AskReadPoint", "Heartbeat", "HeartbeatReply", "ReadPoint"] {
        let mut cluster = settled();
        let barrier = cluster.barrier(n(3)).expect("it follows");
        for kind in ["AskReadPoint", "Heartbeat", "HeartbeatReply", "ReadPoint"] {
            let packets = cluster.take(is(kind));
            if kind == lost {
                break;
            }
            packets.into_iter().for_each(|packet| cluster.deliver(packet));
        }
        cluster.network.clear();
        assert_eq!(cluster.node(n(3)).barriers, []);
        cluster.run(cluster.settings().retransmit_interval * 2);
        assert_eq!(cluster.node(n(3)).barriers, [(barrier, BarrierOutcome::Reached(s(4)))], "{lost}");
    }
}

#[test]
fn an_answer_to_an_earlier_life_proves_nothing() {
    let mut cluster = settled();
    cluster.barrier(n(3)).expect("it follows");
    cluster.run(Duration::from_millis(20));
    let boot = cluster.replica(n(3)).boot;
    cluster.crash(n(3), 0);
    cluster.restart(n(3));
    cluster.run(Duration::from_millis(300));
    cluster.node_mut(n(3)).barriers.clear();
    let barrier = cluster.barrier(n(3)).expect("it follows");
    cluster.inject(n(1), n(3), Message::ReadPoint { boot, number: barrier.0, slot: s(1) });
    assert_eq!(cluster.node(n(3)).barriers, []);
    cluster.run(Duration::from_millis(50));
    assert_eq!(cluster.node(n(3)).barriers, [(barrier, BarrierOutcome::Reached(s(4)))]);
}

#[test]
fn who_does_not_lead_says_so_and_the_question_is_lost() {
    let mut cluster = settled();
    let led = cluster.replica(n(1)).promised();
    cluster.inject(n(3), n(2), Message::AskReadPoint { ballot: led, boot: 1, number: 1 });
    assert_eq!(refusals(&cluster.take(is_to("Reject", n(3)))), [RejectReason::NotLeader]);
    let barrier = cluster.barrier(n(3)).expect("it follows");
    let reject = |ballot| Message::Reject { ballot, reason: RejectReason::NotLeader };
    cluster.inject(n(2), n(3), reject(led));
    assert_eq!(cluster.node(n(3)).barriers, [], "node 2 wasn't asked");
    cluster.inject(n(1), n(3), reject(ballot(1, 1)));
    assert_eq!(cluster.node(n(3)).barriers, [], "an old refusal, of another ballot");
    cluster.inject(n(1), n(3), reject(led));
    assert_eq!(cluster.node(n(3)).barriers, [(barrier, BarrierOutcome::Lost)]);
}

#[test]
fn a_single_node_and_an_accept_quorum_of_one_confirm_by_themselves() {
    let mut cluster = Cluster::new(1);
    cluster.elect(n(1));
    let barrier = cluster.barrier(n(1)).expect("it leads");
    assert_eq!(cluster.node(n(1)).barriers, [(barrier, BarrierOutcome::Reached(s(1)))]);

    let majority = Configuration::genesis((1..=3).map(n).collect(), 100).expect("a sound genesis");
    let genesis = Configuration { prepare_quorum: 3, accept_quorum: 1, ..majority };
    let mut cluster = Cluster::ruled_by(genesis, crate::Settings::default(), 1);
    cluster.elect(n(1));
    let barrier = cluster.barrier(n(1)).expect("it leads");
    assert_eq!(
        cluster.node(n(1)).barriers,
        [(barrier, BarrierOutcome::Reached(s(1)))],
        "nobody leads without its vote"
    );
}

#[test]
fn barriers_are_bounded_and_a_node_without_a_leader_begins_none() {
    let mut cluster = Cluster::new(3);
    assert_eq!(cluster.barrier(n(1)), Err(BarrierError::NoLeader));
    cluster.elect(n(1));
    cluster.isolate(n(1));
    for _ in 0..BARRIERS_MAX {
        cluster.barrier(n(1)).expect("there is room");
    }
    assert_eq!(cluster.barrier(n(1)), Err(BarrierError::Overloaded));
    cluster.run(Duration::from_secs(3));
    assert_ne!(cluster.role(n(1)), Role::Leader);
    assert_eq!(cluster.node(n(1)).barriers.len(), BARRIERS_MAX, "every one of them has ended");
}

#[test]
fn a_read_point_is_chosen() {
    let mut cluster = settled();
    // Node 2 leads, adopts a body that only node 1 had accepted, and asks itself for a read point while it is open.
    cluster.isolate(n(1));
    let body = cluster.propose(n(1), 1);
    cluster.crash(n(1), 0);
    cluster.restart(n(1));
    cluster.heal();
    cluster.isolate(n(3));
    for _ in 0..30 {
        cluster.now = cluster.now.max(cluster.replica(n(2)).poll_deadline());
        cluster.time_out(n(2));
        while let Some(packet) = cluster.network.pop_front() {
            if !is("Accept")(&packet) {
                cluster.deliver(packet);
            }
        }
        if cluster.replica(n(2)).accepted().any(|report| report.body == body) {
            break;
        }
    }
    cluster.barrier(n(2)).expect("it leads");
    while let Some(packet) = cluster.network.pop_front() {
        if !is("Accept")(&packet) {
            cluster.deliver(packet);
        }
    }
    assert_eq!(cluster.node(n(2)).barriers, [], "nobody knows yet whether the body is chosen");
    // The others go on without it, and nothing new comes: the barrier must end all the same.
    cluster.heal();
    cluster.crash(n(1), 0);
    cluster.isolate(n(2));
    cluster.run(Duration::from_secs(3));
    cluster.heal();
    cluster.restart(n(1));
    cluster.run(Duration::from_secs(3));
    assert!(cluster.node(n(2)).reading.is_empty(), "{:?}", cluster.node(n(2)).barriers);
}

#[test]
fn asking_again_takes_nothing_from_what_is_being_confirmed() {
    let mut cluster = settled();
    let (ballot, boot) = (cluster.replica(n(1)).promised(), cluster.replica(n(3)).boot);
    cluster.inject(n(3), n(1), Message::AskReadPoint { ballot, boot, number: 1 });
    let heartbeat = cluster.take(is_to("Heartbeat", n(2))).remove(0);
    // Its answer takes longer than node 3 waits: were the first question forgotten, none would ever be answered.
    cluster.inject(n(3), n(1), Message::AskReadPoint { ballot, boot, number: 2 });
    cluster.network.clear();
    cluster.deliver(heartbeat);
    for reply in cluster.take(is_to("HeartbeatReply", n(1))) {
        cluster.deliver(reply);
    }
    let answers = cluster.take(is_to("ReadPoint", n(3))).into_iter().map(|packet| packet.message);
    assert_eq!(answers.collect::<Vec<_>>(), [Message::ReadPoint { boot, number: 1, slot: s(4) }]);
    cluster.deliver_all();
}
