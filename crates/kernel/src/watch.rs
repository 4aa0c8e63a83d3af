//! What the kernel tells of changes in a namespace, by itself: links, addresses,
//! routes and rules (rtnetlink's and nfnetlink's multicast groups).
//!
//! What we write is told to us too. So what was told is kept, and compared later
//! with what is believed to be there: only a difference is a drift.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage, address::AddressMessage, link::LinkMessage,
    route::RouteMessage,
};
use netlink_sys::Socket;
use nix::{
    libc,
    sys::{
        epoll::{Epoll, EpollEvent, EpollFlags},
        socket::{setsockopt, sockopt},
    },
};
use plan::netns::{Link, LinkKind, Netns as Value, Route};

use crate::{
    Error,
    netlink::{messages, parse},
    route::{self, Links, Rtnetlink},
};

const NETLINK_ROUTE: isize = 0;
const NETLINK_NETFILTER: isize = 12;
/// `RTNLGRP_LINK`, `RTNLGRP_IPV4_IFADDR`, `RTNLGRP_IPV4_ROUTE`,
/// `RTNLGRP_IPV6_IFADDR`, `RTNLGRP_IPV6_ROUTE`
const GROUPS: [u32; 5] = [1, 5, 7, 9, 11];
/// `NFNLGRP_NFTABLES`
const RULES: u32 = 7;
/// Room for what is told while nobody reads; what does not fit is told as lost.
const RECEIVE_BUFFER: usize = 1 << 20;
/// Largest datagram: they are made of pages, mostly of one.
const DATAGRAM: usize = 64 << 10;

/// Sockets that are told of changes in one namespace, and what they were told.
pub(crate) struct Watch {
    route: Socket,
    /// `None` where the kernel has no nftables.
    rules: Option<Socket>,
    /// Only this link counts; `None`: all of them do.
    only: Option<String>,
    names: BTreeMap<u32, String>,
    /// Links that are up.
    up: BTreeSet<String>,
    told: Told,
    stirred: bool,
    datagram: Vec<u8>,
}

/// What was told last of each thing, and whether it was gone meanwhile: with an
/// address or a link that goes, routes go without a word.
#[derive(Default)]
struct Told {
    /// Not all was told.
    lost: bool,
    links: BTreeMap<String, Change<Link>>,
    addresses: BTreeMap<(String, IpNet), Change<()>>,
    routes: BTreeMap<Route, Change<()>>,
}

struct Change<T> {
    now: Option<T>,
    fell: bool,
}

impl<T> Default for Change<T> {
    fn default() -> Self {
        Self {
            now: None,
            fell: false,
        }
    }
}

impl<T> Change<T> {
    fn set(&mut self, now: Option<T>) {
        self.fell |= now.is_none();
        self.now = now;
    }
}

fn failed(source: io::Error) -> Error {
    Error::Netlink {
        what: "be told of changes".to_owned(),
        source,
    }
}

/// A socket that is told what a protocol's groups are.
fn listen(protocol: isize, groups: &[u32], epoll: &Epoll) -> io::Result<Socket> {
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    for group in groups {
        socket.add_membership(*group)?;
    }
    socket.set_non_blocking(true)?;
    // past net.core.rmem_max only root can go
    if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        socket.set_rx_buf_sz(RECEIVE_BUFFER as u32)?;
    }
    let event = EpollEvent::new(EpollFlags::EPOLLIN, 0);
    epoll.add(&socket, event)?;
    Ok(socket)
}

impl Watch {
    /// Begins to listen in the calling thread's network namespace, and has the
    /// sockets wake this epoll until they are closed.
    ///
    /// # Errors
    /// The kernel refused.
    pub(crate) fn open(epoll: &Epoll, only: Option<String>) -> Result<Self, Error> {
        let route = listen(NETLINK_ROUTE, &GROUPS, epoll).map_err(failed)?;
        let rules = listen(NETLINK_NETFILTER, &[RULES], epoll).ok();
        // after the groups were joined: no change is missed in between
        let Links { names, links } = Rtnetlink::open()?.links()?;
        let up = links.into_iter().filter(|(_, link)| link.up);
        Ok(Self {
            route,
            rules,
            only,
            names,
            up: up.map(|(name, _)| name).collect(),
            told: Told::default(),
            stirred: false,
            datagram: Vec::with_capacity(DATAGRAM),
        })
    }

    /// There was a time in which nobody listened.
    pub(crate) fn lost(&mut self) {
        self.told.lost = true;
        self.stirred = true;
    }

    /// Whether something that may matter was told since this was asked last.
    pub(crate) fn stirred(&mut self) -> bool {
        self.drain();
        std::mem::take(&mut self.stirred)
    }

    /// Takes what was told about our own writes: it is compared like all else, but
    /// wakes nobody.
    pub(crate) fn drain_own(&mut self) {
        let before = self.stirred;
        self.drain();
        self.stirred = before || self.told.lost;
    }

    /// Whether what was told since the last time is not what is believed.
    pub(crate) fn differs(&mut self, believed: &Value) -> bool {
        self.drain();
        let told = std::mem::take(&mut self.told);
        let differs = told.differs(believed);
        if differs {
            let what = told.words(believed);
            tracing::debug!(what, "the kernel told of a change that is not ours");
        }
        differs
    }

