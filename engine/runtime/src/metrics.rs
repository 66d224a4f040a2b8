//! What a node tells to Prometheus, in the OpenMetrics text format.
//!
//! Everything is gathered when somebody asks; no payload and no key is among it. Names end with their unit, and a label
//! has one of a few known values, or is the id of a member, so that the number of series is bounded.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use synod_frame::GroupId;
use synod_protocol::Role;

use crate::log::Shared;
use crate::meters::{Durations, Meters, PortMeter};
use crate::status::Status;

/// What doesn't change while a node runs.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) node: u32,
    pub(crate) directory: PathBuf,
    pub(crate) insecure_plaintext: bool,
}

/// The metrics as text; before the logs are open there are no groups, and little to tell. What is a group's has the label
/// `group` where there are several.
pub(crate) fn encode(
    facts: &Facts,
    groups: &[(GroupId, Arc<Shared>)],
    admin_port: &Arc<PortMeter>,
    expires: Option<u64>,
) -> String {
    let node = ("node".into(), facts.node.to_string().into());
    let encode = |labels: Vec<(Cow<'static, str>, Cow<'static, str>)>, snapshot: Box<dyn Collector>| {
        let mut registry = Registry::with_prefix_and_labels("synod", labels.into_iter());
        registry.register_collector(snapshot);
        let mut text = String::new();
        text::encode(&mut text, &registry).expect("a string takes everything");
        text
    };
    let all: Vec<Arc<Shared>> = groups.iter().map(|(_, shared)| Arc::clone(shared)).collect();
    let (facts, admin_port) = (facts.clone(), Arc::clone(admin_port));
    let mut text = encode(vec![node.clone()], Box::new(Snapshot { facts, groups: all, admin_port, expires }));
    let is_one = groups.len() == 1;
    let each = groups.iter().map(|(group, shared)| {
        let label = ("group".into(), group.0.to_string().into());
        let labels = if is_one { vec![node.clone()] } else { vec![node.clone(), label] };
        encode(labels, Box::new(GroupSnapshot { shared: Arc::clone(shared) }))
    });
    let each: Vec<String> = each.collect();
    text.truncate(text.len() - END.len());
    text.push_str(&merged(&each));
    text.push_str(END);
    text
}

/// What an answer ends with.
const END: &str = "# EOF\n";

/// The texts of several groups as one, in which each metric stands once with the samples of all.
fn merged(texts: &[String]) -> String {
    let mut families: Vec<(&str, Vec<&str>)> = Vec::new();
    for text in texts {
        let text = text.strip_suffix(END).unwrap_or(text);
        // All groups tell the same metrics in the same order; one without samples so far tells its head at least.
        for family in text.split_inclusive('\n').collect::<Vec<_>>().chunk_by(|_, next| !next.starts_with("# HELP ")) {
            let heads = family.iter().take_while(|line| line.starts_with("# ")).count();
            let Some(name) = family.first() else { continue };
            let (head, samples) = family.split_at(heads);
            match families.iter_mut().find(|(known, _)| known == name) {
                Some((_, lines)) => lines.extend(samples),
                None => families.push((name, head.iter().chain(samples).copied().collect())),
            }
        }
    }
    families.into_iter().flat_map(|(_, lines)| lines).collect()
}

/// What one group tells.
#[derive(Debug)]
struct GroupSnapshot {
    shared: Arc<Shared>,
}

impl Collector for GroupSnapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Out(encoder);
        let status = self.shared.status();
        standing(&mut out, &status)?;
        positions(&mut out, &status)?;
        log(&mut out, &status)?;
        traffic(&mut out, &self.shared, &status)
    }
}

