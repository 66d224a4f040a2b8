//! Which body fills which slot of a log, and which of them are chosen, as far as the log itself proves it.
//!
//! Recovery refuses a damaged log, or leaves out what the damage could touch. A survey takes everything that can be
//! read, because people want to see it, and proves from both sides of a gap: a mark is a slot with the chain over all
//! chosen bodies below, so between two marks of a log the bodies are the chosen ones if the chain runs from one to
//! the other over them.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use anyhow::Result;
use synod_protocol::{Ballot, BodyHandle, Chain, Mark, Slot};
use synod_wal::scan::{Depth, ScannedRecord};
use synod_wal::{Index, IndexEntry, Insert, Location, RecordKind, RecordMeta};

use crate::source::Source;
use crate::walk::{Found, WalkOptions, walk};

/// What a log says, joined.
pub(crate) struct Survey {
    /// The bodies that may count: of those that share a slot the one at the highest ballot. Chosen ones are marked.
    pub(crate) index: Index,
    /// The highest promise.
    pub(crate) promised: Ballot,
    /// The end of the chosen prefix that the bodies prove.
    pub(crate) mark: Mark,
    /// The highest mark that is written down anywhere; beyond the proven one if bodies are missing.
    pub(crate) claimed: Mark,
    /// The slot of the ruling configuration; none before the first record.
    pub(crate) configuration: Option<Slot>,
    /// Things that are wrong with the log; each was said on stderr.
    pub(crate) troubles: u64,
}

/// Everything that is joined on the way.
struct Join {
    index: Index,
    promised: Ballot,
    base: Mark,
    marks: BTreeMap<Slot, Chain>,
    configuration: Option<Slot>,
    conflicts: u64,
}

