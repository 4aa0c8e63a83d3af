//! Connection tracking over nfnetlink
//! (`include/uapi/linux/netfilter/nfnetlink_conntrack.h`): what it takes to make
//! the kernel decide anew about flows that it knows.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use model::Protocol;
use netlink_packet_core::NlasIterator;
use nix::libc;

use crate::{
    Error,
    attribute::{find, put, put_nested},
    netlink::{Conversation, Request, code},
};

const NETLINK_NETFILTER: isize = 12;
const SUBSYSTEM: u16 = 1 << 8;
/// `IPCTNL_MSG_CT_GET`
const GET: u16 = 1;
/// `IPCTNL_MSG_CT_DELETE`
const DELETE: u16 = 2;

/// `struct nfgenmsg`
const HEADER: usize = 4;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// `CTA_*`
const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
/// `CTA_TUPLE_*`
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
/// `CTA_IP_*`
const IP_V4_SRC: u16 = 1;
const IP_V4_DST: u16 = 2;
const IP_V6_SRC: u16 = 3;
const IP_V6_DST: u16 = 4;
/// `CTA_PROTO_*`
const PROTO_NUM: u16 = 1;
const PROTO_SRC_PORT: u16 = 2;
const PROTO_DST_PORT: u16 = 3;

/// A flow as its first packet was, before any translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flow {
    pub(crate) protocol: Protocol,
    pub(crate) destination: (IpAddr, u16),
}

/// One direction of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) protocol: Protocol,
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
}

/// Connection tracking of the network namespace in which this was opened.
pub(crate) struct Conntrack {
    conversation: Conversation,
}

impl Conntrack {
    pub(crate) fn open() -> Result<Self, Error> {
        let conversation =
            Conversation::open(NETLINK_NETFILTER).map_err(|source| Error::Netlink {
                what: "open a netfilter netlink socket".to_owned(),
                source,
            })?;
        Ok(Self { conversation })
    }

    /// Shows the message of each flow of a family.
    fn dump(&mut self, family: u8, mut see: impl FnMut(&[u8])) -> io::Result<()> {
        let ask = Request {
            kind: SUBSYSTEM | GET,
            flags: 0,
            body: vec![family, 0, 0, 0],
        };
        self.conversation.dump(&ask, |_, body| see(body))
    }

    /// How the answers go of the flow that began so.
    pub(crate) fn find(&mut self, way: &Way) -> Result<Option<Way>, Error> {
        let family = match way.to.ip() {
            IpAddr::V4(_) => AF_INET,
            IpAddr::V6(_) => AF_INET6,
        };
        let mut body = vec![family, 0, 0, 0];
        put_nested(&mut body, TUPLE_ORIG, |body| put_tuple(body, way));
        let ask = Request {
            kind: SUBSYSTEM | GET,
            flags: 0,
            body,
        };
        match self.conversation.get(&ask) {
            Ok(answer) => Ok(answer.and_then(|(_, body)| read_answer(&body))),
            Err(error) if code(&error) == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(refused(error)),
        }
    }

    /// Deletes the flows that are meant; gives back how many.
    pub(crate) fn forget(&mut self, meant: impl Fn(&Flow) -> bool) -> Result<usize, Error> {
        let mut deletions = Vec::new();
        for family in [AF_INET, AF_INET6] {
            let dump = self.dump(family, |body| {
                if read(body).is_some_and(|flow| meant(&flow)) {
                    deletions.push(deletion(family, body));
                }
            });
            match dump {
                // entries that came or went meanwhile were decided by today's rules
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => other.map_err(refused)?,
            }
        }
        let failed = self.conversation.batch(deletions.iter()).map_err(refused)?;
        let wrong: BTreeMap<_, _> = failed
            .into_iter()
            // it ended by itself
            .filter(|(_, error)| code(error) != Some(libc::ENOENT))
            .collect();
        match wrong.into_iter().next() {
            Some((_, error)) => Err(refused(error)),
            None => Ok(deletions.len()),
        }
    }
}

fn refused(source: io::Error) -> Error {
    match code(&source) {
        // nfnetlink without this subsystem
        Some(libc::EOPNOTSUPP | libc::EINVAL) => Error::Module {
            module: "nf_conntrack_netlink",
            why: "nfnetlink knows no connection tracking".to_owned(),
        },
        _ => Error::Netlink {
            what: "read or delete tracked connections".to_owned(),
            source,
        },
    }
}

/// The flow of a message, if it is of a protocol with ports.
fn read(message: &[u8]) -> Option<Flow> {
    let way = read_tuple(find(message.get(HEADER..)?, TUPLE_ORIG)?)?;
    Some(Flow {
        protocol: way.protocol,
        destination: (way.to.ip(), way.to.port()),
    })
}

/// How the answers of a message's flow go.
fn read_answer(message: &[u8]) -> Option<Way> {
    read_tuple(find(message.get(HEADER..)?, TUPLE_REPLY)?)
}

