//! Removes everything that an instance ever made, and nothing else.

use std::{collections::BTreeSet, fs, io, path::Path, time::Duration};

use kernel::Kernel;
use model::{Instance, TaskId};
use plan::netns::{Netns, Op, Place, Places};
use runtime::{Docker, DockerSettings, Runtime as _};

use crate::{Error, responder};

/// The sysctls of the host that are changed, with the files in the data directory that
/// have their values from before; the others go with our link.
const HOST_SYSCTLS: [(&str, &str); 2] = [
    ("ip_forward", "/proc/sys/net/ipv4/ip_forward"),
    ("ip6_forward", "/proc/sys/net/ipv6/conf/all/forwarding"),
];

fn write_failed(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Write { path, source }
}

/// Keeps the host's own value before it is changed for the first time.
pub(crate) fn remember_sysctls(data_dir: &Path) -> Result<(), Error> {
    for (name, sysctl) in HOST_SYSCTLS {
        let kept = data_dir.join(name);
        if !kept.exists() {
            let value = fs::read_to_string(sysctl).unwrap_or_default();
            fs::write(&kept, value).map_err(write_failed(&kept))?;
        }
    }
    Ok(())
}

/// Removes tasks, containers, namespaces, links, rules, sets, the responder, cgroups and
/// directories of an instance, and sets sysctls back. Goes on after an error,
/// and gives back all of them. No daemon of the instance may run.
///
/// # Errors
/// What could not be removed.
pub async fn cleanup(
    instance: &Instance,
    data_dir: Option<&Path>,
    docker: &DockerSettings,
) -> Result<(), Vec<Error>> {
    let own_dir = instance.data_dir();
    let data_dir = data_dir.unwrap_or(&own_dir);
    let mut errors = Vec::new();
    // refuses where a daemon holds the directory; a damaged store does not matter
    if data_dir.exists()
        && let Err(error @ store::OpenError::InUse { .. }) = store::Embedded::open(data_dir)
    {
        return Err(vec![error.into()]);
    }

    let control = responder::control(instance);
    let _ = dns::request(&control, "quit", Duration::from_secs(2)).await;

    if instance.run_dir().exists() {
        match runtime::Process::new(instance, "/proc/self/exe".into()) {
            Ok(runtime) => {
                for observed in runtime.observe().await.unwrap_or_default() {
                    if let Err(error) = runtime.remove(&observed.task).await {
                        errors.push(error.into());
                    }
                }
            }
            Err(error) => errors.push(error.into()),
        }
    }

    let (events, _) = tokio::sync::broadcast::channel(1);
    let docker = Docker::new(instance, docker.clone(), events);
    if let Err(error) = docker.clean_up().await {
        errors.push(error.into());
    }
    let kept = !errors.is_empty();

    if let Err(error) = clean_host(instance).await {
        errors.push(error);
    }
    let prefix = format!("{}-", instance.prefix());
    let names = kernel::netns::list(&prefix).unwrap_or_default();
    let ours = names.into_iter().filter(|name| {
        // another instance's have a name between the prefix and this
        name.strip_prefix(&prefix).is_some_and(|rest| {
            rest == "router" || rest == "ingress" || rest.parse::<TaskId>().is_ok()
        })
    });
    for name in ours {
        if let Err(error) = kernel::netns::delete(&name) {
            errors.push(error.into());
        }
    }

    for (name, sysctl) in HOST_SYSCTLS {
        let same = |value: &str| fs::read_to_string(sysctl).is_ok_and(|is| is.trim() == value);
        if let Ok(value) = fs::read_to_string(data_dir.join(name))
            && !value.trim().is_empty()
            && !same(value.trim())
            && let Err(error) = fs::write(sysctl, value.trim())
        {
            errors.push(write_failed(sysctl.as_ref())(error));
        }
    }
    let _ = fs::remove_dir(instance.cgroup());
    let mut dirs = vec![instance.run_dir()];
    if !kept {
        dirs.extend([data_dir.to_owned(), own_dir.clone()]);
    }
    for dir in dirs {
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                errors.push(write_failed(&dir)(error));
            }
            _ => {}
        }
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(errors)
    }
}

/// Takes our rules, sets and link out of the host namespace.
async fn clean_host(instance: &Instance) -> Result<(), Error> {
    let kernel = Kernel::with_ipv6(instance.clone())?;
    let Some(seen) = kernel.observe(&Place::Host, &BTreeSet::new()).await? else {
        return Ok(());
    };
    // a set that a rule refers to cannot be destroyed: rules first
    let observed = Places::unit(Place::Host, seen);
    let nothing = Places::unit(Place::Host, Netns::default());
    let mut ops = plan::plan_writes(&observed, &nothing);
    ops.sort_by_key(|(_, op)| !matches!(op, Op::Restore { .. }));
    match kernel.apply(ops).await.into_iter().next() {
        Some((_, error)) => Err(error.into()),
        None => Ok(()),
    }
}
