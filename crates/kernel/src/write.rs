//! Writing operations to one namespace.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
};

use model::{Instance, Protocol};
use nix::libc;
use plan::netns::{Entry, Family, LinkKind, Op, Place, Route, RouteKind, SetKind};

use crate::{
    Counters, Error, conntrack,
    flowtable::Flowtable,
    ipset, iptables,
    ipvs_write::Write,
    netlink::{Request, code},
    netns::Netns,
    place::{Handles, theirs},
    route, sysctl,
};

/// ipset's number for an entry that is not there.
const IPSET_NO_ENTRY: i32 = 4103;

/// Operations that go out together.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group {
    Link,
    /// Addresses too.
    Route,
    Sysctl,
    Set,
    Rules(Family),
    Flowtable,
    Ipvs,
}

pub(crate) fn group(op: &Op) -> Group {
    match op {
        Op::AddLink(..) | Op::SetLink(..) | Op::DelLink(_) => Group::Link,
        Op::AddAddress(..) | Op::DelAddress(..) | Op::AddRoute(_) | Op::DelRoute(_) => Group::Route,
        Op::SetSysctl(..) => Group::Sysctl,
        Op::CreateSet(..) | Op::DestroySet(_) | Op::AddEntry(..) | Op::DelEntry(..) => Group::Set,
        Op::Restore { family, .. } => Group::Rules(*family),
        Op::SetFlowtable(_) | Op::DelFlowtable => Group::Flowtable,
        Op::SetTimeouts(_)
        | Op::NewService(..)
        | Op::SetService(..)
        | Op::DelService(..)
        | Op::NewDestination(..)
        | Op::SetDestination(..)
        | Op::DelDestination(..) => Group::Ipvs,
    }
}

/// Where a new link's other end goes.
pub(crate) fn peer(op: &Op) -> Option<&Place> {
    match op {
        Op::AddLink(_, link) => match &link.kind {
            LinkKind::Veth { place, .. } => Some(place),
            LinkKind::Loopback | LinkKind::VethPeer => None,
        },
        _ => None,
    }
}

/// Adds so many writes of a group.
pub(crate) fn count(counters: &mut Counters, ops: &[&Op], done: usize) {
    let counter = match ops.first().map(|op| group(op)) {
        None => return,
        Some(Group::Link) => &mut counters.links,
        Some(Group::Route) => &mut counters.routes,
        Some(Group::Sysctl) => &mut counters.sysctls,
        Some(Group::Set) => &mut counters.sets,
        Some(Group::Rules(_)) => {
            counters.processes += 1;
            &mut counters.rules
        }
        Some(Group::Flowtable) => &mut counters.rules,
        Some(Group::Ipvs) => &mut counters.ipvs,
    };
    *counter += done as u64;
}

/// What writing needs besides the namespace.
pub(crate) struct Context {
    /// Namespaces for the other ends of new links.
    pub(crate) peers: BTreeMap<Place, Netns>,
    /// Whose this is, where it is the host's own namespace.
    pub(crate) host: Option<Instance>,
}

type Failed = Vec<(usize, Error)>;

/// Writes operations of one group; gives back by index the ones that failed.
pub(crate) fn write(
    handles: &mut Handles,
    ops: &[&Op],
    context: &Context,
) -> Result<Failed, Error> {
    match ops.first().map(|op| group(op)) {
        None => Ok(Vec::new()),
        Some(Group::Link) => write_links(handles, ops, &context.peers),
        Some(Group::Route) => write_routes(handles, ops),
        Some(Group::Sysctl) => sysctl::write(&handles.netns, ops, context.host.is_some()),
        Some(Group::Set) => {
            let mut failed = write_sets(handles, ops)?;
            if context.host.is_some() {
                failed.extend(forget_flows(handles, ops));
            }
            Ok(failed)
        }
        Some(Group::Rules(family)) => Ok(write_rules(handles, family, ops)),
        Some(Group::Flowtable) => match &context.host {
            Some(instance) => write_flowtable(handles, instance, ops),
            None => Ok(Vec::new()),
        },
        Some(Group::Ipvs) => write_ipvs(handles, ops),
    }
}

