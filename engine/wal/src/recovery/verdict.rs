//! The table: from what is found at the end of each segment to what is done.
//!
//! | the walk through a segment ended | and | then |
//! |---|---|---|
//! | at the end that the next segment names | the last record is the one that it names | go on with the next |
//! | elsewhere than at the named end | | corrupt |
//! | at a seal block that names this end | the seal is complete | go on with the next, which must exist |
//! | at a seal block that names this end | the seal isn't, what it lacks is old, and nothing later was durable | cut here |
//! | at a seal block that names this end | the seal isn't, what it lacks isn't old, and nothing later was durable | doubtful |
//! | at a seal block that names this end | the seal isn't, and something later was durable | corrupt |
//! | anywhere else | something behind was durable | corrupt |
//! | at an old block | nothing proven behind | clean end, or the first block didn't arrive: cut here |
//! | in a record whose bad blocks are all old | nothing proven behind | torn: cut here |
//! | anywhere else | nothing proven behind | doubtful |
//!
//! Cut means that everything behind is discarded, later segments too: none of it can have been durable, because
//! durability is a prefix and nothing in a segment counts before the seal of the one in front of it. Corrupt and
//! doubtful cut nothing: everything valid is kept, before and behind, and [`super::losses`] says what may be missing.
//!
//! Where the walk starts is itself found in records: a durable trim may have given segments up whose files are already
//! being zeroed. So the highest start is taken whose claim lies inside what is kept from there on.

use std::ops::Range;

use synod_protocol::Slot;

use super::chain::{Chain, SegmentScan};
use super::{Damage, DamageCause, DamageClass, RecoverError, RecoverOptions};
use crate::lsn::Lsn;
use crate::scan::HoleCause;

/// What of the chain is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Index of the first segment that is kept.
    pub(super) start: usize,
    /// Index of the last one.
    pub(super) last: usize,
    /// Whether the log was cut in the last one, instead of ending as named or sealed.
    pub(super) cut: bool,
    /// The highest position that anything says was durable.
    pub(super) proof: Lsn,
    /// Segments of a lower epoch aren't needed.
    pub(super) first_needed: u64,
    /// The checksum that the first record of all must name, if that is known.
    pub(super) previous: Option<u32>,
    /// What is damaged, in log order.
    pub(super) damages: Vec<Damage>,
    /// The kept segments, by index, behind whose known records there may have been more.
    pub(super) open_ended: Vec<usize>,
}

/// How a segment ends.
enum End {
    Sound,
    Cut,
    Damaged {
        cause: DamageCause,
        /// Records may be missing behind the last one that is known.
        open: bool,
    },
}

/// Decides by the table.
pub(super) fn decide(
    chain: &Chain<'_>,
    scans: &[SegmentScan],
    options: RecoverOptions,
) -> Result<Verdict, RecoverError> {
    let proof = scans.iter().map(|scan| scan.proof).max().unwrap_or(Lsn::ZERO);
    let claims = scans.iter().flat_map(SegmentScan::known).map(|record| record.first_needed);
    let mut claims: Vec<u64> = claims.filter(|claim| *claim > chain.first_needed).collect();
    claims.sort_unstable();
    claims.dedup();
    for claim in claims.into_iter().rev() {
        if let Ok(verdict) = walk(chain, scans, claim, proof, options)
            && verdict.first_needed >= claim
        {
            return Ok(verdict);
        }
    }
    walk(chain, scans, chain.first_needed, proof, options)
}

fn walk(
    chain: &Chain<'_>,
    scans: &[SegmentScan],
    first_needed: u64,
    proof: Lsn,
    options: RecoverOptions,
) -> Result<Verdict, RecoverError> {
    let start = scans.iter().position(|scan| scan.header.epoch >= first_needed);
    let start = start.ok_or(RecoverError::Missing { epoch: first_needed, first_needed })?;
    let previous = match &scans[start].header {
        _ if chain.is_rebuilt(&scans[start].header) => None,
        header if header.before_end != Lsn::ZERO => Some(header.before_checksum),
        header if header.before_epoch == 0 => Some(0),
        // Its predecessor is given up, and so is the checksum of the last record in it.
        _ => None,
    };
    // Only what headers and kept records say counts: a claim in a record that is discarded is void.
    let mut verdict = Verdict {
        start,
        last: start,
        cut: false,
        proof,
        first_needed: chain.first_needed,
        previous,
        damages: Vec::new(),
        open_ended: Vec::new(),
    };
    let mut previous = previous;
    for index in start..scans.len() {
        let scan = &scans[index];
        if let Some(epoch) = scan.missing_before.filter(|epoch| *epoch >= first_needed) {
            verdict.damages.push(missing(scan, epoch));
        }
        let before = previous;
        previous = scan.last_checksum().or(previous);
        verdict.last = index;
        // A lost header can't name where the segment before was cut. The record behind it may, and that there was one at all
        // says that the log went on.
        let next = scans.get(index + 1);
        let later = &scans[index + 1..];
        let nameless = later.iter().any(|later| chain.is_rebuilt(&later.header));
        let follower = later.iter().find_map(SegmentScan::first_previous);
        let followed = nameless && follower.is_some() && follower == previous
            || later.iter().any(|later| later.missing_before.is_some_and(|epoch| epoch >= first_needed));
        let end = end_of(scan, next.is_none(), previous, proof, options);
        let first = scan.kept(matches!(end, End::Cut) && !nameless).next();
        // Behind a gap that is told already, the first record that is known follows one that isn't.
        let follows_gap = scan.records.is_empty()
            || scan.missing_before.is_some_and(|epoch| epoch >= first_needed)
            || index.checked_sub(1).is_some_and(|before| verdict.open_ended.contains(&before));
        if let (Some(expected), Some(found)) = (before, first.and_then(|first| first.previous_checksum))
            && expected != found
            && !follows_gap
        {
            verdict.damages.push(previous_damage(scan, expected, found, proof));
        }
        match end {
            End::Cut if followed => {}
            End::Cut if nameless => {
                verdict.damages.push(damage(scan, DamageCause::Hole(scan.hole.cause.clone()), proof));
                verdict.open_ended.push(index);
            }
            End::Sound => {}
            End::Cut => verdict.cut = true,
            End::Damaged { cause, open } => {
                verdict.damages.push(damage(scan, cause, proof));
                if open {
                    verdict.open_ended.push(index);
                }
            }
        }
        let claims = scan.kept(verdict.cut).map(|record| record.first_needed);
        verdict.first_needed = claims.fold(verdict.first_needed, u64::max);
        if verdict.cut {
            break;
        }
    }
    Ok(verdict)
}

