//! A node's directory, opened for reading, possibly beside the running node.
//!
//! Nothing in a directory is trusted: symbolic links are never followed, what isn't a regular file is never opened,
//! and a file of another length, of another log or without a readable header is named and left out of the log's order.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use synod_frame::{BodyHeader, RecordBuffer};
use synod_protocol::BodyHandle;
use synod_wal::directory::{self, DirectoryLock, DirectoryStore, NodeIdentity, OpenError};
use synod_wal::format::{SegmentHeader, SegmentHeaderError};
use synod_wal::scan::{self, Depth, ReadError, ScanOptions, Scanner};
use synod_wal::{FileId, Geometry, Location, Lsn, SegmentStore};
use thiserror::Error;

use crate::exit::{self, Exit};

/// A log and where it belongs.
pub(crate) struct Source {
    /// As it was named: the node's directory, or the log's.
    pub(crate) path: PathBuf,
    pub(crate) identity: NodeIdentity,
    /// Its number among the node's logs.
    pub(crate) log: u32,
    pub(crate) store: DirectoryStore,
    pub(crate) geometry: Geometry,
    /// Whether a node runs on the directory, so that the tail may be half written.
    pub(crate) live: bool,
}

/// A segment file.
pub(crate) struct File {
    pub(crate) id: FileId,
    /// Its length, if it could be asked.
    pub(crate) bytes: u64,
    /// What its first block says. Present beside a problem too, if the records behind it can be read nevertheless.
    pub(crate) header: Option<SegmentHeader>,
    pub(crate) problem: Option<FileProblem>,
}

