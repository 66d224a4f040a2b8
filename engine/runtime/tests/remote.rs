//! The remote log against real processes that die and stand still, and against servers that are no servers.

mod common;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{Served, commands, free_addresses, insist_on_invariants, make_cluster, read_all, temporary_directory};
use synod::client::{Client, NodeRole};
use synod::remote::{Remote, RemoteConfig, RemoteError};
use synod::{AppendError, BarrierError, Log, ReadError, Slot};

const PATIENCE: Duration = Duration::from_secs(30);

/// Three processes.
struct Processes {
    directories: Vec<std::path::PathBuf>,
    listens: Vec<SocketAddr>,
    clients: Vec<SocketAddr>,
    nodes: Vec<Served>,
}

impl Processes {
    fn start(root: &Path) -> Processes {
        let directories = make_cluster(root, 3, 4 << 20);
        let addresses = free_addresses(6);
        let (listens, clients) = (addresses[..3].to_vec(), addresses[3..].to_vec());
        let nodes =
            (0..3).map(|node| Served::start(&directories[node], node as u32 + 1, &listens, clients[node])).collect();
        Processes { directories, listens, clients, nodes }
    }

    fn leader(&self) -> usize {
        common::wait_for("a leader", PATIENCE, || {
            self.clients.iter().position(|address| {
                let client = Client::connect_within(*address, Duration::from_millis(300));
                client
                    .and_then(|mut client| {
                        client.set_timeout(Some(Duration::from_millis(300)))?;
                        client.status()
                    })
                    .is_ok_and(|status| status.role == NodeRole::Leader)
            })
        })
    }

    fn restart(&mut self, node: usize) {
        self.nodes[node] = Served::start(&self.directories[node], node as u32 + 1, &self.listens, self.clients[node]);
    }
}

/// What one writer knows.
#[derive(Default)]
struct Written {
    chosen: BTreeMap<String, Slot>,
    failed: Vec<(String, AppendError)>,
    longest: Duration,
}

fn write(log: &Log, writer: usize, stop: &AtomicBool) -> Written {
    let mut written = Written::default();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let command = format!("{writer}.{number}");
        number += 1;
        let begun = Instant::now();
        match log.append_blocking(&command) {
            Ok(slot) => drop(written.chosen.insert(command, slot)),
            Err(error) => written.failed.push((command, error)),
        }
        written.longest = written.longest.max(begun.elapsed());
    }
    written
}

#[test]
fn killed_and_paused_leaders_cost_no_append_and_double_none() {
    let root = temporary_directory();
    let mut processes = Processes::start(root.path());
    let remote = Remote::start(RemoteConfig { retry_within: PATIENCE, ..RemoteConfig::new(processes.clients.clone()) })
        .expect("it starts");
    remote.log().wait_for_leader_blocking(PATIENCE).expect("a leader");
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let (log, stop) = (remote.log(), Arc::clone(&stop));
            std::thread::spawn(move || write(&log, writer, &stop))
        })
        .collect();
    let reading = {
        let log = remote.log();
        std::thread::spawn(move || {
            let mut reader = log.reader(Slot::FIRST);
            let mut next = Slot::FIRST;
            // Ends with the remote log.
            while let Ok(synod::ReadItem::Body(body)) = reader.next_blocking() {
                assert_eq!(body.slots().start, next, "bodies follow each other, from whichever node they come");
                next = body.slots().end;
            }
            next
        })
    };
    for round in 0..2 {
        progress(&remote.log());
        let leader = processes.leader();
        processes.nodes[leader].kill();
        progress(&remote.log());
        processes.restart(leader);
        let leader = processes.leader();
        processes.nodes[leader].pause();
        progress(&remote.log());
        processes.nodes[leader].resume();
        eprintln!("round {round} is over");
    }
    stop.store(true, Ordering::Relaxed);
    let written: Vec<Written> = writers.into_iter().map(|writer| writer.join().expect("it ends")).collect();
    let end = remote.log().barrier_blocking().expect("a quorum confirms");
    common::wait_for("the reader at the end", PATIENCE, || (remote.log().status().mark.slot >= end).then_some(()));
    drop(remote);
    let read_upto = reading.join().expect("it ends");
    assert!(read_upto > Slot(100), "it has read on through all of it: {read_upto}");

    let leader = processes.leader();
    let bodies = read_all(processes.clients[leader]);
    let mut places: BTreeMap<String, Vec<Slot>> = BTreeMap::new();
    for (body, (slot, command)) in
        bodies.iter().flat_map(|body| commands(std::slice::from_ref(body)).into_iter().map(move |at| (body, at)))
    {
        let is_gap = body.suppressed().iter().any(|gap| gap.slots.contains(&slot));
        if !is_gap {
            places.entry(String::from_utf8(command).expect("a text")).or_default().push(slot);
        }
    }
    let chosen: usize = written.iter().map(|written| written.chosen.len()).sum();
    let longest = written.iter().map(|written| written.longest).max();
    eprintln!("{chosen} appends, the longest took {longest:?}");
    for written in written {
        assert!(written.failed.is_empty(), "all are tried until they succeed: {:?}", written.failed);
        for (command, slot) in written.chosen {
            assert_eq!(places.get(&command), Some(&vec![slot]), "{command}");
        }
    }
    for node in &mut processes.nodes {
        assert_eq!(node.terminate(), Some(0), "{}", node.stderr());
    }
    insist_on_invariants(&processes.directories, &[]);
}

