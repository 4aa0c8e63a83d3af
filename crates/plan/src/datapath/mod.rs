//! What the kernel shall hold on a node: the state, said in links, routes,
//! rules, sets and IPVS services.

mod attach;
mod elsewhere;
mod family;
mod frame;
mod service;

use std::collections::BTreeMap;

use imbl::{OrdMap, OrdSet, ordmap::DiffItem, ordset};
use model::{Instance, Mark, NodeId, Service, ServiceId, State, Task, TaskId};

pub use family::NodeAddresses;
use family::Side;
use frame::{Frame, Published, same_frame};
pub use service::Way;
use service::{Fragment, HostRules, Running, Scene, SetName, find};

use crate::netns::{Entry, Family, Netns, Place, Places, Timeouts, VirtualService};

/// What does not come from the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// MTU of every veth, in octets.
    pub mtu: u32,
    /// IPVS time-outs of both namespaces.
    pub timeouts: Timeouts,
    /// The host's links between which established connections of published ports go past
    /// its rules; nothing: between none.
    pub shortened: OrdSet<String>,
}

impl Default for Settings {
    /// Ethernet's MTU, and time-outs like conntrack's, since IPVS's own 15
    /// minutes cut off idle connections.
    fn default() -> Self {
        Self {
            mtu: 1500,
            timeouts: Timeouts {
                tcp: 432_000,
                tcp_fin: 120,
                udp: 300,
            },
            shortened: OrdSet::new(),
        }
    }
}

/// Everything that a node shall have in the kernel, followed from state to state: the
/// cost of a step is that of what changed.
#[derive(Clone, Debug)]
pub struct Datapath {
    node: NodeId,
    instance: Instance,
    settings: Settings,
    state: State,
    sandboxes: OrdSet<TaskId>,
    sides: Vec<Side>,
    /// Of the few services that have any.
    rules: BTreeMap<ServiceId, HostRules>,
    places: Places,
}

impl Datapath {
    /// Of a node, from nothing.
    pub fn new(node: NodeId, instance: Instance, settings: Settings) -> Self {
        Self {
            node,
            instance,
            settings,
            state: State::default(),
            sandboxes: OrdSet::new(),
            sides: Vec::new(),
            rules: BTreeMap::new(),
            places: OrdMap::new(),
        }
    }

    /// Changes [`Settings::shortened`].
    pub fn shorten(&mut self, links: OrdSet<String>) {
        // what is shared stays so where nothing changes
        if links == self.settings.shortened {
            return;
        }
        self.settings.shortened = links;
        let flowtable = self.flowtable();
        if let Some(host) = self.places.get_mut(&Place::Host) {
            host.flowtable = flowtable;
        }
    }

    fn flowtable(&self) -> Option<OrdSet<String>> {
        let links = &self.settings.shortened;
        (!links.is_empty()).then(|| links.clone())
    }

    /// What is wanted in this state. `sandboxes` are the tasks whose namespace exists;
    /// only these are attached. Before the mesh's pools are known, nothing is wanted.
    pub fn follow(&mut self, state: &State, sandboxes: &OrdSet<TaskId>) -> &Places {
        if !same_frame(&self.state, state, &self.node) {
            self.begin(state);
        }
        let before = Step {
            state: std::mem::replace(&mut self.state, state.clone()),
            sandboxes: std::mem::replace(&mut self.sandboxes, sandboxes.clone()),
        };
        if !self.sides.is_empty() {
            let (mut changes, mut rules) = (Changes::default(), false);
            for id in self.state.services_changed_since(&before.state) {
                let old = self.fragment(&before.state, &id);
                let new = self.fragment(&self.state, &id);
                if old.rules != new.rules {
                    rules = true;
                    self.rules.insert(id, new.rules.clone());
                }
                changes.add(&old, new);
            }
            changes.make(&mut self.places);
            if rules {
                self.rules.retain(|_, rules| !rules.is_empty());
                self.publish();
            }
            self.attachments(&before);
        }
        &self.places
    }

