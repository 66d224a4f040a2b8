//! Several groups on each node, as real processes: each group is a log of its own, a leader of each is where its turn is, and
//! nothing that happens to one of them concerns the others.

#[path = "common/certificates.rs"]
mod certificates;
mod common;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use certificates::{Authority, flags};
use common::{
    Served, free_addresses, insist_on_invariants_of, make_cluster_with, synod, temporary_directory, wait_for,
};
use synod::client::{Client, ClientError, ClientRefusal, NodeRole};
use synod::remote::{Remote, RemoteConfig};
use synod::tls::ClientTls;
use synod::{AppendError, Config, GroupId, MemberChange, Node, NodeId, Role, Slot, TrimError, UnknownGroup, directory};
use synod_wal::audit::Acknowledged;

const NODES: u32 = 3;
const GROUPS: u32 = 4;
const SEGMENT_BYTES: u64 = 4 << 20;

/// Long enough for a leader that has to be well for a while before it hands over, also a second and a third time: where a busy
/// machine lets elections come in between, the waits double from 15 s on.
const PATIENCE: Duration = Duration::from_secs(180);

struct Cluster {
    directories: Vec<PathBuf>,
    listens: Vec<SocketAddr>,
    clients: Vec<SocketAddr>,
    nodes: Vec<Served>,
    /// For nodes and clients, if there are certificates.
    tls: Option<(Vec<Vec<String>>, ClientTls)>,
    /// How many shards each node has; not all as many.
    shards: [u32; NODES as usize],
    /// Dropped last, for the nodes' logs are in it.
    _root: tempfile::TempDir,
}

impl Cluster {
    fn start(is_secure: bool) -> Cluster {
        let root = temporary_directory();
        let groups = GROUPS.to_string();
        let directories =
            make_cluster_with(root.path(), NODES, SEGMENT_BYTES, &["--groups", &groups, "--segments", "6"]);
        let mut addresses = free_addresses(2 * NODES as usize);
        let clients = addresses.split_off(NODES as usize);
        let tls = is_secure.then(|| certificates(root.path(), &directories[0]));
        let mut cluster = Cluster {
            _root: root,
            directories,
            listens: addresses,
            clients,
            nodes: Vec::new(),
            tls,
            shards: [2, 3, 1],
        };
        cluster.nodes = (1..=NODES).map(|node| cluster.serve(node)).collect();
        cluster
    }

    fn serve(&self, node: u32) -> Served {
        let place = node as usize - 1;
        let shards = format!("--shards={}", self.shards[place]);
        let mut further = vec![shards.as_str(), "--election-timeout=300ms", "--heartbeat-interval=50ms"];
        if let Some((flags, _)) = &self.tls {
            further.extend(flags[place].iter().map(String::as_str));
        }
        Served::start_with(&self.directories[place], node, &self.listens, self.clients[place], &further)
    }

    fn connect(&self, node: u32, group: u32) -> Result<Client, ClientError> {
        let tls = self.tls.as_ref().map(|(_, tls)| tls);
        let client = Client::connect_with(self.clients[node as usize - 1], Duration::from_secs(2), tls)?;
        client.set_timeout_of(Duration::from_secs(5)).map(|client| client.in_group(GroupId(group)))
    }

    /// Who leads a group.
    fn leader(&self, group: u32) -> Option<u32> {
        (1..=NODES).find(|node| {
            let status = self.connect(*node, group).and_then(|mut client| client.status());
            status.is_ok_and(|status| status.role == NodeRole::Leader)
        })
    }

    fn remote(&self, group: u32) -> Remote {
        let tls = self.tls.as_ref().map(|(_, tls)| tls.clone());
        let config = RemoteConfig { group: GroupId(group), tls, ..RemoteConfig::new(self.clients.clone()) };
        Remote::start(config).expect("a thread")
    }

    fn wait_until_spread(&self) {
        let turn = |group: u32| (group - 1) % NODES + 1;
        wait_for("a leader of each group where its turn is", PATIENCE, || {
            (1..=GROUPS).all(|group| self.leader(group) == Some(turn(group))).then_some(())
        });
    }
}

trait Patience: Sized {
    fn set_timeout_of(self, timeout: Duration) -> Result<Self, ClientError>;
}

