//! Many seeds on all cores, and what they add up to, also over several calls of the program.

use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use synod_simulator::stats::Stats;
use synod_simulator::{Options, Outcome, run, run_twice};

/// One run in so many is repeated, to see that it gives the same trace.
const REPEAT_EVERY: u64 = 100;

/// What to run.
#[derive(Debug)]
pub(crate) struct Soak {
    pub(crate) options: Options,
    /// How many seeds; as many as there is time for if not given.
    pub(crate) seeds: Option<u64>,
    /// How long, if there is a limit.
    pub(crate) time: Option<Duration>,
    /// As many as there are cores if not given.
    pub(crate) threads: Option<usize>,
    /// Go on after a violation.
    pub(crate) keep_going: bool,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Slice {
    /// Every seed below has been run.
    next_seed: u64,
    stats: Stats,
    wall: Duration,
    core: Duration,
    /// The runs that violated something.
    pub(crate) violated: Vec<Outcome>,
}

impl Soak {
    /// Runs seeds from `first` on.
    pub(crate) fn run(&self, first: u64) -> Slice {
        let (started, core_started) = (Instant::now(), core_time());
        let end = self.seeds.map_or(u64::MAX, |seeds| first.saturating_add(seeds));
        let (next, stop) = (AtomicU64::new(first), AtomicBool::new(false));
        let progress = self.progress_bar();
        let total = Mutex::new(Slice::default());
        let work = || {
            let mut stats = Stats::default();
            while !stop.load(Ordering::Relaxed) && self.time.is_none_or(|time| started.elapsed() < time) {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= end {
                    break;
                }
                let options = Options { seed, ..self.options };
                let outcome = if seed.is_multiple_of(REPEAT_EVERY) { run_twice(options) } else { run(options) };
                stats.add(&outcome.stats);
                progress.inc(1);
                if let Some(report) = outcome.report() {
                    progress.suspend(|| println!("{report}"));
                    stop.store(!self.keep_going, Ordering::Relaxed);
                    total.lock().expect("no thread panics while it adds up").violated.push(outcome);
                }
            }
            total.lock().expect("no thread panics while it adds up").stats.add(&stats);
        };
        let threads = self.threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
        thread::scope(|scope| (0..threads.max(1)).for_each(|_| drop(scope.spawn(work))));
        progress.finish_and_clear();
        let mut slice = total.into_inner().expect("no thread panicked");
        slice.next_seed = next.into_inner().min(end);
        slice.wall = started.elapsed();
        slice.core = core_time().saturating_sub(core_started);
        slice
    }

    /// On standard error, and only if that is a terminal.
    fn progress_bar(&self) -> ProgressBar {
        let (bar, template) = match self.seeds {
            Some(seeds) => (ProgressBar::new(seeds), "{wide_bar} {pos} of {len} seeds, {per_sec}, {eta} left"),
            None => (ProgressBar::new_spinner(), "{spinner} {pos} seeds, {per_sec}, {elapsed}"),
        };
        bar.with_style(ProgressStyle::with_template(template).expect("the template is valid"))
    }
}

/// The time that this process has spent on all cores.
fn core_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// What slices add up to; kept in a file, if asked for, so that a long soak can run in pieces.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Totals {
    /// Every seed from the first one on and below this one has been run.
    pub(crate) next_seed: u64,
    wall: Duration,
    core: Duration,
    violations: u64,
    pub(crate) stats: Stats,
}

impl Totals {
    pub(crate) fn starting_at(next_seed: u64) -> Totals {
        Totals { next_seed, ..Totals::default() }
    }

    /// Reads them; all zero if there is no such file.
    pub(crate) fn load(file: &Path) -> Result<Totals, String> {
        if !file.exists() {
            return Ok(Totals::default());
        }
        let text = fs::read_to_string(file).map_err(|error| format!("can't read {}: {error}", file.display()))?;
        serde_json::from_str(&text).map_err(|error| format!("{} isn't a record of a soak: {error}", file.display()))
    }

    /// Writes them, whole or not at all.
    pub(crate) fn save(&self, file: &Path) -> Result<(), String> {
        let text = serde_json::to_string_pretty(self).expect("figures can be written");
        let new = file.with_extension("new");
        let written = fs::write(&new, text + "\n").and_then(|()| fs::rename(&new, file));
        written.map_err(|error| format!("can't write {}: {error}", file.display()))
    }

    pub(crate) fn add(&mut self, slice: &Slice) {
        self.next_seed = slice.next_seed;
        self.wall += slice.wall;
        self.core += slice.core;
        self.violations += slice.violated.len() as u64;
        self.stats.add(&slice.stats);
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stats = &self.stats;
        let per = |count: u64, seconds: f64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        let (wall, core, simulated) = (self.wall.as_secs_f64(), self.core.as_secs_f64(), stats.time.as_secs_f64());
        writeln!(f, "{stats}")?;
        writeln!(
            f,
            "{:.0} seeds a minute; {:.0} times as fast as time, {:.0} times per core; {wall:.1} s of wall time, {:.1} ms \
             of a core a run",
            60.0 * per(stats.runs, wall),
            simulated / wall.max(f64::EPSILON),
            simulated / core.max(f64::EPSILON),
            1000.0 * core / stats.runs.max(1) as f64,
        )?;
        write!(
            f,
            "{:.0} commands decided a second, {:.0} a run; in simulated time: {:.0} crashes an hour, {:.1} faults a \
             second, {:.1} commands a second; {} violations",
            per(stats.commands_chosen, wall),
            stats.commands_chosen as f64 / stats.runs.max(1) as f64,
            3600.0 * per(stats.crashes(), simulated),
            per(stats.faults(), simulated),
            per(stats.commands_submitted, simulated),
            self.violations,
        )
    }
}
