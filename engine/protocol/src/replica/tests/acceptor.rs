//! The acceptor: durability before speech, every refusal with its reason, and positions that nobody checked before.

use super::cluster::{Cluster, Disk, Packet, ballot, body, is, n, refusals, s};
use crate::ballot::Ballot;
use crate::body::{BodyHandle, BodyKind, Chain, Mark};
use crate::config::{Configurations, Settings};
use crate::effect::{Effect, HaltReason, LogEntry};
use crate::limits;
use crate::message::{AcceptedBody, Message, RejectReason};
use crate::replica::Replica;

/// Node 2 of three, which hears only what the test says.
fn acceptor(alpha: u32) -> Cluster {
    Cluster::with(3, alpha, Settings::default(), 1)
}

fn accept(cluster: &mut Cluster, ballot: Ballot, body: BodyHandle, mark: Mark) -> Vec<Packet> {
    cluster.inject(ballot.node, n(2), Message::Accept { ballot, body, mark });
    cluster.take(|_| true)
}

fn accepted(ballot: Ballot, body: BodyHandle) -> Message {
    Message::Accepted { ballot, first: body.first, id: body.id }
}

fn messages(packets: Vec<Packet>) -> Vec<Message> {
    packets.into_iter().map(|packet| packet.message).collect()
}

#[test]
fn an_accept_is_acknowledged_when_it_is_durable_and_not_before() {
    let mut cluster = acceptor(100);
    cluster.node_mut(n(2)).disk = Disk::WhenTold;
    let leader = ballot(3, 1);
    let (first, second) = (body(1, 2, 1), body(3, 1, 2));
    assert_eq!(accept(&mut cluster, leader, first, Mark::START), []);
    assert_eq!(accept(&mut cluster, leader, second, Mark::START), []);
    assert_eq!(accept(&mut cluster, leader, first, Mark::START), [], "a resend is no way around the disk");
    cluster.sync_to(n(2), 1);
    let told = messages(cluster.take(is("Accepted")));
    assert_eq!(told, [accepted(leader, first), accepted(leader, first)]);
    cluster.sync(n(2));
    assert_eq!(messages(cluster.take(is("Accepted"))), [accepted(leader, second)]);
    assert_eq!(messages(accept(&mut cluster, leader, first, Mark::START)), [accepted(leader, first)]);
    assert_eq!(cluster.node(n(2)).log.len(), 2, "a duplicate is written once");
}

#[test]
fn an_accept_implies_the_promise() {
    let mut cluster = acceptor(100);
    accept(&mut cluster, ballot(3, 1), body(1, 1, 1), Mark::START);
    assert_eq!(cluster.replica(n(2)).promised(), ballot(3, 1));
    cluster.crash(n(2), 0);
    cluster.restart(n(2));
    assert_eq!(cluster.replica(n(2)).promised(), ballot(3, 1));
    let told = accept(&mut cluster, ballot(2, 3), body(1, 1, 2), Mark::START);
    assert_eq!(refusals(&told), [RejectReason::HigherBallot { promised: ballot(3, 1) }]);
}

#[test]
fn bodies_are_accepted_in_any_order_and_replaced_by_higher_ballots() {
    let mut cluster = acceptor(100);
    let (low, high) = (ballot(3, 1), ballot(4, 3));
    for body in [body(7, 2, 7), body(1, 2, 1), body(3, 4, 3)] {
        assert_eq!(messages(accept(&mut cluster, low, body, Mark::START)), [accepted(low, body)]);
    }
    // It shares slots with two of the three; both go, whole.
    let newer = body(2, 2, 22);
    accept(&mut cluster, high, newer, Mark::START);
    let left: Vec<AcceptedBody> = cluster.replica(n(2)).accepted().collect();
    let report = |ballot, body| AcceptedBody { ballot, body };
    assert_eq!(left, [report(high, newer), report(low, body(7, 2, 7))]);
    // The same body again, at a ballot of its own: the report must name the higher one.
    accept(&mut cluster, high, body(7, 2, 7), Mark::START);
    let left: Vec<AcceptedBody> = cluster.replica(n(2)).accepted().collect();
    assert_eq!(left, [report(high, newer), report(high, body(7, 2, 7))]);
}

