//! A node: one process's part in a cluster, from its start to its end.
//!
//! Start goes from what costs nothing to what changes something: configuration, directory lock, host, recovery,
//! listeners, and only then the shard's thread, which takes over everything but the lock. The lock is held here, so
//! that the directory stays ours even if the thread has to be left behind with the disk not answering.

mod recovery;
mod retire;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use futures_channel::oneshot;
use synod_frame::{BodyBounds, BodyHeader, ConfigurationBody, GroupId};
use synod_protocol::delivery::DeliveryLimits;
use synod_protocol::limits::BODY_SLOTS_MAX;
use synod_protocol::{Ballot, Instant, NodeId, Replica, Slot};
use synod_wal::directory::{self, Expected, OpenDirectory};
use synod_wal::{LogSettings, LoggedReplica, LoggedSettings, RecoveredLog, Wal};

use crate::admin::{Admin, View};
use crate::clients::{ClientBounds, serve_clients};
use crate::clock::Clock;
use crate::config::{Config, POOL_SPARES};
use crate::error::{AppendError, ShutdownError, StartError, StopReason};
use crate::intake::Intake;
use crate::link::accept::{Connections, serve_peers};
use crate::link::{Identity, Link};
use crate::log::{Log, Shared};
use crate::mailbox::{Mailbox, Request};
use crate::meters::Meters;
use crate::probe::probe;
use crate::remote::{Remote, RemoteConfig};
use crate::seam::buffer::Slab;
use crate::seam::executor::{self, ExecutorSettings, Tasks, panic_text};
use crate::seam::net::Listener;
use crate::shard::{Reach, Shard, ShardSettings, membership};
use crate::status::{Counters, Damage, Membership, Startup, Status};
use crate::tls::{ClientTls, Door, Tls, TlsError};
use crate::watch::Board;

pub(crate) use recovery::Facts;
use recovery::recover_log;

/// The group of a node's one log: what `bootstrap` writes into genesis, and what clients ask for.
pub const GROUP: GroupId = GroupId(1);

/// The number of a node's one log.
pub(crate) const LOG: u32 = 0;

/// How long an orderly end waits for the disk.
pub(crate) const DISK_PATIENCE: Duration = Duration::from_secs(10);

/// Part of the buffer slab that may hold bodies after they are written, for resending and for readers at the tail.
const CACHE_SHARE: usize = 2;

/// A running node. Dropping it shuts it down and waits for that.
#[derive(Debug)]
pub struct Node {
    shared: Arc<Shared>,
    listen: SocketAddr,
    client_listen: Option<SocketAddr>,
    view: Arc<View>,
    admin: Option<Admin>,
    thread: Option<JoinHandle<Result<(), ShutdownError>>>,
    /// Resolves when the thread is about to end.
    ended: oneshot::Receiver<()>,
    /// The way to the leader for appends.
    forwarder: Option<Remote>,
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
        let view = Arc::new(View::new(&config, tls.clone()));
        // Before the log is read back: whoever asks meanwhile is told so.
        let admin = match config.admin_listen {
            Some(address) => {
                let failed = |source| StartError::Listen { address, source };
                Some(Admin::start(bind(address)?.0, Arc::clone(&view)).map_err(failed)?)
            }
            None => None,
        };
        let (facts, recovered, startup) = recover_log(&directory, config.sync)?;
        let (group, genesis) = check_members(&config, &recovered)?;
        let (listener, listen) = bind(config.listen)?;
        let (client_listener, client_listen) = match config.client_listen.map(bind).transpose()? {
            Some((listener, address)) => (Some(listener), Some(address)),
            None => (None, None),
        };
        let (ready, started) = mpsc::channel();
        let (ending, ended) = oneshot::channel::<()>();
        let forwarder = config.forward_writes.then(|| start_forwarder(&config, tls.as_ref())).transpose()?;
        let forward = forwarder.as_ref().map(Remote::log);
        let setup = Setup {
            config,
            tls,
            recovered,
            group,
            genesis,
            facts,
            startup,
            called_at,
            listener,
            listen,
            client_listener,
            forward,
        };
        let thread = std::thread::Builder::new()
            .name(format!("synod-{}", setup.config.node))
            .spawn(move || {
                // Dropped when the thread is done, also by a panic.
                let _ending = ending;
                run_shard(setup, &ready)
            })
            .map_err(StartError::Shard)?;
        match started.recv() {
            Ok(Ok(shared)) => {
                view.is_up(Arc::clone(&shared));
                let thread = Some(thread);
                Ok(Node { shared, listen, client_listen, view, admin, thread, ended, forwarder, _directory: directory })
            }
            Ok(Err(error)) => Err(error),
            Err(mpsc::RecvError) => {
                let panic = thread.join().err().map_or_else(String::new, |panic| panic_text(panic.as_ref()));
                Err(StartError::Shard(io::Error::other(panic)))
            }
        }
    }

    /// The handle of the node's log.
    pub fn log(&self) -> Log {
        Log::new(Arc::clone(&self.shared))
    }

    /// How the node stands.
    pub fn status(&self) -> Status {
        self.shared.status()
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
        let Some(thread) = self.thread.take() else { return Ok(()) };
        self.forwarder = None;
        match thread.join() {
            Ok(ended) => ended,
            Err(panic) => Err(ShutdownError::Panic(panic_text(panic.as_ref()))),
        }
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
        if self.thread.is_some() {
            // Nothing is ever sent: the sender is dropped, at the latest when the thread has unwound.
            let _ = (&mut self.ended).await;
        }
        self.shutdown()
    }

    fn ask_to_stop(&self) {
        self.view.is_leaving();
        self.shared.intake.close(AppendError::Shutdown);
        self.shared.mailbox.ask(Request::Stop);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(error) = self.shutdown() {
            tracing::error!(%error, "a node did not end in order");
        }
    }
}

