//! A node's directory on a real file system; the only module of this crate that does I/O.
//!
//! ```text
//! DIR/identity              who this store is; readable, checksummed, replaced as a whole
//! DIR/identity.spare        the identity before, which is written over and exchanged: that needs no room on the disk
//! DIR/peers                 what was seen of the peers' stores; readable, checksummed, replaced as a whole (and its spare)
//! DIR/LOCK                  flock'ed by whoever may write; never deleted
//! DIR/log-0000/pool         how many files the pool has ever had; readable, checksummed, replaced as a whole
//! DIR/log-0000/segment-NNNNNN.wal   the pool; a file keeps its name in all its lives
//! DIR/log-0001, DIR/peers-0001      the same for the second group, and so on; most nodes have one
//! ```
//!
//! [`init`] makes a store, once, with a random incarnation. [`bootstrap`] makes it a member of a cluster, once: before
//! that it has no say. [`open`] takes the lock and counts the boot. [`DirectoryStore`] reads beside a running node,
//! [`ReadAheadStore`] before one runs.
//! Directories are 0700, files 0600; symbolic links are never followed.

mod ahead;
mod bootstrap;
mod compact;
mod copy;
mod disk;
mod found;
mod identity_file;
mod init;
mod lineage;
mod lock;
mod peers_file;
mod pool_file;
mod read_buffer;
mod store;

use std::io;
use std::path::{Path, PathBuf};

use synod_protocol::NodeId;
use thiserror::Error;

pub use ahead::{ReadAheadStore, ReadProgress};
pub use bootstrap::{BootstrapError, Bootstrapped, Genesis, bootstrap, join, join_groups};
pub use compact::{CompactError, CompactOptions, CompactProgress, CompactStep, Compacted, compact};
pub use copy::{CopyError, write_copy};
pub use disk::FileDisk;
pub use found::{FoundError, Founding, FoundingStart, check_unused, found};
pub use identity_file::{IdentityFileError, IdentityProblem, LOGS_MAX, NodeIdentity};
pub use init::{InitError, InitOptions, InitProgress, init};
pub use lineage::{BeginError, SurvivingDirectory, begin_lineage};
pub use lock::DirectoryLock;
pub use peers_file::{read_stores_seen, write_stores_seen};
pub use pool_file::note_file_made;
pub use read_buffer::ReadBuffer;
pub use store::DirectoryStore;

/// Name of the identity file.
const IDENTITY: &str = "identity";

/// Its name while it is being written; between two changes the file stays, for the room that it takes.
const IDENTITY_SPARE: &str = "identity.spare";

/// Something that the file system refused.
#[derive(Debug, Error)]
#[error("can't {operation} {}: {source}", path.display())]
pub struct FileError {
    /// What was tried.
    pub operation: &'static str,
    /// On what.
    pub path: PathBuf,
    /// Why not.
    pub source: io::Error,
}

impl FileError {
    fn new(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
        let path = path.to_path_buf();
        move |source| FileError { operation, path, source }
    }
}

/// The directory of one of a node's logs.
pub fn log_path(directory: &Path, log: u32) -> PathBuf {
    directory.join(format!("log-{log:04}"))
}

/// The directory of one of a node's logs, for readers: also while a compaction moves it, or was interrupted at that.
pub fn current_log_path(directory: &Path, log: u32) -> PathBuf {
    compact::current_log_path(directory, log)
}

