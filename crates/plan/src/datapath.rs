//! What the kernel shall hold on a node: the state, said in links, routes,
//! rules, sets and IPVS services.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;
use model::{
    AllocatedPort, DesiredState, Instance, Mark, NetworkId, NodeId, Pools, Protocol, Service,
    ServiceId, State, Task, TaskId, TaskState,
};

use crate::netns::{
    Chains, Destination, Entry, Family, Jump, Link, LinkKind, Netns, Place, Route, RouteKind, Set,
    SetKind, Table, Timeouts, VirtualService,
};

/// The host namespace's addresses towards the mesh, by node number.
///
/// Like all of the mesh's they have a prefix length of 32, so that the kernel makes
/// no routes for them by itself: every route is one that is wanted, and a flushed
/// table can be filled again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeAddresses {
    /// On the host's end of the veth.
    pub host: IpAddr,
    /// On the ingress namespace's end: where published ports are sent.
    pub ingress: IpAddr,
}

impl NodeAddresses {
    /// Those of the node with this number: a /24 of the nodes' pool.
    pub fn new(pools: &Pools, number: u8) -> Self {
        let base = match pools.nodes.network() {
            IpAddr::V4(ip) => u32::from(ip) + (u32::from(number) << 8),
            IpAddr::V6(_) => 0,
        };
        let nth = |n| IpAddr::V4(Ipv4Addr::from(base + n));
        Self {
            host: nth(1),
            ingress: nth(2),
        }
    }
}

/// The link between ingress and router namespace; known to nobody else.
const INGRESS_INNER: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 1);
const ROUTER_OUTER: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 2);

/// "source address == destination address" of IPv4 as classic BPF: a task that
/// was balanced to itself.
const HAIRPIN: &str = "6,32 0 0 12,7 0 0 0,32 0 0 16,29 0 1 0,6 0 0 65535,6 0 0 0";

/// What does not come from the state.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// MTU of every veth, in octets.
    pub mtu: u32,
    /// IPVS time-outs of both namespaces.
    pub timeouts: Timeouts,
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
        }
    }
}

/// Everything that `node` shall have in the kernel. `sandboxes` are the tasks
/// whose namespace exists; only these are attached.
///
/// Before the mesh's pools are known, nothing is wanted.
pub fn wanted(
    state: &State,
    node: &NodeId,
    instance: &Instance,
    sandboxes: &BTreeSet<TaskId>,
    settings: &Settings,
) -> BTreeMap<Place, Netns> {
    let (Some(pools), Some(me)) = (&state.pools, state.nodes.get(node)) else {
        return BTreeMap::new();
    };
    let at = NodeAddresses::new(pools, me.number);
    let mut tasks: BTreeMap<&ServiceId, Vec<&Task>> = BTreeMap::new();
    for task in state.tasks.values() {
        tasks.entry(&task.service).or_default().push(task);
    }
    let view = View {
        state,
        node,
        pools,
        at,
        settings,
        tasks,
    };
    let mut places = BTreeMap::from([
        (Place::Host, view.host(instance)),
        (Place::Ingress, view.ingress()),
        (Place::Router, view.router(sandboxes)),
    ]);
    for id in sandboxes {
        if let Some(task) = state.tasks.get(id) {
            places.insert(Place::Task(id.clone()), view.task(task));
        }
    }
    places
}

/// How much new traffic a task gets: `None` when it is no destination at all,
/// `Some(0)` while it drains.
pub fn weight(state: &State, task: &Task, protocol: Protocol) -> Option<u32> {
    let status = state.status(&task.id)?;
    if status.state != TaskState::Running {
        return None;
    }
    let leaving = status.draining || task.desired != DesiredState::Running;
    match (leaving, protocol) {
        (false, _) => Some(1),
        // UDP has no connections to end: its flows move to another task at once
        (true, Protocol::Udp) => None,
        (true, _) => Some(0),
    }
}

/// The destinations of a service with these tasks: each one's address on `network` (its first
/// one without) with `port`, and its weight.
pub fn destinations(
    state: &State,
    tasks: &[&Task],
    network: Option<&NetworkId>,
    protocol: Protocol,
    port: u16,
) -> BTreeMap<(IpAddr, u16), Destination> {
    tasks
        .iter()
        .filter_map(|task| {
            let mut places = task.attachments.iter();
            let place = places.find(|a| network.is_none_or(|network| a.network == *network))?;
            let address = *place.addresses.iter().find(|a| a.is_ipv4())?;
            let weight = weight(state, task, protocol)?;
            let limits = Destination {
                weight,
                upper_threshold: 0,
                lower_threshold: 0,
            };
            Some(((address, port), limits))
        })
        .collect()
}

