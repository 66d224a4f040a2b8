//! The rules about the chosen prefix: one body a slot, one chain.

use synod_protocol::{BodyHandle, Slot};

use super::Cluster;
use super::ballots::Choice;
use super::evidence::KnownChain;
use super::report::{Findings, Place, Rule, Violation};

/// A chosen body, of one of those who have it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chosen {
    pub(super) body: BodyHandle,
    pub(super) log: u32,
    pub(super) place: Place,
    /// Some log says so; otherwise only the accepts show it.
    pub(super) said: bool,
}

/// Every chosen body once, by slot, and those besides that share a slot with one of them, which is a violation. Of two
/// the one that a quorum accepted comes first.
pub(super) fn check_one_chosen_body(
    cluster: &Cluster<'_, '_>,
    choices: &[Choice],
    findings: &mut Findings,
) -> (Vec<Chosen>, Vec<Chosen>) {
    let by_quorum = |chosen: &Chosen| choices.binary_search_by_key(&chosen.body, |choice| choice.body).is_ok();
    // Each source is in order of slots, so they are merged without a copy of them all.
    let derived =
        choices.iter().map(|choice| Chosen { body: choice.body, log: choice.log, place: choice.place, said: false });
    let mut sources: Vec<std::iter::Peekable<Box<dyn Iterator<Item = Chosen> + '_>>> =
        vec![(Box::new(derived) as Box<dyn Iterator<Item = Chosen>>).peekable()];
    for (log, held) in cluster.logs.iter().enumerate() {
        let said = held.chosen.iter().map(move |chosen| Chosen {
            body: chosen.body,
            log: log as u32,
            place: chosen.place,
            said: true,
        });
        sources.push((Box::new(said) as Box<dyn Iterator<Item = Chosen>>).peekable());
    }
    let (mut merged, mut disputed): (Vec<Chosen>, Vec<Chosen>) = (Vec::new(), Vec::new());
    while let Some(next) = take_lowest(&mut sources) {
        match merged.last_mut() {
            Some(last) if last.body == next.body => last.said |= next.said,
            Some(last) if last.body.overlaps(&next.body) => {
                let told = |chosen: &Chosen| {
                    let why = if chosen.said { "is chosen, as the log says" } else { "was accepted by a quorum" };
                    let (first, end) = (chosen.body.first, chosen.body.end());
                    cluster.witness(
                        chosen.log,
                        chosen.place,
                        format!("body {} at slots {first}..{end} {why}", chosen.body.id),
                    )
                };
                findings.add(Violation {
                    rule: Rule::OneChosenBody,
                    slots: next.body.first..last.body.end().min(next.body.end()),
                    what: "two bodies are chosen for one slot".to_owned(),
                    witnesses: vec![told(last), told(&next)],
                });
                let better = by_quorum(&next) && !by_quorum(last);
                disputed.push(if better { std::mem::replace(last, next) } else { next });
            }
            _ => merged.push(next),
        }
    }
    (merged, disputed)
}

fn take_lowest(sources: &mut [std::iter::Peekable<Box<dyn Iterator<Item = Chosen> + '_>>]) -> Option<Chosen> {
    let lowest = sources
        .iter_mut()
        .enumerate()
        .filter_map(|(source, chosen)| chosen.peek().map(|chosen| (chosen.body, source)))
        .min()?;
    sources[lowest.1].next()
}

/// Every mark against the chains of all logs, and against the marks of others at the same slot.
pub(super) fn check_marks(cluster: &Cluster<'_, '_>, findings: &mut Findings) {
    let mut all = Vec::new();
    for (log, held) in cluster.logs.iter().enumerate() {
        findings.coverage.marks += held.marks_proven;
        findings.coverage.promises += held.promises;
        all.extend(held.marks.iter().map(|(mark, place)| (*mark, log, *place)));
    }
    all.sort_unstable_by_key(|(mark, log, _)| (*mark, *log));
    let mut last_slot = None;
    for (index, (mark, log, place)) in all.iter().enumerate() {
        let mut compared = false;
        let told = |detail: String| cluster.logs[*log].witness(*log, *place, detail);
        for (other, held) in cluster.logs.iter().enumerate() {
            let own_end = other == *log && place.is_none();
            let (what, detail) = match held.chain_at(mark.slot) {
                KnownChain::Unknown => continue,
                KnownChain::Here(chain) if chain == mark.chain => {
                    compared |= !own_end;
                    continue;
                }
                KnownChain::Here(chain) => ("two chains at one slot".to_owned(), format!("chain {chain}")),
                KnownChain::Inside(body) => (
                    "a chosen prefix ends inside a chosen body".to_owned(),
                    format!("body {} at slots {}..{} is chosen", body.id, body.first, body.end()),
                ),
            };
            compared = true;
            findings.add(Violation {
                rule: Rule::EqualChains,
                slots: before(mark.slot)..mark.slot,
                what,
                witnesses: vec![
                    told(format!("mark at slot {} with chain {}", mark.slot, mark.chain)),
                    held.witness(other, None, detail),
                ],
            });
        }
        // Of marks that nobody's bodies reach, two at one slot must still agree.
        let before_it = index.checked_sub(1).map(|index| &all[index]).filter(|(other, ..)| other.slot == mark.slot);
        if let Some((other, other_log, other_place)) = before_it {
            compared |= other_log != log;
            if other.chain != mark.chain && last_slot != Some(mark.slot) {
                last_slot = Some(mark.slot);
                findings.add(Violation {
                    rule: Rule::EqualChains,
                    slots: before(mark.slot)..mark.slot,
                    what: "two chains at one slot".to_owned(),
                    witnesses: vec![
                        cluster.logs[*other_log].witness(*other_log, *other_place, format!("chain {}", other.chain)),
                        told(format!("chain {}", mark.chain)),
                    ],
                });
            }
        }
        let counter = if compared { &mut findings.coverage.marks } else { &mut findings.coverage.marks_alone };
        *counter += 1;
    }
}

/// The last slot of a prefix that ends at `end`.
fn before(end: Slot) -> Slot {
    Slot(end.0.saturating_sub(1))
}
