//! Looks at the host before anything else does, and says in one sentence what is missing and what to do about it.
//!
//! The runtime below panics, or ends the process, on a host where io_uring is blocked; the files it opens lose
//! O_DIRECT silently on tmpfs. So each condition is tried here first, in the order in which it would strike.

use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use io_uring::{IoUring, Probe, opcode};
use rustix::fs::{AtFlags, CWD, OFlags, StatxFlags};
use rustix::process::Resource;
use thiserror::Error;

/// Least locked memory that the runtime insists on.
pub const MEMLOCK_MIN_BYTES: u64 = 512 << 10;

/// Largest unit of direct I/O that the log is laid out for.
const DIRECT_UNIT_MAX_BYTES: u32 = 4096;

/// What the host offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostReport {
    /// Kernel release.
    pub kernel: String,
    /// The cores that this process may run on.
    pub cores: Vec<usize>,
    /// Limit of locked memory in bytes; `None` if unlimited.
    pub memlock_bytes: Option<u64>,
    /// The file system of the directory.
    pub file_system: String,
    /// Alignment of direct I/O in bytes, if the kernel tells.
    pub direct_unit_bytes: Option<u32>,
}

impl fmt::Display for HostReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kernel {}, {} core(s), memlock ", self.kernel, self.cores.len())?;
        match self.memlock_bytes {
            Some(bytes) => write!(f, "{} KiB", bytes / 1024)?,
            None => f.write_str("unlimited")?,
        }
        write!(f, ", directory on {}", self.file_system)?;
        match self.direct_unit_bytes {
            Some(bytes) => write!(f, ", direct I/O in units of {bytes} bytes"),
            None => f.write_str(", direct I/O works (unit unknown)"),
        }
    }
}

/// Why a node can't run here. Each sentence ends with the remedy.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// The kernel has no io_uring.
    #[error("io_uring is missing: kernel {kernel} is too old or built without it; use Linux 5.8 or later")]
    NoUring {
        /// Kernel release.
        kernel: String,
    },
    /// io_uring is switched off for this process by the administrator.
    #[error(
        "io_uring is switched off (kernel.io_uring_disabled = {setting}); \
         run `sysctl -w kernel.io_uring_disabled=0` or, at 1, add the user to kernel.io_uring_group"
    )]
    UringDisabled {
        /// Value of the setting.
        setting: u32,
    },
    /// io_uring is refused although the kernel would allow it, most likely by a container's seccomp profile.
    #[error(
        "io_uring is refused ({source}), most likely by a container's seccomp profile (Docker and containerd block it \
         by default); allow io_uring_setup, io_uring_enter and io_uring_register in the profile"
    )]
    UringRefused {
        /// What the kernel answered.
        source: io::Error,
    },
    /// io_uring can't be set up for another reason.
    #[error("io_uring can't be set up ({source}); check the limits of open files and locked memory")]
    UringFailed {
        /// What the kernel answered.
        source: io::Error,
    },
    /// The kernel has io_uring, but not all that is needed.
    #[error("kernel {kernel} is too old: its io_uring lacks {missing}; use Linux 5.8 or later")]
    UringOperation {
        /// Kernel release.
        kernel: String,
        /// First operation that is missing.
        missing: &'static str,
    },
    /// Not enough locked memory allowed.
    #[error(
        "the limit of locked memory is {limit_bytes} bytes, {MEMLOCK_MIN_BYTES} are needed; raise it with \
         `ulimit -l`, `LimitMEMLOCK=` of the systemd unit, or /etc/security/limits.conf"
    )]
    Memlock {
        /// The limit now.
        limit_bytes: u64,
    },
    /// The directory can't be looked at.
    #[error("{} can't be used ({source}); it must be a directory that this user may write", .directory.display())]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The directory lives in memory.
    #[error("{} is on {file_system}, which is gone after a restart; use a directory on a disk", .directory.display())]
    Volatile {
        /// The directory.
        directory: PathBuf,
        /// Name of the file system.
        file_system: &'static str,
    },
    /// The file system has no direct I/O.
    #[error(
        "the file system of {} ({file_system}) has no O_DIRECT ({source}); use a directory on ext4, xfs or another \
         file system of a local disk",
        .directory.display()
    )]
    NoDirect {
        /// The directory.
        directory: PathBuf,
        /// Name of the file system.
        file_system: String,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The disk wants larger units than the log's blocks.
    #[error(
        "the disk of {} wants direct I/O in units of {unit_bytes} bytes, the log's blocks have {DIRECT_UNIT_MAX_BYTES}; \
         use another disk",
        .directory.display()
    )]
    DirectUnit {
        /// The directory.
        directory: PathBuf,
        /// What it wants.
        unit_bytes: u32,
    },
}

/// Checks that a node can run on this host with its files in `directory`.
///
/// Writes one small file of a random name into the directory and removes it again.
///
/// # Errors
/// The first thing that is missing, with its remedy.
pub fn probe(directory: &Path) -> Result<HostReport, ProbeError> {
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    probe_uring(&kernel)?;
    let memlock_bytes = memlock()?;
    let file_system = file_system(directory)?;
    let direct_unit_bytes = direct_io(directory, &file_system)?;
    Ok(HostReport { kernel, cores: allowed_cores(), memlock_bytes, file_system, direct_unit_bytes })
}

