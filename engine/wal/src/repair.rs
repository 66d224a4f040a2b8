//! Repair: from a damaged log and the logs of other replicas, a log that may be opened and may vote.
//!
//! A vote that is forgotten can undo a choice. So a plan says of which slots a vote may be lost ([`RepairPlan::loss`]),
//! and only without such a loss is a repaired log as good as the one that was damaged. What is lost is replaced:
//!
//! - by a chosen body of another log, for what is chosen needs no vote any more;
//! - by the very same body, known by its identity, accepted again at the ballot of the lost record;
//! - by the logs of **all other members**, sound and of nodes that don't run. Whatever was chosen with a lost vote of this
//!   node was accepted by another member too (an accept quorum has at least two), and whoever asked for a promise had
//!   promised it to itself before. So a node that takes up their accepts, each at its ballot, and their highest promise,
//!   knows all that its lost records could say. That they don't run matters: an accept on its way could still join the
//!   lost vote.
//!
//! Taking up an accept that another acceptor has is always safe: it was proposed at that ballot, and whoever asks for
//! promises goes by the highest ballot that any of a quorum reports. Raising a promise is always safe too.

use std::collections::{BTreeMap, BTreeSet};

use synod_protocol::{Ballot, BodyHandle, Configuration, FORMAT_FIRST, FORMAT_MAX, Mark, NodeId, Slot, SlotRange};
use thiserror::Error;

use crate::builder::{BuildError, BuiltLog, LogBuilder, LogDisk, LogStart};
use crate::format::StoredConfiguration;
use crate::identity::LogIdentity;
use crate::index::{Index, IndexEntry, Insert, Location};
use crate::salvage::Salvaged;
use crate::scan::{ReadError, read_body};
use crate::store::SegmentStore;

/// A log that a repair may read.
#[derive(Clone, Copy)]
pub struct RepairSource<'a> {
    /// Whose it is.
    pub node: NodeId,
    /// Its files.
    pub store: &'a dyn SegmentStore,
    /// What can be read of it.
    pub log: &'a Salvaged,
    /// Whether nothing writes to it: its node doesn't run and can't be started meanwhile.
    pub at_rest: bool,
}

impl RepairSource<'_> {
    fn is_sound(&self) -> bool {
        let log = self.log;
        log.findings.is_empty() && log.lost.is_empty() && log.lost_packs.is_empty() && !log.lost_unknown
    }
}

/// Why a log can't be repaired.
#[derive(Debug, Error)]
pub enum RepairError {
    /// Two bodies contradict each other.
    #[error(
        "the logs contradict each other at slot {0}: two bodies, and both are said to be chosen, or were accepted at one ballot; run `synod-tools audit`"
    )]
    Conflict(Slot),
    /// A log holds what this build can't read.
    #[error(
        "the log of node {node} needs a build that reads format {needed}, this one reads formats up to {FORMAT_MAX}: use a newer one"
    )]
    Newer {
        /// Whose log.
        node: NodeId,
        /// The format.
        needed: u16,
    },
    /// No record tells whose group and configuration this is.
    #[error("no record and no segment header can be read; name other replicas that can")]
    Nothing,
    /// A body that was found sound isn't any more.
    #[error("the body at slot {slot} of node {node} can't be read any more; start again")]
    Body {
        /// Its first slot.
        slot: Slot,
        /// Whose log has it.
        node: NodeId,
    },
    /// A file can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The repaired log can't be written.
    #[error(transparent)]
    Build(#[from] BuildError),
}

/// Where a body comes from.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Zero for the damaged log itself.
    source: usize,
    location: Location,
}

/// What a repaired log will say.
#[derive(Debug)]
pub struct RepairPlan {
    index: Index,
    places: BTreeMap<Slot, Place>,
    start: LogStart,
    /// The highest promise of all logs.
    pub promised: Ballot,
    /// The end of the chosen prefix.
    pub mark: Mark,
    /// Everything below is trimmed.
    pub base: Mark,
    /// Chosen bodies that come from other logs.
    pub fetched: u64,
    /// Lost accepts that came back by their identity.
    pub restored: u64,
    /// Accepts that were taken over from the other members, for it isn't known what was lost.
    pub adopted: u64,
    /// Whether the logs of all other members make up for what is lost.
    pub covered: bool,
    /// Slots at which a vote may be lost, ascending; the last may be open, and end at `u64::MAX`.
    pub loss: Vec<SlotRange>,
}

