//! Puts what is wanted of something beside what the kernel has.

mod common;
mod network;
mod node;
mod problems;
mod service;
mod tasks;

use std::collections::{BTreeMap, BTreeSet};

use api::{
    ApiError, ErrorKind,
    inspect::{Inspected, Inspection, PortTarget, Target},
};
use imbl::{OrdMap, OrdSet};
use kernel::{Kernel, LiveServices, host::Held, rules::CountedRule};
use model::{Health, Instance, Mark, NodeId, Service, State, Task, TaskId, Versioned};
use plan::{
    datapath::Settings,
    netns::{Family, Place, Places, Table},
};

/// Tasks of one service whose namespaces are looked into.
const LOOKED_INTO: usize = 64;

/// Whom to ask, and what for.
pub(crate) struct Inspector<'a> {
    pub(crate) state: &'a State,
    pub(crate) node: &'a NodeId,
    pub(crate) instance: &'a Instance,
    pub(crate) settings: &'a Settings,
    pub(crate) kernel: &'a Kernel,
    pub(crate) sandboxes: OrdSet<TaskId>,
    pub(crate) healths: OrdMap<TaskId, Health>,
    pub(crate) conflicts: BTreeMap<String, BTreeSet<String>>,
    pub(crate) counters: crate::datapath::Counters,
    pub(crate) responder: dns::Status,
}

/// What the kernel has.
#[derive(Default)]
struct Seen {
    places: Places,
    live: BTreeMap<Place, LiveServices>,
    rules: BTreeMap<Family, Vec<CountedRule>>,
    /// Programs that listen on the host.
    held: Vec<Held>,
    /// The same in tasks' namespaces, where these were looked into.
    listens: BTreeMap<TaskId, Vec<Held>>,
}

fn failed(error: &kernel::Error) -> ApiError {
    ApiError::internal(crate::chain(error))
}

/// Runs what blocks.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| ApiError::internal(error.to_string()))
}

