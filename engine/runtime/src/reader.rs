//! Reading the log outside the shard: bodies in order, from memory or disk, waiting at the tail.
//!
//! A body leaves the shard as one copy, shared by all readers that ask for it while somebody holds it: the shard's own
//! buffers can't leave their thread.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use futures_channel::oneshot;
use futures_lite::future::block_on;
use rkyv::util::AlignedVec;
use synod_frame::{BodyError, BodyHeader, CommandsError, CommandsView};
use synod_protocol::{BodyHandle, Slot, SlotRange};
use synod_wal::Suppressed;

use crate::error::ReadError;
use crate::log::Shared;
use crate::mailbox::{ReadReply, Request};

/// A delivered body: its exact bytes, the same on every replica, and what of it doesn't count. Cheap to clone, and free to
/// go to any thread.
#[derive(Clone)]
pub struct SharedBody {
    inner: Arc<Inner>,
    /// None is nothing, as almost always.
    suppressed: Option<Arc<[Suppressed]>>,
}

struct Inner {
    header: BodyHeader,
    bytes: AlignedVec<16>,
}

impl SharedBody {
    /// Copies a verified body.
    pub(crate) fn copy(body: &[u8]) -> Result<SharedBody, BodyError> {
        let header = BodyHeader::parse(body)?;
        let mut bytes = AlignedVec::with_capacity(body.len());
        bytes.extend_from_slice(body);
        Ok(SharedBody { inner: Arc::new(Inner { header, bytes }), suppressed: None })
    }

    /// The same copy, for as long as somebody holds it.
    pub(crate) fn downgrade(&self) -> WeakBody {
        WeakBody(Arc::downgrade(&self.inner))
    }

    /// What it is called: range, length, kind, identity.
    pub fn handle(&self) -> BodyHandle {
        self.inner.header.handle()
    }

    /// Its header: group, ballot of its maker, the log's time.
    pub fn header(&self) -> &BodyHeader {
        &self.inner.header
    }

    /// The slots it fills.
    pub fn slots(&self) -> SlotRange {
        self.handle().slots()
    }

    /// Its exact bytes, at a 16-byte boundary.
    pub fn bytes(&self) -> &[u8] {
        &self.inner.bytes
    }

    /// The same body, of which this doesn't count.
    pub(crate) fn with_suppressed(mut self, suppressed: &[Suppressed]) -> SharedBody {
        self.suppressed = (!suppressed.is_empty()).then(|| suppressed.into());
        self
    }

    /// The slots whose commands don't count, ascending: duplicates, and what was refused.
    pub fn suppressed(&self) -> &[Suppressed] {
        self.suppressed.as_deref().unwrap_or_default()
    }

    /// Its commands with their slots, and typed gaps for those that don't count: what a state machine is to apply.
    ///
    /// # Errors
    /// If it holds something else: see [`BodyHandle::kind`]. Each command may be an error too, if its maker didn't keep to
    /// the format.
    pub fn entries(&self) -> Result<Entries<'_>, CommandsError> {
        Ok(Entries { commands: self.commands()?, first: self.slots().start, next: 0, suppressed: self.suppressed() })
    }

    /// All its commands, the first of which stands at the body's first slot; also those that don't count, see
    /// [`SharedBody::entries`].
    ///
    /// # Errors
    /// If it holds something else: see [`BodyHandle::kind`].
    pub fn commands(&self) -> Result<CommandsView<'_>, CommandsError> {
        CommandsView::new(&self.inner.header, &self.inner.bytes)
    }
}

impl fmt::Debug for SharedBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SharedBody").field(&self.handle()).finish()
    }
}

/// What stands at a slot, or at some slots, of a body of commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    /// A command that counts.
    Command {
        /// Where it stands.
        slot: Slot,
        /// Its bytes.
        command: &'a [u8],
    },
    /// The commands at these slots don't count.
    Suppressed(Suppressed),
}

