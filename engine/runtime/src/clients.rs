//! The client port: appends, status and reads for processes that don't embed a node.
//!
//! A connection is two tasks. One reads requests and brings appends into the intake, so a full intake stops the
//! reading, and the client feels it through TCP. The other answers in the order of the requests: outcomes come nearly
//! in that order anyway, since slots are given out in it. Bounds: requests under way, and bytes of appends under way.
//!
//! A read that waits at the tail holds up the answers behind it; its client says how long it may, and does well to use a
//! connection for nothing else. So does what waits for a quorum: barriers, trims, transfers. While a node that was just
//! started judges its log again, a read waits for that.

mod refusal;
mod report;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_channel::oneshot;
use futures_lite::FutureExt as _;
use futures_lite::future::poll_once;
use synod_frame::client::{
    ClientEnvelope, ClientEnvelopeError, ClientMessageError, ClientRefusal, ClientReply, ClientRequest, Gap,
    decode_request, encode_reply,
};
use synod_frame::{Channel, ENVELOPE_BYTES, Hello, HelloRefusal, HelloReply};
use synod_protocol::delivery::{SessionCommand, TicketCommand};
use synod_protocol::{NodeId, Slot};
use thiserror::Error;

use crate::error::{AppendError, ReadError};
use crate::intake::Outcome;
use crate::link::Identity;
use crate::link::accept::{Connections, accept_all};
use crate::link::handshake::{HandshakeError, read_hello};
use crate::log::{AppendOptions, Log};
use crate::reader::{ReadItem, Reader, SharedBody};
use crate::seam::executor::yield_if_needed;
use crate::seam::local::Signal;
use crate::seam::net::{Listener, Stream};
use crate::seam::time::within;
use crate::shard::Shard;

use refusal::{of_append, of_barrier, of_change, of_session, of_ticket, of_transfer, of_trim, refused};
use report::{figures, report};

/// Answers are gathered into writes of about this size.
const GATHER_BYTES: usize = 64 << 10;

/// The longest that a read waits at the tail, whatever its client says.
const READ_WAIT_MAX: Duration = Duration::from_secs(10);

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
    let end = take_requests(shard, log, stream, &desk).or(answer(log, answering, &desk)).await;
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
    let own = identity.hello(Channel::Client, NodeId(0), shard.position());
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
    Append {
        request: u64,
        bytes: u64,
        outcome: oneshot::Receiver<Outcome>,
    },
    /// Begun already, and not answered yet.
    Later(Pin<Box<dyn Future<Output = ClientReply>>>),
    Read {
        request: u64,
        from: Slot,
        bytes_max: u32,
        wait: Duration,
    },
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

async fn take_requests(shard: &Shard, log: &Log, mut stream: Stream, desk: &Desk) -> ClientEnd {
    loop {
        desk.wait_for_room().await;
        if let Err(end) = take_request(shard, log, &mut stream, desk).await {
            return end;
        }
        yield_if_needed().await;
    }
}

async fn take_request(shard: &Shard, log: &Log, stream: &mut Stream, desk: &Desk) -> Result<(), ClientEnd> {
    let mut head = [0; ENVELOPE_BYTES];
    stream.read_exact(&mut head).await?;
    let envelope = ClientEnvelope::decode(&head)?;
    // Bounded by the envelope's own check.
    let mut payload = vec![0; envelope.payload_bytes as usize];
    stream.read_exact(&mut payload).await?;
    let request = decode_request(&envelope, &payload)?;
    let number = request.request();
    if envelope.group != shard.settings.group {
        desk.put(Pending::Ready(refused(number, ClientRefusal::UnknownGroup)));
        return Ok(());
    }
    desk.put(begin(shard, log, request).await);
    Ok(())
}

