//! Bodies whose place isn't in memory: whoever wants one waits until its page is read back.
//!
//! Whatever finds that it needs a page leaves an [`Errand`], which is taken up again once the page is there, or can't be
//! had: then it ends as it does for a body that is damaged.

use std::collections::{BTreeMap, VecDeque};

use synod_protocol::{BodyHandle, BodyId, Instant, Message, NodeId, Slot};

use super::{Buffers, LoggedReplica, Output, Purpose, ReadId};
use crate::index::{Lookup, PageLoad};

/// Pages that are read back at a time; others wait.
const LOADS_MAX: usize = 4;

/// What waits for a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Errand {
    /// A reader of the log.
    Read { read: ReadId, slot: Slot },
    /// Somebody who asks for the mark at a slot.
    MarkAt { read: ReadId, slot: Slot },
    /// A message that carries a body.
    Send { to: NodeId, message: Message },
    /// A member that asked for a body.
    Supply { to: NodeId, first: Slot, id: BodyId },
    /// A member that catches up.
    Serve { to: NodeId },
    /// A body that phase 1 revealed.
    Obtain { body: BodyHandle, holder: NodeId },
    /// Reading everything again.
    Scrub,
    /// A trim that is delivered.
    Trim,
    /// Judging what is delivered.
    Judge,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct Paging {
    /// By the end of the page.
    waiting: BTreeMap<Slot, Vec<Errand>>,
    /// Pages that nobody reads yet, in the order in which they were wanted.
    queue: VecDeque<Slot>,
    loads: BTreeMap<ReadId, PageLoad>,
    /// Pages that are there, or can't be had, and whose errands are to be run.
    ended: VecDeque<(Slot, Outcome)>,
}

#[derive(Debug)]
enum Outcome {
    /// Its entries are in memory, or it is trimmed.
    There,
    /// What was found of it doesn't prove to be it.
    Lost(Box<PageLoad>),
}

impl Paging {
    /// Whether errands can be run.
    pub(super) fn has_ended(&self) -> bool {
        !self.ended.is_empty()
    }
}

impl<P: Buffers> LoggedReplica<P> {
    /// Leaves an errand until the page that ends at `end` is read back.
    pub(super) fn wait_for_page(&mut self, end: Slot, errand: Errand) {
        if !self.paging.waiting.contains_key(&end) {
            self.paging.queue.push_back(end);
        }
        let waiting = self.paging.waiting.entry(end).or_default();
        let once = matches!(errand, Errand::Serve { .. } | Errand::Scrub | Errand::Trim | Errand::Judge);
        if !once || !waiting.contains(&errand) {
            waiting.push(errand);
        }
        self.load_pages();
    }

    fn load_pages(&mut self) {
        while self.paging.loads.len() < LOADS_MAX
            && let Some(end) = self.paging.queue.pop_front()
        {
            match self.wal.load_page(end) {
                Some(load) => self.go_on_loading(load),
                None => self.paging.ended.push_back((end, Outcome::There)),
            }
        }
    }

    /// Asks for what a load needs next; or ends it.
    fn go_on_loading(&mut self, mut load: PageLoad) {
        loop {
            if let Some(wanted) = load.next_read() {
                let read = self.new_read();
                let (file, offset, bytes) = (wanted.file, wanted.offset, wanted.bytes);
                self.outputs.push_back(Output::Read { read, file, offset, bytes });
                self.paging.loads.insert(read, load);
                return;
            }
            let end = load.end();
            let outcome = match self.wal.finish_page(&load) {
                Ok(None) => Outcome::There,
                Ok(Some(again)) => {
                    load = again;
                    continue;
                }
                Err(_) => Outcome::Lost(Box::new(load)),
            };
            return self.paging.ended.push_back((end, outcome));
        }
    }

    /// A read is complete; whether it was for a page.
    pub(super) fn page_read(&mut self, read: ReadId, blocks: Option<&P::Buffer>) -> bool {
        let Some(mut load) = self.paging.loads.remove(&read) else { return false };
        load.take(blocks.map(AsRef::as_ref));
        self.go_on_loading(load);
        self.load_pages();
        true
    }

    /// Takes up what waited for pages.
    pub(super) fn run_errands(&mut self, now: Instant) {
        while let Some((end, outcome)) = self.paging.ended.pop_front() {
            for errand in self.paging.waiting.remove(&end).unwrap_or_default() {
                match &outcome {
                    Outcome::There => self.take_up_errand(now, errand),
                    Outcome::Lost(load) => self.give_up_errand(now, load, errand),
                }
            }
        }
    }

    fn take_up_errand(&mut self, now: Instant, errand: Errand) {
        match errand {
            Errand::Read { read, slot } => self.read_as(read, slot),
            Errand::MarkAt { read, slot } => self.tell_mark(read, slot),
            Errand::Send { to, message } => self.send(to, message),
            Errand::Supply { to, first, id } => self.supply(to, first, id),
            Errand::Serve { to } => self.go_on_serving(to),
            Errand::Obtain { body, holder } => self.obtain(now, body, holder),
            Errand::Scrub => {
                self.scrubbed();
                self.scrub(now);
            }
            Errand::Trim => self.place_trim(now),
            // It goes on by itself, as it does after everything that happens.
            Errand::Judge => {}
        }
    }

    /// A page can't be had: nobody knows what was chosen there. But whoever names a body by its identity can be given it, if it
    /// is among what was found.
    fn give_up_errand(&mut self, now: Instant, load: &PageLoad, errand: Errand) {
        let end = load.end();
        match errand {
            Errand::Read { read, .. } => self.outputs.push_back(Output::ReadDone { read, frame: None }),
            Errand::MarkAt { read, .. } => self.outputs.push_back(Output::MarkDone { read, mark: None }),
            Errand::Send { .. } => {}
            Errand::Supply { to, first, id } if let Some(entry) = load.find(first, id) => {
                self.read_record(entry, Purpose::Send { to, message: Message::Supply { body: entry.body } });
            }
            Errand::Supply { to, first, .. } => {
                let available = self.wal.index().base().slot;
                self.send(to, Message::Unavailable { first, available });
            }
            Errand::Serve { to } => self.stop_serving(to),
            Errand::Obtain { body, .. } if let Some(entry) = load.find(body.first, body.id) => {
                self.read_record(entry, Purpose::Adopt);
            }
            Errand::Obtain { body, holder } => self.fetch_body(&body, holder),
            Errand::Scrub => self.scrub_behind(end),
            Errand::Trim => self.place_trim_before(now, end),
            Errand::Judge => self.judge_later(now),
        }
    }

    /// Goes on with a read that waited for its page.
    fn read_as(&mut self, read: ReadId, slot: Slot) {
        match self.wal.index().find(slot) {
            Lookup::Here(entry) if entry.chosen.is_some() => match self.bodies.frame(entry.body.id) {
                Some(frame) => self.outputs.push_back(Output::ReadDone { read, frame: Some(frame) }),
                None => self.read_record_as(read, entry, Purpose::Reader),
            },
            Lookup::Paged(end) => self.wait_for_page(end, Errand::Read { read, slot }),
            Lookup::Here(_) | Lookup::Nowhere => self.outputs.push_back(Output::ReadDone { read, frame: None }),
        }
    }

    fn tell_mark(&mut self, read: ReadId, slot: Slot) {
        let mark = self.wal.index().mark_at(slot);
        self.outputs.push_back(Output::MarkDone { read, mark });
    }
}
