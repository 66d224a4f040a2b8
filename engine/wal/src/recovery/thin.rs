//! Segments in which nothing is wrong: of their records only those are kept that decide anything.
//!
//! A log may have millions of records, and nearly all of them lie in segments that are whole: every record sound and
//! following from the one before, up to the end that the segment's seal or the next header names. All that
//! [`super::verdict`] and [`super::losses`] ask of such a segment shows in its first record, its last one, the first
//! whose writer was sure of its promise, and those that settle losses or give segments up. What the others said of
//! promises, base, time and marks is summed up. Their bodies are read once more when the log is joined, from the
//! index of the seal, or from the records where there is none or packs are involved; a digest tells that they are the
//! same.

use std::collections::BTreeSet;

use synod_frame::RECORD_HEADER_BYTES;
use synod_protocol::{Ballot, Mark, Slot};

use super::chain::{FoundBody, RecordSummary, SegmentScan, scan_segment, sealed_summary};
use super::{RecoverError, RecoverOptions};
use crate::format::{RecordKind, Settled, body_kind_number};
use crate::scan::{Depth, HoleCause, read_index};
use crate::segment::Geometry;
use crate::store::SegmentStore;
use crate::writer::SealIndex;

/// What is known of the records that a thinned scan left out, and of those that it kept.
#[derive(Clone, Debug)]
pub(super) struct Thinned {
    /// How many there are.
    pub(super) records: u64,
    /// The first slot after all their bodies; zero if they have none.
    pub(super) slot_end: Slot,
    /// The same as far as any of the records knew.
    pub(super) slot_end_known: Slot,
    /// The highest promise.
    pub(super) promised: Ballot,
    /// The highest base.
    pub(super) base: Mark,
    /// The highest time.
    pub(super) log_time_us: u64,
    /// The lowest slot of all their marks.
    pub(super) mark_first: Slot,
    /// The highest of their marks.
    pub(super) mark: Mark,
    /// Of a sealed one: how to find a record in its index.
    pub(super) seal_index: Option<SealIndex>,
    /// Whether the index of the seal says all about the bodies.
    by_index: bool,
    digest: u32,
}

/// The records of a thinned segment, read once more.
pub(super) struct Again {
    records: Vec<RecordSummary>,
    packed: Vec<FoundBody>,
}

impl Again {
    /// The records in order, each with its bodies.
    pub(super) fn records(&self) -> impl Iterator<Item = (&RecordSummary, impl Iterator<Item = FoundBody>)> {
        self.records.iter().map(|record| (record, bodies(record, &self.packed)))
    }
}

/// The bodies of a record, in slot order.
pub(super) fn bodies(record: &RecordSummary, packed: &[FoundBody]) -> impl DoubleEndedIterator<Item = FoundBody> {
    let offset = RECORD_HEADER_BYTES as u32;
    let alone = record.body.map(|body| FoundBody { body, offset, is_sound: record.is_sound });
    let (first, end) = record.packed;
    alone.into_iter().chain(packed[first as usize..end as usize].iter().copied())
}

impl SegmentScan {
    /// How many records anything tells of.
    pub(super) fn records_known(&self) -> u64 {
        self.thinned.as_ref().map_or_else(|| self.known().count() as u64, |thinned| thinned.records)
    }

    /// How many of those that count are as they were written.
    pub(super) fn records_sound(&self, cut: bool) -> u64 {
        let sound = || self.kept(cut).filter(|record| record.is_sound).count() as u64;
        self.thinned.as_ref().map_or_else(sound, |thinned| thinned.records)
    }

    /// The first slot after all bodies that count; zero if there are none.
    pub(super) fn slot_end(&self, cut: bool) -> Slot {
        if let Some(thinned) = &self.thinned {
            return thinned.slot_end;
        }
        let bodies = self.kept(cut).filter(|record| record.kind.fills_slots());
        bodies.flat_map(|record| self.bodies(record)).map(|found| found.body.end()).max().unwrap_or(Slot(0))
    }

    /// Whether all that counts of it lies in front of the hole, sound and without a gap.
    pub(super) fn is_whole(&self, cut: bool) -> bool {
        cut || self.later.is_empty()
    }

    /// Of a sealed one that is whole: how to find a record in its index.
    pub(super) fn seal_index(&self, geometry: Geometry, cut: bool) -> Option<SealIndex> {
        if let Some(thinned) = &self.thinned {
            return thinned.seal_index.clone();
        }
        let offsets = self.records.iter().map(|record| record.offset as u32);
        (self.seal.complete && self.is_whole(cut)).then(|| SealIndex::of(geometry, offsets))
    }

