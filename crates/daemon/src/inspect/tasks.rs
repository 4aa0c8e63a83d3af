//! A service's tasks: how they fare, how they are attached, what listens in them.

use std::collections::BTreeSet;

use api::inspect::{Compared, Part, TaskEntry};
use kernel::host::Held;
use model::{DesiredState, Health, NodeId, State, Task, TaskState};
use plan::netns::{Netns, Place, Route};

use super::{Inspector, common, service::View};

/// The router's links to tasks.
pub(super) fn links(state: &State) -> BTreeSet<String> {
    state.tasks.values().map(|task| task.link()).collect()
}

/// `80/tcp nginx (pid 7)`
pub(super) fn holder(held: &Held) -> String {
    let who = held.holder.as_deref().unwrap_or("a program");
    format!("{} {who}", held.listener)
}

impl Inspector<'_> {
    pub(super) fn hostname(&self, node: &NodeId) -> String {
        let node = self.state.nodes.get(node);
        node.map_or_else(String::new, |node| node.hostname.clone())
    }

    /// What a check says of it; nothing without one.
    pub(super) fn health(&self, task: &Task) -> &'static str {
        let status = self.state.status(&task.id);
        let on_its_way = |wanted| {
            let drained = status.is_some_and(|status| status.draining);
            drained && task.desired == wanted
        };
        match self.healths.get(&task.id) {
            Some(Health::Healthy) => "healthy",
            Some(Health::Starting) => "starting",
            Some(Health::Unhealthy) => "unhealthy",
            // that is why it is not used though it is wanted
            _ if on_its_way(DesiredState::Running) => "unhealthy",
            _ => "",
        }
    }
}

impl View<'_> {
    pub(super) fn tasks(&self) -> Vec<TaskEntry> {
        let tasks = self.inspector.state.tasks_of(&self.service.id);
        let shown = tasks.into_iter().filter(|task| {
            // history is `service ps`'s, unless it is asked for
            let status = self.inspector.state.status(&task.id);
            task.desired == DesiredState::Running
                || status.is_some_and(|status| !status.state.is_final())
                || self.inside == Some(&task.id)
        });
        shown.map(|task| self.task(task)).collect()
    }

    fn task(&self, task: &Task) -> TaskEntry {
        let Inspector {
            state, instance, ..
        } = self.inspector;
        let status = state.status(&task.id);
        let name = task.link();
        let router = Place::Router;
        let link = |place: Option<&Netns>| {
            let link = place?.links.get(&name)?;
            Some(if link.up { "up" } else { "down" }.to_owned())
        };
        let (shall, is) = (self.wanted.get(&router), self.seen.places.get(&router));
        let routes = |netns: Option<&Netns>| -> BTreeSet<Route> {
            let routes = netns.into_iter().flat_map(|netns| &netns.routes);
            let to_task = routes.filter(|route| route.dev.as_ref() == Some(&name));
            to_task.cloned().collect()
        };
        let (wanted_routes, seen_routes) = (routes(shall), routes(is));
        let route = |route: &Route| {
            let (what, how) = common::words(route);
            let side = |all: &BTreeSet<Route>| all.contains(route).then(|| how.clone());
            Part {
                place: "router".to_owned(),
                what,
                compared: Compared::new(side(&wanted_routes), side(&seen_routes)),
            }
        };
        let listens = self.seen.listens.get(&task.id);
        let listens = listens.map(|all| all.iter().map(holder).collect());
        // what failed long ago is no news of one that runs
        let error = status.filter(|status| status.state != TaskState::Running);
        TaskEntry {
            id: task.id.to_string(),
            name: task.name(),
            state: self.inspector.state.word(task).to_owned(),
            node: self.inspector.hostname(&task.node),
            health: self.inspector.health(task).to_owned(),
            addresses: task.addresses().map(|at| at.to_string()).collect(),
            // what is not ours is in none of ours
            netns: match task.elsewhere {
                None => instance.task_netns(&task.id),
                Some(_) => String::new(),
            },
            link: Compared::new(link(shall), link(is)),
            routes: wanted_routes.union(&seen_routes).map(route).collect(),
            listens,
            inside: match self.inside == Some(&task.id) {
                true => self.inside(task),
                false => Vec::new(),
            },
            error: error.map(|status| status.error.clone()).unwrap_or_default(),
        }
    }

    /// All that a task's own namespace has.
    fn inside(&self, task: &Task) -> Vec<Part> {
        let place = Place::Task(task.id.clone());
        let nothing = Netns::default();
        let wanted = self.wanted.get(&place).unwrap_or(&nothing);
        let seen = self.seen.places.get(&place).unwrap_or(&nothing);
        let parts = common::Parts::of(wanted, seen, &BTreeSet::new());
        parts.shown(&task.name()).collect()
    }
}
