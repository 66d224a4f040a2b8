//! Trims: agreed through the log, and never beyond what every member would still know after a restart.

use std::time::Duration;

use super::cluster::{Cluster, Disk, is_to, n, s};
use crate::body::BodyKind;
use crate::replica::TrimError;
use crate::slot::Slot;
use crate::snapshot::Hold;

fn trim(cluster: &mut Cluster, upto: u64) -> Result<Slot, TrimError> {
    let proposed = cluster.replica_mut(n(1)).trim(s(upto));
    cluster.drive(n(1));
    cluster.deliver_all();
    proposed
}

fn commit(cluster: &mut Cluster, count: u32) {
    for _ in 0..count {
        cluster.commit(n(1), 1);
    }
    cluster.run(Duration::from_millis(200));
    assert_eq!(cluster.leader(), Some(n(1)));
}

/// Leader 1 of three with `count` chosen slots. Everybody knows it, and has a record of it except for the last one.
fn settled(count: u32) -> Cluster {
    let mut cluster = Cluster::new(3);
    cluster.elect(n(1));
    commit(&mut cluster, count);
    cluster
}

fn nothing_to_trim(held: u64, trimmed: u64) -> Result<Slot, TrimError> {
    Err(TrimError::NothingToTrim { held: s(held), trimmed: s(trimmed) })
}

#[test]
fn a_trim_is_agreed_on_and_delivered_everywhere() {
    let mut cluster = settled(5);
    assert_eq!(trim(&mut cluster, 4), Ok(s(4)));
    for id in cluster.ids() {
        let last = *cluster.delivered(id).last().expect("something was delivered");
        assert_eq!((last.first, last.count, last.kind), (s(6), 1, BodyKind::Trim { upto: s(4) }));
        assert_eq!(cluster.replica(id).status().trimmed, s(4));
    }
    commit(&mut cluster, 1);
    assert_eq!(trim(&mut cluster, 3), nothing_to_trim(7, 4), "a trim never goes back");
}

#[test]
fn a_trim_stops_at_what_a_restart_of_the_slowest_member_would_know() {
    let mut cluster = settled(3);
    assert_eq!(trim(&mut cluster, 99), Ok(s(3)), "no record says that the third body is chosen");
    cluster.run(Duration::from_millis(200));
    // Node 3 learns what is chosen, but its disk stands still.
    cluster.node_mut(n(3)).disk = Disk::WhenTold;
    commit(&mut cluster, 3);
    assert_eq!(cluster.mark(n(3)).slot, s(8));
    assert_eq!(trim(&mut cluster, 7), Ok(s(4)), "the record of the trim says so much");
    cluster.run(Duration::from_millis(200));
    assert_eq!(trim(&mut cluster, 7), nothing_to_trim(4, 4));
    cluster.sync(n(3));
    cluster.node_mut(n(3)).disk = Disk::AtOnce;
    cluster.run(Duration::from_millis(200));
    assert_eq!(trim(&mut cluster, 7), Ok(s(7)));
}

/// The bodies are durable everywhere, but whoever restarts doesn't know that the last of them are chosen. It must find
/// somebody who still has them.
#[test]
fn a_member_that_restarts_behind_a_trim_can_catch_up() {
    let mut cluster = settled(4);
    assert_eq!(cluster.replica(n(3)).status().stable, s(5));
    cluster.crash(n(3), 0);
    let proposed = trim(&mut cluster, 99).expect("there is something to trim");
    commit(&mut cluster, 3);
    cluster.restart(n(3));
    assert!(proposed <= cluster.mark(n(3)).slot, "{proposed} is trimmed, {:?} is known", cluster.mark(n(3)));
    cluster.run(Duration::from_secs(2));
    assert_eq!(cluster.mark(n(3)), cluster.mark(n(1)));
}

#[test]
fn the_leaders_own_disk_holds_the_log_too() {
    let mut cluster = settled(3);
    cluster.node_mut(n(1)).disk = Disk::WhenTold;
    commit(&mut cluster, 2);
    assert_eq!(cluster.mark(n(1)).slot, s(6), "chosen by the two others");
    assert_eq!(trim(&mut cluster, 6), Ok(s(3)));
}

