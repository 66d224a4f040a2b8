//! A directory and what is under it: file system, direct I/O, room, device, and whose it is.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use synod::{ProbeError, host};
use synod_wal::directory::{self, OpenError};
use synod_wal::{POOL_FILES_MIN, SEGMENT_BYTES_DEFAULT};

use super::Check;

/// File systems on other machines, by the magic number of statfs(2): a sync there is a promise of somebody else.
const NETWORK: [(u64, &str); 6] = [
    (0x6969, "nfs"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb2"),
    (0x0102_1997, "9p"),
    (0x00c3_6400, "ceph"),
    (0x0bd0_0bd0, "lustre"),
];

/// What a node does without, but with surprises.
const LAYERED: [&str; 2] = ["overlayfs", "fuse"];

/// Looks at a directory; whether its disk can be measured.
pub(super) fn checks(directory: &Path, checks: &mut Vec<Check>) -> bool {
    let file_system = match host::file_system(directory) {
        Ok(name) => name,
        Err(error @ ProbeError::Volatile { .. }) => {
            let next = "use a directory on a disk: `findmnt -t ext4,xfs` lists them";
            checks.push(Check::fail("file system", error.to_string(), next));
            return false;
        }
        Err(error) => {
            let next = format!("`mkdir -m 700 -p {0} && chown $USER {0}`", directory.display());
            checks.push(Check::fail("directory", error.to_string(), next));
            return false;
        }
    };
    checks.push(file_system_check(directory, &file_system));
    let direct = direct_io(directory, &file_system);
    let usable = direct.state < super::State::Fail;
    checks.push(direct);
    checks.extend(room(directory));
    checks.push(device(directory));
    checks.extend(owner(directory));
    usable
}

fn file_system_check(directory: &Path, name: &str) -> Check {
    let magic = rustix::fs::statfs(directory).map_or(0, |found| found.f_type as u64 & 0xffff_ffff);
    let next = "use a directory on ext4 or xfs of a local disk: `findmnt -t ext4,xfs` lists them";
    match NETWORK.iter().find(|(known, _)| *known == magic) {
        Some((_, network)) => Check::fail("file system", format!("{network}, on another machine"), next),
        None if LAYERED.contains(&name) => {
            Check::warn("file system", format!("{name}: what a sync does there depends on what is under it"), next)
        }
        None => Check::ok("file system", name),
    }
}

fn direct_io(directory: &Path, file_system: &str) -> Check {
    match host::direct_io(directory, file_system) {
        Ok(Some(unit)) => Check::ok("direct I/O", format!("in units of {unit} bytes; the log's blocks have 4096")),
        Ok(None) => Check::ok("direct I/O", "works; the kernel doesn't tell its unit"),
        Err(error @ ProbeError::Directory { .. }) => {
            let next = format!("`chmod u+rwx {0} && chown $USER {0}`, or make room: `df -h {0}`", directory.display());
            Check::fail("direct I/O", error.to_string(), next)
        }
        Err(error) => {
            let next = "use a directory on ext4 or xfs of a local disk: `findmnt -t ext4,xfs` lists them";
            Check::fail("direct I/O", error.to_string(), next)
        }
    }
}

fn room(directory: &Path) -> Option<Check> {
    let found = rustix::fs::statvfs(directory).ok()?;
    let (free, total) = (found.f_bavail.saturating_mul(found.f_frsize), found.f_blocks.saturating_mul(found.f_frsize));
    let told = format!("{} MiB free of {}", free >> 20, total >> 20);
    let wanted = POOL_FILES_MIN as u64 * SEGMENT_BYTES_DEFAULT;
    // A store that is there has its files already.
    let small = free < wanted && !directory.join("identity").exists();
    Some(if small {
        let next = format!(
            "make room for {} MiB: `df -h {}`; or smaller segments: `synod init --segment-size 4194304`",
            wanted >> 20,
            directory.display()
        );
        Check::warn("room", told, next)
    } else {
        Check::ok("room", told)
    })
}

/// The block device under a directory, by its directory in sysfs.
fn sysfs(directory: &Path) -> Option<PathBuf> {
    let device = fs::metadata(directory).ok()?.dev();
    let number = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    fs::canonicalize(Path::new("/sys/dev/block").join(number)).ok()
}

fn device(directory: &Path) -> Check {
    let Some(path) = sysfs(directory) else {
        return Check::note("disk", "no block device of its own: its write cache can't be told");
    };
    let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    // A partition has the queue of its disk.
    let queue = |file: &str| {
        let found = fs::read_to_string(path.join("queue").join(file));
        let found = found.or_else(|_| fs::read_to_string(path.join("../queue").join(file)));
        found.ok().map(|text| text.trim().to_owned())
    };
    let (cache, fua) = (queue("write_cache"), queue("fua"));
    let cached = match (cache.as_deref(), fua.as_deref()) {
        (Some("write through"), _) => "no volatile write cache".to_owned(),
        (Some(cache), Some("1")) => format!("write cache: {cache}, FUA: a durable write needs no flush"),
        (Some(cache), _) => format!("write cache: {cache}, no FUA: every sync flushes the cache"),
        (None, _) => "write cache unknown".to_owned(),
    };
    let found = format!("{name}: {cached}");
    if queue("rotational").as_deref() == Some("1") && !name.starts_with("vd") {
        // A spindle turns once in 8 ms, and so does every sync. Virtual disks say so without having one.
        Check::warn("disk", format!("{found}; it says that it rotates"), "`lsblk -d -o NAME,ROTA,MODEL` shows others")
    } else {
        Check::ok("disk", found)
    }
}

/// Whose directory it is, if it is one already.
fn owner(directory: &Path) -> Option<Check> {
    let identity = match directory::read_identity(directory) {
        Ok(identity) => identity,
        Err(OpenError::NotInitialised(_)) => return None,
        Err(error) => {
            let next =
                format!("restore the file from a copy; `synod-tools verify {}` looks at the rest", directory.display());
            return Some(Check::fail("store", error.to_string(), next));
        }
    };
    let mode = fs::metadata(directory).map_or(0, |found| found.permissions().mode() & 0o7777);
    let whose =
        format!("node {}, segments of {} MiB", identity.node.0, identity.segment_bytes as f64 / (1 << 20) as f64);
    Some(if mode & 0o022 != 0 {
        Check::fail(
            "store",
            format!("{whose}; others may write to it (mode {mode:o})"),
            format!("`chmod 700 {}`", directory.display()),
        )
    } else if identity.cluster.is_none() {
        Check::note("store", format!("{whose}; not bootstrapped yet"))
    } else {
        Check::ok("store", whose)
    })
}
