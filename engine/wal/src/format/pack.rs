//! The pack: several small chosen bodies in one record. Only compaction makes them.
//!
//! ```text
//! [ record header 256 | pack header 32 | block checksums | directory | bodies, back to back | zeros to a whole block ]
//! ```
//!
//! A body that has a record of its own takes a block at least; in a pack it takes its exact bytes and four more. The
//! bodies follow each other in slot order without a gap, and keep every byte that they have elsewhere, so a reader
//! copies one of them behind room for a record header and verifies it as any other ([`crate::scan::read_body`]).
//!
//! The record's checksum covers everything up to the bodies, and a checksum a block covers the rest: one pass over the
//! data, and a write that was torn is told from damage as with a body. Pack header, block checksums and directory lie
//! within block 0, so that a reader finds its body with one block.

use std::ops::Range;

use synod_frame::{
    BLOCK_BYTES, BODY_HEADER_BYTES, BodyError, BodyHeader, ByteField, FieldForm, GroupId, RECORD_HEADER_BYTES,
    RecordBuffer, align_to_block,
};
use synod_protocol::limits::BODY_BYTES_MAX;
use synod_protocol::{BodyHandle, Slot};
use thiserror::Error;

use super::field::{Field, first_nonzero};
use super::magic;

const MAGIC: u32 = magic(b"SYNP");

/// Length of a pack's header, in front of block checksums and directory.
pub const PACK_HEADER_BYTES: usize = 32;

/// Length of one block checksum, and of one entry of the directory.
const ENTRY_BYTES: usize = 4;

/// Longest record of a pack: beyond it little is saved, and a scan holds the whole record.
pub(crate) const PACK_RECORD_BYTES_MAX: u32 = 256 << 10;

/// Longest body that is worth packing: of a longer one less than an eighth is header and padding, and alone it is read
/// without a copy.
pub const PACKED_BODY_BYTES_MAX: u32 = 16 << 10;

mod field {
    use super::{Field, PACK_HEADER_BYTES};

    pub(super) const MAGIC: Field = Field::first(4);
    pub(super) const HEAD_BYTES: Field = MAGIC.then(4);
    pub(super) const BODIES: Field = HEAD_BYTES.then(4);
    pub(super) const RESERVED: Field = BODIES.then(4);
    pub(super) const FIRST: Field = RESERVED.then(8);
    pub(super) const END: Field = FIRST.then(8);

    // The byte map of engine/docs/wal-format.md; a change here is a new format version.
    const _: () = {
        assert!(BODIES.offset == 8);
        assert!(FIRST.offset == 16);
        assert!(END.end() == PACK_HEADER_BYTES);
    };
}

/// The fields of a pack's header, in order, without gap or overlap.
pub const PACK_FIELDS: &[ByteField] = {
    use FieldForm::{Letters, Number, Zeros};
    &[
        field::MAGIC.named("magic", Letters),
        field::HEAD_BYTES.named("head bytes", Number),
        field::BODIES.named("bodies", Number),
        field::RESERVED.named("reserved", Zeros),
        field::FIRST.named("first", Number),
        field::END.named("end", Number),
    ]
};

// Every byte is named once.
const _: () = assert!(synod_frame::tiles(PACK_FIELDS, PACK_HEADER_BYTES));

const _: () = assert!(PACK_RECORD_BYTES_MAX <= BODY_BYTES_MAX);

