use ipnet::IpNet;
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
}

/// The address ranges that a mesh hands out of, fixed when its store is made.
///
/// IPv4 only so far; a second value of the same type will hold IPv6.
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
        }
    }
}
