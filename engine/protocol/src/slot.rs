//! Positions in a group's log.

use std::fmt;
use std::ops::Range;

/// A position in a group's log: the number of the Paxos instance that fills it. The first is [`Slot::FIRST`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u64);

impl Slot {
    /// The first slot of every log; zero is never a valid slot.
    pub const FIRST: Slot = Slot(1);

    /// The slot `count` positions later.
    ///
    /// # Panics
    /// If the log would grow past 2^64 slots; callers check untrusted positions with [`Slot::checked_add`].
    #[must_use]
    pub fn plus(self, count: u64) -> Slot {
        self.checked_add(count).expect("a log has fewer than 2^64 slots")
    }

    /// The slot `count` positions later, or `None` past the end of the number range.
    pub fn checked_add(self, count: u64) -> Option<Slot> {
        self.0.checked_add(count).map(Slot)
    }

    /// How many slots lie in `earlier..self`; zero if `earlier` is not earlier.
    pub fn since(self, earlier: Slot) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A half-open range of slots.
pub type SlotRange = Range<Slot>;
