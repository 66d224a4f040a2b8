//! Members come and go while real processes are under load: 3 → 5 → 3, a wiped node that is replaced by itself, a rolling
//! restart. Then the directories of all that ever were members are audited with what the writer was told.

mod common;

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::{
    Served, free_addresses, insist_on_invariants, make_cluster, synod, synod_ok, temporary_directory, wait_for,
};
use synod::Batch;
use synod::client::{Client, ClientError, NodeRole};
use synod_wal::audit::Acknowledged;

const PATIENCE: Duration = Duration::from_secs(20);

const SEGMENT_BYTES: u64 = 2 << 20;

/// Nodes 1, 2, ... of which some are members, and a writer that keeps them busy.
struct Cluster {
    root: tempfile::TempDir,
    directories: Vec<PathBuf>,
    listens: Vec<SocketAddr>,
    clients: Vec<SocketAddr>,
    nodes: Vec<Option<Served>>,
    load: Option<Load>,
}

impl Cluster {
    /// Three members under load, and addresses for `spare` more.
    fn start(spare: usize) -> Cluster {
        let root = temporary_directory();
        let directories = make_cluster(root.path(), 3, SEGMENT_BYTES);
        let (listens, clients) = (free_addresses(3 + spare), free_addresses(3 + spare));
        let mut cluster = Cluster { root, directories, listens, clients, nodes: Vec::new(), load: None };
        for node in 1..=3 {
            cluster.nodes.push(None);
            cluster.serve(node);
        }
        cluster.load = Some(Load::start(cluster.clients.clone()));
        cluster.insist_on_progress();
        cluster
    }

    /// Starts a node that is told of the first three members only.
    fn serve(&mut self, node: u32) {
        let place = node as usize - 1;
        let told: Vec<String> = (1..=3u32)
            .filter(|peer| *peer != node)
            .map(|peer| format!("--peer={peer}={}", self.listens[peer as usize - 1]))
            .collect();
        let told: Vec<&str> = told.iter().map(String::as_str).collect();
        let directory = &self.directories[place];
        let served = Served::start_among(directory, node, self.listens[place], self.clients[place], &told);
        self.nodes[place] = Some(served);
    }

    /// Makes the directory of a node that comes later; how the node is named in commands.
    fn init(&mut self, node: u32) -> String {
        let directory = self.root.path().join(format!("node-{node}"));
        let (id, size) = (node.to_string(), SEGMENT_BYTES.to_string());
        let path = directory.to_str().expect("a plain path");
        let told = synod_ok(["init", "--dir", path, "--node", &id, "--segment-size", &size]);
        let member = told.lines().find_map(|line| line.strip_prefix("member")).expect("init tells the member");
        if self.directories.len() < node as usize {
            self.directories.push(directory);
            self.nodes.push(None);
        }
        format!("{}@{}", member.trim(), self.listens[node as usize - 1])
    }

    fn join(&self, node: u32, from: u32) {
        let path = self.directories[node as usize - 1].to_str().expect("a plain path");
        synod_ok(["join", "--dir", path, "--from", &self.clients[from as usize - 1].to_string()]);
    }

    /// Runs `synod member` with everybody's address.
    fn member(&self, words: &[&str]) -> std::process::Output {
        let up = self.nodes.iter().zip(&self.clients).filter(|(node, _)| node.is_some());
        let mut arguments = vec!["member".to_owned()];
        arguments.extend(words.iter().map(|word| (*word).to_owned()));
        for (_, client) in up {
            arguments.extend(["--at".to_owned(), client.to_string()]);
        }
        synod(arguments)
    }

