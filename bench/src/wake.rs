//! `synod-bench wake`: from another thread to the shard and back.
//!
//! The question is one that the shard answers at once, from memory: what is measured is the way there and back, with the
//! shard asleep and with the shard busy.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use hdrhistogram::Histogram;
use serde::Serialize;
use synod_protocol::Slot;

use crate::audit::Audit;
use crate::cluster::{self, Member};
use crate::environment::Environment;
use crate::line::Line;
use crate::load::Demand;
use crate::options::{ClusterOptions, Over, StepOptions};
use crate::recorder::Recorder;
use crate::report::thousands;
use crate::session::{Root, Session};

/// So that a shard is asleep when the next question comes.
const REST: Duration = Duration::from_millis(1);

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    environment: Environment,
    directory: String,
    rows: Vec<Row>,
    pub(crate) audit: Audit,
}

#[derive(Clone, Debug, Serialize)]
struct Row {
    shard: &'static str,
    questions: u64,
    p50_ns: u64,
    p99_ns: u64,
    max_ns: u64,
}

/// Asks the leader's shard, asleep and busy.
///
/// # Errors
/// If the machine lacks something.
pub(crate) fn run(options: &ClusterOptions, wake: &StepOptions, interrupted: &AtomicBool) -> Result<Report> {
    let load = wake.load(Over::Embedded);
    let root = Root::make(options, cluster::bytes_needed(options, load.retention))?;
    let mut line = Line::default();
    let session = Session::open(options, &load, options.in_flight, root.path(), &mut line)?;
    let leads = |member: &&Member| member.state().is_some_and(|state| state.leads);
    let leader = session.members.iter().find(leads).unwrap_or(&session.members[0]);
    let mut rows = Vec::new();
    for (shard, rest) in [("asleep", REST), ("awake", Duration::ZERO)] {
        line.show(&format!("asking the shard, {shard}"));
        rows.push(ask(leader, shard, rest, wake.step, interrupted));
    }
    let recorder = Arc::new(Recorder::new(wake.step));
    let demand = Demand { in_flight: options.in_flight, batch: options.batch, rate: None, threads: 1 };
    let busy = session.load(demand, &recorder)?;
    line.show("asking the shard, under load");
    rows.push(ask(leader, "under load", Duration::ZERO, wake.step, interrupted));
    busy.stop()?;
    let audit = session.close(&mut line)?;
    let directory = root.path().display().to_string();
    Ok(Report { environment: Environment::look(root.path()), directory, rows, audit })
}

fn ask(leader: &Member, shard: &'static str, rest: Duration, step: Duration, interrupted: &AtomicBool) -> Row {
    let mut latency_ns = Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3).expect("constant bounds are sound");
    let begun = Instant::now();
    while begun.elapsed() < step && !interrupted.load(Ordering::Relaxed) {
        if !rest.is_zero() {
            std::thread::sleep(rest);
        }
        let asked_at = Instant::now();
        std::hint::black_box(leader.mark_at(Slot::FIRST));
        latency_ns.saturating_record(asked_at.elapsed().as_nanos() as u64);
    }
    Row {
        shard,
        questions: latency_ns.len(),
        p50_ns: latency_ns.value_at_quantile(0.5),
        p99_ns: latency_ns.value_at_quantile(0.99),
        max_ns: latency_ns.max(),
    }
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
        writeln!(text, "from another thread to the leader's shard and back")?;
        writeln!(text, "{:>12} {:>12} {:>12} {:>12} {:>12}", "shard", "questions", "p50", "p99", "max")?;
        let us = |ns: u64| format!("{:.1} us", ns as f64 / 1e3);
        for row in &self.rows {
            writeln!(
                text,
                "{:>12} {:>12} {:>12} {:>12} {:>12}",
                row.shard,
                thousands(row.questions),
                us(row.p50_ns),
                us(row.p99_ns),
                us(row.max_ns)
            )?;
        }
        writeln!(text)?;
        self.audit.write(text)?;
        writeln!(text)?;
        write!(text, "{}", self.environment.text(&self.directory))
    }
}
