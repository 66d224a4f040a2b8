//! The append side of the log, as a value: records in, writes and syncs out; completions in, durable position out.
//!
//! [`Wal`] plans where each record goes and lays its header into the caller's buffer; the caller writes it. Everything
//! else that must reach the disk (segment headers, seals, syncs, new files) comes out of [`Wal::poll_action`], which
//! the caller drains after every call. Completions may come in any order.
//!
//! Invariants:
//! - A record is durable when it and all before it are: [`Wal::durable`] is the end of a contiguous prefix.
//! - A sync covers one file. Nothing in a segment counts as durable before the one in front of it is sealed, and the
//!   seal is durable; a cut in a segment therefore discards the next one whole. At most two segments are unsealed.
//! - A segment is sealed only when its records are durable, for sealing overwrites the table that tells torn blocks.
//! - A header is durable before the first record of its segment is planned. It is written ahead of time, so that
//!   rotation doesn't wait for it.
//! - After recovery nothing is appended, and nothing more is durable, before what was found is synced and a new
//!   segment names durably where the old ones end.
//! - The first failed write or sync poisons the log for ever: a later success of the same sync means nothing.
//!
//! This build keeps one group in a log; the format has room for more.

mod action;
mod flush;
mod install;
mod paging;
mod progress;
mod segments;
mod settings;

use std::collections::VecDeque;

use synod_frame::{BLOCK_BYTES, BODY_HEADER_BYTES, BodyLayout, GroupId, RECORD_HEADER_BYTES};
use synod_protocol::{Ballot, BodyHandle, Mark, NodeId, Slot};

pub use action::{Action, AppendError, LogStats, Planned};
pub use flush::SyncMode;
pub use paging::SealIndex;
pub use settings::{LogSettings, LogSettingsError, POOL_FILES_MIN};

use segments::{Active, Closing, ClosingStage, Complete, Next, first_needed};

use crate::format::{
    CONFIGURATION_BYTES_MAX, Pack, PackContent, RecordHeader, RecordKind, RecordMeta, SealedRecord, Settled,
    StoredConfiguration, block_checksum,
};
use crate::identity::{LogIdentity, LogSalt};
use crate::index::{Index, Insert, Location};
use crate::lsn::{FileId, Lsn, SyncId, WriteId};
use crate::pool::Pool;
use crate::recovery::RecoveredLog;
use crate::segment::{BLOCK, Geometry, record_bytes};

/// A record that was planned and isn't durable yet.
#[derive(Debug)]
struct Pending {
    write: WriteId,
    epoch: u64,
    end: Lsn,
    record_bytes: u32,
    /// Set when the write completed.
    ticket: Option<u64>,
    /// Of a trim: once durable, segments of lower epochs may be written again, and headers tell of its point.
    trim: Option<(u64, Mark)>,
}

/// What a record holds behind its header.
#[derive(Clone, Copy)]
enum Content<'a> {
    Nothing,
    Body(&'a BodyHandle),
    /// Head and bodies, and the bodies with their places in the record.
    Pack {
        pack: PackContent,
        pack_bytes: u32,
        head_bytes: usize,
        bodies: &'a [(BodyHandle, u32)],
    },
}

impl Content<'_> {
    fn bytes(&self) -> u32 {
        match self {
            Content::Nothing => 0,
            Content::Body(body) => body.bytes,
            Content::Pack { pack_bytes, .. } => *pack_bytes,
        }
    }
}

/// What must happen before the first append after recovery.
#[derive(Debug)]
struct Opening {
    /// Files to be synced; with the number of the sync once it is asked for.
    syncs: Vec<(FileId, Option<SyncId>)>,
    /// Where the recovered records end: durable once the syncs are done.
    end: Lsn,
    /// What the new segment follows.
    before: Before,
    /// Records may be missing in front of it.
    before_lost: bool,
}

