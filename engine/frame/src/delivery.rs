//! The archives of session and ticket bodies, one command each; and how submissions carry their terms.

use rkyv::{Archive, Serialize};
use synod_protocol::delivery::{SessionCommand, SessionId, TicketCommand, TicketId};
use synod_protocol::{BodyKind, Slot};
use thiserror::Error;

use crate::archive;
use crate::body::BodyHeader;

const SESSION_OPEN: u32 = 1;
const SESSION_CLOSE: u32 = 2;
const TICKET_ISSUE: u32 = 1;
const TICKET_REVOKE: u32 = 2;

#[derive(Archive, Serialize)]
struct SessionArchive {
    /// The session that is closed; zero for one that is opened.
    session: u64,
    command: u32,
    reserved: u32,
}

#[derive(Archive, Serialize)]
struct TicketArchive {
    /// The ticket that is revoked; zero for one that is issued.
    ticket: u64,
    /// How long the ticket that is issued lasts, in microseconds; zero for one that is revoked.
    lasts_us: u64,
    command: u32,
    reserved: u32,
}

// The byte map of engine/docs/wal-format.md.
const _: () = assert!(size_of::<ArchivedSessionArchive>() == 16 && size_of::<ArchivedTicketArchive>() == 24);

/// Why the archive of a session or ticket body can't be read. Its checksums were right, so whoever made it is at fault.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum DeliveryBodyError {
    /// The body holds something else.
    #[error("the body holds no command about sessions or tickets")]
    Kind,
    /// Not all of the body is there.
    #[error("the body is cut short: {found} bytes of {needed}")]
    Truncated {
        /// Bytes needed.
        needed: usize,
        /// Bytes there are.
        found: usize,
    },
    /// It isn't an archive of such a command, or it has a field that its command doesn't take.
    #[error("the body's archive isn't one of a command about sessions or tickets")]
    Archive,
    /// A command that this build doesn't know.
    #[error("unknown command {found} about sessions or tickets")]
    Command {
        /// Its number.
        found: u32,
    },
}

/// Reads the command of a verified session body, of which `body` are the exact bytes.
///
/// # Errors
/// If the body holds something else, or its maker didn't keep to the format.
pub fn decode_session(header: &BodyHeader, body: &[u8]) -> Result<SessionCommand, DeliveryBodyError> {
    archive::with_aligned(bytes_of(header, BodyKind::Session, body)?, |bytes| {
        let archive = archive::access::<ArchivedSessionArchive>(bytes).ok_or(DeliveryBodyError::Archive)?;
        match (archive.command.to_native(), archive.session.to_native(), archive.reserved.to_native()) {
            (SESSION_OPEN, 0, 0) => Ok(SessionCommand::Open),
            (SESSION_CLOSE, session @ 1.., 0) => Ok(SessionCommand::Close(SessionId(Slot(session)))),
            (SESSION_OPEN | SESSION_CLOSE, _, _) => Err(DeliveryBodyError::Archive),
            (found, _, _) => Err(DeliveryBodyError::Command { found }),
        }
    })
}

/// Reads the command of a verified ticket body, of which `body` are the exact bytes.
///
/// # Errors
/// As [`decode_session`].
pub fn decode_ticket(header: &BodyHeader, body: &[u8]) -> Result<TicketCommand, DeliveryBodyError> {
    archive::with_aligned(bytes_of(header, BodyKind::Ticket, body)?, |bytes| {
        let archive = archive::access::<ArchivedTicketArchive>(bytes).ok_or(DeliveryBodyError::Archive)?;
        if archive.reserved.to_native() != 0 {
            return Err(DeliveryBodyError::Archive);
        }
        match (archive.command.to_native(), archive.ticket.to_native(), archive.lasts_us.to_native()) {
            (TICKET_ISSUE, 0, lasts_us) => Ok(TicketCommand::Issue { lasts_us }),
            (TICKET_REVOKE, ticket @ 1.., 0) => Ok(TicketCommand::Revoke(TicketId(Slot(ticket)))),
            (TICKET_ISSUE | TICKET_REVOKE, _, _) => Err(DeliveryBodyError::Archive),
            (found, _, _) => Err(DeliveryBodyError::Command { found }),
        }
    })
}

/// The delivery state that a verified trim carries, as bytes of [`synod_protocol::delivery::DeliveryState::encode`]; none
/// if that is empty, or the body is no trim.
pub fn trim_state<'a>(header: &BodyHeader, body: &'a [u8]) -> Option<&'a [u8]> {
    if !matches!(header.kind, BodyKind::Trim { .. }) {
        return None;
    }
    body.get(header.archive_range()).filter(|state| !state.is_empty())
}

pub(crate) fn session_archive(command: SessionCommand) -> Vec<u8> {
    let (command, session) = match command {
        SessionCommand::Open => (SESSION_OPEN, 0),
        SessionCommand::Close(id) => (SESSION_CLOSE, id.0.0),
    };
    archive::to_vec(&SessionArchive { session, command, reserved: 0 })
}

pub(crate) fn ticket_archive(command: TicketCommand) -> Vec<u8> {
    let (command, ticket, lasts_us) = match command {
        TicketCommand::Issue { lasts_us } => (TICKET_ISSUE, 0, lasts_us),
        TicketCommand::Revoke(id) => (TICKET_REVOKE, id.0.0, 0),
    };
    archive::to_vec(&TicketArchive { ticket, lasts_us, command, reserved: 0 })
}

fn bytes_of<'a>(header: &BodyHeader, kind: BodyKind, body: &'a [u8]) -> Result<&'a [u8], DeliveryBodyError> {
    if header.kind != kind {
        return Err(DeliveryBodyError::Kind);
    }
    let range = header.archive_range();
    body.get(range.clone()).ok_or(DeliveryBodyError::Truncated { needed: range.end, found: body.len() })
}
