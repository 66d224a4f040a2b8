//! Compaction: the content of a log, written anew without what it doesn't need any more.
//!
//! Kept are the bodies at or above the base that no other superseded, the promise, mark, base, configuration and log
//! time. What was trimmed or superseded goes, and so does padding: small chosen bodies are packed. Of a chosen body the
//! new log says that it is chosen, no longer at which ballot it was accepted here.
//!
//! Epochs go on from where the old log ended, so that positions never go back: peers remember them.

use synod_protocol::{Mark, Slot};
use thiserror::Error;

use crate::builder::{BuildError, BuiltLog, LogBuilder, LogDisk, LogStart};
use crate::identity::LogIdentity;
use crate::index::{Index, IndexEntry};
use crate::recovery::{Damage, DamageCause, RecoveredLog};
use crate::scan::{ReadError, read_body};
use crate::store::SegmentStore;

/// Why a log can't be compacted; it is as it was.
#[derive(Debug, Error)]
pub enum CompactionError {
    /// Nothing was ever written to it.
    #[error("the log holds no record yet: there is nothing to compact")]
    Empty,
    /// The log isn't sound: what would be dropped might be what others must be told of.
    #[error(
        "the log can't be compacted before it is mended, for it is damaged: {0}; start the node, which gets back what it lost and trims it away in time, or run `synod-tools repair`"
    )]
    Damaged(Box<Damage>),
    /// Damage that is gone from the disk has left doubts.
    #[error(
        "the log can't be compacted before it is mended: it may have lost votes; start the node, which settles that"
    )]
    InDoubt,
    /// The ruling configuration is trimmed, and only a record that compaction would drop holds it.
    #[error("the configuration of slot {0} is trimmed and in no segment header yet; start the node and stop it again")]
    Configuration(Slot),
    /// A body can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A body that recovery found sound isn't any more.
    #[error("the body at slot {slot} in {file} at {offset} is damaged; run `synod-tools verify`")]
    Body {
        /// Its first slot.
        slot: Slot,
        /// The file.
        file: crate::FileId,
        /// Where its record begins.
        offset: u64,
    },
    /// The new log can't be written.
    #[error(transparent)]
    Build(#[from] BuildError),
}

/// Writes the content of a recovered log to an empty disk. `progress` hears with each body how many there were so far.
///
/// # Errors
/// See [`CompactionError`].
pub fn rewrite(
    store: &dyn SegmentStore,
    log: &RecoveredLog,
    identity: LogIdentity,
    disk: &mut dyn LogDisk,
    progress: &mut dyn FnMut(u64),
) -> Result<BuiltLog, CompactionError> {
    let Some(group) = log.group else { return Err(CompactionError::Empty) };
    if let Some(damage) = log.damages.iter().find(|damage| damage.cause != DamageCause::Seal) {
        return Err(CompactionError::Damaged(Box::new(damage.clone())));
    }
    if !log.is_sound() {
        return Err(CompactionError::InDoubt);
    }
    if let Some(slot) = log.configuration_trimmed {
        return Err(CompactionError::Configuration(slot));
    }
    let start = LogStart {
        segment_bytes: log.segment_bytes,
        group,
        format: log.format,
        base: log.index.base(),
        configuration: log.configuration.clone(),
        log_time_us: log.log_time_us,
        epoch: log.epoch_next,
    };
    let mut builder = LogBuilder::new(identity, start, disk)?;
    let (chosen, mut accepted): (Vec<&IndexEntry>, Vec<&IndexEntry>) =
        log.index.iter_from(Slot(0)).partition(|entry| is_chosen(entry));
    accepted.sort_by_key(|entry| entry.ballot);
    let mut done = 0;
    let mut read = |entry: &IndexEntry| {
        let location = &entry.location;
        let damaged = CompactionError::Body { slot: entry.body.first, file: location.file, offset: location.offset };
        done += 1;
        progress(done);
        read_body(store, location, &entry.body)?.map_err(|_| damaged)
    };
    for entry in accepted {
        builder.accepted(&entry.body, entry.ballot, read(entry)?)?;
    }
    builder.promise(log.promised)?;
    for entry in chosen {
        builder.chosen(&entry.body, read(entry)?)?;
    }
    Ok(builder.finish()?)
}

/// Proven by the mark, or recorded as chosen.
fn is_chosen(entry: &IndexEntry) -> bool {
    entry.recorded_chosen || entry.chosen.is_some()
}

/// The first thing that two logs don't have in common.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Difference {
    /// One of what holds for the whole log.
    #[error("the {0} differs")]
    Whole(&'static str),
    /// The mark.
    #[error("the chosen prefix ends at slot {} with chain {}, not at {} with {}", .found.slot, .found.chain, .expected.slot, .expected.chain)]
    Mark {
        /// Of the old log.
        expected: Mark,
        /// Of the new log.
        found: Mark,
    },
    /// A body.
    #[error("the body at slot {0} differs, or is only in one of them")]
    Body(Slot),
}

/// Checks that `new` says all that `old` said.
///
/// # Errors
/// The first difference.
pub fn compare(old: &RecoveredLog, new: &RecoveredLog) -> Result<(), Difference> {
    for (what, same) in [
        ("group", old.group == new.group),
        ("promise", old.promised == new.promised),
        ("base", old.index.base() == new.index.base()),
        ("configuration", old.configuration == new.configuration),
        ("log time", old.log_time_us == new.log_time_us),
        ("order of epochs", new.segments.iter().all(|segment| segment.epoch >= old.epoch_next)),
        ("order of positions", new.end > old.end),
        ("soundness", old.is_sound() && new.is_sound()),
        ("proof of its end", new.cut.as_ref().is_none_or(|cut| cut.records_discarded == 0)),
    ] {
        if !same {
            return Err(Difference::Whole(what));
        }
    }
    if old.mark != new.mark {
        return Err(Difference::Mark { expected: old.mark, found: new.mark });
    }
    compare_bodies(&old.index, &new.index)
}

fn compare_bodies(old: &Index, new: &Index) -> Result<(), Difference> {
    let (mut old, mut new) = (old.iter_from(Slot(0)), new.iter_from(Slot(0)));
    loop {
        let (one, other) = match (old.next(), new.next()) {
            (None, None) => return Ok(()),
            (Some(one), Some(other)) => (one, other),
            (Some(one), None) | (None, Some(one)) => return Err(Difference::Body(one.body.first)),
        };
        let same_vote = is_chosen(one) || one.ballot == other.ballot;
        if one.body != other.body || one.chosen != other.chosen || is_chosen(one) != is_chosen(other) || !same_vote {
            return Err(Difference::Body(one.body.first));
        }
    }
}
