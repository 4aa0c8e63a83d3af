use model::{
    FailureAction, Network, NetworkId, Pool, Revision, Service, ServiceId, UpdateConfig,
    UpdateOrder, Versioned,
};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::show;

/// What docker 28.2.2 sends for `docker service create --name vote --replicas 3
/// --label ipvsmesh.runtime=process --publish 8080:80 whoami whoami --port 80`.
fn spec() -> Value {
    json!({
        "Name": "vote",
        "Labels": {label::RUNTIME: "process"},
        "TaskTemplate": {
            "ContainerSpec": {
                "Image": "whoami:latest", "Args": ["whoami", "--port", "80"], "Init": false, "DNSConfig": {}
            },
            "Resources": {"Limits": {}, "Reservations": {}},
            "Placement": {}, "ForceUpdate": 0
        },
        "Mode": {"Replicated": {"Replicas": 3}},
        "EndpointSpec": {"Mode": "vip", "Ports": [
            {"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080, "PublishMode": "ingress"}
        ]}
    })
}

/// The spec with one value put at a JSON pointer.
fn with(pointer: &str, value: Value) -> Value {
    let mut spec = spec();
    let (at, key) = pointer.rsplit_once('/').unwrap();
    spec.pointer_mut(at).unwrap()[key] = value;
    spec
}

fn network_id(n: u8) -> NetworkId {
    NetworkId::from_random([n; 16])
}

/// Two networks, `net1` and `net2`.
fn state() -> State {
    let mut state = State::default();
    for n in [1, 2] {
        let network = Network {
            id: network_id(n),
            spec: super::network(&json!({"Name": format!("net{n}")})).unwrap(),
            pools: vec![Pool {
                subnet: "10.100.0.0/20".parse().unwrap(),
                vips: "10.200.0.0/20".parse().unwrap(),
            }],
            created: jiff::Timestamp::UNIX_EPOCH,
            raw: Value::Null,
        };
        state.put(Revision(1), model::Object::Network(network));
    }
    state
}

/// The spec as the API would show it.
fn shown(spec: &ServiceSpec, raw: &Value, state: &State) -> Value {
    let service = Service {
        id: ServiceId::from_random([3; 16]),
        spec: spec.clone(),
        spec_after: Revision::default(),
        previous: None,
        endpoint: model::Endpoint::default(),
        created: jiff::Timestamp::UNIX_EPOCH,
        updated: jiff::Timestamp::UNIX_EPOCH,
        update_status: None,
        raw: raw.clone(),
        raw_previous: Value::Null,
    };
    let versioned = Versioned::new(Revision(2), service);
    show::service(state, &versioned, true)
}

#[test]
fn the_docker_clis_spec_is_understood() {
    let spec = service(&spec(), &State::default()).unwrap();
    assert_eq!(spec.name.as_str(), "vote");
    assert_eq!(spec.mode, Mode::Replicated { replicas: 3 });
    let RuntimeSpec::Process(process) = &spec.task.runtime else {
        panic!("it is a process");
    };
    assert_eq!(process.command, ["whoami", "--port", "80"]);
    assert_eq!(spec.endpoint.ports[0].published, Some(8080));
}

#[test]
fn where_tasks_are_goes_there_and_back() {
    let placement = json!({
        "Constraints": ["node.labels.disk==ssd"],
        "Preferences": [{"Spread": {"SpreadDescriptor": "node.labels.rack"}}],
        "MaxReplicas": 2,
    });
    let raw = with("/TaskTemplate/Placement", placement.clone());
    let spec = service(&raw, &state()).unwrap();
    assert_eq!(spec.placement.max_per_node, NonZeroU32::new(2));
    let shown = shown(&spec, &Value::Null, &state());
    assert_eq!(shown["Spec"]["TaskTemplate"]["Placement"], placement);
    let mut global = raw;
    global["Mode"] = json!({"Global": {}});
    let refused = service(&global, &state()).unwrap_err().message;
    assert!(refused.contains("Placement.MaxReplicas"), "{refused}");
    let wrong = with("/TaskTemplate/Placement", json!({"MaxReplicas": -1}));
    service(&wrong, &state()).unwrap_err();
}

#[test]
fn what_docker_leaves_out_has_its_defaults() {
    let raw = json!({
        "Name": "a",
        "TaskTemplate": {"Runtime": "process", "ContainerSpec": {"Args": ["x"]}},
        "Mode": {"Replicated": {}},
        "EndpointSpec": {"Ports": [{"TargetPort": 80}]},
    });
    let spec = service(&raw, &State::default()).unwrap();
    assert_eq!(spec.mode, Mode::Replicated { replicas: 1 });
    assert_eq!(spec.task.restart, RestartPolicy::default());
    assert_eq!(spec.endpoint.mode, EndpointMode::Vip);
    let port = &spec.endpoint.ports[0];
    assert_eq!(
        (port.protocol, port.published, port.mode),
        (Protocol::Tcp, None, PublishMode::Ingress)
    );
    // said one way, so that docker's own client can send it back
    assert_eq!(spec.labels[label::RUNTIME], "process");
    let back = &shown(&spec, &raw, &State::default())["Spec"];
    assert_eq!(back["TaskTemplate"]["Runtime"], "container");
    assert_eq!(service(back, &State::default()).unwrap(), spec);
}

#[test]
fn what_we_do_not_have_is_refused_by_name() {
    for (pointer, value, word) in [
        (
            "/TaskTemplate/ContainerSpec/Mounts",
            json!([{"Target": "/t"}]),
            "TaskTemplate.ContainerSpec.Mounts",
        ),
        (
            "/TaskTemplate/ContainerSpec/Healthcheck",
            json!({"Test": ["CMD", "true"]}),
            "TaskTemplate.ContainerSpec.Health",
        ),
        (
            "/TaskTemplate/ContainerSpec/Hostname",
            json!("h"),
            "TaskTemplate.ContainerSpec.Hostname",
        ),
        (
            "/TaskTemplate/ContainerSpec/TTY",
            json!(true),
            "TaskTemplate.ContainerSpec.TTY",
        ),
        (
            "/TaskTemplate/ContainerSpec/Init",
            json!(true),
            "TaskTemplate.ContainerSpec.Init",
        ),
        (
            "/TaskTemplate/ContainerSpec/Secrets",
            json!([{"SecretName": "s"}]),
            "secret s not found",
        ),
        (
            "/TaskTemplate/ContainerSpec/DNSConfig",
            json!({"Nameservers": ["1.1.1.1"]}),
            "TaskTemplate.ContainerSpec.DNSConfig",
        ),
        (
            "/TaskTemplate/ContainerSpec/Isolation",
            json!("hyperv"),
            "TaskTemplate.ContainerSpec.Isolation",
        ),
        (
            "/TaskTemplate/ContainerSpec/Fancy",
            json!(1),
            "TaskTemplate.ContainerSpec.Fancy",
        ),
        (
            "/TaskTemplate/ContainerSpec/Args",
            json!("x"),
            "TaskTemplate.ContainerSpec.Args",
        ),
        (
            "/TaskTemplate/ContainerSpec/StopSignal",
            json!("SIGNAL"),
            "TaskTemplate.ContainerSpec.StopSignal",
        ),
        (
            "/TaskTemplate/ContainerSpec/StopGracePeriod",
            json!(-1),
            "TaskTemplate.ContainerSpec.StopGracePeriod",
        ),
        (
            "/TaskTemplate/Resources",
            json!({"Limits": {"MemoryBytes": 1}}),
            "TaskTemplate.Resources",
        ),
        (
            "/TaskTemplate/LogDriver",
            json!({"Name": "none"}),
            "TaskTemplate.LogDriver",
        ),
        (
            "/TaskTemplate/Placement",
            json!({"Constraints": ["a==b"]}),
            "TaskTemplate.Placement.Constraints",
        ),
        (
            "/TaskTemplate/Networks",
            json!([{"Target": "net1", "DriverOpts": {"a": "b"}}]),
            "TaskTemplate.Networks[0].DriverOpts",
        ),
        (
            "/TaskTemplate/Networks",
            json!([{"Target": "nowhere"}]),
            "nowhere",
        ),
        (
            "/TaskTemplate/RestartPolicy",
            json!({"Condition": "sometimes"}),
            "TaskTemplate.RestartPolicy.Condition",
        ),
        (
            "/TaskTemplate/RestartPolicy",
            json!({"Delay": -1}),
            "TaskTemplate.RestartPolicy.Delay",
        ),
        (
            "/TaskTemplate/RestartPolicy",
            json!({"MaxAttempts": -1}),
            "TaskTemplate.RestartPolicy.MaxAttempts",
        ),
        ("/TaskTemplate/Runtime", json!("plugin"), "plugin"),
        (
            "/UpdateConfig",
            json!({"Parallelism": -1}),
            "UpdateConfig.Parallelism",
        ),
        (
            "/UpdateConfig",
            json!({"Order": "stop-both"}),
            "UpdateConfig.Order",
        ),
        (
            "/UpdateConfig",
            json!({"MaxFailureRatio": 1.5}),
            "UpdateConfig.MaxFailureRatio",
        ),
        (
            "/RollbackConfig",
            json!({"Delay": -1}),
            "RollbackConfig.Delay",
        ),
        (
            "/RollbackConfig",
            json!({"FailureAction": "rollback"}),
            "RollbackConfig.FailureAction",
        ),
        (
            "/Mode/Replicated/Replicas",
            json!(-1),
            "Mode.Replicated.Replicas: -1",
        ),
        (
            "/Mode/Replicated/Replicas",
            json!(1u64 << 40),
            "Mode.Replicated.Replicas",
        ),
        ("/Mode/ReplicatedJob", json!({}), "Mode: jobs"),
        ("/Labels/ipvsmesh.color", json!("red"), "ipvsmesh.color"),
        ("/Labels/ipvsmesh.pull", json!("never"), "ipvsmesh.pull"),
        ("/Labels/ipvsmesh.runtime", json!("magic"), "magic"),
        ("/Name", json!("no good"), "Name: name \"no good\""),
        ("/EndpointSpec/Mode", json!("magic"), "EndpointSpec.Mode"),
        (
            "/EndpointSpec/Ports",
            json!([{"TargetPort": 70000}]),
            "EndpointSpec.Ports[0].TargetPort: 70000",
        ),
        (
            "/EndpointSpec/Ports",
            json!([{"TargetPort": 1}, {"TargetPort": 1, "PublishedPort": -1}]),
            "EndpointSpec.Ports[1].PublishedPort: -1",
        ),
        (
            "/EndpointSpec/Ports",
            json!([{"TargetPort": 1, "Protocol": "icmp"}]),
            "EndpointSpec.Ports[0].Protocol",
        ),
        (
            "/EndpointSpec/Ports",
            json!([{"TargetPort": 1, "Fancy": 1}]),
            "EndpointSpec.Ports[0].Fancy",
        ),
        (
            "/EndpointSpec/Ports",
            json!([{"TargetPort": 1, "HostIP": "x"}]),
            "EndpointSpec.Ports[0].HostIP",
        ),
    ] {
        if pointer == "/TaskTemplate/Runtime" {
            // the label, which the spec has, is the stronger word
            assert!(service(&with(pointer, value), &state()).is_ok());
            continue;
        }
        let message = service(&with(pointer, value), &state())
            .unwrap_err()
            .message;
        assert!(message.contains(word), "{pointer}: {message}");
    }
}

#[test]
fn what_says_nothing_is_taken() {
    for (pointer, value) in [
        ("/TaskTemplate/ContainerSpec/Mounts", json!([])),
        ("/TaskTemplate/ContainerSpec/Fancy", json!(false)),
        (
            "/TaskTemplate/ContainerSpec/Privileges",
            json!({"CredentialSpec": null, "SELinuxContext": null}),
        ),
        ("/TaskTemplate/ContainerSpec/Isolation", json!("default")),
        ("/TaskTemplate/ContainerSpec/StopSignal", json!("INT")),
        ("/TaskTemplate/ContainerSpec/StopSignal", json!("15")),
        (
            "/TaskTemplate/Placement",
            json!({"Platforms": [{"Architecture": "amd64", "OS": "linux"}]}),
        ),
        (
            "/EndpointSpec/Ports",
            json!([{"TargetPort": 1, "HostIP": "127.0.0.1"}]),
        ),
    ] {
        assert!(
            service(&with(pointer, value), &state()).is_ok(),
            "{pointer}"
        );
    }
}

#[test]
fn networks_are_understood() {
    // what docker 20.10.24 sends
    let raw = json!({"CheckDuplicate": true, "Name": "back", "Driver": "overlay", "Scope": "", "EnableIPv6": false, "IPAM": {"Driver": "default", "Options": {}, "Config": [{"Subnet": "10.101.0.0/24"}]}, "Internal": true, "Attachable": false, "Ingress": false, "ConfigOnly": false, "ConfigFrom": null, "Options": {"encrypted": "false"}, "Labels": {"a": "b"}});
    let spec = network(&raw).unwrap();
    assert_eq!(spec.subnets, ["10.101.0.0/24".parse().unwrap()]);
    assert!(spec.internal);
    assert_eq!(spec.labels["a"], "b");
    assert!(!spec.ipv6);
    let raw = json!({"Name": "x", "EnableIPv6": true, "IPAM": {"Config": [{"Subnet": "fd00:1::/64"}, {"Subnet": "10.1.0.0/24"}]}});
    let both = network(&raw).unwrap();
    assert!(both.ipv6 && both.subnets.len() == 2);
}

#[test]
fn options_are_labels_that_are_read() {
    for (label, good, bad) in [
        (label::SCHEDULER, "wlc", "magic"),
        (label::WEIGHT, "1=3", "-1"),
        (label::AFFINITY, "client-ip,1h", "cookie"),
        (label::CONNECTION_LIMIT, "10:5", "5:10"),
        (label::DRAIN_TIMEOUT, "1m", "5"),
    ] {
        let with = |value: &str| with(&format!("/Labels/{label}"), json!(value));
        let spec = service(&with(good), &state()).unwrap();
        assert_eq!(spec.labels[label], good);
        let refused = service(&with(bad), &state()).unwrap_err();
        let why = Options::of(&BTreeMap::from([(label.to_owned(), bad.to_owned())]));
        assert!(matches!(refused.kind, crate::ErrorKind::Invalid));
        assert_eq!(refused.message, format!("Labels: {}", why.unwrap_err()));
    }
    // they are a service's
    let network = super::network(&json!({"Name": "x", "Labels": {label::WEIGHT: "1"}}));
    assert!(network.unwrap_err().message.contains(label::WEIGHT));
}

#[test]
fn a_host_address_outlives_clients_without_the_word() {
    let port = |n: u16, ip: Option<Value>| {
        let mut port = json!({"TargetPort": n, "PublishedPort": n});
        if let Some(ip) = ip {
            port["HostIP"] = ip;
        }
        port
    };
    let spec = |ports: Value| with("/EndpointSpec/Ports", ports);
    let before = spec(json!([
        port(1, Some(json!("127.0.0.1"))),
        port(1, Some(json!("::1"))),
        port(2, Some(json!("::"))),
        port(3, None),
    ]));
    let before = service(&before, &state()).unwrap();
    let ips = |ports: Value| {
        let spec = changed_service(&spec(ports), &state(), &before).unwrap();
        let ips = spec.endpoint.ports.iter().map(|p| p.host_ip);
        ips.map(|ip| ip.map_or_else(|| "*".to_owned(), |ip| ip.to_string()))
            .collect::<Vec<_>>()
    };
    let silent = json!([
        port(1, None),
        port(1, None),
        port(2, None),
        port(3, None),
        port(4, None)
    ]);
    assert_eq!(ips(silent), ["127.0.0.1", "::1", "::", "*", "*"]);
    let said = json!([
        port(1, Some(json!(""))),
        port(2, Some(json!("10.0.0.1"))),
        port(3, Some(json!("::1")))
    ]);
    assert_eq!(ips(said), ["*", "10.0.0.1", "::1"]);
}

#[test]
fn networks_of_another_kind_are_refused_by_name() {
    for (key, value, word) in [
        ("Driver", json!("macvlan"), "Driver: macvlan"),
        ("Driver", json!("bridge"), "--driver overlay"),
        ("EnableIPv4", json!(false), "EnableIPv4"),
        ("Attachable", json!(true), "Attachable"),
        ("Scope", json!("local"), "Scope"),
        ("Options", json!({"encrypted": ""}), "Options.encrypted"),
        ("Options", json!({"mtu": "9000"}), "Options.mtu"),
        ("Labels", json!({"ipvsmesh.x": "1"}), "ipvsmesh.x"),
        (
            "IPAM",
            json!({"Config": [{"Subnet": "x"}]}),
            "IPAM.Config.Subnet: x",
        ),
        (
            "IPAM",
            json!({"Config": [{"Subnet": "fd00:1::/64"}]}),
            "fd00:1::/64 is IPv6: add EnableIPv6",
        ),
        (
            "IPAM",
            json!({"Config": [{"Subnet": "10.1.0.0/24"}, {"Subnet": "10.2.0.0/24"}]}),
            "of one family",
        ),
        (
            "IPAM",
            json!({"Config": [{"Gateway": "10.0.0.1"}]}),
            "Gateway",
        ),
        ("IPAM", json!({"Driver": "dhcp"}), "IPAM.Driver"),
        ("Name", json!("no good"), "no good"),
        ("Name", json!(7), "Name"),
    ] {
        let mut raw = json!({"Name": "x"});
        raw[key] = value;
        let message = network(&raw).unwrap_err().message;
        assert!(message.contains(word), "{key}: {message}");
    }
}

prop_compose! {
    fn any_port()(
        udp in any::<bool>(), host in any::<bool>(), target in 1u16..,
        published in proptest::option::of(1u16..), ip in proptest::option::of(any::<[u8; 4]>()),
    ) -> PublishedPort {
        PublishedPort {
            protocol: if udp { Protocol::Udp } else { Protocol::Tcp },
            target,
            published,
            mode: if host { PublishMode::Host } else { PublishMode::Ingress },
            host_ip: ip.map(IpAddr::from),
        }
    }
}

prop_compose! {
    fn any_process()(
        command in proptest::collection::vec("[ -~]{1,8}", 1..4),
        env in proptest::collection::vec("[A-Z]{1,4}=[ -~]{0,4}", 0..3),
        dir in proptest::option::of("/[a-z]{1,5}"),
        user in proptest::option::of("[a-z]{1,5}"),
        signal in proptest::option::of(proptest::sample::select(vec!["SIGINT", "TERM", "9"])),
        grace in 0..1u64 << 50,
    ) -> ProcessSpec {
        ProcessSpec {
            command,
            env,
            dir,
            user,
            files: Vec::new(),
            stop_signal: signal.map(str::to_owned),
            stop_grace: Duration::from_nanos(grace),
        }
    }
}

prop_compose! {
    fn any_spec()(
        name in "[a-zA-Z0-9]([a-z_-]{0,8}[a-z0-9])?",
        mut labels in proptest::collection::btree_map("[a-z]{1,5}", "[ -~]{0,5}", 0..3),
        replicas in proptest::option::of(any::<u32>()),
        process in any_process(),
        networks in proptest::sample::subsequence(vec![1u8, 2], 0..=2),
        alias in proptest::option::of("[a-z]{1,5}"),
        (condition, delay, max_attempts, window) in (0usize..3, 0..1u64 << 50, 0..1u64 << 40, 0..1u64 << 50),
        force_update in 0..1u64 << 40,
        dnsrr in any::<bool>(),
        ports in proptest::collection::vec(any_port(), 0..3),
        update in any_update(&[FailureAction::Pause, FailureAction::Continue, FailureAction::Rollback]),
        rollback in any_update(&[FailureAction::Pause, FailureAction::Continue]),
    ) -> ServiceSpec {
        labels.insert(label::RUNTIME.to_owned(), "process".to_owned());
        let attach = |n| NetworkAttachment { network: network_id(n), aliases: alias.clone().into_iter().collect() };
        ServiceSpec {
            name: name.parse().unwrap(),
            labels,
            mode: replicas.map_or(Mode::Global, |replicas| Mode::Replicated { replicas }),
            task: TaskSpec {
                runtime: RuntimeSpec::Process(process),
                networks: networks.into_iter().map(attach).collect(),
                restart: RestartPolicy {
                    condition: [RestartCondition::Any, RestartCondition::OnFailure, RestartCondition::None][condition],
                    delay: Duration::from_nanos(delay),
                    max_attempts,
                    window: Duration::from_nanos(window),
                },
                force_update,
            },
            placement: Default::default(),
            endpoint: EndpointSpec {
                mode: if dnsrr { EndpointMode::DnsRr } else { EndpointMode::Vip },
                ports,
            },
            update,
            rollback,
            registry_auth: None,
        }
    }
}

fn any_update(actions: &'static [FailureAction]) -> impl Strategy<Value = UpdateConfig> {
    let ratio = (0..=100u8).prop_map(|percent| f64::from(percent) / 100.0);
    let order = proptest::sample::select(vec![UpdateOrder::StopFirst, UpdateOrder::StartFirst]);
    let action = proptest::sample::select(actions);
    let times = (0..1u64 << 50, 1..1u64 << 50);
    (0..1u64 << 40, times, ratio, order, action).prop_map(
        |(parallelism, (delay, monitor), max_failure_ratio, order, failure_action)| UpdateConfig {
            parallelism,
            delay: Duration::from_nanos(delay),
            failure_action,
            monitor: Duration::from_nanos(monitor),
            max_failure_ratio,
            order,
        },
    )
}

proptest! {
    #[test]
    fn a_spec_comes_back_from_dockers_json(spec in any_spec(), before in any_spec()) {
        let state = state();
        let json = shown(&spec, &Value::Null, &state)["Spec"].clone();
        prop_assert_eq!(&service(&json, &state).unwrap(), &spec);
        // whatever was sent before, nothing of it is left over
        let merged = shown(&spec, &json, &state)["Spec"].clone();
        prop_assert_eq!(&merged, &json);
        let over = shown(&spec, &shown(&before, &Value::Null, &state)["Spec"], &state);
        let again = service(&over["Spec"], &state).unwrap();
        prop_assert_eq!(&again.name, &spec.name);
        prop_assert_eq!(&again.labels, &spec.labels);
        prop_assert_eq!(&again.mode, &spec.mode);
        prop_assert_eq!(&again.endpoint.mode, &spec.endpoint.mode);
        prop_assert_eq!(&again.task.networks.len(), &spec.task.networks.len());
    }

    #[test]
    fn what_is_shown_is_dockers_model(spec in any_spec()) {
        let state = state();
        let mut json = shown(&spec, &Value::Null, &state);
        // a word of ours
        json["Spec"] = without_host_ips(&json["Spec"]).unwrap().0;
        json["Endpoint"]["Spec"] = json!({});
        let read: Result<bollard::models::Service, _> = typed(&json);
        prop_assert!(read.is_ok(), "{read:?}");
    }

    #[test]
    fn no_json_breaks_the_reader(key in "[A-Za-z]{0,12}", value in "\\PC{0,12}", n in any::<i64>()) {
        for at in ["", "/TaskTemplate", "/TaskTemplate/ContainerSpec", "/Mode", "/EndpointSpec"] {
            for value in [json!(value), json!(n), json!([value]), json!({&value: n})] {
                let _ = service(&with(&format!("{at}/{key}"), value.clone()), &state());
                let _ = network(&json!({"Name": "x", &key: value}));
            }
        }
    }
}
