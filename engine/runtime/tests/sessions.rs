//! Sessions, tickets and conditional appends, through the embedding API; also across restarts and trims.

mod common;

use std::path::Path;
use std::time::Duration;

use common::{free_addresses, make_cluster, temporary_directory, wait_for};
use synod::{
    Answer, AppendError, AppendOptions, Config, Entry, Log, Node, NodeId, ReadItem, Refusal, Role, SessionError,
    SessionId, Slot, TicketError, TicketId, TrimError,
};

const PATIENCE: Duration = Duration::from_secs(20);
const SECOND: Duration = Duration::from_secs(1);

struct Alone {
    root: tempfile::TempDir,
    node: Option<Node>,
}

impl Alone {
    fn new() -> Alone {
        let root = temporary_directory();
        make_cluster(root.path(), 1, 2 << 20);
        let node = start(&root.path().join("node-1"));
        Alone { root, node: Some(node) }
    }

    fn log(&self) -> Log {
        let log = self.node.as_ref().expect("it runs").log();
        wait_for("a leader", PATIENCE, || (log.status().role == Role::Leader).then_some(()));
        log
    }

    fn restart(&mut self) {
        self.node.take().expect("it runs").shutdown().expect("an orderly end");
        self.node = Some(start(&self.root.path().join("node-1")));
    }
}

fn start(directory: &Path) -> Node {
    let mut config = Config::new(directory, NodeId(1), free_addresses(1)[0]);
    config.io_memory_bytes = 16 << 20;
    Node::start(config).expect("the node starts")
}

fn once(session: SessionId, sequence: u64) -> AppendOptions {
    AppendOptions { session: Some((session, sequence)), ..AppendOptions::default() }
}

fn under(ticket: TicketId) -> AppendOptions {
    AppendOptions { ticket: Some(ticket), ..AppendOptions::default() }
}

