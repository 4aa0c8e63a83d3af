//! The difference between what namespaces hold and what they shall hold.

use std::collections::{BTreeMap, BTreeSet};

use crate::netns::{Chains, Link, LinkKind, Netns, Op, Place, Route, Set, VirtualService};

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
    let empty = Netns::default();
    let mut ops: Vec<(Place, Op)> = Vec::new();
    for (place, wanted) in wanted {
        let observed = observed.get(place).unwrap_or(&empty);
        let mut add = |op| ops.push((place.clone(), op));
        links(observed, wanted, &mut add);
        sysctls(observed, wanted, &mut add);
        addresses(observed, wanted, &mut add);
        routes(observed, wanted, &mut add);
        sets(observed, wanted, &mut add);
        tables(observed, wanted, &mut add);
        ipvs(observed, wanted, &mut add);
    }
    // stable: within a phase and a place the order above is kept
    ops.sort_by_key(|(place, op)| {
        let phase = phase(op, wanted.get(place).unwrap_or(&empty));
        (phase, rank(place, phase))
    });
    ops
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
    SetMade,
    Rules,
    Balance,
    Entry,
    EntryGone,
    BalanceGone,
    SetGone,
}

fn phase(op: &Op, wanted: &Netns) -> Phase {
    match op {
        // `net/ipv4/conf/LINK/...` exists only once the link does
        Op::SetSysctl(path, _) => {
            let link = path.split('/').nth(3).unwrap_or_default();
            let of_link = path.contains("/conf/") && wanted.links.contains_key(link);
            if of_link {
                Phase::LinkSysctl
            } else {
                Phase::GlobalSysctl
            }
        }
        Op::DelLink(_) => Phase::LinkGone,
        Op::AddLink(..) | Op::SetLink(..) => Phase::Link,
        Op::AddAddress(..) | Op::DelAddress(..) => Phase::Address,
        Op::AddRoute(_) | Op::DelRoute(_) => Phase::Route,
        Op::CreateSet(..) => Phase::SetMade,
        Op::Restore { .. } => Phase::Rules,
        Op::SetTimeouts(_)
        | Op::NewService(..)
        | Op::SetService(..)
        | Op::NewDestination(..)
        | Op::SetDestination(..) => Phase::Balance,
        Op::AddEntry(..) => Phase::Entry,
        Op::DelEntry(..) => Phase::EntryGone,
        Op::DelDestination(..) | Op::DelService(..) => Phase::BalanceGone,
        Op::DestroySet(_) => Phase::SetGone,
    }
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
    let opening = (Phase::LinkSysctl..=Phase::Entry).contains(&phase);
    if opening { 3 - from_host } else { from_host }
}

fn links(observed: &Netns, wanted: &Netns, add: &mut impl FnMut(Op)) {
    let veth = |link: &Link| !matches!(link.kind, LinkKind::Loopback);
    for (name, link) in &wanted.links {
        let settings = Op::SetLink(name.clone(), link.clone());
        match observed.links.get(name) {
            Some(is) if veth(is) == veth(link) => {
                if is.up != link.up || link.mtu.is_some() && is.mtu != link.mtu {
                    add(settings);
                }
            }
            is => {
                if is.is_some() {
                    add(Op::DelLink(name.clone()));
                }
                if matches!(link.kind, LinkKind::Veth { .. }) {
                    add(Op::AddLink(name.clone(), link.clone()));
                }
                // the other end of a veth comes with its pair, but down
                add(settings);
            }
        }
    }
    for name in observed
        .links
        .keys()
        .filter(|name| !wanted.links.contains_key(*name))
    {
        add(Op::DelLink(name.clone()));
    }
}

fn sysctls(observed: &Netns, wanted: &Netns, add: &mut impl FnMut(Op)) {
    for (path, value) in &wanted.sysctls {
        if observed.sysctls.get(path) != Some(value) {
            add(Op::SetSysctl(path.clone(), value.clone()));
        }
    }
}

