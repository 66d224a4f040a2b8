//! What a node is told: where it lives, whom it talks to, and its bounds.
//!
//! Two kinds of settings, never mixed: what all nodes of a cluster share (members, quorums, alpha) is written into the
//! directory by `bootstrap` and is no part of this; what one node may choose for itself is here. A bad value is refused
//! with the field's name, never quietly repaired.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use synod_protocol::{NodeId, Settings, SettingsError, limits};
use synod_wal::directory::LOGS_MAX;
use synod_wal::{POOL_FILES_MIN, SyncMode};
use thiserror::Error;

use synod_frame::BLOCK_BYTES;

use crate::tls::TlsFiles;

/// Segment files that a node keeps for its next starts: with two, any number of starts in a row need no new file.
pub(crate) const POOL_SPARES: u32 = 2;

/// What one node is told. [`Config::new`] fills in defaults that suit a local network.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's directory, as made by `synod init` and `synod bootstrap`.
    pub directory: PathBuf,
    /// This node; must be the one that the directory belongs to.
    pub node: NodeId,
    /// Where peers connect. Port zero takes a free one; see [`crate::Node::listen_address`].
    pub listen: SocketAddr,
    /// The other members and where they listen; resolved addresses, because nothing here ever asks a name server.
    pub peers: Vec<(NodeId, SocketAddr)>,
    /// Where clients connect; `None` (default) serves only the embedding process.
    pub client_listen: Option<SocketAddr>,
    /// Where `/health`, `/ready`, `/metrics` and `/limits` are served over HTTP; `None` (default) nowhere.
    pub admin_listen: Option<SocketAddr>,
    /// Where other members listen for clients. Told to whoever asks this node for what only the leader can do; may be
    /// left out, then clients look for the leader among the addresses that they know. Default none.
    pub client_peers: Vec<(NodeId, SocketAddr)>,
    /// While another node leads, pass appends on to it, over its client port ([`Config::client_peers`]), in place of
    /// answering [`crate::AppendError::NotLeader`]. Each is tried for [`Config::unknown_after`], and appended once. Default
    /// no.
    pub forward_writes: bool,
    /// Certificates for TLS, which all listeners and connections to peers then use; only an admin port on a loopback
    /// address stays without. All nodes of a cluster have it or none. Default none.
    pub tls: Option<TlsFiles>,
    /// Allows addresses beyond the loopback interface although without TLS nothing is encrypted or authenticated. Default no.
    pub insecure_plaintext: bool,
    /// The protocol's timing and windows.
    pub settings: Settings,
    /// Whether each write is durable by itself or a group of them is synced. Default [`SyncMode::Dsync`].
    pub sync: SyncMode,
    /// Create a segment file when fewer than this many are free, besides the two that are kept for the next starts.
    /// Default 2.
    pub pool_free_min: u32,
    /// Never have more segment files than this. Default 1024.
    pub pool_files_max: u32,
    /// Largest record of a body that several submissions share, header included, in bytes; a power of two from 4 KiB
    /// to 1 MiB, because the buffer slab rounds up to one. A single larger submission gets a body of its own. Default
    /// 128 KiB.
    pub body_bytes_max: u32,
    /// Bytes of submissions that wait to be proposed, above which an append waits. Default 16 MiB.
    pub intake_bytes: u64,
    /// How many submissions may wait to be proposed. Default 65,536.
    pub intake_count: usize,
    /// Bytes that wait to be sent to one peer over one connection; beyond that, messages are dropped and later sent
    /// again by the protocol. Default 64 MiB.
    pub link_bytes: u64,
    /// Unsynced bytes of the log above which no more bodies are read from peers. Default 64 MiB.
    pub wal_backlog_bytes: u64,
    /// How fast everything stored is read again in the background, to find damage while other replicas have copies; zero
    /// for never.
    pub scrub_bytes_per_second: u64,
    /// Bytes of the slab from which buffers come. Default 64 MiB.
    pub io_memory_bytes: usize,
    /// How long a proposed append may stay unresolved before it is reported as unknown. Default 5 s.
    pub unknown_after: Duration,
    /// Connections to the peer port and to the client port, each. Default 256.
    pub connections_max: usize,
    /// Requests and bytes of one client connection that may be under way. Default 1024 and 8 MiB.
    pub client_requests_max: usize,
    /// See [`Config::client_requests_max`].
    pub client_bytes_max: u64,
    /// Bytes of what all clients together have sent, or are sending, and isn't answered; above it no more is read from them.
    /// Default 64 MiB.
    pub clients_bytes_max: u64,
    /// How much of the log to keep. Default: everything, until somebody trims.
    pub retention: Retention,
    /// Threads that drive the node's groups, at most one for each. Other nodes may have more or fewer, and so may this one at
    /// its next start. Default: as many as there are groups, or cores if there are fewer of those.
    pub shards: Option<u32>,
    /// Where a node has several groups: hand the leadership of each on to the member whose turn it is, so that all members
    /// lead about as many groups, once that member has been well for a while. Give all nodes the same setting. Default yes.
    pub spread_leaders: bool,
    /// Keep the shard's thread on this core, which must be one that the process may use. Worth it only where the core
    /// has nothing else to do, and only with one shard. Default no.
    pub pin_to_core: Option<usize>,
}

