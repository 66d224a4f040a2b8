//! Records as rows: the names of kinds, the fields of a record, commands as text.

use std::fmt;

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::Serialize;
use serde_json::Value;
use synod_frame::{BodyHeader, CommandsView, RECORD_HEADER_BYTES, RecordBuffer};
use synod_protocol::{Ballot, BodyKind};
use synod_wal::scan::ScannedRecord;
use synod_wal::{FileId, RecordKind};

use crate::configuration::ConfigurationRow;
use crate::output::hex;

/// The name of a kind of record.
pub(crate) fn record_kind(kind: RecordKind) -> &'static str {
    match kind {
        RecordKind::Accepted => "accepted",
        RecordKind::Chosen => "chosen",
        RecordKind::Copied => "copied",
        RecordKind::Healed => "healed",
        RecordKind::Promise => "promise",
        RecordKind::Configuration => "configuration",
        RecordKind::Mark => "mark",
        RecordKind::Pack => "pack",
        RecordKind::Trim => "trim",
    }
}

/// The name of a kind of body.
pub(crate) fn body_kind(kind: BodyKind) -> &'static str {
    match kind {
        BodyKind::Commands => "commands",
        BodyKind::NoOp => "no-op",
        BodyKind::Configuration { .. } => "configuration",
        BodyKind::Trim { .. } => "trim",
        BodyKind::Session => "session",
        BodyKind::Ticket => "ticket",
    }
}

/// The names of all kinds of bodies.
pub(crate) const BODY_KINDS: [&str; 6] = ["commands", "no-op", "configuration", "trim", "session", "ticket"];

/// The node's process start in a ballot, as ballots show it: a random number, of which nobody wants the decimal digits.
pub(crate) fn boot(ballot: Ballot) -> String {
    format!("{:x}", ballot.boot)
}

/// A record as data.
#[derive(Serialize)]
pub(crate) struct RecordRow {
    pub(crate) position: u64,
    pub(crate) file: String,
    pub(crate) offset: u64,
    pub(crate) record_bytes: u32,
    pub(crate) kind: &'static str,
    pub(crate) group: u32,
    pub(crate) ballot_round: u64,
    pub(crate) ballot_node: u32,
    pub(crate) ballot_boot: String,
    pub(crate) promised_round: u64,
    pub(crate) promised_node: u32,
    pub(crate) promised_boot: String,
    pub(crate) mark_slot: u64,
    pub(crate) mark_chain: String,
    pub(crate) base_slot: u64,
    pub(crate) durable: u64,
    pub(crate) log_time_us: u64,
    /// The first slot behind all bodies that the log ever held up to here.
    pub(crate) slots_ever: u64,
    /// Whether the node wasn't sure of its promise when it wrote this.
    pub(crate) unsure: bool,
    /// What was lost before this position matters only at slots below the next field.
    pub(crate) settled_before: u64,
    pub(crate) settled_slot: u64,
    /// The node that a copied or healed body came from.
    pub(crate) source: Option<u32>,
    pub(crate) body_kind: Option<&'static str>,
    pub(crate) slot_first: Option<u64>,
    pub(crate) slot_end: Option<u64>,
    pub(crate) body_bytes: Option<u32>,
    pub(crate) body_id: Option<String>,
    /// Of a trim: the first slot that is kept.
    pub(crate) upto: Option<u64>,
    /// Whether something in front of the record, in its segment, can't be read.
    pub(crate) behind_damage: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) commands: Option<Vec<CommandRow>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) configuration: Option<Option<ConfigurationRow>>,
    #[serde(skip)]
    pub(crate) shown: Shown,
}

/// What only the text of a record shows.
pub(crate) struct Shown {
    ballot: Ballot,
    promised: Ballot,
    chain: String,
}

