//! The bytes of the log: record headers, segment headers, and the blocks that seal a segment.
//!
//! All structures are hand-laid, little-endian and versioned; no magic, kind or version is zero, so zeroed bytes are
//! never valid. The byte maps are in `engine/docs/wal-format.md`; offsets are built from their neighbours and asserted
//! at compile time. Everything read is untrusted: decoding either yields a checked value or a typed error.

mod field;
mod pack;
mod record;
mod seal;
mod segment_header;

use synod_frame::BLOCK_BYTES;
use synod_protocol::FORMAT_MAX;
use thiserror::Error;

use crate::lsn::FileId;

pub(crate) use field::first_nonzero;
pub use pack::{
    KnownBody, PACK_FIELDS, PACK_HEADER_BYTES, PACKED_BODY_BYTES_MAX, Pack, PackBuilder, PackContent, PackError,
    PackHead, PackedBody,
};
pub(crate) use pack::{PACK_RECORD_BYTES_MAX, block_checksum};
pub use record::{RECORD_FIELDS, RecordError, RecordHeader, RecordKind, RecordMeta, Settled};
pub use seal::{
    Footer, INDEX_ENTRIES_PER_BLOCK, SealBlock, SealBlockError, SealKind, SealedRecord, TABLE_ENTRIES_PER_BLOCK,
};
pub(crate) use seal::{body_kind_number, put_index, put_table, table_entry};
pub use segment_header::{CONFIGURATION_BYTES_MAX, GROUPS_MAX, GroupState, SegmentHeader, StoredConfiguration};

/// Version of record headers and seals, which are the same in all formats so far.
pub const FORMAT_VERSION: u16 = 1;

/// One disk block.
pub type Block = [u8; BLOCK_BYTES];

/// The number that the four letters of a magic spell in a hex dump.
const fn magic(letters: &[u8; 4]) -> u32 {
    u32::from_le_bytes(*letters)
}

/// Why a block isn't a segment header.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum SegmentHeaderError {
    /// All zero: the file was never used.
    #[error("the segment was never used")]
    Fresh,
    /// It doesn't begin like a segment.
    #[error("not a segment: it begins with {found:#010x}")]
    Magic {
        /// The first four bytes.
        found: u32,
    },
    /// It is the header of another file: the disk wrote it to the wrong place.
    #[error("the header of {meant} is here: this file is a copy of it, or the disk wrote to the wrong place")]
    Astray {
        /// The file that it was written to, as it says.
        meant: FileId,
    },
    /// The block is damaged.
    #[error("segment header checksum is {expected:#010x} but its bytes give {actual:#010x}")]
    Checksum {
        /// As written.
        expected: u32,
        /// As computed.
        actual: u32,
    },
    /// It holds what this build can't read: use a newer build.
    #[error("the segment needs a build that reads format {needed}, this one reads formats up to {FORMAT_MAX}")]
    Version {
        /// The oldest version that reads it.
        needed: u16,
    },
    /// Format features that this build doesn't know: use a newer build.
    #[error("segment needs unknown format features {found:#x}")]
    Features {
        /// Feature bits found.
        found: u64,
    },
    /// Blocks or segments of another size than this log has.
    #[error(
        "segment of {segment_bytes} bytes in blocks of {block_bytes}, expected {expected_bytes} in blocks of {BLOCK_BYTES}"
    )]
    Geometry {
        /// Segment size found.
        segment_bytes: u64,
        /// Block size found.
        block_bytes: u32,
        /// Segment size of this log.
        expected_bytes: u64,
    },
    /// A field holds what no writer writes, although the checksum is right.
    #[error("segment header field {field} is out of bounds")]
    Bounds {
        /// The field's name in the byte map.
        field: &'static str,
    },
}
