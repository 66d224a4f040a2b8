//! Becoming leader: pre-vote, phase 1, and giving way to higher ballots with a randomised back-off.

use std::collections::BTreeMap;

use super::phase_one::{Promised, take_promise};
use super::{AcceptedBody, Ballot, Doubt, LogEntry, Mark, Message, NodeId, RejectReason, Replica, RoleState, Slot};
use crate::effect::{AppendId, Effect, TransferOutcome};
use crate::limits;
use crate::time::Instant;

/// A pre-vote under way: nothing promised, nothing written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Canvass {
    pub(super) ballot: Ballot,
    pub(super) granted: Vec<NodeId>,
    pub(super) deadline: Instant,
    pub(super) resend_at: Instant,
}

/// Phase 1 under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Candidacy {
    pub(super) ballot: Ballot,
    /// The own chosen prefix at the beginning: what every acceptor is asked for, so that the parts of its answers to
    /// a repeated question fit together.
    pub(super) from: Slot,
    pub(super) promises: BTreeMap<NodeId, Promised>,
    pub(super) own_append: AppendId,
    pub(super) deadline: Instant,
    pub(super) resend_at: Instant,
}

impl Replica {
    pub(super) fn election_timeout(&mut self, now: Instant) {
        match &self.role {
            RoleState::Follower { deadline } if now >= *deadline => self.canvass(now),
            RoleState::Canvassing(canvass) if now >= canvass.deadline => self.become_follower(now),
            RoleState::Canvassing(canvass) if now >= canvass.resend_at => self.canvass_again(now),
            RoleState::Candidate(candidacy) if now >= candidacy.deadline => self.become_follower(now),
            RoleState::Candidate(candidacy) if now >= candidacy.resend_at => self.prepare_again(now),
            _ => {}
        }
    }

    /// Asks around before raising a ballot, so that a node that comes back from isolation disturbs nobody.
    fn canvass(&mut self, now: Instant) {
        // Whoever is behind the trim could never learn what it would have to lead on from.
        if !self.is_voter(self.node) {
            self.tell_voters();
        }
        if !self.is_voter(self.node) || self.is_removed() || self.disk_stalls(now) || self.behind().is_some() {
            return self.become_follower(now);
        }
        let ballot = self.next_ballot();
        let deadline = now.plus(self.settings.election_timeout);
        let resend_at = now.plus(self.settings.retransmit_interval);
        self.role = RoleState::Canvassing(Canvass { ballot, granted: vec![self.node], deadline, resend_at });
        let from = self.mark.slot;
        self.ask_voters(&Message::PreVote { ballot, from });
        self.candidate_if_welcome(now);
    }

    /// Asks those again who haven't granted: the message may be lost, or the leader that they heard silent by now.
    fn canvass_again(&mut self, now: Instant) {
        let resend_at = now.plus(self.settings.retransmit_interval);
        let RoleState::Canvassing(canvass) = &mut self.role else { return };
        canvass.resend_at = resend_at;
        let (ballot, granted) = (canvass.ballot, canvass.granted.clone());
        let from = self.mark.slot;
        for peer in self.voters().into_iter().filter(|peer| !granted.contains(peer)) {
            self.send(peer, Message::PreVote { ballot, from });
        }
    }

    /// A ballot of this life above everything seen.
    pub(super) fn next_ballot(&self) -> Ballot {
        let round = self.round_max.max(self.promised.round) + 1;
        Ballot { round, node: self.node, boot: self.boot }
    }

