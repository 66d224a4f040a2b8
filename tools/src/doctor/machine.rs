//! The host: kernel, limits, cores, clock.

use std::fs;

use rustix::process::Resource;
use synod::ProbeError;
use synod::host;

use super::Check;

/// Open files that a node should be allowed: connections and segments.
const FILES_MIN: u64 = 4096;

/// Clock sources that cost a system call or an access to a device each time.
const SLOW_CLOCKS: [&str; 4] = ["hpet", "acpi_pm", "jiffies", "refined-jiffies"];

/// Looks at everything; nothing is an error.
pub(super) fn checks(io_memory_bytes: u64) -> Vec<Check> {
    vec![kernel(), io_uring(), memlock(io_memory_bytes), open_files(), cores(), quota(), clock()]
        .into_iter()
        .flatten()
        .collect()
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn kernel() -> Option<Check> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    Some(match version(&release) {
        version if version < (5, 8) => Check::fail("kernel", release, "upgrade to Linux 5.8 or later: `uname -r`"),
        version if version < (5, 15) => {
            Check::warn("kernel", release, "5.15 or later has fixes to io_uring: upgrade with the distribution's tools")
        }
        _ => Check::ok("kernel", release),
    })
}

fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn io_uring() -> Option<Check> {
    let setting = read("/proc/sys/kernel/io_uring_disabled");
    let told = setting.map_or_else(String::new, |setting| format!(", kernel.io_uring_disabled = {setting}"));
    Some(match host::uring() {
        Ok(()) => Check::ok("io_uring", format!("works, with all operations that a node needs{told}")),
        Err(error) => Check::fail("io_uring", format!("{}{told}{}", cause(&error), seccomp()), remedy(&error)),
    })
}

/// Who blocks io_uring. The sentence of the error has the remedy in it too, which stands in its own column here.
fn cause(error: &ProbeError) -> String {
    match error {
        ProbeError::UringDisabled { .. } => "switched off by the administrator".to_owned(),
        ProbeError::UringRefused { source } => {
            format!("refused ({source}), most likely by a container's seccomp profile")
        }
        other => other.to_string(),
    }
}

fn seccomp() -> String {
    let status = read("/proc/self/status").unwrap_or_default();
    let mode = status.lines().find_map(|line| line.strip_prefix("Seccomp:")).map(str::trim);
    match mode {
        Some("2") => ", a seccomp filter is on".to_owned(),
        Some("0") => ", no seccomp filter is on".to_owned(),
        _ => String::new(),
    }
}

fn remedy(error: &ProbeError) -> &'static str {
    match error {
        ProbeError::UringDisabled { .. } => "`sysctl -w kernel.io_uring_disabled=0`",
        ProbeError::UringRefused { .. } => {
            "allow io_uring_setup, io_uring_enter and io_uring_register: `docker run --security-opt seccomp=PROFILE.json`"
        }
        ProbeError::UringFailed { .. } => "`ulimit -n 65536` and `ulimit -l unlimited`",
        _ => "upgrade to Linux 5.8 or later: `uname -r`",
    }
}

fn memlock(io_memory_bytes: u64) -> Option<Check> {
    let mending = format!(
        "`ulimit -l {}`, or `LimitMEMLOCK={}K` in the unit",
        io_memory_bytes.max(host::MEMLOCK_MIN_BYTES) >> 10,
        io_memory_bytes.max(host::MEMLOCK_MIN_BYTES) >> 10
    );
    Some(match host::memlock() {
        Err(_) => {
            let limit = rustix::process::getrlimit(Resource::Memlock).current.unwrap_or(0);
            let least = host::MEMLOCK_MIN_BYTES >> 10;
            Check::fail("locked memory", format!("{} KiB, a node needs {least} KiB at least", limit >> 10), mending)
        }
        Ok(None) => Check::ok("locked memory", "unlimited"),
        // Buffers that can't be registered are used unregistered: that works, and costs a little more.
        Ok(Some(limit)) if limit < io_memory_bytes => {
            let found =
                format!("{} KiB: enough, though not to register {} KiB of buffers", limit >> 10, io_memory_bytes >> 10);
            Check { next: Some(mending), ..Check::note("locked memory", found) }
        }
        Ok(Some(limit)) => Check::ok("locked memory", format!("{} KiB", limit >> 10)),
    })
}

