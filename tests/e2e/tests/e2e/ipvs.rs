//! The IPVS handle and `ipvsadm` on the same namespaces: what one writes, the
//! other reads.

use std::net::IpAddr;

use e2e::{Said, sh, until};
use kernel::{
    Error,
    ipvs::{Config, Ipvs},
    netlink::{Handle, code},
    netns::Netns,
};
use netlink_packet_ipvs::{
    AddressFamily, DaemonAttribute, Destination, Flags, ForwardingMethod, IpvsAttribute, IpvsCmd,
    IpvsMessage, Service, ServiceKey, Tunnel, TunnelKind,
};

use crate::netlink_place::Place;

const EEXIST: i32 = 17;
const EINVAL: i32 = 22;
const ENOENT: i32 = 2;
const ESRCH: i32 = 3;

fn open(place: &Place) -> Ipvs {
    place.open(Ipvs::open).expect("the lab has IPVS")
}

/// What `ipvsadm -S` says, in an order that does not depend on hash tables.
fn saved(place: &Place) -> Vec<String> {
    let text = place.sh("ipvsadm -Sn").ok();
    let mut lines: Vec<_> = text.lines().map(|line| line.trim().to_owned()).collect();
    lines.sort();
    lines
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn mark(mark: u32) -> ServiceKey {
    ServiceKey::FwMark {
        family: AddressFamily::Ipv4,
        mark,
    }
}

fn mark6(mark: u32) -> ServiceKey {
    ServiceKey::FwMark {
        family: AddressFamily::Ipv6,
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

/// The number of the kernel's refusal.
fn number<T: std::fmt::Debug>(result: Result<T, Error>) -> i32 {
    match result {
        Err(Error::Netlink { source, .. }) => code(&source).expect("an errno"),
        other => panic!("not refused: {other:?}"),
    }
}

/// One of everything, with the `ipvsadm` lines that mean the same, as `-S`
/// prints them. (Thresholds it does not print.)
fn everything() -> Vec<(Service, Vec<Destination>, Vec<&'static str>)> {
    let limited = Destination {
        weight: 3,
        upper_threshold: 100,
        lower_threshold: 50,
        ..Destination::new(ip("10.100.0.2"), 80)
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
        weight: 0,
        ..Destination::new(ip("10.100.0.5"), 80)
    };
    // an IPv6 destination of an IPv4 service, which only tunnels can have
    let other_family = Destination {
        forwarding: ForwardingMethod::Tunnel,
        ..Destination::new(ip("fd01::9"), 80)
    };
    vec![
        (
            Service::new(mark(279), "rr"),
            vec![limited, Destination::new(ip("10.100.0.3"), 0)],
            vec![
                "-A -f 279 -s rr",
                "-a -f 279 -r 10.100.0.2:80 -m -w 3",
                "-a -f 279 -r 10.100.0.3:0 -m -w 1",
            ],
        ),
        (
            Service {
                flags: Flags::SCHED_1 | Flags::SCHED_2,
                ..Service::new(mark6(279), "sh")
            },
            vec![Destination::new(ip("fd01::2"), 8080)],
            vec![
                "-A -f 279 -6 -s sh -b sh-fallback,sh-port",
                "-a -f 279 -6 -r [fd01::2]:8080 -m -w 1",
            ],
        ),
        (
            Service {
                flags: Flags::PERSISTENT,
                timeout: 360,
                prefix: 24,
                ..Service::new(at(6, "10.200.0.5", 80), "wrr")
            },
            vec![gue, direct],
            vec![
                "-A -t 10.200.0.5:80 -s wrr -p 360 -M 255.255.255.0",
                "-a -t 10.200.0.5:80 -r 10.100.0.4:80 -i -w 1 --tun-type gue --tun-port 6080 --tun-csum",
                "-a -t 10.200.0.5:80 -r 10.100.0.5:80 -g -w 0",
            ],
        ),
        (
            Service::new(at(6, "10.200.0.9", 80), "lc"),
            vec![other_family],
            vec![
                "-A -t 10.200.0.9:80 -s lc",
                "-a -t 10.200.0.9:80 -r [fd01::9]:80 -i -w 1 --tun-type ipip",
            ],
        ),
        (
            Service {
                flags: Flags::PERSISTENT | Flags::ONE_PACKET | Flags::SCHED_1 | Flags::SCHED_2,
                timeout: 60,
                prefix: 64,
                ..Service::new(at(17, "fd00::5", 53), "mh")
            },
            vec![],
            vec!["-A -u [fd00::5]:53 -s mh -p 60 -M 64 -o -b mh-fallback,mh-port"],
        ),
        (
            Service::new(at(132, "10.200.0.5", 9), "wlc"),
            vec![],
            vec!["-A --sctp-service 10.200.0.5:9 -s wlc"],
        ),
        (
            Service {
                flags: Flags::PERSISTENT | Flags::ONE_PACKET,
                timeout: 300,
                persistence_engine: Some("sip".to_owned()),
                ..Service::new(at(17, "10.200.0.6", 5060), "rr")
            },
            vec![],
            vec!["-A -u 10.200.0.6:5060 -s rr -p 300 --pe sip -o"],
        ),
    ]
}

#[test]
fn ipvsadm_shows_what_the_handle_writes() {
    let place = Place::new();
    let mut ipvs = open(&place);
    let mut expected = Vec::new();
    for (service, destinations, lines) in everything() {
        ipvs.new_service(&service).expect("a new service");
        for destination in &destinations {
            let added = ipvs.new_destination(&service.key, destination);
            added.expect("a new destination");
        }
        expected.extend(lines);
    }
    expected.sort_unstable();
    assert_eq!(saved(&place), expected);

    let thresholds = place.sh("ipvsadm -Ln --thresholds --exact -f 279").ok();
    let line = thresholds
        .lines()
        .find(|line| line.contains("10.100.0.2:80"));
    let words: Vec<_> = line.expect("is listed").split_whitespace().collect();
    assert_eq!(words[2..4], ["100", "50"], "{thresholds}");
}

#[test]
fn the_handle_reads_what_ipvsadm_writes() {
    let place = Place::new();
    let mut ipvs = open(&place);
    for line in everything().iter().flat_map(|(_, _, lines)| lines) {
        let limits = match line.contains("10.100.0.2:80") {
            true => " -x 100 -y 50",
            false => "",
        };
        place.sh(&format!("ipvsadm {line}{limits}")).ok();
    }
    let mut seen = ipvs.dump().expect("a dump");
    for (wanted, mut destinations, _) in everything() {
        let (service, mut there) = seen.remove(&wanted.key).expect("the service is there");
        assert_eq!(service, wanted);
        let order = |d: &Destination| (d.address, d.port);
        destinations.sort_by_key(order);
        there.sort_by_key(order);
        assert_eq!(there, destinations, "{}", wanted.key);
        assert_eq!(ipvs.service(&wanted.key).expect("is there"), wanted);
    }
    assert!(seen.is_empty(), "{seen:?}");
}

#[test]
fn what_is_read_in_one_place_makes_the_same_in_another() {
    let (one, other) = (Place::new(), Place::new());
    for line in everything().iter().flat_map(|(_, _, lines)| lines) {
        one.sh(&format!("ipvsadm {line}")).ok();
    }
    let mut commands = Vec::new();
    for (key, (service, destinations)) in open(&one).dump().expect("a dump") {
        commands.push(IpvsMessage::with_service(IpvsCmd::NewService, &service));
        commands.extend(
            destinations
                .iter()
                .map(|d| IpvsMessage::with_destination(IpvsCmd::NewDestination, &key, d)),
        );
    }
    let failed = open(&other).apply(&commands).expect("a write");
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(saved(&one), saved(&other));
}

#[test]
fn every_scheduler_and_its_flags() {
    let place = Place::new();
    let mut ipvs = open(&place);
    let schedulers = [
        "rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh",
    ];
    // The kernel loads a scheduler while it holds IPVS's mutex; those with a part in
    // each namespace (lblc, lblcr) then wait for namespaces that are being deleted,
    // which wait for that mutex: a deadlock, seen on 6.1. So they are loaded first.
    let modules: String = schedulers.map(|name| format!(" ip_vs_{name}")).concat();
    sh(None, &format!("modprobe --all{modules}")).ok();
    for (number, scheduler) in (1_u32..).zip(schedulers) {
        let service = Service::new(mark(number), scheduler);
        ipvs.new_service(&service).expect(scheduler);
        assert_eq!(
            ipvs.service(&service.key).expect(scheduler),
            service,
            "{scheduler}"
        );
        let line = format!("-A -f {number} -s {scheduler}");
        assert!(saved(&place).contains(&line), "{:?}", saved(&place));
    }
    for (scheduler, flags, words) in [
        ("sh", Flags::SCHED_1, "sh-fallback"),
        ("sh", Flags::SCHED_2, "sh-port"),
        ("mh", Flags::SCHED_1, "mh-fallback"),
        ("mh", Flags::SCHED_2, "mh-port"),
    ] {
        let service = Service {
            flags,
            ..Service::new(mark(1), scheduler)
        };
        ipvs.set_service(&service).expect(words);
        let line = format!("-A -f 1 -s {scheduler} -b {words}");
        assert!(saved(&place).contains(&line), "{:?}", saved(&place));
        assert_eq!(ipvs.service(&service.key).expect(words), service);
    }
    // a change takes flags away too
    let plain = Service::new(mark(1), "mh");
    ipvs.set_service(&plain).expect("a change");
    assert!(saved(&place).contains(&"-A -f 1 -s mh".to_owned()));

    let wrong = ipvs.new_service(&Service::new(mark(99), "nonsense"));
    assert_eq!(number(wrong), ENOENT);
    let long = ipvs.new_service(&Service::new(mark(99), "a-name-of-more-than-15-octets"));
    assert!(long.is_err());
}

#[test]
fn services_and_destinations_are_changed_and_deleted() {
    let place = Place::new();
    let mut ipvs = open(&place);
    let key = mark(279);
    ipvs.new_service(&Service::new(key, "rr")).expect("new");
    let mut one = Destination::new(ip("10.100.0.2"), 80);
    let two = Destination::new(ip("10.100.0.3"), 80);
    ipvs.new_destination(&key, &one).expect("new");
    ipvs.new_destination(&key, &two).expect("new");

    one.weight = 0;
    ipvs.set_destination(&key, &one).expect("drain");
    ipvs.set_service(&Service::new(key, "wrr")).expect("change");
    assert_eq!(
        saved(&place),
        [
            "-A -f 279 -s wrr",
            "-a -f 279 -r 10.100.0.2:80 -m -w 0",
            "-a -f 279 -r 10.100.0.3:80 -m -w 1",
        ]
    );
    ipvs.del_destination(&key, &one).expect("delete");
    assert_eq!(ipvs.destinations(&key).expect("read"), [two]);
    ipvs.del_service(&key).expect("delete");
    assert!(saved(&place).is_empty(), "destinations go with the service");
}

#[test]
fn refusals_say_what_was_refused() {
    let place = Place::new();
    let mut ipvs = open(&place);
    let (key, to) = (mark(279), Destination::new(ip("10.100.0.2"), 80));
    assert_eq!(number(ipvs.service(&key)), ESRCH);
    assert_eq!(number(ipvs.del_service(&key)), ESRCH);
    assert_eq!(number(ipvs.zero(Some(&key))), ESRCH);
    assert_eq!(number(ipvs.set_service(&Service::new(key, "rr"))), ESRCH);
    assert_eq!(number(ipvs.new_destination(&key, &to)), ESRCH);
    assert!(
        ipvs.destinations(&key).expect("a dump").is_empty(),
        "no such service has no destinations"
    );

    ipvs.new_service(&Service::new(key, "rr")).expect("new");
    let again = ipvs.new_service(&Service::new(key, "rr"));
    let words = again.as_ref().map_err(ToString::to_string);
    assert_eq!(words, Err("cannot make IPVS service FWM 279".to_owned()));
    assert_eq!(number(again), EEXIST);
    assert_eq!(number(ipvs.set_destination(&key, &to)), ENOENT);
    let gone = ipvs.del_destination(&key, &to);
    let words = gone.as_ref().map_err(ToString::to_string);
    let expected = "cannot delete destination 10.100.0.2:80 of IPVS service FWM 279";
    assert_eq!(words, Err(expected.to_owned()));
    assert_eq!(number(gone), ENOENT);

    // the other family's service of the same mark is another
    assert_eq!(number(ipvs.service(&mark6(279))), ESRCH);
}

#[test]
fn destinations_need_the_loopback() {
    // the kernel makes its table of local addresses when `lo` comes up first
    let place = Place::with_lo_down();
    let mut ipvs = open(&place);
    let (key, to) = (mark(279), Destination::new(ip("10.100.0.2"), 80));
    ipvs.new_service(&Service::new(key, "rr")).expect("new");
    assert_eq!(number(ipvs.new_destination(&key, &to)), EINVAL);
    place.sh("ip link set lo up").ok();
    ipvs.new_destination(&key, &to).expect("lo is up");
}

#[test]
fn time_outs_are_a_namespaces_own() {
    let (one, other) = (Place::new(), Place::new());
    let (mut ipvs, mut elsewhere) = (open(&one), open(&other));
    let fresh = ipvs.config().expect("read");
    assert_eq!((fresh.tcp, fresh.tcp_fin, fresh.udp), (900, 120, 300));
    let wanted = Config {
        tcp: 432_000,
        tcp_fin: 0,
        udp: 90,
    };
    ipvs.set_config(&wanted).expect("write");
    let shown = |place: &Place| place.sh("ipvsadm -L --timeout").ok();
    assert_eq!(shown(&one), "Timeout (tcp tcpfin udp): 432000 120 90");
    assert_eq!(elsewhere.config().expect("read"), fresh);

    other.sh("ipvsadm --set 10 20 30").ok();
    let set = elsewhere.config().expect("read");
    assert_eq!((set.tcp, set.tcp_fin, set.udp), (10, 20, 30));

    let too_long = Config {
        tcp: u32::MAX,
        ..Config::default()
    };
    assert_eq!(number(ipvs.set_config(&too_long)), EINVAL);
}

#[test]
fn version_and_table_size_are_ipvsadms() {
    let place = Place::new();
    let info = open(&place).info().expect("read");
    let [_, major, minor, patch] = info.version.to_be_bytes();
    let first = format!(
        "IP Virtual Server version {major}.{minor}.{patch} (size={})",
        info.table_size
    );
    let shown = place.sh("ipvsadm -Ln").ok();
    assert_eq!(shown.lines().next(), Some(first.as_str()));
}

#[test]
fn counters_are_read_and_zeroed() {
    let place = Place::new();
    let mut ipvs = open(&place);
    place
        .sh("ip addr add 10.200.0.5/32 dev lo; ip addr add 10.100.0.2/32 dev lo")
        .ok();
    let key = at(17, "10.200.0.5", 9);
    let other = mark(7);
    let to = Destination::new(ip("10.100.0.2"), 9);
    ipvs.new_service(&Service::new(key, "rr")).expect("new");
    ipvs.new_service(&Service::new(other, "rr")).expect("new");
    ipvs.new_destination(&key, &to).expect("new");
    let send = |count: u32| {
        let line = format!(
            "exec 3>/dev/udp/10.200.0.5/9; for i in $(seq {count}); do echo -n hello >&3 || true; done"
        );
        place.sh(&line);
    };
    send(3);
    // the kernel adds its CPUs' counters up every two seconds
    let counted = until("the packet is counted", 10, || {
        let service = ipvs.service(&key).expect("is there");
        (service.stats.packets_in > 0).then_some(service)
    });
    assert_eq!(counted.stats.connections, 1);
    let octets = counted.stats.bytes_in;
    assert_eq!(
        octets,
        33 * counted.stats.packets_in,
        "IP and UDP headers, and hello"
    );
    let there = &ipvs.destinations(&key).expect("read")[0];
    assert_eq!(there.stats.connections, 1);
    assert_eq!(there.active_connections + there.inactive_connections, 1);

    ipvs.zero(Some(&other)).expect("zero");
    assert_ne!(ipvs.service(&key).expect("read").stats.connections, 0);
    ipvs.zero(Some(&key)).expect("zero");
    assert_eq!(ipvs.service(&key).expect("read").stats.connections, 0);
    send(1);
    until("the packet is counted", 10, || {
        let service = ipvs.service(&key).expect("is there");
        (service.stats.packets_in > 0).then_some(())
    });
    ipvs.zero(None).expect("zero");
    assert_eq!(ipvs.service(&key).expect("read").stats.packets_in, 0);
}

#[test]
fn flush_empties_this_namespace_only() {
    let (one, other) = (Place::new(), Place::new());
    let (mut ipvs, mut elsewhere) = (open(&one), open(&other));
    for number in 1..10 {
        let service = Service::new(mark(number), "rr");
        ipvs.new_service(&service).expect("new");
        elsewhere.new_service(&service).expect("new");
    }
    ipvs.flush().expect("flush");
    assert!(saved(&one).is_empty());
    assert_eq!(elsewhere.services().expect("read").len(), 9);
    ipvs.flush().expect("an empty one too");
}

#[test]
fn errors_in_a_batch_are_tied_to_their_commands() {
    let place = Place::new();
    let mut ipvs = open(&place);
    let service =
        |number| IpvsMessage::with_service(IpvsCmd::NewService, &Service::new(mark(number), "rr"));
    let to = Destination::new(ip("10.100.0.2"), 80);
    let destination = |cmd, number| IpvsMessage::with_destination(cmd, &mark(number), &to);
    let commands = [
        service(1),
        service(1),
        destination(IpvsCmd::SetDestination, 1),
        destination(IpvsCmd::NewDestination, 1),
        IpvsMessage::with_key(IpvsCmd::DelService, &mark(2)),
        destination(IpvsCmd::NewDestination, 3),
        service(3),
    ];
    let failed = ipvs.apply(&commands).expect("a write");
    let numbers: Vec<_> = failed
        .iter()
        .map(|(index, error)| (*index, error.raw_os_error().expect("plain")))
        .collect();
    assert_eq!(
        numbers,
        [(1, EEXIST), (2, ENOENT), (4, ESRCH), (5, ESRCH)],
        "{failed:?}"
    );
    assert_eq!(
        saved(&place),
        [
            "-A -f 1 -s rr",
            "-A -f 3 -s rr",
            "-a -f 1 -r 10.100.0.2:80 -m -w 1",
        ],
        "the others were done"
    );
    assert!(ipvs.apply(&[]).expect("nothing").is_empty());
    // the last one's own error is not mistaken for the acknowledgement
    let failed = ipvs.apply(&[service(4), service(3)]).expect("a write");
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].0, 1);
}

#[test]
fn a_thousand_services_in_one_go_and_no_error_is_lost() {
    let place = Place::new();
    let mut ipvs = open(&place);
    let mut commands = Vec::new();
    for number in 1..=1000 {
        let key = mark(number);
        commands.push(IpvsMessage::with_service(
            IpvsCmd::NewService,
            &Service::new(key, "rr"),
        ));
        for host in [2, 3] {
            let to = Destination::new(ip(&format!("10.100.0.{host}")), 80);
            commands.push(IpvsMessage::with_destination(
                IpvsCmd::NewDestination,
                &key,
                &to,
            ));
        }
    }
    let begin = std::time::Instant::now();
    let failed = ipvs.apply(&commands).expect("a write");
    assert!(failed.is_empty(), "{failed:?}");
    let written = begin.elapsed();
    // nothing but errors: more than a default receive buffer takes
    let failed = ipvs.apply(&commands).expect("a write");
    let refused = begin.elapsed() - written;
    let all: Vec<_> = (0..commands.len()).map(|index| (index, EEXIST)).collect();
    let numbers: Vec<_> = failed
        .iter()
        .map(|(index, error)| (*index, error.raw_os_error().expect("plain")))
        .collect();
    assert_eq!(numbers, all);
    let before = begin.elapsed();
    let dump = ipvs.dump().expect("a dump");
    let read = begin.elapsed() - before;
    assert_eq!(dump.len(), 1000);
    assert!(dump.values().all(|(_, to)| to.len() == 2));
    println!("3,000 commands: written in {written:?}, refused in {refused:?}, read in {read:?}");

    let lines = saved(&place);
    assert_eq!(lines.len(), 3000);
    let gone: Vec<_> = dump
        .keys()
        .map(|key| IpvsMessage::with_key(IpvsCmd::DelService, key))
        .collect();
    assert!(ipvs.apply(&gone).expect("a write").is_empty());
    assert!(saved(&place).is_empty());
}

#[test]
fn the_synchronisation_daemon_is_a_command_like_others() {
    let place = Place::new();
    let mut ipvs = open(&place);
    let daemon = |cmd| {
        IpvsMessage::new(
            cmd,
            vec![IpvsAttribute::Daemon(vec![
                DaemonAttribute::State(1),
                DaemonAttribute::Interface("lo".to_owned()),
                DaemonAttribute::SyncId(7),
            ])],
        )
    };
    let failed = ipvs.apply(&[daemon(IpvsCmd::NewDaemon)]).expect("a write");
    assert!(failed.is_empty(), "{failed:?}");
    let shown = place.sh("ipvsadm -L --daemon").ok();
    assert!(shown.contains("master sync daemon"), "{shown}");
    assert!(shown.contains("syncid=7"), "{shown}");
    let failed = ipvs.apply(&[daemon(IpvsCmd::DelDaemon)]).expect("a write");
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(place.sh("ipvsadm -L --daemon").ok(), "");
}

#[test]
fn a_handle_belongs_to_the_namespace_it_was_opened_in() {
    let (one, other) = (Place::new(), Place::new());
    let mut ipvs = open(&one);
    ipvs.new_service(&Service::new(mark(1), "rr")).expect("new");
    assert_eq!(saved(&one), ["-A -f 1 -s rr"]);
    assert!(saved(&other).is_empty());
    let here = Netns::current().expect("/proc").inode().expect("/proc");
    let there = Netns::open(&one.name).expect("is there");
    assert_ne!(here, there.inode().expect("is there"), "this thread stays");
}

#[test]
fn async_code_shares_a_handle() {
    let place = Place::new();
    let handle = Handle::new(open(&place));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let work: Vec<_> = (1..=20)
            .map(|number| {
                let handle = handle.clone();
                tokio::spawn(async move {
                    let service = Service::new(mark(number), "rr");
                    handle.run(move |ipvs| ipvs.new_service(&service)).await
                })
            })
            .collect();
        for work in work {
            work.await.expect("no panic").expect("a new service");
        }
        let seen = handle.run(Ipvs::services).await.expect("a dump");
        assert_eq!(seen.len(), 20);
    });
    let shown: Said = place.sh("ipvsadm -Sn | wc -l");
    assert_eq!(shown.ok(), "20");
    // a panic inside does not end it
    let panicked = runtime.block_on(async {
        let handle = handle.clone();
        tokio::spawn(async move { handle.run(|_| panic!("on purpose")).await }).await
    });
    assert!(panicked.is_err());
    let left = runtime.block_on(handle.run(Ipvs::flush));
    left.expect("it goes on");
}

/// IPVS refuses user namespaces, even where they may do everything else.
#[test]
fn rights_in_a_user_namespace_are_not_enough() {
    let said = sh(
        None,
        "unshare -Urn bash -c 'ip link set lo up && ipvsadm -A -f 1 -s rr'",
    );
    assert_ne!(said.code, 0, "{}", said.out);
}
