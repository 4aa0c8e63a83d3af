//! At which station something is that is not as wanted, and whether it can stop a packet.

use plan::netns::{Entry, Family, Place, Table};

use super::{
    differs::{self, Difference, Part, place_name},
    evidence::Evidence,
    explain::{At, Obstacle, Scene, mark_entry},
    scene::{Client, Target},
};

pub(crate) fn drift_next(scene: &Scene<'_>) -> String {
    match scene.repairs {
        true => {
            "wait: ipvsmeshd repairs it within seconds; if it comes back, somebody else changes it: journalctl -u ipvsmeshd".to_owned()
        }
        false => "ipvsmeshd runs with --no-repair: start it without".to_owned(),
    }
}

pub(crate) fn differing(scene: &Scene<'_>, evidence: &Evidence) -> Vec<Obstacle> {
    let mut places = scene.places();
    let chosen = evidence
        .chosen
        .as_ref()
        .and_then(|chosen| chosen.task.clone());
    let client = scene.client_task().map(|task| task.id.clone());
    for task in client.into_iter().chain(chosen) {
        let place = Place::Task(task);
        if !places.contains(&place) {
            places.push(place);
        }
    }
    let all = differs::differences(&evidence.seen, scene.wanted, &places, scene.family());
    let next = drift_next(scene);
    let found = all.iter().filter_map(|one| {
        let (at, stops) = station(scene, evidence, one)?;
        let place = place_name(scene.instance, &one.place);
        Some(Obstacle {
            at,
            stops,
            what: format!("{place}: {}", one.text),
            next: next.clone(),
        })
    });
    found.collect()
}

/// Where on the way a difference is, and whether it can stop a packet.
fn station(scene: &Scene<'_>, evidence: &Evidence, one: &Difference) -> Option<(At, bool)> {
    match &one.place {
        Place::Task(id) => {
            // an address that is not its own, or a way that nobody takes, is in nobody's way
            let stops = !one.foreign;
            if scene.client == Client::Task(id.clone()) {
                return Some((At::Client, stops));
            }
            Some((At::Task, stops))
        }
        Place::Host => on_host(scene, one),
        Place::Ingress => in_ingress(scene, one),
        Place::Router => in_router(scene, evidence, one),
    }
}

fn covers(scene: &Scene<'_>, net: &ipnet::IpNet) -> bool {
    scene.at.is_some_and(|at| net.contains(&at.ip()))
}

fn on_host(scene: &Scene<'_>, one: &Difference) -> Option<(At, bool)> {
    let from_host = scene.client == Client::Host;
    let at = match (&scene.target, &scene.client) {
        (Target::Port { .. }, _) | (Target::Outside, Client::Task(_)) => At::Host,
        (_, Client::Host) => At::Client,
        _ => return None,
    };
    let port = matches!(scene.target, Target::Port { .. });
    let loopback = scene.at.is_some_and(|at| at.ip().is_loopback());
    let way = scene.way();
    let stops = match &one.part {
        Part::Namespace | Part::Link(_) | Part::Address(_) => true,
        Part::Route(net) => match &way {
            Some(way) => match way.ingress.1 {
                Entry::IpPort(ip, ..) => net.contains(&ip),
                _ => true,
            },
            None => covers(scene, net) || matches!(scene.target, Target::Outside),
        },
        Part::Sysctl(path) => match path.as_str() {
            path if path.ends_with("route_localnet") => loopback,
            _ => !from_host,
        },
        Part::Set(name) => way.as_ref().is_some_and(|way| way.host.0 == *name),
        Part::Entry(set, entry) => {
            let ours =
                |way: &plan::datapath::Way<'_>| way.host.0 == *set && way.host.1.contains(entry);
            way.as_ref().is_some_and(ours)
        }
        Part::Rules(Table::Nat) => port || !from_host,
        Part::Rules(_) => !from_host,
        Part::Balanced(..) => false,
    };
    stops.then_some((at, stops))
}

