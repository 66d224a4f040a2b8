//! Acceptors whose disks have lost something: what they abstain from, what resolves a doubt, and how they become sure of
//! their promise again.

use std::time::Duration;

use super::cluster::{Cluster, Loss, Plant, ballot, body, is, is_to, n, refusals, s};
use crate::ballot::{Ballot, NodeId};
use crate::body::{BodyHandle, BodyKind, Mark};
use crate::config::{Configuration, Settings};
use crate::effect::{LogEntry, TransferOutcome};
use crate::limits::DOUBTS_MAX;
use crate::message::{Doubt, Message, RejectReason};
use crate::replica::Role;
use crate::replica::doubt::bounded;
use crate::slot::Slot;

/// `node` has accepted `bodies` at `ballot`.
fn accept(cluster: &mut Cluster, node: u32, ballot: Ballot, bodies: &[BodyHandle]) {
    for body in bodies {
        cluster.inject(ballot.node, n(node), Message::Accept { ballot, body: *body, mark: Mark::START });
    }
    cluster.network.clear();
}

/// Loses the appends of `node` at these places, and starts it again.
fn lose(cluster: &mut Cluster, node: u32, places: &[usize], loss: Loss) {
    let losses: Vec<(usize, Loss)> = places.iter().map(|place| (*place, loss)).collect();
    cluster.damage(n(node), &losses);
    cluster.restart(n(node));
}

/// Loses the last append of `node`, and starts it again.
fn lose_the_last(cluster: &mut Cluster, node: u32) {
    let last = cluster.node(n(node)).log.len() - 1;
    lose(cluster, node, &[last], Loss::Record);
}

fn doubts(cluster: &Cluster, node: u32) -> Vec<Doubt> {
    cluster.replica(n(node)).status().doubts
}

fn is_unsure(cluster: &Cluster, node: u32) -> bool {
    cluster.replica(n(node)).status().unsure
}

/// `node` tries to lead for as long as it takes to be a candidate.
fn campaign(cluster: &mut Cluster, node: u32) {
    for _ in 0..4 {
        cluster.now = cluster.now.max(cluster.replica(n(node)).poll_deadline());
        cluster.time_out(n(node));
        cluster.deliver_all();
    }
}

const OLD: Ballot = Ballot { round: 1, node: NodeId(1), boot: 77 };

/// Three nodes. Nodes 2 and 3 have accepted a body at slots 1 and 2 and one at slot 3, so that both are chosen; then
/// node 3 has lost the record of the first, in the midst of its log.
fn one_lost() -> (Cluster, [BodyHandle; 2]) {
    let mut cluster = Cluster::new(3);
    let bodies = [body(1, 2, 1), body(3, 1, 3)];
    for node in [2, 3] {
        accept(&mut cluster, node, OLD, &bodies);
    }
    lose(&mut cluster, 3, &[0], Loss::Record);
    (cluster, bodies)
}

// --- lost accepts --------------------------------------------------------------------------------------------------------

#[test]
fn a_promise_names_the_slots_in_doubt() {
    let (mut cluster, bodies) = one_lost();
    assert!(!is_unsure(&cluster, 3), "a later record tells its promise");
    let prepare = |from| Message::Prepare { ballot: ballot(5, 1), from };
    cluster.inject(n(1), n(3), prepare(s(1)));
    cluster.inject(n(1), n(3), prepare(s(2)));
    cluster.inject(n(1), n(3), prepare(s(4)));
    let promises = cluster.take(is("Promise")).into_iter().map(|packet| packet.message);
    let told: Vec<(Vec<Doubt>, Vec<BodyHandle>)> = promises
        .map(|message| match message {
            Message::Promise { doubts, accepted, .. } => (doubts, accepted.iter().map(|report| report.body).collect()),
            other => panic!("{other:?}"),
        })
        .collect();
    let doubt = |first| vec![Doubt { first: s(first), end: s(4), bound: OLD }];
    // What the candidate knows to be chosen is nobody's doubt any more.
    assert_eq!(told, [(doubt(1), vec![bodies[1]]), (doubt(2), vec![bodies[1]]), (vec![], vec![])]);
}