#[test]
fn a_member_that_is_down_holds_the_log() {
    let mut cluster = settled(3);
    cluster.crash(n(3), 0);
    commit(&mut cluster, 3);
    assert_eq!(trim(&mut cluster, 6), Ok(s(3)), "as far as it was last heard of");
    cluster.run(Duration::from_millis(300));
    assert_eq!(trim(&mut cluster, 6), nothing_to_trim(3, 3));
    // A new leader has heard nothing of it at all.
    cluster.crash(n(1), 0);
    cluster.restart(n(1));
    cluster.elect(n(2));
    cluster.run(Duration::from_millis(300));
    assert_eq!(cluster.replica_mut(n(2)).trim(s(6)), nothing_to_trim(1, 3));
    // It comes back, catches up from what is left, and lets go.
    cluster.restart(n(3));
    cluster.run(Duration::from_millis(500));
    assert_eq!(cluster.mark(n(3)), cluster.mark(n(2)));
    assert_eq!(cluster.replica_mut(n(2)).trim(s(6)), Ok(s(6)));
}

#[test]
fn only_a_leader_proposes_trims() {
    let mut cluster = settled(3);
    assert_eq!(cluster.replica_mut(n(2)).trim(s(2)), Err(TrimError::NotLeader));
    assert_eq!(trim(&mut cluster, 0), nothing_to_trim(3, 1));
}

#[test]
fn a_trim_takes_a_slot_of_its_own_between_bodies() {
    let mut cluster = settled(3);
    cluster.node_mut(n(1)).hold_compositions = true;
    assert_eq!(trim(&mut cluster, 3), Ok(s(3)));
    // While the trim is being made, new bodies go behind it.
    let behind = cluster.propose(n(1), 2);
    assert_eq!(behind.first, s(5));
    cluster.deliver_all();
    assert_eq!(cluster.mark(n(1)).slot, s(4), "chosen, but not next in order");
    let composed = cluster.node_mut(n(1)).compositions.remove(0);
    cluster.compose(n(1), composed);
    cluster.deliver_all();
    for id in cluster.ids() {
        assert_eq!(cluster.delivered(id)[3..], [composed, behind]);
    }
}

#[test]
fn an_old_reply_never_takes_a_stable_position_back() {
    let mut cluster = settled(3);
    cluster.now = cluster.replica(n(1)).poll_deadline();
    cluster.time_out(n(1));
    for packet in cluster.take(|packet| packet.from == n(1)) {
        cluster.deliver(packet);
    }
    let old = cluster.take(is_to("HeartbeatReply", n(1)));
    commit(&mut cluster, 4);
    for packet in old {
        cluster.deliver(packet);
    }
    assert_eq!(trim(&mut cluster, 6), Ok(s(6)));
}

fn trim_past(cluster: &mut Cluster, leader: u32, upto: u64) -> Result<Slot, TrimError> {
    let proposed = cluster.replica_mut(n(leader)).trim_past(s(upto));
    cluster.drive(n(leader));
    cluster.deliver_all();
    cluster.run(Duration::from_millis(200));
    proposed
}

/// Node 3 is down while the others choose, and trim past it.
fn left_behind() -> Cluster {
    let mut cluster = settled(3);
    cluster.crash(n(3), 0);
    commit(&mut cluster, 6);
    assert_eq!(trim(&mut cluster, 8), Ok(s(3)), "an ordinary trim leaves what it lacks");
    assert_eq!(trim_past(&mut cluster, 1, 8), Ok(s(8)));
    for id in [n(1), n(2)] {
        assert_eq!(cluster.replica(id).status().trimmed, s(8));
    }
    cluster.restart(n(3));
    cluster.run(Duration::from_secs(2));
    cluster
}

#[test]
fn a_member_behind_the_trim_knows_it_and_so_does_its_leader() {
    let mut cluster = left_behind();
    let status = cluster.replica(n(3)).status();
    assert_eq!(status.behind, Some(s(8)));
    assert!(status.mark.slot < s(8));
    let told: Vec<_> = cluster.replica(n(1)).status().peers.iter().map(|peer| (peer.node, peer.behind)).collect();
    assert_eq!(told, [(n(2), false), (n(3), true)]);
    // It holds no trims any more.
    commit(&mut cluster, 4);
    let upto = trim(&mut cluster, 12).expect("two of three have it");
    assert_eq!(upto, s(12));
}

#[test]
fn a_member_behind_the_trim_votes_and_never_leads() {
    let mut cluster = left_behind();
    cluster.crash(n(1), 0);
    cluster.run(Duration::from_secs(5));
    assert_eq!(cluster.leader(), Some(n(2)), "elected by node 3");
    let before = cluster.mark(n(2)).slot;
    cluster.commit(n(2), 5);
    assert_eq!(cluster.mark(n(2)).slot, before.plus(5), "chosen with its vote");
    // Without node 2 there is nobody who could lead.
    cluster.crash(n(2), 0);
    let asked = cluster.sent("PreVote");
    cluster.run(Duration::from_secs(5));
    assert_eq!((cluster.leader(), cluster.sent("PreVote")), (None, asked));
    // What it accepted meanwhile is found by the next leader.
    cluster.restart(n(1));
    cluster.run(Duration::from_secs(5));
    assert_eq!(cluster.leader(), Some(n(1)));
    assert!(cluster.mark(n(1)).slot >= before.plus(5));
}

