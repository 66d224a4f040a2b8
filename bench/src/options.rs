//! What the command line says.

pub(crate) mod parse;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

use parse::{Fault, Size};

/// Measures durable commits per second: three replicas, each with its own directory on a real file system, real TCP on
/// loopback, every acknowledgement after a majority has synced; then audits its own result.
#[derive(Clone, Debug, Parser)]
#[command(name = "synod-bench", version, after_help = EXIT_CODES, args_conflicts_with_subcommands = true)]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) cluster: ClusterOptions,
    /// Without a subcommand: as `run`.
    #[command(flatten)]
    pub(crate) run: RunOptions,
}

/// The replicas, and what is appended to them. Every subcommand has these.
#[derive(Clone, Debug, Args)]
pub(crate) struct ClusterOptions {
    /// Replicas
    #[arg(long, global = true, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=7))]
    pub(crate) replicas: u32,
    /// Groups, each a log of its own; --in-flight and --rate are divided among them
    #[arg(long, global = true, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) groups: u32,
    /// Threads of a replica that drive its groups (default: one a group, as far as there are cores)
    #[arg(long, global = true, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) shards: Option<u32>,
    /// Bytes of a command: 128, or 16-4096 (each length equally often), or zipf:16-4096 (a length as often as one divided by
    /// it)
    #[arg(long, global = true, default_value = "64")]
    pub(crate) payload: Size,
    /// Commands in one append call
    #[arg(long, global = true, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=16_384))]
    pub(crate) batch: u32,
    /// Append calls in flight, of each client
    #[arg(long, global = true, default_value_t = 96, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) in_flight: u32,
    /// Bodies that the leader keeps proposed and not yet chosen
    #[arg(long, global = true, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4_096))]
    pub(crate) window: u32,
    /// Largest record of one body, header included, such as 128KiB; a power of two
    #[arg(long, global = true, default_value = "128KiB", value_parser = parse::body)]
    pub(crate) body: u64,
    /// How the log makes writes durable
    #[arg(long, global = true, value_enum, default_value_t = Sync::Dsync)]
    pub(crate) sync: Sync,
    /// Size of one log segment, such as 64MiB; a power of two
    #[arg(long, global = true, default_value = "64MiB", value_parser = parse::bytes)]
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
    /// Write the report to this file too, as JSON
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

/// Who appends, and how.
#[derive(Clone, Debug, Args)]
pub(crate) struct LoadOptions {
    /// As --payload
    #[arg(long, conflicts_with = "payload")]
    pub(crate) size: Option<Size>,
    /// Clients; each keeps --in-flight append calls under way
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) clients: u32,
    /// Threads that the clients share; over TCP each is a connection
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) threads: u32,
    /// Whether clients call the library or talk to the client port from a process of their own
    #[arg(long, value_enum, default_value_t = Over::Embedded)]
    pub(crate) over: Over,
    /// A process for each replica; implies --over tcp
    #[arg(long)]
    pub(crate) processes: bool,
    /// Whether there are switches between the replicas, for faults that cut them off.
    #[arg(skip)]
    pub(crate) switches: bool,
    /// Seconds of load before the measurement
    #[arg(long, default_value = "2", value_parser = parse::seconds)]
    pub(crate) warm_up: Duration,
    /// Log that each replica keeps, such as 2GiB; older parts are trimmed by agreement once they are audited
    #[arg(long, default_value = "2GiB", value_parser = parse::bytes)]
    pub(crate) retention: u64,
}

/// See [`Command::Run`].
#[derive(Clone, Debug, Args)]
pub(crate) struct RunOptions {
    #[command(flatten)]
    pub(crate) load: LoadOptions,
    /// Commands a second, such as 400k or 1.5M (open loop): append calls begin on schedule, and latency counts from there.
    /// Without it each answer begins the next call (closed loop)
    #[arg(long, value_parser = parse::rate)]
    pub(crate) rate: Option<f64>,
    /// How the open loop spreads its calls
    #[arg(long, value_enum, default_value_t = Arrival::Uniform)]
    pub(crate) arrival: Arrival,
    /// Seconds of measured load
    #[arg(long, default_value = "10", value_parser = parse::seconds)]
    pub(crate) duration: Duration,
    /// Seconds of single commands, one at a time, after the load; 0 leaves them out
    #[arg(long, default_value = "2", value_parser = parse::seconds)]
    pub(crate) latency: Duration,
    /// A fault on schedule, such as kill-leader@5s or pause-follower@5s+3s (with +3s it ends after so long, else with the
    /// load); kill, pause, partition (nothing passes between it and the other replicas) or slow-disk (100 requests a second
    /// by a control group: needs root), each -leader or -follower; may be given several times; implies --processes
    #[arg(long = "fault", value_name = "FAULT")]
    pub(crate) faults: Vec<Fault>,
    /// Take turns with the bare pipeline, and print the result as a share of it
    #[arg(long, conflicts_with = "faults")]
    pub(crate) floor: bool,
    /// Write the latencies to this file, as HdrHistogram's percentile table (.hgrm)
    #[arg(long, value_name = "FILE")]
    pub(crate) hgrm: Option<PathBuf>,
}

