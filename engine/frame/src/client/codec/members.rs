//! The membership as payloads: what a change says, and which configurations a node knows.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use rkyv::{Archive, Serialize};
use synod_protocol::{MEMBERS_MAX, NodeId, Slot};

use super::super::{
    CONFIGURATIONS_MAX, ClientKind, MemberChange, MembersReport, Newcomer, REASON_BYTES_MAX, StoredBody,
};
use super::ClientMessageError;
use crate::archive;
use crate::configuration::Member;

/// Longest body of a configuration: a block without the record header, as headers of segments keep it.
const BODY_BYTES_MAX: usize = 2048;

/// Longest payload of a change.
pub(in super::super) const CHANGE_PAYLOAD_BYTES_MAX: usize =
    MEMBERS_MAX * (size_of::<ArchivedNewcomerRow>() + size_of::<u32>()) + 8 + size_of::<ArchivedChange>();

/// Longest payload with configurations.
pub(in super::super) const MEMBERS_PAYLOAD_BYTES_MAX: usize = CONFIGURATIONS_MAX
    * (BODY_BYTES_MAX + 8 + size_of::<ArchivedStored>())
    + 2 * MEMBERS_MAX * size_of::<u32>()
    + 16
    + size_of::<ArchivedMembers>();

/// Longest payload with a reason in words.
pub(in super::super) const REASON_PAYLOAD_BYTES_MAX: usize = REASON_BYTES_MAX + 4 + size_of::<ArchivedReason>();

#[derive(Archive, Serialize)]
struct Change {
    add: Vec<NewcomerRow>,
    remove: Vec<u32>,
}

#[derive(Archive, Serialize)]
struct NewcomerRow {
    node: u32,
    incarnation: [u8; 16],
    address: [u8; 16],
    port: u16,
    /// 4 or 6.
    family: u16,
}

#[derive(Archive, Serialize)]
struct Members {
    configurations: Vec<Stored>,
    retiring: Vec<u32>,
    pending: u32,
    removed: u32,
}

#[derive(Archive, Serialize)]
struct Stored {
    slot: u64,
    body: Vec<u8>,
}

#[derive(Archive, Serialize)]
struct Reason {
    text: Vec<u8>,
}

// The byte map of engine/docs/wal-format.md.
const _: () = {
    assert!(size_of::<ArchivedChange>() == 16);
    assert!(size_of::<ArchivedNewcomerRow>() == 40);
    assert!(size_of::<ArchivedMembers>() == 24);
    assert!(size_of::<ArchivedStored>() == 16);
    assert!(size_of::<ArchivedReason>() == 8);
};

pub(super) fn change_payload(change: &MemberChange) -> Vec<u8> {
    let MemberChange::Replace { add, remove } = change else { return Vec::new() };
    let row = |newcomer: &Newcomer| {
        let (family, address) = match newcomer.address.ip() {
            IpAddr::V4(ip) => {
                let mut octets = [0; 16];
                octets[..4].copy_from_slice(&ip.octets());
                (4, octets)
            }
            IpAddr::V6(ip) => (6, ip.octets()),
        };
        let Member { node, incarnation } = newcomer.member;
        NewcomerRow { node: node.0, incarnation, address, port: newcomer.address.port(), family }
    };
    archive::to_vec(&Change {
        add: add.iter().take(MEMBERS_MAX).map(row).collect(),
        remove: remove.iter().take(MEMBERS_MAX).map(|node| node.0).collect(),
    })
}

/// The number of a change, from 1 on.
pub(super) fn change_number(change: &MemberChange) -> u32 {
    match change {
        MemberChange::Replace { .. } => 1,
        MemberChange::Promote { force: false } => 2,
        MemberChange::Promote { force: true } => 3,
        MemberChange::Cancel => 4,
        MemberChange::RaiseFormat { .. } => 5,
    }
}

/// The number that a change carries in its envelope.
pub(super) fn change_argument(change: &MemberChange) -> u64 {
    match change {
        MemberChange::RaiseFormat { to } => u64::from(*to),
        _ => 0,
    }
}

