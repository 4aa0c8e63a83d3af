//! Decisions, and nothing that acts: functions from what is wanted and what is
//! observed to what to do. No I/O, no clock, no randomness.
#![forbid(unsafe_code)]

pub mod admit;
pub mod adopt;
pub mod agent;
mod allocate;
pub mod datapath;
mod diff;
mod duration;
pub mod events;
pub mod netns;
pub mod orchestrate;
pub mod placement;
mod publish;
pub mod records;
pub mod subject;
pub mod template;
#[cfg(test)]
mod testing;
pub mod tombstones;

pub use diff::plan_writes;
