//! What the disk of a directory can do: how long until 4 KiB are durable, and how many bytes a second it takes and
//! gives.
//!
//! The scratch file has no name from the beginning, or loses it at once: whatever ends this program, the file is gone.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::fs::OFlags;
use serde::Serialize;
use synod_frame::{BLOCK_BYTES, RecordBuffer};

use super::Check;
use crate::progress::Progress;
use crate::uring::BulkReader;

/// Bytes of one write when bandwidth is measured.
const PART_BYTES: usize = 1 << 20;

/// A sync this fast reaches no disk whose cache is volatile.
const IMPLAUSIBLE_US: u64 = 8;

/// A sync this slow holds every commit up.
const SLOW_US: u64 = 20_000;

/// What was measured.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Measured {
    dsync_p50_us: u64,
    dsync_p99_us: u64,
    fdatasync_p50_us: u64,
    fdatasync_p99_us: u64,
    write_mib_per_second: f64,
    read_mib_per_second: f64,
    scratch_mib: u64,
}

impl Measured {
    /// Flags that suit the disk.
    pub(super) fn recommended(&self) -> Vec<String> {
        // A tie goes to O_DSYNC, which costs less CPU.
        let dsync = self.dsync_p50_us as f64 <= 1.1 * self.fdatasync_p50_us as f64;
        vec!["--sync".to_owned(), if dsync { "dsync" } else { "fdatasync" }.to_owned()]
    }
}

/// Measures the disk under a directory; nothing if it failed, which is then a check of its own.
pub(super) fn measure(
    directory: &Path,
    each: Duration,
    scratch_bytes: u64,
    checks: &mut Vec<Check>,
) -> Option<Measured> {
    let free = rustix::fs::statvfs(directory).map_or(0, |found| found.f_bavail.saturating_mul(found.f_frsize));
    if free < 2 * scratch_bytes {
        let found = format!("not measured: {} MiB are free, the scratch file has {}", free >> 20, scratch_bytes >> 20);
        checks.push(Check::warn(
            "disk speed",
            found,
            format!("`df -h {}`, or a smaller --scratch", directory.display()),
        ));
        return None;
    }
    match try_measure(directory, each, scratch_bytes) {
        Ok(measured) => {
            checks.push(sync_check("sync (O_DSYNC)", measured.dsync_p50_us, measured.dsync_p99_us));
            checks.push(sync_check("sync (fdatasync)", measured.fdatasync_p50_us, measured.fdatasync_p99_us));
            let told = format!(
                "{:.0} MiB/s written, {:.0} MiB/s read, in order, with {} MiB",
                measured.write_mib_per_second, measured.read_mib_per_second, measured.scratch_mib
            );
            checks.push(Check::note("bandwidth", told));
            Some(measured)
        }
        Err(error) => {
            let next = format!("`dmesg | tail`, then `df -h {}`", directory.display());
            checks.push(Check::fail("disk speed", format!("the scratch file failed: {error}"), next));
            None
        }
    }
}

fn sync_check(name: &'static str, p50: u64, p99: u64) -> Check {
    let found = format!("4 KiB durable in p50 {:.2} ms, p99 {:.2} ms", p50 as f64 / 1000.0, p99 as f64 / 1000.0);
    if p50 < IMPLAUSIBLE_US {
        let next = "make sure that the disk's cache survives a power failure: `cat /sys/block/*/queue/write_cache`";
        Check::warn(name, format!("{found}: faster than any disk"), next)
    } else if p99 > SLOW_US {
        Check::warn(name, found, "see who else writes to the disk: `iostat -x 1`")
    } else {
        Check::ok(name, found)
    }
}

fn try_measure(directory: &Path, each: Duration, scratch_bytes: u64) -> io::Result<Measured> {
    let parts = (scratch_bytes / PART_BYTES as u64).max(1);
    let progress = Progress::pieces(2 * parts + 2, "measuring the disk");
    let scratch = Scratch::create(directory)?;
    let file = scratch.open(OFlags::DIRECT)?;
    let mut memory = RecordBuffer::zeroed(PART_BYTES);
    for (index, byte) in memory.as_mut().iter_mut().enumerate() {
        *byte = ((index * 31) >> 5) as u8;
    }
    // Once to have the blocks, for a log's segments are written before they are used; then again against the clock.
    let mut started = Instant::now();
    for round in 0..2 {
        if round == 1 {
            file.sync_all()?;
            started = Instant::now();
        }
        for part in 0..parts {
            file.write_all_at(memory.as_ref(), part * PART_BYTES as u64)?;
            if round == 1 {
                progress.advance(1);
            }
        }
    }
    file.sync_data()?;
    let written = started.elapsed();
    let read = read(&file, &mut memory, parts, &progress)?;
    let dsync = latency(&scratch.open(OFlags::DIRECT | OFlags::DSYNC)?, memory.as_ref(), each, |_| Ok(()))?;
    progress.advance(1);
    let synced = latency(&file, memory.as_ref(), each, File::sync_data)?;
    let mib = (parts * PART_BYTES as u64) as f64 / (1 << 20) as f64;
    Ok(Measured {
        dsync_p50_us: dsync.value_at_quantile(0.5),
        dsync_p99_us: dsync.value_at_quantile(0.99),
        fdatasync_p50_us: synced.value_at_quantile(0.5),
        fdatasync_p99_us: synced.value_at_quantile(0.99),
        write_mib_per_second: mib / written.as_secs_f64().max(1e-9),
        read_mib_per_second: mib / read.as_secs_f64().max(1e-9),
        scratch_mib: mib as u64,
    })
}

