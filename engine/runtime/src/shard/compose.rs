//! From submissions to bodies, and from delivered bodies back to submissions.
//!
//! A body is composed the moment there is room for one: while the pipeline is full submissions gather, and what
//! gathered is the next body. So a lone submission goes out at once, and bodies grow under load, without a timer. Where
//! some bodies are under way, a small one waits for the next of them to come back: a body costs every node a write, a sync
//! and several wake-ups, however little is in it. The bytes of each submission are copied once, from its batch into the
//! record buffer.
//!
//! A proposed body is followed until a body is delivered in its slots. If that is the same one, its submissions were
//! chosen; if it is another, they were not and never will be (no instance is chosen twice, and a body is chosen whole
//! or not at all), so they go back to the head of the intake. Until then nobody knows.
//!
//! Submissions with terms, and commands about sessions and tickets, wait further, until their body is judged.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use synod_frame::{
    BodyBounds, CommandsPlan, EMPTY_BODY, Origin, PlanError, encode_commands, encode_session, encode_ticket, stamp,
};
use synod_protocol::delivery::Answer;
use synod_protocol::{BodyHandle, Instant, Opening, SlotRange};

use super::{Core, Shard};
use crate::error::AppendError;
use crate::intake::{Outcome, Submission, Work};
use crate::seam::buffer::{self, Buffer};

/// Bodies under way from which on a small body waits for company.
const COMPANY_BODIES: usize = 4;

/// Vectors kept for the next bodies.
const SPARES_MAX: usize = 64;

/// The bodies proposed by this shard and not yet resolved, in the order of their proposal.
#[derive(Default)]
pub(super) struct InFlight {
    bodies: VecDeque<Proposed>,
    /// Delivered bodies of which some submissions wait for judgement, in the order of their delivery.
    judging: VecDeque<Delivered>,
    /// Emptied vectors, whose memory the next bodies use.
    spares: Vec<Vec<Submission>>,
    /// Some submission here may have a deadline.
    has_deadlines: bool,
}

struct Proposed {
    body: BodyHandle,
    at: Instant,
    submissions: Vec<Submission>,
}

struct Delivered {
    body: BodyHandle,
    at: Instant,
    /// Their places in the body, and their slots.
    submissions: Vec<(usize, SlotRange, Submission)>,
}

impl Delivered {
    fn report_unknown(self) {
        report_unknown(self.submissions.into_iter().map(|(_, _, submission)| submission));
    }
}

impl InFlight {
    fn spare(&mut self) -> Vec<Submission> {
        self.spares.pop().unwrap_or_default()
    }

    fn give_back(&mut self, mut emptied: Vec<Submission>) {
        emptied.clear();
        if self.spares.len() < SPARES_MAX {
            self.spares.push(emptied);
        }
    }

    /// Takes out the bodies that share a slot with `body`.
    fn take_overlapping(&mut self, body: &BodyHandle) -> Option<Proposed> {
        // Bodies are delivered in the order of their slots, so it is the first one but for changes of leaders.
        let place = self.bodies.iter().position(|proposed| proposed.body.overlaps(body))?;
        self.bodies.remove(place)
    }

    /// Reports what is proposed as unknown: this node will not find out any more.
    pub(super) fn abandon(&mut self) {
        for proposed in self.bodies.drain(..) {
            report_unknown(proposed.submissions);
        }
        self.judging.drain(..).for_each(Delivered::report_unknown);
    }

    /// Reports proposed submissions whose deadline has passed as unknown; how many those were.
    fn expire_deadlines(&mut self) -> u64 {
        let now = std::time::Instant::now();
        let proposed = self.bodies.iter_mut().flat_map(|proposed| &mut proposed.submissions);
        let judging = self.judging.iter_mut().flat_map(|delivered| &mut delivered.submissions);
        let all = proposed.chain(judging.map(|(_, _, submission)| submission));
        let (mut expired, mut left) = (0, false);
        for submission in all {
            expired += u64::from(answer_late(submission, now));
            left |= submission.deadline.is_some();
        }
        self.has_deadlines = left;
        expired
    }

    /// Reports what was proposed too long ago as unknown; how many submissions those were.
    pub(super) fn expire(&mut self, now: Instant, unknown_after: Duration) -> u64 {
        let mut expired = 0;
        while let Some(oldest) = self.bodies.front()
            && now.since(oldest.at) >= unknown_after
            && let Some(oldest) = self.bodies.pop_front()
        {
            expired += oldest.submissions.len() as u64;
            report_unknown(oldest.submissions);
        }
        if self.has_deadlines {
            expired += self.expire_deadlines();
        }
        while let Some(oldest) = self.judging.pop_front_if(|oldest| now.since(oldest.at) >= unknown_after) {
            expired += oldest.submissions.len() as u64;
            oldest.report_unknown();
        }
        expired
    }
}

/// Answers a submission that stays where it is, because the others of its body are found by what stands before them.
fn answer_late(submission: &mut Submission, now: std::time::Instant) -> bool {
    let is_late = submission.is_late(now);
    if is_late {
        submission.deadline = None;
        submission.answer_in_place(Err(AppendError::Unknown));
    }
    is_late
}

