//! `export`: the commands of a log as JSON lines.

use std::path::PathBuf;

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use crc32fast::Hasher;
use synod_frame::{decode_session, decode_ticket, trim_state};
use synod_protocol::delivery::{SessionCommand, TicketCommand};
use synod_protocol::{BodyKind, Mark, Slot};
use synod_wal::IndexEntry;

use crate::exit::Exit;
use crate::interchange::{Content, Head, Line, Place, State, Tail, VERSION};
use crate::output::{Output, uuid};
use crate::record;
use crate::source::{Source, StoredBody};
use crate::survey::Survey;

/// What to export.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Directory of a node
    directory: PathBuf,
    /// From the body that fills this slot on
    #[arg(long)]
    from: Option<u64>,
    /// Up to the body that fills the slot before this one
    #[arg(long)]
    to: Option<u64>,
    /// Write commands that are UTF-8 as text, not in base64
    #[arg(long)]
    utf8: bool,
    /// Also what is accepted behind the chosen prefix: of a cluster that is lost it may have been acknowledged
    #[arg(long)]
    accepted: bool,
}

/// Writes lines, and sums them up.
struct Lines<'run> {
    output: &'run mut Output,
    utf8: bool,
    count: u64,
    sum: Hasher,
    /// Behind the last body; none once it isn't known.
    mark: Option<Mark>,
    next: Slot,
    missing: bool,
}

pub(crate) fn run(options: &Options, output: &mut Output) -> Result<Exit> {
    let source = Source::open(&options.directory)?;
    let survey = Survey::take(&source)?;
    let (base, to) = (survey.index.base(), Slot(options.to.unwrap_or(u64::MAX)));
    let from = Slot(options.from.unwrap_or_default()).max(base.slot);
    // Whole bodies, so that they can be made again.
    let first = survey.index.containing(from).map_or(from, |entry| entry.body.first);
    let mark = survey.index.mark_at(first);
    let mut lines =
        Lines { output, utf8: options.utf8, count: 0, sum: Hasher::new(), mark, next: first, missing: false };
    let identity = &source.identity;
    lines.write(&Line::Export(Head {
        version: VERSION,
        cluster: identity.cluster.map(|cluster| uuid(&cluster)),
        lineage: identity.lineage,
        node: identity.node.0,
        group: group(&source)?,
        first: first.0,
        chain: mark.map(|mark| format!("{:032x}", mark.chain.0)),
    }))?;
    for entry in survey.index.iter_from(first).take_while(|entry| entry.body.first < to) {
        // Behind the chosen prefix a gap is nothing special: another replica has what belongs there.
        let ends = entry.body.first > lines.next && lines.next >= survey.claimed.slot;
        if ends || !(options.accepted || Survey::is_chosen(entry)) {
            break;
        }
        lines.body(&source, entry)?;
    }
    // The log proves that there was more.
    let claimed = survey.claimed.slot.min(to);
    lines.gap(claimed)?;
    let missing = lines.missing;
    lines.end()?;
    if missing {
        eprintln!("synod-tools: slots are missing, see the lines of kind \"missing\"; export another replica");
    }
    Ok(Exit::sound(!missing))
}

/// The group whose log this is; zero before the first record.
fn group(source: &Source) -> Result<u32> {
    let files = source.files()?;
    let states = files.iter().filter_map(|file| file.header.as_ref()).flat_map(|header| &header.groups);
    Ok(states.map(|state| state.group.0).next().unwrap_or(0))
}

impl Lines<'_> {
    fn write(&mut self, line: &Line) -> Result<()> {
        let mut text = serde_json::to_string(line)?;
        text.push('\n');
        self.count += 1;
        self.sum.update(text.as_bytes());
        self.output.raw(text.as_bytes())
    }

    /// Says that what lies in front of `upto` isn't there.
    fn gap(&mut self, upto: Slot) -> Result<()> {
        if upto <= self.next {
            return Ok(());
        }
        let line = Line::Missing { slot: self.next.0, count: upto.since(self.next) };
        (self.missing, self.mark, self.next) = (true, None, upto);
        self.write(&line)
    }

    fn body(&mut self, source: &Source, entry: &IndexEntry) -> Result<()> {
        self.gap(entry.body.first)?;
        let stored = match source.body(&entry.location, &entry.body) {
            Ok(stored) => stored,
            Err(error) => {
                eprintln!("synod-tools: {error:#}");
                return self.gap(entry.body.end());
            }
        };
        let state = if Survey::is_chosen(entry) { State::Chosen } else { State::Accepted };
        let place = Place::new(state, &stored.header);
        let slot = entry.body.first.0;
        match entry.body.kind {
            BodyKind::Commands => self.commands(&stored, &place)?,
            BodyKind::NoOp => self.write(&Line::NoOp { slot, count: entry.body.count, place })?,
            BodyKind::Trim { upto } => {
                let state = trim_state(&stored.header, stored.body());
                let delivery_state = state.map(|state| STANDARD.encode(state));
                self.write(&Line::Trim { slot, upto: upto.0, place, delivery_state })?;
            }
            BodyKind::Session => {
                let closes = match decode_session(&stored.header, stored.body())? {
                    SessionCommand::Open => None,
                    SessionCommand::Close(id) => Some(id.0.0),
                };
                self.write(&Line::Session { slot, place, closes })?;
            }
            BodyKind::Ticket => {
                let (lasts_us, revokes) = match decode_ticket(&stored.header, stored.body())? {
                    TicketCommand::Issue { lasts_us } => (Some(lasts_us), None),
                    TicketCommand::Revoke(id) => (None, Some(id.0.0)),
                };
                self.write(&Line::Ticket { slot, place, lasts_us, revokes })?;
            }
            BodyKind::Configuration { .. } => {
                self.write(&Line::Configuration { slot, place, content: Content::new(stored.body(), false) })?;
            }
        }
        self.mark = self.mark.map(|mark| mark.after(&entry.body));
        self.next = entry.body.end();
        Ok(())
    }

    fn commands(&mut self, stored: &StoredBody, place: &Place) -> Result<()> {
        let view = record::commands_view(&stored.header, &stored.record)?;
        let first = stored.header.first;
        for (submission, entry) in (0..).zip(view.submissions()) {
            let entry = entry.with_context(|| format!("the body at slot {first}"))?;
            for number in entry.commands {
                let slot = first.plus(u64::from(number));
                let command = view.get(number).with_context(|| format!("the command at slot {slot}"))?;
                self.write(&Line::Command {
                    slot: slot.0,
                    place: place.clone(),
                    body: first.0,
                    submission,
                    session: entry.session,
                    sequence: entry.sequence,
                    ticket: entry.ticket,
                    expected_slot: entry.expected_slot,
                    content: Content::new(command, self.utf8),
                })?;
            }
        }
        Ok(())
    }

    fn end(mut self) -> Result<()> {
        let tail = Tail {
            end: self.next.0,
            chain: self.mark.map(|mark| format!("{:032x}", mark.chain.0)),
            lines: self.count,
            crc32: format!("{:08x}", self.sum.clone().finalize()),
        };
        self.write(&Line::End(tail))
    }
}
