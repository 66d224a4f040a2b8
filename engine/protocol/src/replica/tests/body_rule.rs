//! The body rule, against two slow and obvious twins: one that reads the rule word by word, and one that plays through
//! every history of a small cluster and looks whether what was chosen stays chosen.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use super::cluster::{ballot, body, n, s};
use crate::ballot::NodeId;
use crate::body::BodyHandle;
use crate::message::AcceptedBody;
use crate::replica::plan::{Planned, Shown, recovery_plan};
use crate::slot::Slot;

type Reports = Vec<(AcceptedBody, NodeId)>;

fn report(round: u64, body: BodyHandle, node: u32) -> (AcceptedBody, NodeId) {
    (AcceptedBody { ballot: ballot(round, 1), body }, n(node))
}

/// The rule word by word: a body is live if it lies above the mark and no other body at a higher ballot shows at any
/// of its slots.
fn live(mark: Slot, reports: &Reports) -> BTreeMap<Slot, BodyHandle> {
    let highest = |body: &BodyHandle| {
        let ballots = reports.iter().filter(|(report, _)| report.body == *body).map(|(report, _)| report.ballot);
        ballots.max().expect("it was reported")
    };
    let is_live = |body: &BodyHandle| {
        let ballot = highest(body);
        let beaten = |(other, _): &(AcceptedBody, NodeId)| {
            other.body != *body && other.ballot > ballot && other.body.overlaps(body)
        };
        body.first >= mark && !reports.iter().any(beaten)
    };
    let bodies = reports.iter().map(|(report, _)| report.body);
    bodies.filter(is_live).map(|body| (body.first, body)).collect()
}

/// Checks a plan against the twin, slot by slot.
fn check(mark: Slot, reports: &Reports) {
    let (plan, next) =
        recovery_plan(mark, reports.clone()).unwrap_or_else(|conflict| panic!("{conflict:?}: {reports:?}"));
    let live = live(mark, reports);
    let adopted: BTreeMap<Slot, BodyHandle> = plan
        .iter()
        .filter_map(|planned| match planned {
            Planned::Adopt { body, .. } => Some((body.first, *body)),
            Planned::Fill(_) => None,
        })
        .collect();
    assert_eq!(adopted, live, "mark {mark}, reports {reports:?}");
    let mut covered = mark;
    for planned in &plan {
        let slots = match planned {
            Planned::Adopt { body, holders } => {
                let reporters = reports.iter().filter(|(report, _)| report.body == *body).map(|(_, node)| *node);
                let reporters: BTreeSet<NodeId> = reporters.collect();
                assert_eq!(holders.iter().copied().collect::<BTreeSet<_>>(), reporters, "who has the bytes");
                body.slots()
            }
            Planned::Fill(gap) => gap.clone(),
        };
        assert!(slots.start == covered && slots.start < slots.end, "the plan covers every slot once: {plan:?}");
        covered = slots.end;
    }
    assert_eq!(next, covered);
    assert!(!matches!(plan.back(), Some(Planned::Fill(_))), "nothing is open behind the last adopted body: {plan:?}");
}

/// Whether two bodies of one ballot share a slot, which no honest proposer brings about.
fn conflicts(reports: &Reports) -> bool {
    reports.iter().enumerate().any(|(index, (one, _))| {
        reports[index + 1..]
            .iter()
            .any(|(other, _)| one.ballot == other.ballot && one.body != other.body && one.body.overlaps(&other.body))
    })
}

#[test]
fn the_plan_follows_the_rule_for_all_small_sets_of_reports() {
    // Every body over four slots, each at every ballot of three; two bodies of the same range differ.
    let mut choices = Vec::new();
    for first in 1..=4u64 {
        for count in 1..=(5 - first) as u32 {
            for round in 1..=3 {
                let id = u128::from(first * 10 + u64::from(count));
                choices.push(report(round, body(first, count, id), round as u32));
            }
            choices.push(report(2, body(first, count, 1000 + u128::from(first * 10 + u64::from(count))), 4));
        }
    }
    let mut checked = 0;
    let mut set: Vec<usize> = Vec::new();
    // All sets of up to four reports, in the order of a counter.
    fn extend(choices: &Reports, set: &mut Vec<usize>, checked: &mut u64) {
        let reports: Reports = set.iter().map(|index| choices[*index]).collect();
        if conflicts(&reports) {
            return;
        }
        for mark in 1..=4 {
            check(s(mark), &reports);
        }
        *checked += 1;
        if set.len() == 4 {
            return;
        }
        for next in set.last().map_or(0, |last| last + 1)..choices.len() {
            set.push(next);
            extend(choices, set, checked);
            set.pop();
        }
    }
    extend(&choices, &mut set, &mut checked);
    assert!(checked > 10_000, "{checked} sets");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn the_plan_follows_the_rule_for_larger_sets_too(
        mark in 1u64..12,
        drawn in prop::collection::vec((1u64..6, 1u64..20, 1u32..8, 1u32..6), 0..24),
    ) {
        let mut reports = Reports::new();
        for (round, first, count, node) in drawn {
            let new = report(round, body(first, count, u128::from(first * 100 + u64::from(count))), node);
            reports.push(new);
            if conflicts(&reports) {
                reports.pop();
            }
        }
        // A node reports a body once, at its highest ballot.
        let mut once: BTreeMap<(BodyHandle, NodeId), AcceptedBody> = BTreeMap::new();
        for (report, node) in reports {
            let known = once.entry((report.body, node)).or_insert(report);
            known.ballot = known.ballot.max(report.ballot);
        }
        let reports: Reports = once.into_iter().map(|((_, node), report)| (report, node)).collect();
        prop_assume!(!conflicts(&reports));
        check(s(mark), &reports);
    }

    #[test]
    fn shown_slots_are_a_set(ranges in prop::collection::vec((1u64..30, 1u64..8), 0..20)) {
        let mut shown = Shown::default();
        let mut twin = BTreeSet::new();
        for (start, count) in ranges {
            let slots = start..start + count;
            let expected = slots.clone().any(|slot| twin.contains(&slot));
            prop_assert_eq!(shown.overlaps(&(s(slots.start)..s(slots.end))), expected);
            shown.insert(s(slots.start)..s(slots.end));
            twin.extend(slots);
        }
    }
}

