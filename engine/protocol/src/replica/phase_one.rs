//! Phase 1 per ruling configuration: a leader proposes at a slot only with a prepare quorum, at its ballot, of the
//! configuration that rules the slot. A candidate wins all that it knows of at once; what is chosen later is won by an
//! *extension*: the members of the new configuration are asked for their promises as soon as it is proposed, and what
//! they report joins the plan. The proofs are in `engine/docs/protocol.md`, "Configurations".

use std::collections::BTreeMap;

use super::catch_up::News;
use super::plan::{Planned, recovery_plan};
use super::proposer::Leadership;
use super::{AcceptedBody, Ballot, Configuration, Doubt, Mark, Message, NodeId, Replica, Slot};
use crate::effect::HaltReason;
use crate::time::Instant;

/// No slot of the log lies here: the end of a range that has none.
pub(super) const END: Slot = Slot(u64::MAX);

/// The parts of one acceptor's promise that have arrived.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Promised {
    pub(super) mark: Mark,
    parts: BTreeMap<u32, Vec<AcceptedBody>>,
    parts_count: u32,
    doubts: Vec<Doubt>,
}

impl Promised {
    pub(super) fn is_complete(&self) -> bool {
        self.parts.len() == self.parts_count as usize
    }

    pub(super) fn accepted(&self) -> impl Iterator<Item = &AcceptedBody> {
        self.parts.values().flatten()
    }

    pub(super) fn doubts(&self) -> &[Doubt] {
        &self.doubts
    }
}

/// Takes a part of a promise. All parts answer the same question.
pub(super) fn take_promise(
    promises: &mut BTreeMap<NodeId, Promised>,
    node: NodeId,
    mark: Mark,
    (part, parts_count): (u32, u32),
    (accepted, doubts): (Vec<AcceptedBody>, Vec<Doubt>),
) {
    let fresh = || Promised { mark, parts: BTreeMap::new(), parts_count, doubts: doubts.clone() };
    let promised = promises.entry(node).or_insert_with(fresh);
    if promised.is_complete() {
        return;
    }
    if (promised.mark, promised.parts_count) != (mark, parts_count) || promised.doubts != doubts {
        // The acceptor learned more between two answers, so that its parts don't fit together: begin anew.
        *promised = fresh();
    }
    promised.parts.insert(part, accepted);
}

/// Phase 1 of a leader for a configuration that rules from `from` on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Extension {
    from: Slot,
    /// Chosen, or proposed by this leader.
    configuration: Configuration,
    promises: BTreeMap<NodeId, Promised>,
}

impl Extension {
    fn complete(&self) -> impl Iterator<Item = (&NodeId, &Promised)> {
        self.promises.iter().filter(|(_, promised)| promised.is_complete())
    }
}

impl Leadership {
    /// Takes a part of a promise to a leader, if it was asked for.
    pub(super) fn take_extension(
        &mut self,
        node: NodeId,
        asked_from: Slot,
        mark: Mark,
        parts: (u32, u32),
        told: (Vec<AcceptedBody>, Vec<Doubt>),
    ) {
        if let Some(extension) = self.extension.as_mut().filter(|extension| extension.from == asked_from) {
            take_promise(&mut extension.promises, node, mark, parts, told);
        }
    }

    /// What lies at `from` or behind is ruled by a configuration that isn't won yet: no plan was ever made for it.
    fn confine_plan(&mut self, from: Slot) {
        while let Some(last) = self.plan.back_mut() {
            match last {
                Planned::Fill(gap) if gap.start < from => {
                    gap.end = gap.end.min(from);
                    break;
                }
                Planned::Adopt { body, .. } if body.first < from => break,
                _ => self.plan.pop_back(),
            };
        }
        self.next_slot = self.next_slot.min(from);
        self.confine_recovered(from);
    }
}

impl Replica {
    /// A configuration was chosen that rules from `from` on, with other voters than before.
    pub(super) fn confine_leadership(&mut self, from: Slot) {
        let mark = self.mark.slot;
        let Some(leadership) = self.leadership() else { return };
        leadership.prepared_to = leadership.prepared_to.min(from);
        if !leadership.is_catching_up() {
            leadership.confine_plan(from);
            leadership.next_slot = leadership.next_slot.max(mark);
        }
    }

    /// Asks the members of a configuration that was proposed or chosen for their promises.
    pub(super) fn begin_extension(&mut self, configuration: Configuration) {
        let Some(leadership) = self.leadership() else { return };
        let from = configuration.rules_from();
        leadership.extension = Some(Extension { from, configuration, promises: BTreeMap::new() });
        self.ask_extension();
    }

