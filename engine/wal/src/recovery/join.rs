//! The join: what the kept records say together, whatever their order.

use std::collections::BTreeSet;

use synod_frame::GroupId;
use synod_protocol::{Ballot, BodyHandle, Doubt, Mark, Slot};

use super::RecoverError;
use super::chain::{Files, FoundBody, RecordSummary, SegmentScan};
use super::pager::{Disk, JoinError, Pager};
use super::verdict::Verdict;
use crate::format::{RecordKind, StoredConfiguration};
use crate::index::{Index, IndexEntry, Insert, Location, Lookup};
use crate::lsn::FileId;

/// What the log says.
#[derive(Debug, Default)]
pub(super) struct Joined {
    pub(super) group: Option<GroupId>,
    pub(super) promised: Ballot,
    pub(super) mark: Mark,
    pub(super) index: Index,
    pub(super) configuration: Option<StoredConfiguration>,
    pub(super) configuration_trimmed: Option<Slot>,
    pub(super) log_time_us: u64,
    /// The first slot after all bodies that were ever in the log.
    pub(super) slot_end: Slot,
    /// Chosen bodies whose bytes are lost.
    pub(super) damaged: Vec<BodyHandle>,
    /// Accepts whose bytes are lost: nobody could be given them.
    pub(super) doubts: Vec<Doubt>,
    /// The first segment that holds one of those.
    pub(super) pinned: Option<u64>,
}

/// Joins the kept records and every header there is. Headers count even if their segment is discarded: what they say
/// was acted upon (files given up below their base), and knowing more is always safe.
///
/// # Errors
/// If records contradict each other; or if a segment can't be read again as it was.
pub(super) fn join(
    files: &Files,
    scans: &[SegmentScan],
    verdict: &Verdict,
    disk: &Disk<'_>,
) -> Result<Joined, JoinError> {
    let kept = &scans[verdict.start..=verdict.last];
    let records = || records(kept, verdict.cut);
    let mut joined = Joined::default();
    let mut base = Mark::START;
    let mut marks = BTreeSet::new();
    for header in files.all_headers() {
        joined.log_time_us = joined.log_time_us.max(header.log_time_us);
        for state in &header.groups {
            joined.group = Some(state.group);
            joined.promised = joined.promised.max(state.promised);
            base = later(base, state.base);
            marks.insert(state.mark);
        }
        offer(&mut joined.configuration, header.configuration.as_ref());
    }
    for (scan, record) in records() {
        let file = scan.file;
        let expected = *joined.group.get_or_insert(record.group);
        if expected != record.group {
            let other = RecoverError::OtherGroup { file, offset: record.offset, found: record.group, expected };
            return Err(other.into());
        }
        joined.promised = joined.promised.max(record.promised).max(record.ballot);
        joined.log_time_us = joined.log_time_us.max(record.log_time_us);
        base = later(base, record.base);
        marks.insert(record.mark);
        joined.slot_end = joined.slot_end.max(record.slot_end);
        if record.kind.fills_slots() {
            let ends = scan.bodies(record).map(|found| found.body.end());
            joined.slot_end = ends.fold(joined.slot_end, Slot::max);
        }
    }
    for thinned in kept.iter().filter_map(|scan| scan.thinned.as_ref()) {
        joined.promised = joined.promised.max(thinned.promised);
        joined.log_time_us = joined.log_time_us.max(thinned.log_time_us);
        joined.slot_end = joined.slot_end.max(thinned.slot_end).max(thinned.slot_end_known);
        base = later(base, thinned.base);
        marks.insert(thinned.mark);
    }
    for scan in kept {
        if let Some(footer) = &scan.seal.footer {
            joined.promised = joined.promised.max(footer.promised);
            base = later(base, footer.base);
            marks.insert(footer.mark);
        }
        offer(&mut joined.configuration, scan.configuration.as_ref());
    }

    joined.index = Index::new(base);
    joined.mark = base;
    let pager = Pager::new(kept, disk);
    for (number, scan) in kept.iter().enumerate() {
        if let Some(thinned) = &scan.thinned {
            let again = scan.read_again(thinned, disk.store, disk.geometry, disk.options)?;
            let again = again.ok_or(JoinError::Changed(scan.header.epoch))?;
            for (record, bodies) in again.records() {
                insert(&mut joined.index, &pager, scan.file, record, bodies)?;
            }
        } else {
            let cut = verdict.cut && number + 1 == kept.len();
            for record in scan.kept(cut) {
                insert(&mut joined.index, &pager, scan.file, record, scan.bodies(record))?;
            }
        }
        if pager.is_due(&joined.index) {
            joined.mark = prove_marks_from(&mut joined.index, joined.mark, &marks);
            pager.page_out(&mut joined.index);
        }
    }
    joined.mark = prove_marks_from(&mut joined.index, joined.mark, &marks);
    joined.prove_by_all_marks(kept, marks, disk)?;
    for (scan, record) in records().filter(|(_, record)| !record.is_sound && record.kind.fills_slots()) {
        for found in scan.bodies(record).filter(|found| !found.is_sound) {
            joined.part_with(scan, record, found.body);
        }
        joined.miss_packed(scan, record);
    }
    if !verdict.damages.is_empty() || !files.damages.is_empty() {
        joined.doubt_unreachable();
    }
    let ruling = joined.configuration.as_ref().map(|configuration| configuration.slot);
    let trimmed = records()
        .flat_map(|(scan, record)| scan.bodies(record))
        .map(|found| found.body)
        .filter(|body| body.kind.is_configuration() && body.first >= Slot::FIRST && body.end() <= base.slot);
    joined.configuration_trimmed = trimmed.map(|body| body.first).max().filter(|slot| Some(*slot) > ruling);
    Ok(joined)
}

