//! `ipvsmesh stack deploy`

use std::time::Duration;

use anyhow::{Context as _, bail};
use api::client::{Client, Filters};
use clap::Args;
use compose::{After, Stack, Until};
use model::BlobKind;
use serde_json::Value;

use super::{
    Files, in_stack,
    wanted::{self, Current, Step},
};
use crate::{
    output::{self, number, text},
    service::{
        progress::{Asked, converge},
        registry,
    },
};

/// How often it is looked whether tasks have ended.
const LOOK: Duration = Duration::from_millis(500);

/// `stack deploy`
#[derive(Debug, Args)]
#[command(
    visible_alias = "up",
    after_help = "\
Examples:
  ipvsmesh stack deploy -c compose.yml shop
  ipvsmesh stack deploy -c compose.yml -c production.yml --prune --dry-run shop
  generate | ipvsmesh stack deploy -c - --detach=false shop"
)]
pub(crate) struct Deploy {
    #[command(flatten)]
    files: Files,
    /// Remove services of the stack that are in the files no more
    #[arg(long)]
    prune: bool,
    /// Print what would be made, changed and removed, key by key, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not wait for the services; the first start of one that others depend on is
    /// waited for all the same (default true)
    #[arg(short, long, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = true, value_name = "BOOL", hide_default_value = true, hide_possible_values = true)]
    detach: bool,
    /// Do not show how far it is
    #[arg(short, long)]
    quiet: bool,
    /// Let the mesh fetch images with your own login at their registries (docker login)
    #[arg(long)]
    with_registry_auth: bool,
    /// Taken for docker's sake: images are looked up when their tasks start
    #[arg(long, hide = true, value_name = "WHEN", value_parser = ["always", "changed", "never"])]
    resolve_image: Option<String>,
    /// Its name, with which all names in it begin
    #[arg(value_name = "STACK", value_parser = super::name)]
    stack: String,
}

/// Deploys the stack.
pub(super) async fn run(client: &Client, deploy: &Deploy) -> anyhow::Result<()> {
    let stack = deploy.files.compile(&deploy.stack)?;
    for warning in &stack.warnings {
        output::print_error(format!("{warning}\n"))?;
    }
    let current = current(client, &deploy.stack).await?;
    let missing = wanted::missing(&stack, &current);
    if !missing.is_empty() {
        bail!(missing.join("\n"));
    }
    let unlike = stack.networks.iter();
    for told in unlike.filter_map(|network| wanted::unlike(network, &current)) {
        output::print_error(format!("{told}\n"))?;
    }
    let steps = wanted::steps(&deploy.stack, &stack, &current, deploy.prune);
    match deploy.dry_run {
        true => preview(client, &steps).await,
        false => deploy.apply(client, &stack, &steps).await,
    }
}

async fn current(client: &Client, stack: &str) -> anyhow::Result<Current> {
    let all = Filters::default();
    Ok(Current {
        networks: client.networks(&all).await?,
        configs: client.blobs(BlobKind::Config, &all).await?,
        secrets: client.blobs(BlobKind::Secret, &all).await?,
        services: client.services(&in_stack(stack)).await?,
    })
}

async fn preview(client: &Client, steps: &[Step]) -> anyhow::Result<()> {
    let (mut made, mut changed, mut removed, mut left) = (0, 0, 0, 0);
    for step in steps {
        if let Step::UpdateBlob { kind, is, wanted } = step {
            // with the labels that it has, which changes nothing
            let mut same = wanted.clone();
            same["Labels"] = is["Spec"]["Labels"].clone();
            update_blob(client, *kind, is, &same).await?;
        }
        match (wanted::preview(step), step) {
            (None, _) => left += 1,
            (Some(text), step) => {
                match step {
                    Step::CreateNetwork(_) | Step::CreateBlob(..) | Step::CreateService { .. } => {
                        made += 1;
                    }
                    Step::UpdateBlob { .. } | Step::UpdateService { .. } => changed += 1,
                    Step::RemoveService(_) => removed += 1,
                }
                output::print(text)?;
            }
        }
    }
    output::print(format!(
        "{made} to create, {changed} to change, {removed} to remove, {left} as they are\n"
    ))
}

