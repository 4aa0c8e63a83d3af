//! What is in the node's own namespaces whatever services and tasks there are.

use std::collections::{BTreeMap, BTreeSet};

use imbl::{OrdMap, OrdSet, ordmap::DiffItem};
use ipnet::IpNet;
use model::{ANY_INGRESS, Instance, Network, NodeId, Pool, Protocol, State, Versioned};

use super::{
    Settings,
    elsewhere::{self, Elsewhere},
    family::Side,
    service::HostRules,
};
use crate::netns::{
    Chains, Entry, Family, Jump, Link, LinkKind, Netns, Place, Route, RouteKind, Set, SetKind,
    Table,
};

/// The ends of veths.
impl Settings {
    pub(super) fn veth(&self, peer: &str, place: Place) -> Link {
        let kind = LinkKind::Veth {
            peer: peer.to_owned(),
            place,
        };
        Link {
            kind,
            mtu: Some(self.mtu),
            up: true,
        }
    }

    pub(super) fn veth_peer(&self) -> Link {
        Link {
            kind: LinkKind::VethPeer,
            mtu: Some(self.mtu),
            up: true,
        }
    }
}

pub(super) fn loopback() -> (String, Link) {
    (
        "lo".to_owned(),
        Link {
            kind: LinkKind::Loopback,
            mtu: None,
            up: true,
        },
    )
}

fn empty(kind: SetKind) -> Set {
    Set {
        kind,
        entries: OrdMap::new(),
    }
}

/// Sysctls that both balancing namespaces share. Some are per link as well,
/// because links take `default` only when they are made.
fn balancer_sysctls(links: &[&str], sides: &[Side]) -> OrdMap<String, String> {
    let mut all: OrdMap<String, String> = [
        ("net/ipv4/ip_forward", "1"),
        // a client gets a reset rather than silence from a destination that is gone
        ("net/ipv4/vs/expire_nodest_conn", "1"),
        ("net/ipv4/vs/expire_quiescent_template", "1"),
        ("net/ipv4/vs/conn_reuse_mode", "1"),
        // none of the rules there needs connection tracking, so the kernel does none
        ("net/ipv4/vs/conntrack", "0"),
        // no route depends on the source, and nothing is delivered to a socket here:
        // two look-ups a packet less
        ("net/ipv4/vs/snat_reroute", "0"),
        ("net/ipv4/ip_early_demux", "0"),
    ]
    .into_iter()
    .map(|(path, value)| (path.to_owned(), value.to_owned()))
    .collect();
    for link in ["all", "default"].iter().chain(links) {
        for what in ["rp_filter", "send_redirects"] {
            all.insert(format!("net/ipv4/conf/{link}/{what}"), "0".to_owned());
        }
    }
    if sides.iter().any(|side| side.family == Family::V6) {
        all.insert("net/ipv6/conf/all/forwarding".to_owned(), "1".to_owned());
    }
    all
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

/// Packets of TCP connections that are there, which IPVS finds without a mark: the first
/// rule of chains that are for new ones, since a look into a set is dear.
const GOES_ON: &str = "-p tcp -m tcp ! --tcp-flags SYN SYN -j ACCEPT";

/// TEE forbids fragmentation, also of what is a fragment already: this match (which
/// nothing here does) makes the kernel put them together before.
pub(super) const DEFRAGMENTED: &str = "-m socket -j DROP";

/// The chain for packets of a task that was balanced to itself.
const HAIRPIN: &str = "HAIRPIN";

const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

/// The three namespaces of a node.
pub(super) struct Frame<'a> {
    pub(super) state: &'a State,
    pub(super) node: &'a NodeId,
    pub(super) instance: &'a Instance,
    pub(super) settings: &'a Settings,
    pub(super) sides: &'a [Side],
}

/// Host addresses that somebody publishes on, with the numbers of their ingress
/// addresses; and the rules for ports that lead where another port does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Published {
    pub(super) addresses: BTreeSet<(std::net::IpAddr, u8)>,
    pub(super) numbers: BTreeSet<u8>,
    pub(super) aliases: Vec<(Family, String)>,
    pub(super) elsewhere: Elsewhere,
}

