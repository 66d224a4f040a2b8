//! One test for each claim of the papers that the core must make good, for a whole log of instances.
//!
//! - Lamport, *Paxos Made Simple* (2001): §2.1 the problem, §2.2 choosing a value, §2.3 learning, §2.4 progress, §2.5 the
//!   implementation, §3 the state machine. A body stands for the value, or for the values of several instances at once.
//! - Paxos with tickets: the naive ticket protocol (algorithm 2.1), why it is wrong, and Paxos (algorithm 2.2).
//! - Collisions of proposal numbers: what an acceptor answers (agree, suggest, abort, ignore).
//! - ZooKeeper told as Paxos; Howard and others, *Flexible Paxos* (2016).
//!
//! The test cluster checks at every step that nothing is delivered but what is chosen, and that one body is chosen per
//! slot (see its module documentation), so agreement is asserted here even where no line says so.

mod cluster;

use std::time::Duration;

use cluster::{Cluster, Disk, Packet, ballot, body, is, is_to, n, refusals, s};
use synod_protocol::{
    AcceptedBody, Ballot, BodyHandle, BodyKind, Chain, Configuration, Mark, Message, NodeId, RejectReason, Role,
    Settings, Slot,
};

fn accept(cluster: &mut Cluster, node: u32, ballot: Ballot, body: BodyHandle) {
    cluster.inject(ballot.node, n(node), Message::Accept { ballot, body, mark: Mark::START });
}

fn prepare(cluster: &mut Cluster, node: u32, ballot: Ballot) {
    cluster.inject(ballot.node, n(node), Message::Prepare { ballot, from: Slot::FIRST });
}

fn accepted_by(cluster: &Cluster, node: u32) -> Vec<(Ballot, BodyHandle)> {
    cluster.replica(n(node)).accepted().map(|report| (report.ballot, report.body)).collect()
}

fn reported(packets: &[Packet]) -> Vec<AcceptedBody> {
    let reports = packets.iter().filter_map(|packet| match &packet.message {
        Message::Promise { accepted, .. } => Some(accepted.clone()),
        _ => None,
    });
    reports.flatten().collect()
}

// --- Paxos Made Simple, §2.1: the problem ----------------------------------------------------------------------------

/// §2.1: agents may stop and restart, and what they must remember, they remember.
#[test]
fn a_restarted_acceptor_remembers_what_it_promised_and_accepted() {
    let mut cluster = Cluster::new(3);
    accept(&mut cluster, 2, ballot(3, 1), body(1, 1, 1));
    prepare(&mut cluster, 2, ballot(5, 3));
    cluster.network.clear();
    cluster.crash(n(2), 0);
    cluster.restart(n(2));
    assert_eq!(cluster.replica(n(2)).promised(), ballot(5, 3));
    assert_eq!(accepted_by(&cluster, 2), [(ballot(3, 1), body(1, 1, 1))]);
}

/// §2.1: messages take arbitrarily long, are duplicated and lost.
#[test]
fn messages_of_long_ago_and_their_doubles_do_no_harm() {
    let mut cluster = Cluster::new(3);
    cluster.elect(n(1));
    let first = cluster.propose(n(1), 1);
    let old: Vec<Packet> = cluster.network.iter().cloned().collect();
    cluster.deliver_all();
    cluster.isolate(n(1));
    cluster.elect(n(2));
    cluster.heal();
    let second = cluster.commit(n(2), 1);
    for packet in old.iter().chain(&old) {
        cluster.deliver(packet.clone());
    }
    cluster.run(Duration::from_secs(2));
    for id in cluster.ids() {
        assert_eq!(cluster.delivered(id), [first, second]);
    }
}

/// §2.1: only a value that has been proposed may be chosen, a single one is chosen, and nobody learns of a choice that
/// wasn't made.
#[test]
fn nothing_is_learned_before_it_is_chosen() {
    let mut cluster = Cluster::new(5);
    cluster.elect(n(1));
    let proposed = cluster.propose(n(1), 1);
    let mut answers = Vec::new();
    for packet in cluster.take(is("Accept")) {
        cluster.deliver(packet);
        answers.extend(cluster.take(is("Accepted")));
    }
    cluster.deliver(answers.remove(0));
    assert_eq!(cluster.delivered(n(1)), [], "the leader and one more are no majority of five");
    cluster.deliver(answers.remove(0));
    assert_eq!(cluster.delivered(n(1)), [proposed]);
}

