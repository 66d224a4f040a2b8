//! `synod-bench`: durable commits per second of a whole cluster on this machine, audited.
#![deny(unsafe_code)]

mod audit;
mod cluster;
mod content;
mod environment;
mod floor;
mod ledger;
mod line;
mod load;
mod options;
mod place;
mod recovery;
mod report;
mod retention;

use std::io::{Write, stderr, stdout};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use clap::Parser;
use serde::Serialize;
use synod::Log;
use synod_protocol::NodeId;

use content::Content;
use environment::Environment;
use ledger::Ledger;
use line::Line;
use load::{Clients, Progress};
use options::{Command, Format, Options};
use report::{Latency, Load, Report, Rotations, Settings, Single};
use retention::Retention;

const AUDIT_FAILED: u8 = 1;
const UNABLE: u8 = 3;

/// How long replicas may take to hold the same when the load has ended.
const QUIESCE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let options = Options::parse();
    log_to_stderr();
    let done = match &options.command {
        None => run(&options).map(|report| {
            let is_sound = report.audit.failures.is_empty();
            (told(&options, &report, Report::text), is_sound)
        }),
        Some(Command::Recovery(sizes)) => watch_for_signals()
            .and_then(|interrupted| recovery::run(&options, sizes, &interrupted))
            .map(|report| (told(&options, &report, recovery::Report::text), report.is_sound())),
        Some(Command::Floor(each)) => watch_for_signals()
            .and_then(|interrupted| floor::run(&options, each, &interrupted))
            .map(|report| (told(&options, &report, floor::Report::text), true)),
    };
    match done {
        Ok((text, is_sound)) => {
            // A reader that has seen enough (`| head`) is no error.
            let _ = writeln!(stdout(), "{text}");
            if is_sound { ExitCode::SUCCESS } else { ExitCode::from(AUDIT_FAILED) }
        }
        Err(error) => {
            eprintln!("synod-bench: {error:#}");
            ExitCode::from(UNABLE)
        }
    }
}

/// A report in the format that was asked for.
fn told<R: Serialize>(options: &Options, report: &R, text: impl Fn(&R) -> String) -> String {
    match options.format {
        Format::Text => text(report),
        Format::Json => serde_json::to_string_pretty(report).expect("a report has no odd keys"),
    }
}

fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn,glommio=error"));
    let _ = tracing_log::LogTracer::init();
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).finish();
    let _ = tracing_subscriber::util::SubscriberInitExt::try_init(subscriber);
}

fn run(options: &Options) -> Result<Report> {
    let parent = place::choose(options.dir.as_deref(), cluster::bytes_needed(options))?;
    let mut root = tempfile::Builder::new()
        .prefix("synod-bench-")
        .tempdir_in(&parent)
        .with_context(|| format!("making a directory in {}", parent.display()))?;
    root.disable_cleanup(options.keep);
    let interrupted = watch_for_signals()?;
    let result = measure(options, root.path(), &interrupted);
    if options.keep {
        eprintln!("directories kept in {}", root.path().display());
    }
    result
}

/// Raised by the first signal that asks this program to end.
fn watch_for_signals() -> Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted)).context("taking signals")?;
    }
    Ok(interrupted)
}

