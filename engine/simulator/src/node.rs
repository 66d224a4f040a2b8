//! One simulated node: what survives its lives (disk, identity, boot counter) and what doesn't.

use std::collections::{BTreeMap, BTreeSet};

use synod_frame::{BLOCK_BYTES, encode_configuration};
use synod_frame::{
    BodyHeader, ConfigurationBody, GroupId, Hello, HelloRefusal, Member, Origin, RECORD_HEADER_BYTES, RecordBuffer,
};
use synod_protocol::{Ballot, BarrierId, BarrierOutcome, Configurations, Instant, Mark, NodeId, Replica, Slot, Status};
use synod_wal::scan::read_segment_header;
use synod_wal::{
    Action, Buffers, ExpectedIdentity, FileId, Geometry, Index, LogIdentity, LoggedReplica, Lsn, ReadId, RecoverError,
    RecoverOptions, RecoveredLog, SegmentStore, StoredConfiguration, SyncId, SyncMode, Wal, WriteId, recover,
    recover_with,
};

use crate::disk::{Completion, Data, Disk, Ending};
use crate::durability::Durability;
use crate::links::{self, Links, Speaker};
use crate::network::{node_id, undefined_buffer};
use crate::plan::Plan;
use crate::plant::Plant;
use crate::random::Random;
use crate::workload::Desk;

/// The group that everybody's log is for.
pub const GROUP: GroupId = GroupId(0);

/// Buffers on the heap whose content is undefined, but the same in every run.
#[derive(Debug)]
pub struct SimulatedBuffers;

impl Buffers for SimulatedBuffers {
    type Buffer = RecordBuffer;

    fn allocate(&mut self, bytes: usize) -> RecordBuffer {
        undefined_buffer(bytes)
    }
}

/// What a node is told when its disk is done with something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// A write is complete.
    Written(WriteId),
    /// A sync is complete.
    Synced(SyncId),
    /// A file was created or zeroed.
    FileReady(FileId),
    /// A read is complete.
    Read(ReadId),
}

/// Why a body is read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// A client asked for this slot.
    Client(Slot),
    /// It was delivered without its bytes.
    Delivery,
    /// Everything is read when the run ends.
    Final,
}

/// What a node is while it runs.
pub struct Running {
    /// The code under test.
    pub replica: LoggedReplica<SimulatedBuffers>,
    /// What clients want from it.
    pub desk: Desk,
    /// Its reads under way.
    pub readers: BTreeMap<ReadId, (Slot, Reader)>,
    /// The marks that it was asked for and has to read first.
    pub marks: BTreeMap<ReadId, Slot>,
    /// Where its deliveries stand.
    pub delivered: Mark,
    /// Where its log ended when it had begun anew, if it has in this life.
    pub installed: Option<Lsn>,
    /// The barriers under way, and the end of what anybody had delivered when each began.
    pub barriers: BTreeMap<BarrierId, Slot>,
    /// How the last barrier ended.
    pub barrier_ended: Option<BarrierOutcome>,
    /// When the next wake-up is scheduled.
    pub wake_at: Instant,
    /// The process ends after so many more outputs.
    pub crash_in: Option<(u32, Ending)>,
}

