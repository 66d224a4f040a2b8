//! The one reader of segment files, used by recovery and by tools.
//!
//! A [`Scanner`] walks one segment: records as long as each follows from the one before, then one [`Hole`] that says
//! why the walk ended, then whatever valid records lie behind the hole. It decides nothing: whether a hole is the end
//! of the log, a torn write or damage depends on what the rest of the log proves, which is the concern of recovery.
//!
//! **Block test.** A file in the pool holds known bytes: zeros, or the blocks of the segment before, described by that
//! segment's table at the end of the file, which stays until the next seal. So a block without a valid record in it
//! is *old* if it is as the pool left it. A torn write leaves whole old blocks among new ones (a block is written
//! whole or not at all); damage doesn't.

mod body;
mod reader;

use std::collections::BTreeMap;
use std::io;

use synod_frame::{BLOCK_BYTES, BodyError, BodyHeader, RECORD_HEADER_BYTES, RecordBuffer, verify_body_in_record};
use synod_protocol::SlotRange;
use thiserror::Error;

use crate::format::{
    Block, Footer, KnownBody, PackContent, PackHead, PackedBody, RecordError, RecordHeader, RecordKind, SealBlock,
    SealKind, SealedRecord, SegmentHeader, SegmentHeaderError, TABLE_ENTRIES_PER_BLOCK, first_nonzero, table_entry,
};
use crate::identity::LogSalt;
use crate::lsn::{FileId, Lsn};
use crate::segment::{BLOCK, Geometry};
use crate::store::SegmentStore;

pub use body::read_body;
use reader::Reader;

/// How far ahead a scan reads when it looks at all bytes.
const READ_AHEAD_BYTES: usize = 1 << 20;

/// How closely records are looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Depth {
    /// Record headers, and headers and tables of bodies; one block a record is read, but packs are read whole.
    Heads,
    /// Every byte.
    #[default]
    Full,
}

/// How to scan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScanOptions {
    /// How closely to look.
    pub depth: Depth,
    /// The log may be written meanwhile: what looks wrong is read again before it is reported.
    pub live: bool,
    /// Where the records end, if the next segment names it; nothing behind is looked at.
    pub stop: Option<u64>,
}

/// A file couldn't be read.
#[derive(Debug, Error)]
#[error("can't read {bytes} bytes at {offset} of {file}: {source}; check the disk, then run `synod-tools verify`")]
pub struct ReadError {
    /// The file.
    pub file: FileId,
    /// Where.
    pub offset: u64,
    /// How much.
    pub bytes: usize,
    /// Why.
    pub source: io::Error,
}

/// A valid record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScannedRecord {
    /// Where it begins in the file.
    pub offset: u64,
    /// Its header.
    pub header: RecordHeader,
    /// Its body's header. The bodies of a pack come from [`Scanner::bodies`].
    pub body: Option<BodyHeader>,
    /// What is in a pack.
    pub pack: Option<PackContent>,
}

impl ScannedRecord {
    /// The slots that the record is about, if it is about any.
    pub fn slots(&self) -> Option<SlotRange> {
        let packed = self.pack.map(|pack| pack.first..pack.end);
        self.body.map(|body| body.handle().slots()).or(packed)
    }
}

/// Where the walk from record to record ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hole {
    /// Offset in the file.
    pub offset: u64,
    /// Position in the log.
    pub lsn: Lsn,
    /// Why.
    pub cause: HoleCause,
}

/// Why no valid record follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HoleCause {
    /// The end that the next segment names.
    Stop,
    /// No record fits any more.
    Full,
    /// A block of the segment's seal.
    Seal(SealBlock),
    /// The block is as the pool left it: nothing was written here, or it didn't arrive.
    Old,
    /// A record's header and first block are right, but other blocks of it aren't.
    Blocks {
        /// The record.
        record: Box<ScannedRecord>,
        /// The first thing that is wrong.
        error: BodyError,
        /// Whether every bad block is as the pool left it.
        all_old: bool,
    },
    /// A block that is neither a valid record's first nor old.
    Head(RecordError),
}

impl HoleCause {
    /// Whether an interrupted write explains the hole.
    pub fn is_torn(&self) -> bool {
        matches!(self, HoleCause::Old | HoleCause::Blocks { all_old: true, .. })
    }
}

