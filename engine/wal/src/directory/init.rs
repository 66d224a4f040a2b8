//! Making a store.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use synod_protocol::NodeId;
use thiserror::Error;

use super::disk::{FileDisk, sync_directory};
use super::lock::DirectoryLock;
use super::store::DirectoryStore;
use super::{FileError, IDENTITY, LOGS_MAX, NodeIdentity, OpenError, log_path, write_identity};
use crate::format::SegmentHeaderError;
use crate::lsn::FileId;
use crate::scan::{ReadError, read_segment_header};
use crate::segment::{Geometry, SEGMENT_BYTES_DEFAULT};
use crate::store::SegmentStore;
use crate::writer::POOL_FILES_MIN;

/// File systems that forget everything at power-off, by the magic number of `statfs`.
const MEMORY_FILE_SYSTEMS: [(u64, &str); 2] = [(0x0102_1994, "tmpfs"), (0x8584_58f6, "ramfs")];

/// Mode of all directories.
const DIRECTORY_MODE: u32 = 0o700;

/// What a store is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitOptions {
    /// Length of every segment; never changes afterwards. Default 64 MiB.
    pub segment_bytes: u64,
    /// Files that are made now for each log, so that it needn't make them while it works; at least
    /// [`POOL_FILES_MIN`]. Default 8.
    pub files: u32,
    /// Logs, one for each group that the node is to have; never changes afterwards. 1 to [`LOGS_MAX`], default 1.
    pub logs: u32,
    /// Whether a file system in memory is accepted, where nothing survives a power failure. For tests. Default no.
    pub allow_memory_fs: bool,
}

impl Default for InitOptions {
    fn default() -> InitOptions {
        InitOptions { segment_bytes: SEGMENT_BYTES_DEFAULT, files: 8, logs: 1, allow_memory_fs: false }
    }
}

/// How far `init` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitProgress {
    /// Files that are done.
    pub files_done: u32,
    /// Files in all.
    pub files: u32,
    /// Bytes that are written and durable.
    pub bytes_done: u64,
}

/// Why a store can't be made.
#[derive(Debug, Error)]
pub enum InitError {
    /// Node zero names nobody.
    #[error("a node's number is 1 or higher")]
    Node,
    /// A segment size that no log has.
    #[error("segments can't have {0} bytes: it must be a power of two from 64 KiB to 1 GiB")]
    SegmentBytes(u64),
    /// Too few files for a log to work.
    #[error("a log needs at least {POOL_FILES_MIN} files, not {0}")]
    Files(u32),
    /// No logs, or more than a store can have.
    #[error("a node has 1 to {LOGS_MAX} groups, not {0}")]
    Logs(u32),
    /// It is a store already.
    #[error("{} is initialised already, as node {}; nothing was changed", .path.display(), .node.0)]
    AlreadyInitialised {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        node: NodeId,
    },
    /// Something else is in it.
    #[error("{} holds {name:?}, which isn't part of a store; choose an empty directory", .path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
        /// What was found.
        name: String,
    },
    /// A log without its identity.
    #[error("{} holds a log in {file}, but its identity is missing; restore the identity, or choose an empty directory", .path.display())]
    LogWithoutIdentity {
        /// The directory.
        path: PathBuf,
        /// A file that was used.
        file: FileId,
    },
    /// Nothing would survive a power failure.
    #[error("{} is on {file_system}, which loses everything when the machine stops; choose a disk (or allow_memory_fs, for tests)", .path.display())]
    MemoryFileSystem {
        /// The directory.
        path: PathBuf,
        /// The file system.
        file_system: &'static str,
    },
    /// Too little room.
    #[error("{} needs {needed} bytes and has {available}; free some, or make fewer or smaller segments", .path.display())]
    DiskFull {
        /// The directory.
        path: PathBuf,
        /// How much is needed.
        needed: u64,
        /// How much there is.
        available: u64,
    },
    /// Its identity can't be read, or another process has it open.
    #[error(transparent)]
    Open(OpenError),
    /// A segment can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The file system refused something.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Makes a store in `directory`, which is made too or must be empty: segments of zeros, a lock, an identity with a
