//! What a node does next with a task that is not ours: to say whether it is a
//! destination is all that there is to do.

use jiff::Timestamp;
use model::{DesiredState, Health, Task, TaskState, TaskStatus};

use super::{Action, Leaving, UNHEALTHY, connected_until};

/// Decides as [`super::next_action`] does; `health` is what a check says of it, `None`
/// while that is not known.
pub fn next_action(
    task: &Task,
    status: Option<&TaskStatus>,
    health: Option<Health>,
    leaving: Leaving,
    now: Timestamp,
) -> Action {
    let state = status.map_or(TaskState::New, |status| status.state);
    let report = |state, message, error: &str| Action::Report {
        state,
        message,
        error: error.to_owned(),
        code: None,
    };
    if state.is_final() {
        return Action::Wait(None);
    }
    let draining = status.filter(|status| status.draining);
    if task.desired != DesiredState::Running {
        if state != TaskState::Running {
            return report(TaskState::Shutdown, "removed", "");
        }
        let since = draining.and_then(|status| status.draining_since);
        return match since.filter(|since| *since <= now) {
            None => Action::Drain,
            Some(since) => match connected_until(since, leaving, now) {
                // nobody asks it to end
                Action::Stop => report(TaskState::Shutdown, "removed", ""),
                other => other,
            },
        };
    }
    match health {
        None => Action::Wait(None),
        Some(Health::None | Health::Healthy) if draining.is_some() => Action::Resume,
        Some(Health::None | Health::Healthy) if state == TaskState::Running => Action::Wait(None),
        Some(Health::None | Health::Healthy) => report(TaskState::Running, "serves", ""),
        Some(Health::Unhealthy) if draining.is_some() => Action::Wait(None),
        Some(Health::Unhealthy) if state == TaskState::Running => Action::Suspend,
        Some(Health::Unhealthy) if status.is_some_and(|s| !s.error.is_empty()) => {
            Action::Wait(None)
        }
        Some(Health::Unhealthy) => report(TaskState::Starting, "unhealthy", UNHEALTHY),
        // a new daemon has not asked yet
        Some(Health::Starting) if state >= TaskState::Starting => Action::Wait(None),
        Some(Health::Starting) => report(TaskState::Starting, "is asked", ""),
    }
}
