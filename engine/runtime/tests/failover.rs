//! Three real processes under load: the leader is killed, a new one commits, the dead one comes back and catches up.
//! Then the logs are compared with what the clients saw, and audited.

mod common;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::{
    Served, commands, free_addresses, insist_on_invariants, make_cluster, read_all, temporary_directory, wait_for,
};
use synod::client::{Client, ClientError, ClientRefusal, NodeRole};
use synod::{Batch, Slot};
use synod_wal::audit::Acknowledged;

const WRITERS: u64 = 3;
const BATCH_COMMANDS: u64 = 20;
const OUTSTANDING: usize = 16;

const PATIENCE: Duration = Duration::from_secs(10);

/// What the writers know.
#[derive(Default)]
struct Seen {
    /// Acknowledged commands and their slots.
    acknowledged: Mutex<BTreeMap<Vec<u8>, Slot>>,
    /// Refused with certainty, so in no log.
    refused: Mutex<Vec<Vec<u8>>>,
    /// Acknowledged batches.
    count: AtomicU64,
}

fn command(writer: u64, number: u64) -> Vec<u8> {
    let mut command = format!("writer {writer} command {number} ").into_bytes();
    command.resize(32 + (number % 97) as usize, b'.');
    command
}

fn batch_of(writer: u64, first: u64) -> Batch {
    (first..first + BATCH_COMMANDS).map(|number| command(writer, number)).collect()
}

