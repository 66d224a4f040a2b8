//! `stat`: what a log is made of, and what it costs on the disk.

mod histogram;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;
use synod_frame::RECORD_HEADER_BYTES;
use synod_protocol::{Ballot, BodyKind, FORMAT_FIRST};
use synod_wal::format::PackedBody;
use synod_wal::scan::{Depth, ScannedRecord, Scanner};

use crate::configuration::ConfigurationRow;
use crate::exit::Exit;
use crate::output::Output;
use crate::record::{self, body_kind, boot, record_kind};
use crate::source::Source;
use crate::walk::{Found, WalkOptions, walk};

use histogram::Histogram;

/// How many configurations are listed: the last ones.
const CONFIGURATIONS_LISTED_MAX: usize = 100;

/// How many changes of ballot are listed; more are counted only.
const BALLOTS_LISTED_MAX: usize = 1000;

/// Which directory.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Directory of a node
    directory: PathBuf,
    /// Leave out what needs the bodies themselves: the commands' sizes, and how much the disk holds for each
    #[arg(long)]
    quick: bool,
}

/// What a log is made of.
#[derive(Serialize)]
struct Statistics {
    directory: String,
    /// What a build must read to read the log.
    format: u16,
    segments: u64,
    /// Of the segments that the log needs.
    disk_bytes: u64,
    records: u64,
    record_bytes: u64,
    record_kinds: BTreeMap<&'static str, u64>,
    bodies: u64,
    body_bytes: u64,
    body_kinds: BTreeMap<&'static str, u64>,
    slots: u64,
    commands: u64,
    /// Only the clients' own bytes.
    command_bytes: Option<u64>,
    /// Record headers.
    header_bytes: u64,
    /// Zeros behind records, up to whole blocks.
    padding_bytes: u64,
    /// Of the records' blocks, how much is not padding.
    block_fill: f64,
    /// Of the segments, how much is records.
    segment_fill: f64,
    /// Bytes of records a byte of commands.
    record_amplification: Option<f64>,
    /// Bytes of segments a byte of commands.
    disk_amplification: Option<f64>,
    body_sizes: Histogram,
    commands_a_body: Histogram,
    command_sizes: Option<Histogram>,
    ballots_count: u64,
    ballots: Vec<BallotSpan>,
    /// The configurations whose bodies are in the log, in the order of records.
    configurations: Vec<ConfigurationRow>,
}

/// Accepts at one ballot, one after the other.
#[derive(Serialize)]
struct BallotSpan {
    round: u64,
    node: u32,
    boot: String,
    records: u64,
    slot_first: u64,
    slot_end: u64,
    log_time_first_us: u64,
    log_time_last_us: u64,
    #[serde(skip)]
    ballot: Ballot,
}

/// What is counted on the way.
struct Counts {
    quick: bool,
    records: u64,
    record_bytes: u64,
    record_kinds: BTreeMap<&'static str, u64>,
    bodies: u64,
    body_bytes: u64,
    body_kinds: BTreeMap<&'static str, u64>,
    slots: u64,
    commands: u64,
    command_bytes: u64,
    body_sizes: Histogram,
    commands_a_body: Histogram,
    command_sizes: Histogram,
    ballots_count: u64,
    ballots: Vec<BallotSpan>,
    ballot: Option<Ballot>,
    configurations: Vec<ConfigurationRow>,
    format: u16,
    troubles: u64,
}

pub(crate) fn run(options: &Options, output: &mut Output) -> Result<Exit> {
    let source = Source::open(&options.directory)?;
    let depth = if options.quick { Depth::Heads } else { Depth::Full };
    let mut counts = Counts::new(options.quick);
    let walked = walk(&source, WalkOptions::new(depth), &mut |found| {
        counts.take(found)?;
        Ok(ControlFlow::Continue(()))
    })?;
    let files = source.files()?;
    let needed = source.segments(&files, false).0;
    let segments = needed.len() as u64;
    let in_headers = needed.iter().map(|segment| segment.header.readable_by).max();
    counts.format = counts.format.max(in_headers.unwrap_or(FORMAT_FIRST));
    let sound = walked.is_sound() && counts.troubles == 0;
    output.object(&counts.finish(&source, segments))?;
    Ok(Exit::sound(sound))
}

