//! Requests and replies as envelopes and payloads.
//!
//! | message | fields used besides kind, request (and group in requests) | payload |
//! |---|---|---|
//! | Append | first = expected slot, argument = microseconds to wait, session, sequence, ticket | the batch's columns |
//! | Session | session to close | |
//! | Ticket | ticket to revoke, or argument = microseconds that a new one lasts | |
//! | Barrier, Status | | |
//! | Trim | first = upto | |
//! | Transfer | node = target | |
//! | Members | | |
//! | Change | count = which, argument = format | who comes and who goes |
//! | Read | first = from, argument = bytes_max, count = milliseconds to wait | |
//! | Appended | first, count | |
//! | Done | first = slot | |
//! | Gaps | | the gaps |
//! | Refused | reason, and by reason: node, argument, first, count | leader's address, or a reason in words |
//! | StatusReport, MembersReport | | the report |
//! | Body | first, count | the body |
//! | ReadEnd | first = next | |

mod gaps;
mod members;
mod reason;

use std::time::Duration;

use rkyv::munge::munge;
use rkyv::rancor::Fallible;
use rkyv::ser::{Writer, WriterExt};
use rkyv::vec::{ArchivedVec, VecResolver};
use rkyv::{Archive, Archived, Place, Serialize};
use synod_protocol::delivery::{SessionCommand, SessionId, Terms, TicketCommand, TicketId};
use synod_protocol::limits::BODY_SLOTS_MAX;
use synod_protocol::{Ballot, BodyHandle, Chain, Mark, NodeId, Slot};
use thiserror::Error;

use super::{
    ADDRESS_BYTES_MAX, ClientEnvelope, ClientKind, ClientRefusal, ClientReply, ClientRequest, FIGURES_BYTES_MAX,
    NodeReport, NodeRole, STATUS_NODES_MAX, StatusReport,
};
use crate::archive;
use crate::batch::{Batch, BatchError, Shape};
use crate::commands::write_numbers;
use crate::layout::{ENVELOPE_BYTES, GroupId};

pub(super) use members::{CHANGE_PAYLOAD_BYTES_MAX, MEMBERS_PAYLOAD_BYTES_MAX, REASON_PAYLOAD_BYTES_MAX};

use gaps::{gaps_payload, parse_gaps};
use members::{
    change_argument, change_number, change_payload, members_payload, parse_change, parse_members, reason_payload,
};
use reason::{fill_reason, parse_reason};

/// Length of the root of an append's payload.
pub(super) const APPEND_ROOT_BYTES: usize = size_of::<ArchivedAppend>();

/// Longest payload with an address.
const ADDRESS_PAYLOAD_BYTES_MAX: usize =
    ADDRESS_BYTES_MAX + align_of::<ArchivedAddress>() + size_of::<ArchivedAddress>();

const _: () = assert!(ADDRESS_PAYLOAD_BYTES_MAX <= REASON_PAYLOAD_BYTES_MAX);

/// Longest payload with a status report.
pub(super) const STATUS_PAYLOAD_BYTES_MAX: usize =
    STATUS_NODES_MAX * (ADDRESS_BYTES_MAX + size_of::<ArchivedNodeRow>()) + 8 + size_of::<ArchivedReport>();

/// Longest payload with figures.
pub(super) const FIGURES_PAYLOAD_BYTES_MAX: usize =
    FIGURES_BYTES_MAX + align_of::<ArchivedFigures>() + size_of::<ArchivedFigures>();

/// What is read; written as [`AppendSource`].
#[derive(Archive)]
#[expect(dead_code, reason = "only its archived twin is ever built")]
struct Append {
    /// Length of every command, if there are no ends.
    stride: u32,
    count: u32,
    /// Where each command ends in the blob, if the lengths differ.
    ends: Vec<u32>,
    blob: Vec<u8>,
}

#[derive(Archive, Serialize)]
struct Address {
    address: Vec<u8>,
}

