//! One segment by itself.

use std::collections::BTreeMap;

use synod_frame::{BLOCK_BYTES, BodyError};
use synod_protocol::{BodyHandle, Mark, Slot, SlotRange};

use super::{Class, Finding};
use crate::format::{
    Block, Footer, PackContent, RecordError, RecordHeader, SealBlock, SealBlockError, SealKind, SealedRecord,
    SegmentHeader, TABLE_ENTRIES_PER_BLOCK, first_nonzero, table_entry,
};
use crate::identity::ExpectedIdentity;
use crate::lsn::{FileId, Lsn};
use crate::scan::{
    Depth, Hole, HoleCause, Item, ReadError, ScanOptions, ScannedRecord, Scanner, Seal, later_life, read_index,
    read_seal, read_segment_header,
};
use crate::segment::{BLOCK, Geometry};
use crate::store::SegmentStore;

/// What is kept of a record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Summary {
    pub(super) header: RecordHeader,
    pub(super) offset: u64,
    pub(super) body: Option<BodyHandle>,
    pub(super) pack: Option<PackContent>,
}

impl Summary {
    /// The slots that it is about.
    pub(super) fn slots(&self) -> Option<SlotRange> {
        self.body.map(|body| body.slots()).or(self.pack.map(|pack| pack.first..pack.end))
    }
}

/// A place where no valid record is, although the records don't end there in order.
#[derive(Clone, Debug)]
pub(super) struct Gap {
    pub(super) offset: u64,
    /// How many records were read before it.
    pub(super) records_before: usize,
    /// An interrupted write explains it.
    pub(super) torn: bool,
    /// The slots of the damaged record, if its header can be read.
    pub(super) slots: Option<SlotRange>,
    pub(super) problem: Problem,
}

/// What is wrong, and what is there instead of what.
#[derive(Clone, Debug, Default)]
pub(super) struct Problem {
    pub(super) what: String,
    pub(super) expected: Option<String>,
    pub(super) actual: Option<String>,
}

/// A segment, read completely.
#[derive(Debug)]
pub struct SegmentCheck {
    pub(super) file: FileId,
    pub(super) header: SegmentHeader,
    pub(super) records: Vec<Summary>,
    /// The bodies of the pack at an offset, each with its place in the record.
    pub(super) packed: BTreeMap<u64, Vec<(BodyHandle, u32)>>,
    pub(super) gaps: Vec<Gap>,
    /// Where the last valid record ends.
    pub(super) end: u64,
    /// The highest position that anything valid in it says was durable.
    pub(super) proof: Lsn,
    pub(super) seal: Seal,
    /// Blocks of the seal that aren't part of it.
    pub(super) seal_blocks_bad: Vec<(u64, Problem)>,
    /// What is wrong without records being harmed.
    pub(super) latent: Vec<Finding>,
    /// A part of it couldn't be read; nothing was looked at behind.
    pub(super) unreadable: Option<(u64, String)>,
    /// A running node gave the segment up while it was read.
    pub(super) given_up: bool,
}

impl SegmentCheck {
    /// The file.
    pub fn file(&self) -> FileId {
        self.file
    }

    /// Valid records, also behind damage.
    pub fn records(&self) -> u64 {
        self.records.len() as u64
    }
}

/// Reads every byte of a segment that the log needs, whose header was read. `stop` is where its records end, if the
/// segment after it names the place. With `live`, a node may be writing it; then look at the segments from the newest
/// to the oldest, or what a later one proves may have been written after an earlier one was read.
///
/// Nothing is an error: a file that can't be read on is a finding as well.
pub fn check_segment(
    store: &dyn SegmentStore,
    file: FileId,
    geometry: Geometry,
    header: &SegmentHeader,
    stop: Option<u64>,
    live: bool,
) -> SegmentCheck {
    let mut check = SegmentCheck {
        file,
        header: header.clone(),
        records: Vec::new(),
        packed: BTreeMap::new(),
        gaps: Vec::new(),
        end: geometry.records_offset(),
        proof: header.durable.max(header.before_end),
        seal: Seal::default(),
        seal_blocks_bad: Vec::new(),
        latent: Vec::new(),
        unreadable: None,
        given_up: false,
    };
    let options = ScanOptions { depth: Depth::Full, live, stop };
    let mut reading = Reading { store, geometry, header, options, check: &mut check };
    if let Err(error) = reading.records().and_then(|()| reading.seal()) {
        check.unreadable = Some((error.offset, error.to_string()));
    }
    if live {
        let now = read_segment_header(store, file, geometry);
        check.given_up = !now.is_ok_and(|now| now.is_ok_and(|now| now.epoch == header.epoch));
    }
    check
}

