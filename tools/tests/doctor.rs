//! `doctor` on this host, on directories that don't suit, and under limits that don't.

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

const TOOLS: &str = env!("CARGO_BIN_EXE_synod-tools");

fn doctor(seconds: &str, format: &str, directory: &Path) -> Output {
    let arguments = ["doctor", "--seconds", seconds, "--scratch", "8", "--format", format];
    Command::new(TOOLS).args(arguments).arg(directory).output().expect("the program runs")
}

fn json(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text} {output:?}"))
}

fn check<'a>(value: &'a Value, name: &str) -> &'a Value {
    let checks = value["checks"].as_array().expect("checks");
    checks.iter().find(|check| check["check"] == name).unwrap_or_else(|| panic!("no {name}: {value:#}"))
}

/// Whatever isn't well says what to do, with a command.
fn remedies(value: &Value) {
    for check in value["checks"].as_array().expect("checks") {
        let remedy = check["next"].as_str().unwrap_or_default();
        let well = check["state"] == "ok" || check["state"] == "note";
        assert!(well || remedy.contains('`') || remedy.starts_with("upgrade"), "{check}");
    }
}

#[test]
fn a_directory_of_this_build_is_measured_and_left_as_it_was() {
    let root = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary directory");
    let output = doctor("0.05", "json", root.path());
    let value = json(&output);
    remedies(&value);
    let failures = value["failures"].as_u64().expect("a number");
    assert_eq!(output.status.code(), Some(i32::from(failures > 0)), "{value:#}");
    assert_eq!(value["fit"], failures == 0);
    for name in ["kernel", "io_uring", "locked memory", "open files", "cores", "file system", "direct I/O", "disk"] {
        check(&value, name);
    }
    if check(&value, "direct I/O")["state"] == "ok" {
        let measured = &value["measured"];
        for name in ["dsync_p50_us", "fdatasync_p99_us"] {
            assert!(measured[name].as_u64().is_some_and(|us| us > 0), "{name}: {measured}");
        }
        assert!(measured["read_mib_per_second"].as_f64().is_some_and(|speed| speed > 1.0), "{measured}");
        assert_eq!((&measured["scratch_mib"], &value["recommended"][0]), (&8.into(), &"--sync".into()));
    }
    assert_eq!(fs::read_dir(root.path()).expect("a directory").count(), 0, "nothing is left behind");
    let text = doctor("0", "text", root.path());
    let text = String::from_utf8_lossy(&text.stdout);
    assert!(text.contains("node can run here") && !text.contains("bandwidth"), "{text}");
}

#[test]
fn without_a_directory_only_the_host_is_looked_at() {
    let output = Command::new(TOOLS).args(["doctor", "--format", "json"]).output().expect("the program runs");
    let value = json(&output);
    check(&value, "kernel");
    assert!(value["checks"].as_array().expect("checks").iter().all(|check| check["check"] != "file system"));
}

#[test]
fn directories_that_do_not_suit_are_refused_with_a_remedy() {
    let output = doctor("0.05", "json", Path::new("/nowhere/at/all"));
    let value = json(&output);
    assert_eq!((output.status.code(), &value["fit"]), (Some(1), &false.into()));
    assert!(check(&value, "directory")["next"].as_str().expect("a remedy").contains("mkdir"), "{value:#}");
    let shm = Path::new("/dev/shm");
    if shm.is_dir() {
        let value = json(&doctor("0.05", "json", shm));
        assert_eq!(check(&value, "file system")["state"], "fail", "{value:#}");
        remedies(&value);
    }
    let root = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary directory");
    fs::write(root.path().join("identity"), "something else\n").expect("written");
    let value = json(&doctor("0", "json", root.path()));
    assert_eq!(check(&value, "store")["state"], "fail", "{value:#}");
}

#[test]
fn limits_that_are_too_low_name_the_command_that_raises_them() {
    let script = format!("ulimit -l 64; ulimit -n 256; exec {TOOLS} doctor --format json");
    let output = Command::new("sh").args(["-c", &script]).output().expect("a shell");
    let value = json(&output);
    remedies(&value);
    let memory = check(&value, "locked memory");
    assert_eq!(memory["state"], "fail", "{value:#}");
    assert!(memory["next"].as_str().expect("a remedy").contains("ulimit -l 65536"), "{memory}");
    assert_eq!(check(&value, "open files")["state"], "warn");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn an_interrupted_measurement_leaves_nothing_behind() {
    let root = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary directory");
    let mut child =
        Command::new(TOOLS).args(["doctor", "--seconds", "60"]).arg(root.path()).spawn().expect("the program runs");
    let descriptors = format!("/proc/{}/fd", child.id());
    // As the kernel names it, whatever links lead there.
    let place = root.path().canonicalize().expect("a directory");
    let has_scratch = || {
        let mut open = fs::read_dir(&descriptors).into_iter().flatten().flatten();
        open.any(|entry| fs::read_link(entry.path()).is_ok_and(|path| path.starts_with(&place)))
    };
    let mut waits = 0;
    while !has_scratch() && child.try_wait().expect("a child").is_none() {
        std::thread::sleep(std::time::Duration::from_millis(1));
        waits += 1;
        assert!(waits < 20_000, "the scratch file never came");
    }
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    assert_eq!(fs::read_dir(root.path()).expect("a directory").count(), 0);
}

/// Runs the program where a filter like a container's refuses io_uring_setup; none where no such filter can be had.
fn without_rings(arguments: &[&str]) -> Option<Output> {
    const FILTER: &str = r#"
import ctypes, os, struct, sys
libc = ctypes.CDLL(None)
# Load the number of the call; io_uring_setup (425) gets EPERM, everything else is allowed.
steps = [(0x20, 0, 0, 0), (0x15, 0, 1, 425), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7fff0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("steps", ctypes.c_void_p)]
program = Program(len(steps), ctypes.addressof(code))
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(program)):
    sys.exit(77)
os.execv(sys.argv[1], sys.argv[1:])
"#;
    let run = Command::new("python3").args(["-c", FILTER, TOOLS]).args(arguments).output();
    let output = run.ok().filter(|output| output.status.code() != Some(77));
    if output.is_none() {
        println!("skipped: no python3, or no seccomp filters here");
    }
    output
}

#[test]
fn where_a_container_blocks_io_uring_doctor_says_who_and_verify_reads_otherwise() {
    let Some(output) = without_rings(&["doctor", "--format", "json"]) else { return };
    let value = json(&output);
    let ring = check(&value, "io_uring");
    assert_eq!((output.status.code(), &ring["state"]), (Some(1), &"fail".into()), "{value:#}");
    assert!(ring["found"].as_str().expect("text").contains("a seccomp filter is on"), "{ring}");
    assert!(ring["next"].as_str().expect("a remedy").contains("seccomp"), "{ring}");

    let (_root, path, _) = support::filled();
    let Some(output) = without_rings(&["verify", path.to_str().expect("a plain path")]) else { return };
    let messages = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(messages.contains("io_uring can't be used"), "{messages}");
}
