//! The client port: appends, status and reads for processes that don't embed a node.
//!
//! A connection is two tasks. One reads requests and brings appends into the intake, so a full intake stops the
//! reading, and the client feels it through TCP. The other answers in the order of the requests: outcomes come nearly
//! in that order anyway, since slots are given out in it. Bounds: requests under way, and bytes of appends under way.
//!
//! A read that waits at the tail holds up the answers behind it; its client says how long it may, and does well to use a
//! connection for nothing else. So does what waits for a quorum: barriers, trims, transfers. While a node that was just
//! started judges its log again, a read waits for that.

mod budget;
mod inbox;
mod refusal;
mod report;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_lite::FutureExt as _;
use futures_lite::future::poll_once;
use synod_frame::client::{
    ClientEnvelope, ClientEnvelopeError, ClientMessageError, ClientRefusal, ClientReply, ClientRequest, ClientRole,
    Gap, decode_request, encode_reply,
};
use synod_frame::{Channel, GroupId, Hello, HelloRefusal, HelloReply};
use synod_protocol::delivery::{SessionCommand, TicketCommand};
use synod_protocol::{NodeId, Slot};
use thiserror::Error;

use crate::error::ReadError;
use crate::intake::Awaited;
use crate::link::Identity;
use crate::link::accept::{Admission, Connections, Newcomer, accept_all};
use crate::link::connection::{Reading, Writing};
use crate::link::handshake::{HandshakeError, read_hello};
use crate::log::{AppendOptions, Log};
use crate::reader::{ReadItem, Reader, SharedBody};
use crate::seam::executor::yield_if_needed;
use crate::seam::local::Signal;
use crate::seam::net::{Listener, Stream};
use crate::seam::time::within;
use crate::shard::Shard;
use crate::tls::Roles;

pub(crate) use budget::RATE_MIN;
use budget::{Budget, Room, patience, too_slow};
use inbox::Inbox;
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
    /// Of all connections together.
    pub(crate) all_bytes_max: u64,
}

