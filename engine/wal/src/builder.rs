//! A log written anew from its content, one blocking call after the other: what compaction, repair and import write with.
//!
//! It is the ordinary [`Wal`] on files 1, 2, 3 and so on, driven to the end. Accepted bodies come first, in the order of
//! their ballots, each with a promise that is no higher than that: so no record contradicts one before it. The promise
//! comes next, and then chosen bodies, in slot order, of which small ones are packed; last a mark record, which proves
//! that everything before it was durable. So each record's promise is as high as the ballot of any vote that was cast for
//! what it holds or what lies in front of it, which is what recovery bounds losses by.

use synod_frame::{BLOCK_BYTES, GroupId, RECORD_HEADER_BYTES, RecordBuffer};
use synod_protocol::{Ballot, BodyHandle, Mark, NodeId};
use thiserror::Error;

use crate::directory::FileError;
use crate::format::{PACKED_BODY_BYTES_MAX, PackBuilder, RecordKind, RecordMeta, StoredConfiguration};
use crate::identity::LogIdentity;
use crate::index::Index;
use crate::lsn::{FileId, Lsn};
use crate::recovery::RecoveredLog;
use crate::segment::{Geometry, record_bytes};
use crate::writer::{Action, AppendError, LogSettings, POOL_FILES_MIN, Planned, SyncMode, Wal};

/// The files of a log that is being built, written with blocking calls.
pub trait LogDisk {
    /// Writes into a file.
    ///
    /// # Errors
    /// If it can't be written: give the log up.
    fn write(&mut self, file: FileId, offset: u64, bytes: &[u8]) -> Result<(), FileError>;

    /// Makes all writes to a file durable.
    ///
    /// # Errors
    /// If it can't be synced: give the log up.
    fn sync(&mut self, file: FileId) -> Result<(), FileError>;

    /// Makes a file of zeros, durable with its name.
    ///
    /// # Errors
    /// If it can't be made: give the log up.
    fn create(&mut self, file: FileId) -> Result<(), FileError>;
}

/// Takes everything and keeps nothing: to learn how long a log would be.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoDisk;

impl LogDisk for NoDisk {
    fn write(&mut self, _file: FileId, _offset: u64, _bytes: &[u8]) -> Result<(), FileError> {
        Ok(())
    }

    fn sync(&mut self, _file: FileId) -> Result<(), FileError> {
        Ok(())
    }

    fn create(&mut self, _file: FileId) -> Result<(), FileError> {
        Ok(())
    }
}

/// What holds before the first record of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogStart {
    /// Length of every file.
    pub segment_bytes: u64,
    /// The group whose log it is.
    pub group: GroupId,
    /// The format that a build must read to read it.
    pub format: u16,
    /// Everything below is trimmed.
    pub base: Mark,
    /// The ruling configuration.
    pub configuration: Option<StoredConfiguration>,
    /// The log's own time at its end, in microseconds.
    pub log_time_us: u64,
    /// The number of the first segment's life: higher than any that this node used before.
    pub epoch: u64,
}

/// What was built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BuiltLog {
    /// All files, those ahead included.
    pub files: u32,
    /// Segments with records.
    pub segments: u32,
    /// Records.
    pub records: u64,
    /// Their bytes, headers and padding included.
    pub record_bytes: u64,
    /// Records that hold several bodies.
    pub packs: u64,
    /// The bodies in them.
    pub packed: u64,
    /// Chosen bodies, packed or not.
    pub chosen: u64,
    /// Bodies that are accepted and not known to be chosen.
    pub accepted: u64,
    /// Where the log ends.
    pub end: Lsn,
}

