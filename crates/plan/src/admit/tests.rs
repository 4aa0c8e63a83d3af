use model::{InvalidName, Listener, Mark, Pools, Protocol, PublishedPort, RestartCondition};
use proptest::prelude::*;

use super::*;
use crate::testing::{Mesh, With as _, name, net, node_id, service};

fn words(refusal: &Refusal, words: &[&str]) {
    let text = refusal.to_string();
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text:?}");
    }
}

fn listener(port: u16) -> Listener {
    Listener {
        host_ip: None,
        protocol: Protocol::Tcp,
        port,
    }
}

fn published(service: &Service) -> Vec<(u16, u16)> {
    let ports = service.endpoint.ports.iter();
    ports.map(|p| (p.published(), p.port.target)).collect()
}

fn held(text: &str, port: u16) -> HeldPort {
    HeldPort {
        listener: Listener {
            host_ip: text.parse().ok(),
            ..listener(port)
        },
        holder: "nginx (pid 7)".to_owned(),
    }
}

// === the first start ===

fn pools(tasks: &str, vips: &str, nodes: &str) -> Pools {
    Pools {
        tasks: net(tasks),
        vips: net(vips),
        nodes: net(nodes),
        ..Pools::default()
    }
}

fn init_with(pools: &Pools, routes: &[(&str, &str)]) -> Result<Transaction, Refusal> {
    let routes: Vec<_> = routes
        .iter()
        .map(|(route, link)| (net(route), (*link).to_owned()))
        .collect();
    let state = State::default();
    init(
        &state,
        &node_id(1),
        "a",
        pools,
        &routes,
        Timestamp::UNIX_EPOCH,
    )
}

#[test]
fn pools_that_cannot_work_are_refused_with_their_flag() {
    let (t, v, n) = ("10.100.0.0/14", "10.200.0.0/14", "10.90.0.0/16");
    for (asked, expected) in [
        (pools("fd00::/48", v, n), ["task pool fd00::/48", "IPv6"]),
        (pools(t, "fd00::/48", n), ["VIP pool", "--vip-pool"]),
        (pools("10.100.1.0/14", v, n), ["host bits", "10.100.0.0/14"]),
        (pools("10.100.0.0/25", v, n), ["8 to 24", "--task-pool"]),
        (pools("0.0.0.0/0", v, n), ["8 to 24", "--task-pool"]),
        (pools(t, "10.200.0.0/25", n), ["8 to 24", "--vip-pool"]),
        (pools(t, v, "10.90.0.0/24"), ["8 to 23", "--node-pool"]),
        (
            pools(t, "10.101.0.0/16", n),
            ["VIP pool 10.101.0.0/16", "task pool 10.100.0.0/14"],
        ),
        (
            pools(t, "10.96.0.0/12", n),
            ["VIP pool 10.96.0.0/12", "task pool 10.100.0.0/14"],
        ),
        (pools(t, v, t), ["node pool 10.100.0.0/14", "task pool"]),
        (
            pools(t, v, "10.201.0.0/16"),
            ["node pool", "VIP pool 10.200.0.0/14"],
        ),
        (pools("169.254.0.0/16", v, n), ["link-local", "--task-pool"]),
        (pools("127.0.0.0/16", v, n), ["loopback", "--task-pool"]),
        (pools(t, "224.1.0.0/16", n), ["multicast", "--vip-pool"]),
    ] {
        let refusal = init_with(&asked, &[]).unwrap_err();
        words(&refusal, &expected);
        assert_eq!(refusal.kind(), Kind::Invalid);
    }
}

#[test]
fn pools_keep_off_the_hosts_routes_which_are_named() {
    for (route, flag) in [
        ("10.102.3.0/24", "--task-pool"),
        ("10.0.0.0/8", "--task-pool"),
        ("10.200.0.0/14", "--vip-pool"),
        ("10.90.1.0/24", "--node-pool"),
    ] {
        let refusal = init_with(
            &Pools::default(),
            &[("192.0.2.0/24", "eth0"), (route, "eth1")],
        );
        words(&refusal.unwrap_err(), &[route, "dev eth1", flag]);
    }
    assert!(init_with(&Pools::default(), &[("192.0.2.0/24", "eth0")]).is_ok());
}

#[test]
fn small_pools_have_small_networks_and_large_ones_the_usual() {
    for (pool, prefix) in [
        ("172.16.0.0/12", 20),
        ("10.32.0.0/16", 20),
        ("10.32.0.0/18", 22),
        ("10.32.0.0/24", 28),
    ] {
        let mut mesh = Mesh::with_pools(&pools(pool, "10.200.0.0/24", "10.90.0.0/23"), 1);
        let stored = mesh.state.pools.clone().unwrap();
        assert_eq!(
            (stored.subnet_prefix, stored.vip_prefix),
            (prefix, 28),
            "{pool}"
        );
        let id = mesh.network("a");
        let made = &mesh.state.networks[&id].pools[0];
        assert_eq!(made.subnet.prefix_len(), prefix);
        assert!(net(pool).contains(&made.subnet));
    }
}

#[test]
fn a_second_start_with_other_pools_is_refused() {
    let mesh = Mesh::new(1);
    let start = |pools: &Pools, node| init(&mesh.state, &node_id(node), "a", pools, &[], mesh.now);
    assert!(start(&Pools::default(), 1).unwrap().is_empty());
    assert_eq!(start(&Pools::default(), 2).unwrap().changes.len(), 1);
    for node in [1, 2] {
        let other = pools("10.64.0.0/14", "10.200.0.0/14", "10.90.0.0/16");
        words(
            &start(&other, node).unwrap_err(),
            &["10.100.0.0/14", "cannot be changed"],
        );
    }
}

#[test]
fn nodes_get_numbers_that_their_pool_has() {
    let small = pools("10.100.0.0/14", "10.200.0.0/14", "10.90.0.0/22");
    let mut mesh = Mesh::with_pools(&small, 3);
    let numbers: Vec<_> = mesh.state.nodes.values().map(|node| node.number).collect();
    assert_eq!(numbers, [1, 2, 3]);
    let full = init(&mesh.state, &node_id(9), "x", &small, &[], mesh.now);
    words(&full.unwrap_err(), &["node number", "10.90.0.0/22"]);
    mesh.state.nodes.remove(&node_id(2));
    let tx = init(&mesh.state, &node_id(9), "x", &small, &[], mesh.now).unwrap();
    mesh.commit(&tx);
    assert_eq!(mesh.state.nodes[&node_id(9)].number, 2);
}

