//! Configurations (what a cluster shares) and settings (what a node may choose).

use std::time::Duration;

use thiserror::Error;

use crate::ballot::NodeId;
use crate::slot::Slot;

/// Most members a configuration may have.
pub const MEMBERS_MAX: usize = 9;

/// Smallest and largest alpha a cluster may choose.
pub const ALPHA_RANGE: std::ops::RangeInclusive<u32> = 2..=1 << 20;

/// The set of members that rules a range of slots, with its quorum sizes; chosen through the log, except genesis.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Configuration {
    /// The slot at which it was chosen; zero for genesis.
    pub chosen_at: Slot,
    /// The voting members, ascending.
    pub members: Vec<NodeId>,
    /// How many promises phase 1 needs.
    pub prepare_quorum: u32,
    /// How many accepts choose a body. Any prepare quorum meets any accept quorum (Flexible Paxos).
    pub accept_quorum: u32,
    /// How far proposals may run ahead of the proposer's chosen prefix, in slots; the same in every configuration.
    pub alpha: u32,
}

/// Why a configuration can't rule.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ConfigurationError {
    /// No members at all, or more than [`MEMBERS_MAX`].
    #[error("a configuration has 1 to {MEMBERS_MAX} members, this one has {0}")]
    MemberCount(usize),
    /// Members aren't ascending, or one is named twice, or one is node zero.
    #[error("members must be ascending, distinct and not zero")]
    MemberOrder,
    /// The quorums could miss each other, or exceed the members.
    #[error("prepare quorum {prepare} and accept quorum {accept} of {members} members don't always intersect")]
    Quorums {
        /// Prepare quorum as given.
        prepare: u32,
        /// Accept quorum as given.
        accept: u32,
        /// Number of members.
        members: usize,
    },
    /// Alpha outside [`ALPHA_RANGE`].
    #[error("alpha must be {min} to {max}, not {0}", min = ALPHA_RANGE.start(), max = ALPHA_RANGE.end())]
    Alpha(u32),
}

impl Configuration {
    /// Default distance that proposals may run ahead of the chosen prefix, in slots.
    pub const ALPHA_DEFAULT: u32 = 65_536;

    /// The first configuration of a cluster, with majority quorums.
    ///
    /// # Errors
    /// If the members or alpha are out of bounds.
    pub fn genesis(mut members: Vec<NodeId>, alpha: u32) -> Result<Configuration, ConfigurationError> {
        members.sort_unstable();
        let majority = members.len() as u32 / 2 + 1;
        let configuration =
            Configuration { chosen_at: Slot(0), members, prepare_quorum: majority, accept_quorum: majority, alpha };
        configuration.check()?;
        Ok(configuration)
    }

    /// Checks what every ruling configuration must satisfy.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check(&self) -> Result<(), ConfigurationError> {
        let count = self.members.len();
        if count == 0 || count > MEMBERS_MAX {
            return Err(ConfigurationError::MemberCount(count));
        }
        if self.members[0] == NodeId(0) || self.members.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err(ConfigurationError::MemberOrder);
        }
        let (prepare, accept) = (self.prepare_quorum, self.accept_quorum);
        let within = |quorum: u32| quorum >= 1 && quorum as usize <= count;
        if !within(prepare) || !within(accept) || (prepare + accept) as usize <= count {
            return Err(ConfigurationError::Quorums { prepare, accept, members: count });
        }
        if !ALPHA_RANGE.contains(&self.alpha) {
            return Err(ConfigurationError::Alpha(self.alpha));
        }
        Ok(())
    }

    /// Whether `node` may vote.
    pub fn is_member(&self, node: NodeId) -> bool {
        self.members.binary_search(&node).is_ok()
    }

    /// Whether `votes` holds enough members for phase 1.
    pub fn is_prepare_quorum(&self, votes: &[NodeId]) -> bool {
        self.count(votes) >= self.prepare_quorum as usize
    }

    /// Whether `votes` holds enough members for phase 2.
    pub fn is_accept_quorum(&self, votes: &[NodeId]) -> bool {
        self.count(votes) >= self.accept_quorum as usize
    }

    fn count(&self, votes: &[NodeId]) -> usize {
        self.members.iter().filter(|member| votes.contains(member)).count()
    }
}

