//! `dump --follow`: what a running node adds, as soon as something in the log says that it is durable.
//!
//! A record says up to where the log was durable when it was laid out, so each record is shown once a later one covers
//! it; a node that falls idle writes a mark that covers the last. Without a node running there is nothing to wait for:
//! what is there is shown.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use synod_wal::Lsn;
use synod_wal::scan::{self, Hole, HoleCause, Item, ReadError, ScannedRecord, Scanner};

use super::Printer;
use crate::exit::Exit;
use crate::source::{Segment, Source};
use crate::walk::{Found, describe, is_end_of_segment, next_step};

/// How often the log is looked at.
const PAUSE: Duration = Duration::from_millis(100);

/// For how many looks a hole that no write in progress explains must stay to be damage.
const LOOKS: u32 = 20;

/// Records that wait to be durable. More than any node has in flight; at this number the reading waits too.
const WAITING_MAX: usize = 1 << 16;

/// What became of a segment.
enum Ended {
    /// It is read to its end; the log goes on in one of a higher epoch.
    Segment,
    /// The file holds another segment by now: what was in it is trimmed.
    Recycled,
    /// The dump is at its end.
    Dump(Exit),
}

pub(super) fn run(source: &Source, printer: &mut Printer<'_>) -> Result<Exit> {
    let mut after = 0;
    while printer.left > 0 {
        let files = source.files()?;
        let (segments, _) = source.segments(&files, false);
        let Some(segment) = segments.iter().find(|segment| segment.header.epoch > after) else {
            thread::sleep(PAUSE);
            continue;
        };
        // A node that writes faster than this reads may have trimmed whole segments meanwhile.
        if after != 0 && segment.header.before_epoch > after {
            say_skipped();
        }
        after = segment.header.epoch;
        match Follower::new(source, segment).run(printer)? {
            Ended::Segment => {}
            Ended::Recycled => say_skipped(),
            Ended::Dump(exit) => return Ok(exit),
        }
    }
    Ok(Exit::Well)
}

fn say_skipped() {
    eprintln!("synod-tools: the log was trimmed beyond what was shown: records are left out here");
}

/// The records of one segment, as they come.
struct Follower<'run> {
    source: &'run Source,
    segment: &'run Segment<'run>,
    scanner: Scanner<'run>,
    waiting: VecDeque<ScannedRecord>,
    /// Everything before this is durable.
    durable: Lsn,
}

impl<'run> Follower<'run> {
    fn new(source: &'run Source, segment: &'run Segment<'run>) -> Follower<'run> {
        let scanner = source.live_scanner(segment);
        Follower { source, segment, scanner, waiting: VecDeque::new(), durable: segment.header.durable }
    }

    fn run(&mut self, printer: &mut Printer<'_>) -> Result<Ended> {
        let mut looks = 0;
        loop {
            let hole = self.read()?;
            let successor = self.successor()?;
            if let Some(end) = successor {
                // Whoever named this end had synced what lies before it; what lies behind is given up.
                self.durable = self.durable.max(end);
                self.waiting.retain(|record| record.header.end() <= end);
            }
            if self.show(self.source.is_running(), printer)?.is_break() {
                return Ok(Ended::Dump(Exit::sound(printer.troubles == 0)));
            }
            printer.output.flush()?;
            if self.is_recycled()? {
                return Ok(Ended::Recycled);
            }
            let Some(hole) = hole else { continue };
            let complete = is_end_of_segment(&hole) && self.waiting.is_empty();
            if complete || successor.is_some() {
                return Ok(Ended::Segment);
            }
            looks = if hole.cause.is_torn() || is_end_of_segment(&hole) { 0 } else { looks + 1 };
            if looks == LOOKS {
                let file = self.segment.file.id;
                let next = next_step(self.source);
                eprintln!("synod-tools: {file}+{:#x}: {}; {next}", hole.offset, describe(&hole));
                return Ok(Ended::Dump(Exit::Damaged));
            }
            thread::sleep(PAUSE);
            self.scanner.resume(&hole);
        }
    }

    /// Reads up to the next hole; none if too much waits before.
    fn read(&mut self) -> Result<Option<Hole>, ReadError> {
        while self.waiting.len() < WAITING_MAX {
            match self.scanner.next_item()? {
                Some(Item::Record(record)) => {
                    self.durable = self.durable.max(record.header.durable);
                    self.waiting.push_back(record);
                }
                Some(Item::Hole(hole)) => {
                    if let HoleCause::Seal(seal) = &hole.cause {
                        self.durable = self.durable.max(seal.records_end);
                    }
                    return Ok(Some(hole));
                }
                Some(Item::Stray(_) | Item::BadStray { .. }) | None => unreachable!("a walk is resumed at its hole"),
            }
        }
        Ok(None)
    }

    fn show(&mut self, running: bool, printer: &mut Printer<'_>) -> Result<ControlFlow<()>> {
        while let Some(record) = self.waiting.front().copied() {
            let too_many = self.waiting.len() >= WAITING_MAX;
            if running && !too_many && record.header.end() > self.durable {
                break;
            }
            self.waiting.pop_front();
            let file = self.segment.file.id;
            let found = Found { file, record, behind_damage: false, scanner: &mut self.scanner };
            if printer.print(found)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn is_recycled(&self) -> Result<bool, ReadError> {
        let header = scan::read_segment_header(&self.source.store, self.segment.file.id, self.source.geometry)?;
        Ok(header.is_ok_and(|header| header.epoch != self.segment.header.epoch))
    }

    /// Where this segment ends as a later one names it, because a crash left it unsealed.
    fn successor(&self) -> Result<Option<Lsn>> {
        let epoch = self.segment.header.epoch;
        let files = self.source.files()?;
        let mut headers = files.iter().filter_map(|file| file.header.as_ref());
        let next = headers.find(|header| header.before_epoch == epoch && header.before_end != Lsn::ZERO);
        Ok(next.map(|next| next.before_end))
    }
}
