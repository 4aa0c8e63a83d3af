//! `ipvsmesh version` and `ipvsmesh info`

use api::client::Client;
use clap::Args;
use serde_json::{Value, json};

use crate::output::{self, OneFormat, number, text};

/// `version` and `info`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ipvsmesh version
  ipvsmesh info --format json")]
pub(crate) struct Show {
    /// How to print it
    #[arg(short, long, value_name = "json|TEMPLATE")]
    format: Option<OneFormat>,
}

/// Prints both versions; the command's own even where no daemon answers.
pub(crate) async fn version(client: &Client, show: &Show) -> anyhow::Result<()> {
    let own = json!({"Version": env!("CARGO_PKG_VERSION"), "ApiVersion": api::API_VERSION});
    let server = client.version().await;
    if let Some(format) = &show.format {
        let server = server.as_ref().unwrap_or(&Value::Null);
        output::print(format.render(&json!({"Client": own, "Server": server}))?)?;
    } else {
        output::print(format!("Client:\n{}", lines(&own)))?;
        if let Ok(server) = &server {
            output::print(format!("\nServer:\n{}", lines(server)))?;
        }
    }
    server?;
    Ok(())
}

/// One side's versions, a line each.
fn lines(side: &Value) -> String {
    let (own, docker) = versions(side);
    let mut lines = format!(
        " Version:      {own}\n API version:  {}\n",
        text(side, "/ApiVersion")
    );
    if let Some(docker) = docker {
        lines.push_str(&format!(" Docker:       {docker}\n"));
    }
    lines
}

/// The mesh's own version, and that of the Docker Engine that it speaks to, whose version
/// is the whole's where there is one, as docker's clients expect it.
fn versions(side: &Value) -> (&str, Option<&str>) {
    let component = |name| {
        let mut all = output::list(side, "/Components").iter();
        let one = all.find(|one| text(one, "/Name") == name);
        one.map(|one| text(one, "/Version"))
    };
    let own = component("ipvsmesh").unwrap_or_else(|| text(side, "/Version"));
    (own, component("Engine"))
}

/// Prints what the daemon is and has.
pub(crate) async fn info(client: &Client, show: &Show) -> anyhow::Result<()> {
    let (info, status) = (client.info().await?, client.status().await?);
    if let Some(format) = &show.format {
        return output::print(format.render(&json!({"Info": info, "Status": status}))?);
    }
    let version = client.version().await?;
    let socket = client.socket().display().to_string();
    output::print(render(&version, &info, &status, &socket))
}

fn render(version: &Value, info: &Value, status: &Value, socket: &str) -> String {
    let (own, docker) = versions(version);
    let docker = docker.unwrap_or("does not answer");
    let mut lines = vec![
        ("Server Version", own.to_owned()),
        ("Docker Version", docker.to_owned()),
        ("Name", text(info, "/Name").to_owned()),
        ("Node ID", text(info, "/Swarm/NodeID").to_owned()),
        ("Nodes", number(info, "/Swarm/Nodes").to_string()),
        ("Socket", socket.to_owned()),
    ];
    let instance = text(status, "/instance");
    let instance = if instance.is_empty() {
        "default"
    } else {
        instance
    };
    lines.push(("Instance", instance.to_owned()));
    lines.push(("Revision", number(status, "/revision").to_string()));
    let mut shown: String = lines
        .iter()
        .map(|(key, value)| format!("{key}: {value}\n"))
        .collect();
    if let Some(Value::Object(counters)) = status.get("counters") {
        shown.push_str("Counters:\n");
        for (key, value) in counters {
            shown.push_str(&format!(" {key}: {value}\n"));
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_meshs_version_is_not_dockers() {
        let alone = json!({"Version": "0.1.0", "ApiVersion": "1.44",
            "Components": [{"Name": "ipvsmesh", "Version": "0.1.0"}]});
        assert_eq!(lines(&alone), " Version:      0.1.0\n API version:  1.44\n");
        let both = json!({"Version": "20.10", "ApiVersion": "1.41", "Components": [
            {"Name": "Engine", "Version": "20.10"},
            {"Name": "runc", "Version": "1.1"},
            {"Name": "ipvsmesh", "Version": "0.1.0"},
        ]});
        assert_eq!(
            lines(&both),
            " Version:      0.1.0\n API version:  1.41\n Docker:       20.10\n"
        );
    }

    #[test]
    fn info_is_a_line_a_fact() {
        let version = json!({"Version": "0.1.0"});
        let info = json!({"ServerVersion": "20.10", "Name": "one", "Swarm": {"NodeID": "abc", "Nodes": 1}});
        let status = json!({"instance": "", "revision": 7, "counters": {"passes": 3, "writes": 0}});
        let expected = "\
Server Version: 0.1.0
Docker Version: does not answer
Name: one
Node ID: abc
Nodes: 1
Socket: /run/x.sock
Instance: default
Revision: 7
Counters:
 passes: 3
 writes: 0
";
        assert_eq!(render(&version, &info, &status, "/run/x.sock"), expected);
    }
}
