//! State machines driven by a log: exactly once, across failures of the machine, crashes of nodes, and trims.

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use synod::machine::{
    Command, Commands, DriveError, Driver, DriverOptions, ExecuteError, NoSnapshot, QueryError, SnapshotError,
    SnapshotOptions, SnapshotSource, SnapshotsError, StateMachine,
};
use synod::testing::Cluster;
use synod::{AppendOptions, Log, Retry, Slot};

/// What a disk would hold: the position and the data, changed together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Stored {
    position: Slot,
    words: Vec<String>,
}

/// A list of words. Outlived by what it has stored.
struct Words {
    stored: Arc<Mutex<Stored>>,
    /// Fails before it stores the command of this word.
    fails_at: Option<&'static str>,
}

#[derive(Debug, thiserror::Error)]
enum WordsError {
    #[error("{0} is a bad word")]
    Bad(String),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Words {
    fn new(stored: &Arc<Mutex<Stored>>) -> Words {
        Words { stored: Arc::clone(stored), fails_at: None }
    }

    fn all(&self) -> Vec<String> {
        self.stored.lock().unwrap().words.clone()
    }
}

impl StateMachine for Words {
    /// How many words there are.
    type Output = usize;
    type Error = WordsError;

    fn position(&self) -> Result<Slot, WordsError> {
        Ok(self.stored.lock().unwrap().position)
    }

    fn apply(&mut self, commands: &Commands<'_>) -> Result<Vec<usize>, WordsError> {
        let mut next = self.stored.lock().unwrap().clone();
        let mut outputs = Vec::new();
        let mut time = 0;
        for Command { bytes, time_us, .. } in commands.iter() {
            let word = String::from_utf8_lossy(bytes).into_owned();
            if Some(word.as_str()) == self.fails_at {
                return Err(WordsError::Bad(word));
            }
            assert!(time_us >= time, "the log's time never goes back");
            time = time_us;
            next.words.push(word);
            outputs.push(next.words.len());
        }
        next.position = commands.end();
        *self.stored.lock().unwrap() = next;
        Ok(outputs)
    }

    fn snapshot(&self, into: &mut dyn Write) -> Result<(), WordsError> {
        Ok(into.write_all(self.all().join("\n").as_bytes())?)
    }

