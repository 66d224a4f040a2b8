//! Connections that mean no good: silent, slow, malformed, cut off, and many. Clients and peers that mean well go on, and
//! the node takes no more memory than it says.

mod common;

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{Served, free_addresses, make_cluster, read_to_end, temporary_directory, wait_for};
use synod::client::{Client, NodeRole};
use synod::{Batch, NodeId, Slot};
use synod_frame::client::{ClientEnvelope, ClientRequest, encode_append, encode_request};
use synod_frame::{Channel, FORMAT_VERSION, GroupId, HELLO_BYTES, Hello, HelloReply};
use synod_protocol::Ballot;
use synod_protocol::delivery::Terms;

const PATIENCE: Duration = Duration::from_secs(30);

/// What a node may take for itself besides what it took before; the bounds of its queues are far above what comes here.
const GROWTH_MAX_KIB: u64 = 160 << 10;

fn batch(bytes: usize) -> Batch {
    let mut batch = Batch::new();
    batch.push(&vec![b'x'; bytes]);
    batch
}

fn client_hello() -> Hello {
    Hello {
        channel: Channel::Client,
        format_min: FORMAT_VERSION,
        format_max: FORMAT_VERSION,
        features: 0,
        cluster: [0; 16],
        lineage: 0,
        from: NodeId(0),
        to: NodeId(0),
        incarnation: [0; 16],
        boot_counter: 0,
        boot_nonce: 0,
        promise: Ballot::ZERO,
        durable: 0,
        configuration: Slot(0),
        port: 0,
        stable: Slot(0),
        group: GroupId(0),
    }
}

/// A connection whose hello was taken.
fn introduced(at: SocketAddr) -> TcpStream {
    let mut stream = connect(at);
    stream.write_all(&client_hello().encode()).expect("it reads");
    let mut reply = [0; HELLO_BYTES];
    stream.read_exact(&mut reply).expect("it answers");
    HelloReply::decode(&reply).expect("a reply").outcome.expect("it is welcome");
    stream
}

fn connect(at: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(at).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream
}

/// The resident memory of a process, in KiB.
fn memory_kib(node: &Served) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.child.id())).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("every process has it");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

fn leads(at: SocketAddr) -> bool {
    let status = Client::connect(at).and_then(|mut client| client.status());
    status.is_ok_and(|status| status.role == NodeRole::Leader)
}

