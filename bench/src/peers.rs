//! Other logs, with the same commands and the same durability, for comparison.
//!
//! They are built in by the feature `peers`. Without it, what is told of them was measured earlier, on another machine, and
//! says so.

#[cfg(feature = "peers")]
mod etcd;
#[cfg(feature = "peers")]
mod omnipaxos;
#[cfg(feature = "peers")]
mod openraft;
#[cfg(feature = "peers")]
mod raft_engine;
#[cfg(feature = "peers")]
mod rounds;
#[cfg(feature = "peers")]
mod servers;
#[cfg(feature = "peers")]
mod tally;
#[cfg(feature = "peers")]
mod zookeeper;

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use crate::options::ClusterOptions;

#[cfg(feature = "peers")]
pub(crate) use rounds::{Report, run};

/// Bytes of the commands with which all peers are measured.
#[cfg(feature = "peers")]
const COMMAND_BYTES: u32 = 128;

/// What a peer gave.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) version: String,
    pub(crate) settings: String,
    pub(crate) commits_per_second: f64,
    pub(crate) p50_us: Option<u64>,
    pub(crate) p99_us: Option<u64>,
    /// Whether it was measured now, on this machine.
    pub(crate) is_measured: bool,
}

impl Peer {
    /// As a bar calls it: so many times this peer.
    pub(crate) fn named(&self, times: &str) -> String {
        let when = if self.is_measured { "here" } else { "as measured earlier, on another machine" };
        format!("{times} {} ({when})", self.name).trim_start().to_owned()
    }

    #[cfg_attr(feature = "peers", expect(dead_code, reason = "everything is measured then"))]
    fn earlier(name: &'static str, settings: String, commits_per_second: f64) -> Peer {
        let (version, p50_us, p99_us) = (String::new(), None, None);
        Peer { name, version, settings, commits_per_second, p50_us, p99_us, is_measured: false }
    }
}

/// Three replicas of OmniPaxos with a durable log, over TCP on loopback, so many commands in flight.
///
/// # Errors
/// If the machine lacks something.
#[cfg(feature = "peers")]
pub(crate) fn omnipaxos(options: &ClusterOptions, size: u32, window: u32, duration: Duration) -> Result<Peer> {
    let measure = || omnipaxos::measure(options, size, window, duration);
    rounds::again(crate::options::System::OmniPaxos, &std::sync::atomic::AtomicBool::new(false), measure)
}

/// What was measured of OmniPaxos.
#[cfg(not(feature = "peers"))]
pub(crate) fn omnipaxos(_: &ClusterOptions, size: u32, window: u32, _: Duration) -> Result<Peer> {
    let commits_per_second = match (size, window) {
        (16, _) => 3.4e6,
        (64, _) => 2.5e6,
        (_, 1024) => 1.16e6,
        (_, 4096) => 1.99e6,
        _ => 2.13e6,
    };
    Ok(Peer::earlier("OmniPaxos with a durable log", format!("{size} B, window {window}"), commits_per_second))
}

/// raft-engine, so many threads with batches of commands of 128 bytes, each batch synced.
///
/// # Errors
/// If the machine lacks something.
#[cfg(feature = "peers")]
pub(crate) fn raft_engine(options: &ClusterOptions, threads: u32, batch: u32, duration: Duration) -> Result<Peer> {
    raft_engine::measure(options, threads, batch, duration)
}

/// What was measured of raft-engine.
#[cfg(not(feature = "peers"))]
pub(crate) fn raft_engine(_: &ClusterOptions, threads: u32, batch: u32, _: Duration) -> Result<Peer> {
    let commits_per_second = if batch >= 1024 { 2.0e6 } else { 1.4e5 };
    Ok(Peer::earlier("raft-engine", format!("{threads} thread(s), batches of {batch}"), commits_per_second))
}

/// Which version of a crate is built in.
#[cfg(feature = "peers")]
fn version(name: &str) -> String {
    let lock = include_str!("../../Cargo.lock");
    let after = lock.split_once(&format!("name = \"{name}\"\nversion = \"")).map_or("", |(_, after)| after);
    after.split('"').next().unwrap_or_default().to_owned()
}
