//! Lines on stdout. Whoever reads them may stop at any time.

use std::fmt;
use std::io::{self, BufWriter, Stdout, Write};

use anyhow::Result;

/// Nobody reads on; the program ends in peace.
#[derive(Debug)]
pub(crate) struct EndOfReading;

impl fmt::Display for EndOfReading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nobody reads the output any more")
    }
}

impl std::error::Error for EndOfReading {}

/// Where data goes.
pub(crate) struct Output {
    out: BufWriter<Stdout>,
}

impl Output {
    pub(crate) fn stdout() -> Output {
        Output { out: BufWriter::new(io::stdout()) }
    }

    /// # Errors
    /// [`EndOfReading`] if nobody reads on, or what else is wrong with stdout.
    pub(crate) fn line(&mut self, line: impl fmt::Display) -> Result<()> {
        seen(writeln!(self.out, "{line}"))
    }

    /// # Errors
    /// As [`Output::line`].
    pub(crate) fn finish(&mut self) -> Result<()> {
        seen(self.out.flush())
    }
}

fn seen(result: io::Result<()>) -> Result<()> {
    result.map_err(|error| if error.kind() == io::ErrorKind::BrokenPipe { EndOfReading.into() } else { error.into() })
}

/// Bytes of a client as text: printable ASCII as it is, everything else escaped, so that no terminal obeys them.
pub(crate) fn escaped(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|byte| std::ascii::escape_default(*byte)).map(char::from).collect()
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A uuid in its usual form.
pub(crate) fn uuid(bytes: &[u8; 16]) -> String {
    let digits = hex(bytes);
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_reach_no_terminal() {
        assert_eq!(escaped(b"a\x1b[2J\n\xff"), "a\\x1b[2J\\n\\xff");
        assert_eq!(hex(&[0, 255, 16]), "00ff10");
    }
}
