//! Keeping the log within its bounds: a leader proposes trims, in whole segments, as the settings ask for.

use std::time::Duration;

use synod_protocol::{NodeId, Role, Slot};
use synod_wal::LoggedReplica;

use super::{Core, Shard};
use crate::config::Retention;
use crate::seam::buffer::Slab;
use synod_protocol::Instant;

/// How often to look. A trim takes a slot and a disk write on every node, so it isn't done for each segment alone.
const PACE: Duration = Duration::from_millis(250);

/// How much longer than its hard limit the log may get for a member that is catching up: by the limit through this.
const HOLD_SHARE: u64 = 2;

/// Where retention stands.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Keeper {
    next_at: Instant,
    /// The member that holds what should be trimmed, while there is one.
    held_by: Option<NodeId>,
}

impl Keeper {
    /// The member that holds what should be trimmed.
    pub(super) fn held_by(&self) -> Option<NodeId> {
        self.held_by
    }
}

/// What a leader may trim up to, and who is in the way of more.
struct Reach {
    limit: Slot,
    slowest: Option<NodeId>,
}

impl Shard {
    /// Proposes a trim if the log is longer than it should be.
    pub(super) fn keep_within_bounds(&self, core: &mut Core, now: Instant) {
        let retention = self.settings.retention;
        if retention == Retention::default() || now < core.keeper.next_at {
            return;
        }
        core.keeper.next_at = now.plus(PACE);
        if core.stopped.is_some() || core.replica.replica().status().role != Role::Leader {
            core.keeper.held_by = None;
            return;
        }
        let bytes_max = retention.bytes.or(retention.hard_bytes).unwrap_or(u64::MAX);
        let age_us = retention.age.map_or(u64::MAX, |age| u64::try_from(age.as_micros()).unwrap_or(u64::MAX));
        let made_after_us = core.replica.leader_time_us().saturating_sub(age_us);
        let own = self.shared.exchange.hold().map(|hold| (self.settings.node, hold.from));
        let reach = reach(&core.replica, own);
        // Refused, it is tried again: the leadership may be on its way to somebody else. Or the delivery state isn't kept so far
        // back, and never will be as long as somebody is in the way of more: then the hard limit counts.
        if let Some(upto) = core.replica.wal().trim_point(bytes_max, made_after_us, reach.limit)
            && core.replica.trim(now, upto).is_ok()
        {
            core.counters.trims += 1;
            tracing::debug!(%upto, "retention proposes a trim");
            return;
        }
        let wanted = core.replica.wal().trim_point(bytes_max, made_after_us, Slot(u64::MAX));
        let past = retention.hard_bytes.map(|hard_bytes| (hard_bytes, limit_past(core, now, hard_bytes)));
        let waits_for = past.as_ref().and_then(|(_, past)| past.slowest);
        self.tell_held(core, wanted.and(waits_for.or(reach.slowest)));
        let Some((hard_bytes, Reach { limit, .. })) = past else { return };
        if let Some(upto) = core.replica.wal().trim_point(hard_bytes, 0, limit)
            && core.replica.trim_past(now, upto).is_ok()
        {
            core.counters.trims_past += 1;
            tracing::error!(
                %upto,
                hard_bytes,
                left_behind = ?reach.slowest,
                "the log has passed its hard limit: it is trimmed past members that lack what is trimmed; the log of \
                 such a member will begin where the others' logs do"
            );
        }
    }

    /// Says once for each member that it holds the log.
    fn tell_held(&self, core: &mut Core, held_by: Option<NodeId>) {
        if std::mem::replace(&mut core.keeper.held_by, held_by) == held_by {
            return;
        }
        if let Some(node) = held_by {
            let live_bytes = core.replica.wal().stats().live_bytes;
            tracing::warn!(%node, live_bytes, "a member that is behind holds more of the log than is to be kept");
        }
    }
}

/// `own` is this node, and what its state machine needs.
fn reach(replica: &LoggedReplica<Slab>, own: Option<(NodeId, Slot)>) -> Reach {
    let status = replica.replica().status();
    let own = own.filter(|(_, needs)| *needs >= status.trimmed);
    let peers = status.peers.iter().filter(|peer| !peer.behind).map(|peer| (peer.node, peer.needs));
    let slowest = peers.chain(own).min_by_key(|(_, needs)| *needs);
    Reach { limit: replica.replica().held_by_all(), slowest: slowest.map(|(node, _)| node) }
}

/// What may be trimmed past members: whoever is catching up is waited for, until the log has become half as long again.
fn limit_past(core: &Core, now: Instant, hard_bytes: u64) -> Reach {
    let limit = core.replica.replica().held_by_quorum();
    let most = hard_bytes.saturating_add(hard_bytes / HOLD_SHARE);
    let passes = |bytes, needs| core.replica.wal().trim_point(bytes, 0, limit).is_some_and(|upto| upto > needs);
    match core.replica.replica().catching_up(now) {
        Some((node, needs)) if passes(hard_bytes, needs) && !passes(most, needs) => {
            Reach { limit: limit.min(needs), slowest: Some(node) }
        }
        _ => Reach { limit, slowest: None },
    }
}
