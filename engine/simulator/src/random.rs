//! The only source of chance: a seeded generator. No floating point, so that every machine draws the same numbers.
//!
//! Each concern of a run draws from its own stream, so that a change to one doesn't shift what the others draw.

use std::ops::RangeInclusive;
use std::time::Duration;

/// A xoshiro256++ generator (Blackman and Vigna), seeded by SplitMix64.
#[derive(Clone, Debug)]
pub struct Random {
    state: [u64; 4],
}

/// How likely something is, in millionths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Chance(u32);

impl Chance {
    /// It never happens.
    pub const NEVER: Chance = Chance(0);

    /// `numerator` times in `denominator`.
    ///
    /// # Panics
    /// If that is more than always.
    pub const fn of(numerator: u32, denominator: u32) -> Chance {
        assert!(numerator <= denominator, "a chance is at most one");
        Chance((numerator as u64 * 1_000_000 / denominator as u64) as u32)
    }
}

impl Random {
    /// The stream of `seed` that `concern` draws from.
    pub fn stream(seed: u64, concern: &str) -> Random {
        // FNV-1a: any fixed hash does, SplitMix spreads it.
        let label = concern.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        let mut seeder = split_mix(seed) ^ label;
        let state = [0; 4].map(|_: u64| {
            seeder = seeder.wrapping_add(0x9e37_79b9_7f4a_7c15);
            split_mix(seeder)
        });
        Random { state }
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.state;
        let drawn = a.wrapping_add(*d).rotate_left(23).wrapping_add(*a);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        drawn
    }

    /// A number below `bound`.
    ///
    /// # Panics
    /// If `bound` is zero: nothing lies below it.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "nothing lies below zero");
        ((u128::from(self.number()) * u128::from(bound)) >> 64) as u64
    }

    /// A position in something of `length`.
    ///
    /// # Panics
    /// If it is empty.
    pub fn index(&mut self, length: usize) -> usize {
        self.below(length as u64) as usize
    }

    /// A number within the range, each as likely.
    pub fn within(&mut self, range: RangeInclusive<u64>) -> u64 {
        range.start() + self.below(range.end() - range.start() + 1)
    }

    /// A number within the range, each order of magnitude as likely: most are small, and a few are huge.
    pub fn spread(&mut self, range: RangeInclusive<u64>) -> u64 {
        let (least, most) = (*range.start().max(&1), *range.end());
        let magnitudes = u64::from((most / least).max(1).ilog2()) + 1;
        let low = least << self.below(magnitudes);
        self.within(low..=low.saturating_mul(2).min(most).max(low))
    }

    /// A time within the range, each order of magnitude as likely.
    pub fn spread_time(&mut self, range: RangeInclusive<Duration>) -> Duration {
        let micros = |time: &Duration| time.as_micros() as u64;
        Duration::from_micros(self.spread(micros(range.start())..=micros(range.end())))
    }

    /// Whether it happens this time.
    pub fn chance(&mut self, chance: Chance) -> bool {
        chance.0 > 0 && self.below(1_000_000) < u64::from(chance.0)
    }

    /// One of the choices.
    ///
    /// # Panics
    /// If there are none.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.index(choices.len())]
    }
}

/// The finaliser of SplitMix64: a bijection that spreads every bit of its input.
pub fn split_mix(mut mixed: u64) -> u64 {
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_repeat_and_differ() {
        let draw = |seed, concern| {
            let mut random = Random::stream(seed, concern);
            [0; 4].map(|_: u64| random.number())
        };
        assert_eq!(draw(7, "network"), draw(7, "network"));
        assert_ne!(draw(7, "network"), draw(7, "disk"));
        assert_ne!(draw(7, "network"), draw(8, "network"));
    }

    #[test]
    fn draws_stay_within_bounds() {
        let mut random = Random::stream(1, "test");
        let mut seen = [false; 5];
        for _ in 0..1000 {
            seen[random.below(5) as usize] = true;
            assert!((3..=4).contains(&random.within(3..=4)));
            assert!((10..=5000).contains(&random.spread(10..=5000)));
            assert_eq!(random.spread(9..=9), 9);
        }
        assert_eq!(seen, [true; 5]);
        assert!(!random.chance(Chance::NEVER));
        assert!(random.chance(Chance::of(1, 1)));
    }

    #[test]
    fn spread_reaches_every_magnitude() {
        let mut random = Random::stream(1, "test");
        let draws: Vec<u64> = (0..2000).map(|_| random.spread(1..=1 << 20)).collect();
        assert!(draws.iter().any(|draw| *draw < 8));
        assert!(draws.iter().any(|draw| *draw > 1 << 19));
    }
}