#[derive(Archive, Serialize)]
struct Figures {
    text: Vec<u8>,
}

#[derive(Archive, Serialize)]
struct Report {
    round: u64,
    boot: u64,
    mark_slot: u64,
    chain_low: u64,
    chain_high: u64,
    available: u64,
    ballot_node: u32,
    node: u32,
    role: u32,
    /// Zero if there is none.
    leader: u32,
    nodes: Vec<NodeRow>,
}

#[derive(Archive, Serialize)]
struct NodeRow {
    prefix: u64,
    node: u32,
    connected: u32,
    address: Vec<u8>,
}

// The byte map of engine/docs/wal-format.md.
const _: () = {
    assert!(APPEND_ROOT_BYTES == 24);
    assert!(size_of::<ArchivedAddress>() == 8);
    assert!(size_of::<ArchivedFigures>() == 8);
    assert!(size_of::<ArchivedReport>() == 72);
    assert!(size_of::<ArchivedNodeRow>() == 24);
};

/// Why an envelope and its payload aren't a message of the client protocol. Both were undamaged, so the sender is at
/// fault: close the connection.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ClientMessageError {
    /// A request where a reply is due, or the other way round.
    #[error("{kind:?} came from the wrong side")]
    Direction {
        /// The message.
        kind: ClientKind,
    },
    /// The payload isn't as long as the envelope says.
    #[error("{kind:?} came with {found} bytes of payload instead of {needed}")]
    PayloadBytes {
        /// The message.
        kind: ClientKind,
        /// Length as the envelope says.
        needed: u32,
        /// Length as found.
        found: usize,
    },
    /// The payload is damaged.
    #[error("payload checksum of {kind:?} is {expected:#010x} but its bytes give {actual:#010x}")]
    PayloadChecksum {
        /// The message.
        kind: ClientKind,
        /// As written in the envelope.
        expected: u32,
        /// As computed.
        actual: u32,
    },
    /// The payload isn't the archive it should be.
    #[error("the payload of {kind:?} isn't a valid archive")]
    PayloadArchive {
        /// The message.
        kind: ClientKind,
    },
    /// The columns of an append aren't a batch.
    #[error("the commands to append are malformed: {0}")]
    Batch(#[from] BatchError),
    /// More commands than any body takes.
    #[error("{count} commands in one submission, at most {BODY_SLOTS_MAX} are allowed")]
    TooMany {
        /// Number of commands.
        count: u32,
    },
    /// A body that isn't the one that the envelope names, or none.
    #[error("the body at {first} that the reply names didn't come with it")]
    Body {
        /// First slot as the envelope says.
        first: Slot,
    },
    /// A refusal for a reason that this build doesn't know.
    #[error("refusal for unknown reason {found}")]
    Reason {
        /// Reason found.
        found: u32,
    },
    /// A field out of range.
    #[error("{kind:?} lacks a field or has one out of range")]
    Field {
        /// The message.
        kind: ClientKind,
    },
    /// A field that this message doesn't use isn't zero.
    #[error("{kind:?} fills fields that it doesn't have")]
    UnusedField {
        /// The message.
        kind: ClientKind,
    },
}

/// Lays out a request.
pub fn encode_request(request: &ClientRequest) -> ([u8; ENVELOPE_BYTES], Vec<u8>) {
    match request {
        ClientRequest::Append { request, group, batch, terms, within } => {
            encode_append(*request, *group, batch, terms, *within)
        }
        ClientRequest::Change { change, .. } => {
            let payload = change_payload(change);
            (with_payload(fill_request(request), &payload).encode(), payload)
        }
        _ => (fill_request(request).encode(), Vec::new()),
    }
}

/// Lays out an append without taking the batch. The batch must be one that fits into a body
/// ([`crate::CommandsPlan`]), or the node won't read it.
pub fn encode_append(
    request: u64,
    group: GroupId,
    batch: &Batch,
    terms: &Terms,
    within: Duration,
) -> ([u8; ENVELOPE_BYTES], Vec<u8>) {
    let payload = archive::to_vec_with_capacity(&AppendSource { batch }, append_bytes(batch));
    let envelope = fill_append(request, group, terms, within);
    (with_payload(envelope, &payload).encode(), payload)
}