// --- Paxos Made Simple, §2.2: choosing a value -----------------------------------------------------------------------

/// §2.2, P1: an acceptor must accept the first proposal that it receives.
#[test]
fn p1_an_acceptor_accepts_the_first_proposal_that_it_receives() {
    let mut cluster = Cluster::new(3);
    accept(&mut cluster, 2, ballot(1, 3), body(7, 2, 1));
    assert_eq!(cluster.take(is("Accepted")).len(), 1, "in every instance, without any prepare before it");
    assert_eq!(accepted_by(&cluster, 2), [(ballot(1, 3), body(7, 2, 1))]);
}

/// §2.2, P1a: an acceptor accepts a proposal numbered n if and only if it has not responded to a prepare request with a
/// greater number.
#[test]
fn p1a_a_promise_shuts_out_lower_ballots_and_no_others() {
    for (round, node, accepts) in [(4, 3, false), (5, 1, false), (5, 2, true), (5, 3, true), (6, 1, true)] {
        let mut cluster = Cluster::new(3);
        // Node 1 has promised 5.n2; of node 1 itself no message comes to it.
        let acceptor = if node == 1 { 3 } else { 1 };
        prepare(&mut cluster, acceptor, ballot(5, 2));
        cluster.network.clear();
        accept(&mut cluster, acceptor, ballot(round, node), body(1, 1, 1));
        assert_eq!(accepted_by(&cluster, acceptor).len(), usize::from(accepts), "{round}.n{node}");
        assert_eq!(cluster.take(is("Accepted")).len(), usize::from(accepts), "{round}.n{node}");
    }
}

/// §2.2, phase 1 (b): the answer names the highest-numbered proposal that the acceptor has accepted, per instance.
#[test]
fn phase_1b_reports_the_highest_numbered_proposal_of_each_instance() {
    let mut cluster = Cluster::new(3);
    accept(&mut cluster, 2, ballot(1, 1), body(1, 1, 11));
    accept(&mut cluster, 2, ballot(1, 1), body(2, 1, 12));
    accept(&mut cluster, 2, ballot(3, 1), body(1, 1, 31));
    cluster.network.clear();
    prepare(&mut cluster, 2, ballot(4, 3));
    let report = |round, body| AcceptedBody { ballot: ballot(round, 1), body };
    assert_eq!(reported(&cluster.take(is("Promise"))), [report(3, body(1, 1, 31)), report(1, body(2, 1, 12))]);
}

/// §2.2, P2c: what a proposer issues is the value of the highest-numbered proposal among the answers of its quorum.
#[test]
fn p2c_the_value_of_the_highest_ballot_in_the_quorum_is_proposed() {
    let mut cluster = Cluster::new(5);
    accept(&mut cluster, 2, ballot(2, 4), body(1, 1, 2));
    accept(&mut cluster, 3, ballot(3, 5), body(1, 1, 3));
    accept(&mut cluster, 4, ballot(4, 5), body(1, 1, 4));
    cluster.network.clear();
    for outside in [4, 5] {
        cluster.isolate(n(outside));
    }
    cluster.elect(n(1));
    assert_eq!(cluster.delivered(n(1)), [body(1, 1, 3)], "of nodes 1, 2 and 3; what node 4 has was chosen nowhere");
}

/// §2.2, P2c: if no acceptor of the quorum has accepted anything, the proposer is free to propose any value.
#[test]
fn p2c_where_nothing_was_accepted_the_proposer_is_free() {
    let mut cluster = Cluster::new(3);
    accept(&mut cluster, 3, ballot(2, 2), body(1, 1, 2));
    cluster.network.clear();
    cluster.isolate(n(3));
    cluster.elect(n(1));
    let own = cluster.commit(n(1), 1);
    cluster.heal();
    cluster.run(Duration::from_secs(2));
    assert_eq!((own.first, cluster.delivered(n(3))), (s(1), vec![own]), "one accept of three had chosen nothing");
}

