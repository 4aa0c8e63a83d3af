//! `ipvsmesh node`

use api::client::Client;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::{
    output::{self, Format, Listing, OneFormat, capital, text},
    several, words,
};

/// What to do with nodes.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List nodes
    #[command(visible_alias = "list")]
    Ls(Ls),
    /// Show nodes as JSON
    Inspect(Inspect),
    /// Change whether a node takes tasks, or its labels
    Update(Update),
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

/// `node update`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ipvsmesh node update --availability drain self    # its tasks end; other nodes take them
  ipvsmesh node update --availability active self
  ipvsmesh node update --label-add disk=ssd one")]
pub(crate) struct Update {
    /// active: it takes tasks; pause: no new ones; drain: those that it has end
    #[arg(long, value_name = "active|pause|drain", value_parser = ["active", "pause", "drain"])]
    availability: Option<String>,
    /// Set a label
    #[arg(long, value_name = "KEY=VALUE", value_parser = words::label)]
    label_add: Vec<(String, String)>,
    /// Remove a label
    #[arg(long, value_name = "KEY")]
    label_rm: Vec<String>,
    /// Its host name or id; `self` is the daemon's node
    #[arg(value_name = "NODE")]
    node: String,
}

impl Update {
    /// The node's spec with these changes.
    fn apply(&self, mut spec: Value) -> Value {
        if let Some(availability) = &self.availability {
            spec["Availability"] = json!(availability);
        }
        let mut labels = spec["Labels"].as_object().cloned().unwrap_or_default();
        for key in &self.label_rm {
            labels.remove(key);
        }
        for (key, value) in &self.label_add {
            labels.insert(key.clone(), json!(value));
        }
        spec["Labels"] = labels.into();
        spec
    }
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
            let found = several::find(&inspect.nodes, async |name| client.node(name).await).await?;
            output::print(output::objects(found.done, inspect.format.as_ref())?)?;
            found.failures.end()
        }
        Command::Update(update) => {
            let node = client.node(&update.node).await?;
            let version = node["Version"]["Index"].as_u64().unwrap_or_default();
            let spec = update.apply(node["Spec"].clone());
            client
                .update_node(text(&node, "/ID"), version, &spec)
                .await?;
            output::print(format!("{}\n", update.node))
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
    use super::*;

    #[test]
    fn a_change_leaves_what_it_does_not_name() {
        let update = Update {
            availability: None,
            label_add: vec![("b".to_owned(), "2".to_owned())],
            label_rm: vec!["a".to_owned()],
            node: "self".to_owned(),
        };
        let spec =
            json!({"Role": "manager", "Availability": "pause", "Labels": {"a": "1", "c": "3"}});
        let expected =
            json!({"Role": "manager", "Availability": "pause", "Labels": {"b": "2", "c": "3"}});
        assert_eq!(update.apply(spec), expected);
    }

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
