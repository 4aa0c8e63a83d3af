//! Services to tasks: each slot has one task that shall run, or two while one
//! takes the other's place.

mod clear;
mod create;
mod endpoints;
mod restart;
mod slots;
mod update;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use model::{
    Availability, DesiredState, Expect, Key, Lease, NetworkId, Node, NodeId, Object, Placement,
    Revision, RuntimeSpec, Service, ServiceId, State, Task, TaskSpec, Transaction, Versioned,
    differences,
};

use crate::{allocate::Allocator, placement};
pub(crate) use endpoints::attachments;
use restart::Restart;
use slots::{Place, Run, Slot};
use update::{Progress, Verdict};

/// Ended tasks that are kept of each slot, for `service ps`.
const HISTORY: usize = 4;

/// What is to be done about tasks now.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The tasks to make, to retire and to forget.
    pub tx: Transaction,
    /// When to look again though nothing changed.
    pub wake: Option<Timestamp>,
    /// Services whose update failed, and that are to get their previous spec again
    /// ([`crate::admit::rollback_failed`]); until then nothing is done about them.
    pub rollbacks: Vec<Failed>,
}

/// A service whose update failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// Which.
    pub service: ServiceId,
    /// As of this version.
    pub version: Revision,
    /// A line for people.
    pub message: String,
}

/// Decides about tasks: from the state alone, so that the next daemon goes on where one
/// died, and follows it from look to look, so that a look costs what changed.
#[derive(Debug, Default)]
pub struct Orchestrator {
    /// As it was at the last look.
    state: State,
    /// Tasks that shall run, by node.
    load: BTreeMap<NodeId, usize>,
    /// Services that are to be looked at again though nothing changes, and when.
    wakes: BTreeMap<ServiceId, Timestamp>,
    /// Services with which the last look was not done: what it decided may not have been
    /// written, and what it had no room for may have some by now.
    open: BTreeSet<ServiceId>,
}

impl Orchestrator {
    /// What is to be done in this state at this time.
    pub fn look(
        &mut self,
        state: &State,
        now: Timestamp,
        random: &mut dyn FnMut() -> [u8; 16],
    ) -> Plan {
        let services = self.services(state, now);
        self.count(state);
        self.state = state.clone();
        let active = state.nodes.values();
        let active = active.filter(|node| node.availability == Availability::Active);
        let load = |node: &Versioned<Node>| {
            let load = self.load.get(&node.id).copied().unwrap_or_default();
            (node.id.clone(), load)
        };
        let mut planner = Planner {
            state,
            now,
            random,
            allocator: Allocator::new(state, now),
            leases: BTreeMap::new(),
            load: active.map(load).collect(),
            slots: placement::Slots::new(),
            wake: None,
            short: false,
            plan: Plan::default(),
        };
        for id in services {
            let before = planner.done();
            planner.look(&id);
            match planner.wake.take() {
                Some(wake) => self.wakes.insert(id.clone(), wake),
                None => self.wakes.remove(&id),
            };
            let short = std::mem::take(&mut planner.short);
            match short || planner.done() != before {
                true => self.open.insert(id),
                false => self.open.remove(&id),
            };
        }
        Plan {
            wake: self.wakes.values().min().copied(),
            ..planner.plan
        }
    }

    /// Those about which there may be something to decide.
    fn services(&self, state: &State, now: Timestamp) -> BTreeSet<ServiceId> {
        // the nodes, and which networks there are, matter to all; one that is only written
        // anew does not, as each service that is put on it does that
        let mut networks = differences(&self.state.networks, &state.networks);
        let all = networks.any(|(_, old, new)| old.is_none() || new.is_none())
            || !state.nodes.ptr_eq(&self.state.nodes);
        let nothing = State::default();
        let mut services = state.services_changed_since(if all { &nothing } else { &self.state });
        services.extend(self.open.iter().cloned());
        let due = self.wakes.iter().filter(|(_, wake)| **wake <= now);
        services.extend(due.map(|(id, _)| id.clone()));
        services
    }