fn report_unknown(submissions: impl IntoIterator<Item = Submission>) {
    for submission in submissions {
        submission.answer(Err(AppendError::Unknown));
    }
}

impl Shard {
    /// Proposes one body of what gathered, if there is something and room for it.
    pub(super) fn propose_gathered(&self, core: &mut Core, now: Instant) -> bool {
        let Some(opening) = core.replica.opening() else { return false };
        if core.in_flight.bodies.len() >= COMPANY_BODIES
            && self.shared.intake.level().1 < self.settings.record_bytes_max as u64 / 2
        {
            // Each of those under way ends in a turn, and so does each tick of the clock.
            return false;
        }
        let begun = std::time::Instant::now();
        let shared = BodyBounds { commands_max: opening.count_max, record_bytes_max: self.settings.record_bytes_max };
        let alone = BodyBounds { commands_max: opening.count_max, ..BodyBounds::LARGEST };
        let mut plan = CommandsPlan::new();
        let mut is_command = false;
        let mut submissions = core.in_flight.spare();
        self.shared.intake.expire();
        let emptied = self.shared.intake.take(&mut submissions, |submission| match submission.work() {
            _ if is_command => false,
            Work::Commands { batch, terms } => match plan.try_push_under(terms, batch, &shared) {
                Err(PlanError::TooLarge { .. }) if plan.is_empty() => plan.try_push_under(terms, batch, &alone).is_ok(),
                pushed => pushed.is_ok(),
            },
            Work::Session(_) | Work::Ticket(_) => {
                is_command = plan.is_empty();
                is_command
            }
        });
        if emptied {
            self.intake_emptied.raise();
        }
        if submissions.is_empty() {
            core.in_flight.give_back(submissions);
            return false;
        }
        core.replica.set_wall_clock(self.clock.wall_us());
        let (body, record) = self.compose(core.replica.leader_time_us(), &opening, &plan, &submissions);
        match core.replica.propose(now, body, record) {
            Ok(()) => {
                core.counters.bodies += 1;
                core.counters.submissions += submissions.len() as u64;
                core.counters.commands += u64::from(body.count);
                core.in_flight.has_deadlines |= submissions.iter().any(|submission| submission.deadline.is_some());
                core.in_flight.bodies.push_back(Proposed { body, at: now, submissions });
                self.shared.meters.compose.record(begun.elapsed());
                true
            }
            Err(error) => {
                // The opening was there a moment ago, and nothing happened in between.
                tracing::warn!(%error, "a body was not proposed");
                self.shared.intake.put_back(submissions.into_iter());
                false
            }
        }
    }

    fn compose(
        &self,
        leader_time_us: u64,
        opening: &Opening,
        plan: &CommandsPlan,
        submissions: &[Submission],
    ) -> (BodyHandle, Buffer) {
        let origin =
            Origin { group: self.settings.group, first: opening.first, ballot: opening.ballot, leader_time_us };
        // A command about sessions or tickets fits into the block that a body without an archive takes.
        let layout = plan.layout().unwrap_or(EMPTY_BODY);
        let mut record = buffer::allocate(layout.record_bytes());
        let bytes = record.as_bytes_mut();
        let body = match submissions.first().map(Submission::work) {
            Some(Work::Session(command)) => encode_session(bytes, &origin, *command),
            Some(Work::Ticket(command)) => encode_ticket(bytes, &origin, *command),
            _ => {
                let views: Vec<synod_frame::Submission<'_>> = submissions.iter().filter_map(view).collect();
                encode_commands(bytes, &origin, &views)
            }
        };
        let body = body.expect("the plan of these submissions fits the opening, and the buffer the plan");
        let body = match opening.ruling {
            None => body,
            Some(ruling) => stamp(record.as_bytes_mut(), ruling).expect("the body was just made"),
        };
        (body, record)
    }

    /// Answers the submissions whose slots `body` fills, but for those that wait to be judged.
    pub(super) fn resolve(&self, core: &mut Core, body: &BodyHandle) {
        while let Some(mut proposed) = core.in_flight.take_overlapping(body) {
            if proposed.body.id == body.id {
                let mut waiting = Vec::new();
                let mut first = body.first;
                let now = std::time::Instant::now();
                let mut appended = 0;
                for (place, submission) in proposed.submissions.drain(..).enumerate() {
                    let end = first.plus(submission.work().slots());
                    if submission.work().is_plain() {
                        self.shared.meters.append.record(now.saturating_duration_since(submission.arrived()));
                        appended += 1;
                        submission.answer(Ok(first..end));
                    } else {
                        waiting.push((place, first..end, submission));
                    }
                    first = end;
                }
                self.shared.meters.appended.add(appended);
                core.in_flight.give_back(proposed.submissions);
                if !waiting.is_empty() {
                    let delivered = Delivered { body: *body, at: proposed.at, submissions: waiting };
                    core.in_flight.judging.push_back(delivered);
                }
            } else {
                core.counters.retries += proposed.submissions.len() as u64;
                self.shared.intake.put_back(proposed.submissions.into_iter());
            }
        }
    }

