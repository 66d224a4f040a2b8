//! Learning: by the leader's mark where its own ballot proves the body, by a matching chain, and not otherwise.

use std::time::Duration;

use super::cluster::{Cluster, Disk, Packet, body, is, is_to, n, s};
use crate::ballot::Ballot;
use crate::body::{BodyHandle, Chain, Mark};
use crate::config::Settings;
use crate::effect::HaltReason;
use crate::message::{Message, RejectReason};
use crate::replica::Role;

/// Five nodes, three of which (3, 4 and 5) have accepted `bodies` at `ballot`: chosen, and nobody knows it yet.
fn chosen_elsewhere(ballot: Ballot, bodies: &[BodyHandle]) -> Cluster {
    let mut cluster = Cluster::new(5);
    for node in 3..=5 {
        accept(&mut cluster, node, ballot, bodies);
    }
    cluster
}

/// The same, and node 1 has accepted them too.
fn chosen(ballot: Ballot, bodies: &[BodyHandle]) -> Cluster {
    let mut cluster = chosen_elsewhere(ballot, bodies);
    accept(&mut cluster, 1, ballot, bodies);
    cluster
}

fn accept(cluster: &mut Cluster, node: u32, ballot: Ballot, bodies: &[BodyHandle]) {
    for body in bodies {
        cluster.inject(ballot.node, n(node), Message::Accept { ballot, body: *body, mark: Mark::START });
    }
    cluster.network.clear();
}

fn after(bodies: &[BodyHandle]) -> Mark {
    bodies.iter().fold(Mark::START, Mark::after)
}

const OLD: Ballot = Ballot { round: 3, node: crate::NodeId(2), boot: 77 };
const NEW: Ballot = Ballot { round: 4, node: crate::NodeId(2), boot: 77 };

#[test]
fn a_mark_proves_the_bodies_that_were_accepted_at_the_speakers_ballot() {
    let bodies = [body(1, 2, 1), body(3, 1, 2), body(4, 1, 3)];
    let mut cluster = chosen(OLD, &bodies);
    cluster.inject(n(2), n(1), Message::Heartbeat { ballot: OLD, mark: after(&bodies[..2]), beat: 1, recovered: s(0) });
    assert_eq!(cluster.delivered(n(1)), bodies[..2]);
    // The same news on an accept, which is itself not chosen yet.
    let next = body(5, 1, 4);
    cluster.inject(n(2), n(1), Message::Accept { ballot: OLD, body: next, mark: after(&bodies) });
    assert_eq!(cluster.delivered(n(1)), bodies);
    assert_eq!(cluster.replica(n(1)).accepted().map(|entry| entry.body).collect::<Vec<_>>(), [next]);
    // A body that reaches beyond the mark isn't covered by it, wherever the mark may come from.
    let mut cluster = chosen(OLD, &bodies);
    cluster.inject(
        n(2),
        n(1),
        Message::Heartbeat { ballot: OLD, mark: Mark { slot: s(2), chain: Chain(1) }, beat: 1, recovered: s(0) },
    );
    assert_eq!(cluster.delivered(n(1)), []);
}

#[test]
fn a_mark_says_nothing_of_a_body_from_another_ballot() {
    // Node 1 has a body of an older ballot; the newer leader chose another one there.
    let right = body(1, 1, 2);
    let mut cluster = chosen_elsewhere(NEW, &[right]);
    accept(&mut cluster, 1, OLD, &[body(1, 1, 1)]);
    cluster.inject(n(2), n(1), Message::Heartbeat { ballot: NEW, mark: after(&[right]), beat: 1, recovered: s(0) });
    assert_eq!(cluster.delivered(n(1)), []);
    assert_eq!(cluster.take(is("Fetch")).len(), 0, "the accept may be on its way");
    cluster.now = cluster.now.plus(cluster.settings().fetch_delay);
    cluster.time_out(n(1));
    assert_eq!(cluster.take(is_to("Fetch", n(2))).len(), 1, "it wasn't");
    cluster.inject(n(2), n(1), Message::Accept { ballot: NEW, body: right, mark: Mark::START });
    assert_eq!(cluster.delivered(n(1)), [right], "or it was late");
}