/// Why a record with a right checksum holds no pack that this build reads: whoever wrote it didn't keep to the format.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum PackError {
    /// It doesn't begin like a pack.
    #[error("not a pack: it begins with {found:#010x}")]
    Magic {
        /// The first four bytes.
        found: u32,
    },
    /// Lengths that contradict each other.
    #[error("pack of {bodies} bodies with a head of {head_bytes} bytes")]
    Lengths {
        /// Header, block checksums and directory as claimed.
        head_bytes: u32,
        /// Bodies as claimed.
        bodies: u32,
    },
    /// A byte that must be zero isn't.
    #[error("byte {offset} of the pack header is reserved and must be zero")]
    Reserved {
        /// Offset in the pack.
        offset: u32,
    },
    /// A body of the directory lies outside the pack, or the wrong way round.
    #[error("body {number} of the pack has no valid place")]
    Place {
        /// The body, from zero.
        number: u32,
    },
    /// A body isn't one.
    #[error("body {number} of the pack: {error}")]
    Body {
        /// The body, from zero.
        number: u32,
        /// What is wrong with it.
        error: BodyError,
    },
    /// A body doesn't follow the one before, or is for another group.
    #[error("body {number} of the pack is for slot {found} of {group}, which isn't next")]
    Order {
        /// The body, from zero.
        number: u32,
        /// Its first slot.
        found: Slot,
        /// Its group.
        group: GroupId,
    },
}

/// What a pack holds, in short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackContent {
    /// First slot of the first body.
    pub first: Slot,
    /// First slot behind the last body.
    pub end: Slot,
    /// How many bodies there are; at least one.
    pub bodies: u32,
    /// Their exact bytes together.
    pub body_bytes: u32,
}

/// A body within a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedBody {
    /// Its header.
    pub header: BodyHeader,
    /// Where it begins, counted from the start of the record.
    pub offset: u32,
}

/// What stands in front of the bodies of a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackHead {
    /// First slot of the first body.
    pub first: Slot,
    /// First slot behind the last body.
    pub end: Slot,
    head_bytes: u32,
    blocks: u32,
    /// Where each body ends, counted from the start of the record.
    ends: Vec<u32>,
}

/// A body of a record that may be damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownBody {
    /// The body.
    pub body: PackedBody,
    /// Whether all blocks that it lies in are sound.
    pub is_sound: bool,
}

impl PackHead {
    /// How long the head claims to be, with room for `blocks` checksums: what the record's checksum covers besides the
    /// record header. Bounded by block 0; nothing is verified yet. `pack` is everything of block 0 behind the record
    /// header.
    pub(crate) fn peek(pack: &[u8], record_bytes: u32) -> Result<usize, PackError> {
        let found = field::MAGIC.u32(pack);
        if found != MAGIC {
            return Err(PackError::Magic { found });
        }
        let (head_bytes, bodies) = (field::HEAD_BYTES.u32(pack), field::BODIES.u32(pack));
        let entries = record_bytes / BLOCK_BYTES as u32 + bodies.min(BLOCK_BYTES as u32);
        let expected = PACK_HEADER_BYTES + entries as usize * ENTRY_BYTES;
        let valid = bodies > 0 && head_bytes as usize == expected && RECORD_HEADER_BYTES + expected <= BLOCK_BYTES;
        if valid { Ok(expected) } else { Err(PackError::Lengths { head_bytes, bodies }) }
    }

