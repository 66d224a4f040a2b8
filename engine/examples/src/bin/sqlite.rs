//! Replicated SQLite: statements go through the log into a database file on each of three nodes.
//!
//! `cargo run --release -p synod-examples --bin sqlite` makes a table, fills it while nodes are killed as `kill -9` does,
//! and shows that all three files hold the same. They are ordinary SQLite files: `sqlite3 FILE` opens them.
//!
//! Statements are executed on every node, so they must do the same everywhere. Those that can't are refused before they
//! touch anything: what asks for chance, for the clock, or for the connection's own history (see [`UNEQUAL`]).

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::ensure;
use clap::{Parser, Subcommand};
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, MAIN_DB};
use synod::Slot;
use synod::machine::{Commands, StateMachine};
use synod_examples::{NodeArguments, Store, Trio, serve};
use thiserror::Error;

/// The name of the database file in a node's directory.
const FILE: &str = "database.sqlite";

/// The table whose one row says how far the log is applied.
const POSITION: &str = "synod_position";

/// Functions that give something else on each node, or after a restart.
const UNEQUAL: [&str; 19] = [
    "random",
    "randomblob",
    "current_date",
    "current_time",
    "current_timestamp",
    "date",
    "time",
    "datetime",
    "julianday",
    "unixepoch",
    "strftime",
    "timediff",
    "changes",
    "total_changes",
    "last_insert_rowid",
    "sqlite_version",
    "sqlite_source_id",
    "sqlite_offset",
    "load_extension",
];

/// The state machine: what the log drives.
struct Sqlite {
    connection: Connection,
    directory: PathBuf,
}

