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
        let side = |name: &str, value: &Value| {
            format!(
                "{name}:\n Version:      {}\n API version:  {}\n",
                text(value, "/Version"),
                text(value, "/ApiVersion")
            )
        };
        output::print(side("Client", &own))?;
        if let Ok(server) = &server {
            output::print(format!("\n{}", side("Server", server)))?;
        }
    }
    server?;
    Ok(())
}

/// Prints what the daemon is and has.
pub(crate) async fn info(client: &Client, show: &Show) -> anyhow::Result<()> {
    let (info, status) = (client.info().await?, client.status().await?);
    if let Some(format) = &show.format {
        return output::print(format.render(&json!({"Info": info, "Status": status}))?);
    }
    output::print(render(
        &info,
        &status,
        &client.socket().display().to_string(),
    ))
}

fn render(info: &Value, status: &Value, socket: &str) -> String {
    let mut lines = vec![
        ("Server Version", text(info, "/ServerVersion").to_owned()),
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
    fn info_is_a_line_a_fact() {
        let info = json!({"ServerVersion": "0.1.0", "Name": "one", "Swarm": {"NodeID": "abc", "Nodes": 1}});
        let status = json!({"instance": "", "revision": 7, "counters": {"passes": 3, "writes": 0}});
        let expected = "\
Server Version: 0.1.0
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
        assert_eq!(render(&info, &status, "/run/x.sock"), expected);
    }
}
