//! Reading the entries of a page back, as a value: reads out, bytes in.
//!
//! The index in a segment's seal says what lies where, so a few of its blocks are enough. Where a segment has no seal,
//! or that is damaged, the heads of its records say the same. Of a pack both tell only the range of slots: its bodies
//! are read off the pack itself. What was found is joined as it was when the log was written, and the chain between
//! the marks of the page proves it.

use std::collections::{BTreeMap, VecDeque};

use synod_frame::BLOCK_BYTES;
use synod_protocol::{Ballot, BodyHandle, BodyId, Slot};

use super::page::Page;
use super::{Index, IndexEntry, Insert, Location};
use crate::format::{
    Block, PACK_RECORD_BYTES_MAX, PackHead, RecordHeader, RecordKind, SealBlock, SealKind, SealedRecord,
};
use crate::identity::LogSalt;
use crate::lsn::{FileId, Lsn};
use crate::segment::{BLOCK, Geometry, record_bytes};
use crate::store::SegmentStore;
use crate::writer::SealIndex;

/// Most that is read at a time, but for a pack: enough for what a seal says of a whole page.
const READ_BYTES_MAX: u64 = 128 << 10;

/// Where the bodies of a page may lie in one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The segment's file.
    pub(crate) file: FileId,
    /// Its epoch.
    pub(crate) epoch: u64,
    /// Where the first of the records begins.
    pub(crate) first: u64,
    /// Where the last one begins.
    pub(crate) last: u64,
    /// Where the blocks of the seal's index that name them begin, and how many there are; none without a seal.
    pub(crate) index: Option<(u64, u64)>,
}

/// A segment that holds bodies of a page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SegmentPlace<'segment> {
    /// Its file.
    pub(crate) file: FileId,
    /// How to find a record in the index of its seal.
    pub(crate) seal_index: Option<&'segment SealIndex>,
}

/// Where the bodies of a page lie, given the segments by epoch. Those that are gone held none that is left of it.
pub(crate) fn places<'segments>(page: &Page, segment: impl Fn(u64) -> Option<SegmentPlace<'segments>>) -> Vec<Place> {
    let extents = page.extents.iter().filter_map(|extent| Some((extent, segment(extent.epoch)?)));
    let place = extents.map(|(extent, segment)| {
        let (first, last) = (u64::from(extent.first), u64::from(extent.last));
        let index = segment.seal_index.map(|index| index.blocks(first, last));
        Place { file: segment.file, epoch: extent.epoch, first, last, index }
    });
    place.collect()
}

/// Reads all that a load asks for.
pub(crate) fn read_page(store: &dyn SegmentStore, load: &mut PageLoad) {
    while let Some(read) = load.next_read() {
        let mut bytes = vec![0; read.bytes as usize];
        let done = store.read_at(read.file, read.offset, &mut bytes);
        load.take(done.is_ok().then_some(bytes.as_slice()));
    }
}

/// A read that a load asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageRead {
    /// The file.
    pub(crate) file: FileId,
    /// Where; a multiple of 4096.
    pub(crate) offset: u64,
    /// How much; a multiple of 4096.
    pub(crate) bytes: u32,
}

/// What is read next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Blocks of the seal's index, from one offset to another.
    Index { next: u64, end: u64 },
    /// First blocks of records, from this offset on, so many bytes at a time.
    Records { next: u64, bytes: u64 },
    /// The pack in front of the queue.
    Packs,
}

/// A pack that holds bodies of the page.
#[derive(Clone, Copy, Debug)]
struct PackPlace {
    file: FileId,
    epoch: u64,
    offset: u64,
    record_bytes: u32,
}

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct PageLoad {
    /// As it was when the load began.
    page: Page,
    salt: LogSalt,
    geometry: Geometry,
    places: VecDeque<Place>,
    /// Whether seals are left aside, because what they said proves wrong.
    walks: bool,
    /// Whether something couldn't be read, or wasn't what it should be.
    failed: bool,
    step: Option<Step>,
    packs: VecDeque<PackPlace>,
    /// By where they lie, in log order.
    found: BTreeMap<(u64, u64, u32), (RecordKind, IndexEntry)>,
}

impl PageLoad {
    /// The load of a page whose bodies lie in these places, oldest first.
    pub(crate) fn new(page: &Page, places: Vec<Place>, salt: LogSalt, geometry: Geometry) -> PageLoad {
        let mut load = PageLoad {
            page: page.clone(),
            salt,
            geometry,
            places: places.into(),
            walks: false,
            failed: false,
            step: None,
            packs: VecDeque::new(),
            found: BTreeMap::new(),
        };
        load.enter();
        load
    }

    /// The same without seals: for when what they said doesn't prove to be the page. None if they weren't asked.
    pub(crate) fn without_seals(page: &Page, places: Vec<Place>, before: &PageLoad) -> Option<PageLoad> {
        let mut load = PageLoad::new(page, Vec::new(), before.salt, before.geometry);
        (load.walks, load.failed, load.places) = (true, true, places.into());
        load.enter();
        (!before.walks).then_some(load)
    }