/// Looks at a file of the pool that no segment of the log lies in any more, and that the next life is to be written
/// over. What its table says of its blocks is what recovery will go by.
pub fn check_unneeded(
    store: &dyn SegmentStore,
    file: FileId,
    geometry: Geometry,
    header: &SegmentHeader,
    first_needed: u64,
) -> Vec<Finding> {
    let expected = header.identity.expected();
    let mut findings = lost_header(store, file, geometry, &expected, header.epoch, first_needed);
    let mut check = check_segment(store, file, geometry, header, None, false);
    // Without a complete seal the file is zeroed before it is used again.
    if check.seal.complete {
        findings.append(&mut check.latent);
    }
    findings.extend(check.unreadable.map(|(offset, what)| latent(file, geometry, header.epoch, offset, what)));
    findings
}

/// Looks at a file that was never used: it must hold zeros, for that is what recovery will take its blocks for.
pub fn check_fresh(
    store: &dyn SegmentStore,
    file: FileId,
    geometry: Geometry,
    expected: &ExpectedIdentity,
    first_needed: u64,
) -> Vec<Finding> {
    let findings = lost_header(store, file, geometry, expected, 0, first_needed);
    if !findings.is_empty() {
        return findings;
    }
    let mut offset = 0;
    let mut buffer = vec![0; 1 << 20];
    while offset < geometry.segment_bytes() {
        let wanted = buffer.len().min((geometry.segment_bytes() - offset) as usize);
        if let Err(error) = store.read_at(file, offset, &mut buffer[..wanted]) {
            return vec![latent(file, geometry, 0, offset, format!("the pool file can't be read: {error}"))];
        }
        let (blocks, _) = buffer[..wanted].as_chunks::<BLOCK_BYTES>();
        if let Some(block) = blocks.iter().position(|block| first_nonzero(block).is_some()) {
            let at = offset + block as u64 * BLOCK;
            let what = "a pool file that was never used doesn't hold zeros here".to_owned();
            return vec![latent(file, geometry, 0, at, what)];
        }
        offset += wanted as u64;
    }
    Vec::new()
}

fn lost_header(
    store: &dyn SegmentStore,
    file: FileId,
    geometry: Geometry,
    expected: &ExpectedIdentity,
    epoch: u64,
    first_needed: u64,
) -> Vec<Finding> {
    match later_life(store, file, geometry, expected.salt(), epoch) {
        Ok(Some(later)) if later >= first_needed => {
            let what = format!("the file holds records of segment {later} but not its header: the disk lost a write");
            vec![Finding { class: Class::Corrupt, ..latent(file, geometry, later, 0, what) }]
        }
        _ => Vec::new(),
    }
}

fn latent(file: FileId, geometry: Geometry, epoch: u64, offset: u64, what: String) -> Finding {
    Finding {
        class: Class::Latent,
        file: Some(file),
        offset,
        lsn: Lsn::new(epoch, geometry.segment_bytes(), offset),
        slots: None,
        what,
        expected: None,
        actual: None,
    }
}

/// A segment on its way through.
struct Reading<'a> {
    store: &'a dyn SegmentStore,
    geometry: Geometry,
    header: &'a SegmentHeader,
    options: ScanOptions,
    check: &'a mut SegmentCheck,
}

