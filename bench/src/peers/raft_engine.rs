//! raft-engine: one node's log, as TiKV has it. Each thread has a region of its own, as there; every batch is synced.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use hdrhistogram::Histogram;
use protobuf::well_known_types::BytesValue;
use raft_engine::{Config, Engine, LogBatch, MessageExt, ReadableSize};

use super::Peer;
use crate::options::ClusterOptions;
use crate::session::Root;

const COMMAND_BYTES: usize = super::COMMAND_BYTES as usize;
/// Batches between two looks at what can be dropped.
const KEPT_BATCHES: u64 = 256;
/// Enough for some seconds.
const DISK_BYTES: u64 = 3 << 30;

/// A command whose first bytes are its index.
struct Command;

impl MessageExt for Command {
    type Entry = BytesValue;

    fn index(entry: &BytesValue) -> u64 {
        entry.value.first_chunk().map_or(0, |index| u64::from_le_bytes(*index))
    }
}

/// Threads, and commands of a batch.
const LOADS: [(u32, u32); 4] = [(1, 1), (1, 128), (1, 1024), (256, 1)];

/// Measures every load.
pub(super) fn measure_all(options: &ClusterOptions, duration: Duration) -> Result<Vec<Peer>> {
    LOADS.into_iter().map(|(threads, batch)| measure(options, threads, batch, duration)).collect()
}

/// Appends from so many threads for so long.
pub(super) fn measure(options: &ClusterOptions, threads: u32, batch: u32, duration: Duration) -> Result<Peer> {
    let root = Root::make(options, DISK_BYTES)?;
    let config = Config {
        dir: root.path().join("raft-engine").display().to_string(),
        // Compression costs more than it saves here, and commands of a real load may not compress.
        batch_compression_threshold: ReadableSize(0),
        purge_threshold: ReadableSize::mb(256),
        ..Config::default()
    };
    let engine = Engine::open(config).map_err(|error| anyhow!("opening raft-engine: {error}"))?;
    let (commands, is_measuring, stop) = (AtomicU64::new(0), AtomicBool::new(false), AtomicBool::new(false));
    let (rate, latency_us) = thread::scope(|scope| -> Result<(f64, Histogram<u64>)> {
        let appending: Vec<_> = (1..=threads)
            .map(|region| {
                let (engine, commands, is_measuring, stop) = (&engine, &commands, &is_measuring, &stop);
                scope.spawn(move || append(engine, region.into(), batch, commands, is_measuring, stop))
            })
            .collect();
        let purging = scope.spawn(|| purge(&engine, &stop));
        thread::sleep(duration / 4);
        let (begun, before) = (Instant::now(), commands.load(Ordering::Relaxed));
        is_measuring.store(true, Ordering::Relaxed);
        thread::sleep(duration);
        let rate = (commands.load(Ordering::Relaxed) - before) as f64 / begun.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        let mut latency_us = histogram();
        for thread in appending {
            let seen = thread.join().map_err(|_| anyhow!("a thread of raft-engine's panicked"))??;
            latency_us.add(&seen).context("equal bounds")?;
        }
        purging.join().map_err(|_| anyhow!("the purging thread panicked"))??;
        Ok((rate, latency_us))
    })?;
    Ok(Peer {
        name: "raft-engine",
        version: super::version("raft-engine"),
        settings: format!("{threads} thread(s), batches of {batch}, {COMMAND_BYTES} B, each batch synced"),
        commits_per_second: rate,
        p50_us: Some(latency_us.value_at_quantile(0.5)),
        p99_us: Some(latency_us.value_at_quantile(0.99)),
        is_measured: true,
    })
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("constant bounds are sound")
}

fn append(
    engine: &Engine,
    region: u64,
    batch: u32,
    commands: &AtomicU64,
    is_measuring: &AtomicBool,
    stop: &AtomicBool,
) -> Result<Histogram<u64>> {
    let mut latency_us = histogram();
    let mut entries = vec![BytesValue::new(); batch as usize];
    entries.iter_mut().for_each(|entry| entry.value = vec![0x5a; COMMAND_BYTES]);
    let mut log_batch = LogBatch::with_capacity(batch as usize);
    let mut next = 1_u64;
    for round in 1_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let begun = Instant::now();
        for entry in &mut entries {
            entry.value[..8].copy_from_slice(&next.to_le_bytes());
            next += 1;
        }
        let failed = |error| anyhow!("appending to raft-engine: {error}");
        log_batch.add_entries::<Command>(region, &entries).map_err(failed)?;
        engine.write(&mut log_batch, true).map_err(failed)?;
        commands.fetch_add(u64::from(batch), Ordering::Relaxed);
        if is_measuring.load(Ordering::Relaxed) {
            latency_us.saturating_record(begun.elapsed().as_micros() as u64);
        }
        if round.is_multiple_of(KEPT_BATCHES) {
            engine.compact_to(region, next - u64::from(batch));
        }
    }
    Ok(latency_us)
}

/// Frees files whose entries aren't needed, as its users do in the background.
fn purge(engine: &Engine, stop: &AtomicBool) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(200));
        engine.purge_expired_files().map_err(|error| anyhow!("purging raft-engine: {error}"))?;
    }
    Ok(())
}
