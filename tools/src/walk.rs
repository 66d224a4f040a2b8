//! Every record of a log in order, with what is wrong on the way.
//!
//! A walk shows what recovery would keep, and beyond: at damage it says so and goes on with what can be read behind it.
//! Only at the end of the log it stops: what lies behind an unfinished last write was never durable, and nobody was
//! told of it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IsTerminal};
use std::ops::ControlFlow;

use anyhow::Result;
use synod_wal::scan::{Depth, Hole, HoleCause, Item, ReadError, ScannedRecord, Scanner};
use synod_wal::{FileId, Lsn};

use crate::progress::Progress;
use crate::source::{File, Segment, Source};

/// A record and where it was found.
pub(crate) struct Found<'walk, 'source> {
    pub(crate) file: FileId,
    pub(crate) record: ScannedRecord,
    /// Whether something in front of it, in its segment, can't be read.
    pub(crate) behind_damage: bool,
    /// For [`Scanner::record_bytes`].
    pub(crate) scanner: &'walk mut Scanner<'source>,
}

/// What a walk met besides records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Walked {
    /// Things that are wrong; each was said on stderr.
    pub(crate) troubles: u64,
}

impl Walked {
    pub(crate) fn is_sound(self) -> bool {
        self.troubles == 0
    }

    fn trouble(&mut self, progress: &Progress, message: &str) {
        self.troubles += 1;
        progress.say(&format!("synod-tools: {message}"));
    }
}

/// How to walk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WalkOptions {
    /// How closely records are looked at.
    pub(crate) depth: Depth,
    /// Also segments that the log doesn't need any more.
    pub(crate) all: bool,
    /// Rows are written meanwhile: if they go to a terminal, progress would stand among them.
    pub(crate) streams: bool,
}

impl WalkOptions {
    /// The log as it is, for a verb that writes when it has seen all of it.
    pub(crate) fn new(depth: Depth) -> WalkOptions {
        WalkOptions { depth, all: false, streams: false }
    }

    fn progress(self, bytes: u64) -> Progress {
        if self.streams && io::stdout().is_terminal() { Progress::hidden() } else { Progress::bytes(bytes, "reading") }
    }
}

/// Walks a log. `visit` may end it early.
///
/// # Errors
/// What `visit` returns, and if the directory can't be listed. What is wrong with files and records is no error but is
/// said on stderr and counted.
pub(crate) fn walk<V>(source: &Source, options: WalkOptions, visit: &mut V) -> Result<Walked>
where
    V: FnMut(Found<'_, '_>) -> Result<ControlFlow<()>>,
{
    let files = source.files()?;
    let (segments, missing) = source.segments(&files, options.all);
    let progress = options.progress(segments.len() as u64 * source.geometry.segment_bytes());
    let mut walked = Walked::default();
    say_problems(source, &files, &missing, &progress, &mut walked);
    for place in 0..segments.len() {
        progress.reach(place as u64 * source.geometry.segment_bytes());
        let step = walk_segment(source, options, &segments[place..], &progress, &mut walked, visit)?;
        if step.is_break() {
            break;
        }
    }
    Ok(walked)
}

fn say_problems(source: &Source, files: &[File], missing: &[u64], progress: &Progress, walked: &mut Walked) {
    for file in files {
        if let Some(problem) = file.problem.as_ref().filter(|problem| !problem.is_harmless()) {
            walked.trouble(progress, &format!("{}: {problem}; {}", file.id, next_step(source)));
        }
    }
    for epoch in missing {
        walked.trouble(progress, &format!("segment {epoch} is missing; restore its file, or {}", next_step(source)));
    }
}

/// What an operator does next about damage.
pub(crate) fn next_step(source: &Source) -> String {
    format!("run `synod-tools verify {}`", source.path.display())
}