impl std::fmt::Display for HoleCause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            HoleCause::Head(error) => write!(f, "{error}"),
            HoleCause::Blocks { error, .. } => write!(f, "{error}"),
            HoleCause::Old => f.write_str("a record is missing"),
            HoleCause::Stop | HoleCause::Full | HoleCause::Seal(_) => f.write_str("records are missing"),
        }
    }
}

/// What a scan finds, in this order: records, one hole, strays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// The next record.
    Record(ScannedRecord),
    /// The end of the walk.
    Hole(Hole),
    /// A valid record of this segment behind the hole.
    Stray(ScannedRecord),
    /// A record behind the hole whose header and first block are right, but other blocks of it aren't.
    BadStray {
        /// The record.
        record: ScannedRecord,
        /// Whether every bad block is as the pool left it.
        all_old: bool,
    },
}

/// What is there of a segment's seal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seal {
    /// Any valid block of the seal: it proves that the records before `records_end` were durable.
    pub witness: Option<SealBlock>,
    /// The footer, if it is valid.
    pub footer: Option<Footer>,
    /// Whether every block of the seal is valid: nothing after this segment could be durable before.
    pub complete: bool,
    /// Whether some block is neither valid nor as the pool may have left it: no interrupted write explains that.
    pub damaged: bool,
}

/// Reads the header of a segment.
///
/// # Errors
/// If the block can't be read; the inner result says what is wrong with it otherwise.
pub fn read_segment_header(
    store: &dyn SegmentStore,
    file: FileId,
    geometry: Geometry,
) -> Result<Result<SegmentHeader, SegmentHeaderError>, ReadError> {
    let mut reader = Reader::new(store, file, BLOCK_BYTES);
    let own = |header: SegmentHeader| match header.file {
        FileId(0) => Ok(header),
        meant if meant == file => Ok(header),
        meant => Err(SegmentHeaderError::Astray { meant }),
    };
    let first = SegmentHeader::decode(reader.block(0)?, geometry).and_then(own);
    if first.is_ok() {
        return Ok(first);
    }
    // It may be in the middle of being written, or have been misread: what is wrong twice is wrong.
    reader.forget();
    Ok(SegmentHeader::decode(reader.block(0)?, geometry).and_then(own))
}

/// Reads one record completely, wherever it is known to lie.
///
/// # Errors
/// If it can't be read; the inner result says what is wrong with it otherwise.
pub fn verify_record(
    store: &dyn SegmentStore,
    file: FileId,
    geometry: Geometry,
    header: &SegmentHeader,
    offset: u64,
) -> Result<Result<ScannedRecord, RecordError>, ReadError> {
    let mut scanner = Scanner::new(store, file, geometry, header, ScanOptions::default());
    scanner.offset = offset;
    Ok(match scanner.examine()? {
        Examined::Valid(record) => Ok(record),
        Examined::Bad(error) => Err(error),
        Examined::BadBlocks(_, error) => Err(RecordError::Body(error)),
    })
}

/// Reads what there is of a segment's seal. `records_end` is where the scan of its records ended.
///
/// # Errors
/// If a block can't be read.
pub fn read_seal(
    store: &dyn SegmentStore,
    file: FileId,
    geometry: Geometry,
    header: &SegmentHeader,
    records_end: u64,
) -> Result<Seal, ReadError> {
    let mut reader = Reader::new(store, file, READ_AHEAD_BYTES);
    let salt = header.identity.expected().salt();
    let mut seal = Seal::default();
    let mut unexplained = Vec::new();
    let mut is_unreadable = false;
    let mut valid = 0;
    let mut offset = records_end;
    while offset < geometry.segment_bytes() {
        let block = reader.block(offset)?;
        let found = SealBlock::decode(block, salt, offset, geometry.segment_bytes()).ok();
        if found.is_none_or(|found| found.epoch != header.epoch && found.epoch != header.previous_epoch) {
            unexplained.push(offset);
        }
        if let Some(found) = found.filter(|found| found.epoch == header.epoch) {
            let same = seal.witness.is_none_or(|witness: SealBlock| {
                witness.records_end == found.records_end && witness.last_checksum == found.last_checksum
            });
            valid += u64::from(same && found.kind == kind_at(block, geometry, offset));
            seal.witness.get_or_insert(found);
            if found.kind == SealKind::Footer {
                seal.footer = Some(Footer::decode(block));
            }
        }
        is_unreadable |= reader.is_unreadable(offset);
        offset += BLOCK;
    }
    let end = Lsn::new(header.epoch, geometry.segment_bytes(), records_end);
    let named = seal.witness.is_some_and(|witness| witness.records_end == end);
    seal.complete = named && seal.footer.is_some() && valid == (geometry.segment_bytes() - records_end) / BLOCK;
    seal.damaged = seal.witness.is_some() && is_unreadable;
    if seal.witness.is_some() && !unexplained.is_empty() {
        let old = OldTable::read(&mut reader, geometry, salt, header.previous_epoch)?;
        for offset in unexplained {
            seal.damaged |= old.rules_out(geometry, offset, reader.block(offset)?);
        }
    }
    Ok(seal)
}

