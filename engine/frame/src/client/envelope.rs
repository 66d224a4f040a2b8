//! The envelope of the client protocol; the same discipline as between replicas, with fewer fields.

use synod_protocol::limits::BODY_BYTES_MAX;
use synod_protocol::{NodeId, Slot};
use thiserror::Error;

use super::codec::{
    APPEND_ROOT_BYTES, CHANGE_PAYLOAD_BYTES_MAX, FIGURES_PAYLOAD_BYTES_MAX, MEMBERS_PAYLOAD_BYTES_MAX,
    REASON_PAYLOAD_BYTES_MAX, STATUS_PAYLOAD_BYTES_MAX,
};
use crate::encode::EMPTY_BODY;
use crate::layout::{ENVELOPE_BYTES, FORMAT_VERSION, GroupId, first_nonzero, magic};

/// First bytes of every envelope of the client protocol.
const MAGIC: u32 = magic(b"SYNC");

mod field {
    use crate::layout::{ENVELOPE_BYTES, Field};

    pub(super) const MAGIC: Field = Field::first(4);
    pub(super) const VERSION: Field = MAGIC.then(2);
    pub(super) const KIND: Field = VERSION.then(2);
    pub(super) const PAYLOAD_BYTES: Field = KIND.then(4);
    pub(super) const PAYLOAD_CHECKSUM: Field = PAYLOAD_BYTES.then(4);
    pub(super) const GROUP: Field = PAYLOAD_CHECKSUM.then(4);
    pub(super) const REASON: Field = GROUP.then(4);
    pub(super) const REQUEST: Field = REASON.then(8);
    pub(super) const FIRST: Field = REQUEST.then(8);
    pub(super) const ARGUMENT: Field = FIRST.then(8);
    pub(super) const COUNT: Field = ARGUMENT.then(4);
    pub(super) const NODE: Field = COUNT.then(4);
    pub(super) const SESSION: Field = NODE.then(8);
    pub(super) const SEQUENCE: Field = SESSION.then(8);
    pub(super) const TICKET: Field = SEQUENCE.then(8);
    pub(super) const RESERVED: Field = TICKET.then(ENVELOPE_BYTES - 4 - TICKET.end());
    pub(super) const CHECKSUM: Field = RESERVED.then(4);
}

// The byte map of engine/docs/wal-format.md; a change here is a new format version.
const _: () = {
    assert!(field::PAYLOAD_BYTES.offset == 8);
    assert!(field::REQUEST.offset == 24);
    assert!(field::ARGUMENT.offset == 40);
    assert!(field::SESSION.offset == 56);
    assert!(field::RESERVED.offset == 80);
    assert!(field::CHECKSUM.offset == 124);
    assert!(field::CHECKSUM.end() == ENVELOPE_BYTES);
};

/// Which request or reply an envelope carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "named after the requests and replies")]
#[repr(u16)]
pub enum ClientKind {
    Append = 1,
    Status = 2,
    Read = 3,
    Figures = 4,
    Session = 5,
    Ticket = 6,
    Barrier = 7,
    Trim = 8,
    Transfer = 9,
    Members = 10,
    Change = 11,
    Appended = 17,
    Refused = 18,
    StatusReport = 19,
    Body = 20,
    ReadEnd = 21,
    FiguresReport = 22,
    Done = 23,
    Gaps = 24,
    MembersReport = 25,
}

impl ClientKind {
    /// Every kind, requests first.
    pub const ALL: [ClientKind; 20] = [
        ClientKind::Append,
        ClientKind::Status,
        ClientKind::Read,
        ClientKind::Figures,
        ClientKind::Session,
        ClientKind::Ticket,
        ClientKind::Barrier,
        ClientKind::Trim,
        ClientKind::Transfer,
        ClientKind::Members,
        ClientKind::Change,
        ClientKind::Appended,
        ClientKind::Refused,
        ClientKind::StatusReport,
        ClientKind::Body,
        ClientKind::ReadEnd,
        ClientKind::FiguresReport,
        ClientKind::Done,
        ClientKind::Gaps,
        ClientKind::MembersReport,
    ];

