//! Directories on a real file system: made, joined to a cluster, opened, locked, read.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use synod_frame::{
    BodyHeader, ConfigurationBody, GroupId, Member, Origin, RECORD_HEADER_BYTES, RecordBuffer, encode_configuration,
};
use synod_protocol::{Ballot, Configuration, Mark, NodeId, Slot};
use synod_wal::directory::{
    BootstrapError, Bootstrapped, DirectoryLock, DirectoryStore, Expected, FileDisk, Genesis, InitError, InitOptions,
    LOGS_MAX, NodeIdentity, OpenError, ReadAheadStore, bootstrap, init, join, join_groups, log_path, open,
    read_identity,
};
use synod_wal::{FileId, RecoverError, SegmentStore, StoredConfiguration, recover};

use support::SEGMENT_BYTES;
use support::logs::{flip, recycled, rotating};

const NODE: NodeId = NodeId(2);

/// The test directory may be anywhere, also in memory.
fn options() -> InitOptions {
    InitOptions { segment_bytes: 64 << 10, files: 4, allow_memory_fs: true, ..InitOptions::default() }
}

fn initialised() -> (tempfile::TempDir, PathBuf, NodeIdentity) {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("deep/store");
    let identity = init(&path, NODE, &options(), &mut |_| ()).unwrap();
    (parent, path, identity)
}

fn genesis(identity: &NodeIdentity) -> Genesis {
    let member = |node: u32| Member {
        node: NodeId(node),
        incarnation: if NodeId(node) == identity.node { identity.incarnation } else { [node as u8; 16] },
    };
    Genesis {
        group: GroupId(1),
        configuration: ConfigurationBody {
            cluster: [7; 16],
            lineage: 3,
            members: (1..=3).map(member).collect(),
            prepare_quorum: 2,
            accept_quorum: 2,
            alpha: 4096,
            ..ConfigurationBody::default()
        },
    }
}

/// A configuration of nodes 1 and 3, with others as learners, as a member tells it.
fn told(slot: u64, learners: &[Member], members: &[Member]) -> StoredConfiguration {
    let configuration = ConfigurationBody {
        cluster: [7; 16],
        lineage: 3,
        members: members.to_vec(),
        learners: learners.to_vec(),
        prepare_quorum: 2,
        accept_quorum: 2,
        alpha: 4096,
        ..ConfigurationBody::default()
    };
    let mut record = RecordBuffer::zeroed(4096);
    let ballot = Ballot { round: 1, node: NodeId(1), boot: 1 };
    let origin = Origin { group: GroupId(1), first: Slot(slot), ballot, leader_time_us: 0 };
    let body = encode_configuration(record.as_mut(), &origin, &configuration).unwrap();
    StoredConfiguration {
        slot: Slot(slot),
        body: record.as_ref()[RECORD_HEADER_BYTES..][..body.bytes as usize].to_vec(),
    }
}

#[test]
fn a_store_joins_a_cluster_that_exists() {
    let (_parent, path, identity) = initialised();
    let others = [1, 3].map(|node| Member { node: NodeId(node), incarnation: [node as u8; 16] });
    let own = Member { node: NODE, incarnation: identity.incarnation };
    let other_store = Member { incarnation: [9; 16], ..own };
    let group = GroupId(1);
    // Under another store the node may have promised what this one doesn't know.
    for named in [told(50, &[], &[others[0], other_store, others[1]]), told(50, &[other_store], &others)] {
        assert!(matches!(join(&path, group, &named), Err(BootstrapError::Incarnation { node: NODE, .. })));
    }
    let member = told(50, &[], &[others[0], own, others[1]]);
    assert!(matches!(join(&path, group, &member), Err(BootstrapError::Member(NODE))));
    assert_eq!(read_identity(&path).unwrap(), identity, "nothing was changed");

    let stored = told(50, &[], &others);
    assert!(matches!(join(&path, group, &stored), Ok(Bootstrapped::Now(joined)) if joined.cluster == Some([7; 16])));
    assert!(matches!(join(&path, group, &stored), Ok(Bootstrapped::Before(_))));
    let opened = open(&path, &Expected { node: Some(NODE), cluster: Some([7; 16]) }).unwrap();
    let expected = opened.identity().log_identity(0).unwrap().expected();
    let log = recover(&DirectoryStore::new(opened.log_path(0)), &expected, opened.identity().segment_bytes).unwrap();
    assert_eq!((log.records, log.mark, log.configuration.as_ref()), (1, Mark::START, Some(&stored)));
    let genesis = Configuration::genesis(vec![NodeId(1)], 4096).unwrap();
    assert_eq!(log.configurations(&genesis).unwrap().newest().chosen_at, Slot(50));
}