/// Reads the index of a sealed segment, in record order.
///
/// # Errors
/// If a block can't be read; the inner value is `None` if the index isn't valid.
pub fn read_index(
    store: &dyn SegmentStore,
    file: FileId,
    geometry: Geometry,
    header: &SegmentHeader,
    footer: &Footer,
) -> Result<Option<Vec<SealedRecord>>, ReadError> {
    let mut reader = Reader::new(store, file, READ_AHEAD_BYTES);
    let salt = header.identity.expected().salt();
    let in_bounds = footer.index_offset >= BLOCK && footer.index_offset.is_multiple_of(BLOCK);
    let mut offset = if in_bounds { footer.index_offset } else { geometry.table_offset() };
    let mut records = Vec::new();
    while offset < geometry.table_offset() {
        let block = reader.block(offset)?;
        let head = SealBlock::decode(block, salt, offset, geometry.segment_bytes()).filter_epoch(header.epoch);
        let Ok(head) = head else { return Ok(None) };
        match SealedRecord::decode_block(block, &head) {
            Ok(part) if head.kind == SealKind::Index => records.extend(part),
            _ => return Ok(None),
        }
        offset += BLOCK;
    }
    Ok((records.len() as u64 == footer.records).then_some(records))
}

/// Whether the segment's seal is complete, so that its table may serve the next life's block test.
///
/// Only segments without a complete seal are ever zeroed, and zeros never complete one: so a file whose zeroing was
/// interrupted isn't mistaken for one that still holds what its table says.
///
/// # Errors
/// If a block can't be read.
pub fn is_sealed(
    store: &dyn SegmentStore,
    file: FileId,
    geometry: Geometry,
    header: &SegmentHeader,
) -> Result<bool, ReadError> {
    let mut reader = Reader::new(store, file, BLOCK_BYTES);
    let salt = header.identity.expected().salt();
    let offset = geometry.footer_offset();
    let footer = SealBlock::decode(reader.block(offset)?, salt, offset, geometry.segment_bytes());
    let Ok(footer) = footer.filter_epoch(header.epoch) else { return Ok(false) };
    let records_end = footer.records_end.offset(geometry.segment_bytes());
    Ok(read_seal(store, file, geometry, header, records_end)?.complete)
}

/// The epoch of the first record in a file, if it is later than `epoch`: it proves that the file once had a header of
/// that later epoch, for headers are durable before records are planned.
///
/// # Errors
/// If the block can't be read.
pub fn later_life(
    store: &dyn SegmentStore,
    file: FileId,
    geometry: Geometry,
    salt: LogSalt,
    epoch: u64,
) -> Result<Option<u64>, ReadError> {
    let mut reader = Reader::new(store, file, BLOCK_BYTES);
    let block = reader.block(geometry.records_offset())?;
    Ok(record_epoch(block, geometry, salt, geometry.records_offset()).filter(|claimed| *claimed > epoch))
}

/// The highest epoch of any record in a file whose header may tell nothing, and how many of its records there are.
///
/// # Errors
/// If the file can't be read at all.
pub(crate) fn latest_life(
    store: &dyn SegmentStore,
    file: FileId,
    geometry: Geometry,
    salt: LogSalt,
) -> Result<Option<(u64, u64)>, ReadError> {
    let mut reader = Reader::new(store, file, READ_AHEAD_BYTES);
    let mut latest: Option<(u64, u64)> = None;
    let mut offset = geometry.records_offset();
    while offset < geometry.table_offset() {
        let found = record_epoch(reader.block(offset)?, geometry, salt, offset);
        latest = match (found, latest) {
            (Some(epoch), Some((known, records))) if epoch == known => Some((known, records + 1)),
            (Some(epoch), known) if known.is_none_or(|(known, _)| epoch > known) => Some((epoch, 1)),
            _ => latest,
        };
        offset += BLOCK;
    }
    Ok(latest)
}

