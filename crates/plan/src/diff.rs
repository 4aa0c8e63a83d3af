//! The difference between what namespaces hold and what they shall hold.

use std::collections::{BTreeMap, BTreeSet};

use imbl::{
    OrdMap,
    ordmap::DiffItem,
    ordset::{self, OrdSet},
};
use ipnet::{IpNet, Ipv4Net};

use crate::netns::{
    Chains, Destination, Link, LinkKind, Netns, Op, Place, Places, Route, RouteKind,
};

/// The writes that turn `observed` into `wanted`, in an order in which each can
/// be made and traffic never meets a half-made path: links, addresses, routes,
/// rules, IPVS, then the set entries that send packets there; taking away runs
/// the other way. Places that are only in `observed` are left alone: whoever
/// deletes a namespace deletes all that is in it.
///
/// What the two share is not looked at: a plan from a value to a changed clone of
/// it costs as much as the changes. Nothing differs: an empty list.
pub fn plan_writes(observed: &Places, wanted: &Places) -> Vec<(Place, Op)> {
    let mut plan = Plan { ops: Vec::new() };
    let gone = links_to_delete(observed, wanted);
    for &(place, name) in &gone {
        plan.add(place, Phase::LinkGone, Op::DelLink(name.to_owned()));
    }
    let left = without_links(observed, wanted, &gone);
    let nothing = Netns::default();
    for item in left.diff(wanted) {
        let (place, observed, wanted) = match item {
            DiffItem::Add(place, wanted) => (place, &nothing, wanted),
            DiffItem::Update { old, new } => (new.0, old.1, new.1),
            DiffItem::Remove(..) => continue,
        };
        let mut add = |phase, op| plan.add(place, phase, op);
        let observed = &replaced_sets(observed, wanted, &mut add);
        links(observed, wanted, &mut add);
        sysctls(observed, wanted, &mut add);
        addresses(observed, wanted, &mut add);
        routes(observed, wanted, &mut add);
        tables(observed, wanted, &mut add);
        flowtable(observed, wanted, &mut add);
        ipvs(observed, wanted, &mut add);
        sets(observed, wanted, &mut add);
    }
    // stable: within a phase and a place the order above is kept. It nearly is the one
    // that is wanted, so that little is moved
    plan.ops
        .sort_by_key(|(phase, place, _)| (*phase, rank(place, *phase)));
    let ops = plan.ops.into_iter();
    ops.map(|(_, place, op)| (place, op)).collect()
}

struct Plan {
    ops: Vec<(Phase, Place, Op)>,
}

impl Plan {
    fn add(&mut self, place: &Place, phase: Phase, op: Op) {
        self.ops.push((phase, place.clone(), op));
    }
}

/// When an operation comes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    GlobalSysctl,
    LinkGone,
    Link,
    LinkSysctl,
    Address,
    Route,
    /// A set is of another kind: rules that use it must let it go first.
    RulesCleared,
    SetReplaced,
    SetMade,
    Rules,
    Balance,
    Entry,
    EntryGone,
    SetGone,
    BalanceGone,
}

/// Links are made from the host inwards, since each veth puts its other end one
/// place further in; paths are opened from the inside out and closed from the
/// outside in.
fn rank(place: &Place, phase: Phase) -> u8 {
    let from_host = match place {
        Place::Host => 0,
        Place::Ingress => 1,
        Place::Router => 2,
        Place::Task(_) => 3,
    };
    let opening = (Phase::LinkSysctl..=Phase::Entry).contains(&phase)
        && !matches!(phase, Phase::RulesCleared | Phase::SetReplaced);
    if opening { 3 - from_host } else { from_host }
}

fn is_loopback(link: &Link) -> bool {
    matches!(link.kind, LinkKind::Loopback)
}

/// How one map becomes another, by key.
struct Changes<'a, K, V> {
    /// What is only in the other or has another value there.
    put: Vec<(&'a K, &'a V)>,
    /// What is only in the one.
    gone: Vec<&'a K>,
}

