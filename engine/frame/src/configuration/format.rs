//! The format that a configuration tells, in front of everything else, so that also a build that doesn't read it can say
//! which one is needed. The first format isn't told: there is nothing then.
//!
//! ```text
//! 0 magic "FORM" | 4 format u16, 2 or more | 6 reserved
//! ```

use synod_protocol::FORMAT_FIRST;

use crate::archive::ARCHIVE_ALIGN_BYTES;
use crate::layout::{Field, first_nonzero};

const MAGIC: &[u8; 4] = b"FORM";

const FORMAT: Field = Field::first(4).then(2);
const BYTES: usize = ARCHIVE_ALIGN_BYTES;

/// What stands in front.
pub(super) fn to_bytes(format: u16) -> Vec<u8> {
    if format == FORMAT_FIRST {
        return Vec::new();
    }
    let mut bytes = vec![0; BYTES];
    bytes[..MAGIC.len()].copy_from_slice(MAGIC);
    FORMAT.put(&mut bytes, &format.to_le_bytes());
    bytes
}

/// The format, and what follows; `None` if that is anything but what [`to_bytes`] writes.
pub(super) fn split(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let is_told =
        bytes.starts_with(MAGIC) && bytes.len() >= BYTES && first_nonzero(&bytes[FORMAT.end()..BYTES]).is_none();
    if !is_told {
        return Some((FORMAT_FIRST, bytes));
    }
    let format = FORMAT.u16(bytes);
    (format > FORMAT_FIRST).then(|| (format, &bytes[BYTES..]))
}