/// The segment in front of one that is opened after recovery.
#[derive(Clone, Copy, Debug, Default)]
struct Before {
    epoch: u64,
    end: Lsn,
    checksum: u32,
}

/// A log that is open for appending.
#[derive(Debug)]
pub struct Wal {
    identity: LogIdentity,
    salt: LogSalt,
    settings: LogSettings,
    geometry: Geometry,

    group: Option<GroupId>,
    promised: Ballot,
    mark: Mark,
    log_time_us: u64,
    configuration: Option<StoredConfiguration>,
    configurations: Vec<StoredConfiguration>,
    /// The slot of the newest configuration whose body is trimmed: no segment is given up before a durable header
    /// holds a configuration at least as new.
    configuration_trimmed: Option<Slot>,
    index: Index,
    /// The base of the last durable trim. Headers and seals tell of no other: where a delivery state is needed, the trim
    /// that carries it must be in any log that is trimmed there.
    base: Mark,
    /// The first slot after all bodies that were ever in the log.
    slot_end: Slot,
    /// A promise may have been lost, and no record since then says otherwise.
    unsure: bool,
    /// What was lost matters up to here only.
    settled: Settled,
    /// Where that will be once today's doubts are settled.
    settles_at: Lsn,
    /// No record bounds the last loss yet.
    end_open: bool,
    /// From this segment on none is given up: what is damaged there tells a restart what to doubt.
    pinned: Option<u64>,
    /// Chosen bodies whose bytes are lost, until somebody sees to them.
    damaged: Vec<BodyHandle>,
    /// Places found to be damaged when the log was read back.
    damages: u64,
    /// How many segments were missing when the log was opened.
    missing: u32,
    /// Files that hold nothing any more; made anew once a header says durably what was lost with them.
    lost_files: Vec<FileId>,

    opening: Option<Opening>,
    /// Oldest first; all older than `closing`, which is older than `active`, which is older than `next`.
    complete: VecDeque<Complete>,
    closing: Option<Closing>,
    active: Option<Active>,
    next: Option<Next>,
    pool: Pool,
    epoch_next: u64,
    first_needed: u64,

    /// In log order.
    pending: VecDeque<Pending>,
    pending_bytes: u64,
    actions: VecDeque<Action>,
    write_next: u64,
    sync_next: u64,
    durable: Lsn,
    appended: Lsn,
    last_checksum: u32,
    last_kind: Option<RecordKind>,
    poisoned: bool,
    stats: LogStats,
}

