//! What a shard does for snapshots: it passes messages on, and tells the replica what its machines still need of the log.

use std::rc::Rc;
use std::time::Duration;

use synod_protocol::snapshot::SnapshotMessage;
use synod_protocol::{Instant, NodeId, Slot, TrimError};

use super::{Core, Shard};

/// How often to tell the leader what the machines need.
const HOLD_PACE: Duration = Duration::from_millis(250);

impl Shard {
    /// A peer has said something about snapshots.
    pub(crate) fn heard_of_snapshot(self: &Rc<Self>, from: NodeId, message: SnapshotMessage) {
        if let SnapshotMessage::Need { hold } = message {
            self.turn(|replica, now| replica.note_hold(now, from, hold));
        } else if !self.is_stopped()
            && let Some(answer) = self.shared.exchange.deliver(from, message)
        {
            self.send_snapshot(Some(from), &answer);
        }
    }

    /// Says something about snapshots to a peer, or to all. What is lost is asked for again.
    pub(super) fn send_snapshot(&self, to: Option<NodeId>, message: &SnapshotMessage) {
        for link in self.links.borrow().iter().filter(|link| to.is_none_or(|to| link.peer() == to)) {
            link.send_snapshot(message);
        }
    }

    /// Proposes a trim, of nothing that a machine of this node still needs.
    pub(super) fn trim(&self, core: &mut Core, now: Instant, upto: Slot) -> Result<Slot, TrimError> {
        core.replica.set_hold(now, self.shared.exchange.hold());
        core.replica.trim(now, upto)
    }

    /// Tells the replica what the machines need, and now and then its leader.
    pub(super) fn keep_hold(&self, core: &mut Core, now: Instant) {
        let hold = self.shared.exchange.hold();
        core.replica.set_hold(now, hold);
        if let (Some(hold), Some(leader)) = (hold, core.waiting.leader())
            && core.stopped.is_none()
            && leader != self.settings.node
            && now >= core.tell_hold_at
        {
            core.tell_hold_at = now.plus(HOLD_PACE);
            self.send_snapshot(Some(leader), &SnapshotMessage::Need { hold });
        }
    }
}
