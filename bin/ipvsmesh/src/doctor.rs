//! `ipvsmesh doctor`: the daemon's program looks, by the functions that its start uses;
//! no daemon need run.

use std::{
    env, io,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, ExitCode},
};

use clap::Args;
use model::Instance;

use crate::output;

/// The program that is the daemon.
const DAEMON: &str = "ipvsmeshd";

/// `doctor`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sudo ipvsmesh doctor
  sudo ipvsmesh doctor --format json
  sudo ipvsmeshd --task-pool 172.20.0.0/16 doctor     # as a daemon with these flags needs it

Exit status: 0 if nothing fails, 1 if something does.

It looks at the machine that it is run on, whether ipvsmeshd runs or not, and changes
nothing.")]
pub(crate) struct Doctor {
    /// How to print it
    #[arg(short, long, value_parser = ["json"])]
    format: Option<String>,
}

/// Becomes `ipvsmeshd doctor`; returns only when that failed.
pub(crate) fn run(instance: &Instance, doctor: &Doctor) -> anyhow::Result<ExitCode> {
    let mut command = Command::new(program());
    if !instance.to_string().is_empty() {
        command.arg("--instance").arg(instance.to_string());
    }
    command.arg("doctor");
    if doctor.format.is_some() {
        command.args(["--format", "json"]);
    }
    let error = command.exec();
    if error.kind() == io::ErrorKind::NotFound {
        output::print_error(format!(
            "Error: {DAEMON} is not installed here: doctor looks at the machine that is to run it\n"
        ))?;
        return Ok(ExitCode::FAILURE);
    }
    Err(anyhow::Error::new(error).context(format!("cannot run {DAEMON}")))
}

/// The one beside this program, which is of the same version; else any one on the PATH.
fn program() -> PathBuf {
    let beside = env::current_exe()
        .ok()
        .map(|own| own.with_file_name(DAEMON));
    beside
        .filter(|path| path.exists())
        .unwrap_or_else(|| DAEMON.into())
}