#[test]
fn refuses_what_is_below_the_promise() {
    let mut cluster = acceptor(100);
    cluster.inject(n(3), n(2), Message::Prepare { ballot: ballot(5, 3), from: s(1) });
    cluster.network.clear();
    let higher = [RejectReason::HigherBallot { promised: ballot(5, 3) }];
    assert_eq!(refusals(&accept(&mut cluster, ballot(4, 1), body(1, 1, 1), Mark::START)), higher);
    cluster.inject(n(1), n(2), Message::Prepare { ballot: ballot(5, 1), from: s(1) });
    assert_eq!(refusals(&cluster.take(is("Reject"))), higher, "equal rounds are ordered by node");
    cluster.inject(
        n(1),
        n(2),
        Message::Heartbeat { ballot: ballot(4, 1), mark: Mark::START, beat: 1, recovered: s(0) },
    );
    assert_eq!(refusals(&cluster.take(is("Reject"))), higher, "a deposed leader learns it from its own heartbeat");
    assert_eq!(cluster.replica(n(2)).accepted().count(), 0);
}

#[test]
fn refuses_what_is_chosen_already_and_says_how_far() {
    let mut cluster = acceptor(100);
    let leader = ballot(3, 1);
    let chosen = body(1, 2, 1);
    let mark = Mark::START.after(&chosen);
    accept(&mut cluster, leader, chosen, Mark::START);
    cluster.inject(n(1), n(3), Message::Accept { ballot: leader, body: chosen, mark: Mark::START });
    cluster.network.clear();
    // A quorum has it, and the leader's mark says so.
    accept(&mut cluster, leader, body(3, 1, 2), mark);
    assert_eq!(cluster.delivered(n(2)), [chosen]);
    let already = [RejectReason::AlreadyChosen { mark }];
    assert_eq!(refusals(&accept(&mut cluster, leader, chosen, Mark::START)), already);
    let reaching = body(2, 5, 9);
    assert_eq!(refusals(&accept(&mut cluster, leader, reaching, Mark::START)), already, "even if it reaches beyond");
}

#[test]
fn refuses_what_lies_beyond_alpha_of_the_farther_prefix() {
    let mut cluster = acceptor(10);
    let leader = ballot(3, 1);
    let beyond = |limit| [RejectReason::BeyondAlpha { limit: s(limit) }];
    assert_eq!(refusals(&accept(&mut cluster, leader, body(11, 1, 1), Mark::START)), beyond(11));
    assert_eq!(refusals(&accept(&mut cluster, leader, body(10, 2, 2), Mark::START)), beyond(11));
    assert_eq!(refusals(&accept(&mut cluster, leader, body(10, 1, 3), Mark::START)), []);
    // The leader's own prefix counts: a follower that lags must not hold up a quorum.
    let ahead = Mark { slot: s(8), chain: Chain(8) };
    assert_eq!(refusals(&accept(&mut cluster, leader, body(17, 1, 4), ahead)), []);
    assert_eq!(refusals(&accept(&mut cluster, leader, body(18, 1, 5), ahead)), beyond(18));
}

