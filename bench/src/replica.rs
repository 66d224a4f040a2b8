//! A replica in a process of its own: the child that runs it, and the handle that its parent holds.
//!
//! They talk in lines of JSON, over the child's standard input and output: first the plan, then one question and one answer
//! at a time. A child whose parent is gone finds its input at an end, and ends.

use std::io::{BufRead, BufReader, Write as _, stdin, stdout};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use synod::{Config, Log, Node};
use synod_protocol::{Chain, Mark, NodeId, Role, Slot};
use synod_wal::SyncMode;

use crate::links::Links;
use crate::options::Sync;
use crate::throttle::Throttle;

/// What a replica is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) directory: PathBuf,
    pub(crate) node: u32,
    pub(crate) listen: SocketAddr,
    pub(crate) peers: Vec<(u32, SocketAddr)>,
    pub(crate) client_listen: Option<SocketAddr>,
    pub(crate) shards: Option<u32>,
    pub(crate) window_bodies: u32,
    pub(crate) body_bytes: u64,
    pub(crate) sync: Sync,
    /// Requests of one connection that may be under way.
    pub(crate) client_requests: usize,
}

impl Plan {
    /// What the node is told.
    pub(crate) fn config(&self) -> Config {
        let mut config = Config::new(&self.directory, NodeId(self.node), self.listen);
        config.peers = self.peers.iter().map(|(node, address)| (NodeId(*node), *address)).collect();
        config.client_listen = self.client_listen;
        config.client_requests_max = self.client_requests.max(config.client_requests_max);
        config.shards = self.shards;
        config.settings.window_bodies = self.window_bodies;
        config.body_bytes_max = u32::try_from(self.body_bytes).unwrap_or(u32::MAX);
        config.sync = match self.sync {
            Sync::Fdatasync => SyncMode::Fdatasync,
            Sync::Dsync => SyncMode::Dsync,
        };
        let window_bytes = u64::from(self.window_bodies) * self.body_bytes;
        config.settings.window_bytes = config.settings.window_bytes.max(window_bytes);
        config.settings.peer_bytes = config.settings.peer_bytes.max(2 * window_bytes);
        config
    }
}

/// What the parent asks.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Question {
    State,
    MarkAt(u64),
    Trim(u64),
    Stop,
}

/// What the child answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Answer {
    Serving { client: Option<SocketAddr> },
    State(Box<State>),
    MarkAt(Option<Prefix>),
    Trimmed(Option<u64>),
    Stopped,
    Failed(String),
}

/// The prefix of a log: its end, and the chain over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Prefix {
    slot: u64,
    chain: [u64; 2],
}

impl From<Mark> for Prefix {
    fn from(mark: Mark) -> Prefix {
        Prefix { slot: mark.slot.0, chain: [mark.chain.0 as u64, (mark.chain.0 >> 64) as u64] }
    }
}

impl From<Prefix> for Mark {
    fn from(prefix: Prefix) -> Mark {
        let [low, high] = prefix.chain;
        Mark { slot: Slot(prefix.slot), chain: Chain(u128::from(high) << 64 | u128::from(low)) }
    }
}

/// How a replica stands, as far as the bench wants to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) node: u32,
    pub(crate) leads: bool,
    pub(crate) mark: Prefix,
    pub(crate) stable: u64,
    pub(crate) base: u64,
    pub(crate) unsynced_bytes: u64,
    pub(crate) live_bytes: u64,
    pub(crate) bytes_appended: u64,
    pub(crate) durable_writes: u64,
    pub(crate) rotations: u64,
    pub(crate) bodies: u64,
    pub(crate) open_bodies: u32,
    /// Submissions that wait to be proposed.
    pub(crate) waiting: u64,
    /// Bytes that wait to be sent to the peer with which a majority is complete: those behind it don't hold anything up.
    pub(crate) outgoing_bytes: u64,
    /// Submissions that were delivered and bodies that were composed, and how long that took, in microseconds.
    pub(crate) delivered: u64,
    pub(crate) delivered_us: u64,
    pub(crate) composed: u64,
    pub(crate) composed_us: u64,
    /// Of the process that the replica has to itself; none if it has not.
    pub(crate) cpu_us: Option<u64>,
    pub(crate) stopped: Option<String>,
}

impl State {
    pub(crate) fn of(log: &Log) -> State {
        let (status, flow) = (log.status(), log.flow());
        State {
            node: status.node.0,
            leads: status.role == Role::Leader,
            mark: status.mark.into(),
            stable: status.stable.0,
            base: status.base.0,
            unsynced_bytes: status.wal.unsynced_bytes,
            live_bytes: status.wal.live_bytes,
            bytes_appended: status.wal.bytes_appended,
            durable_writes: status.wal.durable_writes,
            rotations: status.wal.rotations,
            bodies: status.counters.bodies,
            open_bodies: status.open_bodies,
            waiting: flow.waiting,
            outgoing_bytes: held_up_by(flow.outgoing_bytes.iter().map(|(_, bytes)| *bytes).collect()),
            delivered: flow.delivered,
            delivered_us: flow.delivered_for.as_micros() as u64,
            composed: flow.composed,
            composed_us: flow.composed_for.as_micros() as u64,
            cpu_us: None,
            stopped: status.stopped.map(|reason| reason.to_string()),
        }
    }

