//! What `cargo xtask bench` runs inside the lab beside the tools of the
//! distribution. Each subcommand is one part of a measurement; those that measure
//! themselves print `figure MEASURE SIDE VALUE` lines.
#![forbid(unsafe_code)]

mod fill;
mod hold;
mod mesh;
mod names;
mod node;
mod restore;
mod serve;
mod time;

use clap::{Parser, Subcommand};

/// Parts of measurements, for the lab
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    part: Part,
}

#[derive(Subcommand)]
enum Part {
    /// Program tables from empty, beside ipvsadm and ipset
    Fill(fill::Options),
    /// What a table costs that is there: changes, restarts, checks
    Hold(hold::Options),
    /// Tell a responder a large mesh and time changes of it
    Names(names::Options),
    /// Be a responder
    Respond(names::Respond),
    /// Answer HTTP requests with as little work as can be
    Serve(serve::Options),
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().part {
        Part::Fill(options) => fill::run(&options),
        Part::Hold(options) => hold::run(&options),
        Part::Names(options) => names::run(&options),
        Part::Respond(options) => names::respond(&options),
        Part::Serve(options) => serve::run(&options),
    }
}

/// Tells one value of one side of a measure.
fn figure(measure: &str, side: &str, value: f64) {
    println!("figure {measure} {side} {value:.9}");
}
