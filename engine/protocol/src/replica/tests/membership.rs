//! Changing the membership: who rules which slot, who comes in, who goes, and what becomes of a change in trouble.

use std::time::Duration;

use super::cluster::{Cluster, is, is_to, n, refusals, s};
use crate::{
    Ballot, Change, Configuration, Message, NodeId, ReconfigureError, RejectReason, Role, Settings, Slot,
    TransferOutcome,
};

fn nodes(numbers: &[u32]) -> Vec<NodeId> {
    numbers.iter().copied().map(NodeId).collect()
}

fn replace(add: &[u32], remove: &[u32]) -> Change {
    Change::Replace { add: nodes(add), remove: nodes(remove) }
}

/// Three members that have answered their leader, and others that wait to come in.
fn cluster(alpha: u32, waiting: &[u32]) -> Cluster {
    let mut cluster = Cluster::with(3, alpha, Settings::default(), 5);
    for node in waiting {
        cluster.add_node(n(*node));
    }
    cluster.elect(n(1));
    cluster.commit(n(1), 1);
    cluster.run(cluster.settings().heartbeat_interval * 2);
    cluster
}

/// Lets time pass, with commands all along.
fn work(cluster: &mut Cluster, turns: u32) {
    let step = cluster.settings().heartbeat_interval / 3;
    for _ in 0..turns {
        if let Some(leader) = cluster.leader()
            && cluster.opening(leader).is_some()
        {
            cluster.propose(leader, 1);
        }
        cluster.run(step);
    }
}

/// Who rules what follows the chosen prefix of `at`.
fn members(cluster: &Cluster, at: u32) -> Vec<NodeId> {
    cluster.replica(n(at)).status().configuration.members
}

fn settle(cluster: &mut Cluster) -> NodeId {
    cluster.run(cluster.settings().election_timeout * 8);
    let leader = cluster.leader().expect("somebody leads");
    cluster.commit(leader, 1);
    leader
}

#[test]
fn a_node_learns_before_it_votes() {
    let mut cluster = cluster(20, &[4]);
    let slot = cluster.reconfigure(n(1), replace(&[4], &[])).expect("nothing is in the way");
    cluster.deliver_all();
    let status = cluster.replica(n(1)).status();
    let pending = status.pending.expect("chosen, and not ruling yet");
    assert_eq!((pending.chosen_at, pending.learners), (slot, nodes(&[4])));
    work(&mut cluster, 30);
    assert_eq!(members(&cluster, 1), nodes(&[1, 2, 3, 4]), "it has caught up, and came in by itself");
    assert_eq!(cluster.delivered(n(4)), cluster.delivered(n(1)));
    assert_eq!(cluster.replica(n(1)).status().retiring, []);
    // From now on three of four are needed.
    cluster.isolate(n(3));
    cluster.isolate(n(2));
    let before = cluster.mark(n(1));
    cluster.propose(n(1), 1);
    cluster.run(Duration::from_millis(500));
    assert_eq!(cluster.mark(n(1)), before);
}

#[test]
fn an_idle_cluster_moves_a_change_along() {
    let mut cluster = cluster(1000, &[4]);
    cluster.reconfigure(n(1), replace(&[4], &[])).expect("nothing is in the way");
    cluster.run(cluster.settings().heartbeat_interval * 12);
    assert_eq!(members(&cluster, 1), nodes(&[1, 2, 3, 4]));
    assert!(cluster.mark(n(1)).slot > s(2000), "no-ops fill what nobody asked for");
    let slots = cluster.mark(n(1)).slot;
    cluster.run(cluster.settings().heartbeat_interval * 12);
    assert_eq!(cluster.mark(n(1)).slot, slots, "and then there is peace");
}

