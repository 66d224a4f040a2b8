//! Processes that are killed and machines that lose power, between any two things that a node does; also again while
//! they start, and all of them at once.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::disk::Ending;
use crate::random::{Chance, Random};

/// How often nodes end, and how.
#[derive(Clone, Debug)]
pub struct CrashFaults {
    /// Time between two crashes; none if there are none.
    pub every: Option<RangeInclusive<Duration>>,
    /// It is the power that fails, not just the process.
    pub power_failure: Chance,
    /// Every node loses power at once.
    pub everybody: Chance,
    /// Otherwise it is a leader, if there is one, and not just any node.
    pub leader: Chance,
    /// How long a node stays down.
    pub down: RangeInclusive<Duration>,
    /// It crashes again soon after it has started.
    pub again: Chance,
    /// This node does so every time.
    pub storm: Option<usize>,
}

/// One crash, as drawn.
#[derive(Clone, Copy, Debug)]
pub struct Crash {
    /// How it ends.
    pub ending: Ending,
    /// Everybody, not one node.
    pub everybody: bool,
    /// After how many more of the node's outputs, so that it falls between any two of them.
    pub outputs: u32,
}

/// Longer than any run.
const FOR_EVER: Duration = Duration::from_secs(1 << 22);

impl CrashFaults {
    /// No node ends; one that is made to stays down until it is started.
    pub const NONE: CrashFaults = CrashFaults {
        every: None,
        power_failure: Chance::NEVER,
        everybody: Chance::NEVER,
        leader: Chance::NEVER,
        down: FOR_EVER..=FOR_EVER,
        again: Chance::NEVER,
        storm: None,
    };

    pub(super) fn draw(random: &mut Random, pace: u64) -> CrashFaults {
        let every = random.chance(Chance::of(3, 4)).then(|| {
            let shortest = random.spread(pace / 2..=pace * 6);
            Duration::from_micros(shortest)..=Duration::from_micros(shortest * 3)
        });
        CrashFaults {
            every,
            power_failure: random.pick(&[Chance::NEVER, Chance::of(1, 2), Chance::of(1, 1)]),
            everybody: random.pick(&[Chance::NEVER, Chance::of(1, 10), Chance::of(1, 3)]),
            leader: random.pick(&[Chance::NEVER, Chance::of(1, 2), Chance::of(1, 1)]),
            down: Duration::from_millis(1)..=Duration::from_micros(random.spread(pace / 10..=pace * 4)),
            again: random.pick(&[Chance::NEVER, Chance::of(1, 5), Chance::of(1, 2)]),
            storm: None,
        }
    }

    /// Draws a node that crashes again and again.
    pub(super) fn draw_storm(&mut self, random: &mut Random, nodes: usize) {
        self.storm = random.chance(Chance::of(1, 10)).then(|| random.index(nodes));
    }

    /// Draws the time to the next crash; `None` if there is none.
    pub fn draw_wait(&self, random: &mut Random) -> Option<Duration> {
        self.every.clone().map(|every| random.spread_time(every))
    }

    /// Draws a crash.
    pub fn draw_crash(&self, random: &mut Random) -> Crash {
        let everybody = random.chance(self.everybody);
        let ending = if random.chance(self.power_failure) { Ending::PowerFailure } else { Ending::Kill };
        Crash { ending, everybody, outputs: random.below(24) as u32 }
    }

    /// Draws how long a node stays down.
    pub fn draw_down(&self, random: &mut Random) -> Duration {
        random.spread_time(self.down.clone())
    }

    /// Draws whether a node that starts crashes soon, and then after how many outputs.
    pub fn draw_again(&self, random: &mut Random, node: usize) -> Option<Crash> {
        let again = if self.storm == Some(node) { Chance::of(1, 1) } else { self.again };
        random.chance(again).then(|| Crash { everybody: false, ..self.draw_crash(random) })
    }
}
