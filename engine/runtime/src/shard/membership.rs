//! Who is talked to, and how the membership changes.
//!
//! Links follow the configurations: whoever one of them names that may still be needed has a link, whoever none names has
//! none. Where a node listens is known from this node's own configuration, or else from the cluster's, or from the node's
//! own hello.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_channel::oneshot;
use synod_frame::client::{MemberChange, MembersReport, StoredBody};
use synod_frame::{BodyHeader, Channel, ConfigurationBody, Member};
use synod_protocol::{
    Ballot, BodyHandle, Change, Instant, Message, NodeId, PeerStatus, ReconfigureError, RejectReason, Slot,
};
use synod_wal::StoredConfiguration;

use super::{Core, Shard};
use crate::error::{MembershipError, StopReason};
use crate::link::{Identity, Link, dial};
use crate::tls::Tls;

/// How a shard reaches its peers.
pub(crate) struct Reach {
    pub(crate) identity: Rc<Identity>,
    /// Where this node is told that others listen; goes before whatever the cluster says.
    pub(crate) configured: Vec<(NodeId, SocketAddr)>,
    /// Bytes that wait to be sent to one peer over one connection.
    pub(crate) link_bytes: u64,
    /// How connections are secured, if they are.
    pub(crate) tls: Option<Arc<Tls>>,
}

/// How often what was seen of peers is kept, if it changes.
const KEEP_SEEN_EVERY: Duration = Duration::from_secs(5);

impl Shard {
    /// Dials from now on whom the configurations name.
    pub(crate) fn reach_out(self: &Rc<Self>, reach: Reach) {
        // Called once, right after the start.
        let _ = self.reach.set(reach);
        self.turn(|_, _| {});
    }

    /// The link to a peer.
    pub(crate) fn link_to(&self, peer: NodeId) -> Option<Rc<Link>> {
        self.links.borrow().iter().find(|link| link.peer() == peer).map(Rc::clone)
    }

    /// A peer without a link has said where it listens.
    pub(crate) fn meet(self: &Rc<Self>, peer: NodeId, address: SocketAddr) {
        if let Some(reach) = self.reach.get()
            && self.link_to(peer).is_none()
            && !self.is_stopped()
        {
            tracing::info!(%peer, %address, "met a peer");
            self.begin_link(reach, peer, address);
        }
    }

    /// A peer has said in its hello what it reads. It is told before anything is sent to it.
    pub(crate) fn hear_reader(&self, peer: NodeId, format_max: u16) {
        self.core.borrow_mut().replica.handle_reader(peer, format_max);
    }

    /// A peer's newest configuration doesn't name this node.
    pub(crate) fn is_unknown(self: &Rc<Self>, peer: NodeId, configuration: Slot) {
        let reason = RejectReason::WrongConfiguration { slot: configuration, chosen_at: configuration };
        self.turn(|replica, now| {
            replica.handle_message(now, peer, Message::Reject { ballot: Ballot::ZERO, reason }, None);
        });
    }

    /// Keeps the links those of the configurations.
    pub(super) fn keep_links(self: &Rc<Self>, core: &mut Core) {
        let version = core.replica.membership_version();
        if core.membership_version == version || core.stopped.is_some() {
            return;
        }
        let Some(reach) = self.reach.get() else { return };
        core.membership_version = version;
        let delivered: Vec<ConfigurationBody> = core.replica.configuration_bodies().filter_map(decode).collect();
        let newest = core.replica.configuration_bodies().next_back().map_or(Slot(0), |stored| stored.slot);
        let open: Vec<ConfigurationBody> = core.replica.open_configuration_bodies().filter_map(decode).collect();
        let known = || delivered.iter().chain(&open);
        // Of a node that is delivered under one store and proposed under another, the first counts as long as it may have a
        // vote that is still needed.
        let renewed = reach.identity.know(newest, open.iter().chain(&delivered));
        self.end_links(|peer| renewed.contains(&peer));
        reach.identity.speak(core.replica.wal().format(), core.replica.replica().format_max());
        let own = self.settings.node;
        let counts = delivered.iter().rev().find_map(|body| body.incarnation_of(own));
        if let Some(named) = counts.filter(|named| *named != reach.identity.incarnation) {
            return self.stop_core(core, StopReason::Superseded { named });
        }
        let is_named = |node: NodeId| known().any(|body| body.nodes().any(|member| member.node == node));
        let told = |node: NodeId| reach.configured.iter().find(|(peer, _)| *peer == node).map(|(_, address)| *address);
        for body in known() {
            for Member { node, .. } in body.nodes().filter(|member| member.node != own) {
                let address = told(*node).or_else(|| known().rev().find_map(|body| body.address_of(*node)));
                if let Some(address) = address
                    && self.link_to(*node).is_none_or(|link| link.address() != Some(address))
                {
                    self.end_links(|peer| peer == *node);
                    self.begin_link(reach, *node, address);
                }
            }
        }
        self.end_links(|peer| !is_named(peer));
    }

