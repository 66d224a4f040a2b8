//! I8, corrupt is not empty: a node never answers phase 1 with less than it once acknowledged, whatever happened to its
//! disk; and what it acknowledged is there when it starts again.

use std::collections::BTreeMap;
use std::ops::Bound;

use synod_protocol::{AcceptedBody, Ballot, BodyId, Doubt, Message, Slot};
use synod_wal::RecoveredLog;

use super::{Property, Verdict, Violation};
use crate::network::node_id;
use crate::oracle::Oracle;

#[derive(Debug, Default)]
struct Acceptor {
    /// The accepts that were acknowledged, by the first slot of their body, without those that died: a body that is
    /// accepted at a higher ballot proves that no other body which shares a slot with it was ever chosen.
    acknowledged: BTreeMap<Slot, (Ballot, BodyId)>,
    /// The parts of the promise that is being sent.
    parts: Vec<AcceptedBody>,
    /// Whether it has ever opened a damaged log.
    damaged: bool,
}

/// What each node has acknowledged.
#[derive(Debug)]
pub(super) struct AcceptedIsReported {
    acceptors: Vec<Acceptor>,
    /// Where what earlier ballots may have chosen ended, by the ballot whose phase 1 found that out.
    established: BTreeMap<Ballot, Slot>,
}

impl AcceptedIsReported {
    pub(super) fn new(nodes: usize) -> AcceptedIsReported {
        AcceptedIsReported {
            acceptors: (0..nodes).map(|_| Acceptor::default()).collect(),
            established: BTreeMap::new(),
        }
    }

    /// A node has opened a damaged log.
    pub(super) fn note_damaged(&mut self, node: usize) {
        self.acceptors[node].damaged = true;
    }

    /// A node begins with a new store.
    pub(super) fn renew(&mut self, node: usize) {
        self.acceptors[node] = Acceptor::default();
    }

    /// A node's accept became durable: what it kills needn't be reported any more, but in its place it must be.
    pub(super) fn note_durable(&mut self, node: usize, id: BodyId, ballot: Ballot, oracle: &Oracle) {
        let Some(body) = oracle.body(id) else { return };
        let acknowledged = &mut self.acceptors[node].acknowledged;
        let dies = |(highest, other): &(Ballot, BodyId)| {
            *highest < ballot && oracle.body(*other).is_some_and(|other| other.overlaps(&body))
        };
        let killed = acknowledged.extract_if(..body.end(), |_, accept| dies(accept)).count();
        if killed > 0 {
            acknowledged.insert(body.first, (ballot, id));
        }
    }

    /// A node's copy of a chosen body became durable: what shares a slot with it was chosen nowhere.
    pub(super) fn note_copied(&mut self, node: usize, id: BodyId, oracle: &Oracle) {
        let Some(body) = oracle.body(id) else { return };
        if oracle.chosen_at(body.first).is_none_or(|chosen| chosen.body != body) {
            return;
        }
        let dies = |other: BodyId| other != id && oracle.body(other).is_some_and(|other| other.overlaps(&body));
        self.acceptors[node].acknowledged.retain(|_, (_, other)| !dies(*other));
    }

    pub(super) fn check_sent(&mut self, node: usize, message: &Message, oracle: &Oracle) -> Verdict {
        let acceptor = &mut self.acceptors[node];
        match message {
            Message::Accepted { ballot, first, id } => {
                let highest = acceptor.acknowledged.entry(*first).or_insert((*ballot, *id));
                *highest = (*highest).max((*ballot, *id));
                Ok(())
            }
            Message::Heartbeat { ballot, recovered, .. } if *recovered >= Slot::FIRST => {
                self.established.insert(*ballot, *recovered);
                Ok(())
            }
            Message::Promise { ballot, from, mark, part, parts, accepted, doubts } => {
                if *part == 0 {
                    acceptor.parts.clear();
                }
                acceptor.parts.extend(accepted);
                if part + 1 < *parts {
                    return Ok(());
                }
                let parts = std::mem::take(&mut acceptor.parts);
                self.check_shown(node, Some(*ballot), mark.slot.max(*from), (&parts, doubts), oracle, "promises")
            }
            _ => Ok(()),
        }
    }

    pub(super) fn check_recovered(&self, node: usize, recovered: &RecoveredLog, oracle: &Oracle) -> Verdict {
        if recovered.unsure {
            // Until it is sure of its promise, it says nothing; and then what it says is looked at.
            return Ok(());
        }
        let shown = (&*recovered.open_bodies(), &*recovered.doubts);
        self.check_shown(node, None, recovered.mark.slot, shown, oracle, "recovers")
    }

    /// What was accepted from `start` on, below that ballot if one is given, and isn't chosen must be among what is shown.
    fn check_shown(
        &self,
        node: usize,
        below: Option<Ballot>,
        start: Slot,
        (shown, doubts): (&[AcceptedBody], &[Doubt]),
        oracle: &Oracle,
        does: &str,
    ) -> Verdict {
        for (first, (ballot, id)) in self.acceptors[node].acknowledged.range(start..) {
            let Some(body) = oracle.body(*id).filter(|_| below.is_none_or(|below| *ballot < below)) else { continue };
            let overlapping = shown.iter().filter(|report| report.body.overlaps(&body));
            // A body at a higher ballot kills every lower one that shares a slot with it.
            let covered = overlapping
                .into_iter()
                .any(|report| report.ballot > *ballot || (report.ballot == *ballot && report.body == body));
            // What may be lost is answered for by a doubt.
            let doubted = |slot: u64| doubts.iter().any(|doubt| doubt.covers(Slot(slot)) && doubt.bound >= *ballot);
            let in_doubt = || (first.0.max(start.0)..body.end().0).all(doubted);
            // What was lost and lies where a later ballot found nothing chosen was chosen nowhere.
            let is_void = || {
                let later = self.established.range((Bound::Excluded(*ballot), Bound::Unbounded));
                self.acceptors[node].damaged && later.into_iter().any(|(_, recovered)| *recovered <= *first)
            };
            if !covered && !in_doubt() && !is_void() {
                return Err(Violation::new(
                    Property::AcceptedIsReported,
                    format!(
                        "{} {does} nothing at slot {first} from {start} on, but had accepted {body:?} at {ballot}",
                        node_id(node)
                    ),
                ));
            }
        }
        Ok(())
    }
}
