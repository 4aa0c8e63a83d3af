//! Docker's specs to the domain's. What would change behaviour that we do not
//! have is refused by its name in the request, never silently lost.

use std::{collections::BTreeMap, time::Duration};

use bollard::models::{
    EndpointPortConfigProtocolEnum as DockerProtocol,
    EndpointPortConfigPublishModeEnum as DockerPublishMode, EndpointSpecModeEnum as DockerMode,
    NetworkCreateRequest, ServiceSpec as DockerService,
    TaskSpecRestartPolicyConditionEnum as DockerCondition,
};
use model::{
    EndpointMode, EndpointSpec, Mode, NetworkAttachment, NetworkSpec, ProcessSpec, Protocol,
    PublishMode, PublishedPort, RestartCondition, RestartPolicy, RuntimeSpec, ServiceSpec, State,
    TaskSpec,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{ApiError, RUNTIME_LABEL};

/// Reads a request, refusing keys that Docker's own model does not know.
fn typed<T: DeserializeOwned + Serialize>(raw: &Value) -> Result<T, ApiError> {
    let value: T = serde_json::from_value(raw.clone())
        .map_err(|error| ApiError::invalid(format!("the request cannot be read: {error}")))?;
    let known = serde_json::to_value(&value).unwrap_or_default();
    match unknown(raw, &known, "") {
        Some(path) => Err(ApiError::invalid(format!(
            "{path} is not known to this version: leave it out, or use a newer ipvsmesh"
        ))),
        None => Ok(value),
    }
}

/// The path of the first key with a value that the other side has not.
fn unknown(raw: &Value, known: &Value, path: &str) -> Option<String> {
    match (raw, known) {
        (Value::Object(raw), known) => raw.iter().find_map(|(key, value)| {
            let path = if path.is_empty() {
                key.clone()
            } else {
                format!("{path}.{key}")
            };
            match known.get(key) {
                Some(known) => unknown(value, known, &path),
                None if is_empty(value) => None,
                None => Some(path),
            }
        }),
        (Value::Array(raw), Value::Array(known)) => raw
            .iter()
            .zip(known)
            .find_map(|(raw, known)| unknown(raw, known, path)),
        _ => None,
    }
}

/// Nothing is said: null, false, 0, "" or an empty list or object of such.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.iter().all(is_empty),
        Value::Object(map) => map.values().all(is_empty),
    }
}

/// Refuses keys of `raw` at `path` that are not among `known` and say something.
fn only(raw: &Value, path: &str, known: &[&str]) -> Result<(), ApiError> {
    let at = path
        .split('.')
        .filter(|part| !part.is_empty())
        .try_fold(raw, |at, key| at.get(key));
    let Some(Value::Object(map)) = at else {
        return Ok(());
    };
    let bad = map
        .iter()
        .find(|(key, value)| !known.contains(&key.as_str()) && !is_empty(value));
    match bad {
        Some((key, _)) => {
            let path = if path.is_empty() {
                key.clone()
            } else {
                format!("{path}.{key}")
            };
            Err(ApiError::invalid(format!(
                "{path} is not available for process services in this version: leave it out"
            )))
        }
        None => Ok(()),
    }
}

fn duration(nanoseconds: Option<i64>, what: &str) -> Result<Option<Duration>, ApiError> {
    let check = |n: i64| {
        u64::try_from(n)
            .map(Duration::from_nanos)
            .map_err(|_| ApiError::invalid(format!("{what} {n} is negative")))
    };
    nanoseconds.map(check).transpose()
}

