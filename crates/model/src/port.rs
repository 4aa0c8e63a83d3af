use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};

/// A transport protocol that can be published.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP, the default.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// `tcp`, `udp` or `sctp`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Protocol {
    type Err = InvalidPort;
    fn from_str(text: &str) -> Result<Self, InvalidPort> {
        match text.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "sctp" => Ok(Self::Sctp),
            _ => Err(InvalidPort::Protocol(text.to_owned())),
        }
    }
}

/// Where a published port answers.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum PublishMode {
    /// On every node, whether or not a task runs there.
    #[default]
    Ingress,
    /// Only on nodes that run a task.
    Host,
}

impl PublishMode {
    /// `ingress` or `host`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Host => "host",
        }
    }
}

/// One wish of `--publish`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PublishedPort {
    /// Protocol of both sides.
    pub protocol: Protocol,
    /// The task's port.
    pub target: u16,
    /// The host's port; `None`: one is chosen from 30000 to 32767.
    pub published: Option<u16>,
    /// Ingress or host.
    pub mode: PublishMode,
    /// Only on this host address; `None`: on every one.
    pub host_ip: Option<IpAddr>,
}

/// What a published port takes on the host: nobody else may have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Listener {
    /// Only on this host address; `None`: on every one.
    pub host_ip: Option<IpAddr>,
    /// Protocol.
    pub protocol: Protocol,
    /// Port on the host.
    pub port: u16,
}

impl Listener {
    /// Whether both cannot exist at once: same protocol and port, and an address in common.
    pub fn clashes(&self, other: &Self) -> bool {
        let every = |listener: &Self| listener.host_ip.is_none_or(|ip| ip.is_unspecified());
        self.protocol == other.protocol
            && self.port == other.port
            && (self.host_ip == other.host_ip || every(self) || every(other))
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(ip) = self.host_ip {
            write!(
                f,
                "{}/{}",
                std::net::SocketAddr::new(ip, self.port),
                self.protocol
            )
        } else {
            write!(f, "{}/{}", self.port, self.protocol)
        }
    }
}

/// Why a published port was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPort {
    /// Not `tcp`, `udp` or `sctp`.
    #[error("protocol {0:?} is not known: use tcp, udp or sctp")]
    Protocol(String),
    /// Not a number from 1 to 65535.
    #[error("port {0:?} is not valid: use a number from 1 to 65535")]
    Number(String),
    /// Not an address.
    #[error("host address {0:?} is not valid: use an IPv4 address, or an IPv6 address in brackets")]
    HostIp(String),
    /// The two ranges differ in length.
    #[error("port ranges {0} and {1} differ in length: publish as many ports as are targeted")]
    Ranges(String, String),
    /// The long form has a key that it does not know, or lacks one.
    #[error("--publish {0:?}: {1}")]
    LongForm(String, String),
}

/// A host address where colons follow: IPv6 is in brackets.
fn bracketed(text: &str) -> Result<IpAddr, InvalidPort> {
    let inner = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    let ip = match inner {
        // packets to an IPv4 address that is written as IPv6 are IPv4
        Some(inner) => inner.parse().ok().map(|ip| IpAddr::V6(ip).to_canonical()),
        None => text.parse().ok().map(IpAddr::V4),
    };
    ip.ok_or_else(|| InvalidPort::HostIp(text.to_owned()))
}

fn number(text: &str) -> Result<u16, InvalidPort> {
    match text.parse::<u16>() {
        // `parse` takes a sign; docker does not
        Ok(n) if n > 0 && !text.starts_with('+') => Ok(n),
        _ => Err(InvalidPort::Number(text.to_owned())),
    }
}

fn range(text: &str) -> Result<std::ops::RangeInclusive<u16>, InvalidPort> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err(InvalidPort::Number(text.to_owned()));
    }
    Ok(first..=last)
}

impl PublishedPort {
    /// Reads one `--publish` in docker's short form
    /// `[[HOST_IP:][PUBLISHED[-END]]:]TARGET[-END][/PROTOCOL]` or its long form
    /// `target=80,published=8080,protocol=tcp,mode=ingress,host_ip=1.2.3.4`,
    /// which takes ranges as well. An IPv6 address is in brackets; the long form
    /// also takes it without. A range gives one entry a port.
    ///
    /// # Errors
    /// [`InvalidPort`] says which part is wrong.
    pub fn parse(text: &str) -> Result<Vec<Self>, InvalidPort> {
        if text.contains('=') {
            Self::parse_long(text)
        } else {
            Self::parse_short(text)
        }
    }

