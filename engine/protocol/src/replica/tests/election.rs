//! Elections: cold start, pre-vote, phase 1, giving way, stepping down.

use std::time::Duration;

use super::cluster::{Cluster, Disk, ballot, body, is, is_to, kind_of, n, refusals, s};
use crate::body::Mark;
use crate::config::{Configuration, Settings};
use crate::limits::PROMISE_PART_MAX;
use crate::message::{AcceptedBody, Message, RejectReason};
use crate::replica::{Jitter, Role};

#[test]
fn a_cold_start_ends_with_one_leader_whom_all_follow() {
    for size in 1..=9 {
        for seed in 0..20 {
            let mut cluster = Cluster::with(size, 1000, Settings::default(), seed);
            cluster.run(Duration::from_secs(5));
            let leaders = cluster.ids().into_iter().filter(|id| cluster.role(*id) == Role::Leader);
            assert_eq!(leaders.count(), 1, "size {size}, seed {seed}");
            let leader = cluster.leader().expect("counted just now");
            let followed = cluster.replica(leader).promised();
            for id in cluster.ids() {
                assert_eq!(cluster.replica(id).status().leader, Some(followed), "size {size}, seed {seed}, {id}");
            }
        }
    }
}

#[test]
fn a_single_node_leads_once_its_own_promise_is_durable() {
    let mut cluster = Cluster::new(1);
    cluster.node_mut(n(1)).disk = Disk::WhenTold;
    cluster.run(Duration::from_millis(600));
    assert_eq!(cluster.role(n(1)), Role::Candidate);
    cluster.sync(n(1));
    assert_eq!(cluster.role(n(1)), Role::Leader);
    let body = cluster.propose(n(1), 1);
    assert_eq!(cluster.mark(n(1)), Mark::START, "its own vote counts when durable");
    cluster.sync(n(1));
    assert_eq!(cluster.delivered(n(1)), [body]);
}

#[test]
fn the_leader_stays_while_it_is_heard() {
    let mut cluster = Cluster::new(5);
    cluster.run(Duration::from_secs(3));
    let (leader, prepares) = (cluster.leader(), cluster.sent("Prepare"));
    assert!(leader.is_some());
    cluster.run(Duration::from_secs(60));
    assert_eq!((cluster.leader(), cluster.sent("Prepare")), (leader, prepares), "nobody else even tried");
}

#[test]
fn a_prepare_leaves_only_after_the_own_promise_is_durable() {
    let mut cluster = Cluster::new(3);
    cluster.node_mut(n(1)).disk = Disk::WhenTold;
    cluster.now = cluster.replica(n(1)).poll_deadline();
    cluster.time_out(n(1));
    cluster.deliver_all();
    assert_eq!(cluster.role(n(1)), Role::Candidate);
    for _ in 0..3 {
        cluster.now = cluster.replica(n(1)).poll_deadline();
        cluster.time_out(n(1));
        assert_eq!(cluster.sent("Prepare"), 0, "a resend is no way around the disk");
    }
    cluster.sync(n(1));
    assert_eq!(cluster.sent("Prepare"), 2);
}

#[test]
fn a_candidate_that_is_its_own_quorum_waits_for_its_own_promise() {
    let majority = Configuration::genesis((1..=3).map(n).collect(), 100).expect("a sound genesis");
    let genesis = Configuration { prepare_quorum: 1, accept_quorum: 3, ..majority };
    let mut cluster = Cluster::ruled_by(genesis, Settings::default(), 1);
    cluster.node_mut(n(1)).disk = Disk::WhenTold;
    cluster.inject(n(2), n(1), Message::Accept { ballot: ballot(1, 2), body: body(1, 1, 1), mark: Mark::START });
    cluster.now = cluster.replica(n(1)).poll_deadline();
    cluster.time_out(n(1));
    cluster.deliver_all();
    cluster.sync_to(n(1), 1);
    assert_eq!(cluster.role(n(1)), Role::Candidate, "the accept before it is durable, the promise isn't");
    cluster.sync(n(1));
    assert_ne!(cluster.role(n(1)), Role::Candidate);
}

