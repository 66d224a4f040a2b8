//! What a client and a node say to each other: small requests and replies under envelopes of their own.
//!
//! A client numbers its requests; replies carry the number and may come in any order. A read is answered by any number
//! of bodies, exactly as they lie in the log, each behind what of it doesn't count if there is such a thing, and one
//! [`ClientReply::ReadEnd`]; every other request by one reply.

use std::fmt;
use std::time::Duration;

use synod_protocol::delivery::{Answer, Refusal, SessionCommand, Terms, TicketCommand};
use synod_protocol::{Ballot, BodyHandle, Mark, NodeId, Slot, TransferError};

use crate::batch::Batch;
use crate::layout::GroupId;

pub use members::{CONFIGURATIONS_MAX, MemberChange, MembersReport, Newcomer, REASON_BYTES_MAX, StoredBody};

mod codec;
mod envelope;
mod members;

pub use codec::{ClientMessageError, decode_reply, decode_request, encode_append, encode_reply, encode_request};
pub use envelope::{ClientEnvelope, ClientEnvelopeError, ClientKind};

/// Longest address in a reply, in bytes.
pub const ADDRESS_BYTES_MAX: usize = 128;

/// Most nodes in a status reply: all members of two configurations, and some that are no members.
pub const STATUS_NODES_MAX: usize = 32;

/// Longest text in a reply with figures, in bytes.
pub const FIGURES_BYTES_MAX: usize = 16 << 10;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientRequest {
    /// Append commands as one submission.
    Append {
        /// The client's number for the request.
        request: u64,
        /// The log.
        group: GroupId,
        /// The commands.
        batch: Batch,
        /// On what terms they count.
        terms: Terms,
        /// Not to be proposed later than this after it was read; zero for any time.
        within: Duration,
    },
    /// Open or close a session.
    Session {
        /// The client's number for the request.
        request: u64,
        /// The log.
        group: GroupId,
        /// What to do.
        command: SessionCommand,
    },
    /// Issue or revoke a ticket.
    Ticket {
        /// The client's number for the request.
        request: u64,
        /// The log.
        group: GroupId,
        /// What to do.
        command: TicketCommand,
    },
    /// Say when a read is not stale.
    Barrier {
        /// The client's number for the request.
        request: u64,
        /// The log.
        group: GroupId,
    },
    /// Agree to drop what lies below a slot.
    Trim {
        /// The client's number for the request.
        request: u64,
        /// The log.
        group: GroupId,
        /// First slot to keep.
        upto: Slot,
    },
    /// Hand the leadership over.
    Transfer {
        /// The client's number for the request.
        request: u64,
        /// The log.
        group: GroupId,
        /// Who is to lead.
        target: NodeId,
    },
    /// Report which configurations rule.
    Members {
        /// The client's number for the request.
        request: u64,
        /// The log.
        group: GroupId,
    },
    /// Change the membership.
    Change {
        /// The client's number for the request.
        request: u64,
        /// The log.
        group: GroupId,
        /// Who comes and who goes.
        change: MemberChange,
    },
    /// Report the state of the node and its part in the group.
    Status {
        /// The client's number for the request.
        request: u64,
        /// The log.
        group: GroupId,
    },
    /// Report figures for operators.
    Figures {
        /// The client's number for the request.
        request: u64,
        /// The log.
        group: GroupId,
    },
    /// Send delivered bodies.
    Read {
        /// The client's number for the request.
        request: u64,
        /// The log.
        group: GroupId,
        /// The first slot wanted; the first body may begin before it.
        from: Slot,
        /// Bound of all bodies together, but at least one is sent.
        bytes_max: u32,
        /// How long to wait for the first body when there is none yet, in milliseconds. The answers to later requests of
        /// the connection wait as well.
        wait_ms: u32,
    },
}

/// What a node answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientReply {
    /// The commands are chosen and delivered at `first..first + count`.
    Appended {
        /// The request's number.
        request: u64,
        /// Slot of the first command.
        first: Slot,
        /// Number of commands.
        count: u32,
    },
    /// The request was carried out.
    Done {
        /// The request's number.
        request: u64,
        /// The slot that names a session or ticket, the end of what a barrier waited for, the point of a trim, the slot of a
        /// configuration; else zero.
        slot: Slot,
    },
    /// What doesn't count of the body that comes next.
    Gaps {
        /// The request's number.
        request: u64,
        /// Ascending, at least one.
        gaps: Vec<Gap>,
    },
    /// The request wasn't carried out, or nobody can tell.
    Refused {
        /// The request's number.
        request: u64,
        /// Why.
        reason: ClientRefusal,
    },
    /// State of the node.
    Status {
        /// The request's number.
        request: u64,
        /// The state.
        status: StatusReport,
    },
    /// Which configurations rule.
    Members {
        /// The request's number.
        request: u64,
        /// Those that the node knows.
        members: MembersReport,
    },
    /// Figures of the node.
    Figures {
        /// The request's number.
        request: u64,
        /// Lines of a name, a space and a value; at most [`FIGURES_BYTES_MAX`], and not empty. Which names there are
        /// differs from version to version.
        text: String,
    },
    /// A body. Its exact bytes follow the envelope.
    Body {
        /// The request's number.
        request: u64,
        /// The body.
        body: BodyHandle,
    },
    /// The answer to a read is complete.
    ReadEnd {
        /// The request's number.
        request: u64,
        /// The slot to go on from.
        next: Slot,
    },
}

