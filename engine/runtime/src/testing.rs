//! A cluster in one process, for the tests of programs that embed Synod.
//!
//! Its nodes are threads with disks in memory, and messages between them are handed over in memory; neither io_uring nor
//! O_DIRECT is needed, nor a directory or a port. Above that it is the product's own code: the same protocol, the same
//! log with its recovery, the same [`Log`]. What it can't show is how fast a disk is.
//!
//! Faults are switched on and off while it runs. Nothing here is random but for the election timeouts.
//!
//! ```
//! use synod::testing::Cluster;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let cluster = Cluster::start(3)?;
//! let leader = cluster.wait_for_leader();
//! let slot = cluster.log(leader).append_blocking(b"x = 1")?;
//!
//! cluster.crash(leader); // what it had not made durable is lost, and nobody is told
//! let next = cluster.wait_for_leader();
//! assert_ne!(next, leader);
//! assert!(cluster.log(next).barrier_blocking()? > slot, "what was acknowledged is still there");
//!
//! cluster.restart(leader)?;
//! cluster.wait_until_level(); // it has caught up
//! # Ok(())
//! # }
//! ```

mod member;
mod network;

use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_lite::{FutureExt as _, Stream as _};
use synod_protocol::{NodeId, Role};

use crate::config::Config;
use crate::error::StartError;
use crate::log::Log;
use crate::status::Status;

use member::{Member, genesis};
use network::Network;

/// How long the waiting functions wait before they panic: much longer than any election.
const PATIENCE: Duration = Duration::from_secs(60);

/// Segment files that a disk may have: 64 MiB of memory.
const FILES_MAX: u32 = 32;

/// A cluster in this process; see the module. Its nodes end when it is dropped.
pub struct Cluster {
    network: Network,
    nodes: Vec<NodeId>,
    members: Mutex<BTreeMap<NodeId, Member>>,
}

impl Cluster {
    /// Starts a cluster of nodes 1 to `nodes`, one to nine.
    ///
    /// # Errors
    /// If the number isn't one to nine, as [`StartError::Config`].
    pub fn start(nodes: u32) -> Result<Cluster, StartError> {
        Cluster::start_with(nodes, |_| {})
    }

    /// As [`Cluster::start`], with other settings for all nodes. Directory, addresses and the thread's core are ignored.
    /// The timing is quicker than [`Config::new`] has it: a leader is missed after 300 ms.
    ///
    /// # Errors
    /// If the settings contradict themselves.
    pub fn start_with(nodes: u32, mut configure: impl FnMut(&mut Config)) -> Result<Cluster, StartError> {
        let range = crate::ConfigError::Range { field: "nodes", value: nodes.into(), min: 1, max: 9 };
        if !(1..=9).contains(&nodes) {
            return Err(range.into());
        }
        let network = Network::default();
        let names: Vec<NodeId> = (1..=nodes).map(NodeId).collect();
        let genesis = genesis(&names);
        let mut members = BTreeMap::new();
        for node in &names {
            let config = config(*node, &names, &mut configure);
            config.validate()?;
            members.insert(*node, Member::new(config, &genesis, &network));
        }
        for member in members.values_mut() {
            member.start()?;
        }
        Ok(Cluster { network, nodes: names, members: Mutex::new(members) })
    }

    /// All nodes, also those that don't run.
    pub fn nodes(&self) -> &[NodeId] {
        &self.nodes
    }

    /// The handle of a node's log. It is good for one life of the node: after a restart take another one.
    ///
    /// # Panics
    /// If the node doesn't run.
    pub fn log(&self, node: NodeId) -> Log {
        self.find_log(node).unwrap_or_else(|| panic!("{node} doesn't run"))
    }

    /// The node that leads as far as a majority of all nodes knows, and as it knows itself.
    pub fn leader(&self) -> Option<NodeId> {
        let statuses: Vec<Status> = self.nodes.iter().filter_map(|node| Some(self.find_log(*node)?.status())).collect();
        let leading = statuses.iter().filter(|status| status.role == Role::Leader).map(|status| status.node);
        let followed = |leader: &NodeId| statuses.iter().filter(|status| status.leader == Some(*leader)).count();
        leading.into_iter().find(|leader| 2 * followed(leader) > self.nodes.len())
    }

    /// Waits until a majority has a leader, and names it.
    ///
    /// # Panics
    /// If there is none within a minute: then the faults that are switched on leave no majority.
    pub fn wait_for_leader(&self) -> NodeId {
        self.wait_until("a leader", || self.leader())
    }

    /// Waits until all nodes that run have delivered equally much, with nothing under way.
    ///
    /// # Panics
    /// If that isn't so within a minute: then the faults that are switched on keep somebody behind, or somebody appends.
    pub fn wait_until_level(&self) {
        self.wait_until("level logs", || {
            let logs = self.nodes.iter().filter_map(|node| self.find_log(*node));
            let statuses: Vec<Status> = logs.map(|log| log.status()).collect();
            let marks = statuses.iter().map(|status| (status.mark, status.judged));
            let is_quiet = statuses.iter().all(|status| status.open_bodies == 0);
            let is_level = marks.clone().zip(marks.skip(1)).all(|(one, other)| one == other);
            (is_quiet && is_level && self.leader().is_some()).then_some(())
        });
    }

