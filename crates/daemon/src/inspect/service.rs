//! The whole way to a service: names, VIPs and ports, each down to its destinations.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use api::inspect::{
    Compared, DestinationEntry, Inspection, NameEntry, PortEntry, Rates, RuleEntry, ServiceEntry,
    TrafficEntry, VipEntry,
};
use kernel::Traffic;
use model::{
    DesiredState, EndpointMode, Mark, NetworkId, Protocol, Service, Task, TaskId, Versioned,
};
use plan::{
    datapath::Way,
    netns::{Entry, Family, Netns, Place, Places, Table, VirtualService},
    subject::with_port,
};

use super::{Inspector, Seen, common, tasks};

/// A service, and what it is shown from.
pub(super) struct View<'a> {
    pub(super) inspector: &'a Inspector<'a>,
    pub(super) wanted: &'a Places,
    pub(super) seen: &'a Seen,
    pub(super) service: &'a Versioned<Service>,
    /// The task whose own namespace is shown as well.
    pub(super) inside: Option<&'a TaskId>,
}

impl View<'_> {
    /// All of it but the problems.
    pub(super) fn inspection(&self) -> Inspection {
        let Inspector {
            state,
            node,
            instance,
            ..
        } = self.inspector;
        let nodes = u32::try_from(state.nodes.len()).unwrap_or(u32::MAX);
        let ways = plan::datapath::ways(state, node, instance, self.service);
        let tasks = self.tasks();
        let running = tasks.iter().filter(|task| task.state == "running").count();
        Inspection {
            id: self.service.id.to_string(),
            name: self.service.spec.name.to_string(),
            mode: match self.service.spec.endpoint.mode {
                EndpointMode::Vip => "vip".to_owned(),
                EndpointMode::DnsRr => "dnsrr".to_owned(),
            },
            running: u32::try_from(running).unwrap_or(u32::MAX),
            replicas: self.service.wanted_tasks(nodes),
            names: self.names(),
            vips: self.vips(),
            ports: ways.iter().map(|way| self.port(way)).collect(),
            tasks,
            problems: self
                .nowhere()
                .into_iter()
                .chain(self.drift())
                .chain(self.conflicts())
                .collect(),
        }
    }

    /// Why there are fewer of its tasks than are wanted, if no node takes any.
    fn nowhere(&self) -> Option<String> {
        let state = self.inspector.state;
        let tasks = state.tasks_of(&self.service.id).into_iter();
        let shall_run = tasks.filter(|task| task.desired == DesiredState::Running);
        let wanted = self
            .service
            .wanted_tasks(u32::try_from(state.nodes.len()).unwrap_or(1));
        let elsewhere = self.service.spec.task.runtime.is_elsewhere();
        match elsewhere || shall_run.count() >= wanted as usize {
            true => None,
            false => plan::placement::nowhere(state, self.service),
        }
    }

    /// What labelled containers ask of it and cannot have.
    fn conflicts(&self) -> impl Iterator<Item = String> {
        let name = self.service.spec.name.folded();
        let all = self.inspector.conflicts.get(&name);
        all.into_iter().flatten().cloned()
    }

    /// What all services share and the kernel has not as wanted.
    fn drift(&self) -> Vec<String> {
        let others = tasks::links(self.inspector.state);
        let mut found = Vec::new();
        for place in [Place::Host, Place::Ingress, Place::Router] {
            let nothing = Netns::default();
            let side = |places: &Places| {
                places
                    .get(&place)
                    .cloned()
                    .unwrap_or_else(|| nothing.clone())
            };
            let parts = common::Parts::of(&side(self.wanted), &side(&self.seen.places), &others);
            let named = common::named(&place);
            let parts = parts.shown(named).filter(|part| !part.compared.agrees());
            // how many others have of them is not this service's concern
            let shared = parts.filter(|part| {
                !["set ", "IPVS services"]
                    .iter()
                    .any(|w| part.what.starts_with(w))
            });
            found.extend(shared.map(|part| {
                super::problems::drifted(&format!("{}: {}", part.place, part.what), &part.compared)
            }));
        }
        found
    }

    pub(super) fn network(&self, id: &NetworkId) -> String {
        let network = self.inspector.state.networks.get(id);
        network.map_or_else(|| id.to_string(), |n| n.spec.name.to_string())
    }

    fn names(&self) -> Vec<NameEntry> {
        let mut entries = Vec::new();
        let state = self.inspector.state;
        for (id, names) in plan::records::of_service(state, &self.service.id) {
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
            let on = |service: &&Versioned<Service>| {
                let mut networks = service.spec.task.networks.iter();
                networks.any(|attachment| attachment.network == id)
            };
            let seen_by = state.services.values().filter(on);
            let seen_by: Vec<_> = seen_by.map(|one| one.spec.name.to_string()).collect();
            let network = self.network(&id).to_ascii_lowercase();
            let all = service.into_iter().chain(aliases);
            entries.extend(all.map(|(name, addresses)| NameEntry {
                network: network.clone(),
                addresses: addresses.iter().map(ToString::to_string).collect(),
                name,
                seen_by: seen_by.clone(),
            }));
        }
        entries
    }

    /// An entry of a set: its mark, or that it is there.
    fn entry(&self, place: &Place, set: &str, entry: Entry) -> Compared {
        let read = |netns: Option<&Netns>| {
            let mark = netns?.sets.get(set)?.entries.get(&entry)?;
            Some(mark.map_or_else(|| "present".to_owned(), |mark| format!("mark {mark}")))
        };
        Compared::new(
            read(self.wanted.get(place)),
            read(self.seen.places.get(place)),
        )
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

    // === ports ===

    fn port(&self, way: &Way<'_>) -> PortEntry {
        let (port, listener) = (way.port, way.port.listener());
        let others = self.seen.held.iter();
        let others = others.filter(|held| held.listener.clashes(&listener));
        PortEntry {
            listener: match way.family {
                Family::V4 => listener.to_string(),
                Family::V6 => format!("{listener} (IPv6)"),
            },
            target: port.port.target,
            mode: port.port.mode.as_str().to_owned(),
            mark: port.mark.to_string(),
            rule: self.rule(way),
            others: others.map(tasks::holder).collect(),
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

    /// The host's rule that its packets fit: one of its own, or that of its set.
    fn rule(&self, way: &Way<'_>) -> RuleEntry {
        let chain = format!("{}-INGRESS", self.inspector.instance.chain_prefix());
        let of_set = format!(" --match-set {} ", way.host.0);
        let on = match way.port.port.host_ip.filter(|ip| !ip.is_unspecified()) {
            Some(ip) => format!("-d {} ", ipnet::IpNet::from(ip)),
            None => String::new(),
        };
        let fits = |rule: &&String| match &way.alias {
            Some(alias) => *rule == alias,
            None => rule.contains(&of_set) && rule.starts_with(&on),
        };
        let find = |places: &Places| {
            let tables = &places.get(&Place::Host)?.tables;
            let rules = tables.get(&(way.family, Table::Nat))?.own.get(&chain)?;
            rules.iter().find(fits).cloned()
        };
        let (wanted, kernel) = (find(self.wanted), find(&self.seen.places));
        let counted = self.seen.rules.get(&way.family).into_iter().flatten();
        let counted: Vec<_> = counted
            .filter(|rule| rule.chain == chain && Some(&rule.rule) == kernel.as_ref())
            .collect();
        let with_chain = |rule: Option<String>| rule.map(|rule| format!("-A {chain} {rule}"));
        RuleEntry {
            rule: Compared::new(with_chain(wanted), with_chain(kernel)),
            shared: way.alias.is_none(),
            packets: counted.iter().map(|rule| rule.packets).sum(),
            bytes: counted.iter().map(|rule| rule.bytes).sum(),
        }
    }

    // === IPVS ===

    fn balanced(&self, place: &Place, family: Family, mark: Mark) -> ServiceEntry {
        let key = (family, mark);
        let (shall, is) = (self.wanted.get(place), self.seen.places.get(place));
        let wanted = shall.and_then(|netns| netns.services.get(&key));
        let has = is.and_then(|netns| netns.services.get(&key));
        let all: BTreeSet<_> = [wanted, has]
            .iter()
            .flatten()
            .flat_map(|s| s.destinations.keys().copied())
            .collect();
        let live = self.seen.live.get(place).and_then(|live| live.get(&key));
        let by_address = self.by_address();
        let destinations = all.into_iter().map(|at| {
            let weight = |service: Option<&VirtualService>| {
                Some(service?.destinations.get(&at)?.weight.to_string())
            };
            let counted = live.and_then(|live| live.destinations.iter().find(|one| one.at == at));
            let task = by_address.get(&at.0).copied();
            let inspector = self.inspector;
            DestinationEntry {
                address: with_port(at),
                task: task.map(|task| task.name()).unwrap_or_default(),
                node: task
                    .map(|task| inspector.hostname(&task.node))
                    .unwrap_or_default(),
                state: task
                    .map_or("", |task| inspector.state.word(task))
                    .to_owned(),
                health: task.map_or("", |task| inspector.health(task)).to_owned(),
                weight: Compared::new(weight(wanted), weight(has)),
                active: counted.map_or(0, |one| one.active),
                inactive: counted.map_or(0, |one| one.inactive),
                persistent: counted.map_or(0, |one| one.persistent),
                traffic: counted.map(|one| traffic(&one.traffic)).unwrap_or_default(),
            }
        });
        let times = |netns: Option<&Netns>| Some(common::timeouts(&netns?.ipvs_timeouts?));
        ServiceEntry {
            settings: Compared::new(wanted.map(settings), has.map(settings)),
            timeouts: Compared::new(times(shall), times(is)),
            traffic: live.map(|live| traffic(&live.traffic)).unwrap_or_default(),
            destinations: destinations.collect(),
        }
    }

    /// Tasks by their addresses; of those of several services, all.
    fn by_address(&self) -> BTreeMap<IpAddr, &Task> {
        let tasks = self.inspector.state.tasks_of(&self.service.id).into_iter();
        tasks
            .flat_map(|task| task.addresses().map(move |at| (at, &**task)))
            .collect()
    }
}

/// IP_VS_SVC_F_ONEPACKET and the schedulers' own flags of `linux/ip_vs.h`
const FLAGS: [(u32, &str); 4] = [
    (4, "one-packet"),
    (8, "flag-1"),
    (16, "flag-2"),
    (32, "flag-3"),
];

/// As `ipvsadm -Ln` has it.
fn settings(service: &VirtualService) -> String {
    let how = &service.scheduling;
    let mut words = vec![how.scheduler.to_string()];
    for (bit, word) in FLAGS {
        let fallback = matches!(&*how.scheduler, "sh" | "mh");
        if how.flags & bit != 0 {
            // these two have names for theirs
            let word = match bit {
                8 if fallback => "fallback",
                16 if fallback => "port",
                _ => word,
            };
            words.push(word.to_owned());
        }
    }
    if how.timeout > 0 {
        words.push(format!("persistent {} s /{}", how.timeout, how.netmask));
    }
    words.join(" ")
}

fn traffic(counted: &Traffic) -> TrafficEntry {
    TrafficEntry {
        connections: counted.connections,
        packets_in: counted.packets_in,
        packets_out: counted.packets_out,
        bytes_in: counted.bytes_in,
        bytes_out: counted.bytes_out,
        rates: Rates {
            connections: counted.connection_rate,
            packets_in: counted.packet_rate_in,
            packets_out: counted.packet_rate_out,
            bytes_in: counted.byte_rate_in,
            bytes_out: counted.byte_rate_out,
        },
    }
}
