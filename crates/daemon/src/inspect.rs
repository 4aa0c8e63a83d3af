//! Puts what is wanted of a service beside what the kernel has.

use std::collections::{BTreeMap, BTreeSet};

use api::inspect::{
    Compared, DestinationEntry, Inspection, NameEntry, PortEntry, ServiceEntry, TaskEntry, VipEntry,
};
use kernel::{Kernel, LiveServices};
use model::{
    DesiredState, EndpointMode, Instance, Mark, NodeId, Protocol, Service, ServiceId, State,
    TaskState,
};
use plan::{
    datapath::Way,
    netns::{Entry, Family, Netns, Op, Place, Places, VirtualService},
};

/// What the kernel has, with live counters.
pub(crate) struct Seen {
    places: Places,
    live: BTreeMap<Place, LiveServices>,
}

/// Reads the node's three namespaces, and the counters of one service.
pub(crate) async fn observe(
    kernel: &Kernel,
    wanted: &Places,
    service: &Service,
) -> Result<Seen, kernel::Error> {
    let mut seen = Seen {
        places: Places::new(),
        live: BTreeMap::new(),
    };
    for place in [Place::Host, Place::Ingress, Place::Router] {
        let keys = wanted
            .get(&place)
            .map(|netns| netns.sysctls.keys().cloned().collect());
        let keys: BTreeSet<String> = keys.unwrap_or_default();
        if let Some(netns) = kernel.observe(&place, &keys).await? {
            seen.places.insert(place.clone(), netns);
        }
        let keys = match place {
            Place::Router => {
                let vips = service.endpoint.vips.iter();
                vips.flat_map(|vip| [vip.tcp, vip.udp].map(|mark| (vip.address.into(), mark)))
                    .collect()
            }
            Place::Ingress => {
                let ports = service.endpoint.ports.iter();
                let marks: BTreeSet<_> = ports.map(|port| port.mark).collect();
                let both = |mark| [Family::V4, Family::V6].map(|family| (family, mark));
                marks.into_iter().flat_map(both).collect()
            }
            Place::Host | Place::Task(_) => continue,
        };
        let live = kernel.live(&place, keys).await?;
        seen.live.insert(place, live);
    }
    Ok(seen)
}

/// The whole way to a service; `None` where there is no such service.
pub(crate) fn inspection(
    state: &State,
    node: &NodeId,
    instance: &Instance,
    id: &ServiceId,
    wanted: &Places,
    seen: &Seen,
) -> Option<Inspection> {
    let service = state.services.get(id)?;
    let view = View {
        state,
        instance,
        wanted,
        seen,
        service,
    };
    let nodes = u32::try_from(state.nodes.len()).unwrap_or(u32::MAX);
    let mut shown = Inspection {
        id: service.id.to_string(),
        name: service.spec.name.to_string(),
        mode: match service.spec.endpoint.mode {
            EndpointMode::Vip => "vip".to_owned(),
            EndpointMode::DnsRr => "dnsrr".to_owned(),
        },
        replicas: service.wanted_tasks(nodes),
        names: view.names(),
        vips: view.vips(),
        ports: plan::datapath::ways(state, node, instance, service)
            .iter()
            .map(|way| view.port(way))
            .collect(),
        tasks: view.tasks(),
        ..Inspection::default()
    };
    let running = shown
        .tasks
        .iter()
        .filter(|task| task.state == "running")
        .count();
    shown.running = u32::try_from(running).unwrap_or(u32::MAX);
    shown.problems = problems(&shown);
    shown.problems.extend(view.common());
    Some(shown)
}

struct View<'a> {
    state: &'a State,
    instance: &'a Instance,
    wanted: &'a Places,
    seen: &'a Seen,
    service: &'a Service,
}

