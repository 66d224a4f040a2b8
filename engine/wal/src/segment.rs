//! The geometry of a segment file: which block is what.
//!
//! ```text
//! block 0    1 ..                                                                             last
//! | header | records ->            | gap | index | block checksum table | footer |
//!                                  ^ records_end  ^ fixed place --------------------------------
//! ```
//!
//! The places of table and footer depend on the segment's size alone. Gap, index, table and footer are written only
//! when the segment is sealed, so a recycled file keeps its old table and footer until then: after a crash the old
//! table tells which blocks still hold what they held before ([`crate::scan`]). Records never reach into them.

use std::ops::RangeInclusive;

use synod_frame::{BLOCK_BYTES, RECORD_HEADER_BYTES, align_to_block};

use crate::format::{INDEX_ENTRIES_PER_BLOCK, TABLE_ENTRIES_PER_BLOCK};

/// Block size as a file offset.
pub(crate) const BLOCK: u64 = BLOCK_BYTES as u64;

/// Segment sizes that a log may have; powers of two only.
pub const SEGMENT_BYTES_RANGE: RangeInclusive<u64> = 64 << 10..=1 << 30;

/// Default segment size.
pub const SEGMENT_BYTES_DEFAULT: u64 = 64 << 20;

/// The sizes that follow from a segment's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    segment_bytes: u64,
}

impl Geometry {
    /// The geometry of segments of this size, or `None` unless it is a power of two within [`SEGMENT_BYTES_RANGE`].
    pub fn new(segment_bytes: u64) -> Option<Geometry> {
        let valid = SEGMENT_BYTES_RANGE.contains(&segment_bytes) && segment_bytes.is_power_of_two();
        valid.then_some(Geometry { segment_bytes })
    }

    /// Length of every file.
    pub fn segment_bytes(self) -> u64 {
        self.segment_bytes
    }

    /// Blocks in a file.
    pub fn blocks(self) -> usize {
        (self.segment_bytes / BLOCK) as usize
    }

    /// Where the first record of a segment begins.
    pub fn records_offset(self) -> u64 {
        BLOCK
    }

    /// Where the footer lies.
    pub fn footer_offset(self) -> u64 {
        self.segment_bytes - BLOCK
    }

    /// Blocks of the checksum table.
    pub fn table_blocks(self) -> usize {
        self.blocks().div_ceil(TABLE_ENTRIES_PER_BLOCK)
    }

    /// Where the checksum table begins; records and index end before it.
    pub fn table_offset(self) -> u64 {
        self.footer_offset() - self.table_blocks() as u64 * BLOCK
    }

    /// Bytes of the index of a segment with this many records.
    pub fn index_bytes(self, records: usize) -> u64 {
        records.div_ceil(INDEX_ENTRIES_PER_BLOCK).max(1) as u64 * BLOCK
    }

    /// Where the index of a segment with this many records begins.
    pub fn index_offset(self, records: usize) -> u64 {
        self.table_offset() - self.index_bytes(records)
    }

    /// The longest record that a segment takes.
    pub fn record_bytes_max(self) -> u64 {
        self.index_offset(1) - self.records_offset()
    }

    /// Whether a record of this length still fits behind `records` records that end at `offset`.
    pub fn fits(self, offset: u64, records: usize, record_bytes: u64) -> bool {
        offset + record_bytes <= self.index_offset(records + 1)
    }
}

/// Length on disk of the record around a body of this exact length; of one without a body if zero.
pub fn record_bytes(body_bytes: u32) -> u32 {
    // A body is at most 1 MiB, so this can't overflow.
    align_to_block(RECORD_HEADER_BYTES + body_bytes as usize) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_powers_of_two_in_range() {
        for bytes in [0, 1, 4096, 32 << 10, (64 << 10) + 4096, 3 << 20, 2 << 30, u64::MAX] {
            assert_eq!(Geometry::new(bytes), None, "{bytes}");
        }
        for shift in 16..=30 {
            assert!(Geometry::new(1 << shift).is_some());
        }
    }

    #[test]
    fn parts_tile_the_file() {
        for shift in 16..=30 {
            let geometry = Geometry::new(1 << shift).unwrap();
            let table_end = geometry.table_offset() + geometry.table_blocks() as u64 * BLOCK;
            assert_eq!(table_end, geometry.footer_offset());
            assert_eq!(geometry.footer_offset() + BLOCK, geometry.segment_bytes());
            assert!(geometry.table_blocks() * TABLE_ENTRIES_PER_BLOCK >= geometry.blocks());
            assert!(geometry.fits(BLOCK, 0, geometry.record_bytes_max()));
            assert!(!geometry.fits(BLOCK, 0, geometry.record_bytes_max() + BLOCK));
        }
        let small = Geometry::new(64 << 10).unwrap();
        assert_eq!((small.blocks(), small.record_bytes_max()), (16, 12 * BLOCK));
    }

    #[test]
    fn a_full_segment_of_small_records_keeps_room_for_its_index() {
        let geometry = Geometry::new(1 << 20).unwrap();
        let (mut offset, mut records) = (geometry.records_offset(), 0);
        while geometry.fits(offset, records, BLOCK) {
            offset += BLOCK;
            records += 1;
        }
        assert!(offset <= geometry.index_offset(records));
        assert_eq!(records, 247);
    }
}
