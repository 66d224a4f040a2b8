//! A node: one process's part in a cluster, from its start to its end.
//!
//! Start goes from what costs nothing to what changes something: configuration, directory lock, host, recovery,
//! listeners, and only then the shard's thread, which takes over everything but the lock. The lock is held here, so
//! that the directory stays ours even if the thread has to be left behind with the disk not answering.

mod recovery;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use synod_frame::{BodyBounds, BodyHeader, Channel, ConfigurationBody, GroupId};
use synod_protocol::delivery::DeliveryLimits;
use synod_protocol::limits::BODY_SLOTS_MAX;
use synod_protocol::{Ballot, Instant, NodeId, Replica, Slot};
use synod_wal::directory::{self, Expected, OpenDirectory};
use synod_wal::{LogSettings, LoggedReplica, LoggedSettings, RecoveredLog, SyncMode, Wal};

use crate::clients::{ClientBounds, serve_clients};
use crate::clock::Clock;
use crate::config::{Config, POOL_SPARES};
use crate::error::{AppendError, ShutdownError, StartError, StopReason};
use crate::intake::Intake;
use crate::link::accept::{Connections, serve_peers};
use crate::link::{Identity, Link, dial};
use crate::log::{Log, Shared};
use crate::mailbox::{Mailbox, Request};
use crate::probe::probe;
use crate::seam::buffer::Slab;
use crate::seam::disk::Durability;
use crate::seam::executor::{self, ExecutorSettings, Tasks, panic_text};
use crate::seam::net::Listener;
use crate::shard::{Shard, ShardSettings};
use crate::status::{Counters, Damage, Startup, Status};

use recovery::{Facts, recover_log};

/// The group of a node's one log: what `bootstrap` writes into genesis, and what clients ask for.
pub const GROUP: GroupId = GroupId(1);

/// The number of a node's one log.
const LOG: u32 = 0;

/// How long an orderly end waits for the disk.
const DISK_PATIENCE: Duration = Duration::from_secs(10);

/// Part of the buffer slab that may hold bodies after they are written, for resending and for readers at the tail.
const CACHE_SHARE: usize = 2;

/// A running node. Dropping it shuts it down and waits for that.
#[derive(Debug)]
pub struct Node {
    shared: Arc<Shared>,
    listen: SocketAddr,
    client_listen: Option<SocketAddr>,
    thread: Option<JoinHandle<Result<(), ShutdownError>>>,
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
        let (facts, recovered, startup) = recover_log(&directory)?;
        let (group, genesis) = check_members(&config, &recovered)?;
        let (listener, listen) = bind(config.listen)?;
        let (client_listener, client_listen) = match config.client_listen.map(bind).transpose()? {
            Some((listener, address)) => (Some(listener), Some(address)),
            None => (None, None),
        };
        let (ready, started) = mpsc::channel();
        let setup = Setup { config, recovered, group, genesis, facts, startup, called_at, listener, client_listener };
        let thread = std::thread::Builder::new()
            .name(format!("synod-{}", setup.config.node))
            .spawn(move || run_shard(setup, &ready))
            .map_err(StartError::Shard)?;
        match started.recv() {
            Ok(Ok(shared)) => Ok(Node { shared, listen, client_listen, thread: Some(thread), _directory: directory }),
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

    /// Ends the node: refuses new work, answers what waits, waits for the disk, and joins the thread. What was
    /// proposed and isn't delivered yet is answered with [`AppendError::Unknown`].
    ///
    /// # Errors
    /// If it didn't end in order; see [`ShutdownError`]. Calling it again does nothing.
    pub fn shutdown(&mut self) -> Result<(), ShutdownError> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        self.shared.intake.close(AppendError::Shutdown);
        self.shared.mailbox.ask(Request::Stop);
        match thread.join() {
            Ok(ended) => ended,
            Err(panic) => Err(ShutdownError::Panic(panic_text(panic.as_ref()))),
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

/// What the shard's thread takes over.
struct Setup {
    config: Config,
    recovered: RecoveredLog,
    group: GroupId,
    genesis: ConfigurationBody,
    facts: Facts,
    startup: Startup,
    called_at: std::time::Instant,
    listener: TcpListener,
    client_listener: Option<TcpListener>,
}

/// The members that the directory names; the configuration must name the same.
fn check_members(config: &Config, recovered: &RecoveredLog) -> Result<(GroupId, ConfigurationBody), StartError> {
    let stored = recovered.configuration.as_ref().ok_or(StartError::Genesis)?;
    let header = BodyHeader::parse(&stored.body).map_err(|_| StartError::Genesis)?;
    let genesis = ConfigurationBody::decode(&header, &stored.body).map_err(|_| StartError::Genesis)?;
    let mut members: Vec<NodeId> = genesis.members.iter().map(|member| member.node).collect();
    let mut configured: Vec<NodeId> = config.peers.iter().map(|(peer, _)| *peer).collect();
    configured.push(config.node);
    members.sort_unstable();
    configured.sort_unstable();
    if members != configured {
        return Err(StartError::Members { members, configured });
    }
    Ok((header.group, genesis))
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
            }
            Err(ShutdownError::Panic(text))
        }
    }
}

