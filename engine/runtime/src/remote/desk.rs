//! The client's thread: it takes what the handles ask for, keeps a connection to the leader, and matches answers.
//!
//! Three tasks: one hears requests, one looks at the clock, one keeps the connection ([`Desk::keep_connected`]); and one
//! more for each read. What they share is borrowed only for a moment.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_channel::oneshot;
use futures_lite::{AsyncWriteExt as _, FutureExt as _};
use synod_frame::client::{ClientRefusal, ClientReply, ClientRequest, NodeRole, StatusReport, encode_request};
use synod_protocol::delivery::{SessionCommand, SessionId};
use synod_protocol::{NodeId, PeerStatus, Role, Slot};

use super::RemoteConfig;
use super::answers::{of_barrier, of_transfer, of_trim};
use super::connection::{Connection, Reading, Writing, connect, read_reply};
use super::flights::{Consequence, FlightId, Flights};
use super::reads::Lanes;
use crate::client::ClientError;
use crate::error::{AppendError, BarrierError, MembershipError, TransferError, TrimError};
use crate::log::Shared;
use crate::mailbox::Request;
use crate::seam::executor::Tasks;
use crate::seam::local::Signal;
use crate::seam::time::{sleep, within};

/// How often to look at the clock.
const TICK: Duration = Duration::from_millis(10);

/// How often the node is asked how it stands; that also shows that it lives.
const STATUS_INTERVAL: Duration = Duration::from_millis(200);

/// How long the end waits for answers.
const FAREWELL: Duration = Duration::from_millis(500);

/// First and longest wait before all servers are tried again.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(320));

/// Requests are gathered into writes of about this size.
const GATHER_BYTES: usize = 256 << 10;

/// See the module.
pub(super) struct Desk {
    pub(super) config: RemoteConfig,
    pub(super) shared: Arc<Shared>,
    pub(super) tasks: Rc<Tasks>,
    pub(super) lanes: Lanes,
    core: RefCell<Core>,
    /// Something may be sent.
    work: Signal,
    /// The connection should be left.
    leave: Signal,
    stop: Signal,
    next_server: Cell<usize>,
}

struct Core {
    flights: Flights,
    asks: VecDeque<Ask>,
    /// What was asked over the present connection, by its number.
    asked: BTreeMap<u64, Asked>,
    requests: u64,
    /// When something last came, or was asked after silence.
    heard_at: Instant,
    paused_until: Option<Instant>,
    status_at: Instant,
    /// Since when there is no leader.
    leaderless_since: Option<Instant>,
    /// Where somebody said that the leader is.
    hint: Option<SocketAddr>,
    leader: Option<NodeId>,
    waiting_for_leader: Vec<(Instant, oneshot::Sender<Option<NodeId>>)>,
}

/// To be asked for, besides appends.
enum Ask {
    Session,
    CloseSession(SessionId),
    Status,
    Barrier { until: Instant, reply: oneshot::Sender<Result<Slot, BarrierError>> },
    Trim { upto: Slot, until: Instant, reply: oneshot::Sender<Result<Slot, TrimError>> },
    Transfer { target: NodeId, until: Instant, reply: oneshot::Sender<Result<(), TransferError>> },
}

enum Asked {
    Flight(FlightId),
    Ask(Ask),
}

impl Desk {
    pub(super) fn new(config: RemoteConfig, shared: Arc<Shared>, tasks: Rc<Tasks>) -> Desk {
        let now = Instant::now();
        let core = Core {
            flights: Flights::new(config.exactly_once, config.in_flight_bytes, config.retry_within),
            asks: VecDeque::new(),
            asked: BTreeMap::new(),
            requests: 0,
            heard_at: now,
            paused_until: None,
            status_at: now,
            leaderless_since: Some(now),
            hint: None,
            leader: None,
            waiting_for_leader: Vec::new(),
        };
        Desk {
            config,
            shared,
            tasks,
            lanes: Lanes::default(),
            core: RefCell::new(core),
            work: Signal::default(),
            leave: Signal::default(),
            stop: Signal::default(),
            next_server: Cell::new(0),
        }
    }