/// Sends a byte now and then until the node has had enough; how long that took.
fn trickle(mut stream: TcpStream, bytes: &[u8]) -> Duration {
    let begun = Instant::now();
    stream.set_read_timeout(Some(Duration::from_millis(200))).expect("a socket");
    for byte in bytes.iter().cycle() {
        assert!(begun.elapsed() < PATIENCE, "a slow connection is never closed");
        if stream.write_all(&[*byte]).is_err() {
            break;
        }
        match stream.read(&mut [0; 1024]) {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    begun.elapsed()
}

#[test]
fn silence_keeps_neither_clients_nor_peers_out() {
    let root = temporary_directory();
    let directories = make_cluster(root.path(), 3, 2 << 20);
    let addresses = free_addresses(6);
    let (listens, clients) = addresses.split_at(3);
    let start = |node: u32| Served::start(&directories[node as usize - 1], node, listens, clients[node as usize - 1]);
    let mut nodes: Vec<Served> = (1..=3).map(start).collect();
    let leader = wait_for("a leader", PATIENCE, || clients.iter().position(|at| leads(*at)));
    let before = memory_kib(&nodes[leader]);

    // As many as a port takes, and more: without a word, and on the client port with a hello and nothing behind it.
    let ports = [nodes[leader].listen, nodes[leader].client];
    let silent: Vec<TcpStream> = (0..400).map(|count| connect(ports[count % 2])).collect();
    let idle: Vec<TcpStream> = (0..256).map(|_| introduced(nodes[leader].client)).collect();
    std::thread::sleep(Duration::from_millis(1100));
    let mut client = Client::connect(nodes[leader].client).expect("an idle connection makes way");
    client.append_batch(&batch(100)).expect("the leader takes it");

    // A peer that starts now finds its way to the leader, and catches up.
    let follower = (leader + 1) % 3;
    assert_eq!(nodes[follower].terminate(), Some(0));
    let slots = client.append_batch(&batch(100)).expect("two of three are a quorum");
    nodes[follower] = start(follower as u32 + 1);
    wait_for("the follower to follow", Duration::from_secs(5), || {
        let status = Client::connect(nodes[follower].client).ok()?.status().ok()?;
        (status.mark.slot >= slots.end && status.leader.is_some()).then_some(())
    });
    let grown = memory_kib(&nodes[leader]).saturating_sub(before);
    assert!(grown < GROWTH_MAX_KIB, "{grown} KiB more");
    drop((silent, idle));
    client.append_batch(&batch(100)).expect("the leader takes it");
    for node in &mut nodes {
        assert_eq!(node.terminate(), Some(0));
        assert!(!node.stderr().contains("panic"), "{}", node.stderr());
    }
}

#[test]
fn the_slow_the_malformed_and_the_cut_off_are_closed() {
    let root = temporary_directory();
    let directories = make_cluster(root.path(), 1, 2 << 20);
    let addresses = free_addresses(2);
    let node = Served::start(&directories[0], 1, &addresses[..1], addresses[1]);
    wait_for("a leader", PATIENCE, || leads(node.client).then_some(()));
    let mut healthy = Client::connect(node.client).expect("it listens");
    let (envelope, payload) = encode_append(1, GroupId(1), &batch(300_000), &Terms::NONE, Duration::ZERO);

    // A byte now and then: for the hello, in the middle of an envelope, in the middle of a payload.
    let slow = [
        (connect(node.listen), client_hello().encode().to_vec()),
        (connect(node.client), client_hello().encode().to_vec()),
        (introduced(node.client), envelope.to_vec()),
        (introduced(node.client), [&envelope[..], &payload[..]].concat()),
    ];
    let told = [8, 8, 20, 30].map(Duration::from_secs);
    std::thread::scope(|scope| {
        let trickling: Vec<_> = slow
            .into_iter()
            .enumerate()
            .map(|(count, (mut stream, bytes))| {
                scope.spawn(move || {
                    // The payload's envelope comes at once: it is what follows that is slow.
                    let (now, later) = bytes.split_at(if count == 3 { envelope.len() } else { 0 });
                    stream.write_all(now).expect("it reads");
                    trickle(stream, later)
                })
            })
            .collect();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(3) {
            healthy.append_batch(&batch(10)).expect("nobody else is in the way");
        }
        for (took, at_most) in trickling.into_iter().zip(told) {
            let took = took.join().expect("it ends");
            assert!(took < at_most, "{took:?}");
        }
    });

    // Cut off after each of some lengths, and turned into something else at each of some places.
    let whole = [&envelope[..], &payload[..1000]].concat();
    for length in (0..whole.len()).step_by(61) {
        let mut stream = introduced(node.client);
        stream.write_all(&whole[..length]).expect("it reads");
        stream.shutdown(Shutdown::Write).expect("a socket");
        assert!(read_to_end(stream).is_empty(), "no answer to {length} bytes of a request");
    }
    for place in (0..envelope.len()).step_by(3) {
        let mut stream = introduced(node.client);
        let mut spoiled = envelope;
        spoiled[place] ^= 0x55;
        stream.write_all(&spoiled).expect("it reads");
        assert!(read_to_end(stream).is_empty(), "no answer to a spoiled byte {place}");
    }
    // Lengths that nobody can mean, with a checksum that is right: refused before any memory is taken.
    let honest = ClientEnvelope::decode(&envelope).expect("an envelope");
    for payload_bytes in [u32::MAX, 1 << 30, 4 << 20] {
        let mut stream = introduced(node.client);
        stream.write_all(&ClientEnvelope { payload_bytes, ..honest }.encode()).expect("it reads");
        assert!(read_to_end(stream).is_empty(), "no answer to {payload_bytes} bytes");
    }
    healthy.append_batch(&batch(10)).expect("nothing has changed");
    assert!(!node.stderr().contains("panic"), "{}", node.stderr());
    // Told, but not all of it.
    let complaints = node.stderr().lines().filter(|line| line.contains("was closed")).count();
    assert!((4..=80).contains(&complaints), "{complaints} lines");
}

#[test]
fn a_flood_harms_nobody_and_costs_no_memory() {
    let root = temporary_directory();
    let directories = make_cluster(root.path(), 1, 2 << 20);
    let addresses = free_addresses(2);
    let node = Served::start(&directories[0], 1, &addresses[..1], addresses[1]);
    wait_for("a leader", PATIENCE, || leads(node.client).then_some(()));
    let mut healthy = Client::connect(node.client).expect("it listens");
    healthy.set_timeout(Some(PATIENCE)).expect("a socket");
    let before = memory_kib(&node);
    let (is_over, floods) = (AtomicBool::new(false), AtomicU64::new(0));
    let (envelope, payload) = encode_append(1, GroupId(1), &batch(1_000_000), &Terms::NONE, Duration::ZERO);
    let (figures, _) = encode_request(&ClientRequest::Figures { request: 1, group: GroupId(1) });
    let (appended, mut peak) = std::thread::scope(|scope| {
        // Garbage on both ports, one connection after the other.
        for port in [node.listen, node.client] {
            let (is_over, floods) = (&is_over, &floods);
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    if let Ok(mut stream) = TcpStream::connect(port) {
                        // It may be closed already.
                        let _ = stream.write_all(&[0xa5; 4096]);
                        floods.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        // Megabytes without end, and questions whose answers nobody takes.
        for count in 0..24 {
            let (is_over, client, envelope, payload) = (&is_over, node.client, &envelope, &payload);
            scope.spawn(move || {
                let mut stream = introduced(client);
                stream.set_write_timeout(Some(Duration::from_millis(100))).expect("a socket");
                while !is_over.load(Ordering::Relaxed) {
                    let parts: [&[u8]; 2] = if count % 2 == 0 { [envelope, payload] } else { [&figures, &figures] };
                    for part in parts {
                        let mut rest = part;
                        while !rest.is_empty() && !is_over.load(Ordering::Relaxed) {
                            match stream.write(rest) {
                                Ok(written) => rest = &rest[written..],
                                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                                Err(_) => return,
                            }
                        }
                    }
                }
            });
        }
        let (begun, mut appended, mut peak) = (Instant::now(), 0, 0);
        while begun.elapsed() < Duration::from_secs(5) {
            healthy.append_batch(&batch(10)).expect("it waits for its turn, no more");
            appended += 1;
            peak = peak.max(memory_kib(&node));
        }
        is_over.store(true, Ordering::Relaxed);
        (appended, peak)
    });
    // It stands in line behind megabytes of others, but it gets its turn.
    assert!(appended >= 2, "{appended} appends in five seconds of flood");
    assert!(floods.load(Ordering::Relaxed) > 100);
    peak = peak.saturating_sub(before);
    assert!(peak < 2 * GROWTH_MAX_KIB, "{peak} KiB more at its height");
    let mut after = Client::connect(node.client).expect("it listens");
    after.append_batch(&batch(10)).expect("it is over");
    assert!(!node.stderr().contains("panic"), "{}", node.stderr());
}
