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
    container::label,
    engine::is_missing,
    phase::{Container, State},
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
                at: time(state.finished_at).unwrap_or(Timestamp::UNIX_EPOCH),
            }
        }
    };
    Container { state, health }
}

/// The container of this name.
pub(crate) async fn inspect(client: &Client, name: &str) -> Result<Option<Container>, Error> {
    match client.inspect_container(name, None).await {
        Ok(inspected) => Ok(Some(container(inspected))),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(error),
    }
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

/// Its name, without the slash that Docker puts before it.
pub(crate) fn listed_name(container: &ContainerSummary) -> Option<String> {
    let names = container.names.as_ref()?;
    Some(names.first()?.trim_start_matches('/').to_owned())
}

/// Whether a listed container runs.
pub(crate) fn runs(listed: &ContainerSummary) -> bool {
    listed.state == Some(ContainerSummaryStateEnum::RUNNING)
}

/// What a listed container's own check says, in its status: `Up 2 minutes (healthy)`.
pub(crate) fn health(status: &str) -> Health {
    match () {
        () if status.contains("(healthy)") => Health::Healthy,
        () if status.contains("(unhealthy)") => Health::Unhealthy,
        () if status.contains("(health: starting)") => Health::Starting,
        () => Health::None,
    }
}

/// A task's container, if the list and what was written down are enough to know it:
/// it runs, and the process that was known lives.
pub(crate) fn of_list(listed: &[ContainerSummary], record: &Record) -> Option<Container> {
    let [only] = listed else { return None };
    if !runs(only) {
        return None;
    }
    let identity = record.process.clone().filter(identity::lives)?;
    let health = health(only.status.as_deref().unwrap_or_default());
    let state = State::Running {
        pid: identity.pid,
        identity: Some(identity),
    };
    Some(Container { state, health })
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
            matches!(refused.state, State::Ended { code: 127, .. }),
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
        let listed = |state, status: &str| ContainerSummary {
            state: Some(state),
            status: Some(status.to_owned()),
            ..ContainerSummary::default()
        };
        let (up, down) = (
            ContainerSummaryStateEnum::RUNNING,
            ContainerSummaryStateEnum::EXITED,
        );
        let record = Record {
            process: identity::of(std::process::id()).ok(),
            ..Record::default()
        };
        let unwell = listed(up, "Up 2 minutes (unhealthy)");
        let found = of_list(std::slice::from_ref(&unwell), &record).unwrap();
        assert_eq!(found.health, Health::Unhealthy);
        for (listed, record) in [
            (&[][..], &record),
            (&[listed(down, "Exited (137) 2 minutes ago")], &record),
            (&[unwell], &Record::default()),
        ] {
            assert_eq!(of_list(listed, record), None, "{listed:?}");
        }
    }
}
