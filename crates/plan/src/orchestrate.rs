//! Services to tasks: each slot has one task that shall run.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use model::{
    Attachment, DesiredState, Expect, Key, Lease, Mode, NetworkId, NodeId, Object, Resource,
    RestartCondition, Service, State, Task, TaskId, TaskState, TaskStatus, Transaction, Versioned,
};

use crate::allocate::{Allocator, give_back, lease_prefix};

/// Ended tasks that are kept of each slot, for `service ps`.
const HISTORY: usize = 4;

/// The tasks to make, to retire and to forget, in one transaction; and when to
/// look again though nothing changed.
pub fn plan_tasks(
    state: &State,
    now: Timestamp,
    random: &mut dyn FnMut() -> [u8; 16],
) -> (Transaction, Option<Timestamp>) {
    let mut planner = Planner {
        state,
        now,
        random,
        allocator: Allocator::new(state, now),
        leases: BTreeMap::new(),
        load: state.nodes.keys().map(|node| (node.clone(), 0)).collect(),
        tx: Transaction::default(),
    };
    for task in state.tasks.values() {
        if task.desired == DesiredState::Running
            && let Some(load) = planner.load.get_mut(&task.node)
        {
            *load += 1;
        }
    }
    let mut tasks: BTreeMap<_, Vec<&Versioned<Task>>> = BTreeMap::new();
    for task in state.tasks.values() {
        tasks.entry(&task.service).or_default().push(task);
    }
    for service in state.services.values() {
        let of_service = tasks.remove(&service.id).unwrap_or_default();
        planner.service(service, &of_service);
    }
    // tasks of services that are gone
    for task in tasks.into_values().flatten() {
        planner.retire(task, DesiredState::Remove);
    }
    for task in state.tasks.values() {
        planner.clear(task);
    }
    let waiting = state.tasks.values().filter_map(|task| task.not_before);
    (planner.tx, waiting.filter(|at| *at > now).min())
}

struct Planner<'a> {
    state: &'a State,
    now: Timestamp,
    random: &'a mut dyn FnMut() -> [u8; 16],
    allocator: Allocator<'a>,
    /// Leases made in this transaction.
    leases: BTreeMap<(NetworkId, NodeId), Lease>,
    /// Tasks that shall run, by node; those of this transaction included.
    load: BTreeMap<NodeId, usize>,
    tx: Transaction,
}

/// Where a task of a service belongs: slot and, in global mode, node.
type Place = (u32, Option<NodeId>);

