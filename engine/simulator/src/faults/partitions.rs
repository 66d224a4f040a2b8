//! Links that are cut: in both directions or one, for a group of nodes or between two, for long or flapping.

use std::ops::RangeInclusive;
use std::time::Duration;

use synod_protocol::MEMBERS_MAX;

use crate::random::{Chance, Random};

/// Which links let nothing through. Nodes are named by their index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// All links are whole.
    Nothing,
    /// No node reaches another.
    Everything,
    /// Nodes whose bit is set and the others don't reach each other.
    Groups(u32),
    /// This node sends, and receives nothing.
    Deaf(usize),
    /// This node receives, and nobody receives from it.
    Mute(usize),
    /// These two don't reach each other; everybody else reaches both.
    Pair(usize, usize),
    /// The first doesn't reach the second.
    OneWay(usize, usize),
    /// Only links with this node are whole: it alone hears a quorum.
    Hub(usize),
    /// Only links between neighbours are whole.
    Chain,
    /// These links are cut, each in one direction.
    Links(Links),
}

/// A set of links, each with its direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Links(u128);

impl Links {
    const fn bit(from: usize, to: usize) -> u128 {
        1 << (from * MEMBERS_MAX + to)
    }

    /// The set with another link.
    #[must_use]
    pub fn with(self, from: usize, to: usize) -> Links {
        Links(self.0 | Links::bit(from, to))
    }

    /// The set without a link.
    #[must_use]
    pub fn without(self, from: usize, to: usize) -> Links {
        Links(self.0 & !Links::bit(from, to))
    }

    /// Whether a link is among them.
    pub fn contains(self, from: usize, to: usize) -> bool {
        self.0 & Links::bit(from, to) != 0
    }

    /// The links of either set.
    #[must_use]
    pub fn and(self, other: Links) -> Links {
        Links(self.0 | other.0)
    }
}

const _: () = assert!(MEMBERS_MAX * MEMBERS_MAX <= 128, "a set of links has a bit for each");

impl Cut {
    /// Whether nothing gets from `from` to `to`.
    pub fn blocks(self, from: usize, to: usize) -> bool {
        let in_group = |mask: u32, node: usize| mask >> node & 1 == 1;
        match self {
            Cut::Nothing => false,
            Cut::Everything => true,
            Cut::Groups(mask) => in_group(mask, from) != in_group(mask, to),
            Cut::Deaf(node) => to == node,
            Cut::Mute(node) => from == node,
            Cut::Pair(one, other) => (from, to) == (one, other) || (to, from) == (one, other),
            Cut::OneWay(sender, receiver) => (from, to) == (sender, receiver),
            Cut::Hub(hub) => from != hub && to != hub,
            Cut::Chain => from.abs_diff(to) > 1,
            Cut::Links(links) => links.contains(from, to),
        }
    }

    /// Whether some node still has whole links, there and back, with so many nodes, itself counted, that they are
    /// `quorum`: then the cluster can make progress.
    pub fn leaves_quorum(self, nodes: usize, quorum: usize) -> bool {
        self.leaves_quorum_of(&(0..nodes).collect::<Vec<_>>(), quorum)
    }

    /// The same if only these nodes run.
    pub fn leaves_quorum_of(self, nodes: &[usize], quorum: usize) -> bool {
        let is_linked = |one, other| one == other || !self.blocks(one, other) && !self.blocks(other, one);
        nodes.iter().any(|one| nodes.iter().filter(|other| is_linked(*one, **other)).count() >= quorum)
    }

    /// Draws a cut around `one`.
    fn draw(random: &mut Random, nodes: usize, one: usize) -> Cut {
        let other = (one + 1 + random.index(nodes.max(2) - 1)) % nodes;
        match random.below(16) {
            0 => Cut::Everything,
            1..=5 => Cut::Groups(1 << one),
            6 => Cut::Groups(random.below(1 << nodes) as u32),
            7 => Cut::Deaf(one),
            8 => Cut::Mute(one),
            9..=10 => Cut::Pair(one, other),
            11..=12 => Cut::OneWay(one, other),
            13..=14 => Cut::Hub(one),
            _ => Cut::Chain,
        }
    }
}

/// How often links are cut, and for how long.
#[derive(Clone, Debug)]
pub struct PartitionFaults {
    /// Time between the end of one cut and the next; none if links are never cut.
    pub every: Option<RangeInclusive<Duration>>,
    /// How long a cut lasts.
    pub lasts: RangeInclusive<Duration>,
    /// It comes and goes at the rhythm of elections.
    pub flapping: Chance,
    /// It is drawn around a leader, if there is one, and not around just any node.
    pub leader: Chance,
    /// Some links are mended only after the cluster has shown that it can do without them.
    pub lasting: bool,
}

