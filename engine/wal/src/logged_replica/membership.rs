//! The configurations in step with the log: what their bodies hold, for the core and for the headers of segments.
//!
//! Headers hold the oldest configuration that is still needed; those behind it stay in the log, untrimmed. So whatever
//! a restart finds, it can tell who rules each slot that it doesn't know to be chosen.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use synod_frame::{
    BLOCK_BYTES, BodyHeader, ConfigurationBody, Member, Origin, RECORD_HEADER_BYTES, encode_configuration,
};
use synod_protocol::{
    Ballot, BodyHandle, BodyId, BodyKind, Change, Configuration, Configurations, Instant, NodeId, ReconfigureError,
    Slot,
};

use super::{Buffers, LoggedReplica};
use crate::format::{CONFIGURATION_BYTES_MAX, StoredConfiguration};
use crate::recovery::decode_configuration;
use crate::writer::Wal;

/// Configuration bodies that are kept although they aren't delivered; rivals at one slot are few.
const OPEN_MAX: usize = 64;

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Membership {
    /// As of the last delivery that was carried out: the core may be ahead.
    ruling: Configurations,
    /// The bodies of those.
    bodies: BTreeMap<Slot, StoredConfiguration>,
    /// Those that aren't delivered yet.
    open: BTreeMap<(Slot, BodyId), StoredConfiguration>,
    /// Who may come in, as told with a change.
    newcomers: Vec<Member>,
    /// Where nodes listen, as far as no configuration tells.
    addresses: BTreeMap<NodeId, SocketAddr>,
    /// Raised whenever the bodies change.
    version: u64,
}

impl Membership {
    /// What recovery found; the core stems from the same recovery.
    pub(super) fn new(ruling: Configurations, mark: Slot, wal: &mut Wal) -> Membership {
        let mut membership = Membership {
            ruling,
            bodies: BTreeMap::new(),
            open: BTreeMap::new(),
            newcomers: Vec::new(),
            addresses: BTreeMap::new(),
            version: 1,
        };
        for stored in wal.take_configurations() {
            match decode_configuration(&stored) {
                // A node that joined late begins with one that it hasn't come to yet.
                Ok(_) if stored.slot < mark || membership.ruling.oldest().chosen_at == stored.slot => {
                    membership.bodies.insert(stored.slot, stored);
                }
                Ok((id, _, _)) => drop(membership.open.insert((stored.slot, id), stored)),
                Err(_) => {}
            }
        }
        membership.forget();
        membership
    }

    /// Bodies that nothing needs any more.
    fn forget(&mut self) {
        let ruling = &self.ruling;
        self.bodies.retain(|slot, _| ruling.iter().any(|configuration| configuration.chosen_at == *slot));
    }

    /// Where the log may be trimmed at most: what lies behind tells who rules. `in_header` is the configuration that the
    /// header of the active segment holds.
    pub(super) fn trim_limit(&self, in_header: Option<Slot>) -> Slot {
        let needed = self.ruling.iter().map(|configuration| configuration.chosen_at);
        needed.into_iter().find(|slot| Some(*slot) > in_header && *slot > Slot(0)).unwrap_or(Slot(u64::MAX))
    }

    /// The oldest configuration that is kept: where it was chosen, and its body, empty for a genesis that isn't in the log. None
    /// if the log doesn't hold it.
    pub(super) fn oldest(&self) -> Option<(Slot, Vec<u8>)> {
        let oldest = self.ruling.oldest().chosen_at;
        match self.bodies.get(&oldest) {
            Some(stored) => Some((oldest, stored.body.clone())),
            None => (oldest == Slot(0)).then(|| (oldest, Vec::new())),
        }
    }

    /// Goes by what a peer's log begins with; see [`Configurations::install`].
    pub(super) fn install(&mut self, oldest: Option<StoredConfiguration>, wal: &mut Wal) {
        let Some(stored) = oldest else { return };
        if let Ok((_, _, configuration)) = decode_configuration(&stored) {
            self.ruling.install(configuration);
            self.bodies.insert(stored.slot, stored.clone());
            self.forget();
            wal.set_configuration(stored);
        }
    }

    /// Every member and learner that is known, with its incarnation. What the newest configuration says comes first: a
    /// change that was refused, or came to nothing, may have told otherwise.
    fn known(&self) -> Vec<Member> {
        let mut bodies = self.decoded().rev();
        let newest = bodies.next().into_iter().flat_map(|body| body.nodes().copied().collect::<Vec<_>>());
        let older = bodies.flat_map(|body| body.nodes().copied().collect::<Vec<_>>());
        newest.chain(self.newcomers.iter().copied()).chain(older).collect()
    }

    /// Where the nodes of a configuration listen, as far as that is known.
    fn addresses_of(&self, configuration: &Configuration) -> Vec<(NodeId, SocketAddr)> {
        let newest = self.decoded().next_back();
        let address_of = |node: NodeId| {
            let told = newest.as_ref().and_then(|body| body.address_of(node));
            told.or_else(|| self.addresses.get(&node).copied()).map(|address| (node, address))
        };
        let mut nodes: Vec<NodeId> = configuration.nodes().collect();
        nodes.sort_unstable();
        nodes.into_iter().filter_map(address_of).collect()
    }

    /// Those that are delivered, oldest first.
    fn decoded(&self) -> impl DoubleEndedIterator<Item = ConfigurationBody> + '_ {
        self.bodies.values().filter_map(|stored| decode_configuration(stored).ok()).map(|(_, body, _)| body)
    }
}

