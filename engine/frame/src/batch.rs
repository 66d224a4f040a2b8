//! A batch: the commands of one submission, laid out in columns from the start.
//!
//! The bytes of all commands lie in one blob, in order. As long as they are all of one length, that length (the
//! *stride*) is all there is to know; the first command of another length makes the batch keep the end of each command
//! instead. So commands of one size cost no bookkeeping each, and go into a body by one copy of the blob.

use thiserror::Error;

/// Commands to append as one submission: thousands of commands, one answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    blob: Vec<u8>,
    /// The one way to say it: [`Shape::Ends`] only while lengths differ, so that equal batches compare equal.
    shape: Shape,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// `count` commands of `stride` bytes; `blob.len() == stride * count`.
    Stride { stride: u32, count: u32 },
    /// Where each command ends in the blob: never descending, the last is the blob's length.
    Ends(Vec<u32>),
}

impl Default for Shape {
    fn default() -> Shape {
        Shape::Stride { stride: 0, count: 0 }
    }
}

/// Why bytes can't be cut into commands.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum BatchError {
    /// The blob isn't a whole number of commands.
    #[error("{bytes} bytes aren't a whole number of commands of {stride} bytes")]
    Stride {
        /// Length of the blob.
        bytes: usize,
        /// Length of a command.
        stride: u32,
    },
    /// The number of commands doesn't go with the blob.
    #[error("{bytes} bytes aren't {count} commands of {stride} bytes")]
    Count {
        /// Length of the blob.
        bytes: usize,
        /// Length of a command.
        stride: u32,
        /// Number of commands.
        count: u32,
    },
    /// A command ends before it begins, or the last one elsewhere than the blob.
    #[error("the ends of the commands don't ascend to the {bytes} bytes there are: command {index} ends at {end}")]
    Ends {
        /// Length of the blob.
        bytes: usize,
        /// The command.
        index: usize,
        /// Its end.
        end: u32,
    },
    /// More than can be counted.
    #[error("a batch of {bytes} bytes is beyond 4 GiB")]
    TooLarge {
        /// Length of the blob.
        bytes: usize,
    },
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Batch {
        Batch::default()
    }

    /// An empty batch with room for commands of `bytes` together.
    pub fn with_capacity(bytes: usize) -> Batch {
        Batch { blob: Vec::with_capacity(bytes), shape: Shape::default() }
    }

    /// Takes bytes that hold commands of `stride` bytes each, back to back.
    ///
    /// # Errors
    /// If they aren't a whole number of commands, or `stride` is zero.
    pub fn from_fixed(bytes: Vec<u8>, stride: u32) -> Result<Batch, BatchError> {
        let length = blob_length(&bytes)?;
        if stride == 0 || !length.is_multiple_of(stride) {
            return Err(BatchError::Stride { bytes: bytes.len(), stride });
        }
        // No commands have no stride: the empty batch is the same however it was made.
        let shape = if length == 0 { Shape::default() } else { Shape::Stride { stride, count: length / stride } };
        Ok(Batch { blob: bytes, shape })
    }

    /// Takes bytes and where in them each command ends.
    ///
    /// # Errors
    /// If the ends don't ascend to the length of the bytes.
    pub fn from_ends(bytes: Vec<u8>, ends: Vec<u32>) -> Result<Batch, BatchError> {
        let length = blob_length(&bytes)?;
        let stride = ends.first().copied().unwrap_or(0);
        let mut before = 0;
        let mut one_stride = true;
        for (index, end) in ends.iter().copied().enumerate() {
            if end < before {
                return Err(BatchError::Ends { bytes: bytes.len(), index, end });
            }
            one_stride &= end - before == stride;
            before = end;
        }
        if before != length {
            return Err(BatchError::Ends { bytes: bytes.len(), index: ends.len().saturating_sub(1), end: before });
        }
        let count = u32::try_from(ends.len()).map_err(|_| BatchError::TooLarge { bytes: bytes.len() })?;
        let shape = if one_stride { Shape::Stride { stride, count } } else { Shape::Ends(ends) };
        Ok(Batch { blob: bytes, shape })
    }

    /// Takes bytes and their shape as they come from a peer: `ends` of each command, or none and a stride.
    pub(crate) fn from_parts(bytes: Vec<u8>, stride: u32, count: u32, ends: Vec<u32>) -> Result<Batch, BatchError> {
        if !ends.is_empty() {
            let batch = Batch::from_ends(bytes, ends)?;
            return match batch.shape {
                Shape::Ends(_) if stride == 0 && batch.len() == count as usize => Ok(batch),
                _ => Err(BatchError::Count { bytes: batch.blob.len(), stride, count }),
            };
        }
        let has_stride = stride == 0 || count > 0;
        if !has_stride || u64::from(stride) * u64::from(count) != u64::from(blob_length(&bytes)?) {
            return Err(BatchError::Count { bytes: bytes.len(), stride, count });
        }
        Ok(Batch { blob: bytes, shape: Shape::Stride { stride, count } })
    }

    /// Adds a command, which may be empty.
    ///
    /// # Panics
    /// If the batch passes 4 GiB, or 2^32 commands: far beyond what one body takes.
    pub fn push(&mut self, command: &[u8]) {
        let length = u32::try_from(command.len()).expect("a command is below 4 GiB");
        let end = u32::try_from(self.blob.len() + command.len()).expect("a batch is below 4 GiB");
        self.blob.extend_from_slice(command);
        match &mut self.shape {
            Shape::Stride { stride, count } if *count == 0 || *stride == length => {
                *stride = length;
                *count = count.checked_add(1).expect("a batch has fewer than 2^32 commands");
            }
            Shape::Stride { stride, count } => {
                let mut ends = Vec::with_capacity((*count as usize + 1).next_power_of_two());
                ends.extend((1..=*count).map(|index| *stride * index));
                ends.push(end);
                self.shape = Shape::Ends(ends);
            }
            Shape::Ends(ends) => ends.push(end),
        }
    }

    /// Number of commands.
    pub fn len(&self) -> usize {
        match &self.shape {
            Shape::Stride { count, .. } => *count as usize,
            Shape::Ends(ends) => ends.len(),
        }
    }

    /// Whether there are no commands.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All commands' bytes, back to back.
    pub fn bytes(&self) -> &[u8] {
        &self.blob
    }

    /// The length of every command, while they are all of one length; zero for empty commands, or none at all.
    pub fn stride(&self) -> Option<u32> {
        match self.shape {
            Shape::Stride { stride, .. } => Some(stride),
            Shape::Ends(_) => None,
        }
    }

    /// The command at `index`.
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        match &self.shape {
            Shape::Stride { stride, count } => {
                let stride = *stride as usize;
                (index < *count as usize).then(|| &self.blob[index * stride..(index + 1) * stride])
            }
            Shape::Ends(ends) => {
                let end = *ends.get(index)? as usize;
                let start = index.checked_sub(1).map_or(0, |before| ends[before] as usize);
                Some(&self.blob[start..end])
            }
        }
    }

    /// The commands in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> + '_ {
        (0..self.len()).map(|index| self.get(index).expect("the index is below the length"))
    }

    /// Drops all commands and keeps the memory of the bytes.
    pub fn clear(&mut self) {
        self.blob.clear();
        self.shape = Shape::default();
    }

    pub(crate) fn shape(&self) -> &Shape {
        &self.shape
    }
}

