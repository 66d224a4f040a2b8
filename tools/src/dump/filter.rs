//! Which records a dump shows.

use anyhow::Result;
use clap::Args;
use synod_protocol::{Ballot, NodeId, Slot};
use synod_wal::RecordKind;
use synod_wal::scan::ScannedRecord;

use crate::exit::{Exit, failure};
use crate::record::{BODY_KINDS, body_kind, record_kind};

/// All that are given must hold. Ranges are half-open: from the first, up to but without the second.
#[derive(Debug, Args)]
#[command(next_help_heading = "Which records")]
pub(super) struct Filter {
    /// Only bodies that reach this slot or a later one
    #[arg(long, value_name = "SLOT")]
    from: Option<u64>,
    /// Only bodies that begin before this slot
    #[arg(long, value_name = "SLOT")]
    to: Option<u64>,
    /// Only records of these kinds: accepted, chosen, copied, healed, promise, configuration, mark, pack, trim
    #[arg(long, value_name = "KINDS", value_delimiter = ',', value_parser = parse_record_kind)]
    kind: Vec<RecordKind>,
    /// Only records with bodies of these kinds: commands, no-op, configuration, trim
    #[arg(long, value_name = "KINDS", value_delimiter = ',', value_parser = parse_body_kind)]
    body: Vec<&'static str>,
    /// Only accepts at this ballot, and its promise: a round, or a round and its node as in 3.1
    #[arg(long, value_name = "ROUND[.NODE]", value_parser = parse_ballot)]
    ballot: Option<BallotFilter>,
    /// Only records for this group
    #[arg(long, value_name = "NUMBER")]
    group: Option<u32>,
    /// Only records at or behind this position in the log
    #[arg(long, value_name = "POSITION", value_parser = parse_position)]
    from_position: Option<u64>,
    /// Only records in front of this position
    #[arg(long, value_name = "POSITION", value_parser = parse_position)]
    to_position: Option<u64>,
    /// Only records at or after this time of the log, in microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    from_time: Option<u64>,
    /// Only records before this time of the log
    #[arg(long, value_name = "MICROSECONDS")]
    to_time: Option<u64>,
}

/// A ballot by its round, and perhaps its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct BallotFilter {
    round: u64,
    node: Option<NodeId>,
}

impl BallotFilter {
    fn is(self, ballot: Ballot) -> bool {
        ballot.round == self.round && self.node.is_none_or(|node| node == ballot.node)
    }
}

impl Filter {
    /// # Errors
    /// If no record can pass.
    pub(super) fn check(&self) -> Result<()> {
        for (name, from, to) in [
            ("", self.from, self.to),
            ("-position", self.from_position, self.to_position),
            ("-time", self.from_time, self.to_time),
        ] {
            if let (Some(from), Some(to)) = (from, to)
                && from >= to
            {
                let message =
                    format!("nothing lies from {from} up to, but without, {to}: check --from{name} and --to{name}");
                return Err(failure(Exit::Usage, message));
            }
        }
        Ok(())
    }

    pub(super) fn passes(&self, record: &ScannedRecord) -> bool {
        let meta = &record.header.meta;
        let position = record.header.lsn.0;
        within(position, self.from_position, self.to_position)
            && within(meta.log_time_us, self.from_time, self.to_time)
            && (self.kind.is_empty() || self.kind.contains(&meta.kind))
            && self.group.is_none_or(|group| group == meta.group.0)
            && self.ballot.is_none_or(|ballot| match meta.kind {
                RecordKind::Promise => ballot.is(meta.promised),
                _ => ballot.is(meta.ballot),
            })
            && self.passes_body(record)
    }

    fn passes_body(&self, record: &ScannedRecord) -> bool {
        if self.from.is_none() && self.to.is_none() && self.body.is_empty() {
            return true;
        }
        let Some(slots) = record.slots() else { return false };
        // A pack may hold bodies of every kind: it passes.
        if !self.body.is_empty() && record.body.is_some_and(|body| !self.body.contains(&body_kind(body.kind))) {
            return false;
        }
        if self.from.is_none() && self.to.is_none() {
            return true;
        }
        record.header.meta.kind.fills_slots()
            && self.from.is_none_or(|from| slots.end > Slot(from))
            && self.to.is_none_or(|to| slots.start < Slot(to))
    }
}

fn within(value: u64, from: Option<u64>, to: Option<u64>) -> bool {
    from.is_none_or(|from| value >= from) && to.is_none_or(|to| value < to)
}

fn parse_record_kind(text: &str) -> Result<RecordKind, String> {
    let names = || RecordKind::ALL.map(record_kind).join(", ");
    let found = RecordKind::ALL.into_iter().find(|kind| record_kind(*kind) == text);
    found.ok_or_else(|| format!("no such kind; the kinds are {}", names()))
}

fn parse_body_kind(text: &str) -> Result<&'static str, String> {
    let found = BODY_KINDS.into_iter().find(|kind| *kind == text);
    found.ok_or_else(|| format!("no such kind; the kinds are {}", BODY_KINDS.join(", ")))
}

fn parse_ballot(text: &str) -> Result<BallotFilter, String> {
    let wrong = || "a ballot is a round, or a round and a node, as in 3 or 3.1".to_owned();
    let (round, node) = match text.split_once('.') {
        Some((round, node)) => (round, Some(node.trim_start_matches('n'))),
        None => (text, None),
    };
    let round = round.parse().map_err(|_| wrong())?;
    let node = node.map(|node| node.parse().map(NodeId).map_err(|_| wrong())).transpose()?;
    Ok(BallotFilter { round, node })
}

/// A position as a dump shows it, or in decimal digits as JSON has it.
pub(crate) fn parse_position(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| "a position is a number, or 0x and hexadecimal digits".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ballots_and_positions_are_read_as_they_are_shown() {
        assert_eq!(parse_ballot("3"), Ok(BallotFilter { round: 3, node: None }));
        assert_eq!(parse_ballot("3.n2"), Ok(BallotFilter { round: 3, node: Some(NodeId(2)) }));
        assert_eq!(parse_ballot("3.2"), parse_ballot("3.n2"));
        for text in ["", ".", "n3", "3.", "3.2.1"] {
            assert!(parse_ballot(text).is_err(), "{text}");
        }
        assert_eq!((parse_position("0x1f"), parse_position("31")), (Ok(31), Ok(31)));
        assert!(parse_position("1f").is_err());
        let ballot = Ballot { round: 3, node: NodeId(2), boot: 9 };
        assert!(parse_ballot("3.2").is_ok_and(|filter| filter.is(ballot)));
        assert!(!parse_ballot("3.1").is_ok_and(|filter| filter.is(ballot)));
    }
}
