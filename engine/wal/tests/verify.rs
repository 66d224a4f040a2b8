//! Every kind of finding, on logs that are damaged by hand.

mod support;

use support::*;
use synod_protocol::{Mark, Slot};
use synod_wal::scan::read_segment_header;
use synod_wal::verify::{Class, Finding, check_fresh, check_segment, check_unneeded, conclude};
use synod_wal::{Damage, DamageCause, DamageClass, FileId, MemoryStore, RecordKind, SegmentStore, SyncMode, recover};

/// A log of bodies of two blocks, with a mark at its end that proves them: two sealed segments and an open one.
fn log() -> Machine {
    let mut machine = Machine::fresh(SyncMode::Dsync, 5);
    let mut mark = Mark::START;
    for number in 0..14 {
        let body = commands(mark.slot.0, 2, 5000, number);
        machine.append_now(&meta(RecordKind::Accepted, ballot(1), ballot(1), mark), Some(&body));
        mark = mark.after(&body.handle);
    }
    machine.append_now(&meta(RecordKind::Mark, ballot(1), ballot(1), mark), None);
    machine
}

fn store() -> MemoryStore {
    log().disk.live
}

fn flip(store: &mut MemoryStore, file: u32, offset: u64) {
    store.content_mut(FileId(file)).unwrap()[offset as usize] ^= 1;
}

fn places(findings: &[Finding]) -> Vec<(Class, Option<u32>, u64)> {
    findings.iter().map(|finding| (finding.class, finding.file.map(|file| file.0), finding.offset)).collect()
}

#[test]
fn a_sound_log_has_no_findings_and_its_chain_is_known() {
    let machine = log();
    let recovered = synod_wal::recover(&machine.disk.live, &identity(1).expected(), SEGMENT_BYTES).unwrap();
    let conclusion = verified(&machine.disk.live);
    assert_eq!(conclusion.findings, []);
    let summary = conclusion.summary;
    assert_eq!((summary.mark, summary.base, summary.promised), (recovered.mark, Mark::START, recovered.promised));
    assert_eq!((summary.records, summary.mark.slot), (15, Slot(29)));
    assert_eq!(summary.segments, recovered.segments.len() as u64);
}

#[test]
fn all_damaged_records_of_all_segments_are_found_with_their_slots() {
    let mut store = store();
    // The second block of the second body, the first block of the fourth, and a record of another segment.
    flip(&mut store, 1, 4 * BLOCK + 9);
    flip(&mut store, 1, 7 * BLOCK + 300);
    flip(&mut store, 2, BLOCK + 8);
    let findings = verified(&store).findings;
    let expected =
        [(Class::Corrupt, Some(1), 3 * BLOCK), (Class::Corrupt, Some(1), 7 * BLOCK), (Class::Corrupt, Some(2), BLOCK)];
    assert_eq!(places(&findings), expected, "{findings:#?}");
    let slots: Vec<_> = findings.iter().map(|finding| finding.slots.clone().unwrap()).collect();
    assert_eq!(slots[..2], [Slot(3)..Slot(5), Slot(7)..Slot(9)]);
    assert!(slots[2].start >= Slot(9) && slots[2].end == Slot(slots[2].start.0 + 2), "{slots:?}");
    for finding in &findings {
        assert!(finding.expected.is_some() && finding.actual.is_some() && finding.expected != finding.actual);
    }
}