    fn member_ok(&self, words: &[&str]) -> String {
        let output = self.member(words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("stdout is text")
    }

    fn insist_on_progress(&self) {
        let load = self.load.as_ref().expect("there is load");
        let before = load.count.load(Ordering::Relaxed);
        wait_for("progress", PATIENCE, || (load.count.load(Ordering::Relaxed) > before + 20).then_some(()));
    }

    /// Ends the load, waits until these nodes have the same, ends all, and audits everybody's directory.
    fn verify(mut self, members: &[u32]) {
        let acknowledged = self.load.take().expect("there is load").end();
        assert!(acknowledged.len() > 1000, "{} commands are acknowledged", acknowledged.len());
        let end = |node: &u32| Client::connect(self.clients[*node as usize - 1]).and_then(|mut c| c.status()).ok();
        wait_for("equal ends", PATIENCE, || {
            let marks: Vec<_> = members.iter().map(|node| end(node).map(|status| status.mark)).collect();
            marks.iter().all(|mark| mark.is_some() && *mark == marks[0]).then_some(())
        });
        for node in self.nodes.iter_mut().flatten() {
            assert_eq!(node.terminate(), Some(0));
        }
        let coverage = insist_on_invariants(&self.directories, &acknowledged).coverage;
        assert_eq!(coverage.acknowledged_found, acknowledged.len() as u64);
        println!("{} acknowledged; {coverage:?}", acknowledged.len());
    }
}

/// A thread that appends wherever there is a leader.
struct Load {
    stop: Arc<AtomicBool>,
    /// Acknowledged batches.
    count: Arc<AtomicU64>,
    acknowledged: Arc<Mutex<Vec<Acknowledged>>>,
    writer: JoinHandle<()>,
}

impl Load {
    fn start(nodes: Vec<SocketAddr>) -> Load {
        let (stop, count, acknowledged) = (Arc::default(), Arc::default(), Arc::default());
        let (told, counted, seen) = (Arc::clone(&stop), Arc::clone(&count), Arc::clone(&acknowledged));
        let writer = std::thread::spawn(move || write(&nodes, &told, &counted, &seen));
        Load { stop, count, acknowledged, writer }
    }

