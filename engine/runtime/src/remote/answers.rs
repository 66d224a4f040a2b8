//! What a node's refusals mean to those who wait.

use std::net::SocketAddr;
use std::time::Duration;

use synod_frame::client::ClientRefusal;
use synod_protocol::limits::{BODY_BYTES_MAX, BODY_SLOTS_MAX};
use synod_protocol::{NodeId, Slot};

use crate::error::{AppendError, BarrierError, ReadError, TransferError, TrimError};
use crate::intake::Work;

/// What to do about a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing was appended; this node can't do it, another one may. The leader's address, if it was told.
    Elsewhere(Option<SocketAddr>, AppendError),
    /// Nothing was appended; this node can do it later.
    Later(Duration),
    /// It may have been appended.
    Doubtful,
    /// It is answered.
    Final(AppendError),
}

/// What becomes of an append that is refused.
pub(super) fn verdict(refusal: ClientRefusal, work: &Work) -> Verdict {
    match refusal {
        ClientRefusal::NotLeader { leader, address } => {
            let client_address = address.parse().ok();
            Verdict::Elsewhere(client_address, not_leader(leader, client_address))
        }
        ClientRefusal::NoLeader | ClientRefusal::Shutdown => Verdict::Elsewhere(None, AppendError::NoLeader),
        ClientRefusal::Overloaded { retry_after } => Verdict::Later(retry_after),
        ClientRefusal::UnknownOutcome => Verdict::Doubtful,
        ClientRefusal::NotDelivered(refusal) => Verdict::Final(AppendError::Refused(refusal)),
        ClientRefusal::DeadlinePassed => Verdict::Final(AppendError::DeadlinePassed),
        ClientRefusal::DiskFull => Verdict::Final(AppendError::DiskFull),
        ClientRefusal::Forbidden { .. } => Verdict::Final(AppendError::Forbidden),
        ClientRefusal::TooLarge => Verdict::Final(too_large(work)),
        // The rest answers no append; a node that says so speaks of something else.
        ClientRefusal::UnknownGroup
        | ClientRefusal::Trimmed { .. }
        | ClientRefusal::Unreadable { .. }
        | ClientRefusal::NothingToTrim { .. }
        | ClientRefusal::NoDeliveryState { .. }
        | ClientRefusal::NotTransferred(_)
        | ClientRefusal::NotChanged { .. }
        | ClientRefusal::RolledBack { .. } => Verdict::Doubtful,
    }
}

fn not_leader(leader: Option<NodeId>, client_address: Option<SocketAddr>) -> AppendError {
    leader.map_or(AppendError::NoLeader, |leader| AppendError::NotLeader { leader, address: None, client_address })
}

fn too_large(work: &Work) -> AppendError {
    let (commands, bytes) = match work {
        Work::Commands { batch, .. } => (batch.len(), batch.bytes().len()),
        Work::Session(_) | Work::Ticket(_) => (1, 0),
    };
    // By the largest bounds that a cluster may have; this one's alpha may be lower.
    AppendError::TooLarge { commands, bytes, commands_max: BODY_SLOTS_MAX, bytes_max: BODY_BYTES_MAX as usize }
}

/// Why a barrier failed, if it isn't worth another try.
pub(super) fn of_barrier(refusal: &ClientRefusal) -> Option<BarrierError> {
    match refusal {
        ClientRefusal::NoLeader | ClientRefusal::NotLeader { .. } | ClientRefusal::Shutdown => None,
        ClientRefusal::Overloaded { .. } => Some(BarrierError::Overloaded),
        _ => Some(BarrierError::NoLeader),
    }
}

pub(super) fn of_trim(refusal: &ClientRefusal) -> TrimError {
    match *refusal {
        ClientRefusal::NotLeader { leader, .. } => TrimError::NotLeader { leader },
        ClientRefusal::NoLeader | ClientRefusal::Shutdown => TrimError::NotLeader { leader: None },
        ClientRefusal::NothingToTrim { held, trimmed } => TrimError::NothingToTrim { held, trimmed },
        ClientRefusal::NoDeliveryState { point } => TrimError::NoDeliveryState { point },
        _ => TrimError::Unknown,
    }
}

pub(super) fn of_transfer(refusal: ClientRefusal) -> TransferError {
    match refusal {
        ClientRefusal::NotTransferred(error) => TransferError::Refused(error),
        ClientRefusal::RolledBack { target } => TransferError::RolledBack(target),
        _ => TransferError::Unknown,
    }
}

/// How a read ends, if not by asking another node.
pub(super) fn of_read(refusal: &ClientRefusal) -> Result<Slot, Option<ReadError>> {
    match *refusal {
        ClientRefusal::Trimmed { available } => Ok(available),
        ClientRefusal::Unreadable { slot } => Err(Some(ReadError::Disk { slot })),
        _ => Err(None),
    }
}
