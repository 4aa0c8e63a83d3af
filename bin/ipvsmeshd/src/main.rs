//! The daemon's command line.
#![forbid(unsafe_code)]

mod arguments;
mod doctor;
mod log;

use std::{path::Path, process::ExitCode};

use anyhow::Context as _;
use arguments::{Arguments, Role};
use clap::Parser as _;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // before anything else: a shim must have one thread and no files of its own
    let ended = match &arguments.role {
        Some(Role::Shim { dir }) => shim(dir),
        Some(Role::Doctor { format }) => match look(&arguments, format.is_some()) {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
        Some(Role::Dns) => with_log(&arguments, || wait_alone(arguments.respond())),
        None if arguments.cleanup => with_log(&arguments, || wait(arguments.clean_up())),
        None => with_log(&arguments, || wait(arguments.run())),
    };
    let Err(error) = ended else {
        return ExitCode::SUCCESS;
    };
    let causes = error.chain().skip(1);
    let text: String = causes
        .map(|cause| format!("  because: {cause}\n"))
        .collect();
    arguments::say(&format!("ipvsmeshd: {error}\n{text}"));
    ExitCode::FAILURE
}

fn shim(dir: &Path) -> anyhow::Result<()> {
    runtime::shim_main(dir).context("the shim ended")
}

/// Looks at the machine; what is found is the output, so that nothing is logged.
fn look(arguments: &Arguments, json: bool) -> anyhow::Result<ExitCode> {
    let checks = wait_alone(async { Ok(arguments.look().await) })?;
    doctor::print(&checks, json)
}

/// Logs to standard error, as systemd and containers expect it.
fn with_log<T>(arguments: &Arguments, run: impl FnOnce() -> T) -> T {
    log::begin(arguments.log_format);
    run()
}

fn wait(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot set up the event loop")?
        .block_on(work)
}

/// On this one thread, which is all that answering names takes.
fn wait_alone<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot set up the event loop")?
        .block_on(work)
}