    pub(crate) fn mark(&self) -> Mark {
        self.mark.into()
    }
}

/// What waits for the peer that completes a majority together with this node and those for whom less waits.
fn held_up_by(mut waiting: Vec<u64>) -> u64 {
    waiting.sort_unstable();
    let needed = waiting.len().div_ceil(2);
    needed.checked_sub(1).map_or(0, |place| waiting[place])
}

/// CPU that this process has used.
pub(crate) fn process_cpu_us() -> u64 {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    used.tv_sec as u64 * 1_000_000 + used.tv_nsec as u64 / 1000
}

/// The child's whole life.
///
/// # Errors
/// If it isn't told what to do, or its node doesn't end in order.
pub(crate) fn serve() -> Result<()> {
    let mut lines = stdin().lock().lines();
    let plan: Plan = serde_json::from_str(&lines.next().context("no plan")??).context("reading the plan")?;
    let mut node = match Node::start(plan.config()) {
        Ok(node) => node,
        Err(error) => return say(&Answer::Failed(error.to_string())),
    };
    let log = node.log();
    say(&Answer::Serving { client: node.client_address() })?;
    for line in lines {
        let answer = match serde_json::from_str(&line?).context("reading a question")? {
            Question::State => Answer::State(Box::new(State { cpu_us: Some(process_cpu_us()), ..State::of(&log) })),
            Question::MarkAt(slot) => Answer::MarkAt(log.mark_at_blocking(Slot(slot)).map(Prefix::from)),
            Question::Trim(upto) => Answer::Trimmed(log.trim_blocking(Slot(upto)).ok().map(|upto| upto.0)),
            Question::Stop => {
                node.shutdown()?;
                return say(&Answer::Stopped);
            }
        };
        say(&answer)?;
    }
    Ok(node.shutdown()?)
}

fn say(answer: &Answer) -> Result<()> {
    let mut line = serde_json::to_string(answer).expect("an answer has no odd keys");
    line.push('\n');
    let mut out = stdout().lock();
    out.write_all(line.as_bytes())?;
    Ok(out.flush()?)
}

/// The parent's handle.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) node: NodeId,
    plan: Plan,
    /// The ways to the others, if they can be cut.
    links: Option<Arc<Links>>,
    process: Mutex<Option<Process>>,
    /// While its disk is slow.
    throttle: Mutex<Option<Throttle>>,
}

#[derive(Debug)]
struct Process {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
    client: SocketAddr,
    is_paused: bool,
}

impl Replica {
    /// Starts a process. Its client port is taken by it, and kept when it is started again.
    ///
    /// # Errors
    /// If it doesn't start: the message says why.
    pub(crate) fn start(plan: Plan, links: Option<Arc<Links>>) -> Result<Replica> {
        let node = NodeId(plan.node);
        let mut replica = Replica { node, plan, links, process: Mutex::new(None), throttle: Mutex::new(None) };
        let process = replica.spawn()?;
        replica.plan.client_listen = Some(process.client);
        *replica.lock() = Some(process);
        Ok(replica)
    }

    fn spawn(&self) -> Result<Process> {
        let program = std::env::current_exe().context("finding this program")?;
        let mut child = Command::new(program)
            .arg("replica")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting a process for a replica")?;
        let (questions, answers) = (child.stdin.take(), child.stdout.take());
        let (Some(questions), Some(answers)) = (questions, answers) else { bail!("a child without pipes") };
        let client = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut process = Process { child, questions, answers: BufReader::new(answers), client, is_paused: false };
        process.tell(&self.plan)?;
        match process.hear()? {
            Answer::Serving { client: Some(client) } => Ok(Process { client, ..process }),
            Answer::Failed(reason) => bail!("node {} doesn't start: {reason}", self.node),
            other => bail!("node {} says {other:?}", self.node),
        }
    }

    /// Where its clients connect.
    pub(crate) fn client_address(&self) -> Option<SocketAddr> {
        self.plan.client_listen
    }

    /// How it stands; none while it is dead or paused.
    pub(crate) fn state(&self) -> Option<State> {
        match self.ask(Question::State) {
            Some(Answer::State(state)) => Some(*state),
            _ => None,
        }
    }

    pub(crate) fn mark_at(&self, slot: Slot) -> Option<Mark> {
        match self.ask(Question::MarkAt(slot.0)) {
            Some(Answer::MarkAt(prefix)) => prefix.map(Mark::from),
            _ => None,
        }
    }

