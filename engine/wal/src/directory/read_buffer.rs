//! Memory that a disk reads into fast.

use std::io;

use memmap2::{Advice, MmapMut};

/// A huge page.
const HUGE_BYTES: usize = 2 << 20;

/// Zeroed memory that begins at a huge page, and lies in huge pages if the kernel gives any.
///
/// A read past the page cache names each piece of memory that lies apart. In pages of 4 KiB a MiB is 256 pieces, which is
/// more than many devices take at once, and on some (virtual ones above all) the pieces take longer than the bytes: huge
/// pages tripled what the disk under `engine/docs/performance.md` gives.
#[derive(Debug)]
pub struct ReadBuffer {
    memory: MmapMut,
    start: usize,
    bytes: usize,
}

impl ReadBuffer {
    /// Memory of so many bytes.
    ///
    /// # Errors
    /// If the kernel has none.
    pub fn zeroed(bytes: usize) -> io::Result<ReadBuffer> {
        // Room to begin at a huge page; what lies before and behind is never touched, and so takes no memory.
        let memory = MmapMut::map_anon(bytes.next_multiple_of(HUGE_BYTES) + HUGE_BYTES)?;
        // A kernel without huge pages says so, and reads as well.
        let _ = memory.advise(Advice::HugePage);
        let start = memory.as_ptr().align_offset(HUGE_BYTES);
        Ok(ReadBuffer { memory, start, bytes })
    }
}

impl AsRef<[u8]> for ReadBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.memory[self.start..][..self.bytes]
    }
}

impl AsMut<[u8]> for ReadBuffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..][..self.bytes]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_at_a_huge_page_and_has_its_length() {
        for bytes in [1, 4096, HUGE_BYTES, HUGE_BYTES + 4096, 5 * HUGE_BYTES - 1] {
            let mut buffer = ReadBuffer::zeroed(bytes).expect("memory");
            assert_eq!(buffer.as_ref().as_ptr().align_offset(HUGE_BYTES), 0);
            assert!(buffer.as_ref().len() == bytes && buffer.as_ref().iter().all(|byte| *byte == 0));
            buffer.as_mut().fill(1);
        }
    }
}
