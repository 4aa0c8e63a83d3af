//! `ipvsmesh stack rm`

use anyhow::bail;
use api::client::Client;
use clap::Args;
use model::BlobKind;

use super::in_stack;
use crate::output::{self, text};

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

/// Removes them: services first, then what they needed. A network is gone once their
/// tasks have ended, for which the daemon waits.
pub(super) async fn run(client: &Client, rm: &Rm) -> anyhow::Result<()> {
    let mut failed = Vec::new();
    for stack in &rm.stacks {
        let of = in_stack(stack);
        let services = client.services(&of).await?;
        let networks = client.networks(&of).await?;
        let secrets = client.blobs(BlobKind::Secret, &of).await?;
        let configs = client.blobs(BlobKind::Config, &of).await?;
        if services.len() + networks.len() + secrets.len() + configs.len() == 0 {
            output::print_error(format!("Nothing found in stack: {stack}\n"))?;
            continue;
        }
        for service in &services {
            output::print(format!(
                "Removing service {}\n",
                text(service, "/Spec/Name")
            ))?;
            client.remove_service(text(service, "/ID")).await?;
        }
        for (kind, blobs) in [(BlobKind::Secret, secrets), (BlobKind::Config, configs)] {
            for blob in &blobs {
                output::print(format!("Removing {kind} {}\n", text(blob, "/Spec/Name")))?;
                let id = text(blob, "/ID");
                if let Err(error) = client.remove_blob(kind, id).await {
                    failed.push(error.to_string());
                }
            }
        }
        for network in &networks {
            output::print(format!("Removing network {}\n", text(network, "/Name")))?;
            let id = text(network, "/Id");
            if let Err(error) = client.remove_network(id).await {
                failed.push(error.to_string());
            }
        }
        if !failed.is_empty() {
            bail!(
                "Failed to remove some resources from stack: {stack}\n{}",
                failed.join("\n")
            );
        }
    }
    Ok(())
}
