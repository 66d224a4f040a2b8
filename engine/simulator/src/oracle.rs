//! What clients asked for and were told, and what was chosen according to whoever said so first.

use std::collections::BTreeMap;

use synod_protocol::{BodyHandle, BodyId, Instant, Mark, Slot};

use crate::random::split_mix;

/// The number of a command; no two commands of a run have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CommandId(pub u64);

/// Fewest bytes of a command: its number.
pub const COMMAND_BYTES_MIN: usize = 8;

/// What is known of a command.
#[derive(Clone, Copy, Debug)]
pub struct CommandState {
    /// Its length.
    pub bytes: usize,
    /// When its client sent it.
    pub submitted: Instant,
    /// The highest slot that any client had been told before that.
    pub acked_before: Slot,
    /// Where it was delivered first.
    pub delivered: Option<Slot>,
    /// Where its client was told that it is.
    pub acked: Option<Slot>,
    /// Whether its client was told that it will never be anywhere. If it was told nothing at all, its fate is unknown.
    pub refused: bool,
}

/// A body that was delivered by somebody.
#[derive(Clone, Debug)]
pub struct ChosenBody {
    /// The body.
    pub body: BodyHandle,
    /// The mark after it.
    pub mark: Mark,
    /// Its bytes, once they were seen.
    pub bytes: Option<Vec<u8>>,
    /// The node that delivered it first.
    pub node: usize,
}

/// See the module documentation.
#[derive(Debug)]
pub struct Oracle {
    seed: u64,
    commands: Vec<CommandState>,
    chosen: BTreeMap<Slot, ChosenBody>,
    /// Every body that anybody ever wrote.
    bodies: BTreeMap<BodyId, BodyHandle>,
    /// The first body that anybody wrote at a slot.
    written: BTreeMap<Slot, BodyId>,
    acked_highest: Slot,
    trimmed: Slot,
}

impl Oracle {
    /// Nothing has happened.
    pub fn new(seed: u64) -> Oracle {
        Oracle {
            seed,
            commands: Vec::new(),
            chosen: BTreeMap::new(),
            bodies: BTreeMap::new(),
            written: BTreeMap::new(),
            acked_highest: Slot(0),
            trimmed: Slot::FIRST,
        }
    }

    /// A client makes a command.
    pub fn submit(&mut self, now: Instant, bytes: usize) -> CommandId {
        let id = CommandId(self.commands.len() as u64);
        self.commands.push(CommandState {
            bytes: bytes.max(COMMAND_BYTES_MIN),
            submitted: now,
            acked_before: self.acked_highest,
            delivered: None,
            acked: None,
            refused: false,
        });
        id
    }

    /// The bytes of a command, which follow from its number and length.
    ///
    /// # Panics
    /// If there is no such command.
    pub fn command_bytes(&self, id: CommandId) -> Vec<u8> {
        let bytes = self.commands[id.0 as usize].bytes;
        let mut command = Vec::with_capacity(bytes + 8);
        command.extend(id.0.to_le_bytes());
        let mut state = self.seed ^ split_mix(id.0);
        while command.len() < bytes {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            command.extend(split_mix(state).to_le_bytes());
        }
        command.truncate(bytes);
        command
    }

    /// The command with these bytes, if a client made it.
    pub fn find_command(&self, command: &[u8]) -> Option<CommandId> {
        let number = command.get(..COMMAND_BYTES_MIN)?.try_into().expect("eight bytes");
        let id = CommandId(u64::from_le_bytes(number));
        let made = self.command(id).is_some_and(|state| state.bytes == command.len());
        (made && self.command_bytes(id) == command).then_some(id)
    }

    /// What is known of a command.
    pub fn command(&self, id: CommandId) -> Option<&CommandState> {
        self.commands.get(usize::try_from(id.0).ok()?)
    }

    /// How many commands clients have made.
    pub fn commands_count(&self) -> u64 {
        self.commands.len() as u64
    }