#[test]
fn a_store_of_several_logs_begins_with_all_of_them_or_none() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("store");
    let many = |logs| InitOptions { logs, ..options() };
    for logs in [0, LOGS_MAX + 1] {
        assert!(matches!(init(&path, NODE, &many(logs), &mut |_| ()), Err(InitError::Logs(found)) if found == logs));
    }
    let mut files = 0;
    let identity = init(&path, NODE, &many(3), &mut |progress| files = progress.files_done).unwrap();
    assert_eq!((identity.logs, files), (3, 12));
    // Interrupted after the first log: the identity isn't written, so it is done again.
    let genesis = genesis(&identity);
    std::fs::rename(log_path(&path, 2), path.join("away")).unwrap();
    assert!(bootstrap(&path, &genesis).is_err());
    assert_eq!(read_identity(&path).unwrap(), identity);
    std::fs::rename(path.join("away"), log_path(&path, 2)).unwrap();
    assert!(matches!(bootstrap(&path, &genesis), Ok(Bootstrapped::Now(_))));
    assert!(matches!(bootstrap(&path, &genesis), Ok(Bootstrapped::Before(_))));
    let opened = open(&path, &Expected::default()).unwrap();
    for log in 0..3 {
        let expected = opened.identity().log_identity(log).unwrap().expected();
        let store = DirectoryStore::new(opened.log_path(log));
        let found = recover(&store, &expected, opened.identity().segment_bytes).unwrap();
        let header = BodyHeader::parse(&found.configuration.unwrap().body).unwrap();
        assert_eq!(header.group, GroupId(1 + log));
        let next = opened.identity().log_identity((log + 1) % 3).unwrap().expected();
        let foreign = recover(&store, &next, opened.identity().segment_bytes);
        assert!(matches!(foreign, Err(RecoverError::Identity { .. })), "one log never passes for another");
    }
}

#[test]
fn a_store_joins_all_groups_of_a_cluster() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("store");
    init(&path, NODE, &InitOptions { logs: 2, ..options() }, &mut |_| ()).unwrap();
    let others = [1, 3].map(|node| Member { node: NodeId(node), incarnation: [node as u8; 16] });
    let stored = told(50, &[], &others);
    let one = [(GroupId(1), stored.clone())];
    assert!(matches!(join_groups(&path, &one), Err(BootstrapError::Groups { logs: 2, groups: 1 })));
    let both = [(GroupId(1), stored.clone()), (GroupId(2), told(70, &[], &others))];
    assert!(matches!(join_groups(&path, &both), Ok(Bootstrapped::Now(_))));
    let opened = open(&path, &Expected::default()).unwrap();
    let expected = opened.identity().log_identity(1).unwrap().expected();
    let found = recover(&DirectoryStore::new(opened.log_path(1)), &expected, opened.identity().segment_bytes).unwrap();
    assert_eq!(found.configuration.map(|stored| stored.slot), Some(Slot(70)));
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn from_init_to_an_open_log() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("store");
    let mut progress = Vec::new();
    let identity = init(&path, NODE, &options(), &mut |now| progress.push((now.files_done, now.bytes_done))).unwrap();
    assert_eq!(progress, (0..=4).map(|done| (done, u64::from(done) << 16)).collect::<Vec<_>>());
    assert_eq!((identity.node, identity.cluster, identity.boot_counter), (NODE, None, 0));
    assert_eq!(read_identity(&path).unwrap(), identity);
    assert_eq!((mode(&path), mode(&log_path(&path, 0))), (0o700, 0o700));
    assert_eq!(mode(&log_path(&path, 0).join("segment-000004.wal")), 0o600);
    assert!(matches!(open(&path, &Expected::default()), Err(OpenError::NotBootstrapped(_))));

    let genesis = genesis(&identity);
    let Bootstrapped::Now(joined) = bootstrap(&path, &genesis).unwrap() else { panic!("it is the first time") };
    assert_eq!((joined.cluster, joined.lineage), (Some([7; 16]), 3));

    for boot in 1..4 {
        let opened = open(&path, &Expected { node: Some(NODE), cluster: Some([7; 16]) }).unwrap();
        assert_eq!(opened.identity().boot_counter, boot);
        assert_eq!(read_identity(&path).unwrap(), *opened.identity());
        let store = DirectoryStore::new(opened.log_path(0));
        let expected = opened.identity().log_identity(0).unwrap().expected();
        let log = recover(&store, &expected, opened.identity().segment_bytes).unwrap();
        assert_eq!((log.records, log.group), (1, Some(GroupId(1))));
        let stored = log.configuration.unwrap();
        assert_eq!(stored.slot, Slot(0));
        let header = synod_frame::BodyHeader::parse(&stored.body).unwrap();
        assert_eq!(ConfigurationBody::decode(&header, &stored.body).unwrap(), genesis.configuration);
    }
}

