//! The table of all settings: name, meaning, and how a value gets into an [`Options`] and out again.
//!
//! File keys, environment variables, flags, `--print-config` and the table in the documentation all follow from this one
//! list, so that none of them can lack a setting or name it differently.

use synod_protocol::NodeId;

use super::Options;
use super::parse::{Bare, Bytes, Quoted, Show};
use super::parse::{address, bytes, log_format, number, peers, switch, sync, time};

/// One setting.
#[derive(Debug)]
pub struct Key {
    /// As in the file; a dot for a table's entry. The environment variable and the flag follow from it.
    pub name: &'static str,
    /// What a value looks like.
    pub value: &'static str,
    /// One sentence, and the unit.
    pub meaning: &'static str,
    /// How it is written.
    pub shape: Shape,
    pub(super) set: fn(&mut Options, &str) -> Result<(), String>,
    pub(super) show: fn(&Options) -> Option<String>,
}

/// How a setting is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A string.
    Text,
    /// A whole number, or a string with a number and a unit.
    Number,
    /// `true` or `false`; a flag without a value is `true`.
    Switch,
    /// The other members, by node id: a table in the file, `ID=IP:PORT` with commas between in the environment, and a
    /// flag for each.
    Peers,
}

impl Key {
    /// The environment variable.
    pub fn variable(&self) -> String {
        format!("SYNOD_{}", self.name.replace('.', "_").to_uppercase())
    }

    /// The flag, without its dashes.
    pub fn flag(&self) -> String {
        let flag = self.name.replace(['.', '_'], "-");
        match (self.shape, flag.strip_suffix('s')) {
            (Shape::Peers, Some(one)) => one.to_owned(),
            _ => flag,
        }
    }
}

macro_rules! key {
    ($name:literal, $shape:ident, $value:literal, $meaning:literal, $set:expr, $show:expr $(,)?) => {
        Key { name: $name, value: $value, meaning: $meaning, shape: Shape::$shape, set: $set, show: $show }
    };
}

/// Puts a parsed value in its place.
macro_rules! put {
    ($parse:expr, $($place:tt)+) => {
        |options, text| {
            options.$($place)+ = $parse(text)?.into();
            Ok(())
        }
    };
}

