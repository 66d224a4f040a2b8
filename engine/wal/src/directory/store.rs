//! Segments of a directory, read-only.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{disk, pool_file};
use crate::lsn::FileId;
use crate::store::SegmentStore;

/// The files of one log. Needs no lock and changes nothing; a running node may write meanwhile.
#[derive(Debug)]
pub struct DirectoryStore {
    directory: PathBuf,
    /// Scans read one file after the other, so one open file is enough.
    open: RefCell<Option<(FileId, File)>>,
}

impl DirectoryStore {
    /// The files in the directory of a log ([`super::log_path`]).
    pub fn new(directory: impl Into<PathBuf>) -> DirectoryStore {
        DirectoryStore { directory: directory.into(), open: RefCell::new(None) }
    }

    /// Where they are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn with_file<T>(&self, id: FileId, read: impl FnOnce(&File) -> io::Result<T>) -> io::Result<T> {
        let mut open = self.open.borrow_mut();
        if open.as_ref().is_none_or(|(known, _)| *known != id) {
            let path = self.directory.join(id.file_name());
            *open = Some((id, disk::open_for_reading(&path)?));
        }
        let (_, file) = open.as_ref().expect("just opened");
        read(file)
    }
}

impl SegmentStore for DirectoryStore {
    fn files(&self) -> io::Result<Vec<FileId>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            // Names that aren't those of pool files are nobody's business here.
            if let Some(file) = entry?.file_name().to_str().and_then(FileId::from_file_name) {
                files.push(file);
            }
        }
        files.sort_unstable();
        Ok(files)
    }

    fn files_made(&self) -> u32 {
        pool_file::files_made(&self.directory)
    }

    fn len(&self, file: FileId) -> io::Result<u64> {
        self.with_file(file, |file| Ok(file.metadata()?.len()))
    }

    fn read_at(&self, file: FileId, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.with_file(file, |file| file.read_exact_at(buffer, offset))
    }
}
