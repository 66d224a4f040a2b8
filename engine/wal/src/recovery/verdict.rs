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
//! durability is a prefix and nothing in a segment counts before the seal of the one in front of it.
//!
//! Where the walk starts is itself found in records: a durable trim may have given segments up whose files are already
//! being zeroed. So the highest start is taken whose claim lies inside what is kept from there on.

use std::ops::Range;

use synod_protocol::Slot;

use super::chain::{Chain, SegmentScan};
use super::{Damage, DamageCause, RecoverError, RecoverOptions};
use crate::lsn::Lsn;
use crate::scan::HoleCause;

/// What of the chain is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
}

/// Decides by the table.
pub(super) fn decide(
    chain: &Chain<'_>,
    scans: &[SegmentScan],
    options: RecoverOptions,
) -> Result<Verdict, RecoverError> {
    let proof = scans.iter().map(|scan| scan.proof).max().unwrap_or(Lsn::ZERO);
    let claims = scans.iter().flat_map(|scan| &scan.records).map(|record| record.first_needed);
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
    if let Some(epoch) = chain.missing.filter(|epoch| *epoch >= first_needed) {
        return Err(RecoverError::Missing { epoch, first_needed });
    }
    let start = scans.iter().position(|scan| scan.header.epoch >= first_needed);
    let start = start.ok_or(RecoverError::Missing { epoch: first_needed, first_needed })?;
    let mut previous = match &scans[start].header {
        header if header.before_end != Lsn::ZERO => Some(header.before_checksum),
        header if header.before_epoch == 0 => Some(0),
        // Its predecessor is given up, and so is the checksum of the last record in it.
        _ => None,
    };
    // Only what headers and kept records say counts: a claim in a record that is discarded is void.
    let mut verdict = Verdict { start, last: start, cut: false, proof, first_needed: chain.first_needed };
    for index in start..scans.len() {
        let scan = &scans[index];
        check_previous(scan, previous, proof)?;
        previous = scan.last_checksum.or(previous);
        verdict.last = index;
        verdict.cut = is_end(scan, index + 1 == scans.len(), previous, proof, options)?;
        verdict.first_needed =
            scan.records.iter().map(|record| record.first_needed).fold(verdict.first_needed, u64::max);
        if verdict.cut {
            break;
        }
    }
    Ok(verdict)
}

/// The first record must follow the last one of the segment before.
fn check_previous(scan: &SegmentScan, expected: Option<u32>, proof: Lsn) -> Result<(), RecoverError> {
    let (Some(expected), Some(found)) = (expected, scan.first_previous) else { return Ok(()) };
    if expected == found {
        return Ok(());
    }
    let mut damage = damage(scan, DamageCause::Previous { expected, found });
    damage.offset = scan.records.first().map_or(damage.offset, |record| record.offset);
    let end = scan.hole.lsn;
    damage.lsn = Lsn(end.0 - (scan.hole.offset - damage.offset));
    Err(classify(damage, proof))
}

/// Whether the log ends in this segment.
fn is_end(
    scan: &SegmentScan,
    newest: bool,
    last_checksum: Option<u32>,
    proof: Lsn,
    options: RecoverOptions,
) -> Result<bool, RecoverError> {
    let end = scan.hole.lsn;
    if let Some((named, checksum)) = scan.named_end {
        let same = last_checksum.is_none_or(|last| last == checksum);
        if end == named && same {
            return Ok(false);
        }
        let cause = if scan.hole.cause == HoleCause::Stop {
            DamageCause::End { named }
        } else {
            DamageCause::Hole(scan.hole.cause.clone())
        };
        return Err(RecoverError::Corrupt { damage: damage(scan, cause), proof });
    }
    let sealed_here = scan.seal.witness.is_some_and(|witness| {
        witness.records_end == end && last_checksum.is_none_or(|last| last == witness.last_checksum)
    });
    if sealed_here {
        return match scan.seal.complete {
            true if newest => Err(RecoverError::SuccessorMissing { epoch: scan.header.epoch, file: scan.file }),
            true => Ok(false),
            false if proof > end => Err(RecoverError::Corrupt { damage: damage(scan, DamageCause::Seal), proof }),
            // The seal may have been complete, and what follows acknowledged.
            false if scan.seal.damaged && !options.live => Err(classify(damage(scan, DamageCause::Seal), proof)),
            false => Ok(true),
        };
    }
    let explained = scan.hole.cause.is_torn() || options.live;
    if proof <= end && explained {
        return Ok(true);
    }
    Err(classify(damage(scan, DamageCause::Hole(scan.hole.cause.clone())), proof))
}

fn classify(damage: Damage, proof: Lsn) -> RecoverError {
    if proof > damage.lsn { RecoverError::Corrupt { damage, proof } } else { RecoverError::Doubtful { damage, proof } }
}

fn damage(scan: &SegmentScan, cause: DamageCause) -> Damage {
    let slots = slots(scan, &cause);
    Damage { file: scan.file, offset: scan.hole.offset, lsn: scan.hole.lsn, cause, slots }
}

/// The slots of the damaged record if its header tells, or else everything behind the last body in front of it.
fn slots(scan: &SegmentScan, cause: &DamageCause) -> Option<Range<Slot>> {
    if let DamageCause::Hole(HoleCause::Blocks { record, .. }) = cause {
        return record.body.map(|body| body.handle().slots());
    }
    let after = scan.records.iter().rev().filter(|record| record.kind.fills_slots()).find_map(|record| record.body)?;
    let footer_end = scan.seal.footer.map(|footer| footer.slot_end).filter(|end| *end > after.end());
    Some(after.end()..footer_end.unwrap_or(Slot(u64::MAX)))
}
