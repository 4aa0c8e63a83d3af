//! The state as Docker's JSON.

mod blob;
pub(crate) mod container;

use std::{net::IpAddr, time::Duration};

use jiff::Timestamp;
use model::{
    BlobKind, DesiredState, EndpointMode, Mode, Network, Node, NodeId, Placement, Pool,
    ProcessSpec, PublishMode, PublishedPort, RestartCondition, RuntimeSpec, Server, Service,
    ServiceSpec, Spread, State, Task, TaskSpec, TaskState, UpdateConfig, UpdateStatus, Versioned,
    Vip,
};
use serde_json::{Map, Value, json};

pub(crate) use blob::blob;

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Ours over what the client sent, so that its other fields are kept; in lists
/// of one length, item by item.
fn over(raw: &Value, ours: Value) -> Value {
    match (raw, ours) {
        (Value::Object(raw), Value::Object(ours)) => {
            let mut merged = raw.clone();
            for (key, value) in ours {
                let below = raw.get(&key).unwrap_or(&Value::Null);
                merged.insert(key, over(below, value));
            }
            Value::Object(merged)
        }
        (Value::Array(raw), Value::Array(ours)) if raw.len() == ours.len() => {
            let both = raw.iter().zip(ours);
            Value::Array(both.map(|(raw, ours)| over(raw, ours)).collect())
        }
        (_, ours) => ours,
    }
}

/// The pool of an address's family.
fn pool_of(network: &Network, address: IpAddr) -> Option<&Pool> {
    let mut pools = network.pools.iter();
    pools.find(|pool| pool.subnet.addr().is_ipv6() == address.is_ipv6())
}

/// Labels that tasks are spread over, as Docker has them.
pub fn preferences(spread: &[Spread]) -> Value {
    let one = |over| json!({"Spread": {"SpreadDescriptor": over}});
    spread.iter().map(one).collect()
}

/// A published port as Docker has it; `HostIP` is a word of ours.
pub fn port(port: &PublishedPort) -> Value {
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

fn process(process: &ProcessSpec) -> Value {
    let (program, arguments) = process
        .command
        .split_first()
        .map_or(("", &[][..]), |(p, a)| (p, a));
    let mut container = json!({
        "Image": program,
        "Command": [program],
        "Args": arguments,
        "Env": process.env,
        "StopGracePeriod": nanoseconds(process.stop_grace),
        "Isolation": "default",
    });
    for (key, kind) in [("Configs", BlobKind::Config), ("Secrets", BlobKind::Secret)] {
        let files = blob::files(&process.files, kind);
        if !files.is_empty() {
            container[key] = json!(files);
        }
    }
    for (key, value) in [
        ("Dir", &process.dir),
        ("User", &process.user),
        ("StopSignal", &process.stop_signal),
    ] {
        if let Some(value) = value {
            container[key] = json!(value);
        }
    }
    container
}

fn task_template(spec: &TaskSpec) -> Value {
    let (container, beside) = match &spec.runtime {
        RuntimeSpec::Process(spec) => (process(spec), Map::new()),
        RuntimeSpec::Docker(spec) => (container::container(spec), container::beside(spec)),
        RuntimeSpec::Static => (json!({"Image": "static"}), Map::new()),
        RuntimeSpec::Adopted { image, .. } => (json!({"Image": image}), Map::new()),
    };
    let networks: Vec<_> = spec
        .networks
        .iter()
        .map(|attachment| json!({"Target": attachment.network, "Aliases": attachment.aliases}))
        .collect();
    let mut template = json!({
        // the label says what it is: docker's client sends nothing back that
        // has another runtime here and a ContainerSpec
        "Runtime": "container",
        "ContainerSpec": container,
        "RestartPolicy": {
            "Condition": match spec.restart.condition {
                RestartCondition::Any => "any",
                RestartCondition::OnFailure => "on-failure",
                RestartCondition::None => "none",
            },
            "Delay": nanoseconds(spec.restart.delay),
            "MaxAttempts": spec.restart.max_attempts,
            "Window": nanoseconds(spec.restart.window),
        },
        "Networks": networks,
        "ForceUpdate": spec.force_update,
    });
    for (key, value) in beside {
        template[key] = value;
    }
    template
}

fn service_spec(spec: &ServiceSpec, raw: &Value) -> Value {
    let ports: Vec<_> = spec.endpoint.ports.iter().map(port).collect();
    // maps are replaced whole: a label that is gone must not come back
    let mut raw = raw.clone();
    if let Value::Object(map) = &mut raw {
        for key in ["Labels", "Mode", "Networks"] {
            map.remove(key);
        }
    }
    let mut template = task_template(&spec.task);
    let Placement {
        constraints,
        spread,
        max_per_node,
    } = &spec.placement;
    if !constraints.is_empty() {
        template["Placement"]["Constraints"] = json!(constraints);
    }
    if !spread.is_empty() {
        template["Placement"]["Preferences"] = preferences(spread);
    }
    if let Some(most) = max_per_node {
        template["Placement"]["MaxReplicas"] = json!(most);
    }
    over(
        &raw,
        json!({
            "Name": spec.name,
            "Labels": spec.labels,
            "TaskTemplate": template,
            "Mode": match spec.mode {
                Mode::Replicated { replicas } => json!({"Replicated": {"Replicas": replicas}}),
                Mode::Global => json!({"Global": {}}),
            },
            "EndpointSpec": {"Mode": endpoint_mode(spec.endpoint.mode), "Ports": ports},
            "UpdateConfig": update_config(&spec.update),
            "RollbackConfig": update_config(&spec.rollback),
        }),
    )
}

fn update_config(config: &UpdateConfig) -> Value {
    json!({
        "Parallelism": config.parallelism,
        "Delay": nanoseconds(config.delay),
        "FailureAction": config.failure_action.as_str(),
        "Monitor": nanoseconds(config.monitor),
        "MaxFailureRatio": config.max_failure_ratio,
        "Order": config.order.as_str(),
    })
}

fn update_status(status: &UpdateStatus) -> Value {
    let mut shown = json!({
        "State": status.state.as_str(),
        "StartedAt": status.started,
        "Message": status.message,
    });
    if let Some(completed) = status.completed {
        shown["CompletedAt"] = json!(completed);
    }
    shown
}

fn endpoint_mode(mode: EndpointMode) -> &'static str {
    match mode {
        EndpointMode::Vip => "vip",
        EndpointMode::DnsRr => "dnsrr",
    }
}

