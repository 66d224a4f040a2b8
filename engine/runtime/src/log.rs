//! The handle of a log: append, read, trim, look.
//!
//! Everything here only puts work before the shard and waits for answers; the futures need no particular executor, and
//! each has a blocking twin. All of them may be dropped at any time; what that means stands with each.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_channel::oneshot;
use futures_lite::future::block_on;
use synod_frame::client::{MemberChange, MembersReport};
use synod_frame::{Batch, BodyBounds, CommandsPlan, PlanError};
use synod_protocol::delivery::{Refusal, SessionCommand, SessionId, Terms, TicketCommand, TicketId};
use synod_protocol::limits::BODY_BYTES_MAX;
use synod_protocol::{Mark, NodeId, Slot, SlotRange};

use crate::error::{AppendError, BarrierError, MembershipError, SessionError, TicketError, TransferError, TrimError};
use crate::intake::{Awaited, Intake, Outcome, Submission, Work};
use crate::machine::exchange::Exchange;
use crate::mailbox::{Mailbox, Request};
use crate::meters::{LinkMeter, Meters};
use crate::reader::Reader;
use crate::status::{Flow, Status};
use crate::watch::{Board, Watch};

/// What a shard and the handles of its log share.
pub(crate) struct Shared {
    pub(crate) intake: Arc<Intake>,
    pub(crate) mailbox: Mailbox,
    pub(crate) board: Board,
    pub(crate) meters: Arc<Meters>,
    /// What one submission may be at most.
    pub(crate) bounds: BodyBounds,
    /// Where appends go while another node leads.
    pub(crate) forward: Option<Log>,
    /// Snapshots of what is made of this log.
    pub(crate) exchange: Exchange,
}

impl Shared {
    pub(crate) fn status(&self) -> Status {
        self.board.read()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

/// On what terms a submission is to be delivered; by default on none. If one isn't met, it fills its slots, but its
/// commands don't count, and readers get a typed gap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AppendOptions {
    /// Once only, however often it is retried: its session ([`Log::open_session`]) and its number there. Numbers begin with
    /// 1 and go up by 1; as many submissions may be under way as answers are kept, which is 64. A retry carries the same
    /// commands under the same number, at whichever node leads by then, and gets the slots of the first attempt.
    pub session: Option<(SessionId, u64)>,
    /// Only while this ticket ([`Log::issue_ticket`]) is the newest, and good.
    pub ticket: Option<TicketId>,
    /// Only if the first command comes to stand at this slot. [`Refusal::UnexpectedSlot`] tells where it stands instead.
    pub expected_slot: Option<Slot>,
    /// Not to be proposed after this; then it is refused with [`AppendError::DeadlinePassed`]. If it is proposed by then
    /// and not yet resolved, it is answered with [`AppendError::Unknown`]. Kept to within some 10 ms. `None` waits as long
    /// as [`crate::Config::unknown_after`] says once it is proposed, and for ever before.
    pub deadline: Option<Instant>,
    /// What to do when the intake is full. Default: wait for room.
    pub when_full: WhenFull,
}

/// What an append does when the intake has no room for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// Wait in line, at most until the deadline: the caller feels how fast the log is.
    #[default]
    Wait,
    /// Answer [`AppendError::Overloaded`] at once: the caller sheds load.
    Refuse,
}

impl AppendOptions {
    /// Zero names nothing: in a body it would stand for none, and a submission would be delivered without its terms.
    fn terms(&self) -> Result<Terms, AppendError> {
        let zero = Slot(0);
        let refusal = match self {
            AppendOptions { session: Some((SessionId(id), _)), .. } if *id == zero => Refusal::SessionUnknown,
            AppendOptions { session: Some((_, 0)), .. } => Refusal::SequenceTooOld { oldest: 1 },
            AppendOptions { ticket: Some(TicketId(id)), .. } if *id == zero => Refusal::TicketUnknown,
            AppendOptions { expected_slot: Some(slot), .. } if *slot == zero => {
                Refusal::UnexpectedSlot { actual: Slot::FIRST }
            }
            AppendOptions { session, ticket, expected_slot, .. } => {
                return Ok(Terms { session: *session, ticket: *ticket, expected_slot: *expected_slot });
            }
        };
        Err(AppendError::Refused(refusal))
    }
}

