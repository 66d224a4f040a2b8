//! `ls`: the node and its files, in the order of the log.

use std::fmt;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use synod_frame::BLOCK_BYTES;
use synod_protocol::SlotRange;
use synod_wal::scan::{self, Depth, HoleCause, Item, Scanner};

use crate::exit::Exit;
use crate::output::{Align, Output, Row, uuid};
use crate::progress::Progress;
use crate::source::{FileProblem, Segment, Source};

/// Which directory.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Directory of a node
    directory: PathBuf,
}

/// The node.
#[derive(Serialize)]
struct Head {
    directory: String,
    node: u32,
    cluster: Option<String>,
    lineage: u64,
    incarnation: String,
    boots: u64,
    running: bool,
    segment_bytes: u64,
    files: u64,
    bytes: u64,
}

/// One file.
#[derive(Serialize)]
struct Line {
    file: String,
    state: &'static str,
    epoch: Option<u64>,
    bytes: u64,
    records: u64,
    bodies: u64,
    slot_first: Option<u64>,
    slot_end: Option<u64>,
    /// Of the file's bytes, how many are taken by header and records.
    used_bytes: u64,
    /// Whether records may be missing between the segment before and this one: its end was damaged.
    before_lost: bool,
    /// Whether the node began it without being sure of its promise.
    unsure: bool,
    problem: Option<String>,
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "node {}  cluster {}  lineage {}  incarnation {}  boots {}{}\n{} files of {} KiB, {:.1} MiB together",
            self.node,
            self.cluster.as_deref().unwrap_or("none: not bootstrapped"),
            self.lineage,
            self.incarnation,
            self.boots,
            if self.running { "  running" } else { "" },
            self.files,
            self.segment_bytes >> 10,
            self.bytes as f64 / (1 << 20) as f64,
        )
    }
}

impl Row for Line {
    const COLUMNS: &'static [(&'static str, Align)] = &[
        ("file", Align::Left),
        ("epoch", Align::Right),
        ("state", Align::Left),
        ("records", Align::Right),
        ("bodies", Align::Right),
        ("slots", Align::Right),
        ("fill", Align::Right),
        ("", Align::Left),
    ];

    fn cells(&self) -> Vec<String> {
        let number = |value: u64| if self.epoch.is_some() { value.to_string() } else { "-".to_owned() };
        let slots = self.slot_first.zip(self.slot_end).map(|(first, end)| format!("{first}..{end}"));
        let fill = 100.0 * self.used_bytes as f64 / self.bytes.max(1) as f64;
        vec![
            self.file.clone(),
            number(self.epoch.unwrap_or(0)),
            self.state.to_owned(),
            number(self.records),
            number(self.bodies),
            slots.unwrap_or_else(|| "-".to_owned()),
            if self.epoch.is_some() { format!("{fill:.1}%") } else { "-".to_owned() },
            self.remark(),
        ]
    }
}

impl Line {
    fn remark(&self) -> String {
        let lost = self.before_lost.then(|| "records may be missing in front of it".to_owned());
        let unsure = self.unsure.then(|| "begun unsure of the promise".to_owned());
        self.problem.iter().cloned().chain(lost).chain(unsure).collect::<Vec<_>>().join("; ")
    }
}

/// What a segment holds.
#[derive(Default)]
struct Content {
    records: u64,
    bodies: u64,
    slots: Option<SlotRange>,
    end: u64,
    sealed: bool,
    problem: Option<String>,
}