/// The epoch that the block's record names, if it is a valid one that belongs there.
fn record_epoch(block: &Block, geometry: Geometry, salt: LogSalt, offset: u64) -> Option<u64> {
    let (claimed, lsn) = RecordHeader::claim(block)?;
    let at = Lsn::new(claimed, geometry.segment_bytes(), offset);
    (lsn == at && RecordHeader::decode(block, salt, at, claimed).is_ok()).then_some(claimed)
}

trait FilterEpoch {
    fn filter_epoch(self, epoch: u64) -> Result<SealBlock, ()>;
}

impl<E> FilterEpoch for Result<SealBlock, E> {
    fn filter_epoch(self, epoch: u64) -> Result<SealBlock, ()> {
        self.ok().filter(|block| block.epoch == epoch).ok_or(())
    }
}

/// What a seal has at `offset`; gap and index share their region, so there the block itself says which it is.
fn kind_at(block: &Block, geometry: Geometry, offset: u64) -> SealKind {
    if offset == geometry.footer_offset() {
        SealKind::Footer
    } else if offset >= geometry.table_offset() {
        SealKind::Table
    } else if offset + BLOCK == geometry.table_offset() || SealBlock::is_index(block) {
        SealKind::Index
    } else {
        SealKind::Gap
    }
}

/// Walks one segment; see the module.
pub struct Scanner<'store> {
    reader: Reader<'store>,
    geometry: Geometry,
    salt: LogSalt,
    epoch: u64,
    previous_epoch: u64,
    options: ScanOptions,
    /// Where to look next.
    offset: u64,
    /// The checksum that the next record must name; none for the first, whose predecessor lies in another segment.
    previous_checksum: Option<u32>,
    phase: Phase,
    /// The last block behind the hole that is neither part of a record nor of the seal, nor as the pool left it.
    unexplained: Option<u64>,
    old_table: Option<OldTable>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Walking,
    Searching,
    Done,
}

enum Examined {
    Valid(ScannedRecord),
    Bad(RecordError),
    BadBlocks(ScannedRecord, BodyError),
}

