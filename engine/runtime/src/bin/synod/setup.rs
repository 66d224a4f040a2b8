//! `synod init`, `synod bootstrap`, `synod probe`: before a node can serve.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use synod::directory::{self, Bootstrapped, Genesis, InitOptions, NodeIdentity};
use synod::{Configuration, ConfigurationBody, GROUP, Member, NodeId};
use uuid::Uuid;

use crate::{StdoutError, UsageError};

#[derive(Debug, clap::Args)]
pub(crate) struct Init {
    /// The directory; made if it isn't there, and must be empty.
    #[arg(long)]
    dir: PathBuf,
    /// The node's id, 1 or higher.
    #[arg(long)]
    node: u32,
    /// Groups of the node, each with a log of its own; the same on all nodes of a cluster, for ever.
    #[arg(long, default_value_t = InitOptions::default().logs)]
    groups: u32,
    /// Segment files to make now for each group, so that none has to be made while the node works.
    #[arg(long, default_value_t = InitOptions::default().files)]
    segments: u32,
    /// Bytes of a segment; a power of two from 64 KiB to 1 GiB, for ever.
    #[arg(long, default_value_t = InitOptions::default().segment_bytes)]
    segment_size: u64,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Bootstrap {
    /// The directory of a member on this machine; with --member, the one that is bootstrapped.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The cluster's uuid; a new one by default. All members need the same.
    #[arg(long, requires = "dir")]
    cluster: Option<Uuid>,
    /// A member as `init` printed it, this node included; once for each.
    #[arg(long = "member", value_name = "ID:INCARNATION", requires = "cluster")]
    members: Vec<MemberArgument>,
    /// The directory of a member on this machine; once for each member, all are bootstrapped together.
    #[arg(long = "member-dir", value_name = "DIR", conflicts_with_all = ["dir", "cluster", "members"])]
    member_dirs: Vec<PathBuf>,
    /// How far proposals may run ahead of the chosen prefix, in slots; for ever.
    #[arg(long, default_value_t = Configuration::ALPHA_DEFAULT)]
    alpha: u32,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Probe {
    /// The directory that a node would use.
    #[arg(long)]
    dir: PathBuf,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct MemberArgument(pub(crate) Member);

impl FromStr for MemberArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<MemberArgument, String> {
        let (id, incarnation) = text.split_once(':').ok_or("expected ID:INCARNATION, as printed by `synod init`")?;
        let node = id.parse().map(NodeId).map_err(|_| format!("{id:?} is not a node id"))?;
        let incarnation = Uuid::parse_str(incarnation).map_err(|_| format!("{incarnation:?} is not a uuid"))?;
        Ok(MemberArgument(Member { node, incarnation: incarnation.into_bytes() }))
    }
}

impl Init {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let options = InitOptions {
            segment_bytes: self.segment_size,
            files: self.segments,
            logs: self.groups,
            ..InitOptions::default()
        };
        let identity = directory::init(&self.dir, NodeId(self.node), &options, &mut |progress| {
            tracing::debug!(files = progress.files_done, of = progress.files, "making segment files");
        })?;
        print(&format!(
            "node         {}\nincarnation  {}\nmember       {}:{}\n",
            identity.node.0,
            Uuid::from_bytes(identity.incarnation),
            identity.node.0,
            Uuid::from_bytes(identity.incarnation),
        ))
    }
}

impl Bootstrap {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let (directories, members, cluster) = self.participants()?;
        let genesis = make_genesis(members, cluster, self.alpha)?;
        for directory in &directories {
            let identity = match directory::bootstrap(directory, &genesis)? {
                Bootstrapped::Now(identity) | Bootstrapped::Before(identity) => identity,
            };
            tracing::debug!(node = identity.node.0, directory = %directory.display(), "bootstrapped");
        }
        print(&format!("cluster  {}\n", Uuid::from_bytes(genesis.configuration.cluster)))
    }

    /// Which directories to write, who is a member, and the cluster's uuid.
    fn participants(&self) -> anyhow::Result<(Vec<PathBuf>, Vec<Member>, [u8; 16])> {
        if self.member_dirs.is_empty() {
            let Some(directory) = &self.dir else {
                let missing = "name the members: --member-dir DIR for each, or --dir, --cluster and --member for each";
                return Err(UsageError(missing).into());
            };
            if self.members.is_empty() {
                return Err(UsageError("name every member with --member ID:INCARNATION, this node included").into());
            }
            let missing = "give the cluster's uuid with --cluster, the same on every member";
            let cluster = self.cluster.ok_or(UsageError(missing))?;
            let members = self.members.iter().map(|member| member.0).collect();
            return Ok((vec![directory.clone()], members, cluster.into_bytes()));
        }
        let identities: Vec<NodeIdentity> =
            self.member_dirs.iter().map(|directory| identity_of(directory)).collect::<anyhow::Result<_>>()?;
        if let Some((one, other)) = identities.iter().zip(&identities[1..]).find(|(one, other)| one.logs != other.logs)
        {
            let (one, other) = ((one.node.0, one.logs), (other.node.0, other.logs));
            anyhow::bail!(
                "node {} was made with {} groups and node {} with {}: make all with the same --groups",
                one.0,
                one.1,
                other.0,
                other.1
            );
        }
        let members = identities
            .iter()
            .map(|identity| Member { node: identity.node, incarnation: identity.incarnation })
            .collect();
        // Repeated after an interruption, it goes on with the cluster that it had begun.
        let begun = identities.iter().find_map(|identity| identity.cluster);
        Ok((self.member_dirs.clone(), members, begun.unwrap_or_else(|| Uuid::new_v4().into_bytes())))
    }
}

fn identity_of(directory: &Path) -> anyhow::Result<NodeIdentity> {
    Ok(directory::read_identity(directory)?)
}

fn make_genesis(mut members: Vec<Member>, cluster: [u8; 16], alpha: u32) -> anyhow::Result<Genesis> {
    members.sort_unstable();
    let nodes = members.iter().map(|member| member.node).collect();
    let quorums = Configuration::genesis(nodes, alpha)?;
    let configuration = ConfigurationBody {
        cluster,
        lineage: 0,
        members,
        prepare_quorum: quorums.prepare_quorum,
        accept_quorum: quorums.accept_quorum,
        alpha,
        ..ConfigurationBody::default()
    };
    Ok(Genesis { group: GROUP, configuration })
}

impl Probe {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let report = synod::probe(&self.dir)?;
        print(&format!("{report}\n"))
    }
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(StdoutError)?;
    Ok(())
}