#[test]
fn a_trim_past_members_leaves_what_a_quorum_lacks() {
    let mut cluster = settled(3);
    cluster.crash(n(3), 0);
    cluster.run(Duration::from_millis(200));
    cluster.node_mut(n(2)).disk = Disk::WhenTold;
    let held = cluster.replica(n(1)).held_by_quorum();
    cluster.propose(n(1), 1);
    cluster.deliver_all();
    cluster.run(Duration::from_millis(200));
    assert_eq!(trim_past(&mut cluster, 1, 99), Ok(held), "node 2 may still need the rest");
    assert!(held < cluster.mark(n(1)).slot);
}

fn hold(from: u64, progress: u64) -> Hold {
    Hold { from: s(from), progress }
}

#[test]
fn what_a_state_machine_hasnt_applied_is_left_as_long_as_it_says_so() {
    let mut cluster = settled(3);
    commit(&mut cluster, 8);
    let now = cluster.now;
    cluster.replica_mut(n(1)).set_hold(now, Some(hold(6, 0)));
    cluster.replica_mut(n(1)).note_hold(now, n(2), hold(4, 0));
    assert_eq!(trim(&mut cluster, 9), Ok(s(4)));
    // Of what is gone already it needs a snapshot, and none of the log.
    let now = cluster.now;
    cluster.replica_mut(n(1)).note_hold(now, n(2), hold(2, 0));
    assert_eq!(trim(&mut cluster, 9), Ok(s(6)));
    // A driver that ends says nothing more.
    let now = cluster.now;
    cluster.replica_mut(n(1)).set_hold(now, None);
    cluster.replica_mut(n(1)).note_hold(now, n(3), hold(7, 0));
    assert_eq!(trim(&mut cluster, 9), Ok(s(7)));
    cluster.run(Duration::from_secs(4));
    assert_eq!(trim(&mut cluster, 9), Ok(s(9)));
}

#[test]
fn whoever_gets_on_is_waited_for_and_nobody_else() {
    let mut cluster = settled(3);
    commit(&mut cluster, 8);
    let catching_up = |cluster: &mut Cluster| cluster.replica(n(1)).catching_up(cluster.now);
    let note = |cluster: &mut Cluster, from, progress| {
        let now = cluster.now;
        cluster.replica_mut(n(1)).note_hold(now, n(3), hold(from, progress));
    };
    note(&mut cluster, 5, 0);
    assert_eq!(catching_up(&mut cluster), Some((n(3), s(5))), "it has just shown that it lives");
    // A snapshot is on its way: it stays where it is, and bytes come in.
    for round in 1..20 {
        cluster.run(Duration::from_secs(1));
        note(&mut cluster, 5, round);
    }
    assert_eq!(catching_up(&mut cluster), Some((n(3), s(5))));
    let held = cluster.replica(n(1)).held_by_quorum();
    assert!(held > s(5), "it has no veto");
    assert_eq!(trim_past(&mut cluster, 1, 99), Ok(held));
    for _ in 0..20 {
        cluster.run(Duration::from_secs(1));
        note(&mut cluster, 5, 19);
    }
    assert_eq!(catching_up(&mut cluster), None, "nothing comes any more");
    // The own machine counts like any other.
    let now = cluster.now;
    cluster.replica_mut(n(1)).set_hold(now, Some(hold(99, 0)));
    assert_eq!(catching_up(&mut cluster), Some((n(1), s(99))));
    cluster.run(Duration::from_secs(11));
    assert_eq!(catching_up(&mut cluster), None);
}

#[test]
fn whoever_comes_back_gets_a_new_chance() {
    let mut cluster = settled(3);
    cluster.crash(n(3), 0);
    commit(&mut cluster, 6);
    cluster.run(Duration::from_secs(12));
    let now = cluster.now;
    assert_eq!(cluster.replica(n(1)).catching_up(now), None);
    assert_eq!(trim_past(&mut cluster, 1, 8), Ok(s(8)));
    cluster.restart(n(3));
    cluster.run(Duration::from_secs(2));
    let now = cluster.now;
    assert_eq!(cluster.replica(n(1)).catching_up(now), Some((n(3), s(8))), "it needs what it is going to install");
}
