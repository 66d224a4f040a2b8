//! Where a field of a hand-laid structure lies. Offsets are built from the field before, so that they can't overlap.

use synod_frame::{ByteField, FieldForm};
use synod_protocol::{Ballot, Chain, Mark, NodeId, Slot};

/// One field: its place and its width in bytes.
#[derive(Clone, Copy)]
pub(super) struct Field {
    pub(super) offset: usize,
    pub(super) bytes: usize,
}

impl Field {
    pub(super) const fn first(bytes: usize) -> Field {
        Field { offset: 0, bytes }
    }

    /// The field right behind this one; aligned to its size, at most to eight, which is checked at compile time.
    pub(super) const fn then(self, bytes: usize) -> Field {
        let offset = self.end();
        let align = if bytes >= 8 { 8 } else { bytes };
        assert!(offset.is_multiple_of(align), "a field is aligned to its size");
        Field { offset, bytes }
    }

    pub(super) const fn end(self) -> usize {
        self.offset + self.bytes
    }

    pub(super) const fn named(self, name: &'static str, form: FieldForm) -> ByteField {
        ByteField { name, offset: self.offset, bytes: self.bytes, form }
    }

    /// # Panics
    /// If the structure is shorter than its fixed length or `N` isn't the field's width: both are bugs, for decoders
    /// look only at whole structures.
    pub(super) fn array<const N: usize>(self, structure: &[u8]) -> [u8; N] {
        structure[self.offset..self.end()].try_into().expect("the field has this width")
    }

    pub(super) fn u16(self, structure: &[u8]) -> u16 {
        u16::from_le_bytes(self.array(structure))
    }

    pub(super) fn u32(self, structure: &[u8]) -> u32 {
        u32::from_le_bytes(self.array(structure))
    }

    pub(super) fn u64(self, structure: &[u8]) -> u64 {
        u64::from_le_bytes(self.array(structure))
    }

    pub(super) fn u128(self, structure: &[u8]) -> u128 {
        u128::from_le_bytes(self.array(structure))
    }

    /// # Panics
    /// If the value isn't as wide as the field, which is a bug.
    pub(super) fn put(self, structure: &mut [u8], value: &[u8]) {
        structure[self.offset..self.end()].copy_from_slice(value);
    }
}

/// A ballot: round, boot, node, and four bytes of zeros.
#[derive(Clone, Copy)]
pub(super) struct BallotField {
    pub(super) round: Field,
    pub(super) boot: Field,
    pub(super) node: Field,
    pub(super) reserved: Field,
}

impl BallotField {
    pub(super) const fn after(before: Field) -> BallotField {
        let round = before.then(8);
        let boot = round.then(8);
        let node = boot.then(4);
        BallotField { round, boot, node, reserved: node.then(4) }
    }

    pub(super) const fn last(self) -> Field {
        self.reserved
    }

    pub(super) fn read(self, structure: &[u8]) -> Ballot {
        Ballot {
            round: self.round.u64(structure),
            node: NodeId(self.node.u32(structure)),
            boot: self.boot.u64(structure),
        }
    }

    pub(super) fn put(self, structure: &mut [u8], ballot: Ballot) {
        self.round.put(structure, &ballot.round.to_le_bytes());
        self.boot.put(structure, &ballot.boot.to_le_bytes());
        self.node.put(structure, &ballot.node.0.to_le_bytes());
    }
}

/// A mark: slot and chain.
#[derive(Clone, Copy)]
pub(super) struct MarkField {
    pub(super) slot: Field,
    pub(super) chain: Field,
}

impl MarkField {
    pub(super) const fn after(before: Field) -> MarkField {
        let slot = before.then(8);
        MarkField { slot, chain: slot.then(16) }
    }

    pub(super) const fn last(self) -> Field {
        self.chain
    }

    pub(super) fn read(self, structure: &[u8]) -> Mark {
        Mark { slot: Slot(self.slot.u64(structure)), chain: Chain(self.chain.u128(structure)) }
    }

    pub(super) fn put(self, structure: &mut [u8], mark: Mark) {
        self.slot.put(structure, &mark.slot.0.to_le_bytes());
        self.chain.put(structure, &mark.chain.0.to_le_bytes());
    }
}

/// Offset of the first byte that isn't zero.
pub(crate) fn first_nonzero(bytes: &[u8]) -> Option<usize> {
    // Old blocks and padding are long and almost always zero: compare by the word, look closer only where one differs.
    let (words, tail) = bytes.as_chunks::<8>();
    let from = words.iter().position(|word| *word != [0; 8]).unwrap_or(words.len()) * 8;
    debug_assert!(from + tail.len() <= bytes.len());
    bytes[from..].iter().position(|byte| *byte != 0).map(|index| from + index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_nonzero_finds_every_byte() {
        for length in 0..40 {
            let mut bytes = vec![0u8; length];
            assert_eq!(first_nonzero(&bytes), None);
            for index in (0..length).rev() {
                bytes[index] = 1;
                assert_eq!(first_nonzero(&bytes), Some(index));
            }
        }
    }
}
