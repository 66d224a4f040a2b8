//! A replicated bank: accounts in a redb database on each of three nodes, kept equal by the log.
//!
//! `cargo run --release -p synod-examples --bin bank` opens accounts, moves money, kills nodes as `kill -9` does while
//! money moves, starts them again, and shows that no money was made or lost and all three databases are the same. One node
//! stays away for so long that the others trim what it lacks: it comes back by a snapshot.
//! The chapter `engine/docs/embedding.md` walks through this file.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;

use anyhow::ensure;
use clap::{Parser, Subcommand};
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use synod::Slot;
use synod::machine::{Commands, StateMachine};
use synod_examples::{NodeArguments, Store, Trio, serve};
use thiserror::Error;

/// Whose account, and how much is on it.
const ACCOUNTS: TableDefinition<'_, &str, u64> = TableDefinition::new("accounts");

/// One row: the first slot that isn't applied.
const POSITION: TableDefinition<'_, (), u64> = TableDefinition::new("position");

/// The state machine: what the log drives.
struct Bank {
    database: Database,
}

/// Why the bank can't go on.
#[derive(Debug, Error)]
enum BankError {
    #[error(transparent)]
    Database(#[from] redb::Error),
    #[error("the snapshot can't be read or written: {0}")]
    Snapshot(#[from] std::io::Error),
    #[error("the snapshot has a line that is no account: {0:?}")]
    Line(String),
}

/// redb has an error for each operation; here they all mean that the disk failed.
fn disk(error: impl Into<redb::Error>) -> BankError {
    BankError::Database(error.into())
}

impl Store for Bank {
    fn open(directory: &Path) -> Result<Bank, BankError> {
        let database = Database::create(directory.join("bank.redb")).map_err(disk)?;
        let transaction = database.begin_write().map_err(disk)?;
        transaction.open_table(ACCOUNTS).map_err(disk)?;
        transaction.open_table(POSITION).map_err(disk)?;
        transaction.commit().map_err(disk)?;
        Ok(Bank { database })
    }

    fn query(&self, line: &str) -> Result<String, String> {
        let accounts = self.accounts().map_err(|error| error.to_string())?;
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["balance", name] => Ok(accounts.get(name).copied().unwrap_or(0).to_string()),
            ["total"] => Ok(accounts.values().map(|balance| u128::from(*balance)).sum::<u128>().to_string()),
            _ => Err("ask for `balance NAME` or `total`".to_owned()),
        }
    }
}

impl StateMachine for Bank {
    /// The new balance, or why the command was refused.
    type Output = Result<String, String>;
    type Error = BankError;

    fn position(&self) -> Result<Slot, BankError> {
        let transaction = self.database.begin_read().map_err(disk)?;
        let position = transaction.open_table(POSITION).map_err(disk)?.get(()).map_err(disk)?;
        Ok(position.map_or(Slot::FIRST, |position| Slot(position.value())))
    }

    fn apply(&mut self, commands: &Commands<'_>) -> Result<Vec<Self::Output>, BankError> {
        let transaction = self.database.begin_write().map_err(disk)?;
        let mut outputs = Vec::new();
        {
            let mut accounts = transaction.open_table(ACCOUNTS).map_err(disk)?;
            for command in commands.iter() {
                outputs.push(execute(&mut accounts, command.bytes)?);
            }
            // In the same transaction: after a crash either both are there or neither.
            transaction.open_table(POSITION).map_err(disk)?.insert((), commands.end().0).map_err(disk)?;
        }
        transaction.commit().map_err(disk)?;
        Ok(outputs)
    }

    fn snapshot(&self, into: &mut dyn Write) -> Result<(), BankError> {
        for (name, balance) in self.accounts()? {
            writeln!(into, "{name} {balance}")?;
        }
        Ok(())
    }

