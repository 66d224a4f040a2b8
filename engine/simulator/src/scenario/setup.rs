//! The settings of a scenario: one a line, its name first.
//!
//! | line | meaning | default |
//! |---|---|---|
//! | `nodes 3` | members | 3 |
//! | `quorums 2 2` | prepare and accept quorum | majorities |
//! | `seeds 0..50` | play it once for each of these | `0..1` |
//! | `election-timeout 300ms` | and all other times in proportion | 300 ms |
//! | `alpha 16`, `window 4` | slots ahead of the prefix; open bodies | 64, 16 |
//! | `sync fdatasync` | how logs sync; or `dsync` | `dsync` |
//! | `command-bytes 2000` | length of each command | 64 |
//! | `plant NAME`, `only PROPERTY` | a planted bug; what to look for | none |
//! | `end open` | the cluster isn't healed in the end | healed |

use std::ops::Range;
use std::time::Duration;

use synod_protocol::{Configuration, Settings};
use synod_wal::{LogSettings, LoggedSettings, SyncMode};

use super::command::parse_duration;
use crate::cluster::Options;
use crate::faults::Faults;
use crate::faults::membership::MembershipChanges;
use crate::faults::upgrades::Upgrades;
use crate::invariants::Property;
use crate::network::node_id;
use crate::plan::{Plan, ReadsPlan};
use crate::plant::Plant;
use crate::random::Chance;
use crate::workload::WorkloadPlan;

/// See the module documentation.
#[derive(Clone, Debug)]
pub struct Setup {
    pub(super) nodes: usize,
    /// Nodes that aren't members.
    spare: usize,
    quorums: Option<(u32, u32)>,
    pub(super) seeds: Range<u64>,
    pub(super) election_timeout: Duration,
    alpha: u32,
    window: u32,
    sync: SyncMode,
    command_bytes: u64,
    plant: Option<Plant>,
    only: Option<Property>,
    /// Nodes begin with an older build.
    upgrades: bool,
    pub(super) ends_open: bool,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            nodes: 3,
            spare: 0,
            quorums: None,
            seeds: 0..1,
            election_timeout: Duration::from_millis(300),
            alpha: 64,
            window: 16,
            sync: SyncMode::Dsync,
            command_bytes: 64,
            plant: None,
            only: None,
            upgrades: false,
            ends_open: false,
        }
    }
}

impl Setup {
    /// Takes one line.
    pub(super) fn set(&mut self, line: &str) -> Result<(), String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |word: &str| word.parse::<u64>().map_err(|_| format!("{word} is no number"));
        match words[..] {
            ["nodes", nodes] => self.nodes = number(nodes)? as usize,
            ["spare", nodes] => self.spare = number(nodes)? as usize,
            ["quorums", prepare, accept] => self.quorums = Some((number(prepare)? as u32, number(accept)? as u32)),
            ["seeds", seeds] => {
                let (first, end) = seeds.split_once("..").ok_or("seeds are FIRST..END")?;
                self.seeds = number(first)?..number(end)?;
            }
            ["election-timeout", time] => self.election_timeout = parse_duration(time)?,
            ["alpha", alpha] => self.alpha = number(alpha)? as u32,
            ["window", bodies] => self.window = number(bodies)? as u32,
            ["sync", "dsync"] => self.sync = SyncMode::Dsync,
            ["sync", "fdatasync"] => self.sync = SyncMode::Fdatasync,
            ["command-bytes", bytes] => self.command_bytes = number(bytes)?,
            ["plant", plant] => self.plant = Some(plant.parse()?),
            ["only", property] => self.only = Some(property.parse()?),
            ["upgrade"] => self.upgrades = true,
            ["end", "open"] => self.ends_open = true,
            _ => return Err(format!("no such setting: {line}")),
        }
        Ok(())
    }

    /// Checks the settings against each other.
    pub(super) fn check(&self) -> Result<(), String> {
        self.configuration().check().map_err(|error| error.to_string())
    }

    fn configuration(&self) -> Configuration {
        let majority = self.nodes as u32 / 2 + 1;
        let (prepare_quorum, accept_quorum) = self.quorums.unwrap_or((majority, majority));
        let members = (0..self.nodes).map(node_id).collect();
        Configuration {
            chosen_at: synod_protocol::Slot(0),
            members,
            prepare_quorum,
            accept_quorum,
            alpha: self.alpha,
            learners: Vec::new(),
            leaving: Vec::new(),
            format: synod_protocol::FORMAT_FIRST,
        }
    }

    pub(super) fn options(&self, seed: u64, trace: bool) -> Options {
        Options { seed, plant: self.plant, only: self.only, trace, ..Options::default() }
    }

    pub(super) fn plan(&self) -> Plan {
        // All times as they are by default, in proportion to the election timeout.
        let usual = Settings::default();
        let scale = |time: Duration| self.election_timeout.as_micros() * time.as_micros();
        let scaled =
            |time: Duration| Duration::from_micros((scale(time) / usual.election_timeout.as_micros().max(1)) as u64);
        let protocol = Settings {
            heartbeat_interval: scaled(usual.heartbeat_interval),
            election_timeout: self.election_timeout,
            retransmit_interval: scaled(usual.retransmit_interval),
            fetch_delay: scaled(usual.fetch_delay),
            window_bodies: self.window,
            ..usual
        };
        protocol.check().expect("the usual settings fit together");
        Plan {
            configuration: self.configuration(),
            protocol,
            logged: LoggedSettings {
                cache_bytes: 1 << 20,
                backlog_bytes: 1 << 20,
                scrub_bytes_per_second: 0,
                delivery: None,
            },
            log: LogSettings {
                segment_bytes: 64 << 10,
                sync: self.sync,
                pool_free_min: 1,
                pool_spares: 0,
                pool_files_max: 10_000,
                ..LogSettings::default()
            },
            faulty_time: Duration::ZERO,
            faults: Faults {
                membership: MembershipChanges { spare: self.spare, every: None },
                upgrades: if self.upgrades { Upgrades::by_hand() } else { Upgrades::none() },
                ..Faults::none()
            },
            workload: WorkloadPlan {
                every: self.election_timeout / 100..=self.election_timeout / 50,
                burst: 1..=1,
                body_submissions_max: 1,
                commands: 1..=1,
                command_bytes: self.command_bytes..=self.command_bytes,
                record_bytes_max: 48 << 10,
                trim: Chance::NEVER,
                trim_past: Chance::NEVER,
                read: Chance::NEVER,
                commands_min: 0,
            },
            reads: ReadsPlan::NONE,
            inspect: Chance::of(1, 1000),
        }
    }
}
