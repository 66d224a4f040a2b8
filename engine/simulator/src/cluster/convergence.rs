//! The second phase: nothing goes wrong any more, and the cluster must come together. A new command must be delivered
//! by every node within bounds, all logs must be equal, and every node must give all of its log out again.
//!
//! Not every node takes part: one whose log is damaged doesn't start, and in some runs a few that could stay down for
//! ever. The others are the *core*. It must come together as long as it is a quorum; if it is none, or can't come
//! together, the run must prove that too much was damaged: no quorum of intact promises, or no intact copy of a body.
//! That is allowed only beyond the [atlas](crate::faults::atlas).

use std::time::Duration;

use synod_protocol::{BodyHandle, Instant, Role};
use synod_wal::{HEAL_PAUSE, Location};

use crate::disk::Ending;
use crate::faults::partitions::Cut;
use crate::faults::slow_disks::DiskFaults;
use crate::invariants::Property;
use crate::network::node_id;
use crate::node::{Node, Reader, Running};
use crate::random::Chance;
use crate::story;

use super::clients::CALM_WAIT;
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
    /// How many nodes the core had then.
    core: usize,
    /// For how long some node lacked some bytes of the chosen prefix.
    lacking: Duration,
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
    running.readers.is_empty() && running.marks.is_empty() && running.barriers.is_empty()
}

impl Cluster {
    /// Ends all faults.
    pub(super) fn heal(&mut self) {
        let now = self.now();
        self.trace.note(now, "heal", &[], String::new);
        let limited = self.plan.faults.damage.files_max.is_some();
        self.heal_disks();
        // An old copy that is put back is found out, and the node's own directory put back in turn.
        while self.mistake.is_some() {
            self.put_right();
        }
        let (nodes, quorum) = (self.nodes.len(), self.needed());
        let leader = self.any_leader();
        let partitions = &self.plan.faults.partitions;
        let cut = match self.is_changing() {
            // Who is needed may still change.
            true => Cut::Nothing,
            false => partitions.draw_lasting(&mut self.partition_random, nodes, leader, quorum),
        };
        self.network.set_cut(cut);
        self.trace.note(now, "cut", &[], || story::cut(cut, nodes));
        self.enter(if cut == Cut::Nothing { Stage::Healing } else { Stage::Partial { cut } });
        self.disks = DiskFaults::HEALTHY;
        let latest = now.plus(AFTERMATH);
        self.network.heal(latest);
        self.schedule.reschedule(|at, event| match event {
            Event::Arrive(_) | Event::Disk { .. } => Some(at.min(latest)),
            Event::Wake { .. } => Some(at),
            _ => None,
        });
        self.finish_upgrade();
        for index in 0..self.nodes.len() {
            if let Some(running) = &mut self.nodes[index].running {
                running.crash_in = None;
            }
            let life = self.nodes[index].life;
            self.resume(index, life);
            let node = &self.nodes[index];
            let running = node.running.as_ref();
            let ails = running.is_some_and(|running| running.replica.status().fenced || running.replica.is_full());
            if ails || running.is_some() && limited {
                self.crash(index, Ending::Kill);
            }
            self.start(index, life);
            self.retry_file(index, self.nodes[index].life);
        }
        self.choose_core();
        if !cut.leaves_quorum_of(&self.voters(), quorum) {
            self.network.set_cut(Cut::Nothing);
            self.enter(Stage::Healing);
        }
        self.schedule.after(PROBE_INTERVAL, Event::Probe);
    }

    /// Leaves some nodes down for ever that the cluster can do without.
    fn choose_core(&mut self) {
        // Those whose disk is damaged may still find out that they can't go on.
        let is_sound = |index: &usize| self.nodes[*index].disk.damage().is_empty() && !self.nodes[*index].marred;
        let sound = self.core().into_iter().filter(is_sound).count();
        let spare = sound.saturating_sub(self.needed()) as u64;
        if self.options.mild || self.is_changing() || spare == 0 || !self.core_random.chance(Chance::of(1, 4)) {
            return;
        }
        self.stats.coverage.note("left a node down for ever");
        for _ in 0..self.core_random.within(1..=spare) {
            let core = self.core();
            let index = self.core_random.pick(&core);
            self.nodes[index].left_out = true;
            if self.nodes[index].running.is_some() {
                self.crash(index, Ending::PowerFailure);
            }
        }
    }

