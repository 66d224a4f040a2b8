//! The record header: local to a log, in front of a body or alone.

use synod_frame::{
    BLOCK_BYTES, BODY_HEADER_BYTES, BodyError, BodyHeader, BodyLayout, ByteField, FieldForm, GroupId,
    RECORD_HEADER_BYTES,
};
use synod_protocol::limits::BODY_BYTES_MAX;
use synod_protocol::{Ballot, FORMAT_MAX, Mark, NodeId, Slot};
use thiserror::Error;

use super::field::{BallotField, Field, MarkField, first_nonzero};
use super::{Block, FORMAT_VERSION, PackError, PackHead, magic};
use crate::identity::LogSalt;
use crate::lsn::Lsn;
use crate::segment::record_bytes;

const MAGIC: u32 = magic(b"SYNR");

mod field {
    use super::{BallotField, Field, MarkField, RECORD_HEADER_BYTES};

    pub(super) const MAGIC: Field = Field::first(4);
    pub(super) const VERSION: Field = MAGIC.then(2);
    pub(super) const KIND: Field = VERSION.then(2);
    pub(super) const CHECKSUM: Field = KIND.then(4);
    pub(super) const PREVIOUS_CHECKSUM: Field = CHECKSUM.then(4);
    pub(super) const EPOCH: Field = PREVIOUS_CHECKSUM.then(8);
    pub(super) const LSN: Field = EPOCH.then(8);
    pub(super) const RECORD_BYTES: Field = LSN.then(4);
    pub(super) const BODY_BYTES: Field = RECORD_BYTES.then(4);
    pub(super) const GROUP: Field = BODY_BYTES.then(4);
    pub(super) const SOURCE: Field = GROUP.then(4);
    pub(super) const BALLOT: BallotField = BallotField::after(SOURCE);
    pub(super) const PROMISED: BallotField = BallotField::after(BALLOT.last());
    pub(super) const DURABLE: Field = PROMISED.last().then(8);
    pub(super) const MARK: MarkField = MarkField::after(DURABLE);
    pub(super) const BASE: MarkField = MarkField::after(MARK.last());
    pub(super) const FIRST_NEEDED: Field = BASE.last().then(8);
    pub(super) const CONFIGURATION: Field = FIRST_NEEDED.then(8);
    pub(super) const LOG_TIME: Field = CONFIGURATION.then(8);
    pub(super) const SLOT_END: Field = LOG_TIME.then(8);
    pub(super) const FLAGS: Field = SLOT_END.then(8);
    pub(super) const SETTLED: Field = FLAGS.then(8);
    pub(super) const SETTLED_SLOT: Field = SETTLED.then(8);
    pub(super) const RESERVED: Field = SETTLED_SLOT.then(RECORD_HEADER_BYTES - SETTLED_SLOT.end());
}

// The byte map of engine/docs/wal-format.md; a change here is a new format version.
const _: () = {
    assert!(field::CHECKSUM.offset == 8);
    assert!(field::EPOCH.offset == 16);
    assert!(field::RECORD_BYTES.offset == 32);
    assert!(field::BALLOT.reserved.offset == 68);
    assert!(field::PROMISED.reserved.offset == 92);
    assert!(field::DURABLE.offset == 96);
    assert!(field::FIRST_NEEDED.offset == 152);
    assert!(field::SLOT_END.offset == 176);
    assert!(field::SETTLED.offset == 192);
    assert!(field::RESERVED.offset == 208);
    assert!(field::RESERVED.end() == RECORD_HEADER_BYTES);
};

/// The writer may have lost a promise.
const FLAG_UNSURE: u64 = 1;

