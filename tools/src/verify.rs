//! `verify`: every byte of a log, and everything that is wrong with it.
//!
//! Files are read by several threads, each file at once; [`synod_wal::verify`] says what is wrong. Each finding comes
//! with what to do next.

mod report;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use synod_wal::format::SegmentHeader;
use synod_wal::verify::{Class, Conclusion, Finding, check_fresh, check_segment, check_unneeded, conclude};
use synod_wal::{FileId, Geometry, Lsn, SegmentStore};

use crate::bulk::{BulkStore, Reading, ring_refused};
use crate::exit::Exit;
use crate::output::Output;
use crate::progress::Progress;
use crate::source::{File, FileProblem, Source, each_log, log_number};

use report::{DirectoryReport, FindingRow, Measured, Report};

/// Which directories, and how to read them.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Directories of nodes
    #[arg(required = true)]
    directories: Vec<PathBuf>,
    /// Threads, each of which reads and checks one file at a time and needs memory for it (default: one a core, at most 8)
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: Option<u16>,
    /// Read files piece by piece through the page cache, without io_uring
    #[arg(long)]
    plain: bool,
    /// First read the same files without checking them, and say how fast that was
    #[arg(long)]
    measure: bool,
}

/// A file to look at, and what for.
enum Work {
    Segment { file: FileId, header: SegmentHeader, stop: Option<u64> },
    Unneeded { file: FileId, header: SegmentHeader },
    Fresh { file: FileId },
}

impl Work {
    fn file(&self) -> FileId {
        match self {
            Work::Segment { file, .. } | Work::Unneeded { file, .. } | Work::Fresh { file } => *file,
        }
    }
}

/// What came of it.
enum Done {
    Segment(Box<synod_wal::verify::SegmentCheck>),
    Pool(Vec<Finding>),
}

/// Checks all directories, and whether their chains contradict each other.
pub(crate) fn run(options: &Options, output: &mut Output) -> Result<Exit> {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get().min(8));
    let jobs = options.jobs.map_or(cores, usize::from);
    let mut report = Report::default();
    let mut rows = Vec::new();
    let mut exit = Exit::Well;
    let mut logs: Vec<(PathBuf, Conclusion)> = Vec::new();
    for path in &each_log(&options.directories) {
        match verify(path, options, jobs, &mut report) {
            Ok(None) => {}
            Ok(Some((directory, found, conclusion))) => {
                report.directories.push(directory);
                rows.extend(found);
                logs.push((path.clone(), conclusion));
            }
            Err(error) => {
                eprintln!("synod-tools: {error:#}");
                exit = Exit::Unreadable;
            }
        }
    }
    compare(&logs, &mut report);
    let damaged = rows.iter().any(FindingRow::is_damage) || !report.differences.is_empty();
    if report.directories.is_empty() && exit == Exit::Unreadable {
        return Ok(exit);
    }
    output.report(&report, "findings", &rows)?;
    Ok(exit.max(Exit::sound(!damaged)))
}

type Verified = (DirectoryReport, Vec<FindingRow>, Conclusion);

/// One directory; nothing if it has no log yet.
fn verify(path: &Path, options: &Options, jobs: usize, report: &mut Report) -> Result<Option<Verified>> {
    let source = Source::open(path)?;
    let first = attempt(&source, options, jobs, report)?;
    let damaged = first.as_ref().is_some_and(|(_, rows, _)| rows.iter().any(FindingRow::is_damage));
    // Beside a running node files may begin another life between two looks: what is wrong twice is wrong.
    if source.live && damaged { attempt(&source, options, jobs, report) } else { Ok(first) }
}