    fn end(self) -> Vec<Acknowledged> {
        self.stop.store(true, Ordering::Relaxed);
        self.writer.join().expect("a writer");
        std::mem::take(&mut *self.acknowledged.lock().expect("a writer"))
    }
}

fn write(nodes: &[SocketAddr], stop: &AtomicBool, count: &AtomicU64, seen: &Mutex<Vec<Acknowledged>>) {
    let mut number = 0u64;
    for node in nodes.iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let Ok(mut client) = leader_at(*node) else {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        };
        while !stop.load(Ordering::Relaxed) {
            // Never the same command again: whether an earlier one was chosen after all is for the audit to find.
            let commands: Vec<Vec<u8>> =
                (number..number + 10).map(|number| format!("command {number}").into_bytes()).collect();
            number += 10;
            let batch: Batch = commands.iter().collect();
            let Ok(slots) = client.append_batch(&batch) else { break };
            let mut seen = seen.lock().expect("a writer");
            seen.extend((0..).zip(&commands).map(|(at, command)| Acknowledged::new(slots.start.plus(at), command)));
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn leader_at(node: SocketAddr) -> Result<Client, ClientError> {
    let mut client = Client::connect_within(node, Duration::from_millis(500))?;
    client.set_timeout(Some(Duration::from_secs(2)))?;
    if client.status()?.role == NodeRole::Leader {
        return Ok(client);
    }
    Err(ClientError::Io(std::io::ErrorKind::NotFound.into()))
}

#[test]
fn three_become_five_become_three_under_load() {
    let mut cluster = Cluster::start(2);
    let newcomers = [cluster.init(4), cluster.init(5)];
    for node in [4, 5] {
        cluster.join(node, 1);
        cluster.serve(node);
    }
    let told = cluster.member_ok(&["add", &newcomers[0], &newcomers[1]]);
    assert_eq!(told.lines().filter(|line| line.starts_with("member ")).count(), 5, "{told}");
    assert!(told.contains("3 of 5 to lead, 3 to choose: 2 may be down"), "{told}");
    cluster.insist_on_progress();

    let told = cluster.member_ok(&["remove", "1", "2"]);
    assert_eq!(told.lines().filter(|line| line.starts_with("member ")).count(), 3, "{told}");
    cluster.insist_on_progress();
    // Those who are gone know it, and stand aside.
    for node in [1, 2] {
        let at = cluster.clients[node as usize - 1].to_string();
        let told = wait_for("word of the removal", PATIENCE, || {
            let told = synod_ok(["member", "list", "--at", &at]);
            told.contains("removed ").then_some(told)
        });
        assert!(!told.lines().any(|line| line.starts_with("member ") && line.contains(&format!(" {node} "))), "{told}");
    }
    for node in [1, 2] {
        let mut gone = cluster.nodes[node as usize - 1].take().expect("it runs");
        assert_eq!(gone.terminate(), Some(0));
    }
    cluster.insist_on_progress();
    cluster.verify(&[3, 4, 5]);
}

#[test]
fn a_wiped_node_is_refused_until_it_is_added_again() {
    let mut cluster = Cluster::start(0);
    let mut wiped = cluster.nodes[2].take().expect("it runs");
    wiped.kill();
    drop(wiped);
    std::fs::remove_dir_all(&cluster.directories[2]).expect("it is ours");
    cluster.insist_on_progress();

    let newcomer = cluster.init(3);
    let path = cluster.directories[2].to_str().expect("a plain path").to_owned();
    let output = synod(["join", "--dir", &path, "--from", &cluster.clients[0].to_string()]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && told.contains("the directory was made anew"), "{told}");

    cluster.member_ok(&["remove", "3"]);
    cluster.join(3, 1);
    cluster.serve(3);
    let told = cluster.member_ok(&["add", &newcomer]);
    assert_eq!(told.lines().filter(|line| line.starts_with("member ")).count(), 3, "{told}");
    cluster.insist_on_progress();
    cluster.verify(&[1, 2, 3]);
}

#[test]
fn an_old_copy_of_a_directory_is_refused_and_replaced() {
    let mut cluster = Cluster::start(0);
    // A follower, for it is leaders who remember how far a peer was.
    let victim = wait_for("a leader", PATIENCE, || {
        let leader = (1..=3u32).find(|node| leader_at(cluster.clients[*node as usize - 1]).is_ok())?;
        Some(leader % 3 + 1)
    });
    let place = victim as usize - 1;
    let directory = cluster.directories[place].clone();
    let (copy, lost) = (directory.with_extension("copy"), directory.with_extension("lost"));
    let running = cluster.nodes[place].as_ref().expect("it runs");
    running.pause();
    copy_directory(&directory, &copy);
    running.resume();
    // So much that the leader has heard of it, and has kept it.
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(2) {
        cluster.insist_on_progress();
    }
    cluster.nodes[place].take().expect("it runs").kill();
    std::fs::rename(&directory, &lost).expect("the same file system");
    std::fs::rename(&copy, &directory).expect("the same file system");
    cluster.serve(victim);
    let mut restored = cluster.nodes[place].take().expect("it was started");
    let code = wait_for("the end of the copy", PATIENCE, || restored.child.try_wait().expect("it runs"));
    assert_eq!(code.code(), Some(5), "{}", restored.stderr());
    assert!(restored.stderr().contains("went back in time"), "{}", restored.stderr());
    cluster.insist_on_progress();

    std::fs::remove_dir_all(&directory).expect("it is ours");
    cluster.member_ok(&["remove", &victim.to_string()]);
    let newcomer = cluster.init(victim);
    cluster.join(victim, victim % 3 + 1);
    cluster.serve(victim);
    cluster.member_ok(&["add", &newcomer]);
    cluster.directories.push(lost);
    cluster.verify(&[1, 2, 3]);
}

fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("a new directory");
    std::fs::set_permissions(to, std::fs::Permissions::from_mode(0o700)).expect("it is ours");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy_directory(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).expect("room for a copy");
        }
    }
}

