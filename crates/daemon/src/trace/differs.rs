//! What the kernel has not as it is wanted, one thing at a time, in words.

use ipnet::IpNet;
use model::{Instance, Mark};
use plan::netns::{Chains, Entry, Family, Netns, Op, Place, Places, Route, Table};

/// One thing that is not as wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    /// Where.
    pub(crate) place: Place,
    /// What.
    pub(crate) part: Part,
    /// Something that is too much, rather than missing or another.
    pub(crate) foreign: bool,
    /// In words, without the place.
    pub(crate) text: String,
}

/// What of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// All of it: it is not there.
    Namespace,
    Link(String),
    Address(IpNet),
    Route(IpNet),
    Sysctl(String),
    Set(String),
    Entry(String, Entry),
    Rules(Table),
    /// An IPVS service, or a destination of it.
    Balanced(Family, Mark),
}

/// A place as people call it.
pub(crate) fn place_name(instance: &Instance, place: &Place) -> String {
    match place {
        Place::Host => "host".to_owned(),
        Place::Ingress => instance.ingress_netns(),
        Place::Router => instance.router_netns(),
        Place::Task(task) => instance.task_netns(task),
    }
}

/// What differs in these places, of one family.
pub(crate) fn differences(
    seen: &Places,
    wanted: &Places,
    places: &[Place],
    family: Family,
) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut shall = Places::new();
    for place in places {
        let Some(netns) = wanted.get(place) else {
            continue;
        };
        if seen.contains_key(place) {
            shall.insert(place.clone(), netns.clone());
        } else {
            found.push(Difference {
                place: place.clone(),
                part: Part::Namespace,
                foreign: false,
                text: "the namespace is gone".to_owned(),
            });
        }
    }
    let nothing = Netns::default();
    for (place, op) in plan::plan_writes(seen, &shall) {
        let is = seen.get(&place).unwrap_or(&nothing);
        let shall = shall.get(&place).unwrap_or(&nothing);
        let described = describe(&op, is, shall, family).into_iter();
        found.extend(described.map(|(part, foreign, text)| Difference {
            place: place.clone(),
            part,
            foreign,
            text,
        }));
    }
    found
}

