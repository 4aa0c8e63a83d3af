//! What somebody means by a word.

use std::net::{IpAddr, SocketAddr};

use model::{Listener, NetworkId, NodeId, Protocol, ServiceId, State, TaskId};

use crate::{ApiError, server::nodes::find_node};

/// What is to be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A service.
    Service(ServiceId),
    /// A task.
    Task(TaskId),
    /// An address of a service's.
    Vip(IpAddr),
    /// A port of the host's.
    Port(PortTarget),
    /// A network.
    Network(NetworkId),
    /// A node.
    Node(NodeId),
}

/// A port of the host's, as far as somebody said which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortTarget {
    /// On this address; `None`: on any.
    pub host_ip: Option<IpAddr>,
    /// Of this protocol; `None`: of any.
    pub protocol: Option<Protocol>,
    /// The number.
    pub port: u16,
}

/// What can be said before a name, to mean that kind of thing.
const KINDS: [&str; 6] = ["service", "task", "vip", "port", "network", "node"];

impl PortTarget {
    /// Whether a listener is meant.
    pub fn means(&self, listener: &Listener) -> bool {
        let at = listener.host_ip.filter(|ip| !ip.is_unspecified());
        // one of every address answers on that one as well
        let on = self.host_ip.is_none_or(|ip| at.is_none_or(|at| at == ip));
        let protocol = self.protocol.is_none_or(|it| it == listener.protocol);
        on && protocol && listener.port == self.port
    }

    /// `8080`, `8080/udp`, `127.0.0.1:8080`, `[::1]:8080/tcp`
    fn read(text: &str) -> Option<Self> {
        let (at, protocol) = match text.split_once('/') {
            Some((at, protocol)) => (at, Some(protocol.parse().ok()?)),
            None => (text, None),
        };
        let (host_ip, port) = match at.parse::<SocketAddr>() {
            Ok(at) => (Some(at.ip()).filter(|ip| !ip.is_unspecified()), at.port()),
            Err(_) => (None, at.parse().ok()?),
        };
        (port > 0).then_some(Self {
            host_ip,
            protocol,
            port,
        })
    }
}

impl std::fmt::Display for PortTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.host_ip {
            Some(ip) => SocketAddr::new(ip, self.port).fmt(f)?,
            None => self.port.fmt(f)?,
        }
        self.protocol
            .map_or(Ok(()), |protocol| write!(f, "/{protocol}"))
    }
}

impl Target {
    /// What `text` means: the first that there is of a service, a task, an address, a
    /// port, a network and a node; with `kind`, that one.
    ///
    /// # Errors
    /// There is nothing like that.
    pub fn find(
        state: &State,
        me: &NodeId,
        text: &str,
        kind: Option<&str>,
    ) -> Result<Self, ApiError> {
        if let Some(kind) = kind.filter(|kind| !KINDS.contains(kind)) {
            return Err(ApiError::invalid(format!(
                "type {kind:?} is not known: use {}",
                KINDS.join(", ")
            )));
        }
        let of = |wanted: &str| kind.is_none_or(|kind| kind == wanted);
        let service = || Some(Self::Service(state.find_service(text)?.id.clone()));
        let task = || Some(Self::Task(state.find_task(text)?.id.clone()));
        let vip = || {
            let ip: IpAddr = text.parse().ok()?;
            // a task's own address means that task
            let owner = state.tasks.values().find(|task| {
                task.addresses().any(|at| at == ip)
                    && state.status(&task.id).is_some_and(|s| s.attached)
            });
            Some(owner.map_or(Self::Vip(ip), |task| Self::Task(task.id.clone())))
        };
        let port = || Some(Self::Port(PortTarget::read(text)?));
        let network = || Some(Self::Network(state.find_network(text)?.id.clone()));
        let node = || Some(Self::Node(find_node(state, me, text)?.id.clone()));
        let found = None
            .or_else(|| of("service").then(service)?)
            .or_else(|| of("task").then(task)?)
            .or_else(|| of("vip").then(vip)?)
            .or_else(|| of("port").then(port)?)
            .or_else(|| of("network").then(network)?)
            .or_else(|| of("node").then(node)?);
        found.ok_or_else(|| match kind {
            Some(kind) => ApiError::not_found(kind, text),
            None => ApiError::not_found("service, task, address, port, network or node", text),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read() {
        let read = |text: &str| PortTarget::read(text).map(|port| port.to_string());
        for text in ["8080", "8080/udp", "127.0.0.1:8080", "[::1]:53/udp"] {
            assert_eq!(read(text).as_deref(), Some(text));
        }
        assert_eq!(read("0.0.0.0:80").as_deref(), Some("80"));
        for wrong in [
            "0",
            "web",
            "8080/icmp",
            "70000",
            "127.0.0.1",
            "::1:80x",
            "/tcp",
            "",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_port_of_every_address_is_meant_by_each() {
        let listener = |text: &str| {
            let port = model::PublishedPort::parse(text).unwrap().remove(0);
            Listener {
                host_ip: port.host_ip,
                protocol: port.protocol,
                port: port.published.unwrap(),
            }
        };
        let means = |text: &str, port: &str| PortTarget::read(text).unwrap().means(&listener(port));
        assert!(means("8080", "8080:80") && means("8080", "8080:80/udp"));
        assert!(means("127.0.0.1:8080", "8080:80") && means("8080", "127.0.0.1:8080:80"));
        assert!(!means("127.0.0.2:8080", "127.0.0.1:8080:80"));
        assert!(!means("8080/tcp", "8080:80/udp") && !means("8081", "8080:80"));
    }
}
