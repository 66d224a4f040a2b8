//! Operators who bring a cluster to a newer build, node by node, under load and while everything else goes wrong: they
//! restart nodes with another build, now and then with an older one again, and ask for the newer format when they think
//! that all can read it.

use std::ops::RangeInclusive;
use std::time::Duration;

use synod_protocol::{FORMAT_FIRST, FORMAT_MAX};

use crate::random::{Chance, Random};

/// How a cluster is upgraded.
#[derive(Clone, Debug)]
pub struct Upgrades {
    /// The time between two things that somebody does, if nodes begin with an older build.
    pub every: Option<RangeInclusive<Duration>>,
    /// A node that has the newer build gets the older one again.
    pub downgrade: Chance,
    /// Leaders raise the format by themselves.
    pub by_itself: bool,
}

/// What somebody does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Restarts a node with the other build, if it hasn't the newer one or a downgrade was drawn.
    Restart {
        /// Whether the newer build may make way for the older one.
        may_downgrade: bool,
    },
    /// Asks for the newer format.
    Raise,
}

impl Upgrades {
    /// Everybody has the newest build, and the log stays in the first format.
    pub fn none() -> Upgrades {
        Upgrades { every: None, downgrade: Chance::NEVER, by_itself: false }
    }

    /// Everybody has the older build, and does what a scenario says.
    pub fn by_hand() -> Upgrades {
        Upgrades { every: Some(Duration::MAX..=Duration::MAX), ..Upgrades::none() }
    }

    /// Draws whether the cluster is upgraded, in a third of all seeds; `pace` is the election timeout.
    pub fn draw(random: &mut Random, pace: Duration) -> Upgrades {
        if !random.chance(Chance::of(1, 3)) {
            return Upgrades::none();
        }
        Upgrades {
            every: Some(pace / 2..=pace * 2),
            downgrade: random.pick(&[Chance::NEVER, Chance::of(1, 8), Chance::of(1, 2)]),
            by_itself: random.chance(Chance::of(1, 2)),
        }
    }

    /// Whether nodes run different builds.
    pub fn is_on(&self) -> bool {
        self.every.is_some()
    }

    /// The newest format that a node reads when the cluster is made.
    pub fn first_build(&self) -> u16 {
        if self.is_on() { FORMAT_FIRST } else { FORMAT_MAX }
    }

    /// When somebody does something next.
    pub fn draw_wait(&self, random: &mut Random) -> Option<Duration> {
        self.every.clone().map(|every| random.spread_time(every))
    }

    /// What they do.
    pub fn draw_step(&self, random: &mut Random) -> Step {
        match random.chance(Chance::of(1, 3)) {
            true => Step::Raise,
            false => Step::Restart { may_downgrade: random.chance(self.downgrade) },
        }
    }
}
