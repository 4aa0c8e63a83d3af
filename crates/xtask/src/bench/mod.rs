//! `cargo xtask bench`: measurements in the lab, both sides of each in one run.
//!
//! The machine's clock counts instructions there, so that ratios repeat; times and
//! rates are not those of any real machine.

mod datapath;
mod figures;
mod step;
mod table;

use anyhow::Result;
use clap::Subcommand;

/// What is measured.
#[derive(Clone, Subcommand)]
pub(crate) enum Bench {
    /// VIPs, published ports and big tables against what one would have without the mesh
    Datapath {
        /// Only the steps that have this in their description, such as `programming`
        #[arg(default_value = "")]
        filter: String,
    },
}

/// Measures it and prints a table; 0 if everything could be measured, whatever
/// came out.
pub(crate) fn run(bench: &Bench) -> Result<u8> {
    match bench {
        Bench::Datapath { filter } => datapath::run(filter),
    }
}
