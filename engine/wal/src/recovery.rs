//! What a crash left, read back: a table from what is found to what is done, and a join.
//!
//! 1. Read all headers. The newest names the segment before it, and so on down to the first that is needed: the
//!    *chain*. What isn't in the chain holds nothing of use.
//! 2. Scan every segment of the chain. The *proof* is the highest position that anything valid says was durable:
//!    durable marks in records (also in those that will be discarded) and headers, ends that headers name, seals.
//! 3. Walk the chain from its start. At the first hole, decide by the table (see [`verdict`]): below the proof it is
//!    damage, never cut; above, it is torn and cut if every bad block is as the pool left it, and doubtful otherwise.
//! 4. Join what is left: the highest promise, per slot the body at the highest ballot, the highest mark whose chain
//!    runs over the bodies that are there. Ballots decide, never which write came last.
//!
//! Recovery changes nothing: it may crash and be repeated. What it found above the proof may still be in a cache:
//! [`crate::Wal`] syncs it before anything rests on it, then opens a new segment that names where the old ones end.

mod chain;
mod configurations;
mod join;
mod losses;
mod pager;
mod thin;
mod verdict;

use std::collections::BTreeSet;
use std::ops::Range;

use synod_frame::GroupId;
use synod_protocol::{AcceptedBody, Ballot, BodyHandle, Doubt, FORMAT_FIRST, FORMAT_MAX, Mark, Recovered, Slot};
use thiserror::Error;

use crate::format::{SegmentHeaderError, Settled, StoredConfiguration};
use crate::identity::ExpectedIdentity;
use crate::index::{Index, IndexEntry};
use crate::lsn::{FileId, Lsn};
use crate::pool::CleanFile;
use crate::scan::{Depth, HoleCause, ReadError};
use crate::segment::Geometry;
use crate::store::SegmentStore;
use crate::writer::SealIndex;

pub(crate) use configurations::decode as decode_configuration;
pub(crate) use join::prove_marks;
use pager::{Disk, JoinError};

/// How to recover.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecoverOptions {
    /// How closely records are looked at.
    pub depth: Depth,
    /// The log may be written meanwhile, by a running node: only for looking, never for opening. What is in doubt at
    /// the tail counts as being written, and is left out.
    pub live: bool,
    /// Bodies whose places are kept in memory, if that is to be bounded: [`crate::LogSettings::index_bodies_max`] of the log
    /// that will be opened. Then places of old bodies aren't in memory, and [`RecoveredLog::index`] is for opening it only.
    pub index_bodies_max: Option<usize>,
    /// The newest format that is read; none for all that this build reads. A log in a newer one is refused.
    pub format_max: Option<u16>,
}

impl RecoverOptions {
    fn check_format(&self, file: FileId, needed: u16) -> Result<(), RecoverError> {
        let reads = self.format_max.unwrap_or(FORMAT_MAX);
        if needed > reads { Err(RecoverError::Newer { file, needed, reads }) } else { Ok(()) }
    }
}

/// A segment of the recovered log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredSegment {
    /// The file.
    pub file: FileId,
    /// Its epoch.
    pub epoch: u64,
    /// Where its records end.
    pub end: Lsn,
    /// The checksum of its last record, or of the last one before it if it has none.
    pub last_checksum: u32,
    /// Valid records.
    pub records: u64,
    /// The first slot after all its bodies; zero if it has none.
    pub slot_end: Slot,
    /// Whether its seal is complete.
    pub sealed: bool,
    /// The log's own time at its end, in microseconds.
    pub log_time_us: u64,
    /// Whether nothing in front of its end is damaged or missing.
    pub whole: bool,
    /// Of a sealed one: how to find a record in its index.
    pub seal_index: Option<SealIndex>,
}

/// Where the log was cut, if anything lies behind its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The file.
    pub file: FileId,
    /// Offset in the file.
    pub offset: u64,
    /// Position in the log.
    pub lsn: Lsn,
    /// Why there.
    pub cause: HoleCause,
    /// Valid records behind it that were discarded; none of them was ever durable.
    pub records_discarded: u64,
}

