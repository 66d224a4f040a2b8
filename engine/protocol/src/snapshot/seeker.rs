//! The side that lacks a snapshot: asks around, takes an offer, fetches it chunk by chunk.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::{Hold, NoSnapshot, SnapshotId, SnapshotMessage};
use crate::ballot::NodeId;
use crate::limits;
use crate::slot::Slot;
use crate::time::Instant;

/// How long to wait for an answer before asking again.
const ANSWER: Duration = Duration::from_secs(1);

/// How long to wait for an offer of the very snapshot of which a part is there, when another one is offered.
const PREFER: Duration = Duration::from_millis(200);

/// Unanswered questions to one holder after which another one is looked for.
const TRIES_MAX: u32 = 3;

/// Snapshots that were fetched whole and didn't match their checksum, as many as are remembered.
const UNSOUND_MAX: usize = 16;

/// Who has none, and why, as last heard.
pub type Refusals = BTreeMap<NodeId, NoSnapshot>;

/// What the driver has to do for a [`Seeker`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SeekerEffect {
    /// Send a message; to every peer, if none is named.
    Send {
        /// To whom.
        to: Option<NodeId>,
        /// What.
        message: SnapshotMessage,
    },
    /// Begin an empty partial file for this snapshot; any other partial file is of no use any more.
    Begin {
        /// Which.
        snapshot: SnapshotId,
    },
    /// Write a chunk behind what the partial file holds.
    Write {
        /// Of which.
        snapshot: SnapshotId,
        /// Where: the present end of the file.
        offset: u64,
        /// What.
        data: Vec<u8>,
    },
    /// All of it is there: compare length and checksum, make it durable, give it its name, in this order; then call
    /// [`Seeker::finished`].
    Finish {
        /// Which.
        snapshot: SnapshotId,
    },
}

/// Looks for a snapshot that stands for a position or a later one, until it has it.
///
/// The driver carries out what [`Seeker::poll_effect`] gives after every call, and calls [`Seeker::handle_timeout`] at
/// [`Seeker::poll_deadline`].
#[derive(Clone, Debug)]
pub struct Seeker {
    at_least: Slot,
    /// What is there of a snapshot.
    partial: Option<Partial>,
    state: State,
    refusals: Refusals,
    unsound: VecDeque<SnapshotId>,
    progress: u64,
    effects: VecDeque<SeekerEffect>,
}

#[derive(Clone, Copy, Debug)]
struct Partial {
    snapshot: SnapshotId,
    bytes: u64,
    /// Every byte of it came since this seeker began.
    is_fresh: bool,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Everybody is asked.
    Asking {
        again_at: Instant,
        second_best: Option<(NodeId, SnapshotId)>,
    },
    Fetching(Fetching),
    /// The driver looks whether it is whole.
    Finishing,
    Done(SnapshotId),
}

#[derive(Clone, Copy, Debug)]
struct Fetching {
    from: NodeId,
    snapshot: SnapshotId,
    /// Asked for up to here.
    asked: u64,
    again_at: Instant,
    tries: u32,
    /// Something was refused for now; everything that hasn't come is asked for again at `again_at`.
    is_put_off: bool,
}

impl Seeker {
    /// Begins to look. `partial` is what a former seeker has left: a snapshot, and how many of its first bytes are there.
    pub fn new(now: Instant, at_least: Slot, partial: Option<(SnapshotId, u64)>) -> Seeker {
        let partial = partial.map(|(snapshot, bytes)| Partial { snapshot, bytes, is_fresh: false });
        let mut seeker = Seeker {
            at_least,
            partial: partial
                .filter(|partial| partial.snapshot.position >= at_least && partial.bytes <= partial.snapshot.bytes),
            state: State::Asking { again_at: now, second_best: None },
            refusals: BTreeMap::new(),
            unsound: VecDeque::new(),
            progress: 0,
            effects: VecDeque::new(),
        };
        seeker.ask(now);
        seeker
    }

    /// The lowest position that is of any use.
    pub fn at_least(&self) -> Slot {
        self.at_least
    }

    /// The snapshot that is on its way, and how many bytes of it are there.
    pub fn partial(&self) -> Option<(SnapshotId, u64)> {
        self.partial.map(|partial| (partial.snapshot, partial.bytes))
    }

