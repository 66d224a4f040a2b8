//! What is chosen, judged from outside by the durable accepts of all nodes (*Paxos Made Simple* §2.2: a value is chosen
//! when a large enough set of acceptors has accepted it in one proposal).

use std::collections::{BTreeMap, BTreeSet};

use synod_protocol::{Append, Ballot, BodyHandle, BodyId, BodyKind, Configuration, LogEntry, NodeId, Slot};

/// Knows every durable accept there ever was.
pub(crate) struct Oracle {
    genesis: Configuration,
    /// The chosen configurations, and where the one was chosen that each succeeds.
    by_slot: BTreeMap<Slot, (Slot, Configuration)>,
    /// Those of them that aren't void.
    configurations: BTreeMap<Slot, Configuration>,
    /// Which body was proposed, by ballot and first slot.
    proposed: BTreeMap<Ballot, BTreeMap<Slot, BodyHandle>>,
    accepts: BTreeMap<(Ballot, BodyId), BTreeSet<NodeId>>,
    chosen: BTreeMap<Slot, BodyHandle>,
}

impl Oracle {
    pub(super) fn new(genesis: Configuration) -> Oracle {
        Oracle {
            genesis,
            by_slot: BTreeMap::new(),
            configurations: BTreeMap::new(),
            proposed: BTreeMap::new(),
            accepts: BTreeMap::new(),
            chosen: BTreeMap::new(),
        }
    }

    /// Finds out which configurations rule: those that succeed the last one before them that does.
    fn rule(&mut self) {
        self.configurations.clear();
        let mut newest = self.genesis.chosen_at;
        for (slot, (after, configuration)) in &self.by_slot {
            if *after == newest {
                newest = *slot;
                self.configurations.insert(*slot, configuration.clone());
            }
        }
    }

    /// The configuration that rules `slot`, by what is chosen up to alpha slots before.
    pub(crate) fn configuration_at(&self, slot: Slot) -> &Configuration {
        let last = slot.0.saturating_sub(u64::from(self.genesis.alpha));
        self.configurations.range(..=Slot(last)).next_back().map_or(&self.genesis, |(_, chosen)| chosen)
    }

    /// The chosen bodies by first slot, contiguous or not.
    pub(crate) fn chosen(&self) -> &BTreeMap<Slot, BodyHandle> {
        &self.chosen
    }

    pub(super) fn note_durable(&mut self, node: NodeId, append: &Append, contents: &BTreeMap<BodyId, Configuration>) {
        let LogEntry::Accepted { ballot, body } = append.entry else { return };
        let proposed = self.proposed.entry(ballot).or_default();
        for other in overlapping(proposed, &body) {
            assert_eq!(other, body, "one body per ballot and slot, ballot {ballot}");
        }
        proposed.insert(body.first, body);
        let accepts = self.accepts.entry((ballot, body.id)).or_default();
        accepts.insert(node);
        let accepts: Vec<NodeId> = accepts.iter().copied().collect();
        let ruling = self.configuration_at(body.first);
        let last = self.configuration_at(Slot(body.end().0 - 1));
        assert_eq!(ruling, last, "{body:?} at {ballot} on {node} reaches over a boundary of configurations");
        if ruling.is_accept_quorum(&accepts) {
            for other in overlapping(&self.chosen, &body) {
                assert_eq!(other, body, "two bodies are chosen for one slot, the second at {ballot}");
            }
            self.chosen.insert(body.first, body);
            if let BodyKind::Configuration { after } = body.kind {
                let configuration = contents[&body.id].clone();
                assert_eq!(configuration.chosen_at, body.first, "a configuration names its slot");
                self.by_slot.insert(body.first, (after, configuration));
                self.rule();
            }
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
