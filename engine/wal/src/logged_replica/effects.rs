//! Carrying out what the core asks for, in its order: records are laid out, messages get their bytes, and whatever comes
//! behind an append that has no segment waits with it.

use std::rc::Rc;

use synod_frame::{BLOCK_BYTES, Origin, encode_noop, encode_trim_with_state, trim_layout};
use synod_protocol::{
    Append, BodyHandle, BodyId, BodyKind, Effect, HaltReason, Instant, LogEntry, Mark, Message, NodeId, Slot,
};

use super::{Buffers, Errand, Frame, LoggedReplica, Output, Purpose};
use crate::format::{RecordKind, RecordMeta};
use crate::index::{IndexEntry, Lookup};
use crate::writer::{AppendError, Planned};

impl<P: Buffers> LoggedReplica<P> {
    /// Takes one effect from the core: carries it out, or queues it behind an append that waits for a segment.
    pub(super) fn take(&mut self, now: Instant, effect: Effect) {
        let overtakes = match &effect {
            Effect::Send { message, .. } => message.body().is_none(),
            Effect::Halt(_) => true,
            _ => false,
        };
        if !self.blocked.is_empty() && !overtakes {
            self.bodies.hold(&effect, &mut self.buffers);
            return self.blocked.push_back(effect);
        }
        if let Some(effect) = self.carry_out(now, effect) {
            self.blocked.push_back(effect);
        }
    }

    /// Carries out one effect, or gives it back if the log has no free segment.
    pub(super) fn carry_out(&mut self, now: Instant, effect: Effect) -> Option<Effect> {
        match effect {
            Effect::Append(append) => return self.append(now, append),
            Effect::Send { to, message } => self.send(to, message),
            Effect::Deliver { body, mark } => self.deliver(now, body, mark),
            Effect::Obtain { body, holder } => self.obtain(now, body, holder),
            Effect::Compose { first, count, ballot, kind } => {
                let state = match kind {
                    BodyKind::Trim { upto } => self.state_for_trim(upto),
                    _ => Vec::new(),
                };
                let layout = trim_layout(state.len()).expect("a body has room for any state within the limits");
                let mut record = self.buffers.allocate(layout.record_bytes());
                let origin = Origin { group: self.group, first, ballot, leader_time_us: self.leader_time_us };
                let body = match kind {
                    BodyKind::Trim { upto } => encode_trim_with_state(record.as_mut(), &origin, upto, &state),
                    _ => encode_noop(record.as_mut(), &origin, count),
                };
                let body = body.expect("the core composes valid ranges, and the record has room for the body");
                let body = self.stamped(first, body, record.as_mut());
                self.bodies.arrive(body, record);
                self.replica.handle_composed(now, body);
            }
            Effect::ComposeConfiguration { configuration, after, ballot } => {
                self.compose_configuration(now, &configuration, after, ballot);
            }
            Effect::Serve { to, from, bytes, mark } => self.serve(to, from, bytes, mark),
            Effect::SupplyBody { to, first, id } => self.supply(to, first, id),
            Effect::Barrier { id, outcome } => self.outputs.push_back(Output::Barrier { id, outcome }),
            Effect::TransferEnded { target, outcome } => {
                self.outputs.push_back(Output::TransferEnded { target, outcome });
            }
            Effect::Halt(reason) => self.outputs.push_back(Output::Halt(reason)),
        }
        None
    }

