//! etcd as Debian packages it: three members on this machine, each with its directory, every entry synced before it counts (its
//! default), driven over gRPC by connections with requests in flight.
//!
//! All connections are with the leader, as with `--target-leader` of etcd's own benchmark. Each request in flight has a key
//! of its own, so that the database stays small.

mod wire;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use tokio::runtime::{Builder, Runtime};
use tonic::transport::{Channel, Endpoint};

use self::wire::{Put, Transaction};
use super::servers::{self, Servers};
use super::tally::{Phase, Tally};
use super::{COMMAND_BYTES, Peer};
use crate::cluster::free_addresses;
use crate::options::ClusterOptions;
use crate::session::Root;

pub(super) const NAME: &str = "etcd";
const DISK_BYTES: u64 = 4 << 30;
const PATIENCE: Duration = Duration::from_secs(30);

/// Connections, requests of each in flight, and commands of a request.
const LOADS: [(u32, u32, u32); 3] = [(16, 64, 1), (8, 2, 100), (1, 1, 1)];

/// Why it can't be measured here.
pub(super) fn absent() -> Option<String> {
    servers::find(NAME)
        .is_none()
        .then(|| format!("{NAME}: no such program in the search path (apt-get install etcd-server)"))
}

/// Measures every load on one cluster.
pub(super) fn measure(options: &ClusterOptions, duration: Duration) -> Result<Vec<Peer>> {
    let root = Root::make(options, DISK_BYTES)?;
    // One thread: the cores are the servers'.
    let runtime = Builder::new_current_thread().enable_all().build().context("a runtime for etcd's clients")?;
    let (mut servers, ports) = start(root.path())?;
    let (port, version) = servers.wait_for("etcd had a leader", || leader(&runtime, &ports))?;
    let mut peers = Vec::new();
    for (connections, in_flight, batch) in LOADS {
        let (tally, took) = drive(&runtime, port, (connections, in_flight, batch), duration)?;
        let what = if batch == 1 { "put".to_owned() } else { format!("txn of {batch} puts") };
        let settings = format!(
            "{COMMAND_BYTES} B, {what}, gRPC, {connections} connection(s) to the leader, {} in flight, default fsync",
            connections * in_flight
        );
        peers.push(tally.peer(NAME, &version, settings, took));
    }
    Ok(peers)
}

fn start(root: &Path) -> Result<(Servers, Vec<u16>)> {
    let addresses = free_addresses(6)?;
    let (peers, clients) = addresses.split_at(3);
    let cluster: Vec<String> =
        peers.iter().enumerate().map(|(place, address)| format!("node-{place}=http://{address}")).collect();
    let mut servers = Servers::default();
    for (place, (peer, client)) in peers.iter().zip(clients).enumerate() {
        let directory = root.join(format!("etcd-{place}"));
        fs::create_dir(&directory).with_context(|| format!("making {}", directory.display()))?;
        let (peer, client) = (format!("http://{peer}"), format!("http://{client}"));
        let mut etcd = Command::new(NAME);
        etcd.args(["--name", &format!("node-{place}")])
            .arg("--data-dir")
            .arg(directory.join("data"))
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--initial-cluster", &cluster.join(","), "--initial-cluster-state", "new"])
            .args(["--logger", "zap", "--log-level", "error", "--quota-backend-bytes", "8589934592"])
            .current_dir(&directory);
        servers.start(&mut etcd, &directory)?;
    }
    Ok((servers, clients.iter().map(std::net::SocketAddr::port).collect()))
}

fn endpoint(port: u16) -> Result<Endpoint> {
    Ok(Endpoint::from_shared(format!("http://127.0.0.1:{port}"))?.tcp_nodelay(true).timeout(PATIENCE))
}

/// The leader's port and version, once there is a leader.
fn leader(runtime: &Runtime, ports: &[u16]) -> Option<(u16, String)> {
    ports.iter().find_map(|port| {
        let status = runtime.block_on(async {
            let channel = endpoint(*port)?.connect().await?;
            wire::status(channel).await
        });
        let status = status.ok()?;
        status.leads().then_some((*port, status.version))
    })
}

/// One load for so long.
fn drive(
    runtime: &Runtime,
    port: u16,
    (connections, in_flight, batch): (u32, u32, u32),
    duration: Duration,
) -> Result<(Tally, Duration)> {
    let phase = std::sync::Arc::new(Phase::default());
    let timer = {
        let phase = std::sync::Arc::clone(&phase);
        std::thread::spawn(move || phase.pass(duration))
    };
    let whole = runtime.block_on(async {
        let mut callers = Vec::new();
        for connection in 0..connections {
            let channel = endpoint(port)?.connect().await.context("connecting to etcd")?;
            for caller in 0..in_flight {
                let phase = std::sync::Arc::clone(&phase);
                let first_key = u64::from((connection * in_flight + caller) * batch);
                let channel = channel.clone();
                callers.push(tokio::spawn(async move {
                    call(channel, first_key, batch, &phase).await.inspect_err(|_| phase.end())
                }));
            }
        }
        let mut whole = Tally::default();
        for caller in callers {
            whole = whole.add(&caller.await.map_err(|_| anyhow!("a caller of etcd panicked"))??);
        }
        anyhow::Ok(whole)
    });
    phase.end();
    let took = timer.join().map_err(|_| anyhow!("the thread that keeps the time panicked"))?;
    Ok((whole?, took))
}

/// One request after the other.
async fn call(channel: Channel, first_key: u64, batch: u32, phase: &Phase) -> Result<Tally> {
    let put = |key: u64| Put { key: key.to_be_bytes().to_vec(), value: vec![0x5a; COMMAND_BYTES as usize] };
    let transaction = Transaction::of((first_key..first_key + u64::from(batch)).map(put));
    let mut client = wire::client(channel);
    let mut tally = Tally::default();
    while !phase.is_over() {
        let begun = Instant::now();
        if batch == 1 {
            wire::put(&mut client, put(first_key)).await?;
        } else {
            wire::commit(&mut client, transaction.clone()).await?;
        }
        tally.note(phase, batch, begun);
    }
    Ok(tally)
}
