//! The Paxos invariants, checked over the logs of a whole cluster as they lie on disk.
//!
//! An [`AuditLog`] is what one replica's log gives in evidence: every accept, every promise in record order, every
//! mark, every body that it says is chosen. [`audit`] holds the logs against each other. It trusts none of them: that a
//! body is chosen is worked out again from the accepts (a quorum at one ballot, *Paxos Made Simple* §2.2), and compared
//! with what the logs say of themselves.
//!
//! **What can't be seen isn't a violation.** An accept in a trimmed segment, in a log that wasn't given, or in a record
//! that compaction or healing wrote anew proves nothing either way; nor does what a running node hadn't accepted when its
//! log was read, above the chosen prefix that it knew. Such cases are counted in [`Coverage`], so that a report says how
//! much it rests on.
//!
//! **Order of promises.** Records of promises, accepts and copies stand in the order in which the replica decided, so
//! their promises count. Marks, trims and headers written ahead may know of a promise whose own record stands behind
//! them: theirs counts only from the next start of the node on, when recovery has taken it up.

mod acknowledged;
mod ballots;
mod chains;
mod evidence;
mod report;

use std::collections::{BTreeMap, BTreeSet};

use synod_protocol::{Configuration, NodeId, Slot};
use thiserror::Error;

pub use acknowledged::Acknowledged;
pub use evidence::AuditLog;
pub use report::{Coverage, LogCoverage, Place, Report, Rule, VIOLATIONS_KEPT, Violation, Witness};

use evidence::KnownConfiguration;
use report::Findings;

/// Why logs can't be audited together.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum AuditError {
    /// Nothing to audit.
    #[error("no logs to audit")]
    Nothing,
    /// Two copies of one store. Two stores of a node, of which one replaced the other, belong together.
    #[error("{first} and {second} are the same store of node {node}; give one directory of it")]
    SameNode {
        /// The node.
        node: NodeId,
        /// A log's name.
        first: String,
        /// The other's.
        second: String,
    },
    /// Logs of two clusters, of two lineages of one cluster, or of two groups.
    #[error("{first} and {second} are of different clusters, lineages or groups")]
    OtherCluster {
        /// A log's name.
        first: String,
        /// The other's.
        second: String,
    },
}

/// Checks every rule over the logs of one cluster, and that what `acknowledged` names is chosen.
///
/// Give the logs of all members: with fewer, less can be shown. Memory grows with the number of records.
///
/// # Errors
/// If the logs don't belong together; what is wrong inside them is in the report.
pub fn audit(logs: &[AuditLog<'_>], acknowledged: &[Acknowledged]) -> Result<Report, AuditError> {
    check_belonging(logs)?;
    let mut findings = Findings::default();
    for (number, log) in logs.iter().enumerate() {
        let (violations, more) = log.own_violations(number);
        violations.for_each(|violation| findings.add(violation));
        findings.count_more(more);
    }
    let (configurations, void) = configurations(logs, &mut findings);
    let known = logs.iter().flat_map(|log| &log.configurations);
    let stores = known.flat_map(|known| {
        known.stores.iter().map(|store| ((known.configuration.chosen_at, store.node), store.incarnation))
    });
    let cluster = Cluster { logs, configurations, void, stores: stores.collect() };
    ballots::check_one_body_a_ballot(&cluster, &mut findings);
    let choices = ballots::choices(&cluster);
    findings.coverage.bodies_chosen_by_quorum = choices.len() as u64;
    ballots::check_adoption(&cluster, &choices, &mut findings);
    let (chosen, disputed) = chains::check_one_chosen_body(&cluster, &choices, &mut findings);
    chains::check_marks(&cluster, &mut findings);
    ballots::check_quorums(&cluster, &choices, chosen.iter().chain(&disputed), &mut findings);
    acknowledged::check(&cluster, &chosen, acknowledged, &mut findings);
    Ok(findings.into_report(logs.iter().map(AuditLog::coverage).collect()))
}

/// All that the rules look at.
struct Cluster<'a, 'store> {
    logs: &'a [AuditLog<'store>],
    /// Those that rule, by the slot at which they were chosen; genesis at zero.
    configurations: BTreeMap<Slot, Configuration>,
    /// Where configurations were chosen that are void.
    void: BTreeSet<Slot>,
    /// By the slots at which configurations were chosen: the stores that they name for their nodes.
    stores: BTreeMap<(Slot, NodeId), [u8; 16]>,
}

