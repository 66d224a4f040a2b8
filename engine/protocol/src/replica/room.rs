//! What a replica does when its disk, or those of too many others, have no room for new commands.
//!
//! The room that is left is for what the cluster can't do without: promises, what earlier ballots left open, no-ops,
//! trims, configurations. Every replica tells its leader whether it is full. A leader proposes new commands only while
//! an accept quorum has room; one that is itself full, while an accept quorum of others has room, hands over to one of
//! those. All of it ends by itself when a trim, or somebody with a broom, makes room.

use super::{NodeId, Replica, RoleState};
use crate::body::BodyHandle;
use crate::time::Instant;

/// Election timeouts between two attempts of a full leader to hand over: in between it may propose trims.
const PAUSE_TIMEOUTS: u32 = 4;

impl Replica {
    /// Tells the acceptor whether its disk has room for client commands.
    pub fn set_disk_full(&mut self, full: bool) {
        self.disk_full = full;
    }

    /// Tells the acceptor whether its disk has room for little more than votes. Only a full disk can be.
    pub fn set_disk_reserved(&mut self, reserved: bool) {
        self.disk_reserved = reserved;
    }

    /// Whether no new commands should be proposed here, for want of room on the own disk or on those of others.
    pub fn is_full(&self) -> bool {
        if self.disk_full {
            return true;
        }
        let RoleState::Leader(leadership) = &self.role else { return false };
        // Asked at every turn: nothing is gathered as long as nobody is full.
        leadership.peers.iter().any(|(_, peer)| peer.full) && {
            let mut roomy = self.peers_with_room();
            roomy.push(self.node);
            !self.is_accept_quorum(&roomy)
        }
    }

    /// Whether a body that isn't here yet is refused for want of room.
    ///
    /// The one that holds up the prefix is taken even so. It was proposed before the leader knew, and the trim that
    /// makes room can only be delivered behind it; and there are few such bodies, for the leader proposes no more. But if
    /// others have room it does, and a full replica that took them all would end up without room for its votes.
    pub(super) fn refuses(&self, body: &BodyHandle) -> bool {
        let holds_up = body.first == self.mark.slot && !self.disk_reserved;
        self.disk_full && body.kind.is_from_clients() && !holds_up
    }

    /// Notes whether a peer has room.
    pub(super) fn note_full(&mut self, node: NodeId, full: bool) {
        if let Some(peer) = self.leadership().and_then(|leadership| leadership.peers.get_mut(&node)) {
            peer.full = full;
        }
    }

    /// The peers that haven't said that they are full.
    fn peers_with_room(&self) -> Vec<NodeId> {
        let RoleState::Leader(leadership) = &self.role else { return Vec::new() };
        leadership.peers.iter().filter(|(_, peer)| !peer.full).map(|(node, _)| *node).collect()
    }

    /// Hands over, if this leader is full and others can go on without it.
    pub(super) fn relieve(&mut self, now: Instant) {
        let timeout = self.settings.election_timeout;
        if !self.disk_full || !self.is_accept_quorum(&self.peers_with_room()) {
            return;
        }
        let members = self.configurations.newest().members.clone();
        let Some(leadership) = self.leadership() else { return };
        if now < leadership.relieved_at || leadership.transfer.is_some() || leadership.is_recovering() {
            return;
        }
        let fit = leadership.peers.iter().filter(|(node, peer)| {
            // Only what was told in this very leadership counts.
            let answers = peer.has_answered() && now.since(peer.heard) < timeout;
            members.contains(node) && answers && !peer.full && peer.keeps_pace
        });
        let Some((target, _)) = fit.max_by_key(|(_, peer)| peer.mark) else { return };
        let target = *target;
        leadership.relieved_at = now.plus(timeout.saturating_mul(PAUSE_TIMEOUTS));
        // Refused or not, there is another attempt after the pause.
        let _ = self.transfer(now, target);
    }
}
