//! Why a request is refused, as fields of an envelope.

use std::time::Duration;

use synod_protocol::delivery::{Refusal, TicketId};
use synod_protocol::{Slot, TransferError};

use super::super::{ClientEnvelope, ClientRefusal, ClientRole};
use super::members::parse_reason_text;
use super::{ClientMessageError, first_slot, node, parse_address};
use crate::archive;

mod number {
    pub(super) const NOT_LEADER: u32 = 1;
    pub(super) const NO_LEADER: u32 = 2;
    pub(super) const OVERLOADED: u32 = 3;
    pub(super) const TOO_LARGE: u32 = 4;
    pub(super) const DISK_FULL: u32 = 5;
    pub(super) const UNKNOWN_OUTCOME: u32 = 6;
    pub(super) const SHUTDOWN: u32 = 7;
    pub(super) const TRIMMED: u32 = 8;
    pub(super) const UNKNOWN_GROUP: u32 = 9;
    pub(super) const UNREADABLE: u32 = 10;
    pub(super) const DEADLINE_PASSED: u32 = 11;
    pub(super) const NOT_DELIVERED: u32 = 12;
    pub(super) const NOTHING_TO_TRIM: u32 = 13;
    pub(super) const NO_DELIVERY_STATE: u32 = 14;
    pub(super) const NOT_TRANSFERRED: u32 = 15;
    pub(super) const ROLLED_BACK: u32 = 16;
    pub(super) const FORBIDDEN: u32 = 17;
    pub(super) const NOT_CHANGED: u32 = 18;
}

pub(super) fn fill_reason(base: ClientEnvelope, why: &ClientRefusal) -> ClientEnvelope {
    let plain = |reason| ClientEnvelope { reason, ..base };
    match why {
        ClientRefusal::NotLeader { leader, address: _ } => {
            ClientEnvelope { node: leader.unwrap_or_default(), ..plain(number::NOT_LEADER) }
        }
        ClientRefusal::NoLeader => plain(number::NO_LEADER),
        ClientRefusal::Overloaded { retry_after } => {
            let microseconds = u64::try_from(retry_after.as_micros()).unwrap_or(u64::MAX);
            ClientEnvelope { argument: microseconds, ..plain(number::OVERLOADED) }
        }
        ClientRefusal::TooLarge => plain(number::TOO_LARGE),
        ClientRefusal::DiskFull => plain(number::DISK_FULL),
        ClientRefusal::UnknownOutcome => plain(number::UNKNOWN_OUTCOME),
        ClientRefusal::Shutdown => plain(number::SHUTDOWN),
        ClientRefusal::Trimmed { available } => ClientEnvelope { first: *available, ..plain(number::TRIMMED) },
        ClientRefusal::UnknownGroup => plain(number::UNKNOWN_GROUP),
        ClientRefusal::Unreadable { slot } => ClientEnvelope { first: *slot, ..plain(number::UNREADABLE) },
        ClientRefusal::DeadlinePassed => plain(number::DEADLINE_PASSED),
        ClientRefusal::NotDelivered(refusal) => {
            let (count, argument) = refusal_to_numbers(*refusal);
            ClientEnvelope { count, argument, ..plain(number::NOT_DELIVERED) }
        }
        ClientRefusal::NothingToTrim { held, trimmed } => {
            ClientEnvelope { first: *held, argument: trimmed.0, ..plain(number::NOTHING_TO_TRIM) }
        }
        ClientRefusal::NoDeliveryState { point } => {
            ClientEnvelope { first: point.unwrap_or_default(), ..plain(number::NO_DELIVERY_STATE) }
        }
        ClientRefusal::NotTransferred(error) => fill_transfer(plain(number::NOT_TRANSFERRED), error),
        ClientRefusal::RolledBack { target } => ClientEnvelope { node: *target, ..plain(number::ROLLED_BACK) },
        ClientRefusal::Forbidden { role } => ClientEnvelope { count: role_number(*role), ..plain(number::FORBIDDEN) },
        ClientRefusal::NotChanged { reason: _ } => plain(number::NOT_CHANGED),
    }
}

