//! The audit of the closed logs: every acknowledged command exactly at its slot, one order everywhere.
//!
//! The directories are read as an operator's tool would read them after the nodes have stopped. On each replica every
//! byte is checked against its checksums and the chain is computed again. The invariants of Paxos are those of
//! [`synod_wal::audit`], over the records of all replicas. Equal identities mean equal bytes, so the commands themselves
//! are compared on one replica, and the others by identity.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::thread;

use anyhow::{Context, Result, anyhow};
use serde::Serialize;
use synod_frame::{CommandsView, RECORD_HEADER_BYTES, RecordBuffer, verify_body_in_record};
use synod_protocol::{BodyHandle, BodyKind, Mark, NodeId, Slot};
use synod_wal::audit::AuditLog;
use synod_wal::directory::{self, DirectoryStore};
use synod_wal::{ExpectedIdentity, RecoverOptions, RecoveredLog, SegmentStore, recover_with};

use crate::content::Content;
use crate::ledger::{Call, Outcome};
use crate::report::thousands;
use crate::retention::Trimmed;

/// Failures told in full; a broken run would have millions.
const FAILURES_TOLD: usize = 20;

/// What was proven, and what not.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Audit {
    pub(crate) first_slot: u64,
    pub(crate) end_slot: u64,
    pub(crate) bodies_read: u64,
    pub(crate) commands_read: u64,
    pub(crate) invariants: Invariants,
    pub(crate) calls_acknowledged: u64,
    pub(crate) calls_unknown: u64,
    pub(crate) unknown_in_log: u64,
    pub(crate) trimmed: Trimmed,
    /// Empty if the audit passed.
    pub(crate) failures: Vec<String>,
}

/// What the invariants of Paxos were checked on.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Invariants {
    /// Accepts of all replicas, against promises, ballots and choices.
    pub(crate) accepts: u64,
    pub(crate) marks: u64,
    pub(crate) bodies_chosen: u64,
    /// Chosen bodies of which the records show a quorum that accepted them at one ballot.
    pub(crate) quorums_found: u64,
}

impl Audit {
    pub(crate) fn has_passed(&self) -> bool {
        self.failures.is_empty()
    }

    /// What was proven of several groups, added up; slots are those of the longest log.
    pub(crate) fn sum(audits: Vec<Audit>) -> Audit {
        let is_one = audits.len() == 1;
        let mut sum = Audit::default();
        for (group, audit) in (1..).zip(audits) {
            sum.first_slot = audit.first_slot.min(if group == 1 { u64::MAX } else { sum.first_slot });
            sum.end_slot = sum.end_slot.max(audit.end_slot);
            sum.bodies_read += audit.bodies_read;
            sum.commands_read += audit.commands_read;
            sum.invariants.accepts += audit.invariants.accepts;
            sum.invariants.marks += audit.invariants.marks;
            sum.invariants.bodies_chosen += audit.invariants.bodies_chosen;
            sum.invariants.quorums_found += audit.invariants.quorums_found;
            sum.calls_acknowledged += audit.calls_acknowledged;
            sum.calls_unknown += audit.calls_unknown;
            sum.unknown_in_log += audit.unknown_in_log;
            sum.trimmed.trims += audit.trimmed.trims;
            sum.trimmed.upto = sum.trimmed.upto.max(audit.trimmed.upto);
            sum.trimmed.calls_read_back += audit.trimmed.calls_read_back;
            for failure in audit.failures {
                sum.fail(if is_one { failure } else { format!("group {group}: {failure}") });
            }
        }
        sum
    }

    /// For people.
    pub(crate) fn write(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "audit             {}", if self.has_passed() { "passed" } else { "FAILED" })?;
        writeln!(
            text,
            "  read from the closed logs: {} commands in slots {}..{}, each replica's chain and checksums, every acknowledged command at its slot on a majority",
            thousands(self.commands_read),
            self.first_slot,
            self.end_slot
        )?;
        writeln!(
            text,
            "  invariants of Paxos: {} accepts, {} marks; of {} chosen bodies {} with the quorum that accepted them",
            thousands(self.invariants.accepts),
            thousands(self.invariants.marks),
            thousands(self.invariants.bodies_chosen),
            thousands(self.invariants.quorums_found)
        )?;
        if self.trimmed.trims > 0 {
            writeln!(
                text,
                "  before trimming: slots below {} by equal chains on all replicas ({} times), {} append calls read back byte by byte",
                self.trimmed.upto, self.trimmed.trims, self.trimmed.calls_read_back
            )?;
        }
        writeln!(
            text,
            "  {} append calls acknowledged, none overlapping; {} with unknown outcome, of which {} are in the log once",
            thousands(self.calls_acknowledged),
            self.calls_unknown,
            self.unknown_in_log
        )?;
        for failure in &self.failures {
            writeln!(text, "  FAILED: {failure}")?;
        }
        Ok(())
    }

    fn fail(&mut self, failure: String) {
        if self.failures.len() < FAILURES_TOLD {
            self.failures.push(failure);
        }
    }
}