/// Carries a request out, or begins to.
async fn begin(shard: &Shard, log: &Log, request: ClientRequest) -> Pending {
    let log = log.clone();
    match request {
        ClientRequest::Append { request, batch, terms, within, .. } => {
            let deadline = (!within.is_zero()).then(|| Instant::now().checked_add(within)).flatten();
            let options = AppendOptions {
                session: terms.session,
                ticket: terms.ticket,
                expected_slot: terms.expected_slot,
                deadline,
                ..AppendOptions::default()
            };
            let bytes = batch.bytes().len() as u64;
            match log.submit(batch, options).await {
                Ok(outcome) => Pending::Append { request, bytes, outcome },
                Err(error) => Pending::Ready(refused(request, of_append(error))),
            }
        }
        ClientRequest::Session { request, command, .. } => {
            later(request, async move {
                match command {
                    SessionCommand::Open => log.open_session().await.map(|session| session.0),
                    SessionCommand::Close(session) => log.close_session(session).await.map(|()| Slot(0)),
                }
                .map_err(of_session)
            })
            .await
        }
        ClientRequest::Ticket { request, command, .. } => {
            later(request, async move {
                match command {
                    TicketCommand::Issue { lasts_us } => {
                        log.issue_ticket(Duration::from_micros(lasts_us)).await.map(|ticket| ticket.0)
                    }
                    TicketCommand::Revoke(ticket) => log.revoke_ticket(ticket).await.map(|()| Slot(0)),
                }
                .map_err(of_ticket)
            })
            .await
        }
        ClientRequest::Barrier { request, .. } => {
            later(request, async move { log.barrier().await.map_err(|error| of_barrier(&error)) }).await
        }
        ClientRequest::Trim { request, upto, .. } => {
            later(request, async move { log.trim(upto).await.map_err(|error| of_trim(&error)) }).await
        }
        ClientRequest::Transfer { request, target, .. } => {
            let work = async move { log.transfer_leadership(target).await };
            later(request, async move { work.await.map(|()| Slot(0)).map_err(|error| of_transfer(&error)) }).await
        }
        ClientRequest::Members { request, .. } => match log.members().await {
            Some(members) => Pending::Ready(ClientReply::Members { request, members }),
            None => Pending::Ready(refused(request, ClientRefusal::Shutdown)),
        },
        ClientRequest::Change { request, change, .. } => {
            later(request, async move { log.change_members(change).await.map_err(|error| of_change(&error)) }).await
        }
        ClientRequest::Status { request, .. } => {
            let status = report(&log.status(), &shard.settings.client_peers);
            Pending::Ready(ClientReply::Status { request, status })
        }
        ClientRequest::Figures { request, .. } => {
            Pending::Ready(ClientReply::Figures { request, text: figures(&log.status()) })
        }
        ClientRequest::Read { request, from, bytes_max, wait_ms, .. } => {
            let wait = Duration::from_millis(wait_ms.into()).min(READ_WAIT_MAX);
            Pending::Read { request, from, bytes_max, wait }
        }
    }
}

/// Begins something now whose answer may have to wait until those before it are given.
async fn later(request: u64, work: impl Future<Output = Result<Slot, ClientRefusal>> + 'static) -> Pending {
    let mut answering = Box::pin(async move {
        match work.await {
            Ok(slot) => ClientReply::Done { request, slot },
            Err(reason) => refused(request, reason),
        }
    });
    match poll_once(answering.as_mut()).await {
        Some(reply) => Pending::Ready(reply),
        None => Pending::Later(answering),
    }
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
                    Err(error) => refused(request, of_append(error)),
                },
            );
            desk.done(bytes);
        }
        Pending::Later(mut answering) => {
            let reply = match poll_once(answering.as_mut()).await {
                Some(reply) => reply,
                None => {
                    flush(stream, gathered).await?;
                    answering.await
                }
            };
            gather(gathered, &reply);
            desk.done(0);
        }
        Pending::Read { request, from, bytes_max, wait } => {
            flush(stream, gathered).await?;
            let wanted = Wanted { request, from, bytes_max, wait };
            send_bodies(log, stream, gathered, wanted).await?;
            desk.done(0);
        }
    }
    if gathered.len() >= GATHER_BYTES {
        flush(stream, gathered).await?;
    }
    Ok(())
}

/// What a read asks for.
struct Wanted {
    request: u64,
    from: Slot,
    bytes_max: u32,
    wait: Duration,
}

async fn send_bodies(log: &Log, stream: &mut Stream, gathered: &mut Vec<u8>, wanted: Wanted) -> io::Result<()> {
    let Wanted { request, from, bytes_max, wait } = wanted;
    let mut reader = log.reader(from);
    let mut sent = 0;
    while sent < u64::from(bytes_max).max(1) {
        let is_tail = reader.position() >= log.status().mark.slot;
        let next = match is_tail {
            true if sent > 0 || wait.is_zero() => break,
            true => within(wait, next_body(&mut reader)).await,
            false => Some(next_body(&mut reader).await),
        };
        match next {
            Some(Ok(body)) => {
                let gaps = gaps_of(&body);
                if !gaps.is_empty() {
                    gather(gathered, &ClientReply::Gaps { request, gaps });
                    flush(stream, gathered).await?;
                }
                let (envelope, _) = encode_reply(&ClientReply::Body { request, body: body.handle() });
                stream.write_both(&envelope, body.bytes()).await?;
                sent += body.bytes().len() as u64;
            }
            Some(Err(reason)) => {
                gather(gathered, &refused(request, reason));
                return Ok(());
            }
            None => break,
        }
        yield_if_needed().await;
    }
    gather(gathered, &ClientReply::ReadEnd { request, next: reader.position() });
    Ok(())
}

fn gaps_of(body: &SharedBody) -> Vec<Gap> {
    let gap = |suppressed: &synod_wal::Suppressed| Gap {
        first: suppressed.slots.start,
        count: suppressed.slots.end.since(suppressed.slots.start) as u32,
        answer: suppressed.answer,
    };
    body.suppressed().iter().map(gap).collect()
}

async fn next_body(reader: &mut Reader) -> Result<SharedBody, ClientRefusal> {
    match reader.next().await {
        Ok(ReadItem::Body(body)) => Ok(body),
        Ok(ReadItem::Trimmed { first }) => Err(ClientRefusal::Trimmed { available: first }),
        Err(ReadError::Disk { slot } | ReadError::Unjudged { slot, .. }) => Err(ClientRefusal::Unreadable { slot }),
        Err(ReadError::Shutdown | ReadError::Poisoned | ReadError::Unreachable) => Err(ClientRefusal::Shutdown),
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
