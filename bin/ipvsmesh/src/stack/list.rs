//! `ipvsmesh stack ls`, `services` and `ps`

use api::client::{Client, Filters};
use clap::Args;

use super::{label, names};
use crate::{
    output::{self, Format, Listing},
    service::{list, tasks},
    words,
};

/// `stack ls`
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  ipvsmesh stack ls")]
pub(crate) struct Ls {
    /// How to print it
    #[arg(long, default_value = "table", value_name = "table|json|TEMPLATE")]
    format: Format,
}

/// `stack services`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ipvsmesh stack services shop
  ipvsmesh stack services --quiet --filter name=shop_web shop")]
pub(crate) struct Services {
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
    /// Only those that fit: id, name, label, mode
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = words::filter)]
    filter: Vec<(String, String)>,
    /// How to print it
    #[arg(long, default_value = "table", value_name = "table|json|TEMPLATE")]
    format: Format,
    /// Its name
    #[arg(value_name = "STACK")]
    stack: String,
}

/// `stack ps`
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  ipvsmesh stack ps --filter desired-state=running shop")]
pub(crate) struct Ps {
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
    /// Only those that fit: id, name, node, desired-state
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = words::filter)]
    filter: Vec<(String, String)>,
    /// Print whole ids and errors
    #[arg(long)]
    no_trunc: bool,
    /// How to print it
    #[arg(long, default_value = "table", value_name = "table|json|TEMPLATE")]
    format: Format,
    /// Its name
    #[arg(value_name = "STACK")]
    stack: String,
}

pub(super) async fn run_ls(client: &Client, ls: &Ls) -> anyhow::Result<()> {
    let stacks = names(client).await?.into_iter();
    let listing = Listing {
        columns: &[("NAME", "Name"), ("SERVICES", "Services")],
        rows: stacks
            .map(|(name, services)| vec![name, services.to_string()])
            .collect(),
    };
    output::print(listing.render(false, &ls.format)?)
}

/// The filters of a command, in this stack.
fn filters(stack: &str, given: &[(String, String)]) -> Filters {
    let mut filters = words::filters(given);
    filters.add("label", &label(stack));
    filters
}

fn nothing(stack: &str) -> anyhow::Result<()> {
    output::print_error(format!("Nothing found in stack: {stack}\n"))
}

pub(super) async fn run_services(client: &Client, of: &Services) -> anyhow::Result<()> {
    let services = client.services(&filters(&of.stack, &of.filter)).await?;
    if services.is_empty() && !of.quiet {
        return nothing(&of.stack);
    }
    output::print(list::listing(services).render(of.quiet, &of.format)?)
}

pub(super) async fn run_ps(client: &Client, ps: &Ps) -> anyhow::Result<()> {
    let found = client.tasks(&filters(&ps.stack, &ps.filter)).await?;
    if found.is_empty() {
        anyhow::bail!("nothing found in stack: {}", ps.stack);
    }
    let listing = tasks::table(client, found, ps.no_trunc || ps.quiet).await?;
    output::print(listing.render(ps.quiet, &ps.format)?)
}
