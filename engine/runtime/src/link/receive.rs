//! Reading a peer's messages.
//!
//! Nothing is believed before it is checked, and nothing is allocated before its length is: first the envelope with
//! its own checksum, then the body's header, then every block of the body. The body goes from the socket straight into
//! the record buffer in which it will be written to the disk, behind the room for the record header.

use std::io;
use std::rc::Rc;

use synod_frame::{
    BODY_HEADER_BYTES, BodyError, BodyLayout, ENVELOPE_BYTES, Envelope, EnvelopeError, EnvelopeKind, GroupId,
    MessageError, RECORD_HEADER_BYTES, decode_message, decode_snapshot_message, verify_body_in_record, zero_padding,
};
use synod_protocol::{Message, NodeId, Slot};
use synod_wal::Hearing;
use thiserror::Error;

use super::connection::Reading;
use super::handshake::Identity;
use crate::seam::buffer;
use crate::seam::executor::yield_if_needed;
use crate::shard::Shard;

/// Room for small messages; the longest promise fits.
const CONTROL_BUFFER_BYTES: usize = 128 << 10;

const _: () = {
    let (_, longest) = Envelope::payload_limit(EnvelopeKind::Promise);
    assert!(ENVELOPE_BYTES + longest as usize <= CONTROL_BUFFER_BYTES);
};

/// Why no more is read from a peer. All but the first are the peer's fault.
#[derive(Debug, Error)]
pub(super) enum ReceiveError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    #[error(transparent)]
    Body(#[from] BodyError),
    #[error(transparent)]
    Message(#[from] MessageError),
    #[error("a later connection of the same peer has taken its place")]
    Replaced,
    #[error("another store counts for {peer} by now")]
    Superseded { peer: NodeId },
    #[error("{kind:?} on the wrong connection")]
    Channel { kind: EnvelopeKind },
    #[error("the envelope says {envelope} bytes of body, the body's header {header}")]
    Lengths { envelope: u32, header: u32 },
    #[error("a message of {group} from {from} to {to} on a connection of {peer}")]
    Address { group: GroupId, from: NodeId, to: NodeId, peer: NodeId },
}

impl ReceiveError {
    pub(super) fn is_end_of_stream(&self) -> bool {
        matches!(self, ReceiveError::Io(_) | ReceiveError::Replaced | ReceiveError::Superseded { .. })
    }
}

/// Who listens to whom.
pub(super) struct Ear<'a> {
    pub(super) shard: &'a Rc<Shard>,
    pub(super) identity: &'a Identity,
    pub(super) peer: NodeId,
    /// The store by which the peer has introduced itself.
    pub(super) store: [u8; 16],
    /// Where the newest configuration was chosen that it knew then.
    pub(super) configuration: Slot,
}

impl Ear<'_> {
    /// A configuration may have come since the hello by which another store counts for the peer: two votes of one node would
    /// count, in different quorums, that know nothing of each other.
    fn hearing(&self) -> Result<Hearing, ReceiveError> {
        let hearing = self.identity.hears(self.peer, self.store, self.configuration);
        hearing.ok_or(ReceiveError::Superseded { peer: self.peer })
    }
}

/// Reads small messages until the connection ends.
pub(super) async fn receive_control(ear: &Ear<'_>, mut stream: Reading) -> ReceiveError {
    let Ear { shard, peer, .. } = *ear;
    let mut bytes = vec![0; CONTROL_BUFFER_BYTES];
    let mut filled = 0;
    let mut messages = Vec::new();
    loop {
        match stream.read(&mut bytes[filled..]).await {
            Ok(0) => return ReceiveError::Io(io::ErrorKind::UnexpectedEof.into()),
            Ok(more) => filled += more,
            Err(error) => return error.into(),
        }
        let taken = take_messages(shard, peer, &bytes[..filled], &mut messages);
        let (taken, hearing) = match taken.and_then(|taken| Ok((taken, ear.hearing()?))) {
            Ok(heard) => heard,
            Err(error) => return error,
        };
        if hearing == Hearing::News {
            messages.retain(|message| !message.is_vote());
        }
        bytes.copy_within(taken..filled, 0);
        filled -= taken;
        if !messages.is_empty() {
            shard.count(|counters| counters.receives += messages.len() as u64);
            // All that came together is one turn: their answers leave together as well.
            shard.turn(|replica, now| {
                for message in messages.drain(..) {
                    replica.handle_message(now, peer, message, None);
                }
            });
        }
        yield_if_needed().await;
    }
}

