//! What the core asks of its driver.

use crate::ballot::{Ballot, NodeId};
use crate::body::{BodyHandle, BodyKind, Mark};
use crate::config::Configuration;
use crate::message::Message;
use crate::slot::Slot;

/// The number of an append that a replica asked for; they are durable in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AppendId(pub u64);

/// What is to be made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogEntry {
    /// A promise not to accept below [`Append::promised`].
    Promise,
    /// A body accepted at a ballot; implies the promise of that ballot.
    Accepted {
        /// The ballot of the accept.
        ballot: Ballot,
        /// The body; its bytes are at hand.
        body: BodyHandle,
    },
    /// A chosen body that came from a peer's log.
    Copied {
        /// The body; its bytes are at hand.
        body: BodyHandle,
        /// Who sent it.
        from: NodeId,
    },
    /// Everything below [`Append::mark`] is given up: it is chosen, and gone elsewhere. See [`crate::Replica::install`].
    Installed {
        /// Whose log begins there.
        from: NodeId,
    },
}

/// An append to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Append {
    /// Its number; answered by `handle_durable` once it and all before it are on disk.
    pub id: AppendId,
    /// What to write.
    pub entry: LogEntry,
    /// The highest promise at this moment.
    pub promised: Ballot,
    /// The chosen prefix at this moment.
    pub mark: Mark,
    /// Whether the highest promise isn't known at this moment: the disk may have lost a higher one.
    pub unsure: bool,
}

/// The number of a barrier within one life of a replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BarrierId(pub u64);

/// How a barrier ended. A barrier changes nothing, so there is no unknown outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BarrierOutcome {
    /// Everything below this slot is delivered here, and everything that was acknowledged before the barrier began lies
    /// below it.
    Reached(Slot),
    /// The leader that should have confirmed it is gone. Begin another one.
    Lost,
}

/// How a transfer of the leadership ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TransferOutcome {
    /// This replica leads no more: a higher ballot is at work, in all likelihood the target's.
    Gone,
    /// The target didn't take over in time: this replica leads on.
    RolledBack,
}

/// What the core asks for. The driver takes effects in order and never looks back: every promise of durability is
/// kept inside the core, so there is no effect that may not be carried out at once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// Send a message, attaching its body's bytes; may be lost.
    Send {
        /// The receiver.
        to: NodeId,
        /// The message.
        message: Message,
    },
    /// Append to the log.
    Append(Append),
    /// The body is chosen and next in slot order; `mark` stands after it.
    Deliver {
        /// The chosen body.
        body: BodyHandle,
        /// The chosen prefix that includes it.
        mark: Mark,
    },
    /// Bring the bytes of `body` to hand, from memory, the own log, or (by `FetchBody`) from `holder`; then call
    /// [`crate::Replica::handle_obtained`].
    Obtain {
        /// The body that phase 1 revealed.
        body: BodyHandle,
        /// A node that reported it; may be this one.
        holder: NodeId,
    },
    /// Make a body of this shape, then call [`crate::Replica::handle_composed`].
    Compose {
        /// First slot.
        first: Slot,
        /// Number of slots.
        count: u32,
        /// Origin ballot.
        ballot: Ballot,
        /// A no-op range or a trim.
        kind: BodyKind,
    },
    /// Make a body that holds this configuration, in the slot at which it is to be chosen; then call
    /// [`crate::Replica::handle_composed`].
    ComposeConfiguration {
        /// The configuration; its slot is the body's.
        configuration: Box<Configuration>,
        /// Where the configuration was chosen that it succeeds: a part of the body's kind.
        after: Slot,
        /// Origin ballot.
        ballot: Ballot,
    },
    /// Send chosen bodies from the log as `Chosen` messages, from `from` on, at most `bytes` (but at least one body);
    /// or `Unavailable` if they are trimmed.
    Serve {
        /// The replica that catches up.
        to: NodeId,
        /// Where it stands.
        from: Slot,
        /// Bound of the answer.
        bytes: u32,
        /// This replica's chosen prefix.
        mark: Mark,
    },
    /// Send a body's bytes as `Supply`, or `Unavailable`.
    SupplyBody {
        /// The candidate that asks.
        to: NodeId,
        /// First slot of the body.
        first: Slot,
        /// Its identity.
        id: crate::body::BodyId,
    },
    /// A barrier is over.
    Barrier {
        /// Which one.
        id: BarrierId,
        /// Whether reads may go on.
        outcome: BarrierOutcome,
    },
    /// A transfer of the leadership is over.
    TransferEnded {
        /// Who was to lead.
        target: NodeId,
        /// How it ended.
        outcome: TransferOutcome,
    },
    /// Stop: the replica's chain differs from a peer's, or two processes share one identity. Never goes away by itself.
    Halt(HaltReason),
}

/// Why a replica must stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum HaltReason {
    /// Equal slots, different chains: some replica's log isn't the chosen one.
    #[error("the chain at slot {} is {}, but {peer} has {}: the logs have diverged", .ours.slot, .ours.chain, .theirs.chain)]
    Diverged {
        /// This replica's mark.
        ours: Mark,
        /// The peer's mark at the same slot.
        theirs: Mark,
        /// The peer.
        peer: NodeId,
    },
    /// Two different bodies at one ballot and slot.
    #[error("two different bodies were proposed at slot {slot} in ballot {ballot}: two processes share the identity of {}", .ballot.node)]
    BallotConflict {
        /// The slot.
        slot: Slot,
        /// The ballot.
        ballot: Ballot,
    },
}
