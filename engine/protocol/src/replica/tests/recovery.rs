//! What a new leader does before it proposes anything of its own: catch up, adopt, fill, in slot order.

use std::time::Duration;

use super::cluster::{Cluster, Packet, ballot, body, is, n, s};
use crate::ballot::Ballot;
use crate::body::{BodyHandle, BodyKind, Mark};
use crate::config::Settings;
use crate::message::Message;
use crate::replica::Role;

/// `node` has accepted `bodies` at `ballot`.
fn accept(cluster: &mut Cluster, node: u32, ballot: Ballot, bodies: &[BodyHandle]) {
    for body in bodies {
        cluster.inject(ballot.node, n(node), Message::Accept { ballot, body: *body, mark: Mark::START });
    }
    cluster.network.clear();
}

fn shape(bodies: &[BodyHandle]) -> Vec<(u64, u32, BodyKind)> {
    bodies.iter().map(|body| (body.first.0, body.count, body.kind)).collect()
}

fn proposed(packets: &[Packet]) -> Vec<BodyHandle> {
    packets.iter().filter_map(|packet| packet.message.body().copied()).collect()
}

#[test]
fn what_phase_one_reveals_is_proposed_again_and_gaps_are_closed() {
    let mut cluster = Cluster::new(3);
    let (early, late) = (body(3, 2, 34), body(8, 1, 8));
    accept(&mut cluster, 3, ballot(1, 2), &[late, early]);
    cluster.isolate(n(2));
    cluster.elect(n(1));
    cluster.heal();
    let first = cluster.commit(n(1), 1);
    cluster.run(Duration::from_secs(1));
    for id in cluster.ids() {
        let bodies = cluster.delivered(id);
        let gaps = [(1, 2, BodyKind::NoOp), (5, 3, BodyKind::NoOp)];
        assert_eq!(
            shape(&bodies),
            [gaps[0], (3, 2, BodyKind::Commands), gaps[1], (8, 1, BodyKind::Commands), (9, 1, first.kind)]
        );
        assert_eq!((bodies[1], bodies[3], bodies[4]), (early, late, first));
    }
}

#[test]
fn the_body_of_the_highest_ballot_is_adopted_and_the_dead_ones_are_not() {
    let mut cluster = Cluster::new(5);
    let (dead, alive) = (body(1, 4, 1), body(3, 1, 3));
    accept(&mut cluster, 2, ballot(1, 4), &[dead]);
    accept(&mut cluster, 3, ballot(2, 5), &[alive]);
    cluster.isolate(n(4));
    cluster.isolate(n(5));
    cluster.elect(n(1));
    let bodies = cluster.delivered(n(1));
    assert_eq!(shape(&bodies), [(1, 2, BodyKind::NoOp), (3, 1, BodyKind::Commands)]);
    assert_eq!(
        cluster.opening(n(1)).map(|opening| opening.first),
        Some(s(4)),
        "the dead body's last slot is free again"
    );
}

#[test]
fn nothing_new_is_proposed_before_the_plan_is_under_way() {
    let mut cluster = Cluster::with(3, 1000, Settings { window_bodies: 2, ..Settings::default() }, 1);
    let bodies: Vec<_> = (1..=5).map(|first| body(first, 1, u128::from(first))).collect();
    accept(&mut cluster, 3, ballot(1, 2), &bodies);
    cluster.isolate(n(2));
    become_recovering(&mut cluster);
    while cluster.role(n(1)) == Role::Recovering {
        assert_eq!(cluster.opening(n(1)), None);
        assert!(cluster.replica(n(1)).status().open_bodies <= 2, "the plan obeys the window");
        let packet = cluster.network.pop_front().expect("recovery goes on by itself");
        cluster.deliver(packet);
    }
    cluster.deliver_all();
    assert_eq!(cluster.delivered(n(1)), bodies);
    assert_eq!(cluster.opening(n(1)).map(|opening| opening.first), Some(s(6)));
}

/// Lets node 1 win phase 1, and stops right there: what it asks for then lies in the network.
fn become_recovering(cluster: &mut Cluster) {
    for _ in 0..10 {
        cluster.now = cluster.now.max(cluster.replica(n(1)).poll_deadline());
        cluster.time_out(n(1));
        while let Some(packet) = cluster.network.pop_front() {
            cluster.deliver(packet);
            if cluster.role(n(1)) == Role::Recovering {
                return;
            }
        }
    }
    panic!("node 1 does not get there: {:?}", cluster.replica(n(1)).status());
}

