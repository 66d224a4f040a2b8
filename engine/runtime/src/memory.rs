//! How much memory a node takes at most, as a formula over its configuration.

use synod_protocol::delivery::DeliveryLimits;
use synod_protocol::limits::{ACCEPTED_MAX, BODY_BYTES_MAX};
use synod_wal::LogSettings;

use crate::config::Config;

/// A submission besides its bytes: its batch's columns, its reply, its place in a queue.
const SUBMISSION_BYTES: u64 = 256;

/// What the protocol keeps of a body that is accepted or proposed: identity, ballot, who has it.
const OPEN_BODY_BYTES: u64 = 512;

/// A place in the index: see [`LogSettings::index_bodies_max`].
const INDEX_BODY_BYTES: u64 = 160;

/// A session with all its answers, in memory; twice, since a trim copies the state.
const SESSION_BYTES: u64 = 2 * 1700;

/// Code, stacks, rings, task queues, the recovery of one segment.
const FIXED_BYTES: u64 = 64 << 20;

/// Room for small messages of a peer's connection, and answers gathered for a client's.
const CONNECTION_BYTES: u64 = 256 << 10;

/// The most memory that a node takes, part by part, in bytes; see [`Config::memory_bound`].
///
/// These are bounds and not expectations: a part is full only while somebody is too slow for what comes in. What callers
/// hold isn't in it: the futures of appends that wait in line, and bodies that readers have given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryBound {
    /// Buffers of bodies: `io_memory_bytes` + 2 × (`settings.window_bytes` + `wal_backlog_bytes` + `settings.fetch_bytes` +
    /// 2 × peers × `link_bytes`). Twice, because buffers are powers of two; twice for each peer, because it has two
    /// connections.
    pub bodies: u64,
    /// Submissions that wait or are proposed: 2 × (`intake_bytes` + `settings.window_bytes`) + 256 × (`intake_count` +
    /// alpha).
    pub submissions: u64,
    /// The log's state: 512 × alpha + 160 × 65,536 places of bodies + what 1,024 sessions remember.
    pub state: u64,
    /// Connections from peers: `connections_max` × (256 KiB + 1 MiB).
    pub peers: u64,
    /// Connections from clients, if there is a port for them: 2 × `clients_bytes_max` + `connections_max` × (256 KiB + 2 MiB +
    /// 256 × `client_requests_max`).
    pub clients: u64,
    /// Everything else: 64 MiB.
    pub fixed: u64,
    /// For each [`crate::Reader`] that is used, besides: 4 MiB, bodies that are on their way to it. Not in the total.
    pub each_reader: u64,
}

impl MemoryBound {
    /// All parts together, without readers.
    pub fn total(&self) -> u64 {
        self.bodies + self.submissions + self.state + self.peers + self.clients + self.fixed
    }
}

impl Config {
    /// The most memory that a node with this configuration takes, in a cluster whose alpha is `alpha` (65,536 unless
    /// `bootstrap` was told otherwise).
    ///
    /// ```
    /// use synod::{Config, NodeId};
    ///
    /// let mut config = Config::new("/var/lib/synod", NodeId(1), "127.0.0.1:7001".parse().unwrap());
    /// let before = config.memory_bound(65_536);
    /// config.intake_bytes += 1 << 20;
    /// assert_eq!(config.memory_bound(65_536).total(), before.total() + (2 << 20));
    /// ```
    pub fn memory_bound(&self, alpha: u32) -> MemoryBound {
        self.memory_bound_of(alpha, 1)
    }

