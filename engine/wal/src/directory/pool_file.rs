//! How many files the pool of a log has ever had: each of them must still be there, so one that is gone is missed, even
//! if nothing that is left names it. Kept beside the segments, because their headers may be what is gone.

use std::ffi::OsStr;
use std::path::Path;

use super::FileError;
use super::disk::{read_small, sync_directory, write_small};
use crate::lsn::FileId;

const NAME: &str = "pool";
const NAME_NEW: &str = "pool.new";

/// First line of the file; the number is its version.
const HEADING: &str = "synod pool 1";

/// Notes, durably, that a file of the pool was made. Whoever makes one says so before the log uses it.
///
/// # Errors
/// If the note can't be written: the file isn't to be used then.
pub fn note_file_made(log: &Path, file: FileId) -> Result<(), FileError> {
    if file.0 <= files_made(log) {
        return Ok(());
    }
    let (new, path) = (log.join(NAME_NEW), log.join(NAME));
    write_small(&new, to_text(file.0).as_bytes())?;
    std::fs::rename(&new, &path).map_err(FileError::new("rename", &new))?;
    sync_directory(log)
}

/// How many files were made, numbered from one; zero if nothing readable says so, as in the logs of early builds.
pub(super) fn files_made(log: &Path) -> u32 {
    read_small(&log.join(NAME)).ok().and_then(|text| parse(&text)).unwrap_or(0)
}

/// Whether a file of this name is the note, or one that was being written.
pub(super) fn is_name(name: &OsStr) -> bool {
    name == NAME || name == NAME_NEW
}

fn to_text(files: u32) -> String {
    let body = format!("{HEADING}\nfiles = {files}\n");
    let checksum = crc32fast::hash(body.as_bytes());
    format!("{body}checksum = {checksum:08x}\n")
}

fn parse(text: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(text).ok()?;
    let files = text.strip_prefix(HEADING)?.strip_prefix("\nfiles = ")?.lines().next()?.parse().ok()?;
    (text == to_text(files)).then_some(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_only_grows_and_damage_to_it_counts_for_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path();
        assert_eq!(files_made(log), 0);
        for (file, made) in [(3, 3), (1, 3), (4, 4)] {
            note_file_made(log, FileId(file)).unwrap();
            assert_eq!(files_made(log), made);
        }
        let text = to_text(4).into_bytes();
        for bit in 0..text.len() * 8 {
            let mut damaged = text.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(parse(&damaged), None, "bit {bit}");
        }
    }
}
