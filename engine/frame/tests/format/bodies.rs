//! Bodies: lengths, sizing, encoding into buffers of any content, and views.

use proptest::prelude::*;
use synod_frame::{
    BLOCK_BYTES, BODY_HEADER_BYTES, Batch, BodyBounds, BodyError, BodyHeader, BodyLayout, CommandsError, CommandsPlan,
    CommandsView, ConfigurationBody, ConfigurationBodyError, EMPTY_BODY, EncodeError, RECORD_HEADER_BYTES,
    RecordBuffer, Submission, encode_commands, encode_configuration, encode_noop, encode_trim, stamp,
    verify_body_in_record,
};
use synod_protocol::delivery::{SessionId, Terms, TicketId};
use synod_protocol::limits::{BODY_BYTES_MAX, BODY_SLOTS_MAX};
use synod_protocol::{BodyHandle, BodyKind, ConfigurationError, NodeId, Slot};

use crate::recode::{body_bytes, read_commands};
use crate::samples::{configuration, origin};

/// The layout as its definition says: the fewest blocks that hold the record whose table has an entry for each.
fn slow_layout(archive_bytes: usize) -> Option<(usize, usize)> {
    let header_bytes = |blocks: usize| BODY_HEADER_BYTES + (blocks * 4).div_ceil(64) * 64;
    let blocks = (1..).find(|blocks| {
        (RECORD_HEADER_BYTES + header_bytes(*blocks) + archive_bytes).div_ceil(BLOCK_BYTES) == *blocks
    })?;
    let body_bytes = header_bytes(blocks) + archive_bytes;
    (body_bytes <= BODY_BYTES_MAX as usize).then_some((blocks, body_bytes))
}

#[test]
fn every_archive_has_the_layout_that_the_definition_gives() {
    let near_block_ends = (0..=BODY_BYTES_MAX as usize).filter(|bytes| bytes % BLOCK_BYTES % 4000 < 128);
    for archive_bytes in near_block_ends.chain(0..20_000) {
        let fast = BodyLayout::new(archive_bytes as u64).map(|layout| {
            assert_eq!(layout.archive_range().len(), archive_bytes);
            assert_eq!(layout.record_bytes(), layout.padding_range().end);
            (layout.blocks as usize, layout.body_bytes as usize)
        });
        assert_eq!(fast, slow_layout(archive_bytes), "archive of {archive_bytes} bytes");
    }
    assert_eq!(BodyLayout::LARGEST.body_bytes, BODY_BYTES_MAX);
    assert_eq!(BodyLayout::new(u64::from(BodyLayout::LARGEST.archive_bytes) + 1), None);
    assert_eq!(BodyLayout::new(u64::MAX), None);
}

fn submissions(batches: &[Batch]) -> Vec<Submission<'_>> {
    batches.iter().enumerate().map(|(index, batch)| Submission::under(&terms(index), batch)).collect()
}

/// Terms of all sorts: every second submission is one of a session, every third expects a slot.
fn terms(index: usize) -> Terms {
    let slot = Slot(index as u64 + 1);
    Terms {
        session: index.is_multiple_of(2).then_some((SessionId(slot), slot.0)),
        ticket: Some(TicketId(Slot(5))),
        expected_slot: (index % 3 == 1).then_some(slot),
    }
}

fn batch_strategy() -> impl Strategy<Value = Batch> {
    let fixed = (1usize..200, 1usize..60).prop_map(|(stride, count)| {
        Batch::from_fixed((0..stride * count).map(|index| index as u8).collect(), stride as u32).unwrap()
    });
    let mixed = proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..40)
        .prop_map(|commands| commands.iter().collect::<Batch>());
    let empty = (1usize..10).prop_map(|count| std::iter::repeat_n(b"", count).collect::<Batch>());
    prop_oneof![3 => fixed, 3 => mixed, 1 => empty]
}