/// Behind a hole lies perhaps what was cut off before: another recovery may see that, and leave it out.
#[test]
fn an_accept_in_doubt_is_appended_again_before_it_is_confirmed() {
    let (mut cluster, bodies) = one_lost();
    let appended = |cluster: &Cluster| cluster.node(n(3)).log.len();
    let before = appended(&cluster);
    for _ in 0..2 {
        cluster.inject(n(1), n(3), Message::Accept { ballot: OLD, body: bodies[1], mark: Mark::START });
        assert_eq!(cluster.take(is("Accepted")).len(), 1);
        assert_eq!(appended(&cluster), before + 1, "once is enough");
    }
}

#[test]
fn a_promise_of_an_earlier_life_is_not_repeated_in_doubt() {
    let mut cluster = Cluster::new(3);
    let bodies = [body(1, 2, 1), body(3, 1, 3)];
    accept(&mut cluster, 3, OLD, &bodies);
    let prepare = |round| Message::Prepare { ballot: ballot(round, 1), from: s(1) };
    cluster.inject(n(1), n(3), prepare(4));
    assert_eq!(cluster.take(is("Promise")).len(), 1);
    lose(&mut cluster, 3, &[0], Loss::Record);
    // Where it takes many parts, some of the old promise may have arrived, and be taken for parts of the new one.
    cluster.inject(n(1), n(3), prepare(4));
    assert_eq!(refusals(&cluster.take(|_| true)), [RejectReason::HigherBallot { promised: ballot(4, 1) }]);
    for _ in 0..2 {
        cluster.inject(n(1), n(3), prepare(5));
        assert_eq!(cluster.take(is("Promise")).len(), 1, "the next one is");
    }
}

#[test]
fn a_promise_in_doubt_is_no_answer_at_its_slots() {
    let (mut cluster, bodies) = one_lost();
    cluster.isolate(n(2));
    campaign(&mut cluster, 1);
    assert_eq!(cluster.role(n(1)), Role::Candidate, "of nodes 1 and 3, one may have forgotten what is chosen");
    assert!(cluster.delivered(n(1)).is_empty());
    cluster.heal();
    cluster.run(Duration::from_secs(5));
    assert_eq!(cluster.delivered(n(1))[..2], bodies);
    assert_eq!(cluster.delivered(n(3))[..2], bodies, "and it is whole again");
    assert_eq!(doubts(&cluster, 3), []);
}

#[test]
fn a_candidate_counts_its_own_doubts() {
    let mut cluster = Cluster::new(3);
    let bodies = [body(1, 2, 1), body(3, 1, 3)];
    for node in [1, 2] {
        accept(&mut cluster, node, ballot(1, 3), &bodies);
    }
    lose(&mut cluster, 1, &[0], Loss::Record);
    cluster.isolate(n(2));
    campaign(&mut cluster, 1);
    assert_eq!(cluster.role(n(1)), Role::Candidate, "it has itself forgotten what is chosen");
    cluster.heal();
    cluster.run(Duration::from_secs(5));
    assert_eq!(cluster.delivered(n(1))[..2], bodies);
}

#[test]
fn a_report_at_the_bound_resolves_a_doubt() {
    // Node 2 has accepted at the bound what node 3 has lost: nothing else can have been chosen below.
    let (mut cluster, bodies) = one_lost();
    cluster.isolate(n(1));
    cluster.elect(n(2));
    assert_eq!(cluster.delivered(n(2)), bodies);
}

#[test]
fn a_report_below_the_bound_resolves_nothing() {
    let mut cluster = Cluster::new(3);
    let (early, late) = (body(1, 1, 1), body(1, 1, 2));
    accept(&mut cluster, 1, ballot(1, 3), &[early]);
    for node in [2, 3] {
        accept(&mut cluster, node, ballot(2, 1), &[late, body(2, 1, 3)]);
    }
    lose(&mut cluster, 3, &[0], Loss::Record);
    cluster.isolate(n(2));
    campaign(&mut cluster, 1);
    assert_eq!(cluster.role(n(1)), Role::Candidate);
    cluster.heal();
    cluster.run(Duration::from_secs(5));
    assert_eq!(cluster.delivered(n(1))[0], late);
}

