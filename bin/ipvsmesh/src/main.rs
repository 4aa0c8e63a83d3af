//! The `ipvsmesh` command: docker's habits, spoken to `ipvsmeshd`.
#![forbid(unsafe_code)]

mod arguments;
mod blob;
mod completion;
mod doctor;
mod events;
mod exec;
mod inspect;
mod man;
mod network;
mod node;
mod output;
mod ports;
mod service;
mod several;
mod stack;
mod system;
mod template;
mod top;
mod trace;
mod units;
mod words;

use std::{future::Future, process::ExitCode};

use anyhow::Context as _;
use api::client::{Client, ClientError};
use arguments::Command;
use model::Instance;
use several::Failures;

/// What a shell gives for a program that a closed pipe ended.
const CLOSED: u8 = 141;

fn main() -> ExitCode {
    completion::answer();
    let (client, instance, command) = match arguments::read() {
        Ok(read) => read,
        Err(usage) => return arguments::explain(&usage),
    };
    let ended = match run(&client, &instance, command) {
        Ok(code) => return code,
        Err(error) => error,
    };
    if ended.is::<output::Closed>() {
        return CLOSED.into();
    }
    // nowhere is left to tell that this failed
    let _ = output::print_error(report(&ended));
    ExitCode::FAILURE
}

fn run(client: &Client, instance: &Instance, command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Exec(task) => return exec::run(client, &task),
        Command::Doctor(doctor) => return doctor::run(instance, &doctor),
        Command::Network(command) => wait(network::run(client, command))?,
        Command::Service(command) => wait(service::run(client, command))?,
        Command::Config(command) => wait(blob::configs(client, command))?,
        Command::Secret(command) => wait(blob::secrets(client, command))?,
        Command::Stack(command) => wait(stack::run(client, command))?,
        Command::Node(command) => wait(node::run(client, command))?,
        Command::Inspect(target) => wait(inspect::run(client, &target))?,
        Command::Events(events) => wait(events::run(client, &events))?,
        Command::Trace(way) => return wait(trace::run(client, &way)),
        Command::Version(format) => wait(system::version(client, &format))?,
        Command::Info(format) => wait(system::info(client, &format))?,
        Command::Top(top) => top::run(client, &top)?,
        Command::Completion(shell) => completion::run(&shell)?,
        Command::Man(directory) => man::run(&directory)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs a future on this thread alone; afterwards the process has no other,
/// which `exec` depends on.
fn wait<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot set up the command's event loop")?;
    runtime.block_on(future)
}

/// An error with everything that caused it, a line each.
fn report(error: &anyhow::Error) -> String {
    let outermost = error.chain().next();
    if let Some(failures) = outermost.and_then(|error| error.downcast_ref::<Failures>()) {
        return failures.iter().map(report).collect();
    }
    // the daemon's own words come as docker prints them
    let refused = |error: &ClientError| matches!(error, ClientError::Refused { .. });
    let lead = match error.downcast_ref::<ClientError>().is_some_and(refused) {
        true => "",
        false => "Error: ",
    };
    let mut text = format!("{lead}{error}\n");
    for cause in error.chain().skip(1).map(ToString::to_string) {
        for line in cause.lines() {
            text.push_str(&format!("  because: {line}\n"));
        }
    }
    text
}