/// Which configuration rules which slot: the one chosen at slot i rules from i + alpha on (*Paxos Made Simple* §3).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Configurations {
    /// (first slot ruled, configuration), ascending; the first rules from [`Slot::FIRST`].
    ruling: Vec<(Slot, Configuration)>,
}

impl Configurations {
    /// Only genesis, which rules every slot.
    pub fn new(genesis: Configuration) -> Configurations {
        Configurations { ruling: vec![(Slot::FIRST, genesis)] }
    }

    /// The configuration that rules `slot`.
    pub fn configuration_at(&self, slot: Slot) -> &Configuration {
        let after = self.ruling.partition_point(|(first, _)| *first <= slot);
        &self.ruling[after.saturating_sub(1)].1
    }
}

/// What a node may choose for itself. Every field has a default that suits a local network.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Settings {
    /// How often a leader speaks when it has nothing to say. Default 100 ms.
    pub heartbeat_interval: Duration,
    /// How long a follower waits at least for its leader; each wait is drawn from this to twice this. Default 600 ms.
    pub election_timeout: Duration,
    /// How long an unanswered message waits before it is sent again. Default 200 ms.
    pub retransmit_interval: Duration,
    /// How long a follower that knows of chosen slots waits for their bodies before it fetches them. Default 30 ms.
    pub fetch_delay: Duration,
    /// Bodies that a leader keeps proposed and not yet chosen. Default 16.
    pub window_bodies: u32,
    /// Bytes of bodies that a leader keeps proposed and not yet chosen. Default 16 MiB.
    pub window_bytes: u64,
    /// Bytes sent to one follower and not yet acknowledged, above which it gets no more until it catches up.
    /// Default 32 MiB.
    pub peer_bytes: u64,
    /// Bytes of chosen bodies asked for in one fetch. Default 8 MiB.
    pub fetch_bytes: u32,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            heartbeat_interval: Duration::from_millis(100),
            election_timeout: Duration::from_millis(600),
            retransmit_interval: Duration::from_millis(200),
            fetch_delay: Duration::from_millis(30),
            window_bodies: 16,
            window_bytes: 16 << 20,
            peer_bytes: 32 << 20,
            fetch_bytes: 8 << 20,
        }
    }
}

/// Why settings don't fit together.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SettingsError {
    /// Heartbeats too rare for the election timeout.
    #[error("election_timeout ({election:?}) must be at least three times heartbeat_interval ({heartbeat:?})")]
    Election {
        /// Election timeout as given.
        election: Duration,
        /// Heartbeat interval as given.
        heartbeat: Duration,
    },
    /// A value that must not be zero.
    #[error("{0} must not be zero")]
    Zero(&'static str),
    /// A follower could never hold a whole window.
    #[error("peer_bytes ({peer}) must be at least window_bytes ({window})")]
    PeerBytes {
        /// Peer budget as given.
        peer: u64,
        /// Window as given.
        window: u64,
    },
}

impl Settings {
    /// Checks the settings against each other.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check(&self) -> Result<(), SettingsError> {
        for (name, zero) in [
            ("heartbeat_interval", self.heartbeat_interval.is_zero()),
            ("retransmit_interval", self.retransmit_interval.is_zero()),
            ("fetch_delay", self.fetch_delay.is_zero()),
            ("window_bodies", self.window_bodies == 0),
            ("window_bytes", self.window_bytes == 0),
            ("fetch_bytes", self.fetch_bytes == 0),
        ] {
            if zero {
                return Err(SettingsError::Zero(name));
            }
        }
        if self.election_timeout < self.heartbeat_interval.saturating_mul(3) {
            return Err(SettingsError::Election {
                election: self.election_timeout,
                heartbeat: self.heartbeat_interval,
            });
        }
        if self.peer_bytes < self.window_bytes {
            return Err(SettingsError::PeerBytes { peer: self.peer_bytes, window: self.window_bytes });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