    /// As [`Config::memory_bound`], for a node with so many groups: they divide what is configured, each gets what one body
    /// needs at least, and each has a log's state of its own.
    pub fn memory_bound_of(&self, alpha: u32, groups: u32) -> MemoryBound {
        let (share, groups) = (self.share_of(groups), u64::from(groups));
        let record_max = 2 * u64::from(BODY_BYTES_MAX);
        let (peers, connections, alpha) = (self.peers.len() as u64, self.connections_max as u64, u64::from(alpha));
        let windows = share.settings.window_bytes + share.wal_backlog_bytes + u64::from(share.settings.fetch_bytes);
        let client = CONNECTION_BYTES + record_max + SUBMISSION_BYTES * self.client_requests_max as u64;
        MemoryBound {
            bodies: self.io_memory_bytes as u64 + groups * 2 * (windows + 2 * peers * share.link_bytes),
            submissions: groups
                * (2 * (share.intake_bytes + share.settings.window_bytes)
                    + SUBMISSION_BYTES * (share.intake_count as u64 + alpha)),
            state: groups
                * (OPEN_BODY_BYTES * alpha.min(ACCEPTED_MAX as u64)
                    + INDEX_BODY_BYTES * LogSettings::default().index_bodies_max as u64
                    + SESSION_BYTES * u64::from(DeliveryLimits::CLUSTER.sessions_max)),
            peers: connections * (CONNECTION_BYTES + u64::from(BODY_BYTES_MAX)),
            clients: if self.client_listen.is_some() { 2 * self.clients_bytes_max + connections * client } else { 0 },
            fixed: FIXED_BYTES,
            each_reader: 2 * record_max,
        }
    }

    /// What each of so many groups may take of what is configured for the node: an equal part, but never less than the
    /// largest bodies need.
    pub(crate) fn share_of(&self, groups: u32) -> Config {
        let groups = u64::from(groups.max(1));
        let record_max = 2 * u64::from(BODY_BYTES_MAX);
        let part = |whole: u64, least: u64| (whole / groups).max(least.min(whole));
        let mut share = self.clone();
        share.settings.window_bytes = part(self.settings.window_bytes, record_max);
        share.settings.peer_bytes = part(self.settings.peer_bytes, 2 * record_max).max(share.settings.window_bytes);
        share.settings.fetch_bytes = part(self.settings.fetch_bytes.into(), record_max) as u32;
        share.intake_bytes = part(self.intake_bytes, record_max);
        share.intake_count = part(self.intake_count as u64, 1) as usize;
        share.link_bytes = part(self.link_bytes, 2 * record_max);
        share.wal_backlog_bytes = part(self.wal_backlog_bytes, record_max);
        share.io_memory_bytes = part(self.io_memory_bytes as u64, 1) as usize;
        share.scrub_bytes_per_second = part(self.scrub_bytes_per_second, 64 << 10);
        share
    }
}

#[cfg(test)]
mod tests {
    use synod_protocol::NodeId;

    use super::*;

    #[test]
    fn groups_divide_what_is_configured_and_add_their_state() {
        let mut config = Config::new("/nowhere", NodeId(1), "127.0.0.1:0".parse().unwrap());
        config.peers = vec![(NodeId(2), "127.0.0.1:2".parse().unwrap()), (NodeId(3), "127.0.0.1:3".parse().unwrap())];
        let (one, four) = (config.memory_bound(65_536), config.memory_bound_of(65_536, 4));
        assert_eq!(config.memory_bound_of(65_536, 1), one);
        assert_eq!((four.bodies, four.peers, four.clients), (one.bodies, one.peers, one.clients));
        assert_eq!(four.state, 4 * one.state);
        assert_eq!(
            four.submissions,
            one.submissions + 3 * 256 * 65_536,
            "only the slots that may be open are each group's"
        );
        for groups in [1, 2, 3, 7, 64] {
            let share = config.share_of(groups);
            assert_eq!(share.validate(), Ok(()), "{groups} groups");
            let whole = config.memory_bound_of(65_536, groups).submissions;
            assert!(whole >= u64::from(groups) * 2 * share.intake_bytes);
        }
        assert_eq!(config.share_of(64).intake_bytes, 2 << 20, "never less than a body needs");
    }
}