/// See the module documentation.
pub struct Node {
    /// Its place among the nodes.
    pub index: usize,
    /// Its disk.
    pub disk: Disk,
    /// What its disk is known to hold.
    pub durability: Durability,
    /// How many times it has started.
    pub life: u32,
    /// It, if it runs.
    pub running: Option<Running>,
    /// Until when it stands still, if it does.
    pub paused_until: Option<Instant>,
    /// Whose directory it has: its own, unless somebody mixed them up.
    pub home: usize,
    /// The newest format that its build reads.
    pub format_max: u16,
    /// Why it doesn't start, if it tried and didn't.
    pub refused: Option<RecoverError>,
    /// It stays down for ever, although it could start.
    pub left_out: bool,
    /// Lost writes count as never made on its disk: blocks of files that are used again may be neither old nor new.
    pub scarred: bool,
    /// It has opened a damaged log: what is missing there stays missing until it is trimmed, whatever becomes of the disk.
    pub marred: bool,
    /// It has begun its log anew in its last life.
    pub has_installed: bool,
    /// It couldn't read something of its log in this life, although that may have been written well.
    pub has_misread: bool,
    /// It runs on an old copy of its directory: it has forgotten what it did since, and nobody may hear it.
    pub amnesic: bool,
    /// A peer has found out that its store isn't what it was: it has stopped, and stays so until somebody puts that right.
    pub stranger: Option<HelloRefusal>,
    /// Its directory was lost and made anew, and belongs to no cluster yet.
    pub awaits_join: bool,
    /// Behind the configuration by which it joined.
    pub joined: Slot,
    /// What it knows of its peers' stores.
    pub links: Links,
    /// The places that its recoveries have found to be damaged.
    pub found: BTreeSet<(FileId, Lsn)>,
    identity: LogIdentity,
    boot_nonce: u64,
    genesis: StoredConfiguration,
    /// How many stores it has had.
    stores: u8,
    segment_bytes: u64,
    random: Random,
}

/// A copy of a node's directory.
pub struct DirectoryCopy {
    /// What is on its disk.
    pub disk: Disk,
    boot_counter: u64,
    links: Links,
}

/// A node's own directory, put aside, with what the harness knows of it.
pub struct OwnDirectory {
    copy: DirectoryCopy,
    durability: Durability,
    has_installed: bool,
}

impl Node {
    /// A node whose directory was initialised and bootstrapped.
    pub fn bootstrapped(index: usize, seed: u64, plan: &Plan) -> Node {
        let identity = LogIdentity {
            cluster: *b"simulated-synod.",
            lineage: 1,
            node: node_id(index),
            incarnation: incarnation(index),
            boot_counter: 0,
            log: 0,
        };
        let geometry = Geometry::new(plan.log.segment_bytes).expect("plans are valid");
        let mut node = Node {
            index,
            disk: Disk::new(plan.log.sync),
            durability: Durability::new(identity.expected().salt(), geometry),
            life: 0,
            running: None,
            paused_until: None,
            home: index,
            format_max: plan.faults.upgrades.first_build(),
            refused: None,
            left_out: false,
            scarred: false,
            marred: false,
            has_installed: false,
            has_misread: false,
            amnesic: false,
            stranger: None,
            awaits_join: false,
            joined: Slot(0),
            links: Links::new(node_id(index)),
            found: BTreeSet::new(),
            identity,
            boot_nonce: 0,
            genesis: genesis(plan),
            stores: 1,
            segment_bytes: plan.log.segment_bytes,
            random: Random::stream(seed, &format!("node {index}")),
        };
        node.bootstrap(plan);
        node
    }

    /// Somebody makes its directory anew: a new store, which belongs to no cluster yet.
    pub fn renew(&mut self, sync: SyncMode) {
        self.stores += 1;
        self.identity.incarnation[1] = 100 + self.stores;
        self.identity.boot_counter = 0;
        let geometry = Geometry::new(self.segment_bytes).expect("plans are valid");
        self.disk = Disk::new(sync);
        self.durability = Durability::new(self.identity.expected().salt(), geometry);
        self.links = Links::new(node_id(self.index));
        (self.refused, self.stranger, self.awaits_join) = (None, None, true);
        (self.scarred, self.marred, self.has_installed) = (false, false, false);
        self.found.clear();
    }

    /// Its new store becomes a part of the cluster by this configuration, which doesn't name it.
    pub fn join(&mut self, plan: &Plan, configuration: StoredConfiguration) {
        self.joined = configuration.slot.plus(1);
        self.found_log(plan, configuration);
        self.awaits_join = false;
    }

    /// Opens the log for the first time, while nothing goes wrong: the first segment holds genesis.
    pub(crate) fn bootstrap(&mut self, plan: &Plan) {
        self.found_log(plan, genesis(plan));
    }

