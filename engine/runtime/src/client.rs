//! A small blocking client of a node's client port.
//!
//! One connection, one thread. Appends may be sent ahead of their answers ([`Client::send_append`],
//! [`Client::receive`]); the other calls are one request and its answer. A client whose connection failed is of no
//! further use: make another one. What an append that was under way has become is then unknown, like any
//! [`ClientRefusal::UnknownOutcome`].

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use synod_frame::client::{ClientEnvelope, ClientKind, ClientReply, ClientRequest, MemberChange, MembersReport};
use synod_frame::client::{decode_reply, encode_append, encode_request};
use synod_frame::{
    Batch, BodyError, BodyHeader, BodyLayout, Channel, ENVELOPE_BYTES, FORMAT_RANGE, FORMAT_VERSION, GroupId,
    HELLO_BYTES, Hello, HelloError, HelloRefusal, HelloReply, RECORD_HEADER_BYTES, RecordBuffer, verify_body_in_record,
};
use synod_protocol::delivery::Terms;
use synod_protocol::{Ballot, NodeId, Slot, SlotRange};
use thiserror::Error;

pub use synod_frame::client::{
    ClientEnvelopeError, ClientMessageError, ClientRefusal, ClientRole, Gap, NodeReport, NodeRole, StatusReport,
};
use synod_wal::Suppressed;

use crate::node::GROUP;
use crate::reader::SharedBody;
use crate::tls::{ClientTls, Wire};

