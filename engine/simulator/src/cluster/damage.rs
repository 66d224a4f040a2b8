//! Disks that do wrong, as it happens, and what becomes of a node then: fenced after a failed write, alarmed after a read
//! that failed, or refusing to start on a damaged log.

use std::cmp::Ordering;

use synod_frame::BLOCK_BYTES;
use synod_protocol::{BodyHandle, NodeId};
use synod_wal::scan::HoleCause;
use synod_wal::{Damage, DamageCause, DamageClass, FileId, RecoverError, RecoveredLog};

use crate::disk::damage::Grain;
use crate::disk::{Completion, Ending, OperationId, Struck, Tear};
use crate::faults::disk_damage::{DiskDamage, FILE_RETRY};
use crate::invariants::Property;
use crate::network::node_id;
use crate::node::Finish;
use crate::plant::Plant;
use crate::random::Chance;

use super::{Cluster, Event};

/// How often a read that fails for a while fails.
const ATTEMPTS_MAX: u64 = 3;

impl Cluster {
    /// Notes what the plan has drawn.
    pub(super) fn note_plan(&mut self) {
        let coverage = &mut self.stats.coverage;
        let (configuration, faults) = (&self.plan.configuration, &self.plan.faults);
        coverage.note(match configuration.prepare_quorum.cmp(&configuration.accept_quorum) {
            Ordering::Less => "quorums: many accept",
            Ordering::Equal => "quorums: alike",
            Ordering::Greater => "quorums: many promise",
        });
        let drawn = [
            (faults.clocks.drifts(), "timers that drift"),
            (faults.clocks.jumps(), "a wall clock that jumps"),
            (faults.crashes.storm.is_some(), "a node that crashes at every start"),
            (faults.damage.atlas.is_beyond(), "everybody exposed to damage"),
            (faults.damage.atlas.exposes_any() && !faults.damage.atlas.is_beyond(), "some exposed to damage"),
            (faults.damage.files_max.is_some(), "logs of few files"),
        ];
        drawn.into_iter().filter(|(is_drawn, _)| *is_drawn).for_each(|(_, what)| coverage.note(what));
    }

    /// From here on disks do no more wrong; what is damaged stays so, except errors that go away.
    pub(super) fn heal_disks(&mut self) {
        let damage = &mut self.plan.faults.damage;
        *damage = DiskDamage { atlas: damage.atlas, ..DiskDamage::none() };
        self.plan.log.pool_files_max = crate::plan::POOL_FILES_MAX;
        self.nodes.iter_mut().for_each(|node| node.disk.forget_passing_errors());
    }

    /// Completes an operation of a disk, or fails it.
    pub(super) fn complete(&mut self, index: usize, operation: OperationId, finish: Finish) -> Completion {
        let now = self.now();
        let damage = &self.plan.faults.damage;
        let random = &mut self.damage_random;
        let node = &mut self.nodes[index];
        let is_meant = self.failing == Some(index) && matches!(finish, Finish::Written(_) | Finish::Synced(_));
        self.failing = self.failing.filter(|_| !is_meant);
        let fails = is_meant
            || match finish {
                Finish::Written(_) => random.chance(damage.write_error),
                Finish::Synced(_) => random.chance(damage.sync_error),
                Finish::FileReady(_) if !node.disk.is_creating(operation) => random.chance(damage.write_error),
                Finish::FileReady(_) => {
                    if now >= self.full_until[index] && random.chance(damage.full) {
                        self.full_until[index] = now.plus(random.spread_time(damage.full_for.clone()));
                    }
                    damage.full > Chance::NEVER && now < self.full_until[index]
                }
                Finish::Read(_) => false,
            };
        if fails {
            if !matches!(finish, Finish::FileReady(_)) {
                node.durability.fail();
            }
            return node.disk.fail(operation, random);
        }
        if let Finish::Written(_) = finish
            && damage.atlas.exposes(index)
            && random.chance(damage.astray)
            && let Some(file) = node.disk.file_of(operation)
            && let Some(lsn) = node.durability.position(file.0, file.1)
        {
            let to = damage.draw_astray(random);
            let (completion, struck) = node.disk.complete_astray(operation, to, lsn, random);
            if struck {
                self.stats.coverage.note_astray(to);
                self.trace.note(now, "astray", &[index as u64, u64::from(file.0.0), file.1], || {
                    format!("{} {} {} {to:?}", node_id(index), file.0, file.1)
                });
            }
            return completion;
        }
        node.disk.complete(operation)
    }

