//! `repair`: a mended copy of a damaged store, with what other replicas have.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::Serialize;
use synod_frame::{BodyHeader, ConfigurationBody};
use synod_protocol::{Configuration, Slot, SlotRange};
use synod_wal::directory::{self, CopyError, DirectoryLock, DirectoryStore, NodeIdentity, OpenError};
use synod_wal::repair::{RepairError, RepairPlan, RepairSource, plan_repair};
use synod_wal::{BuiltLog, Finding, Salvaged, StoredConfiguration, recover, salvage};

use crate::exit::{Exit, failure};
use crate::output::{Align, Output, Row};

/// The log that this build writes; nodes have one each.
const LOG: u32 = 0;

/// What to mend, and with what.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Directory of the damaged node, which must not run; it isn't changed
    directory: PathBuf,
    /// Where the mended copy goes: a directory that isn't there yet
    #[arg(long, value_name = "COPY")]
    to: PathBuf,
    /// Directory of another member; as many as there are. With all of them, stopped, nothing is lost
    #[arg(long, value_name = "DIR", num_args = 1..)]
    from: Vec<PathBuf>,
    /// Go on although votes at these slots may be lost, exactly as the refusal names them: `7..9,20..`
    #[arg(long, value_name = "SLOTS", value_parser = parse_slots)]
    accept_loss: Option<Slots>,
    /// Say what would be done, and write nothing
    #[arg(long)]
    dry_run: bool,
}

/// Slots as they are typed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Slots(Vec<SlotRange>);

fn parse_slots(text: &str) -> Result<Slots, String> {
    let expected = || format!("{text:?} isn't a list of slots like 7..9,20..");
    let range = |part: &str| {
        let (start, end) = part.split_once("..")?;
        let end = if end.is_empty() { u64::MAX } else { end.parse().ok()? };
        let start: u64 = start.parse().ok()?;
        (start < end).then_some(Slot(start)..Slot(end))
    };
    text.split(',').map(|part| range(part.trim())).collect::<Option<Vec<_>>>().map(Slots).ok_or_else(expected)
}

impl fmt::Display for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, range) in self.0.iter().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            match range.end {
                Slot(u64::MAX) => write!(f, "{comma}{}..", range.start)?,
                end => write!(f, "{comma}{}..{end}", range.start)?,
            }
        }
        Ok(())
    }
}

/// One log.
struct Replica {
    path: PathBuf,
    identity: NodeIdentity,
    store: DirectoryStore,
    log: Salvaged,
    /// None if its node runs.
    lock: Option<DirectoryLock>,
}

/// What was done.
#[derive(Serialize)]
struct Report {
    directory: String,
    copy: Option<String>,
    slot_first: u64,
    /// End of the chosen prefix.
    slot_end: u64,
    chosen: u64,
    accepted: u64,
    /// Chosen bodies that came from other replicas.
    fetched: u64,
    /// Lost accepts whose bodies others have.
    restored: u64,
    /// Accepts of other members that were taken over.
    adopted: u64,
    /// Whether the logs of all other members make up for the loss.
    covered: bool,
    promised_round: u64,
    promised_node: u32,
    /// Slots at which a vote is lost, which was accepted.
    loss: Option<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let done = match &self.copy {
            Some(copy) => format!("mended into {copy}"),
            None => "could be mended".to_owned(),
        };
        writeln!(f, "{}: {done}: slots {}..{} are chosen", self.directory, self.slot_first, self.slot_end)?;
        write!(
            f,
            "{} chosen bodies, {} of them from other replicas; {} accepted ones, {} of them restored and {} taken over",
            self.chosen, self.fetched, self.accepted, self.restored, self.adopted
        )?;
        if self.covered {
            write!(f, "\nwhat was lost is made up for by the logs of all other members")?;
        }
        if let Some(loss) = &self.loss {
            write!(f, "\nvotes at slots {loss} may be lost, as you accepted")?;
        }
        if self.copy.is_some() {
            write!(f, "\nput the copy in the place of the old directory, and never start a node on both")?;
        }
        Ok(())
    }
}

/// Something that was wrong.
#[derive(Serialize)]
struct Line {
    file: Option<String>,
    offset: u64,
    slots: Option<String>,
    what: String,
}

impl Row for Line {
    const COLUMNS: &'static [(&'static str, Align)] =
        &[("file", Align::Left), ("offset", Align::Right), ("slots", Align::Left), ("what", Align::Left)];

    fn cells(&self) -> Vec<String> {
        let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        vec![or_none(&self.file), format!("{:#x}", self.offset), or_none(&self.slots), self.what.clone()]
    }
}

