//! Nobody writes, or is sent, what its build can't read, and a body has the format of the configuration that rules its slots
//! and says which one that is.

use synod_frame::{BodyHeader, BodyLayout, ConfigurationBody};
use synod_protocol::{FORMAT_FIRST, Slot};

use super::{Property, Verdict, Violation};
use crate::network::node_id;
use crate::rulings::Rulings;

/// The format that a build must read to make sense of the bytes of a body.
fn needed(bytes: &[u8]) -> u16 {
    let Ok(header) = BodyHeader::parse(bytes) else { return FORMAT_FIRST };
    let content = ConfigurationBody::decode(&header, bytes);
    header.format.max(content.map_or(FORMAT_FIRST, |content| content.format))
}

pub(super) fn check_written(node: usize, format_max: u16, bytes: &[u8]) -> Verdict {
    check(node, format_max, bytes, "writes")
}

pub(super) fn check_log(node: usize, format_max: u16, log_format: u16) -> Verdict {
    if log_format <= format_max {
        return Ok(());
    }
    let node = node_id(node);
    let detail = format!("{node} writes to a log that needs format {log_format}, and reads up to {format_max}");
    Err(Violation::new(Property::Readable, detail))
}

pub(super) fn check_sent(to: usize, format_max: u16, bytes: &[u8]) -> Verdict {
    check(to, format_max, bytes, "is sent")
}

fn check(node: usize, format_max: u16, bytes: &[u8], what: &str) -> Verdict {
    let needed = if bytes.is_empty() { FORMAT_FIRST } else { needed(bytes) };
    if needed <= format_max {
        return Ok(());
    }
    let layout = BodyLayout::peek(bytes).map_or(0, |layout| layout.body_bytes);
    Err(Violation::new(
        Property::Readable,
        format!(
            "{} {what} a body of {layout} bytes that needs format {needed}, and reads up to {format_max}",
            node_id(node)
        ),
    ))
}

/// Of a body that is chosen.
pub(super) fn check_ruling(node: usize, header: &BodyHeader, rulings: &Rulings) -> Verdict {
    let ruling = rulings.at(header.first);
    let said = (ruling.format > FORMAT_FIRST).then_some(ruling.chosen_at);
    if header.first == Slot(0) || (header.format, header.ruling) == (ruling.format, said) {
        return Ok(());
    }
    Err(Violation::new(
        Property::Readable,
        format!(
            "{} gives out the body of slot {} in format {}, ruled by {:?}; but the configuration of slot {} rules it, with format {}",
            node_id(node),
            header.first,
            header.format,
            header.ruling,
            ruling.chosen_at,
            ruling.format
        ),
    ))
}
