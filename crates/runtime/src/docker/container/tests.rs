use std::time::Duration;

use jiff::Timestamp;
use model::{
    DesiredState, DnsConfig, LogDriver, NodeId, Resources, RestartPolicy, RuntimeSpec, ServiceId,
    TaskId, TaskSpec, Ulimit,
};
use serde_json::{Value, json};

use super::*;

fn a_task(spec: &ContainerSpec) -> Task {
    Task {
        id: TaskId::from_random([1; 16]),
        service: ServiceId::from_random([2; 16]),
        service_name: "web".parse().unwrap(),
        slot: 3,
        node: NodeId::from_random([4; 16]),
        spec: TaskSpec {
            runtime: RuntimeSpec::Docker(Box::new(spec.clone())),
            networks: Vec::new(),
            restart: RestartPolicy::default(),
            force_update: 0,
        },
        attachments: Vec::new(),
        desired: DesiredState::Running,
        created: Timestamp::UNIX_EPOCH,
        not_before: None,
    }
}

fn files() -> TaskFiles {
    TaskFiles {
        hostname: "web.3".to_owned(),
        addresses: vec!["10.100.0.2".parse().unwrap()],
        nameservers: vec!["10.100.0.1".parse().unwrap()],
        registry_auth: None,
    }
}

fn image(name: &str) -> ContainerSpec {
    ContainerSpec {
        image: name.to_owned(),
        ..ContainerSpec::default()
    }
}

/// As it is sent, without what says nothing.
fn sent(body: ContainerCreateBody) -> Value {
    serde_json::to_value(body).unwrap()
}

#[test]
fn a_sandbox_has_the_tasks_names_and_nothing_else() {
    let body = sent(sandbox(
        "ipvsmesh-a",
        &a_task(&image("web")),
        &image("web"),
        &files(),
    ));
    assert_eq!(body["Hostname"], "web.3");
    assert_eq!(body["Entrypoint"], json!(["/pause"]));
    let host = &body["HostConfig"];
    for (key, value) in [
        ("NetworkMode", json!("none")),
        ("Dns", json!(["10.100.0.1"])),
        ("DnsSearch", json!(["."])),
        ("DnsOptions", json!(["ndots:0"])),
        ("ExtraHosts", json!(["web.3:10.100.0.2"])),
        ("ReadonlyRootfs", json!(true)),
        ("CapDrop", json!(["ALL"])),
        ("RestartPolicy", json!({"Name": "no"})),
    ] {
        assert_eq!(host[key], value, "{key}");
    }
    assert_eq!(body["Labels"]["ipvsmesh.role"], "sandbox");
    assert_eq!(body["Labels"]["ipvsmesh.instance"], "ipvsmesh-a");
}

#[test]
fn what_joined_containers_may_not_say_the_sandbox_says() {
    let spec = ContainerSpec {
        hostname: Some("here".to_owned()),
        hosts: vec!["10.0.0.1 db db.example".to_owned()],
        dns: DnsConfig {
            servers: vec!["1.1.1.1".to_owned()],
            search: vec!["example.org".to_owned()],
            options: vec!["ndots:2".to_owned()],
        },
        ..image("web")
    };
    let body = sent(sandbox("ipvsmesh", &a_task(&spec), &spec, &files()));
    assert_eq!(body["Hostname"], "here");
    let host = &body["HostConfig"];
    assert_eq!(
        host["ExtraHosts"],
        json!(["here:10.100.0.2", "db:10.0.0.1", "db.example:10.0.0.1"])
    );
    assert_eq!(host["Dns"], json!(["1.1.1.1"]));
    assert_eq!(host["DnsSearch"], json!(["example.org"]));
    assert_eq!(host["DnsOptions"], json!(["ndots:2"]));
    let body = sent(task("ipvsmesh", &a_task(&spec), &spec, "web.3.x.sandbox"));
    // Docker refuses each of them
    assert_eq!(body.get("Hostname"), None);
    for key in [
        "Dns",
        "DnsSearch",
        "DnsOptions",
        "ExtraHosts",
        "PortBindings",
    ] {
        assert_eq!(body["HostConfig"].get(key), None, "{key}");
    }
}

#[test]
fn a_spec_that_says_nothing_leaves_all_to_the_image() {
    let body = sent(task(
        "ipvsmesh",
        &a_task(&image("web:1")),
        &image("web:1"),
        "s",
    ));
    let expected = json!({
        "Image": "web:1",
        "Tty": false,
        "StopTimeout": 10,
        "Labels": {
            "ipvsmesh.instance": "ipvsmesh", "ipvsmesh.role": "task",
            "ipvsmesh.task": TaskId::from_random([1; 16]),
        },
        "HostConfig": {
            "NetworkMode": "container:s",
            "ReadonlyRootfs": false,
            "RestartPolicy": {"Name": "no"},
        },
    });
    assert_eq!(body, expected);
}