#[test]
fn a_report_resolves_only_the_slots_of_its_body() {
    // Slot 2 is known at the bound, slot 1 isn't.
    let mut cluster = Cluster::new(3);
    let bodies = [body(1, 1, 1), body(2, 1, 2), body(3, 1, 3)];
    accept(&mut cluster, 3, OLD, &bodies);
    accept(&mut cluster, 2, OLD, &bodies[1..]);
    lose(&mut cluster, 3, &[0, 1], Loss::Record);
    cluster.isolate(n(1));
    campaign(&mut cluster, 2);
    assert_eq!(cluster.role(n(2)), Role::Candidate);
    cluster.heal();
    cluster.run(Duration::from_secs(5));
    assert_eq!(cluster.delivered(n(2))[1..3], bodies[1..]);
    assert_eq!(cluster.delivered(n(2))[0].kind, BodyKind::NoOp, "it was chosen nowhere, and node 1 knows");
}

#[test]
fn a_mark_above_resolves_a_doubt() {
    let (mut cluster, bodies) = one_lost();
    // Node 2 learns that all of it is chosen, and holds no accept any more.
    let mark = Mark::START.after(&bodies[0]).after(&bodies[1]);
    cluster.inject(n(1), n(2), Message::Heartbeat { ballot: OLD, mark, beat: 1, recovered: s(0) });
    assert_eq!(cluster.delivered(n(2)), bodies);
    cluster.isolate(n(1));
    cluster.elect(n(2));
    cluster.run(Duration::from_secs(1));
    assert_eq!((cluster.delivered(n(3)), doubts(&cluster, 3)), (bodies.to_vec(), vec![]));
}

#[test]
fn accepting_anew_heals() {
    let (mut cluster, bodies) = one_lost();
    // The leader sends it again, whoever it is: the ballot is no lower than what was promised.
    accept(&mut cluster, 3, OLD, &bodies[..1]);
    cluster.isolate(n(2));
    cluster.elect(n(1));
    assert_eq!(cluster.delivered(n(1)), bodies, "node 3 itself reports all that it may have lost");
}

#[test]
fn a_record_that_tells_what_it_held_leaves_no_other_doubt() {
    let mut cluster = Cluster::new(3);
    let bodies = [body(1, 2, 1), body(3, 1, 3)];
    for node in [2, 3] {
        accept(&mut cluster, node, OLD, &bodies);
    }
    lose(&mut cluster, 3, &[1], Loss::Body);
    assert!(!is_unsure(&cluster, 3), "at the end of the log, but what was promised is known");
    assert_eq!(doubts(&cluster, 3), [Doubt { first: s(3), end: s(4), bound: OLD }]);
}

#[test]
fn two_in_doubt_at_different_slots_need_each_other() {
    let mut cluster = Cluster::new(3);
    let bodies = [body(1, 1, 1), body(2, 1, 2), body(3, 1, 3)];
    for node in [2, 3] {
        accept(&mut cluster, node, OLD, &bodies);
    }
    lose(&mut cluster, 2, &[0], Loss::Body);
    lose(&mut cluster, 3, &[1], Loss::Body);
    cluster.run(Duration::from_secs(5));
    let leader = cluster.leader().expect("each tells what the other has lost");
    assert_eq!(cluster.delivered(leader)[..3], bodies);
}

