//! The segment files of a log: with O_DIRECT in a directory, or in memory.
//!
//! Every position and length is a multiple of 4096, whatever smaller unit the device would take: glommio reads the
//! block size from another device's minor number. A short write is an error, not something to resume, because the log
//! above is poisoned by the first write that fails.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use glommio::GlommioError;
use glommio::io::{Directory, DmaFile, OpenOptions};
use rustix::fs::OFlags;
use synod_wal::FileId;
use synod_wal::directory::note_file_made;

use super::buffer::{self, Buffer};
use super::memory_disk::MemoryDisk;

/// How much is zeroed with one write.
const ZERO_WRITE_BYTES: u64 = 1 << 20;

/// Whether a write is durable when it completes, or only after a sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Open with O_DSYNC.
    EachWrite,
    /// Sync by hand.
    BySync,
}

/// Where the segment files of a log are.
#[derive(Clone, Debug)]
pub(crate) enum Disk {
    /// In a directory; its path is absolute, because the runtime underneath opens some relative paths beside nothing.
    Directory { path: PathBuf, durability: Durability },
    /// In memory.
    Memory(MemoryDisk),
}

impl Disk {
    /// What to call a file when something is wrong with it.
    pub(crate) fn path(&self, file: FileId) -> PathBuf {
        match self {
            Disk::Directory { path, .. } => path.join(file.file_name()),
            Disk::Memory(_) => Path::new("memory").join(file.file_name()),
        }
    }

    /// Opens an existing file for reading and writing.
    pub(crate) async fn open(&self, file: FileId) -> io::Result<File> {
        match self {
            Disk::Directory { durability, .. } => File::open(&self.path(file), *durability).await,
            Disk::Memory(disk) => Ok(File::Memory(disk.clone(), file)),
        }
    }

    /// Creates a file full of zeros, durably, with its name, takes note of it, and opens it.
    ///
    /// # Errors
    /// What the file system says; `Interrupted` if `stop` said so. The file is gone then.
    pub(crate) async fn create(&self, file: FileId, bytes: u64, stop: impl Fn() -> bool) -> io::Result<File> {
        match self {
            Disk::Directory { path, durability } => {
                let created = create_zeroed(&self.path(file), bytes, *durability, stop).await?;
                note_file_made(path, file).map_err(|error| error.source)?;
                Ok(created)
            }
            Disk::Memory(disk) => {
                disk.create(file, bytes).await?;
                Ok(File::Memory(disk.clone(), file))
            }
        }
    }

    /// Overwrites a range of an existing file with zeros, durably.
    ///
    /// # Errors
    /// What the file system says; `Interrupted` if `stop` said so.
    pub(crate) async fn zero(&self, file: FileId, range: Range<u64>, stop: impl Fn() -> bool) -> io::Result<()> {
        match self {
            Disk::Directory { .. } => zero(&self.path(file), range, stop).await,
            Disk::Memory(disk) => disk.zero(file, range).await,
        }
    }
}

/// An open file.
#[derive(Debug)]
pub(crate) enum File {
    /// With O_DIRECT.
    Direct(DmaFile),
    /// In memory.
    Memory(MemoryDisk, FileId),
}

impl File {
    /// Opens an existing file for reading and writing.
    pub(crate) async fn open(path: &Path, durability: Durability) -> io::Result<File> {
        let flags = match durability {
            Durability::EachWrite => OFlags::NOFOLLOW | OFlags::DSYNC,
            Durability::BySync => OFlags::NOFOLLOW,
        };
        // Read and write even where only one is needed: glommio's first open of a device probes it with a read.
        OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(flags.bits() as _)
            .dma_open(path)
            .await
            .map(File::Direct)
            .map_err(plain)
    }

