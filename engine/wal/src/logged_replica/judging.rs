//! Judging what was delivered: sessions, tickets and conditions.
//!
//! Each delivered body is judged by the [`DeliveryState`], in slot order; [`Output::Judged`] tells the answers. In the usual case that
//! is right behind its delivery. A body whose bytes have left memory is read again first, and so is the whole log when a
//! node starts: then judging lags behind delivery, and catches up with some reads ahead. Votes never wait for it.
//!
//! The state below the log's base comes from the trim that moved the base: it carries the state at its point, unless that
//! is empty. So a leader trims only at points whose state it has: anywhere as long as there are neither sessions nor a ticket, else
//! where it has kept the state as bytes, at [`POINTS_MAX`] places spread over the log. The trim is delivered before
//! anything is dropped, so at any moment the log itself holds all that its judgements depend on.
//!
//! Bounds: [`POINTS_MAX`] states, [`SUPPRESSED_MAX`] suppressed ranges, [`READS_AHEAD`] bodies.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use synod_frame::{BodyHeader, CommandsView, SubmissionEntry, decode_session, decode_ticket, trim_layout, trim_state};
use synod_protocol::delivery::{Answer, DeliveryLimits, DeliveryState};
use synod_protocol::{BodyHandle, BodyKind, Instant, Role, Slot, SlotRange, TrimError};

use super::paging::Errand;
use super::{Buffers, Frame, LoggedReplica, Output, Purpose, ReadId};
use crate::index::{IndexEntry, Lookup};

/// States kept as bytes, at which the log can be trimmed.
const POINTS_MAX: usize = 16;

/// Suppressed ranges kept for readers; of more the oldest are forgotten.
const SUPPRESSED_MAX: usize = 1 << 16;

/// How long until a page of the index that couldn't be had is asked for again.
const AGAIN: Duration = Duration::from_secs(1);

/// Bodies that are read ahead while judging catches up.
const READS_AHEAD: usize = 8;

/// Slots whose commands don't count, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suppressed {
    /// The slots of one submission.
    pub slots: SlotRange,
    /// A duplicate of an earlier one, or refused.
    pub answer: Answer,
}

/// What is known of the judgements of some slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// They are judged, and these of them don't count.
    Known(Vec<Suppressed>),
    /// Not all of them are judged yet.
    NotYet,
    /// So much was suppressed since that it isn't known any more; from this slot on it is.
    Forgotten {
        /// The first slot whose judgement is known.
        first: Slot,
    },
}

/// See the module documentation.
pub(super) struct Judging<B> {
    limits: DeliveryLimits,
    /// None until the state at the log's base is found.
    state: Option<DeliveryState>,
    /// The trim that is read to find it.
    finding: Option<ReadId>,
    /// As far as trims were looked for, from the base on.
    searched: Slot,
    /// When to try again, after a page of the index couldn't be had; and whether that is what judging waits for.
    again_at: Instant,
    stalled: bool,
    /// What is being read, in slot order, from the state's next slot on.
    queue: VecDeque<Ahead<B>>,
    suppressed: BTreeMap<Slot, Suppressed>,
    /// Below this slot, some suppressed ranges may be forgotten.
    forgotten: Slot,
    points: VecDeque<(Slot, Vec<u8>)>,
    /// Judged since the last point, in bytes.
    since_point: u64,
    /// Up to this slot, from the base on, the state is empty; none if it is everywhere.
    occupied_from: Option<Slot>,
    /// From this slot on the state has been empty, if it is.
    empty_from: Option<Slot>,
    /// States of trims that were proposed, by their points, until the base is there.
    composing: BTreeMap<Slot, Vec<u8>>,
    /// The trims that were judged, or gave the state to begin with, by ascending points, from the base on: they carry the state for
    /// whoever begins where this log does.
    trims: VecDeque<BodyHandle>,
    /// The base for which there is no such trim.
    stateless: Option<Slot>,
    submissions: Vec<SubmissionEntry>,
}

/// What became of looking for a trim.
enum Search {
    Found(IndexEntry),
    /// For a page of the index, or for what is to be healed.
    Waits,
    Nothing,
}

struct Ahead<B> {
    body: BodyHandle,
    read: ReadId,
    frame: Option<Frame<B>>,
}

