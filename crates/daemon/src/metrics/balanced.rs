//! What IPVS counts, by service and destination.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use kernel::{LiveServices, Traffic};
use model::{AllocatedPort, Instance, Mark, NodeId, Protocol, State, Task};
use plan::{
    netns::{Family as IpFamily, Place},
    subject::with_port,
};

use super::families::Family;

/// An IPVS service of ours, as people call it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Front {
    service: String,
    /// `vip` or `port`.
    entry: &'static str,
    /// Of a VIP.
    network: String,
    /// `10.200.0.1/tcp`, `8080/tcp`, `7000-7099/udp`.
    listener: String,
}

/// The IPVS services of a node, by what the kernel knows them by.
pub(crate) type Fronts = BTreeMap<(Place, IpFamily, Mark), Front>;

/// All IPVS services of ours on a node.
pub(crate) fn fronts(state: &State, node: &NodeId, instance: &Instance) -> Fronts {
    let mut fronts = BTreeMap::new();
    for service in state.services.values() {
        let name = service.spec.name.to_string();
        for vip in &service.endpoint.vips {
            let network = state.networks.get(&vip.network);
            let network = network.map_or_else(String::new, |one| one.spec.name.to_string());
            for (protocol, mark) in [(Protocol::Tcp, vip.tcp), (Protocol::Udp, vip.udp)] {
                let front = Front {
                    service: name.clone(),
                    entry: "vip",
                    network: network.clone(),
                    listener: format!("{}/{protocol}", vip.address),
                };
                fronts.insert((Place::Router, vip.address.into(), mark), front);
            }
        }
        let mut ports: BTreeMap<(IpFamily, Mark), Vec<&AllocatedPort>> = BTreeMap::new();
        for way in plan::datapath::ways(state, node, instance, service) {
            ports
                .entry((way.family, way.port.mark))
                .or_default()
                .push(way.port);
        }
        for ((family, mark), ports) in ports {
            let front = Front {
                service: name.clone(),
                entry: "port",
                network: String::new(),
                listener: listener(&ports),
            };
            fronts.insert((Place::Ingress, family, mark), front);
        }
    }
    fronts
}

/// The ports of one mark, as a range where they are one.
fn listener(ports: &[&AllocatedPort]) -> String {
    let mut all: Vec<_> = ports.iter().map(|port| port.listener()).collect();
    all.sort_by_key(|listener| listener.port);
    let (Some(first), Some(last)) = (all.first(), all.last()) else {
        return String::new();
    };
    let same = all.iter().all(|one| one.host_ip == first.host_ip);
    match usize::from(last.port - first.port) + 1 == all.len() && same {
        true if all.len() > 1 => {
            let first = first.to_string();
            let (begin, protocol) = first.rsplit_once('/').unwrap_or((&first, ""));
            format!("{begin}-{}/{protocol}", last.port)
        }
        _ => {
            let all: Vec<_> = all.iter().map(ToString::to_string).collect();
            all.join(" ")
        }
    }
}

/// The metrics of them.
pub(super) struct Balanced<'a> {
    tasks: HashMap<IpAddr, &'a Task>,
    service: [Family; 5],
    destination: [Family; 5],
    active: Family,
    inactive: Family,
    weight: Family,
}

/// What is counted of both, in the order of [`totals`].
const COUNTED: [(&str, &str); 5] = [
    ("connections", "Connections that were balanced"),
    ("received_packets", "Packets from clients"),
    ("sent_packets", "Packets to clients"),
    ("received_bytes", "Octets from clients"),
    ("sent_bytes", "Octets to clients"),
];

fn totals(traffic: &Traffic) -> [u64; 5] {
    [
        traffic.connections,
        traffic.packets_in,
        traffic.packets_out,
        traffic.bytes_in,
        traffic.bytes_out,
    ]
}

impl<'a> Balanced<'a> {
    /// With no values yet.
    pub(super) fn new(state: &'a State) -> Self {
        let tasks = state.tasks.values();
        let by_address = tasks.flat_map(|task| task.addresses().map(|at| (at, &**task)));
        let counted = |of: &str, whose: &str| {
            COUNTED.map(|(what, help)| {
                Family::counter(&format!("{of}_{what}_total"), &format!("{help}, {whose}."))
            })
        };
        Self {
            tasks: by_address.collect(),
            service: counted("service", "by IPVS service, whatever its destinations"),
            destination: counted("destination", "by destination of an IPVS service"),
            active: Family::gauge(
                "destination_active_connections",
                "Connections that are open, by destination.",
            ),
            inactive: Family::gauge(
                "destination_inactive_connections",
                "Connections that are closing and UDP flows, by destination.",
            ),
            weight: Family::gauge(
                "destination_weight",
                "Share of new connections, by destination; 0 while it drains.",
            ),
        }
    }

    /// What the kernel says of some.
    pub(super) fn add(&mut self, place: &Place, fronts: &Fronts, live: &LiveServices) {
        for ((family, mark), service) in live {
            let Some(front) = fronts.get(&(place.clone(), *family, *mark)) else {
                continue;
            };
            let family = match family {
                IpFamily::V4 => "ipv4",
                IpFamily::V6 => "ipv6",
            };
            let labels = [
                ("service", &*front.service),
                ("entry", front.entry),
                ("network", &front.network),
                ("listener", &front.listener),
                ("family", family),
            ];
            for (of, value) in self.service.iter_mut().zip(totals(&service.traffic)) {
                of.add(&labels, value);
            }
            for to in &service.destinations {
                let task = self.tasks.get(&to.at.0);
                let task = task.map_or_else(String::new, |task| task.name());
                let address = with_port(to.at);
                let [a, b, c, d, e] = labels;
                let labels = [a, b, c, d, e, ("task", &*task), ("destination", &address)];
                for (of, value) in self.destination.iter_mut().zip(totals(&to.traffic)) {
                    of.add(&labels, value);
                }
                self.active.add(&labels, to.active.into());
                self.inactive.add(&labels, to.inactive.into());
                self.weight.add(&labels, to.weight.into());
            }
        }
    }

    /// All of them.
    pub(super) fn families(self) -> impl Iterator<Item = Family> {
        let counted = self.service.into_iter().chain(self.destination);
        counted.chain([self.active, self.inactive, self.weight])
    }
}

#[cfg(test)]
mod tests {
    use model::PublishedPort;

    use super::*;

    #[test]
    fn ports_of_one_mark_have_one_name() {
        let allocated = |text: &str| {
            let ports = PublishedPort::parse(text).unwrap().into_iter();
            let allocated = ports.map(|port| AllocatedPort {
                port,
                mark: Mark::new(0x100).unwrap(),
                ingress: model::ANY_INGRESS,
                keeps_port: false,
                affine: None,
            });
            allocated.collect::<Vec<_>>()
        };
        for (ports, name) in [
            ("8080:80", "8080/tcp"),
            ("127.0.0.1:53:53/udp", "127.0.0.1:53/udp"),
            ("7000-7099:7000-7099/udp", "7000-7099/udp"),
            ("127.0.0.1:7000-7001:7000-7001", "127.0.0.1:7000-7001/tcp"),
        ] {
            let all = allocated(ports);
            assert_eq!(listener(&all.iter().collect::<Vec<_>>()), name);
        }
        let mut both = allocated("8080:80");
        both.extend(allocated("9090:80"));
        assert_eq!(
            listener(&both.iter().collect::<Vec<_>>()),
            "8080/tcp 9090/tcp"
        );
    }
}