/// Lays out a reply. A body ([`ClientReply::body`]) isn't in the payload: its exact bytes are to be sent right behind
/// the envelope. Addresses and node lists beyond their bounds are left out, for they are only hints.
pub fn encode_reply(reply: &ClientReply) -> ([u8; ENVELOPE_BYTES], Vec<u8>) {
    let payload = match reply {
        ClientReply::Refused { reason: ClientRefusal::NotLeader { address, .. }, .. } => address_payload(address),
        ClientReply::Refused { reason: ClientRefusal::NotChanged { reason }, .. } => reason_payload(reason),
        ClientReply::Status { status, .. } => status_payload(status),
        ClientReply::Members { members, .. } => members_payload(members),
        ClientReply::Figures { text, .. } => figures_payload(text),
        ClientReply::Gaps { gaps, .. } => gaps_payload(gaps),
        _ => Vec::new(),
    };
    (with_payload(fill_reply(reply), &payload).encode(), payload)
}

/// Reads a request. `payload` holds exactly the bytes behind the envelope.
///
/// # Errors
/// The first thing that is wrong.
pub fn decode_request(envelope: &ClientEnvelope, payload: &[u8]) -> Result<ClientRequest, ClientMessageError> {
    check_payload(envelope, payload)?;
    let (kind, request, group) = (envelope.kind, envelope.request, envelope.group);
    let message = match kind {
        ClientKind::Append => {
            let batch = archive::with_aligned(payload, parse_batch)?;
            let session = (envelope.session != Slot(0)).then_some((SessionId(envelope.session), envelope.sequence));
            let ticket = (envelope.ticket != Slot(0)).then_some(TicketId(envelope.ticket));
            let expected_slot = (envelope.first != Slot(0)).then_some(envelope.first);
            let terms = Terms { session, ticket, expected_slot };
            ClientRequest::Append { request, group, batch, terms, within: Duration::from_micros(envelope.argument) }
        }
        ClientKind::Session => {
            let command = match envelope.session {
                Slot(0) => SessionCommand::Open,
                session => SessionCommand::Close(SessionId(session)),
            };
            ClientRequest::Session { request, group, command }
        }
        ClientKind::Ticket => {
            let command = match envelope.ticket {
                Slot(0) => TicketCommand::Issue { lasts_us: envelope.argument },
                ticket => TicketCommand::Revoke(TicketId(ticket)),
            };
            ClientRequest::Ticket { request, group, command }
        }
        ClientKind::Barrier => ClientRequest::Barrier { request, group },
        ClientKind::Trim => ClientRequest::Trim { request, group, upto: envelope.first },
        ClientKind::Transfer => ClientRequest::Transfer { request, group, target: envelope.node },
        ClientKind::Members => ClientRequest::Members { request, group },
        ClientKind::Change => {
            ClientRequest::Change { request, group, change: parse_change(envelope.count, envelope.argument, payload)? }
        }
        ClientKind::Status => ClientRequest::Status { request, group },
        ClientKind::Figures => ClientRequest::Figures { request, group },
        ClientKind::Read => {
            let bytes_max = u32::try_from(envelope.argument).map_err(|_| ClientMessageError::Field { kind })?;
            ClientRequest::Read { request, group, from: first_slot(envelope)?, bytes_max, wait_ms: envelope.count }
        }
        _ => return Err(ClientMessageError::Direction { kind }),
    };
    check_unused(envelope, fill_request(&message))?;
    Ok(message)
}

