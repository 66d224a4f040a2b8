//! What can go wrong, one enum per operation. Each variant says whether to try again, and where; [`Retry`] says it to
//! programs.

mod retry;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use synod_frame::HelloRefusal;
use synod_protocol::delivery::{Refusal, TicketId};
use synod_protocol::{HaltReason, NodeId, Slot};
use thiserror::Error;

use crate::config::ConfigError;
use crate::probe::ProbeError;

pub use retry::Retry;

/// Why a node doesn't start. Nothing runs afterwards, and the directory is unlocked again.
#[derive(Debug, Error)]
pub enum StartError {
    /// The configuration contradicts itself.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The certificates can't be used.
    #[error("can't use the certificates for TLS: {0}")]
    Tls(#[from] crate::tls::TlsError),
    /// The host lacks something.
    #[error(transparent)]
    Host(#[from] ProbeError),
    /// The directory isn't what it should be: not initialised, in use, another node's.
    #[error(transparent)]
    Directory(#[from] synod_wal::directory::OpenError),
    /// The log is damaged, or can't be read. The directory is left as it was found.
    #[error(transparent)]
    Recover(#[from] synod_wal::RecoverError),
    /// The log doesn't name its members in a way that this build understands.
    #[error("the log names no members that this build understands; run `synod-tools verify`")]
    Genesis,
    /// Nobody has told where some members listen.
    #[error(
        "the cluster's members are {}, but it isn't known where {} listen: name them with --peer ID=IP:PORT",
        names(members),
        names(missing)
    )]
    Members {
        /// According to the directory.
        members: Vec<NodeId>,
        /// Those that neither the directory nor the configuration gives an address.
        missing: Vec<NodeId>,
    },
    /// A peer may propose a body that no segment of this node could take.
    #[error(
        "the log's segments of {segment_bytes} bytes can't take the largest body: make the directory anew with `synod init --segment-size` of 2097152 at least"
    )]
    SegmentBytes {
        /// Their size.
        segment_bytes: u64,
    },
    /// A listener can't be bound.
    #[error("can't listen at {address} ({source}){}", in_use_hint(.source))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the kernel answered.
        source: io::Error,
    },
    /// A segment file can't be opened or synced.
    #[error("{} can't be opened for writing: {source}", .path.display())]
    Segment {
        /// The file.
        path: PathBuf,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The shard's thread or its rings can't be set up.
    #[error("the shard can't be started: {0}")]
    Shard(io::Error),
}

fn names(nodes: &[NodeId]) -> String {
    nodes.iter().map(|node| node.0.to_string()).collect::<Vec<_>>().join(", ")
}

fn in_use_hint(source: &io::Error) -> &'static str {
    if source.kind() == io::ErrorKind::AddrInUse { ": another process listens there; choose another port" } else { "" }
}

/// Why a node didn't end in order. It has ended for its users; its directory may stay locked until the process ends.
#[derive(Debug, Error)]
pub enum ShutdownError {
    /// The disk didn't answer in time.
    #[error("the disk did not answer within {waited_seconds} seconds")]
    Disk {
        /// How long it was waited for.
        waited_seconds: u64,
    },
    /// The shard's thread has panicked.
    #[error("the shard's thread has panicked: {0}")]
    Panic(String),
}

