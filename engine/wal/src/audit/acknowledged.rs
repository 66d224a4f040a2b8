//! What clients were told, held against what is chosen.

use synod_frame::{CommandsView, RECORD_HEADER_BYTES};
use synod_protocol::{BodyKind, Slot};

use super::chains::Chosen;
use super::report::{Findings, Rule, Violation};
use super::{AuditLog, Cluster};

/// A command that a client was told is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Acknowledged {
    /// Where.
    pub slot: Slot,
    /// Its length.
    pub bytes: u32,
    /// CRC-32 of its bytes (IEEE 802.3, as zip and gzip have it).
    pub crc32: u32,
}

impl Acknowledged {
    /// The acknowledgement of these bytes at this slot.
    ///
    /// # Panics
    /// If the command is longer than 4 GiB; none is.
    pub fn new(slot: Slot, command: &[u8]) -> Acknowledged {
        let bytes = u32::try_from(command.len()).expect("commands fit into bodies");
        Acknowledged { slot, bytes, crc32: crc32fast::hash(command) }
    }
}

/// Looks up every acknowledged command.
pub(super) fn check(
    cluster: &Cluster<'_, '_>,
    chosen: &[Chosen],
    acknowledged: &[Acknowledged],
    findings: &mut Findings,
) {
    let mut sorted = acknowledged.to_vec();
    sorted.sort_unstable();
    // The same answer may have reached a client twice.
    sorted.dedup();
    for pair in sorted.windows(2).filter(|pair| pair[0].slot == pair[1].slot) {
        findings.add(Violation {
            rule: Rule::AcknowledgedIsChosen,
            slots: slots(pair[0].slot),
            what: format!(
                "two different commands are acknowledged there, of {} and {} bytes",
                pair[0].bytes, pair[1].bytes
            ),
            witnesses: Vec::new(),
        });
    }
    let mut rest = sorted.as_slice();
    while let Some(first) = rest.first() {
        let place = chosen.partition_point(|chosen| chosen.body.end() <= first.slot);
        match chosen.get(place).filter(|chosen| chosen.body.first <= first.slot) {
            Some(found) => {
                let count = rest.partition_point(|acknowledged| acknowledged.slot < found.body.end());
                let (inside, behind) = rest.split_at(count);
                compare(cluster, found, inside, findings);
                rest = behind;
            }
            None => {
                miss(cluster, first, findings);
                rest = &rest[1..];
            }
        }
    }
}

fn slots(slot: Slot) -> synod_protocol::SlotRange {
    slot..slot.checked_add(1).unwrap_or(slot)
}

/// Nothing is known to be chosen at the slot.
fn miss(cluster: &Cluster<'_, '_>, acknowledged: &Acknowledged, findings: &mut Findings) {
    let slot = acknowledged.slot;
    let trimmed = cluster.logs.iter().any(|log| slot < log.base.slot);
    let unseen = cluster.configuration_at(slot).is_none_or(|configuration| {
        let silent = |node| cluster.log_of(configuration, node).is_none_or(|log| log.is_silent_about(slot).is_some());
        configuration.members.iter().copied().any(silent)
    });
    if trimmed {
        findings.coverage.acknowledged_trimmed += 1;
    } else if unseen {
        findings.coverage.acknowledged_unseen += 1;
    } else {
        findings.add(Violation {
            rule: Rule::AcknowledgedIsChosen,
            slots: slots(slot),
            what: format!("a command of {} bytes is acknowledged there, but nothing is chosen", acknowledged.bytes),
            witnesses: Vec::new(),
        });
    }
}

/// Compares commands with the body that is chosen for their slots.
fn compare(cluster: &Cluster<'_, '_>, chosen: &Chosen, acknowledged: &[Acknowledged], findings: &mut Findings) {
    let log = &cluster.logs[chosen.log as usize];
    for (acknowledged, found) in acknowledged.iter().zip(commands(log, chosen, acknowledged)) {
        let wrong = match found {
            Ok((bytes, crc32)) if (bytes, crc32) == (acknowledged.bytes, acknowledged.crc32) => {
                findings.coverage.acknowledged_found += 1;
                continue;
            }
            Ok((bytes, crc32)) => format!("a command of {bytes} bytes with CRC-32 {crc32:08x}"),
            Err(what) => what,
        };
        findings.add(Violation {
            rule: Rule::AcknowledgedIsChosen,
            slots: slots(acknowledged.slot),
            what: format!(
                "a command of {} bytes with CRC-32 {:08x} is acknowledged there",
                acknowledged.bytes, acknowledged.crc32
            ),
            witnesses: vec![cluster.witness(chosen.log, chosen.place, format!("the chosen body has {wrong}"))],
        });
    }
}

/// Length and checksum of the command at each acknowledged slot, or what is there instead.
fn commands(log: &AuditLog<'_>, chosen: &Chosen, acknowledged: &[Acknowledged]) -> Vec<Result<(u32, u32), String>> {
    let all = |what: &str| vec![Err(what.to_owned()); acknowledged.len()];
    if chosen.body.kind != BodyKind::Commands {
        return all("no commands");
    }
    let (record, header) = match log.read_body(&chosen.body, chosen.place) {
        Ok(Some(found)) => found,
        Ok(None) => return all("other bytes on disk than its record says"),
        Err(error) => return vec![Err(error.to_string()); acknowledged.len()],
    };
    let body = &record.as_ref()[RECORD_HEADER_BYTES..][..chosen.body.bytes as usize];
    let view = match CommandsView::new(&header, body) {
        Ok(view) => view,
        Err(error) => return vec![Err(error.to_string()); acknowledged.len()],
    };
    let found = |acknowledged: &Acknowledged| {
        let command = view.get(acknowledged.slot.since(chosen.body.first) as u32).map_err(|error| error.to_string())?;
        Ok((command.len() as u32, crc32fast::hash(command)))
    };
    acknowledged.iter().map(found).collect()
}