// === networks ===

#[test]
fn networks_get_subnets_and_vip_blocks_that_do_not_overlap() {
    let mut mesh = Mesh::new(1);
    mesh.try_network("asked", &["10.100.16.0/24"]).unwrap();
    for n in 0..62 {
        mesh.network(&format!("n{n}"));
    }
    let all: Vec<Pool> = mesh
        .state
        .networks
        .values()
        .flat_map(|n| n.pools.clone())
        .collect();
    for (at, one) in all.iter().enumerate() {
        for two in &all[at + 1..] {
            assert!(!overlap(one.subnet, two.subnet), "{one:?} {two:?}");
            assert!(!overlap(one.vips, two.vips), "{one:?} {two:?}");
        }
    }
    // 64 of /20, one of them in use by the /24
    mesh.network("last");
    words(
        &mesh.try_network("more", &[]).unwrap_err(),
        &["subnet", "10.100.0.0/14", "--subnet"],
    );
    let before = mesh.state.clone();
    words(
        &mesh.try_network("vips", &["10.100.20.0/24"]).unwrap_err(),
        &["VIP block"],
    );
    assert_eq!(mesh.state, before);
}

#[test]
fn subnets_that_cannot_work_are_refused() {
    let mut mesh = Mesh::new(1);
    mesh.try_network("back", &["10.101.0.0/24"]).unwrap();
    mesh.routes = vec![
        (net("10.100.0.0/14"), "ivm0".to_owned()),
        (net("10.0.0.0/8"), "corp0".to_owned()),
        (net("10.102.3.0/24"), "docker0".to_owned()),
        (net("192.0.2.0/24"), "eth0".to_owned()),
    ];
    for (subnets, expected) in [
        (vec!["10.101.0.128/25"], ["network back", "10.101.0.0/24"]),
        (vec!["10.101.0.0/16"], ["network back", "10.101.0.0/24"]),
        (vec!["10.101.0.0/24"], ["network back", "10.101.0.0/24"]),
        (vec!["10.200.3.0/24"], ["VIP pool", "10.200.0.0/14"]),
        (vec!["10.90.1.0/24"], ["nodes' pool", "10.90.0.0/16"]),
        (vec!["10.102.3.128/25"], ["10.102.3.0/24", "dev docker0"]),
        (vec!["10.102.0.0/16"], ["10.102.3.0/24", "dev docker0"]),
        (vec!["192.0.2.0/25"], ["192.0.2.0/24", "dev eth0"]),
        (vec!["172.16.0.0/24"], ["not within", "10.100.0.0/14"]),
        (vec!["10.101.1.1/24"], ["host bits", "10.101.1.0/24"]),
        (vec!["10.101.1.0/30"], ["8 to 29", "/30"]),
        (vec!["fd00::/64"], ["IPv6", "fd00::/64"]),
        (
            vec!["10.101.1.0/24", "10.101.2.0/24"],
            ["one subnet of each", "IPv6"],
        ),
    ] {
        let before = mesh.state.clone();
        let refusal = mesh.try_network("new", &subnets).unwrap_err();
        words(&refusal, &expected);
        assert_eq!(refusal.kind(), Kind::Invalid);
        assert_eq!(mesh.state, before);
    }
    // our own route to the pool and a wider one than it are no clash
    mesh.try_network("new", &["10.101.1.0/24"]).unwrap();
}

#[test]
fn automatic_subnets_and_vips_keep_off_routes_that_came_later() {
    let mut mesh = Mesh::new(1);
    mesh.routes = vec![
        (net("10.100.0.0/14"), "ivm0".to_owned()),
        (net("10.200.0.0/14"), "ivm0".to_owned()),
        (net("10.100.5.0/24"), "eth1".to_owned()),
        (net("10.200.17.0/24"), "eth1".to_owned()),
    ];
    let ids = [mesh.network("a"), mesh.network("b")];
    let pools = ids.map(|id| mesh.state.networks[&id].pools[0].clone());
    assert_eq!(pools[0].subnet, net("10.100.16.0/20"));
    assert_eq!(pools[0].vips, net("10.200.0.0/20"));
    assert_eq!(pools[1].vips, net("10.200.32.0/20"));
}

#[test]
fn network_names_are_unique_in_any_case_and_free_at_once() {
    let mut mesh = Mesh::new(1);
    let id = mesh.network("Back");
    let refusal = mesh.try_network("bACK", &[]).unwrap_err();
    words(&refusal, &["bACK", id.as_str(), "already exists"]);
    assert_eq!(refusal.kind(), Kind::Conflict);
    mesh.remove_network(&id).unwrap();
    assert_eq!(mesh.claimed(), [""; 0]);
    mesh.network("back");
}

#[test]
fn a_removed_networks_blocks_are_not_the_next_ones() {
    let mut mesh = Mesh::new(1);
    let id = mesh.network("a");
    let first = mesh.state.networks[&id].pools.clone();
    mesh.remove_network(&id).unwrap();
    let id = mesh.network("a");
    assert_ne!(mesh.state.networks[&id].pools[0].subnet, first[0].subnet);
    assert_ne!(mesh.state.networks[&id].pools[0].vips, first[0].vips);
    mesh.remove_network(&id).unwrap();
    mesh.wait(60);
    let id = mesh.network("a");
    assert_eq!(mesh.state.networks[&id].pools, first);
}

#[test]
fn a_network_in_use_stays_naming_its_users() {
    let mut mesh = Mesh::new(1);
    let (back, front) = (mesh.network("back"), mesh.network("front"));
    let vote = mesh
        .create(&service("vote", 1).on(&[&back, &front]))
        .unwrap();
    mesh.settle();
    let refusal = mesh.remove_network(&back).unwrap_err();
    words(&refusal, &["back", "service vote"]);
    assert_eq!(refusal.kind(), Kind::Conflict);

    // moved away: the task that was there ends first, its memory does not count
    mesh.update(&vote, &service("vote", 1).on(&[&front]))
        .unwrap();
    words(
        &mesh.remove_network(&back).unwrap_err(),
        &["task vote.1", "stopping"],
    );
    mesh.settle();
    assert_eq!(mesh.tasks(&vote).len(), 2, "one is remembered");
    mesh.remove_network(&back).unwrap();
    assert!(
        !mesh
            .state
            .leases
            .keys()
            .any(|(network, _)| *network == back)
    );

    mesh.remove(&vote);
    words(&mesh.remove_network(&front).unwrap_err(), &["task vote.1"]);
    mesh.settle();
    mesh.remove_network(&front).unwrap();
    assert_eq!(mesh.claimed(), [""; 0]);
    let missing = mesh.remove_network(&front).unwrap_err();
    assert_eq!(missing.kind(), Kind::NotFound);
}

