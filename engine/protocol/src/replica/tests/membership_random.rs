//! Changes of the membership under random schedules: lost, doubled and reordered messages, crashes, partitions, slow
//! disks. The cluster checks safety at every step, with the quorums of each slot's own configuration; in the end, when
//! nothing goes wrong any more, whoever rules must go on.

use std::time::Duration;

use super::cluster::{Cluster, Dice, Disk, n};
use crate::{Change, NodeId, Role, Settings};

const NODES: u32 = 7;

fn some(dice: &mut Dice, most: u64) -> Vec<NodeId> {
    (0..dice.below(most + 1)).map(|_| n(1 + dice.below(u64::from(NODES)) as u32)).collect()
}

fn change(dice: &mut Dice) -> Change {
    match dice.below(10) {
        0 => Change::Cancel,
        1 | 2 => Change::Promote { force: dice.percent(50) },
        _ => Change::Replace { add: some(dice, 2), remove: some(dice, 2) },
    }
}

/// One schedule. Returns how many configurations were chosen.
fn play(seed: u64) -> usize {
    let mut dice = Dice(seed);
    let alpha = dice.pick(&[2, 2, 3, 5, 40]);
    let mut cluster = Cluster::with(3, alpha, Settings::default(), seed);
    for node in 4..=NODES {
        cluster.add_node(n(node));
    }
    for _ in 0..2500 {
        let node = n(1 + dice.below(u64::from(NODES)) as u32);
        match dice.below(100) {
            0..60 => {
                let count = cluster.network.len() as u64;
                if count == 0 {
                    continue;
                }
                // Mostly in order, and sometimes not.
                let place = if dice.percent(80) { 0 } else { dice.below(count) as usize };
                let packet = cluster.network.remove(place).expect("there is one");
                if dice.percent(3) {
                    cluster.network.push_back(packet.clone());
                }
                if !dice.percent(2) {
                    cluster.deliver(packet);
                }
            }
            60..72 => cluster.propose_if_open(node),
            72..86 => {
                cluster.now = cluster.now.plus(Duration::from_millis(dice.below(60)));
                cluster.time_out_due();
            }
            86..89 if cluster.is_up(node) && cluster.role(node) == Role::Leader => {
                let change = change(&mut dice);
                let _ = cluster.reconfigure(node, change);
            }
            89 if cluster.is_up(node) && dice.percent(50) => cluster.crash(node, dice.below(3) as usize),
            90..93 if !cluster.is_up(node) => cluster.restart(node),
            93 if dice.percent(30) => cluster.isolate(node),
            94..96 => cluster.heal(),
            96 => cluster.node_mut(node).disk = dice.pick(&[Disk::AtOnce, Disk::WhenTold]),
            97..100 if cluster.is_up(node) => cluster.sync(node),
            _ => {}
        }
    }
    finish(&mut cluster, seed);
    let chosen = cluster.oracle.chosen().values();
    chosen.filter(|body| body.kind.is_configuration()).count()
}

/// Nothing goes wrong any more: somebody leads, and everybody who rules or learns has everything.
fn finish(cluster: &mut Cluster, seed: u64) {
    cluster.heal();
    for node in 1..=NODES {
        cluster.node_mut(n(node)).disk = Disk::AtOnce;
        if cluster.is_up(n(node)) {
            cluster.sync(n(node));
        } else {
            cluster.restart(n(node));
        }
    }
    for _ in 0..40 {
        cluster.run(cluster.settings().election_timeout);
        if let Some(leader) = cluster.leader() {
            cluster.propose_if_open(leader);
        }
    }
    let leader = cluster.leader().unwrap_or_else(|| {
        let ids = cluster.ids();
        panic!(
            "seed {seed}: nobody leads: {:#?}",
            ids.iter().map(|id| cluster.replica(*id).status()).collect::<Vec<_>>()
        )
    });
    let status = cluster.replica(leader).status();
    assert!(cluster.opening(leader).is_some(), "seed {seed}: {status:?}");
    cluster.commit(leader, 1);
    cluster.run(cluster.settings().election_timeout);
    let status = cluster.replica(leader).status();
    assert!(status.configuration.is_member(leader), "seed {seed}: {status:?}");
    assert!(status.configuration.learners.is_empty(), "seed {seed}: whoever learns has come in: {status:?}");
    assert_eq!((&status.pending, &status.retiring), (&None, &Vec::new()), "seed {seed}: {status:?}");
    for member in &status.configuration.members {
        assert_eq!(cluster.mark(*member), status.mark, "seed {seed}: {member}");
    }
}

#[test]
fn whoever_rules_agrees_and_goes_on_under_random_changes() {
    let mut chosen = 0;
    for seed in 0..300 {
        chosen += play(seed);
    }
    assert!(chosen > 300, "the schedules do change the membership: {chosen}");
}
