//! I12, linearizable appends: a command that was sent after another one was acknowledged comes after it in the log.

use synod_protocol::Slot;

use super::{Property, Verdict, Violation};
use crate::oracle::{CommandId, Oracle};

pub(super) fn check_ack(oracle: &Oracle, id: CommandId, slot: Slot) -> Verdict {
    let state = oracle.command(id).expect("only commands are acknowledged");
    if slot > state.acked_before {
        return Ok(());
    }
    Err(Violation::new(
        Property::AppendOrder,
        format!("command {} is acknowledged at slot {slot}, but was sent after slot {} was", id.0, state.acked_before),
    ))
}
