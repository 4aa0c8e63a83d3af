//! The kernel's edge sees what others change, by a check that does not read
//! everything, and wakes at once where the kernel tells of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use e2e::sh;
use kernel::{Kernel, netns, scheduler};
use model::{Instance, Mark, Protocol};
use plan::netns::{
    Chains, Destination, Entry, Family, Link, LinkKind, Netns, Op, Place, Route, RouteKind,
    Scheduling, Set, SetKind, Table, Timeouts, VirtualService,
};

use crate::netlink_place;

/// A node's three namespaces, and what shall be in them.
struct World {
    host: netlink_place::Place,
    instance: Instance,
    kernel: Kernel,
    wanted: plan::netns::Places,
    runtime: tokio::runtime::Runtime,
}

fn route(to: &str, dev: &str) -> Route {
    Route {
        to: to.parse().expect("a network"),
        kind: RouteKind::Unicast,
        via: None,
        dev: Some(dev.to_owned()),
        src: None,
        metric: if to.contains(':') { 1024 } else { 0 },
    }
}

fn lo() -> (String, Link) {
    let link = Link {
        kind: LinkKind::Loopback,
        mtu: None,
        up: true,
    };
    ("lo".to_owned(), link)
}

fn veth(kind: LinkKind) -> Link {
    Link {
        kind,
        mtu: Some(1450),
        up: true,
    }
}

fn mark(number: u32) -> Mark {
    Mark::new(number).expect("a mark")
}

fn service(
    scheduler: &str,
    flags: u32,
    (timeout, netmask): (u32, u8),
    destinations: &[(&str, u16, Destination)],
) -> VirtualService {
    let destinations = destinations.iter();
    let destinations =
        destinations.map(|(ip, port, value)| ((ip.parse().expect("an address"), *port), *value));
    VirtualService {
        scheduling: Scheduling {
            scheduler: scheduler.to_owned().into(),
            flags,
            timeout,
            netmask,
        },
        destinations: destinations.collect(),
    }
}

fn destination(weight: u32, upper_threshold: u32, lower_threshold: u32) -> Destination {
    Destination {
        weight,
        upper_threshold,
        lower_threshold,
    }
}

/// One of everything that a balancer may hold: persistence, one-packet scheduling,
/// schedulers' flags, thresholds, drained destinations, both families.
fn services() -> impl Iterator<Item = ((Family, Mark), VirtualService)> {
    use Family::{V4, V6};
    let plain = destination(1, 0, 0);
    let four = [
        ("10.100.0.2", 80, destination(3, 100, 50)),
        ("10.100.0.3", 80, destination(0, 0, 0)),
        ("10.100.0.4", 0, destination(65535, 7, 0)),
    ];
    let six = [
        ("fd01::2", 8080, plain),
        ("fd01::3", 0, destination(2, 9, 8)),
    ];
    [
        ((V4, mark(256)), service("rr", 1, (300, 32), &four)),
        ((V6, mark(256)), service("wrr", 1, (360, 64), &six)),
        ((V4, mark(257)), service("sh", 8 | 16, (0, 32), &four[..1])),
        ((V6, mark(257)), service("mh", 1 | 8, (60, 128), &six[..1])),
        ((V4, mark(258)), service("wlc", 1 | 4, (60, 24), &[])),
        ((V6, mark(259)), service("lc", 4, (0, 128), &[])),
    ]
    .into_iter()
}

