//! `synod-tools`: what is in a log directory, and whether it is sound. Built on the log's own reader.
//!
//! One file a verb; [`source`] opens directories, [`output`] writes data in the format that was asked for, [`exit`] has
//! the exit codes, [`progress`] shows how far a long reading is.
// Denied, not forbidden: one module reads with io_uring, and says why each use is safe.
#![deny(unsafe_code)]

mod audit;
mod bulk;
mod compact;
mod configuration;
mod diff;
mod doctor;
mod dump;
mod exit;
mod export;
mod get;
mod handbook;
mod hexdump;
mod import;
mod interchange;
mod ls;
mod output;
mod progress;
mod record;
mod repair;
mod source;
mod stat;
mod survey;
mod uring;
mod verify;
mod walk;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use exit::{Exit, Failure};
use output::{EndOfReading, Format, Output};

/// Looks into the log directories of Synod nodes, and checks them. Reads only, also beside a running node, unless the
/// verb says otherwise.
#[derive(Debug, Parser)]
#[command(name = "synod-tools", version, after_help = exit::HELP)]
struct Arguments {
    /// How data is written
    #[arg(long, value_enum, default_value_t, global = true)]
    format: Format,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// The node and its segments, oldest first
    Ls(ls::Options),
    /// Every record, in log order
    Dump(dump::Options),
    /// The command at a slot
    Get(get::Options),
    /// The bytes of the record at a slot, field by field
    Hexdump(hexdump::Options),
    /// What a log is made of, and what it costs on the disk
    Stat(stat::Options),
    /// Where the logs of two replicas part
    Diff(diff::Options),
    /// Read every byte, and say all that is wrong: checksums, order, chain, footers, indexes, the pool
    Verify(verify::Options),
    /// Check the invariants of Paxos over the directories of a whole cluster
    Audit(audit::Options),
    /// What a node needs of this host, and how fast the disk of a directory is
    Doctor(doctor::Options),
    /// Make a log smaller: drop what it doesn't need any more, and pack small bodies. Writes; the node must not run
    Compact(compact::Options),
    /// Write a mended copy of a damaged log, with what other replicas have
    Repair(repair::Options),
    /// The commands of a log as JSON lines, whatever --format says
    Export(export::Options),
    /// Begin a cluster with the content of an export. Writes, into stores that were never used
    Import(import::Options),
    /// A completion script for a shell
    Completions(handbook::Completions),
    /// Man pages
    Man(handbook::Man),
}

impl Verb {
    fn run(&self, output: &mut Output) -> Result<Exit> {
        match self {
            Verb::Ls(options) => ls::run(options, output),
            Verb::Dump(options) => dump::run(options, output),
            Verb::Get(options) => get::run(options, output),
            Verb::Hexdump(options) => hexdump::run(options, output),
            Verb::Stat(options) => stat::run(options, output),
            Verb::Diff(options) => diff::run(options, output),
            Verb::Verify(options) => verify::run(options, output),
            Verb::Audit(options) => audit::run(options, output),
            Verb::Doctor(options) => doctor::run(options, output),
            Verb::Compact(options) => compact::run(options, output),
            Verb::Repair(options) => repair::run(options, output),
            Verb::Export(options) => export::run(options, output),
            Verb::Import(options) => import::run(options, output),
            Verb::Completions(options) => handbook::completions::<Arguments>(options, output),
            Verb::Man(options) => handbook::man::<Arguments>(options, output),
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut output = Output::stdout(arguments.format);
    let result = arguments.verb.run(&mut output);
    // What was written before an error is complete too.
    let finished = output.finish();
    let result = result.and_then(|exit| finished.map(|()| exit));
    result.unwrap_or_else(|error| failed(&error)).into()
}

fn failed(error: &anyhow::Error) -> Exit {
    if error.is::<EndOfReading>() {
        return Exit::Well;
    }
    eprintln!("synod-tools: {error:#}");
    error.downcast_ref::<Failure>().map_or(Exit::Unreadable, |failure| failure.exit)
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
