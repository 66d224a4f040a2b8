//! Other logs, with the same commands and the same durability, for comparison.
//!
//! They are built in by the feature `peers`. Without it, what is told of them was measured earlier, on another machine, and
//! says so.

#[cfg(feature = "peers")]
mod omnipaxos;
#[cfg(feature = "peers")]
mod raft_engine;

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use crate::options::ClusterOptions;

/// What a peer gave.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
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
        Peer { name, settings, commits_per_second, p50_us: None, p99_us: None, is_measured: false }
    }
}

/// Three replicas of OmniPaxos with a durable log, over TCP on loopback, so many commands in flight.
///
/// # Errors
/// If the machine lacks something.
#[cfg(feature = "peers")]
pub(crate) fn omnipaxos(options: &ClusterOptions, size: u32, window: u32, duration: Duration) -> Result<Peer> {
    omnipaxos::measure(options, size, window, duration)
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

/// What came of all peers.
#[cfg(feature = "peers")]
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    environment: crate::environment::Environment,
    directory: String,
    seconds_each: f64,
    rounds: u32,
    /// The median round of each.
    rows: Vec<Peer>,
}

/// Sizes and windows of OmniPaxos; callers and batches of the logs alone.
#[cfg(feature = "peers")]
const OMNIPAXOS: [(u32, u32); 6] = [(16, 4096), (64, 4096), (128, 1024), (128, 4096), (128, 16_384), (1024, 1024)];
#[cfg(feature = "peers")]
const RAFT_ENGINE: [(u32, u32); 4] = [(1, 1), (1, 128), (1, 1024), (256, 1)];

/// Measures all peers, in rounds, so that each meets the same noise.
///
/// # Errors
/// If the machine lacks something.
#[cfg(feature = "peers")]
pub(crate) fn run(
    options: &ClusterOptions,
    peers: crate::options::PeersOptions,
    interrupted: &std::sync::atomic::AtomicBool,
) -> Result<Report> {
    let count = OMNIPAXOS.len() + RAFT_ENGINE.len();
    let mut rounds: Vec<Vec<Peer>> = vec![Vec::new(); count];
    let mut line = crate::line::Line::default();
    for round in 1..=peers.rounds {
        for (place, seen) in rounds.iter_mut().enumerate() {
            anyhow::ensure!(!interrupted.load(std::sync::atomic::Ordering::Relaxed), "interrupted");
            line.show(&format!("round {round} of {}: {} of {count}", peers.rounds, place + 1));
            seen.push(match OMNIPAXOS.get(place) {
                Some((size, window)) => omnipaxos(options, *size, *window, peers.duration)?,
                None => {
                    let (threads, batch) = RAFT_ENGINE[place - OMNIPAXOS.len()];
                    raft_engine(options, threads, batch, peers.duration)?
                }
            });
        }
    }
    line.clear();
    let median = |mut seen: Vec<Peer>| {
        seen.sort_by(|one, other| one.commits_per_second.total_cmp(&other.commits_per_second));
        seen.swap_remove(seen.len() / 2)
    };
    let directory = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    Ok(Report {
        environment: crate::environment::Environment::look(&directory),
        directory: directory.display().to_string(),
        seconds_each: peers.duration.as_secs_f64(),
        rounds: peers.rounds,
        rows: rounds.into_iter().map(median).collect(),
    })
}

#[cfg(feature = "peers")]
impl Report {
    /// As Markdown, for the docs.
    pub(crate) fn text(&self) -> String {
        let mut text = "| peer | setting | commits/s | p50 | p99 |\n|---|---|---|---|---|\n".to_owned();
        let ms = |us: Option<u64>| us.map_or_else(|| "-".to_owned(), crate::report::ms);
        for row in &self.rows {
            let rate = crate::report::thousands(row.commits_per_second as u64);
            text +=
                &format!("| {} | {} | {rate} | {} | {} |\n", row.name, row.settings, ms(row.p50_us), ms(row.p99_us));
        }
        let environment = self.environment.text(&self.directory);
        let Report { rounds, seconds_each, .. } = self;
        text + &format!("\nMedians of {rounds} round(s), {seconds_each} s each.\n\n```\n{environment}\n```")
    }
}
