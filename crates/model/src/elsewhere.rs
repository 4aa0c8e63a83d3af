//! Tasks that the mesh does not run: servers of others, and containers of others.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{Health, Protocol, options::label};

/// What is known of a task that the mesh only sends packets to. Its address is in its
/// attachments, and is none of the mesh's pools.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Elsewhere {
    /// Port that packets are sent to; `None`: the port of the VIP, or the target of the
    /// published port.
    #[serde(default)]
    pub port: Option<u16>,
    /// The container that it is; `None`: a server.
    #[serde(default)]
    pub container: Option<Guest>,
}

/// A container of somebody else's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guest {
    /// Docker's id, whole.
    pub id: String,
    /// Docker's name, without a slash.
    pub name: String,
    /// The networks of the bridge that it is reached by: clients on them do not get
    /// their answers by the host.
    #[serde(default)]
    pub bridges: Vec<IpNet>,
}

/// What Docker says of a container that asks by its labels to belong to a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Candidate {
    /// Docker's id, whole.
    pub id: String,
    /// Docker's name, without a slash.
    pub name: String,
    /// Its image, as it was asked for.
    pub image: String,
    /// All of its labels.
    pub labels: BTreeMap<String, String>,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// It runs, and is not paused.
    pub running: bool,
    /// What its own health check says.
    pub health: Health,
    /// Where it can be reached, one of each family.
    pub addresses: Vec<IpAddr>,
    /// The networks of the bridge on which these are.
    pub bridges: Vec<IpNet>,
    /// Ports that its image or its creator says it listens on.
    pub exposed: Vec<(u16, Protocol)>,
    /// Why it cannot be reached, if it runs and cannot.
    pub obstacle: Option<&'static str>,
}

/// Where a server of others is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Server {
    /// Of either family.
    pub ip: IpAddr,
    /// `None`: the port that was asked for.
    pub port: Option<u16>,
}

/// Not a server's address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidServer {
    /// It has another form.
    #[error(
        "endpoint {0:?} is not valid: use ADDRESS[:PORT], such as 192.0.2.10:80 or [2001:db8::10]:80"
    )]
    Form(String),
    /// No server can be there.
    #[error("endpoint {0} cannot be reached: {1}")]
    Unreachable(Server, &'static str),
    /// It is there twice.
    #[error("endpoint {0} is there twice: leave one of them out")]
    Twice(Server),
    /// There is none.
    #[error("a static service needs an endpoint: give --endpoint ADDRESS[:PORT]")]
    Missing,
}

impl FromStr for Server {
    type Err = InvalidServer;
    fn from_str(text: &str) -> Result<Self, InvalidServer> {
        let wrong = || InvalidServer::Form(text.to_owned());
        let bare = text.trim();
        let bare = bare
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(bare);
        let server = match (bare.parse::<IpAddr>(), text.trim().parse::<SocketAddr>()) {
            (Ok(ip), _) => Self {
                ip: ip.to_canonical(),
                port: None,
            },
            (_, Ok(at)) if at.port() > 0 => Self {
                ip: at.ip().to_canonical(),
                port: Some(at.port()),
            },
            _ => return Err(wrong()),
        };
        server.reachable()
    }
}

impl Server {
    fn reachable(self) -> Result<Self, InvalidServer> {
        let why = match self.ip {
            ip if ip.is_unspecified() => "it is no address of a server",
            ip if ip.is_loopback() => {
                "it is this host's own loopback, which cannot be reached from the mesh's namespaces; publish a process service instead, or let the server listen on an address of another machine"
            }
            ip if ip.is_multicast() => "it is a group's, no server's",
            IpAddr::V4(ip) if ip.is_broadcast() => "it is everybody's, no server's",
            IpAddr::V4(ip) if ip.is_link_local() => "it is link-local",
            IpAddr::V6(ip) if ip.is_unicast_link_local() => "it is link-local",
            _ => return Ok(self),
        };
        Err(InvalidServer::Unreachable(self, why))
    }

    /// Those of a static service, as its label [`label::ENDPOINTS`] says them, separated
    /// by commas, in their order.
    ///
    /// # Errors
    /// The first that is wrong; there is none.
    pub fn of_labels(labels: &BTreeMap<String, String>) -> Result<Vec<Self>, InvalidServer> {
        let text = labels.get(label::ENDPOINTS).map_or("", String::as_str);
        let parts = text.split(',').map(str::trim);
        let mut servers = Vec::new();
        for part in parts.filter(|part| !part.is_empty()) {
            let server = part.parse()?;
            if servers.contains(&server) {
                return Err(InvalidServer::Twice(server));
            }
            servers.push(server);
        }
        match servers.is_empty() {
            true => Err(InvalidServer::Missing),
            false => Ok(servers),
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.ip, port).fmt(f),
            None => self.ip.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_addresses_with_ports() {
        for (text, shown) in [
            ("192.0.2.10:80", "192.0.2.10:80"),
            (" 192.0.2.10 ", "192.0.2.10"),
            ("[2001:db8::10]:80", "[2001:db8::10]:80"),
            ("2001:db8::10", "2001:db8::10"),
            ("[2001:db8::10]", "2001:db8::10"),
            ("[::ffff:192.0.2.1]:1", "192.0.2.1:1"),
        ] {
            assert_eq!(text.parse::<Server>().unwrap().to_string(), shown);
        }
        for bad in [
            "",
            "web",
            "web:80",
            "192.0.2.10:0",
            "192.0.2.10:x",
            "192.0.2.10:65536",
            "127.0.0.1:80",
            "[::1]:80",
            "0.0.0.0:80",
            "224.0.0.1:80",
            "255.255.255.255",
            "169.254.0.1",
            "fe80::1",
        ] {
            assert!(bad.parse::<Server>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_label_lists_them() {
        let of = |text: &str| {
            let labels = BTreeMap::from([(label::ENDPOINTS.to_owned(), text.to_owned())]);
            Server::of_labels(&labels).map(|all| all.len())
        };
        assert_eq!(of("192.0.2.10:80, 192.0.2.10:81,"), Ok(2));
        assert!(matches!(
            of("192.0.2.10:80,192.0.2.10:80"),
            Err(InvalidServer::Twice(_))
        ));
        assert_eq!(of(" ,"), Err(InvalidServer::Missing));
    }
}
