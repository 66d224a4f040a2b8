//! Time as the core wants it: microseconds that never go back, and the wall clock for what leaders write into bodies.

use std::time::{SystemTime, UNIX_EPOCH};

use synod_protocol::Instant;

/// A clock whose zero is the moment at which it was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    origin: std::time::Instant,
}

impl Clock {
    /// Starts at zero.
    pub(crate) fn start() -> Clock {
        Clock { origin: std::time::Instant::now() }
    }

    /// Now.
    pub(crate) fn now(&self) -> Instant {
        Instant(u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// Microseconds since 1970. May go back; whoever writes it into a log takes the highest seen.
    pub(crate) fn wall_us(&self) -> u64 {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX)
    }
}
