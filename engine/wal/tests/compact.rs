//! Compacting stores: nothing that the log says is lost, and an interrupted run leaves the old log or the new one.

mod support;

use support::bounded::recover;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use support::{Body, Random, ballot, commands, meta, noop};
use synod_frame::{ConfigurationBody, Member, RecordBuffer};
use synod_protocol::{Ballot, Mark, NodeId, Slot};
use synod_wal::audit::{AuditLog, audit};
use synod_wal::compaction::{CompactionError, compare};
use synod_wal::directory::{
    self, CompactError, CompactOptions, CompactProgress, CompactStep, Compacted, DirectoryStore, Expected, FileDisk,
    Genesis, InitOptions, OpenError, compact,
};
use synod_wal::scan::read_body;
use synod_wal::{Action, AppendError, LogSettings, RecordKind, RecoverOptions, RecoveredLog, Wal};
use tempfile::TempDir;

const SEGMENT_BYTES: u64 = 64 << 10;

/// A store of one node that is bootstrapped.
struct Store {
    _root: TempDir,
    path: PathBuf,
}

/// A log that is being filled, without waiting for the disk.
struct Filler {
    wal: Wal,
    disk: FileDisk,
    mark: Mark,
}

impl Store {
    fn new(files: u32) -> Store {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("node");
        let options =
            InitOptions { segment_bytes: SEGMENT_BYTES, files, allow_memory_fs: true, ..InitOptions::default() };
        let identity = directory::init(&path, NodeId(1), &options, &mut |_| {}).unwrap();
        let configuration = ConfigurationBody {
            cluster: [7; 16],
            lineage: 1,
            members: vec![Member { node: NodeId(1), incarnation: identity.incarnation }],
            prepare_quorum: 1,
            accept_quorum: 1,
            alpha: 1024,
            ..ConfigurationBody::default()
        };
        directory::bootstrap(&path, &Genesis { group: support::GROUP, configuration }).unwrap();
        Store { _root: root, path }
    }

    fn copy(&self) -> Store {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("node");
        for directory in ["", "log-0000"] {
            std::fs::create_dir_all(path.join(directory)).unwrap();
            for entry in std::fs::read_dir(self.path.join(directory)).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_file() {
                    std::fs::copy(entry.path(), path.join(directory).join(entry.file_name())).unwrap();
                }
            }
        }
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        Store { _root: root, path }
    }

    fn open(&self) -> Filler {
        let log = self.recover();
        let (open, mark) = (directory::open(&self.path, &Expected::default()).unwrap(), log.mark);
        let identity = open.identity().log_identity(0).unwrap();
        let settings = LogSettings { segment_bytes: SEGMENT_BYTES, pool_files_max: 4096, ..LogSettings::default() };
        let disk = FileDisk::new(open.log_path(0), SEGMENT_BYTES);
        let mut filler = Filler { wal: Wal::new(identity, settings, log), disk, mark };
        filler.settle();
        filler
    }

    fn recover(&self) -> RecoveredLog {
        let identity = directory::read_identity(&self.path).unwrap().log_identity(0).unwrap();
        let store = DirectoryStore::new(directory::current_log_path(&self.path, 0));
        recover(&store, &identity.expected(), SEGMENT_BYTES).unwrap()
    }

    /// The bytes of all bodies, in slot order.
    fn content(&self) -> Vec<(Slot, Vec<u8>)> {
        let store = DirectoryStore::new(directory::current_log_path(&self.path, 0));
        let log = self.recover();
        let bodies = log.index.iter_from(Slot(0)).map(|entry| {
            let record = read_body(&store, &entry.location, &entry.body).unwrap().unwrap();
            (entry.body.first, record.as_ref()[256..][..entry.body.bytes as usize].to_vec())
        });
        bodies.collect()
    }

    fn names(&self) -> BTreeSet<String> {
        let entries = std::fs::read_dir(&self.path).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn compact(&self) -> Compacted {
        let options = CompactOptions::default();
        compact(&self.path, &options, &mut |_| ControlFlow::Continue(())).unwrap().remove(0)
    }

    /// Audits the log, which must be one of a correct replica; how many bodies are chosen.
    fn audited(&self) -> u64 {
        let identity = directory::read_identity(&self.path).unwrap().log_identity(0).unwrap();
        let store = DirectoryStore::new(directory::current_log_path(&self.path, 0));
        let options = RecoverOptions::default();
        let log = AuditLog::read("store", &store, &identity.expected(), SEGMENT_BYTES, options).unwrap();
        let report = audit(&[log], &[]).unwrap();
        assert!(report.holds(), "{report:#?}");
        report.coverage.bodies_chosen
    }
}

