//! `cargo xtask`: the lab (a machine with a kernel that has IPVS), the tests, the
//! benchmarks and the demo. `docs/architecture.md` says what is where in the project.
#![forbid(unsafe_code)]

mod accel;
mod bench;
mod cargo;
mod child;
mod demo;
mod guest;
mod host;
mod image;
mod initramfs;
mod lab;
mod machine;
mod mirror;
mod payload;
mod place;
mod progress;
mod shell;
mod signals;
mod streams;
mod terminal;
mod test;
mod tools;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

/// The project's own tasks.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// A small virtual machine with a stock kernel that has IPVS
    #[command(subcommand)]
    Lab(Lab),
    /// Run all tests: on this machine, and end to end in the lab
    Test(test::Options),
    /// Measure in the lab, where time is instructions executed
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Watch the mesh work: each step's real command and real output
    Demo {
        /// Use this machine's kernel, in private namespaces, instead of a virtual machine
        #[arg(long)]
        host: bool,
    },
}

#[derive(Subcommand)]
enum Lab {
    /// Build the machine's image, unless it is built already
    Build,
    /// A root shell in a running mesh; guest ports 8080-8089 are 127.0.0.1:8080-8089 here
    Shell(Where),
    /// Run one command in the machine; its output and exit status come back
    Run {
        #[command(flatten)]
        place: Where,
        /// The command and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
}

/// Where a command runs.
#[derive(Args)]
struct Where {
    /// Use this machine's kernel, in private namespaces, instead of a virtual machine
    #[arg(long)]
    host: bool,
    /// Boot with systemd and the daemon's unit, as a real machine does
    #[arg(long, conflicts_with = "host")]
    systemd: bool,
    /// Keep the machine's disk in this file, or go on with the one that is there
    #[arg(long, value_name = "DISK", conflicts_with = "host")]
    keep: Option<PathBuf>,
}

fn main() -> ExitCode {
    match signals::watch().and_then(|()| run(Cli::parse().task)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> anyhow::Result<u8> {
    match task {
        Task::Lab(Lab::Build) => {
            println!("{}", image::Image::ensure()?.folder().display());
            Ok(0)
        }
        Task::Lab(Lab::Shell(place)) => shell::run(&place),
        Task::Lab(Lab::Run { place, command }) => lab::run(&place, &command),
        Task::Test(options) => test::run(&options),
        Task::Bench(bench) => bench::run(&bench),
        Task::Demo { host } => demo::run(host),
    }
}
