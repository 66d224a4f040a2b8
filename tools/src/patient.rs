//! A store on a disk that fails here and there.
//!
//! A node stops at the first error of its disk. Whoever looks afterwards wants what can still be read: where a read
//! fails it is tried again block by block, and a block that can't be read is handed out as bytes that no writer writes.
//! So it is damage like any other to the reader, and what lies behind it is found. It is for looking only.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::mem;

use synod_frame::BLOCK_BYTES;
use synod_wal::{FileId, SegmentStore};

/// What stands for every byte of a block that can't be read: no magic number, and not what a pool holds.
const UNREADABLE: u8 = 0xee;

/// Blocks that couldn't be read: their offset in the file, and why.
pub(crate) type Unreadable = BTreeMap<u64, String>;

/// Another store, and what of it couldn't be read.
#[derive(Debug)]
pub(crate) struct PatientStore<S> {
    inner: S,
    unreadable: RefCell<BTreeMap<FileId, Unreadable>>,
}

impl<S: SegmentStore> PatientStore<S> {
    pub(crate) fn new(inner: S) -> PatientStore<S> {
        PatientStore { inner, unreadable: RefCell::new(BTreeMap::new()) }
    }

    /// The blocks of a file that couldn't be read since this was asked the last time.
    pub(crate) fn take_unreadable(&self, file: FileId) -> Unreadable {
        self.unreadable.borrow_mut().get_mut(&file).map(mem::take).unwrap_or_default()
    }

    fn read_blocks(&self, file: FileId, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut at = offset;
        for block in buffer.chunks_mut(BLOCK_BYTES) {
            match self.inner.read_at(file, at, block) {
                Ok(()) => {}
                Err(error) if is_of_the_medium(&error) => {
                    block.fill(UNREADABLE);
                    self.unreadable.borrow_mut().entry(file).or_default().insert(at, error.to_string());
                }
                Err(error) => return Err(error),
            }
            at += block.len() as u64;
        }
        Ok(())
    }
}

/// Whether a read failed in one place of a file that is there, and as long as it should be.
fn is_of_the_medium(error: &io::Error) -> bool {
    !matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof
            | io::ErrorKind::NotFound
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::InvalidInput
    )
}

impl<S: SegmentStore> SegmentStore for PatientStore<S> {
    fn files(&self) -> io::Result<Vec<FileId>> {
        self.inner.files()
    }

    fn len(&self, file: FileId) -> io::Result<u64> {
        self.inner.len(file)
    }

    fn read_at(&self, file: FileId, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        match self.inner.read_at(file, offset, buffer) {
            Err(error) if is_of_the_medium(&error) => self.read_blocks(file, offset, buffer),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use synod_wal::MemoryStore;

    use super::*;

    /// A store of which one block can't be read.
    struct Scratched {
        inner: MemoryStore,
        bad: u64,
    }

    impl SegmentStore for Scratched {
        fn files(&self) -> io::Result<Vec<FileId>> {
            self.inner.files()
        }

        fn len(&self, file: FileId) -> io::Result<u64> {
            self.inner.len(file)
        }

        fn read_at(&self, file: FileId, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
            if offset < self.bad + BLOCK_BYTES as u64 && self.bad < offset + buffer.len() as u64 {
                return Err(io::Error::from_raw_os_error(5));
            }
            self.inner.read_at(file, offset, buffer)
        }
    }

    #[test]
    fn one_bad_block_takes_nothing_else_along() {
        let file = FileId(1);
        let mut inner = MemoryStore::new();
        inner.write_at(file, 0, &[7; 4 * BLOCK_BYTES]);
        let store = PatientStore::new(Scratched { inner, bad: 2 * BLOCK_BYTES as u64 });
        let mut buffer = vec![0; 3 * BLOCK_BYTES];
        store.read_at(file, BLOCK_BYTES as u64, &mut buffer).expect("it reads what there is");
        let (blocks, _) = buffer.as_chunks::<BLOCK_BYTES>();
        let expected = [[7; BLOCK_BYTES], [UNREADABLE; BLOCK_BYTES], [7; BLOCK_BYTES]];
        assert!(blocks.iter().eq(&expected));
        let unreadable = store.take_unreadable(file);
        assert_eq!(unreadable.keys().copied().collect::<Vec<_>>(), [2 * BLOCK_BYTES as u64]);
        assert!(unreadable.values().all(|why| why.contains("os error 5")));
        assert!(store.take_unreadable(file).is_empty());
        let beyond = store.read_at(file, 3 * BLOCK_BYTES as u64, &mut buffer).expect_err("the file ends");
        assert_eq!(beyond.kind(), io::ErrorKind::UnexpectedEof);
    }
}
