//! Partial partitions and one-way links (the cases of the OmniPaxos paper, and simplex ones): wherever somebody reaches
//! a quorum there and back, a leader chooses again within four election timeouts, and leaders don't take turns.

use std::time::Duration;

use super::cluster::{Cluster, n};
use crate::ballot::NodeId;
use crate::config::{Configuration, Settings};
use crate::replica::Role;

/// Jitter is drawn from this many seeds.
const SEEDS: u64 = 40;

/// A cluster that node 1 leads, with all caught up but who is cut off.
fn led(size: u32, seed: u64) -> Cluster {
    let mut cluster = Cluster::with(size, Configuration::ALPHA_DEFAULT, Settings::default(), seed);
    cluster.elect(n(1));
    cluster.commit(n(1), 3);
    cluster.run(Duration::from_millis(250 + 7 * seed));
    cluster
}

fn cut_both(cluster: &mut Cluster, one: u32, other: u32) {
    cluster.cut(n(one), n(other));
    cluster.cut(n(other), n(one));
}

/// Only links to and from `hub` are left.
fn only_hub(cluster: &mut Cluster, hub: u32) {
    let others: Vec<u32> = cluster.ids().into_iter().map(|id| id.0).filter(|id| *id != hub).collect();
    for one in &others {
        for other in &others {
            cluster.cut(n(*one), n(*other));
        }
    }
}

/// Time passes until something proposed from now on is chosen. Returns who did it, and how many ballots were begun.
fn choose_again(cluster: &mut Cluster, case: &str) -> (NodeId, u64) {
    let (onset, rounds) = (cluster.now, highest_round(cluster));
    let limit = cluster.settings().election_timeout * 4;
    let mut proposed = Vec::new();
    loop {
        for id in cluster.ids() {
            if cluster.role(id) == Role::Leader && !proposed.iter().any(|(leader, _)| *leader == id) {
                proposed.push((id, cluster.propose(id, 1)));
            }
        }
        cluster.run(Duration::from_millis(5));
        // What a leader proposed in vain may be adopted by the next one: that doesn't make it a leader again.
        let serves = |id: NodeId, body| cluster.role(id) == Role::Leader && cluster.delivered(id).contains(body);
        if let Some((leader, _)) = proposed.iter().find(|(id, body)| serves(*id, body)) {
            return (*leader, highest_round(cluster) - rounds);
        }
        assert!(cluster.now.since(onset) <= limit, "{case}: nothing is chosen within {limit:?}");
    }
}

fn highest_round(cluster: &Cluster) -> u64 {
    cluster.ids().into_iter().map(|id| cluster.replica(id).promised().round).max().unwrap_or(0)
}

/// The leader goes on choosing, and nobody begins another ballot.
fn stays(cluster: &mut Cluster, leader: NodeId, case: &str) {
    let round = highest_round(cluster);
    cluster.run(cluster.settings().election_timeout * 20);
    assert_eq!((cluster.leader(), highest_round(cluster)), (Some(leader), round), "{case}: the leader stays");
    cluster.commit(leader, 1);
}

#[test]
fn quorum_loss_the_hub_takes_over() {
    for (size, hub) in [(5, 3), (5, 2), (7, 4)] {
        for seed in 0..SEEDS {
            let case = format!("{size} nodes, hub {hub}, seed {seed}");
            let mut cluster = led(size, seed);
            only_hub(&mut cluster, hub);
            let (leader, _) = choose_again(&mut cluster, &case);
            assert_eq!(leader, n(hub), "{case}");
            stays(&mut cluster, leader, &case);
        }
    }
}

#[test]
fn quorum_loss_without_the_word_of_the_old_leader() {
    for seed in 0..SEEDS {
        let case = format!("seed {seed}");
        let mut cluster = led(5, seed);
        only_hub(&mut cluster, 3);
        cluster.cut(n(1), n(3));
        let (leader, _) = choose_again(&mut cluster, &case);
        assert_eq!(leader, n(3), "{case}");
        stays(&mut cluster, leader, &case);
    }
}

#[test]
fn constrained_election_the_only_connected_node_lags() {
    for seed in 0..SEEDS {
        let case = format!("seed {seed}");
        let mut cluster = led(5, seed);
        // Node 3 misses what the others choose; then it is the hub, and the old leader is cut off entirely.
        cluster.isolate(n(3));
        cluster.commit(n(1), 2);
        cluster.heal();
        only_hub(&mut cluster, 3);
        cut_both(&mut cluster, 1, 3);
        let (leader, _) = choose_again(&mut cluster, &case);
        assert_eq!(leader, n(3), "{case}");
        stays(&mut cluster, leader, &case);
    }
}