/// One replica's log, as read back.
struct Replica {
    base: Mark,
    mark: Mark,
    /// The chosen bodies from the base on.
    bodies: Vec<BodyHandle>,
    /// Of the log.
    path: PathBuf,
    identity: ExpectedIdentity,
    log: RecoveredLog,
}

/// Reads all directories and holds them against the ledger.
///
/// # Errors
/// If a directory can't be read at all; what is wrong with its content is in the result.
pub(crate) fn audit(
    directories: &[(NodeId, PathBuf)],
    log: u32,
    content: &Content,
    calls: &[Call],
    trimmed: Result<Trimmed>,
) -> Result<Audit> {
    let mut audit = Audit::default();
    match trimmed {
        Ok(trimmed) => audit.trimmed = trimmed,
        Err(error) => audit.fail(format!("before a trim: {error:#}")),
    }
    let readers: Vec<_> = directories.iter().cloned().map(|(_, path)| thread::spawn(move || read(path, log))).collect();
    let mut replicas = Vec::new();
    for (reader, (node, _)) in readers.into_iter().zip(directories) {
        match reader.join().map_err(|_| anyhow!("the audit of node {node} panicked"))? {
            Ok(replica) => replicas.push(replica),
            Err(error) => audit.fail(format!("node {node}: {error:#}")),
        }
    }
    let majority = directories.len() / 2 + 1;
    invariants(&replicas, &mut audit)?;
    extend(&mut replicas, majority);
    // The longest log speaks for all; the others are prefixes of it, or an invariant has failed.
    let Some(longest) = replicas.iter().max_by_key(|replica| replica.mark.slot) else { return Ok(audit) };
    let mut ends: Vec<Slot> = replicas.iter().map(|replica| replica.end_within(longest)).collect();
    ends.sort_unstable_by(|a, b| b.cmp(a));
    // Every slot below is held by a majority of replicas.
    let held = ends.get(majority - 1).copied().unwrap_or(Slot::FIRST);
    (audit.first_slot, audit.end_slot) = (longest.base.slot.0, longest.mark.slot.0);
    let found = commands(longest, content, calls, &mut audit)?;
    ledger(longest, held, calls, &found, &mut audit);
    Ok(audit)
}

impl Replica {
    /// The end of what it holds of another log: its own mark says less if news of the last choices came when it was idle.
    fn end_within(&self, longest: &Replica) -> Slot {
        let mut end = self.mark.slot;
        for entry in self.log.index.iter_from(end) {
            let there = longest.bodies.binary_search_by_key(&entry.body.first, |body| body.first);
            if entry.body.first != end || !there.is_ok_and(|place| longest.bodies[place] == entry.body) {
                break;
            }
            end = entry.body.end();
        }
        end
    }
}

/// Goes on with the longest log where its mark ends: what a majority accepted at one ballot is chosen, although no log may
/// say so yet.
fn extend(replicas: &mut [Replica], majority: usize) {
    let Some(place) = (0..replicas.len()).max_by_key(|place| replicas[*place].mark.slot) else { return };
    loop {
        let end = replicas[place].mark.slot;
        let accepted: Vec<_> = replicas
            .iter()
            .filter_map(|replica| replica.log.index.iter_from(end).next())
            .filter(|entry| entry.body.first == end)
            .map(|entry| (entry.body, entry.ballot))
            .collect();
        let of_majority = |one: &&_| accepted.iter().filter(|other| other == one).count() >= majority;
        let Some((body, _)) = accepted.iter().find(of_majority).copied() else { return };
        let longest = &mut replicas[place];
        longest.mark = longest.mark.after(&body);
        longest.bodies.push(body);
    }
}

/// Reads one log back, checking every byte.
fn read(path: PathBuf, number: u32) -> Result<Replica> {
    let identity = directory::read_identity(&path)?;
    let store = DirectoryStore::new(directory::log_path(&path, number));
    let expected = identity.log_identity(number).context("not bootstrapped")?.expected();
    let options = RecoverOptions::default();
    let log = recover_with(&store, &expected, identity.segment_bytes, options)?;
    if let Some(damage) = log.damages.first() {
        anyhow::bail!("{}: {damage}", path.display());
    }
    anyhow::ensure!(log.is_sound(), "{}: the log may have lost votes", path.display());
    let (base, mark) = (log.index.base(), log.mark);
    let mut computed = base;
    let mut bodies = Vec::new();
    for entry in log.index.iter_from(base.slot).take_while(|entry| entry.body.end() <= mark.slot) {
        anyhow::ensure!(entry.body.first == computed.slot, "slots {}..{} are missing", computed.slot, entry.body.first);
        computed = computed.after(&entry.body);
        bodies.push(entry.body);
    }
    anyhow::ensure!(computed == mark, "the chain over the bodies is {}, the log says {}", computed.chain, mark.chain);
    Ok(Replica { base, mark, bodies, path: directory::log_path(&path, number), identity: expected, log })
}

