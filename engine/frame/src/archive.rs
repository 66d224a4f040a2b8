//! The rkyv archives inside bodies and payloads: which format they have, and how they are opened.
//!
//! Archives hold integers, byte columns and vectors of such, nothing else. They are opened with checked access only,
//! always after their checksum. A valid archive is not yet a valid value: offsets, counts and kinds in it are checked
//! where they are used.

use rkyv::Portable;
use rkyv::api::high::HighSerializer;
use rkyv::api::low::LowValidator;
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::{Error, Failure};
use rkyv::ser::allocator::ArenaHandle;
use rkyv::util::AlignedVec;
use rkyv::{Archived, Serialize};

/// No archive of the format needs a larger alignment; archives begin at multiples of this in every record.
pub(crate) const ARCHIVE_ALIGN_BYTES: usize = 16;

// rkyv's format hangs on cargo features, which any other crate of a build may turn: little_endian, aligned and
// pointer_width_32 are what version 1 is written in.
const _: () = {
    assert!(size_of::<Archived<usize>>() == 4, "rkyv must have pointer_width_32");
    assert!(align_of::<Archived<u64>>() == 8, "rkyv must be aligned");
    assert!(align_of::<Archived<u32>>() == 4, "rkyv must be aligned");
};
const _: fn(rkyv::rend::u64_le) -> Archived<u64> = |little_endian| little_endian;

/// Opens an archive that has its root at the end. `None` if the bytes aren't such an archive or aren't aligned.
pub(crate) fn access<T>(bytes: &[u8]) -> Option<&T>
where
    T: Portable + for<'a> CheckBytes<LowValidator<'a, Failure>>,
{
    rkyv::api::low::access::<T, Failure>(bytes).ok()
}

/// Whether an archive at this place can be opened.
pub(crate) fn is_aligned(bytes: &[u8]) -> bool {
    bytes.as_ptr().addr().is_multiple_of(ARCHIVE_ALIGN_BYTES)
}

/// Hands the bytes to `read` in an aligned place: where they are, or, as a payload from a socket may lie anywhere, in
/// a copy. The caller has bounded their length.
pub(crate) fn with_aligned<R>(bytes: &[u8], read: impl FnOnce(&[u8]) -> R) -> R {
    if is_aligned(bytes) {
        return read(bytes);
    }
    let mut copy = AlignedVec::<ARCHIVE_ALIGN_BYTES>::with_capacity(bytes.len());
    copy.extend_from_slice(bytes);
    read(&copy)
}

/// Serialises a small value.
pub(crate) fn to_vec(value: &impl for<'a> Serialize<HighSerializer<Vec<u8>, ArenaHandle<'a>, Error>>) -> Vec<u8> {
    to_vec_with_capacity(value, 0)
}

/// Serialises a value of known length.
pub(crate) fn to_vec_with_capacity(
    value: &impl for<'a> Serialize<HighSerializer<Vec<u8>, ArenaHandle<'a>, Error>>,
    capacity: usize,
) -> Vec<u8> {
    rkyv::api::high::to_bytes_in::<_, Error>(value, Vec::with_capacity(capacity))
        .expect("memory takes any archive of bounded length")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aligned(bytes: &[u8]) -> AlignedVec<ARCHIVE_ALIGN_BYTES> {
        let mut aligned = AlignedVec::new();
        aligned.extend_from_slice(bytes);
        aligned
    }

    #[test]
    fn an_archive_shorter_than_its_root_is_none() {
        let aligned = aligned(&[0; 16]);
        for length in 0..8 {
            assert!(access::<Archived<Vec<u8>>>(&aligned[..length]).is_none());
        }
        assert_eq!(access::<Archived<Vec<u8>>>(&aligned[..8]).map(rkyv::vec::ArchivedVec::len), Some(0));
    }

    #[test]
    fn bytes_anywhere_are_handed_on_aligned() {
        let aligned = aligned(&[7; 64]);
        for start in 0..16 {
            with_aligned(&aligned[start..], |bytes| {
                assert!(is_aligned(bytes));
                assert_eq!(bytes, &aligned[start..]);
            });
        }
    }
}