#[test]
fn a_promise_leaves_only_after_it_and_what_it_reports_are_durable() {
    let mut cluster = Cluster::new(3);
    cluster.elect(n(1));
    cluster.node_mut(n(3)).disk = Disk::WhenTold;
    let body = cluster.propose(n(1), 2);
    for packet in cluster.take(is_to("Accept", n(3))) {
        cluster.deliver(packet);
    }
    cluster.inject(n(2), n(3), Message::Prepare { ballot: ballot(9, 2), from: s(1) });
    cluster.inject(n(2), n(3), Message::Prepare { ballot: ballot(9, 2), from: s(1) });
    assert!(cluster.take(is_to("Promise", n(2))).is_empty(), "nothing is durable");
    cluster.sync_to(n(3), cluster.node(n(3)).log.len() - 1);
    assert!(cluster.take(is_to("Promise", n(2))).is_empty(), "the accept is durable, the promise isn't");
    assert_eq!(cluster.take(is_to("Accepted", n(1))).len(), 1, "the accept came before the promise, so it may speak");
    cluster.sync(n(3));
    let promises = cluster.take(is_to("Promise", n(2)));
    assert_eq!(promises.len(), 2, "each question is answered, however early it came");
    let Message::Promise { accepted, .. } = &promises[0].message else { unreachable!("taken by kind") };
    assert_eq!(accepted.iter().map(|report| report.body).collect::<Vec<_>>(), [body]);
}

#[test]
fn a_node_that_returns_from_isolation_disturbs_nobody() {
    let mut cluster = Cluster::new(3);
    let elected = cluster.elect(n(1));
    cluster.isolate(n(3));
    cluster.commit(n(1), 3);
    cluster.run(Duration::from_secs(60));
    assert_ne!(cluster.role(n(3)), Role::Leader);
    assert!(cluster.replica(n(3)).promised() <= elected, "an isolated node raises no ballot");
    cluster.heal();
    cluster.run(Duration::from_secs(5));
    assert_eq!(cluster.leader(), Some(n(1)));
    assert_eq!(cluster.replica(n(1)).promised(), elected, "the same leadership goes on");
    assert_eq!(cluster.mark(n(3)), cluster.mark(n(1)), "and the returned node has caught up");
}

#[test]
fn a_pre_vote_is_refused_while_a_leader_lives_and_changes_nothing() {
    let mut cluster = Cluster::new(3);
    let elected = cluster.elect(n(1));
    let before = cluster.replica(n(2)).clone();
    cluster.inject(n(3), n(2), Message::PreVote { ballot: ballot(50, 3), from: s(1) });
    assert_eq!(refusals(&cluster.take(is("Reject"))), [RejectReason::LeaderAlive { leader: n(1) }]);
    cluster.inject(n(3), n(1), Message::PreVote { ballot: ballot(50, 3), from: s(1) });
    assert_eq!(
        refusals(&cluster.take(is("Reject"))),
        [RejectReason::LeaderAlive { leader: n(1) }],
        "the leader itself"
    );
    assert_eq!(*cluster.replica(n(2)), before);

    cluster.now = cluster.now.plus(cluster.settings().election_timeout);
    cluster.inject(n(3), n(2), Message::PreVote { ballot: elected, from: s(1) });
    assert_eq!(refusals(&cluster.take(is("Reject"))), [RejectReason::HigherBallot { promised: elected }]);
    cluster.inject(n(3), n(2), Message::PreVote { ballot: ballot(50, 3), from: s(1) });
    assert_eq!(cluster.take(is("PreVoteGranted")).len(), 1, "the leader is silent, and the ballot is new");
    assert_eq!(*cluster.replica(n(2)), before, "a granted pre-vote is no promise");
}

