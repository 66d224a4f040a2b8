//! A log of many segments whose index is mostly out of memory: it is read, served to a member that was away, looked
//! through in the background and opened again, and never are more entries in memory than there may be.

use std::time::Duration;

use synod_protocol::{Configuration, Role, Settings, Slot};
use synod_simulator::Options;
use synod_simulator::cluster::Cluster;
use synod_simulator::disk::Ending;
use synod_simulator::faults::Faults;
use synod_simulator::network::node_id;
use synod_simulator::node::Node;
use synod_simulator::plan::{Plan, ReadsPlan};
use synod_simulator::random::Chance;
use synod_simulator::workload::WorkloadPlan;
use synod_wal::{LogSettings, LoggedSettings, SyncMode};

const NODES: usize = 3;

const BODIES: u64 = 300;

const BODIES_MAX: usize = 16;

/// A page more than the limit begins one, and three segments with seven records at most aren't sealed.
const IN_MEMORY_MAX: usize = BODIES_MAX + 8 + 3 * 7;

fn plan() -> Plan {
    let settings = Settings::default();
    Plan {
        configuration: Configuration::genesis((0..NODES).map(node_id).collect(), 64).expect("three members"),
        logged: LoggedSettings {
            cache_bytes: 0,
            backlog_bytes: 1 << 20,
            scrub_bytes_per_second: 8 << 20,
            delivery: None,
        },
        log: LogSettings {
            segment_bytes: 64 << 10,
            sync: SyncMode::Dsync,
            pool_free_min: 1,
            pool_spares: 0,
            pool_files_max: 1000,
            index_bodies_max: BODIES_MAX,
        },
        faulty_time: Duration::ZERO,
        faults: Faults::none(),
        workload: WorkloadPlan {
            every: settings.election_timeout..=settings.election_timeout,
            burst: 1..=1,
            body_submissions_max: 1,
            commands: 1..=1,
            command_bytes: 5000..=5000,
            record_bytes_max: 12 << 10,
            trim_past: Chance::NEVER,
            trim: Chance::NEVER,
            read: Chance::NEVER,
            commands_min: 0,
        },
        reads: ReadsPlan::NONE,
        inspect: Chance::NEVER,
        protocol: settings,
    }
}

fn check_memory(cluster: &Cluster) {
    for running in cluster.nodes().iter().filter_map(|node| node.running.as_ref()) {
        let stats = running.replica.wal().stats();
        assert!(stats.index_entries <= IN_MEMORY_MAX, "{stats:?}");
    }
    assert!(cluster.violation().is_none(), "{:?}", cluster.violation());
}

/// Lets time go on until it is so.
fn wait(cluster: &mut Cluster, what: &str, is_so: impl Fn(&Cluster) -> bool) {
    for _ in 0..2000 {
        check_memory(cluster);
        if is_so(cluster) {
            return;
        }
        let until = cluster.time().plus(Duration::from_millis(10));
        cluster.run_until(until);
    }
    panic!("{what}");
}

fn leader(cluster: &Cluster) -> Option<usize> {
    let leads = |node: &Node| node.status().is_some_and(|status| status.role == Role::Leader);
    cluster.nodes().iter().position(leads)
}

fn reaches(node: &Node, end: Slot) -> bool {
    node.status().is_some_and(|status| status.mark.slot >= end)
}

fn scrub_passes(node: &Node) -> u64 {
    node.running.as_ref().map_or(0, |running| running.replica.status().scrub_passes)
}

/// Asks a node for every slot; the checkers see that it gives the chosen bodies.
fn read_all(cluster: &mut Cluster, index: usize, end: Slot) {
    let before = cluster.stats().reads;
    for slot in 1..end.0 {
        cluster.ask(index, Slot(slot));
        check_memory(cluster);
    }
    let all = before + end.0 - 1;
    wait(cluster, "all slots are read", |cluster| cluster.stats().reads >= all);
}

#[test]
fn a_log_whose_index_is_mostly_on_the_disk_does_all_that_another_does() {
    let mut cluster = Cluster::staged(Options { seed: 1, ..Options::default() }, plan());
    (0..NODES).for_each(|index| cluster.boot(index).expect("a new log opens"));
    wait(&mut cluster, "somebody leads", |cluster| leader(cluster).is_some());
    let away = (leader(&cluster).expect("just seen") + 1) % NODES;
    let others: Vec<usize> = (0..NODES).filter(|index| *index != away).collect();
    cluster.end(away, Ending::Kill);
    for _ in 0..BODIES {
        wait(&mut cluster, "a command is handed in", |cluster| leader(cluster).is_some());
        let (leader, before) = (leader(&cluster).expect("just seen"), cluster.oracle().chosen_end());
        assert!(cluster.hand_in(leader, 1));
        wait(&mut cluster, "it is chosen", |cluster| cluster.oracle().chosen_end() > before);
    }
    let end = cluster.oracle().chosen_end();
    wait(&mut cluster, "both have all", |cluster| others.iter().all(|index| reaches(&cluster.nodes()[*index], end)));
    for index in others {
        let stats = cluster.nodes()[index].running.as_ref().expect("it runs").replica.wal().stats();
        assert!(stats.index_pages > 25 && stats.segments_live > 40, "{stats:?}");
        read_all(&mut cluster, index, end);
    }
    // Served from pages to the one that was away, which puts its own out meanwhile.
    cluster.boot(away).expect("its log opens");
    wait(&mut cluster, "it has all", |cluster| reaches(&cluster.nodes()[away], end));
    read_all(&mut cluster, away, end);
    wait(&mut cluster, "all is looked through", |cluster| cluster.nodes().iter().all(|node| scrub_passes(node) >= 2));
    // Opened again, there is no more in memory either, and all is there.
    for index in 0..NODES {
        cluster.end(index, Ending::PowerFailure);
        cluster.boot(index).expect("its log opens");
        check_memory(&cluster);
    }
    wait(&mut cluster, "somebody leads again", |cluster| leader(cluster).is_some());
    wait(&mut cluster, "all are back", |cluster| cluster.nodes().iter().all(|node| reaches(node, end)));
    (0..NODES).for_each(|index| read_all(&mut cluster, index, end));
    cluster.conclude();
    assert!(cluster.violation().is_none(), "{:?}", cluster.violation());
}