#[test]
fn three_to_five_to_three_under_load() {
    for alpha in [2, 3, 20, 1000] {
        let mut cluster = cluster(alpha, &[4, 5]);
        cluster.reconfigure(n(1), replace(&[4, 5], &[])).expect("nothing is in the way");
        work(&mut cluster, 40);
        assert_eq!(members(&cluster, 1), nodes(&[1, 2, 3, 4, 5]), "alpha {alpha}");
        cluster.isolate(n(2));
        cluster.isolate(n(3));
        let before = cluster.mark(n(1)).slot;
        work(&mut cluster, 10);
        assert!(cluster.mark(n(1)).slot > before, "five go on without two, alpha {alpha}");
        cluster.heal();
        work(&mut cluster, 10);
        cluster.reconfigure(n(1), replace(&[], &[2, 3])).expect("the others answer");
        work(&mut cluster, 40);
        assert_eq!(members(&cluster, 1), nodes(&[1, 4, 5]), "alpha {alpha}");
        assert!(cluster.replica(n(2)).status().removed && cluster.replica(n(3)).status().removed);
        cluster.crash(n(2), 0);
        cluster.crash(n(3), 0);
        cluster.crash(n(4), 0);
        let before = cluster.mark(n(1)).slot;
        work(&mut cluster, 10);
        assert!(cluster.mark(n(1)).slot > before, "three go on without one, alpha {alpha}");
    }
}

#[test]
fn two_are_replaced_at_once() {
    let mut cluster = cluster(8, &[4, 5]);
    cluster.reconfigure(n(1), replace(&[4, 5], &[2, 3])).expect("nothing is in the way");
    work(&mut cluster, 40);
    assert_eq!(members(&cluster, 1), nodes(&[1, 4, 5]));
    assert_eq!(cluster.replica(n(1)).status().retiring, []);
    for gone in [2, 3] {
        cluster.crash(n(gone), 0);
    }
    cluster.crash(n(1), 0);
    let leader = settle(&mut cluster);
    assert!(leader == n(4) || leader == n(5), "the new ones go on by themselves");
    assert_eq!(cluster.delivered(n(4)), cluster.delivered(n(5)));
}

#[test]
fn everybody_is_replaced_at_once() {
    for alpha in [2, 50] {
        let mut cluster = cluster(alpha, &[4, 5, 6]);
        cluster.reconfigure(n(1), replace(&[4, 5, 6], &[1, 2, 3])).expect("nothing is in the way");
        work(&mut cluster, 60);
        let leader = cluster.leader().expect("somebody leads");
        assert!(leader.0 >= 4, "the leader that was removed has handed over");
        assert_eq!(cluster.node(n(1)).transfers.last(), Some(&(leader, TransferOutcome::Gone)));
        assert_eq!(members(&cluster, leader.0), nodes(&[4, 5, 6]));
        assert_eq!(cluster.replica(leader).status().retiring, [], "and nobody is needed any more");
        for gone in [1, 2, 3] {
            cluster.crash(n(gone), 0);
        }
        let before = cluster.mark(leader).slot;
        work(&mut cluster, 10);
        assert!(cluster.mark(leader).slot > before);
    }
}

#[test]
fn the_leader_is_removed() {
    let mut cluster = cluster(8, &[]);
    cluster.reconfigure(n(1), replace(&[], &[1])).expect("the others answer");
    work(&mut cluster, 30);
    let leader = cluster.leader().expect("somebody leads");
    assert_ne!(leader, n(1));
    assert_eq!(members(&cluster, leader.0), nodes(&[2, 3]));
    assert!(cluster.replica(n(1)).status().removed);
    let asked = cluster.sent("PreVote");
    cluster.run(cluster.settings().election_timeout * 10);
    assert_eq!((cluster.leader(), cluster.sent("PreVote")), (Some(leader), asked), "it keeps quiet");
}