/// How much of the log to keep. A node that leads proposes trims accordingly, always of whole segments; give all nodes the
/// same settings, for any of them may lead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Trim while the segments in use are longer than this, in bytes. Nothing is dropped that a member, or a state machine
    /// that is driven there, lacks.
    pub bytes: Option<u64>,
    /// Trim segments in which everything is older than this, by the log's own time. Nothing is dropped that a member lacks.
    pub age: Option<Duration>,
    /// Above this, in bytes, trim also what some members lack, as long as a quorum has it. They are then *behind the
    /// trim*: they go on voting, and their logs will begin where the others' do; a state machine there needs a snapshot
    /// ([`crate::machine::SnapshotOptions`]). A member that is catching up, and gets on with it, is waited for until the log is
    /// half as long again. Without a hard limit a member that is down holds the log, and disks fill up. At least `bytes`.
    pub hard_bytes: Option<u64>,
}

/// Why a configuration can't work.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    /// Node zero names nobody.
    #[error("the node id must not be zero")]
    NodeZero,
    /// A peer has this node's own id.
    #[error("peer {0} is this node itself: name only the other members")]
    PeerIsSelf(NodeId),
    /// A peer is named twice.
    #[error("peer {0} is named twice")]
    PeerTwice(NodeId),
    /// Two peers can't listen at one address.
    #[error("peers {first} and {second} have the same address {address}")]
    PeerAddressTwice {
        /// One of them.
        first: NodeId,
        /// The other.
        second: NodeId,
        /// Their address.
        address: SocketAddr,
    },
    /// A peer's address has no port.
    #[error("peer {0} has port 0: name the port that it listens at")]
    PeerPort(NodeId),
    /// A client address of somebody who is no peer, or a second one.
    #[error("client_peers names {0}, which is not among the peers, or is named twice")]
    ClientPeer(NodeId),
    /// Nobody to forward to.
    #[error("forward_writes needs client_peers: name where the other members listen for clients")]
    ForwardWhere,
    /// An address beyond the loopback interface without the explicit consent.
    #[error(
        "{address} ({field}) is not a loopback address, and without TLS connections are neither encrypted nor authenticated: \
         set tls.authorities, tls.certificate and tls.key, or insecure_plaintext (--insecure-plaintext) where the network \
         is trusted"
    )]
    Plaintext {
        /// The field.
        field: &'static str,
        /// The address.
        address: SocketAddr,
    },
    /// Part of what TLS needs is missing.
    #[error("{0} is not set: TLS needs tls.authorities, tls.certificate and tls.key")]
    TlsPart(&'static str),
    /// Plaintext is asked for and TLS as well.
    #[error("tls and insecure_plaintext contradict each other: with certificates nothing is sent in plaintext")]
    TlsOrPlaintext,
    /// Timing and windows don't fit together.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// A value outside its range.
    #[error("{field} must be {min} to {max}, not {value}")]
    Range {
        /// The field.
        field: &'static str,
        /// The value given.
        value: u64,
        /// Smallest value allowed.
        min: u64,
        /// Largest value allowed.
        max: u64,
    },
    /// A value that must be a power of two.
    #[error("{field} must be a power of two, not {value}")]
    PowerOfTwo {
        /// The field.
        field: &'static str,
        /// The value given.
        value: u64,
    },
    /// A core for several threads.
    #[error("pin_to_core names one core, and there are {shards} shards: leave it out, or set shards to 1")]
    PinnedShards {
        /// How many there would be.
        shards: u32,
    },
    /// A core that this process may not run on.
    #[error("pin_to_core: this process may not run on core {core}, only on {allowed:?}")]
    Core {
        /// The core given.
        core: usize,
        /// The cores that the process may use.
        allowed: Vec<usize>,
    },
}

