use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Name, NetworkId, NodeId};

/// What a person asks of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSpec {
    /// Unique name.
    pub name: Name,
    /// Docker labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// No way out: tasks on it reach each other, its VIPs and nothing else.
    #[serde(default)]
    pub internal: bool,
    /// IPv6 beside IPv4, where the mesh has a pool for it.
    #[serde(default)]
    pub ipv6: bool,
    /// Wanted task subnets, at most one per family; empty: one of the task pool.
    #[serde(default)]
    pub subnets: Vec<IpNet>,
}

/// The addresses of a network in one family.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Pool {
    /// Task addresses; nodes lease blocks of it.
    pub subnet: IpNet,
    /// VIPs, from the VIP pool.
    pub vips: IpNet,
}

/// A network: tasks on it reach each other and each other's VIPs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Identity.
    pub id: NetworkId,
    /// As asked.
    pub spec: NetworkSpec,
    /// As given: one entry per family, IPv4 first.
    pub pools: Vec<Pool>,
    /// When it was made.
    pub created: Timestamp,
    /// The client's own JSON, kept so that no field is lost.
    #[serde(default)]
    pub raw: serde_json::Value,
}

/// A node's share of a network's subnet. Its first address is the gateway of
/// the node's tasks on that network, and their DNS server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Of this network.
    pub network: NetworkId,
    /// To this node.
    pub node: NodeId,
    /// The addresses.
    pub block: IpNet,
    /// Those of IPv6, where the network has them.
    #[serde(default)]
    pub block6: Option<IpNet>,
}

impl Lease {
    /// The blocks of each family, IPv4 first.
    pub fn blocks(&self) -> impl Iterator<Item = IpNet> + use<> {
        std::iter::once(self.block).chain(self.block6)
    }

    /// The router's own IPv4 address in the block.
    pub fn gateway(&self) -> IpAddr {
        gateway(self.block)
    }

    /// The router's own addresses, of each family.
    pub fn gateways(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.blocks().map(gateway)
    }
}

/// The router's own address in a block: the first one that is not the block's name.
pub fn gateway(block: IpNet) -> IpAddr {
    let mut hosts = block.hosts();
    // of IPv6, the block's name is among them: it is the routers' anycast address (RFC 4291)
    let found = hosts.find(|address| *address != block.network());
    found.unwrap_or_else(|| block.addr())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_is_the_first_address_that_a_host_may_have() {
        for (block, gateway) in [
            ("10.100.0.0/24", "10.100.0.1"),
            ("10.100.7.8/29", "10.100.7.9"),
            ("fd00:1::/112", "fd00:1::1"),
        ] {
            let lease = Lease {
                network: NetworkId::from_random([1; 16]),
                node: NodeId::from_random([1; 16]),
                block: block.parse().unwrap(),
                block6: None,
            };
            assert_eq!(lease.gateway().to_string(), gateway);
        }
    }
}