/// §2.2, P2: once a value is chosen, every higher-numbered proposal that is chosen has that value.
#[test]
fn p2_what_is_chosen_stays_chosen_under_every_later_leader() {
    let mut cluster = Cluster::new(3);
    accept(&mut cluster, 2, ballot(1, 1), body(1, 1, 1));
    accept(&mut cluster, 3, ballot(1, 1), body(1, 1, 1));
    cluster.network.clear();
    for (leader, away) in [(1, 3), (3, 1), (2, 3), (1, 2)] {
        cluster.isolate(n(away));
        cluster.elect(n(leader));
        assert_eq!(cluster.delivered(n(leader))[0], body(1, 1, 1));
        cluster.commit(n(leader), 1);
        cluster.heal();
        cluster.run(Duration::from_millis(300));
    }
}

/// §2.2: a proposer may make several proposals, and abandon one in the middle of the protocol at any time.
#[test]
fn a_proposer_may_abandon_a_proposal_at_any_step() {
    // Whatever the leader had sent when it died, nothing it left behind blocks the next one.
    for steps in 0..12 {
        let mut cluster = Cluster::new(3);
        cluster.now = cluster.replica(n(1)).poll_deadline();
        cluster.time_out(n(1));
        for _ in 0..steps {
            if cluster.role(n(1)) == Role::Leader && cluster.sent("Accept") == 0 {
                cluster.propose(n(1), 1);
            }
            if let Some(packet) = cluster.network.pop_front() {
                cluster.deliver(packet);
            }
        }
        cluster.crash(n(1), 0);
        cluster.run(Duration::from_secs(5));
        let leader = cluster.leader().unwrap_or_else(|| panic!("after {steps} steps"));
        cluster.commit(leader, 1);
        cluster.restart(n(1));
        cluster.run(Duration::from_secs(2));
        assert_eq!(cluster.mark(n(1)), cluster.mark(leader), "after {steps} steps");
    }
}

/// §2.2: an acceptor need not answer a prepare request that it will not honour, but telling the proposer to abandon its
/// proposal is a good optimisation.
#[test]
fn a_preempted_proposer_is_told_and_abandons_its_proposal() {
    let mut cluster = Cluster::new(3);
    let low = cluster.elect(n(1));
    prepare(&mut cluster, 2, ballot(low.round + 3, 3));
    cluster.network.clear();
    cluster.propose(n(1), 1);
    cluster.deliver_all();
    assert_eq!(cluster.role(n(1)), Role::Follower);
    cluster.elect(n(1));
    assert_eq!(cluster.replica(n(1)).promised().round, low.round + 4);
}

// --- Paxos Made Simple, §2.3: learning a chosen value ----------------------------------------------------------------

/// §2.3: acceptors answer one distinguished learner, which informs the others.
#[test]
fn learners_hear_from_one_distinguished_learner() {
    let mut cluster = Cluster::new(5);
    cluster.elect(n(1));
    let chosen = cluster.propose(n(1), 1);
    for packet in cluster.take(is("Accept")) {
        cluster.deliver(packet);
    }
    let answers = cluster.take(is("Accepted"));
    assert!(answers.len() == 4 && answers.iter().all(|packet| packet.to == n(1)));
    for packet in answers {
        cluster.deliver(packet);
    }
    cluster.deliver_all();
    assert!(cluster.ids().into_iter().all(|id| cluster.delivered(id) == [chosen]));
}

/// §2.3: through loss of messages a value may be chosen and no learner ever finds out; a proposer that issues a proposal
/// finds out.
#[test]
fn a_choice_that_nobody_knows_of_is_found_by_proposing_again() {
    let mut cluster = Cluster::new(3);
    cluster.elect(n(1));
    let chosen = cluster.propose(n(1), 2);
    for packet in cluster.take(is("Accept")) {
        cluster.deliver(packet);
    }
    cluster.network.clear();
    cluster.crash(n(1), 0);
    assert!([2, 3].iter().all(|node| cluster.delivered(n(*node)).is_empty()));
    cluster.elect(n(2));
    assert_eq!(cluster.delivered(n(2)), [chosen]);
}