/// One segment, the first of `rest`. Breaks where the log ends.
fn walk_segment<V>(
    source: &Source,
    options: WalkOptions,
    rest: &[Segment<'_>],
    progress: &Progress,
    walked: &mut Walked,
    visit: &mut V,
) -> Result<ControlFlow<()>>
where
    V: FnMut(Found<'_, '_>) -> Result<ControlFlow<()>>,
{
    let file = rest[0].file.id;
    let mut scanner = source.scanner(&rest[0], options.depth);
    let hole = loop {
        match scanner.next_item() {
            Ok(Some(Item::Record(record))) => {
                progress.advance(u64::from(record.header.record_bytes));
                let found = Found { file, record, behind_damage: false, scanner: &mut scanner };
                if visit(found)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Ok(Some(Item::Hole(hole))) => break hole,
            Ok(Some(Item::Stray(_) | Item::BadStray { .. }) | None) => {
                unreachable!("a scan meets a hole before anything behind it")
            }
            Err(error) => {
                walked.trouble(progress, &error.to_string());
                return Ok(ControlFlow::Continue(()));
            }
        }
    };
    say_unreadable(source, file, scanner.unreadable(), progress, walked);
    let told: BTreeSet<u64> = scanner.unreadable().keys().copied().collect();
    // Segments that were given up may be zeroed in part, or written again.
    if is_end_of_segment(&hole) || !rest[0].linked {
        return Ok(ControlFlow::Continue(()));
    }
    let strays = match strays(&mut scanner) {
        Ok(strays) => strays,
        Err(error) => {
            walked.trouble(progress, &error.to_string());
            Vec::new()
        }
    };
    let mut behind = scanner.unreadable().clone();
    behind.retain(|offset, _| !told.contains(offset));
    say_unreadable(source, file, &behind, progress, walked);
    let unreadable = !scanner.unreadable().is_empty();
    let later = later(source, &rest[1..]);
    let proof = strays.iter().map(|stray| stray.header.durable).max().unwrap_or(Lsn::ZERO).max(later.proof);
    if proof <= hole.lsn && !unreadable && (hole.cause.is_torn() || source.live) {
        let behind = strays.len() as u64 + later.records;
        if !source.live && (hole.cause != HoleCause::Old || behind > 0) {
            progress.say(&format!(
                "synod-tools: {file}+{:#x}: an unfinished last write; {behind} records behind it, never durable",
                hole.offset
            ));
        }
        return Ok(ControlFlow::Break(()));
    }
    walked.trouble(progress, &format!("{file}+{:#x}: {}; {}", hole.offset, describe(&hole), next_step(source)));
    for record in strays {
        let found = Found { file, record, behind_damage: true, scanner: &mut scanner };
        if visit(found)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// Says what the disk didn't read of a file.
fn say_unreadable(
    source: &Source,
    file: FileId,
    unreadable: &BTreeMap<u64, String>,
    progress: &Progress,
    walked: &mut Walked,
) {
    if let Some((offset, why)) = unreadable.first_key_value() {
        let (blocks, path) = (unreadable.len(), source.path.display());
        let message = format!("{file}: the disk doesn't read {blocks} of its blocks, the first at {offset:#x}: {why}");
        walked.trouble(progress, &format!("{message}; copy {path} to another disk, then {}", next_step(source)));
    }
}

/// Whether the records of a segment end as they do when all went well.
pub(crate) fn is_end_of_segment(hole: &Hole) -> bool {
    matches!(hole.cause, HoleCause::Stop | HoleCause::Full | HoleCause::Seal(_))
}

/// What is wrong at a hole, in a few words.
pub(crate) fn describe(hole: &Hole) -> String {
    match &hole.cause {
        HoleCause::Head(error) => error.to_string(),
        HoleCause::Blocks { error, record, .. } => match record.slots() {
            Some(slots) => format!("{error} (slots {}..{})", slots.start, slots.end),
            None => error.to_string(),
        },
        HoleCause::Old | HoleCause::Stop | HoleCause::Full | HoleCause::Seal(_) => "records are missing".to_owned(),
    }
}

fn strays(scanner: &mut Scanner<'_>) -> Result<Vec<ScannedRecord>, ReadError> {
    let mut strays = Vec::new();
    while let Some(item) = scanner.next_item()? {
        if let Item::Stray(record) = item {
            strays.push(record);
        }
    }
    Ok(strays)
}

/// What later segments hold and say.
#[derive(Default)]
struct Later {
    records: u64,
    /// The highest position that any of them says was durable.
    proof: Lsn,
}

fn later(source: &Source, segments: &[Segment<'_>]) -> Later {
    let mut later = Later::default();
    for segment in segments {
        later.proof = later.proof.max(segment.header.durable).max(segment.header.before_end);
        let mut scanner = source.scanner(segment, Depth::Heads);
        // What can't be read here is said when the walk comes to it.
        while let Ok(Some(item)) = scanner.next_item() {
            if let Item::Record(record) | Item::Stray(record) = item {
                later.records += 1;
                later.proof = later.proof.max(record.header.durable);
            }
        }
    }
    later
}
