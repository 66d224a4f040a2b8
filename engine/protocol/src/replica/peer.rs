//! What a leader knows of a peer.

use std::collections::BTreeMap;

use super::Slot;
use crate::time::Instant;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Peer {
    pub(super) heard: Instant,
    pub(super) mark: Slot,
    pub(super) stable: Slot,
    /// The last heartbeat that it answered.
    pub(super) beat: u64,
    /// Whether it had, at its last answer, everything that it had been told of.
    pub(super) keeps_pace: bool,
    /// Bodies sent and not acknowledged, by first slot.
    pub(super) outstanding: BTreeMap<Slot, u32>,
    pub(super) outstanding_bytes: u64,
    /// Whether it has no room for new commands, as last told.
    pub(super) full: bool,
    /// Something open wasn't sent, for want of room among what is outstanding.
    pub(super) held_back: bool,
    /// It has no part in the open slots any more, but must learn that they are others'.
    pub(super) is_retiring: bool,
}

impl Peer {
    pub(super) fn new(now: Instant) -> Peer {
        Peer {
            heard: now,
            mark: Slot::FIRST,
            stable: Slot::FIRST,
            beat: 0,
            keeps_pace: false,
            outstanding: BTreeMap::new(),
            outstanding_bytes: 0,
            full: false,
            held_back: false,
            is_retiring: false,
        }
    }

    pub(super) fn acknowledged(&mut self, first: Slot) {
        if let Some(bytes) = self.outstanding.remove(&first) {
            self.outstanding_bytes -= u64::from(bytes);
        }
    }

    /// The peer has everything below `mark`, acknowledged or not.
    pub(super) fn reached(&mut self, mark: Slot) {
        while let Some(entry) = self.outstanding.first_entry()
            && *entry.key() < mark
        {
            self.outstanding_bytes -= u64::from(entry.remove());
        }
    }
}
