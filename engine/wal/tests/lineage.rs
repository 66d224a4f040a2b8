//! A new lineage of what is left of a cluster: what is kept, what is dropped, what is refused, and what an interruption
//! leaves.

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use synod_frame::{ConfigurationBody, Member, Origin, RecordBuffer, encode_configuration};
use synod_protocol::{Configuration, Mark, NodeId, Slot};
use synod_wal::RecoveredLog;
use synod_wal::directory::{
    BeginError, CopyError, DirectoryStore, FoundError, FoundingStart, Genesis, InitOptions, NodeIdentity, OpenError,
    SurvivingDirectory, begin_lineage, found, init, log_path, open, read_identity,
};
use synod_wal::lineage::{LineageError, LineagePlan, Survivor, plan_lineage};

use support::{Body, GROUP, ballot, noop};

/// What a member's log holds: bodies that are chosen, and such as were accepted at a round.
#[derive(Default)]
struct Content {
    base: Mark,
    chosen: Vec<Body>,
    accepted: Vec<(u64, Body)>,
    /// Behind what is chosen, a configuration of nodes 1 and 2 is.
    changes: bool,
}

struct Cluster {
    root: tempfile::TempDir,
    paths: Vec<PathBuf>,
}

impl Cluster {
    /// Members 1, 2, ... of which as many are left as have content.
    fn new(members: u32, contents: Vec<Content>) -> Cluster {
        let root = tempfile::tempdir().unwrap();
        let options =
            InitOptions { segment_bytes: 64 << 10, files: 4, allow_memory_fs: true, ..InitOptions::default() };
        let paths: Vec<PathBuf> = (1..=members).map(|node| root.path().join(format!("node-{node}"))).collect();
        let made = |(node, path): (u32, &PathBuf)| {
            let identity = init(path, NodeId(node), &options, &mut |_| ()).unwrap();
            Member { node: identity.node, incarnation: identity.incarnation }
        };
        let named: Vec<Member> = (1..).zip(&paths).map(made).collect();
        let quorum = members / 2 + 1;
        let configuration = ConfigurationBody {
            cluster: [7; 16],
            lineage: 3,
            members: named,
            prepare_quorum: quorum,
            accept_quorum: quorum,
            alpha: 64,
            ..ConfigurationBody::default()
        };
        let genesis = Genesis { group: GROUP, configuration };
        for (path, content) in paths.iter().zip(contents) {
            let mut content = Some(content);
            let start = FoundingStart { base: content.as_ref().unwrap().base, log_time_us: 5 };
            let founding = found(path, &genesis, &start, &mut |builder| -> Result<(), FoundError> {
                let content = content.take().expect("it is written once");
                let mut accepted = content.accepted;
                accepted.sort_by_key(|(round, _)| *round);
                for (round, body) in accepted {
                    builder.accepted(&body.handle, ballot(round), body.record)?;
                }
                for body in content.chosen {
                    builder.chosen(&body.handle, body.record)?;
                }
                if content.changes {
                    let body = configuration_at(builder.mark().slot, &genesis.configuration);
                    builder.chosen(&body.handle, body.record)?;
                }
                Ok(())
            });
            founding.unwrap().commit().unwrap();
        }
        Cluster { root, paths }
    }

    fn read(&self, nodes: &[usize]) -> Vec<SurvivingDirectory> {
        nodes.iter().map(|node| SurvivingDirectory::read(&self.paths[node - 1]).unwrap()).collect()
    }

    fn to(&self) -> PathBuf {
        self.root.path().join("new")
    }
}

fn plan(directories: &[SurvivingDirectory]) -> Result<LineagePlan, LineageError> {
    plan_lineage(&survivors(directories))
}

fn survivors(directories: &[SurvivingDirectory]) -> Vec<Survivor<'_>> {
    directories.iter().map(SurvivingDirectory::survivor).collect()
}

/// One body a slot.
fn bodies(slots: std::ops::Range<u64>) -> Vec<Body> {
    slots.map(|slot| noop(slot, 1, 1)).collect()
}

/// The successor of genesis, of its first two members.
fn configuration_at(slot: Slot, genesis: &ConfigurationBody) -> Body {
    let members = genesis.members[..2].to_vec();
    let next = ConfigurationBody { members, prepare_quorum: 2, accept_quorum: 2, ..genesis.clone() };
    let mut record = RecordBuffer::zeroed(2 * 4096);
    let origin = Origin { group: GROUP, first: slot, ballot: ballot(1), leader_time_us: 0 };
    let handle = encode_configuration(record.as_mut(), &origin, &next).unwrap();
    Body { handle, record }
}

fn mark_behind(bodies: &[Body]) -> Mark {
    bodies.iter().fold(Mark::START, |mark, body| mark.after(&body.handle))
}

/// Every file of a directory, with its bytes.
fn image(path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(path).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => files.extend(image(&entry.path())),
            // Its holder says what it is, for humans.
            false if entry.file_name() == "LOCK" => {}
            false => _ = files.insert(entry.path(), std::fs::read(entry.path()).unwrap()),
        }
    }
    files
}