    pub(super) fn on_pre_vote(&mut self, now: Instant, from: NodeId, ballot: Ballot, lacks_from: Slot) {
        let reason = if self.unsure.is_some() {
            RejectReason::Doubtful
        } else if ballot.round == 0 && self.may_rule_beyond(lacks_from) {
            // Whoever is unsure must ask the members of that configuration as well: it has to learn of it first.
            RejectReason::AlreadyChosen { mark: self.mark }
        } else if ballot <= self.promised {
            RejectReason::HigherBallot { promised: self.promised }
        } else if let Some(leader) = self.live_leader(now).filter(|leader| *leader != from) {
            RejectReason::LeaderAlive { leader }
        } else {
            return self.send(from, Message::PreVoteGranted { ballot });
        };
        self.send(from, Message::Reject { ballot, reason });
    }

    /// Who leads, as far as it was heard within an election timeout.
    pub(super) fn live_leader(&self, now: Instant) -> Option<NodeId> {
        if matches!(self.role, RoleState::Leader(_)) {
            return Some(self.node);
        }
        let heard_lately = now.since(self.leader_heard) < self.settings.election_timeout;
        self.leader.filter(|_| heard_lately).map(|ballot| ballot.node)
    }

    pub(super) fn on_pre_vote_granted(&mut self, now: Instant, from: NodeId, ballot: Ballot) {
        // Granted to a question of the lowest ballot: whoever grants it has promised nothing.
        if self.on_told_promise(from, ballot, Ballot::ZERO) {
            return;
        }
        if let RoleState::Canvassing(canvass) = &mut self.role
            && canvass.ballot == ballot
            && !canvass.granted.contains(&from)
        {
            canvass.granted.push(from);
            self.candidate_if_welcome(now);
        }
    }

    fn candidate_if_welcome(&mut self, now: Instant) {
        if let RoleState::Canvassing(canvass) = &self.role
            && self.is_prepare_quorum(&canvass.granted)
            // A prepare quorum elects, but whoever can't reach an accept quorum as well would lead in vain.
            && self.is_accept_quorum(&canvass.granted)
            // It may have been told so by others, while those who grant don't know it yet.
            && !self.is_removed()
        {
            let ballot = canvass.ballot;
            self.become_candidate(now, ballot);
        }
    }

    pub(super) fn become_candidate(&mut self, now: Instant, ballot: Ballot) {
        if ballot <= self.promised {
            return self.become_follower(now);
        }
        self.note_round(ballot);
        self.leader = None;
        self.promised = ballot;
        let own_append = self.append(LogEntry::Promise);
        self.promise_append = own_append;
        let deadline = now.plus(self.election_wait());
        let resend_at = now.plus(self.settings.retransmit_interval);
        let from = self.mark.slot;
        self.role = RoleState::Candidate(Candidacy {
            ballot,
            from,
            promises: BTreeMap::new(),
            own_append,
            deadline,
            resend_at,
        });
        // The own promise is durable before anybody hears of the ballot: were it lost, the next life of this node
        // could promise less than it already asked others to honour.
        for peer in self.voters() {
            self.send_after(own_append, peer, Message::Prepare { ballot, from });
        }
    }

    fn prepare_again(&mut self, now: Instant) {
        let resend_at = now.plus(self.settings.retransmit_interval);
        let RoleState::Candidate(candidacy) = &mut self.role else { return };
        candidacy.resend_at = resend_at;
        if candidacy.own_append > self.durable {
            return;
        }
        let (ballot, from) = (candidacy.ballot, candidacy.from);
        let complete: Vec<NodeId> =
            candidacy.promises.iter().filter(|(_, promised)| promised.is_complete()).map(|(node, _)| *node).collect();
        for peer in self.voters() {
            if !complete.contains(&peer) {
                self.send(peer, Message::Prepare { ballot, from });
            }
        }
    }

