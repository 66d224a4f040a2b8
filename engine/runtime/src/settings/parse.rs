//! Values of settings as text, and back. What [`Show`] prints, the parser of the same kind takes.

use std::fmt::Display;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use synod_protocol::NodeId;
use synod_wal::SyncMode;

use super::LogFormat;

const SIZES: [(&str, u64); 5] = [("", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];

/// Longest first, so that a time is shown with the largest unit that divides it; microseconds.
const TIMES: [(&str, u64); 6] =
    [("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1000), ("us", 1)];

pub(super) fn bytes(text: &str) -> Result<u64, String> {
    with_unit(text, &SIZES).ok_or_else(|| "is no size: write 1073741824, 512MiB or 8GiB".to_owned())
}

pub(super) fn time(text: &str) -> Result<Duration, String> {
    let microseconds = with_unit(text, &TIMES)
        .ok_or("is no time: write a number and a unit, like 250us, 100ms, 90s, 30m, 36h or 7d")?;
    Ok(Duration::from_micros(microseconds))
}

pub(super) fn number<T: FromStr>(text: &str) -> Result<T, String> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().map_err(|_| if is_number { "is too large".to_owned() } else { "is no whole number".to_owned() })
}

pub(super) fn switch(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| "is neither true nor false".to_owned())
}

pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "is not IP:PORT; names are not resolved".to_owned())
}

pub(super) fn sync(text: &str) -> Result<SyncMode, String> {
    match text {
        "dsync" => Ok(SyncMode::Dsync),
        "fdatasync" => Ok(SyncMode::Fdatasync),
        _ => Err("is neither dsync nor fdatasync".to_owned()),
    }
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("is neither text nor json".to_owned()),
    }
}

/// `2=127.0.0.1:7102,3=127.0.0.1:7103`, or nothing at all.
pub(super) fn peers(text: &str) -> Result<Vec<(NodeId, SocketAddr)>, String> {
    text.split(',').filter(|peer| !peer.is_empty()).map(peer).collect()
}

fn peer(text: &str) -> Result<(NodeId, SocketAddr), String> {
    let (id, at) = text.split_once('=').ok_or("isn't ID=IP:PORT, like 2=127.0.0.1:7002")?;
    let id = id.parse().map_err(|_| format!("names {id:?}, which is not a node id"))?;
    Ok((NodeId(id), address(at).map_err(|problem| format!("names {at:?}, which {problem}"))?))
}

/// A whole number and one of the units, each with its factor.
fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// A value as TOML.
pub(super) trait Show {
    fn show(&self) -> String;
}

/// A number of bytes.
pub(super) struct Bytes(pub(super) u64);

impl Show for Bytes {
    fn show(&self) -> String {
        match SIZES.iter().rev().find(|(_, factor)| self.0 > 0 && self.0.is_multiple_of(*factor)) {
            Some((unit, factor)) if *factor > 1 => format!("\"{}{unit}\"", self.0 / factor),
            _ => self.0.to_string(),
        }
    }
}

impl Show for Duration {
    fn show(&self) -> String {
        let microseconds = self.as_micros();
        let (unit, factor) = TIMES
            .iter()
            .find(|(_, factor)| microseconds > 0 && microseconds.is_multiple_of(u128::from(*factor)))
            .unwrap_or(&("us", 1));
        format!("\"{}{unit}\"", microseconds / u128::from(*factor))
    }
}

/// Whatever TOML writes as it is: numbers and truth.
pub(super) struct Bare<T>(pub(super) T);

impl<T: Display> Show for Bare<T> {
    fn show(&self) -> String {
        self.0.to_string()
    }
}

/// Text, in quotation marks.
pub(super) struct Quoted<T>(pub(super) T);

impl<T: Display> Show for Quoted<T> {
    fn show(&self) -> String {
        quoted(&self.0.to_string())
    }
}

impl Show for Vec<(NodeId, SocketAddr)> {
    fn show(&self) -> String {
        let peers: Vec<String> = self.iter().map(|(node, address)| format!("{} = \"{address}\"", node.0)).collect();
        if peers.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", peers.join(", ")) }
    }
}

impl Show for SyncMode {
    fn show(&self) -> String {
        quoted(match self {
            SyncMode::Dsync => "dsync",
            SyncMode::Fdatasync => "fdatasync",
        })
    }
}

impl Show for LogFormat {
    fn show(&self) -> String {
        quoted(match self {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        })
    }
}

fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_have_units() {
        assert_eq!(bytes("4096"), Ok(4096));
        assert_eq!(bytes("8GiB"), Ok(8 << 30));
        assert_eq!(time("36h"), Ok(Duration::from_secs(36 * 3600)));
        assert_eq!(time("250us"), Ok(Duration::from_micros(250)));
        for bad in ["", "GiB", "8GB", "-1", "99999999999TiB"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
        for bad in ["7", "1w", "s", "1.5s"] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_shown_is_taken_again() {
        for value in [0, 1, 1023, 1024, 96 << 10, 3 << 40, u64::MAX] {
            assert_eq!(bytes(Bytes(value).show().trim_matches('"')), Ok(value));
        }
        for value in [0, 1, 999, 1500, 60_000_000, 86_400_000_000] {
            let value = Duration::from_micros(value);
            assert_eq!(time(value.show().trim_matches('"')), Ok(value));
        }
        assert_eq!(Duration::from_secs(90).show(), "\"90s\"");
        assert_eq!(quoted("a\"b\\\n"), r#""a\"b\\\u000A""#);
    }
}
