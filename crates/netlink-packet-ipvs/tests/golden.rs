// SPDX-License-Identifier: MIT OR Apache-2.0

//! The bytes of the real `ipvsadm` and of a real kernel, read, understood and
//! written again.
#![cfg(target_endian = "little")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::IpAddr;

use netlink_packet_core::{Emitable, ParseableParametrized};
use netlink_packet_generic::GenlMessage;
use netlink_packet_ipvs::{
    AddressFamily, DaemonAttribute, Destination, DestinationAttribute, Flags, ForwardingMethod,
    IpvsAttribute, IpvsCmd, IpvsMessage, Service, ServiceAttribute, ServiceKey, Stats32Attribute,
    StatsAttribute, Tunnel, TunnelKind,
};

const RECORDED: &str = include_str!("data/ipvsadm.txt");

/// Octets of all requests (`>`) or answers (`<`) of a command, in order.
fn recorded(command: &str, direction: &str) -> Vec<Vec<u8>> {
    let heading = format!("$ {command}");
    let mut lines = RECORDED.lines();
    lines
        .find(|line| *line == heading)
        .unwrap_or_else(|| panic!("{command} was not recorded"));
    lines
        .take_while(|line| !line.starts_with('$'))
        .filter_map(|line| line.strip_prefix(direction))
        .map(octets)
        .collect()
}

