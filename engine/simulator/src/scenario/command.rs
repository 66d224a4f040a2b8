//! The commands of scenarios. A node is `n1`, or `leader` (who leads at the highest ballot at this moment), or a name
//! given by `call`. A time is `300us`, `300ms`, `3s`, or `3T`, so many election timeouts; `1T..3T` is drawn per seed.
//!
//! | command | what happens |
//! |---|---|
//! | `start n1 n2`, `start all` | nodes start; one that can't says why |
//! | `try W` | the node starts, or doesn't and stays down |
//! | `kill W`, `power W` | processes end; machines lose power |
//! | `pause W`, `resume W` | processes stand still, and go on |
//! | `storm W every D` | the node, or whoever leads then, is killed and started again in turn; until `calm` |
//! | `renew W`, `join W` | the disk of a node that is down is lost, and its directory made anew; it joins as whoever leads tells |
//! | `save W`, `restore W`, `undo W` | a copy of the node's directory is taken; put in place of it; its own is put back |
//! | `wipe W`, `swap W W` | the disk of a node that is down is emptied; two are exchanged |
//! | `rot W bit`, `rot W sector`, `rot W block` | something on the node's disk changes |
//! | `unreadable W` | a block of its disk can't be read any more |
//! | `remove W`, `shorten W` | a file of its directory is deleted, or cut off |
//! | `fail W` | the next write or sync of the node fails |
//! | `cut A B`, `cut A -> B` | the link is cut, in both directions or one |
//! | `isolate W`, `deaf W`, `mute W`, `hub W` | all its links; what it would hear; what it says; all other links |
//! | `groups A B \| C`, `chain A B C` | links between groups; links of all but neighbours |
//! | `mend`, `mend A B`, `mend A -> B` | links are whole again |
//! | `flap A B every D`, `flap A -> B every D` | the link is cut and mended in turn; until `calm` |
//! | `lose 1 accept from A to B` | so many messages of this kind are lost |
//! | `call leader L`, `call others A B` | names for nodes, from now on; the others in order |
//! | `run D` | time goes on |
//! | `submit 3`, `submit 3 at W` | a client hands in commands |
//! | `load every D` | clients hand in commands all the time; until `idle` |
//! | `measure NAME D` | under load for this long; the commands acknowledged are remembered |
//! | `trim N at W`, `read N at W` | asks for a trim below slot N, or for slot N |
//! | `trim past N at W` | asks for a trim below slot N, whatever some members lack |
//! | `interrupt W N` | the node loses power in its next N installs |
//! | `barrier W` | a client wants to read nothing stale at W |
//! | `transfer W` | whoever leads is asked to hand over to W |
//! | `members add W remove W` | whoever leads is asked to bring nodes in and let others go; either may be left out |
//! | `insist`, `cancel` | whoever leads is asked to make learners members, caught up or not; or to send them away |
//! | `build W 2` | the node ends, and has a build that reads formats up to 2 from its next start on; with the setting `upgrade`, nodes begin with 1 |
//! | `raise` | whoever leads is asked for the newest format |
//! | `count` | `expect` counts leaders and messages from here on |
//! | `until CONDITION within D` | time goes on until it is so; says it, or that it isn't |
//! | `expect FACT` | says it if it isn't so |
//! | `status`, `log`, `events KIND...` | prints what nodes think; what is chosen; what happened since the last such |
//!
//! Conditions and facts: `usable` (a command handed in from now on is acknowledged), `leader`, `no leader`,
//! `leader is W`, `chosen N` (commands in all), `complete W` (it has delivered all that is chosen), `complete all`,
//! `format N` (that is what rules everywhere), `members W W W` (they are who rules, and no change is under way),
//! `interrupted W` (as often as was asked for), `stopped W` (a peer found out that it isn't what it was), `reached W`, `lost W` (the last barrier there), `leaders <= N` (new ones since `count`), `sent accept <= N` (messages since `count`), `A >= 50% of B` (measured).

use std::str::FromStr;
use std::time::Duration;

