//! A seeker and holders, with a network between them that loses what the test says, and files in memory.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::*;
use crate::ballot::NodeId;
use crate::limits::SNAPSHOT_CHUNK_BYTES;
use crate::time::Instant;

const CHUNK: u64 = SNAPSHOT_CHUNK_BYTES as u64;
const SEEKER: NodeId = NodeId(9);

fn settings() -> HolderSettings {
    HolderSettings { transfers_max: 2, bytes_per_second: 1 << 30 }
}

/// Bytes that tell where they belong, from some offset on.
fn part(snapshot: SnapshotId, offset: u64, bytes: u64) -> Vec<u8> {
    (offset..offset + bytes).map(|at| (at / 251 + at + snapshot.position.0) as u8).collect()
}

fn content(snapshot: SnapshotId) -> Vec<u8> {
    part(snapshot, 0, snapshot.bytes)
}

fn id(position: u64, bytes: u64) -> SnapshotId {
    let named = SnapshotId { position: Slot(position), bytes, checksum: 0 };
    SnapshotId { checksum: xxhash_rust::xxh3::xxh3_128(&content(named)), ..named }
}

struct World {
    now: Instant,
    holders: BTreeMap<NodeId, (Holder, Slot)>,
    seeker: Seeker,
    file: Option<(SnapshotId, Vec<u8>)>,
    /// What was made by a holder has this length.
    made_bytes: u64,
    /// Fetches that were answered.
    chunks: u64,
    mail: VecDeque<(NodeId, NodeId, SnapshotMessage)>,
}

impl World {
    fn new(at_least: u64, holders: &[(u32, u64, &[SnapshotId])]) -> World {
        let now = Instant(0);
        let holder = |(node, position, stored): &(u32, u64, &[SnapshotId])| {
            (NodeId(*node), (Holder::new(now, settings(), stored.iter().copied()), Slot(*position)))
        };
        World {
            now,
            holders: holders.iter().map(holder).collect(),
            seeker: Seeker::new(now, Slot(at_least), None),
            file: None,
            made_bytes: 3 * CHUNK + 7,
            chunks: 0,
            mail: VecDeque::new(),
        }
    }

    /// Carries out what was asked for, and delivers what `passes`.
    fn settle(&mut self, mut passes: impl FnMut(NodeId, NodeId, &SnapshotMessage) -> bool) {
        loop {
            self.follow_seeker();
            self.follow_holders();
            let Some((from, to, message)) = self.mail.pop_front() else { return };
            if !passes(from, to, &message) {
            } else if to == SEEKER {
                self.seeker.handle_message(self.now, from, message);
            } else if let Some((holder, position)) = self.holders.get_mut(&to) {
                holder.handle_message(self.now, from, &message, *position);
            }
        }
    }

    fn follow_seeker(&mut self) {
        while let Some(effect) = self.seeker.poll_effect() {
            match effect {
                SeekerEffect::Send { to: Some(to), message } => self.mail.push_back((SEEKER, to, message)),
                SeekerEffect::Send { to: None, message } => {
                    self.mail.extend(self.holders.keys().map(|to| (SEEKER, *to, message.clone())));
                }
                SeekerEffect::Begin { snapshot } => self.file = Some((snapshot, Vec::new())),
                SeekerEffect::Write { snapshot, offset, data } => {
                    let (begun, file) = self.file.as_mut().expect("it was begun");
                    assert_eq!((*begun, file.len() as u64), (snapshot, offset), "it goes behind what is there");
                    file.extend(data);
                }
                SeekerEffect::Finish { snapshot } => {
                    let (_, file) = self.file.as_ref().expect("it was begun");
                    let is_sound = xxhash_rust::xxh3::xxh3_128(file) == snapshot.checksum;
                    self.seeker.finished(self.now, is_sound);
                }
            }
        }
    }