fn end_of(scan: &SegmentScan, newest: bool, last_checksum: Option<u32>, proof: Lsn, options: RecoverOptions) -> End {
    let end = scan.hole.lsn;
    let hole = || DamageCause::Hole(scan.hole.cause.clone());
    if let Some((named, checksum)) = scan.named_end {
        let same = last_checksum.is_none_or(|last| last == checksum);
        if end == named && same {
            return End::Sound;
        }
        let cause = if scan.hole.cause == HoleCause::Stop { DamageCause::End { named } } else { hole() };
        return End::Damaged { cause, open: !(scan.known_end() == named && same) };
    }
    let sealed_here = scan.seal.witness.is_some_and(|witness| {
        witness.records_end == end && last_checksum.is_none_or(|last| last == witness.last_checksum)
    });
    if sealed_here {
        let cause = DamageCause::Seal;
        return match scan.seal.complete {
            true if newest => End::Damaged { cause: DamageCause::SuccessorMissing, open: true },
            true => End::Sound,
            false if proof > end => End::Damaged { cause, open: false },
            // The seal may have been complete, and what follows acknowledged.
            false if scan.seal.damaged && !options.live => End::Damaged { cause, open: newest },
            false => End::Cut,
        };
    }
    let explained = scan.hole.cause.is_torn() || options.live;
    if proof <= end && explained {
        return End::Cut;
    }
    let open = match scan.seal.witness {
        Some(witness) => scan.known_end() != witness.records_end,
        None => {
            let known_end = scan.known_end().offset(scan.segment_bytes);
            scan.hole.offset >= known_end || scan.unexplained.is_some_and(|offset| offset >= known_end)
        }
    };
    End::Damaged { cause: hole(), open }
}

fn missing(scan: &SegmentScan, epoch: u64) -> Damage {
    Damage {
        file: scan.file,
        offset: 0,
        lsn: Lsn::new(epoch, scan.segment_bytes, 0),
        cause: DamageCause::SegmentMissing { epoch },
        slots: None,
        class: DamageClass::Corrupt,
    }
}

fn previous_damage(scan: &SegmentScan, expected: u32, found: u32, proof: Lsn) -> Damage {
    let mut damage = damage(scan, DamageCause::Previous { expected, found }, proof);
    let end = scan.hole.lsn;
    damage.offset = scan.known().next().map_or(damage.offset, |record| record.offset);
    damage.lsn = Lsn(end.0.saturating_sub(scan.hole.offset.saturating_sub(damage.offset)));
    damage
}

fn damage(scan: &SegmentScan, cause: DamageCause, proof: Lsn) -> Damage {
    let slots = slots(scan, &cause);
    let lsn = scan.hole.lsn;
    let class = if scan.named_end.is_some() || proof > lsn { DamageClass::Corrupt } else { DamageClass::Doubtful };
    Damage { file: scan.file, offset: scan.hole.offset, lsn, cause, slots, class }
}

/// The slots of the damaged record if its header tells, or else everything behind the last body in front of it.
fn slots(scan: &SegmentScan, cause: &DamageCause) -> Option<Range<Slot>> {
    if let DamageCause::Hole(HoleCause::Blocks { record, .. }) = cause {
        return record.slots();
    }
    let bodies = scan.records.iter().rev().filter(|record| record.kind.fills_slots());
    let after = bodies.flat_map(|record| scan.bodies(record).rev()).next()?.body.end();
    let footer_end = scan.seal.footer.map(|footer| footer.slot_end).filter(|end| *end > after);
    Some(after..footer_end.unwrap_or(Slot(u64::MAX)))
}
