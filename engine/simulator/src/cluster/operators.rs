//! Mistakes with directories, as they happen, and how they are put right.

use crate::disk::Ending;
use crate::faults::operators::Mistake;
use crate::network::node_id;
use crate::node::{DirectoryCopy, OwnDirectory};
use crate::plant::Plant;

use synod_wal::FileId;

use super::{Cluster, Event};

/// A mistake that was made.
pub(super) struct Made {
    /// The node whose directory has a file twice, while it has.
    pub(super) copied: Option<usize>,
    what: What,
}

enum What {
    Swapped(usize, usize),
    Copied(usize, FileId),
    Saved(usize, Box<DirectoryCopy>),
    /// An old copy is there in place of the node's own directory.
    Old(usize, Box<OwnDirectory>),
}

impl Cluster {
    pub(super) fn schedule_mistake(&mut self) {
        if let Some(wait) = self.plan.faults.operators.draw_wait(&mut self.operator_random) {
            self.schedule.after(wait, Event::Mistake);
        }
    }

    /// Somebody stops a node, does something to its directory, and starts it again.
    pub(super) fn make_mistake(&mut self) {
        let (now, nodes, atlas) = (self.now(), self.nodes.len(), self.plan.faults.damage.atlas);
        let mistake = self.plan.faults.operators.draw_mistake(&mut self.operator_random);
        let index = self.operator_random.index(nodes);
        // What a disk lost in silence may lie in the very file that somebody destroys: then nothing tells of it any more.
        let can_tell = atlas.exposes(index) && !self.nodes[index].disk.damage().has_lost();
        let spared = mistake == Mistake::Replace && !self.can_renew(index) || !self.is_whole(index);
        if mistake.destroys() && !can_tell || mistake == Mistake::Swap && nodes == 1 || spared {
            return self.schedule_mistake();
        }
        self.trace.note(now, "mistake", &[index as u64], || format!("{} {mistake:?}", node_id(index)));
        self.stop(index);
        let random = &mut self.operator_random;
        let node = &mut self.nodes[index];
        let newest = node.newest_files();
        match mistake {
            Mistake::Swap => {
                let other = (index + 1 + random.index(nodes - 1)) % nodes;
                if !self.is_whole(other) {
                    return self.schedule_mistake();
                }
                self.stop(other);
                self.swap(index, other);
                self.stats.coverage.note("swapped directories");
                self.mistake = Some(Made { copied: None, what: What::Swapped(index, other) });
                for node in [index, other] {
                    let life = self.nodes[node].life;
                    self.start(node, life);
                }
            }
            Mistake::CopyFile => {
                if let Some(copy) = newest.first().and_then(|file| node.disk.copy_file(*file)) {
                    self.stats.coverage.note("copied a segment");
                    self.mistake = Some(Made { copied: Some(index), what: What::Copied(index, copy) });
                    let life = node.life;
                    self.start(index, life);
                }
            }
            Mistake::RollBack => {
                self.stats.coverage.note("saved a directory");
                let copy = Box::new(node.copy_directory());
                self.mistake = Some(Made { copied: None, what: What::Saved(index, copy) });
            }
            Mistake::Wipe => {
                self.stats.coverage.note("wiped a directory");
                node.disk.wipe();
            }
            Mistake::Replace => self.renew(index),
            Mistake::RemoveFile => {
                if node.disk.remove_file(&[], random).is_some() {
                    // If nothing was in it, the node starts without it; what recovery would make of the file is no matter.
                    node.scarred = true;
                    self.stats.coverage.note("removed a segment");
                }
            }
            Mistake::ShortenFile => {
                if node.disk.shorten_file(&[], random).is_some() {
                    self.stats.coverage.note("cut a segment short");
                }
            }
        }
        if self.mistake.is_some() {
            let lasts = random_time(self);
            self.schedule.after(lasts, Event::PutRight);
        } else {
            self.schedule_mistake();
        }
    }

