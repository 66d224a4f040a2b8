//! `synod-bench recovery`: how long a node takes to start, by the size of its log.
//!
//! The log is made by the engine itself, under load, and what it holds is audited afterwards as in every run. One node is
//! stopped in order and started again, alone, as after a reboot: what its files have in the page cache is dropped first.
//! The same files are read without a look at them, before and after; the faster of the two is what the disk gives.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{Advice, OFlags, fadvise};
use serde::Serialize;
use synod::{Config, Node, Status};
use synod_wal::directory::{self, ReadBuffer};

use crate::audit::{self, Audit};
use crate::cluster::{self, Cluster};
use crate::content::Content;
use crate::environment::Environment;
use crate::ledger::Ledger;
use crate::line::Line;
use crate::load::{Clients, Demand, Load};
use crate::options::{ClusterOptions, RecoveryOptions};
use crate::recorder::Recorder;
use crate::report::thousands;
use crate::retention::Trimmed;
use crate::session::Root;

/// How long a node may take to open its log once it was read back: it writes one block.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes of one read of the disk alone.
const PART_BYTES: u64 = 2 << 20;

/// Reads of the disk alone in flight.
const READS: usize = 4;

/// What came of all sizes.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    environment: Environment,
    settings: Settings,
    logs: Vec<Measured>,
}

/// What was asked for.
#[derive(Clone, Debug, Serialize)]
struct Settings {
    replicas: u32,
    payload: String,
    batch_commands: u32,
    in_flight_calls: u32,
    body_bytes: u64,
    sync: &'static str,
    log_bytes: u64,
    seed: u64,
    directory: String,
}

/// What came of one size.
#[derive(Clone, Debug, Serialize)]
struct Measured {
    /// The size asked for, in bytes.
    log_bytes: u64,
    restarts: Vec<Restart>,
    audit: Audit,
}

/// One restart.
#[derive(Clone, Copy, Debug, Serialize)]
struct Restart {
    /// Segments that were read back.
    segments: u64,
    /// The chosen prefix that the node found.
    slots: u64,
    bodies: usize,
    /// Bytes that were read back.
    bytes_read: u64,
    /// How long it took to read them and to find out what they say.
    recovery_seconds: f64,
    bytes_per_second: f64,
    /// From the call until the node listened.
    open_seconds: f64,
    /// From the call until the log was open for records: the first moment at which the node could vote.
    first_vote_seconds: f64,
    disk: Disk,
    /// The recovery's speed as a share of the disk's.
    share_of_disk: f64,
}

/// The same files, read past the page cache without a look at them.
#[derive(Clone, Copy, Debug, Serialize)]
struct Disk {
    before_bytes_per_second: f64,
    after_bytes_per_second: f64,
}

impl Report {
    /// Whether every log held what it should.
    pub(crate) fn is_sound(&self) -> bool {
        self.logs.iter().all(|log| log.audit.failures.is_empty())
    }
}

/// Makes a log of each size and restarts a node on it.
///
/// # Errors
/// If there is no room, or a node doesn't do what it should.
pub(crate) fn run(options: &ClusterOptions, recovery: &RecoveryOptions, interrupted: &AtomicBool) -> Result<Report> {
    let mut line = Line::default();
    let mut logs = Vec::new();
    let mut seen = None;
    for size in &recovery.sizes {
        let root = Root::make(options, cluster::bytes_needed(options, *size))?;
        let measured = measure(options, *size, recovery.times, root.path(), interrupted, &mut line);
        line.clear();
        logs.push(measured?);
        seen = Some((Environment::look(root.path()), settings(options, *size, root.path())));
    }
    let (environment, settings) = seen.context("no size was named")?;
    Ok(Report { environment, settings, logs })
}

fn settings(options: &ClusterOptions, log_bytes: u64, root: &Path) -> Settings {
    Settings {
        replicas: options.replicas,
        payload: options.payload.to_string(),
        batch_commands: options.batch,
        in_flight_calls: options.in_flight,
        body_bytes: options.body,
        sync: options.sync.name(),
        log_bytes,
        seed: options.seed,
        directory: root.display().to_string(),
    }
}

