//! What the clients of a peer count while it is measured.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::Peer;

const PACE: Duration = Duration::from_millis(5);
/// How long the first answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Says when to count, and when to end.
#[derive(Debug, Default)]
pub(super) struct Phase {
    /// Some call was answered, and some call that counts.
    has_answered: AtomicBool,
    has_counted: AtomicBool,
    is_measuring: AtomicBool,
    is_over: AtomicBool,
}

impl Phase {
    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Ends it early, as when a client has failed.
    pub(super) fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    /// Lets the load run for a quarter of `duration` from the first answer on, and then counts for all of it, or longer until
    /// there is something to count; how long that really was.
    pub(super) fn pass(&self, duration: Duration) -> Duration {
        self.wait_for(&self.has_answered);
        self.wait(duration / 4);
        let begun = Instant::now();
        self.is_measuring.store(true, Ordering::Relaxed);
        self.wait(duration);
        self.wait_for(&self.has_counted);
        self.is_measuring.store(false, Ordering::Relaxed);
        let took = begun.elapsed();
        self.end();
        took
    }

    fn wait_for(&self, sign: &AtomicBool) {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE && !self.is_over() && !sign.load(Ordering::Relaxed) {
            thread::sleep(PACE);
        }
    }

    fn wait(&self, duration: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < duration && !self.is_over() {
            thread::sleep(PACE.min(duration.saturating_sub(begun.elapsed())));
        }
    }
}

/// Sets what is set most of the time: writing it anew would take it away from all other processors.
fn raise(sign: &AtomicBool) {
    if !sign.load(Ordering::Relaxed) {
        sign.store(true, Ordering::Relaxed);
    }
}

/// What one client saw while it counted.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) commands: u64,
    pub(super) latency_us: Histogram<u64>,
}

impl Default for Tally {
    fn default() -> Tally {
        let latency_us = Histogram::new_with_bounds(1, 600_000_000, 3).expect("constant bounds are sound");
        Tally { commands: 0, latency_us }
    }
}

impl Tally {
    /// Notes a call of so many commands that was answered now.
    pub(super) fn note(&mut self, phase: &Phase, commands: u32, begun: Instant) {
        raise(&phase.has_answered);
        if phase.is_measuring.load(Ordering::Relaxed) {
            raise(&phase.has_counted);
            self.commands += u64::from(commands);
            self.latency_us.saturating_record(begun.elapsed().as_micros() as u64);
        }
    }

    pub(super) fn add(mut self, other: &Tally) -> Tally {
        self.commands += other.commands;
        self.latency_us.add(&other.latency_us).expect("equal bounds");
        self
    }

    pub(super) fn peer(&self, name: &'static str, version: &str, settings: String, took: Duration) -> Peer {
        Peer {
            name,
            version: version.to_owned(),
            settings,
            commits_per_second: self.commands as f64 / took.as_secs_f64().max(1e-9),
            p50_us: Some(self.latency_us.value_at_quantile(0.5)),
            p99_us: Some(self.latency_us.value_at_quantile(0.99)),
            is_measured: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_answered_in_the_measured_part_counts() {
        let (phase, mut tally) = (Phase::default(), Tally::default());
        tally.note(&phase, 5, Instant::now());
        assert_eq!(tally.commands, 0, "nothing is measured yet");
        let took = thread::scope(|scope| {
            let passing = scope.spawn(|| phase.pass(Duration::from_millis(20)));
            while !phase.is_over() {
                tally.note(&phase, 5, Instant::now());
                thread::sleep(Duration::from_millis(1));
            }
            passing.join().expect("no panic")
        });
        assert!(tally.commands > 0 && took >= Duration::from_millis(20), "{} in {took:?}", tally.commands);
        let counted = tally.commands;
        tally.note(&phase, 5, Instant::now());
        assert_eq!(tally.commands, counted, "it is over");
    }
}
