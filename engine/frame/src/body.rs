//! The body: what is accepted and chosen as one, byte for byte the same in every memory, log, socket and reader.
//!
//! ```text
//! record = [ record header 256 | body | zeros up to a whole block ]
//! body   = [ header 128 | one crc32 per disk block, zeros up to a multiple of 64 | archive ]
//! ```
//!
//! A body starts at byte [`RECORD_HEADER_BYTES`] of its record, so its place in the disk blocks is known when it is
//! made. Entry i of the table covers what of the archive, and of the padding behind it, lies in disk block i; one pass
//! over the data serves the wire, the disk, and the question after a crash which blocks of a torn record are new.
//! The header's own checksum covers header and table, and the body's identity is a hash of the same bytes: both cover
//! the whole content without another pass.
//!
//! The length of the archive decides every other length ([`BodyLayout::new`]); a body that claims other lengths is
//! refused. A body of format 2 says which configuration rules its slots ([`stamp`]); that is all in which it differs from
//! one of format 1. What the archive means is the concern of [`crate::CommandsView`], [`crate::ConfigurationBody`] and the like.

use std::ops::Range;

use synod_protocol::limits::{BODY_BYTES_MAX, BODY_SLOTS_MAX};
use synod_protocol::{Ballot, BodyHandle, BodyId, BodyKind, FORMAT_MAX, NodeId, Slot};
use thiserror::Error;

use crate::hello::FORMAT_RANGE;
use crate::layout::{
    BLOCK_BYTES, BODY_HEADER_BYTES, ByteField, FORMAT_VERSION, Field, FieldForm, GroupId, RECORD_HEADER_BYTES,
    first_nonzero, magic,
};

/// First bytes of every body.
const MAGIC: u32 = magic(b"SYNB");

/// The format of bodies that say which configuration rules their slots.
const FORMAT_STAMPED: u16 = 2;

/// The archive lies as it was serialised; other encodings (compression) get other numbers.
const ENCODING_PLAIN: u8 = 1;

/// Header and table together are a multiple of this, so that the archive is aligned in every buffer.
const TABLE_ALIGN_BYTES: usize = 64;

mod field {
    use crate::layout::{BODY_HEADER_BYTES, Field};

    pub(super) const MAGIC: Field = Field::first(4);
    pub(super) const VERSION: Field = MAGIC.then(2);
    pub(super) const KIND: Field = VERSION.then(1);
    pub(super) const ENCODING: Field = KIND.then(1);
    pub(super) const HEADER_CHECKSUM: Field = ENCODING.then(4);
    pub(super) const HEADER_BYTES: Field = HEADER_CHECKSUM.then(4);
    pub(super) const BODY_BYTES: Field = HEADER_BYTES.then(4);
    pub(super) const ARCHIVE_BYTES: Field = BODY_BYTES.then(4);
    pub(super) const GROUP: Field = ARCHIVE_BYTES.then(4);
    pub(super) const COUNT: Field = GROUP.then(4);
    pub(super) const FIRST: Field = COUNT.then(8);
    pub(super) const ORIGIN_ROUND: Field = FIRST.then(8);
    pub(super) const ORIGIN_BOOT: Field = ORIGIN_ROUND.then(8);
    pub(super) const ORIGIN_NODE: Field = ORIGIN_BOOT.then(4);
    pub(super) const RESERVED_NODE: Field = ORIGIN_NODE.then(4);
    pub(super) const LEADER_TIME: Field = RESERVED_NODE.then(8);
    pub(super) const ARGUMENT: Field = LEADER_TIME.then(8);
    pub(super) const FEATURES: Field = ARGUMENT.then(8);
    pub(super) const RULING: Field = FEATURES.then(8);
    pub(super) const RESERVED: Field = RULING.then(BODY_HEADER_BYTES - RULING.end());
}

