//! Bugs that are planted on purpose, to see that the checkers catch them. All of them sit between the code under test
//! and its surroundings: disks that lie, nodes that forget, messages that are forged. The code itself stays clean.

use std::fmt;
use std::str::FromStr;

use synod_protocol::delivery::DeliveryLimits;
use synod_protocol::{Ballot, BodyId, Mark, Message, Recovered, Slot};

use crate::faults::atlas::Atlas;
use crate::faults::disk_damage::DiskDamage;
use crate::faults::membership::MembershipChanges;
use crate::faults::operators::{Mistake, OperatorFaults};
use crate::faults::upgrades::Upgrades;
use crate::invariants::Property;
use crate::plan::Plan;
use crate::random::Chance;

macro_rules! plants {
    ($($(#[$doc:meta])* $plant:ident $name:literal => $($property:ident)|+,)*) => {
        /// A planted bug.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Plant {
            $($(#[$doc])* $plant,)*
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

            /// The properties that it violates; each is found even if no other is looked at.
            pub fn violates(self) -> &'static [Property] {
                match self {
                    $(Plant::$plant => &[$(Property::$property),+],)*
                }
            }
        }
    };
}

plants! {
    /// An acceptor forgets its promise at every restart.
    ForgetsPromise "forgets-promise" => PromiseMonotonic,
    /// An acceptor forgets what it accepted at every restart.
    ForgetsAccepted "forgets-accepted" => AcceptedIsReported,
    /// A node comes back with a wiped disk under its old identity.
    WipedDisk "wiped-disk" => PersistBeforeSpeak | AckedDurability | PromiseMonotonic | Agreement,
    /// Promises are forgotten and the boot number is the same in every life, so that a ballot is used again.
    ReusesBallots "reuses-ballots" => OneLeaderPerBallot,
    /// The disk reports syncs that it doesn't carry out.
    LyingDisk "lying-disk" => PersistBeforeSpeak | ChosenByQuorum | AckedDurability,
    /// An acceptor answers an accept before anything is durable.
    AnswersEarly "answers-early" => PersistBeforeSpeak,
    /// A leader counts the vote of everybody whom it sends an accept.
    CountsUnsentVotes "counts-unsent-votes" => ChosenByQuorum | Agreement,
    /// A candidate ignores what promises report: the naive ticket protocol, without the adopt step.
    IgnoresPromises "ignores-promises" => Agreement | ChainEqual,
    /// A leader proposes different bodies to different acceptors.
    TwoValues "two-values" => OneValuePerBallot,
    /// A follower sends heartbeats in its leader's ballot.
    SpeaksForAnother "speaks-for-another" => OneLeaderPerBallot,
    /// A node delivers another body than the chosen one.
    DeliversAnother "delivers-another" => Agreement | ChosenByQuorum,
    /// A node leaves a delivery out.
    SkipsDelivery "skips-delivery" => PrefixWithoutGaps,
    /// A node miscalculates a chain.
    WrongChain "wrong-chain" => ChainEqual,
    /// A node gives out a body with a flipped bit.
    FlipsBit "flips-bit" => Validity,
    /// A client is told its slot when its command is proposed.
    AcksEarly "acks-early" => AckedDurability,
    /// A client is told the slot before its own.
    AcksWrongSlot "acks-wrong-slot" => AckedDurability,
    /// A client is told the first slot of all.
    AcksFirstSlot "acks-first-slot" => AppendOrder,
    /// A follower calls everything that it has delivered stable.
    ClaimsStable "claims-stable" => PersistBeforeSpeak,
    /// A reader is told that a slot was trimmed that wasn't.
    CallsTrimmed "calls-trimmed" => TrimSafety,
    /// A reader gets the body after the one that it asked for.
    ReadsBeside "reads-beside" => TailReads,
    /// A follower's answer to a heartbeat counts for all that will be sent.
    AnswersAhead "answers-ahead" => LinearizableReads,
    /// A follower takes the beginning of the log for its read point.
    ReadsAtOnce "reads-at-once" => LinearizableReads,
    /// A leader gives its bodies times as of a clock that runs at half speed.
    TurnsBackTime "turns-back-time" => LogTime,
    /// Nobody is ever sent what it missed.
    NeverServes "never-serves" => Liveness,
    /// A leader stops sending heartbeats once all is well.
    FallsSilent "falls-silent" => Stability,
    /// A node panics.
    Panics "panics" => NoPanic,
    /// Chance that isn't drawn from the seed.
    AmbientChance "ambient-chance" => Determinism,
    /// The disk loses a write that it reported as synced.
    LosesWrite "loses-write" => Recovers,
    /// A leader that lost its office tells clients that it refused what it had proposed.
    RefusesProposed "refuses-proposed" => OutcomeHonesty,
    /// A node that restarts knows only the first configuration.
    ForgetsConfiguration "forgets-configuration" => ChosenByQuorum | QuorumIntersection,
    /// A proposer goes on as if alpha were no bound to it.
    OverrunsAlpha "overruns-alpha" => AlphaWindow,
    /// A candidate takes it that everybody has promised whom it asks.
    SkimpsPhaseOne "skimps-phase-one" => QuorumIntersection,
    /// A node starts on whatever directory it finds.
    IgnoresIdentity "ignores-identity" => Identity,
    /// An old copy of a directory is put back, whatever was claimed since, and nobody judges whom it hears.
    RollsBack "rolls-back" => NoAmnesicVote | PersistBeforeSpeak,
    /// What a node has seen of its peers' stores is forgotten when it restarts.
    ForgetsPeers "forgets-peers" => NoAmnesicVote,
    /// A store is let in of which another process in the same boot was met.
    WelcomesTwins "welcomes-twins" => Identity,
    /// A node whose directory was made anew is let in under its name, as if it had its old store.
    WelcomesStrangers "welcomes-strangers" => Identity,
    /// A clone of a node, made when the cluster began, answers with its promises.
    ClonedVoter "cloned-voter" => AcceptedIsReported,
    /// A node goes on after a failed write as if it had succeeded.
    SpeaksAfterFailure "speaks-after-failure" => Fencing,
    /// A failed sync is tried again, and its success believed.
    RetriesSync "retries-sync" => Fencing | PersistBeforeSpeak,
    /// A node whose log is damaged begins with an empty one.
    RebuildsDamaged "rebuilds-damaged" => AcceptedIsReported | NoAmnesicVote,
    /// A node takes damage at the end of its log for an interrupted write, and goes on without what was there.
    CutsDoubtful "cuts-doubtful" => AcceptedIsReported | PersistBeforeSpeak,
    /// A node that can't start blames a file that is sound.
    BlamesAnother "blames-another" => CleanStop,
    /// A node says nothing of what its damaged log may have held.
    HidesDoubts "hides-doubts" => AcceptedIsReported | PersistBeforeSpeak,
    /// A node votes before it knows that it has forgotten no promise.
    SureTooEarly "sure-too-early" => PersistBeforeSpeak,
    /// A node is unsure of its promise after every crash.
    DoubtsCrashes "doubts-crashes" => Recovers,
    /// Part of what an acceptor has accepted is left out of its promise.
    OmitsAccept "omits-accept" => AcceptedIsReported,
    /// A duplicate of a submission in a session counts.
    DeliversTwice "delivers-twice" => ExactlyOnce,
    /// What is appended under a superseded ticket counts.
    HeedsTheDeposed "heeds-the-deposed" => TicketFencing,
    /// A node keeps one session more than the others.
    OtherLimits "other-limits" => DeliveryEqual,
    /// A node says that it has what it installs before that is durable.
    InstallsUnsynced "installs-unsynced" => PersistBeforeSpeak,
    /// A node forgets its promise with the log that it gives up in an install.
    ForgetsOnInstall "forgets-on-install" => PromiseMonotonic,
    /// A node installs the base of another slot.
    InstallsBeside "installs-beside" => SnapshotEqual,
    /// A node installs a base without the delivery state.
    LeavesOutState "leaves-out-state" => DeliveryEqual,
    /// A node of an older build says that it reads what the newer one does.
    SaysItReads "says-it-reads" => Readable,
    /// A node of an older build opens the log of a newer one, and goes on.
    OpensNewer "opens-newer" => Readable,
    /// A message's mark has another chain, as if from a node with another history.
    ForgesChain "forges-chain" => NoHalt,
}

impl fmt::Display for Plant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Plant {
    type Err = String;

    fn from_str(name: &str) -> Result<Plant, String> {
        Plant::ALL.iter().find(|plant| plant.name() == name).copied().ok_or_else(|| {
            let names: Vec<&str> = Plant::ALL.iter().map(|plant| plant.name()).collect();
            format!("no such planted bug; there are {}", names.join(", "))
        })
    }
}

impl Plant {
    /// What faults a plant needs to show.
    pub(crate) fn alter_plan(self, plan: &mut Plan) {
        let pace = plan.protocol.election_timeout;
        match self {
            Plant::RollsBack
            | Plant::IgnoresIdentity
            | Plant::ForgetsPeers
            | Plant::WelcomesTwins
            | Plant::WelcomesStrangers => {
                let always = match self {
                    Plant::IgnoresIdentity => Mistake::Swap,
                    Plant::WelcomesStrangers => Mistake::Replace,
                    _ => Mistake::RollBack,
                };
                plan.faults.operators = OperatorFaults {
                    every: Some(pace * 2..=pace * 6),
                    lasts: pace / 2..=pace * 2,
                    always: Some(always),
                    whole: true,
                };
                if self != Plant::IgnoresIdentity && self != Plant::RollsBack {
                    plan.faults.damage = DiskDamage::none();
                }
                if self == Plant::WelcomesStrangers {
                    plan.faults.membership = MembershipChanges::often(1, pace);
                }
            }
            Plant::ForgetsConfiguration => {
                plan.faults.membership = MembershipChanges::often(3, pace);
                plan.spare_changes();
            }
            Plant::CutsDoubtful => {
                plan.faults.damage.atlas = Atlas::EVERYBODY;
                plan.faults.damage.rot_every = Some(pace / 4..=pace);
            }
            Plant::InstallsUnsynced | Plant::ForgetsOnInstall | Plant::InstallsBeside | Plant::LeavesOutState => {
                plan.workload.trim_past = Chance::of(1, 8);
                if self == Plant::LeavesOutState {
                    plan.logged.delivery =
                        Some(DeliveryLimits { sessions_max: 4, results_max: 4, session_idle_us: u64::MAX });
                }
            }
            Plant::DeliversTwice | Plant::HeedsTheDeposed | Plant::OtherLimits => {
                plan.logged.delivery =
                    Some(DeliveryLimits { sessions_max: 2, results_max: 4, session_idle_us: u64::MAX });
            }
            Plant::SaysItReads | Plant::OpensNewer => {
                plan.faults.upgrades = Upgrades {
                    every: Some(pace / 2..=pace * 2),
                    downgrade: Chance::of(1, 2),
                    by_itself: self == Plant::OpensNewer,
                };
                plan.protocol.raises_format = plan.faults.upgrades.by_itself;
            }
            Plant::SpeaksAfterFailure => plan.faults.damage.write_error = Chance::of(1, 100),
            Plant::RetriesSync => plan.faults.damage.sync_error = Chance::of(1, 20),
            _ => {}
        }
    }

    /// What a node makes of what recovery found.
    pub(crate) fn alter_recovered(self, recovered: &mut Recovered) {
        match self {
            Plant::ForgetsPromise | Plant::ReusesBallots => {
                recovered.promised =
                    recovered.accepted.iter().map(|report| report.ballot).max().unwrap_or(Ballot::ZERO);
            }
            Plant::ForgetsAccepted => recovered.accepted.clear(),
            _ => {}
        }
    }

    /// What a node hears.
    pub(crate) fn alter_received(self, message: &mut Message) {
        if self == Plant::IgnoresPromises
            && let Message::Promise { mark, accepted, parts, part, .. } = &mut *message
        {
            *mark = Mark::START;
            accepted.clear();
            (*part, *parts) = (0, 1);
        }
        match (self, message) {
            (Plant::InstallsBeside, Message::Base { base, .. }) => base.slot = base.slot.plus(1),
            (Plant::LeavesOutState, Message::Base { trim, .. }) => *trim = None,
            (Plant::AnswersAhead, Message::HeartbeatReply { beat, .. }) => *beat = u64::MAX,
            (Plant::ReadsAtOnce, Message::ReadPoint { slot, .. }) => *slot = Slot::FIRST,
            _ => {}
        }
    }

    /// What a node says.
    pub(crate) fn alter_sent(self, message: &mut Message) {
        match (self, message) {
            (Plant::ClaimsStable, Message::HeartbeatReply { mark, stable, .. }) => *stable = mark.slot,
            (Plant::OverrunsAlpha, Message::Accept { mark, .. }) => *mark = Mark::START,
            (Plant::OmitsAccept, Message::Promise { accepted, .. }) => drop(accepted.pop()),
            (Plant::ForgesChain, Message::Heartbeat { mark, .. }) if mark.slot > Slot(50) => mark.chain.0 ^= 1,
            _ => {}
        }
    }

    /// Another identity than the given one.
    pub(crate) fn other_id(id: BodyId) -> BodyId {
        BodyId(id.0 ^ 1)
    }
}