impl World {
    fn new(name: &str) -> Self {
        for scheduler in ["wrr", "sh", "mh", "wlc", "lc"] {
            scheduler::load(scheduler).expect(scheduler);
        }
        let host = netlink_place::Place::new();
        let instance: Instance = name.parse().expect("a name");
        for name in [instance.ingress_netns(), instance.router_netns()] {
            netns::create(&name).expect("the lab is root");
        }
        let named = instance.clone();
        let kernel = host.open(move || Kernel::new(named)).expect("/proc");
        let up = instance.host_link();
        let net = |text: &str| text.parse().expect("a network");
        let rules = |chain: &str, rule: &str| {
            let own = [(chain.to_owned(), vec![rule.to_owned()])];
            let chains = Chains {
                own: own.into_iter().collect(),
                jumps: BTreeSet::new(),
            };
            [((Family::V4, Table::Filter), chains)]
                .into_iter()
                .collect()
        };
        let ours = format!("{}-FWD", instance.chain_prefix());
        let to_ingress = LinkKind::Veth {
            peer: "up0".to_owned(),
            place: Place::Ingress,
        };
        let entries = [(Entry::Port(80), None), (Entry::Port(443), None)];
        let ports = Set {
            kind: SetKind::BitmapPort,
            entries: entries.into_iter().collect(),
        };
        let six = Entry::IpPort("fd00::2".parse().expect("an address"), Protocol::Sctp, 9);
        let marks = Set {
            kind: SetKind::HashIpPortMark(Family::V6),
            entries: [(six, Some(mark(256)))].into_iter().collect(),
        };
        let forward = ("net/ipv4/ip_forward".to_owned(), "1".to_owned());
        let host_value = Netns {
            links: [(up.clone(), veth(to_ingress))].into_iter().collect(),
            addresses: [(up.clone(), net("10.90.0.1/32"))].into_iter().collect(),
            routes: [route("10.90.0.2/32", &up)].into_iter().collect(),
            sysctls: [forward.clone()].into_iter().collect(),
            sets: [(format!("{}-tcp", instance.set_prefix()), ports.clone())]
                .into_iter()
                .collect(),
            tables: rules(&ours, "-p tcp -m tcp --dport 80 -j ACCEPT"),
            ..Netns::default()
        };
        let balancer = |links: Vec<(String, Link)>| Netns {
            links: links.into_iter().collect(),
            sysctls: [forward.clone()].into_iter().collect(),
            sets: [
                ("marks".to_owned(), marks.clone()),
                ("ports".to_owned(), ports.clone()),
            ]
            .into_iter()
            .collect(),
            tables: rules("INPUT", "-p tcp -m tcp --dport 80 -j ACCEPT"),
            ipvs_timeouts: Some(Timeouts {
                tcp: 900,
                tcp_fin: 100,
                udp: 30,
            }),
            services: services().collect(),
            ..Netns::default()
        };
        let ingress = Netns {
            addresses: [
                ("up0".to_owned(), net("10.90.0.2/32")),
                ("up0".to_owned(), net("fd90::2/128")),
            ]
            .into_iter()
            .collect(),
            routes: [route("10.90.0.1/32", "up0"), route("fd90::1/128", "up0")]
                .into_iter()
                .collect(),
            ..balancer(vec![lo(), ("up0".to_owned(), veth(LinkKind::VethPeer))])
        };
        let router = balancer(vec![lo()]);
        let wanted = [
            (Place::Host, host_value),
            (Place::Ingress, ingress),
            (Place::Router, router),
        ];
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build();
        let this = Self {
            host,
            instance,
            kernel,
            wanted: wanted.into_iter().collect(),
            runtime: runtime.expect("a runtime"),
        };
        assert!(this.settle() > 0);
        assert_eq!(this.settle(), 0, "what is written is what is read");
        this
    }

    fn netns(&self, place: &Place) -> String {
        match place {
            Place::Ingress => self.instance.ingress_netns(),
            Place::Router => self.instance.router_netns(),
            Place::Host | Place::Task(_) => self.host.name.clone(),
        }
    }

    /// A full pass; how many writes it made.
    fn settle(&self) -> usize {
        self.runtime.block_on(async {
            let mut observed = plan::netns::Places::new();
            for (place, value) in &self.wanted {
                let sysctls = value.sysctls.keys().cloned().collect();
                let seen = self.kernel.observe(place, &sysctls).await.expect("read");
                observed.insert(place.clone(), seen.expect("is there"));
            }
            let ops = plan::plan_writes(&observed, &self.wanted);
            let failed = self.kernel.apply(ops.to_vec()).await;
            assert!(failed.is_empty(), "{failed:?}");
            ops.len()
        })
    }

    fn drifted(&self) -> Vec<(Place, &'static str)> {
        let drifted = self.kernel.drifted(&self.wanted);
        let drifted = self.runtime.block_on(drifted).expect("read");
        drifted.into_iter().collect()
    }

    fn told(&self) -> Vec<(Place, &'static str)> {
        let told = self.runtime.block_on(self.kernel.told(&self.wanted));
        told.expect("read").into_iter().collect()
    }

