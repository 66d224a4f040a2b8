//! When calls of an open loop are due.

use serde::{Deserialize, Serialize};

use crate::options::Arrival;

/// So many calls a second, whatever becomes of them.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Rate {
    pub(crate) calls_per_second: f64,
    pub(crate) arrival: Arrival,
}

/// The times at which calls are due, one after the other.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    rate: Rate,
    next_us: f64,
    random: u64,
}

impl Schedule {
    /// From `now_us` on; `seed` must differ between threads.
    pub(crate) fn new(rate: Rate, seed: u64, now_us: u64) -> Schedule {
        let mut schedule = Schedule { rate, next_us: now_us as f64, random: seed.wrapping_mul(2).wrapping_add(1) };
        schedule.step();
        schedule
    }

    /// When the next call is due; it is taken off if that isn't later than now.
    pub(crate) fn take(&mut self, now_us: u64) -> Result<u64, u64> {
        let due_us = self.next_us as u64;
        if due_us > now_us {
            return Err(due_us);
        }
        self.step();
        Ok(due_us)
    }

    /// Forgets what was due until now: the load stood still on purpose.
    pub(crate) fn resume(&mut self, now_us: u64) {
        self.next_us = self.next_us.max(now_us as f64);
    }

    fn step(&mut self) {
        let mean_us = 1e6 / self.rate.calls_per_second;
        self.next_us += match self.rate.arrival {
            Arrival::Uniform => mean_us,
            Arrival::Poisson => -self.uniform().ln() * mean_us,
        };
    }

    /// Above 0, at most 1.
    fn uniform(&mut self) -> f64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.random >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_calls_are_due_as_the_rate_says() {
        for arrival in [Arrival::Uniform, Arrival::Poisson] {
            let mut schedule = Schedule::new(Rate { calls_per_second: 2000.0, arrival }, 3, 1_000_000);
            let mut due = Vec::new();
            while let Ok(due_us) = schedule.take(6_000_000) {
                due.push(due_us);
            }
            assert!((due.len() as f64 - 10_000.0).abs() < 400.0, "{arrival:?}: {}", due.len());
            assert!(due.is_sorted() && due[0] >= 1_000_000 && due[due.len() - 1] <= 6_000_000);
            let gaps: std::collections::BTreeSet<u64> = due.windows(2).map(|pair| pair[1] - pair[0]).collect();
            assert_eq!(gaps.len() > 10, arrival == Arrival::Poisson);
            schedule.resume(9_000_000);
            assert!(schedule.take(8_999_999).is_err(), "what was due meanwhile is forgotten");
        }
    }
}