// --- Paxos Made Simple, §2.4: progress -------------------------------------------------------------------------------

/// §2.4: two proposers may preempt each other for ever; nothing is chosen then, and nothing wrong either.
#[test]
fn duelling_proposers_make_no_progress_and_no_mistake() {
    let mut cluster = Cluster::new(3);
    for round in 1..50 {
        for node in [1, 3] {
            let ballot = ballot(round, node);
            prepare(&mut cluster, 2, ballot);
            // Before its accept arrives, the other one prepares.
            let other = Ballot { round: round + u64::from(node == 3), node: n(4 - node), boot: 77 };
            prepare(&mut cluster, 2, other);
            accept(&mut cluster, 2, ballot, body(1, 1, u128::from(round)));
        }
    }
    assert_eq!(accepted_by(&cluster, 2), []);
    assert!(cluster.oracle.chosen().is_empty());
}

/// §2.4: progress comes from electing a single distinguished proposer, for which randomness and real time are needed
/// (Fischer, Lynch and Paterson); safety doesn't depend on the election.
#[test]
fn random_waits_end_a_duel() {
    for seed in 0..30 {
        let mut cluster = Cluster::with(3, 100, Settings::default(), seed);
        // All begin at the very same moment.
        let start = cluster.ids().into_iter().map(|id| cluster.replica(id).poll_deadline()).max().expect("three");
        cluster.now = start;
        cluster.time_out_due();
        cluster.run(Duration::from_secs(6));
        let leader = cluster.leader().unwrap_or_else(|| panic!("seed {seed}"));
        cluster.commit(leader, 1);
    }
}

// --- Paxos Made Simple, §2.5: the implementation ---------------------------------------------------------------------

/// §2.5: an acceptor records its intended response in stable storage before actually sending it.
#[test]
fn the_response_is_recorded_before_it_is_sent() {
    let mut cluster = Cluster::new(3);
    cluster.node_mut(n(2)).disk = Disk::WhenTold;
    accept(&mut cluster, 2, ballot(1, 1), body(1, 1, 1));
    prepare(&mut cluster, 2, ballot(2, 3));
    assert!(cluster.network.is_empty());
    cluster.sync(n(2));
    let kinds: Vec<_> = cluster.network.iter().map(|packet| cluster::kind_of(&packet.message)).collect();
    assert_eq!(kinds, ["Accepted", "Promise"]);
    // And what was never sent may be forgotten.
    let mut cluster = Cluster::new(3);
    cluster.node_mut(n(2)).disk = Disk::WhenTold;
    prepare(&mut cluster, 2, ballot(2, 3));
    cluster.crash(n(2), 0);
    cluster.restart(n(2));
    assert_eq!(cluster.replica(n(2)).promised(), Ballot::ZERO);
}

/// §2.5: no two proposals have the same number: proposers draw theirs from disjoint sets, and each remembers in stable
/// storage the highest that it has ever attempted.
#[test]
fn no_two_candidacies_ever_share_a_ballot() {
    let mut seen = std::collections::BTreeSet::new();
    let mut cluster = Cluster::new(3);
    for turn in 0..12 {
        let node = n(1 + turn % 3);
        for other in cluster.ids() {
            // Even a life that forgets everything that wasn't durable.
            cluster.crash(other, 0);
            cluster.restart(other);
        }
        let elected = cluster.elect(node);
        assert!(elected.node == node && seen.insert(elected), "{elected}");
        assert_eq!(seen.last(), Some(&elected), "and each is higher than all before");
    }
}

// --- Paxos Made Simple, §3: the state machine ------------------------------------------------------------------------