impl<C: AsRef<[u8]>> FromIterator<C> for Batch {
    fn from_iter<I: IntoIterator<Item = C>>(commands: I) -> Batch {
        let mut batch = Batch::new();
        batch.extend(commands);
        batch
    }
}

impl<C: AsRef<[u8]>> Extend<C> for Batch {
    fn extend<I: IntoIterator<Item = C>>(&mut self, commands: I) {
        for command in commands {
            self.push(command.as_ref());
        }
    }
}

fn blob_length(bytes: &[u8]) -> Result<u32, BatchError> {
    u32::try_from(bytes.len()).map_err(|_| BatchError::TooLarge { bytes: bytes.len() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn equal_lengths_keep_a_stride() {
        let batch: Batch = [b"one", b"two", b"six"].into_iter().collect();
        assert_eq!(batch.stride(), Some(3));
        assert_eq!(batch, Batch::from_fixed(b"onetwosix".to_vec(), 3).unwrap());
        assert_eq!(batch, Batch::from_ends(b"onetwosix".to_vec(), vec![3, 6, 9]).unwrap());
    }

    #[test]
    fn another_length_ends_the_stride() {
        let mut batch: Batch = [b"one", b"two"].into_iter().collect();
        batch.push(b"three");
        batch.push(b"");
        assert_eq!(batch.stride(), None);
        assert_eq!(batch.iter().collect::<Vec<_>>(), [&b"one"[..], b"two", b"three", b""]);
        batch.clear();
        assert_eq!(batch, Batch::new());
    }

    #[test]
    fn empty_commands_are_commands() {
        let batch: Batch = [b"", b""].into_iter().collect();
        assert_eq!((batch.len(), batch.stride(), batch.bytes()), (2, Some(0), &b""[..]));
        assert_eq!(batch.get(1), Some(&b""[..]));
        assert_eq!(batch.get(2), None);
        assert_eq!(batch, Batch::from_ends(Vec::new(), vec![0, 0]).unwrap());
        assert_eq!(batch, Batch::from_parts(Vec::new(), 0, 2, Vec::new()).unwrap());
    }

    #[test]
    fn bad_cuts_are_refused() {
        assert_eq!(Batch::from_fixed(vec![0; 7], 2), Err(BatchError::Stride { bytes: 7, stride: 2 }));
        assert_eq!(Batch::from_fixed(vec![0; 7], 0), Err(BatchError::Stride { bytes: 7, stride: 0 }));
        assert_eq!(Batch::from_ends(vec![0; 3], vec![2, 1, 3]), Err(BatchError::Ends { bytes: 3, index: 1, end: 1 }));
        assert_eq!(Batch::from_ends(vec![0; 3], vec![1, 2]), Err(BatchError::Ends { bytes: 3, index: 1, end: 2 }));
        assert_eq!(Batch::from_ends(vec![0; 3], vec![]), Err(BatchError::Ends { bytes: 3, index: 0, end: 0 }));
        let count = |stride, count| Err(BatchError::Count { bytes: 4, stride, count });
        assert_eq!(Batch::from_parts(vec![0; 4], 2, 3, vec![]), count(2, 3));
        assert_eq!(Batch::from_parts(vec![0; 4], u32::MAX, u32::MAX, vec![]), count(u32::MAX, u32::MAX));
        assert_eq!(Batch::from_parts(vec![0; 4], 0, 3, vec![1, 4]), count(0, 3));
        assert_eq!(Batch::from_parts(vec![0; 4], 0, 2, vec![2, 4]), count(0, 2));
    }

    proptest! {
        #[test]
        fn a_batch_gives_back_what_was_pushed(
            commands in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..4), 0..20),
        ) {
            let batch: Batch = commands.iter().collect();
            prop_assert_eq!(batch.len(), commands.len());
            prop_assert_eq!(batch.bytes(), &commands.concat());
            prop_assert!(batch.iter().eq(commands.iter().map(Vec::as_slice)));
            let one_length = commands.windows(2).all(|pair| pair[0].len() == pair[1].len());
            prop_assert_eq!(batch.stride().is_some(), one_length);
        }
    }
}