/// Why a connection ends. All but the first and the last are the client's fault.
#[derive(Debug, Error)]
enum ClientEnd {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Envelope(#[from] ClientEnvelopeError),
    #[error(transparent)]
    Message(#[from] ClientMessageError),
    #[error("it was idle, and its place was wanted")]
    Idle,
}

/// The logs of all groups of the node, whichever shards they live on: a client asks for any of them over one connection.
pub(crate) struct Logs(Vec<(GroupId, Log)>);

impl Logs {
    pub(crate) fn new(logs: Vec<(GroupId, Log)>) -> Rc<Logs> {
        Rc::new(Logs(logs))
    }

    fn of(&self, group: GroupId) -> Option<&Log> {
        self.0.iter().find(|(known, _)| *known == group).map(|(_, log)| log)
    }
}

/// Serves the client port.
pub(crate) async fn serve_clients(
    shard: Rc<Shard>,
    identity: Rc<Identity>,
    logs: Rc<Logs>,
    listener: Listener,
    connections: Rc<Connections>,
    bounds: ClientBounds,
) {
    let tasks = Rc::clone(&shard.tasks);
    let budget = Budget::new(bounds.all_bytes_max);
    accept_all(listener, connections, move |stream, address, newcomer| {
        let (shard, identity, logs) = (Rc::clone(&shard), Rc::clone(&identity), Rc::clone(&logs));
        let desk = Desk::new(bounds, Rc::clone(&budget));
        tasks.spawn(async move {
            serve_client(&shard, &identity, &logs, stream, address, newcomer, desk).await;
        });
    })
    .await;
}

async fn serve_client(
    shard: &Shard,
    identity: &Identity,
    logs: &Logs,
    stream: Stream,
    address: SocketAddr,
    newcomer: Newcomer,
    desk: Desk,
) {
    let introduced = newcomer.introduce(welcome(shard, identity, stream, &newcomer)).await;
    let connections = newcomer.leave();
    let Welcomed { reading, writing, roles, admission } = match introduced {
        Ok(welcomed) => welcomed,
        Err(error) => {
            shard.count(|counters| counters.refusals += u64::from(!error.is_absence()));
            return connections.complain(address, &error);
        }
    };
    let desk = Desk { roles, admission: Some(admission), ..desk };
    let serving = take_requests(shard, logs, reading, &desk).or(answer(writing, &desk));
    let end = serving.or(desk.make_way()).await;
    match end {
        error @ (ClientEnd::Io(_) | ClientEnd::Idle) => {
            tracing::debug!(%address, %error, "a client's connection ended");
        }
        error => {
            shard.count(|counters| counters.refusals += 1);
            connections.complain_of(|| tracing::warn!(%address, %error, "a client's connection was closed"));
        }
    }
}

/// A client that may send requests.
struct Welcomed {
    reading: Reading,
    writing: Writing,
    roles: Roles,
    admission: Admission,
}

async fn welcome(
    shard: &Shard,
    identity: &Identity,
    stream: Stream,
    newcomer: &Newcomer,
) -> Result<Welcomed, HandshakeError> {
    // A client that has vanished with its machine must not keep its place.
    stream.set_user_timeout()?;
    stream.set_keepalive()?;
    let (mut connection, names) = newcomer.secure(stream).await?;
    let hello = read_hello(&mut connection, Hello::decode).await?;
    let own = identity.hello(Channel::Client, NodeId(0), shard.position());
    let checked = if hello.from == NodeId(0) { hello.check(&own) } else { Err(HelloRefusal::Channel) };
    let (outcome, admission) = match checked.and_then(|format| Ok((format, newcomer.admit()?))) {
        Ok((format, admission)) => (Ok(format), Ok(admission)),
        Err(refusal) => (Err(refusal), Err(HandshakeError::Refused(refusal))),
    };
    connection.write_all(&HelloReply { hello: own, outcome }.encode()).await?;
    let admission = admission?;
    let (reading, writing) = connection.split()?;
    let roles = names.map_or(Roles::ALL, |names| names.roles);
    Ok(Welcomed { reading, writing, roles, admission })
}

/// The requests of one connection that are under way, in their order.
struct Desk {
    bounds: ClientBounds,
    budget: Rc<Budget>,
    roles: Roles,
    /// None before it is let in.
    admission: Option<Admission>,
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
        room: Room,
        outcome: Awaited,
    },
    /// Begun already, and not answered yet.
    Later(Pin<Box<dyn Future<Output = ClientReply>>>),
    Read {
        log: Log,
        request: u64,
        from: Slot,
        bytes_max: u32,
        wait: Duration,
    },
}

impl Desk {
    fn new(bounds: ClientBounds, budget: Rc<Budget>) -> Desk {
        Desk {
            bounds,
            budget,
            roles: Roles::default(),
            admission: None,
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

    /// The oldest request; without one the connection is idle.
    fn take(&self) -> Option<Pending> {
        let next = self.pending.borrow_mut().pop_front();
        self.is_idle(next.is_none());
        next
    }

    fn is_idle(&self, is_idle: bool) {
        if let Some(admission) = &self.admission {
            admission.is_idle(is_idle);
        }
    }

    /// Ends when the connection has been idle, and its place is wanted.
    async fn make_way(&self) -> ClientEnd {
        match &self.admission {
            Some(admission) => admission.make_way().await,
            None => std::future::pending().await,
        }
        ClientEnd::Idle
    }

    fn done(&self, bytes: u64) {
        self.bytes.set(self.bytes.get() - bytes);
        self.answered.raise();
    }
}

async fn take_requests(shard: &Shard, logs: &Logs, stream: Reading, desk: &Desk) -> ClientEnd {
    let mut inbox = Inbox::new(stream);
    loop {
        desk.wait_for_room().await;
        if let Err(end) = take_request(shard, logs, &mut inbox, desk).await {
            return end;
        }
        yield_if_needed().await;
    }
}

async fn take_request(shard: &Shard, logs: &Logs, inbox: &mut Inbox, desk: &Desk) -> Result<(), ClientEnd> {
    let head = inbox.envelope(|| desk.is_idle(false)).await?;
    let envelope = ClientEnvelope::decode(&head)?;
    // Bounded by the envelope's own check.
    let bytes = envelope.payload_bytes;
    let room = desk.budget.reserve(bytes.into()).await;
    let request = inbox.payload(&desk.budget, bytes as usize, |payload| decode_request(&envelope, payload)).await??;
    let number = request.request();
    let Some(log) = logs.of(envelope.group) else {
        desk.put(Pending::Ready(refused(number, ClientRefusal::UnknownGroup)));
        return Ok(());
    };
    if let Some(role) = role_for(&request)
        && !desk.roles.allow(role)
    {
        desk.put(Pending::Ready(refused(number, ClientRefusal::Forbidden { role })));
        return Ok(());
    }
    desk.put(begin(shard, log, request, room).await);
    Ok(())
}

/// What a client must be allowed for a request; whoever is let in may ask for the leader.
fn role_for(request: &ClientRequest) -> Option<ClientRole> {
    match request {
        ClientRequest::Status { .. } | ClientRequest::Members { .. } => None,
        ClientRequest::Append { .. } | ClientRequest::Session { .. } | ClientRequest::Ticket { .. } => {
            Some(ClientRole::Append)
        }
        ClientRequest::Barrier { .. } | ClientRequest::Figures { .. } | ClientRequest::Read { .. } => {
            Some(ClientRole::Read)
        }
        ClientRequest::Trim { .. } | ClientRequest::Transfer { .. } | ClientRequest::Change { .. } => {
            Some(ClientRole::Admin)
        }
    }
}

/// Carries a request out, or begins to.
async fn begin(shard: &Shard, log: &Log, request: ClientRequest, room: Room) -> Pending {
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
                Ok(outcome) => Pending::Append { request, bytes, room, outcome },
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
            // Made when they are due, so that who asks and doesn't listen takes no memory.
            let clients = shard.settings.client_peers.clone();
            let status = async move { ClientReply::Status { request, status: report(&log.status(), &clients) } };
            Pending::Later(Box::pin(status))
        }
        ClientRequest::Figures { request, .. } => {
            Pending::Later(Box::pin(async move { ClientReply::Figures { request, text: figures(&log.status()) } }))
        }
        ClientRequest::Read { request, from, bytes_max, wait_ms, .. } => {
            let wait = Duration::from_millis(wait_ms.into()).min(READ_WAIT_MAX);
            Pending::Read { log, request, from, bytes_max, wait }
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

async fn answer(mut stream: Writing, desk: &Desk) -> ClientEnd {
    let mut gathered = Vec::new();
    loop {
        if let Err(error) = answer_next(&mut stream, desk, &mut gathered).await {
            return error.into();
        }
        yield_if_needed().await;
    }
}

async fn answer_next(stream: &mut Writing, desk: &Desk, gathered: &mut Vec<u8>) -> io::Result<()> {
    let Some(pending) = desk.take() else {
        flush(stream, gathered).await?;
        // An idle connection costs little.
        gathered.shrink_to(GATHER_BYTES / 16);
        desk.arrived.wait().await;
        return Ok(());
    };
    match pending {
        Pending::Ready(reply) => {
            gather(gathered, &reply);
            desk.done(0);
        }
        Pending::Append { request, bytes, room, mut outcome } => {
            let outcome = match outcome.try_take() {
                Some(outcome) => outcome,
                None => {
                    flush(stream, gathered).await?;
                    outcome.await
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
            drop(room);
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
        Pending::Read { log, request, from, bytes_max, wait } => {
            flush(stream, gathered).await?;
            let wanted = Wanted { request, from, bytes_max, wait };
            send_bodies(&log, stream, gathered, wanted).await?;
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

async fn send_bodies(log: &Log, stream: &mut Writing, gathered: &mut Vec<u8>, wanted: Wanted) -> io::Result<()> {
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
                let sending = within(patience(body.bytes().len()), stream.write_both(&envelope, body.bytes()));
                sending.await.unwrap_or_else(|| Err(too_slow()))?;
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

async fn flush(stream: &mut Writing, gathered: &mut Vec<u8>) -> io::Result<()> {
    if !gathered.is_empty() {
        let sending = within(patience(gathered.len()), stream.write_all(gathered));
        sending.await.unwrap_or_else(|| Err(too_slow()))?;
        gathered.clear();
    }
    Ok(())
}