/// The cores that this process may run on; a container or `taskset` may allow fewer than the machine has.
pub fn allowed_cores() -> Vec<usize> {
    rustix::thread::sched_getaffinity(None)
        .map(|set| (0..rustix::thread::CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect())
        .unwrap_or_default()
}

/// Every operation that the runtime submits, by its number and name.
const OPERATIONS: &[(u8, &str)] = &[
    (opcode::Nop::CODE, "nop"),
    (opcode::Readv::CODE, "readv"),
    (opcode::Writev::CODE, "writev"),
    (opcode::Fsync::CODE, "fsync"),
    (opcode::ReadFixed::CODE, "read_fixed"),
    (opcode::WriteFixed::CODE, "write_fixed"),
    (opcode::PollAdd::CODE, "poll_add"),
    (opcode::PollRemove::CODE, "poll_remove"),
    (opcode::SendMsg::CODE, "sendmsg"),
    (opcode::RecvMsg::CODE, "recvmsg"),
    (opcode::Timeout::CODE, "timeout"),
    (opcode::TimeoutRemove::CODE, "timeout_remove"),
    (opcode::Accept::CODE, "accept"),
    (opcode::LinkTimeout::CODE, "link_timeout"),
    (opcode::Connect::CODE, "connect"),
    (opcode::Fallocate::CODE, "fallocate"),
    (opcode::OpenAt::CODE, "openat"),
    (opcode::Close::CODE, "close"),
    (opcode::Statx::CODE, "statx"),
    (opcode::Read::CODE, "read"),
    (opcode::Write::CODE, "write"),
    (opcode::Send::CODE, "send"),
    (opcode::Recv::CODE, "recv"),
];

/// Checks that io_uring can be used, with every operation that the runtime needs.
///
/// # Errors
/// What is in the way, and who put it there.
pub fn uring() -> Result<(), ProbeError> {
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    probe_uring(&kernel)
}

fn probe_uring(kernel: &str) -> Result<(), ProbeError> {
    let ring = IoUring::new(8).map_err(|source| uring_error(kernel, source))?;
    let mut supported = Probe::new();
    ring.submitter().register_probe(&mut supported).map_err(|source| uring_error(kernel, source))?;
    match OPERATIONS.iter().find(|(code, _)| !supported.is_supported(*code)) {
        Some((_, missing)) => Err(ProbeError::UringOperation { kernel: kernel.to_owned(), missing }),
        None => Ok(()),
    }
}

fn uring_error(kernel: &str, source: io::Error) -> ProbeError {
    let setting = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok();
    classify_uring_error(kernel, setting.and_then(|text| text.trim().parse().ok()).unwrap_or(0), source)
}

fn classify_uring_error(kernel: &str, disabled_setting: u32, source: io::Error) -> ProbeError {
    match source.kind() {
        io::ErrorKind::PermissionDenied if disabled_setting > 0 => {
            ProbeError::UringDisabled { setting: disabled_setting }
        }
        io::ErrorKind::PermissionDenied => ProbeError::UringRefused { source },
        // Some profiles answer ENOSYS where the kernel itself, going by its release, would know the call.
        _ if source.raw_os_error() == Some(rustix::io::Errno::NOSYS.raw_os_error()) && at_least_5_8(kernel) => {
            ProbeError::UringRefused { source }
        }
        _ if source.raw_os_error() == Some(rustix::io::Errno::NOSYS.raw_os_error()) => {
            ProbeError::NoUring { kernel: kernel.to_owned() }
        }
        io::ErrorKind::InvalidInput => {
            ProbeError::UringOperation { kernel: kernel.to_owned(), missing: "the probe of its operations" }
        }
        _ => ProbeError::UringFailed { source },
    }
}

fn at_least_5_8(kernel: &str) -> bool {
    let mut numbers = kernel.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version >= (5, 8)
}

/// The limit of locked memory in bytes; `None` if there is none.
///
/// # Errors
/// If it is too small for the runtime.
pub fn memlock() -> Result<Option<u64>, ProbeError> {
    match rustix::process::getrlimit(Resource::Memlock).current {
        Some(limit_bytes) if limit_bytes < MEMLOCK_MIN_BYTES => Err(ProbeError::Memlock { limit_bytes }),
        limit => Ok(limit),
    }
}

/// File systems by the magic number of statfs(2); the rest is told by number.
const FILE_SYSTEMS: &[(u64, &str)] = &[
    (0x0102_1994, "tmpfs"),
    (0x8584_58f6, "ramfs"),
    (0xef53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683e, "btrfs"),
    (0xf2f5_2010, "f2fs"),
    (0x2fc1_2fc1, "zfs"),
    (0x794c_7630, "overlayfs"),
    (0x6969, "nfs"),
    (0x6573_5546, "fuse"),
];

/// The name of the file system of a directory.
///
/// # Errors
/// If the directory can't be looked at, or lives in memory.
pub fn file_system(directory: &Path) -> Result<String, ProbeError> {
    let failed = |source: io::Error| ProbeError::Directory { directory: directory.to_owned(), source };
    if !fs::metadata(directory).map_err(failed)?.is_dir() {
        return Err(failed(io::ErrorKind::NotADirectory.into()));
    }
    let magic = rustix::fs::statfs(directory).map_err(|errno| failed(errno.into()))?.f_type as u32;
    let name = FILE_SYSTEMS.iter().find(|(known, _)| *known == u64::from(magic)).map(|(_, name)| *name);
    match name {
        Some(file_system @ ("tmpfs" | "ramfs")) => {
            Err(ProbeError::Volatile { directory: directory.to_owned(), file_system })
        }
        Some(name) => Ok(name.to_owned()),
        None => Ok(format!("a file system of type {magic:#x}")),
    }
}

/// The unit of direct I/O in a directory in bytes, if the kernel tells. Writes one small file of a random name and
/// removes it again.
///
/// # Errors
/// If there is no direct I/O, or only in larger units than the log's blocks.
pub fn direct_io(directory: &Path, file_system: &str) -> Result<Option<u32>, ProbeError> {
    let path = directory.join(format!(".probe-{}", uuid::Uuid::new_v4().simple()));
    let outcome = probe_direct_at(directory, &path, file_system);
    let _ = fs::remove_file(&path);
    outcome
}

fn probe_direct_at(directory: &Path, path: &Path, file_system: &str) -> Result<Option<u32>, ProbeError> {
    let failed = |source: io::Error| ProbeError::Directory { directory: directory.to_owned(), source };
    // An ordinary file first, so that a directory that can't be written isn't taken for one without O_DIRECT.
    let made = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    // A full disk is no reason not to start: the log has files of its own, and somebody must be there to trim it.
    let is_full = |error: &io::Error| matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    let path = match made.and_then(|mut file| file.write_all(&[0; 4096])) {
        Ok(()) => path.to_owned(),
        Err(error) if is_full(&error) => {
            if path.exists() {
                path.to_owned()
            } else {
                directory.join("identity")
            }
        }
        Err(error) => return Err(failed(error)),
    };
    let refused = |source: io::Error| ProbeError::NoDirect {
        directory: directory.to_owned(),
        file_system: file_system.to_owned(),
        source,
    };
    let flags = (OFlags::DIRECT | OFlags::NOFOLLOW).bits();
    fs::OpenOptions::new().read(true).write(true).custom_flags(flags as _).open(&path).map_err(refused)?;

    let status = rustix::fs::statx(CWD, &path, AtFlags::empty(), StatxFlags::DIOALIGN).map_err(|e| failed(e.into()))?;
    if status.stx_mask & StatxFlags::DIOALIGN.bits() == 0 {
        return Ok(None);
    }
    match status.stx_dio_offset_align.max(status.stx_dio_mem_align) {
        0 => Err(refused(io::ErrorKind::Unsupported.into())),
        unit_bytes if unit_bytes > DIRECT_UNIT_MAX_BYTES => {
            Err(ProbeError::DirectUnit { directory: directory.to_owned(), unit_bytes })
        }
        unit_bytes => Ok(Some(unit_bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classify(kernel: &str, setting: u32, errno: rustix::io::Errno) -> String {
        classify_uring_error(kernel, setting, errno.into()).to_string()
    }

    #[test]
    fn each_cause_of_a_refused_ring_is_told_apart() {
        use rustix::io::Errno;
        assert!(classify("6.8.0", 2, Errno::PERM).contains("kernel.io_uring_disabled = 2"));
        assert!(classify("6.8.0", 0, Errno::PERM).contains("seccomp"));
        assert!(classify("6.8.0", 0, Errno::NOSYS).contains("seccomp"));
        assert!(classify("4.19.0-26-amd64", 0, Errno::NOSYS).contains("too old"));
        assert!(classify("5.4.0", 0, Errno::INVAL).contains("too old"));
        assert!(classify("6.8.0", 0, Errno::NOMEM).contains("limits"));
    }

    #[test]
    fn a_directory_in_memory_is_refused() {
        if Path::new("/dev/shm").is_dir() {
            let error = file_system(Path::new("/dev/shm")).unwrap_err();
            assert!(matches!(error, ProbeError::Volatile { .. }), "{error}");
        }
    }

    #[test]
    fn a_missing_directory_is_named() {
        let error = file_system(Path::new("/nowhere/at/all")).unwrap_err();
        assert!(error.to_string().starts_with("/nowhere/at/all can't be used"), "{error}");
    }

    #[test]
    fn kernel_releases_are_ordered_by_number() {
        assert!(at_least_5_8("5.10.0-28-amd64") && at_least_5_8("6.1") && at_least_5_8("5.8.0"));
        assert!(!at_least_5_8("5.4.0") && !at_least_5_8("4.19") && !at_least_5_8("strange"));
    }
}