/// Why a file isn't a whole segment of this log.
#[derive(Debug, Error)]
pub(crate) enum FileProblem {
    #[error("it was never used")]
    Fresh,
    #[error("its creation was interrupted at {bytes} bytes")]
    Unfinished { bytes: u64 },
    #[error("it has {bytes} bytes, but segments have {expected}: it was cut or copied in part")]
    Length { bytes: u64, expected: u64 },
    #[error("it belongs to another log; it was copied or moved here by mistake")]
    Foreign,
    #[error("{first} claims to be segment {epoch} too: one of them is a copy; remove it")]
    Duplicate { first: FileId, epoch: u64 },
    #[error("it is {what}, which is never followed or opened")]
    NoFile { what: &'static str },
    #[error(transparent)]
    Header(#[from] SegmentHeaderError),
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl FileProblem {
    /// Whether a sound directory may hold such a file.
    pub(crate) fn is_harmless(&self) -> bool {
        matches!(self, FileProblem::Fresh | FileProblem::Unfinished { .. })
    }
}

/// A segment in the order of the log.
pub(crate) struct Segment<'files> {
    pub(crate) file: &'files File,
    pub(crate) header: &'files SegmentHeader,
    /// Where its records end, if the segment after it names the place.
    pub(crate) stop: Option<u64>,
    /// Whether the log needs it: it is linked from the newest one, and not given up.
    pub(crate) linked: bool,
}

/// A body as it lies in the log, verified.
pub(crate) struct StoredBody {
    pub(crate) header: BodyHeader,
    /// Where its record begins.
    pub(crate) position: Lsn,
    /// The whole record.
    pub(crate) record: RecordBuffer,
}

impl StoredBody {
    /// Its exact bytes.
    pub(crate) fn body(&self) -> &[u8] {
        &self.record.as_ref()[self.header.layout.body_range()]
    }
}

impl Source {
    /// Opens a node's directory, or that of one of its logs, and says on stderr if a node runs on it. Takes no lock.
    ///
    /// # Errors
    /// If the directory isn't one of a node, has several logs of which none is named, or can't be read.
    pub(crate) fn open(path: &Path) -> Result<Source> {
        if let Some((node, number)) = log_named(path) {
            return Source::open_log(path, &node, number);
        }
        let logs = directory::read_identity(path)?.logs;
        if logs > 1 {
            bail!(
                "{} has {logs} logs, one for each of its groups: name one of them, {} to {}",
                path.display(),
                directory::log_path(path, 0).display(),
                directory::log_path(path, logs - 1).display()
            );
        }
        Source::open_log(path, path, 0)
    }

    fn open_log(name: &Path, path: &Path, number: u32) -> Result<Source> {
        let identity = directory::read_identity(path)?;
        if number >= identity.logs {
            bail!("{} isn't among the {} logs of node {}", name.display(), identity.logs, identity.node);
        }
        let log = directory::current_log_path(path, number);
        let found = fs::symlink_metadata(&log).with_context(|| format!("can't look at {}", log.display()))?;
        if !found.is_dir() {
            bail!("{} is no directory; symbolic links are never followed", log.display());
        }
        let geometry = Geometry::new(identity.segment_bytes)
            .ok_or_else(|| anyhow!("{}: no log has segments of {} bytes", path.display(), identity.segment_bytes))?;
        let live = is_running(path);
        if live {
            eprintln!("synod-tools: a node is running on {}: the end of its log may move", path.display());
        }
        let store = DirectoryStore::new(log);
        Ok(Source { path: name.to_owned(), identity, log: number, store, geometry, live })
    }

    /// All segment files: those with a readable header by epoch, then the others.
    ///
    /// # Errors
    /// If they can't be listed. What is wrong with a single file is said there.
    pub(crate) fn files(&self) -> Result<Vec<File>> {
        let shown = || format!("{}: the segments can't be listed", self.store.directory().display());
        let ids = self.store.files().with_context(shown)?;
        let mut files: Vec<File> = ids.into_iter().map(|id| self.file(id)).collect();
        let epoch = |file: &File| file.header.as_ref().map_or(0, |header| header.epoch);
        files.sort_by_key(|file| (file.header.is_none(), epoch(file), file.id));
        let mut seen = BTreeMap::new();
        for file in &mut files {
            let Some(epoch) = file.header.as_ref().map(|header| header.epoch) else { continue };
            if let Some(first) = seen.insert(epoch, file.id) {
                seen.insert(epoch, first);
                file.header = None;
                file.problem = Some(FileProblem::Duplicate { first, epoch });
            }
        }
        Ok(files)
    }

    fn file(&self, id: FileId) -> File {
        let failed = |problem| File { id, bytes: 0, header: None, problem: Some(problem) };
        let path = self.store.directory().join(id.file_name());
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            Err(source) => return failed(ReadError { file: id, offset: 0, bytes: 0, source }.into()),
        };
        let kind = metadata.file_type();
        if !kind.is_file() {
            let what = match () {
                () if kind.is_symlink() => "a symbolic link",
                () if kind.is_dir() => "a directory",
                () => "a pipe, a socket or a device",
            };
            return failed(FileProblem::NoFile { what });
        }
        let bytes = metadata.len();
        let (header, problem) = self.header(id, bytes);
        File { id, bytes, header, problem }
    }

    fn header(&self, id: FileId, bytes: u64) -> (Option<SegmentHeader>, Option<FileProblem>) {
        let expected = self.geometry.segment_bytes();
        if bytes < self.geometry.records_offset() {
            return (None, Some(FileProblem::Unfinished { bytes }));
        }
        let ours = self.identity.log_identity(self.log).map(|identity| identity.expected());
        match scan::read_segment_header(&self.store, id, self.geometry) {
            Err(error) => (None, Some(error.into())),
            Ok(Err(SegmentHeaderError::Fresh)) if bytes == expected => (None, Some(FileProblem::Fresh)),
            Ok(Err(SegmentHeaderError::Fresh)) => (None, Some(FileProblem::Unfinished { bytes })),
            Ok(Err(error)) => (None, Some(error.into())),
            Ok(Ok(header)) if ours.is_some_and(|ours| ours != header.identity.expected()) => {
                (None, Some(FileProblem::Foreign))
            }
            Ok(Ok(header)) => {
                let problem = (bytes != expected).then_some(FileProblem::Length { bytes, expected });
                (Some(header), problem)
            }
        }
    }

    /// Segments of a lower epoch aren't needed, as far as the headers tell.
    pub(crate) fn first_needed(files: &[File]) -> u64 {
        files.iter().filter_map(|file| file.header.as_ref()).map(|header| header.first_needed).max().unwrap_or(0)
    }

    /// The segments that make up the log, oldest first: the newest names the one before it, and so on down. With `all`
    /// also those that the log doesn't need any more, or never came to use.
    ///
    /// Where one is missing, the walk goes on with the newest below it; the second value names the missing ones.
    pub(crate) fn segments<'files>(&self, files: &'files [File], all: bool) -> (Vec<Segment<'files>>, Vec<u64>) {
        let by_epoch: BTreeMap<u64, (&File, &SegmentHeader)> =
            files.iter().filter_map(|file| file.header.as_ref().map(|header| (header.epoch, (file, header)))).collect();
        let first_needed = Source::first_needed(files);
        let (mut segments, mut missing) = (Vec::new(), Vec::new());
        let mut next = by_epoch.last_key_value().map(|(epoch, _)| *epoch);
        let mut named_end = Lsn::ZERO;
        while let Some(epoch) = next.filter(|epoch| *epoch != 0 && *epoch >= first_needed) {
            let Some((file, header)) = by_epoch.get(&epoch).copied() else {
                missing.push(epoch);
                named_end = Lsn::ZERO;
                next = by_epoch.range(..epoch).next_back().map(|(epoch, _)| *epoch);
                continue;
            };
            let stop = (named_end != Lsn::ZERO).then(|| named_end.offset(self.geometry.segment_bytes()));
            segments.push(Segment { file, header, stop, linked: true });
            named_end = header.before_end;
            next = Some(header.before_epoch);
        }
        if all {
            let linked: Vec<u64> = segments.iter().map(|segment| segment.header.epoch).collect();
            let others = by_epoch.iter().filter(|(epoch, _)| !linked.contains(epoch));
            segments.extend(others.map(|(_, (file, header))| Segment { file, header, stop: None, linked: false }));
        }
        segments.sort_by_key(|segment| segment.header.epoch);
        missing.reverse();
        (segments, missing)
    }

