//! What has arrived from a client and isn't taken yet.
//!
//! Small requests come many at a time: one read takes them all, and each is then found in memory, without a system call
//! or a timer of its own. What doesn't fit is read straight to where it belongs.

use std::io;

use synod_frame::ENVELOPE_BYTES;

use super::budget::{Budget, patience, too_slow};
use crate::link::connection::Reading;
use crate::seam::time::within;

/// Taken with one read. Part of what a connection may cost.
const INBOX_BYTES: usize = 32 << 10;

/// See the module.
pub(super) struct Inbox {
    stream: Reading,
    bytes: Box<[u8]>,
    /// What is there and not taken: `bytes[start..end]`.
    start: usize,
    end: usize,
}

impl Inbox {
    pub(super) fn new(stream: Reading) -> Inbox {
        Inbox { stream, bytes: vec![0; INBOX_BYTES].into(), start: 0, end: 0 }
    }

    /// The next envelope. `begun` is called when its first byte is there: before that a client may be silent for as long as
    /// it likes, but not in the middle of a request.
    ///
    /// # Errors
    /// If the connection ends or fails, or is too slow.
    pub(super) async fn envelope(&mut self, begun: impl FnOnce()) -> io::Result<[u8; ENVELOPE_BYTES]> {
        if self.start == self.end {
            self.fill().await?;
        }
        begun();
        if self.end - self.start < ENVELOPE_BYTES {
            let rest = async {
                while self.end - self.start < ENVELOPE_BYTES {
                    self.fill().await?;
                }
                Ok(())
            };
            within(patience(ENVELOPE_BYTES), rest).await.unwrap_or_else(|| Err(too_slow()))?;
        }
        let mut head = [0; ENVELOPE_BYTES];
        head.copy_from_slice(self.take(ENVELOPE_BYTES));
        Ok(head)
    }

    /// A payload for which there is room in the budget, in place if all of it is there.
    ///
    /// # Errors
    /// If the connection ends or fails, or is too slow.
    pub(super) async fn payload<R>(
        &mut self,
        budget: &Budget,
        bytes: usize,
        read: impl FnOnce(&[u8]) -> R,
    ) -> io::Result<R> {
        let there = self.end - self.start;
        if bytes <= there {
            return Ok(read(self.take(bytes)));
        }
        let begun = self.take(there).to_vec();
        Ok(read(&budget.read(&mut self.stream, begun, bytes).await?))
    }

    fn take(&mut self, bytes: usize) -> &[u8] {
        let taken = &self.bytes[self.start..self.start + bytes];
        self.start += bytes;
        taken
    }

    /// Reads what is there, at least one byte.
    async fn fill(&mut self) -> io::Result<()> {
        self.bytes.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        match self.stream.read(&mut self.bytes[self.end..]).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            more => {
                self.end += more;
                Ok(())
            }
        }
    }
}
