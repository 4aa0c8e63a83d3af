//! What one service has in the kernel: set entries, IPVS services, and its part of the
//! host's rules.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use model::{
    AllocatedPort, DesiredState, Instance, Mark, NetworkId, NodeId, Options, Protocol, PublishMode,
    Service, State, Task,
};

use super::{
    elsewhere::Elsewhere,
    family::{Side, with_port},
};
use crate::netns::{Destination, Entry, Family, Place, Scheduling, VirtualService};

/// IP_VS_SVC_F_PERSISTENT of `linux/ip_vs.h`
const PERSISTENT: u32 = 1;

/// The router's are known beforehand.
pub(super) type SetName = Cow<'static, str>;

/// Everything of one service. There are as many fragments as services and most have
/// two or three things in them, so that these are in sorted vectors rather than maps.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Fragment {
    /// By place, set and entry: the mark.
    pub(super) entries: Vec<((Place, SetName, Entry), Option<Mark>)>,
    /// By place and mark.
    pub(super) services: Vec<((Place, Family, Mark), VirtualService)>,
    /// What it has in the host's rules.
    pub(super) rules: HostRules,
}

/// Sorts by keys; where one is there twice, the last one holds.
fn sort<K: Ord, V>(all: &mut Vec<(K, V)>) {
    all.reverse();
    all.sort_by(|one, other| one.0.cmp(&other.0));
    all.dedup_by(|one, other| one.0 == other.0);
}

impl Fragment {
    /// Leaves of a removed service what its open connections need: others may have its
    /// ports by now.
    pub(super) fn keep_connections(&mut self) {
        self.entries.clear();
        self.rules.aliases.clear();
    }
}

/// The value of a key, in a vector that is sorted by keys.
pub(super) fn find<'a, K: Ord, V>(sorted: &'a [(K, V)], key: &K) -> Option<&'a V> {
    let at = sorted.binary_search_by(|(other, _)| other.cmp(key)).ok()?;
    Some(&sorted[at].1)
}

/// A service's part of the host's rules; most have none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct HostRules {
    /// Host addresses that it publishes on, with the numbers of their ingress addresses.
    pub(super) addresses: BTreeSet<(IpAddr, u8)>,
    /// Ingress addresses of the service's own, in each family.
    pub(super) numbers: BTreeSet<u8>,
    /// Rules for ports that lead elsewhere than to their own number, in the order of the
    /// spec.
    pub(super) aliases: Vec<(Family, String)>,
    /// Its destinations that are not ours.
    pub(super) elsewhere: Elsewhere,
}

impl HostRules {
    pub(super) fn is_empty(&self) -> bool {
        self.addresses.is_empty()
            && self.numbers.is_empty()
            && self.aliases.is_empty()
            && self.elsewhere.is_empty()
    }
}

/// The way to a published port in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way<'a> {
    /// Which port.
    pub port: &'a AllocatedPort,
    /// IPv4 or IPv6.
    pub family: Family,
    /// Set and entries on the host, which send its packets to the ingress namespace.
    pub host: (String, Vec<Entry>),
    /// Set and entry there, which give them the mark.
    pub ingress: (String, Entry),
    /// The host's rule for a port that leads elsewhere than to its own number.
    pub alias: Option<String>,
    /// It is the first that leads there: the entry in the ingress namespace is its own.
    pub first: bool,
}

/// What a fragment is made from.
pub(super) struct Scene<'a> {
    pub(super) state: &'a State,
    pub(super) node: &'a NodeId,
    pub(super) instance: &'a Instance,
    pub(super) sides: &'a [Side],
}

/// A task that runs.
pub(super) struct Running<'a> {
    task: &'a Task,
    /// It shall not run any longer than its connections do.
    leaving: bool,
}

impl<'a> Running<'a> {
    /// `None` for a task that does not run, or of which that is not known.
    pub(super) fn of(state: &State, task: &'a Task) -> Option<Self> {
        let status = state.status(&task.id)?;
        let leaving = status.draining || task.desired != DesiredState::Running;
        status.runs().then_some(Self { task, leaving })
    }

    /// How much new traffic it gets, were its weight `weight`: `None` when it is no
    /// destination at all, `Some(0)` while it drains.
    pub(super) fn share(&self, protocol: Protocol, weight: u32) -> Option<u32> {
        match (self.leaving, protocol) {
            (false, _) => Some(weight),
            // UDP has no connections to end: its flows move to another task at once
            (true, Protocol::Udp) => None,
            (true, _) => Some(0),
        }
    }
}

