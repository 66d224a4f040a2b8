//! How far a long reading is, on stderr, if that is a terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often the line is drawn at most, a second.
const DRAWS_A_SECOND: u8 = 8;

/// A line on stderr that goes away when it is dropped. Threads may share it.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Shows nothing: for rows that go to the same terminal meanwhile.
    pub(crate) fn hidden() -> Progress {
        Progress { bar: ProgressBar::hidden() }
    }

    /// For work that is counted in bytes; `what` is a word or two.
    pub(crate) fn bytes(total: u64, what: &str) -> Progress {
        Progress::new(total, what, "{msg} {bar:24} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}")
    }

    /// For work that is counted in pieces.
    pub(crate) fn pieces(total: u64, what: &str) -> Progress {
        Progress::new(total, what, "{msg} {bar:24} {pos}/{len} {eta}")
    }

    fn new(total: u64, what: &str, template: &str) -> Progress {
        // Off a terminal it draws nothing.
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(DRAWS_A_SECOND));
        bar.set_style(ProgressStyle::with_template(template).expect("a template that was written here"));
        bar.set_message(what.to_owned());
        Progress { bar }
    }

    /// So much more is done.
    pub(crate) fn advance(&self, by: u64) {
        self.bar.inc(by);
    }

    /// So much is done by now.
    pub(crate) fn reach(&self, done: u64) {
        self.bar.set_position(done);
    }

    /// Prints a message without tearing the line.
    pub(crate) fn say(&self, message: &str) {
        self.bar.suspend(|| eprintln!("{message}"));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