/// Why a log can't be built. What is there of it is of no use.
#[derive(Debug, Error)]
pub enum BuildError {
    /// The record contradicts one before it, or can't stand in a log of this segment size.
    #[error("a body can't be written: {0}")]
    Append(#[from] AppendError),
    /// The file system refused something.
    #[error(transparent)]
    File(#[from] FileError),
}

/// See the module documentation.
pub struct LogBuilder<'disk> {
    wal: Wal,
    disk: &'disk mut dyn LogDisk,
    group: GroupId,
    log_time_us: u64,
    pack: PackBuilder,
    promised: Ballot,
    /// Behind the chosen bodies that were taken without a gap.
    mark: Mark,
    /// The mark that the next record tells: behind those that are written.
    written: Mark,
    first_epoch: u64,
    built: BuiltLog,
}

impl<'disk> LogBuilder<'disk> {
    /// An empty log on an empty disk.
    ///
    /// # Errors
    /// If the first file can't be made.
    ///
    /// # Panics
    /// If no log has segments of this size: it is checked wherever a size comes from outside.
    pub fn new(
        identity: LogIdentity,
        start: LogStart,
        disk: &'disk mut dyn LogDisk,
    ) -> Result<LogBuilder<'disk>, BuildError> {
        let geometry = Geometry::new(start.segment_bytes).expect("a segment size that logs have");
        let settings = LogSettings {
            segment_bytes: start.segment_bytes,
            sync: SyncMode::Fdatasync,
            pool_free_min: 1,
            pool_spares: 1,
            pool_files_max: u32::MAX,
            index_bodies_max: usize::MAX,
        };
        let recovered = RecoveredLog {
            group: Some(start.group),
            format: start.format,
            mark: start.base,
            index: Index::new(start.base),
            configuration: start.configuration,
            log_time_us: start.log_time_us,
            epoch_next: start.epoch,
            first_needed: start.epoch,
            ..RecoveredLog::fresh(start.segment_bytes, [])
        };
        let mut builder = LogBuilder {
            wal: Wal::new(identity, settings, recovered),
            disk,
            group: start.group,
            log_time_us: start.log_time_us,
            pack: PackBuilder::new(geometry.record_bytes_max()),
            promised: Ballot::ZERO,
            mark: start.base,
            written: start.base,
            first_epoch: start.epoch,
            built: BuiltLog::default(),
        };
        builder.settle()?;
        Ok(builder)
    }

