//! Installing what a peer's log begins with, where this log ends below: its base, the configuration that rules from there, and
//! the trim that carries the delivery state.
//!
//! Whoever is asked for what it has trimmed answers with its base ([`Message::Base`]). All it says is true for ever, so it doesn't
//! matter how old it is. The receiver first gets the trim's bytes, if its log doesn't hold them, and then lays down
//! three records in this order: the trim, as a copy; the configuration; and the new base. Only the last one gives anything
//! up. A crash in front of it leaves a log that knows a little more than before, and the next offer begins anew; behind
//! it, the log is like any other that was trimmed there: delivery finds its state in the trim, as it does after every
//! restart (ADR 7).
//!
//! Bounds: one offer is kept while its trim is on the way, and one body for each install that waits for a segment.

use std::collections::VecDeque;
use std::rc::Rc;

use synod_frame::{BLOCK_BYTES, BodyHeader, RECORD_HEADER_BYTES};
use synod_protocol::{Append, Ballot, BodyHandle, BodyId, Configuration, Effect, Instant, Mark, Message, NodeId, Slot};

use super::{Buffers, LoggedReplica, Output};
use crate::format::{RecordKind, RecordMeta, StoredConfiguration};
use crate::recovery::decode_configuration;
use crate::segment::record_bytes;
use crate::writer::Planned;

/// See the module documentation.
pub(super) struct Installing<B> {
    /// The offer whose trim was asked for.
    offer: Option<Offer>,
    /// What the appends of the core stand for, in their order, as far as they aren't carried out.
    due: VecDeque<Due<B>>,
}

impl<B> Default for Installing<B> {
    fn default() -> Self {
        Installing { offer: None, due: VecDeque::new() }
    }
}

/// What a peer's log begins with.
#[derive(Clone)]
struct Offer {
    from: NodeId,
    base: Mark,
    trim: Option<(Slot, BodyId)>,
    configuration: Option<StoredConfiguration>,
}

struct Due<B> {
    from: NodeId,
    /// The own prefix before.
    before: Mark,
    trim: Option<(BodyHandle, B)>,
    configuration: Option<StoredConfiguration>,
    is_configuration_laid: bool,
}

impl<P: Buffers> LoggedReplica<P> {
    /// Answers who asks for what is gone: with what this log begins with, or, as long as that isn't known, with its first slot.
    pub(super) fn offer_base(&mut self, to: NodeId, first: Slot) {
        let base = self.wal.index().base();
        let message = match (self.membership.oldest(), self.trim_of_base(base.slot)) {
            (Some((chosen_at, configuration)), Some(trim)) => {
                Message::Base { base, trim: trim.map(|body| (body.first, body.id)), chosen_at, configuration }
            }
            _ => Message::Unavailable { first, available: base.slot },
        };
        self.outputs.push_back(Output::Send { to, message, body: None });
    }

    /// A peer's log begins above this one's end.
    pub(super) fn on_base(
        &mut self,
        now: Instant,
        from: NodeId,
        base: Mark,
        trim: Option<(Slot, BodyId)>,
        (chosen_at, configuration): (Slot, Vec<u8>),
    ) {
        if !self.replica.is_wanting(base.slot) {
            return;
        }
        let stored = StoredConfiguration { slot: chosen_at, body: configuration };
        let configuration = (!stored.body.is_empty()).then_some(stored);
        let offer = Offer { from, base, trim, configuration };
        let known = |(first, id)| self.wal.index().get(first).is_some_and(|entry| entry.body.id == id);
        match trim.filter(|trim| !known(*trim)) {
            None => self.install(now, offer, None),
            // Its log may be almost full of what it is about to give up; what is left is for its votes.
            Some(_) if self.wal.is_running_out() => {}
            Some((first, id)) => {
                self.installing.offer = Some(offer);
                self.outputs.push_back(Output::Send {
                    to: from,
                    message: Message::FetchBody { first, id },
                    body: None,
                });
            }
        }
    }

