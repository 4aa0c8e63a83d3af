//! `ports` of a service.

use model::PublishedPort;
use serde_json::{Value, json};

use crate::cursor::{Cursor, Fields};

/// `Ports` of an `EndpointSpec`.
pub(super) fn ports(fields: &mut Fields<'_>) -> Vec<Value> {
    let items = fields.take("ports").map(|at| at.items());
    let mut all: Vec<PublishedPort> = Vec::new();
    for at in items.unwrap_or_default() {
        let text = match at.node.scalar() {
            Some(text) => text,
            None => long(&at),
        };
        match PublishedPort::parse(&text) {
            Ok(ports) => all.extend(ports),
            Err(error) => at.wrong(error.to_string()),
        }
    }
    all.iter().map(port).collect()
}

/// The long form as `--publish` has it.
fn long(at: &Cursor<'_>) -> String {
    let mut fields = at.fields();
    let mut parts = Vec::new();
    for key in ["target", "published", "protocol", "mode", "host_ip"] {
        if let Some(value) = fields.take(key) {
            parts.push(format!("{key}={}", value.text()));
        }
    }
    // names for people
    for key in ["name", "app_protocol"] {
        fields.take(key);
    }
    fields.end();
    parts.join(",")
}

fn port(port: &PublishedPort) -> Value {
    let mut shown = json!({
        "Protocol": port.protocol,
        "TargetPort": port.target,
        "PublishMode": port.mode.as_str(),
    });
    if let Some(published) = port.published {
        shown["PublishedPort"] = json!(published);
    }
    if let Some(ip) = port.host_ip {
        shown["HostIP"] = json!(ip);
    }
    shown
}