/// A log as it was read back.
#[derive(Clone, Debug, Default)]
pub struct RecoveredLog {
    /// Length of every segment.
    pub segment_bytes: u64,
    /// The group whose log this is; none before the first record.
    pub group: Option<GroupId>,
    /// The newest format of anything in it: what a build must read to read it. At least 1.
    pub format: u16,
    /// The highest promise.
    pub promised: Ballot,
    /// The chosen prefix, as far as it can be proven from the bodies that are there.
    pub mark: Mark,
    /// The bodies at or above the base. Those below [`RecoveredLog::mark`] are marked as chosen.
    pub index: Index,
    /// The ruling configuration.
    pub configuration: Option<StoredConfiguration>,
    /// The configurations whose bodies are in the log, chosen or accepted, ascending by slot.
    pub configurations: Vec<StoredConfiguration>,
    /// The slot of the first chosen configuration that can't be read: nothing from there on counts as chosen, for nobody
    /// could tell who rules.
    pub configuration_lost: Option<Slot>,
    /// The slot of the newest configuration whose body is trimmed, if [`RecoveredLog::configuration`] is older.
    pub configuration_trimmed: Option<Slot>,
    /// The log's own time at its end, in microseconds.
    pub log_time_us: u64,
    /// The highest boot counter that wrote a header.
    pub boot_counter: u64,
    /// Everything before this was durable for certain.
    pub proven: Lsn,
    /// Where the log ends.
    pub end: Lsn,
    /// The segments, oldest first.
    pub segments: Vec<RecoveredSegment>,
    /// Files ready for use.
    pub clean: Vec<CleanFile>,
    /// Files that must be zeroed before use.
    pub dirty: Vec<FileId>,
    /// Files whose creation was interrupted.
    pub unfinished: Vec<FileId>,
    /// The number for the next file.
    pub file_next: u32,
    /// The number for the next segment's life.
    pub epoch_next: u64,
    /// Segments of a lower epoch aren't needed.
    pub first_needed: u64,
    /// What must be synced before anything rests on the records above [`RecoveredLog::proven`].
    pub files_to_sync: Vec<FileId>,
    /// Why the log ends where it does; none if it ends in a sealed or named end.
    pub cut: Option<Cut>,
    /// Valid records.
    pub records: u64,
    /// What is damaged, in log order. The log can be opened nevertheless.
    pub damages: Vec<Damage>,
    /// Slots at which damage may hide an accept.
    pub doubts: Vec<Doubt>,
    /// Damage may hide a promise higher than [`RecoveredLog::promised`].
    pub unsure: bool,
    /// Records may be missing behind the last one.
    pub end_lost: bool,
    /// Whether the first record of a process that is sure of its promise will bound what was lost.
    pub end_open: bool,
    /// From this segment on none may be given up while there are doubts: a restart must find them again.
    pub pinned: Option<u64>,
    /// What was lost matters up to here only, as the log says.
    pub settled: Settled,
    /// Records before this position are meant once the doubts about what was lost are settled.
    pub settles_at: Lsn,
    /// Chosen bodies whose bytes are lost here, to be had from other replicas.
    pub damaged: Vec<BodyHandle>,
    /// The first slot after all bodies that were ever in the log; zero if there were none.
    pub slot_end: Slot,
    /// Files that are gone, or hold nothing that can be told: to be made anew.
    pub lost_files: Vec<FileId>,
    /// Segments of the chain that aren't there.
    pub missing: u32,
}

impl RecoveredLog {
    /// A log that was never used, on files of zeros.
    pub fn fresh(segment_bytes: u64, files: impl IntoIterator<Item = FileId>) -> RecoveredLog {
        let clean: Vec<CleanFile> = files.into_iter().map(|file| CleanFile { file, previous_epoch: 0 }).collect();
        let file_next = clean.iter().map(|clean| clean.file.0.saturating_add(1)).max().unwrap_or(1);
        let format = FORMAT_FIRST;
        RecoveredLog {
            segment_bytes,
            format,
            clean,
            file_next,
            epoch_next: 1,
            first_needed: 1,
            ..RecoveredLog::default()
        }
    }

