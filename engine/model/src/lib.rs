//! Explores small clusters exhaustively: `stateright` drives the real core, every order of events and all.
//!
//! - [`cluster`]: three [`synod_protocol::Replica`]s, two of them proposers, with bodies that overlap differently;
//!   [`setup`] names the configurations.
//! - [`decree`]: the single-decree Paxos of [`synod_protocol::decree`], three servers and two clients.
//! - [`naive`]: the naive ticket protocol, which must fail.
//!
//! [`history`] holds the laws, [`plant`] the bugs that prove them. Within a model all is explored; what a model leaves
//! out is written in its setup.
#![forbid(unsafe_code)]

pub mod check;
pub mod cluster;
pub mod decree;
pub mod history;
mod log;
pub mod naive;
mod node;
pub mod plant;
pub mod setup;
mod shared;
mod story;

pub use check::{Bounds, Report, Search, Violation, check};
pub use cluster::Cluster;
pub use plant::Plant;
pub use setup::Setup;