#[test]
fn genesis_is_written_once() {
    let (_parent, path, identity) = initialised();
    let genesis = genesis(&identity);
    assert!(matches!(bootstrap(&path, &genesis), Ok(Bootstrapped::Now(_))));
    let bytes = std::fs::read(log_path(&path, 0).join("segment-000001.wal")).unwrap();
    assert!(matches!(bootstrap(&path, &genesis), Ok(Bootstrapped::Before(_))));
    assert_eq!(std::fs::read(log_path(&path, 0).join("segment-000001.wal")).unwrap(), bytes);

    let mut other = genesis.clone();
    other.configuration.alpha = 8192;
    assert!(matches!(bootstrap(&path, &other), Err(BootstrapError::Different { cluster: Some(_), .. })));
    let mut other = genesis;
    other.configuration.cluster = [8; 16];
    assert!(matches!(bootstrap(&path, &other), Err(BootstrapError::Different { cluster: Some(_), .. })));
}

#[test]
fn interrupted_bootstrap_goes_on_with_the_same_genesis_only() {
    let (_parent, path, identity) = initialised();
    let genesis = genesis(&identity);
    let before = std::fs::read(path.join("identity")).unwrap();
    bootstrap(&path, &genesis).unwrap();
    // The crash came before the identity was replaced.
    std::fs::write(path.join("identity"), &before).unwrap();
    let mut other = genesis.clone();
    other.configuration.cluster = [8; 16];
    assert!(matches!(bootstrap(&path, &other), Err(BootstrapError::Different { cluster: None, .. })));
    let mut other = genesis.clone();
    other.configuration.alpha = 8192;
    assert!(matches!(bootstrap(&path, &other), Err(BootstrapError::Different { cluster: None, .. })));
    assert!(matches!(bootstrap(&path, &genesis), Ok(Bootstrapped::Now(_))));
    assert!(open(&path, &Expected::default()).is_ok());
}

#[test]
fn a_member_whose_log_is_gone_does_not_begin_again() {
    let (_parent, path, identity) = initialised();
    let genesis = genesis(&identity);
    bootstrap(&path, &genesis).unwrap();
    for file in DirectoryStore::new(log_path(&path, 0)).files().unwrap() {
        std::fs::write(log_path(&path, 0).join(file.file_name()), vec![0; 64 << 10]).unwrap();
    }
    assert!(matches!(bootstrap(&path, &genesis), Err(BootstrapError::Recover(RecoverError::Empty))));
}

#[test]
fn only_members_join() {
    let (_parent, path, identity) = initialised();
    let genesis = genesis(&identity);
    let mut without = genesis.clone();
    without.configuration.members[1].node = NodeId(9);
    without.configuration.members.sort_unstable();
    assert!(matches!(bootstrap(&path, &without), Err(BootstrapError::NotAMember(NODE))));
    let mut other = genesis.clone();
    other.configuration.members[1].incarnation = [1; 16];
    assert!(matches!(bootstrap(&path, &other), Err(BootstrapError::Incarnation { node: NODE, .. })));
    let mut weak = genesis;
    weak.configuration.accept_quorum = 1;
    assert!(matches!(bootstrap(&path, &weak), Err(BootstrapError::Configuration(_))));
    assert!(matches!(open(&path, &Expected::default()), Err(OpenError::NotBootstrapped(_))));
}

