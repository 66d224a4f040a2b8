//! One cluster on which a scenario is played: what its commands do.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use synod_protocol::{BarrierOutcome, BodyKind, Change, Instant, NodeId, Role, Slot};

use crate::cluster::{Cluster, Losing};
use crate::disk::Ending;
use crate::faults::partitions::{Cut, Links};
use crate::network::node_id;
use crate::oracle::CommandId;
use crate::random::Random;
use crate::scenario::command::{Command, Fact, Length, Link, Span};
use crate::scenario::setup::Setup;

/// So often in an election timeout a wait looks whether it is over.
const LOOKS_PER_TIMEOUT: u32 = 50;

/// So often in an election timeout clients hand in a command while something is measured, unless it is said otherwise.
const TURNS_PER_TIMEOUT: u32 = 30;

/// A link that is cut and mended in turn.
struct Flap {
    links: Links,
    every: Duration,
    next: Instant,
    is_cut: bool,
}

/// A node that is killed and started in turn.
struct Storm {
    /// Whoever leads at that moment, if no node was named.
    node: Option<usize>,
    down: Option<usize>,
    every: Duration,
    next: Instant,
}

/// See the module documentation.
pub(super) struct Stage {
    cluster: Cluster,
    timeout: Duration,
    ends_open: bool,
    random: Random,
    names: Vec<(String, usize)>,
    /// Links that stay cut until they are mended.
    cut: Links,
    flaps: Vec<Flap>,
    storms: Vec<Storm>,
    /// Time between two turns of the clients at work, and when the next is.
    load: Option<(Duration, Instant)>,
    measured: BTreeMap<String, u64>,
    /// How many leaders there had been, and how many messages of each kind had been sent, when `count` was said.
    leaders_before: usize,
    sent_before: BTreeMap<String, u64>,
    output: String,
    waits: BTreeMap<usize, u64>,
}

impl Stage {
    pub(super) fn new(setup: &Setup, seed: u64, trace: bool) -> Stage {
        Stage {
            cluster: Cluster::staged(setup.options(seed, trace), setup.plan()),
            timeout: setup.election_timeout,
            ends_open: setup.ends_open,
            random: Random::stream(seed, "scenario"),
            names: Vec::new(),
            cut: Links::default(),
            flaps: Vec::new(),
            storms: Vec::new(),
            load: None,
            measured: BTreeMap::new(),
            leaders_before: 0,
            sent_before: BTreeMap::new(),
            output: String::new(),
            waits: BTreeMap::new(),
        }
    }

    pub(super) fn take_output(&mut self) -> String {
        std::mem::take(&mut self.output)
    }

    pub(super) fn violation(&self) -> Option<String> {
        self.cluster.violation().map(ToString::to_string)
    }

    pub(super) fn into_waits(self) -> BTreeMap<usize, u64> {
        self.waits
    }

    fn say(&mut self, words: impl AsRef<str>) {
        self.output.push_str(words.as_ref());
        self.output.push('\n');
    }

    /// Carries out a command, unless a checker has ended the run.
    pub(super) fn act(&mut self, line: usize, command: &Command) {
        if self.cluster.violation().is_some() {
            return;
        }
        if let Err(error) = self.try_act(line, command) {
            self.say(error);
        }
        self.say_violation();
    }

    fn say_violation(&mut self) {
        if let Some(property) = self.cluster.violation().map(|violation| violation.property) {
            self.say(format!("violates {property}"));
        }
    }

    /// The end: the cluster must come together, unless it is left as it is.
    pub(super) fn end(&mut self) {
        if self.cluster.violation().is_none() && !self.ends_open {
            self.cluster.conclude();
            self.say_violation();
        }
    }

