//! Getting back what this disk has lost of the chosen prefix, and looking for it before anybody needs it.
//!
//! A body whose bytes are lost is fetched by its identity from the other members in turn, and appended again. It was
//! chosen, so no vote depends on it. A body that was accepted and isn't known to be chosen can't be vouched for without
//! its bytes: the core is told to doubt it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use synod_protocol::{Ballot, BodyHandle, BodyKind, Chain, Configuration, Instant, Mark, Message, NodeId, Slot};

use super::judging::Judging;
use super::{Buffers, Errand, LoggedReplica, Output, Purpose, ReadId};
use crate::format::{RecordKind, RecordMeta};
use crate::index::{IndexEntry, Lookup};

/// Bodies asked for at a time.
const ASKED_MAX: usize = 8;

/// How long an answer may take until another member is asked.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// Shortest time between two reads of the scrub: an idle node should sleep most of the time.
const SCRUB_PAUSE: Duration = Duration::from_millis(5);

/// How long until a body is asked for again that no member has given.
pub const HEAL_PAUSE: Duration = Duration::from_secs(2);

/// How often each member is asked before readers are told that the body is damaged.
const QUESTIONS_WAITED: u32 = 3;

/// Readers that wait for a body to be healed; more are told that it is damaged.
const WAITING_MAX: usize = 64;

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct Healing {
    lost: BTreeMap<Slot, Lost>,
    /// When to ask again, as long as anything is lost.
    ask_at: Instant,
    /// Accepted bodies whose bytes are lost, by their first slot. Once chosen, they can be had from others.
    doubted: BTreeSet<Slot>,
    /// Places found to be damaged, when the log was read back and since; and bodies healed since the start.
    pub(super) found: u64,
    pub(super) healed: u64,
    scrub: Scrub,
}

#[derive(Debug)]
struct Lost {
    body: BodyHandle,
    /// The chain after it, if its entry isn't in memory.
    chain: Option<Chain>,
    asked: u32,
    ask_at: Instant,
    waiting: Vec<ReadId>,
}

/// Reading everything again, slowly, to find what has rotted while there are other copies.
#[derive(Debug, Default)]
struct Scrub {
    next: Slot,
    at: Instant,
    reading: bool,
    passes: u64,
}

impl Healing {
    pub(super) fn of((damaged, places): (Vec<BodyHandle>, u64)) -> Healing {
        let mut healing = Healing::default();
        damaged.into_iter().for_each(|body| healing.note(body, None));
        healing.found = places;
        healing
    }

    fn note(&mut self, body: BodyHandle, chain: Option<Chain>) {
        self.found += 1;
        let lost = || Lost { body, chain, asked: 0, ask_at: Instant(0), waiting: Vec::new() };
        self.lost.entry(body.first).or_insert_with(lost);
    }

    /// The chosen bodies that are lost here, ascending.
    pub(super) fn lost(&self) -> impl Iterator<Item = &BodyHandle> {
        self.lost.values().map(|lost| &lost.body)
    }

    pub(super) fn scrub_passes(&self) -> u64 {
        self.scrub.passes
    }

    fn deadline(&self) -> Option<Instant> {
        (!self.lost.is_empty()).then_some(self.ask_at)
    }
}

impl<P: Buffers> LoggedReplica<P> {
    /// A record doesn't hold what the index says. Whether `purpose` waits for it to be healed.
    pub(super) fn found_damaged(&mut self, now: Instant, entry: &IndexEntry, read: ReadId, purpose: &Purpose) -> bool {
        let location = entry.location;
        self.outputs.push_back(Output::Damaged { body: entry.body, file: location.file, offset: location.offset });
        if entry.chosen.is_none() {
            // The scrub comes by again and again.
            self.healing.found += u64::from(self.healing.doubted.insert(entry.body.first));
            self.replica.handle_damaged(now, &entry.body);
            return false;
        }
        if !self.is_lost(entry.body.first) {
            self.healing.note(entry.body, entry.chosen);
        }
        let patience = patience(&self.others());
        let lost = self.healing.lost.get_mut(&entry.body.first).expect("noted");
        let waits = matches!(purpose, Purpose::Reader) && lost.waiting.len() < WAITING_MAX && lost.asked < patience;
        if waits {
            lost.waiting.push(read);
        }
        self.ask_for_lost(now);
        waits
    }

    /// Whether a body that begins there is being asked for.
    pub(super) fn is_lost(&self, first: Slot) -> bool {
        self.healing.lost.contains_key(&first)
    }

    /// A body is chosen, with `mark` behind it. If its bytes were found to be lost before, they are fetched now.
    pub(super) fn heal_if_lost(&mut self, body: &BodyHandle, mark: Mark) {
        if self.healing.doubted.remove(&body.first) && !self.is_lost(body.first) {
            self.healing.note(*body, Some(mark.chain));
        }
    }

    /// Takes a body that was asked for to heal the log; gives it back if it wasn't.
    pub(super) fn heal(
        &mut self,
        now: Instant,
        from: NodeId,
        body: &BodyHandle,
        mut record: P::Buffer,
    ) -> Option<P::Buffer> {
        if self.healing.lost.get(&body.first).is_none_or(|lost| lost.body != *body) {
            return Some(record);
        }
        let meta = RecordMeta {
            kind: RecordKind::Healed,
            group: self.group,
            source: from,
            ballot: Ballot::ZERO,
            promised: self.replica.promised(),
            mark: self.replica.mark(),
            log_time_us: self.leader_time_us,
            unsure: self.wal.is_unsure(),
        };
        // What waits for a segment comes first: the record says of the promise what the core says.
        if !self.blocked.is_empty() {
            return None;
        }
        let Ok(planned) = self.wal.append(&meta, Some(body), record.as_mut()) else { return None };
        self.write(now, planned, Some(*body), record);
        let lost = self.healing.lost.remove(&body.first).expect("seen above");
        if let Some(chain) = lost.chain {
            self.wal.index_mut().mark_chosen(body.first, chain);
        }
        self.healing.healed += 1;
        let frame = self.bodies.frame(body.id);
        self.outputs.push_back(Output::Healed { body: *body, from });
        for read in lost.waiting {
            self.outputs.push_back(Output::ReadDone { read, frame: frame.clone() });
        }
        self.ask_for_lost(now);
        None
    }

