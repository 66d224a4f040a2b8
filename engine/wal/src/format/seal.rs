//! The blocks that seal a segment: gap, index, checksum table and footer.
//!
//! Every one of them names its epoch and place, where the records end and the checksum of the last one, and carries
//! its own checksum. So whichever of them survives a crash proves that sealing had begun, and therefore that the
//! segment's records were durable up to the end that it names; and an entry of a table that is being overwritten is
//! never mistaken for one of the life before.

use synod_frame::{BLOCK_BYTES, GroupId};
use synod_protocol::{Ballot, BodyHandle, BodyId, BodyKind, Mark, Slot};
use thiserror::Error;

use super::field::{BallotField, Field, MarkField, first_nonzero};
use super::{Block, FORMAT_VERSION, PackContent, RecordKind, magic};
use crate::identity::LogSalt;
use crate::lsn::Lsn;

/// Bytes in front of a seal block's content.
const HEAD_BYTES: usize = 64;

/// Bytes of a seal block's content.
const CONTENT_BYTES: usize = BLOCK_BYTES - HEAD_BYTES;

/// Bytes of one index entry.
const ENTRY_BYTES: usize = 88;

/// Checksums in one block of the table.
pub const TABLE_ENTRIES_PER_BLOCK: usize = CONTENT_BYTES / 4;

/// Records in one block of the index.
pub const INDEX_ENTRIES_PER_BLOCK: usize = CONTENT_BYTES / ENTRY_BYTES;

mod field {
    use super::{Field, HEAD_BYTES};

    pub(super) const MAGIC: Field = Field::first(4);
    pub(super) const VERSION: Field = MAGIC.then(2);
    pub(super) const ENTRIES: Field = VERSION.then(2);
    pub(super) const CHECKSUM: Field = ENTRIES.then(4);
    pub(super) const LAST_CHECKSUM: Field = CHECKSUM.then(4);
    pub(super) const EPOCH: Field = LAST_CHECKSUM.then(8);
    pub(super) const LSN: Field = EPOCH.then(8);
    pub(super) const RECORDS_END: Field = LSN.then(8);
    pub(super) const FEATURES: Field = RECORDS_END.then(8);
    pub(super) const RESERVED: Field = FEATURES.then(HEAD_BYTES - FEATURES.end());
}

mod entry_field {
    use super::{BallotField, Field};

    pub(super) const OFFSET: Field = Field::first(4);
    pub(super) const RECORD_BYTES: Field = OFFSET.then(4);
    pub(super) const CHECKSUM: Field = RECORD_BYTES.then(4);
    pub(super) const KIND: Field = CHECKSUM.then(2);
    pub(super) const BODY_KIND: Field = KIND.then(2);
    pub(super) const GROUP: Field = BODY_KIND.then(4);
    pub(super) const COUNT: Field = GROUP.then(4);
    pub(super) const FIRST: Field = COUNT.then(8);
    pub(super) const BODY_ID: Field = FIRST.then(16);
    pub(super) const BALLOT: BallotField = BallotField::after(BODY_ID);
    pub(super) const ARGUMENT: Field = BALLOT.last().then(8);
    pub(super) const BODY_BYTES: Field = ARGUMENT.then(4);
    pub(super) const RESERVED: Field = BODY_BYTES.then(4);
}

mod footer_field {
    use super::{BallotField, Field, MarkField};

    pub(super) const RECORDS: Field = Field::first(8);
    pub(super) const BODIES: Field = RECORDS.then(8);
    pub(super) const BODY_BYTES: Field = BODIES.then(8);
    pub(super) const SLOT_FIRST: Field = BODY_BYTES.then(8);
    pub(super) const SLOT_END: Field = SLOT_FIRST.then(8);
    pub(super) const INDEX_OFFSET: Field = SLOT_END.then(8);
    pub(super) const PROMISED: BallotField = BallotField::after(INDEX_OFFSET);
    pub(super) const MARK: MarkField = MarkField::after(PROMISED.last());
    pub(super) const BASE: MarkField = MarkField::after(MARK.last());
    pub(super) const FIRST_NEEDED: Field = BASE.last().then(8);
    pub(super) const LOG_TIME: Field = FIRST_NEEDED.then(8);
}

