//! A record buffer on the ordinary heap, for everyone without a disk's own memory: simulators, tools, readers, tests.

use rkyv::util::AlignedVec;

use crate::layout::{BLOCK_BYTES, align_to_block};

/// A zeroed buffer of whole blocks that begins at a block boundary in memory, so that archives in it can be opened.
#[derive(Clone, Debug)]
pub struct RecordBuffer(AlignedVec<BLOCK_BYTES>);

impl RecordBuffer {
    /// A buffer of at least `bytes`, rounded up to whole blocks.
    pub fn zeroed(bytes: usize) -> RecordBuffer {
        let mut buffer = AlignedVec::new();
        buffer.resize(align_to_block(bytes), 0);
        RecordBuffer(buffer)
    }
}

impl AsRef<[u8]> for RecordBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl AsMut<[u8]> for RecordBuffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}
