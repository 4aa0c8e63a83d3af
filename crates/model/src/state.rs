use std::{collections::BTreeSet, fmt, sync::Arc};

use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};

use crate::{
    Blob, BlobId, BlobKind, Change, Claim, DesiredState, Key, Lease, Network, NetworkId, Node,
    NodeId, Object, Pools, Resource, Service, ServiceId, Task, TaskId, TaskStatus, differences,
};

/// The store's one global counter: each transaction has the next number, and
/// an object's version is the number of the last transaction that wrote it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An object with the revision of its last write; a clone shares the object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned<T> {
    /// Revision of the last write.
    pub version: Revision,
    /// The object.
    pub value: Arc<T>,
}

impl<T> Versioned<T> {
    /// An object that was last written at this revision.
    pub fn new(version: Revision, value: T) -> Self {
        let value = Arc::new(value);
        Self { version, value }
    }
}

impl<T> std::ops::Deref for Versioned<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

/// Everything that is stored, as of one revision: what all decisions are made from.
///
/// A clone shares all with its original, and a change copies only the few nodes
/// on the way to what it changes: neither costs more the more is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// As of this revision.
    pub revision: Revision,
    /// The mesh's address ranges; `None` only before its first start.
    pub pools: Option<Versioned<Pools>>,
    /// By id.
    pub nodes: OrdMap<NodeId, Versioned<Node>>,
    /// By id.
    pub networks: OrdMap<NetworkId, Versioned<Network>>,
    /// By network and node.
    pub leases: OrdMap<(NetworkId, NodeId), Versioned<Lease>>,
    /// By id.
    pub services: OrdMap<ServiceId, Versioned<Service>>,
    /// Services that were removed and whose tasks have not ended yet, by id. They have
    /// no name and no ports any more, and their tasks no new connections.
    pub leaving: OrdMap<ServiceId, Versioned<Service>>,
    /// By id.
    pub tasks: OrdMap<TaskId, Versioned<Task>>,
    /// By task id.
    pub statuses: OrdMap<TaskId, Versioned<TaskStatus>>,
    /// Configs and secrets, by id.
    pub blobs: OrdMap<BlobId, Versioned<Blob>>,
    /// By what is claimed; tombstones included.
    pub claims: OrdMap<Resource, Versioned<Claim>>,
    /// Each task behind its service: one service's stand together.
    by_service: OrdSet<(ServiceId, TaskId)>,
}

impl State {
    /// Takes in the changes of one transaction.
    pub fn apply(&mut self, revision: Revision, changes: impl IntoIterator<Item = Change>) {
        self.revision = revision;
        for change in changes {
            match change {
                Change::Put(object) => self.put(revision, object),
                Change::Delete(key) => self.delete(&key),
            }
        }
    }

    /// Takes in one object with its version.
    pub fn put(&mut self, version: Revision, object: Object) {
        match object {
            Object::Pools(pools) => self.pools = Some(Versioned::new(version, pools)),
            Object::Node(node) => {
                self.nodes
                    .insert(node.id.clone(), Versioned::new(version, node));
            }
            Object::Network(network) => {
                self.networks
                    .insert(network.id.clone(), Versioned::new(version, network));
            }
            Object::Lease(lease) => {
                let key = (lease.network.clone(), lease.node.clone());
                self.leases.insert(key, Versioned::new(version, lease));
            }
            Object::Service(service) => {
                self.services
                    .insert(service.id.clone(), Versioned::new(version, *service));
            }
            Object::Leaving(service) => {
                self.leaving
                    .insert(service.id.clone(), Versioned::new(version, *service));
            }
            Object::Task(task) => {
                self.by_service
                    .insert((task.service.clone(), task.id.clone()));
                self.tasks
                    .insert(task.id.clone(), Versioned::new(version, *task));
            }
            Object::Status(status) => {
                self.statuses
                    .insert(status.task.clone(), Versioned::new(version, status));
            }
            Object::Blob(blob) => {
                self.blobs
                    .insert(blob.id.clone(), Versioned::new(version, blob));
            }
            Object::Claim(claim) => {
                self.claims
                    .insert(claim.resource.clone(), Versioned::new(version, claim));
            }
        }
    }

    fn delete(&mut self, key: &Key) {
        match key {
            Key::Pools => self.pools = None,
            Key::Node(id) => drop(self.nodes.remove(id)),
            Key::Network(id) => drop(self.networks.remove(id)),
            Key::Lease(network, node) => {
                drop(self.leases.remove(&(network.clone(), node.clone())));
            }
            Key::Service(id) => drop(self.services.remove(id)),
            Key::Leaving(id) => drop(self.leaving.remove(id)),
            Key::Task(id) => {
                if let Some(task) = self.tasks.remove(id) {
                    self.by_service
                        .remove(&(task.service.clone(), task.id.clone()));
                }
            }
            Key::Status(id) => drop(self.statuses.remove(id)),
            Key::Blob(id) => drop(self.blobs.remove(id)),
            Key::Claim(resource) => drop(self.claims.remove(resource)),
        }
    }