fn describe(op: &Op, is: &Netns, shall: &Netns, family: Family) -> Vec<(Part, bool, String)> {
    let of_family = |net: &IpNet| Family::from(net.addr()) == family;
    let one = |part, text| vec![(part, false, text)];
    let foreign = |part, text| vec![(part, true, text)];
    match op {
        Op::AddLink(name, _) => one(
            Part::Link(name.clone()),
            format!("link {name} is not there"),
        ),
        Op::DelLink(name) => one(
            Part::Link(name.clone()),
            format!("link {name} is not the one that was made"),
        ),
        Op::SetLink(name, link) => {
            let text = match is.links.get(name) {
                Some(seen) if !seen.up && link.up => format!("link {name} is down"),
                Some(seen) if seen.mtu != link.mtu => {
                    let mtu =
                        |mtu: Option<u32>| mtu.map_or_else(String::new, |mtu| mtu.to_string());
                    format!(
                        "link {name} has an MTU of {}, not {}",
                        mtu(seen.mtu),
                        mtu(link.mtu)
                    )
                }
                Some(_) => format!("link {name} is not as wanted"),
                // made by another write
                None => return Vec::new(),
            };
            one(Part::Link(name.clone()), text)
        }
        Op::AddAddress(link, net) if of_family(net) => one(
            Part::Address(*net),
            format!("address {net} of link {link} is missing"),
        ),
        Op::DelAddress(link, net) if of_family(net) => foreign(
            Part::Address(*net),
            format!("link {link} has the foreign address {net}"),
        ),
        Op::AddRoute(route) if of_family(&route.to) => {
            let link = route.dev.as_ref().and_then(|dev| is.links.get(dev));
            // it went with its link, which is said
            if link.is_some_and(|link| !link.up) {
                return Vec::new();
            }
            let other = is.routes.iter().find(|other| other.to == route.to);
            let text = match other {
                Some(other) => format!(
                    "the route to {} goes {}, not {}",
                    route.to,
                    way(other),
                    way(route)
                ),
                None => format!("the route to {} ({}) is missing", route.to, way(route)),
            };
            one(Part::Route(route.to), text)
        }
        Op::DelRoute(route) if of_family(&route.to) => {
            // said with the one that is wanted
            if shall.routes.iter().any(|other| other.to == route.to) {
                return Vec::new();
            }
            foreign(
                Part::Route(route.to),
                format!("there is a foreign route to {} ({})", route.to, way(route)),
            )
        }
        Op::SetSysctl(path, value) => {
            let has = is.sysctls.get(path).map_or("nothing", String::as_str);
            one(
                Part::Sysctl(path.clone()),
                format!("sysctl {path} is {has}, not {value}"),
            )
        }
        Op::CreateSet(name, _) | Op::DestroySet(name) => one(
            Part::Set(name.clone()),
            format!("set {name} is not there, or is of another kind"),
        ),
        Op::AddEntry(set, entry, mark) => {
            let has = is.sets.get(set).and_then(|set| set.entries.get(entry));
            let text = match (has, mark) {
                (Some(Some(has)), Some(mark)) => {
                    format!("set {set} gives {} mark {has}, not {mark}", entry)
                }
                _ => format!("set {set} has no entry {}", entry),
            };
            one(Part::Entry(set.clone(), *entry), text)
        }
        Op::DelEntry(set, entry) => foreign(
            Part::Entry(set.clone(), *entry),
            format!("set {set} has the foreign entry {}", entry),
        ),
        Op::Restore {
            family: of, table, ..
        } if *of == family => {
            let nothing = Chains::default();
            let key = (family, *table);
            let is = is.tables.get(&key).unwrap_or(&nothing);
            let shall = shall.tables.get(&key).unwrap_or(&nothing);
            let rules = rules(*table, is, shall).into_iter();
            rules
                .map(|(foreign, text)| (Part::Rules(*table), foreign, text))
                .collect()
        }
        Op::NewService(of, mark, _) if *of == family => one(
            Part::Balanced(*of, *mark),
            format!("the IPVS service of mark {mark} is missing"),
        ),
        Op::SetService(of, mark, shall) if *of == family => one(
            Part::Balanced(*of, *mark),
            format!(
                "the IPVS service of mark {mark} has not the scheduler {} and the flags that are wanted",
                shall.scheduler
            ),
        ),
        Op::DelService(of, mark) if *of == family => foreign(
            Part::Balanced(*of, *mark),
            format!("there is a foreign IPVS service of mark {mark}"),
        ),
        Op::NewDestination(of, mark, at, _)
            if *of == family && is.services.contains_key(&(*of, *mark)) =>
        {
            one(
                Part::Balanced(*of, *mark),
                format!(
                    "the IPVS service of mark {mark} has no destination {}",
                    at.0
                ),
            )
        }
        Op::SetDestination(of, mark, at, shall) if *of == family => one(
            Part::Balanced(*of, *mark),
            format!(
                "destination {} of the IPVS service of mark {mark} has not weight {}",
                at.0, shall.weight
            ),
        ),
        Op::DelDestination(of, mark, at) if *of == family => foreign(
            Part::Balanced(*of, *mark),
            format!(
                "the IPVS service of mark {mark} has the foreign destination {}",
                at.0
            ),
        ),
        _ => Vec::new(),
    }
}

fn way(route: &Route) -> String {
    let mut text = match route.kind {
        plan::netns::RouteKind::Unicast => String::new(),
        plan::netns::RouteKind::Local => "to here".to_owned(),
        plan::netns::RouteKind::Unreachable => return "nowhere".to_owned(),
    };
    if let Some(via) = route.via {
        text.push_str(&format!(" via {via}"));
    }
    if let Some(dev) = &route.dev {
        text.push_str(&format!(" by {dev}"));
    }
    text.trim().to_owned()
}