/// How long to wait for a connection and its hello.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// Why a call failed.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The connection failed. What was under way is unknown.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// What listens there doesn't say hello like a node.
    #[error("the server's hello can't be read: {0}")]
    Hello(#[from] HelloError),
    /// The node won't talk to this client.
    #[error("the node refuses the connection: {0}")]
    Unwelcome(HelloRefusal),
    /// The node won't carry out the request, or doesn't know what became of it.
    #[error("refused: {}", refusal_sentence(.0))]
    Refused(ClientRefusal),
    /// The node's answer can't be read.
    #[error("the answer can't be read: {0}")]
    Envelope(#[from] ClientEnvelopeError),
    /// The node's answer can't be read.
    #[error("the answer can't be read: {0}")]
    Message(#[from] ClientMessageError),
    /// A body that came doesn't check.
    #[error("a body came damaged: {0}")]
    Body(#[from] BodyError),
    /// The answer belongs to no question.
    #[error("an answer to request {found} came where one to {expected} was due")]
    Order {
        /// Due.
        expected: u64,
        /// Came.
        found: u64,
    },
}

/// A refusal in words.
pub fn refusal_sentence(refusal: &ClientRefusal) -> String {
    match refusal {
        ClientRefusal::NotLeader { leader: Some(leader), address } if address.is_empty() => {
            format!("node {leader} leads; append there")
        }
        ClientRefusal::NotLeader { leader: Some(leader), address } => {
            format!("node {leader} leads; append there, at {address}")
        }
        ClientRefusal::NotLeader { leader: None, .. } => "another node leads; append there".to_owned(),
        ClientRefusal::NoLeader => "there is no leader at the moment; try again".to_owned(),
        ClientRefusal::Overloaded { retry_after } => format!("the node is overloaded; try again in {retry_after:?}"),
        ClientRefusal::TooLarge => "the submission is empty or too large for one body; split it".to_owned(),
        ClientRefusal::DiskFull => "the node's disk is full; make room and try again".to_owned(),
        ClientRefusal::UnknownOutcome => "the outcome is unknown; read the log before trying again".to_owned(),
        ClientRefusal::Shutdown => "the node doesn't serve any more; try another one".to_owned(),
        ClientRefusal::Trimmed { available } => format!("the slots are trimmed; the log begins at {available}"),
        ClientRefusal::UnknownGroup => "the node has no such log".to_owned(),
        ClientRefusal::Unreadable { slot } => {
            format!("the body at slot {slot} can't be read from this node's disk; read at another node")
        }
        ClientRefusal::DeadlinePassed => "its time was over before it was proposed".to_owned(),
        ClientRefusal::NotDelivered(refusal) => format!("it doesn't count: {refusal}"),
        ClientRefusal::NothingToTrim { held, trimmed } => format!(
            "nothing to trim: every member durably has the log up to slot {held}, and it is trimmed up to {trimmed}"
        ),
        ClientRefusal::NoDeliveryState { .. } => {
            "nothing to trim: sessions are in use, and their state is not kept for any point so low".to_owned()
        }
        ClientRefusal::NotTransferred(error) => format!("the leadership isn't handed over: {error}"),
        ClientRefusal::NotChanged { reason } => format!("the membership isn't changed: {}", printable(reason)),
        ClientRefusal::RolledBack { target } => format!("node {target} didn't take over in time"),
        ClientRefusal::Forbidden { role } => {
            format!("this takes the role {role}, which the client's certificate doesn't grant")
        }
    }
}

/// What a node says goes to terminals, which take orders.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// A body with what of it doesn't count, as far as that lies in it.
pub(crate) fn with_gaps(body: SharedBody, gaps: &[Gap]) -> SharedBody {
    let slots = body.slots();
    let suppressed: Vec<Suppressed> = gaps
        .iter()
        // A node that lies must not make this overflow.
        .map(|gap| (gap, Slot(gap.first.0.saturating_add(u64::from(gap.count)))))
        .map(|(gap, end)| Suppressed { slots: gap.first..end, answer: gap.answer })
        .filter(|gap| slots.start <= gap.slots.start && gap.slots.end <= slots.end)
        .collect();
    body.with_suppressed(&suppressed)
}

/// Bodies from a node, in order.
#[derive(Clone, Debug)]
pub struct ReadAnswer {
    /// The bodies; empty at the tail.
    pub bodies: Vec<SharedBody>,
    /// Where to go on.
    pub next: Slot,
}

/// A connection to a node's client port.
#[derive(Debug)]
pub struct Client {
    wire: Wire,
    group: GroupId,
    request: u64,
    /// Appends sent and not answered, in order.
    sent: VecDeque<u64>,
}

impl Client {
    /// Connects to a node, within five seconds.
    ///
    /// # Errors
    /// If nobody listens there, or it is no node, or it doesn't want to talk.
    pub fn connect(address: SocketAddr) -> Result<Client, ClientError> {
        Client::connect_within(address, CONNECT_DEADLINE)
    }

    /// As [`Client::connect`], with another deadline for the connection and for the node's hello.
    ///
    /// # Errors
    /// As [`Client::connect`]; a deadline of zero is refused.
    pub fn connect_within(address: SocketAddr, deadline: Duration) -> Result<Client, ClientError> {
        Client::connect_with(address, deadline, None)
    }

    /// As [`Client::connect_within`], with the client's certificates for a cluster that asks for them. What it may do there
    /// follows from its certificate; see [`crate::tls`].
    ///
    /// # Errors
    /// As [`Client::connect_within`]; a certificate that either side doesn't take is a connection that failed.
    pub fn connect_with(
        address: SocketAddr,
        deadline: Duration,
        tls: Option<&ClientTls>,
    ) -> Result<Client, ClientError> {
        let stream = TcpStream::connect_timeout(&address, deadline)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(deadline))?;
        let mut wire = Wire::new(stream, tls)?;
        wire.write_all(&client_hello().encode())?;
        let mut reply = [0; HELLO_BYTES];
        wire.read_exact(&mut reply)?;
        HelloReply::decode(&reply)?.outcome.map_err(ClientError::Unwelcome)?;
        wire.set_read_timeout(None)?;
        Ok(Client { wire, group: GROUP, request: 0, sent: VecDeque::new() })
    }

    /// Asks for another of the cluster's logs than the first from now on. A group that the cluster doesn't have is refused with
    /// [`ClientRefusal::UnknownGroup`].
    #[must_use]
    pub fn in_group(self, group: GroupId) -> Client {
        Client { group, ..self }
    }

    /// Lets an answer take at most this long; the connection has failed then. Default: any time.
    ///
    /// # Errors
    /// If the socket doesn't take it; zero is refused.
    pub fn set_timeout(&mut self, timeout: Option<Duration>) -> Result<(), ClientError> {
        Ok(self.wire.set_read_timeout(timeout)?)
    }

    /// The connection, after both sides have said hello, for programs that speak the client protocol by themselves.
    /// Nothing may be outstanding. None if it is under TLS.
    pub fn into_stream(self) -> Option<TcpStream> {
        match self.wire {
            Wire::Plain { writing, .. } => Some(writing),
            Wire::Tls(_) => None,
        }
    }

    /// Appends the commands of a batch and waits for their slots. Nothing may be outstanding.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn append_batch(&mut self, batch: &Batch) -> Result<SlotRange, ClientError> {
        let request = self.send_append(batch)?;
        let (found, outcome) = self.receive()?;
        if found != request {
            return Err(ClientError::Order { expected: request, found });
        }
        outcome.map_err(ClientError::Refused)
    }

    /// Sends a batch without waiting for its slots; gives the number that [`Client::receive`] answers with.
    ///
    /// # Errors
    /// If the connection failed.
    pub fn send_append(&mut self, batch: &Batch) -> Result<u64, ClientError> {
        let request = self.next_request();
        let (envelope, payload) = encode_append(request, self.group, batch, &Terms::NONE, Duration::ZERO);
        self.wire.write_all(&envelope)?;
        self.wire.write_all(&payload)?;
        self.sent.push_back(request);
        Ok(request)
    }

    /// Appends sent and not answered yet.
    pub fn outstanding(&self) -> usize {
        self.sent.len()
    }

    /// The outcome of the oldest append that is not answered yet, with its number.
    ///
    /// # Errors
    /// If the connection failed.
    pub fn receive(&mut self) -> Result<(u64, Result<SlotRange, ClientRefusal>), ClientError> {
        let (reply, _) = self.read_reply()?;
        let expected = self.sent.pop_front().unwrap_or_default();
        match reply {
            ClientReply::Appended { request, first, count } if request == expected => {
                Ok((request, Ok(first..first.plus(u64::from(count)))))
            }
            ClientReply::Refused { request, reason } if request == expected => Ok((request, Err(reason))),
            other => Err(ClientError::Order { expected, found: other.request() }),
        }
    }

    /// How the node stands. Nothing may be outstanding.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn status(&mut self) -> Result<StatusReport, ClientError> {
        let request = self.next_request();
        self.send(&ClientRequest::Status { request, group: self.group })?;
        match self.read_reply()?.0 {
            ClientReply::Status { request: found, status } if found == request => Ok(status),
            ClientReply::Refused { request: found, reason } if found == request => Err(ClientError::Refused(reason)),
            other => Err(ClientError::Order { expected: request, found: other.request() }),
        }
    }

    /// The configurations that the node knows. Nothing may be outstanding.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn members(&mut self) -> Result<MembersReport, ClientError> {
        let request = self.next_request();
        self.send(&ClientRequest::Members { request, group: self.group })?;
        match self.read_reply()?.0 {
            ClientReply::Members { request: found, members } if found == request => Ok(members),
            ClientReply::Refused { request: found, reason } if found == request => Err(ClientError::Refused(reason)),
            other => Err(ClientError::Order { expected: request, found: other.request() }),
        }
    }

    /// Changes the membership, at the leader, and gives the slot of the configuration that is chosen. Nothing may be
    /// outstanding.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn change_members(&mut self, change: MemberChange) -> Result<Slot, ClientError> {
        let request = self.next_request();
        self.send(&ClientRequest::Change { request, group: self.group, change })?;
        match self.read_reply()?.0 {
            ClientReply::Done { request: found, slot } if found == request => Ok(slot),
            ClientReply::Refused { request: found, reason } if found == request => Err(ClientError::Refused(reason)),
            other => Err(ClientError::Order { expected: request, found: other.request() }),
        }
    }

    /// Figures of the node, as lines of a name, a space and a value. Nothing may be outstanding.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn figures(&mut self) -> Result<String, ClientError> {
        let request = self.next_request();
        self.send(&ClientRequest::Figures { request, group: self.group })?;
        match self.read_reply()?.0 {
            ClientReply::Figures { request: found, text } if found == request => Ok(text),
            ClientReply::Refused { request: found, reason } if found == request => Err(ClientError::Refused(reason)),
            other => Err(ClientError::Order { expected: request, found: other.request() }),
        }
    }

    /// Bodies from `from` on, at least one if there is one, and no more once they pass `bytes_max`. Doesn't wait at
    /// the tail. Nothing may be outstanding.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn read_from(&mut self, from: Slot, bytes_max: u32) -> Result<ReadAnswer, ClientError> {
        let request = self.next_request();
        self.send(&ClientRequest::Read { request, group: self.group, from, bytes_max, wait_ms: 0 })?;
        let mut bodies = Vec::new();
        let mut gaps = Vec::new();
        loop {
            match self.read_reply()? {
                (ClientReply::Gaps { request: found, gaps: told }, _) if found == request => gaps = told,
                (ClientReply::Body { request: found, .. }, Some(body)) if found == request => {
                    bodies.push(with_gaps(body, &std::mem::take(&mut gaps)));
                }
                (ClientReply::ReadEnd { request: found, next }, _) if found == request => {
                    return Ok(ReadAnswer { bodies, next });
                }
                (ClientReply::Refused { request: found, reason }, _) if found == request => {
                    return Err(ClientError::Refused(reason));
                }
                (other, _) => return Err(ClientError::Order { expected: request, found: other.request() }),
            }
        }
    }

    fn next_request(&mut self) -> u64 {
        self.request += 1;
        self.request
    }

    fn send(&mut self, request: &ClientRequest) -> Result<(), ClientError> {
        let (envelope, payload) = encode_request(request);
        self.wire.write_all(&envelope)?;
        Ok(self.wire.write_all(&payload)?)
    }

    fn read_reply(&mut self) -> Result<(ClientReply, Option<SharedBody>), ClientError> {
        let mut head = [0; ENVELOPE_BYTES];
        self.wire.read_exact(&mut head)?;
        let envelope = ClientEnvelope::decode(&head)?;
        // Bounded by the envelope's own check.
        let payload_bytes = envelope.payload_bytes as usize;
        if envelope.kind == ClientKind::Body {
            let body = self.read_body(payload_bytes)?;
            return Ok((decode_reply(&envelope, &[], Some(&body.handle()))?, Some(body)));
        }
        let mut payload = vec![0; payload_bytes];
        self.wire.read_exact(&mut payload)?;
        Ok((decode_reply(&envelope, &payload, None)?, None))
    }

    fn read_body(&mut self, body_bytes: usize) -> Result<SharedBody, ClientError> {
        let mut record = RecordBuffer::zeroed(RECORD_HEADER_BYTES + body_bytes);
        self.wire.read_exact(&mut record.as_mut()[RECORD_HEADER_BYTES..][..body_bytes])?;
        check_body(&record, body_bytes)
    }
}

