//! Bytes that version 1 of the format once wrote must be read for ever, and written again the same.
//!
//! `SYNOD_GOLDEN=write cargo test -p synod-frame` writes the files anew: only ever for samples that were added, never
//! to make this test pass.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use crate::samples;

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1")
}

#[test]
fn golden_files_are_read_and_written_the_same() {
    let write = std::env::var("SYNOD_GOLDEN").is_ok_and(|value| value == "write");
    let mut names = BTreeSet::new();
    for sample in samples::all() {
        let path = directory().join(format!("{}.bin", sample.name));
        if write {
            fs::create_dir_all(directory()).unwrap();
            fs::write(&path, &sample.bytes).unwrap();
        }
        let golden = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(golden == sample.bytes, "{}: what is written now differs from what was written then", sample.name);
        let again = sample.reader.recode(&golden).unwrap_or_else(|error| panic!("{}: {error}", sample.name));
        assert!(golden == again, "{}: read and written again it differs", sample.name);
        assert!(names.insert(format!("{}.bin", sample.name)), "{}: two samples of one name", sample.name);
    }
    let files: BTreeSet<String> =
        fs::read_dir(directory()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(files, names, "a golden file without a sample, or the other way round");
}