    /// All commands.
    pub fn commands(&self) -> impl Iterator<Item = (CommandId, &CommandState)> {
        self.commands.iter().enumerate().map(|(index, state)| (CommandId(index as u64), state))
    }

    /// Notes where a command was delivered; returns where it had been before.
    pub fn delivered(&mut self, id: CommandId, slot: Slot) -> Option<Slot> {
        self.commands[id.0 as usize].delivered.replace(slot)
    }

    /// A client is told that its command is at `slot`.
    pub fn ack(&mut self, id: CommandId, slot: Slot) {
        self.commands[id.0 as usize].acked = Some(slot);
        self.acked_highest = self.acked_highest.max(slot);
    }

    /// A client is told that its command was not taken.
    pub fn refuse(&mut self, id: CommandId) {
        self.commands[id.0 as usize].refused = true;
    }

    /// Notes a body that somebody wrote. Whether it is a rival: another one that begins at its slot was written before.
    pub fn note_body(&mut self, body: BodyHandle) -> bool {
        let is_new = self.bodies.insert(body.id, body).is_none();
        is_new && *self.written.entry(body.first).or_insert(body.id) != body.id
    }

    /// The body with this identity, if anybody ever wrote it.
    pub fn body(&self, id: BodyId) -> Option<BodyHandle> {
        self.bodies.get(&id).copied()
    }

    /// Notes that a node delivered a body, unless another did before.
    pub fn note_chosen(&mut self, node: usize, body: BodyHandle, mark: Mark) {
        self.chosen.entry(body.first).or_insert(ChosenBody { body, mark, bytes: None, node });
    }

    /// Keeps the bytes of a chosen body that were seen first.
    pub fn note_bytes(&mut self, first: Slot, bytes: &[u8]) {
        if let Some(chosen) = self.chosen.get_mut(&first) {
            chosen.bytes.get_or_insert_with(|| bytes.to_vec());
        }
    }

    /// The chosen body that begins at `first`.
    pub fn chosen_at(&self, first: Slot) -> Option<&ChosenBody> {
        self.chosen.get(&first)
    }

    /// The chosen body that fills `slot`.
    pub fn chosen_containing(&self, slot: Slot) -> Option<&ChosenBody> {
        let (_, chosen) = self.chosen.range(..=slot).next_back()?;
        (slot < chosen.body.end()).then_some(chosen)
    }

    /// The chosen bodies that share a slot with `body`.
    pub fn chosen_overlapping(&self, body: &BodyHandle) -> impl Iterator<Item = &ChosenBody> {
        let (start, end) =
            (self.chosen_containing(body.first).map_or(body.first, |chosen| chosen.body.first), body.end());
        self.chosen.range(start..end).map(|(_, chosen)| chosen)
    }

    /// The chosen bodies from `slot` on.
    pub fn chosen_from(&self, slot: Slot) -> impl Iterator<Item = &ChosenBody> {
        self.chosen.range(slot..).map(|(_, chosen)| chosen)
    }

    /// Where the chosen bodies end.
    pub fn chosen_end(&self) -> Slot {
        self.chosen.last_key_value().map_or(Slot::FIRST, |(_, chosen)| chosen.body.end())
    }

    /// Notes that a trim up to `upto` was delivered.
    pub fn note_trimmed(&mut self, upto: Slot) {
        self.trimmed = self.trimmed.max(upto);
    }

    /// Everything below was agreed to be dropped.
    pub fn trimmed(&self) -> Slot {
        self.trimmed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_known_by_its_bytes() {
        let mut oracle = Oracle::new(3);
        let ids = [8, 100, 9].map(|bytes| oracle.submit(Instant(0), bytes));
        for id in ids {
            let mut bytes = oracle.command_bytes(id);
            assert_eq!(oracle.find_command(&bytes), Some(id));
            *bytes.last_mut().unwrap() ^= 1;
            assert_eq!(oracle.find_command(&bytes), None);
            bytes.pop();
            assert_eq!(oracle.find_command(&bytes), None);
        }
    }
}
