//! Installing: a replica behind the trim takes over the prefix that a peer's log begins with.
//!
//! What a log begins with is a mark of the chosen prefix, so whoever learns of it knows that everything below is chosen, and
//! which chain lies over it, without a single body of it. Nothing else changes hands: the promise stays, and so does every
//! accept above the mark that is taken over. An old offer is as true as a new one.

use super::{Configuration, LogEntry, Mark, NodeId, Replica, RoleState, Slot};
use crate::limits;
use crate::time::Instant;

impl Replica {
    /// Takes over the prefix below `base`, which is the base of the log of `from`, and gives up everything below;
    /// `oldest` is the first configuration that `from` still knows, none if that is genesis. Whether there was anything to
    /// take over.
    ///
    /// The driver carries out [`LogEntry::Installed`] by making durable, in one go or in this order: what `oldest` holds,
    /// and the base. Bodies that are delivered later begin at the base.
    pub fn install(&mut self, now: Instant, from: NodeId, base: Mark, oldest: Option<Configuration>) -> bool {
        let is_plausible = base.slot.0 <= limits::SLOT_MAX && oldest.iter().all(|oldest| oldest.check().is_ok());
        if self.halted || base.slot <= self.mark.slot || !is_plausible {
            return false;
        }
        match self.role {
            RoleState::Follower { .. } => {}
            // What it has promised, or proposed, rests on a prefix that isn't in its log any more.
            RoleState::Leader(_) => self.resign(now),
            RoleState::Canvassing(_) | RoleState::Candidate(_) => self.become_follower(now),
        }
        self.mark = base;
        self.trimmed = self.trimmed.max(base.slot);
        // What lies across the base contradicts what is chosen there: dead like everything below.
        self.accepted = self.accepted.split_off(&base.slot);
        self.drop_doubts();
        if self.recent.len() == limits::MARKS_REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back(base);
        if let Some(oldest) = oldest {
            self.had_part |= oldest.nodes().any(|node| node == self.node);
            self.configurations.install(oldest);
        }
        let append = self.append(LogEntry::Installed { from });
        self.unstable.push_back((append, base.slot));
        self.reach_barriers();
        self.catch_up.forget_reached(base.slot);
        if self.catch_up.is_wanting() {
            self.fetch_from(now, from);
        }
        true
    }

    /// Whether this replica lacks what is chosen below `slot`, and has asked for it.
    pub fn is_wanting(&self, slot: Slot) -> bool {
        slot > self.mark.slot && self.catch_up.is_wanting()
    }
}
