//! Messages about snapshots as envelopes and payloads.
//!
//! | message | fields used besides kind, group, from, to | payload |
//! |---|---|---|
//! | Ask | first = at least; mark = position and checksum of what is wanted, identity = its length (high), or all zero | |
//! | Offer | mark = position and checksum, identity = length (high) | |
//! | Refuse | first = at least, reason, argument = position or microseconds | |
//! | Fetch | mark = position and checksum, identity = length (high) and offset (low), part = bytes | |
//! | Need | first = from, argument = progress | |
//! | Chunk | as Fetch | the bytes, and zeros up to [`SNAPSHOT_PAYLOAD_MIN_BYTES`] |
//!
//! A chunk travels among bodies. Whoever reads those reads an envelope and a body's header in one go, so that nothing on that
//! connection may be shorter.

use std::time::Duration;

use synod_protocol::limits::SNAPSHOT_CHUNK_BYTES;
use synod_protocol::snapshot::{Hold, NoSnapshot, SnapshotId, SnapshotMessage};
use synod_protocol::{Chain, Mark, NodeId, Slot};

use crate::envelope::{Envelope, EnvelopeKind};
use crate::layout::{BODY_HEADER_BYTES, ENVELOPE_BYTES, GroupId, first_nonzero};
use crate::message::{
    MessageError, blank, check_payload, first_slot, mark, payload_is_archive, split_numbers, two_numbers,
};

/// Shortest payload of a chunk.
pub(crate) const SNAPSHOT_PAYLOAD_MIN_BYTES: u32 = BODY_HEADER_BYTES as u32;

mod reason {
    pub(super) const MAKING: u8 = 1;
    pub(super) const BUSY: u8 = 2;
    pub(super) const BEHIND: u8 = 3;
    pub(super) const NO_MACHINE: u8 = 4;
    pub(super) const FAILED: u8 = 5;
    pub(super) const GONE: u8 = 6;
}

/// Lays out a message: its envelope, and the payload that follows it.
///
/// # Panics
/// If a chunk is empty, or longer than [`SNAPSHOT_CHUNK_BYTES`]: a bug of the core.
pub fn encode_snapshot_message(
    group: GroupId,
    from: NodeId,
    to: NodeId,
    message: &SnapshotMessage,
) -> ([u8; ENVELOPE_BYTES], Vec<u8>) {
    let payload = match message {
        SnapshotMessage::Chunk { data, .. } => padded(data),
        _ => Vec::new(),
    };
    let base = Envelope {
        payload_checksum: if payload.is_empty() { 0 } else { crc32fast::hash(&payload) },
        payload_bytes: payload.len() as u32,
        group,
        from,
        to,
        ..blank(kind_of(message))
    };
    (fill(base, message).encode(), payload)
}

/// Reads a message. `payload` holds exactly the bytes behind the envelope.
///
/// # Errors
/// The first thing that is wrong.
pub fn decode_snapshot_message(envelope: &Envelope, payload: &[u8]) -> Result<SnapshotMessage, MessageError> {
    check_payload(envelope, payload)?;
    let message = parse(envelope, payload)?;
    // As for messages of the log: what differs after encoding again was in no field that the message has.
    let base = Envelope {
        payload_bytes: envelope.payload_bytes,
        payload_checksum: if payload_is_archive(envelope) { envelope.payload_checksum } else { 0 },
        group: envelope.group,
        from: envelope.from,
        to: envelope.to,
        ..blank(envelope.kind)
    };
    if fill(base, &message) != *envelope {
        return Err(MessageError::UnusedField { kind: envelope.kind });
    }
    Ok(message)
}

fn padded(data: &[u8]) -> Vec<u8> {
    assert!(!data.is_empty() && data.len() <= SNAPSHOT_CHUNK_BYTES as usize, "a chunk of {} bytes", data.len());
    let mut payload = data.to_vec();
    payload.resize(data.len().max(SNAPSHOT_PAYLOAD_MIN_BYTES as usize), 0);
    payload
}

fn kind_of(message: &SnapshotMessage) -> EnvelopeKind {
    match message {
        SnapshotMessage::Ask { .. } => EnvelopeKind::SnapshotAsk,
        SnapshotMessage::Offer { .. } => EnvelopeKind::SnapshotOffer,
        SnapshotMessage::Refuse { .. } => EnvelopeKind::SnapshotRefuse,
        SnapshotMessage::Fetch { .. } => EnvelopeKind::SnapshotFetch,
        SnapshotMessage::Chunk { .. } => EnvelopeKind::SnapshotChunk,
        SnapshotMessage::Need { .. } => EnvelopeKind::SnapshotNeed,
    }
}