impl Line {
    fn new(finding: &Finding) -> Line {
        Line {
            file: finding.file.map(|file| file.to_string()),
            offset: finding.offset,
            slots: finding.slots.clone().map(|slots| Slots(vec![slots]).to_string()),
            what: finding.what.clone(),
        }
    }
}

pub(crate) fn run(options: &Options, output: &mut Output) -> Result<Exit> {
    let own = Replica::open(&options.directory)?;
    if own.lock.is_none() {
        let message = format!("a node runs on {}; stop it first", options.directory.display());
        return Err(failure(Exit::Busy, message));
    }
    let others: Vec<Replica> = options.from.iter().map(|path| Replica::open(path)).collect::<Result<_>>()?;
    check_cluster(&own, &others)?;
    let (stored, configuration) = configuration(&own, &others)?;
    let sources: Vec<RepairSource<'_>> = others.iter().map(Replica::source).collect();
    let plan = plan_repair(own.source(), &sources, &configuration, stored, own.identity.segment_bytes)
        .map_err(|error| failure(Exit::Damaged, error.to_string()))?;
    let accepted = check_loss(options, &own, &plan).inspect_err(|_| {
        for finding in &own.log.findings {
            let Line { file, offset, slots, what } = Line::new(finding);
            let slots = slots.map(|slots| format!(" (slots {slots})")).unwrap_or_default();
            eprintln!("synod-tools: {}+{offset:#x}: {what}{slots}", file.as_deref().unwrap_or("the log"));
        }
        for other in others.iter().filter(|other| !other.log.findings.is_empty()) {
            eprintln!("synod-tools: {} is damaged too; see `synod-tools verify`", other.path.display());
        }
        for other in others.iter().filter(|other| other.lock.is_none()) {
            eprintln!("synod-tools: a node runs on {}", other.path.display());
        }
    })?;
    let mut report = Report {
        directory: options.directory.display().to_string(),
        copy: None,
        slot_first: plan.base.slot.0,
        slot_end: plan.mark.slot.0,
        chosen: 0,
        accepted: 0,
        fetched: plan.fetched,
        restored: plan.restored,
        adopted: plan.adopted,
        covered: plan.covered,
        promised_round: plan.promised.round,
        promised_node: plan.promised.node.0,
        loss: accepted.map(|slots| slots.to_string()),
    };
    for entry in plan.index().iter_from(Slot(0)) {
        let chosen = entry.recorded_chosen || entry.chosen.is_some();
        *(if chosen { &mut report.chosen } else { &mut report.accepted }) += 1;
    }
    if !options.dry_run {
        write(options, &own, &sources, &plan)?;
        report.copy = Some(options.to.display().to_string());
    }
    let rows: Vec<Line> = own.log.findings.iter().map(Line::new).collect();
    output.report(&report, "findings", &rows)?;
    Ok(Exit::Well)
}