    /// Takes a chosen body, in its record buffer. Bodies come in slot order, behind all accepted ones and the promise.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn chosen(&mut self, body: &BodyHandle, record: RecordBuffer) -> Result<(), BuildError> {
        self.built.chosen += 1;
        let bytes = &record.as_ref()[RECORD_HEADER_BYTES..][..body.bytes as usize];
        let small = body.bytes <= PACKED_BODY_BYTES_MAX;
        if !(small && self.pack.try_push(body, bytes)) {
            self.flush_pack()?;
            if !(small && self.pack.try_push(body, bytes)) {
                self.append_chosen(body, record)?;
            }
        }
        if body.first == self.mark.slot {
            self.mark = self.mark.after(body);
        }
        if self.pack.is_empty() {
            self.written = self.mark;
        }
        Ok(())
    }

    /// Takes a body that was accepted at `ballot` and isn't known to be chosen. Ballots don't descend, and no chosen body
    /// comes before.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn accepted(&mut self, body: &BodyHandle, ballot: Ballot, mut record: RecordBuffer) -> Result<(), BuildError> {
        self.built.accepted += 1;
        self.promised = self.promised.max(ballot);
        let meta = self.meta(RecordKind::Accepted, ballot);
        self.append(record.as_mut(), |wal, record| wal.append(&meta, Some(body), record))
    }

    /// Takes the promise, which every record behind it repeats.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn promise(&mut self, promised: Ballot) -> Result<(), BuildError> {
        self.promised = self.promised.max(promised);
        if self.promised.is_zero() {
            return Ok(());
        }
        let mut record = RecordBuffer::zeroed(BLOCK_BYTES);
        let meta = self.meta(RecordKind::Promise, self.promised);
        self.append(record.as_mut(), |wal, record| wal.append(&meta, None, record))
    }

    /// Ends the log with a proof that everything is durable, and makes the files that a log needs ahead.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn finish(mut self) -> Result<BuiltLog, BuildError> {
        self.flush_pack()?;
        let mut record = RecordBuffer::zeroed(BLOCK_BYTES);
        // Its durable position covers what is durable when it is laid out: everything.
        self.settle()?;
        let meta = self.meta(RecordKind::Mark, self.promised);
        self.append(record.as_mut(), |wal, record| wal.append(&meta, None, record))?;
        self.settle()?;
        assert_eq!(self.wal.durable(), self.wal.appended(), "all writes and syncs are done");

        let files = self.wal.stats().files as u32;
        for file in files + 1..=POOL_FILES_MIN {
            self.disk.create(FileId(file))?;
        }
        self.built.files = files.max(POOL_FILES_MIN);
        self.built.end = self.wal.appended();
        let last = self.built.end.epoch(self.wal.settings().segment_bytes);
        self.built.segments = (last + 1).saturating_sub(self.first_epoch) as u32;
        Ok(self.built)
    }

    fn meta(&self, kind: RecordKind, ballot: Ballot) -> RecordMeta {
        RecordMeta {
            kind,
            group: self.group,
            source: NodeId(0),
            ballot,
            promised: self.promised,
            mark: self.written,
            log_time_us: self.log_time_us,
            unsure: false,
        }
    }

    fn flush_pack(&mut self) -> Result<(), BuildError> {
        let Some(mut pack) = self.pack.finish() else { return Ok(()) };
        if let [(body, offset)] = pack.bodies() {
            // One alone is read without a copy if it has a record of its own.
            let mut record = RecordBuffer::zeroed(record_bytes(body.bytes) as usize);
            let bytes = &pack.record()[*offset as usize..][..body.bytes as usize];
            record.as_mut()[RECORD_HEADER_BYTES..][..bytes.len()].copy_from_slice(bytes);
            self.append_chosen(&body.clone(), record)?;
        } else {
            let meta = self.meta(RecordKind::Pack, Ballot::ZERO);
            let planned = self.plan(|wal| wal.append_pack(&meta, &mut pack))?;
            self.built.packs += 1;
            self.built.packed += pack.bodies().len() as u64;
            self.write(&planned, pack.record())?;
        }
        self.written = self.mark;
        Ok(())
    }

    fn append_chosen(&mut self, body: &BodyHandle, mut record: RecordBuffer) -> Result<(), BuildError> {
        let meta = self.meta(RecordKind::Chosen, Ballot::ZERO);
        self.append(record.as_mut(), |wal, record| wal.append(&meta, Some(body), record))
    }

    fn append(
        &mut self,
        record: &mut [u8],
        append: impl Fn(&mut Wal, &mut [u8]) -> Result<Planned, AppendError>,
    ) -> Result<(), BuildError> {
        let planned = self.plan(|wal| append(wal, record))?;
        self.write(&planned, record)
    }

    fn plan(
        &mut self,
        mut append: impl FnMut(&mut Wal) -> Result<Planned, AppendError>,
    ) -> Result<Planned, BuildError> {
        // Syncs wait until a segment is full: nobody waits for a single record. Then the log settles twice for a record
        // as long as a segment: it rotates, and takes the record once there is a segment ahead again.
        for _ in 0..2 {
            match append(&mut self.wal) {
                Err(AppendError::NoSegment) => self.settle()?,
                other => return Ok(other?),
            }
        }
        Ok(append(&mut self.wal)?)
    }

    fn write(&mut self, planned: &Planned, record: &[u8]) -> Result<(), BuildError> {
        let bytes = &record[..planned.record_bytes as usize];
        self.disk.write(planned.file, planned.offset, bytes)?;
        self.wal.handle_written(planned.write);
        self.built.records += 1;
        self.built.record_bytes += bytes.len() as u64;
        Ok(())
    }

    /// Carries out everything that the log asks for: afterwards all that was appended is durable.
    fn settle(&mut self) -> Result<(), BuildError> {
        while let Some(action) = self.wal.poll_action() {
            match action {
                Action::Write { write, file, offset, bytes } => {
                    self.disk.write(file, offset, &bytes)?;
                    self.wal.handle_written(write);
                }
                Action::Sync { sync, file } => {
                    self.disk.sync(file)?;
                    self.wal.handle_synced(sync);
                }
                Action::CreateFile { file } => {
                    self.disk.create(file)?;
                    self.wal.handle_file_ready(file);
                }
                Action::ZeroFile { file, .. } => unreachable!("{file} of a new log is never given back"),
            }
        }
        Ok(())
    }

    /// Where the chosen bodies end that were taken without a gap.
    pub fn mark(&self) -> Mark {
        self.mark
    }
}