/// Batches of one stride as often as not, for that is the fast path.
fn batches_strategy() -> impl Strategy<Value = Vec<Batch>> {
    let uniform = (1usize..300, proptest::collection::vec(1usize..50, 1..12)).prop_map(|(stride, counts)| {
        let batch = |count| Batch::from_fixed(vec![count as u8; stride * count], stride as u32).unwrap();
        counts.into_iter().map(batch).collect::<Vec<_>>()
    });
    prop_oneof![uniform, proptest::collection::vec(batch_strategy(), 1..12)]
}

proptest! {
    #[test]
    fn a_plan_is_exact_and_bodies_give_back_their_commands(batches in batches_strategy(), filler: u8) {
        let mut plan = CommandsPlan::new();
        for (index, batch) in batches.iter().enumerate() {
            plan.try_push_under(&terms(index), batch, &BodyBounds::LARGEST).unwrap();
        }
        let layout = plan.layout().unwrap();
        let submissions = submissions(&batches);

        // A block less is too short, and what the buffer held before doesn't matter.
        let mut record = RecordBuffer::zeroed(layout.record_bytes());
        let needed = layout.record_bytes();
        prop_assert_eq!(
            encode_commands(&mut record.as_mut()[..needed - 1], &origin(1), &submissions),
            Err(EncodeError::Buffer { needed, found: needed - 1 })
        );
        record.as_mut().fill(filler);
        let handle = encode_commands(record.as_mut(), &origin(1), &submissions).unwrap();
        let mut zeroed = RecordBuffer::zeroed(layout.record_bytes() + BLOCK_BYTES);
        encode_commands(zeroed.as_mut(), &origin(1), &submissions).unwrap();
        prop_assert!(record.as_ref()[RECORD_HEADER_BYTES..] == zeroed.as_ref()[RECORD_HEADER_BYTES..needed]);
        prop_assert!(record.as_ref()[..RECORD_HEADER_BYTES].iter().all(|byte| *byte == filler));

        let header = verify_body_in_record(record.as_ref()).unwrap();
        prop_assert_eq!(header.layout, layout);
        prop_assert_eq!(header.handle(), handle);
        prop_assert_eq!(header.count as usize, batches.iter().map(Batch::len).sum::<usize>());
        let body = body_bytes(record.as_ref());
        prop_assert_eq!(body.len(), handle.bytes as usize);

        let (rows, found) = read_commands(&header, body).unwrap();
        prop_assert_eq!(&found, &batches);
        for (index, (row, submission)) in rows.iter().zip(&submissions).enumerate() {
            prop_assert_eq!(row.submitted().terms, terms(index));
            prop_assert_eq!(
                (row.session, row.sequence, row.ticket, row.expected_slot),
                (submission.session, submission.sequence, submission.ticket, submission.expected_slot)
            );
        }
        let view = CommandsView::new(&header, body).unwrap();
        prop_assert!(view.iter().map(Result::unwrap).eq(batches.iter().flat_map(Batch::iter)));
        prop_assert_eq!(view.get(view.len()), Err(CommandsError::NoSuchCommand { index: view.len(), count: view.len() }));
        prop_assert!(view.blob().as_ptr().addr().is_multiple_of(16));
    }

    #[test]
    fn bounds_hold(
        batches in proptest::collection::vec(batch_strategy(), 1..30),
        commands_max in 1u32..500,
        blocks in 1usize..8,
    ) {
        let bounds = BodyBounds { commands_max, record_bytes_max: blocks * BLOCK_BYTES };
        let mut plan = CommandsPlan::new();
        let mut taken = Vec::new();
        for batch in &batches {
            if plan.try_push_under(&terms(taken.len()), batch, &bounds).is_ok() {
                taken.push(batch.clone());
            }
        }
        prop_assert_eq!((plan.submissions(), plan.commands()), (taken.len(), taken.iter().map(Batch::len).sum()));
        prop_assert!(plan.commands() <= commands_max as usize);
        if !taken.is_empty() {
            let mut record = RecordBuffer::zeroed(bounds.record_bytes_max);
            encode_commands(record.as_mut(), &origin(1), &submissions(&taken)).unwrap();
            verify_body_in_record(record.as_ref()).unwrap();
        }
    }
}