#[test]
fn opening_the_wrong_directory_says_why() {
    let (parent, path, identity) = initialised();
    let missing = parent.path().join("nowhere");
    assert!(matches!(open(&missing, &Expected::default()), Err(OpenError::NotInitialised(_))));
    assert!(!missing.exists(), "nothing is made by opening");
    assert!(matches!(open(parent.path(), &Expected::default()), Err(OpenError::NotInitialised(_))));
    assert!(!parent.path().join("LOCK").exists());

    bootstrap(&path, &genesis(&identity)).unwrap();
    let node = Expected { node: Some(NodeId(1)), cluster: None };
    assert!(matches!(open(&path, &node), Err(OpenError::Node { found: NODE, expected: NodeId(1), .. })));
    let cluster = Expected { node: None, cluster: Some([9; 16]) };
    assert!(matches!(open(&path, &cluster), Err(OpenError::Cluster { .. })));
    assert_eq!(read_identity(&path).unwrap().boot_counter, 0, "no boot is counted for a refusal");

    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o722)).unwrap();
    assert!(matches!(open(&path, &Expected::default()), Err(OpenError::Permissions { mode: 0o722, .. })));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();

    let text = std::fs::read_to_string(path.join("identity")).unwrap();
    std::fs::write(path.join("identity"), text.replace("lineage = 3", "lineage = 4")).unwrap();
    assert!(matches!(open(&path, &Expected::default()), Err(OpenError::Identity(_))));
}

#[test]
fn one_process_at_a_time() {
    let (_parent, path, identity) = initialised();
    bootstrap(&path, &genesis(&identity)).unwrap();
    let opened = open(&path, &Expected::default()).unwrap();
    let Err(OpenError::Locked { holder: Some(holder), .. }) = open(&path, &Expected::default()) else {
        panic!("the lock is held")
    };
    assert_eq!(holder, format!("pid {}", std::process::id()));
    assert!(matches!(bootstrap(&path, &genesis(&identity)), Err(BootstrapError::Open(OpenError::Locked { .. }))));
    // Reading needs no lock.
    let store = DirectoryStore::new(opened.log_path(0));
    assert_eq!(store.files().unwrap().len(), 4);
    drop(opened);
    assert!(open(&path, &Expected::default()).is_ok());
}

#[test]
fn init_refuses_what_is_not_its_own() {
    let (parent, path, _) = initialised();
    assert!(matches!(
        init(&path, NodeId(5), &options(), &mut |_| ()),
        Err(InitError::AlreadyInitialised { node: NODE, .. })
    ));
    let other = parent.path().join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("notes.txt"), "mine").unwrap();
    let refused = init(&other, NODE, &options(), &mut |_| ());
    assert!(matches!(refused, Err(InitError::NotEmpty { name, .. }) if name == "notes.txt"));
    assert_eq!(std::fs::read_dir(&other).unwrap().count(), 1);

    let empty = parent.path().join("empty");
    assert!(matches!(init(&empty, NodeId(0), &options(), &mut |_| ()), Err(InitError::Node)));
    let few = InitOptions { files: 3, ..options() };
    assert!(matches!(init(&empty, NODE, &few, &mut |_| ()), Err(InitError::Files(3))));
    let odd = InitOptions { segment_bytes: 100_000, ..options() };
    assert!(matches!(init(&empty, NODE, &odd, &mut |_| ()), Err(InitError::SegmentBytes(100_000))));
    assert!(!empty.exists());
}

#[test]
fn a_log_without_its_identity_is_never_overwritten() {
    let (_parent, path, identity) = initialised();
    bootstrap(&path, &genesis(&identity)).unwrap();
    std::fs::remove_file(path.join("identity")).unwrap();
    assert!(matches!(
        init(&path, NODE, &options(), &mut |_| ()),
        Err(InitError::LogWithoutIdentity { file: FileId(1), .. })
    ));
}

#[test]
fn interrupted_init_is_started_again() {
    let (_parent, path, first) = initialised();
    std::fs::remove_file(path.join("identity")).unwrap();
    std::fs::write(path.join("identity.spare"), "half").unwrap();
    let last = log_path(&path, 0).join("segment-000004.wal");
    std::fs::OpenOptions::new().write(true).open(&last).unwrap().set_len(5000).unwrap();
    let second = init(&path, NODE, &options(), &mut |_| ()).unwrap();
    assert_ne!(first.incarnation, second.incarnation);
    assert_eq!(std::fs::metadata(last).unwrap().len(), 64 << 10);
}

/// On a full disk a new file couldn't be written: what is there is written over.
#[test]
fn an_opening_makes_no_new_file() {
    use std::os::unix::fs::MetadataExt as _;
    let (_parent, path, identity) = initialised();
    bootstrap(&path, &genesis(&identity)).unwrap();
    let inodes = || {
        let mut inodes = ["identity", "identity.spare"].map(|name| std::fs::metadata(path.join(name)).unwrap().ino());
        inodes.sort_unstable();
        inodes
    };
    let before = inodes();
    for boot in 1..=12 {
        let opened = open(&path, &Expected::default()).unwrap();
        assert_eq!(opened.identity().boot_counter, boot);
        assert_eq!((read_identity(&path).unwrap().boot_counter, inodes()), (boot, before));
    }
}