impl Wal {
    /// Opens a log for appending to what was recovered. Drain [`Wal::poll_action`] next: appends are answered with
    /// [`AppendError::NoSegment`] until the recovered records are synced and a new segment is open.
    ///
    /// # Panics
    /// If the settings don't pass [`LogSettings::check`], or the segment size isn't that of the recovered log.
    pub fn new(identity: LogIdentity, settings: LogSettings, recovered: RecoveredLog) -> Wal {
        if let Err(error) = settings.check() {
            panic!("settings are checked before a log is opened: {error}");
        }
        let geometry = Geometry::new(settings.segment_bytes).expect("checked");
        assert_eq!(recovered.segment_bytes, settings.segment_bytes, "the segment size never changes");

        let files = recovered.files_count();
        let free = (settings.pool_free_min, settings.pool_spares);
        let mut pool = Pool::new(free, settings.pool_files_max, files, recovered.file_next);
        for file in recovered.clean {
            pool.add_clean(file);
        }
        for file in recovered.dirty {
            pool.add_dirty(file);
        }
        for file in recovered.unfinished {
            pool.add_unfinished(file);
        }
        // The new header says all that records without needed bodies say, so what trails is given up with it, and
        // restarts in a row don't use up a file each.
        let configuration_slot = recovered.configuration.as_ref().map(|configuration| configuration.slot);
        let covered = recovered.configuration_trimmed <= configuration_slot;
        let base = recovered.index.base();
        let trailing = |slot_end: Slot| covered && slot_end <= base.slot;
        let kept = recovered.segments.iter().rposition(|segment| {
            !trailing(segment.slot_end) || recovered.pinned.is_some_and(|pinned| segment.epoch >= pinned)
        });
        let before = kept.map_or_else(Before::default, |index| {
            let segment = &recovered.segments[index];
            Before { epoch: segment.epoch, end: segment.end, checksum: segment.last_checksum }
        });
        let complete = recovered.segments.into_iter().map(|segment| Complete {
            file: segment.file,
            epoch: segment.epoch,
            slot_end: segment.slot_end,
            sealed: segment.sealed,
            log_time_us: segment.log_time_us,
            whole: segment.whole,
            seal_index: segment.seal_index,
        });
        let mut wal = Wal {
            identity,
            salt: identity.expected().salt(),
            settings,
            geometry,
            group: recovered.group,
            promised: recovered.promised,
            mark: recovered.mark,
            log_time_us: recovered.log_time_us,
            configuration: recovered.configuration,
            configurations: recovered.configurations,
            configuration_trimmed: recovered.configuration_trimmed,
            index: recovered.index,
            base,
            slot_end: recovered.slot_end,
            unsure: recovered.unsure,
            settled: recovered.settled,
            settles_at: recovered.settles_at,
            end_open: recovered.end_open,
            pinned: recovered.pinned,
            damages: recovered.damages.len() as u64,
            damaged: recovered.damaged,
            missing: recovered.missing,
            lost_files: recovered.lost_files,
            opening: Some(Opening {
                syncs: recovered.files_to_sync.into_iter().map(|file| (file, None)).collect(),
                end: recovered.end,
                before,
                before_lost: recovered.end_open,
            }),
            complete: complete.collect(),
            closing: None,
            active: None,
            next: None,
            pool,
            epoch_next: recovered.epoch_next,
            first_needed: recovered.first_needed,
            pending: VecDeque::new(),
            pending_bytes: 0,
            actions: VecDeque::new(),
            write_next: 1,
            sync_next: 1,
            durable: recovered.proven,
            appended: recovered.end,
            last_checksum: before.checksum,
            last_kind: None,
            poisoned: false,
            stats: LogStats::default(),
        };
        wal.page_out();
        wal
    }

    /// Plans one record and lays its header into the first 256 bytes of `record`, whose body, if the kind has one, is
    /// in place behind them, padded with zeros. A record without a body takes one block.
    ///
    /// The index takes up an accepted or chosen body at once, before it is durable. Trims go through [`Wal::trim`].
    ///
    /// # Errors
    /// See [`AppendError`]; nothing is planned then, and `record` is as it was.
    ///
    /// # Panics
    /// If `record` is shorter than the record, or body and kind don't fit together: bugs of the caller.
    pub fn append(
        &mut self,
        meta: &RecordMeta,
        body: Option<&BodyHandle>,
        record: &mut [u8],
    ) -> Result<Planned, AppendError> {
        assert_ne!(meta.kind, RecordKind::Trim, "a trim is appended by Wal::trim");
        assert_eq!(body.is_some(), meta.kind.has_body(), "{:?} records and bodies", meta.kind);
        self.plan(meta, body.map_or(Content::Nothing, Content::Body), record, None)
    }

    /// Plans a record of several chosen bodies, and lays its header into the pack, whose [`Pack::record`] is then to be
    /// written. The index takes up the bodies at once.
    ///
    /// # Errors
    /// See [`AppendError`]; nothing is planned then. After a conflict the log should be given up: the bodies in front
    /// of the one that conflicts may be in the index.
    ///
    /// # Panics
    /// If `meta` is of another kind: a bug of the caller.
    pub fn append_pack(&mut self, meta: &RecordMeta, pack: &mut Pack) -> Result<Planned, AppendError> {
        assert_eq!(meta.kind, RecordKind::Pack, "packs are appended as packs");
        let content = Content::Pack {
            pack: pack.content(),
            pack_bytes: pack.pack_bytes,
            head_bytes: pack.head_bytes,
            bodies: &pack.bodies,
        };
        self.plan(meta, content, pack.record.as_mut(), None)
    }