#[test]
fn whoever_is_removed_while_it_is_away_is_told_so_and_disturbs_nobody() {
    let mut cluster = cluster(8, &[]);
    cluster.crash(n(3), 0);
    cluster.reconfigure(n(1), replace(&[], &[3])).expect("two of two are up");
    work(&mut cluster, 20);
    assert_eq!(cluster.replica(n(1)).status().retiring, [], "two of two hold everything");
    let (leader, promised) = (cluster.leader(), cluster.replica(n(1)).promised());
    cluster.restart(n(3));
    cluster.run(cluster.settings().election_timeout * 3);
    assert!(cluster.replica(n(3)).status().removed);
    let asked = cluster.sent("PreVote");
    work(&mut cluster, 40);
    assert_eq!((cluster.leader(), cluster.replica(n(1)).promised()), (leader, promised));
    assert_eq!(cluster.sent("PreVote"), asked, "once told, it asks no more");
}

#[test]
fn the_old_members_are_told_when_they_are_no_longer_needed() {
    let mut cluster = cluster(4, &[4, 5, 6]);
    cluster.reconfigure(n(1), replace(&[4, 5, 6], &[2, 3])).expect("nothing is in the way");
    // The new ones learn, but nobody hears that it is on their disks.
    let mut retiring_seen = false;
    for _ in 0..60 {
        cluster.propose_if_open(n(1));
        for _ in 0..20 {
            let boasts = cluster.take(|packet| {
                matches!(packet.message, Message::HeartbeatReply { stable, .. } if packet.from >= n(5) && stable > s(3))
            });
            for mut packet in boasts {
                if let Message::HeartbeatReply { stable, .. } = &mut packet.message {
                    *stable = s(3);
                }
                cluster.network.push_back(packet);
            }
            let Some(packet) = cluster.network.pop_front() else { break };
            cluster.deliver(packet);
        }
        cluster.deliver_all();
        let status = cluster.replica(n(1)).status();
        retiring_seen |= !status.retiring.is_empty();
        cluster.run(Duration::from_millis(20));
    }
    assert!(retiring_seen, "they stay until it is known that they aren't needed");
    work(&mut cluster, 20);
    assert_eq!(cluster.replica(n(1)).status().retiring, []);
}

#[test]
fn a_joiner_that_dies_holds_nobody_up() {
    let mut cluster = cluster(8, &[4]);
    cluster.reconfigure(n(1), replace(&[4], &[2])).expect("nothing is in the way");
    cluster.deliver_all();
    cluster.crash(n(4), 0);
    work(&mut cluster, 40);
    assert_eq!(members(&cluster, 1), nodes(&[1, 2, 3]), "it never caught up, so nothing changed");
    let refused = cluster.reconfigure(n(1), replace(&[5], &[]));
    assert_eq!(refused, Err(ReconfigureError::Learning(nodes(&[4]))));
    let refused = cluster.reconfigure(n(1), Change::Promote { force: false });
    assert!(matches!(refused, Err(ReconfigureError::Lagging { node: NodeId(4), .. })), "{refused:?}");
    cluster.reconfigure(n(1), Change::Cancel).expect("there is a learner");
    work(&mut cluster, 20);
    let status = cluster.replica(n(1)).status();
    assert_eq!((status.configuration.learners, status.configuration.leaving, status.pending), (vec![], vec![], None));
    assert_eq!(cluster.reconfigure(n(1), Change::Cancel), Err(ReconfigureError::NoLearners));
    assert!(status.peers.iter().all(|peer| peer.node != n(4)), "nobody sends it anything any more");
}

#[test]
fn a_joiner_that_dies_as_a_member_is_one_of_those_that_may_be_down() {
    let mut cluster = cluster(8, &[4, 5]);
    cluster.reconfigure(n(1), replace(&[4, 5], &[])).expect("nothing is in the way");
    while cluster.replica(n(1)).status().configuration.members.len() == 3 {
        work(&mut cluster, 1);
    }
    cluster.crash(n(4), 0);
    let before = cluster.mark(n(1)).slot;
    work(&mut cluster, 20);
    assert!(cluster.mark(n(1)).slot > before);
    assert_eq!(cluster.replica(n(1)).status().retiring, []);
}

