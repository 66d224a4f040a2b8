//! What the integration tests share: directories on a real disk, free ports, and `synod` processes.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use synod::client::Client;
use synod::{BodyKind, SharedBody, Slot};
use synod_wal::RecoverOptions;
use synod_wal::audit::{Acknowledged, AuditLog, Report, audit};
use synod_wal::directory::{DirectoryStore, log_path, read_identity};

/// The binary under test.
pub(crate) const SYNOD: &str = env!("CARGO_BIN_EXE_synod");

/// A directory on the disk of the build: `/tmp` may live in memory, where no node runs.
pub(crate) fn temporary_directory() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("synod-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary directory")
}

/// Addresses that nobody listens at. They are free when this returns; all are bound at once, so they differ.
pub(crate) fn free_addresses(count: usize) -> Vec<SocketAddr> {
    let listeners: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
    listeners.iter().map(|listener| listener.local_addr().expect("a bound listener has an address")).collect()
}

/// Runs `synod` to its end.
pub(crate) fn synod<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> Output {
    Command::new(SYNOD).args(arguments).output().expect("the binary runs")
}

/// Runs `synod` and insists that it succeeds; its stdout.
pub(crate) fn synod_ok<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> String {
    let output = synod(arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("stdout is text")
}

/// Makes and bootstraps the directories of a cluster of nodes 1, 2, ...
pub(crate) fn make_cluster(root: &Path, nodes: u32, segment_bytes: u64) -> Vec<PathBuf> {
    make_cluster_with(root, nodes, segment_bytes, &[])
}

/// As [`make_cluster`], with further arguments for `init`.
pub(crate) fn make_cluster_with(root: &Path, nodes: u32, segment_bytes: u64, further: &[&str]) -> Vec<PathBuf> {
    let directories: Vec<PathBuf> = (1..=nodes).map(|node| root.join(format!("node-{node}"))).collect();
    for (node, directory) in (1..).zip(&directories) {
        let (node, size): (u32, _) = (node, segment_bytes.to_string());
        let directory = directory.to_str().expect("a plain path");
        let number = node.to_string();
        let init = ["init", "--dir", directory, "--node", &number, "--segment-size", &size];
        synod_ok(init.iter().chain(further));
    }
    let mut bootstrap = vec!["bootstrap".to_owned()];
    for directory in &directories {
        bootstrap.extend(["--member-dir".to_owned(), directory.display().to_string()]);
    }
    synod_ok(bootstrap);
    directories
}

/// A `synod serve` process; killed when dropped.
pub(crate) struct Served {
    pub(crate) child: Child,
    pub(crate) client: SocketAddr,
    pub(crate) listen: SocketAddr,
    pub(crate) admin: Option<SocketAddr>,
    pub(crate) log: PathBuf,
}

impl Served {
    /// Starts it and waits until it is ready.
    pub(crate) fn start(directory: &Path, node: u32, listens: &[SocketAddr], client: SocketAddr) -> Served {
        let log = directory.with_extension("stderr");
        Served::start_logging(directory, node, listens, client, log)
    }

    /// As [`Served::start`], with further arguments.
    pub(crate) fn start_with(
        directory: &Path,
        node: u32,
        listens: &[SocketAddr],
        client: SocketAddr,
        further: &[&str],
    ) -> Served {
        let log = directory.with_extension("stderr");
        Served::start_told(directory, node, listens, client, log, further)
    }

    /// As [`Served::start`], with its log in a file of that name.
    pub(crate) fn start_logging(
        directory: &Path,
        node: u32,
        listens: &[SocketAddr],
        client: SocketAddr,
        log: PathBuf,
    ) -> Served {
        Served::start_told(directory, node, listens, client, log, &[])
    }

    /// As [`Served::start_with`], with its log in a file of that name.
    pub(crate) fn start_told(
        directory: &Path,
        node: u32,
        listens: &[SocketAddr],
        client: SocketAddr,
        log: PathBuf,
        further: &[&str],
    ) -> Served {
        let peers: Vec<String> = (1..)
            .zip(listens)
            .filter(|(peer, _)| *peer != node)
            .map(|(peer, address)| format!("--peer={peer}={address}"))
            .collect();
        let further: Vec<&str> = peers.iter().map(String::as_str).chain(further.iter().copied()).collect();
        Served::start_at(directory, node, (listens[node as usize - 1], client), log, &further)
    }

    /// As [`Served::start`], with its peers named by `further` arguments.
    pub(crate) fn start_among(
        directory: &Path,
        node: u32,
        listen: SocketAddr,
        client: SocketAddr,
        further: &[&str],
    ) -> Served {
        Served::start_at(directory, node, (listen, client), directory.with_extension("stderr"), further)
    }

    fn start_at(
        directory: &Path,
        node: u32,
        (own, client): (SocketAddr, SocketAddr),
        log: PathBuf,
        further: &[&str],
    ) -> Served {
        let stderr = std::fs::OpenOptions::new().create(true).append(true).open(&log).expect("a log file");
        let mut command = Command::new(SYNOD);
        command.args(["serve", "--dir"]).arg(directory).args(["--node", &node.to_string()]);
        command.args(["--listen", &own.to_string(), "--client-listen", &client.to_string()]);
        command.args(further);
        let mut child = command.stdout(Stdio::piped()).stderr(stderr).spawn().expect("the binary runs");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("stdout is piped");
        BufReader::new(stdout).read_line(&mut line).expect("stdout is text");
        let field = |name: &str| {
            let value =
                line.split_whitespace().find_map(|word| word.strip_prefix(name)).and_then(|v| v.strip_prefix('='));
            value.and_then(|value| value.parse().ok())
        };
        let (Some(listen), Some(client), admin) = (field("listen"), field("client"), field("admin")) else {
            let stderr = std::fs::read_to_string(&log).unwrap_or_default();
            panic!("node {node} isn't ready: {line:?}\n{stderr}");
        };
        Served { child, client, listen, admin, log }
    }

    /// Ends it without warning.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    /// Lets it stand still.
    pub(crate) fn pause(&self) {
        rustix::process::kill_process(Pid::from_child(&self.child), Signal::STOP).expect("it runs");
    }

    /// Lets it go on.
    pub(crate) fn resume(&self) {
        rustix::process::kill_process(Pid::from_child(&self.child), Signal::CONT).expect("it runs");
    }

    /// Asks it to end and waits; its exit code.
    pub(crate) fn terminate(&mut self) -> Option<i32> {
        rustix::process::kill_process(Pid::from_child(&self.child), Signal::TERM).expect("it runs");
        self.child.wait().expect("it ends").code()
    }

    /// What it has logged so far, in all its lives.
    pub(crate) fn stderr(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), self.stderr());
        }
    }
}