async fn update_blob(
    client: &Client,
    kind: BlobKind,
    is: &Value,
    wanted: &Value,
) -> anyhow::Result<()> {
    let (id, version) = (text(is, "/ID"), number(is, "/Version/Index"));
    let updated = client.label_blob(kind, id, version, wanted).await;
    let name = text(wanted, "/Name");
    updated.with_context(|| {
        format!(
            "failed to update {kind} {name}: what is in a {kind} cannot be changed, so give the new one another name ({kind}s: ... name: {name}-2)"
        )
    })
}

impl Deploy {
    async fn apply(&self, client: &Client, stack: &Stack, steps: &[Step]) -> anyhow::Result<()> {
        for step in steps {
            self.step(client, step).await?;
        }
        if !self.detach {
            for service in &stack.services {
                let name = text(&service.spec, "/Name");
                converge(client, name, Asked::Spec, self.quiet).await?;
            }
        }
        Ok(())
    }

    async fn step(&self, client: &Client, step: &Step) -> anyhow::Result<()> {
        match step {
            Step::CreateNetwork(spec) => {
                let name = text(spec, "/Name");
                output::print(format!("Creating network {name}\n"))?;
                let made = client.create_network(spec).await;
                made.with_context(|| format!("failed to create network {name}"))?;
            }
            Step::CreateBlob(kind, spec) => {
                let name = text(spec, "/Name");
                output::print(format!("Creating {kind} {name}\n"))?;
                let made = client.create_blob(*kind, spec).await;
                made.with_context(|| format!("failed to create {kind} {name}"))?;
            }
            Step::UpdateBlob { kind, is, wanted } => update_blob(client, *kind, is, wanted).await?,
            Step::CreateService { spec, after } => {
                let name = text(spec, "/Name");
                for after in after {
                    self.wait_for(client, after).await.with_context(|| {
                        format!(
                            "service {name} was not created: it depends on {}",
                            after.service
                        )
                    })?;
                }
                output::print(format!("Creating service {name}\n"))?;
                let made = self.client(client, spec)?.create_service(spec).await;
                made.with_context(|| format!("failed to create service {name}"))?;
            }
            Step::UpdateService {
                is,
                spec,
                differences,
            } => {
                let (name, id) = (text(spec, "/Name"), text(is, "/ID"));
                if differences.is_empty() && !self.with_registry_auth {
                    return output::print(format!("Unchanged service {name} (id: {id})\n"));
                }
                output::print(format!("Updating service {name} (id: {id})\n"))?;
                let version = number(is, "/Version/Index");
                let authorized = self.client(client, spec)?;
                let updated = authorized.update_service(id, version, spec).await;
                updated.with_context(|| format!("failed to update service {name}"))?;
            }
            Step::RemoveService(is) => {
                let name = text(is, "/Spec/Name");
                output::print(format!("Removing service {name}\n"))?;
                client.remove_service(text(is, "/ID")).await?;
            }
        }
        Ok(())
    }

    fn client(&self, client: &Client, spec: &Value) -> anyhow::Result<Client> {
        let image = text(spec, "/TaskTemplate/ContainerSpec/Image");
        match self.with_registry_auth {
            true => Ok(client.with_registry_auth(registry::auth(image)?)),
            false => Ok(client.clone()),
        }
    }

    async fn wait_for(&self, client: &Client, after: &After) -> anyhow::Result<()> {
        let name = &after.service;
        if after.until == Until::Running {
            return converge(client, name, Asked::Spec, self.quiet).await;
        }
        loop {
            let service = client.service(name).await?;
            let of = Filters::one("service", text(&service, "/ID"));
            let tasks = client.tasks(&of).await?;
            let is = |task: &Value, states: &[&str]| states.contains(&text(task, "/Status/State"));
            if !tasks.is_empty() && tasks.iter().all(|task| is(task, &["complete"])) {
                return Ok(());
            }
            let failed = tasks.iter().find(|task| is(task, &["failed", "rejected"]));
            if let Some(task) = failed {
                let why = text(task, "/Status/Err");
                bail!("task {} did not end well: {why}", text(task, "/Name"));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}