#[test]
fn a_refused_canvass_ends_at_once_and_learns_the_round() {
    let mut cluster = Cluster::new(3);
    cluster.inject(n(2), n(1), Message::Prepare { ballot: ballot(7, 2), from: s(1) });
    cluster.network.clear();
    // Node 3 never heard of round 7; one refusal tells it.
    cluster.now = cluster.replica(n(3)).poll_deadline();
    cluster.time_out(n(3));
    cluster.cut(n(3), n(2));
    cluster.deliver_all();
    assert_eq!(cluster.role(n(3)), Role::Follower);
    cluster.heal();
    assert_eq!(cluster.elect(n(3)).round, 8);
}

#[test]
fn a_canvass_that_nobody_answers_is_repeated_later() {
    let mut cluster = Cluster::new(3);
    cluster.isolate(n(1));
    cluster.now = cluster.replica(n(1)).poll_deadline();
    cluster.time_out(n(1));
    assert_eq!(cluster.role(n(1)), Role::Candidate);
    cluster.take(is("PreVote"));
    cluster.now = cluster.now.plus(cluster.settings().retransmit_interval);
    cluster.time_out(n(1));
    assert_eq!(cluster.take(is("PreVote")).len(), 2, "both peers are asked again");
    cluster.now = cluster.now.plus(cluster.settings().election_timeout);
    cluster.time_out(n(1));
    assert_eq!(cluster.role(n(1)), Role::Follower);
    cluster.heal();
    cluster.elect(n(1));
}

#[test]
fn every_candidacy_is_above_all_that_was_seen_and_no_ballot_is_resumed() {
    let mut cluster = Cluster::new(3);
    let mut highest = cluster.elect(n(1));
    for _ in 0..5 {
        cluster.isolate(n(1));
        let deposed = cluster.elect(n(2));
        assert!(deposed > highest);
        cluster.heal();
        cluster.isolate(n(2));
        highest = cluster.elect(n(1));
        assert!(highest > deposed);
        cluster.heal();
    }
    cluster.crash(n(1), 0);
    cluster.restart(n(1));
    cluster.isolate(n(2));
    let reborn = cluster.elect(n(1));
    assert!(reborn > highest && reborn.boot != highest.boot, "a new life has a new boot");
}

#[test]
fn a_lost_prepare_or_promise_is_asked_for_again() {
    let mut cluster = Cluster::new(3);
    cluster.isolate(n(3));
    cluster.now = cluster.replica(n(1)).poll_deadline();
    cluster.time_out(n(1));
    for packet in cluster.take(is("PreVote")) {
        cluster.deliver(packet);
    }
    for packet in cluster.take(is("PreVoteGranted")) {
        cluster.deliver(packet);
    }
    assert_eq!(cluster.take(is("Prepare")).len(), 2, "lost");
    cluster.now = cluster.now.plus(cluster.settings().retransmit_interval);
    cluster.time_out(n(1));
    for packet in cluster.take(is_to("Prepare", n(2))) {
        cluster.deliver(packet);
    }
    assert_eq!(cluster.take(is("Promise")).len(), 1, "lost");
    cluster.now = cluster.now.plus(cluster.settings().retransmit_interval);
    cluster.time_out(n(1));
    cluster.deliver_all();
    assert_eq!(cluster.role(n(1)), Role::Leader);
}

/// Node 1 of three as a candidate that hears nothing but what the test says.
fn candidate() -> Cluster {
    let mut cluster = Cluster::new(3);
    cluster.now = cluster.replica(n(1)).poll_deadline();
    cluster.time_out(n(1));
    let ballot = cluster.take(is("PreVote")).first().map(|packet| packet.message.clone());
    let Some(Message::PreVote { ballot, .. }) = ballot else { unreachable!("it canvasses") };
    cluster.inject(n(2), n(1), Message::PreVoteGranted { ballot });
    assert_eq!(cluster.take(is("Prepare")).len(), 2);
    cluster
}

