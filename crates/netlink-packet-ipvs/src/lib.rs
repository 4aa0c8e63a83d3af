// SPDX-License-Identifier: MIT OR Apache-2.0

//! IPVS over generic netlink: the wire format of `include/uapi/linux/ip_vs.h`,
//! and nothing that talks to a kernel.
//!
//! Two layers: [`IpvsMessage`] with its attributes is what the bytes say, and
//! keeps what it does not know; [`Service`] and [`Destination`] are what that
//! means.
//!
//! Byte order: addresses and ports are in network order on the wire, everything
//! else is in the host's. Values here are always plain numbers.
#![forbid(unsafe_code)]

mod attribute;
mod daemon;
mod destination;
mod message;
mod service;
mod stats;

pub use daemon::DaemonAttribute;
pub use destination::{Destination, DestinationAttribute, ForwardingMethod, Tunnel, TunnelKind};
pub use message::{IpvsAttribute, IpvsCmd, IpvsMessage};
pub use service::{AddressFamily, Flags, Service, ServiceAttribute, ServiceKey};
pub use stats::{Stats, Stats32Attribute, StatsAttribute};