/// Smallest slab; below that the hot path lives on the heap.
const IO_MEMORY_MIN_BYTES: u64 = 1 << 20;

impl Config {
    /// A node at `directory` that peers reach at `listen`, with defaults for everything else.
    pub fn new(directory: impl Into<PathBuf>, node: NodeId, listen: SocketAddr) -> Config {
        Config {
            directory: directory.into(),
            node,
            listen,
            peers: Vec::new(),
            client_listen: None,
            admin_listen: None,
            client_peers: Vec::new(),
            forward_writes: false,
            tls: None,
            insecure_plaintext: false,
            settings: Settings { news_delay: Duration::from_millis(1), ..Settings::default() },
            sync: SyncMode::Dsync,
            pool_free_min: 2,
            pool_files_max: 1024,
            body_bytes_max: 128 << 10,
            intake_bytes: 16 << 20,
            intake_count: 65_536,
            link_bytes: 64 << 20,
            wal_backlog_bytes: 64 << 20,
            scrub_bytes_per_second: 4 << 20,
            io_memory_bytes: 64 << 20,
            unknown_after: Duration::from_secs(5),
            connections_max: 256,
            client_requests_max: 1024,
            client_bytes_max: 8 << 20,
            clients_bytes_max: 64 << 20,
            retention: Retention::default(),
            shards: None,
            spread_leaders: true,
            pin_to_core: None,
        }
    }