/// §3, the example: a new leader knows commands 1 to 134, 138 and 139. Phase 1 for 135 to 137 and for all above 139
/// reveals proposals in 135 and 140. It proposes those again, fills 136 and 137 with no-ops, and goes on with 141.
#[test]
fn the_example_of_the_paper() {
    let mut cluster = Cluster::new(3);
    let old = cluster.elect(n(1));
    for _ in 1..=134 {
        cluster.commit(n(1), 1);
    }
    // The old leader runs ahead. 135 and 140 reach node 3 only, 138 and 139 reach both, 136 and 137 nobody.
    let ahead: Vec<BodyHandle> = (135..=140).map(|_| cluster.propose(n(1), 1)).collect();
    for packet in cluster.take(is("Accept")) {
        let first = packet.message.body().expect("an accept brings one").first.0;
        if matches!(first, 138 | 139) || (packet.to == n(3) && matches!(first, 135 | 140)) {
            cluster.deliver(packet);
        }
    }
    cluster.network.clear();
    cluster.crash(n(1), 0);
    let new = cluster.elect(n(2));
    assert!(new > old);
    let opening = cluster.opening(n(2)).expect("everything is closed");
    let own = cluster.commit(n(2), 1);
    assert_eq!((opening.first, own.first), (s(141), s(141)));
    let log = cluster.delivered(n(2));
    let filled: Vec<_> =
        log[134..].iter().map(|body| (body.first.0, body.count, body.kind == BodyKind::NoOp)).collect();
    // The two no-ops are one body, as any contiguous range of instances may be.
    assert_eq!(
        filled,
        [(135, 1, false), (136, 2, true), (138, 1, false), (139, 1, false), (140, 1, false), (141, 1, false)]
    );
    assert_eq!((log[134], log[136], log[137], log[138]), (ahead[0], ahead[3], ahead[4], ahead[5]));
    assert_eq!(cluster.delivered(n(3)), log);
}

/// §3: phase 1 runs once for infinitely many instances, with one short message and an answer that is just as short
/// unless phase 2 messages were received.
#[test]
fn phase_one_covers_all_instances_with_one_short_message() {
    let mut cluster = Cluster::new(3);
    for first in [3, 900, 70_000] {
        let told = Mark { slot: s(first), chain: Chain(1) };
        cluster.inject(n(3), n(2), Message::Accept { ballot: ballot(1, 3), body: body(first, 1, 7), mark: told });
    }
    cluster.network.clear();
    prepare(&mut cluster, 2, ballot(2, 1));
    prepare(&mut cluster, 3, ballot(2, 1));
    let firsts = |packets: Vec<Packet>| reported(&packets).iter().map(|report| report.body.first.0).collect::<Vec<_>>();
    let answers = cluster.take(is("Promise"));
    let (busy, fresh): (Vec<Packet>, Vec<Packet>) = answers.into_iter().partition(|packet| packet.from == n(2));
    assert_eq!((busy.len(), fresh.len()), (1, 1));
    assert_eq!((firsts(busy), firsts(fresh)), (vec![3, 900, 70_000], vec![]));
}

/// §3: once phase 1 is done, a command costs the two message delays of phase 2, less than which no algorithm needs.
#[test]
fn in_normal_operation_only_phase_two_is_executed() {
    let mut cluster = Cluster::new(3);
    cluster.elect(n(1));
    let before = (cluster.sent("Prepare"), cluster.sent("Promise"), cluster.sent("PreVote"));
    for _ in 0..100 {
        let proposed = cluster.propose(n(1), 1);
        for kind in ["Accept", "Accepted"] {
            for packet in cluster.take(is(kind)) {
                cluster.deliver(packet);
            }
        }
        assert_eq!(cluster.delivered(n(1)).last(), Some(&proposed), "after one round trip");
        cluster.deliver_all();
    }
    assert_eq!((cluster.sent("Prepare"), cluster.sent("Promise"), cluster.sent("PreVote")), before);
}

/// §3: the leader may propose command 142 before it knows 141 to be chosen, and 142 may be chosen first. It is executed
/// after 141 all the same, whose lost messages are sent again.
#[test]
fn commands_may_be_chosen_out_of_order_and_are_executed_in_order() {
    let mut cluster = Cluster::new(3);
    cluster.elect(n(1));
    let (first, second) = (cluster.propose(n(1), 1), cluster.propose(n(1), 1));
    cluster.take(|packet| packet.message.body() == Some(&first));
    cluster.deliver_all();
    assert_eq!(cluster.oracle.chosen().values().copied().collect::<Vec<_>>(), [second]);
    assert_eq!(cluster.delivered(n(1)), []);
    cluster.run(Duration::from_millis(500));
    for id in cluster.ids() {
        assert_eq!(cluster.delivered(id), [first, second]);
    }
}