/// Plans the repair of `own`, whose configuration has these members. `others` are other members' logs.
///
/// # Errors
/// See [`RepairError`].
pub fn plan_repair(
    own: RepairSource<'_>,
    others: &[RepairSource<'_>],
    configuration: &Configuration,
    stored: StoredConfiguration,
    segment_bytes: u64,
) -> Result<RepairPlan, RepairError> {
    let sources: Vec<RepairSource<'_>> = std::iter::once(own).chain(others.iter().copied()).collect();
    if let Some(source) = sources.iter().find(|source| source.log.format > FORMAT_MAX) {
        return Err(RepairError::Newer { node: source.node, needed: source.log.format });
    }
    if let Some(body) = sources.iter().find_map(|source| source.log.conflict) {
        return Err(RepairError::Conflict(body.first));
    }
    let group = sources.iter().find_map(|source| source.log.group).ok_or(RepairError::Nothing)?;
    let (base, chosen) = chosen(&sources)?;
    let mut plan = RepairPlan {
        index: Index::new(base),
        places: BTreeMap::new(),
        start: LogStart {
            segment_bytes,
            group,
            format: sources.iter().map(|source| source.log.format).max().unwrap_or(FORMAT_FIRST),
            base,
            configuration: Some(stored),
            log_time_us: sources.iter().map(|source| source.log.log_time_us).max().unwrap_or(0),
            epoch: own.log.epoch_next,
        },
        promised: sources.iter().map(|source| source.log.promised).max().unwrap_or_default(),
        mark: base,
        base,
        fetched: 0,
        restored: 0,
        adopted: 0,
        covered: false,
        loss: Vec::new(),
    };
    for (source, entry) in chosen {
        plan.insert(&entry.body, None, Place { source, location: entry.location })?;
        let had = own.log.index.get(entry.body.first).is_some_and(|own| own.body == entry.body);
        plan.fetched += u64::from(source > 0 && !had);
        if entry.body.first == plan.mark.slot {
            plan.mark = plan.mark.after(&entry.body);
            plan.index.mark_chosen(entry.body.first, plan.mark.chain);
        }
    }
    let mut votes: Vec<(Ballot, BodyHandle, Place)> = Vec::new();
    for entry in own.log.index.iter_from(Slot(0)).filter(|entry| !is_chosen(entry)) {
        votes.push((entry.ballot, entry.body, Place { source: 0, location: entry.location }));
    }
    let mut loss = plan.restore(&sources, &mut votes)?;
    if own.log.lost_unknown || own.log.lost_promise {
        loss.push(plan.mark.slot..Slot(u64::MAX));
    }
    plan.loss = plan.without_chosen(loss);
    let others_at_rest: BTreeSet<NodeId> =
        others.iter().filter(|source| source.at_rest && source.is_sound()).map(|source| source.node).collect();
    let all = configuration.members.iter().all(|member| *member == own.node || others_at_rest.contains(member));
    if !plan.loss.is_empty() && all && configuration.accept_quorum >= 2 {
        plan.covered = true;
        plan.loss.clear();
        for (source, other) in sources.iter().enumerate().skip(1) {
            for entry in other.log.index.iter_from(Slot(0)).filter(|entry| !is_chosen(entry)) {
                votes.push((entry.ballot, entry.body, Place { source, location: entry.location }));
            }
        }
    }
    // In the order of ballots, as a log would have them: what a higher one superseded stays so.
    votes.sort_by_key(|(ballot, body, place)| (*ballot, body.first, place.source));
    for (ballot, body, place) in votes {
        let known = plan.index.get(body.first).is_some_and(|known| known.body == body && known.ballot >= ballot);
        let kept = !known && plan.insert(&body, Some(ballot), place)?;
        plan.adopted += u64::from(kept && place.source > 0 && plan.covered);
    }
    Ok(plan)
}

/// Bodies, each with the number of the log that it comes from.
type Bodies<'a> = Vec<(usize, &'a IndexEntry)>;

/// The chosen bodies of all logs in slot order, each with the log that it comes from, and the base that they begin with:
/// that of the damaged log, or a higher one, if what lies between is trimmed everywhere.
fn chosen<'a>(sources: &[RepairSource<'a>]) -> Result<(Mark, Bodies<'a>), RepairError> {
    let mut bodies: BTreeMap<Slot, (usize, &IndexEntry)> = BTreeMap::new();
    for (number, source) in sources.iter().enumerate() {
        for entry in source.log.index.iter_from(Slot(0)).filter(|entry| is_chosen(entry)) {
            let before = bodies.range(..entry.body.end()).next_back();
            match before.filter(|(_, (_, other))| other.body.end() > entry.body.first) {
                Some((_, (_, other))) if other.body != entry.body => {
                    return Err(RepairError::Conflict(entry.body.first));
                }
                Some(_) => {}
                None => _ = bodies.insert(entry.body.first, (number, entry)),
            }
        }
    }
    let mut base = sources[0].log.index.base();
    loop {
        let mut mark = base;
        while let Some((_, entry)) = bodies.get(&mark.slot) {
            mark = mark.after(&entry.body);
        }
        // Trims are agreed upon: where another replica begins, the missing ones needn't be had any more.
        let bases = sources.iter().map(|source| source.log.index.base());
        match bases.filter(|other| other.slot > mark.slot).min_by_key(|other| other.slot) {
            Some(higher) => base = higher,
            None => break,
        }
    }
    Ok((base, bodies.into_values().filter(|(_, entry)| entry.body.first >= base.slot).collect()))
}

