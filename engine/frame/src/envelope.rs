//! The envelope: what stands before every message between replicas, rebuilt at every hop.
//!
//! Small messages lie in it entirely. Behind it follows nothing, or the exact bytes of a body, which check themselves,
//! or an archive whose checksum the envelope carries. A message uses some of the fields; all others are zero, and a
//! receiver insists on that ([`crate::decode_message`]), so that every message has one encoding.

use synod_protocol::limits::{
    BODY_BYTES_MAX, CONFIGURATION_BYTES_MAX, DOUBTS_MAX, PROMISE_PART_MAX, SNAPSHOT_CHUNK_BYTES,
};
use synod_protocol::{Ballot, BodyId, Chain, Mark, NodeId, Slot};
use thiserror::Error;

use crate::encode::EMPTY_BODY;
use crate::layout::{ENVELOPE_BYTES, FORMAT_VERSION, GroupId, magic};
use crate::message::{ACCEPTED_ROW_BYTES, DOUBT_ROW_BYTES, PROMISE_ROOT_BYTES};
use crate::snapshot::SNAPSHOT_PAYLOAD_MIN_BYTES;

/// First bytes of every envelope.
const MAGIC: u32 = magic(b"SYNE");

mod field {
    use crate::layout::Field;

    pub(super) const MAGIC: Field = Field::first(4);
    pub(super) const VERSION: Field = MAGIC.then(2);
    pub(super) const KIND: Field = VERSION.then(2);
    pub(super) const PAYLOAD_BYTES: Field = KIND.then(4);
    pub(super) const PAYLOAD_CHECKSUM: Field = PAYLOAD_BYTES.then(4);
    pub(super) const GROUP: Field = PAYLOAD_CHECKSUM.then(4);
    pub(super) const FROM: Field = GROUP.then(4);
    pub(super) const TO: Field = FROM.then(4);
    pub(super) const BALLOT_NODE: Field = TO.then(4);
    pub(super) const BALLOT_ROUND: Field = BALLOT_NODE.then(8);
    pub(super) const BALLOT_BOOT: Field = BALLOT_ROUND.then(8);
    pub(super) const CONFIGURATION: Field = BALLOT_BOOT.then(8);
    pub(super) const MARK_SLOT: Field = CONFIGURATION.then(8);
    pub(super) const MARK_CHAIN: Field = MARK_SLOT.then(16);
    pub(super) const FIRST: Field = MARK_CHAIN.then(8);
    pub(super) const IDENTITY: Field = FIRST.then(16);
    pub(super) const ARGUMENT: Field = IDENTITY.then(8);
    pub(super) const PART: Field = ARGUMENT.then(4);
    pub(super) const PARTS: Field = PART.then(4);
    pub(super) const REASON: Field = PARTS.then(1);
    pub(super) const FLAGS: Field = REASON.then(1);
    pub(super) const RESERVED: Field = FLAGS.then(2);
    pub(super) const CHECKSUM: Field = RESERVED.then(4);
}

// The byte map of engine/docs/wal-format.md; a change here is a new format version.
const _: () = {
    assert!(field::PAYLOAD_BYTES.offset == 8);
    assert!(field::BALLOT_NODE.offset == 28);
    assert!(field::CONFIGURATION.offset == 48);
    assert!(field::MARK_SLOT.offset == 56);
    assert!(field::FIRST.offset == 80);
    assert!(field::ARGUMENT.offset == 104);
    assert!(field::REASON.offset == 120);
    assert!(field::CHECKSUM.offset == 124);
    assert!(field::CHECKSUM.end() == ENVELOPE_BYTES);
};

/// Which message an envelope carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "named after the messages of the protocol")]
#[repr(u16)]
pub enum EnvelopeKind {
    PreVote = 1,
    PreVoteGranted = 2,
    Prepare = 3,
    Promise = 4,
    Accept = 5,
    Accepted = 6,
    Reject = 7,
    Heartbeat = 8,
    HeartbeatReply = 9,
    Fetch = 10,
    Chosen = 11,
    FetchBody = 12,
    Supply = 13,
    Unavailable = 14,
    Resigned = 15,
    HandOver = 16,
    AskReadPoint = 17,
    ReadPoint = 18,
    Base = 19,
    SnapshotAsk = 20,
    SnapshotOffer = 21,
    SnapshotRefuse = 22,
    SnapshotFetch = 23,
    SnapshotChunk = 24,
    SnapshotNeed = 25,
}