/// `Service` of the Engine API; `status` adds `ServiceStatus`.
pub(crate) fn service(state: &State, service: &Versioned<Service>, status: bool) -> Value {
    let ports: Vec<_> = service
        .endpoint
        .ports
        .iter()
        .map(|allocated| port(&allocated.port))
        .collect();
    let prefix = |vip: &Vip| {
        let network = state.networks.get(&vip.network);
        let pool = network.and_then(|network| pool_of(network, vip.address));
        let whole = if vip.address.is_ipv6() { 128 } else { 32 };
        pool.map_or(whole, |pool| pool.vips.prefix_len())
    };
    let vips: Vec<_> = service
        .endpoint
        .vips
        .iter()
        .map(|vip| {
            json!({"NetworkID": vip.network, "Addr": format!("{}/{}", vip.address, prefix(vip))})
        })
        .collect();
    let spec = service_spec(&service.spec, &service.raw);
    let mut shown = json!({
        "ID": service.id,
        "Version": {"Index": service.version.0},
        "CreatedAt": service.created,
        "UpdatedAt": service.updated,
        "Endpoint": {"Spec": spec["EndpointSpec"], "Ports": ports, "VirtualIPs": vips},
        "Spec": spec,
    });
    if let Some(previous) = &service.previous {
        shown["PreviousSpec"] = service_spec(previous, &service.raw_previous);
    }
    if let Some(status) = &service.update_status {
        shown["UpdateStatus"] = update_status(status);
    }
    if status {
        let tasks = state.tasks_of(&service.id);
        let running = tasks.iter().filter(|task| runs(state, task)).count();
        let nodes = u32::try_from(state.nodes.len()).unwrap_or(u32::MAX);
        shown["ServiceStatus"] = json!({
            "RunningTasks": running,
            "DesiredTasks": service.wanted_tasks(nodes),
            "CompletedTasks": 0,
        });
    }
    shown
}

/// Whether nothing of a task runs any more.
pub(crate) fn has_ended(state: &State, task: &Task) -> bool {
    let status = state.status(&task.id);
    status.is_some_and(|status| status.state.is_final())
}

