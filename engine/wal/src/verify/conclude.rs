//! The segments put together: what is proven to have been durable, and so what each finding is.

use std::collections::{BTreeMap, BTreeSet};

use synod_protocol::{Ballot, BodyHandle, Mark, Slot, SlotRange};

use super::segment::{Gap, Problem, Summary as RecordSummary, marks, slots_around};
use super::{Class, Finding, SegmentCheck};
use crate::index::{Index, Insert, Location};
use crate::lsn::Lsn;
use crate::recovery::prove_marks;
use crate::segment::Geometry;

/// What a log says as a whole, as far as it can be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Segments that the log needs, up to the last one with records.
    pub segments: u64,
    /// Valid records in them.
    pub records: u64,
    /// The trimmed prefix.
    pub base: Mark,
    /// The chosen prefix that the bodies prove.
    pub mark: Mark,
    /// The highest promise.
    pub promised: Ballot,
    /// Everything before this was durable for certain.
    pub proven: Lsn,
    /// Valid records behind an unfinished write, which recovery discards.
    pub records_discarded: u64,
}

/// What was found, and what the log says.
#[derive(Clone, Debug, Default)]
pub struct Conclusion {
    /// In the order of the log.
    pub findings: Vec<Finding>,
    /// What the log says.
    pub summary: Summary,
    /// The bodies at or above the base; those below the mark have a chain.
    pub index: Index,
}

/// Puts the segments of a log together. `checks` are in the order of the log, from the first that any header needs;
/// `missing` are epochs that headers name and no file has. With `live`, a node may have been writing meanwhile: then
/// what is unfinished at the end is being written.
pub fn conclude(geometry: Geometry, mut checks: Vec<SegmentCheck>, missing: &[u64], live: bool) -> Conclusion {
    checks.retain(|check| !check.given_up);
    let named = checks.iter().map(|check| check.header.first_needed).max().unwrap_or(0);
    // A record may say that more is given up than any header says, and those files may be zeroed already. It counts if
    // it is itself kept: so try the highest such claim first, one for each segment that the log could begin with.
    let claims = checks.iter().flat_map(|check| &check.records).map(|record| record.header.first_needed);
    let mut starts: BTreeMap<usize, u64> = BTreeMap::new();
    for claim in claims.filter(|claim| *claim > named) {
        let start = checks.partition_point(|check| check.header.epoch < claim);
        let lowest = starts.entry(start).or_insert(claim);
        *lowest = claim.min(*lowest);
    }
    for (start, claim) in starts.into_iter().rev().filter(|(start, _)| *start < checks.len()) {
        let (conclusion, kept) = conclude_from(geometry, &checks[start..], missing, claim, live);
        if kept >= claim {
            return conclusion;
        }
    }
    let start = checks.partition_point(|check| check.header.epoch < named);
    conclude_from(geometry, &checks[start..], missing, named, live).0
}

/// The conclusion if the log begins here, and what its kept records say is the first segment that is needed.
fn conclude_from(
    geometry: Geometry,
    checks: &[SegmentCheck],
    missing: &[u64],
    first_needed: u64,
    live: bool,
) -> (Conclusion, u64) {
    let proof = checks.iter().map(|check| check.proof).max().unwrap_or(Lsn::ZERO);
    let mut concluding = Concluding { geometry, checks, proof, live, findings: Vec::new() };
    let cut = concluding.segments();
    for epoch in missing.iter().copied().filter(|epoch| *epoch >= first_needed) {
        concluding.missing(epoch);
    }
    let (summary, index) = concluding.summary(cut);
    concluding.tell_healed(&summary);
    let kept = (checks.iter().enumerate())
        .flat_map(|(place, check)| &check.records[..kept(cut, place, check)])
        .map(|record| record.header.first_needed);
    let kept = kept.max().unwrap_or(0);
    let mut findings = concluding.findings;
    findings.sort_by_key(|finding| finding.lsn);
    (Conclusion { findings, summary, index }, kept)
}

/// The records that count: all before this segment, and so many in it.
type Cut = Option<(usize, usize)>;

/// How many records of a segment count.
fn kept(cut: Cut, place: usize, check: &SegmentCheck) -> usize {
    match cut {
        Some((segment, _)) if place > segment => 0,
        Some((segment, records)) if place == segment => records,
        _ => check.records.len(),
    }
}

struct Concluding<'a> {
    geometry: Geometry,
    checks: &'a [SegmentCheck],
    proof: Lsn,
    live: bool,
    findings: Vec<Finding>,
}