fn attempt(source: &Source, options: &Options, jobs: usize, report: &mut Report) -> Result<Option<Verified>> {
    let Some(identity) = source.identity.log_identity(source.log) else {
        report.not_bootstrapped.push(source.path.display().to_string());
        return Ok(None);
    };
    let (geometry, live) = (source.geometry, source.live);
    let reading = reading(options, live);
    let files = source.files()?;
    let (segments, missing) = source.segments(&files, false);
    let first_needed = Source::first_needed(&files);
    // Newest first: what a later segment proves of an earlier one a running node had then written before.
    let jobs = if live { 1 } else { jobs };
    let mut work: VecDeque<Work> = segments
        .iter()
        .rev()
        .map(|segment| Work::Segment { file: segment.file.id, header: segment.header.clone(), stop: segment.stop })
        .collect();
    let needed: Vec<FileId> = segments.iter().map(|segment| segment.file.id).collect();
    for file in files.iter().filter(|file| !needed.contains(&file.id)) {
        match (&file.header, &file.problem) {
            (Some(header), None) => work.push_back(Work::Unneeded { file: file.id, header: header.clone() }),
            (None, Some(FileProblem::Fresh)) => work.push_back(Work::Fresh { file: file.id }),
            _ => {}
        }
    }
    let log = source.store.directory();
    let bytes = work.len() as u64 * geometry.segment_bytes();
    if options.measure {
        let started = Instant::now();
        let progress = Progress::bytes(bytes, "reading");
        let names: VecDeque<FileId> = work.iter().map(Work::file).collect();
        in_parallel(log, reading, jobs, names, |store, file| {
            read_only(store, file, geometry);
            progress.advance(geometry.segment_bytes());
        });
        report.measured.get_or_insert_with(Measured::default).disk(bytes, started.elapsed());
    }
    let started = Instant::now();
    let progress = Progress::bytes(bytes, "verifying");
    let expected = identity.expected();
    let done = in_parallel(log, reading, jobs, work, |store, work| {
        store.load(work.file());
        let done = match work {
            Work::Segment { file, header, stop } => {
                Done::Segment(Box::new(check_segment(store, file, geometry, &header, stop, live)))
            }
            // What a running node does with its pool isn't damage.
            Work::Unneeded { .. } | Work::Fresh { .. } if live => Done::Pool(Vec::new()),
            Work::Unneeded { file, header } => Done::Pool(check_unneeded(store, file, geometry, &header, first_needed)),
            Work::Fresh { file } => Done::Pool(check_fresh(store, file, geometry, &expected, first_needed)),
        };
        progress.advance(geometry.segment_bytes());
        done
    });
    drop(progress);
    if options.measure {
        report.measured.get_or_insert_with(Measured::default).verify(bytes, started.elapsed());
    }
    let (mut checks, mut findings) = (Vec::new(), Vec::new());
    for done in done {
        match done {
            Done::Segment(check) => checks.push(*check),
            Done::Pool(found) => findings.extend(found),
        }
    }
    checks.reverse();
    let empty = checks.is_empty();
    let mut conclusion = conclude(geometry, checks, &missing, live);
    conclusion.findings.extend(files.iter().filter_map(|file| unusable(file, geometry)));
    conclusion.findings.extend(gone(source, &files));
    conclusion.findings.append(&mut findings);
    if empty {
        conclusion.findings.push(Finding {
            what: "no segment of the log is there, although the node was bootstrapped".to_owned(),
            ..nowhere()
        });
    }
    let rows = conclusion.findings.iter().map(|finding| FindingRow::new(source, finding)).collect();
    Ok(Some((DirectoryReport::new(source, &conclusion, bytes), rows, conclusion)))
}

/// How to read, and why not otherwise.
fn reading(options: &Options, live: bool) -> Reading {
    // What looks wrong beside a running node is read again, so it must not come out of this program's memory.
    if options.plain || live {
        return Reading::Plain;
    }
    match ring_refused() {
        None => Reading::Ring,
        Some(error) => {
            eprintln!(
                "synod-tools: io_uring can't be used ({error}), so files are read in the plain way; `synod-tools doctor` says why"
            );
            Reading::Plain
        }
    }
}

