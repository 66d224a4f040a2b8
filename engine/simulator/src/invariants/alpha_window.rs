//! I18, the alpha window: nothing is proposed for a slot before all slots that lie alpha or more below it are chosen, as
//! far as the proposer knows. So it knows the configuration that rules the slot, and no body lies under two of them. That it
//! goes by the right one shows in the quorums (I2, I19).

use synod_protocol::{Message, Slot};

use super::{Property, Verdict, Violation};
use crate::network::node_id;
use crate::rulings::Rulings;

pub(super) fn check_sent(node: usize, message: &Message, alpha: u32, rulings: &Rulings) -> Verdict {
    let Message::Accept { body, mark, .. } = message else { return Ok(()) };
    let (first, last) = (rulings.at(body.first), rulings.at(Slot(body.end().0 - 1)));
    if first != last {
        let detail = format!(
            "{} proposed {body:?}, which begins under the configuration of slot {} and ends under that of {}",
            node_id(node),
            first.chosen_at,
            last.chosen_at
        );
        return Err(Violation::new(Property::AlphaWindow, detail));
    }
    let limit = mark.slot.plus(u64::from(alpha));
    if body.end() <= limit {
        return Ok(());
    }
    Err(Violation::new(
        Property::AlphaWindow,
        format!("{} proposed {body:?}, but its prefix ends at {} and alpha is {alpha}", node_id(node), mark.slot),
    ))
}