#[derive(Debug)]
struct Snapshot {
    facts: Facts,
    groups: Vec<Arc<Shared>>,
    admin_port: Arc<PortMeter>,
    /// When the node's certificates do, in seconds since 1970.
    expires: Option<u64>,
}

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Out(encoder);
        let version = [[("version", env!("CARGO_PKG_VERSION").to_owned())]];
        out.gauges("build", "The version of this build", version.map(|version| (version, 1u64)))?;
        out.gauge("insecure_plaintext", "1 if plaintext beyond loopback is allowed", self.facts.insecure_plaintext)?;
        if let Some(expires) = self.expires {
            out.gauge("certificate_expires_timestamp_seconds", "When the node's certificates expire", expires)?;
        }
        if let Ok(disk) = rustix::fs::statvfs(&self.facts.directory) {
            out.gauge("disk_free_bytes", "Room left on the file system", disk.f_bavail.saturating_mul(disk.f_frsize))?;
            out.gauge("disk_size_bytes", "Size of the file system", disk.f_blocks.saturating_mul(disk.f_frsize))?;
        }
        // A port belongs to the node; each shard counts what it has of it with its first group.
        let all = |port: fn(&Meters) -> &PortMeter| self.groups.iter().map(|shared| port(&shared.meters)).collect();
        let ports: [(&str, Vec<&PortMeter>); 3] = [
            ("peer", all(|meters| &meters.peer_port)),
            ("client", all(|meters| &meters.client_port)),
            ("admin", vec![&*self.admin_port]),
        ];
        let ports = || ports.iter().filter(|(_, meters)| !meters.is_empty());
        let each = |value: fn(&PortMeter) -> u64| {
            let sum = move |meters: &[&PortMeter]| meters.iter().map(|meter| value(meter)).sum::<u64>();
            ports().map(move |(name, meters)| ([("port", (*name).to_owned())], sum(meters)))
        };
        out.gauges("connections", "Connections that are open", each(|port| port.open.value()))?;
        out.counts("connections_accepted", "Connections accepted", each(|port| port.accepted.value()))?;
        out.counts(
            "connections_refused",
            "Connections closed for what came over them, or didn't come",
            each(|port| port.refused.value()),
        )?;
        out.counts(
            "connections_crowded_out",
            "Connections closed to make room before they had introduced themselves",
            each(|port| port.crowded_out.value()),
        )
    }
}

fn standing(out: &mut Out<'_>, status: &Status) -> fmt::Result {
    let roles = [
        ("follower", status.role == Role::Follower),
        ("candidate", status.role == Role::Candidate),
        ("recovering", status.role == Role::Recovering),
        ("leader", status.role == Role::Leader),
    ];
    out.gauges(
        "role",
        "1 for the part that the node has now",
        roles.map(|(role, is)| ([("role", role)], u64::from(is))),
    )?;
    out.gauge("leader", "The node that leads; 0 if none is known", status.leader.map_or(0, |leader| leader.0))?;
    out.gauge("ballot_round", "The round of the leader's ballot", status.ballot.round)?;
    out.gauge("promised_round", "The round of the highest promise", status.promised.round)?;
    out.gauge("fenced", "1 if the node has stopped serving", status.stopped.is_some())?;
    out.gauge("log_full", "1 if the log has no room for new commands", status.full)?;
    out.gauge(
        "behind_trim_slot",
        "Where its peers' logs begin, if it lacks what is below",
        status.behind.map_or(0, |s| s.0),
    )?;
    out.gauge(
        "log_held_by",
        "The member that holds more of the log than is to be kept; 0",
        status.held_by.map_or(0, |n| n.0),
    )?;
    out.gauge("boot", "Number of this start of the node", status.boot)?;
    out.gauge("start_log_bytes", "Bytes of log read at the start", status.startup.bytes)?;
    out.gauge("start_recovery_seconds", "How long that took", status.startup.recovery.as_secs_f64())?;
    let ready = status.startup.ready.map_or(f64::NAN, |ready| ready.as_secs_f64());
    out.gauge("start_ready_seconds", "From the start until the log was open", ready)?;
    let damage = &status.damage;
    out.count("damage_found", "Damaged places found, at the start and since", damage.found)?;
    out.count("damage_healed", "Bodies healed from peers", damage.healed)?;
    out.gauge("damage_lost", "Chosen bodies whose bytes are lost here and not yet healed", damage.lost)?;
    out.gauge("doubts", "Ranges of slots for which the node abstains", damage.doubts)?;
    out.gauge("unsure", "1 if the node doesn't vote, because damage may hide a promise", damage.unsure)?;
    out.count("scrub_passes", "How often everything stored was read again", damage.scrub_passes)
}

