//! What the clients saw, over time: counts and latencies, pauses between acknowledgements, and what happened meanwhile.
//!
//! Times are microseconds of the machine's monotonic clock, which all processes share. Only what is acknowledged while a
//! *window* is open counts for the figures; the timeline has everything.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::cluster::Member;

/// An append call counts as made at a rotation if it was acknowledged within this time after one.
pub(crate) const AT_ROTATION: Duration = Duration::from_millis(10);

/// How often to look whether a replica has begun a segment.
const ROTATION_PACE: Duration = Duration::from_micros(500);

/// Pauses between acknowledgements that are kept.
const PAUSE_MIN_US: u64 = 20_000;

/// Points of a timeline at most; longer runs have longer ones.
const POINTS_MAX: u64 = 600;

/// Microseconds of the clock that all processes share.
pub(crate) fn now_us() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000
}

/// An append call that was acknowledged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answered {
    pub(crate) commands: u32,
    /// When the call was due, by schedule; in a closed loop, when it began.
    pub(crate) due_us: u64,
    pub(crate) begun_us: u64,
    pub(crate) done_us: u64,
}

/// A part of a run whose figures count.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Window {
    pub(crate) start_us: u64,
    pub(crate) end_us: u64,
    pub(crate) commands: u64,
    pub(crate) calls: u64,
}

impl Window {
    pub(crate) fn seconds(&self) -> f64 {
        self.end_us.saturating_sub(self.start_us) as f64 / 1e6
    }

    pub(crate) fn commands_per_second(&self) -> f64 {
        self.commands as f64 / self.seconds().max(1e-9)
    }
}

/// A part of the timeline.
#[derive(Clone, Debug)]
struct Bin {
    commands: u64,
    latency_us: Histogram<u64>,
}

/// A part of the timeline, as it is told.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Point {
    /// Its start, in seconds after the measurement began; below zero in the warm-up.
    pub(crate) at_seconds: f64,
    pub(crate) commits_per_second: f64,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) max_us: u64,
    /// Whether it lies in a part that counts.
    pub(crate) counts: bool,
}

/// What a part of the timeline gave.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Span {
    pub(crate) commits_per_second: f64,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
}

/// All that was seen.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// From when the call was due to its acknowledgement, in microseconds.
    pub(crate) latency_us: Histogram<u64>,
    /// From when the call began.
    pub(crate) service_us: Histogram<u64>,
    /// Those that were acknowledged at a rotation.
    pub(crate) at_rotation_us: Histogram<u64>,
    /// The others.
    pub(crate) between_us: Histogram<u64>,
    pub(crate) windows: Vec<Window>,
    bins: Vec<Bin>,
    /// From one acknowledgement to the next.
    pub(crate) pauses: Vec<(u64, u64)>,
    last_us: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Recorder {
    begun_us: u64,
    bin_us: u64,
    /// Commands acknowledged, measured or not.
    commands: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) unknown: AtomicU64,
    /// When a replica last began a segment; zero before the first time.
    rotated_us: AtomicU64,
    rotations: AtomicU64,
    is_measuring: AtomicBool,
    seen: Mutex<Seen>,
}

fn histogram(digits: u8) -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, digits).expect("constant bounds are sound")
}

impl Recorder {
    /// Begins now, for a load of about `expected`.
    pub(crate) fn new(expected: Duration) -> Recorder {
        let bin_us = (expected.as_micros() as u64 / POINTS_MAX).next_multiple_of(100_000).max(100_000);
        Recorder {
            begun_us: now_us(),
            bin_us,
            commands: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            rotated_us: AtomicU64::new(0),
            rotations: AtomicU64::new(0),
            is_measuring: AtomicBool::new(false),
            seen: Mutex::new(Seen {
                latency_us: histogram(3),
                service_us: histogram(3),
                at_rotation_us: histogram(3),
                between_us: histogram(3),
                windows: Vec::new(),
                bins: Vec::new(),
                pauses: Vec::new(),
                last_us: 0,
            }),
        }
    }

