//! Settings from a file, the environment and flags: what an operator writes becomes a [`Config`].
//!
//! One table, [`KEYS`], names every setting. A later source wins over an earlier one: defaults, the TOML file, variables
//! `SYNOD_...`, flags. Each value remembers where it came from, so that a refusal can name the place, and
//! [`Loaded::print`] can show it. Nothing is passed over: an unknown key is refused with the nearest known one, a value
//! that can't be read with what it should look like, a combination that can't work with the reason and the origins of all
//! that take part in it.
//!
//! Only what a node may choose for itself is settled here. What all nodes share (members, quorums, alpha, the length of
//! segments) was written into the directory by `synod init` and `synod bootstrap`; a file that names it is refused with
//! the command that settles it.
//!
//! Relative paths start at the working directory of the process.

mod key;
mod parse;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use synod_protocol::{NodeId, SettingsError};
use synod_wal::directory::{self, NodeIdentity, OpenError};
use thiserror::Error;
use toml::de::{DeTable, DeValue};
use uuid::Uuid;

use crate::config::{Config, ConfigError};

pub use key::{KEYS, Key, Shape};

/// Largest file of settings that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What the names of all variables begin with.
const PREFIX: &str = "SYNOD_";

/// The variable that names the file; see [`Sources::file`].
pub const FILE_VARIABLE: &str = "SYNOD_CONFIG";

/// How similar a name must be to a known one to pass for a slip of the pen; 1 is equal.
const SIMILARITY_MIN: f64 = 0.75;

/// What all settings together say.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the node is told.
    pub config: Config,
    /// How the process writes its log.
    pub log_format: LogFormat,
}

/// How a log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// A JSON object a line.
    Json,
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A line of the file, from 1 on.
    File(PathBuf, usize),
    /// A variable of the environment.
    Variable(String),
    /// A flag of the command line, without its dashes.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File(path, line) => write!(f, "{}:{line}", path.display()),
            Origin::Variable(variable) => f.write_str(variable),
            Origin::Flag(flag) => write!(f, "--{flag}"),
        }
    }
}

