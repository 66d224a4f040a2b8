//! Both programs as their users run them, with every node killed in turn while they work.

use std::path::Path;
use std::process::Command;

fn directory() -> tempfile::TempDir {
    // Beside the build, on a disk: /tmp may live in memory, where no node runs.
    tempfile::Builder::new().prefix("example-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory")
}

fn run(program: &str, root: &Path) -> String {
    let output = Command::new(program).arg("--dir").arg(root).args(["--kills", "4"]).output().expect("it runs");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    assert_eq!(out.lines().filter(|line| line.contains("was killed")).count(), 4, "{out}");
    out.into_owned()
}

#[test]
fn the_bank_keeps_its_money() {
    let root = directory();
    let told = run(env!("CARGO_BIN_EXE_bank"), root.path());
    assert!(told.contains("three equal databases"), "{told}");
}

#[test]
fn sqlite_files_are_equal_and_sound() {
    let root = directory();
    let told = run(env!("CARGO_BIN_EXE_sqlite"), root.path());
    assert!(told.contains("random() is refused"), "{told}");
    let contents: Vec<Vec<(i64, Option<i64>, String)>> = (1..=3)
        .map(|node| {
            let path = root.path().join(format!("node-{node}")).join("database.sqlite");
            let connection = rusqlite::Connection::open(path).expect("an ordinary file");
            let sound: String =
                connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("it can be checked");
            assert_eq!(sound, "ok");
            let mut rows = connection.prepare("SELECT id, round, text FROM notes ORDER BY id").expect("the table");
            let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).expect("rows");
            rows.collect::<Result<_, _>>().expect("rows")
        })
        .collect();
    assert_eq!(contents[0].len(), 160);
    assert!(contents[0] == contents[1] && contents[1] == contents[2]);
}
