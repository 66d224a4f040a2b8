//! Reads bytes as their receiver would, down to the last field, and lays them out again.

use synod_frame::client::{self, ClientEnvelope};
use synod_frame::{
    Batch, BodyHeader, BodyLayout, CommandsView, ConfigurationBody, ENVELOPE_BYTES, Envelope, HELLO_BYTES, Hello,
    HelloReply, Origin, RECORD_HEADER_BYTES, RecordBuffer, Submission, decode_message, decode_session,
    decode_snapshot_message, decode_ticket, encode_commands, encode_configuration, encode_message, encode_noop,
    encode_session, encode_snapshot_message, encode_ticket, encode_trim, encode_trim_with_state, stamp, trim_state,
    verify_body_in_record, zero_padding,
};
use synod_protocol::BodyKind;

/// What bytes are read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    Body,
    Message,
    Hello,
    HelloReply,
    Request,
    Reply,
}

/// What a receiver says to bytes that it can't read.
pub(crate) type Refusal = Box<dyn std::error::Error>;

impl Reader {
    pub(crate) const ALL: [Reader; 6] =
        [Reader::Body, Reader::Message, Reader::Hello, Reader::HelloReply, Reader::Request, Reader::Reply];

    /// Reads and writes again.
    pub(crate) fn recode(self, bytes: &[u8]) -> Result<Vec<u8>, Refusal> {
        match self {
            Reader::Body => recode_body(&receive_body(bytes)?.1),
            Reader::Message => recode_message(bytes),
            Reader::Hello => Ok(Hello::decode(exactly(bytes, HELLO_BYTES)?)?.encode().to_vec()),
            Reader::HelloReply => Ok(HelloReply::decode(exactly(bytes, HELLO_BYTES)?)?.encode().to_vec()),
            Reader::Request => recode_request(bytes),
            Reader::Reply => recode_reply(bytes),
        }
    }
}

/// Receives a body as from a socket: its first bytes, then a buffer, then the rest.
pub(crate) fn receive_body(bytes: &[u8]) -> Result<(BodyHeader, RecordBuffer), Refusal> {
    let layout = BodyLayout::peek(bytes)?;
    let bytes = exactly(bytes, layout.body_bytes as usize)?;
    let mut record = RecordBuffer::zeroed(layout.record_bytes());
    record.as_mut().fill(0xa5);
    record.as_mut()[layout.body_range()].copy_from_slice(bytes);
    zero_padding(record.as_mut(), &layout);
    Ok((verify_body_in_record(record.as_ref())?, record))
}

fn exactly(bytes: &[u8], length: usize) -> Result<&[u8], Refusal> {
    if bytes.len() == length { Ok(bytes) } else { Err(format!("{} bytes instead of {length}", bytes.len()).into()) }
}

pub(crate) fn body_bytes(record: &[u8]) -> &[u8] {
    &record[BodyLayout::peek(&record[RECORD_HEADER_BYTES..]).unwrap().body_range()]
}

fn recode_body(record: &RecordBuffer) -> Result<Vec<u8>, Refusal> {
    let header = verify_body_in_record(record.as_ref())?;
    let body = body_bytes(record.as_ref());
    let origin = Origin {
        group: header.group,
        first: header.first,
        ballot: header.origin,
        leader_time_us: header.leader_time_us,
    };
    let mut again = RecordBuffer::zeroed(header.layout.record_bytes());
    let mut handle = match header.kind {
        BodyKind::Commands => {
            let (rows, batches) = read_commands(&header, body)?;
            let submissions: Vec<_> = rows
                .iter()
                .zip(&batches)
                .map(|(row, batch)| Submission {
                    session: row.session,
                    sequence: row.sequence,
                    ticket: row.ticket,
                    expected_slot: row.expected_slot,
                    batch,
                })
                .collect();
            encode_commands(again.as_mut(), &origin, &submissions)?
        }
        BodyKind::NoOp => encode_noop(again.as_mut(), &origin, header.count)?,
        BodyKind::Trim { upto } => match trim_state(&header, body) {
            Some(state) => encode_trim_with_state(again.as_mut(), &origin, upto, state)?,
            None => encode_trim(again.as_mut(), &origin, upto)?,
        },
        BodyKind::Session => encode_session(again.as_mut(), &origin, decode_session(&header, body)?)?,
        BodyKind::Ticket => encode_ticket(again.as_mut(), &origin, decode_ticket(&header, body)?)?,
        BodyKind::Configuration { .. } => {
            encode_configuration(again.as_mut(), &origin, &ConfigurationBody::decode(&header, body)?)?
        }
    };
    if let Some(ruling) = header.ruling {
        handle = stamp(again.as_mut(), ruling)?;
    }
    let again = body_bytes(again.as_ref()).to_vec();
    if again == body {
        assert_eq!(handle, header.handle());
    }
    Ok(again)
}

/// Reads every submission and every command of a body.
pub(crate) fn read_commands(
    header: &BodyHeader,
    body: &[u8],
) -> Result<(Vec<synod_frame::SubmissionEntry>, Vec<Batch>), Refusal> {
    let view = CommandsView::new(header, body)?;
    let rows = view.submissions().collect::<Result<Vec<_>, _>>()?;
    let mut batches = Vec::new();
    for row in &rows {
        let commands = row.commands.clone().map(|index| view.get(index)).collect::<Result<Vec<_>, _>>()?;
        batches.push(commands.into_iter().collect());
    }
    Ok((rows, batches))
}

fn recode_message(bytes: &[u8]) -> Result<Vec<u8>, Refusal> {
    let envelope = Envelope::decode(bytes)?;
    let payload = exactly(&bytes[ENVELOPE_BYTES..], envelope.payload_bytes as usize)?;
    if envelope.kind.is_of_snapshots() {
        let message = decode_snapshot_message(&envelope, payload)?;
        let (again, payload) = encode_snapshot_message(envelope.group, envelope.from, envelope.to, &message);
        return Ok([&again[..], &payload].concat());
    }
    let body = match envelope.kind.carries_body() {
        true => Some(receive_body(payload)?.0.handle()),
        false => None,
    };
    let message = decode_message(&envelope, payload, body.as_ref())?;
    let (again, payload_again) =
        encode_message(envelope.group, envelope.from, envelope.to, envelope.configuration, &message);
    let attached = if message.body().is_some() { payload } else { &[] };
    Ok([&again[..], &payload_again, attached].concat())
}

fn recode_request(bytes: &[u8]) -> Result<Vec<u8>, Refusal> {
    let envelope = ClientEnvelope::decode(bytes)?;
    let payload = exactly(&bytes[ENVELOPE_BYTES..], envelope.payload_bytes as usize)?;
    let (again, payload_again) = client::encode_request(&client::decode_request(&envelope, payload)?);
    Ok([&again[..], &payload_again].concat())
}

fn recode_reply(bytes: &[u8]) -> Result<Vec<u8>, Refusal> {
    let envelope = ClientEnvelope::decode(bytes)?;
    let payload = exactly(&bytes[ENVELOPE_BYTES..], envelope.payload_bytes as usize)?;
    let body = match envelope.kind == client::ClientKind::Body {
        true => Some(receive_body(payload)?.0.handle()),
        false => None,
    };
    let reply = client::decode_reply(&envelope, payload, body.as_ref())?;
    let (again, payload_again) = client::encode_reply(&reply);
    let attached = if reply.body().is_some() { payload } else { &[] };
    Ok([&again[..], &payload_again, attached].concat())
}
