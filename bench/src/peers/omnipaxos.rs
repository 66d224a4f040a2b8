//! OmniPaxos with a log made for it: three replicas, TCP on loopback, O_DIRECT and O_DSYNC.
//!
//! Made to be as fast as we know how, with the same primitives as the bare pipeline: one thread and one io_uring a replica,
//! several writes in flight, commands coalesced into one message and one write, messages that are frequent encoded by hand, the
//! log in memory trimmed. An *accepted* leaves a follower only when what it accepts is durable there, and the leader's clients
//! are answered when a command is decided and durable at the leader too: the same durability as Synod's.

mod codec;
mod replica;
mod store;

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use hdrhistogram::Histogram;

use self::replica::{Plan, Replica};
use super::Peer;
use crate::floor::pipeline::write_once;
use crate::options::ClusterOptions;
use crate::session::Root;

const REPLICAS: u64 = 3;
/// Each replica's file, written again and again.
const FILE_BYTES: u64 = 256 << 20;

/// What the leader's clients saw.
pub(super) struct Seen {
    commands: u64,
    seconds: f64,
    latency_us: Histogram<u64>,
}

/// Sizes and windows.
const LOADS: [(u32, u32); 6] = [(16, 4096), (64, 4096), (128, 1024), (128, 4096), (128, 16_384), (1024, 1024)];

/// Measures every load.
pub(super) fn measure_all(options: &ClusterOptions, duration: Duration) -> Result<Vec<Peer>> {
    LOADS.into_iter().map(|(size, window)| measure(options, size, window, duration)).collect()
}

/// Keeps so many commands in flight for so long.
pub(super) fn measure(options: &ClusterOptions, size: u32, window: u32, duration: Duration) -> Result<Peer> {
    let root = Root::make(options, REPLICAS * FILE_BYTES)?;
    let paths: Vec<PathBuf> = (1..=REPLICAS).map(|node| root.path().join(format!("omnipaxos-{node}"))).collect();
    for path in &paths {
        write_once(path, FILE_BYTES).context("preparing OmniPaxos's log")?;
    }
    let seen = match size {
        16 => cluster::<16>(&paths, window, duration)?,
        64 => cluster::<64>(&paths, window, duration)?,
        128 => cluster::<128>(&paths, window, duration)?,
        256 => cluster::<256>(&paths, window, duration)?,
        1024 => cluster::<1024>(&paths, window, duration)?,
        _ => bail!("OmniPaxos is measured with commands of 16, 64, 128, 256 or 1024 bytes"),
    };
    Ok(Peer {
        name: "OmniPaxos with a durable log",
        version: super::version("omnipaxos"),
        settings: format!("{size} B, window {window}, O_DIRECT and O_DSYNC, TCP"),
        commits_per_second: seen.commands as f64 / seen.seconds.max(1e-9),
        p50_us: Some(seen.latency_us.value_at_quantile(0.5)),
        p99_us: Some(seen.latency_us.value_at_quantile(0.99)),
        is_measured: true,
    })
}

fn cluster<const N: usize>(paths: &[PathBuf], window: u32, duration: Duration) -> Result<Seen> {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let address = listener.local_addr()?;
    let mut streams: Vec<Vec<(u64, TcpStream)>> = paths.iter().map(|_| Vec::new()).collect();
    for one in 0..paths.len() {
        for other in one + 1..paths.len() {
            let near = TcpStream::connect(address)?;
            let (far, _) = listener.accept()?;
            near.set_nodelay(true)?;
            far.set_nodelay(true)?;
            streams[one].push((other as u64 + 1, near));
            streams[other].push((one as u64 + 1, far));
        }
    }
    thread::scope(|scope| {
        let replicas: Vec<_> = paths
            .iter()
            .zip(streams)
            .enumerate()
            .map(|(place, (path, streams))| {
                let plan = Plan { node: place as u64 + 1, nodes: REPLICAS, window: window as usize, duration };
                scope.spawn(move || Replica::<N>::new(plan, path, FILE_BYTES, streams)?.run())
            })
            .collect();
        let mut leaders = Vec::new();
        for replica in replicas {
            leaders.extend(replica.join().map_err(|_| anyhow!("a replica of OmniPaxos panicked"))??);
        }
        leaders.pop().context("OmniPaxos's first node never led")
    })
}
