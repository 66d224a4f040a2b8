//! People who mean well: they mix up directories, wipe one, move files about, put an old copy back.
//!
//! What today's code finds out by itself happens as it comes: a directory of another node, an empty one, one with a file
//! missing, cut or copied beside the others. Each is answered by a typed error, and the node stays down until somebody
//! puts it right, if that can be done.
//!
//! A directory that was *rolled back* to an earlier copy, and one of which two copies run, are found out by whoever
//! remembers more of the store than it says, by the same rule as in the runtime (`links.rs`): the node stops, and its own
//! directory is put back. So an old copy runs only where every member remembers; elsewhere it is put back only if it lacks
//! nothing and nobody knows of a later boot. A directory that is lost for good is made anew, and the node comes back
//! through the log, as *replace*.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::random::{Chance, Random};

/// One thing that somebody does to a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mistake {
    /// Two nodes are started on each other's directory, for a while.
    Swap,
    /// A file is copied beside the others, for a while.
    CopyFile,
    /// A copy of the directory is taken, and put back later.
    RollBack,
    /// Everything is deleted.
    Wipe,
    /// The disk is lost, and the directory made anew: a new store, which comes in through the log.
    Replace,
    /// A file is deleted.
    RemoveFile,
    /// A file is cut off.
    ShortenFile,
}

impl Mistake {
    /// What may happen while the membership changes: nothing is damaged, but whole directories come and go.
    const WHOLE: [Mistake; 5] =
        [Mistake::Replace, Mistake::Replace, Mistake::RollBack, Mistake::RollBack, Mistake::Swap];

    const ALL: [Mistake; 6] =
        [Mistake::Swap, Mistake::CopyFile, Mistake::RollBack, Mistake::Wipe, Mistake::RemoveFile, Mistake::ShortenFile];

    /// Whether what was stored is gone for good.
    pub fn destroys(self) -> bool {
        matches!(self, Mistake::Wipe | Mistake::RemoveFile | Mistake::ShortenFile)
    }
}

/// How often somebody gets something wrong.
#[derive(Clone, Debug)]
pub struct OperatorFaults {
    /// Time between two mistakes; none if there are none.
    pub every: Option<RangeInclusive<Duration>>,
    /// How long one goes unnoticed.
    pub lasts: RangeInclusive<Duration>,
    /// The mistake that is made every time; any if not given.
    pub always: Option<Mistake>,
    /// Only such as leave directories whole.
    pub whole: bool,
}

impl OperatorFaults {
    /// Nobody touches anything.
    pub fn none() -> OperatorFaults {
        OperatorFaults { every: None, lasts: Duration::ZERO..=Duration::ZERO, always: None, whole: false }
    }

    pub(super) fn draw(random: &mut Random, pace: u64) -> OperatorFaults {
        let every = random.chance(Chance::of(1, 5)).then(|| {
            let shortest = random.spread(pace * 2..=pace * 8);
            Duration::from_micros(shortest)..=Duration::from_micros(shortest * 2)
        });
        OperatorFaults {
            every,
            lasts: Duration::from_millis(1)..=Duration::from_micros(random.spread(pace / 4..=pace * 4)),
            always: random.chance(Chance::of(1, 2)).then(|| random.pick(&Mistake::ALL)),
            whole: false,
        }
    }

    /// Draws whether directories are lost, swapped or rolled back while the membership changes.
    pub(super) fn draw_whole(random: &mut Random, pace: u64) -> OperatorFaults {
        if random.chance(Chance::of(1, 3)) {
            return OperatorFaults::none();
        }
        let shortest = random.spread(pace..=pace * 6);
        OperatorFaults {
            every: Some(Duration::from_micros(shortest)..=Duration::from_micros(shortest * 2)),
            lasts: Duration::from_millis(1)..=Duration::from_micros(random.spread(pace / 4..=pace * 4)),
            always: random.chance(Chance::of(1, 2)).then(|| random.pick(&Mistake::WHOLE)),
            whole: true,
        }
    }

    /// Draws the time to the next mistake; `None` if there is none.
    pub fn draw_wait(&self, random: &mut Random) -> Option<Duration> {
        self.every.clone().map(|every| random.spread_time(every))
    }

    /// Draws a mistake.
    pub fn draw_mistake(&self, random: &mut Random) -> Mistake {
        self.always
            .unwrap_or_else(|| if self.whole { random.pick(&Mistake::WHOLE) } else { random.pick(&Mistake::ALL) })
    }
}
