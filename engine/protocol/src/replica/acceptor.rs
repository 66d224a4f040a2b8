//! The acceptor's phase 2: accept whole bodies in any order, or refuse with the reason.

use super::{Accepted, Ballot, BodyHandle, LogEntry, Mark, Message, NodeId, RejectReason, Replica, Slot};
use crate::effect::{AppendId, HaltReason};
use crate::limits;
use crate::time::Instant;

impl Replica {
    pub(super) fn on_accept(&mut self, now: Instant, from: NodeId, ballot: Ballot, body: BodyHandle, mark: Mark) {
        self.note_round(ballot);
        if ballot.node != from {
            return;
        }
        if ballot < self.promised {
            let reason = RejectReason::HigherBallot { promised: self.promised };
            return self.send(from, Message::Reject { ballot, reason });
        }
        self.heard_leader(now, ballot);
        if self.unsure.is_some() {
            self.send(from, Message::Reject { ballot, reason: RejectReason::Doubtful });
            return self.on_mark(now, from, ballot, mark);
        }
        if let Err(reason) = self.accept(from, ballot, body, mark) {
            self.send(from, Message::Reject { ballot, reason });
            if let RejectReason::BallotConflict { first } = reason {
                return self.halt(HaltReason::BallotConflict { slot: first, ballot });
            }
        }
        self.on_mark(now, from, ballot, mark);
    }

    fn accept(&mut self, from: NodeId, ballot: Ballot, body: BodyHandle, mark: Mark) -> Result<(), RejectReason> {
        let limit = self.mark.slot.max(mark.slot).plus(self.alpha());
        if body.end() > limit {
            return Err(RejectReason::BeyondAlpha { limit });
        }
        if body.first < self.mark.slot {
            return Err(RejectReason::AlreadyChosen { mark: self.mark });
        }
        let append = match self.accepted.get(&body.first) {
            Some(known) if known.ballot == ballot && known.body == body => match self.may_vanish(known) {
                true => self.append_again(ballot, body),
                false => known.append,
            },
            // Known from a lower ballot: the new leader must get it chosen before anything behind it, trims included.
            Some(known) if known.body == body => self.store(ballot, body)?,
            _ => {
                if self.accepted.len() >= limits::ACCEPTED_MAX && body.first > self.mark.slot {
                    // Far behind: catch up first, or this memory grows with the lag.
                    return Err(RejectReason::Overloaded { retry_after: self.settings.retransmit_interval });
                }
                if self.refuses(&body) {
                    return Err(RejectReason::DiskFull);
                }
                self.store(ballot, body)?
            }
        };
        let message = Message::Accepted { ballot, first: body.first, id: body.id };
        self.send_after(append, from, message);
        Ok(())
    }

    /// Whether what recovery found of a body lies where something is missing: another recovery, which reads what this one
    /// couldn't, may see that it was cut off. It is reported to candidates, but vouched for only by another record.
    pub(super) fn may_vanish(&self, known: &Accepted) -> bool {
        known.append == AppendId(0) && self.doubts.iter().any(|doubt| doubt.overlaps(&known.body))
    }

    fn append_again(&mut self, ballot: Ballot, body: BodyHandle) -> AppendId {
        let append = self.append(LogEntry::Accepted { ballot, body });
        self.accepted.insert(body.first, Accepted { ballot, body, append });
        append
    }

    /// Accepts `body` at `ballot`, which is no lower than any promise.
    ///
    /// Bodies of lower ballots that share a slot with it are forgotten: they were chosen at none of those ballots and
    /// never will be (`engine/docs/protocol.md`, the body rule).
    pub(super) fn store(&mut self, ballot: Ballot, body: BodyHandle) -> Result<AppendId, RejectReason> {
        debug_assert!(ballot >= self.promised && body.first >= self.mark.slot);
        let overlapping: Vec<Slot> = self
            .accepted
            .range(..body.end())
            .rev()
            .take_while(|(_, known)| known.body.end() > body.first)
            .map(|(first, _)| *first)
            .collect();
        if let Some(twin) = overlapping.iter().find(|first| self.accepted[first].ballot == ballot) {
            return Err(RejectReason::BallotConflict { first: *twin });
        }
        for first in overlapping {
            self.accepted.remove(&first);
        }
        // An accept implies the promise; its record carries both.
        self.promised = ballot;
        let append = self.append(LogEntry::Accepted { ballot, body });
        self.promise_append = self.promise_append.max(append);
        self.accepted.insert(body.first, Accepted { ballot, body, append });
        Ok(append)
    }
}