#[test]
fn a_change_proposed_in_a_minority_comes_to_nothing() {
    let mut cluster = cluster(8, &[4]);
    cluster.isolate(n(1));
    cluster.reconfigure(n(1), replace(&[4], &[2])).expect("it doesn't know yet that it is alone");
    cluster.run(cluster.settings().election_timeout * 6);
    let leader = cluster.leader().expect("the other two go on");
    assert_ne!(leader, n(1));
    cluster.commit(leader, 1);
    cluster.heal();
    settle(&mut cluster);
    for node in [1, 2, 3] {
        assert_eq!((members(&cluster, node), cluster.replica(n(node)).status().pending), (nodes(&[1, 2, 3]), None));
    }
}

#[test]
fn a_new_leader_goes_on_with_a_change() {
    // A leader change at every stage of a change: the new leader finds it in the log, adopts it, or never hears of it.
    for turns in 0..14 {
        for alpha in [2, 3, 12] {
            let mut cluster = cluster(alpha, &[4, 5]);
            cluster.reconfigure(n(1), replace(&[4, 5], &[2])).expect("nothing is in the way");
            for _ in 0..turns * 3 {
                let Some(packet) = cluster.network.pop_front() else { break };
                cluster.deliver(packet);
            }
            work(&mut cluster, turns);
            cluster.crash(n(1), 0);
            settle(&mut cluster);
            work(&mut cluster, 30);
            cluster.restart(n(1));
            let leader = settle(&mut cluster);
            work(&mut cluster, 30);
            let status = cluster.replica(leader).status();
            let complete = status.configuration.members == nodes(&[1, 3, 4, 5]);
            let never = status.configuration.members == nodes(&[1, 2, 3]) && status.configuration.learners.is_empty();
            assert!(complete || never, "{turns} {alpha}: {status:?}");
            assert!(complete || turns < 3, "once chosen, it goes on: {turns} {alpha}");
        }
    }
}

/// Slots below i + alpha are the old members', those from there on the new ones', however late the new ones promise.
#[test]
fn a_leader_proposes_only_where_it_has_won_the_configuration_that_rules() {
    let mut cluster = cluster(10, &[4, 5]);
    cluster.reconfigure(n(1), replace(&[4, 5], &[2, 3])).expect("nothing is in the way");
    let mut held = Vec::new();
    let mut ruled_from = None;
    for _ in 0..60 {
        cluster.propose_if_open(n(1));
        for _ in 0..200 {
            held.extend(cluster.take(is("Promise")));
            let Some(packet) = cluster.network.pop_front() else { break };
            cluster.deliver(packet);
        }
        let status = cluster.replica(n(1)).status();
        if let Some(pending) = status.pending.filter(|pending| pending.members == nodes(&[1, 4, 5])) {
            let from = pending.rules_from();
            let end =
                cluster.replica(n(1)).accepted().map(|report| report.body.end()).max().unwrap_or(status.mark.slot);
            assert!(end <= from, "nothing is proposed at {from} without their promises");
            ruled_from = Some(from);
        }
        cluster.now = cluster.now.plus(Duration::from_millis(20));
        cluster.time_out_due();
    }
    let from = ruled_from.expect("the promotion was chosen");
    assert_eq!(cluster.mark(n(1)).slot, from, "what the old members rule goes on");
    assert!(held.iter().all(|packet| matches!(packet.message, Message::Promise { from: asked, .. } if asked == from)));
    for packet in held {
        cluster.deliver(packet);
    }
    work(&mut cluster, 10);
    assert!(cluster.mark(n(1)).slot > from);
}

