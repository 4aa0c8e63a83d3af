//! Flags of static services: their servers, which are a label to the daemon.

use clap::Args;
use model::{Server, label};
use serde_json::{Value, json};

use super::changed;

/// Of `service create`.
#[derive(Debug, Args)]
pub(super) struct Endpoints {
    /// A server of --runtime static: ADDRESS[:PORT]; without a port, it gets the one that was
    /// asked for (several: once each)
    #[arg(long = "endpoint", id = "endpoint", value_name = "ADDRESS")]
    servers: Vec<Server>,
}

/// Of `service update`.
#[derive(Debug, Args)]
pub(super) struct EndpointChanges {
    /// Add a server to a static service: ADDRESS[:PORT]
    #[arg(long, value_name = "ADDRESS")]
    endpoint_add: Vec<Server>,
    /// Remove a server; its open connections may go on for its drain time-out
    #[arg(long, value_name = "ADDRESS")]
    endpoint_rm: Vec<Server>,
}

impl Endpoints {
    /// Refuses servers of another runtime, and commands of servers.
    pub(super) fn check(&self, is_static: bool, command: &[String]) -> Result<(), String> {
        match (is_static, self.servers.is_empty(), command.first()) {
            (false, false, _) => {
                Err("--endpoint is of --runtime static: add that, or leave it out".to_owned())
            }
            (true, true, _) => {
                Err("a static service needs an endpoint: give --endpoint ADDRESS[:PORT]".to_owned())
            }
            (true, _, Some(word)) => Err(format!(
                "a static service runs nothing, and so has no image or command: leave {word:?} out"
            )),
            _ => Ok(()),
        }
    }

    /// The label's value.
    pub(super) fn label(&self) -> String {
        join(&self.servers)
    }
}

fn join(servers: &[Server]) -> String {
    let servers: Vec<_> = servers.iter().map(Server::to_string).collect();
    servers.join(",")
}

impl EndpointChanges {
    /// Writes what was given into the labels of a service.
    pub(super) fn apply(&self, labels: &mut Value) -> anyhow::Result<()> {
        if self.endpoint_add.is_empty() && self.endpoint_rm.is_empty() {
            return Ok(());
        }
        let text = labels[label::ENDPOINTS].as_str().unwrap_or_default();
        let has = text.split(',').filter(|part| !part.trim().is_empty());
        let servers = has.map(str::parse).collect::<Result<Vec<Server>, _>>()?;
        if let Some(missing) = self.endpoint_rm.iter().find(|one| !servers.contains(one)) {
            anyhow::bail!(
                "endpoint {missing} is none of the service's: it has {}",
                join(&servers)
            );
        }
        let servers = changed(servers, &self.endpoint_add, &self.endpoint_rm);
        labels[label::ENDPOINTS] = json!(join(&servers));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_added_and_removed() {
        let change = |add: &[&str], rm: &[&str]| EndpointChanges {
            endpoint_add: add.iter().map(|text| text.parse().unwrap()).collect(),
            endpoint_rm: rm.iter().map(|text| text.parse().unwrap()).collect(),
        };
        let mut labels = json!({label::ENDPOINTS: "192.0.2.1:80,192.0.2.2:80"});
        change(&["192.0.2.3:80", "192.0.2.2:80"], &["192.0.2.1:80"])
            .apply(&mut labels)
            .unwrap();
        assert_eq!(labels[label::ENDPOINTS], "192.0.2.2:80,192.0.2.3:80");
        let error = change(&[], &["192.0.2.9"]).apply(&mut labels).unwrap_err();
        assert!(error.to_string().contains("192.0.2.9 is none"), "{error}");
        let mut none = json!({});
        change(&[], &[]).apply(&mut none).unwrap();
        assert_eq!(none, json!({}));
    }
}