/// §3: if a leader may get alpha commands ahead, a gap of up to alpha - 1 can arise, and no larger one.
#[test]
fn a_gap_is_never_longer_than_alpha_less_one() {
    let mut cluster = Cluster::with(3, 5, Settings::default(), 1);
    cluster.elect(n(1));
    cluster.commit(n(1), 1);
    let ahead: Vec<BodyHandle> = std::iter::from_fn(|| {
        let opening = cluster.opening(n(1))?;
        assert!(opening.first < s(2 + 5), "slot s is proposed only below the chosen prefix + alpha");
        Some(cluster.propose(n(1), 1))
    })
    .collect();
    assert_eq!(ahead.len(), 5);
    // Only the last one gets through.
    let last = *ahead.last().expect("five");
    cluster.take(|packet| packet.message.body().is_some_and(|body| *body != last));
    cluster.deliver_all();
    cluster.network.clear();
    cluster.crash(n(1), 0);
    cluster.elect(n(2));
    let log = cluster.delivered(n(2));
    assert_eq!((log[1].kind, log[1].count, log[2]), (BodyKind::NoOp, 4, last));
}

/// §3: the server that believes to be leader may be wrong; two of them may keep each other from choosing, but two
/// servers never disagree on the value of a command.
#[test]
fn two_leaders_at_once_never_disagree() {
    let mut cluster = Cluster::new(5);
    cluster.elect(n(1));
    cluster.isolate(n(1));
    cluster.elect(n(5));
    cluster.heal();
    // Both think that they lead, and both propose for the same instance; every node hears both, in either order.
    let (old, new) = (cluster.propose(n(1), 1), cluster.propose(n(5), 1));
    assert_eq!(old.first, new.first);
    for (node, order) in [(2, [1, 5]), (3, [5, 1]), (4, [1, 5])] {
        for leader in order {
            for packet in cluster.take(|packet| packet.from == n(leader) && packet.to == n(node)) {
                cluster.deliver(packet);
            }
        }
    }
    cluster.run(Duration::from_secs(5));
    for id in cluster.ids() {
        assert_eq!(cluster.delivered(id), [new]);
    }
}

/// §3: while no server acts as leader, no new commands are proposed.
#[test]
fn without_a_leader_nothing_is_proposed() {
    let mut cluster = Cluster::new(3);
    assert!(cluster.ids().into_iter().all(|id| cluster.opening(id).is_none()));
    cluster.elect(n(1));
    cluster.isolate(n(1));
    cluster.run(cluster.settings().election_timeout * 3);
    assert_eq!(cluster.opening(n(1)), None);
}

/// §3: the configuration that rules instance i + alpha is fixed by the commands up to i. Only genesis exists yet, and
/// every instance is ruled by it; who isn't named there has no say.
#[test]
fn every_instance_is_ruled_by_a_known_configuration() {
    let mut cluster = Cluster::new(3);
    let configurations = cluster.replica(n(1)).configurations().clone();
    for slot in [s(1), s(2), s(70_000), s(u64::MAX)] {
        let members = &configurations.configuration_at(slot).members;
        assert_eq!((members.len(), configurations.configuration_at(slot).chosen_at), (3, s(0)));
    }
    let leader = cluster.elect(n(1));
    let open = cluster.propose(n(1), 1);
    cluster.network.clear();
    for stranger in 4..9 {
        let vote = Message::Accepted { ballot: leader, first: open.first, id: open.id };
        cluster.inject(n(stranger), n(1), vote);
    }
    assert_eq!(cluster.delivered(n(1)), []);
    let refused = refusals(&cluster.take(is("Reject")));
    assert_eq!(refused, [RejectReason::WrongConfiguration { slot: s(1), chosen_at: s(0) }; 5]);
}

// --- Flexible Paxos --------------------------------------------------------------------------------------------------