    /// Whether it is a client that sends this.
    pub fn is_request(self) -> bool {
        (self as u16) < ClientKind::Appended as u16
    }

    fn from_number(number: u16) -> Option<ClientKind> {
        ClientKind::ALL.into_iter().find(|kind| *kind as u16 == number)
    }
}

/// An envelope's fields. Which of them a message uses stands in [`crate::client::encode_request`] and
/// [`crate::client::encode_reply`]; all others are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientEnvelope {
    /// Which request or reply.
    pub kind: ClientKind,
    /// Exact number of bytes that follow.
    pub payload_bytes: u32,
    /// Checksum of a payload that is an archive; zero for a body, and without payload.
    pub payload_checksum: u32,
    /// The log that a request is for; zero in replies.
    pub group: GroupId,
    /// Why something is refused.
    pub reason: u32,
    /// The request's number.
    pub request: u64,
    /// The slot that the message is about.
    pub first: Slot,
    /// Another number: bytes or microseconds.
    pub argument: u64,
    /// Number of slots.
    pub count: u32,
    /// A node.
    pub node: NodeId,
    /// A session, named by its slot.
    pub session: Slot,
    /// A submission's number in its session.
    pub sequence: u64,
    /// A ticket, named by its slot.
    pub ticket: Slot,
}

/// Why bytes aren't an envelope of the client protocol. The stream can't be followed any further: close it.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ClientEnvelopeError {
    /// Fewer bytes than an envelope.
    #[error("the client envelope is cut short: {found} bytes of {ENVELOPE_BYTES}")]
    Truncated {
        /// Bytes there are.
        found: usize,
    },
    /// It doesn't begin like one.
    #[error("not a client envelope: it begins with {found:#010x}")]
    Magic {
        /// The first four bytes.
        found: u32,
    },
    /// Written by another version of the format.
    #[error("client envelope of format version {found}, this build reads version {FORMAT_VERSION}")]
    Version {
        /// Version found.
        found: u16,
    },
    /// It is damaged.
    #[error("client envelope checksum is {expected:#010x} but its bytes give {actual:#010x}")]
    Checksum {
        /// As written.
        expected: u32,
        /// As computed.
        actual: u32,
    },
    /// A kind that this build doesn't know.
    #[error("client envelope of unknown kind {found}")]
    Kind {
        /// Kind found.
        found: u16,
    },
    /// A byte that must be zero isn't.
    #[error("byte {offset} of the client envelope is reserved and must be zero")]
    Reserved {
        /// Its offset.
        offset: usize,
    },
    /// A payload of a length that its kind doesn't have.
    #[error("{kind:?} with {payload_bytes} bytes of payload, allowed are {minimum} to {maximum}")]
    PayloadBytes {
        /// The message.
        kind: ClientKind,
        /// Length as claimed.
        payload_bytes: u32,
        /// Least that is allowed.
        minimum: u32,
        /// Most that is allowed.
        maximum: u32,
    },
}

impl ClientEnvelope {
    /// Shortest and longest payload of a kind, in bytes; what [`ClientEnvelope::decode`] lets pass.
    pub const fn payload_limit(kind: ClientKind) -> (u32, u32) {
        match kind {
            // A batch that goes into one body takes no more room on its way there.
            ClientKind::Append => (APPEND_ROOT_BYTES as u32, BODY_BYTES_MAX),
            // A gap takes less room than the terms of its submission in the body.
            ClientKind::Gaps => (1, BODY_BYTES_MAX),
            ClientKind::Body => (EMPTY_BODY.body_bytes, BODY_BYTES_MAX),
            // The longer one of an address and a reason.
            ClientKind::Refused => (0, REASON_PAYLOAD_BYTES_MAX as u32),
            ClientKind::Change => (0, CHANGE_PAYLOAD_BYTES_MAX as u32),
            ClientKind::MembersReport => (1, MEMBERS_PAYLOAD_BYTES_MAX as u32),
            ClientKind::StatusReport => (1, STATUS_PAYLOAD_BYTES_MAX as u32),
            ClientKind::FiguresReport => (1, FIGURES_PAYLOAD_BYTES_MAX as u32),
            ClientKind::Status
            | ClientKind::Read
            | ClientKind::Figures
            | ClientKind::Session
            | ClientKind::Ticket
            | ClientKind::Barrier
            | ClientKind::Trim
            | ClientKind::Transfer
            | ClientKind::Members
            | ClientKind::Appended
            | ClientKind::Done
            | ClientKind::ReadEnd => (0, 0),
        }
    }

