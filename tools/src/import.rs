//! `import`: a cluster that begins with the content of an export.
//!
//! The very same bodies are made again, in the same slots, and written to the log of every first member as chosen; then
//! each member gets the new cluster's genesis, as `synod bootstrap` would give it. The file is read once before anything
//! is written, so that a bad one leaves the stores as they are.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use crc32fast::Hasher;
use serde::Serialize;
use synod_frame::{
    BLOCK_BYTES, Batch, CommandsPlan, ConfigurationBody, EncodeError, GroupId, Member, Origin, RecordBuffer,
    Submission, encode_commands, encode_noop, encode_session, encode_ticket, encode_trim_with_state, trim_layout,
};
use synod_protocol::delivery::{SessionCommand, SessionId, TicketCommand, TicketId};
use synod_protocol::limits::{BODY_BYTES_MAX, BODY_SLOTS_MAX};
use synod_protocol::{BodyHandle, Chain, Configuration, Mark, Slot};
use synod_wal::LogBuilder;
use synod_wal::directory::{self, FoundError, Founding, FoundingStart, Genesis, OpenError};
use uuid::Uuid;

use crate::exit::{Exit, failure};
use crate::interchange::{Head, LINE_BYTES_MAX, Line, Place, Tail, VERSION};
use crate::output::{Output, uuid};
use crate::progress::Progress;

/// What to import, and where to.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// What `export` wrote
    file: PathBuf,
    /// The store of a member of the new cluster, as `synod init` made it; once for each member
    #[arg(long = "member-dir", value_name = "DIR", required = true)]
    member_dirs: Vec<PathBuf>,
    /// The new cluster's uuid; a random one by default
    #[arg(long)]
    cluster: Option<Uuid>,
    /// How far proposals may run ahead of the chosen prefix, in slots; for ever
    #[arg(long, default_value_t = Configuration::ALPHA_DEFAULT)]
    alpha: u32,
    /// Take a file whose lines were changed since, or whose end is missing
    #[arg(long)]
    edited: bool,
    /// Read the file, and say what it would give, without writing
    #[arg(long)]
    dry_run: bool,
}

/// What came of it.
#[derive(Serialize)]
struct Report {
    file: String,
    cluster: Option<String>,
    members: Vec<u32>,
    bodies: u64,
    commands: u64,
    slot_first: u64,
    slot_end: u64,
    chain: String,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { file, bodies, commands, slot_first, slot_end, chain, .. } = self;
        write!(f, "{file}: {commands} commands in {bodies} bodies, slots {slot_first}..{slot_end}, chain {chain}")?;
        if let Some(cluster) = &self.cluster {
            let members: Vec<String> = self.members.iter().map(u32::to_string).collect();
            write!(f, "\ncluster {cluster} begins with them, on nodes {}; start them", members.join(", "))?;
        }
        Ok(())
    }
}

/// What the first reading found.
struct Content {
    group: GroupId,
    start: FoundingStart,
    mark: Mark,
    bodies: u64,
    commands: u64,
}

impl Content {
    fn note(&mut self, body: &Body) {
        self.mark = self.mark.after(&body.handle);
        self.start.log_time_us = self.start.log_time_us.max(body.log_time_us);
        self.bodies += 1;
        self.commands += body.commands;
    }
}

pub(crate) fn run(options: &Options, output: &mut Output) -> Result<Exit> {
    let shown = || format!("can't read {}", options.file.display());
    let mut file = File::open(&options.file).with_context(shown)?;
    ensure!(file.metadata().with_context(shown)?.is_file(), "{} is no file", options.file.display());
    let bytes = file.metadata().with_context(shown)?.len();
    let content = survey(options, &mut file, bytes)?;
    let mut report = Report {
        file: options.file.display().to_string(),
        cluster: None,
        members: Vec::new(),
        bodies: content.bodies,
        commands: content.commands,
        slot_first: content.start.base.slot.0,
        slot_end: content.mark.slot.0,
        chain: format!("{:032x}", content.mark.chain.0),
    };
    if !options.dry_run {
        let genesis = genesis(options, content.group)?;
        let mut founded = Vec::new();
        for directory in &options.member_dirs {
            founded.push(found(options, &mut file, bytes, directory, &genesis, &content)?);
        }
        // Last: every member has the content before any of them has a say.
        for founding in founded {
            report.members.push(founding.commit()?.node.0);
        }
        report.cluster = Some(uuid(&genesis.configuration.cluster));
    }
    output.object(&report)?;
    Ok(Exit::Well)
}

