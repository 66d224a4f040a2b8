//! The membership, as clients ask for it and change it.

use std::net::SocketAddr;

use synod_protocol::{NodeId, Slot};

use crate::body::{BodyLayout, verify_body_in_record};
use crate::configuration::{ConfigurationBody, Member};
use crate::layout::RECORD_HEADER_BYTES;
use crate::record_buffer::RecordBuffer;

/// Most configurations in a reply: those that rule open slots, one that is chosen and doesn't rule yet, one that hasn't
/// retired.
pub const CONFIGURATIONS_MAX: usize = 4;

/// Longest reason in words, in bytes.
pub const REASON_BYTES_MAX: usize = 1024;

/// A change of the membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// Brings nodes in, as learners first, and lets members go when all of them have caught up; at once if nobody comes in.
    Replace {
        /// Who comes in.
        add: Vec<Newcomer>,
        /// Who goes.
        remove: Vec<NodeId>,
    },
    /// Makes the learners members now, which happens by itself once they have caught up.
    Promote {
        /// Even if they haven't.
        force: bool,
    },
    /// Sends the learners away again.
    Cancel,
    /// Raises the format of the log, which everybody must be able to read. There is no way back.
    RaiseFormat {
        /// The new format; at least 2.
        to: u16,
    },
}

/// A node that comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Newcomer {
    /// The node and its store.
    pub member: Member,
    /// Where it listens for its peers.
    pub address: SocketAddr,
}

/// Which configurations a node knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MembersReport {
    /// Those that are chosen and not retired, oldest first; at most [`CONFIGURATIONS_MAX`], at least one.
    pub configurations: Vec<StoredBody>,
    /// Whether the newest was chosen but doesn't rule yet.
    pub is_pending: bool,
    /// Whether the node that answers was removed, as far as it knows.
    pub is_removed: bool,
    /// Members of the configuration before that must stay until the new one holds everything.
    pub retiring: Vec<NodeId>,
}

/// A configuration as the exact bytes of its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredBody {
    /// Where it was chosen; zero for genesis.
    pub slot: Slot,
    /// The body.
    pub body: Vec<u8>,
}

impl StoredBody {
    /// What the body says, if it is a sound body of a configuration that may rule.
    pub fn decode(&self) -> Option<ConfigurationBody> {
        let layout = BodyLayout::peek(&self.body).ok()?;
        if layout.body_bytes as usize != self.body.len() {
            return None;
        }
        let mut record = RecordBuffer::zeroed(layout.record_bytes());
        record.as_mut()[RECORD_HEADER_BYTES..][..self.body.len()].copy_from_slice(&self.body);
        let header = verify_body_in_record(record.as_ref()).ok().filter(|header| header.first == self.slot)?;
        ConfigurationBody::decode(&header, &self.body).ok()
    }
}

impl MembersReport {
    /// The newest configuration.
    pub fn newest(&self) -> Option<(Slot, ConfigurationBody)> {
        self.configurations.last().and_then(|stored| Some((stored.slot, stored.decode()?)))
    }
}
