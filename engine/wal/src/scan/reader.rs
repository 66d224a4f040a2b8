//! A window on a file.

use std::collections::BTreeMap;
use std::io;

use synod_frame::BLOCK_BYTES;

use super::ReadError;
use crate::format::Block;
use crate::lsn::FileId;
use crate::segment::BLOCK;
use crate::store::SegmentStore;

/// A window on a file: what is read ahead is kept, so that a walk reads every byte once. What the store lends is used
/// where it lies.
pub(super) struct Reader<'store> {
    store: &'store dyn SegmentStore,
    file: FileId,
    read_ahead: usize,
    start: u64,
    window: Vec<u8>,
    /// Blocks of the window that can't be read: it holds [`UNREADABLE`] there.
    unreadable: Vec<u64>,
    /// All blocks that the disk didn't read so far, and why.
    refused: BTreeMap<u64, String>,
}

/// What stands for a block that can't be read: no record, no seal, and nothing that a pool leaves.
const UNREADABLE: u8 = 0xbd;

impl<'store> Reader<'store> {
    pub(super) fn new(store: &'store dyn SegmentStore, file: FileId, read_ahead: usize) -> Reader<'store> {
        Reader {
            store,
            file,
            read_ahead,
            start: 0,
            window: Vec::new(),
            unreadable: Vec::new(),
            refused: BTreeMap::new(),
        }
    }

    pub(super) fn forget(&mut self) {
        self.window.clear();
    }

    pub(super) fn refused(&self) -> &BTreeMap<u64, String> {
        &self.refused
    }

    pub(super) fn is_unreadable(&self, offset: u64) -> bool {
        self.unreadable.contains(&offset)
    }

    pub(super) fn block(&mut self, offset: u64) -> Result<&Block, ReadError> {
        let bytes = self.bytes(offset, BLOCK_BYTES)?;
        Ok(bytes.first_chunk().expect("a block was read"))
    }

    /// At most the longest record at a time, so the window is bounded.
    pub(super) fn bytes(&mut self, offset: u64, bytes: usize) -> Result<&[u8], ReadError> {
        if let Some(lent) = self.store.lend(self.file, offset, bytes) {
            return Ok(lent);
        }
        let end = self.start + self.window.len() as u64;
        if offset < self.start || offset + bytes as u64 > end {
            self.load(offset, bytes)?;
        }
        Ok(&self.window[(offset - self.start) as usize..][..bytes])
    }

    fn load(&mut self, offset: u64, bytes: usize) -> Result<(), ReadError> {
        let read_error = |bytes, source| ReadError { file: self.file, offset, bytes, source };
        let file_bytes = self.store.len(self.file).map_err(|source| read_error(bytes, source))?;
        let left = usize::try_from(file_bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
        let wanted = bytes.max(self.read_ahead.min(left));
        self.unreadable.clear();
        self.window.resize(wanted, 0);
        self.start = offset;
        if self.store.read_at(self.file, offset, &mut self.window).is_err() {
            // Something in it can't be read, or the file is short: what of it is a question for whoever needs the block.
            for (number, block) in self.window.chunks_mut(BLOCK_BYTES).enumerate() {
                let at = offset + number as u64 * BLOCK;
                if let Err(error) = self.store.read_at(self.file, at, block) {
                    block.fill(UNREADABLE);
                    self.unreadable.push(at);
                    if error.kind() != io::ErrorKind::UnexpectedEof {
                        self.refused.insert(at, error.to_string());
                    }
                }
            }
        }
        Ok(())
    }
}