#[test]
fn a_full_disk_refuses_client_commands_only() {
    let mut cluster = acceptor(100);
    let leader = ballot(3, 1);
    let known = body(1, 1, 1);
    accept(&mut cluster, leader, known, Mark::START);
    cluster.replica_mut(n(2)).set_disk_full(true);
    assert_eq!(refusals(&accept(&mut cluster, leader, body(2, 1, 2), Mark::START)), [RejectReason::DiskFull]);
    assert_eq!(messages(accept(&mut cluster, leader, known, Mark::START)), [accepted(leader, known)], "it is on disk");
    let noop = BodyHandle { kind: BodyKind::NoOp, ..body(2, 2, 3) };
    let trim = BodyHandle { kind: BodyKind::Trim { upto: s(1) }, ..body(4, 1, 4) };
    for body in [noop, trim] {
        assert_eq!(messages(accept(&mut cluster, leader, body, Mark::START)), [accepted(leader, body)]);
    }
    cluster.inject(n(3), n(2), Message::Prepare { ballot: ballot(4, 3), from: s(1) });
    assert_eq!(cluster.take(is("Promise")).len(), 1, "promises are taken as well");
    let again = accept(&mut cluster, ballot(4, 3), known, Mark::START);
    assert_eq!(messages(again), [accepted(ballot(4, 3), known)], "or no new leader could get past what it reports");
    cluster.replica_mut(n(2)).set_disk_full(false);
    let body = body(5, 1, 5);
    assert_eq!(messages(accept(&mut cluster, ballot(4, 3), body, Mark::START)), [accepted(ballot(4, 3), body)]);
}

#[test]
fn a_replica_far_behind_bounds_what_it_takes_above_its_prefix() {
    let configurations =
        Configurations::new(crate::Configuration::genesis(vec![n(1), n(2), n(3)], 1 << 20).expect("a sound genesis"));
    let now = crate::Instant(0);
    let mut replica = Replica::new(n(2), 1, 1, Settings::default(), configurations, super::cluster::nothing(), now);
    let leader = ballot(3, 1);
    let mut offer = |first: u64| {
        let message = Message::Accept { ballot: leader, body: body(first, 1, u128::from(first)), mark: Mark::START };
        replica.handle_message(now, n(1), message);
        let mut reasons = Vec::new();
        while let Some(effect) = replica.poll_effect() {
            match effect {
                Effect::Append(append) => replica.handle_durable(now, append.id),
                Effect::Send { message: Message::Reject { reason, .. }, .. } => reasons.push(reason),
                _ => {}
            }
        }
        reasons
    };
    let most = limits::ACCEPTED_MAX as u64;
    for first in 2..=most + 1 {
        assert_eq!(offer(first), []);
    }
    let retry_after = Settings::default().retransmit_interval;
    assert_eq!(offer(most + 2), [RejectReason::Overloaded { retry_after }]);
    assert_eq!(offer(5), [], "what is there is still acknowledged");
    assert_eq!(offer(1), [], "and what it needs most is taken");
}

#[test]
fn two_bodies_at_one_ballot_and_slot_are_refused_and_halt_the_replica() {
    let mut cluster = acceptor(100);
    let leader = ballot(3, 1);
    accept(&mut cluster, leader, body(4, 3, 1), Mark::START);
    let log = cluster.node(n(2)).log.len();
    let told = accept(&mut cluster, leader, body(2, 3, 2), Mark::START);
    assert_eq!(refusals(&told), [RejectReason::BallotConflict { first: s(4) }]);
    assert_eq!(cluster.node(n(2)).halted, Some(HaltReason::BallotConflict { slot: s(4), ballot: leader }));
    assert_eq!(cluster.node(n(2)).log.len(), log, "nothing was written over");

    // From here on it says nothing, whatever it hears, and wants no time-outs.
    cluster.inject(n(3), n(2), Message::Prepare { ballot: ballot(9, 3), from: s(1) });
    cluster.inject(n(1), n(2), Message::Heartbeat { ballot: leader, mark: Mark::START, beat: 1, recovered: s(0) });
    cluster.time_out(n(2));
    assert!(cluster.network.is_empty());
    assert_eq!(cluster.replica(n(2)).poll_deadline(), crate::Instant(u64::MAX));
    assert!(cluster.replica(n(2)).status().halted);
}

