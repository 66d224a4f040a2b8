//! Barriers: reads that are never stale. Whoever wants one asks the leader for a *read point*; the leader answers once
//! an accept quorum has confirmed, by answers to a heartbeat sent after the question, that it still leads; and the
//! reader waits until everything below the read point is delivered to it. Barriers that begin while a confirmation is
//! under way share the next one.
//!
//! Why this is linearizable: the proof stands in `engine/docs/protocol.md`, "Barriers".

use std::collections::{BTreeSet, VecDeque};

use thiserror::Error;

use super::{Ballot, Message, NodeId, RejectReason, Replica, RoleState, Slot};
use crate::effect::{BarrierId, BarrierOutcome, Effect};
use crate::limits::BARRIERS_MAX;
use crate::time::Instant;

/// Why no barrier can begin. Nothing has happened: begin one later.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BarrierError {
    /// Nobody is known to lead.
    #[error("no leader is known that could confirm a read point: try again")]
    NoLeader,
    /// Too many barriers wait already.
    #[error("{BARRIERS_MAX} barriers wait already: try again")]
    Overloaded,
}

/// The barriers that began at this replica, whoever leads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Barriers {
    /// How many have begun in this life.
    count: u64,
    /// Those without a read point, oldest first.
    asking: VecDeque<u64>,
    /// The question under way, for all of `asking` up to its number.
    asked: Option<Asked>,
    /// Those with a read point that isn't reached yet.
    placed: BTreeSet<(Slot, u64)>,
    /// When to look after what waits.
    again_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Asked {
    of: Ballot,
    number: u64,
}

impl Barriers {
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.again_at
    }

    fn is_empty(&self) -> bool {
        self.asking.is_empty() && self.placed.is_empty()
    }
}

/// A question for a read point that a leader has to confirm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Question {
    from: NodeId,
    boot: u64,
    number: u64,
    /// The first heartbeat whose answers confirm it.
    beat: u64,
}

impl Replica {
    /// Begins a barrier: once [`Effect::Barrier`] says that it is reached, everything that was acknowledged anywhere
    /// before this call has been delivered here. Any replica may be asked; all but the leader ask the leader.
    ///
    /// # Errors
    /// If no leader is known, or too many barriers wait.
    pub fn barrier(&mut self, now: Instant) -> Result<BarrierId, BarrierError> {
        if self.halted || self.leader.is_none() {
            return Err(BarrierError::NoLeader);
        }
        if self.barriers.asking.len() + self.barriers.placed.len() >= BARRIERS_MAX {
            return Err(BarrierError::Overloaded);
        }
        self.barriers.count += 1;
        let number = self.barriers.count;
        self.barriers.asking.push_back(number);
        self.barriers.again_at.get_or_insert(now.plus(self.settings.retransmit_interval));
        if self.barriers.asked.is_none() {
            self.ask_read_point(now);
        }
        Ok(BarrierId(number))
    }

    fn ask_read_point(&mut self, now: Instant) {
        let Some((ballot, number)) = self.leader.zip(self.barriers.asking.back().copied()) else { return };
        self.barriers.asked = Some(Asked { of: ballot, number });
        if ballot.node == self.node {
            self.on_ask_read_point(now, self.node, ballot, (self.boot, number));
        } else {
            self.send(ballot.node, Message::AskReadPoint { ballot, boot: self.boot, number });
        }
    }

    pub(super) fn on_ask_read_point(&mut self, now: Instant, from: NodeId, ballot: Ballot, (boot, number): (u64, u64)) {
        let Some(leadership) = self.leadership() else {
            return self.send(from, Message::Reject { ballot, reason: RejectReason::NotLeader });
        };
        let beat = leadership.beat + 1;
        leadership.questions.retain(|question| question.from != from || question.boot == boot);
        let mut theirs = leadership.questions.iter().filter(|question| question.from == from);
        if theirs.any(|question| question.number >= number) {
            return;
        }
        // Whoever asks again means the same barriers and more. What a heartbeat is under way for keeps its place: where
        // answers take longer than askers wait, nothing would ever be confirmed.
        leadership.questions.retain(|question| question.from != from || question.beat < beat);
        leadership.questions.push(Question { from, boot, number, beat });
        self.confirm(now);
    }