#[test]
fn a_promise_in_parts_counts_when_it_is_complete() {
    let mut cluster = candidate();
    let asked = cluster.replica(n(1)).promised();
    let report = |first: u64| AcceptedBody { ballot: ballot(0, 3), body: body(first, 1, u128::from(first)) };
    let part = |part: u32, parts: u32, mark: Mark, firsts: std::ops::Range<u64>| {
        let accepted = firsts.map(report).collect();
        Message::Promise { from: s(1), ballot: asked, mark, part, parts, accepted, doubts: Vec::new() }
    };
    let is_candidate = |cluster: &Cluster| cluster.role(n(1)) == Role::Candidate;
    // Out of range, of no parts at all, too large, and of another ballot: none of these is a promise.
    let large = 1..2 + PROMISE_PART_MAX as u64;
    for nonsense in [part(1, 1, Mark::START, 1..2), part(0, 0, Mark::START, 1..1), part(0, 1, Mark::START, large)] {
        cluster.inject(n(2), n(1), nonsense);
    }
    let other = Message::Promise {
        from: s(1),
        ballot: ballot(99, 1),
        mark: Mark::START,
        part: 0,
        parts: 1,
        accepted: Vec::new(),
        doubts: Vec::new(),
    };
    cluster.inject(n(2), n(1), other);
    assert!(is_candidate(&cluster));
    cluster.inject(n(2), n(1), part(2, 3, Mark::START, 3..4));
    cluster.inject(n(2), n(1), part(0, 3, Mark::START, 1..2));
    cluster.inject(n(2), n(1), part(0, 3, Mark::START, 1..2));
    assert!(is_candidate(&cluster), "two of three parts, one of them twice");
    // The acceptor was asked again after its answer had changed: old and new parts don't mix.
    cluster.inject(n(2), n(1), part(1, 2, Mark::START, 4..5));
    assert!(is_candidate(&cluster));
    cluster.inject(n(2), n(1), part(1, 3, Mark::START, 2..3));
    assert!(is_candidate(&cluster));
    cluster.inject(n(2), n(1), part(0, 3, Mark::START, 1..2));
    cluster.inject(n(2), n(1), part(2, 3, Mark::START, 3..4));
    assert_eq!(cluster.role(n(1)), Role::Recovering);
    let wanted: Vec<_> = cluster.take(is("FetchBody")).into_iter().map(|packet| packet.message).collect();
    let fetch = |first: u64| Message::FetchBody { first: s(first), id: body(first, 1, u128::from(first)).id };
    assert_eq!(wanted, [fetch(1), fetch(2), fetch(3)]);
}

#[test]
fn a_promise_of_many_bodies_comes_in_bounded_parts() {
    let mut cluster = Cluster::new(3);
    let leader = ballot(3, 1);
    let count = 2 * PROMISE_PART_MAX as u64 + 1;
    for first in 1..=count {
        let accept = Message::Accept { ballot: leader, body: body(first, 1, u128::from(first)), mark: Mark::START };
        cluster.inject(n(1), n(2), accept);
    }
    cluster.network.clear();
    cluster.inject(n(3), n(2), Message::Prepare { ballot: ballot(4, 3), from: s(1) });
    let mut firsts = Vec::new();
    for (index, packet) in cluster.take(is("Promise")).into_iter().enumerate() {
        let Message::Promise { part, parts, accepted, .. } = packet.message else { unreachable!("taken by kind") };
        assert_eq!((part as usize, parts), (index, 3));
        assert!(accepted.len() <= PROMISE_PART_MAX);
        firsts.extend(accepted.into_iter().map(|report| report.body.first.0));
    }
    assert!(firsts.into_iter().eq(1..=count), "every accepted body, ascending");
}