    fn begin_link(self: &Rc<Self>, reach: &Reach, peer: NodeId, address: SocketAddr) {
        let (group, node) = (self.settings.group, self.settings.node);
        let link = Rc::new(Link::new(group, node, &self.shared.meters.peer(peer), address, reach.link_bytes));
        for channel in [Channel::Control, Channel::Bulk] {
            self.tasks.spawn(dial(
                Rc::clone(self),
                Rc::clone(&reach.identity),
                Rc::clone(&link),
                channel,
                reach.tls.clone(),
            ));
        }
        self.links.borrow_mut().push(link);
    }

    /// What was handed over is still sent: the last thing that a removed node hears is that it is.
    fn end_links(&self, is_over: impl Fn(NodeId) -> bool) {
        self.links.borrow_mut().retain(|link| {
            let stays = !is_over(link.peer());
            if !stays {
                link.end();
            }
            stays
        });
    }

    /// Proposes a change; the reply comes when its configuration is delivered.
    pub(super) fn change_members(
        &self,
        core: &mut Core,
        now: Instant,
        change: MemberChange,
        reply: oneshot::Sender<Result<Slot, MembershipError>>,
    ) {
        let (change, newcomers) = match change {
            MemberChange::Replace { add, remove } => {
                let nodes = add.iter().map(|newcomer| newcomer.member.node).collect();
                (Change::Replace { add: nodes, remove }, add)
            }
            MemberChange::Promote { force } => (Change::Promote { force }, Vec::new()),
            MemberChange::Cancel => (Change::Cancel, Vec::new()),
            MemberChange::RaiseFormat { to } => (Change::RaiseFormat { to }, Vec::new()),
        };
        let members: Vec<Member> = newcomers.iter().map(|newcomer| newcomer.member).collect();
        core.replica.tell_addresses(newcomers.iter().map(|newcomer| (newcomer.member.node, newcomer.address)));
        match core.replica.reconfigure(now, change, &members) {
            Ok(slot) => core.waiting.await_change(slot, now.plus(self.settings.unknown_after), reply),
            Err(error) => {
                let _ = reply.send(Err(match error {
                    _ if core.stopped.is_some() => MembershipError::Poisoned,
                    ReconfigureError::NotLeader => MembershipError::NotLeader { leader: core.waiting.leader() },
                    error => MembershipError::Refused(error),
                }));
            }
        }
    }

    /// Remembers how far the peers of a leader have proved their logs, and keeps what is known of them now and then.
    pub(super) fn note_peers(&self, core: &mut Core, now: Instant, peers: &[PeerStatus]) {
        let Some(reach) = self.reach.get() else { return };
        for peer in peers {
            reach.identity.has_shown(peer.node, peer.stable);
        }
        if now < core.keep_seen_at {
            return;
        }
        if reach.identity.keep_news() {
            core.keep_seen_at = now.plus(KEEP_SEEN_EVERY);
        }
    }

    /// Says so when this node turns out to have no part in the log any more, or to have one again.
    pub(super) fn tell_removed(&self, core: &mut Core, removed: bool) {
        if std::mem::replace(&mut core.removed, removed) == removed {
            return;
        }
        match removed {
            true => {
                tracing::warn!("this node has no part in the log: it was removed, or isn't added yet; it doesn't vote");
            }
            false => tracing::info!("this node has a part in the log"),
        }
    }

    /// A configuration is delivered.
    pub(super) fn resolve_change(&self, core: &mut Core, body: &BodyHandle) {
        let newest = core.replica.configuration_bodies().next_back().map(|stored| stored.slot);
        let rules = newest == Some(body.first);
        tracing::info!(slot = %body.first, rules, "a configuration is chosen");
        core.waiting.changed(body.first, rules);
    }

    /// Which configurations this node knows.
    pub(super) fn members_report(&self, core: &Core) -> MembersReport {
        let status = core.replica.status().protocol;
        let stored = |stored: &StoredConfiguration| StoredBody { slot: stored.slot, body: stored.body.clone() };
        MembersReport {
            configurations: core.replica.configuration_bodies().map(stored).collect(),
            is_pending: status.pending.is_some(),
            is_removed: status.removed,
            retiring: status.retiring,
        }
    }

    /// What this node knows of addresses from elsewhere, for the configurations that it may come to propose.
    pub(crate) fn tell_addresses(self: &Rc<Self>, addresses: Vec<(NodeId, SocketAddr)>) {
        self.turn(|replica, _| replica.tell_addresses(addresses));
    }
}

/// What a configuration's body says; those that are kept were read before.
pub(crate) fn decode(stored: &StoredConfiguration) -> Option<ConfigurationBody> {
    let header = BodyHeader::parse(&stored.body).ok()?;
    ConfigurationBody::decode(&header, &stored.body).ok()
}
