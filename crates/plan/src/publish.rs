//! Published ports: which numbers, marks and ingress addresses a service's get.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use model::{
    ANY_INGRESS, AllocatedPort, Listener, Protocol, PublishMode, PublishedPort, Resource,
    ServiceId, State, Transaction,
};

use crate::{
    admit::{HeldPort, Refusal},
    allocate::Allocator,
};

/// Where ports are picked from that nobody chose; as in Swarm and Kubernetes.
const AUTOMATIC_PORTS: std::ops::RangeInclusive<u16> = 30_000..=32_767;
/// Published ports of one service, at most.
const MOST_PORTS: usize = 10_000;
/// Marks that the published ports of one service take, at most: each is an IPVS service.
const MOST_MARKS: usize = 1_000;

/// The listener of a port that has a number.
pub(crate) fn listener(port: &PublishedPort) -> Option<Listener> {
    let published = port.published.filter(|port| *port > 0)?;
    Some(Listener {
        host_ip: port.host_ip,
        protocol: port.protocol,
        port: published,
    })
}

/// Listeners by protocol and number, so that finding what is in the way of one does
/// not look at all.
struct Taken<T>(BTreeMap<(Protocol, u16), Vec<(Listener, T)>>);

impl<T> Taken<T> {
    fn of(listeners: impl Iterator<Item = (Listener, T)>) -> Self {
        let mut taken = Self(BTreeMap::new());
        for (listener, holder) in listeners {
            taken.add(listener, holder);
        }
        taken
    }

    fn add(&mut self, listener: Listener, holder: T) {
        let at = (listener.protocol, listener.port);
        self.0.entry(at).or_default().push((listener, holder));
    }

    /// Who has what clashes with this listener: of an address of its own one, of every
    /// address maybe several.
    fn holders(&self, listener: &Listener) -> impl Iterator<Item = &T> {
        let alike = self.0.get(&(listener.protocol, listener.port));
        let alike = alike.into_iter().flatten();
        alike
            .filter(|(other, _)| other.clashes(listener))
            .map(|(_, holder)| holder)
    }

    fn in_the_way(&self, listener: &Listener) -> bool {
        self.holders(listener).next().is_some()
    }
}

impl Taken<String> {
    fn refuse(&self, listener: Listener) -> Result<(), Refusal> {
        let holders: BTreeSet<&str> = self.holders(&listener).map(String::as_str).collect();
        if holders.is_empty() {
            return Ok(());
        }
        let holder = Vec::from_iter(holders).join(" and ");
        Err(Refusal::PortTaken { listener, holder })
    }
}

/// Refuses ports that make no sense, whatever else there is. `six`: the service is on
/// a network with IPv6.
pub(crate) fn check(ports: &[PublishedPort], six: bool) -> Result<(), Refusal> {
    let no = |why: String| Err(Refusal::Invalid(why));
    if ports.len() > MOST_PORTS {
        return no(format!(
            "{} published ports are too many: {MOST_PORTS} at most for one service",
            ports.len()
        ));
    }
    let mut taken = Taken::of(std::iter::empty());
    for port in ports {
        if port.target == 0 {
            return no("target port 0 is not valid: use 1 to 65535".to_owned());
        }
        if let Some(ip) = port.host_ip {
            check_host_ip(ip, six)?;
        }
        if let Some(listener) = listener(port) {
            if taken.in_the_way(&listener) {
                return Err(Refusal::PortTwice(listener));
            }
            taken.add(listener, ());
        }
    }
    Ok(())
}

fn check_host_ip(ip: IpAddr, six: bool) -> Result<(), Refusal> {
    let no = |why: String| Err(Refusal::Invalid(why));
    if ip.is_multicast() || matches!(ip, IpAddr::V4(ip) if ip.is_broadcast()) {
        return no(format!(
            "host address {ip} is not one that a host can have: publish on a unicast address"
        ));
    }
    if matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local()) {
        return no(format!(
            "host address {ip} is link-local, which other hosts have as well: publish on a global or unique local one"
        ));
    }
    if ip.is_ipv6() && !six {
        return no(format!(
            "host address {ip} is IPv6, and the service is on no network with IPv6: use one that was made with --ipv6"
        ));
    }
    Ok(())
}

/// What is asked for, by whom, and what there is.
pub(crate) struct Publisher<'a> {
    pub(crate) state: &'a State,
    pub(crate) id: &'a ServiceId,
    /// The ports that the service has.
    pub(crate) before: &'a [AllocatedPort],
    /// Ports that others listen on.
    pub(crate) held: &'a [HeldPort],
    /// Clients stay with their tasks.
    pub(crate) affinity: bool,
}

