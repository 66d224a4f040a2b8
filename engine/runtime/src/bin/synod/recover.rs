//! `synod recover`: what to do when a quorum is lost for good.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;

use anyhow::bail;
use synod::directory::{self, SurvivingDirectory};
use synod::{NodeId, Slot};
use synod_wal::lineage::{LineagePlan, Survivor, plan_lineage};
use uuid::Uuid;

use crate::{StdoutError, UsageError};

#[derive(Debug, clap::Args)]
pub(crate) struct Recover {
    /// Begin the cluster again from what is left of it, as a lineage of its own that never mixes with the old one. What only
    /// the lost members had is lost.
    #[arg(long, required = true)]
    new_lineage: bool,
    /// The directory of a member that is left; once for each. It is only read.
    #[arg(long, required = true, value_name = "DIR")]
    from: Vec<PathBuf>,
    /// The directory of the new lineage's first member; must not be there yet, or be empty.
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// The first member's id; that of the first directory given by default.
    #[arg(long, value_name = "ID")]
    node: Option<u32>,
    /// Write it. Takes the slot at which the kept log ends, as it is shown without this.
    #[arg(long, value_name = "SLOT")]
    confirm: Option<u64>,
}

impl Recover {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let surviving: Vec<SurvivingDirectory> =
            self.from.iter().map(|path| SurvivingDirectory::read(path)).collect::<Result<_, _>>()?;
        let survivors: Vec<Survivor<'_>> = surviving.iter().map(SurvivingDirectory::survivor).collect();
        let plan = plan_lineage(&survivors)?;
        let node = self.node.map_or(survivors[0].identity.node, NodeId);
        if node.0 == 0 {
            return Err(UsageError("a node's number is 1 or higher").into());
        }
        let mut told = describe(&surviving, &plan);
        let end = plan.end.slot;
        match self.confirm {
            Some(confirmed) if Slot(confirmed) == end => {
                let identity = directory::begin_lineage(&self.to, node, &plan, &survivors)?;
                let member = Uuid::from_bytes(identity.incarnation);
                _ = writeln!(told, "written    {}\nmember     {}:{member}", self.to.display(), identity.node.0);
                print(&told)
            }
            Some(confirmed) => bail!("the kept log ends at slot {end}, not at {confirmed}; nothing was written"),
            None => {
                print(&told)?;
                bail!(
                    "nothing was written. If {} of the members will never come back, and what only they had may be lost, \
                     say --confirm {end}",
                    plan.configuration.1.members.len() - survivors.len()
                )
            }
        }
    }
}

fn describe(surviving: &[SurvivingDirectory], plan: &LineagePlan) -> String {
    let (chosen_at, configuration) = &plan.configuration;
    let members: Vec<String> = configuration.members.iter().map(|member| member.node.0.to_string()).collect();
    let mut told = format!(
        "cluster    {}, lineage {} becomes {}\nmembers    {} by slot {chosen_at}, of which {} are needed\n",
        Uuid::from_bytes(configuration.cluster),
        plan.lineage - 1,
        plan.lineage,
        members.join(", "),
        plan.needed,
    );
    for directory in surviving {
        let survivor = directory.survivor();
        let findings = match survivor.log.findings.len() {
            0 => String::new(),
            count => format!("; {count} findings, see `synod-tools verify`"),
        };
        _ = writeln!(told, "left       node {} in {}{findings}", survivor.identity.node.0, directory.path().display());
    }
    _ = writeln!(
        told,
        "kept       slots {} to {}, {} bodies",
        plan.base.slot.max(Slot::FIRST),
        plan.end.slot.0.saturating_sub(1),
        plan.bodies()
    );
    _ = writeln!(told, "certain    below slot {}: chosen for sure", plan.certain.slot);
    if plan.end.slot > plan.certain.slot {
        _ = writeln!(
            told,
            "uncertain  slots {}..{}: accepted here and kept; whether they were chosen isn't known",
            plan.certain.slot, plan.end.slot
        );
    }
    for slots in &plan.dropped {
        _ = writeln!(
            told,
            "dropped    slots {}..{}: accepted here, but something before is missing",
            slots.start, slots.end
        );
    }
    _ = writeln!(
        told,
        "lost       whatever was chosen from slot {} on, or differently from slot {} on: only lost members know",
        plan.end.slot, plan.certain.slot
    );
    told
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(StdoutError)?;
    Ok(())
}
