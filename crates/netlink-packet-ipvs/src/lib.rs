//! IPVS over generic netlink: the wire format.
