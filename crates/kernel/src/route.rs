//! Links, addresses and routes, over rtnetlink messages.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    os::fd::AsRawFd as _,
};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    RouteNetlinkMessage,
    address::{
        AddressAttribute, AddressHeaderFlags, AddressMessage, AddressProtocol, AddressScope,
    },
    link::{
        InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType,
        LinkMessage,
    },
    route::{
        RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
        RouteType,
    },
};
use plan::netns::{Link, LinkKind, Route, RouteKind};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

use crate::{
    Error,
    netlink::{Conversation, Request, parse},
    netns::Netns,
};

const NETLINK_ROUTE: isize = 0;
/// The local table, of `ip route add local`.
const RT_TABLE_LOCAL: u8 = 255;

/// rtnetlink of the network namespace in which this was opened.
pub(crate) struct Rtnetlink {
    conversation: Conversation,
}

/// The links of a namespace.
#[derive(Debug, Default)]
pub(crate) struct Links {
    /// Names of all links, by index.
    pub(crate) names: BTreeMap<u32, String>,
    /// Veths and `lo`, by name.
    pub(crate) links: BTreeMap<String, Link>,
}

/// What rtnetlink tells of a namespace.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Veths and `lo`, by name.
    pub(crate) links: BTreeMap<String, Link>,
    /// Names of all links, by index.
    pub(crate) names: BTreeMap<u32, String>,
    /// Addresses that are not automatic.
    pub(crate) addresses: BTreeSet<(String, IpNet)>,
    /// Routes that the kernel did not make by itself.
    pub(crate) routes: BTreeSet<Route>,
    /// Those of other tables than the main and the local one.
    pub(crate) elsewhere: BTreeSet<Route>,
}

impl Rtnetlink {
    pub(crate) fn open() -> Result<Self, Error> {
        let conversation = Conversation::open(NETLINK_ROUTE).map_err(|source| Error::Netlink {
            what: "open an rtnetlink socket".to_owned(),
            source,
        })?;
        Ok(Self { conversation })
    }