/// Reads a reply. `payload` holds exactly the bytes behind the envelope, unless they are a body: that comes as the
/// handle of the body that was received and verified, and `payload` is empty or holds the same bytes.
///
/// # Errors
/// The first thing that is wrong.
pub fn decode_reply(
    envelope: &ClientEnvelope,
    payload: &[u8],
    body: Option<&BodyHandle>,
) -> Result<ClientReply, ClientMessageError> {
    let (kind, request) = (envelope.kind, envelope.request);
    if kind != ClientKind::Body {
        check_payload(envelope, payload)?;
    }
    let message = match kind {
        ClientKind::Appended => ClientReply::Appended { request, first: first_slot(envelope)?, count: envelope.count },
        ClientKind::Done => ClientReply::Done { request, slot: envelope.first },
        ClientKind::Gaps => ClientReply::Gaps { request, gaps: archive::with_aligned(payload, parse_gaps)? },
        ClientKind::Refused => ClientReply::Refused { request, reason: parse_reason(envelope, payload)? },
        ClientKind::StatusReport => {
            ClientReply::Status { request, status: archive::with_aligned(payload, parse_status)? }
        }
        ClientKind::MembersReport => {
            ClientReply::Members { request, members: archive::with_aligned(payload, parse_members)? }
        }
        ClientKind::FiguresReport => {
            ClientReply::Figures { request, text: archive::with_aligned(payload, parse_figures)? }
        }
        ClientKind::Body => ClientReply::Body { request, body: parse_body(envelope, body)? },
        ClientKind::ReadEnd => ClientReply::ReadEnd { request, next: first_slot(envelope)? },
        _ => return Err(ClientMessageError::Direction { kind }),
    };
    check_unused(envelope, fill_reply(&message))?;
    Ok(message)
}

/// Encoding again fills exactly the fields that the message has: what differs was in none of them.
fn check_unused(envelope: &ClientEnvelope, filled: ClientEnvelope) -> Result<(), ClientMessageError> {
    let carries_archive = envelope.payload_bytes > 0 && envelope.kind != ClientKind::Body;
    let filled = ClientEnvelope {
        payload_bytes: envelope.payload_bytes,
        payload_checksum: if carries_archive { envelope.payload_checksum } else { 0 },
        ..filled
    };
    if filled == *envelope { Ok(()) } else { Err(ClientMessageError::UnusedField { kind: envelope.kind }) }
}

fn check_payload(envelope: &ClientEnvelope, payload: &[u8]) -> Result<(), ClientMessageError> {
    let kind = envelope.kind;
    if payload.len() != envelope.payload_bytes as usize {
        return Err(ClientMessageError::PayloadBytes { kind, needed: envelope.payload_bytes, found: payload.len() });
    }
    let expected = envelope.payload_checksum;
    let actual = crc32fast::hash(payload);
    if !payload.is_empty() && expected != actual {
        return Err(ClientMessageError::PayloadChecksum { kind, expected, actual });
    }
    Ok(())
}

fn with_payload(envelope: ClientEnvelope, payload: &[u8]) -> ClientEnvelope {
    if payload.is_empty() {
        return envelope;
    }
    ClientEnvelope { payload_bytes: payload.len() as u32, payload_checksum: crc32fast::hash(payload), ..envelope }
}