    /// The nodes that must come together: all but those that can't start, or stay down for ever.
    pub(super) fn core(&self) -> Vec<usize> {
        let takes_part =
            |node: &&Node| !node.left_out && node.refused.is_none() && node.stranger.is_none() && self.has_part(node);
        self.nodes.iter().filter(takes_part).map(|node| node.index).collect()
    }

    /// Those of them whose every vote counts.
    fn voters(&self) -> Vec<usize> {
        let votes = |index: &usize| {
            self.nodes[*index].status().is_some_and(|status| !status.unsure && status.doubts.is_empty())
        };
        self.core().into_iter().filter(votes).collect()
    }

    fn all_of_core(&self, holds: impl Fn(&Node) -> bool) -> bool {
        self.core().into_iter().all(|index| holds(&self.nodes[index]))
    }

    /// The cluster can't go on: that must be allowed.
    fn stop_short(&mut self, why: &'static str, detail: String) {
        if self.plan.faults.damage.atlas.is_beyond() || self.lost_members() > 0 {
            let now = self.now();
            if let Some(body) = self.body_without_any_copy() {
                self.trace.note(now, "lost", &[body.first.0], || format!("no disk has an intact copy of {body:?}"));
                self.stats.coverage.note("stopped: a chosen body has no intact copy");
            }
            self.trace.note(now, "stop", &[], || format!("{why}: {detail}"));
            self.stats.coverage.note(why);
            self.stopped = true;
        } else {
            self.invariants.report(Property::Liveness, format!("{why}: {detail}; {}", self.describe_nodes()));
        }
        self.over = true;
    }

    /// A chosen body, not trimmed, of which no disk has an intact copy, that of a node that doesn't start included.
    fn body_without_any_copy(&self) -> Option<BodyHandle> {
        let written = |node: &Node| node.recover(&node.disk.live(), &self.plan).ok();
        let logs: Vec<_> = self.nodes.iter().filter_map(|node| Some((written(node)?, node))).collect();
        let is_intact = |body: &BodyHandle| {
            logs.iter().any(|(log, node)| {
                let entry = log.index.get(body.first).filter(|entry| entry.body == *body);
                entry.is_some_and(|entry| is_intact_at(node, &entry.location))
            })
        };
        let mut chosen = self.oracle.chosen_from(self.oracle.trimmed()).map(|chosen| chosen.body);
        chosen.find(|body| !is_intact(body))
    }

    /// A body of which no node of the core has an intact copy, if there is one that they need.
    fn body_without_copy(&self) -> Option<BodyHandle> {
        let core = self.core();
        let logs = || core.iter().filter_map(|index| Some((self.nodes[*index].running.as_ref()?, &self.nodes[*index])));
        let behind = logs().map(|(running, _)| running.replica.replica().mark().slot).min()?;
        let known =
            logs().flat_map(|(running, _)| running.replica.wal().index().iter_from(behind)).map(|entry| entry.body);
        let bodies: Vec<BodyHandle> = known.chain(self.oracle.chosen_from(behind).map(|chosen| chosen.body)).collect();
        let is_intact = |body: &BodyHandle| {
            logs().any(|(running, node)| {
                let entry = running.replica.wal().find_in(&node.disk.live(), body.first);
                let entry = entry.filter(|entry| entry.body == *body);
                entry.is_some_and(|entry| is_intact_at(node, &entry.location))
            })
        };
        bodies.into_iter().find(|body| !is_intact(body))
    }

