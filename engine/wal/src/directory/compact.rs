//! Compacting the logs of a store, so that whatever interrupts it leaves the old log or the new one.
//!
//! The new log is written to a directory beside the old one, synced, read back and compared. Then the two directories
//! change names in one step (`renameat2` with `RENAME_EXCHANGE`), and the old log is deleted under the new one's former
//! name. So what bears that name is never needed, whenever the machine stops: the next run deletes it, and nobody else
//! looks at it.
//!
//! File systems that can't exchange get two renames instead: the old log moves aside, the new one takes its place. If
//! the machine stops between the two, whoever opens the store next moves the old log back ([`restore`]).

use std::cell::Cell;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use synod_protocol::Slot;
use thiserror::Error;

use super::disk::{FileDisk, sync_directory};
use super::init::make_directory;
use super::lock::DirectoryLock;
use super::store::DirectoryStore;
use super::{FileError, OpenError, log_path, pool_file, read_identity};
use crate::builder::{BuiltLog, LogDisk, NoDisk};
use crate::compaction::{self, CompactionError, Difference};
use crate::identity::LogIdentity;
use crate::lsn::FileId;
use crate::recovery::{RecoverError, RecoveredLog, recover};
use crate::scan::read_body;

/// What the name of a log's directory ends in while its successor is built there, and afterwards while the old log is
/// deleted there.
const NEW: &str = ".new";

/// What it ends in while the successor takes its place on a file system that can't exchange names.
const OLD: &str = ".old";

/// What is about to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompactStep {
    /// Delete what an interrupted run left.
    Clean,
    /// Make the directory of the new log.
    Begin,
    /// Make a file of the new log.
    Create(FileId),
    /// Write into one.
    Write(FileId),
    /// Sync one.
    Sync(FileId),
    /// Read the new log back and compare.
    Check,
    /// Let the two change names.
    Exchange,
    /// Move the old log aside, where names can't be exchanged.
    MoveOld,
    /// Move the new log to its place, where names can't be exchanged.
    MoveNew,
    /// Make the new name durable.
    SyncNames,
    /// Delete the old log.
    Delete,
}

/// How far a compaction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactProgress {
    /// What is next.
    pub step: CompactStep,
    /// Bodies of the log.
    pub bodies: u64,
    /// Of these, how many are written.
    pub bodies_done: u64,
}

/// How to compact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompactOptions {
    /// Change nothing, and say what it would save.
    pub dry_run: bool,
    /// Use two renames even where names can be exchanged. For tests.
    pub without_exchange: bool,
}

/// What became of one log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compacted {
    /// Which of the store's logs.
    pub log: u32,
    /// Files before.
    pub files_before: u32,
    /// Records before, trimmed and superseded ones included as far as their segments are kept.
    pub records_before: u64,
    /// Segments with records before.
    pub segments_before: u32,
    /// The new log, or how it would be.
    pub built: BuiltLog,
    /// Length of every file.
    pub segment_bytes: u64,
    /// Whether the log was replaced. It isn't in a dry run, or if nothing would be saved.
    pub replaced: bool,
}

impl Compacted {
    /// Bytes of the log's files before.
    pub fn bytes_before(&self) -> u64 {
        u64::from(self.files_before) * self.segment_bytes
    }

    /// Bytes of the log's files afterwards.
    pub fn bytes_after(&self) -> u64 {
        u64::from(self.built.files) * self.segment_bytes
    }
}

