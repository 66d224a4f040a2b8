//! `synod-bench sweep`: throughput and latency by load, and where the knee is.
//!
//! Two ladders on one cluster. The closed one doubles what is in flight; its best rung is the peak. The open one then asks
//! for shares of that peak, on schedule: there latency is what a caller would feel who doesn't wait for others.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::audit::Audit;
use crate::cluster;
use crate::environment::Environment;
use crate::line::Line;
use crate::load::Demand;
use crate::options::{Arrival, ClusterOptions, SweepOptions};
use crate::report::{Settings, ms, thousands};
use crate::rung::Rung;
use crate::schedule::Rate;
use crate::session::{Root, Session, settings};

/// Of the peak, asked for on schedule.
const SHARES: [f64; 6] = [0.1, 0.3, 0.5, 0.7, 0.8, 0.9];
/// The share whose tail is held against an idle cluster.
const SHARE_HELD: f64 = 0.7;

/// What came of a sweep.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    environment: Environment,
    pub(crate) settings: Settings,
    /// One command at a time.
    pub(crate) idle: Rung,
    pub(crate) closed: Vec<Rung>,
    pub(crate) open: Vec<Rung>,
    /// The place of the knee in the closed ladder: the most throughput for its mean latency.
    pub(crate) knee: usize,
    /// The place of the most throughput there.
    pub(crate) peak: usize,
    /// The p99 at 70 % of the peak, as a multiple of the p50 of an idle cluster.
    pub(crate) tail_at_70_percent: Option<f64>,
    pub(crate) audit: Audit,
}

/// Measures both ladders.
///
/// # Errors
/// If the machine lacks something, or it was interrupted before the peak was known.
pub(crate) fn run(options: &ClusterOptions, sweep: &SweepOptions, interrupted: &AtomicBool) -> Result<Report> {
    let root = Root::make(options, cluster::bytes_needed(options, sweep.load.retention))?;
    let mut line = Line::default();
    let in_flight_max = sweep.in_flight_max;
    let session = Session::open(options, &sweep.load, in_flight_max, root.path(), &mut line)?;
    let mut measure = |demand: Demand| Rung::measure(&session, demand, sweep.step, interrupted, &mut line);
    let one = Demand { in_flight: 1, batch: 1, rate: None, threads: 1 };
    // The first load of a process meets memory that was never touched.
    measure(Demand { in_flight: in_flight_max.min(64), batch: options.batch, ..one })?;
    let idle = measure(one)?;
    let mut closed = Vec::new();
    for in_flight in rungs(in_flight_max) {
        if interrupted.load(Ordering::Relaxed) {
            break;
        }
        closed.push(measure(Demand { in_flight, batch: options.batch, threads: sweep.load.threads, ..one })?);
    }
    ensure!(!closed.is_empty(), "interrupted");
    let peak = best(&closed, |rung| rung.commits_per_second);
    let knee = best(&closed, |rung| rung.commits_per_second / rung.latency.mean_us.max(1.0));
    let mut open = Vec::new();
    for share in SHARES {
        if interrupted.load(Ordering::Relaxed) {
            break;
        }
        let calls_per_second = closed[peak].commits_per_second * share / f64::from(options.batch);
        let rate = Some(Rate { calls_per_second, arrival: Arrival::Uniform });
        open.push(measure(Demand { in_flight: 4 * in_flight_max, batch: options.batch, rate, threads: 1 })?);
    }
    let held = SHARES.iter().position(|share| *share == SHARE_HELD).and_then(|place| open.get(place));
    let tail_at_70_percent = held.map(|rung| rung.latency.p99_us as f64 / (idle.latency.p50_us as f64).max(1.0));
    let audit = session.close(&mut line)?;
    let settings = settings(options, &sweep.load, root.path());
    let environment = Environment::look(root.path());
    Ok(Report { environment, settings, idle, closed, open, knee, peak, tail_at_70_percent, audit })
}

/// Powers of two.
fn rungs(max: u32) -> impl Iterator<Item = u32> {
    std::iter::successors(Some(1_u32), |rung| rung.checked_mul(2)).take_while(move |rung| *rung <= max)
}

fn best(rungs: &[Rung], by: impl Fn(&Rung) -> f64) -> usize {
    let places = 0..rungs.len();
    places.max_by(|a, b| by(&rungs[*a]).total_cmp(&by(&rungs[*b]))).expect("a ladder has rungs")
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
            "{:>10} {:>8} {:>13} {:>13} {:>11} {:>11} {:>11} {:>9}",
            "in flight", "a call", "asked for /s", "commits/s", "p50", "p99", "p99.9", "CPU us"
        )?;
        let mut row = |rung: &Rung, note: &str| {
            writeln!(
                text,
                "{:>10} {:>8} {:>13} {:>13} {:>11} {:>11} {:>11} {:>9.2}  {note}",
                rung.in_flight_calls,
                rung.batch_commands,
                rung.commands_per_second.map_or_else(|| "-".to_owned(), |rate| thousands(rate as u64)),
                thousands(rung.commits_per_second as u64),
                ms(rung.latency.p50_us),
                ms(rung.latency.p99_us),
                ms(rung.latency.p999_us),
                rung.cpu_us_per_commit
            )
        };
        row(&self.idle, "idle")?;
        for (place, rung) in self.closed.iter().enumerate() {
            let note = match (place == self.knee, place == self.peak) {
                (true, true) => "knee and peak",
                (true, false) => "knee",
                (false, true) => "peak",
                (false, false) => "",
            };
            row(rung, note)?;
        }
        for rung in &self.open {
            row(rung, "open loop")?;
        }
        writeln!(text)?;
        writeln!(
            text,
            "knee              the most commits/s for their mean latency; commands of {} bytes",
            self.settings.payload
        )?;
        if let Some(tail) = self.tail_at_70_percent {
            writeln!(text, "at 70 % of peak   p99 is {tail:.1} times the p50 of an idle cluster")?;
        }
        writeln!(text)?;
        self.audit.write(text)?;
        writeln!(text)?;
        write!(text, "{}", self.environment.text(&self.settings.directory))
    }
}