impl EnvelopeKind {
    /// Every kind, in the order of their numbers.
    pub const ALL: [EnvelopeKind; 25] = [
        EnvelopeKind::PreVote,
        EnvelopeKind::PreVoteGranted,
        EnvelopeKind::Prepare,
        EnvelopeKind::Promise,
        EnvelopeKind::Accept,
        EnvelopeKind::Accepted,
        EnvelopeKind::Reject,
        EnvelopeKind::Heartbeat,
        EnvelopeKind::HeartbeatReply,
        EnvelopeKind::Fetch,
        EnvelopeKind::Chosen,
        EnvelopeKind::FetchBody,
        EnvelopeKind::Supply,
        EnvelopeKind::Unavailable,
        EnvelopeKind::Resigned,
        EnvelopeKind::HandOver,
        EnvelopeKind::AskReadPoint,
        EnvelopeKind::ReadPoint,
        EnvelopeKind::Base,
        EnvelopeKind::SnapshotAsk,
        EnvelopeKind::SnapshotOffer,
        EnvelopeKind::SnapshotRefuse,
        EnvelopeKind::SnapshotFetch,
        EnvelopeKind::SnapshotChunk,
        EnvelopeKind::SnapshotNeed,
    ];

    /// Whether the payload is the exact bytes of a body.
    pub fn carries_body(self) -> bool {
        matches!(self, EnvelopeKind::Accept | EnvelopeKind::Chosen | EnvelopeKind::Supply)
    }

    /// Whether it is about snapshots, so that [`crate::decode_snapshot_message`] reads it and not
    /// [`crate::decode_message`].
    pub fn is_of_snapshots(self) -> bool {
        matches!(
            self,
            EnvelopeKind::SnapshotAsk
                | EnvelopeKind::SnapshotOffer
                | EnvelopeKind::SnapshotRefuse
                | EnvelopeKind::SnapshotFetch
                | EnvelopeKind::SnapshotChunk
                | EnvelopeKind::SnapshotNeed
        )
    }

    fn from_number(number: u16) -> Option<EnvelopeKind> {
        let index = usize::from(number).checked_sub(1)?;
        EnvelopeKind::ALL.get(index).copied()
    }
}

/// An envelope's fields. Which of them a message uses stands in [`crate::encode_message`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Which message.
    pub kind: EnvelopeKind,
    /// Exact number of bytes that follow.
    pub payload_bytes: u32,
    /// Checksum of a payload that is an archive; zero for a body, and without payload.
    pub payload_checksum: u32,
    /// The group concerned.
    pub group: GroupId,
    /// The sender.
    pub from: NodeId,
    /// The receiver.
    pub to: NodeId,
    /// Where the configuration was chosen that the sender goes by; zero for genesis.
    pub configuration: Slot,
    /// The message's ballot.
    pub ballot: Ballot,
    /// The slot of the message's mark.
    pub mark_slot: Slot,
    /// The chain of the message's mark.
    pub mark_chain: Chain,
    /// The slot that the message is about.
    pub first: Slot,
    /// The body that the message is about; in a refusal for a higher ballot that ballot's round (low) and boot (high).
    pub identity: BodyId,
    /// Another number: a slot, a node, bytes or microseconds.
    pub argument: u64,
    /// Number of this part.
    pub part: u32,
    /// Number of parts.
    pub parts: u32,
    /// Why something is refused.
    pub reason: u8,
    /// Bit 0: this ends an answer.
    pub flags: u8,
}

