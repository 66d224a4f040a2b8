//! Recovery in bounded memory, held against one that keeps everything.
#![allow(dead_code, unreachable_pub, reason = "each test uses its part of this")]

use synod_protocol::Slot;
use synod_wal::{
    ExpectedIdentity, Index, IndexEntry, LogIdentity, LogSettings, RecoverError, RecoverOptions, RecoveredLog,
    SegmentStore, Wal, recover_with,
};

/// Bodies whose places may be in memory.
const FEW: usize = 2;

/// As [`synod_wal::recover`]; and the same with only a few places in memory must come out as the same log.
pub fn recover(
    store: &dyn SegmentStore,
    expected: &ExpectedIdentity,
    segment_bytes: u64,
) -> Result<RecoveredLog, RecoverError> {
    let all = recover_with(store, expected, segment_bytes, RecoverOptions::default());
    let options = RecoverOptions { index_bodies_max: Some(FEW), ..RecoverOptions::default() };
    let few = recover_with(store, expected, segment_bytes, options);
    match (&all, few) {
        (Ok(all), Ok(few)) => compare(store, expected, all, few),
        (Err(all), Err(few)) => assert_eq!(format!("{all:?}"), format!("{few:?}")),
        (all, few) => panic!("{all:?} but {few:?}"),
    }
    all
}

fn compare(store: &dyn SegmentStore, expected: &ExpectedIdentity, all: &RecoveredLog, few: RecoveredLog) {
    let said = |log: &RecoveredLog| format!("{:#?}", RecoveredLog { index: Index::default(), ..log.clone() });
    assert_eq!(said(all), said(&few));
    let (base, bodies) = (few.index.base(), few.index.len());
    assert_eq!((all.index.base(), all.index.len()), (base, bodies));
    let ExpectedIdentity { cluster, lineage, node, incarnation, log } = *expected;
    let identity = LogIdentity { cluster, lineage, node, incarnation, boot_counter: 99, log };
    let settings = LogSettings { segment_bytes: all.segment_bytes, ..LogSettings::default() };
    for entry in few.index.iter_from(Slot(0)) {
        assert_eq!(all.index.get(entry.body.first), Some(entry));
    }
    let wal = Wal::new(identity, settings, few);
    for entry in all.index.iter_from(Slot(0)) {
        let found = wal.find_in(store, entry.body.first).unwrap_or_else(|| panic!("{entry:?}"));
        // What a seal says of a body is believed as far as the chain proves it; who reads the body sees the rest.
        let known = |entry: &IndexEntry| (entry.body.slots(), entry.body.id, entry.location, entry.chosen);
        assert_eq!(known(&found), known(entry));
    }
}
