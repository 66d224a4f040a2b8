//! A node: one process's part in a cluster, from its start to its end.
//!
//! Start goes from what costs nothing to what changes something: configuration, directory lock, host, recovery,
//! listeners, and only then the shards' threads, which take over everything but the lock. The lock is held here, so
//! that the directory stays ours even if a thread has to be left behind with the disk not answering.
//!
//! A node has one group, or several: each with a log of its own, dealt out to the shards in turn. The first shard has the
//! listeners besides; see [`groups`].

mod groups;
mod recovery;
mod retire;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use synod_frame::{BodyBounds, BodyHeader, ConfigurationBody, GroupId};
use synod_protocol::delivery::DeliveryLimits;
use synod_protocol::limits::BODY_SLOTS_MAX;
use synod_protocol::{Ballot, Instant, NodeId, Replica, Slot};
use synod_wal::directory::{self, Expected, OpenDirectory};
use synod_wal::{LogSettings, LoggedReplica, LoggedSettings, RecoveredLog, Wal};
use thiserror::Error;

use crate::admin::{Admin, Groups, View};
use crate::clock::Clock;
use crate::config::{Config, POOL_SPARES};
use crate::error::{AppendError, ShutdownError, StartError, StopReason};
use crate::intake::Intake;
use crate::link::Link;
use crate::log::{Log, Shared};
use crate::machine::exchange::Exchange;
use crate::mailbox::{Mailbox, Request};
use crate::meters::Meters;
use crate::probe::probe;
use crate::remote::{Remote, RemoteConfig};
use crate::seam::buffer::Slab;
use crate::seam::executor::Tasks;
use crate::shard::{Shard, ShardSettings, membership};
use crate::status::{Counters, Damage, Membership, Startup, Status};
use crate::tls::{ClientTls, Tls, TlsError};
use crate::watch::Board;

use groups::{GroupSetup, ShardThread};
pub(crate) use recovery::Facts;
use recovery::recover_log;

/// The group of a node's first log, which is the only one of most: what `bootstrap` writes into genesis, and what clients ask
/// for. Further ones have the numbers that follow.
pub const GROUP: GroupId = GroupId(1);

/// The number of a node's first log.
pub(crate) const LOG: u32 = 0;

/// How long an orderly end waits for the disk.
pub(crate) const DISK_PATIENCE: Duration = Duration::from_secs(10);

/// Part of the buffer slab that may hold bodies after they are written, for resending and for readers at the tail.
const CACHE_SHARE: usize = 2;

/// A running node. Dropping it shuts it down and waits for that.
#[derive(Debug)]
pub struct Node {
    /// The first one first, by their logs.
    groups: Groups,
    listen: SocketAddr,
    client_listen: Option<SocketAddr>,
    view: Arc<View>,
    admin: Option<Admin>,
    threads: Vec<ShardThread>,
    /// The ways to the leaders for appends.
    forwarders: Vec<Remote>,
    /// Unlocks the directory when dropped, after the thread has ended.
    _directory: OpenDirectory,
}

