//! Where segments are read from: a directory, a simulated disk, or memory.

use std::collections::BTreeMap;
use std::io;

use crate::lsn::FileId;

/// Read access to the files of one log. Files don't change while a log is recovered; a tool that looks at the log of
/// a running node says so to the scanner.
pub trait SegmentStore {
    /// The numbers of all files, in any order.
    ///
    /// # Errors
    /// If they can't be listed.
    fn files(&self) -> io::Result<Vec<FileId>>;

    /// The length of a file in bytes.
    ///
    /// # Errors
    /// If there is no such file or it can't be asked.
    fn len(&self, file: FileId) -> io::Result<u64>;

    /// Fills `buffer` from `offset` on.
    ///
    /// # Errors
    /// If it can't be read, or ends before the buffer is full ([`io::ErrorKind::UnexpectedEof`]).
    fn read_at(&self, file: FileId, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// How many files were ever made whole, numbered from one: each of them must still be there. Zero if nobody kept
    /// count.
    fn files_made(&self) -> u32 {
        0
    }

    /// The bytes that [`SegmentStore::read_at`] would copy, if the store has them in memory and lends them; then nobody
    /// copies them. `None`, as by default, where they must be read, or can't be.
    fn lend(&self, _file: FileId, _offset: u64, _bytes: usize) -> Option<&[u8]> {
        None
    }

    /// These files are about to be read from beginning to end, in this order: a store may read ahead, and tell somebody
    /// how far that is. Nothing, as by default, where neither is wanted.
    fn announce(&self, _files: &[FileId]) {}
}

/// Files in memory, for tests and simulations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryStore {
    files: BTreeMap<FileId, Vec<u8>>,
}

impl MemoryStore {
    /// No files.
    pub fn new() -> MemoryStore {
        MemoryStore::default()
    }

    /// Makes a file of zeros, or replaces one.
    pub fn create(&mut self, file: FileId, bytes: u64) {
        self.files.insert(file, vec![0; bytes as usize]);
    }

    /// Writes into a file, which grows as needed; makes it if there is none.
    pub fn write_at(&mut self, file: FileId, offset: u64, bytes: &[u8]) {
        let content = self.files.entry(file).or_default();
        let (start, end) = (offset as usize, offset as usize + bytes.len());
        if content.len() < end {
            content.resize(end, 0);
        }
        content[start..end].copy_from_slice(bytes);
    }

    /// A file's content.
    pub fn content(&self, file: FileId) -> Option<&Vec<u8>> {
        self.files.get(&file)
    }

    /// A file's content, to damage it.
    pub fn content_mut(&mut self, file: FileId) -> Option<&mut Vec<u8>> {
        self.files.get_mut(&file)
    }

    /// Removes a file.
    pub fn remove(&mut self, file: FileId) -> Option<Vec<u8>> {
        self.files.remove(&file)
    }

    fn find(&self, file: FileId) -> io::Result<&Vec<u8>> {
        self.files.get(&file).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl SegmentStore for MemoryStore {
    fn files(&self) -> io::Result<Vec<FileId>> {
        Ok(self.files.keys().copied().collect())
    }

    fn len(&self, file: FileId) -> io::Result<u64> {
        Ok(self.find(file)?.len() as u64)
    }

    fn read_at(&self, file: FileId, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let content = self.find(file)?;
        let found = part(content, offset, buffer.len());
        buffer.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn lend(&self, file: FileId, offset: u64, bytes: usize) -> Option<&[u8]> {
        part(self.files.get(&file)?, offset, bytes)
    }
}

fn part(content: &[u8], offset: u64, bytes: usize) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    content.get(start..start.checked_add(bytes)?)
}