    /// Whether the kernel tells of something before this time is over.
    fn notified(&self, within: Duration) -> bool {
        let wait = async { tokio::time::timeout(within, self.kernel.notified()).await };
        match self.runtime.block_on(wait) {
            Ok(told) => {
                told.expect("descriptors");
                true
            }
            Err(_) => false,
        }
    }

    /// Until what the kernel does later because of our writes is over.
    fn quiet(&self) {
        while self.notified(Duration::from_secs(3)) {
            assert_eq!(self.told(), []);
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for place in [Place::Ingress, Place::Router] {
            if let Err(error) = netns::delete(&self.netns(&place)) {
                eprintln!("clean-up failed: {error}");
            }
        }
    }
}

#[test]
fn every_change_by_others_is_a_drift_and_our_own_writes_are_none() {
    let world = World::new("drift");
    assert_eq!(world.drifted(), []);
    let processes = world.kernel.counters().processes;
    let begin = std::time::Instant::now();
    assert_eq!(world.drifted(), []);
    println!("a check without a drift took {:?}", begin.elapsed());
    assert_eq!(
        world.kernel.counters().processes,
        processes,
        "none is started"
    );

    let up = world.instance.host_link();
    let set = format!("{}-tcp", world.instance.set_prefix());
    let chain = format!("{}-FWD", world.instance.chain_prefix());
    let told = "links, addresses or routes";
    let (host, ingress, router) = (Place::Host, Place::Ingress, Place::Router);
    for (place, line, what) in [
        (&host, format!("ip route del 10.90.0.2 dev {up}"), told),
        (&host, format!("ip addr add 10.90.0.9/32 dev {up}"), told),
        (&host, format!("ip link set {up} mtu 1400"), told),
        (
            &host,
            format!("ip link set {up} down && ip link set {up} up"),
            told,
        ),
        (&host, format!("ipset del {set} 80"), "sets"),
        (&host, format!("iptables -A {chain} -j RETURN"), "rules"),
        (
            &host,
            "echo 0 > /proc/sys/net/ipv4/ip_forward".to_owned(),
            "sysctls",
        ),
        (
            &ingress,
            "ip addr del 10.90.0.2/32 dev up0".to_owned(),
            told,
        ),
        // with what goes and comes again, other things go
        (
            &ingress,
            "ip addr del fd90::2/128 dev up0; ip addr add fd90::2/128 dev up0 nodad".to_owned(),
            told,
        ),
        (
            &ingress,
            "ip -6 route del fd90::1/128 dev up0".to_owned(),
            told,
        ),
        (
            &ingress,
            "ip route add 10.77.0.0/16 dev up0".to_owned(),
            told,
        ),
        (
            &ingress,
            "ip route add local 10.78.0.0/16 dev lo".to_owned(),
            told,
        ),
        (
            &ingress,
            "ip link set lo down; ip link set lo up".to_owned(),
            told,
        ),
        (
            &router,
            "ip link add x0 type veth peer name x1".to_owned(),
            told,
        ),
        (
            &router,
            "iptables -t raw -A PREROUTING -j ACCEPT".to_owned(),
            "rules",
        ),
        (&router, "iptables -F INPUT".to_owned(), "rules"),
        (
            &router,
            "ipset create other bitmap:port range 0-65535".to_owned(),
            "sets",
        ),
        (
            &router,
            "ipset add marks fd00::2,tcp:9 skbmark 0x100".to_owned(),
            "sets",
        ),
        (
            &router,
            "ipvsadm --set 901 100 30".to_owned(),
            "IPVS time-outs",
        ),
        (
            &router,
            "ipvsadm -e -f 256 -r 10.100.0.2:80 -m -w 4 -x 100 -y 50".to_owned(),
            "IPVS services",
        ),
        (
            &router,
            "ipvsadm -d -f 256 -6 -r [fd01::2]:8080".to_owned(),
            "IPVS services",
        ),
        (
            &router,
            "ipvsadm -a -f 258 -r 10.100.0.9:80 -m".to_owned(),
            "IPVS services",
        ),
        (
            &router,
            "ipvsadm -E -f 256 -s wrr -p 300".to_owned(),
            "IPVS services",
        ),
        (
            &router,
            "ipvsadm -E -f 256 -s rr -p 310".to_owned(),
            "IPVS services",
        ),
        (
            &router,
            "ipvsadm -E -f 258 -s wlc -p 60 -M 255.255.255.0".to_owned(),
            "IPVS services",
        ),
        (
            &router,
            "ipvsadm -A -f 300 -s rr".to_owned(),
            "IPVS services",
        ),
        (&ingress, "ipvsadm -C".to_owned(), "IPVS services"),
    ] {
        sh(Some(&world.netns(place)), &line).ok();
        assert_eq!(world.drifted(), [(place.clone(), what)], "{line}");
        if line.contains(" down") && *place == host {
            // what went with the link is put back
            assert!(world.settle() > 0, "{line}");
        } else {
            world.settle();
        }
        assert_eq!(world.drifted(), [], "after {line}");
    }

    // rules of our own writing are not read again to see that they are ours
    let mut changed = world.wanted.clone();
    let value = changed.get_mut(&router).expect("is wanted");
    for chains in value.tables.values_mut() {
        chains
            .own
            .insert("OUTPUT".to_owned(), vec!["-j ACCEPT".to_owned()]);
    }
    let ops = plan::plan_writes(&world.wanted, &changed);
    let failed = world.runtime.block_on(world.kernel.apply(ops.to_vec()));
    assert!(failed.is_empty(), "{failed:?}");
    let processes = world.kernel.counters().processes;
    let drifted = world.kernel.drifted(&changed);
    let drifted = world.runtime.block_on(drifted).expect("read");
    assert_eq!(drifted, BTreeMap::new());
    assert_eq!(world.kernel.counters().processes, processes);
    assert!(world.settle() > 0);
    assert_eq!(world.drifted(), []);

    // what is not ours is no drift
    let foreign =
        "ip link add d0 type dummy && ip link set d0 up && ip addr add 192.0.2.9/24 dev d0
        ip route add 198.51.100.0/24 dev d0; ipset create other hash:ip
        iptables -A FORWARD -j ACCEPT";
    sh(Some(&world.netns(&host)), foreign).ok();
    assert_eq!(world.drifted(), []);
    let processes = world.kernel.counters().processes;
    assert_eq!(world.drifted(), []);
    assert_eq!(world.kernel.counters().processes, processes);
}

#[test]
fn in_a_big_table_a_missing_destination_is_seen_at_once_or_in_turn() {
    let mut world = World::new("big");
    // in two namespaces: there the kernel lists only some of them in one go
    for place in [Place::Ingress, Place::Router] {
        let value = world.wanted.get_mut(&place).expect("is wanted");
        for number in 0..1_500 {
            let [_, _, high, low] = u32::to_be_bytes(number);
            let at = format!("10.101.{high}.{low}");
            let destinations = [(at.as_str(), 80, destination(1, 0, 0))];
            let service = service("rr", 0, (0, 32), &destinations);
            value
                .services
                .insert((Family::V4, mark(1_000 + number)), service);
        }
    }
    // the kernel counts all namespaces' services while it lists one's: what others change
    // meanwhile, as other tests do, makes it pass over some, and a drift be seen that is none
    assert!(world.settle() >= 2 * 2 * 1_500);
    let calm = |world: &World| (0..20).any(|_| world.drifted().is_empty());
    assert!(calm(&world), "nothing differs");
    for (place, mark, at) in [
        (Place::Router, 2256, "10.101.4.232:80"),
        (Place::Ingress, 1000, "10.101.0.0:80"),
    ] {
        let netns = world.netns(&place);
        let there = || {
            let shown = sh(Some(&netns), &format!("ipvsadm -Ln -f {mark}")).ok();
            shown.contains(at)
        };
        sh(Some(&netns), &format!("ipvsadm -d -f {mark} -r {at}")).ok();
        assert!(!there());
        // 512 of a namespace's services are asked for in each check
        let what = (place, "IPVS services");
        assert!((0..20).any(|_| world.drifted().contains(&what)), "{what:?}");
        assert!((0..5).any(|_| world.settle() > 0 && there()), "{what:?}");
        assert!(calm(&world), "nothing differs");
    }
}

#[test]
fn the_kernel_tells_at_once_and_not_of_our_own_writes() {
    let world = World::new("told");
    world.quiet();
    let address = |net: &str| ("up0".to_owned(), net.parse().expect("a network"));
    let (one, net) = address("10.90.0.77/32");
    let ours = [
        (Place::Ingress, Op::AddAddress(one.clone(), net)),
        (Place::Ingress, Op::DelAddress(one, net)),
    ];
    let failed = world.runtime.block_on(world.kernel.apply(ours.to_vec()));
    assert!(failed.is_empty(), "{failed:?}");
    assert!(!world.notified(Duration::from_secs(1)), "our own writes");
    assert_eq!(world.told(), []);

    let host = Some(world.netns(&Place::Host));
    let other = "ip link add d0 type dummy && ip link set d0 up; ip route add 10.5.0.0/16 dev d0";
    sh(host.as_deref(), other).ok();
    assert!(!world.notified(Duration::from_secs(1)), "another's link");

    for (place, line, what) in [
        (
            Place::Ingress,
            "ip route del 10.90.0.1/32 dev up0",
            "links, addresses or routes",
        ),
        (Place::Router, "iptables -F INPUT", "rules"),
    ] {
        let netns = world.netns(&place);
        let waiting = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| world.notified(Duration::from_secs(10)));
            std::thread::sleep(Duration::from_millis(200));
            sh(Some(&netns), line).ok();
            waiting.join().expect("no panic")
        });
        assert!(waiting, "{line}");
        assert_eq!(world.told(), [(place, what)], "{line}");
        assert!(world.settle() > 0);
        assert_eq!(world.told(), [], "{line}");
        world.quiet();
    }
}

