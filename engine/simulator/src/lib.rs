//! Runs the protocol and the log of Synod, the same code that a node runs, from one seed: virtual time, one thread,
//! simulated disks, networks, clients and faults, and checkers that look at everything that leaves a node.
//!
//! One seed is one run, and repeats event by event. A run has two phases: first everything that its plan has drawn goes
//! wrong, and safety must hold; then nothing does, and the cluster must come together ([`cluster`]). What a run is held
//! against stands in [`invariants`], what goes wrong in [`faults`], and the bugs that prove the checkers in [`plant`].
#![forbid(unsafe_code)]

pub mod cluster;
pub mod coverage;
pub mod disk;
pub mod durability;
pub mod faults;
pub mod invariants;
mod links;
pub mod narrowing;
pub mod network;
pub mod node;
pub mod oracle;
pub mod plan;
pub mod plant;
pub mod random;
pub mod rulings;
mod run;
pub mod scenario;
pub mod schedule;
pub mod shrink;
pub mod stats;
pub mod story;
pub mod trace;
pub mod workload;

pub use cluster::Options;
pub use invariants::{Property, Violation};
pub use narrowing::{FaultKind, Narrowing};
pub use plant::Plant;
pub use run::{Outcome, run, run_twice};
pub use scenario::Scenario;