    /// Leaves out what decides nothing, if nothing is wrong with the segment.
    pub(super) fn thin(&mut self, geometry: Geometry) {
        let named = self.named_end.is_some_and(|(end, _)| end == self.hole.lsn && self.hole.cause == HoleCause::Stop);
        if !self.later.is_empty() || self.records.len() < 2 || !(named || self.seal.complete) {
            return;
        }
        let offsets = self.records.iter().map(|record| record.offset as u32);
        let seal_index = self.seal.complete.then(|| SealIndex::of(geometry, offsets));
        let mut thinned = Thinned {
            records: self.records.len() as u64,
            slot_end: self.slot_end(false),
            slot_end_known: Slot(0),
            promised: Ballot::ZERO,
            base: Mark::START,
            log_time_us: 0,
            mark_first: Slot(u64::MAX),
            mark: Mark::START,
            by_index: seal_index.is_some() && self.packed.is_empty(),
            seal_index,
            digest: digest(&self.records),
        };
        for record in &self.records {
            thinned.promised = thinned.promised.max(record.promised).max(record.ballot);
            thinned.log_time_us = thinned.log_time_us.max(record.log_time_us);
            thinned.slot_end_known = thinned.slot_end_known.max(record.slot_end);
            thinned.mark_first = thinned.mark_first.min(record.mark.slot);
            for (known, found) in [(&mut thinned.base, record.base), (&mut thinned.mark, record.mark)] {
                if found.slot > known.slot {
                    *known = found;
                }
            }
        }
        self.leave_out();
        self.thinned = Some(thinned);
    }

    fn leave_out(&mut self) {
        let (all, all_packed) = (std::mem::take(&mut self.records), std::mem::take(&mut self.packed));
        let last_with_bodies = all.iter().rposition(|record| record.kind.fills_slots());
        let first_sure = all.iter().position(|record| !record.unsure);
        let other_group = all.iter().position(|record| record.group != all[0].group);
        let places = [Some(0), Some(all.len() - 1), last_with_bodies, first_sure, other_group];
        let configures = |found: &FoundBody| found.body.kind.is_configuration();
        let (mut settled, mut first_needed) = (Settled::default(), 0);
        for (number, record) in all.iter().enumerate() {
            let decides = places.contains(&Some(number))
                || record.first_needed != first_needed
                || record.settled > settled
                || bodies(record, &all_packed).any(|found| configures(&found));
            (settled, first_needed) = (settled.max(record.settled), record.first_needed);
            if !decides {
                continue;
            }
            // Of a pack the last body, and what is asked for besides.
            let start = self.packed.len() as u32;
            let (from, to) = record.packed;
            let packed = &all_packed[from as usize..to as usize];
            let last = packed.len().saturating_sub(1);
            let wanted = packed.iter().enumerate().filter(|(place, found)| *place == last || configures(found));
            self.packed.extend(wanted.map(|(_, found)| *found));
            // All in between follow from each other.
            let previous = self.records.last().map_or(record.previous_checksum, |before| Some(before.checksum));
            let packed = (start, self.packed.len() as u32);
            self.records.push(RecordSummary { previous_checksum: previous, packed, ..*record });
        }
        self.records.shrink_to_fit();
    }

    /// Reads the records of a thinned segment once more. None if they aren't what they were.
    pub(super) fn read_again(
        &self,
        thinned: &Thinned,
        store: &dyn SegmentStore,
        geometry: Geometry,
        options: RecoverOptions,
    ) -> Result<Option<Again>, RecoverError> {
        if thinned.by_index
            && let Some(footer) = &self.seal.footer
            && let Some(index) = read_index(store, self.file, geometry, &self.header, footer)?
        {
            let records: Vec<RecordSummary> = index.iter().map(|sealed| sealed_summary(sealed, true)).collect();
            if digest(&records) == thinned.digest {
                return Ok(Some(Again { records, packed: Vec::new() }));
            }
        }
        self.scan_again(thinned, store, geometry, options)
    }

    /// The same, whatever the seal says.
    fn scan_again(
        &self,
        thinned: &Thinned,
        store: &dyn SegmentStore,
        geometry: Geometry,
        options: RecoverOptions,
    ) -> Result<Option<Again>, RecoverError> {
        let options = RecoverOptions { depth: Depth::Heads, ..options };
        let again = scan_segment(store, geometry, self.file, &self.header, self.named_end, options)?;
        let same = again.later.is_empty() && digest(&again.records) == thinned.digest;
        Ok(same.then_some(Again { records: again.records, packed: again.packed }))
    }

    /// All marks of a thinned segment's records. None if they aren't what they were.
    pub(super) fn read_marks(
        &self,
        thinned: &Thinned,
        store: &dyn SegmentStore,
        geometry: Geometry,
        options: RecoverOptions,
    ) -> Result<Option<BTreeSet<Mark>>, RecoverError> {
        let again = self.scan_again(thinned, store, geometry, options)?;
        Ok(again.map(|again| again.records.iter().map(|record| record.mark).collect()))
    }
}

/// Tells records from others: by place, content and body.
fn digest(records: &[RecordSummary]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for record in records {
        hasher.update(&record.offset.to_le_bytes());
        hasher.update(&record.record_bytes.to_le_bytes());
        hasher.update(&record.checksum.to_le_bytes());
        hasher.update(&record.kind.number().to_le_bytes());
        hasher.update(&record.ballot.round.to_le_bytes());
        hasher.update(&record.ballot.node.0.to_le_bytes());
        hasher.update(&record.ballot.boot.to_le_bytes());
        if let Some(body) = record.body.filter(|_| record.kind != RecordKind::Pack) {
            hasher.update(&body.first.0.to_le_bytes());
            hasher.update(&body.count.to_le_bytes());
            hasher.update(&body.bytes.to_le_bytes());
            hasher.update(&body.id.0.to_le_bytes());
            let (kind, argument) = body_kind_number(body.kind);
            hasher.update(&kind.to_le_bytes());
            hasher.update(&argument.to_le_bytes());
        }
    }
    hasher.finalize()
}
