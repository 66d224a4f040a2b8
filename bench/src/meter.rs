//! What replicas count: read while figures count, and added up over restarts.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::cluster::Member;
use crate::load::Load;
use crate::replica::{State, process_cpu_us};

/// What was counted on all replicas together.
#[derive(Clone, Debug)]
pub(crate) struct Counted {
    pub(crate) durable_writes: u64,
    pub(crate) bytes_appended: u64,
    pub(crate) bodies: u64,
    /// CPU of all processes, those of the clients included.
    pub(crate) cpu: Duration,
    /// Looks at the leader, and over all of them: bodies that it had proposed and not chosen, its unsynced bytes, submissions
    /// that waited to be proposed, and bytes that waited to be sent to a majority.
    pub(crate) looks: u64,
    pub(crate) open_bodies: u64,
    pub(crate) unsynced_bytes: u64,
    pub(crate) waiting: u64,
    pub(crate) outgoing_bytes: u64,
    /// Submissions that were delivered and bodies that were composed, and how long that took, in microseconds.
    pub(crate) delivered: u64,
    pub(crate) delivered_us: u64,
    pub(crate) composed: u64,
    pub(crate) composed_us: u64,
    /// Commits per durable write from one look to the next, each as often as there were writes.
    pub(crate) commits_per_write: Histogram<u64>,
}

impl Default for Counted {
    fn default() -> Counted {
        let (durable_writes, bytes_appended, bodies, cpu) = (0, 0, 0, Duration::ZERO);
        let (looks, open_bodies, unsynced_bytes, waiting, outgoing_bytes) = (0, 0, 0, 0, 0);
        let (delivered, delivered_us, composed, composed_us) = (0, 0, 0, 0);
        let commits_per_write = Histogram::new_with_bounds(1, 1 << 24, 2).expect("constant bounds are sound");
        Counted {
            durable_writes,
            bytes_appended,
            bodies,
            cpu,
            looks,
            open_bodies,
            unsynced_bytes,
            waiting,
            outgoing_bytes,
            delivered,
            delivered_us,
            composed,
            composed_us,
            commits_per_write,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Meter {
    members: Vec<Member>,
    last: Vec<Option<State>>,
    last_cpu_us: (u64, u64),
    total: Counted,
}

impl Meter {
    pub(crate) fn new(members: Vec<Member>) -> Meter {
        let last = vec![None; members.len()];
        Meter { members, last, last_cpu_us: (0, 0), total: Counted::default() }
    }

    /// From now on it counts.
    pub(crate) fn begin(&mut self, load: &Load) {
        self.last = self.members.iter().map(Member::state).collect();
        self.last_cpu_us = (process_cpu_us(), load.cpu_us());
    }

    /// Adds what was counted since the last look.
    pub(crate) fn look(&mut self) {
        let (mut commits, mut writes) = (0, 0);
        for (member, last) in self.members.iter().zip(&mut self.last) {
            // One that doesn't answer has counted nothing that could be told.
            let Some(now) = member.state() else { continue };
            let zero = || State {
                durable_writes: 0,
                bytes_appended: 0,
                bodies: 0,
                delivered: 0,
                delivered_us: 0,
                composed: 0,
                composed_us: 0,
                cpu_us: now.cpu_us.map(|_| 0),
                ..now.clone()
            };
            // A process that was started again counts from zero.
            let before = last.take().filter(|last| last.bytes_appended <= now.bytes_appended).unwrap_or_else(zero);
            let total = &mut self.total;
            let written = now.durable_writes.saturating_sub(before.durable_writes);
            writes += written;
            total.durable_writes += written;
            total.delivered += now.delivered.saturating_sub(before.delivered);
            total.delivered_us += now.delivered_us.saturating_sub(before.delivered_us);
            total.composed += now.composed.saturating_sub(before.composed);
            total.composed_us += now.composed_us.saturating_sub(before.composed_us);
            total.bytes_appended += now.bytes_appended - before.bytes_appended;
            total.bodies += now.bodies.saturating_sub(before.bodies);
            let cpu_us = now.cpu_us.unwrap_or(0).saturating_sub(before.cpu_us.unwrap_or(0));
            total.cpu += Duration::from_micros(cpu_us);
            if now.leads {
                total.looks += 1;
                total.open_bodies += u64::from(now.open_bodies);
                total.unsynced_bytes += now.unsynced_bytes;
                total.waiting += now.waiting;
                total.outgoing_bytes += now.outgoing_bytes;
                commits = now.mark().slot.0.saturating_sub(before.mark().slot.0);
            }
            *last = Some(now);
        }
        if commits > 0 && writes > 0 {
            self.total.commits_per_write.saturating_record_n(commits.div_ceil(writes), writes);
        }
    }

    /// The last look until it begins again. The load stands still or has ended by now, so that its clients have told
    /// what CPU they used.
    pub(crate) fn end(&mut self, load: &Load) {
        let (own, clients) = self.last_cpu_us;
        let used_us = process_cpu_us().saturating_sub(own) + load.cpu_us().saturating_sub(clients);
        self.total.cpu += Duration::from_micros(used_us);
    }

    pub(crate) fn total(self) -> Counted {
        self.total
    }
}