#[test]
fn the_largest_body_is_made_and_read() {
    let room = BodyLayout::LARGEST.archive_bytes - 32 - 28;
    let batch = Batch::from_fixed(vec![0x5a; room as usize], room).unwrap();
    let mut record = RecordBuffer::zeroed(BodyLayout::LARGEST.record_bytes());
    let handle = encode_commands(record.as_mut(), &origin(1), &submissions(std::slice::from_ref(&batch))).unwrap();
    assert_eq!((handle.bytes, handle.count), (BODY_BYTES_MAX, 1));
    let header = verify_body_in_record(record.as_ref()).unwrap();
    assert_eq!(read_commands(&header, body_bytes(record.as_ref())).unwrap().1, [batch]);

    let batch = Batch::from_fixed(vec![0x5a; room as usize + 1], room + 1).unwrap();
    let too_large = encode_commands(record.as_mut(), &origin(1), &submissions(&[batch]));
    // The root is aligned, so one byte more costs four.
    assert_eq!(
        too_large,
        Err(EncodeError::TooLarge { commands: 1, archive_bytes: u64::from(BodyLayout::LARGEST.archive_bytes) + 4 })
    );
}

#[test]
fn what_no_body_may_be_is_not_made() {
    let mut record = RecordBuffer::zeroed(BLOCK_BYTES);
    let record = record.as_mut();
    assert_eq!(encode_commands(record, &origin(1), &[]), Err(EncodeError::Empty));
    assert_eq!(encode_commands(record, &origin(1), &submissions(&[Batch::new()])), Err(EncodeError::Empty));
    for (first, count) in [(0, 1), (1, 0), (1, BODY_SLOTS_MAX + 1), (u64::MAX, 1)] {
        let slots = Err(EncodeError::Slots { first: Slot(first), count });
        assert_eq!(encode_noop(record, &origin(first), count), slots);
    }
    assert_eq!(encode_trim(record, &origin(1), Slot(0)), Err(EncodeError::TrimPoint));
    assert_eq!(encode_noop(&mut record[..100], &origin(1), 1), Err(EncodeError::Buffer { needed: 4096, found: 100 }));
    let mut crowd = configuration();
    crowd.members = [crowd.members.clone(), crowd.members.clone(), crowd.members.clone(), crowd.members].concat();
    assert_eq!(encode_configuration(record, &origin(1), &crowd), Err(EncodeError::Members { members: 12 }));
}

#[test]
fn small_bodies_are_named_by_their_content() {
    let mut record = RecordBuffer::zeroed(BLOCK_BYTES);
    let record = record.as_mut();
    let noop = encode_noop(record, &origin(5), 10).unwrap();
    assert_eq!(
        (noop.kind, noop.first, noop.end(), noop.bytes),
        (BodyKind::NoOp, Slot(5), Slot(15), EMPTY_BODY.body_bytes)
    );
    let longer = encode_noop(record, &origin(5), 11).unwrap();
    let trim = encode_trim(record, &origin(5), Slot(3)).unwrap();
    assert_eq!(trim.kind, BodyKind::Trim { upto: Slot(3) });
    assert_ne!(noop.id, longer.id);
    assert_ne!(noop.id, trim.id);
    assert_eq!(verify_body_in_record(record).unwrap().handle(), trim);
}

#[test]
fn configurations_are_judged_when_read() {
    let mut record = RecordBuffer::zeroed(BLOCK_BYTES);
    let mut decode = |configuration: &ConfigurationBody| {
        encode_configuration(record.as_mut(), &origin(0), configuration).unwrap();
        let header = verify_body_in_record(record.as_ref()).unwrap();
        ConfigurationBody::decode(&header, body_bytes(record.as_ref()))
    };
    let good = configuration();
    assert_eq!(decode(&good), Ok(good.clone()));
    let rule = good.to_configuration(Slot(0)).unwrap();
    assert_eq!((rule.chosen_at, rule.members), (Slot(0), vec![NodeId(1), NodeId(2), NodeId(3)]));
    assert_eq!(good.incarnation_of(NodeId(2)), Some([2; 16]));
    assert_eq!(good.incarnation_of(NodeId(4)), None);
    let bad = ConfigurationBody { accept_quorum: 1, ..good };
    let quorums = ConfigurationError::Quorums { prepare: 2, accept: 1, members: 3 };
    assert_eq!(decode(&bad), Err(ConfigurationBodyError::Rule(quorums)));
}

