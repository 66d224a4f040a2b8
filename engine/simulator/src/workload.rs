//! Clients: they append commands of their own making to whichever node claims to lead, read, and ask for trims. They
//! never repeat a command: one that went unanswered stays of unknown fate.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;
use std::time::Duration;

use synod_frame::{Batch, BodyBounds, CommandsPlan, PlanError, Submission, encode_commands};
use synod_frame::{Origin, RecordBuffer};
use synod_protocol::{BodyHandle, BodyId, Instant, Opening};
use synod_wal::Geometry;

use crate::network::undefined_buffer;
use crate::node::GROUP;
use crate::oracle::{COMMAND_BYTES_MIN, CommandId, Oracle};
use crate::random::{Chance, Random};

/// Commands that every run carries at least.
pub const COMMANDS_MIN: u64 = 1000;

/// How often clients do something at least while something goes wrong.
const TURNS_MIN: u64 = 150;

/// What clients do in a run.
#[derive(Clone, Debug)]
pub struct WorkloadPlan {
    /// Time between two submissions of all clients together.
    pub every: RangeInclusive<Duration>,
    /// Submissions at a time.
    pub burst: RangeInclusive<u64>,
    /// Most submissions that a leader puts into one body: with few, bodies fill the window.
    pub body_submissions_max: usize,
    /// Commands in a submission.
    pub commands: RangeInclusive<u64>,
    /// Length of a command.
    pub command_bytes: RangeInclusive<u64>,
    /// Longest record that a leader makes of submissions.
    pub record_bytes_max: usize,
    /// A leader is asked for a trim instead.
    pub trim: Chance,
    /// Some node is asked for a slot as well.
    pub read: Chance,
    /// Commands that clients hand in at least; what they couldn't while something went wrong, they do when all is well.
    pub commands_min: u64,
}

impl WorkloadPlan {
    pub(crate) fn draw(random: &mut Random, alpha: u32, geometry: Geometry, time: Duration) -> WorkloadPlan {
        let record_bytes_max = random.pick(&[4 << 10, 12 << 10, 48 << 10]).min(geometry.record_bytes_max() as usize);
        // A submission is never split: it must fit into one body, and within alpha.
        let commands_max = random.pick(&[1, 4, 12]).min(u64::from(alpha));
        let room = record_bytes_max as u64 - 1024;
        let longest = random.spread(8..=2000).min(room / commands_max - 8);
        let shortest = if random.chance(Chance::of(1, 2)) { longest } else { COMMAND_BYTES_MIN as u64 };
        let burst = random.pick(&[1, 1, 3, 10]);
        // They go on for as long as anything goes wrong, and find nobody who leads for some of that time.
        let wanted = random.within(COMMANDS_MIN..=2 * COMMANDS_MIN);
        let mean_of_turn = (1 + commands_max) * (1 + burst) / 4;
        let turns = (wanted / mean_of_turn.max(1)).max(TURNS_MIN);
        let interval = (time.as_micros() as u64 / turns).max(4);
        WorkloadPlan {
            every: Duration::from_micros(interval / 4)..=Duration::from_micros(interval * 3),
            burst: 1..=burst,
            body_submissions_max: random.pick(&[1, 3, 1000]),
            commands: 1..=commands_max,
            command_bytes: shortest..=longest,
            record_bytes_max,
            trim: random.pick(&[Chance::NEVER, Chance::of(1, 100), Chance::of(1, 15)]),
            read: random.pick(&[Chance::NEVER, Chance::of(1, 5), Chance::of(1, 1)]),
            commands_min: COMMANDS_MIN,
        }
    }

    /// Draws the time to the next submission.
    pub fn draw_wait(&self, random: &mut Random) -> Duration {
        random.spread_time(self.every.clone())
    }

    /// Makes a submission of new commands.
    pub fn make_submission(&self, now: Instant, random: &mut Random, oracle: &mut Oracle) -> Queued {
        let count = random.within(self.commands.clone());
        let commands: Vec<CommandId> =
            (0..count).map(|_| oracle.submit(now, random.within(self.command_bytes.clone()) as usize)).collect();
        let batch = commands.iter().map(|id| oracle.command_bytes(*id)).collect();
        Queued { commands, batch }
    }
}

/// A submission that waits at a leader.
#[derive(Debug)]
pub struct Queued {
    commands: Vec<CommandId>,
    batch: Batch,
}

/// A leader's side of its clients: what waits for a body, and what waits for its body to be delivered.
#[derive(Debug, Default)]
pub struct Desk {
    queue: VecDeque<Queued>,
    proposed: BTreeMap<BodyId, Vec<CommandId>>,
}

impl Desk {
    /// A client hands in a submission.
    pub fn take(&mut self, queued: Queued) {
        self.queue.push_back(queued);
    }

    /// Whether nothing waits for a body.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    /// The node leads no longer: what waits is turned away, what was proposed may or may not come to be. Returns the
    /// commands that are turned away.
    pub fn turn_away(&mut self) -> Vec<CommandId> {
        self.queue.drain(..).flat_map(|queued| queued.commands).collect()
    }

    /// Everything that was proposed here and not delivered yet.
    pub fn unknown(&self) -> impl Iterator<Item = CommandId> {
        self.proposed.values().flatten().copied()
    }

    /// Makes a body of the oldest submissions, as many as fit; none if nothing waits, or the oldest doesn't fit yet.
    pub fn compose(
        &mut self,
        opening: &Opening,
        plan: &WorkloadPlan,
        leader_time_us: u64,
    ) -> Option<(BodyHandle, RecordBuffer)> {
        let bounds = BodyBounds { commands_max: opening.count_max, record_bytes_max: plan.record_bytes_max };
        let submissions_max = plan.body_submissions_max;
        let mut plan = CommandsPlan::new();
        let mut taken = 0;
        for queued in self.queue.iter().take(submissions_max) {
            match plan.try_push(&queued.batch, &bounds) {
                Ok(()) => taken += 1,
                Err(PlanError::Full | PlanError::TooLarge { .. }) => break,
                Err(PlanError::Empty) => unreachable!("submissions have commands"),
            }
        }
        let layout = plan.layout()?;
        let mut record = undefined_buffer(layout.record_bytes());
        let origin = Origin { group: GROUP, first: opening.first, ballot: opening.ballot, leader_time_us };
        let submissions: Vec<Submission<'_>> =
            self.queue.iter().take(taken).map(|queued| Submission::plain(&queued.batch)).collect();
        let body = encode_commands(record.as_mut(), &origin, &submissions).expect("the plan fits");
        let commands = self.queue.drain(..taken).flat_map(|queued| queued.commands).collect();
        self.proposed.insert(body.id, commands);
        Some((body, record))
    }

    /// The commands of a body that was proposed here, in slot order, now that it is delivered.
    pub fn delivered(&mut self, id: BodyId) -> Vec<CommandId> {
        self.proposed.remove(&id).unwrap_or_default()
    }

    /// The commands of a body that was proposed here.
    pub fn proposed(&self, id: BodyId) -> &[CommandId] {
        self.proposed.get(&id).map_or(&[], Vec::as_slice)
    }
}