fn positions(out: &mut Out<'_>, status: &Status) -> fmt::Result {
    let positions = [
        ("trimmed", status.base),
        ("durable", status.stable),
        ("judged", status.judged),
        ("delivered", status.mark.slot),
    ];
    let positions = positions.map(|(name, slot)| ([("position", name)], slot.0));
    out.gauges("slot", "Ends of prefixes of the log: trimmed, durable here, judged, chosen and delivered", positions)?;
    let peers = |value: fn(&synod_protocol::PeerStatus, &Status) -> u64| {
        status.peers.iter().map(move |peer| ([("peer", peer.node.0.to_string())], value(peer, status)))
    };
    out.gauges(
        "peer_lag_slots",
        "At a leader: how far a peer is behind what is delivered",
        peers(|peer, status| status.mark.slot.0.saturating_sub(peer.mark.0)),
    )?;
    out.gauges(
        "peer_unstable_slots",
        "At a leader: how far a peer's durable prefix is behind what is delivered",
        peers(|peer, status| status.mark.slot.0.saturating_sub(peer.stable.0)),
    )?;
    out.gauges(
        "peer_outstanding_bytes",
        "At a leader: sent to a peer and not acknowledged",
        peers(|peer, _| peer.outstanding_bytes),
    )?;
    out.gauges("peer_full", "At a leader: 1 if a peer's log has no room", peers(|peer, _| peer.full.into()))?;
    out.gauges(
        "peer_behind_trim",
        "At a leader: 1 if a peer lacks what is trimmed",
        peers(|peer, _| peer.behind.into()),
    )
}

fn log(out: &mut Out<'_>, status: &Status) -> fmt::Result {
    let wal = &status.wal;
    out.gauge("log_live_bytes", "Length of the segments in use", wal.live_bytes)?;
    out.gauge("log_unsynced_bytes", "Bytes of records that aren't durable yet", wal.unsynced_bytes)?;
    let files = [("live", wal.segments_live), ("clean", wal.files_clean), ("dirty", wal.files_dirty)];
    out.gauges(
        "segment_files",
        "Segment files in use, ready for use, and to be zeroed first",
        files.map(|(state, files)| ([("state", state)], files as u64)),
    )?;
    out.gauge("index_bodies", "Bodies kept", wal.bodies as u64)?;
    out.gauge("index_entries", "Those of them whose place is in memory", wal.index_entries as u64)?;
    out.count(
        "index_page_reads_failed",
        "Seals or records found damaged when the index was read",
        wal.page_reads_failed,
    )?;
    out.count("log_records", "Records appended", wal.records_appended)?;
    out.count("log_appended_bytes", "Their bytes", wal.bytes_appended)?;
    out.count("log_durable_writes", "Writes or syncs that made records durable", wal.durable_writes)?;
    out.count("log_rotations", "Segments begun because the one before was full", wal.rotations)?;
    out.count("log_rotation_waits", "How often a record found no segment ready", wal.rotation_waits)?;
    out.count("trims", "Trims proposed by retention", status.counters.trims)?;
    out.count("trims_past", "Those of them that left members behind", status.counters.trims_past)
}

