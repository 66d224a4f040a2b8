//! Disks that fail on request: a file system on a loop device, whose image lies in memory.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Why a scenario can't run here.
pub(crate) struct Unable(pub(crate) String);

/// How writes of the file system reach the memory that may run out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backing {
    /// At once: a write fails by itself.
    Direct,
    /// Through the cache of a second file system in between: writes succeed, and the sync fails.
    Cached,
}

const MEMORY_BYTES: u64 = 112 << 20;
const OUTER_BYTES: u64 = 96 << 20;
const IMAGE_BYTES: u64 = 64 << 20;

/// A mounted file system; gone when dropped.
pub(crate) struct Disk {
    memory: PathBuf,
    /// The file in memory that everything ends in.
    bottom: PathBuf,
    /// The image that lies on the file system in between, if there is one.
    image: Option<PathBuf>,
    mount: PathBuf,
    /// To be undone, last first.
    mounts: Vec<PathBuf>,
    loops: Vec<String>,
}

impl Disk {
    pub(crate) fn make(root: &Path, backing: Backing) -> Result<Disk, Unable> {
        if !rustix::process::geteuid().is_root() {
            return Err(Unable("not root".to_owned()));
        }
        let memory = root.join("memory");
        let bottom = memory.join("image");
        let mut disk = Disk {
            memory: memory.clone(),
            bottom: bottom.clone(),
            image: None,
            mount: root.join("mount"),
            mounts: Vec::new(),
            loops: Vec::new(),
        };
        make_directory(&memory);
        run("mount", &["-t", "tmpfs", "-o", &format!("size={MEMORY_BYTES}"), "none", &text(&memory)])?;
        disk.mounts.push(memory);
        let mut image = bottom;
        if backing == Backing::Cached {
            let outer = root.join("outer");
            // Without a journal, so that nothing but the image's own blocks is written.
            disk.mount_image(&image, OUTER_BYTES, &["-O", "^has_journal"], &outer)?;
            image = outer.join("image");
            disk.image = Some(image.clone());
        }
        let mount = disk.mount.clone();
        disk.mount_image(&image, IMAGE_BYTES, &[], &mount)?;
        Ok(disk)
    }

    fn mount_image(&mut self, image: &Path, bytes: u64, options: &[&str], at: &Path) -> Result<(), Unable> {
        File::create(image).and_then(|file| file.set_len(bytes)).expect("an image");
        let image = text(image);
        let mut arguments = vec!["-q", "-F", "-b", "4096"];
        arguments.extend(options);
        arguments.push(&image);
        run("mkfs.ext4", &arguments)?;
        let device = run("losetup", &["--find", "--show", &image])?.trim().to_owned();
        self.loops.push(device.clone());
        make_directory(at);
        run("mount", &[&device, &text(at)])?;
        self.mounts.push(at.to_owned());
        Ok(())
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.mount
    }

    /// Gives the memory behind the log's blocks back and uses it up, so that they can't be written any more.
    pub(crate) fn take_away_room(&self) {
        let files = match &self.image {
            Some(image) => vec![image.clone()],
            None => {
                let log = self.mount.join("node/log-0000");
                let entries = std::fs::read_dir(log).expect("the node's log");
                entries.map(|entry| entry.expect("a segment file").path()).collect()
            }
        };
        for file in files {
            // What is written must be in its place before the place is taken away.
            File::open(&file).and_then(|file| file.sync_all()).expect("a file that can be synced");
            for (block, count) in extents(&file) {
                let (offset, length) = ((block * 4096).to_string(), (count * 4096).to_string());
                run_or_panic("fallocate", &["-p", "-o", &offset, "-l", &length, &text(&self.bottom)]);
            }
        }
        fill(&self.memory.join("ballast"));
    }

    /// Makes the file system read-only although files are open for writing, as it does itself after an error.
    pub(crate) fn make_read_only(&self) {
        run_or_panic("mount", &["-o", "remount,abort", &text(&self.mount)]);
    }

    /// Cuts the image off in front of the log's first block: reads behind that fail.
    pub(crate) fn cut_off(&self) {
        let log = self.mount.join("node/log-0000");
        let files = std::fs::read_dir(log).expect("the node's log").map(|entry| entry.expect("a segment file").path());
        let first = files.flat_map(|file| extents(&file)).map(|(block, _)| block).min().expect("a block");
        OpenOptions::new()
            .write(true)
            .open(&self.bottom)
            .and_then(|file| file.set_len(first * 4096))
            .expect("an image");
    }

    /// Uses up the room on the file system itself.
    pub(crate) fn fill_up(&self) {
        fill(&self.mount.join("ballast"));
    }

    /// Undoes [`Disk::fill_up`].
    pub(crate) fn make_room(&self) {
        std::fs::remove_file(self.mount.join("ballast")).expect("the ballast");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Each file system before the device that it lies on, and that before the next file system.
        while let Some(mount) = self.mounts.pop() {
            let _ = Command::new("umount").arg("--lazy").arg(&mount).status();
            if let Some(device) = self.loops.pop() {
                let _ = Command::new("losetup").args(["--detach", &device]).status();
            }
        }
    }
}

/// The blocks of a file on the device below: first block and number of blocks of each piece.
fn extents(file: &Path) -> Vec<(u64, u64)> {
    let listed = run_or_panic("filefrag", &["-v", &text(file)]);
    let number = |word: &str| word.trim_matches(|c: char| !c.is_ascii_digit()).parse::<u64>().ok();
    listed
        .lines()
        .filter_map(|line| {
            // "  0:        0..    5119:       2065..      7184:   5120:   last,eof"
            let words: Vec<&str> = line.split_whitespace().collect();
            let [index, _, _, first, _, count, ..] = words.as_slice() else { return None };
            index.strip_suffix(':')?.parse::<u64>().ok()?;
            Some((number(first)?, number(count)?))
        })
        .collect()
}

/// Writes until there is no room.
fn fill(path: &Path) {
    let mut file = File::create(path).expect("a file of ballast");
    for bytes in [1 << 20, 4096] {
        while file.write_all(&vec![1; bytes]).is_ok() {}
    }
    // A full disk answers this with an error too.
    let _ = file.sync_all();
}

fn make_directory(path: &Path) {
    std::fs::create_dir_all(path).expect("a directory");
}

fn text(path: &Path) -> String {
    path.to_str().expect("a plain path").to_owned()
}

fn run(program: &str, arguments: &[&str]) -> Result<String, Unable> {
    let output =
        Command::new(program).args(arguments).output().map_err(|error| Unable(format!("{program}: {error}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Unable(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim())))
}

fn run_or_panic(program: &str, arguments: &[&str]) -> String {
    run(program, arguments).unwrap_or_else(|Unable(reason)| panic!("{reason}"))
}
