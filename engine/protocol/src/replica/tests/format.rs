//! The format of the log: a change like any other, if all can read it.

use super::cluster::{Cluster, n, s};
use crate::{Change, NodeId, ReconfigureError, Settings, Slot};

/// Three members that have answered their leader, and a node that may come in.
fn cluster(settings: Settings) -> Cluster {
    let mut cluster = Cluster::with(3, 20, settings, 5);
    cluster.add_node(n(4));
    cluster.elect(n(1));
    cluster.commit(n(1), 1);
    cluster.run(cluster.settings().heartbeat_interval * 2);
    cluster
}

fn tell(cluster: &mut Cluster, readers: &[(u32, u16)]) {
    for (node, format_max) in readers {
        cluster.replica_mut(n(1)).handle_reader(n(*node), *format_max);
    }
}

fn raise(cluster: &mut Cluster, to: u16) -> Result<Slot, ReconfigureError> {
    cluster.reconfigure(n(1), Change::RaiseFormat { to })
}

fn unreadable(node: u32, reads: Option<u16>) -> Result<Slot, ReconfigureError> {
    Err(ReconfigureError::Unreadable { node: n(node), reads, needed: 2 })
}

fn format_at(cluster: &Cluster, node: u32) -> u16 {
    cluster.replica(n(node)).status().configuration.format
}

#[test]
fn the_format_is_raised_when_all_read_it() {
    let mut cluster = cluster(Settings::default());
    assert_eq!(raise(&mut cluster, 2), unreadable(2, None), "nobody has said anything");
    tell(&mut cluster, &[(2, 2), (3, 1)]);
    assert_eq!(raise(&mut cluster, 2), unreadable(3, Some(1)));
    tell(&mut cluster, &[(3, 2)]);
    let slot = raise(&mut cluster, 2).expect("all read it");
    cluster.deliver_all();
    let status = cluster.replica(n(1)).status();
    assert_eq!(status.configuration.format, 1, "it rules from alpha slots later on");
    assert_eq!(status.pending.map(|pending| (pending.chosen_at, pending.format)), Some((slot, 2)));
    cluster.run(cluster.settings().heartbeat_interval * 12);
    for node in 1..=3 {
        assert_eq!(format_at(&cluster, node), 2);
        assert!(cluster.mark(n(node)).slot >= slot.plus(20), "no-ops move it along");
    }
    let members: Vec<NodeId> = [1, 2, 3].map(NodeId).into();
    assert_eq!(cluster.replica(n(1)).status().configuration.members, members);
}

#[test]
fn no_way_leads_back() {
    let mut cluster = cluster(Settings::default());
    tell(&mut cluster, &[(2, 2), (3, 2)]);
    raise(&mut cluster, 2).expect("all read it");
    assert!(matches!(raise(&mut cluster, 2), Err(ReconfigureError::Pending(_))));
    cluster.run(cluster.settings().heartbeat_interval * 12);
    for to in [0, 1, 2] {
        assert_eq!(raise(&mut cluster, to), Err(ReconfigureError::NotRaised { active: 2, to }));
    }
    // The leader itself is one of those who must read it.
    tell(&mut cluster, &[(2, 9), (3, 9)]);
    assert_eq!(raise(&mut cluster, 3), Err(ReconfigureError::Unreadable { node: n(1), reads: Some(2), needed: 3 }));
}

/// What it said before it fell silent may not hold any more: it may come back as an older build.
#[test]
fn who_is_silent_has_said_nothing() {
    let mut cluster = cluster(Settings::default());
    tell(&mut cluster, &[(2, 2), (3, 2)]);
    cluster.isolate(n(3));
    cluster.run(cluster.settings().election_timeout * 2);
    assert_eq!(raise(&mut cluster, 2), unreadable(3, None));
}

#[test]
fn learners_must_read_it_too() {
    let mut cluster = cluster(Settings::default());
    tell(&mut cluster, &[(2, 2), (3, 2)]);
    cluster.isolate(n(4));
    cluster.reconfigure(n(1), Change::Replace { add: vec![n(4)], remove: Vec::new() }).expect("nothing is in the way");
    cluster.run(cluster.settings().heartbeat_interval * 12);
    assert_eq!(raise(&mut cluster, 2), unreadable(4, None));
    cluster.heal();
    cluster.run(cluster.settings().heartbeat_interval * 12);
    tell(&mut cluster, &[(4, 2)]);
    raise(&mut cluster, 2).expect("all four read it");
}

#[test]
fn nobody_comes_in_who_cant_read_the_log() {
    let mut cluster = cluster(Settings::default());
    tell(&mut cluster, &[(2, 2), (3, 2), (4, 1)]);
    raise(&mut cluster, 2).expect("all members read it");
    cluster.run(cluster.settings().heartbeat_interval * 12);
    let change = Change::Replace { add: vec![n(4)], remove: Vec::new() };
    assert_eq!(cluster.reconfigure(n(1), change.clone()), unreadable(4, Some(1)));
    tell(&mut cluster, &[(4, 2)]);
    cluster.reconfigure(n(1), change).expect("now it reads it");
    cluster.run(cluster.settings().heartbeat_interval * 24);
    let status = cluster.replica(n(1)).status();
    assert_eq!((status.configuration.members.len(), status.configuration.format), (4, 2), "the format stays");
}

#[test]
fn a_leader_raises_it_by_itself_if_told_to() {
    let settings = Settings { raises_format: true, ..Settings::default() };
    let mut cluster = cluster(settings);
    tell(&mut cluster, &[(2, 2), (3, 1)]);
    cluster.run(cluster.settings().heartbeat_interval * 12);
    assert_eq!(format_at(&cluster, 1), 1, "one can't read it");
    tell(&mut cluster, &[(3, 7)]);
    cluster.run(cluster.settings().heartbeat_interval * 12);
    assert_eq!(format_at(&cluster, 1), 2, "as far as this build itself reads");
    let slots = cluster.mark(n(1)).slot;
    cluster.run(cluster.settings().heartbeat_interval * 12);
    assert!(cluster.mark(n(1)).slot <= slots.plus(20) && slots > s(20), "once");
}