/// The fields of the 256 bytes in front of a record, in order, without gap or overlap.
pub const RECORD_FIELDS: &[ByteField] = {
    use FieldForm::{Hex, Letters, Number, Zeros};
    &[
        field::MAGIC.named("magic", Letters),
        field::VERSION.named("version", Number),
        field::KIND.named("kind", Number),
        field::CHECKSUM.named("record checksum", Hex),
        field::PREVIOUS_CHECKSUM.named("previous checksum", Hex),
        field::EPOCH.named("epoch", Number),
        field::LSN.named("position", Hex),
        field::RECORD_BYTES.named("record bytes", Number),
        field::BODY_BYTES.named("body bytes", Number),
        field::GROUP.named("group", Number),
        field::SOURCE.named("source", Number),
        field::BALLOT.round.named("ballot round", Number),
        field::BALLOT.boot.named("ballot boot", Hex),
        field::BALLOT.node.named("ballot node", Number),
        field::BALLOT.reserved.named("reserved", Zeros),
        field::PROMISED.round.named("promised round", Number),
        field::PROMISED.boot.named("promised boot", Hex),
        field::PROMISED.node.named("promised node", Number),
        field::PROMISED.reserved.named("reserved", Zeros),
        field::DURABLE.named("durable", Hex),
        field::MARK.slot.named("mark slot", Number),
        field::MARK.chain.named("mark chain", Hex),
        field::BASE.slot.named("base slot", Number),
        field::BASE.chain.named("base chain", Hex),
        field::FIRST_NEEDED.named("first needed", Number),
        field::CONFIGURATION.named("configuration", Number),
        field::LOG_TIME.named("log time", Number),
        field::SLOT_END.named("slot end", Number),
        field::FLAGS.named("flags", Hex),
        field::SETTLED.named("settled", Hex),
        field::SETTLED_SLOT.named("settled slot", Number),
        field::RESERVED.named("reserved", Zeros),
    ]
};

// Every byte is named once.
const _: () = assert!(synod_frame::tiles(RECORD_FIELDS, RECORD_HEADER_BYTES));

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKind {
    /// A body accepted at a ballot.
    Accepted,
    /// A body known to be chosen.
    Chosen,
    /// A chosen body that came from a peer's log.
    Copied,
    /// A body that was damaged in this log and came from a peer again.
    Healed,
    /// A promise not to accept below a ballot.
    Promise,
    /// A configuration that rules.
    Configuration,
    /// Nothing but a durable mark, written when the log falls idle.
    Mark,
    /// Several bodies known to be chosen, in slot order without a gap.
    Pack,
    /// A new base: everything below it may be dropped.
    Trim,
}

impl RecordKind {
    /// All kinds that this build writes.
    pub const ALL: [RecordKind; 9] = [
        RecordKind::Accepted,
        RecordKind::Chosen,
        RecordKind::Copied,
        RecordKind::Healed,
        RecordKind::Promise,
        RecordKind::Configuration,
        RecordKind::Mark,
        RecordKind::Pack,
        RecordKind::Trim,
    ];

    /// Its number on disk. 7 (checkpoint) is set aside.
    pub fn number(self) -> u16 {
        match self {
            RecordKind::Accepted => 1,
            RecordKind::Chosen => 2,
            RecordKind::Copied => 3,
            RecordKind::Healed => 4,
            RecordKind::Promise => 5,
            RecordKind::Configuration => 6,
            RecordKind::Mark => 8,
            RecordKind::Pack => 9,
            RecordKind::Trim => 10,
        }
    }

    /// The kind with this number.
    pub fn from_number(number: u16) -> Option<RecordKind> {
        RecordKind::ALL.into_iter().find(|kind| kind.number() == number)
    }

    /// Whether records of this kind carry exactly one body, right behind the record header. Packs carry several, and the
    /// others none.
    pub fn has_body(self) -> bool {
        match self {
            RecordKind::Accepted
            | RecordKind::Chosen
            | RecordKind::Copied
            | RecordKind::Healed
            | RecordKind::Configuration => true,
            RecordKind::Promise | RecordKind::Mark | RecordKind::Pack | RecordKind::Trim => false,
        }
    }

    /// Whether the body is chosen, whatever ballots other records show.
    pub fn is_chosen(self) -> bool {
        matches!(self, RecordKind::Chosen | RecordKind::Copied | RecordKind::Healed | RecordKind::Pack)
    }

    /// Whether bodies of the record fill slots of the log: all do but that of a ruling configuration, which is a copy.
    pub fn fills_slots(self) -> bool {
        (self.has_body() && self != RecordKind::Configuration) || self == RecordKind::Pack
    }
}

/// What stands in a record's header besides position and checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordMeta {
    /// What the record says.
    pub kind: RecordKind,
    /// The group that it is for.
    pub group: GroupId,
    /// Where a copied or healed body came from; zero otherwise.
    pub source: NodeId,
    /// The ballot at which the body was accepted; zero if it wasn't.
    pub ballot: Ballot,
    /// The highest promise at this moment, that of this record included.
    pub promised: Ballot,
    /// The chosen prefix at this moment.
    pub mark: Mark,
    /// The log's own time at this moment, in microseconds.
    pub log_time_us: u64,
    /// Whether a higher promise may have been lost at this moment, so that the node doesn't vote.
    pub unsure: bool,
}