impl<B> Judging<B> {
    /// # Panics
    /// If a state within these limits wouldn't fit into a trim: a bug of whoever chose them.
    pub(super) fn new(limits: DeliveryLimits) -> Judging<B> {
        let layout = usize::try_from(limits.state_bytes_max()).ok().and_then(trim_layout);
        assert!(layout.is_some(), "no body has room for all that {limits:?} allow");
        Judging {
            limits,
            state: None,
            finding: None,
            searched: Slot::FIRST,
            again_at: Instant(0),
            stalled: false,
            queue: VecDeque::new(),
            suppressed: BTreeMap::new(),
            forgotten: Slot::FIRST,
            points: VecDeque::new(),
            since_point: 0,
            occupied_from: None,
            empty_from: None,
            composing: BTreeMap::new(),
            trims: VecDeque::new(),
            stateless: None,
            submissions: Vec::new(),
        }
    }

    /// Whether the state to begin with isn't found yet.
    pub(super) fn is_beginning(&self) -> bool {
        self.state.is_none()
    }

    fn begin(&mut self, state: DeliveryState) {
        let next = state.next();
        (self.occupied_from, self.empty_from) = if state.is_empty() { (None, Some(next)) } else { (Some(next), None) };
        self.queue.clear();
        self.suppressed.clear();
        self.points.clear();
        self.since_point = 0;
        self.forgotten = next;
        self.stalled = false;
        self.state = Some(state);
    }

    /// Starts again, from the state at another base.
    fn reset(&mut self) {
        (self.state, self.finding, self.searched) = (None, None, Slot::FIRST);
        self.queue.clear();
        self.trims.clear();
    }

    fn note_trim(&mut self, trim: &BodyHandle) {
        let point = |body: &BodyHandle| if let BodyKind::Trim { upto } = body.kind { upto } else { Slot(0) };
        if self.trims.back().map_or(Slot(0), point) < point(trim) {
            self.trims.push_back(*trim);
        }
    }

    fn next(&self) -> Option<Slot> {
        self.state.as_ref().map(DeliveryState::next)
    }

    /// Where the next body to be read ahead begins.
    fn ahead(&self) -> Option<Slot> {
        self.queue.back().map(|ahead| ahead.body.end()).or(self.next())
    }

    fn note_suppressed(&mut self, slots: SlotRange, answer: Answer) {
        self.suppressed.insert(slots.start, Suppressed { slots, answer });
        if self.suppressed.len() > SUPPRESSED_MAX
            && let Some((_, oldest)) = self.suppressed.pop_first()
        {
            self.forgotten = oldest.slots.end;
        }
    }

    /// The highest point up to `limit` at which the log can be trimmed, if there is one above `base`.
    fn trim_point(&self, limit: Slot, base: Slot) -> Option<Slot> {
        let limit = limit.min(self.next()?);
        let anywhere = |from: Slot| from <= limit;
        if self.occupied_from.is_none_or(|occupied| limit <= occupied) || self.empty_from.is_some_and(anywhere) {
            return Some(limit).filter(|limit| *limit > base);
        }
        let kept = self.points.iter().map(|(slot, _)| *slot).rfind(|slot| *slot <= limit);
        kept.max(self.occupied_from).filter(|slot| *slot > base)
    }

    /// The state at a point that [`Judging::trim_point`] gave, as bytes; none if it is empty.
    fn state_at(&self, point: Slot) -> Vec<u8> {
        let kept = self.points.iter().find(|(slot, _)| *slot == point);
        kept.map(|(_, state)| state.clone()).unwrap_or_default()
    }

    fn keep_point(&mut self) {
        let Some(state) = &self.state else { return };
        self.since_point = 0;
        if self.points.back().is_some_and(|(slot, _)| *slot == state.next()) {
            return;
        }
        let bytes = if state.is_empty() { Vec::new() } else { state.encode() };
        self.points.push_back((state.next(), bytes));
        if self.points.len() > POINTS_MAX {
            let mut keep = false;
            self.points.retain(|_| {
                keep = !keep;
                keep
            });
        }
    }

    fn trimmed(&mut self, base: Slot) {
        while self.suppressed.first_entry().is_some_and(|oldest| oldest.get().slots.end <= base) {
            self.suppressed.pop_first();
        }
        while self.points.front().is_some_and(|(slot, _)| *slot <= base) {
            self.points.pop_front();
        }
        while self.composing.first_key_value().is_some_and(|(point, _)| *point <= base) {
            self.composing.pop_first();
        }
        if self.empty_from.is_some_and(|from| from <= base) {
            self.occupied_from = None;
        }
        while self.trims.pop_front_if(|trim| !matches!(trim.kind, BodyKind::Trim { upto } if upto >= base)).is_some() {}
    }
}

