//! What a node does next with one of its tasks.

use jiff::Timestamp;
use model::{DesiredState, Task, TaskState, TaskStatus};

/// What the runtime has of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A sandbox in which nothing runs yet.
    Prepared,
    /// Its command runs.
    Running,
    /// Its command ended, or never could start.
    Exited {
        /// Exit status; 128 + signal where it was killed.
        code: i32,
        /// Why, if not by itself.
        error: String,
        /// It could not be started at all.
        rejected: bool,
    },
}

/// The next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing; look again at this moment, if there is one.
    Wait(Option<Timestamp>),
    /// Make its sandbox.
    Prepare,
    /// Attach the sandbox to the mesh, then start the command.
    Start,
    /// Take no new connections.
    Drain,
    /// Ask it to end.
    Stop,
    /// Write down that it has come to this.
    Report {
        /// The new state.
        state: TaskState,
        /// One line on what happened.
        message: &'static str,
        /// Why it failed.
        error: String,
        /// Exit status.
        code: Option<i32>,
    },
    /// Take its veth, namespace and sandbox away.
    Detach,
}

/// Decides by what is wanted of the task, what was written down of it, and what
/// the runtime has; so it goes on rightly after any crash.
pub fn next_action(
    task: &Task,
    status: Option<&TaskStatus>,
    seen: Option<&Seen>,
    now: Timestamp,
) -> Action {
    let state = status.map_or(TaskState::New, |status| status.state);
    let wanted = task.desired == DesiredState::Running;
    let attached = status.is_some_and(|status| status.attached);
    let report = |state, message, error: &str, code| Action::Report {
        state,
        message,
        error: error.to_owned(),
        code,
    };

    if state.is_final() {
        // one that failed keeps its exit status; only its things go
        return if seen.is_some() || attached {
            Action::Detach
        } else {
            Action::Wait(None)
        };
    }
    match (wanted, seen) {
        (true, None) if state < TaskState::Preparing => match task.not_before {
            Some(at) if at > now => Action::Wait(Some(at)),
            _ => Action::Prepare,
        },
        // prepare does nothing where it is done already
        (true, None) if state < TaskState::Running => Action::Prepare,
        (true, None) => report(
            TaskState::Failed,
            "lost",
            "the task is gone: its node restarted, or its shim was killed",
            None,
        ),
        (true, Some(Seen::Prepared)) => Action::Start,
        (true, Some(Seen::Running)) if state == TaskState::Running => Action::Wait(None),
        (true, Some(Seen::Running)) => report(TaskState::Running, "started", "", None),
        (
            true,
            Some(Seen::Exited {
                code,
                error,
                rejected: true,
            }),
        ) => report(TaskState::Rejected, "could not start", error, Some(*code)),
        (true, Some(Seen::Exited { code: 0, .. })) => {
            report(TaskState::Complete, "finished", "", Some(0))
        }
        (true, Some(Seen::Exited { code, error, .. })) => {
            report(TaskState::Failed, "failed", error, Some(*code))
        }
        // it was on its way out, so that it is gone is what was asked
        (false, None) if state == TaskState::Running => {
            report(TaskState::Shutdown, "shutdown", "", None)
        }
        (false, None | Some(Seen::Prepared)) => {
            report(TaskState::Shutdown, "never started", "", None)
        }
        (false, Some(Seen::Running)) => {
            if status.is_some_and(|status| status.draining) {
                Action::Stop
            } else {
                Action::Drain
            }
        }
        (false, Some(Seen::Exited { code, .. })) => {
            report(TaskState::Shutdown, "shutdown", "", Some(*code))
        }
    }
}

#[cfg(test)]
mod tests;
