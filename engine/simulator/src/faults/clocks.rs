//! Wall clocks that differ. They go into bodies as the log's own time, and into nothing else.

use crate::random::{Chance, Random};

/// How far wall clocks are apart.
#[derive(Clone, Debug)]
pub struct ClockFaults {
    /// By how much the clock of each node is ahead, by index modulo their number, in microseconds.
    ahead_us: [u64; 5],
}

impl ClockFaults {
    /// All clocks show the same.
    pub const EQUAL: ClockFaults = ClockFaults { ahead_us: [0; 5] };

    pub(super) fn draw(random: &mut Random, pace: u64) -> ClockFaults {
        let farthest = if random.chance(Chance::of(1, 2)) { random.spread(1..=pace * 100) } else { 0 };
        ClockFaults { ahead_us: [0; 5].map(|_| random.within(0..=farthest)) }
    }

    /// What a node's wall clock shows at this time.
    pub fn wall_clock_us(&self, node: usize, now_us: u64) -> u64 {
        now_us + self.ahead_us[node % self.ahead_us.len()]
    }
}
