//! Whole files read by io_uring, past the page cache, with many reads in flight: as fast as the disk gives them.
//!
//! The only module of this program with unsafe code: the kernel writes into memory that it was told of before, so the
//! memory must stay where it is until the kernel has said that it is done.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use io_uring::{IoUring, opcode, types};
use synod_frame::BLOCK_BYTES;
use synod_wal::directory::ReadBuffer;

/// Reads in flight.
const DEPTH: u32 = 16;

/// Bytes of one read; a multiple of a block.
const PART_BYTES: usize = 512 << 10;

/// A ring, and the memory that files are read into.
pub(crate) struct BulkReader {
    ring: IoUring,
    /// Begins at a block. Nobody else sees it while a read is in flight.
    buffer: Option<ReadBuffer>,
}

/// A part of the file that is still to be read.
#[derive(Clone, Copy)]
struct Part {
    offset: usize,
    bytes: usize,
}

impl BulkReader {
    /// A ring without memory yet.
    ///
    /// # Errors
    /// If the kernel refuses a ring: io_uring is missing, switched off, or blocked.
    pub(crate) fn new() -> io::Result<BulkReader> {
        Ok(BulkReader { ring: IoUring::new(DEPTH)?, buffer: None })
    }

    /// The first `bytes` of a file; a multiple of a block if the file was opened with O_DIRECT.
    ///
    /// # Errors
    /// The first error of any read; [`io::ErrorKind::UnexpectedEof`] if the file is shorter.
    pub(crate) fn load(&mut self, file: &File, bytes: usize) -> io::Result<&[u8]> {
        let mut buffer = match self.buffer.take() {
            Some(buffer) if buffer.as_ref().len() >= bytes => buffer,
            _ => ReadBuffer::zeroed(bytes)?,
        };
        let base = buffer.as_mut().as_mut_ptr();
        self.buffer = Some(buffer);
        self.read(file, base, bytes)?;
        Ok(&self.loaded()[..bytes])
    }

    /// What was loaded last; meaningless if that failed.
    pub(crate) fn loaded(&self) -> &[u8] {
        self.buffer.as_ref().map_or(&[], AsRef::as_ref)
    }

    fn read(&mut self, file: &File, base: *mut u8, bytes: usize) -> io::Result<()> {
        let mut left: Vec<Part> = (0..bytes)
            .step_by(PART_BYTES)
            .map(|offset| Part { offset, bytes: PART_BYTES.min(bytes - offset) })
            .rev()
            .collect();
        // By the number that a completion brings back.
        let mut in_flight = [None::<Part>; DEPTH as usize];
        let mut failed = None;
        loop {
            for (number, slot) in in_flight.iter_mut().enumerate().filter(|(_, slot)| slot.is_none()) {
                let Some(part) = left.pop() else { break };
                let target = base.wrapping_add(part.offset);
                let entry = opcode::Read::new(types::Fd(file.as_raw_fd()), target, part.bytes as u32)
                    .offset(part.offset as u64)
                    .build()
                    .user_data(number as u64);
                // SAFETY: `target..target + part.bytes` lies in `self.buffer`, for `read` is only called with where that begins
                // and at most its length. Its memory is neither moved, freed nor looked at before this function returns, and it returns
                // only when every read is complete, or leaves the buffer behind for ever. The file outlives the call.
                // There is room: the queue has as many entries as there are slots.
                if unsafe { self.ring.submission().push(&entry) }.is_err() {
                    left.push(part);
                    break;
                }
                *slot = Some(part);
            }
            if in_flight.iter().all(Option::is_none) {
                return failed.map_or(Ok(()), Err);
            }
            if let Err(error) = self.ring.submit_and_wait(1)
                && !matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
                && error.kind() != io::ErrorKind::ResourceBusy
            {
                // The kernel may still write there: nobody may ever use that memory again.
                std::mem::forget(self.buffer.take());
                return Err(error);
            }
            for completion in self.ring.completion() {
                let number = completion.user_data() as usize;
                let Some(part) = in_flight.get_mut(number).and_then(Option::take) else { continue };
                match after(part, completion.result()) {
                    Ok(rest) => left.extend(rest),
                    Err(error) => {
                        failed.get_or_insert(error);
                        left.clear();
                    }
                }
            }
            if failed.is_some() {
                left.clear();
            }
        }
    }
}

/// What is still to be read of a part, by what the kernel says of it.
fn after(part: Part, result: i32) -> io::Result<Option<Part>> {
    match usize::try_from(result) {
        Err(_) => {
            let error = io::Error::from_raw_os_error(-result);
            let again = matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock);
            if again { Ok(Some(part)) } else { Err(error) }
        }
        Ok(read) if read >= part.bytes => Ok(None),
        // A short read that isn't at the end goes on; direct reads go on at a block.
        Ok(read) if read > 0 && read.is_multiple_of(BLOCK_BYTES) => {
            Ok(Some(Part { offset: part.offset + read, bytes: part.bytes - read }))
        }
        Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(bytes: usize) -> (tempfile::NamedTempFile, Vec<u8>) {
        let content: Vec<u8> = (0..bytes).map(|index| (index / 7) as u8 ^ (index >> 12) as u8).collect();
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(&content).expect("written");
        (file, content)
    }

    #[test]
    fn files_of_every_length_are_read_as_they_are() {
        // Where the kernel has no rings, the program reads otherwise, and this has nothing to show.
        let Ok(mut reader) = BulkReader::new() else { return };
        for bytes in [0, BLOCK_BYTES, PART_BYTES, 3 * PART_BYTES + BLOCK_BYTES, 40 * PART_BYTES] {
            let (file, content) = file(bytes);
            assert!(reader.load(file.as_file(), bytes).expect("read") == content, "{bytes}");
        }
    }

    #[test]
    fn a_file_that_is_shorter_than_it_should_be_is_an_error() {
        let Ok(mut reader) = BulkReader::new() else { return };
        let (file, content) = file(5 * PART_BYTES);
        let error = reader.load(file.as_file(), 6 * PART_BYTES).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(reader.load(file.as_file(), content.len()).expect("read") == content, "the ring is as good as before");
    }

    #[test]
    fn short_reads_go_on_where_they_ended() {
        let part = Part { offset: 8192, bytes: 65536 };
        assert!(after(part, 65536).unwrap().is_none());
        let rest = after(part, 4096).unwrap().unwrap();
        assert_eq!((rest.offset, rest.bytes), (12288, 61440));
        assert!(after(part, 0).is_err() && after(part, 100).is_err());
        assert_eq!(after(part, -5).err().and_then(|error| error.raw_os_error()), Some(5));
        assert!(after(part, -4).unwrap().is_some(), "interrupted");
    }
}
