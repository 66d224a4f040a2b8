//! Bugs that are planted on purpose, to see that the checker finds them. They sit between the core and its
//! surroundings: nodes that forget, disks that lie, answers that are changed on their way. The core stays clean.

use std::fmt;
use std::str::FromStr;

macro_rules! plants {
    ($($(#[doc = $doc:literal])* $plant:ident $name:literal,)*) => {
        /// A planted bug.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Plant {
            $($(#[doc = $doc])* $plant,)*
        }

        impl Plant {
            /// All of them.
            pub const ALL: &[Plant] = &[$(Plant::$plant,)*];

            /// Its name.
            pub fn name(self) -> &'static str {
                match self {
                    $(Plant::$plant => $name,)*
                }
            }

            /// What is wrong.
            pub fn about(self) -> &'static str {
                match self {
                    $(Plant::$plant => concat!($($doc),*).trim_ascii(),)*
                }
            }
        }
    };
}

plants! {
    /// An acceptor starts without its promise; what it accepted is still there.
    ForgetsPromise "forgets-promise",
    /// An acceptor starts without what it accepted; its promise is still there.
    ForgetsAccepted "forgets-accepted",
    /// A candidate leads with whatever others have accepted left out.
    IgnoresAccepted "ignores-accepted",
    /// The body rule broken: a candidate adopts its own dead body, though a higher ballot shows at one of its slots.
    AdoptsDead "adopts-dead",
    /// A vote counts, and is told, before it is durable.
    VotesEarly "votes-early",
    /// One accept is taken for a quorum.
    LoneQuorum "lone-quorum",
    /// A process resumes the ballots of an earlier life, and has lost the promises of that life.
    ReusesBallots "reuses-ballots",
    /// An acceptor that has lost accepts promises as if it had not.
    HidesDoubt "hides-doubt",
    /// An acceptor that may have lost a promise votes at once.
    SureTooEarly "sure-too-early",
    /// A node that has lost its disk is heard by the others, as if it had its old one.
    HearsStrangers "hears-strangers",
    /// A configuration rules from the slot behind its own on, instead of alpha slots later.
    RulesAtOnce "rules-at-once",
}

impl fmt::Display for Plant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Plant {
    type Err = String;

    fn from_str(name: &str) -> Result<Plant, String> {
        Plant::ALL.iter().copied().find(|plant| plant.name() == name).ok_or_else(|| {
            let names: Vec<&str> = Plant::ALL.iter().map(|plant| plant.name()).collect();
            format!("no such bug; there are {}", names.join(", "))
        })
    }
}
