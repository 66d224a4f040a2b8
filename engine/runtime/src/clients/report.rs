//! What a node tells its clients about itself.

use std::net::SocketAddr;

use synod_frame::client::{NodeReport, NodeRole, StatusReport};
use synod_protocol::{NodeId, Role, Slot};

use crate::status::Status;

/// Longest reason for a stop among the figures, in characters.
const STOP_REASON_MAX: usize = 4096;

/// What an operator watches, a line each; sizes are in bytes.
pub(super) fn figures(status: &Status) -> String {
    let Status { wal, counters, .. } = status;
    let configuration = &status.membership.configuration;
    let held_by = status.held_by.map_or(0, |node| node.0);
    let behind = status.behind.map_or(0, |first| first.0);
    let mut lines = vec![
        ("boot", status.boot),
        ("start_log_bytes", status.startup.bytes),
        ("start_recovery_ms", status.startup.recovery.as_millis() as u64),
        ("start_ready_ms", status.startup.ready.map_or(0, |ready| ready.as_millis() as u64)),
        ("fenced", status.stopped.is_some().into()),
        ("full", status.full.into()),
        ("behind_trim_to", behind),
        ("log_held_by", held_by.into()),
        ("stable", status.stable.0),
        ("judged", status.judged.0),
        ("sessions", status.sessions as u64),
        ("configuration", configuration.chosen_at.0),
        ("members", configuration.members.len() as u64),
        ("learners", configuration.learners.len() as u64),
        ("removed", status.membership.is_removed.into()),
        ("open_bodies", status.open_bodies.into()),
        ("damage_found", status.damage.found),
        ("damage_healed", status.damage.healed),
        ("damage_lost", status.damage.lost),
        ("damage_lost_first", status.damage.lost_first.map_or(0, |first| first.0)),
        ("doubts", status.damage.doubts),
        ("unsure", status.damage.unsure.into()),
        ("scrub_passes", status.damage.scrub_passes),
        ("pool_depth", wal.files_clean as u64),
        ("pool_dirty", wal.files_dirty as u64),
        ("segment_files", wal.files as u64),
        ("segments_live", wal.segments_live as u64),
        ("index_bodies", wal.bodies as u64),
        ("index_entries", wal.index_entries as u64),
        ("index_pages", wal.index_pages as u64),
        ("index_pages_out", wal.pages_out),
        ("index_pages_in", wal.pages_in),
        ("index_page_reads_failed", wal.page_reads_failed),
        ("live_bytes", wal.live_bytes),
        ("unsynced_bytes", wal.unsynced_bytes),
        ("rotations", wal.rotations),
        ("rotation_waits", wal.rotation_waits),
        ("segments_sealed", wal.segments_sealed),
        ("records_appended", wal.records_appended),
        ("bytes_appended", wal.bytes_appended),
        ("durable_writes", wal.durable_writes),
        ("commands", counters.commands),
        ("bodies", counters.bodies),
        ("delivered", counters.delivered),
        ("unknown", counters.unknown),
        ("trims", counters.trims),
        ("trims_past", counters.trims_past),
        ("sends", counters.sends),
        ("drops", counters.drops),
        ("refusals", counters.refusals),
    ]
    .into_iter()
    .map(|(name, value)| format!("{name} {value}\n"))
    .collect::<String>();
    for peer in &status.peers {
        let state = match peer {
            _ if peer.behind => "behind-trim",
            _ if peer.full => "full",
            _ => "well",
        };
        lines.push_str(&format!("peer_{} {state} stable={}\n", peer.node.0, peer.stable));
    }
    if let Some(reason) = &status.stopped {
        // One line, whatever the kernel or a path says.
        let reason: String = reason.to_string().chars().flat_map(char::escape_default).take(STOP_REASON_MAX).collect();
        lines.push_str(&format!("stopped {reason}\n"));
    }
    lines
}

pub(super) fn report(status: &Status, addresses: &[(NodeId, SocketAddr)]) -> StatusReport {
    let role = match status.role {
        _ if status.stopped.is_some() => NodeRole::Halted,
        Role::Follower => NodeRole::Follower,
        Role::Candidate => NodeRole::Candidate,
        Role::Recovering | Role::Leader => NodeRole::Leader,
    };
    let address_of = |node: NodeId| {
        let known = addresses.iter().find(|(peer, _)| *peer == node);
        known.map(|(_, address)| address.to_string()).unwrap_or_default()
    };
    let own = NodeReport { node: status.node, address: String::new(), connected: true, prefix: status.mark.slot };
    let peers = status.peers.iter().map(|peer| NodeReport {
        node: peer.node,
        address: address_of(peer.node),
        connected: true,
        prefix: peer.mark,
    });
    // Only a leader knows how its peers stand; where they serve clients, every node may know.
    let is_other = |node: &NodeId| status.peers.iter().all(|peer| peer.node != *node);
    let others = addresses.iter().filter(|(node, _)| is_other(node)).map(|(node, address)| NodeReport {
        node: *node,
        address: address.to_string(),
        connected: false,
        prefix: Slot(0),
    });
    StatusReport {
        node: status.node,
        role,
        leader: status.leader,
        ballot: status.ballot,
        mark: status.mark,
        available: status.base,
        nodes: std::iter::once(own).chain(peers).chain(others).collect(),
    }
}
