//! What a log answers and asks for.

use synod_frame::GroupId;
use synod_protocol::BodyHandle;
use thiserror::Error;

use crate::lsn::{FileId, Lsn, SyncId, WriteId};

/// Where a record goes. The caller writes the first `record_bytes` of its buffer at `offset` of `file`, then calls
/// [`crate::Wal::handle_written`].
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
    /// Where it ends: the record is durable when [`crate::Wal::durable`] reaches this.
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
    /// Write `bytes` at `offset` of `file`, then call [`crate::Wal::handle_written`].
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
    /// Make everything durable whose write to `file` has completed, then call [`crate::Wal::handle_synced`].
    Sync {
        /// The sync's number.
        sync: SyncId,
        /// The file.
        file: FileId,
    },
    /// Make the file if there is none, write zeros over all of its `segment_bytes`, sync it and its directory, then
    /// call [`crate::Wal::handle_file_ready`]; if it can't be done, [`crate::Wal::handle_file_failed`].
    CreateFile {
        /// The file.
        file: FileId,
    },
    /// Write zeros from `offset` to the end of the file, `bytes` in all, sync it, then call
    /// [`crate::Wal::handle_file_ready`]. Block 0 must stay as it is: it says that the file holds nothing of use, also
    /// if zeroing is interrupted.
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
    /// Files ready for use: the depth of the pool. Two of them are kept for the next openings of the log.
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
    /// Segments begun because the one before was full, since the log was opened.
    pub rotations: u64,
    /// How often a record found no room at once: the next segment wasn't ready yet, the one before wasn't sealed, or the
    /// log is full.
    pub rotation_waits: u64,
    /// Segments sealed since the log was opened.
    pub segments_sealed: u64,
    /// Bodies in the index.
    pub bodies: usize,
    /// Those of them whose place is in memory.
    pub index_entries: usize,
    /// Pages that the places of all others were put out to.
    pub index_pages: usize,
    /// Pages put out, or extended, since the log was opened.
    pub pages_out: u64,
    /// Pages read back since the log was opened.
    pub pages_in: u64,
    /// How often something wasn't as it should be when a page was read back, since the log was opened.
    pub page_reads_failed: u64,
    /// Completed writes that were durable by themselves, and completed syncs, since the log was opened.
    pub durable_writes: u64,
    /// Length of the segments that hold records or will next.
    pub live_bytes: u64,
    /// Bytes of planned records that aren't durable yet.
    pub unsynced_bytes: u64,
}
