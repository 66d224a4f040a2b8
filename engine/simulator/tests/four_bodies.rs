//! Every way to damage copies of four bodies on three nodes, 4,096 in all: the cluster gets back whatever has one good copy,
//! and what has none is named by its slots, never decided anew.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use synod_frame::{RECORD_HEADER_BYTES, verify_body_in_record};
use synod_protocol::{BodyHandle, BodyKind, Configuration, Settings, Slot};
use synod_simulator::cluster::Cluster;
use synod_simulator::disk::Ending;
use synod_simulator::faults::Faults;
use synod_simulator::network::node_id;
use synod_simulator::node::Node;
use synod_simulator::plan::{Plan, ReadsPlan};
use synod_simulator::random::Chance;
use synod_simulator::workload::WorkloadPlan;
use synod_simulator::{Options, Plant};
use synod_wal::{LogSettings, LoggedSettings, SegmentStore, SyncMode};

const NODES: usize = 3;
const BODIES: usize = 4;

/// One bit a copy: of body `bit % BODIES` at node `bit / BODIES`.
const WAYS: u32 = 1 << (NODES * BODIES);

/// What of a copy is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// The record's header: only what is written elsewhere can tell what lay there.
    Head,
    /// A later block, so that the record's header tells what it held.
    Tail,
}

fn plan() -> Plan {
    let settings = Settings::default();
    Plan {
        configuration: Configuration::genesis((0..NODES).map(node_id).collect(), 64).expect("three members"),
        logged: LoggedSettings { cache_bytes: 0, backlog_bytes: 1 << 20, scrub_bytes_per_second: 0, delivery: None },
        log: LogSettings {
            segment_bytes: 64 << 10,
            sync: SyncMode::Dsync,
            pool_free_min: 1,
            pool_spares: 0,
            pool_files_max: 100,
            ..LogSettings::default()
        },
        faulty_time: Duration::ZERO,
        faults: Faults::none(),
        workload: WorkloadPlan {
            every: settings.election_timeout..=settings.election_timeout,
            burst: 1..=1,
            body_submissions_max: 1,
            commands: 1..=1,
            // So that every record has a block behind that of its headers.
            command_bytes: 5000..=5000,
            record_bytes_max: 12 << 10,
            trim: Chance::NEVER,
            trim_past: Chance::NEVER,
            read: Chance::NEVER,
            commands_min: 0,
        },
        reads: ReadsPlan::NONE,
        inspect: Chance::NEVER,
        protocol: settings,
    }
}

fn pass(cluster: &mut Cluster, time: Duration) {
    let until = cluster.time().plus(time);
    cluster.run_until(until);
}

/// Lets time go on until it is so; whether it is.
fn wait(cluster: &mut Cluster, is_so: impl Fn(&Cluster) -> bool) -> bool {
    for _ in 0..200 {
        if is_so(cluster) || cluster.violation().is_some() {
            break;
        }
        pass(cluster, Duration::from_millis(50));
    }
    is_so(cluster)
}

fn lost(node: &Node) -> Vec<Slot> {
    let running = node.running.as_ref().expect("it runs");
    running.replica.status().lost.iter().map(|body| body.first).collect()
}

/// Whether a node says of all these slots that it doesn't know what it accepted there, or that it has lost it.
fn names_all(node: &Node, slots: &[Slot]) -> bool {
    let Some(status) = node.status() else { return false };
    let lost = lost(node);
    slots.iter().all(|slot| lost.contains(slot) || status.doubts.iter().any(|doubt| doubt.covers(*slot)))
}

fn all_have(cluster: &Cluster, end: Slot) -> bool {
    cluster.nodes().iter().all(|node| node.status().is_some_and(|status| status.mark.slot >= end))
}

/// A body's bytes, as a reader of the disk finds them.
fn stored(cluster: &Cluster, node: &Node, body: &BodyHandle) -> Option<Vec<u8>> {
    let log = node.recover(&node.disk.seen(), cluster.plan()).expect("the log opens");
    let entry = log.index.get(body.first).filter(|entry| entry.body == *body)?;
    let mut record = vec![0; entry.location.record_bytes as usize];
    node.disk.seen().read_at(entry.location.file, entry.location.offset, &mut record).ok()?;
    verify_body_in_record(&record).ok()?;
    Some(record[RECORD_HEADER_BYTES..][..body.bytes as usize].to_vec())
}

/// Three nodes that have four chosen bodies each, and are down.
fn filled(plant: Option<Plant>) -> (Cluster, Vec<BodyHandle>) {
    let mut cluster = Cluster::staged(Options { seed: 5, plant, ..Options::default() }, plan());
    (0..NODES).for_each(|index| cluster.boot(index).expect("a new log opens"));
    for _ in 0..BODIES {
        let leader = |cluster: &Cluster| (0..NODES).find(|index| is_leader(cluster, *index));
        assert!(wait(&mut cluster, |cluster| leader(cluster).is_some()), "somebody leads");
        let leader = leader(&cluster).expect("seen above");
        let end = cluster.oracle().chosen_end();
        assert!(cluster.hand_in(leader, 1));
        assert!(wait(&mut cluster, |cluster| cluster.oracle().chosen_end() > end), "a command is chosen");
    }
    let end = cluster.oracle().chosen_end();
    assert!(wait(&mut cluster, |cluster| all_have(cluster, end)));
    // Logs that fall idle note how far everything is chosen and durable.
    pass(&mut cluster, Duration::from_secs(3));
    let chosen = cluster.oracle().chosen_from(Slot::FIRST).map(|chosen| chosen.body);
    let bodies: Vec<BodyHandle> = chosen.filter(|body| body.kind == BodyKind::Commands).collect();
    assert_eq!(bodies.len(), BODIES);
    (0..NODES).for_each(|index| cluster.end(index, Ending::Kill));
    (cluster, bodies)
}

