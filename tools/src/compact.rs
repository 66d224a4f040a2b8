//! `compact`: a node's log without what it doesn't need any more, small bodies packed.

use std::fmt;
use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use synod_wal::directory::{self, CompactError, CompactOptions, CompactProgress, CompactStep, Compacted, OpenError};

use crate::exit::{Exit, failure};
use crate::output::Output;
use crate::progress::Progress;

/// Which directory.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Directory of a node that doesn't run
    directory: PathBuf,
    /// Change nothing, and say what would be saved
    #[arg(long)]
    dry_run: bool,
}

/// What became of a log.
#[derive(Serialize)]
struct Report {
    directory: String,
    log: u32,
    replaced: bool,
    dry_run: bool,
    segment_bytes: u64,
    files_before: u32,
    files_after: u32,
    bytes_before: u64,
    bytes_after: u64,
    segments_before: u32,
    segments_after: u32,
    records_before: u64,
    records_after: u64,
    /// Chosen bodies.
    chosen: u64,
    /// Of these, how many share a record.
    packed: u64,
    packs: u64,
    /// Bodies that are accepted and not known to be chosen.
    accepted: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let became = match (self.replaced, self.dry_run) {
            (true, _) => "became",
            (false, true) => "would become",
            (false, false) => "is left as it is: it would become",
        };
        let saved = 100.0 * (1.0 - self.bytes_after as f64 / self.bytes_before.max(1) as f64);
        writeln!(
            f,
            "{}: {} files, {:.1} MiB, {became} {} files, {:.1} MiB: {saved:.1} % less",
            self.directory,
            self.files_before,
            mib(self.bytes_before),
            self.files_after,
            mib(self.bytes_after),
        )?;
        write!(
            f,
            "{} records in {} segments, {} in {}: {} chosen bodies, {} of them in {} packs, and {} accepted ones",
            self.records_before,
            self.segments_before,
            self.records_after,
            self.segments_after,
            self.chosen,
            self.packed,
            self.packs,
            self.accepted,
        )
    }
}

pub(crate) fn run(options: &Options, output: &mut Output) -> Result<Exit> {
    let mut progress: Option<(Progress, u64)> = None;
    let mut watch = |step: &CompactProgress| {
        if matches!(step.step, CompactStep::Write(_)) {
            let (bar, shown) = progress.get_or_insert_with(|| (Progress::pieces(step.bodies, "bodies"), 0));
            bar.advance(step.bodies_done - *shown);
            *shown = step.bodies_done;
        }
        ControlFlow::Continue(())
    };
    let library = CompactOptions { dry_run: options.dry_run, ..CompactOptions::default() };
    let logs = directory::compact(&options.directory, &library, &mut watch).map_err(explain)?;
    drop(progress);
    for log in &logs {
        output.object(&report(options, log))?;
    }
    Ok(Exit::Well)
}

fn explain(error: CompactError) -> anyhow::Error {
    match error {
        CompactError::Open(OpenError::Locked { .. }) => {
            failure(Exit::Busy, format!("{error}; stop the node first, for its log is replaced as a whole"))
        }
        CompactError::Recover(_) | CompactError::Rewrite(_) | CompactError::Difference(_) => {
            failure(Exit::Damaged, error.to_string())
        }
        other => other.into(),
    }
}

fn report(options: &Options, log: &Compacted) -> Report {
    Report {
        directory: options.directory.display().to_string(),
        log: log.log,
        replaced: log.replaced,
        dry_run: options.dry_run,
        segment_bytes: log.segment_bytes,
        files_before: log.files_before,
        files_after: log.built.files,
        bytes_before: log.bytes_before(),
        bytes_after: log.bytes_after(),
        segments_before: log.segments_before,
        segments_after: log.built.segments,
        records_before: log.records_before,
        records_after: log.built.records,
        chosen: log.built.chosen,
        packed: log.built.packed,
        packs: log.built.packs,
        accepted: log.built.accepted,
    }
}
