//! From a task to what the Engine API is asked to make: a container without a network,
//! with the gate before its program
//! (<https://docs.docker.com/reference/api/engine/> "ContainerCreate").

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    time::Duration,
};

use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, HostConfigLogConfig, Mount as DockerMount,
    MountBindOptions, MountBindOptionsPropagationEnum as Propagation, MountTmpfsOptions, MountType,
    MountVolumeOptions, MountVolumeOptionsDriverConfig, ResourcesUlimits, RestartPolicy,
    RestartPolicyNameEnum,
};
use model::{ContainerSpec, HealthCheck, Mount, MountKind, Task};

use super::gate;
use crate::TaskFiles;

/// Labels by which containers of ours are found again.
pub(crate) mod label {
    /// The instance's prefix, as in the names of its namespaces.
    pub(crate) const INSTANCE: &str = "ipvsmesh.instance";
    /// The task's id.
    pub(crate) const TASK: &str = "ipvsmesh.task";
}

/// The kernel's limit, which is Docker's.
const LONGEST_HOSTNAME: usize = 63;

/// What an image says of its program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ImageProgram {
    pub(crate) entrypoint: Vec<String>,
    pub(crate) cmd: Vec<String>,
}

/// A task's program and its arguments, by docker's rule: who says the entrypoint
/// does not get the image's arguments. Empty where neither says one.
fn command(spec: &ContainerSpec, image: &ImageProgram) -> Vec<String> {
    let (entrypoint, own) = match spec.command.is_empty() {
        true => (&image.entrypoint, &image.cmd),
        false => (&spec.command, &Vec::new()),
    };
    let arguments = match spec.args.is_empty() {
        true => own,
        false => &spec.args,
    };
    [entrypoint.as_slice(), arguments.as_slice()].concat()
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

/// Never by Docker: ipvsmesh alone starts tasks.
fn no_restart() -> RestartPolicy {
    RestartPolicy {
        name: Some(RestartPolicyNameEnum::NO),
        maximum_retry_count: None,
    }
}

/// Docker turns IPv6 off in a namespace without networks of its own.
fn ipv6() -> Option<(String, String)> {
    let key = "net.ipv6.conf.all.disable_ipv6";
    // not there where the kernel has no IPv6
    let path = format!("/proc/sys/{}", key.replace('.', "/"));
    let there = Path::new(&path).exists();
    there.then(|| (key.to_owned(), "0".to_owned()))
}

/// The task's container, with the gate in this directory of the host; `None`: neither
/// its service nor its image says which program it is.
pub(crate) fn container(
    instance: &str,
    task: &Task,
    spec: &ContainerSpec,
    files: &TaskFiles,
    image: &ImageProgram,
    gate: &Path,
) -> Option<ContainerCreateBody> {
    let command = command(spec, image);
    if command.is_empty() {
        return None;
    }
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
    // the mesh's responder; it asks the servers of the spec for other names
    let servers = files.nameservers.iter().map(ToString::to_string).collect();
    let options = match spec.dns.options.is_empty() {
        true => vec![TaskFiles::OPTIONS.to_owned()],
        false => spec.dns.options.clone(),
    };
    // "." is how Docker is told that there is none, rather than the host's
    let search = match spec.dns.search.is_empty() {
        true => vec![".".to_owned()],
        false => spec.dns.search.clone(),
    };
    // ours last: containers are known by them
    let labels = [
        (label::INSTANCE.to_owned(), instance.to_owned()),
        (label::TASK.to_owned(), task.id.to_string()),
    ];
    let sysctls = spec.sysctls.clone();
    let body = ContainerCreateBody {
        image: Some(spec.image.clone()),
        hostname: Some(hostname.clone()),
        entrypoint: Some(gate::entrypoint().into_iter().chain(command).collect()),
        env: given(&spec.env),
        user: spec.user.clone(),
        working_dir: spec.dir.clone(),
        tty: Some(spec.tty),
        healthcheck: spec.health.as_ref().map(health),
        stop_signal: spec.stop_signal.clone(),
        stop_timeout: Some(signed(spec.grace().as_secs())),
        labels: Some(spec.labels.clone().into_iter().chain(labels).collect()),
        host_config: Some(HostConfig {
            network_mode: Some("none".to_owned()),
            dns: Some(servers),
            dns_search: Some(search),
            dns_options: Some(options),
            extra_hosts: Some(own.chain(further).collect()),
            group_add: given(&spec.groups),
            // "z": may be read where SELinux is enforced
            binds: Some(vec![format!("{}:{}:ro,z", gate.display(), gate::INSIDE)]),
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
            // what is said of it is said last
            sysctls: Some(ipv6().into_iter().chain(sysctls).collect()),
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
    };
    Some(body)
}

/// Lets the container see these files of the host, each at a path of its own.
pub(crate) fn hand_over(body: &mut ContainerCreateBody, files: &[(PathBuf, String)]) {
    let host = body.host_config.get_or_insert_default();
    let binds = host.binds.get_or_insert_default();
    // by now no path has a colon
    let bind = |(path, seen): &(PathBuf, String)| format!("{}:{seen}:ro,z", path.display());
    binds.extend(files.iter().map(bind));
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