    fn follow_holders(&mut self) {
        for (node, (holder, position)) in &mut self.holders {
            while let Some(effect) = holder.poll_effect() {
                match effect {
                    HolderEffect::Send { to, message } => self.mail.push_back((*node, to, message)),
                    HolderEffect::Make => holder.made(self.now, Some(id(position.0, self.made_bytes))),
                    HolderEffect::Read { to, snapshot, offset, bytes } => {
                        self.chunks += 1;
                        let data = part(snapshot, offset, bytes.into());
                        self.mail.push_back((*node, to, SnapshotMessage::Chunk { snapshot, offset, data }));
                    }
                    HolderEffect::Remove { .. } => {}
                }
            }
        }
    }

    /// Lets time pass until the seeker wants something.
    fn wait(&mut self) {
        let deadline = self.seeker.poll_deadline().expect("it waits");
        self.now = self.now.max(deadline);
        self.seeker.handle_timeout(self.now);
    }

    fn run(&mut self, mut passes: impl FnMut(NodeId, NodeId, &SnapshotMessage) -> bool) -> SnapshotId {
        for _ in 0..10_000 {
            self.settle(&mut passes);
            if let Some(done) = self.seeker.done() {
                let (_, file) = self.file.as_ref().expect("there is a file");
                assert!(*file == content(done), "it has what was given");
                return done;
            }
            self.wait();
        }
        panic!("{:?}", self.seeker);
    }
}

#[test]
fn whoever_has_come_far_enough_makes_one() {
    let mut world = World::new(50, &[(1, 40, &[]), (2, 60, &[])]);
    let done = world.run(|_, _, _| true);
    assert_eq!(done, id(60, 3 * CHUNK + 7));
    assert_eq!(world.chunks, 4);
    assert_eq!(world.seeker.refusals().get(&NodeId(1)), Some(&NoSnapshot::Behind { position: Slot(40) }));
    assert_eq!(world.seeker.hold(), Hold { from: Slot(60), progress: 3 * CHUNK + 7 });
}

#[test]
fn an_empty_one_is_one() {
    let mut world = World::new(50, &[(2, 60, &[])]);
    world.made_bytes = 0;
    assert_eq!(world.run(|_, _, _| true), id(60, 0));
}

#[test]
fn whatever_is_lost_is_asked_for_again() {
    for seed in 1..20u64 {
        let mut world = World::new(50, &[(1, 70, &[]), (2, 60, &[])]);
        let mut random = seed;
        // Every second message is lost.
        world.run(|_, _, _| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            random >> 63 == 0
        });
    }
}

#[test]
fn it_goes_on_where_it_was_at_another_holder_of_the_same() {
    let same = id(60, 9 * CHUNK);
    let other = id(61, 5);
    let mut world = World::new(50, &[(1, 70, &[same]), (2, 70, &[other]), (3, 70, &[same])]);
    world.holders.remove(&NodeId(3));
    // Its first holder falls silent after five chunks.
    let mut chunks = 0;
    world.settle(|from, _, message| {
        let is_chunk = matches!(message, SnapshotMessage::Chunk { .. });
        chunks += u32::from(is_chunk);
        from != NodeId(2) && !(is_chunk && chunks > 5)
    });
    assert_eq!(world.seeker.partial(), Some((same, 5 * CHUNK)));
    world.holders.remove(&NodeId(1));
    world.holders.insert(NodeId(3), (Holder::new(world.now, settings(), [same]), Slot(70)));
    world.chunks = 0;
    assert_eq!(world.run(|_, _, _| true), same);
    assert_eq!(world.chunks, 4, "what was there isn't fetched again");

    // After a restart as well; and without anybody who has the same, it starts over.
    let (mut again, part) = (World::new(50, &[(3, 70, &[same])]), (same, 7 * CHUNK));
    (again.seeker, again.file) =
        (Seeker::new(again.now, Slot(50), Some(part)), Some((same, content(same)[..7 * CHUNK as usize].to_vec())));
    assert_eq!((again.run(|_, _, _| true), again.chunks), (same, 2));
    let mut over = World::new(50, &[(2, 70, &[other])]);
    (over.seeker, over.file) = (Seeker::new(over.now, Slot(50), Some(part)), None);
    assert_eq!((over.run(|_, _, _| true), over.chunks), (other, 1));
}

