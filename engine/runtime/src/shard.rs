//! A group's part of a shard: one log, and everything that happens on it. A shard is one thread with one executor; most
//! drive one group. Where there are several, each has a [`Shard`] of its own with its own tasks, in queues that get equal
//! parts of the thread, and they share nothing else.
//!
//! [`Shard::turn`] is the heart: an event goes into the [`LoggedReplica`], and everything it asks for is carried out,
//! in its order, until it asks for nothing more. Then what gathered in the intake is proposed as far as there is room,
//! and readers are served. Nothing in here waits; whatever must wait is a task of its own that ends in another turn.
//!
//! A shard is [`Rc`]'d into its tasks; its mutable part lies in one `RefCell`, borrowed only inside a turn. Tasks are
//! scheduled and never run from within a turn, so turns don't nest.
//!
//! It ends in one of two ways. *Stopped* (a failed write or sync, a diverged log, a bug): if it led it resigns, and says
//! nothing more to its peers, whose connections it closes; every append is refused, and its status says why, until the
//! node is restarted. *Shut down*: it resigns, its tasks end, the disk is waited for, everybody who still waits gets an
//! answer.

mod compose;
mod disk;
pub(crate) mod membership;
mod readers;
mod requests;
mod retention;
mod snapshots;
mod spread;

use std::cell::{Cell, OnceCell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_lite::FutureExt as _;
use synod_protocol::delivery::DeliveryState;
use synod_protocol::{BodyKind, Instant, NodeId, Role, Slot};
use synod_wal::{FileId, Judgement, LoggedReplica, Output};

use crate::clock::Clock;
use crate::config::Retention;
use crate::error::{AppendError, ReadError, StopReason, TrimError};
use crate::link::Link;
use crate::log::Shared;
use crate::seam::buffer::{Buffer, Slab};
use crate::seam::disk::{Disk, Files};
use crate::seam::executor::Tasks;
use crate::seam::local::{Moment, Signal};
use crate::seam::time::{sleep, within};
use crate::status::{Counters, Damage, Membership};

use compose::InFlight;
pub(crate) use membership::Reach;
use readers::Readers;
use requests::Waiting;
use retention::Keeper;
use spread::Spreader;

/// Longest time between two looks at the clock.
const TICK: Duration = Duration::from_millis(10);

/// Shortest time between them: a deadline that can't be met yet must not make the thread spin.
const TICK_MIN: Duration = Duration::from_millis(1);

/// How old the published status may get while turns are frequent.
const STATUS_AGE: Duration = Duration::from_millis(1);

/// How long to wait before a segment file that couldn't be created is tried again.
const FILE_RETRY: Duration = Duration::from_secs(1);

/// How long an orderly end waits for its last words to reach the sockets.
const FAREWELL: Duration = Duration::from_millis(200);

/// What a shard needs to know of the configuration.
#[derive(Clone, Debug)]
pub(crate) struct ShardSettings {
    pub(crate) node: NodeId,
    pub(crate) group: synod_frame::GroupId,
    pub(crate) disk: Disk,
    pub(crate) segment_bytes: u64,
    pub(crate) record_bytes_max: usize,
    pub(crate) backlog_bytes: u64,
    pub(crate) unknown_after: Duration,
    pub(crate) retention: Retention,
    /// Whose turn it is to lead, by the group's place among the node's, if leaders are to be spread.
    pub(crate) spread: Option<u32>,
    /// Where peers listen for clients, as far as that is known.
    pub(crate) client_peers: Vec<(NodeId, SocketAddr)>,
    /// When somebody called for the node.
    pub(crate) called_at: std::time::Instant,
}

/// See the module.
pub(crate) struct Shard {
    pub(crate) settings: ShardSettings,
    pub(crate) tasks: Rc<Tasks>,
    pub(crate) shared: Arc<Shared>,
    links: RefCell<Vec<Rc<Link>>>,
    /// How nodes are reached that come in; none where nobody can be dialled.
    reach: OnceCell<Reach>,
    /// Raised to end the shard.
    pub(crate) stop: Signal,
    /// Announced when it has stopped serving.
    stopped: Moment,
    clock: Clock,
    core: RefCell<Core>,
    files: Files<FileId>,
    /// Announced when the log's backlog has shrunk below its bound.
    backlog_shrank: Moment,
    /// Raised when the intake was emptied, so that the next arrival has to be waited for again.
    intake_emptied: Signal,
    /// When the clock is looked at next.
    tick_at: Cell<Instant>,
    /// Raised when that is too late.
    tick_sooner: Signal,
}

/// What changes in a turn.
struct Core {
    replica: LoggedReplica<Slab>,
    in_flight: InFlight,
    readers: Readers,
    waiting: Waiting,
    keeper: Keeper,
    spreader: Spreader,
    counters: Counters,
    stopped: Option<StopReason>,
    /// The own log was full when last looked at.
    full: bool,
    /// This node was behind the trim when last looked at.
    behind: bool,
    /// This node had no part in the log when last looked at.
    removed: bool,
    gate: Gate,
    /// A body was delivered in this turn.
    delivered: bool,
    /// How long the start took until the log was open; none before.
    ready_after: Option<Duration>,
    file_retry_at: Option<Instant>,
    /// The configurations for which the links were last seen to.
    membership_version: u64,
    /// When to keep again what was seen of peers.
    keep_seen_at: Instant,
    /// When to tell the leader again what the machines need.
    tell_hold_at: Instant,
    /// The last attempt to make a segment file failed, and that was logged.
    file_failing: bool,
    status_at: Instant,
}

/// What the intake was last told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    Open,
    NoLeader,
    NotLeader(NodeId),
    DiskFull,
    Stopped,
}

