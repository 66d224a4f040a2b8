//! Configurations (what a cluster shares) and settings (what a node may choose).

use std::time::Duration;

use thiserror::Error;

use crate::ballot::NodeId;
use crate::slot::Slot;

/// Most members a configuration may have.
pub const MEMBERS_MAX: usize = 9;

/// The format of a log that was never raised: all that a build can read without being told otherwise.
pub const FORMAT_FIRST: u16 = 1;

/// The newest format that this build reads and writes. What the formats are is told in `engine/docs/wal-format.md`; to the
/// protocol they are numbers.
pub const FORMAT_MAX: u16 = 2;

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
    /// Nodes that get the log and have no vote, ascending: members to be, once they have caught up.
    pub learners: Vec<NodeId>,
    /// The members, ascending, that go when the learners become members.
    pub leaving: Vec<NodeId>,
    /// The format of what it rules; never lower than in the configuration before.
    pub format: u16,
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
    /// Learners aren't ascending, or are members, or too many; or somebody leaves who is no member, or for nobody.
    #[error("learners must be ascending, at most {MEMBERS_MAX} and no members, and only members can leave for them")]
    Learners,
    /// No format has this number.
    #[error("formats are numbered from {FORMAT_FIRST}, there is none {0}")]
    Format(u16),
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
        let configuration = Configuration {
            chosen_at: Slot(0),
            members,
            prepare_quorum: majority,
            accept_quorum: majority,
            alpha,
            learners: Vec::new(),
            leaving: Vec::new(),
            format: FORMAT_FIRST,
        };
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
        if self.format < FORMAT_FIRST {
            return Err(ConfigurationError::Format(self.format));
        }
        let ascending =
            |nodes: &[NodeId]| nodes.windows(2).all(|pair| pair[0] < pair[1]) && !nodes.contains(&NodeId(0));
        let learners = self.learners.len() <= MEMBERS_MAX && !self.learners.iter().any(|node| self.is_member(*node));
        let leaving = self.leaving.iter().all(|node| self.is_member(*node))
            && (self.leaving.is_empty() || !self.learners.is_empty());
        if !ascending(&self.learners) || !ascending(&self.leaving) || !learners || !leaving {
            return Err(ConfigurationError::Learners);
        }
        Ok(())
    }

    /// The first slot that it rules.
    pub fn rules_from(&self) -> Slot {
        match self.chosen_at {
            Slot(0) => Slot::FIRST,
            slot => slot.plus(u64::from(self.alpha)),
        }
    }

    /// The same cluster with these members, ascending, and no learners. Majorities stay majorities; other quorums keep
    /// the size of the accept quorum, and the prepare quorum follows.
    #[must_use]
    pub fn with_members(&self, members: Vec<NodeId>) -> Configuration {
        let majority = |count: usize| count as u32 / 2 + 1;
        let (before, count) = (self.members.len(), members.len());
        let had_majorities = (self.prepare_quorum, self.accept_quorum) == (majority(before), majority(before));
        let accept_quorum = if had_majorities { majority(count) } else { self.accept_quorum.min(count as u32) };
        let prepare_quorum = if had_majorities { majority(count) } else { count as u32 + 1 - accept_quorum };
        Configuration {
            members,
            prepare_quorum,
            accept_quorum,
            learners: Vec::new(),
            leaving: Vec::new(),
            ..self.clone()
        }
    }

    /// What becomes of it when its learners become members.
    #[must_use]
    pub fn promoted(&self) -> Configuration {
        let staying = self.members.iter().filter(|node| !self.leaving.contains(node));
        let mut members: Vec<NodeId> = staying.chain(&self.learners).copied().collect();
        members.sort_unstable();
        self.with_members(members)
    }

    /// The members and the learners.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.members.iter().chain(&self.learners).copied()
    }

    /// Whether its quorums are those of `other`.
    pub fn has_voters_of(&self, other: &Configuration) -> bool {
        let voters = |of: &Configuration| (of.prepare_quorum, of.accept_quorum);
        self.members == other.members && voters(self) == voters(other)
    }

    /// How many members may be down while the others still elect and choose.
    pub fn tolerance(&self) -> usize {
        self.members.len().saturating_sub(self.prepare_quorum.max(self.accept_quorum) as usize)
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
///
/// Only those are kept that may still matter: the one before the last that rules, until it is known to have retired,
/// and what comes behind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Configurations {
    /// (first slot ruled, configuration), ascending, never empty. What lies before the first is ruled by it, too: either
    /// it is genesis, or everything before is chosen and held by a quorum of it.
    ruling: Vec<(Slot, Configuration)>,
}