/// All settings, in the order in which they are shown.
pub static KEYS: &[Key] = &[
    key!(
        "dir",
        Text,
        "PATH",
        "The node's directory, as made by `synod init` and `synod bootstrap`",
        |options, text| {
            options.config.directory = text.into();
            Ok(())
        },
        |options| some_path(&options.config.directory)
    ),
    key!(
        "node",
        Number,
        "ID",
        "The node's id; must be the directory's, whose id it is by default",
        |options, text| {
            options.config.node = NodeId(number(text)?);
            Ok(())
        },
        |options| (options.config.node != NodeId(0)).then(|| Bare(options.config.node.0).show())
    ),
    key!(
        "listen",
        Text,
        "IP:PORT",
        "Where peers connect; port 0 takes a free one",
        put!(address, config.listen),
        |options| Some(Quoted(options.config.listen).show())
    ),
    key!(
        "peers",
        Peers,
        "ID=IP:PORT",
        "Another member and where it listens; once for each",
        put!(peers, config.peers),
        |options| Some(options.config.peers.show())
    ),
    key!(
        "client_listen",
        Text,
        "IP:PORT",
        "Where clients connect; port 0 takes a free one. Without it nobody can",
        |options, text| {
            options.config.client_listen = Some(address(text)?);
            Ok(())
        },
        |options| options.config.client_listen.map(|address| Quoted(address).show())
    ),
    key!(
        "admin_listen",
        Text,
        "IP:PORT",
        "Where /health, /ready, /metrics and /limits are served; port 0 takes a free one",
        |options, text| {
            options.config.admin_listen = Some(address(text)?);
            Ok(())
        },
        |options| options.config.admin_listen.map(|address| Quoted(address).show())
    ),
    key!(
        "client_peers",
        Peers,
        "ID=IP:PORT",
        "Where another member listens for clients, who are told so; may be left out",
        put!(peers, config.client_peers),
        |options| Some(options.config.client_peers.show())
    ),
    key!(
        "forward_writes",
        Switch,
        "BOOL",
        "While another node leads, pass appends on to it, at its address among client_peers",
        put!(switch, config.forward_writes),
        |options| Some(Bare(options.config.forward_writes).show())
    ),
    key!(
        "tls.authorities",
        Text,
        "PATH",
        "PEM file of those who sign the certificates of nodes and clients",
        |options, text| {
            options.config.tls.get_or_insert_default().authorities = text.into();
            Ok(())
        },
        |options| options.config.tls.as_ref().and_then(|tls| some_path(&tls.authorities))
    ),
    key!(
        "tls.certificate",
        Text,
        "PATH",
        "PEM file of the own certificate and those between it and an authority",
        |options, text| {
            options.config.tls.get_or_insert_default().certificate = text.into();
            Ok(())
        },
        |options| options.config.tls.as_ref().and_then(|tls| some_path(&tls.certificate))
    ),
    key!(
        "tls.key",
        Text,
        "PATH",
        "PEM file of its private key, which nobody else may read",
        |options, text| {
            options.config.tls.get_or_insert_default().key = text.into();
            Ok(())
        },
        |options| options.config.tls.as_ref().and_then(|tls| some_path(&tls.key))
    ),
    key!(
        "insecure_plaintext",
        Switch,
        "BOOL",
        "Allow addresses beyond the loopback interface, though nothing is encrypted or authenticated",
        put!(switch, config.insecure_plaintext),
        |options| Some(Bare(options.config.insecure_plaintext).show())
    ),
    key!(
        "sync",
        Text,
        "dsync|fdatasync",
        "How writes become durable: each by itself, or several by one sync",
        put!(sync, config.sync),
        |options| Some(options.config.sync.show())
    ),
    key!(
        "log_format",
        Text,
        "text|json",
        "How the log on stderr is written; its level is RUST_LOG's",
        put!(log_format, log_format),
        |options| Some(options.log_format.show())
    ),
    key!(
        "heartbeat_interval",
        Number,
        "TIME",
        "How often a leader speaks when it has nothing to say",
        put!(time, config.settings.heartbeat_interval),
        |options| Some(options.config.settings.heartbeat_interval.show())
    ),
    key!(
        "news_delay",
        Number,
        "TIME",
        "How long an idle leader waits for a body to tell of the last choice with; 0s tells at once",
        put!(time, config.settings.news_delay),
        |options| Some(options.config.settings.news_delay.show())
    ),
    key!(
        "election_timeout",
        Number,
        "TIME",
        "How long a follower waits at least for its leader; three heartbeats or more",
        put!(time, config.settings.election_timeout),
        |options| Some(options.config.settings.election_timeout.show())
    ),
    key!(
        "raises_format",
        Switch,
        "BOOL",
        "Let a leader raise the format of the log as soon as every node reads a newer one; there is no way back",
        put!(switch, config.settings.raises_format),
        |options| Some(Bare(options.config.settings.raises_format).show())
    ),
    key!(
        "retransmit_interval",
        Number,
        "TIME",
        "How long an unanswered message waits before it is sent again",
        put!(time, config.settings.retransmit_interval),
        |options| Some(options.config.settings.retransmit_interval.show())
    ),
    key!(
        "fetch_delay",
        Number,
        "TIME",
        "How long a follower waits for the body of a chosen slot before it fetches it",
        put!(time, config.settings.fetch_delay),
        |options| Some(options.config.settings.fetch_delay.show())
    ),
    key!(
        "window_bodies",
        Number,
        "COUNT",
        "Most bodies that a leader keeps proposed and not chosen",
        put!(number::<u32>, config.settings.window_bodies),
        |options| Some(Bare(options.config.settings.window_bodies).show())
    ),
    key!(
        "window_bytes",
        Number,
        "SIZE",
        "Most bytes of such bodies",
        put!(bytes, config.settings.window_bytes),
        |options| Some(Bytes(options.config.settings.window_bytes).show())
    ),
    key!(
        "peer_bytes",
        Number,
        "SIZE",
        "Bytes sent to one follower and not acknowledged, above which it gets no more until it catches up",
        put!(bytes, config.settings.peer_bytes),
        |options| Some(Bytes(options.config.settings.peer_bytes).show())
    ),
    key!(
        "fetch_bytes",
        Number,
        "SIZE",
        "Bytes of bodies asked for in one fetch",
        |options, text| {
            options.config.settings.fetch_bytes = narrow(bytes(text)?)?;
            Ok(())
        },
        |options| Some(Bytes(options.config.settings.fetch_bytes.into()).show())
    ),
    key!(
        "body_bytes_max",
        Number,
        "SIZE",
        "Largest record that several submissions share; a power of two",
        |options, text| {
            options.config.body_bytes_max = narrow(bytes(text)?)?;
            Ok(())
        },
        |options| Some(Bytes(options.config.body_bytes_max.into()).show())
    ),
    key!(
        "intake_bytes",
        Number,
        "SIZE",
        "Submissions that wait to be proposed, above which an append waits",
        put!(bytes, config.intake_bytes),
        |options| Some(Bytes(options.config.intake_bytes).show())
    ),
    key!(
        "intake_count",
        Number,
        "COUNT",
        "How many submissions may wait to be proposed",
        put!(number::<usize>, config.intake_count),
        |options| Some(Bare(options.config.intake_count).show())
    ),
    key!(
        "link_bytes",
        Number,
        "SIZE",
        "What may wait to be sent to one peer over one connection",
        put!(bytes, config.link_bytes),
        |options| Some(Bytes(options.config.link_bytes).show())
    ),
    key!(
        "wal_backlog_bytes",
        Number,
        "SIZE",
        "Unsynced bytes of the log above which no more bodies are read from peers",
        put!(bytes, config.wal_backlog_bytes),
        |options| Some(Bytes(options.config.wal_backlog_bytes).show())
    ),
    key!(
        "io_memory_bytes",
        Number,
        "SIZE",
        "The slab from which buffers come",
        |options, text| {
            options.config.io_memory_bytes = usize::try_from(bytes(text)?).map_err(|_| "is too large")?;
            Ok(())
        },
        |options| Some(Bytes(options.config.io_memory_bytes as u64).show())
    ),
    key!(
        "unknown_after",
        Number,
        "TIME",
        "How long a proposed append may stay unresolved before it is reported as unknown",
        put!(time, config.unknown_after),
        |options| Some(options.config.unknown_after.show())
    ),
    key!(
        "connections_max",
        Number,
        "COUNT",
        "Connections to the peer port and to the client port, each",
        put!(number::<usize>, config.connections_max),
        |options| Some(Bare(options.config.connections_max).show())
    ),
    key!(
        "client_requests_max",
        Number,
        "COUNT",
        "Requests of one client connection that may be under way",
        put!(number::<usize>, config.client_requests_max),
        |options| Some(Bare(options.config.client_requests_max).show())
    ),
    key!(
        "client_bytes_max",
        Number,
        "SIZE",
        "Bytes of appends of one client connection that may be under way",
        put!(bytes, config.client_bytes_max),
        |options| Some(Bytes(options.config.client_bytes_max).show())
    ),
    key!(
        "clients_bytes_max",
        Number,
        "SIZE",
        "Bytes of what all clients together have sent, or are sending, and isn't answered",
        put!(bytes, config.clients_bytes_max),
        |options| Some(Bytes(options.config.clients_bytes_max).show())
    ),
    key!(
        "retention.bytes",
        Number,
        "SIZE",
        "Trim while the log is longer than this, such as 8GiB; nothing is dropped that a member lacks",
        put!(|text| bytes(text).map(Some), config.retention.bytes),
        |options| options.config.retention.bytes.map(|bytes| Bytes(bytes).show())
    ),
    key!(
        "retention.age",
        Number,
        "TIME",
        "Trim what is older than this by the log's own time, such as 36h or 7d; nothing is dropped that a member lacks",
        put!(|text| time(text).map(Some), config.retention.age),
        |options| options.config.retention.age.map(|age| age.show())
    ),
    key!(
        "retention.hard_bytes",
        Number,
        "SIZE",
        "Above this length trim also what some members lack, as long as a quorum has it: their logs begin anew",
        put!(|text| bytes(text).map(Some), config.retention.hard_bytes),
        |options| options.config.retention.hard_bytes.map(|bytes| Bytes(bytes).show())
    ),
    key!(
        "pool_free_min",
        Number,
        "COUNT",
        "Make a segment file when fewer than this many are free, besides those for the next starts",
        put!(number::<u32>, config.pool_free_min),
        |options| Some(Bare(options.config.pool_free_min).show())
    ),
    key!(
        "pool_files_max",
        Number,
        "COUNT",
        "Never have more segment files than this",
        put!(number::<u32>, config.pool_files_max),
        |options| Some(Bare(options.config.pool_files_max).show())
    ),
    key!(
        "scrub_bytes_per_second",
        Number,
        "SIZE",
        "How fast everything stored is read again in the background, to find damage; 0 for never",
        put!(bytes, config.scrub_bytes_per_second),
        |options| Some(Bytes(options.config.scrub_bytes_per_second).show())
    ),
    key!(
        "shards",
        Number,
        "COUNT",
        "Threads that drive the node's groups; by default one for each group, as far as there are cores",
        put!(|text| number::<u32>(text).map(Some), config.shards),
        |options| options.config.shards.map(|shards| Bare(shards).show())
    ),
    key!(
        "spread_leaders",
        Switch,
        "BOOL",
        "With several groups, hand leaderships on until all members lead about as many",
        put!(switch, config.spread_leaders),
        |options| Some(Bare(options.config.spread_leaders).show())
    ),
    key!(
        "pin_to_core",
        Number,
        "CORE",
        "Stay on this core",
        put!(|text| number::<usize>(text).map(Some), config.pin_to_core),
        |options| options.config.pin_to_core.map(|core| Bare(core).show())
    ),
];

/// What the cluster shares is written into each directory once, and where to say so instead.
pub(super) static SHARED: &[(&str, &str)] = &[
    ("cluster", "synod bootstrap --cluster"),
    ("members", "synod bootstrap --member"),
    ("prepare_quorum", "synod bootstrap"),
    ("accept_quorum", "synod bootstrap"),
    ("alpha", "synod bootstrap --alpha"),
    ("segment_size", "synod init --segment-size"),
    ("groups", "synod init --groups"),
];

fn some_path(path: &std::path::Path) -> Option<String> {
    (!path.as_os_str().is_empty()).then(|| Quoted(path.display()).show())
}

fn narrow(value: u64) -> Result<u32, String> {
    u32::try_from(value).map_err(|_| "is too large".to_owned())
}
