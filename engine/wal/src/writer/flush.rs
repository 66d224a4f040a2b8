//! Which of a file's writes are durable.

use crate::lsn::SyncId;

/// When a completed write is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncMode {
    /// Every write is durable when it completes: the file is opened with `O_DSYNC`.
    Dsync,
    /// Completed writes wait for a sync of their file, which covers all that completed before it began.
    #[default]
    Fdatasync,
}

/// The writes of one file: `synced <= written`, counted in the order of completion.
#[derive(Debug, Default)]
pub(super) struct Flush {
    written: u64,
    synced: u64,
    /// The sync in flight, and how many writes had completed when it began.
    in_flight: Option<(SyncId, u64)>,
}

impl Flush {
    /// A write completed; it is durable once [`Flush::covers`] says so of the returned number.
    pub(super) fn complete(&mut self, mode: SyncMode) -> u64 {
        self.written += 1;
        if mode == SyncMode::Dsync {
            self.synced = self.written;
        }
        self.written
    }

    pub(super) fn covers(&self, ticket: u64) -> bool {
        self.synced >= ticket
    }

    /// Whether a sync should be started. Never two at once for one file: what completes meanwhile shares the next one.
    pub(super) fn wants_sync(&self) -> bool {
        self.written > self.synced && self.in_flight.is_none()
    }

    pub(super) fn start(&mut self, sync: SyncId) {
        self.in_flight = Some((sync, self.written));
    }

    /// Whether `sync` was this file's.
    pub(super) fn finish(&mut self, sync: SyncId) -> bool {
        match self.in_flight {
            Some((id, covered)) if id == sync => {
                self.synced = covered;
                self.in_flight = None;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_covers_what_completed_before_it_began() {
        let mut flush = Flush::default();
        let first = flush.complete(SyncMode::Fdatasync);
        assert!(flush.wants_sync() && !flush.covers(first));
        flush.start(SyncId(1));
        let second = flush.complete(SyncMode::Fdatasync);
        assert!(!flush.wants_sync());
        assert!(!flush.finish(SyncId(9)));
        assert!(flush.finish(SyncId(1)));
        assert!(flush.covers(first) && !flush.covers(second));
        assert!(flush.wants_sync());
    }

    #[test]
    fn dsync_needs_no_sync() {
        let mut flush = Flush::default();
        let ticket = flush.complete(SyncMode::Dsync);
        assert!(flush.covers(ticket) && !flush.wants_sync());
    }
}
