//! What a question's answer is: pure, from the names alone.

use std::net::IpAddr;

use hickory_proto::{
    op::Query,
    rr::{DNSClass, Name, RecordType},
};
use model::names::{Client, SUFFIX, ServiceNames};

use crate::names::{Found, Holder, Names, Which, Zone, task_name, tasks};

/// The answer to one question of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Addresses of the kind that was asked for, at least one.
    Addresses {
        addresses: Vec<IpAddr>,
        ttl: u32,
        /// So many of them at most, any.
        most: usize,
    },
    /// Where a named port is, at least at one place.
    Services { targets: Vec<Target>, ttl: u32 },
    /// The name of the address that was asked for.
    Pointer { name: String, ttl: u32 },
    /// The name exists, but has no such record (RFC 2308 §2.2).
    NoData,
    /// The name does not exist (RFC 2308 §2.1).
    NxDomain,
    /// Not ours: the host's servers may know.
    Forward,
    /// Not for this client, or not a question we take.
    Refused,
}

/// A place where a named port is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// A name of ours, without a final dot.
    pub(crate) name: String,
    pub(crate) port: u16,
    /// What that name means.
    pub(crate) addresses: Vec<IpAddr>,
}

/// A client on this host that is on no network.
static LOCAL: std::sync::LazyLock<Client> = std::sync::LazyLock::new(|| Client {
    forward: true,
    ..Client::default()
});

/// Who asks from this address; `None`: a stranger.
pub(crate) fn client(names: &Names, address: IpAddr) -> Option<&Client> {
    let known = names.client(address);
    known.or_else(|| address.is_loopback().then_some(&*LOCAL))
}

/// Answers `query` as this client shall see it.
///
/// A name is searched in the client's networks in their order: in all of them
/// as it stands first, then with its last label taken for a network's name.
/// Addresses that are no client of ours are refused, lest strangers use this
/// as an open resolver; only this host's loopback is forwarded for.
pub(crate) fn lookup(names: &Names, address: IpAddr, query: &Query) -> Answer {
    let Some(client) = client(names, address) else {
        return Answer::Refused;
    };
    let kind = query.query_type();
    // zone transfers (RFC 5936, RFC 1995) would show what the client may not see
    let transfer = matches!(kind, RecordType::AXFR | RecordType::IXFR);
    if transfer || !matches!(query.query_class(), DNSClass::IN | DNSClass::ANY) {
        return Answer::Refused;
    }

    let view = View { names, client };
    let text = text(query.name());
    if let Some(text) = &text {
        let (text, suffixed) = match text.strip_suffix(SUFFIX) {
            // the suffix itself is an empty name, which exists
            Some("") => return Answer::NoData,
            Some(rest) if rest.ends_with('.') => (&rest[..rest.len() - 1], true),
            _ => (text.as_str(), false),
        };
        if let Some(answer) = view.name(text, kind) {
            return answer;
        }
        if suffixed {
            return Answer::NxDomain;
        }
    }
    if let Some(address) = reverse_address(query.name()) {
        if let Some(name) = view.pointer(address) {
            let ttl = names.mesh.ttl;
            return match kind {
                RecordType::PTR | RecordType::ANY => Answer::Pointer { name, ttl },
                _ => Answer::NoData,
            };
        }
        // ours, but not for this client; nobody outside has to hear of it
        if names.owns(address) {
            return Answer::NxDomain;
        }
    }
    match client.forward {
        true => Answer::Forward,
        false => Answer::NxDomain,
    }
}

/// The names as one client sees them.
struct View<'a> {
    names: &'a Names,
    client: &'a Client,
}

impl<'a> View<'a> {
    fn zones(&self) -> impl Iterator<Item = &'a Zone> + use<'a> {
        let (names, networks) = (self.names, self.client.networks.iter());
        networks.filter_map(|id| names.zone(id))
    }

    /// The answer for a name in lower case without a final dot, if it is one of ours.
    fn name(&self, name: &str, kind: RecordType) -> Option<Answer> {
        if let Some((_, found)) = self.find(name) {
            let exists = found.iter().any(|(names, which)| match which {
                // these exist while the service does, be there tasks or not
                Which::Service | Which::Tasks => true,
                _ => tasks(names, *which).next().is_some(),
            });
            return Some(match exists {
                true => self.addresses(&found, kind),
                // nobody else knows a task of this service
                false => Answer::NxDomain,
            });
        }
        if let Some(answer) = self.service(name, kind) {
            return Some(answer);
        }
        // NXDOMAIN for `back.` would deny `vote.back.` as well (RFC 8020)
        self.zones()
            .any(|zone| zone.name == name)
            .then_some(Answer::NoData)
    }

