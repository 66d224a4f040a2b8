//! `hexdump`: the bytes of one record, each field with its name, place and value.
//!
//! It shows what is there, damaged or not: a block whose checksum doesn't agree says so, and so does a field that holds
//! what no writer writes. Names and places come from the byte maps of the format, so the two can't drift apart; only
//! the archive is described here, after `engine/docs/wal-format.md`.

mod archive;
mod place;

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use synod_frame::{
    BLOCK_BYTES, BODY_FIELDS, BODY_HEADER_BYTES, BodyError, BodyHeader, ByteField, FieldForm, RECORD_HEADER_BYTES,
    RecordBuffer,
};
use synod_protocol::{BodyHandle, BodyKind, Slot};
use synod_wal::format::{PACK_FIELDS, PACK_HEADER_BYTES, RECORD_FIELDS};
use synod_wal::{IndexEntry, Location, RecordKind};

use crate::exit::Exit;
use crate::get::find;
use crate::output::{Align, Output, Row, escaped, hex};
use crate::record::{BODY_KINDS, record_kind};
use crate::source::Source;
use crate::survey::Survey;
use crate::walk::{Found, WalkOptions, walk};

use place::Place;

/// Bytes of a command on a line.
const LINE_BYTES: usize = 16;

/// Which record.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Directory of a node
    directory: PathBuf,
    /// The slot whose body to show
    #[arg(required_unless_present_any = ["position", "at"])]
    slot: Option<u64>,
    /// Show the record at this position of the log instead, also one without a body
    #[arg(long, value_parser = crate::dump::parse_position, conflicts_with = "slot")]
    position: Option<u64>,
    /// Show what lies at this place of a file instead, a record or not: as in segment-000003.wal+0x5000
    #[arg(long, value_name = "FILE+OFFSET", value_parser = Place::parse, conflicts_with_all = ["slot", "position"])]
    at: Option<Place>,
}

/// Which record it is.
#[derive(Serialize)]
struct Head {
    file: String,
    offset: u64,
    record_bytes: u32,
    slot: Option<u64>,
    state: Option<&'static str>,
    sound: bool,
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes at {:#x} of {}", self.record_bytes, self.offset, self.file)?;
        if let (Some(slot), Some(state)) = (self.slot, self.state) {
            write!(f, ", which hold slot {slot}, {state}")?;
        }
        f.write_str(if self.sound { "" } else { "; DAMAGED" })
    }
}

/// One field.
#[derive(Serialize)]
struct Line {
    /// In the file.
    offset: u64,
    length: u64,
    part: &'static str,
    field: String,
    value: String,
    /// The bytes, of long fields the first.
    hex: String,
    /// What is wrong with it.
    problem: Option<String>,
}

impl Row for Line {
    const COLUMNS: &'static [(&'static str, Align)] = &[
        ("offset", Align::Right),
        ("bytes", Align::Right),
        ("part", Align::Left),
        ("field", Align::Left),
        ("hex", Align::Left),
        ("value", Align::Left),
    ];

    fn cells(&self) -> Vec<String> {
        let problem = self.problem.as_ref().map(|problem| format!("  !! {problem}")).unwrap_or_default();
        vec![
            format!("{:#x}", self.offset),
            self.length.to_string(),
            self.part.to_owned(),
            self.field.clone(),
            self.hex.clone(),
            format!("{}{problem}", self.value),
        ]
    }
}

/// A record under the glass.
struct Record<'run> {
    bytes: &'run [u8],
    /// Where it begins in its file.
    offset: u64,
    lines: Vec<Line>,
}

pub(crate) fn run(options: &Options, output: &mut Output) -> Result<Exit> {
    let source = Source::open(&options.directory)?;
    let mut packed = None;
    let (location, slot, state, troubles) = match (options.slot, options.position) {
        (Some(slot), _) => {
            let survey = Survey::take(&source)?;
            let entry: IndexEntry = *find(&source, &survey, Slot(slot))?;
            let state = if Survey::is_chosen(&entry) { "chosen" } else { "accepted" };
            packed = entry.location.is_packed().then_some(entry.body);
            (entry.location, Some(Slot(slot)), Some(state), survey.troubles)
        }
        (None, Some(position)) => match at_position(&source, position)? {
            Some(location) => (location, None, None, 0),
            None => return Place::of_position(&source, position)?.show(&source, output),
        },
        (None, None) => {
            let place = options.at.expect("clap asks for one of the three");
            return place.show(&source, output);
        }
    };
    let buffer = source.record_bytes(&location)?;
    let bytes = &buffer.as_ref()[..location.record_bytes as usize];
    let mut record = Record { bytes, offset: location.offset, lines: Vec::new() };
    match packed {
        Some(body) => record.show_packed(&location, &body, slot),
        None => record.show(slot),
    }
    let sound = record.lines.iter().all(|line| line.problem.is_none());
    let head = Head {
        file: location.file.to_string(),
        offset: location.offset,
        record_bytes: location.record_bytes,
        slot: slot.map(|slot| slot.0),
        state,
        sound,
    };
    output.report(&head, "fields", &record.lines)?;
    Ok(Exit::sound(sound && troubles == 0))
}