    pub(super) fn append(&mut self, now: Instant, append: Append) -> Option<Effect> {
        if let LogEntry::Installed { .. } = append.entry {
            return self.append_installed(now, append);
        }
        let mut meta = RecordMeta {
            kind: RecordKind::Promise,
            group: self.group,
            source: NodeId(0),
            ballot: append.promised,
            promised: append.promised,
            mark: append.mark,
            log_time_us: self.leader_time_us,
            unsure: append.unsure,
        };
        let body = match append.entry {
            LogEntry::Promise | LogEntry::Installed { .. } => None,
            LogEntry::Accepted { ballot, body } => {
                (meta.kind, meta.ballot) = (RecordKind::Accepted, ballot);
                Some(body)
            }
            LogEntry::Copied { body, from } => {
                (meta.kind, meta.source) = (RecordKind::Copied, from);
                Some(body)
            }
        };
        let mut record = match &body {
            None => self.buffers.allocate(BLOCK_BYTES),
            Some(body) => self.bodies.take_for_append(body, &mut self.buffers),
        };
        match self.wal.append(&meta, body.as_ref(), record.as_mut()) {
            Ok(planned) => {
                self.planned.push_back((planned.end, append.id));
                self.write(now, planned, body, record);
                None
            }
            Err(AppendError::NoSegment) => {
                if let Some(body) = body {
                    self.bodies.put_back(body, record);
                }
                Some(Effect::Append(append))
            }
            Err(AppendError::Conflict(other)) => {
                // Written down, it would keep the log from ever being opened again.
                let reason = HaltReason::BallotConflict { slot: other.first, ballot: meta.ballot };
                self.outputs.push_back(Output::Halt(reason));
                None
            }
            Err(error) => unreachable!("the core appends bodies within its limits to a sound log: {error}"),
        }
    }

    pub(super) fn write(&mut self, now: Instant, planned: Planned, body: Option<BodyHandle>, record: P::Buffer) {
        debug_assert_eq!(record.as_ref().len(), planned.record_bytes as usize);
        let buffer = Rc::new(record);
        if let Some(body) = body {
            self.bodies.share(Frame::new(body, Rc::clone(&buffer)), planned.write);
        }
        self.last_append_at = now;
        self.outputs.push_back(Output::WriteFrame {
            write: planned.write,
            file: planned.file,
            offset: planned.offset,
            buffer,
        });
    }

    pub(super) fn append_mark(&mut self, now: Instant) {
        let meta = RecordMeta {
            kind: RecordKind::Mark,
            group: self.group,
            source: NodeId(0),
            ballot: self.replica.promised(),
            promised: self.replica.promised(),
            mark: self.replica.mark(),
            log_time_us: self.leader_time_us,
            // Not the core's view: the promise that makes it sure may still wait for a segment.
            unsure: self.wal.is_unsure(),
        };
        let mut record = self.buffers.allocate(BLOCK_BYTES);
        if let Ok(planned) = self.wal.append(&meta, None, record.as_mut()) {
            self.write(now, planned, None, record);
        }
        self.last_append_at = now;
    }

    /// The rest of a trim, once another header is durable.
    pub(super) fn place_rest_of_trim(&mut self, now: Instant) {
        if let Some((wanted, _)) = self.trim_held.take_if(|(_, header)| *header != self.wal.header_configuration()) {
            self.trim_wanted = self.trim_wanted.max(Some(wanted));
            self.place_trim(now);
        }
    }

    pub(super) fn append_trim_due(&mut self, now: Instant) {
        let Some(base) = self.trim_due else { return };
        let mut record = self.buffers.allocate(BLOCK_BYTES);
        let (promised, mark) = (self.replica.promised(), self.replica.mark());
        if let Ok(planned) = self.wal.trim(base, record.as_mut(), promised, mark) {
            self.trim_due = None;
            self.write(now, planned, None, record);
        }
    }

    pub(super) fn send(&mut self, to: NodeId, message: Message) {
        let Some(body) = message.body().copied() else {
            return self.outputs.push_back(Output::Send { to, message, body: None });
        };
        if let Some(frame) = self.bodies.frame(body.id) {
            return self.outputs.push_back(Output::Send { to, message, body: Some(frame) });
        }
        // Out of memory's reach, but in the log: an accept that is sent again after a long while.
        match self.wal.index().find(body.first) {
            Lookup::Here(entry) if entry.body == body => {
                self.read_record(entry, Purpose::Send { to, message });
            }
            Lookup::Paged(end) => self.wait_for_page(end, Errand::Send { to, message }),
            Lookup::Here(_) | Lookup::Nowhere => {}
        }
    }