/// Reads everything, and checks it.
fn survey(options: &Options, file: &mut File, bytes: u64) -> Result<Content> {
    let mut content = Content {
        group: GroupId(0),
        start: FoundingStart { base: Mark::START, log_time_us: 0 },
        mark: Mark::START,
        bodies: 0,
        commands: 0,
    };
    let progress = Progress::bytes(bytes, "reading");
    let mut lines = Lines::new(file, &progress)?;
    let head = lines.head()?;
    content.group = GroupId(head.group);
    content.start.base = base(&head)?;
    content.mark = content.start.base;
    let mut bodies = Bodies::new(content.group, content.start.base.slot, options.edited);
    while let Some(line) = lines.next_line()? {
        bodies.take(line).with_context(|| format!("line {}", lines.number))?;
        while let Some(body) = bodies.ready() {
            content.note(&body);
        }
    }
    bodies.complete()?;
    bodies.ready.iter().for_each(|body| content.note(body));
    if !options.edited {
        lines.check_tail(content.mark).with_context(|| options.file.display().to_string())?;
    }
    Ok(content)
}

fn base(head: &Head) -> Result<Mark> {
    ensure!(head.version == VERSION, "the export has version {}, this build reads {VERSION}", head.version);
    if head.first <= Mark::START.slot.0 {
        return Ok(Mark::START);
    }
    let chain = head.chain.as_ref().and_then(|chain| u128::from_str_radix(chain, 16).ok());
    let chain = chain.with_context(|| format!("the chain below slot {} isn't known", head.first))?;
    Ok(Mark { slot: Slot(head.first), chain: Chain(chain) })
}

fn genesis(options: &Options, group: GroupId) -> Result<Genesis> {
    let mut members = Vec::new();
    for directory in &options.member_dirs {
        let identity = directory::check_unused(directory)?;
        members.push(Member { node: identity.node, incarnation: identity.incarnation });
    }
    members.sort_unstable();
    let nodes = members.iter().map(|member| member.node).collect();
    let quorums = Configuration::genesis(nodes, options.alpha)?;
    let configuration = ConfigurationBody {
        cluster: options.cluster.unwrap_or_else(Uuid::new_v4).into_bytes(),
        lineage: 0,
        members,
        prepare_quorum: quorums.prepare_quorum,
        accept_quorum: quorums.accept_quorum,
        alpha: options.alpha,
        ..ConfigurationBody::default()
    };
    Ok(Genesis { group, configuration })
}

/// Writes one member's log.
fn found(
    options: &Options,
    file: &mut File,
    bytes: u64,
    directory: &Path,
    genesis: &Genesis,
    content: &Content,
) -> Result<Founding> {
    let progress = Progress::bytes(bytes, "writing");
    let mut write = |builder: &mut LogBuilder<'_>| -> Result<(), ImportError> {
        let mut lines = Lines::new(file, &progress)?;
        lines.head()?;
        let mut bodies = Bodies::new(genesis.group, content.start.base.slot, options.edited);
        while let Some(line) = lines.next_line()? {
            bodies.take(line)?;
            while let Some(body) = bodies.ready() {
                builder.chosen(&body.handle, body.record).map_err(anyhow::Error::from)?;
            }
        }
        bodies.complete()?;
        while let Some(body) = bodies.ready() {
            builder.chosen(&body.handle, body.record).map_err(anyhow::Error::from)?;
        }
        if builder.mark() != content.mark {
            return Err(anyhow::anyhow!("{} changed while it was read", options.file.display()).into());
        }
        Ok(())
    };
    let founded = directory::found(directory, genesis, &content.start, &mut write);
    founded.map_err(|ImportError(error)| match error.downcast_ref::<FoundError>() {
        Some(FoundError::Open(OpenError::Locked { .. })) => failure(Exit::Busy, error.to_string()),
        _ => error.context(format!("{}; make all members anew with `synod init`", directory.display())),
    })
}

/// Either side's error, on its way through the log.
struct ImportError(anyhow::Error);

impl From<anyhow::Error> for ImportError {
    fn from(error: anyhow::Error) -> ImportError {
        ImportError(error)
    }
}

impl From<FoundError> for ImportError {
    fn from(error: FoundError) -> ImportError {
        ImportError(error.into())
    }
}

/// The lines of a file, from its beginning.
struct Lines<'run> {
    reader: BufReader<&'run mut File>,
    progress: &'run Progress,
    number: u64,
    sum: Hasher,
    tail: Option<(Tail, u64, u32)>,
}

