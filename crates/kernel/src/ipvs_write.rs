//! A plan's writes to IPVS, as octets: tens of thousands go out at once, so that
//! each is written straight into what is sent. The octets are those of
//! [`IpvsMessage`](netlink_packet_ipvs::IpvsMessage), see the tests.

use std::net::IpAddr;

use model::Mark;
use netlink_packet_core::NLA_F_NESTED;
use netlink_packet_ipvs::{Flags, IpvsCmd};
use plan::netns::{Destination, Family, Op, Scheduling, Timeouts};

use crate::netlink::Emit;

/// One write.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Write<'a> {
    Timeouts(Timeouts),
    /// Makes or changes a service.
    Service(IpvsCmd, (Family, Mark), &'a Scheduling),
    DelService((Family, Mark)),
    /// Adds or changes a destination.
    Destination(IpvsCmd, (Family, Mark), (IpAddr, u16), Destination),
    DelDestination((Family, Mark), (IpAddr, u16)),
}

impl<'a> Write<'a> {
    /// The write for an operation, if it is one of IPVS's; `again` after it was
    /// refused because the thing is there: changes it.
    pub(crate) fn of(op: &'a Op, again: bool) -> Option<Self> {
        let or = |new, set| if again { set } else { new };
        Some(match op {
            Op::SetTimeouts(timeouts) => Self::Timeouts(*timeouts),
            Op::NewService(family, mark, value) => Self::Service(
                or(IpvsCmd::NewService, IpvsCmd::SetService),
                (*family, *mark),
                value,
            ),
            Op::SetService(family, mark, value) => {
                Self::Service(IpvsCmd::SetService, (*family, *mark), value)
            }
            Op::DelService(family, mark) => Self::DelService((*family, *mark)),
            Op::NewDestination(family, mark, at, value) => Self::Destination(
                or(IpvsCmd::NewDestination, IpvsCmd::SetDestination),
                (*family, *mark),
                *at,
                *value,
            ),
            Op::SetDestination(family, mark, at, value) => {
                Self::Destination(IpvsCmd::SetDestination, (*family, *mark), *at, *value)
            }
            Op::DelDestination(family, mark, at) => Self::DelDestination((*family, *mark), *at),
            _ => return None,
        })
    }

    fn command(&self) -> IpvsCmd {
        match self {
            Self::Timeouts(_) => IpvsCmd::SetConfig,
            Self::Service(cmd, ..) | Self::Destination(cmd, ..) => *cmd,
            Self::DelService(_) => IpvsCmd::DelService,
            Self::DelDestination(..) => IpvsCmd::DelDestination,
        }
    }
}

/// A write to the IPVS family of this number.
pub(crate) struct Message<'a> {
    pub(crate) family: u16,
    pub(crate) write: Write<'a>,
}

impl Emit for Message<'_> {
    fn kind(&self) -> u16 {
        self.family
    }

    fn flags(&self) -> u16 {
        0
    }

    fn emit(&self, buffer: &mut Vec<u8>) {
        // `struct genlmsghdr`: command, version, reserved
        buffer.extend_from_slice(&[self.write.command() as u8, 1, 0, 0]);
        match &self.write {
            Write::Timeouts(timeouts) => {
                put_u32(buffer, 4, timeouts.tcp);
                put_u32(buffer, 5, timeouts.tcp_fin);
                put_u32(buffer, 6, timeouts.udp);
            }
            Write::Service(_, key, value) => nested(buffer, SERVICE, |buffer| {
                put_key(buffer, *key);
                put_service(buffer, key.0, value);
            }),
            Write::DelService(key) => nested(buffer, SERVICE, |buffer| put_key(buffer, *key)),
            Write::Destination(_, key, at, value) => {
                nested(buffer, SERVICE, |buffer| put_key(buffer, *key));
                nested(buffer, DESTINATION, |buffer| {
                    put_destination(buffer, *at, Some(value));
                });
            }
            Write::DelDestination(key, at) => {
                nested(buffer, SERVICE, |buffer| put_key(buffer, *key));
                nested(buffer, DESTINATION, |buffer| {
                    put_destination(buffer, *at, None);
                });
            }
        }
    }
}

