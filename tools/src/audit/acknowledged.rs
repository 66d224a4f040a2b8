//! The list of what clients were told.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;
use synod_protocol::Slot;
use synod_wal::audit::Acknowledged;

use crate::exit::{self, Exit};

/// Longest line: a command of the largest body in hexadecimal, and some more.
const LINE_BYTES_MAX: u64 = 4 << 20;

/// A line of the list.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    slot: u64,
    /// The command itself, in hexadecimal digits.
    hex: Option<String>,
    /// Or its length,
    bytes: Option<u32>,
    /// and the CRC-32 of its bytes, in eight hexadecimal digits.
    crc32: Option<String>,
}

/// Reads the whole list.
///
/// # Errors
/// [`Exit::Unreadable`] for a file that can't be read, [`Exit::Usage`] for a line that makes no sense; it is named.
pub(super) fn read(path: &Path) -> Result<Vec<Acknowledged>> {
    let input: Box<dyn Read> = if path == Path::new("-") {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(path).with_context(|| format!("can't read {}", path.display()))?)
    };
    let mut lines = BufReader::new(input);
    let mut acknowledged = Vec::new();
    let mut line = String::new();
    for number in 1_u64.. {
        line.clear();
        let bytes = (&mut lines).take(LINE_BYTES_MAX).read_line(&mut line);
        let wrong = |why: String| exit::failure(Exit::Usage, format!("{} line {number}: {why}", path.display()));
        match bytes {
            Ok(0) => break,
            Ok(bytes) if bytes as u64 == LINE_BYTES_MAX => return Err(wrong("longer than any command".to_owned())),
            Ok(_) if line.trim().is_empty() => {}
            Ok(_) => acknowledged.push(parse(&line).map_err(wrong)?),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(wrong("not text".to_owned())),
            Err(error) => return Err(error).with_context(|| format!("can't read {}", path.display())),
        }
    }
    Ok(acknowledged)
}

fn parse(line: &str) -> Result<Acknowledged, String> {
    let line: Line = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let slot = Slot(line.slot);
    match line {
        Line { hex: Some(hex), bytes: None, crc32: None, .. } => Ok(Acknowledged::new(slot, &unhex(&hex)?)),
        Line { hex: None, bytes: Some(bytes), crc32: Some(crc32), .. } => {
            let well_formed = crc32.len() == 8 && crc32.bytes().all(|digit| digit.is_ascii_hexdigit());
            let crc32 = u32::from_str_radix(&crc32, 16).ok().filter(|_| well_formed);
            Ok(Acknowledged { slot, bytes, crc32: crc32.ok_or("crc32 must be eight hexadecimal digits")? })
        }
        _ => Err("a line has `slot` and either `hex`, or `bytes` and `crc32`".to_owned()),
    }
}

fn unhex(digits: &str) -> Result<Vec<u8>, String> {
    let value = |digit: &u8| char::from(*digit).to_digit(16).map(|value| value as u8);
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    let bytes: Option<Vec<u8>> = pairs.iter().map(|[high, low]| Some(value(high)? << 4 | value(low)?)).collect();
    bytes.filter(|_| rest.is_empty()).ok_or_else(|| "hex must be pairs of hexadecimal digits".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_naming_a_command_mean_the_same() {
        let whole = parse(r#"{"slot":7,"hex":"686904"}"#).unwrap();
        assert_eq!(whole, Acknowledged::new(Slot(7), b"hi\x04"));
        let short = format!(r#"{{"slot":7,"bytes":3,"crc32":"{:08x}"}}"#, whole.crc32);
        assert_eq!(parse(&short), Ok(whole));
    }

    #[test]
    fn lines_that_make_no_sense_are_refused() {
        for line in [
            "{}",
            "7",
            r#"{"slot":7}"#,
            r#"{"slot":-7,"hex":""}"#,
            r#"{"slot":7,"hex":"6"}"#,
            r#"{"slot":7,"hex":"zz"}"#,
            r#"{"slot":7,"bytes":1,"crc32":"+1234567"}"#,
            r#"{"slot":7,"bytes":1,"crc32":"12"}"#,
            r#"{"slot":7,"hex":"61","bytes":1,"crc32":"12345678"}"#,
            r#"{"slot":7,"hex":"61","sequence":3}"#,
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