    /// Runs until it is told to stop, then answers everybody.
    pub(super) async fn run(self: Rc<Self>) {
        self.tasks.spawn(Rc::clone(&self).hear());
        self.tasks.spawn(Rc::clone(&self).keep_time());
        self.tasks.spawn(Rc::clone(&self).keep_connected());
        let panicked = async {
            let panic = self.tasks.panicked().await;
            tracing::error!(panic, "a task of a remote log has panicked; report it");
        };
        self.stop.wait().or(panicked).await;
        self.shared.intake.close(AppendError::Shutdown);
        self.shared.mailbox.close();
        within(FAREWELL, self.take_leave()).await;
        self.tasks.stop(Duration::from_secs(1)).await;
        {
            let mut core = self.core.borrow_mut();
            core.flights.abandon();
            // Their replies are dropped unanswered, which says the same.
            core.asks.clear();
            core.asked.clear();
            core.waiting_for_leader.clear();
        }
        self.shared.board.close();
    }

    /// Hears what is under way, and closes this client's sessions, so that they don't crowd out others'. Without a leader
    /// neither can be had.
    async fn take_leave(&self) {
        let is_over = |core: &Core| core.leader.is_none() || (core.flights.is_empty() && core.asked.is_empty());
        while !is_over(&self.core.borrow()) {
            sleep(TICK).await;
        }
        let sessions = self.core.borrow_mut().flights.sessions.end();
        self.core.borrow_mut().asks.extend(sessions.into_iter().map(Ask::CloseSession));
        self.work.raise();
        while !is_over(&self.core.borrow()) || !self.core.borrow().asks.is_empty() {
            sleep(TICK).await;
        }
    }

    async fn hear(self: Rc<Self>) {
        loop {
            let request = poll_fn(|context| self.shared.mailbox.poll_request(context)).await;
            let now = Instant::now();
            let until = now + self.config.retry_within;
            let ask = match request {
                Request::Read { from, reply } => {
                    self.tasks.spawn(Rc::clone(&self).read(from, reply));
                    continue;
                }
                Request::Barrier { reply } => Ask::Barrier { until, reply },
                Request::Trim { upto, reply } => Ask::Trim { upto, until, reply },
                Request::Transfer { target, reply } => Ask::Transfer { target, until, reply },
                // Chains are the affair of those who have the log.
                Request::MarkAt { reply, .. } => {
                    let _ = reply.send(None);
                    continue;
                }
                Request::Change { reply, .. } => {
                    let _ = reply.send(Err(MembershipError::Remote));
                    continue;
                }
                // Whoever asks gets nothing: the status of the members tells it.
                Request::Members { .. } => continue,
                // No exchange goes on here.
                Request::SendSnapshot { .. } => continue,
                Request::WaitForLeader { timeout, reply } => {
                    let mut core = self.core.borrow_mut();
                    match core.leader {
                        Some(leader) => drop(reply.send(Some(leader))),
                        None => core.waiting_for_leader.push((now + timeout, reply)),
                    }
                    continue;
                }
                Request::Stop => {
                    self.stop.raise();
                    continue;
                }
            };
            self.core.borrow_mut().asks.push_back(ask);
            self.work.raise();
        }
    }

    async fn keep_time(self: Rc<Self>) {
        loop {
            sleep(TICK).await;
            self.shared.intake.expire();
            let now = Instant::now();
            let mut core = self.core.borrow_mut();
            let core = &mut *core;
            core.flights.expire(now);
            for ask in std::mem::take(&mut core.asks) {
                match ask {
                    Ask::Barrier { until, reply } if until <= now => drop(reply.send(Err(BarrierError::NoLeader))),
                    Ask::Trim { until, reply, .. } if until <= now => {
                        drop(reply.send(Err(TrimError::NotLeader { leader: None })));
                    }
                    Ask::Transfer { until, reply, .. } if until <= now => {
                        let nobody_leads = synod_protocol::TransferError::NotLeader;
                        drop(reply.send(Err(TransferError::Refused(nobody_leads))));
                    }
                    ask => core.asks.push_back(ask),
                }
            }
            let is_over =
                |(deadline, reply): &mut (Instant, oneshot::Sender<_>)| *deadline <= now || reply.is_canceled();
            for (_, reply) in core.waiting_for_leader.extract_if(.., is_over) {
                let _ = reply.send(None);
            }
            if core.leaderless_since.is_some_and(|since| now - since >= self.config.retry_within) {
                self.shared.intake.close(AppendError::NoLeader);
            }
            if core.paused_until.is_some_and(|until| until <= now) {
                core.paused_until = None;
                self.work.raise();
            }
            if core.leader.is_some() && now - core.status_at >= STATUS_INTERVAL {
                core.status_at = now;
                core.asks.push_back(Ask::Status);
                self.work.raise();
            }
            if !core.asked.is_empty() && now - core.heard_at >= self.config.answer_within {
                self.leave.raise();
            }
        }
    }

