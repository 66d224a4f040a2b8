//! `synod-simulator`: runs seeds, prints what goes wrong and one command that shows it again.

use std::ops::Range;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use clap::Parser;
use synod_simulator::stats::Stats;
use synod_simulator::{Options, Outcome, Plant, Property, run, run_twice};

/// One run in so many is repeated, to see that it gives the same trace.
const REPEAT_EVERY: u64 = 100;

/// Runs Synod's protocol and log under simulated faults, each run from one seed. Exits with 1 if anything is violated.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Run this seed, twice, to see that both runs are the same
    #[arg(long, conflicts_with_all = ["seeds", "count"])]
    seed: Option<u64>,

    /// Run these seeds: FIRST..END, without END
    #[arg(long, conflicts_with = "count", value_name = "FIRST..END")]
    seeds: Option<Seeds>,

    /// Run this many seeds, from 0 on
    #[arg(long, default_value_t = 100)]
    count: u64,

    /// Print every event of the run
    #[arg(long, requires = "seed")]
    trace: bool,

    /// Plant this bug
    #[arg(long)]
    plant: Option<Plant>,

    /// Look for violations of this property only
    #[arg(long)]
    only: Option<Property>,

    /// Run so many nodes instead of what the seed draws: 1 to 9
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=9))]
    nodes: Option<u8>,

    /// Majority quorums, sound disks, careful operators and steady clocks, whatever the seed draws
    #[arg(long)]
    mild: bool,

    /// Threads; as many as there are cores if not given
    #[arg(long)]
    threads: Option<usize>,

    /// Print how often what was reached
    #[arg(long)]
    coverage: bool,

    /// Go on after a violation
    #[arg(long)]
    keep_going: bool,
}

#[derive(Clone, Debug)]
struct Seeds(Range<u64>);

impl FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Seeds, String> {
        let bounds = text.split_once("..").and_then(|(first, end)| Some((first.parse().ok()?, end.parse().ok()?)));
        match bounds {
            Some((first, end)) if first < end => Ok(Seeds(first..end)),
            _ => Err("expected FIRST..END with FIRST below END, like 0..1000".into()),
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let options = Options {
        seed: 0,
        nodes: arguments.nodes.map(usize::from),
        plant: arguments.plant,
        only: arguments.only,
        trace: arguments.trace,
        mild: arguments.mild,
        ..Options::default()
    };
    let started = Instant::now();
    let (stats, violated) = match arguments.seed {
        Some(seed) => {
            let outcome = run_twice(Options { seed, ..options });
            println!("trace {:016x}", outcome.trace_hash);
            let violated = print_violation(&outcome);
            (outcome.stats, violated)
        }
        None => {
            let seeds = arguments.seeds.map_or(0..arguments.count, |seeds| seeds.0);
            let threads = arguments.threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
            run_seeds(seeds, options, threads.max(1), arguments.keep_going)
        }
    };
    let seconds = started.elapsed().as_secs_f64();
    if arguments.coverage {
        print!("{}", stats.coverage);
    }
    println!("{stats}");
    println!(
        "{seconds:.1} s of wall time, {:.1} ms a run, {:.0} times as fast as time",
        1000.0 * seconds / stats.runs.max(1) as f64,
        stats.time.as_secs_f64() / seconds
    );
    if violated { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn run_seeds(seeds: Range<u64>, options: Options, threads: usize, keep_going: bool) -> (Stats, bool) {
    let next = AtomicU64::new(seeds.start);
    let stop = AtomicBool::new(false);
    let violated = AtomicBool::new(false);
    let total = Mutex::new(Stats::default());
    let work = || {
        let mut stats = Stats::default();
        while !stop.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                break;
            }
            let options = Options { seed, ..options };
            let outcome = if seed.is_multiple_of(REPEAT_EVERY) { run_twice(options) } else { run(options) };
            stats.add(&outcome.stats);
            if print_violation(&outcome) {
                violated.store(true, Ordering::Relaxed);
                stop.store(!keep_going, Ordering::Relaxed);
            }
        }
        total.lock().expect("no thread panics while it adds up").add(&stats);
    };
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    (total.into_inner().expect("no thread panicked"), violated.into_inner())
}

fn print_violation(outcome: &Outcome) -> bool {
    let report = outcome.report();
    if let Some(report) = &report {
        println!("{report}");
    }
    report.is_some()
}
