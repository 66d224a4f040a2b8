//! Finding a directory on a real file system with room for the run.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::statfs;

/// File systems that live in memory: a sync there proves nothing.
const MEMORY_FILE_SYSTEMS: [(u64, &str); 2] = [(0x0102_1994, "tmpfs"), (0x8584_58f6, "ramfs")];

/// Names of common file systems, for the report.
const FILE_SYSTEMS: [(u64, &str); 6] = [
    (0xef53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683e, "btrfs"),
    (0x2fc1_2fc1, "zfs"),
    (0x794c_7630, "overlayfs"),
    (0x6969, "nfs"),
];

/// A directory that suits, or the reason why none does.
///
/// # Errors
/// If the directory named doesn't suit, or none of the usual ones.
pub(crate) fn choose(named: Option<&Path>, bytes_needed: u64) -> Result<PathBuf> {
    if let Some(named) = named {
        suits(named, bytes_needed)?;
        return Ok(named.to_owned());
    }
    let candidates = [
        Some(env::temp_dir()),
        Some(PathBuf::from("/var/tmp")),
        env::var_os("HOME").map(PathBuf::from),
        env::current_dir().ok(),
    ];
    let mut reasons = Vec::new();
    for candidate in candidates.into_iter().flatten() {
        match suits(&candidate, bytes_needed) {
            Ok(()) => return Ok(candidate),
            Err(reason) => reasons.push(format!("  {reason:#}")),
        }
    }
    bail!(
        "no directory for the replicas; name one on a real file system with --dir, or ask for less with --retention:\n{}",
        reasons.join("\n")
    )
}

fn suits(directory: &Path, bytes_needed: u64) -> Result<()> {
    let shown = directory.display();
    let fs = statfs(directory).with_context(|| format!("{shown}: no such directory"))?;
    let magic = fs.f_type as u64 & 0xffff_ffff;
    if let Some((_, name)) = MEMORY_FILE_SYSTEMS.iter().find(|(known, _)| *known == magic) {
        bail!(
            "{shown} is on {name}, which keeps files in memory: nothing is durable there, so the number would mean nothing"
        );
    }
    let free = fs.f_bavail.saturating_mul(fs.f_bsize as u64);
    if free < bytes_needed {
        bail!("{shown} has {} MiB free, the run needs {} MiB", free >> 20, bytes_needed >> 20);
    }
    tempfile::Builder::new()
        .prefix(".synod-bench-")
        .tempfile_in(directory)
        .with_context(|| format!("{shown} can't be written"))?;
    Ok(())
}

/// The name of the file system that `directory` is on.
pub(crate) fn file_system(directory: &Path) -> String {
    let Ok(fs) = statfs(directory) else { return "unknown".to_owned() };
    let magic = fs.f_type as u64 & 0xffff_ffff;
    FILE_SYSTEMS
        .iter()
        .chain(&MEMORY_FILE_SYSTEMS)
        .find(|(known, _)| *known == magic)
        .map_or_else(|| format!("magic {magic:#x}"), |(_, name)| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_no_disk() {
        let shm = Path::new("/dev/shm");
        if shm.exists() && file_system(shm) == "tmpfs" {
            let refusal = suits(shm, 0).expect_err("tmpfs is refused").to_string();
            assert!(refusal.contains("tmpfs"), "{refusal}");
        }
    }

    #[test]
    fn more_than_there_is_can_not_be_had() {
        let here = env::current_dir().expect("tests run somewhere");
        let refusal = choose(Some(&here), u64::MAX).expect_err("nobody has that much").to_string();
        assert!(refusal.contains("MiB free") || refusal.contains("memory"), "{refusal}");
    }
}
