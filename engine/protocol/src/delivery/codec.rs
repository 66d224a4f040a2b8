//! The state as bytes, for trims and snapshots.
//!
//! ```text
//! 0   4  "SYND"            24  8  next slot           56  8  ticket, zero for none
//! 4   2  version, 1        32  8  time in us          64  8  its deadline in us
//! 6   2  zero              40  4  sessions max        72  8  number of sessions
//! 8   8  checksum          44  4  results max         80     sessions, ascending by name
//! 16  8  length            48  8  idle in us
//!
//! session = [ name 8 | slot of last use 8 | its time 8 | highest number 8 | number of answers 8 | answers ]
//! answer  = [ kind 1 | slot 8 ], the slot zero where the kind has none
//! ```
//!
//! Numbers are little-endian. The checksum is XXH3-64 over everything from `length` on. Equal states have equal bytes.

use thiserror::Error;

use super::session::Session;
use super::{Answer, DeliveryLimits, DeliveryState, Refusal, SessionId, Ticket, TicketId};
use crate::limits::{BODY_BYTES_MAX, SLOT_MAX};
use crate::slot::Slot;

const MAGIC: [u8; 4] = *b"SYND";
const VERSION: u16 = 1;

/// Where the checksum ends, and what it covers begins.
const CHECKED_FROM: usize = 16;
const HEADER_BYTES: usize = 80;
const SESSION_BYTES: usize = 40;
const ANSWER_BYTES: usize = 9;

// A trim carries the state in one body, whose header and table take less than 2 KiB.
const _: () = assert!(DeliveryLimits::CLUSTER.state_bytes_max() + 2048 <= BODY_BYTES_MAX as u64);

/// Why bytes aren't a state. They are of no use: take the state from another replica.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum StateError {
    /// Fewer bytes, or more, than the state says.
    #[error("the delivery state has {found} bytes instead of {expected}")]
    Length {
        /// Bytes that there should be; at least.
        expected: u64,
        /// Bytes that there are.
        found: u64,
    },
    /// It doesn't begin like one.
    #[error("not a delivery state")]
    Magic,
    /// Written by another version.
    #[error("delivery state of version {found}, this build reads version {VERSION}")]
    Version {
        /// Version found.
        found: u16,
    },
    /// It is damaged.
    #[error("delivery state checksum is {expected:#018x} but its bytes give {actual:#018x}")]
    Checksum {
        /// As written.
        expected: u64,
        /// As computed.
        actual: u64,
    },
    /// It was made under other limits than those of this cluster.
    #[error("the delivery state was made under other limits ({found:?})")]
    Limits {
        /// The limits found.
        found: DeliveryLimits,
    },
    /// A value that no replica writes, although the checksum is right.
    #[error("the delivery state's {field} at byte {offset} is out of bounds")]
    Bounds {
        /// What is wrong.
        field: &'static str,
        /// Where in the bytes.
        offset: u64,
    },
}

impl DeliveryLimits {
    /// Most bytes that a state may have.
    pub const fn state_bytes_max(&self) -> u64 {
        let session_bytes = SESSION_BYTES as u64 + self.results_max as u64 * ANSWER_BYTES as u64;
        HEADER_BYTES as u64 + self.sessions_max as u64 * session_bytes
    }
}

