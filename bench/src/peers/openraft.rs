//! openraft with a log made for it: three replicas in this process, which call each other's functions in place of a network,
//! and whose logs are files, O_DIRECT and O_DSYNC.
//!
//! As openraft's own benchmark sets it up (one thread for clients, in-memory state, answers by a plain channel), but with
//! commands of 128 bytes in place of empty ones, and with a log: what is appended is durable before it counts, at the leader as
//! at followers. It has no sockets and encodes no messages, which the others here do.

mod network;
mod store;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use futures_util::StreamExt as _;
use openraft::{Config, SnapshotPolicy};
use tokio::runtime::{Builder, Runtime};

use self::network::{Node, Router};
use self::store::{Command, LogStore, Machine};
use super::tally::{Phase, Tally};
use super::{COMMAND_BYTES, Peer};
use crate::floor::pipeline::write_once;
use crate::options::ClusterOptions;
use crate::session::Root;

const NAME: &str = "openraft with a durable log";
const REPLICAS: u64 = 3;
/// Each replica's file, written again and again.
const FILE_BYTES: u64 = 256 << 20;
const SERVER_THREADS: usize = 2;
const PATIENCE: Duration = Duration::from_secs(20);
/// Entries between snapshots, which free the log in memory.
const KEPT_ENTRIES: u64 = 50_000;

/// Clients, and commands of a call.
const LOADS: [(u32, u32); 2] = [(4096, 1), (1024, 16)];

/// Measures every load, each on a new cluster.
pub(super) fn measure(options: &ClusterOptions, duration: Duration) -> Result<Vec<Peer>> {
    let root = Root::make(options, REPLICAS * FILE_BYTES)?;
    let paths: Vec<PathBuf> = (1..=REPLICAS).map(|node| root.path().join(format!("openraft-{node}"))).collect();
    for path in &paths {
        write_once(path, FILE_BYTES).context("preparing openraft's log")?;
    }
    let load = |(clients, batch): (u32, u32)| {
        let (tally, took) = drive(&paths, clients, batch, duration)?;
        let settings = format!(
            "{COMMAND_BYTES} B, {clients} clients, {batch} a call, O_DIRECT and O_DSYNC; no network: replicas call functions"
        );
        Ok(tally.peer(NAME, &super::version("openraft"), settings, took))
    };
    LOADS.into_iter().map(load).collect()
}

fn runtime(threads: usize) -> Result<Runtime> {
    Builder::new_multi_thread().worker_threads(threads).enable_all().build().context("a runtime for openraft")
}

/// One load for so long.
fn drive(paths: &[PathBuf], clients: u32, batch: u32, duration: Duration) -> Result<(Tally, Duration)> {
    let (servers, callers) = (runtime(SERVER_THREADS)?, runtime(1)?);
    let router = servers.block_on(start(paths))?;
    let leader = router.node(1).context("openraft's first node isn't there")?;
    let phase = Arc::new(Phase::default());
    let running: Vec<_> = (0..clients)
        .map(|_| {
            let (leader, phase) = (leader.clone(), Arc::clone(&phase));
            callers.spawn(async move { call(&leader, batch, &phase).await.inspect_err(|_| phase.end()) })
        })
        .collect();
    let took = phase.pass(duration);
    let whole = callers.block_on(async {
        let mut whole = Tally::default();
        for caller in running {
            whole = whole.add(&caller.await.map_err(|_| anyhow!("a caller of openraft panicked"))??);
        }
        anyhow::Ok(whole)
    })?;
    servers.block_on(router.stop());
    Ok((whole, took))
}

/// Three nodes, of which the first leads.
async fn start(paths: &[PathBuf]) -> Result<Router> {
    let config = Config {
        // A busy machine must not look like a dead leader.
        heartbeat_interval: 500,
        election_timeout_min: 2000,
        election_timeout_max: 4000,
        max_payload_entries: 1024,
        purge_batch_size: 1024,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(KEPT_ENTRIES),
        ..Config::default()
    };
    let config = Arc::new(config.validate()?);
    let router = Router::default();
    for (place, path) in paths.iter().enumerate() {
        let id = place as u64 + 1;
        let log = LogStore::open(path, FILE_BYTES)?;
        router.add(id, Node::new(id, Arc::clone(&config), router.clone(), log, Machine::default()).await?);
    }
    let first = router.node(1).context("openraft's first node isn't there")?;
    first.initialize((1..=REPLICAS).collect::<BTreeSet<u64>>()).await?;
    // The first entry after the one that names the members: before it is applied, a leader may still step down to be elected.
    first.wait(Some(PATIENCE)).applied_index_at_least(Some(1), "the first node leads").await?;
    Ok(router)
}

/// One call after the other.
async fn call(leader: &Node, batch: u32, phase: &Phase) -> Result<Tally> {
    let mut tally = Tally::default();
    while !phase.is_over() {
        let begun = Instant::now();
        if batch == 1 {
            leader.client_write(Command::default()).await.context("writing to openraft")?;
        } else {
            let commands = (0..batch).map(|_| Command::default());
            let mut answers = leader.client_write_many(commands).await.context("writing to openraft")?;
            while let Some(answer) = answers.next().await {
                answer?.context("writing to openraft")?;
            }
        }
        tally.note(phase, batch, begun);
    }
    Ok(tally)
}