/// A log of a running node. Clone it freely; any thread may use it.
///
/// ```no_run
/// # fn example(node: &synod::Node) -> Result<(), Box<dyn std::error::Error>> {
/// let log = node.log();
/// let slot = log.append_blocking(b"x = 1")?;
/// let mut reader = log.reader(slot);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Log {
    shared: Arc<Shared>,
}

impl Log {
    pub(crate) fn new(shared: Arc<Shared>) -> Log {
        Log { shared }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Appends one command and gives its slot once it is chosen, durable on a quorum, and delivered.
    ///
    /// Waits for room when the intake is full. A future that is dropped while it waits for room has appended nothing;
    /// dropped later, its command may still be chosen.
    ///
    /// # Errors
    /// See [`AppendError`]: each variant says whether, and where, to try again.
    pub async fn append(&self, command: impl AsRef<[u8]>) -> Result<Slot, AppendError> {
        self.append_with(command, AppendOptions::default()).await
    }

    /// As [`Log::append`], on terms. A retry in a session gives the slot of the first attempt. Dropping the future means what
    /// it means in [`Log::append`].
    ///
    /// # Errors
    /// See [`AppendError`]. In a session, [`AppendError::Unknown`] may be answered by trying again, at any leader; of the
    /// other reasons [`AppendError::Refused`] alone uses up the submission's number.
    pub async fn append_with(&self, command: impl AsRef<[u8]>, options: AppendOptions) -> Result<Slot, AppendError> {
        let command = command.as_ref();
        self.refuse_early(&options)?;
        if command.len() > BODY_BYTES_MAX as usize {
            // Nothing that could be checked any better by copying it first.
            let bounds = &self.shared.bounds;
            return Err(AppendError::TooLarge {
                commands: 1,
                bytes: command.len(),
                commands_max: bounds.commands_max,
                bytes_max: bounds.record_bytes_max,
            });
        }
        Ok(self.append_batch_with(one(command), options).await?.start)
    }

    /// Appends all commands of a batch, in order and without others in between, and gives their slots. One body takes
    /// the batch whole or not at all.
    ///
    /// Dropping the future means what it means in [`Log::append`].
    ///
    /// # Errors
    /// See [`AppendError`].
    pub async fn append_batch(&self, batch: Batch) -> Result<SlotRange, AppendError> {
        self.submit(batch, AppendOptions::default()).await?.await
    }

    /// As [`Log::append_batch`], on terms; all commands of the batch count, or none. Dropping the future means what it means
    /// in [`Log::append`].
    ///
    /// # Errors
    /// As [`Log::append_with`].
    pub async fn append_batch_with(&self, batch: Batch, options: AppendOptions) -> Result<SlotRange, AppendError> {
        let terms = options.terms()?;
        self.check(&batch, &terms)?;
        self.append_work(Work::Commands { batch, terms }, options.deadline, options.when_full).await
    }

    /// Opens a session, in which appends may be retried without being delivered twice. A cluster keeps 1,024 sessions; of
    /// more, the one that was used longest ago makes way, as does one that nobody used for a day.
    ///
    /// # Errors
    /// See [`SessionError`]. A future that is dropped may leave a session behind that nobody knows, and that is evicted
    /// some day.
    pub async fn open_session(&self) -> Result<SessionId, SessionError> {
        Ok(SessionId(self.append_command(Work::Session(SessionCommand::Open)).await?.start))
    }

    /// Closes a session that isn't used any more, and so makes room for others. Whoever still uses it is refused. If the
    /// future is dropped, it may or may not be closed.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub async fn close_session(&self, session: SessionId) -> Result<(), SessionError> {
        if session.0 < Slot::FIRST {
            return Err(SessionError::NoSuchSession);
        }
        self.append_command(Work::Session(SessionCommand::Close(session))).await?;
        Ok(())
    }

    /// Issues a ticket: the right to append, good for `lasts` of the log's own time, and only as long as no newer one is
    /// issued. A writer that appends under a ticket is fenced as soon as another has one. Appends without a ticket are as
    /// free as ever. The log's time goes on only with what is appended, and by the clocks of its leaders. A
    /// future that is dropped may have issued a ticket that nobody knows; it fences older ones all the same.
    ///
    /// # Errors
    /// See [`TicketError`].
    pub async fn issue_ticket(&self, lasts: Duration) -> Result<TicketId, TicketError> {
        let lasts_us = u64::try_from(lasts.as_micros()).unwrap_or(u64::MAX);
        Ok(TicketId(self.append_command(Work::Ticket(TicketCommand::Issue { lasts_us })).await?.start))
    }

