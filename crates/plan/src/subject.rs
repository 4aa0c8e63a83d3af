//! What a write to the kernel is about, in the words of the tools that show it.

use crate::netns::{Entry, Family, Op};

impl Op {
    /// The thing that it makes, changes or takes away, such as `route to 10.100.0.2/32`.
    pub fn subject(&self) -> String {
        match self {
            Self::AddLink(name, _) | Self::SetLink(name, _) | Self::DelLink(name) => {
                format!("link {name}")
            }
            Self::AddAddress(link, net) | Self::DelAddress(link, net) => {
                format!("address {net} of link {link}")
            }
            Self::AddRoute(route) | Self::DelRoute(route) => format!("route to {}", route.to),
            Self::SetSysctl(path, _) => format!("sysctl {path}"),
            Self::CreateSet(name, _) | Self::DestroySet(name) => format!("set {name}"),
            Self::AddEntry(set, entry, _) | Self::DelEntry(set, entry) => {
                format!("entry {entry} of set {set}")
            }
            Self::Restore { family, table, .. } => {
                let program = match family {
                    Family::V4 => "iptables",
                    Family::V6 => "ip6tables",
                };
                format!("{program} table {}", table.as_str())
            }
            Self::SetFlowtable(_) | Self::DelFlowtable => "the flowtable".to_owned(),
            Self::SetTimeouts(_) => "IPVS time-outs".to_owned(),
            Self::NewService(_, mark, _)
            | Self::SetService(_, mark, _)
            | Self::DelService(_, mark) => format!("IPVS service {mark}"),
            Self::NewDestination(_, mark, to, _)
            | Self::SetDestination(_, mark, to, _)
            | Self::DelDestination(_, mark, to) => {
                format!("destination {} of IPVS service {mark}", with_port(*to))
            }
        }
    }

    /// What is wrong with it while the write is not made.
    pub fn lack(&self) -> &'static str {
        match self {
            Self::AddLink(..)
            | Self::AddAddress(..)
            | Self::AddRoute(_)
            | Self::CreateSet(..)
            | Self::AddEntry(..)
            | Self::NewService(..)
            | Self::NewDestination(..) => "missing",
            Self::SetLink(..)
            | Self::SetSysctl(..)
            | Self::Restore { .. }
            | Self::SetFlowtable(_)
            | Self::SetTimeouts(_)
            | Self::SetService(..)
            | Self::SetDestination(..) => "changed",
            Self::DelLink(_)
            | Self::DelAddress(..)
            | Self::DelRoute(_)
            | Self::DestroySet(_)
            | Self::DelEntry(..)
            | Self::DelFlowtable
            | Self::DelService(..)
            | Self::DelDestination(..) => "not ours",
        }
    }
}

/// Where a destination is; port 0 keeps the packet's, and goes without saying.
pub fn with_port((address, port): (std::net::IpAddr, u16)) -> String {
    match port {
        0 => address.to_string(),
        _ => std::net::SocketAddr::new(address, port).to_string(),
    }
}

impl std::fmt::Display for Entry {
    /// As `ipset save` prints it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Port(port) => port.fmt(f),
            Self::Ip(ip) => ip.fmt(f),
            Self::IpPort(ip, protocol, port) => write!(f, "{ip},{protocol}:{port}"),
            Self::NetPort(net, protocol, port) => write!(f, "{net},{protocol}:{port}"),
            Self::Net(net) => net.fmt(f),
            Self::NetNet(from, to) => write!(f, "{from},{to}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use model::{Mark, Protocol};

    use super::*;

    #[test]
    fn writes_are_named_by_what_they_are_about() {
        let mark = Mark::new(0x100).unwrap();
        let to = ("10.100.0.2".parse().unwrap(), 80);
        for (op, subject, lack) in [
            (
                Op::AddEntry(
                    "ports".to_owned(),
                    Entry::IpPort(to.0, Protocol::Tcp, 80),
                    Some(mark),
                ),
                "entry 10.100.0.2,tcp:80 of set ports",
                "missing",
            ),
            (
                Op::DelDestination(Family::V4, mark, to),
                "destination 10.100.0.2:80 of IPVS service 0x100",
                "not ours",
            ),
            (
                Op::SetSysctl("net/ipv4/ip_forward".to_owned(), "1".to_owned()),
                "sysctl net/ipv4/ip_forward",
                "changed",
            ),
        ] {
            assert_eq!((op.subject().as_str(), op.lack()), (subject, lack));
        }
    }
}