fn changes<'a, K: Ord, V: PartialEq>(
    one: &'a OrdMap<K, V>,
    other: &'a OrdMap<K, V>,
) -> Changes<'a, K, V> {
    let (mut put, mut gone) = (Vec::new(), Vec::new());
    for item in one.diff(other) {
        match item {
            DiffItem::Add(key, value)
            | DiffItem::Update {
                new: (key, value), ..
            } => put.push((key, value)),
            DiffItem::Remove(key, _) => gone.push(key),
        }
    }
    Changes { put, gone }
}

/// In order, what is only in the second set, and what is only in the first.
fn set_changes<'a, A: Ord>(is: &'a OrdSet<A>, shall: &'a OrdSet<A>) -> (Vec<&'a A>, Vec<&'a A>) {
    let (mut missing, mut gone) = (Vec::new(), Vec::new());
    for item in is.diff(shall) {
        match item {
            ordset::DiffItem::Add(value) => missing.push(value),
            ordset::DiffItem::Remove(value) => gone.push(value),
        }
    }
    (missing, gone)
}

/// Links that are not wanted, and one end of each veth pair whose other end is
/// not where it belongs: somebody renamed or moved it, so the pair is made anew.
fn links_to_delete<'a>(observed: &'a Places, wanted: &'a Places) -> Vec<(&'a Place, &'a str)> {
    // by place: links that are not wanted, then veths of which an end is missing
    let mut unwanted = BTreeSet::new();
    let mut torn = BTreeSet::new();
    // the veths by their other ends, once one of these is missing
    let mut veths = None;
    for item in observed.diff(wanted) {
        let DiffItem::Update {
            old: (_, is),
            new: (place, shall),
        } = item
        else {
            // a namespace that cannot be seen says nothing
            continue;
        };
        for item in is.links.diff(&shall.links) {
            match item {
                DiffItem::Remove(name, link) if !is_loopback(link) => {
                    unwanted.insert((place, name.as_str()));
                }
                DiffItem::Add(name, link) => {
                    let veth = match link.kind {
                        LinkKind::Veth { .. } => Some((place, name.as_str())),
                        LinkKind::VethPeer => veths
                            .get_or_insert_with(|| by_other_end(wanted))
                            .get(&(place, name.as_str()))
                            .copied(),
                        LinkKind::Loopback => None,
                    };
                    torn.extend(veth);
                }
                DiffItem::Remove(..) | DiffItem::Update { .. } => {}
            }
        }
    }
    let left = torn.into_iter().filter_map(|(place, name)| {
        let (there, peer) = other_end(wanted, place, name)?;
        let is_there = |place, name| Some(observed.get(place)?.links.contains_key(name));
        match (is_there(place, name)?, is_there(there, peer)?) {
            (true, false) => Some((place, false, (place, name))),
            (false, true) => Some((place, false, (there, peer))),
            (true, true) | (false, false) => None,
        }
    });
    let unwanted = unwanted.into_iter().map(|link| (link.0, true, link));
    let mut found: Vec<_> = unwanted.chain(left).collect();
    found.sort_by_key(|(place, unwanted, _)| (*place, !unwanted));
    found.into_iter().map(|(_, _, link)| link).collect()
}

/// The veths that are wanted, by place and name of their other ends.
fn by_other_end(wanted: &Places) -> BTreeMap<(&Place, &str), (&Place, &str)> {
    let links = wanted
        .iter()
        .flat_map(|(place, netns)| netns.links.iter().map(move |link| (place, link)));
    links
        .filter_map(|(place, (name, link))| match &link.kind {
            LinkKind::Veth { peer, place: there } => Some(((there, &**peer), (place, &**name))),
            LinkKind::VethPeer | LinkKind::Loopback => None,
        })
        .collect()
}

