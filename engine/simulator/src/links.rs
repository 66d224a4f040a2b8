//! What a node knows of its peers' stores, and whom it has let in: the handshake of the runtime, by the same rule.
//!
//! A packet names the process that sent it. The first one of a process is its introduction: sender and receiver judge each
//! other's hello ([`synod_wal::PeerStores`]). Whoever was let in is heard from then on, however late its packets come, until
//! another store counts for its node.

use std::collections::BTreeMap;

use synod_frame::{Channel, ConfigurationBody, FORMAT_VERSION, GroupId, Hello, HelloRefusal};
use synod_protocol::{Ballot, NodeId, Slot};
use synod_wal::{Hearing, LogIdentity, PeerStores, StoreSeen};

/// So many times a peer shows more of its prefix before that is kept: until then, a restart forgets it.
const SHOWN_UNKEPT: u32 = 8;

/// A process on a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Speaker {
    /// The store.
    pub incarnation: [u8; 16],
    /// Which of its starts this is.
    pub boot_counter: u64,
    /// Random for each start.
    pub boot_nonce: u64,
}

/// See the module documentation.
#[derive(Clone, Debug)]
pub struct Links {
    node: NodeId,
    /// What the process knows.
    stores: PeerStores,
    /// What the next one will know.
    kept: Vec<StoreSeen>,
    shown: u32,
    /// Who was let in, and where the newest configuration was chosen that it knew.
    welcome: BTreeMap<(usize, Speaker), Slot>,
    /// The membership that `stores` goes by.
    version: u64,
}

impl Links {
    /// A node that knows nobody.
    pub fn new(node: NodeId) -> Links {
        let stores = PeerStores::new(node, []);
        Links { node, stores, kept: Vec::new(), shown: 0, welcome: BTreeMap::new(), version: 0 }
    }

    /// A process starts, with what was kept; `forgets` if that counts for nothing.
    pub fn start(&mut self, forgets: bool) {
        if forgets {
            self.kept.clear();
        }
        (self.stores, self.version, self.shown) = (PeerStores::new(self.node, self.kept.iter().copied()), 0, 0);
    }

    /// Goes by these configurations, if they are others than before.
    pub fn know(&mut self, version: u64, configurations: impl FnOnce() -> (Slot, Vec<ConfigurationBody>)) {
        if version != self.version {
            self.version = version;
            let (newest, configurations) = configurations();
            self.stores.know(newest, configurations.iter());
        }
    }

    /// Where the newest configuration was chosen that it knows.
    pub fn configuration(&self) -> Slot {
        self.stores.configuration()
    }

    /// How much of what a process says is heard that was let in; none if it has to introduce itself.
    pub fn hears(&self, from: usize, node: NodeId, speaker: &Speaker) -> Option<Hearing> {
        let configuration = self.welcome.get(&(from, *speaker))?;
        self.stores.hears(node, speaker.incarnation, *configuration)
    }

    /// Judges a hello. A boot that is welcome is kept before it is heard.
    ///
    /// # Errors
    /// Why nothing that it says may be heard.
    pub fn judge(&mut self, hello: &Hello) -> Result<(), HelloRefusal> {
        let boots = self.stores.boots();
        self.stores.judge(hello)?;
        if self.stores.boots() > boots {
            self.keep();
        }
        Ok(())
    }

    /// Lets a process in.
    pub fn welcome(&mut self, from: usize, speaker: Speaker, configuration: Slot) {
        self.welcome.insert((from, speaker), configuration);
    }

    /// A peer has shown that it durably has the chosen prefix up to `stable`.
    pub fn has_shown(&mut self, node: NodeId, stable: Slot) {
        self.stores.has_shown(node, stable);
        self.shown += 1;
        if self.shown >= SHOWN_UNKEPT && self.stores.take_news().is_some() {
            self.keep();
        }
    }

    fn keep(&mut self) {
        (self.kept, self.shown) = (self.stores.seen(), 0);
    }

    /// Whether whatever process of this node comes to be refuses a store for this boot or an earlier one.
    pub fn remembers(&self, incarnation: [u8; 16], boot_counter: u64) -> bool {
        self.kept.iter().any(|seen| seen.incarnation == incarnation && seen.boot_counter >= boot_counter)
    }
}

/// The hello of a process.
pub(crate) fn hello(
    identity: &LogIdentity,
    speaker: Speaker,
    from: NodeId,
    to: NodeId,
    configuration: Slot,
    stable: Slot,
) -> Hello {
    Hello {
        channel: Channel::Control,
        format_min: FORMAT_VERSION,
        format_max: FORMAT_VERSION,
        features: 0,
        cluster: identity.cluster,
        lineage: identity.lineage,
        from,
        to,
        incarnation: speaker.incarnation,
        boot_counter: speaker.boot_counter,
        boot_nonce: speaker.boot_nonce,
        promise: Ballot::ZERO,
        durable: 0,
        configuration,
        port: 0,
        stable,
        group: GroupId(0),
    }
}
