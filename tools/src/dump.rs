//! `dump`: every record, in log order.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use synod_frame::{CommandsView, RECORD_HEADER_BYTES, RecordBuffer};
use synod_protocol::{BodyHandle, BodyKind, Slot};
use synod_wal::RecordKind;
use synod_wal::scan::{Depth, Hole, Item, ScannedRecord, Scanner};

use crate::exit::Exit;
use crate::output::{Output, escaped, hex};
use crate::source::Source;

/// What to dump, and how.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Directory of a node
    directory: PathBuf,
    /// Only bodies that reach this slot or a later one
    #[arg(long)]
    from: Option<u64>,
    /// Only bodies that begin before this slot
    #[arg(long)]
    to: Option<u64>,
    /// Only records of this kind: accepted, chosen, copied, healed, promise, configuration, mark, trim
    #[arg(long, value_parser = parse_kind)]
    kind: Option<RecordKind>,
    /// At most this many records
    #[arg(long)]
    limit: Option<u64>,
    /// Print the commands of each body, one a line
    #[arg(long, value_enum)]
    commands: Option<Commands>,
    /// Also segments that the log doesn't need any more
    #[arg(long)]
    all: bool,
}

/// How to print commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Commands {
    /// As text, with everything but printable ASCII escaped
    Text,
    /// As hexadecimal digits
    Hex,
}

fn parse_kind(text: &str) -> Result<RecordKind, String> {
    RecordKind::ALL
        .into_iter()
        .find(|kind| name(*kind) == text)
        .ok_or_else(|| format!("no such kind; the kinds are {}", RecordKind::ALL.map(name).join(", ")))
}

fn name(kind: RecordKind) -> &'static str {
    match kind {
        RecordKind::Accepted => "accepted",
        RecordKind::Chosen => "chosen",
        RecordKind::Copied => "copied",
        RecordKind::Healed => "healed",
        RecordKind::Promise => "promise",
        RecordKind::Configuration => "configuration",
        RecordKind::Mark => "mark",
        RecordKind::Trim => "trim",
    }
}

/// Whether nothing looked damaged on the way.
pub(crate) fn run(options: &Options, output: &mut Output) -> Result<Exit> {
    let source = Source::open(&options.directory)?;
    let files = source.files()?;
    let mut left = options.limit.unwrap_or(u64::MAX);
    let mut sound = true;
    let (segments, _) = source.segments(&files, options.all);
    for segment in &segments {
        let (file, newest) = (&segment.file.id, segment.newest);
        let mut scanner = source.scanner(segment, Depth::Full);
        while left > 0
            && let Some(item) = scanner.next_item()?
        {
            match item {
                Item::Record(record) if wanted(options, &record) => {
                    left -= 1;
                    print(&record, file, output)?;
                    if let Some(how) = options.commands {
                        print_commands(&mut scanner, &record, how, output)?;
                    }
                }
                Item::Record(_) => {}
                Item::Hole(hole) => sound &= report_hole(&hole, file, newest || source.live),
                Item::BadStray { record, .. } => {
                    eprintln!("{file} at {}: a damaged record behind the hole", record.offset);
                }
                Item::Stray(record) => {
                    eprintln!("{file} at {}: a record behind the end of the log, never durable", record.offset);
                }
            }
        }
    }
    Ok(Exit::sound(sound))
}

fn wanted(options: &Options, record: &ScannedRecord) -> bool {
    if options.kind.is_some_and(|kind| kind != record.header.meta.kind) {
        return false;
    }
    if options.from.is_none() && options.to.is_none() {
        return true;
    }
    let Some(body) = record.body.filter(|_| record.header.meta.kind.fills_slots()) else { return false };
    let slots = body.handle().slots();
    options.from.is_none_or(|from| slots.end > Slot(from)) && options.to.is_none_or(|to| slots.start < Slot(to))
}

fn print(record: &ScannedRecord, file: &synod_wal::FileId, output: &mut Output) -> Result<()> {
    let header = &record.header;
    let meta = &header.meta;
    let what = match record.body.map(|body| body.handle()) {
        Some(body) => {
            format!("slots {}..{} {} {} bytes id {}", body.first, body.end(), content(&body), body.bytes, body.id)
        }
        None if meta.kind == RecordKind::Trim => format!("base {} chain {}", header.base.slot, header.base.chain),
        None => String::new(),
    };
    let source = if meta.source.0 == 0 { String::new() } else { format!(" from {}", meta.source) };
    let line = format!(
        "{} {file}+{:#x} {:<13} ballot {} promised {} mark {} durable {} {what}{source}",
        header.lsn,
        record.offset,
        name(meta.kind),
        meta.ballot,
        meta.promised,
        meta.mark.slot,
        header.durable,
    );
    output.line(line.trim_end())
}

fn content(body: &BodyHandle) -> String {
    match body.kind {
        BodyKind::Commands => format!("commands {}", body.count),
        BodyKind::NoOp => "no-op".to_owned(),
        BodyKind::Configuration => "configuration".to_owned(),
        BodyKind::Trim { upto } => format!("trim below {upto}"),
    }
}

fn print_commands(scanner: &mut Scanner<'_>, record: &ScannedRecord, how: Commands, output: &mut Output) -> Result<()> {
    let Some(header) = record.body.filter(|body| body.handle().kind == BodyKind::Commands) else { return Ok(()) };
    let body = header.handle();
    // The archive is read in place, which needs an alignment that the scanner's buffer doesn't promise.
    let bytes = scanner.record_bytes(record)?;
    let mut aligned = RecordBuffer::zeroed(bytes.len());
    aligned.as_mut()[..bytes.len()].copy_from_slice(bytes);
    let range = RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + body.bytes as usize;
    let view = CommandsView::new(&header, &aligned.as_ref()[range])
        .with_context(|| format!("the body at slot {}", body.first))?;
    for place in 0..body.count {
        let command =
            view.get(place).with_context(|| format!("the command at slot {}", body.first.plus(u64::from(place))))?;
        let text = match how {
            Commands::Text => escaped(command),
            Commands::Hex => hex(command),
        };
        output.line(format_args!("    {} {text}", body.first.plus(u64::from(place))))?;
    }
    Ok(())
}

/// Whether the end of a segment's records is an end that a sound log may have.
fn report_hole(hole: &Hole, file: &synod_wal::FileId, may_be_torn: bool) -> bool {
    use synod_wal::scan::HoleCause;
    match &hole.cause {
        HoleCause::Stop | HoleCause::Full | HoleCause::Seal(_) | HoleCause::Old => true,
        cause if cause.is_torn() && may_be_torn => {
            eprintln!("{file} at {}: an unfinished last write", hole.offset);
            true
        }
        cause => {
            eprintln!("{file} at {}: {cause:?}; run `synod-tools verify`", hole.offset);
            false
        }
    }
}
