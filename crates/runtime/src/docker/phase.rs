//! What a task is at, by what Docker says of its container, what its process is at,
//! and what was written down.

use jiff::Timestamp;
use model::{Health, ProcessIdentity, TaskId};

use super::record::Record;
use crate::{Observed, Phase};

/// Exit status of a task whose end nobody saw: that of one that was killed.
const DIED: i32 = 137;

/// A task's container, as Docker has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Container {
    /// What it is at.
    pub(crate) state: State,
    /// What its check says.
    pub(crate) health: Health,
}

impl Container {
    /// Whether Docker says that it runs.
    pub(crate) fn runs(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }
}

/// What a container is at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Made, never started.
    Created,
    /// Its first process runs.
    Running {
        /// Which.
        pid: u32,
        /// Which exactly; `None`: it has ended, which Docker does not know yet.
        identity: Option<ProcessIdentity>,
    },
    /// It ended, or could not start.
    Ended {
        /// Exit status.
        code: i32,
        /// What Docker says of it.
        error: String,
        /// When.
        at: Timestamp,
    },
}

fn died(error: &str, at: Timestamp) -> Phase {
    Phase::Exited {
        code: DIED,
        error: error.to_owned(),
        rejected: false,
        at,
    }
}

/// What a task is at whose process lives.
fn living(identity: &ProcessIdentity, held: bool, health: Health) -> Phase {
    match held {
        true => Phase::Prepared,
        false => Phase::Running {
            pid: identity.pid,
            health,
        },
    }
}

/// What a task is at, where Docker says what there is. `held` tells whether a process
/// is in the gate, `boot_id` is this start of the machine's.
pub(crate) fn by_docker(
    task: &TaskId,
    record: &Record,
    container: Option<&Container>,
    held: impl Fn(u32) -> bool,
    boot_id: &str,
    now: Timestamp,
) -> Observed {
    let observed = |phase, identity| Observed {
        task: task.clone(),
        phase,
        identity,
    };
    if record.removed {
        return observed(Phase::Gone, None);
    }
    let known = record.process.as_ref();
    let phase = match container.map(|container| &container.state) {
        Some(State::Running {
            identity: Some(identity),
            ..
        }) if known.is_none_or(|known| known == identity) => {
            if known.is_none() && !record.started {
                // half made: it may not even have come to the gate
                return observed(Phase::Gone, None);
            }
            let health = container.map_or(Health::None, |container| container.health);
            let phase = living(identity, held(identity.pid), health);
            return observed(phase, Some(identity.clone()));
        }
        // whatever happens before the gate is opened is done again
        _ if !record.started => Phase::Gone,
        Some(State::Running {
            identity: Some(_), ..
        }) => {
            let error =
                "its container was started again by another than ipvsmesh, without its network";
            died(error, now)
        }
        Some(State::Running { identity: None, .. }) => Phase::Ended,
        Some(State::Ended { at, .. }) if record.boot_id != boot_id => {
            died("the machine was started anew", *at)
        }
        Some(State::Ended { code, error, at }) => Phase::Exited {
            code: *code,
            error: error.clone(),
            rejected: false,
            at: *at,
        },
        Some(State::Created) => Phase::Gone,
        None => died("its container was removed by another than ipvsmesh", now),
    };
    observed(phase, None)
}

/// What a task is at, where Docker does not answer: its process may well live.
/// `lives` tells whether exactly that one does, `held` whether it is in the gate,
/// `health` is what was last known.
pub(crate) fn by_process(
    task: &TaskId,
    record: &Record,
    lives: impl Fn(&ProcessIdentity) -> bool,
    held: impl Fn(u32) -> bool,
    health: Health,
    now: Timestamp,
) -> Observed {
    let process = record.process.as_ref().filter(|_| !record.removed);
    let (phase, identity) = match process {
        None => (Phase::Gone, None),
        Some(process) if lives(process) => {
            let phase = living(process, held(process.pid), health);
            (phase, Some(process.clone()))
        }
        Some(_) if !record.started => (Phase::Gone, None),
        Some(_) => {
            let error = "it ended while Docker did not answer; its exit status is not known";
            (died(error, now), None)
        }
    };
    Observed {
        task: task.clone(),
        phase,
        identity,
    }
}

#[cfg(test)]
mod tests;