    /// Takes a body if it is the trim that was asked for; gives it back otherwise.
    pub(super) fn take_trim(&mut self, now: Instant, body: &BodyHandle, record: P::Buffer) -> Option<P::Buffer> {
        let is_asked = |offer: &mut Offer| offer.trim == Some((body.first, body.id));
        let Some(offer) = self.installing.offer.take_if(is_asked) else { return Some(record) };
        if matches!(body.kind, synod_protocol::BodyKind::Trim { upto } if upto >= offer.base.slot) {
            self.install(now, offer, Some((*body, record)));
        }
        None
    }

    fn install(&mut self, now: Instant, offer: Offer, trim: Option<(BodyHandle, P::Buffer)>) {
        let Offer { from, base, configuration, .. } = offer;
        let oldest: Option<Configuration> = match &configuration {
            None => None,
            Some(stored) => match decode_configuration(stored) {
                Ok((_, _, oldest)) if oldest.format <= self.replica.format_max() => Some(oldest),
                // Of a build with other rules: nobody can follow that.
                Ok(_) | Err(_) => return,
            },
        };
        let before = self.replica.mark();
        if self.replica.install(now, from, base, oldest) {
            self.installing.due.push_back(Due { from, before, trim, configuration, is_configuration_laid: false });
        }
    }

    /// Lays down what the core has installed; gives the append back if the log has no free segment.
    pub(super) fn append_installed(&mut self, now: Instant, append: Append) -> Option<Effect> {
        let mut due = self.installing.due.pop_front().expect("the core installs what it was handed");
        let planned = self.lay_down(now, &append, &mut due);
        let Some(planned) = planned else {
            self.installing.due.push_front(due);
            return Some(Effect::Append(append));
        };
        self.planned.push_back((planned.end, append.id));
        self.membership.install(due.configuration, &mut self.wal);
        self.trim_due = self.trim_due.filter(|due| due.slot > append.mark.slot);
        self.outputs.push_back(Output::Installed { base: append.mark, from: due.from });
        None
    }

    fn lay_down(&mut self, now: Instant, append: &Append, due: &mut Due<P::Buffer>) -> Option<Planned> {
        let mut meta = RecordMeta {
            kind: RecordKind::Copied,
            group: self.group,
            source: due.from,
            ballot: Ballot::ZERO,
            promised: append.promised,
            mark: due.before,
            log_time_us: self.leader_time_us,
            unsure: append.unsure,
        };
        if let Some((body, mut record)) = due.trim.take() {
            let Ok(planned) = self.wal.append(&meta, Some(&body), record.as_mut()) else {
                due.trim = Some((body, record));
                return None;
            };
            self.write(now, planned, Some(body), record);
        }
        if let Some(stored) = due.configuration.as_ref().filter(|_| !due.is_configuration_laid) {
            // It was decoded before.
            let handle = BodyHeader::parse(&stored.body).ok()?.handle();
            let mut record = self.buffers.allocate(record_bytes(handle.bytes) as usize);
            record.as_mut().fill(0);
            record.as_mut()[RECORD_HEADER_BYTES..][..stored.body.len()].copy_from_slice(&stored.body);
            (meta.kind, meta.source) = (RecordKind::Configuration, NodeId(0));
            let planned = self.wal.append(&meta, Some(&handle), record.as_mut()).ok()?;
            self.write_plain(now, planned, record);
            due.is_configuration_laid = true;
        }
        let mut record = self.buffers.allocate(BLOCK_BYTES);
        let rules = due.configuration.as_ref().map(|stored| stored.slot);
        let state = (append.promised, append.unsure);
        let planned = self.wal.install((self.group, append.mark), rules, record.as_mut(), state).ok()?;
        self.write_plain(now, planned, record);
        Some(planned)
    }

    fn write_plain(&mut self, now: Instant, planned: Planned, record: P::Buffer) {
        self.last_append_at = now;
        let (write, file, offset) = (planned.write, planned.file, planned.offset);
        self.outputs.push_back(Output::WriteFrame { write, file, offset, buffer: Rc::new(record) });
    }
}