/// Whether a task serves, or could.
pub(crate) fn runs(state: &State, task: &Task) -> bool {
    task.desired == DesiredState::Running
        && state
            .status(&task.id)
            .is_some_and(|status| status.runs() && !status.draining)
}

/// The word for what is wanted of a task.
pub(crate) fn desired(task: &Task, now: Timestamp) -> &'static str {
    match task.desired {
        // Swarm's word for one that waits for its restart delay
        DesiredState::Running if task.not_before.is_some_and(|at| at > now) => "ready",
        DesiredState::Running => "running",
        DesiredState::Shutdown => "shutdown",
        DesiredState::Remove => "remove",
    }
}

/// `Task` of the Engine API.
pub(crate) fn task(state: &State, task: &Versioned<Task>) -> Value {
    let status = state.status(&task.id);
    let at = status.map_or(task.created, |status| status.since);
    let word = status
        .map_or(TaskState::New, |status| status.state)
        .as_str();
    let mut container = json!({});
    if let Some(process) = status.and_then(|status| status.process.as_ref()) {
        container["PID"] = json!(process.pid);
    }
    if let Some(code) = status.and_then(|status| status.exit_code) {
        container["ExitCode"] = json!(code);
    }
    let attachments: Vec<_> = task
        .attachments
        .iter()
        .filter_map(|attachment| {
            let network = state.networks.get(&attachment.network)?;
            let addresses: Vec<_> = attachment
                .addresses
                .iter()
                .filter_map(|a| match &task.elsewhere {
                    None => Some(format!("{a}/{}", pool_of(network, *a)?.subnet.prefix_len())),
                    Some(_) => Some(ipnet::IpNet::from(*a).to_string()),
                })
                .collect();
            Some(json!({
                "Network": {"ID": network.id, "Spec": {"Name": network.spec.name}},
                "Addresses": addresses,
            }))
        })
        .collect();
    let service = state.services.get(&task.service);
    let labels = service.map(|service| service.spec.labels.clone());
    // ports that a task alone has on its host
    let own = service.into_iter().flat_map(|s| &s.endpoint.ports);
    let own: Vec<_> = own
        .filter(|own| own.port.mode == PublishMode::Host && runs(state, task))
        .map(|own| port(&own.port))
        .collect();
    let mut shown = json!({
        "ID": task.id,
        "Version": {"Index": task.version.0},
        "CreatedAt": task.created,
        "UpdatedAt": at,
        "Name": task.name(),
        "Labels": labels.unwrap_or_default(),
        "Spec": task_template(&task.spec),
        "ServiceID": task.service,
        "NodeID": task.node,
        "Status": {
            "Timestamp": at,
            "State": word,
            "Message": status.map_or("", |status| status.message.as_str()),
            "ContainerStatus": container,
            "PortStatus": {"Ports": own},
        },
        "DesiredState": desired(task, Timestamp::now()),
        "NetworksAttachments": attachments,
    });
    if let Some(status) = status.filter(|status| !status.error.is_empty()) {
        shown["Status"]["Err"] = json!(status.error);
    }
    if let Some(elsewhere) = &task.elsewhere {
        // where docker shows what runs
        let ip = task.addresses().next();
        match (&elsewhere.container, ip) {
            (Some(container), _) => {
                shown["Status"]["ContainerStatus"]["ContainerID"] = json!(container.id);
            }
            (None, Some(ip)) => {
                let port = elsewhere.port;
                let at = Server { ip, port }.to_string();
                shown["Spec"]["ContainerSpec"]["Image"] = json!(at);
            }
            (None, None) => {}
        }
    }
    if task.slot > 0 {
        shown["Slot"] = json!(task.slot);
    }
    shown
}

/// `Node` of the Engine API.
pub(crate) fn node(node: &Versioned<Node>, me: &NodeId) -> Value {
    let leader = node.id == *me;
    json!({
        "ID": node.id,
        "Version": {"Index": node.version.0},
        "CreatedAt": node.created,
        "UpdatedAt": node.created,
        "Spec": {
            "Role": "manager",
            "Availability": node.availability.as_str(),
            "Labels": node.labels,
        },
        "Description": {
            "Hostname": node.hostname,
            "Platform": {"Architecture": std::env::consts::ARCH, "OS": "linux"},
            "Resources": {},
            "Engine": {"EngineVersion": env!("CARGO_PKG_VERSION")},
        },
        "Status": {"State": "ready", "Addr": "127.0.0.1"},
        "ManagerStatus": {"Leader": leader, "Reachability": "reachable", "Addr": "127.0.0.1:0"},
    })
}

