//! What damage may have taken away: for which slots an acceptor must not vote as if it had accepted nothing, and whether
//! it may have forgotten a promise.
//!
//! Every record names the checksum of the one before it, so between two known records nothing is missing if the second
//! names the first. Where that chain breaks, accepts may be lost. The next record that is known says how high the lost
//! ballots, and how far the lost slots, can have been: it was laid out by a process that knew what is lost now. Behind
//! the last record nothing says so, and the lost records may have held a promise as well.
//!
//! A process that opens a log with such an end says so in the header of its first segment, which bounds nothing: that
//! process didn't know what was lost. Only a record written once it was sure of its promise again does.
//!
//! Once the core has no doubts left, records say how far losses are *settled*: every accept before the record that bounds a
//! loss lies below the chosen prefix by then, or at a ballot below that of a leader who found nothing chosen there. So
//! what is found to be missing there, now or later, leaves doubt only below that prefix, if it isn't known any more.

use synod_protocol::{Ballot, Doubt, NodeId, Slot};

use super::chain::{Files, RecordSummary, SegmentScan};
use super::verdict::Verdict;
use crate::format::Settled;
use crate::lsn::Lsn;
use crate::segment::BLOCK;

/// See the module documentation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Losses {
    pub(super) doubts: Vec<Doubt>,
    pub(super) unsure: bool,
    /// Records may be missing behind the last one.
    pub(super) end_lost: bool,
    /// No record bounds the last loss yet.
    pub(super) end_open: bool,
    /// What was lost matters up to here only, as a record says.
    pub(super) settled: Settled,
    /// Records before this position are meant once the doubts named here are settled.
    pub(super) settles_at: Lsn,
    /// From this segment on all must be kept, for the next recovery to come to the same conclusions.
    pub(super) pinned: Option<u64>,
}

/// Above every ballot: nothing bounds what was lost.
const UNBOUNDED: Ballot = Ballot { round: u64::MAX, node: NodeId(u32::MAX), boot: u64::MAX };

/// Records that may be missing.
#[derive(Clone, Copy)]
struct Break {
    /// Nothing is known to be missing if the next record follows the last one.
    tentative: bool,
    /// A header says, or may have said, that what follows was written without knowledge of what is missing.
    named: bool,
    /// The promise in a header that was laid out after a recovery which knew what is missing.
    header: Option<Ballot>,
    /// The first segment that must be kept for the next recovery to find it.
    pin: u64,
}

