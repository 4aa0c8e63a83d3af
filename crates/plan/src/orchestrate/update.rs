//! How far a service's update is, and what it does next: SwarmKit's updater
//! (`manager/orchestrator/update`), read off the state at each look.
//!
//! A slot is the work of one worker from the moment that its task is told to leave
//! (stop-first) or that the new one is made (start-first) until the new one serves
//! or has failed, and for the delay after that. A new task that ends before it has
//! served for the time of the monitor is a failure; too many of them end the update.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use model::{
    FailureAction, RestartCondition, Service, TaskState, UpdateConfig, UpdateOrder, UpdateState,
    UpdateStatus,
};

use super::{
    restart::{Restart, restart},
    slots::{Place, Run, Slot},
};
use crate::duration::signed;

/// What an update does now.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Slots whose turn has come.
    pub(super) chosen: BTreeSet<Place>,
    /// Slots where the new task failed beside the old one, and when the next may start.
    pub(super) retries: BTreeMap<Place, Timestamp>,
    /// The new task comes before the old one leaves.
    pub(super) start_first: bool,
    /// There are slots whose turn has not come, or will not.
    pub(super) unfinished: bool,
    /// It waits for somebody to decide.
    pub(super) paused: bool,
    /// Moments at which there may be more to do.
    pub(super) wakes: Vec<Timestamp>,
    /// What becomes of the update itself.
    pub(super) verdict: Verdict,
}

/// What becomes of an update.
#[derive(Debug, Default)]
pub(super) enum Verdict {
    /// It stays as it is.
    #[default]
    GoOn,
    /// It has come to this.
    Becomes(UpdateStatus),
    /// It failed, and the service is to get its previous spec; the line says why.
    RollBack(String),
}

/// Where a slot stands.
enum Stage {
    /// Nothing is to be done.
    Clean,
    /// Its task is of another spec, and its turn has not come.
    Waits,
    /// A worker is at it.
    Busy,
    /// The first new task served or failed at this moment.
    Done(Timestamp),
}

/// Looks at the wanted slots that have tasks.
pub(super) fn progress(
    service: &Service,
    slots: &BTreeMap<Place, Slot<'_>>,
    now: Timestamp,
) -> Progress {
    let mut progress = Progress::default();
    let Some(status) = &service.update_status else {
        // of a version that did not know of updates
        let stale = |run: &Run<'_>| !run.current && run.lives();
        if slots.values().any(|slot| slot.runs.iter().any(stale)) {
            progress.unfinished = true;
            progress.verdict = Verdict::Becomes(UpdateStatus::updating(now));
        }
        return progress;
    };
    progress.unfinished = status.state.in_progress() || status.state.is_paused();
    progress.paused = status.state.is_paused();
    if !status.state.in_progress() {
        return progress;
    }
    let config = match status.state {
        UpdateState::RollbackStarted => service.spec.rollback,
        _ => service.spec.update,
    };
    progress.start_first = config.order == UpdateOrder::StartFirst;
    let (delay, monitor) = (signed(config.delay), signed(config.monitor));
    let (mut all, mut busy, mut failed) = (0_usize, 0_u64, Vec::new());
    let (mut waiting, mut open, mut settled) = (Vec::new(), false, now);
    for (place, slot) in slots {
        let attempts = attempts(slot, status.started);
        let done = match stage(slot, attempts.first()) {
            Stage::Clean => continue,
            Stage::Waits => {
                let serves = slot.best(false).is_some_and(|run| run.serves());
                waiting.push((serves, place));
                None
            }
            Stage::Busy => {
                busy += 1;
                None
            }
            Stage::Done(at) => Some(at),
        };
        all += 1;
        let failure = attempts.iter().find(|run| has_failed(run, &config));
        failed.extend(failure.map(|run| (run.task.created, &run.task.id)));
        if let Some(done) = done {
            let rested = done.saturating_add(delay).unwrap_or(Timestamp::MAX);
            if rested > now {
                busy += 1;
                progress.wakes.push(rested);
            }
            settled = settled.max(done.saturating_add(monitor).unwrap_or(Timestamp::MAX));
            // the old task serves on beside one that failed
            if slot.best(false).is_some() {
                match retry(slot, attempts.last()) {
                    Some(Restart::Never) => {}
                    Some(Restart::At(at)) => {
                        open = true;
                        progress.retries.insert(place.clone(), at.unwrap_or(now));
                    }
                    None => open = true,
                }
            }
        }
    }
    if let Some((_, id)) = failed.iter().min()
        && too_many(failed.len(), all, &config)
    {
        let why = format!("due to failure or early termination of task {id}");
        let back = config.failure_action == FailureAction::Rollback
            && status.state == UpdateState::Updating
            && service.previous.is_some();
        progress.retries.clear();
        progress.paused = true;
        progress.verdict = match (back, status.state.is_rollback()) {
            (true, _) => Verdict::RollBack(format!("update rolled back {why}")),
            (false, true) => Verdict::Becomes(status.paused(format!("rollback paused {why}"))),
            (false, false) => Verdict::Becomes(status.paused(format!("update paused {why}"))),
        };
        return progress;
    }
    if waiting.is_empty() && busy == 0 && !open {
        match settled > now {
            true => progress.wakes.push(settled),
            false => progress.verdict = Verdict::Becomes(status.done(now)),
        }
        return progress;
    }
    // those that do not serve first: nobody misses them
    waiting.sort_unstable();
    let workers = match config.parallelism {
        0 => usize::MAX,
        most => usize::try_from(most.saturating_sub(busy)).unwrap_or(usize::MAX),
    };
    let chosen = waiting.into_iter().take(workers);
    progress.chosen = chosen.map(|(_, place)| place.clone()).collect();
    progress
}