    /// A scan of one segment.
    pub(crate) fn scanner(&self, segment: &Segment<'_>, depth: Depth) -> Scanner<'_> {
        let options = ScanOptions { depth, live: self.live, stop: segment.stop };
        Scanner::new(&self.store, segment.file.id, self.geometry, segment.header, options)
    }

    /// A scan of one segment that may be written meanwhile, or later.
    pub(crate) fn live_scanner(&self, segment: &Segment<'_>) -> Scanner<'_> {
        let options = ScanOptions { depth: Depth::Full, live: true, stop: segment.stop };
        Scanner::new(&self.store, segment.file.id, self.geometry, segment.header, options)
    }

    /// The bytes of a record, whatever they are.
    ///
    /// # Errors
    /// If they can't be read.
    pub(crate) fn record_bytes(&self, location: &Location) -> Result<RecordBuffer> {
        let mut record = RecordBuffer::zeroed(location.record_bytes as usize);
        let shown =
            || format!("can't read {} bytes at {:#x} of {}", location.record_bytes, location.offset, location.file);
        self.store.read_at(location.file, location.offset, record.as_mut()).with_context(shown)?;
        Ok(record)
    }

    /// A body and its bytes.
    ///
    /// # Errors
    /// If they can't be read, or aren't what was written.
    pub(crate) fn body(&self, location: &Location, body: &BodyHandle) -> Result<StoredBody> {
        let verified = scan::read_segment_header(&self.store, location.file, self.geometry)?
            .map_err(anyhow::Error::from)
            .and_then(|header| {
                let verified =
                    scan::verify_record(&self.store, location.file, self.geometry, &header, location.offset)?;
                let record = scan::read_body(&self.store, location, body)??;
                Ok((verified?, record))
            });
        let damaged = |error| {
            let message = format!("{} at {:#x}: {error}; ask another replica", location.file, location.offset);
            exit::failure(Exit::Damaged, message)
        };
        let (verified, record) = verified.map_err(damaged)?;
        let header = BodyHeader::parse_in_record(record.as_ref())?;
        Ok(StoredBody { header, position: verified.header.lsn, record })
    }

    /// Whether a node runs on the directory at this moment.
    pub(crate) fn is_running(&self) -> bool {
        match log_named(&self.path) {
            Some((node, _)) => is_running(&node),
            None => is_running(&self.path),
        }
    }
}

/// The paths of all logs: of a node's directory with several, those; everything else as it is.
pub(crate) fn each_log(paths: &[PathBuf]) -> Vec<PathBuf> {
    let logs = |path: &PathBuf| match directory::read_identity(path) {
        Ok(identity) if identity.logs > 1 => {
            (0..identity.logs).map(|log| directory::log_path(path, log)).collect::<Vec<_>>()
        }
        _ => vec![path.clone()],
    };
    let mut all: Vec<PathBuf> = paths.iter().flat_map(logs).collect();
    // Beside each other stand logs that should say the same.
    all.sort_by_key(|path| log_number(path));
    all
}

/// The number of the log that a path stands for.
pub(crate) fn log_number(path: &Path) -> u32 {
    log_named(path).map_or(0, |(_, number)| number)
}

/// The node's directory and the number of the log, if that is what a path names.
fn log_named(path: &Path) -> Option<(PathBuf, u32)> {
    let number = path.file_name()?.to_str()?.strip_prefix("log-")?.parse().ok()?;
    let parent = path.parent()?;
    let node = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let is_log = directory::log_path(Path::new(""), number).file_name() == path.file_name();
    (is_log && node.join("identity").exists()).then(|| (node.to_owned(), number))
}

/// Takes a directory's lock, for verbs that write. It is free again when the value is dropped.
///
/// # Errors
/// [`Exit::Busy`] if a node runs on it, or what else is wrong with the directory.
#[allow(dead_code, reason = "for the verbs that write")]
pub(crate) fn lock(path: &Path) -> Result<DirectoryLock> {
    directory::read_identity(path)?;
    DirectoryLock::take(path).map_err(|error| match error {
        OpenError::Locked { .. } => exit::failure(Exit::Busy, format!("{error}; stop the node first")),
        other => other.into(),
    })
}

/// Whether a node holds the directory's lock. The kernel's list is read rather than the lock tried: a lock that is
/// held for a moment could keep a node from starting in that moment.
fn is_running(directory: &Path) -> bool {
    let Ok(lock) = fs::symlink_metadata(directory.join("LOCK")) else { return false };
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let inode = format!(":{}", lock.ino());
    locks.lines().any(|line| line.contains("FLOCK") && line.split_whitespace().any(|field| field.ends_with(&inode)))
}