impl Shard {
    /// A shard over a recovered replica. Nothing happens before [`Shard::start`].
    pub(crate) fn new(
        settings: ShardSettings,
        clock: Clock,
        tasks: Rc<Tasks>,
        shared: Arc<Shared>,
        links: Vec<Rc<Link>>,
        replica: LoggedReplica<Slab>,
    ) -> Shard {
        let core = Core {
            replica,
            in_flight: InFlight::default(),
            readers: Readers::default(),
            waiting: Waiting::default(),
            keeper: Keeper::default(),
            spreader: Spreader::default(),
            counters: Counters::default(),
            stopped: None,
            full: false,
            behind: false,
            removed: false,
            gate: Gate::NoLeader,
            delivered: false,
            ready_after: None,
            file_retry_at: None,
            membership_version: 0,
            keep_seen_at: Instant(0),
            tell_hold_at: Instant(0),
            file_failing: false,
            status_at: Instant(0),
        };
        Shard {
            settings,
            tasks,
            shared,
            links: RefCell::new(links),
            reach: OnceCell::new(),
            stop: Signal::default(),
            stopped: Moment::default(),
            clock,
            core: RefCell::new(core),
            files: Files::new(),
            backlog_shrank: Moment::default(),
            intake_emptied: Signal::default(),
            tick_at: Cell::new(Instant(0)),
            tick_sooner: Signal::default(),
        }
    }

    /// Starts the tasks that drive it: the first turn, the clock, the intake, requests.
    pub(crate) fn start(self: &Rc<Self>) {
        self.turn(|_, _| {});
        self.tasks.spawn(Rc::clone(self).keep_time());
        self.tasks.spawn(Rc::clone(self).watch_intake());
        self.tasks.spawn(Rc::clone(self).answer_requests());
        let shard = Rc::clone(self);
        self.tasks.spawn(async move {
            let panic = shard.tasks.panicked().await;
            shard.end_service(StopReason::Bug(panic));
        });
    }

    /// One event and everything that follows from it.
    pub(crate) fn turn<R>(self: &Rc<Self>, event: impl FnOnce(&mut LoggedReplica<Slab>, Instant) -> R) -> R {
        let mut core = self.core.borrow_mut();
        let now = self.clock.now();
        let result = event(&mut core.replica, now);
        self.follow_up(&mut core, now);
        result
    }

    fn follow_up(self: &Rc<Self>, core: &mut Core, now: Instant) {
        loop {
            while let Some(output) = core.replica.poll_output() {
                self.carry_out(core, output);
            }
            if core.stopped.is_some() {
                break;
            }
            let proposed = self.propose_gathered(core, now);
            if std::mem::take(&mut core.delivered) {
                self.serve_waiting(core);
            } else if !proposed {
                break;
            }
        }
        self.keep_links(core);
        if core.replica.poll_deadline().plus(TICK_MIN) <= self.tick_at.get() {
            self.tick_at.set(now);
            self.tick_sooner.raise();
        }
        if core.replica.backlog_bytes() < self.settings.backlog_bytes {
            self.backlog_shrank.announce();
        }
        let is_news = core.ready_after.is_none() && core.replica.is_ready();
        if is_news {
            core.ready_after = Some(self.settings.called_at.elapsed());
        }
        if is_news || now.since(core.status_at) >= STATUS_AGE {
            self.publish(core, now);
        }
    }

