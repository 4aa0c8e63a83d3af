//! Docker's specs to the domain's. What would change behaviour that we do not
//! have is refused by its name in the request, never silently lost.

mod blob;
mod container;
mod static_endpoints;
mod update;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt,
    net::IpAddr,
    num::NonZeroU32,
    time::Duration,
};

use bollard::models::{
    EndpointPortConfigProtocolEnum as DockerProtocol,
    EndpointPortConfigPublishModeEnum as DockerPublishMode, EndpointSpec as DockerEndpoint,
    EndpointSpecModeEnum as DockerEndpointMode, NetworkAttachmentConfig as DockerAttachment,
    NetworkCreateRequest, NodeSpec, NodeSpecAvailabilityEnum, NodeSpecRoleEnum,
    ServiceSpec as DockerService, ServiceSpecMode as DockerMode,
    TaskSpecContainerSpec as DockerContainer, TaskSpecPlacement as DockerPlacement,
    TaskSpecRestartPolicy as DockerRestart, TaskSpecRestartPolicyConditionEnum as DockerCondition,
};
use ipnet::IpNet;
use model::{
    Availability, EndpointMode, EndpointSpec, Mode, Name, NetworkAttachment, NetworkSpec, Options,
    Placement, ProcessSpec, Protocol, PublishMode, PublishedPort, RestartCondition, RestartPolicy,
    RuntimeSpec, ServiceSpec, State, TaskSpec, label,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use self::static_endpoints::Kind;
use crate::ApiError;

pub(crate) use blob::blob;

/// How long a task has to stop when nothing is said; Swarm's value.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// Reads a request, refusing keys that Docker's own model does not know.
fn typed<T: DeserializeOwned + Serialize>(raw: &Value) -> Result<T, ApiError> {
    let value: T = serde_path_to_error::deserialize(raw.clone()).map_err(|error| {
        ApiError::invalid(match error.path().to_string().as_str() {
            "." => format!("the request cannot be read: {}", error.inner()),
            path => format!("{path} cannot be read: {}", error.inner()),
        })
    })?;
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
            .enumerate()
            .find_map(|(n, (raw, known))| unknown(raw, known, &format!("{path}[{n}]"))),
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
        Some((key, _)) if path.is_empty() => Err(unavailable(key)),
        Some((key, _)) => Err(unavailable(&format!("{path}.{key}"))),
        None => Ok(()),
    }
}

fn unavailable(path: &str) -> ApiError {
    ApiError::invalid(format!(
        "{path} is not available in this version: leave it out"
    ))
}

/// Labels of ours are options, and so must be known.
fn labels(
    labels: Option<impl IntoIterator<Item = (String, String)>>,
    known: &[&str],
) -> Result<BTreeMap<String, String>, ApiError> {
    let labels: BTreeMap<_, _> = labels.into_iter().flatten().collect();
    let bad = labels
        .keys()
        .find(|key| key.starts_with("ipvsmesh.") && !known.contains(&key.as_str()));
    match bad {
        Some(bad) => Err(ApiError::invalid(format!(
            "Labels: {bad} is not known to this version: labels that begin with ipvsmesh. are its options"
        ))),
        None => Ok(labels),
    }
}

fn duration(nanoseconds: Option<i64>, path: &str) -> Result<Option<Duration>, ApiError> {
    let check = |n: i64| {
        u64::try_from(n)
            .map(Duration::from_nanos)
            .map_err(|_| ApiError::invalid(format!("{path}: {n} is negative")))
    };
    nanoseconds.map(check).transpose()
}

fn name(name: &str) -> Result<Name, ApiError> {
    name.parse()
        .map_err(|error| ApiError::invalid(format!("Name: {error}")))
}

/// The labels that a service may have of ours.
const SERVICE_LABELS: [&str; 12] = {
    let [a, b, c, d, e, f, g, h, i] = label::ALL;
    [
        label::RUNTIME,
        label::PULL,
        label::ENDPOINTS,
        a,
        b,
        c,
        d,
        e,
        f,
        g,
        h,
        i,
    ]
};