    /// Reads the head of a pack from its first block, whose checksum was right. `body_bytes` is the length in the
    /// record's header: everything of the pack but its padding.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub(crate) fn parse(block: &[u8], record_bytes: u32, body_bytes: u32) -> Result<PackHead, PackError> {
        let pack = &block[RECORD_HEADER_BYTES..BLOCK_BYTES];
        let head_bytes = PackHead::peek(pack, record_bytes)?;
        let reserved = field::RESERVED.offset..field::RESERVED.end();
        if let Some(index) = first_nonzero(&pack[reserved.clone()]) {
            return Err(PackError::Reserved { offset: (reserved.start + index) as u32 });
        }
        let blocks = record_bytes / BLOCK_BYTES as u32;
        let (entries, _) = pack[PACK_HEADER_BYTES..head_bytes].as_chunks::<ENTRY_BYTES>();
        let ends: Vec<u32> = entries[blocks as usize..].iter().map(|entry| u32::from_le_bytes(*entry)).collect();
        let pack_end = RECORD_HEADER_BYTES as u32 + body_bytes;
        let mut before = (RECORD_HEADER_BYTES + head_bytes) as u32;
        for (number, end) in ends.iter().enumerate() {
            let last = number + 1 == ends.len();
            if *end <= before || *end > pack_end || (last && *end != pack_end) {
                return Err(PackError::Place { number: number as u32 });
            }
            before = *end;
        }
        let (first, end) = (Slot(field::FIRST.u64(pack)), Slot(field::END.u64(pack)));
        Ok(PackHead { first, end, head_bytes: head_bytes as u32, blocks, ends })
    }

    /// What is in it.
    pub fn content(&self) -> PackContent {
        let end = self.ends.last().copied().unwrap_or_default();
        PackContent {
            first: self.first,
            end: self.end,
            bodies: self.ends.len() as u32,
            body_bytes: end.saturating_sub(RECORD_HEADER_BYTES as u32 + self.head_bytes),
        }
    }

    /// Disk blocks of the record.
    pub fn blocks(&self) -> u32 {
        self.blocks
    }

    /// Where a body lies in the record.
    fn place(&self, number: usize) -> Range<usize> {
        let start = number.checked_sub(1).map_or(RECORD_HEADER_BYTES as u32 + self.head_bytes, |last| self.ends[last]);
        start as usize..self.ends[number] as usize
    }

    /// Checks one disk block of the record against the head's checksum of it.
    ///
    /// # Errors
    /// If the block is damaged, or not there.
    pub fn check_block(&self, record: &[u8], block: u32) -> Result<(), BodyError> {
        if block >= self.blocks {
            return Err(BodyError::NoSuchBlock { block, blocks: self.blocks });
        }
        let Some(covered) = record.get(covered(block, self.head_bytes as usize)) else {
            let needed = u64::from(self.blocks) * BLOCK_BYTES as u64;
            return Err(BodyError::Truncated { needed, found: record.len() as u64 });
        };
        let entry = Field { offset: block_checksum(block), bytes: ENTRY_BYTES };
        let (expected, actual) = (entry.u32(record), crc32fast::hash(covered));
        if expected != actual {
            return Err(BodyError::BlockChecksum { block, expected, actual });
        }
        Ok(())
    }

    /// Checks every block of the record, and that it is padded with zeros.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check_blocks(&self, record: &[u8]) -> Result<(), BodyError> {
        (0..self.blocks).try_for_each(|block| self.check_block(record, block))?;
        let padding = self.ends.last().map_or(0, |end| *end as usize);
        match first_nonzero(&record[padding..self.blocks as usize * BLOCK_BYTES]) {
            Some(index) => Err(BodyError::Padding { offset: (padding + index) as u32 }),
            None => Ok(()),
        }
    }

    /// The headers of all bodies of the record. Their archives aren't looked at: the block checksums cover them.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn read_bodies(&self, record: &[u8], group: GroupId) -> Result<Vec<PackedBody>, PackError> {
        let mut next = self.first;
        let mut bodies = Vec::with_capacity(self.ends.len());
        for number in 0..self.ends.len() {
            let (place, last) = (self.place(number), number + 1 == self.ends.len());
            let number = number as u32;
            let bytes = record.get(place.clone()).ok_or(PackError::Place { number })?;
            let header = BodyHeader::parse(bytes).map_err(|error| PackError::Body { number, error })?;
            if header.layout.body_bytes as usize != place.len() {
                return Err(PackError::Place { number });
            }
            let handle = header.handle();
            if handle.first != next || header.group != group || (last && handle.end() != self.end) {
                return Err(PackError::Order { number, found: handle.first, group: header.group });
            }
            next = handle.end();
            bodies.push(PackedBody { header, offset: place.start as u32 });
        }
        Ok(bodies)
    }

    /// Of a pack that may be damaged: the bodies whose header and table lie in sound blocks. Identity and slots of the
    /// others are unknown.
    pub fn known_bodies(&self, record: &[u8], group: GroupId) -> Vec<KnownBody> {
        let sound: Vec<bool> = (0..self.blocks).map(|block| self.check_block(record, block).is_ok()).collect();
        let is_sound = |range: Range<usize>| {
            let blocks = range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES);
            sound.get(blocks).is_some_and(|blocks| blocks.iter().all(|sound| *sound))
        };
        let known = |number| {
            let place = self.place(number);
            let head = place.start..place.start + BODY_HEADER_BYTES;
            // Only from sound bytes is a length of the table believed.
            let header = record.get(place.clone()).filter(|_| is_sound(head)).map(BodyHeader::parse)?.ok()?;
            let table_end = place.start + header.layout.header_bytes as usize;
            let known = header.group == group
                && header.layout.body_bytes as usize == place.len()
                && header.handle().first >= self.first
                && header.handle().end() <= self.end
                && is_sound(place.start..table_end);
            let body = PackedBody { header, offset: place.start as u32 };
            known.then_some(KnownBody { body, is_sound: is_sound(place) })
        };
        (0..self.ends.len()).filter_map(known).collect()
    }
}

