//! `cargo xtask bench`: measurements in the lab, both sides of each in one run.
//!
//! The machine's clock counts instructions there, so that ratios repeat; times and
//! rates are not those of any real machine. Where waiting is part of what is compared,
//! it is measured by the clock as well, on two processors.

mod datapath;
mod dns;
mod figures;
mod step;
mod swarm;
mod table;

use std::time::Instant;

use anyhow::{Result, bail};
use clap::Subcommand;

use self::{figures::Reader, step::Step, table::table};
use crate::{cargo, progress::seconds};

/// What is measured.
#[derive(Clone, Subcommand)]
pub(crate) enum Bench {
    /// VIPs, published ports and big tables against what one would have without the mesh
    Datapath {
        /// Only the steps that have this in their description, such as `programming`
        #[arg(default_value = "")]
        filter: String,
    },
    /// Names asked of the responder, dnsmasq, aardvark-dns and Docker's resolver
    Dns {
        /// Only the steps that have this in their description, such as `large`
        #[arg(default_value = "")]
        filter: String,
    },
    /// A service's life with Docker Swarm and with the mesh
    Swarm {
        /// Only the steps that have this in their description, such as `requests`
        #[arg(default_value = "")]
        filter: String,
    },
}

/// Measures it and prints a table; 0 if everything could be measured, whatever
/// came out.
pub(crate) fn run(bench: &Bench) -> Result<u8> {
    match bench {
        Bench::Datapath { filter } => run_steps(datapath::STEPS, filter),
        Bench::Dns { filter } => run_steps(dns::STEPS, filter),
        Bench::Swarm { filter } => run_steps(swarm::STEPS, filter),
    }
}

/// Runs every step that has this in its description, whatever became of those before,
/// and prints the table.
fn run_steps(steps: &[Step], filter: &str) -> Result<u8> {
    let since = Instant::now();
    let chosen: Vec<_> = steps.iter().filter(|s| s.about.contains(filter)).collect();
    if chosen.is_empty() {
        let all: Vec<_> = steps.iter().map(|step| step.about).collect();
        bail!(
            "no step has {filter:?} in its description: {}",
            all.join(", ")
        );
    }
    let programs = cargo::programs_and_released("bench")?;
    let reader = Reader::default();
    let mut failed = false;
    for step in &chosen {
        if let Err(error) = step.run(&programs, &reader) {
            eprintln!("error: {error:#}");
            failed = true;
        }
    }
    let groups: Vec<_> = chosen.iter().flat_map(|step| (step.groups)()).collect();
    let (text, whole) = table(&groups, &reader.figures());
    println!("{text}\nThe bench took {}.", seconds(since.elapsed()));
    Ok(u8::from(failed || !whole))
}
