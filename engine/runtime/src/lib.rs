//! Synod: a replicated log. Commands go in, every replica gives them out in the same order, and none is acknowledged
//! before a quorum has it on disk.
//!
//! ```
//! use synod::testing::Cluster;
//! use synod::{Entry, ReadItem, Slot};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     // Three nodes in this process. With real disks and sockets the next lines are the same: see below.
//!     let cluster = Cluster::start(3)?;
//!     let log = cluster.log(cluster.wait_for_leader());
//!
//!     // Resolves when the command is chosen, durable on a quorum, and delivered.
//!     let slot = log.append_blocking(b"x = 1")?;
//!     log.append_batch_blocking(["x = 2", "y = 3"].into_iter().collect())?;
//!
//!     // Everything that was acknowledged anywhere is delivered here now, up to this slot.
//!     let end = log.barrier_blocking()?;
//!     let mut reader = log.reader(slot);
//!     let mut commands = Vec::new();
//!     while reader.position() < end {
//!         let ReadItem::Body(body) = reader.next_blocking()? else { continue };
//!         for entry in body.entries()? {
//!             match entry? {
//!                 Entry::Command { slot, command } => commands.push((slot, command.to_vec())),
//!                 Entry::Suppressed(gap) => println!("{:?} doesn't count: {:?}", gap.slots, gap.answer),
//!             }
//!         }
//!     }
//!     assert_eq!(commands.len(), 3);
//!     assert_eq!(commands[0], (slot, b"x = 1".to_vec()));
//!     Ok(())
//! }
//! ```
//!
//! A node of its own has a directory, made by `synod init` and `synod bootstrap` or by [`directory`], and peers:
//!
//! ```no_run
//! use synod::{Config, Node, NodeId};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut config = Config::new("/var/lib/synod", NodeId(1), "127.0.0.1:7001".parse()?);
//! config.peers = vec![(NodeId(2), "127.0.0.1:7002".parse()?), (NodeId(3), "127.0.0.1:7003".parse()?)];
//! let node = Node::start(config)?; // owns its thread; no runtime of the caller's is needed
//! let log = node.log(); // Clone + Send + Sync
//! # Ok(())
//! # }
//! ```
//!
//! # Where to go on
//! | for | see |
//! |---|---|
//! | appending, reading, barriers, trims, leadership | [`Log`] |
//! | terms: once only, under a ticket, at a slot, by a deadline | [`AppendOptions`] |
//! | following who leads and how far everybody is | [`Log::watch`] |
//! | what to do after an error | [`Retry`] |
//! | a state machine that is driven by the log | [`machine`] |
//! | the same log over the network | [`remote`] |
//! | a cluster for tests, with faults | [`testing`] |
//! | how much memory a node takes | [`Config::memory_bound`] |
//!
//! Futures work on any executor, and each has a twin that blocks. All may be dropped at any time.
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
pub mod remote;
mod seam;
pub mod settings;
mod shard;
mod status;
pub mod testing;
pub mod tls;
mod watch;

pub use config::{Config, ConfigError, Retention};
pub use error::{
    AppendError, BarrierError, MembershipError, ReadError, Retry, SessionError, ShutdownError, StartError, StopReason,
    TicketError, TransferError, TrimError,
};
pub use log::{AppendOptions, Log, WhenFull};
pub use memory::MemoryBound;
pub use node::{GROUP, Node, UnknownGroup};
pub use probe::{HostReport, ProbeError, probe};
pub use reader::{Entries, Entry, ReadItem, Reader, SharedBody};
pub use status::{Counters, Damage, Flow, Membership, Startup, Status};
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
    Ballot, BodyHandle, BodyId, BodyKind, Chain, Configuration, FORMAT_FIRST, FORMAT_MAX, Mark, NodeId, PeerStatus,
    Role, Settings, Slot, SlotRange,
};
/// Making and opening a node's directory.
pub use synod_wal::directory;
pub use synod_wal::{LogStats, StoredConfiguration, Suppressed, SyncMode};