impl Counts {
    fn new(quick: bool) -> Counts {
        Counts {
            quick,
            records: 0,
            record_bytes: 0,
            record_kinds: BTreeMap::new(),
            bodies: 0,
            body_bytes: 0,
            body_kinds: BTreeMap::new(),
            slots: 0,
            commands: 0,
            command_bytes: 0,
            body_sizes: Histogram::new(),
            commands_a_body: Histogram::new(),
            command_sizes: Histogram::new(),
            ballots_count: 0,
            ballots: Vec::new(),
            ballot: None,
            configurations: Vec::new(),
            format: FORMAT_FIRST,
            troubles: 0,
        }
    }

    fn take(&mut self, found: Found<'_, '_>) -> Result<()> {
        let header = &found.record.header;
        self.records += 1;
        self.record_bytes += u64::from(header.record_bytes);
        *self.record_kinds.entry(record_kind(header.meta.kind)).or_default() += 1;
        let fills_slots = header.meta.kind.fills_slots();
        if fills_slots && !header.meta.ballot.is_zero() {
            self.take_ballot(&found);
        }
        for body in found.scanner.bodies(&found.record)? {
            self.take_body(&found.record, &body, fills_slots, found.scanner)
                .with_context(|| format!("{} at {:#x}", found.file, found.record.offset))?;
        }
        Ok(())
    }

    fn take_body(
        &mut self,
        record: &ScannedRecord,
        body: &PackedBody,
        fills_slots: bool,
        scanner: &mut Scanner<'_>,
    ) -> Result<()> {
        let handle = body.header.handle();
        self.bodies += 1;
        self.body_bytes += u64::from(handle.bytes);
        *self.body_kinds.entry(body_kind(handle.kind)).or_default() += 1;
        self.format = self.format.max(body.header.format);
        if handle.kind.is_configuration() {
            self.take_configuration(record, body, scanner)?;
        }
        if !fills_slots {
            return Ok(());
        }
        self.slots += u64::from(handle.count);
        self.body_sizes.add(u64::from(handle.bytes));
        if handle.kind != BodyKind::Commands {
            return Ok(());
        }
        self.commands += u64::from(handle.count);
        self.commands_a_body.add(u64::from(handle.count));
        if !self.quick {
            let buffer = scanner.body_record(record, body)?;
            if let Err(error) = self.take_commands(&body.header, &buffer) {
                self.troubles += 1;
                eprintln!("synod-tools: the record at position {}: {error:#}", record.header.lsn);
            }
        }
        Ok(())
    }

    /// The last bodies of a long life of changes are those that matter.
    fn take_configuration(
        &mut self,
        record: &ScannedRecord,
        body: &PackedBody,
        scanner: &mut Scanner<'_>,
    ) -> Result<()> {
        let row = ConfigurationRow::read(&body.header, &scanner.body_record(record, body)?)?;
        self.format = self.format.max(row.format);
        if self.configurations.len() == CONFIGURATIONS_LISTED_MAX {
            self.configurations.remove(0);
        }
        self.configurations.push(row);
        Ok(())
    }

    fn take_commands(&mut self, header: &synod_frame::BodyHeader, record: &synod_frame::RecordBuffer) -> Result<()> {
        let view = record::commands_view(header, record)?;
        self.command_bytes += view.blob().len() as u64;
        if let Some(stride) = view.stride() {
            self.command_sizes.add_many(u64::from(stride), u64::from(header.count));
            return Ok(());
        }
        for command in view.iter() {
            self.command_sizes.add(command?.len() as u64);
        }
        Ok(())
    }

    fn take_ballot(&mut self, found: &Found<'_, '_>) {
        let meta = &found.record.header.meta;
        let slots = found.record.slots().unwrap_or_default();
        let new = self.ballot != Some(meta.ballot);
        self.ballot = Some(meta.ballot);
        self.ballots_count += u64::from(new);
        if new && self.ballots.len() < BALLOTS_LISTED_MAX {
            self.ballots.push(BallotSpan {
                round: meta.ballot.round,
                node: meta.ballot.node.0,
                boot: boot(meta.ballot),
                records: 0,
                slot_first: slots.start.0,
                slot_end: slots.end.0,
                log_time_first_us: meta.log_time_us,
                log_time_last_us: meta.log_time_us,
                ballot: meta.ballot,
            });
        }
        if let Some(span) = self.ballots.last_mut().filter(|span| span.ballot == meta.ballot) {
            span.records += 1;
            span.slot_first = span.slot_first.min(slots.start.0);
            span.slot_end = span.slot_end.max(slots.end.0);
            span.log_time_last_us = meta.log_time_us;
        }
    }