    /// Finds the leader, serves its connection, and again.
    async fn keep_connected(self: Rc<Self>) {
        let mut back_off = BACK_OFF.0;
        loop {
            match self.find_leader().await {
                Some((connection, status)) => {
                    back_off = BACK_OFF.0;
                    self.adopt(&status);
                    let end = self.serve(connection).await;
                    tracing::debug!(leader = %status.node, ?end, "the connection to the leader has ended");
                    self.lose();
                    // The one that led may stand still, and would take the whole patience for a hello.
                    self.next_server.set((self.next_server.get() + 1) % self.config.servers.len());
                }
                None => {
                    sleep(back_off).await;
                    back_off = (back_off * 2).min(BACK_OFF.1);
                }
            }
        }
    }

    /// Asks the one who was named as leader, and then all servers, the last one that led first.
    async fn find_leader(&self) -> Option<(Connection, StatusReport)> {
        let hint = self.core.borrow_mut().hint.take();
        let servers = &self.config.servers;
        let first = self.next_server.get();
        let mut candidates: VecDeque<SocketAddr> = hint.into_iter().collect();
        candidates.extend((0..servers.len()).map(|step| servers[(first + step) % servers.len()]));
        let mut tried = Vec::new();
        while let Some(address) = candidates.pop_front() {
            if tried.contains(&address) {
                continue;
            }
            tried.push(address);
            match self.ask_for_leader(address).await {
                Ok((connection, status)) => {
                    if status.role == NodeRole::Leader {
                        let place = servers.iter().position(|server| *server == address);
                        self.next_server.set(place.unwrap_or(first));
                        return Some((connection, status));
                    }
                    self.publish(&status, false);
                    let leader = status.nodes.iter().find(|node| Some(node.node) == status.leader);
                    if let Some(address) = leader.and_then(|leader| leader.address.parse().ok()) {
                        candidates.push_front(address);
                    }
                }
                Err(error) => tracing::debug!(%address, %error, "no use as a server"),
            }
        }
        None
    }

    async fn ask_for_leader(&self, address: SocketAddr) -> Result<(Connection, StatusReport), ClientError> {
        let mut connection = connect(address, self.config.tls.as_ref(), self.config.connect_within).await?;
        let (envelope, _) = encode_request(&ClientRequest::Status { request: 0, group: self.config.group });
        connection.writing.write_all(&envelope).await?;
        connection.writing.flush().await?;
        let silent = || ClientError::Io(io::ErrorKind::TimedOut.into());
        let answer = within(self.config.answer_within, read_reply(&mut connection.reading)).await;
        match answer.ok_or_else(silent)?? {
            (ClientReply::Status { status, .. }, _) => Ok((connection, status)),
            (ClientReply::Refused { reason, .. }, _) => Err(ClientError::Refused(reason)),
            (other, _) => Err(ClientError::Order { expected: 0, found: other.request() }),
        }
    }

    fn adopt(&self, status: &StatusReport) {
        let mut core = self.core.borrow_mut();
        let now = Instant::now();
        (core.heard_at, core.status_at) = (now, now);
        (core.leader, core.leaderless_since, core.paused_until) = (Some(status.node), None, None);
        for (_, reply) in core.waiting_for_leader.drain(..) {
            let _ = reply.send(Some(status.node));
        }
        drop(core);
        tracing::debug!(leader = %status.node, "connected to the leader");
        self.publish(status, true);
        self.shared.intake.open();
        self.work.raise();
    }

    /// The connection is gone: what was asked over it is asked again, or nobody knows what became of it.
    fn lose(&self) {
        let mut core = self.core.borrow_mut();
        let core = &mut *core;
        (core.leader, core.leaderless_since) = (None, Some(Instant::now()));
        let (mut flights, mut again) = (Vec::new(), VecDeque::new());
        for asked in std::mem::take(&mut core.asked).into_values() {
            match asked {
                Asked::Flight(id) => flights.push(id),
                Asked::Ask(Ask::Session) => core.flights.sessions.is_opening = false,
                Asked::Ask(ask @ Ask::Barrier { .. }) => again.push_back(ask),
                Asked::Ask(Ask::Trim { reply, .. }) => drop(reply.send(Err(TrimError::Unknown))),
                Asked::Ask(Ask::Transfer { reply, .. }) => drop(reply.send(Err(TransferError::Unknown))),
                Asked::Ask(Ask::Status | Ask::CloseSession(_)) => {}
            }
        }
        core.flights.lost(flights);
        core.asks.retain(|ask| match ask {
            Ask::Session => {
                core.flights.sessions.is_opening = false;
                false
            }
            Ask::Status | Ask::CloseSession(_) => false,
            _ => true,
        });
        again.append(&mut core.asks);
        core.asks = again;
    }