/// Each pair of decisions that is made from one state, of which the second one must fail.
#[test]
fn decisions_made_at_once_do_not_both_hold() {
    let mut mesh = Mesh::new(1);
    let back = mesh.network("back");
    let vote = mesh.create(&service("vote", 1).on(&[&back])).unwrap();
    let spare = mesh.network("spare");
    let subnet = |text: &str, subnet: &[&str]| NetworkSpec {
        name: name(text),
        labels: Default::default(),
        internal: false,
        ipv6: false,
        subnets: subnet.iter().map(|s| net(s)).collect(),
    };
    let network = |mesh: &mut Mesh, spec: NetworkSpec| {
        mesh.decide(|state, context| {
            create_network(state, &spec, &serde_json::Value::Null, context)
        })
        .unwrap()
        .1
    };
    let wide = network(&mut mesh, subnet("wide", &["10.101.0.0/16"]));
    // by a route that came in between, the two do not even want one VIP block
    mesh.routes = vec![(net("10.200.32.0/24"), "eth1".to_owned())];
    let narrow = network(&mut mesh, subnet("narrow", &["10.101.7.0/24"]));
    mesh.routes.clear();
    let mut make = |spec: ServiceSpec| {
        mesh.decide(|state, context| create_service(state, spec, &serde_json::Value::Null, context))
            .unwrap()
            .1
    };
    let on_spare = make(service("x", 1).on(&[&spare]));
    let same_name = make(service("X", 1).on(&[&back]));
    let first_mesh = make(service("y", 1));
    let second_mesh = make(service("z", 1));
    let port = make(service("p", 1).on(&[&back]).dnsrr().port("8080:80"));
    let same_port = make(service("q", 1).on(&[&spare]).dnsrr().port("8080:80"));
    let version = mesh.get(&vote).version;
    let moved = mesh
        .decide(|state, context| {
            let spec = service("vote", 1).on(&[&spare]);
            update_service(
                state,
                &vote,
                version,
                spec,
                &serde_json::Value::Null,
                context,
            )
        })
        .unwrap();
    let gone = remove_network(&mesh.state, &spare, mesh.now).unwrap();
    let removed = remove_service(&mesh.state, &vote, mesh.now).unwrap();

    for (what, one, two) in [
        ("overlapping subnets", &wide, &narrow),
        ("one name", &on_spare, &same_name),
        ("a network of its own", &first_mesh, &second_mesh),
        ("one port", &port, &same_port),
        ("made on what is removed", &on_spare, &gone),
        ("moved to what is removed", &moved, &gone),
        ("changed while removed", &moved, &removed),
    ] {
        for (first, second) in [(one, two), (two, one)] {
            let mut copy = Mesh::new(0);
            copy.state = mesh.state.clone();
            copy.commit(first);
            assert!(!copy.takes(second), "{what}");
        }
    }
}

// === services ===

#[test]
fn a_service_has_a_vip_with_two_marks_per_network() {
    let mut mesh = Mesh::new(1);
    let (a, b) = (mesh.network("a"), mesh.network("b"));
    let id = mesh
        .create(&service("vote", 0).on(&[&b, &a]).port("8080:80"))
        .unwrap();
    let endpoint = mesh.get(&id).endpoint.clone();
    let networks: Vec<_> = endpoint.vips.iter().map(|vip| &vip.network).collect();
    assert_eq!(networks, [&b, &a]);
    let mut marks = vec![endpoint.ports[0].mark];
    for vip in &endpoint.vips {
        let vips = mesh.state.networks[&vip.network].pools[0].vips;
        assert!(vips.contains(&vip.address) && vip.address != vips.network());
        marks.extend([vip.tcp, vip.udp]);
        for resource in [
            Resource::Address(vip.address),
            Resource::Mark(vip.tcp),
            Resource::Mark(vip.udp),
        ] {
            assert_eq!(mesh.holder(&resource), Some(id.as_str()), "{resource}");
        }
    }
    marks.sort();
    marks.dedup();
    assert_eq!(marks.len(), 5);
    mesh.remove(&id);
    assert!(
        mesh.claimed()
            .iter()
            .all(|claim| claim.starts_with("network-name") || claim.starts_with("block"))
    );
}

#[test]
fn without_a_network_a_service_is_on_one_that_is_made_when_needed() {
    let mut mesh = Mesh::new(1);
    let one = mesh.create(&service("one", 1)).unwrap();
    let two = mesh.create(&service("two", 1)).unwrap();
    assert_eq!(mesh.state.networks.len(), 1);
    let network = mesh.state.networks.values().next().unwrap().clone();
    assert_eq!(network.spec.name.as_str(), "mesh");
    for id in [&one, &two] {
        assert_eq!(mesh.get(id).spec.task.networks[0].network, network.id);
    }
    let vip = |id: &ServiceId| mesh.get(id).endpoint.vips[0].address;
    assert_ne!(vip(&one), vip(&two));
}

#[test]
fn dnsrr_has_no_vip_and_may_publish_ports() {
    let mut mesh = Mesh::new(1);
    let id = mesh
        .create(&service("vote", 1).dnsrr().port("8080:80"))
        .unwrap();
    let vote = mesh.get(&id).clone();
    assert!(vote.endpoint.vips.is_empty());
    assert_eq!(published(&vote), [(8080, 80)]);

    // to a VIP and back: the port and its mark stay
    let networks = vote.spec.task.networks.clone();
    let mut spec = service("vote", 1).port("8080:80");
    spec.task.networks = networks;
    mesh.update(&id, &spec).unwrap();
    let vip = mesh.get(&id).endpoint.vips[0].clone();
    assert_eq!(mesh.get(&id).endpoint.ports, vote.endpoint.ports);
    spec.endpoint.mode = EndpointMode::DnsRr;
    mesh.update(&id, &spec).unwrap();
    assert!(mesh.get(&id).endpoint.vips.is_empty());
    assert_eq!(mesh.holder(&Resource::Address(vip.address)), None);
    assert_eq!(mesh.holder(&Resource::Mark(vip.udp)), None);
}

