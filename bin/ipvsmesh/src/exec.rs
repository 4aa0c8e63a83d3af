//! `ipvsmesh exec`

use std::{
    io,
    os::unix::process::CommandExt as _,
    process::{Command, ExitCode},
};

use api::{ContainerRef, client::Client};
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
    /// Give it this input; a process task's command has it anyway
    #[arg(short, long)]
    interactive: bool,
    /// Give it a terminal; a process task's command has this one anyway
    #[arg(short, long)]
    tty: bool,
    /// A task's name or id
    task: String,
    /// Command and arguments: a program of the container; of the host, run as root, for a
    /// process task
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Becomes the command inside the task; returns only when that failed.
pub(crate) fn run(client: &Client, exec: &Exec) -> anyhow::Result<ExitCode> {
    // the event loop must be gone before the namespaces are entered
    let sandbox = wait(async { Ok(client.sandbox(&exec.task).await?) })?;
    if let Some(container) = &sandbox.container {
        return in_container(container, exec);
    }
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

/// Becomes docker's own client, which knows terminals; returns only when that failed.
fn in_container(container: &ContainerRef, exec: &Exec) -> anyhow::Result<ExitCode> {
    let mut docker = Command::new("docker");
    docker
        .arg("--host")
        .arg(format!("unix://{}", container.socket.display()));
    docker.arg("exec");
    for (wanted, flag) in [(exec.interactive, "--interactive"), (exec.tty, "--tty")] {
        if wanted {
            docker.arg(flag);
        }
    }
    let error = docker.arg(&container.name).args(&exec.command).exec();
    let error = anyhow::Error::new(error).context(
        "cannot run docker, whose client runs commands in containers: install it (docker-cli, or docker.io)",
    );
    crate::output::print_error(crate::report(&error))?;
    Ok(NOT_RUN.into())
}