    pub(super) fn on_prepare(&mut self, now: Instant, candidate: NodeId, ballot: Ballot, lacks_from: Slot) {
        self.note_round(ballot);
        if ballot.node != candidate {
            return;
        }
        if self.unsure.is_some() {
            return self.send(candidate, Message::Reject { ballot, reason: RejectReason::Doubtful });
        }
        // Parts of a promise of this life don't fit to those of an earlier one that knew more, and nobody could tell.
        let was_told_otherwise =
            ballot == self.promised && self.promise_append == AppendId(0) && !self.doubts.is_empty();
        if ballot < self.promised || was_told_otherwise {
            let reason = RejectReason::HigherBallot { promised: self.promised };
            return self.send(candidate, Message::Reject { ballot, reason });
        }
        if ballot > self.promised {
            self.promised = ballot;
            self.promise_append = self.append(LogEntry::Promise);
            self.leader = None;
            self.become_follower(now);
        }
        // What ends below is known to be chosen there.
        let accepted: Vec<AcceptedBody> = self.accepted().filter(|report| report.body.end() > lacks_from).collect();
        let parts = accepted.chunks(limits::PROMISE_PART_MAX).map(<[_]>::to_vec).collect::<Vec<_>>();
        let parts = if parts.is_empty() { vec![Vec::new()] } else { parts };
        let parts_count = parts.len() as u32;
        let doubts = self.doubts_from(lacks_from);
        for (part, accepted) in parts.into_iter().enumerate() {
            let (mark, part, doubts) = (self.mark, part as u32, doubts.clone());
            let from = lacks_from;
            let message = Message::Promise { ballot, from, mark, part, parts: parts_count, accepted, doubts };
            // The newest append covers the promise and every accept reported above it.
            self.send_after(self.appended.max(self.promise_append), candidate, message);
        }
    }

    pub(super) fn on_promise(
        &mut self,
        now: Instant,
        from: NodeId,
        (ballot, asked_from): (Ballot, Slot),
        mark: Mark,
        parts: (u32, u32),
        told: (Vec<AcceptedBody>, Vec<Doubt>),
    ) {
        match &mut self.role {
            RoleState::Candidate(candidacy) if (candidacy.ballot, candidacy.from) == (ballot, asked_from) => {
                take_promise(&mut candidacy.promises, from, mark, parts, told);
                self.lead_if_promised(now);
            }
            RoleState::Leader(leadership) if leadership.ballot == ballot => {
                leadership.take_extension(from, asked_from, mark, parts, told);
                self.extend_phase_one(now);
            }
            _ => {}
        }
    }

    pub(super) fn candidate_durable(&mut self, now: Instant) {
        if matches!(self.role, RoleState::Candidate(_)) {
            self.lead_if_promised(now);
        }
    }

    fn lead_if_promised(&mut self, now: Instant) {
        let RoleState::Candidate(candidacy) = &self.role else { return };
        if candidacy.own_append > self.durable {
            return;
        }
        let mut votes: Vec<NodeId> =
            candidacy.promises.iter().filter(|(_, promised)| promised.is_complete()).map(|(node, _)| *node).collect();
        votes.push(self.node);
        let from = self.mark.slot;
        if !self.is_prepare_quorum(&votes) || !self.is_prepare_quorum_everywhere(&candidacy.promises, &votes, from) {
            return;
        }
        let ballot = candidacy.ballot;
        let promises = std::mem::take(&mut self.candidacy_mut().promises);
        let complete = promises.into_iter().filter(|(_, promised)| promised.is_complete()).collect();
        self.become_leader(now, ballot, complete);
    }

    fn candidacy_mut(&mut self) -> &mut Candidacy {
        let RoleState::Candidate(candidacy) = &mut self.role else { unreachable!("checked by the caller") };
        candidacy
    }

    /// Gives up whatever was led or sought, and waits a random while before trying again.
    pub(super) fn become_follower(&mut self, now: Instant) {
        if let RoleState::Leader(leadership) = &self.role {
            self.leader = None;
            if let Some(transfer) = leadership.transfer {
                let outcome = TransferOutcome::Gone;
                self.effects.push_back(Effect::TransferEnded { target: transfer.target, outcome });
            }
        }
        let deadline = now.plus(self.election_wait());
        self.role = RoleState::Follower { deadline };
    }

