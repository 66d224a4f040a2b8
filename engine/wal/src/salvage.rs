//! Everything sound in a damaged log, and what is lost of it.
//!
//! Recovery decides whether a log may be opened, and refuses in doubt. Salvage reads what there is: valid records before,
//! between and behind damage, in files whose header is gone too. Whatever a record with a right checksum says was true
//! when it was written, and what this says stays true: a promise, an accept, a choice, a mark, a base. So all of it may
//! be joined, whatever was lost around it.
//!
//! What is lost is named as closely as the log itself allows: by the header of the damaged record, or by the index of its
//! segment. Where neither can be read, anything may be lost.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;

use synod_frame::{BLOCK_BYTES, GroupId, RECORD_HEADER_BYTES};
use synod_protocol::{Ballot, BodyHandle, Mark, Slot, SlotRange};

use crate::format::{
    CONFIGURATION_BYTES_MAX, RecordError, RecordHeader, RecordKind, SealedRecord, SegmentHeader, SegmentHeaderError,
    StoredConfiguration, first_nonzero,
};
use crate::identity::ExpectedIdentity;
use crate::index::{Index, Insert, Location};
use crate::lsn::{FileId, Lsn};
use crate::recovery::RecoverError;
use crate::scan::{
    Hole, HoleCause, Item, ReadError, ScanOptions, ScannedRecord, Scanner, read_index, read_seal, read_segment_header,
};
use crate::segment::{BLOCK, Geometry};
use crate::store::SegmentStore;

/// A body that was in this log and can't be read any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostBody {
    /// The body.
    pub body: BodyHandle,
    /// The ballot at which it was accepted here.
    pub ballot: Ballot,
    /// Whether it was recorded as chosen.
    pub chosen: bool,
}

/// Something that is wrong, in words, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file; none if it isn't there.
    pub file: Option<FileId>,
    /// Offset in it.
    pub offset: u64,
    /// What is wrong.
    pub what: String,
    /// The slots that are lost, if they are known.
    pub slots: Option<SlotRange>,
}

/// What a log says, as far as it can be read.
#[derive(Debug, Default)]
pub struct Salvaged {
    /// The group whose log it is.
    pub group: Option<GroupId>,
    /// The newest format of anything in it, also of what this build can't read.
    pub format: u16,
    /// The highest promise that can be read.
    pub promised: Ballot,
    /// All bodies at or above the base. Those are marked as chosen that marks on both sides, or records, prove.
    pub index: Index,
    /// The ruling configuration.
    pub configuration: Option<StoredConfiguration>,
    /// The log's own time, in microseconds.
    pub log_time_us: u64,
    /// An epoch that was never used, nor can have been.
    pub epoch_next: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// Bodies that are known to be lost.
    pub lost: Vec<LostBody>,
    /// The slots of packs that are lost: their bodies were chosen.
    pub lost_packs: Vec<SlotRange>,
    /// Whether records are lost of which nothing is known: accepts at any slot.
    pub lost_unknown: bool,
    /// Whether such a record may have been the last one, with a promise that nothing repeats.
    pub lost_promise: bool,
    /// Two bodies that contradict each other: not the log of one correct replica.
    pub conflict: Option<BodyHandle>,
}

/// Reads all that can be read of a log.
///
/// # Errors
/// If the segment size is none, or the files can't be listed. What is wrong with a file is a [`Finding`].
pub fn salvage(
    store: &dyn SegmentStore,
    expected: &ExpectedIdentity,
    segment_bytes: u64,
) -> Result<Salvaged, RecoverError> {
    let geometry = Geometry::new(segment_bytes).ok_or(RecoverError::SegmentBytes(segment_bytes))?;
    let lenient = Lenient { store, geometry, unreadable: RefCell::default() };
    let mut salvage = Salvage::new(&lenient, geometry);
    let mut files = store.files().map_err(RecoverError::List)?;
    files.sort_unstable();
    for file in files {
        salvage.open(file, expected)?;
    }
    salvage.scan_all()?;
    salvage.find_missing();
    for ((file, offset), what) in lenient.unreadable.borrow().iter() {
        salvage.finding(Some(*file), *offset, (*what).to_owned(), None);
    }
    Ok(salvage.finish())
}