fn measure(options: &Options, root: &std::path::Path, interrupted: &AtomicBool) -> Result<Report> {
    let mut line = Line::default();
    let floor = floor::one_block(root, Duration::from_millis(500))?;
    let directories = cluster::create(root, options, &mut |share| {
        line.show(&format!("preparing logs {:3.0} %", share * 100.0));
    })?;
    line.clear();
    let configs = cluster::configs(&directories, options)?;
    let cluster = cluster::start(directories, configs)?;
    let logs = cluster.logs();
    logs[0].1.wait_for_leader_blocking(Duration::from_secs(30)).ok_or_else(|| anyhow!("no leader within 30 s"))?;

    let content = Content::new(options.payload as usize, options.seed);
    let ledger = Arc::new(Ledger::default());
    let progress = Arc::new(Progress::default());
    let clients = Clients {
        logs: logs.clone(),
        content: content.clone(),
        ledger: Arc::clone(&ledger),
        progress: Arc::clone(&progress),
    };
    let stop_retention = Arc::new(AtomicBool::new(false));
    let retention = {
        let retention = Retention {
            logs: logs.clone(),
            content: content.clone(),
            ledger: Arc::clone(&ledger),
            retention_bytes: options.retention,
        };
        let stop = Arc::clone(&stop_retention);
        thread::spawn(move || retention.run(&stop))
    };

    let (in_flight, batch) = (options.in_flight, options.batch);
    let under_load = {
        let clients = clients.clone();
        thread::spawn(move || clients.run(in_flight, batch))
    };
    let rotations = {
        let (progress, logs) = (Arc::clone(&progress), logs.clone());
        thread::spawn(move || progress.watch_rotations(&logs))
    };
    watch(options.warm_up, &progress, interrupted, &mut line, "warm-up");
    let before = Counters::read(&logs, &progress);
    progress.measuring.store(true, Ordering::Relaxed);
    watch(options.duration, &progress, interrupted, &mut line, "measuring");
    let after = Counters::read(&logs, &progress);
    progress.measuring.store(false, Ordering::Relaxed);
    progress.stop.store(true, Ordering::Relaxed);
    line.clear();
    let seen = under_load.join().map_err(|_| anyhow!("the client thread panicked"))?;
    rotations.join().map_err(|_| anyhow!("the thread that watches for rotations panicked"))?;
    let load = load_report(options, &before, &after, &seen, &progress);

    let single = if options.latency.is_zero() || interrupted.load(Ordering::Relaxed) {
        None
    } else {
        line.show("single commands, one at a time");
        Some(single_commands(&clients, options.latency)?)
    };
    line.show("waiting for equal logs");
    quiesce(&logs)?;
    stop_retention.store(true, Ordering::Relaxed);
    let trimmed = retention.join().map_err(|_| anyhow!("the retention thread panicked"))?;
    drop(logs);
    drop(clients);
    for (node, mut running) in cluster.nodes {
        running.shutdown().with_context(|| format!("stopping node {node}"))?;
    }
    line.show("auditing the closed logs");
    let audit = audit::audit(&cluster.directories, &content, &ledger.snapshot(), trimmed)?;
    line.clear();
    Ok(Report { environment: Environment::look(root), settings: settings(options, root), load, single, floor, audit })
}

fn settings(options: &Options, root: &std::path::Path) -> Settings {
    Settings {
        replicas: options.replicas,
        payload_bytes: options.payload,
        batch_commands: options.batch,
        in_flight_calls: options.in_flight,
        window_bodies: options.window,
        body_bytes: options.body,
        sync: options.sync.name(),
        retention_bytes: options.retention,
        seed: options.seed,
        directory: root.display().to_string(),
    }
}

/// Lets the load run for `duration`, with a live line.
fn watch(duration: Duration, progress: &Progress, interrupted: &AtomicBool, line: &mut Line, what: &str) {
    let begun = Instant::now();
    let mut last = (begun, progress.commands.load(Ordering::Relaxed));
    while begun.elapsed() < duration && !interrupted.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(500).min(duration.saturating_sub(begun.elapsed())));
        let now = (Instant::now(), progress.commands.load(Ordering::Relaxed));
        let rate = (now.1 - last.1) as f64 / (now.0 - last.0).as_secs_f64().max(1e-6);
        line.show(&format!(
            "{what} {:4.1} of {:.0} s   {:6.2} M commits/s",
            begun.elapsed().as_secs_f64(),
            duration.as_secs_f64(),
            rate / 1e6
        ));
        last = now;
    }
}

/// What the measured part begins or ends with.
struct Counters {
    at: Instant,
    commands: u64,
    durable_writes: u64,
    appended_bytes: u64,
    bodies: u64,
    cpu: Duration,
}

