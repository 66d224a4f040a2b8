//! Clients: they append commands of their own making to whichever node claims to lead, read, and ask for trims. They
//! never repeat a command outside of a session: one that went unanswered stays of unknown fate.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;
use std::time::Duration;

use synod_frame::{
    Batch, BodyBounds, CommandsPlan, EMPTY_BODY, Origin, PlanError, RecordBuffer, Submission, encode_commands,
    encode_session, encode_ticket, stamp,
};
use synod_protocol::delivery::{SessionCommand, Terms, TicketCommand};
use synod_protocol::{BodyHandle, BodyId, Instant, Opening, Slot};
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
    /// It is asked for one past members, of whatever a quorum has.
    pub trim_past: Chance,
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
            trim_past: Chance::NEVER,
            read: random.pick(&[Chance::NEVER, Chance::of(1, 5), Chance::of(1, 1)]),
            commands_min: COMMANDS_MIN,
        }
    }

    /// Draws the time to the next submission.
    pub fn draw_wait(&self, random: &mut Random) -> Duration {
        random.spread_time(self.every.clone())
    }

    /// Makes a submission of new commands.
    pub fn make_submission(&self, now: Instant, random: &mut Random, oracle: &mut Oracle) -> Sent {
        let count = random.within(self.commands.clone());
        let commands: Vec<CommandId> =
            (0..count).map(|_| oracle.submit(now, random.within(self.command_bytes.clone()) as usize)).collect();
        let batch = commands.iter().map(|id| oracle.command_bytes(*id)).collect();
        Sent { commands, batch, terms: Terms::NONE, client: 0 }
    }
}

/// A submission of commands.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Its commands.
    pub commands: Vec<CommandId>,
    batch: Batch,
    /// On what terms it is to be delivered.
    pub terms: Terms,
    /// Which of the clients with sessions sent it, if it has terms.
    pub client: usize,
}

/// A command about sessions or tickets.
#[derive(Clone, Copy, Debug)]
pub enum Command {
    /// About sessions.
    Session(SessionCommand),
    /// About tickets.
    Ticket(TicketCommand),
}

/// What waits at a leader.
#[derive(Debug)]
pub enum Queued {
    /// A submission of commands.
    Commands(Sent),
    /// A command that has a body to itself.
    Command {
        /// The command.
        command: Command,
        /// Which of the clients with sessions sent it.
        client: usize,
    },
}

impl Queued {
    fn slots(&self) -> u64 {
        match self {
            Queued::Commands(sent) => sent.commands.len() as u64,
            Queued::Command { .. } => 1,
        }
    }

    fn is_plain(&self) -> bool {
        matches!(self, Queued::Commands(sent) if sent.terms.is_none())
    }

    fn commands(&self) -> &[CommandId] {
        match self {
            Queued::Commands(sent) => &sent.commands,
            Queued::Command { .. } => &[],
        }
    }
}

/// What waits to be judged: its place in its body, its first slot, and what it is.
pub type Judging = (usize, Slot, Queued);

/// A leader's side of its clients: what waits for a body, and what waits for its body to be delivered.
#[derive(Debug, Default)]
pub struct Desk {
    queue: VecDeque<Queued>,
    proposed: BTreeMap<BodyId, Vec<Queued>>,
    judging: BTreeMap<BodyId, Vec<Judging>>,
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
    /// commands that are turned away for good: in a session another copy may be on its way.
    pub fn turn_away(&mut self) -> Vec<CommandId> {
        let turned_away = self.queue.drain(..).filter(Queued::is_plain);
        turned_away.flat_map(|queued| queued.commands().to_vec()).collect()
    }

    /// Everything that was proposed here and not delivered yet.
    pub fn unknown(&self) -> impl Iterator<Item = CommandId> {
        self.proposed.values().flatten().flat_map(Queued::commands).copied()
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
        let origin = Origin { group: GROUP, first: opening.first, ballot: opening.ballot, leader_time_us };
        if let Some(Queued::Command { command, .. }) = self.queue.front() {
            let mut record = undefined_buffer(EMPTY_BODY.record_bytes());
            let body = match command {
                Command::Session(command) => encode_session(record.as_mut(), &origin, *command),
                Command::Ticket(command) => encode_ticket(record.as_mut(), &origin, *command),
            };
            let body = stamped(opening, body.expect("a block has room for it"), &mut record);
            self.proposed.insert(body.id, self.queue.drain(..1).collect());
            return Some((body, record));
        }
        let mut plan = CommandsPlan::new();
        let mut submissions = Vec::new();
        for queued in self.queue.iter().take(submissions_max) {
            let Queued::Commands(sent) = queued else { break };
            match plan.try_push_under(&sent.terms, &sent.batch, &bounds) {
                Ok(()) => submissions.push(Submission::under(&sent.terms, &sent.batch)),
                Err(PlanError::Full | PlanError::TooLarge { .. }) => break,
                Err(PlanError::Empty) => unreachable!("submissions have commands"),
            }
        }
        let layout = plan.layout()?;
        let mut record = undefined_buffer(layout.record_bytes());
        let body = encode_commands(record.as_mut(), &origin, &submissions).expect("the plan fits");
        let body = stamped(opening, body, &mut record);
        let taken = submissions.len();
        self.proposed.insert(body.id, self.queue.drain(..taken).collect());
        Some((body, record))
    }

    /// A body is delivered: what of it was proposed here and counts as it is, with its first slot. The rest waits to be
    /// judged.
    pub fn delivered(&mut self, body: &BodyHandle) -> Vec<(Slot, Sent)> {
        let mut plain = Vec::new();
        let mut first = body.first;
        for (place, queued) in self.proposed.remove(&body.id).unwrap_or_default().into_iter().enumerate() {
            let at = first;
            first = first.plus(queued.slots());
            match queued {
                Queued::Commands(sent) if sent.terms.is_none() => plain.push((at, sent)),
                queued => self.judging.entry(body.id).or_default().push((place, at, queued)),
            }
        }
        plain
    }

    /// A body is judged: what of it waited for that.
    pub fn judged(&mut self, id: BodyId) -> Vec<Judging> {
        self.judging.remove(&id).unwrap_or_default()
    }

    /// The commands of a body that was proposed here, in slot order.
    pub fn proposed(&self, id: BodyId) -> Vec<CommandId> {
        self.proposed.get(&id).into_iter().flatten().flat_map(Queued::commands).copied().collect()
    }
}

/// The body in the format that the opening wants.
fn stamped(opening: &Opening, body: BodyHandle, record: &mut RecordBuffer) -> BodyHandle {
    opening.ruling.map_or(body, |ruling| stamp(record.as_mut(), ruling).expect("the body was just made"))
}