#[test]
fn a_damaged_rest_is_fetched_anew_and_a_damaged_whole_never_again() {
    let same = id(60, 2 * CHUNK);
    let mut world = World::new(50, &[(1, 70, &[same])]);
    // What a power failure may leave: the length is right, the bytes are not.
    world.seeker = Seeker::new(world.now, Slot(50), Some((same, CHUNK)));
    world.file = Some((same, vec![0; CHUNK as usize]));
    assert_eq!((world.run(|_, _, _| true), world.chunks), (same, 3), "the second half, then both");

    // One that its holder gives away damaged: another is taken.
    let damaged = SnapshotId { checksum: 1, ..same };
    let mut world = World::new(50, &[(1, 70, &[damaged])]);
    assert_eq!(world.run(|_, _, _| true), id(70, 3 * CHUNK + 7));
    assert_eq!(world.seeker.at_least(), Slot(61));
}

#[test]
fn what_the_log_has_passed_is_given_up() {
    let (old, new) = (id(60, 3 * CHUNK), id(80, CHUNK));
    let mut world = World::new(50, &[(1, 90, &[old])]);
    world.settle(|_, _, message| !matches!(message, SnapshotMessage::Chunk { .. }));
    assert_eq!(world.seeker.hold().from, Slot(60));
    world.seeker.raise(world.now, Slot(70));
    assert_eq!((world.seeker.partial(), world.seeker.hold().from), (None, Slot(70)));
    world.holders.insert(NodeId(2), (Holder::new(world.now, settings(), [new]), Slot(90)));
    assert_eq!(world.run(|from, _, _| from != NodeId(1)), new);
}

#[test]
fn what_is_given_away_is_bounded_in_speed_and_in_number() {
    let snapshot = id(60, 40 * CHUNK);
    let slow = HolderSettings { transfers_max: 1, bytes_per_second: 4 * CHUNK };
    let mut world = World::new(50, &[(1, 70, &[])]);
    world.holders.insert(NodeId(1), (Holder::new(world.now, slow, [snapshot]), Slot(70)));
    assert_eq!(world.run(|_, _, _| true), snapshot);
    let seconds = world.now.since(Instant(0)).as_secs_f64();
    assert!((8.0..13.0).contains(&seconds), "36 chunks beyond the first credit, four a second: {seconds}");

    // Another one must wait until this one is silent.
    let mut holder = Holder::new(world.now, slow, [snapshot]);
    let ask = SnapshotMessage::Ask { at_least: Slot(50), wanted: None };
    let answer = |holder: &mut Holder, now, from| {
        holder.handle_message(now, NodeId(from), &ask, Slot(70));
        match holder.poll_effect() {
            Some(HolderEffect::Send { message, .. }) => message,
            other => panic!("{other:?}"),
        }
    };
    assert!(matches!(answer(&mut holder, world.now, 2), SnapshotMessage::Offer { .. }));
    let refused = answer(&mut holder, world.now, 3);
    assert!(matches!(refused, SnapshotMessage::Refuse { reason: NoSnapshot::Busy { .. }, .. }), "{refused:?}");
    assert!(matches!(answer(&mut holder, world.now, 2), SnapshotMessage::Offer { .. }), "it has its place");
    let later = world.now.plus(Duration::from_secs(11));
    assert!(matches!(answer(&mut holder, later, 3), SnapshotMessage::Offer { .. }));
}