/// A store whose files all have the length of a segment: what isn't there, or can't be read, reads as zeros, which are
/// never valid.
struct Lenient<'store> {
    store: &'store dyn SegmentStore,
    geometry: Geometry,
    /// What can't be read, and why not. Of what a file lacks only the first block.
    unreadable: RefCell<BTreeMap<(FileId, u64), &'static str>>,
}

impl Lenient<'_> {
    fn note(&self, file: FileId, offset: u64, error: &io::Error) {
        let mut unreadable = self.unreadable.borrow_mut();
        let cut = "the file ends here: it was cut, or copied in part";
        if error.kind() != io::ErrorKind::UnexpectedEof {
            unreadable.insert((file, offset), "the disk can't read this block");
        } else {
            let known: Vec<u64> = of(&unreadable, file).filter(|(_, what)| *what == cut).map(|(at, _)| at).collect();
            if known.iter().all(|at| *at > offset) {
                known.iter().for_each(|at| _ = unreadable.remove(&(file, *at)));
                unreadable.insert((file, offset), cut);
            }
        }
    }

    /// Whether some block can't be read from `offset` on.
    fn is_cut_behind(&self, file: FileId, offset: u64) -> bool {
        of(&self.unreadable.borrow(), file).any(|(at, _)| at >= offset)
    }
}

fn of<'map>(
    unreadable: &'map BTreeMap<(FileId, u64), &'static str>,
    file: FileId,
) -> impl Iterator<Item = (u64, &'static str)> + 'map {
    unreadable.range((file, 0)..=(file, u64::MAX)).map(|((_, at), what)| (*at, *what))
}

impl SegmentStore for Lenient<'_> {
    fn files(&self) -> io::Result<Vec<FileId>> {
        self.store.files()
    }

    fn len(&self, _file: FileId) -> io::Result<u64> {
        Ok(self.geometry.segment_bytes())
    }

    fn read_at(&self, file: FileId, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if self.store.read_at(file, offset, buffer).is_ok() {
            return Ok(());
        }
        for (number, block) in buffer.chunks_mut(BLOCK_BYTES).enumerate() {
            let at = offset + number as u64 * BLOCK;
            if let Err(error) = self.store.read_at(file, at, block) {
                block.fill(0);
                self.note(file, at, &error);
            }
        }
        Ok(())
    }
}

/// A file of the log.
struct Segment {
    file: FileId,
    header: SegmentHeader,
    /// Whether the header is a guess from the records behind it.
    guessed: bool,
}

struct Salvage<'store> {
    store: &'store Lenient<'store>,
    geometry: Geometry,
    segments: BTreeMap<u64, Segment>,
    records: Vec<(Location, RecordHeader, BodyHandle)>,
    marks: BTreeMap<Slot, Mark>,
    base: Mark,
    first_needed: u64,
    proof: Lsn,
    /// What was lost before this position is settled, as the log says.
    settled: Lsn,
    /// The last process that began without being sure of its promise, by its boot counter, and the last that was sure.
    unsure_boot: u64,
    sure_boot: u64,
    /// The last record, and whether its writer was unsure.
    last: (Lsn, bool),
    /// The highest position up to which every promise is known.
    promise_known: Lsn,
    /// Where records of which nothing is known were lost.
    unknown: Vec<Lsn>,
    files: u64,
    epoch_seen: u64,
    found: Salvaged,
}

