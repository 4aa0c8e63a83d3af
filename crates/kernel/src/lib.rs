//! The kernel's edge: namespaces, links, routes, IPVS, ipset, iptables and
//! sysctls, as the value types of `plan::netns` have them.
//!
//! Netlink is spoken synchronously: the kernel does a request's work inside
//! `send(2)`, so that an answer is there when it is asked for. Whoever needs it
//! from async code goes through [`Kernel`].
#![forbid(unsafe_code)]

mod attribute;
mod connections;
mod conntrack;
mod counters;
mod drift;
mod error;
pub mod evidence;
mod flowtable;
pub mod host;
pub mod ipset;
mod iptables;
pub mod ipvs;
mod ipvs_read;
mod ipvs_write;
pub mod machine;
pub mod netlink;
pub mod netns;
mod nftables;
mod place;
pub mod preflight;
pub mod privileges;
mod proc_ip_vs;
mod program;
mod route;
pub mod rules;
pub mod scheduler;
mod sockets;
mod sysctl;
mod watch;
mod write;

pub use connections::Watched;
pub use counters::Counters;
pub use error::Error;
pub use place::{Kernel, LiveDestination, LiveService, LiveServices, Traffic};