impl Configurations {
    /// Only this one: genesis, or the oldest that a log still needs.
    pub fn new(oldest: Configuration) -> Configurations {
        Configurations { ruling: vec![(oldest.rules_from(), oldest)] }
    }

    /// The configuration that rules `slot`.
    pub fn configuration_at(&self, slot: Slot) -> &Configuration {
        &self.ruling[self.index_at(slot)].1
    }

    fn index_at(&self, slot: Slot) -> usize {
        self.ruling.partition_point(|(first, _)| *first <= slot).saturating_sub(1)
    }

    /// The oldest that is kept.
    pub fn oldest(&self) -> &Configuration {
        &self.ruling[0].1
    }

    /// The last one that was chosen.
    pub fn newest(&self) -> &Configuration {
        &self.ruling[self.ruling.len() - 1].1
    }

    /// Everything that is kept, ascending, the one that rules first in front.
    pub fn iter(&self) -> impl Iterator<Item = &Configuration> {
        self.ruling.iter().map(|(_, configuration)| configuration)
    }

    /// Those that rule `slot` or later ones.
    pub fn active_from(&self, slot: Slot) -> impl Iterator<Item = &Configuration> {
        self.ruling[self.index_at(slot)..].iter().map(|(_, configuration)| configuration)
    }

    /// Where the next configuration behind `slot` begins to rule: no body reaches over that.
    pub fn boundary_after(&self, slot: Slot) -> Option<Slot> {
        self.ruling.get(self.index_at(slot) + 1).map(|(first, _)| *first).filter(|first| *first > slot)
    }

    /// The one that ruled before the one that rules `slot`, if it hasn't retired yet.
    pub fn retiring_at(&self, slot: Slot) -> Option<&Configuration> {
        self.index_at(slot).checked_sub(1).map(|before| &self.ruling[before].1)
    }

    /// Takes a configuration that was chosen at its slot, to succeed the one chosen at `after`; whether it will rule. If
    /// another one was chosen meanwhile, it is void.
    ///
    /// Nobody proposes it before the one before it rules, and what ruled earlier has retired.
    pub fn choose(&mut self, after: Slot, configuration: Configuration) -> bool {
        let newest = self.newest().chosen_at;
        if after != newest || configuration.chosen_at <= newest {
            return false;
        }
        self.retire_before(configuration.chosen_at);
        self.ruling.push((configuration.rules_from(), configuration));
        true
    }

    /// Takes over the oldest configuration of a log that begins above this replica's prefix. Those before it have retired, and
    /// what comes behind it lies in that log.
    pub fn install(&mut self, oldest: Configuration) {
        if oldest.chosen_at > self.newest().chosen_at {
            *self = Configurations::new(oldest);
        } else {
            self.ruling.retain(|(_, configuration)| configuration.chosen_at >= oldest.chosen_at);
        }
    }

    /// Forgets what rules nothing from `slot` on. Whether something was forgotten.
    pub fn retire_before(&mut self, slot: Slot) -> bool {
        let retired = self.index_at(slot);
        self.ruling.drain(..retired);
        retired > 0
    }
}

/// What a node may choose for itself. Every field has a default that suits a local network.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Settings {
    /// How often a leader speaks when it has nothing to say. Default 100 ms.
    pub heartbeat_interval: Duration,
    /// How long a leader that has nothing more to propose waits before it tells of the last choice. The news rides on the
    /// next body if one comes in that time, which costs nothing; a heartbeat costs every node a wake-up. Default zero, which
    /// tells at once.
    pub news_delay: Duration,
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
    /// The newest format that this node reads; a node of an older build has an older one. Default [`FORMAT_MAX`].
    pub format_max: u16,
    /// Whether a leader raises the format of the log by itself, as soon as every node can read a newer one. There is no way
    /// back. Default false: an operator decides when nobody will go back to an older build.
    pub raises_format: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            heartbeat_interval: Duration::from_millis(100),
            news_delay: Duration::ZERO,
            election_timeout: Duration::from_millis(600),
            retransmit_interval: Duration::from_millis(200),
            fetch_delay: Duration::from_millis(30),
            window_bodies: 16,
            window_bytes: 16 << 20,
            peer_bytes: 32 << 20,
            fetch_bytes: 8 << 20,
            format_max: FORMAT_MAX,
            raises_format: false,
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
            ("format_max", self.format_max == 0),
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
