//! Trims: how much of the log may be dropped, by agreement, and what becomes of a member that needs more.
//!
//! A trim is a body of the log; whoever delivers it has everything below, and may drop it. So a trim is never a matter
//! of safety: an acceptor that dropped something knows that it is chosen, and says so in its promises by its mark. What
//! it is a matter of is who can still catch up. An ordinary trim leaves whatever some member lacks; a member that stays
//! away holds the log. A trim *past* members leaves what a quorum lacks. Whoever isn't part of that quorum is *behind the
//! trim*: it keeps its votes, its promises and what it accepts, but never learns what it lacks, nor seeks to lead, until it has
//! installed what another log begins with.
//!
//! A state machine beside a replica may lack more than the replica does: what it hasn't applied, or what comes behind the
//! snapshot that is on its way to it. Its driver says so ([`Hold`]), and an ordinary trim leaves that as well. A trim past members
//! should wait for those who are *catching up*, as long as they get on ([`Replica::catching_up`]): else a log that grows
//! fast enough would leave them behind again and again.

use thiserror::Error;

use std::time::Duration;

use super::peer::Peer;
use super::proposer::Leadership;
use super::{NodeId, Replica, RoleState, Slot};
use crate::body::BodyKind;
use crate::effect::Effect;
use crate::limits::HOLD_PATIENCE;
use crate::snapshot::Hold;
use crate::time::Instant;

/// What a peer's machine needs is forgotten if the peer doesn't say it again for so long: it is driven no more.
const HOLD_SILENCE: Duration = Duration::from_secs(3);

/// Why nothing can be trimmed now.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TrimError {
    /// Only a leader proposes trims.
    #[error("this replica does not lead")]
    NotLeader,
    /// Everything that every member durably has, and knows to be chosen, is trimmed already; a member that is down
    /// holds the log. Members behind the trim don't.
    #[error("nothing to trim: every member durably has the log up to slot {held}, and it is trimmed up to {trimmed}")]
    NothingToTrim {
        /// First slot that some member may still need.
        held: Slot,
        /// First slot that is kept now.
        trimmed: Slot,
    },
    /// Sessions or tickets are in use, and the delivery state isn't kept at any point that the log could be trimmed to. Now
    /// it is: try again later, up to a higher slot.
    #[error("nothing to trim: the delivery state is not kept for any point so low")]
    NoDeliveryState {
        /// The lowest point at which it is kept, once it is known.
        point: Option<Slot>,
    },
}

impl Peer {
    /// Whether it would need what is trimmed: it has said how far it is, and the log begins above that.
    pub(super) fn is_behind(&self, trimmed: Slot) -> bool {
        self.has_answered() && self.stable < trimmed
    }

    /// The first slot that it may still need: of its log, or for its machine. A machine for which the log doesn't go back
    /// far enough needs a snapshot, and none of the log until then.
    pub(super) fn needs(&self, trimmed: Slot) -> Slot {
        let machine = self.hold.map(|(hold, _)| hold.from).filter(|from| *from >= trimmed);
        machine.map_or(self.stable, |from| from.min(self.stable))
    }

    /// Whether it has answered a heartbeat of this leadership.
    pub(super) fn has_answered(&self) -> bool {
        self.beat > 0
    }
}

impl Replica {
    /// Proposes to drop everything below `upto`, or as much of it as every member durably has and knows to be chosen, but
    /// for members that are behind the trim already. Returns the slot that is proposed; it is agreed once the trim is
    /// delivered.
    ///
    /// # Errors
    /// If this replica doesn't lead, or nothing below `upto` may be dropped.
    pub fn trim(&mut self, upto: Slot) -> Result<Slot, TrimError> {
        let held = self.held_by_all();
        self.propose_trim(upto, held)
    }

    /// As [`Replica::trim`], but up to what a quorum durably has and knows to be chosen, this replica included. Members
    /// that lack some of it will begin their logs anew; everybody else goes on without them.
    ///
    /// # Errors
    /// As [`Replica::trim`].
    pub fn trim_past(&mut self, upto: Slot) -> Result<Slot, TrimError> {
        let held = self.held_by_quorum();
        self.propose_trim(upto, held)
    }

    /// What the state machine beside this replica needs by now; none if there is none. A leader keeps it from ordinary trims;
    /// a follower's driver also has to tell the leader, which calls [`Replica::note_hold`].
    pub fn set_hold(&mut self, now: Instant, hold: Option<Hold>) {
        let gets_on = match (self.hold, hold) {
            (Some((before, _)), Some(hold)) => hold.from > before.from || hold.progress > before.progress,
            _ => true,
        };
        let since = self.hold.map_or(now, |(_, since)| if gets_on { now } else { since });
        self.hold = hold.map(|hold| (hold, since));
    }

    /// What the state machine beside a peer needs, as that peer has said. Only a leader takes note.
    pub fn note_hold(&mut self, now: Instant, from: NodeId, hold: Hold) {
        if let Some(peer) = self.leadership().and_then(|leadership| leadership.peers.get_mut(&from)) {
            peer.claims_need(now, hold);
        }
    }

