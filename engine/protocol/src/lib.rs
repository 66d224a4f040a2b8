//! The core of Synod: Multi-Paxos as plain values. No I/O, clock, randomness or threads: what happens is a function
//! of what is handed in, so the simulator, the model checker and the runtime drive the very same code.
//!
//! [`Replica`] is one node's part in one group. Its words are those of the glossary in `engine/docs/protocol.md`.
//! [`decree`] is the plain case that it grew from: one instance, one command.
#![forbid(unsafe_code)]

// The test cluster in `tests/cluster` serves unit and integration tests alike, under one name of this crate.
#[cfg(test)]
extern crate self as synod_protocol;

mod ballot;
mod body;
mod config;
pub mod decree;
pub mod delivery;
mod effect;
pub mod limits;
mod message;
mod replica;
mod slot;
pub mod snapshot;
mod time;

pub use ballot::{Ballot, NodeId};
pub use body::{BodyHandle, BodyId, BodyKind, Chain, Mark};
pub use config::{
    ALPHA_RANGE, Configuration, ConfigurationError, Configurations, FORMAT_FIRST, FORMAT_MAX, MEMBERS_MAX, Settings,
    SettingsError,
};
pub use effect::{Append, AppendId, BarrierId, BarrierOutcome, Effect, HaltReason, LogEntry, TransferOutcome};
pub use message::{AcceptedBody, Doubt, Message, RejectReason};
pub use replica::{
    BarrierError, Change, Opening, PeerStatus, ProposeError, ReconfigureError, Recovered, Replica, Role, Status,
    TransferError, TrimError,
};
pub use slot::{Slot, SlotRange};
pub use time::Instant;
