//! `synod-bench report` on what `run` and `sweep` really write.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn bench(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_synod-bench")).args(arguments).output().expect("the program runs")
}

fn file(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("report");
    std::fs::create_dir_all(&directory).expect("a directory");
    directory.join(name)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

#[test]
fn what_was_measured_becomes_a_page() {
    let (run, sweep, page) = (file("steady.json"), file("ladder.json"), file("page.html"));
    let small =
        ["--segment", "2MiB", "--retention", "16MiB", "--batch", "10", "--dir", env!("CARGO_TARGET_TMPDIR"), "--json"];
    let measured = bench(
        &[&["run", "--duration", "0.5", "--warm-up", "0.1", "--latency", "0"], &small[..], &[text(&run)]].concat(),
    );
    assert!(measured.status.success(), "{}", String::from_utf8_lossy(&measured.stderr));
    let measured = bench(&[&["sweep", "--step", "0.05", "--in-flight-max", "4"], &small[..], &[text(&sweep)]].concat());
    assert!(measured.status.success(), "{}", String::from_utf8_lossy(&measured.stderr));
    let made = bench(&["report", text(&run), text(&sweep), "-o", text(&page)]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let html = std::fs::read_to_string(&page).expect("a page");
    assert!(html.contains("Over time: steady") && html.contains("by load: ladder") && html.contains(">passed<"));
    assert_eq!(html.matches("<svg").count(), html.matches("</svg>").count());
    assert_eq!(html.matches("<svg").count(), 8);
}

#[test]
fn other_files_are_refused_by_name() {
    let other = file("other.json");
    std::fs::write(&other, "{\"rows\": []}").expect("a file");
    for (path, told) in [(&other, "no report of"), (&file("missing.json"), "missing.json")] {
        let output = bench(&["report", text(path), "-o", text(&file("never.html"))]);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(3) && errors.contains(told), "{errors}");
    }
    assert!(!file("never.html").exists());
}