#[test]
fn a_doubt_without_end_stays_until_a_leader_confines_it() {
    let mut cluster = Cluster::new(3);
    cluster.elect(n(2));
    let first = cluster.commit(n(2), 1);
    cluster.isolate(n(2));
    lose_the_last(&mut cluster, 3);
    assert_eq!(doubts(&cluster, 3)[0].end, Doubt::OPEN);
    // A leader of a ballot no higher than the bound may itself have proposed what is lost.
    cluster.heal();
    let highest = cluster.replica(n(2)).promised();
    let confine = |cluster: &mut Cluster, ballot: Ballot, recovered| {
        cluster.inject(ballot.node, n(3), Message::Heartbeat { ballot, mark: Mark::START, beat: 1, recovered });
        cluster.take(is("HeartbeatReply"));
    };
    cluster.time_out(n(3));
    cluster.deliver_all();
    assert!(!is_unsure(&cluster, 3));
    let open = Doubt { first: s(0), end: Doubt::OPEN, bound: highest };
    assert_eq!(doubts(&cluster, 3), [open]);
    confine(&mut cluster, ballot(highest.round + 2, 1), s(0));
    assert_eq!(doubts(&cluster, 3), [open], "its leader doesn't know yet");
    confine(&mut cluster, ballot(highest.round + 2, 1), first.end());
    assert_eq!(doubts(&cluster, 3), [Doubt { end: first.end(), ..open }]);
    confine(&mut cluster, ballot(highest.round + 3, 1), s(9));
    assert_eq!(doubts(&cluster, 3), [Doubt { end: first.end(), ..open }], "a doubt never grows");
}

#[test]
fn a_leader_of_the_bound_itself_confines_nothing() {
    let (mut cluster, _) = one_lost();
    let heartbeat = |round| {
        let ballot = Ballot { round, ..OLD };
        Message::Heartbeat { ballot, mark: Mark::START, beat: 1, recovered: s(2) }
    };
    let doubt = Doubt { first: s(0), end: s(4), bound: OLD };
    cluster.inject(n(1), n(3), heartbeat(OLD.round));
    assert_eq!(doubts(&cluster, 3), [doubt], "what is lost may be a proposal of its own");
    cluster.inject(n(1), n(3), heartbeat(OLD.round + 1));
    assert_eq!(doubts(&cluster, 3), [Doubt { end: s(2), ..doubt }]);
}

#[test]
fn a_leader_confines_its_own_doubts() {
    let mut cluster = Cluster::new(3);
    cluster.elect(n(2));
    cluster.commit(n(2), 1);
    lose_the_last(&mut cluster, 1);
    cluster.run(Duration::from_secs(2));
    assert!(!is_unsure(&cluster, 1));
    cluster.cut(n(2), n(1));
    cluster.cut(n(3), n(1));
    lose(&mut cluster, 1, &[], Loss::Record);
    assert_eq!(doubts(&cluster, 1)[0].end, Doubt::OPEN, "a restart reads the same damage");
    cluster.heal();
    cluster.crash(n(2), 0);
    cluster.crash(n(3), 0);
    for node in [2, 3] {
        cluster.restart(n(node));
    }
    cluster.elect(n(1));
    assert_eq!(doubts(&cluster, 1), [], "its own phase 1 found out what was chosen");
}

#[test]
fn many_doubts_are_joined_until_a_promise_can_name_them() {
    let bound = |index: u64| ballot(1 + index % 7, 2);
    let doubt = |index: u64| Doubt { first: s(10 * index), end: s(10 * index + 1 + index % 9), bound: bound(index) };
    for count in [0, 1, DOUBTS_MAX as u64, DOUBTS_MAX as u64 + 1, 5_000] {
        let many: Vec<Doubt> = (0..count).map(doubt).rev().collect();
        let joined = bounded(many.clone());
        assert_eq!(joined.len(), many.len().min(DOUBTS_MAX));
        for lost in &many {
            let covers =
                |joined: &Doubt| joined.first <= lost.first && joined.end >= lost.end && joined.bound >= lost.bound;
            assert!(joined.iter().any(covers), "{lost:?} is forgotten");
        }
    }
    assert_eq!(bounded(vec![Doubt { first: s(3), end: s(3), bound: OLD }]), []);
    let nested: Vec<Doubt> =
        (0..100).map(|index| Doubt { first: s(index), end: s(1000 - index), bound: bound(index) }).collect();
    let joined = bounded(nested.clone());
    assert!(nested.iter().all(|lost| joined.iter().any(|doubt| doubt.first <= lost.first && doubt.end >= lost.end)));
}

