//! Connection tracking over nfnetlink
//! (`include/uapi/linux/netfilter/nfnetlink_conntrack.h`): what it takes to make
//! the kernel decide anew about flows that it knows.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use model::Protocol;
use netlink_packet_core::NlasIterator;
use nix::libc;

use crate::{
    Error,
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
const ID: u16 = 12;
const ZONE: u16 = 18;
/// `CTA_TUPLE_*`
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
/// `CTA_IP_*`
const IP_V4_DST: u16 = 2;
const IP_V6_DST: u16 = 4;
/// `CTA_PROTO_*`
const PROTO_NUM: u16 = 1;
const PROTO_DST_PORT: u16 = 3;

/// A flow as its first packet was, before any translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flow {
    pub(crate) protocol: Protocol,
    pub(crate) destination: (IpAddr, u16),
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

/// Number without flags, and value, of each attribute; stops at nonsense.
fn attributes(body: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(body).map_while(|nla| {
        let nla = nla.ok()?;
        let length = usize::from(nla.length());
        Some((nla.kind(), nla.into_inner().get(4..length)?))
    })
}

fn find(body: &[u8], number: u16) -> Option<&[u8]> {
    attributes(body)
        .find(|(n, _)| *n == number)
        .map(|(_, value)| value)
}

/// The flow of a message, if it is of a protocol with ports.
fn read(message: &[u8]) -> Option<Flow> {
    let tuple = find(message.get(HEADER..)?, TUPLE_ORIG)?;
    let ip = find(tuple, TUPLE_IP)?;
    let v4 = || {
        Some(Ipv4Addr::from(
            <[u8; 4]>::try_from(find(ip, IP_V4_DST)?).ok()?,
        ))
    };
    let v6 = || {
        Some(Ipv6Addr::from(
            <[u8; 16]>::try_from(find(ip, IP_V6_DST)?).ok()?,
        ))
    };
    let address = v4().map(IpAddr::V4).or_else(|| v6().map(IpAddr::V6))?;
    let proto = find(tuple, TUPLE_PROTO)?;
    let protocol = match find(proto, PROTO_NUM)? {
        [6] => Protocol::Tcp,
        [17] => Protocol::Udp,
        [132] => Protocol::Sctp,
        _ => return None,
    };
    let port = find(proto, PROTO_DST_PORT)?.try_into().ok()?;
    Some(Flow {
        protocol,
        destination: (address, u16::from_be_bytes(port)),
    })
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

    /// `conntrack -p udp` of one flow, as Linux 6.1 dumps it:
    /// 10.0.0.9:40000 to 192.0.2.1:8053.
    fn message() -> Vec<u8> {
        let attribute = |number: u16, value: &[u8]| {
            let mut bytes = (4 + value.len() as u16).to_ne_bytes().to_vec();
            bytes.extend(number.to_ne_bytes());
            bytes.extend(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        };
        const NESTED: u16 = 1 << 15;
        let ip = [attribute(1, &[10, 0, 0, 9]), attribute(2, &[192, 0, 2, 1])].concat();
        let proto = [
            attribute(1, &[17]),
            attribute(2, &40000_u16.to_be_bytes()),
            attribute(3, &8053_u16.to_be_bytes()),
        ]
        .concat();
        let tuple = [attribute(1 | NESTED, &ip), attribute(2 | NESTED, &proto)].concat();
        let rest = [
            attribute(1 | NESTED, &tuple),
            attribute(2 | NESTED, &tuple),
            attribute(3, &[0, 0, 0, 8]),
            attribute(12, &[1, 2, 3, 4]),
        ];
        [vec![AF_INET, 0, 0, 0], rest.concat()].concat()
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
        let numbers: Vec<u16> = attributes(&request.body[HEADER..])
            .map(|(n, _)| n)
            .collect();
        assert_eq!(numbers, [TUPLE_ORIG, ID]);
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
