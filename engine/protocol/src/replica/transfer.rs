//! Handing the leadership over on purpose: the leader stops proposing, waits until the target has everything, and asks
//! it to run phase 1 at once. Until some acceptor refuses the leader's ballot nothing is lost: a target that doesn't
//! take over in time costs one election timeout, and the leader goes on.

use thiserror::Error;

use super::{Ballot, Message, NodeId, Replica, RoleState};
use crate::effect::{Effect, TransferOutcome};
use crate::time::Instant;

/// Why the leadership isn't transferred. Nothing has happened.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TransferError {
    /// Only a leader can hand over.
    #[error("this replica does not lead")]
    NotLeader,
    /// What earlier ballots left open isn't closed yet.
    #[error("this replica still closes what earlier ballots left open: try again")]
    Recovering,
    /// The target can't vote.
    #[error("{0} is no member")]
    NotMember(NodeId),
    /// The target leads already.
    #[error("{0} leads already")]
    LeadsAlready(NodeId),
    /// The target hasn't answered within an election timeout.
    #[error("{0} is silent: it could not take over")]
    Silent(NodeId),
    /// The target's chosen prefix is behind what it was told of.
    #[error("{target} lags by {slots} slots: it must catch up first")]
    Lagging {
        /// The target.
        target: NodeId,
        /// How far it is behind.
        slots: u64,
    },
    /// Another transfer is under way.
    #[error("the leadership is being transferred to {0} already")]
    UnderWay(NodeId),
}

/// A transfer under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Transfer {
    pub(super) target: NodeId,
    /// When the leader goes on instead.
    pub(super) deadline: Instant,
}

impl Replica {
    /// Begins to hand the leadership over to `target`; [`Effect::TransferEnded`] tells how that went. Meanwhile there
    /// is no [`Replica::opening`].
    ///
    /// # Errors
    /// If this replica doesn't lead, or the target couldn't take over at once.
    pub fn transfer(&mut self, now: Instant, target: NodeId) -> Result<(), TransferError> {
        let timeout = self.settings.election_timeout;
        let (node, mark) = (self.node, self.mark.slot);
        let is_member = self.configurations.newest().is_member(target);
        let Some(leadership) = self.leadership() else { return Err(TransferError::NotLeader) };
        if let Some(transfer) = leadership.transfer {
            return Err(TransferError::UnderWay(transfer.target));
        }
        if target == node {
            return Err(TransferError::LeadsAlready(target));
        }
        if leadership.is_recovering() {
            return Err(TransferError::Recovering);
        }
        if !is_member {
            return Err(TransferError::NotMember(target));
        }
        let Some(peer) = leadership.peer(target) else { return Err(TransferError::NotMember(target)) };
        if now.since(peer.heard) >= timeout {
            return Err(TransferError::Silent(target));
        }
        if !peer.keeps_pace {
            return Err(TransferError::Lagging { target, slots: mark.0.saturating_sub(peer.mark.0) });
        }
        leadership.transfer = Some(Transfer { target, deadline: now.plus(timeout) });
        // Its answer tells whether everything has arrived.
        self.heartbeat(now);
        Ok(())
    }

    /// Hands over if the target has everything.
    pub(super) fn hand_over(&mut self) {
        let mark = self.mark.slot;
        let Some(leadership) = self.leadership() else { return };
        let Some(Transfer { target, .. }) = leadership.transfer else { return };
        if leadership.is_idle() && leadership.peer(target).is_some_and(|peer| peer.mark == mark) {
            let (ballot, beat) = (leadership.ballot, leadership.beat);
            self.send(target, Message::HandOver { ballot, beat });
        }
    }

    /// Leads on, if the target's time is over.
    pub(super) fn transfer_timeout(&mut self, now: Instant) {
        let Some(leadership) = self.leadership() else { return };
        if let Some(transfer) = leadership.transfer.filter(|transfer| now >= transfer.deadline) {
            leadership.transfer = None;
            let outcome = TransferOutcome::RolledBack;
            self.effects.push_back(Effect::TransferEnded { target: transfer.target, outcome });
        }
    }

    /// The leader wants this replica to lead: no need to ask around.
    pub(super) fn on_hand_over(&mut self, now: Instant, from: NodeId, ballot: Ballot, beat: u64) {
        let is_newest = self.leader == Some(ballot) && self.leader_beat == beat;
        let is_able = !self.disk_stalls(now) && self.behind().is_none() && self.unsure.is_none();
        if ballot.node == from && is_newest && matches!(self.role, RoleState::Follower { .. }) && is_able {
            let next = self.next_ballot();
            self.become_candidate(now, next);
        }
    }
}
