//! `ipvsmesh service update`, `scale` and `rollback`

use std::{collections::HashSet, net::IpAddr};

use anyhow::bail;
use api::client::Client;
use clap::Args;
use model::{Protocol, PublishedPort};
use serde_json::{Value, json};

use super::{
    container::{Changes, Container},
    create::{EndpointMode, Life, Wait},
    endpoints::EndpointChanges,
    options::Options,
    placement::PlacementChanges,
    progress::Asked,
    rollout::Rollout,
};
use crate::{
    output::{self, number, text},
    ports, several,
    words::{self, Arguments, Publish},
};

/// `service scale`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ipvsmesh service scale vote=5
  ipvsmesh service scale --detach vote=5 result=2")]
pub(crate) struct Scale {
    #[command(flatten)]
    wait: Wait,
    /// Services and how many tasks each shall have
    #[arg(required = true, value_name = "SERVICE=REPLICAS", value_parser = words::scale)]
    services: Vec<(String, u32)>,
}

/// `service rollback`
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  ipvsmesh service rollback vote")]
pub(crate) struct Rollback {
    #[command(flatten)]
    wait: Wait,
    /// Name or id
    service: String,
}

/// `service update`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ipvsmesh service update --env-add COLOR=blue vote
  ipvsmesh service update --publish-rm 8080:80 --publish-add 8081:80 vote
  ipvsmesh service update --publish-rm 127.0.0.1:8000-8010:8000-8010 vote
  ipvsmesh service update --scheduler wrr --weight 1=3 --affinity none vote
  ipvsmesh service update --args \"--port 81\" vote
  ipvsmesh service update --image nginx:1.28 --limit-memory 128m web
  ipvsmesh service update --force vote")]
pub(crate) struct Update {
    /// How many tasks
    #[arg(long, value_name = "N", value_parser = words::replicas, allow_hyphen_values = true)]
    replicas: Option<u32>,
    /// Arguments of its command
    #[arg(long, value_name = "ARGS", value_parser = words::arguments, allow_hyphen_values = true)]
    args: Option<Arguments>,
    /// Publish one more port
    #[arg(long, value_name = "PORT", value_parser = words::publish, allow_hyphen_values = true)]
    publish_add: Vec<Publish>,
    /// Close ports: [[ADDRESS:]PUBLISHED[-END]:]TARGET[-END][/PROTOCOL]; what is left out is all of it
    #[arg(long, value_name = "PORT", value_parser = words::publish, allow_hyphen_values = true)]
    publish_rm: Vec<Publish>,
    /// Set an environment variable
    #[arg(long, value_name = "KEY=VALUE", value_parser = words::environment)]
    env_add: Vec<Option<String>>,
    /// Remove an environment variable
    #[arg(long, value_name = "KEY")]
    env_rm: Vec<String>,
    /// Set a label
    #[arg(long, value_name = "KEY=VALUE", value_parser = words::label)]
    label_add: Vec<(String, String)>,
    #[command(flatten)]
    placement: PlacementChanges,
    /// Remove a label
    #[arg(long, value_name = "KEY")]
    label_rm: Vec<String>,
    /// Put it on one more network
    #[arg(long, value_name = "NETWORK")]
    network_add: Vec<String>,
    /// Take it off a network
    #[arg(long, value_name = "NETWORK")]
    network_rm: Vec<String>,
    /// What its name resolves to
    #[arg(long, value_enum)]
    endpoint_mode: Option<EndpointMode>,
    #[command(flatten)]
    endpoints: EndpointChanges,
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    life: Life,
    #[command(flatten)]
    container: Container,
    #[command(flatten)]
    changes: Changes,
    #[command(flatten)]
    rollout: Rollout,
    /// Replace its tasks even though nothing changed
    #[arg(long)]
    force: bool,
    /// Undo the last change instead
    #[arg(long, conflicts_with_all = [
        "replicas", "args", "publish_add", "publish_rm", "env_add", "env_rm", "label_add",
        "label_rm", "endpoint_add", "endpoint_rm", "network_add",
        "network_rm", "endpoint_mode", "force", "Options", "Life", "PlacementChanges", "MaxPerNode",
        "Container", "Changes", "Rollout",
    ])]
    rollback: bool,
    #[command(flatten)]
    wait: Wait,
    /// Name or id
    service: String,
}

/// A network's name and id; a spec may have either.
type Network = [String; 2];

impl Update {
    /// Refuses flags that contradict each other.
    pub(super) fn check(&self) -> Result<(), String> {
        self.options.agree("--label-add", &self.label_add)
    }

