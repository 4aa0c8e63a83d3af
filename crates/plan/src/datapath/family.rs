//! What differs between IPv4 and IPv6: addresses, names and words.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use model::{Protocol, Ranges, State};

use crate::netns::{Family, Route, RouteKind};

/// "source address == destination address" as classic BPF: a task that was balanced to
/// itself.
const HAIRPIN_V4: &str = "6,32 0 0 12,7 0 0 0,32 0 0 16,29 0 1 0,6 0 0 65535,6 0 0 0";
/// The same for each 32 bits of IPv6's addresses.
const HAIRPIN_V6: &str = "18,32 0 0 24,7 0 0 0,32 0 0 8,29 0 13 0,32 0 0 28,7 0 0 0,32 0 0 12,29 0 9 0,32 0 0 32,7 0 0 0,32 0 0 16,29 0 5 0,32 0 0 36,7 0 0 0,32 0 0 20,29 0 1 0,6 0 0 65535,6 0 0 0";

/// A node's addresses between host and ingress namespace in one family.
///
/// Like all of the mesh's they have the longest prefix length, so that the kernel makes
/// no routes for them by itself: every route is one that is wanted, and a flushed table
/// can be filled again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeAddresses {
    /// All of them: a /24 of IPv4, a /64 of IPv6.
    pub block: IpNet,
}

impl NodeAddresses {
    /// Those of the node with this number.
    pub fn new(ranges: &Ranges, number: u8) -> Self {
        let number = u32::from(number);
        let block = match ranges.nodes.network() {
            IpAddr::V4(ip) => {
                let base = Ipv4Addr::from(u32::from(ip) + (number << 8));
                IpNet::new_assert(base.into(), 24)
            }
            IpAddr::V6(ip) => {
                let base = Ipv6Addr::from(u128::from(ip) + (u128::from(number) << 64));
                IpNet::new_assert(base.into(), 64)
            }
        };
        Self { block }
    }

    /// On the host's end of the veth.
    pub fn host(&self) -> IpAddr {
        self.nth(1)
    }

    /// On the ingress namespace's end, where published ports are sent: one for each host
    /// address, from [`model::ANY_INGRESS`] on.
    pub fn ingress(&self, number: u8) -> IpAddr {
        self.nth(number)
    }

    /// Whom a task sees that was balanced to itself: on no link, since the host's
    /// connection tracking puts the task's in its place in every answer. Not the host's,
    /// which another connection may have with the same ports.
    pub fn hairpin(&self) -> IpAddr {
        self.nth(255)
    }

    /// Whom a destination that is not ours sees where the host asks a VIP: on no link
    /// either. Answers to it belong into the router, those to the other one do not.
    pub fn caller(&self) -> IpAddr {
        self.nth(0)
    }

    fn nth(&self, n: u8) -> IpAddr {
        match self.block.network() {
            IpAddr::V4(ip) => Ipv4Addr::from(u32::from(ip) + u32::from(n)).into(),
            IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip) + u128::from(n)).into(),
        }
    }
}

/// One family's side of a node's data plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Side {
    pub(super) family: Family,
    pub(super) ranges: Ranges,
    pub(super) at: NodeAddresses,
}

impl Side {
    /// The sides that a node has: IPv6 where the mesh has ranges for it and a network that
    /// wants it.
    pub(super) fn all(state: &State, number: u8) -> Vec<Self> {
        let Some(pools) = &state.pools else {
            return Vec::new();
        };
        let mut networks = state.networks.values();
        let six = networks.any(|network| {
            let mut pools = network.pools.iter();
            pools.any(|pool| pool.subnet.addr().is_ipv6())
        });
        let sides = pools.ranges().map(|ranges| Self {
            family: ranges.tasks.addr().into(),
            ranges,
            at: NodeAddresses::new(&ranges, number),
        });
        sides
            .filter(|side| side.family == Family::V4 || six)
            .collect()
    }

