//! What all services of a node share: links, addresses, routes, sysctls, sets, rules and
//! time-outs, whatever services there are.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
};

use api::inspect::{Compared, Part};
use plan::netns::{Chains, Family, LinkKind, Netns, Place, Route};

/// A place's parts, in both of its values.
#[derive(Default)]
pub(super) struct Parts(BTreeMap<String, (Option<String>, Option<String>)>);

impl Parts {
    /// All of a namespace but what belongs to `others`: links of tasks.
    pub(super) fn of(wanted: &Netns, seen: &Netns, others: &BTreeSet<String>) -> Self {
        let mut parts = Self::default();
        parts.read(wanted, others, |side| &mut side.0);
        parts.read(seen, others, |side| &mut side.1);
        parts.rules(wanted, seen);
        parts
    }

    /// As they are shown.
    pub(super) fn shown(self, place: &str) -> impl Iterator<Item = Part> {
        self.0
            .into_iter()
            .map(move |(what, (wanted, kernel))| Part {
                place: place.to_owned(),
                what,
                compared: Compared::new(wanted, kernel),
            })
    }

    fn read(
        &mut self,
        netns: &Netns,
        others: &BTreeSet<String>,
        side: impl Fn(&mut (Option<String>, Option<String>)) -> &mut Option<String>,
    ) {
        let mut put = |what: String, value: String| {
            *side(self.0.entry(what).or_default()) = Some(value);
        };
        for (name, link) in netns
            .links
            .iter()
            .filter(|(name, _)| !others.contains(*name))
        {
            let mut words = vec![if link.up { "up" } else { "down" }.to_owned()];
            // of the loopback it does not matter, and nothing is wanted
            let mtu = link.mtu.filter(|_| link.kind != LinkKind::Loopback);
            words.extend(mtu.map(|mtu| format!("mtu {mtu}")));
            if matches!(link.kind, LinkKind::Veth { .. } | LinkKind::VethPeer) {
                words.push("veth".to_owned());
            }
            put(format!("link {name}"), words.join(", "));
        }
        let own = netns
            .addresses
            .iter()
            .filter(|(link, _)| !others.contains(link));
        for (link, net) in own {
            put(
                format!("address {net} of link {link}"),
                "present".to_owned(),
            );
        }
        let by_task = |route: &&Route| route.dev.as_ref().is_some_and(|dev| others.contains(dev));
        for route in netns.routes.iter().filter(|route| !by_task(route)) {
            let (what, how) = words(route);
            put(what, how);
        }
        for (path, value) in &netns.sysctls {
            if !others
                .iter()
                .any(|link| path.contains(&format!("/{link}/")))
            {
                put(format!("sysctl {path}"), value.clone());
            }
        }
        for (name, set) in &netns.sets {
            put(
                format!("set {name}"),
                format!("{} entries", set.entries.len()),
            );
        }
        if let Some(links) = &netns.flowtable {
            let links: Vec<_> = links.iter().map(String::as_str).collect();
            put("flowtable".to_owned(), links.join(", "));
        }
        if let Some(times) = netns.ipvs_timeouts {
            put("IPVS time-outs".to_owned(), timeouts(&times));
            let destinations = netns.services.values().map(|one| one.destinations.len());
            let destinations: usize = destinations.sum();
            let count = format!("{}, {destinations} destinations", netns.services.len());
            put("IPVS services".to_owned(), count);
        }
    }

