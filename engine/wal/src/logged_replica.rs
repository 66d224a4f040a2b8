//! One node's part in one group, joined with its log: [`Replica`] and [`Wal`] and the bodies between them, sans-IO.
//!
//! The simulator and the runtime drive this very code. It turns the core's effects into writes, syncs, reads and
//! messages with their bytes, and turns completions back into what the core wants to hear. Effects are carried out in
//! the core's order, so the bytes of an accept lie in a record before anybody is sent them: the record's header is
//! laid in front of the body once, and from then on the buffer is shared by the disk and all sockets, unchanged.
//!
//! When the log has no free segment, appends and all that comes after them wait; what carries no body still goes out.

mod bodies;
mod effects;
mod face;
mod healing;
mod install;
mod judging;
mod membership;
mod paging;
mod serve;

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use synod_frame::{BodyHeader, GroupId, verify_body_in_record};
use synod_protocol::{
    AppendId, BarrierError, BarrierId, BodyHandle, Effect, Instant, Mark, Message, NodeId, Opening, ProposeError,
    Replica, Slot, TransferError, TrimError,
};

use crate::index::{IndexEntry, Lookup};
use crate::lsn::{FileId, Lsn, SyncId, WriteId};
use crate::segment::record_bytes;
use crate::writer::{Action, Wal};

use bodies::Bodies;
pub use bodies::Frame;
pub use face::{Buffers, LoggedSettings, MarkAnswer, Output, ReadAnswer, ReadId, ReplicaStatus};
pub use healing::HEAL_PAUSE;
use healing::Healing;
use install::Installing;
use judging::Judging;
pub use judging::{Judgement, Suppressed};
use membership::Membership;
use paging::{Errand, Paging};
use serve::Serving;

/// How long the log must be quiet before it notes its durable position on disk.
const IDLE_BEFORE_MARK: Duration = Duration::from_millis(100);

/// See the module documentation.
pub struct LoggedReplica<P: Buffers> {
    group: GroupId,
    settings: LoggedSettings,
    replica: Replica,
    wal: Wal,
    buffers: P,
    bodies: Bodies<P::Buffer>,
    /// Effects that wait for a free segment, the append first.
    blocked: VecDeque<Effect>,
    /// Appends in the log and not yet durable: where each ends.
    planned: VecDeque<(Lsn, AppendId)>,
    /// A trim that is delivered and whose exact place isn't known yet.
    trim_wanted: Option<Slot>,
    /// A trim that went less far than it wanted, and the configuration in the header that held it up.
    trim_held: Option<(Slot, Option<Slot>)>,
    /// A trim that is delivered and not yet in the log.
    trim_due: Option<Mark>,
    membership: Membership,
    reads: BTreeMap<ReadId, (IndexEntry, Purpose)>,
    reads_count: u64,
    serving: BTreeMap<NodeId, Serving<P::Buffer>>,
    healing: Healing,
    installing: Installing<P::Buffer>,
    paging: Paging,
    judging: Option<Judging<P::Buffer>>,
    outputs: VecDeque<Output<P::Buffer>>,
    last_append_at: Instant,
    /// Wall-clock time as last told, and the highest time seen in any body: times never go back along a log.
    leader_time_us: u64,
    /// What was recovered is durable, and a segment is open: until then nothing that rests on it may be said.
    ready: bool,
    fenced: bool,
}

/// What a read from the disk is for.
#[derive(Clone, Debug)]
enum Purpose {
    /// A message that carries the body.
    Send { to: NodeId, message: Message },
    /// A body that phase 1 revealed.
    Adopt,
    /// One of the bodies for a peer that catches up.
    Serve { to: NodeId },
    /// A reader of the log.
    Reader,
    /// Nobody: to see whether it can be read.
    Scrub,
    /// To judge what is delivered.
    Judge,
}