    /// Who has none, and why.
    pub fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// The snapshot, once it is there.
    pub fn done(&self) -> Option<SnapshotId> {
        match self.state {
            State::Done(snapshot) => Some(snapshot),
            _ => None,
        }
    }

    /// What the log must keep, as long as this gets on.
    pub fn hold(&self) -> Hold {
        let from = match self.state {
            State::Fetching(Fetching { snapshot, .. }) | State::Done(snapshot) => snapshot.position,
            _ => self.partial.map_or(self.at_least, |partial| partial.snapshot.position),
        };
        Hold { from, progress: self.progress }
    }

    /// What to do next.
    pub fn poll_effect(&mut self) -> Option<SeekerEffect> {
        self.effects.pop_front()
    }

    /// When to call [`Seeker::handle_timeout`]; none if there is nothing to wait for.
    pub fn poll_deadline(&self) -> Option<Instant> {
        match self.state {
            State::Asking { again_at, .. } => Some(again_at),
            State::Fetching(Fetching { again_at, .. }) => Some(again_at),
            State::Finishing | State::Done(_) => None,
        }
    }

    /// The log begins at `at_least` by now: what stands for less has become useless.
    pub fn raise(&mut self, now: Instant, at_least: Slot) {
        if at_least <= self.at_least {
            return;
        }
        self.at_least = at_least;
        let is_useless = |snapshot: SnapshotId| snapshot.position < at_least;
        // What is being finished is judged when it is.
        self.partial.take_if(|partial| is_useless(partial.snapshot) && !matches!(self.state, State::Finishing));
        match self.state {
            State::Fetching(Fetching { snapshot, .. }) if is_useless(snapshot) => self.ask(now),
            State::Asking { again_at, second_best: Some((_, snapshot)) } if is_useless(snapshot) => {
                self.state = State::Asking { again_at, second_best: None };
            }
            _ => {}
        }
    }

    /// Somebody has said something.
    pub fn handle_message(&mut self, now: Instant, from: NodeId, message: SnapshotMessage) {
        match message {
            SnapshotMessage::Offer { snapshot } => self.on_offer(now, from, snapshot),
            SnapshotMessage::Refuse { at_least, reason } => self.on_refuse(now, from, at_least, reason),
            SnapshotMessage::Chunk { snapshot, offset, data } => self.on_chunk(now, from, snapshot, offset, data),
            SnapshotMessage::Ask { .. } | SnapshotMessage::Fetch { .. } | SnapshotMessage::Need { .. } => {}
        }
    }

    /// Time is up: ask again.
    pub fn handle_timeout(&mut self, now: Instant) {
        match self.state {
            State::Asking { again_at, second_best } if now >= again_at => match second_best {
                Some((from, snapshot)) => self.begin(now, from, snapshot),
                None => self.ask(now),
            },
            State::Fetching(fetching) if now >= fetching.again_at => self.fetch_again(now, fetching),
            _ => {}
        }
    }

    /// Whether what was to be finished is whole. If it isn't, it is fetched once more from its beginning; one that came whole
    /// from there is never taken again.
    pub fn finished(&mut self, now: Instant, is_sound: bool) {
        let Some(partial) = self.partial.take_if(|_| matches!(self.state, State::Finishing)) else { return };
        if is_sound && partial.snapshot.position >= self.at_least {
            self.state = State::Done(partial.snapshot);
            return;
        }
        if partial.is_fresh && !is_sound {
            self.unsound.push_back(partial.snapshot);
            if self.unsound.len() > UNSOUND_MAX {
                self.unsound.pop_front();
            }
            // Whoever has nothing better is asked for a newer one.
            self.at_least = self.at_least.max(partial.snapshot.position.plus(1));
        }
        self.ask(now);
    }

    /// The partial file can't be written: begins anew after a while.
    pub fn failed(&mut self, now: Instant) {
        self.partial = None;
        self.effects.clear();
        self.state = State::Asking { again_at: now.plus(ANSWER), second_best: None };
    }

    fn ask(&mut self, now: Instant) {
        self.state = State::Asking { again_at: now.plus(ANSWER), second_best: None };
        let wanted = self.partial.map(|partial| partial.snapshot);
        let message = SnapshotMessage::Ask { at_least: self.at_least, wanted };
        self.effects.push_back(SeekerEffect::Send { to: None, message });
    }

