//! The top level beside `services`: networks, volumes, configs and secrets.

use std::collections::BTreeMap;

use model::Octets;
use serde_json::{Map, Value, json};

use crate::{
    Input, Stack, absolute,
    cursor::{Cursor, Fields},
    labelled, scoped,
};

/// Something with a name in the file and one in the mesh.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    /// Its name in the mesh.
    pub(crate) name: String,
    /// Body of the request that makes it; `None`: it is there.
    body: Option<Value>,
    /// A service needs it.
    used: bool,
}

impl Object {
    /// One that no service needs yet.
    fn new(name: String, body: Option<Value>) -> Self {
        Self {
            name,
            body,
            used: false,
        }
    }
}

/// A volume: made by the engine when a task needs it.
#[derive(Clone, Debug)]
pub(crate) struct Volume {
    /// The engine's name.
    pub(crate) name: String,
    /// `VolumeOptions` of a mount.
    pub(crate) options: Map<String, Value>,
}

/// All of them, by their names in the file.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    pub(crate) networks: BTreeMap<String, Object>,
    pub(crate) volumes: BTreeMap<String, Volume>,
    pub(crate) configs: BTreeMap<String, Object>,
    pub(crate) secrets: BTreeMap<String, Object>,
}

/// The entries of a mapping, if it is there.
fn entries<'a>(at: Option<Cursor<'a>>) -> Vec<(String, Cursor<'a>)> {
    at.map(|at| at.entries()).unwrap_or_default()
}

impl Objects {
    pub(crate) fn read(input: &Input<'_>, fields: &mut Fields<'_>) -> Self {
        let networks = entries(fields.take("networks")).into_iter();
        let mut networks: BTreeMap<_, _> = networks
            .map(|(name, at)| (name.clone(), network(input, &name, &at)))
            .collect();
        // of services that name none
        networks.entry("default".to_owned()).or_insert_with(|| {
            let name = scoped(input.stack, "default");
            let body = Some(network_body(input, &name, Vec::new()));
            Object::new(name, body)
        });
        let volumes = entries(fields.take("volumes")).into_iter();
        let configs = entries(fields.take("configs")).into_iter();
        let secrets = entries(fields.take("secrets")).into_iter();
        Self {
            networks,
            volumes: volumes
                .map(|(name, at)| (name.clone(), volume(input, &name, &at)))
                .collect(),
            configs: configs
                .map(|(name, at)| (name.clone(), blob(input, &name, &at, "config")))
                .collect(),
            secrets: secrets
                .map(|(name, at)| (name.clone(), blob(input, &name, &at, "secret")))
                .collect(),
        }
    }

    /// The mesh's name of a thing that a service needs.
    pub(crate) fn need(
        all: &mut BTreeMap<String, Object>,
        what: &str,
        name: &str,
        at: &Cursor<'_>,
    ) -> String {
        match all.get_mut(name) {
            Some(object) => {
                object.used = true;
                object.name.clone()
            }
            None => {
                at.wrong(format!(
                    "undefined {what} {name:?}: define it below the top level's {what}s"
                ));
                String::new()
            }
        }
    }

    /// Those that are to be made, or to be there.
    pub(crate) fn stack(self) -> Stack {
        let mut stack = Stack::default();
        for network in self.networks.into_values().filter(|network| network.used) {
            match network.body {
                Some(body) => stack.networks.push(body),
                None => stack.external_networks.push(network.name),
            }
        }
        for config in self.configs.into_values() {
            match config.body {
                Some(body) => stack.configs.push(body),
                None => stack.external_configs.push(config.name),
            }
        }
        for secret in self.secrets.into_values() {
            match secret.body {
                Some(body) => stack.secrets.push(body),
                None => stack.external_secrets.push(secret.name),
            }
        }
        stack
    }
}

/// `external`, and by which name; `None`: it is the stack's own.
fn external(fields: &mut Fields<'_>, key: &str, name: Option<&str>) -> Option<String> {
    let at = fields.take("external")?;
    let name = || name.unwrap_or(key).to_owned();
    if at.node.scalar().is_some() {
        return at.boolean().then(name);
    }
    // as older files have it
    let mut fields = at.fields();
    let own = fields.take("name").map(|name| name.text());
    fields.end();
    Some(own.unwrap_or_else(name))
}

/// Whose something is, by its name in the mesh.
enum Naming {
    /// The stack's.
    Own(String),
    /// It must be there.
    External(String),
}

fn naming(input: &Input<'_>, fields: &mut Fields<'_>, key: &str) -> Naming {
    let name = fields.take("name").map(|name| name.text());
    match external(fields, key, name.as_deref()) {
        Some(name) => Naming::External(name),
        None => Naming::Own(name.unwrap_or_else(|| scoped(input.stack, key))),
    }
}

fn network_body(input: &Input<'_>, name: &str, labels: Vec<(String, String)>) -> Value {
    json!({
        "Name": name,
        "Driver": "overlay",
        // as of networks that are made by our own command
        "EnableIPv6": true,
        "Labels": labelled(input.stack, labels),
    })
}

