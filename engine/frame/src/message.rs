//! Messages between replicas as envelopes and payloads.
//!
//! | message | fields used besides kind, group, from, to, configuration | payload |
//! |---|---|---|
//! | PreVote, Prepare | ballot, first = from | |
//! | PreVoteGranted | ballot | |
//! | Promise | ballot, first = from, mark, part, parts | accepted bodies, none if there are none |
//! | Accept | ballot, mark, first and identity of the body | the body |
//! | Accepted | ballot, first, identity | |
//! | Reject | ballot, reason, and by reason: identity + argument (higher ballot), mark, first, argument | |
//! | Heartbeat | ballot, mark, argument = beat | |
//! | HeartbeatReply | ballot, mark, first = stable, argument = beat, flags = full | |
//! | Fetch | first = from, argument = bytes | |
//! | Chosen | mark, first and identity of the body, flag 0 = last | the body |
//! | FetchBody | first, identity | |
//! | Supply | first and identity of the body | the body |
//! | Unavailable | first, argument = available | |
//! | Base | mark = base, first and identity of the trim, argument = chosen at | the configuration's body, none if all know it |
//! | Resigned | ballot | |
//! | HandOver | ballot, argument = beat | |
//! | AskReadPoint | ballot, identity = boot (high) and number (low) | |
//! | ReadPoint | first = slot, identity as asked | |

use std::time::Duration;

use rkyv::{Archive, Serialize};
use synod_protocol::limits::{BODY_BYTES_MAX, DOUBTS_MAX, PROMISE_PART_MAX};
use synod_protocol::{
    AcceptedBody, Ballot, BodyHandle, BodyId, BodyKind, Chain, Doubt, Mark, Message, NodeId, RejectReason, Slot,
};
use thiserror::Error;

use crate::archive;
use crate::body::{kind_from_number, kind_number, slots_are_valid};
use crate::encode::EMPTY_BODY;
use crate::envelope::{Envelope, EnvelopeKind};
use crate::layout::{ENVELOPE_BYTES, GroupId};

/// Length of an accepted body in the payload of a promise.
pub(crate) const ACCEPTED_ROW_BYTES: usize = size_of::<ArchivedAcceptedRow>();

/// Length of a doubt in it.
pub(crate) const DOUBT_ROW_BYTES: usize = size_of::<ArchivedDoubtRow>();

/// Length of the root of that payload.
pub(crate) const PROMISE_ROOT_BYTES: usize = size_of::<ArchivedPromiseArchive>();

// The byte map of engine/docs/wal-format.md.
const _: () = assert!(ACCEPTED_ROW_BYTES == 64 && DOUBT_ROW_BYTES == 40 && PROMISE_ROOT_BYTES == 16);

const FLAG_LAST: u8 = 1;

/// The sender has no room for new commands.
const FLAG_FULL: u8 = 2;

mod reason {
    pub(super) const HIGHER_BALLOT: u8 = 1;
    pub(super) const ALREADY_CHOSEN: u8 = 2;
    pub(super) const BEYOND_ALPHA: u8 = 3;
    pub(super) const LEADER_ALIVE: u8 = 4;
    pub(super) const BALLOT_CONFLICT: u8 = 5;
    pub(super) const DISK_FULL: u8 = 6;
    pub(super) const WRONG_CONFIGURATION: u8 = 7;
    pub(super) const UNKNOWN_IDENTITY: u8 = 8;
    pub(super) const OVERLOADED: u8 = 9;
    pub(super) const NOT_LEADER: u8 = 10;
    pub(super) const DOUBTFUL: u8 = 11;
}

#[derive(Archive, Serialize)]
struct PromiseArchive {
    accepted: Vec<AcceptedRow>,
    doubts: Vec<DoubtRow>,
}

/// The ballot of the accept, and the body's handle.
#[derive(Archive, Serialize)]
struct AcceptedRow {
    round: u64,
    boot: u64,
    first: u64,
    argument: u64,
    id_low: u64,
    id_high: u64,
    node: u32,
    count: u32,
    bytes: u32,
    kind: u32,
}