fn recovered(path: &Path, identity: &NodeIdentity) -> RecoveredLog {
    let expected = identity.log_identity(0).unwrap().expected();
    synod_wal::recover(&DirectoryStore::new(log_path(path, 0)), &expected, identity.segment_bytes).unwrap()
}

#[test]
fn what_is_chosen_or_follows_without_a_gap_is_kept() {
    let chosen = || bodies(1..40);
    let accepted = vec![(2, noop(40, 2, 2)), (3, noop(42, 1, 3)), (3, noop(45, 2, 3))];
    let contents = vec![
        Content { chosen: chosen(), accepted, ..Content::default() },
        Content { chosen: bodies(1..30), accepted: vec![(4, noop(42, 1, 4))], ..Content::default() },
    ];
    let cluster = Cluster::new(5, contents);
    let before = image(&cluster.paths[0]);
    let directories = cluster.read(&[1, 2]);
    let plan = plan(&directories).unwrap();
    assert_eq!((plan.base, plan.certain), (Mark::START, mark_behind(&chosen())));
    let kept: Vec<Body> = chosen().into_iter().chain([noop(40, 2, 2), noop(42, 1, 4)]).collect();
    assert_eq!(plan.end, mark_behind(&kept), "the highest ballot counts");
    assert_eq!(plan.dropped, [Slot(45)..Slot(47)]);
    assert_eq!((plan.lineage, plan.needed, plan.bodies()), (4, 3, kept.len()));

    let identity = begin_lineage(&cluster.to(), NodeId(1), &plan, &survivors(&directories)).unwrap();
    assert_eq!((identity.lineage, identity.cluster, identity.boot_counter), (4, Some([7; 16]), 0));
    assert_ne!(identity.incarnation, read_identity(&cluster.paths[0]).unwrap().incarnation);
    let log = recovered(&cluster.to(), &identity);
    assert_eq!(log.index.mark_at(plan.end.slot), Some(plan.end));
    assert_eq!(log.mark.slot, plan.end.slot.plus(1));
    let ruling = log.configurations(&Configuration::genesis(vec![NodeId(9)], 64).unwrap()).unwrap();
    let rules = ruling.configuration_at(log.mark.slot);
    assert_eq!((rules.members.as_slice(), rules.chosen_at), (&[NodeId(1)][..], plan.end.slot));
    assert_eq!(ruling.iter().count(), 1, "those before are void");
    assert_eq!(open(&cluster.to(), &Default::default()).unwrap().identity().boot_counter, 1);
    drop(directories);
    assert_eq!(image(&cluster.paths[0]), before, "what is left is only read");
}

#[test]
fn configurations_of_the_old_lineage_are_void() {
    let contents = vec![Content { chosen: bodies(1..10), changes: true, ..Content::default() }];
    let cluster = Cluster::new(5, contents);
    let directories = cluster.read(&[1]);
    let plan = plan(&directories).unwrap();
    assert_eq!((plan.configuration.0, plan.needed, plan.end.slot), (Slot(10), 2, Slot(11)));
    let identity = begin_lineage(&cluster.to(), NodeId(1), &plan, &survivors(&directories)).unwrap();
    let log = recovered(&cluster.to(), &identity);
    let ruling = log.configurations(&Configuration::genesis(vec![NodeId(9)], 64).unwrap()).unwrap();
    assert_eq!(
        ruling.iter().map(|it| (it.chosen_at, it.members.clone())).collect::<Vec<_>>(),
        [(Slot(11), vec![NodeId(1)])]
    );
}

#[test]
fn a_body_that_a_higher_ballot_shows_dead_is_not_kept() {
    let dead = vec![(2, noop(10, 3, 2))];
    let contents = vec![
        Content { chosen: bodies(1..10), accepted: dead, ..Content::default() },
        Content { chosen: bodies(1..10), accepted: vec![(3, noop(11, 1, 3))], ..Content::default() },
    ];
    let cluster = Cluster::new(5, contents);
    let plan = plan(&cluster.read(&[1, 2])).unwrap();
    assert_eq!(plan.end, plan.certain);
    assert_eq!(plan.dropped, [Slot(10)..Slot(13)]);
}

#[test]
fn logs_that_were_trimmed_are_put_together() {
    let all = bodies(1..60);
    let base = mark_behind(&all[..29]);
    let contents = vec![
        Content { chosen: bodies(1..40), ..Content::default() },
        Content { base, chosen: bodies(30..60), ..Content::default() },
    ];
    let cluster = Cluster::new(5, contents);
    let directories = cluster.read(&[1, 2]);
    let plan = plan(&directories).unwrap();
    assert_eq!((plan.base, plan.certain, plan.bodies()), (Mark::START, mark_behind(&all), 59));
    // One that ends before the other begins adds nothing.
    let contents = vec![
        Content { chosen: bodies(1..20), ..Content::default() },
        Content { base, chosen: bodies(30..60), ..Content::default() },
    ];
    let cluster = Cluster::new(5, contents);
    let directories = cluster.read(&[1, 2]);
    let plan = plan_lineage(&survivors(&directories)).unwrap();
    assert_eq!((plan.base, plan.certain, plan.bodies()), (base, mark_behind(&all), 30));
    let identity = begin_lineage(&cluster.to(), NodeId(7), &plan, &survivors(&directories)).unwrap();
    assert_eq!(recovered(&cluster.to(), &identity).index.base(), base);
}