#[test]
fn a_halted_replica_keeps_back_what_still_waited_for_the_disk() {
    let mut cluster = acceptor(100);
    cluster.node_mut(n(2)).disk = Disk::WhenTold;
    let leader = ballot(3, 1);
    accept(&mut cluster, leader, body(4, 3, 1), Mark::START);
    accept(&mut cluster, leader, body(4, 3, 2), Mark::START);
    cluster.sync(n(2));
    assert!(cluster.network.is_empty(), "{:?}", cluster.network);
}

#[test]
fn a_leader_told_of_a_conflict_halts() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect(n(1));
    let reason = RejectReason::BallotConflict { first: s(3) };
    cluster.inject(n(2), n(1), Message::Reject { ballot: ballot(1, 2), reason });
    assert_eq!(cluster.node(n(1)).halted, None, "not its ballot");
    cluster.inject(n(2), n(1), Message::Reject { ballot: leader, reason });
    assert_eq!(cluster.node(n(1)).halted, Some(HaltReason::BallotConflict { slot: s(3), ballot: leader }));
}

#[test]
fn old_and_doubled_messages_change_nothing() {
    let mut cluster = acceptor(100);
    let (old, new) = (ballot(3, 1), ballot(4, 3));
    accept(&mut cluster, old, body(1, 1, 1), Mark::START);
    accept(&mut cluster, new, body(1, 2, 2), Mark::START);
    let state: Vec<AcceptedBody> = cluster.replica(n(2)).accepted().collect();
    for message in [
        Message::Accept { ballot: old, body: body(1, 1, 1), mark: Mark::START },
        Message::Prepare { ballot: old, from: s(1) },
        Message::Heartbeat { ballot: old, mark: Mark::START, beat: 1, recovered: s(0) },
        Message::PreVote { ballot: old, from: s(1) },
        Message::PreVoteGranted { ballot: old },
        Message::Promise {
            from: s(1),
            ballot: old,
            mark: Mark::START,
            part: 0,
            parts: 1,
            accepted: Vec::new(),
            doubts: Vec::new(),
        },
        accepted(old, body(1, 1, 1)),
        Message::HeartbeatReply { ballot: old, mark: Mark::START, stable: s(1), beat: 1, full: false },
        Message::Chosen { body: body(5, 1, 5), mark: Mark { slot: s(6), chain: Chain(6) }, last: true },
        Message::Supply { body: body(1, 1, 1) },
        Message::Unavailable { first: s(1), available: s(9) },
    ] {
        let log = cluster.node(n(2)).log.len();
        cluster.inject(n(1), n(2), message.clone());
        assert_eq!(cluster.replica(n(2)).accepted().collect::<Vec<_>>(), state, "{message:?}");
        assert_eq!(cluster.node(n(2)).log.len(), log, "{message:?}");
        assert_eq!(cluster.mark(n(2)), Mark::START, "{message:?}");
    }
    accept(&mut cluster, new, body(1, 2, 2), Mark::START);
    assert_eq!(cluster.replica(n(2)).accepted().collect::<Vec<_>>(), state);
}

/// A replica of `recovered`, as it comes from the log.
fn begin(promised: u64, mark: Mark, accepted: &[(u64, BodyHandle)]) -> Replica {
    let genesis = crate::Configuration::genesis(vec![n(1), n(2), n(3)], 100).expect("a sound genesis");
    let report = |(round, body): &(u64, BodyHandle)| AcceptedBody { ballot: ballot(*round, 1), body: *body };
    let accepted = accepted.iter().map(report).collect();
    let recovered = crate::Recovered {
        promised: ballot(promised, 1),
        mark,
        trimmed: s(0),
        accepted,
        ..crate::Recovered::default()
    };
    Replica::new(n(2), 1, 1, Settings::default(), Configurations::new(genesis), recovered, crate::Instant(0))
}

#[test]
fn a_sound_recovery_is_taken_as_it_is() {
    let replica = begin(5, Mark::START, &[(5, body(1, 2, 1)), (3, body(4, 1, 2))]);
    assert_eq!(replica.accepted().map(|report| report.body).collect::<Vec<_>>(), [body(1, 2, 1), body(4, 1, 2)]);
    assert_eq!(replica.promised(), ballot(5, 1));
}

