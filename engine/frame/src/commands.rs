//! The archive of a commands body: columns, not a structure per command.
//!
//! One row per submission says whose commands these are and which; the commands' bytes lie back to back in one blob;
//! where each ends follows from a stride or is listed. Encoding copies every command byte once, from the submitted
//! batch into the record buffer; reading copies nothing.

use std::ops::Range;

use rkyv::api::low::to_bytes_in_with_alloc;
use rkyv::munge::munge;
use rkyv::rancor::{Failure, Fallible};
use rkyv::ser::allocator::SubAllocator;
use rkyv::ser::writer::Buffer;
use rkyv::ser::{Allocator, Positional, Writer, WriterExt};
use rkyv::vec::{ArchivedVec, VecResolver};
use rkyv::{Archive, Archived, Place, Serialize};
use synod_protocol::delivery::{SessionId, Submitted, Terms, TicketId};
use synod_protocol::{BodyHandle, BodyKind, Slot};
use thiserror::Error;

use crate::archive::{self, ARCHIVE_ALIGN_BYTES};
use crate::batch::{Batch, Shape};
use crate::body::{self, BodyHeader, BodyLayout, HeaderFields};
use crate::encode::{EncodeError, Origin, check_buffer};
use crate::layout::RECORD_HEADER_BYTES;
use crate::plan::CommandsPlan;

/// Length of a row of the submissions column.
pub(crate) const SUBMISSION_BYTES: usize = size_of::<ArchivedSubmissionRow>();

/// Length of the root, at the end of the archive.
pub(crate) const ROOT_BYTES: usize = size_of::<ArchivedCommands>();

// The byte map of engine/docs/wal-format.md.
const _: () = {
    assert!(SUBMISSION_BYTES == 32 && ROOT_BYTES == 28);
    assert!(align_of::<ArchivedSubmissionRow>() <= ARCHIVE_ALIGN_BYTES);
    assert!(align_of::<ArchivedCommands>() == 4);
};

/// A submission; or, with no commands, the condition of the one in the next row, whose expected slot stands for the
/// session.
#[derive(Archive, Serialize)]
struct SubmissionRow {
    session: u64,
    sequence: u64,
    ticket: u64,
    /// First command, counted from the start of the body.
    first: u32,
    count: u32,
}

/// What is read; written as [`CommandsSource`].
#[derive(Archive)]
#[expect(dead_code, reason = "only its archived twin is ever built")]
struct Commands {
    submissions: Vec<SubmissionRow>,
    /// Length of every command, or zero: see `ends`.
    stride: u32,
    /// Where each command ends in the blob.
    ends: Vec<u32>,
    blob: Vec<u8>,
}

/// What one append call brings.
#[derive(Clone, Copy, Debug)]
pub struct Submission<'a> {
    /// The client's session; zero for none.
    pub session: u64,
    /// The submission's number in its session.
    pub sequence: u64,
    /// The ticket it is appended under; zero for none.
    pub ticket: u64,
    /// The slot that it expects for its first command; zero for any.
    pub expected_slot: u64,
    /// The commands; at least one.
    pub batch: &'a Batch,
}

impl<'a> Submission<'a> {
    /// A submission without any terms.
    pub fn plain(batch: &'a Batch) -> Submission<'a> {
        Submission::under(&Terms::NONE, batch)
    }

    /// A submission to be delivered on these terms. Names and numbers of zero, which nothing ever has, stand for none.
    pub fn under(terms: &Terms, batch: &'a Batch) -> Submission<'a> {
        let (session, sequence) = terms.session.map_or((0, 0), |(id, sequence)| (id.0.0, sequence));
        let ticket = terms.ticket.map_or(0, |id| id.0.0);
        let expected_slot = terms.expected_slot.map_or(0, |slot| slot.0);
        Submission { session, sequence, ticket, expected_slot, batch }
    }

    /// Rows that it takes in its column.
    pub(crate) fn rows(&self) -> u64 {
        if self.expected_slot == 0 { 1 } else { 2 }
    }
}

/// The same columns, gathered from the batches while they are written.
struct CommandsSource<'a> {
    submissions: &'a [Submission<'a>],
    stride: u32,
    ends_count: usize,
    blob_bytes: usize,
}

