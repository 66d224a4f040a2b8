//! Values of flags that are more than a number.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::content::STAMP_BYTES;

/// Longest command.
const COMMAND_BYTES_MAX: u32 = 65_536;
/// Shortest command: its stamp, and some bytes that aren't.
const COMMAND_BYTES_MIN: u32 = STAMP_BYTES as u32 + 4;

pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.trim_end_matches('s').parse().map_err(|_| format!("'{text}' is no number of seconds"))?;
    if !(0.0..=86_400.0).contains(&seconds) {
        return Err("must be 0 to 86400 seconds".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}

pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 =
        number.parse().map_err(|_| format!("'{text}' is no size: write 131072, 128KiB, 64MiB or 2GiB"))?;
    let factor = match unit {
        "" | "B" => 1,
        "KiB" | "K" => 1 << 10,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        _ => return Err(format!("'{unit}' is no unit: use KiB, MiB or GiB")),
    };
    number.checked_mul(factor).ok_or_else(|| format!("{text} is too large"))
}

/// The sizes that a node takes for its bodies.
pub(crate) fn body(text: &str) -> Result<u64, String> {
    match bytes(text)? {
        bytes @ 4096..=0x10_0000 if bytes.is_power_of_two() => Ok(bytes),
        bytes => Err(format!("{bytes} bytes are no power of two from 4KiB to 1MiB")),
    }
}

/// Commands a second, such as 400k or 1.5M.
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    let (number, factor) = match text.chars().last() {
        Some('k') => (&text[..text.len() - 1], 1e3),
        Some('M') => (&text[..text.len() - 1], 1e6),
        _ => (text, 1.0),
    };
    match number.parse::<f64>() {
        Ok(number) if (0.1..=1e9).contains(&(number * factor)) => Ok(number * factor),
        Ok(_) => Err("must be 0.1 to 1000M a second".to_owned()),
        Err(_) => Err(format!("'{text}' is no rate: write 5000, 400k or 1.5M")),
    }
}

/// How long commands are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Size {
    /// All of one length.
    Fixed(u32),
    /// Each length from the first to the last equally often.
    Uniform(u32, u32),
    /// A length as often as one divided by it: many short ones, few long ones.
    Zipf(u32, u32),
}

impl Size {
    /// The mean length in bytes.
    pub(crate) fn mean(self) -> f64 {
        match self {
            Size::Fixed(bytes) => f64::from(bytes),
            Size::Uniform(min, max) => f64::midpoint(f64::from(min), f64::from(max)),
            Size::Zipf(min, max) if min == max => f64::from(min),
            Size::Zipf(min, max) => f64::from(max - min) / (f64::from(max) / f64::from(min)).ln(),
        }
    }

    pub(crate) fn max(self) -> u32 {
        match self {
            Size::Fixed(bytes) => bytes,
            Size::Uniform(_, max) | Size::Zipf(_, max) => max,
        }
    }

    /// The length that a number between 0 and 1 stands for.
    pub(crate) fn at(self, share: f64) -> u32 {
        match self {
            Size::Fixed(bytes) => bytes,
            Size::Uniform(min, max) => min + (share * f64::from(max - min + 1)) as u32,
            Size::Zipf(min, max) => (f64::from(min) * (f64::from(max) / f64::from(min)).powf(share)) as u32,
        }
        .min(self.max())
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        let (is_zipf, range) = match text.strip_prefix("zipf:") {
            Some(range) => (true, range),
            None => (false, text),
        };
        let one = |text: &str| match bytes(text) {
            Ok(bytes) if (COMMAND_BYTES_MIN.into()..=COMMAND_BYTES_MAX.into()).contains(&bytes) => Ok(bytes as u32),
            Ok(_) => Err(format!("a command has {COMMAND_BYTES_MIN} to {COMMAND_BYTES_MAX} bytes")),
            Err(_) => Err(format!("'{text}' is no size of a command: write 128, 16-4096 or zipf:16-4096")),
        };
        match range.split_once('-') {
            None if is_zipf => Err("zipf needs the shortest and the longest command: zipf:16-4096".to_owned()),
            None => Ok(Size::Fixed(one(range)?)),
            Some((min, max)) => {
                let (min, max) = (one(min)?, one(max)?);
                if min > max {
                    return Err(format!("{min} is more than {max}"));
                }
                Ok(if is_zipf { Size::Zipf(min, max) } else { Size::Uniform(min, max) })
            }
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Size::Fixed(bytes) => write!(f, "{bytes}"),
            Size::Uniform(min, max) => write!(f, "{min}-{max}"),
            Size::Zipf(min, max) => write!(f, "zipf:{min}-{max}"),
        }
    }
}

