//! `ipvsmesh network`

use api::client::Client;
use clap::{Args, Subcommand};
use ipnet::IpNet;
use model::Name;
use serde_json::{Value, json};

use crate::{
    output::{self, Format, Listing, OneFormat, text},
    several, words,
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
  ipvsmesh network create --ipv6=false old
  ipvsmesh network create --subnet 10.100.16.0/20 --subnet fd00:1::/64 --internal data")]
pub(crate) struct Create {
    /// Addresses of its tasks, as ADDRESS/PREFIX, once for IPv4 and once for IPv6; free ones without
    #[arg(long, value_name = "SUBNET", value_parser = subnet)]
    subnet: Vec<IpNet>,
    /// Give it IPv6 beside IPv4, where the mesh has a pool for it (default true)
    #[arg(long, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = true, value_name = "BOOL", hide_default_value = true, hide_possible_values = true)]
    ipv6: bool,
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

impl Command {
    /// Refuses flags that contradict each other.
    pub(crate) fn check(&self) -> Result<(), String> {
        match self {
            Self::Create(create) => create.check(),
            _ => Ok(()),
        }
    }
}

impl Create {
    fn check(&self) -> Result<(), String> {
        let six = |subnet: &&IpNet| matches!(subnet, IpNet::V6(_));
        let (six, four): (Vec<&IpNet>, Vec<&IpNet>) = self.subnet.iter().partition(six);
        for (family, subnets) in [("IPv4", &four), ("IPv6", &six)] {
            if let [one, other, ..] = subnets[..] {
                return Err(format!(
                    "--subnet {one} and --subnet {other} are both {family}: use one of each family at most"
                ));
            }
        }
        match six.first() {
            Some(subnet) if !self.ipv6 => Err(format!(
                "--subnet {subnet} is IPv6 and --ipv6=false is against it: leave one of them out"
            )),
            _ => Ok(()),
        }
    }

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
            "EnableIPv6": self.ipv6,
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
    #[arg(long, default_value = "table", value_name = "table|json|TEMPLATE")]
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
    #[arg(short, long, value_name = "json|TEMPLATE")]
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
            output::print(listing.render(ls.quiet, &ls.format)?)
        }
        Command::Inspect(inspect) => {
            let found =
                several::find(&inspect.networks, async |name| client.network(name).await).await?;
            output::print(output::objects(found.done, inspect.format.as_ref())?)?;
            found.failures.end()
        }
        Command::Rm(rm) => {
            several::remove(&rm.networks, async |name| client.remove_network(name).await).await
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
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        create: Create,
    }

    fn create(line: &str) -> Create {
        let words = ["create"].into_iter().chain(line.split(' '));
        Line::try_parse_from(words).unwrap().create
    }

    #[test]
    fn networks_have_ipv6_unless_it_is_unwanted() {
        let asked = |line: &str| create(line).spec()["EnableIPv6"].clone();
        assert_eq!(asked("x"), json!(true));
        assert_eq!(asked("--ipv6 x"), json!(true));
        assert_eq!(asked("--ipv6=true x"), json!(true));
        assert_eq!(asked("--ipv6=false x"), json!(false));
    }

    #[test]
    fn subnets_are_one_a_family() {
        let both = create("--subnet 10.1.0.0/20 --subnet fd00:1::/64 x");
        assert_eq!(both.check(), Ok(()));
        let config = json!([{"Subnet": "10.1.0.0/20"}, {"Subnet": "fd00:1::/64"}]);
        assert_eq!(both.spec()["IPAM"]["Config"], config);
        for (line, word) in [
            ("--subnet 10.1.0.0/20 --subnet 10.2.0.0/20 x", "both IPv4"),
            ("--subnet fd00:1::/64 --subnet fd00:2::/64 x", "both IPv6"),
            ("--subnet fd00:1::/64 --ipv6=false x", "--ipv6=false"),
        ] {
            let refused = create(line).check().unwrap_err();
            assert!(refused.contains(word), "{refused}");
        }
    }

    #[test]
    fn networks_are_listed_as_docker_does() {
        let network = |name: &str| json!({"Id": "24hnjmpmszgue5evox4yjqkvc", "Name": name, "Driver": "ipvsmesh", "Scope": "swarm"});
        let listing = listing(vec![network("web"), network("back")], false);
        let expected = "\
NETWORK ID     NAME      DRIVER     SCOPE
24hnjmpmszgu   back      ipvsmesh   swarm
24hnjmpmszgu   web       ipvsmesh   swarm
";
        assert_eq!(listing.render(false, &Format::Table).unwrap(), expected);
    }
}
