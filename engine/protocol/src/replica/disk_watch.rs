//! Noticing a disk that stalls: an append that stays undurable for too long.

use std::time::Duration;

use super::Instant;
use crate::effect::AppendId;

/// The newest append at some moment, and that moment: as long as it isn't durable, the disk has been busy since then.
/// Both are zero while nothing is awaited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct DiskWatch {
    awaited: AppendId,
    since: Instant,
}

impl DiskWatch {
    /// Looks at the disk's progress. Called at every event: the watch is as fine as they are.
    pub(super) fn look(&mut self, now: Instant, appended: AppendId, durable: AppendId) {
        if durable >= appended {
            *self = DiskWatch::default();
        } else if durable >= self.awaited {
            *self = DiskWatch { awaited: appended, since: now };
        }
    }

    /// For how long at least the oldest append that isn't durable has been waiting.
    pub(super) fn stalled(&self, now: Instant, durable: AppendId) -> Duration {
        if durable >= self.awaited { Duration::ZERO } else { now.since(self.since) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_stalls_as_long_as_an_append_waits() {
        let mut watch = DiskWatch::default();
        watch.look(Instant(100), AppendId(0), AppendId(0));
        assert_eq!(watch.stalled(Instant(900), AppendId(0)), Duration::ZERO, "nothing to do is no stall");
        watch.look(Instant(1000), AppendId(2), AppendId(0));
        watch.look(Instant(1500), AppendId(3), AppendId(1));
        assert_eq!(watch.stalled(Instant(1600), AppendId(1)), Duration::from_micros(600));
        watch.look(Instant(1700), AppendId(3), AppendId(2));
        assert_eq!(watch.stalled(Instant(1800), AppendId(2)), Duration::from_micros(100), "slow is not stalled");
        watch.look(Instant(1900), AppendId(3), AppendId(3));
        assert_eq!(watch.stalled(Instant(9900), AppendId(3)), Duration::ZERO);
    }
}
