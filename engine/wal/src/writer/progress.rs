//! What a log asks for, and how completions move it along: opening, durability, sealing, the segment ahead.

use synod_protocol::Slot;

use super::action::Action;
use super::flush::{Flush, SyncMode};
use super::paging::SealIndex;
use super::segments::{Active, ClosingStage, Complete, Next, first_needed};
use super::{Before, Pending, Wal};
use crate::format::{Footer, GroupState, SegmentHeader, StoredConfiguration};
use crate::lsn::{FileId, Lsn, SyncId, WriteId};
use crate::pool::{CleanFile, PoolWork};
use crate::recovery::decode_configuration;
use crate::segment::BLOCK;

impl Wal {
    /// Hands over the configurations that recovery found, the one in the headers first.
    pub(crate) fn take_configurations(&mut self) -> Vec<StoredConfiguration> {
        self.configuration.clone().into_iter().chain(std::mem::take(&mut self.configurations)).collect()
    }

    /// The configuration that the active segment's header holds: what survives, whatever is trimmed.
    pub(crate) fn header_configuration(&self) -> Option<Slot> {
        self.active.as_ref().and_then(|active| active.configuration)
    }

    /// The log will hold what only builds can read that read this format: headers say so from now on.
    pub fn require_format(&mut self, format: u16) {
        self.format = self.format.max(format);
    }

    pub(super) fn require_format_of(&mut self, stored: &StoredConfiguration) {
        if let Ok((_, _, configuration)) = decode_configuration(stored) {
            self.require_format(configuration.format);
        }
    }

    /// The format that a build must read to read the log.
    pub fn format(&self) -> u16 {
        self.format
    }

    /// The next thing to do, until there is none.
    pub fn poll_action(&mut self) -> Option<Action> {
        if self.poisoned {
            return None;
        }
        self.advance();
        self.actions.pop_front().or_else(|| self.poll_sync()).or_else(|| self.poll_pool())
    }

    fn poll_sync(&mut self) -> Option<Action> {
        let sync = SyncId(self.sync_next);
        let file = if let Some(opening) = &mut self.opening {
            let (file, asked) = opening.syncs.iter_mut().find(|(_, asked)| asked.is_none())?;
            *asked = Some(sync);
            *file
        } else {
            let (file, flush) = self.flushes().find(|(_, flush)| flush.wants_sync())?;
            flush.start(sync);
            file
        };
        self.sync_next += 1;
        self.stats.syncs += 1;
        Some(Action::Sync { sync, file })
    }

    fn poll_pool(&mut self) -> Option<Action> {
        // What says that a file holds nothing of use may itself not be durable yet: leave it alone until it is.
        if self.opening.as_ref().is_some_and(|opening| !opening.syncs.is_empty()) {
            return None;
        }
        let work = self.pool.poll(self.opening.is_some())?;
        Some(match work {
            PoolWork::Create(file) => Action::CreateFile { file },
            PoolWork::Zero(file) => {
                Action::ZeroFile { file, offset: BLOCK, bytes: self.geometry.segment_bytes() - BLOCK }
            }
        })
    }

    /// The files being written, oldest first: what waits for the oldest waits for all.
    fn flushes(&mut self) -> impl Iterator<Item = (FileId, &mut Flush)> {
        let closing = self.closing.iter_mut().map(|closing| (closing.segment.file, &mut closing.segment.flush));
        let active = self.active.iter_mut().map(|active| (active.file, &mut active.flush));
        let next = self.next.iter_mut().map(|next| (next.file, &mut next.flush));
        closing.chain(active).chain(next)
    }

    /// A write completed with success.
    ///
    /// # Panics
    /// If it isn't in flight: a bug of the caller.
    pub fn handle_written(&mut self, write: WriteId) {
        if self.poisoned {
            return;
        }
        let known = self.complete_record(write) || self.complete_header(write) || self.complete_seal(write);
        assert!(known, "write {write:?} isn't in flight");
        self.stats.durable_writes += u64::from(self.settings.sync == SyncMode::Dsync);
        self.advance();
    }

    fn complete_record(&mut self, write: WriteId) -> bool {
        let Ok(index) = self.pending.binary_search_by_key(&write, |pending| pending.write) else { return false };
        let pending = &mut self.pending[index];
        if pending.ticket.is_some() {
            return false;
        }
        let closing = self.closing.as_mut().map(|closing| &mut closing.segment);
        let mut segments = closing.into_iter().chain(self.active.as_mut());
        let segment = segments.find(|segment| segment.epoch == pending.epoch).expect("its segment isn't sealed");
        pending.ticket = Some(segment.flush.complete(self.settings.sync));
        true
    }