impl<'store> Scanner<'store> {
    /// A scan of the segment in `file`, whose header was read.
    pub fn new(
        store: &'store dyn SegmentStore,
        file: FileId,
        geometry: Geometry,
        header: &SegmentHeader,
        options: ScanOptions,
    ) -> Scanner<'store> {
        let read_ahead = match options.depth {
            Depth::Heads => BLOCK_BYTES,
            Depth::Full => READ_AHEAD_BYTES,
        };
        Scanner {
            reader: Reader::new(store, file, read_ahead),
            geometry,
            salt: header.identity.expected().salt(),
            epoch: header.epoch,
            previous_epoch: header.previous_epoch,
            options,
            offset: geometry.records_offset(),
            previous_checksum: None,
            phase: Phase::Walking,
            unexplained: None,
            old_table: None,
        }
    }

    /// The same scan from a record further on, of which it isn't known what it follows.
    pub(crate) fn starting_at(mut self, offset: u64) -> Scanner<'store> {
        self.offset = offset;
        self
    }

    /// The next item, until there is none.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn next_item(&mut self) -> Result<Option<Item>, ReadError> {
        match self.phase {
            Phase::Walking => self.walk().map(Some),
            Phase::Searching => self.search(),
            Phase::Done => Ok(None),
        }
    }

    /// Once there are no more items: the last block behind the hole, the hole's own aside, that is neither part of a record
    /// nor as the pool left it. Up to there may have been more records than are known.
    pub fn unexplained_behind(&self) -> Option<u64> {
        self.unexplained
    }

    /// The blocks that the disk didn't read so far, by their offset, and why. Such a block is damage like any other; those
    /// behind the end of a file that is too short don't count.
    pub fn unreadable(&self) -> &BTreeMap<u64, String> {
        self.reader.refused()
    }

    /// Walks on from where the walk ended, for whoever watches a log that grows. Strays are looked for anew.
    pub fn resume(&mut self, hole: &Hole) {
        self.reader.forget();
        self.offset = hole.offset;
        self.phase = Phase::Walking;
        self.unexplained = None;
    }

    /// The bytes of a record that was just returned.
    ///
    /// # Errors
    /// If they can't be read.
    pub fn record_bytes(&mut self, record: &ScannedRecord) -> Result<&[u8], ReadError> {
        self.reader.bytes(record.offset, record.header.record_bytes as usize)
    }

    /// The bodies of a record that was just returned, with their places in it: none, one, or those of a pack.
    ///
    /// # Errors
    /// If they can't be read.
    pub fn bodies(&mut self, record: &ScannedRecord) -> Result<Vec<PackedBody>, ReadError> {
        if let Some(header) = record.body {
            return Ok(vec![PackedBody { header, offset: RECORD_HEADER_BYTES as u32 }]);
        }
        if record.header.meta.kind != RecordKind::Pack {
            return Ok(Vec::new());
        }
        let bytes = self.record_bytes(record)?;
        let head = PackHead::parse(bytes, record.header.record_bytes, record.header.body_bytes);
        let bodies = head.and_then(|head| head.read_bodies(bytes, record.header.meta.group));
        // They were sound when the record was returned: the log is alive and this place was written again since.
        Ok(bodies.unwrap_or_default())
    }

    /// As [`Scanner::bodies`], of a pack that may be damaged: those of its bodies whose header is sound. What the head
    /// of the pack says of the others is that they are there.
    ///
    /// # Errors
    /// If they can't be read.
    pub fn known_bodies(&mut self, record: &ScannedRecord) -> Result<Vec<KnownBody>, ReadError> {
        if record.header.meta.kind != RecordKind::Pack {
            let bodies = self.bodies(record)?;
            return Ok(bodies.into_iter().map(|body| KnownBody { body, is_sound: true }).collect());
        }
        let bytes = self.record_bytes(record)?;
        let head = PackHead::parse(bytes, record.header.record_bytes, record.header.body_bytes);
        // As in `bodies`: a head that was right and isn't any more was written again since.
        Ok(head.map(|head| head.known_bodies(bytes, record.header.meta.group)).unwrap_or_default())
    }

    /// Looks at a place again as if the walk had come to it: what is wrong there is told as a hole of its own.
    pub(crate) fn walk_from(&mut self, offset: u64) {
        self.offset = offset;
        self.previous_checksum = None;
        self.phase = Phase::Walking;
    }

    /// Walks on behind a record, for whoever reads on past damage.
    pub(crate) fn walk_on_behind(&mut self, record: &ScannedRecord) {
        self.offset = record.offset + u64::from(record.header.record_bytes);
        self.previous_checksum = Some(record.header.checksum);
        self.phase = Phase::Walking;
    }

    /// One body of a record that was just returned, in a record buffer of its own.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn body_record(&mut self, record: &ScannedRecord, body: &PackedBody) -> Result<RecordBuffer, ReadError> {
        let handle = body.header.handle();
        let mut buffer = RecordBuffer::zeroed(RECORD_HEADER_BYTES + handle.bytes as usize);
        let range = body.offset as usize..body.offset as usize + handle.bytes as usize;
        let bytes = &self.record_bytes(record)?[range];
        buffer.as_mut()[RECORD_HEADER_BYTES..][..bytes.len()].copy_from_slice(bytes);
        Ok(buffer)
    }

    fn limit(&self) -> u64 {
        self.options.stop.unwrap_or_else(|| self.geometry.table_offset()).min(self.geometry.table_offset())
    }

    fn at(&self, offset: u64) -> Lsn {
        Lsn::new(self.epoch, self.geometry.segment_bytes(), offset)
    }

    fn walk(&mut self) -> Result<Item, ReadError> {
        let offset = self.offset;
        if Some(offset) == self.options.stop {
            return Ok(self.end_walk(Phase::Done, HoleCause::Stop));
        }
        if offset >= self.limit() {
            return Ok(self.end_walk(Phase::Done, HoleCause::Full));
        }
        let mut examined = self.examine()?;
        if self.options.live && !matches!(examined, Examined::Valid(_)) {
            self.reader.forget();
            examined = self.examine()?;
        }
        let (error, bad) = match examined {
            Examined::Valid(record) => match self.previous_checksum {
                Some(expected) if expected != record.header.previous_checksum => {
                    (RecordError::Previous { expected, found: record.header.previous_checksum }, None)
                }
                _ => {
                    self.previous_checksum = Some(record.header.checksum);
                    self.offset += u64::from(record.header.record_bytes);
                    return Ok(Item::Record(record));
                }
            },
            Examined::Bad(error) => (error, None),
            Examined::BadBlocks(record, error) => (RecordError::Body(error), Some((record, error))),
        };
        let cause = match bad {
            Some((record, error)) => {
                let all_old = self.are_bad_blocks_old(&record)?;
                HoleCause::Blocks { record: Box::new(record), error, all_old }
            }
            None => self.name_hole(error)?,
        };
        Ok(self.end_walk(Phase::Searching, cause))
    }

    fn end_walk(&mut self, phase: Phase, cause: HoleCause) -> Item {
        let hole = Hole { offset: self.offset, lsn: self.at(self.offset), cause };
        self.phase = phase;
        self.offset += match &hole.cause {
            // What lies inside a record is a client's bytes, not ours: don't look for records there.
            HoleCause::Blocks { record, .. } => u64::from(record.header.record_bytes),
            _ => BLOCK,
        };
        Item::Hole(hole)
    }

    fn name_hole(&mut self, error: RecordError) -> Result<HoleCause, ReadError> {
        let offset = self.offset;
        let block = *self.reader.block(offset)?;
        let seal = SealBlock::decode(&block, self.salt, offset, self.geometry.segment_bytes());
        if let Ok(seal) = seal.filter_epoch(self.epoch) {
            return Ok(HoleCause::Seal(seal));
        }
        let old = self.is_old(offset, &block)?;
        Ok(if old { HoleCause::Old } else { HoleCause::Head(error) })
    }

    fn search(&mut self) -> Result<Option<Item>, ReadError> {
        while self.offset < self.limit() {
            let (offset, at) = (self.offset, self.at(self.offset));
            let epoch = self.epoch;
            if RecordHeader::is_claimed(self.reader.block(offset)?, at, epoch) {
                let (record, valid) = match self.examine()? {
                    Examined::Valid(record) => (Some(record), true),
                    Examined::BadBlocks(record, _) => (Some(record), false),
                    Examined::Bad(_) => (None, false),
                };
                if let Some(record) = record {
                    let all_old = !valid && self.are_bad_blocks_old(&record)?;
                    self.offset += u64::from(record.header.record_bytes);
                    return Ok(Some(if valid { Item::Stray(record) } else { Item::BadStray { record, all_old } }));
                }
            }
            if self.options.depth == Depth::Full {
                let block = *self.reader.block(offset)?;
                let seal = SealBlock::decode(&block, self.salt, offset, self.geometry.segment_bytes());
                if seal.filter_epoch(epoch).is_err() && !self.is_old(offset, &block)? {
                    self.unexplained = Some(offset);
                }
            }
            self.offset += BLOCK;
        }
        self.phase = Phase::Done;
        Ok(None)
    }

    /// Looks at the record that should begin at the current offset.
    fn examine(&mut self) -> Result<Examined, ReadError> {
        let offset = self.offset;
        let at = self.at(offset);
        let decoded = RecordHeader::decode(self.reader.block(offset)?, self.salt, at, self.epoch);
        if self.reader.is_unreadable(offset) {
            return Ok(Examined::Bad(RecordError::Unreadable));
        }
        let (header, body) = match decoded {
            Ok(decoded) => decoded,
            Err(error) => return Ok(Examined::Bad(error)),
        };
        let record_bytes = header.record_bytes;
        if offset + u64::from(record_bytes) > self.limit() {
            return Ok(Examined::Bad(RecordError::Overrun { record_bytes }));
        }
        let mut record = ScannedRecord { offset, header, body, pack: None };
        if header.meta.kind == RecordKind::Pack {
            return self.examine_pack(&mut record);
        }
        if body.is_some() && self.options.depth == Depth::Full {
            let bytes = self.reader.bytes(offset, record_bytes as usize)?;
            if let Err(error) = verify_body_in_record(bytes) {
                return Ok(Examined::BadBlocks(record, error));
            }
        }
        Ok(Examined::Valid(record))
    }

    /// The record header is right, and so is the head of the pack, which its checksum covers.
    fn examine_pack(&mut self, record: &mut ScannedRecord) -> Result<Examined, ReadError> {
        let (header, depth) = (record.header, self.options.depth);
        let bytes = self.reader.bytes(record.offset, header.record_bytes as usize)?;
        let head = match PackHead::parse(bytes, header.record_bytes, header.body_bytes) {
            Ok(head) => head,
            Err(error) => return Ok(Examined::Bad(error.into())),
        };
        record.pack = Some(head.content());
        let blocks = head.check_blocks(bytes);
        Ok(match (blocks, head.read_bodies(bytes, header.meta.group)) {
            (Err(error), _) if depth == Depth::Full => Examined::BadBlocks(*record, error),
            (_, Ok(_)) => Examined::Valid(*record),
            (Err(error), Err(_)) => Examined::BadBlocks(*record, error),
            (Ok(()), Err(error)) => Examined::Bad(error.into()),
        })
    }

    fn are_bad_blocks_old(&mut self, record: &ScannedRecord) -> Result<bool, ReadError> {
        let bytes = self.record_bytes(record)?.to_vec();
        let header = &record.header;
        let pack = PackHead::parse(&bytes, header.record_bytes, header.body_bytes).ok();
        let check_block = |number| match (&record.body, &pack) {
            (Some(body), _) => body.check_block(&bytes, number),
            (None, Some(pack)) => pack.check_block(&bytes, number),
            (None, None) => Ok(()),
        };
        let (blocks, _) = bytes.as_chunks::<BLOCK_BYTES>();
        let mut bad = 0;
        for (number, block) in blocks.iter().enumerate() {
            if check_block(number as u32).is_ok() {
                continue;
            }
            bad += 1;
            // Block 0 can't be old: the record's header is in it.
            let offset = record.offset + number as u64 * BLOCK;
            if number == 0 || !self.is_old(offset, block)? {
                return Ok(false);
            }
        }
        Ok(bad > 0)
    }

    fn is_old(&mut self, offset: u64, block: &Block) -> Result<bool, ReadError> {
        if self.old_table.is_none() {
            self.old_table = Some(OldTable::read(&mut self.reader, self.geometry, self.salt, self.previous_epoch)?);
        }
        let table = self.old_table.as_ref().expect("just read");
        Ok(table.matches(offset, block))
    }
}

