//! Clients at work, and leaders that make bodies of what they hand in.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::Duration;

use synod_protocol::{BodyHandle, Role, Slot, TrimError};

use crate::network::node_id;
use crate::node::Reader;
use crate::plant::Plant;
use crate::random::Chance;
use crate::story;
use crate::workload::Sent;

use super::{Cluster, Event};

/// The longest time between two submissions once all is well.
pub(super) const CALM_WAIT: Duration = Duration::from_millis(5);

impl Cluster {
    pub(super) fn client(&mut self) {
        let workload = &self.plan.workload;
        let mut wait = workload.draw_wait(&mut self.client_random);
        if self.is_calm() {
            if self.has_load() {
                // A log that was full may have room again: nobody comes back for that.
                self.is_loaded = true;
                return;
            }
            wait = wait.min(CALM_WAIT);
        }
        if self.options.plant == Some(Plant::AmbientChance) {
            wait += Duration::from_micros(RandomState::new().hash_one(0) % 100);
        }
        let random = &mut self.client_random;
        if random.chance(workload.read) {
            let index = random.index(self.nodes.len());
            let end = self.oracle.chosen_end().0;
            // Most readers follow the log, where it is still moving; some look back.
            let first = if random.chance(Chance::of(2, 3)) { end.saturating_sub(8).max(1) } else { 1 };
            let slot = Slot(random.within(first..=end + 2));
            if self.nodes[index].paused_until.is_none() {
                self.read(index, slot, Reader::Client(slot));
                self.drain(index);
            }
        }
        self.disturb_leader();
        if let Some(leader) = self.choose_leader() {
            if self.past_random.chance(self.plan.workload.trim_past) {
                self.ask_for_trim_past(leader);
            } else if self.client_random.chance(self.plan.workload.trim) {
                self.ask_for_trim(leader);
            } else {
                for _ in 0..self.client_random.within(self.plan.workload.burst.clone()) {
                    self.submit(leader);
                }
            }
        }
        self.schedule.after(wait, Event::Client);
    }

    /// One of the nodes that claim to lead; there may be several, of which at most one is right.
    fn choose_leader(&mut self) -> Option<usize> {
        let mut leaders = Vec::with_capacity(1);
        for index in 0..self.nodes.len() {
            let leads = self.leads(index);
            let Some(running) = &mut self.nodes[index].running else { continue };
            if leads {
                leaders.push(index);
            } else {
                if self.options.plant == Some(Plant::RefusesProposed) {
                    running.desk.unknown().for_each(|id| self.oracle.refuse(id));
                }
                for id in running.desk.turn_away() {
                    self.stats.coverage.note("told a client: refused");
                    self.oracle.refuse(id);
                }
            }
        }
        if leaders.len() > 1 {
            self.stats.coverage.note("several leaders at once");
        }
        (!leaders.is_empty()).then(|| self.client_random.pick(&leaders))
    }

    pub(super) fn leads(&self, index: usize) -> bool {
        let node = &self.nodes[index];
        node.paused_until.is_none() && node.status().is_some_and(|status| status.role == Role::Leader)
    }

    /// A client hands a node new commands.
    pub(super) fn submit(&mut self, index: usize) {
        let queued = self.next_submission();
        if let Some(running) = &mut self.nodes[index].running {
            running.desk.take(queued);
            self.drain(index);
        }
    }

    fn ask_for_trim(&mut self, index: usize) {
        let (now, timer) = (self.now(), self.timer(index));
        let Some(running) = &mut self.nodes[index].running else { return };
        let upto = Slot(self.client_random.within(1..=running.delivered.slot.0));
        match running.replica.trim(timer, upto) {
            Ok(agreed) => {
                self.stats.trims += 1;
                self.trace.note(now, "trim", &[index as u64, agreed.0], || format!("{} {agreed}", node_id(index)));
            }
            Err(TrimError::NoDeliveryState { .. }) => self.stats.coverage.note("refused a trim: no delivery state"),
            Err(TrimError::NotLeader | TrimError::NothingToTrim { .. }) => {}
        }
        self.drain(index);
    }

    /// As a hard limit does: whatever a quorum has may go, whoever lacks it.
    fn ask_for_trim_past(&mut self, index: usize) {
        let (now, timer) = (self.now(), self.timer(index));
        let Some(running) = &mut self.nodes[index].running else { return };
        let held = running.replica.replica().held_by_all();
        if let Ok(agreed) = running.replica.trim_past(timer, running.delivered.slot) {
            self.stats.trims += 1;
            if agreed > held {
                self.stats.coverage.note("trimmed past a member");
            }
            self.trace.note(now, "trim past", &[index as u64, agreed.0], || format!("{} {agreed}", node_id(index)));
        }
        self.drain(index);
    }

    /// Lets a leader propose a body of what waits; whether it did.
    pub(super) fn propose(&mut self, index: usize) -> bool {
        let (now, timer) = (self.now(), self.timer(index));
        let Some(running) = &mut self.nodes[index].running else { return false };
        if running.desk.is_idle() {
            return false;
        }
        let Some(opening) = running.replica.opening() else { return false };
        let elapsed = now.since(super::START);
        running.replica.set_wall_clock(self.plan.faults.clocks.wall_clock_us(index, now, elapsed));
        let mut time = running.replica.leader_time_us();
        if self.options.plant == Some(Plant::TurnsBackTime) && index == 0 {
            time /= 2;
        }
        let Some((body, record)) = running.desk.compose(&opening, &self.plan.workload, time) else {
            return false;
        };
        // Where everything that a quorum held may be lost, a leader need not know what was given out.
        if !self.plan.faults.damage.atlas.is_beyond() {
            self.invariants.makes_body(index, time);
        }
        running.replica.propose(timer, body, record).expect("the body is made for the opening");
        self.stats.bodies_proposed += 1;
        self.trace.note(now, "propose", &[index as u64, body.first.0, body.id.0 as u64], || {
            format!("{} {}", node_id(index), story::body(&body))
        });
        if self.options.plant == Some(Plant::AcksEarly) {
            let commands = running.desk.proposed(body.id);
            let life = self.nodes[index].life;
            for (offset, id) in commands.into_iter().enumerate() {
                self.invariants.acked(index, life, id, body.first.plus(offset as u64), &mut self.oracle);
            }
        }
        true
    }

    /// The node that proposed a body has delivered it: its clients are told.
    pub(super) fn ack(&mut self, index: usize, body: &BodyHandle) {
        let Some(running) = &mut self.nodes[index].running else { return };
        for (first, sent) in running.desk.delivered(body) {
            self.tell_chosen(index, &sent, first);
        }
    }

    /// A client is told where its submission is.
    pub(super) fn tell_chosen(&mut self, index: usize, sent: &Sent, first: Slot) {
        let (now, life) = (self.now(), self.nodes[index].life);
        for (offset, id) in sent.commands.iter().enumerate() {
            let slot = first.plus(offset as u64);
            let told = match self.options.plant {
                Some(Plant::AcksWrongSlot) => Slot(slot.0.saturating_sub(1)),
                Some(Plant::AcksFirstSlot) => Slot::FIRST,
                _ => slot,
            };
            self.stats.coverage.note("told a client: chosen");
            self.trace
                .tell(now, "ack", || format!("{} tells a client: command {} is at slot {told}", node_id(index), id.0));
            self.invariants.acked(index, life, *id, told, &mut self.oracle);
        }
    }
}
