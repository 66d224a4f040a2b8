//! What one log gives in evidence, read record by record.

use std::collections::{BTreeMap, BTreeSet};

use synod_frame::{BodyHeader, ConfigurationBody, GroupId, Member, RECORD_HEADER_BYTES, RecordBuffer};
use synod_protocol::{Ballot, BodyHandle, Chain, Configuration, Mark, NodeId, Slot};

use super::report::{LogCoverage, Place, Rule, VIOLATIONS_KEPT, Violation, Witness};
use crate::format::{RecordKind, RecordMeta, SegmentHeader, StoredConfiguration};
use crate::identity::ExpectedIdentity;
use crate::index::Location;
use crate::lsn::{FileId, Lsn};
use crate::recovery::{RecoverError, RecoverOptions, RecoveredLog, RecoveredSegment, recover_with};
use crate::scan::{
    Depth, Hole, HoleCause, Item, ReadError, ScanOptions, ScannedRecord, Scanner, read_body, read_segment_header,
};
use crate::segment::{Geometry, record_bytes};
use crate::store::SegmentStore;

/// One replica's log, read for an audit.
pub struct AuditLog<'store> {
    name: String,
    store: &'store dyn SegmentStore,
    expected: ExpectedIdentity,
    group: Option<GroupId>,
    pub(super) base: Mark,
    pub(super) mark: Mark,
    /// In record order.
    pub(super) accepts: Vec<Accept>,
    /// By slot. Those below `mark` have a chain.
    pub(super) chosen: Vec<ChosenBody>,
    /// First slots of bodies whose accepts healing took the place of.
    healed: BTreeSet<Slot>,
    /// Records of chosen bodies that compaction wrote, which keeps no more accepts than are still of use.
    compacted: u64,
    /// Where bodies of packs begin in their records: by file, offset and first slot.
    packed: BTreeMap<(FileId, u64, Slot), u32>,
    /// What the log says of chosen prefixes, but for what its own bodies prove.
    pub(super) marks: Vec<(Mark, Option<Place>)>,
    /// How many marks its own bodies prove.
    pub(super) marks_proven: u64,
    pub(super) configurations: Vec<KnownConfiguration>,
    pub(super) configuration_trimmed: Option<Slot>,
    /// Places where records are missing.
    pub(super) holes: u64,
    damages: u64,
    /// A node was running: it may have accepted more since, above its chosen prefix.
    growing: bool,
    pub(super) promises: u64,
    records: u64,
    violations: Vec<Violation>,
    violations_count: u64,
}

/// A configuration that is kept as chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KnownConfiguration {
    /// Where the one was chosen that it succeeds.
    pub(super) after: Slot,
    pub(super) configuration: Configuration,
    /// Its members and learners, and their stores.
    pub(super) stores: Vec<Member>,
    /// Headers and records of this kind hold only what rules; a body may be void.
    pub(super) is_certain: bool,
}

/// A body accepted at a ballot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Accept {
    pub(super) body: BodyHandle,
    pub(super) ballot: Ballot,
    pub(super) place: Place,
}

/// A body that the log says is chosen.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChosenBody {
    pub(super) body: BodyHandle,
    /// The chain after it, if it lies in the chosen prefix.
    pub(super) after: Option<Chain>,
    pub(super) place: Place,
}

/// What a log knows of the chain at a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KnownChain {
    /// It stands at the end of a chosen body.
    Here(Chain),
    /// No mark can stand here: the slot lies inside this chosen body.
    Inside(BodyHandle),
    /// The slot is trimmed, or not known to be chosen.
    Unknown,
}

/// The promise along a log, see [`super`].
struct Promises {
    /// Highest that counts.
    made: Ballot,
    boot_counter: u64,
}