pub(super) fn parse_reason(envelope: &ClientEnvelope, payload: &[u8]) -> Result<ClientRefusal, ClientMessageError> {
    if ![number::NOT_LEADER, number::NOT_CHANGED].contains(&envelope.reason) && !payload.is_empty() {
        return Err(ClientMessageError::UnusedField { kind: envelope.kind });
    }
    let field = ClientMessageError::Field { kind: envelope.kind };
    Ok(match envelope.reason {
        number::NOT_LEADER => ClientRefusal::NotLeader {
            leader: node(envelope.node.0),
            address: match payload.is_empty() {
                true => String::new(),
                false => archive::with_aligned(payload, parse_address)?,
            },
        },
        number::NO_LEADER => ClientRefusal::NoLeader,
        number::OVERLOADED => ClientRefusal::Overloaded { retry_after: Duration::from_micros(envelope.argument) },
        number::TOO_LARGE => ClientRefusal::TooLarge,
        number::DISK_FULL => ClientRefusal::DiskFull,
        number::UNKNOWN_OUTCOME => ClientRefusal::UnknownOutcome,
        number::SHUTDOWN => ClientRefusal::Shutdown,
        number::TRIMMED => ClientRefusal::Trimmed { available: first_slot(envelope)? },
        number::UNKNOWN_GROUP => ClientRefusal::UnknownGroup,
        number::UNREADABLE => ClientRefusal::Unreadable { slot: first_slot(envelope)? },
        number::DEADLINE_PASSED => ClientRefusal::DeadlinePassed,
        number::NOT_DELIVERED => {
            ClientRefusal::NotDelivered(refusal_from_numbers(envelope.count, envelope.argument).ok_or(field)?)
        }
        number::NOTHING_TO_TRIM => {
            ClientRefusal::NothingToTrim { held: envelope.first, trimmed: Slot(envelope.argument) }
        }
        number::NO_DELIVERY_STATE => {
            ClientRefusal::NoDeliveryState { point: (envelope.first != Slot(0)).then_some(envelope.first) }
        }
        number::NOT_TRANSFERRED => ClientRefusal::NotTransferred(parse_transfer(envelope).ok_or(field)?),
        number::ROLLED_BACK => ClientRefusal::RolledBack { target: envelope.node },
        number::FORBIDDEN => ClientRefusal::Forbidden { role: role_of(envelope.count).ok_or(field)? },
        number::NOT_CHANGED => ClientRefusal::NotChanged { reason: archive::with_aligned(payload, parse_reason_text)? },
        found => return Err(ClientMessageError::Reason { found }),
    })
}

/// A refusal's number, from 1 on, and what belongs to it.
pub(super) fn refusal_to_numbers(refusal: Refusal) -> (u32, u64) {
    match refusal {
        Refusal::SessionEvicted => (1, 0),
        Refusal::SessionUnknown => (2, 0),
        Refusal::SequenceTooOld { oldest } => (3, oldest),
        Refusal::SequenceAhead { highest } => (4, highest),
        Refusal::TicketSuperseded { newest: TicketId(Slot(newest)) } => (5, newest),
        Refusal::TicketExpired => (6, 0),
        Refusal::TicketUnknown => (7, 0),
        Refusal::UnexpectedSlot { actual: Slot(actual) } => (8, actual),
    }
}

/// None if there is no such refusal, or nothing that could belong to it does.
pub(super) fn refusal_from_numbers(number: u32, value: u64) -> Option<Refusal> {
    Some(match (number, value) {
        (1, 0) => Refusal::SessionEvicted,
        (2, 0) => Refusal::SessionUnknown,
        (3, oldest) => Refusal::SequenceTooOld { oldest },
        (4, highest) => Refusal::SequenceAhead { highest },
        (5, newest) => Refusal::TicketSuperseded { newest: TicketId(Slot(newest)) },
        (6, 0) => Refusal::TicketExpired,
        (7, 0) => Refusal::TicketUnknown,
        (8, actual) => Refusal::UnexpectedSlot { actual: Slot(actual) },
        _ => return None,
    })
}

fn fill_transfer(base: ClientEnvelope, error: &TransferError) -> ClientEnvelope {
    let (count, node, argument) = match *error {
        TransferError::NotLeader => (1, Default::default(), 0),
        TransferError::Recovering => (2, Default::default(), 0),
        TransferError::NotMember(node) => (3, node, 0),
        TransferError::LeadsAlready(node) => (4, node, 0),
        TransferError::Silent(node) => (5, node, 0),
        TransferError::Lagging { target, slots } => (6, target, slots),
        TransferError::UnderWay(node) => (7, node, 0),
    };
    ClientEnvelope { count, node, argument, ..base }
}

fn parse_transfer(envelope: &ClientEnvelope) -> Option<TransferError> {
    let node = envelope.node;
    Some(match envelope.count {
        1 => TransferError::NotLeader,
        2 => TransferError::Recovering,
        3 => TransferError::NotMember(node),
        4 => TransferError::LeadsAlready(node),
        5 => TransferError::Silent(node),
        6 => TransferError::Lagging { target: node, slots: envelope.argument },
        7 => TransferError::UnderWay(node),
        _ => return None,
    })
}

fn role_number(role: ClientRole) -> u32 {
    match role {
        ClientRole::Append => 1,
        ClientRole::Read => 2,
        ClientRole::Admin => 3,
    }
}

fn role_of(number: u32) -> Option<ClientRole> {
    [ClientRole::Append, ClientRole::Read, ClientRole::Admin].into_iter().find(|role| role_number(*role) == number)
}