    /// Answers what a quorum has confirmed, and has the rest confirmed: by one heartbeat at a time, unless its answers
    /// are lost.
    pub(super) fn confirm(&mut self, now: Instant) {
        if self.leadership().is_none_or(|leadership| leadership.questions.is_empty()) {
            return;
        }
        let confirmed = self.confirmed_beat();
        let slot = self.mark.slot;
        let Some(leadership) = self.leadership() else { return };
        // Until everything that earlier ballots may have chosen is delivered, something acknowledged may lie beyond the
        // mark. A read point beyond the mark is no answer: what the plan adopts may yet be chosen nowhere.
        if leadership.settled().is_some_and(|recovered| recovered <= slot) {
            let (answered, open) = leadership.questions.drain(..).partition(|question| question.beat <= confirmed);
            leadership.questions = open;
            let answered: Vec<Question> = answered;
            for Question { from, boot, number, .. } in answered {
                if from == self.node {
                    self.on_read_point(now, boot, number, slot);
                } else {
                    self.send(from, Message::ReadPoint { boot, number, slot });
                }
            }
        }
        let Some(leadership) = self.leadership() else { return };
        let is_quiet = confirmed >= leadership.beat;
        if is_quiet && leadership.questions.iter().any(|question| question.beat > leadership.beat) {
            self.heartbeat(now);
            if self.confirmed_beat() > confirmed {
                self.confirm(now);
            }
        }
    }

    /// The last heartbeat that an accept quorum has answered, this node included. No higher ballot was promised by any
    /// of them when they did, and so no later leader has had its prepare quorum.
    fn confirmed_beat(&self) -> u64 {
        let RoleState::Leader(leadership) = &self.role else { return 0 };
        let confirmed = |beat: u64| {
            let mut votes = leadership.answered(beat);
            votes.push(self.node);
            self.is_accept_quorum(&votes)
        };
        if confirmed(u64::MAX) {
            // This node is a quorum by itself, so nobody else can lead unless it has promised.
            return leadership.beat;
        }
        leadership.answered_beats().filter(|beat| confirmed(*beat)).max().unwrap_or(0)
    }

    pub(super) fn on_read_point(&mut self, now: Instant, boot: u64, number: u64, slot: Slot) {
        if boot != self.boot {
            return;
        }
        while let Some(first) = self.barriers.asking.front().copied().filter(|first| *first <= number) {
            self.barriers.asking.pop_front();
            self.barriers.placed.insert((slot, first));
        }
        if self.barriers.asked.is_some_and(|asked| asked.number <= number) {
            self.barriers.asked = None;
            self.ask_read_point(now);
        }
        self.reach_barriers();
    }

    /// Ends the barriers whose read point is delivered.
    pub(super) fn reach_barriers(&mut self) {
        let mark = self.mark.slot;
        while let Some((slot, number)) = self.barriers.placed.first().copied()
            && slot <= mark
        {
            self.barriers.placed.pop_first();
            let outcome = BarrierOutcome::Reached(mark);
            self.effects.push_back(Effect::Barrier { id: BarrierId(number), outcome });
        }
        if self.barriers.is_empty() {
            self.barriers.again_at = None;
        }
    }

    /// Asks again after a lost message or a change of leaders; without a leader, what waits is lost.
    pub(super) fn barriers_timeout(&mut self, now: Instant) {
        if self.barriers.again_at.is_none_or(|at| now < at) {
            return;
        }
        if self.live_leader(now).is_none() {
            return self.lose_barriers();
        }
        self.barriers.again_at = Some(now.plus(self.settings.retransmit_interval));
        self.ask_read_point(now);
    }

    /// The node that was asked leads no longer in the ballot in which it was asked.
    pub(super) fn on_not_leader(&mut self, now: Instant, from: NodeId, ballot: Ballot) {
        if ballot.node != from || self.barriers.asked.is_none_or(|asked| asked.of != ballot) {
            return;
        }
        if self.leader.is_some_and(|leader| leader != ballot) {
            self.ask_read_point(now);
        } else {
            self.lose_barriers();
        }
    }

    pub(super) fn lose_barriers(&mut self) {
        let Barriers { count, asking, placed, .. } = std::mem::take(&mut self.barriers);
        self.barriers.count = count;
        for number in placed.into_iter().map(|(_, number)| number).chain(asking) {
            self.effects.push_back(Effect::Barrier { id: BarrierId(number), outcome: BarrierOutcome::Lost });
        }
    }
}