/// Slots in doubt, and the bound of what was lost.
#[derive(Archive, Serialize)]
struct DoubtRow {
    round: u64,
    boot: u64,
    first: u64,
    end: u64,
    node: u32,
    reserved: u32,
}

/// Why an envelope and its payload aren't a message. Both were undamaged, so the sender is at fault: drop the message,
/// count it, and close the connection.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum MessageError {
    /// The payload isn't as long as the envelope says.
    #[error("{kind:?} came with {found} bytes of payload instead of {needed}")]
    PayloadBytes {
        /// The message.
        kind: EnvelopeKind,
        /// Length as the envelope says.
        needed: u32,
        /// Length as found.
        found: usize,
    },
    /// The payload is damaged.
    #[error("payload checksum of {kind:?} is {expected:#010x} but its bytes give {actual:#010x}")]
    PayloadChecksum {
        /// The message.
        kind: EnvelopeKind,
        /// As written in the envelope.
        expected: u32,
        /// As computed.
        actual: u32,
    },
    /// The payload isn't the archive it should be.
    #[error("the payload of {kind:?} isn't a valid archive")]
    PayloadArchive {
        /// The message.
        kind: EnvelopeKind,
    },
    /// A message that brings a body came without one.
    #[error("{kind:?} came without its body")]
    BodyMissing {
        /// The message.
        kind: EnvelopeKind,
    },
    /// The body that came isn't the one that the envelope names.
    #[error("{kind:?} names body {named} at {first}, but {found} came")]
    BodyMismatch {
        /// The message.
        kind: EnvelopeKind,
        /// First slot as the envelope says.
        first: Slot,
        /// Identity as the envelope says.
        named: BodyId,
        /// Identity of the body that came.
        found: BodyId,
    },
    /// An accepted body in a promise that can't exist, or one out of order.
    #[error("accepted body {index} of the promise isn't valid or is out of order")]
    Accepted {
        /// Its place in the payload.
        index: usize,
    },
    /// A doubt in a promise that can't be.
    #[error("doubt {index} of the promise isn't valid")]
    Doubt {
        /// Its place in the payload.
        index: usize,
    },
    /// A refusal for a reason that this build doesn't know.
    #[error("refusal for unknown reason {found}")]
    Reason {
        /// Reason found.
        found: u8,
    },
    /// Slot zero where there must be a slot, or part numbers that can't be.
    #[error("{kind:?} lacks a field or has one out of range")]
    Field {
        /// The message.
        kind: EnvelopeKind,
    },
    /// A message about snapshots where one about the log is read, or the other way round.
    #[error("{kind:?} is read as what it isn't")]
    WrongFamily {
        /// The message.
        kind: EnvelopeKind,
    },
    /// A field that this message doesn't use isn't zero.
    #[error("{kind:?} fills fields that it doesn't have")]
    UnusedField {
        /// The message.
        kind: EnvelopeKind,
    },
}

/// Lays out a message. The payload is empty but for promises; a body that travels with the message
/// ([`Message::body`]) isn't in it: its exact bytes are to be sent right behind the envelope.
///
/// # Panics
/// If a promise has more than [`PROMISE_PART_MAX`] accepted bodies, or [`DOUBTS_MAX`] doubts: a bug of the core.
pub fn encode_message(
    group: GroupId,
    from: NodeId,
    to: NodeId,
    configuration: Slot,
    message: &Message,
) -> ([u8; ENVELOPE_BYTES], Vec<u8>) {
    let payload = match message {
        Message::Promise { accepted, doubts, .. } => promise_payload(accepted, doubts),
        Message::Base { configuration, .. } => configuration.clone(),
        _ => Vec::new(),
    };
    let base = Envelope {
        payload_checksum: if payload.is_empty() { 0 } else { crc32fast::hash(&payload) },
        payload_bytes: payload.len() as u32,
        group,
        from,
        to,
        configuration,
        ..blank(kind_of(message))
    };
    (fill(base, message).encode(), payload)
}

