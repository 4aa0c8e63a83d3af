//! `ipvsmesh exec`

use std::{io, process::ExitCode};

use api::client::Client;
use clap::Args;

use crate::wait;

/// What shells give for a program that is not there, and for one that cannot be run.
const NOT_FOUND: u8 = 127;
const NOT_RUN: u8 = 126;

/// `exec`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ipvsmesh exec client.1 -- curl -s http://vote/
  ipvsmesh exec vote.1 -- ip addr
  ipvsmesh exec -it vote.1 bash")]
pub(crate) struct Exec {
    /// As docker's; the command has this terminal and its input anyway
    #[arg(short, long)]
    interactive: bool,
    /// As docker's; the command has this terminal and its input anyway
    #[arg(short, long)]
    tty: bool,
    /// A task's name or id
    task: String,
    /// Command and arguments: a program of the host, run as root
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Becomes the command inside the task; returns only when that failed.
pub(crate) fn run(client: &Client, exec: &Exec) -> anyhow::Result<ExitCode> {
    // the event loop must be gone before the namespaces are entered
    let sandbox = wait(async { Ok(client.sandbox(&exec.task).await?) })?;
    let error = kernel::netns::exec_in(sandbox.pid, &exec.command);
    let code = match &error {
        kernel::Error::File {
            action: "run",
            source,
            ..
        } => match source.kind() {
            io::ErrorKind::NotFound => NOT_FOUND,
            _ => NOT_RUN,
        },
        _ => 1,
    };
    let error = anyhow::Error::new(error).context(format!("cannot exec in task {}", exec.task));
    crate::output::print_error(crate::report(&error))?;
    Ok(code.into())
}