#[test]
fn all_that_is_said_is_sent() {
    let text = |words: &[&str]| {
        words
            .iter()
            .map(|&word| word.to_owned())
            .collect::<Vec<_>>()
    };
    let pairs = |pairs: &[(&str, &str)]| {
        let pairs = pairs.iter();
        pairs
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    };
    let spec = ContainerSpec {
        command: text(&["sh", "-c"]),
        args: text(&["true"]),
        env: text(&["A=b"]),
        labels: pairs(&[("color", "blue"), ("ipvsmesh.role", "sandbox")]),
        user: Some("7:7".to_owned()),
        groups: text(&["9"]),
        dir: Some("/srv".to_owned()),
        mounts: vec![
            Mount {
                target: "/b".to_owned(),
                read_only: true,
                kind: MountKind::Bind {
                    source: "/srv".to_owned(),
                    propagation: Some("rslave".to_owned()),
                    non_recursive: false,
                },
            },
            Mount {
                target: "/v".to_owned(),
                read_only: false,
                kind: MountKind::Volume {
                    source: Some("v".to_owned()),
                    no_copy: true,
                    labels: pairs(&[("a", "b")]),
                    driver: Some("local".to_owned()),
                    options: pairs(&[("o", "size=1m")]),
                },
            },
            Mount {
                target: "/t".to_owned(),
                read_only: false,
                kind: MountKind::Tmpfs {
                    size: 1 << 20,
                    mode: 0o1770,
                },
            },
        ],
        resources: Resources {
            cpus: 500_000_000,
            memory: 64 << 20,
            pids: 10,
            reserved_cpus: 1,
            reserved_memory: 8 << 20,
        },
        cap_add: text(&["NET_ADMIN"]),
        cap_drop: text(&["ALL"]),
        health: Some(HealthCheck {
            test: text(&["CMD", "true"]),
            interval: Some(Duration::from_secs(5)),
            retries: Some(2),
            ..HealthCheck::default()
        }),
        stop_signal: Some("SIGINT".to_owned()),
        stop_grace: Some(Duration::from_secs(3)),
        init: Some(true),
        read_only: true,
        tty: true,
        log: Some(LogDriver {
            name: "json-file".to_owned(),
            options: pairs(&[("max-size", "1m")]),
        }),
        sysctls: pairs(&[("net.core.somaxconn", "10")]),
        ulimits: vec![Ulimit {
            name: "nofile".to_owned(),
            soft: 10,
            hard: 20,
        }],
        oom_score_adj: Some(5),
        ..image("web:1")
    };
    let body = sent(task("ipvsmesh", &a_task(&spec), &spec, "s"));
    for (key, value) in [
        ("Entrypoint", json!(["sh", "-c"])),
        ("Cmd", json!(["true"])),
        ("Env", json!(["A=b"])),
        ("User", json!("7:7")),
        ("WorkingDir", json!("/srv")),
        ("Tty", json!(true)),
        ("StopSignal", json!("SIGINT")),
        ("StopTimeout", json!(3)),
        (
            "Healthcheck",
            json!({"Test": ["CMD", "true"], "Interval": 5_000_000_000_u64, "Retries": 2}),
        ),
    ] {
        assert_eq!(body[key], value, "{key}");
    }
    // a user's label cannot make it another's container
    assert_eq!(body["Labels"]["color"], "blue");
    assert_eq!(body["Labels"]["ipvsmesh.role"], "task");
    let host = &body["HostConfig"];
    for (key, value) in [
        ("GroupAdd", json!(["9"])),
        ("NanoCpus", json!(500_000_000)),
        ("Memory", json!(64 << 20)),
        ("MemoryReservation", json!(8 << 20)),
        ("PidsLimit", json!(10)),
        ("CapAdd", json!(["NET_ADMIN"])),
        ("CapDrop", json!(["ALL"])),
        ("Init", json!(true)),
        ("ReadonlyRootfs", json!(true)),
        (
            "LogConfig",
            json!({"Type": "json-file", "Config": {"max-size": "1m"}}),
        ),
        ("Sysctls", json!({"net.core.somaxconn": "10"})),
        (
            "Ulimits",
            json!([{"Name": "nofile", "Soft": 10, "Hard": 20}]),
        ),
        ("OomScoreAdj", json!(5)),
        (
            "Mounts",
            json!([
                {
                    "Type": "bind", "Source": "/srv", "Target": "/b", "ReadOnly": true,
                    "BindOptions": {"Propagation": "rslave", "NonRecursive": false},
                },
                {
                    "Type": "volume", "Source": "v", "Target": "/v", "ReadOnly": false,
                    "VolumeOptions": {
                        "NoCopy": true, "Labels": {"a": "b"},
                        "DriverConfig": {"Name": "local", "Options": {"o": "size=1m"}},
                    },
                },
                {
                    "Type": "tmpfs", "Target": "/t", "ReadOnly": false,
                    "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 0o1770},
                },
            ]),
        ),
    ] {
        assert_eq!(host[key], value, "{key}");
    }
}
