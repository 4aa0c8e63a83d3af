use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv6Net};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::NodeId;

/// A machine that runs tasks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Identity, made once per data directory.
    pub id: NodeId,
    /// Host name.
    pub hostname: String,
    /// Number of the node in the mesh, from 1; it picks the node's ingress addresses.
    pub number: u8,
    /// When it joined.
    pub created: Timestamp,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Whether it takes tasks.
    #[serde(default)]
    pub availability: Availability,
}

impl Node {
    /// The value of a label; one that it does not have is empty.
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

/// Whether a node takes tasks; Docker's words
/// (<https://docs.docker.com/reference/api/engine/version/v1.44/#tag/Node>, `NodeSpec`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Availability {
    /// Yes.
    #[default]
    Active,
    /// It keeps those that it has, and takes no new ones.
    Pause,
    /// Those that it has end, and are made anew on other nodes.
    Drain,
}

impl Availability {
    /// Docker's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Pause => "pause",
            Self::Drain => "drain",
        }
    }
}

/// The address ranges that a mesh hands out of, fixed when its store is made;
/// those of IPv6 when a daemon that has it first starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pools {
    /// Networks' task subnets are cut from this.
    pub tasks: IpNet,
    /// Networks' VIP blocks are cut from this.
    pub vips: IpNet,
    /// Each node's addresses between host and ingress namespace: a /24 by node number.
    pub nodes: IpNet,
    /// Prefix length of a network's subnet when none is asked for.
    pub subnet_prefix: u8,
    /// Prefix length of a network's VIP block.
    pub vip_prefix: u8,
    /// The same of IPv6; `None`: the mesh has none.
    #[serde(default)]
    pub six: Option<Ranges>,
}

/// The address ranges of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ranges {
    /// Networks' task subnets are cut from this.
    pub tasks: IpNet,
    /// Networks' VIP blocks are cut from this.
    pub vips: IpNet,
    /// Each node's addresses between host and ingress namespace, by node number: a
    /// /24 of IPv4, a /64 of IPv6.
    pub nodes: IpNet,
    /// Prefix length of a network's subnet when none is asked for.
    pub subnet_prefix: u8,
    /// Prefix length of a network's VIP block.
    pub vip_prefix: u8,
}

impl Ranges {
    /// Where the host asks its node's responder for names: an address that the whole range
    /// makes the router's, and that no service is given.
    pub fn stub(&self) -> IpAddr {
        self.vips.network()
    }

    /// IPv6 ranges out of a /48: 4,096 networks of /64.
    pub fn of_prefix(prefix: Ipv6Net) -> Self {
        let base = u128::from(prefix.network());
        let net = |subnet: u128, length| {
            IpNet::new_assert(Ipv6Addr::from(base | subnet << 64).into(), length)
        };
        Self {
            tasks: net(0x1000, 52),
            vips: net(0x2000, 52),
            nodes: net(0x9000, 56),
            subnet_prefix: 64,
            vip_prefix: 112,
        }
    }

    /// IPv6 ranges of a unique local prefix, whose global id are 40 of these random
    /// bits (RFC 4193).
    pub fn unique_local(random: [u8; 16]) -> Self {
        let mut octets = [0; 16];
        octets[0] = 0xfd;
        octets[1..6].copy_from_slice(&random[..5]);
        Self::of_prefix(Ipv6Net::new_assert(octets.into(), 48))
    }
}

impl Pools {
    /// The ranges of each family that the mesh has, IPv4 first.
    pub fn ranges(&self) -> impl Iterator<Item = Ranges> + use<> {
        let four = Ranges {
            tasks: self.tasks,
            vips: self.vips,
            nodes: self.nodes,
            subnet_prefix: self.subnet_prefix,
            vip_prefix: self.vip_prefix,
        };
        std::iter::once(four).chain(self.six)
    }
}

impl Default for Pools {
    /// 64 networks of 16 node blocks of 253 tasks each, and 4,094 VIPs a network.
    fn default() -> Self {
        let net = |a, b, c, d, len| {
            IpNet::new_assert(
                std::net::IpAddr::V4(std::net::Ipv4Addr::new(a, b, c, d)),
                len,
            )
        };
        Self {
            tasks: net(10, 100, 0, 0, 14),
            vips: net(10, 200, 0, 0, 14),
            nodes: net(10, 90, 0, 0, 16),
            subnet_prefix: 20,
            vip_prefix: 20,
            six: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv6_ranges_are_parts_of_a_unique_local_prefix() {
        let ranges = Ranges::unique_local([0xab; 16]);
        assert_eq!(ranges.tasks.to_string(), "fdab:abab:abab:1000::/52");
        assert_eq!(ranges.vips.to_string(), "fdab:abab:abab:2000::/52");
        assert_eq!(ranges.nodes.to_string(), "fdab:abab:abab:9000::/56");
        for range in [ranges.tasks, ranges.vips, ranges.nodes] {
            assert_eq!(range.trunc(), range);
        }
    }
}
