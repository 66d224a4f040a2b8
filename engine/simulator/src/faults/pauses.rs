//! Processes that stand still for a while and then go on as if nothing had been: stopped, swapped out, or migrated.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::random::{Chance, Random};

/// How often nodes stand still, and for how long.
#[derive(Clone, Debug)]
pub struct PauseFaults {
    /// Time between two pauses; none if there are none.
    pub every: Option<RangeInclusive<Duration>>,
    /// How long a pause lasts.
    pub lasts: RangeInclusive<Duration>,
}

impl PauseFaults {
    /// No node stands still.
    pub const NONE: PauseFaults = PauseFaults { every: None, lasts: Duration::ZERO..=Duration::ZERO };

    pub(super) fn draw(random: &mut Random, pace: u64) -> PauseFaults {
        let every = random.chance(Chance::of(1, 2)).then(|| {
            let shortest = random.spread(pace..=pace * 10);
            Duration::from_micros(shortest)..=Duration::from_micros(shortest * 3)
        });
        PauseFaults {
            every,
            lasts: Duration::from_millis(1)..=Duration::from_micros(random.spread(pace / 4..=pace * 8)),
        }
    }

    /// Draws the time to the next pause; `None` if there is none.
    pub fn draw_wait(&self, random: &mut Random) -> Option<Duration> {
        self.every.clone().map(|every| random.spread_time(every))
    }

    /// Draws how long a pause lasts.
    pub fn draw_pause(&self, random: &mut Random) -> Duration {
        random.spread_time(self.lasts.clone())
    }
}