#[test]
fn service_names_are_unique_in_any_case() {
    let mut mesh = Mesh::new(1);
    let id = mesh.create(&service("Vote", 1)).unwrap();
    words(
        &mesh.create(&service("vOTE", 1)).unwrap_err(),
        &["vOTE", id.as_str()],
    );
    let other = mesh.create(&service("other", 1)).unwrap();
    let mut renamed = mesh.get(&other).spec.clone();
    renamed.name = name("vote");
    words(
        &mesh.update(&other, &renamed).unwrap_err(),
        &["vote", id.as_str()],
    );
    renamed.name = name("third");
    mesh.update(&other, &renamed).unwrap();
    mesh.create(&service("other", 1)).unwrap();
    mesh.remove(&id);
    mesh.create(&service("vote", 1)).unwrap();
}

#[test]
fn nonsense_in_a_spec_is_refused_and_changes_nothing() {
    let mut mesh = Mesh::new(1);
    let back = mesh.network("back");
    let gone = NetworkId::from_random([9; 16]);
    let base = || service("vote", 1).on(&[&back]);
    let with = |change: &dyn Fn(&mut ServiceSpec)| {
        let mut spec = base();
        change(&mut spec);
        spec
    };
    let env = |text: &str| with(&|spec| spec.process().env.push(text.to_owned()));
    let alias = |text: &str| with(&|spec| spec.task.networks[0].aliases.push(text.to_owned()));
    let dir = |text: &str| with(&|spec| spec.process().dir = Some(text.to_owned()));
    let user = |text: &str| with(&|spec| spec.process().user = Some(text.to_owned()));
    let port = |change: &dyn Fn(&mut PublishedPort)| {
        let mut spec = base().port("8080:80");
        change(&mut spec.endpoint.ports[0]);
        spec
    };
    for (spec, kind, expected) in [
        (
            with(&|spec| spec.process().command.clear()),
            Kind::Invalid,
            "needs a command",
        ),
        (
            with(&|spec| spec.process().command = vec![String::new()]),
            Kind::Invalid,
            "needs a command",
        ),
        (
            with(&|spec| spec.process().command.push("a\0b".to_owned())),
            Kind::Invalid,
            "zero byte",
        ),
        (env("=x"), Kind::Invalid, "KEY=VALUE"),
        (env(""), Kind::Invalid, "KEY=VALUE"),
        (env("A=\0"), Kind::Invalid, "KEY=VALUE"),
        (dir("tmp"), Kind::Invalid, "absolute path"),
        (dir(""), Kind::Invalid, "absolute path"),
        (user(""), Kind::Invalid, "NAME[:GROUP]"),
        (user(":staff"), Kind::Invalid, "NAME[:GROUP]"),
        (alias("a.b"), Kind::Invalid, "\"a.b\""),
        (alias(""), Kind::Invalid, "DNS name"),
        (base().on(&[&gone]), Kind::NotFound, gone.as_str()),
        (base().on(&[&back, &back]), Kind::Invalid, "attached twice"),
        (
            service("Tasks", 1).on(&[&back]),
            Kind::Invalid,
            "tasks.NAME",
        ),
        (
            with(&|spec| spec.mode = Mode::Replicated { replicas: 10_001 }),
            Kind::Invalid,
            "10000 at most",
        ),
        (
            port(&|port| port.target = 0),
            Kind::Invalid,
            "target port 0",
        ),
        (
            port(&|port| port.host_ip = Some([224, 0, 0, 1].into())),
            Kind::Invalid,
            "unicast",
        ),
        (
            port(&|port| port.host_ip = Some("fe80::1".parse().unwrap())),
            Kind::Invalid,
            "link-local",
        ),
        (
            port(&|port| port.host_ip = Some("::1".parse().unwrap())),
            Kind::Invalid,
            "--ipv6",
        ),
        (
            with(&|spec| {
                let label = model::label::SCHEDULER.to_owned();
                spec.labels.insert(label, "random".to_owned());
            }),
            Kind::Invalid,
            "use one of rr",
        ),
        (
            base().port("8080:80").port("8080:81"),
            Kind::Invalid,
            "8080/tcp is published twice",
        ),
        (
            base().port("1-1001:1001-2001"),
            Kind::Invalid,
            "1000 at most",
        ),
        (
            base().port("1-10001:1-10001"),
            Kind::Invalid,
            "10000 at most",
        ),
    ] {
        let before = mesh.state.clone();
        let refusal = mesh.create(&spec).unwrap_err();
        words(&refusal, &[expected]);
        assert_eq!(refusal.kind(), kind, "{refusal}");
        assert_eq!(mesh.state, before, "{refusal}");
    }
    // the same words do not hold back what makes sense
    for spec in [
        env("A=b"),
        env("A"),
        dir("/tmp"),
        user("0:0"),
        alias("db"),
        base().port("8080:80").port("8080:80/udp"),
    ] {
        let id = mesh.create(&spec).unwrap();
        mesh.remove(&id);
    }
    assert_eq!("".parse::<Name>(), Err(InvalidName::Empty));
}

#[test]
fn a_network_takes_no_more_tasks_than_it_has_addresses() {
    let mut mesh = Mesh::new(1);
    let tiny = mesh.try_network("tiny", &["10.101.0.0/29"]).unwrap();
    let refusal = mesh.create(&service("big", 6).on(&[&tiny])).unwrap_err();
    words(&refusal, &["network tiny", "room for 5", "6 would"]);
    assert_eq!(refusal.kind(), Kind::Conflict);
    let one = mesh.create(&service("one", 3).on(&[&tiny])).unwrap();
    mesh.create(&service("two", 2).on(&[&tiny])).unwrap();
    words(
        &mesh.create(&service("three", 1).on(&[&tiny])).unwrap_err(),
        &["6 would"],
    );
    words(
        &mesh
            .update(&one, &service("one", 4).on(&[&tiny]))
            .unwrap_err(),
        &["6 would"],
    );
    mesh.create(&service("none", 0).on(&[&tiny])).unwrap();
    mesh.settle();
    let made = mesh
        .state
        .tasks
        .values()
        .filter(|t| !t.attachments.is_empty());
    assert_eq!(made.count(), 5);
    mesh.update(&one, &service("one", 2).on(&[&tiny])).unwrap();

    // a node has one block of a network, so more nodes have more room
    let big = mesh.network("wide");
    words(
        &mesh.create(&service("crowd", 254).on(&[&big])).unwrap_err(),
        &["room for 253"],
    );
    let mut mesh = Mesh::new(2);
    let big = mesh.network("wide");
    mesh.create(&service("crowd", 506).on(&[&big])).unwrap();
}