/// Why a store can't be compacted. Its log is the old one, whole.
#[derive(Debug, Error)]
pub enum CompactError {
    /// The store can't be opened, or a node runs on it.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The old log isn't sound.
    #[error("the log can't be compacted before it is mended: {0}")]
    Recover(Box<RecoverError>),
    /// The content can't be rewritten.
    #[error(transparent)]
    Rewrite(#[from] CompactionError),
    /// The new log doesn't say what the old one says: a bug, or a disk that doesn't keep what is written.
    #[error("the new log differs from the old one, which was kept: {0}")]
    Difference(#[from] Difference),
    /// The new log can't be read back.
    #[error("the new log can't be read back, the old one was kept: {0}")]
    ReadBack(Box<RecoverError>),
    /// A file that no compaction puts there.
    #[error("{} isn't part of a log; move it away", .0.display())]
    Foreign(PathBuf),
    /// The caller said so.
    #[error("interrupted; the next run cleans up")]
    Interrupted,
    /// The file system refused something.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Compacts all logs of a store that no node runs on. `watch` hears of every step before it is taken, and may stop
/// there: then all is left as if the process had been killed.
///
/// # Errors
/// See [`CompactError`].
pub fn compact(
    directory: &Path,
    options: &CompactOptions,
    watch: &mut dyn FnMut(&CompactProgress) -> ControlFlow<()>,
) -> Result<Vec<Compacted>, CompactError> {
    // Identity first: a path that isn't a store shouldn't get a lock file.
    read_identity(directory)?;
    let _lock = DirectoryLock::take(directory)?;
    let identity = read_identity(directory)?;
    let mut logs = Vec::new();
    for log in 0..identity.logs {
        let Some(log_identity) = identity.log_identity(log) else {
            return Err(OpenError::NotBootstrapped(directory.to_path_buf()).into());
        };
        let place = Place::new(directory, log);
        let mut watcher = Watcher { watch, bodies: 0, bodies_done: 0 };
        logs.push(place.compact(log_identity, identity.segment_bytes, options, &mut watcher)?);
    }
    Ok(logs)
}

/// Puts the old log back where a compaction without an exchange of names was interrupted half way. Whoever opens a store
/// does this under its lock; usually there is nothing to do.
///
/// # Errors
/// If it can't be moved.
pub(super) fn restore(directory: &Path, log: u32) -> Result<(), FileError> {
    let place = Place::new(directory, log);
    if !is_there(&place.log)? && is_there(&place.old)? {
        rename(&place.old, &place.log)?;
        sync_directory(directory)?;
    }
    Ok(())
}

/// The directories of one log.
struct Place<'a> {
    directory: &'a Path,
    number: u32,
    log: PathBuf,
    new: PathBuf,
    old: PathBuf,
}

/// Tells the caller of every step.
struct Watcher<'watch> {
    watch: &'watch mut dyn FnMut(&CompactProgress) -> ControlFlow<()>,
    bodies: u64,
    bodies_done: u64,
}

impl Watcher<'_> {
    fn step(&mut self, step: CompactStep) -> Result<(), CompactError> {
        let progress = CompactProgress { step, bodies: self.bodies, bodies_done: self.bodies_done };
        match (self.watch)(&progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(CompactError::Interrupted),
        }
    }
}

impl<'a> Place<'a> {
    fn new(directory: &'a Path, number: u32) -> Place<'a> {
        let log = log_path(directory, number);
        let beside = |end: &str| {
            let mut name = log.clone().into_os_string();
            name.push(end);
            PathBuf::from(name)
        };
        Place { directory, number, new: beside(NEW), old: beside(OLD), log }
    }

    fn compact(
        &self,
        identity: LogIdentity,
        segment_bytes: u64,
        options: &CompactOptions,
        watcher: &mut Watcher<'_>,
    ) -> Result<Compacted, CompactError> {
        if !options.dry_run {
            self.clean(watcher)?;
        }
        let store = DirectoryStore::new(&self.log);
        let old = recover(&store, &identity.expected(), segment_bytes)
            .map_err(|error| CompactError::Recover(Box::new(error)))?;
        watcher.bodies = old.index.len() as u64;
        let mut compacted = Compacted {
            log: self.number,
            files_before: old.files_count() as u32,
            records_before: old.records,
            segments_before: old.segments.len() as u32,
            built: BuiltLog::default(),
            segment_bytes,
            replaced: false,
        };
        // How long it will be is known before a byte is written: a log that is compact already is left alone.
        compacted.built = compaction::rewrite(&store, &old, identity, &mut NoDisk, &mut |_| {})?;
        if options.dry_run || compacted.built.files >= compacted.files_before {
            return Ok(compacted);
        }
        let built = self.build(&store, &old, identity, watcher);
        if let Err(error) = built {
            if !matches!(error, CompactError::Interrupted) {
                // A full disk must not be left fuller. The error that is told is the first one.
                let _ = remove_log(&self.new);
            }
            return Err(error);
        }
        self.exchange(options, watcher)?;
        watcher.step(CompactStep::Delete)?;
        for path in [&self.new, &self.old] {
            remove_log(path)?;
        }
        sync_directory(self.directory)?;
        compacted.replaced = true;
        Ok(compacted)
    }

    /// What an interrupted run left: never the log itself.
    fn clean(&self, watcher: &mut Watcher<'_>) -> Result<(), CompactError> {
        restore(self.directory, self.number)?;
        for path in [&self.new, &self.old] {
            if is_there(path)? {
                watcher.step(CompactStep::Clean)?;
                remove_log(path)?;
                sync_directory(self.directory)?;
            }
        }
        Ok(())
    }

    /// Writes the new log beside the old one, durable, and checks it.
    fn build(
        &self,
        store: &DirectoryStore,
        old: &RecoveredLog,
        identity: LogIdentity,
        watcher: &mut Watcher<'_>,
    ) -> Result<(), CompactError> {
        watcher.step(CompactStep::Begin)?;
        make_directory(&self.new)?;
        sync_directory(self.directory)?;
        let bodies_done = Cell::new(0);
        let mut disk = WatchedDisk {
            disk: FileDisk::new(self.new.clone(), old.segment_bytes),
            watcher,
            bodies_done: &bodies_done,
            interrupted: false,
        };
        let rewritten = compaction::rewrite(store, old, identity, &mut disk, &mut |bodies| bodies_done.set(bodies));
        if disk.interrupted {
            return Err(CompactError::Interrupted);
        }
        rewritten?;
        watcher.step(CompactStep::Check)?;
        let new_store = DirectoryStore::new(&self.new);
        let new = recover(&new_store, &identity.expected(), old.segment_bytes).map_err(read_back)?;
        compaction::compare(old, &new)?;
        // The blocks of packs are right; this says that the right bodies were put into them.
        for entry in new.index.iter_from(Slot(0)) {
            let read = read_body(&new_store, &entry.location, &entry.body).map_err(|error| read_back(error.into()));
            if read?.is_err() {
                return Err(Difference::Body(entry.body.first).into());
            }
        }
        Ok(())
    }

    fn exchange(&self, options: &CompactOptions, watcher: &mut Watcher<'_>) -> Result<(), CompactError> {
        watcher.step(CompactStep::Exchange)?;
        let exchanged = match options.without_exchange {
            true => Err(rustix::io::Errno::INVAL),
            false => renameat_with(CWD, &self.new, CWD, &self.log, RenameFlags::EXCHANGE),
        };
        match exchanged {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::OPNOTSUPP) => {
                watcher.step(CompactStep::MoveOld)?;
                rename(&self.log, &self.old)?;
                sync_directory(self.directory)?;
                watcher.step(CompactStep::MoveNew)?;
                rename(&self.new, &self.log)?;
            }
            Err(error) => return Err(FileError::new("exchange", &self.log)(error.into()).into()),
        }
        watcher.step(CompactStep::SyncNames)?;
        Ok(sync_directory(self.directory)?)
    }
}