/// Lays a commands body into a record buffer, behind the room for the record header.
///
/// The buffer must have at least [`BodyLayout::record_bytes`] of the [`CommandsPlan`] of the same submissions; its
/// content needs not be initialised to anything. The padding up to the end of the last block is zeroed.
///
/// # Errors
/// If the buffer is too short, or there is no such body. The buffer's content is undefined then.
pub fn encode_commands(
    record: &mut [u8],
    origin: &Origin,
    submissions: &[Submission<'_>],
) -> Result<BodyHandle, EncodeError> {
    if submissions.is_empty() || submissions.iter().any(|submission| submission.batch.is_empty()) {
        return Err(EncodeError::Empty);
    }
    let plan = CommandsPlan::of(submissions);
    let Some(layout) = plan.layout() else {
        return Err(EncodeError::TooLarge { commands: plan.commands(), archive_bytes: plan.archive_bytes() });
    };
    let fields = HeaderFields {
        group: origin.group,
        kind: BodyKind::Commands,
        first: origin.first,
        count: plan.commands() as u32,
        origin: origin.ballot,
        leader_time_us: origin.leader_time_us,
    };
    check_buffer(record, &layout, &fields)?;
    write_archive(archive_of(record, &layout), submissions, &plan);
    Ok(body::seal(record, &layout, &fields))
}

fn archive_of<'a>(record: &'a mut [u8], layout: &BodyLayout) -> &'a mut [u8] {
    let range = layout.archive_range();
    &mut record[RECORD_HEADER_BYTES..][range]
}

fn write_archive(archive: &mut [u8], submissions: &[Submission<'_>], plan: &CommandsPlan) {
    let stride = plan.stride();
    let ends_count = if stride == 0 { plan.commands() } else { 0 };
    let source = CommandsSource { submissions, stride, ends_count, blob_bytes: plan.blob_bytes() };
    let archive_bytes = archive.len();
    let written = to_bytes_in_with_alloc::<_, _, Failure>(&source, Buffer::from(archive), SubAllocator::empty())
        .expect("the plan counted every byte, and columns need no scratch memory");
    assert_eq!(written.pos(), archive_bytes, "the plan counted every byte");
}

/// Where the columns were written.
struct CommandsPositions {
    submissions: VecResolver,
    ends: VecResolver,
    blob: VecResolver,
}

impl Archive for CommandsSource<'_> {
    type Archived = ArchivedCommands;
    type Resolver = CommandsPositions;

    fn resolve(&self, positions: CommandsPositions, out: Place<ArchivedCommands>) {
        munge!(let ArchivedCommands { submissions, stride, ends, blob } = out);
        ArchivedVec::resolve_from_len(self.rows_count(), positions.submissions, submissions);
        self.stride.resolve((), stride);
        ArchivedVec::resolve_from_len(self.ends_count, positions.ends, ends);
        ArchivedVec::resolve_from_len(self.blob_bytes, positions.blob, blob);
    }
}

impl<S: Fallible + Allocator + Writer + ?Sized> Serialize<S> for CommandsSource<'_> {
    fn serialize(&self, serializer: &mut S) -> Result<CommandsPositions, S::Error> {
        Ok(CommandsPositions {
            submissions: self.write_submissions(serializer)?,
            ends: self.write_ends(serializer)?,
            blob: self.write_blob(serializer)?,
        })
    }
}

impl CommandsSource<'_> {
    fn rows_count(&self) -> usize {
        self.submissions.iter().map(|submission| submission.rows() as usize).sum()
    }

    fn write_submissions<S: Fallible + Allocator + Writer + ?Sized>(
        &self,
        serializer: &mut S,
    ) -> Result<VecResolver, S::Error> {
        let mut first = 0;
        let mut rows = self.submissions.iter().flat_map(|submission| {
            let count = submission.batch.len() as u32;
            let expected = submission.expected_slot;
            let condition = SubmissionRow { session: expected, sequence: 0, ticket: 0, first, count: 0 };
            let row = SubmissionRow {
                session: submission.session,
                sequence: submission.sequence,
                ticket: submission.ticket,
                first,
                count,
            };
            first += count;
            (expected > 0).then_some(condition).into_iter().chain([row])
        });
        ArchivedVec::serialize_from_unknown_length_iter(&mut rows, serializer)
    }

    fn write_ends<S: Fallible + Writer + ?Sized>(&self, serializer: &mut S) -> Result<VecResolver, S::Error> {
        let position = serializer.align_for::<Archived<u32>>()?;
        if self.ends_count > 0 {
            let mut base = 0;
            for submission in self.submissions {
                write_ends(serializer, base, submission.batch)?;
                base += submission.batch.bytes().len() as u32;
            }
        }
        Ok(VecResolver::from_pos(position))
    }

    fn write_blob<S: Fallible + Writer + ?Sized>(&self, serializer: &mut S) -> Result<VecResolver, S::Error> {
        // Aligned so that commands of a stride that is a multiple of 16 are aligned in every buffer: readers may then
        // open archives of their own in place.
        let position = serializer.align(ARCHIVE_ALIGN_BYTES)?;
        for submission in self.submissions {
            serializer.write(submission.batch.bytes())?;
        }
        Ok(VecResolver::from_pos(position))
    }
}