#[test]
fn chained_nodes_keep_their_leader() {
    for (one, other) in [(1, 3), (1, 2), (2, 3)] {
        for seed in 0..SEEDS {
            let case = format!("without {one} - {other}, seed {seed}");
            let mut cluster = led(3, seed);
            cut_both(&mut cluster, one, other);
            assert_eq!(choose_again(&mut cluster, &case), (n(1), 0), "{case}");
            stays(&mut cluster, n(1), &case);
        }
    }
    for seed in 0..SEEDS {
        let case = format!("a chain of five, seed {seed}");
        let mut cluster = led(5, seed);
        for (one, other) in [(1, 3), (1, 4), (1, 5), (2, 4), (2, 5), (3, 5)] {
            cut_both(&mut cluster, one, other);
        }
        // The leader at the end reaches one peer; those in the middle reach two.
        let (leader, rounds) = choose_again(&mut cluster, &case);
        assert!((2..=4).contains(&leader.0) && rounds <= 2, "{case}: {leader} after {rounds} ballots");
        stays(&mut cluster, leader, &case);
    }
}

#[test]
fn one_way_links_leave_a_leader_who_is_heard_and_hears() {
    for size in [3, 5] {
        for seed in 0..SEEDS {
            let case = format!("{size} nodes, seed {seed}");
            // Deaf: all hear it, it hears nobody.
            let mut cluster = led(size, seed);
            (2..=size).for_each(|peer| cluster.cut(n(peer), n(1)));
            let (leader, _) = choose_again(&mut cluster, &case);
            assert_ne!(leader, n(1), "deaf, {case}");
            stays(&mut cluster, leader, &case);
            // Mute: it hears all, and nobody hears it.
            let mut cluster = led(size, seed);
            (2..=size).for_each(|peer| cluster.cut(n(1), n(peer)));
            let (leader, _) = choose_again(&mut cluster, &case);
            assert_ne!(leader, n(1), "mute, {case}");
            stays(&mut cluster, leader, &case);
            // Heard by too few, though all could answer.
            let mut cluster = led(size, seed);
            (2..=size.div_ceil(2) + 1).for_each(|peer| cluster.cut(n(1), n(peer)));
            let (leader, _) = choose_again(&mut cluster, &case);
            assert_ne!(leader, n(1), "half mute, {case}");
            // One follower can't be told, or can't answer: no reason for anything.
            for (from, to) in [(1, 2), (2, 1), (2, 3), (3, 2)] {
                let mut cluster = led(size, seed);
                cluster.cut(n(from), n(to));
                assert_eq!(choose_again(&mut cluster, &case), (n(1), 0), "{from} to {to}, {case}");
                stays(&mut cluster, n(1), &case);
            }
        }
    }
}

#[test]
fn a_crowd_of_one_way_links_in_a_ring_still_gets_a_leader() {
    // Each node of five is heard by its next two, and hears its last two; 1 and 2 also reach each other both ways, and
    // so do 1 and 3: node 1 alone has a quorum there and back.
    for seed in 0..SEEDS {
        let case = format!("seed {seed}");
        let mut cluster = led(5, seed);
        for from in 1..=5u32 {
            for to in 1..=5u32 {
                let both = matches!((from.min(to), from.max(to)), (1, 2) | (1, 3));
                if from != to && !both && !matches!((to + 5 - from) % 5, 1 | 2) {
                    cluster.cut(n(from), n(to));
                }
            }
        }
        assert_eq!(choose_again(&mut cluster, &case).0, n(1), "{case}");
        stays(&mut cluster, n(1), &case);
    }
}

#[test]
fn a_dead_leader_is_replaced_in_time_and_with_few_ballots() {
    for size in [3, 5, 7] {
        for seed in 0..SEEDS {
            let case = format!("{size} nodes, seed {seed}");
            let mut cluster = led(size, seed);
            cluster.isolate(n(1));
            let (leader, rounds) = choose_again(&mut cluster, &case);
            assert!(leader != n(1) && rounds <= 2, "{case}: {leader} after {rounds} ballots");
            stays(&mut cluster, leader, &case);
        }
    }
}

#[test]
fn a_stray_promise_costs_the_leader_a_short_wait() {
    for seed in 0..SEEDS {
        let case = format!("seed {seed}");
        let mut cluster = led(3, seed);
        // Node 3 promised a ballot to itself, and then nobody heard of it.
        let stray = super::cluster::ballot(9, 3);
        cluster.inject(n(3), n(2), crate::Message::Prepare { ballot: stray, from: super::cluster::s(1) });
        cluster.network.clear();
        let (_, rounds) = choose_again(&mut cluster, &case);
        assert!(rounds <= 2, "{case}: {rounds} ballots");
    }
}
