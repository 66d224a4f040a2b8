//! The client port: appends, status and reads for processes that don't embed a node.
//!
//! A connection is two tasks. One reads requests and brings appends into the intake, so a full intake stops the
//! reading, and the client feels it through TCP. The other answers in the order of the requests: outcomes come nearly
//! in that order anyway, since slots are given out in it. Bounds: requests under way, and bytes of appends under way.
//!
//! A read never waits at the tail, or it would hold up the answers behind it: it ends with what is delivered now. While a
//! node that was just started judges its log again, a read waits for that.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use futures_channel::oneshot;
use futures_lite::FutureExt as _;
use synod_frame::client::{
    ClientEnvelope, ClientEnvelopeError, ClientMessageError, ClientRefusal, ClientReply, ClientRequest, NodeReport,
    NodeRole, StatusReport, decode_request, encode_reply,
};
use synod_frame::{Channel, ENVELOPE_BYTES, GroupId, Hello, HelloRefusal, HelloReply};
use synod_protocol::{NodeId, Role, Slot};
use thiserror::Error;

use crate::error::{AppendError, ReadError};
use crate::intake::Outcome;
use crate::link::Identity;
use crate::link::accept::{Connections, accept_all};
use crate::link::handshake::{HandshakeError, read_hello};
use crate::log::Log;
use crate::reader::{ReadItem, Reader};
use crate::seam::executor::yield_if_needed;
use crate::seam::local::Signal;
use crate::seam::net::{Listener, Stream};
use crate::shard::Shard;
use crate::status::Status;

/// Answers are gathered into writes of about this size.
const GATHER_BYTES: usize = 64 << 10;

/// What a refused client is told to wait.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// Longest reason for a stop among the figures, in characters.
const STOP_REASON_MAX: usize = 4096;

/// Bounds of one connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientBounds {
    pub(crate) requests_max: usize,
    pub(crate) bytes_max: u64,
}