/// Reads a message. `payload` holds exactly the bytes behind the envelope, unless they are a body: that comes as the
/// handle of the body that was received and verified, and `payload` is empty or holds the same bytes.
///
/// # Errors
/// The first thing that is wrong.
pub fn decode_message(envelope: &Envelope, payload: &[u8], body: Option<&BodyHandle>) -> Result<Message, MessageError> {
    let message = match envelope.kind.carries_body() {
        true => parse_with_body(envelope, body.ok_or(MessageError::BodyMissing { kind: envelope.kind })?)?,
        false => {
            check_payload(envelope, payload)?;
            parse(envelope, payload)?
        }
    };
    // Encoding again fills exactly the fields that the message has: what differs now was in none of them.
    let base = Envelope {
        payload_bytes: envelope.payload_bytes,
        payload_checksum: if payload_is_archive(envelope) { envelope.payload_checksum } else { 0 },
        group: envelope.group,
        from: envelope.from,
        to: envelope.to,
        configuration: envelope.configuration,
        ..blank(envelope.kind)
    };
    if fill(base, &message) != *envelope {
        return Err(MessageError::UnusedField { kind: envelope.kind });
    }
    Ok(message)
}

pub(crate) fn payload_is_archive(envelope: &Envelope) -> bool {
    envelope.payload_bytes > 0 && !envelope.kind.carries_body()
}

pub(crate) fn check_payload(envelope: &Envelope, payload: &[u8]) -> Result<(), MessageError> {
    let kind = envelope.kind;
    if payload.len() != envelope.payload_bytes as usize {
        return Err(MessageError::PayloadBytes { kind, needed: envelope.payload_bytes, found: payload.len() });
    }
    let expected = envelope.payload_checksum;
    let actual = crc32fast::hash(payload);
    if payload_is_archive(envelope) && expected != actual {
        return Err(MessageError::PayloadChecksum { kind, expected, actual });
    }
    Ok(())
}

fn kind_of(message: &Message) -> EnvelopeKind {
    match message {
        Message::PreVote { .. } => EnvelopeKind::PreVote,
        Message::PreVoteGranted { .. } => EnvelopeKind::PreVoteGranted,
        Message::Prepare { .. } => EnvelopeKind::Prepare,
        Message::Promise { .. } => EnvelopeKind::Promise,
        Message::Accept { .. } => EnvelopeKind::Accept,
        Message::Accepted { .. } => EnvelopeKind::Accepted,
        Message::Reject { .. } => EnvelopeKind::Reject,
        Message::Heartbeat { .. } => EnvelopeKind::Heartbeat,
        Message::HeartbeatReply { .. } => EnvelopeKind::HeartbeatReply,
        Message::Fetch { .. } => EnvelopeKind::Fetch,
        Message::Chosen { .. } => EnvelopeKind::Chosen,
        Message::FetchBody { .. } => EnvelopeKind::FetchBody,
        Message::Supply { .. } => EnvelopeKind::Supply,
        Message::Unavailable { .. } => EnvelopeKind::Unavailable,
        Message::Resigned { .. } => EnvelopeKind::Resigned,
        Message::HandOver { .. } => EnvelopeKind::HandOver,
        Message::AskReadPoint { .. } => EnvelopeKind::AskReadPoint,
        Message::ReadPoint { .. } => EnvelopeKind::ReadPoint,
        Message::Base { .. } => EnvelopeKind::Base,
    }
}

pub(crate) fn blank(kind: EnvelopeKind) -> Envelope {
    Envelope {
        kind,
        payload_bytes: 0,
        payload_checksum: 0,
        group: GroupId(0),
        from: NodeId(0),
        to: NodeId(0),
        configuration: Slot(0),
        ballot: Ballot::ZERO,
        mark_slot: Slot(0),
        mark_chain: Chain(0),
        first: Slot(0),
        identity: BodyId(0),
        argument: 0,
        part: 0,
        parts: 0,
        reason: 0,
        flags: 0,
    }
}

