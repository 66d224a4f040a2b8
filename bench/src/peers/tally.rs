//! What the clients of a peer count while it is measured.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::Peer;

/// Says when to count, and when to end.
#[derive(Debug, Default)]
pub(super) struct Phase {
    is_measuring: AtomicBool,
    is_over: AtomicBool,
}

impl Phase {
    pub(super) fn is_measuring(&self) -> bool {
        self.is_measuring.load(Ordering::Relaxed)
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Ends it early, as when a client has failed.
    pub(super) fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    /// Lets the load run for a quarter of `duration`, and then counts for all of it; how long that really was.
    pub(super) fn pass(&self, duration: Duration) -> Duration {
        self.wait(duration / 4);
        let begun = Instant::now();
        self.is_measuring.store(true, Ordering::Relaxed);
        self.wait(duration);
        self.is_measuring.store(false, Ordering::Relaxed);
        let took = begun.elapsed();
        self.end();
        took
    }

    fn wait(&self, duration: Duration) {
        const PACE: Duration = Duration::from_millis(5);
        let begun = Instant::now();
        while begun.elapsed() < duration && !self.is_over() {
            thread::sleep(PACE.min(duration.saturating_sub(begun.elapsed())));
        }
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
        if phase.is_measuring() {
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
