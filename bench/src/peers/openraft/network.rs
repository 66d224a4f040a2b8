//! In place of a network: each replica calls the others' functions.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex};

use futures_util::{Stream, StreamExt as _};
use openraft::alias::{SnapshotOf, VoteOf};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, VoteRequest, VoteResponse,
};
use openraft::{AnyError, OptionalSend, Raft, RaftNetworkFactory, RaftNetworkV2};

use super::store::{Machine, Types};

/// One replica.
pub(super) type Node = Raft<Types, Machine>;

/// Knows all replicas.
#[derive(Clone, Default)]
pub(super) struct Router(Arc<Mutex<BTreeMap<u64, Node>>>);

impl Router {
    pub(super) fn add(&self, id: u64, node: Node) {
        self.0.lock().expect("no code that holds this lock panics").insert(id, node);
    }

    pub(super) fn node(&self, id: u64) -> Option<Node> {
        self.0.lock().expect("no code that holds this lock panics").get(&id).cloned()
    }

    /// Ends all replicas. They know each other through this, so it must forget them.
    pub(super) async fn stop(self) {
        let nodes = std::mem::take(&mut *self.0.lock().expect("no code that holds this lock panics"));
        for node in nodes.into_values() {
            // One that has ended already has nothing left to do.
            let _ = node.shutdown().await;
        }
    }
}

impl RaftNetworkFactory<Types> for Router {
    type Network = Path;

    async fn new_client(&mut self, target: u64, _: &()) -> Path {
        Path { router: self.clone(), target }
    }
}

/// The way to one replica.
pub(super) struct Path {
    router: Router,
    target: u64,
}

impl Path {
    fn target(&self) -> Result<Node, Unreachable<Types>> {
        self.router.node(self.target).ok_or_else(|| Unreachable::new(&AnyError::error("not started, or ended")))
    }
}

fn failed(error: impl std::error::Error + 'static) -> RPCError<Types> {
    RPCError::Unreachable(Unreachable::new(&error))
}

impl RaftNetworkV2<Types> for Path {
    type SnapshotData = ();

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        self.target()?.append_entries(request).await.map_err(failed)
    }

    /// Several requests under way at once.
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<Types>, RPCError<Types>>>, RPCError<Types>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            let answers = self.target()?.stream_append(input).map(|answer| answer.map_err(failed));
            Ok::<BoxStream<'s, _>, _>(Box::pin(answers))
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        _: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.target()?.vote(request).await.map_err(failed)
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<Types>,
        snapshot: SnapshotOf<Types, ()>,
        _: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let answer = self.target()?.install_full_snapshot(vote, snapshot).await;
        answer.map_err(|error| StreamingError::Unreachable(Unreachable::new(&error)))
    }
}