fn refused<T: std::fmt::Debug>(result: Result<T, AppendError>) -> Refusal {
    match result {
        Err(AppendError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

/// The commands that count from `from` on, and how many gaps there are.
fn delivered(log: &Log, from: Slot) -> (Vec<Vec<u8>>, Vec<(Slot, Answer)>) {
    let (mut commands, mut gaps) = (Vec::new(), Vec::new());
    let end = log.status().mark.slot;
    let mut reader = log.reader(from);
    while reader.position() < end {
        let ReadItem::Body(body) = reader.next_blocking().expect("the node serves") else { continue };
        let Ok(entries) = body.entries() else { continue };
        for entry in entries {
            match entry.expect("a valid command") {
                Entry::Command { command, .. } => commands.push(command.to_vec()),
                Entry::Suppressed(gap) => gaps.push((gap.slots.start, gap.answer)),
            }
        }
    }
    (commands, gaps)
}

#[test]
fn a_retry_is_delivered_once_also_after_a_restart() {
    let mut alone = Alone::new();
    let log = alone.log();
    let session = log.open_session_blocking().expect("opened");
    let first = log.append_with_blocking(b"one", once(session, 1)).expect("chosen");
    assert_eq!(log.append_with_blocking(b"one", once(session, 1)), Ok(first));
    let batch: synod::Batch = ["two", "three"].into_iter().collect();
    let slots = log.append_batch_with_blocking(batch.clone(), once(session, 2)).expect("chosen");

    alone.restart();
    let log = alone.log();
    assert_eq!(log.append_with_blocking(b"one", once(session, 1)), Ok(first));
    assert_eq!(log.append_batch_with_blocking(batch, once(session, 2)), Ok(slots.clone()));
    log.append_with_blocking(b"four", once(session, 3)).expect("chosen");
    let (commands, gaps) = delivered(&log, Slot::FIRST);
    assert_eq!(commands, ["one", "two", "three", "four"].map(|text| text.as_bytes().to_vec()));
    let answers: Vec<Answer> = gaps.into_iter().map(|(_, answer)| answer).collect();
    let again = |first| Answer::Duplicate { first };
    assert_eq!(answers, [again(first), again(first), again(slots.start)]);
    assert_eq!(log.status().judged, log.status().mark.slot);

    assert_eq!(refused(log.append_with_blocking(b"x", once(session, 0))), Refusal::SequenceTooOld { oldest: 1 });
    assert_eq!(refused(log.append_with_blocking(b"x", once(session, 99))), Refusal::SequenceAhead { highest: 3 });
    log.close_session_blocking(session).expect("closed");
    assert_eq!(log.close_session_blocking(session), Err(SessionError::Over));
    let error = log.append_with_blocking(b"x", once(session, 4)).expect_err("closed");
    assert!(!error.is_certain(), "of a retry nobody would know");
    assert_eq!(error, AppendError::Refused(Refusal::SessionEvicted));
    let future = SessionId(Slot(1 << 40));
    assert_eq!(log.close_session_blocking(future), Err(SessionError::NoSuchSession));
    assert_eq!(refused(log.append_with_blocking(b"x", once(SessionId(Slot(0)), 1))), Refusal::SessionUnknown);
}

#[test]
fn a_deposed_writer_is_fenced() {
    let alone = Alone::new();
    let log = alone.log();
    let old = log.issue_ticket_blocking(600 * SECOND).expect("issued");
    log.append_with_blocking(b"old", under(old)).expect("chosen");
    let newest = log.issue_ticket_blocking(600 * SECOND).expect("issued");
    let error = log.append_with_blocking(b"late", under(old)).expect_err("deposed");
    assert!(error.is_certain());
    assert_eq!(error, AppendError::Refused(Refusal::TicketSuperseded { newest }));
    log.append_with_blocking(b"new", under(newest)).expect("chosen");
    log.append_blocking(b"free").expect("chosen");
    assert_eq!(log.revoke_ticket_blocking(old), Err(TicketError::Superseded { newest }));
    log.revoke_ticket_blocking(newest).expect("revoked");
    assert_eq!(log.revoke_ticket_blocking(newest), Err(TicketError::Over));
    assert_eq!(refused(log.append_with_blocking(b"late", under(newest))), Refusal::TicketExpired);
    let brief = log.issue_ticket_blocking(Duration::from_millis(1)).expect("issued");
    wait_for("the end of a ticket", PATIENCE, || {
        let outcome = log.append_with_blocking(b"brief", under(brief));
        outcome.is_err().then(|| assert_eq!(refused(outcome), Refusal::TicketExpired))
    });
    let (commands, gaps) = delivered(&log, Slot::FIRST);
    let kept: Vec<&[u8]> = commands.iter().map(Vec::as_slice).filter(|command| *command != b"brief").collect();
    assert_eq!(kept, [&b"old"[..], b"new", b"free"]);
    assert_eq!(gaps.len(), 3);
}

#[test]
fn an_append_may_expect_its_slot() {
    let alone = Alone::new();
    let log = alone.log();
    let at = |slot| AppendOptions { expected_slot: Some(slot), ..AppendOptions::default() };
    let slot = log.append_blocking(b"first").expect("chosen");
    log.append_with_blocking(b"second", at(slot.plus(1))).expect("nothing came between");
    let actual = slot.plus(2);
    let stale = log.append_with_blocking(b"stale", at(slot.plus(1)));
    assert_eq!(refused(stale), Refusal::UnexpectedSlot { actual });
    log.append_with_blocking(b"third", at(actual.plus(1))).expect("the slot was told");
    assert_eq!(delivered(&log, slot).0, [b"first".to_vec(), b"second".to_vec(), b"third".to_vec()]);
}

#[test]
fn sessions_outlive_the_log_that_they_were_opened_in() {
    let mut alone = Alone::new();
    let log = alone.log();
    let before = log.append_blocking(b"before").expect("chosen");
    let session = log.open_session_blocking().expect("opened");
    let ticket = log.issue_ticket_blocking(600 * SECOND).expect("issued");
    let terms = |sequence| AppendOptions { ticket: Some(ticket), ..once(session, sequence) };
    let first = log.append_with_blocking(b"one", terms(1)).expect("chosen");

    // The log can be trimmed to where the state is kept: at first nowhere, for so little isn't worth it.
    let filler = vec![7; 500 << 10];
    let trimmed = wait_for("a trim", PATIENCE, || {
        let end = log.append_blocking(&filler).expect("chosen");
        match log.trim_blocking(end) {
            Ok(trimmed) if trimmed > first => Some(trimmed),
            Ok(_) | Err(TrimError::NoDeliveryState { .. } | TrimError::NothingToTrim { .. }) => None,
            Err(error) => panic!("{error}"),
        }
    });
    assert!(trimmed > before);
    wait_for("the new base", PATIENCE, || (log.status().base == trimmed).then_some(()));
    assert!(matches!(log.reader(before).next_blocking(), Ok(ReadItem::Trimmed { first }) if first == trimmed));
    alone.restart();
    let log = alone.log();
    assert_eq!(log.status().base, trimmed);
    assert_eq!(log.append_with_blocking(b"one", terms(1)), Ok(first), "answered from what the trim carried");
    log.append_with_blocking(b"two", terms(2)).expect("chosen");
    let commands = delivered(&log, trimmed).0;
    assert!(commands.iter().all(|command| command != b"one"));
    assert!(commands.iter().any(|command| command == b"two"));

    // Once nobody uses sessions any more, a trim may be anywhere again.
    log.close_session_blocking(session).expect("closed");
    log.revoke_ticket_blocking(ticket).expect("revoked");
    let end = log.append_blocking(b"after").expect("chosen");
    wait_for("a trim to the slot", PATIENCE, || (log.trim_blocking(end) == Ok(end)).then_some(()));
    alone.restart();
    let log = alone.log();
    assert_eq!(refused(log.append_with_blocking(b"x", terms(3))), Refusal::SessionEvicted);
}

#[test]
fn a_retry_at_the_next_leader_gets_the_same_slot() {
    let root = temporary_directory();
    let directories = make_cluster(root.path(), 3, 2 << 20);
    let listens = free_addresses(3);
    let start = |node: u32| {
        let mut config = Config::new(&directories[node as usize - 1], NodeId(node), listens[node as usize - 1]);
        let others = (1..=3).filter(|peer| *peer != node);
        config.peers = others.map(|peer| (NodeId(peer), listens[peer as usize - 1])).collect();
        config.io_memory_bytes = 16 << 20;
        Node::start(config).expect("the node starts")
    };
    let nodes: Vec<Node> = (1..=3).map(start).collect();
    let leader = |but: Option<NodeId>| {
        wait_for("a leader", PATIENCE, || {
            nodes.iter().map(Node::log).find(|log| {
                let status = log.status();
                status.role == Role::Leader && Some(status.node) != but
            })
        })
    };
    let first_leader = leader(None);
    let session = first_leader.open_session_blocking().expect("opened");
    let slots: Vec<Slot> = (1..=20u8)
        .map(|number| first_leader.append_with_blocking([number], once(session, number.into())).expect("chosen"))
        .collect();
    let old = first_leader.status().node;
    let target = nodes.iter().map(|node| node.status().node).find(|node| *node != old).expect("there are others");
    wait_for("the leadership to move", PATIENCE, || first_leader.transfer_leadership_blocking(target).ok());
    let next_leader = leader(Some(old));
    for (number, slot) in (1..=20u8).zip(&slots) {
        let again = next_leader.append_with_blocking([number], once(session, number.into()));
        assert_eq!(again, Ok(*slot), "number {number}");
    }
    let last = next_leader.append_with_blocking([21], once(session, 21)).expect("chosen");
    for node in &nodes {
        let log = node.log();
        wait_for("everybody to have it", PATIENCE, || (log.status().judged > last).then_some(()));
        let (commands, gaps) = delivered(&log, Slot::FIRST);
        assert_eq!(commands, (1..=21u8).map(|number| vec![number]).collect::<Vec<_>>());
        assert_eq!(gaps.len(), 20);
    }
}
