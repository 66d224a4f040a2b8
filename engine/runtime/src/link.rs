//! Links: what this node sends to one peer.
//!
//! Two connections to each peer, both dialled from here and written only from here: *control* for small messages and
//! *bulk* for bodies, so that a megabyte never delays a heartbeat. What the peer says comes over the connections that
//! it dials itself ([`accept`], [`receive`]).
//!
//! A cluster in one process has no sockets: its links lead over a [`Carrier`] instead.
//!
//! A link promises nothing. A message for a connection that is down, or whose outbox is full, is dropped: the core
//! sends again what matters, and what it doesn't send again is stale. So an outbox never grows beyond its bound in
//! bytes, and a peer that stops reading costs no more than that.

pub(crate) mod accept;
pub(crate) mod connection;
mod dial;
pub(crate) mod handshake;
mod outbox;
pub(crate) mod passage;
mod receive;

use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use synod_frame::{Channel, GroupId, encode_message, encode_snapshot_message};
use synod_protocol::snapshot::SnapshotMessage;
use synod_protocol::{Message, NodeId, Slot};
use synod_wal::Frame;

use crate::meters::PeerMeter;
use crate::seam::buffer::Buffer;
use crate::seam::local::Moment;

pub(crate) use dial::dial;
pub(crate) use handshake::Identity;
use outbox::{Outbox, Parcel};

/// What carries messages to a peer in place of sockets.
pub(crate) trait Carrier {
    /// Takes a message, with the exact bytes of its body; false if it was dropped.
    fn carry(&self, to: NodeId, message: &Message, body: Option<&[u8]>) -> bool;

    /// Takes a message about snapshots; false if it was dropped.
    fn carry_snapshot(&self, to: NodeId, message: &SnapshotMessage) -> bool;
}

/// The outgoing side towards one peer.
pub(crate) struct Link {
    group: GroupId,
    node: NodeId,
    peer: NodeId,
    address: SocketAddr,
    control: Outbox,
    bulk: Outbox,
    /// In place of both.
    carrier: Option<Rc<dyn Carrier>>,
    /// Announced when the peer shows that it lives: whoever waits to connect again needn't.
    alive: Moment,
}

impl Link {
    /// A link that is down.
    pub(crate) fn new(group: GroupId, node: NodeId, meter: &PeerMeter, address: SocketAddr, bytes_max: u64) -> Link {
        Link {
            group,
            node,
            peer: meter.peer,
            address,
            control: Outbox::new(bytes_max, Arc::clone(&meter.control)),
            bulk: Outbox::new(bytes_max, Arc::clone(&meter.bulk)),
            carrier: None,
            alive: Moment::default(),
        }
    }

    /// A link without sockets.
    pub(crate) fn over(carrier: Rc<dyn Carrier>, group: GroupId, node: NodeId, peer: NodeId) -> Link {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        Link { carrier: Some(carrier), ..Link::new(group, node, &PeerMeter::of(peer), nowhere, 0) }
    }

    /// Whom it leads to.
    pub(crate) fn peer(&self) -> NodeId {
        self.peer
    }

    /// Where the peer listens, if it listens at all.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.carrier.is_none().then_some(self.address)
    }

    /// Hands a message to the connection that it belongs on; false if it was dropped.
    pub(crate) fn send(&self, message: &Message, body: Option<Frame<Buffer>>) -> bool {
        if let Some(carrier) = &self.carrier {
            return carrier.carry(self.peer, message, body.as_ref().map(Frame::body));
        }
        let outbox = if body.is_some() { &self.bulk } else { &self.control };
        if !outbox.is_open() {
            return false;
        }
        let (envelope, payload) = encode_message(self.group, self.node, self.peer, Slot(0), message);
        outbox.push(Parcel { envelope, payload, body })
    }

    /// Hands over a message about snapshots; false if it was dropped. Chunks travel among bodies.
    pub(crate) fn send_snapshot(&self, message: &SnapshotMessage) -> bool {
        if let Some(carrier) = &self.carrier {
            return carrier.carry_snapshot(self.peer, message);
        }
        let is_chunk = matches!(message, SnapshotMessage::Chunk { .. });
        let outbox = if is_chunk { &self.bulk } else { &self.control };
        if !outbox.is_open() {
            return false;
        }
        let (envelope, payload) = encode_snapshot_message(self.group, self.node, self.peer, message);
        outbox.push(Parcel { envelope, payload, body: None })
    }

    /// Forgets what waits to be sent.
    pub(crate) fn drop_waiting(&self) {
        self.control.drop_waiting();
        self.bulk.drop_waiting();
    }

    /// Sends what was handed over, then closes both connections, for ever.
    pub(crate) fn end(&self) {
        self.control.end();
        self.bulk.end();
        self.alive.announce();
    }

    /// Waits until small messages that were handed over before the end are sent, or can't be.
    pub(crate) async fn wait_closed(&self) {
        self.control.wait_closed().await;
    }

    /// The peer has connected to this node, so it is worth trying to connect to it now.
    pub(crate) fn peer_is_alive(&self) {
        self.alive.announce();
    }

    fn outbox(&self, channel: Channel) -> &Outbox {
        if channel == Channel::Bulk { &self.bulk } else { &self.control }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("peer", &self.peer).field("address", &self.address).finish_non_exhaustive()
    }
}
