//! What an audit found, and what it rests on.

use std::fmt;

use synod_protocol::{NodeId, Slot, SlotRange};

use crate::lsn::{FileId, Lsn};

/// Violations that a report tells in full, those of the lowest slots; the rest is only counted.
pub const VIOLATIONS_KEPT: usize = 100;

/// An invariant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// A slot has one chosen body, on all replicas and for ever.
    OneChosenBody,
    /// One ballot proposes one body for a slot.
    OneBodyPerBallot,
    /// A body that was chosen at a ballot is what every higher ballot proposes for its slots (P2 of the paper).
    ChosenIsAdopted,
    /// What a replica says is chosen was accepted by a quorum at one ballot.
    ChosenByQuorum,
    /// A replica accepts nothing below a ballot that it promised.
    NoAcceptBelowPromise,
    /// A replica's promise never goes back.
    PromisesGrow,
    /// Two replicas that know the chosen prefix up to a slot have the same chain there.
    EqualChains,
    /// What a client was told is chosen, at the slot that it was told.
    AcknowledgedIsChosen,
}

impl Rule {
    /// All rules, in the order of the report.
    pub const ALL: [Rule; 8] = [
        Rule::OneChosenBody,
        Rule::OneBodyPerBallot,
        Rule::ChosenIsAdopted,
        Rule::ChosenByQuorum,
        Rule::NoAcceptBelowPromise,
        Rule::PromisesGrow,
        Rule::EqualChains,
        Rule::AcknowledgedIsChosen,
    ];

    /// Its name in reports: lower case with hyphens.
    pub fn name(self) -> &'static str {
        match self {
            Rule::OneChosenBody => "one-chosen-body",
            Rule::OneBodyPerBallot => "one-body-per-ballot",
            Rule::ChosenIsAdopted => "chosen-is-adopted",
            Rule::ChosenByQuorum => "chosen-by-quorum",
            Rule::NoAcceptBelowPromise => "no-accept-below-promise",
            Rule::PromisesGrow => "promises-grow",
            Rule::EqualChains => "equal-chains",
            Rule::AcknowledgedIsChosen => "acknowledged-is-chosen",
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where a record begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file.
    pub file: FileId,
    /// Offset in the file.
    pub offset: u64,
    /// Position in the log.
    pub lsn: Lsn,
}

/// A record, or a log, that takes part in a violation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// Which of the logs, by its place in the list that was given.
    pub log: usize,
    /// The log's name, as it was given: mostly a directory.
    pub name: String,
    /// Whose log it is.
    pub node: NodeId,
    /// Where the record is; none if the log as a whole says it.
    pub place: Option<Place>,
    /// What it says.
    pub detail: String,
}

impl fmt::Display for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.node, self.name)?;
        if let Some(place) = &self.place {
            write!(f, " {} at {} (position {})", place.file, place.offset, place.lsn)?;
        }
        write!(f, ": {}", self.detail)
    }
}

/// A rule that doesn't hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The rule.
    pub rule: Rule,
    /// The slots that it concerns; empty if it concerns none in particular.
    pub slots: SlotRange,
    /// What is wrong, in one sentence without full stop.
    pub what: String,
    /// The records that contradict each other, the earlier one first.
    pub witnesses: Vec<Witness>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.rule)?;
        if self.slots.start < self.slots.end {
            write!(f, "slots {}..{}: ", self.slots.start, self.slots.end)?;
        }
        f.write_str(&self.what)?;
        self.witnesses.iter().try_for_each(|witness| write!(f, "\n  {witness}"))
    }
}

/// How much was looked at, over all logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Accepts held against promises, ballots and choices.
    pub accepts: u64,
    /// Records whose promise was held against the one before.
    pub promises: u64,
    /// Marks held against chains and other marks.
    pub marks: u64,
    /// Marks at slots where nothing that is known has a chain.
    pub marks_alone: u64,
    /// Bodies that some log says are chosen, each counted once.
    pub bodies_chosen: u64,
    /// Bodies that the accepts themselves show to be chosen, whatever any log says.
    pub bodies_chosen_by_quorum: u64,
    /// Bodies of `bodies_chosen` whose quorum was found.
    pub quorums_found: u64,
    /// Those whose quorum can't be seen, because a member's log wasn't given.
    pub quorums_without_log: u64,
    /// Those whose quorum can't be seen, because members have trimmed their accepts.
    pub quorums_trimmed: u64,
    /// Those whose quorum can't be seen, because compaction, healing or damage took the place of accepts.
    pub quorums_rewritten: u64,
    /// Those whose quorum can't be seen, because nodes went on writing while the logs were read.
    pub quorums_growing: u64,
    /// Those at slots whose configuration isn't known any more.
    pub quorums_without_configuration: u64,
    /// Acknowledged commands that were found chosen where they should be, with the same content.
    pub acknowledged_found: u64,
    /// Those below everything that the logs still have.
    pub acknowledged_trimmed: u64,
    /// Those that might be chosen by members whose logs weren't given, are damaged, or are being written.
    pub acknowledged_unseen: u64,
}

/// What one log holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogCoverage {
    /// The log's name, as it was given.
    pub name: String,
    /// Whose it is.
    pub node: NodeId,
    /// First slot that isn't trimmed.
    pub base: Slot,
    /// End of the chosen prefix that its bodies prove.
    pub mark: Slot,
    /// Records read.
    pub records: u64,
    /// Accepts among them.
    pub accepts: u64,
    /// Records of chosen bodies that compaction or healing wrote.
    pub rewritten: u64,
    /// Places where records are missing that should be there.
    pub holes: u64,
    /// Places where recovery found it damaged, whether or not the node has got back since what was lost.
    pub damages: u64,
}

/// What an audit found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The logs, in the order given.
    pub logs: Vec<LogCoverage>,
    /// What was checked, and what couldn't be.
    pub coverage: Coverage,
    /// By slot, the lowest first; at most [`VIOLATIONS_KEPT`].
    pub violations: Vec<Violation>,
    /// How many there are.
    pub violations_count: u64,
}

impl Report {
    /// Whether every rule holds as far as can be seen.
    pub fn holds(&self) -> bool {
        self.violations_count == 0
    }

    /// Where the logs first diverge.
    pub fn first_divergence(&self) -> Option<&Violation> {
        self.violations.first()
    }
}

/// Violations as they are found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) coverage: Coverage,
    /// Never longer than twice what is kept.
    violations: Vec<Violation>,
    count: u64,
}

impl Findings {
    pub(super) fn add(&mut self, violation: Violation) {
        self.count += 1;
        self.violations.push(violation);
        if self.violations.len() >= 2 * VIOLATIONS_KEPT {
            self.shorten();
        }
    }

    /// Violations that aren't told.
    pub(super) fn count_more(&mut self, count: u64) {
        self.count += count;
    }

    fn shorten(&mut self) {
        self.violations.sort_by_key(|violation| (violation.slots.start, violation.rule));
        self.violations.truncate(VIOLATIONS_KEPT);
    }

    pub(super) fn into_report(mut self, logs: Vec<LogCoverage>) -> Report {
        self.shorten();
        self.coverage.accepts = logs.iter().map(|log| log.accepts).sum();
        Report { logs, coverage: self.coverage, violations: self.violations, violations_count: self.count }
    }
}