impl<P: Buffers> LoggedReplica<P> {
    /// The delivery state after everything judged so far, for snapshots and checkers; none while it isn't known.
    pub fn delivery_state(&self) -> Option<&DeliveryState> {
        self.judging.as_ref().and_then(|judging| judging.state.as_ref())
    }

    /// The first slot that isn't judged yet; everything delivered is, if nothing judges.
    pub fn judged(&self) -> Slot {
        match &self.judging {
            None => self.replica.mark().slot,
            Some(judging) => judging.next().unwrap_or(self.wal.index().base().slot),
        }
    }

    /// The body that judging waits for, if that can take long: its bytes are lost here until somebody has them, or its place
    /// can't be read back from the disk, which only a restart, or a trim, puts right.
    pub fn judging_waits_for(&self) -> Option<Slot> {
        let judging = self.judging.as_ref()?;
        Some(self.judged()).filter(|next| judging.stalled || self.is_lost(*next))
    }

    /// The trim that carries the delivery state for a log that begins at `base`, as this one does; none inside if there is no
    /// state to carry, and none at all if that isn't known yet.
    pub(super) fn trim_of_base(&mut self, base: Slot) -> Option<Option<BodyHandle>> {
        let Some(judging) = &mut self.judging else { return Some(None) };
        judging.state.as_ref()?;
        judging.trimmed(base);
        match judging.trims.front() {
            Some(trim) => Some(Some(*trim)),
            None => (judging.stateless == Some(base)).then_some(None),
        }
    }

    /// Which of some delivered slots don't count.
    pub fn judgement(&self, slots: SlotRange) -> Judgement {
        let Some(judging) = &self.judging else { return Judgement::Known(Vec::new()) };
        if judging.next().is_none_or(|next| slots.end > next) {
            return Judgement::NotYet;
        }
        if slots.start < judging.forgotten {
            return Judgement::Forgotten { first: judging.forgotten };
        }
        Judgement::Known(judging.suppressed.range(slots).map(|(_, suppressed)| suppressed.clone()).collect())
    }

    /// The highest slot up to `upto` that may be proposed as a trim's point, and the state there is made ready for it.
    pub(super) fn prepare_trim(&mut self, upto: Slot) -> Result<Slot, TrimError> {
        let base = self.wal.index().base().slot;
        // That there is nothing to trim, or that others trim, is for the core to say.
        if upto <= base || self.replica.status().role != Role::Leader {
            return Ok(upto);
        }
        let Some(judging) = &mut self.judging else { return Ok(upto) };
        let Some(point) = judging.trim_point(upto, base) else {
            // A later attempt has a point.
            if judging.points.is_empty() {
                judging.keep_point();
            }
            let point = judging.points.front().map(|(slot, _)| *slot).filter(|slot| *slot > base);
            return Err(TrimError::NoDeliveryState { point });
        };
        let state = judging.state_at(point);
        if !state.is_empty() {
            judging.composing.insert(point, state);
        }
        Ok(point)
    }

    /// The state that a trim is to carry; empty for none.
    pub(super) fn state_for_trim(&self, upto: Slot) -> Vec<u8> {
        self.judging.as_ref().and_then(|judging| judging.composing.get(&upto).cloned()).unwrap_or_default()
    }

    /// A body is delivered; judges it at once if it is next and its bytes are at hand.
    pub(super) fn judge_delivered(&mut self, body: &BodyHandle, frame: Option<&Frame<P::Buffer>>) {
        let Some(judging) = &self.judging else { return };
        if let Some(frame) = frame
            && judging.queue.is_empty()
            && judging.next() == Some(body.first)
        {
            self.judge(body, frame.body());
        }
    }

    /// Judges what is delivered as far as its bytes are at hand, and asks for more.
    pub(super) fn judge_on(&mut self, now: Instant) {
        if self.fenced || self.judging.as_ref().is_none_or(|judging| now < judging.again_at) {
            return;
        }
        loop {
            self.find_state();
            self.read_ahead();
            let Some(judging) = &mut self.judging else { return };
            let Some(first) = judging.queue.pop_front_if(|ahead| ahead.frame.is_some()) else { return };
            let frame = first.frame.expect("it was asked for");
            self.judge(&first.body, frame.body());
        }
    }

