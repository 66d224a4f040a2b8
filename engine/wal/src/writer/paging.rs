//! What of the index is in memory: entries of old bodies are put out to pages, and read back from sealed segments.

use std::collections::BTreeMap;

use synod_protocol::Slot;

use super::Wal;
use super::segments::Complete;
use crate::format::INDEX_ENTRIES_PER_BLOCK;
use crate::index::{Index, IndexEntry, Location, Lookup, Page, PageLoad, Place, SegmentPlace, places, read_page};
use crate::lsn::FileId;
use crate::segment::{BLOCK, Geometry};
use crate::store::SegmentStore;

/// Where the index of a seal lies, and which of its blocks names which records: four bytes for 45 of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SealIndex {
    /// Where it begins in the file.
    offset: u64,
    /// Where the first record begins that each of its blocks names.
    firsts: Vec<u32>,
}

impl SealIndex {
    /// The index of a sealed segment whose records begin at these offsets.
    pub(crate) fn of(geometry: Geometry, offsets: impl ExactSizeIterator<Item = u32>) -> SealIndex {
        let offset = geometry.index_offset(offsets.len());
        SealIndex { offset, firsts: offsets.step_by(INDEX_ENTRIES_PER_BLOCK).collect() }
    }

    /// Where the blocks begin that name the records from one offset to another, both included, and how many they are.
    pub(crate) fn blocks(&self, first: u64, last: u64) -> (u64, u64) {
        let block = |record: u64| self.firsts.partition_point(|first| u64::from(*first) <= record).saturating_sub(1);
        let (from, to) = (block(first) as u64, block(last) as u64);
        (self.offset + from * BLOCK, to - from + 1)
    }
}

impl Wal {
    /// Where the bodies lie, as far as that is in memory.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Where the bodies lie, to note which are chosen.
    pub fn index_mut(&mut self) -> &mut Index {
        &mut self.index
    }

    /// Puts entries out of memory that are too many there, now that another segment is complete.
    pub(super) fn page_out(&mut self) {
        let max = self.settings.index_bodies_max;
        if self.index.in_memory() <= max {
            return;
        }
        let paged = self.complete.iter().filter(|segment| segment.whole);
        let segments: BTreeMap<FileId, u64> = paged.map(|segment| (segment.file, segment.epoch)).collect();
        let segment_of = |location: &Location| segments.get(&location.file).copied();
        self.stats.pages_out += self.index.page_out(max, segment_of);
    }

    /// How to read the page back that ends at `end`; none if there is no such page any more.
    pub(crate) fn load_page(&self, end: Slot) -> Option<PageLoad> {
        let page = self.index.page(end)?;
        Some(PageLoad::new(page, self.places(page), self.salt, self.geometry))
    }

    /// Takes a page that was read back, as long as it is one. What is to be read instead, if it isn't what it must be.
    ///
    /// # Errors
    /// If that was read too: the entries can't be had.
    pub(crate) fn finish_page(&mut self, load: &PageLoad) -> Result<Option<PageLoad>, PageLost> {
        let Some(page) = self.index.page(load.end()) else { return Ok(None) };
        if !load.is_of(page) {
            // Trimmed meanwhile, with segments that it needed until then; or a body of it was healed.
            return Ok(Some(PageLoad::new(page, self.places(page), self.salt, self.geometry)));
        }
        self.stats.page_reads_failed += u64::from(load.has_failed());
        if let Some(entries) = load.finish() {
            self.stats.pages_in += 1;
            self.index.keep_loaded(load.end(), entries);
            return Ok(None);
        }
        match PageLoad::without_seals(page, self.places(page), load) {
            Some(again) => Ok(Some(again)),
            None => Err(PageLost),
        }
    }

    /// Where the records of a page lie. A segment that is gone held nothing above the base.
    fn places(&self, page: &Page) -> Vec<Place> {
        places(page, |epoch| {
            let place = self.complete.binary_search_by_key(&epoch, |segment: &Complete| segment.epoch).ok()?;
            let segment = &self.complete[place];
            Some(SegmentPlace { file: segment.file, seal_index: segment.seal_index.as_ref() })
        })
    }

    /// The body that fills `slot`, its entry read back from `store` if it isn't in memory: for checkers and tests. None if
    /// there is no such body, or its entry can't be had.
    pub fn find_in(&self, store: &dyn SegmentStore, slot: Slot) -> Option<IndexEntry> {
        let end = match self.index.find(slot) {
            Lookup::Here(entry) => return Some(entry),
            Lookup::Nowhere => return None,
            Lookup::Paged(end) => end,
        };
        let page = self.index.page(end)?;
        let mut load = self.load_page(end)?;
        loop {
            read_page(store, &mut load);
            if let Some(entries) = load.finish() {
                let found = entries.into_iter().find(|entry| entry.body.first <= slot && slot < entry.body.end())?;
                let again = self.index.get(found.body.first).filter(|again| again.body == found.body);
                return Some(again.map_or(found, |again| IndexEntry { chosen: found.chosen, ..*again }));
            }
            load = PageLoad::without_seals(page, self.places(page), &load)?;
        }
    }
}

/// The entries of a page can't be had from this disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageLost;
