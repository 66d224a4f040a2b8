//! Catching up: fetching chosen bodies that were missed, from whoever has them.

use std::time::Duration;

use super::cluster::{Cluster, Disk, Packet, is, is_to, n};
use crate::ballot::NodeId;
use crate::body::{BodyHandle, Mark};
use crate::config::Settings;
use crate::effect::LogEntry;
use crate::message::Message;
use crate::slot::Slot;

/// Three nodes under leader 1; node 3 has missed `count` bodies of 100 bytes and has just heard of them.
fn lagging(count: usize, settings: Settings) -> (Cluster, Vec<BodyHandle>) {
    let mut cluster = Cluster::with(3, 1000, settings, 1);
    cluster.elect(n(1));
    cluster.isolate(n(3));
    let bodies = (0..count).map(|_| cluster.commit(n(1), 1)).collect();
    cluster.heal();
    cluster.now = cluster.replica(n(1)).poll_deadline();
    cluster.time_out(n(1));
    for packet in cluster.take(is_to("Heartbeat", n(3))) {
        cluster.deliver(packet);
    }
    cluster.deliver_all();
    assert_eq!(cluster.mark(n(3)), Mark::START);
    (cluster, bodies)
}

/// Lets the fetch of node 3 fall due, and returns what it asks, and whom.
fn fetch(cluster: &mut Cluster, wait: Duration) -> Vec<(NodeId, Slot)> {
    cluster.now = cluster.now.plus(wait);
    cluster.time_out(n(3));
    cluster.network.iter().filter_map(asked).collect()
}

fn asked(packet: &Packet) -> Option<(NodeId, Slot)> {
    match packet.message {
        Message::Fetch { from, .. } => Some((packet.to, from)),
        _ => None,
    }
}

#[test]
fn missed_bodies_are_fetched_from_who_spoke_of_them() {
    let (mut cluster, bodies) = lagging(5, Settings::default());
    assert_eq!(cluster.replica(n(3)).poll_deadline(), cluster.now.plus(cluster.settings().fetch_delay));
    assert_eq!(fetch(&mut cluster, Duration::from_millis(30)), [(n(1), Slot(1))]);
    cluster.deliver_all();
    assert_eq!(cluster.delivered(n(3)), bodies);
    let copied = |append: &crate::Append| matches!(append.entry, LogEntry::Copied { from, .. } if from == n(1));
    assert_eq!(cluster.node(n(3)).log.iter().filter(|append| copied(append)).count(), 5, "and written as copies");
}

#[test]
fn an_answer_is_bounded_and_its_end_asks_for_more() {
    let (mut cluster, bodies) = lagging(7, Settings { fetch_bytes: 250, ..Settings::default() });
    fetch(&mut cluster, Duration::from_millis(30));
    let mut questions = Vec::new();
    while let Some(packet) = cluster.network.pop_front() {
        questions.extend(asked(&packet));
        cluster.deliver(packet);
    }
    assert_eq!(questions, [1, 3, 5, 7].map(|from| (n(1), Slot(from))));
    assert_eq!(cluster.delivered(n(3)), bodies);
    let (mut cluster, bodies) = lagging(2, Settings { fetch_bytes: 1, ..Settings::default() });
    fetch(&mut cluster, Duration::from_millis(30));
    cluster.deliver_all();
    assert_eq!(cluster.delivered(n(3)), bodies, "one body at least, however large");
}

#[test]
fn an_answer_whose_end_is_known_already_asks_for_more_all_the_same() {
    let (mut cluster, bodies) = lagging(5, Settings { fetch_bytes: 250, ..Settings::default() });
    fetch(&mut cluster, Duration::from_millis(30));
    for packet in cluster.take(is("Fetch")) {
        cluster.deliver(packet);
    }
    let mut answer = cluster.take(is("Chosen"));
    let last = answer.pop().expect("two bodies fit");
    for packet in answer {
        cluster.deliver(packet);
    }
    // The accept of the second body, sent again, is faster than the copy of it.
    let (ballot, mark) = (cluster.replica(n(1)).promised(), cluster.mark(n(1)));
    cluster.inject(n(1), n(3), Message::Accept { ballot, body: bodies[1], mark });
    assert_eq!(cluster.delivered(n(3)), bodies[..2]);
    cluster.network.clear();
    cluster.deliver(last.clone());
    assert_eq!(cluster.network.iter().filter_map(asked).collect::<Vec<_>>(), [(n(1), Slot(3))]);
    cluster.deliver(last);
    assert_eq!(cluster.network.len(), 1, "once");
    cluster.deliver_all();
    assert_eq!(cluster.delivered(n(3)), bodies);
}

#[test]
fn lost_parts_of_an_answer_are_fetched_again() {
    for lost in 0..5 {
        let (mut cluster, bodies) = lagging(5, Settings::default());
        fetch(&mut cluster, Duration::from_millis(30));
        for packet in cluster.take(is("Fetch")) {
            cluster.deliver(packet);
        }
        let answer = cluster.take(is("Chosen"));
        for (index, packet) in answer.into_iter().enumerate() {
            if index != lost {
                cluster.deliver(packet);
            }
        }
        assert_eq!(cluster.mark(n(3)).slot, Slot(1 + lost as u64), "nothing is learned over a hole");
        cluster.deliver_all();
        cluster.run(cluster.settings().retransmit_interval * 3);
        assert_eq!(cluster.delivered(n(3)), bodies, "lost part {lost}");
    }
}

