//! The bodies in memory: one that has just arrived, those that wait for the log, and those that were written.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use synod_frame::RECORD_HEADER_BYTES;
use synod_protocol::{BodyHandle, BodyId, Effect, LogEntry};

use super::Buffers;
use crate::lsn::WriteId;

/// A body in its record buffer, shared by the disk, the sockets and readers, and never changed again.
#[derive(Debug)]
pub struct Frame<B> {
    handle: BodyHandle,
    buffer: Rc<B>,
}

impl<B> Clone for Frame<B> {
    fn clone(&self) -> Frame<B> {
        Frame { handle: self.handle, buffer: Rc::clone(&self.buffer) }
    }
}

impl<B: AsRef<[u8]>> Frame<B> {
    pub(super) fn new(handle: BodyHandle, buffer: Rc<B>) -> Frame<B> {
        Frame { handle, buffer }
    }

    /// What the body is.
    pub fn handle(&self) -> &BodyHandle {
        &self.handle
    }

    /// The exact bytes of the body.
    pub fn body(&self) -> &[u8] {
        &(*self.buffer).as_ref()[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + self.handle.bytes as usize]
    }

    /// The whole record, header and padding included.
    pub fn record(&self) -> &[u8] {
        (*self.buffer).as_ref()
    }

    /// The shared buffer.
    pub fn buffer(&self) -> &Rc<B> {
        &self.buffer
    }
}

/// See the module documentation.
pub(super) struct Bodies<B> {
    /// Bodies of the messages, compositions and reads that are being handled; gone afterwards unless appended.
    arrivals: Vec<(BodyHandle, B)>,
    /// Bodies whose append waits for a free segment.
    waiting: BTreeMap<BodyId, Waiting<B>>,
    waiting_bytes: u64,
    shared: BTreeMap<BodyId, Shared<B>>,
    /// Oldest first; what is written may leave memory in this order.
    order: VecDeque<BodyId>,
    writing: BTreeMap<WriteId, BodyId>,
    cached_bytes: u64,
    cache_bytes_max: u64,
}

struct Waiting<B> {
    record: B,
    /// How many of the waiting appends write this body: the same one may be accepted again at another ballot meanwhile.
    appends: u32,
}