fn read_back(error: RecoverError) -> CompactError {
    CompactError::ReadBack(Box::new(error))
}

/// Files of the new log.
struct WatchedDisk<'a, 'watch> {
    disk: FileDisk,
    watcher: &'a mut Watcher<'watch>,
    bodies_done: &'a Cell<u64>,
    interrupted: bool,
}

impl WatchedDisk<'_, '_> {
    fn step(&mut self, step: CompactStep, file: FileId) -> Result<(), FileError> {
        self.watcher.bodies_done = self.bodies_done.get();
        let told = self.watcher.step(step);
        told.map_err(|_| {
            self.interrupted = true;
            FileError::new("go on with", Path::new(&file.file_name()))(io::ErrorKind::Interrupted.into())
        })
    }
}

impl LogDisk for WatchedDisk<'_, '_> {
    fn write(&mut self, file: FileId, offset: u64, bytes: &[u8]) -> Result<(), FileError> {
        self.step(CompactStep::Write(file), file)?;
        self.disk.write(file, offset, bytes)
    }

    fn sync(&mut self, file: FileId) -> Result<(), FileError> {
        self.step(CompactStep::Sync(file), file)?;
        self.disk.sync(file)
    }

    fn create(&mut self, file: FileId) -> Result<(), FileError> {
        self.step(CompactStep::Create(file), file)?;
        self.disk.create(file)
    }
}

fn is_there(path: &Path) -> Result<bool, FileError> {
    match std::fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(FileError::new("look at", path)(error)),
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    std::fs::rename(from, to).map_err(FileError::new("rename", from))
}

/// Deletes the files of a log and its directory, and nothing else.
fn remove_log(path: &Path) -> Result<(), CompactError> {
    if !is_there(path)? {
        return Ok(());
    }
    if !std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir()) {
        return Err(CompactError::Foreign(path.to_path_buf()));
    }
    for entry in std::fs::read_dir(path).map_err(FileError::new("list", path))? {
        let entry = entry.map_err(FileError::new("list", path))?;
        let file = entry.path();
        let name = entry.file_name();
        let is_segment = name.to_str().and_then(FileId::from_file_name).is_some();
        if !is_segment && !pool_file::is_name(&name) {
            return Err(CompactError::Foreign(file));
        }
        std::fs::remove_file(&file).map_err(FileError::new("remove", &file))?;
    }
    Ok(std::fs::remove_dir(path).map_err(FileError::new("remove", path))?)
}

/// The name under which readers find a log: its own, or for a moment that of the log that was moved aside.
pub(super) fn current_log_path(directory: &Path, log: u32) -> PathBuf {
    let place = Place::new(directory, log);
    let aside = matches!((is_there(&place.log), is_there(&place.old)), (Ok(false), Ok(true)));
    if aside { place.old } else { place.log }
}