    /// Answers the submissions of a body that waited for their judgement.
    pub(super) fn resolve_judged(&self, core: &mut Core, body: &BodyHandle, answers: &[Answer]) {
        let is_meant = |delivered: &mut Delivered| delivered.body.first <= body.first;
        while let Some(delivered) = core.in_flight.judging.pop_front_if(is_meant) {
            if delivered.body.id != body.id {
                // Its judgement was passed over: the log was trimmed before.
                delivered.report_unknown();
                continue;
            }
            for (place, slots, submission) in delivered.submissions {
                let answer = answers.get(place).map_or(Err(AppendError::Unknown), |answer| outcome(answer, &slots));
                self.shared.meters.append.record(submission.arrived().elapsed());
                match answer {
                    Ok(_) => self.shared.meters.appended.add(1),
                    Err(_) => self.shared.meters.suppressed.add(1),
                }
                submission.answer(answer);
            }
        }
    }

    /// Turns an arrival at the empty intake into a turn of the shard.
    pub(super) async fn watch_intake(self: Rc<Self>) {
        loop {
            poll_fn(|context| self.shared.intake.poll_arrival(context)).await;
            self.turn(|_, _| {});
            // What couldn't be proposed is proposed by the turn that makes room.
            if !self.shared.intake.is_empty() {
                self.intake_emptied.wait().await;
            }
        }
    }
}

fn view(submission: &Submission) -> Option<synod_frame::Submission<'_>> {
    match submission.work() {
        Work::Commands { batch, terms } => Some(synod_frame::Submission::under(terms, batch)),
        Work::Session(_) | Work::Ticket(_) => None,
    }
}

fn outcome(answer: &Answer, slots: &SlotRange) -> Outcome {
    match *answer {
        Answer::Delivered { .. } => Ok(slots.clone()),
        // The client sends the same commands under the same number, or it has no right to an answer.
        Answer::Duplicate { first } => Ok(first..first.plus(slots.end.since(slots.start))),
        Answer::Refused(refusal) => Err(AppendError::Refused(refusal)),
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future::block_on;
    use synod_frame::Batch;
    use synod_protocol::delivery::Terms;
    use synod_protocol::{BodyId, BodyKind, Slot};

    use super::*;
    use crate::intake::Awaited;

    fn handle(first: u64, count: u32, id: u128) -> BodyHandle {
        BodyHandle { first: Slot(first), count, bytes: 256, kind: BodyKind::Commands, id: BodyId(id) }
    }

    fn propose(in_flight: &mut InFlight, body: BodyHandle, at: u64) -> Awaited {
        let batch: Batch = (0..body.count).map(|_| [0u8]).collect();
        let (submission, outcome) = Submission::new(Work::Commands { batch, terms: Terms::NONE }, None);
        in_flight.bodies.push_back(Proposed { body, at: Instant(at), submissions: vec![submission] });
        outcome
    }

    #[test]
    fn a_deadline_is_each_submissions_own() {
        let mut in_flight = InFlight { has_deadlines: true, ..InFlight::default() };
        let mut patient = propose(&mut in_flight, handle(1, 1, 1), 0);
        let work = Work::Session(synod_protocol::delivery::SessionCommand::Open);
        let (late, mut outcome) = Submission::new(work, Some(std::time::Instant::now()));
        in_flight.bodies[0].submissions.push(late);
        assert_eq!(in_flight.expire(Instant(0), Duration::from_secs(1)), 1);
        assert_eq!(outcome.try_take(), Some(Err(AppendError::Unknown)));
        assert_eq!(patient.try_take(), None);
        assert!(!in_flight.has_deadlines);
        assert_eq!(in_flight.bodies[0].submissions.len(), 2, "it keeps its place");
    }

    #[test]
    fn only_bodies_that_share_a_slot_are_taken() {
        let mut in_flight = InFlight::default();
        let _first = propose(&mut in_flight, handle(1, 4, 1), 0);
        let _second = propose(&mut in_flight, handle(5, 4, 2), 0);
        assert_eq!(in_flight.take_overlapping(&handle(5, 1, 9)).map(|proposed| proposed.body.id), Some(BodyId(2)));
        assert!(in_flight.take_overlapping(&handle(5, 9, 9)).is_none());
        assert!(in_flight.take_overlapping(&handle(1, 1, 9)).is_some());
    }

    #[test]
    fn what_is_proposed_too_long_ago_becomes_unknown() {
        let mut in_flight = InFlight::default();
        let mut old = propose(&mut in_flight, handle(1, 1, 1), 1_000);
        let mut young = propose(&mut in_flight, handle(2, 1, 2), 900_000);
        assert_eq!(in_flight.expire(Instant(1_001_000), Duration::from_secs(1)), 1);
        assert_eq!(old.try_take(), Some(Err(AppendError::Unknown)));
        assert_eq!(young.try_take(), None);
        in_flight.abandon();
        assert_eq!(block_on(young), Err(AppendError::Unknown));
    }
}
