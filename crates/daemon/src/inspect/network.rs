//! A network: its addresses, who is on it, and who may talk.

use std::{collections::BTreeSet, net::IpAddr};

use api::inspect::{
    BlockEntry, Compared, MemberService, MemberTask, NetworkInspection, SubnetEntry,
};
use ipnet::IpNet;
use model::{Lease, Network, Task, Versioned};
use plan::netns::{Family, Place};

use super::{Inspector, Seen, problems};

impl Inspector<'_> {
    pub(super) fn network(&self, network: &Network, seen: &Seen) -> NetworkInspection {
        let leases = self.state.leases.values();
        let leases: Vec<_> = leases.filter(|lease| lease.network == network.id).collect();
        let blocks: Vec<_> = leases
            .iter()
            .flat_map(|lease| self.blocks(lease, seen))
            .collect();
        let wrong = blocks.iter().filter(|block| !block.gateway.agrees());
        let wrong = wrong
            .map(|block| problems::drifted(&format!("gateway of {}", block.block), &block.gateway));
        NetworkInspection {
            id: network.id.to_string(),
            name: network.spec.name.to_string(),
            internal: network.spec.internal,
            subnets: self.subnets(network, &leases),
            services: self.services_on(network),
            tasks: self.tasks_on(network),
            reach: reach(network),
            problems: wrong.collect(),
            blocks,
        }
    }

    fn subnets(&self, network: &Network, leases: &[&Versioned<Lease>]) -> Vec<SubnetEntry> {
        let places = self.state.tasks.values().flat_map(|task| &task.attachments);
        let places = places.filter(|place| place.network == network.id);
        let used: BTreeSet<IpAddr> = places
            .flat_map(|place| place.addresses.iter().copied())
            .collect();
        let vips = self
            .state
            .services
            .values()
            .flat_map(|one| &one.endpoint.vips);
        let vips = vips.filter(|vip| vip.network == network.id);
        let vips: BTreeSet<IpAddr> = vips.map(|vip| vip.address).collect();
        let within = |net: IpNet, all: &BTreeSet<IpAddr>| {
            all.iter().filter(|at| net.contains(*at)).count() as u64
        };
        let subnet = |pool: &model::Pool| SubnetEntry {
            family: match Family::from(pool.subnet.addr()) {
                Family::V4 => "ipv4".to_owned(),
                Family::V6 => "ipv6".to_owned(),
            },
            subnet: pool.subnet.to_string(),
            used: within(pool.subnet, &used),
            usable: leases
                .iter()
                .flat_map(|lease| lease.blocks())
                .filter(|block| pool.subnet.contains(block))
                .fold(0, |sum, block| sum.saturating_add(usable(block))),
            vips: pool.vips.to_string(),
            vips_used: within(pool.vips, &vips),
        };
        network.pools.iter().map(subnet).collect()
    }

    /// Another node's router cannot be looked into from here.
    fn blocks(&self, lease: &Lease, seen: &Seen) -> Vec<BlockEntry> {
        let router = seen.places.get(&Place::Router);
        let has = |ip: IpAddr| {
            let mut addresses = router.into_iter().flat_map(|router| &router.addresses);
            addresses.any(|(_, net)| net.addr() == ip)
        };
        // a gateway is there once a task is, or whenever the node is up
        let here = lease.node == *self.node;
        let blocks = lease.blocks().zip(lease.gateways());
        let entry = |(block, gateway): (IpNet, IpAddr)| BlockEntry {
            node: self.hostname(&lease.node),
            block: block.to_string(),
            gateway: match here {
                true => Compared::new(
                    Some(gateway.to_string()),
                    has(gateway).then(|| gateway.to_string()),
                ),
                false => Compared::new(Some(gateway.to_string()), Some(gateway.to_string())),
            },
        };
        blocks.map(entry).collect()
    }

    fn services_on(&self, network: &Network) -> Vec<MemberService> {
        let services = self.state.services.values();
        let on = services.filter_map(|service| {
            let mut places = service.spec.task.networks.iter();
            let place = places.find(|place| place.network == network.id)?;
            let vips = service.endpoint.vips.iter();
            let vips = vips.filter(|vip| vip.network == network.id);
            Some(MemberService {
                id: service.id.to_string(),
                name: service.spec.name.to_string(),
                aliases: place.aliases.clone(),
                vips: vips.map(|vip| vip.address.to_string()).collect(),
            })
        });
        let mut on: Vec<_> = on.collect();
        on.sort_by(|one, other| one.name.cmp(&other.name));
        on
    }

    fn tasks_on(&self, network: &Network) -> Vec<MemberTask> {
        let lives = |task: &&Versioned<Task>| {
            let status = self.state.status(&task.id);
            status.is_none_or(|status| !status.state.is_final())
        };
        let tasks = self.state.tasks.values().filter(lives);
        let on = tasks.filter_map(|task| {
            let mut places = task.attachments.iter();
            let place = places.find(|place| place.network == network.id)?;
            Some(MemberTask {
                id: task.id.to_string(),
                name: task.name(),
                node: self.hostname(&task.node),
                state: self.state.word(task).to_owned(),
                addresses: place.addresses.iter().map(ToString::to_string).collect(),
            })
        });
        let mut on: Vec<_> = on.collect();
        on.sort_by(|one, other| (&one.name, &one.id).cmp(&(&other.name, &other.id)));
        on
    }
}

/// Addresses for tasks in a node's block: all but its name, the gateway, and, of IPv4,
/// the last one.
fn usable(block: IpNet) -> u64 {
    let bits = u32::from(block.max_prefix_len() - block.prefix_len());
    let all = 1_u64.checked_shl(bits).unwrap_or(u64::MAX);
    all.saturating_sub(if block.addr().is_ipv4() { 3 } else { 2 })
}

fn reach(network: &Network) -> Vec<String> {
    let name = &network.spec.name;
    let mut reach = vec![
        format!("tasks on {name} reach each other, and all VIPs of {name}, by names as well"),
        format!("the host reaches them by address, and by names where it asks the mesh for them"),
        "tasks that are on other networks only do not reach them, but by published ports"
            .to_owned(),
    ];
    reach.push(match network.spec.internal {
        true => "it is internal: from it nothing else is reached, and no names outside of the mesh are answered".to_owned(),
        false => "from it other machines are reached, with the host's address".to_owned(),
    });
    reach
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usable_addresses_are_counted() {
        for (block, count) in [
            ("10.100.0.0/24", 253),
            ("10.100.0.8/29", 5),
            ("fd00:1::/112", 65_534),
            ("fd00:1::/64", u64::MAX - 2),
        ] {
            assert_eq!(usable(block.parse().unwrap()), count, "{block}");
        }
    }
}