#[test]
fn a_chain_proves_bodies_of_any_ballot_and_only_as_a_whole() {
    let bodies = [body(1, 2, 1), body(3, 1, 2), body(4, 2, 3)];
    let whole = after(&bodies);
    let hear = |mark| {
        let mut cluster = chosen(OLD, &bodies);
        cluster.inject(n(2), n(1), Message::Heartbeat { ballot: NEW, mark, beat: 1, recovered: s(0) });
        cluster.delivered(n(1))
    };
    assert_eq!(hear(whole), bodies);
    assert_eq!(hear(after(&bodies[..1])), bodies[..1]);
    assert_eq!(hear(Mark { chain: Chain(99), ..whole }), [], "some body is another one, and nobody knows which");
    assert_eq!(hear(Mark { slot: s(2), ..whole }), [], "no own body ends there");
    assert_eq!(hear(Mark { slot: s(9), ..whole }), [], "what lies between is missing");
}

#[test]
fn who_does_not_lead_proves_by_the_chain_alone() {
    let bodies = [body(1, 2, 1), body(3, 1, 2)];
    let refuse = |mark| Message::Reject { ballot: OLD, reason: RejectReason::AlreadyChosen { mark } };
    let mut cluster = chosen(OLD, &bodies);
    cluster.inject(n(2), n(1), refuse(Mark { chain: Chain(5), ..after(&bodies) }));
    assert_eq!(cluster.delivered(n(1)), [], "a refusal isn't the word of a leader, whosever ballot it names");
    let mut cluster = chosen(OLD, &bodies);
    cluster.inject(n(2), n(1), refuse(after(&bodies)));
    assert_eq!(cluster.delivered(n(1)), bodies);
}

#[test]
fn a_body_that_comes_after_the_news_of_its_choice_is_learned_at_once() {
    let bodies = [body(1, 1, 1), body(2, 1, 2), body(3, 1, 3)];
    let mut cluster = chosen_elsewhere(OLD, &bodies);
    cluster.inject(n(2), n(1), Message::Heartbeat { ballot: OLD, mark: after(&bodies), beat: 1, recovered: s(0) });
    // In the wrong order, each with an old mark: the news is remembered.
    for (arriving, known) in [(2, 0), (0, 1), (1, 3)] {
        cluster.inject(n(2), n(1), Message::Accept { ballot: OLD, body: bodies[arriving], mark: Mark::START });
        assert_eq!(cluster.delivered(n(1)), bodies[..known]);
    }
    cluster.now = cluster.now.plus(Duration::from_millis(100));
    cluster.time_out(n(1));
    assert!(cluster.take(is("Fetch")).is_empty(), "nothing is missing any more");
}

#[test]
fn one_mark_may_need_chain_and_ballot_together() {
    // The first body was accepted at the old ballot only, the second at the new one only; both are chosen.
    let bodies = [body(1, 1, 1), body(2, 1, 2)];
    let mut cluster = chosen(OLD, &bodies[..1]);
    for node in [1, 3, 4, 5] {
        accept(&mut cluster, node, NEW, &bodies[1..]);
    }
    cluster.inject(n(2), n(1), Message::Heartbeat { ballot: NEW, mark: after(&bodies), beat: 1, recovered: s(0) });
    assert_eq!(cluster.delivered(n(1)), bodies);
}

#[test]
fn what_lies_below_a_new_mark_is_forgotten_whole() {
    // Bodies of an older ballot, dead at the slots of the chosen one: inside it, across its end, and behind it.
    let known = body(1, 4, 9);
    let mut cluster = chosen_elsewhere(NEW, &[known]);
    let (inside, across, behind) = (body(2, 1, 1), body(4, 2, 2), body(6, 1, 3));
    accept(&mut cluster, 1, OLD, &[inside, across, behind]);
    cluster.inject(n(2), n(1), Message::Chosen { body: known, mark: after(&[known]), last: true });
    assert_eq!(cluster.delivered(n(1)), [known]);
    assert_eq!(cluster.replica(n(1)).accepted().map(|entry| entry.body).collect::<Vec<_>>(), [behind]);
}

