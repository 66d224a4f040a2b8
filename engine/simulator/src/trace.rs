//! The trace of a run: every event goes into one hash, and on request into a readable list. Two runs of one seed have
//! the same hash, or something in between wasn't a function of the seed.

use synod_protocol::Instant;

use crate::random::split_mix;

/// See the module documentation.
#[derive(Debug, Default)]
pub struct Trace {
    hash: u64,
    events: u64,
    /// Whether lines are printed as they come.
    printing: bool,
    /// The lines so far, if they are kept.
    kept: Option<Vec<String>>,
}

impl Trace {
    /// An empty trace; `printing` writes every event to standard output.
    pub fn new(printing: bool) -> Trace {
        Trace { printing, ..Trace::default() }
    }

    /// Notes an event. `numbers` go into the hash, `words` are only for reading.
    pub fn note(&mut self, now: Instant, kind: &str, numbers: &[u64], words: impl FnOnce() -> String) {
        self.events += 1;
        let start = self.hash ^ now.0.rotate_left(17) ^ (kind.len() as u64) << 56 ^ first_bytes(kind);
        self.hash = numbers.iter().fold(split_mix(start), |hash, number| split_mix(hash.rotate_left(9) ^ number));
        self.tell(now, kind, words);
    }

    /// Says something to whoever reads; it doesn't count as an event.
    pub fn tell(&mut self, now: Instant, kind: &str, words: impl FnOnce() -> String) {
        if !self.printing && self.kept.is_none() {
            return;
        }
        let (seconds, micros) = (now.0 / 1_000_000, now.0 % 1_000_000);
        let line = format!("{seconds:4}.{micros:06} {kind:<9} {}", words());
        if self.printing {
            println!("{line}");
        }
        if let Some(kept) = &mut self.kept {
            kept.push(line);
        }
    }

    /// Keeps lines from now on.
    pub fn keep(&mut self) {
        self.kept.get_or_insert_default();
    }

    /// The lines kept since the last call.
    pub fn take(&mut self) -> Vec<String> {
        self.kept.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The hash over everything so far.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How many events there were.
    pub fn events(&self) -> u64 {
        self.events
    }
}

fn first_bytes(kind: &str) -> u64 {
    kind.bytes().take(7).fold(0, |number, byte| number << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_an_event_counts() {
        let hash = |now, kind: &str, numbers: &[u64]| {
            let mut trace = Trace::new(false);
            trace.note(Instant(now), kind, numbers, String::new);
            trace.hash()
        };
        let one = hash(1, "send", &[1, 2]);
        assert_eq!(one, hash(1, "send", &[1, 2]));
        assert_ne!(one, hash(2, "send", &[1, 2]));
        assert_ne!(one, hash(1, "read", &[1, 2]));
        assert_ne!(one, hash(1, "send", &[2, 1]));
        assert_ne!(one, hash(1, "send", &[1, 2, 0]));
    }
}
