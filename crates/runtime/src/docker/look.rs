//! What Docker says of containers, read into our words.

use std::collections::BTreeMap;

use bollard::{
    Docker as Client,
    errors::Error,
    models::{
        ContainerInspectResponse, ContainerSummary, ContainerSummaryStateEnum, HealthStatusEnum,
    },
    query_parameters::ListContainersOptionsBuilder,
};
use jiff::Timestamp;
use model::{Health, TaskId};

use super::{
    container::{label, sandbox_name},
    engine::is_missing,
    phase::{Container, Pair, State},
    record::Record,
};
use crate::identity;

/// What Docker says of a container.
pub(crate) fn container(inspected: ContainerInspectResponse) -> Container {
    let state = inspected.state.unwrap_or_default();
    let health = state.health.and_then(|health| health.status);
    let health = match health {
        Some(HealthStatusEnum::STARTING) => Health::Starting,
        Some(HealthStatusEnum::HEALTHY) => Health::Healthy,
        Some(HealthStatusEnum::UNHEALTHY) => Health::Unhealthy,
        Some(HealthStatusEnum::NONE | HealthStatusEnum::EMPTY) | None => Health::None,
    };
    let time = |text: Option<String>| text.and_then(|text| text.parse::<Timestamp>().ok());
    // Go's zero time is the year 1
    let ran = time(state.started_at).is_some_and(|at| at > Timestamp::UNIX_EPOCH);
    let pid = state.pid.and_then(|pid| u32::try_from(pid).ok());
    let code = state.exit_code.unwrap_or(0);
    let code = i32::try_from(code).unwrap_or(i32::MAX);
    let mut error = state.error.unwrap_or_default();
    let state = match pid.filter(|pid| *pid != 0) {
        Some(pid) if state.running == Some(true) => State::Running {
            pid,
            identity: identity::of(pid).ok(),
        },
        _ if !ran && error.is_empty() && code == 0 => State::Created,
        _ => {
            if error.is_empty() && state.oom_killed == Some(true) {
                error = format!("task: non-zero exit ({code}): it used more memory than it may");
            } else if error.is_empty() && code != 0 {
                error = format!("task: non-zero exit ({code})");
            }
            State::Ended {
                code,
                error,
                rejected: !ran,
                at: time(state.finished_at).unwrap_or(Timestamp::UNIX_EPOCH),
            }
        }
    };
    Container { state, health }
}