/// Why a node no longer serves. It stays so until the process, or the node in it, is started again.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum StopReason {
    /// A write or a sync of the log failed: the node has fenced itself. It is not tried again, for the kernel may report
    /// success for what it has dropped; what is on the disk is found out by the next start.
    #[error("can't {operation} {}: {message}; {}, then start the node again", .path.display(), remedy(*.code))]
    Disk {
        /// What failed: `write` or `sync`.
        operation: &'static str,
        /// The segment file.
        path: PathBuf,
        /// The kernel's error number, if it gave one.
        code: Option<i32>,
        /// What the kernel answered.
        message: String,
    },
    /// This node's log contradicts a peer's: one of them isn't the log that was agreed on.
    #[error("{0}; don't start the node again before `synod-tools verify` has told which log is wrong")]
    Contradiction(HaltReason),
    /// A peer remembers more of this node's store than is in it, or another process runs on a copy of it: what it has
    /// promised is forgotten, so it must not vote.
    #[error("{peer} refuses this node: {why}")]
    Stranger {
        /// Who remembers.
        peer: NodeId,
        /// What it says: [`HelloRefusal::RolledBack`] or [`HelloRefusal::Twin`].
        why: HelloRefusal,
    },
    /// A configuration was chosen in which another store counts for this node: what this one says counts no more.
    #[error(
        "store {} counts for this node by now, and this is another one; stop whatever starts this directory: it is of no use any more",
        uuid::Uuid::from_bytes(*.named)
    )]
    Superseded {
        /// The store that counts.
        named: [u8; 16],
    },
    /// A part of the program failed.
    #[error("a bug: {0}; report it, and start the node again")]
    Bug(String),
}

impl StopReason {
    pub(crate) fn disk(operation: &'static str, path: PathBuf, error: &io::Error) -> StopReason {
        StopReason::Disk { operation, path, code: error.raw_os_error(), message: error.to_string() }
    }
}

fn remedy(code: Option<i32>) -> &'static str {
    match code.map(rustix::io::Errno::from_raw_os_error) {
        Some(rustix::io::Errno::ROFS) => "see in the kernel's log why the file system became read-only and mend it",
        Some(rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT) => {
            "make room below the file system (thin volume, image or quota)"
        }
        _ => "mend or replace the disk",
    }
}

/// Why an append was not, or may not have been, chosen.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum AppendError {
    /// Another node leads. Nothing was proposed: append there.
    #[error("node {leader} leads: append there{}", client_address.or(*address).map(|at| format!(", at {at}")).unwrap_or_default())]
    NotLeader {
        /// Who leads, as far as this node knows.
        leader: NodeId,
        /// Where the leader listens for its peers, if it is a configured peer.
        address: Option<SocketAddr>,
        /// Where the leader listens for clients, as far as [`crate::Config::client_peers`] says.
        client_address: Option<SocketAddr>,
    },
    /// Nobody is known to lead. Nothing was proposed: try again here after a while, or see
    /// [`crate::Log::wait_for_leader`].
    #[error("no leader at the moment: try again")]
    NoLeader,
    /// The intake is full. Nothing was proposed: try again here after a while. Only those hear this who don't want to wait
    /// for room: see [`crate::WhenFull`].
    #[error("the intake is full: try again")]
    Overloaded,
    /// The submission can't fit into a body. Nothing was proposed: split it.
    #[error(
        "a submission of {commands} commands and {bytes} bytes doesn't fit into a body of at most {commands_max} \
         commands and {bytes_max} bytes, headers included: split it"
    )]
    TooLarge {
        /// Its commands.
        commands: usize,
        /// Their bytes.
        bytes: usize,
        /// The most commands that a body may have.
        commands_max: u32,
        /// The most bytes that a body may take, headers included.
        bytes_max: usize,
    },
    /// The submission has no commands. A bug of the caller: don't try again.
    #[error("the submission is empty")]
    Empty,
    /// The disk is full. Nothing was proposed: try again here when there is room.
    #[error("the disk is full: no new commands are taken until there is room")]
    DiskFull,
    /// Its deadline passed before it was proposed. It is not in the log and never will be.
    #[error("the deadline passed before it was proposed")]
    DeadlinePassed,
    /// Over the network only: the client's certificate doesn't grant the role *append*. Nothing was proposed.
    #[error("the client's certificate doesn't grant the role append")]
    Forbidden,
    /// It was proposed, and may or may not be chosen, now or later. Trying again may append it twice: read the log
    /// first to find out.
    #[error("the outcome is unknown: it was proposed, and may still be chosen")]
    Unknown,
    /// It was chosen, but doesn't count: its session, its ticket or the slot that it expected is against it, and the reason
    /// says what to do. Readers don't get it. See [`AppendError::is_certain`].
    #[error("the submission doesn't count: {0}")]
    Refused(Refusal),
    /// The node is shutting down, or gone. If it was proposed before, the answer would have been `Unknown`.
    #[error("the node has shut down")]
    Shutdown,
    /// The node's own disk failed, or its log contradicts its peers'. Nothing was proposed: append at another node.
    /// This node answers so until it is restarted.
    #[error("the node has stopped serving after a failure: append at another node")]
    Poisoned,
}