/// Waits until `check` gives something.
pub(crate) fn wait_for<T>(what: &str, patience: Duration, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} didn't come about within {patience:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// All bodies of a node from the first slot on, over the network.
pub(crate) fn read_all(address: SocketAddr) -> Vec<SharedBody> {
    let mut client = Client::connect(address).expect("the node listens");
    let mut bodies = Vec::new();
    let mut next = Slot::FIRST;
    loop {
        let answer = client.read_from(next, 4 << 20).expect("the node answers");
        if answer.bodies.is_empty() {
            return bodies;
        }
        for body in &answer.bodies {
            assert_eq!(body.handle().first, next, "bodies follow each other");
            next = body.handle().end();
        }
        assert_eq!(answer.next, next);
        bodies.extend(answer.bodies);
    }
}

/// The commands of bodies, with their slots.
pub(crate) fn commands(bodies: &[SharedBody]) -> Vec<(Slot, Vec<u8>)> {
    let mut all = Vec::new();
    for body in bodies.iter().filter(|body| body.handle().kind == BodyKind::Commands) {
        let view = body.commands().expect("a commands body holds commands");
        for (offset, command) in (0..).zip(view.iter()) {
            all.push((body.handle().first.plus(offset), command.expect("a valid command").to_vec()));
        }
    }
    all
}

/// What a stream gives until it ends.
pub(crate) fn read_to_end(mut stream: std::net::TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A reset is an end as well.
    let _ = stream.read_to_end(&mut bytes);
    bytes
}

/// Checks the invariants of Paxos over the directories of a cluster that has stopped, and that what was acknowledged
/// is chosen.
pub(crate) fn insist_on_invariants(directories: &[PathBuf], acknowledged: &[Acknowledged]) -> Report {
    insist_on_invariants_of(0, directories, acknowledged)
}

/// As [`insist_on_invariants`], of one of several logs.
pub(crate) fn insist_on_invariants_of(log: u32, directories: &[PathBuf], acknowledged: &[Acknowledged]) -> Report {
    let stores: Vec<_> = directories.iter().map(|path| DirectoryStore::new(log_path(path, log))).collect();
    let mut logs = Vec::new();
    for (path, store) in directories.iter().zip(&stores) {
        let identity = read_identity(path).expect("an identity");
        let expected = identity.log_identity(log).expect("bootstrapped").expected();
        let (name, options) = (path.display().to_string(), RecoverOptions::default());
        logs.push(AuditLog::read(name, store, &expected, identity.segment_bytes, options).expect("a sound log"));
    }
    let report = audit(&logs, acknowledged).expect("logs of one cluster");
    let told: Vec<String> = report.violations.iter().map(ToString::to_string).collect();
    assert!(report.holds(), "{} violations:\n{}", report.violations_count, told.join("\n"));
    report
}
