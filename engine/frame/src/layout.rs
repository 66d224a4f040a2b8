//! Sizes that every part of the format shares, and access to the fields of its hand-laid structures.
//!
//! Everything is little-endian. Magic numbers, kinds and versions are never zero, so that zeroed bytes are never valid.

/// Unit of disk alignment and of checksums.
pub const BLOCK_BYTES: usize = 4096;

/// Room in front of a body, in memory as on disk: the log lays its record header there.
pub const RECORD_HEADER_BYTES: usize = 256;

/// Fixed part of a body, in front of its block checksums.
pub const BODY_HEADER_BYTES: usize = 128;

/// Length of an envelope between replicas, and of one between a client and a node.
pub const ENVELOPE_BYTES: usize = 128;

/// Length of a hello and of its reply.
pub const HELLO_BYTES: usize = 256;

/// The first format: of bodies as long as no configuration says otherwise, and of everything else.
pub const FORMAT_VERSION: u16 = synod_protocol::FORMAT_FIRST;

/// A group: one replicated log among those that share a node's disks and sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u32);

impl std::fmt::Display for GroupId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "g{}", self.0)
    }
}

/// Rounds up to a whole number of blocks.
pub const fn align_to_block(bytes: usize) -> usize {
    bytes.next_multiple_of(BLOCK_BYTES)
}

/// The number that the four letters of a magic spell in a hex dump.
pub(crate) const fn magic(letters: &[u8; 4]) -> u32 {
    u32::from_le_bytes(*letters)
}

/// A field of a hand-laid structure as the byte map in `engine/docs/wal-format.md` names it, for programs that show
/// bytes to people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteField {
    /// Its name in the byte map.
    pub name: &'static str,
    /// Where it begins in its structure.
    pub offset: usize,
    /// Its width.
    pub bytes: usize,
    /// How its value is best read.
    pub form: FieldForm,
}

/// How the value of a field is best read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldForm {
    /// A magic number.
    Letters,
    /// A little-endian number that counts something.
    Number,
    /// A little-endian number of which nobody wants the decimal digits: a checksum, an identity, a position.
    Hex,
    /// Reserved: zeros.
    Zeros,
}

/// Where a field of a hand-laid structure lies. Offsets are built from the field before, so that they can't overlap.
#[derive(Clone, Copy)]
pub(crate) struct Field {
    pub(crate) offset: usize,
    pub(crate) bytes: usize,
}

impl Field {
    pub(crate) const fn first(bytes: usize) -> Field {
        Field { offset: 0, bytes }
    }

    /// The field right behind this one; naturally aligned up to eight bytes, checked at compile time in a `const`.
    pub(crate) const fn then(self, bytes: usize) -> Field {
        let offset = self.end();
        let align = if bytes > 8 || !bytes.is_power_of_two() { 4 } else { bytes };
        assert!(offset.is_multiple_of(align), "a field is aligned to its size");
        Field { offset, bytes }
    }

    pub(crate) const fn end(self) -> usize {
        self.offset + self.bytes
    }

    pub(crate) const fn named(self, name: &'static str, form: FieldForm) -> ByteField {
        ByteField { name, offset: self.offset, bytes: self.bytes, form }
    }

    pub(crate) fn of(self, structure: &[u8]) -> &[u8] {
        &structure[self.offset..self.end()]
    }

    /// # Panics
    /// If the structure is shorter than its fixed length or `N` isn't the field's length; both are bugs.
    pub(crate) fn array<const N: usize>(self, structure: &[u8]) -> [u8; N] {
        self.of(structure).try_into().expect("the field has this length")
    }

    pub(crate) fn u8(self, structure: &[u8]) -> u8 {
        u8::from_le_bytes(self.array(structure))
    }

    pub(crate) fn u16(self, structure: &[u8]) -> u16 {
        u16::from_le_bytes(self.array(structure))
    }

    pub(crate) fn u32(self, structure: &[u8]) -> u32 {
        u32::from_le_bytes(self.array(structure))
    }

    pub(crate) fn u64(self, structure: &[u8]) -> u64 {
        u64::from_le_bytes(self.array(structure))
    }

    pub(crate) fn u128(self, structure: &[u8]) -> u128 {
        u128::from_le_bytes(self.array(structure))
    }

    /// # Panics
    /// If the value isn't as long as the field, which is a bug.
    pub(crate) fn put(self, structure: &mut [u8], value: &[u8]) {
        structure[self.offset..self.end()].copy_from_slice(value);
    }
}

/// Whether the fields cover a structure of this length, in order, without gap or overlap.
pub const fn tiles(fields: &[ByteField], bytes: usize) -> bool {
    let (mut at, mut index) = (0, 0);
    while index < fields.len() {
        if fields[index].offset != at {
            return false;
        }
        at += fields[index].bytes;
        index += 1;
    }
    at == bytes
}

/// Offset of the first byte that isn't zero.
pub(crate) fn first_nonzero(bytes: &[u8]) -> Option<usize> {
    // Padding is long and almost always zero: compare by the word, look by the byte only where a word differs.
    let words = bytes.chunks_exact(8);
    let tail = bytes.len() - words.remainder().len();
    let from = words.clone().position(|word| word != [0; 8]).map_or(tail, |index| index * 8);
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

    #[test]
    fn magic_reads_as_letters() {
        assert_eq!(magic(b"SYNB").to_le_bytes(), *b"SYNB");
    }
}
