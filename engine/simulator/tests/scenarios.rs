//! Every scenario file gives what it expects. `SYNOD_SCENARIOS=write` rewrites what they expect; look at the diff.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use synod_simulator::Scenario;

fn files() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let entries = fs::read_dir(&directory).expect("the directory of scenarios can be listed");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("it can be listed").path()).collect();
    files.sort();
    assert!(!files.is_empty(), "there are scenarios");
    files
}

/// Plays a file; what is wrong with it, if anything is.
fn check(file: &Path, write: bool) -> Option<String> {
    let text = fs::read_to_string(file).expect("scenarios can be read");
    let scenario = Scenario::parse(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let played = scenario.play(false);
    if played.text() == text {
        return None;
    }
    if write {
        fs::write(file, played.text()).expect("scenarios can be written");
        return None;
    }
    let expected = text.lines().map(Some).chain(std::iter::repeat(None));
    let differing = played.text().lines().zip(expected).enumerate().find(|(_, (is, expected))| Some(*is) != *expected);
    let differing = differing.map_or("it ends too early".into(), |(index, (is, expected))| {
        format!("line {} is {is:?}, expected {:?}", index + 1, expected.unwrap_or("the end"))
    });
    let name = file.file_name().expect("files have names").display();
    let replay = "cargo run --release -p synod-simulator -- --scenario engine/simulator/scenarios";
    Some(format!("{name}: {differing}\n  replay: {replay}/{name}"))
}

#[test]
fn scenarios_give_what_they_expect() {
    let write = std::env::var("SYNOD_SCENARIOS").is_ok_and(|value| value == "write");
    let (files, next, wrong) = (files(), AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            let found = check(file, write);
            wrong.lock().expect("no thread panics while it holds the lock").extend(found);
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let wrong = wrong.into_inner().expect("no thread panicked");
    assert!(wrong.is_empty(), "{} scenarios give something else:\n{}", wrong.len(), wrong.join("\n"));
}