    /// The node's own namespaces, with nothing in them.
    fn begin(&mut self, state: &State) {
        *self = Self::new(
            self.node.clone(),
            self.instance.clone(),
            self.settings.clone(),
        );
        if let Some(me) = state.nodes.get(&self.node) {
            self.sides = Side::all(state, me.number);
        }
        if self.sides.is_empty() {
            return;
        }
        let frame = Frame {
            state,
            node: &self.node,
            instance: &self.instance,
            settings: &self.settings,
            sides: &self.sides,
        };
        let nothing = Published::default();
        let host = Netns {
            flowtable: self.flowtable(),
            ..frame.host(&nothing)
        };
        self.places = OrdMap::from_iter([
            (Place::Host, host),
            (Place::Ingress, frame.ingress(&nothing)),
            (Place::Router, frame.router()),
        ]);
    }

    /// What a service has in this state, which may be the one before.
    fn fragment(&self, state: &State, id: &ServiceId) -> Fragment {
        let (service, removed) = match (state.services.get(id), state.leaving.get(id)) {
            (Some(service), _) => (service, false),
            (None, Some(service)) => (service, true),
            (None, None) => return Fragment::default(),
        };
        let tasks = state.tasks_of(id).into_iter();
        let tasks: Vec<&Task> = tasks.map(|task| &**task).collect();
        let running = tasks.iter().filter_map(|task| Running::of(state, task));
        let running: Vec<_> = running.collect();
        let scene = Scene {
            state,
            node: &self.node,
            instance: &self.instance,
            sides: &self.sides,
        };
        let mut fragment = scene.fragment(service, &running);
        scene.elsewhere(service, &tasks, &mut fragment.rules.elsewhere);
        if removed {
            fragment.keep_connections();
        }
        fragment
    }

    /// Writes the host's rules anew.
    fn publish(&mut self) {
        let published = Published::of(self.rules.values());
        let frame = Frame {
            state: &self.state,
            node: &self.node,
            instance: &self.instance,
            settings: &self.settings,
            sides: &self.sides,
        };
        if let Some(host) = self.places.get_mut(&Place::Host) {
            frame.publish(host, &published);
        }
        if let Some(ingress) = self.places.get_mut(&Place::Ingress) {
            frame.listen(ingress, &published);
        }
    }

    /// Attaches the tasks whose namespace is new, and takes the others' away.
    fn attachments(&mut self, before: &Step) {
        let mut changed = Vec::new();
        for item in before.sandboxes.diff(&self.sandboxes) {
            let (ordset::DiffItem::Add(id) | ordset::DiffItem::Remove(id)) = item;
            changed.push(id.clone());
        }
        // a task's place on networks never changes: only whether there is a task
        for item in before.state.tasks.diff(&self.state.tasks) {
            if let DiffItem::Add(id, _) | DiffItem::Remove(id, _) = item
                && (before.sandboxes.contains(id) || self.sandboxes.contains(id))
            {
                changed.push(id.clone());
            }
        }
        changed.sort_unstable();
        changed.dedup();
        for id in changed {
            let had = before.sandboxes.contains(&id);
            let old = had.then(|| before.state.tasks.get(&id)).flatten();
            let has = self.sandboxes.contains(&id);
            let new = has.then(|| self.state.tasks.get(&id)).flatten();
            match (old, new.cloned()) {
                (None, Some(task)) => self.attach(&task),
                (Some(task), None) => self.detach(&before.state, task),
                (None, None) | (Some(_), Some(_)) => {}
            }
        }
    }

    fn attach(&mut self, task: &Task) {
        let attached = attach::attach(&self.state, &self.node, &self.settings, &self.sides, task);
        if let Some(router) = self.places.get_mut(&Place::Router) {
            let (name, link) = attached.link;
            router.links.insert(name, link);
            router.addresses.extend(attached.addresses);
            router.routes.extend(attached.routes);
            router.sysctls.extend(attached.sysctls);
        }
        self.places
            .insert(Place::Task(task.id.clone()), attached.netns);
    }

