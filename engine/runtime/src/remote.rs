//! A log that other processes keep: the same [`Log`], over the client ports of a cluster.
//!
//! ```no_run
//! use synod::remote::{Remote, RemoteConfig};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let servers = vec!["10.0.0.1:7100".parse()?, "10.0.0.2:7100".parse()?, "10.0.0.3:7100".parse()?];
//! let remote = Remote::start(RemoteConfig::new(servers))?;
//! let log = remote.log(); // as a node's own: Clone + Send + Sync
//! let slot = log.append_blocking(b"x = 1")?;
//! # Ok(())
//! # }
//! ```
//!
//! One thread finds the leader and keeps one connection to it, over which appends are sent ahead of their answers; readers
//! have connections of their own, to any node. It finds the next leader by itself, and sends again what wasn't answered,
//! for as long as [`RemoteConfig::retry_within`] says. That doubles nothing: each append goes under a session of this
//! client's own ([`RemoteConfig::exactly_once`]), so that a second copy isn't delivered and answers with the first one's
//! slots. Submissions wait in the same bounded intake as at a node.
//!
//! What differs from a node's own log:
//! - [`Log::status`] is that of the node that was asked last, some 200 ms old, and knows nothing of its disk.
//! - [`Log::mark_at`] gives nothing.
//! - [`Log::wait_for_leader`] waits for a connection to the leader.

mod answers;
mod connection;
mod desk;
mod flights;
mod reads;
mod sessions;

use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use synod_frame::{BodyBounds, GroupId};
use synod_protocol::{Ballot, Mark, NodeId, Role, Slot};
use synod_wal::LogStats;
use thiserror::Error;

use crate::error::AppendError;
use crate::intake::Intake;
use crate::log::{Log, Shared};
use crate::machine::exchange::Exchange;
use crate::mailbox::{Mailbox, Request};
use crate::meters::Meters;
use crate::node::GROUP;
use crate::seam::plain;
use crate::status::{Counters, Damage, Membership, Startup, Status};
use crate::tls::ClientTls;
use crate::watch::Board;

use desk::Desk;

/// What a remote log is told. [`RemoteConfig::new`] fills in defaults.
#[derive(Clone, Debug)]
pub struct RemoteConfig {
    /// Client addresses of the cluster's nodes, in any order; some are enough if the nodes know each other's
    /// ([`crate::Config::client_peers`]), all are better.
    pub servers: Vec<SocketAddr>,
    /// Which of the cluster's logs. Default the first, which is the only one of most clusters.
    pub group: GroupId,
    /// How long an append, or a barrier, is tried before it fails: through elections, refusals and lost connections.
    /// Default 10 s.
    pub retry_within: Duration,
    /// How long a connection may be silent although something was asked; then another one is made. Default 2 s.
    pub answer_within: Duration,
    /// How long a connection may take to be made. Default 1 s.
    pub connect_within: Duration,
    /// The client's certificates, for a cluster that asks for them. Default none.
    pub tls: Option<ClientTls>,
    /// Put each append into a session, so that it can be sent again without being delivered twice. Costs some bytes for
    /// each append, and four of the cluster's 1,024 sessions. Without, an append whose connection is lost is
    /// [`AppendError::Unknown`]. Default yes.
    pub exactly_once: bool,
    /// Bytes of submissions that are sent and not answered. Default 8 MiB.
    pub in_flight_bytes: u64,
    /// Bytes of submissions that wait to be sent, above which an append waits. Default 16 MiB.
    pub intake_bytes: u64,
    /// How many submissions may wait to be sent. Default 65,536.
    pub intake_count: usize,
}

impl RemoteConfig {
    /// A log that these nodes keep.
    pub fn new(servers: Vec<SocketAddr>) -> RemoteConfig {
        RemoteConfig {
            servers,
            group: GROUP,
            retry_within: Duration::from_secs(10),
            answer_within: Duration::from_secs(2),
            connect_within: Duration::from_secs(1),
            tls: None,
            exactly_once: true,
            in_flight_bytes: 8 << 20,
            intake_bytes: 16 << 20,
            intake_count: 65_536,
        }
    }
}

