use std::net::IpAddr;

use netlink_packet_core::DecodeError;

use crate::{
    AddressFamily, StatsAttribute,
    attribute::{address, attributes, raw_address},
    stats::Stats,
};

attributes! {
    /// `IPVS_DEST_ATTR_*`
    DestinationAttribute {
        /// Address.
        1 Address raw,
        /// Port; on the wire in network order.
        2 Port be16,
        /// Forwarding method and connection flags.
        3 ForwardingMethod u32,
        /// Weight.
        4 Weight u32,
        /// Upper connection threshold.
        5 UpperThreshold u32,
        /// Lower connection threshold.
        6 LowerThreshold u32,
        /// Active connections; read only.
        7 ActiveConnections u32,
        /// Inactive connections; read only.
        8 InactiveConnections u32,
        /// Persistent connections; read only.
        9 PersistentConnections u32,
        /// Family of the address, where it may differ from the service's.
        11 Family u16,
        /// 64-bit counters.
        12 Stats64 [StatsAttribute],
        /// Tunnel type: 0 IPIP, 1 GUE, 2 GRE.
        13 TunnelType u8,
        /// Tunnel's UDP port; on the wire in network order.
        14 TunnelPort be16,
        /// Tunnel flags: 1 checksum, 2 remote checksum.
        15 TunnelFlags u16,
    }
}

/// How packets get to a destination (`IP_VS_CONN_F_FWD_MASK`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum ForwardingMethod {
    /// NAT: "Masq".
    #[default]
    Masquerade = 0,
    /// To a process of this machine.
    Local = 1,
    /// Encapsulated.
    Tunnel = 2,
    /// With the destination's MAC address: "Route".
    DirectRoute = 3,
    /// Not balanced.
    Bypass = 4,
}

impl ForwardingMethod {
    fn from_kernel(number: u32) -> Result<Self, DecodeError> {
        // the low three bits; the others are connection flags
        Ok(match number & 0x07 {
            0 => Self::Masquerade,
            1 => Self::Local,
            2 => Self::Tunnel,
            3 => Self::DirectRoute,
            4 => Self::Bypass,
            other => return Err(DecodeError::from(format!("forwarding method {other}"))),
        })
    }
}

/// A real server of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Address.
    pub address: IpAddr,
    /// Port; 0 in a service by firewall mark keeps the packet's.
    pub port: u16,
    /// How packets get there.
    pub forwarding: ForwardingMethod,
    /// Share of new connections; 0: none.
    pub weight: u32,
    /// No new connections from so many on; 0: no limit.
    pub upper_threshold: u32,
    /// New ones again below so many; 0: below three quarters of the upper one.
    pub lower_threshold: u32,
    /// Open connections; not sent.
    pub active_connections: u32,
    /// Connections that are closing, and UDP flows; not sent.
    pub inactive_connections: u32,
    /// Persistence entries; not sent.
    pub persistent_connections: u32,
    /// Counters; not sent.
    pub stats: Stats,
}

impl Destination {
    /// A destination by NAT with weight 1.
    pub fn new(address: IpAddr, port: u16) -> Self {
        Self {
            address,
            port,
            forwarding: ForwardingMethod::Masquerade,
            weight: 1,
            upper_threshold: 0,
            lower_threshold: 0,
            active_connections: 0,
            inactive_connections: 0,
            persistent_connections: 0,
            stats: Stats::default(),
        }
    }

    /// The attributes that say which destination of a service is meant.
    pub fn key_attributes(&self) -> Vec<DestinationAttribute> {
        let family = if self.address.is_ipv4() {
            AddressFamily::Ipv4
        } else {
            AddressFamily::Ipv6
        };
        vec![
            DestinationAttribute::Family(family as u16),
            DestinationAttribute::Address(raw_address(self.address)),
            DestinationAttribute::Port(self.port),
        ]
    }

    /// What makes (`NewDestination`) or changes (`SetDestination`) it; the kernel
    /// refuses with `EINVAL` where one is missing (`ip_vs_genl_parse_dest`).
    pub fn attributes(&self) -> Vec<DestinationAttribute> {
        let mut attributes = self.key_attributes();
        attributes.push(DestinationAttribute::ForwardingMethod(
            self.forwarding as u32,
        ));
        attributes.push(DestinationAttribute::Weight(self.weight));
        attributes.push(DestinationAttribute::UpperThreshold(self.upper_threshold));
        attributes.push(DestinationAttribute::LowerThreshold(self.lower_threshold));
        attributes
    }

    /// Reads a destination of a service of this family.
    ///
    /// # Errors
    /// No address, or a forwarding method that does not exist.
    pub fn parse(
        attributes: &[DestinationAttribute],
        service: AddressFamily,
    ) -> Result<Self, DecodeError> {
        let (mut raw, mut family) = (None, service as u16);
        let mut this = Self::new(IpAddr::from([0, 0, 0, 0]), 0);
        for attribute in attributes {
            match attribute {
                DestinationAttribute::Address(a) => raw = Some(*a),
                DestinationAttribute::Family(n) => family = *n,
                DestinationAttribute::Port(n) => this.port = *n,
                DestinationAttribute::ForwardingMethod(n) => {
                    this.forwarding = ForwardingMethod::from_kernel(*n)?;
                }
                DestinationAttribute::Weight(n) => this.weight = *n,
                DestinationAttribute::UpperThreshold(n) => this.upper_threshold = *n,
                DestinationAttribute::LowerThreshold(n) => this.lower_threshold = *n,
                DestinationAttribute::ActiveConnections(n) => this.active_connections = *n,
                DestinationAttribute::InactiveConnections(n) => this.inactive_connections = *n,
                DestinationAttribute::PersistentConnections(n) => this.persistent_connections = *n,
                DestinationAttribute::Stats64(counters) => {
                    this.stats = Stats::from(counters.as_slice());
                }
                _ => {}
            }
        }
        let raw = raw.ok_or_else(|| DecodeError::from("destination without address".to_owned()))?;
        this.address = address(&raw, family == AddressFamily::Ipv6 as u16);
        Ok(this)
    }
}