    /// What the acceptor knows: what it must never have forgotten when it speaks again.
    pub fn protocol_state(&self) -> Recovered {
        let mut doubts = self.doubts.clone();
        if let Some(entry) = self.configuration_lost.and_then(|slot| self.index.get(slot)) {
            // It may have been voted for here, and can't be vouched for.
            let bound = if entry.ballot.is_zero() { self.promised } else { entry.ballot };
            doubts.push(Doubt { first: entry.body.first, end: entry.body.end(), bound });
        }
        Recovered {
            promised: self.promised,
            mark: self.protocol_mark(),
            trimmed: self.index.base().slot,
            accepted: self.open_bodies(),
            configurations: self.open_configurations(),
            doubts,
            unsure: self.unsure,
        }
    }

    /// The chosen prefix that counts: it ends where nobody could tell any more who rules.
    pub fn protocol_mark(&self) -> Mark {
        let before_lost = self.configuration_lost.and_then(|slot| self.index.mark_at(slot));
        before_lost.filter(|mark| mark.slot < self.mark.slot).unwrap_or(self.mark)
    }

    /// The bodies accepted above the mark, ascending. What was copied from others was never voted for here: behind a gap
    /// it must be copied again.
    pub fn open_bodies(&self) -> Vec<AcceptedBody> {
        let can_be_read = |entry: &&IndexEntry| Some(entry.body.first) != self.configuration_lost;
        let entries = self.index.iter_from(self.protocol_mark().slot).filter(|entry| !entry.ballot.is_zero());
        let entries = entries.filter(can_be_read);
        entries.map(|entry| AcceptedBody { ballot: entry.ballot, body: entry.body }).collect()
    }

    /// Whether nothing is lost of it or in doubt: then it says all that it ever said. Seals only describe what records say.
    pub fn is_sound(&self) -> bool {
        let whole = self.damages.iter().all(|damage| damage.cause == DamageCause::Seal)
            && self.damaged.is_empty()
            && self.lost_files.is_empty();
        whole && self.doubts.is_empty() && !self.unsure && !self.end_lost
    }

    /// How many files there are.
    pub(crate) fn files_count(&self) -> usize {
        self.segments.len() + self.clean.len() + self.dirty.len() + self.unfinished.len() + self.lost_files.len()
    }
}

/// A field of a log's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentityField {
    /// The cluster's uuid.
    Cluster,
    /// The cluster's lineage.
    Lineage,
    /// The node.
    Node,
    /// The store's uuid.
    Incarnation,
    /// The number of the log.
    Log,
}

impl std::fmt::Display for IdentityField {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            IdentityField::Cluster => "cluster",
            IdentityField::Lineage => "lineage",
            IdentityField::Node => "node",
            IdentityField::Incarnation => "incarnation",
            IdentityField::Log => "log number",
        })
    }
}