fn addresses(observed: &Netns, wanted: &Netns, add: &mut impl FnMut(Op)) {
    for (link, net) in wanted.addresses.difference(&observed.addresses) {
        add(Op::AddAddress(link.clone(), *net));
    }
    for (link, net) in observed.addresses.difference(&wanted.addresses) {
        // those of a link that goes away go with it
        if wanted.links.contains_key(link) {
            add(Op::DelAddress(link.clone(), *net));
        }
    }
}

fn routes(observed: &Netns, wanted: &Netns, add: &mut impl FnMut(Op)) {
    // the kernel replaces a route of the same destination and metric
    let key = |route: &Route| (route.to, route.metric);
    let kept: BTreeSet<_> = wanted.routes.iter().map(key).collect();
    let mut missing: Vec<_> = wanted.routes.difference(&observed.routes).collect();
    // a next hop must be reachable by a route that is there already
    missing.sort_by_key(|route| route.via.is_some());
    for route in missing {
        add(Op::AddRoute(route.clone()));
    }
    for route in observed.routes.difference(&wanted.routes) {
        let link_stays = route
            .dev
            .as_ref()
            .is_none_or(|dev| wanted.links.contains_key(dev));
        if !kept.contains(&key(route)) && link_stays {
            add(Op::DelRoute(route.clone()));
        }
    }
}

fn sets(observed: &Netns, wanted: &Netns, add: &mut impl FnMut(Op)) {
    for (name, set) in &wanted.sets {
        let empty = Set {
            kind: set.kind,
            entries: BTreeMap::new(),
        };
        let is = match observed.sets.get(name) {
            Some(is) if is.kind == set.kind => is,
            is => {
                if is.is_some() {
                    add(Op::DestroySet(name.clone()));
                }
                add(Op::CreateSet(name.clone(), set.kind));
                &empty
            }
        };
        for (entry, mark) in &set.entries {
            if is.entries.get(entry) != Some(mark) {
                add(Op::AddEntry(name.clone(), *entry, *mark));
            }
        }
        for entry in is
            .entries
            .keys()
            .filter(|entry| !set.entries.contains_key(entry))
        {
            add(Op::DelEntry(name.clone(), *entry));
        }
    }
    for name in observed
        .sets
        .keys()
        .filter(|name| !wanted.sets.contains_key(*name))
    {
        add(Op::DestroySet(name.clone()));
    }
}

fn tables(observed: &Netns, wanted: &Netns, add: &mut impl FnMut(Op)) {
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
            add(Op::Restore {
                family,
                table,
                set,
                gone,
                add: missing,
                remove,
            });
        }
    }
}

fn ipvs(observed: &Netns, wanted: &Netns, add: &mut impl FnMut(Op)) {
    if let Some(timeouts) = wanted.ipvs_timeouts
        && observed.ipvs_timeouts != Some(timeouts)
    {
        add(Op::SetTimeouts(timeouts));
    }
    let own = |s: &VirtualService| (s.scheduler.clone(), s.flags, s.timeout, s.netmask);
    let nothing = BTreeMap::new();
    for (&(family, mark), service) in &wanted.services {
        let there = match observed.services.get(&(family, mark)) {
            None => {
                add(Op::NewService(family, mark, service.clone()));
                &nothing
            }
            Some(is) => {
                if own(is) != own(service) {
                    add(Op::SetService(family, mark, service.clone()));
                }
                &is.destinations
            }
        };
        for (&at, &destination) in &service.destinations {
            match there.get(&at) {
                None => add(Op::NewDestination(family, mark, at, destination)),
                Some(is) if *is != destination => {
                    add(Op::SetDestination(family, mark, at, destination));
                }
                Some(_) => {}
            }
        }
        for &at in there
            .keys()
            .filter(|at| !service.destinations.contains_key(at))
        {
            add(Op::DelDestination(family, mark, at));
        }
    }
    for &(family, mark) in observed.services.keys() {
        if !wanted.services.contains_key(&(family, mark)) {
            add(Op::DelService(family, mark));
        }
    }
}
