//! `diff`: where the logs of two replicas part.
//!
//! Replicas may lag, and may have accepted what was never chosen: both is normal and said. What is chosen must be the
//! same everywhere; where it isn't, the first such slot is named, and the exit code says so.

use std::fmt;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use synod_protocol::Slot;
use synod_wal::IndexEntry;

use crate::exit::{Exit, failure};
use crate::output::{Align, Output, Row, uuid};
use crate::source::Source;
use crate::survey::Survey;

/// Which directories.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Directory of a node
    first: PathBuf,
    /// Directory of another node of the same cluster
    second: PathBuf,
}

/// One replica.
#[derive(Serialize)]
struct Replica {
    directory: String,
    node: u32,
    promised_round: u64,
    promised_node: u32,
    promised_boot: String,
    base_slot: u64,
    mark_slot: u64,
    mark_chain: String,
    /// The highest mark that is written down; more than `mark_slot` if bodies are missing.
    claimed_slot: u64,
    accepted_end: u64,
    configuration_slot: Option<u64>,
    troubles: u64,
}

/// Both.
#[derive(Serialize)]
struct Head {
    /// Whether something is chosen on both, and not the same.
    diverges: bool,
    /// The first such slot; none if it is trimmed, so that only the chains tell.
    first_divergence: Option<u64>,
    first: Replica,
    second: Replica,
}

/// Slots at which the two aren't alike in one way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Difference {
    slot_first: u64,
    slot_end: u64,
    difference: Kind,
    bodies: u64,
}

/// In which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    /// Both have something chosen there, and not the same.
    ChosenDiffers,
    /// Both know all up to there to be chosen, but the chains over it differ, and the bodies are trimmed.
    ChainsDiffer,
    /// Different bodies, of which at most one is known to be chosen.
    AcceptedDiffers,
    OnlyFirstChosen,
    OnlySecondChosen,
    OnlyFirstAccepted,
    OnlySecondAccepted,
}

impl Kind {
    fn diverges(self) -> bool {
        matches!(self, Kind::ChosenDiffers | Kind::ChainsDiffer)
    }

    fn words(self) -> &'static str {
        match self {
            Kind::ChosenDiffers => "CHOSEN DIFFERS",
            Kind::ChainsDiffer => "CHOSEN DIFFERS below the end of these slots, as the chains tell; it is trimmed",
            Kind::AcceptedDiffers => "accepted differs; at most one is known to be chosen",
            Kind::OnlyFirstChosen => "only the first has it, chosen",
            Kind::OnlySecondChosen => "only the second has it, chosen",
            Kind::OnlyFirstAccepted => "only the first has it, accepted",
            Kind::OnlySecondAccepted => "only the second has it, accepted",
        }
    }
}

impl Row for Difference {
    const COLUMNS: &'static [(&'static str, Align)] =
        &[("slots", Align::Left), ("bodies", Align::Right), ("difference", Align::Left)];

    fn cells(&self) -> Vec<String> {
        vec![
            format!("{}..{}", self.slot_first, self.slot_end),
            self.bodies.to_string(),
            self.difference.words().to_owned(),
        ]
    }
}

impl fmt::Display for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "node {} ({}): promised {}.n{}.{}, slots {}..{} chosen with chain {}, accepted up to {}, configuration of slot {}",
            self.node,
            self.directory,
            self.promised_round,
            self.promised_node,
            self.promised_boot,
            self.base_slot,
            self.mark_slot,
            &self.mark_chain[..16],
            self.accepted_end,
            self.configuration_slot.map_or_else(|| "-".to_owned(), |slot| slot.to_string()),
        )?;
        if self.claimed_slot > self.mark_slot {
            write!(f, "; it once knew all below {} to be chosen", self.claimed_slot)?;
        }
        Ok(())
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}", self.first, self.second)?;
        match self.first_divergence {
            Some(slot) => {
                write!(f, "WHAT IS CHOSEN DIFFERS, from slot {slot} on; run `synod-tools audit` on all replicas")
            }
            None => write!(f, "what is chosen on both is the same"),
        }
    }
}

pub(crate) fn run(options: &Options, output: &mut Output) -> Result<Exit> {
    let (first, second) = (Source::open(&options.first)?, Source::open(&options.second)?);
    check_clusters(&first, &second)?;
    let (one, two) = (Survey::take(&first)?, Survey::take(&second)?);
    let mut differences = compare(&one, &two);
    let chosen = differences.iter().find(|difference| difference.difference == Kind::ChosenDiffers);
    let first_divergence = chosen.map(|difference| difference.slot_first);
    if let Some(slot) = chains_part(&one, &two).filter(|_| first_divergence.is_none()) {
        let slot_first = Slot::FIRST.0;
        let difference = Difference { slot_first, slot_end: slot.0, difference: Kind::ChainsDiffer, bodies: 0 };
        differences.insert(0, difference);
    }
    let diverges = differences.iter().any(|difference| difference.difference.diverges());
    let head = Head { diverges, first_divergence, first: replica(&first, &one), second: replica(&second, &two) };
    output.report(&head, "differences", &differences)?;
    Ok(Exit::sound(!diverges && one.troubles + two.troubles == 0))
}