    fn finish(self, source: &Source, segments: u64) -> Statistics {
        let disk_bytes = segments * source.geometry.segment_bytes();
        let header_bytes = self.records * RECORD_HEADER_BYTES as u64;
        let padding_bytes = self.record_bytes - header_bytes - self.body_bytes;
        let command_bytes = (!self.quick).then_some(self.command_bytes);
        let a_command_byte = |bytes: u64| command_bytes.filter(|own| *own > 0).map(|own| ratio(bytes, own));
        Statistics {
            directory: source.path.display().to_string(),
            format: self.format,
            segments,
            disk_bytes,
            records: self.records,
            record_bytes: self.record_bytes,
            record_kinds: self.record_kinds,
            bodies: self.bodies,
            body_bytes: self.body_bytes,
            body_kinds: self.body_kinds,
            slots: self.slots,
            commands: self.commands,
            command_bytes,
            header_bytes,
            padding_bytes,
            block_fill: ratio(self.record_bytes - padding_bytes, self.record_bytes),
            segment_fill: ratio(self.record_bytes, disk_bytes),
            record_amplification: a_command_byte(self.record_bytes),
            disk_amplification: a_command_byte(disk_bytes),
            body_sizes: self.body_sizes,
            commands_a_body: self.commands_a_body,
            command_sizes: (!self.quick).then_some(self.command_sizes),
            ballots_count: self.ballots_count,
            ballots: self.ballots,
            configurations: self.configurations,
        }
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    // Three decimals are more than anybody compares.
    if whole == 0 { 0.0 } else { (1000.0 * part as f64 / whole as f64).round() / 1000.0 }
}

fn list(counts: &BTreeMap<&'static str, u64>) -> String {
    let mut named: Vec<_> = counts.iter().collect();
    named.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    named.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Statistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "segments  {} needed, {} bytes, {:.1}% of them records",
            self.segments,
            self.disk_bytes,
            100.0 * self.segment_fill
        )?;
        writeln!(f, "format    {}", self.format)?;
        writeln!(f, "records   {} of {} bytes: {}", self.records, self.record_bytes, list(&self.record_kinds))?;
        writeln!(f, "bodies    {} of {} bytes: {}", self.bodies, self.body_bytes, list(&self.body_kinds))?;
        let own = self.command_bytes.map(|bytes| format!(" of {bytes} bytes")).unwrap_or_default();
        writeln!(f, "commands  {}{own}, in {} slots", self.commands, self.slots)?;
        writeln!(
            f,
            "overhead  record headers {} bytes, padding {} bytes; blocks are {:.1}% full",
            self.header_bytes,
            self.padding_bytes,
            100.0 * self.block_fill
        )?;
        if let (Some(records), Some(disk)) = (self.record_amplification, self.disk_amplification) {
            writeln!(f, "a byte of commands takes {records:.2} bytes of records, {disk:.2} bytes of segments")?;
        }
        self.body_sizes.draw(f, "body sizes", "bytes")?;
        self.commands_a_body.draw(f, "commands a body", "commands")?;
        if let Some(sizes) = &self.command_sizes {
            sizes.draw(f, "command sizes", "bytes")?;
        }
        write!(f, "\nballots   {} one after the other", self.ballots_count)?;
        for span in &self.ballots {
            write!(
                f,
                "\n  {}  {} records, slots {}..{}, log time {}..{} us",
                span.ballot,
                span.records,
                span.slot_first,
                span.slot_end,
                span.log_time_first_us,
                span.log_time_last_us
            )?;
        }
        if self.ballots_count > self.ballots.len() as u64 {
            write!(f, "\n  and {} more", self.ballots_count - self.ballots.len() as u64)?;
        }
        for configuration in &self.configurations {
            write!(f, "\n{configuration}")?;
        }
        Ok(())
    }
}
