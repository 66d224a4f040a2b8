//! Phase 2: pipelined within window and alpha, in any order, resent until a quorum has it.

use std::time::Duration;

use super::cluster::{Cluster, Disk, Packet, ballot, body, is, is_to, n, s};
use crate::ballot::NodeId;
use crate::body::{BodyHandle, BodyId, Mark};
use crate::config::{Configuration, Settings};
use crate::limits;
use crate::message::Message;
use crate::replica::{ProposeError, Role};

fn led(alpha: u32, settings: Settings) -> Cluster {
    let mut cluster = Cluster::with(3, alpha, settings, 1);
    cluster.elect(n(1));
    cluster
}

/// Loses every accept that is under way.
fn lose_accepts(cluster: &mut Cluster) {
    cluster.take(is("Accept"));
}

fn targets(packets: &[Packet]) -> Vec<(NodeId, u64)> {
    let target = |packet: &Packet| (packet.to, packet.message.body().map_or(0, |body| body.first.0));
    packets.iter().map(target).collect()
}

#[test]
fn phase_one_runs_once_and_every_body_costs_one_round_trip() {
    let mut cluster = led(1000, Settings::default());
    let (prepares, promises) = (cluster.sent("Prepare"), cluster.sent("Promise"));
    assert_eq!((prepares, promises), (2, 2));
    for _ in 0..50 {
        cluster.commit(n(1), 3);
    }
    assert_eq!((cluster.sent("Prepare"), cluster.sent("Promise")), (2, 2), "for all slots there will ever be");
    assert_eq!((cluster.sent("Accept"), cluster.sent("Accepted")), (100, 100));
}

#[test]
fn the_window_of_bodies_closes_and_reopens() {
    let mut cluster = led(1000, Settings { window_bodies: 3, ..Settings::default() });
    for _ in 0..3 {
        cluster.propose(n(1), 2);
    }
    assert_eq!(cluster.opening(n(1)), None);
    // One choice anywhere in the pipeline makes room, whether it is next in order or not.
    let second = cluster.take(|packet| packet.message.body().is_some_and(|body| body.first == s(3)));
    for packet in second {
        cluster.deliver(packet);
    }
    for packet in cluster.take(is("Accepted")) {
        cluster.deliver(packet);
    }
    assert_eq!(cluster.opening(n(1)).map(|opening| opening.first), Some(s(7)));
    cluster.propose(n(1), 1);
    assert_eq!(cluster.opening(n(1)), None);
    cluster.deliver_all();
    assert_eq!(cluster.opening(n(1)).map(|opening| opening.first), Some(s(8)));
}

#[test]
fn the_window_of_bytes_closes_and_reopens() {
    let mut cluster = led(1000, Settings { window_bytes: 250, ..Settings::default() });
    cluster.propose(n(1), 1);
    cluster.propose(n(1), 1);
    assert!(cluster.opening(n(1)).is_some(), "200 of 250 bytes are open");
    cluster.propose(n(1), 1);
    assert_eq!(cluster.opening(n(1)), None);
    cluster.deliver_all();
    assert!(cluster.opening(n(1)).is_some());
}

#[test]
fn alpha_closes_and_reopens_with_the_contiguous_prefix() {
    let mut cluster = led(5, Settings::default());
    assert_eq!(cluster.opening(n(1)).map(|opening| opening.count_max), Some(5));
    let first = cluster.propose(n(1), 2);
    assert_eq!(cluster.opening(n(1)).map(|opening| (opening.first, opening.count_max)), Some((s(3), 3)));
    cluster.propose(n(1), 3);
    assert_eq!(cluster.opening(n(1)), None);
    // What is chosen beyond a gap opens nothing: at most alpha slots lie above the prefix.
    let early = cluster.take(|packet| packet.message.body() == Some(&first));
    cluster.deliver_all();
    assert_eq!((cluster.mark(n(1)), cluster.opening(n(1))), (Mark::START, None));
    for packet in early {
        cluster.deliver(packet);
    }
    cluster.deliver_all();
    assert_eq!(cluster.opening(n(1)).map(|opening| (opening.first, opening.count_max)), Some((s(6), 5)));
}

#[test]
fn an_opening_is_never_larger_than_a_body_may_be() {
    let cluster = led(1 << 20, Settings::default());
    assert_eq!(cluster.opening(n(1)).map(|opening| opening.count_max), Some(limits::BODY_SLOTS_MAX));
    assert_eq!(cluster.opening(n(2)), None, "a follower has none");
}

