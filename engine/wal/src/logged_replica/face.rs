//! What a driver sees of a logged replica: what it is to do, what it is answered, and what it may set.

use std::rc::Rc;

use synod_protocol::delivery::{Answer, DeliveryLimits};
use synod_protocol::{
    BarrierId, BarrierOutcome, BodyHandle, HaltReason, Mark, Message, NodeId, Slot, Status, TransferOutcome,
};

use super::Frame;
use crate::lsn::{FileId, SyncId, WriteId};
use crate::writer::LogStats;

/// Where buffers for records come from: DMA memory in the runtime, plain memory in the simulator.
pub trait Buffers {
    /// Memory of one record: aligned to 4096 bytes for a disk, to 16 at least.
    type Buffer: AsRef<[u8]> + AsMut<[u8]>;

    /// A buffer of exactly `bytes`, a multiple of 4096; its content is undefined.
    fn allocate(&mut self, bytes: usize) -> Self::Buffer;
}

/// The number of a read that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadId(pub u64);

/// What the driver is to do, in this order.
#[derive(Debug)]
pub enum Output<B> {
    /// Send a message, with the exact bytes of its body behind it.
    Send {
        /// The receiver.
        to: NodeId,
        /// The message.
        message: Message,
        /// Its body.
        body: Option<Frame<B>>,
    },
    /// Write a whole buffer at an offset; answered by `handle_written`.
    WriteFrame {
        /// To be answered.
        write: WriteId,
        /// Segment file.
        file: FileId,
        /// Multiple of 4096.
        offset: u64,
        /// One record, its length a multiple of 4096.
        buffer: Rc<B>,
    },
    /// Write bytes that are no body: segment headers and footers.
    WriteBytes {
        /// To be answered.
        write: WriteId,
        /// Segment file.
        file: FileId,
        /// Multiple of 4096.
        offset: u64,
        /// Length a multiple of 4096.
        bytes: Vec<u8>,
    },
    /// Make everything written to the file durable; answered by `handle_synced`.
    Sync {
        /// To be answered.
        sync: SyncId,
        /// Segment file.
        file: FileId,
    },
    /// Create a segment file, fill it with zeros, sync it and its directory; answered by `handle_file_ready`.
    CreateFile {
        /// Segment file.
        file: FileId,
    },
    /// Fill a part of a segment file with zeros and sync it; answered by `handle_file_ready`.
    ZeroFile {
        /// Segment file.
        file: FileId,
        /// Where zeros begin; a multiple of 4096.
        offset: u64,
        /// How many; a multiple of 4096.
        bytes: u64,
    },
    /// Read a record, or of a pack the blocks that hold one body, or blocks that say where bodies lie; answered by
    /// `handle_read`.
    Read {
        /// To be answered.
        read: ReadId,
        /// Segment file.
        file: FileId,
        /// Multiple of 4096.
        offset: u64,
        /// Multiple of 4096.
        bytes: u32,
    },
    /// The answer to a [`ReadAnswer::Pending`].
    ReadDone {
        /// As it was numbered.
        read: ReadId,
        /// The body; none if it was trimmed meanwhile or doesn't check.
        frame: Option<Frame<B>>,
    },
    /// The answer to a [`MarkAnswer::Pending`].
    MarkDone {
        /// As it was numbered.
        read: ReadId,
        /// The mark; none if no body ends there, it was trimmed meanwhile, or the disk doesn't say.
        mark: Option<Mark>,
    },
    /// The body is chosen and next in slot order.
    Deliver {
        /// The body.
        body: BodyHandle,
        /// The chosen prefix that includes it.
        mark: Mark,
        /// Its bytes, unless they have left memory.
        frame: Option<Frame<B>>,
    },
    /// A delivered body is judged; in slot order, at some time after its delivery.
    Judged {
        /// The body.
        body: BodyHandle,
        /// The answer to each of its submissions, or to its command about sessions or tickets. None at all if everything
        /// in it counts: no submission has any terms.
        answers: Vec<Answer>,
    },
    /// What was missing up to `base` is gone everywhere: the log begins there now, and so does what is delivered and judged
    /// from here on.
    Installed {
        /// Everything below is given up.
        base: Mark,
        /// Whose log begins there.
        from: NodeId,
    },
    /// A chosen body that was damaged in this log is in it again.
    Healed {
        /// The body.
        body: BodyHandle,
        /// Who had it.
        from: NodeId,
    },
    /// A record on this disk doesn't check. What was chosen is fetched from other members; what wasn't is in doubt.
    Damaged {
        /// The body that should be there.
        body: BodyHandle,
        /// Segment file.
        file: FileId,
        /// Where its record begins.
        offset: u64,
    },
    /// A barrier is over; everything delivered before it came before this output.
    Barrier {
        /// As it was numbered.
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
    /// Stop serving: see the reason.
    Halt(HaltReason),
}

/// The answer to a reader.
#[derive(Debug)]
pub enum ReadAnswer<B> {
    /// The body that fills the slot asked for.
    Frame(Frame<B>),
    /// It is read from the disk; [`Output::ReadDone`] brings it.
    Pending(ReadId),
    /// The slot isn't delivered yet.
    NotYet,
    /// The slot is trimmed; the log begins at `first`.
    Trimmed {
        /// First slot that is there.
        first: Slot,
    },
    /// The log is fenced after a failed write: nothing is read any more.
    Fenced,
}

/// The answer to whoever asks for a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkAnswer {
    /// The mark, if there is one.
    Known(Option<Mark>),
    /// It is read from the disk; [`Output::MarkDone`] brings it.
    Pending(ReadId),
}

/// Bounds of what a logged replica keeps in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoggedSettings {
    /// Bodies kept after they are written, for resending and for readers, in bytes.
    pub cache_bytes: u64,
    /// Bytes appended and not durable above which no new body is proposed.
    pub backlog_bytes: u64,
    /// How fast everything stored is read again in the background, to find damage while there are other copies; zero for
    /// never.
    pub scrub_bytes_per_second: u64,
    /// Judges what is delivered, within these limits, which must be the same on all replicas, and whose largest state must fit
    /// into one record; none to leave that out.
    pub delivery: Option<DeliveryLimits>,
}

/// A view for operators and tests.
#[derive(Clone, Debug)]
pub struct ReplicaStatus {
    /// The protocol's part.
    pub protocol: Status,
    /// The log's part.
    pub log: LogStats,
    /// The trimmed prefix.
    pub base: Mark,
    /// Bytes of bodies in memory.
    pub cached_bytes: u64,
    /// Whether a failed write or sync has fenced this node.
    pub fenced: bool,
    /// Chosen bodies whose bytes are lost here, ascending: fetched from other members as long as one has them.
    pub lost: Vec<BodyHandle>,
    /// Places found to be damaged, when the log was read back and since.
    pub damaged_found: u64,
    /// Bodies healed since the start.
    pub healed: u64,
    /// How often everything stored was read again since the start.
    pub scrub_passes: u64,
    /// The format that a build must read to read the log.
    pub format: u16,
    /// Bodies refused since the start: this build doesn't read their format, or another configuration rules their slots than
    /// they say, so that their maker had no right to them.
    pub refused_bodies: u64,
}