// --- lost promises -------------------------------------------------------------------------------------------------------

/// Three nodes. Node 3 has lost the last record of its log, is unsure, and reaches nobody.
fn unsure() -> Cluster {
    let mut cluster = Cluster::new(3);
    cluster.elect(n(2));
    cluster.commit(n(2), 1);
    cluster.isolate(n(3));
    lose_the_last(&mut cluster, 3);
    cluster.network.clear();
    assert!(is_unsure(&cluster, 3));
    cluster
}

#[test]
fn the_unsure_vote_for_nothing() {
    let mut cluster = unsure();
    let high = ballot(99, 1);
    let mark = Mark::START;
    for (message, answer) in [
        (Message::PreVote { ballot: high, from: s(1) }, RejectReason::Doubtful),
        (Message::Prepare { ballot: high, from: s(1) }, RejectReason::Doubtful),
        (Message::Accept { ballot: high, body: body(2, 1, 9), mark }, RejectReason::Doubtful),
        (Message::Heartbeat { ballot: high, mark, beat: 1, recovered: s(1) }, RejectReason::Doubtful),
        (Message::Prepare { ballot: ballot(0, 1), from: s(1) }, RejectReason::Doubtful),
    ] {
        cluster.inject(n(1), n(3), message);
        assert_eq!(refusals(&cluster.take(|_| true)), [answer]);
    }
    cluster.inject(n(1), n(3), Message::HandOver { ballot: high, beat: 1 });
    assert_eq!(cluster.role(n(3)), Role::Follower, "it takes nothing over");
    assert!(cluster.network.is_empty());
    cluster.run(Duration::from_secs(5));
    assert_eq!(cluster.role(n(3)), Role::Follower, "nor does it run for leader");
    let votes = cluster.node(n(3)).log.iter().filter(|append| append.unsure).collect::<Vec<_>>();
    assert!(votes.iter().all(|append| matches!(append.entry, LogEntry::Copied { .. })), "{votes:?}");
    assert_eq!(
        doubts(&cluster, 3)[0].end,
        Doubt::OPEN,
        "a leader that it hears confines nothing while bounds are unknown"
    );
}

#[test]
fn the_unsure_learn_what_is_chosen() {
    let mut cluster = unsure();
    let chosen = cluster.commit(n(2), 2);
    // It hears the leader, but its questions get lost.
    cluster.heal();
    cluster.cut(n(3), n(1));
    cluster.inject(
        n(2),
        n(3),
        Message::Accept { ballot: cluster.replica(n(2)).promised(), body: chosen, mark: cluster.mark(n(2)) },
    );
    cluster.run(Duration::from_secs(1));
    assert!(is_unsure(&cluster, 3));
    assert_eq!(cluster.delivered(n(3)), cluster.delivered(n(2)));
    let copies: Vec<bool> = cluster.node(n(3)).log.iter().filter(|append| append.unsure).map(|_| true).collect();
    assert_eq!(copies.len(), 2, "what it appends meanwhile says that it is unsure");
}

#[test]
fn every_other_member_must_tell_its_promise() {
    let mut cluster = unsure();
    let highest = cluster.replica(n(1)).promised().max(cluster.replica(n(2)).promised());
    cluster.heal();
    cluster.cut(n(3), n(1));
    cluster.run(Duration::from_secs(3));
    assert!(is_unsure(&cluster, 3), "node 1 hasn't told");
    assert!(cluster.leader().is_some(), "the others do without it");
    let highest = highest.max(cluster.replica(n(2)).promised());
    cluster.heal();
    cluster.run(cluster.settings().retransmit_interval);
    assert!(!is_unsure(&cluster, 3));
    assert!(cluster.replica(n(3)).promised() > highest);
    cluster.run(Duration::from_secs(3));
    let leader = cluster.leader().expect("somebody leads");
    assert!(cluster.replica(leader).promised() > highest, "after a phase 1 of its own");
    cluster.commit(leader, 1);
    assert_eq!(cluster.delivered(n(3)), cluster.delivered(leader));
    assert_eq!(doubts(&cluster, 3), []);
}