// The byte map of engine/docs/wal-format.md; a change here is a new format version.
const _: () = {
    assert!(field::EPOCH.offset == 16);
    assert!(field::RESERVED.offset == 48);
    assert!(field::RESERVED.end() == HEAD_BYTES);
    assert!(entry_field::FIRST.offset == 24);
    assert!(entry_field::RESERVED.end() == ENTRY_BYTES);
    assert!(footer_field::LOG_TIME.end() == 136);
    assert!(INDEX_ENTRIES_PER_BLOCK == 45);
    assert!(TABLE_ENTRIES_PER_BLOCK == 1008);
};

/// Which of the four a seal block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SealKind {
    /// Nothing, between the last record and the index.
    Gap,
    /// One entry a record.
    Index,
    /// The checksum of every block in front of the table.
    Table,
    /// Counts, and what held at the end.
    Footer,
}

impl SealKind {
    const ALL: [SealKind; 4] = [SealKind::Gap, SealKind::Index, SealKind::Table, SealKind::Footer];

    const fn magic(self) -> u32 {
        match self {
            SealKind::Gap => magic(b"SYNG"),
            SealKind::Index => magic(b"SYNI"),
            SealKind::Table => magic(b"SYNT"),
            SealKind::Footer => magic(b"SYNF"),
        }
    }
}

/// The head of a seal block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealBlock {
    /// Which of the four it is.
    pub kind: SealKind,
    /// The life of the segment that it seals.
    pub epoch: u64,
    /// Where it lies.
    pub lsn: Lsn,
    /// Where the records of the segment end.
    pub records_end: Lsn,
    /// The checksum of the last record; of the last one before the segment if it has none.
    pub last_checksum: u32,
    /// Entries of index or table in this block.
    pub entries: u16,
}

/// Why a block doesn't seal this segment.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum SealBlockError {
    /// It begins like none of the four.
    #[error("not part of a seal: it begins with {found:#010x}")]
    Magic {
        /// The first four bytes.
        found: u32,
    },
    /// Damaged, or of another log.
    #[error("seal checksum is {expected:#010x} but its bytes give {actual:#010x}")]
    Checksum {
        /// As written.
        expected: u32,
        /// As computed.
        actual: u32,
    },
    /// Written by another version of the format, or with features that this build doesn't know.
    #[error("seal of format version {found}, this build reads version {FORMAT_VERSION} without features")]
    Version {
        /// Version found.
        found: u16,
    },
    /// Laid out for another place.
    #[error("seal block for position {found} at position {expected}")]
    Position {
        /// Where it lies.
        expected: Lsn,
        /// Where it says that it lies.
        found: Lsn,
    },
    /// A field holds what no writer writes, although the checksum is right.
    #[error("seal field {field} is out of bounds")]
    Bounds {
        /// The field's name in the byte map.
        field: &'static str,
    },
}

impl SealBlock {
    /// Lays the head into `block`, whose content is in place, and completes it with the checksum.
    pub(crate) fn encode(&self, salt: LogSalt, block: &mut [u8]) {
        block[..HEAD_BYTES].fill(0);
        field::MAGIC.put(block, &self.kind.magic().to_le_bytes());
        field::VERSION.put(block, &FORMAT_VERSION.to_le_bytes());
        field::ENTRIES.put(block, &self.entries.to_le_bytes());
        field::LAST_CHECKSUM.put(block, &self.last_checksum.to_le_bytes());
        field::EPOCH.put(block, &self.epoch.to_le_bytes());
        field::LSN.put(block, &self.lsn.0.to_le_bytes());
        field::RECORDS_END.put(block, &self.records_end.0.to_le_bytes());
        let checksum = checksum(salt, block);
        field::CHECKSUM.put(block, &checksum.to_le_bytes());
    }