/// What to measure.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// Durable commits of a cluster under load (the default)
    Run(RunOptions),
    /// How long a node takes to start, by the size of its log; how fast it reads the log, beside what the disk gives
    Recovery(RecoveryOptions),
    /// What this machine can do without a protocol: the raw disk, loopback, and the bare pipeline
    Floor(FloorOptions),
    /// Throughput and latency by load: the knee, the peak, and the tail at shares of it
    Sweep(SweepOptions),
    /// The log of one node alone, by batch and callers
    Wal(StepOptions),
    /// From another thread to a node's shard and back
    Wake(StepOptions),
    /// What changed between runs (files written with --json), and whether it is more than noise
    Compare(CompareOptions),
    /// One page of HTML with pictures, from files written with --json by `run` and `sweep`
    Report(ReportOptions),
    /// What is asked of the speed, with this machine's figures beside it, as Markdown
    Table(TableOptions),
    /// Other logs on this machine, with the same durability, as Markdown
    #[cfg(feature = "peers")]
    Peers(PeersOptions),
    /// One replica, for a run with --processes
    #[command(hide = true)]
    Replica,
    /// The clients of a run over TCP
    #[command(hide = true)]
    Clients,
}

/// See [`Command::Floor`].
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct FloorOptions {
    /// Seconds of each row; the bare pipeline gets three times as long
    #[arg(long, default_value = "0.5", value_parser = parse::seconds)]
    pub(crate) each: Duration,
}

/// See [`Command::Sweep`].
#[derive(Clone, Debug, Args)]
pub(crate) struct SweepOptions {
    #[command(flatten)]
    pub(crate) load: LoadOptions,
    /// Seconds of each load
    #[arg(long, default_value = "2", value_parser = parse::seconds)]
    pub(crate) step: Duration,
    /// The ladder doubles the append calls in flight up to this
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) in_flight_max: u32,
}

/// See [`Command::Wal`].
#[derive(Clone, Debug, Args)]
pub(crate) struct StepOptions {
    /// As --payload
    #[arg(long, conflicts_with = "payload")]
    pub(crate) size: Option<Size>,
    /// Seconds of each row
    #[arg(long, default_value = "2", value_parser = parse::seconds)]
    pub(crate) step: Duration,
    /// Log that each replica keeps; older parts are trimmed once they are audited
    #[arg(long, default_value = "1GiB", value_parser = parse::bytes)]
    pub(crate) retention: u64,
}

impl StepOptions {
    /// The rest of what a load needs to know.
    pub(crate) fn load(&self, over: Over) -> LoadOptions {
        LoadOptions {
            size: self.size,
            clients: 1,
            threads: 1,
            over,
            processes: false,
            switches: false,
            warm_up: Duration::ZERO,
            retention: self.retention,
        }
    }
}

/// See [`Command::Report`].
#[derive(Clone, Debug, Args)]
pub(crate) struct ReportOptions {
    /// What `run` and `sweep` wrote with --json; runs are shown together
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// The page
    #[arg(short, long, value_name = "FILE", default_value = "report.html")]
    pub(crate) output: PathBuf,
}

/// See [`Command::Table`].
#[derive(Clone, Debug, Args)]
pub(crate) struct TableOptions {
    /// Only these rows, with commas between them: 16B, 64B, 128B, 4KiB, single, idle, tcp, single-tcp, wal, growth, tail,
    /// dead-follower, paused-follower, slow-follower
    #[arg(long, value_delimiter = ',')]
    pub(crate) rows: Vec<String>,
    /// Runs of 2 s on smaller logs, and fewer loads where a row tries several: all rows in some minutes on a machine that has
    /// nothing else to do. Figures worth keeping come from the full form
    #[arg(long)]
    pub(crate) short: bool,
    /// Seconds of each run (default: 5, with --short 2)
    #[arg(long, value_parser = parse::seconds)]
    pub(crate) duration: Option<Duration>,
    /// Log that each replica keeps; older parts are trimmed once they are audited (default: 512MiB, with --short 256MiB)
    #[arg(long, value_parser = parse::bytes)]
    pub(crate) retention: Option<u64>,
}

impl TableOptions {
    /// How long each run takes.
    pub(crate) fn duration(&self) -> Duration {
        self.duration.unwrap_or(Duration::from_secs(if self.short { 2 } else { 5 }))
    }

    /// Log that each replica keeps.
    pub(crate) fn retention(&self) -> u64 {
        self.retention.unwrap_or(if self.short { 256 << 20 } else { 512 << 20 })
    }
}

