// SPDX-License-Identifier: MIT OR Apache-2.0

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use netlink_packet_core::DecodeError;

use crate::{
    Stats32Attribute, StatsAttribute,
    attribute::{address, attributes, raw_address},
    stats::Stats,
};

/// `struct ip_vs_flags`: which bits to change, and to what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// The bits.
    pub flags: u32,
    /// The bits that count; all of them in what the kernel sends.
    pub mask: u32,
}

impl Flags {
    /// Clients stay with their destination (`IP_VS_SVC_F_PERSISTENT`).
    pub const PERSISTENT: u32 = 0x01;
    /// Set by the kernel on every service it has hashed; never asked for, and to
    /// be masked before comparing (`IP_VS_SVC_F_HASHED`).
    pub const HASHED: u32 = 0x02;
    /// Each UDP packet is scheduled by itself (`IP_VS_SVC_F_ONEPACKET`).
    pub const ONE_PACKET: u32 = 0x04;
    /// Scheduler's own flag 1: `sh-fallback`, `mh-fallback`.
    pub const SCHED_1: u32 = 0x08;
    /// Scheduler's own flag 2: `sh-port`, `mh-port`.
    pub const SCHED_2: u32 = 0x10;
    /// Scheduler's own flag 3.
    pub const SCHED_3: u32 = 0x20;

    /// These bits without [`Self::HASHED`], to compare what the kernel says with
    /// what is wanted.
    pub fn wanted(self) -> u32 {
        self.flags & !Self::HASHED
    }
}

attributes! {
    /// `IPVS_SVC_ATTR_*`
    ServiceAttribute {
        /// `AF_INET` (2) or `AF_INET6` (10).
        1 Family u16,
        /// IP protocol number.
        2 Protocol u16,
        /// Virtual address.
        3 Address raw,
        /// Virtual port; on the wire in network order.
        4 Port be16,
        /// Firewall mark, instead of protocol, address and port.
        5 FwMark u32,
        /// Scheduler's name.
        6 Scheduler text,
        /// Flags and mask.
        7 Flags flags,
        /// Persistence time-out, in seconds.
        8 Timeout u32,
        /// Granularity of persistence: for IPv4 a netmask in network order (the
        /// kernel's `__be32`, read natively), for IPv6 a prefix length.
        9 Netmask u32,
        /// Counters of 32 bits.
        10 Stats [Stats32Attribute],
        /// Persistence engine.
        11 PersistenceEngine text,
        /// 64-bit counters.
        12 Stats64 [StatsAttribute],
    }
}

/// IPv4 or IPv6, by the kernel's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum AddressFamily {
    /// `AF_INET`
    Ipv4 = 2,
    /// `AF_INET6`
    Ipv6 = 10,
}

impl AddressFamily {
    fn of(address: IpAddr) -> Self {
        if address.is_ipv4() {
            Self::Ipv4
        } else {
            Self::Ipv6
        }
    }
}

/// What identifies a service. Prints as `ipvsadm -Ln` does: `FWM 279`,
/// `TCP 10.200.0.5:80`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServiceKey {
    /// Packets with this firewall mark.
    FwMark {
        /// An IPv4 and an IPv6 service may share a number.
        family: AddressFamily,
        /// The whole mark.
        mark: u32,
    },
    /// Packets to this address and port.
    Address {
        /// IP protocol number: 6 TCP, 17 UDP, 132 SCTP.
        protocol: u16,
        /// Virtual address.
        address: IpAddr,
        /// Virtual port; 0 with persistence: all ports.
        port: u16,
    },
}

impl ServiceKey {
    /// The family of the service and, without tunnels, of its destinations.
    pub fn family(&self) -> AddressFamily {
        match self {
            Self::FwMark { family, .. } => *family,
            Self::Address { address, .. } => AddressFamily::of(*address),
        }
    }

    /// The attributes that say which service is meant.
    pub fn attributes(&self) -> Vec<ServiceAttribute> {
        let family = ServiceAttribute::Family(self.family() as u16);
        match self {
            Self::FwMark { mark, .. } => vec![family, ServiceAttribute::FwMark(*mark)],
            Self::Address {
                protocol,
                address,
                port,
            } => vec![
                family,
                ServiceAttribute::Protocol(*protocol),
                ServiceAttribute::Address(raw_address(*address)),
                ServiceAttribute::Port(*port),
            ],
        }
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FwMark { family, mark } => {
                let v6 = *family == AddressFamily::Ipv6;
                write!(f, "FWM {mark}{}", if v6 { " IPv6" } else { "" })
            }
            Self::Address {
                protocol,
                address,
                port,
            } => {
                let at = SocketAddr::new(*address, *port);
                match protocol {
                    6 => write!(f, "TCP {at}"),
                    17 => write!(f, "UDP {at}"),
                    132 => write!(f, "SCTP {at}"),
                    other => write!(f, "protocol {other} {at}"),
                }
            }
        }
    }
}