impl<P: Buffers> LoggedReplica<P> {
    /// Joins a replica with its log; both stem from the same recovery.
    pub fn new(
        group: GroupId,
        settings: LoggedSettings,
        replica: Replica,
        mut wal: Wal,
        buffers: P,
        now: Instant,
    ) -> Self {
        // Time goes on from where the log left it, whatever the clock of this machine says.
        let leader_time_us = wal.log_time_us();
        let healing = Healing::of(wal.take_damaged());
        let membership = Membership::new(replica.configurations().clone(), replica.mark().slot, &mut wal);
        // Chosen before a crash, and maybe not carried out.
        let trim_wanted = wal.index().trims_upto(replica.mark().slot);
        let mut joined = LoggedReplica {
            group,
            settings,
            replica,
            wal,
            buffers,
            bodies: Bodies::new(settings.cache_bytes),
            blocked: VecDeque::new(),
            planned: VecDeque::new(),
            trim_wanted,
            trim_held: None,
            trim_due: None,
            membership,
            reads: BTreeMap::new(),
            reads_count: 0,
            serving: BTreeMap::new(),
            healing,
            installing: Installing::default(),
            paging: Paging::default(),
            judging: settings.delivery.map(Judging::new),
            outputs: VecDeque::new(),
            last_append_at: now,
            leader_time_us,
            ready: false,
            fenced: false,
        };
        joined.drain(now);
        joined
    }

    /// Takes a message; `body` is a record buffer whose body was verified, and whose handle is the message's.
    pub fn handle_message(&mut self, now: Instant, from: NodeId, message: Message, body: Option<P::Buffer>) {
        if !self.is_ready() {
            return;
        }
        if let Message::Base { base, trim, chosen_at, configuration } = message {
            self.on_base(now, from, base, trim, (chosen_at, configuration));
            return self.drain(now);
        }
        match (message.body(), body) {
            (Some(handle), Some(buffer)) => {
                if let Ok(header) = BodyHeader::parse_in_record(buffer.as_ref()) {
                    self.leader_time_us = self.leader_time_us.max(header.leader_time_us);
                }
                let buffer = match message {
                    Message::Supply { .. } => {
                        let others = self.heal(now, from, handle, buffer);
                        others.and_then(|buffer| self.take_trim(now, handle, buffer))
                    }
                    _ => Some(buffer),
                };
                let Some(buffer) = buffer else { return self.drain(now) };
                if handle.kind.is_configuration() && !self.tell_configuration(handle, buffer.as_ref()) {
                    // Nobody who may lead proposes what can't rule.
                    return self.drain(now);
                }
                self.bodies.arrive(*handle, buffer);
            }
            // About a body that is being healed, which is no news for the core.
            (None, None) if matches!(&message, Message::Unavailable { first, .. } if self.is_lost(*first)) => return,
            (None, None) => {}
            // A driver that loses a body, or invents one, would have us append nothing.
            (expected, _) => unreachable!("a message travels with its body: {expected:?}"),
        }
        self.replica.handle_message(now, from, message);
        self.drain(now);
    }

    /// A write is complete.
    pub fn handle_written(&mut self, now: Instant, write: WriteId) {
        if self.fenced {
            return;
        }
        self.bodies.written(write);
        self.wal.handle_written(write);
        self.drain(now);
    }

    /// A sync is complete.
    pub fn handle_synced(&mut self, now: Instant, sync: SyncId) {
        if self.fenced {
            return;
        }
        self.wal.handle_synced(sync);
        self.drain(now);
    }

    /// A segment file was created, or zeroed.
    pub fn handle_file_ready(&mut self, now: Instant, file: FileId) {
        if self.fenced {
            return;
        }
        self.wal.handle_file_ready(file);
        self.drain(now);
    }

    /// A segment file couldn't be created, for want of space: only new client commands suffer.
    pub fn handle_file_failed(&mut self, now: Instant, file: FileId) {
        if self.fenced {
            return;
        }
        self.wal.handle_file_failed(file);
        self.drain(now);
    }

    /// Asks again for the file that couldn't be created.
    pub fn retry_file(&mut self, now: Instant) {
        if self.fenced {
            return;
        }
        self.wal.retry();
        self.drain(now);
    }

    /// A write or a sync failed. It is never retried: after a failed sync the kernel may report success for pages that
    /// it has dropped. The node says nothing more that rests on its log; a leader resigns, so that nobody waits for it.
    pub fn handle_failed(&mut self) {
        if self.fenced {
            return;
        }
        self.fenced = true;
        self.wal.poison();
        self.outputs.clear();
        for (to, message) in self.replica.last_words() {
            self.outputs.push_back(Output::Send { to, message, body: None });
        }
    }