impl Node {
    /// Starts a node and returns when it serves: recovered, listening, its thread running. Whether it leads, or knows
    /// a leader, comes later: see [`Log::wait_for_leader`].
    ///
    /// Recovery reads the log in the calling thread and takes as long as the log is large. Where that is longer than a
    /// second, a `tracing` event at level info says once a second how far it is; [`Startup`] says how long it took.
    ///
    /// # Errors
    /// See [`StartError`]; nothing runs then.
    pub fn start(config: Config) -> Result<Node, StartError> {
        let called_at = std::time::Instant::now();
        config.validate()?;
        let directory = directory::open(&config.directory, &Expected { node: Some(config.node), cluster: None })?;
        let report = probe(&config.directory)?;
        tracing::debug!(%report, "the host is fit");
        let tls = load_tls(&config, &directory)?;
        let groups = directory.identity().logs;
        config.validate_for(groups)?;
        let view = Arc::new(View::new(&config, groups, tls.clone()));
        // Before the log is read back: whoever asks meanwhile is told so.
        let admin = match config.admin_listen {
            Some(address) => {
                let failed = |source| StartError::Listen { address, source };
                Some(Admin::start(bind(address)?.0, Arc::clone(&view)).map_err(failed)?)
            }
            None => None,
        };
        let mut members = Vec::new();
        let mut forwarders = Vec::new();
        for log in 0..groups {
            let (facts, recovered, startup) = recover_log(&directory, log, config.sync, config.settings.format_max)?;
            let (group, genesis) = check_members(&config, &recovered)?;
            if config.forward_writes {
                forwarders.push(start_forwarder(&config, group, tls.as_ref())?);
            }
            let forward = forwarders.last().map(Remote::log);
            members.push(GroupSetup { group, recovered, genesis, facts, startup, forward });
        }
        let (listener, listen) = bind(config.listen)?;
        let (client_listener, client_listen) = match config.client_listen.map(bind).transpose()? {
            Some((listener, address)) => (Some(listener), Some(address)),
            None => (None, None),
        };
        let mut node = Node {
            groups: Vec::new(),
            listen,
            client_listen,
            view,
            admin,
            threads: Vec::new(),
            forwarders,
            _directory: directory,
        };
        // What is running by then ends with the node, should a later shard not start.
        groups::start_shards(config, tls, called_at, members, (listener, client_listener), &mut node)?;
        node.view.is_up(node.groups.clone());
        Ok(node)
    }

    /// The handle of the node's log; where it has several, of the first one.
    pub fn log(&self) -> Log {
        Log::new(Arc::clone(&self.groups[0].1))
    }

    /// The handle of one of the node's logs.
    ///
    /// # Errors
    /// If the node doesn't have that group.
    pub fn log_of(&self, group: GroupId) -> Result<Log, UnknownGroup> {
        let known = self.groups.iter().find(|(known, _)| *known == group);
        let unknown = || UnknownGroup { group, groups: self.groups() };
        known.map(|(_, shared)| Log::new(Arc::clone(shared))).ok_or_else(unknown)
    }

    /// The node's groups, each of which has a log: as many as its directory was made for.
    pub fn groups(&self) -> Vec<GroupId> {
        self.groups.iter().map(|(group, _)| *group).collect()
    }

    /// How the node stands in its group; where it has several, in the first one. [`Log::status`] tells it of each.
    pub fn status(&self) -> Status {
        self.groups[0].1.status()
    }

    /// Why the node serves no more, or one of its groups; none while all do.
    pub fn stopped(&self) -> Option<StopReason> {
        self.groups.iter().find_map(|(_, shared)| shared.status().stopped)
    }

    /// Where peers connect, with the port that was really taken.
    pub fn listen_address(&self) -> SocketAddr {
        self.listen
    }

    /// Where clients connect, with the port that was really taken.
    pub fn client_address(&self) -> Option<SocketAddr> {
        self.client_listen
    }

    /// Where the admin port is, with the port that was really taken.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(Admin::address)
    }

    /// What the admin port tells Prometheus, in the OpenMetrics text format: for an endpoint of the embedder's own.
    pub fn metrics(&self) -> String {
        self.view.metrics()
    }

    /// Reads the files of [`Config::tls`] again. Connections that are made from now on use them, in both directions;
    /// without TLS nothing happens.
    ///
    /// # Errors
    /// If the files can't be used; those that were read before stay in use.
    pub fn reload_certificates(&self) -> Result<(), TlsError> {
        self.view.tls().map_or(Ok(()), Tls::reload)
    }

    /// Whether the node does its work, as `/health` tells it, or what is wrong: it is fenced, or its shard hasn't moved for
    /// ten seconds. Then it has to be started again.
    ///
    /// # Errors
    /// The reason, in words.
    pub fn health(&self) -> Result<(), String> {
        self.view.health()
    }

    /// Ends the node: refuses new work, answers what waits, waits for the disk, and joins the thread. What was
    /// proposed and isn't delivered yet is answered with [`AppendError::Unknown`].
    ///
    /// # Errors
    /// If it didn't end in order; see [`ShutdownError`]. Calling it again does nothing.
    pub fn shutdown(&mut self) -> Result<(), ShutdownError> {
        self.ask_to_stop();
        let threads = std::mem::take(&mut self.threads);
        if !threads.is_empty() {
            self.forwarders.clear();
        }
        // All are waited for, whatever becomes of some.
        let ended: Vec<_> = threads.into_iter().map(ShardThread::join).collect();
        ended.into_iter().collect()
    }
}