    /// Takes a ticket back before its time. If the future is dropped, it may or may not be taken back.
    ///
    /// # Errors
    /// See [`TicketError`].
    pub async fn revoke_ticket(&self, ticket: TicketId) -> Result<(), TicketError> {
        if ticket.0 < Slot::FIRST {
            return Err(TicketError::NoSuchTicket);
        }
        self.append_command(Work::Ticket(TicketCommand::Revoke(ticket))).await?;
        Ok(())
    }

    /// Refuses before anything is copied for it: under too much load, most of what comes is refused.
    fn refuse_early(&self, options: &AppendOptions) -> Result<(), AppendError> {
        let is_refused = options.when_full == WhenFull::Refuse && self.intake().refuses();
        if is_refused { Err(AppendError::Overloaded) } else { Ok(()) }
    }

    async fn append_command(&self, work: Work) -> Outcome {
        self.append_work(work, None, WhenFull::Wait).await
    }

    async fn append_work(&self, work: Work, deadline: Option<Instant>, when_full: WhenFull) -> Outcome {
        let (submission, outcome) = Submission::new(work, deadline);
        let intake = self.intake();
        match when_full {
            WhenFull::Wait => intake.submit(submission).await?,
            WhenFull::Refuse => intake.try_submit(submission)?,
        }
        outcome.await
    }

    /// This node's own, or that of the way to the leader.
    fn intake(&self) -> &Arc<Intake> {
        let own = &self.shared.intake;
        let Some(forward) = &self.shared.forward else { return own };
        let (node, leader) = self.shared.board.leader();
        if leader.is_some_and(|leader| leader != node) { &forward.shared.intake } else { own }
    }

    /// Brings a batch in, waiting for room; the receiver gets the outcome.
    pub(crate) async fn submit(&self, batch: Batch, options: AppendOptions) -> Result<Awaited, AppendError> {
        let terms = options.terms()?;
        self.check(&batch, &terms)?;
        let (submission, outcome) = Submission::new(Work::Commands { batch, terms }, options.deadline);
        self.intake().submit(submission).await?;
        Ok(outcome)
    }

    /// As [`Log::append_batch`], but a full intake is an error at once. The batch is handed in when this returns; the
    /// future only waits for the outcome.
    ///
    /// # Errors
    /// [`AppendError::Overloaded`], or any other; the batch is dropped then.
    pub fn try_append_batch(
        &self,
        batch: Batch,
    ) -> Result<impl Future<Output = Result<SlotRange, AppendError>> + Send + use<>, AppendError> {
        self.check(&batch, &Terms::NONE)?;
        let (submission, outcome) = Submission::new(Work::Commands { batch, terms: Terms::NONE }, None);
        self.intake().try_submit(submission)?;
        Ok(outcome)
    }

    /// [`Log::append`] for threads without an executor.
    ///
    /// # Errors
    /// See [`AppendError`].
    pub fn append_blocking(&self, command: impl AsRef<[u8]>) -> Result<Slot, AppendError> {
        block_on(self.append(command))
    }

    /// [`Log::append_batch`] for threads without an executor.
    ///
    /// # Errors
    /// See [`AppendError`].
    pub fn append_batch_blocking(&self, batch: Batch) -> Result<SlotRange, AppendError> {
        block_on(self.append_batch(batch))
    }

    /// [`Log::append_with`] for threads without an executor.
    ///
    /// # Errors
    /// See [`AppendError`].
    pub fn append_with_blocking(&self, command: impl AsRef<[u8]>, options: AppendOptions) -> Result<Slot, AppendError> {
        block_on(self.append_with(command, options))
    }

    /// [`Log::append_batch_with`] for threads without an executor.
    ///
    /// # Errors
    /// See [`AppendError`].
    pub fn append_batch_with_blocking(&self, batch: Batch, options: AppendOptions) -> Result<SlotRange, AppendError> {
        block_on(self.append_batch_with(batch, options))
    }

