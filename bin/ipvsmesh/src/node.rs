//! `ipvsmesh node`

use api::client::Client;
use clap::{Args, Subcommand};
use serde_json::Value;

use crate::{
    output::{self, Format, Listing, OneFormat, capital, text},
    words,
};

/// What to do with nodes.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List nodes
    #[command(visible_alias = "list")]
    Ls(Ls),
    /// Show nodes as JSON
    Inspect(Inspect),
}

/// `node ls`
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  ipvsmesh node ls")]
pub(crate) struct Ls {
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
    /// Only those that fit: id, name, role
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = words::filter)]
    filter: Vec<(String, String)>,
    /// How to print it
    #[arg(long, default_value = "table", value_name = "table|json|TEMPLATE")]
    format: Format,
}

/// `node inspect`
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  ipvsmesh node inspect self")]
pub(crate) struct Inspect {
    /// How to print it
    #[arg(short, long, value_name = "json|TEMPLATE")]
    format: Option<OneFormat>,
    /// Host names or ids; `self` is the daemon's node
    #[arg(required = true, value_name = "NODE")]
    nodes: Vec<String>,
}

/// Does it.
pub(crate) async fn run(client: &Client, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Ls(ls) => {
            let nodes = client.nodes(&words::filters(&ls.filter)).await?;
            let info = client.info().await?;
            let listing = listing(nodes, text(&info, "/Swarm/NodeID"));
            output::print(listing.render(ls.quiet, &ls.format)?)
        }
        Command::Inspect(inspect) => {
            let mut found = Vec::new();
            for name in &inspect.nodes {
                found.push(client.node(name).await?);
            }
            output::print(output::objects(found, inspect.format.as_ref())?)
        }
    }
}

fn listing(mut nodes: Vec<Value>, me: &str) -> Listing {
    nodes.sort_by_key(|node| text(node, "/Description/Hostname").to_owned());
    let row = |node: &Value| {
        let id = text(node, "/ID");
        let manager = match (
            node.pointer("/ManagerStatus/Leader")
                .and_then(Value::as_bool),
            text(node, "/ManagerStatus/Reachability"),
        ) {
            (Some(true), _) => "Leader".to_owned(),
            (_, other) => capital(other),
        };
        vec![
            format!("{id} {}", if id == me { "*" } else { " " }),
            text(node, "/Description/Hostname").to_owned(),
            capital(text(node, "/Status/State")),
            capital(text(node, "/Spec/Availability")),
            manager,
            text(node, "/Description/Engine/EngineVersion").to_owned(),
        ]
    };
    Listing {
        columns: &[
            ("ID", "ID"),
            ("HOSTNAME", "Hostname"),
            ("STATUS", "Status"),
            ("AVAILABILITY", "Availability"),
            ("MANAGER STATUS", "ManagerStatus"),
            ("ENGINE VERSION", "EngineVersion"),
        ],
        rows: nodes.iter().map(row).collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nodes_are_listed_as_docker_does() {
        let node = json!({
            "ID": "24hnjmpmszgue5evox4yjqkvc",
            "Spec": {"Availability": "active"},
            "Description": {"Hostname": "one", "Engine": {"EngineVersion": "0.1.0"}},
            "Status": {"State": "ready"},
            "ManagerStatus": {"Leader": true, "Reachability": "reachable"},
        });
        let listing = listing(vec![node], "24hnjmpmszgue5evox4yjqkvc");
        let expected = "\
ID                            HOSTNAME   STATUS    AVAILABILITY   MANAGER STATUS   ENGINE VERSION
24hnjmpmszgue5evox4yjqkvc *   one        Ready     Active         Leader           0.1.0
";
        assert_eq!(listing.render(false, &Format::Table).unwrap(), expected);
        assert_eq!(
            listing.render(true, &Format::Table).unwrap(),
            "24hnjmpmszgue5evox4yjqkvc\n"
        );
    }
}