    /// Brings the load up to date.
    fn count(&mut self, state: &State) {
        let runs = |task: &&Versioned<Task>| task.desired == DesiredState::Running;
        for (_, old, new) in differences(&self.state.tasks, &state.tasks) {
            let of = |task: &Versioned<Task>| task.node.clone();
            if let Some(node) = old.filter(runs).map(of) {
                let load = self.load.entry(node).or_default();
                *load = load.saturating_sub(1);
            }
            if let Some(node) = new.filter(runs).map(of) {
                *self.load.entry(node).or_default() += 1;
            }
        }
    }
}

struct Planner<'a> {
    state: &'a State,
    now: Timestamp,
    random: &'a mut dyn FnMut() -> [u8; 16],
    allocator: Allocator<'a>,
    /// Leases made in this transaction.
    leases: BTreeMap<(NetworkId, NodeId), Lease>,
    /// Tasks that shall run, by node that takes more; those of this transaction included.
    load: BTreeMap<NodeId, usize>,
    /// Where the service that is planned has tasks, those of this transaction included.
    slots: placement::Slots,
    /// When the service that is planned is to be looked at again though nothing changes.
    wake: Option<Timestamp>,
    /// There was no room for a task of the service that is planned.
    short: bool,
    plan: Plan,
}

impl<'a> Planner<'a> {
    /// How much is decided.
    fn done(&self) -> (usize, usize) {
        (self.plan.tx.changes.len(), self.plan.rollbacks.len())
    }

    fn look(&mut self, id: &ServiceId) {
        let tasks = self.state.tasks_of(id);
        for at in tasks.iter().filter_map(|task| task.not_before) {
            self.look_again(at);
        }
        if let Some(service) = self.state.services.get(id) {
            self.service(service, &tasks);
        } else {
            for task in &tasks {
                self.retire(task, DesiredState::Remove);
            }
            if let Some(service) = self.state.leaving.get(id).filter(|_| tasks.is_empty()) {
                self.forget(service);
            }
        }
        for task in tasks {
            self.clear(task);
        }
    }

    fn look_again(&mut self, at: Timestamp) {
        if at > self.now {
            self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
        }
    }

    /// Whether a service's tasks must leave a node.
    fn must_leave(&self, service: &Service, node: &NodeId) -> bool {
        let node = self.state.nodes.get(node);
        node.is_some_and(|node| placement::must_leave(service, node).is_some())
    }

