//! Voting with a damaged log: abstaining from exactly the votes that the damage could touch.
//!
//! Two things may be lost with a record. An *accept*: then the acceptor's promise is no answer for the slots that it
//! may have filled ([`Doubt`]), until an accept at the bound of the doubt or above is known there. And a *promise*: then
//! the acceptor is *unsure* of all its votes. Whoever holds a ballot has promised it to itself, durably, before asking
//! anybody; so once every other member has told its promise, the highest of them is no lower than what was lost. The
//! proofs are in `engine/docs/protocol.md`.

use std::collections::{BTreeMap, BTreeSet};

use super::phase_one::Promised;
use super::{Accepted, AcceptedBody, Ballot, BodyHandle, Configuration, LogEntry, Message, NodeId, Replica, Slot};
use crate::limits::{DOUBTS_MAX, ROUND_MAX};
use crate::message::Doubt;
use crate::time::Instant;

/// What a replica that is unsure of its promise has been told so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Inquiry {
    answered: BTreeSet<NodeId>,
    highest: Ballot,
    ask_at: Instant,
}

impl Inquiry {
    pub(super) fn deadline(&self) -> Instant {
        self.ask_at
    }
}

impl Replica {
    /// The ballot that asks for promises: below every ballot in use, so that any promise refuses it by its name, and of
    /// this life, so that no answer to an earlier one passes for an answer to it.
    fn inquiring(&self) -> Ballot {
        Ballot { round: 0, node: self.node, boot: self.boot }
    }

    /// Asks the other members for their promises, as long as one of them hasn't told.
    pub(super) fn inquire(&mut self, now: Instant) {
        let ballot = self.inquiring();
        let ask_at = now.plus(self.settings.retransmit_interval);
        let Some(inquiry) = &mut self.unsure else { return };
        if now < inquiry.ask_at {
            return;
        }
        inquiry.ask_at = ask_at;
        let (answered, from) = (inquiry.answered.clone(), self.mark.slot);
        for peer in self.voters().into_iter().filter(|peer| !answered.contains(peer)) {
            self.send(peer, Message::PreVote { ballot, from });
        }
    }

    /// Takes an answer to [`Replica::inquire`]; whether it was one.
    pub(super) fn on_told_promise(&mut self, from: NodeId, ballot: Ballot, promised: Ballot) -> bool {
        if ballot != self.inquiring() {
            return false;
        }
        let peers = self.voters();
        let quorum = self.configurations.active_from(self.mark.slot).map(|c| c.prepare_quorum).min().unwrap_or(1);
        let Some(inquiry) = &mut self.unsure else { return true };
        inquiry.answered.insert(from);
        inquiry.highest = inquiry.highest.max(promised);
        // Were this node a prepare quorum by itself, it could have led without anybody knowing.
        if quorum > 1 && peers.iter().all(|peer| inquiry.answered.contains(peer)) {
            let highest = inquiry.highest.max(self.promised);
            self.be_sure_above(highest);
        }
        true
    }

    /// Nothing lost was above `highest`: promises a ballot above it, that of nobody, so that whoever leads must prepare
    /// again and find out what this acceptor has forgotten.
    fn be_sure_above(&mut self, highest: Ballot) {
        self.unsure = None;
        for doubt in &mut self.doubts {
            doubt.bound = highest;
        }
        self.promised = Ballot { round: (highest.round + 1).min(ROUND_MAX), node: self.node, boot: self.boot };
        self.note_round(self.promised);
        self.promise_append = self.append(LogEntry::Promise);
        self.leader = None;
    }

    /// Takes from a leader, this replica or another, what its phase 1 found out: from `recovered` on, nothing was
    /// chosen below its ballot.
    pub(super) fn confine_doubts(&mut self, ballot: Ballot, recovered: Slot) {
        // Whoever is unsure doesn't know either how high the ballot of a lost accept may be.
        if recovered < Slot::FIRST || self.unsure.is_some() {
            return;
        }
        for doubt in self.doubts.iter_mut().filter(|doubt| doubt.bound < ballot) {
            doubt.end = doubt.end.min(recovered);
        }
        self.drop_doubts();
    }

    /// An accept whose bytes are lost: as if the record were.
    pub(super) fn doubt_accepted(&mut self, body: &BodyHandle) {
        let known = self.accepted.get(&body.first).filter(|known| known.body == *body).copied();
        let Some(Accepted { ballot, .. }) = known else { return };
        self.accepted.remove(&body.first);
        let doubt = Doubt { first: body.first, end: body.end(), bound: ballot };
        self.doubts = bounded(std::mem::take(&mut self.doubts).into_iter().chain([doubt]).collect());
    }

