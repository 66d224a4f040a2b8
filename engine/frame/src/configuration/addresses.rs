//! The addresses that a configuration tells, in front of its archive: a head of 16 bytes, a row of 24 bytes for each, and
//! zeros up to a multiple of 16. A configuration that tells none has nothing there.
//!
//! ```text
//! head   0 magic "ADDR" | 4 count u32 | 8 reserved
//! row    0 node u32 | 4 port u16 | 6 family u16, 4 or 6 | 8 address, network order, then zeros
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use synod_protocol::{MEMBERS_MAX, NodeId};

use crate::archive::ARCHIVE_ALIGN_BYTES;
use crate::encode::EncodeError;
use crate::layout::{Field, first_nonzero};

const MAGIC: &[u8; 4] = b"ADDR";

mod head {
    use super::{ARCHIVE_ALIGN_BYTES, Field};

    pub(super) const MAGIC: Field = Field::first(4);
    pub(super) const COUNT: Field = MAGIC.then(4);
    pub(super) const RESERVED: Field = COUNT.then(8);
    pub(super) const BYTES: usize = RESERVED.end();

    const _: () = assert!(BYTES == ARCHIVE_ALIGN_BYTES);
}

mod row {
    use super::Field;

    pub(super) const NODE: Field = Field::first(4);
    pub(super) const PORT: Field = NODE.then(2);
    pub(super) const FAMILY: Field = PORT.then(2);
    pub(super) const ADDRESS: Field = FAMILY.then(16);
    pub(super) const BYTES: usize = ADDRESS.end();
}

/// Members and learners.
const COUNT_MAX: usize = 2 * MEMBERS_MAX;

/// The addresses as they stand in front of the archive.
pub(super) fn to_bytes(addresses: &[(NodeId, SocketAddr)]) -> Result<Vec<u8>, EncodeError> {
    if addresses.is_empty() {
        return Ok(Vec::new());
    }
    if addresses.len() > COUNT_MAX {
        return Err(EncodeError::Members { members: addresses.len() });
    }
    let mut bytes = vec![0; length_of(addresses.len())];
    head::MAGIC.put(&mut bytes, MAGIC);
    head::COUNT.put(&mut bytes, &(addresses.len() as u32).to_le_bytes());
    for ((node, address), row) in addresses.iter().zip(bytes[head::BYTES..].chunks_exact_mut(row::BYTES)) {
        row::NODE.put(row, &node.0.to_le_bytes());
        row::PORT.put(row, &address.port().to_le_bytes());
        let (family, octets) = match address.ip() {
            IpAddr::V4(ip) => {
                let mut octets = [0; 16];
                octets[..4].copy_from_slice(&ip.octets());
                (4u16, octets)
            }
            IpAddr::V6(ip) => (6, ip.octets()),
        };
        row::FAMILY.put(row, &family.to_le_bytes());
        row::ADDRESS.put(row, &octets);
    }
    Ok(bytes)
}

/// The addresses in front of an archive; `None` if that is anything but what [`to_bytes`] writes.
pub(super) fn from_bytes(bytes: &[u8]) -> Option<Vec<(NodeId, SocketAddr)>> {
    if bytes.is_empty() {
        return Some(Vec::new());
    }
    if bytes.len() < head::BYTES || !bytes.starts_with(MAGIC) {
        return None;
    }
    let count = head::COUNT.u32(bytes) as usize;
    let is_sound = (1..=COUNT_MAX).contains(&count) && bytes.len() == length_of(count);
    if !is_sound || head::RESERVED.u64(bytes) != 0 {
        return None;
    }
    let (rows, padding) = bytes[head::BYTES..].split_at(count * row::BYTES);
    let addresses = rows.chunks_exact(row::BYTES).map(from_row).collect::<Option<Vec<_>>>()?;
    let is_ascending = addresses.windows(2).all(|pair| pair[0].0 < pair[1].0);
    (is_ascending && first_nonzero(padding).is_none()).then_some(addresses)
}

fn from_row(row: &[u8]) -> Option<(NodeId, SocketAddr)> {
    let octets: [u8; 16] = row::ADDRESS.array(row);
    let ip = match row::FAMILY.u16(row) {
        4 => {
            let (ip, rest) = octets.split_first_chunk::<4>()?;
            first_nonzero(rest).is_none().then(|| IpAddr::V4(Ipv4Addr::from(*ip)))?
        }
        6 => IpAddr::V6(Ipv6Addr::from(octets)),
        _ => return None,
    };
    let (node, port) = (row::NODE.u32(row), row::PORT.u16(row));
    (node != 0 && port != 0).then(|| (NodeId(node), SocketAddr::new(ip, port)))
}

const fn length_of(count: usize) -> usize {
    (head::BYTES + count * row::BYTES).next_multiple_of(ARCHIVE_ALIGN_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses() -> Vec<(NodeId, SocketAddr)> {
        let address = |text: &str| text.parse().expect("an address");
        vec![(NodeId(1), address("10.0.0.1:7001")), (NodeId(4), address("[2001:db8::4]:7004"))]
    }

    #[test]
    fn addresses_come_back() {
        let bytes = to_bytes(&addresses()).expect("few");
        assert_eq!(bytes.len() % ARCHIVE_ALIGN_BYTES, 0);
        assert_eq!(from_bytes(&bytes), Some(addresses()));
        assert_eq!(from_bytes(&to_bytes(&[]).expect("none")), Some(Vec::new()));
    }

    #[test]
    fn whatever_else_stands_there_is_refused() {
        let bytes = to_bytes(&addresses()).expect("few");
        for length in 1..bytes.len() {
            assert_eq!(from_bytes(&bytes[..length]), None, "{length} bytes");
        }
        let with = |offset: usize, byte: u8| {
            let mut bytes = bytes.clone();
            bytes[offset] = byte;
            from_bytes(&bytes)
        };
        assert_eq!(with(0, 0), None, "magic");
        assert_eq!(with(4, 0), None, "no rows");
        assert_eq!(with(4, 200), None, "more rows than there are bytes");
        assert_eq!(with(8, 1), None, "reserved");
        assert_eq!(with(head::BYTES, 5), None, "order");
        assert_eq!(with(head::BYTES + row::FAMILY.offset, 5), None, "family");
        assert_eq!(with(head::BYTES + row::ADDRESS.offset + 4, 1), None, "behind an address of four bytes");
    }
}