    /// Notes calls that were acknowledged.
    pub(crate) fn note(&self, answered: impl Iterator<Item = Answered>) {
        let rotated_us = self.rotated_us.load(Ordering::Relaxed);
        let mut seen = self.lock();
        for one in answered {
            self.commands.fetch_add(u64::from(one.commands), Ordering::Relaxed);
            let latency_us = one.done_us.saturating_sub(one.due_us);
            seen.note_pause(one.done_us);
            seen.bin(one.done_us.saturating_sub(self.begun_us) / self.bin_us).note(one.commands, latency_us);
            let windows = &mut seen.windows;
            let window =
                windows.iter_mut().rev().find(|window| (window.start_us..window.end_us).contains(&one.done_us));
            let Some(window) = window else { continue };
            window.commands += u64::from(one.commands);
            window.calls += 1;
            seen.latency_us.saturating_record(latency_us);
            seen.service_us.saturating_record(one.done_us.saturating_sub(one.begun_us));
            let since_us = one.done_us.saturating_sub(rotated_us);
            let is_at = rotated_us > 0 && since_us < AT_ROTATION.as_micros() as u64;
            let part = if is_at { &mut seen.at_rotation_us } else { &mut seen.between_us };
            part.saturating_record(latency_us);
        }
    }

    /// From now on figures count.
    pub(crate) fn open_window(&self) {
        self.lock().windows.push(Window { start_us: now_us(), end_us: u64::MAX, commands: 0, calls: 0 });
        self.is_measuring.store(true, Ordering::Relaxed);
    }

    /// Until now.
    pub(crate) fn close_window(&self) -> Window {
        self.is_measuring.store(false, Ordering::Relaxed);
        let mut seen = self.lock();
        let window = seen.windows.last_mut().expect("a window is open");
        window.end_us = now_us();
        *window
    }

    /// Commands acknowledged so far.
    pub(crate) fn commands(&self) -> u64 {
        self.commands.load(Ordering::Relaxed)
    }

    /// Segments begun while figures counted, on all replicas together.
    pub(crate) fn rotations(&self) -> u64 {
        self.rotations.load(Ordering::Relaxed)
    }

    /// What was seen so far.
    pub(crate) fn seen(&self) -> Seen {
        self.lock().clone()
    }

    /// The timeline, in seconds after `start_us`. Its last part is left out: it isn't complete.
    pub(crate) fn timeline(&self, start_us: u64) -> Vec<Point> {
        let seen = self.lock();
        let complete = (now_us().saturating_sub(self.begun_us) / self.bin_us) as usize;
        let told = |(place, bin): (usize, &Bin)| {
            let (from, to) =
                (self.begun_us + place as u64 * self.bin_us, self.begun_us + (place as u64 + 1) * self.bin_us);
            Point {
                at_seconds: (from as f64 - start_us as f64) / 1e6,
                commits_per_second: bin.commands as f64 * 1e6 / self.bin_us as f64,
                p50_us: bin.latency_us.value_at_quantile(0.5),
                p99_us: bin.latency_us.value_at_quantile(0.99),
                max_us: bin.latency_us.max(),
                counts: seen.windows.iter().any(|window| window.start_us <= from && to <= window.end_us),
            }
        };
        seen.bins.iter().take(complete).enumerate().map(told).collect()
    }

    /// What a part of the timeline gave, in whole points; none if no point lies in it.
    pub(crate) fn span(&self, from_us: u64, to_us: u64) -> Option<Span> {
        let seen = self.lock();
        let first = from_us.saturating_sub(self.begun_us).div_ceil(self.bin_us) as usize;
        let end = (to_us.saturating_sub(self.begun_us) / self.bin_us) as usize;
        let bins = seen.bins.get(first..end.min(seen.bins.len())).filter(|bins| !bins.is_empty())?;
        let mut latency_us = histogram(2);
        for bin in bins {
            latency_us.add(&bin.latency_us).expect("equal bounds");
        }
        let commands: u64 = bins.iter().map(|bin| bin.commands).sum();
        Some(Span {
            commits_per_second: commands as f64 * 1e6 / (bins.len() as u64 * self.bin_us) as f64,
            p50_us: latency_us.value_at_quantile(0.5),
            p99_us: latency_us.value_at_quantile(0.99),
        })
    }

