//! The data plane's namespaces: reading one as a value, and writing operations.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use model::{Instance, Mark};
use netlink_packet_ipvs::{
    AddressFamily, Destination as WireDestination, IpvsCmd, IpvsMessage, Service, ServiceKey,
};
use plan::netns::{
    Destination, Family, Link, LinkKind, Netns as Value, Op, Place, SetKind, Timeouts,
    VirtualService,
};

use crate::{
    Error,
    ipset::{self, Ipset},
    iptables::{self, Ownership},
    ipvs::Ipvs,
    netns::Netns,
    route::{self, Rtnetlink},
    sysctl,
};

/// The kernel, as one daemon uses it.
pub struct Kernel {
    instance: Instance,
    host: Netns,
    open: Mutex<BTreeMap<Place, Handles>>,
}

/// Sockets in one namespace. They are opened once, since opening takes a thread.
struct Handles {
    netns: Netns,
    inode: u64,
    route: Rtnetlink,
    ipset: Option<Ipset>,
    ipvs: Option<Ipvs>,
    /// Kinds of the sets, which an entry's form depends on.
    kinds: BTreeMap<String, SetKind>,
}

impl Handles {
    fn open(netns: Netns) -> Result<Self, Error> {
        let inode = netns.inode()?;
        let route = netns.run(Rtnetlink::open)??;
        Ok(Self {
            netns,
            inode,
            route,
            ipset: None,
            ipvs: None,
            kinds: BTreeMap::new(),
        })
    }

    fn ipset(&mut self) -> Result<&mut Ipset, Error> {
        if self.ipset.is_none() {
            self.ipset = Some(self.netns.run(Ipset::open)??);
        }
        self.ipset
            .as_mut()
            .ok_or_else(|| unreachable_handle("ipset"))
    }

    fn ipvs(&mut self) -> Result<&mut Ipvs, Error> {
        if self.ipvs.is_none() {
            self.ipvs = Some(self.netns.run(Ipvs::open)??);
        }
        self.ipvs.as_mut().ok_or_else(|| unreachable_handle("IPVS"))
    }
}

fn unreachable_handle(what: &'static str) -> Error {
    Error::Answer {
        what,
        why: "the handle was not opened".to_owned(),
    }
}

/// A destination with its counters, for showing.
#[derive(Clone, Debug)]
pub struct LiveDestination {
    /// Address and port.
    pub at: (IpAddr, u16),
    /// Weight.
    pub weight: u32,
    /// Open connections.
    pub active: u32,
    /// Connections that are closing, and UDP flows.
    pub inactive: u32,
}

impl Kernel {
    /// Works on the namespace that the caller is in as the host, and on this
    /// instance's others.
    ///
    /// # Errors
    /// /proc is not mounted.
    pub fn new(instance: Instance) -> Result<Self, Error> {
        Ok(Self {
            instance,
            host: Netns::current()?,
            open: Mutex::default(),
        })
    }

    fn handles(&self) -> MutexGuard<'_, BTreeMap<Place, Handles>> {
        // a panic leaves sockets that may have unread answers; `with` opens new ones
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn name(&self, place: &Place) -> Option<String> {
        match place {
            Place::Host => None,
            Place::Ingress => Some(self.instance.ingress_netns()),
            Place::Router => Some(self.instance.router_netns()),
            Place::Task(id) => Some(self.instance.task_netns(id)),
        }
    }

    fn netns(&self, place: &Place) -> Result<Netns, Error> {
        match self.name(place) {
            Some(name) => Netns::open(&name),
            None => {
                use std::os::fd::AsRawFd as _;
                // the host's was opened when the daemon started, and stays that one
                let fd = self.host.file().as_raw_fd();
                Netns::open_path(format!("/proc/self/fd/{fd}").as_ref())
            }
        }
    }

