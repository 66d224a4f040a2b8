//! Nodes of different builds: what they say to each other before anything else, restarts with another build, and the
//! raise of the format. A build differs from another one in nothing but the newest format that it reads.

use synod_protocol::{Change, FORMAT_FIRST, FORMAT_MAX};
use synod_wal::{RecoverError, RecoveredLog};

use crate::disk::Ending;
use crate::faults::upgrades::Step;
use crate::invariants::Property;
use crate::network::node_id;
use crate::plant::Plant;

use super::{Cluster, Event};

impl Cluster {
    pub(super) fn schedule_upgrade(&mut self) {
        if let Some(wait) = self.plan.faults.upgrades.draw_wait(&mut self.upgrade_random) {
            self.schedule.after(wait, Event::Upgrade);
        }
    }

    /// Somebody goes on with the upgrade.
    pub(super) fn upgrade(&mut self) {
        match self.plan.faults.upgrades.draw_step(&mut self.upgrade_random) {
            Step::Restart { may_downgrade } => {
                let index = self.upgrade_random.index(self.nodes.len());
                let is_old = self.nodes[index].format_max < FORMAT_MAX;
                if is_old || may_downgrade {
                    self.change_build(index, if is_old { FORMAT_MAX } else { FORMAT_FIRST });
                }
            }
            Step::Raise => {
                let nodes = self.nodes.len();
                let index = self.any_leader().unwrap_or_else(|| self.upgrade_random.index(nodes));
                let raised = self.raise_format_at(index);
                self.stats.coverage.note(match raised {
                    Ok(()) => "proposed a format",
                    Err(_) => "refused a format",
                });
            }
        }
        self.schedule_upgrade();
    }

    /// A node goes on with another build, which reads formats up to this one.
    pub fn change_build(&mut self, index: usize, format_max: u16) {
        let (now, before) = (self.now(), self.nodes[index].format_max);
        self.trace.note(now, "build", &[index as u64, u64::from(format_max)], || {
            format!("{} gets a build that reads formats up to {format_max}", node_id(index))
        });
        self.stats.coverage.note(if format_max > before { "upgraded a node" } else { "downgraded a node" });
        self.nodes[index].format_max = format_max;
        if self.nodes[index].running.is_some() {
            self.crash(index, Ending::Kill);
        }
    }

    /// Asks a node for the newest format.
    ///
    /// # Errors
    /// If the node is down or refuses, in words.
    pub fn raise_format_at(&mut self, index: usize) -> Result<(), String> {
        let (now, timer) = (self.now(), self.timer(index));
        let running = self.nodes[index].running.as_mut().ok_or("it is down")?;
        let raised = running.replica.reconfigure(timer, Change::RaiseFormat { to: FORMAT_MAX }, &[]);
        self.trace.note(now, "raise", &[index as u64, u64::from(raised.is_ok())], || match &raised {
            Ok(slot) => format!("{} proposes format {FORMAT_MAX} at slot {slot}", node_id(index)),
            Err(error) => format!("{} refuses format {FORMAT_MAX}: {error}", node_id(index)),
        });
        self.drain(index);
        raised.map(drop).map_err(|error| error.to_string())
    }

    /// The upgrade comes to its end: everybody has the newest build, or gets it at the next start.
    pub(super) fn finish_upgrade(&mut self) {
        for index in 0..self.nodes.len() {
            if self.nodes[index].format_max < FORMAT_MAX {
                self.change_build(index, FORMAT_MAX);
            }
        }
    }

    /// Whether a node's build can't read its log, so that it doesn't start; somebody will bring the newer build.
    pub(super) fn is_too_old(&mut self, index: usize, recovered: &RecoveredLog) -> bool {
        let now = self.now();
        let node = &mut self.nodes[index];
        if node.format_max == FORMAT_MAX || self.options.plant == Some(Plant::OpensNewer) {
            return false;
        }
        let opened = node.recover_as_built(&node.disk.seen(), &self.plan);
        let is_refused = matches!(opened, Err(RecoverError::Newer { .. }));
        if is_refused != (recovered.format > node.format_max) {
            let (reads, needed) = (node.format_max, recovered.format);
            let detail = format!(
                "{} reads formats up to {reads}, its log needs {needed}, and opening it says {opened:?}",
                node_id(index)
            );
            self.invariants.report(Property::Readable, detail);
        }
        if is_refused {
            let life = node.life;
            node.format_max = FORMAT_MAX;
            self.stats.coverage.note("an older build refused its log");
            self.trace.note(now, "too old", &[index as u64], || format!("{} can't read its log", node_id(index)));
            let wait = self.plan.faults.crashes.draw_down(&mut self.upgrade_random);
            self.schedule.after(wait, Event::Start { node: index, life });
        }
        is_refused
    }

    /// Whether one node speaks with another: if both run, and their hellos have found that each reads the other's log. Then
    /// each is told what the other reads.
    pub(super) fn is_connected(&mut self, from: usize, to: usize) -> bool {
        if !self.plan.faults.upgrades.is_on() {
            return true;
        }
        let lives = (self.nodes[from].life, self.nodes[to].life);
        let formats = [from, to].map(|index| {
            let running = self.nodes[index].running.as_ref();
            running.map(|running| (self.nodes[index].format_max, running.replica.wal().format()))
        });
        let [Some((reads, needs)), Some((peer_reads, peer_needs))] = formats else { return false };
        if self.connected.get(&(from, to)) == Some(&lives) {
            return true;
        }
        if reads < peer_needs || peer_reads < needs {
            self.stats.coverage.note("refused a hello for the format");
            return false;
        }
        self.connected.insert((from, to), lives);
        for (index, peer, reads) in [(from, to, peer_reads), (to, from, reads)] {
            let told = if self.options.plant == Some(Plant::SaysItReads) { FORMAT_MAX } else { reads };
            if let Some(running) = &mut self.nodes[index].running {
                running.replica.handle_reader(node_id(peer), told);
            }
        }
        true
    }

    /// Whether a packet still has its connection: it doesn't survive either process.
    pub(super) fn has_connection(&self, from: usize, to: usize) -> bool {
        let lives = (self.nodes[from].life, self.nodes[to].life);
        !self.plan.faults.upgrades.is_on() || self.connected.get(&(from, to)) == Some(&lives)
    }
}
