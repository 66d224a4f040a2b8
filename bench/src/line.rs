//! The live line on a terminal.

use std::io::{IsTerminal, Write, stderr};

/// One line on a terminal that is overwritten; one line a message elsewhere would only be noise, so there is none.
#[derive(Default)]
pub(crate) struct Line {
    shown: bool,
}

impl Line {
    pub(crate) fn show(&mut self, text: &str) {
        if stderr().is_terminal() {
            let _ = write!(stderr(), "\r\x1b[K{text}");
            let _ = stderr().flush();
            self.shown = true;
        }
    }

    pub(crate) fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}