/// The record that has a position, if one can be read there.
fn at_position(source: &Source, position: u64) -> Result<Option<Location>> {
    let mut location = None;
    let options = WalkOptions { all: true, ..WalkOptions::new(synod_wal::scan::Depth::Heads) };
    walk(source, options, &mut |found: Found<'_, '_>| {
        let header = &found.record.header;
        if (header.lsn.0..header.end().0).contains(&position) {
            location = Some(Location::alone(found.file, found.record.offset, header.record_bytes));
            return Ok(std::ops::ControlFlow::Break(()));
        }
        Ok(std::ops::ControlFlow::Continue(()))
    })?;
    Ok(location)
}

impl Record<'_> {
    fn show(&mut self, slot: Option<Slot>) {
        self.fields("record", 0, RECORD_FIELDS);
        let parsed = BodyHeader::parse_in_record(self.bytes);
        match parsed {
            Ok(header) => self.show_body(&header, slot),
            Err(_) if self.bytes[RECORD_HEADER_BYTES..].starts_with(b"SYNP") => {
                self.show_pack();
                self.hex_lines("bodies", self.bodies_start()..self.bytes.len(), "");
            }
            // A record without a body is zeros behind its header.
            Err(_) if self.bytes[RECORD_HEADER_BYTES..].iter().all(|byte| *byte == 0) => {
                self.zeros("padding", RECORD_HEADER_BYTES..self.bytes.len());
            }
            Err(error) => {
                self.fields("body", RECORD_HEADER_BYTES, BODY_FIELDS);
                self.fault(error);
                let rest = RECORD_HEADER_BYTES + BODY_HEADER_BYTES..self.bytes.len();
                self.hex_lines("unreadable", rest, "");
            }
        }
    }

    /// The head of a pack.
    fn show_pack(&mut self) {
        self.fields("pack", RECORD_HEADER_BYTES, PACK_FIELDS);
        let blocks = self.bytes.len() / BLOCK_BYTES;
        let entries = RECORD_HEADER_BYTES + PACK_HEADER_BYTES;
        for (number, at) in (entries..self.bodies_start()).step_by(4).enumerate() {
            let (part, field) = match number.checked_sub(blocks) {
                None => ("checksums", format!("block {number}")),
                Some(body) => ("directory", format!("end of body {body}")),
            };
            let form = if part == "checksums" { FieldForm::Hex } else { FieldForm::Number };
            self.field(part, at..at + 4, field, form);
        }
    }

    /// Where the bodies of a pack begin, as its head claims, and within its first block.
    fn bodies_start(&self) -> usize {
        let claimed = number(&self.bytes[RECORD_HEADER_BYTES + 4..][..4]) as usize;
        RECORD_HEADER_BYTES + claimed.clamp(PACK_HEADER_BYTES, BLOCK_BYTES - RECORD_HEADER_BYTES) / 4 * 4
    }

    /// The head of a pack, and one of its bodies.
    fn show_packed(&mut self, location: &Location, body: &BodyHandle, slot: Option<Slot>) {
        self.fields("record", 0, RECORD_FIELDS);
        self.show_pack();
        let start = location.body_offset as usize;
        let mut buffer = RecordBuffer::zeroed(RECORD_HEADER_BYTES + body.bytes as usize);
        let bytes = &self.bytes[start..start + body.bytes as usize];
        buffer.as_mut()[RECORD_HEADER_BYTES..][..bytes.len()].copy_from_slice(bytes);
        // Its checksums are those of a record of its own; what stands behind it there isn't on the disk.
        let offset = location.offset + u64::from(location.body_offset) - RECORD_HEADER_BYTES as u64;
        let mut alone = Record { bytes: buffer.as_ref(), offset, lines: Vec::new() };
        match BodyHeader::parse_in_record(alone.bytes) {
            Ok(header) => {
                alone.show_body(&header, slot);
                let end = offset + (RECORD_HEADER_BYTES as u64) + u64::from(body.bytes);
                alone.lines.retain(|line| line.offset < end);
            }
            Err(error) => {
                alone.fields("body", RECORD_HEADER_BYTES, BODY_FIELDS);
                alone.fault(error);
            }
        }
        self.lines.append(&mut alone.lines);
    }

    fn show_body(&mut self, header: &BodyHeader, slot: Option<Slot>) {
        self.fields("body", RECORD_HEADER_BYTES, BODY_FIELDS);
        let table = RECORD_HEADER_BYTES + BODY_HEADER_BYTES;
        for block in 0..header.blocks() {
            let at = table + 4 * block as usize;
            let covered = match block {
                0 => RECORD_HEADER_BYTES + header.layout.header_bytes as usize..BLOCK_BYTES,
                block => block as usize * BLOCK_BYTES..(block as usize + 1) * BLOCK_BYTES,
            };
            let field = format!("block {block}: {:#x}..{:#x}", covered.start, covered.end);
            self.field("checksums", at..at + 4, field, FieldForm::Hex);
            if let Err(error) = header.check_block(self.bytes, block) {
                self.fault(error);
            }
        }
        let table_end = table + 4 * header.blocks() as usize;
        let archive =
            RECORD_HEADER_BYTES + header.archive_range().start..RECORD_HEADER_BYTES + header.archive_range().end;
        self.zeros("checksums", table_end..archive.start);
        match header.kind {
            BodyKind::Commands => archive::show_commands(self, header, archive.clone(), slot),
            BodyKind::Configuration { .. } => archive::show_configuration(self, archive.clone()),
            BodyKind::Session => archive::show_command(self, archive.clone(), &[("session", 8)]),
            BodyKind::Ticket => archive::show_command(self, archive.clone(), &[("ticket", 8), ("lasts us", 8)]),
            BodyKind::Trim { .. } if !archive.is_empty() => self.hex_lines("state", archive.clone(), ""),
            BodyKind::NoOp | BodyKind::Trim { .. } => {}
        }
        self.zeros("padding", archive.end..self.bytes.len());
    }

    /// Says of the last line what is wrong with it.
    fn fault(&mut self, error: BodyError) {
        if let Some(line) = self.lines.last_mut() {
            line.problem = Some(error.to_string());
        }
    }

    fn fields(&mut self, part: &'static str, at: usize, fields: &[ByteField]) {
        for field in fields {
            let range = at + field.offset..at + field.offset + field.bytes;
            match field.form {
                FieldForm::Zeros => self.zeros_named(part, range, field.name),
                form => self.field(part, range, field.name.to_owned(), form),
            }
        }
    }

    fn field(&mut self, part: &'static str, range: Range<usize>, field: String, form: FieldForm) {
        let bytes = &self.bytes[range.clone()];
        let value = match form {
            FieldForm::Letters => escaped(bytes),
            FieldForm::Number => match name_of(part, &field, number(bytes)) {
                Some(name) => format!("{} {name}", number(bytes)),
                None => number(bytes).to_string(),
            },
            FieldForm::Hex | FieldForm::Zeros => format!("{:#x}", number(bytes)),
        };
        self.line(part, range, field, value);
    }

    fn line(&mut self, part: &'static str, range: Range<usize>, field: String, value: String) {
        if range.is_empty() {
            return;
        }
        let bytes = &self.bytes[range.clone()];
        let more = if bytes.len() > LINE_BYTES { ".." } else { "" };
        self.lines.push(Line {
            offset: self.offset + range.start as u64,
            length: range.len() as u64,
            part,
            field,
            value,
            hex: format!("{}{more}", hex(&bytes[..bytes.len().min(LINE_BYTES)])),
            problem: None,
        });
    }

    /// Bytes that must be zero.
    fn zeros(&mut self, part: &'static str, range: Range<usize>) {
        self.zeros_named(part, range, "zeros");
    }

    fn zeros_named(&mut self, part: &'static str, range: Range<usize>, name: &str) {
        let wrong = self.bytes[range.clone()].iter().position(|byte| *byte != 0);
        self.line(part, range.clone(), name.to_owned(), String::new());
        if let Some((at, line)) = wrong.zip(self.lines.last_mut()) {
            line.problem = Some(format!("byte {:#x} of the record must be zero", range.start + at));
        }
    }

    /// Bytes of a client, some a line, as digits and letters.
    fn hex_lines(&mut self, part: &'static str, range: Range<usize>, field: &str) {
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min(at + LINE_BYTES);
            let letters =
                self.bytes[at..end].iter().map(|byte| if byte.is_ascii_graphic() { *byte as char } else { '.' });
            let letters = letters.collect();
            self.line(part, at..end, field.to_owned(), letters);
            at = end;
        }
    }
}

/// What the number of a kind stands for.
fn name_of(part: &str, field: &str, number: u128) -> Option<&'static str> {
    let number = u16::try_from(number).ok()?;
    match (part, field) {
        ("record", "kind") => RecordKind::from_number(number).map(record_kind),
        ("body", "kind") => BODY_KINDS.get(usize::from(number).checked_sub(1)?).copied(),
        ("body", "encoding") => (number == 1).then_some("plain"),
        _ => None,
    }
}

/// A little-endian number of at most sixteen bytes.
fn number(bytes: &[u8]) -> u128 {
    bytes.iter().rev().take(16).fold(0, |number, byte| number << 8 | u128::from(*byte))
}
