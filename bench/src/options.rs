//! What the command line says.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Measures durable commits per second: replicas in this process, each with its own directory on a real file system,
/// real TCP on loopback, every acknowledgement after a majority has synced; then audits its own result.
#[derive(Clone, Debug, Parser)]
#[command(name = "synod-bench", version, after_help = EXIT_CODES, args_conflicts_with_subcommands = true)]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// Replicas in this process
    #[arg(long, global = true, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=7))]
    pub(crate) replicas: u32,
    /// Bytes of one command
    #[arg(long, global = true, default_value_t = 64, value_parser = clap::value_parser!(u32).range(16..=65_536))]
    pub(crate) payload: u32,
    /// Commands in one append call
    #[arg(long, global = true, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=16_384))]
    pub(crate) batch: u32,
    /// Append calls in flight (closed loop)
    #[arg(long, global = true, default_value_t = 96, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) in_flight: u32,
    /// Bodies that the leader keeps proposed and not yet chosen
    #[arg(long, global = true, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4_096))]
    pub(crate) window: u32,
    /// Largest record of one body, header included, such as 128KiB; a power of two
    #[arg(long, global = true, default_value = "128KiB", value_parser = parse_body)]
    pub(crate) body: u64,
    /// How the log makes writes durable
    #[arg(long, global = true, value_enum, default_value_t = Sync::Dsync)]
    pub(crate) sync: Sync,
    /// Seconds of measured load
    #[arg(long, default_value = "10", value_parser = parse_seconds)]
    pub(crate) duration: Duration,
    /// Seconds of load before the measurement
    #[arg(long, default_value = "2", value_parser = parse_seconds)]
    pub(crate) warm_up: Duration,
    /// Seconds of single commands, one at a time, after the load; 0 leaves them out
    #[arg(long, default_value = "2", value_parser = parse_seconds)]
    pub(crate) latency: Duration,
    /// Log that each replica keeps, such as 2GiB; older parts are trimmed by agreement once they are audited
    #[arg(long, default_value = "2GiB", value_parser = parse_bytes)]
    pub(crate) retention: u64,
    /// Size of one log segment, such as 64MiB; a power of two
    #[arg(long, global = true, default_value = "64MiB", value_parser = parse_bytes)]
    pub(crate) segment: u64,
    /// Where to make the replicas' directories (default: the first real file system with room among the temporary
    /// directory, /var/tmp, the home directory and the current one)
    #[arg(long, global = true)]
    pub(crate) dir: Option<PathBuf>,
    /// Leave the directories behind, for synod-tools
    #[arg(long, global = true)]
    pub(crate) keep: bool,
    /// Seed of the commands' contents
    #[arg(long, global = true, default_value_t = 1)]
    pub(crate) seed: u64,
    /// How to print the report on stdout
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

/// What to measure instead of commits.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// How long a node takes to start, by the size of its log; how fast it reads the log, beside what the disk gives
    Recovery(RecoveryOptions),
    /// What this machine can do without a protocol: the raw disk, loopback, and the bare pipeline
    Floor(FloorOptions),
}

/// See [`Command::Floor`].
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct FloorOptions {
    /// Seconds of each row; the bare pipeline gets three times as long
    #[arg(long, default_value = "0.5", value_parser = parse_seconds)]
    pub(crate) each: Duration,
}

/// See [`Command::Recovery`].
#[derive(Clone, Debug, Args)]
pub(crate) struct RecoveryOptions {
    /// Size of the log, such as 1GiB; several may be named, with commas between them
    #[arg(long = "size", value_name = "SIZE", value_delimiter = ',', default_value = "1GiB", value_parser = parse_bytes)]
    pub(crate) sizes: Vec<u64>,
    /// Restarts on each log
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) times: u32,
}

const EXIT_CODES: &str = "Exit codes: 0 measured and audited; 1 the audit failed; 2 bad flags; 3 the machine lacks \
something (the message says what), or the run failed";

/// How the log makes writes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sync {
    /// One fdatasync for all writes that are complete
    Fdatasync,
    /// Every write durable by itself
    Dsync,
}

impl Sync {
    /// As reports call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Sync::Fdatasync => "fdatasync",
            Sync::Dsync => "O_DSYNC",
        }
    }
}

/// How to print the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Text,
    /// One JSON object
    Json,
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.trim_end_matches('s').parse().map_err(|_| format!("'{text}' is no number of seconds"))?;
    if !(0.0..=86_400.0).contains(&seconds) {
        return Err("must be 0 to 86400 seconds".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}

fn parse_bytes(text: &str) -> Result<u64, String> {
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
fn parse_body(text: &str) -> Result<u64, String> {
    match parse_bytes(text)? {
        bytes @ 4096..=0x10_0000 if bytes.is_power_of_two() => Ok(bytes),
        bytes => Err(format!("{bytes} bytes are no power of two from 4KiB to 1MiB")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Options::command().debug_assert();
    }

    #[test]
    fn a_restart_is_measured_with_the_same_cluster() {
        let line = ["synod-bench", "recovery", "--size", "1GiB,256MiB", "--replicas", "1"];
        let options = Options::try_parse_from(line).expect("a sound command line");
        let Some(Command::Recovery(recovery)) = &options.command else { panic!("{options:?}") };
        assert_eq!((recovery.sizes.as_slice(), options.replicas), ([1 << 30, 256 << 20].as_slice(), 1));
        let mixed = ["synod-bench", "--duration", "1", "recovery"];
        assert!(Options::try_parse_from(mixed).is_err(), "a load of some seconds has no part in it");
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_bytes("131072"), Ok(131_072));
        assert_eq!(parse_bytes("2GiB"), Ok(2 << 30));
        assert!(parse_bytes("2GB").is_err());
        assert!(parse_bytes("").is_err());
        assert!(parse_bytes("99999999999999999999GiB").is_err());
    }
}