impl Filler {
    fn settle(&mut self) {
        while let Some(action) = self.wal.poll_action() {
            match action {
                Action::Write { write, file, offset, bytes } => {
                    self.disk.write(file, offset, &bytes).unwrap();
                    self.wal.handle_written(write);
                }
                Action::Sync { sync, .. } => self.wal.handle_synced(sync),
                Action::CreateFile { file } => {
                    self.disk.create(file).unwrap();
                    self.wal.handle_file_ready(file);
                }
                Action::ZeroFile { file, offset, bytes } => {
                    self.disk.zero(file, offset, bytes).unwrap();
                    self.wal.handle_file_ready(file);
                }
            }
        }
    }

    fn append(&mut self, kind: RecordKind, at: Ballot, promised: Ballot, body: Option<&Body>) {
        let mut meta = meta(kind, at, promised, self.mark);
        meta.log_time_us = 1_000_000 + self.mark.slot.0;
        let mut record = body.map_or_else(|| RecordBuffer::zeroed(4096), |body| body.record.clone());
        let handle = body.map(|body| body.handle);
        for _ in 0..4 {
            match self.wal.append(&meta, handle.as_ref(), record.as_mut()) {
                Ok(planned) => {
                    let bytes = &record.as_ref()[..planned.record_bytes as usize];
                    self.disk.write(planned.file, planned.offset, bytes).unwrap();
                    return self.wal.handle_written(planned.write);
                }
                Err(AppendError::NoSegment) => self.settle(),
                Err(error) => panic!("{error}"),
            }
        }
        panic!("no room: {:?}", self.wal.stats());
    }

    fn accept_and_choose(&mut self, round: u64, body: &Body) {
        self.append(RecordKind::Accepted, ballot(round), ballot(round), Some(body));
        self.mark = self.mark.after(&body.handle);
    }

    fn trim(&mut self, base: Mark, round: u64) {
        let mut record = RecordBuffer::zeroed(4096);
        self.settle();
        let planned = self.wal.trim(base, record.as_mut(), ballot(round), self.mark).unwrap();
        self.disk.write(planned.file, planned.offset, record.as_ref()).unwrap();
        self.wal.handle_written(planned.write);
        self.settle();
    }
}

/// A log with everything that compaction must keep, and everything that it may drop.
fn eventful() -> Store {
    eventful_with(150)
}

fn eventful_with(bodies: u64) -> Store {
    let store = Store::new(4);
    let mut filler = store.open();
    filler.append(RecordKind::Promise, Ballot::ZERO, ballot(2), None);
    let mut base = Mark::START;
    for number in 0..bodies {
        let first = filler.mark.slot.0;
        if number % 11 == 0 {
            // Superseded by what the next ballot proposes.
            let dead = noop(first, 3, 900 + number);
            filler.append(RecordKind::Accepted, ballot(number + 2), ballot(number + 2), Some(&dead));
        }
        let body = match number % 10 {
            0 => noop(first, 4, number + 1),
            1 => commands(first, 3, 30_000, number),
            2 => commands(first, 2, 5000, number),
            _ => commands(first, 1, 100, number),
        };
        filler.accept_and_choose(number + 3, &body);
        if number == bodies * 2 / 5 {
            base = filler.mark;
        }
    }
    filler.trim(base, 160);
    // Accepted and not chosen, with a gap; one above it that a peer sent as chosen.
    let next = filler.mark.slot.0;
    filler.append(RecordKind::Accepted, ballot(170), ballot(170), Some(&noop(next + 10, 2, 5)));
    filler.append(RecordKind::Accepted, ballot(171), ballot(171), Some(&noop(next, 2, 6)));
    filler.append(RecordKind::Copied, Ballot::ZERO, ballot(171), Some(&noop(next + 20, 2, 7)));
    filler.append(RecordKind::Promise, Ballot::ZERO, ballot(180), None);
    filler.append(RecordKind::Mark, Ballot::ZERO, ballot(180), None);
    filler.settle();
    store
}