impl<'store> Salvage<'store> {
    fn new(store: &'store Lenient<'store>, geometry: Geometry) -> Salvage<'store> {
        Salvage {
            store,
            geometry,
            segments: BTreeMap::new(),
            records: Vec::new(),
            marks: BTreeMap::new(),
            base: Mark::START,
            first_needed: 0,
            proof: Lsn::ZERO,
            settled: Lsn::ZERO,
            unsure_boot: 0,
            sure_boot: 0,
            last: (Lsn::ZERO, false),
            promise_known: Lsn::ZERO,
            unknown: Vec::new(),
            files: 0,
            epoch_seen: 0,
            found: Salvaged::default(),
        }
    }

    fn finding(&mut self, file: Option<FileId>, offset: u64, what: String, slots: Option<SlotRange>) {
        self.found.findings.push(Finding { file, offset, what, slots });
    }

    fn take_mark(&mut self, mark: Mark, base: Mark) {
        self.marks.insert(mark.slot, mark);
        self.marks.insert(base.slot, base);
        if base.slot > self.base.slot {
            self.base = base;
        }
    }

    fn open(&mut self, file: FileId, expected: &ExpectedIdentity) -> Result<(), ReadError> {
        self.files += 1;
        let header = match read_segment_header(self.store, file, self.geometry)? {
            Ok(header) if header.identity.expected() == *expected => Ok(header),
            Ok(_) => {
                self.finding(Some(file), 0, "the segment belongs to another log; left out".to_owned(), None);
                return Ok(());
            }
            Err(error) => Err(error),
        };
        if let Err(SegmentHeaderError::Version { needed }) = header {
            self.found.format = self.found.format.max(needed);
        }
        let (header, guessed) = match header {
            Ok(header) => (header, false),
            Err(error) => match self.guess_header(file, expected)? {
                Some(header) => {
                    self.finding(Some(file), 0, format!("{error}; its records can be read nevertheless"), None);
                    (header, true)
                }
                None if error == SegmentHeaderError::Fresh => return Ok(()),
                None => {
                    self.finding(Some(file), 0, format!("{error}; nothing of it can be read"), None);
                    if self.holds_anything(file)? {
                        self.unknown.push(Lsn(u64::MAX));
                    }
                    return Ok(());
                }
            },
        };
        self.epoch_seen = self.epoch_seen.max(header.epoch);
        self.found.format = self.found.format.max(header.readable_by);
        self.first_needed = self.first_needed.max(header.first_needed);
        self.proof = self.proof.max(header.durable).max(header.before_end);
        if header.unsure {
            self.unsure_boot = self.unsure_boot.max(header.identity.boot_counter);
        }
        self.found.log_time_us = self.found.log_time_us.max(header.log_time_us);
        for state in &header.groups {
            self.found.group = Some(state.group);
            self.found.promised = self.found.promised.max(state.promised);
            self.take_mark(state.mark, state.base);
        }
        offer(&mut self.found.configuration, header.configuration.as_ref());
        if let Some(other) = self.segments.get(&header.epoch) {
            let what = format!("{} claims to be segment {} too; left out", other.file, header.epoch);
            self.finding(Some(file), 0, what, None);
            return Ok(());
        }
        self.segments.insert(header.epoch, Segment { file, header, guessed });
        Ok(())
    }

    /// The header that a segment must have had, if its first record can be read.
    fn guess_header(&self, file: FileId, expected: &ExpectedIdentity) -> Result<Option<SegmentHeader>, ReadError> {
        let offset = self.geometry.records_offset();
        let mut block = [0; BLOCK_BYTES];
        let read = self.store.read_at(file, offset, &mut block);
        read.map_err(|source| ReadError { file, offset, bytes: BLOCK_BYTES, source })?;
        let Some((epoch, lsn)) = RecordHeader::claim(&block) else { return Ok(None) };
        let at = Lsn::new(epoch, self.geometry.segment_bytes(), offset);
        if lsn != at || RecordHeader::decode(&block, expected.salt(), at, epoch).is_err() {
            return Ok(None);
        }
        Ok(Some(SegmentHeader::rebuilt(expected, file, epoch, 0)))
    }

    /// Whether there is anything but zeros behind the header.
    fn holds_anything(&self, file: FileId) -> Result<bool, ReadError> {
        let mut block = [0; BLOCK_BYTES];
        for offset in (BLOCK..self.geometry.segment_bytes()).step_by(BLOCK_BYTES) {
            let read = self.store.read_at(file, offset, &mut block);
            read.map_err(|source| ReadError { file, offset, bytes: BLOCK_BYTES, source })?;
            if first_nonzero(&block).is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn scan_all(&mut self) -> Result<(), ReadError> {
        // The proof first: it tells a torn end from a lost one.
        let epochs: Vec<u64> = self.segments.keys().copied().collect();
        let mut scanned = BTreeMap::new();
        for epoch in epochs {
            scanned.insert(epoch, self.scan(epoch)?);
        }
        // What isn't linked to the newest was given up when the log was opened: nothing there is missed.
        let chain = self.link();
        for (number, epoch) in chain.iter().enumerate() {
            let (Some(found), next) = (scanned.get(epoch), number.checked_sub(1).map(|next| chain[next])) else {
                continue;
            };
            let header = next.and_then(|next| self.segments.get(&next)).map(|next| &next.header);
            let header = header.filter(|next| next.before_epoch == *epoch && next.before_end != Lsn::ZERO);
            // Where the seal is gone, the next segment may still prove that nothing is missing in between.
            let follows = next.and_then(|next| scanned.get(&next)).and_then(|next| next.first_previous);
            let context = Context {
                named: header.map(|header| header.before_end),
                followed: follows.is_some() && follows == found.last_checksum,
                newest: next.is_none(),
            };
            self.judge(*epoch, found, &context);
        }
        Ok(())
    }

    /// Reads one segment: where its records end, and the holes before.
    fn scan(&mut self, epoch: u64) -> Result<Scanned, ReadError> {
        let segment = &self.segments[&epoch];
        let (file, header) = (segment.file, segment.header.clone());
        let mut scanner = Scanner::new(self.store, file, self.geometry, &header, ScanOptions::default());
        let mut scanned = Scanned::default();
        while let Some(item) = scanner.next_item()? {
            match item {
                Item::Record(record) => {
                    scanned.found.insert(record.offset);
                    scanned.first_previous.get_or_insert(record.header.previous_checksum);
                    scanned.last_checksum = Some(record.header.checksum);
                    self.take(file, &mut scanner, &record)?;
                }
                Item::Stray(record) => {
                    scanned.found.insert(record.offset);
                    scanned.last_checksum = Some(record.header.checksum);
                    self.take(file, &mut scanner, &record)?;
                    // From here on the records follow each other again.
                    scanner.walk_on_behind(&record);
                }
                Item::Hole(hole) => {
                    if let HoleCause::Blocks { record, .. } = &hole.cause {
                        // Its header says what was in it, and what follows it.
                        scanner.walk_on_behind(record);
                        scanned.last_checksum = Some(record.header.checksum);
                    }
                    if let HoleCause::Head(RecordError::Newer { needed }) = hole.cause {
                        self.found.format = self.found.format.max(needed);
                    }
                    scanned.holes.push(hole);
                }
                Item::BadStray { record, .. } => scanner.walk_from(record.offset),
            }
        }
        let end = scanned.holes.last().map_or(self.geometry.table_offset(), |hole| hole.offset);
        let seal = read_seal(self.store, file, self.geometry, &header, end)?;
        scanned.sealed_end = seal.witness.map(|witness| witness.records_end);
        if let Some(witness) = &seal.witness {
            self.proof = self.proof.max(witness.records_end);
        }
        // A seal block anywhere in the file says where the records end, also if the walk lost its way before.
        if let Some(footer) = seal.footer {
            scanned.index = read_index(self.store, file, self.geometry, &header, &footer)?;
            self.found.promised = self.found.promised.max(footer.promised);
            self.take_mark(footer.mark, footer.base);
            if let Some(end) = scanned.sealed_end {
                self.promise_known = self.promise_known.max(end);
            }
        }
        Ok(scanned)
    }

    fn take(&mut self, file: FileId, scanner: &mut Scanner<'_>, record: &ScannedRecord) -> Result<(), ReadError> {
        let (header, meta) = (record.header, record.header.meta);
        self.found.group = Some(meta.group);
        self.found.promised = self.found.promised.max(meta.promised).max(meta.ballot);
        self.found.log_time_us = self.found.log_time_us.max(meta.log_time_us);
        self.first_needed = self.first_needed.max(header.first_needed);
        self.proof = self.proof.max(header.durable);
        self.settled = self.settled.max(header.settled.before);
        self.last = self.last.max((header.lsn, meta.unsure));
        if !meta.unsure
            && let Some(segment) = self.segments.get(&header.epoch)
        {
            self.sure_boot = self.sure_boot.max(segment.header.identity.boot_counter);
        }
        self.promise_known = self.promise_known.max(header.end());
        self.take_mark(meta.mark, header.base);
        for body in scanner.bodies(record)? {
            let handle = body.header.handle();
            self.found.format = self.found.format.max(body.header.format);
            if meta.kind == RecordKind::Configuration {
                let short = handle.bytes as usize <= CONFIGURATION_BYTES_MAX;
                let bytes = scanner.record_bytes(record)?[RECORD_HEADER_BYTES..][..handle.bytes as usize].to_vec();
                let offered = StoredConfiguration { slot: handle.first, body: bytes };
                offer(&mut self.found.configuration, Some(&offered).filter(|_| short));
                continue;
            }
            let (offset, record_bytes) = (record.offset, header.record_bytes);
            let location = Location { file, offset, record_bytes, body_offset: body.offset };
            self.records.push((location, header, handle));
        }
        Ok(())
    }

    /// Which of a segment's holes are damage, and what was lost in them.
    fn judge(&mut self, epoch: u64, scanned: &Scanned, context: &Context) {
        let segment = &self.segments[&epoch];
        let (file, needed) = (segment.file, epoch >= self.first_needed);
        if segment.guessed && needed && context.newest {
            // What it said of the segment in front is gone, and with it the proof that nothing is missing between.
            self.found.lost_unknown = true;
        }
        if !needed {
            return;
        }
        let start = Lsn::new(epoch, self.geometry.segment_bytes(), 0);
        if segment.header.before_lost && self.settled < start {
            let what = "the node found the end of the segment before damaged, and that isn't settled".to_owned();
            self.finding(Some(file), 0, what, None);
            self.found.lost_unknown = true;
        }
        for (number, hole) in scanned.holes.iter().enumerate() {
            let last = number + 1 == scanned.holes.len();
            if self.is_end(file, hole, scanned, context) {
                continue;
            }
            if last && context.followed {
                self.finding(Some(file), hole.offset, "the seal is damaged; no record is missing".to_owned(), None);
                continue;
            }
            let slots = match &hole.cause {
                HoleCause::Blocks { record, .. } => record.slots(),
                _ => None,
            };
            self.finding(Some(file), hole.offset, hole.cause.to_string(), slots);
            match (&hole.cause, &scanned.index) {
                // The index names every record, so nothing is unknown.
                (_, Some(_)) => {}
                (HoleCause::Blocks { record, .. }, None) => self.lose_record(record),
                _ => self.unknown.push(hole.lsn),
            }
        }
        let offset = |entry: &SealedRecord| u64::from(entry.offset);
        for entry in scanned.index.iter().flatten().filter(|entry| !scanned.found.contains(&offset(entry))) {
            if let Some(body) = entry.body.filter(|_| entry.kind.fills_slots()) {
                self.found.lost.push(LostBody { body, ballot: entry.ballot, chosen: entry.kind.is_chosen() });
            }
            self.found.lost_packs.extend(entry.pack.map(|pack| pack.first..pack.end));
        }
        let sealed = scanned.sealed_end.is_some();
        if context.newest && sealed {
            let what = "it is sealed, but the segment after it is missing".to_owned();
            self.finding(Some(file), 0, what, None);
            let end = scanned.sealed_end.unwrap_or_default();
            self.unknown.push(end);
        }
    }

    fn lose_record(&mut self, record: &ScannedRecord) {
        let meta = record.header.meta;
        self.found.lost_packs.extend(record.pack.map(|pack| pack.first..pack.end));
        self.found.promised = self.found.promised.max(meta.promised).max(meta.ballot);
        self.promise_known = self.promise_known.max(record.header.end());
        self.take_mark(meta.mark, record.header.base);
        if let Some(body) = record.body.filter(|_| meta.kind.fills_slots()) {
            let (body, ballot) = (body.handle(), meta.ballot);
            self.found.lost.push(LostBody { body, ballot, chosen: meta.kind.is_chosen() });
        }
    }

    /// Whether the records of a segment may end at this hole.
    fn is_end(&self, file: FileId, hole: &Hole, scanned: &Scanned, context: &Context) -> bool {
        let whole = !self.store.is_cut_behind(file, hole.offset);
        match (context.named, scanned.sealed_end) {
            // The walk goes on behind a named end; what it met there doesn't count.
            (Some(named), _) => hole.lsn >= named,
            (None, Some(end)) => hole.lsn == end,
            // Recovery cuts here too: nothing behind was ever durable.
            (None, None) => hole.cause.is_torn() && self.proof <= hole.lsn && whole,
        }
    }

    /// Segments that others name and that aren't there.
    fn find_missing(&mut self) {
        if self.segments.is_empty() {
            self.finding(None, 0, "no segment can be read".to_owned(), None);
            self.unknown.push(Lsn(u64::MAX));
            return;
        }
        for epoch in self.link() {
            if !self.segments.contains_key(&epoch) {
                self.finding(None, 0, format!("segment {epoch} is missing"), None);
                self.unknown.push(Lsn::new(epoch, self.geometry.segment_bytes(), BLOCK));
            }
        }
        if self.first_needed > self.segments.last_key_value().map_or(0, |(epoch, _)| *epoch) {
            self.finding(None, 0, format!("segment {} is missing", self.first_needed), None);
            self.unknown.push(Lsn(u64::MAX));
        }
    }

    /// The segments that the newest one leads to and that are needed, newest first, those that aren't there too.
    fn link(&self) -> Vec<u64> {
        let mut chain = Vec::new();
        let below = |epoch: u64| self.segments.range(..epoch).next_back().map(|(epoch, _)| *epoch);
        let mut next = self.segments.last_key_value().map(|(epoch, _)| *epoch);
        while let Some(epoch) = next.filter(|epoch| *epoch != 0 && *epoch >= self.first_needed) {
            chain.push(epoch);
            next = match self.segments.get(&epoch) {
                Some(segment) if !segment.guessed => Some(segment.header.before_epoch),
                // A guessed header doesn't know what it follows, nor does one that isn't there: the one below.
                _ => below(epoch),
            };
        }
        chain
    }

    fn finish(mut self) -> Salvaged {
        if self.unsure_boot > self.sure_boot || self.last.1 {
            let what = "the node wasn't sure of its promise, and nothing later says that it was".to_owned();
            self.finding(None, 0, what, None);
            (self.found.lost_unknown, self.found.lost_promise) = (true, true);
        }
        let mut index = Index::new(self.base);
        for (location, header, body) in &self.records {
            let inserted = match header.meta.kind {
                RecordKind::Accepted => index.insert_accepted(*body, header.meta.ballot, *location),
                _ => index.insert_chosen(*body, *location),
            };
            if let Insert::Conflict(other) = inserted {
                self.found.conflict = Some(other);
            }
        }
        for (first, mark) in prove(&index, &self.marks) {
            index.mark_chosen(first, mark.chain);
        }
        let base = self.base.slot;
        self.found.index = index;
        self.found.lost.retain(|lost| lost.body.end() > base);
        self.found.lost_packs.retain(|slots| slots.end > base);
        self.found.lost_unknown |= !self.unknown.is_empty();
        self.found.lost_promise |= self.unknown.iter().any(|lost| *lost >= self.promise_known);
        // Each file may have begun one more life whose header is lost.
        self.found.epoch_next = self.epoch_seen + self.files + 1;
        self.found
    }
}

/// What the segment behind one says of it.
struct Context {
    /// Where it says that the records end.
    named: Option<Lsn>,
    /// Whether its first record follows the last one here.
    followed: bool,
    /// Whether there is none.
    newest: bool,
}

/// What was found in a segment.
#[derive(Default)]
struct Scanned {
    holes: Vec<Hole>,
    /// Offsets of valid records.
    found: BTreeSet<u64>,
    sealed_end: Option<Lsn>,
    index: Option<Vec<SealedRecord>>,
    first_previous: Option<u32>,
    last_checksum: Option<u32>,
}

fn offer(known: &mut Option<StoredConfiguration>, offered: Option<&StoredConfiguration>) {
    if let Some(offered) = offered
        && known.as_ref().is_none_or(|known| known.slot < offered.slot)
    {
        *known = Some(offered.clone());
    }
}

/// The bodies that are chosen: those that lie between two marks with the chain running from one to the other, and those
/// that were recorded as chosen and follow such. Each with the mark behind it.
fn prove(index: &Index, marks: &BTreeMap<Slot, Mark>) -> Vec<(Slot, Mark)> {
    let (mut proven, mut run) = (Vec::new(), Vec::new());
    let mut at = Some(index.base());
    for entry in index.iter_from(index.base().slot) {
        let first = entry.body.first;
        if at.is_none_or(|mark| mark.slot != first) {
            run.clear();
            at = marks.get(&first).copied();
        }
        let Some(before) = at else { continue };
        let after = before.after(&entry.body);
        run.push((first, after));
        let marked = marks.get(&after.slot);
        if marked == Some(&after) || (marked.is_none() && entry.recorded_chosen && run.len() == 1) {
            proven.append(&mut run);
        } else if marked.is_some() {
            // Another chain stands here: these aren't the bodies that were chosen.
            run.clear();
        }
        at = Some(marked.copied().unwrap_or(after));
    }
    proven
}
