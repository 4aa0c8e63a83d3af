//! What the DNS responder shall answer: derived from the state, never from
//! events, so that nothing stale can stay. It is followed from state to state at
//! the cost of what changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use imbl::{OrdSet, ordmap::DiffItem, ordset};
use model::{
    DesiredState, EndpointMode, NetworkId, NodeId, Options, RuntimeSpec, Service, ServiceId, State,
    Task, TaskId, TaskStatus, Versioned,
    names::{Change, Client, Mesh, ServiceNames, TaskNames, Zone},
};

use crate::datapath::NodeAddresses;

/// The names of the whole mesh as a node's responder knows them.
#[derive(Clone, Debug)]
pub struct Records {
    node: NodeId,
    /// TTL in seconds, where a service does not say another.
    ttl: u32,
    state: State,
    sandboxes: OrdSet<TaskId>,
}

impl Records {
    /// Of a responder that knows nothing yet.
    pub fn new(node: NodeId, ttl: u32) -> Self {
        Self {
            node,
            ttl,
            state: State::default(),
            sandboxes: OrdSet::new(),
        }
    }

    /// What changes with this state. `sandboxes` are the tasks on this node whose
    /// namespace exists: only these ask anything.
    pub fn follow(&mut self, state: &State, sandboxes: &OrdSet<TaskId>) -> Vec<Change> {
        let before = Self {
            state: std::mem::replace(&mut self.state, state.clone()),
            sandboxes: std::mem::replace(&mut self.sandboxes, sandboxes.clone()),
            ..self.clone()
        };
        let mut changes = Vec::new();
        let mesh = self.mesh();
        if mesh != before.mesh() {
            changes.extend(mesh.map(Change::Mesh));
        }
        let networks = before.state.networks.diff(&self.state.networks);
        changes.extend(networks.filter_map(|item| match item {
            DiffItem::Add(id, network) => {
                let name = network.spec.name.folded();
                Some(Change::Network(id.clone(), Some(Zone { name })))
            }
            DiffItem::Remove(id, _) => Some(Change::Network(id.clone(), None)),
            // no name of theirs changes
            DiffItem::Update { .. } => None,
        }));
        for id in self.state.services_changed_since(&before.state) {
            let (old, mut new) = (of_service(&before.state, &id), of_service(&self.state, &id));
            for (network, old) in old {
                match new.remove(&network) {
                    Some(new) if new == old => {}
                    new => changes.push(Change::Service(network, id.clone(), new)),
                }
            }
            let new = new.into_iter();
            changes.extend(new.map(|(at, names)| Change::Service(at, id.clone(), Some(names))));
        }
        self.clients(&before, &mut changes);
        changes
    }

    fn mesh(&self) -> Option<Mesh> {
        let pools = self.state.pools.as_ref()?;
        let ranges = pools.ranges();
        Some(Mesh {
            ttl: self.ttl,
            own: ranges.flat_map(|r| [r.tasks, r.vips, r.nodes]).collect(),
        })
    }

    /// Whose networks changed of those that ask here.
    fn clients(&self, before: &Self, changes: &mut Vec<Change>) {
        let (was, is) = (&before.state, &self.state);
        // it sees every network: not to be listed at each change of a task
        let same = was.networks.ptr_eq(&is.networks) && was.nodes.ptr_eq(&is.nodes);
        if !same || was.pools != is.pools {
            let (old, new) = (before.host(), self.host());
            let gone = old.keys().filter(|address| !new.contains_key(address));
            changes.extend(gone.map(|address| Change::Client(*address, None)));
            for (address, client) in new {
                if old.get(&address) != Some(&client) {
                    changes.push(Change::Client(address, Some(client)));
                }
            }
        }

        let mut tasks = Vec::new();
        for item in before.sandboxes.diff(&self.sandboxes) {
            let (ordset::DiffItem::Add(id) | ordset::DiffItem::Remove(id)) = item;
            tasks.push(id.clone());
        }
        // a task's place on networks never changes: only whether there is a task
        for item in before.state.tasks.diff(&self.state.tasks) {
            if let DiffItem::Add(id, _) | DiffItem::Remove(id, _) = item {
                tasks.push(id.clone());
            }
        }
        tasks.sort_unstable();
        tasks.dedup();
        // what one gives up, another one may have taken
        for id in &tasks {
            if let (Some(task), None) = (before.client(id), self.client(id)) {
                let addresses = task.addresses();
                changes.extend(addresses.map(|address| Change::Client(address, None)));
            }
        }
        for id in &tasks {
            if let (None, Some(task)) = (before.client(id), self.client(id)) {
                let client = client(&self.state, task);
                for address in task.addresses() {
                    changes.push(Change::Client(address, Some(client.clone())));
                }
            }
        }
    }

