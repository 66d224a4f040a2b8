//! One suite for every way to have a log: what an embedder relies on holds for a node's own log, for a client of the
//! network, and for the cluster that embedders test with.

mod beds;
mod cancelled;
#[path = "../common/mod.rs"]
mod common;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use beds::{Bed, Client, Follower, Nodes};
use synod::machine::{Commands, Driver, DriverOptions, StateMachine};
use synod::testing::Cluster;
use synod::{
    Answer, AppendError, AppendOptions, Batch, Entry, Log, NodeId, ReadItem, Refusal, Retry, SessionError, SessionId,
    Slot, TicketError, TrimError, WhenFull,
};

const SECOND: Duration = Duration::from_secs(1);

/// A case, and its name.
type Case = (&'static str, fn(&dyn Bed));

/// In this order, on one cluster.
const CASES: [Case; 15] = [
    ("slots go up and readers see the same", slots_go_up_and_readers_see_the_same),
    ("batches stay together", batches_stay_together),
    ("what can't be appended is refused at once", what_cannot_be_appended_is_refused_at_once),
    ("a retry in a session counts once", a_retry_in_a_session_counts_once),
    ("sessions are named and closed", sessions_are_named_and_closed),
    ("a deposed writer is fenced", a_deposed_writer_is_fenced),
    ("a slot may be expected", a_slot_may_be_expected),
    ("deadlines", deadlines),
    ("a barrier covers what was acknowledged", a_barrier_covers_what_was_acknowledged),
    ("a reader waits at the tail", a_reader_waits_at_the_tail),
    ("a watch follows", a_watch_follows),
    ("trims are agreed and told", trims_are_agreed_and_told),
    ("the leadership moves", the_leadership_moves),
    ("a state machine is driven", a_state_machine_is_driven),
    ("a new leader has everything", a_new_leader_has_everything),
];

fn run(bed: &dyn Bed) {
    for (name, case) in CASES {
        eprintln!("- {name}");
        case(bed);
    }
}

#[test]
fn a_cluster_for_tests() {
    run(&Cluster::start(3).expect("it starts"));
}

#[test]
fn an_embedded_log() {
    run(&Nodes::start());
}

#[test]
fn a_client_of_the_network() {
    run(&Client::start());
}

/// What only a leader can do, it is still asked for itself.
#[test]
fn a_follower_that_passes_appends_on() {
    let bed = Follower::start();
    for (name, case) in CASES {
        let needs_the_leader = ["a watch follows", "trims are agreed and told", "the leadership moves"];
        if !needs_the_leader.contains(&name) {
            eprintln!("- {name}");
            case(&bed);
        }
    }
    let mut client = synod::client::Client::connect(bed.client_address()).expect("it listens");
    let slots = client.append_batch(&["through its port"].into_iter().collect()).expect("chosen");
    assert_eq!(read(&bed.log(), slots.start, slots.end).0, [(slots.start, "through its port".to_owned())]);
    assert!(matches!(bed.log().trim_blocking(slots.end), Err(TrimError::NotLeader { leader: Some(_) })));
}

/// Appends until it is chosen: elections may come in between where a case has just moved the leadership.
fn append(bed: &dyn Bed, command: &str) -> Slot {
    let end = Instant::now() + 30 * SECOND;
    loop {
        match bed.log().append_blocking(command) {
            Ok(slot) => return slot,
            Err(error) if error.is_certain() && Instant::now() < end => std::thread::sleep(Duration::from_millis(10)),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Commands, or gaps, and where they stand.
type At<T> = Vec<(Slot, T)>;

/// What stands from `from` on below `end`: commands, and gaps with their answers.
fn read(log: &Log, from: Slot, end: Slot) -> (At<String>, At<Answer>) {
    let mut reader = log.reader(from);
    let (mut commands, mut gaps) = (Vec::new(), Vec::new());
    while reader.position() < end {
        let ReadItem::Body(body) = reader.next_blocking().expect("it serves") else { panic!("trimmed") };
        let Ok(entries) = body.entries() else { continue };
        for entry in entries {
            match entry.expect("a valid command") {
                Entry::Command { slot, command } if slot >= from => {
                    commands.push((slot, String::from_utf8_lossy(command).into_owned()));
                }
                Entry::Command { .. } => {}
                Entry::Suppressed(gap) => gaps.push((gap.slots.start, gap.answer)),
            }
        }
    }
    (commands, gaps)
}

fn once(session: SessionId, sequence: u64) -> AppendOptions {
    AppendOptions { session: Some((session, sequence)), ..AppendOptions::default() }
}

fn slots_go_up_and_readers_see_the_same(bed: &dyn Bed) {
    let expected: Vec<(Slot, String)> =
        (0..20).map(|number| format!("plain {number}")).map(|command| (append(bed, &command), command)).collect();
    assert!(expected.windows(2).all(|pair| pair[0].0 < pair[1].0));
    let (first, last) = (expected[0].0, expected[19].0);
    assert_eq!(read(&bed.log(), first, last.plus(1)).0, expected);
}

fn batches_stay_together(bed: &dyn Bed) {
    let log = bed.log();
    let batch: Batch = ["a", "", "three"].into_iter().collect();
    let slots = log.append_batch_blocking(batch.clone()).expect("chosen");
    assert_eq!(slots.end.since(slots.start), 3);
    let (found, _) = read(&log, slots.start, slots.end);
    assert_eq!(found.into_iter().map(|(_, command)| command).collect::<Vec<_>>(), ["a", "", "three"]);
    // The other way in, which doesn't wait for room.
    let outcome = log.try_append_batch(batch.clone()).expect("there is room");
    assert!(futures_lite::future::block_on(outcome).expect("chosen").start >= slots.end);
    let options = AppendOptions { when_full: WhenFull::Refuse, ..AppendOptions::default() };
    log.append_batch_with_blocking(batch, options).expect("there is room");
}

fn what_cannot_be_appended_is_refused_at_once(bed: &dyn Bed) {
    let log = bed.log();
    let empty = log.append_batch_blocking(Batch::new()).expect_err("nothing to append");
    assert_eq!((&empty, empty.retry()), (&AppendError::Empty, Retry::Never));
    let large = log.append_blocking(vec![0; 2 << 20]).expect_err("too large");
    assert!(matches!(large, AppendError::TooLarge { .. }) && large.retry() == Retry::Never, "{large}");
}

fn a_retry_in_a_session_counts_once(bed: &dyn Bed) {
    let log = bed.log();
    let session = log.open_session_blocking().expect("opened");
    let first = log.append_with_blocking("once", once(session, 1)).expect("chosen");
    assert_eq!(log.append_with_blocking("once", once(session, 1)), Ok(first));
    let next = log.append_with_blocking("twice", once(session, 2)).expect("chosen");
    let (commands, gaps) = read(&log, first, next.plus(1));
    assert_eq!(commands, [(first, "once".to_owned()), (next, "twice".to_owned())]);
    assert_eq!(gaps.into_iter().map(|(_, answer)| answer).collect::<Vec<_>>(), [Answer::Duplicate { first }]);
    let ahead = log.append_with_blocking("x", once(session, 99)).expect_err("too far ahead");
    assert_eq!(ahead, AppendError::Refused(Refusal::SequenceAhead { highest: 2 }));
    assert!(matches!(ahead.retry(), Retry::Here { .. }));
}

fn sessions_are_named_and_closed(bed: &dyn Bed) {
    let log = bed.log();
    let session = log.open_session_blocking().expect("opened");
    log.close_session_blocking(session).expect("closed");
    assert_eq!(log.close_session_blocking(session), Err(SessionError::Over));
    assert_eq!(log.close_session_blocking(SessionId(Slot(1 << 40))), Err(SessionError::NoSuchSession));
    let over = log.append_with_blocking("x", once(session, 1)).expect_err("closed");
    assert!(!over.is_certain() && over == AppendError::Refused(Refusal::SessionEvicted), "{over}");
}

fn a_deposed_writer_is_fenced(bed: &dyn Bed) {
    let log = bed.log();
    let under = |ticket| AppendOptions { ticket: Some(ticket), ..AppendOptions::default() };
    let old = log.issue_ticket_blocking(600 * SECOND).expect("issued");
    log.append_with_blocking("old", under(old)).expect("chosen");
    let new = log.issue_ticket_blocking(600 * SECOND).expect("issued");
    let fenced = log.append_with_blocking("late", under(old)).expect_err("fenced");
    assert_eq!(fenced, AppendError::Refused(Refusal::TicketSuperseded { newest: new }));
    assert_eq!(log.revoke_ticket_blocking(old), Err(TicketError::Superseded { newest: new }));
    log.append_with_blocking("new", under(new)).expect("chosen");
    log.revoke_ticket_blocking(new).expect("revoked");
    let over = log.append_with_blocking("late", under(new)).expect_err("revoked");
    assert_eq!(over, AppendError::Refused(Refusal::TicketExpired));
}

fn a_slot_may_be_expected(bed: &dyn Bed) {
    let expecting = |slot| AppendOptions { expected_slot: Some(slot), ..AppendOptions::default() };
    let wrong = bed.log().append_with_blocking("x", expecting(Slot(1))).expect_err("that slot is long gone");
    let AppendError::Refused(Refusal::UnexpectedSlot { actual }) = wrong else { panic!("{wrong}") };
    let next = bed.log().append_with_blocking("x", expecting(actual.plus(1)));
    assert_eq!(next, Ok(actual.plus(1)), "nobody else appends");
}

fn deadlines(bed: &dyn Bed) {
    let until = |deadline| AppendOptions { deadline: Some(deadline), ..AppendOptions::default() };
    let log = bed.log();
    let late = log.append_with_blocking("late", until(Instant::now())).expect_err("it is over");
    assert_eq!((&late, late.retry()), (&AppendError::DeadlinePassed, Retry::Never));
    log.append_with_blocking("early", until(Instant::now() + 30 * SECOND)).expect("chosen");
}

fn a_barrier_covers_what_was_acknowledged(bed: &dyn Bed) {
    let slot = append(bed, "acknowledged");
    let reached = bed.log().barrier_blocking().expect("a quorum confirms");
    assert!(reached > slot, "{reached} after {slot}");
    let (found, _) = read(&bed.log(), slot, reached);
    assert_eq!(found[0], (slot, "acknowledged".to_owned()));
}

fn a_reader_waits_at_the_tail(bed: &dyn Bed) {
    let log = bed.log();
    let from = log.barrier_blocking().expect("a quorum confirms");
    let reading = std::thread::spawn({
        let log = log.clone();
        move || {
            let mut reader = log.reader(from);
            let ReadItem::Body(body) = reader.next_blocking().expect("it serves") else { panic!("trimmed") };
            body.slots()
        }
    });
    let slot = log.append_blocking("awaited").expect("chosen");
    assert_eq!(reading.join().expect("it ends").start, slot);
}

fn a_watch_follows(bed: &dyn Bed) {
    let log = bed.log();
    let mut watch = log.watch();
    let slot = log.append_blocking("watched").expect("chosen");
    let seen = watch.wait_for_blocking(|status| status.mark.slot > slot).expect("it runs");
    assert!(seen.leader.is_some());
    assert_eq!(seen.lags().count(), 2, "a leader tells of its peers");
}

fn trims_are_agreed_and_told(bed: &dyn Bed) {
    // Sessions are in use, so their state must be known for the point; more of the log brings that about.
    let end = Instant::now() + 30 * SECOND;
    let trimmed = loop {
        let upto = append(bed, "trimmed");
        match bed.log().trim_blocking(upto) {
            Ok(trimmed) => break trimmed,
            Err(error) => {
                let is_to_come = matches!(
                    error,
                    TrimError::NothingToTrim { .. } | TrimError::NoDeliveryState { .. } | TrimError::Unknown
                );
                assert!(is_to_come && Instant::now() < end, "{error}");
            }
        }
    };
    let log = bed.log();
    let first = common::wait_for("the trim everywhere", 30 * SECOND, || {
        match log.reader(Slot::FIRST).next_blocking().expect("it serves") {
            ReadItem::Trimmed { first } => Some(first),
            ReadItem::Body(_) => None,
        }
    });
    assert!(first >= trimmed, "{first} {trimmed}");
}

fn the_leadership_moves(bed: &dyn Bed) {
    let log = bed.log();
    let leader = log.status().leader.expect("somebody leads");
    let target = NodeId(leader.0 % 3 + 1);
    let end = Instant::now() + 30 * SECOND;
    while let Err(error) = bed.log().transfer_leadership_blocking(target) {
        // It may lag behind for a moment.
        assert!(matches!(error.retry(), Retry::Here { .. } | Retry::FindOut) && Instant::now() < end, "{error}");
        if bed.log().status().leader == Some(target) {
            break;
        }
    }
    append(bed, "after the move");
    let itself = bed.log().transfer_leadership_blocking(NodeId(77)).expect_err("nobody has that name");
    assert!(matches!(itself.retry(), Retry::Never | Retry::Here { .. } | Retry::Elsewhere), "{itself}");
}

/// Counts commands; in memory, so it has to begin where the log does.
struct Count {
    position: Slot,
    commands: u64,
}

impl StateMachine for Count {
    type Output = u64;
    type Error = std::io::Error;

    fn position(&self) -> Result<Slot, Self::Error> {
        Ok(self.position)
    }

    fn apply(&mut self, commands: &Commands<'_>) -> Result<Vec<u64>, Self::Error> {
        let before = self.commands;
        self.commands += commands.iter().count() as u64;
        self.position = commands.end();
        Ok((before + 1..=self.commands).collect())
    }

    fn snapshot(&self, into: &mut dyn Write) -> Result<(), Self::Error> {
        into.write_all(&self.commands.to_le_bytes())
    }

    fn restore(&mut self, position: Slot, from: &mut dyn Read) -> Result<(), Self::Error> {
        let mut commands = [0; 8];
        from.read_exact(&mut commands)?;
        (self.position, self.commands) = (position, u64::from_le_bytes(commands));
        Ok(())
    }
}

fn a_state_machine_is_driven(bed: &dyn Bed) {
    let log = bed.log();
    let position = log.barrier_blocking().expect("a quorum confirms");
    let driver = Driver::start(log, Count { position, commands: 0 }, DriverOptions::default()).expect("it starts");
    for expected in 1..=10 {
        assert_eq!(driver.execute_blocking("counted"), Ok(expected));
    }
    assert_eq!(driver.query_fresh_blocking(|count| count.commands), Ok(10));
    assert_eq!(driver.stop().expect("an orderly end").commands, 10);
}

fn a_new_leader_has_everything(bed: &dyn Bed) {
    let before: Vec<(Slot, String)> =
        (0..50).map(|number| format!("before {number}")).map(|command| (append(bed, &command), command)).collect();
    bed.restart_leader();
    let after = append(bed, "after");
    let (found, _) = read(&bed.log(), before[0].0, after.plus(1));
    let found: BTreeMap<Slot, String> = found.into_iter().collect();
    for (slot, command) in before {
        assert_eq!(found.get(&slot), Some(&command));
    }
    assert_eq!(found.get(&after).map(String::as_str), Some("after"));
}