struct Shared<B> {
    frame: Frame<B>,
    /// Writes under way: until they are complete, the disk can't give the body back.
    writes: u32,
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Bodies<B> {
    pub(super) fn new(cache_bytes_max: u64) -> Bodies<B> {
        Bodies {
            arrivals: Vec::new(),
            waiting: BTreeMap::new(),
            waiting_bytes: 0,
            shared: BTreeMap::new(),
            order: VecDeque::new(),
            writing: BTreeMap::new(),
            cached_bytes: 0,
            cache_bytes_max,
        }
    }

    pub(super) fn arrive(&mut self, body: BodyHandle, record: B) {
        self.arrivals.push((body, record));
    }

    /// Lets a body that is in memory arrive once more, so that it is at hand when it is appended: by then it may have
    /// left memory. Whether it was there.
    pub(super) fn arrive_again<P: Buffers<Buffer = B>>(&mut self, body: &BodyHandle, buffers: &mut P) -> bool {
        let Some(record) = self.copy_shared(body, buffers) else { return false };
        self.arrive(*body, record);
        true
    }

    fn copy_shared<P: Buffers<Buffer = B>>(&self, body: &BodyHandle, buffers: &mut P) -> Option<B> {
        let known = self.shared.get(&body.id)?.frame.record();
        let mut record = buffers.allocate(known.len());
        record.as_mut().copy_from_slice(known);
        Some(record)
    }

    /// Nobody wanted them: duplicates, or refused.
    pub(super) fn drop_arrivals(&mut self) {
        self.arrivals.clear();
    }

    fn take_arrival(&mut self, id: BodyId) -> Option<B> {
        let place = self.arrivals.iter().position(|(body, _)| body.id == id)?;
        Some(self.arrivals.swap_remove(place).1)
    }

    /// If `effect` appends a body, keeps that until the log has room.
    pub(super) fn hold<P: Buffers<Buffer = B>>(&mut self, effect: &Effect, buffers: &mut P) {
        let Effect::Append(append) = effect else { return };
        let (LogEntry::Accepted { body, .. } | LogEntry::Copied { body, .. }) = append.entry else { return };
        if let Some(waiting) = self.waiting.get_mut(&body.id) {
            waiting.appends += 1;
        } else if let Some(record) = self.take_arrival(body.id).or_else(|| self.copy_shared(&body, buffers)) {
            self.put_back(body, record);
        }
    }

    /// Keeps a body whose append waits for a free segment.
    pub(super) fn put_back(&mut self, body: BodyHandle, record: B) {
        let bytes = record.as_ref().len() as u64;
        match self.waiting.entry(body.id) {
            Entry::Occupied(mut waiting) => waiting.get_mut().appends += 1,
            Entry::Vacant(place) => {
                self.waiting_bytes += bytes;
                place.insert(Waiting { record, appends: 1 });
            }
        }
    }

    /// A buffer of the body that nobody else holds, for a new record header. The bytes are copied only if another record
    /// has them or will have them: when a leader proposes again what an earlier ballot left open.
    ///
    /// # Panics
    /// If the body isn't in memory: the core appends only what it was handed.
    pub(super) fn take_for_append<P: Buffers<Buffer = B>>(&mut self, body: &BodyHandle, buffers: &mut P) -> B {
        // What waits is appended before what has just arrived.
        if let Some(record) = self.take_waiting(body.id, buffers) {
            return record;
        }
        if let Some(record) = self.take_arrival(body.id) {
            return record;
        }
        self.copy_shared(body, buffers).expect("a body is at hand when it is appended")
    }

    fn take_waiting<P: Buffers<Buffer = B>>(&mut self, id: BodyId, buffers: &mut P) -> Option<B> {
        let Entry::Occupied(mut waiting) = self.waiting.entry(id) else { return None };
        if waiting.get().appends > 1 {
            waiting.get_mut().appends -= 1;
            let known = waiting.get().record.as_ref();
            let mut record = buffers.allocate(known.len());
            record.as_mut().copy_from_slice(known);
            return Some(record);
        }
        let record = waiting.remove().record;
        self.waiting_bytes -= record.as_ref().len() as u64;
        Some(record)
    }

    /// The body lies in a record that is being written.
    pub(super) fn share(&mut self, frame: Frame<B>, write: WriteId) {
        let id = frame.handle.id;
        let bytes = frame.record().len() as u64;
        self.writing.insert(write, id);
        let earlier_writes = self.shared.get(&id).map(|earlier| earlier.writes);
        if earlier_writes.is_none() {
            self.order.push_back(id);
            self.cached_bytes += bytes;
        }
        self.shared.insert(id, Shared { frame, writes: earlier_writes.unwrap_or(0) + 1 });
        self.evict();
    }

    pub(super) fn written(&mut self, write: WriteId) {
        if let Some(id) = self.writing.remove(&write)
            && let Some(shared) = self.shared.get_mut(&id)
        {
            shared.writes -= 1;
            self.evict();
        }
    }

    /// Keeps a body that was read back from the log.
    pub(super) fn keep(&mut self, body: BodyHandle, record: B) -> Frame<B> {
        let frame = Frame::new(body, Rc::new(record));
        if !self.shared.contains_key(&body.id) {
            self.cached_bytes += frame.record().len() as u64;
            self.order.push_back(body.id);
            self.shared.insert(body.id, Shared { frame: frame.clone(), writes: 0 });
            self.evict();
        }
        frame
    }

    pub(super) fn frame(&self, id: BodyId) -> Option<Frame<B>> {
        self.shared.get(&id).map(|shared| shared.frame.clone())
    }

    pub(super) fn cached_bytes(&self) -> u64 {
        self.cached_bytes
    }

    pub(super) fn waiting_bytes(&self) -> u64 {
        self.waiting_bytes
    }

    fn evict(&mut self) {
        while self.cached_bytes > self.cache_bytes_max
            && let Some(oldest) = self.order.front()
            && self.shared.get(oldest).is_some_and(|shared| shared.writes == 0)
        {
            let oldest = self.order.pop_front().expect("looked at just now");
            let shared = self.shared.remove(&oldest).expect("order and map hold the same bodies");
            self.cached_bytes -= shared.frame.record().len() as u64;
        }
    }
}
