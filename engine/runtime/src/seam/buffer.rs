//! Memory that a disk can read and write directly.
//!
//! Buffers come from the executor's slab, so that the hot path meets memory that is mapped already: fresh pages cost
//! half of the throughput. The slab rounds up to a power of two, so buffers should be asked for in such sizes. When it
//! is used up, buffers come from the heap; they belong to their executor's thread either way.

/// A buffer at a 4096-byte boundary.
pub(crate) type Buffer = glommio::io::DmaBuffer;

/// Allocates `bytes` of undefined content from the slab, or from the heap when the slab is used up, or there is none.
///
/// # Panics
/// If `bytes` is zero or the process is out of memory.
pub(crate) fn allocate(bytes: usize) -> Buffer {
    assert!(bytes > 0, "a buffer has at least one block");
    if super::plain::is_here() {
        glommio::allocate_dma_buffer_global(bytes)
    } else {
        glommio::allocate_dma_buffer(bytes)
    }
}

/// The allocator that the log draws from.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Slab;

impl synod_wal::Buffers for Slab {
    type Buffer = Buffer;

    fn allocate(&mut self, bytes: usize) -> Buffer {
        allocate(bytes)
    }
}
