//! The directory in which snapshots lie: those that the machine wrote, those that were fetched, and one that is on its way.
//!
//! A file's name is what its snapshot is called: position, length and checksum. It gets that name when all of it is
//! durable, so that a file under such a name is whole, whenever the process or the machine stops:
//!
//! | file | what it is | after a stop |
//! |---|---|---|
//! | `P-N-C.snapshot` | a whole one: position, length, checksum | looked through before it is given away |
//! | `P-N-C.part` | the beginning of one that is being fetched | the fetching goes on behind it |
//! | `making.tmp` | one that is being written | removed |
//! | `lock` | whose directory it is | free again |
//!
//! Anything else in there is left alone.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, Read as _, Seek as _, SeekFrom, Write};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use synod_protocol::Slot;
use synod_protocol::snapshot::{SnapshotDigest, SnapshotId};

const WHOLE: &str = "snapshot";
const PART: &str = "part";
const MAKING: &str = "making.tmp";
const LOCK: &str = "lock";

/// How much is read at once when a file is looked through.
const LOOK_BYTES: usize = 1 << 20;

/// See the module.
#[derive(Debug)]
pub(super) struct Store {
    directory: PathBuf,
    _lock: File,
}

impl Store {
    /// Opens the directory, or makes it, and clears away what a stop has left.
    ///
    /// # Errors
    /// If it can't be made, written, or is somebody else's; then the error's kind is `WouldBlock`.
    pub(super) fn open(directory: &Path) -> io::Result<Store> {
        std::fs::create_dir_all(directory)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(directory.join(LOCK))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => io::ErrorKind::WouldBlock.into(),
            TryLockError::Error(error) => error,
        })?;
        match std::fs::remove_file(directory.join(MAKING)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Ok(Store { directory: directory.to_owned(), _lock: lock })
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The whole ones that are sound. One that isn't is removed.
    ///
    /// # Errors
    /// If the directory can't be read.
    pub(super) fn sound(&self) -> io::Result<Vec<SnapshotId>> {
        let mut sound = Vec::new();
        for snapshot in self.named(WHOLE)? {
            if self.is_sound(&self.path(snapshot), snapshot).unwrap_or(false) {
                sound.push(snapshot);
            } else {
                tracing::error!(?snapshot, "a stored snapshot is damaged, and is removed");
                self.remove(snapshot);
            }
        }
        Ok(sound)
    }

    /// What is there of the newest one that was being fetched; other beginnings are removed.
    ///
    /// # Errors
    /// If the directory can't be read.
    pub(super) fn partial(&self) -> io::Result<Option<(SnapshotId, u64)>> {
        let mut partials = self.named(PART)?;
        partials.sort_unstable();
        let newest = partials.pop();
        for old in partials {
            self.forget(old);
        }
        let Some(newest) = newest else { return Ok(None) };
        let bytes = std::fs::metadata(self.part(newest))?.len();
        Ok(Some((newest, bytes)))
    }

    /// Begins an empty file for one that is going to be fetched. Other beginnings are removed.
    pub(super) fn begin(&self, snapshot: SnapshotId) -> io::Result<()> {
        for other in self.named(PART)? {
            self.forget(other);
        }
        File::create(self.part(snapshot)).map(drop)
    }

    /// Writes a chunk.
    pub(super) fn write(&self, snapshot: SnapshotId, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).open(self.part(snapshot))?;
        file.seek(SeekFrom::Start(offset))?;
        file.write_all(data)
    }

    /// Makes one that is fetched completely durable and gives it its name; false if its bytes aren't what they should be.
    pub(super) fn finish(&self, snapshot: SnapshotId) -> io::Result<bool> {
        let part = self.part(snapshot);
        if !self.is_sound(&part, snapshot)? {
            self.forget(snapshot);
            return Ok(false);
        }
        // Before it has its name: whatever has it is whole, also after a power failure.
        File::open(&part)?.sync_all()?;
        std::fs::rename(&part, self.path(snapshot))?;
        sync_directory(&self.directory)?;
        Ok(true)
    }

    /// Some bytes of one.
    pub(super) fn read(&self, snapshot: SnapshotId, offset: u64, bytes: u32) -> io::Result<Vec<u8>> {
        let mut data = vec![0; bytes as usize];
        File::open(self.path(snapshot))?.read_exact_at(&mut data, offset)?;
        Ok(data)
    }

    /// Removes one. A file that stays is no harm.
    pub(super) fn remove(&self, snapshot: SnapshotId) {
        remove(&self.path(snapshot));
    }

    /// Where one lies.
    pub(super) fn path(&self, snapshot: SnapshotId) -> PathBuf {
        self.directory.join(name(snapshot, WHOLE))
    }

    fn part(&self, snapshot: SnapshotId) -> PathBuf {
        self.directory.join(name(snapshot, PART))
    }

    fn forget(&self, snapshot: SnapshotId) {
        remove(&self.part(snapshot));
    }

    fn is_sound(&self, path: &Path, snapshot: SnapshotId) -> io::Result<bool> {
        let mut file = File::open(path)?;
        if file.metadata()?.len() != snapshot.bytes {
            return Ok(false);
        }
        let (mut digest, mut bytes) = (SnapshotDigest::new(), vec![0; LOOK_BYTES]);
        loop {
            match file.read(&mut bytes)? {
                0 => return Ok(digest.finish(snapshot.position) == snapshot),
                read => digest.update(&bytes[..read]),
            }
        }
    }

    fn named(&self, extension: &str) -> io::Result<Vec<SnapshotId>> {
        let mut named = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            let file = entry?.file_name();
            named.extend(file.to_str().and_then(|file| parse(file, extension)));
        }
        Ok(named)
    }
}