    /// Reads all that there is.
    pub(crate) fn drain(&mut self) {
        let mut datagram = std::mem::take(&mut self.datagram);
        while let Some(whole) = receive(&self.route, &mut datagram) {
            if !whole {
                self.lost();
            }
            for (kind, body) in messages(&datagram) {
                self.read(kind, body);
            }
        }
        // of rules the generation tells, see `Rules`
        if let Some(rules) = &self.rules {
            while receive(rules, &mut datagram).is_some() {
                self.stirred = true;
            }
        }
        self.datagram = datagram;
    }

    fn read(&mut self, kind: u16, body: &[u8]) {
        // kinds of links and routes that the library cannot read are not ours
        let Ok(message) = parse::<RouteNetlinkMessage>(kind, body) else {
            return;
        };
        match message {
            RouteNetlinkMessage::NewLink(message) => self.link(&message, false),
            RouteNetlinkMessage::DelLink(message) => self.link(&message, true),
            RouteNetlinkMessage::NewAddress(message) => self.address(&message, Some(())),
            RouteNetlinkMessage::DelAddress(message) => self.address(&message, None),
            RouteNetlinkMessage::NewRoute(message) => self.route(&message, Some(())),
            RouteNetlinkMessage::DelRoute(message) => self.route(&message, None),
            _ => {}
        }
    }

    fn matters(&self, link: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only == link)
    }

    fn link(&mut self, message: &LinkMessage, gone: bool) {
        // others are about ports of bridges
        if message.header.interface_family != AddressFamily::Unspec {
            return;
        }
        let Some((name, link)) = route::read_link(message) else {
            return;
        };
        let index = message.header.index;
        let before = if gone {
            self.names.remove(&index)
        } else {
            self.names.insert(index, name.clone())
        };
        if let Some(before) = before.filter(|before| *before != name) {
            self.set_link(before, None);
        }
        self.set_link(name, link.filter(|_| !gone));
    }

    fn set_link(&mut self, name: String, link: Option<Link>) {
        let up = link.as_ref().is_some_and(|link| link.up);
        let fell = if up {
            self.up.insert(name.clone());
            false
        } else {
            self.up.remove(&name)
        };
        if self.matters(&name) {
            self.stirred = true;
            let change = self.told.links.entry(name).or_default();
            change.fell |= fell;
            change.set(link);
        }
    }

    fn address(&mut self, message: &AddressMessage, now: Option<()>) {
        let Some(net) = route::read_address(message) else {
            return;
        };
        let Some(link) = self.names.get(&message.header.index) else {
            return;
        };
        if self.matters(link) {
            let key = (link.clone(), net);
            self.stirred = true;
            self.told.addresses.entry(key).or_default().set(now);
        }
    }

    fn route(&mut self, message: &RouteMessage, now: Option<()>) {
        let Some((table, route)) = route::read_route(message, &self.names) else {
            return;
        };
        if !route::is_usual(table, &route) {
            return;
        }
        if self.only.is_none() || self.only == route.dev {
            self.stirred = true;
            self.told.routes.entry(route).or_default().set(now);
        }
    }
}

/// Receives a datagram, if there is one; whether it is whole, and all before it
/// had been.
fn receive(socket: &Socket, datagram: &mut Vec<u8>) -> Option<bool> {
    loop {
        datagram.clear();
        return match socket.recv(datagram, libc::MSG_TRUNC) {
            Ok(length) => Some(length <= datagram.len()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            // the buffer ran over; what there is comes next
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Some(false),
            Err(_) => None,
        };
    }
}

impl Told {
    fn differs(&self, believed: &Value) -> bool {
        self.lost || self.differing(believed).next().is_some()
    }

    fn words(&self, believed: &Value) -> String {
        if self.lost {
            return "messages were lost".to_owned();
        }
        self.differing(believed).collect::<Vec<_>>().join(", ")
    }

    /// What differs, in words.
    fn differing<'a>(&'a self, believed: &'a Value) -> impl Iterator<Item = String> + 'a {
        let links = self.links.iter().filter(|(name, change)| {
            match (believed.links.get(name.as_str()), &change.now) {
                (Some(shall), Some(is)) => change.fell || link_differs(is, shall),
                (Some(_), None) => true,
                // `lo` is always there
                (None, Some(is)) => is.kind != LinkKind::Loopback,
                (None, None) => false,
            }
        });
        let fell_or_new = |there: bool, change: &Change<()>| match there {
            true => change.fell || change.now.is_none(),
            false => change.now.is_some(),
        };
        let addresses = self.addresses.iter();
        let addresses = addresses
            .filter(move |(at, change)| fell_or_new(believed.addresses.contains(*at), change));
        let routes = self.routes.iter();
        let routes = routes
            .filter(move |(route, change)| fell_or_new(believed.routes.contains(*route), change));
        let links = links.map(|(name, _)| format!("link {name}"));
        let addresses = addresses.map(|((link, net), _)| format!("address {net} of {link}"));
        let routes = routes.map(|(route, _)| format!("route {}", route.to));
        links.chain(addresses).chain(routes)
    }
}

/// As `plan`'s difference has it.
fn link_differs(is: &Link, shall: &Link) -> bool {
    is.up != shall.up || shall.mtu.is_some() && is.mtu != shall.mtu
}