/// A service's spec, from `POST /services/ID/update`, with the one that it has.
pub(crate) fn changed_service(
    raw: &Value,
    state: &State,
    before: &ServiceSpec,
) -> Result<ServiceSpec, ApiError> {
    let mut spec = service(raw, state)?;
    static_endpoints::check_scale(raw, before, &spec)?;
    keep_host_ips(&mut spec.endpoint.ports, raw, &before.endpoint.ports);
    Ok(spec)
}

/// A service's spec, from `POST /services/create`.
pub(crate) fn service(raw: &Value, state: &State) -> Result<ServiceSpec, ApiError> {
    let (raw, host_ips) = without_host_ips(raw)?;
    let raw = container::with_one_health_key(raw);
    let docker: DockerService = typed(&raw)?;
    let mut labels = labels(docker.labels, &SERVICE_LABELS)?;
    Options::of(&labels).map_err(|error| ApiError::invalid(format!("Labels: {error}")))?;
    let mut template = docker.task_template.unwrap_or_default();
    check_service(&raw)?;
    // said one way from here on, whichever way the client said it
    let said = labels.remove(label::RUNTIME);
    let kind = static_endpoints::kind(said.as_ref(), template.runtime.as_deref())?;
    let mut mode = mode(docker.mode.unwrap_or_default())?;
    let placement = placement(template.placement.take().unwrap_or_default(), &mode)?;
    let runtime = match kind {
        Kind::Process => {
            labels.insert(label::RUNTIME.to_owned(), "process".to_owned());
            check_process(&raw, &labels)?;
            RuntimeSpec::Process(process(
                template.container_spec.take().unwrap_or_default(),
                state,
            )?)
        }
        Kind::Docker => {
            container::check(&raw)?;
            RuntimeSpec::Docker(Box::new(container::container(
                &mut template,
                &labels,
                state,
            )?))
        }
        Kind::Static => {
            labels.insert(label::RUNTIME.to_owned(), "static".to_owned());
            mode = static_endpoints::check(&raw, &labels)?;
            RuntimeSpec::Static
        }
        Kind::Adopted => {
            return Err(ApiError::invalid(format!(
                "a service is adopted because of labels of running containers ({}): nobody makes or changes one otherwise",
                label::SERVICE
            )));
        }
    };
    if kind != Kind::Static && labels.contains_key(label::ENDPOINTS) {
        return Err(ApiError::invalid(format!(
            "Labels: {} is of static services: say {}=static as well, or leave it out",
            label::ENDPOINTS,
            label::RUNTIME
        )));
    }
    Ok(ServiceSpec {
        name: name(&docker.name.unwrap_or_default())?,
        labels,
        mode,
        task: TaskSpec {
            runtime,
            networks: networks(
                template
                    .networks
                    .filter(|networks| !networks.is_empty())
                    .or(docker.networks)
                    .unwrap_or_default(),
                state,
            )?,
            restart: restart(&template.restart_policy.unwrap_or_default())?,
            force_update: template.force_update.unwrap_or(0),
        },
        placement,
        endpoint: endpoint(docker.endpoint_spec.unwrap_or_default(), &host_ips)?,
        update: update::config(&raw, "UpdateConfig")?,
        rollback: update::config(&raw, "RollbackConfig")?,
        // a header's
        registry_auth: None,
    })
}