/// Checks the invariants of Paxos over the records of all replicas.
fn invariants(replicas: &[Replica], audit: &mut Audit) -> Result<()> {
    let stores: Vec<DirectoryStore> = replicas.iter().map(|replica| DirectoryStore::new(&replica.path)).collect();
    let mut logs = Vec::with_capacity(replicas.len());
    for (replica, store) in replicas.iter().zip(&stores) {
        let name = replica.path.display().to_string();
        logs.push(AuditLog::from_recovered(name, store, &replica.identity, &replica.log)?);
    }
    if logs.is_empty() {
        return Ok(());
    }
    let report = synod_wal::audit::audit(&logs, &[])?;
    let coverage = report.coverage;
    audit.invariants = Invariants {
        accepts: coverage.accepts,
        marks: coverage.marks,
        bodies_chosen: coverage.bodies_chosen,
        quorums_found: coverage.quorums_found,
    };
    for violation in &report.violations {
        audit.fail(violation.to_string());
    }
    Ok(())
}

/// What one replica's log says of an append call.
#[derive(Clone, Copy, Debug, Default)]
struct Found {
    first: Slot,
    commands: u32,
}

/// Reads every command of a log and notes where each append call stands.
fn commands(replica: &Replica, content: &Content, calls: &[Call], audit: &mut Audit) -> Result<Vec<Found>> {
    let store = DirectoryStore::new(&replica.path);
    let mut found = vec![Found::default(); calls.len()];
    for body in &replica.bodies {
        audit.bodies_read += 1;
        if body.kind != BodyKind::Commands {
            continue;
        }
        let entry = replica.log.index.get(body.first).context("the index holds every body")?;
        let record_bytes = entry.location.record_bytes as usize;
        let mut record = RecordBuffer::zeroed(record_bytes);
        store.read_at(entry.location.file, entry.location.offset, record.as_mut())?;
        let header = verify_body_in_record(record.as_ref())?;
        anyhow::ensure!(header.handle() == *body, "the body at slot {} changed while it was audited", body.first);
        let bytes = &record.as_ref()[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + body.bytes as usize];
        let view = CommandsView::new(&header, bytes)?;
        for (place, command) in view.iter().enumerate() {
            audit.commands_read += 1;
            note(content, body.first.plus(place as u64), command?, &mut found, audit);
        }
    }
    Ok(found)
}

fn note(content: &Content, slot: Slot, command: &[u8], found: &mut [Found], audit: &mut Audit) {
    let Some((call, index)) = content.recognise(command) else {
        return audit.fail(format!("slot {slot} holds {} bytes that no client sent", command.len()));
    };
    let Some(found) = found.get_mut(call as usize) else {
        return audit.fail(format!("slot {slot} holds a command of append call {call}, which was never made"));
    };
    if index == 0 && found.commands == 0 {
        found.first = slot;
    }
    if found.commands != index || found.first.plus(u64::from(index)) != slot {
        return audit.fail(format!("slot {slot} holds command {index} of append call {call}: out of order, or twice"));
    }
    found.commands += 1;
}

/// Holds every line of the ledger against what was found.
fn ledger(replica: &Replica, held: Slot, calls: &[Call], found: &[Found], audit: &mut Audit) {
    let mut acknowledged = Vec::new();
    for (number, (call, found)) in calls.iter().zip(found).enumerate() {
        match call.outcome {
            Outcome::Acknowledged(first) => {
                audit.calls_acknowledged += 1;
                let slots = first..first.plus(u64::from(call.count));
                if slots.end > held {
                    audit.fail(format!(
                        "append call {number} is acknowledged at {first}, but a majority holds only slots below {held}"
                    ));
                }
                let complete = found.commands == call.count && found.first == first;
                if slots.start >= replica.base.slot && !complete {
                    audit.fail(format!(
                        "append call {number} is acknowledged at {first}, but the log has {} of its {} commands, at {}",
                        found.commands, call.count, found.first
                    ));
                }
                acknowledged.push(slots);
            }
            Outcome::Refused if found.commands > 0 => {
                audit.fail(format!("append call {number} was refused, but stands at {}", found.first));
            }
            Outcome::Unknown | Outcome::Pending => {
                audit.calls_unknown += 1;
                audit.unknown_in_log += u64::from(found.commands > 0);
                if found.commands != 0 && found.commands != call.count {
                    audit.fail(format!(
                        "append call {number} stands in the log in part: {} of {}",
                        found.commands, call.count
                    ));
                }
            }
            Outcome::Refused => {}
        }
    }
    acknowledged.sort_unstable_by_key(|slots| slots.start);
    for pair in acknowledged.windows(2) {
        if pair[0].end > pair[1].start {
            audit.fail(format!("two append calls are acknowledged at slot {}", pair[1].start));
        }
    }
}