    fn detach(&mut self, state: &State, task: &Task) {
        let attached = attach::attach(state, &self.node, &self.settings, &self.sides, task);
        if let Some(router) = self.places.get_mut(&Place::Router) {
            router.links.remove(&attached.link.0);
            for address in &attached.addresses {
                router.addresses.remove(address);
            }
            for route in &attached.routes {
                router.routes.remove(route);
            }
            for (path, _) in &attached.sysctls {
                router.sysctls.remove(path);
            }
        }
        self.places.remove(&Place::Task(task.id.clone()));
    }
}

/// What services had and have no more, and what they have anew, by place.
#[derive(Default)]
struct Changes(BTreeMap<Place, Change>);

/// The changes in one namespace.
#[derive(Default)]
struct Change {
    entries_gone: Vec<(SetName, Entry)>,
    services_gone: Vec<(Family, Mark)>,
    entries: Vec<(SetName, Entry, Option<Mark>)>,
    services: Vec<((Family, Mark), VirtualService)>,
}

impl Changes {
    /// Those of one service.
    fn add(&mut self, old: &Fragment, new: Fragment) {
        for (key, _) in &old.entries {
            if find(&new.entries, key).is_none() {
                let (place, set, entry) = key.clone();
                self.at(place).entries_gone.push((set, entry));
            }
        }
        for (key, _) in &old.services {
            if find(&new.services, key).is_none() {
                let (place, family, mark) = key.clone();
                self.at(place).services_gone.push((family, mark));
            }
        }
        for (key, mark) in new.entries {
            if find(&old.entries, &key) != Some(&mark) {
                let (place, set, entry) = key;
                self.at(place).entries.push((set, entry, mark));
            }
        }
        for (key, balanced) in new.services {
            if find(&old.services, &key) != Some(&balanced) {
                let (place, family, mark) = key;
                self.at(place).services.push(((family, mark), balanced));
            }
        }
    }

    fn at(&mut self, place: Place) -> &mut Change {
        self.0.entry(place).or_default()
    }

    /// What one service gives up another one may have taken, so that taking comes last.
    fn make(self, places: &mut Places) {
        for (place, change) in self.0 {
            let Some(netns) = places.get_mut(&place) else {
                continue;
            };
            for (set, entry) in &change.entries_gone {
                if let Some(set) = netns.sets.get_mut(&**set) {
                    set.entries.remove(entry);
                }
            }
            for key in &change.services_gone {
                netns.services.remove(key);
            }
            for (set, entry, mark) in change.entries {
                if let Some(set) = netns.sets.get_mut(&*set) {
                    set.entries.insert(entry, mark);
                }
            }
            netns.services.extend(change.services);
        }
    }
}

/// What a step begins with.
struct Step {
    state: State,
    sandboxes: OrdSet<TaskId>,
}

/// The ways to a service's published ports on a node, of each family.
pub fn ways<'a>(
    state: &State,
    node: &NodeId,
    instance: &Instance,
    service: &'a Service,
) -> Vec<Way<'a>> {
    let number = state.nodes.get(node).map(|node| node.number);
    let sides = number.map_or_else(Vec::new, |number| Side::all(state, number));
    let scene = Scene {
        state,
        node,
        instance,
        sides: &sides,
    };
    let of_side = |side| scene.ways(service, side);
    sides.iter().flat_map(of_side).collect()
}

/// Everything that `node` shall have in the kernel, from nothing.
pub fn wanted(
    state: &State,
    node: &NodeId,
    instance: &Instance,
    sandboxes: &OrdSet<TaskId>,
    settings: &Settings,
) -> Places {
    let mut datapath = Datapath::new(node.clone(), instance.clone(), settings.clone());
    datapath.follow(state, sandboxes).clone()
}

#[cfg(test)]
mod tests;