/// Where the other end of a veth that is wanted here shall be.
fn other_end<'a>(wanted: &'a Places, place: &Place, name: &str) -> Option<(&'a Place, &'a str)> {
    match &wanted.get(place)?.links.get(name)?.kind {
        LinkKind::Veth { peer, place } => Some((place, peer)),
        LinkKind::VethPeer | LinkKind::Loopback => None,
    }
}

/// What is left once these links are deleted: with each goes all that is on it,
/// at both ends.
fn without_links(observed: &Places, wanted: &Places, gone: &[(&Place, &str)]) -> Places {
    let mut ends: BTreeMap<&Place, BTreeSet<&str>> = BTreeMap::new();
    for &(place, name) in gone {
        for (place, name) in [Some((place, name)), other_end(wanted, place, name)]
            .into_iter()
            .flatten()
        {
            ends.entry(place).or_default().insert(name);
        }
    }
    let mut left = observed.clone();
    for (place, names) in ends {
        let Some(netns) = left.get_mut(place) else {
            continue;
        };
        let on_them = |route: &&Route| route.dev.as_deref().is_some_and(|dev| names.contains(dev));
        let shall = wanted.get(place);
        let anew = |name: &&str| shall.is_some_and(|shall| shall.links.contains_key(*name));
        // routes are not in order of links. On one that is not wanted none is wanted
        // either, so that the difference has them all
        let routes: Vec<_> = match shall {
            Some(shall) if !names.iter().any(anew) => set_changes(&netns.routes, &shall.routes)
                .1
                .into_iter()
                .filter(on_them)
                .cloned()
                .collect(),
            _ => netns.routes.iter().filter(on_them).cloned().collect(),
        };
        for route in routes {
            netns.routes.remove(&route);
        }
        for name in names {
            netns.links.remove(name);
            if let Some(links) = &mut netns.flowtable {
                links.remove(name);
            }
            let first = (name.to_owned(), IpNet::V4(Ipv4Net::default()));
            let addresses = netns.addresses.range(first..);
            let addresses: Vec<_> = addresses
                .take_while(|(link, _)| link == name)
                .cloned()
                .collect();
            for address in addresses {
                netns.addresses.remove(&address);
            }
            for folder in LINK_SYSCTLS {
                let first = format!("{folder}{name}/");
                let sysctls = netns.sysctls.range(first.clone()..);
                let paths: Vec<_> = sysctls
                    .map(|(path, _)| path.clone())
                    .take_while(|path| path.starts_with(&first))
                    .collect();
                for path in paths {
                    netns.sysctls.remove(&path);
                }
            }
        }
    }
    left
}

/// Where each link has a folder of sysctls, which exist while it does.
const LINK_SYSCTLS: [&str; 2] = ["net/ipv4/conf/", "net/ipv6/conf/"];

/// The link of a sysctl that exists while that does.
fn link_of(path: &str) -> Option<&str> {
    let of_link = LINK_SYSCTLS.iter().find_map(|at| path.strip_prefix(at))?;
    of_link.split('/').next()
}

fn links(observed: &Netns, wanted: &Netns, add: &mut impl FnMut(Phase, Op)) {
    for (name, link) in changes(&observed.links, &wanted.links).put {
        let differs = match observed.links.get(name) {
            Some(is) => is.up != link.up || link.mtu.is_some() && is.mtu != link.mtu,
            None => {
                if matches!(link.kind, LinkKind::Veth { .. }) {
                    add(Phase::Link, Op::AddLink(name.clone(), link.clone()));
                }
                // the other end of a veth comes with its pair, but down
                true
            }
        };
        if differs {
            add(Phase::Link, Op::SetLink(name.clone(), link.clone()));
        }
    }
}

fn sysctls(observed: &Netns, wanted: &Netns, add: &mut impl FnMut(Phase, Op)) {
    for (path, value) in changes(&observed.sysctls, &wanted.sysctls).put {
        let of_link = link_of(path).is_some_and(|link| wanted.links.contains_key(link));
        let phase = if of_link {
            Phase::LinkSysctl
        } else {
            Phase::GlobalSysctl
        };
        add(phase, Op::SetSysctl(path.clone(), value.clone()));
    }
}

