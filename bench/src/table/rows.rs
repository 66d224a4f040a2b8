//! The rows of the table, and how each is measured.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{Bar, Row};
use crate::line::Line;
use crate::options::parse::{Fault, Size};
use crate::options::{Arrival, ClusterOptions, LoadOptions, Over, RunOptions, StepOptions, SweepOptions, TableOptions};
use crate::peers::{self, Peer};
use crate::report::{Report, ms};
use crate::session::Root;
use crate::throttle::Throttle;
use crate::{run, sweep, wal};

/// Longest tail of a row that bounds it.
const TAIL_US: u64 = 2000;
/// Callers of the row of single appends.
const CALLERS: u32 = 4096;
/// Callers and commands of a call with which the log alone is held against raft-engine.
const LOG_ALONE: [(u32, u32); 2] = [(1, 1024), (256, 1)];

/// Measures rows, and remembers what several of them need.
pub(super) struct Rows<'a> {
    options: ClusterOptions,
    table: &'a TableOptions,
    interrupted: &'a AtomicBool,
    line: Line,
    begun: Instant,
}

fn rate(value: f64) -> String {
    if value >= 1e6 { format!("{:.2} M/s", value / 1e6) } else { format!("{:.0} k/s", value / 1e3) }
}

fn percent(value: f64) -> String {
    format!("{:.0} %", value * 100.0)
}

fn times(value: f64) -> String {
    // As it stands where nothing was seen.
    if value == f64::MAX { "nothing".to_owned() } else { format!("{value:.2} x") }
}