/// Does all work on several threads, each with files of its own; results in the order of the work.
fn in_parallel<W: Send, D: Send>(
    log: &Path,
    reading: Reading,
    jobs: usize,
    work: VecDeque<W>,
    each: impl Fn(&mut BulkStore, W) -> D + Sync,
) -> Vec<D> {
    let count = work.len();
    let queue = Mutex::new(work.into_iter().enumerate());
    let results = Mutex::new(Vec::with_capacity(count));
    let run = || {
        let mut store = BulkStore::new(log, reading);
        loop {
            let next = queue.lock().expect("no thread panics with the lock").next();
            let Some((number, work)) = next else { return };
            let done = each(&mut store, work);
            results.lock().expect("no thread panics with the lock").push((number, done));
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..jobs.min(count) {
            scope.spawn(run);
        }
        run();
    });
    let mut results = results.into_inner().expect("no thread panics with the lock");
    results.sort_unstable_by_key(|(number, _)| *number);
    results.into_iter().map(|(_, done)| done).collect()
}

/// Reads a file and forgets it. What can't be read is the concern of the pass that checks.
fn read_only(store: &mut BulkStore, file: FileId, geometry: Geometry) {
    if store.load(file) {
        return;
    }
    let mut buffer = vec![0; 1 << 20];
    let mut offset = 0;
    while offset < geometry.segment_bytes() {
        let wanted = buffer.len().min((geometry.segment_bytes() - offset) as usize);
        if store.read_at(file, offset, &mut buffer[..wanted]).is_err() {
            return;
        }
        offset += wanted as u64;
    }
}

fn nowhere() -> Finding {
    Finding {
        class: Class::Corrupt,
        file: None,
        offset: 0,
        lsn: Lsn::ZERO,
        slots: None,
        what: String::new(),
        expected: None,
        actual: None,
    }
}

/// The files that the pool had and that aren't there any more.
fn gone(source: &Source, files: &[File]) -> Vec<Finding> {
    let made = (1..=source.store.files_made()).map(FileId);
    let is_gone = |id: &FileId| !files.iter().any(|file| file.id == *id);
    let what = "the file is missing, although the pool had it";
    made.filter(is_gone).map(|id| Finding { file: Some(id), what: what.to_owned(), ..nowhere() }).collect()
}

/// A file that has no place in the log, and should have one.
fn unusable(file: &File, geometry: Geometry) -> Option<Finding> {
    let problem = file.problem.as_ref().filter(|problem| !problem.is_harmless())?;
    let (expected, actual) = match problem {
        FileProblem::Length { bytes, expected } => (Some(format!("{expected} bytes")), Some(format!("{bytes} bytes"))),
        _ => (None, None),
    };
    let lsn = file.header.as_ref().map_or(Lsn::ZERO, |header| Lsn::new(header.epoch, geometry.segment_bytes(), 0));
    Some(Finding { file: Some(file.id), lsn, what: problem.to_string(), expected, actual, ..nowhere() })
}

/// Compares the chains of each two logs at the highest mark that both know.
fn compare(logs: &[(PathBuf, Conclusion)], report: &mut Report) {
    for pair in logs.windows(2) {
        let [(first_path, first), (second_path, second)] = pair else { continue };
        if log_number(first_path) != log_number(second_path) {
            continue;
        }
        let first_is_short = first.summary.mark.slot <= second.summary.mark.slot;
        let (short, long) = if first_is_short { (first, second) } else { (second, first) };
        let theirs = long.index.mark_at(short.summary.mark.slot);
        if let Some(theirs) = theirs.filter(|theirs| theirs.chain != short.summary.mark.chain) {
            report.differences.push(format!(
                "{} and {} DIFFER: at slot {} one has chain {}, the other {}; run `synod-tools audit` on all members",
                first_path.display(),
                second_path.display(),
                theirs.slot,
                short.summary.mark.chain,
                theirs.chain
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_work() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let work: VecDeque<u32> = (0..50).collect();
        let doubled = in_parallel(root.path(), Reading::Plain, 4, work, |_, number| number * 2);
        assert_eq!(doubled, (0..50).map(|number| number * 2).collect::<Vec<u32>>());
    }
}