    pub(super) fn deliver(&mut self, now: Instant, body: BodyHandle, mark: Mark) {
        self.wal.index_mut().mark_chosen(body.first, mark.chain);
        self.heal_if_lost(&body, mark);
        self.deliver_configuration(&body, mark.slot);
        if let BodyKind::Trim { upto } = body.kind {
            self.trim_wanted = self.trim_wanted.max(Some(upto.min(mark.slot)));
            self.place_trim(now);
        }
        let frame = self.bodies.frame(body.id);
        self.outputs.push_back(Output::Deliver { body, mark, frame: frame.clone() });
        self.judge_delivered(&body, frame.as_ref());
    }

    /// Finds out where exactly to trim: between bodies, and not past the configuration that no durable header holds yet.
    pub(super) fn place_trim(&mut self, now: Instant) {
        let header = self.wal.header_configuration();
        let limit = self.membership.trim_limit(header);
        let Some(wanted) = self.trim_wanted else { return };
        let upto = wanted.min(limit);
        self.trim_held = (upto < wanted).then_some((wanted, header));
        if let Some(end) = self.wal.index().page_to_load(upto) {
            return self.wait_for_page(end, Errand::Trim);
        }
        self.trim_wanted = None;
        let base = self.mark_below(upto);
        self.trim_to(now, base);
    }

    /// What is in the page that ends at `end` can't be told, so the trim goes up to that page only.
    pub(super) fn place_trim_before(&mut self, now: Instant, end: Slot) {
        self.trim_wanted = None;
        if let Some(start) = self.wal.index().page(end).map(|page| page.start) {
            self.trim_to(now, start);
        }
    }

    fn trim_to(&mut self, now: Instant, base: Mark) {
        if base.slot > self.wal.index().base().slot {
            self.trim_due = Some(base);
            self.append_trim_due(now);
        }
    }

    /// The last mark of the chosen prefix that doesn't reach past `slot`: trims cut between bodies.
    pub(super) fn mark_below(&self, slot: Slot) -> Mark {
        let index = self.wal.index();
        let boundary = match index.find(slot) {
            Lookup::Here(entry) if entry.body.first < slot => entry.body.first,
            _ => slot,
        };
        index.mark_at(boundary).unwrap_or_else(|| index.base())
    }

    pub(super) fn obtain(&mut self, now: Instant, body: BodyHandle, holder: NodeId) {
        if self.bodies.arrive_again(&body, &mut self.buffers) {
            if let Some(frame) = self.bodies.frame(body.id).filter(|_| body.kind.is_configuration()) {
                self.tell_configuration(&body, frame.record());
            }
            return self.replica.handle_obtained(now, body.id);
        }
        let adopting =
            |(entry, purpose): &(IndexEntry, Purpose)| matches!(purpose, Purpose::Adopt) && entry.body.id == body.id;
        if self.reads.values().any(adopting) {
            return;
        }
        match self.wal.index().find(body.first) {
            Lookup::Here(entry) if entry.body == body => {
                self.read_record(entry, Purpose::Adopt);
            }
            Lookup::Paged(end) => self.wait_for_page(end, Errand::Obtain { body, holder }),
            Lookup::Here(_) | Lookup::Nowhere => self.fetch_body(&body, holder),
        }
    }

    pub(super) fn fetch_body(&mut self, body: &BodyHandle, holder: NodeId) {
        let message = Message::FetchBody { first: body.first, id: body.id };
        self.outputs.push_back(Output::Send { to: holder, message, body: None });
    }

    pub(super) fn supply(&mut self, to: NodeId, first: Slot, id: BodyId) {
        match self.wal.index().find(first) {
            Lookup::Here(entry) if entry.body.first == first && entry.body.id == id => {
                self.send(to, Message::Supply { body: entry.body });
            }
            Lookup::Paged(end) => self.wait_for_page(end, Errand::Supply { to, first, id }),
            Lookup::Here(_) | Lookup::Nowhere => {
                let available = self.wal.index().base().slot;
                self.send(to, Message::Unavailable { first, available });
            }
        }
    }
}