/// `IPVS_CMD_ATTR_SERVICE`
const SERVICE: u16 = 1;
/// `IPVS_CMD_ATTR_DEST`
const DESTINATION: u16 = 2;

/// `AF_INET`, `AF_INET6`
fn number(family: Family) -> u16 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}

/// `IPVS_SVC_ATTR_AF`, `IPVS_SVC_ATTR_FWMARK`
fn put_key(buffer: &mut Vec<u8>, (family, mark): (Family, Mark)) {
    put(buffer, 1, &number(family).to_ne_bytes());
    put_u32(buffer, 5, mark.get());
}

/// `IPVS_SVC_ATTR_SCHED_NAME`, `_FLAGS`, `_TIMEOUT`, `_NETMASK`
fn put_service(buffer: &mut Vec<u8>, family: Family, value: &Scheduling) {
    // the kernel's longest names have 15 octets; it refuses what is longer
    let name = value.scheduler.as_bytes();
    let name = &name[..name.len().min(255)];
    header(buffer, 6, name.len() + 1);
    buffer.extend_from_slice(name);
    buffer.push(0);
    pad(buffer);
    header(buffer, 7, 8);
    // the kernel sets "hashed", and takes a service that comes with it for hashed
    buffer.extend_from_slice(&(value.flags & !Flags::HASHED).to_ne_bytes());
    buffer.extend_from_slice(&u32::MAX.to_ne_bytes());
    put_u32(buffer, 8, value.timeout);
    let netmask = match family {
        Family::V4 => u32::MAX
            .checked_shl(32 - u32::from(value.netmask.min(32)))
            .unwrap_or(0)
            .to_be(),
        Family::V6 => value.netmask.into(),
    };
    put_u32(buffer, 9, netmask);
}

/// `IPVS_DEST_ATTR_ADDR_FAMILY`, `_ADDR`, `_PORT`; `_FWD_METHOD` (0 is NAT),
/// `_WEIGHT`, `_U_THRESH`, `_L_THRESH`
fn put_destination(
    buffer: &mut Vec<u8>,
    (address, port): (IpAddr, u16),
    value: Option<&Destination>,
) {
    put(buffer, 11, &number(address.into()).to_ne_bytes());
    let mut raw = [0; 16];
    match address {
        IpAddr::V4(v4) => raw[..4].copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => raw = v6.octets(),
    }
    put(buffer, 1, &raw);
    put(buffer, 2, &port.to_be_bytes());
    if let Some(value) = value {
        put_u32(buffer, 3, 0);
        put_u32(buffer, 4, value.weight);
        put_u32(buffer, 5, value.upper_threshold);
        put_u32(buffer, 6, value.lower_threshold);
    }
}

/// `struct nlattr` of a value of so many octets.
fn header(buffer: &mut Vec<u8>, number: u16, length: usize) {
    buffer.extend_from_slice(&((length + 4) as u16).to_ne_bytes());
    buffer.extend_from_slice(&number.to_ne_bytes());
}

fn pad(buffer: &mut Vec<u8>) {
    buffer.resize(buffer.len().next_multiple_of(4), 0);
}

fn put(buffer: &mut Vec<u8>, number: u16, value: &[u8]) {
    header(buffer, number, value.len());
    buffer.extend_from_slice(value);
    pad(buffer);
}

fn put_u32(buffer: &mut Vec<u8>, number: u16, value: u32) {
    put(buffer, number, &value.to_ne_bytes());
}