/// Reads the file with many reads in flight if io_uring allows it, else one after the other.
fn read(file: &File, memory: &mut RecordBuffer, parts: u64, progress: &Progress) -> io::Result<Duration> {
    let bytes = parts as usize * PART_BYTES;
    if let Ok(mut reader) = BulkReader::new() {
        // Once without the clock: the reader's memory is new to this process.
        reader.load(file, bytes)?;
        let started = Instant::now();
        reader.load(file, bytes)?;
        progress.advance(parts);
        return Ok(started.elapsed());
    }
    let started = Instant::now();
    for part in 0..parts {
        file.read_exact_at(memory.as_mut(), part * PART_BYTES as u64)?;
        progress.advance(1);
    }
    Ok(started.elapsed())
}

/// Writes single blocks, each durable before the next, for a while; in microseconds.
fn latency(
    file: &File,
    memory: &[u8],
    each: Duration,
    sync: impl Fn(&File) -> io::Result<()>,
) -> io::Result<Histogram<u64>> {
    let mut histogram = Histogram::new_with_bounds(1, 600_000_000, 3).expect("constant bounds are sound");
    let begun = Instant::now();
    let blocks = (PART_BYTES / BLOCK_BYTES) as u64;
    let mut number = 0;
    while number == 0 || begun.elapsed() < each {
        let started = Instant::now();
        file.write_all_at(&memory[..BLOCK_BYTES], number % blocks * BLOCK_BYTES as u64)?;
        sync(file)?;
        histogram.saturating_record(started.elapsed().as_micros() as u64);
        number += 1;
    }
    Ok(histogram)
}

/// A file without a name.
struct Scratch {
    file: File,
}

impl Scratch {
    fn create(directory: &Path) -> io::Result<Scratch> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600);
        let nameless = options.clone().custom_flags(OFlags::TMPFILE.bits() as i32).open(directory);
        if let Ok(file) = nameless {
            return Ok(Scratch { file });
        }
        // The file system knows no nameless files.
        let path = directory.join(format!(".doctor-{}", std::process::id()));
        let file = options.create_new(true).custom_flags(OFlags::NOFOLLOW.bits() as i32).open(&path)?;
        fs::remove_file(&path)?;
        Ok(Scratch { file })
    }

    /// The same file, opened in another way.
    fn open(&self, flags: OFlags) -> io::Result<File> {
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        OpenOptions::new().read(true).write(true).custom_flags(flags.bits() as i32).open(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_behind_and_nothing_was_there_meanwhile() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let scratch = Scratch::create(root.path()).expect("a scratch file");
        scratch.file.write_all_at(b"here", 0).expect("written");
        assert_eq!(fs::read_dir(root.path()).expect("a directory").count(), 0);
        let mut again = [0; 4];
        scratch.open(OFlags::empty()).expect("opened again").read_exact_at(&mut again, 0).expect("read");
        assert_eq!(&again, b"here");
    }

    #[test]
    fn slow_and_implausible_syncs_are_told() {
        use crate::doctor::State;
        assert_eq!(sync_check("sync", 100, 900).state, State::Ok);
        for (p50, p99) in [(3, 10), (5_000, 30_000)] {
            let check = sync_check("sync", p50, p99);
            assert!(check.state == State::Warn && check.next.is_some(), "{check:?}");
        }
    }

    #[test]
    fn the_faster_way_is_recommended() {
        let measured = |dsync_p50_us, fdatasync_p50_us| Measured {
            dsync_p50_us,
            dsync_p99_us: 0,
            fdatasync_p50_us,
            fdatasync_p99_us: 0,
            write_mib_per_second: 0.0,
            read_mib_per_second: 0.0,
            scratch_mib: 0,
        };
        assert_eq!(measured(100, 100).recommended(), ["--sync", "dsync"]);
        assert_eq!(measured(300, 100).recommended(), ["--sync", "fdatasync"]);
    }
}
