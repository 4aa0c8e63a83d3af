//! Who asks, and whom: the words of a request, found in the state.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use api::ApiError;
use model::{
    AllocatedPort, Mark, NetworkId, Protocol, Service, ServiceId, State, Task, TaskId, Versioned,
};

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    /// A task of this node.
    Task(TaskId),
    /// The node itself.
    Host,
    /// Another machine: nothing can be sent from there.
    Elsewhere(IpAddr),
}

/// Who is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A service by its VIP, which the router balances.
    Vip {
        service: ServiceId,
        network: NetworkId,
        mark: Mark,
    },
    /// A service by a published port, which the ingress namespace balances.
    Port { service: ServiceId, published: u16 },
    /// A task by its own address.
    Task(TaskId),
    /// Somebody outside of the mesh.
    Outside,
}

impl Target {
    /// The service that is asked, if it is one.
    pub(crate) fn service(&self) -> Option<&ServiceId> {
        match self {
            Self::Vip { service, .. } | Self::Port { service, .. } => Some(service),
            Self::Task(_) | Self::Outside => None,
        }
    }
}

/// What `--to` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum To {
    Port(u16),
    Address(IpAddr, Option<u16>),
    Name(String, Option<u16>),
}

impl To {
    /// `80`, `10.200.0.1`, `10.200.0.1:80`, `[fd00::1]:80`, `vote`, `vote:80`.
    pub(crate) fn parse(text: &str, port: Option<u16>) -> Result<Self, ApiError> {
        let both = |own: Option<u16>| match (own, port) {
            (Some(own), Some(port)) if own != port => Err(ApiError::invalid(format!(
                "two ports: {own} of {text:?}, and {port}; give one"
            ))),
            (own, port) => Ok(own.or(port)),
        };
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self::Address(address.ip(), both(Some(address.port()))?));
        }
        if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
            return Ok(Self::Address(ip, both(None)?));
        }
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let number = |text: &str| {
            let number = text.parse().ok().filter(|port| *port > 0);
            number.ok_or_else(|| ApiError::invalid(format!("{text} is no port: use 1 to 65535")))
        };
        if digits(text) {
            return Ok(Self::Port(both(Some(number(text)?))?.unwrap_or_default()));
        }
        let (name, own) = match text.rsplit_once(':') {
            Some((name, own)) if digits(own) => (name, Some(number(own)?)),
            _ => (text, None),
        };
        if name.is_empty() {
            return Err(ApiError::invalid(
                "nobody to ask: give a name, an address or a port",
            ));
        }
        Ok(Self::Name(name.to_owned(), both(own)?))
    }
}

/// Whose address it is; of a task that runs rather than of one that did.
pub(crate) fn task_at(state: &State, ip: IpAddr) -> Option<&Versioned<Task>> {
    let has = |task: &&Versioned<Task>| task.addresses().any(|address| address == ip);
    let mut tasks: Vec<_> = state.tasks.values().filter(has).collect();
    tasks.sort_by_key(|task| !is_here(state, &task.id));
    tasks.into_iter().next()
}

/// Whether its namespace exists.
fn is_here(state: &State, task: &TaskId) -> bool {
    let status = state.status(task);
    status.is_some_and(|status| status.attached || status.runs())
}

/// Finds who asks. `own` are the host's addresses.
pub(crate) fn client(state: &State, own: &[IpAddr], text: &str) -> Result<Client, ApiError> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        let ip = ip.to_canonical();
        if ip.is_loopback() || own.contains(&ip) {
            return Ok(Client::Host);
        }
        return Ok(match task_at(state, ip) {
            Some(task) => Client::Task(task.id.clone()),
            None => Client::Elsewhere(ip),
        });
    }
    // a service is any of its tasks
    let of_service = || {
        let service = state.find_service(text)?;
        let mut tasks = state.tasks_of(&service.id).into_iter();
        tasks.find(|task| is_here(state, &task.id))
    };
    let task = state.find_task(text).or_else(of_service);
    match task {
        Some(task) if is_here(state, &task.id) => Ok(Client::Task(task.id.clone())),
        Some(task) => Err(ApiError {
            kind: api::ErrorKind::Conflict,
            message: format!(
                "task {} does not run; see: ipvsmesh service ps {}",
                task.name(),
                task.service_name
            ),
        }),
        None if text == "host" || text == "localhost" => Ok(Client::Host),
        None => Err(ApiError {
            message: format!("task {text} not found: give a task, host, or an address"),
            ..ApiError::not_found("task", text)
        }),
    }
}

