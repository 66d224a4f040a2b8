//! Where the bodies of a group lie: slot to location, for every body that is accepted or chosen and not trimmed.
//!
//! The index is also the *join* of the log: of bodies that share a slot only the one at the highest ballot is kept,
//! because a body is accepted whole, and a higher ballot that proposed another body there proves that the lower one
//! was chosen nowhere. A body known to be chosen outlives any ballot. Entries never overlap. Along one log ballots
//! only grow, so what killed a body is never itself dead before the body is seen.
//!
//! An open log keeps only so many entries in memory: old ones, whose bodies are chosen and lie in segments that don't
//! change any more, are put out to *pages* ([`page`]) and read back from those segments when somebody wants them
//! ([`load`]). What [`Index::get`] and its like answer is what is in memory; that is everything unless pages were made,
//! which only an open log does.

mod load;
mod page;

use std::collections::BTreeMap;

use synod_protocol::{Ballot, BodyHandle, BodyKind, Chain, Mark, Slot};

use synod_frame::{BLOCK_BYTES, RECORD_HEADER_BYTES};

use crate::lsn::FileId;

pub(crate) use load::{PageLoad, Place, SegmentPlace, places, read_page};
pub(crate) use page::Page;
use page::{Pages, page_bodies};

/// Where a body lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    /// The file.
    pub file: FileId,
    /// Where the record begins in it; a multiple of 4096.
    pub offset: u64,
    /// Length of the record; a multiple of 4096.
    pub record_bytes: u32,
    /// Where the body begins in the record: right behind its header, or elsewhere in a pack.
    pub body_offset: u32,
}

/// Whole blocks of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// Where they begin; a multiple of 4096.
    pub offset: u64,
    /// Their length; a multiple of 4096.
    pub bytes: u32,
}

impl Location {
    /// The place of a body that has a record of its own.
    pub fn alone(file: FileId, offset: u64, record_bytes: u32) -> Location {
        Location { file, offset, record_bytes, body_offset: RECORD_HEADER_BYTES as u32 }
    }

    /// Whether the record holds other bodies too.
    pub fn is_packed(&self) -> bool {
        self.body_offset != RECORD_HEADER_BYTES as u32
    }

    /// What must be read to have the body: the whole record, or of a pack the blocks that hold it.
    pub fn blocks(&self, body: &BodyHandle) -> Blocks {
        if !self.is_packed() {
            return Blocks { offset: self.offset, bytes: self.record_bytes };
        }
        let (start, block) = (self.offset + u64::from(self.body_offset), BLOCK_BYTES as u64);
        let end = (start + u64::from(body.bytes)).next_multiple_of(block);
        let offset = start - start % block;
        Blocks { offset, bytes: (end - offset) as u32 }
    }

    /// Copies a packed body out of its [`Location::blocks`] into a record buffer of its own, and zeroes what lies behind
    /// it. The body isn't verified.
    ///
    /// # Panics
    /// If `record` is too short for the body, or `blocks` aren't those of the body: bugs of the caller.
    pub fn unpack(&self, body: &BodyHandle, blocks: &[u8], record: &mut [u8]) {
        let start = self.body_offset as usize % BLOCK_BYTES;
        let (body_bytes, rest) = record[RECORD_HEADER_BYTES..].split_at_mut(body.bytes as usize);
        body_bytes.copy_from_slice(&blocks[start..start + body.bytes as usize]);
        rest.fill(0);
    }
}

/// A body of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// The body.
    pub body: BodyHandle,
    /// The highest ballot at which it was accepted here; zero if it was copied.
    pub ballot: Ballot,
    /// Where its bytes lie. A reader must verify them: once the body is trimmed the place may be written again.
    pub location: Location,
    /// It was recorded as chosen (copied from a peer), whatever the ballots say.
    pub recorded_chosen: bool,
    /// The chain after this body, once the chosen prefix includes it.
    pub chosen: Option<Chain>,
}

impl IndexEntry {
    pub(crate) fn is_chosen(&self) -> bool {
        self.recorded_chosen || self.chosen.is_some()
    }
}

/// What became of a body that was offered to the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Insert {
    /// It is in the index; what it superseded is not any more.
    Kept,
    /// It lies below the base, or another body at a higher ballot or a chosen one stands there: it is dead.
    Dead,
    /// It contradicts this body: the same ballot with other content, or two chosen bodies. The log isn't that of a
    /// correct replica. The index is unchanged.
    Conflict(BodyHandle),
}

/// What an index knows of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// This body.
    Here(IndexEntry),
    /// There is one, but its entry must be read back first: with the page that ends at this slot.
    Paged(Slot),
    /// No body.
    Nowhere,
}

