//! From a task to what the Engine API is asked to make: a sandbox that waits, and
//! the task's own container in the sandbox's network namespace
//! (<https://docs.docker.com/reference/api/engine/> "ContainerCreate").

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, HostConfigLogConfig, Mount as DockerMount,
    MountBindOptions, MountBindOptionsPropagationEnum as Propagation, MountTmpfsOptions, MountType,
    MountVolumeOptions, MountVolumeOptionsDriverConfig, ResourcesUlimits, RestartPolicy,
    RestartPolicyNameEnum,
};
use model::{ContainerSpec, HealthCheck, Mount, MountKind, Task};

use super::pause;
use crate::TaskFiles;

/// Labels by which containers of ours are found again.
pub(crate) mod label {
    /// The instance's prefix, as in the names of its namespaces.
    pub(crate) const INSTANCE: &str = "ipvsmesh.instance";
    /// The task's id.
    pub(crate) const TASK: &str = "ipvsmesh.task";
    /// [`SANDBOX`] or [`WORK`].
    pub(crate) const ROLE: &str = "ipvsmesh.role";
    /// The container that holds the network namespace until the task runs.
    pub(crate) const SANDBOX: &str = "sandbox";
    /// The task's own container.
    pub(crate) const WORK: &str = "task";
}

/// The kernel's limit, which is Docker's.
const LONGEST_HOSTNAME: usize = 63;

