//! Positions in a log, and the names of its files, writes and syncs.

use std::fmt;

/// A byte position in a node's log: `epoch * segment_bytes + offset`.
///
/// Positions only grow, because an *epoch*, the number of a segment's life, is never used twice. Three cursors run
/// along a log: `durable <= written <= appended`; a record is durable when it and all before it are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Before every record.
    pub const ZERO: Lsn = Lsn(0);

    /// The position of `offset` in the segment with this epoch.
    pub const fn new(epoch: u64, segment_bytes: u64, offset: u64) -> Lsn {
        // Epochs come off the disk: a position past the end of the number range must not wrap into a valid one.
        Lsn(epoch.saturating_mul(segment_bytes).saturating_add(offset))
    }

    /// The epoch of the segment that this lies in.
    pub const fn epoch(self, segment_bytes: u64) -> u64 {
        self.0 / segment_bytes
    }

    /// The offset in the segment that this lies in.
    pub const fn offset(self, segment_bytes: u64) -> u64 {
        self.0 % segment_bytes
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// The number in the name of a pool file; never changes while the file is recycled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub u32);

impl FileId {
    /// The file's name within the directory of its log.
    pub fn file_name(self) -> String {
        format!("segment-{:06}.wal", self.0)
    }

    /// The file with this name, or `None` for names that no pool file has.
    pub fn from_file_name(name: &str) -> Option<FileId> {
        let digits = name.strip_prefix("segment-")?.strip_suffix(".wal")?;
        let id = FileId(digits.parse().ok()?);
        // Only the canonical spelling: two names for one file would be two files with one number.
        (id.file_name() == name).then_some(id)
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file_name())
    }
}

/// The number of a write that a log asked for; answered by [`crate::Wal::handle_written`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriteId(pub u64);

/// The number of a sync that a log asked for; answered by [`crate::Wal::handle_synced`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SyncId(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_are_canonical() {
        assert_eq!(FileId(7).file_name(), "segment-000007.wal");
        assert_eq!(FileId::from_file_name("segment-000007.wal"), Some(FileId(7)));
        assert_eq!(FileId::from_file_name("segment-4294967295.wal"), Some(FileId(u32::MAX)));
        for name in ["segment-7.wal", "segment-0000007.wal", "segment-+00007.wal", "segment-.wal", "LOCK", ""] {
            assert_eq!(FileId::from_file_name(name), None, "{name}");
        }
    }

    #[test]
    fn positions_split_into_epoch_and_offset() {
        let lsn = Lsn::new(3, 1 << 16, 8192);
        assert_eq!((lsn.epoch(1 << 16), lsn.offset(1 << 16)), (3, 8192));
        assert_eq!(Lsn::new(u64::MAX, 1 << 16, 4096), Lsn(u64::MAX));
    }
}
