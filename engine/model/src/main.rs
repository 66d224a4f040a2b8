//! `synod-model`: explores a model, and prints the steps to whatever is wrong.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use synod_model::decree::Decree;
use synod_model::history::Law;
use synod_model::naive::Naive;
use synod_model::{Bounds, Cluster, Plant, Report, Search, Setup, check};

/// Explores small clusters of Synod's protocol exhaustively, with the code that a node runs.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Explore a model. Exits with 1 if anything is violated
    Check {
        /// Which one; see `list`
        model: String,

        /// Explore at most so many steps from the start
        #[arg(long)]
        depth: Option<usize>,

        /// Stop after so many distinct states
        #[arg(long)]
        states: Option<usize>,

        /// Depth first: needs little memory, but the stories found are long
        #[arg(long, conflicts_with = "depth")]
        deep: bool,

        /// Threads
        #[arg(long, default_value_t = 1)]
        threads: usize,

        /// Plant this bug; see `list`
        #[arg(long)]
        plant: Option<Plant>,

        /// Look for breaches of this law alone, such as agreement
        #[arg(long, value_name = "LAW")]
        only: Option<Law>,
    },
    /// List the models, and the bugs that can be planted
    List,
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Check { model, depth, states, deep, threads, plant, only } => {
            let search = if deep { Search::Depth } else { Search::Breadth };
            let bounds = Bounds { search, depth, states, threads: threads.max(1), progress: true };
            let Some(report) = check_named(&model, &bounds, plant, only) else {
                eprintln!("no such model, or none with bugs; there are {}", names().join(", "));
                return ExitCode::from(2);
            };
            print!("{report}");
            if let Some(bytes) = peak_bytes() {
                println!("{} MiB at most, {} bytes a state", bytes >> 20, bytes / report.distinct.max(1) as u64);
            }
            if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Command::List => {
            for setup in Setup::ALL {
                println!("{:18} {}", setup.name, setup.about);
            }
            println!("{:18} single-decree Paxos, two clients with a ticket each, a message that comes twice", "decree");
            println!("{:18} the naive ticket protocol, which must fail", "naive");
            println!("\nbugs to plant in the first {}:", Setup::ALL.len());
            for plant in Plant::ALL {
                println!("{:18} {}", plant.name(), plant.about());
            }
            ExitCode::SUCCESS
        }
    }
}

fn names() -> Vec<&'static str> {
    Setup::ALL.iter().map(|setup| setup.name).chain(["decree", "naive"]).collect()
}

fn check_named(model: &str, bounds: &Bounds, plant: Option<Plant>, only: Option<Law>) -> Option<Report> {
    if let Some(setup) = Setup::named(model) {
        let cluster = Cluster::new(setup, plant);
        return Some(check(only.map_or(cluster.clone(), |law| cluster.only(law)), bounds));
    }
    match (model, plant, only) {
        ("decree", None, None) => Some(check(Decree::new([1, 1], 1), bounds)),
        ("naive", None, None) => Some(check(Naive::default(), bounds)),
        _ => None,
    }
}

/// The most memory that this process has had, where the system tells.
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}