/// What an earlier ballot may have chosen by the new members alone is found by asking them, and adopted.
#[test]
fn what_the_new_members_accepted_at_a_lower_ballot_is_adopted() {
    let mut cluster = cluster(4, &[4, 5]);
    cluster.reconfigure(n(1), replace(&[4, 5], &[2, 3])).expect("nothing is in the way");
    while cluster.replica(n(1)).status().configuration.members != nodes(&[1, 4, 5]) {
        work(&mut cluster, 1);
    }
    // 2 hears nothing any more: it doesn't know of the change's second step.
    cluster.isolate(n(2));
    let body = cluster.commit(n(1), 1);
    work(&mut cluster, 6);
    cluster.crash(n(1), 0);
    cluster.heal();
    let leader = settle(&mut cluster);
    assert!(leader == n(4) || leader == n(5));
    assert!(cluster.delivered(leader).contains(&body));
}

#[test]
fn changes_that_make_no_sense_are_refused() {
    let mut cluster = cluster(50, &[4]);
    let refusal = |cluster: &mut Cluster, change| cluster.reconfigure(n(1), change).expect_err("it is refused");
    assert_eq!(cluster.reconfigure(n(2), replace(&[4], &[])), Err(ReconfigureError::NotLeader));
    assert_eq!(refusal(&mut cluster, replace(&[], &[])), ReconfigureError::Nothing);
    assert_eq!(refusal(&mut cluster, replace(&[3], &[])), ReconfigureError::AlreadyMember(n(3)));
    assert_eq!(refusal(&mut cluster, replace(&[4], &[5])), ReconfigureError::UnknownMember(n(5)));
    assert_eq!(refusal(&mut cluster, Change::Promote { force: true }), ReconfigureError::NoLearners);
    let many: Vec<u32> = (4..=10).collect();
    assert!(matches!(refusal(&mut cluster, replace(&many, &[])), ReconfigureError::Configuration(_)));
    assert!(matches!(refusal(&mut cluster, replace(&[], &[1, 2, 3])), ReconfigureError::Configuration(_)));
    assert!(cluster.network.is_empty(), "nothing happened");
    let slot = cluster.reconfigure(n(1), replace(&[4], &[])).expect("this one is sound");
    assert_eq!(refusal(&mut cluster, replace(&[], &[2])), ReconfigureError::Pending(slot));
    cluster.deliver_all();
    assert_eq!(
        refusal(&mut cluster, replace(&[], &[2])),
        ReconfigureError::Pending(slot),
        "chosen, and not ruling yet"
    );
}

#[test]
fn a_change_that_would_leave_no_quorum_is_refused_with_the_tolerance() {
    let mut cluster = cluster(50, &[]);
    cluster.crash(n(3), 0);
    cluster.run(cluster.settings().election_timeout * 2);
    let refused = cluster.reconfigure(n(1), replace(&[], &[2])).expect_err("only one of two would be up");
    let ReconfigureError::NoQuorum { members: 2, needed: 2, tolerance: 0, .. } = &refused else {
        unreachable!("{refused:?}")
    };
    assert!(refused.to_string().contains("of the 2 members that there would be, 2 must be up, so 0 may be down"));
    cluster.reconfigure(n(1), replace(&[], &[3])).expect("the two that are up can go on without the third");
    work(&mut cluster, 10);
    assert_eq!(members(&cluster, 1), nodes(&[1, 2]));
}

#[test]
fn a_member_may_be_made_before_it_has_caught_up_if_somebody_insists() {
    let mut cluster = cluster(8, &[4]);
    cluster.reconfigure(n(1), replace(&[4], &[])).expect("nothing is in the way");
    for _ in 0..30 {
        // It answers, but never gets what it lacks.
        cluster.propose_if_open(n(1));
        for _ in 0..200 {
            cluster.take(|packet| {
                packet.to == n(4) && matches!(packet.message, Message::Chosen { .. } | Message::Accept { .. })
            });
            let Some(packet) = cluster.network.pop_front() else { break };
            cluster.deliver(packet);
        }
        cluster.now = cluster.now.plus(Duration::from_millis(30));
        cluster.time_out_due();
    }
    assert_eq!(members(&cluster, 1), nodes(&[1, 2, 3]));
    let refused = cluster.reconfigure(n(1), Change::Promote { force: false });
    assert!(matches!(refused, Err(ReconfigureError::Lagging { .. })), "{refused:?}");
    cluster.reconfigure(n(1), Change::Promote { force: true }).expect("three of four are up");
    work(&mut cluster, 30);
    assert_eq!(members(&cluster, 1), nodes(&[1, 2, 3, 4]));
}