/// The kernel's refusal of one operation; `None` if it only says that it was
/// done before.
fn refused(handles: &Handles, op: &Op, source: io::Error) -> Option<Error> {
    let harmless: &[i32] = match op {
        Op::AddAddress(..) => &[libc::EEXIST],
        Op::DelLink(_) => &[libc::ENODEV],
        Op::DelAddress(..) => &[libc::EADDRNOTAVAIL, libc::ENODEV],
        Op::DelRoute(_) => &[libc::ESRCH, libc::ENODEV],
        Op::DestroySet(_) | Op::DelFlowtable => &[libc::ENOENT],
        Op::DelEntry(..) => &[libc::ENOENT, IPSET_NO_ENTRY],
        Op::DelService(..) => &[libc::ESRCH, libc::ENOENT],
        Op::DelDestination(..) => &[libc::ESRCH, libc::ENOENT],
        _ => &[],
    };
    if code(&source).is_some_and(|code| harmless.contains(&code)) {
        return None;
    }
    let mut what = format!("{} in {}", words(op), handles.name);
    if matches!(op, Op::AddLink(..)) && code(&source) == Some(libc::EEXIST) {
        what.push_str(" (delete the link of that name that is there: ip link del)");
    }
    Some(Error::Netlink { what, source })
}

// === links, addresses, routes ===

/// Sends the requests that there are, and ties failures to their operations.
fn send(
    handles: &mut Handles,
    ops: &[&Op],
    requests: impl Iterator<Item = io::Result<Request>>,
) -> Result<Failed, Error> {
    let mut errors = Vec::new();
    let (mut sent, mut numbers) = (Vec::new(), Vec::new());
    for (number, request) in requests.enumerate() {
        match request {
            Ok(request) => {
                sent.push(request);
                numbers.push(number);
            }
            Err(source) => errors.push((number, source)),
        }
    }
    let failed = handles.route.apply(&sent)?.into_iter();
    errors.extend(failed.map(|(index, source)| (numbers[index], source)));
    errors.sort_by_key(|(number, _)| *number);
    let refused = |(number, source)| Some((number, refused(handles, ops[number], source)?));
    Ok(errors.into_iter().filter_map(refused).collect())
}

fn write_links(
    handles: &mut Handles,
    ops: &[&Op],
    peers: &BTreeMap<Place, Netns>,
) -> Result<Failed, Error> {
    let request = |op: &&Op| match *op {
        Op::AddLink(name, link) => {
            let LinkKind::Veth { peer, place } = &link.kind else {
                return Err(io::Error::other("only veths are made"));
            };
            let netns = peers.get(place).ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::NotFound,
                    "the other end's namespace is not there",
                )
            })?;
            Ok(route::add_veth(name, link, peer, netns))
        }
        Op::SetLink(name, link) => Ok(route::set_link(name, link)),
        Op::DelLink(name) => Ok(route::del_link(name)),
        _ => Err(io::Error::other("not a link")),
    };
    send(handles, ops, ops.iter().map(request))
}

fn write_routes(handles: &mut Handles, ops: &[&Op]) -> Result<Failed, Error> {
    let indices = handles.route.indices()?;
    let index = |link: &str| {
        let absent = || io::Error::from_raw_os_error(libc::ENODEV);
        indices.get(link).copied().ok_or_else(absent)
    };
    let request = |op: &&Op| match *op {
        Op::AddAddress(link, net) => Ok(route::address(true, index(link)?, *net)),
        Op::DelAddress(link, net) => Ok(route::address(false, index(link)?, *net)),
        Op::AddRoute(route) | Op::DelRoute(route) => {
            let add = matches!(op, Op::AddRoute(_));
            let dev = route.dev.as_deref().map(index).transpose()?;
            Ok(route::route(add, route, dev))
        }
        _ => Err(io::Error::other("neither an address nor a route")),
    };
    send(handles, ops, ops.iter().map(request))
}

// === sets ===

/// The kind of the sets that such an entry is of.
fn kind_of(entry: &Entry) -> SetKind {
    match entry {
        Entry::Port(_) => SetKind::BitmapPort,
        Entry::Ip(ip) => SetKind::HashIpMark((*ip).into()),
        Entry::IpPort(ip, ..) => SetKind::HashIpPortMark((*ip).into()),
        Entry::Net(net) => SetKind::HashNet(net.addr().into()),
        Entry::NetPort(net, ..) => SetKind::HashNetPort(net.addr().into()),
        Entry::NetNet(net, _) => SetKind::HashNetNet(net.addr().into()),
    }
}

