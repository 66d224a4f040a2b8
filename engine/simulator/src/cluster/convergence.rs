//! The second phase: nothing goes wrong any more, and the cluster must come together. A new command must be delivered
//! by every node within bounds, all logs must be equal, and every node must give all of its log out again.

use std::time::Duration;

use synod_protocol::Instant;

use crate::faults::slow_disks::DiskFaults;
use crate::invariants::Property;
use crate::network::node_id;
use crate::node::Reader;

use super::{Cluster, Event};

/// How often to look.
const PROBE_INTERVAL: Duration = Duration::from_millis(50);

/// What is on its way when faults stop arrives within this time.
const AFTERMATH: Duration = Duration::from_millis(100);

/// Bodies that each node is asked for in the end.
const FINAL_READS: usize = 64;

/// How far the cluster has come together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Convergence {
    since: Instant,
    acked_before: u64,
    /// Everybody has everything: what is left is to read it back.
    reading: bool,
}

impl Cluster {
    /// Ends all faults.
    pub(super) fn heal(&mut self) {
        let now = self.now();
        self.trace.note(now, "heal", &[], String::new);
        self.convergence = Some(Convergence { since: now, acked_before: self.stats().commands_acked, reading: false });
        self.disks = DiskFaults::HEALTHY;
        let latest = now.plus(AFTERMATH);
        self.network.heal(latest);
        self.schedule.reschedule(|at, event| match event {
            Event::Arrive(_) | Event::Disk { .. } => Some(at.min(latest)),
            Event::Wake { .. } => Some(at),
            _ => None,
        });
        for index in 0..self.nodes.len() {
            if let Some(running) = &mut self.nodes[index].running {
                running.crash_in = None;
            }
            let life = self.nodes[index].life;
            self.resume(index, life);
            self.start(index, life);
        }
        self.schedule.after(PROBE_INTERVAL, Event::Probe);
    }

    pub(super) fn probe(&mut self) {
        let Some(convergence) = self.convergence else { return };
        let waited = self.now().since(convergence.since);
        if convergence.reading {
            if self.nodes.iter().all(|node| node.running.as_ref().is_some_and(|running| running.readers.is_empty())) {
                self.over = true;
                return;
            }
        } else if self.has_converged(convergence) {
            self.stats.healing_longest = waited;
            self.read_everything();
        } else if self.stats().commands_acked == convergence.acked_before {
            for index in 0..self.nodes.len() {
                let idle = self.nodes[index].running.as_ref().is_some_and(|running| running.desk.is_idle());
                if idle && self.leads(index) {
                    self.submit(index);
                }
            }
        }
        if waited > self.plan.patience() {
            let what = match convergence.reading {
                true => "could not be read back",
                false => "did not come together",
            };
            let detail = format!("the cluster {what} in {waited:?} without faults; {}", self.describe_nodes());
            self.invariants.report(Property::Liveness, detail);
            self.over = true;
        }
        self.schedule.after(PROBE_INTERVAL, Event::Probe);
    }

    /// Whether a command made after the faults is acknowledged, and everybody durably has all that was ever chosen.
    fn has_converged(&self, convergence: Convergence) -> bool {
        let end = self.oracle.chosen_end();
        let complete = |node: &crate::node::Node| {
            let Some((status, running)) = node.status().zip(node.running.as_ref()) else { return false };
            status.stable == end && running.delivered == status.mark && status.mark.slot == end && status.open_bodies == 0
        };
        self.stats().commands_acked > convergence.acked_before && self.nodes.iter().all(complete)
    }

    fn read_everything(&mut self) {
        if let Some(convergence) = &mut self.convergence {
            convergence.reading = true;
        }
        for index in 0..self.nodes.len() {
            let node = &self.nodes[index];
            match node.recover(&node.disk.durable(), &self.plan) {
                Ok(recovered) => {
                    self.invariants.recovered(index, &node.durability, &recovered, &self.oracle);
                    self.invariants.held_at_end(index, &recovered, &self.oracle);
                }
                Err(error) => self.invariants.report(
                    Property::Recovers,
                    format!("{} could not start if power failed in the end: {error}", node_id(index)),
                ),
            }
            let chosen = self.oracle.chosen_from(self.oracle.trimmed());
            let chosen: Vec<_> = chosen.map(|chosen| (chosen.body.first, chosen.bytes.is_some())).collect();
            let step = chosen.len().div_ceil(FINAL_READS).max(1);
            for (number, (first, seen)) in chosen.into_iter().enumerate() {
                if !seen || number.is_multiple_of(step) {
                    self.read(index, first, Reader::Final);
                }
            }
            self.drain(index);
        }
    }
}
