//! `get`: the command at one slot.

use std::fmt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;
use synod_frame::SubmissionEntry;
use synod_protocol::{BodyKind, Slot};
use synod_wal::IndexEntry;

use crate::configuration::ConfigurationRow;
use crate::exit::{Exit, failure};
use crate::output::Output;
use crate::record::{self, CommandContent, Decode, body_kind, boot};
use crate::source::{Source, StoredBody};
use crate::survey::Survey;

/// Which slot, and how to show it.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Directory of a node
    directory: PathBuf,
    /// The slot
    slot: u64,
    /// Write the command's bytes as they are, and nothing else
    #[arg(long, conflicts_with = "decode")]
    raw: bool,
    /// How to show the command
    #[arg(long, value_enum, default_value = "utf8")]
    decode: Decode,
}

/// What fills a slot.
#[derive(Serialize)]
struct Answer {
    slot: u64,
    /// chosen, or only accepted here
    state: &'static str,
    body_kind: &'static str,
    slot_first: u64,
    slot_end: u64,
    body_id: String,
    /// The ballot at which this log accepted the body; zeros if it was copied from another.
    ballot_round: u64,
    ballot_node: u32,
    ballot_boot: String,
    origin_round: u64,
    origin_node: u32,
    leader_time_us: u64,
    session: Option<u64>,
    sequence: Option<u64>,
    ticket: Option<u64>,
    expected_slot: Option<u64>,
    position: u64,
    file: String,
    offset: u64,
    bytes: Option<u64>,
    #[serde(flatten)]
    command: Option<CommandContent>,
    #[serde(skip_serializing_if = "Option::is_none")]
    configuration: Option<ConfigurationRow>,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "slot {} {}  ballot {}.n{}.{}  body {}..{} {}  made at {}.n{}  log time {} us",
            self.slot,
            self.state,
            self.ballot_round,
            self.ballot_node,
            self.ballot_boot,
            self.slot_first,
            self.slot_end,
            self.body_kind,
            self.origin_round,
            self.origin_node,
            self.leader_time_us,
        )?;
        write!(f, "position {:#x}  {}+{:#x}", self.position, self.file, self.offset)?;
        if let Some(configuration) = &self.configuration {
            write!(f, "\n{configuration}")?;
        }
        if let (Some(bytes), Some(command)) = (self.bytes, &self.command) {
            write!(f, "  {bytes} bytes\n{command}")?;
        }
        Ok(())
    }
}

pub(crate) fn run(options: &Options, output: &mut Output) -> Result<Exit> {
    let source = Source::open(&options.directory)?;
    let survey = Survey::take(&source)?;
    let slot = Slot(options.slot);
    let entry = find(&source, &survey, slot)?;
    let stored = source.body(&entry.location, &entry.body)?;
    let (mut command, mut submission) = (None, None);
    if stored.header.kind == BodyKind::Commands {
        let (bytes, entry) = command_at(&stored, slot)?;
        (command, submission) = (Some(bytes), Some(entry));
    }
    if options.raw {
        let command = command.ok_or_else(|| no_command(slot, stored.header.kind))?;
        output.raw(&command)?;
        return Ok(Exit::sound(survey.troubles == 0));
    }
    let configuration = match stored.header.kind {
        BodyKind::Configuration { .. } => Some(ConfigurationRow::read(&stored.header, &stored.record)?),
        _ => None,
    };
    let session = submission.as_ref().filter(|submission| submission.session != 0);
    let answer = Answer {
        slot: slot.0,
        state: if Survey::is_chosen(entry) { "chosen" } else { "accepted" },
        body_kind: body_kind(entry.body.kind),
        slot_first: entry.body.first.0,
        slot_end: entry.body.end().0,
        body_id: format!("{:032x}", entry.body.id.0),
        ballot_round: entry.ballot.round,
        ballot_node: entry.ballot.node.0,
        ballot_boot: boot(entry.ballot),
        origin_round: stored.header.origin.round,
        origin_node: stored.header.origin.node.0,
        leader_time_us: stored.header.leader_time_us,
        session: session.as_ref().map(|submission| submission.session),
        sequence: session.as_ref().map(|submission| submission.sequence),
        ticket: submission.as_ref().map(|submission| submission.ticket).filter(|ticket| *ticket != 0),
        expected_slot: submission.as_ref().map(|submission| submission.expected_slot).filter(|slot| *slot != 0),
        position: stored.position.0,
        file: entry.location.file.to_string(),
        offset: entry.location.offset,
        bytes: command.as_ref().map(|command| command.len() as u64),
        command: command.as_ref().map(|command| CommandContent::new(command, options.decode)),
        configuration,
    };
    output.object(&answer)?;
    if command.is_none() {
        return Err(no_command(slot, stored.header.kind));
    }
    Ok(Exit::sound(survey.troubles == 0))
}

fn no_command(slot: Slot, kind: BodyKind) -> anyhow::Error {
    failure(
        Exit::NothingThere,
        format!("no client's command fills slot {slot}, but a body of kind {}", body_kind(kind)),
    )
}

/// The body that fills a slot, or why there is none.
///
/// # Errors
/// [`Exit::NothingThere`], or [`Exit::Damaged`] if what was there may be what can't be read.
pub(crate) fn find<'survey>(source: &Source, survey: &'survey Survey, slot: Slot) -> Result<&'survey IndexEntry> {
    if let Some(entry) = survey.index.containing(slot) {
        return Ok(entry);
    }
    if slot < Slot::FIRST {
        return Err(failure(Exit::NothingThere, "slots begin with 1"));
    }
    let (base, end, path) = (survey.index.base().slot, survey.end(), source.path.display());
    if slot < base {
        let message = format!("slot {slot} is trimmed: the log of {path} begins with slot {base}");
        return Err(failure(Exit::NothingThere, message));
    }
    if survey.troubles > 0 {
        let message = format!("no body at slot {slot} can be read; it may be in what is damaged; ask another replica");
        return Err(failure(Exit::Damaged, message));
    }
    let message = if slot >= end {
        format!("nothing is accepted at slot {slot} yet: the log of {path} ends before slot {end}")
    } else {
        format!("nothing is accepted at slot {slot} in {path}, though there is behind it; ask another replica")
    };
    Err(failure(Exit::NothingThere, message))
}

/// A command, and the submission that brought it.
fn command_at(stored: &StoredBody, slot: Slot) -> Result<(Vec<u8>, SubmissionEntry)> {
    let view = record::commands_view(&stored.header, &stored.record)?;
    let place = u32::try_from(slot.since(stored.header.first)).context("a body has fewer than 2^32 slots")?;
    let command = view.get(place).with_context(|| format!("the command at slot {slot}"))?;
    for submission in view.submissions() {
        let submission = submission.with_context(|| format!("the body at slot {}", stored.header.first))?;
        if submission.commands.contains(&place) {
            return Ok((command.to_vec(), submission));
        }
    }
    anyhow::bail!("no submission of the body at slot {} brought slot {slot}", stored.header.first)
}
