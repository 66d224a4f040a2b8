//! The second phase: nothing goes wrong any more, and the cluster must come together. A new command must be delivered
//! by every node within bounds, all logs must be equal, and every node must give all of its log out again.

use std::time::Duration;

use synod_protocol::Instant;

use crate::faults::partitions::Cut;
use crate::faults::slow_disks::DiskFaults;
use crate::invariants::Property;
use crate::network::node_id;
use crate::node::{Node, Reader, Running};

use super::{Cluster, Event};

/// How often to look.
const PROBE_INTERVAL: Duration = Duration::from_millis(50);

/// What is on its way when faults stop arrives within this time.
const AFTERMATH: Duration = Duration::from_millis(100);

/// How long calm is to last, in election timeouts.
const CALM_TIMEOUTS: u32 = 4;

/// Bodies that each node is asked for in the end.
const FINAL_READS: usize = 64;

/// How far the cluster has come together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Convergence {
    since: Instant,
    acked_before: u64,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Some links are still cut, but a quorum is connected: it must get a new command chosen.
    Partial { cut: Cut },
    /// Waiting until everybody has everything.
    Healing,
    /// Everybody has everything and one leader, clients make up for what they couldn't hand in before, and old messages
    /// come again: for a while, nobody may raise a ballot.
    Calm { until: Instant },
    /// What is left is to read everything back.
    Reading,
}

fn is_done_reading(running: &Running) -> bool {
    running.readers.is_empty() && running.barriers.is_empty()
}

impl Cluster {
    /// Ends all faults.
    pub(super) fn heal(&mut self) {
        let now = self.now();
        self.trace.note(now, "heal", &[], String::new);
        let (nodes, quorum) = (self.nodes.len(), self.plan.configuration.accept_quorum as usize);
        let leader = self.any_leader();
        let partitions = &self.plan.faults.partitions;
        let cut = partitions.draw_lasting(&mut self.partition_random, nodes, leader, quorum);
        self.network.set_cut(cut);
        self.trace.note(now, "cut", &[], || format!("{cut:?}"));
        self.enter(if cut == Cut::Nothing { Stage::Healing } else { Stage::Partial { cut } });
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
        let now = self.now();
        let waited = now.since(convergence.since);
        match convergence.stage {
            Stage::Partial { .. } if self.commands_acked() > convergence.acked_before => {
                self.stats.coverage.note("went on with links cut");
                self.network.set_cut(Cut::Nothing);
                self.enter(Stage::Healing);
            }
            Stage::Partial { .. } => self.submit_probes(convergence),
            Stage::Healing if self.has_converged(convergence) => {
                self.stats.healing_longest = waited;
                let timeout = self.plan.protocol.election_timeout;
                self.stats.healing_longest_timeouts = (waited.as_micros() * 1000 / timeout.as_micros().max(1)) as u64;
                self.network.calm();
                self.enter(Stage::Calm { until: now.plus(timeout * CALM_TIMEOUTS) });
                self.schedule.after(Duration::ZERO, Event::Client);
            }
            Stage::Healing => self.submit_probes(convergence),
            Stage::Calm { until } if now >= until && self.has_load() && self.is_complete() => {
                self.enter(Stage::Reading);
                self.read_everything();
            }
            Stage::Calm { .. } => {}
            Stage::Reading => {
                let is_done = |node: &Node| node.running.as_ref().is_some_and(is_done_reading);
                if self.nodes.iter().all(is_done) {
                    self.over = true;
                    return;
                }
            }
        }
        if waited > self.plan.patience() {
            let what = match convergence.stage {
                Stage::Partial { cut } => format!("got nothing chosen under {cut:?}"),
                Stage::Healing => "did not come together".to_string(),
                Stage::Calm { .. } | Stage::Reading => "could not be read back".to_string(),
            };
            let detail = format!("the cluster {what} in {waited:?} without faults; {}", self.describe_nodes());
            self.invariants.report(Property::Liveness, detail);
            self.over = true;
        }
        self.schedule.after(PROBE_INTERVAL, Event::Probe);
    }

    /// Goes on to the next stage, whose patience begins now.
    fn enter(&mut self, stage: Stage) {
        let (now, acked_before) = (self.now(), self.commands_acked());
        self.convergence = Some(Convergence { since: now, acked_before, stage });
    }

    /// Until a command made after the faults is acknowledged, and everybody has accepted one, makes new ones for
    /// everybody who claims to lead.
    fn submit_probes(&mut self, convergence: Convergence) {
        if self.commands_acked() > convergence.acked_before && self.follows_one_leader() {
            return;
        }
        for index in 0..self.nodes.len() {
            let idle = self.nodes[index].running.as_ref().is_some_and(|running| running.desk.is_idle());
            if idle && self.leads(index) {
                self.submit(index);
            }
        }
    }

    /// Whether all is well, with old messages coming again at most.
    pub(super) fn is_calm(&self) -> bool {
        let is_calm = |stage| matches!(stage, Stage::Calm { .. } | Stage::Reading);
        self.convergence.is_some_and(|convergence| is_calm(convergence.stage))
    }

    /// Whether clients have handed in as many commands as a run is to carry.
    pub(super) fn has_load(&self) -> bool {
        self.oracle.commands_count() >= self.plan.workload.commands_min
    }

    /// Whether a command made after the faults is acknowledged, and everybody durably has all that was ever chosen.
    fn has_converged(&self, convergence: Convergence) -> bool {
        self.commands_acked() > convergence.acked_before && self.is_complete()
    }

    /// Whether everybody follows one leader and durably has all that was ever chosen.
    fn is_complete(&self) -> bool {
        let end = self.oracle.chosen_end();
        let complete = |node: &Node| {
            let Some((status, running)) = node.status().zip(node.running.as_ref()) else { return false };
            status.stable == end
                && running.delivered == status.mark
                && status.mark.slot == end
                && status.open_bodies == 0
        };
        self.follows_one_leader() && self.nodes.iter().all(complete)
    }

    /// Whether everybody follows one leader and has promised its ballot: then nobody has a reason for another one.
    fn follows_one_leader(&self) -> bool {
        let leader = self.nodes.iter().find_map(|node| node.status()?.leader);
        let follows = |node: &Node| {
            node.status().is_some_and(|status| status.leader == leader && Some(status.promised) == leader)
        };
        leader.is_some() && self.nodes.iter().all(follows)
    }

    fn commands_acked(&self) -> u64 {
        self.oracle.commands().filter(|(_, state)| state.acked.is_some()).count() as u64
    }

    fn read_everything(&mut self) {
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
            self.begin_barrier(index);
        }
    }
}