// The byte map of engine/docs/wal-format.md; a change here is a new format version.
const _: () = {
    assert!(field::HEADER_CHECKSUM.offset == 8);
    assert!(field::HEADER_BYTES.offset == 12);
    assert!(field::ARCHIVE_BYTES.offset == 20);
    assert!(field::GROUP.offset == 24);
    assert!(field::FIRST.offset == 32);
    assert!(field::ORIGIN_NODE.offset == 56);
    assert!(field::LEADER_TIME.offset == 64);
    assert!(field::FEATURES.offset == 80);
    assert!(field::RULING.offset == 88);
    assert!(field::RESERVED.offset == 96);
    assert!(field::RESERVED.end() == BODY_HEADER_BYTES);
    assert!(RECORD_HEADER_BYTES.is_multiple_of(TABLE_ALIGN_BYTES));
    assert!(BODY_HEADER_BYTES.is_multiple_of(TABLE_ALIGN_BYTES));
    // Table entry 0 covers only what lies behind the table: the table must end inside block 0.
    let largest = BodyLayout::LARGEST;
    assert!(RECORD_HEADER_BYTES + largest.header_bytes as usize <= BLOCK_BYTES);
    assert!(largest.body_bytes <= BODY_BYTES_MAX);
};

/// The fields of the 128 bytes in front of a body, in order, without gap or overlap.
pub const BODY_FIELDS: &[ByteField] = {
    use FieldForm::{Hex, Letters, Number, Zeros};
    &[
        field::MAGIC.named("magic", Letters),
        field::VERSION.named("version", Number),
        field::KIND.named("kind", Number),
        field::ENCODING.named("encoding", Number),
        field::HEADER_CHECKSUM.named("header checksum", Hex),
        field::HEADER_BYTES.named("header bytes", Number),
        field::BODY_BYTES.named("body bytes", Number),
        field::ARCHIVE_BYTES.named("archive bytes", Number),
        field::GROUP.named("group", Number),
        field::COUNT.named("count", Number),
        field::FIRST.named("first", Number),
        field::ORIGIN_ROUND.named("origin round", Number),
        field::ORIGIN_BOOT.named("origin boot", Hex),
        field::ORIGIN_NODE.named("origin node", Number),
        field::RESERVED_NODE.named("reserved", Zeros),
        field::LEADER_TIME.named("leader time", Number),
        field::ARGUMENT.named("argument", Number),
        field::FEATURES.named("features", Hex),
        field::RULING.named("ruling configuration", Number),
        field::RESERVED.named("reserved", Zeros),
    ]
};

// Every byte is named once.
const _: () = assert!(crate::layout::tiles(BODY_FIELDS, BODY_HEADER_BYTES));