/// What the checksum of a block covers: block 0 from the first body on, for the record's checksum covers the rest.
fn covered(block: u32, head_bytes: usize) -> Range<usize> {
    let start = block as usize * BLOCK_BYTES;
    let from = if block == 0 { RECORD_HEADER_BYTES + head_bytes } else { start };
    from..start + BLOCK_BYTES
}

/// Where the checksum of a block lies in the record.
pub(crate) fn block_checksum(block: u32) -> usize {
    RECORD_HEADER_BYTES + PACK_HEADER_BYTES + block as usize * ENTRY_BYTES
}

/// Gathers bodies for a pack.
#[derive(Debug)]
pub struct PackBuilder {
    record_bytes_max: u32,
    bodies: Vec<BodyHandle>,
    bytes: Vec<u8>,
}

impl PackBuilder {
    /// For records that are no longer than `record_bytes_max`, the most that a segment takes.
    pub fn new(record_bytes_max: u64) -> PackBuilder {
        let max = u64::from(PACK_RECORD_BYTES_MAX);
        PackBuilder { record_bytes_max: record_bytes_max.min(max) as u32, bodies: Vec::new(), bytes: Vec::new() }
    }

    /// Takes a body, of which `bytes` are the exact bytes, if it follows the last one and there is room; whether it
    /// was taken.
    ///
    /// # Panics
    /// If body and bytes don't belong together: a bug of the caller.
    pub fn try_push(&mut self, body: &BodyHandle, bytes: &[u8]) -> bool {
        assert_eq!(bytes.len(), body.bytes as usize, "a body is packed with its exact bytes");
        let follows = self.bodies.last().is_none_or(|last| last.end() == body.first);
        let blocks = blocks(self.bodies.len() + 1, self.bytes.len() + bytes.len());
        let fits = blocks.is_some_and(|blocks| blocks * BLOCK_BYTES as u32 <= self.record_bytes_max);
        if follows && fits {
            self.bodies.push(*body);
            self.bytes.extend_from_slice(bytes);
        }
        follows && fits
    }

    /// Whether no body was taken yet.
    pub fn is_empty(&self) -> bool {
        self.bodies.is_empty()
    }

    /// The pack of all bodies that were taken, if there are any; the builder is empty then.
    pub fn finish(&mut self) -> Option<Pack> {
        let (first, last) = (*self.bodies.first()?, *self.bodies.last()?);
        let blocks = blocks(self.bodies.len(), self.bytes.len()).expect("every body that was taken fits");
        let head_bytes = head_bytes(self.bodies.len(), blocks);
        let mut record = RecordBuffer::zeroed(blocks as usize * BLOCK_BYTES);
        let bytes = record.as_mut();
        let mut at = RECORD_HEADER_BYTES + head_bytes;
        bytes[at..at + self.bytes.len()].copy_from_slice(&self.bytes);
        let mut bodies = Vec::with_capacity(self.bodies.len());
        let directory = block_checksum(blocks);
        for (number, body) in std::mem::take(&mut self.bodies).into_iter().enumerate() {
            bodies.push((body, at as u32));
            at += body.bytes as usize;
            let entry = Field { offset: directory + number * ENTRY_BYTES, bytes: ENTRY_BYTES };
            entry.put(bytes, &(at as u32).to_le_bytes());
        }
        self.bytes.clear();
        let pack = &mut bytes[RECORD_HEADER_BYTES..];
        field::MAGIC.put(pack, &MAGIC.to_le_bytes());
        field::HEAD_BYTES.put(pack, &(head_bytes as u32).to_le_bytes());
        field::BODIES.put(pack, &(bodies.len() as u32).to_le_bytes());
        field::FIRST.put(pack, &first.first.0.to_le_bytes());
        field::END.put(pack, &last.end().0.to_le_bytes());
        for block in 0..blocks {
            let checksum = crc32fast::hash(&bytes[covered(block, head_bytes)]);
            let entry = Field { offset: block_checksum(block), bytes: ENTRY_BYTES };
            entry.put(bytes, &checksum.to_le_bytes());
        }
        Some(Pack { record, pack_bytes: (at - RECORD_HEADER_BYTES) as u32, head_bytes, bodies })
    }
}