async fn inspect(client: &Client, name: &str) -> Result<Option<Container>, Error> {
    match client.inspect_container(name, None).await {
        Ok(inspected) => Ok(Some(container(inspected))),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Both containers of the task whose own has this name.
pub(crate) async fn pair(client: &Client, name: &str) -> Result<Pair, Error> {
    let sandbox = sandbox_name(name);
    let (sandbox, task) = tokio::join!(inspect(client, &sandbox), inspect(client, name));
    Ok(Pair {
        sandbox: sandbox?,
        task: task?,
    })
}

/// The containers of an instance, by task: one question for all of them.
pub(crate) async fn list(
    client: &Client,
    instance: &str,
) -> Result<BTreeMap<TaskId, Vec<ContainerSummary>>, Error> {
    let filters = [("label", vec![format!("{}={instance}", label::INSTANCE)])];
    let options = ListContainersOptionsBuilder::default()
        .all(true)
        .filters(&filters.into())
        .build();
    let mut by_task: BTreeMap<TaskId, Vec<_>> = BTreeMap::new();
    for container in client.list_containers(Some(options)).await? {
        let id = container.labels.as_ref().and_then(|l| l.get(label::TASK));
        if let Some(id) = id.and_then(|id| id.parse().ok()) {
            by_task.entry(id).or_default().push(container);
        }
    }
    Ok(by_task)
}

/// Which part of a task a listed container is.
pub(crate) fn is_role(container: &ContainerSummary, role: &str) -> bool {
    let labels = container.labels.as_ref();
    labels
        .and_then(|l| l.get(label::ROLE))
        .is_some_and(|r| r == role)
}

/// Its name, without the slash that Docker puts before it.
pub(crate) fn listed_name(container: &ContainerSummary) -> Option<String> {
    let names = container.names.as_ref()?;
    Some(names.first()?.trim_start_matches('/').to_owned())
}

/// Both containers of a task, if the list and what was written down are enough to
/// know it: the one runs, and the other does not.
pub(crate) fn pair_of_list(listed: &[ContainerSummary], record: &Record) -> Option<Pair> {
    let runs =
        |container: &&ContainerSummary| container.state == Some(ContainerSummaryStateEnum::RUNNING);
    let mut running = listed.iter().filter(runs);
    let only = running.next()?;
    if running.next().is_some() || !is_role(only, label::WORK) {
        return None;
    }
    let identity = record.task.clone().filter(identity::lives)?;
    // "Up 2 minutes (healthy)"
    let status = only.status.as_deref().unwrap_or_default();
    let health = match () {
        () if status.contains("(healthy)") => Health::Healthy,
        () if status.contains("(unhealthy)") => Health::Unhealthy,
        () if status.contains("(health: starting)") => Health::Starting,
        () => Health::None,
    };
    let state = State::Running {
        pid: identity.pid,
        identity: Some(identity),
    };
    Some(Pair {
        sandbox: None,
        task: Some(Container { state, health }),
    })
}

#[cfg(test)]
mod tests {
    use bollard::models::{ContainerState, Health as DockerHealth};

    use super::*;

    fn of(state: ContainerState) -> Container {
        container(ContainerInspectResponse {
            state: Some(state),
            ..ContainerInspectResponse::default()
        })
    }

    #[test]
    fn states_are_told_apart() {
        let never = Some("0001-01-01T00:00:00Z".to_owned());
        let at = Some("2026-01-02T03:04:05.678901234Z".to_owned());
        let created = ContainerState {
            started_at: never.clone(),
            ..ContainerState::default()
        };
        assert_eq!(of(created.clone()).state, State::Created);
        let refused = of(ContainerState {
            exit_code: Some(127),
            error: Some("exec: \"x\": executable file not found in $PATH".to_owned()),
            ..created
        });
        assert!(
            matches!(
                refused.state,
                State::Ended {
                    code: 127,
                    rejected: true,
                    ..
                }
            ),
            "{refused:?}"
        );
        let ended = of(ContainerState {
            started_at: at.clone(),
            finished_at: at.clone(),
            exit_code: Some(3),
            ..ContainerState::default()
        });
        let expected = State::Ended {
            code: 3,
            error: "task: non-zero exit (3)".to_owned(),
            rejected: false,
            at: "2026-01-02T03:04:05.678901234Z".parse().unwrap(),
        };
        assert_eq!(ended.state, expected);
        let own = std::process::id();
        let running = of(ContainerState {
            started_at: at,
            running: Some(true),
            pid: Some(own.into()),
            health: Some(DockerHealth {
                status: Some(HealthStatusEnum::UNHEALTHY),
                ..DockerHealth::default()
            }),
            ..ContainerState::default()
        });
        assert_eq!(running.health, Health::Unhealthy);
        assert!(
            matches!(&running.state, State::Running { pid, identity: Some(_) } if *pid == own),
            "{running:?}"
        );
    }

    #[test]
    fn the_list_is_enough_where_all_is_as_it_was() {
        let role = |role: &str, state, status: &str| ContainerSummary {
            labels: Some([(label::ROLE.to_owned(), role.to_owned())].into()),
            state: Some(state),
            status: Some(status.to_owned()),
            ..ContainerSummary::default()
        };
        let (up, down) = (
            ContainerSummaryStateEnum::RUNNING,
            ContainerSummaryStateEnum::EXITED,
        );
        let listed = [
            role(label::SANDBOX, down, "Exited (137) 2 minutes ago"),
            role(label::WORK, up, "Up 2 minutes (unhealthy)"),
        ];
        let record = Record {
            task: identity::of(std::process::id()).ok(),
            ..Record::default()
        };
        let pair = pair_of_list(&listed, &record).unwrap();
        assert_eq!(pair.task.unwrap().health, Health::Unhealthy);
        assert_eq!(pair_of_list(&listed, &Record::default()), None);
        let both = [
            role(label::SANDBOX, up, "Up 1 second"),
            role(label::WORK, up, "Up 1 second"),
        ];
        assert_eq!(pair_of_list(&both, &record), None);
        assert_eq!(pair_of_list(&both[..1], &record), None);
    }
}
