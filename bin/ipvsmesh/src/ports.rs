//! Published ports: between their JSON and the domain's words, and how a list of
//! them is shown.

use std::net::IpAddr;

use model::{Protocol, PublishMode, PublishedPort};
use serde_json::Value;

use crate::output::{number, text};

/// What [`api::port`] wrote, or Docker did; `None`: no port that we know.
pub(crate) fn from_json(port: &Value) -> Option<PublishedPort> {
    let protocol = match text(port, "/Protocol") {
        "" => Protocol::Tcp,
        protocol => protocol.parse().ok()?,
    };
    let host_ip = match text(port, "/HostIP") {
        "" => None,
        ip => Some(ip.parse().ok()?),
    };
    Some(PublishedPort {
        protocol,
        target: u16::try_from(number(port, "/TargetPort")).ok()?,
        published: u16::try_from(number(port, "/PublishedPort"))
            .ok()
            .filter(|port| *port > 0),
        mode: match text(port, "/PublishMode") {
            "host" => PublishMode::Host,
            _ => PublishMode::Ingress,
        },
        host_ip,
    })
}

/// Neighbouring ports that differ in nothing else.
#[derive(Debug)]
pub(crate) struct Range {
    /// The first of them.
    first: PublishedPort,
    /// How many follow it.
    more: u16,
}

/// Ports in docker's order, neighbours joined.
pub(crate) fn ranges(ports: &[Value]) -> Vec<Range> {
    let key = |p: &PublishedPort| (p.protocol, p.host_ip, p.mode, p.published, p.target);
    let mut sorted: Vec<_> = ports.iter().filter_map(from_json).collect();
    sorted.sort_by_key(key);
    let mut ranges: Vec<Range> = Vec::new();
    for port in sorted {
        match ranges.last_mut() {
            Some(range) if range.after() == Some(port.clone()) => range.more += 1,
            _ => ranges.push(Range {
                first: port,
                more: 0,
            }),
        }
    }
    ranges
}

impl Range {
    /// The port that would make it longer.
    fn after(&self) -> Option<PublishedPort> {
        let next = |port: u16| port.checked_add(self.more)?.checked_add(1);
        Some(PublishedPort {
            target: next(self.first.target)?,
            published: Some(next(self.first.published?)?),
            ..self.first.clone()
        })
    }

    fn span(&self, first: u16) -> String {
        match self.more {
            0 => first.to_string(),
            more => format!("{first}-{}", first.saturating_add(more)),
        }
    }

    /// The host's ports, `8000-8010`.
    pub(crate) fn published(&self) -> String {
        self.span(self.first.published.unwrap_or(0))
    }

    /// The task's ports.
    pub(crate) fn target(&self) -> String {
        self.span(self.first.target)
    }

    /// What they have in common.
    pub(crate) fn common(&self) -> &PublishedPort {
        &self.first
    }
}

impl std::fmt::Display for Range {
    /// `*:8080->80/tcp`, and the host's address instead of the star.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.first.host_ip {
            None => f.write_str("*"),
            Some(IpAddr::V4(ip)) => write!(f, "{ip}"),
            Some(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
        }?;
        let (published, target) = (self.published(), self.target());
        write!(f, ":{published}->{target}/{}", self.first.protocol)
    }
}

/// Those of one mode in one line.
pub(crate) fn line(ports: &[Value], mode: PublishMode) -> String {
    let ranges = ranges(ports);
    let of_mode = ranges.iter().filter(|range| range.first.mode == mode);
    let shown: Vec<_> = of_mode.map(ToString::to_string).collect();
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The line of what `--publish` says.
    fn shown(publish: &[&str]) -> String {
        let ports = publish
            .iter()
            .flat_map(|text| PublishedPort::parse(text).unwrap());
        line(
            &ports.map(|p| api::port(&p)).collect::<Vec<_>>(),
            PublishMode::Ingress,
        )
    }

    #[test]
    fn neighbours_are_ranges() {
        assert_eq!(
            shown(&["53:53/udp", "8001:81", "8000:80", "8002:90"]),
            "*:8000-8001->80-81/tcp, *:8002->90/tcp, *:53->53/udp"
        );
        assert_eq!(
            shown(&["8000-8010:8000-8010"]),
            "*:8000-8010->8000-8010/tcp"
        );
        assert_eq!(shown(&["65534-65535:1-2"]), "*:65534-65535->1-2/tcp");
        assert_eq!(
            shown(&["8000:80", "8001:80"]),
            "*:8000->80/tcp, *:8001->80/tcp"
        );
        assert_eq!(shown(&[]), "");
    }

    #[test]
    fn each_host_address_has_its_own() {
        assert_eq!(
            shown(&[
                "[::1]:80-81:80-81",
                "127.0.0.1:80:80",
                "0.0.0.0:79:79",
                "81:81",
                "[::]:1:1"
            ]),
            "*:81->81/tcp, 0.0.0.0:79->79/tcp, 127.0.0.1:80->80/tcp, [::]:1->1/tcp, [::1]:80-81->80-81/tcp"
        );
    }

    #[test]
    fn modes_are_apart() {
        let host = "target=80,published=8080,mode=host";
        assert_eq!(shown(&[host, "8081:81"]), "*:8081->81/tcp");
        let port = api::port(&PublishedPort::parse(host).unwrap()[0]);
        assert_eq!(line(&[port], PublishMode::Host), "*:8080->80/tcp");
    }

    #[test]
    fn as_many_as_there_can_be_are_shown_at_once() {
        assert_eq!(shown(&["1-65535:1-65535"]), "*:1-65535->1-65535/tcp");
    }

    proptest::proptest! {
        /// Nothing is lost on the way to the daemon and back.
        #[test]
        fn json_and_back(
            target in 1..=u16::MAX,
            published in proptest::option::of(1..=u16::MAX),
            protocol in proptest::sample::select(vec![Protocol::Tcp, Protocol::Udp, Protocol::Sctp]),
            mode in proptest::sample::select(vec![PublishMode::Ingress, PublishMode::Host]),
            host_ip in proptest::option::of(proptest::prelude::any::<IpAddr>()),
        ) {
            let port = PublishedPort { protocol, target, published, mode, host_ip };
            proptest::prop_assert_eq!(from_json(&api::port(&port)), Some(port));
        }
    }
}