impl Node {
    /// [`Node::shutdown`] for those who must not block: the node's end is awaited.
    ///
    /// If the future is dropped the end goes on, and dropping the node waits for it.
    ///
    /// # Errors
    /// As [`Node::shutdown`].
    pub async fn close(&mut self) -> Result<(), ShutdownError> {
        self.ask_to_stop();
        for thread in &mut self.threads {
            thread.ended().await;
        }
        self.shutdown()
    }

    fn ask_to_stop(&self) {
        self.view.is_leaving();
        for (_, shared) in &self.groups {
            shared.intake.close(AppendError::Shutdown);
            shared.mailbox.ask(Request::Stop);
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(error) = self.shutdown() {
            tracing::error!(%error, "a node did not end in order");
        }
    }
}

/// The node doesn't have a group.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("the node has no {group}, only {}: the number of groups was settled by `synod init`", names(groups))]
pub struct UnknownGroup {
    /// What was asked for.
    pub group: GroupId,
    /// Those that there are.
    pub groups: Vec<GroupId>,
}

fn names(groups: &[GroupId]) -> String {
    groups.iter().map(GroupId::to_string).collect::<Vec<_>>().join(", ")
}

/// The way to the other members' client ports.
fn start_forwarder(config: &Config, group: GroupId, tls: Option<&Arc<Tls>>) -> Result<Remote, StartError> {
    let servers = config.client_peers.iter().map(|(_, address)| *address).collect();
    let tls = tls.map(|tls| ClientTls::of_node(Arc::clone(tls)));
    let remote = RemoteConfig { group, tls, retry_within: config.unknown_after, ..RemoteConfig::new(servers) };
    Remote::start(remote).map_err(|error| StartError::Shard(io::Error::other(error)))
}

/// What the log's first configuration says, and whether everybody can be reached whom the newest one names.
fn check_members(config: &Config, recovered: &RecoveredLog) -> Result<(GroupId, ConfigurationBody), StartError> {
    let stored = recovered.configuration.as_ref().ok_or(StartError::Genesis)?;
    let header = BodyHeader::parse(&stored.body).map_err(|_| StartError::Genesis)?;
    let first = membership::decode(stored).ok_or(StartError::Genesis)?;
    let later: Vec<ConfigurationBody> = recovered.configurations.iter().filter_map(membership::decode).collect();
    let newest = later.last().unwrap_or(&first);
    let members: Vec<NodeId> = newest.members.iter().map(|member| member.node).collect();
    let is_configured = |node: NodeId| config.peers.iter().any(|(peer, _)| *peer == node);
    let is_told = |node: NodeId| later.iter().chain([&first]).any(|body| body.address_of(node).is_some());
    let is_missing = |node: &NodeId| *node != config.node && !is_configured(*node) && !is_told(*node);
    let missing: Vec<NodeId> = members.iter().copied().filter(is_missing).collect();
    if !missing.is_empty() {
        return Err(StartError::Members { members, missing });
    }
    for (peer, _) in &config.peers {
        if !newest.nodes().any(|member| member.node == *peer) {
            tracing::warn!(%peer, "a peer is configured that is no member as far as this node knows");
        }
    }
    Ok((header.group, first))
}

/// What a group's part of a shard is made of, besides its configuration.
pub(crate) struct Parts<'a> {
    pub(crate) facts: Facts,
    pub(crate) group: GroupId,
    pub(crate) genesis: &'a ConfigurationBody,
    pub(crate) recovered: RecoveredLog,
    pub(crate) startup: Startup,
    pub(crate) called_at: std::time::Instant,
    pub(crate) links: Vec<Rc<Link>>,
    pub(crate) meters: Arc<Meters>,
    /// The boot's nonce and a seed.
    pub(crate) random: (u64, u64),
    /// Where appends go while another node leads.
    pub(crate) forward: Option<Log>,
    /// See [`ShardSettings::spread`].
    pub(crate) spread: Option<u32>,
}