    /// A node is told that an operation failed. What completes in the node's eyes.
    pub(super) fn failed(&mut self, index: usize, finish: Finish) -> Completion {
        let life = self.nodes[index].life;
        let (what, plant) = match finish {
            Finish::Written(_) => ("a write failed", Some(Plant::SpeaksAfterFailure)),
            Finish::Synced(_) => ("a sync failed", Some(Plant::RetriesSync)),
            Finish::FileReady(_) => {
                self.stats.coverage.note("a file couldn't be had");
                self.schedule.after(FILE_RETRY, Event::RetryFile { node: index, life });
                return Completion::Failed;
            }
            Finish::Read(_) => {
                self.stats.coverage.note("a read failed");
                self.nodes[index].has_misread = true;
                return Completion::Failed;
            }
        };
        self.stats.coverage.note(what);
        self.invariants.failed(index, life);
        if plant == self.options.plant {
            return Completion::Done;
        }
        self.schedule_restart(index);
        Completion::Failed
    }

    /// Somebody will notice that the node reports a failure.
    fn schedule_restart(&mut self, index: usize) {
        let life = self.nodes[index].life;
        let wait = self.plan.faults.crashes.draw_down(&mut self.damage_random);
        self.schedule.after(wait, Event::Restart { node: index, life });
    }

    pub(super) fn restart(&mut self, index: usize, life: u32) {
        let node = &self.nodes[index];
        if node.running.is_none() || node.life != life || self.is_ending() {
            return;
        }
        self.stats.coverage.note("restarted a fenced node");
        self.crash(index, Ending::Kill);
    }

    pub(super) fn retry_file(&mut self, index: usize, life: u32) {
        let timer = self.timer(index);
        let node = &mut self.nodes[index];
        let Some(running) = node.running.as_mut().filter(|_| node.life == life && node.paused_until.is_none()) else {
            return;
        };
        if running.replica.is_full() {
            self.stats.coverage.note("a log was full");
        }
        running.replica.retry_file(timer);
        self.drain(index);
    }

    /// Whether a node should be able to read all of its log.
    pub(super) fn reads_all(&self, index: usize) -> bool {
        let node = &self.nodes[index];
        node.disk.damage().is_empty() && !node.has_misread && !node.has_lost()
    }

    /// A node says that a record on its disk doesn't check.
    pub(super) fn found_damage(&mut self, index: usize, body: BodyHandle, file: FileId, offset: u64) {
        let now = self.now();
        self.trace.note(now, "damaged", &[index as u64, u64::from(file.0), offset], || {
            format!("{} {body:?} in {file} at {offset}", node_id(index))
        });
        let node = &mut self.nodes[index];
        let range = offset as usize..offset as usize + BLOCK_BYTES + body.bytes as usize;
        if node.disk.damage().spares(file, &range) && !node.has_misread {
            let detail = format!("{} finds {body:?} damaged in {file} at {offset}", node_id(index));
            return self.invariants.report(Property::Recovers, detail);
        }
        self.stats.coverage.note("a node found its log damaged");
    }

    /// A node has got back what it had lost.
    pub(super) fn healed(&mut self, index: usize, body: BodyHandle, from: NodeId) {
        let now = self.now();
        self.trace.note(now, "healed", &[index as u64, body.first.0, u64::from(from.0)], || {
            format!("{} {} from {from}", node_id(index), crate::story::body(&body))
        });
        self.stats.coverage.note("healed a body");
    }

