//! `ipvsmesh man`: the manual, a page a command, out of what `--help` says.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use crate::arguments;

/// `man`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ipvsmesh man /usr/local/share/man/man1 && man ipvsmesh-service-create
  ipvsmesh man . && man ./ipvsmesh.1")]
pub(crate) struct Man {
    /// Where to; made if it is not there
    directory: PathBuf,
}

/// Writes the pages.
pub(crate) fn run(man: &Man) -> anyhow::Result<()> {
    let directory = &man.directory;
    std::fs::create_dir_all(directory)
        .and_then(|()| clap_mangen::generate_to(arguments::command(), directory))
        .with_context(|| format!("cannot write the manual into {}", directory.display()))
}
