//! The places for a service's tasks, and who is in them.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use model::{DesiredState, Mode, NodeId, Service, State, Task, TaskState, TaskStatus, Versioned};

/// Where a task of a service belongs: slot and, in global mode, node.
pub(super) type Place = (u32, Option<NodeId>);

/// A task with what decisions about its slot are made from.
#[derive(Clone, Copy)]
pub(super) struct Run<'a> {
    pub(super) task: &'a Versioned<Task>,
    pub(super) status: Option<&'a TaskStatus>,
    /// It is of the task spec that the service has now.
    pub(super) current: bool,
}

impl<'a> Run<'a> {
    /// How it ended.
    pub(super) fn ended(&self) -> Option<&'a TaskStatus> {
        self.status.filter(|status| status.state.is_final())
    }

    /// It shall run, and may yet.
    pub(super) fn lives(&self) -> bool {
        self.task.desired == DesiredState::Running && self.ended().is_none()
    }

    /// It ended though it shall run.
    pub(super) fn is_over(&self) -> bool {
        self.task.desired == DesiredState::Running && self.ended().is_some()
    }

    /// It shall run, and takes connections.
    pub(super) fn serves(&self) -> bool {
        self.task.desired == DesiredState::Running && self.status.is_some_and(TaskStatus::serves)
    }

    /// Since when it serves, or did.
    pub(super) fn started(&self) -> Option<Timestamp> {
        let status = self.status?;
        let serves = status.state == TaskState::Running;
        // an older version did not write it down
        status.started.or_else(|| serves.then_some(status.since))
    }
}

/// One place's tasks, newest first, without those that are to be forgotten.
#[derive(Default)]
pub(super) struct Slot<'a> {
    pub(super) runs: Vec<Run<'a>>,
}

impl<'a> Slot<'a> {
    /// The one that stays of those that live, of the service's spec or of another.
    pub(super) fn best(&self, current: bool) -> Option<Run<'a>> {
        let live = self.runs.iter().filter(|run| run.lives());
        let of_kind = live.filter(|run| run.current == current);
        let best = of_kind.max_by_key(|run| (run.serves(), run.task.created, &run.task.id));
        best.copied()
    }

    /// Those that were told to end, newest first.
    pub(super) fn shut(&self) -> impl Iterator<Item = &Run<'a>> {
        let runs = self.runs.iter();
        runs.filter(|run| run.task.desired == DesiredState::Shutdown)
    }
}

/// A service's tasks by place.
pub(super) fn slots<'a>(
    state: &'a State,
    service: &Service,
    tasks: &[&'a Versioned<Task>],
) -> BTreeMap<Place, Slot<'a>> {
    let mut slots: BTreeMap<Place, Slot<'a>> = BTreeMap::new();
    let global = matches!(service.spec.mode, Mode::Global);
    for task in tasks {
        let place = (task.slot, global.then(|| task.node.clone()));
        let slot = slots.entry(place).or_default();
        if task.desired < DesiredState::Remove {
            slot.runs.push(Run {
                task,
                status: state.status(&task.id),
                current: task.spec == service.spec.task,
            });
        }
    }
    for slot in slots.values_mut() {
        let newest = |run: &Run<'_>| std::cmp::Reverse((run.task.created, run.task.id.clone()));
        slot.runs.sort_by_cached_key(newest);
    }
    slots
}

/// The places that shall be filled; of slots there are no more than there is room for.
pub(super) fn wanted(
    state: &State,
    service: &Service,
    slots: &BTreeMap<Place, Slot<'_>>,
    room: usize,
) -> BTreeSet<Place> {
    match service.spec.mode {
        Mode::Replicated { replicas } => {
            let keep = keep(slots, room.min(replicas as usize));
            keep.into_iter().map(|n| (n, None)).collect()
        }
        Mode::Global => {
            let nodes = state.nodes.keys();
            nodes.map(|node| (0, Some(node.clone()))).collect()
        }
    }
}

/// Which slots stay: as many as are wanted, those that run before others, low
/// numbers before high ones; missing ones are filled up from below.
fn keep(slots: &BTreeMap<Place, Slot<'_>>, replicas: usize) -> BTreeSet<u32> {
    let runs = |run: &Run<'_>| {
        let status = run.status.filter(|_| run.lives());
        status.is_some_and(|status| status.state == TaskState::Running)
    };
    let mut candidates: Vec<(bool, u32)> = slots
        .iter()
        .filter(|((slot, _), tasks)| *slot > 0 && !tasks.runs.is_empty())
        .map(|((slot, _), tasks)| (!tasks.runs.iter().any(runs), *slot))
        .collect();
    candidates.sort_unstable();
    candidates.truncate(replicas);
    let mut keep: BTreeSet<u32> = candidates.into_iter().map(|(_, slot)| slot).collect();
    let mut next = 1;
    while keep.len() < replicas {
        keep.insert(next);
        next += 1;
    }
    keep
}