/// One cut, as drawn.
#[derive(Clone, Copy, Debug)]
pub struct Partition {
    /// The links.
    pub cut: Cut,
    /// How long it lasts.
    pub lasts: Duration,
    /// How often it comes and goes in that time; once, unless it flaps.
    pub times: u32,
}

impl PartitionFaults {
    /// Links are never cut.
    pub const NONE: PartitionFaults = PartitionFaults {
        every: None,
        lasts: Duration::ZERO..=Duration::ZERO,
        flapping: Chance::NEVER,
        leader: Chance::NEVER,
        lasting: false,
    };

    pub(super) fn draw(random: &mut Random, pace: u64) -> PartitionFaults {
        let every = random.chance(Chance::of(5, 6)).then(|| {
            let shortest = random.spread(pace / 4..=pace * 3);
            Duration::from_micros(shortest)..=Duration::from_micros(shortest * 4)
        });
        let longest = random.spread(pace..=pace * 8);
        PartitionFaults {
            every,
            lasts: Duration::from_micros(longest / 8)..=Duration::from_micros(longest),
            flapping: random.pick(&[Chance::NEVER, Chance::of(1, 4)]),
            leader: random.pick(&[Chance::NEVER, Chance::of(1, 2), Chance::of(1, 1)]),
            lasting: random.chance(Chance::of(2, 3)),
        }
    }

    /// Draws how long all links stay whole; `None` for ever.
    pub fn draw_wait(&self, random: &mut Random) -> Option<Duration> {
        self.every.clone().map(|every| random.spread_time(every))
    }

    /// Draws a cut for when nothing else goes wrong any more: some links may stay as they are for ever, as long as a
    /// quorum is connected.
    pub fn draw_lasting(&self, random: &mut Random, nodes: usize, leader: Option<usize>, quorum: usize) -> Cut {
        let cut = self.draw_partition(random, nodes, leader).cut;
        if self.lasting && cut.leaves_quorum(nodes, quorum) { cut } else { Cut::Nothing }
    }

    /// Draws a cut.
    pub fn draw_partition(&self, random: &mut Random, nodes: usize, leader: Option<usize>) -> Partition {
        let any = random.index(nodes);
        let one = leader.filter(|_| random.chance(self.leader)).unwrap_or(any);
        let times = if random.chance(self.flapping) { random.within(2..=12) as u32 } else { 1 };
        Partition { cut: Cut::draw(random, nodes, one), lasts: random.spread_time(self.lasts.clone()), times }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(cut: Cut, nodes: usize) -> Vec<(usize, usize)> {
        let pairs = (0..nodes).flat_map(|from| (0..nodes).map(move |to| (from, to)));
        pairs.filter(|(from, to)| from != to && !cut.blocks(*from, *to)).collect()
    }

    #[test]
    fn cuts_leave_the_links_that_they_say() {
        assert_eq!(whole(Cut::Nothing, 3).len(), 6);
        assert_eq!(whole(Cut::Everything, 3), []);
        assert_eq!(whole(Cut::Groups(0b001), 3), [(1, 2), (2, 1)]);
        assert_eq!(whole(Cut::Deaf(0), 3), [(0, 1), (0, 2), (1, 2), (2, 1)]);
        assert_eq!(whole(Cut::Mute(0), 3), [(1, 0), (1, 2), (2, 0), (2, 1)]);
        assert_eq!(whole(Cut::Pair(0, 1), 3), [(0, 2), (1, 2), (2, 0), (2, 1)]);
        assert_eq!(whole(Cut::OneWay(0, 1), 3), [(0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]);
        assert_eq!(whole(Cut::Hub(2), 3), [(0, 2), (1, 2), (2, 0), (2, 1)]);
        assert_eq!(whole(Cut::Chain, 3), [(0, 1), (1, 0), (1, 2), (2, 1)]);
    }

    #[test]
    fn a_quorum_is_connected_if_one_node_reaches_it_there_and_back() {
        assert!(Cut::Hub(1).leaves_quorum(5, 3));
        assert!(Cut::Chain.leaves_quorum(3, 2) && Cut::Chain.leaves_quorum(5, 3));
        assert!(Cut::Deaf(0).leaves_quorum(3, 2) && !Cut::Deaf(0).leaves_quorum(2, 2));
        assert!(Cut::OneWay(0, 1).leaves_quorum(3, 2) && !Cut::OneWay(0, 1).leaves_quorum(2, 2));
        assert!(Cut::Groups(0b11).leaves_quorum(5, 3) && !Cut::Groups(0b11).leaves_quorum(4, 3));
        assert!(!Cut::Everything.leaves_quorum(3, 2) && Cut::Everything.leaves_quorum(1, 1));
    }

    #[test]
    fn a_single_node_can_be_drawn_for() {
        let mut random = Random::stream(1, "test");
        for _ in 0..100 {
            Cut::draw(&mut random, 1, 0);
        }
    }
}