#[test]
fn stability_is_a_prefix_whatever_becomes_durable_first() {
    let bodies = [body(1, 1, 1), body(2, 1, 2)];
    let mut cluster = chosen_elsewhere(OLD, &bodies);
    cluster.node_mut(n(1)).disk = Disk::WhenTold;
    // The second body comes first, and only its record becomes durable.
    for body in [bodies[1], bodies[0]] {
        accept(&mut cluster, 1, OLD, &[body]);
    }
    cluster.sync_to(n(1), 1);
    cluster.inject(n(2), n(1), Message::Heartbeat { ballot: OLD, mark: after(&bodies), beat: 1, recovered: s(0) });
    let status = cluster.replica(n(1)).status();
    assert_eq!((status.mark.slot, status.stable), (s(3), s(1)));
    cluster.sync(n(1));
    assert_eq!(cluster.replica(n(1)).status().stable, s(3));
}

#[test]
fn different_chains_at_one_slot_halt_the_replica() {
    let known = body(1, 1, 1);
    let ours = after(&[known]);
    let theirs = Mark { chain: Chain(5), ..ours };
    for message in [
        Message::Heartbeat { ballot: OLD, mark: theirs, beat: 1, recovered: s(0) },
        Message::HeartbeatReply { ballot: OLD, mark: theirs, stable: s(1), beat: 1, full: false },
        Message::Accept { ballot: OLD, body: body(2, 1, 9), mark: theirs },
        Message::Reject { ballot: OLD, reason: RejectReason::AlreadyChosen { mark: theirs } },
    ] {
        let mut cluster = chosen(OLD, &[known]);
        cluster.inject(n(2), n(1), Message::Heartbeat { ballot: OLD, mark: ours, beat: 1, recovered: s(0) });
        cluster.network.clear();
        cluster.inject(n(2), n(1), message.clone());
        let diverged = HaltReason::Diverged { ours, theirs, peer: n(2) };
        assert_eq!(cluster.node(n(1)).halted, Some(diverged), "{message:?}");
        assert!(cluster.take(is("HeartbeatReply")).is_empty(), "it says nothing more");
    }
}

#[test]
fn a_chain_that_comes_out_wrong_halts_the_replica() {
    // The leader's ballot proves the body, but its chain is another: one of the two logs isn't the chosen one.
    let known = body(1, 1, 1);
    let mut cluster = chosen(OLD, &[known]);
    let theirs = Mark { slot: s(2), chain: Chain(5) };
    cluster.inject(n(2), n(1), Message::Heartbeat { ballot: OLD, mark: theirs, beat: 1, recovered: s(0) });
    let diverged = HaltReason::Diverged { ours: after(&[known]), theirs, peer: n(2) };
    assert_eq!(cluster.node(n(1)).halted, Some(diverged));

    // The same with a copy: the body came from a peer, whose mark doesn't fit to it.
    let mut cluster = chosen_elsewhere(OLD, &[known]);
    cluster.inject(n(2), n(1), Message::Chosen { body: known, mark: theirs, last: true });
    assert_eq!(cluster.node(n(1)).halted, Some(diverged));
}

#[test]
fn marks_of_the_recent_past_are_compared_too() {
    let bodies = [body(1, 1, 1), body(2, 1, 2), body(3, 1, 3)];
    let mut cluster = chosen(OLD, &bodies);
    cluster.inject(n(2), n(1), Message::Heartbeat { ballot: OLD, mark: after(&bodies), beat: 1, recovered: s(0) });
    let ours = after(&bodies[..2]);
    cluster.inject(n(2), n(1), Message::Heartbeat { ballot: OLD, mark: ours, beat: 1, recovered: s(0) });
    assert_eq!(cluster.node(n(1)).halted, None, "an old mark that fits is just old");
    let theirs = Mark { chain: Chain(5), ..ours };
    cluster.inject(n(2), n(1), Message::Heartbeat { ballot: OLD, mark: theirs, beat: 1, recovered: s(0) });
    assert_eq!(cluster.node(n(1)).halted, Some(HaltReason::Diverged { ours, theirs, peer: n(2) }));
}