    /// Writes what was given into a spec.
    fn apply(&self, spec: &mut Value, add: &[Network], remove: &[Network]) -> anyhow::Result<()> {
        if let Some(replicas) = self.replicas {
            set_replicas(spec, replicas)?;
        }
        if let Some(mode) = self.endpoint_mode {
            spec["EndpointSpec"]["Mode"] = json!(mode.word());
        }
        let labels = entry(spec, "/Labels", json!({}));
        for key in &self.label_rm {
            labels.as_object_mut().map(|labels| labels.remove(key));
        }
        for (key, value) in &self.label_add {
            labels[key] = json!(value);
        }
        self.endpoints.apply(labels)?;
        for (key, value) in self.options.labels() {
            labels[key] = json!(value);
        }
        if let Some((label, value)) = self.container.label() {
            labels[label] = value;
        }
        self.rollout.apply(spec);
        let template = &mut spec["TaskTemplate"];
        self.life.apply(template);
        self.container.apply(template);
        self.placement.apply(template);
        self.changes.apply(&mut template["ContainerSpec"]);
        if let Some(arguments) = &self.args {
            template["ContainerSpec"]["Args"] = json!(arguments.0);
        }
        if self.force {
            template["ForceUpdate"] = json!(number(template, "/ForceUpdate") + 1);
        }
        if let Some(env) = entry(&mut template["ContainerSpec"], "/Env", json!([])).as_array_mut() {
            let key = |entry: &str| entry.split('=').next().unwrap_or(entry).to_owned();
            let added: Vec<_> = self.env_add.iter().flatten().collect();
            let replaced: Vec<_> = added.iter().map(|entry| key(entry)).collect();
            env.retain(|entry| {
                let key = key(entry.as_str().unwrap_or_default());
                !self.env_rm.contains(&key) && !replaced.contains(&key)
            });
            env.extend(added.into_iter().map(|entry| json!(entry)));
        }
        if let Some(networks) = entry(template, "/Networks", json!([])).as_array_mut() {
            let is =
                |network: &Network, at: &Value| network.iter().any(|n| n == text(at, "/Target"));
            networks.retain(|at| !remove.iter().any(|network| is(network, at)));
            for network in add {
                if !networks.iter().any(|at| is(network, at)) {
                    networks.push(json!({"Target": network[1]}));
                }
            }
        }
        let endpoint = &mut spec["EndpointSpec"];
        if let Some(ports) = entry(endpoint, "/Ports", json!([])).as_array_mut() {
            let removed: HashSet<_> = ports_of(&self.publish_rm).map(Removal::from).collect();
            ports.retain(|has| !ports::from_json(has).is_some_and(|has| is_meant(&removed, &has)));
            let mut has: HashSet<_> = ports.iter().filter_map(ports::from_json).collect();
            let added = ports_of(&self.publish_add).filter(|new| has.insert((*new).clone()));
            ports.extend(added.map(|port| {
                let mut new = api::port(port);
                // silence would keep the address of one in whose place it is
                new["HostIP"] = json!(port.host_ip.map_or_else(String::new, |ip| ip.to_string()));
                new
            }));
        }
        Ok(())
    }
}

fn ports_of(flags: &[Publish]) -> impl Iterator<Item = &PublishedPort> {
    flags.iter().flat_map(|publish| &publish.0)
}

/// The value at a pointer with one key, made if it is not there.
fn entry<'a>(value: &'a mut Value, pointer: &str, empty: Value) -> &'a mut Value {
    let at = &mut value[pointer.trim_start_matches('/')];
    if at.is_null() {
        *at = empty;
    }
    at
}

/// What one `--publish-rm` says of a port; without a published port or a host
/// address, it says it of all of them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Removal {
    protocol: Protocol,
    target: u16,
    published: Option<u16>,
    host_ip: Option<IpAddr>,
}

impl From<&PublishedPort> for Removal {
    fn from(port: &PublishedPort) -> Self {
        Self {
            protocol: port.protocol,
            target: port.target,
            published: port.published,
            host_ip: port.host_ip,
        }
    }
}

/// Whether one of them means this port: four questions, however many there are.
fn is_meant(removed: &HashSet<Removal>, port: &PublishedPort) -> bool {
    let whole = Removal::from(port);
    [whole.published, None].into_iter().any(|published| {
        [whole.host_ip, None].into_iter().any(|host_ip| {
            removed.contains(&Removal {
                published,
                host_ip,
                ..whole
            })
        })
    })
}

fn set_replicas(spec: &mut Value, replicas: u32) -> anyhow::Result<()> {
    if spec.pointer("/Mode/Replicated").is_none() {
        bail!(
            "service {} is global: it has one task on each node, and cannot be scaled",
            text(spec, "/Name")
        );
    }
    spec["Mode"]["Replicated"]["Replicas"] = json!(replicas);
    Ok(())
}

