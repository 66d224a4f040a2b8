//! How much memory the index of a long log takes: `index_memory build DIR BODIES` writes a log of chosen bodies of one
//! block each, and `index_memory open DIR [BODIES_MAX]` opens it with so many places in memory (all, if it isn't said),
//! finds a thousand bodies all over it, and prints the highest resident memory of the process.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use synod_frame::{GroupId, Origin, RecordBuffer, encode_noop};
use synod_protocol::{Ballot, Mark, NodeId, Slot};
use synod_wal::directory::DirectoryStore;
use synod_wal::{
    Action, AppendError, FileId, LogIdentity, LogSettings, RecordKind, RecordMeta, RecoverOptions, RecoveredLog, Wal,
    recover_with,
};

const GROUP: GroupId = GroupId(0);
const BALLOT: Ballot = Ballot { round: 1, node: NodeId(1), boot: 1 };

/// Bodies that are looked for.
const FINDS: u64 = 1000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["build", directory, bodies] => build(Path::new(directory), bodies.parse()?),
        ["open", directory] => open(Path::new(directory), None),
        ["open", directory, bodies_max] => open(Path::new(directory), Some(bodies_max.parse()?)),
        _ => Err("index_memory build DIR BODIES, or open DIR [BODIES_MAX]".into()),
    }
}

fn identity(boot_counter: u64) -> LogIdentity {
    LogIdentity { cluster: [1; 16], lineage: 1, node: NodeId(1), incarnation: [1; 16], boot_counter, log: 0 }
}

fn settings(index_bodies_max: usize) -> LogSettings {
    LogSettings { pool_files_max: 1 << 20, index_bodies_max, ..LogSettings::default() }
}

fn build(directory: &Path, bodies: u64) -> Result<(), Box<dyn std::error::Error>> {
    std::fs::create_dir_all(directory)?;
    let settings = settings(LogSettings::default().index_bodies_max);
    let mut wal = Wal::new(identity(1), settings, RecoveredLog::fresh(settings.segment_bytes, []));
    carry_out(&mut wal, directory)?;
    let mut mark = Mark::START;
    for _ in 0..bodies {
        let mut record = RecordBuffer::zeroed(4096);
        let origin = Origin { group: GROUP, first: mark.slot, ballot: BALLOT, leader_time_us: 1 };
        let body = encode_noop(record.as_mut(), &origin, 1)?;
        let meta = RecordMeta {
            kind: RecordKind::Accepted,
            group: GROUP,
            source: NodeId(0),
            ballot: BALLOT,
            promised: BALLOT,
            mark,
            log_time_us: 1,
            unsure: false,
        };
        let planned = loop {
            match wal.append(&meta, Some(&body), record.as_mut()) {
                Ok(planned) => break planned,
                Err(AppendError::NoSegment) => carry_out(&mut wal, directory)?,
                Err(error) => return Err(error.into()),
            }
        };
        write(directory, planned.file, planned.offset, record.as_ref())?;
        wal.handle_written(planned.write);
        carry_out(&mut wal, directory)?;
        mark = mark.after(&body);
        wal.index_mut().mark_chosen(body.first, mark.chain);
    }
    println!("{:?}", wal.stats());
    Ok(())
}

/// Nothing is synced: this is about memory.
fn carry_out(wal: &mut Wal, directory: &Path) -> io::Result<()> {
    while let Some(action) = wal.poll_action() {
        match action {
            Action::Write { write: id, file, offset, bytes } => {
                write(directory, file, offset, &bytes)?;
                wal.handle_written(id);
            }
            Action::Sync { sync, .. } => wal.handle_synced(sync),
            Action::CreateFile { file } => {
                File::create(directory.join(file.file_name()))?.set_len(wal.settings().segment_bytes)?;
                wal.handle_file_ready(file);
            }
            Action::ZeroFile { file, .. } => wal.handle_file_ready(file),
        }
    }
    Ok(())
}

fn write(directory: &Path, file: FileId, offset: u64, bytes: &[u8]) -> io::Result<()> {
    let file = File::options().write(true).open(directory.join(file.file_name()))?;
    file.write_all_at(bytes, offset)
}

fn open(directory: &Path, index_bodies_max: Option<usize>) -> Result<(), Box<dyn std::error::Error>> {
    let store = DirectoryStore::new(directory);
    let begun = Instant::now();
    let options = RecoverOptions { index_bodies_max, ..RecoverOptions::default() };
    let settings = settings(index_bodies_max.unwrap_or(usize::MAX));
    let recovered = recover_with(&store, &identity(1).expected(), settings.segment_bytes, options)?;
    let (mark, took) = (recovered.mark, begun.elapsed());
    let opening = peak()?;
    let wal = Wal::new(identity(2), settings, recovered);
    let begun = Instant::now();
    for number in 0..FINDS {
        let slot = Slot(1 + number * (mark.slot.0 - 1) / FINDS);
        wal.find_in(&store, slot).ok_or_else(|| format!("slot {slot} isn't found"))?;
    }
    let stats = wal.stats();
    println!(
        "{} bodies, {} places in memory, {} pages; recovered in {:.1} s, {} found in {:.3} s; {opening} after recovery, {} in all",
        stats.bodies,
        stats.index_entries,
        stats.index_pages,
        took.as_secs_f64(),
        FINDS,
        begun.elapsed().as_secs_f64(),
        peak()?
    );
    Ok(())
}

/// The highest resident memory so far, as the kernel says it.
fn peak() -> io::Result<String> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    Ok(line.unwrap_or("unknown").trim().to_string())
}
