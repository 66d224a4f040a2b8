//! A bank whose node stays away until the others have trimmed what it lacks, comes back by a snapshot, and is killed again and
//! again while that comes in.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use synod_examples::Trio;
use synod_wal::RecoverOptions;
use synod_wal::audit::{AuditLog, audit};
use synod_wal::directory::{DirectoryStore, log_path, read_identity};

/// Slow enough to be killed in the middle of it.
const BYTES_PER_SECOND: &str = "1048576";

const PATIENCE: Duration = Duration::from_secs(60);

const KILLS: usize = 3;

fn accounts(directory: &Path) -> BTreeMap<String, u64> {
    let database = Database::open(directory.join("bank.redb")).expect("a database");
    let transaction = database.begin_read().expect("a transaction");
    let table = transaction.open_table(TableDefinition::<&str, u64>::new("accounts")).expect("a table");
    let rows = table.iter().expect("rows").map(|row| row.expect("a row"));
    rows.map(|(name, balance)| (name.value().to_owned(), balance.value())).collect()
}

fn transfer(bank: &mut Trio, count: u64) {
    for amount in 0..count {
        // Refused or not: money stays.
        let _refused_or_not = bank.execute(&format!("transfer anna bert {amount}")).expect("an answer");
    }
}

/// How many bytes of a snapshot have come to a node, more than `more_than`; the others stay busy meanwhile.
fn fetched(bank: &mut Trio, node: usize, more_than: u64) -> u64 {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        transfer(bank, 1);
        let answer = bank.ask_node(node, "search").expect("an answer");
        let Ok(bytes) = answer.parse::<u64>() else { continue };
        assert!(bytes >= more_than, "it goes on where it was: {bytes} after {more_than}");
        if bytes > more_than {
            return bytes;
        }
    }
    panic!("no snapshot comes in");
}

fn insist_on_invariants(directories: &[&Path]) {
    let paths: Vec<_> = directories.iter().map(|directory| directory.join("log")).collect();
    let stores: Vec<_> = paths.iter().map(|path| DirectoryStore::new(log_path(path, 0))).collect();
    let mut logs = Vec::new();
    for (path, store) in paths.iter().zip(&stores) {
        let identity = read_identity(path).expect("an identity");
        let expected = identity.log_identity(0).expect("bootstrapped").expected();
        let (name, options) = (path.display().to_string(), RecoverOptions::default());
        logs.push(AuditLog::read(name, store, &expected, identity.segment_bytes, options).expect("a sound log"));
    }
    let report = audit(&logs, &[]).expect("logs of one cluster");
    assert!(report.holds(), "{:?}", report.violations);
}

#[test]
fn a_node_that_is_killed_while_a_snapshot_comes_in_catches_up_and_no_money_is_lost() {
    let root =
        tempfile::Builder::new().prefix("example-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let further = ["--snapshot-bytes-per-second", BYTES_PER_SECOND];
    let mut bank = Trio::start_with(Path::new(env!("CARGO_BIN_EXE_bank")), root.path(), &further).expect("it starts");
    bank.execute("deposit anna 1000").expect("an answer").expect("it is covered");
    let away = bank.leader() % 3 + 1;
    let (_, position) = bank.log(away).expect("an answer");
    bank.kill(away).expect("it runs");
    for opened in 0.. {
        let (base, _) = bank.log(bank.leader()).expect("an answer");
        if base > position {
            break;
        }
        let name = format!("{opened}-{}", "x".repeat(32 << 10));
        bank.execute(&format!("deposit {name} 1")).expect("an answer").expect("it is covered");
    }

    bank.restart(away).expect("it starts");
    let mut seen = 0;
    for _ in 0..KILLS {
        seen = fetched(&mut bank, away, seen);
        bank.kill(away).expect("it runs");
        transfer(&mut bank, 5);
        bank.restart(away).expect("it starts");
    }
    let total = bank.ask("fresh total").expect("an answer");
    transfer(&mut bank, 20);
    assert_eq!(bank.ask_node(away, "fresh total").expect("it catches up"), total);
    assert_eq!(bank.ask_node(away, "search").expect("an answer"), "none");
    let snapshots = std::fs::read_dir(bank.directory(away).join("snapshots")).expect("a directory");
    let whole = snapshots.filter(|entry| {
        entry.as_ref().is_ok_and(|entry| entry.path().extension().is_some_and(|extension| extension == "snapshot"))
    });
    assert!(whole.count() >= 1, "it came by a snapshot");

    // Everybody has everything.
    for node in 1..=3 {
        assert_eq!(bank.ask_node(node, "fresh total").expect("an answer"), total);
    }
    bank.stop().expect("an orderly end");
    let databases: Vec<_> = (1..=3).map(|node| accounts(bank.directory(node))).collect();
    assert!(databases[0] == databases[1] && databases[1] == databases[2], "the databases differ");
    assert_eq!(databases[0].values().sum::<u64>().to_string(), total);
    insist_on_invariants(&[1, 2, 3].map(|node| bank.directory(node)));
}