/// Proven by marks, or recorded as chosen.
fn is_chosen(entry: &IndexEntry) -> bool {
    entry.recorded_chosen || entry.chosen.is_some()
}

impl RepairPlan {
    /// Takes up a body: chosen, or accepted at a ballot. Whether it counts.
    fn insert(&mut self, body: &BodyHandle, ballot: Option<Ballot>, place: Place) -> Result<bool, RepairError> {
        let inserted = match ballot {
            None => self.index.insert_chosen(*body, place.location),
            Some(ballot) => self.index.insert_accepted(*body, ballot, place.location),
        };
        match inserted {
            Insert::Kept => _ = self.places.insert(body.first, place),
            Insert::Dead => return Ok(false),
            Insert::Conflict(other) => return Err(RepairError::Conflict(other.first)),
        }
        Ok(true)
    }

    /// Looks for the bodies that are known to be lost in the other logs; the slots of those that aren't there.
    fn restore(
        &mut self,
        sources: &[RepairSource<'_>],
        votes: &mut Vec<(Ballot, BodyHandle, Place)>,
    ) -> Result<Vec<SlotRange>, RepairError> {
        let mut loss = Vec::new();
        for lost in &sources[0].log.lost {
            let have = |source: &RepairSource<'_>| {
                let entry = source.log.index.get(lost.body.first);
                entry.filter(|entry| entry.body == lost.body).map(|entry| entry.location)
            };
            let found = sources.iter().enumerate().find_map(|(number, source)| Some((number, have(source)?)));
            match found {
                Some((source, location)) => {
                    let known = self.index.get(lost.body.first).is_some_and(|known| known.body == lost.body);
                    self.restored += u64::from(source > 0 && !known);
                    let place = Place { source, location };
                    match lost.chosen {
                        true => _ = self.insert(&lost.body, None, place)?,
                        false => votes.push((lost.ballot, lost.body, place)),
                    }
                }
                None => loss.push(lost.body.slots()),
            }
        }
        loss.extend(sources[0].log.lost_packs.iter().cloned());
        Ok(loss)
    }

    /// What of these slots isn't filled with chosen bodies, nor trimmed: ascending, without overlap.
    fn without_chosen(&self, mut slots: Vec<SlotRange>) -> Vec<SlotRange> {
        slots.sort_by_key(|range| range.start);
        let mut rest: Vec<SlotRange> = Vec::new();
        for range in slots {
            let mut at = range.start.max(self.base.slot).max(rest.last().map_or(Slot(0), |last| last.end));
            let chosen = self.index.iter_from(at).filter(|entry| is_chosen(entry));
            for entry in chosen.take_while(|entry| entry.body.first < range.end) {
                if entry.body.first > at {
                    push(&mut rest, at..entry.body.first);
                }
                at = at.max(entry.body.end());
            }
            if at < range.end {
                push(&mut rest, at..range.end);
            }
        }
        rest
    }

    /// Writes the repaired log to an empty disk.
    ///
    /// # Errors
    /// See [`RepairError`].
    pub fn write(
        &self,
        own: RepairSource<'_>,
        others: &[RepairSource<'_>],
        identity: LogIdentity,
        disk: &mut dyn LogDisk,
    ) -> Result<BuiltLog, RepairError> {
        let sources: Vec<RepairSource<'_>> = std::iter::once(own).chain(others.iter().copied()).collect();
        let mut builder = LogBuilder::new(identity, self.start.clone(), disk)?;
        let (chosen, mut accepted): (Vec<&IndexEntry>, Vec<&IndexEntry>) =
            self.index.iter_from(Slot(0)).partition(|entry| is_chosen(entry));
        accepted.sort_by_key(|entry| entry.ballot);
        let read = |entry: &IndexEntry| {
            let place = self.places[&entry.body.first];
            let source = &sources[place.source];
            let gone = RepairError::Body { slot: entry.body.first, node: source.node };
            read_body(source.store, &place.location, &entry.body)?.map_err(|_| gone)
        };
        for entry in accepted {
            builder.accepted(&entry.body, entry.ballot, read(entry)?)?;
        }
        builder.promise(self.promised)?;
        for entry in chosen {
            builder.chosen(&entry.body, read(entry)?)?;
        }
        Ok(builder.finish()?)
    }

    /// The bodies that the repaired log will hold.
    pub fn index(&self) -> &Index {
        &self.index
    }
}

fn push(ranges: &mut Vec<SlotRange>, range: SlotRange) {
    match ranges.last_mut().filter(|last| last.end == range.start) {
        Some(last) => last.end = range.end,
        None => ranges.push(range),
    }
}
