//! The README's examples of the tools, run as they are written.

mod support;

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::*;

/// The first block of shell commands below a heading.
fn block(readme: &str, heading: &str) -> String {
    let section = readme.split_once(heading).expect("the heading").1;
    let code = section.split_once("```sh\n").expect("a block").1;
    code.split_once("```").expect("its end").0.to_owned()
}

#[test]
fn the_readme_shows_what_works() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = std::fs::read_to_string(readme).expect("the README");
    let commands = block(&readme, "\n## Look inside\n");
    let lines = commands.lines().filter(|line| line.starts_with("synod-tools "));
    assert!(lines.count() >= 8, "{commands}");

    let root = tempfile::tempdir().expect("a temporary directory");
    for path in cluster(&root.path().join("cluster"), 3) {
        let mut node = Node::open(&path);
        node.accept(&["hello", "world"]);
        node.mark_all();
    }
    let program = PathBuf::from(env!("CARGO_BIN_EXE_synod-tools"));
    let programs = [program.parent().expect("a directory").to_owned()];
    let others = env::var_os("PATH").unwrap_or_default();
    let paths = programs.into_iter().chain(env::split_paths(&others));
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &commands])
        .current_dir(root.path())
        .env("PATH", env::join_paths(paths).expect("paths"))
        .output()
        .expect("bash runs");
    let (text, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{text}");
    assert_eq!(said, "", "nothing to complain about");
    assert!(text.contains("    1 hello\n    2 world\n"), "{text}");
}