    /// Plans a record that says that everything below `base` is trimmed, and forgets those bodies. Segments that hold
    /// nothing else go back to the pool once the record is durable. `record` is one block; `promised` and `mark` are
    /// those of the moment.
    ///
    /// The caller has the agreement of the cluster that nothing below `base` is needed; `base` is a mark of its own
    /// chosen prefix.
    ///
    /// # Errors
    /// See [`AppendError`]; nothing is planned then.
    pub fn trim(
        &mut self,
        base: Mark,
        record: &mut [u8],
        promised: Ballot,
        mark: Mark,
    ) -> Result<Planned, AppendError> {
        let Some(group) = self.group else {
            // A log that never saw its group has nothing to trim, and nothing to say it with.
            return Err(AppendError::NoSegment);
        };
        let meta = RecordMeta {
            kind: RecordKind::Trim,
            group,
            source: NodeId(0),
            ballot: Ballot::ZERO,
            promised,
            mark,
            log_time_us: self.log_time_us,
            unsure: self.unsure,
        };
        self.plan(&meta, Content::Nothing, record, Some(base))
    }

    fn plan(
        &mut self,
        meta: &RecordMeta,
        content: Content<'_>,
        record: &mut [u8],
        trim: Option<Mark>,
    ) -> Result<Planned, AppendError> {
        if self.poisoned {
            return Err(AppendError::Poisoned);
        }
        let bytes = record_bytes(content.bytes());
        let max = self.geometry.record_bytes_max();
        if u64::from(bytes) > max {
            return Err(AppendError::TooLarge { record_bytes: bytes, max });
        }
        let record = &mut record[..bytes as usize];
        let expected = *self.group.get_or_insert(meta.group);
        if expected != meta.group {
            return Err(AppendError::OtherGroup { expected, found: meta.group });
        }
        self.admit(meta.kind, bytes)?;
        let active = self.active.as_ref().expect("admitted");
        let location = Location::alone(active.file, active.offset, bytes);
        match content {
            Content::Nothing => record[RECORD_HEADER_BYTES..].fill(0),
            Content::Body(body) => self.take_up(meta, *body, location)?,
            Content::Pack { bodies, .. } => {
                for (body, body_offset) in bodies {
                    self.take_up(meta, *body, Location { body_offset: *body_offset, ..location })?;
                }
            }
        }
        if let Some(base) = trim {
            self.forget_below(base);
        }
        let trim = trim.map(|base| (self.first_needed_now(), base));
        Ok(self.lay_out(meta, content, record, trim))
    }

    /// Finds room for a record, rotating if need be.
    fn admit(&mut self, kind: RecordKind, record_bytes: u32) -> Result<(), AppendError> {
        if self.has_room(kind, record_bytes) {
            return Ok(());
        }
        // Two unsealed segments at most: behind a third one nothing could become durable.
        let can_rotate = self.closing.is_none() && self.next.as_ref().is_some_and(Next::is_durable);
        if self.active.is_some() && can_rotate {
            self.rotate();
            if self.has_room(kind, record_bytes) {
                return Ok(());
            }
        }
        self.stats.rotation_waits += 1;
        Err(AppendError::NoSegment)
    }

    fn has_room(&self, kind: RecordKind, record_bytes: u32) -> bool {
        let Some(active) = &self.active else { return false };
        // Without a segment ahead the last blocks are for what makes room or keeps the cluster safe: a log full of
        // bodies could otherwise never be trimmed.
        let reserved = match kind {
            _ if self.next.as_ref().is_some_and(Next::is_durable) => 0,
            RecordKind::Trim => 0,
            RecordKind::Promise => 1,
            _ => 2,
        };
        let bytes = u64::from(record_bytes) + reserved as u64 * BLOCK;
        self.geometry.fits(active.offset, active.records.len() + reserved, bytes)
    }

