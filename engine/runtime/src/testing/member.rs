//! One node of a cluster in one process: what survives its lives, and the thread of its present one.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use synod_frame::{
    BLOCK_BYTES, BodyLayout, ConfigurationBody, Member as MemberEntry, Origin, RECORD_HEADER_BYTES, RecordBuffer,
    encode_configuration, zero_padding,
};
use synod_protocol::{Ballot, NodeId, Slot};
use synod_wal::{
    Action, LogIdentity, LogSettings, MemoryStore, RecoverOptions, RecoveredLog, StoredConfiguration, Wal, recover_with,
};

use super::network::{Letter, Mail, Network, Sender};
use crate::config::{Config, POOL_SPARES};
use crate::error::{AppendError, StartError};
use crate::link::Link;
use crate::log::Shared;
use crate::mailbox::Request;
use crate::meters::Meters;
use crate::node::{DISK_PATIENCE, Facts, GROUP, LOG, Parts, assemble};
use crate::seam::buffer::{self, Buffer};
use crate::seam::disk::Disk;
use crate::seam::memory_disk::MemoryDisk;
use crate::seam::plain;
use crate::shard::Shard;
use crate::status::Startup;

/// Length of a segment: the smallest that takes the largest body.
const SEGMENT_BYTES: u64 = 2 << 20;

/// Files that a disk has before its node starts.
const FILES: u32 = 8;

/// See the module.
pub(super) struct Member {
    pub(super) disk: MemoryDisk,
    pub(super) running: Option<Running>,
    config: Config,
    genesis: ConfigurationBody,
    identity: LogIdentity,
    network: Network,
}

/// A node that runs.
pub(super) struct Running {
    pub(super) shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

/// The first configuration of a cluster of these nodes.
pub(super) fn genesis(nodes: &[NodeId]) -> ConfigurationBody {
    let majority = nodes.len() as u32 / 2 + 1;
    ConfigurationBody {
        cluster: uuid::Uuid::new_v4().into_bytes(),
        lineage: 1,
        members: nodes
            .iter()
            .map(|node| MemberEntry { node: *node, incarnation: uuid::Uuid::new_v4().into_bytes() })
            .collect(),
        prepare_quorum: majority,
        accept_quorum: majority,
        alpha: 65_536,
        ..ConfigurationBody::default()
    }
}

impl Member {
    /// A node whose disk is bootstrapped, and which doesn't run yet.
    pub(super) fn new(config: Config, genesis: &ConfigurationBody, network: &Network) -> Member {
        let identity = LogIdentity {
            cluster: genesis.cluster,
            lineage: genesis.lineage,
            node: config.node,
            incarnation: genesis.incarnation_of(config.node).expect("the cluster's genesis names all its nodes"),
            boot_counter: 0,
            log: LOG,
        };
        let disk = MemoryDisk::new(bootstrap(identity, genesis, &log_settings(&config)));
        Member { disk, running: None, config, genesis: genesis.clone(), identity, network: network.clone() }
    }

    /// Starts it on what its disk holds.
    pub(super) fn start(&mut self) -> Result<(), StartError> {
        self.identity.boot_counter += 1;
        let called_at = std::time::Instant::now();
        let store = self.disk.store();
        let index_bodies_max = Some(LogSettings::default().index_bodies_max);
        let format_max = Some(self.config.settings.format_max);
        let options = RecoverOptions { index_bodies_max, format_max, ..RecoverOptions::default() };
        let recovered = recover_with(&store, &self.identity.expected(), SEGMENT_BYTES, options)?;
        let facts = Facts {
            identity: self.identity,
            segment_bytes: SEGMENT_BYTES,
            disk: Disk::Memory(self.disk.clone()),
            files: self.disk.files(),
        };
        let (config, genesis, network) = (self.config.clone(), self.genesis.clone(), self.network.clone());
        network.open(config.node);
        let (ready, started) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name(format!("synod-testing-{}", config.node))
            .spawn(move || {
                plain::run(|tasks| async move {
                    let sender: Rc<dyn crate::link::Carrier> =
                        Rc::new(Sender { network: network.clone(), node: config.node });
                    let link =
                        |(peer, _): &(NodeId, _)| Rc::new(Link::over(Rc::clone(&sender), GROUP, config.node, *peer));
                    let links = config.peers.iter().map(link).collect();
                    let (startup, random) = (Startup::default(), uuid::Uuid::new_v4().as_u64_pair());
                    let (group, genesis) = (GROUP, &genesis);
                    let (meters, forward, spread) = (Arc::new(Meters::new()), None, None);
                    let parts = Parts {
                        facts,
                        group,
                        genesis,
                        recovered,
                        startup,
                        called_at,
                        links,
                        meters,
                        random,
                        forward,
                        spread,
                    };
                    let shard = match assemble(&config, parts, &tasks).await {
                        Ok(shard) => shard,
                        Err(error) => return drop(ready.send(Err(error))),
                    };
                    shard.start();
                    tasks.spawn(receive(Rc::clone(&shard), network, config.node));
                    // Whoever starts a node waits for this.
                    let _ = ready.send(Ok(Arc::clone(&shard.shared)));
                    shard.run_to_end(DISK_PATIENCE).await;
                });
            })
            .map_err(StartError::Shard)?;
        let ended = |_| StartError::Shard(std::io::Error::other("the thread has ended"));
        let shared = started.recv().map_err(ended)??;
        self.running = Some(Running { shared, thread });
        Ok(())
    }