fn measure(
    options: &ClusterOptions,
    log_bytes: u64,
    times: u32,
    root: &Path,
    interrupted: &AtomicBool,
    line: &mut Line,
) -> Result<Measured> {
    anyhow::ensure!(options.groups == 1, "a restart is measured with one group: leave out --groups");
    let directories = cluster::create(root, options, log_bytes, &mut |share| {
        line.show(&format!("preparing logs {:3.0} %", share * 100.0));
    })?;
    let plans = cluster::plans(&directories, options, None)?;
    let content = Content::new(options.payload, options.seed);
    let ledger = Arc::new(Ledger::default());
    let cluster = cluster::start(directories, &plans, false)?;
    fill(&cluster, options, log_bytes, &content, &ledger, interrupted, line)?;
    let before = cluster.logs()[0].1.status();
    let directories = cluster.stop()?;
    let files = files(&directory::log_path(&directories[0].1, 0), log_bytes)?;
    let mut restarts = Vec::new();
    for time in 1..=times {
        ensure!(!interrupted.load(Ordering::Relaxed), "interrupted");
        line.show(&format!("restart {time} of {times}"));
        let disk_before = sequential(&files)?;
        drop_cached(&files)?;
        let (open, status) = restart(plans[0].config(), &before)?;
        let disk_after = sequential(&files)?;
        restarts.push(Restart::new(open, &status, disk_before, disk_after)?);
    }
    line.show("auditing the closed logs");
    let audit = audit::audit(&directories, 0, &content, &ledger.snapshot(), Ok(Trimmed::default()))?;
    Ok(Measured { log_bytes, restarts, audit })
}

impl Restart {
    fn new(open: Duration, status: &Status, disk_before: f64, disk_after: f64) -> Result<Restart> {
        let startup = status.startup;
        let ready = startup.ready.context("the node became ready")?;
        let bytes_per_second = startup.bytes as f64 / startup.recovery.as_secs_f64().max(1e-9);
        Ok(Restart {
            segments: startup.segments,
            slots: status.mark.slot.0,
            bodies: status.wal.bodies,
            bytes_read: startup.bytes,
            recovery_seconds: startup.recovery.as_secs_f64(),
            bytes_per_second,
            open_seconds: open.as_secs_f64(),
            first_vote_seconds: ready.as_secs_f64(),
            disk: Disk { before_bytes_per_second: disk_before, after_bytes_per_second: disk_after },
            share_of_disk: bytes_per_second / disk_before.max(disk_after),
        })
    }
}

/// Appends until the first node's log has the size asked for, and all nodes hold the same.
fn fill(
    cluster: &Cluster,
    options: &ClusterOptions,
    log_bytes: u64,
    content: &Content,
    ledger: &Arc<Ledger>,
    interrupted: &AtomicBool,
    line: &mut Line,
) -> Result<()> {
    cluster.wait_for_leader()?;
    let logs = cluster.logs();
    let clients = Clients {
        logs: logs.clone(),
        content: content.clone(),
        ledger: Arc::clone(ledger),
        recorder: Arc::new(Recorder::new(Duration::from_secs(60))),
    };
    let demand = Demand { in_flight: options.in_flight, batch: options.batch, rate: None, threads: 1 };
    let load = Load::Embedded(vec![clients.start(demand)]);
    let appended = || logs[0].1.status().wal.bytes_appended;
    let stopped = || logs.iter().find_map(|(_, log)| log.status().stopped);
    while appended() < log_bytes && !interrupted.load(Ordering::Relaxed) && stopped().is_none() {
        thread::sleep(Duration::from_millis(20));
        line.show(&format!("writing a log {:5} of {} MiB", appended() >> 20, log_bytes >> 20));
    }
    load.stop()?;
    if let Some(reason) = stopped() {
        bail!("a node stopped serving while the log was written: {reason}");
    }
    ensure!(!interrupted.load(Ordering::Relaxed), "interrupted");
    line.show("waiting for equal logs");
    cluster::quiesce(&cluster.members())
}

/// Starts a node again until it can vote, and ends it; how long [`Node::start`] took, and how the node stood then.
fn restart(config: Config, before: &Status) -> Result<(Duration, Status)> {
    let begun = Instant::now();
    let mut node = Node::start(config).context("starting a node again")?;
    let open = begun.elapsed();
    while node.status().startup.ready.is_none() {
        ensure!(begun.elapsed() < open + PATIENCE, "the node hasn't opened its log {PATIENCE:?} after reading it");
        thread::sleep(Duration::from_micros(200));
    }
    let status = node.status();
    ensure!(
        status.mark.slot >= before.mark.slot,
        "the node had delivered slots below {} and finds only those below {}",
        before.mark.slot,
        status.mark.slot
    );
    node.shutdown().context("stopping the node again")?;
    Ok((open, status))
}

/// The segment files of a log, as many as hold so many bytes.
fn files(log: &Path, bytes: u64) -> Result<Vec<(PathBuf, u64)>> {
    let mut files = Vec::new();
    let shown = || format!("listing {}", log.display());
    for entry in std::fs::read_dir(log).with_context(shown)? {
        let entry = entry.with_context(shown)?;
        let is_segment = entry.file_name().to_str().is_some_and(|name| name.ends_with(".wal"));
        let length = entry.metadata().with_context(shown)?.len();
        if is_segment && length > 0 {
            files.push((entry.path(), length));
        }
    }
    files.sort_unstable();
    let mut left = bytes;
    files.retain(|(_, length)| {
        let is_wanted = left > 0;
        left = left.saturating_sub(*length);
        is_wanted
    });
    Ok(files)
}