    pub(super) fn schedule_rot(&mut self) {
        if let Some(wait) = self.plan.faults.damage.draw_wait(&mut self.damage_random) {
            self.schedule.after(wait, Event::Rot);
        }
    }

    /// Something stored changes by itself.
    pub(super) fn rot(&mut self) {
        let now = self.now();
        let damage = &self.plan.faults.damage;
        let random = &mut self.damage_random;
        let exposed: Vec<usize> = (0..self.nodes.len()).filter(|index| damage.atlas.exposes(*index)).collect();
        let index = random.pick(&exposed);
        let node = &mut self.nodes[index];
        if node.home == index {
            let struck = if random.chance(damage.unreadable) {
                let passing = random.chance(Chance::of(1, 2));
                let attempts = passing.then(|| random.within(1..=ATTEMPTS_MAX) as u32);
                self.stats.coverage.note(if passing {
                    "a block can't be read for a while"
                } else {
                    "a block can't be read"
                });
                node.disk.make_unreadable(attempts, random)
            } else {
                let grain = damage.draw_grain(random);
                self.stats.coverage.note(match grain {
                    Grain::Bit => "a bit rotted",
                    Grain::Sector => "a sector rotted",
                    Grain::Block => "a block rotted",
                });
                node.disk.rot(grain, random)
            };
            match struck {
                Some(Struck::Header) => self.stats.coverage.note("struck a header"),
                Some(Struck::Footer) => self.stats.coverage.note("struck a footer"),
                Some(Struck::Zeros) => self.stats.coverage.note("struck zeros"),
                Some(Struck::Content) => self.stats.coverage.note("struck a record or a seal"),
                None => {}
            }
            self.trace.note(now, "rot", &[index as u64], || format!("{} {struck:?}", node_id(index)));
        }
        self.schedule_rot();
    }

    /// Draws what a power failure is about to leave half written.
    pub(super) fn draw_tear(&mut self, index: usize, ending: Ending) -> Option<Tear> {
        let damage = &self.plan.faults.damage;
        let tears =
            ending == Ending::PowerFailure && damage.atlas.exposes(index) && self.damage_random.chance(damage.torn);
        tears.then(|| self.nodes[index].disk.draw_tear(&mut self.damage_random)).flatten()
    }

    pub(super) fn tear(&mut self, index: usize, tear: Option<Tear>) {
        if let Some(tear) = tear
            && self.nodes[index].disk.tear(tear)
        {
            self.stats.coverage.note("a block was torn");
        }
    }

    /// What a node makes of its directory when it starts; none if it refuses to.
    pub(super) fn recover(&mut self, index: usize) -> Option<RecoveredLog> {
        if self.options.plant == Some(Plant::IgnoresIdentity) && self.nodes[index].home != index {
            let home = self.nodes[index].home;
            self.nodes[index].assume_identity(home);
        }
        let node = &mut self.nodes[index];
        let mut recovered = node.recover(&node.disk.seen(), &self.plan);
        let damaged = !node.disk.damage().is_empty();
        // Whoever is unsure for another reason won't be for ever, and has forgotten all the same.
        let sure = |log: &RecoveredLog| RecoveredLog { unsure: false, ..log.clone() };
        if damaged
            && let Ok(log) = recovered.as_ref().map(sure)
            && self.invariants.forgotten(index, &node.durability, &log, &self.oracle).is_some()
            && node.disk.damage().unprovable_lost(node.durability.proof(&node.disk))
        {
            // Nobody could tell this from a crash before the write.
            self.stats.coverage.note("a lost write that nobody could notice came true");
            // A disk that lies without a trace may take an acknowledged command with it: nothing more can be asked for.
            (self.stopped, self.over) = (true, true);
            node.disk.surface_lost();
            recovered = node.recover(&node.disk.seen(), &self.plan);
        }
        if self.options.plant == Some(Plant::CutsDoubtful)
            && let Ok(log) = &recovered
            && let Some(damage) = log.damages.iter().find(|damage| damage.class == DamageClass::Doubtful)
        {
            let (file, offset) = (damage.file, damage.offset);
            let node = &mut self.nodes[index];
            node.disk.cut(file, offset);
            recovered = node.recover(&node.disk.seen(), &self.plan);
        }
        let node = &mut self.nodes[index];
        match recovered {
            Ok(recovered)
                if damaged && !recovered.damages.is_empty() && self.options.plant == Some(Plant::RebuildsDamaged) =>
            {
                drop(recovered);
                node.disk.wipe();
                node.bootstrap(&self.plan);
                node.recover(&node.disk.seen(), &self.plan).ok()
            }
            Ok(mut recovered) => {
                if damaged {
                    self.stats.coverage.note("started on a damaged disk");
                    if recovered.damages.is_empty() && node.disk.settle_lost() {
                        node.scarred = true;
                        node.durability.go_back_to(&recovered);
                    }
                }
                node.refused = None;
                if self.options.plant == Some(Plant::DoubtsCrashes) && node.life > 0 {
                    recovered.unsure = true;
                }
                if !recovered.damages.is_empty() {
                    node.durability.go_back_to(&recovered);
                    self.opens_damaged(index, &mut recovered);
                }
                self.count_restart(index, &recovered);
                Some(recovered)
            }
            Err(error) => {
                self.refuse(index, error);
                None
            }
        }
    }