/// Name of the sandbox of the container with this name.
pub(crate) fn sandbox_name(name: &str) -> String {
    format!("{name}.sandbox")
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// What was said, and nothing where that is nothing.
fn given<T>(list: &[T]) -> Option<Vec<T>>
where
    T: Clone,
{
    (!list.is_empty()).then(|| list.to_vec())
}

fn some(number: u64) -> Option<i64> {
    (number != 0).then(|| signed(number))
}

fn map(map: &BTreeMap<String, String>) -> Option<HashMap<String, String>> {
    (!map.is_empty()).then(|| map.clone().into_iter().collect())
}

fn labels(instance: &str, task: &Task, role: &str) -> HashMap<String, String> {
    HashMap::from([
        (label::INSTANCE.to_owned(), instance.to_owned()),
        (label::TASK.to_owned(), task.id.to_string()),
        (label::ROLE.to_owned(), role.to_owned()),
    ])
}

/// Never by Docker: ipvsmesh alone starts tasks.
fn no_restart() -> RestartPolicy {
    RestartPolicy {
        name: Some(RestartPolicyNameEnum::NO),
        maximum_retry_count: None,
    }
}

/// Docker turns IPv6 off in a namespace without networks of its own.
fn ipv6() -> Option<HashMap<String, String>> {
    let key = "net.ipv6.conf.all.disable_ipv6";
    // not there where the kernel has no IPv6
    let path = format!("/proc/sys/{}", key.replace('.', "/"));
    let there = std::path::Path::new(&path).exists();
    there.then(|| HashMap::from([(key.to_owned(), "0".to_owned())]))
}

/// The sandbox of a task: its /etc/hosts, /etc/resolv.conf and host name are those
/// of every container that joins it.
pub(crate) fn sandbox(
    instance: &str,
    task: &Task,
    spec: &ContainerSpec,
    files: &TaskFiles,
) -> ContainerCreateBody {
    let hostname = spec.hostname.as_ref().unwrap_or(&files.hostname);
    let hostname: String = hostname.chars().take(LONGEST_HOSTNAME).collect();
    let own = files.addresses.iter();
    let own = own.map(|address| format!("{hostname}:{address}"));
    // hosts(5) has the address first
    let further = spec.hosts.iter().flat_map(|line| {
        let mut words = line.split_whitespace();
        let address = words.next().unwrap_or_default();
        words.map(move |name| format!("{name}:{address}"))
    });
    let servers = match spec.dns.servers.is_empty() {
        true => files.nameservers.iter().map(ToString::to_string).collect(),
        false => spec.dns.servers.clone(),
    };
    let options = match spec.dns.options.is_empty() {
        true => vec![TaskFiles::OPTIONS.to_owned()],
        false => spec.dns.options.clone(),
    };
    // "." is how Docker is told that there is none, rather than the host's
    let search = match spec.dns.search.is_empty() {
        true => vec![".".to_owned()],
        false => spec.dns.search.clone(),
    };
    ContainerCreateBody {
        image: Some(format!("{}:{}", pause::IMAGE, pause::TAG)),
        entrypoint: Some(vec![pause::PROGRAM.to_owned()]),
        hostname: Some(hostname.clone()),
        labels: Some(labels(instance, task, label::SANDBOX)),
        host_config: Some(HostConfig {
            network_mode: Some("none".to_owned()),
            dns: Some(servers),
            dns_search: Some(search),
            dns_options: Some(options),
            extra_hosts: Some(own.chain(further).collect()),
            readonly_rootfs: Some(true),
            cap_drop: Some(vec!["ALL".to_owned()]),
            security_opt: Some(vec!["no-new-privileges".to_owned()]),
            // it goes last
            oom_score_adj: Some(-998),
            pids_limit: Some(4),
            sysctls: ipv6(),
            log_config: Some(HostConfigLogConfig {
                typ: Some("none".to_owned()),
                config: None,
            }),
            restart_policy: Some(no_restart()),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    }
}

/// The task's own container, in the namespace of the sandbox with this name.
pub(crate) fn task(
    instance: &str,
    task: &Task,
    spec: &ContainerSpec,
    sandbox: &str,
) -> ContainerCreateBody {
    // ours last: containers are known by them
    let labels = labels(instance, task, label::WORK);
    let labels = spec.labels.clone().into_iter().chain(labels).collect();
    ContainerCreateBody {
        image: Some(spec.image.clone()),
        entrypoint: given(&spec.command),
        cmd: given(&spec.args),
        env: given(&spec.env),
        user: spec.user.clone(),
        working_dir: spec.dir.clone(),
        tty: Some(spec.tty),
        healthcheck: spec.health.as_ref().map(health),
        stop_signal: spec.stop_signal.clone(),
        stop_timeout: Some(signed(spec.grace().as_secs())),
        labels: Some(labels),
        host_config: Some(HostConfig {
            network_mode: Some(format!("container:{sandbox}")),
            group_add: given(&spec.groups),
            mounts: (!spec.mounts.is_empty()).then(|| spec.mounts.iter().map(mount).collect()),
            nano_cpus: some(spec.resources.cpus),
            memory: some(spec.resources.memory),
            memory_reservation: some(spec.resources.reserved_memory),
            pids_limit: some(spec.resources.pids),
            cap_add: given(&spec.cap_add),
            cap_drop: given(&spec.cap_drop),
            init: spec.init,
            readonly_rootfs: Some(spec.read_only),
            log_config: spec.log.as_ref().map(|log| HostConfigLogConfig {
                typ: Some(log.name.clone()),
                config: map(&log.options),
            }),
            sysctls: map(&spec.sysctls),
            ulimits: (!spec.ulimits.is_empty()).then(|| {
                let all = spec.ulimits.iter().map(|limit| ResourcesUlimits {
                    name: Some(limit.name.clone()),
                    soft: Some(limit.soft),
                    hard: Some(limit.hard),
                });
                all.collect()
            }),
            oom_score_adj: spec.oom_score_adj,
            restart_policy: Some(no_restart()),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    }
}

fn nanoseconds(duration: Option<Duration>) -> Option<i64> {
    duration.map(|duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX))
}

fn health(check: &HealthCheck) -> HealthConfig {
    HealthConfig {
        test: given(&check.test),
        interval: nanoseconds(check.interval),
        timeout: nanoseconds(check.timeout),
        retries: check.retries.map(i64::from),
        start_period: nanoseconds(check.start_period),
        start_interval: nanoseconds(check.start_interval),
    }
}

fn mount(mount: &Mount) -> DockerMount {
    let common = DockerMount {
        target: Some(mount.target.clone()),
        read_only: Some(mount.read_only),
        ..DockerMount::default()
    };
    match &mount.kind {
        MountKind::Bind {
            source,
            propagation,
            non_recursive,
        } => DockerMount {
            typ: Some(MountType::BIND),
            source: Some(source.clone()),
            bind_options: Some(MountBindOptions {
                propagation: propagation.as_deref().and_then(propagates),
                non_recursive: Some(*non_recursive),
                ..MountBindOptions::default()
            }),
            ..common
        },
        MountKind::Volume {
            source,
            no_copy,
            labels,
            driver,
            options,
        } => DockerMount {
            typ: Some(MountType::VOLUME),
            source: source.clone(),
            volume_options: Some(MountVolumeOptions {
                no_copy: Some(*no_copy),
                labels: map(labels),
                driver_config: driver.as_ref().map(|name| MountVolumeOptionsDriverConfig {
                    name: Some(name.clone()),
                    options: map(options),
                }),
                subpath: None,
            }),
            ..common
        },
        MountKind::Tmpfs { size, mode } => DockerMount {
            typ: Some(MountType::TMPFS),
            tmpfs_options: Some(MountTmpfsOptions {
                size_bytes: some(*size),
                mode: some(u64::from(*mode)),
                options: None,
            }),
            ..common
        },
    }
}

/// Docker's word for how mounts propagate; others were refused.
fn propagates(word: &str) -> Option<Propagation> {
    Some(match word {
        "private" => Propagation::PRIVATE,
        "rprivate" => Propagation::RPRIVATE,
        "shared" => Propagation::SHARED,
        "rshared" => Propagation::RSHARED,
        "slave" => Propagation::SLAVE,
        "rslave" => Propagation::RSLAVE,
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