    /// Leads no longer, and says so, for nobody should have to wait for the silence.
    pub(super) fn resign(&mut self, now: Instant) {
        if let RoleState::Leader(leadership) = &self.role {
            let ballot = leadership.ballot;
            self.broadcast(&Message::Resigned { ballot });
        }
        self.become_follower(now);
    }

    /// What a replica that ends says to its peers: if it leads, that it does so no longer. Nothing in it rests on the
    /// log, so it may be said after a failed write too; whoever says it must never lead in this life again.
    pub fn last_words(&self) -> Vec<(NodeId, Message)> {
        let RoleState::Leader(leadership) = &self.role else { return Vec::new() };
        let ballot = leadership.ballot;
        self.peers().into_iter().map(|peer| (peer, Message::Resigned { ballot })).collect()
    }

    pub(super) fn on_resigned(&mut self, now: Instant, from: NodeId, ballot: Ballot) {
        if ballot.node != from || self.leader != Some(ballot) {
            return;
        }
        self.leader = None;
        let timeout = self.settings.election_timeout;
        let soon = now.plus(self.jitter.between(timeout / 16, timeout / 2));
        if let RoleState::Follower { deadline } = &mut self.role {
            *deadline = soon.min(*deadline);
        }
    }

    /// Makes way for a higher ballot, and tries again after a short random wait, unless its leader is heard by then.
    /// That ballot may be a stray one, promised to a candidate that is long gone.
    fn back_off(&mut self, now: Instant) {
        self.become_follower(now);
        let timeout = self.settings.election_timeout;
        let deadline = now.plus(self.jitter.between(timeout / 4, timeout));
        self.role = RoleState::Follower { deadline };
    }

    /// Notes a sign of life of the leader of `ballot`, which is no lower than any promise of this node.
    pub(super) fn heard_leader(&mut self, now: Instant, ballot: Ballot) {
        self.become_follower(now);
        self.leader_heard = now;
        if self.leader != Some(ballot) {
            // Each leadership counts its own.
            self.leader_beat = 0;
        }
        self.leader = Some(ballot);
    }

    pub(super) fn on_reject(&mut self, now: Instant, from: NodeId, ballot: Ballot, reason: RejectReason) {
        let current = match &self.role {
            RoleState::Follower { .. } => None,
            RoleState::Canvassing(canvass) => Some(canvass.ballot),
            RoleState::Candidate(candidacy) => Some(candidacy.ballot),
            RoleState::Leader(leadership) => Some(leadership.ballot),
        };
        let concerns_us = current == Some(ballot);
        match reason {
            RejectReason::HigherBallot { promised } => {
                self.note_round(promised);
                if self.on_told_promise(from, ballot, promised) {
                    return;
                }
                // A late pre-vote of this very ballot is refused too, because it was granted and prepared since.
                if concerns_us && promised > ballot {
                    self.back_off(now);
                }
            }
            // It hears a leader, but has promised nothing: the question is below any promise.
            RejectReason::LeaderAlive { .. } if self.on_told_promise(from, ballot, Ballot::ZERO) => {}
            RejectReason::Doubtful if concerns_us => self.on_doubtful(from),
            RejectReason::DiskFull if concerns_us => self.note_full(from, true),
            RejectReason::NotLeader => self.on_not_leader(now, from, ballot),
            RejectReason::AlreadyChosen { mark } => self.note_ahead(now, from, mark),
            RejectReason::WrongConfiguration { chosen_at, .. } => self.note_removed(chosen_at),
            RejectReason::BallotConflict { first } if concerns_us => {
                self.halt(crate::effect::HaltReason::BallotConflict { slot: first, ballot });
            }
            // The others pass by themselves: what they refused is sent again. One peer that still hears a leader
            // decides nothing: as long as that leader has a quorum, no quorum will grant.
            _ => {}
        }
    }
}
