//! Figures that change while nobody looks: counts, levels and distributions, shared between a shard and whoever asks.
//!
//! Plain atomic numbers, one addition for an event and no lock, because they are touched for every append and every
//! write. Nothing is decided by them, so a reader that sees one a little before another does no harm.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use synod_protocol::NodeId;

use crate::error::AppendError;

/// A number that goes up.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down; only one thread changes it.
#[derive(Debug, Default)]
pub(crate) struct Level(AtomicU64);

impl Level {
    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How long something took, counted by powers of two.
#[derive(Debug, Default)]
pub(crate) struct Durations {
    counts: [Count; Durations::BOUNDED + 1],
    sum_us: Count,
}

impl Durations {
    /// The first bound, in microseconds.
    const FIRST_US: u64 = 64;

    /// How many bounds there are, each twice the one before; the last is 17 seconds. What is longer is counted too.
    const BOUNDED: usize = 19;

    pub(crate) fn record(&self, duration: Duration) {
        let microseconds = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let place = microseconds.div_ceil(Durations::FIRST_US).next_power_of_two().trailing_zeros() as usize;
        self.counts[place.min(Durations::BOUNDED)].add(1);
        self.sum_us.add(microseconds);
    }

    /// Upper bounds in seconds, the last one infinite, and how many took at most so long, but longer than the bound
    /// before.
    pub(crate) fn buckets(&self) -> Vec<(f64, u64)> {
        let bound = |place: usize| match place {
            Durations::BOUNDED => f64::INFINITY,
            _ => (Durations::FIRST_US << place) as f64 / 1e6,
        };
        self.counts.iter().enumerate().map(|(place, count)| (bound(place), count.value())).collect()
    }

    /// How many there were.
    pub(crate) fn count(&self) -> u64 {
        self.counts.iter().map(Count::value).sum()
    }

    /// All together.
    pub(crate) fn sum_seconds(&self) -> f64 {
        self.sum_us.value() as f64 / 1e6
    }
}

/// Appends that were refused, by reason.
#[derive(Debug, Default)]
pub(crate) struct Refusals([Count; Refusals::NAMES.len()]);

impl Refusals {
    const NAMES: [&str; 7] = ["not_leader", "no_leader", "overloaded", "disk_full", "deadline", "shutdown", "unfit"];

    pub(crate) fn note(&self, error: &AppendError) {
        let place = match error {
            AppendError::NotLeader { .. } => 0,
            AppendError::NoLeader => 1,
            AppendError::Overloaded => 2,
            AppendError::DiskFull => 3,
            AppendError::DeadlinePassed => 4,
            AppendError::Shutdown | AppendError::Poisoned => 5,
            // The others aren't said before a submission is proposed, but to what can't be proposed at all.
            AppendError::TooLarge { .. }
            | AppendError::Empty
            | AppendError::Forbidden
            | AppendError::Refused(_)
            | AppendError::Unknown => 6,
        };
        self.0[place].add(1);
    }

    /// Names of the reasons, and how many.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Refusals::NAMES.into_iter().zip(self.0.iter().map(Count::value))
    }
}

/// One listener.
#[derive(Debug, Default)]
pub(crate) struct PortMeter {
    /// Connections that are there, those that haven't introduced themselves included.
    pub(crate) open: Level,
    /// Connections that were accepted.
    pub(crate) accepted: Count,
    /// Of those, closed for what came over them, or didn't come.
    pub(crate) refused: Count,
    /// Of those, closed to make room before they had introduced themselves.
    pub(crate) crowded_out: Count,
}

/// What this node sends to one peer over one of the two connections.
#[derive(Debug, Default)]
pub(crate) struct LinkMeter {
    /// 1 while there is a connection.
    pub(crate) up: Level,
    /// How often it came up.
    pub(crate) connects: Count,
    /// Bytes that wait to be sent.
    pub(crate) waiting_bytes: Level,
}

/// The two connections to a peer.
#[derive(Clone, Debug)]
pub(crate) struct PeerMeter {
    pub(crate) peer: NodeId,
    pub(crate) control: Arc<LinkMeter>,
    pub(crate) bulk: Arc<LinkMeter>,
}

impl PeerMeter {
    /// All at zero.
    pub(crate) fn of(peer: NodeId) -> PeerMeter {
        PeerMeter { peer, control: Arc::default(), bulk: Arc::default() }
    }
}

/// All of a node.
#[derive(Debug)]
pub(crate) struct Meters {
    started: Instant,
    /// Milliseconds from the start to the shard's last sign of life.
    beat_ms: Level,
    /// From the call of an append to its answer, of those that are delivered.
    pub(crate) append: Durations,
    /// From taking submissions out of the intake to handing their body to the core.
    pub(crate) compose: Durations,
    /// Writes and syncs of the log.
    pub(crate) write: Durations,
    pub(crate) sync: Durations,
    /// Submissions that were delivered and count.
    pub(crate) appended: Count,
    /// Submissions that were delivered and don't count.
    pub(crate) suppressed: Count,
    pub(crate) peer_port: PortMeter,
    pub(crate) client_port: PortMeter,
    peers: Mutex<Vec<PeerMeter>>,
}

impl Meters {
    /// All at zero.
    pub(crate) fn new() -> Meters {
        Meters {
            started: Instant::now(),
            beat_ms: Level::default(),
            append: Durations::default(),
            compose: Durations::default(),
            write: Durations::default(),
            sync: Durations::default(),
            appended: Count::default(),
            suppressed: Count::default(),
            peer_port: PortMeter::default(),
            client_port: PortMeter::default(),
            peers: Mutex::default(),
        }
    }

    /// The meters of the connections to a peer, made when they are first asked for.
    pub(crate) fn peer(&self, peer: NodeId) -> PeerMeter {
        let mut peers = self.peers.lock().expect("no code that holds this lock panics");
        if let Some(known) = peers.iter().find(|known| known.peer == peer) {
            return known.clone();
        }
        let new = PeerMeter::of(peer);
        peers.push(new.clone());
        new
    }

    /// Those of all peers.
    pub(crate) fn peers(&self) -> Vec<PeerMeter> {
        self.peers.lock().expect("no code that holds this lock panics").clone()
    }

    /// The shard lives.
    pub(crate) fn beat(&self) {
        self.beat_ms.set(self.started.elapsed().as_millis() as u64);
    }

    /// How long ago it last said so.
    pub(crate) fn silent_for(&self) -> Duration {
        self.started.elapsed().saturating_sub(Duration::from_millis(self.beat_ms.value()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_below_their_bound() {
        let durations = Durations::default();
        for microseconds in [0, 64, 65, 128, 129, 1_000_000, 16_777_216, 16_777_217, u64::MAX] {
            let before = durations.buckets();
            durations.record(Duration::from_micros(microseconds));
            let place = before.iter().zip(durations.buckets()).position(|(before, after)| *before != after);
            let place = place.expect("it was counted");
            let seconds = microseconds as f64 / 1e6;
            assert!(seconds <= before[place].0 && (place == 0 || seconds > before[place - 1].0), "{microseconds}");
        }
        assert_eq!(durations.buckets().iter().map(|(_, count)| count).sum::<u64>(), 9);
    }

    #[test]
    fn refusals_are_told_apart() {
        let refusals = Refusals::default();
        refusals.note(&AppendError::NoLeader);
        refusals.note(&AppendError::NoLeader);
        refusals.note(&AppendError::DiskFull);
        let counted: Vec<_> = refusals.all().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [("no_leader", 2), ("disk_full", 1)]);
    }
}
