//! How a task's namespace is attached to the router.

use imbl::OrdMap;
use ipnet::IpNet;
use model::{Network, NetworkId, NodeId, State, Task};

use super::{
    Settings,
    family::{Side, link_local},
    frame::loopback,
};
use crate::netns::{Family, Link, Netns, Place, Route};

/// What a task has in the router, and its own namespace.
pub(super) struct Attached {
    pub(super) link: (String, Link),
    pub(super) addresses: Vec<(String, IpNet)>,
    pub(super) routes: Vec<Route>,
    pub(super) sysctls: Vec<(String, String)>,
    pub(super) netns: Netns,
}

/// Attaches a task whose namespace exists.
pub(super) fn attach(
    state: &State,
    node: &NodeId,
    settings: &Settings,
    sides: &[Side],
    task: &Task,
) -> Attached {
    let link = task.link();
    let mut attached = Attached {
        link: (
            link.clone(),
            settings.veth("eth0", Place::Task(task.id.clone())),
        ),
        addresses: Vec::new(),
        routes: Vec::new(),
        // strict: a task cannot use an address that is not its own
        sysctls: [("rp_filter", "1"), ("send_redirects", "0")]
            .map(|(what, value)| (format!("net/ipv4/conf/{link}/{what}"), value.to_owned()))
            .to_vec(),
        netns: Netns {
            links: OrdMap::from_iter([loopback(), ("eth0".to_owned(), settings.veth_peer())]),
            ..Netns::default()
        },
    };
    for side in sides {
        for attachment in &task.attachments {
            let gateway = gateway(state, node, &attachment.network, side.family);
            let addresses = attachment.addresses.iter();
            for address in addresses.filter(|a| Family::from(**a) == side.family) {
                let to = IpNet::from(*address);
                attached.routes.push(side.route(to, None, &link, gateway));
            }
        }
        inside(state, node, side, task, &mut attached);
    }
    attached
}

/// The router's own address on a network.
fn gateway(
    state: &State,
    node: &NodeId,
    network: &NetworkId,
    family: Family,
) -> Option<std::net::IpAddr> {
    let mut gateways = state.lease(network, node)?.gateways();
    gateways.find(|gateway| Family::from(*gateway) == family)
}

fn inside(state: &State, node: &NodeId, side: &Side, task: &Task, attached: &mut Attached) {
    let link = "eth0";
    let placed = || {
        task.attachments.iter().filter_map(|attachment| {
            let network: &Network = state.networks.get(&attachment.network)?;
            let mut addresses = attachment.addresses.iter().copied();
            let address = addresses.find(|a| Family::from(*a) == side.family)?;
            Some((network, address))
        })
    };
    // the way out is by the first network that has one
    let source = placed()
        .find(|(network, _)| !network.spec.internal)
        .or_else(|| placed().next());
    let Some((_, source)) = source else { return };
    let netns = &mut attached.netns;
    for (_, address) in placed() {
        netns
            .addresses
            .insert((link.to_owned(), IpNet::from(address)));
    }
    let gateway = match side.family {
        Family::V4 => {
            let first = task.attachments.first();
            first.and_then(|first| gateway(state, node, &first.network, side.family))
        }
        Family::V6 => Some(link_local(1)),
    };
    let Some(gateway) = gateway else { return };
    match side.family {
        Family::V4 => {
            netns
                .routes
                .insert(side.route(IpNet::from(gateway), None, link, None));
        }
        Family::V6 => attached
            .addresses
            .push((task.link(), side.on_link(gateway))),
    }
    let default = side.route(side.default_route(), Some(gateway), link, Some(source));
    netns.routes.insert(default);
    // on several networks each is spoken to from the address that is on it
    if task.attachments.len() > 1 {
        for (network, address) in placed() {
            let pools = network.pools.iter();
            for pool in pools.filter(|p| Family::from(p.subnet.addr()) == side.family) {
                for to in [pool.subnet, pool.vips] {
                    let route = side.route(to, Some(gateway), link, Some(address));
                    netns.routes.insert(route);
                }
            }
        }
    }
}
