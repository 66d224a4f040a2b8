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

mod flush;
mod segments;

use std::collections::VecDeque;

use synod_frame::{BLOCK_BYTES, BODY_HEADER_BYTES, BodyLayout, GroupId, RECORD_HEADER_BYTES};
use synod_protocol::{Ballot, BodyHandle, BodyKind, Mark, NodeId, Slot};
use thiserror::Error;

pub use flush::SyncMode;
use flush::Flush;
use segments::{Active, Closing, ClosingStage, Complete, Next, first_needed};

use crate::format::{
    CONFIGURATION_BYTES_MAX, Footer, GroupState, RecordHeader, RecordKind, RecordMeta, SealedRecord, SegmentHeader,
    StoredConfiguration,
};
use crate::identity::{LogIdentity, LogSalt};
use crate::index::{Index, Insert, Location};
use crate::lsn::{FileId, Lsn, SyncId, WriteId};
use crate::pool::{CleanFile, Pool, PoolWork};
use crate::recovery::RecoveredLog;
use crate::segment::{BLOCK, Geometry, SEGMENT_BYTES_DEFAULT, SEGMENT_BYTES_RANGE, record_bytes};

/// Fewest files a log can run on: one that takes records, one ahead, one being sealed, one to be trimmed.
pub const POOL_FILES_MIN: u32 = 4;

/// What a node may choose for a log, except the segment size, which is fixed when the directory is initialised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// Length of every file; a power of two, 64 KiB to 1 GiB. Default 64 MiB.
    pub segment_bytes: u64,
    /// How writes become durable. Default fdatasync.
    pub sync: SyncMode,
    /// A file is created or zeroed when fewer than this many are ready. Default 2.
    pub pool_free_min: u32,
    /// The log makes no more files than this, but for one each time that it couldn't be opened otherwise; at least
    /// [`POOL_FILES_MIN`]. Default 1,024.
    pub pool_files_max: u32,
}

impl Default for LogSettings {
    fn default() -> LogSettings {
        LogSettings {
            segment_bytes: SEGMENT_BYTES_DEFAULT,
            sync: SyncMode::default(),
            pool_free_min: 2,
            pool_files_max: 1024,
        }
    }
}

/// Why settings are refused.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum LogSettingsError {
    /// A segment size that no log has.
    #[error(
        "segment_bytes must be a power of two from {} to {}, not {found}",
        SEGMENT_BYTES_RANGE.start(),
        SEGMENT_BYTES_RANGE.end()
    )]
    SegmentBytes {
        /// As given.
        found: u64,
    },
    /// Too few files to go on after a trim.
    #[error("pool_files_max must be at least {POOL_FILES_MIN}, not {0}")]
    FilesMax(u32),
    /// Without a file ahead the log would stop at every rotation.
    #[error("pool_free_min must be 1 to {max}, not {found}")]
    FreeMin {
        /// As given.
        found: u32,
        /// `pool_files_max` without the files that are always in use.
        max: u32,
    },
}

impl LogSettings {
    /// Checks every field.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check(&self) -> Result<(), LogSettingsError> {
        if Geometry::new(self.segment_bytes).is_none() {
            return Err(LogSettingsError::SegmentBytes { found: self.segment_bytes });
        }
        if self.pool_files_max < POOL_FILES_MIN {
            return Err(LogSettingsError::FilesMax(self.pool_files_max));
        }
        let max = self.pool_files_max - POOL_FILES_MIN + 1;
        if !(1..=max).contains(&self.pool_free_min) {
            return Err(LogSettingsError::FreeMin { found: self.pool_free_min, max });
        }
        Ok(())
    }
}

/// Where a record goes. The caller writes the first `record_bytes` of its buffer at `offset` of `file`, then calls
/// [`Wal::handle_written`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// The write's number.
    pub write: WriteId,
    /// The file.
    pub file: FileId,
    /// Where in the file; a multiple of 4096.
    pub offset: u64,
    /// How much to write; a multiple of 4096.
    pub record_bytes: u32,
    /// Where the record begins in the log.
    pub lsn: Lsn,
    /// Where it ends: the record is durable when [`Wal::durable`] reaches this.
    pub end: Lsn,
}