impl Patience for Client {
    fn set_timeout_of(mut self, timeout: Duration) -> Result<Client, ClientError> {
        self.set_timeout(Some(timeout))?;
        Ok(self)
    }
}

/// The flags of each node, and a client's certificates.
fn certificates(root: &Path, directory: &Path) -> (Vec<Vec<String>>, ClientTls) {
    let cluster = directory::read_identity(directory).expect("an identity").cluster.expect("bootstrapped");
    let authority = Authority::new(&root.join("ca"));
    let uri = |rest: &str| vec![format!("synod://{}/{rest}", uuid::Uuid::from_bytes(cluster))];
    let sign = |node| flags(&authority.sign(&format!("node-{node}"), &uri(&format!("node/{node}"))));
    let client = authority.sign("client", &uri("role/admin"));
    ((1..=NODES).map(sign).collect(), ClientTls::load(&client).expect("sound certificates"))
}

/// Appends to one group until it is told to stop.
struct Writer {
    stop: Arc<AtomicBool>,
    appended: Arc<AtomicU64>,
    thread: JoinHandle<Vec<Acknowledged>>,
    _remote: Remote,
}

impl Writer {
    fn start(cluster: &Cluster, group: u32) -> Writer {
        let remote = cluster.remote(group);
        let (log, stop, appended) = (remote.log(), Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (told, count) = (Arc::clone(&stop), Arc::clone(&appended));
        let thread = std::thread::spawn(move || {
            let mut acknowledged = Vec::new();
            for number in 0.. {
                if told.load(Ordering::Relaxed) {
                    break;
                }
                let command = format!("group {group} command {number}");
                // Tried again within, exactly once, through whatever happens to the nodes.
                match log.append_blocking(&command) {
                    Ok(slot) => {
                        acknowledged.push(Acknowledged::new(slot, command.as_bytes()));
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) => assert!(!matches!(error, AppendError::Refused(_)), "{error}"),
                }
            }
            acknowledged
        });
        Writer { stop, appended, thread, _remote: remote }
    }

    fn appended(&self) -> u64 {
        self.appended.load(Ordering::Relaxed)
    }

    fn end(self) -> Vec<Acknowledged> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("a writer that doesn't panic")
    }
}

fn wait_for_progress(writers: &[Writer]) {
    let before: Vec<u64> = writers.iter().map(Writer::appended).collect();
    wait_for("progress of every group", PATIENCE, || {
        writers.iter().zip(&before).all(|(writer, before)| writer.appended() > before + 20).then_some(())
    });
}

fn the_groups_of_a_cluster_live_their_own_lives(is_secure: bool) {
    let mut cluster = Cluster::start(is_secure);
    let writers: Vec<Writer> = (1..=GROUPS).map(|group| Writer::start(&cluster, group)).collect();
    wait_for_progress(&writers);
    cluster.wait_until_spread();

    // Every node leads some group; each of them dies in turn.
    for node in 1..=NODES {
        cluster.nodes[node as usize - 1].kill();
        wait_for_progress(&writers);
        // Another number of shards than before orphans nothing.
        cluster.shards[node as usize - 1] = 1 + cluster.shards[node as usize - 1] % 3;
        cluster.nodes[node as usize - 1] = cluster.serve(node);
        wait_for_progress(&writers);
    }
    cluster.wait_until_spread();

    // A trim and a change of the members of one group leave the others alone.
    let members = |group: u32| {
        let report = cluster.connect(1, group).and_then(|mut client| client.members()).expect("node 1 answers");
        report.newest().expect("a configuration").1.members.len()
    };
    let trimmed = cluster.remote(2);
    let first = trimmed.log().barrier_blocking().expect("a leader");
    // An attempt whose answer is lost may be the one that succeeds: then there is nothing left to trim.
    let is_done = |error: &TrimError| matches!(error, TrimError::NothingToTrim { trimmed, .. } if *trimmed >= first);
    wait_for("a trim", PATIENCE, || {
        // Its sessions' state is kept from the first question on, so only later slots will do.
        let trim = trimmed.log().barrier_blocking().ok().map(|upto| trimmed.log().trim_blocking(upto))?;
        (trim.is_ok() || trim.as_ref().is_err_and(is_done)).then_some(())
    });
    wait_for("a change of the members", PATIENCE, || {
        let leader = cluster.leader(3)?;
        let change = MemberChange::Replace { add: Vec::new(), remove: vec![NodeId(1)] };
        cluster.connect(leader, 3).ok()?.change_members(change).ok()
    });
    wait_for("its effect", PATIENCE, || (members(3) == 2).then_some(()));
    wait_for_progress(&writers);
    let available = |group| cluster.connect(1, group).unwrap().status().expect("an answer").available;
    assert_eq!([1, 2, 4].map(members), [3; 3]);
    wait_for("the trim", PATIENCE, || (available(2) > Slot::FIRST).then_some(()));
    assert_eq!([1, 3, 4].map(available), [Slot::FIRST; 3]);

    let unknown = cluster.connect(2, GROUPS + 1).unwrap().status();
    assert!(matches!(unknown, Err(ClientError::Refused(ClientRefusal::UnknownGroup))), "{unknown:?}");

    let acknowledged: Vec<Vec<Acknowledged>> = writers.into_iter().map(Writer::end).collect();
    drop(trimmed);
    for node in &mut cluster.nodes {
        assert_eq!(node.terminate(), Some(0));
    }
    for (log, acknowledged) in (0..).zip(&acknowledged) {
        assert!(acknowledged.len() > 100, "group {} has had work", log + 1);
        insist_on_invariants_of(log, &cluster.directories, acknowledged);
    }
}