/// The 256 bytes in front of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// What the caller of the append said.
    pub meta: RecordMeta,
    /// Where the record begins.
    pub lsn: Lsn,
    /// The life of the segment that it was written in.
    pub epoch: u64,
    /// Over this header without this field, and header and table of the body, or the head of the pack; salted by the
    /// log's identity.
    pub checksum: u32,
    /// The checksum of the record before this one in the log; zero for the first of all.
    pub previous_checksum: u32,
    /// Length on disk; a whole number of blocks.
    pub record_bytes: u32,
    /// Exact length of the body, or of a pack with its head; zero if there is neither.
    pub body_bytes: u32,
    /// Everything before this position was durable when the record was laid out.
    pub durable: Lsn,
    /// Everything before this mark is trimmed.
    pub base: Mark,
    /// Segments of a lower epoch aren't needed any more.
    pub first_needed: u64,
    /// The slot at which the ruling configuration was chosen.
    pub configuration: Slot,
    /// The first slot after all bodies of the log up to here, that of this record included; zero if there are none.
    pub slot_end: Slot,
    /// What was lost up to here matters only for slots below a point.
    pub settled: Settled,
}

/// What was lost before a position matters to a vote only at slots below another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Settled {
    /// Records before this position are meant.
    pub before: Lsn,
    /// At this slot and above, none of their accepts can have been chosen, unless the leader of a later ballot found it so.
    pub slot: Slot,
}

/// Why bytes aren't a valid record of the log at this position.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum RecordError {
    /// It doesn't begin like a record.
    #[error("not a record: it begins with {found:#010x}")]
    Magic {
        /// The first four bytes.
        found: u32,
    },
    /// Written by another version of the format.
    #[error("record of format version {found}, this build reads version {FORMAT_VERSION}")]
    Version {
        /// Version found.
        found: u16,
    },
    /// A body of a format that this build doesn't read, intact: use a newer build.
    #[error("the record holds a body of format {needed}, this build reads formats up to {FORMAT_MAX}")]
    Newer {
        /// The format.
        needed: u16,
    },
    /// A kind that this build doesn't know.
    #[error("record of unknown kind {found}")]
    Kind {
        /// Kind found.
        found: u16,
    },
    /// Laid out for another place.
    #[error("record for position {found} at position {expected}")]
    Position {
        /// Where it lies.
        expected: Lsn,
        /// Where it says that it lies.
        found: Lsn,
    },
    /// Lengths that contradict each other or the kind.
    #[error("record of {record_bytes} bytes with a body of {body_bytes}")]
    Lengths {
        /// Length of the record as claimed.
        record_bytes: u32,
        /// Length of the body as claimed.
        body_bytes: u32,
    },
    /// The header, or header or table of the body, is damaged, or belongs to another log.
    #[error("record checksum is {expected:#010x} but its bytes give {actual:#010x}")]
    Checksum {
        /// As written.
        expected: u32,
        /// As computed.
        actual: u32,
    },
    /// A byte that must be zero isn't.
    #[error("byte {offset} of the record is reserved or padding and must be zero")]
    Zero {
        /// Offset in the record.
        offset: u32,
    },
    /// A field holds what no writer writes, although the checksum is right.
    #[error("record field {field} is out of bounds")]
    Bounds {
        /// The field's name in the byte map.
        field: &'static str,
    },
    /// The body is damaged.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// The block can't be read.
    #[error("the disk can't read it")]
    Unreadable,
    /// The pack isn't one, although its checksum is right.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// It doesn't follow the record in front of it.
    #[error("record follows checksum {found:#010x}, but the record before has {expected:#010x}")]
    Previous {
        /// Checksum of the record before.
        expected: u32,
        /// Checksum that the record names.
        found: u32,
    },
    /// It reaches into the part of the segment where records never lie.
    #[error("record of {record_bytes} bytes reaches past the last record byte of its segment")]
    Overrun {
        /// Length of the record as claimed.
        record_bytes: u32,
    },
}

