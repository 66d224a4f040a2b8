//! State machines of three nodes over a log that is trimmed past them, under loss, crashes and power failures between any two
//! steps: each must hold exactly what the log says for its position, at any time, and all must get to the end.
//!
//! The log is taken for granted here, so a machine that lacks what is trimmed depends on snapshots alone. A few mistakes are
//! planted one by one, and each must be noticed.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use synod_protocol::snapshot::{
    Holder, HolderEffect, HolderSettings, Seeker, SeekerEffect, SnapshotDigest, SnapshotId, SnapshotMessage,
};
use synod_protocol::{Instant, NodeId, Slot};

const NODES: usize = 3;

/// Length of a snapshot: four chunks and a little more.
const SNAPSHOT_BYTES: usize = (1 << 20) + 24;

const STEPS: u32 = 3000;

/// Mistakes of a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plant {
    None,
    /// A snapshot is named for the slot after the one that it stands for.
    OtherSlot,
    /// What has the right length is taken, whatever its bytes are.
    TornTaken,
    /// The position is durable before the state that belongs to it.
    PositionFirst,
}

#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 11) % bound
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }
}

/// What a machine is: a position, and a digest of everything below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Machine {
    position: Slot,
    state: u64,
}

const EMPTY: Machine = Machine { position: Slot::FIRST, state: 7 };

impl Machine {
    fn apply(&mut self, command: u64) {
        self.state = (self.state ^ command).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
        self.position = self.position.plus(1);
    }

    /// The state stands at the end: whatever is torn off is missed.
    fn snapshot(self) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..SNAPSHOT_BYTES as u64 / 8 - 1)
            .flat_map(|at| (at ^ self.state).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
            .collect();
        bytes.extend(self.state.to_le_bytes());
        bytes
    }

    fn restored(position: Slot, bytes: &[u8]) -> Machine {
        let state = bytes.last_chunk().map_or(0, |state| u64::from_le_bytes(*state));
        Machine { position, state }
    }
}

/// A file that is being fetched, and how much of it a power failure leaves for certain.
#[derive(Clone, Debug)]
struct Part {
    snapshot: SnapshotId,
    bytes: Vec<u8>,
    synced: usize,
}

/// What outlives a process.
#[derive(Clone, Debug)]
struct Disk {
    machine: Machine,
    whole: BTreeMap<SnapshotId, Vec<u8>>,
    part: Option<Part>,
}

struct Process {
    holder: Holder,
    seeker: Option<Seeker>,
}

struct World {
    random: Random,
    plant: Plant,
    now: Instant,
    commands: Vec<u64>,
    /// What any log still has begins here.
    base: Slot,
    disks: Vec<Disk>,
    processes: Vec<Option<Process>>,
    mail: VecDeque<(usize, usize, SnapshotMessage)>,
    /// Faults still happen.
    is_rough: bool,
    restores: u32,
    resumed: u32,
    interrupted: u32,
}

/// A process has ended in the middle of something.
struct Crashed;

type Wrong = String;

impl World {
    fn new(seed: u64, plant: Plant) -> World {
        let disk = Disk { machine: EMPTY, whole: BTreeMap::new(), part: None };
        World {
            random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            plant,
            now: Instant(0),
            commands: Vec::new(),
            base: Slot::FIRST,
            disks: vec![disk; NODES],
            processes: (0..NODES).map(|_| None).collect(),
            mail: VecDeque::new(),
            is_rough: true,
            restores: 0,
            resumed: 0,
            interrupted: 0,
        }
    }

    fn end(&self) -> Slot {
        Slot(self.commands.len() as u64 + 1)
    }

    fn start(&mut self, node: usize) {
        let settings = HolderSettings { transfers_max: 2, bytes_per_second: 4 << 20 };
        let holder = Holder::new(self.now, settings, self.disks[node].whole.keys().copied());
        self.processes[node] = Some(Process { holder, seeker: None });
    }

    /// Ends a process; of what isn't synced, a power failure leaves a part as it was, and a part as zeros.
    fn crash(&mut self, node: usize) {
        self.interrupted += u32::from(self.disks[node].part.is_some());
        self.processes[node] = None;
        let loses_power = self.random.one_in(2);
        if let Some(part) = &mut self.disks[node].part
            && loses_power
        {
            let unsynced = part.bytes.len() - part.synced;
            let kept = part.synced + self.random.below(unsynced as u64 + 1) as usize;
            part.bytes[kept..].fill(0);
        }
    }

    fn may_crash(&mut self) -> Result<(), Crashed> {
        if self.is_rough && self.random.one_in(60) { Err(Crashed) } else { Ok(()) }
    }