#[test]
#[should_panic(expected = "implies the promise")]
fn a_recovery_that_forgot_a_promise_is_a_bug() {
    begin(4, Mark::START, &[(5, body(1, 2, 1))]);
}

#[test]
#[should_panic(expected = "ascending and disjoint")]
fn a_recovery_of_overlapping_bodies_is_a_bug() {
    begin(5, Mark::START, &[(5, body(1, 2, 1)), (3, body(2, 1, 2))]);
}

#[test]
#[should_panic(expected = "open slots only")]
fn a_recovery_of_accepts_below_the_mark_is_a_bug() {
    begin(5, Mark::START.after(&body(1, 2, 1)), &[(5, body(2, 2, 2))]);
}

/// What a peer names is bounded before it is used: no arithmetic on it may overflow, and no body may be empty.
#[test]
fn positions_that_no_honest_peer_names_are_ignored() {
    let far = |first: u64, count: u32| BodyHandle { first: s(first), ..body(1, count, 9) };
    let end = Mark { slot: s(u64::MAX), chain: Chain(1) };
    let last_round = Ballot { round: u64::MAX, ..ballot(1, 1) };
    let sound = ballot(3, 1);
    let report = |body| vec![AcceptedBody { ballot: sound, body }];
    let mut messages = vec![
        Message::Heartbeat { ballot: sound, mark: end, beat: 1, recovered: s(0) },
        Message::Heartbeat { ballot: last_round, mark: Mark::START, beat: 1, recovered: s(0) },
        Message::HeartbeatReply { ballot: sound, mark: end, stable: s(u64::MAX), beat: 1, full: false },
        Message::Prepare { ballot: last_round, from: s(1) },
        Message::PreVote { ballot: last_round, from: s(1) },
        Message::Accept { ballot: sound, body: body(1, 1, 1), mark: end },
        Message::Accept { ballot: last_round, body: body(1, 1, 1), mark: Mark::START },
        Message::Reject { ballot: sound, reason: RejectReason::AlreadyChosen { mark: end } },
        Message::Reject { ballot: sound, reason: RejectReason::HigherBallot { promised: last_round } },
        Message::Promise {
            from: s(1),
            ballot: sound,
            mark: end,
            part: 0,
            parts: 1,
            accepted: Vec::new(),
            doubts: Vec::new(),
        },
        Message::Promise {
            from: s(1),
            ballot: sound,
            mark: Mark::START,
            part: 0,
            parts: u32::MAX,
            accepted: Vec::new(),
            doubts: Vec::new(),
        },
    ];
    for body in [far(u64::MAX, 1), far(u64::MAX - 5, 9), far(1, 0), far(0, 1)] {
        messages.push(Message::Accept { ballot: sound, body, mark: Mark::START });
        messages.push(Message::Chosen { body, mark: Mark::START, last: true });
        messages.push(Message::Supply { body });
        messages.push(Message::Promise {
            from: s(1),
            ballot: sound,
            mark: Mark::START,
            part: 0,
            parts: 1,
            accepted: report(body),
            doubts: Vec::new(),
        });
    }
    for message in messages {
        let mut cluster = acceptor(100);
        cluster.inject(n(1), n(2), message.clone());
        assert_eq!(cluster.node(n(2)).log, [], "{message:?}");
        assert_eq!(cluster.replica(n(2)).promised(), Ballot::ZERO, "{message:?}");
        cluster.network.clear();
        cluster.run(std::time::Duration::from_secs(10));
        assert!(cluster.leader().is_some(), "{message:?}");
    }
}

#[test]
fn a_copy_that_its_sender_does_not_call_chosen_is_ignored() {
    let mut cluster = acceptor(100);
    let message = Message::Chosen { body: body(1, 3, 9), mark: Mark { slot: s(3), chain: Chain(3) }, last: true };
    cluster.inject(n(1), n(2), message);
    assert_eq!((cluster.mark(n(2)), cluster.node(n(2)).log.len()), (Mark::START, 0));
}