/// Why settings can't be used. All of them are to be mended by whoever wrote the settings.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The file can't be read.
    #[error("can't read the settings in {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The file is no TOML.
    #[error("{}:{line}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1 on.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// There is no such setting.
    #[error("{origin}: there is no setting {name:?}{}", nearest.map(|near| format!("; did you mean {near:?}?")).unwrap_or_default())]
    Unknown {
        /// Where it stands.
        origin: Origin,
        /// What stands there.
        name: String,
        /// The known setting that looks most like it, if any does.
        nearest: Option<&'static str>,
    },
    /// All nodes share it, so no node may choose it.
    #[error("{origin}: {name} is shared by the cluster and settled once, by `{command}`; take it out")]
    Shared {
        /// Where it stands.
        origin: Origin,
        /// What stands there.
        name: &'static str,
        /// What settles it.
        command: &'static str,
    },
    /// The value can't be read.
    #[error("{origin}: {name}: {value:?} {problem}")]
    Value {
        /// Where it stands.
        origin: Origin,
        /// The setting.
        name: &'static str,
        /// What stands there.
        value: String,
        /// What is wrong with it.
        problem: String,
    },
    /// There is no default.
    #[error("{name} is not set: --{}, {}, or {name} in the file of --config", name.replace('_', "-"), format!("{PREFIX}{}", name.to_uppercase()))]
    Missing {
        /// The setting.
        name: &'static str,
    },
    /// The directory, which knows the node's id, can't be read.
    #[error(transparent)]
    Directory(#[from] OpenError),
    /// The values don't work, alone or together.
    #[error("{error}{}", told(.origins))]
    Config {
        /// Why not.
        error: ConfigError,
        /// Those of the values concerned that aren't defaults.
        origins: Vec<(&'static str, Origin)>,
    },
}

/// Collects values from one source after the other.
#[derive(Debug, Default)]
pub struct Sources {
    values: BTreeMap<&'static str, (String, Origin)>,
}

impl Sources {
    /// No values yet.
    pub fn new() -> Sources {
        Sources::default()
    }

    /// Takes the values of a TOML file, which may be up to 1 MiB long.
    ///
    /// # Errors
    /// If it can't be read, isn't TOML, or has a key that isn't a setting.
    pub fn file(&mut self, path: &Path) -> Result<(), LoadError> {
        let text = read(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
        let line_of = |at: usize| 1 + text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count();
        let table = DeTable::parse(&text).map_err(|error| LoadError::Syntax {
            path: path.to_owned(),
            line: line_of(error.span().map_or(0, |span| span.start)),
            message: error.message().to_owned(),
        })?;
        self.table("", table.get_ref(), &|at| Origin::File(path.to_owned(), line_of(at)))
    }

    /// Takes the values of variables that are named `SYNOD_` and the name of a setting. Gives back the names of other
    /// variables that begin so: some container platforms set `SYNOD_PORT` and the like by themselves, so that only a name
    /// that looks like a setting is refused.
    ///
    /// # Errors
    /// If a variable looks like a misspelt setting, or isn't text.
    pub fn environment(
        &mut self,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Vec<String>, LoadError> {
        let mut passed_over = Vec::new();
        for (variable, value) in variables {
            let Some(variable) = variable.to_str().filter(|name| name.starts_with(PREFIX) && *name != FILE_VARIABLE)
            else {
                continue;
            };
            let origin = Origin::Variable(variable.to_owned());
            if let Some(key) = KEYS.iter().find(|key| key.variable() == variable) {
                let value = value.into_string().map_err(|value| LoadError::Value {
                    origin: origin.clone(),
                    name: key.name,
                    value: value.to_string_lossy().into_owned(),
                    problem: "is not UTF-8".to_owned(),
                })?;
                self.values.insert(key.name, (value, origin));
            } else {
                let name = variable[PREFIX.len()..].to_lowercase();
                match unknown(&name, origin) {
                    LoadError::Unknown { nearest: None, .. } => passed_over.push(variable.to_owned()),
                    error => return Err(error),
                }
            }
        }
        Ok(passed_over)
    }

    /// Takes the value of a flag; several of the other members add up.
    pub fn flag(&mut self, key: &'static Key, value: &str) {
        let origin = Origin::Flag(key.flag());
        match self.values.get_mut(key.name) {
            Some((before, Origin::Flag(_))) if key.shape == Shape::Peers => {
                before.push(',');
                before.push_str(value);
            }
            _ => drop(self.values.insert(key.name, (value.to_owned(), origin))),
        }
    }

    /// Puts everything together and checks it.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn resolve(self) -> Result<Loaded, LoadError> {
        let mut options = self.options()?;
        for name in ["dir", "listen"] {
            if !self.values.contains_key(name) {
                return Err(LoadError::Missing { name });
            }
        }
        let identity = directory::read_identity(&options.config.directory)?;
        if !self.values.contains_key("node") {
            options.config.node = identity.node;
        }
        let loaded = Loaded { options, origins: self.origins(), identity };
        loaded.options.config.validate().map_err(|error| explain(error, &loaded.origins))?;
        Ok(loaded)
    }

    /// Puts everything together and checks it, for those who only want to know the bounds: the directory isn't looked at,
    /// and neither it nor an address need be set.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn bounds(self) -> Result<Options, LoadError> {
        let mut options = self.options()?;
        if !self.values.contains_key("node") {
            let taken = options.config.peers.iter().map(|(peer, _)| peer.0).max().unwrap_or_default();
            options.config.node = NodeId(taken.saturating_add(1));
        }
        options.config.validate().map_err(|error| explain(error, &self.origins()))?;
        Ok(options)
    }

    fn options(&self) -> Result<Options, LoadError> {
        let nowhere = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let config = Config::new(PathBuf::new(), NodeId(0), nowhere);
        let mut options = Options { config, log_format: LogFormat::default() };
        for key in KEYS {
            if let Some((value, origin)) = self.values.get(key.name) {
                (key.set)(&mut options, value).map_err(|problem| LoadError::Value {
                    origin: origin.clone(),
                    name: key.name,
                    value: value.clone(),
                    problem,
                })?;
            }
        }
        Ok(options)
    }

    fn origins(&self) -> BTreeMap<&'static str, Origin> {
        self.values.iter().map(|(name, (_, origin))| (*name, origin.clone())).collect()
    }

    fn table(&mut self, above: &str, table: &DeTable<'_>, origin: &impl Fn(usize) -> Origin) -> Result<(), LoadError> {
        for (name, value) in table {
            let at = origin(name.span().start);
            let name = format!("{above}{}", name.get_ref());
            let key = KEYS.iter().find(|key| key.name == name);
            match (key, value.get_ref()) {
                (Some(key), value) => {
                    let text = file_value(key, value, &at)?;
                    self.values.insert(key.name, (text, at));
                }
                (None, DeValue::Table(inner)) if KEYS.iter().any(|key| key.name.starts_with(&format!("{name}."))) => {
                    self.table(&format!("{name}."), inner, origin)?;
                }
                (None, _) => return Err(unknown(&name, at)),
            }
        }
        Ok(())
    }
}

