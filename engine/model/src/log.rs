//! The durable log of a node, as the join that recovery makes of it; and, where records may be lost, record by record.

use std::collections::BTreeMap;

use synod_protocol::{AcceptedBody, Append, AppendId, Ballot, BodyHandle, Doubt, LogEntry, Mark, Recovered, Slot};

/// What the durable appends prove.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Log {
    promised: Ballot,
    mark: Mark,
    accepted: BTreeMap<Slot, AcceptedBody>,
    chosen: Vec<BodyHandle>,
    /// Every record, if some may be lost.
    records: Option<Vec<Record>>,
    doubts: Vec<Doubt>,
    unsure: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Record {
    append: Append,
    loss: Option<Loss>,
}

/// How a record was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Loss {
    /// Later ones tell what may have been in it.
    Between,
    /// It was the last one when a life began.
    Last,
}

impl Log {
    /// A log of which records may be lost.
    pub(crate) fn perishable() -> Log {
        Log { records: Some(Vec::new()), ..Log::default() }
    }

    /// Takes one more append. As everywhere: the highest promise, and the highest ballot per slot.
    pub(crate) fn write(&mut self, append: &Append) {
        if let Some(records) = &mut self.records {
            // Its number within a life is nobody's business any more.
            records.push(Record { append: Append { id: AppendId(0), ..*append }, loss: None });
        }
        self.join(append);
    }

    fn join(&mut self, append: &Append) {
        self.promised = self.promised.max(append.promised);
        self.reach(append.mark);
        match append.entry {
            // No model trims.
            LogEntry::Promise | LogEntry::Installed { .. } => {}
            LogEntry::Accepted { ballot, body } => {
                self.accepted.retain(|_, known| !known.body.overlaps(&body));
                self.accepted.insert(body.first, AcceptedBody { ballot, body });
            }
            // Not next in order behind a loss: it will be fetched again.
            LogEntry::Copied { body, .. } if body.first != self.mark.slot => assert!(self.has_losses()),
            LogEntry::Copied { body, .. } => self.choose(body),
        }
    }

    /// Goes on to a mark, over the bodies before it. Behind a loss, only the chain tells whether they are the chosen ones.
    fn reach(&mut self, target: Mark) {
        let mut mark = self.mark;
        let mut passed = Vec::new();
        while mark.slot < target.slot
            && let Some(next) = self.accepted.get(&mark.slot)
        {
            mark = mark.after(&next.body);
            passed.push(next.body);
        }
        if mark == target {
            passed.into_iter().for_each(|body| self.choose(body));
        } else {
            assert!(
                self.has_losses() || mark.slot > target.slot,
                "a mark stands on bodies that are in the log before it"
            );
        }
    }

    fn has_losses(&self) -> bool {
        self.records.iter().flatten().any(|record| record.loss.is_some())
    }

    /// The accepts that have records behind them, by their place: lost, they leave a doubt.
    pub(crate) fn accepts_between(&self) -> Vec<usize> {
        let records = self.records.as_deref().unwrap_or_default();
        let is_accept = |place: &usize| {
            let Record { append, loss } = &records[*place];
            loss.is_none() && matches!(append.entry, LogEntry::Accepted { .. })
        };
        (0..records.len().saturating_sub(1)).filter(is_accept).collect()
    }

    /// Whether the last record can be lost.
    pub(crate) fn has_last(&self) -> bool {
        self.records.as_deref().and_then(<[Record]>::last).is_some_and(|record| record.loss.is_none())
    }

    /// Loses the record at `place`, or the last one.
    pub(crate) fn lose(&mut self, place: Option<usize>) {
        let mut records = self.records.take().expect("records of this log may be lost");
        match place {
            Some(place) => records[place].loss = Some(Loss::Between),
            None => records.last_mut().expect("there are records").loss = Some(Loss::Last),
        }
        *self = Log { records: Some(records.clone()), ..Log::default() };
        let mut end = Slot(0);
        let mut lost: Option<Slot> = None;
        for Record { append, loss } in &records {
            if let LogEntry::Accepted { body, .. } | LogEntry::Copied { body, .. } = append.entry {
                end = end.max(body.end());
            }
            match loss {
                Some(Loss::Between) => lost = lost.or(Some(Slot(0))),
                Some(Loss::Last) => lost = Some(Doubt::OPEN),
                None => {
                    if !append.unsure
                        && let Some(open) = lost.take()
                    {
                        self.doubts.push(Doubt { first: Slot(0), end: end.max(open), bound: append.promised });
                    }
                    self.join(append);
                }
            }
        }
        if lost.is_some() {
            self.unsure = true;
            self.doubts.push(Doubt { first: Slot(0), end: Doubt::OPEN, bound: Ballot::ZERO });
        }
    }

    /// What the log would prove if nothing in it were lost but the promise.
    pub(crate) fn pretend_sure(&mut self) {
        self.unsure = false;
        let ever = self.records.iter().flatten().map(|record| record.append.promised).max().unwrap_or_default();
        for doubt in &mut self.doubts {
            doubt.bound = doubt.bound.max(ever);
        }
    }

    pub(crate) fn forget_doubts(&mut self) {
        self.doubts.clear();
    }

    fn choose(&mut self, body: BodyHandle) {
        self.mark = self.mark.after(&body);
        self.chosen.push(body);
        self.accepted = self.accepted.split_off(&self.mark.slot);
    }

    pub(crate) fn promised(&self) -> Ballot {
        self.promised
    }

    /// The chosen prefix that it proves.
    pub(crate) fn chosen(&self) -> &[BodyHandle] {
        &self.chosen
    }

    /// Whether it holds an accept of a body that it doesn't know to be chosen.
    pub(crate) fn has_open(&self) -> bool {
        !self.accepted.is_empty()
    }

    pub(crate) fn recovered(&self) -> Recovered {
        Recovered {
            promised: self.promised,
            mark: self.mark,
            trimmed: Slot(0),
            accepted: self.accepted.values().copied().collect(),
            configurations: Vec::new(),
            doubts: self.doubts.clone(),
            unsure: self.unsure,
        }
    }

    pub(crate) fn forget_promise(&mut self) {
        self.promised = self.accepted.values().map(|known| known.ballot).max().unwrap_or(Ballot::ZERO);
    }

    pub(crate) fn forget_accepted(&mut self) {
        self.accepted.clear();
    }
}