#[test]
fn a_full_disk_is_said_with_figures() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("store");
    let huge = InitOptions { segment_bytes: 1 << 30, files: u32::MAX, allow_memory_fs: true, ..InitOptions::default() };
    let Err(InitError::DiskFull { needed, available, .. }) = init(&path, NODE, &huge, &mut |_| ()) else {
        panic!("no disk has that much")
    };
    assert_eq!(needed, u64::from(u32::MAX) << 30);
    assert!(available < needed);
    assert!(matches!(read_identity(&path), Err(OpenError::NotInitialised(_))));
}

#[test]
fn memory_file_systems_are_refused_unless_allowed() {
    let Ok(parent) = tempfile::tempdir_in("/dev/shm") else { return };
    let kind = rustix::fs::statfs(parent.path()).unwrap().f_type;
    if u64::from(kind as u32) != 0x0102_1994 {
        return;
    }
    let path = parent.path().join("store");
    let strict = InitOptions { allow_memory_fs: false, ..options() };
    let refused = init(&path, NODE, &strict, &mut |_| ());
    assert!(matches!(refused, Err(InitError::MemoryFileSystem { file_system: "tmpfs", .. })));
    assert!(init(&path, NODE, &options(), &mut |_| ()).is_ok());
}

#[test]
fn links_are_not_followed() {
    let (parent, path, _) = initialised();
    let segment = log_path(&path, 0).join("segment-000001.wal");
    let outside = parent.path().join("outside");
    std::fs::rename(&segment, &outside).unwrap();
    std::os::unix::fs::symlink(&outside, &segment).unwrap();
    let store = DirectoryStore::new(log_path(&path, 0));
    assert!(store.len(FileId(1)).is_err());
    assert!(FileDisk::new(log_path(&path, 0), 64 << 10).write(FileId(1), 0, &[0; 4096]).is_err());
    let lock = path.join("LOCK");
    std::fs::remove_file(&lock).unwrap();
    std::os::unix::fs::symlink(&outside, &lock).unwrap();
    assert!(DirectoryLock::take(&path).is_err());
}

#[test]
fn a_log_read_ahead_is_the_log_that_is_there() {
    let mut logs = Vec::new();
    let (machine, _) = recycled();
    logs.push(machine.disk.live.clone());
    logs.push(rotating(true).disk.live.clone());
    for at in [40, 4096 * 3 + 17, 4096 * 9 + 2000] {
        for file in machine.disk.live.files().unwrap() {
            let mut damaged = machine.disk.live.clone();
            flip(&mut damaged, file, at);
            logs.push(damaged);
        }
    }
    for file in machine.disk.live.files().unwrap() {
        let mut short = machine.disk.live.clone();
        short.content_mut(file).unwrap().truncate(20_000);
        logs.push(short);
        let mut lacking = machine.disk.live.clone();
        lacking.remove(file);
        logs.push(lacking);
    }
    let (mut opened, mut damaged) = (0, 0);
    for log in &logs {
        let root = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        for file in log.files().unwrap() {
            std::fs::write(root.path().join(file.file_name()), log.content(file).unwrap()).unwrap();
        }
        let expected = recover(log, &support::identity(0).expected(), SEGMENT_BYTES);
        let mut told = Vec::new();
        let store = ReadAheadStore::new(root.path(), |progress| told.push(*progress));
        let found = recover(&store, &support::identity(0).expected(), SEGMENT_BYTES);
        assert_eq!(format!("{found:?}"), format!("{expected:?}"));
        let Ok(found) = found else { continue };
        opened += 1;
        damaged += u32::from(!found.damages.is_empty());
        let end = store.progress();
        drop(store);
        assert_eq!(told.last(), Some(&end), "who watches knows as much");
        let (segments, files) = (end.segments, log.files().unwrap().len() as u64);
        assert!(segments >= found.segments.len() as u64 && segments <= files, "{end:?}");
        assert_eq!(end.segments_read, segments, "all that were announced are read to their end");
        assert_eq!(end.bytes_read, end.bytes);
    }
    assert!(opened > 20 && damaged > 10, "{opened} opened, {damaged} of them damaged");
}