impl<'a> Rows<'a> {
    pub(super) fn new(options: &ClusterOptions, table: &'a TableOptions, interrupted: &'a AtomicBool) -> Rows<'a> {
        // Every run writes its files once before: half the files, half the wait.
        let segment = if table.short { options.segment.min(32 << 20) } else { options.segment };
        let options = ClusterOptions { segment, ..options.clone() };
        Rows { options, table, interrupted, line: Line::default(), begun: Instant::now() }
    }

    pub(super) fn all(&mut self) -> Result<Vec<Row>> {
        type Measure<'b> = fn(&mut Rows<'b>) -> Result<Row>;
        let known: [(&str, Measure<'a>); 14] = [
            ("16B", Rows::small),
            ("64B", Rows::middle),
            ("128B", Rows::bounded_tail),
            ("4KiB", Rows::large),
            ("single", |rows| rows.single_appends(Over::Embedded)),
            ("idle", Rows::idle),
            ("tcp", Rows::over_tcp),
            ("single-tcp", |rows| rows.single_appends(Over::Tcp)),
            ("wal", Rows::log_alone),
            ("growth", Rows::growth),
            ("tail", Rows::tail_under_load),
            ("dead-follower", |rows| rows.broken_follower("kill-follower")),
            ("paused-follower", |rows| rows.broken_follower("pause-follower")),
            ("slow-follower", |rows| rows.broken_follower("slow-disk-follower")),
        ];
        let names = || known.iter().map(|(name, _)| *name);
        for wanted in &self.table.rows {
            ensure!(
                names().any(|name| name == wanted),
                "no row '{wanted}': {}",
                names().collect::<Vec<_>>().join(", ")
            );
        }
        let mut rows = Vec::new();
        for (name, measure) in known {
            if self.table.rows.is_empty() || self.table.rows.iter().any(|wanted| wanted == name) {
                match measure(self) {
                    Ok(row) => rows.push(row),
                    // Those that are whole are worth showing.
                    Err(_) if self.interrupted.load(Ordering::Relaxed) && !rows.is_empty() => break,
                    Err(error) => return Err(error),
                }
            }
        }
        self.line.clear();
        Ok(rows)
    }

    fn options(&self, size: u32, batch: u32, in_flight: u32) -> ClusterOptions {
        ClusterOptions { payload: Size::Fixed(size), batch, in_flight, ..self.options.clone() }
    }

    fn load(&self, size: u32, over: Over) -> LoadOptions {
        LoadOptions {
            size: Some(Size::Fixed(size)),
            clients: 1,
            threads: 1,
            over,
            processes: false,
            switches: false,
            warm_up: Duration::from_secs(1).min(self.table.duration()),
            retention: self.table.retention(),
        }
    }

    fn measure(&mut self, what: &str, options: &ClusterOptions, load: LoadOptions, floor: bool) -> Result<Report> {
        self.measure_faults(what, options, load, floor, Vec::new(), self.table.duration())
    }

    fn measure_faults(
        &mut self,
        what: &str,
        options: &ClusterOptions,
        load: LoadOptions,
        floor: bool,
        faults: Vec<Fault>,
        duration: Duration,
    ) -> Result<Report> {
        self.announce(what)?;
        let run = RunOptions {
            load,
            rate: None,
            arrival: Arrival::Uniform,
            duration,
            latency: Duration::ZERO,
            faults,
            floor,
            hgrm: None,
        };
        let report = run::run(options, &run.settled(), self.interrupted)?;
        ensure!(report.audit.has_passed(), "the audit failed ({what}): {}", report.audit.failures.join("; "));
        Ok(report)
    }

    fn announce(&mut self, what: &str) -> Result<()> {
        ensure!(!self.interrupted.load(Ordering::Relaxed), "interrupted");
        // On a line of its own: the runs have theirs.
        self.line.clear();
        eprintln!("{:>4} s  {what}", self.begun.elapsed().as_secs());
        Ok(())
    }

    fn peer(&mut self, size: u32, window: u32) -> Result<Peer> {
        self.announce("OmniPaxos")?;
        peers::omnipaxos(&self.options, size, window, self.table.duration())
    }

    /// Batched, 16 bytes.
    fn small(&mut self) -> Result<Row> {
        let peer = self.peer(16, 4096)?;
        let report = self.measure("batched, 16 B", &self.options(16, 2000, 96), self.load(16, Over::Embedded), true)?;
        let (found, share) = figures(&report);
        Ok(Row {
            what: "batched, 16 B".to_owned(),
            here: here(&report),
            bars: vec![
                Bar::at_least(&peer.named("2.5 x"), 2.5 * peer.commits_per_second, found, rate),
                Bar::at_least("commits", 15e6, found, rate).aim(),
                Bar::at_least("share of the bare pipeline", 0.85, share, percent).aim(),
            ],
        })
    }

    /// Batched, 64 bytes.
    fn middle(&mut self) -> Result<Row> {
        let peer = self.peer(64, 4096)?;
        let report = self.measure("batched, 64 B", &self.options(64, 500, 96), self.load(64, Over::Embedded), true)?;
        let (found, share) = figures(&report);
        Ok(Row {
            what: "batched, 64 B".to_owned(),
            here: here(&report),
            bars: vec![
                Bar::at_least(&peer.named("2.2 x"), 2.2 * peer.commits_per_second, found, rate),
                Bar::at_least("share of the bare pipeline", 0.6, share, percent),
                Bar::at_least("share of the bare pipeline", 0.85, share, percent).aim(),
            ],
        })
    }

    /// Batched, 128 bytes, with as much in flight as the tail allows.
    fn bounded_tail(&mut self) -> Result<Row> {
        let (bounded, any) = (self.peer(128, 1024)?, self.peer(128, 16_384)?);
        let mut best: Option<Report> = None;
        let mut most = 0.0;
        let ladder: &[u32] = if self.table.short { &[16, 32, 96] } else { &[8, 16, 24, 32, 48, 96] };
        for in_flight in ladder.iter().copied() {
            let what = format!("batched, 128 B, {in_flight} in flight");
            let report =
                self.measure(&what, &self.options(128, 250, in_flight), self.load(128, Over::Embedded), true)?;
            let found = report.load.commits_per_second;
            most = f64::max(most, found);
            let fits = report.load.append_latency.p99_us <= TAIL_US;
            if fits && best.as_ref().is_none_or(|best| found > best.load.commits_per_second) {
                best = Some(report);
            }
        }
        let what = format!("batched, 128 B, p99 <= {}", ms(TAIL_US));
        let (here, found, share) = match &best {
            Some(report) => (here(report), report.load.commits_per_second, figures(report).1),
            None => ("no load had such a tail".to_owned(), 0.0, 0.0),
        };
        Ok(Row {
            what,
            here,
            bars: vec![
                Bar::at_least(&bounded.named("2.5 x"), 2.5 * bounded.commits_per_second, found, rate),
                Bar::at_least(&any.named("at any latency, 1.5 x"), 1.5 * any.commits_per_second, most, rate),
                Bar::at_least("share of the bare pipeline", 0.85, share, percent).aim(),
            ],
        })
    }

    /// Batched, 4 KiB.
    fn large(&mut self) -> Result<Row> {
        let report =
            self.measure("batched, 4 KiB", &self.options(4096, 16, 48), self.load(4096, Over::Embedded), true)?;
        let (_, share) = figures(&report);
        Ok(Row {
            what: "batched, 4 KiB".to_owned(),
            here: format!("{}, {:.0} MB/s", here(&report), report.load.payload_mb_per_second),
            bars: vec![
                Bar::at_least("share of the bare pipeline in bytes", 0.6, share, percent),
                Bar::at_least("share of the bare pipeline in bytes", 0.85, share, percent).aim(),
            ],
        })
    }

    /// One command a call, from many callers.
    fn single_appends(&mut self, over: Over) -> Result<Row> {
        let (asked, aim, place) = match over {
            Over::Embedded => (1e6, 2e6, "embedded"),
            Over::Tcp => (4e5, 1e6, "over TCP from a client process"),
        };
        let what = format!("single appends, {CALLERS} callers, 128 B, {place}");
        let demand = LoadOptions { clients: CALLERS, ..self.load(128, over) };
        let report = self.measure(&what, &self.options(128, 1, 1), demand, false)?;
        let found = report.load.commits_per_second;
        let bars = vec![Bar::at_least("commits", asked, found, rate), Bar::at_least("commits", aim, found, rate).aim()];
        Ok(Row { what, here: here(&report), bars })
    }

    /// One caller, one append at a time, in turns with single frames of the bare pipeline.
    fn idle(&mut self) -> Result<Row> {
        self.announce("one at a time")?;
        let run = RunOptions {
            load: self.load(128, Over::Embedded),
            rate: None,
            arrival: Arrival::Uniform,
            duration: Duration::from_secs(1).min(self.table.duration()),
            latency: self.table.duration(),
            faults: Vec::new(),
            floor: true,
            hgrm: None,
        };
        let report = run::run(&self.options(128, 1, 1), &run.settled(), self.interrupted)?;
        ensure!(report.audit.has_passed(), "the audit failed: {}", report.audit.failures.join("; "));
        let single = report.single.as_ref();
        let latency = single.map_or(0, |single| single.latency.p50_us);
        let frame = single.and_then(|single| single.bare_frame).map_or(0, |frame| frame.p50_us);
        let found = latency as f64 / (frame as f64).max(1.0);
        Ok(Row {
            what: "one caller, one append at a time".to_owned(),
            here: format!("p50 {}; the bare pipeline {}", ms(latency), ms(frame)),
            bars: vec![
                Bar::at_most("p50 as a multiple of the bare pipeline's", 1.5, found, times),
                Bar::at_most("p50 as a multiple of the bare pipeline's", 1.2, found, times).aim(),
            ],
        })
    }

    /// Batched, from a client process.
    fn over_tcp(&mut self) -> Result<Row> {
        let what = "batched, 64 B, embedded";
        let embedded = self.measure(what, &self.options(64, 500, 96), self.load(64, Over::Embedded), false)?;
        let embedded = embedded.load.commits_per_second;
        let report =
            self.measure("batched, 64 B, over TCP", &self.options(64, 500, 96), self.load(64, Over::Tcp), false)?;
        let share = report.load.commits_per_second / embedded.max(1.0);
        Ok(Row {
            what: "batched, 64 B, over TCP from a client process".to_owned(),
            here: format!("{}; embedded {}", here(&report), rate(embedded)),
            bars: vec![
                Bar::at_least("share of the embedded figure", 0.7, share, percent),
                Bar::at_least("share of the embedded figure", 0.9, share, percent).aim(),
            ],
        })
    }

    /// One node alone.
    fn log_alone(&mut self) -> Result<Row> {
        self.announce("the log alone")?;
        let step = (self.table.duration() / 2).max(Duration::from_millis(50));
        let steps = StepOptions { size: Some(Size::Fixed(128)), step, retention: self.table.retention() };
        let report = wal::run(&self.options(128, 1, 1), &steps, self.interrupted)?;
        ensure!(report.has_passed(), "the audit of the log alone failed");
        let mut bars = Vec::new();
        let mut here = Vec::new();
        for (callers, batch) in LOG_ALONE {
            let peer = peers::raft_engine(&self.options, callers, batch, step)?;
            let row = report.rows.iter().find(|row| (row.in_flight_calls, row.batch_commands) == (callers, batch));
            let found = row.map_or(0.0, |row| row.commits_per_second);
            here.push(format!("{callers} x {batch}: {}", rate(found)));
            let named = format!("{callers} x {batch}: {}", peer.named(""));
            bars.push(Bar::at_least(&named, peer.commits_per_second, found, rate));
            let named = format!("{callers} x {batch}: {}", peer.named("3 x"));
            bars.push(Bar::at_least(&named, 3.0 * peer.commits_per_second, found, rate).aim());
        }
        Ok(Row { what: "log alone, 128 B, callers x batch".to_owned(), here: here.join("; "), bars })
    }

    /// The last seconds of a long run beside its first.
    fn growth(&mut self) -> Result<Row> {
        let options = self.options(64, 500, 96);
        let memory_before = resident_mib();
        let report = self.measure_faults(
            "growth",
            &options,
            self.load(64, Over::Embedded),
            false,
            Vec::new(),
            self.table.duration() * 4,
        )?;
        let rates: Vec<f64> =
            report.timeline.iter().filter(|point| point.counts).map(|point| point.commits_per_second).collect();
        let part = (rates.len() / 4).max(1);
        let mean = |rates: &[f64]| rates.iter().sum::<f64>() / (rates.len() as f64).max(1.0);
        let (first, last) = (mean(&rates[..part.min(rates.len())]), mean(&rates[rates.len().saturating_sub(part)..]));
        let gib = report.load.log_mb_per_second_per_replica * report.load.seconds * 1e6 / f64::from(1 << 30);
        Ok(Row {
            what: format!("cost growth over {gib:.1} GiB a replica"),
            here: format!(
                "first quarter {}, last {}; memory {} MiB before, {} MiB after",
                rate(first),
                rate(last),
                memory_before,
                resident_mib()
            ),
            bars: vec![Bar::at_least("last quarter as a share of the first", 0.9, last / first.max(1.0), percent)],
        })
    }

    /// The tail at 70 % of the peak.
    fn tail_under_load(&mut self) -> Result<Row> {
        self.announce("sweep")?;
        let options = self.options(128, 250, 96);
        let step = (self.table.duration() / 2).max(Duration::from_millis(50));
        let demand = SweepOptions { load: self.load(128, Over::Embedded), step, in_flight_max: 128 };
        let report = sweep::run(&options, &demand, self.interrupted)?;
        ensure!(report.has_passed(), "the audit of the sweep failed");
        let tail = report.tail_at_70_percent.unwrap_or(f64::MAX);
        let peak = report.closed[report.peak].commits_per_second;
        Ok(Row {
            what: "p99 at 70 % of the peak".to_owned(),
            here: format!("peak {}, idle p50 {}", rate(peak), ms(report.idle.latency.p50_us)),
            bars: vec![
                Bar::at_most("p99 as a multiple of the idle p50", 5.0, tail, times),
                Bar::at_most("p99 as a multiple of the idle p50", 3.0, tail, times).aim(),
            ],
        })
    }

    /// One follower doesn't take part.
    fn broken_follower(&mut self, fault: &str) -> Result<Row> {
        let (at, whole) = (self.table.duration(), self.table.duration() * 2);
        if let Some(Err(why)) = (fault == "slow-disk-follower").then(|| self.can_slow_down()) {
            return Ok(Row { what: fault.to_owned(), here: format!("not measured: {why:#}"), bars: Vec::new() });
        }
        let fault = format!("{fault}@{}s", at.as_secs_f64());
        let faults = vec![fault.parse().expect("a fault")];
        let demand = LoadOptions { processes: true, ..self.load(128, Over::Tcp) };
        let report = self.measure_faults(&fault, &self.options(128, 250, 32), demand, false, faults, whole)?;
        let spans = report.faults.first().and_then(|outcome| outcome.before.zip(outcome.during));
        let (throughput, tail, here) =
            spans.map_or((0.0, f64::MAX, "nothing was seen".to_owned()), |(before, during)| {
                (
                    during.commits_per_second / before.commits_per_second.max(1.0),
                    during.p99_us as f64 / (before.p99_us as f64).max(1.0),
                    format!(
                        "{} and p99 {} before, {} and p99 {} then",
                        rate(before.commits_per_second),
                        ms(before.p99_us),
                        rate(during.commits_per_second),
                        ms(during.p99_us)
                    ),
                )
            });
        Ok(Row {
            what: fault.split('@').next().unwrap_or_default().to_owned(),
            here,
            bars: vec![
                Bar::at_least("commits as a share of the healthy three's", 0.9, throughput, percent),
                Bar::at_most("p99 as a multiple of theirs", 2.0, tail, times),
            ],
        })
    }
}

impl Rows<'_> {
    /// Whether a disk can be slowed where the replicas would be.
    fn can_slow_down(&self) -> Result<()> {
        let root = Root::make(&self.options, 0)?;
        Throttle::probe(root.path())
    }
}

/// Commits a second, and their share of the bare pipeline.
fn figures(report: &Report) -> (f64, f64) {
    (report.load.commits_per_second, report.pipeline.as_ref().map_or(0.0, |pipeline| pipeline.share))
}

fn here(report: &Report) -> String {
    let latency = &report.load.append_latency;
    let mut text =
        format!("{}, p50 {}, p99 {}", rate(report.load.commits_per_second), ms(latency.p50_us), ms(latency.p99_us));
    if let Some(pipeline) = &report.pipeline {
        text += &format!("; bare pipeline {}", rate(pipeline.bare.commands_per_second));
    }
    text
}

/// Memory of this process.
fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) >> 10
}