/// Why a log can't be opened. Nothing was changed.
#[derive(Debug, Error)]
pub enum RecoverError {
    /// No log has segments of this size.
    #[error("no log has segments of {0} bytes")]
    SegmentBytes(u64),
    /// The files can't be listed.
    #[error("can't list the segments: {0}")]
    List(std::io::Error),
    /// A file can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// There are files, but none was ever used: the log of a bootstrapped node is gone.
    #[error(
        "the log is empty, although the node was bootstrapped: its segments are gone; restore them, or replace the node"
    )]
    Empty,
    /// A segment of another log.
    #[error("{file} belongs to another log: its {field} differs; it was copied or moved here by mistake")]
    Identity {
        /// The file.
        file: FileId,
        /// The first field that differs.
        field: IdentityField,
    },
    /// A header that this build can't read.
    #[error("{file}: {error}; what it held is unknown, run `synod-tools verify`")]
    Header {
        /// The file.
        file: FileId,
        /// Why.
        error: SegmentHeaderError,
    },
    /// The log holds what this build can't read: it was written by a newer one, after the format of the log was raised.
    #[error(
        "{file} needs a build that reads format {needed}, this one reads formats up to {reads}: start a newer build; nothing was changed"
    )]
    Newer {
        /// The file.
        file: FileId,
        /// The format.
        needed: u16,
        /// The newest that this build reads.
        reads: u16,
    },
    /// Two files claim the same life.
    #[error("{first} and {second} both claim to be segment {epoch}: one is a copy; remove it")]
    Duplicate {
        /// A file.
        first: FileId,
        /// Another one.
        second: FileId,
        /// The epoch of both.
        epoch: u64,
    },
    /// Every segment that the log needs is gone.
    #[error("segment {epoch} is missing, and the log needs all from {first_needed} on; restore the files")]
    Missing {
        /// The epoch of the missing segment.
        epoch: u64,
        /// The first that is needed.
        first_needed: u64,
    },
    /// Two records contradict each other: not the log of a correct replica.
    #[error("the record at {offset} of {file} contradicts another body at slot {}: two processes wrote this log, or it was altered", .other.first)]
    Conflict {
        /// The file.
        file: FileId,
        /// Offset of the record.
        offset: u64,
        /// The body that it contradicts.
        other: BodyHandle,
    },
    /// Records of two groups.
    #[error("the record at {offset} of {file} is for {found}, but the log keeps {expected}")]
    OtherGroup {
        /// The file.
        file: FileId,
        /// Offset of the record.
        offset: u64,
        /// The group of the record.
        found: GroupId,
        /// The group of the log.
        expected: GroupId,
    },
}

/// Something wrong in a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: FileId,
    /// Offset in the file.
    pub offset: u64,
    /// Position in the log.
    pub lsn: Lsn,
    /// What.
    pub cause: DamageCause,
    /// The slots that may be affected, as far as the records around tell.
    pub slots: Option<Range<Slot>>,
    /// Whether what is damaged was durable for certain.
    pub class: DamageClass,
}

/// How sure it is that something was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DamageClass {
    /// It was durable: something says so.
    Corrupt,
    /// It may have been durable: no interrupted write explains what is there, and nothing says that anything was.
    Doubtful,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DamageCause {
    /// No valid record where one must be.
    Hole(HoleCause),
    /// The segment's seal is damaged although later segments were durable.
    Seal,
    /// The segment ends elsewhere than the next one says.
    End {
        /// The end that the next one names.
        named: Lsn,
    },
    /// A segment that the log needs isn't there.
    SegmentMissing {
        /// Its epoch.
        epoch: u64,
    },
    /// The last segment is sealed, so there was one after it.
    SuccessorMissing,
    /// The header can't be read; records behind it may be.
    Header(SegmentHeaderError),
    /// The file holds records of a life that its header doesn't know: the disk lost the write of the header.
    HeaderLost {
        /// The epoch of its records.
        epoch: u64,
    },
    /// The file is shorter or longer than a segment: it was cut or copied in part.
    FileBytes {
        /// Its length.
        bytes: u64,
        /// The length of segments.
        expected: u64,
    },
    /// The file isn't there, although the pool had it.
    FileMissing,
    /// The first record doesn't follow the last one of the segment before.
    Previous {
        /// Checksum of the record before.
        expected: u32,
        /// Checksum that the record names.
        found: u32,
    },
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at {} (position {})", self.file, self.offset, self.lsn)?;
        match &self.slots {
            Some(slots) if slots.end == Slot(u64::MAX) => write!(f, ", slots from {} on", slots.start)?,
            Some(slots) => write!(f, ", slots {}..{}", slots.start, slots.end)?,
            None => {}
        }
        match &self.cause {
            DamageCause::Hole(HoleCause::Head(error)) => write!(f, ": {error}"),
            DamageCause::Hole(HoleCause::Blocks { error, .. }) => write!(f, ": {error}"),
            DamageCause::Hole(HoleCause::Old) => write!(f, ": a record is missing"),
            DamageCause::Hole(HoleCause::Stop | HoleCause::Full | HoleCause::Seal(_)) => {
                write!(f, ": records are missing")
            }
            DamageCause::Seal => write!(f, ": the seal is damaged"),
            DamageCause::SegmentMissing { epoch } => write!(f, ": segment {epoch}, in front of it, is missing"),
            DamageCause::SuccessorMissing => write!(f, ": it is sealed, but the segment after it is missing"),
            DamageCause::Header(error) => write!(f, ": {error}"),
            DamageCause::HeaderLost { epoch } => {
                write!(f, ": it holds records of segment {epoch} but not its header, the write of which the disk lost")
            }
            DamageCause::FileBytes { bytes, expected } => {
                write!(f, ": it has {bytes} bytes, but segments have {expected}: it was cut or copied in part")
            }
            DamageCause::FileMissing => write!(f, ": the file is missing"),
            DamageCause::End { named } => write!(f, ": the records end here, but the next segment names {named}"),
            DamageCause::Previous { expected, found } => {
                write!(f, ": follows checksum {found:#010x}, but the record before has {expected:#010x}")
            }
        }
    }
}