#[test]
fn an_unfinished_write_is_torn_and_no_damage() {
    let machine = log();
    let mut store = machine.disk.live.clone();
    // A record of two blocks behind the proven end, of which only the first arrived.
    let body = commands(29, 2, 5000, 99);
    let mut machine = machine;
    let meta = meta(RecordKind::Accepted, ballot(1), ballot(1), Mark::START);
    machine.append(&meta, Some(&body)).unwrap();
    let mut changed = Vec::new();
    for file in machine.disk.live.files().unwrap() {
        let (before, after) = (store.content(file).unwrap(), machine.disk.live.content(file).unwrap());
        let blocks = before.chunks(BLOCK as usize).zip(after.chunks(BLOCK as usize)).enumerate();
        changed.extend(blocks.filter(|(_, (before, after))| before != after).map(|(number, _)| (file, number as u64)));
    }
    assert_eq!(changed.len(), 2, "the record, and no other write");
    let (file, block) = changed[0];
    let bytes = machine.disk.live.content(file).unwrap()[(block * BLOCK) as usize..][..BLOCK as usize].to_vec();
    store.write_at(file, block * BLOCK, &bytes);
    let conclusion = verified(&store);
    assert_eq!(places(&conclusion.findings), [(Class::Torn, Some(file.0), block * BLOCK)]);
    assert!(!conclusion.findings[0].class.is_damage());
    assert_eq!(conclusion.summary.mark.slot, Slot(29));
    // Rubbish instead is explained by no write, unless somebody is writing.
    store.write_at(file, (block + 1) * BLOCK, &[7; BLOCK as usize]);
    assert_eq!(places(&verified(&store).findings), [(Class::Doubtful, Some(file.0), block * BLOCK)]);
    assert_eq!(places(&verified_as(&store, true).findings), [(Class::Torn, Some(file.0), block * BLOCK)]);
}

#[test]
fn records_behind_an_unfinished_one_are_counted() {
    let mut machine = Machine::fresh(SyncMode::Dsync, 4);
    for slot in 1..=4 {
        // None says that anything before it was durable.
        machine
            .append(&meta(RecordKind::Accepted, ballot(1), ballot(1), Mark::START), Some(&noop(slot, 1, 1)))
            .map_or_else(
                || {
                    machine.settle();
                    machine
                        .append(&meta(RecordKind::Accepted, ballot(1), ballot(1), Mark::START), Some(&noop(slot, 1, 1)))
                },
                Some,
            );
    }
    let mut store = machine.disk.live.clone();
    store.write_at(FileId(1), 2 * BLOCK, &[0; BLOCK as usize]);
    let conclusion = verified(&store);
    assert_eq!(places(&conclusion.findings), [(Class::Torn, Some(1), 2 * BLOCK)], "{conclusion:#?}");
    assert!(conclusion.findings[0].what.contains("2 sound records"), "{conclusion:#?}");
    assert_eq!((conclusion.summary.records, conclusion.summary.records_discarded), (1, 2));
}

#[test]
fn a_lost_record_in_the_middle_is_corrupt() {
    let mut store = store();
    store.write_at(FileId(1), 3 * BLOCK, &[0; 2 * BLOCK as usize]);
    let findings = verified(&store).findings;
    assert_eq!(places(&findings), [(Class::Corrupt, Some(1), 3 * BLOCK)]);
    assert_eq!(findings[0].slots, Some(Slot(3)..Slot(5)));
}

#[test]
fn damage_to_a_seal_is_latent_while_records_are_whole() {
    let geometry = geometry();
    let whole = geometry.footer_offset();
    for offset in [whole, geometry.table_offset(), geometry.table_offset() - BLOCK] {
        let mut store = store();
        flip(&mut store, 1, offset + 100);
        let findings = verified(&store).findings;
        assert_eq!(places(&findings), [(Class::Latent, Some(1), offset)], "{findings:#?}");
        assert!(findings[0].expected.is_some(), "{findings:#?}");
    }
}

#[test]
fn index_table_and_footer_are_held_against_the_records() {
    let geometry = geometry();
    let cases = [
        // First entry of the table, a count of the footer, an entry of the index: right checksums, wrong content.
        (geometry.table_offset(), 64, "table"),
        (geometry.footer_offset(), 64, "footer"),
        (geometry.table_offset() - BLOCK, 64 + 24, "index"),
    ];
    for (block, field, named) in cases {
        let mut store = store();
        let content = &mut store.content_mut(FileId(1)).unwrap()[block as usize..][..BLOCK as usize];
        content[field] ^= 1;
        seal_again(content);
        let findings = verified(&store).findings;
        assert!(!findings.is_empty(), "{named}");
        assert!(findings.iter().all(|finding| finding.class == Class::Latent), "{named}: {findings:#?}");
        assert!(findings.iter().any(|finding| finding.what.contains(named)), "{named}: {findings:#?}");
        assert!(findings.iter().all(|finding| finding.expected != finding.actual));
    }
}

