//! `synod`: makes the directories of a cluster, serves a node, and talks to one.
//!
//! Exit codes: see [`EXIT_CODES`], which `synod --help` prints.
//! Results go to stdout, everything else to stderr; a reader that closes the pipe early is no error.
#![forbid(unsafe_code)]

mod arguments;
mod member;
mod recover;
mod remote;
mod serve;
mod setup;

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use synod::StopReason;
use synod::settings::{LoadError, LogFormat};
use tracing_subscriber::EnvFilter;

const FAILED: u8 = 1;
const USAGE: u8 = 2;
const DISK_FAILED: u8 = 3;
const CONTRADICTION: u8 = 4;
const STRANGER: u8 = 5;

const EXIT_CODES: &str = "Exit codes: 0 done; 1 it failed; 2 the command line or the configuration is wrong; \
3 the node that was served has fenced itself, because a write or a sync of its log failed: mend the disk, then start it \
again; 4 the node's log contradicts a peer's: find out which is wrong before you start it again; \
5 the node's directory is an old copy, or runs twice: replace the node; 130 and 143 a second SIGINT or \
SIGTERM came before the node had ended in order";

/// A replicated log: commands go in, every replica gives them out in the same order.
#[derive(Debug, Parser)]
#[command(name = "synod", version, max_term_width = 100, after_help = EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a node's directory and print its identity.
    Init(setup::Init),
    /// Write the first members of a cluster into their directories.
    Bootstrap(setup::Bootstrap),
    /// Make a node's directory a part of a cluster that exists, before the node is added.
    Join(member::Join),
    /// Show or change who has a part in the log.
    #[command(subcommand)]
    Member(member::MemberCommand),
    /// Begin again from what is left of a cluster that has lost its quorum for good.
    Recover(recover::Recover),
    /// Check that this host can run a node with the given directory.
    Probe(setup::Probe),
    /// Serve a node until SIGINT or SIGTERM.
    Serve(serve::Serve),
    /// Print all limits of a node with the given settings, and the most memory that it takes.
    Limits(serve::Limits),
    /// Show how a node stands.
    Status(remote::Status),
    /// Append the lines of stdin as commands and print their slots.
    Append(remote::Append),
    /// Print commands from the log.
    Read(remote::Read),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // A node's settings say how its log is written.
    if !matches!(arguments.command, Command::Serve(_)) {
        start_logging(LogFormat::Text);
    }
    let outcome = match arguments.command {
        Command::Init(init) => init.run(),
        Command::Bootstrap(bootstrap) => bootstrap.run(),
        Command::Join(join) => join.run(),
        Command::Member(member) => member.run(),
        Command::Recover(recover) => recover.run(),
        Command::Probe(probe) => probe.run(),
        Command::Serve(serve) => serve.run(),
        Command::Limits(limits) => limits.run(),
        Command::Status(status) => status.run(),
        Command::Append(append) => append.run(),
        Command::Read(read) => read.run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("synod: {}", sentence(&error));
            ExitCode::from(code(&error))
        }
    }
}

/// The log goes to stderr; once a process.
fn start_logging(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,glommio=error"));
    let colours = format == LogFormat::Text && io::stderr().is_terminal();
    let logging =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(colours).with_target(false);
    match format {
        LogFormat::Text => logging.init(),
        LogFormat::Json => logging.json().flatten_event(true).init(),
    }
    // The runtime underneath logs through `log`; an earlier logger can't be there.
    let _ = tracing_log::LogTracer::init();
}

/// Only stdout counts: a connection that breaks is an error.
#[derive(Debug, thiserror::Error)]
#[error("can't write to stdout")]
struct StdoutError(#[source] io::Error);

/// Arguments that are fine one by one, but not together.
#[derive(Debug, thiserror::Error)]
#[error("{0}; see `synod help`")]
struct UsageError(&'static str);

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<StdoutError>().is_some_and(|error| error.0.kind() == io::ErrorKind::BrokenPipe)
}

/// The error and its causes, each told once: some errors quote their cause.
fn sentence(error: &anyhow::Error) -> String {
    let mut sentence = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if !sentence.contains(&cause) {
            if !sentence.is_empty() {
                sentence.push_str(": ");
            }
            sentence.push_str(&cause);
        }
    }
    sentence
}

fn code(error: &anyhow::Error) -> u8 {
    match error.downcast_ref() {
        Some(serve::StoppedError(StopReason::Disk { .. })) => DISK_FAILED,
        Some(serve::StoppedError(StopReason::Contradiction(_))) => CONTRADICTION,
        Some(serve::StoppedError(StopReason::Stranger { .. } | StopReason::Superseded { .. })) => STRANGER,
        _ if is_usage(error) => USAGE,
        _ => FAILED,
    }
}

fn is_usage(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<synod::StartError>(), Some(synod::StartError::Config(_)))
        || matches!(error.downcast_ref::<LoadError>(), Some(error) if !matches!(error, LoadError::Directory(_)))
        || error.is::<UsageError>()
}