impl Counters {
    fn read(logs: &[(NodeId, Log)], progress: &Progress) -> Counters {
        let statuses: Vec<synod::Status> = logs.iter().map(|(_, log)| log.status()).collect();
        let usage = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        Counters {
            at: Instant::now(),
            commands: progress.commands.load(Ordering::Relaxed),
            durable_writes: statuses.iter().map(|status| status.wal.durable_writes).sum(),
            appended_bytes: statuses.iter().map(|status| status.wal.bytes_appended).sum(),
            bodies: statuses.iter().map(|status| status.counters.bodies).sum(),
            cpu: Duration::new(usage.tv_sec as u64, usage.tv_nsec as u32),
        }
    }
}

fn load_report(options: &Options, before: &Counters, after: &Counters, seen: &load::Seen, progress: &Progress) -> Load {
    let seconds = (after.at - before.at).as_secs_f64().max(1e-9);
    let commands = after.commands - before.commands;
    let durable_writes = (after.durable_writes - before.durable_writes) as f64;
    let bodies = (after.bodies - before.bodies) as f64;
    let log_bytes = (after.appended_bytes - before.appended_bytes) as f64 / f64::from(options.replicas);
    let per = |whole: f64, parts: f64| if parts > 0.0 { whole / parts } else { 0.0 };
    Load {
        seconds,
        commands,
        commits_per_second: commands as f64 / seconds,
        payload_mb_per_second: commands as f64 * f64::from(options.payload) / seconds / 1e6,
        append_latency: Latency::of(&seen.latency_us),
        rotations: Rotations {
            count: progress.rotations.load(Ordering::Relaxed),
            calls: seen.at_rotation_us.len(),
            latency: Latency::of(&seen.at_rotation_us),
            latency_between: Latency::of(&seen.between_us),
        },
        commands_per_body: per(commands as f64, bodies),
        durable_writes_per_second: durable_writes / seconds,
        commits_per_durable_write: per(commands as f64, durable_writes),
        log_mb_per_second_per_replica: log_bytes / seconds / 1e6,
        cpu_us_per_commit: per((after.cpu - before.cpu).as_secs_f64() * 1e6, commands as f64),
        calls_refused: progress.refused.load(Ordering::Relaxed),
        calls_unknown: progress.unknown.load(Ordering::Relaxed),
    }
}

fn single_commands(clients: &Clients, duration: Duration) -> Result<Single> {
    let progress = Arc::new(Progress::default());
    progress.measuring.store(true, Ordering::Relaxed);
    let clients = Clients { progress: Arc::clone(&progress), ..clients.clone() };
    let running = thread::spawn(move || clients.run(1, 1));
    thread::sleep(duration);
    progress.stop.store(true, Ordering::Relaxed);
    let seen = running.join().map_err(|_| anyhow!("the client thread panicked"))?;
    Ok(Single { commands: progress.commands.load(Ordering::Relaxed), latency: Latency::of(&seen.latency_us) })
}

/// Waits until all replicas have delivered the same and have it durably.
fn quiesce(logs: &[(NodeId, Log)]) -> Result<()> {
    let begun = Instant::now();
    loop {
        let statuses: Vec<synod::Status> = logs.iter().map(|(_, log)| log.status()).collect();
        let first = &statuses[0];
        let settled = |status: &synod::Status| {
            status.mark == first.mark && status.stable == status.mark.slot && status.wal.unsynced_bytes == 0
        };
        if statuses.iter().all(settled) {
            // Long enough for each log to note its durable position, as it does when it falls idle.
            thread::sleep(Duration::from_millis(300));
            return Ok(());
        }
        if begun.elapsed() > QUIESCE {
            let marks: Vec<String> =
                statuses.iter().map(|s| format!("{} at {} ({})", s.node, s.mark.slot, s.mark.chain)).collect();
            bail!("the replicas don't come to hold the same within {QUIESCE:?}: {}", marks.join(", "));
        }
        thread::sleep(Duration::from_millis(20));
    }
}