    fn carry_out(self: &Rc<Self>, core: &mut Core, output: Output<Buffer>) {
        match output {
            Output::Send { to, message, body } => {
                let links = self.links.borrow();
                let sent = links.iter().find(|link| link.peer() == to).is_some_and(|link| link.send(&message, body));
                if sent {
                    core.counters.sends += 1;
                } else {
                    core.counters.drops += 1;
                }
            }
            Output::WriteFrame { write, file, offset, buffer } => self.write_frame(write, file, offset, buffer),
            Output::WriteBytes { write, file, offset, bytes } => self.write_bytes(write, file, offset, &bytes),
            Output::Sync { sync, file } => self.sync(sync, file),
            Output::CreateFile { file } => self.create_file(file),
            Output::ZeroFile { file, offset, bytes } => self.zero_file(file, offset, bytes),
            Output::Read { read, file, offset, bytes } => self.read(read, file, offset, bytes),
            Output::ReadDone { read, frame } => self.read_done(core, read, frame.as_ref()),
            Output::MarkDone { read, mark } => core.waiting.mark_done(read, mark),
            Output::Deliver { body, mark, frame } => {
                core.counters.delivered += 1;
                core.delivered = true;
                // Before anybody hears of it: a status asked for after an append covers that append.
                self.shared.board.update(|status| (status.mark, status.judged) = (mark, core.replica.judged()));
                if let Some(frame) = &frame
                    && let Judgement::Known(suppressed) = core.replica.judgement(body.slots())
                {
                    core.readers.note(frame, &suppressed);
                }
                self.resolve(core, &body);
                match body.kind {
                    BodyKind::Trim { upto } => core.waiting.trimmed(upto),
                    BodyKind::Configuration { .. } => self.resolve_change(core, &body),
                    _ => {}
                }
            }
            Output::Judged { body, answers } => {
                core.delivered = true;
                self.shared.board.update(|status| status.judged = core.replica.judged());
                self.resolve_judged(core, &body, &answers);
            }
            Output::Damaged { body, file, offset } => {
                tracing::error!(slot = %body.first, %file, offset, "a record of the log is damaged");
            }
            Output::Installed { base, from } => {
                tracing::warn!(first = %base.slot, %from, "what this node lacks is trimmed: its log begins where its peer's does");
                core.delivered = true;
                self.shared.board.update(|status| (status.mark, status.judged) = (base, core.replica.judged()));
                core.waiting.trimmed(base.slot);
            }
            Output::Healed { body, from } => {
                tracing::warn!(slot = %body.first, count = body.count, %from, "a damaged record is healed");
            }
            Output::Barrier { id, outcome } => core.waiting.barrier_ended(id, outcome),
            Output::TransferEnded { target, outcome } => {
                tracing::info!(%target, ?outcome, "a transfer of the leadership has ended");
                core.waiting.transfer_ended(target, outcome);
            }
            Output::Halt(reason) => self.stop_core(core, StopReason::Contradiction(reason)),
        }
    }

    /// Ends service for good, from outside a turn.
    pub(crate) fn end_service(self: &Rc<Self>, reason: StopReason) {
        match self.core.try_borrow_mut() {
            Ok(mut core) => self.stop_core(&mut core, reason),
            Err(_) => tracing::error!(%reason, "a node stops in the middle of a turn"),
        }
    }

    fn stop_core(self: &Rc<Self>, core: &mut Core, reason: StopReason) {
        if core.stopped.is_some() {
            return;
        }
        tracing::error!(node = %self.settings.node, %reason, "the node is fenced and serves no more");
        core.stopped = Some(reason);
        core.replica.handle_failed();
        // What still waits for a socket was true when it was said, but nothing is said any more; then the last words.
        for link in self.links.borrow().iter() {
            link.drop_waiting();
        }
        while let Some(output) = core.replica.poll_output() {
            self.carry_out(core, output);
        }
        for link in self.links.borrow().iter() {
            link.end();
        }
        self.stopped.announce();
        core.gate = Gate::Stopped;
        self.shared.intake.close(AppendError::Poisoned);
        core.in_flight.abandon();
        core.readers.refuse(&ReadError::Poisoned);
        core.waiting.refuse(&TrimError::Poisoned);
        self.publish(core, self.clock.now());
    }

