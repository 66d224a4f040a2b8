//! I14, exactly once: of all copies of a submission in a session at most one counts, and the others get its position. And
//! fencing by tickets: nothing counts under a ticket behind the slot that issued a newer one. And delivery is a function of
//! the log: all nodes give the same answers to a body, and have the same state behind it, in whatever life, also where
//! what went before is trimmed.

use std::collections::BTreeMap;

use synod_frame::{BodyHeader, CommandsView, SubmissionEntry, decode_ticket};
use synod_protocol::delivery::{Answer, TicketCommand, TicketId};
use synod_protocol::{BodyHandle, BodyId, BodyKind, Slot};

use super::{Property, Verdict, Violation};
use crate::network::node_id;
use crate::oracle::Oracle;

/// What was judged first, by any node.
#[derive(Debug, Default)]
pub(super) struct Deliveries {
    judged: BTreeMap<Slot, Judged>,
}

#[derive(Debug)]
struct Judged {
    node: usize,
    body: BodyId,
    answers: Vec<Answer>,
    /// Behind the body, as bytes, if it was seen.
    state: Option<Vec<u8>>,
}

impl Deliveries {
    /// Compares a node's judgement with the first.
    pub(super) fn check(
        &mut self,
        node: usize,
        body: &BodyHandle,
        answers: &[Answer],
        state: Option<&[u8]>,
    ) -> Verdict {
        let first = self.judged.entry(body.first).or_insert_with(|| Judged {
            node,
            body: body.id,
            answers: answers.to_vec(),
            state: None,
        });
        let violation = |what: String| Err(Violation::new(Property::DeliveryEqual, what));
        let (one, other) = (node_id(first.node), node_id(node));
        if (first.body, first.answers.as_slice()) != (body.id, answers) {
            return violation(format!("{one} answers {:?} to {body:?}, but {other} {answers:?}", first.answers));
        }
        match (&first.state, state) {
            (None, Some(state)) => first.state = Some(state.to_vec()),
            (Some(known), Some(state)) if known != state => {
                return violation(format!("{one} and {other} have different delivery states behind {body:?}"));
            }
            _ => {}
        }
        Ok(())
    }

    /// Goes through everything that was judged and whose bytes were seen, and notes what counts.
    pub(super) fn check_at_end(&self, oracle: &mut Oracle) -> [Verdict; 2] {
        let (mut once, mut fenced) = (Ok(()), Ok(()));
        let mut delivered: BTreeMap<(u64, u64), Slot> = BTreeMap::new();
        let mut newest: Option<TicketId> = None;
        for (slot, judged) in &self.judged {
            let Some(chosen) = oracle.chosen_at(*slot).filter(|chosen| chosen.body.id == judged.body) else { continue };
            let (body, Some(bytes)) = (chosen.body, chosen.bytes.clone()) else { continue };
            let Ok(header) = BodyHeader::parse(&bytes) else { continue };
            if let Ok(TicketCommand::Issue { .. }) = decode_ticket(&header, &bytes) {
                newest = Some(TicketId(body.first));
            }
            for (submission, answer) in submissions(&header, &bytes).iter().zip(&judged.answers) {
                let at = body.first.plus(u64::from(submission.commands.start));
                once = once.and_then(|()| check_once(&mut delivered, submission, at, answer));
                fenced = fenced.and_then(|()| check_fenced(newest, submission, at, answer));
                if answer.is_delivered() && !submission.submitted().terms.is_none() {
                    note_delivered(oracle, &header, &bytes, submission);
                }
            }
        }
        [once, fenced]
    }
}

fn check_once(
    delivered: &mut BTreeMap<(u64, u64), Slot>,
    submission: &SubmissionEntry,
    at: Slot,
    answer: &Answer,
) -> Verdict {
    if submission.session == 0 {
        return Ok(());
    }
    let name = (submission.session, submission.sequence);
    let violation = |what: String| {
        let detail = format!("submission {} of session {} at slot {at} {what}", name.1, name.0);
        Err(Violation::new(Property::ExactlyOnce, detail))
    };
    match answer {
        Answer::Delivered { .. } => match delivered.insert(name, at) {
            Some(before) => violation(format!("counts, as did its copy at slot {before}")),
            None => Ok(()),
        },
        // The first copy may be one of those whose bytes nobody saw.
        Answer::Duplicate { first } if *delivered.entry(name).or_insert(*first) != *first => {
            violation(format!("is told to be at slot {first}, but is at {}", delivered[&name]))
        }
        Answer::Duplicate { .. } | Answer::Refused(_) => Ok(()),
    }
}

fn check_fenced(newest: Option<TicketId>, submission: &SubmissionEntry, at: Slot, answer: &Answer) -> Verdict {
    let Some(newest) = newest.filter(|newest| newest.0.0 > submission.ticket && submission.ticket > 0) else {
        return Ok(());
    };
    if !answer.is_delivered() {
        return Ok(());
    }
    let detail = format!("slot {at} counts under ticket {}, behind ticket {}", submission.ticket, newest.0);
    Err(Violation::new(Property::TicketFencing, detail))
}

fn submissions(header: &BodyHeader, bytes: &[u8]) -> Vec<SubmissionEntry> {
    if header.kind != BodyKind::Commands {
        return Vec::new();
    }
    CommandsView::new(header, bytes).map_or(Vec::new(), |view| view.submissions().flatten().collect())
}

fn note_delivered(oracle: &mut Oracle, header: &BodyHeader, bytes: &[u8], submission: &SubmissionEntry) {
    let Ok(view) = CommandsView::new(header, bytes) else { return };
    for number in submission.commands.clone() {
        let id = view.get(number).ok().and_then(|command| oracle.find_command(command));
        if let Some(id) = id {
            oracle.delivered(id, header.first.plus(u64::from(number)));
        }
    }
}