fn set_command(op: &Op) -> Option<ipset::Command<'_>> {
    match op {
        Op::CreateSet(name, kind) => Some(ipset::Command::Create(name, *kind)),
        Op::DestroySet(name) => Some(ipset::Command::Destroy(name)),
        Op::AddEntry(name, entry, mark) => {
            Some(ipset::Command::Add(name, kind_of(entry), *entry, *mark))
        }
        Op::DelEntry(name, entry) => Some(ipset::Command::Del(name, kind_of(entry), *entry)),
        _ => None,
    }
}

fn write_sets(handles: &mut Handles, ops: &[&Op]) -> Result<Failed, Error> {
    let commands: Vec<_> = ops.iter().filter_map(|op| set_command(op)).collect();
    let failed = handles.ipset()?.apply(&commands)?;
    let refused =
        |(index, source): (usize, io::Error)| Some((index, refused(handles, ops[index], source)?));
    Ok(failed.into_iter().filter_map(refused).collect())
}

/// A UDP flow that is older than its port's publication goes on to where it
/// went, and one that is older than its end too: both are decided anew.
fn forget_flows(handles: &mut Handles, ops: &[&Op]) -> Failed {
    let udp = |set: &str| set.trim_end_matches('6').ends_with("-udp");
    let changed = ops.iter().enumerate().filter_map(|(index, op)| {
        let (Op::AddEntry(set, entry, _) | Op::DelEntry(set, entry)) = op else {
            return None;
        };
        match entry {
            Entry::Port(port) if udp(set) => Some((index, *port)),
            Entry::IpPort(_, Protocol::Udp, port) => Some((index, *port)),
            _ => None,
        }
    });
    let changed: Vec<(usize, u16)> = changed.collect();
    let Some((first, _)) = changed.first() else {
        return Vec::new();
    };
    let ports: BTreeSet<u16> = changed.iter().map(|(_, port)| *port).collect();
    let forget = |handles: &mut Handles| {
        let seen = handles.route.observe()?;
        let own: BTreeSet<IpAddr> = seen.addresses.iter().map(|(_, net)| net.addr()).collect();
        let mut conntrack = handles.netns.run(conntrack::Conntrack::open)??;
        conntrack.forget(|flow| {
            flow.protocol == Protocol::Udp
                && ports.contains(&flow.destination.1)
                && (own.contains(&flow.destination.0) || flow.destination.0.is_loopback())
        })
    };
    match forget(handles) {
        Ok(_) => Vec::new(),
        Err(error) => vec![(*first, error)],
    }
}

// === rules ===

fn change(op: &Op) -> Option<iptables::Change<'_>> {
    match op {
        Op::Restore {
            family: _,
            table,
            set,
            gone,
            add,
            remove,
        } => Some(iptables::Change {
            table: *table,
            set,
            gone,
            add,
            remove,
        }),
        _ => None,
    }
}

fn write_rules(handles: &mut Handles, family: Family, ops: &[&Op]) -> Failed {
    let changes: Vec<_> = ops.iter().filter_map(|op| change(op)).collect();
    let failed = restore(handles, family, &changes);
    handles.wrote_rules(changes.len());
    failed
}