    /// A read for judging is complete; none if it failed, and then it is asked for again later.
    pub(super) fn judged_read(&mut self, read: ReadId, frame: Option<Frame<P::Buffer>>) {
        let Some(judging) = &mut self.judging else { return };
        if judging.finding == Some(read) {
            judging.finding = None;
            let Some(frame) = frame else { return };
            return self.found_state(&frame);
        }
        let Some(place) = judging.queue.iter().position(|ahead| ahead.read == read) else { return };
        match frame {
            Some(frame) => judging.queue[place].frame = Some(frame),
            None => judging.queue.truncate(place),
        }
    }

    /// What judging needs of the index can't be read back now.
    pub(super) fn judge_later(&mut self, now: Instant) {
        if let Some(judging) = &mut self.judging {
            judging.again_at = now.plus(AGAIN);
            judging.stalled = true;
        }
    }

    /// The state at the base: empty at the beginning of all logs, or carried by the trim that moved the base there. A trim
    /// may have moved it less far than to its point; then what lies between stays unjudged.
    fn find_state(&mut self) {
        let base = self.wal.index().base().slot;
        let Some(judging) = &mut self.judging else { return };
        if judging.next().is_some_and(|next| next < base) {
            // What wasn't judged is trimmed.
            judging.reset();
        }
        judging.trimmed(base);
        if judging.state.is_some() || judging.finding.is_some() {
            return;
        }
        if base == Slot::FIRST {
            return self.begin_judging(None, base);
        }
        let trim = match self.find_trim(base) {
            Search::Found(trim) => trim,
            Search::Waits => return,
            // The log begins there by an import, and never had a session.
            Search::Nothing => {
                if let Some(judging) = &mut self.judging {
                    judging.stateless = Some(base);
                }
                return self.begin_judging(None, base);
            }
        };
        if let Some(frame) = self.bodies.frame(trim.body.id) {
            return self.found_state(&frame);
        }
        let read = self.read_record(trim, Purpose::Judge);
        if let Some(judging) = &mut self.judging {
            judging.finding = Some(read);
        }
    }

    /// Looks for the first trim whose point isn't below the base: it moved the base, or is about to, or came with it.
    fn find_trim(&mut self, base: Slot) -> Search {
        let mark = self.replica.mark().slot;
        let Some(judging) = &mut self.judging else { return Search::Nothing };
        judging.searched = judging.searched.max(base);
        let mut next = judging.searched;
        loop {
            match self.wal.index().find_from(next) {
                Lookup::Here(entry) if entry.body.first < mark && entry.chosen.is_none() => return Search::Waits,
                Lookup::Here(entry)
                    if let BodyKind::Trim { upto } = entry.body.kind
                        && upto >= base =>
                {
                    // It may have come ahead of what lies between, with the base.
                    let is_there = upto <= mark && !self.is_lost(entry.body.first);
                    return if is_there { Search::Found(entry) } else { Search::Waits };
                }
                // Also what isn't chosen yet: whoever made a trim had the state at its point.
                Lookup::Here(entry) => {
                    next = entry.body.end();
                    // Behind the mark something may come in between.
                    if let Some(judging) = self.judging.as_mut().filter(|_| entry.body.first < mark) {
                        judging.searched = next;
                    }
                }
                Lookup::Paged(end) => {
                    self.wait_for_page(end, Errand::Judge);
                    return Search::Waits;
                }
                // Behind damage it may be among what comes again from others.
                Lookup::Nowhere if self.healing.found > 0 => return Search::Waits,
                Lookup::Nowhere => return Search::Nothing,
            }
        }
    }

    fn found_state(&mut self, frame: &Frame<P::Buffer>) {
        let base = self.wal.index().base().slot;
        let BodyKind::Trim { upto } = frame.handle().kind else { return };
        if upto < base {
            // The base has moved on meanwhile: look again.
            return;
        }
        if let Some(judging) = &mut self.judging {
            judging.note_trim(frame.handle());
        }
        let header = BodyHeader::parse(frame.body()).ok();
        let Some(bytes) = header.and_then(|header| trim_state(&header, frame.body())) else {
            // An empty state; its point may lie within a body, and then the log is trimmed in front of that.
            if let Some(end) = self.wal.index().page_to_load(upto) {
                return self.wait_for_page(end, Errand::Judge);
            }
            // Not the base, which may be lower for a while: there the state wasn't empty yet.
            let point = match self.wal.index().find(upto) {
                Lookup::Here(entry) if entry.body.first < upto => entry.body.first,
                _ => upto,
            };
            return self.begin_judging(None, point);
        };
        let limits = self.judging.as_ref().map(|judging| judging.limits);
        let state = limits.and_then(|limits| DeliveryState::decode(bytes, limits).ok());
        // Otherwise, whoever made the trim didn't keep to the format, or to this cluster's limits. All replicas see that.
        let state = state.filter(|state| state.next() == upto);
        self.begin_judging(state, upto);
    }