impl Inspector<'_> {
    /// All that is known of a thing.
    pub(crate) async fn inspect(&self, target: &Target) -> Result<Inspected, ApiError> {
        let state = self.state;
        match target {
            Target::Service(id) => {
                let service = state.services.get(id);
                let service = service.ok_or_else(|| ApiError::not_found("service", id.as_str()))?;
                let mut shown = self.service(service, None).await?;
                problems::find(&mut shown);
                Ok(Inspected::Service(shown))
            }
            Target::Task(id) => {
                let task = state.tasks.get(id);
                let task = task.ok_or_else(|| ApiError::not_found("task", id.as_str()))?;
                let service = state.services.get(&task.service);
                // one that was removed has its connections still
                let service = service.or_else(|| state.leaving.get(&task.service));
                let service = service.ok_or_else(|| ApiError {
                    kind: ErrorKind::Conflict,
                    message: format!("the service of task {} is gone", task.name()),
                })?;
                let mut shown = self.service(service, Some(task)).await?;
                only_task(&mut shown, task);
                problems::find(&mut shown);
                Ok(Inspected::Task(shown))
            }
            Target::Vip(ip) => {
                let mut services = state.services.values();
                let service = services
                    .find(|service| service.endpoint.vips.iter().any(|vip| vip.address == *ip));
                let service = service.ok_or_else(|| ApiError {
                    kind: ErrorKind::NotFound,
                    message: format!(
                        "no service and no task has the address {ip}: see ipvsmesh service ls, ipvsmesh network ls"
                    ),
                })?;
                let mut shown = self.service(service, None).await?;
                let ip = ip.to_string();
                shown.vips.retain(|vip| vip.address == ip);
                shown.names.retain(|name| name.addresses.contains(&ip));
                shown.ports.clear();
                problems::find(&mut shown);
                Ok(Inspected::Vip(shown))
            }
            Target::Port(port) => self.port(port).await,
            Target::Network(id) => {
                let network = state.networks.get(id);
                let network = network.ok_or_else(|| ApiError::not_found("network", id.as_str()))?;
                let (_, seen) = self.look([Place::Router]).await?;
                Ok(Inspected::Network(self.network(network, &seen)))
            }
            Target::Node(id) => {
                let node = state.nodes.get(id);
                let node = node.ok_or_else(|| ApiError::not_found("node", id.as_str()))?;
                Ok(Inspected::Node(self.node(node).await?))
            }
        }
    }

    async fn port(&self, target: &PortTarget) -> Result<Inspected, ApiError> {
        let mut services = self.state.services.values();
        let means = |service: &&Versioned<Service>| {
            let mut ports = service.endpoint.ports.iter();
            ports.any(|port| target.means(&port.listener()))
        };
        let Some(service) = services.find(means) else {
            let held = blocking(kernel::host::listeners).await?;
            let mut held = held.into_iter().filter(|held| target.means(&held.listener));
            let who = held.next().map_or_else(String::new, |held| {
                let holder = held.holder.unwrap_or_else(|| "a program".to_owned());
                format!("; {holder} listens on {}", held.listener)
            });
            return Err(ApiError {
                kind: ErrorKind::NotFound,
                message: format!(
                    "no service publishes port {target}{who}: see ipvsmesh service ls"
                ),
            });
        };
        let mut shown = self.service(service, None).await?;
        let ways = plan::datapath::ways(self.state, self.node, self.instance, service);
        let meant = ways.iter().map(|way| target.means(&way.port.listener()));
        // ports are shown in the order of their ways
        let mut meant = meant.collect::<Vec<_>>().into_iter();
        shown.ports.retain(|_| meant.next().unwrap_or_default());
        (shown.vips, shown.names) = (Vec::new(), Vec::new());
        problems::find(&mut shown);
        Ok(Inspected::Port(shown))
    }

    /// What is wanted, and what the kernel has in these places.
    async fn look(
        &self,
        places: impl IntoIterator<Item = Place>,
    ) -> Result<(Places, Seen), ApiError> {
        let wanted = plan::datapath::wanted(
            self.state,
            self.node,
            self.instance,
            &self.sandboxes,
            self.settings,
        );
        let mut seen = Seen::default();
        for place in places {
            let sysctls = wanted
                .get(&place)
                .map(|netns| netns.sysctls.keys().cloned());
            let sysctls: BTreeSet<String> = sysctls.into_iter().flatten().collect();
            let observed = self.kernel.observe(&place, &sysctls).await;
            if let Some(netns) = observed.map_err(|error| failed(&error))? {
                seen.places.insert(place, netns);
            }
        }
        Ok((wanted, seen))
    }

    /// The whole way to a service; with `task`, more of that one.
    async fn service(
        &self,
        service: &Versioned<Service>,
        task: Option<&Versioned<Task>>,
    ) -> Result<Inspection, ApiError> {
        let inside = task.map(|task| Place::Task(task.id.clone()));
        let places = [Place::Host, Place::Ingress, Place::Router].into_iter();
        let (wanted, mut seen) = self.look(places.chain(inside)).await?;
        for (place, keys) in keys(service) {
            let live = self.kernel.live(&place, keys).await;
            seen.live
                .insert(place, live.map_err(|error| failed(&error))?);
        }
        if !service.endpoint.ports.is_empty() {
            for family in [Family::V4, Family::V6] {
                // without IPv6 there is no such program, nor a way that had counters
                if let Ok(rules) =
                    blocking(move || kernel::rules::counted(family, Table::Nat)).await?
                {
                    seen.rules.insert(family, rules);
                }
            }
            seen.held = blocking(kernel::host::listeners).await?;
        }
        let here = |task: &&&Versioned<Task>| self.sandboxes.contains(&task.id);
        let tasks = self.state.tasks_of(&service.id);
        let tasks: Vec<_> = match task {
            Some(task) => vec![task.id.clone()],
            None => tasks
                .iter()
                .filter(here)
                .map(|task| task.id.clone())
                .collect(),
        };
        let tasks: Vec<_> = tasks.into_iter().take(LOOKED_INTO).collect();
        let names: Vec<_> = tasks
            .iter()
            .map(|task| self.instance.task_netns(task))
            .collect();
        let listens = blocking(move || kernel::host::listeners_in(&names)).await?;
        let listens = tasks.into_iter().zip(listens);
        seen.listens = listens
            .filter_map(|(task, held)| Some((task, held?)))
            .collect();
        let view = service::View {
            inspector: self,
            wanted: &wanted,
            seen: &seen,
            service,
            inside: task.map(|task| &task.id),
        };
        Ok(view.inspection())
    }
}

/// A service's IPVS services, by place.
fn keys(service: &Service) -> [(Place, Vec<(Family, Mark)>); 2] {
    let vips = service.endpoint.vips.iter();
    let vips = vips.flat_map(|vip| [vip.tcp, vip.udp].map(|mark| (vip.address.into(), mark)));
    let ports = service.endpoint.ports.iter();
    let marks: BTreeSet<_> = ports.map(|port| port.mark).collect();
    let both = |mark| [Family::V4, Family::V6].map(|family| (family, mark));
    let ports = marks.into_iter().flat_map(both).collect();
    [(Place::Router, vips.collect()), (Place::Ingress, ports)]
}

/// Leaves what leads to one task.
fn only_task(shown: &mut Inspection, task: &Task) {
    let addresses: BTreeSet<String> = task.addresses().map(|at| at.to_string()).collect();
    let own = |to: &mut Vec<api::inspect::DestinationEntry>| {
        to.retain(|to| {
            let at = to.address.parse::<std::net::SocketAddr>();
            let ip = at.map_or_else(|_| to.address.clone(), |at| at.ip().to_string());
            addresses.contains(&ip)
        });
    };
    for vip in &mut shown.vips {
        own(&mut vip.service.destinations);
    }
    for port in &mut shown.ports {
        own(&mut port.service.destinations);
    }
    let id = task.id.as_str();
    shown.tasks.retain(|task| task.id == id);
    shown
        .names
        .retain(|name| name.addresses.iter().any(|at| addresses.contains(at)));
}