fn open_files() -> Option<Check> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    Some(match limit.current {
        None => Check::ok("open files", "unlimited"),
        Some(files) if files < FILES_MIN => {
            Check::warn("open files", files.to_string(), "`ulimit -n 65536`, or `LimitNOFILE=65536` in the unit")
        }
        Some(files) => Check::ok("open files", files.to_string()),
    })
}

fn cores() -> Option<Check> {
    let allowed = host::allowed_cores().len();
    let online = read("/sys/devices/system/cpu/online").map_or(allowed, |ranges| count(&ranges));
    let found = format!("{allowed} of {online} may be used");
    Some(if allowed < 2 {
        Check::warn("cores", found, "give the node two or more: `taskset -c 0-3 synod serve ...`, or a larger cpuset")
    } else {
        Check::ok("cores", found)
    })
}

/// How many numbers a list like `0-3,6` has.
fn count(ranges: &str) -> usize {
    let one = |range: &str| match range.split_once('-') {
        Some((first, last)) => Some(last.parse::<usize>().ok()?.checked_sub(first.parse().ok()?)? + 1),
        None => range.parse::<usize>().ok().map(|_| 1),
    };
    ranges.split(',').filter_map(one).sum()
}

/// A container's share of the cores stalls whole processes, which looks like a slow disk.
fn quota() -> Option<Check> {
    let max = read("/sys/fs/cgroup/cpu.max")?;
    let (quota, period) = max.split_once(' ')?;
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    let found = format!("the control group may use {:.1} cores' time", quota / period);
    Some(if quota / period < 2.0 {
        Check::warn("cpu quota", found, "`echo max > /sys/fs/cgroup/cpu.max`, or a larger limit of the container")
    } else {
        Check::note("cpu quota", found)
    })
}

fn clock() -> Option<Check> {
    let directory = "/sys/devices/system/clocksource/clocksource0";
    let current = read(&format!("{directory}/current_clocksource"))?;
    Some(if SLOW_CLOCKS.contains(&current.as_str()) {
        let others = read(&format!("{directory}/available_clocksource")).unwrap_or_default();
        let better = others.split_whitespace().find(|other| !SLOW_CLOCKS.contains(other));
        let next = match better {
            Some(better) => format!("`echo {better} > {directory}/current_clocksource`"),
            None => "the kernel trusts no faster one: see `dmesg | grep -i clocksource`".to_owned(),
        };
        Check::warn("clock source", format!("{current}: slow to read"), next)
    } else {
        Check::ok("clock source", current)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State;

    #[test]
    fn lists_of_cores_are_counted() {
        assert_eq!((count("0"), count("0-3"), count("0-1,4,6-7")), (1, 4, 5));
        assert_eq!((count(""), count("x"), count("3-1")), (0, 0, 0));
    }

    #[test]
    fn releases_are_read_by_number() {
        assert_eq!(version("6.18.44-generic"), (6, 18));
        assert!(version("5.10.0") > version("5.8.99"));
        assert_eq!(version("strange"), (0, 0));
    }

    #[test]
    fn every_refusal_of_a_ring_has_its_own_remedy() {
        let refused = || std::io::Error::from_raw_os_error(1);
        let errors = [
            ProbeError::UringDisabled { setting: 2 },
            ProbeError::UringRefused { source: refused() },
            ProbeError::UringFailed { source: refused() },
            ProbeError::NoUring { kernel: "4.19".to_owned() },
        ];
        let remedies: std::collections::BTreeSet<&str> = errors.iter().map(remedy).collect();
        assert_eq!(remedies.len(), errors.len());
        assert!(remedies.iter().all(|remedy| remedy.contains('`')), "each names a command");
    }

    #[test]
    fn too_little_locked_memory_names_the_command_that_mends_it() {
        let checks = checks(1 << 40);
        let memlock = checks.iter().find(|check| check.check == "locked memory").unwrap();
        let unlimited = memlock.found == "unlimited";
        assert!(unlimited || memlock.next.as_ref().unwrap().contains("ulimit -l 1073741824"), "{memlock:?}");
        assert!(checks.iter().all(|check| check.state < State::Warn || check.next.is_some()));
    }
}
