//! `synod-tools`: what is in a log directory, and whether it is sound. Built on the log's own reader.
#![forbid(unsafe_code)]

mod dump;
mod ls;
mod output;
mod source;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use output::{EndOfReading, Output};

/// Something is damaged, or replicas differ.
const DAMAGED: u8 = 1;
/// A directory can't be read.
const UNREADABLE: u8 = 3;

/// Lists, dumps and verifies the log directories of Synod nodes. Reads only, also beside a running node.
#[derive(Debug, Parser)]
#[command(name = "synod-tools", version, after_help = EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

const EXIT_CODES: &str = "Data goes to stdout, messages to stderr. Exit codes: 0 all is well; 1 damage was found; 2 bad \
flags; 3 a directory can't be read. A reader that stops early (`| head`) is no error.";

#[derive(Debug, Subcommand)]
enum Verb {
    /// The node and its segments, oldest first
    Ls {
        /// Directory of a node
        directory: PathBuf,
    },
    /// Every record, in log order
    Dump(dump::Options),
    /// Read every byte: checksums, order, the chain over the chosen bodies
    Verify {
        /// Directories of nodes
        #[arg(required = true)]
        directories: Vec<PathBuf>,
    },
}

fn main() -> ExitCode {
    let mut output = Output::stdout();
    let result = match Arguments::parse().verb {
        Verb::Ls { directory } => ls::run(&directory, &mut output).map(|()| true),
        Verb::Dump(options) => dump::run(&options, &mut output),
        Verb::Verify { directories } => verify::run(&directories, &mut output),
    };
    match result.and_then(|sound| output.finish().map(|()| sound)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(DAMAGED),
        Err(error) if error.is::<EndOfReading>() => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("synod-tools: {error:#}");
            ExitCode::from(UNREADABLE)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