/// Why a connection ends. All but the first are the client's fault.
#[derive(Debug, Error)]
enum ClientEnd {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Envelope(#[from] ClientEnvelopeError),
    #[error(transparent)]
    Message(#[from] ClientMessageError),
}

/// Serves the client port.
pub(crate) async fn serve_clients(
    shard: Rc<Shard>,
    identity: Rc<Identity>,
    log: Log,
    listener: Listener,
    connections: Connections,
    bounds: ClientBounds,
) {
    let tasks = Rc::clone(&shard.tasks);
    accept_all(listener, connections, move |stream, address, admission| {
        let (shard, identity, log) = (Rc::clone(&shard), Rc::clone(&identity), log.clone());
        tasks.spawn(async move {
            serve_client(&shard, &identity, &log, stream, address, bounds).await;
            drop(admission);
        });
    })
    .await;
}

async fn serve_client(
    shard: &Shard,
    identity: &Identity,
    log: &Log,
    mut stream: Stream,
    address: SocketAddr,
    bounds: ClientBounds,
) {
    if let Err(error) = welcome(shard, identity, &mut stream).await {
        if error.is_absence() {
            tracing::debug!(%address, %error, "a connection ended before its hello");
        } else {
            shard.count(|counters| counters.refusals += 1);
            tracing::warn!(%address, %error, "a connection to the client port was closed");
        }
        return;
    }
    let answering = match stream.second() {
        Ok(answering) => answering,
        Err(error) => return tracing::warn!(%address, %error, "can't serve a client"),
    };
    let desk = Desk::new(bounds);
    let group = shard.settings.group;
    let end = take_requests(group, log, stream, &desk).or(answer(log, answering, &desk)).await;
    match end {
        ClientEnd::Io(error) => tracing::debug!(%address, %error, "a client's connection ended"),
        error => {
            shard.count(|counters| counters.refusals += 1);
            tracing::warn!(%address, %error, "a client's connection was closed");
        }
    }
}

async fn welcome(shard: &Shard, identity: &Identity, stream: &mut Stream) -> Result<(), HandshakeError> {
    stream.set_nodelay()?;
    let hello = read_hello(stream, Hello::decode).await?;
    let own = identity.hello(Channel::Client, NodeId(0), shard.durable_position());
    let outcome = if hello.from == NodeId(0) { hello.check(&own) } else { Err(HelloRefusal::Channel) };
    stream.write_all(&HelloReply { hello: own, outcome }.encode()).await?;
    outcome.map(|_| ()).map_err(HandshakeError::Refused)
}

/// The requests of one connection that are under way, in their order.
struct Desk {
    bounds: ClientBounds,
    pending: RefCell<VecDeque<Pending>>,
    /// Of all appends under way, those that the answering task holds included.
    bytes: Cell<u64>,
    arrived: Signal,
    answered: Signal,
}

enum Pending {
    Ready(ClientReply),
    Append { request: u64, bytes: u64, outcome: oneshot::Receiver<Outcome> },
    Read { request: u64, from: Slot, bytes_max: u32 },
}

impl Desk {
    fn new(bounds: ClientBounds) -> Desk {
        Desk {
            bounds,
            pending: RefCell::default(),
            bytes: Cell::new(0),
            arrived: Signal::default(),
            answered: Signal::default(),
        }
    }

    async fn wait_for_room(&self) {
        while self.pending.borrow().len() >= self.bounds.requests_max || self.bytes.get() >= self.bounds.bytes_max {
            self.answered.wait().await;
        }
    }

    fn put(&self, pending: Pending) {
        if let Pending::Append { bytes, .. } = &pending {
            self.bytes.set(self.bytes.get() + bytes);
        }
        self.pending.borrow_mut().push_back(pending);
        self.arrived.raise();
    }

    fn take(&self) -> Option<Pending> {
        self.pending.borrow_mut().pop_front()
    }

    fn done(&self, bytes: u64) {
        self.bytes.set(self.bytes.get() - bytes);
        self.answered.raise();
    }
}

async fn take_requests(group: GroupId, log: &Log, mut stream: Stream, desk: &Desk) -> ClientEnd {
    loop {
        desk.wait_for_room().await;
        if let Err(end) = take_request(group, log, &mut stream, desk).await {
            return end;
        }
        yield_if_needed().await;
    }
}

async fn take_request(group: GroupId, log: &Log, stream: &mut Stream, desk: &Desk) -> Result<(), ClientEnd> {
    let mut head = [0; ENVELOPE_BYTES];
    stream.read_exact(&mut head).await?;
    let envelope = ClientEnvelope::decode(&head)?;
    // Bounded by the envelope's own check.
    let mut payload = vec![0; envelope.payload_bytes as usize];
    stream.read_exact(&mut payload).await?;
    let request = decode_request(&envelope, &payload)?;
    let number = request.request();
    if envelope.group != group {
        desk.put(Pending::Ready(refused(number, ClientRefusal::UnknownGroup)));
        return Ok(());
    }
    desk.put(match request {
        ClientRequest::Append { request, batch, .. } => {
            let bytes = batch.bytes().len() as u64;
            match log.submit(batch).await {
                Ok(outcome) => Pending::Append { request, bytes, outcome },
                Err(error) => Pending::Ready(refused(request, refusal(error))),
            }
        }
        ClientRequest::Status { request, .. } => {
            Pending::Ready(ClientReply::Status { request, status: report(&log.status()) })
        }
        ClientRequest::Figures { request, .. } => {
            Pending::Ready(ClientReply::Figures { request, text: figures(&log.status()) })
        }
        ClientRequest::Read { request, from, bytes_max, .. } => Pending::Read { request, from, bytes_max },
    });
    Ok(())
}

async fn answer(log: &Log, mut stream: Stream, desk: &Desk) -> ClientEnd {
    let mut gathered = Vec::with_capacity(GATHER_BYTES + 1024);
    loop {
        if let Err(error) = answer_next(log, &mut stream, desk, &mut gathered).await {
            return error.into();
        }
        yield_if_needed().await;
    }
}

async fn answer_next(log: &Log, stream: &mut Stream, desk: &Desk, gathered: &mut Vec<u8>) -> io::Result<()> {
    let Some(pending) = desk.take() else {
        flush(stream, gathered).await?;
        desk.arrived.wait().await;
        return Ok(());
    };
    match pending {
        Pending::Ready(reply) => {
            gather(gathered, &reply);
            desk.done(0);
        }
        Pending::Append { request, bytes, mut outcome } => {
            let outcome = match outcome.try_recv() {
                Ok(Some(outcome)) => outcome,
                _ => {
                    flush(stream, gathered).await?;
                    outcome.await.unwrap_or(Err(AppendError::Unknown))
                }
            };
            gather(
                gathered,
                &match outcome {
                    Ok(slots) => {
                        let count = slots.end.since(slots.start) as u32;
                        ClientReply::Appended { request, first: slots.start, count }
                    }
                    Err(error) => refused(request, refusal(error)),
                },
            );
            desk.done(bytes);
        }
        Pending::Read { request, from, bytes_max } => {
            flush(stream, gathered).await?;
            send_bodies(log, stream, gathered, request, from, bytes_max).await?;
            desk.done(0);
        }
    }
    if gathered.len() >= GATHER_BYTES {
        flush(stream, gathered).await?;
    }
    Ok(())
}

async fn send_bodies(
    log: &Log,
    stream: &mut Stream,
    gathered: &mut Vec<u8>,
    request: u64,
    from: Slot,
    bytes_max: u32,
) -> io::Result<()> {
    let mut reader = log.reader(from);
    let mut sent = 0;
    while sent < u64::from(bytes_max).max(1) && reader.position() < log.status().mark.slot {
        match next_body(&mut reader).await {
            Ok(body) => {
                let (envelope, _) = encode_reply(&ClientReply::Body { request, body: body.handle() });
                stream.write_both(&envelope, body.bytes()).await?;
                sent += body.bytes().len() as u64;
            }
            Err(refusal) => {
                gather(gathered, &refused(request, refusal));
                return Ok(());
            }
        }
        yield_if_needed().await;
    }
    gather(gathered, &ClientReply::ReadEnd { request, next: reader.position() });
    Ok(())
}

async fn next_body(reader: &mut Reader) -> Result<crate::reader::SharedBody, ClientRefusal> {
    match reader.next().await {
        Ok(ReadItem::Body(body)) => Ok(body),
        Ok(ReadItem::Trimmed { first }) => Err(ClientRefusal::Trimmed { available: first }),
        Err(ReadError::Disk { slot } | ReadError::Unjudged { slot, .. }) => Err(ClientRefusal::Unreadable { slot }),
        Err(ReadError::Shutdown | ReadError::Poisoned) => Err(ClientRefusal::Shutdown),
    }
}

fn gather(gathered: &mut Vec<u8>, reply: &ClientReply) {
    let (envelope, payload) = encode_reply(reply);
    gathered.extend_from_slice(&envelope);
    gathered.extend_from_slice(&payload);
}

async fn flush(stream: &mut Stream, gathered: &mut Vec<u8>) -> io::Result<()> {
    if !gathered.is_empty() {
        stream.write_all(gathered).await?;
        gathered.clear();
    }
    Ok(())
}

fn refused(request: u64, reason: ClientRefusal) -> ClientReply {
    ClientReply::Refused { request, reason }
}

fn refusal(error: AppendError) -> ClientRefusal {
    match error {
        // Without an address the client tries those that it was given.
        AppendError::NotLeader { leader, client_address, .. } => {
            let address = client_address.map(|address| address.to_string()).unwrap_or_default();
            ClientRefusal::NotLeader { leader: Some(leader), address }
        }
        AppendError::NoLeader => ClientRefusal::NoLeader,
        AppendError::Overloaded | AppendError::DeadlinePassed => ClientRefusal::Overloaded { retry_after: RETRY_AFTER },
        AppendError::TooLarge { .. } | AppendError::Empty => ClientRefusal::TooLarge,
        AppendError::DiskFull => ClientRefusal::DiskFull,
        AppendError::Unknown => ClientRefusal::UnknownOutcome,
        // Appends of this port have no terms. Whoever has sent this one must not take it for chosen.
        AppendError::Refused(_) => ClientRefusal::UnknownOutcome,
        AppendError::Shutdown | AppendError::Poisoned => ClientRefusal::Shutdown,
    }
}

/// What an operator watches, a line each; sizes are in bytes.
fn figures(status: &Status) -> String {
    let Status { wal, counters, .. } = status;
    let held_by = status.held_by.map_or(0, |node| node.0);
    let behind = status.behind.map_or(0, |first| first.0);
    let mut lines = vec![
        ("boot", status.boot),
        ("start_log_bytes", status.startup.bytes),
        ("start_recovery_ms", status.startup.recovery.as_millis() as u64),
        ("start_ready_ms", status.startup.ready.map_or(0, |ready| ready.as_millis() as u64)),
        ("fenced", status.stopped.is_some().into()),
        ("full", status.full.into()),
        ("behind_trim_to", behind),
        ("log_held_by", held_by.into()),
        ("stable", status.stable.0),
        ("judged", status.judged.0),
        ("sessions", status.sessions as u64),
        ("open_bodies", status.open_bodies.into()),
        ("damage_found", status.damage.found),
        ("damage_healed", status.damage.healed),
        ("damage_lost", status.damage.lost),
        ("damage_lost_first", status.damage.lost_first.map_or(0, |first| first.0)),
        ("doubts", status.damage.doubts),
        ("unsure", status.damage.unsure.into()),
        ("scrub_passes", status.damage.scrub_passes),
        ("pool_depth", wal.files_clean as u64),
        ("pool_dirty", wal.files_dirty as u64),
        ("segment_files", wal.files as u64),
        ("segments_live", wal.segments_live as u64),
        ("index_bodies", wal.bodies as u64),
        ("index_entries", wal.index_entries as u64),
        ("index_pages", wal.index_pages as u64),
        ("index_pages_out", wal.pages_out),
        ("index_pages_in", wal.pages_in),
        ("index_page_reads_failed", wal.page_reads_failed),
        ("live_bytes", wal.live_bytes),
        ("unsynced_bytes", wal.unsynced_bytes),
        ("rotations", wal.rotations),
        ("rotation_waits", wal.rotation_waits),
        ("segments_sealed", wal.segments_sealed),
        ("records_appended", wal.records_appended),
        ("bytes_appended", wal.bytes_appended),
        ("durable_writes", wal.durable_writes),
        ("commands", counters.commands),
        ("bodies", counters.bodies),
        ("delivered", counters.delivered),
        ("unknown", counters.unknown),
        ("trims", counters.trims),
        ("trims_past", counters.trims_past),
        ("sends", counters.sends),
        ("drops", counters.drops),
        ("refusals", counters.refusals),
    ]
    .into_iter()
    .map(|(name, value)| format!("{name} {value}\n"))
    .collect::<String>();
    for peer in &status.peers {
        let state = match peer {
            _ if peer.behind => "behind-trim",
            _ if peer.full => "full",
            _ => "well",
        };
        lines.push_str(&format!("peer_{} {state} stable={}\n", peer.node.0, peer.stable));
    }
    if let Some(reason) = &status.stopped {
        // One line, whatever the kernel or a path says.
        let reason: String = reason.to_string().chars().flat_map(char::escape_default).take(STOP_REASON_MAX).collect();
        lines.push_str(&format!("stopped {reason}\n"));
    }
    lines
}

fn report(status: &Status) -> StatusReport {
    let role = match status.role {
        _ if status.stopped.is_some() => NodeRole::Halted,
        Role::Follower => NodeRole::Follower,
        Role::Candidate => NodeRole::Candidate,
        Role::Recovering | Role::Leader => NodeRole::Leader,
    };
    let own = NodeReport { node: status.node, address: String::new(), connected: true, prefix: status.mark.slot };
    let peers = status.peers.iter().map(|peer| NodeReport {
        node: peer.node,
        address: String::new(),
        connected: true,
        prefix: peer.mark,
    });
    StatusReport {
        node: status.node,
        role,
        leader: status.leader,
        ballot: status.ballot,
        mark: status.mark,
        available: status.base,
        nodes: std::iter::once(own).chain(peers).collect(),
    }
}
