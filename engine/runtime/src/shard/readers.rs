//! Handing delivered bodies to readers outside the shard.
//!
//! A reader asks for what comes next and gets some bodies at once, or waits at the tail. Each body is copied once for
//! all readers that hold it at the same time: the copy is found again as long as one of them keeps it.

use std::collections::BTreeMap;

use futures_channel::oneshot;
use synod_protocol::Slot;
use synod_wal::{Frame, Judgement, ReadAnswer, ReadId, Suppressed};

use super::{Core, Shard};
use crate::error::ReadError;
use crate::mailbox::ReadReply;
use crate::reader::{SharedBody, WeakBody};
use crate::seam::buffer::Buffer;

/// How much one answer holds; it ends with the body that passes this.
const ANSWER_BYTES: usize = 1 << 20;

/// The reply's sender of one reader.
type Reply = oneshot::Sender<Result<ReadReply, ReadError>>;

/// Who reads.
#[derive(Default)]
pub(super) struct Readers {
    /// At the tail.
    waiting: Vec<Answer>,
    /// For the disk.
    reading: BTreeMap<ReadId, Answer>,
    /// Copies that some reader may still hold, by first slot.
    copies: BTreeMap<Slot, WeakBody>,
}

/// An answer being put together.
struct Answer {
    next: Slot,
    bodies: Vec<SharedBody>,
    bytes: usize,
    reply: Reply,
}

impl Answer {
    fn push(&mut self, body: SharedBody) {
        self.next = body.handle().end();
        self.bytes += body.bytes().len();
        self.bodies.push(body);
    }

    /// A receiver that is gone doesn't want to know.
    fn finish(self, otherwise: Result<ReadReply, ReadError>) {
        let answer = if self.bodies.is_empty() { otherwise } else { Ok(ReadReply::Bodies(self.bodies)) };
        let _ = self.reply.send(answer);
    }
}

impl Readers {
    /// Nobody gets anything more.
    pub(super) fn refuse(&mut self, error: &ReadError) {
        let reading = std::mem::take(&mut self.reading).into_values();
        for answer in self.waiting.drain(..).chain(reading) {
            let _ = answer.reply.send(Err(error.clone()));
        }
    }

    /// Forgets readers and copies that nobody holds any more.
    pub(super) fn forget_gone(&mut self) {
        self.waiting.retain(|answer| !answer.reply.is_canceled());
        self.copies.retain(|_, copy| !copy.is_gone());
    }

    /// Takes note of a body that was delivered just now: whoever waits at the tail will want it.
    pub(super) fn note(&mut self, frame: &Frame<Buffer>, suppressed: &[Suppressed]) {
        if self.waiting.iter().any(|answer| answer.next == frame.handle().first && !answer.reply.is_canceled()) {
            let copy = self.copy(frame).map(|copy| copy.with_suppressed(suppressed));
            for answer in &mut self.waiting {
                if let Some(copy) = &copy
                    && answer.next == copy.handle().first
                {
                    answer.push(copy.clone());
                }
            }
        }
    }

    fn copy(&mut self, frame: &Frame<Buffer>) -> Option<SharedBody> {
        let handle = frame.handle();
        let known = self.copies.get(&handle.first).and_then(WeakBody::upgrade);
        if let Some(known) = known.filter(|known| known.handle().id == handle.id) {
            return Some(known);
        }
        let copy = SharedBody::copy(frame.body())
            .inspect_err(|error| tracing::error!(%error, slot = %handle.first, "a body in memory is damaged"))
            .ok()?;
        self.copies.insert(handle.first, copy.downgrade());
        Some(copy)
    }
}

impl Shard {
    /// Begins an answer.
    pub(super) fn read_from(&self, core: &mut Core, from: Slot, reply: Reply) {
        self.go_on_reading(core, Answer { next: from, bodies: Vec::new(), bytes: 0, reply });
    }

    /// Serves those who wait at the tail, after deliveries.
    pub(super) fn serve_waiting(&self, core: &mut Core) {
        for answer in std::mem::take(&mut core.readers.waiting) {
            self.go_on_reading(core, answer);
        }
    }

    /// A body came from the disk, or didn't.
    pub(super) fn read_done(&self, core: &mut Core, read: ReadId, frame: Option<&Frame<Buffer>>) {
        let Some(mut answer) = core.readers.reading.remove(&read) else { return };
        if let Some(body) = frame.and_then(|frame| core.readers.copy(frame)) {
            return match judged(core, body) {
                Ok(body) => {
                    answer.push(body);
                    self.go_on_reading(core, answer);
                }
                Err(error) => answer.finish(Err(error)),
            };
        }
        let first = core.replica.status().base.slot;
        if answer.next < first {
            return answer.finish(Ok(ReadReply::Trimmed { first }));
        }
        let slot = answer.next;
        answer.finish(Err(ReadError::Disk { slot }));
    }

    fn go_on_reading(&self, core: &mut Core, mut answer: Answer) {
        while answer.bytes < ANSWER_BYTES && !answer.reply.is_canceled() {
            let (slot, mark) = (answer.next, core.replica.replica().mark().slot);
            let waits_for = core.replica.judging_waits_for();
            // Delivered, but it isn't known yet what of it counts. What judging itself waits for is asked for as ever.
            let is_unjudged = slot < mark && slot >= core.replica.judged() && waits_for != Some(slot);
            if is_unjudged && waits_for.is_some() {
                return answer.finish(Err(ReadError::Unjudged { slot, first: mark }));
            }
            match if is_unjudged { ReadAnswer::NotYet } else { core.replica.read(slot) } {
                ReadAnswer::Frame(frame) => match core.readers.copy(&frame) {
                    Some(body) => match judged(core, body) {
                        Ok(body) => answer.push(body),
                        Err(error) => return answer.finish(Err(error)),
                    },
                    None => return answer.finish(Err(ReadError::Disk { slot })),
                },
                ReadAnswer::Pending(read) => {
                    core.readers.reading.insert(read, answer);
                    return;
                }
                ReadAnswer::NotYet if answer.bodies.is_empty() => {
                    core.readers.waiting.push(answer);
                    return;
                }
                ReadAnswer::NotYet => break,
                ReadAnswer::Trimmed { first } => return answer.finish(Ok(ReadReply::Trimmed { first })),
                ReadAnswer::Fenced => return answer.finish(Err(ReadError::Poisoned)),
            }
        }
        answer.finish(Err(ReadError::Shutdown));
    }
}

/// The body with what of it doesn't count. Only bodies that are judged are asked for.
fn judged(core: &Core, body: SharedBody) -> Result<SharedBody, ReadError> {
    let slot = body.handle().first;
    match core.replica.judgement(body.slots()) {
        Judgement::Known(suppressed) => Ok(body.with_suppressed(&suppressed)),
        Judgement::NotYet => Err(ReadError::Unjudged { slot, first: slot }),
        Judgement::Forgotten { first } => Err(ReadError::Unjudged { slot, first }),
    }
}