pub(super) fn parse_change(number: u32, argument: u64, payload: &[u8]) -> Result<MemberChange, ClientMessageError> {
    let kind = ClientKind::Change;
    match number {
        1 => archive::with_aligned(payload, parse_replace),
        _ if !payload.is_empty() => Err(ClientMessageError::UnusedField { kind }),
        2 => Ok(MemberChange::Promote { force: false }),
        3 => Ok(MemberChange::Promote { force: true }),
        4 => Ok(MemberChange::Cancel),
        5 => match u16::try_from(argument) {
            Ok(to) if to > synod_protocol::FORMAT_FIRST => Ok(MemberChange::RaiseFormat { to }),
            _ => Err(ClientMessageError::Field { kind }),
        },
        _ => Err(ClientMessageError::Field { kind }),
    }
}

fn parse_replace(payload: &[u8]) -> Result<MemberChange, ClientMessageError> {
    let kind = ClientKind::Change;
    let archive = archive::access::<ArchivedChange>(payload).ok_or(ClientMessageError::PayloadArchive { kind })?;
    if archive.add.len() > MEMBERS_MAX || archive.remove.len() > MEMBERS_MAX {
        return Err(ClientMessageError::Field { kind });
    }
    let add = archive.add.iter().map(parse_newcomer).collect::<Option<_>>();
    let remove = archive.remove.iter().map(|node| NodeId(node.to_native())).collect();
    Ok(MemberChange::Replace { add: add.ok_or(ClientMessageError::Field { kind })?, remove })
}

fn parse_newcomer(row: &ArchivedNewcomerRow) -> Option<Newcomer> {
    let ip = match row.family.to_native() {
        4 => {
            let (ip, rest) = row.address.split_first_chunk::<4>()?;
            rest.iter().all(|byte| *byte == 0).then(|| IpAddr::V4(Ipv4Addr::from(*ip)))?
        }
        6 => IpAddr::V6(Ipv6Addr::from(row.address)),
        _ => return None,
    };
    let (node, port) = (row.node.to_native(), row.port.to_native());
    (node != 0 && port != 0).then(|| Newcomer {
        member: Member { node: NodeId(node), incarnation: row.incarnation },
        address: SocketAddr::new(ip, port),
    })
}

pub(super) fn members_payload(members: &MembersReport) -> Vec<u8> {
    let newest = members.configurations.len().saturating_sub(CONFIGURATIONS_MAX);
    let row = |stored: &StoredBody| Stored { slot: stored.slot.0, body: stored.body.clone() };
    archive::to_vec(&Members {
        configurations: members.configurations[newest..].iter().map(row).collect(),
        retiring: members.retiring.iter().take(2 * MEMBERS_MAX).map(|node| node.0).collect(),
        pending: members.is_pending.into(),
        removed: members.is_removed.into(),
    })
}

pub(super) fn parse_members(payload: &[u8]) -> Result<MembersReport, ClientMessageError> {
    let kind = ClientKind::MembersReport;
    let field = ClientMessageError::Field { kind };
    let archive = archive::access::<ArchivedMembers>(payload).ok_or(ClientMessageError::PayloadArchive { kind })?;
    let configurations = archive.configurations.as_slice();
    let is_sound = (1..=CONFIGURATIONS_MAX).contains(&configurations.len())
        && configurations.iter().all(|stored| stored.body.len() <= BODY_BYTES_MAX)
        && archive.retiring.len() <= 2 * MEMBERS_MAX;
    if !is_sound {
        return Err(field);
    }
    let flag = |number: u32| match number {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(field),
    };
    Ok(MembersReport {
        configurations: configurations
            .iter()
            .map(|stored| StoredBody { slot: Slot(stored.slot.to_native()), body: stored.body.to_vec() })
            .collect(),
        is_pending: flag(archive.pending.to_native())?,
        is_removed: flag(archive.removed.to_native())?,
        retiring: archive.retiring.iter().map(|node| NodeId(node.to_native())).collect(),
    })
}

/// A reason in words; cut if it is too long, for it is for humans.
pub(super) fn reason_payload(text: &str) -> Vec<u8> {
    let end = text.floor_char_boundary(REASON_BYTES_MAX);
    archive::to_vec(&Reason { text: text.as_bytes()[..end].to_vec() })
}

pub(super) fn parse_reason_text(payload: &[u8]) -> Result<String, ClientMessageError> {
    let kind = ClientKind::Refused;
    let archive = archive::access::<ArchivedReason>(payload).ok_or(ClientMessageError::PayloadArchive { kind })?;
    if archive.text.len() > REASON_BYTES_MAX {
        return Err(ClientMessageError::Field { kind });
    }
    let text = std::str::from_utf8(&archive.text).map_err(|_| ClientMessageError::Field { kind })?;
    Ok(text.to_owned())
}