    pub(super) fn probe(&mut self) {
        let Some(mut convergence) = self.convergence else { return };
        let now = self.now();
        let (core, needed) = (self.core().len(), self.needed());
        if core < needed {
            let detail = format!("{core} nodes can start, and {needed} are needed");
            return self.stop_short("stopped: no quorum of intact promises", detail);
        }
        if core != convergence.core {
            // Whoever is left has to find its way without the one that is gone.
            (convergence.core, convergence.since) = (core, now);
            self.convergence = Some(convergence);
        }
        // Somebody may have found damage since, and have doubts, or need what only those who are cut off can give.
        if let Stage::Partial { cut } = convergence.stage
            && (!cut.leaves_quorum_of(&self.voters(), needed) || !self.all_of_core(|node| !node.has_lost()))
        {
            self.network.set_cut(Cut::Nothing);
            self.enter(Stage::Healing);
            convergence = self.convergence.expect("just entered");
        }
        let waited = now.since(convergence.since);
        match convergence.stage {
            Stage::Partial { .. } if self.commands_acked() > convergence.acked_before => {
                self.stats.coverage.note("went on with links cut");
                self.network.set_cut(Cut::Nothing);
                self.enter(Stage::Healing);
            }
            Stage::Partial { .. } => self.submit_probes(convergence),
            Stage::Healing if self.has_converged(convergence) => {
                if core < self.nodes.iter().filter(|node| self.has_part(node)).count() {
                    self.stats.coverage.note("came together without some nodes");
                }
                self.stats.healing_longest = waited;
                let timeout = self.plan.protocol.election_timeout;
                self.stats.healing_longest_timeouts = (waited.as_micros() * 1000 / timeout.as_micros().max(1)) as u64;
                let leader = self.nodes.iter().find_map(|node| node.status()?.leader);
                self.network.calm(leader);
                self.enter(Stage::Calm { until: now.plus(timeout * CALM_TIMEOUTS) });
                self.schedule.after(Duration::ZERO, Event::Client);
            }
            Stage::Healing => {
                self.submit_probes(convergence);
                self.give_lost_learners_up();
            }
            Stage::Calm { until } if now >= until && self.has_load() && self.is_complete() => {
                self.enter(Stage::Reading);
                self.read_everything();
            }
            Stage::Calm { .. } => {}
            Stage::Reading => {
                let is_done = |node: &Node| node.running.as_ref().is_some_and(is_done_reading);
                if self.all_of_core(is_done) {
                    self.over = true;
                    return;
                }
            }
        }
        let for_load = match convergence.stage {
            Stage::Calm { .. } => CALM_WAIT * self.plan.workload.commands_min as u32,
            _ => Duration::ZERO,
        };
        // What no member could give is asked for again after a pause, each time of another one.
        if !self.all_of_core(|node| !node.has_lost()) {
            convergence.lacking = waited;
            self.convergence = Some(convergence);
        }
        let for_healing = convergence.lacking.min(HEAL_PAUSE * core as u32);
        if waited > self.plan.patience() + for_load + for_healing {
            let sure = |index: &&usize| self.nodes[**index].status().is_some_and(|status| !status.unsure);
            let sure = self.core().iter().filter(sure).count();
            if sure < needed {
                let detail = format!("{sure} nodes are sure of their promises, and {needed} are needed");
                return self.stop_short("stopped: no quorum of intact promises", detail);
            }
            if self
                .core()
                .iter()
                .any(|index| self.nodes[*index].status().is_some_and(|status| !status.doubts.is_empty()))
            {
                return self.stop_short("stopped: in doubt", self.describe_nodes());
            }
            if let Some(body) = self.body_without_copy().or_else(|| self.body_without_any_copy()) {
                let detail = format!("nobody has an intact copy of {body:?}");
                return self.stop_short("stopped: no intact copy", detail);
            }
            let what = match convergence.stage {
                Stage::Partial { cut } => format!("got nothing chosen under {cut:?}"),
                Stage::Healing => "did not come together".to_string(),
                Stage::Calm { .. } | Stage::Reading => "could not be read back".to_string(),
            };
            let newest = self.invariants.rulings().newest();
            let detail = format!(
                "the cluster {what} in {waited:?} without faults; members {:?}, learners {:?} by slot {}; {}",
                newest.members,
                newest.learners,
                newest.chosen_at,
                self.describe_nodes()
            );
            self.invariants.report(Property::Liveness, detail);
            self.over = true;
        }
        self.schedule.after(PROBE_INTERVAL, Event::Probe);
    }