    /// Counts what a node finds when it opens its log again. Crashes alone leave nothing in doubt.
    fn count_restart(&mut self, index: usize, recovered: &RecoveredLog) {
        let node = &mut self.nodes[index];
        let is_touched = node.marred || node.scarred || !node.disk.damage().is_empty();
        if !is_touched && (!recovered.doubts.is_empty() || recovered.unsure || recovered.end_lost) {
            let detail = format!(
                "{} is in doubt{} of a log that nothing but crashes has befallen",
                node_id(index),
                recovered.doubts.iter().map(crate::story::doubt).collect::<String>()
            );
            return self.invariants.report(Property::Recovers, detail);
        }
        if node.life == 0 {
            return;
        }
        let can_damage = self.plan.faults.can_damage() || is_touched;
        let stats = if can_damage { &mut self.stats.damaged } else { &mut self.stats.crashed };
        let is_doubtful = |found: &Damage| found.class == DamageClass::Doubtful;
        let damages = &recovered.damages;
        stats.restarts += 1;
        stats.damaged += u64::from(!damages.is_empty());
        stats.only_doubtful += u64::from(!damages.is_empty() && damages.iter().all(is_doubtful));
        stats.in_doubt += u64::from(!recovered.doubts.is_empty());
        stats.unsure += u64::from(recovered.unsure);
        for found in damages {
            if node.found.insert((found.file, found.lsn)) {
                stats.places += 1;
                stats.places_doubtful += u64::from(is_doubtful(found));
            }
        }
    }

