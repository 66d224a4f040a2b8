//! What the log asks of the disk, each as a task of its own that ends in a turn.
//!
//! The first write or sync that fails ends the service for good. A file that can't be created, for want of space,
//! doesn't: only new client commands suffer, and it is tried again.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use synod_protocol::Instant;
use synod_wal::{FileId, LoggedReplica, ReadId, SyncId, WriteId};

use super::{FILE_RETRY, Shard};
use crate::error::StopReason;
use crate::seam::buffer::{self, Buffer, Slab};
use crate::seam::disk::File;
use crate::seam::executor::Queue;

impl Shard {
    /// Opens the segment files that recovery found.
    pub(crate) async fn open_files(&self, files: &[FileId]) -> Result<(), (PathBuf, io::Error)> {
        for file in files {
            let opened = self.settings.disk.open(*file).await.map_err(|error| (self.path(*file), error))?;
            self.files.insert(*file, opened);
        }
        Ok(())
    }

    /// Lets every further write fail.
    #[cfg(test)]
    pub(crate) async fn make_files_read_only(&self) {
        let directory = self.path(FileId(1)).parent().expect("a file lies in a directory").to_path_buf();
        let store = synod_wal::directory::DirectoryStore::new(directory);
        for file in synod_wal::SegmentStore::files(&store).expect("the log's directory") {
            let opened = File::open_read_only(&self.path(file)).await.expect("a segment file");
            self.files.insert(file, opened);
        }
    }

    pub(super) fn write_frame(self: &Rc<Self>, write: WriteId, file: FileId, offset: u64, bytes: Rc<Buffer>) {
        self.io(
            file,
            "write",
            move |file| async move { file.write_shared(bytes, offset).await },
            move |replica, now| {
                replica.handle_written(now, write);
            },
        );
    }

    pub(super) fn write_bytes(self: &Rc<Self>, write: WriteId, file: FileId, offset: u64, bytes: &[u8]) {
        let mut copy = buffer::allocate(bytes.len());
        copy.as_bytes_mut().copy_from_slice(bytes);
        self.io(
            file,
            "write",
            move |file| async move { file.write(copy, offset).await },
            move |replica, now| {
                replica.handle_written(now, write);
            },
        );
    }

    pub(super) fn sync(self: &Rc<Self>, sync: SyncId, file: FileId) {
        self.io(
            file,
            "sync",
            move |file| async move { file.sync().await },
            move |replica, now| {
                replica.handle_synced(now, sync);
            },
        );
    }

    /// A write or sync of a segment: done, or the end of the service.
    fn io<F, W>(
        self: &Rc<Self>,
        file: FileId,
        what: &'static str,
        work: W,
        done: impl FnOnce(&mut LoggedReplica<Slab>, Instant) + 'static,
    ) where
        W: FnOnce(Rc<File>) -> F + 'static,
        F: Future<Output = io::Result<()>> + 'static,
    {
        let shard = Rc::clone(self);
        let opened = self.files.find(file);
        self.tasks.spawn_io(Queue::Serve, async move {
            let begun = std::time::Instant::now();
            let result = match opened {
                Some(opened) => work(opened).await,
                None => Err(io::ErrorKind::NotFound.into()),
            };
            let meters = &shard.shared.meters;
            if what == "sync" { &meters.sync } else { &meters.write }.record(begun.elapsed());
            match result {
                Ok(()) => shard.turn(done),
                Err(error) => {
                    let path = shard.path(file);
                    shard.end_service(StopReason::disk(what, path, &error));
                }
            }
        });
    }

    pub(super) fn read(self: &Rc<Self>, read: ReadId, file: FileId, offset: u64, bytes: u32) {
        let shard = Rc::clone(self);
        let opened = self.files.find(file);
        self.tasks.spawn_io(Queue::Serve, async move {
            let result = match opened {
                Some(opened) => opened.read(offset, bytes as usize).await,
                None => Err(io::ErrorKind::NotFound.into()),
            };
            let record = result
                .inspect_err(|error| {
                    let path = shard.path(file);
                    tracing::error!(path = %path.display(), offset, bytes, %error, "can't read a record of the log");
                })
                .ok();
            shard.turn(|replica, now| replica.handle_read(now, read, record));
        });
    }

    pub(super) fn create_file(self: &Rc<Self>, file: FileId) {
        let shard = Rc::clone(self);
        self.tasks.spawn_io(Queue::Background, async move {
            let settings = &shard.settings;
            let stop = || shard.tasks.are_stopping();
            match settings.disk.create(file, settings.segment_bytes, stop).await {
                Ok(created) => {
                    shard.files.insert(file, created);
                    shard.file_ready(file);
                }
                Err(error) => shard.file_failed(file, &shard.path(file), "create", &error),
            }
        });
    }

    pub(super) fn zero_file(self: &Rc<Self>, file: FileId, offset: u64, bytes: u64) {
        let shard = Rc::clone(self);
        self.tasks.spawn_io(Queue::Background, async move {
            let stop = || shard.tasks.are_stopping();
            match shard.settings.disk.zero(file, offset..offset + bytes, stop).await {
                Ok(()) => shard.file_ready(file),
                Err(error) => shard.file_failed(file, &shard.path(file), "zero", &error),
            }
        });
    }

    fn file_ready(self: &Rc<Self>, file: FileId) {
        if std::mem::take(&mut self.core.borrow_mut().file_failing) {
            tracing::info!("segment files can be made again");
        }
        self.turn(|replica, now| replica.handle_file_ready(now, file));
    }

    fn file_failed(self: &Rc<Self>, file: FileId, path: &Path, what: &str, error: &io::Error) {
        if self.tasks.are_stopping() {
            return;
        }
        let mut core = self.core.borrow_mut();
        if !std::mem::replace(&mut core.file_failing, true) {
            tracing::error!(path = %path.display(), %error, "can't {what} a segment file; trying again and again");
        }
        let now = self.clock.now();
        core.file_retry_at = Some(now.plus(FILE_RETRY));
        core.replica.handle_file_failed(now, file);
        self.follow_up(&mut core, now);
    }

    fn path(&self, file: FileId) -> PathBuf {
        self.settings.disk.path(file)
    }
}