/// What an address and port are. `own` are the host's addresses.
pub(crate) fn target(
    state: &State,
    own: &[IpAddr],
    ip: IpAddr,
    port: Option<u16>,
    protocol: Protocol,
) -> Target {
    for service in state.services.values() {
        if let Some(vip) = service.endpoint.vips.iter().find(|vip| vip.address == ip) {
            return Target::Vip {
                service: service.id.clone(),
                network: vip.network.clone(),
                mark: if protocol == Protocol::Udp {
                    vip.udp
                } else {
                    vip.tcp
                },
            };
        }
    }
    if let Some(task) = task_at(state, ip) {
        return Target::Task(task.id.clone());
    }
    if (ip.is_loopback() || own.contains(&ip))
        && let Some(port) = port
        && let Some((service, _)) = published(state, Some(ip), port, protocol)
    {
        return Target::Port {
            service: service.id.clone(),
            published: port,
        };
    }
    Target::Outside
}

/// The service that publishes a port, on an address or on any one.
pub(crate) fn published(
    state: &State,
    ip: Option<IpAddr>,
    number: u16,
    protocol: Protocol,
) -> Option<(&Versioned<Service>, &AllocatedPort)> {
    let fits = |port: &&AllocatedPort| {
        let listener = port.listener();
        let on = listener.host_ip.filter(|on| !on.is_unspecified());
        (listener.protocol, listener.port) == (protocol, number)
            && on.zip(ip).is_none_or(|(on, ip)| on == ip)
    };
    let mut services = state.services.values();
    services.find_map(|service| {
        let mut ports = service.endpoint.ports.iter();
        Some((service, ports.find(fits)?))
    })
}

/// The host's address by which a client asks for a published port.
pub(crate) fn address_of_port(port: &AllocatedPort, client: &Client, own: &[IpAddr]) -> IpAddr {
    let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
    let specific = port.port.host_ip.filter(|ip| !ip.is_unspecified());
    let same = |ip: &&IpAddr| match client {
        Client::Elsewhere(from) => ip.is_ipv4() == from.is_ipv4(),
        Client::Task(_) | Client::Host => ip.is_ipv4(),
    };
    match (specific, client) {
        (Some(ip), _) => ip,
        (None, Client::Host) => loopback,
        (None, Client::Task(_) | Client::Elsewhere(_)) => {
            own.iter().find(same).copied().unwrap_or(loopback)
        }
    }
}

/// The port of its tasks that a service publishes first.
pub(crate) fn first_port(service: &Service, protocol: Protocol) -> Option<u16> {
    let mut ports = service.endpoint.ports.iter().map(|port| &port.port);
    Some(ports.find(|port| port.protocol == protocol)?.target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_port_an_address_or_a_name() {
        let parse = |text: &str| To::parse(text, None).unwrap();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(parse("8080"), To::Port(8080));
        assert_eq!(parse("10.200.0.1"), To::Address(ip("10.200.0.1"), None));
        assert_eq!(
            parse("10.200.0.1:80"),
            To::Address(ip("10.200.0.1"), Some(80))
        );
        assert_eq!(parse("fd00::1"), To::Address(ip("fd00::1"), None));
        assert_eq!(parse("[fd00::1]"), To::Address(ip("fd00::1"), None));
        assert_eq!(parse("[fd00::1]:80"), To::Address(ip("fd00::1"), Some(80)));
        assert_eq!(parse("vote"), To::Name("vote".to_owned(), None));
        assert_eq!(parse("vote:81"), To::Name("vote".to_owned(), Some(81)));
        assert_eq!(parse("vote.1"), To::Name("vote.1".to_owned(), None));
        assert_eq!(
            To::parse("vote", Some(81)).unwrap(),
            To::Name("vote".to_owned(), Some(81))
        );
        assert_eq!(To::parse("80", Some(80)).unwrap(), To::Port(80));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (text, port) in [
            ("0", None),
            ("65536", None),
            ("vote:0", None),
            ("vote:80", Some(81)),
            ("80", Some(81)),
            ("", None),
            (":80", None),
        ] {
            let error = To::parse(text, port).unwrap_err();
            assert_eq!(error.kind, api::ErrorKind::Invalid, "{text} {error}");
        }
    }

    #[test]
    fn nobody_of_that_name_asks() {
        let state = State::default();
        let own = [IpAddr::from([192, 0, 2, 1])];
        assert_eq!(client(&state, &own, "host").unwrap(), Client::Host);
        assert_eq!(client(&state, &own, "192.0.2.1").unwrap(), Client::Host);
        let other = IpAddr::from([198, 51, 100, 9]);
        assert_eq!(
            client(&state, &own, "198.51.100.9").unwrap(),
            Client::Elsewhere(other)
        );
        let error = client(&state, &own, "nobody").unwrap_err();
        assert_eq!(error.kind, api::ErrorKind::NotFound);
    }
}