impl Cluster<'_, '_> {
    /// The configuration that rules `slot`, if it is known: one chosen at slot i rules from i + alpha on.
    fn configuration_at(&self, slot: Slot) -> Option<&Configuration> {
        let unknown = self.logs.iter().filter_map(|log| log.configuration_trimmed).any(|chosen_at| {
            let known = self.configurations.contains_key(&chosen_at) || self.void.contains(&chosen_at);
            // Its alpha is the cluster's, which never changes.
            let alpha = self.configurations.values().next().map_or(0, |configuration| configuration.alpha);
            !known && slot >= chosen_at.plus(u64::from(alpha))
        });
        let rules = |configuration: &&Configuration| {
            configuration.chosen_at == Slot(0)
                || configuration.chosen_at.checked_add(u64::from(configuration.alpha)).is_some_and(|from| from <= slot)
        };
        self.configurations.values().rev().find(rules).filter(|_| !unknown)
    }

    /// The log of the store that a configuration names for a node. Another store of the node says nothing about what it
    /// rules.
    fn log_of(&self, configuration: &Configuration, node: NodeId) -> Option<&AuditLog<'_>> {
        let named = self.stores.get(&(configuration.chosen_at, node));
        self.logs.iter().find(|log| log.node() == node && named.is_none_or(|named| *named == log.incarnation()))
    }

    fn witness(&self, log: u32, place: Place, detail: String) -> Witness {
        self.logs[log as usize].witness(log as usize, Some(place), detail)
    }
}

fn check_belonging(logs: &[AuditLog<'_>]) -> Result<(), AuditError> {
    let Some(first) = logs.first() else { return Err(AuditError::Nothing) };
    for (place, log) in logs.iter().enumerate() {
        let names = |other: &AuditLog<'_>| (other.name().to_owned(), log.name().to_owned());
        if !first.is_of_same_cluster(log) {
            let (first, second) = names(first);
            return Err(AuditError::OtherCluster { first, second });
        }
        let is_same_store =
            |other: &&AuditLog<'_>| other.node() == log.node() && other.incarnation() == log.incarnation();
        if let Some(twin) = logs[..place].iter().find(is_same_store) {
            let (first, second) = names(twin);
            return Err(AuditError::SameNode { node: log.node(), first, second });
        }
    }
    Ok(())
}

/// The configurations that any log holds: those that rule, and where those were chosen that are void, for another one came
/// between them and the one that they succeed. Two at one slot are two chosen bodies.
fn configurations(logs: &[AuditLog<'_>], findings: &mut Findings) -> (BTreeMap<Slot, Configuration>, BTreeSet<Slot>) {
    let mut known: BTreeMap<Slot, (usize, &KnownConfiguration)> = BTreeMap::new();
    let mut certain = BTreeSet::new();
    for (number, log) in logs.iter().enumerate() {
        for found in &log.configurations {
            let slot = found.configuration.chosen_at;
            certain.extend(found.is_certain.then_some(slot));
            let (holder, other) = *known.entry(slot).or_insert((number, found));
            if other.configuration != found.configuration {
                let told = |number: usize, known: &KnownConfiguration| {
                    logs[number].witness(number, None, format!("members {:?}", known.configuration.members))
                };
                findings.add(Violation {
                    rule: Rule::OneChosenBody,
                    slots: slot..slot.plus(1),
                    what: "two configurations are kept as chosen at one slot".to_owned(),
                    witnesses: vec![told(holder, other), told(number, found)],
                });
            }
        }
    }
    let (mut ruling, mut void) = (BTreeMap::<Slot, Configuration>::new(), BTreeSet::new());
    for (slot, (_, KnownConfiguration { after, configuration, .. })) in &known {
        // What it succeeds may be trimmed everywhere; then nothing but that lay between.
        let succeeds = ruling.last_key_value().is_none_or(|(newest, _)| after >= newest);
        if succeeds && !void.contains(after) || certain.contains(slot) {
            ruling.insert(*slot, configuration.clone());
        } else {
            void.insert(*slot);
        }
    }
    (ruling, void)
}