#[test]
fn a_namespace_that_was_made_anew_is_a_drift() {
    let world = World::new("anew");
    assert_eq!(world.drifted(), []);
    let name = world.instance.router_netns();
    netns::delete(&name).expect("is there");
    assert_eq!(world.drifted(), [(Place::Router, "the namespace")]);
    netns::create(&name).expect("is gone");
    let drifted = world.drifted();
    assert_eq!(drifted.len(), 1, "{drifted:?}");
    assert_eq!(drifted[0].0, Place::Router);
    assert!(world.settle() > 0);
    assert_eq!(world.drifted(), []);
}

#[test]
fn a_restart_onto_the_right_state_writes_nothing() {
    let world = World::new("again");
    let instance = world.instance.clone();
    let again = world.host.open(move || Kernel::new(instance));
    let again = World {
        host: netlink_place::Place::new(),
        instance: "nobody".parse().expect("a name"),
        kernel: again.expect("/proc"),
        wanted: world.wanted.clone(),
        runtime: tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime"),
    };
    assert_eq!(again.drifted(), []);
    assert_eq!(again.settle(), 0);
    assert_eq!(again.kernel.counters().writes(), 0);
    assert_eq!(again.drifted(), []);
}

#[test]
fn a_host_that_begins_to_forward_ipv6_keeps_its_routers() {
    let world = World::new("routers");
    let host = Some(world.netns(&Place::Host));
    sh(
        host.as_deref(),
        "for l in r1 r0; do ip link add $l type dummy; ip link set $l up; done
         echo 0 > /proc/sys/net/ipv6/conf/r0/accept_ra",
    )
    .ok();
    let router = Some(world.netns(&Place::Router));
    let forward = || Op::SetSysctl("net/ipv6/conf/all/forwarding".to_owned(), "1".to_owned());
    let ops = [(Place::Host, forward()), (Place::Router, forward())];
    let failed = world.runtime.block_on(world.kernel.apply(ops.to_vec()));
    assert!(failed.is_empty(), "{failed:?}");
    let read = |netns: &Option<String>, what: &str| {
        let line = format!("cat /proc/sys/net/ipv6/conf/{what}");
        sh(netns.as_deref(), &line).ok()
    };
    assert_eq!(read(&host, "all/forwarding"), "1");
    assert_eq!(read(&host, "r1/accept_ra"), "2");
    assert_eq!(read(&host, "r0/accept_ra"), "0");
    assert_eq!(read(&router, "all/forwarding"), "1");
    assert_eq!(read(&router, "lo/accept_ra"), "1");
}

#[test]
fn schedulers_are_loaded_before_they_are_asked_for() {
    for name in ["rr", "fo", "ovf", "lblcr"] {
        scheduler::load(name).expect(name);
        sh(None, &format!("test -d /sys/module/ip_vs_{name}")).ok();
    }
    let error = scheduler::load("nonsense")
        .expect_err("nobody has it")
        .to_string();
    for word in ["\"nonsense\"", "rr, wrr, lc", "mh", "ip_vs_nonsense"] {
        assert!(error.contains(word), "{error}");
    }
}