#[test]
fn two_bodies_of_one_ballot_at_one_slot_are_no_plan() {
    let reports = vec![report(1, body(1, 3, 1), 1), report(1, body(3, 2, 2), 2)];
    assert_eq!(recovery_plan(s(1), reports), Err((s(3), ballot(1, 1))));
    let reports = vec![report(1, body(1, 3, 1), 1), report(1, body(1, 3, 2), 2)];
    assert_eq!(recovery_plan(s(1), reports), Err((s(1), ballot(1, 1))));
}

#[test]
fn a_chosen_prefix_makes_everything_below_it_uninteresting() {
    let reports = vec![report(2, body(1, 2, 1), 1), report(1, body(2, 3, 2), 2), report(1, body(5, 1, 3), 2)];
    let (plan, next) = recovery_plan(s(3), reports).expect("no conflict");
    let adopt = Planned::Adopt { body: body(5, 1, 3), holders: vec![n(2)] };
    assert_eq!((plan, next), (VecDeque::from([Planned::Fill(s(3)..s(5)), adopt]), s(6)));
    assert_eq!(recovery_plan(s(6), vec![report(2, body(1, 2, 1), 1)]), Ok((VecDeque::new(), s(6))));
}

// --- every history of three acceptors, three slots and three ballots -------------------------------------------------

const SLOTS: u64 = 3;
const ACCEPTORS: usize = 3;
/// Who may have answered phase 1.
const QUORUMS: [&[usize]; 4] = [&[0, 1], &[0, 2], &[1, 2], &[0, 1, 2]];

/// How a leader gets from reports to a plan.
type Planner = fn(Slot, Reports) -> (VecDeque<Planned>, Slot);

fn by_the_rule(mark: Slot, reports: Reports) -> (VecDeque<Planned>, Slot) {
    recovery_plan(mark, reports).expect("proposers are honest")
}

/// What the acceptors hold, and what was chosen at any time.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct History {
    accepted: [BTreeMap<Slot, (u64, BodyHandle)>; ACCEPTORS],
    chosen: BTreeSet<BodyHandle>,
}

impl History {
    fn start() -> BTreeSet<History> {
        BTreeSet::from([History { accepted: Default::default(), chosen: BTreeSet::new() }])
    }

    /// The acceptor's rule: a body replaces all that it shares a slot with.
    fn accept(&mut self, acceptor: usize, round: u64, body: BodyHandle) {
        self.accepted[acceptor].retain(|_, (_, known)| !known.overlaps(&body));
        self.accepted[acceptor].insert(body.first, (round, body));
    }

    fn agrees(&self) -> bool {
        self.chosen.iter().all(|one| self.chosen.iter().all(|other| one == other || !one.overlaps(other)))
    }

    /// The ends of all chosen prefixes: where a mark may stand.
    fn marks(&self) -> Vec<Slot> {
        let mut marks = vec![s(1)];
        while let Some(body) = self.chosen.iter().find(|body| body.first == *marks.last().expect("begins with one")) {
            marks.push(body.end());
        }
        marks
    }

    /// Every plan that phase 1 may lead to: from any mark, with the answers of any quorum.
    fn plans(&self, planner: Planner) -> Vec<(Slot, VecDeque<Planned>, Slot)> {
        let mut plans = Vec::new();
        for mark in self.marks() {
            for quorum in QUORUMS {
                let held = quorum.iter().flat_map(|acceptor| {
                    let node = *acceptor as u32 + 1;
                    self.accepted[*acceptor].values().map(move |(round, body)| report(*round, *body, node))
                });
                let (plan, next) = planner(mark, held.collect());
                plans.push((mark, plan, next));
            }
        }
        plans
    }
}