#[test]
fn what_does_not_fit_the_opening_is_refused_and_nothing_happens() {
    let mut cluster = led(5, Settings::default());
    let before = cluster.replica(n(1)).clone();
    let now = cluster.now;
    let misfit = |first: u64, count| ProposeError::Misfit { first: s(first), count, next: s(1), count_max: 5 };
    let large = BodyHandle { bytes: limits::BODY_BYTES_MAX + 1, ..body(1, 1, 1) };
    for (body, error) in [
        (body(2, 1, 1), misfit(2, 1)),
        (body(0, 1, 1), misfit(0, 1)),
        (body(1, 0, 1), misfit(1, 0)),
        (body(1, 6, 1), misfit(1, 6)),
        (large, ProposeError::TooLarge(limits::BODY_BYTES_MAX + 1)),
    ] {
        assert_eq!(cluster.replica_mut(n(1)).propose(now, body), Err(error));
    }
    assert_eq!(cluster.replica_mut(n(2)).propose(now, body(1, 1, 1)), Err(ProposeError::NoOpening));
    assert_eq!(*cluster.replica(n(1)), before);
    let largest = BodyHandle { bytes: limits::BODY_BYTES_MAX, ..body(1, 5, 1) };
    cluster.propose_body(n(1), largest);
    cluster.deliver_all();
    assert_eq!(cluster.delivered(n(3)), [largest]);
}

#[test]
fn bodies_are_accepted_and_chosen_in_any_order_and_delivered_in_one() {
    // Every order of four bodies' accepts, each order of the answers the reverse of it.
    for order in orders(4) {
        let mut cluster = led(1000, Settings::default());
        let bodies: Vec<_> = (1..=4).map(|count| cluster.propose(n(1), count)).collect();
        lose_accepts(&mut cluster);
        let ballot = cluster.replica(n(1)).promised();
        let mut answers = Vec::new();
        for index in &order {
            let message = Message::Accept { ballot, body: bodies[*index], mark: Mark::START };
            cluster.inject(n(1), n(2), message);
            answers.extend(cluster.take(is("Accepted")));
        }
        let mut chosen = [false; 4];
        for (packet, index) in answers.into_iter().rev().zip(order.iter().rev()) {
            cluster.deliver(packet);
            chosen[*index] = true;
            let prefix = chosen.iter().take_while(|chosen| **chosen).count();
            assert_eq!(cluster.delivered(n(1)), bodies[..prefix], "order {order:?}");
        }
        cluster.deliver_all();
        cluster.run(Duration::from_secs(1));
        assert_eq!(cluster.delivered(n(3)), bodies);
    }
}

fn orders(count: usize) -> Vec<Vec<usize>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let shorter = orders(count - 1);
    let insert = |order: &Vec<usize>, at: usize| {
        let mut order = order.clone();
        order.insert(at, count - 1);
        order
    };
    shorter.iter().flat_map(|order| (0..count).map(|at| insert(order, at)).collect::<Vec<_>>()).collect()
}

#[test]
fn the_leaders_vote_counts_when_its_own_disk_has_it() {
    let mut cluster = led(1000, Settings::default());
    cluster.node_mut(n(1)).disk = Disk::WhenTold;
    cluster.isolate(n(3));
    let body = cluster.propose(n(1), 1);
    cluster.deliver_all();
    assert_eq!(cluster.delivered(n(1)), [], "one follower and a leader that has not written it");
    cluster.sync(n(1));
    assert_eq!(cluster.delivered(n(1)), [body]);
}

#[test]
fn a_quorum_of_followers_needs_no_leaders_disk() {
    let mut cluster = led(1000, Settings::default());
    cluster.node_mut(n(1)).disk = Disk::WhenTold;
    let body = cluster.propose(n(1), 1);
    cluster.deliver_all();
    assert_eq!(cluster.delivered(n(1)), [body]);
    assert_eq!(cluster.replica(n(1)).status().stable, s(1), "chosen, though not stable here");
    cluster.sync(n(1));
    assert_eq!(cluster.replica(n(1)).status().stable, s(2));
}

#[test]
fn quorums_of_their_own_sizes_are_obeyed() {
    let genesis = Configuration::genesis((1..=5).map(n).collect(), 100).expect("a sound genesis");
    let genesis = Configuration { prepare_quorum: 4, accept_quorum: 2, ..genesis };
    let mut cluster = Cluster::ruled_by(genesis, Settings::default(), 1);
    cluster.isolate(n(5));
    cluster.elect(n(1));
    cluster.propose(n(1), 1);
    for packet in cluster.take(is_to("Accept", n(2))) {
        cluster.deliver(packet);
    }
    for packet in cluster.take(is("Accepted")) {
        cluster.deliver(packet);
    }
    assert_eq!(cluster.mark(n(1)).slot, s(2), "two accepts choose");
    cluster.isolate(n(1));
    cluster.isolate(n(2));
    cluster.run(Duration::from_secs(20));
    assert_eq!(cluster.leader(), None, "but two promises are no leader");
}