/// Puts the message's fields into the envelope; the inverse of [`parse`].
fn fill(base: Envelope, message: &SnapshotMessage) -> Envelope {
    match message {
        SnapshotMessage::Ask { at_least, wanted } => {
            let base = Envelope { first: *at_least, ..base };
            wanted.map_or(base, |wanted| with_snapshot(base, wanted, 0))
        }
        SnapshotMessage::Offer { snapshot } => with_snapshot(base, *snapshot, 0),
        SnapshotMessage::Refuse { at_least, reason } => with_reason(Envelope { first: *at_least, ..base }, *reason),
        SnapshotMessage::Fetch { snapshot, offset, bytes } => {
            with_snapshot(Envelope { part: *bytes, ..base }, *snapshot, *offset)
        }
        SnapshotMessage::Need { hold } => Envelope { first: hold.from, argument: hold.progress, ..base },
        SnapshotMessage::Chunk { snapshot, offset, data } => {
            with_snapshot(Envelope { part: data.len() as u32, ..base }, *snapshot, *offset)
        }
    }
}

fn with_snapshot(base: Envelope, snapshot: SnapshotId, offset: u64) -> Envelope {
    Envelope {
        mark_slot: snapshot.position,
        mark_chain: Chain(snapshot.checksum),
        identity: two_numbers(snapshot.bytes, offset),
        ..base
    }
}

fn with_reason(base: Envelope, why: NoSnapshot) -> Envelope {
    let (reason, argument) = match why {
        NoSnapshot::Making => (reason::MAKING, 0),
        NoSnapshot::Busy { retry_after } => (reason::BUSY, u64::try_from(retry_after.as_micros()).unwrap_or(u64::MAX)),
        NoSnapshot::Behind { position } => (reason::BEHIND, position.0),
        NoSnapshot::NoMachine => (reason::NO_MACHINE, 0),
        NoSnapshot::Failed => (reason::FAILED, 0),
        NoSnapshot::Gone => (reason::GONE, 0),
    };
    Envelope { reason, argument, ..base }
}

fn parse(envelope: &Envelope, payload: &[u8]) -> Result<SnapshotMessage, MessageError> {
    let kind = envelope.kind;
    Ok(match kind {
        EnvelopeKind::SnapshotAsk => {
            let is_blank = envelope.mark_slot == Slot(0);
            let wanted = if is_blank { None } else { Some(snapshot(envelope)?.0) };
            SnapshotMessage::Ask { at_least: first_slot(envelope)?, wanted }
        }
        EnvelopeKind::SnapshotOffer => SnapshotMessage::Offer { snapshot: snapshot(envelope)?.0 },
        EnvelopeKind::SnapshotRefuse => {
            SnapshotMessage::Refuse { at_least: first_slot(envelope)?, reason: parse_reason(envelope)? }
        }
        EnvelopeKind::SnapshotFetch => {
            let (snapshot, offset) = range(envelope)?;
            SnapshotMessage::Fetch { snapshot, offset, bytes: envelope.part }
        }
        EnvelopeKind::SnapshotChunk => {
            let (snapshot, offset) = range(envelope)?;
            let length = envelope.part as usize;
            let (data, padding) = payload.split_at_checked(length).ok_or(MessageError::Field { kind })?;
            let is_shortest = payload.len() == length.max(SNAPSHOT_PAYLOAD_MIN_BYTES as usize);
            if !is_shortest || first_nonzero(padding).is_some() {
                return Err(MessageError::PayloadArchive { kind });
            }
            SnapshotMessage::Chunk { snapshot, offset, data: data.to_vec() }
        }
        EnvelopeKind::SnapshotNeed => {
            SnapshotMessage::Need { hold: Hold { from: first_slot(envelope)?, progress: envelope.argument } }
        }
        _ => return Err(MessageError::WrongFamily { kind }),
    })
}

fn parse_reason(envelope: &Envelope) -> Result<NoSnapshot, MessageError> {
    Ok(match envelope.reason {
        reason::MAKING => NoSnapshot::Making,
        reason::BUSY => NoSnapshot::Busy { retry_after: Duration::from_micros(envelope.argument) },
        reason::BEHIND => NoSnapshot::Behind { position: Slot(envelope.argument) },
        reason::NO_MACHINE => NoSnapshot::NoMachine,
        reason::FAILED => NoSnapshot::Failed,
        reason::GONE => NoSnapshot::Gone,
        found => return Err(MessageError::Reason { found }),
    })
}

/// The snapshot that an envelope names, and an offset.
fn snapshot(envelope: &Envelope) -> Result<(SnapshotId, u64), MessageError> {
    let Mark { slot: position, chain: Chain(checksum) } = mark(envelope)?;
    let (bytes, offset) = split_numbers(envelope.identity);
    Ok((SnapshotId { position, bytes, checksum }, offset))
}

/// As [`snapshot`], with a range of bytes that lies within it.
fn range(envelope: &Envelope) -> Result<(SnapshotId, u64), MessageError> {
    let (snapshot, offset) = snapshot(envelope)?;
    let length = envelope.part;
    let fits = offset.checked_add(length.into()).is_some_and(|end| end <= snapshot.bytes);
    if length == 0 || length > SNAPSHOT_CHUNK_BYTES || !fits {
        return Err(MessageError::Field { kind: envelope.kind });
    }
    Ok((snapshot, offset))
}