#[test]
fn a_stamped_body_says_who_rules_it() {
    let batch: Batch = [b"a command"].into_iter().collect();
    let submission = Submission { session: 0, sequence: 0, ticket: 0, expected_slot: 0, batch: &batch };
    let mut record = RecordBuffer::zeroed(BLOCK_BYTES);
    let record = record.as_mut();
    let plain = encode_commands(record, &origin(70_000), &[submission]).unwrap();
    let header = verify_body_in_record(record).unwrap();
    assert_eq!((header.format, header.ruling), (1, None));
    let stamped = stamp(record, Slot(12)).unwrap();
    let header = verify_body_in_record(record).unwrap();
    assert_eq!((header.format, header.ruling), (2, Some(Slot(12))));
    assert_eq!(header.handle(), stamped);
    assert_eq!(BodyHandle { id: plain.id, ..stamped }, plain, "nothing but the identity is another one");
    assert_ne!(stamped.id, plain.id);
    let view = CommandsView::new(&header, body_bytes(record)).unwrap();
    assert_eq!(view.get(0), Ok(&b"a command"[..]));
    assert_eq!(stamp(record, Slot(12)), Err(BodyError::Version { found: 2 }), "once is enough");
    assert!(verify_body_in_record(record).is_ok());
}

#[test]
fn bodies_are_not_read_as_another_kind() {
    let mut record = RecordBuffer::zeroed(BLOCK_BYTES);
    encode_noop(record.as_mut(), &origin(1), 1).unwrap();
    let header = verify_body_in_record(record.as_ref()).unwrap();
    let body = body_bytes(record.as_ref());
    assert_eq!(CommandsView::new(&header, body).err(), Some(CommandsError::Kind));
    assert_eq!(ConfigurationBody::decode(&header, body), Err(ConfigurationBodyError::Kind));
}

#[test]
fn each_block_is_checked_on_its_own() {
    let batch = Batch::from_fixed(vec![7; 19_000], 100).unwrap();
    let mut record = RecordBuffer::zeroed(24_576);
    encode_commands(record.as_mut(), &origin(1), &submissions(&[batch])).unwrap();
    let header = BodyHeader::parse_in_record(record.as_ref()).unwrap();
    assert_eq!(header.blocks(), 5);
    for damaged in 0..header.blocks() {
        let offset = damaged as usize * BLOCK_BYTES + 4000;
        record.as_mut()[offset] ^= 1;
        for block in 0..header.blocks() {
            let found = header.check_block(record.as_ref(), block);
            assert_eq!(found.is_err(), block == damaged, "block {block}, damaged {damaged}");
            assert!(!matches!(found, Err(BodyError::BlockChecksum { block: named, .. }) if named != block));
        }
        record.as_mut()[offset] ^= 1;
    }
    assert_eq!(header.check_block(record.as_ref(), 5), Err(BodyError::NoSuchBlock { block: 5, blocks: 5 }));
    assert_eq!(
        header.check_block(&record.as_ref()[..20_479], 4),
        Err(BodyError::Truncated { needed: 20_480, found: 20_479 })
    );
}

#[test]
fn a_body_in_an_odd_place_is_refused_not_misread() {
    let batch = Batch::from_fixed(vec![7; 16], 8).unwrap();
    let mut record = RecordBuffer::zeroed(BLOCK_BYTES);
    encode_commands(record.as_mut(), &origin(1), &submissions(&[batch])).unwrap();
    let header = verify_body_in_record(record.as_ref()).unwrap();
    let mut shifted = RecordBuffer::zeroed(2 * BLOCK_BYTES);
    let body = body_bytes(record.as_ref());
    let place = 4..4 + body.len();
    shifted.as_mut()[place.clone()].copy_from_slice(body);
    assert_eq!(CommandsView::new(&header, &shifted.as_ref()[place]).err(), Some(CommandsError::Alignment));
}