use crate::disk::Ending;
use crate::disk::damage::Grain;

/// A node, or some, as scenarios name them.
pub type Name = String;

/// A time, perhaps in election timeouts, perhaps drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    pub(super) least: Length,
    pub(super) most: Length,
}

/// A time that is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Length {
    /// So long.
    Time(Duration),
    /// So many election timeouts.
    Timeouts(f64),
}

/// A link, as scenarios name it.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    pub(super) from: Name,
    pub(super) to: Name,
    pub(super) both_ways: bool,
}

/// What can be waited for or expected.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the module documentation describes them")]
pub enum Fact {
    Usable,
    Leader,
    NoLeader,
    LeaderIs(Name),
    Chosen(u64),
    Complete(Name),
    Members(Vec<Name>),
    Format(u64),
    Reached(Name),
    /// A node has lost power in all the installs in which it was to.
    Interrupted(Name),
    /// A peer has found out that a node isn't what it was.
    Stopped(Name),
    Lost(Name),
    LeadersAtMost(u64),
    SentAtMost {
        kind: String,
        most: u64,
    },
    Share {
        measured: String,
        percent: u64,
        of: String,
    },
}

/// One line of a scenario.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the module documentation describes them")]
pub enum Command {
    Start(Vec<Name>),
    Try(Name),
    End(Ending, Vec<Name>),
    Pause(Vec<Name>),
    Resume(Vec<Name>),
    Storm(Name, Span),
    Renew(Name),
    Join(Name),
    Save(Name),
    Restore(Name),
    Undo(Name),
    Wipe(Name),
    Swap(Name, Name),
    Rot(Name, Grain),
    Unreadable(Name),
    Remove(Name),
    Shorten(Name),
    Fail(Name),
    Cut(Link),
    Isolate(Name),
    Deaf(Name),
    Mute(Name),
    Hub(Name),
    Groups(Vec<Vec<Name>>),
    Chain(Vec<Name>),
    Mend(Option<Link>),
    Flap(Link, Span),
    Calm,
    Lose {
        count: u32,
        kind: String,
        from: Option<Name>,
        to: Option<Name>,
    },
    CallLeader(Name),
    CallOthers(Vec<Name>),
    Run(Span),
    Submit(u64, Name),
    Load(Span),
    Idle,
    Measure(String, Span),
    Trim(u64, Name),
    /// Asks a node for a trim below a slot, whatever some members lack.
    TrimPast(u64, Name),
    /// A node loses power in so many installs.
    Interrupt(Name, u32),
    Read(u64, Name),
    Barrier(Name),
    Transfer(Name),
    Members {
        add: Vec<Name>,
        remove: Vec<Name>,
    },
    Insist,
    Cancel,
    Build(Name, u16),
    Raise,
    Count,
    Until(Fact, Span),
    Expect(Fact),
    Status,
    Log,
    Events(Vec<String>),
}

impl FromStr for Command {
    type Err = String;

