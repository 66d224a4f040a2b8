//! A cluster that has lost its quorum for good, begun again from what is left of it: a new *lineage*.
//!
//! No rule of the protocol leads there: what the lost members voted for is unknown, so what is kept may contradict what
//! they have acknowledged. It is an operator's act, and it says what it does. Of the surviving logs this keeps:
//!
//! - everything that is chosen for sure, the same in all of them;
//! - behind that, without a gap, what a leader would propose again that hears of the survivors only: at each slot the body
//!   that was accepted at the highest ballot, unless it is dead. Each of them may have been chosen, or not.
//!
//! What lies behind a gap is dropped: what stood in the gap may have been acknowledged, and what comes behind counts on it.
//! The log ends with a configuration of one member under the next lineage. It succeeds nothing: all configurations before it
//! are void, and whoever goes by them is refused.

use std::collections::BTreeMap;

use synod_frame::{
    ConfigurationBody, ConfigurationBodyError, EncodeError, GroupId, Member, Origin, RECORD_HEADER_BYTES, RecordBuffer,
    encode_configuration,
};
use synod_protocol::{Ballot, BodyHandle, FORMAT_FIRST, FORMAT_MAX, Mark, NodeId, Slot, SlotRange};
use thiserror::Error;

use crate::builder::{BuildError, BuiltLog, LogBuilder, LogDisk, LogStart};
use crate::directory::NodeIdentity;
use crate::format::{CONFIGURATION_BYTES_MAX, StoredConfiguration};
use crate::index::{IndexEntry, Location};
use crate::recovery::decode_configuration;
use crate::salvage::Salvaged;
use crate::scan::{ReadError, read_body};
use crate::store::SegmentStore;

/// What is left of a member: its log, as far as it can be read, under its identity.
#[derive(Clone, Copy)]
pub struct Survivor<'a> {
    /// Who it is.
    pub identity: &'a NodeIdentity,
    /// Its files.
    pub store: &'a dyn SegmentStore,
    /// What they say.
    pub log: &'a Salvaged,
}

/// Why there is no new lineage. Nothing was written, or nothing of use.
#[derive(Debug, Error)]
pub enum LineageError {
    /// There is nothing to begin with.
    #[error("no directory is given of a member that belongs to a cluster")]
    Nobody,
    /// They aren't of one cluster.
    #[error("node {} belongs to another cluster or lineage than node {}", .other.0, .node.0)]
    Cluster {
        /// One of them.
        node: NodeId,
        /// The other one.
        other: NodeId,
    },
    /// One is named twice.
    #[error("node {} is given twice; name each surviving member once", .0.0)]
    Twice(NodeId),
    /// Several logs can't be begun again together.
    #[error("node {} has {logs} groups, and only nodes of one group can be recovered", .node.0)]
    Groups {
        /// The node.
        node: NodeId,
        /// How many it has.
        logs: u32,
    },
    /// A newer build wrote it.
    #[error("the log of node {} needs a build that reads format {needed}, this one reads formats up to {FORMAT_MAX}: use a newer one", .node.0)]
    Newer {
        /// The node.
        node: NodeId,
        /// The format.
        needed: u16,
    },
    /// It isn't a member, or not with this store.
    #[error("node {}, with the store that is given, is no member by the newest configuration, of slot {chosen_at}: it had no vote", .node.0)]
    NoMember {
        /// The node.
        node: NodeId,
        /// Where the configuration was chosen.
        chosen_at: Slot,
    },
    /// No configuration can be read.
    #[error("no configuration can be read in what is given")]
    NoConfiguration,
    /// A configuration says what can't be.
    #[error("the configuration of slot {slot} can't be read: {error}")]
    Configuration {
        /// Its slot.
        slot: Slot,
        /// What is wrong with it.
        error: ConfigurationBodyError,
    },
    /// It isn't needed.
    #[error(
        "{given} of {members} members are given, and {needed} are enough to go on: start them, nothing is lost then"
    )]
    Quorum {
        /// How many members are given.
        given: usize,
        /// How many there are.
        members: usize,
        /// How many go on by themselves.
        needed: usize,
    },
    /// They contradict each other.
    #[error("slot {slot} is chosen differently in the logs of node {} and node {}: they aren't logs of one cluster", .node.0, .other.0)]
    Contradiction {
        /// The slot.
        slot: Slot,
        /// One of them.
        node: NodeId,
        /// The other one.
        other: NodeId,
    },
    /// Something chosen can't be read anywhere.
    #[error("slots {}..{} are chosen, and no log that is given has them intact; name the directory of another member that has, or an older copy of one", .slots.start, .slots.end)]
    Hole {
        /// What is missing.
        slots: SlotRange,
    },
    /// A body can't be read any more.
    #[error("the body at slot {slot} can't be read in the log of node {}", .node.0)]
    Body {
        /// Its slot.
        slot: Slot,
        /// Whose log.
        node: NodeId,
    },
    /// The new configuration can't be written down.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The disk can't read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The new log can't be written.
    #[error(transparent)]
    Build(#[from] BuildError),
}