impl Scene<'_> {
    /// All of a service with these tasks.
    pub(super) fn fragment(&self, service: &Service, tasks: &[Running<'_>]) -> Fragment {
        // admitted ones have no wrong labels
        let options = Options::of(&service.spec.labels).unwrap_or_default();
        let mut fragment = Fragment::default();
        for side in self.sides {
            self.vips(service, tasks, &options, side, &mut fragment);
            self.ports(service, tasks, &options, side, &mut fragment);
        }
        sort(&mut fragment.entries);
        sort(&mut fragment.services);
        fragment
    }

    /// What its tasks that are not ours need of the host, a probe of them included.
    pub(super) fn elsewhere(&self, service: &Service, tasks: &[&Task], all: &mut Elsewhere) {
        tasks.iter().for_each(|task| all.add(task));
        if all.is_empty() {
            return;
        }
        all.vips
            .extend(service.endpoint.vips.iter().map(|vip| vip.address));
        let ways = self.sides.iter().flat_map(|side| self.ways(service, side));
        all.ports.extend(ways.map(|way| way.ingress.1));
    }

    fn vips(
        &self,
        service: &Service,
        tasks: &[Running<'_>],
        options: &Options,
        side: &Side,
        fragment: &mut Fragment,
    ) {
        let vips = service.endpoint.vips.iter();
        for vip in vips.filter(|vip| Family::from(vip.address) == side.family) {
            for (protocol, mark) in [(Protocol::Tcp, vip.tcp), (Protocol::Udp, vip.udp)] {
                let to = |one: &Running<'_>| address(one.task, Some(&vip.network), side.family);
                let tasks = tasks.iter().filter_map(|one| Some((one, to(one)?)));
                let balanced = balanced(tasks, options, side.family, protocol, 0);
                let Some(balanced) = balanced else { continue };
                if takes_new(&balanced) {
                    let set = side.vips(protocol).into();
                    let entry = (Place::Router, set, Entry::Ip(vip.address));
                    fragment.entries.push((entry, Some(mark)));
                }
                let key = (Place::Router, side.family, mark);
                fragment.services.push((key, balanced));
            }
        }
    }

    fn ports(
        &self,
        service: &Service,
        tasks: &[Running<'_>],
        options: &Options,
        side: &Side,
        fragment: &mut Fragment,
    ) {
        let family = side.family;
        // by mark, of which the ports of a range have one
        let mut open = BTreeMap::new();
        for way in self.ways(service, side) {
            let port = way.port;
            let (protocol, mode) = (port.port.protocol, port.port.mode);
            let open = *open.entry(port.mark).or_insert_with(|| {
                let here = |one: &&Running<'_>| {
                    mode == PublishMode::Ingress || one.task.node == *self.node
                };
                let tasks = tasks.iter().filter(here);
                let tasks = tasks.filter_map(|one| Some((one, address(one.task, None, family)?)));
                let target = if port.keeps_port { 0 } else { port.port.target };
                let balanced = balanced(tasks, options, family, protocol, target);
                let open = balanced.as_ref().is_some_and(takes_new);
                let key = (Place::Ingress, family, port.mark);
                fragment
                    .services
                    .extend(balanced.map(|balanced| (key, balanced)));
                open
            });
            // a host port is there where a task is; without one the host itself refuses
            if mode == PublishMode::Ingress || open {
                let (set, entries) = way.host;
                for entry in entries {
                    let key = (Place::Host, set.clone().into(), entry);
                    fragment.entries.push((key, None));
                }
            }
            if let Some(ip) = specific(port) {
                fragment.rules.addresses.insert((ip, port.ingress));
            }
            fragment.rules.numbers.extend(port.affine);
            if let Some(rule) = way.alias {
                fragment.rules.aliases.push((family, rule));
            }
            if way.first && open {
                let (set, entry) = way.ingress;
                let key = (Place::Ingress, set.into(), entry);
                fragment.entries.push((key, Some(port.mark)));
            }
        }
    }

    /// The ways to a service's published ports in one family, in the order of its spec.
    pub(super) fn ways<'a>(&self, service: &'a Service, side: &Side) -> Vec<Way<'a>> {
        let family = side.family;
        // what has no address of this family is not published on it
        let reachable = family == Family::V4
            || service.spec.task.networks.iter().any(|attachment| {
                let network = self.state.networks.get(&attachment.network);
                let mut pools = network.iter().flat_map(|network| &network.pools);
                pools.any(|pool| Family::from(pool.subnet.addr()) == family)
            });
        if !reachable {
            return Vec::new();
        }
        let mut first: BTreeMap<(Protocol, PublishMode, u16), &AllocatedPort> = BTreeMap::new();
        let ports = service.endpoint.ports.iter().filter(|p| serves(p, family));
        let way = |port: &'a AllocatedPort| {
            let (protocol, published) = (port.port.protocol, port.published());
            let target = (protocol, port.port.mode, port.port.target);
            let leads_to = *first.entry(target).or_insert(port);
            let (to, at_port) = match leads_to.affine {
                Some(number) => (side.at.ingress(number), port.port.target),
                None => (side.at.ingress(leads_to.ingress), leads_to.published()),
            };
            // else a client could use one source port towards one task twice
            let alias = ((to, at_port) != (side.at.ingress(port.ingress), published)).then(|| {
                    let at = specific(port)
                        .map_or_else(String::new, |ip| format!("-d {} ", ipnet::IpNet::from(ip)));
                    format!(
                        "{at}-p {protocol} -m {protocol} --dport {published} -j DNAT --to-destination {}",
                        with_port(to, at_port)
                    )
                });
            let (word, entries) = match (specific(port), protocol) {
                (Some(ip), _) => ("at", vec![Entry::IpPort(ip, protocol, published)]),
                (None, Protocol::Sctp) => {
                    let halves = side.halves().into_iter();
                    let entries = halves.map(|net| Entry::NetPort(net, protocol, published));
                    (protocol.as_str(), entries.collect())
                }
                (None, _) => (protocol.as_str(), vec![Entry::Port(published)]),
            };
            let host = format!("{}-{word}{}", self.instance.set_prefix(), side.suffix());
            Way {
                port,
                family,
                host: (host, entries),
                ingress: (
                    format!("ports{}", side.suffix()),
                    Entry::IpPort(to, protocol, at_port),
                ),
                alias,
                first: std::ptr::eq(leads_to, port),
            }
        };
        ports.map(way).collect()
    }
}

