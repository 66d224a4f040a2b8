//! Playing a scenario: one stage a seed, and what came of it on all of them.

mod stage;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::panic::{self, AssertUnwindSafe};

use super::Scenario;
use stage::Stage;

/// What came of a scenario.
#[derive(Clone, Debug)]
pub struct Played {
    text: String,
    figures: String,
}

impl Played {
    /// The file with what came of it: the same text if all is as expected.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The longest waits of each `until`, in election timeouts, and violations in detail: not part of what is expected.
    pub fn figures(&self) -> &str {
        &self.figures
    }
}

/// What one seed gave.
struct Outputs {
    /// One a block.
    blocks: Vec<String>,
    /// Thousandths of election timeouts that each `until` took, by its line.
    waits: BTreeMap<usize, u64>,
    /// What was violated, if anything was.
    violation: Option<String>,
}

pub(super) fn play(scenario: &Scenario, trace: bool) -> Played {
    let seeds: Vec<u64> = scenario.setup.seeds.clone().collect();
    let outputs: Vec<Outputs> = seeds.iter().map(|seed| play_seed(scenario, *seed, trace)).collect();
    let text = scenario.render((0..scenario.blocks.len()).map(|block| summary(&seeds, &outputs, block)));
    let mut waits: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
    for (line, wait) in outputs.iter().flat_map(|outputs| &outputs.waits) {
        waits.entry(*line).or_default().push(*wait);
    }
    let mut figures = String::new();
    for (line, mut waits) in waits {
        waits.sort_unstable();
        let at = |place: usize| waits[place.min(waits.len() - 1)] as f64 / 1000.0;
        let (median, longest) = (at(waits.len() / 2), at(waits.len()));
        writeln!(figures, "line {line}: waited {median:.2} election timeouts in the median, {longest:.2} at most")
            .expect("strings take everything");
    }
    for (seed, outputs) in seeds.iter().zip(&outputs) {
        if let Some(violation) = &outputs.violation {
            writeln!(figures, "seed {seed} violates {violation}").expect("strings take everything");
        }
    }
    Played { text, figures }
}

/// What a block printed: once, if every seed printed the same.
fn summary(seeds: &[u64], outputs: &[Outputs], block: usize) -> String {
    let mut groups: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for (seed, output) in seeds.iter().zip(outputs) {
        groups.entry(output.blocks[block].as_str()).or_default().push(*seed);
    }
    if groups.len() == 1 {
        return groups.into_keys().collect();
    }
    let mut text = String::new();
    for (output, of_seeds) in groups {
        writeln!(text, "{} of {} seeds, {} the first:", of_seeds.len(), seeds.len(), of_seeds[0])
            .expect("strings take everything");
        text += if output.is_empty() { "(nothing)\n" } else { output };
    }
    text
}

fn play_seed(scenario: &Scenario, seed: u64, trace: bool) -> Outputs {
    let mut stage = Stage::new(&scenario.setup, seed, trace);
    let mut blocks = Vec::new();
    for block in &scenario.blocks {
        let mut act = || {
            for (line, command) in &block.commands {
                stage.act(*line, command);
            }
        };
        if panic::catch_unwind(AssertUnwindSafe(&mut act)).is_err() {
            // The panic itself was printed; what is left of this cluster can't be trusted.
            blocks.push(stage.take_output() + "panicked\n");
            blocks.resize(scenario.blocks.len(), String::new());
            return Outputs { blocks, waits: BTreeMap::new(), violation: None };
        }
        blocks.push(stage.take_output());
    }
    stage.end();
    if let Some(last) = blocks.last_mut() {
        last.push_str(&stage.take_output());
    }
    let violation = stage.violation();
    Outputs { blocks, waits: stage.into_waits(), violation }
}
