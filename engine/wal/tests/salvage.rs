//! Salvage: a sound log says all that recovery says, and no damage makes it panic or invent anything.

mod support;

use support::*;
use synod_protocol::{Ballot, Slot};
use synod_wal::{MemoryStore, RecordKind, SegmentStore, SyncMode, recover, salvage};

/// A log of some segments, with what a node does in it, as it is after some random number of steps and a crash.
fn crashed(seed: u64) -> MemoryStore {
    let mut random = Random(seed);
    let sync = [SyncMode::Dsync, SyncMode::Fdatasync][(seed % 2) as usize];
    let mut machine = Machine::fresh(sync, 4);
    let mut round = 0;
    for life in 0..random.below(4) {
        let disk = live(machine, &mut random, &mut round, seed);
        let Ok(log) = recover(&disk.durable, &identity(9).expected(), SEGMENT_BYTES) else { return disk.durable };
        machine = Machine::start(disk, sync, log, life + 2);
        machine.settle();
    }
    live(machine, &mut random, &mut round, seed).durable
}

/// One life of a node, up to a crash.
fn live(mut machine: Machine, random: &mut Random, round: &mut u64, seed: u64) -> Disk {
    let chosen = machine.wal.index().iter_from(Slot(0)).take_while(|entry| entry.chosen.is_some());
    let mut mark = chosen.fold(machine.wal.index().base(), |mark, entry| mark.after(&entry.body));
    *round += 1;
    for step in 0..random.below(60) {
        let body = match random.below(4) {
            0 => commands(mark.slot.0, 2, 9000, seed * 1000 + *round * 100 + step),
            _ => noop(mark.slot.0, 2, seed * 1000 + *round * 100 + step),
        };
        let appended = match random.below(10) {
            0 => {
                *round += 1;
                machine.append(&meta(RecordKind::Promise, Ballot::ZERO, ballot(*round), mark), None)
            }
            1 => machine.append(&meta(RecordKind::Mark, Ballot::ZERO, ballot(*round), mark), None),
            2 if mark.slot.0 > 20 => machine.trim(mark, ballot(*round)),
            _ => {
                let appended =
                    machine.append(&meta(RecordKind::Accepted, ballot(*round), ballot(*round), mark), Some(&body));
                if appended.is_some() {
                    mark = mark.after(&body.handle);
                    machine.wal.index_mut().mark_chosen(body.handle.first, mark.chain);
                }
                appended
            }
        };
        if appended.is_none() || random.chance(70) {
            machine.settle();
        }
        for _ in 0..random.below(4) {
            machine.step(random);
        }
    }
    machine.crash(random)
}

#[test]
fn a_sound_log_is_salvaged_as_it_is_recovered() {
    let (mut sound, mut bodies) = (0, 0);
    for seed in 0..600 {
        let store = crashed(seed);
        let Ok(log) = recover(&store, &identity(9).expected(), SEGMENT_BYTES) else { continue };
        let found = salvage(&store, &identity(9).expected(), SEGMENT_BYTES).unwrap();
        assert!(!found.lost_unknown && !found.lost_promise, "seed {seed}: {:?}", found.findings);
        assert!(found.lost.is_empty() && found.findings.is_empty(), "seed {seed}: {:?}", found.findings);
        assert!(found.promised >= log.promised && found.epoch_next >= log.epoch_next, "seed {seed}");
        assert!(found.index.base().slot >= log.index.base().slot, "seed {seed}");
        for entry in log.index.iter_from(found.index.base().slot) {
            let salvaged = found.index.containing(entry.body.first);
            // What recovery cut may be there too, and supersede what it knows.
            let known = salvaged.is_some_and(|salvaged| salvaged.ballot >= entry.ballot || salvaged.chosen.is_some());
            assert!(known, "seed {seed}: slot {}", entry.body.first);
            assert!(salvaged.is_some_and(|now| entry.chosen.is_none() || now.chosen == entry.chosen), "seed {seed}");
            bodies += 1;
        }
        sound += 1;
    }
    assert!(sound > 400 && bodies > 1000, "{sound} logs with {bodies} bodies");
}

#[test]
fn no_damage_panics_or_invents() {
    let mut random = Random(5);
    let mut noticed = 0;
    for seed in 0..400 {
        let mut store = crashed(seed);
        let Ok(sound) = recover(&store, &identity(9).expected(), SEGMENT_BYTES) else { continue };
        let files = store.files().unwrap();
        for _ in 0..=random.below(3) {
            let file = files[random.below(files.len() as u64) as usize];
            let content = store.content_mut(file).unwrap();
            if content.is_empty() {
                continue;
            }
            let at = random.below(content.len() as u64) as usize;
            match random.below(4) {
                0 => content.truncate(at),
                1 => {
                    let block = at / 4096 * 4096;
                    let end = content.len().min(block + 4096);
                    content[block..end].fill(0);
                }
                2 => {
                    let block = at / 4096 * 4096;
                    let end = content.len().min(block + 4096);
                    if end - block == 4096 && at - block < 400 {
                        content[at] ^= 1 << random.below(8);
                        seal_again(&mut content[block..end]);
                    }
                }
                _ => content[at] ^= 1 << random.below(8),
            }
        }
        let found = salvage(&store, &identity(9).expected(), SEGMENT_BYTES).unwrap();
        noticed += u32::from(!found.findings.is_empty());
        for entry in found.index.iter_from(Slot(0)).filter(|entry| entry.chosen.is_some()) {
            let known = sound.index.get(entry.body.first);
            assert!(known.is_none_or(|known| known.body == entry.body), "seed {seed}: slot {}", entry.body.first);
        }
    }
    assert!(noticed > 50, "{noticed}");
}

/// A log may be whole and say of itself that it isn't: records were lost before, and whether that matters isn't settled.
#[test]
fn a_log_that_is_unsure_of_its_promise_lacks_something() {
    let mut machine = Machine::fresh(SyncMode::Dsync, 4);
    let mut said = meta(RecordKind::Mark, Ballot::ZERO, ballot(3), synod_protocol::Mark::START);
    let mut salvaged = |unsure: bool| {
        said.unsure = unsure;
        machine.append_now(&said, None);
        salvage(&machine.disk.live, &identity(9).expected(), SEGMENT_BYTES).unwrap()
    };
    let sure = salvaged(false);
    assert!(sure.findings.is_empty() && !sure.lost_promise, "{:?}", sure.findings);
    let unsure = salvaged(true);
    assert!(unsure.lost_promise && unsure.lost_unknown);
    assert!(unsure.findings[0].what.contains("wasn't sure of its promise"), "{:?}", unsure.findings);
    let sure_again = salvaged(false);
    assert!(sure_again.findings.is_empty() && !sure_again.lost_promise, "{:?}", sure_again.findings);
}
