//! `services`: what docker's `stack deploy` makes of them (`docker/cli`,
//! `cli/compose/convert/service.go`), and what it ignores.

mod container;
mod depends;
mod deploy;
mod files;
mod network;
mod options;
mod port;
mod volume;

use model::Server;
use serde_json::{Map, Value, json};

use self::options::Runtime;
use crate::{
    IMAGE, Input, Service,
    cursor::{Cursor, Fields},
    labelled,
    object::Objects,
    scoped,
};

/// What has no meaning for a service of a swarm, and none here.
const UNSUPPORTED: [&str; 40] = [
    "attach",
    "annotations",
    "blkio_config",
    "build",
    "cgroup",
    "cgroup_parent",
    "cgroupns_mode",
    "credential_spec",
    "cpu_count",
    "cpu_percent",
    "cpu_period",
    "cpu_rt_period",
    "cpu_rt_runtime",
    "develop",
    "device_cgroup_rules",
    "devices",
    "domainname",
    "external_links",
    "gpus",
    "ipc",
    "isolation",
    "links",
    "mac_address",
    "mem_reservation",
    "mem_swappiness",
    "network_mode",
    "oom_kill_disable",
    "pid",
    "platform",
    "post_start",
    "pre_stop",
    "privileged",
    "profiles",
    "provider",
    "security_opt",
    "shm_size",
    "stdin_open",
    "storage_opt",
    "userns_mode",
    "uts",
];
/// What never was right.
const DEPRECATED: [(&str, &str); 2] = [
    (
        "container_name",
        "Setting the container name is not supported.",
    ),
    (
        "expose",
        "Exposing ports is unnecessary - services on the same network can access each other's containers on any port.",
    ),
];
/// What is refused, with what does it.
const FORBIDDEN: [(&str, &str); 9] = [
    (
        "extends",
        "extends is not available in this version: use anchors (x-...: &name) or several files",
    ),
    (
        "volume_driver",
        "instead of setting the volume driver on the service, define it below the top level's volumes",
    ),
    (
        "volumes_from",
        "to share a volume between services, define it below the top level's volumes",
    ),
    ("cpu_quota", "set resource limits using deploy.resources"),
    ("cpu_shares", "set resource limits using deploy.resources"),
    ("cpuset", "set resource limits using deploy.resources"),
    ("mem_limit", "set resource limits using deploy.resources"),
    (
        "memswap_limit",
        "set resource limits using deploy.resources",
    ),
    (
        "label_file",
        "label_file is not available in this version: use labels",
    ),
];

/// Puts a value where there is one.
fn put(map: &mut Map<String, Value>, key: &str, value: Option<Value>) {
    if let Some(value) = value {
        map.insert(key.to_owned(), value);
    }
}

/// All services, in the order of their first start.
pub(crate) fn read(input: &Input<'_>, at: &Cursor<'_>, objects: &mut Objects) -> Vec<Service> {
    let entries = at.entries();
    let services: Vec<_> = entries
        .iter()
        .map(|(name, at)| service(input, name, at, objects))
        .collect();
    depends::ordered(services, at)
}