    /// An envelope with nothing in it.
    pub(super) fn blank(kind: ClientKind, request: u64) -> ClientEnvelope {
        ClientEnvelope {
            kind,
            payload_bytes: 0,
            payload_checksum: 0,
            group: GroupId(0),
            reason: 0,
            request,
            first: Slot(0),
            argument: 0,
            count: 0,
            node: NodeId(0),
            session: Slot(0),
            sequence: 0,
            ticket: Slot(0),
        }
    }

    /// Reads an envelope from the first [`ENVELOPE_BYTES`], and checks that its payload may be allocated.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn decode(bytes: &[u8]) -> Result<ClientEnvelope, ClientEnvelopeError> {
        let Some(bytes) = bytes.get(..ENVELOPE_BYTES) else {
            return Err(ClientEnvelopeError::Truncated { found: bytes.len() });
        };
        let found = field::MAGIC.u32(bytes);
        if found != MAGIC {
            return Err(ClientEnvelopeError::Magic { found });
        }
        let found = field::VERSION.u16(bytes);
        if found != FORMAT_VERSION {
            return Err(ClientEnvelopeError::Version { found });
        }
        let expected = field::CHECKSUM.u32(bytes);
        let actual = crc32fast::hash(&bytes[..field::CHECKSUM.offset]);
        if expected != actual {
            return Err(ClientEnvelopeError::Checksum { expected, actual });
        }
        let found = field::KIND.u16(bytes);
        let kind = ClientKind::from_number(found).ok_or(ClientEnvelopeError::Kind { found })?;
        if let Some(index) = first_nonzero(field::RESERVED.of(bytes)) {
            return Err(ClientEnvelopeError::Reserved { offset: field::RESERVED.offset + index });
        }
        let payload_bytes = field::PAYLOAD_BYTES.u32(bytes);
        let (minimum, maximum) = ClientEnvelope::payload_limit(kind);
        if payload_bytes < minimum || payload_bytes > maximum {
            return Err(ClientEnvelopeError::PayloadBytes { kind, payload_bytes, minimum, maximum });
        }
        Ok(ClientEnvelope {
            kind,
            payload_bytes,
            payload_checksum: field::PAYLOAD_CHECKSUM.u32(bytes),
            group: GroupId(field::GROUP.u32(bytes)),
            reason: field::REASON.u32(bytes),
            request: field::REQUEST.u64(bytes),
            first: Slot(field::FIRST.u64(bytes)),
            argument: field::ARGUMENT.u64(bytes),
            count: field::COUNT.u32(bytes),
            node: NodeId(field::NODE.u32(bytes)),
            session: Slot(field::SESSION.u64(bytes)),
            sequence: field::SEQUENCE.u64(bytes),
            ticket: Slot(field::TICKET.u64(bytes)),
        })
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
        field::REASON.put(&mut bytes, &self.reason.to_le_bytes());
        field::REQUEST.put(&mut bytes, &self.request.to_le_bytes());
        field::FIRST.put(&mut bytes, &self.first.0.to_le_bytes());
        field::ARGUMENT.put(&mut bytes, &self.argument.to_le_bytes());
        field::COUNT.put(&mut bytes, &self.count.to_le_bytes());
        field::NODE.put(&mut bytes, &self.node.0.to_le_bytes());
        field::SESSION.put(&mut bytes, &self.session.0.to_le_bytes());
        field::SEQUENCE.put(&mut bytes, &self.sequence.to_le_bytes());
        field::TICKET.put(&mut bytes, &self.ticket.0.to_le_bytes());
        let checksum = crc32fast::hash(&bytes[..field::CHECKSUM.offset]);
        field::CHECKSUM.put(&mut bytes, &checksum.to_le_bytes());
        bytes
    }
}