fn fill_request(message: &ClientRequest) -> ClientEnvelope {
    match *message {
        ClientRequest::Append { request, group, batch: _, ref terms, within } => {
            fill_append(request, group, terms, within)
        }
        ClientRequest::Session { request, group, command } => ClientEnvelope {
            group,
            session: match command {
                SessionCommand::Open => Slot(0),
                SessionCommand::Close(SessionId(session)) => session,
            },
            ..ClientEnvelope::blank(ClientKind::Session, request)
        },
        ClientRequest::Ticket { request, group, command } => {
            let (ticket, argument) = match command {
                TicketCommand::Issue { lasts_us } => (Slot(0), lasts_us),
                TicketCommand::Revoke(TicketId(ticket)) => (ticket, 0),
            };
            ClientEnvelope { group, ticket, argument, ..ClientEnvelope::blank(ClientKind::Ticket, request) }
        }
        ClientRequest::Barrier { request, group } => {
            ClientEnvelope { group, ..ClientEnvelope::blank(ClientKind::Barrier, request) }
        }
        ClientRequest::Trim { request, group, upto } => {
            ClientEnvelope { group, first: upto, ..ClientEnvelope::blank(ClientKind::Trim, request) }
        }
        ClientRequest::Transfer { request, group, target } => {
            ClientEnvelope { group, node: target, ..ClientEnvelope::blank(ClientKind::Transfer, request) }
        }
        ClientRequest::Members { request, group } => {
            ClientEnvelope { group, ..ClientEnvelope::blank(ClientKind::Members, request) }
        }
        ClientRequest::Change { request, group, ref change } => {
            let (count, argument) = (change_number(change), change_argument(change));
            ClientEnvelope { group, count, argument, ..ClientEnvelope::blank(ClientKind::Change, request) }
        }
        ClientRequest::Status { request, group } => {
            ClientEnvelope { group, ..ClientEnvelope::blank(ClientKind::Status, request) }
        }
        ClientRequest::Figures { request, group } => {
            ClientEnvelope { group, ..ClientEnvelope::blank(ClientKind::Figures, request) }
        }
        ClientRequest::Read { request, group, from, bytes_max, wait_ms } => ClientEnvelope {
            group,
            first: from,
            count: wait_ms,
            argument: u64::from(bytes_max),
            ..ClientEnvelope::blank(ClientKind::Read, request)
        },
    }
}

fn fill_append(request: u64, group: GroupId, terms: &Terms, within: Duration) -> ClientEnvelope {
    let (SessionId(session), sequence) = terms.session.unwrap_or((SessionId(Slot(0)), 0));
    ClientEnvelope {
        group,
        first: terms.expected_slot.unwrap_or_default(),
        argument: u64::try_from(within.as_micros()).unwrap_or(u64::MAX),
        session,
        sequence,
        ticket: terms.ticket.map_or(Slot(0), |TicketId(ticket)| ticket),
        ..ClientEnvelope::blank(ClientKind::Append, request)
    }
}

fn fill_reply(message: &ClientReply) -> ClientEnvelope {
    match message {
        ClientReply::Appended { request, first, count } => {
            ClientEnvelope { first: *first, count: *count, ..ClientEnvelope::blank(ClientKind::Appended, *request) }
        }
        ClientReply::Done { request, slot } => {
            ClientEnvelope { first: *slot, ..ClientEnvelope::blank(ClientKind::Done, *request) }
        }
        ClientReply::Gaps { request, gaps: _ } => ClientEnvelope::blank(ClientKind::Gaps, *request),
        ClientReply::Refused { request, reason } => {
            fill_reason(ClientEnvelope::blank(ClientKind::Refused, *request), reason)
        }
        ClientReply::Status { request, status: _ } => ClientEnvelope::blank(ClientKind::StatusReport, *request),
        ClientReply::Members { request, members: _ } => ClientEnvelope::blank(ClientKind::MembersReport, *request),
        ClientReply::Figures { request, text: _ } => ClientEnvelope::blank(ClientKind::FiguresReport, *request),
        ClientReply::Body { request, body } => ClientEnvelope {
            payload_bytes: body.bytes,
            first: body.first,
            count: body.count,
            ..ClientEnvelope::blank(ClientKind::Body, *request)
        },
        ClientReply::ReadEnd { request, next } => {
            ClientEnvelope { first: *next, ..ClientEnvelope::blank(ClientKind::ReadEnd, *request) }
        }
    }
}

fn parse_body(envelope: &ClientEnvelope, body: Option<&BodyHandle>) -> Result<BodyHandle, ClientMessageError> {
    let named = (envelope.first, envelope.count, envelope.payload_bytes);
    match body {
        Some(body) if (body.first, body.count, body.bytes) == named => Ok(*body),
        _ => Err(ClientMessageError::Body { first: envelope.first }),
    }
}

