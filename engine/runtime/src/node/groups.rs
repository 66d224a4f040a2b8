//! The shards of a node: a thread each, with the groups that were dealt out to it.
//!
//! The group of log `n` goes to shard `n % shards`, so that any number of shards drives any number of groups. The first shard
//! starts last, for it has the listeners: it receives the clients of all groups, whose logs may be asked from any thread, and
//! passes the other shards' peers on to them ([`crate::link::passage`]).

use std::cell::RefCell;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Instant;

use futures_channel::oneshot;
use futures_util::future::join_all;
use synod_frame::{ConfigurationBody, GroupId};
use synod_wal::RecoveredLog;

use super::{DISK_PATIENCE, Facts, Node, Parts, assemble};
use crate::admin::Groups;
use crate::clients::{ClientBounds, Logs, serve_clients};
use crate::config::Config;
use crate::error::{ShutdownError, StartError, StopReason};
use crate::link::Identity;
use crate::link::accept::{Connections, Hall, Seat, serve_arrivals, serve_peers};
use crate::link::passage::{Arrivals, Passages};
use crate::log::Log;
use crate::meters::Meters;
use crate::seam::executor::{self, ExecutorSettings, Tasks, panic_text};
use crate::seam::net::Listener;
use crate::shard::{Reach, Shard};
use crate::status::Startup;
use crate::tls::{Door, Tls};

/// A group's log, read back.
pub(super) struct GroupSetup {
    pub(super) group: GroupId,
    pub(super) recovered: RecoveredLog,
    pub(super) genesis: ConfigurationBody,
    pub(super) facts: Facts,
    pub(super) startup: Startup,
    /// Where appends go while another node leads.
    pub(super) forward: Option<Log>,
}

impl GroupSetup {
    /// As peers name it to each other: the first group has no name, for it may be the only one.
    fn name(&self) -> GroupId {
        if self.facts.identity.log == 0 { GroupId(0) } else { self.group }
    }
}

/// What a shard's thread takes over.
pub(super) struct Setup {
    pub(super) config: Config,
    pub(super) tls: Option<Arc<Tls>>,
    /// How many groups and shards the node has.
    pub(super) of: (u32, u32),
    /// The shard's.
    pub(super) groups: Vec<GroupSetup>,
    pub(super) called_at: Instant,
    pub(super) listen: SocketAddr,
    pub(super) port: Port,
}

/// How connections come to a shard.
pub(super) enum Port {
    /// The first one listens.
    First {
        listener: TcpListener,
        client_listener: Option<TcpListener>,
        passages: Passages,
        /// The groups of the other shards.
        others: Groups,
    },
    /// The others are given theirs.
    Further { number: u32, arrivals: Arrivals },
}

/// A shard's thread.
#[derive(Debug)]
pub(super) struct ShardThread {
    thread: JoinHandle<Result<(), ShutdownError>>,
    /// Resolves when the thread is about to end.
    ended: oneshot::Receiver<()>,
}

impl ShardThread {
    /// Waits until it is about to end.
    pub(super) async fn ended(&mut self) {
        // Nothing is ever sent: the sender is dropped, at the latest when the thread has unwound.
        let _ = (&mut self.ended).await;
    }

    /// Waits for its end.
    pub(super) fn join(self) -> Result<(), ShutdownError> {
        match self.thread.join() {
            Ok(ended) => ended,
            Err(panic) => Err(ShutdownError::Panic(panic_text(panic.as_ref()))),
        }
    }
}