/// Makes a shard, with its files open, on whichever runtime this is.
pub(crate) async fn assemble(config: &Config, parts: Parts<'_>, tasks: &Rc<Tasks>) -> Result<Rc<Shard>, StartError> {
    let Parts { facts, group, genesis, recovered, startup, called_at, links, meters, random, forward, spread } = parts;
    let (clock, node) = (Clock::start(), config.node);
    let bounds = BodyBounds { commands_max: genesis.alpha.min(BODY_SLOTS_MAX), ..BodyBounds::LARGEST };
    let settings = ShardSettings {
        node,
        group,
        disk: facts.disk.clone(),
        segment_bytes: facts.segment_bytes,
        record_bytes_max: config.body_bytes_max as usize,
        backlog_bytes: config.wal_backlog_bytes,
        unknown_after: config.unknown_after,
        retention: config.retention,
        spread,
        client_peers: config.client_peers.clone(),
        called_at,
    };
    let replica = open_replica(config, &facts, (group, genesis), recovered, random, clock.now());
    let shared = Arc::new(Shared {
        intake: Arc::new(Intake::new(config.intake_bytes, config.intake_count)),
        mailbox: Mailbox::default(),
        board: Board::new(first_status(node, facts.identity.boot_counter, startup, &replica)),
        meters,
        bounds,
        forward,
        exchange: Exchange::default(),
    });
    let shard = Rc::new(Shard::new(settings, clock, Rc::clone(tasks), shared, links, replica));
    shard.open_files(&facts.files).await.map_err(|(path, source)| StartError::Segment { path, source })?;
    Ok(shard)
}

fn open_replica(
    config: &Config,
    facts: &Facts,
    (group, genesis): (GroupId, &ConfigurationBody),
    recovered: RecoveredLog,
    (boot_nonce, seed): (u64, u64),
    now: Instant,
) -> LoggedReplica<Slab> {
    let genesis = genesis.to_configuration(Slot(0)).expect("the members were checked at the start");
    let configurations = recovered.configurations(&genesis).expect("headers were checked at the start");
    let core = Replica::new(
        config.node,
        boot_nonce,
        seed,
        config.settings.clone(),
        configurations,
        recovered.protocol_state(),
        now,
    );
    let log = LogSettings {
        segment_bytes: facts.segment_bytes,
        sync: config.sync,
        pool_free_min: config.pool_free_min,
        pool_spares: POOL_SPARES,
        pool_files_max: config.pool_files_max,
        ..LogSettings::default()
    };
    let wal = Wal::new(facts.identity, log, recovered);
    let settings = LoggedSettings {
        cache_bytes: (config.io_memory_bytes / CACHE_SHARE) as u64,
        backlog_bytes: config.wal_backlog_bytes,
        scrub_bytes_per_second: config.scrub_bytes_per_second,
        delivery: Some(DeliveryLimits::CLUSTER),
    };
    LoggedReplica::new(group, settings, core, wal, Slab, now)
}

fn first_status(node: NodeId, boot: u64, startup: Startup, replica: &LoggedReplica<Slab>) -> Status {
    let status = replica.status();
    Status {
        node,
        role: status.protocol.role,
        leader: None,
        ballot: Ballot::ZERO,
        promised: status.protocol.promised,
        mark: status.protocol.mark,
        base: status.base.slot,
        judged: replica.judged(),
        sessions: 0,
        boot,
        stable: status.protocol.stable,
        open_bodies: 0,
        peers: Vec::new(),
        full: false,
        behind: None,
        held_by: None,
        membership: Membership::of(
            status.protocol.configuration,
            status.protocol.pending,
            status.protocol.retiring,
            status.protocol.removed,
        ),
        wal: status.log,
        startup,
        counters: Counters::default(),
        damage: Damage::default(),
        stopped: None,
    }
}

/// Certificates must name the cluster that the directory belongs to; one that belongs to none can't be served anyway.
fn load_tls(config: &Config, directory: &OpenDirectory) -> Result<Option<Arc<Tls>>, StartError> {
    let Some(files) = &config.tls else { return Ok(None) };
    let cluster = directory.identity().cluster.ok_or(StartError::Genesis)?;
    Ok(Some(Arc::new(Tls::load(files, cluster, config.node)?)))
}

fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen { address, source };
    let listener = TcpListener::bind(address).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}