    /// Of the members that need some of the log and have got on with it in the last [`HOLD_PATIENCE`], the one that needs
    /// the lowest slot, and that slot: what a trim past members should leave, within reason. One that is behind the trim and
    /// has been heard of installs, and needs what is left. This replica's own machine counts as well.
    pub fn catching_up(&self, now: Instant) -> Option<(NodeId, Slot)> {
        let gets_on = |since: Instant| now.since(since) < HOLD_PATIENCE;
        let own = self.hold.filter(|(hold, since)| hold.from >= self.trimmed && gets_on(*since));
        let own = own.map(|(hold, _)| (self.node, hold.from));
        let RoleState::Leader(leadership) = &self.role else { return own };
        let peers = leadership.peers.iter().filter(|(_, peer)| peer.has_answered() && gets_on(peer.progressed));
        let peers = peers.map(|(node, peer)| (*node, peer.needs(self.trimmed).max(self.trimmed)));
        peers.chain(own).min_by_key(|(node, slot)| (*slot, *node))
    }

    /// Forgets what machines needed that are driven no more.
    pub(super) fn forget_silent_holds(&mut self, now: Instant) {
        if let Some(leadership) = self.leadership() {
            for peer in leadership.peers.values_mut() {
                peer.hold.take_if(|(_, said)| now.since(*said) > HOLD_SILENCE);
            }
        }
    }

    /// The first slot that some member may still need, as a leader knows it: what [`Replica::trim`] can't go beyond.
    pub fn held_by_all(&self) -> Slot {
        let proved = self.needed_by_members();
        // As long as a quorum is not behind, those that are have nothing to wait for.
        let own = self.hold.map(|(hold, _)| hold.from).filter(|from| *from >= self.trimmed);
        let own = own.map_or(self.proved, |from| from.min(self.proved));
        let (mut votes, mut held) = (Vec::new(), own);
        for (node, slot, behind) in &proved {
            if !behind {
                votes.push(*node);
                held = held.min(*slot);
            }
        }
        if self.is_trim_quorum(&votes) {
            return held;
        }
        proved.iter().map(|(_, slot, _)| *slot).fold(own, Slot::min)
    }

    /// The first slot that this replica, or every quorum, may still need: what [`Replica::trim_past`] can't go beyond.
    pub fn held_by_quorum(&self) -> Slot {
        let mut proved = self.proved_by_members();
        proved.sort_unstable_by_key(|(_, slot, _)| std::cmp::Reverse(*slot));
        let mut votes = Vec::new();
        for (node, slot, _) in proved {
            votes.push(node);
            if self.is_trim_quorum(&votes) {
                return slot.min(self.proved);
            }
        }
        Slot::FIRST
    }

    /// If this replica is behind the trim: where the log begins that a peer still has.
    pub fn behind(&self) -> Option<Slot> {
        (self.available > self.mark.slot).then_some(self.available)
    }

    /// As [`Replica::proved_by_members`], but no further than what a member's machine needs.
    fn needed_by_members(&self) -> Vec<(NodeId, Slot, bool)> {
        let RoleState::Leader(leadership) = &self.role else { return self.proved_by_members() };
        let needs = |node: &NodeId| leadership.peers.get(node).map(|peer| peer.needs(self.trimmed));
        let proved = self.proved_by_members().into_iter();
        proved.map(|(node, slot, behind)| (node, needs(&node).map_or(slot, |needs| needs.min(slot)), behind)).collect()
    }

    /// How far each member has proved its prefix, as this leader knows it, and whether it is behind the trim.
    fn proved_by_members(&self) -> Vec<(NodeId, Slot, bool)> {
        let mut proved = vec![(self.node, self.proved, false)];
        if let RoleState::Leader(leadership) = &self.role {
            proved
                .extend(leadership.peers.iter().map(|(node, peer)| (*node, peer.stable, peer.is_behind(self.trimmed))));
        }
        proved
    }

    /// Whether these members can go on without the others: elect a leader, and choose.
    fn is_trim_quorum(&self, members: &[NodeId]) -> bool {
        self.is_prepare_quorum(members) && self.is_accept_quorum(members)
    }

    fn propose_trim(&mut self, upto: Slot, held: Slot) -> Result<Slot, TrimError> {
        let trimmed = self.trimmed.max(Slot::FIRST);
        let limit = self.mark.slot.plus(self.alpha());
        let is_free = |leadership: &&mut Leadership| !leadership.is_recovering() && leadership.transfer.is_none();
        let leadership = self.leadership().filter(is_free);
        let has_room = |leadership: &&mut Leadership| leadership.next_slot < limit.min(leadership.prepared_to);
        let leadership = leadership.filter(has_room).ok_or(TrimError::NotLeader)?;
        // Having the bodies isn't enough: a member that restarts without a record of their choice must fetch them again.
        let upto = upto.min(held);
        if upto <= trimmed {
            return Err(TrimError::NothingToTrim { held, trimmed });
        }
        let (first, ballot) = (leadership.next_slot, leadership.ballot);
        leadership.next_slot = first.plus(1);
        leadership.composing.insert(first, (1, BodyKind::Trim { upto }));
        self.effects.push_back(Effect::Compose { first, count: 1, ballot, kind: BodyKind::Trim { upto } });
        Ok(upto)
    }
}