    fn client(&self, id: &TaskId) -> Option<&Task> {
        let here = self.sandboxes.contains(id);
        here.then(|| self.state.tasks.get(id).map(|task| &**task))?
    }

    /// The host itself, which sees everything.
    fn host(&self) -> BTreeMap<IpAddr, Client> {
        let (Some(pools), Some(me)) = (&self.state.pools, self.state.nodes.get(&self.node)) else {
            return BTreeMap::new();
        };
        let ranges = pools.ranges();
        let addresses = ranges.map(|ranges| NodeAddresses::new(&ranges, me.number).host());
        let client = Client {
            networks: self.state.networks.keys().cloned().collect(),
            forward: true,
            servers: Box::default(),
        };
        addresses.map(|at| (at, client.clone())).collect()
    }
}

/// A service's names on each of its networks; while its tasks move from one network to
/// another, on both.
pub fn of_service(state: &State, id: &ServiceId) -> BTreeMap<NetworkId, ServiceNames> {
    let Some(service) = state.services.get(id) else {
        return BTreeMap::new();
    };
    let tasks = state.tasks_of(id).into_iter();
    let serving: Vec<_> = tasks.filter(|task| serves(state, task)).collect();
    let wanted = service.spec.task.networks.iter().map(|a| &a.network);
    let had = serving.iter().flat_map(|task| &task.attachments);
    let networks: BTreeSet<_> = wanted.chain(had.map(|a| &a.network)).collect();
    let named = networks
        .into_iter()
        .map(|network| (network.clone(), names(service, network, &serving)));
    named.collect()
}

/// The names that a service has on a network, of which these tasks serve.
fn names(service: &Service, network: &NetworkId, serving: &[&Versioned<Task>]) -> ServiceNames {
    let spec = &service.spec;
    let name = spec.name.folded();
    // admitted ones have no wrong labels
    let options = Options::of(&spec.labels).unwrap_or_default();
    let attachments = spec.task.networks.iter().filter(|a| a.network == *network);
    let mut aliases: Vec<Box<str>> = attachments
        .flat_map(|attachment| &attachment.aliases)
        .map(|alias| alias.to_ascii_lowercase().into())
        .collect();
    aliases.sort_unstable();
    aliases.dedup();
    // an alias may be the name itself
    aliases.retain(|alias| **alias != *name);
    let vips = service.endpoint.vips.iter();
    let vips =
        vips.filter(|vip| vip.network == *network && spec.endpoint.mode == EndpointMode::Vip);
    let mut tasks: Vec<_> = serving
        .iter()
        .filter_map(|task| {
            let mut at = task.attachments.iter();
            let at = at.find(|attachment| attachment.network == *network)?;
            Some(TaskNames {
                id: task.id.clone(),
                slot: task.slot,
                node: (task.slot == 0).then(|| Box::new(task.node.clone())),
                addresses: at.addresses.clone().into(),
            })
        })
        .collect();
    tasks.sort_by(|one, other| (one.slot, &one.id).cmp(&(other.slot, &other.id)));
    ServiceNames {
        name: name.into(),
        aliases: aliases.into(),
        vips: vips.map(|vip| vip.address).collect(),
        tasks: tasks.into(),
        ports: options.dns.ports.into(),
        ttl: options.dns.ttl,
        answers: options.dns.answers,
    }
}

fn client(state: &State, task: &Task) -> Client {
    let on = task.attachments.iter().map(|a| &a.network);
    let mut networks = on.clone().filter_map(|id| state.networks.get(id));
    let servers = match &task.spec.runtime {
        RuntimeSpec::Docker(container) => &container.dns.servers[..],
        RuntimeSpec::Process(_) | RuntimeSpec::Static | RuntimeSpec::Adopted { .. } => &[],
    };
    Client {
        networks: on.cloned().collect(),
        forward: networks.any(|network| !network.spec.internal),
        // admitted ones are addresses
        servers: servers.iter().filter_map(|ip| ip.parse().ok()).collect(),
    }
}

/// Whether a task's name is given out: it runs and is not leaving.
fn serves(state: &State, task: &Task) -> bool {
    task.desired == DesiredState::Running && state.status(&task.id).is_some_and(TaskStatus::serves)
}

#[cfg(test)]
mod tests;