#[test]
fn whoever_has_promised_nothing_tells_so() {
    // Nobody but node 3 has ever promised anything, and node 3 has lost it.
    let mut cluster = Cluster::new(3);
    cluster.inject(n(1), n(3), Message::Prepare { ballot: ballot(4, 1), from: s(1) });
    cluster.network.clear();
    lose_the_last(&mut cluster, 3);
    assert!(is_unsure(&cluster, 3));
    cluster.time_out(n(3));
    cluster.deliver_all();
    assert!(!is_unsure(&cluster, 3));
    assert_eq!(cluster.replica(n(3)).promised().round, 1);
}

#[test]
fn whoever_hears_a_leader_without_a_promise_tells_so_too() {
    let mut cluster = Cluster::new(3);
    cluster.inject(n(2), n(3), Message::Prepare { ballot: ballot(4, 2), from: s(1) });
    cluster.inject(
        n(2),
        n(1),
        Message::Heartbeat { ballot: ballot(4, 2), mark: Mark::START, beat: 1, recovered: s(0) },
    );
    cluster.network.clear();
    lose_the_last(&mut cluster, 3);
    cluster.time_out(n(3));
    let told = |cluster: &mut Cluster, node: u32| {
        for question in cluster.take(is_to("PreVote", n(node))) {
            cluster.deliver(question);
        }
        let answers = cluster.take(is_to("Reject", n(3)));
        answers.iter().for_each(|answer| cluster.deliver(answer.clone()));
        refusals(&answers)
    };
    assert_eq!(told(&mut cluster, 1), [RejectReason::LeaderAlive { leader: n(2) }]);
    assert!(is_unsure(&cluster, 3));
    assert_eq!(told(&mut cluster, 2), [], "that one grants");
    cluster.deliver_all();
    assert!(!is_unsure(&cluster, 3));
}

#[test]
fn an_answer_to_an_earlier_life_is_none() {
    let mut cluster = unsure();
    cluster.heal();
    cluster.time_out(n(3));
    let questions = cluster.take(is("PreVote"));
    let early: Vec<Ballot> = questions
        .iter()
        .filter_map(|packet| match packet.message {
            Message::PreVote { ballot, .. } => Some(ballot),
            _ => None,
        })
        .collect();
    lose(&mut cluster, 3, &[], Loss::Record);
    cluster.network.clear();
    assert!(is_unsure(&cluster, 3), "a restart doesn't make it sure");
    for (node, ballot) in [1, 2].into_iter().zip(early) {
        let reason = RejectReason::HigherBallot { promised: super::cluster::ballot(1, 2) };
        cluster.inject(n(node), n(3), Message::Reject { ballot, reason });
        cluster.inject(n(node), n(3), Message::PreVoteGranted { ballot });
    }
    assert!(is_unsure(&cluster, 3));
}

#[test]
fn one_answer_twice_is_one() {
    let mut cluster = unsure();
    cluster.heal();
    cluster.time_out(n(3));
    cluster.take(is_to("PreVote", n(1)));
    cluster.deliver(cluster.network[0].clone());
    let answers = cluster.take(is("Reject"));
    for _ in 0..3 {
        cluster.deliver(answers[0].clone());
    }
    assert!(is_unsure(&cluster, 3));
}

#[test]
fn the_promise_that_makes_sure_is_durable_before_a_vote() {
    let mut cluster = unsure();
    cluster.heal();
    cluster.node_mut(n(3)).disk = super::cluster::Disk::WhenTold;
    cluster.time_out(n(3));
    cluster.deliver_all();
    assert!(!is_unsure(&cluster, 3));
    let high = ballot(50, 1);
    cluster.inject(n(1), n(3), Message::Prepare { ballot: high, from: s(1) });
    assert!(cluster.take(is("Promise")).is_empty());
    // Lost with the crash: it is as unsure as before.
    cluster.crash(n(3), 0);
    cluster.restart(n(3));
    assert!(is_unsure(&cluster, 3));
    cluster.run(Duration::from_secs(1));
    cluster.sync(n(3));
    cluster.run(Duration::from_secs(1));
    cluster.crash(n(3), 0);
    cluster.restart(n(3));
    assert!(!is_unsure(&cluster, 3));
}