impl<'store> AuditLog<'store> {
    /// Recovers the log in `store` and reads it. `name` is what reports call it, such as its directory.
    ///
    /// # Errors
    /// If the log can't be recovered. One whose own records contradict each other can't either, but is evidence.
    pub fn read(
        name: impl Into<String>,
        store: &'store dyn SegmentStore,
        expected: &ExpectedIdentity,
        segment_bytes: u64,
        options: RecoverOptions,
    ) -> Result<AuditLog<'store>, RecoverError> {
        match recover_with(store, expected, segment_bytes, options) {
            Ok(recovered) => {
                let mut log = AuditLog::from_recovered(name, store, expected, &recovered)?;
                log.growing = options.live;
                Ok(log)
            }
            Err(RecoverError::Conflict { file, offset, other }) => {
                let mut log = AuditLog::empty(name.into(), store, expected);
                let epoch = Geometry::new(segment_bytes)
                    .and_then(|geometry| read_segment_header(store, file, geometry).ok()?.ok())
                    .map_or(0, |header| header.epoch);
                let place = Place { file, offset, lsn: Lsn::new(epoch, segment_bytes, offset) };
                log.contradicts(place, &other);
                Ok(log)
            }
            Err(error) => Err(error),
        }
    }

    /// Reads a log that was recovered, at whatever depth.
    ///
    /// # Errors
    /// If a file can't be read.
    pub fn from_recovered(
        name: impl Into<String>,
        store: &'store dyn SegmentStore,
        expected: &ExpectedIdentity,
        recovered: &RecoveredLog,
    ) -> Result<AuditLog<'store>, ReadError> {
        let mut log = AuditLog::empty(name.into(), store, expected);
        let Some(geometry) = Geometry::new(recovered.segment_bytes) else { return Ok(log) };
        log.group = recovered.group;
        (log.base, log.mark) = (recovered.index.base(), recovered.mark);
        log.configuration_trimmed = recovered.configuration_trimmed;
        log.take_configuration(recovered.configuration.as_ref(), true);
        // What is missing says nothing, and whoever is told of silence must know.
        log.damages = recovered.damages.len() as u64;
        log.holes += u64::from(!recovered.is_sound());
        let mut promises = Promises { made: Ballot::ZERO, boot_counter: 0 };
        for segment in &recovered.segments {
            log.read_segment(geometry, segment, &mut promises)?;
        }
        log.take_chosen(geometry, recovered)?;
        log.sort_marks();
        Ok(log)
    }

    fn empty(name: String, store: &'store dyn SegmentStore, expected: &ExpectedIdentity) -> AuditLog<'store> {
        AuditLog {
            name,
            store,
            expected: *expected,
            group: None,
            base: Mark::START,
            mark: Mark::START,
            accepts: Vec::new(),
            chosen: Vec::new(),
            healed: BTreeSet::new(),
            compacted: 0,
            packed: BTreeMap::new(),
            marks: Vec::new(),
            marks_proven: 0,
            configurations: Vec::new(),
            configuration_trimmed: None,
            holes: 0,
            damages: 0,
            growing: false,
            promises: 0,
            records: 0,
            violations: Vec::new(),
            violations_count: 0,
        }
    }

    fn read_segment(
        &mut self,
        geometry: Geometry,
        segment: &RecoveredSegment,
        promises: &mut Promises,
    ) -> Result<(), ReadError> {
        let header = match read_segment_header(self.store, segment.file, geometry)? {
            Ok(header) if header.epoch == segment.epoch => header,
            // A running node has given the segment up since.
            _ => {
                self.holes += 1;
                return Ok(());
            }
        };
        self.take_header(geometry, segment.file, &header, promises);
        // Whoever recovered the log has looked at the bytes.
        let stop = segment.end.offset(geometry.segment_bytes());
        let options = ScanOptions { depth: Depth::Heads, live: false, stop: Some(stop) };
        let mut scanner = Scanner::new(self.store, segment.file, geometry, &header, options);
        while let Some(item) = scanner.next_item()? {
            match item {
                Item::Record(record) | Item::Stray(record) => {
                    self.take_record(segment.file, &record, promises);
                    if record.header.meta.kind == RecordKind::Configuration {
                        let slot = record.body.map_or(Slot(0), |body| body.first);
                        let bytes = scanner.record_bytes(&record)?;
                        let body = &bytes[RECORD_HEADER_BYTES..][..record.header.body_bytes as usize];
                        let stored = StoredConfiguration { slot, body: body.to_vec() };
                        self.take_configuration(Some(&stored), true);
                    }
                }
                Item::Hole(Hole { cause: HoleCause::Stop, .. }) => {}
                Item::Hole(_) => self.holes += 1,
                // Behind a hole, which is counted.
                Item::BadStray { .. } => {}
            }
        }
        Ok(())
    }

    fn take_header(&mut self, geometry: Geometry, file: FileId, header: &SegmentHeader, promises: &mut Promises) {
        self.take_configuration(header.configuration.as_ref(), true);
        let place = Place { file, offset: 0, lsn: Lsn::new(header.epoch, geometry.segment_bytes(), 0) };
        let started = header.identity.boot_counter > promises.boot_counter;
        promises.boot_counter = promises.boot_counter.max(header.identity.boot_counter);
        let group = self.group;
        for state in header.groups.iter().filter(|state| Some(state.group) == group) {
            self.take_mark(state.mark, place);
            self.take_mark(state.base, place);
            if started {
                self.promises += 1;
                if state.promised < promises.made {
                    let what = format!("the node started with promise {} after it had promised more", state.promised);
                    let told = (place, format!("promised {}; before: {}", state.promised, promises.made));
                    self.violates(Rule::PromisesGrow, None, what, vec![told]);
                }
                promises.made = promises.made.max(state.promised);
            }
        }
    }

    fn take_record(&mut self, file: FileId, record: &ScannedRecord, promises: &mut Promises) {
        let (header, meta) = (&record.header, &record.header.meta);
        let place = Place { file, offset: record.offset, lsn: header.lsn };
        self.records += 1;
        self.take_mark(meta.mark, place);
        self.take_mark(header.base, place);
        let body = record.body.map(|body| body.handle());
        self.check_promise(meta, body.as_ref(), place, promises);
        match (meta.kind, body) {
            (RecordKind::Accepted, Some(body)) => self.accepts.push(Accept { body, ballot: meta.ballot, place }),
            (RecordKind::Healed, Some(body)) => {
                self.healed.insert(body.first);
            }
            (RecordKind::Copied, _) => {}
            (kind, _) if kind.is_chosen() => self.compacted += 1,
            _ => {}
        }
    }

    fn check_promise(&mut self, meta: &RecordMeta, body: Option<&BodyHandle>, place: Place, promises: &mut Promises) {
        self.promises += 1;
        let made = promises.made;
        let slots = body.map(BodyHandle::slots);
        if meta.kind == RecordKind::Accepted && meta.ballot < made {
            let what = format!("accepted at ballot {} after a promise of {made}", meta.ballot);
            let told = (place, format!("accepted at ballot {}, the records before promise {made}", meta.ballot));
            return self.violates(Rule::NoAcceptBelowPromise, slots, what, vec![told]);
        }
        let promised = meta.promised.max(meta.ballot);
        if promised < made {
            let what = format!("the promise goes back to {promised} after {made}");
            let told = (place, format!("{:?} record with promise {promised}", meta.kind));
            return self.violates(Rule::PromisesGrow, slots, what, vec![told]);
        }
        if matches!(meta.kind, RecordKind::Promise | RecordKind::Accepted | RecordKind::Copied) {
            promises.made = promised;
        }
    }

    fn take_mark(&mut self, mark: Mark, place: Place) {
        let news = self.marks.iter().rev().take(2).all(|(known, _)| *known != mark);
        if mark != Mark::START && news {
            self.marks.push((mark, Some(place)));
        }
    }

    fn take_configuration(&mut self, stored: Option<&StoredConfiguration>, is_certain: bool) {
        // One that doesn't decode never ruled anything; recovery and verify complain about its bytes.
        let decode = |stored: &StoredConfiguration| {
            let header = BodyHeader::parse(&stored.body).ok()?;
            let body = ConfigurationBody::decode(&header, &stored.body).ok()?;
            let configuration = body.to_configuration(stored.slot).ok()?;
            let stores = body.nodes().copied().collect();
            Some(KnownConfiguration { after: body.after, configuration, stores, is_certain })
        };
        if let Some(known) = stored.and_then(decode)
            && !self.configurations.contains(&known)
        {
            self.configurations.push(known);
        }
    }

    fn take_chosen(&mut self, geometry: Geometry, recovered: &RecoveredLog) -> Result<(), ReadError> {
        let epochs: BTreeMap<FileId, u64> =
            recovered.segments.iter().map(|segment| (segment.file, segment.epoch)).collect();
        for entry in recovered.index.iter_from(Slot(0)) {
            if entry.chosen.is_none() && !entry.recorded_chosen {
                continue;
            }
            let (file, offset) = (entry.location.file, entry.location.offset);
            let epoch = epochs.get(&file).copied().unwrap_or(0);
            let place = Place { file, offset, lsn: Lsn::new(epoch, geometry.segment_bytes(), offset) };
            if entry.location.is_packed() {
                self.packed.insert((file, offset, entry.body.first), entry.location.body_offset);
            }
            self.chosen.push(ChosenBody { body: entry.body, after: entry.chosen, place });
            if entry.body.kind.is_configuration()
                && let Some((record, _)) = self.read_body(&entry.body, place)?
            {
                let body = record.as_ref()[RECORD_HEADER_BYTES..][..entry.body.bytes as usize].to_vec();
                self.take_configuration(Some(&StoredConfiguration { slot: entry.body.first, body }), false);
            }
        }
        Ok(())
    }

    /// Keeps the marks that the log's own bodies don't prove, and the ends of what they do prove.
    fn sort_marks(&mut self) {
        let marks = std::mem::take(&mut self.marks);
        let (proven, others): (Vec<_>, Vec<_>) =
            marks.into_iter().partition(|(mark, _)| self.chain_at(mark.slot) == KnownChain::Here(mark.chain));
        self.marks_proven = proven.len() as u64;
        self.marks = others;
        self.marks.sort_by_key(|(mark, _)| *mark);
        self.marks.dedup_by_key(|(mark, _)| *mark);
        for end in [self.base, self.mark] {
            if end != Mark::START {
                self.marks.push((end, None));
            }
        }
    }

    /// What the log's own bodies say of the chain at `slot`.
    pub(super) fn chain_at(&self, slot: Slot) -> KnownChain {
        if slot == self.base.slot {
            return KnownChain::Here(self.base.chain);
        }
        let after = self.chosen.partition_point(|chosen| chosen.body.first < slot);
        let Some(before) = after.checked_sub(1).map(|place| &self.chosen[place]) else { return KnownChain::Unknown };
        match before.after {
            Some(chain) if before.body.end() == slot => KnownChain::Here(chain),
            Some(_) if before.body.end() > slot => KnownChain::Inside(before.body),
            _ => KnownChain::Unknown,
        }
    }

    /// Whether this log can't tell if its node ever accepted a body at `slot`.
    pub(super) fn is_silent_about(&self, slot: Slot) -> Option<Silence> {
        if slot < self.base.slot {
            Some(Silence::Trimmed)
        } else if self.holes > 0 || self.compacted > 0 || self.healed.contains(&slot) {
            Some(Silence::Rewritten)
        } else if self.growing && slot >= self.mark.slot {
            Some(Silence::Growing)
        } else {
            None
        }
    }

    /// Reads and verifies the record of a body; none if it isn't there any more.
    ///
    /// # Errors
    /// If the file can't be read.
    pub(super) fn read_body(
        &self,
        body: &BodyHandle,
        place: Place,
    ) -> Result<Option<(RecordBuffer, BodyHeader)>, ReadError> {
        let mut location = Location::alone(place.file, place.offset, record_bytes(body.bytes));
        if let Some(offset) = self.packed.get(&(place.file, place.offset, body.first)) {
            location.body_offset = *offset;
        }
        let Ok(record) = read_body(self.store, &location, body)? else { return Ok(None) };
        let header = BodyHeader::parse_in_record(record.as_ref()).ok();
        Ok(header.map(|header| (record, header)))
    }

    fn contradicts(&mut self, place: Place, other: &BodyHandle) {
        // None of its records is heard.
        self.holes += 1;
        let what = "the log's own records contradict each other, so it can't be opened".to_owned();
        let told = (place, format!("contradicts body {} at slots {}..{}", other.id, other.first, other.end()));
        self.violates(Rule::OneBodyPerBallot, Some(other.slots()), what, vec![told]);
    }

    fn violates(
        &mut self,
        rule: Rule,
        slots: Option<synod_protocol::SlotRange>,
        what: String,
        told: Vec<(Place, String)>,
    ) {
        self.violations_count += 1;
        if self.violations.len() < VIOLATIONS_KEPT {
            let witnesses = told.into_iter().map(|(place, detail)| self.witness(0, Some(place), detail)).collect();
            self.violations.push(Violation { rule, slots: slots.unwrap_or(Slot(0)..Slot(0)), what, witnesses });
        }
    }

    /// What this log alone shows to be wrong, if it is number `log` of those that are audited; and how many more
    /// violations there are than these.
    pub(super) fn own_violations(&self, log: usize) -> (impl Iterator<Item = Violation>, u64) {
        let violations = self.violations.iter().cloned().map(move |mut violation| {
            violation.witnesses.iter_mut().for_each(|witness| witness.log = log);
            violation
        });
        (violations, self.violations_count - self.violations.len() as u64)
    }

    pub(super) fn witness(&self, log: usize, place: Option<Place>, detail: String) -> Witness {
        Witness { log, name: self.name.clone(), node: self.node(), place, detail }
    }

    /// Its name, as it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whose log it is.
    pub fn node(&self) -> NodeId {
        self.expected.node
    }

    /// Which of its node's stores it is from.
    pub(super) fn incarnation(&self) -> [u8; 16] {
        self.expected.incarnation
    }

    pub(super) fn is_of_same_cluster(&self, other: &AuditLog<'_>) -> bool {
        let same_group = self.group.is_none() || other.group.is_none() || self.group == other.group;
        let (one, two) = (&self.expected, &other.expected);
        same_group && one.cluster == two.cluster && one.lineage == two.lineage
    }

    pub(super) fn coverage(&self) -> LogCoverage {
        LogCoverage {
            name: self.name.clone(),
            node: self.node(),
            base: self.base.slot,
            mark: self.mark.slot,
            records: self.records,
            accepts: self.accepts.len() as u64,
            rewritten: self.compacted + self.healed.len() as u64,
            holes: self.holes,
            damages: self.damages,
        }
    }
}

/// Why a log can't tell whether its node accepted a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Silence {
    /// The slot is trimmed.
    Trimmed,
    /// Records of accepts were replaced, or are missing.
    Rewritten,
    /// A node goes on writing there.
    Growing,
}