/// `Network` of the Engine API.
pub(crate) fn network(network: &Versioned<Network>) -> Value {
    let config: Vec<_> = network
        .pools
        .iter()
        .map(|pool| json!({"Subnet": pool.subnet}))
        .collect();
    let vips: Vec<_> = network
        .pools
        .iter()
        .map(|pool| pool.vips.to_string())
        .collect();
    json!({
        "Name": network.spec.name,
        "Id": network.id,
        "Created": network.created,
        "Scope": "swarm",
        "Driver": "ipvsmesh",
        "EnableIPv4": true,
        "EnableIPv6": network.pools.iter().any(|pool| pool.subnet.addr().is_ipv6()),
        "IPAM": {"Driver": "default", "Options": null, "Config": config},
        "Internal": network.spec.internal,
        "Attachable": false,
        "Ingress": false,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": false,
        "Containers": {},
        "Options": {"ipvsmesh.vips": vips.join(",")},
        "Labels": network.spec.labels,
    })
}

#[cfg(test)]
mod tests {
    use bollard::models;
    use model::{Attachment, NetworkId, Revision, TaskStatus};
    use serde::{Serialize, de::DeserializeOwned};

    use super::*;

    /// Docker's model reads it all, and has a place for each key.
    pub(super) fn is_dockers<T: DeserializeOwned + Serialize>(shown: &Value) {
        let read: T = serde_json::from_value(shown.clone()).unwrap();
        let known = serde_json::to_value(read).unwrap();
        fn check(shown: &Value, known: &Value, path: &str) {
            if let (Value::Object(shown), Value::Object(known)) = (shown, known) {
                for (key, value) in shown.iter().filter(|(_, value)| !value.is_null()) {
                    let path = format!("{path}.{key}");
                    let known = known
                        .get(key)
                        .unwrap_or_else(|| panic!("{path} is not Docker's"));
                    check(value, known, &path);
                }
            }
        }
        check(shown, &known, "");
    }

    fn versioned<T>(value: T) -> Versioned<T> {
        Versioned::new(Revision(3), value)
    }

    fn a_network() -> Network {
        Network {
            id: NetworkId::from_random([1; 16]),
            spec: crate::convert::network(&json!({"Name": "back"})).unwrap(),
            pools: vec![Pool {
                subnet: "10.100.0.0/20".parse().unwrap(),
                vips: "10.200.0.0/20".parse().unwrap(),
            }],
            created: Timestamp::UNIX_EPOCH,
            raw: Value::Null,
        }
    }

    #[test]
    fn nodes_and_networks_are_dockers() {
        let id = NodeId::from_random([2; 16]);
        let one = Node {
            id: id.clone(),
            hostname: "one".to_owned(),
            number: 1,
            created: Timestamp::UNIX_EPOCH,
            labels: std::collections::BTreeMap::from([("disk".to_owned(), "ssd".to_owned())]),
            availability: model::Availability::Drain,
        };
        is_dockers::<models::Node>(&node(&versioned(one), &id));
        is_dockers::<models::NetworkInspect>(&network(&versioned(a_network())));
    }

    #[test]
    fn networks_show_both_families() {
        let four = network(&versioned(a_network()));
        assert_eq!(four["EnableIPv6"], false);
        let mut both = a_network();
        both.pools.push(Pool {
            subnet: "fd00:1::/64".parse().unwrap(),
            vips: "fd00:2::/112".parse().unwrap(),
        });
        let shown = network(&versioned(both));
        assert_eq!(shown["EnableIPv6"], true);
        let config = json!([{"Subnet": "10.100.0.0/20"}, {"Subnet": "fd00:1::/64"}]);
        assert_eq!(shown["IPAM"]["Config"], config);
        is_dockers::<models::NetworkInspect>(&shown);
    }

    #[test]
    fn addresses_have_the_prefix_of_their_family() {
        let mut both = a_network();
        both.pools.push(Pool {
            subnet: "fd00:1::/64".parse().unwrap(),
            vips: "fd00:2::/112".parse().unwrap(),
        });
        let prefixes = |ip: &str| {
            let pool = pool_of(&both, ip.parse().unwrap()).unwrap();
            (pool.subnet.prefix_len(), pool.vips.prefix_len())
        };
        assert_eq!(prefixes("10.200.0.2"), (20, 20));
        assert_eq!(prefixes("fd00:2::2"), (64, 112));
    }