#[test]
fn a_missing_segment_and_one_that_was_cut_short() {
    let machine = log();
    let mut store = machine.disk.live.clone();
    let epochs = headers(&store);
    let (file, _) = epochs[&2];
    store.remove(file);
    let findings = verified(&store).findings;
    assert_eq!((findings[0].class, findings[0].file), (Class::Corrupt, None), "{findings:#?}");
    assert!(findings[0].what.contains("segment 2 is missing"));
    let slots = findings[0].slots.clone().unwrap();
    assert!(slots.start > Slot(1) && slots.end < Slot(29), "{slots:?}");

    let mut store = machine.disk.live;
    store.content_mut(file).unwrap().truncate(5 * BLOCK as usize);
    let findings = verified(&store).findings;
    assert_eq!(places(&findings), [(Class::Corrupt, Some(file.0), 5 * BLOCK)], "{findings:#?}");
}

#[test]
fn a_sealed_segment_without_a_successor() {
    let machine = log();
    let mut store = machine.disk.live;
    let epochs = headers(&store);
    for epoch in [3, 4, 5] {
        if let Some((file, _)) = epochs.get(&epoch) {
            store.remove(*file);
        }
    }
    let findings = verified(&store).findings;
    assert_eq!(findings.len(), 1, "{findings:#?}");
    assert!(findings[0].what.contains("the one after it is missing"));
}

#[test]
fn a_segment_of_another_history_does_not_follow() {
    let mut store = store();
    // The first record of the second segment says that it follows another one.
    let record = &mut store.content_mut(FileId(2)).unwrap()[BLOCK as usize..][..BLOCK as usize];
    record[12] ^= 1;
    seal_again(record);
    let findings = verified(&store).findings;
    assert!(
        findings.iter().any(|finding| finding.class == Class::Corrupt && finding.what.contains("doesn't follow")),
        "{findings:#?}"
    );
}

#[test]
fn a_record_that_contradicts_another_is_named() {
    let mut machine = Machine::fresh(SyncMode::Dsync, 4);
    for (round, body) in [(1, noop(1, 2, 1)), (2, noop(2, 1, 2))] {
        machine.append_now(&meta(RecordKind::Accepted, ballot(round), ballot(2), Mark::START), Some(&body));
    }
    let mut store = machine.disk.live.clone();
    let record = &mut store.content_mut(FileId(1)).unwrap()[2 * BLOCK as usize..][..BLOCK as usize];
    record[48] = 1;
    seal_again(record);
    let findings = verified(&store).findings;
    assert!(findings.iter().any(|finding| finding.what.contains("contradicts body")), "{findings:#?}");
}

#[test]
fn what_a_running_node_gives_up_meanwhile_is_no_damage() {
    let machine = log();
    let before = machine.disk.live.clone();
    let (file, header) = headers(&before)[&1].clone();
    // The file begins another life while the segment is read.
    let mut store = before.clone();
    let (_, other) = headers(&before)[&2].clone();
    let block = before.content(headers(&before)[&2].0).unwrap()[..BLOCK as usize].to_vec();
    store.write_at(file, 0, &block);
    store.write_at(file, 3 * BLOCK, &[9; BLOCK as usize]);
    let check = check_segment(&store, file, geometry(), &header, None, true);
    let next = check_segment(&before, headers(&before)[&2].0, geometry(), &other, None, true);
    let conclusion = conclude(geometry(), vec![check, next], &[], true);
    assert_eq!(conclusion.findings, []);
    let check = check_segment(&store, file, geometry(), &header, None, false);
    assert!(!conclude(geometry(), vec![check], &[], false).findings.is_empty());
}