fn nested(buffer: &mut Vec<u8>, number: u16, inside: impl FnOnce(&mut Vec<u8>)) {
    let start = buffer.len();
    header(buffer, number | NLA_F_NESTED, 0);
    inside(buffer);
    let length = (buffer.len() - start) as u16;
    buffer[start..start + 2].copy_from_slice(&length.to_ne_bytes());
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::Emitable as _;
    use netlink_packet_ipvs::{
        AddressFamily, Destination as WireDestination, IpvsMessage, Service, ServiceKey,
    };

    use super::*;

    /// The octets that the typed messages have.
    fn typed(op: &Op, again: bool) -> Vec<u8> {
        let key = |family: &Family, mark: &Mark| ServiceKey::FwMark {
            family: match family {
                Family::V4 => AddressFamily::Ipv4,
                Family::V6 => AddressFamily::Ipv6,
            },
            mark: mark.get(),
        };
        let service = |family, mark, value: &Scheduling| Service {
            flags: value.flags,
            timeout: value.timeout,
            prefix: value.netmask,
            ..Service::new(key(family, mark), &value.scheduler)
        };
        let destination = |at: &(IpAddr, u16), value: &Destination| WireDestination {
            weight: value.weight,
            upper_threshold: value.upper_threshold,
            lower_threshold: value.lower_threshold,
            ..WireDestination::new(at.0, at.1)
        };
        let or = |new, set| if again { set } else { new };
        let message = match op {
            Op::SetTimeouts(Timeouts { tcp, tcp_fin, udp }) => {
                IpvsMessage::set_timeouts(*tcp, *tcp_fin, *udp)
            }
            Op::NewService(family, mark, value) => IpvsMessage::with_service(
                or(IpvsCmd::NewService, IpvsCmd::SetService),
                &service(family, mark, value),
            ),
            Op::SetService(family, mark, value) => {
                IpvsMessage::with_service(IpvsCmd::SetService, &service(family, mark, value))
            }
            Op::DelService(family, mark) => {
                IpvsMessage::with_key(IpvsCmd::DelService, &key(family, mark))
            }
            Op::NewDestination(family, mark, at, value) => IpvsMessage::with_destination(
                or(IpvsCmd::NewDestination, IpvsCmd::SetDestination),
                &key(family, mark),
                &destination(at, value),
            ),
            Op::SetDestination(family, mark, at, value) => IpvsMessage::with_destination(
                IpvsCmd::SetDestination,
                &key(family, mark),
                &destination(at, value),
            ),
            Op::DelDestination(family, mark, at) => IpvsMessage::with_destination(
                IpvsCmd::DelDestination,
                &key(family, mark),
                &WireDestination::new(at.0, at.1),
            ),
            other => panic!("{other:?}"),
        };
        let mut octets = vec![0; message.buffer_len()];
        message.emit(&mut octets);
        [vec![message.cmd as u8, 1, 0, 0], octets].concat()
    }

    #[test]
    fn octets_are_those_of_typed_messages() {
        let mark = Mark::new(0x117).unwrap();
        let value = Destination {
            weight: 3,
            upper_threshold: 100,
            lower_threshold: 50,
        };
        let four = ("10.100.0.2".parse().unwrap(), 80);
        let six = ("fd00::2".parse().unwrap(), 0);
        let mut ops = vec![Op::SetTimeouts(Timeouts {
            tcp: 432_000,
            tcp_fin: 0,
            udp: 90,
        })];
        for (family, at) in [(Family::V4, four), (Family::V6, six)] {
            for (scheduler, netmask) in [
                ("rr", 24),
                ("lblc", 0),
                ("mhs", 64),
                ("x".repeat(300).as_str(), 1),
            ] {
                let service = Scheduling {
                    scheduler: scheduler.to_owned().into(),
                    flags: 1 | Flags::HASHED | 8,
                    timeout: 300,
                    netmask,
                };
                ops.push(Op::NewService(family, mark, service.clone()));
                ops.push(Op::SetService(family, mark, service));
            }
            ops.push(Op::DelService(family, mark));
            ops.push(Op::NewDestination(family, mark, at, value));
            ops.push(Op::SetDestination(family, mark, at, value));
            ops.push(Op::DelDestination(family, mark, at));
        }
        for op in ops {
            for again in [false, true] {
                let write = Write::of(&op, again).unwrap();
                let mut octets = Vec::new();
                let family = 0x20;
                Message { family, write }.emit(&mut octets);
                assert_eq!(octets, typed(&op, again), "{op:?}");
            }
        }
    }
}
