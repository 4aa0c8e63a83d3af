use model::{RuntimeSpec, ServiceSpec, State, label};
use serde_json::json;

use super::*;
use crate::convert::service;

/// What docker 20.10 sends for a container with all that it has flags for.
fn full() -> Value {
    json!({
        "Name": "web",
        "Labels": {"l": "1", "ipvsmesh.pull": "never"},
        "TaskTemplate": {
            "ContainerSpec": {
                "Image": "web:1", "Labels": {"cl": "2"}, "Command": ["/entry"],
                "Args": ["sh", "-c", "true"], "Hostname": "h", "Env": ["A=b"], "Dir": "/srv",
                "User": "root", "Groups": ["9"], "Init": false, "TTY": true, "ReadOnly": true,
                "Mounts": [
                    {"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 1024, "Mode": 448}},
                    {
                        "Type": "bind", "Source": "/srv", "Target": "/b", "ReadOnly": true,
                        "BindOptions": {"Propagation": "rslave"},
                    },
                    {
                        "Type": "volume", "Source": "v", "Target": "/v",
                        "VolumeOptions": {
                            "NoCopy": true, "Labels": {"a": "b"},
                            "DriverConfig": {"Name": "local", "Options": {"o": "size=1m"}},
                        },
                    },
                ],
                "StopSignal": "SIGINT", "StopGracePeriod": 3_000_000_000_u64,
                "Healthcheck": {
                    "Test": ["CMD-SHELL", "true"], "Interval": 5_000_000_000_u64,
                    "Timeout": 1_000_000_000, "Retries": 2, "StartPeriod": 3_000_000_000_u64,
                },
                "Hosts": ["10.0.0.1 db"],
                "DNSConfig": {"Nameservers": ["1.1.1.1"], "Search": ["x"], "Options": ["ndots:1"]},
                "Privileges": {"CredentialSpec": null, "SELinuxContext": null},
                "Isolation": "default", "Sysctls": {"net.core.somaxconn": "10"},
                "CapabilityAdd": ["CAP_NET_ADMIN"], "CapabilityDrop": ["ALL"],
                "Ulimits": [{"Name": "nofile", "Soft": 10, "Hard": 20}],
            },
            "Resources": {
                "Limits": {"NanoCPUs": 500_000_000, "MemoryBytes": 67_108_864, "Pids": 10},
                "Reservations": {"NanoCPUs": 1, "MemoryBytes": 1024},
            },
            "LogDriver": {"Name": "json-file", "Options": {"max-size": "1m"}},
            "Placement": {"Platforms": [{"Architecture": "amd64", "OS": "linux"}]},
            "ForceUpdate": 0,
        },
        "Mode": {"Replicated": {"Replicas": 1}},
    })
}

fn container_of(spec: &ServiceSpec) -> &ContainerSpec {
    match &spec.task.runtime {
        RuntimeSpec::Docker(container) => container,
        _ => panic!("it is a container"),
    }
}

fn with(pointer: &str, value: Value) -> Value {
    let mut raw = full();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    raw.pointer_mut(parent).unwrap()[key] = value;
    raw
}

#[test]
fn all_that_docker_sends_is_understood_and_shown_again() {
    let spec = service(&full(), &State::default()).unwrap();
    let container = container_of(&spec);
    assert_eq!(container.pull, PullPolicy::Never);
    assert_eq!((container.mounts.len(), container.init), (3, Some(false)));
    assert_eq!(container.resources.memory, 64 << 20);
    let shown = crate::show::container::container(container);
    let mut sent = full()["TaskTemplate"]["ContainerSpec"].clone();
    // nothing is said in it
    sent.as_object_mut().unwrap().remove("Privileges");
    assert_eq!(shown, sent);
    let beside = crate::show::container::beside(container);
    for key in ["Resources", "LogDriver"] {
        assert_eq!(beside[key], full()["TaskTemplate"][key]);
    }
}

#[test]
fn an_image_is_enough_and_a_container_is_the_default() {
    for (labels, runtime) in [
        (json!({}), Value::Null),
        (json!({label::RUNTIME: "docker"}), Value::Null),
        (json!({}), json!("container")),
    ] {
        let raw = json!({
            "Name": "web", "Labels": labels,
            "TaskTemplate": {"Runtime": runtime, "ContainerSpec": {"Image": "web"}},
        });
        let spec = service(&raw, &State::default()).unwrap();
        let expected = ContainerSpec {
            image: "web".to_owned(),
            ..ContainerSpec::default()
        };
        assert_eq!(container_of(&spec), &expected);
        assert!(spec.labels.is_empty());
    }
}

#[test]
fn what_we_do_not_have_is_refused_by_name() {
    let at = |key: &str| format!("/TaskTemplate/ContainerSpec/{key}");
    for (pointer, value, word) in [
        (at("Image"), json!(""), "ContainerSpec.Image"),
        (
            at("Secrets"),
            json!([{"SecretName": "s"}]),
            "secret s not found",
        ),
        (
            at("Configs"),
            json!([{"ConfigName": "s"}]),
            "config s not found",
        ),
        (at("OpenStdin"), json!(true), "ContainerSpec.OpenStdin"),
        (
            at("Privileges"),
            json!({"NoNewPrivileges": true}),
            "Privileges.NoNewPrivileges",
        ),
        (
            at("Mounts"),
            json!([{"Type": "npipe", "Target": "/x"}]),
            "Mounts[0].Type=npipe",
        ),
        (
            at("Mounts"),
            json!([{"Type": "bind", "Source": "x", "Target": "/x"}]),
            "Mounts[0].Source",
        ),
        (
            at("Mounts"),
            json!([{"Type": "bind", "Source": "/x", "Target": "x"}]),
            "Mounts[0].Target",
        ),
        (
            at("Mounts"),
            json!([{"Type": "volume", "Target": "/x", "VolumeOptions": {"Subpath": "y"}}]),
            "Mounts[0]",
        ),
        (at("Hosts"), json!(["db 10.0.0.1"]), "ContainerSpec.Hosts"),
        (
            at("DNSConfig"),
            json!({"Nameservers": ["one"]}),
            "DNSConfig.Nameservers",
        ),
        (at("StopSignal"), json!("SIGNO"), "ContainerSpec.StopSignal"),
        (
            at("Healthcheck"),
            json!({"Test": ["NONE"], "Interval": -1}),
            "Healthcheck.Interval",
        ),
        (
            "/TaskTemplate/Resources/Limits/MemoryBytes".to_owned(),
            json!(-1),
            "Limits.MemoryBytes",
        ),
        (
            "/TaskTemplate/Resources/Reservations/GenericResources".to_owned(),
            json!([{"DiscreteResourceSpec": {"Kind": "gpu", "Value": 1}}]),
            "Reservations.GenericResources",
        ),
        (
            "/TaskTemplate/Placement/Preferences".to_owned(),
            json!([{"Spread": {"SpreadDescriptor": "engine.labels.rack"}}]),
            "Placement.Preferences",
        ),
        (
            "/Labels/ipvsmesh.pull".to_owned(),
            json!("sometimes"),
            "ipvsmesh.pull",
        ),
    ] {
        let error = service(&with(&pointer, value), &State::default()).unwrap_err();
        assert!(error.message.contains(word), "{pointer}: {}", error.message);
    }
}
