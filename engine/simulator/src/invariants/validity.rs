//! I3, validity: every delivered command is one that a client submitted, byte for byte, and at one slot only; and a
//! body has the same bytes wherever it is delivered or read.

use synod_frame::{BodyHeader, CommandsView};
use synod_protocol::{BodyHandle, BodyKind};

use super::{Property, Verdict, Violation};
use crate::network::node_id;
use crate::oracle::Oracle;

/// Looks at the bytes of a delivered or read body. Those seen first are taken apart, others compared with them.
pub(super) fn check_bytes(oracle: &mut Oracle, node: usize, body: &BodyHandle, bytes: &[u8]) -> Verdict {
    let violation =
        |what: &str| Err(Violation::new(Property::Validity, format!("{} gave out {body:?}: {what}", node_id(node))));
    let Some(chosen) = oracle.chosen_at(body.first).filter(|chosen| chosen.body == *body) else { return Ok(()) };
    if let Some(first_seen) = &chosen.bytes {
        return if first_seen == bytes { Ok(()) } else { violation("its bytes aren't those seen before") };
    }
    let header = match BodyHeader::parse(bytes) {
        Ok(header) if header.handle() == *body && bytes.len() == body.bytes as usize => header,
        _ => return violation("its bytes aren't that body"),
    };
    if body.kind == BodyKind::Commands {
        let Ok(view) = CommandsView::new(&header, bytes) else { return violation("it can't be read") };
        if view.len() != body.count {
            return violation("it doesn't hold a command for each slot");
        }
        // Of submissions with terms there may be copies; which of them counts is looked at in the end.
        let rows: Vec<_> = view.submissions().flatten().collect();
        let has_terms = |index: u32| {
            let row = rows.iter().find(|row| row.commands.contains(&index));
            row.is_none_or(|row| !row.submitted().terms.is_none())
        };
        for (index, command) in view.iter().enumerate() {
            let slot = body.first.plus(index as u64);
            let Ok(command) = command else { return violation("a command can't be read") };
            let Some(id) = oracle.find_command(command) else {
                return violation(&format!("the command at slot {slot} was never submitted"));
            };
            if !has_terms(index as u32)
                && let Some(before) = oracle.delivered(id, slot)
            {
                return violation(&format!("the command at slot {slot} is at slot {before} too"));
            }
        }
    }
    oracle.note_bytes(body.first, bytes);
    Ok(())
}