    /// Reads and verifies a block that lies at `at`, of whatever epoch it is.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn decode(block: &Block, salt: LogSalt, offset: u64, segment_bytes: u64) -> Result<SealBlock, SealBlockError> {
        let found = field::MAGIC.u32(block);
        let kind = SealKind::ALL.into_iter().find(|kind| kind.magic() == found);
        let kind = kind.ok_or(SealBlockError::Magic { found })?;
        let expected = field::CHECKSUM.u32(block);
        let actual = checksum(salt, block);
        if expected != actual {
            return Err(SealBlockError::Checksum { expected, actual });
        }
        let found = field::VERSION.u16(block);
        if found != FORMAT_VERSION || field::FEATURES.u64(block) != 0 {
            return Err(SealBlockError::Version { found });
        }
        let epoch = field::EPOCH.u64(block);
        let (at, found) = (Lsn::new(epoch, segment_bytes, offset), Lsn(field::LSN.u64(block)));
        if at != found {
            return Err(SealBlockError::Position { expected: at, found });
        }
        let records_end = Lsn(field::RECORDS_END.u64(block));
        let entries = field::ENTRIES.u16(block);
        let entries_max = match kind {
            SealKind::Gap | SealKind::Footer => 0,
            SealKind::Index => INDEX_ENTRIES_PER_BLOCK,
            SealKind::Table => TABLE_ENTRIES_PER_BLOCK,
        };
        let reserved = first_nonzero(&block[field::RESERVED.offset..field::RESERVED.end()]);
        for (field, valid) in [
            ("records_end", records_end.epoch(segment_bytes) == epoch && records_end <= at),
            ("entries", usize::from(entries) <= entries_max),
            ("reserved", reserved.is_none()),
        ] {
            if !valid {
                return Err(SealBlockError::Bounds { field });
            }
        }
        Ok(SealBlock { kind, epoch, lsn: at, records_end, last_checksum: field::LAST_CHECKSUM.u32(block), entries })
    }

    /// Whether a block begins like one of the index.
    pub(crate) fn is_index(block: &Block) -> bool {
        field::MAGIC.u32(block) == SealKind::Index.magic()
    }
}

/// Lays table entries into a block and says how many it took.
pub(crate) fn put_table(checksums: &[u32], block: &mut [u8]) -> u16 {
    let (entries, _) = block[HEAD_BYTES..].as_chunks_mut::<4>();
    for (entry, checksum) in entries.iter_mut().zip(checksums) {
        *entry = checksum.to_le_bytes();
    }
    checksums.len().min(TABLE_ENTRIES_PER_BLOCK) as u16
}

/// The table entry at `index` of a verified table block.
pub(crate) fn table_entry(block: &Block, index: usize) -> Option<u32> {
    let (entries, _) = block[HEAD_BYTES..].as_chunks::<4>();
    entries.get(index).map(|entry| u32::from_le_bytes(*entry))
}

/// One record as the index of its segment names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedRecord {
    /// Where it begins in the file.
    pub offset: u32,
    /// Its length.
    pub record_bytes: u32,
    /// Its checksum.
    pub checksum: u32,
    /// What it says.
    pub kind: RecordKind,
    /// The group that it is for.
    pub group: GroupId,
    /// The ballot at which its body was accepted.
    pub ballot: Ballot,
    /// Its body, if it has one.
    pub body: Option<BodyHandle>,
    /// What is in it, if it is a pack.
    pub pack: Option<PackContent>,
}