/// A batch's columns, written from where they are.
struct AppendSource<'a> {
    batch: &'a Batch,
}

impl AppendSource<'_> {
    fn shape(&self) -> (u32, u32, &[u32]) {
        match self.batch.shape() {
            Shape::Stride { stride, count } => (*stride, *count, &[]),
            Shape::Ends(ends) => (0, ends.len() as u32, ends),
        }
    }
}

impl Archive for AppendSource<'_> {
    type Archived = ArchivedAppend;
    /// Where ends and blob were written.
    type Resolver = (VecResolver, VecResolver);

    fn resolve(&self, (ends_position, blob_position): Self::Resolver, out: Place<ArchivedAppend>) {
        munge!(let ArchivedAppend { stride, count, ends, blob } = out);
        let shape = self.shape();
        shape.0.resolve((), stride);
        shape.1.resolve((), count);
        ArchivedVec::resolve_from_len(shape.2.len(), ends_position, ends);
        ArchivedVec::resolve_from_len(self.batch.bytes().len(), blob_position, blob);
    }
}

impl<S: Fallible + Writer + ?Sized> Serialize<S> for AppendSource<'_> {
    fn serialize(&self, serializer: &mut S) -> Result<Self::Resolver, S::Error> {
        let ends_position = serializer.align_for::<Archived<u32>>()?;
        write_numbers(serializer, self.shape().2.iter().copied())?;
        let blob_position = serializer.pos();
        serializer.write(self.batch.bytes())?;
        Ok((VecResolver::from_pos(ends_position), VecResolver::from_pos(blob_position)))
    }
}

fn append_bytes(batch: &Batch) -> usize {
    let ends_bytes = if batch.stride().is_none() { batch.len() * size_of::<u32>() } else { 0 };
    (ends_bytes + batch.bytes().len()).next_multiple_of(align_of::<ArchivedAppend>()) + APPEND_ROOT_BYTES
}

fn parse_batch(payload: &[u8]) -> Result<Batch, ClientMessageError> {
    let archive = archive::access::<ArchivedAppend>(payload)
        .ok_or(ClientMessageError::PayloadArchive { kind: ClientKind::Append })?;
    // A million empty commands fit into a few bytes: the count has a bound of its own.
    let count = archive.count.to_native();
    if count > BODY_SLOTS_MAX {
        return Err(ClientMessageError::TooMany { count });
    }
    // Ranges of an archive may overlap, so together they may be longer than the payload, but each only as long as it.
    let ends = archive.ends.iter().map(|end| end.to_native()).collect();
    let batch = Batch::from_parts(archive.blob.to_vec(), archive.stride.to_native(), count, ends)?;
    Ok(batch)
}

fn address_payload(address: &str) -> Vec<u8> {
    match hint(address) {
        [] => Vec::new(),
        hint => archive::to_vec(&Address { address: hint.to_vec() }),
    }
}

/// An address, or nothing in place of one that is too long.
fn hint(address: &str) -> &[u8] {
    if address.len() <= ADDRESS_BYTES_MAX { address.as_bytes() } else { &[] }
}

/// # Panics
/// If the text is empty or longer than [`FIGURES_BYTES_MAX`]: a bug of the caller.
fn figures_payload(text: &str) -> Vec<u8> {
    assert!((1..=FIGURES_BYTES_MAX).contains(&text.len()), "{} bytes of figures", text.len());
    archive::to_vec(&Figures { text: text.as_bytes().to_vec() })
}

fn parse_figures(payload: &[u8]) -> Result<String, ClientMessageError> {
    let kind = ClientKind::FiguresReport;
    let archive = archive::access::<ArchivedFigures>(payload).ok_or(ClientMessageError::PayloadArchive { kind })?;
    let text = std::str::from_utf8(&archive.text).map_err(|_| ClientMessageError::Field { kind })?;
    if !(1..=FIGURES_BYTES_MAX).contains(&text.len()) {
        return Err(ClientMessageError::Field { kind });
    }
    Ok(text.to_owned())
}