/// The bodies of one group.
#[derive(Clone, Debug, Default)]
pub struct Index {
    base: Mark,
    entries: BTreeMap<Slot, IndexEntry>,
    pages: Pages,
}

impl Index {
    /// An empty index of a log that is trimmed up to `base`.
    pub fn new(base: Mark) -> Index {
        Index { base, ..Index::default() }
    }

    /// Everything below is trimmed.
    pub fn base(&self) -> Mark {
        self.base
    }

    /// How many bodies there are, those whose entries aren't in memory included.
    pub fn len(&self) -> usize {
        self.entries.len() + self.pages.bodies() as usize
    }

    /// Whether there are no bodies.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many entries are in memory, but for the few that were read back.
    pub fn in_memory(&self) -> usize {
        self.entries.len()
    }

    /// How many pages there are.
    pub fn pages(&self) -> usize {
        self.pages.len()
    }

    /// Takes up a body that was accepted at `ballot` and lies at `location`.
    pub fn insert_accepted(&mut self, body: BodyHandle, ballot: Ballot, location: Location) -> Insert {
        self.insert(IndexEntry { body, ballot, location, recorded_chosen: false, chosen: None })
    }

    /// Takes up a body that is chosen and lies at `location`.
    pub fn insert_chosen(&mut self, body: BodyHandle, location: Location) -> Insert {
        self.insert(IndexEntry { body, ballot: Ballot::ZERO, location, recorded_chosen: true, chosen: None })
    }

    fn insert(&mut self, mut entry: IndexEntry) -> Insert {
        // A body lies on one side of the base: one across it contradicts the mark, and is dead like those below.
        if entry.body.first < self.base.slot {
            return Insert::Dead;
        }
        if let Some(page) = self.pages.overlapping(&entry.body) {
            let page = (page.start.slot, page.end.slot);
            return self.insert_over(page, entry);
        }
        // What usually happens: the slots were empty.
        if self.overlapping(&entry.body).next().is_none() {
            self.entries.insert(entry.body.first, entry);
            return Insert::Kept;
        }
        if let Some(same) = self.entries.get(&entry.body.first).filter(|same| same.body == entry.body) {
            entry.ballot = entry.ballot.max(same.ballot);
            entry.recorded_chosen |= same.recorded_chosen;
            entry.chosen = same.chosen;
            self.entries.insert(entry.body.first, entry);
            return Insert::Kept;
        }
        for other in self.overlapping(&entry.body) {
            match (other.is_chosen(), entry.is_chosen()) {
                (true, true) => return Insert::Conflict(other.body),
                (true, false) => return Insert::Dead,
                (false, true) => {}
                (false, false) if other.ballot == entry.ballot => return Insert::Conflict(other.body),
                (false, false) if other.ballot > entry.ballot => return Insert::Dead,
                (false, false) => {}
            }
        }
        let superseded: Vec<Slot> = self.overlapping(&entry.body).map(|other| other.body.first).collect();
        for first in superseded {
            self.entries.remove(&first);
        }
        self.entries.insert(entry.body.first, entry);
        Insert::Kept
    }

    /// Takes up a body whose slots, or some of them, a page fills.
    fn insert_over(&mut self, (start, end): (Slot, Slot), mut entry: IndexEntry) -> Insert {
        let same = match self.find(entry.body.first) {
            Lookup::Here(same) if same.body == entry.body => same,
            // All of a page is chosen: an accept there is late, unless it contradicts what was accepted at its ballot.
            Lookup::Here(other) if !entry.recorded_chosen => {
                let contradicts = other.ballot == entry.ballot && !other.recorded_chosen;
                return if contradicts { Insert::Conflict(other.body) } else { Insert::Dead };
            }
            Lookup::Here(other) => return Insert::Conflict(other.body),
            // Without the page nobody can tell; an accept of the same body lies well where it lies.
            _ if !entry.recorded_chosen => return Insert::Dead,
            _ if entry.body.first < start || entry.body.end() > end => return Insert::Conflict(entry.body),
            _ => entry,
        };
        entry.ballot = entry.ballot.max(same.ballot);
        entry.recorded_chosen |= same.recorded_chosen;
        entry.chosen = same.chosen;
        self.pages.overridden.insert(entry.body.first);
        self.entries.insert(entry.body.first, entry);
        Insert::Kept
    }

    fn overlapping(&self, body: &BodyHandle) -> impl Iterator<Item = &IndexEntry> {
        let end = body.end();
        self.iter_from(body.first).take_while(move |entry| entry.body.first < end)
    }