/// Reads whole files past the page cache, with several reads in flight, and looks at nothing; bytes a second.
fn sequential(files: &[(PathBuf, u64)]) -> Result<f64> {
    let opened: Vec<File> = files
        .iter()
        .map(|(path, _)| OpenOptions::new().read(true).custom_flags(OFlags::DIRECT.bits() as i32).open(path))
        .collect::<Result<_, _>>()
        .context("opening segments past the page cache")?;
    let parts: Vec<(usize, u64)> = files
        .iter()
        .enumerate()
        .flat_map(|(file, (_, bytes))| (0..*bytes).step_by(PART_BYTES as usize).map(move |offset| (file, offset)))
        .collect();
    let (next, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
    let read = || -> std::io::Result<()> {
        let mut buffer = ReadBuffer::zeroed(PART_BYTES as usize)?;
        while let Some((file, offset)) = parts.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
            let wanted = PART_BYTES.min(files[*file].1 - offset);
            opened[*file].read_exact_at(&mut buffer.as_mut()[..wanted as usize], *offset)?;
            bytes.fetch_add(wanted, Ordering::Relaxed);
        }
        Ok(())
    };
    let begun = Instant::now();
    thread::scope(|scope| {
        let readers: Vec<_> = (0..READS).map(|_| scope.spawn(read)).collect();
        readers.into_iter().try_for_each(|reader| reader.join().expect("reading doesn't panic"))
    })
    .context("reading segments past the page cache")?;
    Ok(bytes.into_inner() as f64 / begun.elapsed().as_secs_f64().max(1e-9))
}

/// Drops what the page cache has of these files: a reboot leaves nothing there.
fn drop_cached(files: &[(PathBuf, u64)]) -> Result<()> {
    for (path, _) in files {
        let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        fadvise(&file, 0, None, Advice::DontNeed)
            .with_context(|| format!("dropping the cache of {}", path.display()))?;
    }
    Ok(())
}

impl Report {
    /// For people.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        self.write(&mut text).expect("writing to a string can't fail");
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        let mib = |bytes: f64| format!("{:.0}", bytes / f64::from(1 << 20));
        writeln!(
            text,
            "{:>10} {:>9} {:>10} {:>10} {:>10} {:>10} {:>8} {:>10} {:>6}",
            "log", "segments", "bodies", "recovered", "listening", "can vote", "MiB/s", "disk MiB/s", "share"
        )?;
        for (log_bytes, restart) in self.logs.iter().flat_map(|log| log.restarts.iter().map(|one| (log.log_bytes, one)))
        {
            let disk = restart.disk.before_bytes_per_second.max(restart.disk.after_bytes_per_second);
            writeln!(
                text,
                "{:>6} MiB {:>9} {:>10} {:>8.3} s {:>8.3} s {:>8.3} s {:>8} {:>10} {:>4.0} %",
                log_bytes >> 20,
                restart.segments,
                thousands(restart.bodies as u64),
                restart.recovery_seconds,
                restart.open_seconds,
                restart.first_vote_seconds,
                mib(restart.bytes_per_second),
                mib(disk),
                restart.share_of_disk * 100.0
            )?;
        }
        writeln!(text)?;
        let failures: Vec<&String> = self.logs.iter().flat_map(|log| &log.audit.failures).collect();
        let commands = self.logs.iter().map(|log| log.audit.commands_read).sum();
        writeln!(
            text,
            "audit             {} ({} commands read from the closed logs)",
            if failures.is_empty() { "passed" } else { "FAILED" },
            thousands(commands)
        )?;
        for failure in failures {
            writeln!(text, "  FAILED: {failure}")?;
        }
        let (settings, host) = (&self.settings, &self.environment);
        writeln!(
            text,
            "log               by {} replicas, {}-byte commands, {} an append call, {} calls in flight, bodies of at most {} KiB",
            settings.replicas,
            settings.payload,
            settings.batch_commands,
            settings.in_flight_calls,
            settings.body_bytes >> 10
        )?;
        writeln!(
            text,
            "restart           of one node, alone, after an orderly end; times from the call, page cache dropped before"
        )?;
        writeln!(
            text,
            "disk MiB/s        the same files past the page cache, {READS} reads of {} MiB in flight, the better of before and after",
            PART_BYTES >> 20
        )?;
        write!(text, "{}", host.text(&settings.directory))
    }
}
