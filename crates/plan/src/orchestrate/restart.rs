//! Whether and when a task that ended has a successor.

use jiff::Timestamp;
use model::{RestartCondition, TaskState};

use super::slots::Run;
use crate::duration::signed;

/// What becomes of a slot whose task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Restart {
    /// It stays as it is.
    Never,
    /// The next one may start then; `None`: at once.
    At(Option<Timestamp>),
}

/// What the policy of a task's own spec says; `runs` are all of its slot, newest
/// first. As in `SwarmKit`, it is decided as of the moment that it ended, once and for all.
pub(super) fn restart(run: &Run<'_>, runs: &[Run<'_>]) -> Restart {
    let Some(status) = run.ended() else {
        return Restart::Never;
    };
    let policy = run.task.spec.restart;
    let again = match policy.condition {
        RestartCondition::Any => true,
        RestartCondition::OnFailure => status.state != TaskState::Complete,
        RestartCondition::None => false,
    };
    if !again {
        return Restart::Never;
    }
    let (window, end) = (signed(policy.window), status.since);
    // what an older spec did, though it was the same once, is forgiven
    let counted = runs
        .iter()
        .skip_while(|other| other.task.id != run.task.id)
        .take_while(|other| other.task.spec == run.task.spec)
        .filter(|other| window.is_zero() || end.duration_since(other.task.created) < window);
    if policy.max_attempts > 0 && counted.count() as u64 > policy.max_attempts {
        return Restart::Never;
    }
    let at = end.saturating_add(signed(policy.delay));
    Restart::At(Some(at.unwrap_or(end)))
}