    /// Goes on to the next stage, whose patience begins now.
    fn enter(&mut self, stage: Stage) {
        self.handed_over = false;
        let (now, acked_before, core) = (self.now(), self.commands_acked(), self.core().len());
        self.convergence = Some(Convergence { since: now, acked_before, core, lacking: Duration::ZERO, stage });
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

    /// Whether what is left is to watch and to read everything back.
    pub(super) fn is_ending(&self) -> bool {
        self.convergence.is_some_and(|convergence| matches!(convergence.stage, Stage::Calm { .. } | Stage::Reading))
    }

    /// Whether all is well, with old messages coming again at most.
    pub(super) fn is_calm(&self) -> bool {
        let is_calm = |stage| matches!(stage, Stage::Calm { .. } | Stage::Reading);
        self.convergence.is_some_and(|convergence| is_calm(convergence.stage))
    }

    /// Whether clients have handed in as many commands as a run is to carry, or as logs have room for.
    pub(super) fn has_load(&self) -> bool {
        let is_full = |node: &Node| node.running.as_ref().is_some_and(|running| running.replica.is_full());
        self.is_loaded
            || self.oracle.commands_count() >= self.plan.workload.commands_min
            || self.nodes.iter().any(is_full)
    }

    /// Whether a command made after the faults is acknowledged, and everybody durably has all that was ever chosen.
    fn has_converged(&self, convergence: Convergence) -> bool {
        // Who reads what its disk can't give any more is restarted first, as long as there is time for it: in the calm it
        // may come to read such a place too, and goes on.
        // Who is unsure of its promise makes the leader prepare again as soon as everybody has told it theirs. Two of them never
        // tell each other.
        let unsure = self.nodes.iter().filter(|node| node.status().is_some_and(|status| status.unsure)).count();
        let is_sure = unsure != 1 || self.nodes.iter().any(|node| node.running.is_none());
        let calm = is_sure && self.all_of_core(|node| !node.has_lost() && node.has_judged());
        let is_settled = self.is_membership_settled();
        self.commands_acked() > convergence.acked_before && calm && is_settled && self.is_complete()
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
        self.follows_one_leader() && self.all_of_core(complete)
    }

    /// Whether everybody follows one leader and has promised its ballot: then nobody has a reason for another one.
    fn follows_one_leader(&self) -> bool {
        // Whoever has no part any more follows whom it likes.
        let part = self.nodes.iter().filter(|node| self.has_part(node));
        let leader = part.filter_map(|node| node.status()?.leader).max();
        let follows = |node: &Node| {
            node.status().is_some_and(|status| {
                let promised = Some(status.promised) == leader || status.unsure;
                status.leader == leader && promised && status.transfer.is_none()
            })
        };
        // Whoever lies down for ever was the leader of some, who don't know that yet.
        let leads = |node: &Node| {
            node.status().is_some_and(|status| status.role == Role::Leader && Some(status.promised) == leader)
        };
        leader.is_some()
            && self.all_of_core(follows)
            && self.nodes.iter().filter(|node| node.running.is_some() && self.has_part(node)).all(follows)
            && self.nodes.iter().any(leads)
    }

    fn commands_acked(&self) -> u64 {
        self.oracle.commands().filter(|(_, state)| state.acked.is_some()).count() as u64
    }

    fn read_everything(&mut self) {
        for index in self.core() {
            let node = &self.nodes[index];
            let image = if node.marred { node.disk.seen() } else { node.disk.durable() };
            match node.recover(&image, &self.plan) {
                Ok(recovered) => {
                    self.invariants.recovered(index, &node.durability, &recovered, &self.oracle);
                    // What has rotted on a marred disk is healed when somebody comes by.
                    if !node.marred {
                        self.invariants.held_at_end(index, &recovered, &self.oracle);
                    }
                }
                Err(_) if node.scarred || node.marred => {}
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
                    self.ask_mark(index, first);
                }
            }
            if let Err(error) = self.begin_barrier(index) {
                let detail = format!("{} refuses a barrier while nothing goes wrong: {error}", node_id(index));
                self.invariants.report(Property::Liveness, detail);
            }
        }
    }
}

/// Whether the medium gives a record back as it was written.
fn is_intact_at(node: &Node, location: &Location) -> bool {
    let start = location.offset as usize;
    let range = start..start + location.record_bytes as usize;
    node.disk.damage().spares(location.file, &range)
}