async fn networks(client: &Client, names: &[String]) -> anyhow::Result<Vec<Network>> {
    let mut found = Vec::new();
    for name in names {
        let network = client.network(name).await?;
        found.push(["/Name", "/Id"].map(|at| text(&network, at).to_owned()));
    }
    Ok(found)
}

fn version(service: &Value) -> u64 {
    number(service, "/Version/Index")
}

/// `service update`
pub(super) async fn run_update(client: &Client, update: &Update) -> anyhow::Result<()> {
    if update.rollback {
        return roll_back(client, &update.service, &update.wait).await;
    }
    let mut service = client.service(&update.service).await?;
    let add = networks(client, &update.network_add).await?;
    let remove = networks(client, &update.network_rm).await?;
    update.apply(&mut service["Spec"], &add, &remove)?;
    let id = text(&service, "/ID");
    let image = text(&service, "/Spec/TaskTemplate/ContainerSpec/Image");
    let authorized = update.container.client(client, image)?;
    authorized
        .update_service(id, version(&service), &service["Spec"])
        .await?;
    output::print(format!("{}\n", update.service))?;
    update.wait.on(client, id, Asked::Spec).await
}

/// `service scale`
pub(super) async fn run_scale(client: &Client, scale: &Scale) -> anyhow::Result<()> {
    let set = async |(name, replicas): &(String, u32)| {
        let mut service = client.service(name).await?;
        set_replicas(&mut service["Spec"], *replicas)?;
        let id = text(&service, "/ID").to_owned();
        client
            .update_service(&id, version(&service), &service["Spec"])
            .await?;
        output::print(format!("{name} scaled to {replicas}\n"))?;
        Ok(id)
    };
    let scaled = several::each(&scale.services, set).await?;
    let wait = async |id: String| scale.wait.on(client, &id, Asked::Spec).await;
    let waited = several::each(scaled.done, wait).await?;
    scaled.failures.and(waited.failures).end()
}

/// `service rollback`
pub(super) async fn run_rollback(client: &Client, rollback: &Rollback) -> anyhow::Result<()> {
    roll_back(client, &rollback.service, &rollback.wait).await
}