fn addresses(observed: &Netns, wanted: &Netns, add: &mut impl FnMut(Phase, Op)) {
    let (missing, gone) = set_changes(&observed.addresses, &wanted.addresses);
    for (link, net) in missing {
        add(Phase::Address, Op::AddAddress(link.clone(), *net));
    }
    for (link, net) in gone {
        add(Phase::Address, Op::DelAddress(link.clone(), *net));
    }
}

fn routes(observed: &Netns, wanted: &Netns, add: &mut impl FnMut(Phase, Op)) {
    // the kernel replaces one route of the same table, destination and metric
    let key = |route: &Route| (route.kind == RouteKind::Local, route.to, route.metric);
    let (mut missing, gone) = set_changes(&observed.routes, &wanted.routes);
    let replacing: BTreeSet<_> = missing.iter().map(|route| key(route)).collect();
    // a next hop must be reachable by a route that is there already
    missing.sort_by_key(|route| route.via.is_some());
    for route in missing {
        add(Phase::Route, Op::AddRoute(route.clone()));
    }
    let alone = |route: &Route| {
        let first = Route {
            to: route.to,
            kind: RouteKind::Unicast,
            via: None,
            dev: None,
            src: None,
            metric: 0,
        };
        let there = observed.routes.range(first..);
        let there = there.take_while(|other| other.to == route.to);
        there.filter(|other| key(other) == key(route)).count() == 1
    };
    for route in gone {
        if !(replacing.contains(&key(route)) && alone(route)) {
            add(Phase::Route, Op::DelRoute(route.clone()));
        }
    }
}

/// Sets that are there under their name but of another kind, which nobody could
/// add wanted entries to: rules let them go, they go, and are made like new ones.
fn replaced_sets(observed: &Netns, wanted: &Netns, add: &mut impl FnMut(Phase, Op)) -> Netns {
    let mut observed = observed.clone();
    let other: Vec<String> = observed
        .sets
        .iter()
        .filter(|(name, is)| {
            let shall = wanted.sets.get(*name);
            shall.is_some_and(|set| set.kind != is.kind)
        })
        .map(|(name, _)| name.clone())
        .collect();
    if other.is_empty() {
        return observed;
    }
    for (&(family, table), chains) in &mut observed.tables {
        let mut cleared = BTreeMap::new();
        for (chain, rules) in &mut chains.own {
            let uses = |rule: &String| rule.split(' ').any(|word| other.iter().any(|o| o == word));
            if rules.iter().any(uses) {
                rules.clear();
                cleared.insert(chain.clone(), Vec::new());
            }
        }
        if !cleared.is_empty() {
            let op = Op::Restore {
                family,
                table,
                set: cleared,
                gone: BTreeSet::new(),
                add: BTreeSet::new(),
                remove: BTreeSet::new(),
            };
            add(Phase::RulesCleared, op);
        }
    }
    for name in other {
        observed.sets.remove(&name);
        add(Phase::SetReplaced, Op::DestroySet(name));
    }
    observed
}

fn sets(observed: &Netns, wanted: &Netns, add: &mut impl FnMut(Phase, Op)) {
    let empty = OrdMap::new();
    let Changes { put, gone } = changes(&observed.sets, &wanted.sets);
    for (name, set) in put {
        let is = observed.sets.get(name).map_or_else(
            || {
                add(Phase::SetMade, Op::CreateSet(name.clone(), set.kind));
                &empty
            },
            |is| &is.entries,
        );
        let Changes { put, gone } = changes(is, &set.entries);
        for (entry, mark) in put {
            add(Phase::Entry, Op::AddEntry(name.clone(), *entry, *mark));
        }
        for entry in gone {
            add(Phase::EntryGone, Op::DelEntry(name.clone(), *entry));
        }
    }
    for name in gone {
        add(Phase::SetGone, Op::DestroySet(name.clone()));
    }
}

