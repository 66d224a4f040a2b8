//! The replicas: directories, identities, nodes, all in this process.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use synod::{Config, Log, Node};
use synod_frame::{ConfigurationBody, Member};
use synod_protocol::{Configuration, NodeId};
use synod_wal::SyncMode;
use synod_wal::directory::{self, Genesis, InitOptions};

use crate::options::{Options, Sync};

/// Segments beyond the retention: those being written, sealed, or on their way back to the pool.
const SPARE_SEGMENTS: u64 = 10;

/// A running cluster.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<(NodeId, Node)>,
    pub(crate) directories: Vec<(NodeId, PathBuf)>,
}

/// Bytes on disk that a run takes.
pub(crate) fn bytes_needed(options: &Options) -> u64 {
    let segments = segments(options);
    (segments.saturating_mul(options.segment)).saturating_mul(u64::from(options.replicas)).saturating_add(64 << 20)
}

fn segments(options: &Options) -> u64 {
    options.retention.div_ceil(options.segment.max(1)) + SPARE_SEGMENTS
}

/// Makes the directories under `root`.
///
/// # Errors
/// If the disk is full or refuses what a log needs.
pub(crate) fn create(root: &Path, options: &Options, progress: &mut dyn FnMut(f64)) -> Result<Vec<(NodeId, PathBuf)>> {
    let mut directories = Vec::new();
    let mut members = Vec::new();
    for number in 1..=options.replicas {
        let node = NodeId(number);
        let path = root.join(format!("node-{number}"));
        let segments = segments(options);
        let init = InitOptions { segment_bytes: options.segment, files: segments as u32, ..InitOptions::default() };
        let whole = segments as f64 * f64::from(options.replicas);
        let before = f64::from(number - 1) * segments as f64;
        let identity = directory::init(&path, node, &init, &mut |done| {
            progress((before + f64::from(done.files_done)) / whole);
        })
        .with_context(|| format!("making {}", path.display()))?;
        members.push(Member { node, incarnation: identity.incarnation });
        directories.push((node, path));
    }
    let majority = options.replicas / 2 + 1;
    let configuration = ConfigurationBody {
        cluster: uuid::Uuid::new_v4().into_bytes(),
        lineage: 1,
        prepare_quorum: majority,
        accept_quorum: majority,
        alpha: Configuration::ALPHA_DEFAULT,
        members,
        ..ConfigurationBody::default()
    };
    let genesis = Genesis { group: synod::GROUP, configuration };
    for (_, path) in &directories {
        directory::bootstrap(path, &genesis).with_context(|| format!("bootstrapping {}", path.display()))?;
    }
    Ok(directories)
}

/// What each node is told.
///
/// # Errors
/// If there are no free ports.
pub(crate) fn configs(directories: &[(NodeId, PathBuf)], options: &Options) -> Result<Vec<Config>> {
    let addresses = free_addresses(directories.len())?;
    let config = |(place, (node, path)): (usize, &(NodeId, PathBuf))| {
        let mut config = Config::new(path, *node, addresses[place]);
        config.peers = directories
            .iter()
            .zip(&addresses)
            .map(|((peer, _), address)| (*peer, *address))
            .filter(|(peer, _)| peer != node)
            .collect();
        config.settings.window_bodies = options.window;
        config.body_bytes_max = u32::try_from(options.body).unwrap_or(u32::MAX);
        config.sync = match options.sync {
            Sync::Fdatasync => SyncMode::Fdatasync,
            Sync::Dsync => SyncMode::Dsync,
        };
        let window_bytes = u64::from(options.window) * options.body;
        config.settings.window_bytes = config.settings.window_bytes.max(window_bytes);
        config.settings.peer_bytes = config.settings.peer_bytes.max(2 * window_bytes);
        config
    };
    Ok(directories.iter().enumerate().map(config).collect())
}

/// Starts a node on each directory.
///
/// # Errors
/// If a node doesn't start: the message says why, and what to do.
pub(crate) fn start(directories: Vec<(NodeId, PathBuf)>, configs: Vec<Config>) -> Result<Cluster> {
    let mut nodes = Vec::new();
    for config in configs {
        let node = config.node;
        nodes.push((node, Node::start(config).with_context(|| format!("starting node {node}"))?));
    }
    Ok(Cluster { nodes, directories })
}

impl Cluster {
    pub(crate) fn logs(&self) -> Vec<(NodeId, Log)> {
        self.nodes.iter().map(|(node, running)| (*node, running.log())).collect()
    }
}

/// Ports that were free a moment ago. All nodes must know all addresses before the first one starts.
fn free_addresses(count: usize) -> Result<Vec<SocketAddr>> {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listeners: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind(any))
        .collect::<Result<_, _>>()
        .context("finding free ports on loopback")?;
    listeners.iter().map(|listener| listener.local_addr().context("asking for a port's number")).collect()
}
