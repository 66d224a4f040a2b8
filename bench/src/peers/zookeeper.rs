//! ZooKeeper as Debian packages it: three servers on this machine, each with its directory, every transaction synced before it
//! counts (`forceSync`, its default), driven over its own protocol by sessions that keep requests in flight.
//!
//! All sessions are with the leader, which is as fast as ZooKeeper gets: a follower would pass the request on. Each writes to
//! a node of its own.

mod session;

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use self::session::Session;
use super::servers::{self, Servers, connect};
use super::tally::{Phase, Tally};
use super::{COMMAND_BYTES, Peer};
use crate::cluster::free_addresses;
use crate::options::ClusterOptions;
use crate::session::Root;

pub(super) const NAME: &str = "ZooKeeper";
const JAR: &str = "/usr/share/java/zookeeper.jar";
/// Tells errors, if it is there.
const LOGGER: &str = "/usr/share/java/slf4j-simple.jar";
/// Logs of transactions are preallocated, 64 MiB at a time.
const DISK_BYTES: u64 = 4 << 30;
/// The virtual machine has compiled what matters after about so long.
const WARM_UP: Duration = Duration::from_secs(3);

/// Sessions, requests of each in flight, and commands of a request.
const LOADS: [(u32, u32, u32); 4] = [(8, 4, 100), (24, 167, 1), (8, 125, 1), (1, 1, 1)];

/// Why it can't be measured here.
pub(super) fn absent() -> Option<String> {
    let java = servers::find("java").is_none().then_some("no java in the search path");
    let jar = (!Path::new(JAR).is_file()).then_some("no /usr/share/java/zookeeper.jar");
    java.or(jar).map(|what| format!("{NAME}: {what} (apt-get install zookeeper)"))
}

/// Measures every load on one cluster.
pub(super) fn measure(options: &ClusterOptions, duration: Duration) -> Result<Vec<Peer>> {
    let root = Root::make(options, DISK_BYTES)?;
    let mut cluster = start(root.path())?;
    let (port, version) = cluster.servers.wait_for("ZooKeeper had a leader", || leader(&cluster.ports))?;
    // The first figures of a virtual machine that has just begun aren't told.
    let (sessions, in_flight, batch) = LOADS[0];
    drive(port, sessions, in_flight, batch, WARM_UP.min(duration * 2))?;
    let mut peers = Vec::new();
    for (sessions, in_flight, batch) in LOADS {
        let (tally, took) = drive(port, sessions, in_flight, batch, duration)?;
        let what = if batch == 1 { "setData".to_owned() } else { format!("multi of {batch} setData") };
        let settings = format!(
            "{COMMAND_BYTES} B, {what}, {sessions} session(s) at the leader, {} in flight, forceSync",
            sessions * in_flight
        );
        peers.push(tally.peer(NAME, &version, settings, took));
    }
    Ok(peers)
}

struct Running {
    servers: Servers,
    ports: Vec<u16>,
}

fn start(root: &Path) -> Result<Running> {
    let addresses = free_addresses(9)?;
    let port = |place: usize| addresses[place].port();
    let quorum: Vec<String> =
        (0..3).map(|place| format!("server.{}=127.0.0.1:{}:{}", place + 1, port(place), port(3 + place))).collect();
    let ports: Vec<u16> = (6..9).map(port).collect();
    let mut servers = Servers::default();
    for (place, port) in ports.iter().enumerate() {
        let directory = root.join(format!("zookeeper-{}", place + 1));
        fs::create_dir(&directory).with_context(|| format!("making {}", directory.display()))?;
        let configuration = configure(&directory, place + 1, *port, &quorum)?;
        let mut java = Command::new("java");
        java.args(["-Xms1g", "-Xmx1g", "-Dzookeeper.jmx.log4j.disable=true"])
            .args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", &format!("{JAR}:{LOGGER}")])
            .arg("org.apache.zookeeper.server.quorum.QuorumPeerMain")
            .arg(configuration)
            .current_dir(&directory);
        servers.start(&mut java, &directory)?;
    }
    Ok(Running { servers, ports })
}

fn configure(directory: &Path, id: usize, port: u16, quorum: &[String]) -> Result<PathBuf> {
    let data = directory.join("data");
    fs::create_dir(&data).with_context(|| format!("making {}", data.display()))?;
    let write = |name: &Path, text: &str| fs::write(name, text).with_context(|| format!("writing {}", name.display()));
    write(&data.join("myid"), &format!("{id}\n"))?;
    let configuration = directory.join("zoo.cfg");
    write(
        &configuration,
        &format!(
            "tickTime=2000\ninitLimit=10\nsyncLimit=5\ndataDir={}\nclientPort={port}\nclientPortAddress=127.0.0.1\n\
             maxClientCnxns=0\nglobalOutstandingLimit=100000\nadmin.enableServer=false\nforceSync=yes\n\
             4lw.commands.whitelist=srvr\n{}\n",
            data.display(),
            quorum.join("\n")
        ),
    )?;
    Ok(configuration)
}

/// The leader's port and version, once there is a leader that serves.
fn leader(ports: &[u16]) -> Option<(u16, String)> {
    ports.iter().find_map(|port| {
        let mut stream = connect(*port).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
        stream.write_all(b"srvr").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let version = answer.strip_prefix("Zookeeper version: ")?.split('-').next()?.to_owned();
        answer.contains("Mode: leader").then_some((*port, version))
    })
}

/// One load for so long.
fn drive(port: u16, sessions: u32, in_flight: u32, batch: u32, duration: Duration) -> Result<(Tally, Duration)> {
    let sessions: Vec<Session> =
        (0..sessions).map(|number| Session::open(port, number, batch)).collect::<Result<_>>()?;
    let phase = Phase::default();
    thread::scope(|scope| {
        let running: Vec<_> = sessions
            .into_iter()
            .map(|session| {
                let phase = &phase;
                scope.spawn(move || session.run(in_flight, phase).inspect_err(|_| phase.end()))
            })
            .collect();
        let took = phase.pass(duration);
        let mut whole = Tally::default();
        for session in running {
            whole = whole.add(&session.join().map_err(|_| anyhow!("a session with ZooKeeper panicked"))??);
        }
        Ok((whole, took))
    })
}
