//! `ipvsmesh stack rm`

use anyhow::Context as _;
use api::client::Client;
use clap::Args;
use model::BlobKind;
use serde_json::Value;

use super::in_stack;
use crate::{
    output::{self, text},
    several,
};

/// `stack rm`
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  ipvsmesh stack rm shop")]
pub(crate) struct Rm {
    /// Their names
    #[arg(required = true, value_name = "STACK")]
    stacks: Vec<String>,
}

/// Removes each.
pub(super) async fn run(client: &Client, rm: &Rm) -> anyhow::Result<()> {
    let remove = async |stack: &String| remove(client, stack).await;
    several::each(&rm.stacks, remove).await?.failures.end()
}

/// Removes services first, then what they needed. A network is gone once their tasks have
/// ended, for which the daemon waits.
async fn remove(client: &Client, stack: &str) -> anyhow::Result<()> {
    let of = in_stack(stack);
    let services = client.services(&of).await?;
    let networks = client.networks(&of).await?;
    let secrets = client.blobs(BlobKind::Secret, &of).await?;
    let configs = client.blobs(BlobKind::Config, &of).await?;
    if services.len() + networks.len() + secrets.len() + configs.len() == 0 {
        return output::print_error(format!("Nothing found in stack: {stack}\n"));
    }
    let service = async |service: &Value| {
        let name = text(service, "/Spec/Name");
        output::print(format!("Removing service {name}\n"))?;
        Ok(client.remove_service(text(service, "/ID")).await?)
    };
    let blob = async |(kind, blob): (BlobKind, &Value)| {
        let name = text(blob, "/Spec/Name");
        output::print(format!("Removing {kind} {name}\n"))?;
        Ok(client.remove_blob(kind, text(blob, "/ID")).await?)
    };
    let network = async |network: &Value| {
        let name = text(network, "/Name");
        output::print(format!("Removing network {name}\n"))?;
        Ok(client.remove_network(text(network, "/Id")).await?)
    };
    let secrets = secrets.iter().map(|one| (BlobKind::Secret, one));
    let configs = configs.iter().map(|one| (BlobKind::Config, one));
    let services = several::each(&services, service).await?.failures;
    let blobs = several::each(secrets.chain(configs), blob).await?.failures;
    let networks = several::each(&networks, network).await?.failures;
    let failures = services.and(blobs).and(networks).end();
    failures.with_context(|| format!("Failed to remove some resources from stack: {stack}"))
}