    fn try_act(&mut self, line: usize, command: &Command) -> Result<(), String> {
        match command {
            Command::Start(names) => {
                for node in self.nodes(names)? {
                    if let Err(error) = self.cluster.boot(node) {
                        self.say(format!("{} doesn't start: {error}", self.name(node)));
                    }
                }
            }
            Command::Try(name) => {
                let node = self.node(name)?;
                // Why it doesn't start is held against what was done to its disk.
                let _ = self.cluster.boot(node);
            }
            Command::End(ending, names) => {
                self.nodes(names)?.into_iter().for_each(|node| self.cluster.end(node, *ending));
            }
            Command::Pause(names) => self.nodes(names)?.into_iter().for_each(|node| self.cluster.stand_still(node)),
            Command::Resume(names) => self.nodes(names)?.into_iter().for_each(|node| self.cluster.go_on(node)),
            Command::Storm(name, span) => {
                let node = if name == "leader" { None } else { Some(self.node(name)?) };
                let every = self.draw(*span);
                self.storms.push(Storm { node, down: None, every, next: self.cluster.time() });
            }
            Command::Renew(name) => {
                let node = self.node(name)?;
                self.cluster.lose_disk(node);
            }
            Command::Join(name) => {
                let node = self.node(name)?;
                if !self.cluster.let_join(node) {
                    self.say(format!("{} can't join: its old store counts, or nobody leads", self.name(node)));
                }
            }
            Command::Save(name) => {
                let node = self.node(name)?;
                self.cluster.save_directory(node);
            }
            Command::Restore(name) => {
                let node = self.node(name)?;
                self.cluster.restore_directory(node);
            }
            Command::Undo(name) => {
                let node = self.node(name)?;
                self.cluster.undo_restore(node);
            }
            Command::Wipe(name) => {
                let node = self.node(name)?;
                self.cluster.wipe(node);
            }
            Command::Swap(one, other) => {
                let (one, other) = (self.node(one)?, self.node(other)?);
                self.cluster.swap_disks(one, other);
            }
            Command::Rot(name, grain) => {
                let node = self.node(name)?;
                self.cluster.rot_at(node, *grain);
            }
            Command::Unreadable(name) => {
                let node = self.node(name)?;
                self.cluster.make_unreadable(node);
            }
            Command::Remove(name) => {
                let node = self.node(name)?;
                self.cluster.remove_file(node);
            }
            Command::Shorten(name) => {
                let node = self.node(name)?;
                self.cluster.shorten_file(node);
            }
            Command::Fail(name) => {
                let node = self.node(name)?;
                self.cluster.fail_next(node);
            }
            Command::Calm => {
                self.flaps.clear();
                self.storms.clear();
                self.apply_cuts();
            }
            Command::Lose { count, kind, from, to } => {
                let from = from.as_ref().map(|name| self.node(name)).transpose()?;
                let to = to.as_ref().map(|name| self.node(name)).transpose()?;
                self.cluster.lose(Losing { kind: kind.clone(), from, to, left: *count });
            }
            Command::CallLeader(name) => {
                let node = self.node("leader")?;
                self.names.push((name.clone(), node));
            }
            Command::CallOthers(names) => {
                let unnamed: Vec<usize> = (0..self.cluster.nodes().len())
                    .filter(|node| self.names.iter().all(|(_, named)| named != node))
                    .collect();
                self.names.extend(names.iter().cloned().zip(unnamed));
            }
            Command::Run(span) => {
                let time = self.draw(*span);
                self.advance(time);
            }
            Command::Submit(count, name) => {
                let node = self.node(name)?;
                if !self.cluster.hand_in(node, *count) {
                    self.say(format!("{} refuses: it doesn't lead", self.name(node)));
                }
            }
            Command::Load(span) => {
                let every = self.draw(*span);
                self.load = Some((every, self.cluster.time()));
            }
            Command::Idle => self.load = None,
            Command::Measure(name, span) => {
                let (time, before) = (self.draw(*span), self.acked());
                let load = self.load;
                self.load = load.or(Some((self.timeout / TURNS_PER_TIMEOUT, self.cluster.time())));
                self.advance(time);
                self.load = load;
                self.measured.insert(name.clone(), self.acked() - before);
            }
            Command::Interrupt(name, times) => {
                let node = self.node(name)?;
                self.cluster.interrupt(node, *times);
            }
            Command::Trim(slot, name) | Command::TrimPast(slot, name) => {
                let node = self.node(name)?;
                let agreed = match command {
                    Command::Trim(..) => self.cluster.trim_at(node, Slot(*slot)),
                    _ => self.cluster.trim_past_at(node, Slot(*slot)),
                };
                let answer = match agreed {
                    Ok(agreed) => format!("trims below {agreed}"),
                    Err(error) => format!("{} refuses: {error}", self.name(node)),
                };
                self.say(answer);
            }
            Command::Read(slot, name) => {
                let node = self.node(name)?;
                self.cluster.ask(node, Slot(*slot));
            }
            Command::Barrier(name) => {
                let node = self.node(name)?;
                if let Err(error) = self.cluster.begin_barrier(node) {
                    self.say(format!("{} refuses: {error}", self.name(node)));
                }
            }
            Command::Transfer(name) => {
                let (leader, target) = (self.node("leader")?, self.node(name)?);
                if let Err(error) = self.cluster.begin_transfer(leader, node_id(target)) {
                    let error = error.to_string().replace(&node_id(target).to_string(), &self.name(target));
                    self.say(format!("{} refuses: {error}", self.name(leader)));
                }
            }
            Command::Members { add, remove } => {
                let (add, remove) = (self.node_ids(add)?, self.node_ids(remove)?);
                self.change_members(Change::Replace { add, remove })?;
            }
            Command::Insist => self.change_members(Change::Promote { force: true })?,
            Command::Cancel => self.change_members(Change::Cancel)?,
            Command::Build(name, format_max) => {
                let node = self.node(name)?;
                self.cluster.change_build(node, *format_max);
            }
            Command::Raise => {
                let leader = self.node("leader")?;
                if let Err(error) = self.cluster.raise_format_at(leader) {
                    self.say(format!("{} refuses: {error}", self.name(leader)));
                }
            }
            Command::Count => self.count(),
            Command::Until(fact, span) => self.wait(line, fact, *span)?,
            Command::Expect(fact) => {
                if let Some(contrary) = self.contrary(fact, 0)? {
                    self.say(contrary);
                }
            }
            Command::Status => self.say_status(),
            Command::Log => self.say_log(),
            Command::Events(kinds) => {
                for line in self.cluster.take_story() {
                    if line.split_whitespace().nth(1).is_some_and(|kind| kinds.iter().any(|wanted| wanted == kind)) {
                        self.say(line.trim_start());
                    }
                }
            }
            Command::Cut(_)
            | Command::Isolate(_)
            | Command::Deaf(_)
            | Command::Mute(_)
            | Command::Hub(_)
            | Command::Groups(_)
            | Command::Chain(_)
            | Command::Mend(_)
            | Command::Flap(..) => self.change_links(command)?,
        }
        Ok(())
    }