    fn rotate(&mut self) {
        let next = self.next.take().expect("rotation needs a segment ahead");
        let segment = self.active.replace(Active::new(next, self.geometry)).expect("rotation leaves a segment");
        assert!(self.closing.is_none(), "at most two segments are unsealed");
        self.stats.rotations += 1;
        self.closing = Some(Closing { segment, last_checksum: self.last_checksum, stage: ClosingStage::Draining });
        self.advance();
    }

    fn take_up(&mut self, meta: &RecordMeta, body: BodyHandle, location: Location) -> Result<(), AppendError> {
        let inserted = match meta.kind {
            RecordKind::Accepted => self.index.insert_accepted(body, meta.ballot, location),
            kind if kind.is_chosen() => self.index.insert_chosen(body, location),
            _ => return Ok(()),
        };
        match inserted {
            Insert::Kept | Insert::Dead => Ok(()),
            Insert::Conflict(other) => Err(AppendError::Conflict(other)),
        }
    }

    fn forget_below(&mut self, base: Mark) {
        let newest = self.index.trim_to(base);
        self.configuration_trimmed = self.configuration_trimmed.max(newest);
    }

    /// The first epoch that is needed, given what the active segment's header holds.
    fn first_needed_now(&self) -> u64 {
        let header = self.active.as_ref().and_then(|active| active.configuration);
        if self.configuration_trimmed > header {
            return self.first_needed;
        }
        let first = first_needed(&self.complete, self.index.base().slot, self.first_needed, self.first_incomplete());
        self.unless_pinned(first)
    }

    /// Keeps the segments that tell what to doubt.
    fn unless_pinned(&self, first_needed: u64) -> u64 {
        self.pinned.map_or(first_needed, |pinned| first_needed.min(pinned.max(self.first_needed)))
    }

    fn first_incomplete(&self) -> u64 {
        let closing = self.closing.as_ref().map(|closing| closing.segment.epoch);
        let active = self.active.as_ref().map(|active| active.epoch);
        closing.or(active).unwrap_or(self.epoch_next)
    }