    /// The service with this id, this name (any case), or this unique beginning of an id.
    pub fn find_service(&self, text: &str) -> Option<&Versioned<Service>> {
        let by = |matches: &dyn Fn(&Service) -> bool| {
            let mut found = self.services.values().filter(|s| matches(s));
            found.next().filter(|_| found.next().is_none())
        };
        by(&|s| s.id.as_str() == text)
            .or_else(|| by(&|s| s.spec.name.as_str().eq_ignore_ascii_case(text)))
            .or_else(|| by(&|s| !text.is_empty() && s.id.as_str().starts_with(text)))
    }

    /// The network with this id, this name (any case), or this unique beginning of an id.
    pub fn find_network(&self, text: &str) -> Option<&Versioned<Network>> {
        let by = |matches: &dyn Fn(&Network) -> bool| {
            let mut found = self.networks.values().filter(|n| matches(n));
            found.next().filter(|_| found.next().is_none())
        };
        by(&|n| n.id.as_str() == text)
            .or_else(|| by(&|n| n.spec.name.as_str().eq_ignore_ascii_case(text)))
            .or_else(|| by(&|n| !text.is_empty() && n.id.as_str().starts_with(text)))
    }

    /// The config or secret with this id, this name (any case), or this unique beginning
    /// of an id.
    pub fn find_blob(&self, kind: BlobKind, text: &str) -> Option<&Versioned<Blob>> {
        let by = |matches: &dyn Fn(&Blob) -> bool| {
            let mut found = self.blobs.values();
            let mut found = found.by_ref().filter(|b| b.kind == kind && matches(b));
            found.next().filter(|_| found.next().is_none())
        };
        by(&|b| b.id.as_str() == text)
            .or_else(|| by(&|b| b.spec.name.eq_ignore_ascii_case(text)))
            .or_else(|| by(&|b| !text.is_empty() && b.id.as_str().starts_with(text)))
    }

    /// The task with this id, the newest one with this name (`vote.1`), or this
    /// unique beginning of an id.
    pub fn find_task(&self, text: &str) -> Option<&Versioned<Task>> {
        let named = || {
            let same = self
                .tasks
                .values()
                .filter(|t| t.name().eq_ignore_ascii_case(text));
            // one that shall run before one that shall not, then the newest
            same.max_by_key(|t| (std::cmp::Reverse(t.desired), t.created, t.id.clone()))
        };
        let prefixed = || {
            let mut found = self
                .tasks
                .values()
                .filter(|t| !text.is_empty() && t.id.as_str().starts_with(text));
            found.next().filter(|_| found.next().is_none())
        };
        self.tasks
            .values()
            .find(|t| t.id.as_str() == text)
            .or_else(named)
            .or_else(prefixed)
    }

    /// The tasks of a service, in order of slot, then age.
    pub fn tasks_of(&self, service: &ServiceId) -> Vec<&Versioned<Task>> {
        let ids = self.by_service.range((service.clone(), TaskId::FIRST)..);
        let ids = ids.take_while(|(of, _)| of == service);
        let mut tasks: Vec<_> = ids.filter_map(|(_, id)| self.tasks.get(id)).collect();
        tasks.sort_by(|a, b| (a.slot, a.created, &a.id).cmp(&(b.slot, b.created, &b.id)));
        tasks
    }

    /// The services, those that are leaving and those that are gone included, that are
    /// not as they were in an earlier state: they themselves, one of their tasks, or how
    /// that fares. It costs what changed.
    pub fn services_changed_since(&self, before: &Self) -> BTreeSet<ServiceId> {
        let services = differences(&before.services, &self.services);
        let services = services.chain(differences(&before.leaving, &self.leaving));
        let mut changed: BTreeSet<_> = services.map(|(id, ..)| id.clone()).collect();
        let tasks = differences(&before.tasks, &self.tasks).map(|(id, ..)| id);
        let statuses = differences(&before.statuses, &self.statuses).map(|(id, ..)| id);
        for id in tasks.chain(statuses) {
            // which service a task is of never changes
            if let Some(task) = self.tasks.get(id).or_else(|| before.tasks.get(id)) {
                changed.insert(task.service.clone());
            }
        }
        changed
    }

    /// The tasks, those that are gone included, of the services that are not as they were
    /// in an earlier state ([`Self::services_changed_since`]).
    pub fn tasks_changed_since(&self, before: &Self) -> BTreeSet<TaskId> {
        let services = self.services_changed_since(before);
        let tasks = services.iter().flat_map(|service| {
            let before = before.tasks_of(service).into_iter();
            before.chain(self.tasks_of(service))
        });
        tasks.map(|task| task.id.clone()).collect()
    }

    /// Docker's word for a task's state; `draining` while it runs and takes nothing new,
    /// `new` before its node has said anything.
    pub fn word(&self, task: &Task) -> &'static str {
        match self.status(&task.id) {
            Some(status)
                if status.runs() && (status.draining || task.desired != DesiredState::Running) =>
            {
                "draining"
            }
            Some(status) => status.state.as_str(),
            None => "new",
        }
    }

    /// How a task fares, if its node has said.
    pub fn status(&self, task: &TaskId) -> Option<&TaskStatus> {
        self.statuses.get(task).map(|status| &**status)
    }

    /// The node's block of a network, if it has one.
    pub fn lease(&self, network: &NetworkId, node: &NodeId) -> Option<&Lease> {
        self.leases
            .get(&(network.clone(), node.clone()))
            .map(|lease| &**lease)
    }
}

#[cfg(test)]
mod tests;