    fn dump(
        &mut self,
        ask: &RouteNetlinkMessage,
        what: &'static str,
    ) -> Result<Vec<RouteNetlinkMessage>, Error> {
        for _ in 0..8 {
            let mut answers = Vec::new();
            let done = self
                .conversation
                .dump(&Request::new(ask, NLM_F_DUMP), |kind, body| {
                    // kinds of links and routes that the library cannot read are not ours
                    if let Ok(message) = parse::<RouteNetlinkMessage>(kind, body) {
                        answers.push(message);
                    }
                });
            match done {
                Ok(()) => return Ok(answers),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(Error::Netlink {
                        what: format!("read {what}"),
                        source,
                    });
                }
            }
        }
        Err(Error::Answer {
            what,
            why: "it kept changing".to_owned(),
        })
    }

    /// Reads links only.
    pub(crate) fn links(&mut self) -> Result<Links, Error> {
        self.links_and(|_, _| {})
    }

    /// The same, and shows each with its name.
    fn links_and(&mut self, mut see: impl FnMut(&LinkMessage, &str)) -> Result<Links, Error> {
        let mut seen = Links::default();
        for message in self.dump(
            &RouteNetlinkMessage::GetLink(LinkMessage::default()),
            "links",
        )? {
            let RouteNetlinkMessage::NewLink(message) = message else {
                continue;
            };
            let Some((name, link)) = read_link(&message) else {
                continue;
            };
            see(&message, &name);
            seen.names.insert(message.header.index, name.clone());
            if let Some(link) = link {
                seen.links.insert(name, link);
            }
        }
        Ok(seen)
    }

    /// Reads everything.
    pub(crate) fn observe(&mut self) -> Result<Seen, Error> {
        let links = self.links()?;
        self.observe_on(links)
    }

    /// Reads what is on links that were read.
    fn observe_on(&mut self, Links { names, links }: Links) -> Result<Seen, Error> {
        let mut seen = Seen {
            names,
            links,
            ..Seen::default()
        };
        let ask = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        for message in self.dump(&ask, "addresses")? {
            let RouteNetlinkMessage::NewAddress(message) = message else {
                continue;
            };
            let link = seen.names.get(&message.header.index);
            if let (Some(link), Some(net)) = (link, read_address(&message)) {
                seen.addresses.insert((link.clone(), net));
            }
        }
        for message in self.dump(
            &RouteNetlinkMessage::GetRoute(RouteMessage::default()),
            "routes",
        )? {
            let RouteNetlinkMessage::NewRoute(message) = message else {
                continue;
            };
            let Some((table, route)) = read_route(&message, &seen.names) else {
                continue;
            };
            let routes = if is_usual(table, &route) {
                &mut seen.routes
            } else {
                &mut seen.elsewhere
            };
            routes.insert(route);
        }
        Ok(seen)
    }

    /// Ethernet links with an address that is not automatic; of bridges those that a default
    /// route leaves by.
    pub(crate) fn ways_in(&mut self) -> Result<BTreeSet<String>, Error> {
        let mut ethernet = BTreeMap::new();
        let links = self.links_and(|message, name| {
            if message.header.link_layer_type == LinkLayerType::Ether {
                ethernet.insert(name.to_owned(), is_bridge(message));
            }
        })?;
        let seen = self.observe_on(links)?;
        let addressed: BTreeSet<_> = seen.addresses.iter().map(|(link, _)| link).collect();
        let routes = seen
            .routes
            .iter()
            .filter(|route| route.to.prefix_len() == 0);
        let lead_out: BTreeSet<_> = routes.filter_map(|route| route.dev.as_ref()).collect();
        let leads_in = |(name, is_bridge): &(String, bool)| {
            addressed.contains(name) && (!is_bridge || lead_out.contains(name))
        };
        let found = ethernet.into_iter().filter(leads_in);
        Ok(found.map(|(name, _)| name).collect())
    }

    /// Index of each link by name.
    pub(crate) fn indices(&mut self) -> Result<BTreeMap<String, u32>, Error> {
        let names = self.links()?.names.into_iter();
        Ok(names.map(|(index, name)| (name, index)).collect())
    }

    /// Does all writes in one send; gives back by index the ones that failed.
    pub(crate) fn apply(
        &mut self,
        writes: &[Request],
    ) -> Result<BTreeMap<usize, io::Error>, Error> {
        let failed = self.conversation.batch(writes.iter());
        failed.map_err(|source| Error::Netlink {
            what: "write links and routes".to_owned(),
            source,
        })
    }
}

// === writing ===

/// Makes a veth pair, the other end at once in its namespace.
pub(crate) fn add_veth(name: &str, link: &Link, peer: &str, netns: &Netns) -> Request {
    let mut other = LinkMessageBuilder::<LinkUnspec>::new()
        .name(peer.to_owned())
        .build();
    other
        .attributes
        .push(LinkAttribute::NetNsFd(netns.file().as_raw_fd()));
    let mut message = LinkVeth::new(name, peer).build();
    for attribute in &mut message.attributes {
        if let LinkAttribute::LinkInfo(infos) = attribute {
            for info in infos {
                if let LinkInfo::Data(InfoData::Veth(veth)) = info {
                    *veth = InfoVeth::Peer(other.clone());
                }
            }
        }
    }
    message.attributes.extend(link.mtu.map(LinkAttribute::Mtu));
    Request::new(
        &RouteNetlinkMessage::NewLink(message),
        NLM_F_CREATE | NLM_F_EXCL,
    )
}

/// Sets MTU and up or down.
pub(crate) fn set_link(name: &str, link: &Link) -> Request {
    let mut message = LinkMessage::default();
    message
        .attributes
        .push(LinkAttribute::IfName(name.to_owned()));
    message.attributes.extend(link.mtu.map(LinkAttribute::Mtu));
    message.header.change_mask = LinkFlags::Up;
    if link.up {
        message.header.flags = LinkFlags::Up;
    }
    Request::new(&RouteNetlinkMessage::NewLink(message), 0)
}