async fn roll_back(client: &Client, name: &str, wait: &Wait) -> anyhow::Result<()> {
    let service = client.service(name).await?;
    let id = text(&service, "/ID");
    client
        .rollback_service(id, version(&service), &service["Spec"])
        .await?;
    output::print(format!("{name}\n"))?;
    wait.on(client, id, Asked::Rollback).await
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        update: Update,
    }

    fn update(line: &[&str]) -> Update {
        let line = ["update"]
            .into_iter()
            .chain(line.iter().copied())
            .chain(["web"]);
        Line::try_parse_from(line).unwrap().update
    }

    fn spec() -> Value {
        json!({
            "Name": "web",
            "Labels": {"a": "1", "b": "2"},
            "TaskTemplate": {
                "ContainerSpec": {"Command": ["whoami"], "Args": ["--port", "80"], "Env": ["A=1", "B=2"]},
                "Networks": [{"Target": "id1"}],
                "ForceUpdate": 4,
            },
            "Mode": {"Replicated": {"Replicas": 2}},
            "EndpointSpec": {"Mode": "vip", "Ports": [
                {"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080, "PublishMode": "ingress"},
                {"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8081, "PublishMode": "ingress"},
            ]},
        })
    }

    fn changed(line: &[&str]) -> Value {
        let mut spec = spec();
        let network = |n| [format!("net{n}"), format!("id{n}")];
        update(line)
            .apply(&mut spec, &[network(2)], &[network(1)])
            .unwrap();
        spec
    }

    #[test]
    fn each_flag_changes_its_own() {
        let spec = changed(&[
            "--replicas",
            "5",
            "--args",
            "--port 81",
            "--env-add",
            "A=9",
            "--env-rm",
            "B",
            "--label-add",
            "c=3",
            "--label-rm",
            "a",
            "--force",
            "--update-order",
            "start-first",
            "--rollback-delay",
            "1s",
            "--endpoint-mode",
            "dnsrr",
            "--restart-delay",
            "2s",
            "--publish-rm",
            "8080:80",
            "--publish-add",
            "9090:90/udp",
        ]);
        let expected = json!({
            "Name": "web",
            "Labels": {"b": "2", "c": "3"},
            "TaskTemplate": {
                "ContainerSpec": {"Command": ["whoami"], "Args": ["--port", "81"], "Env": ["A=9"]},
                "Networks": [{"Target": "id2"}],
                "RestartPolicy": {"Delay": 2_000_000_000},
                "ForceUpdate": 5,
            },
            "Mode": {"Replicated": {"Replicas": 5}},
            "UpdateConfig": {"Parallelism": 1, "Order": "start-first"},
            "RollbackConfig": {"Parallelism": 1, "Delay": 1_000_000_000},
            "EndpointSpec": {"Mode": "dnsrr", "Ports": [
                {"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8081, "PublishMode": "ingress"},
                {"Protocol": "udp", "TargetPort": 90, "PublishedPort": 9090, "PublishMode": "ingress", "HostIP": ""},
            ]},
        });
        assert_eq!(spec, expected);
    }

    #[test]
    fn a_target_alone_closes_all_its_ports() {
        assert_eq!(
            changed(&["--publish-rm", "80"])["EndpointSpec"]["Ports"],
            json!([])
        );
    }

    #[test]
    fn ports_are_closed_as_exactly_as_they_are_named() {
        let published = |line: &[&str]| {
            let mut spec = spec();
            spec["EndpointSpec"]["Ports"] = json!([]);
            let add = [
                "127.0.0.1:80:80",
                "[::1]:80:80",
                "81:80",
                "8000-8003:9000-9003",
                "80:80/udp",
            ];
            let add: Vec<_> = add
                .iter()
                .flat_map(|port| ["--publish-add", port])
                .collect();
            update(&add).apply(&mut spec, &[], &[]).unwrap();
            update(line).apply(&mut spec, &[], &[]).unwrap();
            ports::line(
                output::list(&spec, "/EndpointSpec/Ports"),
                model::PublishMode::Ingress,
            )
        };
        let (range, udp) = ("*:8000-8003->9000-9003/tcp", "*:80->80/udp");
        assert_eq!(
            published(&["--publish-rm", "80"]),
            format!("{range}, {udp}")
        );
        assert_eq!(
            published(&["--publish-rm", "80:80"]),
            format!("*:81->80/tcp, {range}, {udp}")
        );
        assert_eq!(
            published(&["--publish-rm", "[::1]:80:80", "--publish-rm", "80/udp"]),
            format!("*:81->80/tcp, {range}, 127.0.0.1:80->80/tcp")
        );
        assert_eq!(
            published(&[
                "--publish-rm",
                "127.0.0.1::80",
                "--publish-rm",
                "8001-8002:9001-9002"
            ]),
            "*:81->80/tcp, *:8000->9000/tcp, *:8003->9003/tcp, [::1]:80->80/tcp, *:80->80/udp"
        );
        // an address that it is not on
        assert!(published(&["--publish-rm", "192.0.2.1:81:80"]).contains("*:81->80/tcp"));
    }

    #[test]
    fn all_ports_that_there_are_change_at_once() {
        let mut spec = spec();
        let all = "1-65535:1-65535/udp";
        update(&["--publish-add", all, "--publish-add", all])
            .apply(&mut spec, &[], &[])
            .unwrap();
        assert_eq!(
            spec["EndpointSpec"]["Ports"].as_array().unwrap().len(),
            65_537
        );
        update(&["--publish-rm", all])
            .apply(&mut spec, &[], &[])
            .unwrap();
        assert_eq!(spec["EndpointSpec"]["Ports"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn options_are_set_over_labels() {
        let changed = changed(&[
            "--affinity",
            "none",
            "--weight",
            "2",
            "--label-rm",
            "ipvsmesh.weight",
        ]);
        let expected =
            json!({"a": "1", "b": "2", "ipvsmesh.affinity": "none", "ipvsmesh.weight": "2"});
        assert_eq!(changed["Labels"], expected);
    }

    #[test]
    fn the_same_port_twice_is_one() {
        let spec = changed(&["--publish-add", "8080:80"]);
        assert_eq!(spec["EndpointSpec"]["Ports"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn global_services_are_not_scaled() {
        let mut spec = json!({"Name": "all", "Mode": {"Global": {}}});
        let refused = set_replicas(&mut spec, 2).unwrap_err().to_string();
        assert!(refused.contains("all is global"), "{refused}");
    }

    #[test]
    fn rollback_goes_alone() {
        let parse = |more: &str| Line::try_parse_from(["update", "--rollback", more, "web"]);
        assert!(parse("--force").is_err());
        assert!(parse("--detach").is_ok());
        assert!(
            Line::try_parse_from(["update", "--rollback", "--stop-signal", "INT", "web"]).is_err()
        );
        assert!(Line::try_parse_from(["update", "--rollback", "--weight", "2", "web"]).is_err());
        assert!(
            Line::try_parse_from(["update", "--rollback", "--update-delay", "2s", "web"]).is_err()
        );
    }
}