    /// A node opens a log in which something is damaged: that must be so, and must be named.
    fn opens_damaged(&mut self, index: usize, recovered: &mut RecoveredLog) {
        let now = self.now();
        if self.options.plant == Some(Plant::BlamesAnother) {
            recovered.damages.iter_mut().for_each(|damage| damage.file = FileId(damage.file.0 + 1000));
        }
        if self.options.plant == Some(Plant::HidesDoubts) {
            (recovered.doubts, recovered.unsure) = (Vec::new(), false);
        }
        if self.options.plant == Some(Plant::SureTooEarly) {
            recovered.unsure = false;
        }
        self.invariants.opened_damaged(index, recovered.unsure);
        self.stats.coverage.note("opened a damaged log");
        let marred = std::mem::replace(&mut self.nodes[index].marred, true);
        let node = &self.nodes[index];
        let damage = node.disk.damage();
        let damaged = damage.files();
        let is_of_header = |found: &Damage| {
            matches!(
                found.cause,
                DamageCause::Header(_)
                    | DamageCause::HeaderLost { .. }
                    | DamageCause::FileMissing
                    | DamageCause::SegmentMissing { .. }
                    | DamageCause::SuccessorMissing
            )
        };
        for found in &recovered.damages {
            self.trace.note(now, "damage", &[index as u64, u64::from(found.file.0), found.offset], || {
                format!("{} {found} ({:?})", node_id(index), found.class)
            });
            let excused = match &found.cause {
                // What follows a hole of old blocks or zeros lies in a segment that may be the damaged one: then the log
                // seems to end where that one's predecessor does. Without a trim that was lost, a log needs segments that
                // have been given up meanwhile.
                DamageCause::Hole(HoleCause::Old | HoleCause::Head(_)) => !damaged.is_empty() || node.scarred,
                // What is missing can't be named by its file.
                DamageCause::SegmentMissing { .. } | DamageCause::SuccessorMissing | DamageCause::Previous { .. } => {
                    !damaged.is_empty() || node.scarred
                }
                DamageCause::FileMissing => !damaged.is_empty() || node.scarred,
                // Torn by a crash, and the header of the next segment, which said that the log ends there, is lost.
                DamageCause::Seal | DamageCause::Hole(_)
                    if (found.cause == DamageCause::Seal || found.class == DamageClass::Doubtful)
                        && recovered.damages.iter().any(is_of_header) =>
                {
                    true
                }
                DamageCause::Hole(_) | DamageCause::Seal | DamageCause::End { .. } => {
                    damaged.contains(&found.file) || node.scarred || damage.has_lost()
                }
                DamageCause::Header(_) | DamageCause::HeaderLost { .. } | DamageCause::FileBytes { .. } => {
                    damaged.contains(&found.file) || node.scarred || damage.has_lost()
                }
            };
            if !(excused || marred) || found.file.0 >= 1000 {
                let property =
                    if damaged.is_empty() && !node.scarred { Property::Recovers } else { Property::CleanStop };
                let detail = format!("{} says that {found}; damaged are {damaged:?}", node_id(index));
                return self.invariants.report(property, detail);
            }
        }
    }

    /// A node says why it doesn't start: that must be so, and must name what is bad.
    fn refuse(&mut self, index: usize, error: RecoverError) {
        let now = self.now();
        self.trace.note(now, "refuse", &[index as u64], || format!("{} {error}", node_id(index)));
        self.stats.coverage.note_refused(&error);
        let swapped = self.nodes[index].home != index;
        let node = &mut self.nodes[index];
        let damaged = node.disk.damage().files();
        let copied = self.mistake.as_ref().is_some_and(|made| made.copied == Some(index));
        let excused = match &error {
            RecoverError::Identity { .. } => swapped,
            RecoverError::Empty => node.disk.is_empty() || !damaged.is_empty(),
            RecoverError::Duplicate { first, second, .. } => {
                copied || damaged.contains(first) || damaged.contains(second)
            }
            RecoverError::Header { file, .. } => damaged.contains(file),
            RecoverError::Read(error) => damaged.contains(&error.file),
            // What is missing can't be named by its file.
            RecoverError::Missing { .. } => !damaged.is_empty(),
            RecoverError::SegmentBytes(_)
            | RecoverError::List(_)
            | RecoverError::Newer { .. }
            | RecoverError::Conflict { .. }
            | RecoverError::OtherGroup { .. } => false,
        };
        if !excused {
            let sound = damaged.is_empty() && !node.scarred && !swapped && !copied && !node.disk.is_empty();
            let property = if sound { Property::Recovers } else { Property::CleanStop };
            let detail = format!("{} can't start: {error}; damaged are {damaged:?}", node_id(index));
            return self.invariants.report(property, detail);
        }
        if node.disk.damage().is_passing() && !node.disk.is_empty() && !swapped && !copied {
            node.disk.tried_everything();
            let down = self.plan.faults.crashes.draw_down(&mut self.damage_random);
            self.schedule.after(down, Event::Start { node: index, life: self.nodes[index].life });
        }
        self.nodes[index].refused = Some(error);
    }
}