impl RecordHeader {
    /// Lays the header into the first 256 bytes of `record`, whose body, if any, is in place behind them. Returns the
    /// checksum, which the header's own field doesn't need to hold.
    ///
    /// # Panics
    /// If `record` is shorter than a block.
    pub(crate) fn encode(&self, salt: LogSalt, body_head_bytes: usize, record: &mut [u8]) -> u32 {
        let header = &mut record[..RECORD_HEADER_BYTES];
        header.fill(0);
        field::MAGIC.put(header, &MAGIC.to_le_bytes());
        field::VERSION.put(header, &FORMAT_VERSION.to_le_bytes());
        field::KIND.put(header, &self.meta.kind.number().to_le_bytes());
        field::PREVIOUS_CHECKSUM.put(header, &self.previous_checksum.to_le_bytes());
        field::EPOCH.put(header, &self.epoch.to_le_bytes());
        field::LSN.put(header, &self.lsn.0.to_le_bytes());
        field::RECORD_BYTES.put(header, &self.record_bytes.to_le_bytes());
        field::BODY_BYTES.put(header, &self.body_bytes.to_le_bytes());
        field::GROUP.put(header, &self.meta.group.0.to_le_bytes());
        field::SOURCE.put(header, &self.meta.source.0.to_le_bytes());
        field::BALLOT.put(header, self.meta.ballot);
        field::PROMISED.put(header, self.meta.promised);
        field::DURABLE.put(header, &self.durable.0.to_le_bytes());
        field::MARK.put(header, self.meta.mark);
        field::BASE.put(header, self.base);
        field::FIRST_NEEDED.put(header, &self.first_needed.to_le_bytes());
        field::CONFIGURATION.put(header, &self.configuration.0.to_le_bytes());
        field::LOG_TIME.put(header, &self.meta.log_time_us.to_le_bytes());
        field::SLOT_END.put(header, &self.slot_end.0.to_le_bytes());
        field::SETTLED.put(header, &self.settled.before.0.to_le_bytes());
        field::SETTLED_SLOT.put(header, &self.settled.slot.0.to_le_bytes());
        field::FLAGS.put(header, &(u64::from(self.meta.unsure) * FLAG_UNSURE).to_le_bytes());
        let checksum = checksum(salt, &record[..RECORD_HEADER_BYTES + body_head_bytes]);
        field::CHECKSUM.put(record, &checksum.to_le_bytes());
        checksum
    }

    /// Whether a block claims to begin a record of this epoch at this position; a cheap look before [`Self::decode`].
    pub(crate) fn is_claimed(block: &Block, at: Lsn, epoch: u64) -> bool {
        field::MAGIC.u32(block) == MAGIC && field::EPOCH.u64(block) == epoch && field::LSN.u64(block) == at.0
    }

    /// The epoch and position that a block claims if it begins like a record; nothing is verified.
    pub(crate) fn claim(block: &Block) -> Option<(u64, Lsn)> {
        let found = field::MAGIC.u32(block) == MAGIC;
        found.then(|| (field::EPOCH.u64(block), Lsn(field::LSN.u64(block))))
    }