pub(super) fn assess(files: &Files, scans: &[SegmentScan], verdict: &Verdict) -> Losses {
    let mut losses = Losses::default();
    let kept = || scans[verdict.start..=verdict.last].iter().flat_map(SegmentScan::known);
    losses.settled = kept().map(|record| record.settled).max().unwrap_or_default();
    let mut last = verdict.previous;
    let mut last_epoch = scans[verdict.start].header.epoch;
    let mut open: Option<Break> = None;
    let begun = |tentative, named, pin| Break { tentative, named, header: None, pin };
    for (index, scan) in scans.iter().enumerate().take(verdict.last + 1).skip(verdict.start) {
        let epoch = scan.header.epoch;
        let is_last = index == verdict.last;
        if let Some(missing) = scan.missing_before.filter(|missing| *missing >= verdict.first_needed) {
            // That it is missing shows only as long as it is needed.
            let broken = open.get_or_insert(begun(false, true, missing));
            (broken.tentative, broken.named) = (false, true);
            // What a header says of records that nobody has read proves nothing.
            last = None;
        }
        // A header that was lost, or that of a segment that is missing, may have said so.
        if scan.header.before_lost || files.rebuilt.contains(&epoch) {
            open = Some(begun(false, true, open.map_or(epoch, |broken| broken.pin.min(epoch))));
        } else if scan.header.before_end != Lsn::ZERO
            && let (Some(broken), Some(state)) = (&mut open, scan.header.groups.first())
        {
            broken.header = Some(state.promised);
        }
        // What a record follows that only the seal names isn't known: within the segment the one named before it, but the
        // segment before it may have had more records, unless that says otherwise.
        let before = index.checked_sub(1).filter(|_| index > verdict.start).map(|before| &scans[before]);
        let mut at_seam = before.is_some_and(|before| !last.is_some_and(|last| ends_with(before, last)));
        for record in scan.kept(verdict.cut && is_last) {
            let follows = match record.previous_checksum {
                // What the segment before ended with may be given up; but this segment has a beginning of its own.
                Some(previous) => last.map_or(record.offset == BLOCK, |last| last == previous),
                None => !at_seam,
            };
            at_seam = false;
            if !follows {
                open.get_or_insert(begun(false, false, last_epoch)).tentative = false;
            }
            let proven = record.previous_checksum.is_some() && record.previous_checksum == last;
            open = open.filter(|broken| !(broken.tentative && proven));
            // Whoever comes next shows nothing of what came before this one.
            open = open.map(|broken| Break { tentative: false, ..broken });
            // Who was unsure may have been so for want of these very records.
            let unsure = record.is_read && record.unsure;
            open = open.map(|broken| Break { named: broken.named || unsure, ..broken });
            if let Some(broken) = open.filter(|_| record.is_read && !record.unsure) {
                let end = if broken.named { Doubt::OPEN } else { record.slot_end };
                let at = Lsn::new(epoch, scan.segment_bytes, record.offset);
                let end = if at <= losses.settled.before { end.min(losses.settled.slot) } else { end };
                let bound = record.promised.max(record.ballot);
                losses.doubt(&broken, Doubt { first: Slot::FIRST, end, bound });
                losses.settles_at = losses.settles_at.max(at);
                open = None;
            }
            last = Some(record.checksum);
            last_epoch = epoch;
        }
        if verdict.open_ended.contains(&index) {
            // What the segment's header says bounds what was lost in front of it, not behind it.
            open.get_or_insert(begun(true, false, epoch)).header = None;
        }
    }
    // A segment that is missing is what a lost file held, unless it was missing before: then the file was made anew since.
    let missing = missing_segments(scans, verdict);
    let missing_before = files.all_headers().map(|header| header.missing as usize).max().unwrap_or(0);
    let files_unexplained = files.unexplained > missing.saturating_sub(missing_before);
    if files_unexplained && open.is_none() {
        open = Some(begun(true, false, scans[verdict.last].header.epoch));
    }
    if let Some(broken) = open {
        let bound = broken.header.filter(|_| !broken.named && !files_unexplained);
        losses.end_open = true;
        losses.end_lost = bound.is_none();
        losses.doubt(&broken, Doubt { first: Slot::FIRST, end: Doubt::OPEN, bound: bound.unwrap_or(UNBOUNDED) });
    }
    losses.unsure = losses.end_lost || is_still_unsure(files, scans, verdict);
    losses
}

/// How many segments are missing that weren't given up.
pub(super) fn missing_segments(scans: &[SegmentScan], verdict: &Verdict) -> usize {
    let is_needed = |epoch: u64| epoch >= verdict.first_needed;
    scans.iter().filter(|scan| scan.missing_before.is_some_and(is_needed)).count()
}

impl Losses {
    fn doubt(&mut self, broken: &Break, doubt: Doubt) {
        self.doubts.push(doubt);
        self.pinned = Some(self.pinned.map_or(broken.pin, |pinned| pinned.min(broken.pin)));
    }
}

/// Whether the segment says itself, or the header behind it does, that the record with this checksum is its last one.
fn ends_with(scan: &SegmentScan, last: u32) -> bool {
    scan.seal.witness.is_some_and(|witness| witness.last_checksum == last)
        || scan.named_end.is_some_and(|(_, checksum)| checksum == last)
}

/// Whether the last process that was unsure of its promise never became sure, nor any after it.
fn is_still_unsure(files: &Files, scans: &[SegmentScan], verdict: &Verdict) -> bool {
    let unsure = files.all_headers().filter(|header| header.unsure).map(|header| header.identity.boot_counter).max();
    let Some(boot) = unsure else { return false };
    let kept = &scans[verdict.start..=verdict.last];
    let is_sure = |record: &RecordSummary| record.is_read && !record.unsure;
    !kept.iter().any(|scan| scan.header.identity.boot_counter >= boot && scan.known().any(is_sure))
}
