//! One run from one seed, with whatever goes wrong turned into an outcome.

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;
use std::time::Duration;

use crate::cluster::{Cluster, Options};
use crate::invariants::{Property, Violation};
use crate::stats::Stats;

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What was run.
    pub options: Options,
    /// What went wrong, if anything did.
    pub violation: Option<Violation>,
    /// When, in virtual time.
    pub elapsed: Duration,
    /// The hash over every event.
    pub trace_hash: u64,
    /// Figures.
    pub stats: Stats,
}

impl Outcome {
    /// The violation in words, with the command that shows it again; none if there was none.
    pub fn report(&self) -> Option<String> {
        let violation = self.violation.as_ref()?;
        let seed = self.options.seed;
        let mut replay = format!("cargo run --release -p synod-simulator -- --seed {seed}");
        if let Some(nodes) = self.options.nodes {
            replay += &format!(" --nodes {nodes}");
        }
        if self.options.mild {
            replay += " --mild";
        }
        if let Some(plant) = self.options.plant {
            replay += &format!(" --plant {plant}");
        }
        if let Some(only) = self.options.only {
            replay += &format!(" --only {}", only.name());
        }
        replay += &self.options.narrowing.to_string();
        let at = self.elapsed.as_secs_f64();
        Some(format!("seed {seed} violates {violation}\n  at {at:.6} s; replay: {replay}"))
    }
}

/// Runs a seed.
pub fn run(options: Options) -> Outcome {
    let mut cluster = Cluster::new(options);
    let panicked = catch_panic(|| cluster.run());
    if let Some(message) = panicked {
        cluster.report(Property::NoPanic, message);
    }
    Outcome {
        options,
        violation: cluster.violation().cloned(),
        elapsed: cluster.elapsed(),
        trace_hash: cluster.trace_hash(),
        stats: cluster.stats(),
    }
}

/// Runs a seed twice: the same seed must give the same trace.
pub fn run_twice(options: Options) -> Outcome {
    let mut outcome = run(options);
    let again = run(Options { trace: false, ..options });
    if outcome.violation.is_none() && again.trace_hash != outcome.trace_hash {
        outcome.violation = Some(Violation::new(
            Property::Determinism,
            format!(
                "two runs gave traces {:016x} and {:016x}, over {} and {} events",
                outcome.trace_hash, again.trace_hash, outcome.stats.events, again.stats.events
            ),
        ));
    }
    outcome
}

thread_local! {
    /// The message of the panic that ended the run on this thread; none outside of runs.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs `action`; if it panics, says how, instead of printing it.
fn catch_panic(action: impl FnOnce()) -> Option<String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let others = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let within_run = PANIC.with_borrow_mut(|message| match message {
                Some(message) => {
                    *message = info.to_string();
                    true
                }
                None => false,
            });
            if !within_run {
                others(info);
            }
        }));
    });
    PANIC.set(Some(String::new()));
    let result = panic::catch_unwind(AssertUnwindSafe(action));
    let message = PANIC.take();
    result.is_err().then(|| message.unwrap_or_default())
}