#[test]
fn two_unsure_members_do_not_help_each_other() {
    let mut cluster = Cluster::new(3);
    cluster.elect(n(2));
    cluster.commit(n(2), 1);
    for node in [1, 3] {
        cluster.crash(n(node), 0);
    }
    for node in [1, 3] {
        lose_the_last(&mut cluster, node);
    }
    cluster.run(Duration::from_secs(10));
    assert!(is_unsure(&cluster, 1) && is_unsure(&cluster, 3));
    assert_eq!(cluster.leader(), None, "a clean stop");
    assert_eq!(cluster.opening(n(2)), None);
}

#[test]
fn a_prepare_quorum_of_one_leaves_it_unsure() {
    let genesis = Configuration::genesis((1..=3).map(NodeId).collect(), 16).expect("sound");
    let genesis = Configuration { prepare_quorum: 1, accept_quorum: 3, ..genesis };
    let mut cluster = Cluster::ruled_by(genesis, Settings::default(), 1);
    cluster.elect(n(2));
    cluster.commit(n(2), 1);
    lose_the_last(&mut cluster, 3);
    cluster.run(Duration::from_secs(10));
    assert!(is_unsure(&cluster, 3), "it may have led in a ballot that nobody else has heard of");
    for node in [1, 2] {
        assert_eq!(cluster.node(n(node)).halted, None);
    }
}

#[test]
fn a_lost_promise_holds_against_what_was_sent_below_it() {
    // Node 2 proposes at slot 1, and its accept to node 3 takes long.
    let mut cluster = Cluster::new(3);
    cluster.elect(n(2));
    let slow = cluster.propose(n(2), 1);
    let accepts = cluster.take(is_to("Accept", n(3)));
    cluster.network.clear();
    // Nodes 1 and 3 choose something else there.
    cluster.isolate(n(2));
    cluster.now = cluster.now.plus(Duration::from_secs(2));
    cluster.elect(n(1));
    let other = cluster.commit(n(1), 1);
    assert_ne!(other, slow);
    // Node 3 forgets both its accept and the promise before it; only then does the old accept arrive.
    let log = cluster.node(n(3)).log.len();
    cluster.heal();
    cluster.network.clear();
    let forget = |cluster: &mut Cluster| {
        lose(cluster, 3, &[log - 2, log - 1], Loss::Record);
        cluster.network.clear();
        cluster.deliver(accepts[0].clone());
    };
    forget(&mut cluster);
    assert_eq!(refusals(&cluster.take(is("Reject"))), [RejectReason::Doubtful]);
    cluster.run(Duration::from_secs(1));
    cluster.deliver(accepts[0].clone());
    cluster.run(Duration::from_secs(5));
    for id in cluster.ids() {
        assert_eq!(cluster.delivered(id)[0], other);
    }
}

#[test]
#[should_panic(expected = "two bodies are chosen for one slot")]
fn sure_too_soon_it_would_choose_twice() {
    let mut cluster = Cluster::new(3);
    cluster.plant(Plant::SureTooSoon);
    cluster.elect(n(2));
    cluster.propose(n(2), 1);
    let accepts = cluster.take(is_to("Accept", n(3)));
    cluster.network.clear();
    cluster.isolate(n(2));
    cluster.now = cluster.now.plus(Duration::from_secs(2));
    cluster.elect(n(1));
    cluster.commit(n(1), 1);
    cluster.heal();
    let log = cluster.node(n(3)).log.len();
    lose(&mut cluster, 3, &[log - 2, log - 1], Loss::Record);
    cluster.deliver(accepts[0].clone());
}

