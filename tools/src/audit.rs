//! `audit`: the invariants of Paxos over the directories of a whole cluster, and what clients were told.

mod acknowledged;
mod report;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use synod_wal::RecoverOptions;
use synod_wal::audit::{AuditLog, audit};

use crate::exit::{self, Exit};
use crate::output::Output;
use crate::progress::Progress;
use crate::source::Source;

use report::{Audited, ViolationRow};

/// Whose directories, and what clients know.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Directories of the nodes of one cluster, best of all members
    #[arg(required = true)]
    directories: Vec<PathBuf>,
    /// What clients were told is chosen: one JSON object a line, `{"slot":7,"bytes":12,"crc32":"0a1b2c3d"}` or
    /// `{"slot":7,"hex":"..."}`; `-` is stdin
    #[arg(long, value_name = "FILE")]
    acknowledged: Option<PathBuf>,
}

/// Whether every rule holds, as far as can be seen.
pub(crate) fn run(options: &Options, output: &mut Output) -> Result<Exit> {
    let acknowledged = match &options.acknowledged {
        Some(path) => acknowledged::read(path)?,
        None => Vec::new(),
    };
    let (mut sources, mut unreadable) = (Vec::new(), Vec::new());
    for path in &options.directories {
        match Source::open(path) {
            Ok(source) => sources.push(source),
            Err(error) => unreadable.push(format!("{error:#}")),
        }
    }
    // Slots of different groups have nothing to do with each other.
    if let Some(first) = sources.first()
        && let Some(other) = sources.iter().find(|source| source.log != first.log)
    {
        let told = format!(
            "{} and {} are logs of different groups: audit each group by itself",
            first.path.display(),
            other.path.display()
        );
        return Err(exit::failure(Exit::Unreadable, told));
    }
    let mut logs = Vec::new();
    let progress = Progress::pieces(sources.len() as u64, "reading logs");
    for source in &sources {
        match read(source) {
            Ok(log) => logs.push(log),
            Err(error) => unreadable.push(format!("{}: {error:#}", source.path.display())),
        }
        progress.advance(1);
    }
    drop(progress);
    for message in &unreadable {
        eprintln!("synod-tools: {message}");
    }
    if logs.is_empty() {
        return Ok(Exit::Unreadable);
    }
    let report = audit(&logs, &acknowledged).map_err(|error| exit::failure(Exit::Unreadable, error.to_string()))?;
    let rows: Vec<ViolationRow> = report.violations.iter().map(ViolationRow::new).collect();
    output.report(&Audited::new(&report, acknowledged.len(), unreadable.clone()), "violations", &rows)?;
    let damaged = report.logs.iter().any(|log| log.damages > 0);
    Ok(match (report.holds(), unreadable.is_empty()) {
        (false, _) => Exit::Damaged,
        (true, false) => Exit::Unreadable,
        (true, true) => Exit::sound(!damaged),
    })
}

fn read(source: &Source) -> Result<AuditLog<'_>> {
    let identity = source.identity.log_identity(source.log).context("not bootstrapped: it has no votes yet")?;
    let options = RecoverOptions { live: source.live, ..RecoverOptions::default() };
    let name = source.path.display().to_string();
    Ok(AuditLog::read(name, &source.store, &identity.expected(), source.geometry.segment_bytes(), options)?)
}