impl Reading<'_> {
    /// Reads the records, and behind every hole goes on with the next sound one.
    fn records(&mut self) -> Result<(), ReadError> {
        let mut from = self.geometry.records_offset();
        loop {
            let scanner = Scanner::new(self.store, self.check.file, self.geometry, self.header, self.options);
            let mut scanner = scanner.starting_at(from);
            let mut hole = None;
            let mut stray = None;
            while let Some(item) = scanner.next_item()? {
                match item {
                    Item::Record(record) => {
                        self.take(&record);
                        if record.pack.is_some() {
                            let bodies = scanner.bodies(&record)?;
                            let places = bodies.iter().map(|body| (body.header.handle(), body.offset));
                            self.check.packed.insert(record.offset, places.collect());
                        }
                    }
                    Item::Hole(found) => hole = Some(found),
                    Item::Stray(record) => {
                        stray = Some(record);
                        break;
                    }
                    // Told as what is wrong at the start of the next walk.
                    Item::BadStray { record, .. } => {
                        stray = Some(record);
                        break;
                    }
                }
            }
            let hole = hole.expect("every scan meets a hole");
            let Some(stray) = stray else {
                self.end_with(&hole);
                return Ok(());
            };
            self.gap(&hole);
            from = stray.offset;
        }
    }

    fn take(&mut self, record: &ScannedRecord) {
        let check = &mut self.check;
        check.proof = check.proof.max(record.header.durable);
        check.end = record.offset + u64::from(record.header.record_bytes);
        let body = record.body.map(|body| body.handle());
        check.records.push(Summary { header: record.header, offset: record.offset, body, pack: record.pack });
    }

    /// No sound record follows: an end in order, or damage.
    fn end_with(&mut self, hole: &Hole) {
        match &hole.cause {
            HoleCause::Stop | HoleCause::Full | HoleCause::Seal(_) | HoleCause::Old => {}
            HoleCause::Blocks { .. } | HoleCause::Head(_) => self.gap(hole),
        }
    }

    fn gap(&mut self, hole: &Hole) {
        let (slots, problem) = match &hole.cause {
            HoleCause::Blocks { record, error, .. } => (record.slots(), body_problem(error)),
            HoleCause::Head(error) => (None, record_problem(error)),
            HoleCause::Old => (None, Problem { what: "a record is missing".to_owned(), ..Problem::default() }),
            HoleCause::Stop | HoleCause::Full | HoleCause::Seal(_) => {
                (None, Problem { what: "records are missing".to_owned(), ..Problem::default() })
            }
        };
        let torn = hole.cause.is_torn();
        let records_before = self.check.records.len();
        self.check.gaps.push(Gap { offset: hole.offset, records_before, torn, slots, problem });
    }

    /// Reads the seal, and holds index, table and footer against the records.
    fn seal(&mut self) -> Result<(), ReadError> {
        let (store, file, geometry, header) = (self.store, self.check.file, self.geometry, self.header);
        // Behind a damaged last record the seal itself says where it begins.
        let mut seal = read_seal(store, file, geometry, header, self.check.end)?;
        if let Some(witness) = seal.witness {
            self.check.proof = self.check.proof.max(witness.records_end);
            let begins = witness.records_end.offset(geometry.segment_bytes());
            // The walk ended at the seal's first block, and that is damaged: no record is.
            let last = self.check.records.last().map(|record| record.header.checksum);
            if begins == self.check.end && last.is_none_or(|last| last == witness.last_checksum) {
                self.check.gaps.retain(|gap| gap.offset < begins);
            }
            if begins != self.check.end && begins >= geometry.records_offset() {
                seal = read_seal(store, file, geometry, header, begins)?;
            }
            if !seal.complete {
                self.seal_blocks(begins.max(geometry.records_offset()))?;
            }
            self.table()?;
        }
        if let Some(footer) = seal.footer.filter(|_| seal.complete) {
            self.index(&footer)?;
            self.footer(&footer);
        }
        self.check.seal = seal;
        Ok(())
    }

    fn block(&self, offset: u64) -> Result<Block, ReadError> {
        let file = self.check.file;
        let mut block = [0; BLOCK_BYTES];
        match self.store.lend(file, offset, BLOCK_BYTES) {
            Some(lent) => block.copy_from_slice(lent),
            None => self.store.read_at(file, offset, &mut block).map_err(|source| ReadError {
                file,
                offset,
                bytes: BLOCK_BYTES,
                source,
            })?,
        }
        Ok(block)
    }

    /// Which blocks of an incomplete seal aren't there.
    fn seal_blocks(&mut self, begins: u64) -> Result<(), ReadError> {
        let salt = self.header.identity.expected().salt();
        let mut offset = begins;
        while offset < self.geometry.segment_bytes() {
            let block = self.block(offset)?;
            let problem = match SealBlock::decode(&block, salt, offset, self.geometry.segment_bytes()) {
                Ok(found) if found.epoch == self.header.epoch => None,
                Ok(found) => Some(Problem {
                    what: "a block of the seal is missing".to_owned(),
                    expected: Some(format!("epoch {}", self.header.epoch)),
                    actual: Some(format!("epoch {}", found.epoch)),
                }),
                Err(error) => Some(seal_problem(&error)),
            };
            self.check.seal_blocks_bad.extend(problem.map(|problem| (offset, problem)));
            offset += BLOCK;
        }
        Ok(())
    }

    /// Every block in front of the table has the checksum that the table names.
    fn table(&mut self) -> Result<(), ReadError> {
        let salt = self.header.identity.expected().salt();
        for part in 0..self.geometry.table_blocks() {
            let at = self.geometry.table_offset() + part as u64 * BLOCK;
            let table = self.block(at)?;
            let head = SealBlock::decode(&table, salt, at, self.geometry.segment_bytes());
            if !head.is_ok_and(|head| head.kind == SealKind::Table && head.epoch == self.header.epoch) {
                continue;
            }
            let first = part * TABLE_ENTRIES_PER_BLOCK;
            let covered = (self.geometry.table_offset() / BLOCK) as usize;
            for number in first..covered.min(first + TABLE_ENTRIES_PER_BLOCK) {
                let offset = number as u64 * BLOCK;
                let named = table_entry(&table, number - first).unwrap_or(0);
                let actual = match self.store.lend(self.check.file, offset, BLOCK_BYTES) {
                    Some(lent) => crc32fast::hash(lent),
                    None => crc32fast::hash(&self.block(offset)?),
                };
                // What is wrong already needs no second finding.
                let harmed = self.check.gaps.first().is_some_and(|gap| offset >= gap.offset)
                    || self.check.seal_blocks_bad.iter().any(|(bad, _)| *bad == offset);
                if named != actual && !harmed {
                    let what = "the block isn't as the table of its segment's seal has it".to_owned();
                    let mut finding = self.latent(offset, what);
                    finding.expected = Some(format!("{named:#010x}"));
                    finding.actual = Some(format!("{actual:#010x}"));
                    self.check.latent.push(finding);
                }
            }
        }
        Ok(())
    }

    /// The index names every record, in order.
    fn index(&mut self, footer: &Footer) -> Result<(), ReadError> {
        let named = read_index(self.store, self.check.file, self.geometry, self.header, footer)?;
        if named.is_none() && footer.records != self.check.records() {
            // So many entries aren't there because there aren't so many records: the footer is wrong.
            return Ok(());
        }
        let Some(named) = named else {
            let finding = self.latent(footer.index_offset, "the index can't be read".to_owned());
            self.check.latent.push(finding);
            return Ok(());
        };
        if !self.check.gaps.is_empty() {
            return Ok(());
        }
        let held: Vec<SealedRecord> = self.check.records.iter().map(sealed).collect();
        let differs = held.iter().zip(&named).position(|(held, named)| held != named);
        let differs = differs.or((held.len() != named.len()).then_some(held.len().min(named.len())));
        if let Some(entry) = differs {
            let mut finding =
                self.latent(footer.index_offset, format!("entry {entry} of the index isn't its record's"));
            finding.expected = held.get(entry).map(told);
            finding.actual = named.get(entry).map(told);
            self.check.latent.push(finding);
        }
        Ok(())
    }

    /// The footer counts what there is.
    fn footer(&mut self, footer: &Footer) {
        if !self.check.gaps.is_empty() {
            return;
        }
        let fills = self.check.records.iter().filter(|record| record.header.meta.kind.fills_slots());
        let bodies: Vec<PackContent> = fills.filter_map(content).collect();
        let promised =
            self.check.records.iter().map(|record| record.header.meta.promised.max(record.header.meta.ballot));
        let counted = [
            ("records", self.check.records.len() as u64, footer.records),
            ("bodies", bodies.iter().map(|content| u64::from(content.bodies)).sum(), footer.bodies),
            ("bytes of bodies", bodies.iter().map(|content| u64::from(content.body_bytes)).sum(), footer.body_bytes),
            ("first slot", bodies.iter().map(|content| content.first.0).min().unwrap_or(0), footer.slot_first.0),
            ("end slot", bodies.iter().map(|content| content.end.0).max().unwrap_or(0), footer.slot_end.0),
        ];
        let at = self.geometry.footer_offset();
        let mut findings = Vec::new();
        for (name, held, said) in counted.into_iter().filter(|(_, held, said)| held != said) {
            let mut finding = self.latent(at, format!("the footer is wrong about {name}"));
            (finding.expected, finding.actual) = (Some(held.to_string()), Some(said.to_string()));
            findings.push(finding);
        }
        if let Some(promised) = promised.max().filter(|promised| *promised > footer.promised) {
            let mut finding = self.latent(at, "the footer is wrong about the promise".to_owned());
            (finding.expected, finding.actual) = (Some(promised.to_string()), Some(footer.promised.to_string()));
            findings.push(finding);
        }
        self.check.latent.extend(findings);
    }

    fn latent(&self, offset: u64, what: String) -> Finding {
        latent(self.check.file, self.geometry, self.header.epoch, offset, what)
    }
}