    fn found_log(&mut self, plan: &Plan, configuration: StoredConfiguration) {
        let recovered =
            RecoveredLog { configuration: Some(configuration), ..RecoveredLog::fresh(plan.log.segment_bytes, []) };
        let mut wal = Wal::new(self.identity, plan.log, recovered);
        while let Some(action) = wal.poll_action() {
            match action {
                Action::Write { write, file, offset, bytes } => {
                    let operation = self.disk.begin_write(file, offset, Data::Bytes(bytes.into()));
                    self.disk.complete(operation);
                    wal.handle_written(write);
                }
                Action::Sync { sync, file } => {
                    let operation = self.disk.begin_sync(file);
                    self.disk.complete(operation);
                    wal.handle_synced(sync);
                }
                Action::CreateFile { file } => {
                    let operation = self.disk.begin_create(file, plan.log.segment_bytes);
                    self.disk.complete(operation);
                    wal.handle_file_ready(file);
                }
                Action::ZeroFile { .. } => unreachable!("a new log has no used files"),
            }
        }
        assert!(wal.is_open(), "a log without records opens by itself");
    }

    /// It, as a configuration names it.
    pub fn as_member(&self) -> Member {
        Member { node: node_id(self.index), incarnation: self.identity.incarnation }
    }

    /// The process that runs, or ran last.
    pub fn speaker(&self) -> Speaker {
        let LogIdentity { incarnation, boot_counter, .. } = self.identity;
        Speaker { incarnation, boot_counter, boot_nonce: self.boot_nonce }
    }

    /// What it says of itself to a peer, if it runs.
    pub fn hello(&self, to: NodeId) -> Option<Hello> {
        let running = self.running.as_ref()?;
        let (own, stable) = (node_id(self.index), running.replica.proved_prefix());
        Some(links::hello(&self.identity, self.speaker(), own, to, self.links.configuration(), stable))
    }

    /// Has its links go by the configurations that it knows.
    pub fn keep_links(&mut self) {
        let Some(running) = &self.running else { return };
        let replica = &running.replica;
        self.links.know(replica.membership_version(), || {
            let newest = replica.configuration_bodies().next_back().map_or(Slot(0), |stored| stored.slot);
            // As for the core: if damage took what the headers hold, genesis stands in for it.
            let genesis = replica.configuration_bodies().next().is_none().then(|| decode(&self.genesis)).flatten();
            let open = replica.open_configuration_bodies().filter_map(decode);
            let delivered = replica.configuration_bodies().filter_map(decode);
            (newest, genesis.into_iter().chain(open).chain(delivered).collect())
        });
    }

    fn expected(&self) -> ExpectedIdentity {
        self.identity.expected()
    }

    /// What recovery makes of an image of the disk.
    ///
    /// # Errors
    /// As [`recover`].
    pub fn recover(&self, image: &dyn SegmentStore, plan: &Plan) -> Result<RecoveredLog, RecoverError> {
        recover(image, &self.expected(), plan.log.segment_bytes)
    }

    /// The index that a process starts with: of what [`Node::recover`] gives in full, only so much is in memory as the plan
    /// says. Or in what the log that comes with it differs from that one.
    ///
    /// # Errors
    /// As [`recover`].
    pub fn recover_bounded(
        &self,
        image: &dyn SegmentStore,
        plan: &Plan,
        full: &RecoveredLog,
    ) -> Result<Result<Index, String>, RecoverError> {
        let index_bodies_max = Some(plan.log.index_bodies_max);
        let options = RecoverOptions { index_bodies_max, ..RecoverOptions::default() };
        let bounded = recover_with(image, &self.expected(), plan.log.segment_bytes, options)?;
        let said = |log: &RecoveredLog| format!("{:?}", RecoveredLog { index: Index::default(), ..log.clone() });
        let size = |index: &Index| (index.base(), index.len());
        let same = said(&bounded) == said(full) && size(&bounded.index) == size(&full.index);
        Ok(if same { Ok(bounded.index) } else { Err(format!("{} instead of {}", said(&bounded), said(full))) })
    }

    /// What its build makes of an image of the disk.
    ///
    /// # Errors
    /// As [`recover`].
    pub fn recover_as_built(&self, image: &dyn SegmentStore, plan: &Plan) -> Result<RecoveredLog, RecoverError> {
        let options = RecoverOptions { format_max: Some(self.format_max), ..RecoverOptions::default() };
        recover_with(image, &self.expected(), plan.log.segment_bytes, options)
    }