fn make(round: u64, first: Slot, end: Slot) -> BodyHandle {
    let count = end.since(first) as u32;
    body(first.0, count, u128::from(round * 100 + first.0 * 10 + u64::from(count)))
}

/// Every way to fill slots from `first` on with new bodies, up to the last slot of this small world.
fn splits(round: u64, first: Slot) -> Vec<Vec<BodyHandle>> {
    let mut all = vec![Vec::new()];
    for end in first.0 + 1..=SLOTS + 1 {
        let head = make(round, first, s(end));
        all.extend(splits(round, s(end)).into_iter().map(|tail| [vec![head], tail].concat()));
    }
    all
}

/// Every outcome of one ballot: any quorum answered phase 1, and any acceptors accepted any of the proposals. An accept
/// of a lower ballot that comes later in time counts as earlier here: whoever makes it has not answered this phase 1.
fn after_ballot(planner: Planner, round: u64, histories: &BTreeSet<History>) -> BTreeSet<History> {
    let mut after = BTreeSet::new();
    for history in histories {
        let mut proposals = BTreeSet::new();
        for (_, plan, next) in history.plans(planner) {
            let planned = plan.iter().map(|planned| match planned {
                Planned::Adopt { body, .. } => *body,
                Planned::Fill(gap) => make(round, gap.start, gap.end),
            });
            let planned: Vec<BodyHandle> = planned.collect();
            proposals.extend(splits(round, next).into_iter().map(|new| [planned.clone(), new].concat()));
        }
        for proposed in proposals {
            accept_any(round, history, &proposed, &mut after);
        }
    }
    after
}

fn accept_any(round: u64, history: &History, proposals: &[BodyHandle], after: &mut BTreeSet<History>) {
    let Some((body, others)) = proposals.split_first() else {
        after.insert(history.clone());
        return;
    };
    for acceptors in 0..1u32 << ACCEPTORS {
        let mut next = history.clone();
        for acceptor in (0..ACCEPTORS).filter(|acceptor| acceptors & (1 << acceptor) != 0) {
            next.accept(acceptor, round, *body);
        }
        if acceptors.count_ones() >= 2 {
            next.chosen.insert(*body);
        }
        accept_any(round, &next, others, after);
    }
}

#[test]
fn what_is_chosen_stays_chosen_in_every_history_of_a_small_cluster() {
    let first = after_ballot(by_the_rule, 1, &History::start());
    let second = after_ballot(by_the_rule, 2, &first);
    assert!(first.len() > 500 && second.len() > 10_000, "{} and {} histories", first.len(), second.len());
    assert!(second.iter().all(History::agrees));
    // The third ballot only plans: whatever the first two have chosen, its plan keeps.
    for history in &second {
        for (mark, plan, _) in history.plans(by_the_rule) {
            for chosen in history.chosen.iter().filter(|body| body.first >= mark) {
                let keeps = |planned: &Planned| matches!(planned, Planned::Adopt { body, .. } if body == chosen);
                assert!(plan.iter().any(keeps), "{chosen:?} was chosen, and the plan is {plan:?}");
            }
        }
    }
}

/// Negative controls: the same search finds the disagreement that wrong rules lead to.
#[test]
fn the_same_search_catches_wrong_rules() {
    // The naive ticket protocol: no adopt step at all.
    let naive: Planner = |mark, _| (VecDeque::new(), mark);
    // Whoever comes first is adopted, whatever its ballot.
    let first_come: Planner = |mark, reports| {
        let level = |(report, node): (AcceptedBody, NodeId)| (AcceptedBody { ballot: ballot(1, 1), ..report }, node);
        let mut reports: Reports = reports.into_iter().map(level).collect();
        let mut kept = Reports::new();
        for report in reports.drain(..) {
            if kept.iter().all(|(other, _)| other.body == report.0.body || !other.body.overlaps(&report.0.body)) {
                kept.push(report);
            }
        }
        by_the_rule(mark, kept)
    };
    // It takes no more than one body at the first ballot to go wrong.
    let is_simple = |history: &History| history.accepted.iter().all(|held| held.len() <= 1);
    let first: BTreeSet<_> = after_ballot(by_the_rule, 1, &History::start()).into_iter().filter(is_simple).collect();
    assert!(!after_ballot(naive, 2, &first).iter().all(History::agrees));
    let second = after_ballot(by_the_rule, 2, &first);
    let forgets = |history: &History| {
        history.plans(first_come).into_iter().any(|(mark, plan, _)| {
            let adopted = |body: &BodyHandle| {
                plan.iter().any(|planned| matches!(planned, Planned::Adopt { body: kept, .. } if kept == body))
            };
            history.chosen.iter().any(|body| body.first >= mark && !adopted(body))
        })
    };
    assert!(second.iter().any(forgets));
}