/// Why a record can't be appended.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum AppendError {
    /// There is no room at the moment. Keep the record, and try again after the next `handle_written`,
    /// `handle_synced`, `handle_file_ready` or `trim`. Promises and trims still find room when bodies don't.
    #[error("no segment has room for the record at the moment")]
    NoSegment,
    /// A write or sync failed. Stop the node; start again from the disk.
    #[error("the log is poisoned by a failed write or sync")]
    Poisoned,
    /// No segment of this log can ever hold it: the segments are too small for this body.
    #[error("a record of {record_bytes} bytes doesn't fit into a segment, which has room for {max}")]
    TooLarge {
        /// Length of the record.
        record_bytes: u32,
        /// Room in an empty segment.
        max: u64,
    },
    /// The log belongs to another group.
    #[error("this log keeps {expected}, not {found}")]
    OtherGroup {
        /// The group of the log.
        expected: GroupId,
        /// The group of the record.
        found: GroupId,
    },
    /// The log holds a body that contradicts this one: the same ballot, or both chosen. Written down, it would keep
    /// the log from ever being opened again.
    #[error("the log holds another body at slot {} that contradicts this one", .0.first)]
    Conflict(BodyHandle),
}

/// What the log asks of its driver. Actions may be carried out in any order and at the same time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write `bytes` at `offset` of `file`, then call [`Wal::handle_written`].
    Write {
        /// The write's number.
        write: WriteId,
        /// The file.
        file: FileId,
        /// Where in the file; a multiple of 4096.
        offset: u64,
        /// What to write; a multiple of 4096 bytes long, at most 1 MiB.
        bytes: Vec<u8>,
    },
    /// Make everything durable whose write to `file` has completed, then call [`Wal::handle_synced`].
    Sync {
        /// The sync's number.
        sync: SyncId,
        /// The file.
        file: FileId,
    },
    /// Make the file if there is none, write zeros over all of its `segment_bytes`, sync it and its directory, then
    /// call [`Wal::handle_file_ready`]; if it can't be done, [`Wal::handle_file_failed`].
    CreateFile {
        /// The file.
        file: FileId,
    },
    /// Write zeros from `offset` to the end of the file, `bytes` in all, sync it, then call
    /// [`Wal::handle_file_ready`]. Block 0 must stay as it is: it says that the file holds nothing of use, also if
    /// zeroing is interrupted.
    ZeroFile {
        /// The file.
        file: FileId,
        /// Where zeros begin.
        offset: u64,
        /// How many.
        bytes: u64,
    },
}

/// Figures of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Segments that hold records or will next.
    pub segments_live: usize,
    /// Files ready for use.
    pub files_clean: usize,
    /// Files that must be zeroed first, or are being zeroed or created.
    pub files_dirty: usize,
    /// All files.
    pub files: usize,
    /// Records appended since the log was opened.
    pub records_appended: u64,
    /// Their bytes on disk, headers and padding included.
    pub bytes_appended: u64,
    /// Syncs asked for since the log was opened.
    pub syncs: u64,
    /// Segments sealed since the log was opened.
    pub segments_sealed: u64,
    /// Bodies in the index.
    pub bodies: usize,
    /// Completed writes that were durable by themselves, and completed syncs, since the log was opened.
    pub durable_writes: u64,
    /// Length of the segments that hold records or will next.
    pub live_bytes: u64,
    /// Bytes of planned records that aren't durable yet.
    pub unsynced_bytes: u64,
}

/// A record that was planned and isn't durable yet.
#[derive(Debug)]
struct Pending {
    write: WriteId,
    epoch: u64,
    end: Lsn,
    record_bytes: u32,
    /// Set when the write completed.
    ticket: Option<u64>,
    /// Once durable, segments of lower epochs may be written again.
    first_needed: Option<u64>,
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
    /// The slot of the newest configuration whose body is trimmed: no segment is given up before a durable header
    /// holds a configuration at least as new.
    configuration_trimmed: Option<Slot>,
    index: Index,

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
        let mut pool = Pool::new(settings.pool_free_min, settings.pool_files_max, files, recovered.file_next);
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
        let kept = recovered.segments.iter().rposition(|segment| !trailing(segment.slot_end));
        let before = kept.map_or_else(Before::default, |index| {
            let segment = &recovered.segments[index];
            Before { epoch: segment.epoch, end: segment.end, checksum: segment.last_checksum }
        });
        let complete = recovered.segments.iter().map(|segment| Complete {
            file: segment.file,
            epoch: segment.epoch,
            slot_end: segment.slot_end,
            sealed: segment.sealed,
        });
        Wal {
            identity,
            salt: identity.expected().salt(),
            settings,
            geometry,
            group: recovered.group,
            promised: recovered.promised,
            mark: recovered.mark,
            log_time_us: recovered.log_time_us,
            configuration: recovered.configuration,
            configuration_trimmed: recovered.configuration_trimmed,
            index: recovered.index,
            opening: Some(Opening {
                syncs: recovered.files_to_sync.into_iter().map(|file| (file, None)).collect(),
                end: recovered.end,
                before,
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
        }
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
        self.plan(meta, body, record, None)
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
        };
        self.plan(&meta, None, record, Some(base))
    }