impl RecordRow {
    pub(crate) fn new(file: FileId, record: &ScannedRecord, behind_damage: bool) -> RecordRow {
        let header = &record.header;
        let meta = &header.meta;
        let body = record.body.map(|body| body.handle());
        RecordRow {
            position: header.lsn.0,
            file: file.to_string(),
            offset: record.offset,
            record_bytes: header.record_bytes,
            kind: record_kind(meta.kind),
            group: meta.group.0,
            ballot_round: meta.ballot.round,
            ballot_node: meta.ballot.node.0,
            ballot_boot: boot(meta.ballot),
            promised_round: meta.promised.round,
            promised_node: meta.promised.node.0,
            promised_boot: boot(meta.promised),
            mark_slot: meta.mark.slot.0,
            mark_chain: format!("{:032x}", meta.mark.chain.0),
            base_slot: header.base.slot.0,
            durable: header.durable.0,
            log_time_us: meta.log_time_us,
            slots_ever: header.slot_end.0,
            unsure: meta.unsure,
            settled_before: header.settled.before.0,
            settled_slot: header.settled.slot.0,
            source: (meta.source.0 != 0).then_some(meta.source.0),
            body_kind: body.map(|body| body_kind(body.kind)),
            slot_first: record.slots().map(|slots| slots.start.0),
            slot_end: record.slots().map(|slots| slots.end.0),
            body_bytes: body.map(|body| body.bytes).or(record.pack.map(|pack| pack.body_bytes)),
            body_id: body.map(|body| format!("{:032x}", body.id.0)),
            upto: body.and_then(|body| match body.kind {
                BodyKind::Trim { upto } => Some(upto.0),
                _ => None,
            }),
            behind_damage,
            commands: None,
            configuration: None,
            shown: Shown { ballot: meta.ballot, promised: meta.promised, chain: header.base.chain.to_string() },
        }
    }

    fn content(&self) -> String {
        let Some((first, end)) = self.slot_first.zip(self.slot_end) else {
            return if self.kind == "trim" {
                format!("base {} chain {}", self.base_slot, self.shown.chain)
            } else {
                String::new()
            };
        };
        let what = match (self.body_kind, self.upto) {
            (Some("commands"), _) => format!("commands {}", end - first),
            (_, Some(upto)) => format!("trim below {upto}"),
            (kind, None) => kind.unwrap_or_default().to_owned(),
        };
        let id = self.body_id.as_deref().unwrap_or_default();
        format!("slots {first}..{end} {what} {} bytes id {}", self.body_bytes.unwrap_or(0), &id[..16.min(id.len())])
    }
}

impl fmt::Display for RecordRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = self.source.map(|source| format!(" from n{source}")).unwrap_or_default();
        let damage = if self.behind_damage { " (behind damage)" } else { "" };
        let unsure = if self.unsure { " (unsure of its promise)" } else { "" };
        let line = format!(
            "{:#x} {}+{:#x} {:<13} ballot {} promised {} mark {} durable {:#x} {}{source}{damage}{unsure}",
            self.position,
            self.file,
            self.offset,
            self.kind,
            self.shown.ballot,
            self.shown.promised,
            self.mark_slot,
            self.durable,
            self.content(),
        );
        f.write_str(line.trim_end())?;
        if let Some(Some(configuration)) = &self.configuration {
            write!(f, "\n    {configuration}")?;
        }
        for command in self.commands.iter().flatten() {
            write!(f, "\n    {command}")?;
        }
        Ok(())
    }
}

/// How commands are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Decode {
    /// Hexadecimal digits
    Hex,
    /// Text; what isn't UTF-8 as hexadecimal digits
    Utf8,
    /// JSON; what isn't JSON as text
    Json,
}

/// A command as data.
#[derive(Serialize)]
pub(crate) struct CommandRow {
    pub(crate) slot: u64,
    pub(crate) bytes: u64,
    #[serde(flatten)]
    pub(crate) content: CommandContent,
}

/// A command's bytes, in the form that was asked for, or the next that they have.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CommandContent {
    Json(Value),
    Text(String),
    Hex(String),
}