fn parse_address(payload: &[u8]) -> Result<String, ClientMessageError> {
    let kind = ClientKind::Refused;
    let archive = archive::access::<ArchivedAddress>(payload).ok_or(ClientMessageError::PayloadArchive { kind })?;
    let address = address(&archive.address).ok_or(ClientMessageError::Field { kind })?;
    if address.is_empty() {
        return Err(ClientMessageError::Field { kind });
    }
    Ok(address)
}

fn address(bytes: &[u8]) -> Option<String> {
    if bytes.len() > ADDRESS_BYTES_MAX {
        return None;
    }
    std::str::from_utf8(bytes).ok().map(String::from)
}

fn status_payload(status: &StatusReport) -> Vec<u8> {
    let row = |node: &NodeReport| NodeRow {
        prefix: node.prefix.0,
        node: node.node.0,
        connected: u32::from(node.connected),
        address: hint(&node.address).to_vec(),
    };
    archive::to_vec(&Report {
        round: status.ballot.round,
        boot: status.ballot.boot,
        mark_slot: status.mark.slot.0,
        chain_low: status.mark.chain.0 as u64,
        chain_high: (status.mark.chain.0 >> 64) as u64,
        available: status.available.0,
        ballot_node: status.ballot.node.0,
        node: status.node.0,
        role: role_number(status.role),
        leader: status.leader.unwrap_or_default().0,
        nodes: status.nodes.iter().take(STATUS_NODES_MAX).map(row).collect(),
    })
}

fn parse_status(payload: &[u8]) -> Result<StatusReport, ClientMessageError> {
    let kind = ClientKind::StatusReport;
    let field = ClientMessageError::Field { kind };
    let archive = archive::access::<ArchivedReport>(payload).ok_or(ClientMessageError::PayloadArchive { kind })?;
    if archive.nodes.len() > STATUS_NODES_MAX {
        return Err(field);
    }
    let chain = u128::from(archive.chain_high.to_native()) << 64 | u128::from(archive.chain_low.to_native());
    Ok(StatusReport {
        node: NodeId(archive.node.to_native()),
        role: role_from_number(archive.role.to_native()).ok_or(field)?,
        leader: node(archive.leader.to_native()),
        ballot: Ballot {
            round: archive.round.to_native(),
            node: NodeId(archive.ballot_node.to_native()),
            boot: archive.boot.to_native(),
        },
        mark: Mark { slot: Slot(archive.mark_slot.to_native()), chain: Chain(chain) },
        available: Slot(archive.available.to_native()),
        nodes: archive.nodes.iter().map(|row| parse_node(row).ok_or(field)).collect::<Result<_, _>>()?,
    })
}

fn parse_node(row: &ArchivedNodeRow) -> Option<NodeReport> {
    Some(NodeReport {
        node: NodeId(row.node.to_native()),
        address: address(&row.address)?,
        connected: match row.connected.to_native() {
            0 => false,
            1 => true,
            _ => return None,
        },
        prefix: Slot(row.prefix.to_native()),
    })
}

fn role_number(role: NodeRole) -> u32 {
    match role {
        NodeRole::Follower => 1,
        NodeRole::Candidate => 2,
        NodeRole::Leader => 3,
        NodeRole::Halted => 4,
    }
}

fn role_from_number(number: u32) -> Option<NodeRole> {
    match number {
        1 => Some(NodeRole::Follower),
        2 => Some(NodeRole::Candidate),
        3 => Some(NodeRole::Leader),
        4 => Some(NodeRole::Halted),
        _ => None,
    }
}

fn node(number: u32) -> Option<NodeId> {
    (number != 0).then_some(NodeId(number))
}

fn first_slot(envelope: &ClientEnvelope) -> Result<Slot, ClientMessageError> {
    if envelope.first >= Slot::FIRST {
        return Ok(envelope.first);
    }
    Err(ClientMessageError::Field { kind: envelope.kind })
}
