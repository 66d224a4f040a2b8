//! Beginning the log anew, above everything that it holds.

use synod_frame::GroupId;
use synod_protocol::{Ballot, Mark, NodeId, Slot};

use super::{AppendError, Content, Planned, Wal};
use crate::format::{RecordKind, RecordMeta};

impl Wal {
    /// Plans a record that says that the log begins at `base` from now on: the chosen prefix reaches at least there, and what it
    /// lacks below is gone everywhere. `rules` is where the configuration was chosen that rules from there, whose record lies
    /// in front; none for genesis. `record` is one block.
    ///
    /// # Errors
    /// See [`AppendError`]; nothing is planned then.
    pub fn install(
        &mut self,
        (group, base): (GroupId, Mark),
        rules: Option<Slot>,
        record: &mut [u8],
        (promised, unsure): (Ballot, bool),
    ) -> Result<Planned, AppendError> {
        let meta = RecordMeta {
            kind: RecordKind::Trim,
            group,
            source: NodeId(0),
            ballot: Ballot::ZERO,
            promised,
            mark: base,
            log_time_us: self.log_time_us,
            unsure,
        };
        let rules = rules.filter(|slot| *slot > Slot(0));
        let trimmed = self.configuration_trimmed;
        self.configuration_trimmed = trimmed.max(rules);
        let planned = self.plan(&meta, Content::Nothing, record, Some(base));
        // Whatever lay below that was accepted here, and was a configuration, isn't one that a header must wait for.
        self.configuration_trimmed = if planned.is_ok() { rules } else { trimmed };
        planned
    }
}