/// What the pool left in a file.
enum OldTable {
    Zeros,
    /// One entry a block; none where the table of that life isn't intact any more.
    Checksums(Vec<Option<u32>>),
}

impl OldTable {
    fn read(
        reader: &mut Reader<'_>,
        geometry: Geometry,
        salt: LogSalt,
        previous_epoch: u64,
    ) -> Result<OldTable, ReadError> {
        if previous_epoch == 0 {
            return Ok(OldTable::Zeros);
        }
        let mut checksums = Vec::with_capacity(geometry.blocks());
        for part in 0..geometry.table_blocks() {
            let offset = geometry.table_offset() + part as u64 * BLOCK;
            let block = reader.block(offset)?;
            let head = SealBlock::decode(block, salt, offset, geometry.segment_bytes()).filter_epoch(previous_epoch);
            let intact = head.is_ok_and(|head| head.kind == SealKind::Table);
            let entries = (0..TABLE_ENTRIES_PER_BLOCK).map(|index| table_entry(block, index).filter(|_| intact));
            checksums.extend(entries);
        }
        Ok(OldTable::Checksums(checksums))
    }

    /// Whether the pool can't have left this block of a seal's region, which isn't part of the seal before.
    fn rules_out(&self, geometry: Geometry, offset: u64, block: &Block) -> bool {
        match self {
            OldTable::Zeros => first_nonzero(block).is_some(),
            // Where the seal before had its table and footer, nothing else can be old.
            OldTable::Checksums(_) if offset >= geometry.table_offset() => true,
            // What that table said of the others is gone where the new one has overwritten it.
            OldTable::Checksums(checksums) => {
                let entry = checksums.get((offset / BLOCK) as usize).copied().flatten();
                entry.is_some_and(|entry| entry != crc32fast::hash(block))
            }
        }
    }

    fn matches(&self, offset: u64, block: &Block) -> bool {
        match self {
            OldTable::Zeros => first_nonzero(block).is_none(),
            OldTable::Checksums(checksums) => {
                let entry = checksums.get((offset / BLOCK) as usize).copied().flatten();
                entry.is_some_and(|entry| entry == crc32fast::hash(block))
            }
        }
    }
}