    fn change_links(&mut self, command: &Command) -> Result<(), String> {
        match command {
            Command::Cut(link) => self.cut = self.cut.and(self.links(link)?),
            Command::Isolate(name) => {
                let node = self.node(name)?;
                self.cut_where(|from, to| from == node || to == node);
            }
            Command::Deaf(name) => {
                let node = self.node(name)?;
                self.cut_where(|_, to| to == node);
            }
            Command::Mute(name) => {
                let node = self.node(name)?;
                self.cut_where(|from, _| from == node);
            }
            Command::Hub(name) => {
                let node = self.node(name)?;
                self.cut_where(|from, to| from != node && to != node);
            }
            Command::Groups(groups) => {
                let groups = groups.iter().map(|names| self.nodes(names)).collect::<Result<Vec<_>, _>>()?;
                let group = |node| groups.iter().position(|group| group.contains(&node));
                self.cut_where(|from, to| group(from) != group(to));
            }
            Command::Chain(names) => {
                let chain = self.nodes(names)?;
                let place = |node| chain.iter().position(|link| *link == node);
                self.cut_where(|from, to| place(from).zip(place(to)).is_none_or(|(from, to)| from.abs_diff(to) > 1));
            }
            Command::Mend(None) => self.cut = Links::default(),
            Command::Mend(Some(link)) => {
                let links = self.links(link)?;
                let pairs = self.pairs();
                let mended = pairs.into_iter().filter(|(from, to)| links.contains(*from, *to));
                self.cut = mended.fold(self.cut, |cut, (from, to)| cut.without(from, to));
            }
            Command::Flap(link, span) => {
                let (links, every) = (self.links(link)?, self.draw(*span));
                self.flaps.push(Flap { links, every, next: self.cluster.time(), is_cut: false });
            }
            _ => unreachable!("the caller hands on what changes links"),
        }
        self.apply_cuts();
        Ok(())
    }

