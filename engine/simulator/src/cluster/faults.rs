//! Faults as they strike: crashes and starts, pauses, cuts.

use synod_protocol::Role;

use crate::disk::Ending;
use crate::faults::partitions::{Cut, Partition};
use crate::invariants::Property;
use crate::network::node_id;
use crate::node::Running;
use crate::plant::Plant;
use crate::story;

use super::{Cluster, Deferred, Event};

impl Cluster {
    pub(super) fn schedule_cut(&mut self) {
        if let Some(wait) = self.plan.faults.partitions.draw_wait(&mut self.partition_random) {
            self.schedule.after(wait, Event::Cut);
        }
    }

    pub(super) fn cut(&mut self) {
        let (nodes, leader) = (self.nodes.len(), self.any_leader());
        let partition = self.plan.faults.partitions.draw_partition(&mut self.partition_random, nodes, leader);
        self.apply_cut(partition, partition.times);
    }

    fn apply_cut(&mut self, partition: Partition, left: u32) {
        let now = self.now();
        self.trace.note(now, "cut", &[u64::from(left)], || {
            let words = story::cut(partition.cut, self.nodes.len());
            format!("{words}; for {:?}, {left} of {} times left", partition.lasts, partition.times)
        });
        self.stats.cuts += 1;
        self.stats.coverage.note_cut(partition.cut);
        if partition.times > 1 {
            self.stats.coverage.note("cut: flapping");
        }
        self.network.set_cut(partition.cut);
        self.schedule.after(partition.lasts / (2 * partition.times), Event::Mend { partition, left: left - 1 });
    }

    pub(super) fn mend(&mut self, partition: Partition, left: u32) {
        let now = self.now();
        self.trace.note(now, "mend", &[u64::from(left)], String::new);
        if left > 0 && self.network.cut() == partition.cut {
            self.network.set_cut(Cut::Nothing);
            // The other half of a flap: the links are whole for as long as they were cut.
            self.schedule.after(partition.lasts / (2 * partition.times), Event::Mend { partition, left });
        } else if left > 0 {
            self.apply_cut(partition, left);
        } else {
            self.network.set_cut(Cut::Nothing);
            self.schedule_cut();
        }
    }

    pub(super) fn any_leader(&self) -> Option<usize> {
        (0..self.nodes.len()).find(|index| self.leads(*index))
    }

    pub(super) fn schedule_crash(&mut self) {
        if let Some(wait) = self.plan.faults.crashes.draw_wait(&mut self.crash_random) {
            self.schedule.after(wait, Event::Crash);
        }
    }

    pub(super) fn crash_some(&mut self) {
        let crash = self.plan.faults.crashes.draw_crash(&mut self.crash_random);
        if crash.everybody {
            self.stats.coverage.note("everybody lost power");
            for index in 0..self.nodes.len() {
                if self.nodes[index].running.is_some() {
                    self.crash(index, Ending::PowerFailure);
                }
            }
        } else {
            let any = self.crash_random.index(self.nodes.len());
            let of_leader = self.crash_random.chance(self.plan.faults.crashes.leader);
            let leader = self.any_leader();
            let index = leader.filter(|_| of_leader).unwrap_or(any);
            if leader == Some(index) {
                self.stats.coverage.note("crashed a leader");
            }
            match &mut self.nodes[index].running {
                Some(running) if crash.outputs > 0 => running.crash_in = Some((crash.outputs, crash.ending)),
                Some(_) => self.crash(index, crash.ending),
                None => {}
            }
        }
        self.schedule_crash();
    }

    /// Ends a node's process, or its machine, at once.
    pub(super) fn crash(&mut self, index: usize, ending: Ending) {
        let now = self.now();
        self.trace.note(now, "crash", &[index as u64], || format!("{} {ending:?}", node_id(index)));
        match ending {
            Ending::Kill => self.stats.kills += 1,
            Ending::PowerFailure => self.stats.power_failures += 1,
        }
        if self.nodes[index].running.as_ref().is_some_and(|running| running.desk.unknown().next().is_some()) {
            self.stats.coverage.note("left clients without an answer");
        }
        let is_installing = |running: &Running| running.installed > Some(running.replica.wal().durable());
        if self.nodes[index].running.as_ref().is_some_and(is_installing) {
            self.stats.coverage.note("crashed in an install");
        }
        self.deferred[index].clear();
        self.note_paging(index);
        if self.nodes[index].running.as_ref().is_some_and(|running| !running.replica.wal().is_open()) {
            self.stats.coverage.note("crashed while opening");
        }
        let tear = self.draw_tear(index, ending);
        self.nodes[index].crash(ending, &mut self.crash_random);
        self.tear(index, tear);
        let down = self.plan.faults.crashes.draw_down(&mut self.crash_random);
        self.schedule.after(down, Event::Start { node: index, life: self.nodes[index].life });
    }