/// random incarnation. If it is interrupted there is no identity, and it can be started again.
///
/// # Errors
/// See [`InitError`].
pub fn init(
    directory: &Path,
    node: NodeId,
    options: &InitOptions,
    progress: &mut dyn FnMut(InitProgress),
) -> Result<NodeIdentity, InitError> {
    let geometry = Geometry::new(options.segment_bytes).ok_or(InitError::SegmentBytes(options.segment_bytes))?;
    if node.0 == 0 {
        return Err(InitError::Node);
    }
    if options.files < POOL_FILES_MIN {
        return Err(InitError::Files(options.files));
    }
    if !(1..=LOGS_MAX).contains(&options.logs) {
        return Err(InitError::Logs(options.logs));
    }
    let parent = existing_ancestor(directory);
    check_file_system(&parent, options)?;
    check_content(directory)?;
    let logs: Vec<PathBuf> = (0..options.logs).map(|log| log_path(directory, log)).collect();
    make_directory(directory)?;
    for log in &logs {
        make_directory(log)?;
    }
    let _lock = DirectoryLock::take(directory).map_err(InitError::Open)?;
    check_content(directory)?;
    let mut present = 0;
    for log in &logs {
        present += check_segments(directory, log, geometry)?;
    }
    check_room(directory, options, present)?;

    let mut files_done = 0;
    for log in &logs {
        let disk = FileDisk::new(log.clone(), options.segment_bytes);
        for number in 1..=options.files {
            progress(done(files_done, options));
            disk.create(FileId(number)).map_err(|error| full_or(error, directory, options))?;
            files_done += 1;
        }
    }
    progress(done(files_done, options));
    let identity = NodeIdentity {
        node,
        incarnation: uuid::Uuid::new_v4().into_bytes(),
        cluster: None,
        lineage: 0,
        boot_counter: 0,
        logs: options.logs,
        segment_bytes: options.segment_bytes,
    };
    // Last: with the identity there, everything is.
    for made in directory.ancestors().take_while(|path| path.starts_with(&parent)) {
        sync_directory(made)?;
    }
    write_identity(directory, &identity)?;
    Ok(identity)
}

fn done(files_done: u32, options: &InitOptions) -> InitProgress {
    InitProgress {
        files_done,
        files: options.files.saturating_mul(options.logs),
        bytes_done: u64::from(files_done) * options.segment_bytes,
    }
}

/// The directory itself or what of its path is there already.
fn existing_ancestor(directory: &Path) -> PathBuf {
    let existing = directory.ancestors().find(|path| path.is_dir() && !path.as_os_str().is_empty());
    existing.unwrap_or(Path::new(".")).to_path_buf()
}

fn check_file_system(path: &Path, options: &InitOptions) -> Result<(), InitError> {
    let found = rustix::fs::statfs(path).map_err(io::Error::from).map_err(FileError::new("look at", path))?;
    let memory = MEMORY_FILE_SYSTEMS.iter().find(|(magic, _)| *magic == u64::from(found.f_type as u32));
    match memory {
        Some((_, file_system)) if !options.allow_memory_fs => {
            Err(InitError::MemoryFileSystem { path: path.to_path_buf(), file_system })
        }
        _ => Ok(()),
    }
}

/// Only what an interrupted `init` leaves may be there.
fn check_content(directory: &Path) -> Result<(), InitError> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(FileError::new("list", directory)(error).into()),
    };
    for entry in entries {
        let name = entry.map_err(FileError::new("list", directory))?.file_name();
        let name = name.to_string_lossy();
        if name == IDENTITY {
            let identity = super::read_identity(directory).map_err(InitError::Open)?;
            return Err(InitError::AlreadyInitialised { path: directory.to_path_buf(), node: identity.node });
        }
        let is_log = name.strip_prefix("log-").and_then(|log| log.parse().ok()).is_some_and(|log: u32| log < LOGS_MAX);
        if !is_log && !["LOCK", super::IDENTITY_SPARE].contains(&name.as_ref()) {
            return Err(InitError::NotEmpty { path: directory.to_path_buf(), name: name.into_owned() });
        }
    }
    Ok(())
}

/// No segment that is there may have been used; how many bytes they have.
pub(super) fn check_segments(directory: &Path, log: &Path, geometry: Geometry) -> Result<u64, InitError> {
    let store = DirectoryStore::new(log);
    let mut present = 0;
    for file in store.files().map_err(FileError::new("list", log))? {
        let bytes = store.len(file).map_err(FileError::new("look at", log))?;
        present += bytes;
        if bytes < crate::segment::BLOCK {
            continue;
        }
        let header = read_segment_header(&store, file, geometry)?;
        if header != Err(SegmentHeaderError::Fresh) {
            return Err(InitError::LogWithoutIdentity { path: directory.to_path_buf(), file });
        }
    }
    Ok(present)
}

pub(super) fn make_directory(path: &Path) -> Result<(), FileError> {
    let made = DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path);
    made.map_err(FileError::new("create", path))?;
    let private = std::fs::Permissions::from_mode(DIRECTORY_MODE);
    std::fs::set_permissions(path, private).map_err(FileError::new("make private", path))
}

fn needed(options: &InitOptions) -> u64 {
    u64::from(options.files).saturating_mul(options.logs.into()).saturating_mul(options.segment_bytes)
}

fn available(path: &Path) -> Result<u64, FileError> {
    let found = rustix::fs::statvfs(path).map_err(io::Error::from).map_err(FileError::new("look at", path))?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

fn check_room(directory: &Path, options: &InitOptions, present: u64) -> Result<(), InitError> {
    let (needed, available) = (needed(options), available(directory)?.saturating_add(present));
    if available < needed {
        return Err(InitError::DiskFull { path: directory.to_path_buf(), needed, available });
    }
    Ok(())
}

fn full_or(error: FileError, directory: &Path, options: &InitOptions) -> InitError {
    let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded].contains(&error.source.kind());
    match available(directory) {
        Ok(available) if full => {
            InitError::DiskFull { path: directory.to_path_buf(), needed: needed(options), available }
        }
        _ => error.into(),
    }
}
