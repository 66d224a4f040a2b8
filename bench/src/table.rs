//! `synod-bench table`: what is asked of Synod's speed, with this machine's figures beside it.
//!
//! Every row is one or several runs, audited like any other. Where a bar is a share of the bare pipeline, both took turns.
//! Where a bar is a multiple of a peer, the peer is measured in the same session if it is built in (feature `peers`), and
//! otherwise taken from the measurement that the docs cite, which says so.

mod rows;

use std::fmt::Write as _;
use std::sync::atomic::AtomicBool;

use anyhow::Result;
use serde::Serialize;

use crate::environment::Environment;
use crate::options::{ClusterOptions, TableOptions};

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    environment: Environment,
    directory: String,
    seconds_each: f64,
    /// Whether rows are missing because somebody asked it to end.
    was_interrupted: bool,
    rows: Vec<Row>,
}

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// What is measured.
    what: String,
    /// What came of it.
    here: String,
    /// What it must reach, each with what it came to.
    bars: Vec<Bar>,
}

/// Something to reach.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Bar {
    asked: String,
    found: String,
    is_met: bool,
    /// Whether it is more than is asked for.
    is_aim: bool,
}

impl Bar {
    /// At least `asked`.
    fn at_least(text: &str, asked: f64, found: f64, shown: impl Fn(f64) -> String) -> Bar {
        let is_met = found >= asked;
        Bar { asked: format!("{text} >= {}", shown(asked)), found: shown(found), is_met, is_aim: false }
    }

    /// At most `asked`.
    fn at_most(text: &str, asked: f64, found: f64, shown: impl Fn(f64) -> String) -> Bar {
        let is_met = found <= asked;
        Bar { asked: format!("{text} <= {}", shown(asked)), found: shown(found), is_met, is_aim: false }
    }

    fn aim(self) -> Bar {
        Bar { is_aim: true, ..self }
    }
}

/// Measures every row.
///
/// # Errors
/// If the machine lacks something, or an audit failed: then there is no table.
pub(crate) fn run(options: &ClusterOptions, table: &TableOptions, interrupted: &AtomicBool) -> Result<Report> {
    let mut measured = rows::Rows::new(options, table, interrupted);
    let rows = measured.all()?;
    let directory = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    Ok(Report {
        environment: Environment::look(&directory),
        directory: directory.display().to_string(),
        seconds_each: table.duration().as_secs_f64(),
        was_interrupted: interrupted.load(std::sync::atomic::Ordering::Relaxed),
        rows,
    })
}

impl Report {
    /// Whether it was let to end.
    pub(crate) fn is_whole(&self) -> bool {
        !self.was_interrupted
    }

    /// As Markdown, for the docs.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        self.write(&mut text).expect("writing to a string can't fail");
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "| what | here | asked for | found | |")?;
        writeln!(text, "|---|---|---|---|---|")?;
        for row in &self.rows {
            if row.bars.is_empty() {
                writeln!(text, "| {} | {} | | | |", row.what, row.here)?;
            }
            for (place, bar) in row.bars.iter().enumerate() {
                let (what, here) = if place == 0 { (row.what.as_str(), row.here.as_str()) } else { ("", "") };
                let verdict = match (bar.is_met, bar.is_aim) {
                    (true, false) => "met",
                    (true, true) => "aim reached",
                    (false, false) => "**missed**",
                    (false, true) => "below the aim",
                };
                writeln!(text, "| {what} | {here} | {} | {} | {verdict} |", bar.asked, bar.found)?;
            }
        }
        writeln!(text)?;
        let asked = || self.rows.iter().flat_map(|row| &row.bars).filter(|bar| !bar.is_aim);
        writeln!(
            text,
            "{} of {} bars met; {} s a run, every run audited; `{}`.",
            asked().filter(|bar| bar.is_met).count(),
            asked().count(),
            self.seconds_each,
            self.environment.command
        )?;
        if self.was_interrupted {
            writeln!(text, "It was interrupted: rows are missing.")?;
        }
        writeln!(text)?;
        let environment = &self.environment;
        if environment.load_average > environment.cores as f64 {
            writeln!(
                text,
                "The load average is {:.1}: other programs take these cores too.\n",
                environment.load_average
            )?;
        }
        write!(text, "```\n{}\n```", environment.text(&self.directory))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_met_or_missed() {
        let shown = |value: f64| format!("{value}");
        assert!(
            Bar::at_least("commits/s", 5.0, 5.0, shown).is_met && !Bar::at_least("commits/s", 5.0, 4.9, shown).is_met
        );
        assert!(Bar::at_most("p99", 5.0, 5.0, shown).is_met && !Bar::at_most("p99", 5.0, 5.1, shown).is_met);
        let aim = Bar::at_least("commits/s", 5.0, 4.0, shown).aim();
        assert_eq!((aim.asked.as_str(), aim.found.as_str(), aim.is_aim), ("commits/s >= 5", "4", true));
    }
}