fn records(kept: &[SegmentScan], cut: bool) -> impl Iterator<Item = (&SegmentScan, &RecordSummary)> {
    let last = kept.len() - 1;
    kept.iter().enumerate().flat_map(move |(index, scan)| {
        let cut = cut && index == last;
        scan.kept(cut).map(move |record| (scan, record))
    })
}

impl Joined {
    /// Of thinned segments only the highest marks were tried. Where bodies are missing, those may be out of reach, and lower
    /// ones may not: then all marks of those segments are.
    fn prove_by_all_marks(
        &mut self,
        kept: &[SegmentScan],
        mut marks: BTreeSet<Mark>,
        disk: &Disk<'_>,
    ) -> Result<(), JoinError> {
        let mut reach = self.mark.slot;
        for entry in self.index.iter_from(reach) {
            if entry.body.first != reach {
                break;
            }
            reach = entry.body.end();
        }
        for scan in kept {
            let Some(thinned) = &scan.thinned else { continue };
            if thinned.mark.slot > self.mark.slot && thinned.mark_first <= reach {
                let all = scan.read_marks(thinned, disk.store, disk.geometry, disk.options)?;
                marks.append(&mut all.ok_or(JoinError::Changed(scan.header.epoch))?);
            }
        }
        self.mark = prove_marks_from(&mut self.index, self.mark, &marks);
        Ok(())
    }

    /// Sees to the bodies of a pack of which not even the identity is known. They were chosen, and this acceptor may have
    /// voted for them before they were packed: where nothing else tells what was chosen, it must not say that it hasn't.
    fn miss_packed(&mut self, scan: &SegmentScan, record: &RecordSummary) {
        let Some(pack) = record.pack else { return };
        // Nobody votes above what was promised, and promises are in every record.
        let bound = self.promised;
        let mut next = pack.first.max(self.mark.slot);
        let known = self.index.iter_from(next).filter(|entry| entry.is_chosen()).map(|entry| entry.body);
        let known: Vec<BodyHandle> = known.take_while(|body| body.first < pack.end).collect();
        let ends = known.iter().map(|body| (body.first, body.end())).chain([(pack.end, pack.end)]);
        for (first, end) in ends {
            if first > next {
                self.doubts.push(Doubt { first: next, end: first, bound });
                self.pin(scan.header.epoch);
            }
            next = next.max(end);
        }
    }

