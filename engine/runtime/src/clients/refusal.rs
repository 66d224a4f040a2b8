//! The errors of the log, as a client hears them.

use std::time::Duration;

use synod_frame::client::{ClientRefusal, ClientReply, ClientRole};
use synod_protocol::delivery::Refusal;

use crate::error::{AppendError, BarrierError, MembershipError, SessionError, TicketError, TransferError, TrimError};

/// What a refused client is told to wait.
const RETRY_AFTER: Duration = Duration::from_millis(50);

pub(super) fn refused(request: u64, reason: ClientRefusal) -> ClientReply {
    ClientReply::Refused { request, reason }
}

pub(super) fn of_append(error: AppendError) -> ClientRefusal {
    match error {
        // Without an address the client tries those that it was given.
        AppendError::NotLeader { leader, client_address, .. } => {
            let address = client_address.map(|address| address.to_string()).unwrap_or_default();
            ClientRefusal::NotLeader { leader: Some(leader), address }
        }
        AppendError::NoLeader => ClientRefusal::NoLeader,
        AppendError::Overloaded => ClientRefusal::Overloaded { retry_after: RETRY_AFTER },
        AppendError::TooLarge { .. } | AppendError::Empty => ClientRefusal::TooLarge,
        AppendError::DiskFull => ClientRefusal::DiskFull,
        // Said by the leader to a node that passes on; its certificate is wrong then, not the client's.
        AppendError::Forbidden => ClientRefusal::Forbidden { role: ClientRole::Append },
        AppendError::DeadlinePassed => ClientRefusal::DeadlinePassed,
        AppendError::Unknown => ClientRefusal::UnknownOutcome,
        AppendError::Refused(refusal) => ClientRefusal::NotDelivered(refusal),
        AppendError::Shutdown | AppendError::Poisoned => ClientRefusal::Shutdown,
    }
}

pub(super) fn of_session(error: SessionError) -> ClientRefusal {
    match error {
        SessionError::Over => ClientRefusal::NotDelivered(Refusal::SessionEvicted),
        SessionError::NoSuchSession => ClientRefusal::NotDelivered(Refusal::SessionUnknown),
        SessionError::Append(error) => of_append(error),
    }
}

pub(super) fn of_ticket(error: TicketError) -> ClientRefusal {
    match error {
        TicketError::Superseded { newest } => ClientRefusal::NotDelivered(Refusal::TicketSuperseded { newest }),
        TicketError::Over => ClientRefusal::NotDelivered(Refusal::TicketExpired),
        TicketError::NoSuchTicket => ClientRefusal::NotDelivered(Refusal::TicketUnknown),
        TicketError::Append(error) => of_append(error),
    }
}

pub(super) fn of_barrier(error: &BarrierError) -> ClientRefusal {
    match error {
        BarrierError::NoLeader => ClientRefusal::NoLeader,
        BarrierError::Overloaded => ClientRefusal::Overloaded { retry_after: RETRY_AFTER },
        BarrierError::Shutdown | BarrierError::Poisoned => ClientRefusal::Shutdown,
    }
}

pub(super) fn of_trim(error: &TrimError) -> ClientRefusal {
    match *error {
        TrimError::NotLeader { leader } => ClientRefusal::NotLeader { leader, address: String::new() },
        TrimError::NothingToTrim { held, trimmed } => ClientRefusal::NothingToTrim { held, trimmed },
        TrimError::NoDeliveryState { point } => ClientRefusal::NoDeliveryState { point },
        TrimError::Unknown => ClientRefusal::UnknownOutcome,
        TrimError::Shutdown | TrimError::Poisoned => ClientRefusal::Shutdown,
    }
}

pub(super) fn of_transfer(error: &TransferError) -> ClientRefusal {
    match error {
        TransferError::Refused(error) => ClientRefusal::NotTransferred(error.clone()),
        TransferError::RolledBack(target) => ClientRefusal::RolledBack { target: *target },
        TransferError::Unknown => ClientRefusal::UnknownOutcome,
        TransferError::Shutdown | TransferError::Poisoned => ClientRefusal::Shutdown,
    }
}

pub(super) fn of_change(error: &MembershipError) -> ClientRefusal {
    match error {
        MembershipError::NotLeader { leader } => ClientRefusal::NotLeader { leader: *leader, address: String::new() },
        MembershipError::Refused(error) => ClientRefusal::NotChanged { reason: error.to_string() },
        MembershipError::Superseded | MembershipError::Remote => {
            ClientRefusal::NotChanged { reason: error.to_string() }
        }
        MembershipError::Unknown => ClientRefusal::UnknownOutcome,
        MembershipError::Shutdown | MembershipError::Poisoned => ClientRefusal::Shutdown,
    }
}