/// The IPVS service that balances over these destinations; `None` without any,
/// so that new packets are refused at once rather than logged by the kernel.
fn balanced(destinations: BTreeMap<(IpAddr, u16), Destination>) -> Option<VirtualService> {
    (!destinations.is_empty()).then(|| VirtualService {
        scheduler: "rr".to_owned(),
        flags: 0,
        timeout: 0,
        netmask: 32,
        destinations,
    })
}

fn takes_new(service: &VirtualService) -> bool {
    service
        .destinations
        .values()
        .any(|destination| destination.weight > 0)
}

struct View<'a> {
    state: &'a State,
    node: &'a NodeId,
    pools: &'a Pools,
    at: NodeAddresses,
    settings: &'a Settings,
    tasks: BTreeMap<&'a ServiceId, Vec<&'a Task>>,
}

fn host_net(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

fn default_route() -> IpNet {
    IpNet::new_assert(Ipv4Addr::UNSPECIFIED.into(), 0)
}

fn route(to: IpNet, via: Option<IpAddr>, dev: &str, src: Option<IpAddr>) -> Route {
    let (kind, dev) = (RouteKind::Unicast, Some(dev.to_owned()));
    Route {
        to,
        kind,
        via,
        dev,
        src,
        metric: 0,
    }
}

fn loopback() -> (String, Link) {
    (
        "lo".to_owned(),
        Link {
            kind: LinkKind::Loopback,
            mtu: None,
            up: true,
        },
    )
}

fn sysctls(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(path, value)| ((*path).to_owned(), (*value).to_owned()))
        .collect()
}

fn set(kind: SetKind, entries: BTreeMap<Entry, Option<Mark>>) -> Set {
    Set { kind, entries }
}

fn chains(own: &[(&str, Vec<String>)]) -> Chains {
    let own = own
        .iter()
        .map(|(chain, rules)| ((*chain).to_owned(), rules.clone()))
        .collect();
    Chains {
        own,
        jumps: BTreeSet::new(),
    }
}

/// Sysctls that both balancing namespaces share. Some are per link as well,
/// because links take `default` only when they are made.
fn balancer_sysctls(links: &[&str], conntrack: &str) -> BTreeMap<String, String> {
    let mut all = sysctls(&[
        ("net/ipv4/ip_forward", "1"),
        // a client gets a reset rather than silence from a destination that is gone
        ("net/ipv4/vs/expire_nodest_conn", "1"),
        ("net/ipv4/vs/expire_quiescent_template", "1"),
        ("net/ipv4/vs/conn_reuse_mode", "1"),
        ("net/ipv4/vs/conntrack", conntrack),
    ]);
    for link in ["all", "default"].iter().chain(links) {
        all.insert(format!("net/ipv4/conf/{link}/rp_filter"), "0".to_owned());
        all.insert(
            format!("net/ipv4/conf/{link}/send_redirects"),
            "0".to_owned(),
        );
    }
    all
}