fn check_clusters(first: &Source, second: &Source) -> Result<()> {
    let (one, two) = (&first.identity, &second.identity);
    if one.cluster == two.cluster && one.lineage == two.lineage {
        return Ok(());
    }
    let named = |source: &Source| {
        let cluster =
            source.identity.cluster.map_or_else(|| "no cluster".to_owned(), |id| format!("cluster {}", uuid(&id)));
        format!("{} belongs to {cluster}, lineage {}", source.path.display(), source.identity.lineage)
    };
    let message = format!("{}, but {}: their logs have nothing in common", named(first), named(second));
    Err(failure(Exit::Usage, message))
}

fn replica(source: &Source, survey: &Survey) -> Replica {
    Replica {
        directory: source.path.display().to_string(),
        node: source.identity.node.0,
        promised_round: survey.promised.round,
        promised_node: survey.promised.node.0,
        promised_boot: crate::record::boot(survey.promised),
        base_slot: survey.index.base().slot.0,
        mark_slot: survey.mark.slot.0,
        mark_chain: format!("{:032x}", survey.mark.chain.0),
        claimed_slot: survey.claimed.slot.0,
        accepted_end: survey.end().0,
        configuration_slot: survey.configuration.map(|slot| slot.0),
        troubles: survey.troubles,
    }
}

/// A slot up to which both know all to be chosen, with different chains over it.
fn chains_part(one: &Survey, two: &Survey) -> Option<Slot> {
    let marks = [one.mark, two.mark, one.index.base(), two.index.base()];
    marks.into_iter().map(|mark| mark.slot).find(|slot| {
        let (ours, theirs) = (one.index.mark_at(*slot), two.index.mark_at(*slot));
        ours.zip(theirs).is_some_and(|(ours, theirs)| ours.chain != theirs.chain)
    })
}

/// Goes along both logs at once, from the first slot that both still have.
fn compare(one: &Survey, two: &Survey) -> Vec<Difference> {
    // Everything below is compared.
    let mut done = one.index.base().slot.max(two.index.base().slot);
    let mut differences = Vec::new();
    let (mut ours, mut theirs) = (one.index.iter_from(done).peekable(), two.index.iter_from(done).peekable());
    loop {
        let (our, their) = (ours.peek().copied(), theirs.peek().copied());
        let starts = [our, their].into_iter().flatten().map(|entry| entry.body.first.max(done));
        let Some(start) = starts.min() else { return differences };
        let here = |entry: Option<&'_ IndexEntry>| entry.is_some_and(|entry| entry.body.first <= start);
        // Up to where the two are alike, or differ in the same way.
        let ends = |entry: &IndexEntry| if entry.body.first > start { entry.body.first } else { entry.body.end() };
        let end = [our, their].into_iter().flatten().map(ends).min().expect("one of them is there");
        let kind = match (our.filter(|_| here(our)), their.filter(|_| here(their))) {
            (Some(our), Some(their)) if our.body == their.body => None,
            (Some(our), Some(their)) if Survey::is_chosen(our) && Survey::is_chosen(their) => Some(Kind::ChosenDiffers),
            (Some(_), Some(_)) => Some(Kind::AcceptedDiffers),
            (Some(our), None) if Survey::is_chosen(our) => Some(Kind::OnlyFirstChosen),
            (Some(_), None) => Some(Kind::OnlyFirstAccepted),
            (None, Some(their)) if Survey::is_chosen(their) => Some(Kind::OnlySecondChosen),
            (None, _) => Some(Kind::OnlySecondAccepted),
        };
        if let Some(kind) = kind {
            note(&mut differences, start.0, end.0, kind);
        }
        done = end;
        ours.next_if(|entry| entry.body.end() <= done);
        theirs.next_if(|entry| entry.body.end() <= done);
    }
}

/// Neighbours that differ in the same way are one difference.
fn note(differences: &mut Vec<Difference>, slot_first: u64, slot_end: u64, difference: Kind) {
    match differences.last_mut().filter(|last| last.difference == difference && last.slot_end == slot_first) {
        Some(last) => {
            last.slot_end = slot_end;
            last.bodies += 1;
        }
        None => differences.push(Difference { slot_first, slot_end, difference, bodies: 1 }),
    }
}
