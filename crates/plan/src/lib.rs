//! Decisions, and nothing that acts: functions from what is wanted and what is
//! observed to what to do. No I/O, no clock, no randomness.
#![forbid(unsafe_code)]

pub mod agent;
pub mod datapath;
mod diff;
pub mod netns;
pub mod records;

pub use diff::plan_writes;