    /// Does something with a place's sockets; `None` where the namespace is not
    /// there. Sockets into a namespace that was replaced by another are dropped.
    fn with<T>(
        &self,
        place: &Place,
        work: impl FnOnce(&mut Handles) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        let netns = match self.netns(place) {
            Ok(netns) => netns,
            Err(Error::Namespace { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                self.handles().remove(place);
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let inode = netns.inode()?;
        let mut all = self.handles();
        let mut handles = match all.remove(place) {
            Some(handles) if handles.inode == inode => handles,
            _ => match Handles::open(netns) {
                Ok(handles) => handles,
                // a name without a namespace: the file is left after a reboot or `umount`
                Err(Error::Namespace { source, .. })
                    if source.raw_os_error() == Some(nix::libc::EINVAL) =>
                {
                    if let Some(name) = self.name(place) {
                        crate::netns::delete(&name)?;
                    }
                    return Ok(None);
                }
                Err(error) => return Err(error),
            },
        };
        let result = work(&mut handles)?;
        // kept only after success: a socket with unread answers must not be used again
        all.insert(place.clone(), handles);
        Ok(Some(result))
    }

    /// Reads what is ours in a place, and these sysctls; `None` where there is
    /// no such namespace.
    ///
    /// # Errors
    /// The kernel refused, or a program is missing.
    pub async fn observe(
        &self,
        place: &Place,
        sysctls: &BTreeSet<String>,
    ) -> Result<Option<Value>, Error> {
        tokio::task::block_in_place(|| {
            self.with(place, |handles| self.observe_in(place, handles, sysctls))
        })
    }

    fn observe_in(
        &self,
        place: &Place,
        handles: &mut Handles,
        sysctls: &BTreeSet<String>,
    ) -> Result<Value, Error> {
        let seen = handles.route.observe()?;
        let mut value = Value {
            links: seen.links,
            addresses: seen.addresses,
            routes: seen.routes,
            sysctls: sysctl::read(&handles.netns, sysctls)?,
            ..Value::default()
        };
        if let Place::Task(_) = place {
            return Ok(value);
        }
        let ownership = if *place == Place::Host {
            let link = self.instance.host_link();
            value.links.retain(|name, _| *name == link);
            value.addresses.retain(|(on, _)| *on == link);
            value
                .routes
                .retain(|route| route.dev.as_ref() == Some(&link));
            Ownership::Prefix(self.instance.chain_prefix())
        } else {
            value.ipvs_timeouts = Some(observe_timeouts(handles.ipvs()?)?);
            value.services = observe_services(handles.ipvs()?)?;
            Ownership::All
        };
        let prefix = format!("{}-", self.instance.set_prefix());
        let names = handles.ipset()?.names()?;
        let owned = names.into_iter().filter(|name| {
            let word = name.strip_prefix(&prefix);
            *place != Place::Host || word.is_some_and(|word| !word.contains('-'))
        });
        for name in owned {
            if let Some(set) = handles.ipset()?.set(&name)? {
                handles.kinds.insert(name.clone(), set.kind);
                value.sets.insert(name, set);
            }
        }
        value.tables = iptables::observe(&handles.netns, Family::V4, &ownership)?;
        Ok(value)
    }

    /// Connections of each destination of the services in a place.
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn live(
        &self,
        place: &Place,
    ) -> Result<BTreeMap<(Family, Mark), Vec<LiveDestination>>, Error> {
        let read = |handles: &mut Handles| {
            let mut all = BTreeMap::new();
            let ipvs = handles.ipvs()?;
            for service in ipvs.services()? {
                let Some(key) = ours(&service.key) else {
                    continue;
                };
                let destinations = ipvs.destinations(&service.key)?;
                let live = destinations.into_iter().map(|d| LiveDestination {
                    at: (d.address, d.port),
                    weight: d.weight,
                    active: d.active_connections,
                    inactive: d.inactive_connections,
                });
                all.insert(key, live.collect());
            }
            Ok(all)
        };
        tokio::task::block_in_place(|| Ok(self.with(place, read)?.unwrap_or_default()))
    }

    /// Makes all writes in their order; gives back by index the ones that failed.
    /// What is there already, or gone already, is no failure.
    pub async fn apply(&self, ops: &[(Place, Op)]) -> Vec<(usize, Error)> {
        tokio::task::block_in_place(|| {
            let mut failed = Vec::new();
            let mut start = 0;
            while start < ops.len() {
                let (place, first) = &ops[start];
                let same = |(other, op): &&(Place, Op)| other == place && group(op) == group(first);
                let end = start + ops[start..].iter().take_while(same).count();
                let batch: Vec<&Op> = ops[start..end].iter().map(|(_, op)| op).collect();
                let done = self.with(place, |handles| self.apply_group(handles, &batch));
                match done {
                    Ok(Some(errors)) => {
                        failed.extend(
                            errors
                                .into_iter()
                                .map(|(index, error)| (start + index, error)),
                        );
                    }
                    Ok(None) => {
                        let name = self.name(place).unwrap_or_default();
                        let source = io::ErrorKind::NotFound.into();
                        failed.push((
                            start,
                            Error::Namespace {
                                action: "write to",
                                name,
                                source,
                            },
                        ));
                    }
                    Err(error) => failed.push((start, error)),
                }
                start = end;
            }
            failed
        })
    }

    fn apply_group(
        &self,
        handles: &mut Handles,
        ops: &[&Op],
    ) -> Result<Vec<(usize, Error)>, Error> {
        match ops.first().map(|op| group(op)) {
            None => Ok(Vec::new()),
            Some(Group::Route) => self.apply_route(handles, ops),
            Some(Group::Sysctl) => {
                let value = |op: &&Op| match op {
                    Op::SetSysctl(key, value) => Some((key.clone(), value.clone())),
                    _ => None,
                };
                let values: Vec<_> = ops.iter().filter_map(value).collect();
                let values: Vec<_> = values
                    .iter()
                    .map(|(key, value)| (key.as_str(), value.as_str()))
                    .collect();
                sysctl::write(&handles.netns, &values)
            }
            Some(Group::Set) => apply_sets(handles, ops),
            Some(Group::Rules(family)) => {
                let change = |op: &&Op| match *op {
                    Op::Restore {
                        family: _,
                        table,
                        set,
                        gone,
                        add,
                        remove,
                    } => {
                        // references outlive the closure: they are of `ops`
                        Some((
                            *table,
                            set.clone(),
                            gone.clone(),
                            add.clone(),
                            remove.clone(),
                        ))
                    }
                    _ => None,
                };
                let parts: Vec<_> = ops.iter().filter_map(change).collect();
                let changes: Vec<_> = parts
                    .iter()
                    .map(|(table, set, gone, add, remove)| iptables::Change {
                        table: *table,
                        set,
                        gone,
                        add,
                        remove,
                    })
                    .collect();
                iptables::apply(&handles.netns, family, &changes)?;
                Ok(Vec::new())
            }
            Some(Group::Ipvs) => apply_ipvs(handles, ops),
        }
    }

    fn apply_route(
        &self,
        handles: &mut Handles,
        ops: &[&Op],
    ) -> Result<Vec<(usize, Error)>, Error> {
        let needs_index = ops.iter().any(|op| {
            matches!(
                op,
                Op::AddAddress(..) | Op::DelAddress(..) | Op::AddRoute(_) | Op::DelRoute(_)
            )
        });
        let indices = if needs_index {
            handles.route.indices()?
        } else {
            BTreeMap::new()
        };
        // veth peers' namespaces must stay open until the message is sent
        let mut peers = Vec::new();
        for op in ops {
            if let Op::AddLink(
                _,
                Link {
                    kind: LinkKind::Veth { place, .. },
                    ..
                },
            ) = op
            {
                peers.push(self.netns(place)?);
            }
        }
        let mut peer = peers.iter();
        let mut failed = Vec::new();
        let mut writes = Vec::new();
        let mut numbers = Vec::new();
        for (number, op) in ops.iter().enumerate() {
            let index = |link: &str| {
                indices.get(link).copied().ok_or_else(|| Error::Netlink {
                    what: format!("find link {link}"),
                    source: io::ErrorKind::NotFound.into(),
                })
            };
            let write = match op {
                Op::AddLink(
                    name,
                    link @ Link {
                        kind: LinkKind::Veth { peer: other, .. },
                        ..
                    },
                ) => peer
                    .next()
                    .map(|netns| route::add_veth(name, link, other, netns))
                    .map(Ok),
                Op::SetLink(name, link) => Some(Ok(route::set_link(name, link))),
                Op::DelLink(name) => Some(Ok(route::del_link(name))),
                Op::AddAddress(link, net) => {
                    Some(index(link).map(|index| route::address(true, link, index, *net)))
                }
                Op::DelAddress(link, net) => {
                    Some(index(link).map(|index| route::address(false, link, index, *net)))
                }
                Op::AddRoute(route) | Op::DelRoute(route) => {
                    let add = matches!(op, Op::AddRoute(_));
                    let dev = route.dev.as_ref().map(|dev| index(dev)).transpose();
                    Some(dev.map(|dev| route::route(add, route, dev)))
                }
                _ => None,
            };
            match write {
                Some(Ok(write)) => {
                    writes.push(write);
                    numbers.push(number);
                }
                Some(Err(error)) => failed.push((number, error)),
                None => {}
            }
        }
        for (index, error) in handles.route.apply(&writes)? {
            let number = numbers[index];
            if !harmless(ops[number], &error) {
                failed.push((number, error));
            }
        }
        Ok(failed)
    }
}

/// Operations that go out together.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Group {
    Route,
    Sysctl,
    Set,
    Rules(Family),
    Ipvs,
}

fn group(op: &Op) -> Group {
    match op {
        Op::AddLink(..)
        | Op::SetLink(..)
        | Op::DelLink(_)
        | Op::AddAddress(..)
        | Op::DelAddress(..)
        | Op::AddRoute(_)
        | Op::DelRoute(_) => Group::Route,
        Op::SetSysctl(..) => Group::Sysctl,
        Op::CreateSet(..) | Op::DestroySet(_) | Op::AddEntry(..) | Op::DelEntry(..) => Group::Set,
        Op::Restore { family, .. } => Group::Rules(*family),
        Op::SetTimeouts(_)
        | Op::NewService(..)
        | Op::SetService(..)
        | Op::DelService(..)
        | Op::NewDestination(..)
        | Op::SetDestination(..)
        | Op::DelDestination(..) => Group::Ipvs,
    }
}

/// Whether the error only says that it was done before.
fn harmless(op: &Op, error: &Error) -> bool {
    let Error::Netlink { source, .. } = error else {
        return false;
    };
    let code = source.raw_os_error();
    match op {
        Op::AddAddress(..) | Op::NewService(..) | Op::NewDestination(..) => {
            code == Some(nix::libc::EEXIST)
        }
        Op::DelLink(_)
        | Op::DelAddress(..)
        | Op::DelRoute(_)
        | Op::DelService(..)
        | Op::DelDestination(..)
        | Op::DestroySet(_) => [
            nix::libc::ENODEV,
            nix::libc::ESRCH,
            nix::libc::ENOENT,
            nix::libc::EADDRNOTAVAIL,
        ]
        .iter()
        .any(|gone| code == Some(*gone)),
        // IPSET_ERR_EXIST: the entry is not there
        Op::DelEntry(..) => code == Some(4103),
        _ => false,
    }
}

fn apply_sets(handles: &mut Handles, ops: &[&Op]) -> Result<Vec<(usize, Error)>, Error> {
    let mut failed = Vec::new();
    let mut commands = Vec::new();
    let mut numbers = Vec::new();
    for (number, op) in ops.iter().enumerate() {
        let command = match op {
            Op::CreateSet(name, kind) => {
                handles.kinds.insert(name.clone(), *kind);
                Some(ipset::Command::Create(name, *kind))
            }
            Op::DestroySet(name) => Some(ipset::Command::Destroy(name)),
            Op::AddEntry(name, entry, mark) => handles
                .kinds
                .get(name)
                .map(|kind| ipset::Command::Add(name, *kind, *entry, *mark)),
            Op::DelEntry(name, entry) => handles
                .kinds
                .get(name)
                .map(|kind| ipset::Command::Del(name, *kind, *entry)),
            _ => None,
        };
        match command {
            Some(command) => {
                commands.push(command);
                numbers.push(number);
            }
            None => failed.push((
                number,
                Error::Answer {
                    what: "an ipset",
                    why: "it was not read before it was written".to_owned(),
                },
            )),
        }
    }
    for (index, source) in handles.ipset()?.apply(&commands)? {
        let number = numbers[index];
        let error = Error::Netlink {
            what: format!("{:?}", ops[number]),
            source,
        };
        if !harmless(ops[number], &error) {
            failed.push((number, error));
        }
    }
    Ok(failed)
}

fn apply_ipvs(handles: &mut Handles, ops: &[&Op]) -> Result<Vec<(usize, Error)>, Error> {
    let commands: Vec<_> = ops.iter().filter_map(|op| command(op)).collect();
    let failed = handles.ipvs()?.apply(&commands)?;
    let read = failed.into_iter().map(|(index, source)| {
        (
            index,
            Error::Netlink {
                what: format!("{:?}", ops[index]),
                source,
            },
        )
    });
    Ok(read
        .filter(|(index, error)| !harmless(ops[*index], error))
        .collect())
}

fn key(family: Family, mark: Mark) -> ServiceKey {
    let family = match family {
        Family::V4 => AddressFamily::Ipv4,
        Family::V6 => AddressFamily::Ipv6,
    };
    ServiceKey::FwMark {
        family,
        mark: mark.get(),
    }
}

/// The plan's key of a service by firewall mark.
fn ours(key: &ServiceKey) -> Option<(Family, Mark)> {
    let ServiceKey::FwMark { family, mark } = key else {
        return None;
    };
    let family = match family {
        AddressFamily::Ipv4 => Family::V4,
        AddressFamily::Ipv6 => Family::V6,
    };
    Some((family, Mark::new(*mark)?))
}

fn command(op: &Op) -> Option<IpvsMessage> {
    let service = |family, mark, value: &VirtualService| Service {
        flags: value.flags,
        timeout: value.timeout,
        prefix: value.netmask,
        ..Service::new(key(family, mark), &value.scheduler)
    };
    let destination = |at: (IpAddr, u16), value: Option<&Destination>| {
        let plain = WireDestination::new(at.0, at.1);
        value.map_or_else(
            || plain.clone(),
            |value| WireDestination {
                weight: value.weight,
                upper_threshold: value.upper_threshold,
                lower_threshold: value.lower_threshold,
                ..plain.clone()
            },
        )
    };
    Some(match op {
        Op::SetTimeouts(Timeouts { tcp, tcp_fin, udp }) => {
            IpvsMessage::set_timeouts(*tcp, *tcp_fin, *udp)
        }
        Op::NewService(family, mark, value) => {
            IpvsMessage::with_service(IpvsCmd::NewService, &service(*family, *mark, value))
        }
        Op::SetService(family, mark, value) => {
            IpvsMessage::with_service(IpvsCmd::SetService, &service(*family, *mark, value))
        }
        Op::DelService(family, mark) => {
            IpvsMessage::with_key(IpvsCmd::DelService, &key(*family, *mark))
        }
        Op::NewDestination(family, mark, at, value) => IpvsMessage::with_destination(
            IpvsCmd::NewDestination,
            &key(*family, *mark),
            &destination(*at, Some(value)),
        ),
        Op::SetDestination(family, mark, at, value) => IpvsMessage::with_destination(
            IpvsCmd::SetDestination,
            &key(*family, *mark),
            &destination(*at, Some(value)),
        ),
        Op::DelDestination(family, mark, at) => IpvsMessage::with_destination(
            IpvsCmd::DelDestination,
            &key(*family, *mark),
            &destination(*at, None),
        ),
        _ => return None,
    })
}

fn observe_timeouts(ipvs: &mut Ipvs) -> Result<Timeouts, Error> {
    let config = ipvs.config()?;
    Ok(Timeouts {
        tcp: config.tcp,
        tcp_fin: config.tcp_fin,
        udp: config.udp,
    })
}

fn observe_services(ipvs: &mut Ipvs) -> Result<BTreeMap<(Family, Mark), VirtualService>, Error> {
    let mut services = BTreeMap::new();
    for service in ipvs.services()? {
        let Some(key) = ours(&service.key) else {
            continue;
        };
        let destinations = ipvs.destinations(&service.key)?.into_iter().map(|d| {
            let value = Destination {
                weight: d.weight,
                upper_threshold: d.upper_threshold,
                lower_threshold: d.lower_threshold,
            };
            ((d.address, d.port), value)
        });
        let value = VirtualService {
            scheduler: service.scheduler,
            flags: service.flags,
            timeout: service.timeout,
            netmask: service.prefix,
            destinations: destinations.collect(),
        };
        services.insert(key, value);
    }
    Ok(services)
}