/// Settings that work together, each with its origin.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The values.
    pub options: Options,
    origins: BTreeMap<&'static str, Origin>,
    identity: NodeIdentity,
}

impl Loaded {
    /// Where a setting's value came from; `None` for a default.
    pub fn origin(&self, name: &str) -> Option<&Origin> {
        self.origins.get(name)
    }

    /// All values as a TOML file, each with its origin in a comment; and before them, in comments, what the cluster shares
    /// and what was settled when the directory was made.
    pub fn print(&self) -> String {
        let cluster =
            self.identity.cluster.map_or_else(|| "none yet".to_owned(), |id| Uuid::from_bytes(id).to_string());
        let mut text = format!(
            "# Settled when the directory was made, and shared by the cluster; not to be set here:\n\
             #   cluster {cluster}, lineage {}\n#   node {}, incarnation {}\n#   segments of {} bytes\n\
             # What this node chooses:\n",
            self.identity.lineage,
            self.identity.node,
            Uuid::from_bytes(self.identity.incarnation),
            self.identity.segment_bytes,
        );
        for key in KEYS {
            let line = match (key.show)(&self.options) {
                Some(value) => format!("{} = {value}", key.name),
                None => format!("# {} =", key.name),
            };
            let origin = match self.origins.get(key.name) {
                Some(origin) => origin.to_string(),
                None if key.name == "node" => "the directory".to_owned(),
                None => "default".to_owned(),
            };
            text.push_str(&format!("{line:<40} # {}\n", origin.escape_debug()));
        }
        text
    }
}

fn explain(error: ConfigError, origins: &BTreeMap<&'static str, Origin>) -> LoadError {
    let origin = |name| origins.get_key_value(name).map(|(name, origin)| (*name, origin.clone()));
    let origins = fields_of(&error).into_iter().filter_map(origin).collect();
    LoadError::Config { error, origins }
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}

