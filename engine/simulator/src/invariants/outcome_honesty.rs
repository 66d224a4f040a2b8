//! I15, honest outcomes: a command whose client was told that it was refused is in no decided slot, ever. What was
//! proposed and not seen decided is of unknown fate, and said to be.

use super::{Property, Verdict, Violation};
use crate::oracle::Oracle;

pub(super) fn check_at_end(oracle: &Oracle) -> Verdict {
    let dishonest = oracle.commands().find(|(_, state)| state.refused && (state.delivered.or(state.acked)).is_some());
    match dishonest {
        None => Ok(()),
        Some((id, state)) => Err(Violation::new(
            Property::OutcomeHonesty,
            format!("command {} was refused, but is at {:?}", id.0, state.delivered.or(state.acked)),
        )),
    }
}