async fn start_shard(setup: Setup, tasks: &Rc<Tasks>) -> Result<Rc<Shard>, StartError> {
    let Setup { config, recovered, group, genesis, facts, startup, called_at, listener, client_listener } = setup;
    let clock = Clock::start();
    let node = config.node;
    let (boot_nonce, seed) = uuid::Uuid::new_v4().as_u64_pair();
    let links: Vec<Rc<Link>> = config
        .peers
        .iter()
        .map(|(peer, address)| Rc::new(Link::new(group, node, *peer, *address, config.link_bytes)))
        .collect();
    let bounds = BodyBounds { commands_max: genesis.alpha.min(BODY_SLOTS_MAX), ..BodyBounds::LARGEST };
    let settings = ShardSettings {
        node,
        group,
        log_directory: facts.log_directory.clone(),
        segment_bytes: facts.segment_bytes,
        durability: match config.sync {
            SyncMode::Dsync => Durability::EachWrite,
            SyncMode::Fdatasync => Durability::BySync,
        },
        record_bytes_max: config.body_bytes_max as usize,
        backlog_bytes: config.wal_backlog_bytes,
        unknown_after: config.unknown_after,
        retention: config.retention,
        called_at,
    };
    let identity = Rc::new(Identity::new(
        node,
        facts.identity.incarnation,
        facts.identity.boot_counter,
        boot_nonce,
        genesis.clone(),
    ));
    let replica = open_replica(&config, &facts, (group, &genesis), recovered, (boot_nonce, seed), clock.now());
    let shared = Arc::new(Shared {
        intake: Arc::new(Intake::new(config.intake_bytes, config.intake_count)),
        mailbox: Mailbox::default(),
        status: Mutex::new(first_status(node, facts.identity.boot_counter, startup, &replica)),
        bounds,
    });
    let shard = Rc::new(Shard::new(settings, clock, Rc::clone(tasks), Arc::clone(&shared), links, replica));
    shard.open_files(&facts.files).await.map_err(|(path, source)| StartError::Segment { path, source })?;
    shard.start();
    for link in &shard.links {
        for channel in [Channel::Control, Channel::Bulk] {
            tasks.spawn(dial(Rc::clone(&shard), Rc::clone(&identity), Rc::clone(link), channel));
        }
    }
    let listener = Listener::adopt(listener);
    let connections = || Connections::new(config.connections_max);
    tasks.spawn(serve_peers(Rc::clone(&shard), Rc::clone(&identity), listener, connections()));
    if let Some(listener) = client_listener {
        let bounds = ClientBounds { requests_max: config.client_requests_max, bytes_max: config.client_bytes_max };
        let listener = Listener::adopt(listener);
        tasks.spawn(serve_clients(Rc::clone(&shard), identity, Log::new(shared), listener, connections(), bounds));
    }
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
        wal: status.log,
        startup,
        counters: Counters::default(),
        damage: Damage::default(),
        stopped: None,
    }
}

fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen { address, source };
    let listener = TcpListener::bind(address).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}
