//! I18, the alpha window: nothing is proposed for a slot before all slots that lie alpha or more below it are chosen, as
//! far as the proposer knows. One configuration rules every slot so far; that it is the right one will be part of this.

use synod_protocol::Message;

use super::{Property, Verdict, Violation};
use crate::network::node_id;

pub(super) fn check_sent(node: usize, message: &Message, alpha: u32) -> Verdict {
    let Message::Accept { body, mark, .. } = message else { return Ok(()) };
    let limit = mark.slot.plus(u64::from(alpha));
    if body.end() <= limit {
        return Ok(());
    }
    Err(Violation::new(
        Property::AlphaWindow,
        format!("{} proposed {body:?}, but its prefix ends at {} and alpha is {alpha}", node_id(node), mark.slot),
    ))
}
