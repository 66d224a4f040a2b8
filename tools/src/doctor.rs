//! `doctor`: what a node needs of this host and of the disk under a directory, and what to do where that is missing.
//!
//! The conditions without which a node doesn't start are those that it checks itself ([`synod::host`]). The rest tells
//! an operator why it is slow, or will be one day. Where a line isn't well, it ends with the command that mends it.

mod disk;
mod machine;
mod place;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use crate::exit::Exit;
use crate::output::{Align, Output, Row};

/// Where to look, and how long.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The directory of a node, or where one is to be; without it only the host is looked at
    directory: Option<PathBuf>,
    /// Seconds for each measurement of the disk; 0 leaves them out
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    seconds: f64,
    /// MiB that the bandwidth is measured with, in a scratch file that has no name and is gone with this program
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(8..=65_536))]
    scratch: u64,
    /// MiB of memory that a node is configured with for its buffers
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    io_memory: u64,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("'{text}' is no number of seconds"))?;
    if (0.0..=600.0).contains(&seconds) { Ok(seconds) } else { Err("must be 0 to 600 seconds".to_owned()) }
}

/// How a thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// As it should be.
    Ok,
    /// Only told.
    Note,
    /// A node runs, but not as well as it could, or not as safely.
    Warn,
    /// No node runs here.
    Fail,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            State::Ok => "ok",
            State::Note => "note",
            State::Warn => "warn",
            State::Fail => "FAIL",
        }
    }
}

/// A thing that was looked at.
#[derive(Clone, Debug, Serialize)]
struct Check {
    state: State,
    check: &'static str,
    found: String,
    /// What to do.
    next: Option<String>,
}

impl Check {
    fn ok(check: &'static str, found: impl Into<String>) -> Check {
        Check { state: State::Ok, check, found: found.into(), next: None }
    }

    fn note(check: &'static str, found: impl Into<String>) -> Check {
        Check { state: State::Note, check, found: found.into(), next: None }
    }

    fn warn(check: &'static str, found: impl Into<String>, next: impl Into<String>) -> Check {
        Check { state: State::Warn, check, found: found.into(), next: Some(next.into()) }
    }

    fn fail(check: &'static str, found: impl Into<String>, next: impl Into<String>) -> Check {
        Check { state: State::Fail, check, found: found.into(), next: Some(next.into()) }
    }
}

impl Row for Check {
    const COLUMNS: &'static [(&'static str, Align)] =
        &[("state", Align::Left), ("check", Align::Left), ("found", Align::Left), ("next", Align::Left)];

    fn cells(&self) -> Vec<String> {
        let next = self.next.clone().unwrap_or_default();
        vec![self.state.name().to_owned(), self.check.to_owned(), self.found.clone(), next]
    }
}

/// All in all.
#[derive(Debug, Serialize)]
struct Diagnosis {
    fit: bool,
    warnings: usize,
    failures: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    measured: Option<disk::Measured>,
    /// Flags for `synod serve` that suit this host.
    recommended: Vec<String>,
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.fit { "a node can run here" } else { "no node can run here" };
        write!(f, "{verdict}: {} failing, {} to look at", self.failures, self.warnings)?;
        if !self.recommended.is_empty() {
            write!(f, "\nrecommended: synod serve {}", self.recommended.join(" "))?;
        }
        Ok(())
    }
}

/// Whether a node can run here.
pub(crate) fn run(options: &Options, output: &mut Output) -> Result<Exit> {
    let mut checks = machine::checks(options.io_memory << 20);
    let mut measured = None;
    if let Some(directory) = &options.directory {
        let usable = place::checks(directory, &mut checks);
        if usable && options.seconds > 0.0 {
            let each = Duration::from_secs_f64(options.seconds);
            measured = disk::measure(directory, each, options.scratch << 20, &mut checks);
        }
    }
    let count = |state: State| checks.iter().filter(|check| check.state == state).count();
    let (failures, warnings) = (count(State::Fail), count(State::Warn));
    let recommended = measured.as_ref().map(|measured: &disk::Measured| measured.recommended()).unwrap_or_default();
    let diagnosis = Diagnosis { fit: failures == 0, warnings, failures, measured, recommended };
    output.report(&diagnosis, "checks", &checks)?;
    Ok(Exit::sound(failures == 0))
}