    pub(crate) fn trim(&self, upto: Slot) -> Option<Slot> {
        match self.ask(Question::Trim(upto.0)) {
            Some(Answer::Trimmed(upto)) => upto.map(Slot),
            _ => None,
        }
    }

    fn ask(&self, question: Question) -> Option<Answer> {
        let mut process = self.lock();
        let process = process.as_mut().filter(|process| !process.is_paused)?;
        process.tell(&question).ok()?;
        process.hear().ok()
    }

    /// Ends the process at once, as a power failure of this process would.
    ///
    /// # Errors
    /// If it can't be killed.
    pub(crate) fn kill(&self) -> Result<()> {
        let Some(mut process) = self.lock().take() else { return Ok(()) };
        process.child.kill().context("killing a replica")?;
        process.child.wait().context("waiting for a killed replica")?;
        Ok(())
    }

    /// Lets the process stand still.
    ///
    /// # Errors
    /// If it can't be stopped.
    pub(crate) fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP, true)
    }

    /// Lets nothing pass between it and the other replicas.
    ///
    /// # Panics
    /// If the cluster was started without switches: that is a bug of the caller.
    pub(crate) fn cut_off(&self) {
        self.links.as_ref().expect("a cluster with switches").cut(self.node.0, true);
    }

    /// Slows its disk.
    ///
    /// # Errors
    /// If that can't be done here: what is missing.
    pub(crate) fn slow_down(&self) -> Result<()> {
        let Some(process) = self.lock().as_ref().map(|process| process.child.id()) else { return Ok(()) };
        let throttle = Throttle::begin(&self.plan.directory, process)?;
        *self.throttle.lock().expect("no code that holds this lock panics") = Some(throttle);
        Ok(())
    }

    /// Undoes [`Replica::kill`], [`Replica::pause`], [`Replica::cut_off`] and [`Replica::slow_down`].
    ///
    /// # Errors
    /// If the node doesn't start again.
    pub(crate) fn mend(&self) -> Result<()> {
        if let Some(links) = &self.links {
            links.cut(self.node.0, false);
        }
        *self.throttle.lock().expect("no code that holds this lock panics") = None;
        let is_dead = self.lock().is_none();
        if is_dead {
            let process = self.spawn()?;
            *self.lock() = Some(process);
            return Ok(());
        }
        self.signal(Signal::CONT, false)
    }

    fn signal(&self, signal: Signal, is_paused: bool) -> Result<()> {
        if let Some(process) = self.lock().as_mut() {
            kill_process(Pid::from_child(&process.child), signal).context("sending a signal to a replica")?;
            process.is_paused = is_paused;
        }
        Ok(())
    }

    /// Ends the node in order, and the process with it.
    ///
    /// # Errors
    /// If it doesn't.
    pub(crate) fn stop(&self) -> Result<()> {
        let Some(mut process) = self.lock().take() else { return Ok(()) };
        process.tell(&Question::Stop)?;
        let answer = process.hear()?;
        ensure!(matches!(answer, Answer::Stopped), "node {} doesn't stop: {answer:?}", self.node);
        let status = process.child.wait().context("waiting for a replica")?;
        ensure!(status.success(), "the process of node {} ended with {status}", self.node);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().expect("no code that holds this lock panics")
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        // A paused process would keep its directory's lock for ever.
        if let Err(error) = self.kill() {
            tracing::warn!(%error, "a replica is left behind");
        }
    }
}

impl Process {
    fn tell(&mut self, what: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_string(what).expect("a question has no odd keys");
        line.push('\n');
        self.questions.write_all(line.as_bytes()).context("the process of a replica has ended")?;
        Ok(self.questions.flush()?)
    }

    fn hear(&mut self) -> Result<Answer> {
        let mut line = String::new();
        let bytes = self.answers.read_line(&mut line)?;
        ensure!(bytes > 0, "the process of a replica has ended");
        serde_json::from_str(&line).map_err(|error| anyhow!("a replica says '{}': {error}", line.trim_end()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_waits_for_nobody_behind_it() {
        assert_eq!(held_up_by(Vec::new()), 0, "alone");
        assert_eq!(held_up_by(vec![900, 5]), 5, "one of two, with this node");
        assert_eq!(held_up_by(vec![900, 5, 7, 800]), 7, "two of four");
    }

    #[test]
    fn a_prefix_keeps_its_chain() {
        let mark = Mark { slot: Slot(77), chain: Chain(0x0123_4567_89ab_cdef_0011_2233_4455_6677) };
        let text = serde_json::to_string(&Prefix::from(mark)).expect("JSON");
        assert_eq!(Mark::from(serde_json::from_str::<Prefix>(&text).expect("the same")), mark);
    }
}
