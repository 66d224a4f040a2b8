//! Three processes of this program on this machine, and a client of them.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use synod::directory::{self, Genesis, InitOptions};
use synod::{Configuration, ConfigurationBody, GROUP, Member, NodeId};

/// How long a line is tried before the client gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Length of the log's segments: small ones are quickly made, and only whole ones are trimmed.
const SEGMENT_BYTES: u64 = 2 << 20;

/// See the module. The processes are killed when it is dropped.
#[derive(Debug)]
pub struct Trio {
    executable: PathBuf,
    /// Further arguments of each node.
    further: Vec<String>,
    directories: Vec<PathBuf>,
    addresses: Vec<SocketAddr>,
    running: Vec<Option<Running>>,
    /// Who led when last asked.
    leader: usize,
    session: String,
    number: u64,
}

#[derive(Debug)]
struct Running {
    process: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Trio {
    /// Makes three stores below `root`, which is empty, and starts a node on each.
    ///
    /// # Errors
    /// If something can't be made or started.
    pub fn start(executable: &Path, root: &Path) -> anyhow::Result<Trio> {
        Trio::start_with(executable, root, &[])
    }

    /// As [`Trio::start`], with further arguments for each node.
    ///
    /// # Errors
    /// As [`Trio::start`].
    pub fn start_with(executable: &Path, root: &Path, further: &[&str]) -> anyhow::Result<Trio> {
        let directories: Vec<PathBuf> = (1..=3).map(|node| root.join(format!("node-{node}"))).collect();
        make_stores(&directories)?;
        let mut trio = Trio {
            executable: executable.to_path_buf(),
            further: further.iter().map(|&argument| argument.to_owned()).collect(),
            directories,
            addresses: free_addresses()?,
            running: (0..3).map(|_| None).collect(),
            leader: 0,
            session: String::new(),
            number: 0,
        };
        for node in 1..=3 {
            trio.restart(node)?;
        }
        trio.session = trio.ask("session")?;
        Ok(trio)
    }

    /// A node's directory, with its database in it.
    pub fn directory(&self, node: usize) -> &Path {
        &self.directories[node - 1]
    }

    /// Which node led when last asked.
    pub fn leader(&self) -> usize {
        self.leader + 1
    }

    /// Executes a command once, whatever happens to the nodes meanwhile as long as two of them come back: what it
    /// brought, or why it was refused.
    ///
    /// # Errors
    /// If no node answers within a minute.
    pub fn execute(&mut self, command: &str) -> anyhow::Result<Result<String, String>> {
        self.number += 1;
        let line = format!("once {} {} {command}", self.session, self.number);
        self.try_all(&line)
    }

    /// Asks the leader, or whoever can answer for it.
    ///
    /// # Errors
    /// If no node answers within a minute, or the question is refused.
    pub fn ask(&mut self, line: &str) -> anyhow::Result<String> {
        self.try_all(line)?.map_err(anyhow::Error::msg)
    }

    /// Where a node's log begins, and how far its machine has come.
    ///
    /// # Errors
    /// If it doesn't answer.
    pub fn log(&mut self, node: usize) -> anyhow::Result<(u64, u64)> {
        let answer = self.ask_node(node, "log")?;
        let (base, position) = answer.split_once(' ').context("two numbers are expected")?;
        Ok((base.parse()?, position.parse()?))
    }

    /// Asks one node.
    ///
    /// # Errors
    /// If it doesn't answer, or can't.
    pub fn ask_node(&mut self, node: usize, line: &str) -> anyhow::Result<String> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            match self.exchange(node - 1, line)?.split_once(' ') {
                Some(("ok", answer)) => return Ok(answer.to_owned()),
                Some(("no", reason)) => bail!("{reason}"),
                _ => {}
            }
        }
        bail!("node {node} didn't answer {line:?}")
    }

    /// Ends a node as `kill -9` does.
    ///
    /// # Errors
    /// If it doesn't run.
    pub fn kill(&mut self, node: usize) -> anyhow::Result<()> {
        let mut running = self.running[node - 1].take().context("the node doesn't run")?;
        running.process.kill()?;
        running.process.wait()?;
        Ok(())
    }

    /// Starts a node on what its directory holds.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn restart(&mut self, node: usize) -> anyhow::Result<()> {
        let mut command = Command::new(&self.executable);
        command.arg("node").arg("--dir").arg(self.directory(node)).args(["--node", &node.to_string()]);
        command.args(["--listen", &self.addresses[node - 1].to_string()]);
        for (peer, address) in (1..).zip(&self.addresses).filter(|(peer, _)| *peer != node) {
            command.args(["--peer", &format!("{peer}={address}")]);
        }
        command.args(&self.further);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let requests = process.stdin.take().context("stdin is piped")?;
        let answers = BufReader::new(process.stdout.take().context("stdout is piped")?);
        self.running[node - 1] = Some(Running { process, requests, answers });
        Ok(())
    }

    /// Ends all nodes in order.
    ///
    /// # Errors
    /// If one of them fails on the way.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        for running in &mut self.running {
            if let Some(Running { mut process, requests, answers }) = running.take() {
                drop((requests, answers));
                ensure!(process.wait()?.success(), "a node didn't end in order");
            }
        }
        Ok(())
    }

    fn try_all(&mut self, line: &str) -> anyhow::Result<Result<String, String>> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            // A node that is down, or dies with the answer: the next one knows, or will.
            let Ok(answer) = self.exchange(self.leader, line) else {
                self.leader = (self.leader + 1) % 3;
                std::thread::sleep(Duration::from_millis(5));
                continue;
            };
            match answer.split_once(' ') {
                Some(("ok", result)) => return Ok(Ok(result.to_owned())),
                Some(("no", reason)) => return Ok(Err(reason.to_owned())),
                Some(("ask", node)) => self.leader = node.parse::<usize>()?.clamp(1, 3) - 1,
                _ => self.leader = (self.leader + 1) % 3,
            }
        }
        bail!("no node answered {line:?} within {PATIENCE:?}")
    }

    fn exchange(&mut self, index: usize, line: &str) -> anyhow::Result<String> {
        let running = self.running[index].as_mut().context("the node is down")?;
        writeln!(running.requests, "{line}")?;
        let mut answer = String::new();
        ensure!(running.answers.read_line(&mut answer)? > 0, "the node has ended");
        Ok(answer.trim_end().to_owned())
    }
}