    fn on_offer(&mut self, now: Instant, from: NodeId, snapshot: SnapshotId) {
        self.refusals.remove(&from);
        let State::Asking { again_at, second_best } = self.state else { return };
        let is_plausible = snapshot.position.0 <= limits::SLOT_MAX && snapshot.bytes <= limits::SNAPSHOT_BYTES_MAX;
        if snapshot.position < self.at_least || !is_plausible || self.unsound.contains(&snapshot) {
            return;
        }
        if self.partial.is_none_or(|partial| partial.snapshot == snapshot) {
            self.begin(now, from, snapshot);
        } else if second_best.is_none() {
            let again_at = again_at.min(now.plus(PREFER));
            self.state = State::Asking { again_at, second_best: Some((from, snapshot)) };
        }
    }

    /// Takes an offer.
    fn begin(&mut self, now: Instant, from: NodeId, snapshot: SnapshotId) {
        if self.partial.is_none_or(|partial| partial.snapshot != snapshot) {
            self.partial = Some(Partial { snapshot, bytes: 0, is_fresh: true });
            self.effects.push_back(SeekerEffect::Begin { snapshot });
        }
        let asked = self.partial.map_or(0, |partial| partial.bytes);
        self.fetch(now, Fetching { from, snapshot, asked, again_at: now, tries: 0, is_put_off: false });
    }

    /// Asks for what isn't asked for yet, a few chunks at once.
    fn fetch(&mut self, now: Instant, mut fetching: Fetching) {
        let snapshot = fetching.snapshot;
        let has = self.partial.map_or(0, |partial| partial.bytes);
        if has == snapshot.bytes {
            self.state = State::Finishing;
            self.effects.push_back(SeekerEffect::Finish { snapshot });
            return;
        }
        let chunk = u64::from(limits::SNAPSHOT_CHUNK_BYTES);
        let end = snapshot.bytes.min(has + chunk * limits::SNAPSHOT_FETCHES_MAX);
        while fetching.asked < end {
            let bytes = (end - fetching.asked).min(chunk) as u32;
            let message = SnapshotMessage::Fetch { snapshot, offset: fetching.asked, bytes };
            self.effects.push_back(SeekerEffect::Send { to: Some(fetching.from), message });
            fetching.asked += u64::from(bytes);
        }
        self.state = State::Fetching(Fetching { again_at: now.plus(ANSWER), ..fetching });
    }

    fn fetch_again(&mut self, now: Instant, fetching: Fetching) {
        if fetching.tries + 1 >= TRIES_MAX {
            return self.ask(now);
        }
        let asked = self.partial.map_or(0, |partial| partial.bytes);
        self.fetch(now, Fetching { asked, tries: fetching.tries + 1, is_put_off: false, ..fetching });
    }

    fn on_refuse(&mut self, now: Instant, from: NodeId, at_least: Slot, reason: NoSnapshot) {
        self.refusals.insert(from, reason);
        let State::Fetching(fetching) = self.state else { return };
        if fetching.from != from || fetching.snapshot.position != at_least {
            return;
        }
        match reason {
            // What was asked for behind it is refused as well: all of it is asked for again, at that time.
            NoSnapshot::Busy { retry_after } => {
                let again_at = now.plus(retry_after.min(ANSWER));
                self.state = State::Fetching(Fetching { again_at, tries: 0, is_put_off: true, ..fetching });
            }
            _ => self.ask(now),
        }
    }

    fn on_chunk(&mut self, now: Instant, from: NodeId, snapshot: SnapshotId, offset: u64, data: Vec<u8>) {
        let State::Fetching(fetching) = self.state else { return };
        let Some(partial) = &mut self.partial else { return };
        let bytes = data.len() as u64;
        let fits = partial.snapshot == snapshot && offset == partial.bytes && bytes > 0;
        // An answer to an earlier question, or one before which another is lost.
        if from != fetching.from || !fits || bytes > fetching.asked.saturating_sub(offset) {
            return;
        }
        partial.bytes += bytes;
        self.progress += bytes;
        self.effects.push_back(SeekerEffect::Write { snapshot, offset, data });
        if fetching.is_put_off && partial.bytes < snapshot.bytes {
            return;
        }
        self.fetch(now, Fetching { tries: 0, ..fetching });
    }
}