fn sealed(record: &Summary) -> SealedRecord {
    SealedRecord {
        offset: record.offset as u32,
        record_bytes: record.header.record_bytes,
        checksum: record.header.checksum,
        kind: record.header.meta.kind,
        group: record.header.meta.group,
        ballot: record.header.meta.ballot,
        body: record.body,
        pack: record.pack,
    }
}

/// The bodies of a record, in short: one, or those of a pack.
fn content(record: &Summary) -> Option<PackContent> {
    let alone =
        |body: BodyHandle| PackContent { first: body.first, end: body.end(), bodies: 1, body_bytes: body.bytes };
    record.body.map(alone).or(record.pack)
}

fn told(record: &SealedRecord) -> String {
    let slots = record.body.map(|body| body.slots()).or(record.pack.map(|pack| pack.first..pack.end));
    let slots = slots.map_or_else(String::new, |slots| format!(" of slots {}..{}", slots.start, slots.end));
    format!("{:?} record{slots} at {}, checksum {:#010x}", record.kind, record.offset, record.checksum)
}

fn record_problem(error: &RecordError) -> Problem {
    let what = error.to_string();
    let (expected, actual) = match error {
        RecordError::Body(error) => return body_problem(error),
        RecordError::Checksum { expected, actual } => (Some(hexadecimal(*expected)), Some(hexadecimal(*actual))),
        RecordError::Previous { expected, found } => (Some(hexadecimal(*expected)), Some(hexadecimal(*found))),
        RecordError::Position { expected, found } => (Some(expected.to_string()), Some(found.to_string())),
        RecordError::Magic { found } => (Some("SYNR".to_owned()), Some(hexadecimal(*found))),
        _ => (None, None),
    };
    Problem { what, expected, actual }
}

