//! `synod-bench`: durable commits per second of a whole cluster on this machine, audited.
#![deny(unsafe_code)]

mod audit;
mod clients;
mod cluster;
mod compare;
mod content;
mod environment;
mod fault;
mod floor;
mod hgrm;
mod html;
mod ledger;
mod line;
mod links;
mod load;
mod meter;
mod options;
mod peers;
mod place;
mod recorder;
mod recovery;
mod replica;
mod report;
mod retention;
mod run;
mod rung;
mod schedule;
mod session;
mod sweep;
mod table;
mod throttle;
mod wake;
mod wal;

use std::io::{Write, stderr, stdout};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use clap::Parser;
use serde::Serialize;

use options::{ClusterOptions, Command, Format, Options, SweepOptions};

const UNSOUND: u8 = 1;
const UNABLE: u8 = 3;

/// What is printed, and whether what it tells of held.
type Told = (String, bool);

fn main() -> ExitCode {
    let options = Options::parse();
    log_to_stderr();
    match dispatch(options) {
        Ok((text, is_sound)) => {
            // A reader that has seen enough (`| head`) is no error.
            let _ = stdout().write_all(text.as_bytes());
            if is_sound { ExitCode::SUCCESS } else { ExitCode::from(UNSOUND) }
        }
        Err(error) => {
            eprintln!("synod-bench: {error:#}");
            ExitCode::from(UNABLE)
        }
    }
}

fn dispatch(options: Options) -> Result<Told> {
    let Options { command, mut cluster, run } = options;
    match command.unwrap_or(Command::Run(run)) {
        Command::Run(run) => {
            let run = run.settled();
            cluster.payload = run.load.size.unwrap_or(cluster.payload);
            let report = run::run(&cluster, &run, &*watch_for_signals()?)?;
            Ok((told(&cluster, &report, report::Report::text)?, report.audit.has_passed()))
        }
        Command::Recovery(sizes) => {
            let report = recovery::run(&cluster, &sizes, &*watch_for_signals()?)?;
            Ok((told(&cluster, &report, recovery::Report::text)?, report.is_sound()))
        }
        Command::Floor(each) => {
            let report = floor::run(&cluster, &each, &*watch_for_signals()?)?;
            Ok((told(&cluster, &report, floor::Report::text)?, true))
        }
        Command::Sweep(sweep) => {
            let sweep = SweepOptions { load: sweep.load.settled(), ..sweep };
            cluster.payload = sweep.load.size.unwrap_or(cluster.payload);
            let report = sweep::run(&cluster, &sweep, &*watch_for_signals()?)?;
            Ok((told(&cluster, &report, sweep::Report::text)?, report.has_passed()))
        }
        Command::Wal(steps) => {
            cluster.payload = steps.size.unwrap_or(cluster.payload);
            let report = wal::run(&cluster, &steps, &*watch_for_signals()?)?;
            Ok((told(&cluster, &report, wal::Report::text)?, report.has_passed()))
        }
        Command::Wake(steps) => {
            cluster.payload = steps.size.unwrap_or(cluster.payload);
            let report = wake::run(&cluster, &steps, &*watch_for_signals()?)?;
            Ok((told(&cluster, &report, wake::Report::text)?, report.has_passed()))
        }
        Command::Compare(files) => {
            let report = compare::run(&files)?;
            Ok((told(&cluster, &report, compare::Report::text)?, report.has_no_regression()))
        }
        Command::Report(files) => Ok((html::run(&files)? + "\n", true)),
        Command::Table(each) => {
            let report = table::run(&cluster, &each, &*watch_for_signals()?)?;
            Ok((told(&cluster, &report, table::Report::text)?, report.is_whole()))
        }
        #[cfg(feature = "peers")]
        Command::Peers(peers) => {
            let report = peers::run(&cluster, &peers, &*watch_for_signals()?)?;
            Ok((told(&cluster, &report, peers::Report::text)?, true))
        }
        Command::Replica => replica::serve().map(|()| (String::new(), true)),
        Command::Clients => clients::serve().map(|()| (String::new(), true)),
    }
}

/// A report in the format that was asked for, and in the file that was named.
fn told<R: Serialize>(options: &ClusterOptions, report: &R, text: impl Fn(&R) -> String) -> Result<String> {
    let json = || serde_json::to_string_pretty(report).expect("a report has no odd keys") + "\n";
    if let Some(path) = &options.json {
        std::fs::write(path, json()).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(match options.format {
        Format::Text => text(report) + "\n",
        Format::Json => json(),
    })
}

fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn,glommio=error"));
    let _ = tracing_log::LogTracer::init();
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).finish();
    let _ = tracing_subscriber::util::SubscriberInitExt::try_init(subscriber);
}

/// Raised by the first signal that asks this program to end.
fn watch_for_signals() -> Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted)).context("taking signals")?;
    }
    Ok(interrupted)
}