    /// Reads and verifies the first block of a record that should lie at `at`, in the segment with this epoch: the
    /// header, and header and table of the body, whose archive isn't looked at, or the head of the pack.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn decode(
        block: &Block,
        salt: LogSalt,
        at: Lsn,
        epoch: u64,
    ) -> Result<(RecordHeader, Option<BodyHeader>), RecordError> {
        let found = field::MAGIC.u32(block);
        if found != MAGIC {
            return Err(RecordError::Magic { found });
        }
        let found = field::VERSION.u16(block);
        if found != FORMAT_VERSION {
            return Err(RecordError::Version { found });
        }
        let found = Lsn(field::LSN.u64(block));
        if found != at || field::EPOCH.u64(block) != epoch {
            return Err(RecordError::Position { expected: at, found });
        }
        let found = field::KIND.u16(block);
        let kind = RecordKind::from_number(found).ok_or(RecordError::Kind { found })?;
        let (record_bytes, body_bytes) = (field::RECORD_BYTES.u32(block), field::BODY_BYTES.u32(block));
        check_lengths(kind, record_bytes, body_bytes)?;

        let body_head_bytes = if body_bytes == 0 {
            0
        } else if kind == RecordKind::Pack {
            PackHead::peek(&block[RECORD_HEADER_BYTES..], record_bytes)?
        } else {
            let layout = BodyLayout::peek(&block[RECORD_HEADER_BYTES..]).map_err(|error| newer(block, salt, error))?;
            if layout.body_bytes != body_bytes {
                return Err(RecordError::Lengths { record_bytes, body_bytes });
            }
            layout.header_bytes as usize
        };
        let expected = field::CHECKSUM.u32(block);
        // Header and table of the longest body end inside block 0, which synod-frame asserts; so does the head of a pack.
        let actual = checksum(salt, &block[..RECORD_HEADER_BYTES + body_head_bytes]);
        if expected != actual {
            return Err(RecordError::Checksum { expected, actual });
        }
        check_zeros(block, body_bytes)?;
        let body = match kind.has_body() {
            false => None,
            true => Some(BodyHeader::parse_in_record(block)?),
        };
        if kind == RecordKind::Pack {
            PackHead::parse(block, record_bytes, body_bytes)?;
        }
        let header = RecordHeader {
            meta: RecordMeta {
                kind,
                group: GroupId(field::GROUP.u32(block)),
                source: NodeId(field::SOURCE.u32(block)),
                ballot: field::BALLOT.read(block),
                promised: field::PROMISED.read(block),
                mark: field::MARK.read(block),
                log_time_us: field::LOG_TIME.u64(block),
                unsure: field::FLAGS.u64(block) & FLAG_UNSURE != 0,
            },
            lsn: at,
            epoch,
            checksum: expected,
            previous_checksum: field::PREVIOUS_CHECKSUM.u32(block),
            record_bytes,
            body_bytes,
            durable: Lsn(field::DURABLE.u64(block)),
            base: field::BASE.read(block),
            first_needed: field::FIRST_NEEDED.u64(block),
            configuration: Slot(field::CONFIGURATION.u64(block)),
            slot_end: Slot(field::SLOT_END.u64(block)),
            settled: Settled { before: Lsn(field::SETTLED.u64(block)), slot: Slot(field::SETTLED_SLOT.u64(block)) },
        };
        // Both are positions of the past; believed as they are, they would outlive this log.
        let flags_known = field::FLAGS.u64(block) & !FLAG_UNSURE == 0;
        for (field, valid) in [
            ("durable", header.durable <= at),
            ("first needed", header.first_needed <= epoch),
            ("flags", flags_known),
            ("settled", header.settled.before <= at),
        ] {
            if !valid {
                return Err(RecordError::Bounds { field });
            }
        }
        Ok((header, body))
    }

    /// Where the record ends.
    pub fn end(&self) -> Lsn {
        Lsn(self.lsn.0.saturating_add(u64::from(self.record_bytes)))
    }
}

fn check_lengths(kind: RecordKind, found: u32, body_bytes: u32) -> Result<(), RecordError> {
    let with_body = body_bytes as usize >= BODY_HEADER_BYTES && body_bytes <= BODY_BYTES_MAX;
    let body_fits = if kind.has_body() || kind == RecordKind::Pack { with_body } else { body_bytes == 0 };
    if !body_fits || found != record_bytes(body_bytes) {
        return Err(RecordError::Lengths { record_bytes: found, body_bytes });
    }
    Ok(())
}

/// What is wrong with a body that can't be read: unless the record's checksum is right, its format isn't what it says.
fn newer(block: &Block, salt: LogSalt, error: BodyError) -> RecordError {
    let told = BodyLayout::peek_format(&block[RECORD_HEADER_BYTES..]);
    let head = told.map(|(format, head_bytes)| (format, RECORD_HEADER_BYTES.saturating_add(head_bytes as usize)));
    match head {
        Some((needed, end)) if needed > FORMAT_MAX && end <= BLOCK_BYTES => {
            let is_intact = field::CHECKSUM.u32(block) == checksum(salt, &block[..end]);
            if is_intact { RecordError::Newer { needed } } else { error.into() }
        }
        _ => error.into(),
    }
}

/// Reserved bytes, and for a record without a body the rest of its only block.
fn check_zeros(block: &Block, body_bytes: u32) -> Result<(), RecordError> {
    let reserved = field::RESERVED.offset..if body_bytes == 0 { BLOCK_BYTES } else { field::RESERVED.end() };
    let ballots = [field::BALLOT.reserved, field::PROMISED.reserved];
    for zeros in ballots.map(|field| field.offset..field.end()).into_iter().chain([reserved]) {
        if let Some(index) = first_nonzero(&block[zeros.clone()]) {
            return Err(RecordError::Zero { offset: (zeros.start + index) as u32 });
        }
    }
    Ok(())
}

/// Over header, and header and table of the body, without the field that holds it.
fn checksum(salt: LogSalt, heads: &[u8]) -> u32 {
    let mut hasher = salt.hasher();
    hasher.update(&heads[..field::CHECKSUM.offset]);
    hasher.update(&heads[field::CHECKSUM.end()..]);
    hasher.finalize()
}