    /// Is every machine what the log says?
    fn check(&self) -> Result<(), Wrong> {
        for (node, disk) in self.disks.iter().enumerate() {
            let mut expected = EMPTY;
            for command in &self.commands[..disk.machine.position.0 as usize - 1] {
                expected.apply(*command);
            }
            if disk.machine != expected {
                return Err(format!("node {node} has {:?} instead of {expected:?}", disk.machine));
            }
        }
        Ok(())
    }

    fn run(&mut self) -> Result<(), Wrong> {
        for node in 0..NODES {
            self.start(node);
        }
        for _ in 0..STEPS {
            self.step();
            self.check()?;
        }
        // Faults stop, and it must heal.
        self.is_rough = false;
        for _ in 0..40 * STEPS {
            if self.disks.iter().all(|disk| disk.machine.position == self.end()) {
                return Ok(());
            }
            self.step();
            self.check()?;
        }
        Err(format!("they don't get to the end: {:?}", self.disks.iter().map(|disk| disk.machine).collect::<Vec<_>>()))
    }

    fn step(&mut self) {
        let node = self.random.below(NODES as u64) as usize;
        match self.random.below(if self.is_rough { 12 } else { 9 }) {
            0..4 => self.deliver(),
            4..7 => self.act(node),
            7 => self.now = self.now.plus(Duration::from_millis(self.random.below(300))),
            8 if !self.is_rough => self.act(node),
            8 | 9 => {
                let count = self.random.below(4);
                self.commands.extend((0..count).map(|_| self.random.next()).collect::<Vec<_>>());
            }
            10 if self.random.one_in(6) => self.trim(),
            _ if self.random.one_in(8) => self.crash(node),
            _ => {}
        }
    }

    /// Past the machine that has come least far, and never past the others.
    fn trim(&mut self) {
        let mut positions: Vec<Slot> = self.disks.iter().map(|disk| disk.machine.position).collect();
        positions.sort_unstable();
        self.base = self.base.max(positions[NODES - 2]);
    }

    fn act(&mut self, node: usize) {
        if self.processes[node].is_none() {
            return self.start(node);
        }
        if let Err(Crashed) = self.try_act(node) {
            self.crash(node);
        }
    }

    fn try_act(&mut self, node: usize) -> Result<(), Crashed> {
        let position = self.disks[node].machine.position;
        if position >= self.base {
            for _ in 0..self.random.below(4) {
                let machine = &mut self.disks[node].machine;
                if let Some(command) = self.commands.get(machine.position.0 as usize - 1) {
                    machine.apply(*command);
                }
            }
            return self.follow(node);
        }
        let (now, base) = (self.now, self.base);
        // What was fetched before a crash is there.
        let stored = self.disks[node].whole.last_key_value().map(|(snapshot, _)| *snapshot);
        if let Some(snapshot) = stored.filter(|stored| stored.position >= base) {
            self.restore(node, snapshot)?;
            return self.follow(node);
        }
        let part = self.disks[node].part.as_ref().map(|part| (part.snapshot, part.bytes.len() as u64));
        let process = self.processes[node].as_mut().expect("it runs");
        if process.seeker.is_none() {
            self.resumed += u32::from(part.is_some_and(|(_, bytes)| bytes > 0));
            process.seeker = Some(Seeker::new(now, base, part));
        }
        let seeker = process.seeker.as_mut().expect("it was begun");
        seeker.raise(now, base);
        if seeker.poll_deadline().is_some_and(|deadline| deadline <= now) {
            seeker.handle_timeout(now);
        }
        self.follow(node)
    }

    fn restore(&mut self, node: usize, snapshot: SnapshotId) -> Result<(), Crashed> {
        let bytes = self.disks[node].whole.get(&snapshot).expect("it is stored");
        let restored = Machine::restored(snapshot.position, bytes);
        if self.plant == Plant::PositionFirst {
            self.disks[node].machine.position = restored.position;
            self.may_crash()?;
        }
        self.disks[node].machine = restored;
        self.restores += 1;
        let process = self.processes[node].as_mut().expect("it runs");
        process.seeker = None;
        self.may_crash()
    }

    /// Carries out what the seeker and the holder of a node ask for.
    fn follow(&mut self, node: usize) -> Result<(), Crashed> {
        loop {
            let process = self.processes[node].as_mut().expect("it runs");
            let sought = process.seeker.as_mut().and_then(Seeker::poll_effect);
            let held = process.holder.poll_effect();
            if sought.is_none() && held.is_none() {
                return Ok(());
            }
            if let Some(effect) = sought {
                self.carry_out(node, effect)?;
            }
            if let Some(effect) = held {
                self.hold_out(node, effect)?;
            }
            self.may_crash()?;
        }
    }