    /// Ends it in order, or, if it is to crash, without a word to its peers.
    pub(super) fn stop(&mut self, crash: bool) {
        let Some(Running { shared, thread }) = self.running.take() else { return };
        if crash {
            self.network.close(self.config.node);
        }
        shared.intake.close(AppendError::Shutdown);
        shared.mailbox.ask(Request::Stop);
        // A node that panicked has ended too; its status says why.
        let _ = thread.join();
        self.network.close(self.config.node);
        if crash {
            self.disk = self.disk.crash();
        }
    }
}

fn log_settings(config: &Config) -> LogSettings {
    LogSettings {
        segment_bytes: SEGMENT_BYTES,
        sync: config.sync,
        pool_free_min: config.pool_free_min,
        pool_spares: POOL_SPARES,
        pool_files_max: config.pool_files_max,
        ..LogSettings::default()
    }
}

/// The files of a store that was initialised and bootstrapped.
fn bootstrap(identity: LogIdentity, genesis: &ConfigurationBody, settings: &LogSettings) -> MemoryStore {
    let mut record = RecordBuffer::zeroed(BLOCK_BYTES);
    let origin = Origin { group: GROUP, first: Slot(0), ballot: Ballot::ZERO, leader_time_us: 0 };
    let body = encode_configuration(record.as_mut(), &origin, genesis).expect("a cluster has few members");
    let body = record.as_ref()[RECORD_HEADER_BYTES..][..body.bytes as usize].to_vec();
    let mut store = MemoryStore::new();
    let files: Vec<synod_wal::FileId> = (1..=FILES).map(synod_wal::FileId).collect();
    for file in &files {
        store.create(*file, SEGMENT_BYTES);
    }
    let configuration = Some(StoredConfiguration { slot: Slot(0), body });
    let fresh = RecoveredLog { configuration, ..RecoveredLog::fresh(SEGMENT_BYTES, files) };
    let mut wal = Wal::new(identity, *settings, fresh);
    while let Some(action) = wal.poll_action() {
        match action {
            Action::Write { write, file, offset, bytes } => {
                store.write_at(file, offset, &bytes);
                wal.handle_written(write);
            }
            Action::Sync { sync, .. } => wal.handle_synced(sync),
            Action::CreateFile { file } => {
                store.create(file, SEGMENT_BYTES);
                wal.handle_file_ready(file);
            }
            Action::ZeroFile { file, offset, bytes } => {
                store.write_at(file, offset, &vec![0; bytes as usize]);
                wal.handle_file_ready(file);
            }
        }
    }
    store
}

/// Hands what arrives to the shard, for ever.
async fn receive(shard: Rc<Shard>, network: Network, node: NodeId) {
    loop {
        let mail: VecDeque<Mail> = poll_fn(|context| network.poll_mail(node, context)).await;
        if shard.is_stopped() {
            continue;
        }
        shard.count(|counters| counters.receives += mail.len() as u64);
        let mut about_snapshots = Vec::new();
        shard.turn(|replica, now| {
            for Mail { from, letter } in mail {
                match letter {
                    Letter::Log(message, body) => {
                        replica.handle_message(now, from, message, body.as_deref().map(into_record));
                    }
                    Letter::Snapshot(message) => about_snapshots.push((from, message)),
                }
            }
        });
        for (from, message) in about_snapshots {
            shard.heard_of_snapshot(from, message);
        }
        crate::seam::executor::yield_if_needed().await;
    }
}

/// A body in a record buffer, behind the room for the record's header.
fn into_record(body: &[u8]) -> Buffer {
    let layout = BodyLayout::peek(body).expect("the sender's own body");
    let mut record = buffer::allocate(layout.record_bytes());
    record.as_bytes_mut()[RECORD_HEADER_BYTES..][..body.len()].copy_from_slice(body);
    zero_padding(record.as_bytes_mut(), &layout);
    record
}