/// Which nodes its tasks may be on.
fn placement(docker: DockerPlacement, mode: &Mode) -> Result<Placement, ApiError> {
    let wrong = |key: &str, error: &dyn fmt::Display| {
        ApiError::invalid(format!("TaskTemplate.Placement.{key}: {error}"))
    };
    let constraints = docker.constraints.unwrap_or_default();
    let constraints = constraints.iter().map(|text| text.parse());
    let preferences = docker.preferences.unwrap_or_default();
    let preferences = preferences.into_iter().map(|one| {
        let over = one.spread.and_then(|spread| spread.spread_descriptor);
        over.unwrap_or_default().parse()
    });
    let most = u32::try_from(docker.max_replicas.unwrap_or(0))
        .map_err(|_| wrong("MaxReplicas", &"use a number"))?;
    if most > 0 && *mode == Mode::Global {
        return Err(wrong(
            "MaxReplicas",
            &"a global service has one task a node: leave it out",
        ));
    }
    Ok(Placement {
        constraints: constraints
            .collect::<Result<_, _>>()
            .map_err(|error| wrong("Constraints", &error))?,
        spread: preferences
            .collect::<Result<_, _>>()
            .map_err(|error| wrong("Preferences", &error))?,
        max_per_node: NonZeroU32::new(most),
    })
}

/// Refuses what has a meaning that no service of ours has.
fn check_service(raw: &Value) -> Result<(), ApiError> {
    const TOP: [&str; 8] = [
        "Name",
        "Labels",
        "UpdateConfig",
        "RollbackConfig",
        "TaskTemplate",
        "Mode",
        "EndpointSpec",
        "Networks",
    ];
    only(raw, "", &TOP)?;
    // an image's platform says nothing that the image does not
    const PLACEMENT: [&str; 4] = ["Platforms", "Constraints", "Preferences", "MaxReplicas"];
    only(raw, "TaskTemplate.Placement", &PLACEMENT)?;
    let configs = raw.pointer("/TaskTemplate/ContainerSpec/Configs");
    let configs = configs.and_then(Value::as_array).into_iter().flatten();
    for (n, config) in configs.enumerate() {
        // of Windows, and not empty where it is said at all
        if config
            .get("Runtime")
            .is_some_and(|runtime| !runtime.is_null())
        {
            let at = format!("TaskTemplate.ContainerSpec.Configs[{n}].Runtime");
            return Err(unavailable(&at));
        }
    }
    for pointer in ["/TaskTemplate/Networks", "/Networks"] {
        let networks = raw.pointer(pointer).and_then(Value::as_array);
        for (n, network) in networks.into_iter().flatten().enumerate() {
            if only(network, "", &["Target", "Aliases"]).is_err() {
                let path = pointer.trim_start_matches('/').replace('/', ".");
                return Err(unavailable(&format!("{path}[{n}].DriverOpts")));
            }
        }
    }
    match raw
        .pointer("/TaskTemplate/ContainerSpec/Isolation")
        .and_then(Value::as_str)
    {
        None | Some("" | "default") => Ok(()),
        Some(_) => Err(unavailable("TaskTemplate.ContainerSpec.Isolation")),
    }
}

/// Refuses what has a meaning that process services do not have.
fn check_process(raw: &Value, labels: &BTreeMap<String, String>) -> Result<(), ApiError> {
    const TEMPLATE: [&str; 6] = [
        "ContainerSpec",
        "RestartPolicy",
        "ForceUpdate",
        "Runtime",
        "Networks",
        "Placement",
    ];
    // an image says nothing of a command of the host
    const CONTAINER: [&str; 12] = [
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
        "Configs",
        "Secrets",
    ];
    only(raw, "TaskTemplate", &TEMPLATE)?;
    only(raw, "TaskTemplate.ContainerSpec", &CONTAINER)?;
    match labels.get(label::PULL) {
        Some(_) => Err(ApiError::invalid(format!(
            "Labels: {} is of images, and tasks of the process runtime have none: leave it out",
            label::PULL
        ))),
        None => Ok(()),
    }
}

/// `HostIP` of a port is a word of ours: Docker's services do not have it.
type HostIps = Vec<Option<IpAddr>>;

