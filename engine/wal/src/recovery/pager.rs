//! What a recovery in bounded memory needs while it joins: the disk, to read again what it didn't keep.

use std::collections::BTreeMap;

use synod_protocol::BodyHandle;
use thiserror::Error;

use super::chain::SegmentScan;
use super::{RecoverError, RecoverOptions};
use crate::identity::LogSalt;
use crate::index::{Index, Location, PageLoad, SegmentPlace, places, read_page};
use crate::lsn::FileId;
use crate::scan::ReadError;
use crate::segment::Geometry;
use crate::store::SegmentStore;

/// Where the log is read from, and how.
pub(super) struct Disk<'store> {
    pub(super) store: &'store dyn SegmentStore,
    pub(super) geometry: Geometry,
    pub(super) salt: LogSalt,
    pub(super) options: RecoverOptions,
}

/// Why a log can't be joined.
#[derive(Debug, Error)]
pub(super) enum JoinError {
    /// It can't be opened.
    #[error(transparent)]
    Recover(#[from] RecoverError),
    /// The segment of this epoch isn't read as it was before: it must be kept in memory whole.
    #[error("segment {0} isn't read as it was before")]
    Changed(u64),
}

impl From<ReadError> for JoinError {
    fn from(error: ReadError) -> JoinError {
        JoinError::Recover(error.into())
    }
}

/// Puts entries out of memory while the index grows.
pub(super) struct Pager<'scans> {
    disk: &'scans Disk<'scans>,
    /// The thinned segments, by file.
    files: BTreeMap<FileId, u64>,
    segments: BTreeMap<u64, SegmentPlace<'scans>>,
}

impl<'scans> Pager<'scans> {
    pub(super) fn new(kept: &'scans [SegmentScan], disk: &'scans Disk<'scans>) -> Pager<'scans> {
        let mut pager = Pager { disk, files: BTreeMap::new(), segments: BTreeMap::new() };
        for scan in kept {
            if let Some(thinned) = &scan.thinned {
                let place = SegmentPlace { file: scan.file, seal_index: thinned.seal_index.as_ref() };
                pager.files.insert(scan.file, scan.header.epoch);
                pager.segments.insert(scan.header.epoch, place);
            }
        }
        pager
    }

    /// Whether there are too many entries in memory.
    pub(super) fn is_due(&self, index: &Index) -> bool {
        self.disk.options.index_bodies_max.is_some_and(|max| index.in_memory() > max)
    }

    pub(super) fn page_out(&self, index: &mut Index) {
        if let Some(max) = self.disk.options.index_bodies_max {
            index.page_out(max, |location: &Location| self.files.get(&location.file).copied());
        }
    }

    /// Reads back the page that fills slots of a body, if there is one: whether the body contradicts it shows only then.
    pub(super) fn load(&self, index: &mut Index, body: &BodyHandle) -> Result<(), JoinError> {
        let Some(page) = index.page_overlapping(body) else { return Ok(()) };
        let (end, Disk { store, geometry, salt, .. }) = (page.end.slot, self.disk);
        let places = || places(page, |epoch| self.segments.get(&epoch).copied());
        let mut load = PageLoad::new(page, places(), *salt, *geometry);
        let entries = loop {
            read_page(*store, &mut load);
            if let Some(entries) = load.finish() {
                break entries;
            }
            let oldest = page.extents.first().map_or(0, |extent| extent.epoch);
            load = PageLoad::without_seals(page, places(), &load).ok_or(JoinError::Changed(oldest))?;
        };
        index.keep_loaded(end, entries);
        Ok(())
    }
}
