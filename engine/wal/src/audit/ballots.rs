//! The rules about ballots: what was accepted where, and what follows from it.

use std::collections::BTreeSet;

use synod_protocol::{Ballot, BodyHandle, NodeId};

use super::Cluster;
use super::chains::Chosen;
use super::evidence::{Accept, Silence};
use super::report::{Findings, Place, Rule, Violation};

/// A body that a quorum accepted at one ballot: it is chosen, whoever knows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice {
    pub(super) body: BodyHandle,
    /// The lowest ballot at which it was chosen.
    pub(super) ballot: Ballot,
    /// One of those who accepted it.
    pub(super) log: u32,
    pub(super) place: Place,
}

/// An accept by number of its log and its own number in there: the accepts themselves stay where they are.
type Reference = (u32, u32);

fn references(cluster: &Cluster<'_, '_>) -> Vec<Reference> {
    let logs = cluster.logs.iter().enumerate();
    logs.flat_map(|(log, held)| (0..held.accepts.len()).map(move |accept| (log as u32, accept as u32))).collect()
}

fn accept<'a>(cluster: &'a Cluster<'_, '_>, (log, accept): Reference) -> &'a Accept {
    &cluster.logs[log as usize].accepts[accept as usize]
}

fn told(accept: &Accept) -> String {
    let body = &accept.body;
    format!("accepted body {} at slots {}..{} at ballot {}", body.id, body.first, body.end(), accept.ballot)
}

/// One ballot, one body: a leader that proposes two for one slot, or two processes with one ballot.
pub(super) fn check_one_body_a_ballot(cluster: &Cluster<'_, '_>, findings: &mut Findings) {
    let mut order = references(cluster);
    order.sort_unstable_by_key(|reference| {
        let accept = accept(cluster, *reference);
        (accept.ballot, accept.body.first, accept.body.end(), accept.body.id)
    });
    let mut furthest: Option<Reference> = None;
    for reference in order {
        let found = accept(cluster, reference);
        let Some(before) = furthest.map(|reference| accept(cluster, reference)) else {
            furthest = Some(reference);
            continue;
        };
        if before.ballot != found.ballot || before.body.end() <= found.body.first {
            furthest = Some(reference);
            continue;
        }
        if before.body != found.body {
            let first = furthest.expect("there is one before");
            findings.add(Violation {
                rule: Rule::OneBodyPerBallot,
                slots: before.body.first.max(found.body.first)..before.body.end().min(found.body.end()),
                what: format!("ballot {} has two bodies", found.ballot),
                witnesses: [(first, before), (reference, found)]
                    .map(|((log, _), accept)| cluster.witness(log, accept.place, told(accept)))
                    .into(),
            });
        }
        if found.body.end() > before.body.end() {
            furthest = Some(reference);
        }
    }
}

/// Every body that a quorum accepted at one ballot, by slot.
pub(super) fn choices(cluster: &Cluster<'_, '_>) -> Vec<Choice> {
    let order = by_body(cluster);
    let same_body = |one: &Reference, other: &Reference| accept(cluster, *one).body == accept(cluster, *other).body;
    let mut choices = Vec::new();
    for accepts in order.chunk_by(same_body) {
        let first = accept(cluster, accepts[0]);
        let Some(configuration) = cluster.configuration_at(first.body.first) else { continue };
        let same_ballot =
            |one: &Reference, other: &Reference| accept(cluster, *one).ballot == accept(cluster, *other).ballot;
        let quorum = accepts.chunk_by(same_ballot).find(|accepts| {
            let voters: Vec<NodeId> = voters(cluster, accepts).into_iter().collect();
            configuration.is_accept_quorum(&voters)
        });
        if let Some(quorum) = quorum {
            let found = accept(cluster, quorum[0]);
            choices.push(Choice { body: found.body, ballot: found.ballot, log: quorum[0].0, place: found.place });
        }
    }
    choices
}

fn by_body(cluster: &Cluster<'_, '_>) -> Vec<Reference> {
    let mut order = references(cluster);
    order.sort_unstable_by_key(|reference| {
        let accept = accept(cluster, *reference);
        (accept.body, accept.ballot, *reference)
    });
    order
}

/// Those who accepted, if the configuration that rules the slot means their stores.
fn voters(cluster: &Cluster<'_, '_>, accepts: &[Reference]) -> BTreeSet<NodeId> {
    let votes = |reference: &&Reference| {
        let log = &cluster.logs[reference.0 as usize];
        let ruling = cluster.configuration_at(accept(cluster, **reference).body.first);
        ruling.is_none_or(|ruling| {
            cluster.log_of(ruling, log.node()).is_none_or(|named| named.incarnation() == log.incarnation())
        })
    };
    accepts.iter().filter(votes).map(|(log, _)| cluster.logs[*log as usize].node()).collect()
}