    async fn serve(&self, connection: Connection) -> Result<(), ClientError> {
        let Connection { reading, writing } = connection;
        let left = async {
            self.leave.wait().await;
            Ok(())
        };
        // A wish of an earlier connection's time.
        let _ = futures_lite::future::poll_once(self.leave.wait()).await;
        left.or(self.receive(reading)).or(self.send(writing)).await
    }

    async fn send(&self, mut writing: Writing) -> Result<(), ClientError> {
        let mut bytes = Vec::new();
        loop {
            self.gather(&mut bytes);
            if bytes.is_empty() {
                self.wait_for_work().await;
            } else {
                writing.write_all(&bytes).await?;
                writing.flush().await?;
                bytes.clear();
            }
        }
    }

    async fn wait_for_work(&self) {
        let raised = self.work.wait();
        let arrived = poll_fn(|context| {
            let core = self.core.borrow();
            let is_open = core.paused_until.is_none();
            // Without a session nothing can be sent, but whoever waits in the intake is why one is opened.
            let is_news = core.flights.has_room() || core.flights.wants_session(false);
            if is_open && is_news { self.shared.intake.poll_arrival(context) } else { Poll::Pending }
        });
        raised.or(arrived).await;
    }

    /// Lays out what may be sent now.
    fn gather(&self, bytes: &mut Vec<u8>) {
        let mut core = self.core.borrow_mut();
        let core = &mut *core;
        if core.asked.is_empty() {
            core.heard_at = Instant::now();
        }
        while let Some(ask) = core.asks.pop_front() {
            core.requests += 1;
            let request = core.requests;
            let group = self.config.group;
            let (envelope, _) = encode_request(&match &ask {
                Ask::Session => ClientRequest::Session { request, group, command: SessionCommand::Open },
                Ask::CloseSession(id) => ClientRequest::Session { request, group, command: SessionCommand::Close(*id) },
                Ask::Status => ClientRequest::Status { request, group },
                Ask::Barrier { .. } => ClientRequest::Barrier { request, group },
                Ask::Trim { upto, .. } => ClientRequest::Trim { request, group, upto: *upto },
                Ask::Transfer { target, .. } => ClientRequest::Transfer { request, group, target: *target },
            });
            bytes.extend_from_slice(&envelope);
            core.asked.insert(request, Asked::Ask(ask));
        }
        if core.paused_until.is_some() {
            return;
        }
        if core.flights.wants_session(self.shared.intake.is_empty()) {
            core.flights.sessions.is_opening = true;
            core.asks.push_back(Ask::Session);
            self.work.raise();
        }
        while bytes.len() < GATHER_BYTES {
            if !core.flights.has_unsent() && !self.take_one(&mut core.flights) {
                break;
            }
            let request = core.requests + 1;
            let Some(id) = core.flights.send_next(self.config.group, request, bytes) else { break };
            core.requests = request;
            core.asked.insert(request, Asked::Flight(id));
        }
    }

    /// One submission from the intake, if there is one and room for it.
    fn take_one(&self, flights: &mut Flights) -> bool {
        if !flights.has_room() {
            return false;
        }
        let mut taken = Vec::new();
        let mut is_first = true;
        self.shared.intake.take(&mut taken, |_| std::mem::take(&mut is_first));
        let has_taken = !taken.is_empty();
        taken.into_iter().for_each(|submission| flights.add(submission));
        has_taken
    }

    async fn receive(&self, mut reading: Reading) -> Result<(), ClientError> {
        loop {
            let (reply, _) = read_reply(&mut reading).await?;
            let request = reply.request();
            let asked = {
                let mut core = self.core.borrow_mut();
                core.heard_at = Instant::now();
                core.asked.remove(&request)
            };
            match asked {
                Some(Asked::Flight(id)) => self.answer_flight(id, reply)?,
                Some(Asked::Ask(ask)) => self.answer_ask(ask, reply)?,
                None => return Err(ClientError::Order { expected: 0, found: request }),
            }
            self.work.raise();
        }
    }

