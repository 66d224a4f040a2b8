//! Pages: stretches of the chosen prefix whose entries were put out of memory.
//!
//! A page remembers the mark in front of its bodies and the one behind them, and which records of which segments hold
//! them. That is enough to have the entries back: the seals of those segments, or else their records, say what lies
//! where, and the chain from the one mark to the other proves that nothing is missing or added. See [`super::load`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::{Bound, RangeInclusive};

use synod_protocol::{BodyHandle, Mark, Slot};

use super::IndexEntry;

/// Bodies of a page. A block of a seal's index names 45 records, so the largest takes some 24 of them to read.
const PAGE_BODIES_RANGE: RangeInclusive<usize> = 8..=1024;

/// Pages whose entries were read back and are kept, for those who read on.
const LOADED_MAX: usize = 16;

/// The records of one segment that hold bodies of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// The segment.
    pub(crate) epoch: u64,
    /// Where the first of the records begins in it.
    pub(crate) first: u32,
    /// Where the last of them begins.
    pub(crate) last: u32,
}

/// See the module documentation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    /// The chosen prefix in front of the first body.
    pub(crate) start: Mark,
    /// The chosen prefix that includes the last one.
    pub(crate) end: Mark,
    /// How many bodies there are; at least one.
    pub(crate) bodies: u32,
    /// Up to where the trims among its bodies go, if any are.
    pub(crate) trims_upto: Option<Slot>,
    /// Where they lie, oldest segment first.
    pub(crate) extents: Vec<Extent>,
}

impl Page {
    /// A page without bodies behind `start`.
    pub(super) fn empty(start: Mark) -> Page {
        Page { start, end: start, bodies: 0, trims_upto: None, extents: Vec::new() }
    }

    /// Takes up a record that holds bodies of the page.
    pub(super) fn extend(&mut self, epoch: u64, offset: u32) {
        match self.extents.binary_search_by_key(&epoch, |extent| extent.epoch) {
            Ok(place) => {
                let extent = &mut self.extents[place];
                (extent.first, extent.last) = (extent.first.min(offset), extent.last.max(offset));
            }
            Err(place) => self.extents.insert(place, Extent { epoch, first: offset, last: offset }),
        }
    }
}

/// How many bodies a page has when `bodies_max` are kept in memory: putting one out shouldn't empty that.
pub(super) fn page_bodies(bodies_max: usize) -> usize {
    (bodies_max / 4).clamp(*PAGE_BODIES_RANGE.start(), *PAGE_BODIES_RANGE.end())
}

/// The pages of an index.
#[derive(Clone, Debug, Default)]
pub(super) struct Pages {
    /// By the slot behind each, which never changes; they don't overlap.
    pages: BTreeMap<Slot, Page>,
    /// Entries that were read back, by the end of their page; the one that was read first leaves first.
    loaded: VecDeque<(Slot, Vec<IndexEntry>)>,
    bodies: u64,
    /// First slots of the bodies of pages that have an entry in memory as well: they were written again, elsewhere.
    pub(super) overridden: BTreeSet<Slot>,
}

impl Pages {
    pub(super) fn len(&self) -> usize {
        self.pages.len()
    }

    /// Bodies in pages that have no entry in memory.
    pub(super) fn bodies(&self) -> u64 {
        self.bodies.saturating_sub(self.overridden.len() as u64)
    }

    pub(super) fn insert(&mut self, page: Page) {
        self.bodies += u64::from(page.bodies);
        self.pages.insert(page.end.slot, page);
    }

    /// The page that ends at `end`.
    pub(super) fn get(&self, end: Slot) -> Option<&Page> {
        self.pages.get(&end)
    }

    /// The page that fills `slot`, or the next one behind it.
    pub(super) fn at_or_after(&self, slot: Slot) -> Option<&Page> {
        self.pages.range((Bound::Excluded(slot), Bound::Unbounded)).next().map(|(_, page)| page)
    }

    /// The page that fills `slot`.
    pub(super) fn containing(&self, slot: Slot) -> Option<&Page> {
        self.at_or_after(slot).filter(|page| page.start.slot <= slot)
    }

    /// The page that fills any slot of the body.
    pub(super) fn overlapping(&self, body: &BodyHandle) -> Option<&Page> {
        self.at_or_after(body.first).filter(|page| page.start.slot < body.end())
    }

    /// The mark at `slot`, if a page begins or ends there.
    pub(super) fn mark_at(&self, slot: Slot) -> Option<Mark> {
        let ends = self.pages.get(&slot).map(|page| page.end);
        ends.or_else(|| self.containing(slot).map(|page| page.start).filter(|start| start.slot == slot))
    }

    /// A record elsewhere holds a body of the page that ends at `end`.
    pub(super) fn extend(&mut self, end: Slot, epoch: u64, offset: u32) {
        if let Some(page) = self.pages.get_mut(&end) {
            page.extend(epoch, offset);
        }
    }

    /// The entries of a page, if they are in memory.
    pub(super) fn loaded(&self, page: &Page) -> Option<&[IndexEntry]> {
        let found = self.loaded.iter().find(|(end, _)| *end == page.end.slot);
        found.map(|(_, entries)| entries.as_slice())
    }

    /// Keeps the entries of a page that were read back, unless it was trimmed meanwhile.
    pub(super) fn keep_loaded(&mut self, end: Slot, mut entries: Vec<IndexEntry>) {
        let Some(page) = self.pages.get_mut(&end) else { return };
        entries.retain(|entry| entry.body.first >= page.start.slot);
        self.bodies = self.bodies - u64::from(page.bodies) + entries.len() as u64;
        page.bodies = entries.len() as u32;
        self.loaded.retain(|(other, _)| *other != end);
        if self.loaded.len() == LOADED_MAX {
            self.loaded.pop_front();
        }
        self.loaded.push_back((end, entries));
    }

    /// A body of a page was written again: what was read back of that page says otherwise.
    pub(super) fn update_loaded(&mut self, end: Slot, entry: IndexEntry) {
        let loaded = self.loaded.iter_mut().find(|(other, _)| *other == end);
        let place = loaded.and_then(|(_, entries)| entries.iter_mut().find(|known| known.body == entry.body));
        if let Some(place) = place {
            *place = entry;
        }
    }

    /// Up to where the trims go that pages hold.
    pub(super) fn trims_upto(&self) -> Option<Slot> {
        self.pages.values().filter_map(|page| page.trims_upto).max()
    }

    /// Forgets all bodies below `base`.
    pub(super) fn trim_to(&mut self, base: Mark) {
        while let Some(first) = self.pages.first_entry()
            && first.get().start.slot < base.slot
        {
            let end = *first.key();
            let mut page = first.remove();
            self.bodies -= u64::from(page.bodies);
            if end <= base.slot {
                self.loaded.retain(|(other, _)| *other != end);
                continue;
            }
            // The mark of the base is all that the rest of the page needs to be proven.
            page.start = base;
            if let Some((_, entries)) = self.loaded.iter_mut().find(|(other, _)| *other == end) {
                entries.retain(|entry| entry.body.first >= base.slot);
                page.bodies = entries.len() as u32;
            }
            self.insert(page);
        }
        self.overridden = self.overridden.split_off(&base.slot);
    }
}