    fn plan(
        &mut self,
        meta: &RecordMeta,
        body: Option<&BodyHandle>,
        record: &mut [u8],
        trim: Option<Mark>,
    ) -> Result<Planned, AppendError> {
        assert_eq!(body.is_some(), meta.kind.has_body(), "{:?} records and bodies", meta.kind);
        if self.poisoned {
            return Err(AppendError::Poisoned);
        }
        let body_bytes = body.map_or(0, |body| body.bytes);
        let bytes = record_bytes(body_bytes);
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
        let location = Location { file: active.file, offset: active.offset, record_bytes: bytes };
        if let Some(body) = body {
            self.take_up(meta, *body, location)?;
        } else {
            record[RECORD_HEADER_BYTES..].fill(0);
        }
        if let Some(base) = trim {
            self.forget_below(base);
        }
        let freed = trim.map(|_| self.first_needed_now());
        Ok(self.lay_out(meta, body, record, freed))
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
        self.closing = Some(Closing { segment, last_checksum: self.last_checksum, stage: ClosingStage::Draining });
        self.advance();
    }

    fn take_up(&mut self, meta: &RecordMeta, body: BodyHandle, location: Location) -> Result<(), AppendError> {
        let inserted = match meta.kind {
            RecordKind::Accepted => self.index.insert_accepted(body, meta.ballot, location),
            RecordKind::Chosen | RecordKind::Copied | RecordKind::Healed => self.index.insert_chosen(body, location),
            _ => return Ok(()),
        };
        match inserted {
            Insert::Kept | Insert::Dead => Ok(()),
            Insert::Conflict(other) => Err(AppendError::Conflict(other)),
        }
    }

    fn forget_below(&mut self, base: Mark) {
        let trimmed = self.index.iter_from(Slot(0)).take_while(|entry| entry.body.end() <= base.slot);
        let configurations = trimmed.filter(|entry| entry.body.kind == BodyKind::Configuration);
        let newest = configurations.map(|entry| entry.body.first).max();
        self.configuration_trimmed = self.configuration_trimmed.max(newest);
        self.index.trim_to(base);
    }

    /// The first epoch that is needed, given what the active segment's header holds.
    fn first_needed_now(&self) -> u64 {
        let header = self.active.as_ref().and_then(|active| active.configuration);
        if self.configuration_trimmed > header {
            return self.first_needed;
        }
        first_needed(&self.complete, self.index.base().slot, self.first_needed, self.first_incomplete())
    }

    fn first_incomplete(&self) -> u64 {
        let closing = self.closing.as_ref().map(|closing| closing.segment.epoch);
        let active = self.active.as_ref().map(|active| active.epoch);
        closing.or(active).unwrap_or(self.epoch_next)
    }