impl Planner<'_> {
    fn service(&mut self, service: &Versioned<Service>, tasks: &[&Versioned<Task>]) {
        let mut slots: BTreeMap<Place, Vec<&Versioned<Task>>> = BTreeMap::new();
        let global = matches!(service.spec.mode, Mode::Global);
        for task in tasks {
            let place = (task.slot, global.then(|| task.node.clone()));
            slots.entry(place).or_default().push(task);
        }
        let wanted: BTreeSet<Place> = match service.spec.mode {
            Mode::Replicated { replicas } => keep_slots(self.state, &slots, replicas)
                .into_iter()
                .map(|n| (n, None))
                .collect(),
            Mode::Global => self
                .state
                .nodes
                .keys()
                .map(|node| (0, Some(node.clone())))
                .collect(),
        };
        for (place, tasks) in &slots {
            if !wanted.contains(place) {
                for task in tasks {
                    self.retire(task, DesiredState::Remove);
                }
            }
        }
        // one task is replaced at a time: the next only when all slots run
        let settled = wanted.iter().all(|place| {
            let tasks = slots.get(place).map_or(&[][..], Vec::as_slice);
            tasks
                .iter()
                .any(|task| self.runs(task) || self.finished(service, task))
        });
        let mut replaced = !settled;
        let before = self.tx.changes.len();
        for place in wanted {
            let tasks = slots.remove(&place).unwrap_or_default();
            self.slot(service, &place, &tasks, &mut replaced);
        }
        if self.tx.changes.len() > before {
            // tasks are not made for a service that is gone or on other networks by now
            self.tx.expect.push(Expect {
                key: Key::Service(service.id.clone()),
                version: Some(service.version),
            });
        }
    }

    /// It did what it should and is not to be done again.
    fn finished(&self, service: &Service, task: &Task) -> bool {
        task.desired == DesiredState::Running
            && task.spec == service.spec.task
            && service.spec.task.restart.condition != RestartCondition::Any
            && self
                .state
                .status(&task.id)
                .is_some_and(|s| s.state == TaskState::Complete)
    }

    fn runs(&self, task: &Task) -> bool {
        task.desired == DesiredState::Running
            && self
                .state
                .status(&task.id)
                .is_some_and(|s| s.state == TaskState::Running)
    }

    fn slot(
        &mut self,
        service: &Service,
        place: &Place,
        tasks: &[&Versioned<Task>],
        replaced: &mut bool,
    ) {
        let state = self.state;
        let ended = |task: &Task| {
            state
                .status(&task.id)
                .filter(|status| status.state.is_final())
        };
        // newest first; those that are to be forgotten do not count
        let mut tasks: Vec<_> = tasks
            .iter()
            .filter(|task| task.desired < DesiredState::Remove)
            .copied()
            .collect();
        tasks.sort_by_key(|task| std::cmp::Reverse((task.created, task.id.clone())));
        let (shall, shut): (Vec<_>, Vec<_>) = tasks
            .iter()
            .copied()
            .partition(|task| task.desired == DesiredState::Running);
        let (over, live): (Vec<_>, Vec<_>) =
            shall.into_iter().partition(|task| ended(task).is_some());

        let keep = live.iter().copied().max_by_key(|task| {
            let current = task.spec == service.spec.task;
            (self.runs(task), current, task.created, task.id.clone())
        });
        // a slot has one task; nobody makes two
        for other in live
            .iter()
            .filter(|task| Some(task.id.clone()) != keep.map(|k| k.id.clone()))
        {
            self.retire(other, DesiredState::Remove);
        }
        // while one is being stopped, its successor waits
        let mut occupied = keep.is_some() || shut.iter().any(|task| ended(task).is_none());
        if let Some(task) = keep
            && task.spec != service.spec.task
            && (!*replaced || !self.runs(task))
        {
            // stop-first: the new one is made once this one is down
            *replaced = true;
            self.retire(task, DesiredState::Shutdown);
        }
        for task in over {
            let Some(status) = ended(task) else { continue };
            match self.restart_at(service, task, status, &tasks) {
                _ if occupied => self.retire(task, DesiredState::Shutdown),
                Restart::Never => occupied = true,
                Restart::At(at) => {
                    self.retire(task, DesiredState::Shutdown);
                    self.create(service, place, Some(at));
                    occupied = true;
                }
            }
        }
        if !occupied {
            self.create(service, place, None);
        }
        // those that count as attempts are kept, else no limit would ever be reached
        let attempts =
            usize::try_from(service.spec.task.restart.max_attempts).unwrap_or(usize::MAX);
        for task in shut.iter().skip(HISTORY.max(attempts)) {
            if ended(task).is_some() {
                self.retire(task, DesiredState::Remove);
            }
        }
    }

    /// Whether and when the next task of a slot may start; `tasks` are all of
    /// the slot, newest first.
    fn restart_at(
        &self,
        service: &Service,
        task: &Task,
        status: &TaskStatus,
        tasks: &[&Versioned<Task>],
    ) -> Restart {
        // a spec that was changed since gets its chance
        if task.spec != service.spec.task {
            return Restart::At(self.now);
        }
        let policy = service.spec.task.restart;
        let again = match policy.condition {
            RestartCondition::Any => true,
            RestartCondition::OnFailure => status.state != TaskState::Complete,
            RestartCondition::None => false,
        };
        let window = SignedDuration::try_from(policy.window).unwrap_or(SignedDuration::MAX);
        // what an older spec did, though it was the same once, is forgiven
        let counted = tasks
            .iter()
            .take_while(|other| other.spec == task.spec)
            .filter(|other| window.is_zero() || self.now.duration_since(other.created) < window);
        let exhausted = policy.max_attempts > 0 && counted.count() as u64 > policy.max_attempts;
        if !again || exhausted {
            return Restart::Never;
        }
        let delay = SignedDuration::try_from(policy.delay).unwrap_or(SignedDuration::MAX);
        Restart::At(status.since.saturating_add(delay).unwrap_or(self.now))
    }

    fn retire(&mut self, task: &Versioned<Task>, desired: DesiredState) {
        if task.desired >= desired {
            return;
        }
        let mut value = Task::clone(task);
        value.desired = desired;
        self.tx.replace(task.version, Object::Task(Box::new(value)));
    }

    /// Of a task of which nothing is left on its node, gives back the addresses,
    /// and deletes it if it is not to be remembered.
    fn clear(&mut self, task: &Versioned<Task>) {
        let Some(status) = self.state.statuses.get(&task.id) else {
            return;
        };
        if !status.state.is_final() || status.attached {
            return;
        }
        if task.desired == DesiredState::Remove {
            self.tx.delete(task.version, Key::Task(task.id.clone()));
            self.tx.delete(status.version, Key::Status(task.id.clone()));
        }
        for address in task.attachments.iter().flat_map(|a| &a.addresses) {
            give_back(
                self.state,
                &mut self.tx,
                &Resource::Address(*address),
                task.id.as_str(),
                self.now,
            );
        }
    }

    fn create(&mut self, service: &Service, (slot, node): &Place, not_before: Option<Timestamp>) {
        let Some(node) = node.clone().or_else(|| self.choose_node()) else {
            return;
        };
        let id = TaskId::from_random((self.random)());
        let mut attachments = Vec::new();
        for wanted in &service.spec.task.networks {
            let Some(lease) = self.lease(&wanted.network, &node) else {
                return;
            };
            let blocks = lease.blocks();
            let addresses: Option<Vec<IpAddr>> =
                blocks.map(|block| self.allocator.address(block)).collect();
            let Some(addresses) = addresses else {
                return;
            };
            attachments.push(Attachment {
                network: wanted.network.clone(),
                addresses,
            });
        }
        for address in attachments.iter().flat_map(|a| &a.addresses) {
            self.allocator
                .claim(&mut self.tx, &Resource::Address(*address), id.as_str());
        }
        if let Some(load) = self.load.get_mut(&node) {
            *load += 1;
        }
        let task = Task {
            id,
            service: service.id.clone(),
            service_name: service.spec.name.clone(),
            slot: *slot,
            node,
            spec: service.spec.task.clone(),
            attachments,
            desired: DesiredState::Running,
            created: self.now,
            not_before,
        };
        self.tx.create(Object::Task(Box::new(task)));
    }

    /// The node with the fewest tasks that shall run.
    fn choose_node(&self) -> Option<NodeId> {
        let least = self.load.iter().min_by_key(|(_, load)| **load);
        least.map(|(node, _)| node.clone())
    }

    /// The node's blocks of a network, leased now if it has none.
    fn lease(&mut self, network: &NetworkId, node: &NodeId) -> Option<Lease> {
        if let Some(lease) = self.state.lease(network, node) {
            return Some(lease.clone());
        }
        let key = (network.clone(), node.clone());
        if let Some(lease) = self.leases.get(&key) {
            return Some(lease.clone());
        }
        let pools = self.state.networks.get(network)?.pools.iter();
        let subnets: Vec<IpNet> = pools.map(|pool| pool.subnet).collect();
        let mut blocks = Vec::new();
        for subnet in subnets {
            let prefix = lease_prefix(subnet);
            // of the whole subnet, the network itself has the claim
            let whole = prefix == subnet.prefix_len();
            let block = match whole {
                true => subnet,
                false => self.allocator.block(subnet, prefix, &[])?,
            };
            blocks.push((block, !whole));
        }
        for (block, _) in blocks.iter().filter(|(_, claim)| *claim) {
            self.allocator
                .claim(&mut self.tx, &Resource::Block(*block), network.as_str());
        }
        let mut blocks = blocks.into_iter().map(|(block, _)| block);
        let lease = Lease {
            network: network.clone(),
            node: node.clone(),
            block: blocks.next()?,
            block6: blocks.next(),
        };
        self.tx.create(Object::Lease(lease.clone()));
        self.leases.insert(key, lease.clone());
        Some(lease)
    }
}