/// A service's spec, from `POST /services/create` and `/services/ID/update`.
pub(crate) fn service(raw: &Value, state: &State) -> Result<ServiceSpec, ApiError> {
    // a port of `HostIP` is ours; docker's services do not know it
    let docker: DockerService = typed(raw)?;
    let name = docker.name.unwrap_or_default();
    let name = name
        .parse()
        .map_err(|error: model::InvalidName| ApiError::invalid(error.to_string()))?;
    let labels: BTreeMap<_, _> = docker.labels.unwrap_or_default().into_iter().collect();
    let bad = labels
        .keys()
        .find(|key| key.starts_with("ipvsmesh.") && *key != RUNTIME_LABEL);
    if let Some(bad) = bad {
        return Err(ApiError::invalid(format!(
            "label {bad} is not known to this version"
        )));
    }
    let template = docker.task_template.unwrap_or_default();
    let runtime = labels
        .get(RUNTIME_LABEL)
        .or_else(|| template.runtime.as_ref().filter(|r| *r != "container"));
    if runtime.is_none_or(|runtime| runtime != "process") {
        return Err(ApiError::invalid(format!(
            "the docker runtime is not available in this version: run a command of the host instead, with --runtime process (label {RUNTIME_LABEL}=process)"
        )));
    }
    // options of how an update goes about it are kept in the raw spec
    only(
        raw,
        "",
        &[
            "Name",
            "Labels",
            "TaskTemplate",
            "Mode",
            "EndpointSpec",
            "Networks",
            "UpdateConfig",
            "RollbackConfig",
        ],
    )?;
    only(
        raw,
        "TaskTemplate",
        &[
            "ContainerSpec",
            "RestartPolicy",
            "ForceUpdate",
            "Runtime",
            "Networks",
            "Placement",
        ],
    )?;
    only(raw, "TaskTemplate.Placement", &["Platforms"])?;
    only(
        raw,
        "TaskTemplate.ContainerSpec",
        &[
            "Image",
            "Labels",
            "Command",
            "Args",
            "Env",
            "Dir",
            "User",
            "StopSignal",
            "StopGracePeriod",
            "Isolation",
        ],
    )?;
    let container = template.container_spec.unwrap_or_default();
    let mut command = container.command.unwrap_or_default();
    command.extend(container.args.unwrap_or_default());
    let process = ProcessSpec {
        command,
        env: container.env.unwrap_or_default(),
        dir: container.dir.filter(|dir| !dir.is_empty()),
        user: container.user.filter(|user| !user.is_empty()),
        stop_signal: container.stop_signal.filter(|signal| !signal.is_empty()),
        stop_grace: duration(container.stop_grace_period, "StopGracePeriod")?
            .unwrap_or(Duration::from_secs(10)),
    };

    let policy = RestartPolicy::default();
    let restart = match template.restart_policy {
        None => policy,
        Some(docker) => RestartPolicy {
            condition: match docker.condition {
                Some(DockerCondition::NONE) => RestartCondition::None,
                Some(DockerCondition::ON_FAILURE) => RestartCondition::OnFailure,
                Some(DockerCondition::ANY | DockerCondition::EMPTY) | None => RestartCondition::Any,
            },
            delay: duration(docker.delay, "RestartPolicy.Delay")?.unwrap_or(policy.delay),
            max_attempts: u64::try_from(docker.max_attempts.unwrap_or(0))
                .map_err(|_| ApiError::invalid("RestartPolicy.MaxAttempts is negative"))?,
            window: duration(docker.window, "RestartPolicy.Window")?.unwrap_or(policy.window),
        },
    };

    let mode = docker.mode.unwrap_or_default();
    if mode.replicated_job.is_some() || mode.global_job.is_some() {
        return Err(ApiError::invalid(
            "jobs are not available in this version: use mode replicated or global",
        ));
    }
    let mode = if mode.global.is_some() {
        Mode::Global
    } else {
        let replicas = mode
            .replicated
            .and_then(|replicated| replicated.replicas)
            .unwrap_or(1);
        let replicas = u32::try_from(replicas).map_err(|_| {
            ApiError::invalid(format!("replicas {replicas} is not valid: use 0 or more"))
        })?;
        Mode::Replicated { replicas }
    };

    let networks = template
        .networks
        .filter(|n| !n.is_empty())
        .or(docker.networks)
        .unwrap_or_default();
    let mut attachments = Vec::new();
    for network in networks {
        let target = network.target.unwrap_or_default();
        let found = state
            .find_network(&target)
            .ok_or_else(|| ApiError::not_found("network", &target))?;
        let aliases = network.aliases.unwrap_or_default();
        attachments.push(NetworkAttachment {
            network: found.id.clone(),
            aliases,
        });
    }

    let endpoint = docker.endpoint_spec.unwrap_or_default();
    let mut ports = Vec::new();
    for port in endpoint.ports.unwrap_or_default() {
        let number = |n: i64| {
            u16::try_from(n).map_err(|_| {
                ApiError::invalid(format!(
                    "port {n} is not valid: use a number from 1 to 65535"
                ))
            })
        };
        ports.push(PublishedPort {
            protocol: match port.protocol {
                Some(DockerProtocol::UDP) => Protocol::Udp,
                Some(DockerProtocol::SCTP) => Protocol::Sctp,
                Some(DockerProtocol::TCP | DockerProtocol::EMPTY) | None => Protocol::Tcp,
            },
            target: number(port.target_port.unwrap_or(0))?,
            published: port
                .published_port
                .filter(|n| *n != 0)
                .map(number)
                .transpose()?,
            mode: match port.publish_mode {
                Some(DockerPublishMode::HOST) => PublishMode::Host,
                Some(DockerPublishMode::INGRESS | DockerPublishMode::EMPTY) | None => {
                    PublishMode::Ingress
                }
            },
            host_ip: None,
        });
    }
    Ok(ServiceSpec {
        name,
        labels,
        mode,
        task: TaskSpec {
            runtime: RuntimeSpec::Process(process),
            networks: attachments,
            restart,
            force_update: template.force_update.unwrap_or(0),
        },
        endpoint: EndpointSpec {
            mode: match endpoint.mode {
                Some(DockerMode::DNSRR) => EndpointMode::DnsRr,
                Some(DockerMode::VIP | DockerMode::EMPTY) | None => EndpointMode::Vip,
            },
            ports,
        },
    })
}

