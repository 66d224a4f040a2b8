//! A member that is killed, and left behind by the others' trims while clients go on appending: it begins its log anew, also when
//! it is killed again in the middle of that, and catches up under load.

mod common;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Served, free_addresses, insist_on_invariants, make_cluster, temporary_directory, wait_for};
use synod::client::{Client, NodeRole, StatusReport};
use synod::{Batch, Slot};
use synod_wal::audit::Acknowledged;

const SEGMENT_BYTES: u64 = 2 << 20;

const RETENTION: [&str; 2] = ["--retention-bytes=6MiB", "--retention-hard-bytes=10MiB"];

const PATIENCE: Duration = Duration::from_secs(60);

const KILLS: usize = 3;

type Seen = Arc<Mutex<BTreeMap<Slot, Vec<u8>>>>;

fn connect(address: SocketAddr) -> Option<Client> {
    let mut client = Client::connect_within(address, Duration::from_millis(500)).ok()?;
    client.set_timeout(Some(Duration::from_secs(2))).ok()?;
    Some(client)
}

fn report(address: SocketAddr) -> Option<StatusReport> {
    connect(address)?.status().ok()
}

fn leader(clients: &[SocketAddr]) -> usize {
    let leads = |node: &SocketAddr| report(*node).is_some_and(|report| report.role == NodeRole::Leader);
    wait_for("a leader", PATIENCE, || clients.iter().position(leads))
}

/// Appends wherever there is a leader, each command once.
fn write(clients: &[SocketAddr], stop: &AtomicBool, seen: &Seen) {
    let mut number = 0u64;
    while !stop.load(Ordering::Relaxed) {
        for address in clients {
            let Some(mut client) = connect(*address) else { continue };
            while !stop.load(Ordering::Relaxed) {
                number += 1;
                let commands: Vec<Vec<u8>> = (0..16).map(|part| command(number, part)).collect();
                let batch: Batch = commands.iter().collect();
                let Ok(slots) = client.append_batch(&batch) else { break };
                let mut seen = seen.lock().unwrap();
                seen.extend((0..).map(|offset| slots.start.plus(offset)).zip(commands));
            }
        }
    }
}

fn command(number: u64, part: u64) -> Vec<u8> {
    let mut command = format!("command {number} {part} ").into_bytes();
    command.resize(2048, b'.');
    command
}

#[test]
fn a_member_that_is_left_behind_catches_up_under_load() {
    let root = temporary_directory();
    let directories: Vec<PathBuf> = make_cluster(root.path(), 3, SEGMENT_BYTES);
    let (listens, clients) = (free_addresses(3), free_addresses(3));
    let start =
        |node: usize| Served::start_with(&directories[node], node as u32 + 1, &listens, clients[node], &RETENTION);
    let mut nodes: Vec<Served> = (0..3).map(start).collect();
    let (seen, stop) = (Seen::default(), Arc::new(AtomicBool::new(false)));
    let writer = {
        let (clients, stop, seen) = (clients.clone(), Arc::clone(&stop), Arc::clone(&seen));
        std::thread::spawn(move || write(&clients, &stop, &seen))
    };
    wait_for("some load", PATIENCE, || (seen.lock().unwrap().len() > 500).then_some(()));

    let away = (leader(&clients) + 1) % 3;
    let left_at = report(clients[away]).expect("it runs").mark.slot;
    nodes[away].kill();
    let trimmed = || clients.iter().filter_map(|node| report(*node)).map(|report| report.available).max();
    wait_for("the others to trim past it", PATIENCE, || trimmed().filter(|base| *base > left_at));

    for _ in 0..KILLS {
        nodes[away] = start(away);
        nodes[away].kill();
    }
    nodes[away] = start(away);
    let end = report(clients[leader(&clients)]).expect("it leads").mark.slot;
    let caught_up = |report: &StatusReport| report.mark.slot >= end && report.available > left_at;
    wait_for("it to catch up under load", PATIENCE, || report(clients[away]).filter(caught_up));
    assert!(nodes[away].stderr().contains("its log begins where its peer's does"), "it began anew");

    stop.store(true, Ordering::Relaxed);
    writer.join().expect("the writer");
    let marks = || clients.iter().map(|node| report(*node).map(|report| report.mark)).collect::<Vec<_>>();
    wait_for("equal ends", PATIENCE, || {
        let marks = marks();
        (marks[0].is_some() && marks.iter().all(|mark| *mark == marks[0])).then_some(())
    });
    for node in &mut nodes {
        assert_eq!(node.terminate(), Some(0));
    }
    let seen = seen.lock().unwrap();
    let answers: Vec<Acknowledged> = seen.iter().map(|(slot, command)| Acknowledged::new(*slot, command)).collect();
    let coverage = insist_on_invariants(&directories, &answers).coverage;
    assert!(coverage.acknowledged_found > 0, "{coverage:?}");
    println!("{coverage:?}");
}
