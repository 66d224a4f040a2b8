//! Runs the checker over a model, and tells what it found.

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use stateright::{Checker, Expectation, HasDiscoveries, Model};

/// How often the checker is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Tells a model that no more states are wanted.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Whether no more states are wanted.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, stop: bool) {
        self.0.store(stop, Ordering::Relaxed);
    }
}

/// A model that can be stopped, and can tell its steps in words.
pub trait Checked: Model {
    /// While it is set, the model has no actions.
    fn stop(&self) -> &Stop;

    /// What is wrong with a state that violates a property.
    fn breach(&self, state: &Self::State, property: &str) -> String;

    /// A step in a line.
    fn tell(&self, before: &Self::State, action: &Self::Action, after: &Self::State) -> String;
}

/// In which order states are explored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Search {
    /// All states that are as near to the start before any that is farther: finds short stories, and keeps all of a
    /// depth in memory.
    #[default]
    Breadth,
    /// One story to its end, then the next: keeps little more than the fingerprints of the known states. Can't be
    /// bounded by depth, for a state may first be met on a detour.
    Depth,
}

/// Bounds of a check.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The order.
    pub search: Search,
    /// Most steps from the start; breadth first only.
    pub depth: Option<usize>,
    /// Distinct states after which no more are explored.
    pub states: Option<usize>,
    /// Threads.
    pub threads: usize,
    /// Whether progress is told on the standard error.
    pub progress: bool,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds { search: Search::Breadth, depth: None, states: None, threads: 1, progress: false }
    }
}

/// What a check found.
#[derive(Clone, Debug)]
pub struct Report {
    /// Different states.
    pub distinct: usize,
    /// Transitions.
    pub generated: usize,
    /// Most steps from the start.
    pub depth: usize,
    /// How long it took.
    pub elapsed: Duration,
    /// Whether every state within the bounds of the model was explored.
    pub exhausted: bool,
    /// Properties that don't hold: name, what is wrong, and the steps that lead there.
    pub violations: Vec<Violation>,
    /// What should happen sometimes, and whether it did.
    pub sights: Vec<(&'static str, bool)>,
}

/// A property that doesn't hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The property.
    pub property: &'static str,
    /// What is wrong.
    pub breach: String,
    /// What happened, one line a step.
    pub steps: Vec<String>,
}

/// Explores `model` until all states are known, a bound is reached, or something is violated.
pub fn check<M>(model: M, bounds: &Bounds) -> Report
where
    M: Checked + Clone + Send + Sync + 'static,
    M::State: Hash + Clone + PartialEq + Send + Sync,
    M::Action: Clone + PartialEq,
{
    let twin = model.clone();
    let builder = model.checker().threads(bounds.threads).finish_when(HasDiscoveries::AnyFailures);
    match (bounds.search, bounds.depth) {
        (Search::Depth, _) => explore(&twin, bounds, builder.spawn_dfs()),
        (Search::Breadth, None) => explore(&twin, bounds, builder.spawn_bfs()),
        // The checker counts states, the first one included.
        (Search::Breadth, Some(depth)) => explore(&twin, bounds, builder.target_max_depth(depth + 1).spawn_bfs()),
    }
}

fn explore<M>(model: &M, bounds: &Bounds, mut checker: impl Checker<M>) -> Report
where
    M: Checked,
    M::State: Hash + Clone + PartialEq,
    M::Action: Clone + PartialEq,
{
    let began = Instant::now();
    let handles = checker.handles();
    let mut told = began;
    while !handles.iter().all(thread::JoinHandle::is_finished) {
        thread::sleep(LOOK_EVERY);
        if bounds.states.is_some_and(|states| checker.unique_state_count() >= states) {
            model.stop().set(true);
        }
        if bounds.progress && told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            let (distinct, depth) = (checker.unique_state_count(), checker.max_depth());
            eprintln!("{distinct} states, depth {depth}, {} s", began.elapsed().as_secs());
        }
    }
    for handle in handles {
        handle.join().expect("a model doesn't panic");
    }
    let elapsed = began.elapsed();
    let stopped = model.stop().is_set();
    // The steps are found again by the actions of the model.
    model.stop().set(false);
    let mut violations = Vec::new();
    let mut sights = Vec::new();
    for property in model.properties() {
        let found = checker.discovery(property.name);
        match property.expectation {
            Expectation::Sometimes => sights.push((property.name, found.is_some())),
            Expectation::Always | Expectation::Eventually => violations.extend(found.map(|path| {
                let holds = |state: &M::State| (property.condition)(model, state);
                tell_violation(model, property.name, holds, path.into_actions())
            })),
        }
    }
    let cut = bounds.depth.is_some_and(|depth| checker.max_depth() > depth);
    Report {
        distinct: checker.unique_state_count(),
        generated: checker.state_count(),
        depth: checker.max_depth().saturating_sub(1),
        elapsed,
        exhausted: !stopped && !cut && violations.is_empty(),
        violations,
        sights,
    }
}

/// Leaves out the steps without which a property is violated too, and tells the others.
fn tell_violation<M>(
    model: &M,
    property: &'static str,
    holds: impl Fn(&M::State) -> bool,
    mut actions: Vec<M::Action>,
) -> Violation
where
    M: Checked,
    M::State: Clone,
    M::Action: Clone + PartialEq,
{
    let violates =
        |actions: &[M::Action]| replay(model, actions).filter(|trail| trail.last().is_some_and(|s| !holds(s)));
    let mut index = actions.len();
    while index > 0 {
        index -= 1;
        let mut shorter = actions.clone();
        shorter.remove(index);
        if violates(&shorter).is_some() {
            actions = shorter;
            // What came before may have been needed by this step alone.
            index = actions.len();
        }
    }
    let trail = violates(&actions).expect("the checker went this way");
    let steps = trail.windows(2).zip(&actions).map(|(pair, action)| model.tell(&pair[0], action, &pair[1])).collect();
    let breach = trail.last().map_or_else(String::new, |state| model.breach(state, property));
    Violation { property, breach, steps }
}

/// The states along `actions` from the first initial state, if each of them is possible.
fn replay<M>(model: &M, actions: &[M::Action]) -> Option<Vec<M::State>>
where
    M: Model,
    M::State: Clone,
    M::Action: Clone + PartialEq,
{
    let mut trail = vec![model.init_states().into_iter().next()?];
    for action in actions {
        let last = trail.last()?;
        let mut possible = Vec::new();
        model.actions(last, &mut possible);
        let next = possible.contains(action).then(|| model.next_state(last, action.clone()))??;
        trail.push(next);
    }
    Some(trail)
}

impl Report {
    /// Distinct states a second.
    pub fn rate(&self) -> u64 {
        (self.distinct as f64 / self.elapsed.as_secs_f64().max(1e-3)) as u64
    }

    /// Whether nothing is violated.
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scope = if self.exhausted { "all of them" } else { "not all of them" };
        writeln!(
            f,
            "{} distinct states ({scope}), {} generated, depth {}, {:.1} s, {} states/s",
            self.distinct,
            self.generated,
            self.depth,
            self.elapsed.as_secs_f64(),
            self.rate()
        )?;
        for (name, seen) in &self.sights {
            writeln!(f, "{}: {name}", if *seen { "seen" } else { "never seen" })?;
        }
        for violation in &self.violations {
            writeln!(f, "violated: {}: {}", violation.property, violation.breach)?;
            for (index, step) in violation.steps.iter().enumerate() {
                writeln!(f, "{:4}. {step}", index + 1)?;
            }
        }
        Ok(())
    }
}