impl Concluding<'_> {
    /// Looks at every segment; where the log is cut, if it is.
    fn segments(&mut self) -> Cut {
        let mut cut: Cut = None;
        let mut previous = self.checks.first().and_then(|check| match &check.header {
            header if header.before_end != Lsn::ZERO => Some(header.before_checksum),
            header if header.before_epoch == 0 => Some(0),
            _ => None,
        });
        for (place, check) in self.checks.iter().enumerate() {
            if cut.is_some_and(|(segment, _)| segment < place) {
                // Never durable, whatever it holds; the node writes it anew.
                break;
            }
            self.follows(check, previous);
            for gap in &check.gaps {
                let class = self.class(self.at(check, gap.offset), gap.torn);
                let behind = self.records_behind(place, gap);
                let mut problem = gap.problem.clone();
                if class == Class::Torn && behind > 0 {
                    problem.what =
                        format!("{}; with it {behind} sound records behind it are cut, never durable", problem.what);
                }
                let slots = gap.slots.clone().or_else(|| self.slots(place, gap.records_before));
                // Nothing that was durable can be behind an unfinished write. Damage cuts nothing.
                if class == Class::Torn && cut.is_none() {
                    cut = Some((place, gap.records_before));
                }
                self.find(check, class, gap.offset, slots, problem);
            }
            if let Some((offset, what)) = &check.unreadable {
                let class = self.class(self.at(check, *offset), false);
                let slots = self.slots(place, check.records.len());
                self.find(check, class, *offset, slots, Problem { what: what.clone(), ..Problem::default() });
            }
            let ends_in_order =
                check.unreadable.is_none() && check.gaps.last().is_none_or(|gap| gap.offset < check.end);
            if ends_in_order && cut.is_none_or(|(segment, _)| segment == place) {
                self.end(place, check);
                if cut.is_none() && !self.goes_on(place, check) {
                    cut = Some((place, check.records.len()));
                    self.discards(place, check);
                }
            }
            previous = if ends_in_order {
                check.records.last().map(|record| record.header.checksum).or(previous)
            } else {
                None
            };
            if check.seal.complete || !self.is_named(place) {
                self.findings.extend(check.latent.iter().cloned());
            }
        }
        cut
    }

    fn at(&self, check: &SegmentCheck, offset: u64) -> Lsn {
        Lsn::new(check.header.epoch, self.geometry.segment_bytes(), offset)
    }

    fn class(&self, lsn: Lsn, torn: bool) -> Class {
        if self.proof > lsn {
            Class::Corrupt
        } else if torn || self.live {
            Class::Torn
        } else {
            Class::Doubtful
        }
    }

    fn find(&mut self, check: &SegmentCheck, class: Class, offset: u64, slots: Option<SlotRange>, problem: Problem) {
        let Problem { what, expected, actual } = problem;
        let lsn = self.at(check, offset);
        self.findings.push(Finding { class, file: Some(check.file), offset, lsn, slots, what, expected, actual });
    }

    fn records_behind(&self, place: usize, gap: &Gap) -> u64 {
        let later: u64 = self.checks[place + 1..].iter().map(SegmentCheck::records).sum();
        later + (self.checks[place].records.len() - gap.records_before) as u64
    }

    /// The slots between the bodies around a place in a segment's records.
    fn slots(&self, place: usize, records_before: usize) -> Option<SlotRange> {
        let (before, after) = slots_around(&self.checks[place].records, records_before);
        let end_of = |check: &SegmentCheck| slots_around(&check.records, check.records.len()).0;
        let first_of = |check: &SegmentCheck| slots_around(&check.records, 0).1;
        let before = before.or_else(|| self.checks[..place].iter().rev().find_map(end_of)).unwrap_or(Slot::FIRST);
        let footer = self.checks[place].seal.footer.map(|footer| footer.slot_end);
        let after =
            after.or_else(|| self.checks[place + 1..].iter().find_map(first_of)).or(footer).unwrap_or(Slot(u64::MAX));
        (before < after).then_some(before..after)
    }

    /// The first record must follow the last one of the segment before.
    fn follows(&mut self, check: &SegmentCheck, previous: Option<u32>) {
        let first = check.records.first().filter(|record| record.offset == self.geometry.records_offset());
        let (Some(expected), Some(record)) = (previous, first) else { return };
        let found = record.header.previous_checksum;
        if found != expected {
            let problem = Problem {
                what: "the first record doesn't follow the last one of the segment before".to_owned(),
                expected: Some(format!("{expected:#010x}")),
                actual: Some(format!("{found:#010x}")),
            };
            let class = self.class(self.at(check, record.offset), false);
            self.find(check, class, record.offset, record.slots(), problem);
        }
    }

    fn next(&self, place: usize) -> Option<&SegmentCheck> {
        let epoch = self.checks[place].header.epoch;
        self.checks.get(place + 1).filter(|next| next.header.before_epoch == epoch)
    }

    /// Whether the next segment says where this one ends.
    fn is_named(&self, place: usize) -> bool {
        self.next(place).is_some_and(|next| next.header.before_end != Lsn::ZERO)
    }

    /// The records of a segment end without a gap: they must end where they should.
    fn end(&mut self, place: usize, check: &SegmentCheck) {
        let end = self.at(check, check.end);
        let last = check.records.last().map(|record| record.header.checksum);
        let problem = |what: &str, expected: Option<String>, actual: Option<String>| Problem {
            what: what.to_owned(),
            expected,
            actual,
        };
        let ends_at = |lsn: Lsn| Some(format!("end at {lsn}"));
        let slots = self.slots(place, check.records.len());
        if let Some(next) = self.next(place).filter(|next| next.header.before_end != Lsn::ZERO) {
            let (named, checksum) = (next.header.before_end, next.header.before_checksum);
            if named != end {
                let what = "the records end elsewhere than the next segment says";
                self.find(check, Class::Corrupt, check.end, slots, problem(what, ends_at(named), ends_at(end)));
            } else if last.is_some_and(|last| last != checksum) {
                let what = "the last record isn't the one that the next segment names";
                let actual = last.map(|last| format!("{last:#010x}"));
                let expected = Some(format!("{checksum:#010x}"));
                self.find(check, Class::Corrupt, check.end, slots, problem(what, expected, actual));
            }
            return;
        }
        let Some(witness) = check.seal.witness else {
            if self.proof > end {
                self.find(check, Class::Corrupt, check.end, slots, problem("records are missing", None, ends_at(end)));
            }
            return;
        };
        if witness.records_end != end || last.is_some_and(|last| last != witness.last_checksum) {
            let what = "the records end elsewhere than the seal says";
            let class = self.class(end, false);
            return self.find(
                check,
                class,
                check.end,
                slots,
                problem(what, ends_at(witness.records_end), ends_at(end)),
            );
        }
        if check.seal.complete {
            if self.next(place).is_none() && place + 1 == self.checks.len() && !self.live {
                let what = "the segment is sealed, but the one after it is missing";
                self.find(check, Class::Corrupt, check.end, slots, problem(what, None, None));
            }
            return;
        }
        // Every record is there; what is behind them isn't.
        let class = if self.proof > end {
            Class::Latent
        } else if check.seal.damaged && !self.live {
            Class::Doubtful
        } else {
            Class::Torn
        };
        if class == Class::Torn {
            let (offset, _) = check.seal_blocks_bad.first().cloned().unwrap_or((check.end, Problem::default()));
            return self.find(check, class, offset, None, problem("the segment was being sealed", None, None));
        }
        for (offset, bad) in check.seal_blocks_bad.clone() {
            let bad = Problem { what: format!("the segment's seal is damaged: {}", bad.what), ..bad };
            self.find(check, class, offset, None, bad);
        }
    }

    /// Whether records of later segments count: nothing in them was durable before this one was sealed, unless its end
    /// is named.
    fn goes_on(&self, place: usize, check: &SegmentCheck) -> bool {
        let end = self.at(check, check.end);
        let sealed = check.seal.complete && check.seal.witness.is_some_and(|witness| witness.records_end == end);
        self.is_named(place) || sealed || self.proof > end
    }

    fn discards(&mut self, place: usize, check: &SegmentCheck) {
        let behind: u64 = self.checks[place + 1..].iter().map(SegmentCheck::records).sum();
        if behind > 0 {
            let what = format!("the log ends here; {behind} sound records of later segments are cut, never durable");
            self.find(check, Class::Torn, check.end, None, Problem { what, ..Problem::default() });
        }
    }

    fn missing(&mut self, epoch: u64) {
        let after = self.checks.partition_point(|check| check.header.epoch < epoch);
        let end_of = |check: &SegmentCheck| slots_around(&check.records, check.records.len()).0;
        let first_of = |check: &SegmentCheck| slots_around(&check.records, 0).1;
        let before = self.checks[..after].iter().rev().find_map(end_of).unwrap_or(Slot::FIRST);
        let next = self.checks[after..].iter().find_map(first_of).unwrap_or(Slot(u64::MAX));
        self.findings.push(Finding {
            class: Class::Corrupt,
            file: None,
            offset: 0,
            lsn: Lsn::new(epoch, self.geometry.segment_bytes(), 0),
            slots: (before < next).then_some(before..next),
            what: format!("segment {epoch} is missing"),
            expected: None,
            actual: None,
        });
    }

    /// What was lost may be there again: damage stays where it is until the log is trimmed past it.
    fn tell_healed(&mut self, summary: &Summary) {
        let held = summary.base.slot..summary.mark.slot;
        for finding in self.findings.iter_mut().filter(|finding| finding.class >= Class::Doubtful) {
            let Some(slots) = &finding.slots else { continue };
            if slots.end <= held.start {
                finding.what.push_str("; these slots are trimmed since");
            } else if slots.start >= held.start && slots.end <= held.end {
                finding.what.push_str("; the node has these slots again in other records");
            }
        }
    }

    /// The join of the records that count, as recovery makes it.
    fn summary(&mut self, cut: Cut) -> (Summary, Index) {
        let kept = |place: usize, check: &SegmentCheck| kept(cut, place, check);
        let headers = self.checks.iter().flat_map(|check| &check.header.groups);
        // One behind the end is prepared, and holds nothing yet.
        let used = |(place, check): (usize, &SegmentCheck)| kept(place, check) > 0;
        let segments = self.checks.iter().enumerate().rposition(used).map_or(0, |last| last as u64 + 1);
        let mut summary = Summary { segments, proven: self.proof, ..Summary::default() };
        let mut known: BTreeSet<Mark> = BTreeSet::new();
        let mut base = Mark::START;
        for state in headers {
            summary.promised = summary.promised.max(state.promised);
            known.insert(state.mark);
            base = if state.base.slot > base.slot { state.base } else { base };
        }
        let records: Vec<(&SegmentCheck, &RecordSummary)> = (self.checks.iter().enumerate())
            .flat_map(|(place, check)| check.records[..kept(place, check)].iter().map(move |record| (check, record)))
            .collect();
        for (place, check) in self.checks.iter().enumerate() {
            let kept = kept(place, check);
            known.extend(marks(&check.records[..kept]));
            summary.records_discarded += (check.records.len() - kept) as u64;
        }
        let last = cut.map_or(self.checks.len(), |(segment, _)| segment + 1);
        for footer in self.checks[..last].iter().filter_map(|check| check.seal.footer) {
            summary.promised = summary.promised.max(footer.promised);
            known.insert(footer.mark);
            base = if footer.base.slot > base.slot { footer.base } else { base };
        }
        for (_, record) in &records {
            let meta = &record.header.meta;
            summary.promised = summary.promised.max(meta.promised).max(meta.ballot);
            base = if record.header.base.slot > base.slot { record.header.base } else { base };
        }
        summary.records = records.len() as u64;
        let mut index = Index::new(base);
        let mut bodies: Vec<(&RecordSummary, BodyHandle, Location)> = Vec::new();
        for (check, record) in records.iter().filter(|(_, record)| record.header.meta.kind.fills_slots()) {
            let location = Location::alone(check.file, record.offset, record.header.record_bytes);
            bodies.extend(record.body.map(|body| (*record, body, location)));
            let packed = record.pack.and_then(|_| check.packed.get(&record.offset)).into_iter().flatten();
            bodies.extend(
                packed.map(|(body, body_offset)| (*record, *body, Location { body_offset: *body_offset, ..location })),
            );
        }
        for (record, body, location) in bodies {
            let (meta, file) = (&record.header.meta, location.file);
            let inserted = if meta.kind.is_chosen() {
                index.insert_chosen(body, location)
            } else {
                index.insert_accepted(body, meta.ballot, location)
            };
            if let Insert::Conflict(other) = inserted {
                let what =
                    format!("the record contradicts body {} at slots {}..{}", other.id, other.first, other.end());
                let (offset, lsn) = (record.offset, record.header.lsn);
                let slots = Some(body.slots());
                let class = Class::Corrupt;
                let (expected, actual) = (Some(other.id.to_string()), Some(body.id.to_string()));
                self.findings.push(Finding { class, file: Some(file), offset, lsn, slots, what, expected, actual });
            }
        }
        summary.base = base;
        summary.mark = prove_marks(&mut index, &known);
        (summary, index)
    }
}