    /// A file to which every write fails.
    #[cfg(test)]
    pub(crate) async fn open_read_only(path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).dma_open(path).await.map(File::Direct).map_err(plain)
    }

    async fn create(path: &Path) -> io::Result<File> {
        // An earlier creation may have been interrupted: then the file is there already.
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits() as _)
            .dma_open(path)
            .await
            .map(File::Direct)
            .map_err(plain)
    }

    /// Writes the whole buffer.
    pub(crate) async fn write_shared(&self, bytes: Rc<Buffer>, position: u64) -> io::Result<()> {
        let expected = bytes.len();
        match self {
            File::Direct(file) => complete(file.write_rc_at(bytes, position).await.map_err(plain)?, expected),
            File::Memory(disk, file) => disk.write(*file, position, bytes.as_bytes()).await,
        }
    }

    /// Writes the whole buffer.
    pub(crate) async fn write(&self, bytes: Buffer, position: u64) -> io::Result<()> {
        let expected = bytes.len();
        match self {
            File::Direct(file) => complete(file.write_at(bytes, position).await.map_err(plain)?, expected),
            File::Memory(disk, file) => disk.write(*file, position, bytes.as_bytes()).await,
        }
    }

    /// Makes everything written before durable.
    pub(crate) async fn sync(&self) -> io::Result<()> {
        match self {
            File::Direct(file) => file.fdatasync().await.map_err(plain),
            File::Memory(disk, file) => disk.sync(*file).await,
        }
    }

    /// Reads exactly `bytes` bytes.
    pub(crate) async fn read(&self, position: u64, bytes: usize) -> io::Result<Buffer> {
        let file = match self {
            File::Direct(file) => file,
            File::Memory(disk, file) => {
                let mut buffer = buffer::allocate(bytes);
                disk.read(*file, position, buffer.as_bytes_mut()).await?;
                return Ok(buffer);
            }
        };
        let read = file.read_at_aligned(position, bytes).await.map_err(plain)?;
        if read.len() != bytes {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("read {} of {bytes} bytes at {position}", read.len()),
            ));
        }
        // The read result can't be taken apart into its buffer, hence the copy; this is not the hot path.
        let mut copy = buffer::allocate(bytes);
        copy.as_bytes_mut().copy_from_slice(&read);
        Ok(copy)
    }

    /// Zeros a range of whole blocks, durably. Gives up between two writes when `stop` says so.
    async fn fill_with_zeros(&self, range: Range<u64>, stop: impl Fn() -> bool) -> io::Result<()> {
        let chunk = ZERO_WRITE_BYTES.min(range.end - range.start);
        if chunk > 0 {
            let mut zeros = buffer::allocate(chunk as usize);
            zeros.as_bytes_mut().fill(0);
            let zeros = Rc::new(zeros);
            let mut position = range.start;
            while position + chunk <= range.end {
                if stop() {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                self.write_shared(Rc::clone(&zeros), position).await?;
                position += chunk;
            }
            if position < range.end {
                let mut rest = buffer::allocate((range.end - position) as usize);
                rest.as_bytes_mut().fill(0);
                self.write(rest, position).await?;
            }
        }
        self.sync().await
    }

    async fn close(self) -> io::Result<()> {
        match self {
            File::Direct(file) => file.close().await.map_err(plain),
            File::Memory(..) => Ok(()),
        }
    }
}

/// The kernel's own answer. The runtime underneath wraps it into a text, and the error's number is lost in it.
fn plain(error: GlommioError<()>) -> io::Error {
    match error {
        GlommioError::IoError(source) | GlommioError::EnhancedIoError { source, .. } => source,
        other => other.into(),
    }
}

fn complete(written: usize, expected: usize) -> io::Result<()> {
    if written == expected {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::WriteZero, format!("wrote {written} of {expected} bytes")))
}

/// Creates a file full of zeros, durably, with its name, and opens it.
///
/// Zeros are really written: a sync over blocks that were only reserved costs three to five times as much.
///
/// # Errors
/// What the file system says; `Interrupted` if `stop` said so. The file is gone then.
async fn create_zeroed(path: &Path, bytes: u64, durability: Durability, stop: impl Fn() -> bool) -> io::Result<File> {
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let file = File::create(path).await?;
    let filled = async {
        if let File::Direct(file) = &file {
            file.pre_allocate(bytes, false).await.map_err(plain)?;
        }
        file.fill_with_zeros(0..bytes, stop).await
    };
    if let Err(error) = filled.await {
        // A half-made file would count as a damaged segment at the next start.
        let _ = file.close().await;
        let _ = std::fs::remove_file(path);
        return Err(error);
    }
    file.close().await?;
    let directory = Directory::open(directory).await.map_err(plain)?;
    directory.sync().await.map_err(plain)?;
    directory.close().await.map_err(plain)?;
    File::open(path, durability).await
}

/// Overwrites a range of an existing file with zeros, durably. Goes through a handle of its own, so that the zeros are
/// synced once and not write by write.
///
/// # Errors
/// What the file system says; `Interrupted` if `stop` said so.
async fn zero(path: &Path, range: Range<u64>, stop: impl Fn() -> bool) -> io::Result<()> {
    let file = File::open(path, Durability::BySync).await?;
    let filled = file.fill_with_zeros(range, stop).await;
    file.close().await?;
    filled
}

/// The open files of a log, by number.
#[derive(Debug)]
pub(crate) struct Files<K> {
    open: RefCell<BTreeMap<K, Rc<File>>>,
}

impl<K: Copy + Ord> Files<K> {
    /// None yet.
    pub(crate) fn new() -> Files<K> {
        Files { open: RefCell::new(BTreeMap::new()) }
    }

    /// Adds a file, or replaces one.
    pub(crate) fn insert(&self, key: K, file: File) {
        self.open.borrow_mut().insert(key, Rc::new(file));
    }

    /// The file of that number.
    pub(crate) fn find(&self, key: K) -> Option<Rc<File>> {
        self.open.borrow().get(&key).map(Rc::clone)
    }

    /// Closes all.
    pub(crate) async fn close(&self) {
        let files = std::mem::take(&mut *self.open.borrow_mut());
        for file in files.into_values() {
            if let Ok(file) = Rc::try_unwrap(file)
                && let Err(error) = file.close().await
            {
                tracing::debug!(%error, "closing a segment file");
            }
        }
    }
}
