//! Whether an operation that failed is worth another try, where, and after how long.

use std::net::SocketAddr;
use std::time::Duration;

use synod_protocol::NodeId;
use synod_protocol::delivery::Refusal;

use super::{AppendError, BarrierError, ReadError, SessionError, TicketError, TransferError, TrimError};

/// How long an election takes, about: with the default settings half a second.
const ELECTION: Duration = Duration::from_millis(200);

/// How long a node that has too much to do takes to get some of it done.
const OVERLOAD: Duration = Duration::from_millis(20);

/// How long a disk, or a member that lags behind, takes to change for the better.
const REPAIR: Duration = Duration::from_secs(1);

/// What to do after an error.
///
/// ```
/// use std::time::Duration;
/// use synod::{AppendError, Retry};
///
/// match AppendError::NoLeader.retry() {
///     Retry::Here { after } => assert!(after > Duration::ZERO),
///     other => panic!("{other:?}"),
/// }
/// assert_eq!(AppendError::Empty.retry(), Retry::Never);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The same call fails again, however often it is made: the error says what to change.
    Never,
    /// Nothing happened. The same call may succeed at this node.
    Here {
        /// Not before.
        after: Duration,
    },
    /// Nothing happened. That node can do it.
    At {
        /// The leader.
        node: NodeId,
        /// Where it listens for clients, if that is known.
        address: Option<SocketAddr>,
    },
    /// Nothing happened, and nothing will at this node until it is started again. Another node can do it.
    Elsewhere,
    /// It may have happened, or may yet. A submission in a session, and what does no harm when it is done twice, is simply
    /// tried again; of anything else the log tells what became of it.
    FindOut,
}

impl Retry {
    fn at(leader: Option<NodeId>, address: Option<SocketAddr>) -> Retry {
        leader.map_or(Retry::Here { after: ELECTION }, |node| Retry::At { node, address })
    }
}

impl AppendError {
    /// Whether to try again, where, and when.
    pub fn retry(&self) -> Retry {
        match self {
            AppendError::NotLeader { leader, client_address, .. } => Retry::at(Some(*leader), *client_address),
            AppendError::NoLeader => Retry::Here { after: ELECTION },
            AppendError::Overloaded => Retry::Here { after: OVERLOAD },
            AppendError::DiskFull => Retry::Here { after: REPAIR },
            // Among those in flight one must be answered first.
            AppendError::Refused(Refusal::SequenceAhead { .. }) => Retry::Here { after: OVERLOAD },
            AppendError::TooLarge { .. }
            | AppendError::Empty
            | AppendError::DeadlinePassed
            | AppendError::Forbidden
            | AppendError::Refused(_) => Retry::Never,
            AppendError::Unknown => Retry::FindOut,
            AppendError::Shutdown | AppendError::Poisoned => Retry::Elsewhere,
        }
    }
}

impl SessionError {
    /// Whether to try again, where, and when.
    pub fn retry(&self) -> Retry {
        match self {
            SessionError::Over | SessionError::NoSuchSession => Retry::Never,
            SessionError::Append(error) => error.retry(),
        }
    }
}

impl TicketError {
    /// Whether to try again, where, and when.
    pub fn retry(&self) -> Retry {
        match self {
            TicketError::Superseded { .. } | TicketError::Over | TicketError::NoSuchTicket => Retry::Never,
            TicketError::Append(error) => error.retry(),
        }
    }
}

impl TrimError {
    /// Whether to try again, where, and when.
    pub fn retry(&self) -> Retry {
        match self {
            TrimError::NotLeader { leader } => Retry::at(*leader, None),
            TrimError::NothingToTrim { .. } | TrimError::NoDeliveryState { .. } => Retry::Here { after: REPAIR },
            TrimError::Unknown => Retry::FindOut,
            TrimError::Shutdown | TrimError::Poisoned => Retry::Elsewhere,
        }
    }
}

impl BarrierError {
    /// Whether to try again, where, and when.
    pub fn retry(&self) -> Retry {
        match self {
            BarrierError::NoLeader => Retry::Here { after: ELECTION },
            BarrierError::Overloaded => Retry::Here { after: OVERLOAD },
            BarrierError::Shutdown | BarrierError::Poisoned => Retry::Elsewhere,
        }
    }
}

impl TransferError {
    /// Whether to try again, where, and when.
    pub fn retry(&self) -> Retry {
        match self {
            TransferError::Refused(synod_protocol::TransferError::NotLeader) => Retry::Elsewhere,
            TransferError::Refused(
                synod_protocol::TransferError::NotMember(_) | synod_protocol::TransferError::LeadsAlready(_),
            ) => Retry::Never,
            TransferError::Refused(_) | TransferError::RolledBack(_) => Retry::Here { after: REPAIR },
            TransferError::Unknown => Retry::FindOut,
            TransferError::Shutdown | TransferError::Poisoned => Retry::Elsewhere,
        }
    }
}

impl ReadError {
    /// Whether to try again, where, and when.
    pub fn retry(&self) -> Retry {
        match self {
            ReadError::Unreachable => Retry::Here { after: ELECTION },
            ReadError::Shutdown | ReadError::Poisoned | ReadError::Disk { .. } | ReadError::Unjudged { .. } => {
                Retry::Elsewhere
            }
        }
    }
}
