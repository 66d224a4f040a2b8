//! Synod: a replicated log. Commands go in, every replica gives them out in the same order, and none is acknowledged
//! before a quorum has it on disk.
//!
//! ```no_run
//! use synod::{Config, Node, NodeId};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut config = Config::new("/var/lib/synod", NodeId(1), "127.0.0.1:7001".parse()?);
//! config.peers = vec![(NodeId(2), "127.0.0.1:7002".parse()?), (NodeId(3), "127.0.0.1:7003".parse()?)];
//! let node = Node::start(config)?; // owns its thread; no runtime of the caller's is needed
//! let log = node.log(); // Clone + Send + Sync
//! let slot = log.append_blocking(b"x = 1")?; // chosen, durable on a quorum, and delivered
//! let mut reader = log.reader(slot);
//! # Ok(())
//! # }
//! ```
//!
//! The directory is made by `synod init` and `synod bootstrap`, or by [`directory`].
//!
//! # Architecture
//! [`Node`] starts one thread, a *shard*, that drives the sans-IO core of `synod-wal` and `synod-protocol` on one
//! io_uring executor. [`Log`] and [`Reader`] hand work to it and wait for answers. Everything that knows the runtime
//! underneath lies in the private module `seam`; nothing of it is part of this interface.
#![deny(unsafe_code)]

mod admin;
pub mod client;
mod clients;
mod clock;
mod config;
mod error;
mod intake;
pub mod limits;
mod link;
mod log;
pub mod machine;
mod mailbox;
mod memory;
mod meters;
mod metrics;
mod node;
mod probe;
mod reader;
mod seam;
pub mod settings;
mod shard;
mod status;
pub mod testing;
mod watch;

pub use config::{Config, ConfigError, Retention};
pub use error::{
    AppendError, BarrierError, MembershipError, ReadError, Retry, SessionError, ShutdownError, StartError, StopReason,
    TicketError, TransferError, TrimError,
};
pub use log::{AppendOptions, Log, WhenFull};
pub use memory::MemoryBound;
pub use node::{GROUP, Node};
pub use probe::{HostReport, ProbeError, probe};
pub use reader::{Entries, Entry, ReadItem, Reader, SharedBody};
pub use status::{Counters, Damage, Membership, Startup, Status};
pub use watch::Watch;

/// What [`probe()`] checks, one thing at a time: for programs that tell all that is wrong with a host.
pub mod host {
    pub use crate::probe::{MEMLOCK_MIN_BYTES, allowed_cores, direct_io, file_system, memlock, uring};
}

pub use synod_frame::client::{MemberChange, MembersReport, Newcomer, StoredBody};
pub use synod_frame::{Batch, BatchError, BodyHeader, CommandsError, CommandsView, ConfigurationBody, GroupId, Member};
/// Why the membership isn't changed.
pub use synod_protocol::ReconfigureError as MembershipRefusal;
/// Why the leadership isn't handed over.
pub use synod_protocol::TransferError as TransferRefusal;
/// What became of submissions with terms.
pub use synod_protocol::delivery::{Answer, Refusal, SessionId, TicketId};
pub use synod_protocol::{
    Ballot, BodyHandle, BodyId, BodyKind, Chain, Configuration, Mark, NodeId, PeerStatus, Role, Settings, Slot,
    SlotRange,
};
/// Making and opening a node's directory.
pub use synod_wal::directory;
pub use synod_wal::{LogStats, StoredConfiguration, Suppressed, SyncMode};