/// Reads back the log in `store`, looking at every byte.
///
/// # Errors
/// See [`RecoverError`]; nothing was changed, and nothing may be appended.
pub fn recover(
    store: &dyn SegmentStore,
    expected: &ExpectedIdentity,
    segment_bytes: u64,
) -> Result<RecoveredLog, RecoverError> {
    recover_with(store, expected, segment_bytes, RecoverOptions::default())
}

/// Reads back the log in `store`.
///
/// # Errors
/// As [`recover`].
pub fn recover_with(
    store: &dyn SegmentStore,
    expected: &ExpectedIdentity,
    segment_bytes: u64,
    options: RecoverOptions,
) -> Result<RecoveredLog, RecoverError> {
    let geometry = Geometry::new(segment_bytes).ok_or(RecoverError::SegmentBytes(segment_bytes))?;
    let first = attempt(store, expected, geometry, options);
    match first {
        // A segment may have been given up, sealed or begun between two reads: what is wrong twice is wrong.
        Err(_) if options.live => attempt(store, expected, geometry, options),
        Ok(log) if options.live && !log.damages.is_empty() => attempt(store, expected, geometry, options),
        other => other,
    }
}

fn attempt(
    store: &dyn SegmentStore,
    expected: &ExpectedIdentity,
    geometry: Geometry,
    options: RecoverOptions,
) -> Result<RecoveredLog, RecoverError> {
    let files = chain::read_headers(store, expected, geometry, options)?;
    let chain = chain::Chain::build(&files)?;
    let disk = Disk { store, geometry, salt: expected.salt(), options };
    let mut keep = BTreeSet::new();
    loop {
        let scans = chain::scan(store, geometry, &chain, options, &keep)?;
        let verdict = verdict::decide(&chain, &scans, options)?;
        let losses = losses::assess(&files, &scans, &verdict);
        match join::join(&files, &scans, &verdict, &disk) {
            Ok(joined) => {
                let mut log = chain::assemble(store, geometry, files, &scans, (&verdict, losses), joined)?;
                log.format = scans.iter().map(|scan| scan.format).max().unwrap_or(FORMAT_FIRST);
                configurations::read_all(store, &mut log, options)?;
                return Ok(log);
            }
            Err(JoinError::Recover(error)) => return Err(error),
            Err(JoinError::Changed(epoch)) => {
                if !keep.insert(epoch) {
                    // A disk that reads differently every time: once all is kept, nothing is read again.
                    keep.extend(chain.links.iter().map(|(_, header)| header.epoch));
                }
            }
        }
    }
}