/// Starts all shards of a node, and gives it their threads and groups.
pub(super) fn start_shards(
    config: Config,
    tls: Option<Arc<Tls>>,
    called_at: Instant,
    groups: Vec<GroupSetup>,
    (listener, client_listener): (TcpListener, Option<TcpListener>),
    node: &mut Node,
) -> Result<(), StartError> {
    let count = u32::try_from(groups.len()).expect("a directory names its logs by such numbers");
    let order: Vec<GroupId> = groups.iter().map(|setup| setup.group).collect();
    let of = (count, config.shards_for(count));
    let mut dealt: Vec<Vec<GroupSetup>> = (0..of.1).map(|_| Vec::new()).collect();
    for (place, group) in groups.into_iter().enumerate() {
        dealt[place % of.1 as usize].push(group);
    }
    let mut passages = Passages::default();
    let listen = node.listen;
    let setup = |groups, port| Setup { config: config.clone(), tls: tls.clone(), of, groups, called_at, listen, port };
    let mut dealt = dealt.into_iter();
    let first = dealt.next().expect("there is a shard at least");
    for (number, groups) in (1..).zip(dealt) {
        let arrivals = passages.open(groups.iter().map(GroupSetup::name).collect());
        let started = start_thread(setup(groups, Port::Further { number, arrivals }), node)?;
        node.groups.extend(started);
    }
    let others = node.groups.clone();
    let started = start_thread(setup(first, Port::First { listener, client_listener, passages, others }), node)?;
    node.groups.extend(started);
    node.groups.sort_by_key(|(group, _)| order.iter().position(|known| known == group));
    Ok(())
}

/// Starts a shard's thread, and waits until it serves.
fn start_thread(setup: Setup, node: &mut Node) -> Result<Groups, StartError> {
    let (ready, started) = mpsc::channel();
    let (ending, ended) = oneshot::channel::<()>();
    let thread = std::thread::Builder::new()
        .name(name(&setup))
        .spawn(move || {
            // Dropped when the thread is done, also by a panic.
            let _ending = ending;
            run_shard(setup, &ready)
        })
        .map_err(StartError::Shard)?;
    match started.recv() {
        Ok(Ok(groups)) => {
            node.threads.push(ShardThread { thread, ended });
            Ok(groups)
        }
        Ok(Err(error)) => Err(error),
        Err(mpsc::RecvError) => {
            let panic = thread.join().err().map_or_else(String::new, |panic| panic_text(panic.as_ref()));
            Err(StartError::Shard(io::Error::other(panic)))
        }
    }
}

fn name(setup: &Setup) -> String {
    match setup.port {
        Port::First { .. } => format!("synod-{}", setup.config.node),
        Port::Further { number, .. } => format!("synod-{}-{}", setup.config.node, number + 1),
    }
}

/// Tells the thread that starts the node that the shard serves, or why not.
type Ready = mpsc::Sender<Result<Groups, StartError>>;