    /// Asks those who haven't promised yet.
    pub(super) fn ask_extension(&mut self) {
        let node = self.node;
        let Some(leadership) = self.leadership() else { return };
        let ballot = leadership.ballot;
        let Some(extension) = &leadership.extension else { return };
        let from = extension.from;
        let promised: Vec<NodeId> = extension.complete().map(|(node, _)| *node).collect();
        let silent = extension.configuration.members.iter().copied();
        let silent: Vec<NodeId> = silent.filter(|member| *member != node && !promised.contains(member)).collect();
        for member in silent {
            self.send(member, Message::Prepare { ballot, from });
        }
    }

    /// Wins the next configuration, if its members have promised, and plans what they report from where it rules.
    pub(super) fn extend_phase_one(&mut self, now: Instant) {
        let mark = self.mark.slot;
        let Some(leadership) = self.leadership() else { return };
        if leadership.is_catching_up() || leadership.prepared_to == END {
            return;
        }
        // What ruled below the mark needs no promise any more, and may be forgotten.
        let next = leadership.prepared_to.max(mark);
        let asked = leadership.extension.as_ref().map(|extension| extension.from);
        let configuration = self.configurations.configuration_at(next);
        let from = configuration.rules_from();
        if asked != Some(from) {
            let configuration = configuration.clone();
            self.begin_extension(configuration);
        }
        let node = self.node;
        let Some(extension) = self.leadership().and_then(|leadership| leadership.extension.clone()) else { return };
        let mut votes: Vec<NodeId> = extension.complete().map(|(node, _)| *node).collect();
        votes.push(node);
        if !extension.configuration.is_prepare_quorum(&votes)
            || !self.is_prepare_quorum_everywhere(&extension.promises, &votes, from)
        {
            return;
        }
        if let Some((peer, ahead)) = extension.complete().max_by_key(|(_, promised)| promised.mark.slot)
            && ahead.mark.slot > self.mark.slot
        {
            // What is chosen there isn't reported: it must be learned first.
            if self.compare_chain(*peer, ahead.mark) {
                self.learn_to(now, News { from: *peer, ballot: Ballot::ZERO, mark: ahead.mark });
            }
            if self.halted || self.mark.slot < ahead.mark.slot {
                return;
            }
        }
        self.join_extension(now, from, &extension);
    }

    fn join_extension(&mut self, now: Instant, from: Slot, extension: &Extension) {
        let start = from.max(self.mark.slot);
        let end = self.configurations.boundary_after(start).unwrap_or(END);
        let own = self.accepted().map(|report| (report, self.node));
        let told = extension.complete().flat_map(|(node, promised)| promised.accepted().map(|report| (*report, *node)));
        let reports = own.chain(told).filter(|(report, _)| report.body.first < end).collect();
        let plan = recovery_plan(start, reports);
        let Some(leadership) = self.leadership() else { return };
        let (plan, next) = match plan {
            Ok(plan) => plan,
            Err((slot, ballot)) => return self.halt(HaltReason::BallotConflict { slot, ballot }),
        };
        leadership.prepared_to = end;
        leadership.extension = None;
        if !plan.is_empty() {
            if leadership.next_slot < start {
                // The plan goes on behind it: there is no room for commands any more.
                leadership.plan.push_back(Planned::Fill(leadership.next_slot..start));
            }
            leadership.plan.extend(plan);
            leadership.next_slot = leadership.next_slot.max(next);
            leadership.extend_recovered(next);
        }
        self.follow_plan(now);
        self.settle_recovered();
        self.confirm(now);
    }

    /// Finds out whether what was recovered is all that earlier ballots may have chosen, now and for ever.
    ///
    /// As long as the plan may choose a configuration, or one isn't won, an earlier ballot might choose by a quorum that
    /// nobody has asked.
    pub(super) fn settle_recovered(&mut self) {
        let mark = self.mark.slot;
        let Some(leadership) = self.leadership() else { return };
        let Some(recovered) = leadership.recovered() else { return };
        if leadership.settled().is_some() || leadership.prepared_to != END {
            return;
        }
        if recovered <= mark || !leadership.may_adopt_configuration() {
            leadership.is_settled = true;
            let ballot = leadership.ballot;
            self.confine_doubts(ballot, recovered);
        }
    }
}