impl SealedRecord {
    pub(crate) fn encode(&self, entry: &mut [u8]) {
        entry_field::OFFSET.put(entry, &self.offset.to_le_bytes());
        entry_field::RECORD_BYTES.put(entry, &self.record_bytes.to_le_bytes());
        entry_field::CHECKSUM.put(entry, &self.checksum.to_le_bytes());
        entry_field::KIND.put(entry, &self.kind.number().to_le_bytes());
        entry_field::GROUP.put(entry, &self.group.0.to_le_bytes());
        entry_field::BALLOT.put(entry, self.ballot);
        if let Some(body) = &self.body {
            let (kind, argument) = body_kind_number(body.kind);
            entry_field::BODY_KIND.put(entry, &kind.to_le_bytes());
            entry_field::ARGUMENT.put(entry, &argument.to_le_bytes());
            entry_field::COUNT.put(entry, &body.count.to_le_bytes());
            entry_field::FIRST.put(entry, &body.first.0.to_le_bytes());
            entry_field::BODY_ID.put(entry, &body.id.0.to_le_bytes());
            entry_field::BODY_BYTES.put(entry, &body.bytes.to_le_bytes());
        }
        if let Some(pack) = &self.pack {
            entry_field::ARGUMENT.put(entry, &pack.end.0.to_le_bytes());
            entry_field::COUNT.put(entry, &pack.bodies.to_le_bytes());
            entry_field::FIRST.put(entry, &pack.first.0.to_le_bytes());
            entry_field::BODY_BYTES.put(entry, &pack.body_bytes.to_le_bytes());
        }
    }

    /// The index entries in a verified block.
    ///
    /// # Errors
    /// If an entry holds a kind that this build doesn't know.
    pub fn decode_block(block: &Block, head: &SealBlock) -> Result<Vec<SealedRecord>, SealBlockError> {
        let (entries, _) = block[HEAD_BYTES..].as_chunks::<ENTRY_BYTES>();
        let used = entries.get(..usize::from(head.entries)).ok_or(SealBlockError::Bounds { field: "entries" })?;
        used.iter().map(SealedRecord::decode).collect()
    }

    fn decode(entry: &[u8; ENTRY_BYTES]) -> Result<SealedRecord, SealBlockError> {
        let kind = RecordKind::from_number(entry_field::KIND.u16(entry));
        let body_kind = entry_field::BODY_KIND.u16(entry);
        let body = match body_kind {
            0 => None,
            _ => Some(BodyHandle {
                first: Slot(entry_field::FIRST.u64(entry)),
                count: entry_field::COUNT.u32(entry),
                bytes: entry_field::BODY_BYTES.u32(entry),
                kind: body_kind_from_number(body_kind, entry_field::ARGUMENT.u64(entry))
                    .ok_or(SealBlockError::Bounds { field: "body kind" })?,
                id: BodyId(entry_field::BODY_ID.u128(entry)),
            }),
        };
        if body.is_some_and(|body| body.first.checked_add(u64::from(body.count)).is_none()) {
            return Err(SealBlockError::Bounds { field: "count" });
        }
        let pack = (kind == Some(RecordKind::Pack)).then(|| PackContent {
            first: Slot(entry_field::FIRST.u64(entry)),
            end: Slot(entry_field::ARGUMENT.u64(entry)),
            bodies: entry_field::COUNT.u32(entry),
            body_bytes: entry_field::BODY_BYTES.u32(entry),
        });
        Ok(SealedRecord {
            offset: entry_field::OFFSET.u32(entry),
            record_bytes: entry_field::RECORD_BYTES.u32(entry),
            checksum: entry_field::CHECKSUM.u32(entry),
            kind: kind.ok_or(SealBlockError::Bounds { field: "kind" })?,
            group: GroupId(entry_field::GROUP.u32(entry)),
            ballot: entry_field::BALLOT.read(entry),
            body,
            pack,
        })
    }
}

/// Lays index entries into a block and says how many it took.
pub(crate) fn put_index(records: &[SealedRecord], block: &mut [u8]) -> u16 {
    let (entries, _) = block[HEAD_BYTES..].as_chunks_mut::<ENTRY_BYTES>();
    for (entry, record) in entries.iter_mut().zip(records) {
        record.encode(entry);
    }
    records.len().min(INDEX_ENTRIES_PER_BLOCK) as u16
}

