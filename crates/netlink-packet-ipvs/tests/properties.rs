// SPDX-License-Identifier: MIT OR Apache-2.0

//! Whatever is written can be read, and whatever comes does no harm.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::IpAddr;

use netlink_packet_core::{DefaultNla, Emitable, ParseableParametrized};
use netlink_packet_generic::{GenlHeader, GenlMessage};
use netlink_packet_ipvs::{
    AddressFamily, DaemonAttribute, Destination, DestinationAttribute, Flags, ForwardingMethod,
    IpvsAttribute, IpvsCmd, IpvsMessage, Service, ServiceAttribute, ServiceKey, Stats32Attribute,
    StatsAttribute, Tunnel, TunnelKind,
};
use proptest::{collection::vec, prelude::*};

fn emit(message: &IpvsMessage) -> Vec<u8> {
    let message = GenlMessage::from_payload(message.clone());
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    bytes
}

fn parse(bytes: &[u8]) -> Option<IpvsMessage> {
    let message: GenlMessage<IpvsMessage> = GenlMessage::parse_with_param(bytes, 32).ok()?;
    Some(message.payload)
}

fn command() -> impl Strategy<Value = IpvsCmd> {
    (1_u8..=17).prop_map(|number| IpvsCmd::try_from(number).unwrap())
}

fn name() -> impl Strategy<Value = String> {
    "[a-z0-9-]{0,15}"
}

/// One that no version of the kernel's header has.
fn unknown() -> impl Strategy<Value = DefaultNla> {
    (100_u16..0x3fff, vec(any::<u8>(), 0..20))
        .prop_map(|(kind, value)| DefaultNla::new(kind, value))
}

fn stats() -> impl Strategy<Value = StatsAttribute> {
    use StatsAttribute as A;
    prop_oneof![
        any::<u64>().prop_map(A::Connections),
        any::<u64>().prop_map(A::PacketsIn),
        any::<u64>().prop_map(A::PacketsOut),
        any::<u64>().prop_map(A::BytesIn),
        any::<u64>().prop_map(A::BytesOut),
        any::<u64>().prop_map(A::ConnectionRate),
        any::<u64>().prop_map(A::PacketRateIn),
        any::<u64>().prop_map(A::PacketRateOut),
        any::<u64>().prop_map(A::ByteRateIn),
        any::<u64>().prop_map(A::ByteRateOut),
        unknown().prop_map(A::Other),
    ]
}

fn stats32() -> impl Strategy<Value = Stats32Attribute> {
    use Stats32Attribute as A;
    prop_oneof![
        any::<u32>().prop_map(A::Connections),
        any::<u32>().prop_map(A::PacketsIn),
        any::<u32>().prop_map(A::PacketsOut),
        any::<u64>().prop_map(A::BytesIn),
        any::<u64>().prop_map(A::BytesOut),
        any::<u32>().prop_map(A::ConnectionRate),
        any::<u32>().prop_map(A::PacketRateIn),
        any::<u32>().prop_map(A::PacketRateOut),
        any::<u32>().prop_map(A::ByteRateIn),
        any::<u32>().prop_map(A::ByteRateOut),
        unknown().prop_map(A::Other),
    ]
}

fn service_attribute() -> impl Strategy<Value = ServiceAttribute> {
    use ServiceAttribute as A;
    prop_oneof![
        any::<u16>().prop_map(A::Family),
        any::<u16>().prop_map(A::Protocol),
        any::<[u8; 16]>().prop_map(A::Address),
        any::<u16>().prop_map(A::Port),
        any::<u32>().prop_map(A::FwMark),
        name().prop_map(A::Scheduler),
        any::<(u32, u32)>().prop_map(|(flags, mask)| A::Flags(Flags { flags, mask })),
        any::<u32>().prop_map(A::Timeout),
        any::<u32>().prop_map(A::Netmask),
        vec(stats32(), 0..11).prop_map(A::Stats),
        name().prop_map(A::PersistenceEngine),
        vec(stats(), 0..11).prop_map(A::Stats64),
        unknown().prop_map(A::Other),
    ]
}

