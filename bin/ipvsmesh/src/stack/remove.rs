//! `ipvsmesh stack rm`

use std::{future::Future, time::Duration};

use anyhow::bail;
use api::client::{Client, ClientError};
use clap::Args;
use model::BlobKind;
use tokio::time::Instant;

use super::in_stack;
use crate::output::{self, text};

/// How long tasks of services that were removed may hold their networks.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often it is tried again.
const AGAIN: Duration = Duration::from_millis(500);

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

/// Removes them: services first, then what they needed, once their tasks have ended.
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
        let end = Instant::now() + PATIENCE;
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
            if let Err(error) = patiently(end, || client.remove_network(id)).await {
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

/// Again and again while its tasks are stopping.
async fn patiently<F: Future<Output = Result<(), ClientError>>>(
    end: Instant,
    mut remove: impl FnMut() -> F,
) -> Result<(), ClientError> {
    loop {
        match remove().await {
            Err(ClientError::Refused { message, .. })
                if message.contains("still stopping") && Instant::now() < end =>
            {
                tokio::time::sleep(AGAIN).await;
            }
            Err(error) if error.is_not_found() => return Ok(()),
            done => return done,
        }
    }
}
