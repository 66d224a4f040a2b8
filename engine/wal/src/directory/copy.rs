//! A new directory for a store that exists already: what a repair writes.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::disk::{FileDisk, sync_directory};
use super::init::make_directory;
use super::lock::DirectoryLock;
use super::{FileError, NodeIdentity, OpenError, log_path, write_identity};

/// Why a copy can't be written.
#[derive(Debug, Error)]
pub enum CopyError {
    /// Something is there already.
    #[error("{} isn't empty; name a directory that isn't there yet", .0.display())]
    NotEmpty(PathBuf),
    /// It can't be locked.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The file system refused something.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Makes `copy`, which must not be there or be empty, lets `write` write its log, and gives it the identity last: without
/// one it is no store, so an interrupted copy is never taken for one.
///
/// # Errors
/// See [`CopyError`], and whatever `write` returns.
pub fn write_copy<E: From<CopyError>>(
    copy: &Path,
    identity: &NodeIdentity,
    write: &mut dyn FnMut(&Path, &mut FileDisk) -> Result<(), E>,
) -> Result<(), E> {
    let wrong = |error: FileError| E::from(CopyError::File(error));
    match std::fs::read_dir(copy) {
        Ok(entries) => {
            if entries.count() > 0 {
                return Err(CopyError::NotEmpty(copy.to_path_buf()).into());
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(wrong(FileError::new("list", copy)(error))),
    }
    let log = log_path(copy, 0);
    for path in [copy, &log] {
        make_directory(path).map_err(wrong)?;
    }
    let _lock = DirectoryLock::take(copy).map_err(|error| E::from(CopyError::Open(error)))?;
    let mut disk = FileDisk::new(log.clone(), identity.segment_bytes);
    write(&log, &mut disk)?;
    let parent = copy.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    for made in [log.as_path(), copy, parent] {
        sync_directory(made).map_err(wrong)?;
    }
    write_identity(copy, identity).map_err(wrong)
}