/// Puts the message's fields into the envelope; the inverse of [`parse`] and [`parse_with_body`].
fn fill(base: Envelope, message: &Message) -> Envelope {
    match *message {
        Message::PreVoteGranted { ballot } | Message::Resigned { ballot } => Envelope { ballot, ..base },
        Message::PreVote { ballot, from } | Message::Prepare { ballot, from } => {
            Envelope { ballot, first: from, ..base }
        }
        Message::Promise { ballot, from, mark, part, parts, accepted: _, doubts: _ } => {
            with_mark(Envelope { ballot, first: from, part, parts, ..base }, mark)
        }
        Message::Accept { ballot, body, mark } => with_mark(with_body(Envelope { ballot, ..base }, &body), mark),
        Message::Accepted { ballot, first, id } => Envelope { ballot, first, identity: id, ..base },
        Message::Reject { ballot, reason } => with_reason(Envelope { ballot, ..base }, reason),
        Message::Heartbeat { ballot, mark, beat, recovered } => {
            with_mark(Envelope { ballot, first: recovered, argument: beat, ..base }, mark)
        }
        Message::HeartbeatReply { ballot, mark, stable, beat, full } => {
            let flags = if full { FLAG_FULL } else { 0 };
            with_mark(Envelope { ballot, first: stable, argument: beat, flags, ..base }, mark)
        }
        Message::HandOver { ballot, beat } => Envelope { ballot, argument: beat, ..base },
        Message::AskReadPoint { ballot, boot, number } => {
            Envelope { ballot, identity: two_numbers(boot, number), ..base }
        }
        Message::ReadPoint { boot, number, slot } => {
            Envelope { first: slot, identity: two_numbers(boot, number), ..base }
        }
        Message::Fetch { from, bytes } => Envelope { first: from, argument: u64::from(bytes), ..base },
        Message::Chosen { body, mark, last } => {
            let flags = if last { FLAG_LAST } else { 0 };
            with_mark(with_body(Envelope { flags, ..base }, &body), mark)
        }
        Message::FetchBody { first, id } => Envelope { first, identity: id, ..base },
        Message::Supply { body } => with_body(base, &body),
        Message::Unavailable { first, available } => Envelope { first, argument: available.0, ..base },
        Message::Base { base: begin, trim, chosen_at, configuration: _ } => {
            let (first, identity) = trim.unwrap_or((Slot(0), BodyId(0)));
            with_mark(Envelope { first, identity, argument: chosen_at.0, ..base }, begin)
        }
    }
}

/// Two numbers in the field of an identity.
pub(crate) fn two_numbers(high: u64, low: u64) -> BodyId {
    BodyId(u128::from(high) << 64 | u128::from(low))
}

/// The inverse of [`two_numbers`].
pub(crate) fn split_numbers(identity: BodyId) -> (u64, u64) {
    ((identity.0 >> 64) as u64, identity.0 as u64)
}

fn with_mark(base: Envelope, mark: Mark) -> Envelope {
    Envelope { mark_slot: mark.slot, mark_chain: mark.chain, ..base }
}

fn with_body(base: Envelope, body: &BodyHandle) -> Envelope {
    Envelope { payload_bytes: body.bytes, first: body.first, identity: body.id, ..base }
}

fn with_reason(base: Envelope, why: RejectReason) -> Envelope {
    match why {
        RejectReason::HigherBallot { promised } => Envelope {
            reason: reason::HIGHER_BALLOT,
            identity: two_numbers(promised.boot, promised.round),
            argument: u64::from(promised.node.0),
            ..base
        },
        RejectReason::AlreadyChosen { mark } => with_mark(Envelope { reason: reason::ALREADY_CHOSEN, ..base }, mark),
        RejectReason::BeyondAlpha { limit } => Envelope { reason: reason::BEYOND_ALPHA, first: limit, ..base },
        RejectReason::LeaderAlive { leader } => {
            Envelope { reason: reason::LEADER_ALIVE, argument: u64::from(leader.0), ..base }
        }
        RejectReason::BallotConflict { first } => Envelope { reason: reason::BALLOT_CONFLICT, first, ..base },
        RejectReason::DiskFull => Envelope { reason: reason::DISK_FULL, ..base },
        RejectReason::WrongConfiguration { slot, chosen_at } => {
            Envelope { reason: reason::WRONG_CONFIGURATION, first: slot, argument: chosen_at.0, ..base }
        }
        RejectReason::UnknownIdentity => Envelope { reason: reason::UNKNOWN_IDENTITY, ..base },
        RejectReason::NotLeader => Envelope { reason: reason::NOT_LEADER, ..base },
        RejectReason::Doubtful => Envelope { reason: reason::DOUBTFUL, ..base },
        RejectReason::Overloaded { retry_after } => {
            let microseconds = u64::try_from(retry_after.as_micros()).unwrap_or(u64::MAX);
            Envelope { reason: reason::OVERLOADED, argument: microseconds, ..base }
        }
    }
}