    /// A read is complete; `record` is none if it failed.
    pub fn handle_read(&mut self, now: Instant, read: ReadId, record: Option<P::Buffer>) {
        if self.fenced {
            self.reads.remove(&read);
            return;
        }
        if self.page_read(read, record.as_ref()) {
            return self.drain(now);
        }
        let Some((entry, purpose)) = self.reads.remove(&read) else { return };
        let sound = |record: &P::Buffer| {
            verify_body_in_record(record.as_ref()).is_ok_and(|header| header.handle() == entry.body)
        };
        let record = record.and_then(|blocks| self.unpack(&entry, blocks)).filter(sound);
        if matches!(purpose, Purpose::Scrub) {
            self.scrubbed();
        }
        if record.is_none() && self.wal.index().holds(&entry) && self.found_damaged(now, &entry, read, &purpose) {
            return self.drain(now);
        }
        match (purpose, record) {
            (Purpose::Adopt, Some(record)) => {
                if entry.body.kind.is_configuration() {
                    self.tell_configuration(&entry.body, record.as_ref());
                }
                self.bodies.arrive(entry.body, record);
                self.replica.handle_obtained(now, entry.body.id);
            }
            (Purpose::Send { to, message }, Some(record)) => {
                let frame = self.bodies.keep(entry.body, record);
                self.outputs.push_back(Output::Send { to, message, body: Some(frame) });
            }
            (Purpose::Serve { to }, record) => {
                let frame = record.map(|record| Frame::new(entry.body, Rc::new(record)));
                self.served(to, read, frame);
            }
            (Purpose::Reader, record) => {
                let frame = record.map(|record| Frame::new(entry.body, Rc::new(record)));
                self.outputs.push_back(Output::ReadDone { read, frame });
            }
            (Purpose::Judge, record) => {
                self.judged_read(read, record.map(|record| Frame::new(entry.body, Rc::new(record))));
            }
            (Purpose::Scrub, _) | (Purpose::Adopt | Purpose::Send { .. }, None) => {}
        }
        self.drain(now);
    }

    /// Time has come to a deadline; harmless at any time.
    pub fn handle_timeout(&mut self, now: Instant) {
        if !self.is_ready() {
            return;
        }
        if self.wal.mark_due() && now.since(self.last_append_at) >= IDLE_BEFORE_MARK {
            self.append_mark(now);
        }
        self.ask_for_lost(now);
        self.scrub(now);
        self.replica.handle_timeout(now);
        self.drain(now);
    }

    /// When `handle_timeout` has something to do.
    pub fn poll_deadline(&self) -> Instant {
        let deadline = self.replica.poll_deadline().min(self.healing_deadline());
        if !self.is_ready() {
            Instant(u64::MAX)
        } else if self.wal.mark_due() {
            deadline.min(self.last_append_at.plus(IDLE_BEFORE_MARK))
        } else {
            deadline
        }
    }

    /// Tells the wall-clock time, in microseconds since 1970: what leaders write into bodies.
    pub fn set_wall_clock(&mut self, now_us: u64) {
        self.leader_time_us = self.leader_time_us.max(now_us);
    }

    /// The time for a new body, in microseconds since 1970; never goes back along a log.
    pub fn leader_time_us(&self) -> u64 {
        self.leader_time_us
    }

    /// Room for a new body, unless the disk is behind.
    pub fn opening(&self) -> Option<Opening> {
        if self.fenced
            || self.is_full()
            || !self.blocked.is_empty()
            || self.wal.unsynced_bytes() >= self.settings.backlog_bytes
        {
            return None;
        }
        self.replica.opening()
    }

    /// Whether the log has no room for client commands, until something is trimmed or the disk has room for a file; or,
    /// at a leader, too many of its followers' logs. What is left is for promises, trims and what earlier ballots left
    /// open.
    pub fn is_full(&self) -> bool {
        self.wal.is_full() || self.replica.is_full()
    }

    /// Proposes a body that the caller has encoded into `record` for the current opening.
    ///
    /// # Errors
    /// As [`Replica::propose`].
    pub fn propose(&mut self, now: Instant, body: BodyHandle, record: P::Buffer) -> Result<(), ProposeError> {
        if self.opening().is_none() {
            return Err(ProposeError::NoOpening);
        }
        self.bodies.arrive(body, record);
        let proposed = self.replica.propose(now, body);
        self.drain(now);
        proposed
    }

