//! Every byte of a log, and everything that is wrong with it: for tools, which must not stop at the first thing.
//!
//! [`recover`](crate::recover) decides whether a log may be opened, and stops where it may not. This looks on: each
//! segment by itself ([`check_segment`], so that several may be read at once), behind every damaged record the next
//! sound one, and each sealed segment's index, table and footer against its records. [`conclude`] then puts the segments
//! together, and tells by the same proof as recovery what each thing is:
//!
//! | class | meaning |
//! |---|---|
//! | torn | an unfinished last write, as a crash leaves it: recovery cuts it, nothing acknowledged is lost |
//! | corrupt | damage where something later proves that records were durable: never cut |
//! | doubtful | damage above everything that is proven, which no interrupted write explains |
//! | latent | records are whole, but what describes them isn't: the seal, the index, a block of the pool |
//!
//! Memory grows with the number of records, by about 500 bytes each.

mod conclude;
mod segment;

use std::fmt;

use synod_protocol::SlotRange;

use crate::lsn::{FileId, Lsn};

pub use conclude::{Conclusion, Summary, conclude};
pub use segment::{SegmentCheck, check_fresh, check_segment, check_unneeded};

/// How bad a finding is; the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// An unfinished last write.
    Torn,
    /// Damage to what describes records, or to what the pool keeps for later.
    Latent,
    /// Damage that may or may not have been durable.
    Doubtful,
    /// Damage to what was durable.
    Corrupt,
}

impl Class {
    /// Whether this is damage. What is torn is what every crash may leave.
    pub fn is_damage(self) -> bool {
        self != Class::Torn
    }

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Class::Torn => "torn",
            Class::Latent => "latent",
            Class::Doubtful => "doubtful",
            Class::Corrupt => "corrupt",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Something that isn't as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub class: Class,
    /// The file; none if a whole segment is missing.
    pub file: Option<FileId>,
    /// Offset in the file.
    pub offset: u64,
    /// Position in the log.
    pub lsn: Lsn,
    /// The slots that it may concern; none if it concerns none, or they can't be told.
    pub slots: Option<SlotRange>,
    /// What is wrong, in one sentence without full stop.
    pub what: String,
    /// What should be there, if that is one value.
    pub expected: Option<String>,
    /// What is there, if that is one value.
    pub actual: Option<String>,
}