#[test]
fn a_candidate_gives_way_to_a_higher_ballot() {
    let mut cluster = candidate();
    let own = cluster.replica(n(1)).promised();
    let lower = Message::Prepare { ballot: ballot(0, 3), from: s(1) };
    cluster.inject(n(3), n(1), lower);
    assert_eq!(refusals(&cluster.take(is("Reject"))), [RejectReason::HigherBallot { promised: own }]);
    assert_eq!(cluster.role(n(1)), Role::Candidate);
    cluster.inject(n(3), n(1), Message::Prepare { ballot: ballot(5, 3), from: s(1) });
    assert_eq!(cluster.role(n(1)), Role::Follower);
    assert_eq!(cluster.take(is("Promise")).len(), 1);
    let late = Message::Promise {
        from: s(1),
        ballot: own,
        mark: Mark::START,
        part: 0,
        parts: 1,
        accepted: Vec::new(),
        doubts: Vec::new(),
    };
    cluster.inject(n(2), n(1), late);
    assert_eq!(cluster.role(n(1)), Role::Follower, "a promise for a candidacy that is over elects nobody");
}

#[test]
fn a_refused_candidate_or_leader_steps_back() {
    let reason = RejectReason::HigherBallot { promised: ballot(9, 2) };
    let mut cluster = candidate();
    let own = cluster.replica(n(1)).promised();
    cluster.inject(n(2), n(1), Message::Reject { ballot: ballot(1, 3), reason });
    assert_eq!(cluster.role(n(1)), Role::Candidate, "a refusal of something else");
    let itself = RejectReason::HigherBallot { promised: own };
    cluster.inject(n(2), n(1), Message::Reject { ballot: own, reason: itself });
    assert_eq!(cluster.role(n(1)), Role::Candidate, "a doubled pre-vote, refused by who has promised this very ballot");
    cluster.inject(n(2), n(1), Message::Reject { ballot: own, reason });
    assert_eq!(cluster.role(n(1)), Role::Follower);
    cluster.network.clear();
    assert_eq!(cluster.elect(n(1)).round, 10, "the next candidacy is above the one that won");

    let own = cluster.replica(n(1)).promised();
    cluster.inject(
        n(2),
        n(1),
        Message::Reject { ballot: own, reason: RejectReason::HigherBallot { promised: ballot(12, 2) } },
    );
    assert_eq!(cluster.role(n(1)), Role::Follower);
    assert_eq!((cluster.opening(n(1)), cluster.replica(n(1)).status().leader), (None, None));
}

#[test]
fn a_deposed_leader_finds_out_and_proposes_nothing_more() {
    let mut cluster = Cluster::new(3);
    let first = cluster.elect(n(1));
    cluster.isolate(n(1));
    let second = cluster.elect(n(2));
    assert_eq!(cluster.role(n(1)), Role::Leader, "it can't know yet");
    let lonely = cluster.propose(n(1), 1);
    let agreed = cluster.commit(n(2), 1);
    cluster.heal();
    cluster.run(Duration::from_millis(300));
    assert_eq!(cluster.role(n(1)), Role::Follower);
    assert_eq!(cluster.replica(n(1)).status().leader, Some(second));
    assert!(second > first);
    for id in cluster.ids() {
        assert_eq!(cluster.delivered(id), [agreed], "{lonely:?} was chosen nowhere");
    }
}

#[test]
fn a_leader_without_a_quorum_steps_down() {
    let mut cluster = Cluster::new(5);
    cluster.elect(n(1));
    for lost in [3, 4] {
        cluster.isolate(n(lost));
    }
    cluster.run(Duration::from_secs(5));
    assert_eq!(cluster.leader(), Some(n(1)), "three of five are a quorum");
    cluster.isolate(n(5));
    cluster.run(cluster.settings().election_timeout * 3 / 2 + cluster.settings().heartbeat_interval);
    assert_ne!(cluster.role(n(1)), Role::Leader);
    assert_eq!(cluster.opening(n(1)), None);
    assert_eq!(cluster.replica(n(1)).status().leader, None, "its clients learn that nobody leads");
}