/// The IPVS service that balances over these; `None` without any, so that new
/// packets are refused at once rather than logged by the kernel.
fn balanced<'a>(
    tasks: impl Iterator<Item = (&'a Running<'a>, IpAddr)>,
    options: &Options,
    family: Family,
    protocol: Protocol,
    port: u16,
) -> Option<VirtualService> {
    let mut destinations = BTreeMap::new();
    for (one, address) in tasks {
        let weight = options.weights.of(one.task.slot);
        let Some(weight) = one.share(protocol, weight) else {
            continue;
        };
        let limits = Destination {
            weight,
            upper_threshold: options.limit.upper,
            lower_threshold: options.limit.lower,
        };
        // IPVS translates no port of a service that is persistent and known by a mark
        let to = match options.affinity {
            Some(_) => port,
            None => one.task.port(port),
        };
        destinations.insert((address, to), limits);
    }
    let (mut flags, mut timeout) = (options.scheduler.flags(), 0);
    let mut netmask = if family == Family::V4 { 32 } else { 128 };
    if let Some(affinity) = options.affinity {
        flags |= PERSISTENT;
        timeout = u32::try_from(affinity.timeout.as_secs()).unwrap_or(u32::MAX);
        netmask = match family {
            Family::V4 => affinity.prefix,
            Family::V6 => affinity.prefix6,
        };
    }
    (!destinations.is_empty()).then(|| VirtualService {
        scheduling: Scheduling {
            scheduler: options.scheduler.as_str().into(),
            flags,
            timeout,
            netmask,
        },
        destinations,
    })
}

/// The one host address that a port is published on.
fn specific(port: &AllocatedPort) -> Option<IpAddr> {
    port.port.host_ip.filter(|ip| !ip.is_unspecified())
}

/// Whether a listener is one of this family.
fn serves(port: &AllocatedPort, family: Family) -> bool {
    port.port
        .host_ip
        .is_none_or(|ip| Family::from(ip) == family)
}

/// A task's address of a family on a network; on its first one that has it without.
fn address(task: &Task, network: Option<&NetworkId>, family: Family) -> Option<IpAddr> {
    let places = task.attachments.iter();
    let mut places = places.filter(|a| network.is_none_or(|network| a.network == *network));
    places.find_map(|place| {
        let mut addresses = place.addresses.iter().copied();
        addresses.find(|address| Family::from(*address) == family)
    })
}

pub(super) fn takes_new(service: &VirtualService) -> bool {
    let mut destinations = service.destinations.values();
    destinations.any(|destination| destination.weight > 0)
}
