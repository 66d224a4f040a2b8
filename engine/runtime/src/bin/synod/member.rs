//! `synod join` and `synod member`: who has a part in the log.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use synod::client::Client;
use synod::directory::{self, Bootstrapped};
use synod::{
    ConfigurationBody, FORMAT_MAX, GROUP, GroupId, Member, MemberChange, MembersReport, Newcomer, NodeId, Slot,
    StoredBody, StoredConfiguration,
};
use uuid::Uuid;

use crate::remote::{Certificates, GroupArgument, connect, find_leader};
use crate::setup::MemberArgument;
use crate::{StdoutError, UsageError};

/// How often to look whether a change is over.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Args)]
pub(crate) struct Join {
    /// The directory, as `synod init` made it.
    #[arg(long)]
    dir: PathBuf,
    /// The client address of any member, as IP:PORT.
    #[arg(long)]
    from: SocketAddr,
    #[command(flatten)]
    certificates: Certificates,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum MemberCommand {
    /// Show who has a part in the log, as one node knows it.
    List(List),
    /// Bring nodes in: as learners, then as members as soon as they have caught up.
    Add(Add),
    /// Let members go.
    Remove(Remove),
    /// Bring nodes in and let others go for them, in one change. A node that comes back with a new directory may replace
    /// itself: it is removed first, then added.
    Replace(Replace),
    /// Send the learners away again, before they are members.
    Cancel(Plain),
    /// Make the learners members now.
    Promote(Promote),
    /// Raise the format of the log, once every node runs a build that reads it. There is no way back: older builds can't read
    /// the log any more.
    RaiseFormat(RaiseFormat),
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// The node's client address, as IP:PORT.
    #[arg(long)]
    at: SocketAddr,
    #[command(flatten)]
    group: GroupArgument,
    #[command(flatten)]
    certificates: Certificates,
}

/// Where to ask, and how long.
#[derive(Debug, clap::Args)]
struct Asking {
    /// Client addresses of the nodes, as IP:PORT; the leader is found among them.
    #[arg(long, required = true, num_args = 1..)]
    at: Vec<SocketAddr>,
    /// Give up waiting for the change to be complete after this many seconds; it goes on nevertheless. Zero doesn't wait.
    #[arg(long, default_value_t = 60)]
    wait: u64,
    #[command(flatten)]
    group: GroupArgument,
    #[command(flatten)]
    certificates: Certificates,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Add {
    #[command(flatten)]
    asking: Asking,
    /// Who comes in: its id and incarnation as `synod init` printed them, and where it listens for its peers.
    #[arg(required = true, value_name = "ID:INCARNATION@IP:PORT")]
    nodes: Vec<NewcomerArgument>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Remove {
    #[command(flatten)]
    asking: Asking,
    /// Who goes.
    #[arg(required = true, value_name = "ID")]
    nodes: Vec<u32>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Replace {
    #[command(flatten)]
    asking: Asking,
    /// Who goes.
    #[arg(required = true, value_name = "ID")]
    nodes: Vec<u32>,
    /// Who comes in; once for each.
    #[arg(long, required = true, value_name = "ID:INCARNATION@IP:PORT")]
    with: Vec<NewcomerArgument>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Plain {
    #[command(flatten)]
    asking: Asking,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Promote {
    #[command(flatten)]
    asking: Asking,
    /// Even if they haven't caught up: until they have, they are members that can't help to choose what they lack.
    #[arg(long)]
    force: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RaiseFormat {
    #[command(flatten)]
    asking: Asking,
    /// The new format; the newest that this build knows, if it isn't given.
    #[arg(long, default_value_t = FORMAT_MAX, value_parser = clap::value_parser!(u16).range(2..))]
    to: u16,
}

#[derive(Clone, Copy, Debug)]
struct NewcomerArgument(Newcomer);

impl FromStr for NewcomerArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<NewcomerArgument, String> {
        let (member, address) = text.split_once('@').ok_or("expected ID:INCARNATION@IP:PORT")?;
        let MemberArgument(member) = member.parse()?;
        let address: SocketAddr =
            address.parse().map_err(|_| format!("{address:?} is not IP:PORT; names are not resolved"))?;
        if member.node == NodeId(0) || address.port() == 0 || address.ip().is_unspecified() {
            return Err("a node's id is 1 or higher, and its address one that others can reach".to_owned());
        }
        Ok(NewcomerArgument(Newcomer { member, address }))
    }
}

impl Join {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let own = directory::read_identity(&self.dir)?;
        let tls = self.certificates.load()?;
        let mut configurations = Vec::new();
        let mut newest_of_all = None;
        for log in 0..own.logs {
            let group = GroupId(GROUP.0 + log);
            let report = connect(self.from, tls.as_ref())?.in_group(group).members()?;
            let (slot, content) = newest(&report)?;
            let StoredBody { body, .. } = report.configurations.last().expect("its newest was read").clone();
            configurations.push((group, StoredConfiguration { slot, body }));
            newest_of_all.get_or_insert(content);
        }
        let content = newest_of_all.expect("a directory has a log at least");
        let identity = match directory::join_groups(&self.dir, &configurations)? {
            Bootstrapped::Now(identity) | Bootstrapped::Before(identity) => identity,
        };
        let mut out = io::stdout().lock();
        let mut print = || {
            writeln!(out, "cluster  {}", Uuid::from_bytes(content.cluster))?;
            writeln!(out, "member   {}:{}", own.node.0, Uuid::from_bytes(identity.incarnation))?;
            for Member { node, .. } in content.nodes() {
                match content.address_of(*node) {
                    Some(address) => writeln!(out, "peer     {}={address}", node.0)?,
                    None => writeln!(out, "peer     {} (name its address with --peer)", node.0)?,
                }
            }
            out.flush()
        };
        Ok(print().map_err(StdoutError)?)
    }
}

impl MemberCommand {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self {
            MemberCommand::List(list) => {
                let client = connect(list.at, list.certificates.load()?.as_ref())?;
                print_members(&client.in_group(list.group.id()).members()?)
            }
            MemberCommand::Add(add) => {
                let add_nodes = add.nodes.iter().map(|newcomer| newcomer.0).collect();
                add.asking.change(MemberChange::Replace { add: add_nodes, remove: Vec::new() })
            }
            MemberCommand::Remove(remove) => {
                let remove_nodes = remove.nodes.iter().copied().map(NodeId).collect();
                remove.asking.change(MemberChange::Replace { add: Vec::new(), remove: remove_nodes })
            }
            MemberCommand::Replace(replace) => replace.run(),
            MemberCommand::Cancel(cancel) => cancel.asking.change(MemberChange::Cancel),
            MemberCommand::Promote(promote) => promote.asking.change(MemberChange::Promote { force: promote.force }),
            MemberCommand::RaiseFormat(raise) => raise.asking.change(MemberChange::RaiseFormat { to: raise.to }),
        }
    }
}

impl Replace {
    fn run(self) -> anyhow::Result<()> {
        let add: Vec<Newcomer> = self.with.iter().map(|newcomer| newcomer.0).collect();
        let remove: Vec<NodeId> = self.nodes.iter().copied().map(NodeId).collect();
        if !add.iter().any(|newcomer| remove.contains(&newcomer.member.node)) {
            return self.asking.change(MemberChange::Replace { add, remove });
        }
        // One id can't stand for two stores: whoever replaces itself goes before it comes.
        if self.asking.wait == 0 {
            return Err(UsageError("a node that replaces itself is removed, then added: give --wait some time").into());
        }
        let settled = newest(&self.asking.leader()?.members()?)?.1;
        let still: Vec<NodeId> =
            remove.into_iter().filter(|node| settled.members.iter().any(|member| member.node == *node)).collect();
        if !still.is_empty() {
            self.asking.change(MemberChange::Replace { add: Vec::new(), remove: still })?;
        }
        self.asking.change(MemberChange::Replace { add, remove: Vec::new() })
    }
}

impl Asking {
    fn leader(&self) -> anyhow::Result<Client> {
        find_leader(&self.at, self.group.id(), self.certificates.load()?.as_ref())
    }

    /// Asks for a change, and waits until it is complete.
    fn change(&self, change: MemberChange) -> anyhow::Result<()> {
        let slot = self.leader()?.change_members(change)?;
        eprintln!("chosen at slot {slot}");
        if self.wait == 0 {
            return Ok(());
        }
        let deadline = Instant::now() + Duration::from_secs(self.wait);
        loop {
            // The leader may be another one by now, or on its way.
            let report = self.leader().and_then(|mut leader| Ok(leader.members()?));
            let waits = match &report {
                Ok(report) => waits_for(report)?,
                Err(error) => Some(error.to_string()),
            };
            let Some(waits) = waits else { return print_members(&report?) };
            if Instant::now() >= deadline {
                bail!("the change is chosen and goes on, but isn't complete after {} s: {waits}", self.wait);
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }
}

/// What a change still waits for.
fn waits_for(report: &MembersReport) -> anyhow::Result<Option<String>> {
    let (slot, content) = newest(report)?;
    let learners: Vec<String> = content.learners.iter().map(|learner| learner.node.0.to_string()).collect();
    let retiring: Vec<String> = report.retiring.iter().map(|node| node.0.to_string()).collect();
    Ok(if !learners.is_empty() {
        Some(format!("still learning: {}", learners.join(", ")))
    } else if report.is_pending {
        Some(format!("the configuration of slot {slot} doesn't rule yet"))
    } else if !retiring.is_empty() {
        Some(format!("must stay until the others hold everything: {}", retiring.join(", ")))
    } else {
        None
    })
}

fn newest(report: &MembersReport) -> anyhow::Result<(Slot, ConfigurationBody)> {
    report.newest().context("the node's configuration can't be read: is it of another version?")
}

fn print_members(report: &MembersReport) -> anyhow::Result<()> {
    let (slot, content) = newest(report)?;
    let configuration = content.to_configuration(slot)?;
    let mut out = io::stdout().lock();
    let mut print = || {
        let rules = if report.is_pending { "will rule" } else { "rules" };
        writeln!(out, "configuration  chosen at slot {slot}, {rules} from slot {}", configuration.rules_from())?;
        writeln!(
            out,
            "quorums        {} of {} to lead, {} to choose: {} may be down",
            content.prepare_quorum,
            content.members.len(),
            content.accept_quorum,
            configuration.tolerance()
        )?;
        writeln!(out, "format         {}", configuration.format)?;
        for (name, members) in [("member", &content.members), ("learner", &content.learners)] {
            for Member { node, incarnation } in members {
                let store = Uuid::from_bytes(*incarnation);
                let address = content.address_of(*node).map_or_else(|| "-".to_owned(), |address| address.to_string());
                writeln!(out, "{name:<14} {} {store} {address}", node.0)?;
            }
        }
        for node in &content.leaving {
            writeln!(out, "leaving        {} when the learners are members", node.0)?;
        }
        for node in &report.retiring {
            writeln!(out, "retiring       {} must not be switched off yet", node.0)?;
        }
        if report.is_removed {
            writeln!(out, "removed        the node that answers has no part in the log any more")?;
        }
        out.flush()
    };
    Ok(print().map_err(StdoutError)?)
}
