//! How long a commands body will be, before a buffer is taken for it.
//!
//! The archive of a commands body is laid out as
//! ```text
//! [ submissions, 32 bytes each, and as many for each condition | ends, 4 bytes each, none with a stride | zeros to 16 | blob | zeros to 4 | root 28 ]
//! ```
//! so its length follows from four numbers. The plan keeps those, takes submissions one by one, and gives the exact
//! lengths of the body; the encoder uses the same plan and asserts that it was right.

use synod_protocol::delivery::Terms;
use synod_protocol::limits::BODY_SLOTS_MAX;
use thiserror::Error;

use crate::archive::ARCHIVE_ALIGN_BYTES;
use crate::batch::Batch;
use crate::body::BodyLayout;
use crate::commands::{ROOT_BYTES, SUBMISSION_BYTES, Submission};

/// Counts what a commands body must hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommandsPlan {
    submissions: u64,
    /// Rows of their column besides theirs.
    conditions: u64,
    commands: u64,
    blob_bytes: u64,
    shape: PlanShape,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum PlanShape {
    #[default]
    Nothing,
    /// All commands have this length, which isn't zero.
    Stride(u32),
    Ends,
}

/// What a body may hold at most, as its proposer wishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyBounds {
    /// Slots that are free to be proposed.
    pub commands_max: u32,
    /// Length of the record buffer.
    pub record_bytes_max: usize,
}

impl BodyBounds {
    /// What the format allows.
    pub const LARGEST: BodyBounds =
        BodyBounds { commands_max: BODY_SLOTS_MAX, record_bytes_max: BodyLayout::LARGEST.record_bytes() };
}

/// Why a submission isn't taken into a body.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum PlanError {
    /// It has no commands, so there is nothing to append.
    #[error("a submission needs at least one command")]
    Empty,
    /// It doesn't go into this body any more; it is for the next one.
    #[error("the body is full")]
    Full,
    /// It goes into no body within these bounds, for a submission is never split.
    #[error(
        "{commands} commands of {bytes} bytes together don't fit into one body; append them in several submissions"
    )]
    TooLarge {
        /// Number of commands.
        commands: usize,
        /// Their bytes together.
        bytes: usize,
    },
}

impl CommandsPlan {
    /// A plan of an empty body.
    pub fn new() -> CommandsPlan {
        CommandsPlan::default()
    }