fn octets(hex: &str) -> Vec<u8> {
    let hex = hex.trim();
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

fn parse(bytes: &[u8]) -> IpvsMessage {
    GenlMessage::parse_with_param(bytes, 32).unwrap().payload
}

fn emit(message: &IpvsMessage) -> Vec<u8> {
    let message = GenlMessage::from_payload(message.clone());
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    bytes
}

/// The only request of a command that is not a question.
fn request(command: &str) -> IpvsMessage {
    let all = recorded(command, "> ");
    let asks = [IpvsCmd::GetService, IpvsCmd::GetInfo].map(|cmd| cmd as u8);
    let bytes = all.iter().find(|bytes| !asks.contains(&bytes[0])).unwrap();
    parse(bytes)
}

fn service(message: &IpvsMessage) -> &[ServiceAttribute] {
    for attribute in &message.attributes {
        if let IpvsAttribute::Service(attributes) = attribute {
            return attributes;
        }
    }
    panic!("no service in {message:?}")
}

fn destination(message: &IpvsMessage) -> &[DestinationAttribute] {
    for attribute in &message.attributes {
        if let IpvsAttribute::Destination(attributes) = attribute {
            return attributes;
        }
    }
    panic!("no destination in {message:?}")
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn mark(mark: u32) -> ServiceKey {
    ServiceKey::FwMark {
        family: AddressFamily::Ipv4,
        mark,
    }
}

fn at(protocol: u16, address: &str, port: u16) -> ServiceKey {
    ServiceKey::Address {
        protocol,
        address: ip(address),
        port,
    }
}

/// Marks the nested attributes of an answer as such: the kernel's IPVS does
/// not, and what this crate writes does.
fn with_nested_flags(bytes: &[u8]) -> Vec<u8> {
    fn mark(bytes: &mut [u8], nested: fn(usize, u16) -> bool, depth: usize) {
        let mut start = 0;
        while start + 4 <= bytes.len() {
            let length = usize::from(u16::from_le_bytes([bytes[start], bytes[start + 1]]));
            let kind = u16::from_le_bytes([bytes[start + 2], bytes[start + 3]]);
            if nested(depth, kind) {
                bytes[start + 3] |= 0x80;
                mark(&mut bytes[start + 4..start + length], nested, depth + 1);
            }
            start += length.next_multiple_of(4);
        }
    }
    let mut bytes = bytes.to_vec();
    // time-outs are first-level too, from 4 on; info has no nested ones
    if bytes[0] != IpvsCmd::SetInfo as u8 {
        let nested = |depth, kind| match depth {
            0 => kind <= 3,
            // statistics; 12 is the other kind of them
            1 => kind == 10 || kind == 12,
            _ => false,
        };
        let daemon = bytes[0] == IpvsCmd::NewDaemon as u8;
        let of_daemon = |depth, _| depth == 0;
        mark(&mut bytes[4..], if daemon { of_daemon } else { nested }, 0);
    }
    bytes
}

#[test]
fn every_message_survives_reading_and_writing() {
    let mut count = 0;
    for line in RECORDED.lines() {
        let Some(hex) = line.strip_prefix("> ").or_else(|| line.strip_prefix("< ")) else {
            continue;
        };
        let bytes = octets(hex);
        let message = parse(&bytes);
        let expected = with_nested_flags(&bytes);
        assert_eq!(emit(&message), expected, "{line}\n{message:?}");
        let unknown = format!("{message:?}").contains("Other(");
        assert!(!unknown, "an attribute is not known: {message:?}");
        count += 1;
    }
    assert!(count > 50, "{count} messages");
}

#[test]
fn services_are_written_as_ipvsadm_writes_them() {
    let sh = Service {
        flags: Flags::SCHED_1 | Flags::SCHED_2,
        ..Service::new(
            ServiceKey::FwMark {
                family: AddressFamily::Ipv6,
                mark: 280,
            },
            "sh",
        )
    };
    let persistent = Service {
        flags: Flags::PERSISTENT,
        timeout: 360,
        prefix: 24,
        ..Service::new(at(6, "10.200.0.5", 80), "wrr")
    };
    let one_packet = Service {
        flags: Flags::PERSISTENT | Flags::ONE_PACKET,
        timeout: 60,
        prefix: 64,
        ..Service::new(at(17, "fd00::5", 53), "mh")
    };
    let sip = Service {
        flags: Flags::PERSISTENT | Flags::ONE_PACKET,
        timeout: 300,
        persistence_engine: Some("sip".to_owned()),
        ..Service::new(at(17, "10.200.0.6", 5060), "rr")
    };
    for (command, cmd, wanted) in [
        (
            "ipvsadm -A -f 279 -s rr",
            IpvsCmd::NewService,
            Service::new(mark(279), "rr"),
        ),
        (
            "ipvsadm -A -f 280 -6 -s sh -b sh-fallback,sh-port",
            IpvsCmd::NewService,
            sh,
        ),
        (
            "ipvsadm -A -t 10.200.0.5:80 -s wrr -p 360 -M 255.255.255.0",
            IpvsCmd::NewService,
            persistent,
        ),
        (
            "ipvsadm -A -u [fd00::5]:53 -s mh -o -p 60 -M 64",
            IpvsCmd::NewService,
            one_packet,
        ),
        (
            "ipvsadm -A --sctp-service 10.200.0.5:9 -s wlc",
            IpvsCmd::NewService,
            Service::new(at(132, "10.200.0.5", 9), "wlc"),
        ),
        (
            "ipvsadm -A -u 10.200.0.6:5060 -s rr -p 300 --pe sip -o",
            IpvsCmd::NewService,
            sip,
        ),
        (
            "ipvsadm -E -f 279 -s wrr",
            IpvsCmd::SetService,
            Service::new(mark(279), "wrr"),
        ),
    ] {
        let read = request(command);
        assert_eq!(read.cmd, cmd, "{command}");
        assert_eq!(
            Service::try_from(service(&read)).unwrap(),
            wanted,
            "{command}"
        );
        assert_eq!(
            emit(&IpvsMessage::with_service(cmd, &wanted)),
            emit(&read),
            "{command}"
        );
    }
}

#[test]
fn destinations_are_written_as_ipvsadm_writes_them() {
    let limited = Destination {
        weight: 3,
        upper_threshold: 100,
        lower_threshold: 50,
        ..Destination::new(ip("10.100.0.2"), 80)
    };
    let ipip = Destination {
        forwarding: ForwardingMethod::Tunnel,
        ..Destination::new(ip("10.100.0.3"), 80)
    };
    let gue = Destination {
        forwarding: ForwardingMethod::Tunnel,
        tunnel: Tunnel {
            kind: TunnelKind::Gue,
            port: 6080,
            flags: 1,
        },
        ..Destination::new(ip("10.100.0.4"), 80)
    };
    let direct = Destination {
        forwarding: ForwardingMethod::DirectRoute,
        ..Destination::new(ip("10.100.0.5"), 80)
    };
    let drained = Destination {
        weight: 0,
        ..Destination::new(ip("10.100.0.2"), 80)
    };
    let v6 = Destination::new(ip("fd01::2"), 8080);
    for (command, cmd, wanted) in [
        (
            "ipvsadm -a -f 279 -r 10.100.0.2:80 -m -w 3 -x 100 -y 50",
            IpvsCmd::NewDestination,
            limited,
        ),
        (
            "ipvsadm -a -f 280 -6 -r [fd01::2]:8080 -m",
            IpvsCmd::NewDestination,
            v6,
        ),
        (
            "ipvsadm -a -t 10.200.0.5:80 -r 10.100.0.3:80 -i -w 1",
            IpvsCmd::NewDestination,
            ipip,
        ),
        (
            "ipvsadm -a -t 10.200.0.5:80 -r 10.100.0.4:80 -i --tun-type gue --tun-port 6080 --tun-csum",
            IpvsCmd::NewDestination,
            gue,
        ),
        (
            "ipvsadm -a -t 10.200.0.5:80 -r 10.100.0.5:80 -g",
            IpvsCmd::NewDestination,
            direct,
        ),
        (
            "ipvsadm -e -f 279 -r 10.100.0.2:80 -m -w 0",
            IpvsCmd::SetDestination,
            drained,
        ),
    ] {
        let read = request(command);
        assert_eq!(read.cmd, cmd, "{command}");
        let family = AddressFamily::Ipv4;
        let understood = Destination::parse(destination(&read), family).unwrap();
        assert_eq!(understood, wanted, "{command}");
        // ipvsadm always names a tunnel, we only where it is not the default
        let theirs: Vec<_> = destination(&read)
            .iter()
            .filter(|attribute| wanted.attributes().contains(attribute))
            .cloned()
            .collect();
        assert_eq!(theirs, wanted.attributes(), "{command}");
    }
    let deleted = request("ipvsadm -d -f 279 -r 10.100.0.2:80");
    assert_eq!(deleted.cmd, IpvsCmd::DelDestination);
    let gone = Destination::new(ip("10.100.0.2"), 80);
    let key = gone.key_attributes();
    assert_eq!(&destination(&deleted)[..key.len()], key);
}

#[test]
fn services_of_a_dump_are_understood() {
    let answers = recorded("ipvsadm -Ln --exact", "< ");
    let services: Vec<_> = answers
        .iter()
        .map(|bytes| parse(bytes))
        .filter(|message| message.cmd == IpvsCmd::NewService)
        .map(|message| Service::try_from(service(&message)).unwrap())
        .collect();
    let keys: Vec<_> = services.iter().map(|s| s.key.to_string()).collect();
    assert_eq!(
        keys,
        [
            "UDP 10.200.0.6:5060",
            "SCTP 10.200.0.5:9",
            "TCP 10.200.0.5:80",
            "UDP [fd00::5]:53",
            "FWM 279",
            "FWM 280 IPv6",
        ]
    );
    let tcp = &services[2];
    assert_eq!((tcp.scheduler.as_str(), tcp.timeout), ("wrr", 360));
    // the kernel adds IP_VS_SVC_F_HASHED, which is no wish
    assert_eq!((tcp.flags, tcp.prefix), (Flags::PERSISTENT, 24));
    assert_eq!(services[3].prefix, 64);
    assert_eq!(services[0].persistence_engine.as_deref(), Some("sip"));
    assert_eq!(services[5].flags, Flags::SCHED_1 | Flags::SCHED_2);
}

#[test]
fn destinations_of_a_dump_are_understood() {
    let answers = recorded("ipvsadm -Ln --exact", "< ");
    let destinations: Vec<_> = answers
        .iter()
        .map(|bytes| parse(bytes))
        .filter(|message| message.cmd == IpvsCmd::NewDestination)
        .map(|message| Destination::parse(destination(&message), AddressFamily::Ipv4).unwrap())
        .collect();
    let seen: Vec<_> = destinations
        .iter()
        .map(|d| (d.address.to_string(), d.port, d.forwarding, d.weight))
        .collect();
    let of = |address: &str, port, method, weight| (address.to_owned(), port, method, weight);
    assert_eq!(
        seen,
        [
            of("10.100.0.5", 80, ForwardingMethod::DirectRoute, 1),
            of("10.100.0.4", 80, ForwardingMethod::Tunnel, 1),
            of("10.100.0.3", 80, ForwardingMethod::Tunnel, 1),
            of("10.100.0.2", 80, ForwardingMethod::Masquerade, 0),
            of("fd01::2", 8080, ForwardingMethod::Masquerade, 1),
        ]
    );
    let gue = Tunnel {
        kind: TunnelKind::Gue,
        port: 6080,
        flags: 1,
    };
    assert_eq!(destinations[1].tunnel, gue);
}

#[test]
fn both_kinds_of_counters_are_read() {
    let answers = recorded("ipvsadm -Ln --stats --exact -f 279", "< ");
    let message = parse(&answers[0]);
    let attributes = service(&message);
    assert!(attributes.iter().any(|attribute| matches!(
        attribute,
        ServiceAttribute::Stats(all) if all.contains(&Stats32Attribute::Connections(0))
    )));
    assert!(attributes.iter().any(|attribute| matches!(
        attribute,
        ServiceAttribute::Stats64(all) if all.contains(&StatsAttribute::ByteRateOut(0))
    )));
}

#[test]
fn the_rest_is_understood() {
    let timeouts = request("ipvsadm --set 432000 120 300");
    assert_eq!(timeouts, IpvsMessage::set_timeouts(432_000, 120, 300));
    let read = recorded("ipvsadm -L --timeout", "< ");
    assert_eq!(
        parse(&read[0]),
        timeouts,
        "GET_CONFIG answers as SET_CONFIG"
    );

    let info = parse(&recorded("ipvsadm -A -f 279 -s rr", "< ")[0]);
    assert_eq!(info.cmd, IpvsCmd::SetInfo);
    let wanted = [
        IpvsAttribute::Version(0x01_02_01),
        IpvsAttribute::ConnectionTableSize(4096),
    ];
    assert_eq!(info.attributes, wanted);

    let start = "ipvsadm --start-daemon master --mcast-interface lo --syncid 7 \
                 --sync-maxlen 1472 --mcast-group 224.0.0.81 --mcast-port 8848 --mcast-ttl 2";
    let wanted = [IpvsAttribute::Daemon(vec![
        DaemonAttribute::State(1),
        DaemonAttribute::Interface("lo".to_owned()),
        DaemonAttribute::SyncId(7),
        DaemonAttribute::MaxLength(1472),
        DaemonAttribute::Port(8848),
        DaemonAttribute::Ttl(2),
        DaemonAttribute::Group([224, 0, 0, 81]),
    ])];
    assert_eq!(request(start).cmd, IpvsCmd::NewDaemon);
    assert_eq!(request(start).attributes, wanted);

    assert_eq!(request("ipvsadm -C"), IpvsMessage::bare(IpvsCmd::Flush));
    assert_eq!(request("ipvsadm -Z"), IpvsMessage::bare(IpvsCmd::Zero));
    for (command, cmd) in [
        ("ipvsadm -Z -f 279", IpvsCmd::Zero),
        ("ipvsadm -D -f 279", IpvsCmd::DelService),
    ] {
        let read = request(command);
        assert_eq!(read.cmd, cmd);
        // ipvsadm sends the whole service, of which the kernel reads the key
        let ours = IpvsMessage::with_key(cmd, &mark(279));
        assert!(service(&read).starts_with(service(&ours)), "{read:?}");
    }
}
