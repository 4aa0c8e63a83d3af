//! A task in a container: Docker's `ContainerSpec`, `Resources` and `LogDriver` to
//! the domain's.

use std::{collections::BTreeMap, net::IpAddr};

use bollard::models::{
    HealthConfig as DockerHealth, Mount as DockerMount, MountType, ResourcesUlimits,
    TaskSpec as DockerTask, TaskSpecResources as DockerResources,
};
use model::{
    ContainerSpec, DnsConfig, HealthCheck, LogDriver, Mount, MountKind, PullPolicy, Resources,
    State, Ulimit, label,
};
use serde_json::Value;

use super::{blob, duration, is_signal, only, unavailable};
use crate::ApiError;

const AT: &str = "TaskTemplate.ContainerSpec";

/// Docker's clients write `Healthcheck`, its documentation `HealthCheck`; its daemon
/// takes both.
pub(super) fn with_one_health_key(mut raw: Value) -> Value {
    let container = raw
        .pointer_mut("/TaskTemplate/ContainerSpec")
        .and_then(Value::as_object_mut);
    if let Some(container) = container
        && let Some(check) = container.remove("Healthcheck")
    {
        container.insert("HealthCheck".to_owned(), check);
    }
    raw
}

/// Refuses what has a meaning that tasks in containers do not have.
pub(super) fn check(raw: &Value) -> Result<(), ApiError> {
    const TEMPLATE: [&str; 8] = [
        "ContainerSpec",
        "Resources",
        "RestartPolicy",
        "ForceUpdate",
        "Runtime",
        "Networks",
        "Placement",
        "LogDriver",
    ];
    const CONTAINER: [&str; 27] = [
        "Image",
        "Labels",
        "Command",
        "Args",
        "Hostname",
        "Env",
        "Dir",
        "User",
        "Groups",
        "TTY",
        "ReadOnly",
        "Mounts",
        "StopSignal",
        "StopGracePeriod",
        "HealthCheck",
        "Hosts",
        "DNSConfig",
        "OomScoreAdj",
        "Isolation",
        "Init",
        "Sysctls",
        "CapabilityAdd",
        "CapabilityDrop",
        "Ulimits",
        "Configs",
        "Secrets",
        // docker's own client sends it, with nothing in it
        "Privileges",
    ];
    only(raw, "TaskTemplate", &TEMPLATE)?;
    only(raw, AT, &CONTAINER)?;
    only(raw, "TaskTemplate.ContainerSpec.Privileges", &[])?;
    only(raw, "TaskTemplate.Resources", &["Limits", "Reservations"])?;
    let kept = ["NanoCPUs", "MemoryBytes"];
    only(raw, "TaskTemplate.Resources.Reservations", &kept)?;
    let mounts = raw.pointer("/TaskTemplate/ContainerSpec/Mounts");
    let mounts = mounts.and_then(Value::as_array).into_iter().flatten();
    for (n, mount) in mounts.enumerate() {
        for (key, known) in [
            ("BindOptions", &["Propagation", "NonRecursive"][..]),
            ("VolumeOptions", &["NoCopy", "Labels", "DriverConfig"]),
            ("TmpfsOptions", &["SizeBytes", "Mode"]),
        ] {
            only(mount, key, known).map_err(|error| {
                ApiError::invalid(format!("{AT}.Mounts[{n}].{}", error.message))
            })?;
        }
    }
    Ok(())
}

