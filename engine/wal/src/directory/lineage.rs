//! Surviving directories, and the directory of the member that begins a new lineage of them.
//!
//! The surviving ones are only read. The new one is written beside them and gets its identity last: before that it is no
//! store, and afterwards it is whole. So an interruption leaves the old directories as they were, and at most a directory
//! that no node starts on.

use std::path::{Path, PathBuf};

use synod_protocol::{Mark, NodeId};
use thiserror::Error;

use super::copy::{CopyError, write_copy};
use super::lock::DirectoryLock;
use super::store::DirectoryStore;
use super::{NodeIdentity, OpenError, current_log_path, read_identity};
use crate::lineage::{LineageError, LineagePlan, Survivor};
use crate::recovery::{RecoverError, recover};
use crate::salvage::{Salvaged, salvage};

/// The directory of a member that is left. Nothing runs on it as long as this value lives.
#[derive(Debug)]
pub struct SurvivingDirectory {
    path: PathBuf,
    identity: NodeIdentity,
    store: DirectoryStore,
    log: Salvaged,
    _lock: DirectoryLock,
}

/// Why a new lineage isn't begun. The surviving directories are as they were.
#[derive(Debug, Error)]
pub enum BeginError {
    /// A surviving directory can't be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A surviving log can't be read.
    #[error("{}: {error}", .path.display())]
    Recover {
        /// The directory.
        path: PathBuf,
        /// Why not.
        error: Box<RecoverError>,
    },
    /// The new directory can't be written.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// There is no such lineage.
    #[error(transparent)]
    Lineage(#[from] LineageError),
    /// The new log doesn't say what was written.
    #[error("the new log in {} doesn't say what was written: the disk doesn't keep it", .0.display())]
    ReadBack(PathBuf),
}

impl SurvivingDirectory {
    /// Reads a directory that no node runs on.
    ///
    /// # Errors
    /// See [`BeginError`].
    pub fn read(path: &Path) -> Result<SurvivingDirectory, BeginError> {
        read_identity(path)?;
        let lock = DirectoryLock::take(path)?;
        let identity = read_identity(path)?;
        let expected = identity.log_identity(0).ok_or_else(|| OpenError::NotBootstrapped(path.to_path_buf()))?;
        let store = DirectoryStore::new(current_log_path(path, 0));
        let wrong = |error| BeginError::Recover { path: path.to_path_buf(), error: Box::new(error) };
        let log = salvage(&store, &expected.expected(), identity.segment_bytes).map_err(wrong)?;
        Ok(SurvivingDirectory { path: path.to_path_buf(), identity, store, log, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Who it is, and what its log says.
    pub fn survivor(&self) -> Survivor<'_> {
        Survivor { identity: &self.identity, store: &self.store, log: &self.log }
    }
}

/// Writes the directory of the member that begins a new lineage as `node`; `to` must not be there, or be empty.
///
/// # Errors
/// See [`BeginError`]; what is left in `to` then is no store.
pub fn begin_lineage(
    to: &Path,
    node: NodeId,
    plan: &LineagePlan,
    survivors: &[Survivor<'_>],
) -> Result<NodeIdentity, BeginError> {
    let identity = plan.identity(node, uuid::Uuid::new_v4().into_bytes());
    write_copy(to, &identity, &mut |log, disk| -> Result<(), BeginError> {
        plan.write(survivors, &identity, disk)?;
        let expected = identity.log_identity(0).expect("a lineage belongs to a cluster").expected();
        let read = recover(&DirectoryStore::new(log), &expected, identity.segment_bytes);
        let read = read.map_err(|error| BeginError::Recover { path: to.to_path_buf(), error: Box::new(error) })?;
        let ends =
            |mark: Mark| mark.slot == plan.end.slot.plus(1) && read.index.mark_at(plan.end.slot) == Some(plan.end);
        // The mark of the end is right only if everything before it is.
        if !read.damages.is_empty() || !ends(read.mark) || read.index.base() != plan.base {
            return Err(BeginError::ReadBack(to.to_path_buf()));
        }
        Ok(())
    })?;
    Ok(identity)
}