fn in_ingress(scene: &Scene<'_>, one: &Difference) -> Option<(At, bool)> {
    let Target::Port { .. } = scene.target else {
        // it only passes by
        let passes = scene.client == Client::Host || scene.target == Target::Outside;
        let matters = matches!(
            one.part,
            Part::Namespace | Part::Link(_) | Part::Address(_) | Part::Route(_)
        ) || is_forwarding(&one.part);
        return (passes && matters).then_some((At::Gateway, true));
    };
    let (_, key) = scene.balancer()?;
    match &one.part {
        Part::Namespace => Some((At::Mark, true)),
        Part::Link(name) if name == "dn0" => Some((At::Task, true)),
        Part::Link(_) | Part::Address(_) => Some((At::Mark, true)),
        Part::Route(net) if net.prefix_len() == 0 => Some((At::Reply, true)),
        Part::Route(_) => Some((At::Task, true)),
        Part::Rules(Table::Mangle) => Some((At::Mark, true)),
        Part::Rules(_) => Some((At::Mark, one.foreign)),
        part => {
            balanced(scene, part, key).or_else(|| is_forwarding(part).then_some((At::Task, true)))
        }
    }
}

fn in_router(scene: &Scene<'_>, evidence: &Evidence, one: &Difference) -> Option<(At, bool)> {
    let port = matches!(scene.target, Target::Port { .. });
    let client = scene.client_task();
    let chosen = evidence.chosen.as_ref();
    let chosen = chosen.and_then(|chosen| scene.state.tasks.get(chosen.task.as_ref()?));
    // the way to a task, and back to it
    let is_of = |task: &model::Task| match &one.part {
        Part::Link(name) => *name == task.link(),
        Part::Route(net) => task.addresses().any(|ip| ipnet::IpNet::from(ip) == *net),
        Part::Sysctl(path) => path.contains(&task.link()),
        _ => false,
    };
    if client.is_some_and(|task| is_of(task)) {
        return Some((At::Gateway, true));
    }
    if chosen.is_some_and(|task| is_of(task)) {
        return Some((At::Task, true));
    }
    let shared = if port { At::Task } else { At::Gateway };
    match &one.part {
        Part::Namespace => Some((shared, true)),
        Part::Link(name) if name == "up0" || name == "lo" => Some((
            shared,
            port || client.is_none() || scene.target == Target::Outside,
        )),
        // other tasks'
        Part::Link(_) => None,
        Part::Address(_) => Some((shared, port || client.is_none())),
        Part::Route(net) if covers(scene, net) && net.prefix_len() < 32 => Some((shared, true)),
        Part::Route(net) if net.prefix_len() == 0 => Some((
            shared,
            port || client.is_none() || scene.target == Target::Outside,
        )),
        Part::Route(_) => None,
        Part::Entry(set, Entry::NetNet(from, to)) if set.starts_with("same") => {
            let own = client.is_some_and(|task| task.addresses().any(|ip| from.contains(&ip)));
            (own && covers(scene, to)).then_some((At::Gateway, true))
        }
        Part::Set(name) if name.starts_with("same") => client.map(|_| (At::Gateway, true)),
        Part::Rules(Table::Mangle) if !port => Some((At::Mark, true)),
        Part::Rules(_) => Some((shared, one.foreign)),
        part if port => is_forwarding(part).then_some((At::Task, true)),
        part => {
            let own = scene
                .balancer()
                .and_then(|(_, key)| balanced(scene, part, key));
            own.or_else(|| is_forwarding(part).then_some((At::Gateway, true)))
        }
    }
}

fn is_forwarding(part: &Part) -> bool {
    let Part::Sysctl(path) = part else {
        return false;
    };
    path.ends_with("ip_forward") || path.ends_with("/forwarding") || path.ends_with("rp_filter")
}

/// Mark and IPVS service of this way.
fn balanced(scene: &Scene<'_>, part: &Part, key: (Family, model::Mark)) -> Option<(At, bool)> {
    let (set, entry) = mark_entry(scene)?;
    match part {
        Part::Set(name) => (*name == set).then_some((At::Mark, true)),
        Part::Entry(name, one) => ((name, one) == (&set, &entry)).then_some((At::Mark, true)),
        Part::Balanced(family, mark) if (*family, *mark) == key => {
            // one destination of several is not in the way: what is, is said by itself
            Some((At::Ipvs, false))
        }
        _ => None,
    }
}