    fn complete_header(&mut self, write: WriteId) -> bool {
        let header = self.next.as_mut().filter(|next| next.header_write == write && next.header_ticket.is_none());
        let Some(next) = header else { return false };
        next.header_ticket = Some(next.flush.complete(self.settings.sync));
        true
    }

    fn complete_seal(&mut self, write: WriteId) -> bool {
        let Some(closing) = &mut self.closing else { return false };
        let ClosingStage::Sealing { writes, ticket } = &mut closing.stage else { return false };
        let Some(index) = writes.iter().position(|other| *other == write) else { return false };
        writes.swap_remove(index);
        *ticket = closing.segment.flush.complete(self.settings.sync);
        true
    }

    /// A sync completed with success.
    ///
    /// # Panics
    /// If it isn't in flight: a bug of the caller.
    pub fn handle_synced(&mut self, sync: SyncId) {
        if self.poisoned {
            return;
        }
        let known = match &mut self.opening {
            Some(opening) => {
                let index = opening.syncs.iter().position(|(_, asked)| *asked == Some(sync));
                index.map(|index| opening.syncs.remove(index)).is_some()
            }
            None => self.flushes().any(|(_, flush)| flush.finish(sync)),
        };
        assert!(known, "sync {sync:?} isn't in flight");
        self.stats.durable_writes += 1;
        self.advance();
    }

    /// A file was created or zeroed, and is durable.
    ///
    /// # Panics
    /// If the log didn't ask for it: a bug of the caller.
    pub fn handle_file_ready(&mut self, file: FileId) {
        if self.poisoned {
            return;
        }
        assert!(self.pool.ready(file), "{file} isn't being created or zeroed");
        self.advance();
    }

    /// A file couldn't be created or zeroed, because the disk is full for example. The log goes on with the files that
    /// it has, and asks again after [`Wal::retry`].
    ///
    /// # Panics
    /// If the log didn't ask for it: a bug of the caller.
    pub fn handle_file_failed(&mut self, file: FileId) {
        if self.poisoned {
            return;
        }
        assert!(self.pool.failed(file), "{file} isn't being created or zeroed");
    }

    /// Lets the log ask again for files after [`Wal::handle_file_failed`].
    pub fn retry(&mut self) {
        self.pool.retry();
    }

    /// Moves everything along that the last completions made possible.
    pub(super) fn advance(&mut self) {
        self.finish_opening();
        loop {
            self.advance_durable();
            if !self.advance_closing() {
                break;
            }
        }
        self.advance_next();
    }

    fn finish_opening(&mut self) {
        let Some(opening) = self.opening.take_if(|opening| opening.syncs.is_empty()) else { return };
        self.durable = opening.end;
        self.prepare_next(Some((opening.before, opening.before_lost)));
        if self.next.is_none() {
            // No file yet: the header is laid out when there is one.
            self.opening = Some(opening);
        }
    }

    fn advance_durable(&mut self) {
        let closing = self.closing.as_ref().map(|closing| (closing.segment.epoch, &closing.segment.flush));
        let active = self.active.as_ref().map(|active| (active.epoch, &active.flush));
        // The oldest unsealed segment: records behind it wait for its seal.
        let Some((epoch, flush)) = closing.or(active) else { return };
        let durable =
            |pending: &&Pending| pending.epoch == epoch && pending.ticket.is_some_and(|ticket| flush.covers(ticket));
        let count = self.pending.iter().take_while(durable).count();
        for _ in 0..count {
            let pending = self.pending.pop_front().expect("counted");
            self.durable = pending.end;
            self.pending_bytes -= u64::from(pending.record_bytes);
            if let Some((first_needed, base)) = pending.trim {
                self.base = base;
                self.release(first_needed);
            }
        }
    }

    /// Whether a segment became complete, so that records behind it may be durable.
    fn advance_closing(&mut self) -> bool {
        let Some(closing) = &self.closing else { return false };
        let epoch = closing.segment.epoch;
        match closing.stage {
            ClosingStage::Draining => {
                if self.pending.front().is_none_or(|pending| pending.epoch != epoch) {
                    self.begin_seal();
                }
                false
            }
            ClosingStage::Sealing { .. } if closing.is_sealed() => {
                let segment = &closing.segment;
                let (slot_end, log_time_us) = (segment.slot_end, self.log_time_us);
                let offsets = segment.records.iter().map(|record| record.offset);
                self.complete.push_back(Complete {
                    file: segment.file,
                    epoch,
                    slot_end,
                    sealed: true,
                    log_time_us,
                    whole: true,
                    seal_index: Some(SealIndex::of(self.geometry, offsets)),
                });
                self.closing = None;
                self.stats.segments_sealed += 1;
                self.page_out();
                true
            }
            ClosingStage::Sealing { .. } => false,
        }
    }