    /// What is chosen is beyond doubt.
    pub(super) fn drop_doubts(&mut self) {
        let mark = self.mark.slot;
        self.doubts.retain(|doubt| doubt.end > mark && doubt.first < doubt.end);
    }

    /// The doubts that a promise must name, to a candidate that knows what is chosen below `from`.
    pub(super) fn doubts_from(&self, from: Slot) -> Vec<Doubt> {
        let from = from.max(self.mark.slot);
        let open = self.doubts.iter().filter(|doubt| doubt.end > from);
        open.map(|doubt| Doubt { first: doubt.first.max(from), ..*doubt }).collect()
    }

    /// Whether a prepare quorum of the configuration that rules it is free of doubt at every open slot from `from` on.
    pub(super) fn is_prepare_quorum_everywhere(
        &self,
        promises: &BTreeMap<NodeId, Promised>,
        votes: &[NodeId],
        from: Slot,
    ) -> bool {
        let complete = |node: &NodeId| promises.get(node).filter(|promised| promised.is_complete());
        let own = self.doubts_from(self.mark.slot);
        let mut doubts: Vec<(NodeId, Doubt)> = own.into_iter().map(|doubt| (self.node, doubt)).collect();
        let mut chosen = self.mark.slot.max(from);
        for (node, promised) in votes.iter().filter_map(|node| Some((node, complete(node)?))) {
            doubts.extend(promised.doubts().iter().map(|doubt| (*node, *doubt)));
            chosen = chosen.max(promised.mark.slot);
        }
        // What any of them knows to be chosen, all can learn.
        doubts.retain(|(_, doubt)| doubt.end > chosen);
        if doubts.is_empty() {
            return true;
        }
        // What each acceptor reports is disjoint, so that one look per acceptor finds its report at a slot.
        let mut reports: Vec<BTreeMap<Slot, AcceptedBody>> = vec![by_slot(self.accepted())];
        reports.extend(votes.iter().filter_map(complete).map(|promised| by_slot(promised.accepted().copied())));
        let mut edges: BTreeSet<Slot> = BTreeSet::from([chosen]);
        edges.extend(doubts.iter().flat_map(|(_, doubt)| [doubt.first, doubt.end]));
        edges.extend(self.configurations.active_from(chosen).map(Configuration::rules_from));
        edges.extend(reports.iter().flatten().flat_map(|(_, report)| [report.body.first, report.body.end()]));
        edges.into_iter().filter(|slot| *slot >= chosen).all(|slot| {
            let in_doubt: Vec<&(NodeId, Doubt)> = doubts.iter().filter(|(_, doubt)| doubt.covers(slot)).collect();
            if in_doubt.is_empty() {
                return true;
            }
            let last = |of: &BTreeMap<Slot, AcceptedBody>| of.range(..=slot).next_back().map(|(_, report)| *report);
            let here = reports.iter().filter_map(last).filter(|report| report.body.end() > slot);
            let known = here.map(|report| report.ballot).max().unwrap_or(Ballot::ZERO);
            let silent = |node: &NodeId| in_doubt.iter().any(|(other, doubt)| other == node && doubt.bound > known);
            let free: Vec<NodeId> = votes.iter().copied().filter(|node| !silent(node)).collect();
            self.configurations.configuration_at(slot).is_prepare_quorum(&free)
        })
    }
}

fn by_slot(reports: impl Iterator<Item = AcceptedBody>) -> BTreeMap<Slot, AcceptedBody> {
    reports.map(|report| (report.body.first, report)).collect()
}

/// Joins the nearest doubts until there are no more than a promise can name.
pub(super) fn bounded(mut doubts: Vec<Doubt>) -> Vec<Doubt> {
    doubts.retain(|doubt| doubt.first < doubt.end);
    if doubts.len() <= DOUBTS_MAX {
        return doubts;
    }
    doubts.sort_unstable();
    // How far each doubt begins behind the end of all before it.
    let mut end = doubts[0].end;
    let mut gaps: Vec<(u64, usize)> = Vec::with_capacity(doubts.len());
    for (index, doubt) in doubts.iter().enumerate().skip(1) {
        gaps.push((doubt.first.since(end), index));
        end = end.max(doubt.end);
    }
    gaps.sort_unstable();
    let kept: BTreeSet<usize> = gaps.iter().rev().take(DOUBTS_MAX - 1).map(|(_, index)| *index).collect();
    let mut joined: Vec<Doubt> = Vec::with_capacity(DOUBTS_MAX);
    for (index, doubt) in doubts.into_iter().enumerate() {
        match joined.last_mut() {
            Some(earlier) if !kept.contains(&index) => {
                earlier.end = earlier.end.max(doubt.end);
                earlier.bound = earlier.bound.max(doubt.bound);
            }
            _ => joined.push(doubt),
        }
    }
    joined
}