    /// Proposes a trim; see [`Replica::trim`].
    ///
    /// # Errors
    /// As [`Replica::trim`].
    pub fn trim(&mut self, now: Instant, upto: Slot) -> Result<Slot, TrimError> {
        if self.fenced {
            return Err(TrimError::NotLeader);
        }
        let upto = upto.min(self.replica.held_by_all());
        let agreed = self.prepare_trim(upto).and_then(|upto| self.replica.trim(upto));
        self.drain(now);
        agreed
    }

    /// Proposes a trim past members that are behind; see [`Replica::trim_past`].
    ///
    /// # Errors
    /// As [`Replica::trim_past`].
    pub fn trim_past(&mut self, now: Instant, upto: Slot) -> Result<Slot, TrimError> {
        if self.fenced {
            return Err(TrimError::NotLeader);
        }
        let upto = upto.min(self.replica.held_by_quorum());
        let agreed = self.prepare_trim(upto).and_then(|upto| self.replica.trim_past(upto));
        self.drain(now);
        agreed
    }

    /// Begins a barrier; see [`Replica::barrier`].
    ///
    /// # Errors
    /// As [`Replica::barrier`].
    pub fn barrier(&mut self, now: Instant) -> Result<BarrierId, BarrierError> {
        if !self.is_ready() {
            return Err(BarrierError::NoLeader);
        }
        let begun = self.replica.barrier(now);
        self.drain(now);
        begun
    }

    /// Begins to hand the leadership over; see [`Replica::transfer`].
    ///
    /// # Errors
    /// As [`Replica::transfer`].
    pub fn transfer(&mut self, now: Instant, target: NodeId) -> Result<(), TransferError> {
        if !self.is_ready() {
            return Err(TransferError::NotLeader);
        }
        let begun = self.replica.transfer(now, target);
        self.drain(now);
        begun
    }

    /// The chosen body that fills `slot`, from memory or (later) from the disk.
    pub fn read(&mut self, slot: Slot) -> ReadAnswer<P::Buffer> {
        let base = self.wal.index().base().slot;
        if self.fenced {
            return ReadAnswer::Fenced;
        }
        if slot < base {
            return ReadAnswer::Trimmed { first: base };
        }
        if slot >= self.replica.mark().slot {
            return ReadAnswer::NotYet;
        }
        // The core may be ahead of the log while appends wait for a segment: then the index still shows a dead body here.
        match self.wal.index().find(slot) {
            Lookup::Here(entry) if entry.chosen.is_some() => match self.bodies.frame(entry.body.id) {
                Some(frame) => ReadAnswer::Frame(frame),
                None => ReadAnswer::Pending(self.read_record(entry, Purpose::Reader)),
            },
            Lookup::Paged(end) => {
                let read = self.new_read();
                self.wait_for_page(end, Errand::Read { read, slot });
                ReadAnswer::Pending(read)
            }
            Lookup::Here(_) | Lookup::Nowhere => ReadAnswer::NotYet,
        }
    }

    /// The chosen prefix up to `slot`, if a body ends there and its record is still held; from memory or (later) from the
    /// disk.
    pub fn mark_at(&mut self, slot: Slot) -> MarkAnswer {
        if self.fenced || slot > self.replica.mark().slot {
            return MarkAnswer::Known(None);
        }
        let known = self.wal.index().mark_at(slot);
        match self.wal.index().page_to_load(slot).filter(|_| known.is_none()) {
            None => MarkAnswer::Known(known),
            Some(end) => {
                let read = self.new_read();
                self.wait_for_page(end, Errand::MarkAt { read, slot });
                MarkAnswer::Pending(read)
            }
        }
    }