enum Restart {
    Never,
    At(Timestamp),
}

/// Which slots stay: as many as are wanted, those that run before others, low
/// numbers before high ones; missing ones are filled up from below.
fn keep_slots(
    state: &State,
    slots: &BTreeMap<Place, Vec<&Versioned<Task>>>,
    replicas: u32,
) -> BTreeSet<u32> {
    let lives = |tasks: &Vec<&Versioned<Task>>| {
        tasks.iter().any(|task| {
            task.desired == DesiredState::Running
                && state
                    .status(&task.id)
                    .is_some_and(|s| s.state == TaskState::Running)
        })
    };
    let used = |tasks: &Vec<&Versioned<Task>>| {
        tasks.iter().any(|task| task.desired < DesiredState::Remove)
    };
    let mut candidates: Vec<(bool, u32)> = slots
        .iter()
        .filter(|((slot, _), tasks)| *slot > 0 && used(tasks))
        .map(|((slot, _), tasks)| (!lives(tasks), *slot))
        .collect();
    candidates.sort_unstable();
    candidates.truncate(replicas as usize);
    let mut keep: BTreeSet<u32> = candidates.into_iter().map(|(_, slot)| slot).collect();
    let mut next = 1;
    while keep.len() < replicas as usize {
        keep.insert(next);
        next += 1;
    }
    keep
}

#[cfg(test)]
mod tests;