/// Waits until appends go through again, and some more of them have.
fn progress(log: &Log) {
    for _ in 0..50 {
        log.append_blocking("progress").map(drop).unwrap_or_else(|error| panic!("{error}"));
    }
}

/// A server that accepts everybody and then does as it likes.
fn server(serve: impl Fn(std::net::TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = Arc::clone(&serve);
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

#[test]
fn servers_that_are_none_end_in_clear_errors_within_the_budget() {
    let silent = server(|stream| {
        std::thread::sleep(PATIENCE);
        drop(stream);
    });
    let babbling = server(|mut stream| while stream.write_all(&[0x5a; 4096]).is_ok() {});
    let closing = server(drop);
    let nobody = free_addresses(1)[0];
    let config = RemoteConfig {
        retry_within: Duration::from_secs(1),
        connect_within: Duration::from_millis(100),
        answer_within: Duration::from_millis(100),
        ..RemoteConfig::new(vec![silent, babbling, closing, nobody])
    };
    let mut remote = Remote::start(config).expect("it starts");
    let log = remote.log();
    let begun = Instant::now();
    assert_eq!(log.append_blocking(b"x"), Err(AppendError::NoLeader));
    assert_eq!(log.barrier_blocking(), Err(BarrierError::NoLeader));
    assert_eq!(log.wait_for_leader_blocking(Duration::from_millis(50)), None);
    let mut reader = log.reader(Slot::FIRST);
    assert_eq!(reader.next_blocking().map(drop), Err(ReadError::Unreachable));
    assert!(log.trim_blocking(Slot(5)).is_err() && log.transfer_leadership_blocking(synod::NodeId(2)).is_err());
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    remote.close();
    assert_eq!(log.append_blocking(b"x"), Err(AppendError::Shutdown));
    assert!(log.watch().wait_for_blocking(|_| false).is_none(), "a watch ends too");
}

#[test]
fn answers_of_a_node_that_are_spoiled_on_the_way_do_no_harm() {
    let root = temporary_directory();
    let processes = Processes::start(root.path());
    let node = processes.clients[processes.leader()];
    // Passes on what the node says, but flips a bit of every 3,001st byte.
    let spoiled = Arc::new(Mutex::new(0u64));
    let count = Arc::clone(&spoiled);
    let spoiling = server(move |mut client| {
        let Ok(mut upstream) = std::net::TcpStream::connect(node) else { return };
        let (mut to_node, mut from_client) =
            (upstream.try_clone().expect("a socket"), client.try_clone().expect("a socket"));
        std::thread::spawn(move || std::io::copy(&mut from_client, &mut to_node));
        let mut bytes = [0; 512];
        while let Ok(read) = upstream.read(&mut bytes)
            && read > 0
        {
            for byte in &mut bytes[..read] {
                let mut count = count.lock().expect("no thread panics");
                *count += 1;
                if count.is_multiple_of(3001) {
                    *byte ^= 0x10;
                }
            }
            if client.write_all(&bytes[..read]).is_err() {
                return;
            }
        }
    });
    let config = RemoteConfig { retry_within: PATIENCE, ..RemoteConfig::new(vec![spoiling]) };
    let remote = Remote::start(config).expect("it starts");
    let log = remote.log();
    let slots: Vec<Slot> =
        (0..200).map(|number| log.append_blocking(format!("{number}")).expect("tried until it succeeds")).collect();
    let found: Vec<(Slot, Vec<u8>)> = {
        let bodies = read_all(node);
        let is_counted =
            |slot: Slot| bodies.iter().all(|body| body.suppressed().iter().all(|gap| !gap.slots.contains(&slot)));
        commands(&bodies).into_iter().filter(|(slot, _)| is_counted(*slot)).collect()
    };
    assert_eq!(found.len(), 200, "none is lost, none is doubled");
    for (number, (slot, command)) in found.iter().enumerate() {
        assert_eq!((*slot, command.as_slice()), (slots[number], number.to_string().as_bytes()));
    }
    assert!(*spoiled.lock().expect("no thread panics") > 3001, "something was spoiled");
}

#[test]
fn a_client_that_ends_leaves_no_session_behind() {
    let root = temporary_directory();
    let processes = Processes::start(root.path());
    let address = processes.clients[processes.leader()];
    let sessions = || {
        let figures = Client::connect(address).and_then(|mut client| client.figures()).expect("the node answers");
        figures.lines().find_map(|line| line.strip_prefix("sessions ")).expect("it says so").parse::<u64>()
    };
    let remote = Remote::start(RemoteConfig::new(processes.clients.clone())).expect("it starts");
    remote.log().append_blocking(b"x").expect("chosen");
    common::wait_for("a session", PATIENCE, || (sessions() == Ok(1)).then_some(()));
    drop(remote);
    common::wait_for("no session", PATIENCE, || (sessions() == Ok(0)).then_some(()));
}

#[test]
fn what_makes_no_sense_is_refused_at_the_start() {
    assert!(matches!(Remote::start(RemoteConfig::new(Vec::new())), Err(RemoteError::NoServers)));
    let servers = free_addresses(1);
    let zero = RemoteConfig { answer_within: Duration::ZERO, ..RemoteConfig::new(servers) };
    assert!(matches!(Remote::start(zero), Err(RemoteError::Zero("answer_within"))));
}