    /// A plan of these submissions, within bounds or not.
    pub fn of(submissions: &[Submission<'_>]) -> CommandsPlan {
        submissions
            .iter()
            .fold(CommandsPlan::new(), |plan, submission| plan.with(submission.batch).with_rows(submission.rows() - 1))
    }

    /// Takes one more submission, if the body stays within bounds.
    ///
    /// # Errors
    /// If it isn't taken; the plan is unchanged then.
    pub fn try_push(&mut self, batch: &Batch, bounds: &BodyBounds) -> Result<(), PlanError> {
        self.try_push_under(&Terms::NONE, batch, bounds)
    }

    /// As [`CommandsPlan::try_push`], for a submission on these terms.
    ///
    /// # Errors
    /// As [`CommandsPlan::try_push`].
    pub fn try_push_under(&mut self, terms: &Terms, batch: &Batch, bounds: &BodyBounds) -> Result<(), PlanError> {
        if batch.is_empty() {
            return Err(PlanError::Empty);
        }
        let conditions = u64::from(terms.expected_slot.is_some_and(|slot| slot.0 > 0));
        let with_batch = self.with(batch).with_rows(conditions);
        if with_batch.fits(bounds) {
            *self = with_batch;
            return Ok(());
        }
        if self.submissions > 0 && CommandsPlan::new().with(batch).with_rows(conditions).fits(bounds) {
            return Err(PlanError::Full);
        }
        Err(PlanError::TooLarge { commands: batch.len(), bytes: batch.bytes().len() })
    }

    /// The plan with one more submission, within bounds or not.
    #[must_use]
    pub fn with(&self, batch: &Batch) -> CommandsPlan {
        let shape = match (self.shape, batch.stride()) {
            // An empty batch changes no lengths, and a stride of zero can't be written: it stands for "see the ends".
            (shape, _) if batch.is_empty() => shape,
            (PlanShape::Nothing, Some(stride @ 1..)) => PlanShape::Stride(stride),
            (PlanShape::Stride(ours), Some(stride)) if ours == stride => PlanShape::Stride(ours),
            _ => PlanShape::Ends,
        };
        CommandsPlan {
            submissions: self.submissions + 1,
            conditions: self.conditions,
            commands: self.commands + batch.len() as u64,
            blob_bytes: self.blob_bytes + batch.bytes().len() as u64,
            shape,
        }
    }

    pub(crate) fn with_rows(&self, conditions: u64) -> CommandsPlan {
        CommandsPlan { conditions: self.conditions + conditions, ..*self }
    }

    /// Number of submissions.
    pub fn submissions(&self) -> usize {
        self.submissions as usize
    }

    /// Number of commands, and so of slots.
    pub fn commands(&self) -> usize {
        self.commands as usize
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.submissions == 0
    }

    /// The exact lengths of the body, or `None` if there can be no such body: it is empty or beyond the largest.
    pub fn layout(&self) -> Option<BodyLayout> {
        if self.commands == 0 || self.commands > u64::from(BODY_SLOTS_MAX) {
            return None;
        }
        BodyLayout::new(self.archive_bytes())
    }

    /// The exact length of the archive.
    pub(crate) fn archive_bytes(&self) -> u64 {
        let ends_bytes = if self.stride() == 0 { self.commands * size_of::<u32>() as u64 } else { 0 };
        let columns = (self.submissions + self.conditions) * SUBMISSION_BYTES as u64 + ends_bytes;
        let blob_end = columns.next_multiple_of(ARCHIVE_ALIGN_BYTES as u64) + self.blob_bytes;
        blob_end.next_multiple_of(4) + ROOT_BYTES as u64
    }

    pub(crate) fn blob_bytes(&self) -> usize {
        self.blob_bytes as usize
    }

    /// The length of every command, or zero if the ends are written.
    pub(crate) fn stride(&self) -> u32 {
        match self.shape {
            PlanShape::Stride(stride) => stride,
            PlanShape::Nothing | PlanShape::Ends => 0,
        }
    }

    fn fits(&self, bounds: &BodyBounds) -> bool {
        self.commands <= u64::from(bounds.commands_max)
            && self.layout().is_some_and(|layout| layout.record_bytes() <= bounds.record_bytes_max)
    }
}

/// How many commands of one length fit into a body as one submission; zero if not even one does.
pub fn commands_fit(command_bytes: u32, bounds: &BodyBounds) -> u32 {
    let fits = |commands: u32| {
        let shape = if command_bytes == 0 { PlanShape::Ends } else { PlanShape::Stride(command_bytes) };
        let blob_bytes = u64::from(commands) * u64::from(command_bytes);
        CommandsPlan { submissions: 1, conditions: 0, commands: u64::from(commands), blob_bytes, shape }.fits(bounds)
    };
    // The most that fits lies in `fit..too_many`.
    let (mut fit, mut too_many) = (0, bounds.commands_max.min(BODY_SLOTS_MAX) + 1);
    while too_many - fit > 1 {
        let middle = fit + (too_many - fit) / 2;
        if fits(middle) {
            fit = middle;
        } else {
            too_many = middle;
        }
    }
    fit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_that_fits_is_the_most() {
        for command_bytes in [0, 1, 7, 64, 128, 1000, 4096, 100_000, 1 << 20] {
            for record_bytes_max in [4096, 65_536, 1 << 20, usize::MAX] {
                let bounds = BodyBounds { record_bytes_max, ..BodyBounds::LARGEST };
                let fit = commands_fit(command_bytes, &bounds);
                let batch = |count: u32| {
                    std::iter::repeat_n(vec![1u8; command_bytes as usize], count as usize).collect::<Batch>()
                };
                if fit > 0 {
                    assert_eq!(CommandsPlan::new().try_push(&batch(fit), &bounds), Ok(()));
                }
                let above = batch(fit + 1);
                let too_large = PlanError::TooLarge { commands: above.len(), bytes: above.bytes().len() };
                assert_eq!(CommandsPlan::new().try_push(&above, &bounds), Err(too_large));
            }
        }
    }

    #[test]
    fn a_full_body_is_told_from_a_large_submission() {
        let bounds = BodyBounds { commands_max: 4, record_bytes_max: 4096 };
        let three: Batch = [b"a", b"b", b"c"].into_iter().collect();
        let mut plan = CommandsPlan::new();
        assert_eq!(plan.try_push(&Batch::new(), &bounds), Err(PlanError::Empty));
        plan.try_push(&three, &bounds).unwrap();
        assert_eq!(plan.try_push(&three, &bounds), Err(PlanError::Full));
        assert_eq!((plan.submissions(), plan.commands()), (1, 3));
        let long: Batch = [vec![0; 4096]].into_iter().collect();
        assert_eq!(plan.try_push(&long, &bounds), Err(PlanError::TooLarge { commands: 1, bytes: 4096 }));
    }
}