#[test]
fn a_change_without_a_quorum_is_refused_with_the_tolerance() {
    let mut cluster = Cluster::start(0);
    let mut down = cluster.nodes[2].take().expect("it runs");
    assert_eq!(down.terminate(), Some(0));
    cluster.insist_on_progress();
    let refused = |words: &[&str]| {
        let output = cluster.member(words);
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    // Two would be left, of which one is down, as the leader knows an election timeout later.
    let down_since = Instant::now();
    while down_since.elapsed() < Duration::from_secs(2) {
        cluster.insist_on_progress();
    }
    let told = refused(&["remove", "1", "--wait", "0"]);
    assert!(told.contains("no answer from n3"), "{told}");
    assert!(told.contains("of the 2 members that there would be, 2 must be up, so 0 may be down"), "{told}");
    assert!(refused(&["remove", "9"]).contains("9 is no member"));
    assert!(refused(&["cancel"]).contains("there are no learners"));
    cluster.serve(3);
    cluster.verify(&[1, 2, 3]);
}

#[test]
fn a_lost_quorum_is_begun_again_as_a_new_lineage() {
    let mut cluster = Cluster::start(0);
    let mut acknowledged = cluster.load.take().expect("there is load").end();
    let end = |cluster: &Cluster, node: usize| {
        let status = Client::connect(cluster.clients[node - 1]).and_then(|mut client| client.status());
        status.expect("it runs").mark
    };
    wait_for("equal ends", PATIENCE, || (1..=3).all(|node| end(&cluster, node) == end(&cluster, 1)).then_some(()));
    cluster.nodes.iter_mut().for_each(|node| node.take().expect("it runs").kill());
    // Node 1 is lost for good, and whoever has the directory of node 2 doesn't tell.
    std::fs::remove_dir_all(&cluster.directories[0]).expect("it is ours");
    let stale = cluster.root.path().join("stale-2");
    std::fs::rename(&cluster.directories[1], &stale).expect("the same file system");

    let (old, new) = (cluster.directories[2].clone(), cluster.root.path().join("node-3-new"));
    let recover = |confirm: &[&str]| {
        let (from, to) = (old.to_str().expect("a plain path"), new.to_str().expect("a plain path"));
        let words = ["recover", "--new-lineage", "--from", from, "--to", to];
        synod(words.iter().chain(confirm))
    };
    let output = recover(&[]);
    let (plan, advice) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{plan}{advice}");
    assert!(plan.contains("lineage 0 becomes 1") && plan.contains("of which 2 are needed"), "{plan}");
    assert!(!new.exists(), "nothing is written before it is confirmed");
    let (_, slot) = advice.rsplit_once("--confirm ").expect("it says how to confirm");
    assert_eq!(recover(&["--confirm", "1"]).status.code(), Some(1), "another slot");
    let output = recover(&["--confirm", slot.trim()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("member     3:"));

    cluster.directories[2] = new;
    cluster.serve(3);
    let append = |cluster: &Cluster, text: &str| {
        let command = text.as_bytes().to_vec();
        let slots = wait_for("a leader", PATIENCE, || {
            let mut client = leader_at(cluster.clients[2]).ok()?;
            client.append_batch(&[&command].into_iter().collect()).ok()
        });
        Acknowledged::new(slots.start, &command)
    };
    acknowledged.push(append(&cluster, "after the end"));
    // A member of old comes back: it is told what it is.
    let mut stale = Served::start_among(
        &stale,
        2,
        cluster.listens[1],
        cluster.clients[1],
        &[&format!("--peer=3={}", cluster.listens[2]), &format!("--peer=1={}", cluster.listens[0])],
    );
    wait_for("the refusal", PATIENCE, || stale.stderr().contains("lineage 1 of this cluster").then_some(()));
    stale.kill();
    drop(stale);

    let newcomers = [cluster.init(1), cluster.init(2)];
    for node in [1, 2] {
        cluster.join(node, 3);
        cluster.serve(node);
        // The change before must rule first.
        let add = || cluster.member(&["add", &newcomers[node as usize - 1]]).status.success().then_some(());
        wait_for("the addition", PATIENCE, add);
    }
    acknowledged.push(append(&cluster, "with a quorum again"));
    wait_for("equal ends", PATIENCE, || (1..=3).all(|node| end(&cluster, node) == end(&cluster, 3)).then_some(()));
    cluster.nodes.iter_mut().flatten().for_each(|node| assert_eq!(node.terminate(), Some(0)));
    let coverage = insist_on_invariants(&cluster.directories, &acknowledged).coverage;
    assert_eq!(coverage.acknowledged_found, acknowledged.len() as u64);
}

#[test]
fn a_rolling_restart_loses_nothing() {
    let mut cluster = Cluster::start(0);
    for node in 1..=3u32 {
        let mut restarted = cluster.nodes[node as usize - 1].take().expect("it runs");
        assert_eq!(restarted.terminate(), Some(0));
        cluster.insist_on_progress();
        cluster.serve(node);
        cluster.insist_on_progress();
    }
    cluster.verify(&[1, 2, 3]);
}
