//! What is asked of etcd, with the fields that matter here (`etcdserverpb`, etcd 3.4).

use anyhow::{Context, Result, ensure};
use tonic::Request;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

/// `PutRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Put {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) value: Vec<u8>,
}

/// `RequestOp`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Operation {
    #[prost(message, optional, tag = "2")]
    put: Option<Put>,
}

/// `TxnRequest`, without conditions.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Transaction {
    #[prost(message, repeated, tag = "2")]
    operations: Vec<Operation>,
}

impl Transaction {
    pub(super) fn of(puts: impl Iterator<Item = Put>) -> Transaction {
        Transaction { operations: puts.map(|put| Operation { put: Some(put) }).collect() }
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct Empty {}

/// `ResponseHeader`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Header {
    #[prost(uint64, tag = "2")]
    member: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutAnswer {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TransactionAnswer {
    #[prost(bool, tag = "2")]
    has_succeeded: bool,
}

/// `StatusResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Status {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    #[prost(string, tag = "2")]
    pub(super) version: String,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

impl Status {
    pub(super) fn leads(&self) -> bool {
        self.header.as_ref().is_some_and(|header| header.member != 0 && header.member == self.leader)
    }
}

pub(super) fn client(channel: Channel) -> Grpc<Channel> {
    Grpc::new(channel)
}

pub(super) async fn status(channel: Channel) -> Result<Status> {
    ask(&mut client(channel), "/etcdserverpb.Maintenance/Status", Empty {}).await
}

pub(super) async fn put(client: &mut Grpc<Channel>, put: Put) -> Result<()> {
    let answer: PutAnswer = ask(client, "/etcdserverpb.KV/Put", put).await?;
    ensure!(answer.header.is_some(), "an empty answer from etcd");
    Ok(())
}

pub(super) async fn commit(client: &mut Grpc<Channel>, transaction: Transaction) -> Result<()> {
    let answer: TransactionAnswer = ask(client, "/etcdserverpb.KV/Txn", transaction).await?;
    ensure!(answer.has_succeeded, "etcd didn't do what a transaction asked for");
    Ok(())
}

async fn ask<A, B>(client: &mut Grpc<Channel>, path: &'static str, what: A) -> Result<B>
where
    A: prost::Message + 'static,
    B: prost::Message + Default + 'static,
{
    client.ready().await.context("waiting for etcd")?;
    let answer = client
        .unary(Request::new(what), PathAndQuery::from_static(path), ProstCodec::<A, B>::default())
        .await
        .with_context(|| format!("asking etcd for {path}"))?;
    Ok(answer.into_inner())
}