#[test]
fn doubled_and_reordered_parts_are_harmless() {
    let (mut cluster, bodies) = lagging(4, Settings::default());
    fetch(&mut cluster, Duration::from_millis(30));
    for packet in cluster.take(is("Fetch")) {
        cluster.deliver(packet.clone());
        cluster.deliver(packet);
    }
    let answer = cluster.take(is("Chosen"));
    assert_eq!(answer.len(), 8);
    for packet in answer.into_iter().rev() {
        cluster.deliver(packet);
    }
    assert!(cluster.mark(n(3)).slot > Slot(1));
    cluster.run(Duration::from_secs(3));
    assert_eq!(cluster.delivered(n(3)), bodies);
    assert_eq!(cluster.node(n(3)).log.iter().filter(|a| matches!(a.entry, LogEntry::Copied { .. })).count(), 4);
}

#[test]
fn a_fetch_that_stays_unanswered_asks_another_peer() {
    let (mut cluster, bodies) = lagging(3, Settings::default());
    cluster.cut(n(1), n(3));
    let patience = cluster.settings().retransmit_interval * 2;
    assert_eq!(fetch(&mut cluster, Duration::from_millis(30)), [(n(1), Slot(1))]);
    cluster.network.clear();
    assert_eq!(fetch(&mut cluster, patience), [(n(2), Slot(1))]);
    cluster.deliver_all();
    assert_eq!(cluster.delivered(n(3)), bodies);
}

#[test]
fn a_peer_without_the_bodies_is_passed_over_soon() {
    let (mut cluster, _) = lagging(3, Settings::default());
    fetch(&mut cluster, Duration::from_millis(30));
    cluster.network.clear();
    cluster.inject(n(1), n(3), Message::Unavailable { first: Slot(1), available: Slot(3) });
    let soon = cluster.settings().retransmit_interval;
    assert_eq!(fetch(&mut cluster, soon), [(n(2), Slot(1))]);
}

#[test]
fn bodies_that_arrive_by_themselves_are_not_fetched() {
    let mut cluster = Cluster::new(3);
    cluster.elect(n(1));
    let body = cluster.propose(n(1), 1);
    let late = cluster.take(is_to("Accept", n(3)));
    cluster.deliver_all();
    assert_eq!(cluster.delivered(n(1)), [body]);
    assert_eq!(cluster.delivered(n(3)), [], "it heard that the slot is chosen, and has no body");
    for packet in late {
        cluster.deliver(packet);
    }
    assert_eq!(cluster.delivered(n(3)), [body]);
    cluster.run(Duration::from_secs(1));
    assert_eq!(cluster.sent("Fetch"), 0);
}

#[test]
fn a_fetched_body_that_is_in_the_log_is_not_written_again() {
    let mut cluster = Cluster::new(3);
    cluster.elect(n(1));
    let body = cluster.propose(n(1), 1);
    for packet in cluster.take(is("Accept")) {
        cluster.deliver(packet);
    }
    let written = cluster.node(n(3)).log.len();
    cluster.inject(n(2), n(3), Message::Chosen { body, mark: Mark::START.after(&body), last: true });
    assert_eq!(cluster.delivered(n(3)), [body], "only the news was missing");
    assert_eq!(cluster.node(n(3)).log.len(), written);
}

#[test]
fn a_replica_serves_only_what_it_knows_to_be_chosen() {
    let (mut cluster, bodies) = lagging(3, Settings::default());
    let end = cluster.mark(n(1)).slot;
    for (from, answers) in [(end, 0), (Slot(99), 0), (Slot(3), 1), (Slot(0), 3)] {
        cluster.inject(n(3), n(1), Message::Fetch { from, bytes: 1 << 20 });
        let answer = cluster.take(is("Chosen"));
        assert_eq!(answer.len(), answers, "from {from}");
        if let Some(last) = answer.last() {
            let Message::Chosen { body, last, mark } = last.message else { unreachable!("taken by kind") };
            assert_eq!((body, last, mark), (bodies[2], true, cluster.mark(n(1))));
        }
    }
}

#[test]
fn the_stable_position_waits_for_the_disk_and_grows_as_a_prefix() {
    let (mut cluster, _) = lagging(3, Settings::default());
    cluster.node_mut(n(3)).disk = Disk::WhenTold;
    fetch(&mut cluster, Duration::from_millis(30));
    cluster.deliver_all();
    let stable = |cluster: &Cluster| cluster.replica(n(3)).status().stable;
    assert_eq!((cluster.mark(n(3)).slot, stable(&cluster)), (Slot(4), Slot(1)));
    let durable = cluster.node(n(3)).durable_count();
    for more in 1..=3 {
        cluster.sync_to(n(3), durable + more);
        assert_eq!(stable(&cluster), Slot(1 + more as u64));
    }
    assert_eq!(cluster.commit(n(1), 1).first, Slot(4));
    cluster.run(Duration::from_millis(200));
    assert_eq!((cluster.mark(n(3)).slot, stable(&cluster)), (Slot(5), Slot(4)), "delivered, not durable");
    cluster.sync(n(3));
    assert_eq!(stable(&cluster), Slot(5));
}

#[test]
fn a_crash_during_catch_up_loses_nothing_that_was_stable() {
    for survivors in 0..=3 {
        let (mut cluster, bodies) = lagging(3, Settings::default());
        cluster.node_mut(n(3)).disk = Disk::WhenTold;
        fetch(&mut cluster, Duration::from_millis(30));
        cluster.deliver_all();
        cluster.crash(n(3), survivors);
        cluster.node_mut(n(3)).disk = Disk::AtOnce;
        cluster.restart(n(3));
        assert_eq!(cluster.delivered(n(3)), bodies[..survivors], "copies are chosen outright");
        cluster.run(Duration::from_secs(3));
        assert_eq!(cluster.delivered(n(3)), bodies);
    }
}