impl AppendError {
    /// Whether the submission certainly doesn't count and never will, so that trying again can't double it. Of a retry in a
    /// session that is over, or under a number that is too old, nobody knows any more what became of the first attempt; see
    /// [`Refusal::is_final`].
    pub fn is_certain(&self) -> bool {
        match self {
            AppendError::Unknown => false,
            AppendError::Refused(refusal) => refusal.is_final(),
            _ => true,
        }
    }
}

/// Why a session wasn't opened or closed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SessionError {
    /// It is over already: evicted or closed before. There is nothing left to close.
    #[error("the session is over already")]
    Over,
    /// There was never such a session. A bug of the caller: don't try again.
    #[error("there was never such a session")]
    NoSuchSession,
    /// The command wasn't appended, or may not have been; the reason says whether and where to try again. Closing twice does
    /// no harm. Opening twice leaves a session behind that nobody uses, and that is evicted some day.
    #[error("the session command is not in the log: {0}")]
    Append(AppendError),
}

impl From<AppendError> for SessionError {
    fn from(error: AppendError) -> SessionError {
        match error {
            AppendError::Refused(Refusal::SessionEvicted) => SessionError::Over,
            AppendError::Refused(Refusal::SessionUnknown) => SessionError::NoSuchSession,
            error => SessionError::Append(error),
        }
    }
}

/// Why a ticket wasn't issued or revoked.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TicketError {
    /// A newer ticket was issued since. There is nothing left to revoke.
    #[error("the ticket is superseded by that of slot {}", newest.0)]
    Superseded {
        /// The newest ticket.
        newest: TicketId,
    },
    /// It has expired, or was revoked before. There is nothing left to revoke.
    #[error("the ticket has expired or was revoked already")]
    Over,
    /// There was never such a ticket. A bug of the caller: don't try again.
    #[error("there was never such a ticket")]
    NoSuchTicket,
    /// The command wasn't appended, or may not have been; the reason says whether and where to try again. Revoking twice does
    /// no harm. Issuing twice supersedes the first of the two tickets.
    #[error("the ticket command is not in the log: {0}")]
    Append(AppendError),
}

impl From<AppendError> for TicketError {
    fn from(error: AppendError) -> TicketError {
        match error {
            AppendError::Refused(Refusal::TicketSuperseded { newest }) => TicketError::Superseded { newest },
            AppendError::Refused(Refusal::TicketExpired) => TicketError::Over,
            AppendError::Refused(Refusal::TicketUnknown) => TicketError::NoSuchTicket,
            error => TicketError::Append(error),
        }
    }
}

/// Why nothing was trimmed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TrimError {
    /// This node doesn't lead, or no longer: trim at the leader, if one is known. Trimming twice does no harm.
    #[error("this node doesn't lead: trim at the leader")]
    NotLeader {
        /// Who leads, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// Some member doesn't have everything below the point durably yet: try again later.
    #[error("nothing to trim: every member durably has the log up to slot {held}, and it is trimmed up to {trimmed}")]
    NothingToTrim {
        /// First slot that some member may still need.
        held: Slot,
        /// First slot that is kept now.
        trimmed: Slot,
    },
    /// Sessions or tickets are in use, and what they remember isn't kept for any point so low. It is now: try again later, with
    /// a higher slot.
    #[error("nothing to trim: sessions are in use, and their state is not kept for any point so low")]
    NoDeliveryState {
        /// The lowest point for which it is kept, once it is known.
        point: Option<Slot>,
    },
    /// It was proposed, and may or may not be agreed on, now or later. Trimming twice does no harm.
    #[error("the outcome is unknown: the trim was proposed, and may still be agreed on")]
    Unknown,
    /// The node is shutting down, or gone.
    #[error("the node has shut down")]
    Shutdown,
    /// The node has stopped serving after a failure.
    #[error("the node has stopped serving after a failure")]
    Poisoned,
}