    /// Runs until the shard is told to stop, then until everything has ended. False if the disk didn't answer.
    pub(crate) async fn run_to_end(self: &Rc<Self>, deadline: Duration) -> bool {
        self.stop.wait().await;
        self.shared.intake.close(AppendError::Shutdown);
        self.shared.mailbox.close();
        self.take_leave().await;
        let ended = self.tasks.stop(deadline).await;
        {
            let mut core = self.core.borrow_mut();
            core.in_flight.abandon();
            core.readers.refuse(&ReadError::Shutdown);
            core.waiting.refuse(&TrimError::Shutdown);
            let now = self.clock.now();
            self.publish(&mut core, now);
        }
        self.shared.board.close();
        if ended {
            self.files.close().await;
        }
        ended
    }

    /// Resigns, so that nobody has to wait for this node's silence to find a leader.
    async fn take_leave(self: &Rc<Self>) {
        if !self.is_stopped() {
            for (to, message) in self.core.borrow().replica.replica().last_words() {
                if let Some(link) = self.link_to(to) {
                    link.send(&message, None);
                }
            }
        }
        for link in self.links.borrow().iter() {
            link.end();
        }
        let links = self.links.borrow().clone();
        let all_closed = async {
            for link in &links {
                link.wait_closed().await;
            }
        };
        // A peer that doesn't read will notice by itself.
        within(FAREWELL, all_closed).await;
    }

    /// Waits until it has stopped serving.
    pub(crate) async fn wait_until_stopped(&self) {
        while !self.is_stopped() {
            self.stopped.wait().await;
        }
    }

    /// Waits while the log has more unsynced bytes than it should: readers of bulk links stop here.
    pub(crate) async fn wait_for_backlog(&self) {
        while self.core.borrow().replica.backlog_bytes() >= self.settings.backlog_bytes
            && self.core.borrow().stopped.is_none()
        {
            self.backlog_shrank.wait().await;
        }
    }

    /// How far the log is on the disk, as a hello tells it: its position, and the chosen prefix.
    pub(crate) fn position(&self) -> (u64, Slot) {
        let core = self.core.borrow();
        (core.replica.wal().durable().0, core.replica.proved_prefix())
    }

    /// Whether it has stopped serving.
    pub(crate) fn is_stopped(&self) -> bool {
        self.core.borrow().stopped.is_some()
    }

    /// Changes the counters.
    pub(crate) fn count(&self, change: impl FnOnce(&mut Counters)) {
        change(&mut self.core.borrow_mut().counters);
    }

    async fn keep_time(self: Rc<Self>) {
        loop {
            let wait = {
                let core = self.core.borrow();
                let now = self.clock.now();
                let wait = core.replica.poll_deadline().since(now).clamp(TICK_MIN, TICK);
                self.tick_at.set(now.plus(wait));
                wait
            };
            // What a turn in between has to say soon doesn't wait for the whole tick.
            let is_due = async {
                sleep(wait).await;
                true
            };
            let is_sooner = async {
                self.tick_sooner.wait().await;
                false
            };
            if is_due.or(is_sooner).await {
                self.tick();
            }
        }
    }

    fn tick(self: &Rc<Self>) {
        let mut core = self.core.borrow_mut();
        let core = &mut *core;
        let now = self.clock.now();
        self.shared.meters.beat();
        core.replica.set_wall_clock(self.clock.wall_us());
        if core.replica.poll_deadline() <= now {
            core.replica.handle_timeout(now);
        }
        if core.file_retry_at.is_some_and(|at| at <= now) {
            core.file_retry_at = None;
            core.replica.retry_file(now);
        }
        self.shared.intake.expire();
        core.counters.unknown += core.in_flight.expire(now, self.settings.unknown_after);
        core.waiting.expire(now);
        core.readers.forget_gone();
        self.keep_hold(core, now);
        self.keep_within_bounds(core, now);
        self.spread_leaders(core, now);
        self.follow_up(core, now);
    }

