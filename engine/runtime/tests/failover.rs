//! Three real processes under load: the leader is killed, a new one commits, the dead one comes back and catches up.
//! Then the logs are compared with what the clients saw.

mod common;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{Served, commands, free_addresses, make_cluster, read_all, temporary_directory, wait_for};
use synod::client::{Client, ClientRefusal, NodeRole};
use synod::{Batch, Slot};

const WRITERS: u64 = 3;
const BATCH_COMMANDS: u64 = 20;
const OUTSTANDING: usize = 16;

/// What the writers know.
#[derive(Default)]
struct Seen {
    /// Acknowledged commands and their slots.
    acknowledged: Mutex<BTreeMap<Vec<u8>, Slot>>,
    /// Refused with certainty, so in no log.
    refused: Mutex<Vec<Vec<u8>>>,
    /// When the last acknowledgement came, in milliseconds since the start.
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
        let Ok(mut client) = Client::connect(nodes[node % nodes.len()]) else {
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

fn leader_among(nodes: &[SocketAddr]) -> Option<usize> {
    nodes.iter().position(|node| {
        Client::connect(*node)
            .and_then(|mut client| client.status())
            .is_ok_and(|status| status.role == NodeRole::Leader)
    })
}

#[test]
fn a_killed_leader_is_replaced_and_nothing_acknowledged_is_lost() {
    let root = temporary_directory();
    let directories = make_cluster(root.path(), 3, 1 << 20);
    let listens = free_addresses(3);
    let mut clients = free_addresses(3);
    let mut nodes: Vec<Served> = (1..=3)
        .map(|node| Served::start(&directories[node as usize - 1], node, &listens, clients[node as usize - 1]))
        .collect();
    let patience = Duration::from_secs(10);
    let leader = wait_for("a leader", patience, || leader_among(&clients));

    let seen = Arc::new(Seen::default());
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (nodes, stop, seen) = (clients.clone(), Arc::clone(&stop), Arc::clone(&seen));
            std::thread::spawn(move || write(writer, &nodes, &stop, &seen))
        })
        .collect();
    let acknowledgements = |seen: &Seen| seen.count.load(Ordering::Relaxed);
    wait_for("load", patience, || (acknowledgements(&seen) > 200).then_some(()));

    nodes[leader].kill();
    let killed_at = Instant::now();
    // What the dead leader had answered may still lie in a socket: count only what a living leader has said.
    let successor = wait_for("a new leader", patience, || leader_among(&clients));
    assert_ne!(successor, leader);
    let before = acknowledgements(&seen);
    wait_for("commits under the new leader", patience, || (acknowledgements(&seen) > before + 50).then_some(()));
    println!("the new leader commits after {:?}", killed_at.elapsed());
    assert!(killed_at.elapsed() < patience);

    nodes[leader] = Served::start(&directories[leader], leader as u32 + 1, &listens, clients[leader]);
    clients[leader] = nodes[leader].client;
    let before = acknowledgements(&seen);
    wait_for("commits after the return", patience, || (acknowledgements(&seen) > before + 100).then_some(()));
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.join().expect("a writer");
    }

    let end = |node: &SocketAddr| Client::connect(*node).unwrap().status().unwrap().mark;
    let mark = wait_for("equal ends", Duration::from_secs(30), || {
        let marks: Vec<_> = clients.iter().map(end).collect();
        marks.iter().all(|mark| *mark == marks[0]).then_some(marks[0])
    });
    assert!(mark.slot > Slot(1000), "the log has grown: {mark:?}");

    let logs: Vec<_> = clients.iter().map(|node| read_all(*node)).collect();
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
    let acknowledged = seen.acknowledged.lock().unwrap();
    println!("{} acknowledged, {} in the log", acknowledged.len(), found.len());
    for (command, slot) in acknowledged.iter() {
        assert_eq!(found.get(command), Some(&vec![*slot]), "{}", command.escape_ascii());
    }
    for (command, slots) in &found {
        assert_eq!(slots.len(), 1, "{} occurs once at most", command.escape_ascii());
    }
    for command in seen.refused.lock().unwrap().iter() {
        assert!(!found.contains_key(command), "{} was refused", command.escape_ascii());
    }
    for node in &mut nodes {
        assert_eq!(node.terminate(), Some(0));
    }
}