/// What was chosen at a ballot is what every higher ballot proposes (*Paxos Made Simple* §2.2, P2).
pub(super) fn check_adoption(cluster: &Cluster<'_, '_>, choices: &[Choice], findings: &mut Findings) {
    // Two chosen bodies of one slot are another rule's concern; here the ends must grow, to be searched.
    let mut ends = Vec::with_capacity(choices.len());
    for choice in choices {
        ends.push(choice.body.end().max(ends.last().copied().unwrap_or_default()));
    }
    for (log, held) in cluster.logs.iter().enumerate() {
        for accept in &held.accepts {
            let from = ends.partition_point(|end| *end <= accept.body.first);
            let overlapping = choices[from..].iter().take_while(|choice| choice.body.first < accept.body.end());
            let against = |choice: &&Choice| {
                accept.ballot > choice.ballot && accept.body.overlaps(&choice.body) && accept.body != choice.body
            };
            for choice in overlapping.filter(against) {
                let what = format!(
                    "ballot {} proposes another body than the one that was chosen at {}",
                    accept.ballot, choice.ballot
                );
                let chosen = format!("body {} is chosen at ballot {}", choice.body.id, choice.ballot);
                findings.add(Violation {
                    rule: Rule::ChosenIsAdopted,
                    slots: choice.body.first.max(accept.body.first)..choice.body.end().min(accept.body.end()),
                    what,
                    witnesses: vec![
                        cluster.witness(choice.log, choice.place, chosen),
                        cluster.witness(log as u32, accept.place, told(accept)),
                    ],
                });
            }
        }
    }
}

/// What logs say is chosen must have been accepted by a quorum, wherever that can be seen.
pub(super) fn check_quorums<'a>(
    cluster: &Cluster<'_, '_>,
    choices: &[Choice],
    chosen: impl Iterator<Item = &'a Chosen>,
    findings: &mut Findings,
) {
    let order = by_body(cluster);
    for chosen in chosen.filter(|chosen| chosen.said) {
        findings.coverage.bodies_chosen += 1;
        if choices.binary_search_by_key(&chosen.body, |choice| choice.body).is_ok() {
            findings.coverage.quorums_found += 1;
            continue;
        }
        let Some(configuration) = cluster.configuration_at(chosen.body.first) else {
            findings.coverage.quorums_without_configuration += 1;
            continue;
        };
        let silent = |node: &NodeId| match cluster.log_of(configuration, *node) {
            None => Some((*node, None)),
            Some(log) => log.is_silent_about(chosen.body.first).map(|silence| (*node, Some(silence))),
        };
        let silences: Vec<(NodeId, Option<Silence>)> = configuration.members.iter().filter_map(silent).collect();
        let from = order.partition_point(|reference| accept(cluster, *reference).body < chosen.body);
        let accepts: Vec<Reference> =
            order[from..].iter().copied().take_while(|found| accept(cluster, *found).body == chosen.body).collect();
        let same_ballot =
            |one: &Reference, other: &Reference| accept(cluster, *one).ballot == accept(cluster, *other).ballot;
        // Beside the ballots that are seen there may have been one at which only the silent ones accepted.
        let seen = accepts.chunk_by(same_ballot).map(|accepts| voters(cluster, accepts));
        let possible = seen.chain([BTreeSet::new()]).any(|mut voters| {
            voters.extend(silences.iter().map(|(node, _)| *node));
            configuration.is_accept_quorum(&voters.into_iter().collect::<Vec<_>>())
        });
        if !possible {
            let what = format!(
                "it is said to be chosen, but at no ballot did {} of {} members accept it",
                configuration.accept_quorum,
                configuration.members.len()
            );
            let mut witnesses = vec![cluster.witness(chosen.log, chosen.place, format!("body {}", chosen.body.id))];
            witnesses.extend(accepts.iter().map(|reference| {
                let accept = accept(cluster, *reference);
                cluster.witness(reference.0, accept.place, told(accept))
            }));
            findings.add(Violation { rule: Rule::ChosenByQuorum, slots: chosen.body.slots(), what, witnesses });
        } else if silences.iter().any(|(_, silence)| silence.is_none()) {
            findings.coverage.quorums_without_log += 1;
        } else if silences.iter().any(|(_, silence)| *silence == Some(Silence::Trimmed)) {
            findings.coverage.quorums_trimmed += 1;
        } else if silences.iter().any(|(_, silence)| *silence == Some(Silence::Rewritten)) {
            findings.coverage.quorums_rewritten += 1;
        } else {
            findings.coverage.quorums_growing += 1;
        }
    }
}
