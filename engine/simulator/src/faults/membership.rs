//! Operators who change the membership while everything else goes wrong: nodes come in and go, several at once, often
//! before the last change is over, and sometimes they think better of it.

use std::ops::RangeInclusive;
use std::time::Duration;

use synod_protocol::{Change, NodeId};

use crate::network::node_id;
use crate::random::{Chance, Random};

/// How often somebody changes the membership, and between which nodes.
#[derive(Clone, Debug)]
pub struct MembershipChanges {
    /// Nodes that aren't members when the cluster is made.
    pub spare: usize,
    /// The time between two attempts, if there are any.
    pub every: Option<RangeInclusive<Duration>>,
}

impl MembershipChanges {
    /// Nobody ever comes or goes.
    pub fn none() -> MembershipChanges {
        MembershipChanges { spare: 0, every: None }
    }

    /// Draws whether the membership changes, in a third of all seeds; `pace` is the election timeout.
    pub fn draw(random: &mut Random, pace: Duration) -> MembershipChanges {
        if !random.chance(Chance::of(1, 3)) {
            return MembershipChanges::none();
        }
        MembershipChanges::often(random.within(1..=3) as usize, pace * random.pick(&[1, 2, 4]))
    }

    /// Changes about every `pace`.
    pub fn often(spare: usize, pace: Duration) -> MembershipChanges {
        MembershipChanges { spare, every: Some(pace / 2..=pace * 2) }
    }

    /// When somebody tries next.
    pub fn draw_wait(&self, random: &mut Random) -> Option<Duration> {
        self.every.clone().map(|every| random.spread_time(every))
    }

    /// What they want, of a cluster with these members, among `nodes`. `may_force` says whether whoever comes in can catch
    /// up, so that it does no lasting harm to make it a member before it has.
    pub fn draw_change(&self, random: &mut Random, members: &[NodeId], nodes: usize, may_force: bool) -> Change {
        if random.chance(Chance::of(1, 8)) {
            return Change::Cancel;
        }
        if random.chance(Chance::of(1, 8)) {
            return Change::Promote { force: random.chance(Chance::of(1, 2)) && may_force };
        }
        let outside: Vec<NodeId> = (0..nodes).map(node_id).filter(|node| !members.contains(node)).collect();
        let add = choose(random, &outside, 2);
        let remove = choose(random, members, 2);
        Change::Replace { add, remove }
    }
}

/// At most `most` of these.
fn choose(random: &mut Random, from: &[NodeId], most: u64) -> Vec<NodeId> {
    let count = random.within(0..=most).min(from.len() as u64);
    (0..count).map(|_| random.pick(from)).collect()
}