impl Publisher<'_> {
    /// The ports with all that they need; what they had before they keep.
    pub(crate) fn allocate(
        &self,
        allocator: &mut Allocator<'_>,
        tx: &mut Transaction,
        wanted: &[PublishedPort],
    ) -> Result<Vec<AllocatedPort>, Refusal> {
        let others = self.state.services.values();
        let others = others.filter(|service| service.id != *self.id);
        let others = others.flat_map(|service| {
            let ports = service.endpoint.ports.iter();
            ports.filter_map(move |port| {
                let holder = format!("service {} ({})", service.spec.name, service.id);
                Some((listener(&port.port)?, holder))
            })
        });
        let services = Taken::of(others);
        let processes = self.held.iter();
        let processes =
            Taken::of(processes.map(|held| (held.listener, format!("process {}", held.holder))));
        let mine = self.before.iter();
        let mine: BTreeMap<Listener, &AllocatedPort> = mine
            .filter_map(|port| Some((listener(&port.port)?, port)))
            .collect();
        // ports that were chosen come first: no other may be given their numbers
        let mut taken = Taken::of(wanted.iter().filter_map(|port| Some((listener(port)?, ()))));
        let ranges = ranges(wanted);

        let mut ports: Vec<AllocatedPort> = Vec::new();
        let mut ingress = self.ingress_addresses();
        for port in wanted {
            let alike = |had: &PublishedPort| {
                (had.target, had.protocol, had.mode, had.host_ip)
                    == (port.target, port.protocol, port.mode, port.host_ip)
            };
            let kept = match listener(port) {
                Some(chosen) => mine.get(&chosen).copied().filter(|had| alike(&had.port)),
                // one without a number keeps the number it got
                None => self.before.iter().find(|had| {
                    alike(&had.port) && listener(&had.port).is_some_and(|l| !taken.in_the_way(&l))
                }),
            };
            if let Some(kept) = kept {
                if listener(port).is_none() {
                    taken.add(listener(&kept.port).unwrap_or_else(|| any(port)), ());
                }
                ports.push(kept.clone());
                continue;
            }
            let listener = match listener(port) {
                Some(listener) => listener,
                None => {
                    let free = |l: &Listener| {
                        !taken.in_the_way(l)
                            && !services.in_the_way(l)
                            && !processes.in_the_way(l)
                            && allocator.is_free(&Resource::Listener(*l))
                    };
                    let listener = automatic(port).find(free).ok_or_else(none_free)?;
                    taken.add(listener, ());
                    listener
                }
            };
            services.refuse(listener)?;
            // one that this service had for another target is its own
            let own = mine.contains_key(&listener);
            if !own {
                processes.refuse(listener)?;
            }
            if !own {
                allocator.claim(tx, &Resource::Listener(listener), self.id.as_str());
            }
            let port = PublishedPort {
                published: Some(listener.port),
                ..port.clone()
            };
            let (mark, keeps_port) =
                self.mark(allocator, tx, &ports, &port, ranges.contains(&listener))?;
            ports.push(AllocatedPort {
                ingress: ingress.of(port.host_ip)?,
                port,
                mark,
                keeps_port,
                affine: None,
            });
        }
        self.part_from_ranges(allocator, tx, &mut ports)?;
        self.set_apart(&mut ingress, &mut ports)?;
        let marks: BTreeSet<_> = ports.iter().map(|port| port.mark).collect();
        if marks.len() > MOST_MARKS {
            return Err(Refusal::Invalid(format!(
                "published ports with {} different targets are too many: {MOST_MARKS} at most for one service; a range with the same numbers on both sides counts as one",
                marks.len()
            )));
        }
        Ok(ports)
    }

    /// The mark of a new port, and whether its packets keep their port.
    fn mark(
        &self,
        allocator: &mut Allocator<'_>,
        tx: &mut Transaction,
        ports: &[AllocatedPort],
        port: &PublishedPort,
        in_range: bool,
    ) -> Result<(model::Mark, bool), Refusal> {
        // what clients reach by either of two ports is one service to them, and must be one
        // to IPVS: else both could choose one source port towards one task
        let alike = |other: &&AllocatedPort| {
            (other.port.protocol, other.port.mode) == (port.protocol, port.mode)
        };
        let others = || ports.iter().rev().chain(self.before).filter(alike);
        let same = others().find(|other| other.port.target == port.target);
        let range = || others().find(|other| in_range && other.keeps_port);
        match same.or_else(range) {
            Some(other) => Ok((other.mark, other.keeps_port)),
            None => Ok((allocator.new_mark(tx, self.id.as_str())?, in_range)),
        }
    }

    /// The first port of a target leads there by itself. Where it is not in a range, it
    /// cannot have a range's mark: its packets are for another port.
    fn part_from_ranges(
        &self,
        allocator: &mut Allocator<'_>,
        tx: &mut Transaction,
        ports: &mut [AllocatedPort],
    ) -> Result<(), Refusal> {
        let target = |port: &AllocatedPort| (port.port.protocol, port.port.mode, port.port.target);
        let mut seen = BTreeSet::new();
        let first = ports.iter().filter(|port| seen.insert(target(port)));
        let wrong = first.filter(|port| port.keeps_port && port.published() != port.port.target);
        let wrong: BTreeSet<_> = wrong.map(target).collect();
        for parted in wrong {
            let mark = allocator.new_mark(tx, self.id.as_str())?;
            for port in ports.iter_mut().filter(|port| target(port) == parted) {
                (port.mark, port.keeps_port) = (mark, false);
            }
        }
        Ok(())
    }

    /// Gives the service an ingress address of its own where it needs one.
    fn set_apart(
        &self,
        ingress: &mut IngressAddresses,
        ports: &mut [AllocatedPort],
    ) -> Result<(), Refusal> {
        let translated = |port: &AllocatedPort| {
            self.affinity && !port.keeps_port && port.published() != port.port.target
        };
        let had = self.before.iter().find_map(|port| port.affine);
        let number = match ports.iter().any(translated) {
            true => Some(had.map_or_else(|| ingress.free(), Ok)?),
            false => None,
        };
        for port in ports {
            port.affine = number.filter(|_| translated(port));
        }
        Ok(())
    }

    fn ingress_addresses(&self) -> IngressAddresses {
        let services = self.state.services.values();
        let ports = services.flat_map(|service| &service.endpoint.ports);
        let mut addresses = IngressAddresses::default();
        for port in ports {
            addresses.taken.extend(port.affine);
            if let Some(ip) = port.port.host_ip.filter(|_| port.ingress > ANY_INGRESS) {
                addresses.by_host.insert(ip, port.ingress);
                addresses.taken.insert(port.ingress);
            }
        }
        addresses
    }
}