    /// What holds as long as nothing is said.
    const NOTHING: Self = Self {
        protocol: Protocol::Tcp,
        target: 0,
        published: None,
        mode: PublishMode::Ingress,
        host_ip: None,
    };

    /// The same for each port of two ranges.
    fn each(self, target: &str, published: Option<&str>) -> Result<Vec<Self>, InvalidPort> {
        let targets = range(target)?;
        let one = |target, published| Self {
            target,
            published,
            ..self
        };
        let Some(text) = published else {
            return Ok(targets.map(|target| one(target, None)).collect());
        };
        let published = range(text)?;
        if published.len() != targets.len() {
            return Err(InvalidPort::Ranges(text.to_owned(), target.to_owned()));
        }
        let both = targets.zip(published);
        Ok(both.map(|(t, p)| one(t, Some(p))).collect())
    }

    fn parse_short(text: &str) -> Result<Vec<Self>, InvalidPort> {
        let (ports, protocol) = match text.rsplit_once('/') {
            Some((ports, protocol)) => (ports, protocol.parse()?),
            None => (text, Protocol::Tcp),
        };
        let (rest, target) = match ports.rsplit_once(':') {
            Some((rest, target)) => (Some(rest), target),
            None => (None, ports),
        };
        let (host_ip, published) = match rest.and_then(|rest| rest.rsplit_once(':')) {
            Some((ip, published)) => (Some(bracketed(ip)?), Some(published)),
            None => (None, rest),
        };
        let port = Self {
            protocol,
            host_ip,
            ..Self::NOTHING
        };
        port.each(target, published.filter(|text| !text.is_empty()))
    }

