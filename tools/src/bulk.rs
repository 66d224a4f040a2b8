//! Segments for verbs that read all of them: each file at once and past the page cache where io_uring allows it,
//! otherwise piece by piece as any file.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;
use synod_wal::directory::DirectoryStore;
use synod_wal::{FileId, SegmentStore};

use crate::uring::BulkReader;

/// Longest file that is read at once; memory for one is needed per thread.
const WHOLE_BYTES_MAX: u64 = 256 << 20;

/// How files are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// By io_uring where that works.
    Ring,
    /// With plain reads, through the page cache.
    Plain,
}

/// The files of one log. A file that was loaded is lent out of memory.
pub(crate) struct BulkStore {
    plain: DirectoryStore,
    reader: Option<BulkReader>,
    loaded: Option<(FileId, usize)>,
}

impl BulkStore {
    /// The files in the directory of a log.
    pub(crate) fn new(directory: &Path, reading: Reading) -> BulkStore {
        let reader = if reading == Reading::Ring { BulkReader::new().ok() } else { None };
        BulkStore { plain: DirectoryStore::new(directory), reader, loaded: None }
    }

    /// Reads a whole file into memory, if that can be done; whether it was. Where not, reads go to the file itself and
    /// say what is wrong with it, if anything is.
    pub(crate) fn load(&mut self, file: FileId) -> bool {
        self.loaded = None;
        let Some(reader) = &mut self.reader else { return false };
        let path = self.plain.directory().join(file.file_name());
        let Ok(opened) = open_direct(&path) else { return false };
        let bytes = opened.metadata().map_or(0, |metadata| metadata.len());
        // Direct reads are of whole blocks; a file of another length was cut, and is read as far as it goes.
        let wanted = bytes <= WHOLE_BYTES_MAX && bytes.is_multiple_of(synod_frame::BLOCK_BYTES as u64);
        if !wanted || reader.load(&opened, bytes as usize).is_err() {
            return false;
        }
        self.loaded = Some((file, bytes as usize));
        true
    }

    fn part(&self, file: FileId, offset: u64, bytes: usize) -> Option<&[u8]> {
        let (_, loaded) = self.loaded.filter(|(known, _)| *known == file)?;
        let start = usize::try_from(offset).ok()?;
        self.reader.as_ref()?.loaded().get(..loaded)?.get(start..start.checked_add(bytes)?)
    }
}

/// Whether io_uring can be used; otherwise why not.
pub(crate) fn ring_refused() -> Option<io::Error> {
    BulkReader::new().err()
}

fn open_direct(path: &Path) -> io::Result<File> {
    // A pipe of that name must keep nobody waiting.
    let flags = OFlags::DIRECT | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

impl SegmentStore for BulkStore {
    fn files(&self) -> io::Result<Vec<FileId>> {
        self.plain.files()
    }

    fn len(&self, file: FileId) -> io::Result<u64> {
        self.plain.len(file)
    }

    fn read_at(&self, file: FileId, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        match self.part(file, offset, buffer.len()) {
            Some(part) => {
                buffer.copy_from_slice(part);
                Ok(())
            }
            None => self.plain.read_at(file, offset, buffer),
        }
    }

    fn lend(&self, file: FileId, offset: u64, bytes: usize) -> Option<&[u8]> {
        self.part(file, offset, bytes)
    }
}
