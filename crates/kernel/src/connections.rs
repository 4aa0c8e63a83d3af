//! Connections that are open to tasks.
//!
//! The router sees every packet of a task, so its connection tracking knows them
//! all: those by a VIP or a published port, whose answers come from the task's
//! address, and those to that address itself. IPVS counts the first two as well,
//! and goes on where its packets are not tracked; the higher number is taken.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use model::Mark;
use netlink_packet_ipvs::{AddressFamily, ServiceKey};
use plan::netns::Place;

use crate::{
    Error,
    conntrack::{Conntrack, HEADER, PROTO_NUM, TUPLE_IP, TUPLE_PROTO, find},
    ipvs::Ipvs,
    place::Handles,
};

/// `CTA_TUPLE_REPLY`
const TUPLE_REPLY: u16 = 2;
/// `CTA_IP_*`
const IP_V4_SRC: u16 = 1;
const IP_V6_SRC: u16 = 3;
/// `CTA_PROTOINFO`
const PROTOINFO: u16 = 4;
/// `CTA_PROTOINFO_*`
const PROTOINFO_TCP: u16 = 1;
const PROTOINFO_SCTP: u16 = 3;
/// `CTA_PROTOINFO_TCP_*` and `CTA_PROTOINFO_SCTP_*`
const STATE: u16 = 1;
const TCP_FLAGS_ORIGINAL: u16 = 4;
/// `IP_CT_TCP_FLAG_CLOSE_INIT`: the first FIN was this side's.
const CLOSED_FIRST: u8 = 0x04;

/// Where connections are looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watched {
    /// Addresses of tasks.
    pub addresses: BTreeSet<IpAddr>,
    /// IPVS services that balance to them, of any family.
    pub services: BTreeSet<(Place, Mark)>,
}

/// Open connections by the address that they go to.
type Count = BTreeMap<IpAddr, u64>;

/// Counts; `inside` reads in a place, and gives nothing where there is no such
/// namespace.
pub(crate) fn count(
    watched: &Watched,
    mut inside: impl FnMut(
        &Place,
        &mut dyn FnMut(&mut Handles) -> Result<Count, Error>,
    ) -> Result<Count, Error>,
) -> Result<Count, Error> {
    let mut count = inside(&Place::Router, &mut |handles| {
        tracked(
            &mut handles.netns.run(Conntrack::open)??,
            &watched.addresses,
        )
    })?;
    let mut balanced = Count::new();
    for place in [Place::Ingress, Place::Router] {
        let services = watched.services.iter();
        let marks = services
            .filter(|(at, _)| *at == place)
            .map(|(_, mark)| mark);
        let marks: Vec<_> = marks.copied().collect();
        let here = inside(&place, &mut |handles| active(handles.ipvs()?, &marks))?;
        for (address, number) in here {
            *balanced.entry(address).or_default() += number;
        }
    }
    for (address, number) in balanced {
        if watched.addresses.contains(&address) && number > 0 {
            let known = count.entry(address).or_default();
            *known = number.max(*known);
        }
    }
    Ok(count)
}

/// What IPVS has as active connections of each destination of these services.
fn active(ipvs: &mut Ipvs, marks: &[Mark]) -> Result<Count, Error> {
    let mut count = Count::new();
    for mark in marks {
        for family in [AddressFamily::Ipv4, AddressFamily::Ipv6] {
            let mark = mark.get();
            for to in ipvs.uncounted_destinations(&ServiceKey::FwMark { family, mark })? {
                *count.entry(to.address).or_default() += u64::from(to.active_connections);
            }
        }
    }
    Ok(count)
}

/// What connection tracking knows of connections to these addresses.
fn tracked(conntrack: &mut Conntrack, to: &BTreeSet<IpAddr>) -> Result<Count, Error> {
    let mut count = Count::new();
    conntrack.each(|message| {
        let address = server(message).filter(|address| to.contains(address));
        if let Some(address) = address.filter(|_| is_open(message)) {
            *count.entry(address).or_default() += 1;
        }
    })?;
    Ok(count)
}

