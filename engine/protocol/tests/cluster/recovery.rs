//! What a log proves: the slow, obvious twin of real recovery, for logs that are whole and for logs with losses.

use std::collections::BTreeMap;

use synod_protocol::{AcceptedBody, Append, Ballot, BodyHandle, BodyKind, Doubt, LogEntry, Mark, Recovered, Slot};

/// How a durable append was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// The body is gone, but the record tells which one it was, and what was promised.
    Body,
    /// Nothing of it can be read.
    Record,
    /// Nothing of it can be read, and when a life began behind it there was nothing after it to judge it by.
    Tail,
}

/// Appends that were durable, by their place in the log, and are lost.
pub(crate) type Losses = BTreeMap<usize, Loss>;

/// What is known of records that can't be read, until a later one tells more.
#[derive(Default)]
struct Unread {
    is_tail: bool,
}

/// Reads a log from its beginning. Also returns the chosen prefix.
pub(crate) fn recover(log: &[Append], losses: &Losses) -> (Recovered, Vec<(BodyHandle, Mark)>) {
    let mut reading = Reading { is_damaged: !losses.is_empty(), ..Reading::default() };
    let mut unread: Option<Unread> = None;
    let mut end = Slot(0);
    for (index, append) in log.iter().enumerate() {
        end = body_of(append).map_or(end, |body| end.max(body.end()));
        let loss = losses.get(&index).copied();
        if let Some(Loss::Record | Loss::Tail) = loss {
            unread.get_or_insert_default().is_tail |= loss == Some(Loss::Tail);
            continue;
        }
        if !append.unsure
            && let Some(Unread { is_tail }) = unread.take()
        {
            // Whatever was lost before was accepted before this was promised.
            let end = if is_tail { Doubt::OPEN } else { end };
            reading.recovered.doubts.push(Doubt { first: Slot(0), end, bound: append.promised });
        }
        reading.read(append, loss.is_some());
    }
    if unread.is_some() {
        reading.recovered.unsure = true;
        // What the bound is doesn't matter now.
        reading.recovered.doubts.push(Doubt { first: Slot(0), end: Doubt::OPEN, bound: Ballot::ZERO });
    }
    reading.end()
}

#[derive(Default)]
struct Reading {
    recovered: Recovered,
    accepted: BTreeMap<Slot, AcceptedBody>,
    delivered: Vec<(BodyHandle, Mark)>,
    is_damaged: bool,
}

impl Reading {
    fn read(&mut self, append: &Append, has_lost_body: bool) {
        self.recovered.promised = self.recovered.promised.max(append.promised);
        if let LogEntry::Installed { .. } = append.entry {
            self.recovered.mark = append.mark;
            self.recovered.trimmed = self.recovered.trimmed.max(append.mark.slot);
            self.delivered.clear();
        }
        self.reach(append.mark);
        self.accepted = self.accepted.split_off(&self.recovered.mark.slot);
        match append.entry {
            LogEntry::Promise | LogEntry::Installed { .. } => {}
            LogEntry::Accepted { ballot, body } if has_lost_body => {
                self.recovered.doubts.push(Doubt { first: body.first, end: body.end(), bound: ballot });
            }
            LogEntry::Copied { .. } if has_lost_body => {}
            LogEntry::Accepted { ballot, body } => self.accept(ballot, body),
            // Behind a loss: it will be fetched again.
            LogEntry::Copied { body, .. } if self.is_damaged && body.first != self.recovered.mark.slot => {}
            LogEntry::Copied { body, .. } => {
                self.choose(body);
                self.accepted = self.accepted.split_off(&self.recovered.mark.slot);
            }
        }
    }

    fn accept(&mut self, ballot: Ballot, body: BodyHandle) {
        let mark = self.recovered.mark.slot;
        assert!(body.first >= mark, "what is known to be chosen is never accepted again");
        self.accepted.retain(|_, known| {
            let displaced = known.body.overlaps(&body);
            let again = known.ballot == ballot && known.body == body;
            assert!(!displaced || known.ballot < ballot || again, "{body:?} at {ballot} can't replace {known:?}");
            !displaced
        });
        self.accepted.insert(body.first, AcceptedBody { ballot, body });
    }

    /// Goes on to the mark of an append, over the bodies before it. In a damaged log, another body than the chosen one
    /// may be left at a slot: only the chain tells.
    fn reach(&mut self, target: Mark) {
        let mut mark = self.recovered.mark;
        let mut passed = Vec::new();
        while mark.slot < target.slot
            && let Some(next) = self.accepted.get(&mark.slot)
        {
            mark = mark.after(&next.body);
            passed.push(next.body);
        }
        if mark == target {
            for body in passed {
                self.choose(body);
            }
        } else {
            assert!(
                self.is_damaged,
                "the mark {target:?} stands on bodies that are in the log before it, not {mark:?}"
            );
        }
    }

    fn choose(&mut self, body: BodyHandle) {
        self.recovered.mark = self.recovered.mark.after(&body);
        self.delivered.push((body, self.recovered.mark));
    }

    fn end(mut self) -> (Recovered, Vec<(BodyHandle, Mark)>) {
        for (body, _) in &self.delivered {
            if let BodyKind::Trim { upto } = body.kind {
                self.recovered.trimmed = self.recovered.trimmed.max(upto);
            }
        }
        self.recovered.accepted = self.accepted.into_values().collect();
        (self.recovered, self.delivered)
    }
}

/// The body that an append brings.
pub(super) fn body_of(append: &Append) -> Option<&BodyHandle> {
    match &append.entry {
        LogEntry::Promise | LogEntry::Installed { .. } => None,
        LogEntry::Accepted { body, .. } | LogEntry::Copied { body, .. } => Some(body),
    }
}
