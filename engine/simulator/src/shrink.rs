//! Finds a smaller case of a violation: fewer nodes, fewer kinds of faults, less time, fewer commands, as long as the
//! same property is violated. What is left is one command again.

use std::time::Duration;

use crate::cluster::Options;
use crate::invariants::Property;
use crate::narrowing::{FaultKind, Narrowing};
use crate::plan::Plan;
use crate::run::Outcome;

/// Times that differ by less aren't told apart.
const TIME_STEP: Duration = Duration::from_millis(1);

/// A smaller case may have so many times as many events.
const EVENTS_GROWTH: u64 = 4;

/// Finds a smaller case of `outcome`, which violates something; `run` runs one.
pub fn shrink(outcome: &Outcome, run: impl Fn(Options) -> Outcome) -> Outcome {
    let Some(violation) = &outcome.violation else { return outcome.clone() };
    let mut search = Search {
        property: violation.property,
        events_max: EVENTS_GROWTH * outcome.stats.events,
        smallest: outcome.clone(),
        run,
    };
    search.fewer_nodes();
    search.without_commands();
    loop {
        let before = search.smallest.options;
        search.fewer_kinds();
        search.less_time();
        if search.smallest.options.narrowing == before.narrowing {
            return search.smallest;
        }
    }
}

struct Search<R> {
    property: Property,
    events_max: u64,
    smallest: Outcome,
    run: R,
}

impl<R: Fn(Options) -> Outcome> Search<R> {
    /// Runs this case, and keeps it if it violates the same property, and not after many more events than at first: what
    /// has fewer kinds of faults and is endless to read is no smaller case.
    fn try_case(&mut self, options: Options) -> bool {
        let outcome = (self.run)(Options { trace: false, ..options });
        let same = outcome.violation.as_ref().is_some_and(|violation| violation.property == self.property);
        let smaller = same && outcome.stats.events <= self.events_max;
        if smaller {
            self.smallest = outcome;
        }
        smaller
    }

    fn try_narrowing(&mut self, change: impl FnOnce(Narrowing) -> Narrowing) -> bool {
        let options = self.smallest.options;
        self.try_case(Options { narrowing: change(options.narrowing), ..options })
    }

    fn plan(&self) -> Plan {
        let options = self.smallest.options;
        let mut plan = Plan::draw(options.seed, options.nodes);
        options.narrowing.apply(&mut plan);
        plan
    }

    fn fewer_nodes(&mut self) {
        for nodes in 1..self.plan().nodes() {
            if self.try_case(Options { nodes: Some(nodes), ..self.smallest.options }) {
                return;
            }
        }
    }

    fn without_commands(&mut self) {
        if self.plan().workload.commands_min > 0 {
            self.try_narrowing(|narrowing| Narrowing { commands: Some(0), ..narrowing });
        }
    }

    fn fewer_kinds(&mut self) {
        for kind in FaultKind::ALL {
            let plan = self.plan();
            let mut without = plan.clone();
            Narrowing::default().without(*kind).apply(&mut without);
            // What the seed didn't draw, or was left out before, needs no switch.
            if format!("{plan:?}") != format!("{without:?}") {
                self.try_narrowing(|narrowing| narrowing.without(*kind));
            }
        }
    }

    /// Halves the interval in which the shortest time lies. A shorter time isn't sure to show less, so this finds a
    /// short one rather than the shortest.
    fn less_time(&mut self) {
        let (mut too_short, mut enough) = (Duration::ZERO, self.plan().faulty_time);
        while enough - too_short > TIME_STEP.max(enough / 50) {
            let middle = Duration::from_millis(((too_short + enough) / 2).as_millis() as u64);
            if middle <= too_short {
                return;
            }
            if self.try_narrowing(|narrowing| Narrowing { faulty_time: Some(middle), ..narrowing }) {
                enough = middle;
            } else {
                too_short = middle;
            }
        }
    }
}