    fn restore(&mut self, position: Slot, from: &mut dyn Read) -> Result<(), WordsError> {
        let mut text = String::new();
        from.read_to_string(&mut text)?;
        *self.stored.lock().unwrap() = Stored { position, words: text.lines().map(str::to_owned).collect() };
        Ok(())
    }
}

fn start(cluster: &Cluster, node: synod::NodeId, machine: Words) -> Driver<Words> {
    Driver::start(cluster.log(node), machine, DriverOptions::default()).expect("it starts")
}

#[test]
fn outputs_come_back_to_those_who_asked() {
    let cluster = Cluster::start(3).expect("it starts");
    let leader = cluster.wait_for_leader();
    let driver = Arc::new(start(&cluster, leader, Words::new(&Arc::default())));
    let callers: Vec<_> = (0..4)
        .map(|caller| {
            let driver = Arc::clone(&driver);
            std::thread::spawn(move || {
                (0..50).map(|round| driver.execute_blocking(format!("{caller} {round}")).expect("applied")).collect()
            })
        })
        .collect();
    let mut outputs: Vec<usize> =
        callers.into_iter().flat_map(|caller| -> Vec<usize> { caller.join().expect("it ends") }).collect();
    outputs.sort_unstable();
    assert_eq!(outputs, (1..=200).collect::<Vec<_>>(), "each its own");
    let local = driver.query_local_blocking(Words::all).expect("it runs");
    assert_eq!(driver.query_fresh_blocking(Words::all), Ok(local));

    // A retry finds its first attempt, but that one's result is nobody's any more.
    let session = driver.log().open_session_blocking().expect("opened");
    let once = AppendOptions { session: Some((session, 1)), ..AppendOptions::default() };
    assert_eq!(driver.execute_with_blocking("once", once), Ok(201));
    let again = driver.execute_with_blocking("once", once).expect_err("a duplicate");
    assert!(matches!(again, ExecuteError::ResultGone { .. }), "{again}");
    assert_eq!(again.retry(), Retry::Never);
    assert_eq!(driver.query_fresh_blocking(|words| words.all().len()), Ok(201));
}

#[test]
fn a_machine_that_fails_goes_on_where_its_storage_left_it() {
    let cluster = Cluster::start(1).expect("it starts");
    let leader = cluster.wait_for_leader();
    let stored: Arc<Mutex<Stored>> = Arc::default();
    let driver = start(&cluster, leader, Words { fails_at: Some("bad"), ..Words::new(&stored) });
    driver.execute_blocking("one").expect("applied");
    let ended = driver.execute_blocking("bad").expect_err("the machine fails");
    assert!(matches!(ended, ExecuteError::Stopped { .. }), "{ended}");
    assert!(matches!(driver.error(), Some(DriveError::Machine(_))));
    assert_eq!(driver.query_local_blocking(Words::all), Err(QueryError::Stopped));
    assert!(matches!(driver.stop(), Err(DriveError::Machine(_))));

    let driver = start(&cluster, leader, Words::new(&stored));
    let all = driver.query_fresh_blocking(Words::all).expect("it runs");
    assert_eq!(all, ["one", "bad"], "once each");
    driver.execute_blocking("two").expect("applied");
    drop(driver.stop().expect("an orderly end"));
    assert_eq!(stored.lock().unwrap().words, ["one", "bad", "two"]);
}

#[test]
fn replicas_agree_after_a_crash_and_a_fresh_read_anywhere_sees_what_was_acknowledged() {
    let cluster = Cluster::start(3).expect("it starts");
    let leader = cluster.wait_for_leader();
    let follower = *cluster.nodes().iter().find(|node| **node != leader).expect("three nodes");
    let stored: Arc<Mutex<Stored>> = Arc::default();
    let first = start(&cluster, leader, Words::new(&stored));
    let second = start(&cluster, follower, Words::new(&Arc::default()));
    for word in ["a", "b", "c"] {
        first.execute_blocking(word).expect("applied");
    }
    assert_eq!(second.query_fresh_blocking(Words::all), Ok(vec!["a".into(), "b".into(), "c".into()]));
    cluster.crash(leader);
    assert!(first.execute_blocking("lost").is_err());
    drop(first);
    let next = cluster.wait_for_leader();
    let third = start(&cluster, next, Words::new(&Arc::default()));
    third.execute_blocking("d").expect("applied");
    cluster.restart(leader).expect("it starts again");
    cluster.wait_until_level();
    let again = start(&cluster, leader, Words::new(&stored));
    assert_eq!(again.query_fresh_blocking(Words::all), third.query_fresh_blocking(Words::all));
}

/// The snapshot of another replica, as a transport would bring it.
struct Brought(Slot, Vec<u8>);

impl SnapshotSource for Brought {
    fn newest(&mut self, _at_least: Slot) -> io::Result<(Slot, Box<dyn Read + Send>)> {
        Ok((self.0, Box::new(io::Cursor::new(self.1.clone()))))
    }
}

#[test]
fn what_is_trimmed_comes_by_a_snapshot() {
    let cluster = Cluster::start(1).expect("it starts");
    let leader = cluster.wait_for_leader();
    let driver = start(&cluster, leader, Words::new(&Arc::default()));
    for word in ["a", "b", "c"] {
        driver.execute_blocking(word).expect("applied");
    }
    let (position, snapshot) = driver.snapshot_blocking(Vec::new()).expect("written");
    driver.execute_blocking("d").expect("applied");
    driver.log().trim_blocking(position).expect("agreed");

    let late = start(&cluster, leader, Words::new(&Arc::default()));
    while late.error().is_none() {
        assert_eq!(late.query_local_blocking(Words::all).unwrap_or_default(), Vec::<String>::new());
    }
    assert!(matches!(late.stop(), Err(DriveError::Behind { .. })));

    let options = DriverOptions { snapshots: Some(Box::new(Brought(position, snapshot))), ..Default::default() };
    let late = Driver::start(cluster.log(leader), Words::new(&Arc::default()), options).expect("it starts");
    assert_eq!(late.query_fresh_blocking(Words::all), driver.query_fresh_blocking(Words::all));
    assert_eq!(late.execute_blocking("e"), Ok(5));
}

/// Waits until a driver's machine has all these words.
fn wait_for_words(driver: &Driver<Words>, words: &[String]) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while driver.query_local_blocking(Words::all).expect("it runs") != words {
        assert!(std::time::Instant::now() < deadline, "{:?} {:?}", driver.search(), driver.error());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// Trims until nobody has anything below `upto` any more.
fn trim_everywhere(cluster: &Cluster, log: &Log, upto: Slot) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while cluster.nodes().iter().any(|node| cluster.log(*node).status().base < upto) {
        // Refused as long as somebody hasn't said that it has all of that.
        let _agreed_or_not = log.trim_blocking(upto);
        assert!(std::time::Instant::now() < deadline, "somebody keeps what is trimmed");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// Words so long that a snapshot of some of them has several chunks.
fn long_word(number: usize) -> String {
    format!("{number:06}-").repeat(10_000)
}

fn exchanging(cluster: &Cluster, node: synod::NodeId, machine: Words, directory: &Path) -> Driver<Words> {
    let directory = directory.join(format!("snapshots-{}", node.0));
    let exchange = SnapshotOptions { patience: None, ..SnapshotOptions::in_directory(directory) };
    let options = DriverOptions { exchange: Some(exchange), ..DriverOptions::default() };
    Driver::start(cluster.log(node), machine, options).expect("it starts")
}

#[test]
fn a_machine_behind_the_trim_gets_a_peers_snapshot() {
    let directory = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::start(3).expect("it starts");
    let leader = cluster.wait_for_leader();
    let driver = exchanging(&cluster, leader, Words::new(&Arc::default()), directory.path());
    for number in 0..20 {
        driver.execute_blocking(long_word(number)).expect("applied");
    }
    trim_everywhere(&cluster, driver.log(), driver.position());

    // A machine that begins anew on a follower lacks all of that. Nobody has a snapshot: the leader writes one.
    let follower = *cluster.nodes().iter().find(|node| **node != leader).expect("three nodes");
    let stored: Arc<Mutex<Stored>> = Arc::default();
    let late = exchanging(&cluster, follower, Words::new(&stored), directory.path());
    wait_for_words(&late, &driver.query_local_blocking(Words::all).expect("it runs"));
    driver.execute_blocking("more").expect("applied");
    assert_eq!(late.query_fresh_blocking(Words::all), driver.query_fresh_blocking(Words::all));
    assert_eq!((late.search(), stored.lock().unwrap().words.len()), (None, 21));

    // A second driver of the same log would give away what another machine makes of it.
    let other = SnapshotOptions::in_directory(directory.path().join("other"));
    let options = |exchange| DriverOptions { exchange: Some(exchange), ..DriverOptions::default() };
    let refused = Driver::start(cluster.log(leader), Words::new(&Arc::default()), options(other.clone()));
    assert!(matches!(refused, Err(DriveError::Snapshots(SnapshotsError::Taken { .. }))));
    let slow = SnapshotOptions { bytes_per_second: 5, ..other };
    let refused = Driver::start(cluster.log(leader), Words::new(&Arc::default()), options(slow));
    assert!(matches!(refused, Err(DriveError::Snapshots(SnapshotsError::Range { .. }))));

    // What was fetched lies there: a machine that lost everything needs nobody for it.
    drop(late);
    cluster.isolate(leader);
    *stored.lock().unwrap() = Stored::default();
    let again = exchanging(&cluster, follower, Words::new(&stored), directory.path());
    wait_for_words(&again, &driver.query_local_blocking(Words::all).expect("it runs"));
}

#[test]
fn whoever_has_none_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::start(3).expect("it starts");
    let leader = cluster.wait_for_leader();
    // It doesn't exchange, so it gives none.
    let driver = start(&cluster, leader, Words::new(&Arc::default()));
    for word in ["a", "b", "c"] {
        driver.execute_blocking(word).expect("applied");
    }
    let position = driver.position();
    trim_everywhere(&cluster, driver.log(), position);
    assert!(matches!(driver.keep_snapshot_blocking(), Err(SnapshotError::NoDirectory)));

    let exchange = SnapshotOptions {
        patience: Some(std::time::Duration::from_millis(1500)),
        ..SnapshotOptions::in_directory(directory.path().join("snapshots"))
    };
    let options = DriverOptions { exchange: Some(exchange), ..DriverOptions::default() };
    let follower = *cluster.nodes().iter().find(|node| **node != leader).expect("three nodes");
    let late = Driver::start(cluster.log(follower), Words::new(&Arc::default()), options).expect("it starts");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while late.error().is_none() {
        assert!(std::time::Instant::now() < deadline, "{:?}", late.search());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    match late.stop() {
        Err(DriveError::NoSnapshot { at_least, refused }) => {
            assert!(at_least > Slot::FIRST && at_least <= position, "{at_least}");
            assert!(refused.0.contains(&(leader, NoSnapshot::NoMachine)), "{refused}");
        }
        other => panic!("{:?}", other.map(|_| ())),
    }
}