fn head_bytes(bodies: usize, blocks: u32) -> usize {
    PACK_HEADER_BYTES + (blocks as usize + bodies) * ENTRY_BYTES
}

/// The fewest blocks that hold a pack of these lengths; none if its head would reach behind block 0.
fn blocks(bodies: usize, bytes: usize) -> Option<u32> {
    let needed = |blocks: u32| align_to_block(RECORD_HEADER_BYTES + head_bytes(bodies, blocks) + bytes) / BLOCK_BYTES;
    let mut blocks = 1;
    // One more checksum may need one more block, and rarely another one.
    while needed(blocks) > blocks as usize {
        blocks = u32::try_from(needed(blocks)).ok()?;
    }
    (RECORD_HEADER_BYTES + head_bytes(bodies, blocks) <= BLOCK_BYTES).then_some(blocks)
}

/// A record of several bodies that is complete but for its record header; [`crate::Wal::append_pack`] lays that.
#[derive(Debug)]
pub struct Pack {
    pub(crate) record: RecordBuffer,
    /// Head and bodies, without padding.
    pub(crate) pack_bytes: u32,
    pub(crate) head_bytes: usize,
    pub(crate) bodies: Vec<(BodyHandle, u32)>,
}

impl Pack {
    /// The bodies in slot order, and where each begins in the record.
    pub fn bodies(&self) -> &[(BodyHandle, u32)] {
        &self.bodies
    }

    /// What is in it.
    pub fn content(&self) -> PackContent {
        let (first, last) = (self.bodies[0].0, self.bodies[self.bodies.len() - 1].0);
        PackContent {
            first: first.first,
            end: last.end(),
            bodies: self.bodies.len() as u32,
            body_bytes: self.bodies.iter().map(|(body, _)| body.bytes).sum(),
        }
    }