/// A body that came, behind the room for a record's header.
pub(crate) fn check_body(record: &RecordBuffer, body_bytes: usize) -> Result<SharedBody, ClientError> {
    let body = RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + body_bytes;
    // The length of the record follows from the body's own header, and must be the one that was received.
    let layout = BodyLayout::peek(&record.as_ref()[body.clone()])?;
    if layout.body_bytes as usize != body_bytes {
        return Err(BodyError::Truncated { needed: layout.body_bytes.into(), found: body_bytes as u64 }.into());
    }
    let _: BodyHeader = verify_body_in_record(record.as_ref())?;
    Ok(SharedBody::copy(&record.as_ref()[body])?)
}

/// What every client says first.
pub(crate) fn client_hello() -> Hello {
    Hello {
        channel: Channel::Client,
        format_min: FORMAT_VERSION,
        format_max: *FORMAT_RANGE.end(),
        features: 0,
        cluster: [0; 16],
        lineage: 0,
        from: NodeId(0),
        to: NodeId(0),
        incarnation: [0; 16],
        boot_counter: 0,
        boot_nonce: 0,
        promise: Ballot::ZERO,
        durable: 0,
        configuration: Slot(0),
        port: 0,
        stable: Slot(0),
        group: GroupId(0),
    }
}
