//! What a new leader makes of the reports of phase 1: the body rule, as a pure function.

use std::collections::{BTreeMap, VecDeque};

use super::{AcceptedBody, Ballot, BodyHandle, NodeId, Slot};
use crate::slot::SlotRange;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Planned {
    /// Propose again what may have been chosen.
    Adopt { body: BodyHandle, holders: Vec<NodeId> },
    /// Close a gap.
    Fill(SlotRange),
}

/// What phase 1 leaves to do from `mark` on: which revealed bodies to propose again, which gaps to close, and the first
/// slot for new bodies.
///
/// The body rule: a body was possibly chosen only if no other body at a higher ballot shows at any of its slots, for
/// whoever proposed that one would have had to adopt it. Such a body is live and adopted whole; the others are dead,
/// and what the higher ones leave open of them is closed by no-ops.
///
/// # Errors
/// The slot and ballot at which two different bodies were proposed: two processes share an identity.
pub(super) fn recovery_plan(
    mark: Slot,
    mut reports: Vec<(AcceptedBody, NodeId)>,
) -> Result<(VecDeque<Planned>, Slot), (Slot, Ballot)> {
    reports.retain(|(report, _)| report.body.end() > mark);
    reports.sort_by_key(|(report, node)| (std::cmp::Reverse(report.ballot), report.body.first, report.body.id, *node));
    let mut live: BTreeMap<Slot, (AcceptedBody, Vec<NodeId>)> = BTreeMap::new();
    let mut shown = Shown::default();
    for (report, node) in reports {
        let body = report.body;
        let rival = live.range(..body.end()).next_back().filter(|(_, (other, _))| other.body.end() > body.first);
        if let Some((first, (other, _))) = rival {
            if other.body == body {
                let first = *first;
                live.get_mut(&first).expect("found just now").1.push(node);
            } else if other.ballot == report.ballot {
                return Err((body.first.max(other.body.first), report.ballot));
            }
        } else if body.first >= mark && !shown.overlaps(&body.slots()) {
            live.insert(body.first, (report, vec![node]));
        }
        shown.insert(body.slots());
    }
    let mut plan = VecDeque::new();
    let mut next = mark;
    for (first, (AcceptedBody { body, .. }, holders)) in live {
        if next < first {
            plan.push_back(Planned::Fill(next..first));
        }
        next = body.end();
        plan.push_back(Planned::Adopt { body, holders });
    }
    Ok((plan, next))
}

/// The slots at which some body of a ballot no lower than the current one has been seen, as disjoint ranges.
#[derive(Default)]
pub(super) struct Shown(BTreeMap<Slot, Slot>);

impl Shown {
    pub(super) fn overlaps(&self, slots: &SlotRange) -> bool {
        self.0.range(..slots.end).next_back().is_some_and(|(_, end)| *end > slots.start)
    }

    pub(super) fn insert(&mut self, mut slots: SlotRange) {
        while let Some((start, end)) = self.0.range(..=slots.end).next_back().map(|(start, end)| (*start, *end))
            && end >= slots.start
        {
            self.0.remove(&start);
            slots = slots.start.min(start)..slots.end.max(end);
        }
        self.0.insert(slots.start, slots.end);
    }
}