#[test]
fn a_learner_never_campaigns_and_its_accepts_do_not_count() {
    let mut cluster = cluster(100, &[4]);
    cluster.reconfigure(n(1), replace(&[4], &[])).expect("nothing is in the way");
    cluster.deliver_all();
    for voter in [2, 3] {
        cluster.isolate(n(voter));
    }
    let before = cluster.mark(n(1));
    cluster.propose(n(1), 1);
    cluster.deliver_all();
    assert_eq!(cluster.mark(n(1)), before, "one member and a learner are no quorum");
    cluster.crash(n(1), 0);
    cluster.run(cluster.settings().election_timeout * 10);
    assert_eq!(cluster.role(n(4)), Role::Follower);
    assert_eq!(cluster.replica(n(4)).promised().node, n(1));
}

#[test]
fn a_restart_knows_the_configurations_that_it_needs() {
    let mut cluster = cluster(12, &[4]);
    cluster.reconfigure(n(1), replace(&[4], &[3])).expect("nothing is in the way");
    for _ in 0..30 {
        work(&mut cluster, 1);
        for node in [2, 4, 3, 1] {
            let before = cluster.replica(n(node)).status();
            cluster.crash(n(node), 0);
            cluster.restart(n(node));
            let after = cluster.replica(n(node)).status();
            if before.mark == after.mark {
                assert_eq!((before.configuration, before.pending), (after.configuration, after.pending));
            }
            cluster.run(cluster.settings().election_timeout / 2);
        }
        cluster.run(cluster.settings().election_timeout * 3);
    }
    let leader = settle(&mut cluster);
    assert_eq!(members(&cluster, leader.0), nodes(&[1, 2, 4]));
}

#[test]
fn a_refusal_for_an_older_configuration_than_the_own_means_nothing() {
    let mut cluster = cluster(8, &[4]);
    cluster.reconfigure(n(1), replace(&[4], &[])).expect("nothing is in the way");
    work(&mut cluster, 20);
    let old = RejectReason::WrongConfiguration { slot: s(1), chosen_at: s(0) };
    cluster.inject(n(2), n(4), Message::Reject { ballot: Ballot::ZERO, reason: old });
    assert!(!cluster.replica(n(4)).status().removed, "that peer lags behind");
    let new = RejectReason::WrongConfiguration { slot: s(9000), chosen_at: s(8000) };
    cluster.inject(n(2), n(4), Message::Reject { ballot: Ballot::ZERO, reason: new });
    assert!(cluster.replica(n(4)).status().removed, "that one knows more");
}

/// A member that lags doesn't know who else is one by now; but whoever knows a longer prefix is heard.
#[test]
fn a_laggard_follows_a_leader_that_it_does_not_know() {
    let mut cluster = cluster(4, &[4, 5]);
    cluster.isolate(n(3));
    cluster.reconfigure(n(1), replace(&[4, 5], &[1, 2])).expect("nothing is in the way");
    work(&mut cluster, 60);
    let leader = cluster.leader().expect("somebody leads");
    assert!(leader == n(4) || leader == n(5), "{leader}");
    for gone in [1, 2] {
        cluster.crash(n(gone), 0);
    }
    let other = if leader == n(4) { n(5) } else { n(4) };
    cluster.heal();
    work(&mut cluster, 20);
    assert_eq!(cluster.delivered(n(3)), cluster.delivered(leader));
    cluster.crash(leader, 0);
    settle(&mut cluster);
    assert_eq!(cluster.delivered(n(3)), cluster.delivered(other));
}