impl<P: Buffers> LoggedReplica<P> {
    /// Proposes a change of the membership; see [`synod_protocol::Replica::reconfigure`]. `newcomers` tells the
    /// incarnations of those who come in.
    ///
    /// # Errors
    /// As [`synod_protocol::Replica::reconfigure`].
    pub fn reconfigure(
        &mut self,
        now: Instant,
        change: Change,
        newcomers: &[Member],
    ) -> Result<Slot, ReconfigureError> {
        if !self.is_ready() {
            return Err(ReconfigureError::NotLeader);
        }
        self.membership.newcomers = newcomers.to_vec();
        let proposed = self.replica.reconfigure(now, change);
        self.drain(now);
        proposed
    }

    /// Tells the core what a configuration body holds, whose verified record is at hand. Whether that may rule.
    pub(super) fn tell_configuration(&mut self, body: &BodyHandle, record: &[u8]) -> bool {
        let bytes = record.get(RECORD_HEADER_BYTES..).and_then(|body_bytes| body_bytes.get(..body.bytes as usize));
        let Some(bytes) = bytes.filter(|bytes| bytes.len() <= CONFIGURATION_BYTES_MAX) else { return false };
        let stored = StoredConfiguration { slot: body.first, body: bytes.to_vec() };
        let Ok((id, _, configuration)) = decode_configuration(&stored) else { return false };
        if configuration.format > self.replica.format_max() {
            return false;
        }
        self.wal.require_format(configuration.format);
        while self.membership.open.len() >= OPEN_MAX {
            self.membership.open.pop_last();
        }
        self.membership.open.insert((body.first, id), stored);
        self.membership.version += 1;
        self.replica.handle_configuration(id, configuration);
        true
    }

    /// Makes the body of a configuration that the core proposes.
    pub(super) fn compose_configuration(
        &mut self,
        now: Instant,
        configuration: &Configuration,
        after: Slot,
        ballot: Ballot,
    ) {
        let identity = self.wal.identity();
        let base =
            ConfigurationBody { cluster: identity.cluster, lineage: identity.lineage, ..ConfigurationBody::default() };
        let addresses = self.membership.addresses_of(configuration);
        let content =
            ConfigurationBody { addresses, ..base.succeeded_by(after, configuration, &self.membership.known()) };
        let mut record = self.buffers.allocate(BLOCK_BYTES);
        let first = configuration.chosen_at;
        let origin = Origin { group: self.group, first, ballot, leader_time_us: self.leader_time_us };
        let body = encode_configuration(record.as_mut(), &origin, &content)
            .expect("the core composes configurations that may rule, and a block holds one");
        let body = self.stamped(first, body, record.as_mut());
        self.tell_configuration(&body, record.as_ref());
        self.bodies.arrive(body, record);
        self.replica.handle_composed(now, body);
    }

    /// A configuration, or a trim that shows that one has retired, is delivered.
    pub(super) fn deliver_configuration(&mut self, body: &BodyHandle, mark: Slot) {
        match body.kind {
            BodyKind::Configuration { after } => {
                let stored = self.membership.open.remove(&(body.first, body.id));
                if let Some(stored) = stored
                    && let Ok((_, _, configuration)) = decode_configuration(&stored)
                    && self.membership.ruling.choose(after, configuration)
                {
                    self.membership.bodies.insert(body.first, stored);
                }
                self.membership.open = self.membership.open.split_off(&(body.end(), BodyId(0)));
            }
            BodyKind::Trim { upto } => drop(self.membership.ruling.retire_before(upto.min(mark))),
            BodyKind::Commands | BodyKind::NoOp | BodyKind::Session | BodyKind::Ticket => return,
        }
        self.membership.version += 1;
        self.membership.forget();
        let oldest = self.membership.ruling.oldest().chosen_at;
        if let Some(stored) = self.membership.bodies.get(&oldest) {
            self.wal.set_configuration(stored.clone());
        }
    }

    /// Tells where nodes listen: goes into configurations that name them, unless the newest one says otherwise.
    pub fn tell_addresses(&mut self, addresses: impl IntoIterator<Item = (NodeId, SocketAddr)>) {
        self.membership.addresses.extend(addresses);
    }

    /// The configurations that are delivered and may still be needed, oldest first.
    pub fn configuration_bodies(&self) -> impl DoubleEndedIterator<Item = &StoredConfiguration> {
        self.membership.bodies.values()
    }

    /// Those that were proposed, and may be chosen; ascending by slot.
    pub fn open_configuration_bodies(&self) -> impl DoubleEndedIterator<Item = &StoredConfiguration> {
        self.membership.open.values()
    }

    /// Changes whenever [`LoggedReplica::configuration_bodies`] or [`LoggedReplica::open_configuration_bodies`] give
    /// something else.
    pub fn membership_version(&self) -> u64 {
        self.membership.version
    }

    /// The newest configuration that is delivered, with the incarnations of its nodes; none if the log doesn't hold it.
    pub fn configuration_body(&self) -> Option<ConfigurationBody> {
        let stored = self.membership.bodies.get(&self.membership.ruling.newest().chosen_at)?;
        let header = BodyHeader::parse(&stored.body).ok()?;
        ConfigurationBody::decode(&header, &stored.body).ok()
    }
}