fn without_host_ips(raw: &Value) -> Result<(Value, HostIps), ApiError> {
    let mut raw = raw.clone();
    let mut ips = Vec::new();
    let ports = raw
        .pointer_mut("/EndpointSpec/Ports")
        .and_then(Value::as_array_mut);
    for (n, port) in ports.into_iter().flatten().enumerate() {
        let ip = port.as_object_mut().and_then(|port| port.remove("HostIP"));
        let ip = ip.filter(|ip| !is_empty(ip)).map(|ip| {
            let parsed: Option<IpAddr> = ip.as_str().and_then(|text| text.parse().ok());
            parsed.map(|ip| ip.to_canonical()).ok_or_else(|| {
                ApiError::invalid(format!(
                    "EndpointSpec.Ports[{n}].HostIP: {ip} is not an address"
                ))
            })
        });
        ips.push(ip.transpose()?);
    }
    Ok((raw, ips))
}

/// A port that says nothing of a host address keeps the one that it had: Docker's
/// own clients lose the word, and must not open to everybody, by scaling a
/// service, what was for one address. `""` is every address.
fn keep_host_ips(ports: &mut [PublishedPort], raw: &Value, before: &[PublishedPort]) {
    let key = |p: &PublishedPort| (p.protocol, p.target, p.published, p.mode);
    let mut had: HashMap<_, VecDeque<_>> = HashMap::new();
    for port in before {
        had.entry(key(port)).or_default().push_back(port.host_ip);
    }
    for (n, port) in ports.iter_mut().enumerate() {
        let said = raw.pointer(&format!("/EndpointSpec/Ports/{n}/HostIP"));
        if said.is_none_or(Value::is_null)
            && let Some(ip) = had.get_mut(&key(port)).and_then(VecDeque::pop_front)
        {
            port.host_ip = ip;
        }
    }
}

fn process(container: DockerContainer, state: &State) -> Result<ProcessSpec, ApiError> {
    let mut command = container.command.unwrap_or_default();
    command.extend(container.args.unwrap_or_default());
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let stop_signal = given(container.stop_signal);
    if let Some(signal) = stop_signal.as_ref().filter(|signal| !is_signal(signal)) {
        return Err(ApiError::invalid(format!(
            "TaskTemplate.ContainerSpec.StopSignal: {signal:?} is not known: use a name such as SIGTERM"
        )));
    }
    let path = "TaskTemplate.ContainerSpec.StopGracePeriod";
    Ok(ProcessSpec {
        command,
        env: container.env.unwrap_or_default(),
        dir: given(container.dir),
        user: given(container.user),
        files: blob::files(container.configs, container.secrets, state)?,
        stop_signal,
        stop_grace: duration(container.stop_grace_period, path)?.unwrap_or(STOP_GRACE),
    })
}

/// A signal of signal(7), with or without `SIG`, or its number.
fn is_signal(text: &str) -> bool {
    const SIGNALS: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
        "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
        "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    let numbered = text.parse::<usize>();
    numbered.is_ok_and(|number| (1..=SIGNALS.len()).contains(&number))
        || SIGNALS.contains(&text.strip_prefix("SIG").unwrap_or(text))
}

fn restart(docker: &DockerRestart) -> Result<RestartPolicy, ApiError> {
    let default = RestartPolicy::default();
    let attempts = docker.max_attempts.unwrap_or(0);
    Ok(RestartPolicy {
        condition: match docker.condition {
            Some(DockerCondition::NONE) => RestartCondition::None,
            Some(DockerCondition::ON_FAILURE) => RestartCondition::OnFailure,
            Some(DockerCondition::ANY | DockerCondition::EMPTY) | None => RestartCondition::Any,
        },
        delay: duration(docker.delay, "TaskTemplate.RestartPolicy.Delay")?.unwrap_or(default.delay),
        max_attempts: u64::try_from(attempts).map_err(|_| {
            ApiError::invalid(format!(
                "TaskTemplate.RestartPolicy.MaxAttempts: {attempts} is negative"
            ))
        })?,
        window: duration(docker.window, "TaskTemplate.RestartPolicy.Window")?
            .unwrap_or(default.window),
    })
}