/// Why a directory can't be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// There is no identity: it isn't a store, or not yet.
    #[error("{} isn't initialised; run `synod init` first, or check the path", .0.display())]
    NotInitialised(PathBuf),
    /// It belongs to no cluster yet.
    #[error("{} isn't bootstrapped: it belongs to no cluster yet; run `synod bootstrap`, or `synod join` if the cluster exists", .0.display())]
    NotBootstrapped(PathBuf),
    /// Another process has it open.
    #[error("{} is locked by another process{}", .path.display(), .holder.as_ref().map(|holder| format!(" ({holder})")).unwrap_or_default())]
    Locked {
        /// The directory.
        path: PathBuf,
        /// What the other process says of itself, for humans only.
        holder: Option<String>,
    },
    /// It is another node's.
    #[error("{} is the store of node {}, not of node {}; check the configuration", .path.display(), .found.0, .expected.0)]
    Node {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: NodeId,
        /// Whose it should be.
        expected: NodeId,
    },
    /// It is another cluster's.
    #[error(
        "{} belongs to cluster {}, not {}; check the configuration",
        .path.display(),
        uuid::Uuid::from_bytes(*.found),
        uuid::Uuid::from_bytes(*.expected)
    )]
    Cluster {
        /// The directory.
        path: PathBuf,
        /// The cluster that it belongs to.
        found: [u8; 16],
        /// The cluster that it should belong to.
        expected: [u8; 16],
    },
    /// Others may write to it.
    #[error("{} may be written by others (mode {mode:o}); run `chmod 700` on it", .path.display())]
    Permissions {
        /// The directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The identity file is damaged or of another version.
    #[error(transparent)]
    Identity(#[from] IdentityFileError),
    /// The file system refused something.
    #[error(transparent)]
    File(#[from] FileError),
}

/// What a directory that is opened must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// The node whose store it must be, if that is known.
    pub node: Option<NodeId>,
    /// The cluster that it must belong to, if that is known.
    pub cluster: Option<[u8; 16]>,
}

/// A directory that this process may write to, until the value is dropped.
#[derive(Debug)]
pub struct OpenDirectory {
    path: PathBuf,
    identity: NodeIdentity,
    _lock: DirectoryLock,
}

impl OpenDirectory {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Who it is; the boot counter is that of this boot.
    pub fn identity(&self) -> &NodeIdentity {
        &self.identity
    }

    /// Where one of its logs is.
    pub fn log_path(&self, log: u32) -> PathBuf {
        log_path(&self.path, log)
    }
}

/// Opens a directory for serving: takes the lock, checks whose it is, and counts the boot, durably.
///
/// # Errors
/// See [`OpenError`]; nothing was changed then, except that the boot may have been counted.
pub fn open(directory: &Path, expected: &Expected) -> Result<OpenDirectory, OpenError> {
    // Identity first: a path that isn't a store shouldn't get a lock file.
    read_identity(directory)?;
    let lock = DirectoryLock::take(directory)?;
    check_permissions(directory)?;
    let mut identity = read_identity(directory)?;
    let path = || directory.to_path_buf();
    if let Some(node) = expected.node.filter(|node| *node != identity.node) {
        return Err(OpenError::Node { path: path(), found: identity.node, expected: node });
    }
    let Some(cluster) = identity.cluster else { return Err(OpenError::NotBootstrapped(path())) };
    if let Some(other) = expected.cluster.filter(|other| *other != cluster) {
        return Err(OpenError::Cluster { path: path(), found: cluster, expected: other });
    }
    identity.boot_counter += 1;
    write_identity(directory, &identity)?;
    // A segment file may have been made just before its maker was killed: its name must be durable before the log uses
    // it, or a power failure takes the file away with what was acknowledged in it.
    for log in 0..identity.logs {
        compact::restore(directory, log)?;
        disk::sync_directory(&log_path(directory, log))?;
    }
    Ok(OpenDirectory { path: path(), identity, _lock: lock })
}

/// Reads a directory's identity, without the lock: it is always whole, for it is replaced by renaming.
///
/// # Errors
/// See [`OpenError`].
pub fn read_identity(directory: &Path) -> Result<NodeIdentity, OpenError> {
    let path = directory.join(IDENTITY);
    let text = match disk::read_small(&path) {
        Ok(text) => text,
        Err(source) if source.kind() == io::ErrorKind::NotFound => {
            return Err(OpenError::NotInitialised(directory.to_path_buf()));
        }
        Err(source) => return Err(FileError::new("read", &path)(source).into()),
    };
    Ok(NodeIdentity::parse(&text).map_err(|problem| IdentityFileError { path, problem })?)
}

/// Replaces the identity as a whole: after a crash it is the old one or the new one. A node must start on a full disk,
/// or nobody could trim its log: so a file that is there already is written over, and the two change names.
fn write_identity(directory: &Path, identity: &NodeIdentity) -> Result<(), FileError> {
    let (spare, path) = (directory.join(IDENTITY_SPARE), directory.join(IDENTITY));
    disk::write_small(&spare, identity.to_text().as_bytes())?;
    disk::exchange(&spare, &path).map_err(FileError::new("rename", &spare))?;
    disk::sync_directory(directory)
}

fn check_permissions(directory: &Path) -> Result<(), OpenError> {
    use std::os::unix::fs::PermissionsExt;
    let metadata = std::fs::metadata(directory).map_err(FileError::new("look at", directory))?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(OpenError::Permissions { path: directory.to_path_buf(), mode });
    }
    Ok(())
}