    fn lay_out(
        &mut self,
        meta: &RecordMeta,
        content: Content<'_>,
        record: &mut [u8],
        trim: Option<(u64, Mark)>,
    ) -> Planned {
        self.promised = self.promised.max(meta.promised).max(meta.ballot);
        self.log_time_us = self.log_time_us.max(meta.log_time_us);
        if meta.mark.slot > self.mark.slot {
            self.mark = meta.mark;
        }
        self.unsure = meta.unsure;
        let bounds_loss = !meta.unsure && self.end_open;
        self.end_open &= meta.unsure;
        let end = match content {
            Content::Body(body) if meta.kind.fills_slots() => body.end(),
            Content::Pack { pack, .. } => pack.end,
            _ => Slot(0),
        };
        self.slot_end = self.slot_end.max(end);
        let active = self.active.as_mut().expect("admitted");
        let offset = active.offset;
        let lsn = Lsn::new(active.epoch, self.geometry.segment_bytes(), offset);
        if bounds_loss {
            self.settles_at = lsn;
        }
        let record_bytes = record.len() as u32;
        let header = RecordHeader {
            meta: *meta,
            lsn,
            epoch: active.epoch,
            checksum: 0,
            previous_checksum: self.last_checksum,
            record_bytes,
            body_bytes: content.bytes(),
            durable: self.durable,
            base: self.index.base(),
            first_needed: trim.map_or(self.first_needed, |(first_needed, _)| first_needed),
            configuration: self.configuration.as_ref().map_or(Slot(0), |configuration| configuration.slot),
            slot_end: self.slot_end,
            settled: self.settled,
        };
        let (head_bytes, table_offset) = match content {
            Content::Nothing => (0, RECORD_HEADER_BYTES),
            Content::Body(_) => {
                let layout = BodyLayout::peek(&record[RECORD_HEADER_BYTES..]).expect("the caller's body is valid");
                assert_eq!(layout.body_bytes, header.body_bytes, "the body in the buffer is the one of the handle");
                (layout.header_bytes as usize, RECORD_HEADER_BYTES + BODY_HEADER_BYTES)
            }
            Content::Pack { head_bytes, .. } => (head_bytes, block_checksum(0)),
        };
        let checksum = header.encode(self.salt, head_bytes, record);
        // Block 0 is hot from the line above and the only one that isn't covered whole by the table of body or pack.
        let first_block = crc32fast::hash(&record[..BLOCK_BYTES]);
        let others = record.len() / BLOCK_BYTES - 1;
        let table = &record[table_offset + 4..][..others * 4];
        let (entries, _) = table.as_chunks::<4>();
        let others = entries.iter().map(|entry| u32::from_le_bytes(*entry));
        let sealed = SealedRecord {
            offset: offset as u32,
            record_bytes,
            checksum,
            kind: meta.kind,
            group: meta.group,
            ballot: meta.ballot,
            body: match content {
                Content::Body(body) => Some(*body),
                _ => None,
            },
            pack: match content {
                Content::Pack { pack, .. } => Some(pack),
                _ => None,
            },
        };
        active.push(sealed, std::iter::once(first_block).chain(others));
        let (file, epoch) = (active.file, active.epoch);

        let write = self.new_write();
        let end = header.end();
        self.pending.push_back(Pending { write, epoch, end, record_bytes, ticket: None, trim });
        self.pending_bytes += u64::from(record_bytes);
        self.appended = end;
        self.last_checksum = checksum;
        self.last_kind = Some(meta.kind);
        self.stats.records_appended += 1;
        self.stats.bytes_appended += u64::from(record_bytes);
        Planned { write, file, offset, record_bytes, lsn, end }
    }

    fn new_write(&mut self) -> WriteId {
        let write = WriteId(self.write_next);
        self.write_next += 1;
        write
    }

    /// The configuration that rules from now on; headers keep it, so that it survives the trim of its slot. The caller
    /// says so when the configuration is delivered, before it trims past it.
    ///
    /// # Panics
    /// If the body is longer than [`CONFIGURATION_BYTES_MAX`], which no valid configuration is.
    pub fn set_configuration(&mut self, configuration: StoredConfiguration) {
        assert!(configuration.body.len() <= CONFIGURATION_BYTES_MAX, "a configuration is short");
        self.configuration = Some(configuration);
    }

    /// Nothing that was lost matters to a vote any more, as long as what is chosen is known: what is damaged may be given up
    /// like anything else, and the records from here on say so, or a restart would doubt it all again.
    ///
    /// `mark` is the end of the chosen prefix: all doubts ended below it.
    pub fn settle_doubts(&mut self, mark: Slot) {
        self.pinned = None;
        self.settled = self.settled.max(Settled { before: self.settles_at, slot: mark });
        // Makes a mark due.
        self.last_kind = Some(RecordKind::Trim);
    }

    /// Hands over the chosen bodies that recovery found to be damaged, and how many places are.
    pub(crate) fn take_damaged(&mut self) -> (Vec<BodyHandle>, u64) {
        (std::mem::take(&mut self.damaged), self.damages)
    }

    /// Whether damaged segments are kept, because a restart must doubt what they may have held, and a record bounds all of
    /// that: then the doubts can be settled.
    pub fn has_doubts(&self) -> bool {
        self.pinned.is_some() && !self.end_open
    }

    /// Whether a promise may have been lost, as far as the log says.
    pub fn is_unsure(&self) -> bool {
        self.unsure
    }

    /// Stops the log for ever, after a failed write or sync: what is on disk is unknown from here on.
    pub fn poison(&mut self) {
        self.poisoned = true;
        self.actions.clear();
    }