impl<'run> Lines<'run> {
    fn new(file: &'run mut File, progress: &'run Progress) -> Result<Lines<'run>> {
        file.rewind()?;
        Ok(Lines { reader: BufReader::new(file), progress, number: 0, sum: Hasher::new(), tail: None })
    }

    fn head(&mut self) -> Result<Head> {
        match self.read()? {
            Some(Line::Export(head)) => Ok(head),
            _ => bail!("line 1 isn't the first line of an export"),
        }
    }

    /// The next line of content.
    fn next_line(&mut self) -> Result<Option<Line>> {
        let (lines, sum) = (self.number, self.sum.clone().finalize());
        match self.read()? {
            Some(Line::End(tail)) => {
                self.tail = Some((tail, lines, sum));
                ensure!(self.read()?.is_none(), "line {}: something stands behind the end", self.number);
                Ok(None)
            }
            Some(Line::Export(_)) => bail!("line {}: a second export begins", self.number),
            other => Ok(other),
        }
    }

    fn read(&mut self) -> Result<Option<Line>> {
        let mut text = Vec::new();
        let read = self.reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut text)?;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        self.progress.advance(read as u64);
        ensure!((read as u64) < LINE_BYTES_MAX, "line {} is longer than any line of an export", self.number);
        self.sum.update(&text);
        serde_json::from_slice(&text).map(Some).with_context(|| format!("line {} isn't one of an export", self.number))
    }

    /// The last line must say of the content what the content says.
    fn check_tail(&self, mark: Mark) -> Result<()> {
        let hint = "get the whole file, or say --edited if you changed it";
        let Some((tail, lines, sum)) = &self.tail else { bail!("the end is missing: the file was cut; {hint}") };
        ensure!(tail.lines == *lines, "there are {lines} lines, not {}: some were lost or added; {hint}", tail.lines);
        ensure!(tail.crc32 == format!("{sum:08x}"), "the checksum of the lines differs: they were changed; {hint}");
        ensure!(tail.end == mark.slot.0, "the content ends at slot {}, not {}; {hint}", mark.slot, tail.end);
        let chain = format!("{:032x}", mark.chain.0);
        ensure!(tail.chain.as_deref() == Some(&chain), "the chain is {chain}, not the one that was exported; {hint}");
        Ok(())
    }
}

/// A body that was made again.
struct Body {
    handle: BodyHandle,
    record: RecordBuffer,
    log_time_us: u64,
    commands: u64,
}

/// Makes bodies from lines.
struct Bodies {
    group: GroupId,
    /// The slot that comes next.
    next: Slot,
    gathering: Option<Gathering>,
    ready: VecDeque<Body>,
    /// Whether no-ops may take the place of configurations.
    edited: bool,
}

/// The commands of a body, as far as they were read.
struct Gathering {
    first: u64,
    place: Place,
    /// Number, session, sequence, ticket and expected slot of each submission.
    submissions: Vec<(u32, [u64; 4], Batch)>,
    commands: u64,
}

impl Bodies {
    fn new(group: GroupId, next: Slot, edited: bool) -> Bodies {
        Bodies { group, next, gathering: None, ready: VecDeque::new(), edited }
    }

    /// The next body that is complete.
    fn ready(&mut self) -> Option<Body> {
        self.ready.pop_front()
    }