/// Writes where the commands of a batch end that itself begins at `base`.
fn write_ends<S: Fallible + Writer + ?Sized>(serializer: &mut S, base: u32, batch: &Batch) -> Result<(), S::Error> {
    match batch.shape() {
        Shape::Stride { stride, count } => {
            write_numbers(serializer, (0..*count).map(|index| base + stride * (index + 1)))
        }
        Shape::Ends(ends) => write_numbers(serializer, ends.iter().map(|end| base + end)),
    }
}

/// Writes in chunks, so that the writer's bounds check is paid once in some hundred numbers.
pub(crate) fn write_numbers<S: Fallible + Writer + ?Sized>(
    serializer: &mut S,
    mut numbers: impl ExactSizeIterator<Item = u32>,
) -> Result<(), S::Error> {
    const CHUNK: usize = 256;
    let mut left = numbers.len();
    let mut chunk = [0u8; CHUNK * size_of::<u32>()];
    while left > 0 {
        let count = left.min(CHUNK);
        for (bytes, number) in chunk.chunks_exact_mut(size_of::<u32>()).zip(numbers.by_ref().take(count)) {
            bytes.copy_from_slice(&number.to_le_bytes());
        }
        serializer.write(&chunk[..count * size_of::<u32>()])?;
        left -= count;
    }
    Ok(())
}

/// Why the archive of a commands body can't be read. Its checksums were right, so whoever made the body is at fault.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum CommandsError {
    /// The body holds something else.
    #[error("the body holds no commands")]
    Kind,
    /// Not all of the body is there.
    #[error("the body is cut short: {found} bytes of {needed}")]
    Truncated {
        /// Bytes needed.
        needed: usize,
        /// Bytes there are.
        found: usize,
    },
    /// The buffer begins at an odd address; read bodies from record buffers.
    #[error("the body's archive isn't aligned to {ARCHIVE_ALIGN_BYTES} bytes in memory")]
    Alignment,
    /// It isn't an archive of commands.
    #[error("the body's archive isn't one of commands")]
    Archive,
    /// The columns aren't those of as many commands as the header says.
    #[error("the columns don't hold {count} commands: stride {stride}, {ends} ends, {blob_bytes} bytes")]
    Columns {
        /// Commands as the header says.
        count: u32,
        /// The stride.
        stride: u32,
        /// Number of ends.
        ends: usize,
        /// Length of the blob.
        blob_bytes: usize,
    },
    /// The ends of a command lie outside the blob or the wrong way round.
    #[error("command {index} has no valid range in the blob")]
    Command {
        /// The command.
        index: u32,
    },
    /// There is no such command.
    #[error("command {index} of {count}")]
    NoSuchCommand {
        /// The command asked for.
        index: u32,
        /// Commands there are.
        count: u32,
    },
    /// The submissions don't cover the commands one after the other, or a condition isn't followed by a submission.
    #[error("submission {index} doesn't follow the one before it, or the last doesn't end with the body")]
    Submission {
        /// Its row.
        index: usize,
    },
}

/// A submission as it stands in a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubmissionEntry {
    /// The client's session; zero for none.
    pub session: u64,
    /// The submission's number in its session.
    pub sequence: u64,
    /// The ticket it was appended under; zero for none.
    pub ticket: u64,
    /// The slot that it expected for its first command; zero for any.
    pub expected_slot: u64,
    /// Its commands, counted from the start of the body; not empty.
    pub commands: Range<u32>,
}

impl SubmissionEntry {
    /// What of it matters to delivery.
    pub fn submitted(&self) -> Submitted {
        let some = |number: u64| (number > 0).then_some(Slot(number));
        let terms = Terms {
            session: some(self.session).map(|slot| (SessionId(slot), self.sequence)),
            ticket: some(self.ticket).map(TicketId),
            expected_slot: some(self.expected_slot),
        };
        Submitted { terms, count: self.commands.end - self.commands.start }
    }
}

/// Reads the commands of a body in place.
#[derive(Clone, Copy)]
pub struct CommandsView<'a> {
    archive: &'a ArchivedCommands,
    count: u32,
}

