//! `ipvsmesh service ls`

use api::client::Client;
use clap::Args;
use model::PublishMode;
use serde_json::Value;

use crate::{
    output::{self, Format, Listing, list, number, text},
    ports, words,
};

/// `service ls`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ipvsmesh service ls
  ipvsmesh service ls --quiet --filter name=vote
  ipvsmesh service ls --format json")]
pub(crate) struct Ls {
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
    /// Only those that fit: id, name, label, mode
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = words::filter)]
    filter: Vec<(String, String)>,
    /// How to print it
    #[arg(long, default_value = "table", value_name = "table|json|TEMPLATE")]
    format: Format,
}

/// Prints the services.
pub(super) async fn run(client: &Client, ls: &Ls) -> anyhow::Result<()> {
    let services = client.services(&words::filters(&ls.filter)).await?;
    output::print(listing(services).render(ls.quiet, &ls.format)?)
}

/// A table of services.
pub(crate) fn listing(mut services: Vec<Value>) -> Listing {
    services.sort_by_key(|service| text(service, "/Spec/Name").to_owned());
    let row = |service: &Value| {
        vec![
            output::short(text(service, "/ID")).to_owned(),
            text(service, "/Spec/Name").to_owned(),
            mode(service).to_owned(),
            replicas(service),
            text(service, "/Spec/TaskTemplate/ContainerSpec/Image").to_owned(),
            ports::line(list(service, "/Endpoint/Ports"), PublishMode::Ingress),
        ]
    };
    Listing {
        columns: &[
            ("ID", "ID"),
            ("NAME", "Name"),
            ("MODE", "Mode"),
            ("REPLICAS", "Replicas"),
            ("IMAGE", "Image"),
            ("PORTS", "Ports"),
        ],
        rows: services.iter().map(row).collect(),
    }
}

/// How many tasks run, of how many.
fn replicas(service: &Value) -> String {
    let count = format!(
        "{}/{}",
        number(service, "/ServiceStatus/RunningTasks"),
        number(service, "/ServiceStatus/DesiredTasks")
    );
    match number(service, "/Spec/TaskTemplate/Placement/MaxReplicas") {
        0 => count,
        most => format!("{count} (max {most} per node)"),
    }
}

/// How many tasks there are, in a word.
pub(super) fn mode(service: &Value) -> &'static str {
    let runtime = service
        .pointer("/Spec/Labels")
        .map(|labels| &labels[model::label::RUNTIME]);
    match (
        service.pointer("/Spec/Mode/Global"),
        runtime.and_then(Value::as_str),
    ) {
        (Some(_), _) => "global",
        // nobody says how many there are but who has them
        (None, Some("static")) => "static",
        (None, Some("adopted")) => "adopted",
        (None, _) => "replicated",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn port(protocol: &str, published: u16, target: u16) -> Value {
        json!({"Protocol": protocol, "PublishedPort": published, "TargetPort": target, "PublishMode": "ingress"})
    }

    #[test]
    fn services_are_listed_as_docker_does() {
        let vote = json!({
            "ID": "f5lxx1zz5pnorynqglhzmsp33",
            "Spec": {
                "Name": "vote",
                "Mode": {"Replicated": {"Replicas": 3}},
                "TaskTemplate": {
                    "ContainerSpec": {"Image": "/usr/local/bin/whoami"},
                    "Placement": {"MaxReplicas": 2}
                }
            },
            "Endpoint": {"Ports": [port("tcp", 8080, 80)]},
            "ServiceStatus": {"RunningTasks": 2, "DesiredTasks": 3}
        });
        let all = json!({
            "ID": "a5lxx1zz5pnorynqglhzmsp33",
            "Spec": {"Name": "all", "Mode": {"Global": {}}, "TaskTemplate": {"ContainerSpec": {"Image": "sleep"}}},
            "ServiceStatus": {"RunningTasks": 1, "DesiredTasks": 1}
        });
        let expected = "\
ID             NAME      MODE         REPLICAS               IMAGE                   PORTS
a5lxx1zz5pno   all       global       1/1                    sleep                   \n\
f5lxx1zz5pno   vote      replicated   2/3 (max 2 per node)   /usr/local/bin/whoami   *:8080->80/tcp
";
        let listing = listing(vec![vote, all]);
        assert_eq!(listing.render(false, &Format::Table).unwrap(), expected);
        assert_eq!(
            listing.render(true, &Format::Table).unwrap(),
            "a5lxx1zz5pno\nf5lxx1zz5pno\n"
        );
    }
}