fn body_problem(error: &BodyError) -> Problem {
    let (expected, actual) = match error {
        BodyError::HeaderChecksum { expected, actual } | BodyError::BlockChecksum { expected, actual, .. } => {
            (Some(hexadecimal(*expected)), Some(hexadecimal(*actual)))
        }
        BodyError::Magic { found } => (Some("SYNB".to_owned()), Some(hexadecimal(*found))),
        _ => (None, None),
    };
    Problem { what: error.to_string(), expected, actual }
}

fn seal_problem(error: &SealBlockError) -> Problem {
    let (expected, actual) = match error {
        SealBlockError::Checksum { expected, actual } => (Some(hexadecimal(*expected)), Some(hexadecimal(*actual))),
        SealBlockError::Position { expected, found } => (Some(expected.to_string()), Some(found.to_string())),
        _ => (None, None),
    };
    Problem { what: error.to_string(), expected, actual }
}

fn hexadecimal(checksum: u32) -> String {
    format!("{checksum:#010x}")
}

/// What `records` say of the log as a whole.
pub(super) fn marks(records: &[Summary]) -> impl Iterator<Item = Mark> {
    records.iter().map(|record| record.header.meta.mark)
}

/// The slot after the last body in front of a record, and where the next one after it begins.
pub(super) fn slots_around(records: &[Summary], place: usize) -> (Option<Slot>, Option<Slot>) {
    let fills = |record: &&Summary| record.header.meta.kind.fills_slots();
    let before = records[..place].iter().rev().filter(fills).find_map(Summary::slots).map(|slots| slots.end);
    let after = records[place..].iter().filter(fills).find_map(Summary::slots).map(|slots| slots.start);
    (before, after)
}
