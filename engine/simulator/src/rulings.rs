//! Which configuration rules which slot, as judged from outside: by the chosen configuration bodies alone, of which each
//! must succeed the one before it, or is void; and the one chosen at slot i rules from i + alpha on.

use std::collections::BTreeMap;

use synod_frame::{BodyHeader, ConfigurationBody, RECORD_HEADER_BYTES};
use synod_protocol::{BodyHandle, BodyId, BodyKind, Configuration, Slot};

/// See the module documentation.
#[derive(Clone, Debug)]
pub struct Rulings {
    genesis: Configuration,
    /// What configuration bodies hold, whoever wrote them.
    contents: BTreeMap<BodyId, Configuration>,
    /// The chosen ones, and where the one was chosen that each succeeds.
    chosen: BTreeMap<Slot, (Slot, Configuration)>,
    /// Those of them that aren't void.
    ruling: BTreeMap<Slot, Configuration>,
}

impl Rulings {
    /// Nothing but the first configuration.
    pub fn new(genesis: Configuration) -> Rulings {
        Rulings { genesis, contents: BTreeMap::new(), chosen: BTreeMap::new(), ruling: BTreeMap::new() }
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
        self.contents.insert(body.id, configuration);
    }

    /// A body is chosen.
    pub fn note_chosen(&mut self, body: &BodyHandle) {
        let BodyKind::Configuration { after } = body.kind else { return };
        let Some(content) = self.contents.get(&body.id) else { return };
        if self.chosen.insert(body.first, (after, content.clone())).is_some() {
            return;
        }
        self.ruling.clear();
        let mut newest = self.genesis.chosen_at;
        for (slot, (after, configuration)) in &self.chosen {
            if *after == newest {
                newest = *slot;
                self.ruling.insert(*slot, configuration.clone());
            }
        }
    }

    /// The configuration that rules `slot`.
    pub fn at(&self, slot: Slot) -> &Configuration {
        let last = slot.0.saturating_sub(u64::from(self.genesis.alpha));
        self.ruling.range(..=Slot(last)).next_back().map_or(&self.genesis, |(_, configuration)| configuration)
    }

    /// The last one that was chosen.
    pub fn newest(&self) -> &Configuration {
        self.ruling.last_key_value().map_or(&self.genesis, |(_, configuration)| configuration)
    }

    /// How many configurations were chosen that rule.
    pub fn changes(&self) -> usize {
        self.ruling.len()
    }
}