impl View<'_> {
    /// What all services share and the kernel has not as wanted: links, addresses,
    /// routes, rules, sysctls, sets.
    fn common(&self) -> BTreeSet<String> {
        let wanted = self.wanted.clone().into_iter();
        let of_node = |(place, _): &(Place, _)| !matches!(place, Place::Task(_));
        let wanted: Places = wanted.filter(of_node).collect();
        let ops = plan::plan_writes(&self.seen.places, &wanted);
        let differs = ops.iter().filter_map(|(place, op)| {
            // shown with the service that they belong to
            let of_service = matches!(
                op,
                Op::AddEntry(..)
                    | Op::DelEntry(..)
                    | Op::NewService(..)
                    | Op::SetService(..)
                    | Op::DelService(..)
                    | Op::NewDestination(..)
                    | Op::SetDestination(..)
                    | Op::DelDestination(..)
            );
            if of_service {
                return None;
            }
            let what = op.subject();
            let place = match place {
                Place::Ingress => format!("namespace {}", self.instance.ingress_netns()),
                Place::Router => format!("namespace {}", self.instance.router_netns()),
                Place::Host | Place::Task(_) => "the host".to_owned(),
            };
            Some(format!(
                "{what} in {place} is not as wanted; it is repaired within seconds while ipvsmeshd runs"
            ))
        });
        differs.collect()
    }

    fn network(&self, id: &model::NetworkId) -> String {
        self.state
            .networks
            .get(id)
            .map_or_else(|| id.to_string(), |n| n.spec.name.to_string())
    }

    fn names(&self) -> Vec<NameEntry> {
        let mut entries = Vec::new();
        for (network, names) in plan::records::of_service(self.state, &self.service.id) {
            let of_tasks = names.tasks.iter().flat_map(|task| &task.addresses);
            let of_tasks: BTreeSet<_> = of_tasks.copied().collect();
            let own = match names.vips.is_empty() {
                true => of_tasks.clone(),
                false => names.vips.iter().copied().collect(),
            };
            let aliases = names.aliases.iter().map(|alias| (alias.to_string(), &own));
            let service = [
                (names.name.to_string(), &own),
                (format!("tasks.{}", names.name), &of_tasks),
            ];
            let network = self.network(&network).to_ascii_lowercase();
            entries.extend(
                service
                    .into_iter()
                    .chain(aliases)
                    .map(|(name, addresses)| NameEntry {
                        network: network.clone(),
                        addresses: addresses.iter().map(ToString::to_string).collect(),
                        name,
                    }),
            );
        }
        entries
    }

    /// An entry of a set: its mark, or that it is there.
    fn entry(&self, place: &Place, set: &str, entry: Entry) -> Compared {
        let read = |netns: Option<&Netns>| {
            let mark = netns?.sets.get(set)?.entries.get(&entry)?;
            Some(mark.map_or_else(|| "present".to_owned(), |mark| format!("mark {mark}")))
        };
        Compared {
            wanted: read(self.wanted.get(place)),
            kernel: read(self.seen.places.get(place)),
        }
    }

    fn vips(&self) -> Vec<VipEntry> {
        let mut entries = Vec::new();
        for vip in &self.service.endpoint.vips {
            let family = Family::from(vip.address);
            let suffix = if family == Family::V4 { "" } else { "6" };
            for (protocol, mark) in [(Protocol::Tcp, vip.tcp), (Protocol::Udp, vip.udp)] {
                let set = format!("vips-{protocol}{suffix}");
                entries.push(VipEntry {
                    network: self.network(&vip.network),
                    address: vip.address.to_string(),
                    protocol: protocol.to_string(),
                    mark: mark.to_string(),
                    entry: self.entry(&Place::Router, &set, Entry::Ip(vip.address)),
                    service: self.balanced(&Place::Router, family, mark),
                });
            }
        }
        entries
    }

    fn port(&self, way: &Way<'_>) -> PortEntry {
        let port = way.port;
        PortEntry {
            listener: match way.family {
                Family::V4 => port.listener().to_string(),
                Family::V6 => format!("{} (IPv6)", port.listener()),
            },
            target: port.port.target,
            mark: port.mark.to_string(),
            host: self.host_entry(way),
            entry: self.entry(&Place::Ingress, &way.ingress.0, way.ingress.1),
            service: self.balanced(&Place::Ingress, way.family, port.mark),
        }
    }

    /// Its entries on the host, which are there or not together.
    fn host_entry(&self, way: &Way<'_>) -> Compared {
        let (set, entries) = &way.host;
        let mut entries = entries.iter();
        let compared = |entry: &Entry| self.entry(&Place::Host, set, *entry);
        let first = entries.next().map(compared).unwrap_or_default();
        let mut others = entries.map(compared);
        others.find(|other| !other.agrees()).unwrap_or(first)
    }

    fn balanced(&self, place: &Place, family: Family, mark: Mark) -> ServiceEntry {
        let key = (family, mark);
        let wanted = self
            .wanted
            .get(place)
            .and_then(|netns| netns.services.get(&key));
        let has = self
            .seen
            .places
            .get(place)
            .and_then(|netns| netns.services.get(&key));
        let settings = |service: Option<&VirtualService>| {
            service.map(|service| {
                let s = &service.scheduling;
                let mut text = s.scheduler.to_string();
                if s.timeout > 0 {
                    text.push_str(&format!(" persistent {} /{}", s.timeout, s.netmask));
                }
                text
            })
        };
        let all: BTreeSet<_> = [wanted, has]
            .iter()
            .flatten()
            .flat_map(|s| s.destinations.keys().copied())
            .collect();
        let live = self.seen.live.get(place).and_then(|live| live.get(&key));
        let destinations = all.into_iter().map(|at| {
            let weight = |service: Option<&VirtualService>| {
                Some(service?.destinations.get(&at)?.weight.to_string())
            };
            let counted = live.and_then(|live| live.destinations.iter().find(|one| one.at == at));
            let address = if at.1 == 0 {
                at.0.to_string()
            } else {
                format!("{}:{}", at.0, at.1)
            };
            DestinationEntry {
                address,
                task: self.task_at(at.0),
                weight: Compared {
                    wanted: weight(wanted),
                    kernel: weight(has),
                },
                active: counted.map_or(0, |one| one.active),
                inactive: counted.map_or(0, |one| one.inactive),
            }
        });
        ServiceEntry {
            settings: Compared {
                wanted: settings(wanted),
                kernel: settings(has),
            },
            destinations: destinations.collect(),
        }
    }

    fn task_at(&self, address: std::net::IpAddr) -> String {
        let has = |t: &&model::Versioned<model::Task>| {
            t.attachments.iter().any(|a| a.addresses.contains(&address))
        };
        self.state
            .tasks
            .values()
            .find(has)
            .map(|task| task.name())
            .unwrap_or_default()
    }

    fn tasks(&self) -> Vec<TaskEntry> {
        let tasks = self.state.tasks_of(&self.service.id);
        let shown = tasks.into_iter().filter(|task| {
            // history is `service ps`'s
            let status = self.state.status(&task.id);
            task.desired == DesiredState::Running || status.is_some_and(|s| !s.state.is_final())
        });
        let link = |place: Option<&Netns>, name: &str| {
            place?
                .links
                .get(name)
                .map(|link| if link.up { "up" } else { "down" }.to_owned())
        };
        shown
            .map(|task| {
                let status = self.state.status(&task.id);
                let name = task.link();
                let state = match status {
                    Some(s) if s.draining && s.state == TaskState::Running => "draining",
                    Some(s) => s.state.as_str(),
                    None => "new",
                };
                let addresses = task.attachments.iter().flat_map(|a| &a.addresses);
                TaskEntry {
                    id: task.id.to_string(),
                    name: task.name(),
                    state: state.to_owned(),
                    addresses: addresses.map(ToString::to_string).collect(),
                    netns: self.instance.task_netns(&task.id),
                    link: Compared {
                        wanted: link(self.wanted.get(&Place::Router), &name),
                        kernel: link(self.seen.places.get(&Place::Router), &name),
                    },
                    error: status.map(|s| s.error.clone()).unwrap_or_default(),
                }
            })
            .collect()
    }
}

