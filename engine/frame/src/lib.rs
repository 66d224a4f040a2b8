//! The one binary format of Synod, shared by disk and network: bodies, envelopes, hellos and the client protocol.
//!
//! The byte maps stand in `engine/docs/wal-format.md`. Nothing here does I/O: buffers go in, buffers and typed errors
//! come out. Bytes from outside never panic, and nothing is allocated by a length that isn't within its bound.
//!
//! - A proposer gathers submissions with a [`CommandsPlan`], takes a buffer of [`BodyLayout::record_bytes`] and fills it
//!   with [`encode_commands`], or makes one of the small kinds. That buffer goes to the disk and to every socket.
//! - A receiver reads an [`Envelope`], then the first [`BODY_HEADER_BYTES`] of the body; [`BodyLayout::peek`] says how
//!   long the buffer must be. It reads the rest into it, calls [`zero_padding`] and [`verify_body_in_record`], and passes
//!   the handle to [`decode_message`].
//! - A reader opens a [`CommandsView`] on a verified body and copies nothing.
//!
//! ```
//! use synod_frame::*;
//! use synod_protocol::{Ballot, Slot};
//!
//! let batch: Batch = ["first", "second"].into_iter().collect();
//! let submissions = [Submission::plain(&batch)];
//! let mut plan = CommandsPlan::new();
//! plan.try_push(&batch, &BodyBounds::LARGEST)?;
//! let layout = plan.layout().expect("a plan with commands within bounds has a layout");
//!
//! let mut record = RecordBuffer::zeroed(layout.record_bytes());
//! let origin = Origin { group: GroupId(0), first: Slot(1), ballot: Ballot::ZERO, leader_time_us: 0 };
//! let handle = encode_commands(record.as_mut(), &origin, &submissions)?;
//!
//! let header = verify_body_in_record(record.as_ref())?;
//! assert_eq!(header.handle(), handle);
//! let commands = CommandsView::new(&header, &record.as_ref()[layout.body_range()])?;
//! assert_eq!(commands.get(1)?, b"second");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod archive;
mod batch;
mod body;
pub mod client;
mod commands;
mod configuration;
mod delivery;
mod encode;
mod envelope;
mod hello;
mod layout;
mod message;
mod plan;
mod record_buffer;
mod snapshot;

pub use batch::{Batch, BatchError};
pub use body::{BODY_FIELDS, BodyError, BodyHeader, BodyLayout, stamp, verify_body_in_record, zero_padding};
pub use commands::{CommandsError, CommandsView, Submission, SubmissionEntry, Submissions, encode_commands};
pub use configuration::{ConfigurationBody, ConfigurationBodyError, Member};
pub use delivery::{DeliveryBodyError, decode_session, decode_ticket, trim_state};
pub use encode::{
    EMPTY_BODY, EncodeError, Origin, encode_configuration, encode_noop, encode_session, encode_ticket, encode_trim,
    encode_trim_with_state, trim_layout,
};
pub use envelope::{Envelope, EnvelopeError, EnvelopeKind};
pub use hello::{Channel, FORMAT_RANGE, Hello, HelloError, HelloRefusal, HelloReply};
pub use layout::{
    BLOCK_BYTES, BODY_HEADER_BYTES, ByteField, ENVELOPE_BYTES, FORMAT_VERSION, FieldForm, GroupId, HELLO_BYTES,
    RECORD_HEADER_BYTES, align_to_block, tiles,
};
pub use message::{MessageError, decode_message, encode_message};
pub use plan::{BodyBounds, CommandsPlan, PlanError, commands_fit};
pub use record_buffer::RecordBuffer;
pub use snapshot::{decode_snapshot_message, encode_snapshot_message};