fn tables(observed: &Netns, wanted: &Netns, add: &mut impl FnMut(Phase, Op)) {
    let none = Chains::default();
    let all: BTreeSet<_> = observed
        .tables
        .keys()
        .chain(wanted.tables.keys())
        .copied()
        .collect();
    for (family, table) in all {
        let is = observed.tables.get(&(family, table)).unwrap_or(&none);
        let shall = wanted.tables.get(&(family, table)).unwrap_or(&none);
        let set: BTreeMap<_, _> = shall
            .own
            .iter()
            .filter(|(chain, rules)| is.own.get(*chain) != Some(rules))
            .map(|(chain, rules)| (chain.clone(), rules.clone()))
            .collect();
        let gone: BTreeSet<_> = is
            .own
            .keys()
            .filter(|chain| !shall.own.contains_key(*chain))
            .cloned()
            .collect();
        let present = |jump: &crate::netns::Jump, there: &Chains| {
            there
                .jumps
                .iter()
                .any(|other| (&other.chain, &other.rule) == (&jump.chain, &jump.rule))
        };
        let missing: BTreeSet<_> = shall
            .jumps
            .iter()
            .filter(|jump| !present(jump, is))
            .cloned()
            .collect();
        let remove: BTreeSet<_> = is
            .jumps
            .iter()
            .filter(|jump| !present(jump, shall))
            .cloned()
            .collect();
        if !(set.is_empty() && gone.is_empty() && missing.is_empty() && remove.is_empty()) {
            let op = Op::Restore {
                family,
                table,
                set,
                gone,
                add: missing,
                remove,
            };
            add(Phase::Rules, op);
        }
    }
}

fn flowtable(observed: &Netns, wanted: &Netns, add: &mut impl FnMut(Phase, Op)) {
    match (&observed.flowtable, &wanted.flowtable) {
        (is, shall) if is == shall => {}
        (_, Some(links)) => add(Phase::Rules, Op::SetFlowtable(links.clone())),
        (_, None) => add(Phase::Rules, Op::DelFlowtable),
    }
}

fn ipvs(observed: &Netns, wanted: &Netns, add: &mut impl FnMut(Phase, Op)) {
    if let Some(timeouts) = wanted.ipvs_timeouts
        && observed.ipvs_timeouts != Some(timeouts)
    {
        add(Phase::Balance, Op::SetTimeouts(timeouts));
    }
    let nothing = BTreeMap::new();
    let Changes { put, gone } = changes(&observed.services, &wanted.services);
    for (&(family, mark), service) in put {
        let there = match observed.services.get(&(family, mark)) {
            None => {
                let how = service.scheduling.clone();
                add(Phase::Balance, Op::NewService(family, mark, how));
                &nothing
            }
            Some(is) => {
                if is.scheduling != service.scheduling {
                    let how = service.scheduling.clone();
                    add(Phase::Balance, Op::SetService(family, mark, how));
                }
                &is.destinations
            }
        };
        for (&at, &destination) in &service.destinations {
            let Some(is) = there.get(&at) else {
                let new = Op::NewDestination(family, mark, at, destination);
                add(Phase::Balance, new);
                continue;
            };
            // one that drains waits for those that take its place, and for
            // the entry of a service of which nothing else is left to go
            let phase = match destination {
                Destination { weight: 0, .. } => Phase::BalanceGone,
                _ => Phase::Balance,
            };
            if *is != destination {
                add(phase, Op::SetDestination(family, mark, at, destination));
            }
        }
        for &at in there.keys() {
            if !service.destinations.contains_key(&at) {
                add(Phase::BalanceGone, Op::DelDestination(family, mark, at));
            }
        }
    }
    for &(family, mark) in gone {
        add(Phase::BalanceGone, Op::DelService(family, mark));
    }
}

#[cfg(test)]
mod tests;