fn mode(docker: DockerMode) -> Result<Mode, ApiError> {
    if docker.replicated_job.is_some() || docker.global_job.is_some() {
        return Err(ApiError::invalid(
            "Mode: jobs are not available in this version: use Replicated or Global",
        ));
    }
    if docker.global.is_some() {
        return Ok(Mode::Global);
    }
    // docker's own client leaves it out for one
    let replicas = docker
        .replicated
        .and_then(|mode| mode.replicas)
        .unwrap_or(1);
    match u32::try_from(replicas) {
        Ok(replicas) => Ok(Mode::Replicated { replicas }),
        Err(_) => Err(ApiError::invalid(format!(
            "Mode.Replicated.Replicas: {replicas} is not valid: use 0 or more"
        ))),
    }
}

fn networks(
    docker: Vec<DockerAttachment>,
    state: &State,
) -> Result<Vec<NetworkAttachment>, ApiError> {
    let attach = |network: DockerAttachment| {
        // stacks name them, docker's own client sends ids
        let target = network.target.unwrap_or_default();
        let found = state
            .find_network(&target)
            .ok_or_else(|| ApiError::not_found("network", &target))?;
        Ok(NetworkAttachment {
            network: found.id.clone(),
            aliases: network.aliases.unwrap_or_default(),
        })
    };
    docker.into_iter().map(attach).collect()
}

fn endpoint(docker: DockerEndpoint, host_ips: &HostIps) -> Result<EndpointSpec, ApiError> {
    let number = |n: i64, at: usize, key: &str| {
        u16::try_from(n).map_err(|_| {
            ApiError::invalid(format!(
                "EndpointSpec.Ports[{at}].{key}: {n} is not a port: use a number from 1 to 65535"
            ))
        })
    };
    let mut ports = Vec::new();
    for (at, port) in docker.ports.unwrap_or_default().into_iter().enumerate() {
        // 0 is how Docker says that one is to be chosen
        let published = port.published_port.filter(|n| *n != 0);
        ports.push(PublishedPort {
            protocol: match port.protocol {
                Some(DockerProtocol::UDP) => Protocol::Udp,
                Some(DockerProtocol::SCTP) => Protocol::Sctp,
                Some(DockerProtocol::TCP | DockerProtocol::EMPTY) | None => Protocol::Tcp,
            },
            target: number(port.target_port.unwrap_or(0), at, "TargetPort")?,
            published: published
                .map(|n| number(n, at, "PublishedPort"))
                .transpose()?,
            mode: match port.publish_mode {
                Some(DockerPublishMode::HOST) => PublishMode::Host,
                Some(DockerPublishMode::INGRESS | DockerPublishMode::EMPTY) | None => {
                    PublishMode::Ingress
                }
            },
            host_ip: host_ips.get(at).copied().flatten(),
        });
    }
    Ok(EndpointSpec {
        mode: match docker.mode {
            Some(DockerEndpointMode::DNSRR) => EndpointMode::DnsRr,
            Some(DockerEndpointMode::VIP | DockerEndpointMode::EMPTY) | None => EndpointMode::Vip,
        },
        ports,
    })
}

/// A network's spec, from `POST /networks/create`.
pub(crate) fn network(raw: &Value) -> Result<NetworkSpec, ApiError> {
    let mut raw = raw.clone();
    if let Value::Object(map) = &mut raw {
        // asked for by old clients, and always so here
        map.remove("CheckDuplicate");
    }
    let docker: NetworkCreateRequest = typed(&raw)?;
    // docker's own client always says it, and means IPv4 alone by leaving it out
    let ipv6 = docker.enable_ipv6.unwrap_or(false);
    match docker.driver.as_deref() {
        None | Some("" | "overlay" | "ipvsmesh") => {}
        Some(other) => {
            return Err(ApiError::invalid(format!(
                "Driver: {other} is not available: use overlay (docker network create --driver overlay), or ipvsmesh"
            )));
        }
    }
    check_network(&raw)?;
    let mut subnets = Vec::new();
    let config = docker.ipam.and_then(|ipam| ipam.config);
    for subnet in config
        .into_iter()
        .flatten()
        .filter_map(|config| config.subnet)
    {
        subnets.push(subnet.parse().map_err(|_| {
            ApiError::invalid(format!(
                "IPAM.Config.Subnet: {subnet} is not valid: use ADDRESS/PREFIX"
            ))
        })?);
    }
    check_subnets(&subnets, ipv6)?;
    Ok(NetworkSpec {
        name: name(&docker.name)?,
        labels: labels(docker.labels, &[])?,
        internal: docker.internal.unwrap_or(false),
        ipv6,
        subnets,
    })
}