/// Who answers: the source of the reply, so the task though a VIP was asked.
fn server(message: &[u8]) -> Option<IpAddr> {
    let ip = find(find(message.get(HEADER..)?, TUPLE_REPLY)?, TUPLE_IP)?;
    if let Some(source) = find(ip, IP_V4_SRC) {
        let source: [u8; 4] = source.try_into().ok()?;
        return Some(Ipv4Addr::from(source).into());
    }
    let source: [u8; 16] = find(ip, IP_V6_SRC)?.try_into().ok()?;
    Some(Ipv6Addr::from(source).into())
}

/// Whether it is a connection that its server has not done with: one that is being
/// made, too, and one whose client has said all and waits for the rest.
fn is_open(message: &[u8]) -> bool {
    let open = || {
        let attributes = message.get(HEADER..)?;
        let protocol = find(find(attributes, TUPLE_REPLY)?, TUPLE_PROTO)?;
        let info = find(attributes, PROTOINFO)?;
        Some(match find(protocol, PROTO_NUM)? {
            [6] => {
                let tcp = find(info, PROTOINFO_TCP)?;
                match find(tcp, STATE)? {
                    // enum tcp_conntrack: SYN_SENT, SYN_RECV, ESTABLISHED
                    [1..=3] => true,
                    // FIN_WAIT, CLOSE_WAIT
                    [4 | 5] => {
                        let client = find(tcp, TCP_FLAGS_ORIGINAL)?.first()?;
                        client & CLOSED_FIRST != 0
                    }
                    _ => false,
                }
            }
            // enum sctp_conntrack: COOKIE_WAIT, COOKIE_ECHOED, ESTABLISHED
            [132] => matches!(find(find(info, PROTOINFO_SCTP)?, STATE)?, [2..=4]),
            _ => false,
        })
    };
    open().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NESTED: u16 = 1 << 15;

    fn attribute(number: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = (4 + value.len() as u16).to_ne_bytes().to_vec();
        bytes.extend(number.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// A flow of 10.100.0.3 to the VIP 10.200.0.1 that 10.100.0.2 answers, as
    /// Linux 6.1 dumps it; `flags` are the client's.
    fn message(protocol: u8, state: u8, flags: u8) -> Vec<u8> {
        let tuple = |number: u16, from: [u8; 4], to: [u8; 4]| {
            let ip = [attribute(1, &from), attribute(2, &to)].concat();
            let ports = [attribute(1, &[protocol]), attribute(2, &[0, 80])].concat();
            let both = [attribute(1 | NESTED, &ip), attribute(2 | NESTED, &ports)];
            attribute(number | NESTED, &both.concat())
        };
        let (client, vip, task) = ([10, 100, 0, 3], [10, 200, 0, 1], [10, 100, 0, 2]);
        let (info, kind) = match protocol {
            6 => {
                let ours = [attribute(1, &[state]), attribute(4, &[flags, 0])];
                (ours.concat(), PROTOINFO_TCP)
            }
            _ => (attribute(1, &[state]), PROTOINFO_SCTP),
        };
        let info = attribute(kind | NESTED, &info);
        let rest = [
            tuple(1, client, vip),
            tuple(2, task, client),
            attribute(3, &[0, 0, 0, 14]),
            attribute(4 | NESTED, &info),
        ];
        [vec![2, 0, 0, 0], rest.concat()].concat()
    }

    #[test]
    fn a_connection_goes_to_who_answers_it() {
        assert_eq!(server(&message(6, 3, 0)), Some([10, 100, 0, 2].into()));
    }

    #[test]
    fn open_is_what_the_server_has_not_done_with() {
        let tcp: Vec<_> = (0..=9).filter(|n| is_open(&message(6, *n, 0x03))).collect();
        assert_eq!(tcp, [1, 2, 3]);
        // its client closed first and reads on
        let half: Vec<_> = (0..=9).filter(|n| is_open(&message(6, *n, 0x07))).collect();
        assert_eq!(half, [1, 2, 3, 4, 5]);
        let sctp: Vec<_> = (0..=9).filter(|n| is_open(&message(132, *n, 0))).collect();
        assert_eq!(sctp, [2, 3, 4]);
        assert!(!is_open(&message(17, 3, 0)));
    }

    #[test]
    fn nonsense_is_no_connection() {
        let whole = message(6, 3, 0);
        for length in 0..whole.len() {
            assert!(!is_open(&whole[..length]), "{length}");
        }
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0xff;
            let _ = (server(&damaged), is_open(&damaged));
        }
    }
}