    fn from_str(line: &str) -> Result<Command, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let names = |words: &[&str]| words.iter().map(|word| (*word).to_string()).collect::<Vec<Name>>();
        let name = |word: &str| word.to_string();
        Ok(match words[..] {
            ["start", ref rest @ ..] => Command::Start(names(rest)),
            ["try", node] => Command::Try(name(node)),
            ["kill", ref rest @ ..] => Command::End(Ending::Kill, names(rest)),
            ["power", ref rest @ ..] => Command::End(Ending::PowerFailure, names(rest)),
            ["pause", ref rest @ ..] => Command::Pause(names(rest)),
            ["resume", ref rest @ ..] => Command::Resume(names(rest)),
            ["storm", node, "every", span] => Command::Storm(name(node), span.parse()?),
            ["renew", node] => Command::Renew(name(node)),
            ["join", node] => Command::Join(name(node)),
            ["save", node] => Command::Save(name(node)),
            ["restore", node] => Command::Restore(name(node)),
            ["undo", node] => Command::Undo(name(node)),
            ["wipe", node] => Command::Wipe(name(node)),
            ["swap", one, other] => Command::Swap(name(one), name(other)),
            ["rot", node, "bit"] => Command::Rot(name(node), Grain::Bit),
            ["rot", node, "sector"] => Command::Rot(name(node), Grain::Sector),
            ["rot", node, "block"] => Command::Rot(name(node), Grain::Block),
            ["unreadable", node] => Command::Unreadable(name(node)),
            ["remove", node] => Command::Remove(name(node)),
            ["shorten", node] => Command::Shorten(name(node)),
            ["fail", node] => Command::Fail(name(node)),
            ["cut", ref link @ ..] => Command::Cut(parse_link(link)?),
            ["isolate", node] => Command::Isolate(name(node)),
            ["deaf", node] => Command::Deaf(name(node)),
            ["mute", node] => Command::Mute(name(node)),
            ["hub", node] => Command::Hub(name(node)),
            ["groups", ref rest @ ..] => Command::Groups(rest.split(|word| *word == "|").map(names).collect()),
            ["chain", ref rest @ ..] => Command::Chain(names(rest)),
            ["mend"] => Command::Mend(None),
            ["mend", ref link @ ..] => Command::Mend(Some(parse_link(link)?)),
            ["flap", ref link @ .., "every", span] => Command::Flap(parse_link(link)?, span.parse()?),
            ["calm"] => Command::Calm,
            ["lose", count, kind, ref ends @ ..] => {
                let (from, to) = match *ends {
                    [] => (None, None),
                    ["from", from] => (Some(name(from)), None),
                    ["to", to] => (None, Some(name(to))),
                    ["from", from, "to", to] => (Some(name(from)), Some(name(to))),
                    _ => return Err(format!("no link of messages: {line}")),
                };
                Command::Lose { count: parse_number(count)? as u32, kind: kind.to_string(), from, to }
            }
            ["call", "leader", node] => Command::CallLeader(name(node)),
            ["call", "others", ref rest @ ..] => Command::CallOthers(names(rest)),
            ["run", span] => Command::Run(span.parse()?),
            ["submit", count] => Command::Submit(parse_number(count)?, name("leader")),
            ["submit", count, "at", node] => Command::Submit(parse_number(count)?, name(node)),
            ["load", "every", span] => Command::Load(span.parse()?),
            ["idle"] => Command::Idle,
            ["measure", measured, span] => Command::Measure(name(measured), span.parse()?),
            ["trim", "past", slot, "at", node] => Command::TrimPast(parse_number(slot)?, name(node)),
            ["interrupt", node, times] => Command::Interrupt(name(node), parse_number(times)? as u32),
            ["trim", slot, "at", node] => Command::Trim(parse_number(slot)?, name(node)),
            ["read", slot, "at", node] => Command::Read(parse_number(slot)?, name(node)),
            ["barrier", node] => Command::Barrier(name(node)),
            ["transfer", node] => Command::Transfer(name(node)),
            ["members", "add", ref rest @ ..] => {
                let place = rest.iter().position(|word| *word == "remove").unwrap_or(rest.len());
                Command::Members { add: names(&rest[..place]), remove: names(rest.get(place + 1..).unwrap_or(&[])) }
            }
            ["members", "remove", ref rest @ ..] => Command::Members { add: Vec::new(), remove: names(rest) },
            ["insist"] => Command::Insist,
            ["cancel"] => Command::Cancel,
            ["build", node, format] => Command::Build(name(node), parse_number(format)? as u16),
            ["raise"] => Command::Raise,
            ["count"] => Command::Count,
            ["until", ref fact @ .., "within", span] => Command::Until(parse_fact(fact)?, span.parse()?),
            ["expect", ref fact @ ..] => Command::Expect(parse_fact(fact)?),
            ["status"] => Command::Status,
            ["log"] => Command::Log,
            ["events", ref kinds @ ..] => Command::Events(names(kinds)),
            _ => return Err(format!("no such command: {line}")),
        })
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(word: &str) -> Result<Span, String> {
        let (least, most) = word.split_once("..").unwrap_or((word, word));
        Ok(Span { least: parse_length(least)?, most: parse_length(most)? })
    }
}