impl RemoteConfig {
    /// The most memory that a remote log takes, in bytes, without what readers have given out: 2 × (`intake_bytes` +
    /// `in_flight_bytes`) + 256 × (`intake_count` + 256) + 2 MiB, and 4 MiB for each [`crate::Reader`] that waits.
    pub fn memory_bound(&self, readers: usize) -> u64 {
        let queued = 2 * (self.intake_bytes + self.in_flight_bytes) + 256 * (self.intake_count as u64 + 256);
        queued + (2 << 20) + readers as u64 * (4 << 20)
    }
}

/// Why a remote log can't be set up.
#[derive(Debug, Error)]
pub enum RemoteError {
    /// There is nobody to ask.
    #[error("no servers are given: name the client address of one node at least")]
    NoServers,
    /// A bound or a time of zero.
    #[error("{0} must not be zero")]
    Zero(&'static str),
    /// There can't be a thread.
    #[error("the client's thread can't be started: {0}")]
    Thread(std::io::Error),
}

/// A connection to a cluster, kept up by a thread. Dropping it closes it: what waits is answered with
/// [`AppendError::Shutdown`] then, and what is under way has half a second before it is [`AppendError::Unknown`].
pub struct Remote {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Remote {
    /// Starts the thread; returns at once. Whether the cluster can be reached comes later: see [`Log::wait_for_leader`].
    ///
    /// # Errors
    /// See [`RemoteError`].
    pub fn start(config: RemoteConfig) -> Result<Remote, RemoteError> {
        if config.servers.is_empty() {
            return Err(RemoteError::NoServers);
        }
        let times = [
            ("retry_within", config.retry_within),
            ("answer_within", config.answer_within),
            ("connect_within", config.connect_within),
        ];
        let bounds = [("in_flight_bytes", config.in_flight_bytes), ("intake_bytes", config.intake_bytes)];
        let zero_time = times.iter().find(|(_, time)| time.is_zero()).map(|(name, _)| *name);
        let zero_bound = bounds.iter().find(|(_, bound)| *bound == 0).map(|(name, _)| *name);
        let zero_count = (config.intake_count == 0).then_some("intake_count");
        if let Some(name) = zero_time.or(zero_bound).or(zero_count) {
            return Err(RemoteError::Zero(name));
        }
        let shared = Arc::new(Shared {
            intake: Arc::new(Intake::new(config.intake_bytes, config.intake_count)),
            mailbox: Mailbox::default(),
            board: Board::new(nothing_known()),
            meters: Arc::new(Meters::new()),
            bounds: BodyBounds::LARGEST,
            forward: None,
            exchange: Exchange::remote(),
        });
        shared.intake.open();
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("synod-remote".to_owned())
            .spawn(move || {
                plain::run(|tasks| async move {
                    let desk = Rc::new(Desk::new(config, for_thread, tasks));
                    desk.run().await;
                });
            })
            .map_err(RemoteError::Thread)?;
        Ok(Remote { shared, thread: Some(thread) })
    }

    /// The handle of the log.
    pub fn log(&self) -> Log {
        Log::new(Arc::clone(&self.shared))
    }

    /// Closes the connection and ends the thread; see [`Remote`].
    pub fn close(&mut self) {
        self.shared.intake.close(AppendError::Shutdown);
        self.shared.mailbox.ask(Request::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of a remote log has panicked");
        }
        // Only after a panic there is still somebody who waits.
        self.shared.mailbox.close();
        self.shared.board.close();
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").finish_non_exhaustive()
    }
}

fn nothing_known() -> Status {
    Status {
        node: NodeId(0),
        role: Role::Follower,
        leader: None,
        ballot: Ballot::ZERO,
        promised: Ballot::ZERO,
        mark: Mark::START,
        stable: Slot(0),
        base: Slot::FIRST,
        judged: Slot(0),
        sessions: 0,
        boot: 0,
        open_bodies: 0,
        peers: Vec::new(),
        full: false,
        behind: None,
        held_by: None,
        membership: Membership::unknown(),
        damage: Damage::default(),
        wal: LogStats::default(),
        startup: Startup::default(),
        counters: Counters::default(),
        stopped: None,
    }
}