/// What a node's spec may change.
pub(crate) fn node(raw: &Value) -> Result<(BTreeMap<String, String>, Availability), ApiError> {
    let docker: NodeSpec = typed(raw)?;
    if docker.role == Some(NodeSpecRoleEnum::WORKER) {
        return Err(ApiError::invalid(
            "Role: each node of a mesh is a manager: leave it so",
        ));
    }
    only(raw, "", &["Name", "Labels", "Role", "Availability"])?;
    let availability = match docker.availability {
        Some(NodeSpecAvailabilityEnum::PAUSE) => Availability::Pause,
        Some(NodeSpecAvailabilityEnum::DRAIN) => Availability::Drain,
        _ => Availability::Active,
    };
    Ok((
        docker.labels.unwrap_or_default().into_iter().collect(),
        availability,
    ))
}

/// One subnet of each family that the network has, at most.
fn check_subnets(subnets: &[IpNet], ipv6: bool) -> Result<(), ApiError> {
    let mut seen: [Option<&IpNet>; 2] = [None; 2];
    for subnet in subnets {
        let six = matches!(subnet, IpNet::V6(_));
        if six && !ipv6 {
            return Err(ApiError::invalid(format!(
                "IPAM.Config.Subnet: {subnet} is IPv6: add EnableIPv6 (--ipv6)"
            )));
        }
        if let Some(other) = seen[usize::from(six)].replace(subnet) {
            return Err(ApiError::invalid(format!(
                "IPAM.Config.Subnet: {other} and {subnet} are of one family: use one of each at most"
            )));
        }
    }
    Ok(())
}

/// Refuses what has a meaning that our networks do not have.
fn check_network(raw: &Value) -> Result<(), ApiError> {
    const TOP: [&str; 9] = [
        "Name",
        "Driver",
        "Scope",
        "Internal",
        "EnableIPv4",
        "EnableIPv6",
        "IPAM",
        "Options",
        "Labels",
    ];
    only(raw, "", &TOP)?;
    only(raw, "IPAM", &["Driver", "Config"])?;
    let text = |pointer: &str| raw.pointer(pointer).and_then(Value::as_str);
    if !matches!(text("/Scope"), None | Some("" | "swarm")) {
        return Err(unavailable("Scope"));
    }
    if !matches!(text("/IPAM/Driver"), None | Some("" | "default")) {
        return Err(unavailable("IPAM.Driver"));
    }
    if raw.get("EnableIPv4") == Some(&Value::Bool(false)) {
        return Err(unavailable("EnableIPv4=false"));
    }
    let configs = raw.pointer("/IPAM/Config").and_then(Value::as_array);
    for config in configs.into_iter().flatten() {
        only(config, "", &["Subnet"])
            .map_err(|error| ApiError::invalid(format!("IPAM.Config: {}", error.message)))?;
    }
    let options = raw.get("Options").and_then(Value::as_object);
    // docker's own client may say that it wants no encryption
    let bad = options.and_then(|options| {
        options
            .iter()
            .find(|(key, value)| !(*key == "encrypted" && *value == "false"))
    });
    bad.map_or(Ok(()), |(key, _)| {
        Err(unavailable(&format!("Options.{key}")))
    })
}

#[cfg(test)]
mod tests;