/// Why bytes aren't an envelope. The stream that they come from can't be followed any further: close it.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum EnvelopeError {
    /// Fewer bytes than an envelope.
    #[error("the envelope is cut short: {found} bytes of {ENVELOPE_BYTES}")]
    Truncated {
        /// Bytes there are.
        found: usize,
    },
    /// It doesn't begin like an envelope.
    #[error("not an envelope: it begins with {found:#010x}")]
    Magic {
        /// The first four bytes.
        found: u32,
    },
    /// Written by another version of the format.
    #[error("envelope of format version {found}, this build reads version {FORMAT_VERSION}")]
    Version {
        /// Version found.
        found: u16,
    },
    /// It is damaged.
    #[error("envelope checksum is {expected:#010x} but its bytes give {actual:#010x}")]
    Checksum {
        /// As written.
        expected: u32,
        /// As computed.
        actual: u32,
    },
    /// A kind that this build doesn't know.
    #[error("envelope of unknown kind {found}")]
    Kind {
        /// Kind found.
        found: u16,
    },
    /// A byte that must be zero isn't.
    #[error("reserved bytes of the envelope must be zero")]
    Reserved,
    /// A payload of a length that its kind doesn't have.
    #[error("{kind:?} with {payload_bytes} bytes of payload, allowed are {minimum} to {maximum}")]
    PayloadBytes {
        /// The message.
        kind: EnvelopeKind,
        /// Length as claimed.
        payload_bytes: u32,
        /// Least that is allowed.
        minimum: u32,
        /// Most that is allowed.
        maximum: u32,
    },
    /// Node zero, which is nobody.
    #[error("the envelope names no sender or no receiver")]
    Nobody,
}

impl Envelope {
    /// Shortest and longest payload of a kind, in bytes; what [`Envelope::decode`] lets pass.
    pub const fn payload_limit(kind: EnvelopeKind) -> (u32, u32) {
        match kind {
            EnvelopeKind::Accept | EnvelopeKind::Chosen | EnvelopeKind::Supply => {
                (EMPTY_BODY.body_bytes, BODY_BYTES_MAX)
            }
            EnvelopeKind::Promise => {
                let rows = PROMISE_PART_MAX * ACCEPTED_ROW_BYTES + DOUBTS_MAX * DOUBT_ROW_BYTES;
                (0, (rows + PROMISE_ROOT_BYTES) as u32)
            }
            EnvelopeKind::Base => (0, CONFIGURATION_BYTES_MAX as u32),
            EnvelopeKind::SnapshotChunk => (SNAPSHOT_PAYLOAD_MIN_BYTES, SNAPSHOT_CHUNK_BYTES),
            _ => (0, 0),
        }
    }

