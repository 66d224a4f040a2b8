//! The replicas: directories, identities, nodes, in this process or each in its own.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use synod::client::{Client, ClientError};
use synod::{GroupId, Log, Node, ReadItem, Role, SharedBody};
use synod_frame::{ConfigurationBody, Member as Founder};
use synod_protocol::{Configuration, Mark, NodeId, Slot};
use synod_wal::directory::{self, Genesis, InitOptions};

use crate::links::Links;
use crate::options::ClusterOptions;
use crate::replica::{Plan, Replica, State};

/// Segments beyond the retention: those being written, sealed, or on their way back to the pool.
const SPARE_SEGMENTS: u64 = 10;

/// How long replicas may take to hold the same when the load has ended.
const QUIESCE: Duration = Duration::from_secs(30);

/// How long the first leader may take.
const ELECTION: Duration = Duration::from_secs(30);

/// How long a connection to a replica in another process may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// A running cluster.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Running>,
    pub(crate) directories: Vec<(NodeId, PathBuf)>,
}

/// A running replica.
pub(crate) enum Running {
    Here(NodeId, Box<Node>),
    Away(Arc<Replica>),
}

/// A handle of a replica, wherever it runs.
#[derive(Clone, Debug)]
pub(crate) enum Member {
    Here(NodeId, Log),
    Away(Arc<Replica>),
}

impl Member {
    pub(crate) fn node(&self) -> NodeId {
        match self {
            Member::Here(node, _) => *node,
            Member::Away(replica) => replica.node,
        }
    }

    /// How it stands; none while it is dead or paused.
    pub(crate) fn state(&self) -> Option<State> {
        match self {
            Member::Here(_, log) => Some(State::of(log)),
            Member::Away(replica) => replica.state(),
        }
    }

    /// Segments begun; none where asking takes too long.
    pub(crate) fn rotations(&self) -> Option<u64> {
        match self {
            Member::Here(_, log) => Some(log.status().wal.rotations),
            Member::Away(_) => None,
        }
    }

    /// The prefix that ends at `slot`; none if no body ends there.
    pub(crate) fn mark_at(&self, slot: Slot) -> Option<Mark> {
        match self {
            Member::Here(_, log) => log.mark_at_blocking(slot),
            Member::Away(replica) => replica.mark_at(slot),
        }
    }

    /// Agrees to drop what lies below; none if it was refused.
    pub(crate) fn trim(&self, upto: Slot) -> Option<Slot> {
        match self {
            Member::Here(_, log) => log.trim_blocking(upto).ok(),
            Member::Away(replica) => replica.trim(upto),
        }
    }

    /// The body at a slot, as a reader gets it; none if the replica doesn't answer.
    ///
    /// # Errors
    /// If it is gone, or can't be read.
    pub(crate) fn body_at(&self, slot: Slot) -> Result<Option<SharedBody>> {
        match self {
            Member::Here(_, log) => match log.reader(slot).next_blocking()? {
                ReadItem::Body(body) => Ok(Some(body)),
                ReadItem::Trimmed { .. } => bail!("slot {slot} is gone"),
            },
            Member::Away(replica) => {
                let address = replica.client_address().context("a replica without a client port")?;
                match Client::connect_within(address, PATIENCE).and_then(|mut client| client.read_from(slot, 1)) {
                    Ok(mut read) if !read.bodies.is_empty() => Ok(Some(read.bodies.swap_remove(0))),
                    Ok(_) => bail!("slot {slot} isn't there"),
                    Err(ClientError::Io(_)) => Ok(None),
                    Err(error) => Err(error.into()),
                }
            }
        }
    }
}

/// Bytes on disk that a run takes.
pub(crate) fn bytes_needed(options: &ClusterOptions, retention: u64) -> u64 {
    let segments = segments(options, retention);
    let logs = u64::from(options.replicas) * u64::from(options.groups);
    (segments.saturating_mul(options.segment)).saturating_mul(logs).saturating_add(64 << 20)
}

fn segments(options: &ClusterOptions, retention: u64) -> u64 {
    // The groups share what is kept.
    (retention / u64::from(options.groups)).div_ceil(options.segment.max(1)) + SPARE_SEGMENTS
}

