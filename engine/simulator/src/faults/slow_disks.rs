//! Disks that take their time: each operation its own, so that writes complete out of order; one disk slower than the
//! others; and disks that stall.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::random::{Chance, Random};

/// How long disks take.
#[derive(Clone, Debug)]
pub struct DiskFaults {
    /// How long an operation usually takes.
    pub latency: RangeInclusive<Duration>,
    /// It takes much longer than that.
    pub stall: Chance,
    /// How long it takes then.
    pub stall_latency: RangeInclusive<Duration>,
    /// The node whose disk is slower than the others, by index modulo the number of nodes, and how many times slower.
    pub slow: Option<(usize, u32)>,
}

impl DiskFaults {
    /// A disk without faults.
    pub const HEALTHY: DiskFaults = DiskFaults {
        latency: Duration::from_micros(20)..=Duration::from_micros(200),
        stall: Chance::NEVER,
        stall_latency: Duration::ZERO..=Duration::ZERO,
        slow: None,
    };

    pub(super) fn draw(random: &mut Random, pace: u64) -> DiskFaults {
        let slowest = Duration::from_micros(random.spread(50..=pace / 8));
        let slow = random.chance(Chance::of(1, 4));
        DiskFaults {
            latency: Duration::from_micros(20)..=slowest,
            stall: random.pick(&[Chance::NEVER, Chance::of(1, 1000), Chance::of(1, 50)]),
            stall_latency: slowest..=Duration::from_micros(random.spread(pace / 4..=pace * 8)),
            slow: slow.then(|| (random.index(16), random.spread(2..=50) as u32)),
        }
    }

    /// Draws how long an operation of a node takes.
    pub fn draw_latency(&self, random: &mut Random, node: usize, nodes: usize) -> Duration {
        let range = if random.chance(self.stall) { &self.stall_latency } else { &self.latency };
        let latency = random.spread_time(range.clone());
        match self.slow {
            Some((slow, factor)) if slow % nodes == node => latency * factor,
            _ => latency,
        }
    }
}
