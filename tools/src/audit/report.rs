//! What `audit` says.

use std::fmt;

use serde::Serialize;
use synod_wal::audit::{Report, Violation, Witness};

use crate::output::{Align, Row};

/// The result, and what it rests on.
#[derive(Debug, Serialize)]
pub(super) struct Audited {
    holds: bool,
    violations_count: u64,
    logs: Vec<LogRow>,
    /// Directories that couldn't be read, and why: the rest was audited without them.
    unreadable: Vec<String>,
    checked: Checked,
}

/// One log.
#[derive(Debug, Serialize)]
struct LogRow {
    directory: String,
    node: u32,
    slots_first: u64,
    slots_end: u64,
    records: u64,
    accepts: u64,
    rewritten: u64,
    holes: u64,
    damages: u64,
}

/// How much was looked at, and what couldn't be seen.
#[derive(Debug, Serialize)]
struct Checked {
    accepts: u64,
    promises: u64,
    marks: u64,
    marks_alone: u64,
    bodies_chosen: u64,
    bodies_chosen_by_quorum: u64,
    quorums_found: u64,
    quorums_without_log: u64,
    quorums_trimmed: u64,
    quorums_rewritten: u64,
    quorums_growing: u64,
    quorums_without_configuration: u64,
    acknowledged: usize,
    acknowledged_found: u64,
    acknowledged_trimmed: u64,
    acknowledged_unseen: u64,
}

impl Audited {
    pub(super) fn new(report: &Report, acknowledged: usize, unreadable: Vec<String>) -> Audited {
        let coverage = &report.coverage;
        let logs = report.logs.iter().map(|log| LogRow {
            directory: log.name.clone(),
            node: log.node.0,
            slots_first: log.base.0,
            slots_end: log.mark.0,
            records: log.records,
            accepts: log.accepts,
            rewritten: log.rewritten,
            holes: log.holes,
            damages: log.damages,
        });
        Audited {
            holds: report.holds(),
            violations_count: report.violations_count,
            logs: logs.collect(),
            unreadable,
            checked: Checked {
                accepts: coverage.accepts,
                promises: coverage.promises,
                marks: coverage.marks,
                marks_alone: coverage.marks_alone,
                bodies_chosen: coverage.bodies_chosen,
                bodies_chosen_by_quorum: coverage.bodies_chosen_by_quorum,
                quorums_found: coverage.quorums_found,
                quorums_without_log: coverage.quorums_without_log,
                quorums_trimmed: coverage.quorums_trimmed,
                quorums_rewritten: coverage.quorums_rewritten,
                quorums_growing: coverage.quorums_growing,
                quorums_without_configuration: coverage.quorums_without_configuration,
                acknowledged,
                acknowledged_found: coverage.acknowledged_found,
                acknowledged_trimmed: coverage.acknowledged_trimmed,
                acknowledged_unseen: coverage.acknowledged_unseen,
            },
        }
    }
}

impl fmt::Display for Audited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let checked = &self.checked;
        if self.holds {
            writeln!(f, "audit passed: every rule holds as far as can be seen")?;
        } else {
            writeln!(f, "audit FAILED: {} violations, those of the lowest slots first", self.violations_count)?;
        }
        for log in &self.logs {
            writeln!(
                f,
                "{}: node {}, slots {}..{} chosen, {} records, {} accepts",
                log.directory, log.node, log.slots_first, log.slots_end, log.records, log.accepts
            )?;
        }
        for log in self.logs.iter().filter(|log| log.damages > 0) {
            writeln!(
                f,
                "DAMAGED: {} in {} places, what is lost there was not audited; run `synod-tools verify {}`",
                log.directory, log.damages, log.directory
            )?;
        }
        for unreadable in &self.unreadable {
            writeln!(f, "NOT AUDITED: {unreadable}")?;
        }
        writeln!(
            f,
            "checked: {} accepts against promises and ballots, {} promises in record order, {} marks against chains",
            checked.accepts, checked.promises, checked.marks
        )?;
        write!(
            f,
            "checked: of {} chosen bodies {} have a quorum that accepted them at one ballot",
            checked.bodies_chosen, checked.quorums_found
        )?;
        let unseen = [
            (checked.quorums_without_log, "whose members' directories weren't all given"),
            (checked.quorums_trimmed, "whose accepts are trimmed"),
            (checked.quorums_rewritten, "whose accepts compaction or healing took the place of"),
            (checked.quorums_growing, "because nodes went on writing"),
            (checked.quorums_without_configuration, "whose configuration is trimmed"),
        ];
        for (count, why) in unseen.iter().filter(|(count, _)| *count > 0) {
            write!(f, "; {count} can't be seen, {why}")?;
        }
        if checked.marks_alone > 0 {
            write!(f, "\nnot checked: {} marks at slots where nobody has a chain", checked.marks_alone)?;
        }
        if checked.acknowledged > 0 {
            write!(
                f,
                "\nchecked: of {} acknowledged commands {} are chosen as they were acknowledged; {} are trimmed, {} can't be seen",
                checked.acknowledged,
                checked.acknowledged_found,
                checked.acknowledged_trimmed,
                checked.acknowledged_unseen
            )?;
        }
        Ok(())
    }
}

/// A rule that doesn't hold.
#[derive(Debug, Serialize)]
pub(super) struct ViolationRow {
    rule: &'static str,
    slots_first: u64,
    slots_end: u64,
    what: String,
    witnesses: Vec<WitnessRow>,
}

/// A record that takes part in it.
#[derive(Debug, Serialize)]
struct WitnessRow {
    directory: String,
    node: u32,
    file: Option<String>,
    offset: Option<u64>,
    position: Option<u64>,
    says: String,
}

impl ViolationRow {
    pub(super) fn new(violation: &Violation) -> ViolationRow {
        ViolationRow {
            rule: violation.rule.name(),
            slots_first: violation.slots.start.0,
            slots_end: violation.slots.end.0,
            what: violation.what.clone(),
            witnesses: violation.witnesses.iter().map(WitnessRow::new).collect(),
        }
    }
}

impl WitnessRow {
    fn new(witness: &Witness) -> WitnessRow {
        WitnessRow {
            directory: witness.name.clone(),
            node: witness.node.0,
            file: witness.place.map(|place| place.file.to_string()),
            offset: witness.place.map(|place| place.offset),
            position: witness.place.map(|place| place.lsn.0),
            says: witness.detail.clone(),
        }
    }
}

impl Row for ViolationRow {
    const COLUMNS: &'static [(&'static str, Align)] =
        &[("rule", Align::Left), ("slots", Align::Left), ("what", Align::Left)];

    fn cells(&self) -> Vec<String> {
        let slots = if self.slots_first < self.slots_end {
            format!("{}..{}", self.slots_first, self.slots_end)
        } else {
            "-".to_owned()
        };
        // Each witness on a line of its own, under what is wrong.
        let mut what = self.what.clone();
        for witness in &self.witnesses {
            what.push_str(&format!("\nn{} {}", witness.node, witness.directory));
            if let (Some(file), Some(offset)) = (&witness.file, witness.offset) {
                what.push_str(&format!(" {file} at {offset}"));
            }
            what.push_str(&format!(": {}", witness.says));
        }
        vec![self.rule.to_owned(), slots, what]
    }
}