fn read_tuple(tuple: &[u8]) -> Option<Way> {
    let ip = find(tuple, TUPLE_IP)?;
    let address = |four: u16, six: u16| {
        let v4 = || Some(Ipv4Addr::from(<[u8; 4]>::try_from(find(ip, four)?).ok()?));
        let v6 = || Some(Ipv6Addr::from(<[u8; 16]>::try_from(find(ip, six)?).ok()?));
        v4().map(IpAddr::V4).or_else(|| v6().map(IpAddr::V6))
    };
    let proto = find(tuple, TUPLE_PROTO)?;
    let protocol = match find(proto, PROTO_NUM)? {
        [6] => Protocol::Tcp,
        [17] => Protocol::Udp,
        [132] => Protocol::Sctp,
        _ => return None,
    };
    let port = |number| Some(u16::from_be_bytes(find(proto, number)?.try_into().ok()?));
    Some(Way {
        protocol,
        from: SocketAddr::new(address(IP_V4_SRC, IP_V6_SRC)?, port(PROTO_SRC_PORT)?),
        to: SocketAddr::new(address(IP_V4_DST, IP_V6_DST)?, port(PROTO_DST_PORT)?),
    })
}

/// Appends the attributes of a tuple.
fn put_tuple(body: &mut Vec<u8>, way: &Way) {
    let ends = [
        (way.from, IP_V4_SRC, IP_V6_SRC, PROTO_SRC_PORT),
        (way.to, IP_V4_DST, IP_V6_DST, PROTO_DST_PORT),
    ];
    let number = match way.protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    };
    put_nested(body, TUPLE_IP, |ip| {
        for (end, four, six, _) in ends {
            match end.ip() {
                IpAddr::V4(address) => put(ip, four, &address.octets()),
                IpAddr::V6(address) => put(ip, six, &address.octets()),
            }
        }
    });
    put_nested(body, TUPLE_PROTO, |proto| {
        put(proto, PROTO_NUM, &[number]);
        for (end, _, _, port) in ends {
            put(proto, port, &end.port().to_be_bytes());
        }
    });
}

/// Asks for the deletion of the very entry that a message is about.
fn deletion(family: u8, message: &[u8]) -> Request {
    let mut body = vec![family, 0, 0, 0];
    let attributes = message.get(HEADER..).unwrap_or_default();
    for nla in NlasIterator::new(attributes).map_while(Result::ok) {
        if [TUPLE_ORIG, ID, ZONE].contains(&nla.kind()) {
            let length = usize::from(nla.length());
            body.extend(nla.into_inner().get(..length).unwrap_or_default());
            body.resize(body.len().next_multiple_of(4), 0);
        }
    }
    Request {
        kind: SUBSYSTEM | DELETE,
        flags: 0,
        body,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribute;

    /// `conntrack -p udp` of one flow, as Linux 6.1 dumps it:
    /// 10.0.0.9:40000 to 192.0.2.1:8053.
    fn message() -> Vec<u8> {
        let tuple = |body: &mut Vec<u8>| {
            put_nested(body, 1, |ip| {
                put(ip, 1, &[10, 0, 0, 9]);
                put(ip, 2, &[192, 0, 2, 1]);
            });
            put_nested(body, 2, |proto| {
                put(proto, 1, &[17]);
                put(proto, 2, &40000_u16.to_be_bytes());
                put(proto, 3, &8053_u16.to_be_bytes());
            });
        };
        let mut message = vec![AF_INET, 0, 0, 0];
        put_nested(&mut message, 1, tuple);
        put_nested(&mut message, 2, tuple);
        put(&mut message, 3, &[0, 0, 0, 8]);
        put(&mut message, 12, &[1, 2, 3, 4]);
        message
    }

    #[test]
    fn a_flow_is_read_and_its_entry_deleted_by_tuple_and_id() {
        let flow = Flow {
            protocol: Protocol::Udp,
            destination: ([192, 0, 2, 1].into(), 8053),
        };
        assert_eq!(read(&message()), Some(flow));
        let request = deletion(AF_INET, &message());
        assert_eq!(request.kind, 0x102);
        assert_eq!(read(&request.body), Some(flow));
        let numbers = attribute::each(&request.body[HEADER..]).map(|(n, _)| n);
        let numbers: Vec<u16> = numbers.collect();
        assert_eq!(numbers, [TUPLE_ORIG, ID]);
    }

    #[test]
    fn a_flow_is_asked_for_by_its_tuple_and_its_answers_read() {
        let way = Way {
            protocol: Protocol::Udp,
            from: "10.0.0.9:40000".parse().unwrap(),
            to: "192.0.2.1:8053".parse().unwrap(),
        };
        let tuple = |way| {
            let mut body = Vec::new();
            put_tuple(&mut body, way);
            body
        };
        assert_eq!(read_tuple(&tuple(&way)), Some(way));
        let six = Way {
            protocol: Protocol::Tcp,
            from: "[fd00::9]:40000".parse().unwrap(),
            to: "[fd00::1]:80".parse().unwrap(),
        };
        assert_eq!(read_tuple(&tuple(&six)), Some(six));
        // this one's both ways are the same
        assert_eq!(read_answer(&message()), Some(way));
    }

    #[test]
    fn nonsense_is_no_flow() {
        let whole = message();
        for length in 0..whole.len() {
            let _ = read(&whole[..length]);
            let _ = deletion(AF_INET, &whole[..length]);
        }
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0xff;
            let _ = read(&damaged);
            let _ = deletion(AF_INET, &damaged);
        }
    }
}
