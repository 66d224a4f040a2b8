//! One body by itself, wherever it lies.

use synod_frame::{BodyError, RECORD_HEADER_BYTES, RecordBuffer, verify_body_in_record};
use synod_protocol::BodyHandle;

use super::ReadError;
use crate::index::Location;
use crate::store::SegmentStore;

/// Reads one body that lies at `location`, into a record buffer of its own: room for a record header, the body, zeros up
/// to a whole block. Of a pack only the blocks are read that hold the body.
///
/// # Errors
/// If it can't be read; the inner result says what is wrong with it otherwise.
pub fn read_body(
    store: &dyn SegmentStore,
    location: &Location,
    body: &BodyHandle,
) -> Result<Result<RecordBuffer, BodyError>, ReadError> {
    let place = location.blocks(body);
    let mut blocks = RecordBuffer::zeroed(place.bytes as usize);
    let read = store.read_at(location.file, place.offset, blocks.as_mut());
    let bytes = place.bytes as usize;
    read.map_err(|source| ReadError { file: location.file, offset: place.offset, bytes, source })?;
    if location.is_packed() {
        let mut record = RecordBuffer::zeroed(RECORD_HEADER_BYTES + body.bytes as usize);
        location.unpack(body, blocks.as_ref(), record.as_mut());
        blocks = record;
    }
    Ok(match verify_body_in_record(blocks.as_ref()) {
        Ok(header) if header.handle() == *body => Ok(blocks),
        Ok(header) => Err(BodyError::Slots { kind: 0, first: header.first, count: header.count }),
        Err(error) => Err(error),
    })
}