/// What is done to a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blow {
    /// Its process is killed at once (SIGKILL), and started again afterwards.
    Kill,
    /// Its process is stopped (SIGSTOP), and goes on afterwards.
    Pause,
    /// Nothing passes between it and the other replicas; clients still reach it.
    Partition,
    /// Its disk takes few requests a second.
    SlowDisk,
}

/// Which replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Leader,
    Follower,
}

/// A fault on schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) blow: Blow,
    pub(crate) target: Target,
    /// After the measured load has begun.
    pub(crate) at: Duration,
    /// Without it the fault lasts until the load ends.
    pub(crate) lasts: Option<Duration>,
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Fault, String> {
        let shape = || {
            format!(
                "'{text}' is no fault: write kill, pause, partition or slow-disk, -leader or -follower, and when: kill-leader@5s, \
                 pause-follower@5s+3s"
            )
        };
        let (what, when) = text.split_once('@').ok_or_else(shape)?;
        let (blow, target) = match what {
            "partition" => ("partition", "leader"),
            "slow-disk" => ("slow-disk", "follower"),
            _ => what.rsplit_once('-').ok_or_else(shape)?,
        };
        let blow = match blow {
            "kill" => Blow::Kill,
            "pause" => Blow::Pause,
            "partition" => Blow::Partition,
            "slow-disk" => Blow::SlowDisk,
            _ => return Err(shape()),
        };
        let target = match target {
            "leader" => Target::Leader,
            "follower" => Target::Follower,
            _ => return Err(shape()),
        };
        let (at, lasts) = match when.split_once('+') {
            Some((at, lasts)) => (seconds(at)?, Some(seconds(lasts)?)),
            None => (seconds(when)?, None),
        };
        Ok(Fault { blow, target, at, lasts })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.blow {
            Blow::Kill => "kill-",
            Blow::Pause => "pause-",
            Blow::Partition => "partition-",
            Blow::SlowDisk => "slow-disk-",
        })?;
        f.write_str(match self.target {
            Target::Leader => "leader",
            Target::Follower => "follower",
        })?;
        write!(f, "@{}s", self.at.as_secs_f64())?;
        self.lasts.map_or(Ok(()), |lasts| write!(f, "+{}s", lasts.as_secs_f64()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(bytes("131072"), Ok(131_072));
        assert_eq!(bytes("2GiB"), Ok(2 << 30));
        assert!(bytes("2GB").is_err());
        assert!(bytes("").is_err());
        assert!(bytes("99999999999999999999GiB").is_err());
    }

    #[test]
    fn rates_have_letters() {
        assert_eq!((rate("5000"), rate("400k"), rate("1.5M")), (Ok(5e3), Ok(4e5), Ok(1.5e6)));
        for bad in ["", "k", "0", "-5", "NaN", "inf", "2G", "9999M"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn commands_have_one_length_or_many() {
        for text in ["128", "16-4096", "zipf:16-4096", "64-64"] {
            let size: Size = text.parse().expect(text);
            assert_eq!(size.to_string(), text);
            let lengths: Vec<u32> = (0..=1000).map(|share| size.at(f64::from(share) / 1000.0)).collect();
            assert!(lengths.is_sorted() && lengths[1000] == size.max(), "{text}");
            let mean = lengths.iter().map(|length| f64::from(*length)).sum::<f64>() / 1001.0;
            assert!((mean - size.mean()).abs() < 0.02 * size.mean() + 1.0, "{text}: {mean} {}", size.mean());
        }
        for bad in ["8", "16-", "4096-16", "zipf:128", "1GiB", "x", "16-99999"] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
    }

    #[test]
    fn faults_say_what_whom_and_when() {
        let fault: Fault = "pause-follower@5s+3s".parse().expect("a fault");
        assert_eq!((fault.blow, fault.target), (Blow::Pause, Target::Follower));
        assert_eq!((fault.at, fault.lasts), (Duration::from_secs(5), Some(Duration::from_secs(3))));
        assert_eq!(fault.to_string(), "pause-follower@5s+3s");
        assert_eq!("kill-leader@2.5".parse::<Fault>().expect("a fault").lasts, None);
        for (short, long) in [("partition@1s", "partition-leader@1s"), ("slow-disk@1s+2s", "slow-disk-follower@1s+2s")]
        {
            let fault: Fault = short.parse().expect("a fault");
            assert_eq!((fault.to_string().as_str(), long.parse()), (long, Ok(fault)));
        }
        for bad in [
            "kill-leader",
            "kill@5s",
            "slow-leader@5s",
            "stop-leader@5s",
            "kill-leader@",
            "kill-leader@5s+",
            "kill-leader@-1s",
        ] {
            assert!(bad.parse::<Fault>().is_err(), "{bad}");
        }
    }
}
