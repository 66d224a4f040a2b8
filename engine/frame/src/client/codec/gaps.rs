//! What of a body doesn't count, as an archive of rows.

use rkyv::{Archive, Serialize};
use synod_protocol::Slot;
use synod_protocol::delivery::Answer;

use super::super::{ClientKind, Gap};
use super::ClientMessageError;
use super::reason::{refusal_from_numbers, refusal_to_numbers};
use crate::archive;

#[derive(Archive, Serialize)]
struct Gaps {
    rows: Vec<GapRow>,
}

#[derive(Archive, Serialize)]
struct GapRow {
    first: u64,
    /// Where the original of a duplicate stands, or what belongs to a refusal.
    value: u64,
    count: u32,
    /// Zero for a duplicate, else the refusal's number.
    reason: u32,
}

// The byte map of engine/docs/wal-format.md.
const _: () = {
    assert!(size_of::<ArchivedGaps>() == 8);
    assert!(size_of::<ArchivedGapRow>() == 24);
};

/// # Panics
/// If there are none, or one of them counts: a bug of the caller.
pub(super) fn gaps_payload(gaps: &[Gap]) -> Vec<u8> {
    assert!(!gaps.is_empty(), "gaps are told only where there are some");
    let row = |gap: &Gap| {
        let (reason, value) = match gap.answer {
            Answer::Duplicate { first } => (0, first.0),
            Answer::Refused(refusal) => refusal_to_numbers(refusal),
            Answer::Delivered { first } => unreachable!("what is delivered at {first} is no gap"),
        };
        GapRow { first: gap.first.0, value, count: gap.count, reason }
    };
    archive::to_vec(&Gaps { rows: gaps.iter().map(row).collect() })
}

pub(super) fn parse_gaps(payload: &[u8]) -> Result<Vec<Gap>, ClientMessageError> {
    let kind = ClientKind::Gaps;
    let archive = archive::access::<ArchivedGaps>(payload).ok_or(ClientMessageError::PayloadArchive { kind })?;
    let mut end = Slot::FIRST;
    let mut gaps = Vec::with_capacity(archive.rows.len());
    for row in archive.rows.iter() {
        let (first, count) = (Slot(row.first.to_native()), row.count.to_native());
        let (reason, value) = (row.reason.to_native(), row.value.to_native());
        let answer = match reason {
            0 => Some(Answer::Duplicate { first: Slot(value) }),
            _ => refusal_from_numbers(reason, value).map(Answer::Refused),
        };
        let (Some(answer), true) = (answer, first >= end && count > 0) else {
            return Err(ClientMessageError::Field { kind });
        };
        end = Slot(first.0.saturating_add(u64::from(count)));
        gaps.push(Gap { first, count, answer });
    }
    if gaps.is_empty() {
        return Err(ClientMessageError::Field { kind });
    }
    Ok(gaps)
}