    fn take(&mut self, line: Line) -> Result<()> {
        let (slot, count) = match &line {
            Line::Command { slot, .. }
            | Line::Trim { slot, .. }
            | Line::Session { slot, .. }
            | Line::Ticket { slot, .. }
            | Line::Configuration { slot, .. } => (*slot, 1),
            Line::NoOp { slot, count, .. } => (*slot, u64::from(*count)),
            Line::Missing { slot, count } => {
                bail!("{count} slots are missing from slot {slot} on; import the export of a whole log")
            }
            Line::Export(_) | Line::End(_) => bail!("a line that has no place here"),
        };
        ensure!(slot == self.next.0, "slot {slot} where slot {} comes next", self.next);
        let next = self.next.checked_add(count).context("no log has so many slots")?;
        let other_body = |body: u64| self.gathering.as_ref().is_some_and(|gathering| gathering.first != body);
        match line {
            Line::Command { place, body, submission, session, sequence, ticket, expected_slot, content, .. } => {
                if other_body(body) {
                    self.complete()?;
                }
                let gathering = self.gathering.get_or_insert_with(|| Gathering::new(body, place));
                ensure!(gathering.first + gathering.commands == slot, "slot {slot} isn't next in the body at {body}");
                gathering.push(submission, [session, sequence, ticket, expected_slot], &content.bytes()?)?;
            }
            Line::NoOp { count, place, .. } => {
                self.small(&place, |record, origin| encode_noop(record, origin, count))?;
            }
            Line::Trim { upto, place, delivery_state, .. } => {
                let state = delivery_state.map(|text| STANDARD.decode(text)).transpose();
                let state = state.context("the delivery state isn't base64")?.unwrap_or_default();
                let layout = trim_layout(state.len()).context("the delivery state is too long")?;
                self.whole(&place, layout.record_bytes(), |record, origin| {
                    encode_trim_with_state(record, origin, Slot(upto), &state)
                })?;
            }
            Line::Session { place, closes, .. } => {
                let command = closes.map_or(SessionCommand::Open, |id| SessionCommand::Close(SessionId(Slot(id))));
                self.small(&place, |record, origin| encode_session(record, origin, command))?;
            }
            Line::Ticket { place, lasts_us, revokes, .. } => {
                let command = match (lasts_us, revokes) {
                    (Some(lasts_us), None) => TicketCommand::Issue { lasts_us },
                    (None, Some(id)) => TicketCommand::Revoke(TicketId(Slot(id))),
                    _ => bail!("slot {slot} neither issues nor revokes a ticket"),
                };
                self.small(&place, |record, origin| encode_ticket(record, origin, command))?;
            }
            // Who ruled the old cluster says nothing about the new one, and what follows keeps its slots. But the chain is
            // another one then.
            Line::Configuration { place, .. } => {
                ensure!(
                    self.edited,
                    "slot {slot} changes the members of the old cluster, which a new one can't follow; with --edited a no-op takes its place"
                );
                self.small(&place, |record, origin| encode_noop(record, origin, 1))?;
            }
            Line::Missing { .. } | Line::Export(_) | Line::End(_) => unreachable!("refused above"),
        }
        self.next = next;
        Ok(())
    }

    fn small(
        &mut self,
        place: &Place,
        encode: impl FnOnce(&mut [u8], &Origin) -> Result<BodyHandle, EncodeError>,
    ) -> Result<()> {
        self.whole(place, BLOCK_BYTES, encode)
    }

    fn whole(
        &mut self,
        place: &Place,
        record_bytes: usize,
        encode: impl FnOnce(&mut [u8], &Origin) -> Result<BodyHandle, EncodeError>,
    ) -> Result<()> {
        self.complete()?;
        let mut record = RecordBuffer::zeroed(record_bytes);
        let handle = encode(record.as_mut(), &self.origin(self.next, place)?)?;
        self.ready.push_back(Body { handle, record, log_time_us: place.log_time_us, commands: 0 });
        Ok(())
    }

    fn origin(&self, first: Slot, place: &Place) -> Result<Origin> {
        let leader_time_us = place.log_time_us;
        Ok(Origin { group: self.group, first, ballot: place.ballot()?, leader_time_us })
    }

    /// Makes the body whose commands were gathered, if there are any.
    fn complete(&mut self) -> Result<()> {
        let Some(gathering) = self.gathering.take() else { return Ok(()) };
        let rows = gathering.submissions.iter().map(|(_, of, batch)| (*of, batch));
        let submissions: Vec<Submission<'_>> = rows
            .map(|([session, sequence, ticket, expected_slot], batch)| Submission {
                session,
                sequence,
                ticket,
                expected_slot,
                batch,
            })
            .collect();
        let plan = CommandsPlan::of(&submissions);
        let layout = plan.layout().with_context(|| format!("the body at slot {} is too long", gathering.first))?;
        let mut record = RecordBuffer::zeroed(layout.record_bytes());
        let origin = self.origin(Slot(gathering.first), &gathering.place)?;
        let handle = encode_commands(record.as_mut(), &origin, &submissions)?;
        let (log_time_us, commands) = (gathering.place.log_time_us, gathering.commands);
        self.ready.push_back(Body { handle, record, log_time_us, commands });
        Ok(())
    }
}

impl Gathering {
    fn new(first: u64, place: Place) -> Gathering {
        Gathering { first, place, submissions: Vec::new(), commands: 0 }
    }

    fn push(&mut self, number: u32, of: [u64; 4], command: &[u8]) -> Result<()> {
        if self.submissions.last().is_none_or(|(last, _, _)| *last != number) {
            ensure!(number as usize == self.submissions.len(), "submission {number} isn't next in its body");
            self.submissions.push((number, of, Batch::new()));
        }
        let (_, known, batch) = self.submissions.last_mut().expect("just made");
        ensure!(*known == of, "submission {number} is delivered on two terms");
        let bytes = batch.bytes().len() + command.len();
        let fits = bytes <= BODY_BYTES_MAX as usize && self.commands < u64::from(BODY_SLOTS_MAX);
        ensure!(fits, "the body at slot {} is too long", self.first);
        batch.push(command);
        self.commands += 1;
        Ok(())
    }
}
