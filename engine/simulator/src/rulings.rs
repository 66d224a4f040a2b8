//! Which configuration rules which slot, as judged from outside: by the chosen configuration bodies alone, of which each
//! must succeed the one before it, or is void; and the one chosen at slot i rules from i + alpha on.

use std::collections::BTreeMap;

use synod_frame::{BodyHeader, ConfigurationBody, Member, RECORD_HEADER_BYTES};
use synod_protocol::{BodyHandle, BodyId, BodyKind, Configuration, NodeId, Slot};

/// See the module documentation.
#[derive(Clone, Debug)]
pub struct Rulings {
    genesis: Configuration,
    /// The stores that genesis names.
    first: Vec<Member>,
    /// What configuration bodies hold, whoever wrote them, and the stores that they name.
    contents: BTreeMap<BodyId, (Configuration, Vec<Member>)>,
    /// The chosen ones, and where the one was chosen that each succeeds.
    chosen: BTreeMap<Slot, (Slot, BodyId)>,
    /// Those of them that aren't void.
    ruling: BTreeMap<Slot, (Configuration, Vec<Member>)>,
}

impl Rulings {
    /// Nothing but the first configuration.
    pub fn new(genesis: Configuration, first: Vec<Member>) -> Rulings {
        Rulings { genesis, first, contents: BTreeMap::new(), chosen: BTreeMap::new(), ruling: BTreeMap::new() }
    }

    /// Somebody writes a configuration body.
    pub fn note_written(&mut self, body: &BodyHandle, record: &[u8]) {
        if !body.kind.is_configuration() || self.contents.contains_key(&body.id) {
            return;
        }
        let bytes = &record[RECORD_HEADER_BYTES..];
        let header = BodyHeader::parse(bytes).expect("it was written just now");
        let content = ConfigurationBody::decode(&header, bytes).expect("nobody writes what can't rule");
        let configuration = content.to_configuration(body.first).expect("decoding has checked it");
        self.contents.insert(body.id, (configuration, content.nodes().copied().collect()));
    }

    /// A body is chosen.
    pub fn note_chosen(&mut self, body: &BodyHandle) {
        let BodyKind::Configuration { after } = body.kind else { return };
        if !self.contents.contains_key(&body.id) || self.chosen.insert(body.first, (after, body.id)).is_some() {
            return;
        }
        self.ruling.clear();
        let mut newest = self.genesis.chosen_at;
        for (slot, (after, body)) in &self.chosen {
            if *after == newest {
                newest = *slot;
                self.ruling.insert(*slot, self.contents[body].clone());
            }
        }
    }

    /// The configuration that rules `slot`.
    pub fn at(&self, slot: Slot) -> &Configuration {
        let last = slot.0.saturating_sub(u64::from(self.genesis.alpha));
        self.ruling.range(..=Slot(last)).next_back().map_or(&self.genesis, |(_, (configuration, _))| configuration)
    }

    /// The last one that was chosen.
    pub fn newest(&self) -> &Configuration {
        self.ruling.last_key_value().map_or(&self.genesis, |(_, (configuration, _))| configuration)
    }

    /// The store that the last one names for a node.
    pub fn newest_store_of(&self, node: NodeId) -> Option<[u8; 16]> {
        store_of(self.ruling.last_key_value().map_or(&self.first, |(_, (_, members))| members), node)
    }

    /// The store that counts for a node, for whoever has delivered everything below `delivered`: as the last configuration
    /// there names it, or the one before, as long as that rules.
    pub fn store_that_counts(&self, delivered: Slot, node: NodeId) -> Option<[u8; 16]> {
        let mut known =
            self.ruling.range(..delivered).rev().map(|(_, (configuration, members))| (configuration, members));
        let first = (&self.genesis, &self.first);
        let (newest, members) = known.next().unwrap_or(first);
        store_of(members, node).or_else(|| {
            let (_, before) = known.next().unwrap_or(first);
            (delivered < newest.rules_from()).then(|| store_of(before, node)).flatten()
        })
    }

    /// How many configurations were chosen that rule.
    pub fn changes(&self) -> usize {
        self.ruling.len()
    }
}

fn store_of(members: &[Member], node: NodeId) -> Option<[u8; 16]> {
    members.iter().find(|member| member.node == node).map(|member| member.incarnation)
}