    fn answer_flight(&self, id: FlightId, reply: ClientReply) -> Result<(), ClientError> {
        let mut core = self.core.borrow_mut();
        let core = &mut *core;
        match reply {
            ClientReply::Appended { first, count, .. } => {
                let end = Slot(first.0.saturating_add(count.into()));
                core.flights.appended(id, first..end);
            }
            ClientReply::Done { slot, .. } => core.flights.done(id, slot),
            ClientReply::Refused { reason, .. } => match core.flights.refused(id, reason) {
                Consequence::Stay => {}
                Consequence::Pause(after) => {
                    core.paused_until = Some(Instant::now() + after.min(self.config.retry_within));
                }
                Consequence::Leave(hint) => {
                    core.hint = hint.or(core.hint);
                    self.leave.raise();
                }
            },
            other => {
                core.flights.lost([id]);
                return Err(ClientError::Order { expected: 0, found: other.request() });
            }
        }
        Ok(())
    }

    fn answer_ask(&self, ask: Ask, reply: ClientReply) -> Result<(), ClientError> {
        let wrong = ClientError::Order { expected: 0, found: reply.request() };
        match (ask, reply) {
            (Ask::Status, ClientReply::Status { status, .. }) => {
                let leads = status.role == NodeRole::Leader;
                self.publish(&status, leads);
                if !leads {
                    self.leave.raise();
                }
            }
            (Ask::Session, ClientReply::Done { slot, .. }) => {
                self.core.borrow_mut().flights.sessions.opened(SessionId(slot));
            }
            // Whatever the answer is: it is over, or will be evicted.
            (Ask::CloseSession(_), ClientReply::Done { .. } | ClientReply::Refused { .. }) => {}
            (Ask::Session, ClientReply::Refused { reason, .. }) => {
                if let ClientRefusal::Forbidden { .. } = reason {
                    // Nothing that waits will ever be allowed. What comes later asks again: certificates are replaced.
                    let mut waiting = Vec::new();
                    self.shared.intake.take(&mut waiting, |_| true);
                    for submission in waiting {
                        // A receiver that is gone doesn't want to know.
                        submission.answer(Err(AppendError::Forbidden));
                    }
                }
                let mut core = self.core.borrow_mut();
                core.flights.sessions.is_opening = false;
                core.paused_until = Some(Instant::now() + BACK_OFF.0);
            }
            (Ask::Barrier { reply, .. }, ClientReply::Done { slot, .. }) => drop(reply.send(Ok(slot))),
            (Ask::Barrier { until, reply }, ClientReply::Refused { reason, .. }) => match of_barrier(&reason) {
                Some(error) => drop(reply.send(Err(error))),
                None => {
                    self.core.borrow_mut().asks.push_back(Ask::Barrier { until, reply });
                    self.leave.raise();
                }
            },
            (Ask::Trim { reply, .. }, ClientReply::Done { slot, .. }) => drop(reply.send(Ok(slot))),
            (Ask::Trim { reply, .. }, ClientReply::Refused { reason, .. }) => drop(reply.send(Err(of_trim(&reason)))),
            (Ask::Transfer { reply, .. }, ClientReply::Done { .. }) => drop(reply.send(Ok(()))),
            (Ask::Transfer { reply, .. }, ClientReply::Refused { reason, .. }) => {
                drop(reply.send(Err(of_transfer(reason))));
            }
            _ => return Err(wrong),
        }
        Ok(())
    }

    fn publish(&self, report: &StatusReport, leads: bool) {
        self.shared.board.publish(|status| {
            status.node = report.node;
            status.role = match report.role {
                NodeRole::Leader if leads => Role::Leader,
                NodeRole::Candidate => Role::Candidate,
                _ => Role::Follower,
            };
            (status.leader, status.ballot, status.mark) = (report.leader, report.ballot, report.mark);
            (status.base, status.judged) = (report.available, report.mark.slot);
            let peers = report.nodes.iter().filter(|node| node.node != report.node);
            status.peers = peers
                .map(|peer| PeerStatus {
                    node: peer.node,
                    mark: peer.prefix,
                    stable: peer.prefix,
                    outstanding_bytes: 0,
                    full: false,
                    behind: false,
                    keeps_pace: false,
                    needs: peer.prefix,
                })
                .collect();
        });
    }
}
