//! The raw disk: writes past the page cache, each made durable, with nothing else going on.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::pipeline::{Disk, open, write_once};
use super::ring::Ring;
use crate::options::Sync;

/// What a writer writes again and again: what recycled segments are.
const FILE_BYTES: u64 = 64 << 20;
const SYNC_TAG: u32 = u32::MAX;

/// One way of writing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    /// Threads, each with its own file.
    pub(crate) writers: u32,
    pub(crate) sync: Sync,
    pub(crate) block_bytes: usize,
    /// Writes of each writer that are under way and not durable.
    pub(crate) depth: usize,
}

/// What it gave.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) writers: u32,
    pub(crate) sync: &'static str,
    pub(crate) block_bytes: usize,
    pub(crate) depth: usize,
    /// Durable writes of all writers.
    pub(crate) writes_per_second: f64,
    pub(crate) mb_per_second: f64,
    /// From asking for a write until it was durable, in microseconds.
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
}

/// Files that were written once; removed when dropped.
pub(crate) struct Files {
    paths: Vec<PathBuf>,
}

impl Files {
    /// Writes the files of so many writers.
    ///
    /// # Errors
    /// If the disk is full, or has no O_DIRECT.
    pub(crate) fn prepare(directory: &Path, writers: u32) -> io::Result<Files> {
        let files = Files { paths: (0..writers).map(|writer| directory.join(format!("floor-{writer}"))).collect() };
        for path in &files.paths {
            write_once(path, FILE_BYTES)?;
        }
        Ok(files)
    }

    /// Writes in one way for so long.
    ///
    /// # Errors
    /// If the disk fails.
    pub(crate) fn measure(&self, way: Way, each: Duration) -> io::Result<Row> {
        let start = Barrier::new(way.writers as usize);
        let seen: Vec<(Histogram<u64>, f64)> = thread::scope(|scope| {
            let writers: Vec<_> = self.paths[..way.writers as usize]
                .iter()
                .map(|path| {
                    let start = &start;
                    scope.spawn(move || write(path, way, each, start))
                })
                .collect();
            let done = writers.into_iter().map(|writer| writer.join().expect("writing doesn't panic"));
            done.collect::<io::Result<_>>()
        })?;
        let mut latency_us = histogram();
        for (one, _) in &seen {
            latency_us.add(one).expect("equal bounds");
        }
        let writes_per_second = seen.iter().map(|(one, seconds)| one.len() as f64 / seconds.max(1e-9)).sum();
        Ok(Row {
            writers: way.writers,
            sync: way.sync.name(),
            block_bytes: way.block_bytes,
            depth: way.depth,
            writes_per_second,
            mb_per_second: writes_per_second * way.block_bytes as f64 / 1e6,
            p50_us: latency_us.value_at_quantile(0.5),
            p99_us: latency_us.value_at_quantile(0.99),
        })
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        for path in &self.paths {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("constant bounds are sound")
}

fn write(path: &Path, way: Way, each: Duration, start: &Barrier) -> io::Result<(Histogram<u64>, f64)> {
    let prepared = Ring::new(way.depth, way.block_bytes).and_then(|ring| Ok((ring, open(path, way.sync)?)));
    // All writers start, or none waits for one that couldn't.
    start.wait();
    let (mut ring, file) = prepared?;
    let mut disk = Disk::new(&mut ring, file, (way.sync, FILE_BYTES), SYNC_TAG);
    let mut free: Vec<usize> = (0..way.depth).collect();
    let mut asked_at = vec![Instant::now(); way.depth];
    let (mut ended, mut durable, mut latency_us) = (Vec::new(), Vec::new(), histogram());
    let begun = Instant::now();
    loop {
        let is_over = begun.elapsed() >= each;
        if is_over && free.len() == way.depth {
            return Ok((latency_us, begun.elapsed().as_secs_f64()));
        }
        while !is_over && let Some(slot) = free.pop() {
            asked_at[slot] = Instant::now();
            disk.write(&mut ring, slot, way.block_bytes, slot as u32)?;
        }
        ring.wait(&mut ended)?;
        for done in ended.drain(..) {
            let bytes = done.result?;
            if done.tag == SYNC_TAG {
                disk.on_synced(&mut ring, &mut durable)?;
            } else if bytes == way.block_bytes {
                disk.on_written(&mut ring, done.tag as usize, &mut durable)?;
            } else {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        for slot in durable.drain(..) {
            latency_us.saturating_record(asked_at[slot].elapsed().as_micros() as u64);
            free.push(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_of_writing_gives_figures_that_fit() {
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a directory");
        let files = Files::prepare(directory.path(), 2).expect("files");
        for (writers, sync, depth) in [(1, Sync::Dsync, 1), (2, Sync::Fdatasync, 4), (2, Sync::Dsync, 4)] {
            let way = Way { writers, sync, block_bytes: 8192, depth };
            let row = files.measure(way, Duration::from_millis(20)).expect("a disk");
            assert!(row.writes_per_second > 0.0 && row.p50_us <= row.p99_us, "{row:?}");
            assert!((row.mb_per_second - row.writes_per_second * 8192.0 / 1e6).abs() < 1e-9);
        }
    }
}