#[derive(Clone, Copy, Debug)]
struct Place {
    survivor: usize,
    location: Location,
}

/// What a new lineage would begin with; see the module documentation.
#[derive(Debug)]
pub struct LineagePlan {
    /// Everything below is trimmed.
    pub base: Mark,
    /// The end of what is chosen for sure.
    pub certain: Mark,
    /// The end of what is kept: what lies between may have been chosen, or not.
    pub end: Mark,
    /// What was accepted by a survivor, and isn't kept, for something before it is missing. Ascending.
    pub dropped: Vec<SlotRange>,
    /// The newest configuration that is chosen for sure, and where.
    pub configuration: (Slot, ConfigurationBody),
    /// How many of its members must be up.
    pub needed: usize,
    /// The new lineage.
    pub lineage: u64,
    group: GroupId,
    format: u16,
    segment_bytes: u64,
    log_time_us: u64,
    bodies: Vec<(BodyHandle, Place)>,
}

/// Looks at what is left of a cluster, and plans a new lineage of it.
///
/// # Errors
/// See [`LineageError`].
pub fn plan_lineage(survivors: &[Survivor<'_>]) -> Result<LineagePlan, LineageError> {
    let first = survivors.first().ok_or(LineageError::Nobody)?;
    check_cluster(first, survivors)?;
    let lowest = survivors.iter().map(|survivor| survivor.log.index.base()).min_by_key(|base| base.slot);
    let mut walk = Walk { survivors, bodies: Vec::new(), base: lowest.unwrap_or(Mark::START), mark: Mark::START };
    walk.mark = walk.base;
    walk.take_chosen()?;
    let certain = walk.mark;
    let configuration = walk.newest_configuration()?;
    let needed = check_lost(&configuration, survivors)?;
    walk.take_accepted();
    let group = survivors.iter().find_map(|survivor| survivor.log.group).ok_or(LineageError::NoConfiguration)?;
    let formats = survivors.iter().map(|survivor| survivor.log.format);
    let times = survivors.iter().map(|survivor| survivor.log.log_time_us);
    let sizes = survivors.iter().map(|survivor| survivor.identity.segment_bytes);
    Ok(LineagePlan {
        base: walk.base,
        certain,
        end: walk.mark,
        dropped: walk.dropped(),
        configuration,
        needed,
        lineage: first.identity.lineage + 1,
        group,
        format: formats.max().unwrap_or(FORMAT_FIRST),
        // Bodies of the one with the longest segments fit in no shorter ones.
        segment_bytes: sizes.max().unwrap_or(first.identity.segment_bytes),
        log_time_us: times.max().unwrap_or(0),
        bodies: walk.bodies,
    })
}

fn check_cluster(first: &Survivor<'_>, survivors: &[Survivor<'_>]) -> Result<(), LineageError> {
    let cluster = |survivor: &Survivor<'_>| (survivor.identity.cluster, survivor.identity.lineage);
    if first.identity.cluster.is_none() {
        return Err(LineageError::Nobody);
    }
    for (place, survivor) in survivors.iter().enumerate() {
        let node = survivor.identity.node;
        if cluster(survivor) != cluster(first) {
            return Err(LineageError::Cluster { node: first.identity.node, other: node });
        }
        if survivors[..place].iter().any(|other| other.identity.node == node) {
            return Err(LineageError::Twice(node));
        }
        if survivor.identity.logs > 1 {
            return Err(LineageError::Groups { node, logs: survivor.identity.logs });
        }
        if survivor.log.format > FORMAT_MAX {
            return Err(LineageError::Newer { node, needed: survivor.log.format });
        }
    }
    Ok(())
}