/// Makes the directories under `root`.
///
/// # Errors
/// If the disk is full or refuses what a log needs.
pub(crate) fn create(
    root: &Path,
    options: &ClusterOptions,
    retention: u64,
    progress: &mut dyn FnMut(f64),
) -> Result<Vec<(NodeId, PathBuf)>> {
    let mut directories = Vec::new();
    let mut members = Vec::new();
    for number in 1..=options.replicas {
        let node = NodeId(number);
        let path = root.join(format!("node-{number}"));
        let segments = segments(options, retention);
        let logs = options.groups;
        let init =
            InitOptions { segment_bytes: options.segment, files: segments as u32, logs, ..InitOptions::default() };
        let files = segments as f64 * f64::from(options.groups);
        let whole = files * f64::from(options.replicas);
        let before = f64::from(number - 1) * files;
        let identity = directory::init(&path, node, &init, &mut |done| {
            progress((before + f64::from(done.files_done)) / whole);
        })
        .with_context(|| format!("making {}", path.display()))?;
        members.push(Founder { node, incarnation: identity.incarnation });
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

/// What each node is told; `client_requests` is how many a connection may have under way, if there is a client port.
///
/// # Errors
/// If there are no free ports.
pub(crate) fn plans(
    directories: &[(NodeId, PathBuf)],
    options: &ClusterOptions,
    client_requests: Option<usize>,
) -> Result<Vec<Plan>> {
    let addresses = free_addresses(directories.len())?;
    let plan = |(place, (node, path)): (usize, &(NodeId, PathBuf))| Plan {
        directory: path.clone(),
        node: node.0,
        listen: addresses[place],
        peers: directories
            .iter()
            .zip(&addresses)
            .map(|((peer, _), address)| (peer.0, *address))
            .filter(|(peer, _)| *peer != node.0)
            .collect(),
        client_listen: client_requests.map(|_| SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
        shards: options.shards,
        window_bodies: options.window,
        body_bytes: options.body,
        sync: options.sync,
        client_requests: client_requests.unwrap_or(0),
    };
    Ok(directories.iter().enumerate().map(plan).collect())
}

/// Starts a node on each directory, in this process or each in its own.
///
/// # Errors
/// If a node doesn't start: the message says why, and what to do.
pub(crate) fn start(directories: Vec<(NodeId, PathBuf)>, plans: &[Plan], processes: bool) -> Result<Cluster> {
    launch(directories, plans, processes, None)
}

/// The same in processes of their own, with switches between them.
///
/// # Errors
/// As [`start`]; or if there are no free ports.
pub(crate) fn start_with_switches(directories: Vec<(NodeId, PathBuf)>, mut plans: Vec<Plan>) -> Result<Cluster> {
    let links = Links::lay(&mut plans)?;
    launch(directories, &plans, true, Some(Arc::new(links)))
}

fn launch(
    directories: Vec<(NodeId, PathBuf)>,
    plans: &[Plan],
    processes: bool,
    links: Option<Arc<Links>>,
) -> Result<Cluster> {
    let mut nodes = Vec::new();
    for plan in plans {
        let node = NodeId(plan.node);
        nodes.push(if processes {
            Running::Away(Arc::new(Replica::start(plan.clone(), links.clone())?))
        } else {
            let started = Node::start(plan.config()).with_context(|| format!("starting node {node}"))?;
            Running::Here(node, Box::new(started))
        });
    }
    Ok(Cluster { nodes, directories })
}

impl Cluster {
    pub(crate) fn members(&self) -> Vec<Member> {
        let member = |running: &Running| match running {
            Running::Here(node, running) => Member::Here(*node, running.log()),
            Running::Away(replica) => Member::Away(Arc::clone(replica)),
        };
        self.nodes.iter().map(member).collect()
    }

    /// The handles of one group, of which replicas in processes of their own have only the first.
    pub(crate) fn members_of(&self, group: GroupId) -> Result<Vec<Member>> {
        if group == synod::GROUP {
            return Ok(self.members());
        }
        Ok(self.logs_of(group)?.into_iter().map(|(node, log)| Member::Here(node, log)).collect())
    }

    /// As [`Cluster::logs`], of one group.
    pub(crate) fn logs_of(&self, group: GroupId) -> Result<Vec<(NodeId, Log)>> {
        let log = |running: &Running| match running {
            Running::Here(node, running) => Some(running.log_of(group).map(|log| (*node, log))),
            Running::Away(_) => None,
        };
        Ok(self.nodes.iter().filter_map(log).collect::<Result<_, _>>()?)
    }

    /// Has each group led by another replica, in turn, as the replicas do by themselves after a while.
    ///
    /// # Errors
    /// If that doesn't come about.
    pub(crate) fn spread_leaders(&self, groups: u32) -> Result<()> {
        let begun = Instant::now();
        for number in 0..groups {
            let logs = self.logs_of(GroupId(synod::GROUP.0 + number))?;
            let (turn, _) = &logs[number as usize % logs.len()];
            while logs.iter().find(|(_, log)| log.status().role == Role::Leader).map(|(node, _)| node) != Some(turn) {
                if begun.elapsed() > ELECTION {
                    bail!("the groups aren't led by the replicas in turn within {ELECTION:?}");
                }
                if let Some((_, leader)) = logs.iter().find(|(_, log)| log.status().role == Role::Leader) {
                    // Refused, it is tried again: the other may not have heard of it all yet.
                    let _ = leader.transfer_leadership_blocking(*turn);
                }
                thread::sleep(Duration::from_millis(5));
            }
        }
        Ok(())
    }

    /// The logs of the replicas in this process.
    pub(crate) fn logs(&self) -> Vec<(NodeId, Log)> {
        let log = |running: &Running| match running {
            Running::Here(node, running) => Some((*node, running.log())),
            Running::Away(_) => None,
        };
        self.nodes.iter().filter_map(log).collect()
    }

    /// The replicas in processes of their own.
    pub(crate) fn replicas(&self) -> Vec<Arc<Replica>> {
        let away = |running: &Running| match running {
            Running::Here(..) => None,
            Running::Away(replica) => Some(Arc::clone(replica)),
        };
        self.nodes.iter().filter_map(away).collect()
    }

    /// Where clients connect.
    pub(crate) fn client_addresses(&self) -> Vec<(u32, SocketAddr)> {
        let address = |running: &Running| match running {
            Running::Here(node, running) => Some((node.0, running.client_address()?)),
            Running::Away(replica) => Some((replica.node.0, replica.client_address()?)),
        };
        self.nodes.iter().filter_map(address).collect()
    }

    /// Waits for the first leader.
    ///
    /// # Errors
    /// If there is none for long.
    pub(crate) fn wait_for_leader(&self) -> Result<()> {
        let members = self.members();
        let begun = Instant::now();
        while !members.iter().filter_map(Member::state).any(|state| state.leads) {
            if begun.elapsed() > ELECTION {
                bail!("no leader within {ELECTION:?}");
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Ends all nodes in order.
    ///
    /// # Errors
    /// If one doesn't.
    pub(crate) fn stop(self) -> Result<Vec<(NodeId, PathBuf)>> {
        for running in self.nodes {
            match running {
                Running::Here(node, mut running) => {
                    running.shutdown().with_context(|| format!("stopping node {node}"))?;
                }
                Running::Away(replica) => replica.stop()?,
            }
        }
        Ok(self.directories)
    }
}

/// Waits until all replicas have delivered the same and have it durably.
///
/// # Errors
/// If they don't come to that.
pub(crate) fn quiesce(members: &[Member]) -> Result<()> {
    let begun = Instant::now();
    loop {
        let states: Vec<Option<State>> = members.iter().map(Member::state).collect();
        let first = states.iter().flatten().next().map(State::mark);
        let settled = |state: &Option<State>| {
            state.as_ref().is_some_and(|state| {
                let mark = state.mark();
                let is_durable = state.stable == mark.slot.0 && state.unsynced_bytes == 0;
                Some(mark) == first && is_durable
            })
        };
        if states.iter().all(settled) {
            // Long enough for each log to note its durable position, as it does when it falls idle.
            thread::sleep(Duration::from_millis(300));
            return Ok(());
        }
        if begun.elapsed() > QUIESCE {
            let told = |(member, state): (&Member, &Option<State>)| match state {
                Some(State { stopped: Some(reason), .. }) => format!("{} has stopped: {reason}", member.node()),
                Some(state) => format!("{} at {} ({})", member.node(), state.mark().slot, state.mark().chain),
                None => format!("{} doesn't answer", member.node()),
            };
            let told: Vec<String> = members.iter().zip(&states).map(told).collect();
            bail!("the replicas don't come to hold the same within {QUIESCE:?}: {}", told.join(", "));
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Ports that were free a moment ago. All nodes must know all addresses before the first one starts. They lie below those that
/// the kernel gives to whoever asks for any, so that no connection takes one in between.
///
/// # Errors
/// If there are none.
pub(crate) fn free_addresses(count: usize) -> Result<Vec<SocketAddr>> {
    const PORTS: std::ops::Range<u16> = 10_000..32_000;
    let first = uuid::Uuid::new_v4().as_u128() as u16;
    // All are held until the last is found, so that none comes twice.
    let mut held: Vec<(SocketAddr, TcpListener)> = Vec::new();
    for step in 0..PORTS.len() {
        if held.len() == count {
            break;
        }
        let port = PORTS.start + ((usize::from(first) + step) % PORTS.len()) as u16;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        held.extend(TcpListener::bind(address).map(|listener| (address, listener)));
    }
    if held.len() < count {
        bail!("no {count} free ports on loopback from {} to {}", PORTS.start, PORTS.end - 1);
    }
    Ok(held.into_iter().map(|(address, _)| address).collect())
}