#[test]
fn a_record_carries_the_promise_and_the_mark_of_its_moment() {
    let mut cluster = acceptor(100);
    let leader = ballot(3, 1);
    accept(&mut cluster, leader, body(1, 1, 1), Mark::START);
    let record = cluster.node(n(2)).log[0];
    assert_eq!((record.id.0, record.promised, record.mark), (1, leader, Mark::START));
    assert_eq!(record.entry, LogEntry::Accepted { ballot: leader, body: body(1, 1, 1) });
}

#[test]
fn an_old_heartbeat_brings_no_old_leader_back() {
    let mut cluster = Cluster::new(3);
    let heartbeat = |ballot| Message::Heartbeat { ballot, mark: Mark::START, beat: 1, recovered: s(0) };
    for (leader, from) in [(ballot(9, 3), 3), (ballot(6, 1), 1)] {
        cluster.inject(n(from), n(2), heartbeat(leader));
        // It has promised neither of them anything.
        assert_eq!(cluster.replica(n(2)).status().leader, Some(ballot(9, 3)));
    }
}

/// The higher ballot may have been won under a configuration whose slots are all chosen, and won nothing behind them.
#[test]
fn a_lower_ballot_is_followed_when_the_leader_of_a_higher_one_has_fallen_silent() {
    let mut cluster = Cluster::new(3);
    let heartbeat = |ballot| Message::Heartbeat { ballot, mark: Mark::START, beat: 1, recovered: s(0) };
    cluster.inject(n(3), n(2), heartbeat(ballot(9, 3)));
    cluster.isolate(n(2));
    cluster.run(cluster.settings().election_timeout);
    cluster.heal();
    let promised = cluster.replica(n(2)).status().promised;
    assert!(promised < ballot(6, 1), "nobody granted it anything: {promised:?}");
    cluster.inject(n(1), n(2), heartbeat(ballot(6, 1)));
    assert_eq!(cluster.replica(n(2)).status().leader, Some(ballot(6, 1)));
}

/// What it says of its log would be older than what it said before, and count as newer.
#[test]
fn a_late_heartbeat_is_answered_as_the_newest() {
    let mut cluster = Cluster::new(3);
    let leader = ballot(4, 1);
    for (beat, answered) in [(2, 2), (1, 2), (3, 3)] {
        cluster.inject(n(1), n(2), Message::Heartbeat { ballot: leader, mark: Mark::START, beat, recovered: s(0) });
        let replies = cluster.take(is("HeartbeatReply")).into_iter().map(|packet| packet.message);
        let beats = replies.map(|message| match message {
            Message::HeartbeatReply { beat, .. } => beat,
            other => panic!("{other:?}"),
        });
        assert_eq!(beats.collect::<Vec<_>>(), [answered]);
    }
}

/// Whose accept comes before the first heartbeat is heard by it all the same.
#[test]
fn the_numbers_of_one_leader_are_not_those_of_another() {
    let mut cluster = Cluster::new(3);
    let heartbeat = |ballot, beat| Message::Heartbeat { ballot, mark: Mark::START, beat, recovered: s(0) };
    cluster.inject(n(1), n(2), heartbeat(ballot(4, 1), 500));
    let accept = Message::Accept { ballot: ballot(5, 3), body: body(1, 1, 7), mark: Mark::START };
    cluster.inject(n(3), n(2), accept);
    cluster.take(|_| true);
    cluster.inject(n(3), n(2), heartbeat(ballot(5, 3), 2));
    let replies: Vec<Message> = cluster.take(is("HeartbeatReply")).into_iter().map(|packet| packet.message).collect();
    assert!(matches!(replies[..], [Message::HeartbeatReply { beat: 2, .. }]), "{replies:?}");
}