/// Writes a snapshot into a directory: on whatever thread the machine is at home.
///
/// # Errors
/// The outer one is the disk's, the inner one `write`'s.
pub(super) fn make<E>(
    directory: &Path,
    position: Slot,
    write: impl FnOnce(&mut dyn Write) -> Result<(), E>,
) -> io::Result<Result<SnapshotId, E>> {
    let making = directory.join(MAKING);
    let mut writer =
        Named { file: BufWriter::with_capacity(LOOK_BYTES, File::create(&making)?), digest: SnapshotDigest::new() };
    if let Err(error) = write(&mut writer) {
        remove(&making);
        return Ok(Err(error));
    }
    let snapshot = writer.digest.finish(position);
    let file = writer.file.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    std::fs::rename(&making, directory.join(name(snapshot, WHOLE)))?;
    sync_directory(directory)?;
    Ok(Ok(snapshot))
}

/// A file that gets to know its name while it is written.
struct Named {
    file: BufWriter<File>,
    digest: SnapshotDigest,
}

impl Write for Named {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.digest.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn name(SnapshotId { position, bytes, checksum }: SnapshotId, extension: &str) -> String {
    format!("{position}-{bytes}-{checksum:032x}.{extension}")
}

fn parse(file: &str, extension: &str) -> Option<SnapshotId> {
    let mut parts = file.strip_suffix(extension)?.strip_suffix('.')?.split('-');
    let position = Slot(parts.next()?.parse().ok()?);
    let bytes = parts.next()?.parse().ok()?;
    let checksum = u128::from_str_radix(parts.next()?, 16).ok()?;
    let snapshot = SnapshotId { position, bytes, checksum };
    // One file for each: no other way to write the same numbers.
    (name(snapshot, extension) == file).then_some(snapshot)
}

fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "a file that isn't needed any more can't be removed");
    }
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make_of(store: &Store, position: u64, bytes: &[u8]) -> SnapshotId {
        make(store.directory(), Slot(position), |into| into.write_all(bytes)).expect("the disk").expect("the machine")
    }

    #[test]
    fn what_was_made_is_there_after_a_restart_and_what_is_damaged_is_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("snapshots");
        let store = Store::open(&path).expect("it is made");
        let (good, bad) = (make_of(&store, 7, b"good"), make_of(&store, 8, b"bad"));
        let failed = make(store.directory(), Slot(9), |_| Err::<(), _>("no")).expect("the disk");
        assert_eq!(failed, Err("no"));
        assert_eq!(store.read(good, 1, 3).expect("it is there"), b"ood");
        assert!(store.read(good, 2, 3).is_err(), "beyond the end");
        std::fs::write(store.path(bad), b"bat").expect("written");
        std::fs::write(path.join("7-4-5.snapshot"), b"????").expect("written");
        std::fs::write(path.join("making.tmp"), b"half of it").expect("written");
        assert_eq!(Store::open(&path).expect_err("it is taken").kind(), io::ErrorKind::WouldBlock);
        drop(store);
        let store = Store::open(&path).expect("it is free");
        assert_eq!(store.sound().expect("read"), [good]);
        let mut left: Vec<String> = std::fs::read_dir(&path)
            .expect("read")
            .map(|entry| entry.expect("read").file_name().into_string().expect("text"))
            .collect();
        left.sort();
        assert_eq!(left, ["7-4-5.snapshot", &name(good, WHOLE), "lock"], "what isn't a snapshot's name is left alone");
    }

    #[test]
    fn a_fetch_goes_on_after_a_stop_and_ends_with_a_name_only_if_it_is_whole() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut digest = SnapshotDigest::new();
        digest.update(b"one two");
        let snapshot = digest.finish(Slot(7));
        let store = Store::open(directory.path()).expect("it is made");
        store.begin(SnapshotId { position: Slot(3), ..snapshot }).expect("begun");
        store.begin(snapshot).expect("begun");
        store.write(snapshot, 0, b"one").expect("written");
        drop(store);
        let store = Store::open(directory.path()).expect("it is free");
        assert_eq!(store.partial().expect("read"), Some((snapshot, 3)));
        assert_eq!(store.sound().expect("read"), []);
        store.write(snapshot, 3, b" too").expect("written");
        assert!(!store.finish(snapshot).expect("read"));
        assert_eq!(store.partial().expect("read"), None);
        store.begin(snapshot).expect("begun");
        store.write(snapshot, 0, b"one two").expect("written");
        assert!(store.finish(snapshot).expect("read"));
        assert_eq!((store.partial().expect("read"), store.sound().expect("read")), (None, vec![snapshot]));
        store.remove(snapshot);
        assert_eq!(store.sound().expect("read"), []);
    }
}