    fn carry_out(&mut self, node: usize, effect: SeekerEffect) -> Result<(), Crashed> {
        let (now, plant) = (self.now, self.plant);
        let disk = &mut self.disks[node];
        match effect {
            SeekerEffect::Send { to: Some(to), message } => self.mail.push_back((node, to.0 as usize - 1, message)),
            SeekerEffect::Send { to: None, message } => {
                let others = (0..NODES).filter(|other| *other != node);
                self.mail.extend(others.map(|other| (node, other, message.clone())));
            }
            SeekerEffect::Begin { snapshot } => disk.part = Some(Part { snapshot, bytes: Vec::new(), synced: 0 }),
            SeekerEffect::Write { offset, data, .. } => {
                let part = disk.part.as_mut().expect("it was begun");
                assert_eq!(part.bytes.len() as u64, offset, "chunks come in order");
                part.bytes.extend(data);
            }
            SeekerEffect::Finish { snapshot } => {
                let part = disk.part.as_mut().expect("it was begun");
                let mut digest = SnapshotDigest::new();
                digest.update(&part.bytes);
                let is_sound = digest.finish(snapshot.position) == snapshot
                    || plant == Plant::TornTaken && part.bytes.len() as u64 == snapshot.bytes;
                part.synced = part.bytes.len();
                self.may_crash()?;
                let part = self.disks[node].part.take().expect("it was begun");
                let process = self.processes[node].as_mut().expect("it runs");
                if is_sound {
                    self.disks[node].whole.insert(snapshot, part.bytes);
                    process.holder.keep(now, snapshot);
                }
                process.seeker.as_mut().expect("it seeks").finished(now, is_sound);
            }
        }
        Ok(())
    }

    fn hold_out(&mut self, node: usize, effect: HolderEffect) -> Result<(), Crashed> {
        match effect {
            HolderEffect::Send { to, message } => self.mail.push_back((node, to.0 as usize - 1, message)),
            HolderEffect::Make => {
                let machine = self.disks[node].machine;
                let (bytes, mut digest) = (machine.snapshot(), SnapshotDigest::new());
                digest.update(&bytes);
                self.may_crash()?;
                let is_other = self.plant == Plant::OtherSlot && machine.position < self.end();
                let snapshot = digest.finish(machine.position.plus(u64::from(is_other)));
                self.disks[node].whole.insert(snapshot, bytes);
                self.may_crash()?;
                let now = self.now;
                self.processes[node].as_mut().expect("it runs").holder.made(now, Some(snapshot));
            }
            HolderEffect::Read { to, snapshot, offset, bytes } => {
                let whole = self.disks[node].whole.get(&snapshot).expect("it is stored");
                let data = whole[offset as usize..][..bytes as usize].to_vec();
                self.mail.push_back((node, to.0 as usize - 1, SnapshotMessage::Chunk { snapshot, offset, data }));
            }
            HolderEffect::Remove { snapshot } => drop(self.disks[node].whole.remove(&snapshot)),
        }
        Ok(())
    }

    /// The next message, or any other one; perhaps twice, perhaps never.
    fn deliver(&mut self) {
        let count = self.mail.len() as u64;
        if count == 0 {
            return;
        }
        let place = if self.is_rough && self.random.one_in(4) { self.random.below(count) } else { 0 };
        let Some((from, to, message)) = self.mail.remove(place as usize) else { return };
        if self.is_rough && self.random.one_in(12) {
            return;
        }
        if self.is_rough && self.random.one_in(20) {
            self.mail.push_back((from, to, message.clone()));
        }
        let (now, position) = (self.now, self.disks[to].machine.position);
        let Some(process) = &mut self.processes[to] else { return };
        let sender = NodeId(from as u32 + 1);
        process.holder.handle_message(now, sender, &message, position);
        if let Some(seeker) = &mut process.seeker {
            seeker.handle_message(now, sender, message);
        }
        if let Err(Crashed) = self.follow(to) {
            self.crash(to);
        }
    }
}

#[test]
fn every_machine_is_what_the_log_says_and_gets_to_the_end() {
    let (mut restores, mut resumed, mut interrupted) = (0, 0, 0);
    for seed in 0..40 {
        let mut world = World::new(seed, Plant::None);
        if let Err(wrong) = world.run() {
            panic!("seed {seed}: {wrong}");
        }
        (restores, resumed, interrupted) =
            (restores + world.restores, resumed + world.resumed, interrupted + world.interrupted);
    }
    println!("{restores} restored, {resumed} resumed, {interrupted} interrupted");
    assert!(restores > 40 && resumed > 40 && interrupted > 40, "{restores} {resumed} {interrupted}");
}

#[test]
fn what_is_done_wrong_is_noticed() {
    for plant in [Plant::OtherSlot, Plant::TornTaken, Plant::PositionFirst] {
        let caught = (0..200).find(|seed| World::new(*seed, plant).run().is_err());
        println!("{plant:?}: seed {caught:?}");
        assert!(caught.is_some(), "{plant:?}");
    }
}
