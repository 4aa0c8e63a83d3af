//! The kernel's edge: namespaces, links, routes, IPVS, ipset, iptables, sysctl.
#![deny(unsafe_code)]