#[test]
fn everything_that_the_log_says_is_kept() {
    let store = eventful();
    let (before, content) = (store.recover(), store.content());
    assert!(before.index.base().slot > Slot::FIRST && before.index.len() > 80);
    let compacted = store.compact();
    assert!(compacted.replaced && compacted.bytes_after() < compacted.bytes_before(), "{compacted:?}");
    assert!(compacted.built.packs > 0 && compacted.built.records < compacted.records_before);
    assert_eq!(compacted.built.accepted, 2);
    let after = store.recover();
    compare(&before, &after).unwrap();
    assert_eq!(content, store.content());
    assert_eq!(store.names(), BTreeSet::from(["LOCK", "identity", "identity.spare", "log-0000"].map(String::from)));
    let files: Vec<u32> = (1..=compacted.built.files).collect();
    let names: Vec<u32> = synod_wal::SegmentStore::files(&DirectoryStore::new(store.path.join("log-0000")))
        .unwrap()
        .iter()
        .map(|file| file.0)
        .collect();
    assert_eq!(names, files, "files are numbered from one on");
    assert_eq!(after.segments.len(), compacted.built.segments as usize);

    // What is compact already stays as it is.
    let again = store.compact();
    assert!(!again.replaced, "{again:?}");
}

#[test]
fn a_compacted_log_goes_on_and_is_compacted_again() {
    let store = eventful();
    store.compact();
    for round in 0..3 {
        let before = store.recover();
        let mut filler = store.open();
        // The gap above the mark is filled at a higher ballot; what stood there is superseded.
        for number in 0..60 {
            let first = filler.mark.slot.0;
            filler.accept_and_choose(300 + round * 100 + number, &commands(first, 1, 120, number));
        }
        filler.append(RecordKind::Mark, Ballot::ZERO, ballot(300 + round * 100 + 90), None);
        filler.settle();
        drop(filler);
        let (full, content) = (store.recover(), store.content());
        assert!(full.mark.slot > before.mark.slot && full.epoch_next > before.epoch_next);
        let compacted = store.compact();
        assert!(compacted.replaced, "{compacted:?}");
        compare(&full, &store.recover()).unwrap();
        assert_eq!(content, store.content());
    }
}

#[test]
fn a_dry_run_says_what_a_run_does() {
    let store = eventful();
    let before = store.names();
    let options = CompactOptions { dry_run: true, ..CompactOptions::default() };
    let log = |store: &Store| format!("{:?}", store.recover());
    let then = log(&store);
    let dry = compact(&store.path, &options, &mut |step| panic!("{step:?}")).unwrap().remove(0);
    assert_eq!((before, then), (store.names(), log(&store)));
    assert!(!dry.replaced);
    assert_eq!(store.compact(), Compacted { replaced: true, ..dry });
}