fn parse(envelope: &Envelope, payload: &[u8]) -> Result<Message, MessageError> {
    let ballot = envelope.ballot;
    Ok(match envelope.kind {
        EnvelopeKind::PreVote => Message::PreVote { ballot, from: envelope.first },
        EnvelopeKind::PreVoteGranted => Message::PreVoteGranted { ballot },
        EnvelopeKind::Prepare => Message::Prepare { ballot, from: first_slot(envelope)? },
        EnvelopeKind::Promise => parse_promise(envelope, payload)?,
        EnvelopeKind::Accepted => Message::Accepted { ballot, first: first_slot(envelope)?, id: envelope.identity },
        EnvelopeKind::Reject => Message::Reject { ballot, reason: parse_reason(envelope)? },
        EnvelopeKind::Heartbeat => {
            Message::Heartbeat { ballot, mark: mark(envelope)?, beat: envelope.argument, recovered: envelope.first }
        }
        EnvelopeKind::HeartbeatReply => Message::HeartbeatReply {
            ballot,
            mark: mark(envelope)?,
            stable: envelope.first,
            beat: envelope.argument,
            full: envelope.flags & FLAG_FULL != 0,
        },
        EnvelopeKind::Resigned => Message::Resigned { ballot },
        EnvelopeKind::HandOver => Message::HandOver { ballot, beat: envelope.argument },
        EnvelopeKind::AskReadPoint => {
            let (boot, number) = split_numbers(envelope.identity);
            Message::AskReadPoint { ballot, boot, number }
        }
        EnvelopeKind::ReadPoint => {
            let (boot, number) = split_numbers(envelope.identity);
            Message::ReadPoint { boot, number, slot: first_slot(envelope)? }
        }
        EnvelopeKind::Fetch => Message::Fetch { from: first_slot(envelope)?, bytes: argument_u32(envelope)? },
        EnvelopeKind::FetchBody => Message::FetchBody { first: first_slot(envelope)?, id: envelope.identity },
        EnvelopeKind::Unavailable => {
            Message::Unavailable { first: first_slot(envelope)?, available: argument_slot(envelope)? }
        }
        EnvelopeKind::Base => Message::Base {
            base: mark(envelope)?,
            trim: (envelope.first > Slot(0)).then_some((envelope.first, envelope.identity)),
            chosen_at: Slot(envelope.argument),
            configuration: payload.to_vec(),
        },
        kind @ (EnvelopeKind::Accept | EnvelopeKind::Chosen | EnvelopeKind::Supply) => {
            return Err(MessageError::BodyMissing { kind });
        }
        kind @ (EnvelopeKind::SnapshotAsk
        | EnvelopeKind::SnapshotOffer
        | EnvelopeKind::SnapshotRefuse
        | EnvelopeKind::SnapshotFetch
        | EnvelopeKind::SnapshotChunk
        | EnvelopeKind::SnapshotNeed) => return Err(MessageError::WrongFamily { kind }),
    })
}