/// Slots of a body whose commands don't count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The first of them.
    pub first: Slot,
    /// How many there are.
    pub count: u32,
    /// Why: anything but [`Answer::Delivered`].
    pub answer: Answer,
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientRefusal {
    /// Ask the leader.
    NotLeader {
        /// The leader, if known.
        leader: Option<NodeId>,
        /// Where the leader listens for clients, if known, else empty; at most [`ADDRESS_BYTES_MAX`].
        address: String,
    },
    /// There is no leader at the moment; nothing was appended, try again.
    NoLeader,
    /// The node has as much to do as it takes; nothing was appended.
    Overloaded {
        /// When to try again.
        retry_after: Duration,
    },
    /// No body takes this many commands or bytes in one submission; nothing was appended.
    TooLarge,
    /// The disk is full; nothing was appended.
    DiskFull,
    /// Leadership was lost on the way: the commands may or may not be chosen.
    UnknownOutcome,
    /// The node is shutting down; nothing was appended.
    Shutdown,
    /// The slots asked for have been trimmed.
    Trimmed {
        /// The first slot that is still there.
        available: Slot,
    },
    /// The node has no part in this group.
    UnknownGroup,
    /// The body can't be read from this node's disk; another node has it.
    Unreadable {
        /// The slot that can't be read.
        slot: Slot,
    },
    /// The append's time was over before it was proposed; nothing was appended.
    DeadlinePassed,
    /// It was chosen but doesn't count, or the command about sessions or tickets has no effect.
    NotDelivered(Refusal),
    /// Some member doesn't have everything below the point durably yet.
    NothingToTrim {
        /// First slot that some member may still need.
        held: Slot,
        /// First slot that is kept now.
        trimmed: Slot,
    },
    /// What sessions and tickets remember isn't kept for a point so low.
    NoDeliveryState {
        /// The lowest point for which it is kept, once it is known.
        point: Option<Slot>,
    },
    /// The leadership isn't handed over.
    NotTransferred(TransferError),
    /// The target of a transfer didn't take over in time.
    RolledBack {
        /// The target.
        target: NodeId,
    },
    /// The membership isn't changed.
    NotChanged {
        /// Why, in words; at most [`REASON_BYTES_MAX`].
        reason: String,
    },
    /// The client's certificate doesn't grant the role that this takes; nothing was done.
    Forbidden {
        /// The role that is lacking.
        role: ClientRole,
    },
}

/// What a client may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientRole {
    /// Appends, sessions and tickets.
    Append,
    /// Reads, barriers and figures.
    Read,
    /// Everything, trims and transfers included.
    Admin,
}

impl fmt::Display for ClientRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ClientRole::Append => "append",
            ClientRole::Read => "read",
            ClientRole::Admin => "admin",
        })
    }
}

/// What a node is in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeRole {
    /// Follows a leader, or waits for one.
    Follower,
    /// Runs phase 1.
    Candidate,
    /// Proposes.
    Leader,
    /// Takes no part: its log failed, or it hasn't been admitted.
    Halted,
}

/// State of a node, as it knows itself and the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusReport {
    /// The node that answers.
    pub node: NodeId,
    /// What it is.
    pub role: NodeRole,
    /// Whom it takes for the leader.
    pub leader: Option<NodeId>,
    /// The ballot it goes by.
    pub ballot: Ballot,
    /// Its chosen prefix.
    pub mark: Mark,
    /// The first slot that it still has.
    pub available: Slot,
    /// The nodes it knows, itself included; at most [`STATUS_NODES_MAX`].
    pub nodes: Vec<NodeReport>,
}

/// What a node knows of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeReport {
    /// The node.
    pub node: NodeId,
    /// Where it listens for clients, if known, else empty; at most [`ADDRESS_BYTES_MAX`].
    pub address: String,
    /// Whether there is a connection to it.
    pub connected: bool,
    /// The end of its chosen prefix as far as is known, or zero.
    pub prefix: Slot,
}

impl ClientRequest {
    /// The request's number.
    pub fn request(&self) -> u64 {
        match self {
            ClientRequest::Append { request, .. }
            | ClientRequest::Session { request, .. }
            | ClientRequest::Ticket { request, .. }
            | ClientRequest::Barrier { request, .. }
            | ClientRequest::Trim { request, .. }
            | ClientRequest::Transfer { request, .. }
            | ClientRequest::Members { request, .. }
            | ClientRequest::Change { request, .. }
            | ClientRequest::Status { request, .. }
            | ClientRequest::Figures { request, .. }
            | ClientRequest::Read { request, .. } => *request,
        }
    }
}

impl ClientReply {
    /// The number of the request that this answers.
    pub fn request(&self) -> u64 {
        match self {
            ClientReply::Appended { request, .. }
            | ClientReply::Refused { request, .. }
            | ClientReply::Status { request, .. }
            | ClientReply::Figures { request, .. }
            | ClientReply::Members { request, .. }
            | ClientReply::Done { request, .. }
            | ClientReply::Gaps { request, .. }
            | ClientReply::Body { request, .. }
            | ClientReply::ReadEnd { request, .. } => *request,
        }
    }

    /// The body whose exact bytes follow the envelope.
    pub fn body(&self) -> Option<&BodyHandle> {
        match self {
            ClientReply::Body { body, .. } => Some(body),
            _ => None,
        }
    }
}
