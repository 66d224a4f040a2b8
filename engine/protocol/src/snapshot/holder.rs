//! The side that gives snapshots away: which one, to how many at once, and how fast.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::{NoSnapshot, SnapshotId, SnapshotMessage};
use crate::ballot::NodeId;
use crate::limits;
use crate::slot::Slot;
use crate::time::Instant;

/// Snapshots that are kept: the newest, and the one before, which somebody may be fetching.
const KEPT: usize = 2;

/// A seeker that has asked for nothing for so long isn't fetching any more.
const SILENCE: Duration = Duration::from_secs(10);

/// How long to wait after a snapshot couldn't be written before the next attempt.
const RETRY: Duration = Duration::from_secs(5);

/// What a [`Holder`] may give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HolderSettings {
    /// Seekers that may fetch at once; others are told to come again. At least 1.
    pub transfers_max: usize,
    /// Bytes given away in a second, to all of them together. At least one chunk.
    pub bytes_per_second: u64,
}

/// What the driver has to do for a [`Holder`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HolderEffect {
    /// Send a message.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: SnapshotMessage,
    },
    /// Have the state machine write a snapshot, make it durable, then call [`Holder::made`].
    Make,
    /// Read some bytes of a snapshot and send them as [`SnapshotMessage::Chunk`]; if they can't be read, call
    /// [`Holder::lost`].
    Read {
        /// For whom.
        to: NodeId,
        /// Of which.
        snapshot: SnapshotId,
        /// The first one.
        offset: u64,
        /// How many.
        bytes: u32,
    },
    /// This snapshot isn't needed any more.
    Remove {
        /// Which.
        snapshot: SnapshotId,
    },
}

/// Answers those who seek.
#[derive(Clone, Debug)]
pub struct Holder {
    settings: HolderSettings,
    /// By position, the oldest first.
    stored: Vec<SnapshotId>,
    making: bool,
    /// The last attempt has failed; the next one may be made then.
    failed_until: Option<Instant>,
    /// Who fetches which, and when that was last heard of.
    transfers: BTreeMap<NodeId, (SnapshotId, Instant)>,
    /// Who was told to come again: for what is at this offset, and when.
    put_off: BTreeMap<NodeId, (u64, Instant)>,
    /// Bytes that may be given away at once.
    credit: u64,
    credit_at: Instant,
    effects: VecDeque<HolderEffect>,
}

impl Holder {
    /// Gives away what is stored already; all of it sound.
    pub fn new(now: Instant, settings: HolderSettings, stored: impl IntoIterator<Item = SnapshotId>) -> Holder {
        let mut stored: Vec<SnapshotId> = stored.into_iter().collect();
        stored.sort_unstable();
        stored.dedup();
        let mut holder = Holder {
            settings,
            stored,
            making: false,
            failed_until: None,
            transfers: BTreeMap::new(),
            put_off: BTreeMap::new(),
            credit: settings.bytes_per_second,
            credit_at: now,
            effects: VecDeque::new(),
        };
        holder.remove_old(now);
        holder
    }

    /// What is stored, by position.
    pub fn stored(&self) -> &[SnapshotId] {
        &self.stored
    }

    /// How many seekers fetch.
    pub fn transfers(&self) -> usize {
        self.transfers.len()
    }

    /// What to do next.
    pub fn poll_effect(&mut self) -> Option<HolderEffect> {
        self.effects.pop_front()
    }

    /// A seeker has said something; `position` is how far the own state machine has come.
    pub fn handle_message(&mut self, now: Instant, from: NodeId, message: &SnapshotMessage, position: Slot) {
        self.transfers.retain(|_, (_, heard)| now.since(*heard) < SILENCE);
        self.put_off.retain(|_, (_, until)| now < *until);
        match *message {
            SnapshotMessage::Ask { at_least, wanted } => self.on_ask(now, from, at_least, wanted, position),
            SnapshotMessage::Fetch { snapshot, offset, bytes } => self.on_fetch(now, from, snapshot, offset, bytes),
            _ => {}
        }
    }

    /// A snapshot was written and is durable, or couldn't be. One that was fetched and is durable counts as well.
    pub fn made(&mut self, now: Instant, snapshot: Option<SnapshotId>) {
        self.making = false;
        match snapshot {
            Some(snapshot) => self.keep(now, snapshot),
            None => self.failed_until = Some(now.plus(RETRY)),
        }
    }

    /// A snapshot is there that wasn't made here, or wasn't asked for.
    pub fn keep(&mut self, now: Instant, snapshot: SnapshotId) {
        if let Err(place) = self.stored.binary_search(&snapshot) {
            self.stored.insert(place, snapshot);
        }
        self.remove_old(now);
    }

    /// A stored snapshot can't be read.
    pub fn lost(&mut self, snapshot: SnapshotId) {
        self.stored.retain(|stored| *stored != snapshot);
        self.transfers.retain(|_, (fetched, _)| *fetched != snapshot);
        self.effects.push_back(HolderEffect::Remove { snapshot });
    }