    fn pairs(&self) -> Vec<(usize, usize)> {
        let nodes = self.cluster.nodes().len();
        (0..nodes).flat_map(|from| (0..nodes).map(move |to| (from, to))).filter(|(from, to)| from != to).collect()
    }

    fn cut_where(&mut self, is_cut: impl Fn(usize, usize) -> bool) {
        let cut = self.pairs().into_iter().filter(|(from, to)| is_cut(*from, *to));
        self.cut = cut.fold(self.cut, |cut, (from, to)| cut.with(from, to));
    }

    fn links(&self, link: &Link) -> Result<Links, String> {
        let (from, to) = (self.node(&link.from)?, self.node(&link.to)?);
        let links = Links::default().with(from, to);
        Ok(if link.both_ways { links.with(to, from) } else { links })
    }

    fn apply_cuts(&mut self) {
        let flapping = self.flaps.iter().filter(|flap| flap.is_cut).map(|flap| flap.links);
        let links = flapping.fold(self.cut, Links::and);
        self.cluster.cut_links(Cut::Links(links));
    }

    fn draw(&mut self, span: Span) -> Duration {
        let timeout = self.timeout;
        let micros = |length| match length {
            Length::Time(time) => time.as_micros() as u64,
            Length::Timeouts(timeouts) => timeout.mul_f64(timeouts).as_micros() as u64,
        };
        let (least, most) = (micros(span.least), micros(span.most));
        Duration::from_micros(self.random.within(least..=most.max(least)))
    }

    /// Lets time go on, with whatever comes and goes meanwhile.
    fn advance(&mut self, time: Duration) {
        let end = self.cluster.time().plus(time);
        while self.cluster.time() < end && self.cluster.violation().is_none() {
            let dues = self.flaps.iter().map(|flap| flap.next);
            let dues = dues.chain(self.storms.iter().map(|storm| storm.next)).chain(self.load.map(|(_, next)| next));
            let until = dues.min().map_or(end, |next| next.min(end));
            self.cluster.run_until(until);
            self.let_happen(self.cluster.time());
        }
    }

    /// Does what is due.
    fn let_happen(&mut self, now: Instant) {
        let mut flapped = false;
        for flap in self.flaps.iter_mut().filter(|flap| flap.next <= now) {
            flap.is_cut = !flap.is_cut;
            flap.next = now.plus(flap.every);
            flapped = true;
        }
        if flapped {
            self.apply_cuts();
        }
        let leader = self.leader();
        for storm in self.storms.iter_mut().filter(|storm| storm.next <= now) {
            storm.next = now.plus(storm.every);
            if let Some(node) = storm.down.take() {
                // Nothing damages its log here: whoever can't start is found at the end of the scenario.
                let _ = self.cluster.boot(node);
            } else if let Some(node) = storm.node.or(leader) {
                self.cluster.end(node, Ending::Kill);
                storm.down = Some(node);
            }
        }
        if let Some((every, next)) = self.load.filter(|(_, next)| *next <= now) {
            self.cluster.hand_everybody();
            self.load = Some((every, next.plus(every).max(now)));
        }
    }

    /// How the last barrier of a node ended, unless one is under way.
    fn last_barrier(&self, name: &str) -> Result<Option<BarrierOutcome>, String> {
        let running = self.cluster.nodes()[self.node(name)?].running.as_ref();
        Ok(running.filter(|running| running.barriers.is_empty()).and_then(|running| running.barrier_ended))
    }

    fn wait(&mut self, line: usize, fact: &Fact, span: Span) -> Result<(), String> {
        let (started, patience) = (self.cluster.time(), self.draw(span));
        let commands_before = self.cluster.oracle().commands_count();
        loop {
            let contrary = self.contrary(fact, commands_before)?;
            let waited = self.cluster.time().since(started);
            if contrary.is_none() {
                self.waits.insert(line, (waited.as_micros() * 1000 / self.timeout.as_micros().max(1)) as u64);
            }
            match contrary {
                None => return Ok(()),
                Some(contrary) if waited >= patience => {
                    self.say(format!("line {line}: {contrary}"));
                    return Ok(());
                }
                Some(_) if self.cluster.violation().is_some() => return Ok(()),
                Some(_) => {}
            }
            if *fact == Fact::Usable {
                self.cluster.hand_everybody();
            }
            self.advance(self.timeout / LOOKS_PER_TIMEOUT);
        }
    }