fn is_leader(cluster: &Cluster, index: usize) -> bool {
    cluster.nodes()[index].status().is_some_and(|status| status.role == synod_protocol::Role::Leader)
}

fn is_damaged(way: u32, node: usize, body: usize) -> bool {
    way >> (node * BODIES + body) & 1 == 1
}

/// Damages copies, starts all nodes, and says what is wrong with what came of it. Whether everything was healed.
fn try_way(way: u32, part: Part, plant: Option<Plant>) -> Result<bool, String> {
    let (mut cluster, bodies) = filled(plant);
    let good: Vec<Vec<u8>> =
        bodies.iter().map(|body| stored(&cluster, &cluster.nodes()[0], body).expect("it is sound")).collect();
    for node in 0..NODES {
        let log = cluster.nodes()[node].recover(&cluster.nodes()[node].disk.seen(), cluster.plan());
        let log = log.expect("it is sound");
        for (number, body) in bodies.iter().enumerate().filter(|(number, _)| is_damaged(way, node, *number)) {
            let location = log.index.get(body.first).expect("everybody has it").location;
            assert!(location.record_bytes >= 8192, "{location:?} number {number}");
            let offset = match part {
                Part::Head => location.offset + 20,
                Part::Tail => location.offset + 4096 + 100,
            };
            assert!(cluster.flip_bit(node, location.file, offset));
        }
    }
    for node in 0..NODES {
        cluster.boot(node).map_err(|error| format!("node {node} doesn't start: {error}"))?;
    }
    let without_copy = |number: &usize| (0..NODES).all(|node| is_damaged(way, node, *number));
    let gone: Vec<Slot> = (0..BODIES).filter(without_copy).map(|number| bodies[number].first).collect();
    let end = bodies[BODIES - 1].end();
    let is_settled = |cluster: &Cluster| match part {
        Part::Head if !gone.is_empty() => cluster.nodes().iter().all(|node| names_all(node, &gone)),
        _ => {
            let is_sure = |node: &Node| node.status().is_some_and(|status| status.doubts.is_empty() && !status.unsure);
            all_have(cluster, end) && cluster.nodes().iter().all(|node| is_sure(node) && lost(node) == gone)
        }
    };
    let settled = wait(&mut cluster, is_settled);
    // What is chosen stays so, whatever clients hand in, and nothing is given up.
    for _ in 0..10 {
        cluster.hand_everybody();
        pass(&mut cluster, Duration::from_millis(200));
    }
    let settled = settled && is_settled(&cluster);
    if let Some(violation) = cluster.violation() {
        return Err(violation.to_string());
    }
    for (index, node) in cluster.nodes().iter().enumerate() {
        let log = node.running.as_ref().ok_or("it ended")?.replica.wal().index();
        for (number, body) in bodies.iter().enumerate() {
            let known = log.get(body.first).map(|entry| entry.body);
            if known.is_some_and(|known| known != *body) {
                return Err(format!("node {index} has {known:?} instead of {body:?}"));
            }
            let is_gone = gone.contains(&body.first);
            match stored(&cluster, node, body) {
                Some(bytes) if bytes != good[number] || is_gone => {
                    return Err(format!("node {index} makes up {body:?}"));
                }
                // Behind what nobody has, nobody can be told what is chosen.
                None if !is_gone && (part == Part::Tail || gone.is_empty()) => {
                    return Err(format!("node {index} hasn't got back {body:?}"));
                }
                _ => {}
            }
        }
    }
    if !settled {
        let nodes: Vec<_> = cluster.nodes().iter().map(|node| (lost(node), node.status())).collect();
        return Err(format!("{gone:?} are lost, but nodes say {nodes:?}"));
    }
    Ok(gone.is_empty())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no thread panics while it holds the lock")
}

fn try_ways(part: Part) {
    let (next, healed, wrong) = (AtomicU32::new(0), AtomicU32::new(0), Mutex::new(Vec::new()));
    let work = || {
        loop {
            let way = next.fetch_add(1, Ordering::Relaxed);
            if way >= WAYS {
                return;
            }
            match try_way(way, part, None) {
                Ok(all) => drop(healed.fetch_add(u32::from(all), Ordering::Relaxed)),
                Err(error) => lock(&wrong).push(format!("way {way:#05x}, {part:?}: {error}")),
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let (wrong, healed) = (lock(&wrong), healed.into_inner());
    println!("{WAYS} ways, {part:?}: {healed} healed");
    let shown: Vec<&str> = wrong.iter().take(10).map(String::as_str).collect();
    assert!(wrong.is_empty(), "{} ways go wrong:\n{}", wrong.len(), shown.join("\n"));
    // A body has a good copy in 7 of its 8 ways.
    assert_eq!(healed, 7_u32.pow(BODIES as u32), "ways in which everything is healed");
}

#[test]
fn damaged_bodies_are_healed_or_named() {
    try_ways(Part::Tail);
}

/// Nothing tells which body lay there: a node that knows of one good copy gets it back; without any, all say that they
/// don't know, and nothing else is chosen in its place.
#[test]
fn damaged_records_are_healed_or_doubted() {
    try_ways(Part::Head);
}

/// The same with a bug planted, by which a node forgets what damage may hide: that is found.
#[test]
fn hidden_doubts_are_found() {
    let first_body_everywhere = 0x111;
    assert_eq!(try_way(first_body_everywhere, Part::Head, None), Ok(false));
    let found = try_way(first_body_everywhere, Part::Head, Some(Plant::HidesDoubts));
    assert!(found.is_err(), "{found:?}");
}
