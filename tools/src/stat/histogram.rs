//! Sizes by powers of two for the eye, and their percentiles.

use std::fmt;

use serde::ser::{Serialize, SerializeStruct, Serializer};

/// Longest bar, in letters.
const BAR: u64 = 40;

/// No size in a log is larger: a body has at most 2^20 bytes or slots.
const HIGHEST: u64 = 1 << 21;

/// How often which size was seen.
pub(super) struct Histogram {
    sizes: hdrhistogram::Histogram<u64>,
    /// Number of sizes in `[2^(i-1), 2^i)`; zeros first.
    powers: [u64; 65],
    total: u64,
}

impl Histogram {
    pub(super) fn new() -> Histogram {
        let sizes = hdrhistogram::Histogram::new_with_max(HIGHEST, 3).expect("bounds that were written here");
        Histogram { sizes, powers: [0; 65], total: 0 }
    }

    pub(super) fn add(&mut self, size: u64) {
        self.add_many(size, 1);
    }

    pub(super) fn add_many(&mut self, size: u64, times: u64) {
        self.sizes.saturating_record_n(size, times);
        self.powers[(u64::BITS - size.leading_zeros()) as usize] += times;
        self.total += size * times;
    }

    fn quantiles(&self) -> [(&'static str, u64); 4] {
        [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999)]
            .map(|(name, quantile)| (name, self.sizes.value_at_quantile(quantile).min(self.sizes.max())))
    }

    fn mean(&self) -> f64 {
        if self.sizes.is_empty() { 0.0 } else { self.total as f64 / self.sizes.len() as f64 }
    }

    /// The powers of two from the lowest to the highest that was seen: from, to, how often.
    fn buckets(&self) -> Vec<(u64, u64, u64)> {
        let seen = |index: &usize| self.powers[*index] > 0;
        let (Some(first), Some(last)) = ((0..65).find(seen), (0..65).rfind(seen)) else { return Vec::new() };
        let bounds = |index: usize| match index {
            0 => (0, 1),
            index => (1 << (index - 1), 1u64.checked_shl(index as u32).unwrap_or(u64::MAX)),
        };
        (first..=last).map(|index| (bounds(index).0, bounds(index).1, self.powers[index])).collect()
    }

    /// Draws it below an empty line; nothing if there is nothing to draw.
    pub(super) fn draw(&self, f: &mut fmt::Formatter<'_>, title: &str, unit: &str) -> fmt::Result {
        if self.sizes.is_empty() {
            return Ok(());
        }
        write!(f, "\n{title}: {} to {} {unit}, mean {:.1}", self.sizes.min(), self.sizes.max(), self.mean())?;
        for (name, value) in self.quantiles() {
            write!(f, ", {name} {value}")?;
        }
        writeln!(f)?;
        let buckets = self.buckets();
        let most = buckets.iter().map(|(_, _, times)| *times).max().unwrap_or(1);
        for (from, to, times) in buckets {
            // What was seen at all has a bar.
            let length = (times * BAR).div_ceil(most) as usize;
            writeln!(f, "{from:>9}..{to:<9} {times:>12} {}", "#".repeat(length))?;
        }
        Ok(())
    }
}

impl Serialize for Histogram {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Histogram", 9)?;
        object.serialize_field("count", &self.sizes.len())?;
        object.serialize_field("min", &if self.sizes.is_empty() { 0 } else { self.sizes.min() })?;
        object.serialize_field("max", &self.sizes.max())?;
        object.serialize_field("mean", &self.mean())?;
        for (name, value) in self.quantiles() {
            object.serialize_field(name, &value)?;
        }
        let buckets: Vec<[u64; 3]> = self.buckets().iter().map(|(from, to, times)| [*from, *to, *times]).collect();
        object.serialize_field("buckets", &buckets)?;
        object.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Drawn<'a>(&'a Histogram);

    impl fmt::Display for Drawn<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.draw(f, "sizes", "bytes")
        }
    }

    #[test]
    fn powers_of_two_and_their_bars() {
        let mut histogram = Histogram::new();
        histogram.add(0);
        histogram.add_many(4, 40);
        histogram.add_many(7, 40);
        histogram.add(8);
        assert_eq!(histogram.buckets(), [(0, 1, 1), (1, 2, 0), (2, 4, 0), (4, 8, 80), (8, 16, 1)]);
        let drawn = Drawn(&histogram).to_string();
        let lines: Vec<&str> = drawn.lines().collect();
        assert!(lines[1].starts_with("sizes: 0 to 8 bytes, mean 5.5"), "{drawn}");
        assert!(lines[5].ends_with(&format!("80 {}", "#".repeat(40))), "{drawn}");
        assert!(lines[6].ends_with(" 1 #"), "one in eighty is seen: {drawn}");
        assert_eq!(Drawn(&Histogram::new()).to_string(), "");
    }
}