/// Why bytes aren't a valid body. The bytes are of no use: drop them and ask another replica for the body.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum BodyError {
    /// Fewer bytes than the header, or than the header says.
    #[error("the body is cut short: {found} bytes of {needed}")]
    Truncated {
        /// Bytes needed.
        needed: u64,
        /// Bytes there are.
        found: u64,
    },
    /// It doesn't begin like a body.
    #[error("not a body: it begins with {found:#010x}")]
    Magic {
        /// The first four bytes.
        found: u32,
    },
    /// Of a format that this build doesn't read: use a newer build.
    #[error("body of format {found}, this build reads formats up to {FORMAT_MAX}")]
    Version {
        /// Version found.
        found: u16,
    },
    /// A kind that this build doesn't know.
    #[error("body of unknown kind {found}")]
    Kind {
        /// Kind found.
        found: u8,
    },
    /// An encoding that this build doesn't know.
    #[error("body of unknown encoding {found}")]
    Encoding {
        /// Encoding found.
        found: u8,
    },
    /// Format features that this build doesn't know.
    #[error("body needs unknown format features {found:#x}")]
    Features {
        /// Feature bits found.
        found: u64,
    },
    /// Longer than any body may be.
    #[error("body with an archive of {archive_bytes} bytes, at most {} are allowed", BodyLayout::LARGEST.archive_bytes)]
    TooLarge {
        /// Length of the archive as claimed.
        archive_bytes: u32,
    },
    /// The three lengths contradict each other.
    #[error("body lengths don't agree: header {header_bytes}, archive {archive_bytes}, body {body_bytes} bytes")]
    Lengths {
        /// Header and table as claimed.
        header_bytes: u32,
        /// Archive as claimed.
        archive_bytes: u32,
        /// Whole body as claimed.
        body_bytes: u32,
    },
    /// Header or table is damaged.
    #[error("body header checksum is {expected:#010x} but its bytes give {actual:#010x}")]
    HeaderChecksum {
        /// As written in the header.
        expected: u32,
        /// As computed.
        actual: u32,
    },
    /// A byte that must be zero isn't.
    #[error("byte {offset} of the body header is reserved and must be zero")]
    Reserved {
        /// Offset in the body.
        offset: u32,
    },
    /// Slots that no body of this kind may fill.
    #[error("a body of kind {kind} can't fill {count} slots from {first} on")]
    Slots {
        /// Kind as a number.
        kind: u8,
        /// First slot.
        first: Slot,
        /// Number of slots.
        count: u32,
    },
    /// An archive where there can't be one, or none where there must be one.
    #[error("a body of kind {kind} can't have an archive of {archive_bytes} bytes")]
    Archive {
        /// Kind as a number.
        kind: u8,
        /// Length of the archive.
        archive_bytes: u32,
    },
    /// An argument that its kind doesn't take.
    #[error("a body of kind {kind} can't have argument {argument}")]
    Argument {
        /// Kind as a number.
        kind: u8,
        /// The argument.
        argument: u64,
    },
    /// A disk block of the record is damaged.
    #[error("block {block} of the record has checksum {actual:#010x} instead of {expected:#010x}")]
    BlockChecksum {
        /// Number of the disk block within the record, from zero.
        block: u32,
        /// As written in the table.
        expected: u32,
        /// As computed.
        actual: u32,
    },
    /// The record has no such block.
    #[error("block {block} of a record of {blocks} blocks")]
    NoSuchBlock {
        /// Block asked for.
        block: u32,
        /// Blocks there are.
        blocks: u32,
    },
    /// A byte between the body's end and the end of its last block isn't zero.
    #[error("byte {offset} of the record is padding and must be zero")]
    Padding {
        /// Offset in the record.
        offset: u32,
    },
}

/// The lengths of a body, all of which follow from the length of its archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyLayout {
    /// Header and table: where the archive begins within the body. A multiple of 64.
    pub header_bytes: u32,
    /// Exact length of the archive.
    pub archive_bytes: u32,
    /// Exact length of the body.
    pub body_bytes: u32,
    /// Disk blocks that the record takes; the entries of the table in use.
    pub blocks: u32,
}

impl BodyLayout {
    /// The layout of the longest body that is allowed.
    pub const LARGEST: BodyLayout = {
        // The longest table is the one of a body of full length, and a shorter table only makes room for no block more.
        let blocks = (RECORD_HEADER_BYTES + BODY_BYTES_MAX as usize).div_ceil(BLOCK_BYTES);
        let header_bytes = BODY_HEADER_BYTES + (blocks * 4).next_multiple_of(TABLE_ALIGN_BYTES);
        match BodyLayout::new(BODY_BYTES_MAX as u64 - header_bytes as u64) {
            Some(layout) => layout,
            None => panic!("a body of full length has a layout"),
        }
    };

    /// The layout around an archive of `archive_bytes`, or `None` if the body would be too long.
    pub const fn new(archive_bytes: u64) -> Option<BodyLayout> {
        if archive_bytes > BODY_BYTES_MAX as u64 {
            return None;
        }
        let archive_bytes = archive_bytes as usize;
        // A table entry more may push the archive into a block more: the smallest number of blocks that agrees with
        // itself is the layout. It is found in few steps, for a block holds the entries of a thousand.
        let mut blocks: usize = 1;
        loop {
            let header_bytes = BODY_HEADER_BYTES + (blocks * 4).next_multiple_of(TABLE_ALIGN_BYTES);
            let body_bytes = header_bytes + archive_bytes;
            let needed = (RECORD_HEADER_BYTES + body_bytes).div_ceil(BLOCK_BYTES);
            if needed == blocks {
                if body_bytes > BODY_BYTES_MAX as usize {
                    return None;
                }
                return Some(BodyLayout {
                    header_bytes: header_bytes as u32,
                    archive_bytes: archive_bytes as u32,
                    body_bytes: body_bytes as u32,
                    blocks: blocks as u32,
                });
            }
            blocks = needed;
        }
    }

