//! What lies at a place of a file, whether or not it is a record: for looking at damage.

use anyhow::{Context, Result};
use synod_frame::{BLOCK_BYTES, BodyLayout, RECORD_HEADER_BYTES, RecordBuffer, align_to_block};
use synod_wal::format::{Block, RECORD_FIELDS, RecordHeader};
use synod_wal::{FileId, Lsn, SegmentStore};

use super::{Head, Record, number};
use crate::exit::{Exit, failure};
use crate::output::Output;
use crate::source::Source;

/// A block of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    file: FileId,
    offset: u64,
}

impl Place {
    /// Reads a place as a dump shows it: `segment-000003.wal+0x5000`.
    pub(super) fn parse(text: &str) -> Result<Place, String> {
        let wrong = || "a place is a file and an offset, as in segment-000003.wal+0x5000".to_owned();
        let (file, offset) = text.split_once('+').ok_or_else(wrong)?;
        let file = FileId::from_file_name(file).ok_or_else(wrong)?;
        Ok(Place { file, offset: crate::dump::parse_position(offset).map_err(|_| wrong())? })
    }

    /// The place of a position.
    ///
    /// # Errors
    /// [`Exit::NothingThere`] if no file has the segment.
    pub(super) fn of_position(source: &Source, position: u64) -> Result<Place> {
        let segment_bytes = source.geometry.segment_bytes();
        let (epoch, offset) = (Lsn(position).epoch(segment_bytes), Lsn(position).offset(segment_bytes));
        let files = source.files()?;
        let found = files.iter().find(|file| file.header.as_ref().is_some_and(|header| header.epoch == epoch));
        let message =
            || failure(Exit::NothingThere, format!("no file holds position {position:#x}, in segment {epoch}"));
        Ok(Place { file: found.ok_or_else(message)?.id, offset })
    }

    /// Shows the block, or as much as it claims to be a record of.
    pub(super) fn show(self, source: &Source, output: &mut Output) -> Result<Exit> {
        let offset = self.offset - self.offset % BLOCK_BYTES as u64;
        let mut first: Block = [0; BLOCK_BYTES];
        self.read(source, offset, &mut first)?;
        let left = source.store.len(self.file)?.saturating_sub(offset) as usize;
        let needed = claimed_bytes(&first, left);
        let (is_record, bytes) = (needed.is_some(), needed.unwrap_or(BLOCK_BYTES));
        let mut buffer = RecordBuffer::zeroed(bytes);
        self.read(source, offset, &mut buffer.as_mut()[..bytes])?;

        let mut record = Record { bytes: &buffer.as_ref()[..bytes], offset, lines: Vec::new() };
        if is_record {
            record.show(None);
        } else {
            record.hex_lines("block", 0..bytes, "");
        }
        let problem = self.problem(source, offset, &first)?;
        if let Some(line) = record.lines.first_mut() {
            line.problem = problem;
        }
        let sound = record.lines.iter().all(|line| line.problem.is_none());
        let file = self.file.to_string();
        let head = Head { file, offset, record_bytes: bytes as u32, slot: None, state: None, sound };
        output.report(&head, "fields", &record.lines)?;
        Ok(Exit::sound(sound))
    }

    fn read(self, source: &Source, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let shown = || format!("can't read {} bytes at {offset:#x} of {}", buffer.len(), self.file);
        let shown = shown();
        source.store.read_at(self.file, offset, buffer).context(shown)
    }

    /// Why no record begins here, if none does.
    fn problem(self, source: &Source, offset: u64, block: &Block) -> Result<Option<String>> {
        let files = source.files()?;
        let header = files.iter().find(|file| file.id == self.file).and_then(|file| file.header.as_ref());
        let Some(header) = header else { return Ok(Some("the file has no readable header".to_owned())) };
        let at = Lsn::new(header.epoch, source.geometry.segment_bytes(), offset);
        let decoded = RecordHeader::decode(block, header.identity.expected().salt(), at, header.epoch);
        Ok(decoded.err().map(|error| error.to_string()))
    }
}

/// How long the record is that begins like one, by what it says and by what its body says: either may be damaged, and
/// no more is believed than what a record may have, and what is left of its file.
fn claimed_bytes(block: &Block, left: usize) -> Option<usize> {
    if !block.starts_with(b"SYNR") {
        return None;
    }
    let field = RECORD_FIELDS.iter().find(|field| field.name == "record bytes").expect("a field of the byte map");
    let claimed = number(&block[field.offset..field.offset + field.bytes]) as usize;
    let body = BodyLayout::peek(&block[RECORD_HEADER_BYTES..]).map_or(BLOCK_BYTES, |layout| layout.record_bytes());
    let longest = left.min(BodyLayout::LARGEST.record_bytes());
    let bytes = if claimed <= longest { align_to_block(claimed).max(body) } else { body };
    (bytes <= longest).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_they_are_shown() {
        let place = Place { file: FileId(3), offset: 0x5000 };
        assert_eq!(Place::parse("segment-000003.wal+0x5000"), Ok(place));
        assert_eq!(Place::parse("segment-000003.wal+20480"), Ok(place));
        for text in ["", "segment-000003.wal", "segment-3.wal+0x5000", "../identity+0", "segment-000003.wal+"] {
            assert!(Place::parse(text).is_err(), "{text}");
        }
    }
}