    /// Its directory as it is now, boot counter included.
    pub fn copy_directory(&self) -> DirectoryCopy {
        DirectoryCopy { disk: self.disk.clone(), boot_counter: self.identity.boot_counter, links: self.links.clone() }
    }

    /// Somebody puts a copy back.
    pub fn restore(&mut self, copy: DirectoryCopy) {
        (self.disk, self.identity.boot_counter, self.links) = (copy.disk, copy.boot_counter, copy.links);
    }

    /// The number of the boot that a copy will have if it is started.
    pub fn next_boot_of(copy: &DirectoryCopy) -> u64 {
        copy.boot_counter + 1
    }

    /// Somebody puts an old copy in place of its directory, which is kept.
    pub fn put_aside(&mut self, copy: DirectoryCopy) -> OwnDirectory {
        let geometry = Geometry::new(self.segment_bytes).expect("plans are valid");
        let fresh = Durability::new(self.identity.expected().salt(), geometry);
        let durability = std::mem::replace(&mut self.durability, fresh);
        let own = OwnDirectory { copy: self.copy_directory(), durability, has_installed: self.has_installed };
        self.restore(copy);
        self.amnesic = true;
        own
    }

    /// Somebody puts its own directory back.
    pub fn take_back(&mut self, own: OwnDirectory) {
        self.restore(own.copy);
        (self.durability, self.has_installed) = (own.durability, own.has_installed);
        (self.amnesic, self.stranger, self.refused) = (false, None, None);
    }

    /// Takes another node's directory for its own: a planted bug.
    pub fn assume_identity(&mut self, node: usize) {
        self.identity.node = node_id(node);
        self.identity.incarnation = incarnation(node);
        let geometry = Geometry::new(self.segment_bytes).expect("plans are valid");
        self.durability = Durability::new(self.identity.expected().salt(), geometry);
    }

    /// The files of the two segments that were begun last, the last one first, as far as headers can be read. The last
    /// one may have been prepared without having been written to yet.
    pub fn newest_files(&self) -> Vec<FileId> {
        let image = self.disk.seen();
        let geometry = Geometry::new(self.segment_bytes).expect("plans are valid");
        let mut files = image.files().unwrap_or_default();
        let epoch = |file: &FileId| {
            let header = read_segment_header(&image, *file, geometry).ok()?.ok()?;
            Some(header.epoch)
        };
        files.sort_by_key(|file| std::cmp::Reverse(epoch(file)));
        files.truncate(2);
        files
    }

    /// Starts the process on what was recovered.
    pub fn start(&mut self, now: Instant, plan: &Plan, recovered: RecoveredLog, plant: Option<Plant>) {
        self.life += 1;
        self.has_misread = false;
        self.identity.boot_counter += 1;
        let boot = match plant {
            Some(Plant::ReusesBallots) => 1,
            _ => self.random.number(),
        };
        let mut state = recovered.protocol_state();
        if let Some(plant) = plant {
            plant.alter_recovered(&mut state);
            if plant == Plant::ForgetsOnInstall && self.has_installed {
                Plant::ForgetsPromise.alter_recovered(&mut state);
            }
        }
        let delivered = state.mark;
        let configurations = match plant {
            Some(Plant::ForgetsConfiguration) => Configurations::new(plan.configuration.clone()),
            _ => recovered.configurations(&plan.configuration).expect("headers hold what was chosen"),
        };
        let mut protocol = plan.protocol.clone();
        if plant != Some(Plant::OpensNewer) {
            protocol.format_max = self.format_max;
        }
        let (node, seed) = (node_id(self.index), self.random.number());
        self.boot_nonce = boot;
        self.links.start(plant == Some(Plant::ForgetsPeers));
        let replica = Replica::new(node, boot, seed, protocol, configurations, state, now);
        let wal = Wal::new(self.identity, plan.log, recovered);
        let mut logged = plan.logged;
        if plant == Some(Plant::OtherLimits)
            && self.index == 0
            && let Some(limits) = &mut logged.delivery
        {
            limits.sessions_max += 1;
        }
        let replica = LoggedReplica::new(GROUP, logged, replica, wal, SimulatedBuffers, now);
        self.running = Some(Running {
            replica,
            desk: Desk::default(),
            readers: BTreeMap::new(),
            marks: BTreeMap::new(),
            delivered,
            installed: None,
            barriers: BTreeMap::new(),
            barrier_ended: None,
            wake_at: Instant(u64::MAX),
            crash_in: None,
        });
    }