    /// Notes that the chosen prefix includes the body that begins at `first`, with `chain` after it. Whether there is
    /// such a body.
    pub fn mark_chosen(&mut self, first: Slot, chain: Chain) -> bool {
        let entry = self.entries.get_mut(&first);
        let found = entry.is_some();
        if let Some(entry) = entry {
            entry.chosen = Some(chain);
        }
        found
    }

    /// Forgets the body that begins at `first`, whose bytes are lost.
    pub fn remove(&mut self, first: Slot) {
        self.entries.remove(&first);
    }

    /// The body that begins at `first`, if its entry is in memory.
    pub fn get(&self, first: Slot) -> Option<&IndexEntry> {
        self.entries.get(&first)
    }

    /// The body that fills `slot`, if its entry is in memory.
    pub fn containing(&self, slot: Slot) -> Option<&IndexEntry> {
        let (_, entry) = self.entries.range(..=slot).next_back()?;
        (slot < entry.body.end()).then_some(entry)
    }

    /// The bodies whose entries are in memory, in slot order, from the one that fills `slot`, or else the next one after
    /// it.
    pub fn iter_from(&self, slot: Slot) -> impl Iterator<Item = &IndexEntry> {
        let from = self.containing(slot).map_or(slot, |entry| entry.body.first);
        self.entries.range(from..).map(|(_, entry)| entry)
    }

    /// The mark at `slot`, if the chosen prefix is known to reach it, it isn't trimmed, and a body ends there whose entry
    /// is in memory.
    pub fn mark_at(&self, slot: Slot) -> Option<Mark> {
        if slot == self.base.slot {
            return Some(self.base);
        }
        let before = self.entries.range(..slot).next_back().filter(|(_, entry)| entry.body.end() == slot);
        let chain = before.and_then(|(_, entry)| entry.chosen);
        chain.map(|chain| Mark { slot, chain }).or_else(|| self.pages.mark_at(slot)).or_else(|| {
            let entries = self.pages.loaded(self.pages.containing(slot)?)?;
            let place = entries.partition_point(|entry| entry.body.first < slot);
            let before = entries[..place].last().filter(|entry| entry.body.end() == slot)?;
            before.chosen.map(|chain| Mark { slot, chain })
        })
    }

    /// The body that fills `slot`, wherever its entry is.
    pub(crate) fn find(&self, slot: Slot) -> Lookup {
        match (self.containing(slot), self.pages.containing(slot)) {
            // The page says what the chain is behind a body that was written again.
            (Some(entry), Some(page)) if entry.chosen.is_none() => match self.find_in(page, slot) {
                Lookup::Here(_) => Lookup::Here(*entry),
                unknown => unknown,
            },
            (Some(entry), _) => Lookup::Here(*entry),
            (None, Some(page)) if slot >= self.base.slot => self.find_in(page, slot),
            (None, _) => Lookup::Nowhere,
        }
    }

    /// The body that fills `slot`, or else the next one after it, wherever its entry is.
    pub(crate) fn find_from(&self, slot: Slot) -> Lookup {
        let here = self.iter_from(slot).next();
        let page = self.pages.at_or_after(slot);
        match (here, page) {
            (None, None) => Lookup::Nowhere,
            (Some(entry), None) => Lookup::Here(*entry),
            (Some(entry), Some(page)) if entry.body.first <= slot.max(page.start.slot) => self.find(entry.body.first),
            (_, Some(page)) => self.find_in(page, slot.max(page.start.slot)),
        }
    }

    fn find_in(&self, page: &Page, slot: Slot) -> Lookup {
        let Some(entries) = self.pages.loaded(page) else { return Lookup::Paged(page.end.slot) };
        let place = entries.partition_point(|entry| entry.body.end() <= slot);
        entries.get(place).map_or(Lookup::Nowhere, |entry| Lookup::Here(*entry))
    }

    /// The page that must be read back to know what is at `slot`, by its end.
    pub(crate) fn page_to_load(&self, slot: Slot) -> Option<Slot> {
        let page = self.pages.containing(slot).filter(|page| self.pages.loaded(page).is_none())?;
        Some(page.end.slot)
    }

    /// The page that fills slots of the body, if it must be read back.
    pub(crate) fn page_overlapping(&self, body: &BodyHandle) -> Option<&Page> {
        self.pages.overlapping(body).filter(|page| self.pages.loaded(page).is_none())
    }

    /// Whether the body still lies where the entry says, as far as anybody knows without reading.
    pub(crate) fn holds(&self, entry: &IndexEntry) -> bool {
        match self.find(entry.body.first) {
            Lookup::Here(now) => now.location == entry.location,
            Lookup::Paged(_) => true,
            Lookup::Nowhere => false,
        }
    }

