//! One node: a log and a state machine that it drives, and lines that ask for something.

use std::fmt::Display;
use std::io::{self, BufRead as _, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use synod::machine::{Driver, DriverOptions, ExecuteError, SnapshotOptions, StateMachine};
use synod::{AppendOptions, Config, Node, NodeId, Retention, Retry, SessionId, Slot};

/// Memory for buffers: three nodes share this machine.
const IO_MEMORY_BYTES: usize = 16 << 20;

/// How long the log may get, in bytes: little, so that a node that stays away soon needs a snapshot.
const RETENTION: Retention = Retention { bytes: Some(4 << 20), age: None, hard_bytes: Some(8 << 20) };

/// Where a node is and whom it talks to.
#[derive(Debug, clap::Args)]
pub struct NodeArguments {
    /// The node's directory.
    #[arg(long)]
    pub dir: PathBuf,
    /// This node's number.
    #[arg(long)]
    pub node: u32,
    /// Where it listens for its peers.
    #[arg(long)]
    pub listen: SocketAddr,
    /// Another node, as NODE=ADDRESS.
    #[arg(long = "peer", value_parser = parse_peer)]
    pub peers: Vec<(NodeId, SocketAddr)>,
    /// Bytes of snapshots that it gives to others in a second.
    #[arg(long, default_value_t = 64 << 20)]
    pub snapshot_bytes_per_second: u64,
}

fn parse_peer(text: &str) -> Result<(NodeId, SocketAddr), String> {
    let (node, address) = text.split_once('=').ok_or("expected NODE=ADDRESS")?;
    let node = node.parse().map(NodeId).map_err(|_| format!("{node:?} is no node"))?;
    Ok((node, address.parse().map_err(|_| format!("{address:?} is no address"))?))
}

/// What a program adds to this: how its machine is opened, and what lines it understands.
pub trait Store: StateMachine<Output = Result<String, String>> + Sized {
    /// Opens the machine's storage in a node's directory, or makes it.
    ///
    /// # Errors
    /// If it can't be opened.
    fn open(directory: &std::path::Path) -> Result<Self, Self::Error>;

    /// Answers a line that only reads.
    ///
    /// # Errors
    /// Why it can't be answered, for the one who asked.
    fn query(&self, line: &str) -> Result<String, String>;
}

/// Runs a node until its standard input ends. A line is answered by a line:
///
/// | line | answer |
/// |---|---|
/// | `session` | `ok SESSION` |
/// | `once SESSION NUMBER COMMAND` | `ok RESULT` or `no REASON`: the command was executed once, however often it is sent |
/// | `fresh QUESTION` | `ok ANSWER`, which nothing that was answered before is missing from |
/// | `local QUESTION` | `ok ANSWER`, perhaps a stale one |
/// | `log` | `ok BASE POSITION`: where the node's log begins, and how far its machine has come |
/// | `search` | `ok BYTES`: how much of a snapshot has come, while the machine needs one; otherwise `ok none` |
/// | any of them | `ask NODE`, which leads; or `again`: try again here or elsewhere |
///
/// # Errors
/// If the node or its machine can't be started, or doesn't end in order.
pub fn serve<S: Store>(arguments: NodeArguments) -> anyhow::Result<()> {
    let machine = S::open(&arguments.dir).context("the database can't be opened")?;
    let mut config = Config::new(arguments.dir.join("log"), NodeId(arguments.node), arguments.listen);
    config.peers = arguments.peers;
    config.io_memory_bytes = IO_MEMORY_BYTES;
    config.retention = RETENTION;
    let mut node = Node::start(config)?;
    let mut exchange = SnapshotOptions::in_directory(arguments.dir.join("snapshots"));
    exchange.bytes_per_second = arguments.snapshot_bytes_per_second;
    let options = DriverOptions { exchange: Some(exchange), ..DriverOptions::default() };
    let driver = Driver::start(node.log(), machine, options)?;
    let mut out = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let answer = answer(&driver, &line?);
        // A newline would end the answer early.
        writeln!(out, "{}", answer.replace('\n', "; "))?;
        out.flush()?;
    }
    // First the driver, so that it isn't told of a log that ends.
    driver.stop()?;
    Ok(node.shutdown()?)
}

fn answer<S: Store>(driver: &Driver<S>, line: &str) -> String {
    let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
    match verb {
        "session" => match driver.log().open_session_blocking() {
            Ok(SessionId(slot)) => format!("ok {slot}"),
            Err(error) => advise(error.retry(), error),
        },
        "once" => match parse_once(rest) {
            Some((session, number, command)) => execute(driver, session, number, command),
            None => "no `once SESSION NUMBER COMMAND` is expected".to_owned(),
        },
        "log" => format!("ok {} {}", driver.log().status().base, driver.position()),
        "search" => match driver.search() {
            Some(search) => format!("ok {}", search.fetched),
            None => "ok none".to_owned(),
        },
        "fresh" | "local" => {
            let question = rest.to_owned();
            let ask = move |machine: &S| machine.query(&question);
            let asked =
                if verb == "fresh" { driver.query_fresh_blocking(ask) } else { driver.query_local_blocking(ask) };
            match asked {
                Ok(Ok(answer)) => format!("ok {answer}"),
                Ok(Err(reason)) => format!("no {reason}"),
                Err(error) => advise(error.retry(), error),
            }
        }
        _ => format!("no line begins with {verb:?}"),
    }
}

fn parse_once(rest: &str) -> Option<(SessionId, u64, &str)> {
    let (session, rest) = rest.split_once(' ')?;
    let (number, command) = rest.split_once(' ')?;
    Some((SessionId(Slot(session.parse().ok()?)), number.parse().ok()?, command))
}

fn execute<S: Store>(driver: &Driver<S>, session: SessionId, number: u64, command: &str) -> String {
    let options = AppendOptions { session: Some((session, number)), ..AppendOptions::default() };
    match driver.execute_with_blocking(command, options) {
        Ok(Ok(result)) => format!("ok {result}"),
        Ok(Err(reason)) => format!("no {reason}"),
        // The first attempt counted, and its answer was lost with a node or a connection.
        Err(ExecuteError::ResultGone { slot }) => format!("ok executed before, at slot {slot}"),
        Err(error) => advise(error.retry(), error),
    }
}

/// What a client is to do: in a session it may simply try again, whatever became of the first attempt.
fn advise(retry: Retry, error: impl Display) -> String {
    match retry {
        Retry::At { node, .. } => format!("ask {}", node.0),
        Retry::Here { after } => {
            std::thread::sleep(after.min(Duration::from_millis(50)));
            "again".to_owned()
        }
        Retry::Elsewhere | Retry::FindOut => "again".to_owned(),
        Retry::Never => format!("no {error}"),
    }
}
