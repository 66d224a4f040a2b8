//! Spreading the leaders of a node's groups over the members: each group has a member whose turn it is, and whoever leads it
//! instead hands over, when that member has been well for a while.
//!
//! That is a preference and never in the way of anything: nobody stands for election for its sake, a member that is behind,
//! full, silent or new isn't asked, and one that doesn't take over, or loses the leadership again, is asked ever more rarely.
//! The hand-over is the one that operators ask for, which keeps no append from being answered.

use std::time::Duration;

use synod_protocol::{Instant, NodeId, Role};

use super::{Core, Shard};

/// How often to look.
const PACE: Duration = Duration::from_millis(250);

/// How long this node must have led, and the other must have been well, without a break.
const WELL_MIN: Duration = Duration::from_secs(5);

/// Groups of one node don't hand over all at once: each waits this much longer than the one before, up to [`STAGGER_MAX`]
/// groups.
const STAGGER: Duration = Duration::from_millis(500);

const STAGGER_MAX: u32 = 16;

/// First and longest wait between two attempts.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(900));

/// A leadership that stays away as long as this has been taken well.
const SETTLED: Duration = Duration::from_secs(60);

/// Where the leader of one group stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spreader {
    look_at: Instant,
    /// Whose turn it is, and since when it is well.
    well: Option<(NodeId, Instant)>,
    /// Not before this.
    next_at: Instant,
    back_off: Duration,
    /// Since when another node leads, or none.
    away_since: Option<Instant>,
}

impl Default for Spreader {
    fn default() -> Spreader {
        let start = Instant(0);
        Spreader { look_at: start, well: None, next_at: start, back_off: BACK_OFF.0, away_since: None }
    }
}

/// What the leader of a group sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct View {
    leads: bool,
    /// Whose turn it is, if that is another node that could take over at once.
    heir: Option<NodeId>,
}

impl Spreader {
    /// Whom to hand over to now; `place` is the group's among the node's groups.
    fn decide(&mut self, now: Instant, place: u32, view: View) -> Option<NodeId> {
        if !view.leads {
            self.well = None;
            let since = *self.away_since.get_or_insert(now);
            if now.since(since) >= SETTLED {
                self.back_off = BACK_OFF.0;
            }
            return None;
        }
        self.away_since = None;
        let Some(heir) = view.heir else {
            self.well = None;
            return None;
        };
        let since = match self.well {
            Some((node, since)) if node == heir => since,
            _ => now,
        };
        self.well = Some((heir, since));
        if now < self.next_at || now.since(since) < WELL_MIN + STAGGER * place.min(STAGGER_MAX) {
            return None;
        }
        self.next_at = now.plus(self.back_off);
        self.back_off = (self.back_off * 2).min(BACK_OFF.1);
        Some(heir)
    }
}

/// Whose turn it is to lead the group at `place`, of `members` in any order.
fn turn(place: u32, members: &[NodeId]) -> Option<NodeId> {
    let mut members = members.to_vec();
    members.sort_unstable();
    let count = u32::try_from(members.len()).ok().filter(|count| *count > 0)?;
    members.get((place % count) as usize).copied()
}

impl Shard {
    /// Hands the leadership over if it is another member's turn.
    pub(super) fn spread_leaders(&self, core: &mut Core, now: Instant) {
        let Some(place) = self.settings.spread else { return };
        if now < core.spreader.look_at || core.stopped.is_some() {
            return;
        }
        core.spreader.look_at = now.plus(PACE);
        let status = core.replica.replica().status();
        let is_settled = status.pending.is_none();
        let wanted =
            turn(place, &status.configuration.members).filter(|node| *node != self.settings.node && is_settled);
        let is_well = |node: &NodeId| {
            let peer = status.peers.iter().find(|peer| peer.node == *node);
            peer.is_some_and(|peer| peer.keeps_pace && !peer.full && !peer.behind)
        };
        let view = View { leads: status.role == Role::Leader, heir: wanted.filter(is_well) };
        let Some(heir) = core.spreader.decide(now, place, view) else { return };
        let group = self.settings.group;
        match core.replica.transfer(now, heir) {
            Ok(()) => tracing::info!(%group, %heir, "handing the leadership on, so that leaders are spread"),
            // It was well a moment ago; it is asked again later.
            Err(error) => tracing::debug!(%group, %heir, %error, "the leadership stays"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEIR: NodeId = NodeId(2);

    fn leading(heir: Option<NodeId>) -> View {
        View { leads: true, heir }
    }

    fn at(seconds: u64) -> Instant {
        Instant(0).plus(Duration::from_secs(seconds))
    }

    #[test]
    fn turns_go_round_by_id() {
        let members = [NodeId(7), NodeId(2), NodeId(5)];
        let turns: Vec<u32> = (0..4).filter_map(|place| turn(place, &members)).map(|node| node.0).collect();
        assert_eq!(turns, [2, 5, 7, 2]);
        assert_eq!(turn(3, &[]), None);
    }

    #[test]
    fn an_heir_is_asked_when_it_has_been_well_for_a_while_without_a_break() {
        let mut spreader = Spreader::default();
        assert_eq!(spreader.decide(at(100), 0, leading(Some(HEIR))), None);
        assert_eq!(spreader.decide(at(103), 0, leading(None)), None, "it wasn't well");
        assert_eq!(spreader.decide(at(104), 0, leading(Some(HEIR))), None);
        assert_eq!(
            spreader.decide(at(106), 0, leading(Some(NodeId(3)))),
            None,
            "another's turn, by another configuration"
        );
        assert_eq!(spreader.decide(at(107), 0, leading(Some(HEIR))), None);
        assert_eq!(spreader.decide(at(111), 0, leading(Some(HEIR))), None);
        assert_eq!(spreader.decide(at(112), 0, leading(Some(HEIR))), Some(HEIR));
        assert_eq!(spreader.decide(at(113), 0, leading(Some(HEIR))), None, "once");
    }

    #[test]
    fn an_heir_that_never_stays_is_asked_ever_more_rarely() {
        let mut spreader = Spreader::default();
        let asked: Vec<u64> =
            (100..10_000).filter(|second| spreader.decide(at(*second), 0, leading(Some(HEIR))).is_some()).collect();
        let waits: Vec<u64> = asked.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(waits[..6], [15, 30, 60, 120, 240, 480]);
        assert!(waits[6..].iter().all(|wait| *wait == 900), "{waits:?}");
        // It stays at last; a later bounce is a new one.
        assert_eq!(spreader.decide(at(10_000), 0, View { leads: false, heir: None }), None);
        assert_eq!(spreader.decide(at(10_060), 0, View { leads: false, heir: None }), None);
        assert_eq!(spreader.back_off, BACK_OFF.0);
    }

    #[test]
    fn groups_take_their_time_one_after_the_other() {
        let first = |place| {
            let mut spreader = Spreader::default();
            (0..100_000u64)
                .map(|millis| Instant(0).plus(Duration::from_millis(millis)))
                .find(|now| spreader.decide(*now, place, leading(Some(HEIR))).is_some())
        };
        assert_eq!(first(0), Some(at(5)));
        assert_eq!(first(3), Some(Instant(0).plus(WELL_MIN + 3 * STAGGER)));
        assert_eq!(first(63), Some(Instant(0).plus(WELL_MIN + 16 * STAGGER)));
    }
}