impl<'a> CommandsView<'a> {
    /// Opens the commands of a verified body, of which `body` are the exact bytes.
    ///
    /// # Errors
    /// If the body holds something else, or its maker didn't keep to the format.
    pub fn new(header: &BodyHeader, body: &'a [u8]) -> Result<CommandsView<'a>, CommandsError> {
        if header.kind != BodyKind::Commands {
            return Err(CommandsError::Kind);
        }
        let range = header.archive_range();
        let truncated = CommandsError::Truncated { needed: range.end, found: body.len() };
        let bytes = body.get(range).ok_or(truncated)?;
        if !archive::is_aligned(bytes) {
            return Err(CommandsError::Alignment);
        }
        let archive = archive::access::<ArchivedCommands>(bytes).ok_or(CommandsError::Archive)?;
        let view = CommandsView { archive, count: header.count };
        view.check_columns()?;
        Ok(view)
    }

    /// Number of commands.
    pub fn len(&self) -> u32 {
        self.count
    }

    /// Whether there are no commands, which no body of the format has.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The length of every command, or `None` if they differ.
    pub fn stride(&self) -> Option<u32> {
        match self.archive.stride.to_native() {
            0 => None,
            stride => Some(stride),
        }
    }

    /// All commands' bytes, back to back.
    pub fn blob(&self) -> &'a [u8] {
        self.archive.blob.as_slice()
    }

    /// The command at `index`, counted from the start of the body.
    ///
    /// # Errors
    /// If there is no such command, or its range is bad.
    pub fn get(&self, index: u32) -> Result<&'a [u8], CommandsError> {
        if index >= self.count {
            return Err(CommandsError::NoSuchCommand { index, count: self.count });
        }
        let blob = self.blob();
        let position = index as usize;
        let range = match self.archive.stride.to_native() as usize {
            0 => {
                let ends = self.archive.ends.as_slice();
                let end = ends[position].to_native() as usize;
                let start = position.checked_sub(1).map_or(0, |before| ends[before].to_native() as usize);
                start..end
            }
            stride => position * stride..(position + 1) * stride,
        };
        blob.get(range).ok_or(CommandsError::Command { index })
    }

    /// The commands in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Result<&'a [u8], CommandsError>> + use<'a> {
        let view = *self;
        (0..self.count).map(move |index| view.get(index))
    }

    /// The submissions in order. They cover the commands without gap or overlap, or the iterator ends with an error.
    pub fn submissions(&self) -> Submissions<'a> {
        Submissions { rows: self.archive.submissions.as_slice(), next: 0, covered: 0, count: self.count }
    }

    /// Checks in constant time that the columns go with the count: all that [`CommandsView::get`] relies on.
    fn check_columns(&self) -> Result<(), CommandsError> {
        let (count, stride) = (self.count, self.archive.stride.to_native());
        let (ends, blob_bytes) = (self.archive.ends.len(), self.archive.blob.len());
        let agree = if stride == 0 {
            ends == count as usize && self.archive.ends.last().is_none_or(|end| end.to_native() as usize == blob_bytes)
        } else {
            ends == 0 && u64::from(stride) * u64::from(count) == blob_bytes as u64
        };
        if agree { Ok(()) } else { Err(CommandsError::Columns { count, stride, ends, blob_bytes }) }
    }
}

/// Iterator over the submissions of a body.
#[derive(Clone)]
pub struct Submissions<'a> {
    rows: &'a [ArchivedSubmissionRow],
    next: usize,
    /// Commands of the submissions before.
    covered: u32,
    count: u32,
}

impl Iterator for Submissions<'_> {
    type Item = Result<SubmissionEntry, CommandsError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (index, expected_slot) = match self.rows.get(self.next) {
            Some(row) if row.is_condition(self.covered) => (self.next + 1, row.session.to_native()),
            _ => (self.next, 0),
        };
        let Some(row) = self.rows.get(index) else {
            let complete = self.covered == self.count && expected_slot == 0;
            self.next = self.rows.len();
            self.covered = self.count;
            return if complete { None } else { Some(Err(CommandsError::Submission { index })) };
        };
        let first = row.first.to_native();
        let end = first.checked_add(row.count.to_native());
        match end {
            Some(end) if first == self.covered && end > first && end <= self.count => {
                self.next = index + 1;
                self.covered = end;
                Some(Ok(SubmissionEntry {
                    session: row.session.to_native(),
                    sequence: row.sequence.to_native(),
                    ticket: row.ticket.to_native(),
                    expected_slot,
                    commands: first..end,
                }))
            }
            _ => {
                // Nothing behind a bad row means anything.
                (self.next, self.covered) = (self.rows.len(), self.count);
                Some(Err(CommandsError::Submission { index }))
            }
        }
    }
}

impl ArchivedSubmissionRow {
    /// Whether it is the condition of the submission that begins at command `first`.
    fn is_condition(&self, first: u32) -> bool {
        let nothing = self.count.to_native() == 0 && self.sequence.to_native() == 0 && self.ticket.to_native() == 0;
        nothing && self.session.to_native() > 0 && self.first.to_native() == first
    }
}