/// The way to the other members' client ports.
fn start_forwarder(config: &Config, tls: Option<&Arc<Tls>>) -> Result<Remote, StartError> {
    let servers = config.client_peers.iter().map(|(_, address)| *address).collect();
    let tls = tls.map(|tls| ClientTls::of_node(Arc::clone(tls)));
    let remote = RemoteConfig { tls, retry_within: config.unknown_after, ..RemoteConfig::new(servers) };
    Remote::start(remote).map_err(|error| StartError::Shard(io::Error::other(error)))
}

/// What the shard's thread takes over.
struct Setup {
    config: Config,
    tls: Option<Arc<Tls>>,
    recovered: RecoveredLog,
    group: GroupId,
    genesis: ConfigurationBody,
    facts: Facts,
    startup: Startup,
    called_at: std::time::Instant,
    listener: TcpListener,
    listen: SocketAddr,
    client_listener: Option<TcpListener>,
    forward: Option<Log>,
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

/// Tells the thread that starts the node that the shard serves, or why not.
type Ready = mpsc::Sender<Result<Arc<Shared>, StartError>>;

/// The shard's thread.
fn run_shard(setup: Setup, ready: &Ready) -> Result<(), ShutdownError> {
    let settings = ExecutorSettings {
        name: format!("synod-{}", setup.config.node),
        core: setup.config.pin_to_core,
        io_memory_bytes: setup.config.io_memory_bytes,
    };
    // Kept outside the executor: should its own code panic, those who wait for the shard must still be answered.
    let current: Rc<RefCell<Option<Rc<Shard>>>> = Rc::default();
    let inside = Rc::clone(&current);
    let starting = ready.clone();
    let ran = catch_unwind(AssertUnwindSafe(|| {
        executor::run(&settings, |tasks| async move {
            match start_shard(setup, &tasks).await {
                Ok(shard) => {
                    *inside.borrow_mut() = Some(Rc::clone(&shard));
                    // The one who starts the node waits for this; a node that nobody waits for ends below.
                    let _ = starting.send(Ok(Arc::clone(&shard.shared)));
                    let ended = shard.run_to_end(DISK_PATIENCE).await;
                    inside.borrow_mut().take();
                    ended
                }
                Err(error) => {
                    let ended = tasks.stop(DISK_PATIENCE).await;
                    let _ = starting.send(Err(error));
                    ended
                }
            }
        })
    }));
    match ran {
        Ok(Ok(true)) => Ok(()),
        Ok(Ok(false)) => Err(ShutdownError::Disk { waited_seconds: DISK_PATIENCE.as_secs() }),
        Ok(Err(error)) => {
            let _ = ready.send(Err(StartError::Shard(error)));
            Ok(())
        }
        Err(panic) => {
            let text = panic_text(panic.as_ref());
            if let Some(shard) = current.borrow_mut().take() {
                shard.end_service(StopReason::Bug(text.clone()));
                shard.shared.mailbox.close();
                shard.shared.board.close();
            }
            Err(ShutdownError::Panic(text))
        }
    }
}

async fn start_shard(setup: Setup, tasks: &Rc<Tasks>) -> Result<Rc<Shard>, StartError> {
    let Setup {
        config,
        tls,
        recovered,
        group,
        genesis,
        facts,
        startup,
        called_at,
        listener,
        listen,
        client_listener,
        forward,
    } = setup;
    let node = config.node;
    let meters = Arc::new(Meters::new());
    let links = Vec::new();
    let (identity_facts, random) = (facts.identity, uuid::Uuid::new_v4().as_u64_pair());
    let parts =
        Parts { facts, group, genesis: &genesis, recovered, startup, called_at, links, meters, random, forward };
    let shard = assemble(&config, parts, tasks).await?;
    let identity = Rc::new(Identity::new(
        node,
        identity_facts.incarnation,
        identity_facts.boot_counter,
        random.0,
        (genesis.cluster, genesis.lineage),
        listen.port(),
        config.directory.clone(),
    ));
    shard.start();
    // An address that stands for any of the machine's is none at which others could reach it.
    let own = Some((node, listen)).filter(|(_, address)| !address.ip().is_unspecified());
    shard.tell_addresses(config.peers.iter().copied().chain(own).collect());
    let (identity_of_links, configured) = (Rc::clone(&identity), config.peers.clone());
    shard.reach_out(Reach { identity: identity_of_links, configured, link_bytes: config.link_bytes, tls: tls.clone() });
    let listener = Listener::adopt(listener);
    let connections =
        |door| Connections::new(config.connections_max, Arc::clone(&shard.shared.meters), door, tls.clone());
    let peers = connections(Door::Peers);
    tasks.spawn(serve_peers(Rc::clone(&shard), Rc::clone(&identity), listener, peers));
    if let Some(listener) = client_listener {
        let bounds = ClientBounds {
            requests_max: config.client_requests_max,
            bytes_max: config.client_bytes_max,
            all_bytes_max: config.clients_bytes_max,
        };
        let (log, listener) = (Log::new(Arc::clone(&shard.shared)), Listener::adopt(listener));
        let clients = connections(Door::Clients);
        tasks.spawn(serve_clients(Rc::clone(&shard), identity, log, listener, clients, bounds));
    }
    Ok(shard)
}

/// What a shard is made of, besides its configuration.
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
}

/// Makes a shard, with its files open, on whichever runtime this is.
pub(crate) async fn assemble(config: &Config, parts: Parts<'_>, tasks: &Rc<Tasks>) -> Result<Rc<Shard>, StartError> {
    let Parts { facts, group, genesis, recovered, startup, called_at, links, meters, random, forward } = parts;
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