/// The numbers of ingress addresses that are in use: each node has a /24 for them.
#[derive(Default)]
struct IngressAddresses {
    by_host: BTreeMap<IpAddr, u8>,
    taken: BTreeSet<u8>,
}

impl IngressAddresses {
    fn free(&mut self) -> Result<u8, Refusal> {
        let free = (ANY_INGRESS + 1..=254).find(|n| !self.taken.contains(n));
        let free = free.ok_or_else(|| Refusal::Exhausted {
            what: "ingress address",
            pool: "252 of this mesh".to_owned(),
            remedy: "publish on fewer host addresses, or with affinity on the port of the task",
        })?;
        self.taken.insert(free);
        Ok(free)
    }

    /// The one that stands for a host address.
    fn of(&mut self, ip: Option<IpAddr>) -> Result<u8, Refusal> {
        let Some(ip) = ip.filter(|ip| !ip.is_unspecified()) else {
            return Ok(ANY_INGRESS);
        };
        if let Some(number) = self.by_host.get(&ip) {
            return Ok(*number);
        }
        let free = self.free()?;
        self.by_host.insert(ip, free);
        Ok(free)
    }
}

/// Chosen ports that are the same on both sides and have a neighbour of that kind: one
/// mark is enough for all of them.
fn ranges(ports: &[PublishedPort]) -> BTreeSet<Listener> {
    let same = ports
        .iter()
        .filter(|port| port.published == Some(port.target));
    let key = |port: &PublishedPort, target| (port.protocol, port.mode, port.host_ip, target);
    let all: BTreeSet<(Protocol, PublishMode, Option<IpAddr>, u16)> =
        same.clone().map(|port| key(port, port.target)).collect();
    let neighbour = |port: &&PublishedPort| {
        let beside = [port.target.checked_add(1), port.target.checked_sub(1)];
        let mut beside = beside.into_iter().flatten();
        beside.any(|target| all.contains(&key(port, target)))
    };
    same.filter(neighbour).filter_map(listener).collect()
}

fn any(port: &PublishedPort) -> Listener {
    Listener {
        host_ip: port.host_ip,
        protocol: port.protocol,
        port: 0,
    }
}

fn automatic(port: &PublishedPort) -> impl Iterator<Item = Listener> + use<> {
    let like = any(port);
    AUTOMATIC_PORTS.map(move |number| Listener {
        port: number,
        ..like
    })
}

fn none_free() -> Refusal {
    Refusal::Exhausted {
        what: "port",
        pool: "30000-32767".to_owned(),
        remedy: "choose a published port",
    }
}
