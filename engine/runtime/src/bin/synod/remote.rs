//! `synod status`, `synod append`, `synod read`: talking to a node's client port.

use std::io::{self, BufRead as _, BufReader, BufWriter, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use synod::client::{Client, ClientError, ClientRefusal, NodeRole, StatusReport};
use synod::tls::{ClientTls, TlsFiles};
use synod::{Batch, BodyKind, GROUP, GroupId, SharedBody, Slot};

use crate::{StdoutError, UsageError};

/// How long an append looks for a leader.
const LEADER_PATIENCE: Duration = Duration::from_secs(10);

/// How long a connection may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// A batch ends when it has this many bytes, or no further line has been read yet.
const BATCH_BYTES: usize = 64 << 10;

/// How much is asked for at once when reading.
const READ_BYTES: u32 = 1 << 20;

/// How long to wait at the tail before asking again.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(20);

#[derive(Debug, clap::Args)]
pub(crate) struct Status {
    /// The node's client address, as IP:PORT.
    #[arg(long)]
    at: SocketAddr,
    #[command(flatten)]
    group: GroupArgument,
    #[command(flatten)]
    certificates: Certificates,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Append {
    /// Client addresses of the nodes, as IP:PORT; the leader is found among them.
    #[arg(long, required = true, num_args = 1..)]
    at: Vec<SocketAddr>,
    #[command(flatten)]
    group: GroupArgument,
    #[command(flatten)]
    certificates: Certificates,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Read {
    /// The node's client address, as IP:PORT.
    #[arg(long)]
    at: SocketAddr,
    /// First slot to print.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Print at most this many commands.
    #[arg(long)]
    limit: Option<u64>,
    /// Wait for more at the end of the log.
    #[arg(long)]
    follow: bool,
    #[command(flatten)]
    group: GroupArgument,
    #[command(flatten)]
    certificates: Certificates,
}

/// Which log, where the nodes have several.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct GroupArgument {
    /// The group, where the cluster has several.
    #[arg(long, value_name = "NUMBER", default_value_t = GROUP.0)]
    group: u32,
}

impl GroupArgument {
    pub(crate) fn id(self) -> GroupId {
        GroupId(self.group)
    }
}

impl Status {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let tls = self.certificates.load()?;
        let mut client = connect(self.at, tls.as_ref())?.in_group(self.group.id());
        let (status, figures) = (client.status()?, client.figures()?);
        let mut out = io::stdout().lock();
        print_status(&mut out, &status).map_err(StdoutError)?;
        for line in figures.lines() {
            let (name, value) = line.split_once(' ').unwrap_or((line, ""));
            // Escaped by the node already, but this may be another one.
            let (name, value) = (name.escape_debug().to_string(), value.escape_debug());
            writeln!(out, "{name:<18} {value}").map_err(StdoutError)?;
        }
        Ok(())
    }
}

fn print_status(out: &mut impl Write, status: &StatusReport) -> io::Result<()> {
    let role = match status.role {
        NodeRole::Follower => "follower",
        NodeRole::Candidate => "candidate",
        NodeRole::Leader => "leader",
        NodeRole::Halted => "halted",
    };
    let leader = status.leader.map_or_else(|| "none".to_owned(), |leader| leader.0.to_string());
    writeln!(out, "node       {}", status.node.0)?;
    writeln!(out, "role       {role}")?;
    writeln!(out, "leader     {leader}")?;
    writeln!(out, "ballot     {}", status.ballot)?;
    writeln!(out, "available  {}", status.available)?;
    writeln!(out, "end        {}", status.mark.slot)?;
    writeln!(out, "chain      {:?}", status.mark.chain)?;
    for peer in status.nodes.iter().filter(|peer| peer.node != status.node) {
        writeln!(out, "peer       {} has up to {}", peer.node.0, peer.prefix)?;
    }
    out.flush()
}

impl Append {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let tls = self.certificates.load()?;
        let group = self.group.id();
        let mut client = find_leader(&self.at, group, tls.as_ref())?;
        let mut input = BufReader::with_capacity(BATCH_BYTES, io::stdin().lock());
        let mut output = BufWriter::new(io::stdout().lock());
        let mut batch = Batch::new();
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = input.read_until(b'\n', &mut line).context("can't read stdin")?;
            if read > 0 {
                batch.push(line.strip_suffix(b"\n").unwrap_or(&line));
            }
            // A typed line is appended at once, a file in large batches.
            let more_is_there = input.buffer().contains(&b'\n') && batch.bytes().len() < BATCH_BYTES;
            if !batch.is_empty() && (read == 0 || !more_is_there) {
                let slots = append(&mut client, &self.at, group, tls.as_ref(), &batch)?;
                for slot in slots.start.0..slots.end.0 {
                    writeln!(output, "{slot}").map_err(StdoutError)?;
                }
                output.flush().map_err(StdoutError)?;
                batch.clear();
            }
            if read == 0 {
                return Ok(());
            }
        }
    }
}