    fn restore(&mut self, position: Slot, from: &mut dyn Read) -> Result<(), BankError> {
        let mut text = String::new();
        from.read_to_string(&mut text)?;
        let transaction = self.database.begin_write().map_err(disk)?;
        {
            let mut accounts = transaction.open_table(ACCOUNTS).map_err(disk)?;
            accounts.retain(|_, _| false).map_err(disk)?;
            for line in text.lines() {
                let wrong = || BankError::Line(line.to_owned());
                let (name, balance) = line.split_once(' ').ok_or_else(wrong)?;
                let balance: u64 = balance.parse().map_err(|_| wrong())?;
                accounts.insert(name, balance).map_err(disk)?;
            }
            transaction.open_table(POSITION).map_err(disk)?.insert((), position.0).map_err(disk)?;
        }
        transaction.commit().map_err(disk)
    }
}

impl Bank {
    fn accounts(&self) -> Result<BTreeMap<String, u64>, BankError> {
        let transaction = self.database.begin_read().map_err(disk)?;
        let table = transaction.open_table(ACCOUNTS).map_err(disk)?;
        let mut accounts = BTreeMap::new();
        for row in table.iter().map_err(disk)? {
            let (name, balance) = row.map_err(disk)?;
            accounts.insert(name.value().to_owned(), balance.value());
        }
        Ok(accounts)
    }
}

/// Executes one command. It is in the log already, so a command that makes no sense is refused like one that isn't
/// covered: the same way on every node.
fn execute(accounts: &mut redb::Table<'_, &str, u64>, command: &[u8]) -> Result<Result<String, String>, BankError> {
    let text = String::from_utf8_lossy(command);
    let words: Vec<&str> = text.split_whitespace().collect();
    let Some(amount) = words.last().and_then(|amount| amount.parse::<u64>().ok()) else {
        return Ok(Err("a command ends with an amount".to_owned()));
    };
    let balance_of = |name: &str| -> Result<u64, BankError> {
        Ok(accounts.get(name).map_err(disk)?.map_or(0, |balance| balance.value()))
    };
    // What the accounts are to hold, or why not.
    let changes = match words[..] {
        ["deposit", name, _] => balance_of(name)?.checked_add(amount).map(|balance| vec![(name, balance)]),
        ["withdraw", name, _] => balance_of(name)?.checked_sub(amount).map(|balance| vec![(name, balance)]),
        ["transfer", from, to, _] if from != to => {
            match (balance_of(from)?.checked_sub(amount), balance_of(to)?.checked_add(amount)) {
                (Some(less), Some(more)) => Some(vec![(from, less), (to, more)]),
                _ => None,
            }
        }
        _ => return Ok(Err(format!("{text:?} is no command"))),
    };
    let Some(changes) = changes else { return Ok(Err(format!("{text:?} isn't covered"))) };
    let balance = changes[0].1;
    for (name, balance) in changes {
        accounts.insert(name, balance).map_err(disk)?;
    }
    Ok(Ok(balance.to_string()))
}

/// A bank on three nodes.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Option<What>,
    /// Where the nodes keep their data; it must be empty, and on a disk. Default: a directory below this one, removed
    /// at the end.
    #[arg(long)]
    dir: Option<std::path::PathBuf>,
    /// How many nodes are killed, one after the other.
    #[arg(long, default_value_t = 3)]
    kills: usize,
}

#[derive(Debug, Subcommand)]
enum What {
    /// One node of the bank.
    #[command(hide = true)]
    Node(NodeArguments),
}

fn main() -> anyhow::Result<()> {
    let level = tracing_subscriber::filter::LevelFilter::ERROR;
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(level).init();
    let arguments = Arguments::parse();
    match arguments.command {
        Some(What::Node(node)) => serve::<Bank>(node),
        None => {
            let temporary = tempfile::Builder::new().prefix("bank-").tempdir_in(".")?;
            run(arguments.dir.as_deref().unwrap_or(temporary.path()), arguments.kills)
        }
    }
}

fn run(root: &Path, kills: usize) -> anyhow::Result<()> {
    const CUSTOMERS: [&str; 4] = ["anna", "bert", "cleo", "dora"];
    const DEPOSIT: u64 = 1000;
    let mut bank = Trio::start(&std::env::current_exe()?, root)?;
    for customer in CUSTOMERS {
        bank.execute(&format!("deposit {customer} {DEPOSIT}"))?.map_err(anyhow::Error::msg)?;
    }
    let total = DEPOSIT * CUSTOMERS.len() as u64;
    println!("{} customers have {total} in all; node {} leads", CUSTOMERS.len(), bank.leader());

    for round in 0..kills {
        transfers(&mut bank, &CUSTOMERS, round)?;
        // By turns the leader and another one.
        let victim = if round % 2 == 0 { bank.leader() } else { bank.leader() % 3 + 1 };
        bank.kill(victim)?;
        transfers(&mut bank, &CUSTOMERS, round + 1)?;
        let found = bank.ask("fresh total")?;
        println!("node {victim} was killed, node {} leads: {found} in all", bank.leader());
        ensure!(found == total.to_string(), "money was made or lost: {found} instead of {total}");
        bank.restart(victim)?;
    }

    stay_away(&mut bank)?;

    // A fresh question at each node makes it catch up.
    for node in 1..=3 {
        let found = bank.ask_node(node, "fresh total")?;
        ensure!(found == total.to_string(), "node {node} has {found} instead of {total}");
    }
    bank.stop()?;
    let databases = (1..=3).map(|node| Bank::open(bank.directory(node))?.accounts()).collect::<Result<Vec<_>, _>>()?;
    ensure!(databases[0] == databases[1] && databases[1] == databases[2], "the databases differ: {databases:?}");
    let balances: Vec<_> = CUSTOMERS.iter().map(|customer| (customer, databases[0].get(*customer))).collect();
    println!("three equal databases: {balances:?}");
    Ok(())
}

/// A node that doesn't lead is away until the others' logs begin behind what it has applied.
fn stay_away(bank: &mut Trio) -> anyhow::Result<()> {
    let away = bank.leader() % 3 + 1;
    let (_, position) = bank.log(away)?;
    bank.kill(away)?;
    let mut opened = 0;
    while bank.log(bank.leader())?.0 <= position {
        // A long name is a long command, and the log has its limit.
        let name = format!("{opened}-{}", "x".repeat(32 << 10));
        bank.execute(&format!("deposit {name} 0"))?.map_err(anyhow::Error::msg)?;
        opened += 1;
    }
    println!("node {away} was away while {opened} accounts were opened; what it lacks is trimmed");
    bank.restart(away)
}

/// Everybody gives something to the next one; more than some have.
fn transfers(bank: &mut Trio, customers: &[&str], round: usize) -> anyhow::Result<()> {
    for step in 0..40 {
        let (from, to) = (customers[step % 4], customers[(step + 1 + round % 3) % 4]);
        // A refusal is an answer too.
        let _refused_or_not = bank.execute(&format!("transfer {from} {to} {}", 7 * step + 1))?;
    }
    Ok(())
}
