//! Three ways to have a log: nodes in this process, a client of their ports, and the cluster for tests.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use synod::remote::{Remote, RemoteConfig};
use synod::testing::Cluster;
use synod::{Config, Log, Node, NodeId, Role};

use crate::common::{free_addresses, make_cluster, temporary_directory, wait_for};

const PATIENCE: Duration = Duration::from_secs(30);

/// Something with a log of three members.
pub(crate) trait Bed: Sync {
    /// A handle through which appends succeed now.
    fn log(&self) -> Log;

    /// Ends the leader, in order or not, and starts it again.
    fn restart_leader(&self);
}

impl Bed for Cluster {
    fn log(&self) -> Log {
        Cluster::log(self, self.wait_for_leader())
    }

    fn restart_leader(&self) {
        let leader = self.wait_for_leader();
        self.crash(leader);
        self.wait_for_leader();
        self.restart(leader).expect("it starts again");
    }
}

/// Three nodes with disks and sockets.
pub(crate) struct Nodes {
    _root: tempfile::TempDir,
    configs: Vec<Config>,
    nodes: Mutex<Vec<Option<Node>>>,
}

impl Nodes {
    pub(crate) fn start() -> Nodes {
        Nodes::start_with(|_| {})
    }

    pub(crate) fn start_with(configure: impl Fn(&mut Config)) -> Nodes {
        let root = temporary_directory();
        let directories: Vec<PathBuf> = make_cluster(root.path(), 3, 2 << 20);
        let addresses = free_addresses(6);
        let name = |index: usize| NodeId(index as u32 + 1);
        let configs: Vec<Config> = (0..3)
            .map(|own| {
                let mut config = Config::new(&directories[own], name(own), addresses[own]);
                let others = (0..3).filter(|other| *other != own);
                config.peers = others.clone().map(|other| (name(other), addresses[other])).collect();
                config.client_listen = Some(addresses[3 + own]);
                config.client_peers = others.map(|other| (name(other), addresses[3 + other])).collect();
                config.io_memory_bytes = 16 << 20;
                configure(&mut config);
                config
            })
            .collect();
        let nodes = configs.iter().map(|config| Some(Node::start(config.clone()).expect("it starts"))).collect();
        Nodes { _root: root, configs, nodes: Mutex::new(nodes) }
    }

    fn leader(&self) -> usize {
        wait_for("a leader", PATIENCE, || {
            let nodes = self.nodes.lock().expect("no test has failed");
            let leads = |node: &Option<Node>| node.as_ref().is_some_and(|node| node.status().role == Role::Leader);
            nodes.iter().position(leads)
        })
    }
}

impl Bed for Nodes {
    fn log(&self) -> Log {
        let leader = self.leader();
        self.nodes.lock().expect("no test has failed")[leader].as_ref().expect("it leads").log()
    }

    fn restart_leader(&self) {
        let leader = self.leader();
        let node = self.nodes.lock().expect("no test has failed")[leader].take();
        node.expect("it leads").shutdown().expect("an orderly end");
        self.leader();
        let again = Node::start(self.configs[leader].clone()).expect("it starts again");
        self.nodes.lock().expect("no test has failed")[leader] = Some(again);
    }
}

/// The same through a node that doesn't lead and passes on what it is given.
pub(crate) struct Follower(Nodes);

impl Follower {
    pub(crate) fn start() -> Follower {
        Follower(Nodes::start_with(|config| config.forward_writes = true))
    }

    /// Where the follower of the moment listens for clients.
    pub(crate) fn client_address(&self) -> SocketAddr {
        let follower = (self.0.leader() + 1) % 3;
        self.0.configs[follower].client_listen.expect("it has a client port")
    }
}

impl Bed for Follower {
    fn log(&self) -> Log {
        let leader = self.0.leader();
        let nodes = self.0.nodes.lock().expect("no test has failed");
        let log = nodes[(leader + 1) % 3].as_ref().expect("only leaders are restarted").log();
        let leader = NodeId(leader as u32 + 1);
        log.watch().wait_for_blocking(|status| status.leader == Some(leader)).expect("it runs");
        log
    }

    fn restart_leader(&self) {
        self.0.restart_leader();
    }
}

/// A client of such nodes, which knows only one of them by name.
pub(crate) struct Client {
    nodes: Nodes,
    remote: Remote,
}

impl Client {
    pub(crate) fn start() -> Client {
        let nodes = Nodes::start();
        let servers = nodes.configs.iter().filter_map(|config| config.client_listen).collect();
        let remote = Remote::start(RemoteConfig::new(servers)).expect("it starts");
        Client { nodes, remote }
    }
}

impl Bed for Client {
    fn log(&self) -> Log {
        let log = self.remote.log();
        log.wait_for_leader_blocking(PATIENCE).expect("a leader");
        log
    }

    fn restart_leader(&self) {
        self.nodes.restart_leader();
    }
}
