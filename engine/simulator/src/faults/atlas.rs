//! Which nodes may lose what they have stored, so that the contract demands survival, or demands a clean stop.
//!
//! A node whose log is damaged doesn't open it: it stays down and says what is bad. So what must be left is a quorum of
//! intact promises for phase 1, and enough nodes for phase 2. *Within* the atlas only so many nodes are exposed to
//! damage that the others are both. Every chosen body was accepted by an accept quorum, which meets every prepare
//! quorum: so the others hold an intact copy of it, and the cluster must go on as if the exposed nodes had crashed.
//!
//! *Beyond* the atlas every node is exposed. Then a run may stop, but only cleanly: with no quorum of intact promises,
//! or no intact copy of some slot, which the harness proves; and nothing that was acknowledged is ever decided
//! otherwise.

use crate::random::{Chance, Random};

/// See the module documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Atlas {
    exposed: u32,
    beyond: bool,
}

impl Atlas {
    /// Nobody's disk is damaged.
    pub const SOUND: Atlas = Atlas { exposed: 0, beyond: false };

    /// Everybody's may be.
    pub const EVERYBODY: Atlas = Atlas { exposed: u32::MAX, beyond: true };

    /// Draws who is exposed, of so many nodes, `needed` of which make a cluster that works.
    pub(super) fn draw(random: &mut Random, nodes: usize, needed: usize) -> Atlas {
        if random.chance(Chance::of(1, 6)) {
            return Atlas::EVERYBODY;
        }
        let mut atlas = Atlas::SOUND;
        for _ in 0..nodes - needed {
            atlas.exposed |= 1 << random.index(nodes);
        }
        atlas
    }

    /// Whether this node may lose what it has stored.
    pub fn exposes(self, node: usize) -> bool {
        self.exposed >> node & 1 == 1
    }

    /// Whether anybody may.
    pub fn exposes_any(self) -> bool {
        self.exposed != 0
    }

    /// Whether so many may that a clean stop is all that can be asked for.
    pub fn is_beyond(self) -> bool {
        self.beyond
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn within_the_atlas_enough_nodes_stay_sound() {
        for seed in 0..1000 {
            let mut random = Random::stream(seed, "test");
            let nodes = random.within(1..=9) as usize;
            let needed = random.within(1..=nodes as u64) as usize;
            let atlas = Atlas::draw(&mut random, nodes, needed);
            let sound = (0..nodes).filter(|node| !atlas.exposes(*node)).count();
            assert!(atlas.is_beyond() || sound >= needed);
            assert!(!atlas.is_beyond() || sound == 0);
        }
    }
}