/// Takes the complete messages out of `bytes`; how many bytes those were.
fn take_messages(
    shard: &Rc<Shard>,
    peer: NodeId,
    bytes: &[u8],
    messages: &mut Vec<Message>,
) -> Result<usize, ReceiveError> {
    let mut taken = 0;
    while let Some((head, behind)) = bytes[taken..].split_at_checked(ENVELOPE_BYTES) {
        let envelope = Envelope::decode(head)?;
        check_address(shard, peer, &envelope)?;
        if envelope.kind.carries_body() || envelope.kind == EnvelopeKind::SnapshotChunk {
            return Err(ReceiveError::Channel { kind: envelope.kind });
        }
        let Some(payload) = behind.get(..envelope.payload_bytes as usize) else { break };
        if envelope.kind.is_of_snapshots() {
            shard.heard_of_snapshot(peer, decode_snapshot_message(&envelope, payload)?);
        } else {
            messages.push(decode_message(&envelope, payload, None)?);
        }
        taken += ENVELOPE_BYTES + payload.len();
    }
    Ok(taken)
}

/// Reads bodies until the connection ends; stops reading while the log is behind.
pub(super) async fn receive_bulk(ear: &Ear<'_>, mut stream: Reading) -> ReceiveError {
    loop {
        if let Err(error) = receive_body(ear, &mut stream).await {
            return error;
        }
        ear.shard.wait_for_backlog().await;
        yield_if_needed().await;
    }
}

async fn receive_body(ear: &Ear<'_>, stream: &mut Reading) -> Result<(), ReceiveError> {
    let Ear { shard, peer, .. } = *ear;
    let mut head = [0; ENVELOPE_BYTES + BODY_HEADER_BYTES];
    stream.read_exact(&mut head).await?;
    let (envelope, body_header) = head.split_at(ENVELOPE_BYTES);
    let envelope = Envelope::decode(envelope)?;
    check_address(shard, peer, &envelope)?;
    if envelope.kind == EnvelopeKind::SnapshotChunk {
        // Its length is checked, and no shorter than what was read already.
        let mut payload = vec![0; envelope.payload_bytes as usize];
        let (begin, rest) = payload.split_at_mut(BODY_HEADER_BYTES);
        begin.copy_from_slice(body_header);
        stream.read_exact(rest).await?;
        shard.heard_of_snapshot(peer, decode_snapshot_message(&envelope, &payload)?);
        return Ok(());
    }
    if !envelope.kind.carries_body() {
        return Err(ReceiveError::Channel { kind: envelope.kind });
    }
    let layout = BodyLayout::peek(body_header)?;
    if layout.body_bytes != envelope.payload_bytes {
        return Err(ReceiveError::Lengths { envelope: envelope.payload_bytes, header: layout.body_bytes });
    }
    let mut record = buffer::allocate(layout.record_bytes());
    let (_, body) = record.as_bytes_mut().split_at_mut(RECORD_HEADER_BYTES);
    body[..BODY_HEADER_BYTES].copy_from_slice(body_header);
    stream.read_exact(&mut body[BODY_HEADER_BYTES..layout.body_bytes as usize]).await?;
    zero_padding(record.as_bytes_mut(), &layout);
    let header = verify_body_in_record(record.as_bytes())?;
    let message = decode_message(&envelope, &[], Some(&header.handle()))?;
    if header.group != envelope.group {
        return Err(ReceiveError::Address { group: header.group, from: envelope.from, to: envelope.to, peer });
    }
    // Bodies are no votes.
    ear.hearing()?;
    shard.count(|counters| counters.receives += 1);
    shard.turn(|replica, now| replica.handle_message(now, peer, message, Some(record)));
    Ok(())
}

fn check_address(shard: &Shard, peer: NodeId, envelope: &Envelope) -> Result<(), ReceiveError> {
    let Envelope { group, from, to, .. } = *envelope;
    if group != shard.settings.group || from != peer || to != shard.settings.node {
        return Err(ReceiveError::Address { group, from, to, peer });
    }
    Ok(())
}