#[test]
fn a_leader_needs_an_accept_quorum_too() {
    // Any one promise is enough to lead, but all four must accept.
    let genesis = Configuration {
        prepare_quorum: 1,
        accept_quorum: 4,
        ..Configuration::genesis((1..=4).map(n).collect(), 100).expect("sound")
    };
    let mut cluster = Cluster::ruled_by(genesis, Settings::default(), 3);
    cluster.elect(n(1));
    cluster.commit(n(1), 1);
    cluster.isolate(n(4));
    cluster.run(cluster.settings().election_timeout * 2 + cluster.settings().heartbeat_interval);
    assert_ne!(cluster.role(n(1)), Role::Leader, "three can't choose, though each could lead");
}

#[test]
fn a_stranger_is_refused_and_never_campaigns() {
    let mut cluster = Cluster::new(3);
    let before = cluster.replica(n(1)).clone();
    cluster.inject(n(4), n(1), Message::Prepare { ballot: ballot(9, 4), from: s(1) });
    assert_eq!(
        refusals(&cluster.take(is_to("Reject", n(4)))),
        [RejectReason::WrongConfiguration { slot: s(1), chosen_at: s(0) }]
    );
    assert_eq!(*cluster.replica(n(1)), before);

    let configurations = cluster.replica(n(1)).configurations().clone();
    let now = cluster.now;
    let settings = Settings::default();
    let mut stranger = crate::Replica::new(n(4), 5, 6, settings, configurations, super::cluster::nothing(), now);
    for _ in 0..10 {
        stranger.handle_timeout(stranger.poll_deadline());
    }
    assert_eq!(stranger.poll_effect(), None);
    assert_eq!(stranger.status().role, Role::Follower);
}

#[test]
fn two_strangers_do_not_refuse_each_other_for_ever() {
    let mut cluster = Cluster::new(3);
    let reason = RejectReason::WrongConfiguration { slot: s(1), chosen_at: s(0) };
    cluster.inject(n(4), n(1), Message::Reject { ballot: ballot(9, 4), reason });
    assert!(cluster.network.is_empty(), "a refusal is never answered, or two misconfigured nodes would never stop");
}

#[test]
fn only_the_owner_of_a_ballot_may_use_it() {
    let mut cluster = Cluster::new(3);
    let forged = ballot(9, 3);
    let before = cluster.replica(n(1)).promised();
    cluster.inject(n(2), n(1), Message::Prepare { ballot: forged, from: s(1) });
    cluster.inject(n(2), n(1), Message::Accept { ballot: forged, body: body(1, 1, 1), mark: Mark::START });
    cluster.inject(n(2), n(1), Message::Heartbeat { ballot: forged, mark: Mark::START, beat: 1, recovered: s(0) });
    assert!(
        cluster.network.is_empty(),
        "{:?}",
        cluster.network.iter().map(|p| kind_of(&p.message)).collect::<Vec<_>>()
    );
    assert_eq!(cluster.replica(n(1)).promised(), before);
}

#[test]
fn jitter_stays_within_its_bounds_and_reaches_both_ends() {
    let (shortest, longest) = (Duration::from_micros(600), Duration::from_micros(1200));
    let mut jitter = Jitter(42);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..20_000 {
        let drawn = jitter.between(shortest, longest);
        assert!(drawn >= shortest && drawn < longest);
        seen.insert(drawn);
    }
    assert_eq!(seen.len(), 600, "every value of the range is drawn");
    assert_eq!(jitter.between(shortest, shortest), shortest);
    assert_eq!(jitter.between(longest, shortest), longest, "an empty range is its lower end");
    let draws = |seed| {
        let mut jitter = Jitter(seed);
        (0..5).map(|_| jitter.between(shortest, longest)).collect::<Vec<_>>()
    };
    assert_eq!(draws(7), draws(7), "a run can be repeated");
    assert_ne!(draws(7), draws(8));
}