/// A value of the file as the text that a variable or a flag would have.
fn file_value(key: &'static Key, value: &DeValue<'_>, origin: &Origin) -> Result<String, LoadError> {
    let wrong = |found: String, problem: &str| LoadError::Value {
        origin: origin.clone(),
        name: key.name,
        value: found,
        problem: problem.to_owned(),
    };
    match (key.shape, value) {
        (Shape::Text | Shape::Number, DeValue::String(text)) => Ok(text.clone().into_owned()),
        (Shape::Number, DeValue::Integer(number)) if number.radix() == 10 => Ok(number.as_str().to_owned()),
        (Shape::Switch, DeValue::Boolean(value)) => Ok(value.to_string()),
        (Shape::Peers, DeValue::Table(peers)) => {
            let peer = |(node, address): (&toml::Spanned<_>, &toml::Spanned<DeValue<'_>>)| match address.get_ref() {
                DeValue::String(address) => Ok(format!("{}={address}", node.get_ref())),
                other => Err(wrong(kind(other).to_owned(), "is no address: write 2 = \"127.0.0.1:7102\"")),
            };
            let peers: Vec<String> = peers.iter().map(peer).collect::<Result<_, _>>()?;
            Ok(peers.join(","))
        }
        (Shape::Text, other) => Err(wrong(kind(other).to_owned(), "is no string")),
        (Shape::Number, other) => {
            Err(wrong(kind(other).to_owned(), "is neither a decimal number nor a string with a number and a unit"))
        }
        (Shape::Switch, other) => Err(wrong(kind(other).to_owned(), "is neither true nor false")),
        (Shape::Peers, other) => Err(wrong(kind(other).to_owned(), "is no table of node ids and addresses")),
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "a truth value",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

fn unknown(name: &str, origin: Origin) -> LoadError {
    if let Some((shared, command)) = key::SHARED.iter().find(|(shared, _)| *shared == name) {
        return LoadError::Shared { origin, name: shared, command };
    }
    let plain = name.replace('.', "_");
    let likeness = |key: &&Key| strsim::jaro_winkler(&key.name.replace('.', "_"), &plain);
    let nearest = KEYS
        .iter()
        .max_by(|one, other| likeness(one).total_cmp(&likeness(other)))
        .filter(|key| likeness(key) >= SIMILARITY_MIN)
        .map(|key| key.name);
    LoadError::Unknown { origin, name: name.to_owned(), nearest }
}

/// The settings that take part in a refusal.
fn fields_of(error: &ConfigError) -> Vec<&'static str> {
    match error {
        ConfigError::NodeZero | ConfigError::PeerIsSelf(_) => vec!["node", "peers"],
        ConfigError::PeerTwice(_) | ConfigError::PeerAddressTwice { .. } | ConfigError::PeerPort(_) => vec!["peers"],
        ConfigError::Settings(SettingsError::Election { .. }) => vec!["election_timeout", "heartbeat_interval"],
        ConfigError::Settings(SettingsError::PeerBytes { .. }) => vec!["peer_bytes", "window_bytes"],
        ConfigError::Settings(SettingsError::Zero(field)) => vec![field],
        ConfigError::Range { field: "link_bytes", .. } => vec!["link_bytes", "window_bytes"],
        ConfigError::Range { field: "connections_max", .. } => vec!["connections_max", "peers"],
        ConfigError::Range { field: "clients_bytes_max", .. } => vec!["clients_bytes_max", "client_bytes_max"],
        ConfigError::Range { field: "retention.hard_bytes", .. } => vec!["retention.hard_bytes", "retention.bytes"],
        ConfigError::Range { field: "pool_free_min", .. } => vec!["pool_free_min", "pool_files_max"],
        ConfigError::Range { field, .. }
        | ConfigError::PowerOfTwo { field, .. }
        | ConfigError::Plaintext { field, .. } => vec![field.split_once(' ').map_or(field, |(name, _)| name)],
        ConfigError::Core { .. } => vec!["pin_to_core"],
        ConfigError::PinnedShards { .. } => vec!["pin_to_core", "shards"],
        ConfigError::TlsPart(_) => vec!["tls.authorities", "tls.certificate", "tls.key"],
        ConfigError::TlsOrPlaintext => vec!["insecure_plaintext", "tls.authorities", "tls.certificate", "tls.key"],
        ConfigError::ForwardWhere => vec!["forward_writes", "client_peers"],
        ConfigError::ClientPeer(_) => vec!["client_peers", "peers"],
    }
}

fn told(origins: &[(&'static str, Origin)]) -> String {
    let told: Vec<String> = origins.iter().map(|(name, origin)| format!("{name} is from {origin}")).collect();
    if told.is_empty() { String::new() } else { format!(" ({})", told.join(", ")) }
}