/// A virtual service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Which packets are its.
    pub key: ServiceKey,
    /// `rr`, `wrr`, `lc`, `wlc`, `lblc`, `lblcr`, `dh`, `sh`, `sed`, `nq`, `fo`,
    /// `ovf`, `mh`, `twos` or what else the kernel has; at most 15 octets.
    pub scheduler: String,
    /// Bits of [`Flags`], without [`Flags::HASHED`].
    pub flags: u32,
    /// Persistence time-out in seconds; 0 without persistence.
    pub timeout: u32,
    /// Granularity of persistence as a prefix length: for IPv4 0 to 32, for IPv6
    /// 1 to 128. (A netmask with holes, which the kernel takes for IPv4, reads as
    /// the number of its bits.)
    pub prefix: u8,
    /// Persistence engine, such as `sip`.
    pub persistence_engine: Option<String>,
    /// Counters; not sent.
    pub stats: Stats,
}

impl Service {
    /// A service without persistence.
    pub fn new(key: ServiceKey, scheduler: &str) -> Self {
        Self {
            key,
            scheduler: scheduler.to_owned(),
            flags: 0,
            timeout: 0,
            prefix: match key.family() {
                AddressFamily::Ipv4 => 32,
                AddressFamily::Ipv6 => 128,
            },
            persistence_engine: None,
            stats: Stats::default(),
        }
    }

    /// What makes (`NewService`) or changes (`SetService`) it; both need all of these.
    pub fn attributes(&self) -> Vec<ServiceAttribute> {
        let mut attributes = self.key.attributes();
        attributes.push(ServiceAttribute::Scheduler(self.scheduler.clone()));
        if let Some(engine) = &self.persistence_engine {
            attributes.push(ServiceAttribute::PersistenceEngine(engine.clone()));
        }
        attributes.push(ServiceAttribute::Flags(Flags {
            // the kernel sets it, and takes a service that comes with it for hashed
            flags: self.flags & !Flags::HASHED,
            mask: u32::MAX,
        }));
        attributes.push(ServiceAttribute::Timeout(self.timeout));
        attributes.push(ServiceAttribute::Netmask(netmask(
            self.key.family(),
            self.prefix,
        )));
        attributes
    }
}

/// The kernel's form of a prefix length.
fn netmask(family: AddressFamily, prefix: u8) -> u32 {
    match family {
        AddressFamily::Ipv6 => u32::from(prefix),
        AddressFamily::Ipv4 => {
            let mask = u32::MAX
                .checked_shl(32 - u32::from(prefix.min(32)))
                .unwrap_or(0);
            u32::from_ne_bytes(mask.to_be_bytes())
        }
    }
}

impl TryFrom<&[ServiceAttribute]> for Service {
    type Error = DecodeError;

    /// # Errors
    /// Neither a mark nor address and port, or no family.
    fn try_from(attributes: &[ServiceAttribute]) -> Result<Self, DecodeError> {
        let (mut family, mut mark, mut protocol, mut raw, mut port) =
            (None, None, None, None, None);
        let (mut scheduler, mut engine, mut stats) = (String::new(), None, Stats::default());
        let (mut flags, mut timeout, mut mask) = (0, 0, None);
        for attribute in attributes {
            match attribute {
                ServiceAttribute::Family(n) => family = Some(*n),
                ServiceAttribute::FwMark(n) => mark = Some(*n),
                ServiceAttribute::Protocol(n) => protocol = Some(*n),
                ServiceAttribute::Address(a) => raw = Some(*a),
                ServiceAttribute::Port(n) => port = Some(*n),
                ServiceAttribute::Scheduler(name) => scheduler.clone_from(name),
                ServiceAttribute::PersistenceEngine(name) => engine = Some(name.clone()),
                ServiceAttribute::Flags(f) => flags = f.wanted(),
                ServiceAttribute::Timeout(n) => timeout = *n,
                ServiceAttribute::Netmask(n) => mask = Some(*n),
                ServiceAttribute::Stats64(counters) => stats = Stats::from(counters.as_slice()),
                ServiceAttribute::Stats(_) | ServiceAttribute::Other(_) => {}
            }
        }
        let family = match family {
            Some(2) => AddressFamily::Ipv4,
            Some(10) => AddressFamily::Ipv6,
            other => return Err(DecodeError::from(format!("service of family {other:?}"))),
        };
        let key = match (mark, protocol, raw, port) {
            (Some(mark), ..) => ServiceKey::FwMark { family, mark },
            (None, Some(protocol), Some(raw), Some(port)) => ServiceKey::Address {
                protocol,
                address: address(&raw, family == AddressFamily::Ipv6),
                port,
            },
            _ => {
                return Err(DecodeError::from(
                    "service without mark and without address".to_owned(),
                ));
            }
        };
        let prefix = match (family, mask) {
            (AddressFamily::Ipv4, Some(mask)) => {
                // the mask's bits count, whatever their order
                mask.count_ones() as u8
            }
            (AddressFamily::Ipv4, None) => 32,
            (AddressFamily::Ipv6, Some(prefix)) => u8::try_from(prefix).unwrap_or(128),
            (AddressFamily::Ipv6, None) => 128,
        };
        Ok(Self {
            key,
            scheduler,
            flags,
            timeout,
            prefix,
            persistence_engine: engine,
            stats,
        })
    }
}
