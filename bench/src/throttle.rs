//! A slow disk under one process: its control group may write to the device only so many times a second.
//!
//! The kernel does this, to real requests on their way to the disk; the process doesn't know. It takes root, and a kernel with
//! control groups for block devices (version 1, or version 2 with the `io` controller).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{major, minor, stat};

/// Requests a second that are left. A durable write of a block on a good disk takes a hundredth of what it takes then.
pub(crate) const REQUESTS_PER_SECOND: u32 = 100;

/// A control group that slows the processes in it; they leave it when this is dropped.
#[derive(Debug)]
pub(crate) struct Throttle {
    group: PathBuf,
    /// Where the process was before.
    home: PathBuf,
    process: Option<u32>,
}

/// What the kernel has.
struct Control {
    root: PathBuf,
    is_first_version: bool,
}

impl Throttle {
    /// Whether it can be done for files in a directory.
    ///
    /// # Errors
    /// If it can't: what is missing.
    pub(crate) fn probe(directory: &Path) -> Result<()> {
        Throttle::group(directory, std::process::id()).map(drop)
    }

    /// Slows a process whose files are in a directory.
    ///
    /// # Errors
    /// As [`Throttle::probe`]; or if the process is gone.
    pub(crate) fn begin(directory: &Path, process: u32) -> Result<Throttle> {
        let mut throttle = Throttle::group(directory, process)?;
        throttle.process = Some(process);
        enter(&throttle.group, process).context("moving a replica into its control group")?;
        Ok(throttle)
    }

    /// A group with its limit and without processes.
    fn group(directory: &Path, process: u32) -> Result<Throttle> {
        let needs = "slow-disk needs root, and control groups for block devices (cgroup blkio, or cgroup2 with io)";
        let control = control().context(needs)?;
        let device = device_of(directory)?;
        let group = control.root.join(format!("synod-bench-{process}-{}", std::process::id()));
        let home = control.home(process);
        fs::create_dir(&group).with_context(|| format!("{needs}: making {}", group.display()))?;
        let throttle = Throttle { group, home, process: None };
        let (file, limit) = if control.is_first_version {
            ("blkio.throttle.write_iops_device", format!("{device} {REQUESTS_PER_SECOND}"))
        } else {
            ("io.max", format!("{device} wiops={REQUESTS_PER_SECOND}"))
        };
        fs::write(throttle.group.join(file), limit).with_context(|| format!("{needs}: setting {file}"))?;
        Ok(throttle)
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        // A process that has ended has left already.
        if let Some(process) = self.process.take() {
            let _ = enter(&self.home, process);
        }
        if let Err(error) = fs::remove_dir(&self.group) {
            tracing::warn!(group = %self.group.display(), %error, "a control group is left behind");
        }
    }
}

fn enter(group: &Path, process: u32) -> io::Result<()> {
    fs::write(group.join("cgroup.procs"), process.to_string())
}

/// The hierarchy for block devices, by what is mounted.
fn control() -> Result<Control> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("reading what is mounted")?;
    let find = |kind: &str, option: &str| {
        mounts.lines().find_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            let mut after = after.split(' ');
            let is_it =
                after.next() == Some(kind) && after.nth(1)?.split(',').any(|one| option.is_empty() || one == option);
            is_it.then(|| PathBuf::from(before.split(' ').nth(4).unwrap_or_default()))
        })
    };
    if let Some(root) = find("cgroup", "blkio") {
        return Ok(Control { root, is_first_version: true });
    }
    let Some(root) = find("cgroup2", "") else { bail!("no control groups are mounted") };
    let controllers = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
    if !controllers.split_whitespace().any(|one| one == "io") {
        bail!("{} has no controller for block devices", root.display());
    }
    fs::write(root.join("cgroup.subtree_control"), "+io").context("letting groups limit block devices")?;
    Ok(Control { root, is_first_version: false })
}

impl Control {
    /// The group in which a process is now.
    fn home(&self, process: u32) -> PathBuf {
        let groups = fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap_or_default();
        let path = groups.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            let is_it = if self.is_first_version {
                controllers.split(',').any(|one| one == "blkio")
            } else {
                controllers.is_empty()
            };
            is_it.then(|| path.trim_start_matches('/').to_owned())
        });
        self.root.join(path.unwrap_or_default())
    }
}

/// Numbers of the whole device under a directory: limits aren't for partitions.
fn device_of(directory: &Path) -> Result<String> {
    let device = stat(directory).with_context(|| format!("looking at {}", directory.display()))?.st_dev;
    let numbers = format!("{}:{}", major(device), minor(device));
    let block = PathBuf::from(format!("/sys/dev/block/{numbers}"));
    if !block.exists() {
        bail!("slow-disk needs a file system on one block device, which {} isn't on", directory.display());
    }
    if !block.join("partition").exists() {
        return Ok(numbers);
    }
    let whole = block.canonicalize().context("finding the device of a partition")?.join("../dev");
    Ok(fs::read_to_string(whole).context("finding the device of a partition")?.trim().to_owned())
}