    /// Behind a gap that damage made, what is recorded as chosen can't be counted among the chosen prefix. This acceptor may have voted for it,
    /// and its ballot isn't known any more: then it must not say that it hasn't.
    fn doubt_unreachable(&mut self) {
        let entries = self.index.iter_from(self.mark.slot).filter(|entry| entry.ballot.is_zero());
        let mut unreachable: Vec<Doubt> = Vec::new();
        for body in entries.map(|entry| entry.body) {
            match unreachable.last_mut().filter(|last| last.end == body.first) {
                Some(last) => last.end = body.end(),
                None => unreachable.push(Doubt { first: body.first, end: body.end(), bound: self.promised }),
            }
        }
        self.doubts.append(&mut unreachable);
    }

    fn pin(&mut self, epoch: u64) {
        self.pinned = Some(self.pinned.map_or(epoch, |pinned| pinned.min(epoch)));
    }

    /// Sees to a body whose bytes are lost: chosen, it can be had from others; accepted, it is in doubt, for a candidate
    /// that was told of it might find nobody to give it the bytes.
    fn part_with(&mut self, scan: &SegmentScan, record: &RecordSummary, body: BodyHandle) {
        let here = |entry: &&IndexEntry| entry.location.file == scan.file && entry.location.offset == record.offset;
        let Some(entry) = self.index.get(body.first).filter(here).copied() else { return };
        if entry.chosen.is_some() {
            return self.damaged.push(body);
        }
        self.index.remove(body.first);
        // Compaction keeps no ballot of what is chosen.
        let bound = if entry.ballot.is_zero() { self.promised } else { entry.ballot };
        self.doubts.push(Doubt { first: body.first, end: body.end(), bound });
        self.pin(scan.header.epoch);
    }
}

fn later(one: Mark, other: Mark) -> Mark {
    if other.slot > one.slot { other } else { one }
}

fn offer(known: &mut Option<StoredConfiguration>, offered: Option<&StoredConfiguration>) {
    if let Some(offered) = offered
        && known.as_ref().is_none_or(|known| known.slot < offered.slot)
    {
        *known = Some(offered.clone());
    }
}

fn insert(
    index: &mut Index,
    pager: &Pager<'_>,
    file: FileId,
    record: &RecordSummary,
    bodies: impl Iterator<Item = FoundBody>,
) -> Result<(), JoinError> {
    if !record.kind.fills_slots() {
        return Ok(());
    }
    let offset = record.offset;
    for found in bodies {
        let body = found.body;
        let mut location = Location { file, offset, record_bytes: record.record_bytes, body_offset: found.offset };
        pager.load(index, &body)?;
        if !found.is_sound
            && let Lookup::Here(known) = index.find(body.first)
            && known.body == body
        {
            // An earlier record has the same bytes.
            location = known.location;
        }
        let inserted = match record.kind {
            RecordKind::Accepted => index.insert_accepted(body, record.ballot, location),
            _ => index.insert_chosen(body, location),
        };
        if let Insert::Conflict(other) = inserted {
            return Err(RecoverError::Conflict { file, offset, other }.into());
        }
    }
    Ok(())
}

/// Finds the highest mark whose chain runs over the bodies that are there, and notes which of them it covers.
///
/// A mark is written down as soon as it is known, so it may cover bodies that were cut off: those don't count.
pub(crate) fn prove_marks(index: &mut Index, marks: &BTreeSet<Mark>) -> Mark {
    let base = index.base();
    prove_marks_from(index, base, marks)
}

/// The same from a mark that is proven already.
fn prove_marks_from(index: &mut Index, from: Mark, marks: &BTreeSet<Mark>) -> Mark {
    let mut walked = vec![from];
    let mut proven = 0;
    for entry in index.iter_from(from.slot) {
        let before = *walked.last().expect("it begins with the base");
        if entry.body.first != before.slot {
            break;
        }
        let mark = before.after(&entry.body);
        walked.push(mark);
        // A body that was recorded as chosen extends the prefix that it follows.
        let extends = entry.recorded_chosen && proven + 2 == walked.len();
        if extends || marks.contains(&mark) {
            proven = walked.len() - 1;
        }
    }
    for pair in walked[..=proven].windows(2) {
        index.mark_chosen(pair[0].slot, pair[1].chain);
    }
    walked[proven]
}
