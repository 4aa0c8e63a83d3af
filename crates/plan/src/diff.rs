//! The difference between what namespaces hold and what they shall hold.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use crate::netns::{
    Chains, Destination, Link, LinkKind, Netns, Op, Place, Route, RouteKind, Set, VirtualService,
};

/// The writes that turn `observed` into `wanted`, in an order in which each can
/// be made and traffic never meets a half-made path: links, addresses, routes,
/// rules, IPVS, then the set entries that send packets there; taking away runs
/// the other way. Places that are only in `observed` are left alone: whoever
/// deletes a namespace deletes all that is in it.
///
/// Nothing differs: an empty list.
pub fn plan_writes(
    observed: &BTreeMap<Place, Netns>,
    wanted: &BTreeMap<Place, Netns>,
) -> Vec<(Place, Op)> {
    let mut plan = Plan { ops: Vec::new() };
    let mut left: BTreeMap<&Place, Cow<'_, Netns>> = observed
        .iter()
        .map(|(place, netns)| (place, Cow::Borrowed(netns)))
        .collect();
    for (place, name) in links_to_delete(observed, wanted) {
        plan.add(&place, Phase::LinkGone, Op::DelLink(name.clone()));
        forget_link(&mut left, wanted, &place, &name);
    }
    for (place, wanted) in wanted {
        let mut observed = left
            .remove(place)
            .unwrap_or_else(|| Cow::Owned(Netns::default()));
        let mut add = |phase, op| plan.add(place, phase, op);
        replaced_sets(&mut observed, wanted, &mut add);
        links(&observed, wanted, &mut add);
        sysctls(&observed, wanted, &mut add);
        addresses(&observed, wanted, &mut add);
        routes(&observed, wanted, &mut add);
        sets(&observed, wanted, &mut add);
        tables(&observed, wanted, &mut add);
        ipvs(&observed, wanted, &mut add);
    }
    // stable: within a phase and a place the order above is kept
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

/// Links that are not wanted, and one end of each veth pair whose other end is
/// not where it belongs: somebody renamed or moved it, so the pair is made anew.
fn links_to_delete(
    observed: &BTreeMap<Place, Netns>,
    wanted: &BTreeMap<Place, Netns>,
) -> Vec<(Place, String)> {
    let mut found = Vec::new();
    for (place, shall) in wanted {
        let Some(is) = observed.get(place) else {
            continue;
        };
        let unwanted = is
            .links
            .iter()
            .filter(|(name, link)| !is_loopback(link) && !shall.links.contains_key(*name));
        found.extend(unwanted.map(|(name, _)| (place.clone(), name.clone())));
        for (name, link) in &shall.links {
            let LinkKind::Veth { peer, place: there } = &link.kind else {
                continue;
            };
            // a namespace that cannot be seen says nothing
            let Some(other) = observed.get(there) else {
                continue;
            };
            match (is.links.contains_key(name), other.links.contains_key(peer)) {
                (true, false) => found.push((place.clone(), name.clone())),
                (false, true) => found.push((there.clone(), peer.clone())),
                (true, true) | (false, false) => {}
            }
        }
    }
    found
}

/// With a link goes all that is on it, at both ends.
fn forget_link(
    left: &mut BTreeMap<&Place, Cow<'_, Netns>>,
    wanted: &BTreeMap<Place, Netns>,
    place: &Place,
    name: &str,
) {
    let link = wanted.get(place).and_then(|netns| netns.links.get(name));
    let other = match link.map(|link| &link.kind) {
        Some(LinkKind::Veth { peer, place }) => Some((place, peer.as_str())),
        _ => None,
    };
    for (place, name) in [Some((place, name)), other].into_iter().flatten() {
        let Some(netns) = left.get_mut(place) else {
            continue;
        };
        let netns = netns.to_mut();
        netns.links.remove(name);
        netns.addresses.retain(|(link, _)| link != name);
        netns
            .routes
            .retain(|route| route.dev.as_deref() != Some(name));
        netns.sysctls.retain(|path, _| link_of(path) != Some(name));
    }
}

/// The link of a sysctl below `net/ipv4/conf/LINK/`, which exists while that does.
fn link_of(path: &str) -> Option<&str> {
    path.contains("/conf/")
        .then(|| path.split('/').nth(3))
        .flatten()
}

fn links(observed: &Netns, wanted: &Netns, add: &mut impl FnMut(Phase, Op)) {
    for (name, link) in &wanted.links {
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
    for (path, value) in &wanted.sysctls {
        if observed.sysctls.get(path) != Some(value) {
            let of_link = link_of(path).is_some_and(|link| wanted.links.contains_key(link));
            let phase = if of_link {
                Phase::LinkSysctl
            } else {
                Phase::GlobalSysctl
            };
            add(phase, Op::SetSysctl(path.clone(), value.clone()));
        }
    }
}

fn addresses(observed: &Netns, wanted: &Netns, add: &mut impl FnMut(Phase, Op)) {
    for (link, net) in wanted.addresses.difference(&observed.addresses) {
        add(Phase::Address, Op::AddAddress(link.clone(), *net));
    }
    for (link, net) in observed.addresses.difference(&wanted.addresses) {
        add(Phase::Address, Op::DelAddress(link.clone(), *net));
    }
}

fn routes(observed: &Netns, wanted: &Netns, add: &mut impl FnMut(Phase, Op)) {
    // the kernel replaces one route of the same table, destination and metric
    let key = |route: &Route| (route.kind == RouteKind::Local, route.to, route.metric);
    let mut missing: Vec<_> = wanted.routes.difference(&observed.routes).collect();
    let replacing: BTreeSet<_> = missing.iter().map(|route| key(route)).collect();
    // a next hop must be reachable by a route that is there already
    missing.sort_by_key(|route| route.via.is_some());
    for route in missing {
        add(Phase::Route, Op::AddRoute(route.clone()));
    }
    let mut alike: BTreeMap<_, u32> = BTreeMap::new();
    for route in &observed.routes {
        *alike.entry(key(route)).or_default() += 1;
    }
    for route in observed.routes.difference(&wanted.routes) {
        let replaced = replacing.contains(&key(route)) && alike.get(&key(route)) == Some(&1);
        if !replaced {
            add(Phase::Route, Op::DelRoute(route.clone()));
        }
    }
}

/// Sets that are there under their name but of another kind, which nobody could
/// add wanted entries to: rules let them go, they go, and are made like new ones.
fn replaced_sets(observed: &mut Cow<'_, Netns>, wanted: &Netns, add: &mut impl FnMut(Phase, Op)) {
    let other: Vec<String> = observed
        .sets
        .iter()
        .filter(|(name, is)| {
            wanted
                .sets
                .get(*name)
                .is_some_and(|set| set.kind != is.kind)
        })
        .map(|(name, _)| name.clone())
        .collect();
    if other.is_empty() {
        return;
    }
    let observed = observed.to_mut();
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
}

fn sets(observed: &Netns, wanted: &Netns, add: &mut impl FnMut(Phase, Op)) {
    for (name, set) in &wanted.sets {
        let empty = Set {
            kind: set.kind,
            entries: BTreeMap::new(),
        };
        let is = observed.sets.get(name).unwrap_or_else(|| {
            add(Phase::SetMade, Op::CreateSet(name.clone(), set.kind));
            &empty
        });
        for (entry, mark) in &set.entries {
            if is.entries.get(entry) != Some(mark) {
                add(Phase::Entry, Op::AddEntry(name.clone(), *entry, *mark));
            }
        }
        for entry in is
            .entries
            .keys()
            .filter(|entry| !set.entries.contains_key(entry))
        {
            add(Phase::EntryGone, Op::DelEntry(name.clone(), *entry));
        }
    }
    for name in observed
        .sets
        .keys()
        .filter(|name| !wanted.sets.contains_key(*name))
    {
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

fn ipvs(observed: &Netns, wanted: &Netns, add: &mut impl FnMut(Phase, Op)) {
    if let Some(timeouts) = wanted.ipvs_timeouts
        && observed.ipvs_timeouts != Some(timeouts)
    {
        add(Phase::Balance, Op::SetTimeouts(timeouts));
    }
    let own = |s: &VirtualService| (s.scheduler.clone(), s.flags, s.timeout, s.netmask);
    let nothing = BTreeMap::new();
    for (&(family, mark), service) in &wanted.services {
        let there = match observed.services.get(&(family, mark)) {
            None => {
                add(
                    Phase::Balance,
                    Op::NewService(family, mark, service.clone()),
                );
                &nothing
            }
            Some(is) => {
                if own(is) != own(service) {
                    add(
                        Phase::Balance,
                        Op::SetService(family, mark, service.clone()),
                    );
                }
                &is.destinations
            }
        };
        for (&at, &destination) in &service.destinations {
            match there.get(&at) {
                None => add(
                    Phase::Balance,
                    Op::NewDestination(family, mark, at, destination),
                ),
                Some(is) if *is != destination => {
                    // one that drains waits for those that take its place, and for
                    // the entry of a service of which nothing else is left to go
                    let phase = match destination {
                        Destination { weight: 0, .. } => Phase::BalanceGone,
                        _ => Phase::Balance,
                    };
                    add(phase, Op::SetDestination(family, mark, at, destination));
                }
                Some(_) => {}
            }
        }
        for &at in there
            .keys()
            .filter(|at| !service.destinations.contains_key(at))
        {
            add(Phase::BalanceGone, Op::DelDestination(family, mark, at));
        }
    }
    for &(family, mark) in observed.services.keys() {
        if !wanted.services.contains_key(&(family, mark)) {
            add(Phase::BalanceGone, Op::DelService(family, mark));
        }
    }
}

#[cfg(test)]
mod tests;
