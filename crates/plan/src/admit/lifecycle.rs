//! What a change of a service's spec means for the tasks that it has, and for the
//! way back.

use jiff::Timestamp;
use model::{DesiredState, Service, ServiceSpec, State, Task, UpdateState, UpdateStatus};
use serde_json::Value;

/// Why a service gets another spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// Somebody asked for it.
    Asked,
    /// Somebody wants the previous one back.
    Rollback,
    /// Too many tasks of the one that it has failed; the line says which.
    Failure(String),
}

/// What is remembered beside the new spec.
pub(super) struct Memory {
    pub(super) previous: Option<Box<ServiceSpec>>,
    pub(super) raw_previous: Value,
    pub(super) status: Option<UpdateStatus>,
}

impl Cause {
    /// What is remembered when this service changes to `spec`.
    pub(super) fn remember(
        self,
        state: &State,
        before: &Service,
        spec: &ServiceSpec,
        now: Timestamp,
    ) -> Memory {
        let swapped = |status| Memory {
            previous: Some(Box::new(before.spec.clone())),
            raw_previous: before.raw.clone(),
            status,
        };
        match self {
            Self::Rollback => {
                let message = "manually requested rollback".to_owned();
                swapped(Some(UpdateStatus::rolling_back(now, message)))
            }
            // what failed is nothing to go back to
            Self::Failure(message) => Memory {
                previous: None,
                raw_previous: Value::Null,
                status: Some(UpdateStatus::rolling_back(now, message)),
            },
            Self::Asked if !is_stale(state, before, spec) => swapped(None),
            Self::Asked => {
                let unfinished = before.update_status.as_ref().filter(|status| {
                    spec.task == before.spec.task
                        && (status.state.in_progress() || status.state.is_paused())
                });
                let status = match unfinished {
                    // scaled meanwhile: it goes on
                    Some(status) if status.state.in_progress() => status.clone(),
                    Some(status) if status.state == UpdateState::RollbackPaused => {
                        UpdateStatus::rolling_back(now, "rollback in progress".to_owned())
                    }
                    // one that paused is taken up again by any change, as in Swarm
                    _ => UpdateStatus::updating(now),
                };
                let mut memory = swapped(Some(status));
                // tasks of the spec before that are what there is to go back to
                if let (Some(_), Some(previous)) = (unfinished, &before.previous) {
                    memory.raw_previous = before.raw_previous.clone();
                    if let Some(back) = &mut memory.previous {
                        back.task = previous.task.clone();
                    }
                }
                memory
            }
        }
    }
}

/// Whether there are tasks to replace, or were a moment ago.
fn is_stale(state: &State, service: &Service, spec: &ServiceSpec) -> bool {
    let status = service.update_status.as_ref();
    let stale = |task: &Task| task.desired == DesiredState::Running && task.spec != spec.task;
    status.is_some_and(|status| status.state.in_progress())
        || state
            .tasks_of(&service.id)
            .into_iter()
            .any(|task| stale(task))
}
