//! Answering those who catch up: chosen bodies in slot order, from memory or with a few reads ahead of the sender.

use std::collections::VecDeque;

use synod_protocol::{BodyHandle, Mark, Message, NodeId, Slot};

use super::{Buffers, Frame, LoggedReplica, Output, Purpose, ReadId};

/// Reads from the disk under way for one peer.
const READS_AHEAD: usize = 8;

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
            return self.send(to, Message::Unavailable { first: from, available });
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
            None => {
                self.serving.remove(&to);
                return;
            }
        }
        self.go_on_serving(to);
    }

    fn go_on_serving(&mut self, to: NodeId) {
        let Some(mut serving) = self.serving.remove(&to) else { return };
        loop {
            while serving.queue.len() < READS_AHEAD && self.queue_next(to, &mut serving) {}
            let Some(Served::Ready(..)) = serving.queue.front() else { break };
            let Some(Served::Ready(body, frame)) = serving.queue.pop_front() else { unreachable!("seen just now") };
            let last = serving.queue.is_empty() && self.next_to_serve(&serving).is_none();
            let message = Message::Chosen { body, mark: serving.mark, last };
            self.outputs.push_back(Output::Send { to, message, body: Some(frame) });
        }
        if !serving.queue.is_empty() {
            self.serving.insert(to, serving);
        }
    }

    fn next_to_serve(&self, serving: &Serving<P::Buffer>) -> Option<crate::index::IndexEntry> {
        // Only what is known to be chosen may ever be sent as chosen.
        let entry = self.wal.index().get(serving.next).filter(|entry| entry.chosen.is_some()).copied()?;
        let fits = u64::from(entry.body.bytes) <= serving.bytes_left || !serving.started;
        (entry.body.end() <= serving.mark.slot && fits).then_some(entry)
    }

    fn queue_next(&mut self, to: NodeId, serving: &mut Serving<P::Buffer>) -> bool {
        let Some(entry) = self.next_to_serve(serving) else { return false };
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