    fn service(&mut self, service: &'a Versioned<Service>, tasks: &[&'a Versioned<Task>]) {
        let Placement {
            spread,
            max_per_node,
            ..
        } = &service.spec.placement;
        // the load of nodes does for all others
        self.slots = match spread.is_empty() && max_per_node.is_none() {
            true => placement::Slots::new(),
            false => placement::slots(self.state, tasks.iter().map(|task| &***task)),
        };
        match &service.spec.task.runtime {
            RuntimeSpec::Static => return self.endpoints(service, tasks),
            // who sees the containers says which there are
            RuntimeSpec::Adopted { .. } => return,
            RuntimeSpec::Process(_) | RuntimeSpec::Docker(_) => {}
        }
        let before = self.plan.tx.changes.len();
        for task in tasks {
            let leaves = self.must_leave(service, &task.node)
                || placement::is_beyond(service, &self.slots, task);
            if task.desired == DesiredState::Running && leaves {
                self.retire(task, DesiredState::Shutdown);
            }
        }
        // they are replaced elsewhere once this is written
        if self.plan.tx.changes.len() > before {
            return;
        }
        let mut slots = slots::slots(self.state, service, tasks);
        let room = placement::room(self.state, service, &self.slots);
        let wanted = slots::wanted(self.state, service, &slots, room);
        slots.retain(|place, slot| {
            let keep = wanted.contains(place);
            if !keep {
                for run in &slot.runs {
                    self.retire(run.task, DesiredState::Remove);
                }
            }
            keep
        });
        let progress = update::progress(service, &slots, self.now);
        for at in progress.wakes.iter().copied() {
            self.look_again(at);
        }
        let status = match &progress.verdict {
            Verdict::GoOn => None,
            Verdict::RollBack(message) => {
                self.plan.rollbacks.push(Failed {
                    service: service.id.clone(),
                    version: service.version,
                    message: message.clone(),
                });
                return;
            }
            Verdict::Becomes(status) => Some(status),
        };
        for place in &wanted {
            let slot = slots.remove(place).unwrap_or_default();
            self.slot(service, place, &slot, &progress);
        }
        if let Some(status) = status {
            let changed = Service {
                update_status: Some(status.clone()),
                ..Service::clone(service)
            };
            let changed = Object::Service(Box::new(changed));
            self.plan.tx.replace(service.version, changed);
        } else if self.plan.tx.changes.len() > before {
            // tasks are not made for a service that is gone or on other networks by now
            self.plan.tx.expect.push(Expect {
                key: Key::Service(service.id.clone()),
                version: Some(service.version),
            });
        }
    }

    fn slot(&mut self, service: &Service, place: &Place, slot: &Slot<'a>, progress: &Progress) {
        let (current, stale) = (slot.best(true), slot.best(false));
        let kept = |run: &Run<'_>| {
            let kept = [current, stale].into_iter().flatten();
            kept.into_iter().any(|keep| keep.task.id == run.task.id)
        };
        // a slot has one task of a kind; nobody makes two
        for run in slot.runs.iter().filter(|run| run.lives() && !kept(run)) {
            self.retire(run.task, DesiredState::Remove);
        }
        let chosen = progress.chosen.contains(place);
        match (current, stale) {
            // what has not begun to serve when an update is given up does not
            (Some(current), Some(stale))
                if progress.paused && stale.serves() && !current.serves() =>
            {
                self.retire(current.task, DesiredState::Shutdown);
            }
            // its successor serves
            (Some(current), Some(stale)) if current.serves() => {
                self.retire(stale.task, DesiredState::Shutdown);
            }
            (None, Some(stale)) if chosen => {
                // without room for two, one must go first
                let beside = progress.start_first && stale.serves();
                if !beside || !self.create(service, place, &service.spec.task, None) {
                    self.retire(stale.task, DesiredState::Shutdown);
                }
            }
            _ => {}
        }
        self.ended(service, place, slot, progress);
        // those that count as attempts are kept, else no limit would ever be reached
        let attempts =
            usize::try_from(service.spec.task.restart.max_attempts).unwrap_or(usize::MAX);
        for run in slot.shut().skip(HISTORY.max(attempts)) {
            if run.ended().is_some() {
                self.retire(run.task, DesiredState::Remove);
            }
        }
    }

    /// What follows on tasks that ended though they shall run, and on none at all.
    fn ended(&mut self, service: &Service, place: &Place, slot: &Slot<'a>, progress: &Progress) {
        let (current, stale) = (slot.best(true), slot.best(false));
        // beside one that serves, the next try is an attempt of the update
        if let (None, Some(_), Some(at)) = (current, stale, progress.retries.get(place)) {
            self.create(service, place, &service.spec.task, Some(*at));
        }
        let mut filled = current.is_some() || stale.is_some();
        for run in slot.runs.iter().filter(|run| run.is_over()) {
            if filled {
                self.retire(run.task, DesiredState::Shutdown);
                continue;
            }
            filled = true;
            let (spec, restart) = match (run.current, progress.chosen.contains(place)) {
                // its turn to be replaced has come
                (false, true) => (&service.spec.task, Restart::At(None)),
                // it has not: another one like it
                (false, false) if progress.unfinished && self.has_networks(&run.task.spec) => {
                    (&run.task.spec, self.restart_of(run, slot))
                }
                // a spec that was changed since gets its chance
                (false, false) => (&service.spec.task, Restart::At(None)),
                (true, _) => (&service.spec.task, self.restart_of(run, slot)),
            };
            if let Restart::At(at) = restart {
                self.retire(run.task, DesiredState::Shutdown);
                self.create(service, place, spec, at);
            }
        }
        // while one is being stopped, its successor waits
        if !filled && slot.shut().all(|run| run.ended().is_some()) {
            self.create(service, place, &service.spec.task, None);
        }
    }

    fn restart_of(&self, run: &Run<'_>, slot: &Slot<'_>) -> Restart {
        restart::restart(run, &slot.runs)
    }

    /// Whether a task of this spec can still be attached.
    fn has_networks(&self, spec: &TaskSpec) -> bool {
        let mut networks = spec.networks.iter();
        networks.all(|attachment| self.state.networks.contains_key(&attachment.network))
    }
}

#[cfg(test)]
mod tests;