#[test]
fn a_leader_whose_disk_stalls_makes_way_for_one_that_writes() {
    let mut cluster = Cluster::new(3);
    cluster.elect(n(1));
    cluster.commit(n(1), 1);
    cluster.node_mut(n(1)).disk = Disk::WhenTold;
    let body = cluster.propose(n(1), 1);
    cluster.deliver_all();
    assert_eq!(cluster.delivered(n(1)).last(), Some(&body), "the others' disks are a quorum");
    cluster.run(cluster.settings().election_timeout * 4);
    let leader = cluster.leader().expect("somebody whose disk is sound");
    assert_ne!(leader, n(1));
    cluster.commit(leader, 1);
    let round = cluster.replica(leader).promised().round;
    cluster.run(Duration::from_secs(20));
    assert_eq!((cluster.leader(), cluster.replica(leader).promised().round), (Some(leader), round), "for good");
    cluster.node_mut(n(1)).disk = Disk::AtOnce;
    cluster.sync(n(1));
    cluster.isolate(leader);
    cluster.elect(n(1));
}

#[test]
fn a_stall_that_holds_up_everybody_deposes_nobody() {
    // Without node 3 the leader's own disk decides: nobody could do better.
    let mut cluster = Cluster::new(3);
    let elected = cluster.elect(n(1));
    cluster.isolate(n(3));
    cluster.node_mut(n(1)).disk = Disk::WhenTold;
    let body = cluster.propose(n(1), 1);
    cluster.run(Duration::from_secs(20));
    assert_eq!((cluster.leader(), cluster.replica(n(1)).promised()), (Some(n(1)), elected));
    cluster.sync(n(1));
    cluster.deliver_all();
    assert_eq!(cluster.delivered(n(1)), [body]);
}

#[test]
fn a_leader_that_steps_down_says_so_and_is_replaced_without_its_silence() {
    let mut cluster = Cluster::new(5);
    cluster.elect(n(1));
    // Three of five don't hear the leader, and the fourth does.
    for deaf in [2, 3, 4] {
        cluster.cut(n(1), n(deaf));
        cluster.cut(n(deaf), n(1));
    }
    let forged = Message::Resigned { ballot: cluster.replica(n(1)).promised() };
    cluster.inject(n(3), n(5), forged);
    assert_ne!(cluster.replica(n(5)).status().leader, None, "only the leader itself can resign");
    while cluster.sent("Resigned") == 0 {
        cluster.run(Duration::from_millis(1));
    }
    cluster.deliver_all();
    assert!(
        cluster.replica(n(5)).status().leader.is_none_or(|leader| leader.node != n(1)),
        "node 5 waits for node 1 no longer"
    );
}

#[test]
fn the_last_words_of_a_leader_bring_about_an_election_at_once() {
    let mut cluster = Cluster::new(3);
    let old = cluster.elect(n(1));
    cluster.commit(n(1), 1);
    assert_eq!(cluster.replica(n(2)).last_words(), [], "a follower has nothing to resign from");
    let words = cluster.replica(n(1)).last_words();
    cluster.crash(n(1), 0);
    for (to, message) in words {
        cluster.inject(n(1), to, message);
    }
    let limit = cluster.now.plus(cluster.settings().election_timeout);
    while cluster.leader().is_none() {
        cluster.run(Duration::from_millis(1));
        assert!(cluster.now < limit, "nobody waits for an election timeout");
    }
    let successor = cluster.leader().expect("just seen");
    assert!(cluster.replica(successor).promised() > old);
}

#[test]
fn a_promise_tells_only_what_the_candidate_lacks() {
    let mut cluster = Cluster::new(3);
    for first in 1..=4 {
        let accept =
            Message::Accept { ballot: ballot(3, 1), body: body(first * 2 - 1, 2, first.into()), mark: Mark::START };
        cluster.inject(n(1), n(2), accept);
    }
    cluster.network.clear();
    cluster.inject(n(3), n(2), Message::Prepare { ballot: ballot(4, 3), from: s(4) });
    let promises = cluster.take(is("Promise"));
    let Message::Promise { accepted, .. } = &promises[0].message else { unreachable!("taken by kind") };
    let firsts: Vec<u64> = accepted.iter().map(|report| report.body.first.0).collect();
    assert_eq!(firsts, [3, 5, 7], "the body that reaches beyond what is known is told whole");
}
