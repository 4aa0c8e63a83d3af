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
        elsewhere: None,
    }
}

fn files() -> TaskFiles {
    TaskFiles {
        hostname: "web.3".to_owned(),
        addresses: vec!["10.100.0.2".parse().unwrap()],
        nameservers: vec!["10.100.0.1".parse().unwrap()],
        files: Vec::new(),
        registry_auth: None,
    }
}

fn image(name: &str) -> ContainerSpec {
    ContainerSpec {
        image: name.to_owned(),
        ..ContainerSpec::default()
    }
}

/// What is sent for this, where the image has a program.
fn made(spec: &ContainerSpec) -> Value {
    let image = ImageProgram {
        entrypoint: Vec::new(),
        cmd: vec!["web".to_owned()],
    };
    let gate = Path::new("/var/lib/ipvsmesh/gates/x");
    let body = container("ipvsmesh", &a_task(spec), spec, &files(), &image, gate);
    serde_json::to_value(body.unwrap()).unwrap()
}

#[test]
fn a_spec_that_says_nothing_leaves_all_to_the_image() {
    let mut body = made(&image("web:1"));
    // by the kernel of this machine
    body["HostConfig"]["Sysctls"] = json!({});
    let expected = json!({
        "Image": "web:1",
        "Hostname": "web.3",
        "Entrypoint": ["/.ipvsmesh/gate", "/.ipvsmesh/open", "web"],
        "Tty": false,
        "StopTimeout": 10,
        "Labels": {
            "ipvsmesh.instance": "ipvsmesh",
            "ipvsmesh.task": TaskId::from_random([1; 16]),
        },
        "HostConfig": {
            "Binds": ["/var/lib/ipvsmesh/gates/x:/.ipvsmesh:ro,z"],
            "NetworkMode": "none",
            "Dns": ["10.100.0.1"],
            "DnsSearch": ["."],
            "DnsOptions": ["ndots:0"],
            "ExtraHosts": ["web.3:10.100.0.2"],
            "ReadonlyRootfs": false,
            "RestartPolicy": {"Name": "no"},
            "Sysctls": {},
        },
    });
    assert_eq!(body, expected);
}

#[test]
fn names_and_hosts_are_as_they_are_said() {
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
    let body = made(&spec);
    assert_eq!(body["Hostname"], "here");
    let host = &body["HostConfig"];
    assert_eq!(
        host["ExtraHosts"],
        json!(["here:10.100.0.2", "db:10.0.0.1", "db.example:10.0.0.1"])
    );
    // the mesh's responder asks that one
    assert_eq!(host["Dns"], json!(["10.100.0.1"]));
    assert_eq!(host["DnsSearch"], json!(["example.org"]));
    assert_eq!(host["DnsOptions"], json!(["ndots:2"]));
}

#[test]
fn the_program_is_found_as_docker_finds_it() {
    let words = |text: &str| -> Vec<String> { text.split(' ').map(str::to_owned).collect() };
    let of = |own: (&str, &str), image: (&str, &str)| {
        let words = |text: &str| {
            if text.is_empty() {
                Vec::new()
            } else {
                words(text)
            }
        };
        let spec = ContainerSpec {
            command: words(own.0),
            args: words(own.1),
            ..ContainerSpec::default()
        };
        let image = ImageProgram {
            entrypoint: words(image.0),
            cmd: words(image.1),
        };
        command(&spec, &image).join(" ")
    };
    for (own, image, expected) in [
        (("", ""), ("entry", "a b"), "entry a b"),
        (("", ""), ("", "a b"), "a b"),
        (("", "c"), ("entry", "a b"), "entry c"),
        (("own", ""), ("entry", "a b"), "own"),
        (("own", "c d"), ("entry", "a b"), "own c d"),
        (("", ""), ("", ""), ""),
    ] {
        assert_eq!(of(own, image), expected, "{own:?} {image:?}");
    }
    let nothing = container(
        "ipvsmesh",
        &a_task(&image("x")),
        &image("x"),
        &files(),
        &ImageProgram::default(),
        "/gate".as_ref(),
    );
    assert_eq!(nothing, None);
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
        labels: pairs(&[("color", "blue"), ("ipvsmesh.instance", "other")]),
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
    let body = made(&spec);
    for (key, value) in [
        (
            "Entrypoint",
            json!(["/.ipvsmesh/gate", "/.ipvsmesh/open", "sh", "-c", "true"]),
        ),
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
    assert_eq!(body["Labels"]["ipvsmesh.instance"], "ipvsmesh");
    let host = &body["HostConfig"];
    assert_eq!(host["Sysctls"]["net.core.somaxconn"], "10");
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
