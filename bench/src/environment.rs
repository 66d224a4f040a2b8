//! Where a number was measured: without it, the number says nothing.

use std::fs;
use std::path::Path;
use std::thread;

use rustix::system::uname;
use serde::Serialize;

use crate::place;

/// The machine, as far as it matters.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Environment {
    pub(crate) version: &'static str,
    pub(crate) build: &'static str,
    pub(crate) kernel: String,
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory_mib: u64,
    pub(crate) file_system: String,
    pub(crate) device: String,
    pub(crate) write_cache: String,
    pub(crate) force_unit_access: String,
    /// Of the last minute.
    pub(crate) load_average: f64,
    /// What this program was asked.
    pub(crate) command: String,
}

impl Environment {
    pub(crate) fn look(directory: &Path) -> Environment {
        let uname = uname();
        let device = device_of(directory);
        let queue = |name: &str| {
            let text = fs::read_to_string(format!("/sys/class/block/{device}/queue/{name}"))
                .or_else(|_| fs::read_to_string(format!("/sys/class/block/{device}/../queue/{name}")));
            text.map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
        };
        Environment {
            version: env!("CARGO_PKG_VERSION"),
            build: if cfg!(debug_assertions) { "debug (slow: use --release)" } else { "release" },
            kernel: uname.release().to_string_lossy().into_owned(),
            cpu: field("/proc/cpuinfo", "model name"),
            cores: thread::available_parallelism().map_or(0, usize::from),
            memory_mib: field("/proc/meminfo", "MemTotal")
                .split_whitespace()
                .next()
                .and_then(|kib| kib.parse::<u64>().ok())
                .unwrap_or(0)
                >> 10,
            file_system: place::file_system(directory),
            write_cache: queue("write_cache"),
            force_unit_access: queue("fua"),
            device,
            load_average: fs::read_to_string("/proc/loadavg")
                .ok()
                .and_then(|text| text.split_whitespace().next()?.parse().ok())
                .unwrap_or(0.0),
            command: std::env::args().skip(1).fold("synod-bench".to_owned(), |line, word| line + " " + &word),
        }
    }
}

impl Environment {
    /// For people; `directory` is where the replicas were.
    pub(crate) fn text(&self, directory: &str) -> String {
        format!(
            "machine           {} cores, {}, {} MiB, Linux {}\n\
             disk              {} on {} (write cache: {}, FUA: {}), {directory}\n\
             build             synod {} {}",
            self.cores,
            self.cpu,
            self.memory_mib,
            self.kernel,
            self.file_system,
            self.device,
            self.write_cache,
            self.force_unit_access,
            self.version,
            self.build
        )
    }
}

fn field(path: &str, name: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(name)).and_then(|line| line.split_once(':'));
    line.map_or_else(|| "unknown".to_owned(), |(_, value)| value.trim().to_owned())
}

/// The block device under the mount that holds `directory`: the longest mount point that is a prefix of it.
fn device_of(directory: &Path) -> String {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let directory = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
    let holds = |line: &&str| line.split(' ').nth(4).is_some_and(|at| directory.starts_with(at));
    let depth = |line: &&str| line.split(' ').nth(4).map_or(0, str::len);
    let source = mounts.lines().filter(holds).max_by_key(depth).and_then(|line| {
        let (_, after) = line.split_once(" - ")?;
        after.split(' ').nth(1)
    });
    source.map_or_else(|| "unknown".to_owned(), |source| source.trim_start_matches("/dev/").to_owned())
}
