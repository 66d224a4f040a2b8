//! `ls`: the node and its segments.

use std::path::Path;

use anyhow::Result;
use synod_frame::BLOCK_BYTES;
use synod_protocol::SlotRange;
use synod_wal::format::SegmentHeaderError;
use synod_wal::scan::{self, Depth, Item, ScanOptions, Scanner};

use crate::output::{Output, uuid};
use crate::source::{File, Source};

/// What a segment holds.
#[derive(Default)]
struct Content {
    records: u64,
    bodies: u64,
    slots: Option<SlotRange>,
    end: u64,
    sealed: bool,
}

pub(crate) fn run(path: &Path, output: &mut Output) -> Result<()> {
    let source = Source::open(path)?;
    let identity = &source.identity;
    let cluster = identity.cluster.map_or_else(|| "none: not bootstrapped".to_owned(), |id| uuid(&id));
    output.line(format_args!(
        "node {}  cluster {cluster}  lineage {}  incarnation {}  boots {}  segments of {} KiB",
        identity.node.0,
        identity.lineage,
        uuid(&identity.incarnation),
        identity.boot_counter,
        identity.segment_bytes >> 10,
    ))?;
    if source.live {
        output.line("a node is running on this directory; the newest segment is growing")?;
    }
    let files = source.files()?;
    let first_needed = Source::first_needed(&files);
    let mut contents = Vec::new();
    for file in &files {
        contents.push(content(&source, file)?);
    }
    // The log grows in the newest segment that has records; one behind it is only prepared.
    let growing = contents.iter().rposition(|content| content.records > 0);
    output.line(format_args!(
        "{:<20} {:>8} {:<8} {:>8} {:>8} {:>25} {:>6}",
        "file", "epoch", "state", "records", "bodies", "slots", "fill"
    ))?;
    for (place, (file, content)) in files.iter().zip(&contents).enumerate() {
        let name = file.id.to_string();
        let header = match &file.header {
            Ok(header) => header,
            Err(SegmentHeaderError::Fresh) => {
                output.line(format_args!("{name:<20} {:>8} unused", "-"))?;
                continue;
            }
            Err(error) => {
                output.line(format_args!("{name:<20} {:>8} damaged: {error}; run `synod-tools verify`", "-"))?;
                continue;
            }
        };
        let state = match growing {
            _ if header.epoch < first_needed => "free",
            _ if content.sealed => "sealed",
            Some(growing) if place < growing => "cut",
            Some(growing) if place == growing => "open",
            _ => "next",
        };
        let slots =
            content.slots.as_ref().map_or_else(|| "-".to_owned(), |slots| format!("{}..{}", slots.start, slots.end));
        let fill = 100.0 * content.end as f64 / source.geometry.segment_bytes() as f64;
        output.line(format_args!(
            "{name:<20} {:>8} {state:<8} {:>8} {:>8} {slots:>25} {fill:>5.1}%",
            header.epoch, content.records, content.bodies
        ))?;
    }
    Ok(())
}

fn content(source: &Source, file: &File) -> Result<Content> {
    let Ok(header) = &file.header else { return Ok(Content::default()) };
    let options = ScanOptions { depth: Depth::Heads, live: source.live, stop: None };
    let mut scanner = Scanner::new(&source.store, file.id, source.geometry, header, options);
    let mut content = Content { end: BLOCK_BYTES as u64, ..Content::default() };
    while let Some(item) = scanner.next_item()? {
        let Item::Record(record) = item else { break };
        content.records += 1;
        content.end = record.offset + u64::from(record.header.record_bytes);
        if let Some(body) = record.body.filter(|_| record.header.meta.kind.fills_slots()) {
            let slots = body.handle().slots();
            let known = content.slots.take().unwrap_or_else(|| slots.clone());
            content.slots = Some(known.start.min(slots.start)..known.end.max(slots.end));
            content.bodies += 1;
        }
    }
    let seal = scan::read_seal(&source.store, file.id, source.geometry, header, content.end)?;
    content.sealed = seal.complete;
    Ok(content)
}
