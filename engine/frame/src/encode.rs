//! Making bodies. Each function lays a whole body into a record buffer and returns its handle; the record header in
//! front is left to the log. Small kinds have no archive at all, or one that is built aside and copied.

use synod_protocol::delivery::{SessionCommand, TicketCommand};
use synod_protocol::{Ballot, BodyHandle, BodyKind, Slot};
use thiserror::Error;

use crate::body::{self, BodyLayout, HeaderFields, slots_are_valid};
use crate::configuration::ConfigurationBody;
use crate::delivery::{session_archive, ticket_archive};
use crate::layout::{GroupId, RECORD_HEADER_BYTES};

/// Where and when a body is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The group whose log it is for.
    pub group: GroupId,
    /// First slot.
    pub first: Slot,
    /// The ballot of its maker.
    pub ballot: Ballot,
    /// The log's own time, in microseconds.
    pub leader_time_us: u64,
}

/// Why a body can't be made.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum EncodeError {
    /// No submissions, or one without commands.
    #[error("a body needs submissions, and each at least one command")]
    Empty,
    /// Beyond the largest body; see [`crate::CommandsPlan`].
    #[error("{commands} commands with an archive of {archive_bytes} bytes don't fit into one body")]
    TooLarge {
        /// Number of commands.
        commands: usize,
        /// Length of the archive.
        archive_bytes: u64,
    },
    /// The buffer is too short.
    #[error("the record needs {needed} bytes, the buffer has {found}")]
    Buffer {
        /// Bytes needed.
        needed: usize,
        /// Length of the buffer.
        found: usize,
    },
    /// No body of this kind may fill these slots.
    #[error("a body can't fill {count} slots from {first} on")]
    Slots {
        /// First slot.
        first: Slot,
        /// Number of slots.
        count: u32,
    },
    /// Slot zero is no trim point: nothing lies below the first slot.
    #[error("a trim keeps from slot 1 on at least")]
    TrimPoint,
    /// A delivery state that no body has room for.
    #[error("a delivery state of {bytes} bytes doesn't fit into a body")]
    State {
        /// Its length.
        bytes: usize,
    },
    /// More members than any configuration has.
    #[error("a configuration of {members} members, at most {} are allowed", synod_protocol::MEMBERS_MAX)]
    Members {
        /// Number of members.
        members: usize,
    },
}

/// The lengths of a body without an archive: no-ops and trims.
pub const EMPTY_BODY: BodyLayout = match BodyLayout::new(0) {
    Some(layout) => layout,
    None => panic!("the shortest body has a layout"),
};

/// Lays a body of `count` no-ops into a record buffer of at least one block.
///
/// # Errors
/// If the buffer is too short or the slots aren't valid.
pub fn encode_noop(record: &mut [u8], origin: &Origin, count: u32) -> Result<BodyHandle, EncodeError> {
    encode_small(record, origin, BodyKind::NoOp, count, &[])
}

/// Lays a trim into a record buffer of at least one block: everything below `upto` may be dropped.
///
/// # Errors
/// If the buffer is too short or a slot isn't valid.
pub fn encode_trim(record: &mut [u8], origin: &Origin, upto: Slot) -> Result<BodyHandle, EncodeError> {
    if upto < Slot::FIRST {
        return Err(EncodeError::TrimPoint);
    }
    encode_small(record, origin, BodyKind::Trim { upto }, 1, &[])
}

/// The lengths of a trim that carries a delivery state of `state_bytes`, or `None` if no body has room for it.
pub const fn trim_layout(state_bytes: usize) -> Option<BodyLayout> {
    BodyLayout::new(state_bytes as u64)
}

/// Lays a trim into a record buffer of the length of [`trim_layout`]: as [`encode_trim`], with the delivery state as of
/// `upto`, for those whose log begins there. An empty state is not to be carried: its bytes are none.
///
/// # Errors
/// If the buffer is too short, a slot isn't valid, or the state is too long.
pub fn encode_trim_with_state(
    record: &mut [u8],
    origin: &Origin,
    upto: Slot,
    state: &[u8],
) -> Result<BodyHandle, EncodeError> {
    if upto < Slot::FIRST {
        return Err(EncodeError::TrimPoint);
    }
    if trim_layout(state.len()).is_none() {
        return Err(EncodeError::State { bytes: state.len() });
    }
    encode_small(record, origin, BodyKind::Trim { upto }, 1, state)
}

/// Lays a command about sessions into a record buffer of at least one block.
///
/// # Errors
/// If the buffer is too short or the slot isn't valid.
pub fn encode_session(record: &mut [u8], origin: &Origin, command: SessionCommand) -> Result<BodyHandle, EncodeError> {
    encode_small(record, origin, BodyKind::Session, 1, &session_archive(command))
}

/// Lays a command about tickets into a record buffer of at least one block.
///
/// # Errors
/// If the buffer is too short or the slot isn't valid.
pub fn encode_ticket(record: &mut [u8], origin: &Origin, command: TicketCommand) -> Result<BodyHandle, EncodeError> {
    encode_small(record, origin, BodyKind::Ticket, 1, &ticket_archive(command))
}

/// Lays a configuration into a record buffer of at least one block. Whether it may rule isn't judged here; see
/// [`ConfigurationBody::to_configuration`].
///
/// # Errors
/// If the buffer is too short, the slot isn't valid, or there are too many members.
pub fn encode_configuration(
    record: &mut [u8],
    origin: &Origin,
    configuration: &ConfigurationBody,
) -> Result<BodyHandle, EncodeError> {
    let archive = configuration.to_archive()?;
    encode_small(record, origin, BodyKind::Configuration { after: configuration.after }, 1, &archive)
}

fn encode_small(
    record: &mut [u8],
    origin: &Origin,
    kind: BodyKind,
    count: u32,
    archive: &[u8],
) -> Result<BodyHandle, EncodeError> {
    let fields = HeaderFields {
        group: origin.group,
        kind,
        first: origin.first,
        count,
        origin: origin.ballot,
        leader_time_us: origin.leader_time_us,
    };
    let layout = BodyLayout::new(archive.len() as u64).expect("small bodies are far below the largest");
    check_buffer(record, &layout, &fields)?;
    record[RECORD_HEADER_BYTES..][layout.archive_range()].copy_from_slice(archive);
    Ok(body::seal(record, &layout, &fields))
}

pub(crate) fn check_buffer(record: &[u8], layout: &BodyLayout, fields: &HeaderFields) -> Result<(), EncodeError> {
    if !slots_are_valid(fields.kind, fields.first, fields.count) {
        return Err(EncodeError::Slots { first: fields.first, count: fields.count });
    }
    let needed = layout.record_bytes();
    if record.len() < needed {
        return Err(EncodeError::Buffer { needed, found: record.len() });
    }
    Ok(())
}