fn service(input: &Input<'_>, name: &str, at: &Cursor<'_>, objects: &mut Objects) -> Service {
    let mut fields = at.fields();
    let after = depends::after(&mut fields);
    let options = options::Options::read(&mut fields);
    let image = fields.take("image").map(|image| image.text());
    let mut container = container::container(input, &mut fields);
    let mut mounts = volume::mounts(input, &mut fields, objects);
    mounts.extend(volume::tmpfs(&mut fields));
    if !mounts.is_empty() {
        container.insert("Mounts".to_owned(), json!(mounts));
    }
    files::files(&mut fields, objects, &mut container);
    let labels = fields.take("labels").map(|at| at.labels());
    match options.runtime {
        Runtime::Docker => {
            let labels = labelled(input.stack, labels.unwrap_or_default());
            container.insert("Labels".to_owned(), json!(labels));
            match &image {
                Some(image) => put(&mut container, "Image", Some(json!(image))),
                None => at.wrong("invalid image reference: no image specified (and images are not built here: build one, and name it)"),
            }
        }
        Runtime::Process => {
            program(at, &mut container);
            if labels.is_some() {
                at.wrong("labels are of containers, and a process has none: use deploy.labels");
            }
            if image.is_some() {
                at.wrong("a service of the process runtime has no image: leave it out");
            }
        }
        Runtime::Static => {
            if image.is_some() || labels.is_some() || !container.is_empty() {
                at.wrong("a static service runs nothing: leave out what is of containers, such as image, command and environment");
            }
            // what is shown in an image's place
            container.insert("Image".to_owned(), json!("static"));
        }
    }
    let mut template = Map::from_iter([("ContainerSpec".to_owned(), Value::Object(container))]);
    put(&mut template, "LogDriver", log_driver(&mut fields));
    let networks = network::networks(name, &mut fields, objects);
    template.insert("Networks".to_owned(), json!(networks));
    let ports = port::ports(&mut fields);
    let restart = fields.take("restart");
    let scale = fields.take("scale");
    let pull = fields.take("pull_policy");
    let mut spec = Map::new();
    let mut labels = deploy::deploy(
        &mut fields,
        restart,
        scale,
        &ports,
        &mut template,
        &mut spec,
    );
    if options.runtime == Runtime::Static {
        match Server::of_labels(&options.labels) {
            Ok(servers) => {
                let replicas = |number| json!({"Replicated": {"Replicas": number}});
                let wanted = replicas(servers.len());
                let said = spec.insert("Mode".to_owned(), wanted.clone());
                if said.is_some_and(|said| said != wanted && said != replicas(1)) {
                    at.wrong("a static service has one task for each endpoint: leave out scale, deploy.mode and deploy.replicas");
                }
            }
            Err(error) => at.wrong(format!("x-ipvsmesh.endpoints: {error}")),
        }
    }
    labels.extend(options.labels);
    if let Some(pull) = pull {
        let word = match pull.text().as_str() {
            "if_not_present" | "missing" => "missing",
            "always" => "always",
            "never" => "never",
            _ => {
                pull.wrong("use always, missing or never");
                "missing"
            }
        };
        labels.push((model::label::PULL.to_owned(), word.to_owned()));
    }
    let mut labels = labelled(input.stack, labels);
    let shown = image.or_else(|| {
        let program = template["ContainerSpec"].get("Image")?.as_str()?;
        Some(program.to_owned())
    });
    labels.insert(IMAGE.to_owned(), json!(shown.unwrap_or_default()));
    spec.insert("Labels".to_owned(), Value::Object(labels));
    spec.insert("Name".to_owned(), json!(scoped(input.stack, name)));
    spec.insert("TaskTemplate".to_owned(), Value::Object(template));
    refuse(&mut fields);
    fields.end();
    Service {
        name: name.to_owned(),
        spec: Value::Object(spec),
        after,
    }
}

/// A program of the host, which the image's place names.
fn program(at: &Cursor<'_>, container: &mut Map<String, Value>) {
    let words: Vec<_> = ["Command", "Args"]
        .iter()
        .filter_map(|key| container.remove(*key))
        .flat_map(|list| list.as_array().cloned().unwrap_or_default())
        .collect();
    match words.split_first() {
        Some((program, arguments)) => {
            container.insert("Image".to_owned(), program.clone());
            container.insert("Command".to_owned(), json!([program]));
            container.insert("Args".to_owned(), json!(arguments));
        }
        None => at.wrong("a service of the process runtime needs a command"),
    }
}

fn refuse(fields: &mut Fields<'_>) {
    let mut ignored = Vec::new();
    for key in UNSUPPORTED {
        if fields.take(key).is_some() {
            ignored.push(key);
        }
    }
    if !ignored.is_empty() {
        let all = ignored.join(", ");
        fields
            .at
            .warn(format!("Ignoring unsupported options: {all}"));
    }
    for (key, why) in DEPRECATED {
        if let Some(at) = fields.take(key) {
            at.warn(format!("Ignoring deprecated option: {why}"));
        }
    }
    for (key, why) in FORBIDDEN {
        if let Some(at) = fields.take(key) {
            at.wrong(why);
        }
    }
}

fn log_driver(fields: &mut Fields<'_>) -> Option<Value> {
    let mut logging = fields.take("logging")?.fields();
    let name = logging.take("driver").map(|driver| driver.text());
    let options = logging.take("options").map(|options| options.labels());
    logging.end();
    let options: Map<_, _> = options
        .unwrap_or_default()
        .into_iter()
        .map(|(key, value)| (key, json!(value)))
        .collect();
    Some(json!({"Name": name.unwrap_or_default(), "Options": options}))
}
