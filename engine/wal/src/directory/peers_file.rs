//! What a node remembers of its peers' stores: a few lines that a human can read, and a checksum. A store that comes back
//! with less than that has forgotten something.

use std::path::Path;

use synod_protocol::Slot;
use uuid::Uuid;

use super::FileError;
use super::disk::{exchange, read_small, sync_directory, write_small};
use crate::peer_stores::{STORES_SEEN_MAX, StoreSeen};

const NAME: &str = "peers";

/// The file's name for one of the node's logs, and that of its spare: the first log's have no number.
fn names(log: u32) -> (String, String) {
    match log {
        0 => (NAME.to_owned(), format!("{NAME}.spare")),
        log => (format!("{NAME}-{log:04}"), format!("{NAME}-{log:04}.spare")),
    }
}

/// First line of the file; the number is its version.
const HEADING: &str = "synod peers 1";

/// What the node of a directory remembers for one of its logs; nothing if there is no such file, or a damaged one: then less can be noticed.
pub fn read_stores_seen(directory: &Path, log: u32) -> Vec<StoreSeen> {
    read_small(&directory.join(names(log).0)).ok().and_then(|text| parse(&text)).unwrap_or_default()
}

/// Remembers the first [`STORES_SEEN_MAX`] of these for one of the node's logs, durably, and nothing else.
///
/// # Errors
/// If the file can't be written; what it said before holds then.
pub fn write_stores_seen(directory: &Path, log: u32, seen: &[StoreSeen]) -> Result<(), FileError> {
    let (name, spare) = names(log);
    let (spare, path) = (directory.join(spare), directory.join(name));
    write_small(&spare, to_text(seen).as_bytes())?;
    exchange(&spare, &path).map_err(FileError::new("rename", &spare))?;
    sync_directory(directory)
}

fn to_text(seen: &[StoreSeen]) -> String {
    let mut body = format!("{HEADING}\n");
    for store in seen.iter().take(STORES_SEEN_MAX) {
        let StoreSeen { incarnation, boot_counter, boot_nonce, stable } = store;
        body.push_str(&format!("{} {boot_counter} {boot_nonce:016x} {}\n", Uuid::from_bytes(*incarnation), stable.0));
    }
    let checksum = crc32fast::hash(body.as_bytes());
    format!("{body}checksum = {checksum:08x}\n")
}

fn parse(text: &[u8]) -> Option<Vec<StoreSeen>> {
    let text = std::str::from_utf8(text).ok()?;
    let rows = text.strip_prefix(HEADING)?.strip_prefix('\n')?;
    let stores = rows.lines().take_while(|line| !line.starts_with("checksum")).map(parse_row);
    let seen = stores.collect::<Option<Vec<_>>>()?;
    (seen.len() <= STORES_SEEN_MAX && text == to_text(&seen)).then_some(seen)
}

fn parse_row(line: &str) -> Option<StoreSeen> {
    let mut words = line.split(' ');
    Some(StoreSeen {
        incarnation: Uuid::try_parse(words.next()?).ok()?.into_bytes(),
        boot_counter: words.next()?.parse().ok()?,
        boot_nonce: u64::from_str_radix(words.next()?, 16).ok()?,
        stable: Slot(words.next()?.parse().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_is_remembered_and_damage_to_it_counts_for_nothing() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(read_stores_seen(directory.path(), 0), []);
        let store = |number: u8, stable| StoreSeen {
            incarnation: [number; 16],
            boot_counter: 41,
            boot_nonce: 0x1234,
            stable: Slot(stable),
        };
        for seen in [vec![store(1, 7)], vec![store(1, 9), store(2, 8)]] {
            write_stores_seen(directory.path(), 0, &seen).unwrap();
            assert_eq!(read_stores_seen(directory.path(), 0), seen);
        }
        assert_eq!(read_stores_seen(directory.path(), 1), [], "each log has its own");
        write_stores_seen(directory.path(), 1, &[store(3, 1)]).unwrap();
        assert_eq!(read_stores_seen(directory.path(), 1), [store(3, 1)]);
        assert_eq!(read_stores_seen(directory.path(), 0), [store(1, 9), store(2, 8)]);
        let text = std::fs::read(directory.path().join(NAME)).unwrap();
        for bit in 0..text.len() * 8 {
            let mut damaged = text.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(parse(&damaged), None, "bit {bit}");
        }
    }
}