impl DeliveryState {
    /// The state as bytes, at most [`DeliveryLimits::state_bytes_max`]. Equal states have equal bytes.
    pub fn encode(&self) -> Vec<u8> {
        let answers: usize = self.sessions.values().map(|session| session.results.len()).sum();
        let length = HEADER_BYTES + self.sessions.len() * SESSION_BYTES + answers * ANSWER_BYTES;
        let mut bytes = Vec::with_capacity(length);
        let (ticket, deadline_us) = self.ticket.map_or((0, 0), |ticket| (ticket.id.0.0, ticket.deadline_us));
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend([0; 10]);
        bytes.extend((length as u64).to_le_bytes());
        for number in [self.next.0, self.time_us] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(self.limits.sessions_max.to_le_bytes());
        bytes.extend(self.limits.results_max.to_le_bytes());
        for number in [self.limits.session_idle_us, ticket, deadline_us, self.sessions.len() as u64] {
            bytes.extend(number.to_le_bytes());
        }
        for (id, session) in &self.sessions {
            for number in [id.0.0, session.used.0, session.used_us, session.highest, session.results.len() as u64] {
                bytes.extend(number.to_le_bytes());
            }
            for answer in &session.results {
                let (kind, slot) = number_of(answer);
                bytes.push(kind);
                bytes.extend(slot.to_le_bytes());
            }
        }
        debug_assert_eq!(bytes.len(), length);
        let checksum = xxhash_rust::xxh3::xxh3_64(&bytes[CHECKED_FROM..]);
        bytes[8..CHECKED_FROM].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads a state that was made under `limits`.
    ///
    /// # Errors
    /// The first thing that is wrong. No more memory is taken than the limits allow.
    pub fn decode(bytes: &[u8], limits: DeliveryLimits) -> Result<DeliveryState, StateError> {
        let mut reader = Reader { bytes, offset: 0 };
        let too_short = StateError::Length { expected: HEADER_BYTES as u64, found: bytes.len() as u64 };
        if bytes.len() < HEADER_BYTES {
            return Err(too_short);
        }
        if reader.array()? != MAGIC {
            return Err(StateError::Magic);
        }
        let found = u16::from_le_bytes(reader.array()?);
        if found != VERSION {
            return Err(StateError::Version { found });
        }
        if reader.array()? != [0; 2] {
            return Err(reader.bounds("reserved field"));
        }
        let expected = reader.number()?;
        let actual = xxhash_rust::xxh3::xxh3_64(&bytes[CHECKED_FROM..]);
        if expected != actual {
            return Err(StateError::Checksum { expected, actual });
        }
        let expected = reader.number()?;
        if expected != bytes.len() as u64 {
            return Err(StateError::Length { expected, found: bytes.len() as u64 });
        }
        let next = reader.bounded("next slot", Slot::FIRST.0..=SLOT_MAX)?;
        let time_us = reader.number()?;
        let found = DeliveryLimits {
            sessions_max: u32::from_le_bytes(reader.array()?),
            results_max: u32::from_le_bytes(reader.array()?),
            session_idle_us: reader.number()?,
        };
        if found != limits {
            return Err(StateError::Limits { found });
        }
        let mut state = DeliveryState { time_us, ..DeliveryState::empty(limits, Slot(next)) };
        let ticket = reader.bounded("ticket", 0..=next - 1)?;
        let deadline_us = reader.number()?;
        if ticket > 0 {
            state.ticket = Some(Ticket { id: TicketId(Slot(ticket)), deadline_us });
        } else if deadline_us > 0 {
            return Err(reader.bounds("ticket deadline"));
        }
        let count = reader.bounded("number of sessions", 0..=u64::from(limits.sessions_max))?;
        for _ in 0..count {
            state.take_session(&mut reader)?;
        }
        if reader.offset != bytes.len() {
            return Err(StateError::Length { expected: reader.offset as u64, found: bytes.len() as u64 });
        }
        if state.is_empty() && time_us > 0 {
            return Err(reader.bounds("time"));
        }
        // Eviction goes by the order of uses and relies on times that ascend with it.
        let mut times = state.by_use.values().map(|id| state.sessions[id].used_us);
        if !times.clone().is_sorted() || times.any(|used_us| used_us > time_us) {
            return Err(reader.bounds("time of last use"));
        }
        Ok(state)
    }

    fn take_session(&mut self, reader: &mut Reader<'_>) -> Result<(), StateError> {
        let before = self.next.0 - 1;
        let lowest = self.sessions.last_key_value().map_or(0, |(id, _)| id.0.0) + 1;
        let id = SessionId(Slot(reader.bounded("session", lowest..=before)?));
        let used = Slot(reader.bounded("slot of last use", id.0.0..=before)?);
        let used_us = reader.number()?;
        let highest = reader.bounded("highest number", 0..=SLOT_MAX)?;
        let expected = highest.min(u64::from(self.limits.results_max));
        let count = reader.bounded("number of answers", expected..=expected)?;
        let mut session = Session::opened(used, used_us);
        session.highest = highest;
        for _ in 0..count {
            let [kind] = reader.array()?;
            let slot = reader.bounded("slot of an answer", 0..=before)?;
            let answer = answer_of(kind, slot).ok_or_else(|| reader.bounds("answer"))?;
            session.results.push_back(answer);
        }
        self.sessions.insert(id, session);
        if self.by_use.insert(used, id).is_some() {
            return Err(reader.bounds("slot of last use"));
        }
        Ok(())
    }
}

/// Only what a session keeps has a number.
fn number_of(answer: &Option<Answer>) -> (u8, u64) {
    match answer {
        None => (0, 0),
        Some(Answer::Delivered { first }) => (1, first.0),
        Some(Answer::Refused(Refusal::TicketSuperseded { newest })) => (2, newest.0.0),
        Some(Answer::Refused(Refusal::TicketExpired)) => (3, 0),
        Some(Answer::Refused(Refusal::TicketUnknown)) => (4, 0),
        Some(Answer::Refused(Refusal::UnexpectedSlot { actual })) => (5, actual.0),
        Some(other) => unreachable!("no session keeps {other:?}"),
    }
}

fn answer_of(kind: u8, slot: u64) -> Option<Option<Answer>> {
    Some(match (kind, slot) {
        (0, 0) => None,
        (1, 1..) => Some(Answer::Delivered { first: Slot(slot) }),
        (2, 1..) => Some(Answer::Refused(Refusal::TicketSuperseded { newest: TicketId(Slot(slot)) })),
        (3, 0) => Some(Answer::Refused(Refusal::TicketExpired)),
        (4, 0) => Some(Answer::Refused(Refusal::TicketUnknown)),
        (5, 1..) => Some(Answer::Refused(Refusal::UnexpectedSlot { actual: Slot(slot) })),
        _ => return None,
    })
}

struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], StateError> {
        let end = self.offset + N;
        let Some(bytes) = self.bytes.get(self.offset..end) else {
            return Err(StateError::Length { expected: end as u64, found: self.bytes.len() as u64 });
        };
        self.offset = end;
        Ok(bytes.try_into().expect("the range has this length"))
    }

    fn number(&mut self) -> Result<u64, StateError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn bounded(&mut self, field: &'static str, bounds: std::ops::RangeInclusive<u64>) -> Result<u64, StateError> {
        let number = self.number()?;
        if bounds.contains(&number) { Ok(number) } else { Err(self.bounds(field)) }
    }

    /// What was read last is out of bounds.
    fn bounds(&self, field: &'static str) -> StateError {
        StateError::Bounds { field, offset: self.offset as u64 }
    }
}