    /// The page that ends at `end`.
    pub(crate) fn page(&self, end: Slot) -> Option<&Page> {
        self.pages.get(end)
    }

    /// Keeps the entries of the page that ends at `end`, which were read back, for a while.
    pub(crate) fn keep_loaded(&mut self, end: Slot, entries: Vec<IndexEntry>) {
        for known in &entries {
            let written_again = self.entries.get_mut(&known.body.first);
            if let Some(entry) = written_again.filter(|entry| entry.body == known.body) {
                entry.chosen = known.chosen;
            }
        }
        self.pages.keep_loaded(end, entries);
    }

    /// Puts the oldest entries out to pages until at most about `bodies_max` are in memory, as far as that can be done:
    /// their bodies are chosen, and `segment_of` names the segment that they lie in, which holds them for good. How many
    /// pages were made or extended.
    pub(crate) fn page_out(&mut self, bodies_max: usize, segment_of: impl Fn(&Location) -> Option<u64>) -> u64 {
        let excess = self.entries.len().saturating_sub(bodies_max);
        let bodies_max = page_bodies(bodies_max);
        let (mut made, mut gone, mut again) = (Vec::new(), 0, Vec::new());
        let mut open: Option<Page> = None;
        for entry in self.entries.values() {
            if gone + again.len() >= excess {
                break;
            }
            if entry.body.kind.is_configuration() && entry.chosen.is_some() {
                // They are few, and who rules must be known without reading anything back.
                close(&mut open, &mut made, &mut gone);
                continue;
            }
            let first = entry.body.first;
            let inside = self.pages.containing(first).map(|page| page.end.slot);
            let segment = segment_of(&entry.location);
            let (Some(chain), Some(epoch)) = (entry.chosen, segment) else {
                close(&mut open, &mut made, &mut gone);
                if entry.chosen.is_none() && inside.is_none() {
                    // Nothing behind it is known to be chosen either.
                    break;
                }
                continue;
            };
            if let Some(end) = inside {
                again.push((end, epoch, *entry));
                continue;
            }
            if open.as_ref().is_some_and(|page| page.end.slot != first) {
                close(&mut open, &mut made, &mut gone);
            }
            let Some(mut page) = open.take().or_else(|| self.mark_at(first).map(Page::empty)) else { continue };
            page.extend(epoch, entry.location.offset as u32);
            page.end = Mark { slot: entry.body.end(), chain };
            page.bodies += 1;
            if let BodyKind::Trim { upto } = entry.body.kind {
                page.trims_upto = page.trims_upto.max(Some(upto));
            }
            let is_full = page.bodies as usize == bodies_max;
            open = Some(page);
            if is_full {
                close(&mut open, &mut made, &mut gone);
            }
        }
        let pages = made.len() + again.len();
        for page in made {
            while let Some((first, _)) = self.entries.range(page.start.slot..page.end.slot).next() {
                let first = *first;
                self.entries.remove(&first);
            }
            self.pages.insert(page);
        }
        for (end, epoch, entry) in again {
            self.pages.extend(end, epoch, entry.location.offset as u32);
            self.pages.update_loaded(end, entry);
            self.pages.overridden.remove(&entry.body.first);
            self.entries.remove(&entry.body.first);
        }
        pages as u64
    }

    /// Forgets every body below `base`. Returns where the newest configuration among them begins.
    pub fn trim_to(&mut self, base: Mark) -> Option<Slot> {
        if base.slot <= self.base.slot {
            return None;
        }
        self.base = base;
        let kept = self.entries.split_off(&base.slot);
        let trimmed = std::mem::replace(&mut self.entries, kept);
        let configurations = trimmed.values().filter(|entry| entry.body.kind.is_configuration());
        let newest = configurations.map(|entry| entry.body.first).max();
        self.pages.trim_to(base);
        newest
    }

    /// Up to where the trims of the chosen prefix go that begin below `mark`, those in pages included; none if there are
    /// no trims.
    pub fn trims_upto(&self, mark: Slot) -> Option<Slot> {
        let entries = self.entries.range(..mark).filter_map(|(_, entry)| match entry.body.kind {
            BodyKind::Trim { upto } => Some(upto),
            _ => None,
        });
        entries.max().max(self.pages.trims_upto())
    }
}

fn close(open: &mut Option<Page>, made: &mut Vec<Page>, gone: &mut usize) {
    if let Some(page) = open.take() {
        *gone += page.bodies as usize;
        made.push(page);
    }
}