/// The container of a service's tasks. `labels` are the service's.
pub(super) fn container(
    template: &mut DockerTask,
    labels: &BTreeMap<String, String>,
    state: &State,
) -> Result<ContainerSpec, ApiError> {
    let docker = template.container_spec.take().unwrap_or_default();
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let image = docker.image.unwrap_or_default();
    if image.is_empty() {
        return Err(ApiError::invalid(format!("{AT}.Image: name an image")));
    }
    let stop_signal = given(docker.stop_signal);
    if let Some(signal) = stop_signal.as_ref().filter(|signal| !is_signal(signal)) {
        return Err(ApiError::invalid(format!(
            "{AT}.StopSignal: {signal:?} is not known: use a name such as SIGTERM"
        )));
    }
    let pull = labels.get(label::PULL).map(|word| word.parse());
    let pull: Option<PullPolicy> = pull
        .transpose()
        .map_err(|error| ApiError::invalid(format!("Labels: {}: {error}", label::PULL)))?;
    let mounts = docker.mounts.unwrap_or_default().into_iter().enumerate();
    let dns = docker.dns_config.unwrap_or_default();
    let hosts = docker.hosts.unwrap_or_default();
    check_hosts(&hosts)?;
    Ok(ContainerSpec {
        image,
        pull: pull.unwrap_or_default(),
        command: docker.command.unwrap_or_default(),
        args: docker.args.unwrap_or_default(),
        hostname: given(docker.hostname),
        env: docker.env.unwrap_or_default(),
        labels: docker.labels.unwrap_or_default().into_iter().collect(),
        user: given(docker.user),
        groups: docker.groups.unwrap_or_default(),
        dir: given(docker.dir),
        mounts: mounts
            .map(|(n, docker)| mount(n, docker))
            .collect::<Result<_, _>>()?,
        files: blob::files(docker.configs, docker.secrets, state)?,
        resources: resources(template.resources.take().unwrap_or_default())?,
        cap_add: docker.capability_add.unwrap_or_default(),
        cap_drop: docker.capability_drop.unwrap_or_default(),
        health: docker.health_check.map(health).transpose()?,
        stop_signal,
        stop_grace: duration(docker.stop_grace_period, &format!("{AT}.StopGracePeriod"))?,
        init: docker.init,
        read_only: docker.read_only.unwrap_or(false),
        tty: docker.tty.unwrap_or(false),
        log: template.log_driver.take().map(|log| LogDriver {
            name: log.name.unwrap_or_default(),
            options: log.options.unwrap_or_default().into_iter().collect(),
        }),
        hosts,
        dns: DnsConfig {
            servers: addresses(dns.nameservers.unwrap_or_default())?,
            search: dns.search.unwrap_or_default(),
            options: dns.options.unwrap_or_default(),
        },
        sysctls: docker.sysctls.unwrap_or_default().into_iter().collect(),
        ulimits: docker
            .ulimits
            .unwrap_or_default()
            .into_iter()
            .map(ulimit)
            .collect(),
        oom_score_adj: docker.oom_score_adj.filter(|n| *n != 0),
    })
}

fn positive(number: Option<i64>, path: &str) -> Result<u64, ApiError> {
    let number = number.unwrap_or(0);
    u64::try_from(number).map_err(|_| ApiError::invalid(format!("{path}: {number} is negative")))
}

fn resources(docker: DockerResources) -> Result<Resources, ApiError> {
    let (limits, kept) = (
        docker.limits.unwrap_or_default(),
        docker.reservations.unwrap_or_default(),
    );
    let at = |key: &str| format!("TaskTemplate.Resources.{key}");
    Ok(Resources {
        cpus: positive(limits.nano_cpus, &at("Limits.NanoCPUs"))?,
        memory: positive(limits.memory_bytes, &at("Limits.MemoryBytes"))?,
        pids: positive(limits.pids, &at("Limits.Pids"))?,
        reserved_cpus: positive(kept.nano_cpus, &at("Reservations.NanoCPUs"))?,
        reserved_memory: positive(kept.memory_bytes, &at("Reservations.MemoryBytes"))?,
    })
}