/// Those who rule may be the last to know: whoever knows, and has no vote any more, tells them.
#[test]
fn new_members_hear_of_their_part_from_those_who_had_it_before() {
    let mut cluster = cluster(4, &[4]);
    cluster.reconfigure(n(1), replace(&[4], &[1, 2, 3])).expect("nothing is in the way");
    cluster.deliver_all();
    let missed = |packet: &super::cluster::Packet| {
        packet.to == n(4) && matches!(packet.message, Message::Chosen { .. })
            || matches!(packet.message, Message::Accept { body, .. } if packet.to == n(4) && body.first < s(9))
    };
    // Node 4 answers, and accepts what lies ahead, but has nothing of what came before.
    for turn in 0..120 {
        cluster.propose_if_open(n(1));
        if turn == 20 {
            let _ = cluster.reconfigure(n(1), Change::Promote { force: true });
        }
        for _ in 0..300 {
            cluster.take(missed);
            let Some(packet) = cluster.network.pop_front() else { break };
            cluster.deliver(packet);
        }
        cluster.now = cluster.now.plus(Duration::from_millis(30));
        cluster.time_out_due();
    }
    assert_eq!(members(&cluster, 1), nodes(&[4]), "{:?}", cluster.replica(n(1)).status());
    assert!(cluster.mark(n(4)).slot < cluster.mark(n(1)).slot, "it doesn't know that it rules");
    for node in [1, 2, 3] {
        cluster.crash(n(node), 0);
        cluster.restart(n(node));
    }
    cluster.network.clear();
    let leader = settle(&mut cluster);
    assert_eq!(leader, n(4));
}

#[test]
fn a_stranger_is_told_which_configuration_rules() {
    let mut cluster = cluster(4, &[4]);
    cluster.reconfigure(n(1), replace(&[4], &[3])).expect("nothing is in the way");
    work(&mut cluster, 40);
    let configuration = cluster.replica(n(1)).status().configuration;
    cluster.network.clear();
    let ballot = Ballot { round: 99, node: n(3), boot: 1 };
    cluster.inject(n(3), n(1), Message::PreVote { ballot, from: s(1) });
    let told =
        RejectReason::WrongConfiguration { slot: configuration.rules_from(), chosen_at: configuration.chosen_at };
    assert_eq!(refusals(&cluster.take(is_to("Reject", n(3)))), [told]);
}

#[test]
fn quorums_of_other_sizes_keep_their_kind() {
    let genesis = Configuration {
        prepare_quorum: 3,
        accept_quorum: 2,
        ..Configuration::genesis(nodes(&[1, 2, 3, 4]), 6).expect("sound")
    };
    let mut cluster = Cluster::ruled_by(genesis, Settings::default(), 3);
    cluster.add_node(n(5));
    cluster.elect(n(1));
    cluster.run(cluster.settings().heartbeat_interval * 2);
    cluster.reconfigure(n(1), replace(&[5], &[])).expect("nothing is in the way");
    work(&mut cluster, 30);
    let configuration = cluster.replica(n(1)).status().configuration;
    assert_eq!((configuration.members.len(), configuration.prepare_quorum, configuration.accept_quorum), (5, 4, 2));
}

/// Barriers, trims and transfers go by everybody who rules an open slot.
#[test]
fn trims_wait_for_learners_and_for_those_who_retire() {
    let mut cluster = cluster(1000, &[4]);
    work(&mut cluster, 6);
    cluster.isolate(n(4));
    cluster.reconfigure(n(1), replace(&[4], &[])).expect("nothing is in the way");
    work(&mut cluster, 6);
    assert_eq!(cluster.replica(n(1)).held_by_all(), Slot::FIRST, "the learner needs all of it");
    cluster.heal();
    work(&mut cluster, 12);
    assert!(cluster.replica(n(1)).held_by_all() > Slot::FIRST);
    assert_eq!(cluster.delivered(n(4)), cluster.delivered(n(1)));
}
