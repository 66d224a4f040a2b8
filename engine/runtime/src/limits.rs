//! All limits of a node in one place, as text: what is bounded, by how much, and what happens there.
//!
//! What an operator may choose comes from the [`Config`]; what is the same everywhere from the constants that the code
//! itself uses, so that this list can't differ from what is enforced.

use std::time::Duration;

use synod_frame::{BODY_HEADER_BYTES, ENVELOPE_BYTES, HELLO_BYTES};
use synod_protocol::Configuration;
use synod_protocol::delivery::DeliveryLimits;
use synod_protocol::limits;

use crate::admin;
use crate::clients::RATE_MIN;
use crate::config::Config;
use crate::link::accept;
use crate::link::handshake::HELLO_DEADLINE;

/// One limit.
struct Limit {
    name: &'static str,
    value: String,
    /// What happens where it is reached.
    then: &'static str,
}

/// The limits of a node with this configuration, a line each, and the most memory that it takes.
pub fn print(config: &Config) -> String {
    print_for(config, 1)
}

/// As [`print()`], for a node with so many groups; what is each group's is what each of them gets.
pub fn print_for(config: &Config, groups: u32) -> String {
    let limits = limits_of(config, groups);
    let width = |column: fn(&Limit) -> usize| limits.iter().map(column).max().unwrap_or_default();
    let (name_width, value_width) = (width(|limit| limit.name.len()), width(|limit| limit.value.len()));
    let mut text = String::new();
    for Limit { name, value, then } in &limits {
        text.push_str(&format!("{name:<name_width$}  {value:>value_width$}  {then}\n"));
    }
    text
}

fn limits_of(config: &Config, groups: u32) -> Vec<Limit> {
    let limit = |name, value: String, then| Limit { name, value, then };
    let memory = config.memory_bound_of(Configuration::ALPHA_DEFAULT, groups);
    let config = &config.share_of(groups);
    let (settings, sessions) = (&config.settings, DeliveryLimits::CLUSTER);
    let several = (groups > 1)
        .then(|| limit("groups", groups.to_string(), "each has a log of its own, and of what follows what is a log's"));
    let mut limits = vec![
        limit("hello", bytes(HELLO_BYTES as u64), "what begins otherwise is closed at its first bytes"),
        limit("hello deadline", time(HELLO_DEADLINE), "the connection is closed"),
        limit("envelope", bytes(ENVELOPE_BYTES as u64), "has a checksum of its own; closed if it is wrong"),
        limit("body", bytes(limits::BODY_BYTES_MAX.into()), "larger submissions are refused, larger messages closed"),
        limit("body header", bytes(BODY_HEADER_BYTES as u64), "read and checked before memory is taken for the body"),
        limit("commands of a body", limits::BODY_SLOTS_MAX.to_string(), "larger submissions are refused"),
        limit("connections without a hello", accept::LOBBY_MAX.to_string(), "each port; the oldest is closed"),
        limit(
            "connections taken in a second",
            accept::ACCEPTS_PER_SECOND.to_string(),
            "each port; others wait in the kernel",
        ),
        limit("connections to the peer port", config.connections_max.to_string(), "further ones are refused"),
        limit(
            "connections to the client port",
            config.connections_max.to_string(),
            "an idle one makes way, or refused",
        ),
        limit("connections to the admin port", admin::CONNECTIONS_MAX.to_string(), "the oldest is closed"),
        limit("exchange on the admin port", time(admin::EXCHANGE_DEADLINE), "the connection is closed"),
        limit("requests of a client under way", config.client_requests_max.to_string(), "no more is read from it"),
        limit("their bytes", bytes(config.client_bytes_max), "no more is read from it"),
        limit(
            "bytes of all clients",
            bytes(config.clients_bytes_max),
            "no more is read from any; the slowest is closed",
        ),
        limit(
            "a transfer to or from a client",
            format!("{} /s", bytes(RATE_MIN)),
            "slower by more than 10 s, it is closed",
        ),
        limit("submissions that wait", config.intake_count.to_string(), "appends wait, or are refused as overloaded"),
        limit("their bytes", bytes(config.intake_bytes), "appends wait, or are refused as overloaded"),
        limit("bodies proposed and not chosen", settings.window_bodies.to_string(), "submissions gather"),
        limit("their bytes", bytes(settings.window_bytes), "submissions gather"),
        limit("bytes on their way to a peer", bytes(settings.peer_bytes), "it gets no more until it catches up"),
        limit(
            "bytes that wait for a peer's connection",
            bytes(config.link_bytes),
            "messages are dropped, and sent again",
        ),
        limit(
            "bytes of the log not yet durable",
            bytes(config.wal_backlog_bytes),
            "no more bodies are read from peers",
        ),
        limit("bytes of a fetch", bytes(settings.fetch_bytes.into()), "the rest is fetched afterwards"),
        limit("bodies of a part of a promise", limits::PROMISE_PART_MAX.to_string(), "the rest comes in further parts"),
        limit("accepted bodies above the prefix", limits::ACCEPTED_MAX.to_string(), "the sender is told to wait"),
        limit("barriers that wait", limits::BARRIERS_MAX.to_string(), "further ones are refused"),
        limit("sessions", sessions.sessions_max.to_string(), "the one used longest ago makes way"),
        limit("answers kept for a session", sessions.results_max.to_string(), "a number too far ahead is refused"),
        limit("segment files", config.pool_files_max.to_string(), "the log is full: commands are refused"),
        limit("an append unresolved", time(config.unknown_after), "it is reported as unknown"),
        limit("scrubbing, each second", bytes(config.scrub_bytes_per_second), "it waits"),
        limit("memory, all parts full", bytes(memory.total()), "the sum of what follows"),
        limit("  buffers of bodies", bytes(memory.bodies), ""),
        limit("  submissions", bytes(memory.submissions), ""),
        limit("  the log's state", bytes(memory.state), ""),
        limit("  connections from peers", bytes(memory.peers), ""),
        limit("  connections from clients", bytes(memory.clients), ""),
        limit("  everything else", bytes(memory.fixed), ""),
    ];
    limits.splice(0..0, several);
    limits
}

fn bytes(bytes: u64) -> String {
    let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units
        .into_iter()
        .find(|(_, factor)| bytes >= 10 * factor || (bytes >= *factor && bytes.is_multiple_of(*factor)))
    {
        Some((unit, factor)) => format!("{} {unit}", bytes.div_ceil(factor)),
        None => format!("{bytes} B"),
    }
}

fn time(duration: Duration) -> String {
    format!("{duration:?}")
}

#[cfg(test)]
mod tests {
    use synod_protocol::NodeId;

    use super::*;

    #[test]
    fn what_is_configured_is_what_is_printed() {
        let mut config = Config::new("/nowhere", NodeId(1), "127.0.0.1:0".parse().unwrap());
        config.connections_max = 77;
        config.intake_bytes = 48 << 20;
        let text = print(&config);
        for (name, value) in
            [("connections to the peer port", "77"), ("their bytes", "48 MiB"), ("hello deadline", "5s")]
        {
            let found = text.lines().any(|line| line.starts_with(name) && line.contains(value));
            assert!(found, "{name} of {value} in:\n{text}");
        }
        assert!(text.lines().all(|line| line.len() < 140), "{text}");
    }

    #[test]
    fn sizes_are_rounded_up() {
        assert_eq!(
            (bytes(1 << 20), bytes((10 << 20) + 1), bytes(1500)),
            ("1 MiB".into(), "11 MiB".into(), "1500 B".into())
        );
    }
}