    /// What is so instead of the fact; `None` if it holds.
    fn contrary(&self, fact: &Fact, commands_before: u64) -> Result<Option<String>, String> {
        let unless = |holds: bool, contrary: String| Ok((!holds).then_some(contrary));
        match fact {
            Fact::Usable => {
                let oracle = self.cluster.oracle();
                let acked = |id| oracle.command(CommandId(id)).is_some_and(|state| state.acked.is_some());
                let usable = (commands_before..oracle.commands_count()).any(acked);
                unless(usable, "not usable: no new command was acknowledged".into())
            }
            Fact::Leader => unless(self.leader().is_some(), "nobody leads".into()),
            Fact::NoLeader => unless(self.leader().is_none(), "somebody leads".into()),
            Fact::LeaderIs(name) => {
                let node = self.node(name)?;
                let is = self.leader().map_or("nobody".into(), |leader| self.name(leader));
                unless(self.leader() == Some(node), format!("{is} leads, not {name}"))
            }
            Fact::Chosen(count) => {
                let chosen = self.chosen();
                unless(chosen >= *count, format!("{chosen} commands are chosen, not {count}"))
            }
            Fact::Complete(name) => {
                let end = self.cluster.oracle().chosen_end();
                let lagging = self
                    .nodes(std::slice::from_ref(name))?
                    .into_iter()
                    .find(|node| self.cluster.nodes()[*node].status().is_none_or(|status| status.mark.slot < end));
                unless(lagging.is_none(), format!("{} lacks chosen slots", self.name(lagging.unwrap_or(0))))
            }
            Fact::Members(names) => {
                let mut members = self.node_ids(names)?;
                members.sort_unstable();
                let is = self.cluster.members();
                unless(is.as_ref() == Some(&members), format!("the members are {is:?}, not {members:?}"))
            }
            Fact::Format(format) => {
                let is = |node: usize| self.cluster.nodes()[node].status().map(|status| status.configuration.format);
                let other = (0..self.cluster.nodes().len()).find(|node| is(*node).map(u64::from) != Some(*format));
                unless(other.is_none(), format!("{} has another format", self.name(other.unwrap_or(0))))
            }
            Fact::Stopped(name) => {
                let node = self.node(name)?;
                let stopped = self.cluster.nodes()[node].stranger.is_some();
                unless(stopped, format!("{name} hasn't stopped"))
            }
            Fact::Interrupted(name) => {
                let left = self.cluster.interruptions_left(self.node(name)?);
                unless(left == 0, format!("{} has {left} interruptions to come", self.name(self.node(name)?)))
            }
            Fact::Reached(name) => {
                let ended = self.last_barrier(name)?;
                let reached = matches!(ended, Some(BarrierOutcome::Reached(_)));
                unless(reached, format!("the last barrier at {name}: {ended:?}"))
            }
            Fact::Lost(name) => {
                let ended = self.last_barrier(name)?;
                unless(ended == Some(BarrierOutcome::Lost), format!("the last barrier at {name}: {ended:?}"))
            }
            Fact::LeadersAtMost(most) => {
                let leaders = (self.cluster.led().len() - self.leaders_before) as u64;
                unless(leaders <= *most, format!("{leaders} new leaders, more than {most}"))
            }
            Fact::SentAtMost { kind, most } => {
                let sent = self.sent(kind) - self.sent_before.get(kind).copied().unwrap_or(0);
                unless(sent <= *most, format!("{sent} messages {kind}, more than {most}"))
            }
            Fact::Share { measured, percent, of } => {
                let value = |name: &str| self.measured.get(name).copied().ok_or(format!("{name} isn't measured"));
                let (part, whole) = (value(measured)?, value(of)?);
                let enough = whole > 0 && part * 100 >= whole * percent;
                unless(enough, format!("{measured} is {part}, less than {percent} % of {of}, {whole}"))
            }
        }
    }

