//! `synod-simulator`: runs seeds, prints what goes wrong and one command that shows it again.

mod soak;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use synod_simulator::{
    FaultKind, Narrowing, Options, Outcome, Plant, Property, Scenario, run, run_twice, shrink::shrink,
};

use soak::{Soak, Totals};

/// Runs Synod's protocol and log under simulated faults, each run from one seed. Exits with 1 if anything is violated.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Run so many seeds
    #[arg(long, default_value_t = 100, value_name = "N")]
    seeds: u64,

    /// The first of them
    #[arg(long, default_value_t = 0, value_name = "SEED")]
    first_seed: u64,

    /// Run seeds for so long, however many these are
    #[arg(long, conflicts_with_all = ["seeds", "seed"])]
    minutes: Option<u64>,

    /// Go on after the seeds that this file names, and keep there how far this run came and what it all added up to
    #[arg(long, value_name = "FILE", conflicts_with_all = ["first_seed", "seed"])]
    resume: Option<PathBuf>,

    /// Run this seed, twice, to see that both runs are the same
    #[arg(long, conflicts_with_all = ["seeds", "first_seed"])]
    seed: Option<u64>,

    /// Print every event of the run
    #[arg(long)]
    trace: bool,

    /// Look for a smaller case of what is violated
    #[arg(long)]
    shrink: bool,

    /// Play this scenario file instead, and print what comes of it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["minutes", "resume", "plant", "only", "nodes", "shrink"])]
    scenario: Option<PathBuf>,

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

    /// Leave this kind of fault out; may be given more than once
    #[arg(long, value_name = "KIND")]
    without: Vec<FaultKind>,

    /// End the faults after so many milliseconds of virtual time
    #[arg(long, value_name = "MS")]
    faulty_time: Option<u64>,

    /// End each run after so many events
    #[arg(long, value_name = "N")]
    events: Option<u64>,

    /// Let clients hand in so many commands at least, instead of a thousand
    #[arg(long, value_name = "N")]
    commands: Option<u64>,

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

impl Arguments {
    fn options(&self) -> Options {
        let narrowing = Narrowing {
            faulty_time: self.faulty_time.map(Duration::from_millis),
            events: self.events,
            commands: self.commands,
            ..Narrowing::default()
        };
        Options {
            seed: self.seed.unwrap_or(self.first_seed),
            nodes: self.nodes.map(usize::from),
            plant: self.plant,
            only: self.only,
            trace: self.trace && self.seed.is_some() && !self.shrink,
            mild: self.mild,
            narrowing: self.without.iter().fold(narrowing, |narrowing, kind| narrowing.without(*kind)),
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match (&arguments.scenario, arguments.seed) {
        (Some(path), seed) => play(path, seed, arguments.trace),
        (None, Some(_)) => Ok(run_one(&arguments)),
        (None, None) => run_many(&arguments),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

/// Plays a scenario file; whether what it expects is what came of it.
fn play(path: &PathBuf, seed: Option<u64>, trace: bool) -> Result<bool, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("can't read {}: {error}", path.display()))?;
    let mut scenario = Scenario::parse(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    if let Some(seed) = seed {
        scenario.play_only(seed);
    }
    let played = scenario.play(trace);
    print!("{}", played.text());
    eprint!("{}", played.figures());
    Ok(played.text() == scenario.text())
}

/// Runs one seed; whether it holds every property.
fn run_one(arguments: &Arguments) -> bool {
    let outcome = run_twice(arguments.options());
    println!("trace {:016x}", outcome.trace_hash);
    let holds = print_violation(&outcome);
    if arguments.coverage {
        print!("{}", outcome.stats.coverage);
    }
    println!("{}", outcome.stats);
    if !holds && arguments.shrink {
        print_smaller(&outcome);
    }
    holds
}

/// Runs many seeds; whether all of them hold every property.
fn run_many(arguments: &Arguments) -> Result<bool, String> {
    let mut totals = match &arguments.resume {
        Some(file) => Totals::load(file)?,
        None => Totals::starting_at(arguments.first_seed),
    };
    let soak = Soak {
        options: arguments.options(),
        seeds: arguments.minutes.is_none().then_some(arguments.seeds),
        time: arguments.minutes.map(|minutes| Duration::from_secs(60 * minutes)),
        threads: arguments.threads,
        keep_going: arguments.keep_going,
    };
    let slice = soak.run(totals.next_seed);
    totals.add(&slice);
    if let Some(file) = &arguments.resume {
        totals.save(file)?;
    }
    if arguments.coverage {
        print!("{}", totals.stats.coverage);
    }
    println!("{totals}");
    if let Some(outcome) = slice.violated.first().filter(|_| arguments.shrink) {
        print_smaller(outcome);
    }
    Ok(slice.violated.is_empty())
}

/// Prints what an outcome violates; whether that is nothing.
fn print_violation(outcome: &Outcome) -> bool {
    let report = outcome.report();
    if let Some(report) = &report {
        println!("{report}");
    }
    report.is_none()
}

fn print_smaller(outcome: &Outcome) {
    let smaller = shrink(outcome, run);
    println!(
        "a smaller case, {} events in {:.3} s instead of {} in {:.3} s:",
        smaller.stats.events,
        smaller.elapsed.as_secs_f64(),
        outcome.stats.events,
        outcome.elapsed.as_secs_f64()
    );
    print_violation(&smaller);
}
