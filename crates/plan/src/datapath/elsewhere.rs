//! What the host does so that answers of destinations that are not ours come back the
//! way they went: it is their router or their neighbour, and knows nothing of IPVS.
//!
//! A packet for such a destination comes from the ingress namespace, with its client's
//! address, which the host would send the answer to at once. So the host remembers the
//! connection (a connection mark), and hands packets of the other direction to the
//! ingress namespace, where IPVS knows them.

use std::{collections::BTreeSet, net::IpAddr};

use imbl::OrdMap;
use ipnet::IpNet;
use model::{ANY_INGRESS, Instance, Task};

use super::{family::Side, frame::DEFRAGMENTED};
use crate::netns::{Chains, Entry, Family, Jump, Netns, Set, SetKind, Table};

/// What of others' there is on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Elsewhere {
    /// Where their services' published ports come into the ingress namespace.
    pub(super) ports: BTreeSet<Entry>,
    /// Their services' VIPs.
    pub(super) vips: BTreeSet<IpAddr>,
    /// Servers: they answer whom they see, and by whatever way they have. So they see
    /// the host.
    servers: BTreeSet<IpAddr>,
    /// Containers on bridges of this host, which is their router: they see the client.
    containers: BTreeSet<IpAddr>,
    /// The networks of those bridges: clients there get their answers past the host.
    bridges: BTreeSet<IpNet>,
}

impl Elsewhere {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds a task, if it is none of ours.
    pub(super) fn add(&mut self, task: &Task) {
        let Some(elsewhere) = &task.elsewhere else {
            return;
        };
        match &elsewhere.container {
            None => self.servers.extend(task.addresses()),
            Some(container) => {
                self.containers.extend(task.addresses());
                self.bridges.extend(&container.bridges);
            }
        }
    }

    /// Adds another service's.
    pub(super) fn extend(&mut self, other: &Self) {
        self.ports.extend(&other.ports);
        self.vips.extend(&other.vips);
        self.servers.extend(&other.servers);
        self.containers.extend(&other.containers);
        self.bridges.extend(&other.bridges);
    }