    fn on_ask(&mut self, now: Instant, from: NodeId, at_least: Slot, wanted: Option<SnapshotId>, position: Slot) {
        let fits = |snapshot: &&SnapshotId| snapshot.position >= at_least;
        let wanted = wanted.filter(|wanted| self.stored.contains(wanted) && fits(&wanted));
        let Some(snapshot) = wanted.or_else(|| self.stored.last().filter(fits).copied()) else {
            let reason = self.make(now, at_least, position);
            return self.refuse(from, at_least, reason);
        };
        if !self.transfers.contains_key(&from) && self.transfers.len() >= self.settings.transfers_max {
            return self.refuse(from, at_least, NoSnapshot::Busy { retry_after: SILENCE / 10 });
        }
        self.transfers.insert(from, (snapshot, now));
        self.effects.push_back(HolderEffect::Send { to: from, message: SnapshotMessage::Offer { snapshot } });
    }

    /// Has one made, if that can be.
    fn make(&mut self, now: Instant, at_least: Slot, position: Slot) -> NoSnapshot {
        if position < at_least {
            return NoSnapshot::Behind { position };
        }
        if self.failed_until.is_some_and(|until| now < until) {
            return NoSnapshot::Failed;
        }
        if !self.making {
            self.making = true;
            self.effects.push_back(HolderEffect::Make);
        }
        NoSnapshot::Making
    }

    fn on_fetch(&mut self, now: Instant, from: NodeId, snapshot: SnapshotId, offset: u64, bytes: u32) {
        let position = snapshot.position;
        if !self.stored.contains(&snapshot) {
            return self.refuse(from, position, NoSnapshot::Gone);
        }
        let is_sound = bytes > 0
            && bytes <= limits::SNAPSHOT_CHUNK_BYTES
            && offset.checked_add(bytes.into()).is_some_and(|end| end <= snapshot.bytes);
        if !is_sound {
            return;
        }
        if !self.transfers.contains_key(&from) && self.transfers.len() >= self.settings.transfers_max {
            return self.refuse(from, position, NoSnapshot::Busy { retry_after: SILENCE / 10 });
        }
        self.transfers.insert(from, (snapshot, now));
        // Whoever was put off has no use for what lies behind that, and a short last chunk would take what is being saved for it.
        if let Some((_, until)) = self.put_off.get(&from).filter(|(first, _)| offset > *first) {
            let retry_after = until.since(now);
            return self.refuse(from, position, NoSnapshot::Busy { retry_after });
        }
        if let Err(retry_after) = self.spend(now, bytes.into()) {
            self.put_off.insert(from, (offset, now.plus(retry_after)));
            return self.refuse(from, position, NoSnapshot::Busy { retry_after });
        }
        self.put_off.remove(&from);
        self.effects.push_back(HolderEffect::Read { to: from, snapshot, offset, bytes });
    }

    /// Takes bytes from the credit, or says when there will be enough.
    fn spend(&mut self, now: Instant, bytes: u64) -> Result<(), Duration> {
        let rate = self.settings.bytes_per_second.max(u64::from(limits::SNAPSHOT_CHUNK_BYTES));
        let elapsed_us = u64::try_from(now.since(self.credit_at).as_micros()).unwrap_or(u64::MAX);
        let earned = u128::from(rate) * u128::from(elapsed_us) / 1_000_000;
        // What is earned by less than a byte's time isn't forgotten: the clock goes on only with whole bytes.
        if earned > 0 {
            self.credit = (u128::from(self.credit) + earned).min(u128::from(rate)) as u64;
            self.credit_at = now;
        }
        if self.credit < bytes {
            let lacking = u128::from(bytes - self.credit) * 1_000_000 / u128::from(rate);
            return Err(Duration::from_micros(lacking as u64 + 1));
        }
        self.credit -= bytes;
        Ok(())
    }

    fn refuse(&mut self, to: NodeId, at_least: Slot, reason: NoSnapshot) {
        let message = SnapshotMessage::Refuse { at_least, reason };
        self.effects.push_back(HolderEffect::Send { to, message });
    }

    /// Keeps the newest few, and whatever is being fetched.
    fn remove_old(&mut self, now: Instant) {
        self.transfers.retain(|_, (_, heard)| now.since(*heard) < SILENCE);
        let old = self.stored.len().saturating_sub(KEPT);
        let is_fetched = |snapshot: &SnapshotId| self.transfers.values().any(|(fetched, _)| fetched == snapshot);
        let removed: Vec<SnapshotId> =
            self.stored[..old].iter().filter(|snapshot| !is_fetched(snapshot)).copied().collect();
        self.stored.retain(|snapshot| !removed.contains(snapshot));
        self.effects.extend(removed.into_iter().map(|snapshot| HolderEffect::Remove { snapshot }));
    }
}