fn health(docker: DockerHealth) -> Result<HealthCheck, ApiError> {
    let at = |key: &str| format!("{AT}.Healthcheck.{key}");
    // 0 is how Docker says that it is as in the image
    let time = |n: Option<i64>, key: &str| duration(n.filter(|n| *n != 0), &at(key));
    let retries = positive(docker.retries, &at("Retries"))?;
    Ok(HealthCheck {
        test: docker.test.unwrap_or_default(),
        interval: time(docker.interval, "Interval")?,
        timeout: time(docker.timeout, "Timeout")?,
        retries: Some(u32::try_from(retries).unwrap_or(u32::MAX)).filter(|n| *n != 0),
        start_period: time(docker.start_period, "StartPeriod")?,
        start_interval: time(docker.start_interval, "StartInterval")?,
    })
}

fn mount(n: usize, docker: DockerMount) -> Result<Mount, ApiError> {
    let at = |key: &str| format!("{AT}.Mounts[{n}].{key}");
    let target = docker.target.unwrap_or_default();
    if !target.starts_with('/') {
        return Err(ApiError::invalid(format!(
            "{}: {target:?} is not an absolute path",
            at("Target")
        )));
    }
    let source = docker.source.filter(|source| !source.is_empty());
    let kind = match docker.typ {
        Some(MountType::BIND) => {
            let source = source.unwrap_or_default();
            if !source.starts_with('/') {
                return Err(ApiError::invalid(format!(
                    "{}: {source:?} is not an absolute path",
                    at("Source")
                )));
            }
            let options = docker.bind_options.unwrap_or_default();
            let propagation = options.propagation.map(|p| p.to_string());
            MountKind::Bind {
                source,
                propagation: propagation.filter(|p| !p.is_empty()),
                non_recursive: options.non_recursive.unwrap_or(false),
            }
        }
        None | Some(MountType::VOLUME) => {
            let options = docker.volume_options.unwrap_or_default();
            let driver = options.driver_config.unwrap_or_default();
            MountKind::Volume {
                source,
                no_copy: options.no_copy.unwrap_or(false),
                labels: options.labels.unwrap_or_default().into_iter().collect(),
                driver: driver.name.filter(|name| !name.is_empty()),
                options: driver.options.unwrap_or_default().into_iter().collect(),
            }
        }
        Some(MountType::TMPFS) => {
            let options = docker.tmpfs_options.unwrap_or_default();
            let mode = positive(options.mode, &at("TmpfsOptions.Mode"))?;
            MountKind::Tmpfs {
                size: positive(options.size_bytes, &at("TmpfsOptions.SizeBytes"))?,
                mode: u32::try_from(mode).unwrap_or(0),
            }
        }
        Some(other) => return Err(unavailable(&format!("{}={other}", at("Type")))),
    };
    Ok(Mount {
        target,
        read_only: docker.read_only.unwrap_or(false),
        kind,
    })
}

fn ulimit(docker: ResourcesUlimits) -> Ulimit {
    Ulimit {
        name: docker.name.unwrap_or_default(),
        soft: docker.soft.unwrap_or(0),
        hard: docker.hard.unwrap_or(0),
    }
}

/// Lines of hosts(5): an address and names.
fn check_hosts(hosts: &[String]) -> Result<(), ApiError> {
    let bad = hosts.iter().find(|line| {
        let mut words = line.split_whitespace();
        let address = words.next().map(str::parse::<IpAddr>);
        !matches!(address, Some(Ok(_))) || words.next().is_none()
    });
    bad.map_or(Ok(()), |bad| {
        Err(ApiError::invalid(format!(
            "{AT}.Hosts: {bad:?} is not valid: use ADDRESS NAME"
        )))
    })
}

fn addresses(servers: Vec<String>) -> Result<Vec<String>, ApiError> {
    match servers.iter().find(|text| text.parse::<IpAddr>().is_err()) {
        Some(bad) => Err(ApiError::invalid(format!(
            "{AT}.DNSConfig.Nameservers: {bad:?} is not an address"
        ))),
        None => Ok(servers),
    }
}

#[cfg(test)]
mod tests;
