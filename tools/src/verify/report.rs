//! What `verify` says.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use synod_wal::verify::{Class, Conclusion, Finding};

use crate::output::{Align, Row};
use crate::source::Source;

/// All directories.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    pub(super) directories: Vec<DirectoryReport>,
    /// Directories that have no log yet.
    pub(super) not_bootstrapped: Vec<String>,
    /// Where two directories contradict each other.
    pub(super) differences: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) measured: Option<Measured>,
}

/// One directory.
#[derive(Debug, Serialize)]
pub(super) struct DirectoryReport {
    directory: String,
    node: u32,
    running: bool,
    sound: bool,
    segments: u64,
    records: u64,
    records_discarded: u64,
    bytes: u64,
    slots_first: u64,
    slots_end: u64,
    chain: String,
    promised: String,
    proven: u64,
    corrupt: usize,
    doubtful: usize,
    latent: usize,
    torn: usize,
}

/// How fast the files were read.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Measured {
    bytes: u64,
    /// Only reading.
    disk_seconds: f64,
    disk_mib_per_second: f64,
    /// Reading and checking.
    verify_seconds: f64,
    verify_mib_per_second: f64,
    /// The one as a part of the other.
    share_of_disk: f64,
}

impl Measured {
    /// So much more was read without checking it.
    pub(super) fn disk(&mut self, bytes: u64, took: Duration) {
        self.bytes += bytes;
        self.disk_seconds += took.as_secs_f64();
        self.disk_mib_per_second = self.bytes as f64 / (1 << 20) as f64 / self.disk_seconds.max(1e-9);
    }

    /// So much of it was checked.
    pub(super) fn verify(&mut self, _bytes: u64, took: Duration) {
        self.verify_seconds += took.as_secs_f64();
        self.verify_mib_per_second = self.bytes as f64 / (1 << 20) as f64 / self.verify_seconds.max(1e-9);
        self.share_of_disk = self.disk_seconds / self.verify_seconds.max(1e-9);
    }
}

impl DirectoryReport {
    pub(super) fn new(source: &Source, conclusion: &Conclusion, bytes: u64) -> DirectoryReport {
        let summary = &conclusion.summary;
        let count = |class: Class| conclusion.findings.iter().filter(|finding| finding.class == class).count();
        DirectoryReport {
            directory: source.path.display().to_string(),
            node: source.identity.node.0,
            running: source.live,
            sound: conclusion.findings.iter().all(|finding| !finding.class.is_damage()),
            segments: summary.segments,
            records: summary.records,
            records_discarded: summary.records_discarded,
            bytes,
            slots_first: summary.base.slot.0,
            slots_end: summary.mark.slot.0,
            chain: summary.mark.chain.to_string(),
            promised: summary.promised.to_string(),
            proven: summary.proven.0,
            corrupt: count(Class::Corrupt),
            doubtful: count(Class::Doubtful),
            latent: count(Class::Latent),
            torn: count(Class::Torn),
        }
    }
}

impl fmt::Display for DirectoryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.directory)?;
        if self.sound {
            f.write_str("sound")?;
        } else {
            write!(f, "DAMAGED ({} corrupt, {} doubtful, {} latent)", self.corrupt, self.doubtful, self.latent)?;
        }
        write!(
            f,
            ": {} records in {} segments, slots {}..{} chosen with chain {}, promised {}",
            self.records, self.segments, self.slots_first, self.slots_end, self.chain, self.promised
        )?;
        match (self.torn, self.running) {
            (0, _) => Ok(()),
            (_, true) => f.write_str("; the end is being written"),
            (_, false) => write!(
                f,
                "; recovery will cut an unfinished end, with {} records behind it that were never durable",
                self.records_discarded
            ),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines: Vec<String> = self.directories.iter().map(ToString::to_string).collect();
        lines.extend(self.not_bootstrapped.iter().map(|path| format!("{path}: not bootstrapped, nothing to verify")));
        lines.extend(self.differences.iter().cloned());
        if let Some(measured) = &self.measured {
            lines.push(format!(
                "verified {} MiB at {:.0} MiB/s; the files alone are read at {:.0} MiB/s, so that is {:.0} %",
                measured.bytes >> 20,
                measured.verify_mib_per_second,
                measured.disk_mib_per_second,
                100.0 * measured.share_of_disk
            ));
        }
        f.write_str(&lines.join("\n"))
    }
}

/// One finding.
#[derive(Debug, Serialize)]
pub(super) struct FindingRow {
    directory: String,
    node: u32,
    class: &'static str,
    file: Option<String>,
    offset: Option<u64>,
    position: Option<u64>,
    slots_first: Option<u64>,
    /// None with a first slot: from there on, nobody knows how far.
    slots_end: Option<u64>,
    what: String,
    expected: Option<String>,
    actual: Option<String>,
    /// What to do about it.
    next: String,
}

impl FindingRow {
    pub(super) fn new(source: &Source, finding: &Finding) -> FindingRow {
        let directory = source.path.display().to_string();
        FindingRow {
            node: source.identity.node.0,
            class: finding.class.name(),
            file: finding.file.map(|file| file.to_string()),
            offset: finding.file.map(|_| finding.offset),
            position: (finding.lsn.0 != 0).then_some(finding.lsn.0),
            slots_first: finding.slots.as_ref().map(|slots| slots.start.0),
            slots_end: finding.slots.as_ref().map(|slots| slots.end.0).filter(|end| *end != u64::MAX),
            what: finding.what.clone(),
            expected: finding.expected.clone(),
            actual: finding.actual.clone(),
            next: next(finding.class, &directory),
            directory,
        }
    }

    pub(super) fn is_damage(&self) -> bool {
        self.class != Class::Torn.name()
    }
}

/// The command to run next.
fn next(class: Class, directory: &str) -> String {
    match class {
        Class::Torn => "nothing: the node cuts it when it starts".to_owned(),
        // The votes are whole, so what describes them may be written anew.
        Class::Latent => format!("stop the node, then `synod-tools compact {directory}`"),
        Class::Doubtful | Class::Corrupt => {
            format!("stop the node, then `synod-tools repair {directory} --to COPY --from DIRECTORY-OF-A-PEER`")
        }
    }
}

impl Row for FindingRow {
    const COLUMNS: &'static [(&'static str, Align)] = &[
        ("node", Align::Right),
        ("class", Align::Left),
        ("file", Align::Left),
        ("offset", Align::Right),
        ("position", Align::Right),
        ("slots", Align::Left),
        ("what", Align::Left),
        ("expected", Align::Left),
        ("actual", Align::Left),
        ("next", Align::Left),
    ];

    fn cells(&self) -> Vec<String> {
        let dash = |text: Option<&String>| text.cloned().unwrap_or_else(|| "-".to_owned());
        let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        let slots = match (self.slots_first, self.slots_end) {
            (Some(first), Some(end)) => format!("{first}..{end}"),
            (Some(first), None) => format!("{first}.."),
            _ => "-".to_owned(),
        };
        vec![
            self.node.to_string(),
            self.class.to_owned(),
            dash(self.file.as_ref()),
            number(self.offset),
            self.position.map_or_else(|| "-".to_owned(), |position| format!("{position:#x}")),
            slots,
            self.what.clone(),
            dash(self.expected.as_ref()),
            dash(self.actual.as_ref()),
            self.next.clone(),
        ]
    }
}
