//! The format as a whole: golden files, round trips, and what happens to damaged or hostile bytes.

mod bodies;
mod damage;
mod golden;
mod hostile;
mod recode;
mod round_trip;
mod samples;