fn network(input: &Input<'_>, key: &str, at: &Cursor<'_>) -> Object {
    let mut fields = at.fields();
    let name = match naming(input, &mut fields, key) {
        Naming::Own(name) => name,
        Naming::External(name) => {
            fields.end();
            return Object::new(name, None);
        }
    };
    let labels = fields.take("labels").map(|at| at.labels());
    let mut body = network_body(input, &name, labels.unwrap_or_default());
    if let Some(driver) = fields.take("driver") {
        // any other is the daemon's to refuse
        body["Driver"] = json!(driver.text());
    }
    if let Some(options) = fields.take("driver_opts") {
        body["Options"] = json!(options.labels().into_iter().collect::<BTreeMap<_, _>>());
    }
    if let Some(internal) = fields.take("internal") {
        body["Internal"] = json!(internal.boolean());
    }
    if let Some(six) = fields.take("enable_ipv6") {
        body["EnableIPv6"] = json!(six.boolean());
    }
    if let Some(ipam) = fields.take("ipam") {
        let mut ipam = ipam.fields();
        let mut made = Map::new();
        if let Some(driver) = ipam.take("driver") {
            made.insert("Driver".to_owned(), json!(driver.text()));
        }
        let mut config = Vec::new();
        for subnet in ipam.take("config").map(|at| at.items()).unwrap_or_default() {
            let mut fields = subnet.fields();
            let mut one = Map::new();
            for (key, docker) in [
                ("subnet", "Subnet"),
                ("gateway", "Gateway"),
                ("ip_range", "IPRange"),
            ] {
                if let Some(value) = fields.take(key) {
                    one.insert(docker.to_owned(), json!(value.text()));
                }
            }
            fields.end();
            config.push(Value::Object(one));
        }
        made.insert("Config".to_owned(), json!(config));
        ipam.ignore(&["options"]);
        ipam.end();
        body["IPAM"] = Value::Object(made);
    }
    fields.ignore(&["attachable"]);
    fields.end();
    Object::new(name, Some(body))
}

fn volume(input: &Input<'_>, key: &str, at: &Cursor<'_>) -> Volume {
    let mut fields = at.fields();
    let name = match naming(input, &mut fields, key) {
        Naming::Own(name) => name,
        Naming::External(name) => {
            fields.end();
            let options = Map::from_iter([("NoCopy".to_owned(), json!(true))]);
            return Volume { name, options };
        }
    };
    let labels = fields.take("labels").map(|at| at.labels());
    let labels = labelled(input.stack, labels.unwrap_or_default());
    let mut options = Map::from_iter([("Labels".to_owned(), json!(labels))]);
    let mut driver = Map::new();
    if let Some(named) = fields.take("driver") {
        driver.insert("Name".to_owned(), json!(named.text()));
    }
    if let Some(given) = fields.take("driver_opts") {
        let given: BTreeMap<_, _> = given.labels().into_iter().collect();
        driver.insert("Options".to_owned(), json!(given));
    }
    if !driver.is_empty() {
        driver.entry("Name").or_insert_with(|| json!("local"));
        options.insert("DriverConfig".to_owned(), Value::Object(driver));
    }
    fields.end();
    Volume { name, options }
}

/// A config or a secret.
fn blob(input: &Input<'_>, key: &str, at: &Cursor<'_>, what: &str) -> Object {
    let mut fields = at.fields();
    let name = match naming(input, &mut fields, key) {
        Naming::Own(name) => name,
        Naming::External(name) => {
            fields.end();
            return Object::new(name, None);
        }
    };
    let labels = fields.take("labels").map(|at| at.labels());
    let sources = [
        fields.take("file"),
        fields.take("environment"),
        fields.take("content"),
    ];
    let data = match sources {
        [Some(file), None, None] => {
            let path = absolute(input, &file.text());
            (input.read)(&path).unwrap_or_else(|why| {
                file.wrong(format!("cannot read {}: {why}", path.display()));
                Vec::new()
            })
        }
        [None, Some(variable), None] => {
            let variable_name = variable.text();
            let value = (input.variable)(&variable_name);
            value.map(String::into_bytes).unwrap_or_else(|| {
                variable.wrong(format!("the {variable_name:?} variable is not set"));
                Vec::new()
            })
        }
        [None, None, Some(content)] => content.text().into_bytes(),
        _ => {
            at.wrong(format!(
                "say once what is in the {what}: file, environment or content, or external: true"
            ));
            Vec::new()
        }
    };
    for key in ["template_driver", "driver"] {
        if let Some(driver) = fields.take(key) {
            driver.wrong("this is not available in this version: leave it out");
        }
    }
    fields.end();
    let body = json!({
        "Name": name,
        "Labels": labelled(input.stack, labels.unwrap_or_default()),
        "Data": Octets::from(data).to_base64(),
    });
    Object::new(name, Some(body))
}