/// *Flexible Paxos* §1: only quorums of different phases must meet.
#[test]
fn accept_quorums_may_be_small_if_prepare_quorums_are_large() {
    let majority = Configuration::genesis((1..=6).map(NodeId).collect(), 100).expect("a sound genesis");
    let genesis = Configuration { prepare_quorum: 5, accept_quorum: 2, ..majority };
    let mut cluster = Cluster::ruled_by(genesis, Settings::default(), 1);
    cluster.elect(n(1));
    let chosen = cluster.propose(n(1), 1);
    for packet in cluster.take(is_to("Accept", n(6))) {
        cluster.deliver(packet);
    }
    cluster.network.clear();
    // Chosen by nodes 1 and 6, of whom one is gone: any five still show it.
    cluster.crash(n(1), 0);
    cluster.elect(n(2));
    assert_eq!(cluster.delivered(n(2)), [chosen]);
}

// --- Paxos with tickets ----------------------------------------------------------------------------------------------

/// Algorithm 2.1 goes wrong here: a first client has its majority but is slow to say so, a second one takes newer tickets
/// and stores its command on some servers, then the first one's announcement makes servers execute different commands.
/// The cure: the second one is told what is stored, and adopts it.
#[test]
fn a_slow_announcement_meets_a_newer_ticket() {
    let mut cluster = Cluster::new(3);
    cluster.elect(n(1));
    let first = cluster.propose(n(1), 1);
    for packet in cluster.take(is("Accept")) {
        cluster.deliver(packet);
    }
    // A majority has stored it. The announcement is under way for a long time.
    let announcement = cluster.take(is("Accepted"));
    cluster.isolate(n(1));
    cluster.elect(n(2));
    let second = cluster.commit(n(2), 1);
    cluster.heal();
    for packet in announcement {
        cluster.deliver(packet);
    }
    cluster.run(Duration::from_secs(2));
    for id in cluster.ids() {
        assert_eq!(cluster.delivered(id), [first, second]);
    }
}

/// Algorithm 2.2, lines 3 to 5: a ticket is granted only if it is larger than every one before, and the grant tells
/// what is stored, and under which ticket.
#[test]
fn a_ticket_is_granted_only_if_it_is_the_largest() {
    let mut cluster = Cluster::new(3);
    accept(&mut cluster, 2, ballot(4, 1), body(1, 1, 4));
    cluster.network.clear();
    prepare(&mut cluster, 2, ballot(3, 3));
    assert_eq!(reported(&cluster.take(is("Promise"))), []);
    cluster.network.clear();
    prepare(&mut cluster, 2, ballot(5, 3));
    let stored = AcceptedBody { ballot: ballot(4, 1), body: body(1, 1, 4) };
    assert_eq!(reported(&cluster.take(is("Promise"))), [stored]);
}

/// Algorithm 2.2, lines 14 to 17: a command is stored only under the newest ticket; the older one is void.
#[test]
fn an_older_ticket_stores_nothing() {
    let mut cluster = Cluster::new(3);
    prepare(&mut cluster, 2, ballot(4, 1));
    prepare(&mut cluster, 2, ballot(5, 3));
    cluster.network.clear();
    accept(&mut cluster, 2, ballot(4, 1), body(1, 1, 4));
    assert_eq!(accepted_by(&cluster, 2), []);
    assert_eq!(refusals(&cluster.take(is("Reject"))), [RejectReason::HigherBallot { promised: ballot(5, 3) }]);
}

/// "A negative answer saves waiting": whoever is refused tries again with a larger ticket, after a random pause.
#[test]
fn a_refusal_is_answered_at_once_and_the_pause_after_it_is_random() {
    let mut pauses = std::collections::BTreeSet::new();
    for seed in 0..20 {
        let mut cluster = Cluster::with(3, 100, Settings::default(), seed);
        prepare(&mut cluster, 2, ballot(9, 3));
        cluster.network.clear();
        cluster.cut(n(1), n(3));
        cluster.now = cluster.replica(n(1)).poll_deadline();
        let asked = cluster.now;
        cluster.time_out(n(1));
        cluster.deliver_all();
        assert_eq!((cluster.now, cluster.role(n(1))), (asked, Role::Follower), "no time-out was waited for");
        let pause = cluster.replica(n(1)).poll_deadline().since(asked);
        let shortest = cluster.settings().election_timeout;
        assert!(pause >= shortest / 4 && pause < shortest);
        pauses.insert(pause);
    }
    assert!(pauses.len() > 15, "{pauses:?}");
}

