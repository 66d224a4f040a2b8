//! What replicas count: read while figures count, and added up over restarts.

use std::time::Duration;

use crate::cluster::Member;
use crate::load::Load;
use crate::replica::{State, process_cpu_us};

/// What was counted on all replicas together.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counted {
    pub(crate) durable_writes: u64,
    pub(crate) bytes_appended: u64,
    pub(crate) bodies: u64,
    /// CPU of all processes, those of the clients included.
    pub(crate) cpu: Duration,
    /// Sum and number of looks at how many bodies the leader had proposed and not chosen, and at its unsynced bytes.
    pub(crate) looks: u64,
    pub(crate) open_bodies: u64,
    pub(crate) unsynced_bytes: u64,
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
        for (member, last) in self.members.iter().zip(&mut self.last) {
            // One that doesn't answer has counted nothing that could be told.
            let Some(now) = member.state() else { continue };
            let zero = || State {
                durable_writes: 0,
                bytes_appended: 0,
                bodies: 0,
                cpu_us: now.cpu_us.map(|_| 0),
                ..now.clone()
            };
            // A process that was started again counts from zero.
            let before = last.take().filter(|last| last.bytes_appended <= now.bytes_appended).unwrap_or_else(zero);
            let total = &mut self.total;
            total.durable_writes += now.durable_writes.saturating_sub(before.durable_writes);
            total.bytes_appended += now.bytes_appended - before.bytes_appended;
            total.bodies += now.bodies.saturating_sub(before.bodies);
            let cpu_us = now.cpu_us.unwrap_or(0).saturating_sub(before.cpu_us.unwrap_or(0));
            total.cpu += Duration::from_micros(cpu_us);
            if now.leads {
                total.looks += 1;
                total.open_bodies += u64::from(now.open_bodies);
                total.unsynced_bytes += now.unsynced_bytes;
            }
            *last = Some(now);
        }
    }

    /// The last look until it begins again. The load stands still or has ended by now, so that its clients have told
    /// what CPU they used.
    pub(crate) fn end(&mut self, load: &Load) {
        let (own, clients) = self.last_cpu_us;
        let used_us = process_cpu_us().saturating_sub(own) + load.cpu_us().saturating_sub(clients);
        self.total.cpu += Duration::from_micros(used_us);
    }

    pub(crate) fn total(&self) -> Counted {
        self.total
    }
}