    /// Reads the lengths from the first [`BODY_HEADER_BYTES`] of a body, so that a reader can allocate a record buffer
    /// and receive the rest into it. They are within bounds and agree with each other, but nothing is verified yet.
    ///
    /// # Errors
    /// If these aren't the first bytes of a body that this build reads.
    pub fn peek(prefix: &[u8]) -> Result<BodyLayout, BodyError> {
        if prefix.len() < BODY_HEADER_BYTES {
            return Err(BodyError::Truncated { needed: BODY_HEADER_BYTES as u64, found: prefix.len() as u64 });
        }
        let found = field::MAGIC.u32(prefix);
        if found != MAGIC {
            return Err(BodyError::Magic { found });
        }
        let found = field::VERSION.u16(prefix);
        if !FORMAT_RANGE.contains(&found) {
            return Err(BodyError::Version { found });
        }
        let header_bytes = field::HEADER_BYTES.u32(prefix);
        let archive_bytes = field::ARCHIVE_BYTES.u32(prefix);
        let body_bytes = field::BODY_BYTES.u32(prefix);
        let layout = BodyLayout::new(u64::from(archive_bytes)).ok_or(BodyError::TooLarge { archive_bytes })?;
        if layout.header_bytes != header_bytes || layout.body_bytes != body_bytes {
            return Err(BodyError::Lengths { header_bytes, archive_bytes, body_bytes });
        }
        Ok(layout)
    }

    /// The format of a body, and where header and table end in it, also if this build doesn't read the format: those fields
    /// are where they are in every format. Nothing is verified.
    pub fn peek_format(prefix: &[u8]) -> Option<(u16, u32)> {
        let is_body = prefix.len() >= BODY_HEADER_BYTES && field::MAGIC.u32(prefix) == MAGIC;
        is_body.then(|| (field::VERSION.u16(prefix), field::HEADER_BYTES.u32(prefix)))
    }

    /// Length of the record on disk, and at least of the buffer that holds it: a whole number of blocks.
    pub const fn record_bytes(&self) -> usize {
        self.blocks as usize * BLOCK_BYTES
    }

    /// Where the body lies in its record.
    pub const fn body_range(&self) -> Range<usize> {
        RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + self.body_bytes as usize
    }

    /// Where the archive lies in the body.
    pub const fn archive_range(&self) -> Range<usize> {
        self.header_bytes as usize..self.body_bytes as usize
    }

    /// Where the padding lies in the record.
    pub const fn padding_range(&self) -> Range<usize> {
        self.body_range().end..self.record_bytes()
    }

    /// What of the record the table's entry for `block` covers.
    fn covered_range(&self, block: u32) -> Range<usize> {
        let start = block as usize * BLOCK_BYTES;
        let covered_from = if block == 0 { RECORD_HEADER_BYTES + self.header_bytes as usize } else { start };
        covered_from..start + BLOCK_BYTES
    }
}

/// A body's header, verified together with its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyHeader {
    /// The group whose log this is for.
    pub group: GroupId,
    /// What the archive holds.
    pub kind: BodyKind,
    /// First slot; zero only for genesis.
    pub first: Slot,
    /// Number of slots; at least one.
    pub count: u32,
    /// The ballot at which the body was made, not the one at which it was accepted.
    pub origin: Ballot,
    /// The log's own time, in microseconds; monotone along the log.
    pub leader_time_us: u64,
    /// Its format: the one of the configuration that rules its slots.
    pub format: u16,
    /// Where the configuration was chosen that rules its slots; none in format 1, which doesn't say.
    pub ruling: Option<Slot>,
    /// All lengths.
    pub layout: BodyLayout,
    /// Hash of header and table, and so of everything.
    pub id: BodyId,
}