    /// What a name means.
    fn find<'n>(&self, name: &'n str) -> Option<(&'a Zone, Found<'n>)>
    where
        'a: 'n,
    {
        let in_zone = |zone: &'a Zone, name: &'n str| {
            let found: Found<'n> = zone.find(name);
            (!found.is_empty()).then_some((zone, found))
        };
        if let Some(found) = self.zones().find_map(|zone| in_zone(zone, name)) {
            return Some(found);
        }
        // a network's name cannot contain a dot, so there is one way to read this
        let (name, network) = name.rsplit_once('.')?;
        let mut zones = self.zones().filter(|zone| zone.name == network);
        zones.find_map(|zone| in_zone(zone, name))
    }

    fn ttl(&self, names: &ServiceNames) -> u32 {
        names.ttl.unwrap_or(self.names.mesh.ttl)
    }

    fn addresses(&self, found: &Found<'_>, kind: RecordType) -> Answer {
        let mut all = Vec::new();
        for (names, which) in found {
            all.extend(addresses(names, *which).filter(|address| is_of_kind(*address, kind)));
        }
        if all.is_empty() {
            return Answer::NoData;
        }
        let ttls = found.iter().map(|(names, _)| self.ttl(names));
        let most = found.iter().map(|(names, _)| usize::from(names.answers));
        Answer::Addresses {
            addresses: all,
            ttl: ttls.min().unwrap_or(self.names.mesh.ttl),
            most: most.filter(|most| *most > 0).min().unwrap_or(usize::MAX),
        }
    }

    /// `_http._tcp.vote` (RFC 2782), if there is such a service.
    fn service(&self, name: &str, kind: RecordType) -> Option<Answer> {
        let (port, rest) = name.strip_prefix('_')?.split_once('.')?;
        let (protocol, rest) = rest.strip_prefix('_')?.split_once('.')?;
        let (zone, found) = self.find(rest)?;
        let mut targets = Vec::new();
        let mut ttl = self.names.mesh.ttl;
        let mut known = false;
        for (names, which) in found {
            let mut ports = names.ports.iter();
            let is_it =
                |p: &&model::names::PortName| *p.name == *port && p.protocol.as_str() == protocol;
            let Some(port) = ports.find(is_it).map(|port| port.port) else {
                continue;
            };
            known = true;
            ttl = ttl.min(self.ttl(names));
            if which == Which::Service && !names.vips.is_empty() {
                targets.push(Target {
                    name: format!("{}.{}", names.name, zone.name),
                    port,
                    addresses: names.vips.to_vec(),
                });
                continue;
            }
            targets.extend(tasks(names, which).map(|task| Target {
                name: format!("{}.{}", task_name(names, task), zone.name),
                port,
                addresses: task.addresses.to_vec(),
            }));
        }
        Some(match (known, kind) {
            (false, _) => Answer::NxDomain,
            (true, RecordType::SRV | RecordType::ANY) if !targets.is_empty() => {
                Answer::Services { targets, ttl }
            }
            (true, _) => Answer::NoData,
        })
    }

    fn pointer(&self, address: IpAddr) -> Option<String> {
        self.zones().find_map(|zone| {
            let name = match zone.holder(address)? {
                Holder::Service(names) => names.name.to_string(),
                Holder::Task(names, task) => task_name(names, task),
            };
            Some(format!("{name}.{}", zone.name))
        })
    }
}

/// The addresses that are meant, of both families.
fn addresses<'a>(
    names: &'a ServiceNames,
    which: Which<'a>,
) -> impl Iterator<Item = IpAddr> + use<'a> {
    let vips: &[IpAddr] = match which {
        Which::Service => &names.vips,
        _ => &[],
    };
    // a service with VIPs has no other address of its own
    let of_tasks = vips.is_empty().then(|| tasks(names, which));
    let of_tasks = of_tasks
        .into_iter()
        .flatten()
        .flat_map(|task| &task.addresses);
    vips.iter().chain(of_tasks).copied()
}

fn is_of_kind(address: IpAddr, kind: RecordType) -> bool {
    match kind {
        RecordType::A => address.is_ipv4(),
        RecordType::AAAA => address.is_ipv6(),
        RecordType::ANY => true,
        _ => false,
    }
}

/// The name as the names have it: lower case, no dot at its end. Not for labels that
/// contain a dot or are not ASCII: those would look like others.
fn text(name: &Name) -> Option<String> {
    let mut text = String::with_capacity(name.len());
    for label in name.iter() {
        if label.contains(&b'.') || !label.is_ascii() {
            return None;
        }
        if !text.is_empty() {
            text.push('.');
        }
        text.extend(
            label
                .iter()
                .map(|byte| char::from(byte.to_ascii_lowercase())),
        );
    }
    Some(text)
}

/// The address in a reverse name (RFC 1035 §3.5, RFC 3596 §2.5), if it is a
/// whole one.
fn reverse_address(name: &Name) -> Option<IpAddr> {
    let net = name.parse_arpa_name().ok()?;
    (net.prefix_len() == net.max_prefix_len()).then(|| net.addr())
}

#[cfg(test)]
mod tests;