    /// Publishes the status, and opens or closes the intake's gate by the role.
    fn publish(&self, core: &mut Core, now: Instant) {
        core.status_at = now;
        let status = core.replica.status();
        let protocol = status.protocol;
        // Who looks for support hasn't heard the last leader for a while: sending anybody there would be no help.
        let leader = protocol.leader.filter(|_| protocol.role != Role::Candidate).map(|ballot| ballot.node);
        let leads = matches!(protocol.role, Role::Leader | Role::Recovering);
        self.tell_room(core);
        self.tell_behind(core, protocol.behind);
        self.tell_removed(core, protocol.removed);
        self.note_peers(core, now, &protocol.peers);
        if core.gate != Gate::Stopped {
            let gate = match leader {
                _ if leads && core.replica.is_full() => Gate::DiskFull,
                _ if leads => Gate::Open,
                Some(leader) if leader != self.settings.node => Gate::NotLeader(leader),
                _ => Gate::NoLeader,
            };
            if gate != core.gate {
                core.gate = gate;
                match gate {
                    Gate::Open => self.shared.intake.open(),
                    Gate::NotLeader(leader) => self.shared.intake.close(self.not_leader(leader)),
                    Gate::DiskFull => self.shared.intake.close(AppendError::DiskFull),
                    Gate::NoLeader | Gate::Stopped => self.shared.intake.close(AppendError::NoLeader),
                }
            }
        }
        let known_leader = match leader {
            _ if core.stopped.is_some() => None,
            _ if leads => Some(self.settings.node),
            leader => leader.filter(|leader| *leader != self.settings.node),
        };
        if protocol.role != Role::Recovering {
            core.waiting.leader_is(known_leader);
        }
        core.waiting.leading_is(leads);
        self.shared.board.publish(|board| {
            board.role = if core.stopped.is_some() { Role::Follower } else { protocol.role };
            board.leader = known_leader;
            board.ballot = protocol.leader.unwrap_or_default();
            board.promised = protocol.promised;
            board.mark = protocol.mark;
            board.base = status.base.slot;
            board.judged = core.replica.judged();
            board.sessions = core.replica.delivery_state().map_or(0, DeliveryState::sessions);
            board.stable = protocol.stable;
            board.open_bodies = protocol.open_bodies;
            board.peers = protocol.peers;
            board.full = core.full;
            board.behind = protocol.behind;
            board.held_by = core.keeper.held_by();
            board.membership =
                Membership::of(protocol.configuration, protocol.pending, protocol.retiring, protocol.removed);
            board.damage = Damage {
                found: status.damaged_found,
                healed: status.healed,
                lost: status.lost.len() as u64,
                lost_first: status.lost.first().map(|body| body.first),
                doubts: protocol.doubts.len() as u64,
                unsure: protocol.unsure,
                scrub_passes: status.scrub_passes,
            };
            board.startup.ready = core.ready_after;
            board.wal = status.log;
            board.counters = core.counters;
            board.stopped.clone_from(&core.stopped);
        });
    }

    /// Says so when what this node lacks turns out to be gone.
    fn tell_behind(&self, core: &mut Core, behind: Option<Slot>) {
        if std::mem::replace(&mut core.behind, behind.is_some()) == behind.is_some() {
            return;
        }
        if let Some(first) = behind {
            let mark = core.replica.replica().mark().slot;
            tracing::error!(
                lacks = %mark, %first,
                "this node is behind the trim: its peers' logs begin above what it lacks, so its own log \
                 will begin there, too; until then it votes, but doesn't lead"
            );
        }
    }

    /// Says so when the own log becomes full, and when it has room again.
    fn tell_room(&self, core: &mut Core) {
        let full = core.replica.wal().is_full();
        if std::mem::replace(&mut core.full, full) == full {
            return;
        }
        let stats = core.replica.wal().stats();
        if full {
            tracing::warn!(
                files = stats.files,
                live_bytes = stats.live_bytes,
                "the log is full: new commands are refused, and a leader hands over if others have room; trim the log, \
                 or make room on the file system"
            );
        } else {
            tracing::info!(files_clean = stats.files_clean, "the log has room again");
        }
    }

    fn not_leader(&self, leader: NodeId) -> AppendError {
        let address = self.link_to(leader).and_then(|link| link.address());
        let client_address = self.settings.client_peers.iter().find(|(peer, _)| *peer == leader).map(|(_, at)| *at);
        AppendError::NotLeader { leader, address, client_address }
    }
}