    fn parse_long(text: &str) -> Result<Vec<Self>, InvalidPort> {
        let wrong = |why: String| InvalidPort::LongForm(text.to_owned(), why);
        let mut port = Self::NOTHING;
        let (mut target, mut published) = (None, None);
        for field in text.split(',') {
            let (key, value) = field
                .split_once('=')
                .ok_or_else(|| wrong(format!("{field:?} is not KEY=VALUE")))?;
            match key.trim() {
                "target" => target = Some(value),
                "published" => published = Some(value),
                "protocol" => port.protocol = value.parse()?,
                "host_ip" => {
                    let ip = value.parse().or_else(|_| bracketed(value))?;
                    port.host_ip = Some(IpAddr::to_canonical(&ip));
                }
                "mode" => {
                    port.mode = match value {
                        "ingress" => PublishMode::Ingress,
                        "host" => PublishMode::Host,
                        _ => return Err(wrong(format!("mode {value:?}: use ingress or host"))),
                    }
                }
                _ => {
                    return Err(wrong(format!(
                        "{key:?} is not known: use target, published, protocol, mode, host_ip"
                    )));
                }
            }
        }
        let target =
            target.ok_or_else(|| wrong("target is missing: add target=PORT".to_owned()))?;
        port.each(target, published)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> PublishedPort {
        let mut ports = PublishedPort::parse(text).unwrap();
        assert_eq!(ports.len(), 1);
        ports.remove(0)
    }

    #[test]
    fn short_form() {
        let p = one("8080:80");
        assert_eq!(
            (p.published, p.target, p.protocol),
            (Some(8080), 80, Protocol::Tcp)
        );
        assert_eq!(one("53:5353/udp").protocol, Protocol::Udp);
        assert_eq!(one("80").published, None);
        assert_eq!(
            one("127.0.0.1:8080:80").host_ip,
            Some("127.0.0.1".parse().unwrap())
        );
        assert_eq!(one("[::1]:8080:80").host_ip, Some("::1".parse().unwrap()));
        assert_eq!(PublishedPort::parse("8000-8002:80-82").unwrap().len(), 3);
        // each family's any address is kept: it says which family
        for any in ["0.0.0.0", "[::]"] {
            let ip = one(&format!("{any}:8080:80/udp")).host_ip.unwrap();
            assert!(ip.is_unspecified() && ip.is_ipv6() == any.starts_with('['));
        }
    }

    #[test]
    fn long_form() {
        let p = one("published=8080,target=80,protocol=udp,mode=host");
        assert_eq!((p.published, p.target), (Some(8080), 80));
        assert_eq!((p.protocol, p.mode), (Protocol::Udp, PublishMode::Host));
        for ip in ["::1", "[::1]"] {
            let p = one(&format!("target=80,published=8080,host_ip={ip}"));
            assert_eq!(p.host_ip, Some("::1".parse().unwrap()));
        }
        let mapped = Some([127, 0, 0, 1].into());
        assert_eq!(one("[::ffff:127.0.0.1]:80:80").host_ip, mapped);
        assert_eq!(one("target=80,host_ip=::ffff:127.0.0.1").host_ip, mapped);
    }

    #[test]
    fn both_forms_take_ranges() {
        let long = "target=8000-8010,published=9000-9010,protocol=udp,host_ip=127.0.0.1";
        let ports = PublishedPort::parse(long).unwrap();
        assert_eq!(
            ports,
            PublishedPort::parse("127.0.0.1:9000-9010:8000-8010/udp").unwrap()
        );
        assert_eq!(ports.len(), 11);
        assert_eq!((ports[10].target, ports[10].published), (8010, Some(9010)));
        let automatic = PublishedPort::parse("target=80-82").unwrap();
        assert!(automatic.len() == 3 && automatic.iter().all(|p| p.published.is_none()));
        assert_eq!(
            PublishedPort::parse("1-65535:1-65535").unwrap().len(),
            65535
        );
    }

    #[test]
    fn wrong_ports_are_refused() {
        for bad in [
            "",
            "0",
            "65536",
            "-1",
            "+80",
            "a:80",
            "80:a",
            "80/icmp",
            "8000-8001:80",
            "9-8",
            "x:80:80",
            "target=0",
            "published=80",
            "target=80,color=red",
            "target=80,mode=x",
            "80:",
            "::1:8080:80",
            "[127.0.0.1]:8080:80",
            "[::1:8080:80",
            "[]:8080:80",
            "[::1]:80-81:80",
            "target=80,published=",
            "target=80-81,published=80",
            "target=81-80",
            "target=80,host_ip=[127.0.0.1]",
        ] {
            assert!(PublishedPort::parse(bad).is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        /// What `--publish` says in either form is what is meant.
        #[test]
        fn both_forms_say_the_same(
            target in 1..=u16::MAX,
            published in proptest::option::of(1..=u16::MAX),
            protocol in proptest::sample::select(vec![Protocol::Tcp, Protocol::Udp, Protocol::Sctp]),
            ip in proptest::option::of(proptest::prelude::any::<std::net::Ipv4Addr>()),
        ) {
            let meant = PublishedPort {
                protocol,
                target,
                published,
                mode: PublishMode::Ingress,
                host_ip: ip.map(IpAddr::V4),
            };
            let number = published.map_or_else(String::new, |p| p.to_string());
            let before = match (ip, published) {
                (Some(ip), _) => format!("{ip}:{number}:"),
                (None, Some(_)) => format!("{number}:"),
                (None, None) => String::new(),
            };
            proptest::prop_assert_eq!(&one(&format!("{before}{target}/{protocol}")), &meant);
            let mut long = format!("target={target},protocol={protocol}");
            if let Some(published) = published {
                long.push_str(&format!(",published={published}"));
            }
            if let Some(ip) = ip {
                long.push_str(&format!(",host_ip={ip}"));
            }
            proptest::prop_assert_eq!(&one(&long), &meant);
        }

        /// Any text is read or refused in words that have it in them.
        #[test]
        fn no_text_is_too_strange(text in "[-0-9:/,a-z=.\\[\\]]{0,24}") {
            match PublishedPort::parse(&text) {
                Ok(ports) => proptest::prop_assert!(ports.iter().all(|p| p.target > 0 && p.published != Some(0))),
                Err(error) => proptest::prop_assert!(error.to_string().contains('"') || error.to_string().contains("ranges")),
            }
        }
    }

    #[test]
    fn any_address_clashes_with_each() {
        let any = Listener {
            host_ip: None,
            protocol: Protocol::Tcp,
            port: 80,
        };
        let lo = Listener {
            host_ip: Some([127, 0, 0, 1].into()),
            ..any
        };
        let other = Listener {
            host_ip: Some([10, 0, 0, 1].into()),
            ..any
        };
        assert!(any.clashes(&lo) && lo.clashes(&any) && !lo.clashes(&other));
        // 0.0.0.0 is another word for it
        let zero = Listener {
            host_ip: Some([0, 0, 0, 0].into()),
            ..any
        };
        assert!(zero.clashes(&lo) && lo.clashes(&zero) && zero.clashes(&any));
        assert!(lo.clashes(&lo));
        assert!(!any.clashes(&Listener {
            protocol: Protocol::Udp,
            ..any
        }));
    }
}