    fn lay_out(
        &mut self,
        meta: &RecordMeta,
        body: Option<&BodyHandle>,
        record: &mut [u8],
        first_needed: Option<u64>,
    ) -> Planned {
        self.promised = self.promised.max(meta.promised).max(meta.ballot);
        self.log_time_us = self.log_time_us.max(meta.log_time_us);
        if meta.mark.slot > self.mark.slot {
            self.mark = meta.mark;
        }
        let active = self.active.as_mut().expect("admitted");
        let offset = active.offset;
        let lsn = Lsn::new(active.epoch, self.geometry.segment_bytes(), offset);
        let record_bytes = record.len() as u32;
        let header = RecordHeader {
            meta: *meta,
            lsn,
            epoch: active.epoch,
            checksum: 0,
            previous_checksum: self.last_checksum,
            record_bytes,
            body_bytes: body.map_or(0, |body| body.bytes),
            durable: self.durable,
            base: self.index.base(),
            first_needed: first_needed.unwrap_or(self.first_needed),
            configuration: self.configuration.as_ref().map_or(Slot(0), |configuration| configuration.slot),
        };
        let body_head_bytes = match body {
            Some(_) => {
                let layout = BodyLayout::peek(&record[RECORD_HEADER_BYTES..]).expect("the caller's body is valid");
                assert_eq!(layout.body_bytes, header.body_bytes, "the body in the buffer is the one of the handle");
                layout.header_bytes as usize
            }
            None => 0,
        };
        let checksum = header.encode(self.salt, body_head_bytes, record);
        // Block 0 is hot from the line above and the only one that isn't covered by the body's own table.
        let first_block = crc32fast::hash(&record[..BLOCK_BYTES]);
        let others = record.len() / BLOCK_BYTES - 1;
        let table = &record[RECORD_HEADER_BYTES + BODY_HEADER_BYTES + 4..][..others * 4];
        let (entries, _) = table.as_chunks::<4>();
        let others = entries.iter().map(|entry| u32::from_le_bytes(*entry));
        let sealed = SealedRecord {
            offset: offset as u32,
            record_bytes,
            checksum,
            kind: meta.kind,
            group: meta.group,
            ballot: meta.ballot,
            body: body.copied(),
        };
        active.push(sealed, std::iter::once(first_block).chain(others));
        let (file, epoch) = (active.file, active.epoch);

        let write = self.new_write();
        let end = header.end();
        self.pending.push_back(Pending { write, epoch, end, record_bytes, ticket: None, first_needed });
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

    /// The next thing to do, until there is none.
    pub fn poll_action(&mut self) -> Option<Action> {
        if self.poisoned {
            return None;
        }
        self.advance();
        self.actions.pop_front().or_else(|| self.poll_sync()).or_else(|| self.poll_pool())
    }

    fn poll_sync(&mut self) -> Option<Action> {
        let sync = SyncId(self.sync_next);
        let file = if let Some(opening) = &mut self.opening {
            let (file, asked) = opening.syncs.iter_mut().find(|(_, asked)| asked.is_none())?;
            *asked = Some(sync);
            *file
        } else {
            let (file, flush) = self.flushes().find(|(_, flush)| flush.wants_sync())?;
            flush.start(sync);
            file
        };
        self.sync_next += 1;
        self.stats.syncs += 1;
        Some(Action::Sync { sync, file })
    }

    fn poll_pool(&mut self) -> Option<Action> {
        // What says that a file holds nothing of use may itself not be durable yet: leave it alone until it is.
        if self.opening.as_ref().is_some_and(|opening| !opening.syncs.is_empty()) {
            return None;
        }
        let work = self.pool.poll(self.opening.is_some())?;
        Some(match work {
            PoolWork::Create(file) => Action::CreateFile { file },
            PoolWork::Zero(file) => {
                Action::ZeroFile { file, offset: BLOCK, bytes: self.geometry.segment_bytes() - BLOCK }
            }
        })
    }

    /// The files being written, oldest first: what waits for the oldest waits for all.
    fn flushes(&mut self) -> impl Iterator<Item = (FileId, &mut Flush)> {
        let closing = self.closing.iter_mut().map(|closing| (closing.segment.file, &mut closing.segment.flush));
        let active = self.active.iter_mut().map(|active| (active.file, &mut active.flush));
        let next = self.next.iter_mut().map(|next| (next.file, &mut next.flush));
        closing.chain(active).chain(next)
    }

    /// A write completed with success.
    ///
    /// # Panics
    /// If it isn't in flight: a bug of the caller.
    pub fn handle_written(&mut self, write: WriteId) {
        if self.poisoned {
            return;
        }
        let known = self.complete_record(write) || self.complete_header(write) || self.complete_seal(write);
        assert!(known, "write {write:?} isn't in flight");
        self.stats.durable_writes += u64::from(self.settings.sync == SyncMode::Dsync);
        self.advance();
    }

    fn complete_record(&mut self, write: WriteId) -> bool {
        let Ok(index) = self.pending.binary_search_by_key(&write, |pending| pending.write) else { return false };
        let pending = &mut self.pending[index];
        if pending.ticket.is_some() {
            return false;
        }
        let closing = self.closing.as_mut().map(|closing| &mut closing.segment);
        let mut segments = closing.into_iter().chain(self.active.as_mut());
        let segment = segments.find(|segment| segment.epoch == pending.epoch).expect("its segment isn't sealed");
        pending.ticket = Some(segment.flush.complete(self.settings.sync));
        true
    }

    fn complete_header(&mut self, write: WriteId) -> bool {
        let header = self.next.as_mut().filter(|next| next.header_write == write && next.header_ticket.is_none());
        let Some(next) = header else { return false };
        next.header_ticket = Some(next.flush.complete(self.settings.sync));
        true
    }

    fn complete_seal(&mut self, write: WriteId) -> bool {
        let Some(closing) = &mut self.closing else { return false };
        let ClosingStage::Sealing { writes, ticket } = &mut closing.stage else { return false };
        let Some(index) = writes.iter().position(|other| *other == write) else { return false };
        writes.swap_remove(index);
        *ticket = closing.segment.flush.complete(self.settings.sync);
        true
    }

    /// A sync completed with success.
    ///
    /// # Panics
    /// If it isn't in flight: a bug of the caller.
    pub fn handle_synced(&mut self, sync: SyncId) {
        if self.poisoned {
            return;
        }
        let known = match &mut self.opening {
            Some(opening) => {
                let index = opening.syncs.iter().position(|(_, asked)| *asked == Some(sync));
                index.map(|index| opening.syncs.remove(index)).is_some()
            }
            None => self.flushes().any(|(_, flush)| flush.finish(sync)),
        };
        assert!(known, "sync {sync:?} isn't in flight");
        self.stats.durable_writes += 1;
        self.advance();
    }

    /// A file was created or zeroed, and is durable.
    ///
    /// # Panics
    /// If the log didn't ask for it: a bug of the caller.
    pub fn handle_file_ready(&mut self, file: FileId) {
        if self.poisoned {
            return;
        }
        assert!(self.pool.ready(file), "{file} isn't being created or zeroed");
        self.advance();
    }

    /// A file couldn't be created or zeroed, because the disk is full for example. The log goes on with the files that
    /// it has, and asks again after [`Wal::retry`].
    ///
    /// # Panics
    /// If the log didn't ask for it: a bug of the caller.
    pub fn handle_file_failed(&mut self, file: FileId) {
        if self.poisoned {
            return;
        }
        assert!(self.pool.failed(file), "{file} isn't being created or zeroed");
    }

    /// Lets the log ask again for files after [`Wal::handle_file_failed`].
    pub fn retry(&mut self) {
        self.pool.retry();
    }

    /// Moves everything along that the last completions made possible.
    fn advance(&mut self) {
        self.finish_opening();
        loop {
            self.advance_durable();
            if !self.advance_closing() {
                break;
            }
        }
        self.advance_next();
    }

    fn finish_opening(&mut self) {
        let Some(opening) = self.opening.take_if(|opening| opening.syncs.is_empty()) else { return };
        self.durable = opening.end;
        self.prepare_next(Some(opening.before));
        if self.next.is_none() {
            // No file yet: the header is laid out when there is one.
            self.opening = Some(opening);
        }
    }

    fn advance_durable(&mut self) {
        let closing = self.closing.as_ref().map(|closing| (closing.segment.epoch, &closing.segment.flush));
        let active = self.active.as_ref().map(|active| (active.epoch, &active.flush));
        // The oldest unsealed segment: records behind it wait for its seal.
        let Some((epoch, flush)) = closing.or(active) else { return };
        let durable =
            |pending: &&Pending| pending.epoch == epoch && pending.ticket.is_some_and(|ticket| flush.covers(ticket));
        let count = self.pending.iter().take_while(durable).count();
        for _ in 0..count {
            let pending = self.pending.pop_front().expect("counted");
            self.durable = pending.end;
            self.pending_bytes -= u64::from(pending.record_bytes);
            if let Some(first_needed) = pending.first_needed {
                self.release(first_needed);
            }
        }
    }

    /// Whether a segment became complete, so that records behind it may be durable.
    fn advance_closing(&mut self) -> bool {
        let Some(closing) = &self.closing else { return false };
        let epoch = closing.segment.epoch;
        match closing.stage {
            ClosingStage::Draining => {
                if self.pending.front().is_none_or(|pending| pending.epoch != epoch) {
                    self.begin_seal();
                }
                false
            }
            ClosingStage::Sealing { .. } if closing.is_sealed() => {
                let segment = &closing.segment;
                let complete =
                    Complete { file: segment.file, epoch, slot_end: segment.slot_end, sealed: true };
                self.complete.push_back(complete);
                self.closing = None;
                self.stats.segments_sealed += 1;
                true
            }
            ClosingStage::Sealing { .. } => false,
        }
    }

    fn begin_seal(&mut self) {
        let mut closing = self.closing.take().expect("a segment is closing");
        let segment = &closing.segment;
        let footer = Footer {
            records: segment.records.len() as u64,
            bodies: segment.bodies,
            body_bytes: segment.body_bytes,
            slot_first: segment.slot_first,
            slot_end: segment.slot_end,
            index_offset: self.geometry.index_offset(segment.records.len()),
            promised: self.promised,
            mark: self.mark,
            base: self.index.base(),
            first_needed: self.first_needed,
            log_time_us: self.log_time_us,
        };
        let file = segment.file;
        let mut writes = Vec::new();
        for (offset, bytes) in closing.lay_seal(self.geometry, self.salt, footer) {
            let write = self.new_write();
            writes.push(write);
            self.actions.push_back(Action::Write { write, file, offset, bytes });
        }
        closing.stage = ClosingStage::Sealing { writes, ticket: 0 };
        self.closing = Some(closing);
    }

    fn advance_next(&mut self) {
        if let Some(next) = self.next.as_ref().filter(|next| next.is_durable()) {
            let (first_needed, abandoned_after) = (next.first_needed, next.abandoned_after);
            self.release(first_needed);
            if self.active.is_none() {
                self.abandon(abandoned_after);
                let next = self.next.take().expect("just seen");
                self.active = Some(Active::new(next, self.geometry));
            }
        }
        if self.active.is_some() && self.next.is_none() {
            self.prepare_next(None);
        }
    }

    /// Lays out the header of the next segment, if there is a file for it. `before` is what it follows if that can't
    /// say itself where it ends.
    fn prepare_next(&mut self, before: Option<Before>) {
        let Some(clean) = self.pool.take() else { return };
        let epoch = self.epoch_next;
        self.epoch_next += 1;
        let configuration = self.configuration.as_ref().map(|configuration| configuration.slot);
        let first_needed = if self.configuration_trimmed > configuration {
            self.first_needed
        } else {
            let open = match before {
                Some(_) => epoch,
                None => self.first_incomplete(),
            };
            first_needed(&self.complete, self.index.base().slot, self.first_needed, open)
        };
        let active = self.active.as_ref().map_or(0, |active| active.epoch);
        let follows = before.unwrap_or(Before { epoch: active, end: Lsn::ZERO, checksum: 0 });
        let header = SegmentHeader {
            identity: self.identity,
            epoch,
            previous_epoch: clean.previous_epoch,
            before_epoch: follows.epoch,
            before_end: follows.end,
            before_checksum: follows.checksum,
            durable: self.durable,
            first_needed,
            checkpoint: Lsn::ZERO,
            log_time_us: self.log_time_us,
            configuration: self.configuration.clone(),
            groups: self.group_state().into_iter().collect(),
        };
        let bytes = header.encode(self.geometry);
        let header_checksum = crc32fast::hash(&bytes);
        let write = self.new_write();
        self.actions.push_back(Action::Write { write, file: clean.file, offset: 0, bytes });
        self.next = Some(Next {
            file: clean.file,
            epoch,
            header_checksum,
            header_write: write,
            header_ticket: None,
            first_needed,
            abandoned_after: follows.epoch,
            configuration,
            flush: Flush::default(),
        });
    }

    fn group_state(&self) -> Option<GroupState> {
        let state = |group| GroupState { group, promised: self.promised, mark: self.mark, base: self.index.base() };
        self.group.map(state)
    }

    /// Gives the files of all complete segments of lower epochs back to the pool.
    fn release(&mut self, first_needed: u64) {
        self.first_needed = self.first_needed.max(first_needed);
        while let Some(segment) = self.complete.pop_front_if(|segment| segment.epoch < first_needed) {
            self.give_back(segment);
        }
    }

    /// Gives the files of recovered segments of higher epochs back: the first new header, now durable, leaves them out.
    fn abandon(&mut self, after: u64) {
        while let Some(segment) = self.complete.pop_back_if(|segment| segment.epoch > after) {
            self.give_back(segment);
        }
    }

    fn give_back(&mut self, segment: Complete) {
        if segment.sealed {
            self.pool.add_clean(CleanFile { file: segment.file, previous_epoch: segment.epoch });
        } else {
            self.pool.add_dirty(segment.file);
        }
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

    /// Whether the log is idle and the last record doesn't say yet that all before it is durable: then a record of
    /// kind [`RecordKind::Mark`] lets a later recovery tell damage from a torn tail without doubt.
    pub fn mark_due(&self) -> bool {
        let unmarked = self.last_kind.is_some_and(|kind| kind != RecordKind::Mark);
        unmarked && self.pending.is_empty() && !self.poisoned
    }

    /// Where the bodies lie.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Where the bodies lie, to note which are chosen.
    pub fn index_mut(&mut self) -> &mut Index {
        &mut self.index
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
            ..self.stats
        }
    }
}
