//! Damaged bytes are always noticed; hostile ones, whose checksums are right, never do harm.

use proptest::prelude::*;
use synod_frame::{BLOCK_BYTES, BodyError, BodyLayout, ENVELOPE_BYTES, RECORD_HEADER_BYTES, verify_body_in_record};

use crate::recode::{Reader, receive_body};
use crate::samples;

#[test]
fn every_flipped_bit_is_noticed() {
    for sample in samples::all() {
        let mut bytes = sample.bytes;
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(sample.reader.recode(&bytes).is_err(), "{}: bit {bit} flipped unnoticed", sample.name);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

#[test]
fn every_truncation_is_noticed() {
    for sample in samples::all() {
        for length in 0..sample.bytes.len() {
            let cut = &sample.bytes[..length];
            assert!(sample.reader.recode(cut).is_err(), "{}: cut to {length} unnoticed", sample.name);
        }
    }
}

#[test]
fn every_reader_refuses_what_is_for_another() {
    for sample in samples::all() {
        for reader in Reader::ALL {
            assert_eq!(reader.recode(&sample.bytes).is_ok(), reader == sample.reader, "{}: {reader:?}", sample.name);
        }
    }
}

#[test]
fn records_are_verified_at_every_length() {
    for (name, body) in samples::bodies() {
        let (header, record) = receive_body(&body.bytes).unwrap();
        for length in 0..record.as_ref().len() {
            let found = verify_body_in_record(&record.as_ref()[..length]);
            assert!(matches!(found, Err(BodyError::Truncated { .. })), "{name} cut to {length}: {found:?}");
        }
        assert_eq!(verify_body_in_record(record.as_ref()), Ok(header));
    }
}

#[test]
fn every_flipped_bit_of_a_record_is_noticed() {
    for (name, body) in samples::bodies() {
        let (header, mut record) = receive_body(&body.bytes).unwrap();
        for bit in RECORD_HEADER_BYTES * 8..header.layout.record_bytes() * 8 {
            record.as_mut()[bit / 8] ^= 1 << (bit % 8);
            assert!(verify_body_in_record(record.as_ref()).is_err(), "{name}: bit {bit} flipped unnoticed");
            record.as_mut()[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

#[test]
fn padding_that_was_written_with_a_right_checksum_must_still_be_zero() {
    let (header, mut record) = receive_body(&samples::bodies()[0].1.bytes).unwrap();
    let offset = header.layout.padding_range().start + 3;
    record.as_mut()[offset] = 1;
    seal_record(record.as_mut());
    assert_eq!(verify_body_in_record(record.as_ref()), Err(BodyError::Padding { offset: offset as u32 }));
}

/// Makes all checksums of a record right again, as a hostile or faulty writer could.
fn seal_record(record: &mut [u8]) {
    let Ok(layout) = BodyLayout::peek(&record[RECORD_HEADER_BYTES..]) else {
        return;
    };
    if record.len() < layout.record_bytes() {
        return;
    }
    let archive = RECORD_HEADER_BYTES + layout.header_bytes as usize;
    for block in 0..layout.blocks as usize {
        let covered = archive.max(block * BLOCK_BYTES)..(block + 1) * BLOCK_BYTES;
        let checksum = crc32fast::hash(&record[covered]);
        record[RECORD_HEADER_BYTES + 128 + block * 4..][..4].copy_from_slice(&checksum.to_le_bytes());
    }
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&record[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + 8]);
    hasher.update(&record[RECORD_HEADER_BYTES + 12..archive]);
    record[RECORD_HEADER_BYTES + 8..][..4].copy_from_slice(&hasher.finalize().to_le_bytes());
}

/// Makes the checksums of a sample right again, as far as they exist.
pub(crate) fn seal(reader: Reader, bytes: &mut Vec<u8>) {
    match reader {
        Reader::Body => {
            let length = bytes.len();
            let mut record = vec![0; RECORD_HEADER_BYTES];
            record.append(bytes);
            record.resize(record.len().next_multiple_of(BLOCK_BYTES), 0);
            seal_record(&mut record);
            *bytes = record[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + length].to_vec();
        }
        Reader::Hello | Reader::HelloReply => {
            let mut hasher = crc32fast::Hasher::new();
            hasher.update(&bytes[..8]);
            hasher.update(&bytes[12..]);
            bytes[8..12].copy_from_slice(&hasher.finalize().to_le_bytes());
        }
        Reader::Message | Reader::Request | Reader::Reply => {
            let mut payload = bytes.split_off(ENVELOPE_BYTES);
            let carries_body = payload.starts_with(b"SYNB");
            if carries_body {
                seal(Reader::Body, &mut payload);
            } else if !payload.is_empty() {
                bytes[12..16].copy_from_slice(&crc32fast::hash(&payload).to_le_bytes());
            }
            let checksum = crc32fast::hash(&bytes[..124]);
            bytes[124..].copy_from_slice(&checksum.to_le_bytes());
            bytes.append(&mut payload);
        }
    }
}

#[test]
fn samples_are_sealed_as_this_test_seals() {
    for sample in samples::all() {
        let mut bytes = sample.bytes.clone();
        seal(sample.reader, &mut bytes);
        assert_eq!(bytes, sample.bytes, "{}", sample.name);
    }
}

/// Whether whatever decodes must encode to the very same bytes: all but archives, in which rkyv leaves more than one
/// way to say a thing.
fn has_one_encoding(reader: Reader, bytes: &[u8]) -> bool {
    match reader {
        Reader::Hello | Reader::HelloReply => true,
        Reader::Body => false,
        Reader::Message | Reader::Request | Reader::Reply => bytes.len() == ENVELOPE_BYTES,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn garbage_does_no_harm(
        start in proptest::option::of(proptest::sample::select(vec![b"SYNB", b"SYNE", b"SYNH", b"SYNC"])),
        mut bytes in proptest::collection::vec(any::<u8>(), 0..700),
    ) {
        if let (Some(magic), true) = (start, bytes.len() >= 6) {
            bytes[..4].copy_from_slice(magic);
            bytes[4..6].copy_from_slice(&1u16.to_le_bytes());
        }
        for reader in Reader::ALL {
            prop_assert!(reader.recode(&bytes).is_err());
        }
    }

    #[test]
    fn hostile_bytes_do_no_harm(
        index: prop::sample::Index,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..4), 1..5),
    ) {
        let samples = SAMPLES.with(|samples| *samples);
        let sample = &samples[index.index(samples.len())];
        let mut bytes = sample.bytes.clone();
        for (place, value, how) in changes {
            let place = place.index(bytes.len());
            bytes[place] = match how {
                0 => value,
                1 => 0,
                2 => 0xff,
                _ => bytes[place].wrapping_add(value % 8),
            };
        }
        seal(sample.reader, &mut bytes);
        if let Ok(again) = sample.reader.recode(&bytes) {
            prop_assert!(!has_one_encoding(sample.reader, &bytes) || again == bytes, "{}", sample.name);
        }
    }
}

thread_local! {
    static SAMPLES: &'static [samples::Sample] = Box::leak(samples::all().into_boxed_slice());
}
