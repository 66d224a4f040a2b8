//! The lock of a directory: one process at a time may write to it.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FlockOperation, OFlags};

use super::{FileError, OpenError, disk};

/// Name of the lock file.
const LOCK: &str = "LOCK";

/// Held until dropped, or until the process ends in whatever way. The file stays: whoever deleted it would let two
/// processes lock two files of the same name.
#[derive(Debug)]
pub struct DirectoryLock {
    file: File,
}

impl DirectoryLock {
    /// Takes the lock of a directory, or finds that another process has it; never waits.
    ///
    /// # Errors
    /// [`OpenError::Locked`], or a file error.
    pub fn take(directory: &Path) -> Result<DirectoryLock, OpenError> {
        let path = directory.join(LOCK);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let flags = OFlags::NOFOLLOW.bits() as i32;
        let mut file = options.custom_flags(flags).open(&path).map_err(FileError::new("open", &path))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let holder = disk::read_small(&path).ok().and_then(|text| String::from_utf8(text).ok());
                let holder = holder.map(|text| text.trim().to_string()).filter(|text| !text.is_empty());
                return Err(OpenError::Locked { path: directory.to_path_buf(), holder });
            }
            Err(error) => return Err(FileError::new("lock", &path)(error.into()).into()),
        }
        // For humans: nothing reads it back. A full disk is no reason not to start.
        let _ = file.set_len(0).and_then(|()| writeln!(file, "pid {}", std::process::id()));
        Ok(DirectoryLock { file })
    }
}

/// Closing the file would not do: a child that another thread has just forked holds it too, until it runs its program.
impl Drop for DirectoryLock {
    fn drop(&mut self) {
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}