    /// Chains that have other rules differ, though they be as many.
    fn rules(&mut self, wanted: &Netns, seen: &Netns) {
        let keys: BTreeSet<_> = wanted.tables.keys().chain(seen.tables.keys()).collect();
        let nothing = Chains::default();
        for key @ (family, table) in keys {
            let program = match family {
                Family::V4 => "iptables",
                Family::V6 => "ip6tables",
            };
            let (wanted, seen) = (
                wanted.tables.get(key).unwrap_or(&nothing),
                seen.tables.get(key).unwrap_or(&nothing),
            );
            let chains: BTreeSet<_> = wanted.own.keys().chain(seen.own.keys()).collect();
            for chain in chains {
                let (shall, is) = (wanted.own.get(chain), seen.own.get(chain));
                let count =
                    |rules: Option<&Vec<String>>| rules.map(|all| format!("{} rules", all.len()));
                let mut kernel = count(is);
                if shall.is_some() && is.is_some() && shall != is {
                    kernel = kernel.map(|count| format!("{count}, others"));
                }
                let what = format!("{program} {} chain {chain}", table.as_str());
                self.0.insert(what, (count(shall), kernel));
            }
            let jumps = |chains: &Chains| -> BTreeSet<(String, String)> {
                let jumps = chains.jumps.iter();
                jumps
                    .map(|jump| (jump.chain.clone(), jump.rule.clone()))
                    .collect()
            };
            let (shall, is) = (jumps(wanted), jumps(seen));
            for jump in shall.union(&is) {
                let what = format!("{program} {} rule {} {}", table.as_str(), jump.0, jump.1);
                let side = |all: &BTreeSet<_>| all.contains(jump).then(|| "present".to_owned());
                self.0.insert(what, (side(&shall), side(&is)));
            }
        }
    }
}

/// A route as `ip route` prints it: where to, and how.
pub(super) fn words(route: &Route) -> (String, String) {
    let mut how = vec![match route.kind {
        plan::netns::RouteKind::Unicast => String::new(),
        plan::netns::RouteKind::Local => "local".to_owned(),
        plan::netns::RouteKind::Unreachable => "unreachable".to_owned(),
    }];
    let more =
        |word: &str, value: Option<&dyn Display>| value.map(|value| format!("{word} {value}"));
    how.extend(more(
        "via",
        route.via.as_ref().map(|via| via as &dyn Display),
    ));
    how.extend(more(
        "dev",
        route.dev.as_ref().map(|dev| dev as &dyn Display),
    ));
    how.extend(more(
        "src",
        route.src.as_ref().map(|src| src as &dyn Display),
    ));
    how.retain(|word| !word.is_empty());
    let what = match route.metric {
        0 => format!("route to {}", route.to),
        metric => format!("route to {} metric {metric}", route.to),
    };
    (what, how.join(" "))
}

/// Time-outs as they are set.
pub(super) fn timeouts(times: &plan::netns::Timeouts) -> String {
    format!(
        "tcp {} s, fin {} s, udp {} s",
        times.tcp, times.tcp_fin, times.udp
    )
}

/// What people call a place of the node.
pub(super) fn named(place: &Place) -> &'static str {
    match place {
        Place::Host => "host",
        Place::Ingress => "ingress",
        Place::Router => "router",
        Place::Task(_) => "task",
    }
}

#[cfg(test)]
mod tests {
    use api::inspect::Verdict;
    use plan::netns::Table;

    use super::*;

    fn with_rules(rules: &[&str], sysctl: &str) -> Netns {
        let own = rules.iter().map(ToString::to_string).collect();
        let chains = Chains {
            own: BTreeMap::from([("MESH".to_owned(), own)]),
            ..Chains::default()
        };
        Netns {
            tables: BTreeMap::from([((Family::V4, Table::Nat), chains)]),
            sysctls: [
                ("net/ipv4/conf/tabc/rp_filter", "1"),
                ("net/ipv4/ip_forward", sysctl),
            ]
            .into_iter()
            .map(|(path, value)| (path.to_owned(), value.to_owned()))
            .collect(),
            ..Netns::default()
        }
    }

    #[test]
    fn as_many_other_rules_differ_and_tasks_are_left_out() {
        let others = BTreeSet::from(["tabc".to_owned()]);
        let parts = Parts::of(
            &with_rules(&["a", "b"], "1"),
            &with_rules(&["b", "a"], "1"),
            &others,
        );
        let parts: Vec<_> = parts.shown("host").collect();
        let verdicts: Vec<_> = parts
            .iter()
            .map(|part| (&*part.what, part.compared.verdict))
            .collect();
        assert_eq!(
            verdicts,
            [
                ("iptables nat chain MESH", Verdict::Differs),
                ("sysctl net/ipv4/ip_forward", Verdict::Ok),
            ]
        );
    }
}