/// The tasks that the update made in a slot, oldest first.
fn attempts<'a>(slot: &Slot<'a>, since: Timestamp) -> Vec<Run<'a>> {
    let runs = slot.runs.iter().rev();
    let made = runs.filter(|run| run.current && run.task.created >= since);
    made.copied().collect()
}

fn stage(slot: &Slot<'_>, first: Option<&Run<'_>>) -> Stage {
    if let Some(first) = first {
        return match (first.started(), first.ended()) {
            (Some(at), _) => Stage::Done(at),
            (None, Some(status)) => Stage::Done(status.since),
            // one that fills a slot that was empty is no replacement
            (None, None) if slot.runs.iter().all(|run| run.current) => Stage::Clean,
            (None, None) => Stage::Busy,
        };
    }
    let mut shall_run = slot.runs.iter().filter(|run| run.lives() || run.is_over());
    match shall_run.any(|run| run.current) {
        true => Stage::Clean,
        false if slot.runs.iter().any(|run| run.lives() || run.is_over()) => Stage::Waits,
        // told to leave, or gone with no successor yet
        false if !slot.runs.is_empty() => Stage::Busy,
        false => Stage::Clean,
    }
}

/// It ended by itself before it had served for long.
fn has_failed(run: &Run<'_>, config: &UpdateConfig) -> bool {
    let Some(status) = run.status else {
        return false;
    };
    let did_its_work = status.state == TaskState::Complete
        && run.task.spec.restart.condition != RestartCondition::Any;
    // one that is not wanted there any more, or was asked to end, is no failure
    let ended = match status.state {
        TaskState::Failed | TaskState::Rejected | TaskState::Orphaned => true,
        TaskState::Complete => !did_its_work,
        // unhealthy, and about to be stopped for it
        TaskState::Starting | TaskState::Running => run.lives() && status.draining,
        _ => false,
    };
    let at = status.draining_since.unwrap_or(status.since);
    let served = status.started.map(|started| at.duration_since(started));
    ended && served.is_none_or(|served| served <= signed(config.monitor))
}

#[allow(
    clippy::cast_precision_loss,
    reason = "thousands at most, and a ratio is no exact thing"
)]
fn too_many(failed: usize, all: usize, config: &UpdateConfig) -> bool {
    config.failure_action != FailureAction::Continue
        && failed as f64 / all as f64 > config.max_failure_ratio
}

/// When the next try of a slot may start whose old task still lives; `None` while
/// one is under way.
fn retry(slot: &Slot<'_>, last: Option<&Run<'_>>) -> Option<Restart> {
    let last = last.filter(|_| slot.best(true).is_none())?;
    Some(restart(last, &slot.runs))
}

#[cfg(test)]
mod tests;