#[test]
fn what_needs_no_new_lineage_or_allows_none_is_refused() {
    let content = || Content { chosen: bodies(1..10), ..Content::default() };
    let cluster = Cluster::new(3, vec![content(), content()]);
    assert!(matches!(plan(&cluster.read(&[1, 2])), Err(LineageError::Quorum { given: 2, members: 3, needed: 2 })));
    assert!(matches!(plan(&[]), Err(LineageError::Nobody)));
    let other = Cluster::new(3, vec![content(), content()]);
    let mixed: Vec<SurvivingDirectory> = cluster.read(&[1]).into_iter().chain(other.read(&[2])).collect();
    // The two have the same uuid, but not the same members.
    assert!(matches!(plan(&mixed), Err(LineageError::NoMember { .. })));
    let rivals = Content { chosen: vec![noop(1, 1, 1), noop(2, 1, 8)], ..Content::default() };
    let cluster = Cluster::new(5, vec![content(), rivals]);
    assert!(matches!(plan(&cluster.read(&[1, 2])), Err(LineageError::Contradiction { slot: Slot(2), .. })));
    // Node 3 was never bootstrapped, and a directory that is read is locked.
    assert!(matches!(
        SurvivingDirectory::read(&cluster.paths[2]),
        Err(BeginError::Open(OpenError::NotBootstrapped(_)))
    ));
    let _held = cluster.read(&[1]);
    assert!(matches!(SurvivingDirectory::read(&cluster.paths[0]), Err(BeginError::Open(OpenError::Locked { .. }))));
}

#[test]
fn a_chosen_body_that_nobody_can_read_is_named() {
    let cluster = Cluster::new(
        3,
        vec![Content {
            chosen: (1..10).map(|slot| support::commands(slot, 1, 6000, slot)).collect(),
            ..Content::default()
        }],
    );
    let sound = plan(&cluster.read(&[1])).unwrap();
    assert_eq!(sound.bodies(), 9);
    let identity = read_identity(&cluster.paths[0]).unwrap();
    let log = recovered(&cluster.paths[0], &identity);
    let lost = *log.index.get(Slot(5)).unwrap();
    let file = log_path(&cluster.paths[0], 0).join(lost.location.file.file_name());
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[lost.location.offset as usize + 5000] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let found = plan(&cluster.read(&[1]));
    let Err(LineageError::Hole { slots }) = found else { panic!("{found:?}") };
    // Small bodies share a record.
    assert!(slots.contains(&Slot(5)), "{slots:?}");
}

#[test]
fn an_interruption_leaves_no_store_and_the_survivors_as_they_were() {
    let cluster = Cluster::new(3, vec![Content { chosen: bodies(1..60), ..Content::default() }]);
    let before = image(&cluster.paths[0]);
    let directories = cluster.read(&[1]);
    let plan = plan(&directories).unwrap();
    begin_lineage(&cluster.to(), NodeId(1), &plan, &survivors(&directories)).unwrap();
    drop(directories);
    let whole = image(&cluster.to());
    let identity = cluster.to().join("identity");
    assert!(whole.contains_key(&identity));
    // The identity is written last: whatever else is there or isn't, without it nothing is a store.
    let files: Vec<&PathBuf> = whole.keys().filter(|path| **path != identity).collect();
    for there in 0..=files.len() {
        std::fs::remove_dir_all(cluster.to()).unwrap();
        std::fs::create_dir_all(log_path(&cluster.to(), 0)).unwrap();
        for path in &files[..there] {
            std::fs::write(path, &whole[*path]).unwrap();
        }
        assert!(matches!(open(&cluster.to(), &Default::default()), Err(OpenError::NotInitialised(_))));
        let directories = cluster.read(&[1]);
        let again = plan_lineage(&survivors(&directories)).unwrap();
        let refused = begin_lineage(&cluster.to(), NodeId(1), &again, &survivors(&directories));
        assert!(matches!(refused, Err(BeginError::Copy(CopyError::NotEmpty(_)))), "nothing is written over");
    }
    assert_eq!(image(&cluster.paths[0]), before);
    std::fs::remove_dir_all(cluster.to()).unwrap();
    let directories = cluster.read(&[1]);
    let again = plan_lineage(&survivors(&directories)).unwrap();
    begin_lineage(&cluster.to(), NodeId(1), &again, &survivors(&directories)).unwrap();
}
