//! Tests of the core, one file a concern. They drive whole replicas through the test cluster, which checks the safety
//! properties at every step (see its module documentation); what each test adds is how the replicas get along.

#[path = "../../tests/cluster/mod.rs"]
mod cluster;

mod acceptor;
mod barrier;
mod body_rule;
mod catch_up;
mod doubt;
mod election;
mod format;
mod install;
mod learning;
mod membership;
mod membership_random;
mod partitions;
mod proposing;
mod random;
mod recovery;
mod room;
mod transfer;
mod trim;