    fn begin_seal(&mut self) {
        let mut closing = self.closing.take().expect("a segment is closing");
        let segment = &closing.segment;
        let footer = Footer {
            records: segment.records.len() as u64,
            bodies: segment.bodies,
            body_bytes: segment.body_bytes,
            slot_first: segment.slot_first,
            slot_end: segment.slot_end,
            index_offset: self.geometry.index_offset(segment.records.len()),
            promised: self.promised,
            mark: self.mark,
            base: self.base,
            first_needed: self.first_needed,
            log_time_us: self.log_time_us,
        };
        let file = segment.file;
        let mut writes = Vec::new();
        for (offset, bytes) in closing.lay_seal(self.geometry, self.salt, footer) {
            let write = self.new_write();
            writes.push(write);
            self.actions.push_back(Action::Write { write, file, offset, bytes });
        }
        closing.stage = ClosingStage::Sealing { writes, ticket: 0 };
        self.closing = Some(closing);
    }

    fn advance_next(&mut self) {
        if let Some(next) = self.next.as_ref().filter(|next| next.is_durable()) {
            let (first_needed, abandoned_after) = (next.first_needed, next.abandoned_after);
            self.release(first_needed);
            if self.active.is_none() {
                self.abandon(abandoned_after);
                let next = self.next.take().expect("just seen");
                self.active = Some(Active::new(next, self.geometry));
                for file in std::mem::take(&mut self.lost_files) {
                    self.pool.add_unfinished(file);
                }
            }
        }
        if self.active.is_some() && self.next.is_none() {
            self.prepare_next(None);
        }
    }

    /// Lays out the header of the next segment, if there is a file for it. `before` is what it follows if that can't
    /// say itself where it ends.
    fn prepare_next(&mut self, before: Option<(Before, bool)>) {
        let Some(clean) = self.pool.take(before.is_some()) else { return };
        let epoch = self.epoch_next;
        self.epoch_next += 1;
        let configuration = self.configuration.as_ref().map(|configuration| configuration.slot);
        let first_needed = if self.configuration_trimmed > configuration {
            self.first_needed
        } else {
            let open = match before {
                Some(_) => epoch,
                None => self.first_incomplete(),
            };
            let first = first_needed(&self.complete, self.base.slot, self.first_needed, open);
            self.unless_pinned(first)
        };
        let active = self.active.as_ref().map_or(0, |active| active.epoch);
        let (follows, before_lost) = before.unwrap_or((Before { epoch: active, end: Lsn::ZERO, checksum: 0 }, false));
        let header = SegmentHeader {
            file: clean.file,
            readable_by: self.format,
            identity: self.identity,
            epoch,
            previous_epoch: clean.previous_epoch,
            before_epoch: follows.epoch,
            before_end: follows.end,
            before_checksum: follows.checksum,
            durable: self.durable,
            first_needed,
            checkpoint: Lsn::ZERO,
            log_time_us: self.log_time_us,
            configuration: self.configuration.clone(),
            before_lost,
            unsure: self.unsure,
            missing: self.missing,
            groups: self.group_state().into_iter().collect(),
        };
        let bytes = header.encode(self.geometry);
        let header_checksum = crc32fast::hash(&bytes);
        let write = self.new_write();
        self.actions.push_back(Action::Write { write, file: clean.file, offset: 0, bytes });
        self.next = Some(Next {
            file: clean.file,
            epoch,
            header_checksum,
            header_write: write,
            header_ticket: None,
            first_needed,
            abandoned_after: follows.epoch,
            configuration,
            flush: Flush::default(),
        });
    }

    fn group_state(&self) -> Option<GroupState> {
        let state = |group| GroupState { group, promised: self.promised, mark: self.mark, base: self.base };
        self.group.map(state)
    }

    /// Gives the files of all complete segments of lower epochs back to the pool.
    fn release(&mut self, first_needed: u64) {
        self.first_needed = self.first_needed.max(first_needed);
        while let Some(segment) = self.complete.pop_front_if(|segment| segment.epoch < first_needed) {
            self.give_back(segment);
        }
    }

    /// Gives the files of recovered segments of higher epochs back: the first new header, now durable, leaves them out.
    fn abandon(&mut self, after: u64) {
        while let Some(segment) = self.complete.pop_back_if(|segment| segment.epoch > after) {
            self.give_back(segment);
        }
    }

    fn give_back(&mut self, segment: Complete) {
        if segment.sealed {
            self.pool.add_clean(CleanFile { file: segment.file, previous_epoch: segment.epoch });
        } else {
            self.pool.add_dirty(segment.file);
        }
    }
}