impl Survey {
    /// Reads the whole log, a block a record.
    ///
    /// # Errors
    /// If the directory can't be listed.
    pub(crate) fn take(source: &Source) -> Result<Survey> {
        let mut join = Join {
            index: Index::new(Mark::START),
            promised: Ballot::ZERO,
            base: Mark::START,
            marks: BTreeMap::from([(Mark::START.slot, Mark::START.chain)]),
            configuration: None,
            conflicts: 0,
        };
        for header in source.files()?.iter().filter_map(|file| file.header.as_ref()) {
            for state in &header.groups {
                join.take_state(state.promised, state.mark, state.base);
            }
            let slot = header.configuration.as_ref().map(|configuration| configuration.slot);
            join.configuration = join.configuration.max(slot);
        }
        let options = WalkOptions::new(Depth::Heads);
        let walked = walk(source, options, &mut |mut found| {
            join.take(&mut found)?;
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(join.finish(walked.troubles))
    }

    /// Whether the log proves that this body is chosen.
    pub(crate) fn is_chosen(entry: &IndexEntry) -> bool {
        entry.chosen.is_some() || entry.recorded_chosen
    }

    /// The first slot after everything that is accepted.
    pub(crate) fn end(&self) -> Slot {
        let last = self.index.iter_from(self.index.base().slot).last();
        last.map_or(self.index.base().slot, |entry| entry.body.end())
    }
}

impl Join {
    fn take_state(&mut self, promised: Ballot, mark: Mark, base: Mark) {
        self.promised = self.promised.max(promised);
        self.marks.insert(mark.slot, mark.chain);
        self.marks.insert(base.slot, base.chain);
        if base.slot > self.base.slot {
            self.base = base;
        }
    }

    fn take(&mut self, found: &mut Found<'_, '_>) -> Result<()> {
        let ScannedRecord { offset, header, .. } = found.record;
        let meta = &header.meta;
        self.take_state(meta.promised.max(meta.ballot), meta.mark, header.base);
        self.configuration = self.configuration.max(Some(header.configuration));
        if !meta.kind.fills_slots() {
            return Ok(());
        }
        for body in found.scanner.bodies(&found.record)? {
            let record_bytes = header.record_bytes;
            let location = Location { file: found.file, offset, record_bytes, body_offset: body.offset };
            self.insert(meta, body.header.handle(), location);
        }
        Ok(())
    }

    fn insert(&mut self, meta: &RecordMeta, body: BodyHandle, location: Location) {
        let inserted = match meta.kind {
            RecordKind::Accepted => self.index.insert_accepted(body, meta.ballot, location),
            _ => self.index.insert_chosen(body, location),
        };
        if let Insert::Conflict(other) = inserted {
            self.conflicts += 1;
            eprintln!(
                "synod-tools: the record at {:#x} of {} contradicts another body at slot {}: two processes wrote this \
                 log, or it was altered",
                location.offset, location.file, other.first
            );
        }
    }

    fn finish(mut self, troubles: u64) -> Survey {
        self.index.trim_to(self.base);
        let chosen = prove(&self.index, &self.marks);
        for (first, chain) in chosen {
            self.index.mark_chosen(first, chain);
        }
        let mut mark = self.index.base();
        for entry in self.index.iter_from(mark.slot) {
            let follows = entry.body.first == mark.slot && Survey::is_chosen(entry);
            if !follows {
                break;
            }
            mark = mark.after(&entry.body);
        }
        let (slot, chain) = self.marks.last_key_value().expect("it begins with the first slot");
        Survey {
            index: self.index,
            promised: self.promised,
            mark,
            claimed: Mark { slot: *slot, chain: *chain },
            configuration: self.configuration,
            troubles: troubles + self.conflicts,
        }
    }
}

/// The bodies that lie between two marks with the chain running from one to the other, each with the chain after it.
fn prove(index: &Index, marks: &BTreeMap<Slot, Chain>) -> Vec<(Slot, Chain)> {
    let mut proven = Vec::new();
    // Bodies since the last mark, and where the chain stands behind them.
    let mut run: Vec<(Slot, Chain)> = Vec::new();
    let mut at = Some(index.base());
    for entry in index.iter_from(index.base().slot) {
        let first = entry.body.first;
        if at.is_none_or(|mark| mark.slot != first) {
            run.clear();
            at = marks.get(&first).map(|chain| Mark { slot: first, chain: *chain });
        }
        let Some(before) = at else { continue };
        let after = before.after(&entry.body);
        run.push((first, after.chain));
        let marked = marks.get(&after.slot);
        if marked == Some(&after.chain) || (marked.is_none() && entry.recorded_chosen && run.len() == 1) {
            proven.append(&mut run);
        } else if marked.is_some() {
            // Another chain stands here: these bodies aren't the ones that were chosen.
            run.clear();
        }
        at = Some(Mark { slot: after.slot, chain: marked.copied().unwrap_or(after.chain) });
    }
    proven
}

#[cfg(test)]
mod tests {
    use synod_protocol::{BodyHandle, BodyId, BodyKind, NodeId};
    use synod_wal::FileId;

    use super::*;

    fn body(first: u64, id: u128) -> BodyHandle {
        BodyHandle { first: Slot(first), count: 2, bytes: 192, kind: BodyKind::NoOp, id: BodyId(id) }
    }

    /// Bodies at slots 1, 3, 5, 7 and all marks around them.
    fn log() -> (Vec<BodyHandle>, Vec<Mark>) {
        let bodies: Vec<BodyHandle> = (0..4).map(|place| body(1 + 2 * place, u128::from(place) + 1)).collect();
        let mut marks = vec![Mark::START];
        for body in &bodies {
            marks.push(marks.last().expect("the first").after(body));
        }
        (bodies, marks)
    }

    fn index(bodies: &[BodyHandle]) -> Index {
        let mut index = Index::new(Mark::START);
        let ballot = Ballot { round: 1, node: NodeId(1), boot: 1 };
        for body in bodies {
            let location = Location::alone(FileId(1), 4096, 4096);
            assert_eq!(index.insert_accepted(*body, ballot, location), Insert::Kept);
        }
        index
    }

    fn proven(bodies: &[BodyHandle], marks: &[Mark]) -> Vec<u64> {
        let marks = marks.iter().map(|mark| (mark.slot, mark.chain)).collect();
        prove(&index(bodies), &marks).iter().map(|(first, _)| first.0).collect()
    }

    #[test]
    fn a_mark_proves_the_bodies_below_it_and_none_above() {
        let (bodies, marks) = log();
        assert!(proven(&bodies, &marks[..1]).is_empty());
        assert_eq!(proven(&bodies, &[marks[0], marks[3]]), [1, 3, 5]);
    }

    #[test]
    fn a_missing_body_hides_only_what_lies_up_to_the_next_mark() {
        let (bodies, marks) = log();
        let without_second = [bodies[0], bodies[2], bodies[3]];
        assert_eq!(proven(&without_second, &[marks[0], marks[2], marks[4]]), [5, 7]);
        assert_eq!(proven(&without_second, &[marks[0], marks[1], marks[4]]), [1]);
    }

    #[test]
    fn a_body_that_is_not_the_chosen_one_is_never_proven() {
        let (mut bodies, marks) = log();
        bodies[1] = body(3, 99);
        assert_eq!(proven(&bodies, &marks), [1, 5, 7]);
        assert!(proven(&bodies, &[marks[0], marks[4]]).is_empty());
    }
}