    /// [`Log::open_session`] for threads without an executor.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub fn open_session_blocking(&self) -> Result<SessionId, SessionError> {
        block_on(self.open_session())
    }

    /// [`Log::close_session`] for threads without an executor.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub fn close_session_blocking(&self, session: SessionId) -> Result<(), SessionError> {
        block_on(self.close_session(session))
    }

    /// [`Log::issue_ticket`] for threads without an executor.
    ///
    /// # Errors
    /// See [`TicketError`].
    pub fn issue_ticket_blocking(&self, lasts: Duration) -> Result<TicketId, TicketError> {
        block_on(self.issue_ticket(lasts))
    }

    /// [`Log::revoke_ticket`] for threads without an executor.
    ///
    /// # Errors
    /// See [`TicketError`].
    pub fn revoke_ticket_blocking(&self, ticket: TicketId) -> Result<(), TicketError> {
        block_on(self.revoke_ticket(ticket))
    }

    /// Reads delivered bodies from `from` on. What it gives may lag behind other replicas, but never differs from them.
    pub fn reader(&self, from: Slot) -> Reader {
        Reader::new(Arc::clone(&self.shared), from.max(Slot::FIRST))
    }

    /// Agrees with the other replicas to drop what lies below `upto`, and gives the point that was agreed on, which may
    /// be lower: nothing is dropped that some member doesn't durably have. Only a leader can. If the future is dropped,
    /// the trim may be agreed on all the same.
    ///
    /// # Errors
    /// See [`TrimError`].
    pub async fn trim(&self, upto: Slot) -> Result<Slot, TrimError> {
        let (reply, answer) = oneshot::channel();
        self.shared.mailbox.ask(Request::Trim { upto, reply });
        answer.await.unwrap_or(Err(TrimError::Shutdown))
    }

    /// [`Log::trim`] for threads without an executor.
    ///
    /// # Errors
    /// See [`TrimError`].
    pub fn trim_blocking(&self, upto: Slot) -> Result<Slot, TrimError> {
        block_on(self.trim(upto))
    }

    /// Waits until everything that was acknowledged anywhere before this call has been delivered here, and gives the
    /// first slot behind it: a reader that has come this far reads nothing stale. Any node may be asked; a quorum
    /// confirms it without writing anything. Dropping the future changes nothing.
    ///
    /// # Errors
    /// See [`BarrierError`].
    pub async fn barrier(&self) -> Result<Slot, BarrierError> {
        let (reply, answer) = oneshot::channel();
        self.shared.mailbox.ask(Request::Barrier { reply });
        answer.await.unwrap_or(Err(BarrierError::Shutdown))
    }

    /// [`Log::barrier`] for threads without an executor.
    ///
    /// # Errors
    /// See [`BarrierError`].
    pub fn barrier_blocking(&self) -> Result<Slot, BarrierError> {
        block_on(self.barrier())
    }

    /// Hands the leadership over to `target`, which must keep pace; appends wait meanwhile. Resolves when this node
    /// leads no more; then the target leads, in all likelihood, or is about to ([`Log::wait_for_leader`]). If the future is
    /// dropped, the transfer goes on.
    ///
    /// # Errors
    /// See [`TransferError`]. Nothing is lost in any case.
    pub async fn transfer_leadership(&self, target: NodeId) -> Result<(), TransferError> {
        let (reply, answer) = oneshot::channel();
        self.shared.mailbox.ask(Request::Transfer { target, reply });
        answer.await.unwrap_or(Err(TransferError::Shutdown))
    }

    /// [`Log::transfer_leadership`] for threads without an executor.
    ///
    /// # Errors
    /// See [`TransferError`].
    pub fn transfer_leadership_blocking(&self, target: NodeId) -> Result<(), TransferError> {
        block_on(self.transfer_leadership(target))
    }

    /// Changes who has a part in the log, and gives the slot of the configuration that says so, once that is chosen. Only a
    /// leader can. The log never stops for it: those who come in are learners first, and become members by themselves when
    /// they have caught up ([`crate::Membership::is_settled`]); those who go stay until the others hold everything.
    ///
    /// # Errors
    /// See [`MembershipError`]; a change that would leave no quorum is refused, and the reason says how many may be down.
    pub async fn change_members(&self, change: MemberChange) -> Result<Slot, MembershipError> {
        let (reply, answer) = oneshot::channel();
        self.shared.mailbox.ask(Request::Change { change, reply });
        answer.await.unwrap_or(Err(MembershipError::Shutdown))
    }

    /// [`Log::change_members`] for threads without an executor.
    ///
    /// # Errors
    /// See [`MembershipError`].
    pub fn change_members_blocking(&self, change: MemberChange) -> Result<Slot, MembershipError> {
        block_on(self.change_members(change))
    }

    /// Raises the format of the log, which every node must be able to read; resolves with the slot of the configuration that
    /// says so, once that is chosen. It rules from alpha slots later on. There is no way back: a node of an older build
    /// refuses to start on such a log.
    ///
    /// # Errors
    /// As [`Log::change_members`]; a node that can't read the format, or doesn't answer, is named.
    pub async fn raise_format(&self, to: u16) -> Result<Slot, MembershipError> {
        self.change_members(MemberChange::RaiseFormat { to }).await
    }

    /// [`Log::raise_format`], for threads that wait.
    ///
    /// # Errors
    /// As [`Log::raise_format`].
    pub fn raise_format_blocking(&self, to: u16) -> Result<Slot, MembershipError> {
        self.change_members_blocking(MemberChange::RaiseFormat { to })
    }

    /// The configurations that this node knows and that may still be needed, with stores and addresses; `None` if it has
    /// shut down, and from a remote log. Who has a part in the log, its status tells at once.
    pub async fn members(&self) -> Option<MembersReport> {
        let (reply, answer) = oneshot::channel();
        self.shared.mailbox.ask(Request::Members { reply });
        answer.await.ok()
    }

    /// [`Log::members`] for threads without an executor.
    pub fn members_blocking(&self) -> Option<MembersReport> {
        block_on(self.members())
    }

    /// How this node stands.
    pub fn status(&self) -> Status {
        self.shared.status()
    }

    /// How appends go through this node. Unlike its status this is read where it changes, so the figures are of now, and may
    /// be a little apart from each other. From a remote log, all at zero.
    pub fn flow(&self) -> Flow {
        let meters = &self.shared.meters;
        let links = meters.peers();
        let waits = |link: &LinkMeter| link.waiting_bytes.value();
        Flow {
            waiting: self.shared.intake.level().0 as u64,
            outgoing_bytes: links.iter().map(|to| (to.peer, waits(&to.control) + waits(&to.bulk))).collect(),
            delivered: meters.append.count(),
            delivered_for: Duration::from_secs_f64(meters.append.sum_seconds()),
            composed: meters.compose.count(),
            composed_for: Duration::from_secs_f64(meters.compose.sum_seconds()),
        }
    }

    /// Follows how this node stands, from now on.
    pub fn watch(&self) -> Watch {
        Watch::new(Arc::clone(&self.shared))
    }

    /// The delivered prefix that ends at `slot`, to compare chains between replicas; `None` if no body ends there, or
    /// it is trimmed or not delivered yet. Dropping the future changes nothing.
    pub async fn mark_at(&self, slot: Slot) -> Option<Mark> {
        let (reply, answer) = oneshot::channel();
        self.shared.mailbox.ask(Request::MarkAt { slot, reply });
        answer.await.ok().flatten()
    }

    /// [`Log::mark_at`] for threads without an executor.
    pub fn mark_at_blocking(&self, slot: Slot) -> Option<Mark> {
        block_on(self.mark_at(slot))
    }

    /// Waits until this node knows a leader that takes appends, and names it; `None` after `timeout`. Dropping the future
    /// changes nothing.
    pub async fn wait_for_leader(&self, timeout: Duration) -> Option<NodeId> {
        let (reply, answer) = oneshot::channel();
        self.shared.mailbox.ask(Request::WaitForLeader { timeout, reply });
        answer.await.ok().flatten()
    }

    /// [`Log::wait_for_leader`] for threads without an executor.
    pub fn wait_for_leader_blocking(&self, timeout: Duration) -> Option<NodeId> {
        block_on(self.wait_for_leader(timeout))
    }

    fn check(&self, batch: &Batch, terms: &Terms) -> Result<(), AppendError> {
        let bounds = &self.shared.bounds;
        match CommandsPlan::new().try_push_under(terms, batch, bounds) {
            Ok(()) => Ok(()),
            Err(PlanError::Empty) => Err(AppendError::Empty),
            Err(PlanError::TooLarge { .. } | PlanError::Full) => Err(AppendError::TooLarge {
                commands: batch.len(),
                bytes: batch.bytes().len(),
                commands_max: bounds.commands_max,
                bytes_max: bounds.record_bytes_max,
            }),
        }
    }
}

/// A batch of one command.
pub(crate) fn one(command: &[u8]) -> Batch {
    let mut batch = Batch::with_capacity(command.len());
    batch.push(command);
    batch
}

/// What embedders rely on, checked by the compiler.
const _: () = {
    const fn goes_anywhere<T: Clone + Send + Sync>() {}
    const fn moves<T: Send>() {}
    goes_anywhere::<Log>();
    goes_anywhere::<crate::SharedBody>();
    moves::<Reader>();
    moves::<crate::Node>();
};