impl Drop for Trio {
    fn drop(&mut self) {
        for node in 1..=3 {
            // One that doesn't run needn't be killed.
            let _ = self.kill(node);
        }
    }
}

/// What `synod init` and `synod bootstrap` do.
fn make_stores(directories: &[PathBuf]) -> anyhow::Result<()> {
    let options = InitOptions { segment_bytes: SEGMENT_BYTES, ..InitOptions::default() };
    let mut members = Vec::new();
    for (node, directory) in (1..).map(NodeId).zip(directories) {
        std::fs::create_dir_all(directory)?;
        let made = directory::init(&directory.join("log"), node, &options, &mut |_| {})?;
        members.push(Member { node, incarnation: made.incarnation });
    }
    let quorums = Configuration::genesis(members.iter().map(|member| member.node).collect(), 65_536)?;
    let configuration = ConfigurationBody {
        // A name for the cluster: as random as the names of its stores.
        cluster: members[0].incarnation,
        lineage: 0,
        members,
        prepare_quorum: quorums.prepare_quorum,
        accept_quorum: quorums.accept_quorum,
        alpha: quorums.alpha,
        ..ConfigurationBody::default()
    };
    let genesis = Genesis { group: GROUP, configuration };
    for directory in directories {
        directory::bootstrap(&directory.join("log"), &genesis)?;
    }
    Ok(())
}

/// Three ports that nobody listens at.
fn free_addresses() -> anyhow::Result<Vec<SocketAddr>> {
    let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0"));
    listeners.into_iter().map(|listener| Ok(listener?.local_addr()?)).collect()
}
