//! The chapter on embedding shows what is there.

use std::path::Path;

/// Without what formatting changes.
fn squeezed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn what_the_chapter_quotes_stands_in_the_bank() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read_to_string(here.join(path)).expect("a file of this repository");
    let chapter = read("../docs/embedding.md");
    let sources = squeezed(&(read("src/bin/bank.rs") + &read("src/node.rs")));
    let quotes: Vec<&str> =
        chapter.split("```rust\n").skip(1).filter_map(|rest| Some(rest.split_once("```")?.0)).collect();
    assert!(quotes.len() >= 4, "the chapter quotes the bank");
    for quote in quotes {
        assert!(sources.contains(&squeezed(quote)), "this stands in no source any more:\n{quote}");
    }
}