    fn stop(&mut self, index: usize) {
        if self.nodes[index].running.is_some() {
            self.crash(index, Ending::Kill);
        }
    }

    fn swap(&mut self, one: usize, other: usize) {
        let (low, high) = (one.min(other), one.max(other));
        let (left, right) = self.nodes.split_at_mut(high);
        let (one, other) = (&mut left[low], &mut right[0]);
        std::mem::swap(&mut one.disk, &mut other.disk);
        std::mem::swap(&mut one.home, &mut other.home);
    }

    /// Whether a node has the directory that it should have.
    fn is_whole(&self, index: usize) -> bool {
        let node = &self.nodes[index];
        !node.amnesic && !node.awaits_join && node.stranger.is_none()
    }

    /// Somebody puts the last mistake right, as far as that goes.
    pub(super) fn put_right(&mut self) {
        let Some(made) = self.mistake.take() else { return };
        match made.what {
            What::Swapped(one, other) => {
                // A node that started on the other's directory is a planted bug, and known by now.
                self.stop(one);
                self.stop(other);
                self.swap(one, other);
                for index in [one, other] {
                    self.nodes[index].refused = None;
                    let life = self.nodes[index].life;
                    self.start(index, life);
                }
            }
            What::Copied(index, copy) => {
                if self.nodes[index].running.is_none() {
                    self.nodes[index].disk.remove_copy(copy);
                    self.nodes[index].refused = None;
                    let life = self.nodes[index].life;
                    self.start(index, life);
                }
            }
            What::Saved(index, copy) => {
                self.stop(index);
                self.roll_back(index, *copy);
            }
            What::Old(index, own) => {
                self.stop(index);
                self.nodes[index].take_back(*own);
                let life = self.nodes[index].life;
                self.start(index, life);
            }
        }
        if self.mistake.is_some() {
            let lasts = random_time(self);
            return self.schedule.after(lasts, Event::PutRight);
        }
        self.schedule_mistake();
    }

    /// Puts an old copy of a directory back: if every member knows better, for a while; otherwise only if it lacks nothing
    /// that the node ever claimed, and nobody knows of a later boot.
    fn roll_back(&mut self, index: usize, copy: DirectoryCopy) {
        let now = self.now();
        let node = &mut self.nodes[index];
        if !node.disk.damage().is_empty() || node.disk.is_empty() || node.marred || node.scarred {
            return;
        }
        let Ok(recovered) = node.recover(&copy.disk.seen(), &self.plan) else { return };
        let forgotten = self.invariants.forgotten(index, &node.durability, &recovered, &self.oracle);
        let is_known = self.is_known_to_be_old(index, &copy);
        if self.convergence.is_none() && is_known && self.options.plant != Some(Plant::RollsBack) {
            self.stats.coverage.note("an old copy ran");
            self.trace.note(now, "old copy", &[index as u64], || node_id(index).to_string());
            let node = &mut self.nodes[index];
            let own = Box::new(node.put_aside(copy));
            self.mistake = Some(Made { copied: None, what: What::Old(index, own) });
            let life = self.nodes[index].life;
            return self.start(index, life);
        }
        let boot = crate::node::Node::next_boot_of(&copy);
        let incarnation = self.nodes[index].speaker().incarnation;
        let somebody_knows = self.nodes.iter().any(|other| other.links.remembers(incarnation, boot));
        if (forgotten.is_some() || somebody_knows) && self.options.plant != Some(Plant::RollsBack) {
            return self.stats.coverage.note("an old copy lacked something");
        }
        let node = &mut self.nodes[index];
        self.stats.coverage.note("an old copy was put back");
        self.trace.note(now, "roll back", &[index as u64], || node_id(index).to_string());
        node.restore(copy);
        node.durability.go_back_to(&recovered);
    }
}

fn random_time(cluster: &mut Cluster) -> std::time::Duration {
    let lasts = cluster.plan.faults.operators.lasts.clone();
    cluster.operator_random.spread_time(lasts)
}