#[test]
fn the_pool_is_looked_at_as_well() {
    let mut fresh = MemoryStore::new();
    fresh.create(FileId(9), SEGMENT_BYTES);
    let expected = identity(1).expected();
    assert_eq!(check_fresh(&fresh, FileId(9), geometry(), &expected, 1), []);
    flip(&mut fresh, 9, 7 * BLOCK + 5);
    let findings = check_fresh(&fresh, FileId(9), geometry(), &expected, 1);
    assert_eq!(places(&findings), [(Class::Latent, Some(9), 7 * BLOCK)]);

    // A file with records of a life whose header is gone.
    let machine = log();
    let mut store = machine.disk.live.clone();
    store.write_at(FileId(1), 0, &[0; BLOCK as usize]);
    let findings = check_fresh(&store, FileId(1), geometry(), &expected, 1);
    assert_eq!(findings[0].class, Class::Corrupt, "{findings:#?}");

    // A sealed segment that isn't needed any more still serves the block test.
    let mut store = machine.disk.live;
    let header = read_segment_header(&store, FileId(1), geometry()).unwrap().unwrap();
    assert_eq!(check_unneeded(&store, FileId(1), geometry(), &header, 2), []);
    let table = &mut store.content_mut(FileId(1)).unwrap()[geometry().table_offset() as usize..][..BLOCK as usize];
    table[64 + 4 * 3] ^= 1;
    seal_again(table);
    let findings = check_unneeded(&store, FileId(1), geometry(), &header, 2);
    assert_eq!(places(&findings), [(Class::Latent, Some(1), 3 * BLOCK)]);
}

#[test]
fn a_flipped_bit_anywhere_in_a_needed_segment_is_found() {
    let sound = store();
    let mut random = Random(5);
    for _ in 0..600 {
        let file = 1 + random.below(2) as u32;
        let offset = random.below(SEGMENT_BYTES - BLOCK) + BLOCK;
        let mut store = sound.clone();
        flip(&mut store, file, offset);
        let findings = verified(&store).findings;
        assert!(findings.iter().any(|finding| finding.class.is_damage()), "{file} {offset}: {findings:#?}");
        let near = findings.iter().any(|finding| finding.offset <= offset && offset < finding.offset + 4 * BLOCK);
        assert!(near, "{file} {offset}: {findings:#?}");
    }
}

#[test]
fn packs_are_looked_at_body_by_body() {
    let mut machine = Machine::fresh(SyncMode::Dsync, 5);
    let mut mark = Mark::START;
    for number in 0..40 {
        let bodies: Vec<Body> =
            (0..5).map(|body| commands(mark.slot.0 + 2 * body, 2, 900, 10 * number + body)).collect();
        machine.append_pack_now(ballot(1), mark, &bodies);
        mark = bodies.iter().fold(mark, |mark, body| mark.after(&body.handle));
    }
    machine.append_now(&meta(RecordKind::Mark, ballot(1), ballot(1), mark), None);
    let sound = machine.disk.live;
    let conclusion = verified(&sound);
    assert_eq!(conclusion.findings, []);
    assert_eq!((conclusion.summary.mark, conclusion.index.len()), (mark, 200));
    assert!(conclusion.summary.segments > 2, "packs in sealed segments too");

    // A byte inside the third body of the first pack: the whole pack's slots are in doubt.
    let mut store = sound;
    flip(&mut store, 1, BLOCK + 3000);
    let findings = verified(&store).findings;
    assert_eq!(places(&findings), [(Class::Corrupt, Some(1), BLOCK)], "{findings:#?}");
    assert_eq!(findings[0].slots, Some(Slot(1)..Slot(11)));
}