#[test]
fn followers_learn_at_once_when_the_pipeline_runs_empty() {
    let mut cluster = Cluster::new(3);
    cluster.elect(n(1));
    let bodies = [cluster.propose(n(1), 2), cluster.propose(n(1), 1)];
    cluster.deliver_all();
    for id in cluster.ids() {
        assert_eq!(cluster.delivered(id), bodies, "without any time-out");
    }
    let said = cluster.sent("Heartbeat");
    cluster.run(Duration::from_millis(50));
    assert_eq!(cluster.sent("Heartbeat"), said, "and the leader says it once");
}

#[test]
fn news_waits_a_moment_for_a_body_to_ride_on() {
    let news_delay = Duration::from_millis(1);
    let mut cluster = Cluster::with(3, 1000, Settings { news_delay, ..Settings::default() }, 1);
    cluster.elect(n(1));
    cluster.run(news_delay);
    let said = cluster.sent("Heartbeat");
    let mut bodies = Vec::new();
    for _ in 0..3 {
        bodies.push(cluster.propose(n(1), 1));
        cluster.deliver_all();
        assert_eq!(cluster.delivered(n(1)), bodies);
        assert_eq!(cluster.delivered(n(2)), bodies[..bodies.len() - 1], "the last choice is no news yet");
    }
    assert_eq!(cluster.sent("Heartbeat"), said, "no heartbeat in between");
    cluster.run(news_delay);
    assert_eq!(cluster.delivered(n(2)), bodies, "then the leader says it without a body");
    assert_eq!(cluster.sent("Heartbeat"), said + 2, "to each of the others, once");
}

#[test]
fn a_leader_learns_from_a_refusal_what_it_lost_the_answers_to() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect(n(1));
    let bodies = [cluster.propose(n(1), 1), cluster.propose(n(1), 2)];
    for packet in cluster.take(is("Accept")) {
        cluster.deliver(packet);
    }
    cluster.network.clear();
    // Node 2 has learned of the choice from elsewhere; the leader hasn't.
    let mark = after(&bodies);
    cluster.inject(n(2), n(1), Message::Reject { ballot: leader, reason: RejectReason::AlreadyChosen { mark } });
    assert_eq!(cluster.delivered(n(1)), bodies);
    assert_eq!(cluster.replica(n(1)).status().open_bodies, 0);
    assert_eq!(cluster.leader(), Some(n(1)), "it chose nothing else than they did");
    cluster.commit(n(1), 1);
}

#[test]
fn a_leader_that_meets_another_choice_than_its_own_steps_down() {
    // Node 4 accepts what leader 1 proposes, and hears of nothing else for long. Nodes 2, 3 and 5 choose another body at
    // a higher ballot, and a copy of it comes to node 1, which still believes to lead.
    let mut cluster = Cluster::new(5);
    let elected = cluster.elect(n(1));
    let own = cluster.propose(n(1), 1);
    for packet in cluster.take(is_to("Accept", n(4))) {
        cluster.deliver(packet);
    }
    cluster.network.clear();
    cluster.isolate(n(1));
    cluster.isolate(n(4));
    cluster.elect(n(2));
    let other = cluster.commit(n(2), 1);
    let mark = cluster.mark(n(2));
    cluster.heal();
    assert!(own.first == other.first && cluster.role(n(1)) == Role::Leader);
    cluster.inject(n(3), n(1), Message::Chosen { body: other, mark, last: true });
    assert_eq!(cluster.delivered(n(1)), [other]);
    assert_eq!(cluster.role(n(1)), Role::Follower);
    // Here is why: at its ballot, its mark would prove its own body to node 4.
    cluster.network.clear();
    cluster.time_out(n(1));
    let speaks = |packet: &Packet| matches!(packet.message, Message::Heartbeat { ballot, .. } if ballot == elected);
    assert!(!cluster.network.iter().any(speaks));
    cluster.run(Duration::from_secs(3));
    for id in cluster.ids() {
        assert_eq!(cluster.delivered(id), [other]);
    }
}