    /// The page that is loaded, by its end.
    pub(crate) fn end(&self) -> Slot {
        self.page.end.slot
    }

    /// Whether the page is still as it was when the load began: it may have been trimmed or extended since.
    pub(crate) fn is_of(&self, page: &Page) -> bool {
        self.page.start == page.start && self.page.extents == page.extents
    }

    /// Whether something on the disk wasn't as it should be.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed
    }

    /// What to read next; none if there is no more.
    pub(crate) fn next_read(&self) -> Option<PageRead> {
        let place = self.places.front();
        match self.step? {
            Step::Index { next, end } => {
                let bytes = (end - next).min(READ_BYTES_MAX) as u32;
                place.map(|place| PageRead { file: place.file, offset: next, bytes })
            }
            Step::Records { next, bytes } => place.map(|place| {
                let bytes = bytes.min(place.last + BLOCK - next) as u32;
                PageRead { file: place.file, offset: next, bytes }
            }),
            Step::Packs => {
                let pack = self.packs.front();
                pack.map(|pack| PageRead { file: pack.file, offset: pack.offset, bytes: pack.record_bytes })
            }
        }
    }

    /// Takes what [`PageLoad::next_read`] asked for; none if it can't be read.
    pub(crate) fn take(&mut self, bytes: Option<&[u8]>) {
        let Some(read) = self.next_read() else { return };
        let bytes = bytes.and_then(|bytes| bytes.get(..read.bytes as usize));
        self.failed |= bytes.is_none();
        match self.step {
            Some(Step::Index { next, end }) => self.take_index(bytes, next, end),
            Some(Step::Records { next, .. }) => self.take_records(bytes, next),
            Some(Step::Packs) => self.take_pack(bytes),
            None => {}
        }
    }

    /// Begins with the place in front, or else with the packs.
    fn enter(&mut self) {
        self.step = match self.places.front() {
            Some(Place { index: Some((offset, blocks)), .. }) if !self.walks => {
                Some(Step::Index { next: *offset, end: offset + blocks * BLOCK })
            }
            Some(place) => Some(Step::Records { next: place.first, bytes: READ_BYTES_MAX }),
            None => (!self.packs.is_empty()).then_some(Step::Packs),
        };
    }

    fn leave(&mut self) {
        self.places.pop_front();
        self.enter();
    }

    fn take_index(&mut self, bytes: Option<&[u8]>, next: u64, end: u64) {
        let Some(place) = self.places.front().copied() else { return };
        let blocks = bytes.map(|bytes| bytes.as_chunks::<BLOCK_BYTES>().0).unwrap_or_default();
        for (number, block) in blocks.iter().enumerate() {
            let offset = next + number as u64 * BLOCK;
            let Some(records) = self.read_index(&place, offset, block) else {
                self.failed = true;
                self.step = Some(Step::Records { next: place.first, bytes: READ_BYTES_MAX });
                return;
            };
            for record in records {
                self.take_sealed(&place, &record);
            }
        }
        let next = next + blocks.len() as u64 * BLOCK;
        if blocks.is_empty() {
            self.step = Some(Step::Records { next: place.first, bytes: READ_BYTES_MAX });
        } else if next < end {
            self.step = Some(Step::Index { next, end });
        } else {
            self.leave();
        }
    }

    fn read_index(&self, place: &Place, offset: u64, block: &Block) -> Option<Vec<SealedRecord>> {
        let head = SealBlock::decode(block, self.salt, offset, self.geometry.segment_bytes()).ok()?;
        let valid = head.kind == SealKind::Index && head.epoch == place.epoch;
        valid.then(|| SealedRecord::decode_block(block, &head).ok())?
    }

    fn take_sealed(&mut self, place: &Place, record: &SealedRecord) {
        let offset = u64::from(record.offset);
        if !(place.first..=place.last).contains(&offset) || !record.kind.fills_slots() {
            return;
        }
        if let Some(pack) = record.pack {
            let (file, epoch, record_bytes) = (place.file, place.epoch, record.record_bytes);
            let in_place = offset.is_multiple_of(BLOCK) && u64::from(record_bytes).is_multiple_of(BLOCK);
            if self.is_pack_wanted(pack.first, pack.end) && in_place && record_bytes <= PACK_RECORD_BYTES_MAX {
                self.packs.push_back(PackPlace { file, epoch, offset, record_bytes });
            }
        } else if let Some(body) = record.body {
            let location = Location::alone(place.file, offset, record.record_bytes);
            self.note(place.epoch, record.kind, body, record.ballot, location);
        }
    }

    /// Walks from record to record; where there is none, from block to block.
    fn take_records(&mut self, bytes: Option<&[u8]>, next: u64) {
        let Some(place) = self.places.front().copied() else { return };
        let Some(bytes) = bytes else {
            // Something in it can't be read: block by block, to find what.
            let Some(Step::Records { bytes: asked, .. }) = self.step else { return };
            let next = if asked > BLOCK { next } else { next + BLOCK };
            return self.walk_on(&place, next, BLOCK);
        };
        let mut at = next;
        let mut read_ahead = READ_BYTES_MAX;
        while at <= place.last
            && let Some(block) = bytes.get((at - next) as usize..).and_then(|rest| rest.first_chunk::<BLOCK_BYTES>())
        {
            let lsn = Lsn::new(place.epoch, self.geometry.segment_bytes(), at);
            let Ok((header, body)) = RecordHeader::decode(block, self.salt, lsn, place.epoch) else {
                self.failed = true;
                at += BLOCK;
                continue;
            };
            let (file, epoch, record_bytes) = (place.file, place.epoch, header.record_bytes);
            let head = PackHead::parse(block, record_bytes, header.body_bytes);
            if let Some(body) = body.filter(|_| header.meta.kind.fills_slots()) {
                let location = Location::alone(file, at, record_bytes);
                self.note(epoch, header.meta.kind, body.handle(), header.meta.ballot, location);
            } else if let Ok(head) = head
                && header.meta.kind == RecordKind::Pack
                && self.is_pack_wanted(head.first, head.end)
                && record_bytes <= PACK_RECORD_BYTES_MAX
            {
                self.packs.push_back(PackPlace { file, epoch, offset: at, record_bytes });
            }
            at += u64::from(record_bytes.max(BLOCK_BYTES as u32));
            // Of long records only the first block is of use.
            read_ahead = if u64::from(record_bytes) < READ_BYTES_MAX / 4 { READ_BYTES_MAX } else { BLOCK };
        }
        self.walk_on(&place, at, read_ahead);
    }

    fn walk_on(&mut self, place: &Place, next: u64, bytes: u64) {
        if next > place.last {
            return self.leave();
        }
        self.step = Some(Step::Records { next, bytes });
    }

    fn take_pack(&mut self, bytes: Option<&[u8]>) {
        if let Some(pack) = self.packs.pop_front()
            && let Some(bytes) = bytes
        {
            self.unpack(&pack, bytes);
        }
        self.enter();
    }

    fn unpack(&mut self, pack: &PackPlace, bytes: &[u8]) {
        let lsn = Lsn::new(pack.epoch, self.geometry.segment_bytes(), pack.offset);
        let first = bytes.first_chunk::<BLOCK_BYTES>();
        let header = first.and_then(|block| RecordHeader::decode(block, self.salt, lsn, pack.epoch).ok());
        let Some((header, _)) = header.filter(|(header, _)| header.record_bytes == pack.record_bytes) else {
            self.failed = true;
            return;
        };
        let Ok(head) = PackHead::parse(bytes, header.record_bytes, header.body_bytes) else { return };
        for known in head.known_bodies(bytes, header.meta.group) {
            let location = Location {
                file: pack.file,
                offset: pack.offset,
                record_bytes: pack.record_bytes,
                body_offset: known.body.offset,
            };
            self.note(pack.epoch, RecordKind::Pack, known.body.header.handle(), Ballot::ZERO, location);
        }
    }

    fn is_pack_wanted(&self, first: Slot, end: Slot) -> bool {
        first < self.page.end.slot && end > self.page.start.slot
    }

    fn note(&mut self, epoch: u64, kind: RecordKind, body: BodyHandle, ballot: Ballot, location: Location) {
        // Nothing is read or allocated on the word of an entry that contradicts itself.
        let end = location.offset + u64::from(location.record_bytes);
        let in_place = location.offset.is_multiple_of(BLOCK) && end <= self.geometry.table_offset();
        let whole = in_place && (location.is_packed() || location.record_bytes == record_bytes(body.bytes));
        if body.first < self.page.start.slot || body.end() > self.page.end.slot || !whole {
            return;
        }
        let entry = IndexEntry { body, ballot, location, recorded_chosen: kind.is_chosen(), chosen: None };
        self.found.insert((epoch, location.offset, location.body_offset), (kind, entry));
    }

    /// What was found of this very body.
    pub(crate) fn find(&self, first: Slot, id: BodyId) -> Option<IndexEntry> {
        let mut found = self.found.values().map(|(_, entry)| entry);
        found.rfind(|entry| entry.body.first == first && entry.body.id == id).copied()
    }

    /// The entries of the page in slot order, if what was read proves to be it.
    pub(crate) fn finish(&self) -> Option<Vec<IndexEntry>> {
        let mut index = Index::new(self.page.start);
        for (kind, entry) in self.found.values() {
            let inserted = match kind {
                RecordKind::Accepted => index.insert_accepted(entry.body, entry.ballot, entry.location),
                _ => index.insert_chosen(entry.body, entry.location),
            };
            if let Insert::Conflict(_) = inserted {
                return None;
            }
        }
        let mut mark = self.page.start;
        let mut entries = Vec::with_capacity(index.len());
        for entry in index.iter_from(mark.slot) {
            if entry.body.first != mark.slot {
                return None;
            }
            mark = mark.after(&entry.body);
            entries.push(IndexEntry { chosen: Some(mark.chain), ..*entry });
        }
        (mark == self.page.end).then_some(entries)
    }
}
