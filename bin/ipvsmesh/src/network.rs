//! `ipvsmesh network`

use api::client::Client;
use clap::{Args, Subcommand};
use ipnet::IpNet;
use model::Name;
use serde_json::{Value, json};

use crate::{
    output::{self, Format, Listing, OneFormat, text},
    words,
};

/// What to do with networks.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a network
    Create(Create),
    /// List networks
    #[command(visible_alias = "list")]
    Ls(Ls),
    /// Show networks as JSON
    Inspect(Inspect),
    /// Remove networks
    #[command(visible_alias = "remove")]
    Rm(Rm),
}

/// `network create`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ipvsmesh network create back
  ipvsmesh network create --subnet 10.100.16.0/20 --internal data")]
pub(crate) struct Create {
    /// Addresses of its tasks, as ADDRESS/PREFIX; one that is free without
    #[arg(long, value_name = "SUBNET", value_parser = subnet)]
    subnet: Vec<IpNet>,
    /// Give its tasks no way out
    #[arg(long)]
    internal: bool,
    /// Labels
    #[arg(long, value_name = "KEY=VALUE", value_parser = words::label)]
    label: Vec<(String, String)>,
    /// Its name
    name: Name,
}

fn subnet(text: &str) -> Result<IpNet, String> {
    text.parse()
        .map_err(|_| "use ADDRESS/PREFIX, such as 10.100.16.0/20".to_owned())
}

impl Create {
    /// The request's body.
    fn spec(&self) -> Value {
        let config = self.subnet.iter().map(|subnet| json!({"Subnet": subnet}));
        let labels = self
            .label
            .iter()
            .map(|(key, value)| (key.clone(), json!(value)));
        json!({
            "Name": self.name,
            "Driver": "ipvsmesh",
            "Internal": self.internal,
            "IPAM": {"Config": config.collect::<Vec<_>>()},
            "Labels": Value::Object(labels.collect()),
        })
    }
}

/// `network ls`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ipvsmesh network ls
  ipvsmesh network ls --quiet --filter name=back")]
pub(crate) struct Ls {
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
    /// Only those that fit: id, name, label, driver
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = words::filter)]
    filter: Vec<(String, String)>,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Print whole ids
    #[arg(long)]
    no_trunc: bool,
}

/// `network inspect`
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  ipvsmesh network inspect back")]
pub(crate) struct Inspect {
    /// How to print it
    #[arg(short, long, value_enum)]
    format: Option<OneFormat>,
    /// Names or ids
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
}

/// `network rm`
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  ipvsmesh network rm back")]
pub(crate) struct Rm {
    /// Names or ids
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
}

/// Does it.
pub(crate) async fn run(client: &Client, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Create(create) => {
            let id = client.create_network(&create.spec()).await?;
            output::print(format!("{id}\n"))
        }
        Command::Ls(ls) => {
            let networks = client.networks(&words::filters(&ls.filter)).await?;
            let listing = listing(networks, ls.no_trunc);
            output::print(listing.render(ls.quiet, ls.format))
        }
        Command::Inspect(inspect) => {
            let mut found = Vec::new();
            for name in &inspect.networks {
                found.push(client.network(name).await?);
            }
            output::print(output::objects(found, inspect.format)?)
        }
        Command::Rm(rm) => {
            for name in &rm.networks {
                client.remove_network(name).await?;
                output::print(format!("{name}\n"))?;
            }
            Ok(())
        }
    }
}

fn listing(mut networks: Vec<Value>, whole: bool) -> Listing {
    networks.sort_by_key(|network| text(network, "/Name").to_owned());
    let row = |network: &Value| {
        let id = text(network, "/Id");
        let id = if whole { id } else { output::short(id) };
        let rest = ["/Name", "/Driver", "/Scope"].map(|at| text(network, at).to_owned());
        std::iter::once(id.to_owned()).chain(rest).collect()
    };
    Listing {
        columns: &[
            ("NETWORK ID", "ID"),
            ("NAME", "Name"),
            ("DRIVER", "Driver"),
            ("SCOPE", "Scope"),
        ],
        rows: networks.iter().map(row).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_listed_as_docker_does() {
        let network = |name: &str| json!({"Id": "24hnjmpmszgue5evox4yjqkvc", "Name": name, "Driver": "ipvsmesh", "Scope": "swarm"});
        let listing = listing(vec![network("web"), network("back")], false);
        let expected = "\
NETWORK ID     NAME      DRIVER     SCOPE
24hnjmpmszgu   back      ipvsmesh   swarm
24hnjmpmszgu   web       ipvsmesh   swarm
";
        assert_eq!(listing.render(false, Format::Table), expected);
    }
}