/// The last block of a sealed segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footer {
    /// Records in the segment.
    pub records: u64,
    /// Records that fill slots.
    pub bodies: u64,
    /// Exact bytes of their bodies.
    pub body_bytes: u64,
    /// First slot that any of them fills; zero if there are none.
    pub slot_first: Slot,
    /// First slot after all of them.
    pub slot_end: Slot,
    /// Where the index begins in the file.
    pub index_offset: u64,
    /// The highest promise at the end.
    pub promised: Ballot,
    /// The chosen prefix at the end.
    pub mark: Mark,
    /// Everything below was trimmed at the end.
    pub base: Mark,
    /// Segments of a lower epoch weren't needed any more at the end.
    pub first_needed: u64,
    /// The log's own time at the end, in microseconds.
    pub log_time_us: u64,
}

impl Footer {
    pub(crate) fn encode(&self, block: &mut [u8]) {
        let content = &mut block[HEAD_BYTES..];
        footer_field::RECORDS.put(content, &self.records.to_le_bytes());
        footer_field::BODIES.put(content, &self.bodies.to_le_bytes());
        footer_field::BODY_BYTES.put(content, &self.body_bytes.to_le_bytes());
        footer_field::SLOT_FIRST.put(content, &self.slot_first.0.to_le_bytes());
        footer_field::SLOT_END.put(content, &self.slot_end.0.to_le_bytes());
        footer_field::INDEX_OFFSET.put(content, &self.index_offset.to_le_bytes());
        footer_field::PROMISED.put(content, self.promised);
        footer_field::MARK.put(content, self.mark);
        footer_field::BASE.put(content, self.base);
        footer_field::FIRST_NEEDED.put(content, &self.first_needed.to_le_bytes());
        footer_field::LOG_TIME.put(content, &self.log_time_us.to_le_bytes());
    }

    /// Reads the content of a verified footer block.
    pub(crate) fn decode(block: &Block) -> Footer {
        let content = &block[HEAD_BYTES..];
        Footer {
            records: footer_field::RECORDS.u64(content),
            bodies: footer_field::BODIES.u64(content),
            body_bytes: footer_field::BODY_BYTES.u64(content),
            slot_first: Slot(footer_field::SLOT_FIRST.u64(content)),
            slot_end: Slot(footer_field::SLOT_END.u64(content)),
            index_offset: footer_field::INDEX_OFFSET.u64(content),
            promised: footer_field::PROMISED.read(content),
            mark: footer_field::MARK.read(content),
            base: footer_field::BASE.read(content),
            first_needed: footer_field::FIRST_NEEDED.u64(content),
            log_time_us: footer_field::LOG_TIME.u64(content),
        }
    }
}

pub(crate) fn body_kind_number(kind: BodyKind) -> (u16, u64) {
    match kind {
        BodyKind::Commands => (1, 0),
        BodyKind::NoOp => (2, 0),
        BodyKind::Configuration { after } => (3, after.0),
        BodyKind::Trim { upto } => (4, upto.0),
        BodyKind::Session => (5, 0),
        BodyKind::Ticket => (6, 0),
    }
}

fn body_kind_from_number(kind: u16, argument: u64) -> Option<BodyKind> {
    match kind {
        1 => Some(BodyKind::Commands),
        2 => Some(BodyKind::NoOp),
        3 => Some(BodyKind::Configuration { after: Slot(argument) }),
        4 => Some(BodyKind::Trim { upto: Slot(argument) }),
        5 => Some(BodyKind::Session),
        6 => Some(BodyKind::Ticket),
        _ => None,
    }
}

/// Over the whole block without the field that holds it.
fn checksum(salt: LogSalt, block: &[u8]) -> u32 {
    let mut hasher = salt.hasher();
    hasher.update(&block[..field::CHECKSUM.offset]);
    hasher.update(&block[field::CHECKSUM.end()..]);
    hasher.finalize()
}