    pub(super) fn start(&mut self, index: usize, life: u32) {
        let now = self.now();
        let node = &mut self.nodes[index];
        let is_stranger = node.stranger.is_some() || node.awaits_join;
        if node.life != life || node.running.is_some() || node.left_out || is_stranger {
            return;
        }
        // Started often enough, an old copy comes to a boot that nobody has heard of, and no peer can tell what it is.
        let is_put_back = node.amnesic && self.mistake.is_some();
        if is_put_back && !self.is_known_to_be_old(index, &self.nodes[index].copy_directory()) {
            return self.put_right();
        }
        let node = &mut self.nodes[index];
        self.stats.starts += 1;
        if self.options.plant == Some(Plant::WipedDisk) && node.life > 0 {
            node.disk.wipe();
            node.bootstrap(&self.plan);
        }
        node.disk.sync_directory();
        let Some(mut recovered) = self.recover(index) else { return };
        if self.is_too_old(index, &recovered) {
            return;
        }
        let timer = self.timer(index);
        self.trace.note(
            now,
            "start",
            &[index as u64, u64::from(life), recovered.mark.slot.0, recovered.promised.round, recovered.end.0],
            || {
                format!(
                    "{} life {} promised {} mark {} base {} cut {:?}{}{}",
                    node_id(index),
                    life + 1,
                    recovered.promised,
                    recovered.mark.slot,
                    recovered.index.base().slot,
                    recovered.cut,
                    recovered.doubts.iter().map(story::doubt).collect::<String>(),
                    if recovered.unsure { ", unsure" } else { "" }
                )
            },
        );
        let node = &mut self.nodes[index];
        if node.amnesic {
            node.start(timer, &self.plan, recovered, self.options.plant);
            let forgotten = "it runs on an old copy of its directory".to_owned();
            self.invariants.begins(index, node.speaker(), Some(forgotten));
            node.keep_links();
            return self.drain(index);
        }
        self.stats.coverage.note_recovered(&recovered);
        let node = &mut self.nodes[index];
        self.invariants.opened(index, node.home);
        self.invariants.recovered(index, &node.durability, &recovered, &self.oracle);
        let forgotten = self.invariants.forgotten(index, &node.durability, &recovered, &self.oracle);
        self.invariants.started(index, &recovered, &mut self.oracle);
        match node.recover_bounded(&node.disk.seen(), &self.plan, &recovered) {
            Ok(Ok(index)) => recovered.index = index,
            // What recovery found may have been altered.
            _ if self.options.plant.is_some() => {}
            Ok(Err(differs)) => self.invariants.report(Property::Recovers, format!("{}: {differs}", node_id(index))),
            Err(error) => self.invariants.report(Property::Recovers, format!("{}: {error}", node_id(index))),
        }
        node.start(timer, &self.plan, recovered, self.options.plant);
        self.invariants.begins(index, node.speaker(), forgotten);
        if self.convergence.is_none()
            && let Some(crash) = self.plan.faults.crashes.draw_again(&mut self.crash_random, index)
            && let Some(running) = &mut node.running
        {
            running.crash_in = Some((crash.outputs, crash.ending));
        }
        node.keep_links();
        self.drain(index);
    }

    pub(super) fn schedule_pause(&mut self) {
        if let Some(wait) = self.plan.faults.pauses.draw_wait(&mut self.pause_random) {
            self.schedule.after(wait, Event::Pause);
        }
    }

    pub(super) fn pause(&mut self) {
        let index = self.pause_random.index(self.nodes.len());
        let lasts = self.plan.faults.pauses.draw_pause(&mut self.pause_random);
        let now = self.now();
        let node = &mut self.nodes[index];
        if node.running.is_some() && node.paused_until.is_none() {
            self.stats.pauses += 1;
            if node.status().is_some_and(|status| status.role == Role::Leader) {
                self.stats.coverage.note("paused a leader");
            }
            self.trace.note(now, "pause", &[index as u64], || format!("{} for {lasts:?}", node_id(index)));
            node.paused_until = Some(now.plus(lasts));
            self.schedule.after(lasts, Event::Resume { node: index, life: node.life });
        }
        self.schedule_pause();
    }

    pub(super) fn resume(&mut self, index: usize, life: u32) {
        let now = self.now();
        let node = &mut self.nodes[index];
        if node.life != life || node.paused_until.take().is_none() {
            return;
        }
        self.trace.note(now, "resume", &[index as u64], || node_id(index).to_string());
        for deferred in std::mem::take(&mut self.deferred[index]) {
            // It may crash in the middle of what it missed.
            if self.nodes[index].life != life || self.nodes[index].running.is_none() {
                return;
            }
            match deferred {
                Deferred::Packet(packet) => self.receive(&packet),
                Deferred::Finish(finish, completion) => self.finish(index, finish, completion),
            }
            self.drain(index);
        }
        let timer = self.timer(index);
        if let Some(running) = &mut self.nodes[index].running {
            running.replica.handle_timeout(timer);
            self.drain(index);
        }
    }
}
