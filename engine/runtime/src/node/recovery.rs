//! Reading the log back when a node starts: what the directory says, how far that is, and what is damaged.

use std::time::{Duration, Instant};

use synod_protocol::limits::BODY_BYTES_MAX;
use synod_wal::directory::{OpenDirectory, ReadAheadStore, ReadProgress};
use synod_wal::{
    FileId, Geometry, LogIdentity, LogSettings, RecoverOptions, RecoveredLog, SegmentStore as _, SyncMode,
    record_bytes, recover_with,
};

use crate::error::StartError;
use crate::seam::disk::{Disk, Durability};
use crate::status::Startup;

/// Shortest time between two lines that say how far it is.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// What the directory says about itself.
pub(crate) struct Facts {
    pub(crate) identity: LogIdentity,
    pub(crate) segment_bytes: u64,
    pub(crate) disk: Disk,
    pub(crate) files: Vec<FileId>,
}

/// Reads back one of the logs of a directory that is open.
pub(super) fn recover_log(
    directory: &OpenDirectory,
    log: u32,
    sync: SyncMode,
    format_max: u16,
) -> Result<(Facts, RecoveredLog, Startup), StartError> {
    let known = directory.identity();
    let identity = known.log_identity(log).ok_or(StartError::Genesis)?;
    let needed = record_bytes(BODY_BYTES_MAX);
    if Geometry::new(known.segment_bytes).is_none_or(|geometry| geometry.record_bytes_max() < u64::from(needed)) {
        return Err(StartError::SegmentBytes { segment_bytes: known.segment_bytes });
    }
    // Absolute, because the runtime underneath opens some relative paths beside nothing.
    let path = directory.log_path(log);
    let log_directory = std::path::absolute(&path).map_err(|source| StartError::Segment { path, source })?;
    let begun = Instant::now();
    let mut pace = Pace::default();
    let store = ReadAheadStore::new(&log_directory, |progress| {
        if let Some(told) = pace.tell(progress, begun.elapsed()) {
            tracing::info!(
                segments = %format_args!("{} of {}", progress.segments_read, progress.segments),
                mib = %format_args!("{} of {}", progress.bytes_read >> 20, progress.bytes >> 20),
                mib_per_second = told.bytes_per_second >> 20,
                left = %format_args!("{:.0} s", told.left.as_secs_f64()),
                "reading the log back"
            );
        }
    });
    // No more of the index in memory than the log will keep there.
    let index_bodies_max = Some(LogSettings::default().index_bodies_max);
    let options = RecoverOptions { index_bodies_max, format_max: Some(format_max), ..RecoverOptions::default() };
    let recovered = recover_with(&store, &identity.expected(), known.segment_bytes, options)?;
    let files = store.files().map_err(synod_wal::RecoverError::List)?;
    let read = store.progress();
    drop(store);
    let startup = Startup { segments: read.segments, bytes: read.bytes_read, recovery: begun.elapsed(), ready: None };
    tracing::info!(
        node = %known.node,
        log,
        mark = %recovered.mark.slot,
        segments = startup.segments,
        mib = startup.bytes >> 20,
        took = ?startup.recovery,
        "log recovered"
    );
    tell_damage(&recovered);
    let durability = match sync {
        SyncMode::Dsync => Durability::EachWrite,
        SyncMode::Fdatasync => Durability::BySync,
    };
    let disk = Disk::Directory { path: log_directory, durability };
    Ok((Facts { identity, segment_bytes: known.segment_bytes, disk, files }, recovered, startup))
}

/// Says what is damaged, and what that means for this node.
fn tell_damage(recovered: &RecoveredLog) {
    for damage in &recovered.damages {
        tracing::error!("the log is damaged: {damage}");
    }
    if !recovered.damaged.is_empty() {
        let count = recovered.damaged.len();
        tracing::warn!(count, "chosen bodies are damaged here; they are fetched from the other members");
    }
    for doubt in &recovered.doubts {
        tracing::warn!(first = %doubt.first.max(recovered.mark.slot), end = %doubt.end, "abstaining from promises for slots in doubt");
    }
    if recovered.unsure {
        tracing::warn!("a promise may be lost: not voting until every other member has told theirs");
    }
}

/// When to say how far the reading is: not for a log that is read in a moment, and not too often.
#[derive(Debug, Default)]
struct Pace {
    told_at: Duration,
    /// What was read by then.
    told_bytes: u64,
}

/// How fast it goes, by what was read since it was last told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    bytes_per_second: u64,
    left: Duration,
}

impl Pace {
    /// What to tell after `elapsed` since the beginning, if it is time to.
    fn tell(&mut self, progress: &ReadProgress, elapsed: Duration) -> Option<Told> {
        let since = elapsed.checked_sub(self.told_at).filter(|since| *since >= TELL_EVERY)?;
        let rate = (progress.bytes_read - self.told_bytes) as f64 / since.as_secs_f64();
        let left = (progress.bytes - progress.bytes_read) as f64 / rate.max(1.0);
        (self.told_at, self.told_bytes) = (elapsed, progress.bytes_read);
        Some(Told { bytes_per_second: rate as u64, left: Duration::try_from_secs_f64(left).unwrap_or(Duration::MAX) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_reading_is_told_once_a_second() {
        let mut pace = Pace::default();
        let mut progress = ReadProgress { segments: 10, bytes: 10 << 20, ..ReadProgress::default() };
        let mut told = Vec::new();
        // A MiB every 300 ms.
        for step in 1..=10 {
            progress.bytes_read = step << 20;
            let elapsed = Duration::from_millis(300 * step);
            if let Some(now) = pace.tell(&progress, elapsed) {
                told.push((step, now.bytes_per_second, now.left));
            }
        }
        let rate = (1u64 << 20) * 10 / 3;
        assert_eq!(told.iter().map(|(step, ..)| *step).collect::<Vec<_>>(), [4, 8]);
        assert!(told.iter().all(|(_, told, _)| told.abs_diff(rate) <= 1), "{told:?}");
        assert_eq!(told.iter().map(|(.., left)| left.as_millis()).collect::<Vec<_>>(), [1800, 600]);
    }

    #[test]
    fn a_short_reading_is_not_told() {
        let mut pace = Pace::default();
        let progress = ReadProgress { segments: 1, bytes: 1, bytes_read: 1, segments_read: 1 };
        assert_eq!(pace.tell(&progress, Duration::from_millis(999)), None);
    }

    #[test]
    fn a_disk_that_gives_nothing_is_told_too() {
        let mut pace = Pace::default();
        let progress = ReadProgress { segments: 1, bytes: u64::MAX, ..ReadProgress::default() };
        assert_eq!(pace.tell(&progress, TELL_EVERY).map(|told| told.bytes_per_second), Some(0));
    }
}
