//! Clocks that differ. Wall clocks are ahead of each other, and jump; they go into bodies as the log's own time, and into
//! nothing else. The clocks behind timers never jump, but run at different speeds.

use std::time::Duration;

use synod_protocol::Instant;

use crate::random::{Chance, Random};

/// The speed of a clock that is right, in thousandths.
const RIGHT: u64 = 1000;

/// How far clocks are apart.
#[derive(Clone, Debug)]
pub struct ClockFaults {
    /// By how much the wall clock of each node is ahead, by index modulo their number, in microseconds.
    ahead_us: [u64; 5],
    /// How fast the timer clock of each node runs, likewise, in thousandths.
    speeds: [u64; 5],
    /// The node whose wall clock jumps, when, and by how many microseconds it is ahead from then on.
    jump: Option<(usize, Duration, u64)>,
}

impl ClockFaults {
    /// All clocks show the same.
    pub const EQUAL: ClockFaults = ClockFaults { ahead_us: [0; 5], speeds: [RIGHT; 5], jump: None };

    pub(super) fn draw(random: &mut Random, pace: u64) -> ClockFaults {
        let farthest = if random.chance(Chance::of(1, 2)) { random.spread(1..=pace * 100) } else { 0 };
        ClockFaults { ahead_us: [0; 5].map(|_| random.within(0..=farthest)), ..ClockFaults::EQUAL }
    }

    /// Draws how clocks go on from there.
    pub(super) fn draw_drift(&mut self, random: &mut Random, pace: u64) {
        if random.chance(Chance::of(1, 3)) {
            let most = random.pick(&[1, 10, 100]);
            self.speeds = [0; 5].map(|_| RIGHT - most + random.below(2 * most + 1));
        }
        if random.chance(Chance::of(1, 3)) {
            let when = Duration::from_micros(random.within(0..=pace * 30));
            // Up to an hour ahead, or back to being right.
            self.jump = Some((random.index(5), when, random.pick(&[0, pace, 3_600_000_000])));
        }
    }

    /// All timers are right, and no wall clock jumps.
    pub(super) fn be_steady(&mut self) {
        (self.speeds, self.jump) = ([RIGHT; 5], None);
    }

    /// Whether timers run at different speeds.
    pub fn drifts(&self) -> bool {
        self.speeds != [RIGHT; 5]
    }

    /// Whether a wall clock jumps.
    pub fn jumps(&self) -> bool {
        self.jump.is_some()
    }

    /// What a node's wall clock shows at this time, so long after the beginning.
    pub fn wall_clock_us(&self, node: usize, now: Instant, elapsed: Duration) -> u64 {
        let index = node % self.ahead_us.len();
        let ahead = match self.jump {
            Some((jumper, when, ahead)) if jumper == index && elapsed >= when => ahead,
            _ => self.ahead_us[index],
        };
        now.0 + ahead
    }

    /// What a node's timer clock shows at this time.
    pub fn timer(&self, node: usize, now: Instant) -> Instant {
        match self.speeds[node % self.speeds.len()] {
            RIGHT => now,
            speed => Instant((u128::from(now.0) * u128::from(speed) / u128::from(RIGHT)) as u64),
        }
    }

    /// When a node's timer clock shows this time, or a moment later.
    pub fn when(&self, node: usize, timer: Instant) -> Instant {
        match self.speeds[node % self.speeds.len()] {
            RIGHT => timer,
            _ if timer == Instant(u64::MAX) => timer,
            speed => Instant((u128::from(timer.0) * u128::from(RIGHT)).div_ceil(u128::from(speed)) as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_has_come_when_it_should() {
        for seed in 0..100 {
            let mut random = Random::stream(seed, "test");
            let mut clocks = ClockFaults::draw(&mut random, 100_000);
            clocks.draw_drift(&mut random, 100_000);
            for node in 0..9 {
                let deadline = Instant(1_000_000 + random.below(1 << 40));
                let when = clocks.when(node, deadline);
                assert!(clocks.timer(node, when) >= deadline);
                assert!(clocks.timer(node, Instant(when.0 - 2)) < deadline);
            }
        }
    }
}
