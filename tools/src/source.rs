//! A node's directory, opened for reading, possibly beside the running node.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use synod_wal::directory::{self, DirectoryStore, NodeIdentity};
use synod_wal::format::{SegmentHeader, SegmentHeaderError};
use synod_wal::{FileId, Geometry, SegmentStore, scan};

/// The log that this build writes; nodes have one each.
const LOG: u32 = 0;

/// A log and where it belongs.
pub(crate) struct Source {
    pub(crate) identity: NodeIdentity,
    pub(crate) store: DirectoryStore,
    pub(crate) geometry: Geometry,
    /// Whether a node runs on the directory, so that the tail may be half written.
    pub(crate) live: bool,
}

/// A segment file.
pub(crate) struct File {
    pub(crate) id: FileId,
    pub(crate) header: Result<SegmentHeader, SegmentHeaderError>,
}

impl Source {
    /// # Errors
    /// If the directory isn't one of a node, or can't be read.
    pub(crate) fn open(path: &Path) -> Result<Source> {
        let identity = directory::read_identity(path)?;
        let store = DirectoryStore::new(directory::log_path(path, LOG));
        let geometry = Geometry::new(identity.segment_bytes)
            .ok_or_else(|| anyhow!("{}: no log has segments of {} bytes", path.display(), identity.segment_bytes))?;
        Ok(Source { identity, store, geometry, live: is_running(path) })
    }

    /// All segment files: those with a readable header by epoch, then the others.
    ///
    /// # Errors
    /// If a file can't be read.
    pub(crate) fn files(&self) -> Result<Vec<File>> {
        let mut files = Vec::new();
        let shown = || format!("{}: the segments can't be listed", self.store.directory().display());
        for id in self.store.files().with_context(shown)? {
            files.push(File { id, header: scan::read_segment_header(&self.store, id, self.geometry)? });
        }
        files
            .sort_by_key(|file| (file.header.is_err(), file.header.as_ref().map_or(0, |header| header.epoch), file.id));
        Ok(files)
    }

    /// Segments of a lower epoch aren't needed, as far as the headers tell.
    pub(crate) fn first_needed(files: &[File]) -> u64 {
        files.iter().filter_map(|file| file.header.as_ref().ok()).map(|header| header.first_needed).max().unwrap_or(0)
    }
}

/// Whether a node holds the directory's lock. The kernel's list is read rather than the lock tried: a lock that is
/// held for a moment could keep a node from starting in that moment.
fn is_running(directory: &Path) -> bool {
    let Ok(lock) = fs::metadata(directory.join("LOCK")) else { return false };
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let inode = format!(":{}", lock.ino());
    locks.lines().any(|line| line.contains("FLOCK") && line.split_whitespace().any(|field| field.ends_with(&inode)))
}
