//! A cluster that is told what to do: nodes start, end and stand still on demand, links are cut and mended by name, and
//! time goes on as far as it is told. For scenarios; the checkers look on as in any run.

use synod_protocol::{Ballot, Instant, Message, Slot};
use synod_wal::FileId;

use crate::disk::Ending;
use crate::disk::damage::Grain;
use crate::faults::partitions::Cut;
use crate::network::node_id;
use crate::node::{Node, Reader};
use crate::oracle::Oracle;
use crate::plan::Plan;
use crate::story;

use super::{Cluster, Options};

/// A message that is to be lost on its way.
#[derive(Clone, Debug)]
pub struct Losing {
    /// The kind of message, as [`story::kind`] names it.
    pub kind: String,
    /// From this node, if one is named.
    pub from: Option<usize>,
    /// To this node, if one is named.
    pub to: Option<usize>,
    /// How many of them.
    pub left: u32,
}

impl Cluster {
    /// A cluster whose nodes are all down, under a plan of somebody's making.
    pub fn staged(options: Options, plan: Plan) -> Cluster {
        let mut cluster = Cluster::with_plan(options, plan);
        cluster.trace.keep();
        cluster
    }

    /// Lets time go on to `until`, or to the first violation.
    pub fn run_until(&mut self, until: Instant) {
        while !self.over && self.invariants.violation().is_none() {
            if self.schedule.next_at().is_none_or(|at| at > until) {
                return self.schedule.pass(until);
            }
            let event = self.schedule.next().expect("just seen");
            self.step(event);
        }
    }

    /// Ends all faults, lets the cluster come together, and holds everything against all properties.
    pub fn conclude(&mut self) {
        self.heal();
        self.run();
    }

    /// The time.
    pub fn time(&self) -> Instant {
        self.now()
    }

    /// The nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// What clients know.
    pub fn oracle(&self) -> &Oracle {
        &self.oracle
    }

    /// What was noted in the trace since the last call.
    pub fn take_story(&mut self) -> Vec<String> {
        self.trace.take()
    }

    /// Starts a node that is down.
    ///
    /// # Errors
    /// If its log can't be recovered, with the reason in words: then it stays down.
    pub fn boot(&mut self, index: usize) -> Result<(), String> {
        let node = &self.nodes[index];
        if node.running.is_some() {
            return Ok(());
        }
        if let Err(error) = node.recover_as_built(&node.disk.live(), &self.plan) {
            return Err(error.to_string());
        }
        let life = node.life;
        self.start(index, life);
        Ok(())
    }

    /// Ends a node's process or machine, if it runs.
    pub fn end(&mut self, index: usize, ending: Ending) {
        if self.nodes[index].running.is_some() {
            self.crash(index, ending);
        }
    }

    /// Stops a node's process until it is told to go on.
    pub fn stand_still(&mut self, index: usize) {
        let now = self.now();
        if self.nodes[index].running.is_some() {
            self.stats.pauses += 1;
            self.trace.note(now, "pause", &[index as u64], || node_id(index).to_string());
            self.nodes[index].paused_until = Some(Instant(u64::MAX));
        }
    }

    /// Lets a node's process go on.
    pub fn go_on(&mut self, index: usize) {
        let life = self.nodes[index].life;
        self.resume(index, life);
    }

    /// Cuts these links and mends all others.
    pub fn cut_links(&mut self, cut: Cut) {
        let now = self.now();
        self.stats.cuts += 1;
        self.trace.note(now, "cut", &[], || story::cut(cut, self.nodes.len()));
        self.network.set_cut(cut);
    }

    /// Loses messages that are sent from now on.
    pub fn lose(&mut self, losing: Losing) {
        self.losing.push(losing);
    }

    /// Whether a message is one of those to be lost.
    pub(super) fn is_to_be_lost(&mut self, from: usize, to: usize, message: &Message) -> bool {
        let kind = story::kind(message);
        let is_meant = |losing: &&mut Losing| {
            losing.kind == kind
                && losing.from.is_none_or(|node| node == from)
                && losing.to.is_none_or(|node| node == to)
        };
        let Some(losing) = self.losing.iter_mut().find(is_meant) else { return false };
        losing.left -= 1;
        self.losing.retain(|losing| losing.left > 0);
        true
    }

    /// A client hands a node commands, one by one; whether the node claims to lead, and so takes them.
    pub fn hand_in(&mut self, index: usize, count: u64) -> bool {
        let leads = self.leads(index);
        for _ in 0..count {
            if leads {
                self.submit(index);
            }
        }
        leads
    }

    /// Clients at work: whoever claims to lead, and has taken up what it was handed before, gets another command;
    /// whoever doesn't turns its clients away.
    pub fn hand_everybody(&mut self) {
        for index in 0..self.nodes.len() {
            if self.leads(index) {
                if self.nodes[index].running.as_ref().is_some_and(|running| running.desk.is_idle()) {
                    self.submit(index);
                }
            } else if let Some(running) = &mut self.nodes[index].running {
                running.desk.turn_away();
            }
        }
    }

    /// A reader asks a node for a slot.
    pub fn ask(&mut self, index: usize, slot: Slot) {
        self.read(index, slot, Reader::Client(slot));
        self.drain(index);
    }