/// Iterator over the entries of a body; see [`SharedBody::entries`].
pub struct Entries<'a> {
    commands: CommandsView<'a>,
    first: Slot,
    next: u32,
    suppressed: &'a [Suppressed],
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, CommandsError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.commands.len() {
            return None;
        }
        let slot = self.first.plus(u64::from(self.next));
        if let Some((suppressed, rest)) = self.suppressed.split_first()
            && suppressed.slots.contains(&slot)
        {
            self.suppressed = rest;
            self.next = suppressed.slots.end.since(self.first) as u32;
            return Some(Ok(Entry::Suppressed(suppressed.clone())));
        }
        let command = self.commands.get(self.next);
        self.next += 1;
        Some(command.map(|command| Entry::Command { slot, command }))
    }
}

/// A copy that lives only as long as its readers.
pub(crate) struct WeakBody(std::sync::Weak<Inner>);

impl WeakBody {
    pub(crate) fn upgrade(&self) -> Option<SharedBody> {
        self.0.upgrade().map(|inner| SharedBody { inner, suppressed: None })
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.0.strong_count() == 0
    }
}

/// What a reader meets.
#[derive(Clone, Debug)]
pub enum ReadItem {
    /// The next body. If the reader was set to a slot within a body, this is that body as a whole.
    Body(SharedBody),
    /// The slots up to `first` were trimmed; the reader goes on there. A state machine needs a snapshot.
    Trimmed {
        /// The first slot that is left.
        first: Slot,
    },
}

/// Reads delivered bodies in order; see [`crate::Log::reader`].
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    next: Slot,
    ready: VecDeque<SharedBody>,
    /// The request under way. Kept here, so that a dropped `next` loses nothing.
    asked: Option<oneshot::Receiver<Result<ReadReply, ReadError>>>,
}

impl Reader {
    pub(crate) fn new(shared: Arc<Shared>, from: Slot) -> Reader {
        Reader { shared, next: from, ready: VecDeque::new(), asked: None }
    }

    /// The first slot that was not given out yet.
    pub fn position(&self) -> Slot {
        self.next
    }

    /// Goes on at another slot. What it has fetched and not given out is forgotten.
    pub fn seek(&mut self, to: Slot) {
        (self.next, self.asked) = (to.max(Slot::FIRST), None);
        self.ready.clear();
    }

    /// The next body; waits at the tail until one is delivered. May be dropped at any time without losing a body.
    ///
    /// # Errors
    /// See [`ReadError`]; after [`ReadError::Disk`] the reader may be asked again.
    pub async fn next(&mut self) -> Result<ReadItem, ReadError> {
        loop {
            if let Some(body) = self.ready.pop_front() {
                self.next = body.handle().end();
                return Ok(ReadItem::Body(body));
            }
            let asked = self.asked.get_or_insert_with(|| {
                let (reply, answer) = oneshot::channel();
                self.shared.mailbox.ask(Request::Read { from: self.next, reply });
                answer
            });
            let answer = asked.await;
            self.asked = None;
            match answer {
                Ok(Ok(ReadReply::Bodies(bodies))) => self.ready.extend(bodies),
                Ok(Ok(ReadReply::Trimmed { first })) => {
                    self.next = first;
                    return Ok(ReadItem::Trimmed { first });
                }
                Ok(Err(error)) => return Err(error),
                Err(oneshot::Canceled) => return Err(ReadError::Shutdown),
            }
        }
    }

    /// [`Reader::next`] for threads without an executor.
    ///
    /// # Errors
    /// As [`Reader::next`].
    pub fn next_blocking(&mut self) -> Result<ReadItem, ReadError> {
        block_on(self.next())
    }

    /// What can be given out without waiting for the shard.
    pub fn next_buffered(&mut self) -> Option<SharedBody> {
        let body = self.ready.pop_front()?;
        self.next = body.handle().end();
        Some(body)
    }
}
