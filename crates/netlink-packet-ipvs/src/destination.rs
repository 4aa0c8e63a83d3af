// SPDX-License-Identifier: MIT OR Apache-2.0

use std::net::IpAddr;

use netlink_packet_core::DecodeError;

use crate::{
    AddressFamily, Stats32Attribute, StatsAttribute,
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
        /// Counters of 32 bits.
        10 Stats [Stats32Attribute],
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
#[non_exhaustive]
pub enum ForwardingMethod {
    /// NAT: "Masq".
    #[default]
    Masquerade,
    /// To a process of this machine.
    Local,
    /// Encapsulated, see [`Tunnel`].
    Tunnel,
    /// With the destination's MAC address: "Route".
    DirectRoute,
    /// Not balanced.
    Bypass,
    /// One that this crate does not know: 5 to 7.
    Other(u8),
}

impl From<u32> for ForwardingMethod {
    /// Of `IPVS_DEST_ATTR_FWD_METHOD`, whose other bits are connection flags.
    fn from(number: u32) -> Self {
        match number & 0x07 {
            0 => Self::Masquerade,
            1 => Self::Local,
            2 => Self::Tunnel,
            3 => Self::DirectRoute,
            4 => Self::Bypass,
            other => Self::Other(other as u8),
        }
    }
}

impl From<ForwardingMethod> for u32 {
    fn from(method: ForwardingMethod) -> Self {
        match method {
            ForwardingMethod::Masquerade => 0,
            ForwardingMethod::Local => 1,
            ForwardingMethod::Tunnel => 2,
            ForwardingMethod::DirectRoute => 3,
            ForwardingMethod::Bypass => 4,
            ForwardingMethod::Other(other) => Self::from(other) & 0x07,
        }
    }
}

/// How packets are wrapped for [`ForwardingMethod::Tunnel`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tunnel {
    /// In what.
    pub kind: TunnelKind,
    /// Destination's UDP port, for GUE only.
    pub port: u16,
    /// `IP_VS_TUNNEL_ENCAP_FLAG_*`: 1 checksum, 2 remote checksum (GUE only).
    pub flags: u16,
}

/// What packets are wrapped in (`IP_VS_CONN_F_TUNNEL_TYPE_*`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum TunnelKind {
    /// IP in IP.
    #[default]
    Ipip,
    /// Generic UDP encapsulation.
    Gue,
    /// Generic routing encapsulation.
    Gre,
    /// One that this crate does not know.
    Other(u8),
}

impl From<u8> for TunnelKind {
    fn from(number: u8) -> Self {
        match number {
            0 => Self::Ipip,
            1 => Self::Gue,
            2 => Self::Gre,
            other => Self::Other(other),
        }
    }
}

impl From<TunnelKind> for u8 {
    fn from(kind: TunnelKind) -> Self {
        match kind {
            TunnelKind::Ipip => 0,
            TunnelKind::Gue => 1,
            TunnelKind::Gre => 2,
            TunnelKind::Other(other) => other,
        }
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
    /// The tunnel, for [`ForwardingMethod::Tunnel`].
    pub tunnel: Tunnel,
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
            tunnel: Tunnel::default(),
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
            self.forwarding.into(),
        ));
        attributes.push(DestinationAttribute::Weight(self.weight));
        // the kernel's default, and unknown before Linux 5.3
        if self.tunnel != Tunnel::default() {
            attributes.push(DestinationAttribute::TunnelType(self.tunnel.kind.into()));
            attributes.push(DestinationAttribute::TunnelPort(self.tunnel.port));
            attributes.push(DestinationAttribute::TunnelFlags(self.tunnel.flags));
        }
        attributes.push(DestinationAttribute::UpperThreshold(self.upper_threshold));
        attributes.push(DestinationAttribute::LowerThreshold(self.lower_threshold));
        attributes
    }

    /// Reads a destination of a service of this family.
    ///
    /// # Errors
    /// No address.
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
                    this.forwarding = (*n).into();
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
                DestinationAttribute::TunnelType(n) => this.tunnel.kind = (*n).into(),
                DestinationAttribute::TunnelPort(n) => this.tunnel.port = *n,
                DestinationAttribute::TunnelFlags(n) => this.tunnel.flags = *n,
                DestinationAttribute::Stats(_) | DestinationAttribute::Other(_) => {}
            }
        }
        let raw = raw.ok_or_else(|| DecodeError::from("destination without address".to_owned()))?;
        this.address = address(&raw, family == AddressFamily::Ipv6 as u16);
        Ok(this)
    }
}