    /// Asks a node to trim below `upto`; what was agreed, or why not.
    ///
    /// # Errors
    /// If the node is down or doesn't trim, in words.
    pub fn trim_at(&mut self, index: usize, upto: Slot) -> Result<Slot, String> {
        let now = self.now();
        let running = self.nodes[index].running.as_mut().ok_or("it is down")?;
        let agreed = running.replica.trim(now, upto).map_err(|error| error.to_string());
        self.drain(index);
        agreed
    }

    /// Empties the disk of a node that is down.
    pub fn wipe(&mut self, index: usize) {
        self.nodes[index].disk.wipe();
    }

    /// The disk of a node is lost, and its directory made anew.
    pub fn lose_disk(&mut self, index: usize) {
        self.end(index, Ending::Kill);
        self.renew(index);
    }

    /// A node with a new store joins by what the leader knows, and starts; whether it could.
    pub fn let_join(&mut self, index: usize) -> bool {
        self.nodes[index].awaits_join && self.join(index)
    }

    /// Takes a copy of a node's directory, in the place of an earlier one. A node that runs is stopped for that.
    pub fn save_directory(&mut self, index: usize) {
        self.end(index, Ending::Kill);
        self.saved = Some((index, self.nodes[index].copy_directory()));
    }

    /// Starts a node on the copy that was taken of its directory.
    pub fn restore_directory(&mut self, index: usize) {
        self.end(index, Ending::Kill);
        if let Some((_, copy)) = self.saved.take_if(|(node, _)| *node == index) {
            self.own = Some((index, self.nodes[index].put_aside(copy)));
            let life = self.nodes[index].life;
            self.start(index, life);
        }
    }

    /// Puts a node's own directory back.
    pub fn undo_restore(&mut self, index: usize) {
        self.end(index, Ending::Kill);
        if let Some((_, own)) = self.own.take_if(|(node, _)| *node == index) {
            self.nodes[index].take_back(own);
        }
    }

    /// Something on a node's disk changes by itself.
    pub fn rot_at(&mut self, index: usize, grain: Grain) {
        self.nodes[index].disk.rot(grain, &mut self.damage_random);
    }

    /// One bit of the byte at `offset` of a file changes; whether there is such a byte.
    pub fn flip_bit(&mut self, index: usize, file: FileId, offset: u64) -> bool {
        self.nodes[index].disk.flip_bit(file, offset)
    }

    /// A block of a node's disk can't be read any more.
    pub fn make_unreadable(&mut self, index: usize) {
        self.nodes[index].disk.make_unreadable(None, &mut self.damage_random);
    }

    /// A file of a node's directory is deleted.
    pub fn remove_file(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let newest = node.newest_files();
        node.disk.remove_file(&newest, &mut self.damage_random);
    }

    /// A file of a node's directory is cut off.
    pub fn shorten_file(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let newest = node.newest_files();
        node.disk.shorten_file(&newest, &mut self.damage_random);
    }

    /// The next write or sync of a node fails.
    pub fn fail_next(&mut self, index: usize) {
        self.failing = Some(index);
    }

    /// A node loses power in its next installs, so many times.
    pub fn interrupt(&mut self, index: usize, times: u32) {
        self.interrupted = Some((index, times));
    }

    /// In how many more installs a node will lose power.
    pub fn interruptions_left(&self, index: usize) -> u32 {
        self.interrupted.filter(|(node, _)| *node == index).map_or(0, |(_, left)| left)
    }

    /// Asks a node to trim below `upto`, whatever some members lack; what was agreed, or why not.
    ///
    /// # Errors
    /// If the node is down or doesn't trim, in words.
    pub fn trim_past_at(&mut self, index: usize, upto: Slot) -> Result<Slot, String> {
        let now = self.now();
        let running = self.nodes[index].running.as_mut().ok_or("it is down")?;
        let agreed = running.replica.trim_past(now, upto).map_err(|error| error.to_string());
        self.drain(index);
        agreed
    }

    /// Exchanges the disks of two nodes that are down.
    pub fn swap_disks(&mut self, one: usize, other: usize) {
        let (low, high) = (one.min(other), one.max(other));
        let (front, back) = self.nodes.split_at_mut(high);
        std::mem::swap(&mut front[low].disk, &mut back[0].disk);
    }

    /// The ballots at which anybody has led, in order of their first heartbeats.
    pub fn led(&self) -> &[Ballot] {
        &self.led
    }

    pub(super) fn note_leader(&mut self, index: usize, message: &Message) {
        let Message::Heartbeat { ballot, .. } = message else { return };
        if self.led.last() != Some(ballot) && !self.led.contains(ballot) {
            self.led.push(*ballot);
            let (now, since) = (self.now(), self.led_at);
            self.led_at = now;
            let counted = self.led.len();
            self.trace.tell(now, "lead", || {
                let before = if counted == 1 {
                    "no leader before".into()
                } else {
                    format!("{:?} after the one before", now.since(since))
                };
                format!("{} leads at {}: leader {counted} of this run, {before}", node_id(index), story::short(*ballot))
            });
        }
    }
}
