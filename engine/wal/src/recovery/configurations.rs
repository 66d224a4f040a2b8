//! The configurations that a log holds: the one in the headers, and those behind it whose bodies are in the log. The index
//! has all of them in memory, also those that are chosen.

use synod_frame::{BodyHeader, ConfigurationBody, ConfigurationBodyError, RECORD_HEADER_BYTES, verify_body_in_record};
use synod_protocol::{BodyId, Configuration, Configurations, Doubt, Slot};

use super::RecoveredLog;
use crate::format::{CONFIGURATION_BYTES_MAX, StoredConfiguration};
use crate::index::IndexEntry;
use crate::segment::record_bytes;
use crate::store::SegmentStore;

/// Reads the configurations of a log that was put together. What can't be read was lost: a chosen one has to be fetched
/// before anything behind it counts, and an accepted one is in doubt.
pub(super) fn read_all(store: &dyn SegmentStore, log: &mut RecoveredLog) {
    let entries = log.index.iter_from(Slot(0)).filter(|entry| entry.body.kind.is_configuration());
    for entry in entries.copied().collect::<Vec<_>>() {
        match read(store, &entry) {
            Some(stored) => log.configurations.push(stored),
            None if entry.chosen.is_some() => {
                log.configuration_lost.get_or_insert(entry.body.first);
            }
            None => {
                log.index.remove(entry.body.first);
                let bound = if entry.ballot.is_zero() { log.promised } else { entry.ballot };
                log.doubts.push(Doubt { first: entry.body.first, end: entry.body.end(), bound });
                log.pinned = Some(log.pinned.map_or(log.first_needed, |pinned| pinned.min(log.first_needed)));
            }
        }
    }
}

fn read(store: &dyn SegmentStore, entry: &IndexEntry) -> Option<StoredConfiguration> {
    let blocks = entry.location.blocks(&entry.body);
    let mut record = vec![0; blocks.bytes as usize];
    store.read_at(entry.location.file, blocks.offset, &mut record).ok()?;
    if entry.location.is_packed() {
        let mut alone = vec![0; record_bytes(entry.body.bytes) as usize];
        entry.location.unpack(&entry.body, &record, &mut alone);
        record = alone;
    }
    let header = verify_body_in_record(&record).ok().filter(|header| header.handle().id == entry.body.id)?;
    let body = record.get(RECORD_HEADER_BYTES..)?.get(..entry.body.bytes as usize)?;
    ConfigurationBody::decode(&header, body).ok()?;
    (body.len() <= CONFIGURATION_BYTES_MAX).then(|| StoredConfiguration { slot: entry.body.first, body: body.to_vec() })
}

/// What a stored configuration says: the identity of its body, what it succeeds, and itself.
///
/// # Errors
/// If its body isn't one of a configuration that may rule.
pub(crate) fn decode(
    stored: &StoredConfiguration,
) -> Result<(BodyId, ConfigurationBody, Configuration), ConfigurationBodyError> {
    let header = BodyHeader::parse(&stored.body).map_err(|_| ConfigurationBodyError::Archive)?;
    let body = ConfigurationBody::decode(&header, &stored.body)?;
    let configuration = body.to_configuration(stored.slot)?;
    Ok((header.handle().id, body, configuration))
}

impl RecoveredLog {
    /// Which configuration rules which slot, as far as the chosen prefix tells. `genesis` is the first one, should the
    /// log's headers not hold any.
    ///
    /// # Errors
    /// If what the headers hold isn't a configuration that may rule: another build wrote it.
    pub fn configurations(&self, genesis: &Configuration) -> Result<Configurations, ConfigurationBodyError> {
        let oldest = match &self.configuration {
            Some(stored) => decode(stored)?.2,
            None => genesis.clone(),
        };
        let (mark, base) = (self.protocol_mark().slot, self.index.base().slot);
        let mut chosen = Vec::new();
        for stored in self.configurations.iter().filter(|stored| stored.slot < mark) {
            let (_, body, configuration) = decode(stored)?;
            chosen.push((body.after, configuration));
        }
        let mut configurations = Configurations::new(oldest);
        if let Some(first) = succeeds_trimmed(&chosen, configurations.newest().chosen_at, base) {
            configurations = Configurations::new(chosen.drain(..=first).next_back().expect("it is one of them").1);
        }
        for (after, configuration) in chosen {
            configurations.choose(after, configuration);
        }
        // What is trimmed was proved by a quorum.
        configurations.retire_before(self.index.trims_upto(mark).unwrap_or(base).max(base).min(mark));
        Ok(configurations)
    }

    /// What those of the accepted bodies hold that are configurations.
    pub(super) fn open_configurations(&self) -> Vec<(BodyId, Configuration)> {
        let mark = self.protocol_mark().slot;
        let open = self.configurations.iter().filter(|stored| stored.slot >= mark);
        open.filter_map(|stored| decode(stored).ok().map(|(id, _, configuration)| (id, configuration))).collect()
    }
}

/// Which of `chosen` (what each succeeds, ascending by slot) is the first one that rules, if the one that it succeeds is
/// trimmed below `base`, and so has retired, and headers hold none newer than `newest`.
///
/// All that name something trimmed were proposed when that ruled or before: the newest that any of them names is the last
/// one that ruled, the first to succeed it came next, and whatever names another is void.
fn succeeds_trimmed(chosen: &[(Slot, Configuration)], newest: Slot, base: Slot) -> Option<usize> {
    let trimmed = chosen.iter().map(|(after, _)| *after).filter(|after| newest < *after && *after < base).max()?;
    chosen.iter().position(|(after, _)| *after == trimmed)
}

#[cfg(test)]
mod tests {
    use synod_protocol::NodeId;

    use super::*;

    fn chosen(at: &[(u64, u64)]) -> Vec<(Slot, Configuration)> {
        let configuration =
            |slot| Configuration { chosen_at: Slot(slot), ..Configuration::genesis(vec![NodeId(1)], 16).unwrap() };
        at.iter().map(|(slot, after)| (Slot(*after), configuration(*slot))).collect()
    }

    #[test]
    fn nothing_trimmed_is_succeeded_while_the_headers_hold_what_is() {
        assert_eq!(succeeds_trimmed(&chosen(&[]), Slot(0), Slot(10)), None);
        assert_eq!(succeeds_trimmed(&chosen(&[(17, 0), (106, 17)]), Slot(0), Slot(10)), None);
        assert_eq!(succeeds_trimmed(&chosen(&[(313, 106)]), Slot(312), Slot(313)), None, "a void one");
    }

    #[test]
    fn the_first_that_succeeds_what_is_trimmed_rules() {
        assert_eq!(succeeds_trimmed(&chosen(&[(312, 106), (350, 312)]), Slot(0), Slot(312)), Some(0));
    }

    #[test]
    fn a_void_one_before_it_or_behind_it_rules_nothing() {
        assert_eq!(succeeds_trimmed(&chosen(&[(313, 106), (350, 312)]), Slot(0), Slot(313)), Some(1));
        assert_eq!(succeeds_trimmed(&chosen(&[(350, 312), (351, 312), (352, 106)]), Slot(0), Slot(313)), Some(0));
    }
}
