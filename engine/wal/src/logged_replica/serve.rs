//! Answering those who catch up: chosen bodies in slot order, from memory or with a few reads ahead of the sender.

use std::collections::VecDeque;

use synod_protocol::{BodyHandle, Mark, Message, NodeId, Slot};

use super::{Buffers, Errand, Frame, LoggedReplica, Output, Purpose, ReadId};
use crate::index::{IndexEntry, Lookup};

/// Reads from the disk under way for one peer.
const READS_AHEAD: usize = 8;

/// What to serve next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Here(IndexEntry),
    /// Its place must be read back first, with the page that ends at this slot.
    Paged(Slot),
    Nothing,
}

/// One answer to a fetch.
pub(super) struct Serving<B> {
    next: Slot,
    bytes_left: u64,
    mark: Mark,
    queue: VecDeque<Served<B>>,
    started: bool,
}

enum Served<B> {
    Reading(ReadId),
    Ready(BodyHandle, Frame<B>),
}

impl<P: Buffers> LoggedReplica<P> {
    /// Begins an answer; a newer fetch of the same peer replaces an older one.
    pub(super) fn serve(&mut self, to: NodeId, from: Slot, bytes: u32, mark: Mark) {
        let available = self.wal.index().base().slot;
        if from < available {
            self.serving.remove(&to);
            return self.offer_base(to, from);
        }
        let serving =
            Serving { next: from, bytes_left: u64::from(bytes), mark, queue: VecDeque::new(), started: false };
        self.serving.insert(to, serving);
        self.go_on_serving(to);
    }

    /// A read for a peer is complete; none if the record is gone or damaged: then the answer ends, and the peer asks
    /// somebody else.
    pub(super) fn served(&mut self, to: NodeId, read: ReadId, frame: Option<Frame<P::Buffer>>) {
        let Some(serving) = self.serving.get_mut(&to) else { return };
        let Some(place) = serving.queue.iter_mut().find(|served| matches!(served, Served::Reading(id) if *id == read))
        else {
            return;
        };
        match frame {
            Some(frame) => *place = Served::Ready(*frame.handle(), frame),
            None => return self.stop_serving(to),
        }
        self.go_on_serving(to);
    }

    /// Ends an answer in the middle.
    pub(super) fn stop_serving(&mut self, to: NodeId) {
        self.serving.remove(&to);
    }

    pub(super) fn go_on_serving(&mut self, to: NodeId) {
        let Some(mut serving) = self.serving.remove(&to) else { return };
        loop {
            while serving.queue.len() < READS_AHEAD && self.queue_next(to, &mut serving) {}
            let Some(Served::Ready(..)) = serving.queue.front() else { break };
            let next = self.next_to_serve(&serving);
            if let Next::Paged(end) = next {
                self.wait_for_page(end, Errand::Serve { to });
                // Whether it is the last one that fits shows once the page is there.
                if serving.queue.len() == 1 {
                    break;
                }
            }
            let Some(Served::Ready(body, frame)) = serving.queue.pop_front() else { unreachable!("seen just now") };
            let last = serving.queue.is_empty() && next == Next::Nothing;
            let message = Message::Chosen { body, mark: serving.mark, last };
            self.outputs.push_back(Output::Send { to, message, body: Some(frame) });
        }
        match self.next_to_serve(&serving) {
            Next::Paged(end) if serving.queue.is_empty() => self.wait_for_page(end, Errand::Serve { to }),
            _ if serving.queue.is_empty() => return,
            _ => {}
        }
        self.serving.insert(to, serving);
    }

    fn next_to_serve(&self, serving: &Serving<P::Buffer>) -> Next {
        let entry = match self.wal.index().find(serving.next) {
            // Only what is known to be chosen may ever be sent as chosen.
            Lookup::Here(entry) if entry.chosen.is_some() && entry.body.first == serving.next => entry,
            Lookup::Paged(end) if serving.next < serving.mark.slot => return Next::Paged(end),
            _ => return Next::Nothing,
        };
        let fits = u64::from(entry.body.bytes) <= serving.bytes_left || !serving.started;
        if entry.body.end() <= serving.mark.slot && fits { Next::Here(entry) } else { Next::Nothing }
    }

    fn queue_next(&mut self, to: NodeId, serving: &mut Serving<P::Buffer>) -> bool {
        let Next::Here(entry) = self.next_to_serve(serving) else { return false };
        serving.started = true;
        serving.next = entry.body.end();
        serving.bytes_left = serving.bytes_left.saturating_sub(u64::from(entry.body.bytes));
        serving.queue.push_back(match self.bodies.frame(entry.body.id) {
            Some(frame) => Served::Ready(entry.body, frame),
            None => Served::Reading(self.read_record(entry, Purpose::Serve { to })),
        });
        true
    }
}
