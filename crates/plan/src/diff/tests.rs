//! Plans are carried out on a kernel in memory that is as strict as the real
//! one: what is not there cannot be changed, what is in use cannot go.

use std::net::IpAddr;

use ipnet::IpNet;
use model::{Mark, Protocol, TaskId};
use proptest::{collection, prelude::*, sample::subsequence};

use super::*;
use crate::netns::{
    Entry, Family, Jump, Scheduling, Set, SetKind, Table, Timeouts, VirtualService,
};

type World = Places;

fn task(n: u8) -> Place {
    Place::Task(TaskId::from_random([n; 16]))
}

/// The veth pairs that there can be: each end with its place.
fn pairs() -> [[(Place, &'static str); 2]; 4] {
    [
        [(Place::Host, "ivm0"), (Place::Ingress, "up0")],
        [(Place::Ingress, "dn0"), (Place::Router, "up0")],
        [(Place::Router, "t1"), (task(1), "eth0")],
        [(Place::Router, "t2"), (task(2), "eth0")],
    ]
}

/// The other end of a link. One that somebody renamed is called `moved` beside
/// its right name, so that a pair can still be told.
fn other_end(place: &Place, name: &str) -> Option<(Place, &'static str)> {
    let right = name.strip_prefix("moved-").unwrap_or(name);
    for [one, two] in pairs() {
        if (&one.0, one.1) == (place, right) {
            return Some(two);
        }
        if (&two.0, two.1) == (place, right) {
            return Some(one);
        }
    }
    None
}

fn keep<A: Ord + Clone>(set: &mut OrdSet<A>, mut keep: impl FnMut(&A) -> bool) {
    *set = set.iter().filter(|value| keep(value)).cloned().collect();
}

fn keep_keys<V: Clone>(map: &mut OrdMap<String, V>, keep: impl Fn(&String) -> bool) {
    for key in map.clone().keys().filter(|key| !keep(key)) {
        map.remove(key);
    }
}

fn each<K: Ord + Clone, V: Clone>(map: &mut OrdMap<K, V>, mut change: impl FnMut(&K, &mut V)) {
    for key in map.clone().keys() {
        change(key, map.get_mut(key).unwrap());
    }
}

// === the kernel ===

fn delete_end(world: &mut World, place: &Place, name: &str) {
    let Some(netns) = world.get_mut(place) else {
        return;
    };
    netns.links.remove(name);
    keep(&mut netns.addresses, |(link, _)| link != name);
    keep(&mut netns.routes, |r| r.dev.as_deref() != Some(name));
    keep_keys(&mut netns.sysctls, |path| link_of(path) != Some(name));
    if let Some(links) = &mut netns.flowtable {
        links.remove(name);
    }
}

fn uses(rule: &str, set: &str) -> bool {
    rule.split(' ').any(|word| word == set)
}

fn apply(world: &mut World, place: &Place, op: &Op) {
    let say = format!("{op:?} in {place:?}");
    if let Op::DelLink(name) = op {
        // its other end may have taken it away: no error
        if !world[place].links.contains_key(name) {
            return;
        }
        delete_end(world, place, name);
        if let Some((there, peer)) = other_end(place, name) {
            delete_end(world, &there, peer);
            delete_end(world, &there, &format!("moved-{peer}"));
        }
        return;
    }
    if let Op::AddLink(_, link) = op
        && let LinkKind::Veth { peer, place: there } = &link.kind
    {
        let end = Link {
            kind: LinkKind::VethPeer,
            mtu: Some(1500),
            up: false,
        };
        let before = world
            .entry(there.clone())
            .or_default()
            .links
            .insert(peer.clone(), end);
        assert!(before.is_none(), "{say}");
    }
    let netns = world.entry(place.clone()).or_default();
    let has_link = |netns: &Netns, link: &str| netns.links.get(link).is_some_and(|l| l.up);
    match op {
        Op::DelLink(_) => unreachable!(),
        Op::AddLink(name, link) => {
            let new = Link {
                kind: LinkKind::VethPeer,
                up: false,
                ..link.clone()
            };
            assert!(netns.links.insert(name.clone(), new).is_none(), "{say}");
        }
        Op::SetLink(name, link) => {
            let is = netns.links.get_mut(name).expect(&say);
            is.mtu = link.mtu.or(is.mtu);
            is.up = link.up;
            if !is.up {
                keep(&mut netns.routes, |r| r.dev.as_ref() != Some(name));
            }
        }
        Op::AddAddress(link, net) => {
            assert!(netns.links.contains_key(link), "{say}");
            let before = netns.addresses.insert((link.clone(), *net));
            assert!(before.is_none(), "{say}");
        }
        Op::DelAddress(link, net) => {
            let before = netns.addresses.remove(&(link.clone(), *net));
            assert!(before.is_some(), "{say}");
        }
        Op::AddRoute(route) => {
            if let Some(dev) = &route.dev {
                assert!(has_link(netns, dev), "{say}");
            }
            let alike = netns.routes.iter().find(|other| {
                (other.kind == RouteKind::Local, other.to, other.metric)
                    == (route.kind == RouteKind::Local, route.to, route.metric)
            });
            if let Some(alike) = alike.cloned() {
                netns.routes.remove(&alike);
            }
            netns.routes.insert(route.clone());
        }
        // that it is gone already is no error
        Op::DelRoute(route) => drop(netns.routes.remove(route)),
        Op::SetSysctl(path, value) => {
            if let Some(link) = link_of(path).filter(|link| !["all", "default"].contains(link)) {
                assert!(netns.links.contains_key(link), "{say}");
            }
            netns.sysctls.insert(path.clone(), value.clone());
        }
        Op::CreateSet(name, kind) => {
            let set = Set {
                kind: *kind,
                entries: OrdMap::new(),
            };
            assert!(netns.sets.insert(name.clone(), set).is_none(), "{say}");
        }
        Op::DestroySet(name) => {
            let mut rules = netns.tables.values().flat_map(|chains| {
                chains
                    .own
                    .values()
                    .flatten()
                    .chain(chains.jumps.iter().map(|jump| &jump.rule))
            });
            assert!(!rules.any(|rule| uses(rule, name)), "in use: {say}");
            assert!(netns.sets.remove(name).is_some(), "{say}");
        }
        Op::AddEntry(name, entry, mark) => {
            let set = netns.sets.get_mut(name).expect(&say);
            assert_eq!(set.kind, kind_of(entry), "{say}");
            set.entries.insert(*entry, *mark);
        }
        Op::DelEntry(name, entry) => {
            let set = netns.sets.get_mut(name).expect(&say);
            assert!(set.entries.remove(entry).is_some(), "{say}");
        }
        Op::Restore {
            family,
            table,
            set,
            gone,
            add,
            remove,
        } => {
            let rules = set.values().flatten().chain(add.iter().map(|j| &j.rule));
            for rule in rules {
                for word in rule.split(' ').filter(|word| word.starts_with("set-")) {
                    assert!(netns.sets.contains_key(word), "no such set: {say}");
                }
            }
            let chains = netns.tables.entry((*family, *table)).or_default();
            for jump in remove {
                assert!(chains.jumps.remove(jump), "{say}");
            }
            for jump in add {
                let seen = Jump {
                    first: false,
                    ..jump.clone()
                };
                assert!(chains.jumps.insert(seen), "{say}");
            }
            for chain in gone {
                assert!(chains.own.remove(chain).is_some(), "{say}");
            }
            chains.own.extend(set.clone());
        }
        Op::SetFlowtable(links) => {
            for link in links {
                assert!(netns.links.contains_key(link), "{say}");
            }
            netns.flowtable = Some(links.clone());
        }
        Op::DelFlowtable => assert!(netns.flowtable.take().is_some(), "{say}"),
        Op::SetTimeouts(timeouts) => netns.ipvs_timeouts = Some(*timeouts),
        Op::NewService(family, mark, scheduling) => {
            let new = VirtualService {
                scheduling: scheduling.clone(),
                destinations: BTreeMap::new(),
            };
            let before = netns.services.insert((*family, *mark), new);
            assert!(before.is_none(), "{say}");
        }
        Op::SetService(family, mark, scheduling) => {
            let is = netns.services.get_mut(&(*family, *mark)).expect(&say);
            is.scheduling = scheduling.clone();
        }
        Op::DelService(family, mark) => {
            assert!(netns.services.remove(&(*family, *mark)).is_some(), "{say}");
        }
        Op::NewDestination(family, mark, at, destination) => {
            let service = netns.services.get_mut(&(*family, *mark)).expect(&say);
            let before = service.destinations.insert(*at, *destination);
            assert!(before.is_none(), "{say}");
        }
        Op::SetDestination(family, mark, at, destination) => {
            let service = netns.services.get_mut(&(*family, *mark)).expect(&say);
            *service.destinations.get_mut(at).expect(&say) = *destination;
        }
        Op::DelDestination(family, mark, at) => {
            let service = netns.services.get_mut(&(*family, *mark)).expect(&say);
            assert!(service.destinations.remove(at).is_some(), "{say}");
        }
    }
}

/// The world in which a plan is carried out: namespaces that could not be seen
/// are there by then, new.
fn ready(observed: &World, wanted: &World) -> World {
    let mut world = observed.clone();
    for place in wanted.keys() {
        world.entry(place.clone()).or_insert_with(|| {
            let lo = Link {
                kind: LinkKind::Loopback,
                mtu: Some(65536),
                up: false,
            };
            Netns {
                links: OrdMap::unit("lo".to_owned(), lo),
                ..Netns::default()
            }
        });
    }
    world
}

/// What counts of the wanted places: nothing that is written in two ways.
fn plain(world: &World, wanted: &World) -> World {
    let empty = Netns::default();
    let plain = |(place, shall): (&Place, &Netns)| {
        let mut is = world.get(place).unwrap_or(&empty).clone();
        each(&mut is.links, |name, link| {
            if !is_loopback(link) {
                link.kind = LinkKind::VethPeer;
            }
            if shall.links.get(name).is_none_or(|link| link.mtu.is_none()) {
                link.mtu = None;
            }
        });
        keep_keys(&mut is.sysctls, |path| shall.sysctls.contains_key(path));
        for chains in is.tables.values_mut() {
            let jump = |jump: &Jump| Jump {
                first: false,
                ..jump.clone()
            };
            chains.jumps = chains.jumps.iter().map(jump).collect();
        }
        is.tables.retain(|_, chains| *chains != Chains::default());
        is.ipvs_timeouts = is.ipvs_timeouts.filter(|_| shall.ipvs_timeouts.is_some());
        (place.clone(), is)
    };
    wanted.iter().map(plain).collect()
}

// === any state of it ===

fn kind_of(entry: &Entry) -> SetKind {
    match entry {
        Entry::Port(_) => SetKind::BitmapPort,
        Entry::Ip(_) => SetKind::HashIpMark(Family::V4),
        Entry::IpPort(..) => SetKind::HashIpPortMark(Family::V4),
        Entry::Net(_) => SetKind::HashNet(Family::V4),
        Entry::NetPort(..) => SetKind::HashNetPort(Family::V4),
        Entry::NetNet(..) => SetKind::HashNetNet(Family::V4),
    }
}

fn ip(last: u8) -> IpAddr {
    [10, 200, 0, last].into()
}

fn mark(n: u8) -> Mark {
    Mark::new(0x100 + u32::from(n)).unwrap()
}

fn scheduling(scheduler: &'static str) -> Scheduling {
    Scheduling {
        scheduler: scheduler.into(),
        flags: 0,
        timeout: 0,
        netmask: 32,
    }
}

/// Services by mark; those with a 0 for weight only are there to drain.
fn services() -> impl Strategy<Value = BTreeMap<(Family, Mark), VirtualService>> {
    let destination = (0..3u32).prop_map(|weight| Destination {
        weight,
        upper_threshold: 0,
        lower_threshold: 0,
    });
    let at = (1..4u8, prop_oneof![Just(0u16), Just(80)]).prop_map(|(n, port)| (ip(n), port));
    let service = (
        prop_oneof![Just("rr"), Just("wlc")],
        collection::btree_map(at, destination, 0..4),
    );
    let service = service.prop_map(|(scheduler, destinations)| VirtualService {
        scheduling: scheduling(scheduler),
        destinations,
    });
    collection::btree_map((0..4u8).prop_map(|n| (Family::V4, mark(n))), service, 0..4)
}

/// Sets whose entries have marks of services that take new connections.
fn sets_for(
    services: &BTreeMap<(Family, Mark), VirtualService>,
) -> BoxedStrategy<BTreeMap<String, Set>> {
    let marks: Vec<Mark> = services
        .iter()
        .filter(|(_, service)| service.destinations.values().any(|d| d.weight > 0))
        .map(|((_, mark), _)| *mark)
        .collect();
    let port = (1..4u16).prop_map(Entry::Port);
    let net = (1..4u8).prop_map(|n| Entry::Net(IpNet::new_assert([10, n, 0, 0].into(), 16)));
    let unmarked =
        |entry: BoxedStrategy<Entry>| collection::btree_map(entry, Just(None), 0..4).boxed();
    let set = prop_oneof![
        unmarked(port.boxed()).prop_map(|entries| (SetKind::BitmapPort, entries)),
        unmarked(net.boxed()).prop_map(|entries| (SetKind::HashNet(Family::V4), entries)),
        if marks.is_empty() {
            Just(BTreeMap::new()).boxed()
        } else {
            let entry = (1..4u8).prop_map(|n| Entry::Ip(ip(n)));
            let mark = proptest::sample::select(marks.clone()).prop_map(Some);
            collection::btree_map(entry, mark, 0..4).boxed()
        }
        .prop_map(|entries| (SetKind::HashIpMark(Family::V4), entries)),
        if marks.is_empty() {
            Just(BTreeMap::new()).boxed()
        } else {
            let entry = (1..4u16).prop_map(|n| Entry::IpPort(ip(1), Protocol::Tcp, n));
            let mark = proptest::sample::select(marks).prop_map(Some);
            collection::btree_map(entry, mark, 0..4).boxed()
        }
        .prop_map(|entries| (SetKind::HashIpPortMark(Family::V4), entries)),
    ];
    let set = set.prop_map(|(kind, entries)| Set {
        kind,
        entries: entries.into(),
    });
    let name = (0..3u8).prop_map(|n| format!("set-{n}"));
    collection::btree_map(name, set, 0..4).boxed()
}

/// Rules that use the sets there are.
fn tables_for(
    sets: &BTreeMap<String, Set>,
    host: bool,
) -> BoxedStrategy<BTreeMap<(Family, Table), Chains>> {
    let mut rules = vec!["-j ACCEPT".to_owned(), "-i t+ -j DROP".to_owned()];
    rules.extend(
        sets.keys()
            .map(|name| format!("-m set --match-set {name} dst -j DROP")),
    );
    let chain = subsequence(rules.clone(), 1..=rules.len()).prop_shuffle();
    let name = prop_oneof![Just("INPUT".to_owned()), Just("OURS".to_owned())];
    let jump =
        (prop_oneof![Just("FORWARD"), Just("INPUT")], 0..2usize).prop_map(|(chain, n)| Jump {
            chain: chain.to_owned(),
            rule: format!("-j OURS{n}"),
            first: false,
        });
    let jumps = collection::btree_set(jump, 0..if host { 3 } else { 1 });
    let chains = (collection::btree_map(name, chain, 0..3), jumps)
        .prop_map(|(own, jumps)| Chains { own, jumps });
    let table = prop_oneof![
        Just((Family::V4, Table::Mangle)),
        Just((Family::V4, Table::Filter)),
        Just((Family::V6, Table::Filter)),
    ];
    collection::btree_map(table, chains, 0..3).boxed()
}

/// All but links and what is on them.
fn inside(host: bool) -> impl Strategy<Value = Netns> {
    services()
        .prop_flat_map(|services| (sets_for(&services), Just(services)))
        .prop_flat_map(move |(sets, services)| {
            let timeouts = proptest::option::of((1..3u32).prop_map(|n| Timeouts {
                tcp: n,
                tcp_fin: 2,
                udp: 3,
            }));
            (
                tables_for(&sets, host),
                timeouts,
                Just(sets),
                Just(services),
            )
        })
        .prop_map(|(tables, ipvs_timeouts, sets, services)| Netns {
            tables,
            ipvs_timeouts,
            sets: sets.into(),
            services: services.into(),
            ..Netns::default()
        })
}

fn link(up: bool, mtu: u32, kind: LinkKind) -> Link {
    Link {
        kind,
        mtu: Some(mtu),
        up,
    }
}

/// What is on a link that is up, at most: bits choose.
fn dress(netns: &mut Netns, name: &str, bits: u16) {
    let on = |bit: u16| bits & (1 << bit) != 0;
    let net = |n: u8, len| IpNet::new_assert([10, n, 0, 0].into(), len);
    if on(0) {
        let address = IpNet::new_assert([10, 0, 0, 1 + u8::from(on(1))].into(), 24);
        netns.addresses.insert((name.to_owned(), address));
    }
    let up = netns.links[name].up;
    let mut route = |to, kind, via: bool, metric| {
        netns.routes.insert(Route {
            to,
            kind,
            via: via.then(|| ip(9)),
            dev: Some(name.to_owned()),
            src: on(2).then(|| ip(8)),
            metric,
        });
    };
    if up {
        if on(3) {
            route(net(1, 16), RouteKind::Unicast, on(4), 0);
        }
        if on(5) {
            route(net(1, 16), RouteKind::Local, false, 0);
        }
        if on(6) {
            route(net(1, 16), RouteKind::Unicast, false, 7);
        }
        if on(7) {
            route(
                net(2, 8 + u8::from(on(8)) * 8),
                RouteKind::Unicast,
                false,
                0,
            );
        }
    }
    if on(9) {
        let value = u8::from(on(10)).to_string();
        let path = format!("net/ipv4/conf/{name}/rp_filter");
        netns.sysctls.insert(path, value);
    }
    if on(11) {
        let links = netns.flowtable.get_or_insert_default();
        links.insert(name.to_owned());
    }
}

/// How a pair is found: in order, absent, down, or with one end renamed.
#[derive(Clone, Copy, Debug)]
enum Found {
    Absent,
    Whole { up: bool, mtu: u32 },
    OuterMoved,
    InnerMoved,
}

fn places() -> Vec<Place> {
    vec![Place::Host, Place::Ingress, Place::Router, task(1), task(2)]
}

fn insides() -> impl Strategy<Value = World> {
    let one = |place: Place| {
        let host = place == Place::Host;
        let sysctl = proptest::option::of(0..2u8);
        (inside(host), sysctl).prop_map(move |(mut netns, sysctl)| {
            if let Some(value) = sysctl {
                netns
                    .sysctls
                    .insert("net/ipv4/conf/all/rp_filter".to_owned(), value.to_string());
            }
            if !host {
                let lo = Link {
                    kind: LinkKind::Loopback,
                    mtu: Some(65536),
                    up: sysctl.is_some(),
                };
                netns.links.insert("lo".to_owned(), lo);
            }
            (place.clone(), netns)
        })
    };
    places()
        .into_iter()
        .map(one)
        .collect::<Vec<_>>()
        .prop_map(|all| all.into_iter().collect())
}

fn observed() -> impl Strategy<Value = World> {
    let found = prop_oneof![
        2 => Just(Found::Absent),
        4 => (any::<bool>(), 1499..1501u32).prop_map(|(up, mtu)| Found::Whole { up, mtu }),
        1 => Just(Found::OuterMoved),
        1 => Just(Found::InnerMoved),
    ];
    (
        insides(),
        collection::vec((found, any::<u16>(), any::<u16>()), 4),
        any::<bool>(),
    )
        .prop_map(|(mut world, found, second)| {
            for ([outer, inner], (found, on_outer, on_inner)) in pairs().into_iter().zip(found) {
                let (up, mtu, names) = match found {
                    Found::Absent => continue,
                    Found::Whole { up, mtu } => (up, mtu, [outer.1.to_owned(), inner.1.to_owned()]),
                    Found::OuterMoved => (
                        true,
                        1500,
                        [format!("moved-{}", outer.1), inner.1.to_owned()],
                    ),
                    Found::InnerMoved => (
                        true,
                        1500,
                        [outer.1.to_owned(), format!("moved-{}", inner.1)],
                    ),
                };
                let ends = [(outer.0, on_outer), (inner.0, on_inner)];
                for ((place, bits), name) in ends.into_iter().zip(names) {
                    let netns = world.get_mut(&place).unwrap();
                    netns
                        .links
                        .insert(name.clone(), link(up, mtu, LinkKind::VethPeer));
                    // in the host only what leaves by our link is looked at
                    if place == Place::Host && name != "ivm0" {
                        netns.links.remove(&name);
                        continue;
                    }
                    dress(netns, &name, bits);
                }
            }
            if !second {
                // a task whose namespace is not there
                world.remove(&task(2));
                for name in ["t2", "moved-t2"] {
                    delete_end(&mut world, &Place::Router, name);
                }
            }
            world
        })
}

fn wanted() -> impl Strategy<Value = World> {
    (
        insides(),
        collection::vec((any::<bool>(), any::<u16>(), any::<u16>()), 4),
    )
        .prop_map(|(mut world, pairs_wanted)| {
            each(&mut world, |_, netns| {
                each(&mut netns.links, |_, lo| (lo.up, lo.mtu) = (true, None));
                let host = !netns.links.contains_key("lo");
                for chains in netns.tables.values_mut().filter(|_| host) {
                    chains.jumps = chains
                        .jumps
                        .iter()
                        .map(|jump| Jump {
                            first: true,
                            ..jump.clone()
                        })
                        .collect();
                }
            });
            for ([outer, inner], (there, on_outer, on_inner)) in
                pairs().into_iter().zip(pairs_wanted)
            {
                if !there {
                    continue;
                }
                let kind = LinkKind::Veth {
                    peer: inner.1.to_owned(),
                    place: inner.0.clone(),
                };
                let ends = [
                    (outer.0, outer.1, kind, on_outer),
                    (inner.0, inner.1, LinkKind::VethPeer, on_inner),
                ];
                for (place, name, kind, bits) in ends {
                    let netns = world.get_mut(&place).unwrap();
                    netns.links.insert(name.to_owned(), link(true, 1500, kind));
                    dress(netns, name, bits);
                }
            }
            each(&mut world, |_, netns| {
                // of one table, destination and metric one route is wanted
                let mut seen = BTreeSet::new();
                keep(&mut netns.routes, |r| {
                    seen.insert((r.kind == RouteKind::Local, r.to, r.metric))
                });
            });
            world
        })
}

/// So many of everything that maps have several nodes to share.
fn crowd(netns: &mut Netns, many: u16) {
    for n in 0..many {
        for what in 0..5 {
            put_one(netns, what, n, true);
        }
    }
}

/// Puts the `n`th thing of one kind, in one of two ways.
fn put_one(netns: &mut Netns, what: u8, n: u16, one: bool) {
    let [high, low] = n.to_be_bytes();
    let address = IpAddr::from([10, 100, high, low]);
    let weight = u32::from(one);
    match what {
        0 => {
            let destination = Destination {
                weight,
                upper_threshold: 0,
                lower_threshold: 0,
            };
            let mark = Mark::new(0x1000 + u32::from(n)).unwrap();
            let service = netns.services.entry((Family::V4, mark));
            let service = service.or_insert_with(|| VirtualService {
                scheduling: scheduling("rr"),
                destinations: BTreeMap::from([((ip(1), 0), destination)]),
            });
            service.destinations.insert((address, 0), destination);
        }
        1 => {
            let set = netns.sets.entry("many".to_owned()).or_insert_with(|| Set {
                kind: SetKind::HashIpMark(Family::V4),
                entries: OrdMap::new(),
            });
            set.entries
                .insert(Entry::Ip(address), Mark::new(1 + weight));
        }
        2 => {
            netns.routes.insert(Route {
                to: address.into(),
                kind: RouteKind::Unicast,
                via: None,
                dev: Some(format!("t{}", n % 3)),
                src: one.then_some(address),
                metric: 0,
            });
        }
        3 => {
            netns
                .addresses
                .insert((format!("t{}", n % 3), address.into()));
        }
        _ => {
            let path = format!("net/ipv4/conf/t{}/{n}", n % 3);
            netns.sysctls.insert(path, weight.to_string());
        }
    }
}

/// A change of one thing: which kind, which one, and how (0 takes it away).
fn edit() -> impl Strategy<Value = (u8, u16, u8)> {
    (0..7u8, 0..220u16, 0..3u8)
}

fn change(world: &mut World, (what, n, how): (u8, u16, u8)) {
    if what == 6 {
        let [outer, _] = &pairs()[usize::from(n) % 4];
        let inner = other_end(&outer.0, outer.1).unwrap();
        let (place, name) = if how == 0 { outer.clone() } else { inner };
        delete_end(world, &place, name);
        return;
    }
    let netns = world.get_mut(&Place::Router).unwrap();
    if how > 0 || what == 5 {
        put_one(netns, what, n, how == 1);
        return;
    }
    let nth = usize::from(n);
    match what {
        0 => netns.services = without_nth(&netns.services, nth),
        1 => each(&mut netns.sets, |_, set| {
            set.entries = without_nth(&set.entries, nth);
        }),
        2 => {
            let route = netns.routes.iter().nth(nth).cloned();
            route.map(|route| netns.routes.remove(&route));
        }
        3 => {
            let address = netns.addresses.iter().nth(nth).cloned();
            address.map(|address| netns.addresses.remove(&address));
        }
        _ => netns.sysctls = without_nth(&netns.sysctls, nth),
    }
}

fn without_nth<K: Ord + Clone, V: Clone>(map: &OrdMap<K, V>, n: usize) -> OrdMap<K, V> {
    let key = map.keys().nth(n);
    key.map_or_else(|| map.clone(), |key| map.without(key))
}

/// The same, sharing nothing with it.
fn unshared(world: &World) -> World {
    fn map<K: Ord + Clone, V: Clone>(map: &OrdMap<K, V>) -> OrdMap<K, V> {
        map.iter().map(|(k, v)| (k.clone(), v.clone())).collect()
    }
    let mut world = map(world);
    each(&mut world, |_, netns| {
        netns.links = map(&netns.links);
        netns.addresses = netns.addresses.iter().cloned().collect();
        netns.routes = netns.routes.iter().cloned().collect();
        netns.sysctls = map(&netns.sysctls);
        netns.sets = map(&netns.sets);
        each(&mut netns.sets, |_, set| set.entries = map(&set.entries));
        netns.services = map(&netns.services);
    });
    world
}

/// Each mark that a set gives leads to a service that takes new connections.
fn marks_lead_somewhere(world: &World) -> Result<(), String> {
    for (place, netns) in world {
        for (name, set) in &netns.sets {
            for (entry, mark) in &set.entries {
                let Some(mark) = mark else { continue };
                let service = netns.services.get(&(Family::V4, *mark));
                let takes =
                    |service: &VirtualService| service.destinations.values().any(|d| d.weight > 0);
                if !service.is_some_and(takes) {
                    return Err(format!("{entry:?} of {name} in {place:?}"));
                }
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    /// Each write can be made when its turn comes, all of them make what is
    /// wanted, and a second plan has none.
    #[test]
    fn writes_turn_what_is_into_what_shall_be(observed in observed(), wanted in wanted()) {
        let mut world = ready(&observed, &wanted);
        for (place, op) in plan_writes(&observed, &wanted) {
            apply(&mut world, &place, &op);
        }
        prop_assert_eq!(plain(&world, &wanted), plain(&wanted, &wanted));
        prop_assert_eq!(plan_writes(&world, &wanted), []);
    }

    #[test]
    fn what_is_right_is_not_written(wanted in wanted()) {
        prop_assert_eq!(plan_writes(&wanted, &wanted), []);
        // nor what nobody asks for
        prop_assert_eq!(plan_writes(&wanted, &World::new()), []);
    }

    /// What two values share is not looked at, and it makes no difference.
    #[test]
    fn what_is_shared_makes_no_difference(
        mut wanted in wanted(),
        many in 0..200u16,
        edits in collection::vec(edit(), 0..12),
    ) {
        crowd(wanted.get_mut(&Place::Router).unwrap(), many);
        let mut changed = wanted.clone();
        for edit in edits {
            change(&mut changed, edit);
        }
        for (one, other) in [(&wanted, &changed), (&changed, &wanted)] {
            let ops = plan_writes(one, other);
            prop_assert_eq!(&ops, &plan_writes(&unshared(one), other));
            prop_assert_eq!(&ops, &plan_writes(one, &unshared(other)));
        }
    }

    /// At no moment a packet is marked for a service that would not take it.
    #[test]
    fn no_mark_is_given_without_a_service_for_it(observed in observed(), wanted in wanted()) {
        let mut world = ready(&observed, &wanted);
        marks_lead_somewhere(&world).unwrap();
        for (place, op) in plan_writes(&observed, &wanted) {
            apply(&mut world, &place, &op);
            if let Err(lost) = marks_lead_somewhere(&world) {
                prop_assert!(false, "{} after {:?}", lost, op);
            }
        }
    }

    /// Paths open from the inside and close from the outside.
    #[test]
    fn doors_open_last_and_close_first(observed in observed(), wanted in wanted()) {
        let depth = |place: &Place| places().iter().position(|p| p == place).unwrap().min(3);
        let ops = plan_writes(&observed, &wanted);
        for (at, (place, op)) in ops.iter().enumerate() {
            let later = || ops[at + 1..].iter();
            match op {
                Op::AddEntry(..) => {
                    for (there, other) in later() {
                        let opens = matches!(other, Op::AddEntry(..) | Op::CreateSet(..));
                        prop_assert!(!opens || depth(there) <= depth(place), "{:?} after {:?}", other, op);
                        let makes = matches!(
                            other,
                            Op::AddLink(..) | Op::AddAddress(..) | Op::AddRoute(_) | Op::NewService(..) | Op::NewDestination(..)
                        );
                        prop_assert!(!makes, "{:?} after {:?}", other, op);
                    }
                }
                Op::DelEntry(..) => for (there, other) in later() {
                    let closes = matches!(other, Op::DelEntry(..));
                    prop_assert!(!closes || depth(there) >= depth(place), "{:?} after {:?}", other, op);
                },
                Op::DelService(..) | Op::DelDestination(..) => {
                    prop_assert!(!later().any(|(_, other)| matches!(other, Op::DelEntry(..))));
                }
                _ => {}
            }
        }
    }
}

// === what each of these is about ===

fn only(place: Place, netns: Netns) -> World {
    World::unit(place, netns)
}

fn route(to: &str, kind: RouteKind, via: Option<u8>) -> Route {
    Route {
        to: to.parse().unwrap(),
        kind,
        via: via.map(ip),
        dev: Some("lo".to_owned()),
        src: None,
        metric: 0,
    }
}

fn routed(routes: impl IntoIterator<Item = Route>) -> World {
    let lo = Link {
        kind: LinkKind::Loopback,
        mtu: None,
        up: true,
    };
    only(
        Place::Router,
        Netns {
            links: OrdMap::unit("lo".to_owned(), lo),
            routes: routes.into_iter().collect(),
            ..Netns::default()
        },
    )
}

fn ops(observed: &World, wanted: &World) -> Vec<Op> {
    let ops = plan_writes(observed, wanted).into_iter();
    ops.map(|(_, op)| op).collect()
}

#[test]
fn a_route_of_another_table_is_not_replaced_by_its_namesake() {
    let local = route("10.200.0.0/14", RouteKind::Local, None);
    let stray = route("10.200.0.0/14", RouteKind::Unicast, None);
    assert_eq!(
        ops(&routed([stray.clone()]), &routed([local.clone()])),
        [Op::AddRoute(local), Op::DelRoute(stray)]
    );
}

#[test]
fn a_changed_route_is_replaced_and_a_doubled_one_deleted() {
    let [one, two, three] = [1, 2, 3].map(|n| route("10.0.0.0/8", RouteKind::Unicast, Some(n)));
    assert_eq!(
        ops(&routed([one.clone()]), &routed([two.clone()])),
        [Op::AddRoute(two.clone())]
    );
    assert_eq!(
        ops(&routed([one.clone(), two.clone()]), &routed([two.clone()])),
        [Op::DelRoute(one.clone())]
    );
    assert_eq!(
        ops(
            &routed([one.clone(), two.clone()]),
            &routed([three.clone()])
        ),
        [Op::AddRoute(three), Op::DelRoute(one), Op::DelRoute(two)]
    );
}

#[test]
fn a_set_of_another_kind_is_made_anew_between_its_rules() {
    let netns = |kind, rule: &str| Netns {
        sets: OrdMap::from_iter([(
            "ports".to_owned(),
            Set {
                kind,
                entries: OrdMap::new(),
            },
        )]),
        tables: BTreeMap::from([(
            (Family::V4, Table::Mangle),
            Chains {
                own: BTreeMap::from([("PREROUTING".to_owned(), vec![rule.to_owned()])]),
                jumps: BTreeSet::new(),
            },
        )]),
        ..Netns::default()
    };
    let rule = "-m set --match-set ports dst -j DROP";
    let before = only(Place::Ingress, netns(SetKind::BitmapPort, rule));
    let after = only(Place::Ingress, netns(SetKind::HashNet(Family::V4), rule));
    let [
        Op::Restore { set: first, .. },
        Op::DestroySet(gone),
        Op::CreateSet(made, _),
        Op::Restore { set: last, .. },
    ] = &ops(&before, &after)[..]
    else {
        panic!("{:?}", ops(&before, &after))
    };
    assert_eq!((gone, made), (made, gone));
    assert_eq!(first["PREROUTING"], [""; 0]);
    assert_eq!(last["PREROUTING"], [rule]);
}

#[test]
fn a_pair_with_an_end_that_was_renamed_is_made_anew_with_all_that_is_on_it() {
    let end = |kind| link(true, 1500, kind);
    let veth = LinkKind::Veth {
        peer: "eth0".to_owned(),
        place: task(1),
    };
    let address: IpNet = "10.100.0.2/32".parse().unwrap();
    let inner = |name: &str| Netns {
        links: OrdMap::from_iter([(name.to_owned(), end(LinkKind::VethPeer))]),
        addresses: OrdSet::from_iter([(name.to_owned(), address)]),
        ..Netns::default()
    };
    let outer = Netns {
        links: OrdMap::from_iter([("t1".to_owned(), end(veth))]),
        sysctls: OrdMap::from_iter([("net/ipv4/conf/t1/rp_filter".to_owned(), "1".to_owned())]),
        ..Netns::default()
    };
    let wanted = World::from_iter([(Place::Router, outer.clone()), (task(1), inner("eth0"))]);
    let mut observed = wanted.clone();
    observed.insert(task(1), inner("moved-eth0"));
    let planned = ops(&observed, &wanted);
    let words: Vec<_> = planned
        .iter()
        .map(|op| format!("{op:?}").split('(').next().unwrap().to_owned())
        .collect();
    assert_eq!(
        words,
        [
            "DelLink",
            "DelLink",
            "AddLink",
            "SetLink",
            "SetLink",
            "SetSysctl",
            "AddAddress"
        ]
    );
}

#[test]
fn a_task_that_drains_waits_for_the_one_that_takes_its_place() {
    let destination = |weight| Destination {
        weight,
        upper_threshold: 0,
        lower_threshold: 0,
    };
    let service = |weights: &[(u8, u32)]| VirtualService {
        scheduling: scheduling("rr"),
        destinations: weights
            .iter()
            .map(|(n, weight)| ((ip(*n), 0), destination(*weight)))
            .collect(),
    };
    let netns = |weights: &[(u8, u32)]| {
        let services = OrdMap::from_iter([((Family::V4, mark(1)), service(weights))]);
        only(
            Place::Router,
            Netns {
                services,
                ..Netns::default()
            },
        )
    };
    let planned = ops(&netns(&[(1, 1), (2, 0)]), &netns(&[(1, 0), (3, 1)]));
    let at = |n| (ip(n), 0);
    assert_eq!(
        planned,
        [
            Op::NewDestination(Family::V4, mark(1), at(3), destination(1)),
            Op::SetDestination(Family::V4, mark(1), at(1), destination(0)),
            Op::DelDestination(Family::V4, mark(1), at(2)),
        ]
    );
}

#[test]
fn a_jump_is_not_moved_once_it_is_there() {
    let jump = |first| Jump {
        chain: "FORWARD".to_owned(),
        rule: "-j OURS".to_owned(),
        first,
    };
    let netns = |first| {
        let chains = Chains {
            own: BTreeMap::from([("OURS".to_owned(), Vec::new())]),
            jumps: BTreeSet::from([jump(first)]),
        };
        only(
            Place::Host,
            Netns {
                tables: BTreeMap::from([((Family::V4, Table::Filter), chains)]),
                ..Netns::default()
            },
        )
    };
    assert_eq!(ops(&netns(false), &netns(true)), []);
    let nothing = only(Place::Host, Netns::default());
    let [Op::Restore { add, .. }] = &ops(&nothing, &netns(true))[..] else {
        panic!("one restore")
    };
    assert_eq!(*add, BTreeSet::from([jump(true)]));
}

#[test]
fn a_flowtable_that_is_not_as_wanted_is_made_anew_or_goes() {
    let netns = |links: Option<&[&str]>| {
        let flowtable = links.map(|links| links.iter().map(|l| (*l).to_owned()).collect());
        only(
            Place::Host,
            Netns {
                flowtable,
                ..Netns::default()
            },
        )
    };
    let both: OrdSet<String> = ["eth0".to_owned(), "ivm0".to_owned()].into_iter().collect();
    let wanted = netns(Some(&["ivm0", "eth0"]));
    assert_eq!(ops(&wanted, &wanted), []);
    for seen in [None, Some(&[][..]), Some(&["ivm0"][..])] {
        let made = [Op::SetFlowtable(both.clone())];
        assert_eq!(ops(&netns(seen), &wanted), made, "{seen:?}");
    }
    // others' changes do not keep it from going
    assert_eq!(ops(&netns(Some(&[])), &netns(None)), [Op::DelFlowtable]);
}