#[test]
fn lost_accepts_and_answers_are_sent_again_to_who_is_silent() {
    let mut cluster = led(1000, Settings::default());
    let interval = cluster.settings().retransmit_interval;
    let first = cluster.propose(n(1), 1);
    lose_accepts(&mut cluster);
    cluster.now = cluster.replica(n(1)).poll_deadline();
    cluster.time_out(n(1));
    lose_accepts(&mut cluster);
    cluster.now = cluster.now.plus(interval);
    cluster.time_out(n(1));
    let again = cluster.take(is("Accept"));
    assert_eq!(targets(&again), [(n(2), 1), (n(3), 1)]);
    // The answer is lost this time. Then node 2 answers, but 5 nodes would need more: use the ack of one of four.
    for packet in again {
        cluster.deliver(packet);
    }
    assert_eq!(cluster.take(is("Accepted")).len(), 2);
    assert_eq!(cluster.delivered(n(1)), []);
    cluster.now = cluster.now.plus(interval);
    cluster.time_out(n(1));
    cluster.deliver_all();
    assert_eq!(cluster.delivered(n(1)), [first]);
    assert_eq!(cluster.node(n(2)).log.iter().filter(|append| append.entry != crate::LogEntry::Promise).count(), 1);
}

#[test]
fn who_has_answered_is_not_sent_the_body_again() {
    let mut cluster = Cluster::new(5);
    cluster.elect(n(1));
    cluster.propose(n(1), 1);
    for packet in cluster.take(is_to("Accept", n(4))) {
        cluster.deliver(packet);
    }
    lose_accepts(&mut cluster);
    cluster.deliver_all();
    cluster.now = cluster.now.plus(cluster.settings().retransmit_interval);
    cluster.time_out(n(1));
    assert_eq!(targets(&cluster.take(is("Accept"))), [(n(2), 1), (n(3), 1), (n(5), 1)]);
    cluster.time_out(n(1));
    assert!(cluster.take(is("Accept")).is_empty(), "not twice in one interval");
}

#[test]
fn votes_count_once_and_only_for_what_was_proposed() {
    let mut cluster = Cluster::new(5);
    let leader = cluster.elect(n(1));
    let body = cluster.propose(n(1), 1);
    lose_accepts(&mut cluster);
    let vote = |ballot, first, id| Message::Accepted { ballot, first: s(first), id };
    for _ in 0..3 {
        cluster.inject(n(2), n(1), vote(leader, 1, body.id));
    }
    cluster.inject(n(3), n(1), vote(leader, 1, BodyId(5)));
    cluster.inject(n(3), n(1), vote(leader, 2, body.id));
    cluster.inject(n(3), n(1), vote(ballot(1, 1), 1, body.id));
    cluster.inject(n(3), n(1), vote(ballot(99, 1), 1, body.id));
    cluster.inject(n(6), n(1), vote(leader, 1, body.id));
    assert_eq!(cluster.replica(n(1)).status().open_bodies, 1, "two votes of three: its own and one more");
    assert_eq!(cluster.role(n(1)), Role::Leader);
}

#[test]
fn a_slow_peer_is_not_fed_beyond_its_budget() {
    let mut cluster = led(1000, Settings { window_bytes: 200, peer_bytes: 200, ..Settings::default() });
    cluster.isolate(n(3));
    for _ in 0..10 {
        cluster.commit(n(1), 1);
    }
    let peer = |cluster: &Cluster, index: usize| cluster.replica(n(1)).status().peers[index];
    assert_eq!((peer(&cluster, 0).outstanding_bytes, peer(&cluster, 1).outstanding_bytes), (0, 200));
    assert_eq!(cluster.sent("Accept"), 12, "ten to one peer, two to the other");
    cluster.heal();
    cluster.run(Duration::from_secs(1));
    assert_eq!(cluster.mark(n(3)), cluster.mark(n(1)), "it catches up from the log");
    assert_eq!((peer(&cluster, 1).outstanding_bytes, peer(&cluster, 1).stable), (0, s(11)));
    let sent = cluster.sent("Accept");
    cluster.commit(n(1), 1);
    assert_eq!(cluster.sent("Accept"), sent + 2, "and is fed again");
}

#[test]
fn a_body_larger_than_a_peers_budget_is_sent_all_the_same() {
    let mut cluster = led(1000, Settings { window_bytes: 150, peer_bytes: 150, ..Settings::default() });
    cluster.commit(n(1), 4);
    cluster.commit(n(1), 4);
}

#[test]
fn news_of_choices_rides_on_accepts() {
    let mut cluster = led(1000, Settings::default());
    cluster.propose(n(1), 1);
    cluster.propose(n(1), 1);
    let accepts = cluster.take(|packet| packet.message.body().is_some_and(|body| body.first == s(1)));
    for packet in accepts {
        cluster.deliver(packet);
    }
    for packet in cluster.take(is("Accepted")) {
        cluster.deliver(packet);
    }
    let said = cluster.sent("Heartbeat");
    cluster.propose(n(1), 1);
    let Some(Packet { message: Message::Accept { mark, .. }, .. }) = cluster.network.back() else { unreachable!() };
    assert_eq!((mark.slot, cluster.sent("Heartbeat")), (s(2), said));
}
