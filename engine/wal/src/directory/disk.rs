//! Blocking file access: what `init` and `bootstrap` write with, and whoever runs a log without an asynchronous disk.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, OFlags};
use synod_frame::RecordBuffer;

use super::FileError;
use super::pool_file::note_file_made;
use crate::builder::LogDisk;
use crate::lsn::FileId;
use crate::segment::BLOCK;

/// Mode of all files.
const FILE_MODE: u32 = 0o600;

/// How much is zeroed at a time.
const ZERO_BYTES: usize = 1 << 20;

/// Longest identity or lock file that is read.
const SMALL_BYTES_MAX: u64 = 4096;

/// The files of one log, written with plain blocking calls.
#[derive(Clone, Debug)]
pub struct FileDisk {
    directory: PathBuf,
    segment_bytes: u64,
}

impl FileDisk {
    /// The files in the directory of a log.
    pub fn new(directory: PathBuf, segment_bytes: u64) -> FileDisk {
        FileDisk { directory, segment_bytes }
    }

    fn path(&self, file: FileId) -> PathBuf {
        self.directory.join(file.file_name())
    }

    /// Writes into a file of the pool.
    ///
    /// # Errors
    /// If it can't be opened or written: poison the log.
    pub fn write(&self, file: FileId, offset: u64, bytes: &[u8]) -> Result<(), FileError> {
        let path = self.path(file);
        let opened = open_for_writing(&path, OFlags::empty()).map_err(FileError::new("open", &path))?;
        opened.write_all_at(bytes, offset).map_err(FileError::new("write", &path))
    }

    /// Makes all completed writes to a file durable.
    ///
    /// # Errors
    /// If it can't be opened or synced: poison the log.
    pub fn sync(&self, file: FileId) -> Result<(), FileError> {
        let path = self.path(file);
        let opened = open_for_writing(&path, OFlags::empty()).map_err(FileError::new("open", &path))?;
        opened.sync_data().map_err(FileError::new("sync", &path))
    }

    /// Makes a file of zeros, durable with its name.
    ///
    /// # Errors
    /// If the disk is full for example: the file may be there in part; the log goes on without it.
    pub fn create(&self, file: FileId) -> Result<(), FileError> {
        let path = self.path(file);
        let make = || {
            let made = create_new_or_open(&path)?;
            // Room first: a full disk is noticed before the writing, and the file lies in one piece.
            match rustix::fs::fallocate(&made, FallocateFlags::empty(), 0, self.segment_bytes) {
                Ok(()) => {}
                Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
                Err(error) => return Err(error.into()),
            }
            made.set_len(self.segment_bytes)
        };
        make().map_err(FileError::new("create", &path))?;
        write_zeros(&path, 0, self.segment_bytes)?;
        sync_directory(&self.directory)?;
        note_file_made(&self.directory, file)
    }

    /// Writes zeros behind block 0 of a file, durable.
    ///
    /// # Errors
    /// If it can't be written; the log goes on without it.
    pub fn zero(&self, file: FileId, offset: u64, bytes: u64) -> Result<(), FileError> {
        write_zeros(&self.path(file), offset, bytes)
    }
}

impl LogDisk for FileDisk {
    fn write(&mut self, file: FileId, offset: u64, bytes: &[u8]) -> Result<(), FileError> {
        FileDisk::write(self, file, offset, bytes)
    }

    fn sync(&mut self, file: FileId) -> Result<(), FileError> {
        FileDisk::sync(self, file)
    }

    fn create(&mut self, file: FileId) -> Result<(), FileError> {
        FileDisk::create(self, file)
    }
}

fn open_for_writing(path: &Path, flags: OFlags) -> io::Result<File> {
    let flags = (flags | OFlags::NOFOLLOW | OFlags::CLOEXEC).bits() as i32;
    OpenOptions::new().write(true).custom_flags(flags).open(path)
}

fn create_new_or_open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW.bits() as i32;
    OpenOptions::new().write(true).create(true).truncate(false).mode(FILE_MODE).custom_flags(flags).open(path)
}

/// Past the page cache where the file system allows it: a pool of zeros shouldn't push everything else out of memory.
fn write_zeros(path: &Path, offset: u64, bytes: u64) -> Result<(), FileError> {
    assert!(offset.is_multiple_of(BLOCK) && bytes.is_multiple_of(BLOCK), "files are zeroed by whole blocks");
    let zeros = RecordBuffer::zeroed(ZERO_BYTES);
    let direct = open_for_writing(path, OFlags::DIRECT).and_then(|file| {
        fill(&file, offset, bytes, zeros.as_ref())?;
        Ok(file)
    });
    let written = match direct {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            open_for_writing(path, OFlags::empty()).and_then(|file| {
                fill(&file, offset, bytes, zeros.as_ref())?;
                Ok(file)
            })
        }
        other => other,
    };
    let file = written.map_err(FileError::new("write", path))?;
    file.sync_all().map_err(FileError::new("sync", path))
}

fn fill(file: &File, offset: u64, bytes: u64, zeros: &[u8]) -> io::Result<()> {
    let end = offset + bytes;
    let mut at = offset;
    while at < end {
        let part = (end - at).min(zeros.len() as u64) as usize;
        file.write_all_at(&zeros[..part], at)?;
        at += part as u64;
    }
    Ok(())
}

/// Opens a regular file, and nothing else: a pipe of that name would keep its reader waiting for ever.
pub(super) fn open_for_reading(path: &Path) -> io::Result<File> {
    open_regular(path, OFlags::empty())
}

/// The same past the page cache, for aligned reads of whole blocks; refused by file systems that can't.
pub(super) fn open_for_direct_reading(path: &Path) -> io::Result<File> {
    open_regular(path, OFlags::DIRECT)
}

fn open_regular(path: &Path, flags: OFlags) -> io::Result<File> {
    let flags = (flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC).bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok(file)
}

/// Reads a file that can't be long.
pub(super) fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    let file = open_for_reading(path)?;
    let mut content = Vec::new();
    file.take(SMALL_BYTES_MAX).read_to_end(&mut content)?;
    Ok(content)
}

/// Lets two files change names; where there is only the first, or the file system can't, the first takes the name of the
/// second. After a crash each name stands for one or the other.
pub(super) fn exchange(new: &Path, old: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use rustix::io::Errno;
    match renameat_with(CWD, new, CWD, old, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(()),
        Err(Errno::NOENT | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => std::fs::rename(new, old),
        Err(error) => Err(error.into()),
    }
}

/// Writes a whole file, durable but for its name. One that is there is written over: its blocks are used again, so that
/// a full disk has room for it.
pub(super) fn write_small(path: &Path, content: &[u8]) -> Result<(), FileError> {
    let write = || {
        let flags = OFlags::NOFOLLOW.bits() as i32;
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(FILE_MODE).custom_flags(flags);
        let mut file = options.open(path)?;
        file.write_all(content)?;
        file.set_len(content.len() as u64)?;
        file.sync_all()
    };
    write().map_err(FileError::new("write", path))
}

/// Makes the names in a directory durable.
pub(super) fn sync_directory(path: &Path) -> Result<(), FileError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(FileError::new("sync", path))
}
