//! A task in a container as Docker's `TaskTemplate` has it.

use model::{BlobKind, ContainerSpec, HealthCheck, Mount, MountKind};
use serde_json::{Map, Value, json};

use super::{blob::files, nanoseconds};

/// Without what says nothing, as Docker's own daemon shows it.
fn sparse<const N: usize>(all: [(&str, Value); N]) -> Value {
    let says = |value: &Value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        Value::Number(number) => number.as_i64() != Some(0),
        Value::String(text) => !text.is_empty(),
        Value::Bool(true) => true,
    };
    let all = all.into_iter().filter(|(_, value)| says(value));
    Value::Object(all.map(|(key, value)| (key.to_owned(), value)).collect())
}

/// `ContainerSpec`
pub(crate) fn container(spec: &ContainerSpec) -> Value {
    let mounts: Vec<_> = spec.mounts.iter().map(mount).collect();
    let ulimits = spec.ulimits.iter();
    let ulimits = ulimits.map(|u| json!({"Name": u.name, "Soft": u.soft, "Hard": u.hard}));
    let dns = sparse([
        ("Nameservers", json!(spec.dns.servers)),
        ("Search", json!(spec.dns.search)),
        ("Options", json!(spec.dns.options)),
    ]);
    let mut shown = sparse([
        ("Image", json!(spec.image)),
        ("Labels", json!(spec.labels)),
        ("Command", json!(spec.command)),
        ("Args", json!(spec.args)),
        ("Hostname", json!(spec.hostname)),
        ("Env", json!(spec.env)),
        ("Dir", json!(spec.dir)),
        ("User", json!(spec.user)),
        ("Groups", json!(spec.groups)),
        ("TTY", json!(spec.tty)),
        ("ReadOnly", json!(spec.read_only)),
        ("Mounts", json!(mounts)),
        ("Configs", json!(files(&spec.files, BlobKind::Config))),
        ("Secrets", json!(files(&spec.files, BlobKind::Secret))),
        ("StopSignal", json!(spec.stop_signal)),
        ("Hosts", json!(spec.hosts)),
        ("DNSConfig", dns),
        ("Sysctls", json!(spec.sysctls)),
        ("CapabilityAdd", json!(spec.cap_add)),
        ("CapabilityDrop", json!(spec.cap_drop)),
        ("Ulimits", json!(ulimits.collect::<Vec<_>>())),
        ("OomScoreAdj", json!(spec.oom_score_adj)),
    ]);
    shown["Isolation"] = json!("default");
    if let Some(check) = &spec.health {
        shown["Healthcheck"] = health(check);
    }
    if let Some(grace) = spec.stop_grace {
        shown["StopGracePeriod"] = json!(nanoseconds(grace));
    }
    if let Some(init) = spec.init {
        shown["Init"] = json!(init);
    }
    shown
}

/// `Resources` and `LogDriver`, beside the container in a `TaskTemplate`.
pub(crate) fn beside(spec: &ContainerSpec) -> Map<String, Value> {
    let resources = &spec.resources;
    let limits = sparse([
        ("NanoCPUs", json!(resources.cpus)),
        ("MemoryBytes", json!(resources.memory)),
        ("Pids", json!(resources.pids)),
    ]);
    let kept = sparse([
        ("NanoCPUs", json!(resources.reserved_cpus)),
        ("MemoryBytes", json!(resources.reserved_memory)),
    ]);
    let mut all = Map::new();
    all.insert(
        "Resources".to_owned(),
        json!({"Limits": limits, "Reservations": kept}),
    );
    if let Some(log) = &spec.log {
        let log = sparse([("Name", json!(log.name)), ("Options", json!(log.options))]);
        all.insert("LogDriver".to_owned(), log);
    }
    all
}

fn health(check: &HealthCheck) -> Value {
    sparse([
        ("Test", json!(check.test)),
        ("Interval", json!(check.interval.map(nanoseconds))),
        ("Timeout", json!(check.timeout.map(nanoseconds))),
        ("Retries", json!(check.retries)),
        ("StartPeriod", json!(check.start_period.map(nanoseconds))),
        (
            "StartInterval",
            json!(check.start_interval.map(nanoseconds)),
        ),
    ])
}

fn mount(mount: &Mount) -> Value {
    let (kind, source, key, options) = match &mount.kind {
        MountKind::Bind {
            source,
            propagation,
            non_recursive,
        } => {
            let options = sparse([
                ("Propagation", json!(propagation)),
                ("NonRecursive", json!(non_recursive)),
            ]);
            ("bind", json!(source), "BindOptions", options)
        }
        MountKind::Volume {
            source,
            no_copy,
            labels,
            driver,
            options,
        } => {
            let driver = sparse([("Name", json!(driver)), ("Options", json!(options))]);
            let options = sparse([
                ("NoCopy", json!(no_copy)),
                ("Labels", json!(labels)),
                ("DriverConfig", driver),
            ]);
            ("volume", json!(source), "VolumeOptions", options)
        }
        MountKind::Tmpfs { size, mode } => {
            let options = sparse([("SizeBytes", json!(size)), ("Mode", json!(mode))]);
            ("tmpfs", Value::Null, "TmpfsOptions", options)
        }
    };
    sparse([
        ("Type", json!(kind)),
        ("Source", source),
        ("Target", json!(mount.target)),
        ("ReadOnly", json!(mount.read_only)),
        (key, options),
    ])
}