fn parse_with_body(envelope: &Envelope, body: &BodyHandle) -> Result<Message, MessageError> {
    let kind = envelope.kind;
    if body.bytes != envelope.payload_bytes {
        return Err(MessageError::PayloadBytes { kind, needed: envelope.payload_bytes, found: body.bytes as usize });
    }
    if (body.first, body.id) != (envelope.first, envelope.identity) {
        return Err(MessageError::BodyMismatch {
            kind,
            first: envelope.first,
            named: envelope.identity,
            found: body.id,
        });
    }
    let body = *body;
    match kind {
        EnvelopeKind::Accept => Ok(Message::Accept { ballot: envelope.ballot, body, mark: mark(envelope)? }),
        EnvelopeKind::Chosen => {
            Ok(Message::Chosen { body, mark: mark(envelope)?, last: envelope.flags & FLAG_LAST != 0 })
        }
        EnvelopeKind::Supply => Ok(Message::Supply { body }),
        _ => Err(MessageError::Field { kind }),
    }
}

fn parse_reason(envelope: &Envelope) -> Result<RejectReason, MessageError> {
    Ok(match envelope.reason {
        reason::HIGHER_BALLOT => RejectReason::HigherBallot {
            promised: Ballot {
                round: envelope.identity.0 as u64,
                node: NodeId(argument_u32(envelope)?),
                boot: (envelope.identity.0 >> 64) as u64,
            },
        },
        reason::ALREADY_CHOSEN => RejectReason::AlreadyChosen { mark: mark(envelope)? },
        reason::BEYOND_ALPHA => RejectReason::BeyondAlpha { limit: first_slot(envelope)? },
        reason::LEADER_ALIVE => RejectReason::LeaderAlive { leader: NodeId(argument_u32(envelope)?) },
        reason::BALLOT_CONFLICT => RejectReason::BallotConflict { first: first_slot(envelope)? },
        reason::DISK_FULL => RejectReason::DiskFull,
        reason::WRONG_CONFIGURATION => {
            RejectReason::WrongConfiguration { slot: first_slot(envelope)?, chosen_at: Slot(envelope.argument) }
        }
        reason::UNKNOWN_IDENTITY => RejectReason::UnknownIdentity,
        reason::NOT_LEADER => RejectReason::NotLeader,
        reason::DOUBTFUL => RejectReason::Doubtful,
        reason::OVERLOADED => RejectReason::Overloaded { retry_after: Duration::from_micros(envelope.argument) },
        found => return Err(MessageError::Reason { found }),
    })
}

fn parse_promise(envelope: &Envelope, payload: &[u8]) -> Result<Message, MessageError> {
    let (part, parts) = (envelope.part, envelope.parts);
    if part >= parts {
        return Err(MessageError::Field { kind: envelope.kind });
    }
    let (accepted, doubts) = match payload.is_empty() {
        true => (Vec::new(), Vec::new()),
        false => archive::with_aligned(payload, parse_promise_payload)?,
    };
    let (ballot, from, mark) = (envelope.ballot, envelope.first, mark(envelope)?);
    Ok(Message::Promise { ballot, from, mark, part, parts, accepted, doubts })
}

fn promise_payload(accepted: &[AcceptedBody], doubts: &[Doubt]) -> Vec<u8> {
    assert!(accepted.len() <= PROMISE_PART_MAX, "{} accepted bodies in one part", accepted.len());
    assert!(doubts.len() <= DOUBTS_MAX, "{} doubts in one promise", doubts.len());
    if accepted.is_empty() && doubts.is_empty() {
        return Vec::new();
    }
    let doubt_row = |doubt: &Doubt| DoubtRow {
        round: doubt.bound.round,
        boot: doubt.bound.boot,
        first: doubt.first.0,
        end: doubt.end.0,
        node: doubt.bound.node.0,
        reserved: 0,
    };
    let row = |entry: &AcceptedBody| AcceptedRow {
        round: entry.ballot.round,
        boot: entry.ballot.boot,
        first: entry.body.first.0,
        argument: match entry.body.kind {
            BodyKind::Trim { upto } => upto.0,
            BodyKind::Configuration { after } => after.0,
            BodyKind::Commands | BodyKind::NoOp | BodyKind::Session | BodyKind::Ticket => 0,
        },
        id_low: entry.body.id.0 as u64,
        id_high: (entry.body.id.0 >> 64) as u64,
        node: entry.ballot.node.0,
        count: entry.body.count,
        bytes: entry.body.bytes,
        kind: u32::from(kind_number(entry.body.kind)),
    };
    archive::to_vec(&PromiseArchive {
        accepted: accepted.iter().map(row).collect(),
        doubts: doubts.iter().map(doubt_row).collect(),
    })
}