impl BodyHeader {
    /// Reads and verifies header and table from the start of a body, of which at least these must be there.
    ///
    /// # Errors
    /// The first thing that is wrong. The archive isn't looked at.
    pub fn parse(body: &[u8]) -> Result<BodyHeader, BodyError> {
        let layout = BodyLayout::peek(body)?;
        let header_bytes = layout.header_bytes as usize;
        let Some(head) = body.get(..header_bytes) else {
            return Err(BodyError::Truncated { needed: header_bytes as u64, found: body.len() as u64 });
        };
        let expected = field::HEADER_CHECKSUM.u32(head);
        let actual = header_checksum(head);
        if expected != actual {
            return Err(BodyError::HeaderChecksum { expected, actual });
        }
        check_constants(head, &layout)?;
        let header = BodyHeader {
            group: GroupId(field::GROUP.u32(head)),
            kind: parse_kind(head)?,
            first: Slot(field::FIRST.u64(head)),
            count: field::COUNT.u32(head),
            origin: Ballot {
                round: field::ORIGIN_ROUND.u64(head),
                node: NodeId(field::ORIGIN_NODE.u32(head)),
                boot: field::ORIGIN_BOOT.u64(head),
            },
            leader_time_us: field::LEADER_TIME.u64(head),
            format: field::VERSION.u16(head),
            ruling: (field::VERSION.u16(head) > FORMAT_VERSION).then(|| Slot(field::RULING.u64(head))),
            layout,
            id: BodyId(xxhash_rust::xxh3::xxh3_128(head)),
        };
        header.check_shape()?;
        Ok(header)
    }

    /// Reads and verifies header and table of the body in a record buffer.
    ///
    /// # Errors
    /// As [`BodyHeader::parse`].
    pub fn parse_in_record(record: &[u8]) -> Result<BodyHeader, BodyError> {
        BodyHeader::parse(record.get(RECORD_HEADER_BYTES..).unwrap_or(&[]))
    }

    /// The body's name for the protocol.
    pub fn handle(&self) -> BodyHandle {
        BodyHandle { first: self.first, count: self.count, bytes: self.layout.body_bytes, kind: self.kind, id: self.id }
    }

    /// Where the archive lies in the body.
    pub fn archive_range(&self) -> Range<usize> {
        self.layout.archive_range()
    }

    /// Disk blocks of the record.
    pub fn blocks(&self) -> u32 {
        self.layout.blocks
    }

    /// Checks one disk block of a record against the table in `record`, which must be the table that this header was
    /// parsed with. Of block 0 only what lies behind the table is looked at: the rest has its own checksums.
    ///
    /// # Errors
    /// If the block is damaged, or not there.
    pub fn check_block(&self, record: &[u8], block: u32) -> Result<(), BodyError> {
        let blocks = self.layout.blocks;
        if block >= blocks {
            return Err(BodyError::NoSuchBlock { block, blocks });
        }
        let Some(covered) = record.get(self.layout.covered_range(block)) else {
            return Err(BodyError::Truncated { needed: self.layout.record_bytes() as u64, found: record.len() as u64 });
        };
        let expected = table_entry(block).u32(&record[RECORD_HEADER_BYTES..]);
        let actual = crc32fast::hash(covered);
        if expected != actual {
            return Err(BodyError::BlockChecksum { block, expected, actual });
        }
        Ok(())
    }

    fn check_shape(&self) -> Result<(), BodyError> {
        let kind = kind_number(self.kind);
        let archive_bytes = self.layout.archive_bytes;
        if !slots_are_valid(self.kind, self.first, self.count) {
            return Err(BodyError::Slots { kind, first: self.first, count: self.count });
        }
        let fits = match self.kind {
            BodyKind::Commands | BodyKind::Configuration { .. } | BodyKind::Session | BodyKind::Ticket => {
                archive_bytes > 0
            }
            BodyKind::NoOp => archive_bytes == 0,
            // The delivery state at its point, unless that is empty.
            BodyKind::Trim { .. } => true,
        };
        if !fits {
            return Err(BodyError::Archive { kind, archive_bytes });
        }
        Ok(())
    }
}