/// Appends at whoever leads; follows the leader as long as nothing was proposed.
fn append(
    client: &mut Client,
    at: &[SocketAddr],
    group: GroupId,
    tls: Option<&ClientTls>,
    batch: &Batch,
) -> anyhow::Result<synod::SlotRange> {
    let deadline = Instant::now() + LEADER_PATIENCE;
    loop {
        match client.append_batch(batch) {
            Ok(slots) => return Ok(slots),
            Err(ClientError::Refused(
                ClientRefusal::NotLeader { .. } | ClientRefusal::NoLeader | ClientRefusal::Overloaded { .. },
            )) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(50));
                *client = find_leader(at, group, tls)?;
            }
            Err(error) => return Err(error).context("the lines of this batch may not be appended"),
        }
    }
}

pub(crate) fn find_leader(at: &[SocketAddr], group: GroupId, tls: Option<&ClientTls>) -> anyhow::Result<Client> {
    let deadline = Instant::now() + LEADER_PATIENCE;
    loop {
        let mut problem = None;
        for address in at {
            let connected = connect(*address, tls).map(|client| client.in_group(group));
            match connected.and_then(|mut client| Ok((client.status()?, client))) {
                Ok((status, client)) if status.role == NodeRole::Leader => return Ok(client),
                Ok((status, _)) if at.len() == 1 => match status.leader {
                    Some(leader) => bail!("node {} leads, not node {}; append there", leader.0, status.node.0),
                    None => problem = Some(anyhow::anyhow!("there is no leader")),
                },
                Ok(_) => {}
                Err(error) => problem = Some(error),
            }
        }
        if Instant::now() >= deadline {
            return Err(problem.unwrap_or_else(|| anyhow::anyhow!("none of the given nodes leads")));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

impl Read {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let tls = self.certificates.load()?;
        let mut client = connect(self.at, tls.as_ref())?.in_group(self.group.id());
        let mut output = BufWriter::new(io::stdout().lock());
        let mut next = Slot(self.from).max(Slot::FIRST);
        let mut left = self.limit.unwrap_or(u64::MAX);
        while left > 0 {
            let answer = client.read_from(next, READ_BYTES)?;
            for body in &answer.bodies {
                left -= print_body(&mut output, body, next, left)?;
            }
            next = answer.next;
            if answer.bodies.is_empty() {
                output.flush().map_err(StdoutError)?;
                if !self.follow {
                    break;
                }
                std::thread::sleep(FOLLOW_INTERVAL);
            }
        }
        output.flush().map_err(StdoutError)?;
        Ok(())
    }
}

/// Prints the commands from `from` on, at most `limit`; how many those were.
fn print_body(out: &mut impl Write, body: &SharedBody, from: Slot, limit: u64) -> anyhow::Result<u64> {
    if body.handle().kind != BodyKind::Commands {
        return Ok(0);
    }
    let first = body.handle().first;
    let commands = body.commands().with_context(|| format!("the body at slot {first} can't be read"))?;
    let mut printed = 0;
    for (slot, command) in (first.0..).zip(commands.iter()) {
        if slot < from.0 || printed == limit {
            continue;
        }
        let command = command.with_context(|| format!("the command at slot {slot} can't be read"))?;
        // Escaped, because a command may be anything, and a terminal takes orders.
        writeln!(out, "{slot}\t{}", command.escape_ascii()).map_err(StdoutError)?;
        printed += 1;
    }
    Ok(printed)
}

/// Certificates for a cluster that asks for them.
#[derive(Debug, clap::Args)]
pub(crate) struct Certificates {
    /// PEM file of those who sign the certificates of the cluster's nodes; also SYNOD_TLS_AUTHORITIES.
    #[arg(long, value_name = "PATH")]
    tls_authorities: Option<PathBuf>,
    /// PEM file of the client's own certificate, which says what it may do; also SYNOD_TLS_CERTIFICATE.
    #[arg(long, value_name = "PATH")]
    tls_certificate: Option<PathBuf>,
    /// PEM file of its private key; also SYNOD_TLS_KEY.
    #[arg(long, value_name = "PATH")]
    tls_key: Option<PathBuf>,
}

impl Certificates {
    /// All of them, or none.
    pub(crate) fn load(&self) -> anyhow::Result<Option<ClientTls>> {
        let given = |flag: &Option<PathBuf>, variable: &str| {
            flag.clone().or_else(|| std::env::var_os(variable).map(PathBuf::from))
        };
        match (
            given(&self.tls_authorities, "SYNOD_TLS_AUTHORITIES"),
            given(&self.tls_certificate, "SYNOD_TLS_CERTIFICATE"),
            given(&self.tls_key, "SYNOD_TLS_KEY"),
        ) {
            (None, None, None) => Ok(None),
            (Some(authorities), Some(certificate), Some(key)) => {
                let tls = ClientTls::load(&TlsFiles { authorities, certificate, key });
                Ok(Some(tls.context("can't use the certificates for TLS")?))
            }
            _ => Err(UsageError("TLS needs --tls-authorities, --tls-certificate and --tls-key").into()),
        }
    }
}

pub(crate) fn connect(at: SocketAddr, tls: Option<&ClientTls>) -> anyhow::Result<Client> {
    Client::connect_with(at, CONNECT_DEADLINE, tls).with_context(|| format!("can't talk to {at}"))
}
