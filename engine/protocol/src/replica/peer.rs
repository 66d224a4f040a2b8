//! What a leader knows of a peer.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Slot;
use crate::snapshot::Hold;
use crate::time::Instant;

/// A peer that wasn't heard for so long, and is again, gets a new chance to catch up.
const RETURN: Duration = Duration::from_secs(1);

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
    /// What its state machine needs, and when it said so.
    pub(super) hold: Option<(Hold, Instant)>,
    /// When it last had more than before, or came back.
    pub(super) progressed: Instant,
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
            hold: None,
            progressed: now,
        }
    }

    pub(super) fn acknowledged(&mut self, first: Slot) {
        if let Some(bytes) = self.outstanding.remove(&first) {
            self.outstanding_bytes -= u64::from(bytes);
        }
    }

    /// It has said how far it is; `away` is for how long it hadn't been heard.
    pub(super) fn claims_stable(&mut self, now: Instant, stable: Slot, away: Duration) {
        if stable > self.stable || away > RETURN {
            self.progressed = now;
        }
        // Less than before, if its log was damaged since: what it has lost must not be trimmed.
        self.stable = stable;
    }

    /// It has said what its state machine needs.
    pub(super) fn claims_need(&mut self, now: Instant, hold: Hold) {
        if self.hold.is_some_and(|(before, _)| hold.from > before.from || hold.progress > before.progress) {
            self.progressed = now;
        }
        self.hold = Some((hold, now));
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