impl Replica {
    fn open(path: &Path) -> Result<Replica> {
        let identity = directory::read_identity(path)?;
        if identity.logs != 1 {
            bail!(
                "{} has {} logs, and only directories with one can be mended: replace the node, or let it fetch what it \
                 lacks from the others",
                path.display(),
                identity.logs
            );
        }
        let expected = identity.log_identity(LOG).map(|identity| identity.expected());
        let expected = expected.with_context(|| format!("{} isn't bootstrapped: it has no votes", path.display()))?;
        let lock = match DirectoryLock::take(path) {
            Ok(lock) => Some(lock),
            Err(OpenError::Locked { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let store = DirectoryStore::new(directory::current_log_path(path, LOG));
        let log = salvage(&store, &expected, identity.segment_bytes)?;
        Ok(Replica { path: path.to_owned(), identity, store, log, lock })
    }

    fn source(&self) -> RepairSource<'_> {
        let (node, at_rest) = (self.identity.node, self.lock.is_some());
        RepairSource { node, store: &self.store, log: &self.log, at_rest }
    }
}

fn check_cluster(own: &Replica, others: &[Replica]) -> Result<()> {
    let mut nodes = vec![own.identity.node];
    for other in others {
        let same = (other.identity.cluster, other.identity.lineage) == (own.identity.cluster, own.identity.lineage);
        ensure!(same, "{} belongs to another cluster", other.path.display());
        ensure!(
            !nodes.contains(&other.identity.node),
            "{} is the store of node {} too; name each member once",
            other.path.display(),
            other.identity.node.0
        );
        nodes.push(other.identity.node);
    }
    Ok(())
}

/// The newest configuration that any of the logs has, and who its members are.
fn configuration(own: &Replica, others: &[Replica]) -> Result<(StoredConfiguration, Configuration)> {
    let all = std::iter::once(own).chain(others);
    let newest = all.filter_map(|replica| replica.log.configuration.as_ref()).max_by_key(|stored| stored.slot);
    let Some(stored) = newest else { bail!("no segment header can be read; name a replica whose can, with --from") };
    let header = BodyHeader::parse(&stored.body).context("the stored configuration is damaged")?;
    let body = ConfigurationBody::decode(&header, &stored.body).context("the stored configuration is damaged")?;
    let strangers = std::iter::once(own).chain(others).find(|replica| {
        let known = body.incarnation_of(replica.identity.node);
        known.is_some_and(|known| known != replica.identity.incarnation)
    });
    if let Some(stranger) = strangers {
        bail!("{} isn't the store that the configuration names for its node", stranger.path.display());
    }
    Ok((stored.clone(), body.to_configuration(stored.slot)?))
}

/// Nothing is lost, or exactly what was typed: that, then.
fn check_loss(options: &Options, own: &Replica, plan: &RepairPlan) -> Result<Option<Slots>> {
    let loss = Slots(plan.loss.clone());
    match &options.accept_loss {
        None if loss.0.is_empty() => return Ok(None),
        Some(typed) if *typed == loss && !loss.0.is_empty() => return Ok(Some(loss)),
        Some(_) if loss.0.is_empty() => {
            return Err(failure(Exit::Usage, "nothing would be lost; leave --accept-loss out"));
        }
        _ => {}
    }
    let promise = match own.log.lost_promise {
        true => " It may also have promised to accept nothing below a ballot that isn't known any more.",
        false => "",
    };
    let message = format!(
        "at slots {loss} node {node} may have accepted what can't be read any more, here or in the logs given.{promise} \
         Should such a vote have helped to choose a command, and this node votes without knowing it, another command can be \
         chosen in its place: an acknowledged command is lost, and replicas differ. Stop all other members and name their \
         directories with --from: then nothing is lost. If they are gone for good, type --accept-loss {loss}",
        node = own.identity.node.0,
    );
    Err(failure(Exit::Damaged, message))
}

/// Either side's error, on its way through the directory.
struct WriteError(anyhow::Error);

impl From<CopyError> for WriteError {
    fn from(error: CopyError) -> WriteError {
        WriteError(error.into())
    }
}

impl From<RepairError> for WriteError {
    fn from(error: RepairError) -> WriteError {
        WriteError(error.into())
    }
}

fn write(options: &Options, own: &Replica, sources: &[RepairSource<'_>], plan: &RepairPlan) -> Result<()> {
    let identity = own.identity.log_identity(LOG).context("it was bootstrapped when it was read")?;
    let written = directory::write_copy(&options.to, &own.identity, &mut |log, disk| {
        let built: BuiltLog = plan.write(own.source(), sources, identity, disk)?;
        let store = DirectoryStore::new(log);
        check(&recover(&store, &identity.expected(), own.identity.segment_bytes), plan, &built).map_err(WriteError)
    });
    written.map_err(|WriteError(error)| error)
}

/// The copy must open, and say what was planned.
fn check(
    read: &Result<synod_wal::RecoveredLog, synod_wal::RecoverError>,
    plan: &RepairPlan,
    built: &BuiltLog,
) -> Result<()> {
    let read = match read {
        Ok(read) => read,
        Err(error) => bail!("the copy can't be read back: {error}"),
    };
    if let Some(damage) = read.damages.first() {
        bail!("the copy is damaged already: {damage}");
    }
    let same = read.is_sound()
        && read.mark.slot >= plan.mark.slot
        && read.index.mark_at(plan.mark.slot) == Some(plan.mark)
        && read.promised == plan.promised
        && read.index.base() == plan.base
        && read.index.len() == plan.index().len()
        && read.end == built.end;
    ensure!(same, "the copy doesn't say what was written: the disk doesn't keep it");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_typed_as_they_are_shown() {
        for text in ["7..9", "20..", "7..9,20..30,40.."] {
            assert_eq!(parse_slots(text).expect("slots").to_string(), text);
        }
        for text in ["", "7", "9..7", "7..7", "..", "a..b", "7..9,,8..9", "-1..3"] {
            assert!(parse_slots(text).is_err(), "{text}");
        }
    }
}