/// A network's spec, from `POST /networks/create`.
pub(crate) fn network(raw: &Value) -> Result<NetworkSpec, ApiError> {
    // asked for by old clients, and always so here
    let mut raw = raw.clone();
    if let Value::Object(map) = &mut raw {
        map.remove("CheckDuplicate");
    }
    let docker: NetworkCreateRequest = typed(&raw)?;
    let name = docker
        .name
        .parse()
        .map_err(|error: model::InvalidName| ApiError::invalid(error.to_string()))?;
    let refuse = |what: &str| {
        Err(ApiError::invalid(format!(
            "{what} is not available in this version: leave it out"
        )))
    };
    match docker.driver.as_deref() {
        None | Some("" | "overlay" | "ipvsmesh") => {}
        Some(other) => {
            return Err(ApiError::invalid(format!(
                "network driver {other} is not available: use ipvsmesh or overlay"
            )));
        }
    }
    if docker.enable_ipv6 == Some(true) {
        return refuse("IPv6");
    }
    if docker.ingress == Some(true) || docker.config_only == Some(true) {
        return refuse("an ingress or config-only network");
    }
    let mut subnets = Vec::new();
    for config in docker.ipam.and_then(|ipam| ipam.config).unwrap_or_default() {
        if config.ip_range.is_some() || config.gateway.is_some() {
            return refuse("IPAM.Config with IPRange or Gateway");
        }
        if let Some(subnet) = config.subnet {
            let parsed = subnet.parse();
            subnets.push(parsed.map_err(|_| {
                ApiError::invalid(format!("subnet {subnet} is not valid: use ADDRESS/PREFIX"))
            })?);
        }
    }
    Ok(NetworkSpec {
        name,
        labels: docker.labels.unwrap_or_default().into_iter().collect(),
        internal: docker.internal.unwrap_or(false),
        subnets,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec() -> Value {
        json!({
            "Name": "vote",
            "Labels": {RUNTIME_LABEL: "process"},
            "TaskTemplate": {
                "ContainerSpec": {"Image": "whoami", "Command": ["whoami"], "Args": ["--port", "80"], "Init": false, "DNSConfig": {}},
                "Resources": {"Limits": {}, "Reservations": {}},
                "Placement": {}, "ForceUpdate": 0
            },
            "Mode": {"Replicated": {"Replicas": 3}},
            "EndpointSpec": {"Mode": "vip", "Ports": [{"TargetPort": 80, "PublishedPort": 8080}]}
        })
    }

    #[test]
    fn the_docker_clis_spec_is_understood() {
        let spec = service(&spec(), &State::default()).unwrap();
        assert_eq!(spec.name.as_str(), "vote");
        assert_eq!(spec.mode, Mode::Replicated { replicas: 3 });
        let RuntimeSpec::Process(process) = &spec.task.runtime;
        assert_eq!(process.command, ["whoami", "--port", "80"]);
        assert_eq!(spec.endpoint.ports[0].published, Some(8080));
    }

    #[test]
    fn what_we_do_not_have_is_refused_by_name() {
        let refused = |pointer: &str, value: Value| {
            let mut spec = spec();
            let (at, key) = pointer.rsplit_once('/').unwrap();
            spec.pointer_mut(at).unwrap()[key] = value;
            service(&spec, &State::default()).unwrap_err().message
        };
        for (pointer, value, word) in [
            (
                "/TaskTemplate/ContainerSpec/Mounts",
                json!([{"Target": "/t"}]),
                "Mounts",
            ),
            (
                "/TaskTemplate/ContainerSpec/Healthcheck",
                json!({"Test": ["CMD", "true"]}),
                "ealth",
            ),
            (
                "/TaskTemplate/Resources",
                json!({"Limits": {"MemoryBytes": 1}}),
                "Resources",
            ),
            ("/TaskTemplate/ContainerSpec/Fancy", json!(1), "Fancy"),
            ("/Mode/Replicated/Replicas", json!(-1), "-1"),
            ("/Mode/ReplicatedJob", json!({}), "job"),
            ("/Labels/ipvsmesh.color", json!("red"), "ipvsmesh.color"),
            ("/Labels/ipvsmesh.runtime", json!("docker"), "docker"),
            ("/Name", json!("no good"), "no good"),
            (
                "/EndpointSpec/Ports",
                json!([{"TargetPort": 70000}]),
                "70000",
            ),
        ] {
            let message = refused(pointer, value);
            assert!(message.contains(word), "{pointer}: {message}");
        }
    }

    #[test]
    fn networks_are_understood() {
        let raw = json!({"CheckDuplicate": true, "Name": "back", "Driver": "overlay", "IPAM": {"Driver": "default", "Options": {}, "Config": [{"Subnet": "10.101.0.0/24"}]}, "ConfigFrom": null, "Labels": {"a": "b"}});
        let spec = network(&raw).unwrap();
        assert_eq!(spec.subnets.len(), 1);
        assert!(network(&json!({"Name": "x", "Driver": "macvlan"})).is_err());
        assert!(network(&json!({"Name": "x", "EnableIPv6": true})).is_err());
    }
}