fn destination_attribute() -> impl Strategy<Value = DestinationAttribute> {
    use DestinationAttribute as A;
    prop_oneof![
        any::<[u8; 16]>().prop_map(A::Address),
        any::<u16>().prop_map(A::Port),
        any::<u32>().prop_map(A::ForwardingMethod),
        any::<u32>().prop_map(A::Weight),
        any::<u32>().prop_map(A::UpperThreshold),
        any::<u32>().prop_map(A::LowerThreshold),
        any::<u32>().prop_map(A::ActiveConnections),
        any::<u32>().prop_map(A::InactiveConnections),
        any::<u32>().prop_map(A::PersistentConnections),
        vec(stats32(), 0..11).prop_map(A::Stats),
        any::<u16>().prop_map(A::Family),
        vec(stats(), 0..11).prop_map(A::Stats64),
        any::<u8>().prop_map(A::TunnelType),
        any::<u16>().prop_map(A::TunnelPort),
        any::<u16>().prop_map(A::TunnelFlags),
        unknown().prop_map(A::Other),
    ]
}

fn daemon_attribute() -> impl Strategy<Value = DaemonAttribute> {
    use DaemonAttribute as A;
    prop_oneof![
        any::<u32>().prop_map(A::State),
        name().prop_map(A::Interface),
        any::<u32>().prop_map(A::SyncId),
        any::<u16>().prop_map(A::MaxLength),
        any::<[u8; 4]>().prop_map(A::Group),
        any::<[u8; 16]>().prop_map(A::Group6),
        any::<u16>().prop_map(A::Port),
        any::<u8>().prop_map(A::Ttl),
        unknown().prop_map(A::Other),
    ]
}

fn message() -> impl Strategy<Value = IpvsMessage> {
    use IpvsAttribute as A;
    let of_command = prop_oneof![
        vec(service_attribute(), 0..12).prop_map(A::Service),
        vec(destination_attribute(), 0..12).prop_map(A::Destination),
        vec(daemon_attribute(), 0..9).prop_map(A::Daemon),
        any::<u32>().prop_map(A::TimeoutTcp),
        any::<u32>().prop_map(A::TimeoutTcpFin),
        any::<u32>().prop_map(A::TimeoutUdp),
        unknown().prop_map(A::Other),
    ];
    let of_info = prop_oneof![
        any::<u32>().prop_map(A::Version),
        any::<u32>().prop_map(A::ConnectionTableSize),
        unknown().prop_map(A::Other),
    ];
    let command = command().prop_filter("has a meaning of its own", |c| *c != IpvsCmd::SetInfo);
    prop_oneof![
        (command, vec(of_command, 0..4)).prop_map(|(c, a)| IpvsMessage::new(c, a)),
        vec(of_info, 0..3).prop_map(|a| IpvsMessage::new(IpvsCmd::SetInfo, a)),
    ]
}

fn key() -> impl Strategy<Value = ServiceKey> {
    let family = prop_oneof![Just(AddressFamily::Ipv4), Just(AddressFamily::Ipv6)];
    let marked =
        (family, any::<u32>()).prop_map(|(family, mark)| ServiceKey::FwMark { family, mark });
    let at = |(protocol, address, port)| ServiceKey::Address {
        protocol,
        address,
        port,
    };
    prop_oneof![marked, any::<(u16, IpAddr, u16)>().prop_map(at)]
}

fn service() -> impl Strategy<Value = Service> {
    let engine = proptest::option::of("[a-z]{1,15}");
    (
        key(),
        name(),
        any::<u32>(),
        any::<u32>(),
        0_u8..=128,
        engine,
    )
        .prop_map(
            |(key, scheduler, flags, timeout, prefix, persistence_engine)| Service {
                flags: flags & !Flags::HASHED,
                timeout,
                prefix: match key.family() {
                    AddressFamily::Ipv4 => prefix.min(32),
                    AddressFamily::Ipv6 => prefix,
                },
                persistence_engine,
                ..Service::new(key, &scheduler)
            },
        )
}

