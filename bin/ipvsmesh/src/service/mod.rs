//! `ipvsmesh service`

mod bars;
mod container;
mod create;
mod endpoints;
mod file;
pub(crate) mod list;
mod logs;
mod mount;
mod options;
mod placement;
mod pretty;
pub(crate) mod progress;
pub(crate) mod registry;
mod rollout;
pub(crate) mod tasks;
mod update;

use api::client::Client;
use clap::{Args, Subcommand};

use crate::{
    output::{self, OneFormat},
    several,
};

/// What to do with services.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a service
    Create(Box<create::Create>),
    /// List services
    #[command(visible_alias = "list")]
    Ls(list::Ls),
    /// List the tasks of services
    Ps(tasks::Ps),
    /// Show services as JSON
    Inspect(Inspect),
    /// Show what a service's tasks, or one task, have written
    Logs(logs::Logs),
    /// Change how many tasks services have
    Scale(update::Scale),
    /// Change a service
    Update(Box<update::Update>),
    /// Undo the last change of a service
    Rollback(update::Rollback),
    /// Remove services
    #[command(visible_alias = "remove")]
    Rm(Rm),
}

/// A list without what is to be removed, and with what is to be added, once each.
fn changed<T: PartialEq + Clone>(mut all: Vec<T>, add: &[T], rm: &[T]) -> Vec<T> {
    all.retain(|one| !rm.contains(one));
    for one in add {
        if !all.contains(one) {
            all.push(one.clone());
        }
    }
    all
}

/// `service inspect`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ipvsmesh service inspect vote
  ipvsmesh service inspect --pretty vote")]
pub(crate) struct Inspect {
    /// Print it for people
    #[arg(long, conflicts_with = "format")]
    pretty: bool,
    /// How to print it
    #[arg(short, long, value_name = "json|TEMPLATE")]
    format: Option<OneFormat>,
    /// Names or ids
    #[arg(required = true, value_name = "SERVICE")]
    services: Vec<String>,
}

/// `service rm`
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  ipvsmesh service rm vote")]
pub(crate) struct Rm {
    /// Names or ids
    #[arg(required = true, value_name = "SERVICE")]
    services: Vec<String>,
}

impl Command {
    /// Refuses flags that contradict each other.
    pub(crate) fn check(&self) -> Result<(), String> {
        match self {
            Self::Create(create) => create.check(),
            Self::Update(update) => update.check(),
            _ => Ok(()),
        }
    }
}

/// Does it.
pub(crate) async fn run(client: &Client, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Create(create) => create::run(client, &create).await,
        Command::Ls(ls) => list::run(client, &ls).await,
        Command::Ps(ps) => tasks::run(client, &ps).await,
        Command::Inspect(inspect) => run_inspect(client, &inspect).await,
        Command::Logs(logs) => logs::run(client, &logs).await,
        Command::Scale(scale) => update::run_scale(client, &scale).await,
        Command::Update(update) => update::run_update(client, &update).await,
        Command::Rollback(rollback) => update::run_rollback(client, &rollback).await,
        Command::Rm(rm) => {
            several::remove(&rm.services, async |name| client.remove_service(name).await).await
        }
    }
}

async fn run_inspect(client: &Client, inspect: &Inspect) -> anyhow::Result<()> {
    let found = several::find(&inspect.services, async |name| client.service(name).await).await?;
    if !inspect.pretty {
        output::print(output::objects(found.done, inspect.format.as_ref())?)?;
        return found.failures.end();
    }
    for service in &found.done {
        let mut networks = Vec::new();
        for attachment in output::list(service, "/Spec/TaskTemplate/Networks") {
            let id = output::text(attachment, "/Target");
            let network = client.network(id).await?;
            networks.push(output::text(&network, "/Name").to_owned());
        }
        output::print(pretty::service(service, &networks))?;
    }
    found.failures.end()
}
