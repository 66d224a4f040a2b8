//! What the example databases share: three node processes, and how they are asked.
//!
//! Each program is its own cluster: started without arguments it makes three stores, starts itself three times as a
//! `node`, and talks to the three over their standard input, a line for each command. That stands for whatever protocol a
//! real database speaks with its clients. It also makes it easy to kill a node in the middle of its work.
#![forbid(unsafe_code)]

mod node;
mod trio;

pub use node::{NodeArguments, Store, serve};
pub use trio::Trio;