pub(crate) fn run(options: &Options, output: &mut Output) -> Result<Exit> {
    let source = Source::open(&options.directory)?;
    let files = source.files()?;
    let first_needed = Source::first_needed(&files);
    let (segments, missing) = source.segments(&files, true);
    let progress = Progress::pieces(segments.len() as u64, "reading segments");
    let read = |segment: &Segment<'_>| {
        let content = content(&source, segment);
        progress.advance(1);
        content
    };
    let contents: Vec<Content> = segments.iter().map(read).collect();
    drop(progress);
    // The log grows in the newest segment that has records; one behind it is only prepared.
    let growing = contents.iter().rposition(|content| content.records > 0);
    let mut lines = Vec::new();
    for (place, (segment, content)) in segments.iter().zip(&contents).enumerate() {
        let state = match growing {
            _ if segment.header.epoch < first_needed => "free",
            _ if content.problem.is_some() || segment.file.problem.is_some() => "damaged",
            _ if content.sealed => "sealed",
            Some(growing) if place < growing => "cut",
            Some(growing) if place == growing => "open",
            _ => "next",
        };
        let problem = segment.file.problem.as_ref().map(ToString::to_string).or_else(|| content.problem.clone());
        lines.push(Line {
            file: segment.file.id.to_string(),
            state,
            epoch: Some(segment.header.epoch),
            bytes: segment.file.bytes,
            records: content.records,
            bodies: content.bodies,
            slot_first: content.slots.as_ref().map(|slots| slots.start.0),
            slot_end: content.slots.as_ref().map(|slots| slots.end.0),
            used_bytes: content.end,
            before_lost: segment.header.before_lost,
            unsure: segment.header.unsure,
            problem,
        });
    }
    for file in files.iter().filter(|file| file.header.is_none()) {
        let problem = file.problem.as_ref();
        let state = match problem {
            Some(FileProblem::Fresh) => "unused",
            Some(FileProblem::Unfinished { .. }) => "unfinished",
            Some(FileProblem::Foreign) => "foreign",
            _ => "damaged",
        };
        lines.push(Line {
            file: file.id.to_string(),
            state,
            epoch: None,
            bytes: file.bytes,
            records: 0,
            bodies: 0,
            slot_first: None,
            slot_end: None,
            used_bytes: 0,
            before_lost: false,
            unsure: false,
            problem: problem.filter(|problem| !problem.is_harmless()).map(ToString::to_string),
        });
    }
    let identity = &source.identity;
    let head = Head {
        directory: source.path.display().to_string(),
        node: identity.node.0,
        cluster: identity.cluster.map(|id| uuid(&id)),
        lineage: identity.lineage,
        incarnation: uuid(&identity.incarnation),
        boots: identity.boot_counter,
        running: source.live,
        segment_bytes: identity.segment_bytes,
        files: lines.len() as u64,
        bytes: lines.iter().map(|line| line.bytes).sum(),
    };
    output.report(&head, "segments", &lines)?;
    for epoch in &missing {
        eprintln!("synod-tools: segment {epoch} is missing; restore its file, or run `synod-tools verify`");
    }
    Ok(Exit::sound(missing.is_empty() && lines.iter().all(|line| line.problem.is_none())))
}

fn content(source: &Source, segment: &Segment<'_>) -> Content {
    let mut content = Content { end: BLOCK_BYTES as u64, ..Content::default() };
    if let Err(error) = fill(source, segment, &mut content) {
        content.problem = Some(error.to_string());
    }
    content
}

fn fill(source: &Source, segment: &Segment<'_>, content: &mut Content) -> Result<(), scan::ReadError> {
    let mut scanner = source.scanner(segment, Depth::Heads);
    let counted = count(&mut scanner, source, content);
    if let Some((offset, why)) = scanner.unreadable().first_key_value() {
        content.problem = Some(format!("at {offset:#x}: the disk doesn't read it: {why}"));
    }
    counted?;
    let seal = scan::read_seal(&source.store, segment.file.id, source.geometry, segment.header, content.end)?;
    content.sealed = seal.complete;
    Ok(())
}

fn count(scanner: &mut Scanner<'_>, source: &Source, content: &mut Content) -> Result<(), scan::ReadError> {
    while let Some(item) = scanner.next_item()? {
        let record = match item {
            Item::Record(record) => record,
            Item::Hole(hole) => {
                if let HoleCause::Head(error) = &hole.cause {
                    content.problem = Some(format!("at {:#x}: {error}", hole.offset)).filter(|_| !source.live);
                }
                break;
            }
            Item::Stray(_) | Item::BadStray { .. } => break,
        };
        content.records += 1;
        content.end = record.offset + u64::from(record.header.record_bytes);
        if let Some(slots) = record.slots().filter(|_| record.header.meta.kind.fills_slots()) {
            let known = content.slots.take().unwrap_or_else(|| slots.clone());
            content.slots = Some(known.start.min(slots.start)..known.end.max(slots.end));
            content.bodies += record.pack.map_or(1, |pack| u64::from(pack.bodies));
        }
    }
    Ok(())
}