#[test]
fn the_groups_of_a_cluster_live_their_own_lives_in_plaintext() {
    the_groups_of_a_cluster_live_their_own_lives(false);
}

#[test]
fn the_groups_of_a_cluster_live_their_own_lives_under_tls() {
    the_groups_of_a_cluster_live_their_own_lives(true);
}

#[test]
fn an_embedder_asks_for_the_logs_of_its_node_by_group() {
    let root = temporary_directory();
    let path = make_cluster_with(root.path(), 1, SEGMENT_BYTES, &["--groups", "3"]).remove(0);
    let config = Config { shards: Some(2), ..Config::new(&path, NodeId(1), "127.0.0.1:0".parse().unwrap()) };
    let mut node = Node::start(config).expect("a node");
    let groups = node.groups();
    assert_eq!(groups, [1, 2, 3].map(GroupId));
    let unknown = node.log_of(GroupId(4)).expect_err("there is none");
    assert_eq!(unknown, UnknownGroup { group: GroupId(4), groups: groups.clone() });
    assert!(unknown.to_string().starts_with("the node has no g4, only g1, g2, g3"), "{unknown}");
    for (count, group) in (1..).zip(groups) {
        let log = node.log_of(group).expect("one of its own");
        wait_for("a leader", PATIENCE, || (log.status().role == Role::Leader).then_some(()));
        for _ in 0..count {
            log.append_blocking(format!("{group}")).expect("it leads");
        }
    }
    let samples = [1, 2, 3].map(|group| format!("synod_commands_total{{node=\"1\",group=\"{group}\"}} {group}\n"));
    // What is acknowledged is counted a moment later.
    let metrics = wait_for("the figures of all groups", PATIENCE, || {
        let metrics = node.metrics();
        samples.iter().all(|sample| metrics.contains(sample)).then_some(metrics)
    });
    assert_eq!(metrics.matches("# TYPE synod_commands counter\n").count(), 1, "{metrics}");
    assert!(metrics.ends_with("# EOF\n") && metrics.matches("# EOF").count() == 1);
    assert_eq!(node.health(), Ok(()));
    node.shutdown().expect("an orderly end");
}

#[test]
fn directories_for_different_numbers_of_groups_begin_no_cluster() {
    let root = temporary_directory();
    let paths = ["1", "2"].map(|node| root.path().join(node).display().to_string());
    for (path, groups) in paths.iter().zip(["2", "3"]) {
        let node = if groups == "2" { "1" } else { "2" };
        common::synod_ok(["init", "--dir", path, "--node", node, "--groups", groups, "--segment-size", "65536"]);
    }
    let refused = synod(["bootstrap", "--member-dir", &paths[0], "--member-dir", &paths[1]]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && told.contains("node 1 was made with 2 groups and node 2 with 3"), "{told}");
    let many = synod(["init", "--dir", &paths[0], "--node", "1", "--groups", "65"]);
    assert!(String::from_utf8_lossy(&many.stderr).contains("a node has 1 to 64 groups, not 65"));
}