/// What is not as it should be, in words.
fn problems(shown: &Inspection) -> Vec<String> {
    let mut found = Vec::new();
    let mut drift = |what: String, compared: &Compared| {
        if !compared.agrees() {
            let say = |side: &Option<String>| side.clone().unwrap_or_else(|| "nothing".to_owned());
            found.push(format!(
                "{what} differs: wanted {}, the kernel has {}; it is repaired within seconds while ipvsmeshd runs",
                say(&compared.wanted),
                say(&compared.kernel)
            ));
        }
    };
    for vip in &shown.vips {
        let what = format!("VIP {} ({})", vip.address, vip.protocol);
        drift(format!("{what}: set entry"), &vip.entry);
        drift(format!("{what}: IPVS service"), &vip.service.settings);
        for destination in &vip.service.destinations {
            drift(
                format!("{what}: weight of {}", destination.address),
                &destination.weight,
            );
        }
    }
    for port in &shown.ports {
        let what = format!("port {}", port.listener);
        drift(format!("{what}: entry on the host"), &port.host);
        drift(format!("{what}: set entry"), &port.entry);
        drift(format!("{what}: IPVS service"), &port.service.settings);
        for destination in &port.service.destinations {
            drift(
                format!("{what}: weight of {}", destination.address),
                &destination.weight,
            );
        }
    }
    for task in &shown.tasks {
        drift(format!("task {}: veth", task.name), &task.link);
    }
    for task in shown.tasks.iter().filter(|task| !task.error.is_empty()) {
        found.push(format!(
            "task {}: {}; see: ipvsmesh service logs {}",
            task.name, task.error, shown.name
        ));
    }
    if shown.running < shown.replicas {
        found.push(format!(
            "{} of {} tasks run; see: ipvsmesh service ps --no-trunc {}",
            shown.running, shown.replicas, shown.name
        ));
    }
    found
}