/// Whoever is given must be a member, and they must be too few; how many would be enough.
fn check_lost(
    (chosen_at, newest): &(Slot, ConfigurationBody),
    survivors: &[Survivor<'_>],
) -> Result<usize, LineageError> {
    for survivor in survivors {
        let NodeIdentity { node, incarnation, .. } = *survivor.identity;
        if !newest.members.contains(&Member { node, incarnation }) {
            return Err(LineageError::NoMember { node, chosen_at: *chosen_at });
        }
    }
    let needed = newest.prepare_quorum.max(newest.accept_quorum) as usize;
    if survivors.len() >= needed {
        return Err(LineageError::Quorum { given: survivors.len(), members: newest.members.len(), needed });
    }
    Ok(needed)
}

struct Walk<'a> {
    survivors: &'a [Survivor<'a>],
    base: Mark,
    mark: Mark,
    bodies: Vec<(BodyHandle, Place)>,
}

fn is_chosen(entry: &IndexEntry) -> bool {
    entry.recorded_chosen || entry.chosen.is_some()
}

impl Walk<'_> {
    fn take(&mut self, body: BodyHandle, survivor: usize, location: Location) {
        self.bodies.push((body, Place { survivor, location }));
        self.mark = self.mark.after(&body);
    }

    /// Goes along what is chosen, whoever has it, to its end.
    fn take_chosen(&mut self) -> Result<(), LineageError> {
        loop {
            let at = self.mark.slot;
            let node = |place: usize| self.survivors[place].identity.node;
            let mut found: Option<(usize, IndexEntry)> = None;
            for (place, survivor) in self.survivors.iter().enumerate() {
                let Some(entry) = survivor.log.index.get(at).filter(|entry| is_chosen(entry)) else { continue };
                match &found {
                    Some((other, known)) if known.body != entry.body => {
                        return Err(LineageError::Contradiction { slot: at, node: node(*other), other: node(place) });
                    }
                    Some(_) => {}
                    None => found = Some((place, *entry)),
                }
            }
            if let Some((place, entry)) = found {
                let chain = self.mark.after(&entry.body).chain;
                if entry.chosen.is_some_and(|known| known != chain) {
                    return Err(LineageError::Contradiction { slot: at, node: node(place), other: node(0) });
                }
                self.take(entry.body, place, entry.location);
                continue;
            }
            // Somebody's log begins behind: what is older was trimmed by all members.
            let bases = self.survivors.iter().map(|survivor| survivor.log.index.base()).filter(|base| base.slot > at);
            if let Some(base) = bases.min_by_key(|base| base.slot) {
                (self.base, self.mark) = (base, base);
                self.bodies.clear();
                continue;
            }
            let behind = self.survivors.iter().flat_map(|survivor| survivor.log.index.iter_from(at));
            return match behind.filter(|entry| is_chosen(entry)).map(|entry| entry.body.first).min() {
                Some(next) => Err(LineageError::Hole { slots: at..next }),
                None => Ok(()),
            };
        }
    }

    /// Goes on along what was accepted, as a leader would propose it again.
    fn take_accepted(&mut self) {
        while let Some((place, entry)) = self.candidate(self.mark.slot) {
            self.take(entry.body, place, entry.location);
        }
    }

    /// What was accepted at `slot` at the highest ballot, if that begins there and may have been chosen.
    fn candidate(&self, slot: Slot) -> Option<(usize, IndexEntry)> {
        let shown = |slot| {
            let covers = |survivor: &Survivor<'_>| survivor.log.index.containing(slot).copied();
            let all = self.survivors.iter().enumerate().filter_map(move |(place, it)| Some((place, covers(it)?)));
            all.max_by_key(|(_, entry)| entry.ballot)
        };
        let (place, entry) = shown(slot).filter(|(_, entry)| entry.body.first == slot)?;
        // A body of which any slot shows another one at a higher ballot was chosen nowhere.
        let lives = (entry.body.first.0..entry.body.end().0)
            .all(|slot| shown(Slot(slot)).is_none_or(|(_, other)| other.ballot <= entry.ballot));
        lives.then_some((place, entry))
    }

    fn dropped(&self) -> Vec<SlotRange> {
        let logs = self.survivors.iter().flat_map(|survivor| survivor.log.index.iter_from(self.mark.slot));
        let mut ranges: Vec<SlotRange> = logs.map(|entry| entry.body.slots()).collect();
        ranges.sort_by_key(|range| (range.start, range.end));
        ranges.dedup_by(|next, before| {
            let joins = next.start <= before.end;
            if joins {
                before.end = before.end.max(next.end);
            }
            joins
        });
        ranges
    }

    /// The last configuration that is chosen for sure and isn't void.
    fn newest_configuration(&self) -> Result<(Slot, ConfigurationBody), LineageError> {
        let decode = |stored: &StoredConfiguration| {
            let wrong = |error| LineageError::Configuration { slot: stored.slot, error };
            decode_configuration(stored).map(|(_, body, _)| body).map_err(wrong)
        };
        let mut known: BTreeMap<Slot, ConfigurationBody> = BTreeMap::new();
        for stored in self.survivors.iter().filter_map(|survivor| survivor.log.configuration.as_ref()) {
            known.insert(stored.slot, decode(stored)?);
        }
        let (mut newest, mut content) = known.pop_last().ok_or(LineageError::NoConfiguration)?;
        for (body, place) in self.bodies.iter().filter(|(body, _)| body.kind.is_configuration()) {
            if body.first <= newest {
                continue;
            }
            let record = self.read(body, *place)?;
            let bytes = record.as_ref()[RECORD_HEADER_BYTES..][..body.bytes as usize].to_vec();
            let later = decode(&StoredConfiguration { slot: body.first, body: bytes })?;
            if later.after == newest {
                (newest, content) = (body.first, later);
            }
        }
        Ok((newest, content))
    }

    fn read(&self, body: &BodyHandle, place: Place) -> Result<RecordBuffer, LineageError> {
        read(self.survivors, body, place)
    }
}