    /// Asks for the first of what is lost, each time another member; and forgets what is trimmed.
    pub(super) fn ask_for_lost(&mut self, now: Instant) {
        // The log may be trimmed less far than agreed: where an end of a body can't be found any more, or until a header holds
        // what is to be trimmed. The trim that tells the delivery state at its base is needed until then.
        let held = self.trim_held.map(|(wanted, _)| wanted).max(self.trim_wanted).unwrap_or_default();
        let start = self.wal.index().base().slot;
        let base = start.max(self.replica.trimmed()).max(held);
        let begins = self.judging.as_ref().is_some_and(Judging::is_beginning);
        let is_needed = |body: &BodyHandle| begins && body.first >= start && matches!(body.kind, BodyKind::Trim { .. });
        let trimmed = self.healing.lost.extract_if(..base, |_, lost| !is_needed(&lost.body));
        for read in trimmed.flat_map(|(_, lost)| lost.waiting) {
            self.outputs.push_back(Output::ReadDone { read, frame: None });
        }
        while self.healing.doubted.first().is_some_and(|first| *first < base) {
            self.healing.doubted.pop_first();
        }
        if self.healing.lost.is_empty() {
            return;
        }
        let others = self.others();
        if others.is_empty() {
            self.healing.ask_at = Instant(u64::MAX);
            return;
        }
        self.healing.ask_at = now.plus(ASK_AGAIN);
        let is_asked = |lost: &&Lost| lost.asked > 0 && lost.ask_at > now && lost.ask_at.since(now) <= ASK_AGAIN;
        let asked = self.healing.lost.values().filter(is_asked).count();
        let due = self.healing.lost.values_mut().filter(|lost| lost.ask_at <= now);
        for lost in due.take(ASKED_MAX.saturating_sub(asked)) {
            let waited = lost.asked >= patience(&others);
            if waited {
                self.outputs.extend(lost.waiting.drain(..).map(|read| Output::ReadDone { read, frame: None }));
            }
            let to = others[lost.asked as usize % others.len()];
            lost.asked = lost.asked.saturating_add(1);
            // What nobody has is asked for less often, or nothing behind it would get its turn.
            lost.ask_at = now.plus(if waited { HEAL_PAUSE } else { ASK_AGAIN });
            let message = Message::FetchBody { first: lost.body.first, id: lost.body.id };
            self.outputs.push_back(Output::Send { to, message, body: None });
        }
    }

    /// Reads the next record of the log, for nobody, if it is time.
    pub(super) fn scrub(&mut self, now: Instant) {
        let rate = self.settings.scrub_bytes_per_second;
        if rate == 0 || self.healing.scrub.reading || now < self.healing.scrub.at {
            return;
        }
        let entry = match self.wal.index().find_from(self.healing.scrub.next) {
            Lookup::Here(entry) => entry,
            Lookup::Paged(end) => {
                self.healing.scrub.reading = true;
                return self.wait_for_page(end, Errand::Scrub);
            }
            Lookup::Nowhere => {
                let started = self.healing.scrub.next > Slot::FIRST;
                self.healing.scrub.passes += u64::from(started);
                self.healing.scrub.next = Slot::FIRST;
                self.healing.scrub.at = now.plus(Duration::from_secs(1));
                return;
            }
        };
        let bytes = u64::from(entry.location.blocks(&entry.body).bytes);
        self.healing.scrub.next = entry.body.end();
        self.healing.scrub.at = now.plus(Duration::from_micros(bytes * 1_000_000 / rate).max(SCRUB_PAUSE));
        // What is in memory was written a moment ago, and is read another time.
        if !self.is_lost(entry.body.first) && self.bodies.frame(entry.body.id).is_none() {
            self.healing.scrub.reading = true;
            self.read_record(entry, Purpose::Scrub);
        }
    }

    pub(super) fn scrubbed(&mut self) {
        self.healing.scrub.reading = false;
    }

    /// Nobody can tell what lies in front of `end`.
    pub(super) fn scrub_behind(&mut self, end: Slot) {
        self.healing.scrub.next = end;
        self.scrubbed();
    }

    /// When healing or scrubbing has something to do.
    pub(super) fn healing_deadline(&self) -> Instant {
        let scrub = match self.settings.scrub_bytes_per_second {
            0 => Instant(u64::MAX),
            _ if self.healing.scrub.reading => Instant(u64::MAX),
            _ => self.healing.scrub.at,
        };
        self.healing.deadline().map_or(scrub, |asking| asking.min(scrub))
    }

    /// The other members: who may have what is lost here.
    fn others(&self) -> Vec<NodeId> {
        let nodes = self.replica.configurations().iter().flat_map(Configuration::nodes);
        let me = self.replica.node();
        nodes.filter(|node| *node != me).collect::<BTreeSet<_>>().into_iter().collect()
    }
}

/// After so many questions readers are told that the body is damaged; at once if there is nobody to ask.
fn patience(others: &[NodeId]) -> u32 {
    QUESTIONS_WAITED * others.len() as u32
}