/// The shard's thread.
fn run_shard(setup: Setup, ready: &Ready) -> Result<(), ShutdownError> {
    let settings = ExecutorSettings {
        name: name(&setup),
        core: setup.config.pin_to_core,
        io_memory_bytes: setup.config.share_of(setup.of.1).io_memory_bytes,
    };
    // Kept outside the executor: should its own code panic, those who wait for the shard must still be answered.
    let current: Rc<RefCell<Vec<Rc<Shard>>>> = Rc::default();
    let inside = Rc::clone(&current);
    let starting = ready.clone();
    let ran = catch_unwind(AssertUnwindSafe(|| {
        executor::run(&settings, |tasks| async move {
            let mut all_tasks = Vec::new();
            match start_groups(setup, tasks, &mut all_tasks).await {
                Ok(groups) => {
                    *inside.borrow_mut() = groups.iter().map(|(_, shard)| Rc::clone(shard)).collect();
                    // The one who starts the node waits for this; a node that nobody waits for ends below.
                    let shared = groups.iter().map(|(group, shard)| (*group, Arc::clone(&shard.shared)));
                    let _ = starting.send(Ok(shared.collect()));
                    let ended = join_all(groups.iter().map(|(_, shard)| shard.run_to_end(DISK_PATIENCE))).await;
                    inside.borrow_mut().clear();
                    ended.into_iter().all(|ended| ended)
                }
                Err(error) => {
                    let ended = join_all(all_tasks.iter().map(|tasks| tasks.stop(DISK_PATIENCE))).await;
                    let _ = starting.send(Err(error));
                    ended.into_iter().all(|ended| ended)
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
            for shard in current.take() {
                shard.end_service(StopReason::Bug(text.clone()));
                shard.shared.mailbox.close();
                shard.shared.board.close();
            }
            Err(ShutdownError::Panic(text))
        }
    }
}

/// Starts the groups of a shard and what listens for them; `all_tasks` gets the tasks of each.
pub(super) async fn start_groups(
    setup: Setup,
    tasks: Rc<Tasks>,
    all_tasks: &mut Vec<Rc<Tasks>>,
) -> Result<Vec<(GroupId, Rc<Shard>)>, StartError> {
    let Setup { config, tls, of, groups, called_at, listen, port } = setup;
    let mut shards = Vec::new();
    let mut seats = Vec::new();
    for setup in groups {
        let own = if all_tasks.is_empty() { Rc::clone(&tasks) } else { tasks.beside() };
        all_tasks.push(Rc::clone(&own));
        let group = setup.group;
        let seat = start_group(&config, tls.as_ref(), of, setup, (called_at, listen), &own).await?;
        shards.push((group, Rc::clone(&seat.shard)));
        seats.push(seat);
    }
    let hall = Hall::new(seats);
    let (_, first) = shards.first().expect("a shard has a group");
    let meters = &first.shared.meters;
    let connections = |door, max| Connections::new(max, Arc::clone(meters), door, tls.clone());
    // Each shard has room for the connections of its groups' peers, whatever comes to the others.
    let peers = connections(Door::Peers, config.connections_max / of.1 as usize);
    match port {
        Port::Further { arrivals, .. } => tasks.spawn(serve_arrivals(hall, arrivals, peers)),
        Port::First { listener, client_listener, passages, others } => {
            let identity = hall.identity();
            tasks.spawn(serve_peers(hall, Listener::adopt(listener), peers, passages));
            if let Some(listener) = client_listener {
                let bounds = ClientBounds {
                    requests_max: config.client_requests_max,
                    bytes_max: config.client_bytes_max,
                    all_bytes_max: config.clients_bytes_max,
                };
                let own = shards.iter().map(|(group, shard)| (*group, Arc::clone(&shard.shared)));
                let logs = own.chain(others).map(|(group, shared)| (group, Log::new(shared)));
                let (logs, listener) = (Logs::new(logs.collect()), Listener::adopt(listener));
                let clients = connections(Door::Clients, config.connections_max);
                tasks.spawn(serve_clients(Rc::clone(first), identity, logs, listener, clients, bounds));
            }
        }
    }
    Ok(shards)
}

async fn start_group(
    config: &Config,
    tls: Option<&Arc<Tls>>,
    (groups, _): (u32, u32),
    setup: GroupSetup,
    (called_at, listen): (Instant, SocketAddr),
    tasks: &Rc<Tasks>,
) -> Result<Rc<Seat>, StartError> {
    let name = setup.name();
    let GroupSetup { group, recovered, genesis, facts, startup, forward } = setup;
    let (facts_of_log, node) = (facts.identity, config.node);
    let share = config.share_of(groups);
    let meters = Arc::new(Meters::new());
    let random = uuid::Uuid::new_v4().as_u64_pair();
    let spread = (groups > 1 && config.spread_leaders).then_some(facts_of_log.log);
    let (links, genesis_body) = (Vec::new(), &genesis);
    let parts = Parts {
        facts,
        group,
        genesis: genesis_body,
        recovered,
        startup,
        called_at,
        links,
        meters,
        random,
        forward,
        spread,
    };
    let shard = assemble(&share, parts, tasks).await?;
    let identity = Identity::new(
        node,
        facts_of_log.incarnation,
        facts_of_log.boot_counter,
        random.0,
        (genesis.cluster, genesis.lineage),
        listen.port(),
        (config.directory.clone(), facts_of_log.log),
    );
    let identity = Rc::new(identity.of_group(name));
    shard.start();
    // An address that stands for any of the machine's is none at which others could reach it.
    let own = Some((node, listen)).filter(|(_, address)| !address.ip().is_unspecified());
    shard.tell_addresses(config.peers.iter().copied().chain(own).collect());
    shard.reach_out(Reach {
        identity: Rc::clone(&identity),
        configured: config.peers.clone(),
        link_bytes: share.link_bytes,
        tls: tls.cloned(),
    });
    Ok(Seat::new(shard, identity))
}