// --- Collisions of proposal numbers ----------------------------------------------------------------------------------

/// An acceptor answers at once what it makes of a number: *agree* to a new one, *abort* below a newer one, *ignore* what
/// is chosen already. *Suggest*, for a number that is already here, can't happen between honest proposers, since a
/// ballot carries its proposer and its process: it is refused, with an alarm.
#[test]
fn an_acceptor_answers_agree_abort_ignore_or_alarm() {
    let mut cluster = Cluster::new(3);
    prepare(&mut cluster, 2, ballot(1, 3));
    assert_eq!(cluster.take(is("Promise")).len(), 1, "agree");
    prepare(&mut cluster, 2, ballot(1, 3));
    assert_eq!(cluster.take(is("Promise")).len(), 1, "the same proposer may ask twice");
    prepare(&mut cluster, 2, ballot(1, 1));
    let abort = RejectReason::HigherBallot { promised: ballot(1, 3) };
    assert_eq!(refusals(&cluster.take(is("Reject"))), [abort]);

    let chosen = body(1, 1, 1);
    let mark = Mark::START.after(&chosen);
    let leader = ballot(2, 3);
    accept(&mut cluster, 1, leader, chosen);
    accept(&mut cluster, 2, leader, chosen);
    cluster.inject(n(3), n(2), Message::Heartbeat { ballot: leader, mark, beat: 1, recovered: s(0) });
    cluster.network.clear();
    accept(&mut cluster, 2, ballot(3, 1), body(1, 1, 9));
    assert_eq!(refusals(&cluster.take(is("Reject"))), [RejectReason::AlreadyChosen { mark }], "ignore");

    accept(&mut cluster, 2, ballot(4, 1), body(2, 1, 10));
    cluster.network.clear();
    accept(&mut cluster, 2, ballot(4, 1), body(2, 1, 11));
    assert_eq!(refusals(&cluster.take(is("Reject"))), [RejectReason::BallotConflict { first: s(2) }], "alarm");
    assert!(cluster.node(n(2)).halted.is_some());
}

/// "The check and the insert on an acceptor are one atomic act": of two proposals at one instance, either order of
/// arrival leaves the higher one.
#[test]
fn the_order_of_arrival_does_not_decide() {
    for order in [[1, 2], [2, 1]] {
        let mut cluster = Cluster::new(3);
        for round in order {
            accept(&mut cluster, 2, ballot(round, 1), body(1, 1, u128::from(round)));
        }
        assert_eq!(accepted_by(&cluster, 2), [(ballot(2, 1), body(1, 1, 2))]);
    }
}

// --- ZooKeeper told as Paxos -----------------------------------------------------------------------------------------

/// A read from the local copy may be stale, but it is never wrong: it shows a prefix of what the leader has.
#[test]
fn a_local_copy_may_be_stale_and_is_always_a_prefix() {
    let mut cluster = Cluster::new(3);
    cluster.elect(n(1));
    for _ in 0..5 {
        cluster.commit(n(1), 1);
    }
    cluster.isolate(n(3));
    for _ in 0..5 {
        cluster.commit(n(1), 1);
    }
    let (fresh, stale) = (cluster.delivered(n(1)), cluster.delivered(n(3)));
    assert!(stale.len() < fresh.len() && fresh.starts_with(&stale));
}

/// Only the president proposes; while there is none, service is refused, and the island goes on after an election.
#[test]
fn service_is_refused_between_two_presidents() {
    let mut cluster = Cluster::new(3);
    cluster.elect(n(1));
    cluster.commit(n(1), 1);
    cluster.crash(n(1), 0);
    assert!([2, 3].iter().all(|node| cluster.opening(n(*node)).is_none()));
    cluster.run(Duration::from_secs(5));
    let president = cluster.leader().expect("a new one");
    cluster.commit(president, 1);
}