/// Appends until it is told to stop, wherever there is a leader.
fn write(writer: u64, nodes: &[SocketAddr], stop: &AtomicBool, seen: &Seen) {
    let mut next = 0;
    let mut node = writer as usize;
    while !stop.load(Ordering::Relaxed) {
        node += 1;
        let Ok(mut client) = connect(nodes[node % nodes.len()]) else {
            std::thread::sleep(Duration::from_millis(10));
            continue;
        };
        let leads = client.status().is_ok_and(|status| status.role == NodeRole::Leader);
        if leads {
            write_at(writer, &mut client, &mut next, stop, seen);
        } else {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn write_at(writer: u64, client: &mut Client, next: &mut u64, stop: &AtomicBool, seen: &Seen) {
    let mut sent = BTreeMap::new();
    loop {
        while client.outstanding() < OUTSTANDING && !stop.load(Ordering::Relaxed) {
            // Never the same command again: what is unknown must be found at most once.
            let first = *next;
            *next += BATCH_COMMANDS;
            let Ok(request) = client.send_append(&batch_of(writer, first)) else { return };
            sent.insert(request, first);
        }
        if client.outstanding() == 0 {
            return;
        }
        let Ok((request, outcome)) = client.receive() else { return };
        let first = sent.remove(&request).expect("an answer to what was asked");
        match outcome {
            Ok(slots) => {
                assert_eq!(slots.end.since(slots.start), BATCH_COMMANDS);
                let mut acknowledged = seen.acknowledged.lock().unwrap();
                for number in 0..BATCH_COMMANDS {
                    acknowledged.insert(command(writer, first + number), slots.start.plus(number));
                }
                seen.count.fetch_add(1, Ordering::Relaxed);
            }
            Err(ClientRefusal::UnknownOutcome | ClientRefusal::Shutdown) => {}
            Err(_) => {
                let mut refused = seen.refused.lock().unwrap();
                refused.extend((0..BATCH_COMMANDS).map(|number| command(writer, first + number)));
                return;
            }
        }
    }
}

/// A connection that gives up soon: its node may stand still.
fn connect(node: SocketAddr) -> Result<Client, ClientError> {
    let mut client = Client::connect_within(node, Duration::from_millis(500))?;
    client.set_timeout(Some(Duration::from_secs(1)))?;
    Ok(client)
}

fn leader_among(nodes: &[SocketAddr]) -> Option<usize> {
    nodes.iter().position(|node| {
        connect(*node).and_then(|mut client| client.status()).is_ok_and(|status| status.role == NodeRole::Leader)
    })
}

/// What becomes of a leader.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// It dies, and is started again.
    Kill,
    /// It stands still, and goes on as if nothing had happened.
    Pause,
}

/// A cluster of three processes, and writers that keep it busy.
struct Cluster {
    directories: Vec<PathBuf>,
    listens: Vec<SocketAddr>,
    clients: Vec<SocketAddr>,
    nodes: Vec<Served>,
    seen: Arc<Seen>,
    stop: Arc<AtomicBool>,
    writers: Vec<JoinHandle<()>>,
    _root: tempfile::TempDir,
}

impl Cluster {
    fn start() -> Cluster {
        let root = temporary_directory();
        let directories = make_cluster(root.path(), 3, 2 << 20);
        let (listens, clients) = (free_addresses(3), free_addresses(3));
        let nodes = (1..=3)
            .map(|node| Served::start(&directories[node as usize - 1], node, &listens, clients[node as usize - 1]))
            .collect();
        let (seen, stop) = (Arc::new(Seen::default()), Arc::new(AtomicBool::new(false)));
        let writers = (0..WRITERS)
            .map(|writer| {
                let (nodes, stop, seen) = (clients.clone(), Arc::clone(&stop), Arc::clone(&seen));
                std::thread::spawn(move || write(writer, &nodes, &stop, &seen))
            })
            .collect();
        Cluster { directories, listens, clients, nodes, seen, stop, writers, _root: root }
    }

    fn wait_for_acknowledgements(&self, count: u64) {
        let before = self.seen.count.load(Ordering::Relaxed);
        let enough = || (self.seen.count.load(Ordering::Relaxed) >= before + count).then_some(());
        wait_for("acknowledgements", PATIENCE, enough);
    }

    /// Lets the leader fail under load, insists on a new one that commits, and brings the old one back.
    fn fail_leader(&mut self, fault: Fault) {
        let leader = wait_for("a leader", PATIENCE, || leader_among(&self.clients));
        self.wait_for_acknowledgements(200);
        match fault {
            Fault::Kill => self.nodes[leader].kill(),
            Fault::Pause => self.nodes[leader].pause(),
        }
        let failed_at = Instant::now();
        let others: Vec<SocketAddr> =
            self.clients.iter().enumerate().filter(|(node, _)| *node != leader).map(|(_, client)| *client).collect();
        // What the old leader had answered may still lie in a socket: count only what a living leader has said.
        wait_for("a new leader", PATIENCE, || leader_among(&others));
        self.wait_for_acknowledgements(50);
        println!("{fault:?}: the new leader commits after {:?}", failed_at.elapsed());
        assert!(failed_at.elapsed() < PATIENCE);
        match fault {
            Fault::Kill => {
                let (directory, client) = (&self.directories[leader], self.clients[leader]);
                self.nodes[leader] = Served::start(directory, leader as u32 + 1, &self.listens, client);
            }
            Fault::Pause => self.nodes[leader].resume(),
        }
        self.wait_for_acknowledgements(100);
    }

    /// Ends the load, waits until all have the same, and compares it with what the writers know.
    fn verify(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for writer in self.writers.drain(..) {
            writer.join().expect("a writer");
        }
        let end = |node: &SocketAddr| Client::connect(*node).unwrap().status().unwrap().mark;
        let mark = wait_for("equal ends", Duration::from_secs(30), || {
            let marks: Vec<_> = self.clients.iter().map(end).collect();
            marks.iter().all(|mark| *mark == marks[0]).then_some(marks[0])
        });
        assert!(mark.slot > Slot(1000), "the log has grown: {mark:?}");

        let logs: Vec<_> = self.clients.iter().map(|node| read_all(*node)).collect();
        for log in &logs[1..] {
            assert_eq!(log.len(), logs[0].len());
            for (one, other) in logs[0].iter().zip(log) {
                assert_eq!(one.bytes(), other.bytes(), "byte for byte the same on all replicas");
            }
        }
        let mut found: BTreeMap<Vec<u8>, Vec<Slot>> = BTreeMap::new();
        for (slot, command) in commands(&logs[0]) {
            found.entry(command).or_default().push(slot);
        }
        let acknowledged = self.seen.acknowledged.lock().unwrap();
        println!("{} acknowledged, {} in the log", acknowledged.len(), found.len());
        for (command, slot) in acknowledged.iter() {
            assert_eq!(found.get(command), Some(&vec![*slot]), "{}", command.escape_ascii());
        }
        for (command, slots) in &found {
            assert_eq!(slots.len(), 1, "{} occurs once at most", command.escape_ascii());
        }
        for command in self.seen.refused.lock().unwrap().iter() {
            assert!(!found.contains_key(command), "{} was refused", command.escape_ascii());
        }
        for node in &mut self.nodes {
            assert_eq!(node.terminate(), Some(0));
        }
        let answers: Vec<Acknowledged> =
            acknowledged.iter().map(|(command, slot)| Acknowledged::new(*slot, command)).collect();
        let coverage = insist_on_invariants(&self.directories, &answers).coverage;
        assert_eq!(coverage.acknowledged_found, acknowledged.len() as u64);
        assert_eq!(coverage.quorums_found, coverage.bodies_chosen, "nothing is trimmed, so every quorum is there");
        println!("{coverage:?}");
    }
}

/// Leader failures of a run; `SYNOD_FAILOVERS=40` makes a soak of it, which takes minutes.
fn failovers() -> usize {
    let named = std::env::var("SYNOD_FAILOVERS").ok();
    named.map_or(2, |count| count.parse().expect("SYNOD_FAILOVERS is a number"))
}

#[test]
fn a_failed_leader_is_replaced_and_nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::start();
    for round in 0..failovers() {
        cluster.fail_leader(if round % 2 == 0 { Fault::Kill } else { Fault::Pause });
    }
    cluster.verify();
}