    /// Ends the process, or the machine. What the disk has in flight ends with it.
    pub fn crash(&mut self, ending: Ending, random: &mut Random) {
        self.has_installed = self.running.take().is_some_and(|running| running.installed.is_some());
        self.paused_until = None;
        self.durability.crash();
        self.disk.crash(ending, random);
    }

    /// Whether it runs without some bytes of the chosen prefix.
    pub fn has_lost(&self) -> bool {
        self.running.as_ref().is_some_and(|running| !running.replica.status().lost.is_empty())
    }

    /// Whether it runs and has judged everything that it has delivered, as far as its disk tells where that lies.
    pub fn has_judged(&self) -> bool {
        let judged = |running: &Running| {
            let replica = &running.replica;
            replica.judged() == replica.replica().mark().slot || replica.judging_waits_for().is_some()
        };
        self.running.as_ref().is_some_and(judged)
    }

    /// The protocol's view of itself, if the node runs.
    pub fn status(&self) -> Option<Status> {
        self.running.as_ref().map(|running| running.replica.replica().status())
    }
}

impl Running {
    /// Tells the node what its disk has done.
    pub fn finish(&mut self, now: Instant, finish: Finish, completion: Completion) {
        match (finish, completion) {
            (Finish::Written(_) | Finish::Synced(_), Completion::Failed) => self.replica.handle_failed(),
            (Finish::FileReady(file), Completion::Failed) => self.replica.handle_file_failed(now, file),
            (Finish::Written(write), _) => self.replica.handle_written(now, write),
            (Finish::Synced(sync), _) => self.replica.handle_synced(now, sync),
            (Finish::FileReady(file), _) => self.replica.handle_file_ready(now, file),
            (Finish::Read(read), Completion::Read(bytes)) => {
                let mut record = RecordBuffer::zeroed(bytes.len());
                record.as_mut().copy_from_slice(&bytes);
                self.replica.handle_read(now, read, Some(record));
            }
            (Finish::Read(read), Completion::Done | Completion::Failed) => self.replica.handle_read(now, read, None),
        }
    }
}

fn incarnation(index: usize) -> [u8; 16] {
    [index as u8 + 1; 16]
}

/// What a configuration's body says; those that are kept were read before.
fn decode(stored: &StoredConfiguration) -> Option<ConfigurationBody> {
    let header = BodyHeader::parse(&stored.body).ok()?;
    ConfigurationBody::decode(&header, &stored.body).ok()
}

/// The body of the first configuration, as bootstrap stores it.
fn genesis(plan: &Plan) -> StoredConfiguration {
    let configuration = ConfigurationBody {
        cluster: *b"simulated-synod.",
        lineage: 1,
        members: (0..plan.configuration.members.len())
            .map(|index| Member { node: node_id(index), incarnation: incarnation(index) })
            .collect(),
        prepare_quorum: plan.configuration.prepare_quorum,
        accept_quorum: plan.configuration.accept_quorum,
        alpha: plan.configuration.alpha,
        ..ConfigurationBody::default()
    };
    let mut record = RecordBuffer::zeroed(BLOCK_BYTES);
    let origin = Origin { group: GROUP, first: Slot(0), ballot: Ballot::ZERO, leader_time_us: 0 };
    let body = encode_configuration(record.as_mut(), &origin, &configuration).expect("members are few");
    let bytes = record.as_ref()[RECORD_HEADER_BYTES..][..body.bytes as usize].to_vec();
    StoredConfiguration { slot: Slot(0), body: bytes }
}