// === ports ===

#[test]
fn a_port_is_one_services_alone_and_its_holder_is_named() {
    let mut mesh = Mesh::new(1);
    let vote = mesh.create(&service("vote", 1).port("8080:80")).unwrap();
    let refusal = mesh
        .create(&service("other", 1).port("8080:90"))
        .unwrap_err();
    words(&refusal, &["8080/tcp", "service vote", vote.as_str()]);
    assert_eq!(refusal.kind(), Kind::Conflict);
    mesh.create(&service("udp", 1).port("8080:90/udp")).unwrap();
    mesh.remove(&vote);
    mesh.create(&service("other", 1).port("8080:90")).unwrap();
}

#[test]
fn a_port_that_a_process_listens_on_is_refused_naming_it() {
    let mut mesh = Mesh::new(1);
    // each of these is in the way of "every address"
    for address in ["any", "127.0.0.1", "192.0.2.1", "::1"] {
        mesh.held = vec![held("any", 9), held(address, 8080)];
        let refusal = mesh
            .create(&service("vote", 1).port("8080:80"))
            .unwrap_err();
        words(&refusal, &["8080/tcp", "process nginx (pid 7)"]);
        assert_eq!(refusal.kind(), Kind::Conflict);
    }
    mesh.create(&service("vote", 1).port("8080:80/udp"))
        .unwrap();
    mesh.held.clear();
    let id = mesh.create(&service("web", 1).port("8080:80")).unwrap();
    // what came later does not keep the service from being changed
    mesh.held = vec![held("any", 8080)];
    let mut spec = mesh.get(&id).spec.clone();
    spec.endpoint.ports[0].target = 81;
    mesh.update(&id, &spec).unwrap();
    assert_eq!(published(mesh.get(&id)), [(8080, 81)]);
}

#[test]
fn automatic_ports_avoid_everyone() {
    let mut mesh = Mesh::new(1);
    mesh.held = vec![held("any", 30_000), held("127.0.0.1", 30_001)];
    mesh.create(&service("fixed", 1).port("30002:80")).unwrap();
    let id = mesh
        .create(
            &service("auto", 1)
                .port("80")
                .port("81")
                .port("30003:82")
                .port("80/udp"),
        )
        .unwrap();
    assert_eq!(
        published(mesh.get(&id)),
        [(30_004, 80), (30_005, 81), (30_003, 82), (30_000, 80)]
    );
    let listeners = mesh
        .claimed()
        .into_iter()
        .filter(|c| c.starts_with("listener/"));
    assert_eq!(listeners.count(), 5);
}

#[test]
fn automatic_ports_run_out_with_words() {
    let mut mesh = Mesh::new(1);
    mesh.held = (30_000..=32_767).map(|port| held("any", port)).collect();
    let refusal = mesh.create(&service("auto", 1).port("80")).unwrap_err();
    words(&refusal, &["port", "30000-32767", "choose"]);
    assert_eq!(refusal.kind(), Kind::Conflict);
}

#[test]
fn an_update_keeps_ports_marks_and_vips_that_it_can() {
    let mut mesh = Mesh::new(1);
    let (a, b) = (mesh.network("a"), mesh.network("b"));
    let id = mesh
        .create(
            &service("vote", 1)
                .on(&[&a])
                .port("80")
                .port("9000:90")
                .port("9001:91"),
        )
        .unwrap();
    let before = mesh.get(&id).endpoint.clone();
    // the automatic one keeps its number, one is gone, one is new
    mesh.update(
        &id,
        &service("vote", 1)
            .on(&[&b, &a])
            .port("9002:92")
            .port("9000:90")
            .port("80"),
    )
    .unwrap();
    let after = mesh.get(&id).endpoint.clone();
    assert_eq!(
        published(mesh.get(&id)),
        [(9002, 92), (9000, 90), (30_000, 80)]
    );
    assert_eq!(after.ports[1], before.ports[1]);
    assert_eq!(after.ports[2], before.ports[0]);
    assert_eq!(after.vips[1], before.vips[0]);
    assert_eq!(mesh.holder(&Resource::Listener(listener(9001))), None);
    assert_eq!(mesh.holder(&Resource::Mark(before.ports[2].mark)), None);
    mesh.create(&service("other", 1).on(&[&a]).port("9001:80"))
        .unwrap();
}

#[test]
fn a_number_that_is_asked_for_is_not_kept_for_an_automatic_port() {
    let mut mesh = Mesh::new(1);
    let id = mesh.create(&service("vote", 1).port("80")).unwrap();
    let networks = mesh.get(&id).spec.task.networks.clone();
    for ports in [["30000:81", "80"], ["80", "30000:81"]] {
        let mut spec = service("vote", 1).port(ports[0]).port(ports[1]);
        spec.task.networks = networks.clone();
        let mut copy = Mesh::new(0);
        copy.state = mesh.state.clone();
        copy.update(&id, &spec).unwrap();
        let mut ports = published(copy.get(&id));
        ports.sort();
        assert_eq!(ports, [(30_000, 81), (30_001, 80)]);
    }
}

// === updates ===