/// Deletes a link and its peer.
pub(crate) fn del_link(name: &str) -> Request {
    let mut message = LinkMessage::default();
    message
        .attributes
        .push(LinkAttribute::IfName(name.to_owned()));
    Request::new(&RouteNetlinkMessage::DelLink(message), 0)
}

/// Adds or deletes an address.
pub(crate) fn address(add: bool, index: u32, net: IpNet) -> Request {
    let mut message = AddressMessage::default();
    message.header.family = family(net.addr());
    message.header.prefix_len = net.prefix_len();
    message.header.index = index;
    message.header.scope = AddressScope::Universe;
    message.attributes.push(AddressAttribute::Local(net.addr()));
    message
        .attributes
        .push(AddressAttribute::Address(net.addr()));
    if net.addr().is_ipv6() {
        // usable at once
        message.header.flags = AddressHeaderFlags::Nodad;
    }
    if add {
        Request::new(
            &RouteNetlinkMessage::NewAddress(message),
            NLM_F_CREATE | NLM_F_EXCL,
        )
    } else {
        Request::new(&RouteNetlinkMessage::DelAddress(message), 0)
    }
}

/// Adds (replacing one with the same destination and metric) or deletes a route.
pub(crate) fn route(add: bool, route: &Route, index: Option<u32>) -> Request {
    let mut message = match route.to {
        IpNet::V4(net) => RouteMessageBuilder::<std::net::Ipv4Addr>::new()
            .destination_prefix(net.network(), net.prefix_len())
            .build(),
        IpNet::V6(net) => RouteMessageBuilder::<std::net::Ipv6Addr>::new()
            .destination_prefix(net.network(), net.prefix_len())
            .build(),
    };
    (
        message.header.kind,
        message.header.table,
        message.header.scope,
    ) = match route.kind {
        RouteKind::Unicast if route.via.is_none() && route.to.addr().is_ipv4() => (
            RouteType::Unicast,
            RouteHeader::RT_TABLE_MAIN,
            RouteScope::Link,
        ),
        RouteKind::Unicast => (
            RouteType::Unicast,
            RouteHeader::RT_TABLE_MAIN,
            RouteScope::Universe,
        ),
        RouteKind::Local => (RouteType::Local, RT_TABLE_LOCAL, RouteScope::Host),
        RouteKind::Unreachable => (
            RouteType::Unreachable,
            RouteHeader::RT_TABLE_MAIN,
            RouteScope::Universe,
        ),
    };
    let attributes = &mut message.attributes;
    attributes.extend(route.via.map(|via| RouteAttribute::Gateway(raw(via))));
    attributes.extend(index.map(RouteAttribute::Oif));
    attributes.extend(route.src.map(|src| RouteAttribute::PrefSource(raw(src))));
    if route.metric > 0 {
        attributes.push(RouteAttribute::Priority(route.metric));
    }
    if add {
        Request::new(
            &RouteNetlinkMessage::NewRoute(message),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
    } else {
        // whoever made it, and however: else the kernel says that there is none
        message.header.protocol = RouteProtocol::Unspec;
        message.header.scope = RouteScope::NoWhere;
        Request::new(&RouteNetlinkMessage::DelRoute(message), 0)
    }
}

fn family(address: IpAddr) -> netlink_packet_route::AddressFamily {
    match address {
        IpAddr::V4(_) => netlink_packet_route::AddressFamily::Inet,
        IpAddr::V6(_) => netlink_packet_route::AddressFamily::Inet6,
    }
}

fn raw(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(v4) => RouteAddress::Inet(v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(v6),
    }
}

// === reading ===

/// The name, and the link itself if it is of a kind that the data plane has.
pub(crate) fn read_link(message: &LinkMessage) -> Option<(String, Option<Link>)> {
    let (mut name, mut mtu, mut veth) = (None, None, false);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text.clone()),
            LinkAttribute::Mtu(octets) => mtu = Some(*octets),
            LinkAttribute::LinkInfo(infos) => {
                veth |= infos.contains(&LinkInfo::Kind(InfoKind::Veth));
            }
            _ => {}
        }
    }
    let name = name?;
    let up = message.header.flags.contains(LinkFlags::Up);
    let kind = match (veth, name.as_str()) {
        // which end it is, the kernel does not say
        (true, _) => LinkKind::VethPeer,
        (false, "lo") => LinkKind::Loopback,
        (false, _) => return Some((name, None)),
    };
    Some((name, Some(Link { kind, mtu, up })))
}

