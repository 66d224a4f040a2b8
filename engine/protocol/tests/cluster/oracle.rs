//! What is chosen, judged from outside by the durable accepts of all nodes (*Paxos Made Simple* §2.2: a value is chosen
//! when a large enough set of acceptors has accepted it in one proposal).

use std::collections::{BTreeMap, BTreeSet};

use synod_protocol::{Append, Ballot, BodyHandle, BodyId, LogEntry, NodeId, Slot};

/// Knows every durable accept there ever was.
pub(crate) struct Oracle {
    accept_quorum: u32,
    /// Which body was proposed, by ballot and first slot.
    proposed: BTreeMap<Ballot, BTreeMap<Slot, BodyHandle>>,
    accepts: BTreeMap<(Ballot, BodyId), BTreeSet<NodeId>>,
    chosen: BTreeMap<Slot, BodyHandle>,
}

impl Oracle {
    pub(super) fn new(accept_quorum: u32) -> Oracle {
        Oracle { accept_quorum, proposed: BTreeMap::new(), accepts: BTreeMap::new(), chosen: BTreeMap::new() }
    }

    /// The chosen bodies by first slot, contiguous or not.
    pub(crate) fn chosen(&self) -> &BTreeMap<Slot, BodyHandle> {
        &self.chosen
    }

    pub(super) fn note_durable(&mut self, node: NodeId, append: &Append) {
        let LogEntry::Accepted { ballot, body } = append.entry else { return };
        let proposed = self.proposed.entry(ballot).or_default();
        for other in overlapping(proposed, &body) {
            assert_eq!(other, body, "one body per ballot and slot, ballot {ballot}");
        }
        proposed.insert(body.first, body);
        let accepts = self.accepts.entry((ballot, body.id)).or_default();
        accepts.insert(node);
        if accepts.len() >= self.accept_quorum as usize {
            for other in overlapping(&self.chosen, &body) {
                assert_eq!(other, body, "two bodies are chosen for one slot, the second at {ballot}");
            }
            self.chosen.insert(body.first, body);
        }
    }

    pub(super) fn check_delivery(&self, node: NodeId, body: &BodyHandle) {
        let chosen = self.chosen.get(&body.first);
        assert_eq!(chosen, Some(body), "{node} delivers what isn't chosen");
    }
}

/// The bodies of a disjoint set that share a slot with `body`.
fn overlapping(bodies: &BTreeMap<Slot, BodyHandle>, body: &BodyHandle) -> Vec<BodyHandle> {
    let before = bodies.range(..body.end()).rev();
    before.map(|(_, other)| *other).take_while(|other| other.end() > body.first).collect()
}