/// See [`Command::Peers`].
#[cfg(feature = "peers")]
#[derive(Clone, Debug, Args)]
pub(crate) struct PeersOptions {
    /// Only these, with commas between them
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) only: Vec<System>,
    /// Seconds of each row in each round
    #[arg(long, default_value = "3", value_parser = parse::seconds)]
    pub(crate) duration: Duration,
    /// Rounds; the table has the median of each row
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
}

/// What is measured for comparison.
#[cfg(feature = "peers")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "lower")]
pub(crate) enum System {
    /// OmniPaxos with a log made for it
    OmniPaxos,
    /// openraft with a log made for it, the replicas calling each other's functions
    Openraft,
    /// Three servers, if Debian's etcd-server is installed
    Etcd,
    /// Three servers, if Debian's zookeeper is installed
    ZooKeeper,
    /// One node's log, as TiKV has it
    #[value(name = "raft-engine")]
    RaftEngine,
}

/// See [`Command::Compare`].
#[derive(Clone, Debug, Args)]
pub(crate) struct CompareOptions {
    /// Reports of one run, or of several with commas between them
    #[arg(value_name = "BEFORE", value_delimiter = ',', required = true, num_args = 1)]
    pub(crate) before: Vec<PathBuf>,
    /// The same after the change
    #[arg(value_name = "AFTER", value_delimiter = ',', required = true, num_args = 1)]
    pub(crate) after: Vec<PathBuf>,
    /// What is tolerated for the worse, in percent
    #[arg(long, default_value_t = 5.0)]
    pub(crate) tolerance: f64,
}

/// See [`Command::Recovery`].
#[derive(Clone, Debug, Args)]
pub(crate) struct RecoveryOptions {
    /// Size of the log, such as 1GiB; several may be named, with commas between them
    #[arg(long = "size", value_name = "SIZE", value_delimiter = ',', default_value = "1GiB", value_parser = parse::bytes)]
    pub(crate) sizes: Vec<u64>,
    /// Restarts on each log
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) times: u32,
}

const EXIT_CODES: &str = "Exit codes: 0 measured and audited; 1 the audit failed, or a comparison found a \
regression, or a table was interrupted; 2 bad flags; 3 the machine lacks \
something (the message says what), or the run failed";

/// How the log makes writes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
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

/// How clients reach the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Over {
    /// They call the library, in the process of the replicas
    Embedded,
    /// They talk to the client port, from a process of their own
    Tcp,
}

/// How the open loop spreads its calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub(crate) enum Arrival {
    /// Evenly
    Uniform,
    /// As independent clients would
    Poisson,
}

/// How to print the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Text,
    /// One JSON object
    Json,
}

impl RunOptions {
    /// What follows from other flags.
    pub(crate) fn settled(mut self) -> RunOptions {
        self.load.processes |= !self.faults.is_empty();
        self.load.switches |= self.faults.iter().any(|fault| fault.blow == parse::Blow::Partition);
        self.load = self.load.settled();
        self
    }
}

impl LoadOptions {
    /// What follows from other flags.
    pub(crate) fn settled(mut self) -> LoadOptions {
        if self.processes {
            self.over = Over::Tcp;
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parsed(line: &[&str]) -> Result<Options, clap::Error> {
        Options::try_parse_from(std::iter::once("synod-bench").chain(line.iter().copied()))
    }

    #[test]
    fn the_command_line_is_consistent() {
        Options::command().debug_assert();
    }

    #[test]
    fn a_run_is_the_default() {
        let plain = parsed(&["--duration", "3", "--payload", "128"]).expect("a sound command line");
        assert!(plain.command.is_none());
        assert_eq!((plain.run.duration, plain.cluster.payload), (Duration::from_secs(3), Size::Fixed(128)));
        let named = parsed(&["run", "--duration", "3", "--size", "16-256"]).expect("a sound command line");
        let Some(Command::Run(run)) = named.command else { panic!("{named:?}") };
        assert_eq!((run.duration, run.load.size), (Duration::from_secs(3), Some(Size::Uniform(16, 256))));
    }

    #[test]
    fn faults_need_processes_of_their_own() {
        let faulty = parsed(&["--fault", "kill-leader@1s", "--fault", "pause-follower@3s+1s"]).expect("sound");
        let run = faulty.run.settled();
        assert!(run.load.processes && run.load.over == Over::Tcp && run.faults.len() == 2);
        assert!(parsed(&["--fault", "kill-leader@1s", "--floor"]).is_err(), "turns and faults don't go together");
    }

    #[test]
    fn a_restart_is_measured_with_the_same_cluster() {
        let options = parsed(&["recovery", "--size", "1GiB,256MiB", "--replicas", "1"]).expect("a sound command line");
        let Some(Command::Recovery(recovery)) = &options.command else { panic!("{options:?}") };
        assert_eq!((recovery.sizes.as_slice(), options.cluster.replicas), ([1 << 30, 256 << 20].as_slice(), 1));
        assert!(parsed(&["--duration", "1", "recovery"]).is_err(), "a load of some seconds has no part in it");
    }
}