    /// Notes when replicas begin segments, until told to stop.
    pub(crate) fn watch_rotations(&self, members: &[Member], stop: &AtomicBool) {
        let count = || members.iter().filter_map(Member::rotations).sum::<u64>();
        let mut before = count();
        while !stop.load(Ordering::Relaxed) {
            std::thread::sleep(ROTATION_PACE);
            let now = count();
            if now != before {
                self.rotated_us.store(now_us(), Ordering::Relaxed);
                if self.is_measuring.load(Ordering::Relaxed) {
                    self.rotations.fetch_add(now - before, Ordering::Relaxed);
                }
                before = now;
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().expect("no code that holds this lock panics")
    }
}

impl Seen {
    /// The longest pause between two acknowledgements that reaches into `from_us..to_us`. One that hasn't ended by then is
    /// one too, as long as is known.
    pub(crate) fn longest_pause(&self, from_us: u64, to_us: u64) -> Option<(u64, u64)> {
        let has_not_ended = self.last_us > 0 && to_us != u64::MAX && to_us > self.last_us + PAUSE_MIN_US;
        let last = has_not_ended.then_some((self.last_us, to_us));
        let reaches = |pause: &(u64, u64)| pause.1 > from_us && pause.0 < to_us;
        self.pauses.iter().copied().chain(last).filter(reaches).max_by_key(|(from, to)| to - from)
    }

    fn note_pause(&mut self, done_us: u64) {
        if self.last_us > 0 && done_us > self.last_us + PAUSE_MIN_US {
            self.pauses.push((self.last_us, done_us));
        }
        self.last_us = self.last_us.max(done_us);
    }

    fn bin(&mut self, place: u64) -> &mut Bin {
        // Bounded: nobody is answered later than now, and bins are as long as the load is.
        while self.bins.len() as u64 <= place {
            self.bins.push(Bin { commands: 0, latency_us: histogram(2) });
        }
        &mut self.bins[place as usize]
    }
}

impl Bin {
    fn note(&mut self, commands: u32, latency_us: u64) {
        self.commands += u64::from(commands);
        self.latency_us.saturating_record(latency_us);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_windows_count_and_pauses_are_kept() {
        let recorder = Recorder::new(Duration::from_secs(1));
        let start = now_us();
        let answer = |done_us: u64| Answered { commands: 10, due_us: done_us - 300, begun_us: done_us - 100, done_us };
        recorder.note([answer(start + 1)].into_iter());
        recorder.open_window();
        let opened = recorder.seen().windows[0].start_us;
        recorder.note([answer(opened), answer(opened + 50_000)].into_iter());
        let mut seen = recorder.seen();
        assert_eq!((seen.windows[0].commands, seen.windows[0].calls, recorder.commands()), (20, 2, 30));
        assert_eq!((seen.latency_us.max(), seen.service_us.max()), (300, 100));
        assert_eq!(seen.pauses, [(opened, opened + 50_000)]);
        assert_eq!(seen.longest_pause(opened + 10, opened + 20), Some((opened, opened + 50_000)));
        assert_eq!(seen.longest_pause(opened + 60_000, u64::MAX), None);
        let unended = Some((opened + 50_000, opened + 150_000));
        assert_eq!(seen.longest_pause(opened + 60_000, opened + 150_000), unended, "nobody was answered until the end");
        seen.note_pause(opened + 40_000);
        assert_eq!(seen.pauses.len(), 1, "late news is no pause");
        let window = recorder.close_window();
        assert_eq!(window.commands, 20);
        recorder.note([answer(now_us() + 10)].into_iter());
        assert_eq!(recorder.seen().windows[0].commands, 20);
    }
}