fn parse_length(word: &str) -> Result<Length, String> {
    match word.strip_suffix('T') {
        Some(timeouts) => Ok(Length::Timeouts(timeouts.parse().map_err(|_| format!("{word} is no time"))?)),
        None => parse_duration(word).map(Length::Time),
    }
}

/// Reads a time like `300us`, `300ms` or `3s`.
pub(super) fn parse_duration(word: &str) -> Result<Duration, String> {
    let units = [("us", 1), ("ms", 1000), ("s", 1_000_000)];
    let unit = units.iter().find_map(|(unit, micros)| word.strip_suffix(unit).map(|number| (number, micros)));
    let (number, micros) = unit.ok_or_else(|| format!("{word} is no time"))?;
    Ok(Duration::from_micros(parse_number(number)? * micros))
}

fn parse_number(word: &str) -> Result<u64, String> {
    word.parse().map_err(|_| format!("{word} is no number"))
}

fn parse_link(words: &[&str]) -> Result<Link, String> {
    let (from, to, both_ways) = match *words {
        [one, other] => (one, other, true),
        [from, "->", to] => (from, to, false),
        _ => return Err(format!("no link: {}", words.join(" "))),
    };
    Ok(Link { from: from.to_string(), to: to.to_string(), both_ways })
}

fn parse_fact(words: &[&str]) -> Result<Fact, String> {
    Ok(match *words {
        ["usable"] => Fact::Usable,
        ["leader"] => Fact::Leader,
        ["no", "leader"] => Fact::NoLeader,
        ["leader", "is", node] => Fact::LeaderIs(node.to_string()),
        ["chosen", count] => Fact::Chosen(parse_number(count)?),
        ["complete", node] => Fact::Complete(node.to_string()),
        ["members", ref rest @ ..] => Fact::Members(rest.iter().map(ToString::to_string).collect()),
        ["format", format] => Fact::Format(parse_number(format)?),
        ["stopped", node] => Fact::Stopped(node.to_string()),
        ["interrupted", node] => Fact::Interrupted(node.to_string()),
        ["reached", node] => Fact::Reached(node.to_string()),
        ["lost", node] => Fact::Lost(node.to_string()),
        ["leaders", "<=", count] => Fact::LeadersAtMost(parse_number(count)?),
        ["sent", kind, "<=", most] => Fact::SentAtMost { kind: kind.to_string(), most: parse_number(most)? },
        [measured, ">=", share, "of", of] => {
            let percent = share.strip_suffix('%').ok_or_else(|| format!("{share} is no share"))?;
            Fact::Share { measured: measured.to_string(), percent: parse_number(percent)?, of: of.to_string() }
        }
        _ => return Err(format!("no such condition: {}", words.join(" "))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_commands() {
        let link = |both_ways| Link { from: "n1".into(), to: "L".into(), both_ways };
        let span = |length| Span { least: length, most: length };
        let cases = [
            ("cut n1 L", Command::Cut(link(true))),
            ("cut n1 -> L", Command::Cut(link(false))),
            ("flap n1 L every 1T", Command::Flap(link(true), span(Length::Timeouts(1.0)))),
            ("groups n1 | n2 n3", Command::Groups(vec![vec!["n1".into()], vec!["n2".into(), "n3".into()]])),
            ("run 300ms", Command::Run(span(Length::Time(Duration::from_millis(300))))),
            ("until chosen 3 within 4T", Command::Until(Fact::Chosen(3), span(Length::Timeouts(4.0)))),
        ];
        for (line, command) in cases {
            assert_eq!(line.parse(), Ok(command));
        }
        for line in ["dance", "run soon", "run 3", "cut n1", "expect luck", "lose 1 accept by n1"] {
            assert!(line.parse::<Command>().is_err(), "{line}");
        }
    }
}
