//! What the embedding API costs, and what it does under too much load. Two measurements:
//!
//! - `pressure handover DIR`: how long it takes from a foreign thread to a shard and back, with a question that the shard
//!   answers at once; first on a machine left alone, then with a spinning thread for each core.
//! - `pressure overload DIR [SECONDS]`: three nodes in this process, each with its log below DIR. First the peak: 512 callers,
//!   each waiting for its append of one command of 1 KiB, for ten seconds. Then a quarter of that, as the normal case; then
//!   ten times the peak for so many seconds (60), by callers who are refused when the intake is full; then again a quarter,
//!   second by second. Callers share the machine with the nodes, which real ones don't, so their threads are nicer by 10; they may
//!   not come to ten times, and it is said what they came to. Latency counts from when a call was due, not from when it was
//!   made; under too much load the callers themselves are late, so there it counts from the call.
//!
//! Run with `cargo run --release -p synod --example pressure -- ...`; DIR is on a disk, and empty.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use synod::directory::{self, Genesis, InitOptions};
use synod::{
    AppendError, AppendOptions, Config, Configuration, ConfigurationBody, GROUP, Log, Member, Node, NodeId, Role, Slot,
    WhenFull,
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const COMMAND: [u8; 1024] = [7; 1024];
const CALLERS: usize = 512;
const ALPHA: u32 = 65_536;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["handover", dir] => handover(Path::new(dir)),
        ["overload", dir] => overload(Path::new(dir), 60),
        ["overload", dir, seconds] => overload(Path::new(dir), seconds.parse()?),
        _ => Err("pressure handover DIR, or pressure overload DIR [SECONDS]".into()),
    }
}

/// Nodes of one cluster in this process.
fn start(root: &Path, count: u32) -> Result<(Vec<Config>, Vec<Node>)> {
    let path = |node: NodeId| root.join(format!("node-{}", node.0));
    let options = InitOptions { segment_bytes: 16 << 20, ..InitOptions::default() };
    let mut members = Vec::new();
    for node in (1..=count).map(NodeId) {
        let made = directory::init(&path(node), node, &options, &mut |_| {})?;
        members.push(Member { node, incarnation: made.incarnation });
    }
    let quorums = Configuration::genesis((1..=count).map(NodeId).collect(), ALPHA)?;
    let configuration = ConfigurationBody {
        cluster: members[0].incarnation,
        lineage: 0,
        members,
        prepare_quorum: quorums.prepare_quorum,
        accept_quorum: quorums.accept_quorum,
        alpha: ALPHA,
        ..ConfigurationBody::default()
    };
    let genesis = Genesis { group: GROUP, configuration };
    let listeners: Vec<_> =
        (0..count).map(|_| std::net::TcpListener::bind("127.0.0.1:0")).collect::<std::io::Result<_>>()?;
    let addresses: Vec<_> = listeners.iter().map(std::net::TcpListener::local_addr).collect::<std::io::Result<_>>()?;
    drop(listeners);
    let mut configs = Vec::new();
    for (node, listen) in (1..=count).map(NodeId).zip(&addresses) {
        directory::bootstrap(&path(node), &genesis)?;
        let mut config = Config::new(path(node), node, *listen);
        let peers = (1..=count).map(NodeId).zip(addresses.iter().copied());
        config.peers = peers.filter(|(peer, _)| *peer != node).collect();
        // The log is trimmed as it grows, or a minute of this would fill the disk.
        config.retention.bytes = Some(256 << 20);
        configs.push(config);
    }
    let nodes: Vec<Node> = configs.iter().cloned().map(Node::start).collect::<std::result::Result<_, _>>()?;
    Ok((configs, nodes))
}

fn find_leader(nodes: &[Node]) -> Option<Log> {
    Some(nodes.iter().find(|node| node.status().role == Role::Leader)?.log())
}