fn read(survivors: &[Survivor<'_>], body: &BodyHandle, place: Place) -> Result<RecordBuffer, LineageError> {
    let survivor = &survivors[place.survivor];
    let gone = LineageError::Body { slot: body.first, node: survivor.identity.node };
    read_body(survivor.store, &place.location, body)?.map_err(|_| gone)
}

impl LineagePlan {
    /// Who begins the new lineage: `node`, with a store of its own.
    pub fn identity(&self, node: NodeId, incarnation: [u8; 16]) -> NodeIdentity {
        NodeIdentity {
            node,
            incarnation,
            cluster: Some(self.configuration.1.cluster),
            lineage: self.lineage,
            boot_counter: 0,
            logs: 1,
            segment_bytes: self.segment_bytes,
        }
    }

    /// How many bodies are kept.
    pub fn bodies(&self) -> usize {
        self.bodies.len()
    }

    /// Writes the log of the new lineage's only member to an empty disk.
    ///
    /// # Errors
    /// See [`LineageError`].
    ///
    /// # Panics
    /// If the identity belongs to no cluster: it isn't one of [`LineagePlan::identity`].
    pub fn write(
        &self,
        survivors: &[Survivor<'_>],
        identity: &NodeIdentity,
        disk: &mut dyn LogDisk,
    ) -> Result<BuiltLog, LineageError> {
        let (body, record) = self.first_configuration(identity)?;
        let bytes = record.as_ref()[RECORD_HEADER_BYTES..][..body.bytes as usize].to_vec();
        let start = LogStart {
            segment_bytes: identity.segment_bytes,
            group: self.group,
            format: self.format,
            base: self.base,
            configuration: Some(StoredConfiguration { slot: body.first, body: bytes }),
            log_time_us: self.log_time_us,
            epoch: 1,
        };
        let log = identity.log_identity(0).expect("a lineage belongs to a cluster");
        let mut builder = LogBuilder::new(log, start, disk)?;
        for (body, place) in &self.bodies {
            builder.chosen(body, read(survivors, body, *place)?)?;
        }
        builder.chosen(&body, record)?;
        Ok(builder.finish()?)
    }

    /// The configuration of the new lineage, which ends the log.
    fn first_configuration(&self, identity: &NodeIdentity) -> Result<(BodyHandle, RecordBuffer), LineageError> {
        let (after, before) = &self.configuration;
        let configuration = ConfigurationBody {
            after: *after,
            cluster: before.cluster,
            lineage: self.lineage,
            members: vec![Member { node: identity.node, incarnation: identity.incarnation }],
            prepare_quorum: 1,
            accept_quorum: 1,
            alpha: before.alpha,
            format: before.format,
            ..ConfigurationBody::default()
        };
        let mut record = RecordBuffer::zeroed(CONFIGURATION_BYTES_MAX + RECORD_HEADER_BYTES);
        let origin =
            Origin { group: self.group, first: self.end.slot, ballot: Ballot::ZERO, leader_time_us: self.log_time_us };
        let body = encode_configuration(record.as_mut(), &origin, &configuration)?;
        Ok((body, record))
    }
}