    /// Bytes that are appended, or wait to be, and aren't durable.
    pub fn backlog_bytes(&self) -> u64 {
        self.wal.unsynced_bytes() + self.bodies.waiting_bytes()
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output<P::Buffer>> {
        self.outputs.pop_front()
    }

    /// A view for operators and tests.
    pub fn status(&self) -> ReplicaStatus {
        ReplicaStatus {
            protocol: self.replica.status(),
            log: self.wal.stats(),
            base: self.wal.index().base(),
            cached_bytes: self.bodies.cached_bytes(),
            fenced: self.fenced,
            lost: self.healing.lost().copied().collect(),
            damaged_found: self.healing.found,
            healed: self.healing.healed,
            scrub_passes: self.healing.scrub_passes(),
        }
    }

    /// The protocol's part, for checkers.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// The log's part, for checkers.
    pub fn wal(&self) -> &Wal {
        &self.wal
    }

    /// The buffers, for the driver.
    pub fn buffers_mut(&mut self) -> &mut P {
        &mut self.buffers
    }

    /// Whether the log is open and sound, so that messages may be taken and sent.
    pub fn is_ready(&self) -> bool {
        self.ready && !self.fenced
    }

    /// Carries out everything that can be carried out now.
    fn drain(&mut self, now: Instant) {
        loop {
            self.run_errands(now);
            self.unblock(now);
            while let Some(effect) = self.replica.poll_effect() {
                self.take(now, effect);
            }
            self.bodies.drop_arrivals();
            self.note_open(now);
            self.drain_wal();
            if !self.durable_news(now) && !self.paging.has_ended() {
                self.judge_on(now);
                return;
            }
        }
    }

    fn note_open(&mut self, now: Instant) {
        if !self.ready && self.wal.is_open() && self.wal.durable() >= self.wal.appended() {
            self.ready = true;
            self.place_trim(now);
        }
    }

    fn drain_wal(&mut self) {
        self.replica.set_disk_full(self.wal.is_full());
        self.replica.set_disk_reserved(self.wal.is_running_out());
        if self.wal.has_doubts() && !self.replica.is_unsure() && !self.replica.has_doubts() {
            self.wal.settle_doubts(self.replica.mark().slot);
        }
        while let Some(action) = self.wal.poll_action() {
            self.outputs.push_back(match action {
                Action::Write { write, file, offset, bytes } => Output::WriteBytes { write, file, offset, bytes },
                Action::Sync { sync, file } => Output::Sync { sync, file },
                Action::CreateFile { file } => Output::CreateFile { file },
                Action::ZeroFile { file, offset, bytes } => Output::ZeroFile { file, offset, bytes },
            });
        }
    }

    /// Tells the core what became durable; whether there was any.
    fn durable_news(&mut self, now: Instant) -> bool {
        let durable = self.wal.durable();
        let mut last = None;
        while let Some(&(end, id)) = self.planned.front()
            && end <= durable
        {
            last = Some(id);
            self.planned.pop_front();
        }
        if let Some(id) = last {
            self.replica.handle_durable(now, id);
        }
        last.is_some()
    }

    fn unblock(&mut self, now: Instant) {
        self.place_rest_of_trim(now);
        self.append_trim_due(now);
        while let Some(effect) = self.blocked.pop_front() {
            if let Some(effect) = self.carry_out(now, effect) {
                self.blocked.push_front(effect);
                return;
            }
        }
    }

    fn new_read(&mut self) -> ReadId {
        self.reads_count += 1;
        ReadId(self.reads_count)
    }

    fn read_record(&mut self, entry: IndexEntry, purpose: Purpose) -> ReadId {
        let read = self.new_read();
        self.read_record_as(read, entry, purpose);
        read
    }

    fn read_record_as(&mut self, read: ReadId, entry: IndexEntry, purpose: Purpose) {
        let (file, blocks) = (entry.location.file, entry.location.blocks(&entry.body));
        self.outputs.push_back(Output::Read { read, file, offset: blocks.offset, bytes: blocks.bytes });
        self.reads.insert(read, (entry, purpose));
    }

    /// The record buffer of just the body: what was read, but for a packed body, which is copied out of it.
    fn unpack(&mut self, entry: &IndexEntry, blocks: P::Buffer) -> Option<P::Buffer> {
        if !entry.location.is_packed() {
            return Some(blocks);
        }
        let whole = blocks.as_ref().len() >= entry.location.blocks(&entry.body).bytes as usize;
        whole.then(|| {
            let mut record = self.buffers.allocate(record_bytes(entry.body.bytes) as usize);
            entry.location.unpack(&entry.body, blocks.as_ref(), record.as_mut());
            record
        })
    }
}