fn restore(handles: &Handles, family: Family, changes: &[iptables::Change<'_>]) -> Failed {
    match iptables::apply(&handles.netns, &handles.name, family, changes) {
        Ok(()) => Vec::new(),
        // which of them were made, nobody says
        Err(error) => vec![(0, error)],
    }
}

fn write_flowtable(
    handles: &mut Handles,
    instance: &Instance,
    ops: &[&Op],
) -> Result<Failed, Error> {
    let flowtable = Flowtable::of(instance);
    let mut failed = Vec::new();
    for (index, op) in ops.iter().enumerate() {
        let nftables = handles.nftables()?;
        let done = match op {
            Op::SetFlowtable(links) => flowtable.set(nftables, links),
            _ => flowtable.delete(nftables),
        };
        match done {
            Ok(()) => handles.wrote_rules(1),
            Err(source) => {
                failed.extend(refused(handles, op, source).map(|error| (index, error)));
            }
        }
    }
    Ok(failed)
}

// === IPVS ===

fn write_ipvs(handles: &mut Handles, ops: &[&Op]) -> Result<Failed, Error> {
    let writes = ops.iter().filter_map(|op| Write::of(op, false));
    let failed = handles.ipvs()?.write(writes)?;
    let (there, failed): (Vec<_>, Vec<_>) = failed.into_iter().partition(|(index, source)| {
        let adds = matches!(ops[*index], Op::NewService(..) | Op::NewDestination(..));
        adds && code(source) == Some(libc::EEXIST)
    });
    let mut errors = failed;
    if !there.is_empty() {
        let numbers: Vec<usize> = there.into_iter().map(|(index, _)| index).collect();
        let again = numbers
            .iter()
            .filter_map(|number| Write::of(ops[*number], true));
        let failed = handles.ipvs()?.write(again)?;
        errors.extend(
            failed
                .into_iter()
                .map(|(index, source)| (numbers[index], source)),
        );
        errors.sort_by_key(|(number, _)| *number);
    }
    let refused = |(number, source)| Some((number, refused(handles, ops[number], source)?));
    Ok(errors.into_iter().filter_map(refused).collect())
}

// === words ===

/// What an operation does, for people: "cannot ..." stands before it.
fn words(op: &Op) -> String {
    match op {
        Op::AddLink(name, link) => match &link.kind {
            LinkKind::Veth { peer, .. } => {
                format!("make link {name} with {peer} at its other end")
            }
            LinkKind::Loopback | LinkKind::VethPeer => format!("make link {name}"),
        },
        Op::SetLink(name, link) => {
            format!("set link {name} {}", if link.up { "up" } else { "down" })
        }
        Op::DelLink(name) => format!("delete link {name}"),
        Op::AddAddress(link, net) => format!("add address {net} to link {link}"),
        Op::DelAddress(link, net) => format!("delete address {net} from link {link}"),
        Op::AddRoute(route) => format!("add route {}", route_words(route)),
        Op::DelRoute(route) => format!("delete route {}", route_words(route)),
        Op::SetSysctl(path, value) => format!("set sysctl {path} to {value}"),
        Op::CreateSet(name, _) => format!("make ipset {name}"),
        Op::DestroySet(name) => format!("destroy ipset {name}"),
        Op::AddEntry(name, entry, None) => format!("add {} to ipset {name}", entry),
        Op::AddEntry(name, entry, Some(mark)) => {
            format!("add {} with mark {mark} to ipset {name}", entry)
        }
        Op::DelEntry(name, entry) => format!("delete {} from ipset {name}", entry),
        Op::Restore { table, .. } => format!("write the rules of table {}", table.as_str()),
        Op::SetFlowtable(links) => {
            let links: Vec<_> = links.iter().map(String::as_str).collect();
            format!("make the flowtable of {}", links.join(", "))
        }
        Op::DelFlowtable => "delete the flowtable".to_owned(),
        Op::SetTimeouts(_) => "set IPVS's time-outs".to_owned(),
        Op::NewService(family, mark, value) => {
            let key = theirs((*family, *mark));
            format!("make IPVS service {key} with scheduler {}", value.scheduler)
        }
        Op::SetService(family, mark, _) => {
            format!("change IPVS service {}", theirs((*family, *mark)))
        }
        Op::DelService(family, mark) => format!("delete IPVS service {}", theirs((*family, *mark))),
        Op::NewDestination(family, mark, at, _) => {
            let at = std::net::SocketAddr::from(*at);
            format!(
                "add destination {at} to IPVS service {}",
                theirs((*family, *mark))
            )
        }
        Op::SetDestination(family, mark, at, _) => {
            let at = std::net::SocketAddr::from(*at);
            format!(
                "change destination {at} of IPVS service {}",
                theirs((*family, *mark))
            )
        }
        Op::DelDestination(family, mark, at) => {
            let at = std::net::SocketAddr::from(*at);
            format!(
                "delete destination {at} from IPVS service {}",
                theirs((*family, *mark))
            )
        }
    }
}

fn route_words(route: &Route) -> String {
    let mut text = match route.kind {
        RouteKind::Unicast => String::new(),
        RouteKind::Local => "local ".to_owned(),
        RouteKind::Unreachable => "unreachable ".to_owned(),
    };
    text.push_str(&route.to.to_string());
    if let Some(via) = route.via {
        text.push_str(&format!(" via {via}"));
    }
    if let Some(dev) = &route.dev {
        text.push_str(&format!(" dev {dev}"));
    }
    text
}