/// Why a barrier wasn't reached. A barrier changes nothing: begin another one.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BarrierError {
    /// No leader could confirm it: try again after a while, or see [`crate::Log::wait_for_leader`].
    #[error("no leader could confirm the barrier: try again")]
    NoLeader,
    /// Too many barriers wait: try again after a while.
    #[error("too many barriers wait already: try again")]
    Overloaded,
    /// The node is shutting down, or gone.
    #[error("the node has shut down")]
    Shutdown,
    /// The node has stopped serving after a failure: read at another node.
    #[error("the node has stopped serving after a failure: read at another node")]
    Poisoned,
}

/// Why the leadership wasn't handed over.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TransferError {
    /// It wasn't begun: the reason says what to wait for.
    #[error("the leadership isn't handed over: {0}")]
    Refused(synod_protocol::TransferError),
    /// The connection to the leader was lost meanwhile: whether the target leads now, the status tells. Only a remote log
    /// says this.
    #[error("the outcome is unknown: look who leads")]
    Unknown,
    /// The target didn't take over within an election timeout; this node leads on.
    #[error("{0} didn't take over in time: this node leads on")]
    RolledBack(NodeId),
    /// The node is shutting down, or gone.
    #[error("the node has shut down")]
    Shutdown,
    /// The node has stopped serving after a failure, so it leads no more.
    #[error("the node has stopped serving after a failure, and leads no more")]
    Poisoned,
}

/// Why the membership wasn't changed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum MembershipError {
    /// This node doesn't lead: change the membership at the leader, if one is known.
    #[error("this node doesn't lead: change the membership at the leader")]
    NotLeader {
        /// Who leads, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// It wasn't proposed: the reason says what to do first.
    #[error("the membership isn't changed: {0}")]
    Refused(synod_protocol::ReconfigureError),
    /// A remote log doesn't change the membership: [`crate::client::Client`] and `synod member` do.
    #[error("a remote log doesn't change the membership: use a client of the leader, or `synod member`")]
    Remote,
    /// Another change was chosen first, which this one didn't know: look at the members and ask again.
    #[error("another change was chosen before this one, which is void: look at the members, and ask again")]
    Superseded,
    /// It was proposed, and may or may not be chosen: look at the members.
    #[error("the outcome is unknown: the change was proposed, and may still be chosen; look at the members")]
    Unknown,
    /// The node is shutting down, or gone.
    #[error("the node has shut down")]
    Shutdown,
    /// The node has stopped serving after a failure.
    #[error("the node has stopped serving after a failure")]
    Poisoned,
}

/// Why a read gives nothing.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ReadError {
    /// The node is shutting down, or gone.
    #[error("the node has shut down")]
    Shutdown,
    /// The node has stopped serving after a failure: read at another node.
    #[error("the node has stopped serving after a failure: read at another node")]
    Poisoned,
    /// No node can be reached: try again. Only a remote log says this.
    #[error("no node can be reached: try again")]
    Unreachable,
    /// The body can't be read from this node's disk: read at another node.
    #[error("the body at slot {slot} can't be read from this node's disk: read at another node")]
    Disk {
        /// The slot asked for.
        slot: Slot,
    },
    /// Whether what stands there counts isn't known on this node: a body before it can't be read from its disk, or too much
    /// was suppressed since. Read at another node, or from a later slot.
    #[error(
        "whether the commands at slot {slot} count isn't known on this node: read at another node, or from slot {first} on"
    )]
    Unjudged {
        /// The slot asked for.
        slot: Slot,
        /// The first slot from which on it may be known.
        first: Slot,
    },
}
