//! `synod-bench wal`: the log of one node alone.
//!
//! A cluster of one: the log, its disk path and its protocol, without any network. The first rows wait for each append before
//! they make the next one, as callers of a log library do; the others show what several of them give.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use serde::Serialize;

use crate::audit::Audit;
use crate::cluster;
use crate::environment::Environment;
use crate::line::Line;
use crate::load::Demand;
use crate::options::{ClusterOptions, Over, StepOptions};
use crate::report::{Settings, ms, thousands};
use crate::rung::Rung;
use crate::session::{Root, Session, settings};

/// Callers, and commands of each of their appends.
const SHAPES: [(u32, u32); 9] =
    [(1, 1), (1, 16), (1, 128), (1, 1024), (16, 1), (256, 1), (4096, 1), (16, 128), (16, 1024)];

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    environment: Environment,
    settings: Settings,
    pub(crate) rows: Vec<Rung>,
    pub(crate) audit: Audit,
}

/// Measures each shape on one node.
///
/// # Errors
/// If the machine lacks something.
pub(crate) fn run(options: &ClusterOptions, wal: &StepOptions, interrupted: &AtomicBool) -> Result<Report> {
    let options = ClusterOptions { replicas: 1, ..options.clone() };
    let load = wal.load(Over::Embedded);
    let root = Root::make(&options, cluster::bytes_needed(&options, load.retention))?;
    let mut line = Line::default();
    let session = Session::open(&options, &load, 4096, root.path(), &mut line)?;
    let mut rows = Vec::new();
    for (in_flight, batch) in SHAPES {
        if interrupted.load(Ordering::Relaxed) {
            break;
        }
        let demand = Demand { in_flight, batch, rate: None, threads: 1 };
        rows.push(Rung::measure(&session, demand, wal.step, interrupted, &mut line)?);
    }
    let audit = session.close(&mut line)?;
    let settings = settings(&options, &load, root.path());
    Ok(Report { environment: Environment::look(root.path()), settings, rows, audit })
}

impl Report {
    pub(crate) fn has_passed(&self) -> bool {
        self.audit.has_passed()
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        self.write(&mut text).expect("writing to a string can't fail");
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        writeln!(
            text,
            "one node alone, commands of {} bytes, {}; a caller waits for each append before it makes the next one",
            self.settings.payload, self.settings.sync
        )?;
        writeln!(
            text,
            "{:>8} {:>8} {:>13} {:>10} {:>11} {:>11} {:>22} {:>9}",
            "callers", "batch", "commits/s", "MB/s", "p50", "p99", "commits/durable write", "CPU us"
        )?;
        for row in &self.rows {
            writeln!(
                text,
                "{:>8} {:>8} {:>13} {:>10.1} {:>11} {:>11} {:>22.1} {:>9.2}",
                row.in_flight_calls,
                row.batch_commands,
                thousands(row.commits_per_second as u64),
                row.log_mb_per_second_per_replica,
                ms(row.latency.p50_us),
                ms(row.latency.p99_us),
                row.commits_per_durable_write,
                row.cpu_us_per_commit
            )?;
        }
        writeln!(text)?;
        self.audit.write(text)?;
        writeln!(text)?;
        write!(text, "{}", self.environment.text(&self.settings.directory))
    }
}
