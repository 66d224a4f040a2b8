//! The clients: a closed loop of append calls from one thread, following the leader.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_lite::future::block_on;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hdrhistogram::Histogram;
use synod::Log;
use synod_protocol::NodeId;

use crate::content::Content;
use crate::ledger::{Ledger, Outcome};

/// Shared between the clients and whoever watches them.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(crate) commands: AtomicU64,
    pub(crate) calls: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) unknown: AtomicU64,
    /// When a replica last began a segment, in microseconds since [`Progress::begun`]; zero before the first time.
    pub(crate) rotated_us: AtomicU64,
    pub(crate) rotations: AtomicU64,
    pub(crate) begun: Begun,
    /// Latencies count from now on.
    pub(crate) measuring: AtomicBool,
    pub(crate) stop: AtomicBool,
}

/// The moment from which [`Progress`] counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Begun(Instant);

impl Default for Begun {
    fn default() -> Begun {
        Begun(Instant::now())
    }
}

/// An append call counts as made at a rotation if it was acknowledged within this time after one.
pub(crate) const AT_ROTATION: Duration = Duration::from_millis(10);

/// How often to look whether a replica has begun a segment.
const ROTATION_PACE: Duration = Duration::from_micros(500);

impl Progress {
    fn now_us(&self) -> u64 {
        self.begun.0.elapsed().as_micros() as u64
    }

    /// Notes when replicas begin segments, until told to stop.
    pub(crate) fn watch_rotations(&self, logs: &[(NodeId, Log)]) {
        let count = || logs.iter().map(|(_, log)| log.status().wal.rotations).sum::<u64>();
        let mut before = count();
        while !self.stop.load(Ordering::Relaxed) {
            std::thread::sleep(ROTATION_PACE);
            let now = count();
            if now != before {
                self.rotated_us.store(self.now_us(), Ordering::Relaxed);
                if self.measuring.load(Ordering::Relaxed) {
                    self.rotations.fetch_add(now - before, Ordering::Relaxed);
                }
                before = now;
            }
        }
    }

    /// Whether a replica has begun a segment just now.
    fn is_at_rotation(&self) -> bool {
        let rotated_us = self.rotated_us.load(Ordering::Relaxed);
        rotated_us > 0 && self.now_us() - rotated_us.min(self.now_us()) < AT_ROTATION.as_micros() as u64
    }
}

/// What the clients saw.
#[derive(Debug)]
pub(crate) struct Seen {
    /// Microseconds from handing in an append call to its acknowledgement, while measuring.
    pub(crate) latency_us: Histogram<u64>,
    /// Those of them that were acknowledged at a rotation.
    pub(crate) at_rotation_us: Histogram<u64>,
    /// The others.
    pub(crate) between_us: Histogram<u64>,
}

/// Whom to ask, and what with.
#[derive(Clone)]
pub(crate) struct Clients {
    /// By node.
    pub(crate) logs: Vec<(NodeId, Log)>,
    pub(crate) content: Content,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) progress: Arc<Progress>,
}

impl Clients {
    /// Keeps `in_flight` append calls of `batch` commands under way until told to stop, and waits for the last answers.
    pub(crate) fn run(&self, in_flight: u32, batch: u32) -> Seen {
        let histogram = || Histogram::new_with_bounds(1, 600_000_000, 3).expect("constant bounds are sound");
        let mut seen = Seen { latency_us: histogram(), at_rotation_us: histogram(), between_us: histogram() };
        block_on(async {
            let mut calls = FuturesUnordered::new();
            let mut target = self.leader(0).await;
            for _ in 0..in_flight {
                calls.push(self.call(target, batch));
            }
            while let Some((leader, answered)) = calls.next().await {
                target = leader;
                if let Some(took) = answered {
                    self.progress.commands.fetch_add(u64::from(batch), Ordering::Relaxed);
                    self.progress.calls.fetch_add(1, Ordering::Relaxed);
                    if self.progress.measuring.load(Ordering::Relaxed) {
                        let took_us = took.as_micros() as u64;
                        let is_at = self.progress.is_at_rotation();
                        let part = if is_at { &mut seen.at_rotation_us } else { &mut seen.between_us };
                        part.saturating_record(took_us);
                        seen.latency_us.saturating_record(took_us);
                    }
                }
                if !self.progress.stop.load(Ordering::Relaxed) {
                    calls.push(self.call(target, batch));
                }
            }
        });
        seen
    }

    /// One append call: its time if it was acknowledged, and the node that seems to lead.
    async fn call(&self, target: usize, batch: u32) -> (usize, Option<Duration>) {
        let call = self.ledger.open(batch);
        let commands = self.content.batch(call, batch);
        let begun = Instant::now();
        match self.logs[target].1.append_batch(commands).await {
            Ok(slots) => {
                let took = begun.elapsed();
                assert_eq!(slots.end.since(slots.start), u64::from(batch), "a batch is acknowledged whole");
                self.ledger.close(call, Outcome::Acknowledged(slots.start));
                (target, Some(took))
            }
            Err(error) if error.is_certain() => {
                self.ledger.close(call, Outcome::Refused);
                self.progress.refused.fetch_add(1, Ordering::Relaxed);
                (self.leader(target).await, None)
            }
            Err(_) => {
                self.ledger.close(call, Outcome::Unknown);
                self.progress.unknown.fetch_add(1, Ordering::Relaxed);
                (self.leader(target).await, None)
            }
        }
    }

    /// The place of the node that leads, as soon as one does.
    async fn leader(&self, asked: usize) -> usize {
        let patience = Duration::from_millis(500);
        let Some(leader) = self.logs[asked].1.wait_for_leader(patience).await else {
            return (asked + 1) % self.logs.len();
        };
        self.logs.iter().position(|(node, _)| *node == leader).unwrap_or(asked)
    }
}