fn parse_promise_payload(payload: &[u8]) -> Result<(Vec<AcceptedBody>, Vec<Doubt>), MessageError> {
    let kind = EnvelopeKind::Promise;
    let archive = archive::access::<ArchivedPromiseArchive>(payload).ok_or(MessageError::PayloadArchive { kind })?;
    let (rows, doubt_rows) = (archive.accepted.as_slice(), archive.doubts.as_slice());
    let bytes = rows.len() * ACCEPTED_ROW_BYTES + doubt_rows.len() * DOUBT_ROW_BYTES + PROMISE_ROOT_BYTES;
    // What has nothing to say has no payload at all: one encoding for every message.
    if rows.is_empty() && doubt_rows.is_empty() || payload.len() != bytes || doubt_rows.len() > DOUBTS_MAX {
        return Err(MessageError::PayloadArchive { kind });
    }
    let mut accepted = Vec::with_capacity(rows.len());
    let mut before = Slot::FIRST;
    for (index, row) in rows.iter().enumerate() {
        let entry = parse_accepted_row(row).ok_or(MessageError::Accepted { index })?;
        if entry.body.first < before {
            return Err(MessageError::Accepted { index });
        }
        before = entry.body.first;
        accepted.push(entry);
    }
    let doubts = doubt_rows.iter().enumerate();
    let doubts = doubts.map(|(index, row)| parse_doubt_row(row).ok_or(MessageError::Doubt { index }));
    Ok((accepted, doubts.collect::<Result<_, _>>()?))
}

fn parse_doubt_row(row: &ArchivedDoubtRow) -> Option<Doubt> {
    let bound = Ballot { round: row.round.to_native(), node: NodeId(row.node.to_native()), boot: row.boot.to_native() };
    let doubt = Doubt { first: Slot(row.first.to_native()), end: Slot(row.end.to_native()), bound };
    (doubt.first >= Slot::FIRST && doubt.first < doubt.end && row.reserved == 0).then_some(doubt)
}

fn parse_accepted_row(row: &ArchivedAcceptedRow) -> Option<AcceptedBody> {
    let number = u8::try_from(row.kind.to_native()).ok()?;
    let body = BodyHandle {
        first: Slot(row.first.to_native()),
        count: row.count.to_native(),
        bytes: row.bytes.to_native(),
        kind: kind_from_number(number, row.argument.to_native()).ok()?,
        id: BodyId(u128::from(row.id_high.to_native()) << 64 | u128::from(row.id_low.to_native())),
    };
    let ballot =
        Ballot { round: row.round.to_native(), node: NodeId(row.node.to_native()), boot: row.boot.to_native() };
    let valid = slots_are_valid(body.kind, body.first, body.count)
        && (EMPTY_BODY.body_bytes..=BODY_BYTES_MAX).contains(&body.bytes);
    valid.then_some(AcceptedBody { ballot, body })
}

pub(crate) fn mark(envelope: &Envelope) -> Result<Mark, MessageError> {
    envelope.mark().ok_or(MessageError::Field { kind: envelope.kind })
}

pub(crate) fn first_slot(envelope: &Envelope) -> Result<Slot, MessageError> {
    slot(envelope, envelope.first)
}

fn argument_slot(envelope: &Envelope) -> Result<Slot, MessageError> {
    slot(envelope, Slot(envelope.argument))
}

fn slot(envelope: &Envelope, slot: Slot) -> Result<Slot, MessageError> {
    if slot >= Slot::FIRST { Ok(slot) } else { Err(MessageError::Field { kind: envelope.kind }) }
}

fn argument_u32(envelope: &Envelope) -> Result<u32, MessageError> {
    u32::try_from(envelope.argument).map_err(|_| MessageError::Field { kind: envelope.kind })
}