fn is_bridge(message: &LinkMessage) -> bool {
    let is_kind = |info: &LinkInfo| *info == LinkInfo::Kind(InfoKind::Bridge);
    let infos = message.attributes.iter();
    let mut infos = infos.filter_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    });
    infos.any(|infos| infos.iter().any(is_kind))
}

/// The address, if it is not automatic.
pub(crate) fn read_address(message: &AddressMessage) -> Option<IpNet> {
    let (mut address, mut made_by) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Protocol(by) => made_by = Some(*by),
            AddressAttribute::Local(local) => address = Some(*local),
            AddressAttribute::Address(other) if address.is_none() => address = Some(*other),
            _ => {}
        }
    }
    let address = address?;
    let net = IpNet::new(address, message.header.prefix_len).ok()?;
    let automatic = match address {
        IpAddr::V4(_) => net == IpNet::new_assert([127, 0, 0, 1].into(), 8),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => match made_by {
            Some(by) => by == AddressProtocol::LinkLocal,
            // before Linux 5.18: made out of a MAC address
            None => v6.octets()[11..13] == [0xff, 0xfe],
        },
        IpAddr::V6(v6) => v6.is_loopback(),
    };
    (!automatic).then_some(net)
}

/// Whether a route is in the table where the data plane has such ones.
pub(crate) fn is_usual(table: u32, route: &Route) -> bool {
    let usual = match route.kind {
        RouteKind::Local => RT_TABLE_LOCAL,
        RouteKind::Unicast | RouteKind::Unreachable => RouteHeader::RT_TABLE_MAIN,
    };
    table == u32::from(usual)
}

/// The number of its table, and the route if it is of a kind that the data plane has.
pub(crate) fn read_route(
    message: &RouteMessage,
    names: &BTreeMap<u32, String>,
) -> Option<(u32, Route)> {
    if message.header.protocol == RouteProtocol::Kernel
        || message.header.protocol == RouteProtocol::Ra
    {
        return None;
    }
    let kind = match message.header.kind {
        RouteType::Unicast => RouteKind::Unicast,
        RouteType::Local => RouteKind::Local,
        RouteType::Unreachable => RouteKind::Unreachable,
        _ => return None,
    };
    let mut table = u32::from(message.header.table);
    let (mut to, mut via, mut dev, mut src, mut metric) = (None, None, None, None, 0);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => to = ip(address),
            RouteAttribute::Gateway(address) => via = ip(address),
            RouteAttribute::PrefSource(address) => src = ip(address),
            RouteAttribute::Oif(index) => dev = names.get(index).cloned(),
            RouteAttribute::Priority(number) => metric = *number,
            // the header has room for numbers up to 255 only
            RouteAttribute::Table(number) => table = *number,
            _ => {}
        }
    }
    let unspecified: IpAddr = match message.header.address_family {
        netlink_packet_route::AddressFamily::Inet => [0; 4].into(),
        netlink_packet_route::AddressFamily::Inet6 => [0_u16; 8].into(),
        _ => return None,
    };
    let to = IpNet::new(
        to.unwrap_or(unspecified),
        message.header.destination_prefix_length,
    )
    .ok()?;
    if kind == RouteKind::Unreachable {
        dev = None;
    }
    let route = Route {
        to,
        kind,
        via,
        dev,
        src,
        metric,
    };
    Some((table, route))
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}
