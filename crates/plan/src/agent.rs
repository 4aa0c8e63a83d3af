//! What a node does next with one of its tasks.

mod elsewhere;

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;
use model::{
    DesiredState, Health, Mark, Options, Protocol, Service, State, Task, TaskState, TaskStatus,
};

pub use elsewhere::next_action as next_action_elsewhere;

use crate::{duration::signed, netns::Place};

/// What the runtime has of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A sandbox in which nothing runs yet.
    Prepared,
    /// Its command runs.
    Running {
        /// What a check of it says.
        health: Health,
    },
    /// Its command ended, and it is not known yet how.
    Ended,
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
    /// Take no new connections while it is not well: it is not ours to stop.
    Suspend,
    /// Take new connections again.
    Resume,
    /// Send nothing to it any more: its command has ended.
    Withdraw,
    /// Nothing until its connections have ended, or until this moment.
    AwaitConnections(Timestamp),
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

/// What a leaving task's stop signal waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaving {
    /// How long its open connections may go on.
    pub timeout: Duration,
    /// How many were open when last looked at, once it took no new ones; `None`:
    /// not looked at yet.
    pub connections: Option<u64>,
}

/// How long a task's open connections may go on after it is to leave: as its
/// service says, and not at all where that is gone, whose IPVS services are too.
pub fn drain_timeout(state: &State, task: &Task) -> Duration {
    let Some(service) = state.services.get(&task.service) else {
        return Duration::ZERO;
    };
    // what was admitted can be read
    Options::of(&service.spec.labels)
        .unwrap_or_default()
        .drain_timeout
}

/// The IPVS services by which connections come to a service's tasks.
pub fn ways(service: &Service) -> BTreeSet<(Place, Mark)> {
    let vips = service.endpoint.vips.iter();
    let vips = vips.map(|vip| (Place::Router, vip.tcp));
    let ports = service.endpoint.ports.iter();
    let ports = ports.filter(|port| port.port.protocol != Protocol::Udp);
    vips.chain(ports.map(|port| (Place::Ingress, port.mark)))
        .collect()
}

/// Decides by what is wanted of the task, what was written down of it, what the
/// runtime has, and who is still connected to it; so it goes on rightly after any
/// crash.
pub fn next_action(
    task: &Task,
    status: Option<&TaskStatus>,
    seen: Option<&Seen>,
    leaving: Leaving,
    now: Timestamp,
) -> Action {
    let state = status.map_or(TaskState::New, |status| status.state);
    let wanted = task.desired == DesiredState::Running;
    let attached = status.is_some_and(|status| status.attached);
    let unwell = wanted && status.is_some_and(|status| status.draining);
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
        (true, None) if state < TaskState::Starting => Action::Prepare,
        (true, None) => report(
            TaskState::Failed,
            "lost",
            "the task is gone: its node restarted, or its shim was killed",
            None,
        ),
        (true, Some(Seen::Prepared)) => Action::Start,
        // who leaves takes no new connections as it is
        (true, Some(Seen::Ended)) if status.is_some_and(TaskStatus::runs) => Action::Withdraw,
        (_, Some(Seen::Ended)) => Action::Wait(None),
        // it is on its way out because it was not well
        (true, Some(Seen::Running { .. })) if unwell => Action::Stop,
        (true, Some(Seen::Running { health })) => match health {
            Health::Unhealthy => Action::Drain,
            _ if state == TaskState::Running => Action::Wait(None),
            Health::None | Health::Healthy => report(TaskState::Running, "started", "", None),
            Health::Starting if state == TaskState::Starting => Action::Wait(None),
            Health::Starting => report(TaskState::Starting, "starting", "", None),
        },
        (true, Some(Seen::Exited { code, .. })) if unwell => {
            report(TaskState::Failed, "unhealthy", UNHEALTHY, Some(*code))
        }
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
        (false, Some(Seen::Running { .. })) => {
            let draining = status.filter(|status| status.draining);
            match draining.and_then(|status| status.draining_since) {
                // a clock that was set back must not prolong it
                Some(since) if since <= now => connected_until(since, leaving, now),
                _ => Action::Drain,
            }
        }
        (false, Some(Seen::Exited { code, .. })) => {
            report(TaskState::Shutdown, "shutdown", "", Some(*code))
        }
    }
}

/// Docker's words for a task that failed its check.
pub const UNHEALTHY: &str = "task: unhealthy container";

/// Stops a task that drains, unless somebody is or may be connected to it.
fn connected_until(since: Timestamp, leaving: Leaving, now: Timestamp) -> Action {
    let end = since
        .saturating_add(signed(leaving.timeout))
        .unwrap_or(Timestamp::MAX);
    if now >= end || leaving.connections == Some(0) {
        Action::Stop
    } else {
        Action::AwaitConnections(end)
    }
}

#[cfg(test)]
mod tests;