impl Published {
    /// Of all services.
    pub(super) fn of<'a>(rules: impl Iterator<Item = &'a HostRules>) -> Self {
        let mut all = Self::default();
        for rules in rules {
            all.addresses.extend(rules.addresses.iter().copied());
            all.numbers.extend(&rules.numbers);
            all.aliases.extend(rules.aliases.iter().cloned());
            all.elsewhere.extend(&rules.elsewhere);
        }
        all
    }

    /// The numbers of the ingress addresses of a family.
    fn numbers(&self, family: Family) -> impl Iterator<Item = u8> {
        let of_family = self.addresses.iter();
        let of_family = of_family.filter(move |(ip, _)| Family::from(*ip) == family);
        let mut numbers: BTreeSet<u8> = of_family.map(|(_, number)| *number).collect();
        numbers.extend(&self.numbers);
        std::iter::once(ANY_INGRESS).chain(numbers)
    }
}

impl Frame<'_> {
    // === host ===

    pub(super) fn host(&self, published: &Published) -> Netns {
        let link = self.instance.host_link();
        let mut netns = Netns {
            links: OrdMap::from_iter([(link.clone(), self.settings.veth("up0", Place::Ingress))]),
            sysctls: OrdMap::from_iter([
                ("net/ipv4/ip_forward".to_owned(), "1".to_owned()),
                (
                    format!("net/ipv4/conf/{link}/route_localnet"),
                    "1".to_owned(),
                ),
                // clients of destinations that are not ours come back by it as they are, and
                // so does the host where it is masqueraded as one
                (format!("net/ipv4/conf/{link}/accept_local"), "1".to_owned()),
                (format!("net/ipv4/conf/{link}/rp_filter"), "2".to_owned()),
            ]),
            ..Netns::default()
        };
        for side in self.sides {
            self.host_side(side, &link, &mut netns);
        }
        self.publish(&mut netns, published);
        netns
    }

    fn host_side(&self, side: &Side, link: &str, netns: &mut Netns) {
        let (host, any) = (side.at.host(), side.at.ingress(ANY_INGRESS));
        let (tasks, vips) = (side.ranges.tasks, side.ranges.vips);
        let (chain, prefix) = (self.instance.chain_prefix(), self.instance.set_prefix());
        let jump = |from: &str, rule: String, first| Jump {
            chain: from.to_owned(),
            rule,
            first,
        };
        let local = format!("-m addrtype --dst-type LOCAL -j {chain}-INGRESS");
        let nat = Chains {
            own: BTreeMap::from([(
                format!("{chain}-SNAT"),
                vec![
                    // clients on loopback cannot be answered from another namespace
                    format!(
                        "-s {} -o {link} -j SNAT --to-source {host}",
                        side.loopback()
                    ),
                    // nor is a packet from oneself to oneself answered on the wire
                    format!(
                        "-s {tasks} -d {tasks} -o {link} -j SNAT --to-source {}",
                        side.at.hairpin()
                    ),
                    // nor may the router answer a task directly that came by a port
                    format!("-s {tasks} -o {link} -j SNAT --to-source {host}"),
                    // everyone else keeps their address, whatever rules follow
                    format!("-o {link} -j ACCEPT"),
                    format!("-s {tasks} ! -o {link} -j MASQUERADE"),
                ],
            )]),
            jumps: BTreeSet::from([
                jump("PREROUTING", local.clone(), false),
                jump("OUTPUT", local, false),
                jump("POSTROUTING", format!("-j {chain}-SNAT"), true),
            ]),
        };
        let internal = (
            format!("{prefix}-internal{}", side.suffix()),
            self.internal(side),
        );
        let filter = self.host_filter(side, link, &internal);
        for (table, chains) in [(Table::Nat, nat), (Table::Filter, filter)] {
            netns.tables.insert((side.family, table), chains);
        }

        netns.addresses.insert((link.to_owned(), IpNet::from(host)));
        netns
            .routes
            .insert(side.route(tasks, Some(any), link, None));
        netns.routes.insert(side.route(vips, Some(any), link, None));
        if side.family == Family::V6 {
            netns
                .sysctls
                .insert("net/ipv6/conf/all/forwarding".to_owned(), "1".to_owned());
            // a packet for ::1 is delivered only by a route of the very link that it
            // comes by (RT6_LOOKUP_F_IFACE): the answer to a client on ::1 does
            netns.routes.insert(Route {
                kind: RouteKind::Local,
                ..side.route(side.loopback(), None, link, None)
            });
        }
        for protocol in PROTOCOLS {
            let name = format!("{prefix}-{protocol}{}", side.suffix());
            // a bitmap of ports knows TCP and UDP only (ip_set_get_ip_port)
            let kind = match protocol {
                Protocol::Sctp => SetKind::HashNetPort(side.family),
                _ => SetKind::BitmapPort,
            };
            netns.sets.insert(name, empty(kind));
        }
        let name = format!("{prefix}-at{}", side.suffix());
        netns
            .sets
            .insert(name, empty(SetKind::HashIpPortMark(side.family)));
        netns.sets.extend([internal]);
    }

    /// What the host lets in and through by our link.
    fn host_filter(&self, side: &Side, link: &str, internal: &(String, Set)) -> Chains {
        let (chain, tasks) = (self.instance.chain_prefix(), side.ranges.tasks);
        let refuse = format!("-j REJECT --reject-with {}", side.unreachable());
        // their ports may be published, so answers go out: the host knows which are some
        let (set, networks) = internal;
        let closed = (!networks.entries.is_empty()).then(|| {
            format!(
                "-i {link} -m conntrack ! --ctstate RELATED,ESTABLISHED -m set --match-set {set} src {refuse}"
            )
        });
        // answers to loopback go there by our link; nothing else may come in that way
        let mut input = vec![format!(
            "-d {} -m conntrack --ctstate INVALID,NEW,UNTRACKED -j DROP",
            side.loopback()
        )];
        input.extend(closed.clone());
        // one that was balanced to itself comes by here
        let closed = closed.map(|rule| format!("! -d {tasks} {rule}"));
        let mut forward: Vec<_> = closed.into_iter().collect();
        forward.extend([
            format!("-i {link} -j ACCEPT"),
            // a neighbour that routes our pools through this host gets nowhere
            format!("-o {link} -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT"),
            format!("-o {link} {refuse}"),
        ]);
        let jump = |from: &str, rule: String| Jump {
            chain: from.to_owned(),
            rule,
            first: true,
        };
        Chains {
            own: BTreeMap::from([
                (format!("{chain}-IN"), input),
                (format!("{chain}-FWD"), forward),
            ]),
            jumps: BTreeSet::from([
                jump("FORWARD", format!("-j {chain}-FWD")),
                jump("INPUT", format!("-i {link} -j {chain}-IN")),
            ]),
        }
    }

    /// Writes what published ports change in the host beside sets: routes and rules for
    /// host addresses, and rules for ports that lead where another one does.
    pub(super) fn publish(&self, netns: &mut Netns, published: &Published) {
        let link = self.instance.host_link();
        let (chain, prefix) = (self.instance.chain_prefix(), self.instance.set_prefix());
        for side in self.sides {
            let host = Some(side.at.host());
            for number in ANY_INGRESS..=254 {
                let to = IpNet::from(side.at.ingress(number));
                netns.routes.remove(&side.route(to, None, &link, host));
            }
            for number in published.numbers(side.family) {
                let to = IpNet::from(side.at.ingress(number));
                netns.routes.insert(side.route(to, None, &link, host));
            }
            let aliases = published.aliases.iter();
            let mut rules: Vec<String> = aliases
                .filter(|(family, _)| *family == side.family)
                .map(|(_, rule)| rule.clone())
                .collect();
            for (ip, number) in &published.addresses {
                if Family::from(*ip) == side.family {
                    rules.push(format!(
                        "-d {} -m set --match-set {prefix}-at{} dst,dst -j DNAT --to-destination {}",
                        IpNet::from(*ip),
                        side.suffix(),
                        side.at.ingress(*number)
                    ));
                }
            }
            // only the address: the ingress namespace tells ports apart
            for protocol in PROTOCOLS {
                let by = if protocol == Protocol::Sctp {
                    "dst,dst"
                } else {
                    "dst"
                };
                rules.push(format!(
                    "-p {protocol} -m set --match-set {prefix}-{protocol}{} {by} -j DNAT --to-destination {}",
                    side.suffix(),
                    side.at.ingress(ANY_INGRESS)
                ));
            }
            let nat = netns.tables.entry((side.family, Table::Nat)).or_default();
            nat.own.insert(format!("{chain}-INGRESS"), rules);
            elsewhere::write(netns, self.instance, side, &published.elsewhere);
        }
    }

    // === ingress ===

    pub(super) fn ingress(&self, published: &Published) -> Netns {
        let mut netns = Netns {
            links: OrdMap::from_iter([
                loopback(),
                ("up0".to_owned(), self.settings.veth_peer()),
                ("dn0".to_owned(), self.settings.veth("up0", Place::Router)),
            ]),
            sysctls: balancer_sysctls(&["up0", "dn0"], self.sides),
            ipvs_timeouts: Some(self.settings.timeouts),
            ..Netns::default()
        };
        for side in self.sides {
            let (host, any) = (side.at.host(), Some(side.at.ingress(ANY_INGRESS)));
            let (inner, outer) = (side.inner(), side.outer());
            netns
                .addresses
                .insert(("dn0".to_owned(), side.on_link(inner)));
            let mut routes = vec![
                side.route(IpNet::from(host), None, "up0", any),
                side.route(side.default_route(), Some(host), "up0", None),
                side.route(side.ranges.tasks, Some(outer), "dn0", any),
                side.route(side.ranges.vips, Some(outer), "dn0", any),
            ];
            if side.family == Family::V4 {
                // of link-local IPv6, the kernel has the route
                routes.push(side.route(IpNet::from(outer), None, "dn0", Some(inner)));
            }
            netns.routes.extend(routes);
            let name = format!("ports{}", side.suffix());
            let rule = format!(
                "-d {} -i up0 -j SET --map-set {name} dst,dst --map-mark",
                side.at.block
            );
            netns
                .sets
                .insert(name, empty(SetKind::HashIpPortMark(side.family)));
            // the router keeps none of these but those that the host shall see
            let hairpin = format!("-d {} -i dn0 -j {HAIRPIN}", side.ranges.tasks);
            let mut detour = side.detour(host, "up0");
            if side.family == Family::V4 {
                detour.insert(0, DEFRAGMENTED.to_owned());
            }
            let mangle = chains(&[
                // each of the first two is for what comes by another link
                (
                    "PREROUTING",
                    vec![format!("-i up0 {GOES_ON}"), hairpin, rule],
                ),
                (HAIRPIN, detour),
            ]);
            netns.tables.insert((side.family, Table::Mangle), mangle);
        }
        self.listen(&mut netns, published);
        netns
    }

    /// Writes the ingress namespace's addresses, one for each host address.
    pub(super) fn listen(&self, netns: &mut Netns, published: &Published) {
        let kept = netns.addresses.iter().filter(|(link, _)| link != "up0");
        let mut addresses: OrdSet<_> = kept.cloned().collect();
        for side in self.sides {
            elsewhere::write_ingress(netns, side, &published.elsewhere);
            for number in published.numbers(side.family) {
                let address = IpNet::from(side.at.ingress(number));
                addresses.insert(("up0".to_owned(), address));
            }
        }
        netns.addresses = addresses;
    }

    // === router ===

    pub(super) fn router(&self) -> Netns {
        let mut sysctls = balancer_sysctls(&["up0"], self.sides);
        // with VIPs as local routes the kernel would look up the source of each packet from
        // there (fib_validate_source), where it can be anybody's
        sysctls.insert("net/ipv4/conf/up0/accept_local".to_owned(), "1".to_owned());
        let mut netns = Netns {
            links: OrdMap::from_iter([loopback(), ("up0".to_owned(), self.settings.veth_peer())]),
            sysctls,
            ipvs_timeouts: Some(self.settings.timeouts),
            ..Netns::default()
        };
        for side in self.sides {
            self.router_side(side, &mut netns);
        }
        netns
    }

    fn router_side(&self, side: &Side, netns: &mut Netns) {
        let (tasks, vips) = (side.ranges.tasks, side.ranges.vips);
        let (inner, outer) = (side.inner(), side.outer());
        netns
            .addresses
            .insert(("up0".to_owned(), side.on_link(outer)));
        // the node's address on each network: gateway and DNS server of its tasks
        let leases = self.state.leases.values();
        let leases = leases.filter(|lease| lease.node == *self.node);
        for gateway in leases.flat_map(|lease| lease.gateways()) {
            if Family::from(gateway) == side.family {
                netns
                    .addresses
                    .insert(("lo".to_owned(), IpNet::from(gateway)));
            }
        }
        let mut routes = vec![
            side.route(side.default_route(), Some(inner), "up0", None),
            // every VIP is local at once; a task that is gone is "no route to host"
            Route {
                kind: RouteKind::Local,
                ..side.route(vips, None, "lo", None)
            },
            Route {
                to: tasks,
                kind: RouteKind::Unreachable,
                via: None,
                dev: None,
                src: None,
                metric: 1000,
            },
        ];
        if side.family == Family::V4 {
            routes.push(side.route(IpNet::from(inner), None, "up0", Some(outer)));
        }
        netns.routes.extend(routes);
        let [tcp, udp] = [Protocol::Tcp, Protocol::Udp].map(|protocol| side.vips(protocol));
        let same = format!("same{}", side.suffix());
        netns.sets.extend([
            (tcp.to_owned(), empty(SetKind::HashIpMark(side.family))),
            (udp.to_owned(), empty(SetKind::HashIpMark(side.family))),
            (same.clone(), self.same(side)),
        ]);

        // nothing here may look at connection tracking, which would begin for all packets
        let refuse = format!("-j REJECT --reject-with {}", side.unreachable());
        let filter = chains(&[
            (
                "INPUT",
                vec![
                    GOES_ON.to_owned(),
                    format!("-d {vips} -i t+ -m set ! --match-set {same} src,dst {refuse}"),
                    // where the host asks for names
                    format!("-d {} -j ACCEPT", IpNet::from(side.ranges.stub())),
                    // a VIP without a mark has no running task: refuse, whatever listens here
                    format!(
                        "-d {vips} -p tcp -m mark --mark 0x0 -j REJECT --reject-with tcp-reset"
                    ),
                    format!("-d {vips} -p udp -m mark --mark 0x0 {refuse}"),
                ],
            ),
            (
                "FORWARD",
                vec![format!(
                    "-i t+ -o t+ -m set ! --match-set {same} src,dst {refuse}"
                )],
            ),
        ]);
        let mark = |which: &str, set: &str| {
            format!("-d {vips} {which} -j SET --map-set {set} dst --map-mark")
        };
        let itself = format!(
            "-o t+ -m bpf --bytecode \"{}\" -j {HAIRPIN}",
            side.hairpin()
        );
        let mangle = chains(&[
            (
                "PREROUTING",
                vec![
                    GOES_ON.to_owned(),
                    mark("! -p udp", tcp),
                    mark("-p udp", udp),
                ],
            ),
            // the host's connection tracking puts another address in the place of its own
            ("OUTPUT", vec![itself]),
            (HAIRPIN, side.detour(inner, "up0")),
        ]);
        for (table, chains) in [(Table::Mangle, mangle), (Table::Filter, filter)] {
            netns.tables.insert((side.family, table), chains);
        }
        if side.family == Family::V6 {
            // what rp_filter is to IPv4: a task cannot use an address that is not its own
            let rule = "-i t+ -m rpfilter --invert -j DROP".to_owned();
            let raw = chains(&[("PREROUTING", vec![rule])]);
            netns.tables.insert((side.family, Table::Raw), raw);
        }
    }

    /// The networks' pools of a family.
    fn pools(&self, side: &Side) -> impl Iterator<Item = (&Network, &Pool)> {
        let family = side.family;
        let networks = self.state.networks.values();
        let pools = networks.flat_map(|network| network.pools.iter().map(move |p| (&**network, p)));
        pools.filter(move |(_, pool)| Family::from(pool.subnet.addr()) == family)
    }

    /// Which addresses may speak to which.
    fn same(&self, side: &Side) -> Set {
        let pairs = self.pools(side).flat_map(|(_, pool)| {
            let pair = |to| (Entry::NetNet(pool.subnet, to), None);
            [pair(pool.subnet), pair(pool.vips)]
        });
        Set {
            kind: SetKind::HashNetNet(side.family),
            entries: pairs.collect(),
        }
    }

    /// Which ones only among themselves.
    fn internal(&self, side: &Side) -> Set {
        let internal = self
            .pools(side)
            .filter(|(network, _)| network.spec.internal);
        Set {
            kind: SetKind::HashNet(side.family),
            entries: internal
                .map(|(_, pool)| (Entry::Net(pool.subnet), None))
                .collect(),
        }
    }
}

/// Whether two states have the same frame. Objects that were written anew as they were
/// do not count: services that are put on a network write it so.
pub(super) fn same_frame(one: &State, other: &State, node: &NodeId) -> bool {
    let pools = |state: &State| state.pools.as_ref().map(|pools| pools.value.clone());
    let me = |state: &State| state.nodes.get(node).map(|node| node.number);
    let mut networks = one.networks.diff(&other.networks);
    let mut leases = one.leases.diff(&other.leases).filter(|item| match item {
        DiffItem::Add(_, lease) | DiffItem::Remove(_, lease) => lease.node == *node,
        DiffItem::Update {
            new: (_, lease), ..
        } => lease.node == *node,
    });
    pools(one) == pools(other)
        && me(one) == me(other)
        && networks.all(|item| rewritten(&item))
        && leases.all(|item| rewritten(&item))
}

fn rewritten<K, T: PartialEq>(item: &DiffItem<'_, '_, K, Versioned<T>>) -> bool {
    matches!(item, DiffItem::Update { old, new } if old.1.value == new.1.value)
}