/// Verifies the body in a record buffer completely: header and table, every block, and the zeros behind the body. The
/// record header in front and whole blocks behind the record aren't looked at.
///
/// # Errors
/// The first thing that is wrong, from the front to the back.
pub fn verify_body_in_record(record: &[u8]) -> Result<BodyHeader, BodyError> {
    let header = BodyHeader::parse_in_record(record)?;
    let padding = header.layout.padding_range();
    let Some(zeros) = record.get(padding.clone()) else {
        return Err(BodyError::Truncated { needed: padding.end as u64, found: record.len() as u64 });
    };
    for block in 0..header.blocks() {
        header.check_block(record, block)?;
    }
    // The last block's checksum covers the padding as it was written; only this says that it was written as zeros.
    if let Some(index) = first_nonzero(zeros) {
        return Err(BodyError::Padding { offset: (padding.start + index) as u32 });
    }
    Ok(header)
}

/// Zeroes what lies behind the body up to the end of its last block, as whoever received a body's exact bytes must.
///
/// # Panics
/// If the buffer is shorter than [`BodyLayout::record_bytes`].
pub fn zero_padding(record: &mut [u8], layout: &BodyLayout) {
    record[layout.padding_range()].fill(0);
}

/// Everything of a header that isn't a length or a checksum.
pub(crate) struct HeaderFields {
    pub(crate) group: GroupId,
    pub(crate) kind: BodyKind,
    pub(crate) first: Slot,
    pub(crate) count: u32,
    pub(crate) origin: Ballot,
    pub(crate) leader_time_us: u64,
}

/// Completes a body whose archive is in place: padding, table, header, in the order in which each covers the last.
///
/// # Panics
/// If the buffer is shorter than [`BodyLayout::record_bytes`].
pub(crate) fn seal(record: &mut [u8], layout: &BodyLayout, fields: &HeaderFields) -> BodyHandle {
    zero_padding(record, layout);
    let (before, archive) = record.split_at_mut(RECORD_HEADER_BYTES + layout.header_bytes as usize);
    let head = &mut before[RECORD_HEADER_BYTES..];
    head.fill(0);
    let covered_from = RECORD_HEADER_BYTES + layout.header_bytes as usize;
    for block in 0..layout.blocks {
        let covered = layout.covered_range(block);
        let checksum = crc32fast::hash(&archive[covered.start - covered_from..covered.end - covered_from]);
        table_entry(block).put(head, &checksum.to_le_bytes());
    }

    let argument = match fields.kind {
        BodyKind::Trim { upto } => upto.0,
        BodyKind::Configuration { after } => after.0,
        BodyKind::Commands | BodyKind::NoOp | BodyKind::Session | BodyKind::Ticket => 0,
    };
    field::MAGIC.put(head, &MAGIC.to_le_bytes());
    field::VERSION.put(head, &FORMAT_VERSION.to_le_bytes());
    field::KIND.put(head, &[kind_number(fields.kind)]);
    field::ENCODING.put(head, &[ENCODING_PLAIN]);
    field::HEADER_BYTES.put(head, &layout.header_bytes.to_le_bytes());
    field::BODY_BYTES.put(head, &layout.body_bytes.to_le_bytes());
    field::ARCHIVE_BYTES.put(head, &layout.archive_bytes.to_le_bytes());
    field::GROUP.put(head, &fields.group.0.to_le_bytes());
    field::COUNT.put(head, &fields.count.to_le_bytes());
    field::FIRST.put(head, &fields.first.0.to_le_bytes());
    field::ORIGIN_ROUND.put(head, &fields.origin.round.to_le_bytes());
    field::ORIGIN_BOOT.put(head, &fields.origin.boot.to_le_bytes());
    field::ORIGIN_NODE.put(head, &fields.origin.node.0.to_le_bytes());
    field::LEADER_TIME.put(head, &fields.leader_time_us.to_le_bytes());
    field::ARGUMENT.put(head, &argument.to_le_bytes());
    BodyHandle {
        first: fields.first,
        count: fields.count,
        bytes: layout.body_bytes,
        kind: fields.kind,
        id: seal_head(head),
    }
}

/// The last thing that is done to header and table. Gives the body's identity.
fn seal_head(head: &mut [u8]) -> BodyId {
    let checksum = header_checksum(head);
    field::HEADER_CHECKSUM.put(head, &checksum.to_le_bytes());
    BodyId(xxhash_rust::xxh3::xxh3_128(head))
}