#[test]
fn old_ones_go_unless_somebody_fetches_them() {
    let mut holder = Holder::new(Instant(0), settings(), [id(10, 5), id(20, 5)]);
    let fetch = SnapshotMessage::Fetch { snapshot: id(10, 5), offset: 0, bytes: 5 };
    holder.handle_message(Instant(0), NodeId(2), &fetch, Slot(99));
    assert!(matches!(holder.poll_effect(), Some(HolderEffect::Read { .. })));
    holder.keep(Instant(0), id(30, 5));
    assert_eq!((holder.stored().len(), holder.poll_effect()), (3, None));
    holder.keep(Instant(20_000_000), id(40, 5));
    assert_eq!(holder.stored(), [id(30, 5), id(40, 5)]);
    assert_eq!(holder.poll_effect(), Some(HolderEffect::Remove { snapshot: id(10, 5) }));
}

#[test]
fn numbers_that_no_honest_peer_names_change_nothing() {
    let now = Instant(0);
    let mut holder = Holder::new(now, settings(), [id(10, 5)]);
    for (offset, bytes) in [(u64::MAX, 1), (0, 0), (5, 1), (0, 6), (0, u32::MAX)] {
        holder.handle_message(now, NodeId(2), &SnapshotMessage::Fetch { snapshot: id(10, 5), offset, bytes }, Slot(99));
        assert_eq!(holder.poll_effect(), None, "{offset} {bytes}");
    }
    let mut seeker = Seeker::new(now, Slot(5), None);
    seeker.poll_effect();
    for (position, bytes) in [(u64::MAX, 5), (7, u64::MAX), (4, 5)] {
        let snapshot = SnapshotId { position: Slot(position), bytes, checksum: 0 };
        seeker.handle_message(now, NodeId(1), SnapshotMessage::Offer { snapshot });
        assert_eq!(seeker.poll_effect(), None);
    }
    // Chunks that nobody asked for, or too long ones, are no part of it.
    let snapshot = id(10, 5);
    seeker.handle_message(now, NodeId(1), SnapshotMessage::Offer { snapshot });
    while seeker.poll_effect().is_some() {}
    for (from, offset, data) in [(2, 0, vec![0; 5]), (1, 0, vec![0; 6]), (1, 1, vec![0; 4]), (1, 0, Vec::new())] {
        seeker.handle_message(now, NodeId(from), SnapshotMessage::Chunk { snapshot, offset, data });
        assert_eq!((seeker.poll_effect(), seeker.partial()), (None, Some((snapshot, 0))));
    }
}

/// A short last chunk fits into what is being saved for the next full one: given away each time, it would keep that from ever
/// being enough.
#[test]
fn what_is_saved_for_one_chunk_is_not_spent_on_those_behind_it() {
    let snapshot = id(60, 7 * CHUNK + 7);
    let slow = HolderSettings { transfers_max: 1, bytes_per_second: 4 * CHUNK };
    let mut holder = Holder::new(Instant(0), slow, [snapshot]);
    let mut fetch = |now, offset: u64, bytes: u64| {
        let message = SnapshotMessage::Fetch { snapshot, offset, bytes: bytes as u32 };
        holder.handle_message(now, NodeId(2), &message, Slot(70));
        match holder.poll_effect() {
            Some(HolderEffect::Send { message: SnapshotMessage::Refuse { reason, .. }, .. }) => Some(reason),
            _ => None,
        }
    };
    for chunk in 0..4 {
        assert_eq!(fetch(Instant(0), chunk * CHUNK, CHUNK), None);
    }
    let now = Instant(20_000);
    let Some(NoSnapshot::Busy { retry_after }) = fetch(now, 4 * CHUNK, CHUNK) else { panic!("it is spent") };
    assert_eq!(fetch(now, 7 * CHUNK, 7), Some(NoSnapshot::Busy { retry_after }), "it comes later");
    assert_eq!(fetch(now.plus(retry_after), 4 * CHUNK, CHUNK), None, "it was saved for this");
}