#[test]
fn an_interrupted_run_leaves_the_old_log_or_the_new_one() {
    let original = eventful_with(40);
    for without_exchange in [false, true] {
        let options = CompactOptions { without_exchange, ..CompactOptions::default() };
        let (mut steps, mut seen) = (0, BTreeSet::new());
        loop {
            let store = original.copy();
            let (before, content) = (store.recover(), store.content());
            let mut count = 0;
            let mut stop = |progress: &CompactProgress| {
                count += 1;
                seen.insert(format!("{:?}", progress.step).split('(').next().unwrap().to_owned());
                if count > steps { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            let run = compact(&store.path, &options, &mut stop);
            if run.is_ok() {
                break;
            }
            assert!(matches!(run, Err(CompactError::Interrupted)), "{run:?}");
            // Who looks finds a whole log, and so does who opens it.
            let found = store.recover();
            if compare(&before, &found).is_err() {
                assert_eq!(format!("{found:?}"), format!("{before:?}"), "step {steps}: the old log");
            }
            assert_eq!(content, store.content(), "step {steps}");
            if steps % 3 == 0 {
                let mut filler = store.open();
                let first = filler.mark.slot.0;
                filler.accept_and_choose(500, &noop(first, 1, 1));
                filler.append(RecordKind::Mark, Ballot::ZERO, ballot(500), None);
                filler.settle();
                assert!(store.path.join("log-0000").is_dir());
            }
            // The next run cleans up and succeeds.
            let (full, content) = (store.recover(), store.content());
            store.compact();
            compare(&full, &store.recover())
                .or_else(|difference| {
                    // It may have been compact already.
                    if format!("{full:?}") == format!("{:?}", store.recover()) { Ok(()) } else { Err(difference) }
                })
                .unwrap();
            assert_eq!(content, store.content(), "step {steps}");
            assert_eq!(
                store.names(),
                BTreeSet::from(["LOCK", "identity", "identity.spare", "log-0000"].map(String::from))
            );
            steps += 1;
        }
        assert!(steps > 20, "{steps} steps");
        for step in ["Begin", "Create", "Write", "Sync", "Check", "Exchange", "SyncNames", "Delete"] {
            assert!(seen.contains(step), "{step} in {seen:?}");
        }
        assert_eq!(seen.contains("MoveNew"), without_exchange);
    }
}

#[test]
fn every_file_is_synced_before_the_logs_change_places() {
    let store = eventful();
    let (mut unsynced, mut exchanged) = (BTreeSet::new(), false);
    let mut watch = |progress: &CompactProgress| {
        match progress.step {
            CompactStep::Write(file) => _ = unsynced.insert(file),
            CompactStep::Sync(file) => _ = unsynced.remove(&file),
            CompactStep::Exchange => {
                assert!(unsynced.is_empty(), "{unsynced:?}");
                exchanged = true;
            }
            _ => assert!(!matches!(progress.step, CompactStep::Delete) || exchanged),
        }
        ControlFlow::Continue(())
    };
    compact(&store.path, &CompactOptions::default(), &mut watch).unwrap();
    assert!(exchanged);
}

/// Left-overs of any shape: cut files in the directory of the new log, at random moments.
#[test]
fn left_overs_disturb_nobody() {
    let store = eventful();
    let before = format!("{:?}", store.recover());
    let new = store.path.join("log-0000.new");
    let mut random = Random(3);
    for _ in 0..5 {
        std::fs::create_dir_all(&new).unwrap();
        for file in 1..=random.below(4) + 1 {
            let name = new.join(format!("segment-{file:06}.wal"));
            std::fs::write(name, vec![random.next() as u8; random.below(70_000) as usize]).unwrap();
        }
        assert_eq!(before, format!("{:?}", store.recover()));
        let stop = compact(&store.path, &CompactOptions::default(), &mut |progress| match progress.step {
            CompactStep::Clean => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        });
        assert!(matches!(stop, Err(CompactError::Interrupted)));
        assert!(!new.exists());
    }
    // What compaction didn't make is not deleted.
    std::fs::create_dir_all(&new).unwrap();
    std::fs::write(new.join("letters.txt"), "mine").unwrap();
    let refused = compact(&store.path, &CompactOptions::default(), &mut |_| ControlFlow::Continue(()));
    assert!(matches!(&refused, Err(CompactError::Foreign(path)) if path.ends_with("letters.txt")), "{refused:?}");
    assert!(new.join("letters.txt").exists());
}

#[test]
fn a_log_in_use_or_damaged_or_never_bootstrapped_is_refused() {
    let store = eventful();
    let run = |path: &Path| compact(path, &CompactOptions::default(), &mut |_| ControlFlow::Continue(()));
    let open = directory::open(&store.path, &Expected::default()).unwrap();
    assert!(matches!(run(&store.path), Err(CompactError::Open(OpenError::Locked { .. }))));
    drop(open);
    let alone = store.path.with_file_name("alone");
    let options =
        InitOptions { segment_bytes: SEGMENT_BYTES, files: 4, allow_memory_fs: true, ..InitOptions::default() };
    directory::init(&alone, NodeId(2), &options, &mut |_| {}).unwrap();
    assert!(matches!(run(&alone), Err(CompactError::Open(OpenError::NotBootstrapped(_)))));
    assert!(matches!(run(store.path.parent().unwrap()), Err(CompactError::Open(OpenError::NotInitialised(_)))));

    let log = store.recover();
    let entry = log.index.iter_from(Slot(0)).next().unwrap();
    let file = store.path.join("log-0000").join(entry.location.file.file_name());
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[entry.location.offset as usize + 600] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let refused = run(&store.path);
    assert!(matches!(refused, Err(CompactError::Rewrite(CompactionError::Damaged(_)))), "{refused:?}");
    assert_eq!(store.names().len(), 4);
}

/// Whatever is lost of a compacted log, the records around it bound the votes that were cast for it.
#[test]
fn a_lost_record_of_a_compacted_log_leaves_no_doubt_with_too_low_a_bound() {
    let store = eventful();
    let before = store.recover();
    store.compact();
    let identity = directory::read_identity(&store.path).unwrap().log_identity(0).unwrap();
    let log = DirectoryStore::new(directory::current_log_path(&store.path, 0));
    let sound = store.recover();
    let mut places: Vec<_> = sound.index.iter_from(Slot(0)).map(|entry| entry.location).collect();
    places.dedup_by_key(|place| (place.file, place.offset));
    assert!(places.len() > 4);
    for place in places {
        let file = log.directory().join(place.file.file_name());
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[place.offset as usize + 30] ^= 1;
        std::fs::write(&file, &bytes).unwrap();
        let damaged = recover(&log, &identity.expected(), SEGMENT_BYTES).unwrap();
        assert!(!damaged.is_sound());
        for lost in
            sound.index.iter_from(damaged.mark.slot).filter(|entry| damaged.index.get(entry.body.first).is_none())
        {
            // The highest ballot that the node may have accepted it at; compaction says no longer which of those.
            let vote = before.index.get(lost.body.first).map_or(lost.ballot, |entry| entry.ballot);
            let doubted = damaged.doubts.iter().any(|doubt| doubt.covers(lost.body.first) && doubt.bound >= vote);
            assert!(doubted, "{lost:?}, voted for at {vote}: {:?}", damaged.doubts);
        }
        bytes[place.offset as usize + 30] ^= 1;
        std::fs::write(&file, &bytes).unwrap();
    }
    assert!(store.recover().is_sound());
}

/// Commands of 128 bytes, each in a body and a record of its own, as one client that waits for each leaves them.
#[test]
fn small_commands_shrink_to_a_tenth() {
    let store = Store::new(4);
    let mut filler = store.open();
    for number in 0..15_000 {
        let first = filler.mark.slot.0;
        filler.accept_and_choose(1, &commands(first, 1, 128, number));
    }
    filler.append(RecordKind::Mark, Ballot::ZERO, ballot(1), None);
    filler.settle();
    drop(filler);
    let before = store.recover();
    let audited = store.audited();
    let compacted = store.compact();
    compare(&before, &store.recover()).unwrap();
    assert_eq!((audited, store.audited()), (15_000, 15_000));
    let (then, now) = (compacted.bytes_before(), compacted.bytes_after());
    assert!(now * 10 <= then, "{then} bytes became {now}");
    assert!(compacted.built.files >= compacted.built.segments + 2, "a log goes on with files ahead");
}

#[test]
fn a_small_log_keeps_the_files_that_a_log_needs() {
    let store = Store::new(12);
    let mut filler = store.open();
    filler.accept_and_choose(1, &noop(1, 1, 1));
    filler.settle();
    let compacted = store.compact();
    assert_eq!((compacted.files_before, compacted.built.files, compacted.replaced), (12, 4, true));
    let mut filler = store.open();
    for number in 0..100 {
        let first = filler.mark.slot.0;
        filler.accept_and_choose(2, &commands(first, 1, 100, number));
    }
    filler.settle();
    assert_eq!(filler.wal.index().len(), 100);
}