fn leader(nodes: &[Node]) -> Log {
    loop {
        match find_leader(nodes) {
            Some(log) => return log,
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Latencies, to be sorted once.
#[derive(Default)]
struct Latencies(Vec<Duration>);

impl Latencies {
    fn text(&mut self) -> String {
        self.0.sort_unstable();
        let at = |share: f64| self.0.get(((self.0.len() as f64 * share) as usize).min(self.0.len().saturating_sub(1)));
        let show = |share| at(share).map_or_else(|| "none".to_owned(), |latency| format!("{latency:.1?}"));
        format!("p50 {}, p99 {}, highest {}, of {}", show(0.5), show(0.99), show(1.0), self.0.len())
    }
}

fn handover(root: &Path) -> Result<()> {
    let (_, nodes) = start(root, 1)?;
    let log = leader(&nodes);
    let measure = || {
        let mut latencies = Latencies::default();
        for _ in 0..5_000 {
            // Long enough for the shard to fall asleep.
            std::thread::sleep(Duration::from_micros(500));
            let begun = Instant::now();
            log.mark_at_blocking(Slot::FIRST);
            latencies.0.push(begun.elapsed());
        }
        latencies
    };
    println!("left alone          {}", measure().text());
    let stop = Arc::new(AtomicBool::new(false));
    let cores = std::thread::available_parallelism()?.get();
    let spinners: Vec<_> = (0..cores)
        .map(|_| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || while !stop.load(Ordering::Relaxed) {})
        })
        .collect();
    println!("{cores} spinning threads  {}", measure().text());
    stop.store(true, Ordering::Relaxed);
    for spinner in spinners {
        spinner.join().map_err(|_| "a spinner has panicked")?;
    }
    Ok(())
}

fn overload(root: &Path, seconds: u64) -> Result<()> {
    let (configs, nodes) = start(root, 3)?;
    let log = leader(&nodes);
    let bound: u64 = configs.iter().map(|config| config.memory_bound(ALPHA).total()).sum();
    let be_nice = || {
        let _as_it_is = rustix::process::nice(10);
    };
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).enable_time().on_thread_start(be_nice).build()?;
    be_nice();
    let peak = runtime.block_on(closed(&log, Duration::from_secs(10)));
    println!("peak                {peak:.0} appends/s");
    let normal = peak / 4.0;
    let mut before = open(&runtime, &nodes, normal, Duration::from_secs(5));
    println!("a quarter of it     {}", before.latencies.text());
    let mut during = open(&runtime, &nodes, 10.0 * peak, Duration::from_secs(seconds));
    let goodput = during.latencies.0.len() as f64 / during.took.as_secs_f64();
    println!(
        "{:.1} times for {seconds} s {goodput:.0} appends/s, {:.0} % of the peak; {} of {} calls refused; {}",
        during.calls as f64 / during.took.as_secs_f64() / peak,
        100.0 * goodput / peak,
        during.refused,
        during.calls,
        during.latencies.text()
    );
    println!("resident memory     {} MiB at most, the bound is {} MiB", resident()? >> 20, bound >> 20);
    for second in 1..=10 {
        let mut after = open(&runtime, &nodes, normal, Duration::from_secs(1));
        println!("{second:2} s after          {}", after.latencies.text());
    }
    Ok(())
}

/// Appends by callers who wait for each; how many a second.
async fn closed(log: &Log, duration: Duration) -> f64 {
    let (begun, chosen) = (Instant::now(), Arc::new(AtomicU64::new(0)));
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (log, chosen) = (log.clone(), Arc::clone(&chosen));
            tokio::spawn(async move {
                while begun.elapsed() < duration {
                    if log.append(COMMAND).await.is_ok() {
                        chosen.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    for caller in callers {
        let _ended = caller.await;
    }
    chosen.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64()
}

/// What came of calls that were due at a fixed rate.
struct Offered {
    latencies: Latencies,
    refused: u64,
    calls: u64,
    took: Duration,
}

fn open(runtime: &tokio::runtime::Runtime, nodes: &[Node], rate: f64, duration: Duration) -> Offered {
    let (outcomes, told) = std::sync::mpsc::channel();
    let mut log = leader(nodes);
    let begun = Instant::now();
    let options = AppendOptions { when_full: WhenFull::Refuse, ..AppendOptions::default() };
    let (mut calls, mut refused) = (0u64, 0);
    // This thread calls, and tasks wait for what isn't refused at once.
    while begun.elapsed() < duration {
        let due = (begun.elapsed().as_secs_f64() * rate) as u64;
        while calls < due && begun.elapsed() < duration {
            let due_at = begun + Duration::from_secs_f64(calls as f64 / rate);
            // A caller that is late by itself can't blame the log.
            let from = due_at.max(Instant::now() - Duration::from_millis(20));
            calls += 1;
            let appending_to = log.clone();
            let mut appending = Box::pin(async move { appending_to.append_with(COMMAND, options).await });
            match futures_lite::future::block_on(futures_lite::future::poll_once(&mut appending)) {
                Some(Ok(_)) => drop(outcomes.send(Ok(from.elapsed()))),
                Some(Err(error)) => {
                    refused += 1;
                    if error != AppendError::Overloaded {
                        log = find_leader(nodes).unwrap_or(log);
                    }
                }
                None => {
                    let outcomes = outcomes.clone();
                    runtime.spawn(async move {
                        let outcome = appending.await;
                        let _ = outcomes.send(outcome.map(|_| from.elapsed()));
                    });
                }
            }
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    let took = begun.elapsed();
    drop(outcomes);
    let mut latencies = Latencies::default();
    for outcome in told {
        match outcome {
            Ok(latency) => latencies.0.push(latency),
            Err(_) => refused += 1,
        }
    }
    Offered { latencies, refused, calls, took }
}

fn resident() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("Linux says it")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}