/// What recovery calls damaged is a finding of the same class at the same place, and the other way round. Only a damaged
/// seal whose records are whole is less to those who look: nothing is lost but what describes them.
#[test]
fn findings_are_what_recovery_finds() {
    let mut store = store();
    let (mut damaged, mut latent, mut harmless) = (0, 0, 0);
    for file in 1..=3 {
        // What a header says is gone with it; recovery puts together what it can.
        for offset in (BLOCK..SEGMENT_BYTES).step_by(211) {
            flip(&mut store, file, offset);
            let recovered = recover(&store, &identity(1).expected(), SEGMENT_BYTES).unwrap();
            let conclusion = verified(&store);
            let what = format!("file {file} byte {offset}: {:?} {:#?}", recovered.damages, conclusion.findings);
            let class = |damage: &Damage| match (&damage.cause, damage.class) {
                (DamageCause::Seal, DamageClass::Corrupt) => Class::Latent,
                (_, DamageClass::Corrupt) => Class::Corrupt,
                (_, DamageClass::Doubtful) => Class::Doubtful,
            };
            for damage in &recovered.damages {
                let same = |finding: &&Finding| finding.class == class(damage) && finding.file == Some(damage.file);
                let found = conclusion.findings.iter().find(same);
                // A first record that doesn't follow is told with what lies in front of it.
                let whole = matches!(damage.cause, DamageCause::Seal | DamageCause::Previous { .. });
                let near = found.is_some_and(|found| whole || found.offset == damage.offset);
                assert!(near, "{what}");
            }
            let worst = conclusion.findings.iter().map(|finding| finding.class).max();
            match worst {
                Some(Class::Corrupt | Class::Doubtful) => damaged += 1,
                Some(Class::Latent) => latent += 1,
                Some(Class::Torn) | None => harmless += 1,
            }
            assert_eq!(
                worst >= Some(Class::Doubtful),
                recovered.damages.iter().any(|damage| class(damage) > Class::Latent),
                "{what}"
            );
            assert_eq!(conclusion.summary.promised, recovered.promised, "{what}");
            assert!(conclusion.summary.mark.slot <= recovered.mark.slot, "{what}");
            flip(&mut store, file, offset);
        }
    }
    assert!(damaged > 400 && latent > 20 && harmless > 50, "{damaged} damaged, {latent} latent, {harmless} harmless");
}

/// A record that is damaged, and a later one that holds the same body: the damage is still there, and nothing is missing.
#[test]
fn what_is_healed_is_told() {
    let mut machine = Machine::fresh(SyncMode::Dsync, 5);
    let mut mark = Mark::START;
    let bodies: Vec<Body> = (0..4).map(|number| commands(1 + 2 * number, 2, 5000, number)).collect();
    for body in &bodies {
        machine.append_now(&meta(RecordKind::Accepted, ballot(1), ballot(1), mark), Some(body));
        mark = mark.after(&body.handle);
    }
    let offset = 4 * BLOCK + 70;
    flip(&mut machine.disk.live, 1, offset);
    let told =
        |store: &MemoryStore| verified(store).findings.iter().map(|finding| finding.what.clone()).collect::<String>();
    machine.append_now(&meta(RecordKind::Mark, ballot(1), ballot(1), mark), None);
    assert!(!told(&machine.disk.live).contains("again"), "{}", told(&machine.disk.live));
    machine.append_now(&meta(RecordKind::Healed, synod_protocol::Ballot::ZERO, ballot(1), mark), Some(&bodies[1]));
    machine.append_now(&meta(RecordKind::Mark, ballot(1), ballot(1), mark), None);
    let conclusion = verified(&machine.disk.live);
    assert_eq!(conclusion.findings.len(), 1, "{:#?}", conclusion.findings);
    assert!(told(&machine.disk.live).contains("the node has these slots again"), "{}", told(&machine.disk.live));
    assert_eq!((conclusion.findings[0].class, conclusion.summary.mark), (Class::Corrupt, mark));
}
