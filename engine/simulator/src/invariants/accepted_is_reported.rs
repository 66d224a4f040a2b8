//! I8, corrupt is not empty: a node never answers phase 1 with less than it once acknowledged, whatever happened to its
//! disk; and what it acknowledged is there when it starts again.

use std::collections::BTreeMap;

use synod_protocol::{AcceptedBody, Ballot, BodyHandle, BodyId, Message, Slot};
use synod_wal::{RecordMeta, RecoveredLog};

use super::{Property, Verdict, Violation};
use crate::network::node_id;
use crate::node::open_bodies;
use crate::oracle::Oracle;

#[derive(Debug, Default)]
struct Acceptor {
    /// The highest accept acknowledged for bodies that begin at a slot.
    acknowledged: BTreeMap<Slot, (Ballot, BodyId)>,
    /// The parts of the promise that is being sent.
    parts: Vec<AcceptedBody>,
}

/// From where on each candidate asked for accepts.
type Asked = BTreeMap<Ballot, Slot>;

/// What each node has acknowledged.
#[derive(Debug)]
pub(super) struct AcceptedIsReported {
    acceptors: Vec<Acceptor>,
    asked: Asked,
}

impl AcceptedIsReported {
    pub(super) fn new(nodes: usize) -> AcceptedIsReported {
        AcceptedIsReported { acceptors: (0..nodes).map(|_| Acceptor::default()).collect(), asked: Asked::new() }
    }

    /// A node writes an accept. Bodies of lower ballots that share a slot with it are dead (the body rule), and the node
    /// may forget them, even if this one is displaced in turn by a body that shares no slot with them.
    pub(super) fn note_written(&mut self, node: usize, meta: &RecordMeta, body: &BodyHandle, oracle: &Oracle) {
        let acknowledged = &mut self.acceptors[node].acknowledged;
        let is_dead = |at: Ballot, id: BodyId| {
            at < meta.ballot && id != body.id && oracle.body(id).is_some_and(|other| other.overlaps(body))
        };
        // What lies below the mark is chosen, and reported no more.
        let open = acknowledged.range(meta.mark.slot.min(body.end())..body.end());
        let dead: Vec<Slot> = open.filter(|(_, (at, id))| is_dead(*at, *id)).map(|(first, _)| *first).collect();
        for first in dead {
            acknowledged.remove(&first);
        }
    }

    pub(super) fn check_sent(&mut self, node: usize, message: &Message, oracle: &Oracle) -> Verdict {
        let acceptor = &mut self.acceptors[node];
        match message {
            Message::Accepted { ballot, first, id } => {
                let highest = acceptor.acknowledged.entry(*first).or_insert((*ballot, *id));
                *highest = (*highest).max((*ballot, *id));
                Ok(())
            }
            Message::Prepare { ballot, from } => {
                self.asked.insert(*ballot, *from);
                Ok(())
            }
            Message::Promise { ballot, mark, part, parts, accepted } => {
                if *part == 0 {
                    acceptor.parts.clear();
                }
                acceptor.parts.extend(accepted);
                if part + 1 < *parts {
                    return Ok(());
                }
                let parts = std::mem::take(&mut acceptor.parts);
                let asked = self.asked.get(ballot).copied().unwrap_or(Slot::FIRST);
                self.check_shown(node, mark.slot.max(asked), &parts, oracle, "promises")
            }
            _ => Ok(()),
        }
    }

    pub(super) fn check_recovered(&self, node: usize, recovered: &RecoveredLog, oracle: &Oracle) -> Verdict {
        self.check_shown(node, recovered.mark.slot, &open_bodies(recovered), oracle, "recovers")
    }

    fn check_shown(&self, node: usize, start: Slot, shown: &[AcceptedBody], oracle: &Oracle, does: &str) -> Verdict {
        for (first, (ballot, id)) in self.acceptors[node].acknowledged.range(start..) {
            let Some(body) = oracle.body(*id) else { continue };
            let overlapping = shown.iter().filter(|report| report.body.overlaps(&body));
            // A body at a higher ballot kills every lower one that shares a slot with it.
            let covered = overlapping
                .into_iter()
                .any(|report| report.ballot > *ballot || (report.ballot == *ballot && report.body == body));
            if !covered {
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