    /// Whether [`Wal::poison`] was called.
    pub fn is_poisoned(&self) -> bool {
        self.poisoned
    }

    /// Everything before this position is durable. Until this reaches [`Wal::appended`] for the first time, what was
    /// recovered isn't yet, and no message that rests on it may leave.
    pub fn durable(&self) -> Lsn {
        self.durable
    }

    /// Where the last planned record ends.
    pub fn appended(&self) -> Lsn {
        self.appended
    }

    /// Bytes of planned records that aren't durable yet.
    pub fn unsynced_bytes(&self) -> u64 {
        self.pending_bytes
    }

    /// Whether a segment is open: from here on `NoSegment` means that the log is short of room or busy.
    pub fn is_open(&self) -> bool {
        self.active.is_some()
    }

    /// Whether no file is left or can be made behind the segment after this one. Then only what makes room or keeps
    /// the cluster going should be appended (promises, trims, no-ops, bodies of earlier ballots), until a trim.
    pub fn is_full(&self) -> bool {
        self.pool.is_exhausted() && self.opening.is_none()
    }

    /// Whether the log is full, and only a quarter of its last segment is left.
    pub fn is_running_out(&self) -> bool {
        let used = self.active.as_ref().map_or(0, |active| active.offset);
        self.is_full() && self.next.is_none() && used > self.geometry.segment_bytes() / 4 * 3
    }

    /// Whether the log is idle and the last record doesn't say yet that all before it is durable: then a record of
    /// kind [`RecordKind::Mark`] lets a later recovery tell damage from a torn tail without doubt.
    pub fn mark_due(&self) -> bool {
        let unmarked = self.last_kind.is_some_and(|kind| kind != RecordKind::Mark);
        unmarked && self.pending.is_empty() && !self.poisoned
    }

    /// The log's own time at its end, in microseconds: the highest of all records.
    pub fn log_time_us(&self) -> u64 {
        self.log_time_us
    }

    /// Up to where to trim so that at most `bytes_max` bytes of segments are left, and none of which all records were made
    /// before `made_after_us` (the log's own time in microseconds); but not above `limit`. Only whole segments are
    /// given up, so there is nothing to be gained by a trim anywhere else. None if nothing is.
    pub fn trim_point(&self, bytes_max: u64, made_after_us: u64, limit: Slot) -> Option<Slot> {
        let base = self.index.base().slot;
        let mut live_bytes = self.stats().live_bytes;
        let mut upto = base;
        for segment in &self.complete {
            let is_surplus = live_bytes > bytes_max || segment.log_time_us < made_after_us;
            if !is_surplus || segment.slot_end > limit {
                break;
            }
            live_bytes -= self.geometry.segment_bytes();
            upto = upto.max(segment.slot_end);
        }
        (upto > base).then_some(upto)
    }

    /// Segments of a lower epoch aren't needed any more, durably.
    pub fn first_needed(&self) -> u64 {
        self.first_needed
    }

    /// The identity that the log is written under.
    pub fn identity(&self) -> &LogIdentity {
        &self.identity
    }

    /// The settings it was opened with.
    pub fn settings(&self) -> &LogSettings {
        &self.settings
    }

    /// Figures.
    pub fn stats(&self) -> LogStats {
        let open = [self.closing.is_some(), self.active.is_some(), self.next.is_some()];
        let segments_live = self.complete.len() + open.into_iter().filter(|open| *open).count();
        LogStats {
            segments_live,
            live_bytes: segments_live as u64 * self.geometry.segment_bytes(),
            unsynced_bytes: self.pending_bytes,
            files_clean: self.pool.clean_count(),
            files_dirty: self.pool.dirty_count(),
            files: self.pool.files_count(),
            bodies: self.index.len(),
            index_entries: self.index.in_memory(),
            index_pages: self.index.pages(),
            ..self.stats
        }
    }
}
