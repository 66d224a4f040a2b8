//! The floor under every latency: one 4 KiB write and sync on this disk, with nothing else going on.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::fs::OFlags;
use serde::Serialize;

const BLOCK_BYTES: usize = 4096;
/// Blocks that are written once before they are measured, and then again and again: what a recycled segment is.
const BLOCKS: u64 = 1024;

/// What one durable 4 KiB write costs, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Floor {
    pub(crate) write_fdatasync_p50_us: u64,
    pub(crate) write_fdatasync_p99_us: u64,
    pub(crate) dsync_p50_us: u64,
    pub(crate) dsync_p99_us: u64,
}

/// Measures both ways of making a block durable, for `each` of them.
///
/// # Errors
/// If the disk refuses direct writes, or fails.
pub(crate) fn floor(directory: &Path, each: Duration) -> io::Result<Floor> {
    let path = directory.join("floor");
    let memory = vec![0x5a_u8; 2 * BLOCK_BYTES];
    let start = memory.as_ptr().align_offset(BLOCK_BYTES);
    let block = &memory[start..start + BLOCK_BYTES];
    let open = |flags: OFlags| {
        let mut options = OpenOptions::new();
        options.write(true).create(true).custom_flags((OFlags::DIRECT | flags).bits() as i32);
        options.open(&path)
    };
    let file = open(OFlags::empty())?;
    for number in 0..BLOCKS {
        file.write_all_at(block, number * BLOCK_BYTES as u64)?;
    }
    file.sync_all()?;
    let synced = measure(&file, block, each, File::sync_data)?;
    let dsync = measure(&open(OFlags::DSYNC)?, block, each, |_| Ok(()))?;
    std::fs::remove_file(&path)?;
    Ok(Floor {
        write_fdatasync_p50_us: synced.value_at_quantile(0.5),
        write_fdatasync_p99_us: synced.value_at_quantile(0.99),
        dsync_p50_us: dsync.value_at_quantile(0.5),
        dsync_p99_us: dsync.value_at_quantile(0.99),
    })
}

fn measure(
    file: &File,
    block: &[u8],
    each: Duration,
    sync: impl Fn(&File) -> io::Result<()>,
) -> io::Result<Histogram<u64>> {
    let mut histogram = Histogram::new_with_bounds(1, 60_000_000, 3).expect("constant bounds are sound");
    let begun = Instant::now();
    let mut number = 0;
    while begun.elapsed() < each {
        let started = Instant::now();
        file.write_all_at(block, (number % BLOCKS) * BLOCK_BYTES as u64)?;
        sync(file)?;
        histogram.saturating_record(started.elapsed().as_micros() as u64);
        number += 1;
    }
    Ok(histogram)
}
