//! `ipvsmesh stack`

mod deploy;
mod files;
mod list;
mod remove;
mod wanted;

use std::{collections::BTreeMap, path::PathBuf};

use api::client::{Client, ClientError, Filters};
use clap::{Args, Subcommand};

use crate::output::text;

/// What to do with stacks.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a stack from compose files, or change it to what they say
    Deploy(deploy::Deploy),
    /// List stacks
    #[command(visible_alias = "list")]
    Ls(list::Ls),
    /// List the services of a stack
    Services(list::Services),
    /// List the tasks of a stack
    Ps(list::Ps),
    /// Remove stacks
    #[command(visible_aliases = ["remove", "down"])]
    Rm(remove::Rm),
    /// Print compose files as one, with all variables filled in
    Config(files::Config),
}

/// Which compose files.
#[derive(Debug, Args)]
pub(crate) struct Files {
    /// Compose files, a later one laid over those before; - for standard input
    #[arg(short, long, required = true, value_name = "FILE|-")]
    compose_file: Vec<PathBuf>,
}

/// Does it.
pub(crate) async fn run(client: &Client, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Deploy(deploy) => deploy::run(client, &deploy).await,
        Command::Ls(ls) => list::run_ls(client, &ls).await,
        Command::Services(services) => list::run_services(client, &services).await,
        Command::Ps(ps) => list::run_ps(client, &ps).await,
        Command::Rm(rm) => remove::run(client, &rm).await,
        Command::Config(config) => config.run(),
    }
}

/// The label of what is in a stack.
fn label(stack: &str) -> String {
    format!("{}={stack}", compose::NAMESPACE)
}

/// The filter for what is in a stack.
fn in_stack(stack: &str) -> Filters {
    Filters::one("label", &label(stack))
}

/// The stacks that there are, and how many services each has.
pub(crate) async fn names(client: &Client) -> Result<BTreeMap<String, usize>, ClientError> {
    let all = Filters::one("label", compose::NAMESPACE);
    let mut stacks = BTreeMap::new();
    for service in client.services(&all).await? {
        // a label has dots: a JSON pointer does not mind
        let stack = text(&service, &format!("/Spec/Labels/{}", compose::NAMESPACE));
        *stacks.entry(stack.to_owned()).or_default() += 1;
    }
    Ok(stacks)
}

/// A stack's name: the beginning of all names in it.
fn name(text: &str) -> Result<String, String> {
    match text.parse::<model::Name>() {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