#[test]
#[should_panic(expected = "two bodies are chosen for one slot")]
fn hiding_its_doubts_it_would_choose_twice() {
    let mut cluster = Cluster::new(3);
    cluster.plant(Plant::HidesDoubts);
    for node in [2, 3] {
        accept(&mut cluster, node, OLD, &[body(1, 1, 1), body(2, 1, 2)]);
    }
    lose(&mut cluster, 3, &[0], Loss::Record);
    cluster.isolate(n(2));
    campaign(&mut cluster, 1);
}

// --- what depends on votes -----------------------------------------------------------------------------------------------

#[test]
fn nobody_hands_over_to_the_unsure() {
    let mut cluster = unsure();
    cluster.heal();
    cluster.cut(n(3), n(1));
    // As the leader knows node 3, it keeps pace.
    cluster.transfer(n(2), n(3)).expect("node 2 hasn't noticed");
    cluster.run(cluster.settings().election_timeout * 2);
    assert_eq!(cluster.node(n(2)).transfers, [(n(3), TransferOutcome::RolledBack)]);
    assert_eq!(cluster.leader(), Some(n(2)));
}

#[test]
fn the_unsure_confirm_no_read_point() {
    let mut cluster = unsure();
    cluster.heal();
    cluster.cut(n(3), n(1));
    cluster.isolate(n(1));
    let barrier = cluster.barrier(n(2)).expect("it leads");
    cluster.run(cluster.settings().election_timeout);
    assert!(cluster.node(n(2)).reading.contains_key(&barrier), "nodes 2 and 3 can't confirm it");
}

#[test]
fn a_member_with_a_damaged_log_holds_the_trim() {
    let mut cluster = Cluster::new(3);
    cluster.elect(n(2));
    for _ in 0..4 {
        cluster.commit(n(2), 1);
    }
    cluster.run(Duration::from_secs(1));
    let stable = |cluster: &Cluster| {
        let peers = cluster.replica(n(2)).status().peers;
        peers.iter().find(|peer| peer.node == n(3)).map(|peer| peer.stable)
    };
    let before = stable(&cluster).expect("a peer");
    assert!(before > s(3));
    // Lost in the middle: the next answer tells of less.
    cluster.isolate(n(1));
    lose(&mut cluster, 3, &[2], Loss::Record);
    let leader = cluster.replica(n(2)).promised();
    let mark = cluster.mark(n(3));
    assert!(mark.slot < before);
    cluster.inject(
        n(3),
        n(2),
        Message::HeartbeatReply { ballot: leader, mark, stable: mark.slot, beat: 1, full: false },
    );
    assert_eq!(stable(&cluster), Some(before), "that one is old");
    cluster.inject(
        n(3),
        n(2),
        Message::HeartbeatReply { ballot: leader, mark, stable: mark.slot, beat: 1 << 40, full: false },
    );
    assert_eq!(stable(&cluster), Some(mark.slot));
    // Lost at the end: nobody can tell how much, so that it holds everything.
    cluster.inject(n(3), n(2), Message::Reject { ballot: leader, reason: RejectReason::Doubtful });
    assert_eq!(stable(&cluster), Some(Slot::FIRST));
    assert!(cluster.replica_mut(n(2)).trim(s(3)).is_err());
}

#[test]
fn a_lost_copy_is_fetched_again() {
    let mut cluster = Cluster::new(3);
    cluster.elect(n(2));
    cluster.isolate(n(3));
    for _ in 0..3 {
        cluster.commit(n(2), 2);
    }
    cluster.heal();
    cluster.run(Duration::from_secs(2));
    let copied = |append: &crate::Append| matches!(append.entry, LogEntry::Copied { .. });
    let place = cluster.node(n(3)).log.iter().position(copied).expect("it has fetched");
    cluster.isolate(n(3));
    lose(&mut cluster, 3, &[place], Loss::Body);
    assert!(cluster.mark(n(3)).slot < cluster.mark(n(2)).slot);
    cluster.heal();
    cluster.run(Duration::from_secs(2));
    assert_eq!(cluster.delivered(n(3)), cluster.delivered(n(2)));
    assert!(cluster.delivered(n(3)).iter().all(|body| body.kind == BodyKind::Commands));
}