#[test]
fn a_plan_longer_than_alpha_is_followed_step_by_step() {
    let mut cluster = Cluster::with(3, 4, Settings::default(), 1);
    // An old leader was so far ahead that node 3 holds a body more than alpha beyond its own mark. (Then the slots between
    // are chosen in truth; what counts here is that the plan obeys alpha whatever it was told.)
    let far = body(9, 2, 9);
    let told = Mark { slot: s(7), chain: crate::Chain(7) };
    cluster.inject(n(2), n(3), Message::Accept { ballot: ballot(1, 2), body: far, mark: told });
    cluster.network.clear();
    cluster.isolate(n(2));
    become_recovering(&mut cluster);
    let mut accepts = Vec::new();
    while let Some(packet) = cluster.network.pop_front() {
        if let Message::Accept { body, mark, .. } = packet.message
            && packet.to == n(3)
        {
            assert!(body.end() <= mark.slot.plus(4), "{body:?} is proposed at {mark:?}");
            accepts.push(body);
        }
        cluster.deliver(packet);
    }
    let noop = BodyKind::NoOp;
    assert_eq!(shape(&accepts), [(1, 4, noop), (5, 4, noop), (9, 2, BodyKind::Commands)]);
    assert_eq!(cluster.role(n(1)), Role::Leader);
}

#[test]
fn a_revealed_body_is_fetched_from_each_holder_in_turn() {
    let mut cluster = Cluster::new(5);
    let lost = body(1, 1, 1);
    accept(&mut cluster, 2, ballot(1, 4), &[lost]);
    accept(&mut cluster, 3, ballot(1, 4), &[lost]);
    cluster.isolate(n(4));
    cluster.isolate(n(5));
    become_recovering(&mut cluster);
    let interval = cluster.settings().retransmit_interval;
    let mut asked = Vec::new();
    for _ in 0..3 {
        asked.extend(cluster.take(is("FetchBody")).into_iter().map(|packet| packet.to));
        cluster.network.clear();
        cluster.now = cluster.now.plus(interval);
        cluster.time_out(n(1));
    }
    assert_eq!(asked, [n(2), n(3), n(2)]);
    // A supply of something else changes nothing, the right one brings recovery to its end; a second one is late.
    for body in [body(1, 1, 99), lost, lost] {
        cluster.inject(n(2), n(1), Message::Supply { body });
    }
    cluster.deliver_all();
    assert_eq!(cluster.delivered(n(1)), [lost]);
}

#[test]
fn a_leader_that_cannot_obtain_a_revealed_body_makes_way() {
    let mut cluster = Cluster::new(3);
    accept(&mut cluster, 3, ballot(1, 2), &[body(1, 1, 1)]);
    cluster.isolate(n(2));
    become_recovering(&mut cluster);
    // The only holder dies right after its promise.
    cluster.crash(n(3), 0);
    cluster.heal();
    cluster.run(cluster.settings().election_timeout * 2 + cluster.settings().heartbeat_interval);
    assert_ne!(cluster.role(n(1)), Role::Recovering);
    cluster.run(Duration::from_secs(10));
    let leader = cluster.leader().expect("the two others tell another story");
    cluster.commit(leader, 1);
    cluster.restart(n(3));
    cluster.run(Duration::from_secs(2));
    assert_eq!(cluster.mark(n(3)), cluster.mark(leader), "its body was chosen nowhere");
}

#[test]
fn a_longer_prefix_is_fetched_before_anything_is_proposed() {
    let mut cluster = Cluster::new(3);
    cluster.elect(n(2));
    cluster.isolate(n(1));
    let bodies: Vec<_> = (0..4).map(|_| cluster.commit(n(2), 2)).collect();
    cluster.heal();
    cluster.crash(n(2), 0);
    cluster.now = cluster.now.plus(Duration::from_secs(2));
    become_recovering(&mut cluster);
    assert_eq!((cluster.opening(n(1)), cluster.sent("Fetch")), (None, 0));
    assert!(cluster.take(is("Accept")).is_empty());
    cluster.run(Duration::from_millis(100));
    assert_eq!(cluster.delivered(n(1)), bodies);
    assert_eq!(cluster.opening(n(1)).map(|opening| opening.first), Some(s(9)));
    cluster.commit(n(1), 1);
}