    /// Checks every field, alone and against the others.
    ///
    /// # Errors
    /// The first rule that is broken, with the field's name.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.validate_names()?;
        self.validate_addresses()?;
        self.settings.check()?;
        self.validate_bounds()?;
        if let Some(core) = self.pin_to_core {
            let allowed = crate::probe::allowed_cores();
            if !allowed.contains(&core) {
                return Err(ConfigError::Core { core, allowed });
            }
        }
        Ok(())
    }

    fn validate_names(&self) -> Result<(), ConfigError> {
        if self.node == NodeId(0) {
            return Err(ConfigError::NodeZero);
        }
        for (position, (peer, address)) in self.peers.iter().enumerate() {
            if *peer == NodeId(0) {
                return Err(ConfigError::NodeZero);
            }
            if *peer == self.node {
                return Err(ConfigError::PeerIsSelf(*peer));
            }
            if address.port() == 0 {
                return Err(ConfigError::PeerPort(*peer));
            }
            for (other, other_address) in &self.peers[..position] {
                if other == peer {
                    return Err(ConfigError::PeerTwice(*peer));
                }
                if other_address == address {
                    return Err(ConfigError::PeerAddressTwice { first: *other, second: *peer, address: *address });
                }
            }
        }
        for (position, (peer, address)) in self.client_peers.iter().enumerate() {
            let is_peer = self.peers.iter().any(|(known, _)| known == peer);
            if !is_peer || self.client_peers[..position].iter().any(|(other, _)| other == peer) {
                return Err(ConfigError::ClientPeer(*peer));
            }
            if address.port() == 0 {
                return Err(ConfigError::PeerPort(*peer));
            }
        }
        if self.forward_writes && self.client_peers.is_empty() {
            return Err(ConfigError::ForwardWhere);
        }
        Ok(())
    }

    fn validate_addresses(&self) -> Result<(), ConfigError> {
        if let Some(tls) = &self.tls {
            if self.insecure_plaintext {
                return Err(ConfigError::TlsOrPlaintext);
            }
            let parts =
                [("tls.authorities", &tls.authorities), ("tls.certificate", &tls.certificate), ("tls.key", &tls.key)];
            let missing = parts.into_iter().find(|(_, path)| path.as_os_str().is_empty());
            return missing.map_or(Ok(()), |(field, _)| Err(ConfigError::TlsPart(field)));
        }
        if self.insecure_plaintext {
            return Ok(());
        }
        let own =
            [("listen", Some(self.listen)), ("client_listen", self.client_listen), ("admin_listen", self.admin_listen)];
        let peers = self.peers.iter().map(|(_, address)| ("peers", Some(*address)));
        let clients = self.client_peers.iter().map(|(_, address)| ("client_peers", Some(*address)));
        for (field, address) in own.into_iter().chain(peers).chain(clients) {
            if let Some(address) = address
                && !address.ip().is_loopback()
            {
                return Err(ConfigError::Plaintext { field, address });
            }
        }
        Ok(())
    }

    /// Checks what depends on how many groups the directory was made for.
    ///
    /// # Errors
    /// The first rule that is broken, with the field's name.
    pub(crate) fn validate_for(&self, groups: u32) -> Result<(), ConfigError> {
        let shards = self.shards_for(groups);
        if self.pin_to_core.is_some() && shards > 1 {
            return Err(ConfigError::PinnedShards { shards });
        }
        let (value, min) = (self.connections_max as u64, self.connections_min(groups, shards));
        if value < min {
            return Err(ConfigError::Range { field: "connections_max", value, min, max: 1 << 20 });
        }
        Ok(())
    }

    /// How many threads drive so many groups here.
    pub(crate) fn shards_for(&self, groups: u32) -> u32 {
        let cores = || u32::try_from(crate::probe::allowed_cores().len()).unwrap_or(u32::MAX).max(1);
        self.shards.unwrap_or_else(cores).clamp(1, groups)
    }

    /// Two connections from each peer for each group, on every shard as many as on that with the most groups.
    fn connections_min(&self, groups: u32, shards: u32) -> u64 {
        2 * self.peers.len() as u64 * u64::from(groups.div_ceil(shards)) * u64::from(shards)
    }

    fn validate_bounds(&self) -> Result<(), ConfigError> {
        let record_max = u64::from(limits::BODY_BYTES_MAX);
        let range = |field, value: u64, min: u64, max: u64| {
            if value < min || value > max { Err(ConfigError::Range { field, value, min, max }) } else { Ok(()) }
        };
        range("body_bytes_max", self.body_bytes_max.into(), BLOCK_BYTES as u64, record_max)?;
        if !self.body_bytes_max.is_power_of_two() {
            return Err(ConfigError::PowerOfTwo { field: "body_bytes_max", value: self.body_bytes_max.into() });
        }
        range("intake_bytes", self.intake_bytes, record_max, 1 << 40)?;
        range("intake_count", self.intake_count as u64, 1, 1 << 32)?;
        range("link_bytes", self.link_bytes, self.settings.window_bytes.max(2 * record_max), 1 << 40)?;
        range("wal_backlog_bytes", self.wal_backlog_bytes, 2 * record_max, 1 << 40)?;
        range("io_memory_bytes", self.io_memory_bytes as u64, IO_MEMORY_MIN_BYTES, 1 << 36)?;
        range("unknown_after (milliseconds)", self.unknown_after.as_millis() as u64, 1, 1 << 32)?;
        range("connections_max", self.connections_max as u64, 2 * self.peers.len().max(1) as u64, 1 << 20)?;
        range("client_requests_max", self.client_requests_max as u64, 1, 1 << 20)?;
        range("client_bytes_max", self.client_bytes_max, 2 * record_max, 1 << 40)?;
        range("clients_bytes_max", self.clients_bytes_max, self.client_bytes_max, 1 << 40)?;
        if let (Some(bytes), Some(hard_bytes)) = (self.retention.bytes, self.retention.hard_bytes) {
            range("retention.hard_bytes", hard_bytes, bytes, u64::MAX)?;
        }
        let files_min = POOL_FILES_MIN + POOL_SPARES;
        range("shards", self.shards.unwrap_or(1).into(), 1, LOGS_MAX.into())?;
        range("pool_files_max", self.pool_files_max.into(), files_min.into(), 1 << 20)?;
        range("pool_free_min", self.pool_free_min.into(), 1, (self.pool_files_max - files_min + 1).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        let mut config = Config::new("/nowhere", NodeId(1), "127.0.0.1:0".parse().unwrap());
        config.peers = vec![(NodeId(2), "127.0.0.1:2".parse().unwrap()), (NodeId(3), "[::1]:3".parse().unwrap())];
        config
    }

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(config().validate(), Ok(()));
    }

    #[test]
    fn names_must_be_distinct_and_not_zero() {
        let with_node = |node| Config { node, ..config() };
        assert_eq!(with_node(NodeId(0)).validate(), Err(ConfigError::NodeZero));
        assert_eq!(with_node(NodeId(2)).validate(), Err(ConfigError::PeerIsSelf(NodeId(2))));
        let mut twice = config();
        twice.peers[1].0 = NodeId(2);
        assert_eq!(twice.validate(), Err(ConfigError::PeerTwice(NodeId(2))));
        let mut same_address = config();
        same_address.peers[1].1 = same_address.peers[0].1;
        assert!(matches!(same_address.validate(), Err(ConfigError::PeerAddressTwice { .. })));
        let mut no_port = config();
        no_port.peers[0].1.set_port(0);
        assert_eq!(no_port.validate(), Err(ConfigError::PeerPort(NodeId(2))));
    }

    #[test]
    fn addresses_beyond_loopback_need_consent() {
        let open: SocketAddr = "0.0.0.0:7000".parse().unwrap();
        let mut listen = Config { listen: open, ..config() };
        assert_eq!(listen.validate(), Err(ConfigError::Plaintext { field: "listen", address: open }));
        listen.insecure_plaintext = true;
        assert_eq!(listen.validate(), Ok(()));
        let clients = Config { client_listen: Some(open), ..config() };
        assert_eq!(clients.validate(), Err(ConfigError::Plaintext { field: "client_listen", address: open }));
        let mut peers = config();
        peers.peers[0].1 = "10.0.0.1:7000".parse().unwrap();
        assert!(matches!(peers.validate(), Err(ConfigError::Plaintext { field: "peers", .. })));
    }

    #[test]
    fn tls_is_whole_or_not_at_all() {
        let files = TlsFiles { authorities: "ca".into(), certificate: "cert".into(), key: "key".into() };
        let open: SocketAddr = "0.0.0.0:7000".parse().unwrap();
        let mut whole = Config { listen: open, tls: Some(files.clone()), ..config() };
        assert_eq!(whole.validate(), Ok(()));
        whole.insecure_plaintext = true;
        assert_eq!(whole.validate(), Err(ConfigError::TlsOrPlaintext));
        let part = Config { tls: Some(TlsFiles { key: PathBuf::new(), ..files }), ..config() };
        assert_eq!(part.validate(), Err(ConfigError::TlsPart("tls.key")));
    }

    #[test]
    fn client_ports_belong_to_peers_and_forwarding_needs_them() {
        let client_peers = |node| vec![(NodeId(node), "127.0.0.1:9".parse().unwrap())];
        let stranger = Config { client_peers: client_peers(4), ..config() };
        assert_eq!(stranger.validate(), Err(ConfigError::ClientPeer(NodeId(4))));
        assert_eq!(Config { forward_writes: true, ..config() }.validate(), Err(ConfigError::ForwardWhere));
        let forwarding = Config { forward_writes: true, client_peers: client_peers(3), ..config() };
        assert_eq!(forwarding.validate(), Ok(()));
    }

    #[test]
    fn groups_need_connections_and_shards_of_their_own() {
        let two = Config { connections_max: 8, shards: Some(2), ..config() };
        assert_eq!((two.shards_for(1), two.shards_for(2), two.shards_for(64)), (1, 2, 2));
        assert_eq!(two.validate_for(2), Ok(()), "two peers, two connections each, for two groups");
        let field = "connections_max";
        assert_eq!(two.validate_for(3), Err(ConfigError::Range { field, value: 8, min: 16, max: 1 << 20 }));
        let pinned = Config { pin_to_core: Some(0), ..two };
        assert_eq!(pinned.validate_for(1), Ok(()));
        assert_eq!(pinned.validate_for(2), Err(ConfigError::PinnedShards { shards: 2 }));
        assert!(matches!(Config { shards: Some(0), ..config() }.validate(), Err(ConfigError::Range { .. })));
    }

    #[test]
    fn bounds_name_their_field() {
        let odd = Config { body_bytes_max: 96 << 10, ..config() };
        assert_eq!(odd.validate(), Err(ConfigError::PowerOfTwo { field: "body_bytes_max", value: 96 << 10 }));
        let large = Config { body_bytes_max: 2 << 20, ..config() };
        assert!(matches!(large.validate(), Err(ConfigError::Range { field: "body_bytes_max", .. })));
        let small = Config { intake_bytes: 1, ..config() };
        assert!(matches!(small.validate(), Err(ConfigError::Range { field: "intake_bytes", .. })));
        let link = Config { link_bytes: 1 << 20, ..config() };
        assert!(matches!(link.validate(), Err(ConfigError::Range { field: "link_bytes", .. })));
    }
}