    fn sets(&self, family: Family) -> [(&'static str, SetKind, Vec<Entry>); 5] {
        let net = SetKind::HashNet(family);
        let of = |addresses: &BTreeSet<IpAddr>| {
            let of_family = addresses.iter().filter(|ip| Family::from(**ip) == family);
            of_family.map(|ip| Entry::Net(IpNet::from(*ip))).collect()
        };
        let ports = self
            .ports
            .iter()
            .filter(|entry| matches!(entry, Entry::IpPort(ip, ..) if Family::from(*ip) == family));
        let bridges = self.bridges.iter();
        let bridges = bridges.filter(|net| Family::from(net.addr()) == family);
        [
            (
                "farports",
                SetKind::HashIpPortMark(family),
                ports.copied().collect(),
            ),
            ("farvips", net, of(&self.vips)),
            ("servers", net, of(&self.servers)),
            ("guests", net, of(&self.containers)),
            (
                "bridges",
                net,
                bridges.map(|bridge| Entry::Net(bridge.trunc())).collect(),
            ),
        ]
    }
}

/// The mark of connections that began in the ingress namespace, and the bits that are
/// used for it; the others are other programs'. Two daemons on one host must not take
/// each other's, so that an instance's comes from its name.
fn mark(instance: &Instance) -> String {
    let name = instance.to_string();
    let bits = name.bytes().fold(0x77_u8, |value, byte| {
        value.wrapping_mul(31).wrapping_add(byte)
    });
    format!("0x{:x}/0xff000000", u32::from(bits.max(1)) << 24)
}

/// Writes what the host has of this, or takes it away where there is nothing.
pub(super) fn write(netns: &mut Netns, instance: &Instance, side: &Side, elsewhere: &Elsewhere) {
    let (link, prefix) = (instance.host_link(), instance.set_prefix());
    let any = side.at.ingress(ANY_INGRESS);
    let clients = [side.at.hairpin(), side.at.caller()];
    let clients = clients.map(|ip| side.route(IpNet::from(ip), Some(any), &link, None));
    let set = |name: &str| format!("{prefix}-{name}{}", side.suffix());
    let chain = |name: &str| format!("{}-{name}", instance.chain_prefix());
    let there = !elsewhere.is_empty();
    for (name, kind, entries) in elsewhere.sets(side.family) {
        if there {
            let entries: OrdMap<_, _> = entries.into_iter().map(|entry| (entry, None)).collect();
            netns.sets.insert(set(name), Set { kind, entries });
        } else {
            netns.sets.remove(&set(name));
        }
    }
    let nat = netns.tables.entry((side.family, Table::Nat)).or_default();
    let own = nat.own.entry(chain("SNAT")).or_default();
    own.retain(|rule| !rule.contains("--match-set"));
    if !there {
        nat.own.remove(&chain("FARSNAT"));
        netns.tables.remove(&(side.family, Table::Mangle));
        for route in &clients {
            netns.routes.remove(route);
        }
        return;
    }

    let (tasks, mark) = (side.ranges.tasks, mark(instance));
    own.splice(
        0..0,
        [
            format!(
                "-o {link} -m set --match-set {} dst,dst -j {}",
                set("farports"),
                chain("FARSNAT")
            ),
            format!(
                "-o {link} -m set --match-set {} dst -m addrtype --src-type LOCAL -j SNAT --to-source {}",
                set("farvips"),
                side.at.caller()
            ),
            format!(
                "-s {tasks} ! -o {link} -m set --match-set {} dst -j ACCEPT",
                set("guests")
            ),
            format!(
                "! -o {link} -m connmark --mark {mark} -m set --match-set {} dst -j MASQUERADE",
                set("servers")
            ),
        ],
    );
    let to = format!("-j SNAT --to-source {}", side.at.hairpin());
    nat.own.insert(
        chain("FARSNAT"),
        vec![
            // an answer to an address of the host would be delivered rather than handed on
            format!("-m addrtype --src-type LOCAL {to}"),
            // as would one to a task, by the router
            format!("-s {tasks} {to}"),
            // one between two containers of a bridge does not come by the host
            format!("-m set --match-set {} src {to}", set("bridges")),
        ],
    );
    let far = vec![
        format!("! -s {tasks} -i {link} -m conntrack --ctstate NEW -j CONNMARK --set-xmark {mark}"),
        format!(
            "! -i {link} ! -o {link} -m connmark --mark {mark} -m conntrack --ctdir REPLY -j {}",
            chain("BACK")
        ),
    ];
    let jump = |from: &str, rule| Jump {
        chain: from.to_owned(),
        rule,
        first: false,
    };
    // a rule of Docker's that came later may have given a client on a bridge the host's
    // address on our link
    let masqueraded = format!(
        "! -i {link} -m connmark --mark {mark} -m conntrack --ctdir REPLY -j {}",
        chain("BACK")
    );
    let mangle = Chains {
        own: [
            (chain("FAR"), far),
            (chain("BACK"), side.detour(any, &link)),
        ]
        .into(),
        jumps: [
            jump("FORWARD", format!("-j {}", chain("FAR"))),
            jump("INPUT", masqueraded),
        ]
        .into(),
    };
    netns.tables.insert((side.family, Table::Mangle), mangle);
    netns.routes.extend(clients);
}

/// The chain for answers to the host that it gets by the router.
const DOWN: &str = "DOWN";

/// Writes what the ingress namespace has of this.
pub(super) fn write_ingress(netns: &mut Netns, side: &Side, elsewhere: &Elsewhere) {
    let mangle = (side.family, Table::Mangle);
    let Some(chains) = netns.tables.get_mut(&mangle) else {
        return;
    };
    let rule = format!("-d {} -i up0 -j {DOWN}", IpNet::from(side.at.caller()));
    let first = chains.own.entry("PREROUTING".to_owned()).or_default();
    first.retain(|other| *other != rule);
    if elsewhere.is_empty() {
        chains.own.remove(DOWN);
        return;
    }
    first.insert(0, rule);
    let mut down = side.detour(side.outer(), "dn0");
    if side.family == Family::V4 {
        down.insert(0, DEFRAGMENTED.to_owned());
    }
    chains.own.insert(DOWN.to_owned(), down);
}

#[cfg(test)]
mod tests;