#[cfg(test)]
mod tests {
    use synod_protocol::{BodyId, NodeId};

    use super::*;

    fn body(first: u64, count: u32, id: u128) -> BodyHandle {
        BodyHandle { first: Slot(first), count, bytes: 192, kind: BodyKind::NoOp, id: BodyId(id) }
    }

    fn ballot(round: u64) -> Ballot {
        Ballot { round, node: NodeId(1), boot: 7 }
    }

    fn at(offset: u64) -> Location {
        Location::alone(FileId(1), offset, 4096)
    }

    fn firsts(index: &Index) -> Vec<(u64, u128)> {
        index.iter_from(Slot(0)).map(|entry| (entry.body.first.0, entry.body.id.0)).collect()
    }

    #[test]
    fn a_higher_ballot_kills_every_body_that_it_overlaps() {
        let mut index = Index::default();
        assert_eq!(index.insert_accepted(body(1, 3, 1), ballot(1), at(0)), Insert::Kept);
        assert_eq!(index.insert_accepted(body(4, 3, 2), ballot(1), at(4096)), Insert::Kept);
        assert_eq!(index.insert_accepted(body(7, 1, 3), ballot(1), at(8192)), Insert::Kept);
        assert_eq!(index.insert_accepted(body(3, 2, 4), ballot(2), at(12288)), Insert::Kept);
        assert_eq!(firsts(&index), [(3, 4), (7, 3)]);
        assert_eq!(index.insert_accepted(body(1, 3, 1), ballot(1), at(0)), Insert::Dead);
        assert_eq!(firsts(&index), [(3, 4), (7, 3)]);
    }

    #[test]
    fn one_ballot_has_one_body() {
        let mut index = Index::default();
        assert_eq!(index.insert_accepted(body(1, 3, 1), ballot(1), at(0)), Insert::Kept);
        assert_eq!(index.insert_accepted(body(3, 3, 2), ballot(1), at(0)), Insert::Conflict(body(1, 3, 1)));
        assert_eq!(index.insert_accepted(body(1, 3, 1), ballot(3), at(4096)), Insert::Kept);
        let entry = index.get(Slot(1)).unwrap();
        assert_eq!((entry.ballot, entry.location.offset), (ballot(3), 4096));
    }

    #[test]
    fn chosen_bodies_outlive_ballots() {
        let mut index = Index::default();
        assert_eq!(index.insert_accepted(body(1, 3, 1), ballot(9), at(0)), Insert::Kept);
        assert_eq!(index.insert_chosen(body(2, 1, 2), at(0)), Insert::Kept);
        assert_eq!(firsts(&index), [(2, 2)]);
        assert_eq!(index.insert_accepted(body(2, 2, 3), ballot(10), at(0)), Insert::Dead);
        assert_eq!(index.insert_chosen(body(1, 2, 4), at(0)), Insert::Conflict(body(2, 1, 2)));
    }

    #[test]
    fn marks_and_trims() {
        let mut index = Index::default();
        let bodies = [body(1, 3, 1), body(4, 1, 2), body(5, 5, 3)];
        let mut mark = Mark::START;
        let mut marks = vec![mark];
        for body in bodies {
            assert_eq!(index.insert_accepted(body, ballot(1), at(0)), Insert::Kept);
            mark = mark.after(&body);
            marks.push(mark);
        }
        assert!(index.mark_chosen(Slot(1), marks[1].chain));
        assert!(index.mark_chosen(Slot(4), marks[2].chain));
        assert!(!index.mark_chosen(Slot(2), marks[2].chain));
        assert_eq!(index.mark_at(Slot(1)), Some(Mark::START));
        assert_eq!(index.mark_at(Slot(4)), Some(marks[1]));
        assert_eq!(index.mark_at(Slot(5)), Some(marks[2]));
        assert_eq!(index.mark_at(Slot(3)), None);
        assert_eq!(index.mark_at(Slot(10)), None);
        assert_eq!(index.containing(Slot(7)).unwrap().body, bodies[2]);
        assert_eq!(index.containing(Slot(10)), None);

        index.trim_to(marks[1]);
        assert_eq!(index.base(), marks[1]);
        assert_eq!(firsts(&index), [(4, 2), (5, 3)]);
        assert_eq!(index.mark_at(Slot(4)), Some(marks[1]));
        assert_eq!(index.mark_at(Slot(1)), None);
        assert_eq!(index.insert_accepted(body(1, 3, 1), ballot(1), at(0)), Insert::Dead);
        index.trim_to(Mark::START);
        assert_eq!(index.base(), marks[1]);
    }
}