    /// The whole record; once appended, what is to be written.
    pub fn record(&self) -> &[u8] {
        self.record.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use synod_frame::{Origin, encode_noop};
    use synod_protocol::Ballot;

    use super::*;

    const GROUP: GroupId = GroupId(3);

    fn noop(first: u64, count: u32) -> (BodyHandle, Vec<u8>) {
        let mut record = RecordBuffer::zeroed(BLOCK_BYTES);
        let origin = Origin { group: GROUP, first: Slot(first), ballot: Ballot::ZERO, leader_time_us: first };
        let body = encode_noop(record.as_mut(), &origin, count).unwrap();
        (body, record.as_ref()[RECORD_HEADER_BYTES..][..body.bytes as usize].to_vec())
    }

    fn pack(bodies: u64) -> Pack {
        let mut builder = PackBuilder::new(1 << 20);
        for first in 1..=bodies {
            let (body, bytes) = noop(first, 1);
            assert!(builder.try_push(&body, &bytes));
        }
        builder.finish().unwrap()
    }

    fn parse(pack: &Pack) -> Result<PackHead, PackError> {
        PackHead::parse(pack.record(), pack.record().len() as u32, pack.pack_bytes)
    }

    #[test]
    fn bodies_come_back_as_they_were_packed() {
        for count in [1, 2, 18, 19, 300] {
            let pack = pack(count);
            let head = parse(&pack).unwrap();
            assert_eq!(head.content(), pack.content());
            assert_eq!((head.first, head.end), (Slot(1), Slot(count + 1)));
            head.check_blocks(pack.record()).unwrap();
            let bodies = head.read_bodies(pack.record(), GROUP).unwrap();
            let found: Vec<_> = bodies.iter().map(|body| (body.header.handle(), body.offset)).collect();
            assert_eq!(found, pack.bodies);
        }
    }

    #[test]
    fn a_pack_takes_what_follows_and_fits() {
        let mut builder = PackBuilder::new(4096);
        assert!(builder.finish().is_none());
        let (body, bytes) = noop(5, 3);
        assert!(builder.try_push(&body, &bytes));
        let (gap, bytes) = noop(9, 1);
        assert!(!builder.try_push(&gap, &bytes), "slot 8 would be missing");
        let mut next = 8;
        while {
            let (body, bytes) = noop(next, 1);
            builder.try_push(&body, &bytes)
        } {
            next += 1;
        }
        let pack = builder.finish().unwrap();
        assert_eq!(pack.record().len(), 4096);
        // 3,804 bytes are left for bodies of 192 and an entry of 4 each.
        assert_eq!(pack.bodies.len(), 19);
        assert!(builder.is_empty());
    }

    #[test]
    fn the_head_never_leaves_the_first_block() {
        let mut builder = PackBuilder::new(1 << 20);
        let mut next = 1;
        while {
            let (body, bytes) = noop(next, 1);
            builder.try_push(&body, &bytes)
        } {
            next += 1;
        }
        let pack = builder.finish().unwrap();
        assert!(RECORD_HEADER_BYTES + pack.head_bytes <= BLOCK_BYTES);
        assert!(pack.record().len() <= PACK_RECORD_BYTES_MAX as usize);
        assert!(pack.bodies.len() > 900, "{}", pack.bodies.len());
        parse(&pack).unwrap().check_blocks(pack.record()).unwrap();
    }

    #[test]
    fn every_byte_behind_the_head_is_covered() {
        let mut pack = pack(30);
        let head = parse(&pack).unwrap();
        for offset in (RECORD_HEADER_BYTES + pack.head_bytes..pack.record().len()).step_by(7) {
            pack.record.as_mut()[offset] ^= 4;
            let found = head.check_blocks(pack.record());
            assert!(matches!(found, Err(BodyError::BlockChecksum { .. })), "byte {offset}: {found:?}");
            pack.record.as_mut()[offset] ^= 4;
        }
    }

    #[test]
    fn a_head_that_lies_is_refused_whatever_its_checksum() {
        let sound = pack(3);
        let (length, bytes) = (sound.record().len() as u32, sound.pack_bytes);
        let with = |offset: usize, value: u32| {
            let mut record = sound.record().to_vec();
            record[RECORD_HEADER_BYTES + offset..][..4].copy_from_slice(&value.to_le_bytes());
            PackHead::parse(&record, length, bytes).and_then(|head| head.read_bodies(&record, GROUP))
        };
        assert!(with(0, 1).is_err());
        for bodies in [0, 1, 2, 4, 1000, u32::MAX] {
            assert!(with(field::BODIES.offset, bodies).is_err(), "{bodies} bodies");
        }
        for head_bytes in [0, 32, 44, 52, 4000, u32::MAX] {
            assert!(with(field::HEAD_BYTES.offset, head_bytes).is_err(), "a head of {head_bytes} bytes");
        }
        assert!(with(field::RESERVED.offset, 1).is_err());
        assert!(with(field::FIRST.offset, 2).is_err());
        assert!(with(field::END.offset, 9).is_err());
        for entry in 0..3 {
            for end in [0, 256, 300, 1000, 4096, u32::MAX] {
                assert!(with(36 + entry * 4, end).is_err(), "body {entry} ends at {end}");
            }
        }
        let head = parse(&sound).unwrap();
        assert!(head.read_bodies(sound.record(), GroupId(9)).is_err());
        assert!(PackHead::parse(sound.record(), length, bytes - 4).is_err());
    }
}