/// Why the database can't go on.
#[derive(Debug, Error)]
enum SqliteError {
    #[error(transparent)]
    Database(#[from] rusqlite::Error),
    #[error("the snapshot can't be read or written: {0}")]
    Snapshot(#[from] std::io::Error),
    #[error("the snapshot stands for slot {found}, not {expected}")]
    Position { expected: Slot, found: Slot },
}

impl Store for Sqlite {
    fn open(directory: &Path) -> Result<Sqlite, SqliteError> {
        let connection = Connection::open(directory.join(FILE))?;
        // A commit is on the disk when it returns: the position that it stores must not be ahead of the data.
        connection.execute_batch(&format!(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             CREATE TABLE IF NOT EXISTS {POSITION} (slot INTEGER NOT NULL);
             INSERT INTO {POSITION} SELECT {} WHERE NOT EXISTS (SELECT 1 FROM {POSITION});",
            Slot::FIRST
        ))?;
        Ok(Sqlite { connection, directory: directory.to_path_buf() })
    }

    fn query(&self, line: &str) -> Result<String, String> {
        self.select(line).map_err(|error| error.to_string())
    }
}

impl StateMachine for Sqlite {
    /// How many rows a statement has changed, or why it was refused.
    type Output = Result<String, String>;
    type Error = SqliteError;

    fn position(&self) -> Result<Slot, SqliteError> {
        Ok(position_in(&self.connection)?)
    }

    fn apply(&mut self, commands: &Commands<'_>) -> Result<Vec<Self::Output>, SqliteError> {
        let mut refused = BTreeMap::new();
        loop {
            match self.attempt(commands, &refused) {
                Ok(Attempt::Done(outputs)) => return Ok(outputs),
                // It took those before it along: once more, without it. On every node they must come to the same.
                Ok(Attempt::RolledBack { command, reason }) => drop(refused.insert(command, reason)),
                Err(error) => {
                    // The transaction may be over already; what matters is the error.
                    let _ = self.connection.execute_batch("ROLLBACK");
                    return Err(error);
                }
            }
        }
    }

    fn snapshot(&self, into: &mut dyn Write) -> Result<(), SqliteError> {
        let copy = self.directory.join("snapshot.sqlite");
        self.connection.backup(MAIN_DB, &copy, None::<fn(_)>)?;
        std::io::copy(&mut std::fs::File::open(&copy)?, into)?;
        Ok(std::fs::remove_file(copy)?)
    }

    fn restore(&mut self, position: Slot, from: &mut dyn Read) -> Result<(), SqliteError> {
        let copy = self.directory.join("snapshot.sqlite");
        std::io::copy(from, &mut std::fs::File::create(&copy)?)?;
        // The position is in the file as well.
        let found = position_in(&Connection::open(&copy)?)?;
        if found != position {
            return Err(SqliteError::Position { expected: position, found });
        }
        self.connection.restore(MAIN_DB, &copy, None::<fn(_)>)?;
        Ok(std::fs::remove_file(copy)?)
    }
}

/// What became of a transaction.
enum Attempt {
    Done(Vec<Result<String, String>>),
    /// A statement has rolled all of it back (`INSERT OR ROLLBACK`).
    RolledBack {
        command: usize,
        reason: String,
    },
}

impl Sqlite {
    fn attempt(&mut self, commands: &Commands<'_>, refused: &BTreeMap<usize, String>) -> Result<Attempt, SqliteError> {
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        let mut outputs = Vec::new();
        for (place, command) in commands.iter().enumerate() {
            outputs.push(match refused.get(&place) {
                Some(reason) => Err(reason.clone()),
                None => self.execute(command.bytes)?,
            });
            if self.connection.is_autocommit() {
                let reason = outputs.pop().and_then(Result::err).unwrap_or_default();
                return Ok(Attempt::RolledBack { command: place, reason });
            }
        }
        // In the same transaction: after a crash either both are there or neither.
        self.connection.execute(&format!("UPDATE {POSITION} SET slot = ?1"), [commands.end().0 as i64])?;
        self.connection.execute_batch("COMMIT")?;
        Ok(Attempt::Done(outputs))
    }

    /// Executes the statements of one command, all or none.
    fn execute(&mut self, command: &[u8]) -> Result<Result<String, String>, SqliteError> {
        let Ok(statements) = std::str::from_utf8(command) else { return Ok(Err("not a text".to_owned())) };
        let connection = &mut self.connection;
        connection.execute_batch("SAVEPOINT command")?;
        let before = connection.total_changes();
        connection.authorizer(Some(judge))?;
        let executed = connection.execute_batch(statements);
        connection.authorizer(None::<fn(AuthContext<'_>) -> Authorization>)?;
        match executed {
            Ok(()) => {
                let changed = connection.total_changes() - before;
                connection.execute_batch("RELEASE command")?;
                Ok(Ok(format!("{changed} rows")))
            }
            // Of this node alone: no other would have refused, so this one must not go on.
            Err(error) if is_own_trouble(&error) => Err(error.into()),
            // Of the statement: every node refuses it.
            Err(error) => {
                if !connection.is_autocommit() {
                    connection.execute_batch("ROLLBACK TO command; RELEASE command")?;
                }
                Ok(Err(error.to_string()))
            }
        }
    }

    /// The rows that a statement gives, if it only reads.
    fn select(&self, statement: &str) -> rusqlite::Result<String> {
        let mut statement = self.connection.prepare(statement)?;
        if !statement.readonly() {
            return Err(rusqlite::Error::InvalidQuery);
        }
        let columns = statement.column_count();
        let mut rows = statement.query([])?;
        let mut lines = Vec::new();
        while let Some(row) = rows.next()? {
            let values = (0..columns).map(|column| Ok(shown(row.get_ref(column)?)));
            lines.push(values.collect::<rusqlite::Result<Vec<_>>>()?.join("|"));
        }
        Ok(lines.join("\n"))
    }
}

fn position_in(connection: &Connection) -> rusqlite::Result<Slot> {
    connection.query_row(&format!("SELECT slot FROM {POSITION}"), [], |row| Ok(Slot(row.get::<_, i64>(0)? as u64)))
}

fn shown(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => "NULL".to_owned(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
        ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
        ValueRef::Blob(bytes) => format!("{} bytes", bytes.len()),
    }
}

/// What a statement may do: anything that does the same on every node, and leaves the position and the transaction alone.
fn judge(context: AuthContext<'_>) -> Authorization {
    let is_denied = match context.action {
        AuthAction::Function { function_name } => {
            UNEQUAL.iter().any(|unequal| function_name.eq_ignore_ascii_case(unequal))
        }
        AuthAction::Insert { table_name }
        | AuthAction::Delete { table_name }
        | AuthAction::DropTable { table_name }
        | AuthAction::Update { table_name, .. }
        | AuthAction::AlterTable { table_name, .. } => table_name.eq_ignore_ascii_case(POSITION),
        AuthAction::Pragma { .. }
        | AuthAction::Attach { .. }
        | AuthAction::Detach { .. }
        | AuthAction::Transaction { .. }
        | AuthAction::Savepoint { .. }
        | AuthAction::CreateTempTable { .. }
        | AuthAction::CreateTempIndex { .. }
        | AuthAction::CreateTempView { .. }
        | AuthAction::CreateTempTrigger { .. } => true,
        _ => false,
    };
    if is_denied { Authorization::Deny } else { Authorization::Allow }
}

/// Whether an error says something about this node's disk or memory, and not about the statement.
fn is_own_trouble(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
                | ErrorCode::OutOfMemory
                | ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
                | ErrorCode::CannotOpen
                | ErrorCode::ReadOnly
                | ErrorCode::PermissionDenied
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::FileLockingProtocolFailed
                | ErrorCode::OperationInterrupted
                | ErrorCode::InternalMalfunction
        )
    )
}

/// SQLite on three nodes.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Option<What>,
    /// Where the nodes keep their data; it must be empty, and on a disk. Default: a directory below this one, removed
    /// at the end.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// How many nodes are killed, one after the other.
    #[arg(long, default_value_t = 3)]
    kills: usize,
}

#[derive(Debug, Subcommand)]
enum What {
    /// One node of the database.
    #[command(hide = true)]
    Node(NodeArguments),
}

fn main() -> anyhow::Result<()> {
    let level = tracing_subscriber::filter::LevelFilter::ERROR;
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(level).init();
    let arguments = Arguments::parse();
    match arguments.command {
        Some(What::Node(node)) => serve::<Sqlite>(node),
        None => {
            let temporary = tempfile::Builder::new().prefix("sqlite-").tempdir_in(".")?;
            run(arguments.dir.as_deref().unwrap_or(temporary.path()), arguments.kills)
        }
    }
}

fn run(root: &Path, kills: usize) -> anyhow::Result<()> {
    let mut database = Trio::start(&std::env::current_exe()?, root)?;
    let create = "CREATE TABLE notes (id INTEGER PRIMARY KEY, round INTEGER, text TEXT UNIQUE)";
    database.execute(create)?.map_err(anyhow::Error::msg)?;
    let refused = database.execute("INSERT INTO notes (text) VALUES (random())")?;
    println!("random() is refused: {}", refused.expect_err("it would differ on each node"));

    let mut expected = 0;
    for round in 0..kills {
        expected += notes(&mut database, 2 * round)?;
        // By turns the leader and another one.
        let victim = if round % 2 == 0 { database.leader() } else { database.leader() % 3 + 1 };
        database.kill(victim)?;
        expected += notes(&mut database, 2 * round + 1)?;
        let found = database.ask("fresh SELECT count(*) FROM notes")?;
        println!("node {victim} was killed, node {} leads: {found} notes", database.leader());
        ensure!(found == expected.to_string(), "notes were lost or doubled: {found} instead of {expected}");
        database.restart(victim)?;
    }

    // A fresh question at each node makes it catch up.
    for node in 1..=3 {
        let found = database.ask_node(node, "fresh SELECT count(*) FROM notes")?;
        ensure!(found == expected.to_string(), "node {node} has {found} notes instead of {expected}");
    }
    database.stop()?;
    let content = |node| Ok(Sqlite::open(database.directory(node))?.select("SELECT * FROM notes ORDER BY id")?);
    let files = (1..=3).map(content).collect::<anyhow::Result<Vec<String>>>()?;
    ensure!(files[0] == files[1] && files[1] == files[2], "the files differ");
    println!("three equal files of {expected} notes, the first at {}", database.directory(1).join(FILE).display());
    Ok(())
}

/// Writes notes, one at a time, and one that is there already; how many there are more.
fn notes(database: &mut Trio, round: usize) -> anyhow::Result<usize> {
    for number in 0..20 {
        let insert = format!("INSERT INTO notes (round, text) VALUES ({round}, 'note {round}.{number}')");
        database.execute(&insert)?.map_err(anyhow::Error::msg)?;
    }
    let twice =
        format!("INSERT INTO notes (text) VALUES ('new {round}'); INSERT INTO notes (text) VALUES ('note {round}.0')");
    ensure!(database.execute(&twice)?.is_err(), "the second statement fails, so the first must not count");
    let rolled_back = format!("INSERT OR ROLLBACK INTO notes (text) VALUES ('note {round}.0')");
    ensure!(database.execute(&rolled_back)?.is_err(), "it is there already");
    Ok(20)
}
