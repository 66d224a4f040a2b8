//! Scenarios: named situations as text. A file says what happens to a small cluster, in commands, and what comes of it
//! under each `----`; a test plays all of them and compares, or rewrites what comes of it on request.
//!
//! ```text
//! # What it is about. Lines that begin with # count for nothing.
//! nodes 3
//! seeds 0..50
//!
//! start all
//! until usable within 4T
//! ----
//! usable
//!
//! kill leader
//! until usable within 4T
//! ----
//! usable
//! ```
//!
//! The first lines, up to an empty one, are settings ([`setup`]). Then come blocks of commands ([`command`]), each with
//! its output. A scenario with `seeds` is played once for each of them: latencies, back-offs and times that are drawn
//! differ, what comes of it may not. Nothing goes wrong by itself. All checkers look on, and in the end, unless the
//! file says `end open`, all links are mended, all nodes run, and the cluster must come together as in any run.

pub mod command;
mod play;
pub mod setup;

use std::fmt::Write as _;

use command::Command;
use setup::Setup;

pub use play::Played;

/// A scenario file.
#[derive(Clone, Debug)]
pub struct Scenario {
    setup: Setup,
    /// The text before the first block.
    preamble: String,
    blocks: Vec<Block>,
}

/// Some commands and what they print.
#[derive(Clone, Debug)]
struct Block {
    /// As written, comments included.
    text: String,
    commands: Vec<(usize, Command)>,
    expected: String,
}

impl Scenario {
    /// Reads a scenario.
    ///
    /// # Errors
    /// The first line that isn't understood, in words.
    pub fn parse(text: &str) -> Result<Scenario, String> {
        let mut lines = text.lines().enumerate().map(|(index, line)| (index + 1, line)).peekable();
        let mut preamble = String::new();
        let mut setup = Setup::default();
        for (number, line) in lines.by_ref() {
            writeln!(preamble, "{line}").expect("strings take everything");
            if line.trim().is_empty() {
                break;
            }
            if !line.starts_with('#') {
                setup.set(line).map_err(|error| format!("line {number}: {error}"))?;
            }
        }
        setup.check()?;
        let mut blocks = Vec::new();
        while lines.peek().is_some() {
            let mut block = Block { text: String::new(), commands: Vec::new(), expected: String::new() };
            for (number, line) in lines.by_ref().take_while(|(_, line)| *line != "----") {
                writeln!(block.text, "{line}").expect("strings take everything");
                let words = line.split('#').next().unwrap_or_default().trim();
                if !words.is_empty() {
                    let command = words.parse().map_err(|error| format!("line {number}: {error}"))?;
                    block.commands.push((number, command));
                }
            }
            for (_, line) in lines.by_ref().take_while(|(_, line)| !line.trim().is_empty()) {
                writeln!(block.expected, "{line}").expect("strings take everything");
            }
            blocks.push(block);
        }
        Ok(Scenario { setup, preamble, blocks })
    }

    /// Plays one seed only, whatever the file says.
    pub fn play_only(&mut self, seed: u64) {
        self.setup.seeds = seed..seed + 1;
    }

    /// The file as it is, with what it expects.
    pub fn text(&self) -> String {
        self.render(self.blocks.iter().map(|block| block.expected.clone()))
    }

    /// Plays it, once for each seed; `trace` prints every event.
    pub fn play(&self, trace: bool) -> Played {
        play::play(self, trace)
    }

    fn render(&self, outputs: impl Iterator<Item = String>) -> String {
        let blocks: Vec<String> =
            self.blocks.iter().zip(outputs).map(|(block, output)| format!("{}----\n{output}", block.text)).collect();
        format!("{}{}", self.preamble, blocks.join("\n"))
    }
}