/// Makes a body that was just laid out, and that nobody knows yet, one of format 2: it says where the configuration was
/// chosen that rules its slots. Only header and table are read again. Gives the handle that it has from now on.
///
/// # Errors
/// If there is no body in `record`, or one that is stamped already.
pub fn stamp(record: &mut [u8], ruling: Slot) -> Result<BodyHandle, BodyError> {
    let header = BodyHeader::parse_in_record(record)?;
    if header.format != FORMAT_VERSION {
        return Err(BodyError::Version { found: header.format });
    }
    let head = &mut record[RECORD_HEADER_BYTES..][..header.layout.header_bytes as usize];
    field::VERSION.put(head, &FORMAT_STAMPED.to_le_bytes());
    field::RULING.put(head, &ruling.0.to_le_bytes());
    Ok(BodyHandle { id: seal_head(head), ..header.handle() })
}

/// Whether a body of this kind may fill these slots.
pub(crate) fn slots_are_valid(kind: BodyKind, first: Slot, count: u32) -> bool {
    let genesis = kind == BodyKind::Configuration { after: Slot(0) } && first == Slot(0);
    let one_slot = !matches!(kind, BodyKind::Commands | BodyKind::NoOp);
    (1..=BODY_SLOTS_MAX).contains(&count)
        && (count == 1 || !one_slot)
        && (first >= Slot::FIRST || genesis)
        && first.checked_add(u64::from(count)).is_some()
}

/// The number of a kind on disk and on the wire. 7 (format) is set aside.
pub(crate) fn kind_number(kind: BodyKind) -> u8 {
    match kind {
        BodyKind::Commands => 1,
        BodyKind::NoOp => 2,
        BodyKind::Configuration { .. } => 3,
        BodyKind::Trim { .. } => 4,
        BodyKind::Session => 5,
        BodyKind::Ticket => 6,
    }
}

/// The kind with this number and argument.
pub(crate) fn kind_from_number(kind: u8, argument: u64) -> Result<BodyKind, BodyError> {
    match (kind, argument) {
        (1, 0) => Ok(BodyKind::Commands),
        (2, 0) => Ok(BodyKind::NoOp),
        (3, after) => Ok(BodyKind::Configuration { after: Slot(after) }),
        (4, 1..) => Ok(BodyKind::Trim { upto: Slot(argument) }),
        (5, 0) => Ok(BodyKind::Session),
        (6, 0) => Ok(BodyKind::Ticket),
        (1..=6, _) => Err(BodyError::Argument { kind, argument }),
        _ => Err(BodyError::Kind { found: kind }),
    }
}

fn parse_kind(head: &[u8]) -> Result<BodyKind, BodyError> {
    kind_from_number(field::KIND.u8(head), field::ARGUMENT.u64(head))
}

fn check_constants(head: &[u8], layout: &BodyLayout) -> Result<(), BodyError> {
    let found = field::ENCODING.u8(head);
    if found != ENCODING_PLAIN {
        return Err(BodyError::Encoding { found });
    }
    let found = field::FEATURES.u64(head);
    if found != 0 {
        return Err(BodyError::Features { found });
    }
    let unused_table = table_entry(layout.blocks).offset..head.len();
    let is_stamped = field::VERSION.u16(head) > FORMAT_VERSION;
    for zeros in [
        field::RULING.offset..if is_stamped { field::RULING.offset } else { field::RULING.end() },
        field::RESERVED_NODE.offset..field::RESERVED_NODE.end(),
        field::RESERVED.offset..field::RESERVED.end(),
        unused_table,
    ] {
        if let Some(index) = first_nonzero(&head[zeros.clone()]) {
            return Err(BodyError::Reserved { offset: (zeros.start + index) as u32 });
        }
    }
    Ok(())
}

/// Over header and table, without the field that holds it.
fn header_checksum(head: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&head[..field::HEADER_CHECKSUM.offset]);
    hasher.update(&head[field::HEADER_CHECKSUM.end()..]);
    hasher.finalize()
}

/// Where the checksum of a disk block lies in the body.
fn table_entry(block: u32) -> Field {
    Field { offset: BODY_HEADER_BYTES + block as usize * 4, bytes: 4 }
}