fn destination() -> impl Strategy<Value = Destination> {
    let tunnel = any::<(u8, u16, u16)>().prop_map(|(kind, port, flags)| Tunnel {
        kind: TunnelKind::from(kind),
        port,
        flags,
    });
    let numbers = any::<(u32, u32, u32)>();
    (any::<IpAddr>(), any::<u16>(), 0_u32..8, tunnel, numbers).prop_map(
        |(address, port, method, tunnel, (weight, upper, lower))| Destination {
            forwarding: ForwardingMethod::from(method),
            tunnel,
            weight,
            upper_threshold: upper,
            lower_threshold: lower,
            ..Destination::new(address, port)
        },
    )
}

/// Uses everything that reads attributes.
fn understand(message: &IpvsMessage) {
    for attribute in &message.attributes {
        match attribute {
            IpvsAttribute::Service(attributes) => {
                if let Ok(service) = Service::try_from(attributes.as_slice()) {
                    let _ = (service.key.to_string(), service.attributes());
                }
            }
            IpvsAttribute::Destination(attributes) => {
                let _ = Destination::parse(attributes, AddressFamily::Ipv6);
            }
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn messages_survive_writing_and_reading(message in message()) {
        prop_assert_eq!(parse(&emit(&message)), Some(message));
    }

    #[test]
    fn services_survive(service in service()) {
        let message = IpvsMessage::with_service(IpvsCmd::NewService, &service);
        let read = parse(&emit(&message)).unwrap();
        let [IpvsAttribute::Service(attributes)] = read.attributes.as_slice() else {
            panic!("{read:?}");
        };
        prop_assert_eq!(Service::try_from(attributes.as_slice()).unwrap(), service);
    }

    #[test]
    fn destinations_survive(key in key(), destination in destination()) {
        let message = IpvsMessage::with_destination(IpvsCmd::NewDestination, &key, &destination);
        let read = parse(&emit(&message)).unwrap();
        let [IpvsAttribute::Service(service), IpvsAttribute::Destination(attributes)] =
            read.attributes.as_slice()
        else {
            panic!("{read:?}");
        };
        prop_assert_eq!(Service::try_from(service.as_slice()).unwrap().key, key);
        prop_assert_eq!(Destination::parse(attributes, key.family()).unwrap(), destination);
    }

    #[test]
    fn truncated_messages_do_no_harm(message in message(), cut in any::<prop::sample::Index>()) {
        let bytes = emit(&message);
        if let Some(read) = parse(&bytes[..cut.index(bytes.len())]) {
            understand(&read);
        }
    }

    #[test]
    fn damaged_messages_do_no_harm(
        message in message(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = emit(&message);
        for (at, octet) in damage {
            let at = at.index(bytes.len());
            bytes[at] = octet;
        }
        if let Some(read) = parse(&bytes) {
            understand(&read);
            emit(&read);
        }
    }

    #[test]
    fn garbage_does_no_harm(cmd in any::<u8>(), bytes in vec(any::<u8>(), 0..300)) {
        let header = GenlHeader { cmd, version: 1 };
        if let Ok(read) = IpvsMessage::parse_with_param(bytes.as_slice(), header) {
            understand(&read);
            emit(&read);
        }
    }

    #[test]
    fn names_of_any_length_do_no_harm(name in ".{0,400}") {
        let key = ServiceKey::FwMark { family: AddressFamily::Ipv4, mark: 1 };
        let mut service = Service::new(key, &name.repeat(200));
        service.persistence_engine = Some(name);
        let message = IpvsMessage::with_service(IpvsCmd::NewService, &service);
        prop_assert!(parse(&emit(&message)).is_some());
    }
}