    /// The end of names that each family has of its own.
    pub(super) fn suffix(&self) -> &'static str {
        suffix(self.family)
    }

    /// The router's set of VIPs. SCTP has connections, and drains like TCP.
    pub(super) fn vips(&self, protocol: Protocol) -> &'static str {
        match (self.family, protocol) {
            (Family::V4, Protocol::Tcp | Protocol::Sctp) => "vips-tcp",
            (Family::V6, Protocol::Tcp | Protocol::Sctp) => "vips-tcp6",
            (Family::V4, Protocol::Udp) => "vips-udp",
            (Family::V6, Protocol::Udp) => "vips-udp6",
        }
    }

    pub(super) fn default_route(&self) -> IpNet {
        match self.family {
            Family::V4 => IpNet::new_assert(Ipv4Addr::UNSPECIFIED.into(), 0),
            Family::V6 => IpNet::new_assert(Ipv6Addr::UNSPECIFIED.into(), 0),
        }
    }

    /// All addresses, as two networks: sets take none with a prefix length of 0.
    pub(super) fn halves(&self) -> [IpNet; 2] {
        let half = |first: u8| match self.family {
            Family::V4 => IpNet::new_assert([first, 0, 0, 0].into(), 1),
            Family::V6 => {
                let ip = Ipv6Addr::new(u16::from(first) << 8, 0, 0, 0, 0, 0, 0, 0);
                IpNet::new_assert(ip.into(), 1)
            }
        };
        [half(0), half(128)]
    }

    pub(super) fn loopback(&self) -> IpNet {
        match self.family {
            Family::V4 => IpNet::new_assert([127, 0, 0, 0].into(), 8),
            Family::V6 => IpNet::from(IpAddr::from(Ipv6Addr::LOCALHOST)),
        }
    }

    /// The ends of the link between ingress and router namespace; known to nobody else.
    pub(super) fn inner(&self) -> IpAddr {
        match self.family {
            Family::V4 => [169, 254, 0, 1].into(),
            Family::V6 => link_local(1),
        }
    }

    /// The router's.
    pub(super) fn outer(&self) -> IpAddr {
        match self.family {
            Family::V4 => [169, 254, 0, 2].into(),
            Family::V6 => link_local(2),
        }
    }

    /// An address of a link of ours. Link-local ones need their network.
    pub(super) fn on_link(&self, address: IpAddr) -> IpNet {
        match address {
            IpAddr::V6(ip) if ip.is_unicast_link_local() => IpNet::new_assert(address, 64),
            _ => IpNet::from(address),
        }
    }

    pub(super) fn hairpin(&self) -> &'static str {
        match self.family {
            Family::V4 => HAIRPIN_V4,
            Family::V6 => HAIRPIN_V6,
        }
    }

    /// The rules of a chain that sends packets to another gateway than that of their route:
    /// the kernel's own answer to that, rules for routing, makes every look-up dearer.
    pub(super) fn detour(&self, gateway: IpAddr, link: &str) -> Vec<String> {
        let by = match gateway {
            IpAddr::V6(ip) if ip.is_unicast_link_local() => format!(" --oif {link}"),
            _ => String::new(),
        };
        vec![
            format!("-j TEE --gateway {gateway}{by}"),
            "-j DROP".to_owned(),
        ]
    }

    /// iptables' words for "port unreachable".
    pub(super) fn unreachable(&self) -> &'static str {
        match self.family {
            Family::V4 => "icmp-port-unreachable",
            Family::V6 => "icmp6-port-unreachable",
        }
    }

    pub(super) fn route(
        &self,
        to: IpNet,
        via: Option<IpAddr>,
        dev: &str,
        src: Option<IpAddr>,
    ) -> Route {
        Route {
            to,
            kind: RouteKind::Unicast,
            via,
            dev: Some(dev.to_owned()),
            src,
            metric: self.metric(),
        }
    }

    /// The kernel's for routes that ask for none.
    pub(super) fn metric(&self) -> u32 {
        match self.family {
            Family::V4 => 0,
            Family::V6 => 1024,
        }
    }
}

/// The gateway that each task's veth has: an address that is not on the very link is not
/// answered by neighbour discovery.
pub(super) fn link_local(n: u16) -> IpAddr {
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, n).into()
}

pub(super) fn suffix(family: Family) -> &'static str {
    match family {
        Family::V4 => "",
        Family::V6 => "6",
    }
}

/// A host address and port as DNAT takes it.
pub(super) fn with_port(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}