/// Rules that are missing, and foreign ones among ours.
fn rules(table: Table, is: &Chains, shall: &Chains) -> Vec<(bool, String)> {
    let table = table.as_str();
    let mut found = Vec::new();
    for (chain, rules) in &shall.own {
        let has = is.own.get(chain).map_or(&[][..], Vec::as_slice);
        let missing = rules.iter().filter(|rule| !has.contains(rule));
        let missing: Vec<_> = missing.collect();
        if !missing.is_empty() && missing.len() == rules.len() && rules.len() > 1 {
            found.push((
                false,
                format!(
                    "chain {chain} of table {table} has none of its {} rules",
                    rules.len()
                ),
            ));
        } else {
            let missing = missing.into_iter();
            found.extend(missing.map(|rule| {
                (
                    false,
                    format!("a rule is missing in table {table}: -A {chain} {rule}"),
                )
            }));
        }
    }
    for (chain, rules) in &is.own {
        let wanted = shall.own.get(chain).map_or(&[][..], Vec::as_slice);
        let foreign = rules.iter().filter(|rule| !wanted.contains(rule));
        found.extend(foreign.map(|rule| {
            (
                true,
                format!("there is a foreign rule in table {table}: -A {chain} {rule}"),
            )
        }));
    }
    for jump in &shall.jumps {
        let same =
            |other: &plan::netns::Jump| (&other.chain, &other.rule) == (&jump.chain, &jump.rule);
        if !is.jumps.iter().any(same) {
            found.push((
                false,
                format!(
                    "a rule is missing in table {table}: -A {} {}",
                    jump.chain, jump.rule
                ),
            ));
        }
    }
    if found.is_empty() {
        found.push((
            false,
            format!("the rules of table {table} are in another order"),
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use plan::netns::{Link, LinkKind, RouteKind, Set, SetKind};

    use super::*;

    fn route(to: &str, dev: &str) -> Route {
        Route {
            to: to.parse().unwrap(),
            kind: RouteKind::Unicast,
            via: None,
            dev: Some(dev.to_owned()),
            src: None,
            metric: 0,
        }
    }

    fn chains(chain: &str, rules: &[&str]) -> Chains {
        let rules = rules.iter().map(ToString::to_string).collect();
        Chains {
            own: [(chain.to_owned(), rules)].into(),
            ..Chains::default()
        }
    }

    fn wanted() -> Netns {
        let link = Link {
            kind: LinkKind::VethPeer,
            mtu: Some(1500),
            up: true,
        };
        let mark = Mark::new(256);
        let set = Set {
            kind: SetKind::HashIpMark(Family::V4),
            entries: FromIterator::from_iter([(Entry::Ip([10, 200, 0, 1].into()), mark)]),
        };
        Netns {
            links: FromIterator::from_iter([("up0".to_owned(), link)]),
            routes: FromIterator::from_iter([route("10.100.0.2/32", "t1")]),
            sysctls: FromIterator::from_iter([("net/ipv4/ip_forward".to_owned(), "1".to_owned())]),
            sets: FromIterator::from_iter([("vips-tcp".to_owned(), set)]),
            tables: [(
                (Family::V4, Table::Mangle),
                chains("PREROUTING", &["-j A", "-j B"]),
            )]
            .into(),
            ..Netns::default()
        }
    }

    fn said(seen: &Netns) -> Vec<String> {
        let places = |netns: &Netns| Places::unit(Place::Router, netns.clone());
        let found = differences(
            &places(seen),
            &places(&wanted()),
            &[Place::Router],
            Family::V4,
        );
        found.into_iter().map(|one| one.text).collect()
    }

    #[test]
    fn what_differs_is_said_in_words() {
        assert_eq!(said(&wanted()), [""; 0]);
        let mut seen = wanted();
        seen.links["up0"].up = false;
        assert_eq!(said(&seen), ["link up0 is down"]);

        let mut seen = wanted();
        seen.routes = FromIterator::from_iter([route("10.100.0.2/32", "up0")]);
        assert_eq!(
            said(&seen),
            ["the route to 10.100.0.2/32 goes by up0, not by t1"]
        );
        seen.routes = Default::default();
        assert_eq!(
            said(&seen),
            ["the route to 10.100.0.2/32 (by t1) is missing"]
        );

        let mut seen = wanted();
        seen.sysctls["net/ipv4/ip_forward"] = "0".to_owned();
        assert_eq!(said(&seen), ["sysctl net/ipv4/ip_forward is 0, not 1"]);

        let mut seen = wanted();
        seen.sets["vips-tcp"].entries = Default::default();
        assert_eq!(said(&seen), ["set vips-tcp has no entry 10.200.0.1"]);
    }

    #[test]
    fn rules_are_named_each() {
        let seen = |rules: &[&str]| {
            let mut seen = wanted();
            let key = (Family::V4, Table::Mangle);
            seen.tables.insert(key, chains("PREROUTING", rules));
            said(&seen)
        };
        assert_eq!(
            seen(&["-j A"]),
            ["a rule is missing in table mangle: -A PREROUTING -j B"]
        );
        assert_eq!(
            seen(&[]),
            ["chain PREROUTING of table mangle has none of its 2 rules"]
        );
        assert_eq!(
            seen(&["-j A", "-j B", "-j DROP"]),
            ["there is a foreign rule in table mangle: -A PREROUTING -j DROP"]
        );
        assert_eq!(
            seen(&["-j B", "-j A"]),
            ["the rules of table mangle are in another order"]
        );
    }

    #[test]
    fn a_namespace_that_is_gone_is_one_difference() {
        let wanted = Places::unit(Place::Router, wanted());
        let found = differences(&Places::new(), &wanted, &[Place::Router], Family::V4);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].part, Part::Namespace);
    }
}