impl CommandContent {
    pub(crate) fn new(command: &[u8], how: Decode) -> CommandContent {
        if how == Decode::Json
            && let Ok(value) = serde_json::from_slice(command)
        {
            return CommandContent::Json(value);
        }
        match std::str::from_utf8(command) {
            Ok(text) if how != Decode::Hex => CommandContent::Text(text.to_owned()),
            _ => CommandContent::Hex(hex(command)),
        }
    }
}

impl fmt::Display for CommandContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // The escapes of JSON are there already; what it lets through may still move a terminal.
            CommandContent::Json(value) => {
                value.to_string().chars().try_for_each(|letter| write_visible(f, letter, false))
            }
            CommandContent::Text(text) => text.chars().try_for_each(|letter| write_visible(f, letter, true)),
            CommandContent::Hex(digits) => write!(f, "0x{digits}"),
        }
    }
}

impl fmt::Display for CommandRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.slot, self.content)
    }
}

/// A letter as it is, if it is one that can be seen, and otherwise escaped, so that no terminal obeys it.
fn write_visible(f: &mut fmt::Formatter<'_>, letter: char, backslash: bool) -> fmt::Result {
    match letter {
        '\\' if backslash => f.write_str("\\\\"),
        '\'' | '"' | '\\' => write!(f, "{letter}"),
        letter => write!(f, "{}", letter.escape_debug()),
    }
}

/// A record's bytes where an archive may be read: the scanner's buffer doesn't promise the alignment.
pub(crate) fn aligned(bytes: &[u8]) -> RecordBuffer {
    let mut aligned = RecordBuffer::zeroed(bytes.len());
    aligned.as_mut()[..bytes.len()].copy_from_slice(bytes);
    aligned
}

/// The commands of a body that lies in a record.
///
/// # Errors
/// If the archive means nothing.
pub(crate) fn commands_view<'record>(
    header: &BodyHeader,
    record: &'record RecordBuffer,
) -> Result<CommandsView<'record>> {
    let range = RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + header.layout.body_bytes as usize;
    let body = record.as_ref().get(range).context("the body reaches past its record")?;
    CommandsView::new(header, body).with_context(|| format!("the body at slot {}", header.first))
}

/// All commands of a body as rows.
///
/// # Errors
/// If the archive means nothing.
pub(crate) fn commands(header: &BodyHeader, record: &[u8], how: Decode) -> Result<Vec<CommandRow>> {
    let record = aligned(record);
    let view = commands_view(header, &record)?;
    let row = |place: u32| {
        let slot = header.first.plus(u64::from(place));
        let command = view.get(place).with_context(|| format!("the command at slot {slot}"))?;
        Ok(CommandRow { slot: slot.0, bytes: command.len() as u64, content: CommandContent::new(command, how) })
    };
    (0..header.count).map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(command: &[u8], how: Decode) -> String {
        CommandContent::new(command, how).to_string()
    }

    #[test]
    fn commands_come_in_the_form_that_they_have() {
        assert_eq!(shown(b"{\"a\": [1, \"\\u001b\"]}", Decode::Json), "{\"a\":[1,\"\\u001b\"]}");
        assert_eq!(shown(b"no json", Decode::Json), "no json");
        assert_eq!(shown(b"\xff\x00", Decode::Json), "0xff00");
        assert_eq!(shown("gr\u{fc}n".as_bytes(), Decode::Utf8), "gr\u{fc}n");
        assert_eq!(shown(b"abc", Decode::Hex), "0x616263");
    }

    #[test]
    fn nothing_of_a_client_moves_a_terminal() {
        assert_eq!(shown(b"a\x1b[2J\n\\", Decode::Utf8), "a\\u{1b}[2J\\n\\\\");
        for hidden in ["\u{9b}31m", "\u{202e}gnp", "\u{7f}"] {
            let json = serde_json::to_vec(hidden).expect("a string");
            for how in [Decode::Utf8, Decode::Json] {
                assert!(shown(&json, how).contains("\\u{"), "{hidden:?}");
            }
        }
    }
}