#[test]
fn an_update_of_an_old_version_is_refused_with_both() {
    let mut mesh = Mesh::new(1);
    let id = mesh.create(&service("vote", 1)).unwrap();
    let old = mesh.get(&id).version;
    let spec = mesh.get(&id).spec.clone();
    mesh.update(&id, &spec).unwrap();
    let is = mesh.get(&id).version;
    let refusal = mesh
        .decide(|state, context| {
            update_service(
                state,
                &id,
                old,
                spec.clone(),
                &serde_json::Value::Null,
                context,
            )
        })
        .unwrap_err();
    words(
        &refusal,
        &["vote", &format!("version {is}"), &format!("not {old}")],
    );
    assert_eq!(refusal.kind(), Kind::Conflict);
    let nothing = ServiceId::from_random([7; 16]);
    let refusal = mesh.decide(|state, context| {
        update_service(
            state,
            &nothing,
            old,
            spec.clone(),
            &serde_json::Value::Null,
            context,
        )
    });
    assert_eq!(refusal.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(
        remove_service(&mesh.state, &nothing, mesh.now)
            .unwrap_err()
            .kind(),
        Kind::NotFound
    );
}

#[test]
fn what_is_written_of_an_update_makes_nobody_look_again() {
    let mut mesh = Mesh::new(1);
    let id = mesh.create(&service("vote", 1)).unwrap();
    let update = |mesh: &mut Mesh, version| {
        let spec = mesh.get(&id).spec.clone();
        let raw = serde_json::Value::Null;
        let tx = mesh.decide(|state, context| {
            update_service(state, &id, version, spec.clone(), &raw, context)
        })?;
        mesh.commit(&tx);
        Ok::<(), Refusal>(())
    };
    let mut vote = Service::clone(mesh.get(&id));
    vote.update_status = Some(model::UpdateStatus::updating(mesh.now));
    let seen = mesh.get(&id).version;
    let mut tx = Transaction::default();
    tx.replace(seen, Object::Service(Box::new(vote)));
    mesh.commit(&tx);
    assert!(mesh.get(&id).version > seen);
    let later = Revision(mesh.get(&id).version.0 + 1);
    assert_eq!(update(&mut mesh, later).unwrap_err().kind(), Kind::Conflict);

    update(&mut mesh, seen).unwrap();
    // that was another spec, though it says the same
    assert_eq!(update(&mut mesh, seen).unwrap_err().kind(), Kind::Conflict);
    let seen = mesh.get(&id).version;
    let paused = pause_update(&mesh.state, &id, "a task failed".to_owned()).unwrap();
    mesh.commit(&paused);
    let rolled = mesh.decide(|state, context| rollback_service(state, &id, seen, context));
    mesh.commit(&rolled.unwrap());
    let rolled = mesh.decide(|state, context| rollback_service(state, &id, seen, context));
    assert_eq!(rolled.unwrap_err().kind(), Kind::Conflict);
}

#[test]
fn a_rollback_restores_the_spec_and_what_the_client_said() {
    let mut mesh = Mesh::new(1);
    let id = mesh.create(&service("vote", 1).port("8080:80")).unwrap();
    let first = mesh.get(&id).clone();
    let roll = |mesh: &mut Mesh| {
        let version = mesh.get(&id).version;
        mesh.decide(|state, context| rollback_service(state, &id, version, context))
    };
    words(&roll(&mut mesh).unwrap_err(), &["vote", "previous spec"]);
    let mut spec = first.spec.clone();
    spec.mode = Mode::Replicated { replicas: 3 };
    spec.endpoint.ports.clear();
    spec.task.restart.condition = RestartCondition::None;
    let version = mesh.get(&id).version;
    let raw = serde_json::json!({"second": true});
    let tx = mesh
        .decide(|state, context| update_service(state, &id, version, spec.clone(), &raw, context))
        .unwrap();
    mesh.commit(&tx);
    mesh.wait(5);
    let tx = roll(&mut mesh).unwrap();
    mesh.commit(&tx);
    let back = mesh.get(&id).clone();
    assert_eq!(back.spec, first.spec);
    assert_eq!(published(&back), published(&first));
    assert_eq!(
        (back.raw_previous.clone(), back.previous.clone()),
        (raw, Some(Box::new(spec)))
    );
    assert_eq!((back.created, back.updated), (first.created, mesh.now));
    // again: forward
    let tx = roll(&mut mesh).unwrap();
    mesh.commit(&tx);
    assert_eq!(mesh.get(&id).spec.mode, Mode::Replicated { replicas: 3 });
}

#[test]
fn a_rollback_to_what_is_no_longer_possible_is_refused() {
    let mut mesh = Mesh::new(1);
    let (a, b) = (mesh.network("a"), mesh.network("b"));
    let id = mesh
        .create(&service("vote", 1).on(&[&a]).port("8080:80"))
        .unwrap();
    mesh.update(&id, &service("vote", 1).on(&[&b])).unwrap();
    let roll = |mesh: &mut Mesh| {
        let version = mesh.get(&id).version;
        mesh.decide(|state, context| rollback_service(state, &id, version, context))
    };
    let thief = mesh
        .create(&service("thief", 1).on(&[&b]).port("8080:80"))
        .unwrap();
    words(
        &roll(&mut mesh).unwrap_err(),
        &["8080/tcp", "service thief"],
    );
    mesh.remove(&thief);
    mesh.remove_network(&a).unwrap();
    words(&roll(&mut mesh).unwrap_err(), &["network", a.as_str()]);
}

#[test]
fn removing_a_service_gives_back_all_and_retires_its_tasks() {
    let mut mesh = Mesh::new(1);
    let back = mesh.network("back");
    let id = mesh
        .create(&service("vote", 2).on(&[&back]).port("8080:80"))
        .unwrap();
    mesh.settle();
    let vip = mesh.get(&id).endpoint.vips[0].clone();
    mesh.remove(&id);
    assert!(
        mesh.state
            .tasks
            .values()
            .all(|t| t.desired == DesiredState::Remove)
    );
    mesh.settle();
    assert!(mesh.state.tasks.is_empty() && mesh.state.statuses.is_empty());
    let left = mesh.claimed();
    assert!(
        left.iter()
            .all(|c| c.starts_with("block/") || c.starts_with("network-name/")),
        "{left:?}"
    );

    // nobody gets the VIP or the marks for a while
    let next = mesh.create(&service("next", 2).on(&[&back])).unwrap();
    let got = mesh.get(&next).endpoint.vips[0].clone();
    assert_ne!(got.address, vip.address);
    assert!(
        ![vip.tcp, vip.udp]
            .iter()
            .any(|old| [got.tcp, got.udp].contains(old))
    );
    mesh.wait(60);
    let later = mesh.create(&service("later", 2).on(&[&back])).unwrap();
    assert_eq!(mesh.get(&later).endpoint.vips[0].address, vip.address);
}

#[test]
fn what_was_just_given_back_is_used_when_nothing_else_is_left() {
    let small = pools("10.100.0.0/24", "10.200.0.0/24", "10.90.0.0/16");
    let mut mesh = Mesh::with_pools(&small, 1);
    let back = mesh.network("back");
    let ids: Vec<_> = (0..14)
        .map(|n| {
            mesh.create(&service(&format!("s{n}"), 0).on(&[&back]))
                .unwrap()
        })
        .collect();
    let refusal = mesh.create(&service("more", 0).on(&[&back])).unwrap_err();
    words(&refusal, &["VIP", "10.200.0.0/28", "another network"]);
    assert_eq!(refusal.kind(), Kind::Conflict);
    let vip = mesh.get(&ids[3]).endpoint.vips[0].address;
    mesh.remove(&ids[3]);
    let more = mesh.create(&service("more", 0).on(&[&back])).unwrap();
    assert_eq!(mesh.get(&more).endpoint.vips[0].address, vip);
}

#[test]
fn tombstones_are_swept_once_they_are_old() {
    let mut mesh = Mesh::new(1);
    let id = mesh.create(&service("vote", 1)).unwrap();
    mesh.remove(&id);
    let tombstones = |mesh: &Mesh| {
        mesh.state
            .claims
            .values()
            .filter(|c| c.released.is_some())
            .count()
    };
    assert_eq!(tombstones(&mesh), 3, "a VIP and two marks");
    mesh.wait(59);
    mesh.sweep();
    assert_eq!(tombstones(&mesh), 3);
    let kept = mesh.claimed();
    mesh.wait(1);
    mesh.sweep();
    assert_eq!(tombstones(&mesh), 0);
    assert_eq!(mesh.claimed(), kept);
}

// === whatever is asked ===

#[derive(Clone, Debug)]
enum Ask {
    Network(u8),
    RemoveNetwork(u8),
    Service {
        name: u8,
        networks: Vec<u8>,
        ports: Vec<(u16, Option<u16>)>,
        dnsrr: bool,
        replicas: u32,
    },
    Remove(u8),
    Rollback(u8),
    Wait(i64),
    Settle,
}

fn ask() -> impl Strategy<Value = Ask> {
    let port = (80..83_u16, proptest::option::of(30_000..30_004_u16));
    prop_oneof![
        2 => (0..3u8).prop_map(Ask::Network),
        1 => (0..3u8).prop_map(Ask::RemoveNetwork),
        6 => (
            0..4u8,
            proptest::collection::vec(0..3u8, 0..3),
            proptest::collection::vec(port, 0..4),
            any::<bool>(),
            0..4u32,
        )
            .prop_map(|(name, networks, ports, dnsrr, replicas)| Ask::Service { name, networks, ports, dnsrr, replicas }),
        2 => (0..4u8).prop_map(Ask::Remove),
        1 => (0..4u8).prop_map(Ask::Rollback),
        1 => (1..70i64).prop_map(Ask::Wait),
        2 => Just(Ask::Settle),
    ]
}

/// Claims that are held, and those which the objects that there are must hold.
fn claims_are_what_objects_have(mesh: &Mesh) {
    let mut expected: Vec<(Resource, String)> = Vec::new();
    for network in mesh.state.networks.values() {
        let owner = network.id.to_string();
        expected.push((
            Resource::NetworkName(network.spec.name.folded()),
            owner.clone(),
        ));
        for pool in &network.pools {
            expected.push((Resource::Block(pool.subnet), owner.clone()));
            expected.push((Resource::Block(pool.vips), owner.clone()));
        }
    }
    for lease in mesh.state.leases.values() {
        let network = &mesh.state.networks[&lease.network];
        if network.pools[0].subnet != lease.block {
            expected.push((Resource::Block(lease.block), lease.network.to_string()));
        }
    }
    for service in mesh.state.services.values() {
        let all = resources(&service.spec, &service.endpoint);
        // every one is its own; but ports of one target share a mark
        let (vips, ports) = (&service.endpoint.vips, &service.endpoint.ports);
        let targets = ports.iter().map(|p| (p.port.protocol, p.port.target));
        let targets: BTreeSet<_> = targets.collect();
        assert_eq!(all.len(), 1 + 3 * vips.len() + ports.len() + targets.len());
        expected.extend(all.into_iter().map(|r| (r, service.id.to_string())));
    }
    for service in mesh.state.leaving.values() {
        let kept = ways_in(&service.endpoint).into_iter();
        expected.extend(kept.map(|r| (r, service.id.to_string())));
    }
    for task in mesh.state.tasks.values() {
        let status = mesh.state.status(&task.id);
        if status.is_some_and(|s| s.state.is_final() && !s.attached) {
            continue;
        }
        for address in task.attachments.iter().flat_map(|a| &a.addresses) {
            expected.push((Resource::Address(*address), task.id.to_string()));
        }
    }
    expected.sort();
    let held = mesh.state.claims.values().filter(|c| c.released.is_none());
    let held: Vec<_> = held
        .map(|c| (c.resource.clone(), c.owner.clone()))
        .collect();
    assert_eq!(held, expected);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    /// Nothing is held twice, by nobody, or for ever, whatever people ask in whatever order.
    #[test]
    fn everything_that_is_held_has_one_owner_who_uses_it(asks in proptest::collection::vec(ask(), 1..40)) {
        let mut mesh = Mesh::new(1);
        mesh.held = vec![held("any", 30_001)];
        for ask in asks {
            let before = mesh.state.clone();
            let network = |mesh: &Mesh, n: u8| mesh.state.find_network(&format!("n{n}")).map(|n| n.id.clone());
            let find = |mesh: &Mesh, n: u8| mesh.state.find_service(&format!("s{n}")).map(|s| s.id.clone());
            let result = match ask {
                Ask::Network(n) => mesh.try_network(&format!("n{n}"), &[]).map(drop),
                Ask::RemoveNetwork(n) => match network(&mesh, n) {
                    Some(id) => mesh.remove_network(&id),
                    None => Ok(()),
                },
                Ask::Service { name, networks, ports, dnsrr, replicas } => {
                    let on: Vec<_> = networks.iter().filter_map(|n| network(&mesh, *n)).collect();
                    let mut spec = service(&format!("s{name}"), replicas).on(&on.iter().collect::<Vec<_>>());
                    for (target, published) in ports {
                        let text = published.map_or_else(|| target.to_string(), |p| format!("{p}:{target}"));
                        spec = spec.port(&text);
                    }
                    if dnsrr {
                        spec = spec.dnsrr();
                    }
                    match find(&mesh, name) {
                        Some(id) => mesh.update(&id, &spec),
                        None => mesh.create(&spec).map(drop),
                    }
                }
                Ask::Remove(n) => {
                    if let Some(id) = find(&mesh, n) {
                        mesh.remove(&id);
                    }
                    Ok(())
                }
                Ask::Rollback(n) => match find(&mesh, n) {
                    Some(id) => {
                        let version = mesh.get(&id).version;
                        let tx = mesh.decide(|state, context| rollback_service(state, &id, version, context));
                        tx.map(|tx| mesh.commit(&tx))
                    }
                    None => Ok(()),
                },
                Ask::Wait(seconds) => {
                    mesh.wait(seconds);
                    mesh.sweep();
                    Ok(())
                }
                Ask::Settle => {
                    mesh.settle();
                    Ok(())
                }
            };
            if result.is_err() {
                prop_assert_eq!(&mesh.state, &before);
            }
            mesh.orchestrate();
            claims_are_what_objects_have(&mesh);
        }
        // all taken away: nothing is left
        for id in mesh.state.services.keys().cloned().collect::<Vec<_>>() {
            mesh.remove(&id);
        }
        mesh.settle();
        for id in mesh.state.networks.keys().cloned().collect::<Vec<_>>() {
            mesh.remove_network(&id).unwrap();
        }
        mesh.wait(60);
        mesh.sweep();
        prop_assert!(mesh.state.claims.is_empty());
        prop_assert!(mesh.state.tasks.is_empty() && mesh.state.statuses.is_empty() && mesh.state.leases.is_empty());
    }
}

fn marks(service: &Service) -> Vec<(u16, Mark, bool)> {
    let ports = service.endpoint.ports.iter();
    ports
        .map(|port| (port.published(), port.mark, port.keeps_port))
        .collect()
}

#[test]
fn ports_of_one_target_have_one_mark_and_so_has_a_range_with_the_same_numbers() {
    let mut mesh = Mesh::new(1);
    let spec = service("web", 1)
        .port("8080:80")
        .port("8081:80")
        .port("8080:80/udp")
        .port("9000-9002:9000-9002")
        .port("443:443");
    let id = mesh.create(&spec).unwrap();
    let given = marks(mesh.get(&id));
    let [web, alias, udp, first, second, third, alone] = given[..] else {
        panic!("{given:?}")
    };
    assert_eq!(web.1, alias.1);
    assert!([udp.1, first.1, alone.1].iter().all(|mark| *mark != web.1));
    assert_eq!((first.1, second.1, third.1), (third.1, third.1, first.1));
    assert_eq!(
        [web.2, udp.2, first.2, third.2, alone.2],
        [false, false, true, true, false]
    );

    // the second one takes the first one's place, with what it had
    let mut fewer = spec.clone();
    fewer.endpoint.ports.remove(0);
    mesh.update(&id, &fewer).unwrap();
    assert_eq!(marks(mesh.get(&id))[0], alias);

    // one that joins a range's port leads there; alone, it needs a mark of its own
    let with = spec.clone().port("7000:9001");
    mesh.update(&id, &with).unwrap();
    let joined = *marks(mesh.get(&id)).last().unwrap();
    assert_eq!((joined.1, joined.2), (second.1, true));
    let mut alone = with.clone();
    alone
        .endpoint
        .ports
        .retain(|port| port.published == Some(7000));
    mesh.update(&id, &alone).unwrap();
    let parted = marks(mesh.get(&id))[0];
    assert!(parted.1 != second.1 && !parted.2, "{parted:?}");
}

#[test]
fn each_host_address_has_one_ingress_address_and_numbers_may_repeat() {
    let mut mesh = Mesh::new(1);
    let ingress = |mesh: &Mesh, id| {
        let ports = mesh.get(id).endpoint.ports.iter();
        ports.map(|port| port.ingress).collect::<Vec<_>>()
    };
    let one = mesh
        .create(&service("one", 1).port("127.0.0.1:80:80").port("81:80"))
        .unwrap();
    let two = mesh
        .create(
            &service("two", 1)
                .port("10.0.0.1:80:80")
                .port("127.0.0.1:82:80"),
        )
        .unwrap();
    assert_eq!(ingress(&mesh, &one), [3, 2]);
    assert_eq!(ingress(&mesh, &two), [4, 3]);
    let refusal = mesh.create(&service("three", 1).port("80:80")).unwrap_err();
    words(&refusal, &["80/tcp", "service "]);
    // the address of a service that stays is not given to another one
    mesh.remove(&two);
    let three = mesh
        .create(&service("three", 1).port("10.0.0.2:80:80"))
        .unwrap();
    assert_eq!(ingress(&mesh, &three), [4]);
}

/// IPVS does not translate the port of a service by mark that is persistent.
#[test]
fn with_affinity_a_port_that_is_translated_has_an_ingress_address_of_the_services_own() {
    let mut mesh = Mesh::new(1);
    let affine = |mesh: &Mesh, id| {
        let ports = mesh.get(id).endpoint.ports.iter();
        ports.map(|port| port.affine).collect::<Vec<_>>()
    };
    let mut spec = service("web", 1)
        .port("8080:80")
        .port("443:443")
        .port("127.0.0.1:81:80");
    let id = mesh.create(&spec).unwrap();
    assert_eq!(affine(&mesh, &id), [None; 3]);
    let with = |spec: &mut ServiceSpec, text: &str| {
        let label = model::label::AFFINITY.to_owned();
        spec.labels.insert(label, text.to_owned());
    };
    with(&mut spec, "client-ip");
    mesh.update(&id, &spec).unwrap();
    assert_eq!(affine(&mesh, &id), [Some(4), None, Some(4)]);
    // it stays while it is needed, and no other service gets it
    with(&mut spec, "client-ip,1m");
    mesh.update(&id, &spec).unwrap();
    assert_eq!(affine(&mesh, &id), [Some(4), None, Some(4)]);
    let mut other = service("other", 1).port("9090:80");
    with(&mut other, "client-ip");
    let other = mesh.create(&other).unwrap();
    assert_eq!(affine(&mesh, &other), [Some(5)]);
    with(&mut spec, "none");
    mesh.update(&id, &spec).unwrap();
    assert_eq!(affine(&mesh, &id), [None; 3]);
}
