//! Where the bodies of a group lie: slot to location, for every body that is accepted or chosen and not trimmed.
//!
//! The index is also the *join* of the log: of bodies that share a slot only the one at the highest ballot is kept,
//! because a body is accepted whole, and a higher ballot that proposed another body there proves that the lower one
//! was chosen nowhere. A body known to be chosen outlives any ballot. Entries never overlap. Along one log ballots
//! only grow, so what killed a body is never itself dead before the body is seen.

use std::collections::BTreeMap;

use synod_protocol::{Ballot, BodyHandle, Chain, Mark, Slot};

use synod_frame::{BLOCK_BYTES, RECORD_HEADER_BYTES};

use crate::lsn::FileId;

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

/// The bodies of one group.
#[derive(Clone, Debug, Default)]
pub struct Index {
    base: Mark,
    entries: BTreeMap<Slot, IndexEntry>,
}

impl Index {
    /// An empty index of a log that is trimmed up to `base`.
    pub fn new(base: Mark) -> Index {
        Index { base, entries: BTreeMap::new() }
    }

    /// Everything below is trimmed.
    pub fn base(&self) -> Mark {
        self.base
    }

    /// How many bodies there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no bodies.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
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

    /// The body that begins at `first`.
    pub fn get(&self, first: Slot) -> Option<&IndexEntry> {
        self.entries.get(&first)
    }

    /// The body that fills `slot`.
    pub fn containing(&self, slot: Slot) -> Option<&IndexEntry> {
        let (_, entry) = self.entries.range(..=slot).next_back()?;
        (slot < entry.body.end()).then_some(entry)
    }

    /// The bodies in slot order, from the one that fills `slot`, or else the next one after it.
    pub fn iter_from(&self, slot: Slot) -> impl Iterator<Item = &IndexEntry> {
        let from = self.containing(slot).map_or(slot, |entry| entry.body.first);
        self.entries.range(from..).map(|(_, entry)| entry)
    }

    /// The mark at `slot`, if the chosen prefix is known to reach it, it isn't trimmed, and a body ends there.
    pub fn mark_at(&self, slot: Slot) -> Option<Mark> {
        if slot == self.base.slot {
            return Some(self.base);
        }
        let (_, entry) = self.entries.range(..slot).next_back()?;
        let chain = entry.chosen?;
        (entry.body.end() == slot).then_some(Mark { slot, chain })
    }

    /// Forgets every body below `base`.
    pub fn trim_to(&mut self, base: Mark) {
        if base.slot > self.base.slot {
            self.base = base;
            self.entries = self.entries.split_off(&base.slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use synod_protocol::{BodyId, BodyKind, NodeId};

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