    fn begin_judging(&mut self, state: Option<DeliveryState>, point: Slot) {
        if let Some(judging) = &mut self.judging {
            let empty = DeliveryState::empty(judging.limits, point);
            judging.begin(state.unwrap_or(empty));
        }
    }

    fn read_ahead(&mut self) {
        while let Some(judging) = &self.judging
            && judging.queue.len() < READS_AHEAD
            && let Some(next) = judging.ahead()
            && next < self.replica.mark().slot
            && !self.is_lost(next)
        {
            let entry = match self.wal.index().find(next) {
                Lookup::Here(entry) if entry.body.first == next && entry.chosen.is_some() => entry,
                Lookup::Paged(end) => return self.wait_for_page(end, Errand::Judge),
                Lookup::Here(_) | Lookup::Nowhere => return,
            };
            let frame = self.bodies.frame(entry.body.id);
            let read = match &frame {
                Some(_) => ReadId(0),
                None => self.read_record(entry, Purpose::Judge),
            };
            if let Some(judging) = &mut self.judging {
                judging.stalled = false;
                judging.queue.push_back(Ahead { body: entry.body, read, frame });
            }
        }
    }

    fn judge(&mut self, body: &BodyHandle, bytes: &[u8]) {
        let Some(judging) = &mut self.judging else { return };
        let Some(state) = &mut judging.state else { return };
        let was_empty = state.is_empty();
        let mut answers = Vec::new();
        judging.submissions.clear();
        judge_body(state, body, bytes, &mut judging.submissions, &mut answers);
        match (was_empty, state.is_empty()) {
            (true, false) => {
                judging.occupied_from.get_or_insert(body.first);
                judging.empty_from = None;
            }
            (false, true) => judging.empty_from = Some(state.next()),
            _ => {}
        }
        let submissions = std::mem::take(&mut judging.submissions);
        for (submission, answer) in submissions.iter().zip(&answers) {
            if !answer.is_delivered() {
                let place = |command: u32| body.first.plus(u64::from(command));
                let slots = place(submission.commands.start)..place(submission.commands.end);
                judging.note_suppressed(slots, *answer);
            }
        }
        judging.submissions = submissions;
        judging.note_trim(body);
        judging.since_point += u64::from(body.bytes);
        if judging.occupied_from.is_some() {
            let spacing = self.wal.stats().live_bytes / POINTS_MAX as u64;
            if judging.since_point >= spacing.max(self.wal.settings().segment_bytes / 4) {
                judging.keep_point();
            }
        }
        self.outputs.push_back(Output::Judged { body: *body, answers });
    }
}

/// Adds the answers to a body's submissions, or to its one command; none if nothing in it is up to delivery.
fn judge_body(
    state: &mut DeliveryState,
    body: &BodyHandle,
    bytes: &[u8],
    submissions: &mut Vec<SubmissionEntry>,
    answers: &mut Vec<Answer>,
) {
    // Verified when it arrived, or when it was read.
    let header = BodyHeader::parse(bytes).expect("bodies at hand are verified");
    let (first, time_us) = (body.first, header.leader_time_us);
    match body.kind {
        BodyKind::Commands => {
            // Columns that can't be read have no terms: readers are told what is wrong with them.
            if let Ok(view) = CommandsView::new(&header, bytes)
                && view.submissions().flatten().any(|submission| !submission.submitted().terms.is_none())
                && view.submissions().all(|submission| submission.is_ok())
            {
                submissions.extend(view.submissions().flatten());
                let submitted = submissions.iter().map(SubmissionEntry::submitted);
                return state.deliver_commands(first, time_us, submitted, answers);
            }
        }
        BodyKind::Session => {
            if let Ok(command) = decode_session(&header, bytes) {
                return answers.push(state.deliver_session(first, time_us, command));
            }
        }
        BodyKind::Ticket => {
            if let Ok(command) = decode_ticket(&header, bytes) {
                return answers.push(state.deliver_ticket(first, time_us, command));
            }
        }
        BodyKind::NoOp | BodyKind::Configuration { .. } | BodyKind::Trim { .. } => {}
    }
    state.deliver_other(first, body.count, time_us);
}