impl View<'_> {
    fn veth(&self, peer: &str, place: Place) -> Link {
        let kind = LinkKind::Veth {
            peer: peer.to_owned(),
            place,
        };
        Link {
            kind,
            mtu: Some(self.settings.mtu),
            up: true,
        }
    }

    fn veth_peer(&self) -> Link {
        Link {
            kind: LinkKind::VethPeer,
            mtu: Some(self.settings.mtu),
            up: true,
        }
    }

    fn tasks_of(&self, service: &Service) -> &[&Task] {
        self.tasks.get(&service.id).map_or(&[], Vec::as_slice)
    }

    fn ports(&self) -> impl Iterator<Item = (&Service, &AllocatedPort)> {
        let services = self.state.services.values();
        services.flat_map(|s| s.endpoint.ports.iter().map(move |port| (&s.value, port)))
    }

    fn host(&self, instance: &Instance) -> Netns {
        let link = instance.host_link();
        let NodeAddresses { host, ingress } = self.at;
        let (tasks, vips) = (self.pools.tasks, self.pools.vips);
        let (chain, set_name) = (instance.chain_prefix(), instance.set_prefix());
        let jump = |from: &str, rule: String, first| Jump {
            chain: from.to_owned(),
            rule,
            first,
        };

        let mut ports = BTreeMap::from([
            (Protocol::Tcp, set(SetKind::BitmapPort, BTreeMap::new())),
            (Protocol::Udp, set(SetKind::BitmapPort, BTreeMap::new())),
        ]);
        for (_, port) in self.ports() {
            if let Some(set) = ports.get_mut(&port.port.protocol) {
                set.entries.insert(Entry::Port(port.published()), None);
            }
        }

        // only the address: the ingress namespace tells ports apart
        let dnat = |protocol: &str| {
            format!(
                "-p {protocol} -m set --match-set {set_name}-{protocol} dst -j DNAT --to-destination {ingress}"
            )
        };
        let nat = Chains {
            own: BTreeMap::from([
                (format!("{chain}-INGRESS"), vec![dnat("tcp"), dnat("udp")]),
                (
                    format!("{chain}-SNAT"),
                    vec![
                        // clients on 127.0.0.1 cannot be answered from another namespace
                        format!("-s 127.0.0.0/8 -o {link} -j SNAT --to-source {host}"),
                        // nor may the router answer a task directly that came by a port
                        format!("-s {tasks} -o {link} -j SNAT --to-source {host}"),
                        // everyone else keeps their address, whatever rules follow
                        format!("-o {link} -j ACCEPT"),
                        format!("-s {tasks} ! -o {link} -j MASQUERADE"),
                    ],
                ),
            ]),
            jumps: BTreeSet::from([
                jump(
                    "PREROUTING",
                    format!("-m addrtype --dst-type LOCAL -j {chain}-INGRESS"),
                    false,
                ),
                jump(
                    "OUTPUT",
                    format!("-m addrtype --dst-type LOCAL -j {chain}-INGRESS"),
                    false,
                ),
                jump("POSTROUTING", format!("-j {chain}-SNAT"), true),
            ]),
        };
        let filter = Chains {
            own: BTreeMap::from([(
                format!("{chain}-FWD"),
                vec![
                    format!("-i {link} -j ACCEPT"),
                    // a neighbour that routes our pools through this host gets nowhere
                    format!("-o {link} -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT"),
                    format!("-o {link} -j REJECT --reject-with icmp-port-unreachable"),
                ],
            )]),
            jumps: BTreeSet::from([jump("FORWARD", format!("-j {chain}-FWD"), true)]),
        };
        // route_localnet lets 127.0.0.1 out by our link; nothing may come back in that way
        let raw = Chains {
            own: BTreeMap::from([(
                format!("{chain}-LOCAL"),
                vec![format!("-d 127.0.0.0/8 -i {link} -j DROP")],
            )]),
            jumps: BTreeSet::from([jump("PREROUTING", format!("-j {chain}-LOCAL"), false)]),
        };

        Netns {
            links: BTreeMap::from([(link.clone(), self.veth("up0", Place::Ingress))]),
            addresses: BTreeSet::from([(link.clone(), host_net(host))]),
            routes: BTreeSet::from([
                route(host_net(ingress), None, &link, Some(host)),
                route(tasks, Some(ingress), &link, None),
                route(vips, Some(ingress), &link, None),
            ]),
            sysctls: BTreeMap::from([
                ("net/ipv4/ip_forward".to_owned(), "1".to_owned()),
                (
                    format!("net/ipv4/conf/{link}/route_localnet"),
                    "1".to_owned(),
                ),
            ]),
            sets: ports
                .into_iter()
                .map(|(protocol, set)| (format!("{set_name}-{protocol}"), set))
                .collect(),
            tables: BTreeMap::from([
                ((Family::V4, Table::Raw), raw),
                ((Family::V4, Table::Nat), nat),
                ((Family::V4, Table::Filter), filter),
            ]),
            ..Netns::default()
        }
    }

    fn ingress(&self) -> Netns {
        let NodeAddresses { host, ingress } = self.at;
        let inner = Some(IpAddr::V4(ROUTER_OUTER));
        let mut marks = BTreeMap::new();
        let mut services = BTreeMap::new();
        for (service, port) in self.ports() {
            let protocol = port.port.protocol;
            let destinations = destinations(
                self.state,
                self.tasks_of(service),
                None,
                protocol,
                port.port.target,
            );
            if let Some(balanced) = balanced(destinations) {
                if takes_new(&balanced) {
                    let entry = Entry::IpPort(ingress, protocol, port.published());
                    marks.insert(entry, Some(port.mark));
                }
                services.insert((Family::V4, port.mark), balanced);
            }
        }
        let mark = format!(
            "-d {} -i up0 -j SET --map-set ports dst,dst --map-mark",
            host_net(ingress)
        );
        Netns {
            links: BTreeMap::from([
                loopback(),
                ("up0".to_owned(), self.veth_peer()),
                ("dn0".to_owned(), self.veth("up0", Place::Router)),
            ]),
            addresses: BTreeSet::from([
                ("up0".to_owned(), host_net(ingress)),
                ("dn0".to_owned(), host_net(INGRESS_INNER.into())),
            ]),
            routes: BTreeSet::from([
                route(host_net(host), None, "up0", Some(ingress)),
                route(
                    host_net(ROUTER_OUTER.into()),
                    None,
                    "dn0",
                    Some(INGRESS_INNER.into()),
                ),
                route(default_route(), Some(host), "up0", None),
                route(self.pools.tasks, inner, "dn0", Some(ingress)),
                route(self.pools.vips, inner, "dn0", Some(ingress)),
            ]),
            sysctls: balancer_sysctls(&["up0", "dn0"], "0"),
            sets: BTreeMap::from([(
                "ports".to_owned(),
                set(SetKind::HashIpPortMark(Family::V4), marks),
            )]),
            tables: BTreeMap::from([(
                (Family::V4, Table::Mangle),
                chains(&[("PREROUTING", vec![mark])]),
            )]),
            ipvs_timeouts: Some(self.settings.timeouts),
            services,
        }
    }

    fn router(&self, sandboxes: &BTreeSet<TaskId>) -> Netns {
        let (tasks, vips) = (self.pools.tasks, self.pools.vips);
        let outer = IpAddr::V4(INGRESS_INNER);
        let mut links = BTreeMap::from([loopback(), ("up0".to_owned(), self.veth_peer())]);
        let mut addresses = BTreeSet::from([("up0".to_owned(), host_net(ROUTER_OUTER.into()))]);
        let mut routes = BTreeSet::from([
            route(host_net(outer), None, "up0", Some(ROUTER_OUTER.into())),
            route(default_route(), Some(outer), "up0", None),
            // every VIP is local at once; a task that is gone is "no route to host"
            Route {
                kind: RouteKind::Local,
                ..route(vips, None, "lo", None)
            },
            Route {
                to: tasks,
                kind: RouteKind::Unreachable,
                via: None,
                dev: None,
                src: None,
                metric: 1000,
            },
        ]);
        let mut sysctls = balancer_sysctls(&["up0"], "1");

        // the node's address on each network: gateway and DNS server of its tasks
        for lease in self
            .state
            .leases
            .values()
            .filter(|lease| lease.node == *self.node)
        {
            addresses.insert(("lo".to_owned(), host_net(lease.gateway())));
        }
        for id in sandboxes {
            let Some(task) = self.state.tasks.get(id) else {
                continue;
            };
            let link = task.link();
            for attachment in &task.attachments {
                let gateway = self.gateway(&attachment.network);
                for address in attachment.addresses.iter().filter(|a| a.is_ipv4()) {
                    routes.insert(route(host_net(*address), None, &link, gateway));
                }
            }
            // strict: a task cannot use an address that is not its own
            sysctls.insert(format!("net/ipv4/conf/{link}/rp_filter"), "1".to_owned());
            sysctls.insert(
                format!("net/ipv4/conf/{link}/send_redirects"),
                "0".to_owned(),
            );
            links.insert(link, self.veth("eth0", Place::Task(id.clone())));
        }

        let mut same = BTreeMap::new();
        let mut internal = BTreeMap::new();
        for network in self.state.networks.values() {
            for pool in network
                .pools
                .iter()
                .filter(|pool| pool.subnet.addr().is_ipv4())
            {
                same.insert(Entry::NetNet(pool.subnet, pool.subnet), None);
                same.insert(Entry::NetNet(pool.subnet, pool.vips), None);
                if network.spec.internal {
                    internal.insert(Entry::Net(pool.subnet), None);
                }
            }
        }

        let mut services = BTreeMap::new();
        let (mut tcp, mut udp) = (BTreeMap::new(), BTreeMap::new());
        for service in self.state.services.values() {
            for vip in service
                .endpoint
                .vips
                .iter()
                .filter(|vip| vip.address.is_ipv4())
            {
                for (protocol, mark, entries) in [
                    (Protocol::Tcp, vip.tcp, &mut tcp),
                    (Protocol::Udp, vip.udp, &mut udp),
                ] {
                    let to = destinations(
                        self.state,
                        self.tasks_of(service),
                        Some(&vip.network),
                        protocol,
                        0,
                    );
                    if let Some(balanced) = balanced(to) {
                        if takes_new(&balanced) {
                            entries.insert(Entry::Ip(vip.address), Some(mark));
                        }
                        services.insert((Family::V4, mark), balanced);
                    }
                }
            }
        }

        let mark = |protocol: &str| {
            format!("-d {vips} -p {protocol} -j SET --map-set vips-{protocol} dst --map-mark")
        };
        let refuse = "-j REJECT --reject-with icmp-port-unreachable";
        // a VIP without a mark has no running task: refuse, whatever listens here
        let unserved = |protocol: &str, how: &str| {
            format!(
                "-d {vips} -p {protocol} -m mark --mark 0x0 -m conntrack --ctstate NEW -j REJECT --reject-with {how}"
            )
        };
        let filter = chains(&[
            (
                "INPUT",
                vec![
                    format!("-d {vips} -i t+ -m set ! --match-set same src,dst {refuse}"),
                    unserved("tcp", "tcp-reset"),
                    unserved("udp", "icmp-port-unreachable"),
                ],
            ),
            (
                "FORWARD",
                vec![
                    "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT".to_owned(),
                    format!("-i t+ -o up0 -m set --match-set internal src {refuse}"),
                    format!("-i t+ -o t+ -m set ! --match-set same src,dst {refuse}"),
                ],
            ),
        ]);
        let hairpin = format!("-m bpf --bytecode \"{HAIRPIN}\" -j MASQUERADE");

        Netns {
            links,
            addresses,
            routes,
            sysctls,
            sets: BTreeMap::from([
                (
                    "vips-tcp".to_owned(),
                    set(SetKind::HashIpMark(Family::V4), tcp),
                ),
                (
                    "vips-udp".to_owned(),
                    set(SetKind::HashIpMark(Family::V4), udp),
                ),
                (
                    "same".to_owned(),
                    set(SetKind::HashNetNet(Family::V4), same),
                ),
                (
                    "internal".to_owned(),
                    set(SetKind::HashNet(Family::V4), internal),
                ),
            ]),
            tables: BTreeMap::from([
                (
                    (Family::V4, Table::Mangle),
                    chains(&[("PREROUTING", vec![mark("tcp"), mark("udp")])]),
                ),
                (
                    (Family::V4, Table::Nat),
                    chains(&[("POSTROUTING", vec![hairpin])]),
                ),
                ((Family::V4, Table::Filter), filter),
            ]),
            ipvs_timeouts: Some(self.settings.timeouts),
            services,
        }
    }

    /// The router's own address on a network.
    fn gateway(&self, network: &NetworkId) -> Option<IpAddr> {
        self.state
            .lease(network, self.node)
            .map(model::Lease::gateway)
    }

    fn task(&self, task: &Task) -> Netns {
        let link = "eth0".to_owned();
        let mut addresses = BTreeSet::new();
        let mut routes = BTreeSet::new();
        let placed = || {
            task.attachments.iter().filter_map(|attachment| {
                let network = self.state.networks.get(&attachment.network)?;
                let address = *attachment.addresses.iter().find(|a| a.is_ipv4())?;
                Some((network, address))
            })
        };
        // the way out is by the first network that has one
        let source = placed()
            .find(|(network, _)| !network.spec.internal)
            .or_else(|| placed().next());
        let first = task
            .attachments
            .first()
            .and_then(|first| self.gateway(&first.network));
        if let (Some((_, source)), Some(gateway)) = (source, first) {
            routes.insert(route(host_net(gateway), None, &link, None));
            routes.insert(route(default_route(), Some(gateway), &link, Some(source)));
            // on several networks each is spoken to from the address that is on it
            if task.attachments.len() > 1 {
                for (network, address) in placed() {
                    for pool in network
                        .pools
                        .iter()
                        .filter(|pool| pool.subnet.addr().is_ipv4())
                    {
                        for to in [pool.subnet, pool.vips] {
                            routes.insert(route(to, Some(gateway), &link, Some(address)));
                        }
                    }
                }
            }
        }
        for (_, address) in placed() {
            addresses.insert((link.clone(), host_net(address)));
        }
        Netns {
            links: BTreeMap::from([loopback(), (link, self.veth_peer())]),
            addresses,
            routes,
            ..Netns::default()
        }
    }
}

#[cfg(test)]
mod tests;