    #[test]
    fn tasks_are_dockers() {
        let raw = json!({
            "Name": "web", "Labels": {"ipvsmesh.runtime": "process"},
            "TaskTemplate": {"ContainerSpec": {"Command": ["x"]}, "Networks": [{"Target": "back"}]},
        });
        let mut state = State::default();
        state.put(Revision(1), model::Object::Network(a_network()));
        let service = crate::convert::service(&raw, &state).unwrap();
        let spec = service.task.clone();
        let allocated = |text: &str| model::AllocatedPort {
            port: PublishedPort::parse(text).unwrap().remove(0),
            mark: model::Mark::new(0x100).unwrap(),
            ingress: model::ANY_INGRESS,
            keeps_port: false,
            affine: None,
        };
        let ports = ["8080:80", "target=81,published=8081,mode=host"].map(allocated);
        let endpoint = model::Endpoint {
            vips: Vec::new(),
            ports: ports.into(),
        };
        let service = Service {
            id: model::ServiceId::from_random([5; 16]),
            spec: service,
            spec_after: Revision::default(),
            previous: None,
            endpoint,
            created: Timestamp::UNIX_EPOCH,
            updated: Timestamp::UNIX_EPOCH,
            update_status: None,
            raw: Value::Null,
            raw_previous: Value::Null,
        };
        state.put(Revision(1), model::Object::Service(Box::new(service)));
        let mut failed = versioned(Task {
            id: model::TaskId::from_random([4; 16]),
            service: model::ServiceId::from_random([5; 16]),
            service_name: "web".parse().unwrap(),
            slot: 2,
            node: NodeId::from_random([2; 16]),
            spec,
            attachments: vec![Attachment {
                network: a_network().id,
                addresses: vec!["10.100.0.2".parse().unwrap()],
            }],
            desired: DesiredState::Shutdown,
            created: Timestamp::UNIX_EPOCH,
            not_before: None,
            elsewhere: None,
        });
        let mut status = TaskStatus {
            task: failed.id.clone(),
            state: TaskState::Failed,
            since: Timestamp::UNIX_EPOCH,
            started: None,
            message: "started".to_owned(),
            error: "task: non-zero exit (7)".to_owned(),
            exit_code: Some(7),
            process: None,
            draining: false,
            draining_since: None,
            ended: false,
            attached: true,
        };
        state.put(Revision(2), model::Object::Status(status.clone()));
        let mut shown = task(&state, &failed);
        let attached = shown["NetworksAttachments"].take();
        assert_eq!(attached[0]["Addresses"], json!(["10.100.0.2/20"]));
        // the daemon has it, its published model has not
        is_dockers::<models::Task>(&shown);
        assert_eq!(shown["Status"]["Err"], "task: non-zero exit (7)");
        assert_eq!(shown["Status"]["ContainerStatus"]["ExitCode"], 7);
        assert_eq!(
            (&shown["DesiredState"], &shown["Slot"]),
            (&json!("shutdown"), &json!(2))
        );
        assert_eq!(shown["Status"]["PortStatus"], json!({"Ports": []}));
        // while it runs, it has ports of its own on its host
        std::sync::Arc::make_mut(&mut failed.value).desired = DesiredState::Running;
        status.state = TaskState::Running;
        state.put(Revision(3), model::Object::Status(status));
        let own = &task(&state, &failed)["Status"]["PortStatus"]["Ports"];
        assert_eq!(own.as_array().map(Vec::len), Some(1));
        assert_eq!(own[0]["PublishedPort"], 8081);
    }

    #[test]
    fn other_fields_of_the_client_are_kept() {
        let raw = json!({"a": 1, "b": {"c": 2, "d": 3}, "l": [{"x": 1, "y": 2}], "m": [1, 2]});
        let ours = json!({"b": {"c": 4}, "l": [{"x": 5}], "m": [3]});
        let expected = json!({"a": 1, "b": {"c": 4, "d": 3}, "l": [{"x": 5, "y": 2}], "m": [3]});
        assert_eq!(over(&raw, ours), expected);
    }
}