    fn count(&mut self) {
        self.leaders_before = self.cluster.led().len();
        let kinds = ["pre-vote", "prepare", "accept", "accepted", "fetch", "chosen"];
        self.sent_before = kinds.into_iter().map(|kind| (kind.to_string(), self.sent(kind))).collect();
    }

    fn sent(&self, kind: &str) -> u64 {
        let name = format!("sent {}", kind.replace("-reply", " reply").replace("-body", " body"));
        self.cluster.stats().coverage.count(&name)
    }

    fn acked(&self) -> u64 {
        self.cluster.oracle().commands().filter(|(_, state)| state.acked.is_some()).count() as u64
    }

    fn chosen(&self) -> u64 {
        self.cluster.oracle().commands().filter(|(_, state)| state.delivered.is_some()).count() as u64
    }

    /// Who leads at the highest ballot.
    fn leader(&self) -> Option<usize> {
        let leads = |node: usize| {
            let status = self.cluster.nodes()[node].status()?;
            (status.role == Role::Leader).then_some((status.leader, node))
        };
        (0..self.cluster.nodes().len()).filter_map(leads).max().map(|(_, node)| node)
    }

    fn node(&self, name: &str) -> Result<usize, String> {
        if name == "leader" {
            return self.leader().ok_or_else(|| "nobody leads".into());
        }
        if let Some((_, node)) = self.names.iter().find(|(known, _)| known == name) {
            return Ok(*node);
        }
        let found = (0..self.cluster.nodes().len()).find(|node| node_id(*node).to_string() == name);
        found.ok_or_else(|| format!("there is no node {name}"))
    }

    fn nodes(&self, names: &[String]) -> Result<Vec<usize>, String> {
        if names == ["all"] {
            return Ok((0..self.cluster.nodes().len()).collect());
        }
        names.iter().map(|name| self.node(name)).collect()
    }

    fn node_ids(&self, names: &[String]) -> Result<Vec<NodeId>, String> {
        Ok(self.nodes(names)?.into_iter().map(node_id).collect())
    }

    fn change_members(&mut self, change: Change) -> Result<(), String> {
        let leader = self.node("leader")?;
        if let Err(error) = self.cluster.change_members_at(leader, change) {
            self.say(format!("{} refuses: {error}", self.name(leader)));
        }
        Ok(())
    }

    fn name(&self, node: usize) -> String {
        let named = self.names.iter().find(|(_, named)| *named == node);
        named.map_or_else(|| node_id(node).to_string(), |(name, _)| name.clone())
    }

    fn say_status(&mut self) {
        for index in 0..self.cluster.nodes().len() {
            let node = &self.cluster.nodes()[index];
            let name = self.name(index);
            let state = match node.status() {
                None => "is down".to_string(),
                Some(_) if node.paused_until.is_some() => "stands still".into(),
                Some(status) => {
                    let role = match (status.role, status.leader) {
                        (Role::Leader, _) => "leads".to_string(),
                        (Role::Recovering, _) => "recovers".into(),
                        (Role::Candidate, _) => "stands for election".into(),
                        (_, Some(leader)) => format!("follows {}", self.name(leader.node.0 as usize - 1)),
                        (_, None) => "follows nobody".into(),
                    };
                    format!("{role}, chosen below {}, kept from {}", status.mark.slot, status.trimmed)
                }
            };
            self.say(format!("{name} {state}"));
        }
    }

    fn say_log(&mut self) {
        let mut lines = String::new();
        for chosen in self.cluster.oracle().chosen_from(Slot::FIRST) {
            let kind = match chosen.body.kind {
                BodyKind::Commands => "commands".to_string(),
                BodyKind::NoOp => "no-op".into(),
                BodyKind::Trim { upto } => format!("trim below {upto}"),
                BodyKind::Configuration { .. } => "configuration".into(),
                BodyKind::Session => "session command".into(),
                BodyKind::Ticket => "ticket command".into(),
            };
            writeln!(lines, "{}..{} {kind}", chosen.body.first, chosen.body.end()).expect("strings take everything");
        }
        self.output.push_str(&lines);
    }
}