    /// Reads an envelope from the first [`ENVELOPE_BYTES`], and checks that its payload may be allocated.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Envelope, EnvelopeError> {
        let Some(bytes) = bytes.get(..ENVELOPE_BYTES) else {
            return Err(EnvelopeError::Truncated { found: bytes.len() });
        };
        let found = field::MAGIC.u32(bytes);
        if found != MAGIC {
            return Err(EnvelopeError::Magic { found });
        }
        let found = field::VERSION.u16(bytes);
        if found != FORMAT_VERSION {
            return Err(EnvelopeError::Version { found });
        }
        let expected = field::CHECKSUM.u32(bytes);
        let actual = crc32fast::hash(&bytes[..field::CHECKSUM.offset]);
        if expected != actual {
            return Err(EnvelopeError::Checksum { expected, actual });
        }
        let found = field::KIND.u16(bytes);
        let kind = EnvelopeKind::from_number(found).ok_or(EnvelopeError::Kind { found })?;
        let envelope = Envelope {
            kind,
            payload_bytes: field::PAYLOAD_BYTES.u32(bytes),
            payload_checksum: field::PAYLOAD_CHECKSUM.u32(bytes),
            group: GroupId(field::GROUP.u32(bytes)),
            from: NodeId(field::FROM.u32(bytes)),
            to: NodeId(field::TO.u32(bytes)),
            configuration: Slot(field::CONFIGURATION.u64(bytes)),
            ballot: Ballot {
                round: field::BALLOT_ROUND.u64(bytes),
                node: NodeId(field::BALLOT_NODE.u32(bytes)),
                boot: field::BALLOT_BOOT.u64(bytes),
            },
            mark_slot: Slot(field::MARK_SLOT.u64(bytes)),
            mark_chain: Chain(field::MARK_CHAIN.u128(bytes)),
            first: Slot(field::FIRST.u64(bytes)),
            identity: BodyId(field::IDENTITY.u128(bytes)),
            argument: field::ARGUMENT.u64(bytes),
            part: field::PART.u32(bytes),
            parts: field::PARTS.u32(bytes),
            reason: field::REASON.u8(bytes),
            flags: field::FLAGS.u8(bytes),
        };
        if field::RESERVED.u16(bytes) != 0 {
            return Err(EnvelopeError::Reserved);
        }
        envelope.check()?;
        Ok(envelope)
    }

    /// The envelope's bytes.
    pub fn encode(&self) -> [u8; ENVELOPE_BYTES] {
        let mut bytes = [0; ENVELOPE_BYTES];
        field::MAGIC.put(&mut bytes, &MAGIC.to_le_bytes());
        field::VERSION.put(&mut bytes, &FORMAT_VERSION.to_le_bytes());
        field::KIND.put(&mut bytes, &(self.kind as u16).to_le_bytes());
        field::PAYLOAD_BYTES.put(&mut bytes, &self.payload_bytes.to_le_bytes());
        field::PAYLOAD_CHECKSUM.put(&mut bytes, &self.payload_checksum.to_le_bytes());
        field::GROUP.put(&mut bytes, &self.group.0.to_le_bytes());
        field::FROM.put(&mut bytes, &self.from.0.to_le_bytes());
        field::TO.put(&mut bytes, &self.to.0.to_le_bytes());
        field::BALLOT_NODE.put(&mut bytes, &self.ballot.node.0.to_le_bytes());
        field::BALLOT_ROUND.put(&mut bytes, &self.ballot.round.to_le_bytes());
        field::BALLOT_BOOT.put(&mut bytes, &self.ballot.boot.to_le_bytes());
        field::CONFIGURATION.put(&mut bytes, &self.configuration.0.to_le_bytes());
        field::MARK_SLOT.put(&mut bytes, &self.mark_slot.0.to_le_bytes());
        field::MARK_CHAIN.put(&mut bytes, &self.mark_chain.0.to_le_bytes());
        field::FIRST.put(&mut bytes, &self.first.0.to_le_bytes());
        field::IDENTITY.put(&mut bytes, &self.identity.0.to_le_bytes());
        field::ARGUMENT.put(&mut bytes, &self.argument.to_le_bytes());
        field::PART.put(&mut bytes, &self.part.to_le_bytes());
        field::PARTS.put(&mut bytes, &self.parts.to_le_bytes());
        field::REASON.put(&mut bytes, &[self.reason]);
        field::FLAGS.put(&mut bytes, &[self.flags]);
        let checksum = crc32fast::hash(&bytes[..field::CHECKSUM.offset]);
        field::CHECKSUM.put(&mut bytes, &checksum.to_le_bytes());
        bytes
    }

    /// The message's mark, unless it has none.
    pub(crate) fn mark(&self) -> Option<Mark> {
        (self.mark_slot >= Slot::FIRST).then_some(Mark { slot: self.mark_slot, chain: self.mark_chain })
    }

    fn check(&self) -> Result<(), EnvelopeError> {
        let (kind, payload_bytes) = (self.kind, self.payload_bytes);
        let (minimum, maximum) = Envelope::payload_limit(kind);
        if payload_bytes < minimum || payload_bytes > maximum {
            return Err(EnvelopeError::PayloadBytes { kind, payload_bytes, minimum, maximum });
        }
        if self.from == NodeId(0) || self.to == NodeId(0) {
            return Err(EnvelopeError::Nobody);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_numbered_in_order() {
        for (index, kind) in EnvelopeKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, index + 1);
            assert_eq!(EnvelopeKind::from_number(kind as u16), Some(kind));
        }
        assert_eq!(EnvelopeKind::from_number(0), None);
        assert_eq!(EnvelopeKind::from_number(26), None);
    }
}