#[test]
fn a_composition_of_an_earlier_leadership_is_not_proposed() {
    let mut cluster = Cluster::new(3);
    accept(&mut cluster, 3, ballot(1, 2), &[body(3, 1, 3)]);
    cluster.node_mut(n(1)).hold_compositions = true;
    cluster.isolate(n(2));
    become_recovering(&mut cluster);
    cluster.heal();
    let stale = cluster.node_mut(n(1)).compositions.remove(0);
    assert_eq!((stale.first, stale.count), (s(1), 2));
    // Deposed meanwhile; node 2 leads, and another body is chosen at slot 1.
    cluster.isolate(n(1));
    cluster.node_mut(n(2)).hold_compositions = false;
    cluster.elect(n(2));
    let chosen = cluster.delivered(n(2));
    assert!(!chosen.is_empty());
    cluster.heal();
    cluster.crash(n(2), 0);
    cluster.now = cluster.now.plus(Duration::from_secs(2));
    become_recovering(&mut cluster);
    cluster.take(is("Accept"));
    // Node 1 leads anew, and still fetches what was chosen, when the old composition comes in.
    cluster.compose(n(1), stale);
    assert!(proposed(&cluster.take(is("Accept"))).is_empty(), "it would be proposed where something else is chosen");
    cluster.run(Duration::from_secs(2));
    assert_eq!(cluster.delivered(n(1))[..chosen.len()], chosen[..]);
}

#[test]
fn a_composition_that_nobody_asked_for_is_not_proposed() {
    let mut cluster = Cluster::new(3);
    cluster.elect(n(1));
    let noop = |first, count, id| BodyHandle { kind: BodyKind::NoOp, ..body(first, count, id) };
    let own = cluster.propose(n(1), 1);
    for stray in [noop(1, 1, 5), noop(2, 3, 6), noop(9, 1, 7)] {
        cluster.compose(n(1), stray);
    }
    cluster.deliver_all();
    assert_eq!(cluster.delivered(n(1)), [own]);
    assert_eq!(cluster.opening(n(1)).map(|opening| opening.first), Some(s(2)));
}

/// A leader's mark may grow past what it has proposed: a peer's chain proves a body that it accepted at an older ballot
/// and took for dead. Were it to propose below its own mark, followers would take that for chosen.
#[test]
fn a_leader_never_proposes_below_its_own_mark() {
    let mut cluster = Cluster::new(5);
    let (long, short) = (body(1, 3, 13), body(1, 1, 11));
    for node in [1, 3] {
        accept(&mut cluster, node, ballot(1, 4), &[long]);
    }
    accept(&mut cluster, 2, ballot(2, 5), &[short]);
    cluster.isolate(n(4));
    cluster.isolate(n(5));
    become_recovering(&mut cluster);
    let leader = cluster.replica(n(1)).promised();
    assert_eq!(
        cluster.take(is("FetchBody")).len(),
        1,
        "of three it knows that the long body is dead, and wants the short"
    );
    cluster.network.clear();

    // Meanwhile nodes 3, 4 and 5, which never saw the short body, choose the long one.
    cluster.heal();
    cluster.isolate(n(1));
    cluster.isolate(n(2));
    cluster.elect(n(5));
    assert_eq!(cluster.delivered(n(5)), [long]);
    let mark = cluster.mark(n(5));
    cluster.heal();
    cluster.network.clear();
    // Node 2 gets a copy of it. It has promised nothing to node 5, so it still answers node 1.
    cluster.inject(n(5), n(2), Message::Chosen { body: long, mark, last: true });
    cluster.inject(n(1), n(2), Message::Heartbeat { ballot: leader, mark: Mark::START, beat: 1, recovered: s(0) });
    cluster.deliver_all();
    assert_eq!(cluster.delivered(n(1)), [long], "the chain proves it");
    if let Some(opening) = cluster.opening(n(1)) {
        assert_eq!(opening.first, s(4));
        cluster.propose(n(1), 1);
    }
    cluster.run(Duration::from_secs(3));
    for id in cluster.ids() {
        assert_eq!(cluster.delivered(id)[0], long);
    }
}