fn traffic(out: &mut Out<'_>, shared: &Shared, status: &Status) -> fmt::Result {
    let (meters, counters) = (&shared.meters, &status.counters);
    let delivered = [
        ("appended", meters.appended.value()),
        ("suppressed", meters.suppressed.value()),
        ("unknown", counters.unknown),
    ];
    let refused = shared.intake.refusals.all();
    out.counts(
        "appends",
        "Appends by outcome; all but the first three were refused before they were proposed",
        delivered.into_iter().chain(refused).map(|(outcome, count)| ([("outcome", outcome)], count)),
    )?;
    out.durations(
        "append_seconds",
        "From the call of an append to its answer, of those that were delivered",
        &meters.append,
    )?;
    out.durations("compose_seconds", "From taking appends that wait to proposing them as a body", &meters.compose)?;
    out.durations("log_write_seconds", "Writes of the log", &meters.write)?;
    out.durations("log_sync_seconds", "Syncs of the log", &meters.sync)?;
    let (count, bytes) = shared.intake.level();
    out.gauge("intake_count", "Submissions that wait to be proposed", count as u64)?;
    out.gauge("intake_bytes", "Their bytes", bytes)?;
    out.gauge("open_bodies", "Bodies proposed and not yet chosen", status.open_bodies)?;
    out.gauge("sessions", "Sessions that are open", status.sessions as u64)?;
    out.count("commands", "Commands proposed", counters.commands)?;
    out.count("bodies", "Bodies proposed", counters.bodies)?;
    out.count("bodies_delivered", "Bodies delivered, whoever proposed them", counters.delivered)?;
    out.count("retries", "Submissions proposed again", counters.retries)?;
    out.count("messages_sent", "Messages handed to links", counters.sends)?;
    out.count("messages_dropped", "Messages dropped because their link was down or full", counters.drops)?;
    out.count("messages_received", "Messages received", counters.receives)?;
    let peers = meters.peers();
    let links = || {
        peers.iter().flat_map(|peer| {
            let label = |channel: &str| [("peer", peer.peer.0.to_string()), ("channel", channel.to_owned())];
            [(label("control"), &peer.control), (label("bulk"), &peer.bulk)]
        })
    };
    out.gauges("link_up", "1 while there is a connection to the peer", links().map(|(l, m)| (l, m.up.value())))?;
    out.counts("link_connects", "How often it came up", links().map(|(l, m)| (l, m.connects.value())))?;
    out.gauges(
        "link_waiting_bytes",
        "What waits to be sent over it",
        links().map(|(l, m)| (l, m.waiting_bytes.value())),
    )
}

/// Writes one metric after the other.
struct Out<'a>(DescriptorEncoder<'a>);

/// A gauge's value.
trait Value {
    type As: EncodeGaugeValue;
    fn value(self) -> Self::As;
}

macro_rules! value {
    ($($from:ty => $to:ty),*) => {
        $(impl Value for $from {
            type As = $to;
            fn value(self) -> $to {
                self.into()
            }
        })*
    };
}

value!(bool => i64, u32 => u32, u64 => u64, f64 => f64);

impl Out<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: impl Value) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value.value())
    }

    fn gauges<const N: usize, L: Label>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = ([(&'static str, L); N], u64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in values {
            metric.encode_family(&labels.map(|(name, label)| (name, label.into())))?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn count(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.0
            .encode_descriptor(name, help, None, MetricType::Counter)?
            .encode_counter::<NoLabelSet, u64, f64>(&value, None)
    }

    fn counts<const N: usize, L: Label>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = ([(&'static str, L); N], u64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in values {
            let labels = labels.map(|(name, label)| (name, label.into()));
            metric.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, f64>(&value, None)?;
        }
        Ok(())
    }

    fn durations(&mut self, name: &str, help: &str, durations: &Durations) -> fmt::Result {
        let buckets = durations.buckets();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        metric.encode_histogram::<NoLabelSet>(durations.sum_seconds(), count, &buckets, None)
    }
}

/// A label's value.
trait Label: Into<String> {}

impl<T: Into<String>> Label for T {}