    /// Divides the network: nodes of different sides don't hear each other. Who is on no side is alone.
    pub fn partition(&self, sides: &[&[NodeId]]) {
        self.network.heal();
        for from in &self.nodes {
            for to in &self.nodes {
                let is_together = sides.iter().any(|side| side.contains(from) && side.contains(to));
                if from != to && !is_together {
                    self.network.cut(*from, *to);
                }
            }
        }
    }

    /// Nobody hears this node any more, and it hears nobody.
    pub fn isolate(&self, node: NodeId) {
        for other in self.nodes.iter().filter(|other| **other != node) {
            self.network.cut(node, *other);
            self.network.cut(*other, node);
        }
    }

    /// One direction of one connection is lost.
    pub fn cut(&self, from: NodeId, to: NodeId) {
        self.network.cut(from, to);
    }

    /// Ends all partitions.
    pub fn heal(&self) {
        self.network.heal();
    }

    /// A node's process is gone, as by `kill -9` or a power failure: nobody is told, and its disk forgets what was not
    /// durable. What it had proposed is answered with [`crate::AppendError::Unknown`]. Nothing happens if it doesn't run.
    pub fn crash(&self, node: NodeId) {
        self.with(node, |member| member.stop(true));
    }

    /// Ends a node in order: a leader resigns. Nothing happens if it doesn't run.
    pub fn stop(&self, node: NodeId) {
        self.with(node, |member| member.stop(false));
    }

    /// Starts a node again on what its disk holds. Nothing happens if it runs.
    ///
    /// # Errors
    /// As [`crate::Node::start`], as far as disks in memory know such errors.
    pub fn restart(&self, node: NodeId) -> Result<(), StartError> {
        self.with(node, |member| if member.running.is_some() { Ok(()) } else { member.start() })
    }

    /// From now on each write and sync of a node's disk takes this long; zero ends that.
    pub fn slow_disk(&self, node: NodeId, delay: Duration) {
        self.with(node, |member| member.disk.set_faults(|faults| faults.delay = delay));
    }

    /// From now on, or no longer, a node's disk says that writes are durable which are lost in a crash. No replicated
    /// log keeps its promises on such disks; this shows what becomes of yours.
    pub fn lose_syncs(&self, node: NodeId, loses: bool) {
        self.with(node, |member| member.disk.set_faults(|faults| faults.loses_syncs = loses));
    }

    /// From now on, or no longer, writes and syncs of a node's disk fail: the node fences itself
    /// ([`Status::stopped`]) and stays so until it is stopped, or crashes, and is restarted.
    pub fn fail_disk(&self, node: NodeId, fails: bool) {
        self.with(node, |member| member.disk.set_faults(|faults| faults.fails = fails));
    }

    fn find_log(&self, node: NodeId) -> Option<Log> {
        let members = self.lock();
        let running = members.get(&node)?.running.as_ref()?;
        Some(Log::new(Arc::clone(&running.shared)))
    }

    fn with<R>(&self, node: NodeId, work: impl FnOnce(&mut Member) -> R) -> R {
        let mut members = self.lock();
        work(members.get_mut(&node).unwrap_or_else(|| panic!("{node} is no node of this cluster")))
    }

    /// Looks again whenever the status of a node changes.
    fn wait_until<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let mut watches: Vec<_> =
            self.nodes.iter().filter_map(|node| Some(Box::pin(self.find_log(*node)?.watch()))).collect();
        let looking = poll_fn(|context: &mut Context<'_>| {
            for watch in &mut watches {
                while let Poll::Ready(Some(_)) = watch.as_mut().poll_next(context) {}
            }
            look().map_or(Poll::Pending, |found| Poll::Ready(Some(found)))
        });
        let patience = async {
            async_io::Timer::after(PATIENCE).await;
            None
        };
        async_io::block_on(looking.or(patience)).unwrap_or_else(|| panic!("{what} didn't come about in {PATIENCE:?}"))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Member>> {
        // A panic of a test leaves nothing half done here.
        self.members.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in self.lock().values_mut() {
            member.stop(true);
        }
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("nodes", &self.nodes).finish_non_exhaustive()
    }
}

/// Addresses stand for nodes here; nobody listens at them.
fn config(node: NodeId, nodes: &[NodeId], configure: &mut impl FnMut(&mut Config)) -> Config {
    let address = |node: NodeId| SocketAddr::from(([127, 0, 0, 1], node.0 as u16));
    let mut config = Config::new("memory", node, address(node));
    config.settings.heartbeat_interval = Duration::from_millis(50);
    config.settings.election_timeout = Duration::from_millis(300);
    config.settings.retransmit_interval = Duration::from_millis(100);
    config.io_memory_bytes = 8 << 20;
    config.pool_files_max = FILES_MAX;
    configure(&mut config);
    config.node = node;
    config.listen = address(node);
    config.peers = nodes.iter().filter(|peer| **peer != node).map(|peer| (*peer, address(*peer))).collect();
    config.sync = synod_wal::SyncMode::Dsync;
    config.pin_to_core = None;
    config
}
