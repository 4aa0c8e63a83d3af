use std::{collections::BTreeSet, fmt::Write as _, net::IpAddr};

use ipnet::IpNet;
use model::{
    NetworkId, NetworkSpec, Pools, Protocol, PublishMode, PublishedPort, Ranges, TaskState, label,
};
use proptest::prelude::*;

use super::{service::takes_new, *};
use crate::{
    netns::{Entry, Family, LinkKind, Netns, RouteKind},
    plan_writes,
    testing::{Mesh, With as _, name, net, node_id, service},
};

/// Pools with IPv6.
fn dual() -> Pools {
    Pools {
        six: Some(Ranges::unique_local([0xaa; 16])),
        ..Pools::default()
    }
}

fn dual_network(mesh: &mut Mesh, text: &str) -> NetworkId {
    let spec = NetworkSpec {
        name: name(text),
        labels: Default::default(),
        internal: false,
        ipv6: true,
        subnets: Vec::new(),
    };
    mesh.make_network(&spec).unwrap()
}

fn sandboxes(mesh: &Mesh) -> OrdSet<TaskId> {
    let attached =
        |task: &&model::Versioned<Task>| mesh.state.status(&task.id).is_some_and(|s| s.attached);
    let sandboxes = mesh.state.tasks.values().filter(attached);
    sandboxes.map(|task| task.id.clone()).collect()
}

fn want(mesh: &Mesh) -> Places {
    wanted(
        &mesh.state,
        &node_id(1),
        &Instance::default(),
        &sandboxes(mesh),
        &Settings::default(),
    )
}

fn internal(mesh: &mut Mesh, text: &str) -> NetworkId {
    let spec = NetworkSpec {
        name: name(text),
        labels: Default::default(),
        internal: true,
        ipv6: false,
        subnets: Vec::new(),
    };
    mesh.make_network(&spec).unwrap()
}

/// One line for each thing, as people would say it.
fn lines(places: &Places, names: &dyn Fn(&str) -> String) -> String {
    let mut text = String::new();
    for (place, netns) in places {
        let place = match place {
            Place::Task(id) => names(&format!("task {id}")),
            other => format!("{other:?}").to_lowercase(),
        };
        let mut say = |line: String| {
            let line = names(&line);
            writeln!(text, "{place}: {line}").unwrap();
        };
        for (name, link) in &netns.links {
            let kind = match &link.kind {
                LinkKind::Veth { peer, place } => format!("veth to {peer} in {place:?}"),
                LinkKind::VethPeer => "veth's other end".to_owned(),
                LinkKind::Loopback => "loopback".to_owned(),
            };
            let mtu = link
                .mtu
                .map_or_else(String::new, |mtu| format!(" mtu {mtu}"));
            say(format!(
                "link {name} {kind}{mtu} {}",
                if link.up { "up" } else { "down" }
            ));
        }
        for (link, net) in &netns.addresses {
            say(format!("address {net} dev {link}"));
        }
        for route in &netns.routes {
            let part = |word: &str, value: Option<String>| {
                value.map_or_else(String::new, |value| format!(" {word} {value}"))
            };
            say(format!(
                "route {:?} {}{}{}{}{}",
                route.kind,
                route.to,
                part("via", route.via.map(|ip| ip.to_string())),
                part("dev", route.dev.clone()),
                part("src", route.src.map(|ip| ip.to_string())),
                part(
                    "metric",
                    (route.metric > 0).then(|| route.metric.to_string())
                ),
            ));
        }
        for (path, value) in &netns.sysctls {
            say(format!("sysctl {path} = {value}"));
        }
        for (name, set) in &netns.sets {
            say(format!("set {name} {:?}", set.kind));
            for (entry, mark) in &set.entries {
                let mark = mark.map_or_else(String::new, |mark| format!(" mark {mark}"));
                say(format!("set {name}: {entry:?}{mark}"));
            }
        }
        for ((family, table), chains) in &netns.tables {
            for (chain, rules) in &chains.own {
                for rule in rules {
                    say(format!("{family:?} {} -A {chain} {rule}", table.as_str()));
                }
            }
            for jump in &chains.jumps {
                let how = if jump.first { "-I" } else { "-A" };
                say(format!(
                    "{family:?} {} {how} {} {}",
                    table.as_str(),
                    jump.chain,
                    jump.rule
                ));
            }
        }
        if let Some(timeouts) = netns.ipvs_timeouts {
            say(format!("{timeouts:?}"));
        }
        for ((family, mark), service) in &netns.services {
            say(format!(
                "ipvs {family:?} {mark} {}",
                service.scheduling.scheduler
            ));
            for ((address, port), to) in &service.destinations {
                say(format!(
                    "ipvs {family:?} {mark} -> {address}:{port} weight {}",
                    to.weight
                ));
            }
        }
    }
    text
}

/// A small mesh: a service of two tasks on one network with published ports,
/// and a client on that one and an internal one, which drains.
#[test]
fn a_small_mesh_is_this() {
    let mut mesh = Mesh::with_pools(&dual(), 1);
    let back = dual_network(&mut mesh, "back");
    let inside = internal(&mut mesh, "inside");
    let vote = mesh
        .create(
            &service("vote", 2)
                .on(&[&back])
                .port("8080:80")
                .port("53:5353/udp")
                .port("192.0.2.1:9090:80")
                .port("7000-7001:7000-7001"),
        )
        .unwrap();
    let client = mesh
        .create(&service("client", 1).on(&[&inside, &back]))
        .unwrap();
    mesh.settle();
    let leaving = mesh.tasks(&vote)[1].id.clone();
    mesh.status_mut(&leaving).draining = true;
    let tasks: Vec<Task> = [vote, client]
        .iter()
        .flat_map(|id| mesh.tasks(id))
        .collect();
    let names = |text: &str| {
        tasks.iter().fold(text.to_owned(), |text, task| {
            text.replace(&format!("Task(TaskId({}))", task.id), &task.name())
                .replace(task.id.as_str(), &task.name())
                .replace(&task.link(), &format!("t-{}", task.name()))
        })
    };
    let is = lines(&want(&mesh), &names);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/datapath.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &is).unwrap();
    }
    let golden = std::fs::read_to_string(path).unwrap();
    for (number, (is, golden)) in is.lines().zip(golden.lines()).enumerate() {
        assert_eq!(is, golden, "line {} of tests/data/datapath.txt", number + 1);
    }
    assert_eq!(is.lines().count(), golden.lines().count());
}

#[test]
fn nothing_is_wanted_before_the_mesh_is_set_up_or_on_an_unknown_node() {
    let none = OrdSet::new();
    let settings = Settings::default();
    let nothing = wanted(
        &State::default(),
        &node_id(1),
        &Instance::default(),
        &none,
        &settings,
    );
    assert!(nothing.is_empty());
    let mesh = Mesh::new(1);
    let other = wanted(
        &mesh.state,
        &node_id(9),
        &Instance::default(),
        &none,
        &settings,
    );
    assert!(other.is_empty());
}

#[test]
fn an_instances_host_things_carry_its_name() {
    let mut mesh = Mesh::new(1);
    mesh.create(&service("vote", 1).port("8080:80")).unwrap();
    let all = |instance: &Instance| {
        let none = OrdSet::new();
        let places = wanted(
            &mesh.state,
            &node_id(1),
            instance,
            &none,
            &Settings::default(),
        );
        places[&Place::Host].clone()
    };
    let (plain, named) = (all(&Instance::default()), all(&"blue".parse().unwrap()));
    let sets = ["ivm-at", "ivm-internal", "ivm-sctp", "ivm-tcp", "ivm-udp"];
    assert!(plain.sets.keys().eq(sets));
    assert!(named.sets.keys().all(|set| set.starts_with("ivm-blue-")));
    assert!(named.links.keys().eq(["ivm0-blue"]));
    for chains in named.tables.values() {
        for (chain, rules) in &chains.own {
            assert!(chain.starts_with("IPVSMESH-BLUE-") && chain.len() < 29);
            for rule in rules {
                assert!(
                    !rule.contains("ivm0 ") && !rule.contains("ivm-tcp"),
                    "{rule}"
                );
            }
        }
        assert!(
            chains
                .jumps
                .iter()
                .all(|jump| jump.rule.contains("-j IPVSMESH-BLUE-"))
        );
    }
}

#[test]
fn a_task_has_weight_while_it_runs_and_drains_by_protocol() {
    use model::DesiredState::{Remove, Running, Shutdown};
    let mut mesh = Mesh::new(1);
    let id = mesh.create(&service("vote", 1)).unwrap();
    mesh.settle();
    let task = mesh.tasks(&id)[0].id.clone();
    for (state, draining, desired, tcp, udp) in [
        (TaskState::Running, false, Running, Some(1), Some(1)),
        (TaskState::Running, true, Running, Some(0), None),
        (TaskState::Running, false, Shutdown, Some(0), None),
        (TaskState::Running, false, Remove, Some(0), None),
        (TaskState::Starting, false, Running, None, None),
        (TaskState::Shutdown, true, Shutdown, None, None),
        (TaskState::Failed, false, Running, None, None),
    ] {
        mesh.task_mut(&task).desired = desired;
        let status = mesh.status_mut(&task);
        (status.state, status.draining) = (state, draining);
        let running = super::Running::of(&mesh.state, &mesh.state.tasks[&task]);
        let weight = |protocol| running.as_ref()?.share(protocol, 1);
        assert_eq!((weight(Protocol::Tcp), weight(Protocol::Udp)), (tcp, udp));
    }
    let status = mesh.status_mut(&task);
    (status.state, status.ended) = (TaskState::Running, true);
    assert!(super::Running::of(&mesh.state, &mesh.state.tasks[&task]).is_none());
    mesh.state.statuses.remove(&task);
    assert!(super::Running::of(&mesh.state, &mesh.state.tasks[&task]).is_none());
}

/// Both happen between two looks at the state.
#[test]
fn a_port_that_one_service_gives_up_and_another_takes_stays_open() {
    for _ in 0..8 {
        let (mut mesh, networks) = three_networks();
        let mut datapath = Datapath::new(node_id(1), Instance::default(), Settings::default());
        for number in 0..8 {
            let spec = service(&format!("s{number}"), 1).on(&[&networks[0]]);
            let id = mesh.create(&spec.port("8080:80")).unwrap();
            let host = datapath.follow(&mesh.state, &OrdSet::new())[&Place::Host].clone();
            assert!(
                host.sets["ivm-tcp"]
                    .entries
                    .contains_key(&Entry::Port(8080))
            );
            mesh.remove(&id);
        }
    }
}

/// Putting a service on a network writes the network anew; that changes nothing else.
#[test]
fn a_new_service_leaves_the_other_ones_as_they_are() {
    let (mut mesh, networks) = three_networks();
    for number in 0..8 {
        let spec = service(&format!("s{number}"), 1).on(&[&networks[0]]);
        mesh.create(&spec).unwrap();
    }
    mesh.settle();
    let mut datapath = Datapath::new(node_id(1), Instance::default(), Settings::default());
    let before = datapath.follow(&mesh.state, &sandboxes(&mesh)).clone();
    let version = mesh.state.networks[&networks[0]].version;
    mesh.create(&service("new", 1).on(&[&networks[0]])).unwrap();
    assert_ne!(mesh.state.networks[&networks[0]].version, version);
    let after = datapath.follow(&mesh.state, &sandboxes(&mesh));
    // the very same, not only alike
    assert!(
        after[&Place::Router]
            .services
            .ptr_eq(&before[&Place::Router].services)
    );
    assert!(
        after[&Place::Router]
            .links
            .ptr_eq(&before[&Place::Router].links)
    );
}

/// The only service's entries and IPVS services in the router and the ingress.
fn of(mesh: &Mesh) -> (usize, usize) {
    let want = want(mesh);
    let both = [&want[&Place::Router], &want[&Place::Ingress]];
    let marked = |netns: &&Netns| {
        let sets = netns.sets.values().flat_map(|set| set.entries.values());
        sets.filter(|mark| mark.is_some()).count()
    };
    let entries = both.iter().map(marked).sum();
    (entries, both.iter().map(|netns| netns.services.len()).sum())
}

#[test]
fn a_service_is_balanced_while_it_has_tasks_and_offered_while_one_takes_more() {
    let mut mesh = Mesh::new(1);
    let id = mesh.create(&service("vote", 1).port("8080:80")).unwrap();
    assert_eq!(of(&mesh), (0, 0));
    mesh.settle();
    // tcp and udp of the VIP, and the port
    assert_eq!(of(&mesh), (3, 3));
    let task = mesh.tasks(&id)[0].id.clone();
    mesh.status_mut(&task).draining = true;
    // open connections of tcp may end
    assert_eq!(of(&mesh), (0, 2));
    // the host's set has the port as long as it is published: refusing is the ingress's
    let ports = |mesh: &Mesh| want(mesh)[&Place::Host].sets["ivm-tcp"].entries.len();
    assert_eq!(ports(&mesh), 1);
    // its connections hear from where they asked that their task ends
    mesh.remove(&id);
    assert_eq!((of(&mesh), ports(&mesh)), ((0, 2), 0));
    mesh.settle();
    assert_eq!(of(&mesh), (0, 0));
    assert!(mesh.state.leaving.is_empty());
}

#[test]
fn a_dnsrr_service_is_balanced_on_its_ports_only() {
    let mut mesh = Mesh::new(1);
    mesh.create(&service("vote", 3).dnsrr().port("8080:80").port("8081:81"))
        .unwrap();
    mesh.settle();
    let want = want(&mesh);
    assert!(want[&Place::Router].services.is_empty());
    let targets: Vec<_> = want[&Place::Ingress]
        .services
        .values()
        .map(|s| {
            s.destinations
                .keys()
                .map(|(_, port)| *port)
                .collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(targets, [[80; 3], [81; 3]]);
}

#[test]
fn a_task_on_several_networks_speaks_to_each_from_its_address_there() {
    let mut mesh = Mesh::new(1);
    let inside = internal(&mut mesh, "inside");
    let back = mesh.network("back");
    let both = mesh
        .create(&service("both", 1).on(&[&inside, &back]))
        .unwrap();
    let one = mesh.create(&service("one", 1).on(&[&back])).unwrap();
    mesh.settle();
    let want = want(&mesh);
    let task = mesh.tasks(&both)[0].clone();
    let netns = &want[&Place::Task(task.id.clone())];
    let at: Vec<IpAddr> = task.attachments.iter().map(|a| a.addresses[0]).collect();
    let src = |to: IpNet| {
        netns
            .routes
            .iter()
            .find(|route| route.to == to)
            .and_then(|r| r.src)
    };
    for (network, address) in [(&inside, at[0]), (&back, at[1])] {
        let pool = &mesh.state.networks[network].pools[0];
        assert_eq!(src(pool.subnet), Some(address));
        assert_eq!(src(pool.vips), Some(address));
    }
    // the way out is not by the internal one, though it comes first
    assert_eq!(src(net("0.0.0.0/0")), Some(at[1]));
    let gateways: BTreeSet<_> = netns.routes.iter().filter_map(|route| route.via).collect();
    let first = mesh.state.lease(&inside, &node_id(1)).unwrap().gateway();
    assert_eq!(
        gateways,
        BTreeSet::from([first]),
        "one of its router's addresses is enough"
    );
    assert_eq!(netns.addresses.len(), 2);
    let single = &want[&Place::Task(mesh.tasks(&one)[0].id.clone())];
    assert_eq!(
        single.routes.len(),
        2,
        "its gateway, and by that everything"
    );
    // and the router knows both of its addresses by its one link
    let link = task.link();
    let router = &want[&Place::Router].routes;
    let there: Vec<_> = router
        .iter()
        .filter(|r| r.dev.as_ref() == Some(&link))
        .map(|r| r.to)
        .collect();
    assert_eq!(there.len(), 2);
}

#[test]
fn networks_reach_themselves_and_their_own_vips() {
    let mut mesh = Mesh::new(1);
    let (a, b) = (mesh.network("a"), internal(&mut mesh, "b"));
    let want = want(&mesh);
    let router = &want[&Place::Router];
    let pool = |id: &NetworkId| mesh.state.networks[id].pools[0].clone();
    let expected: BTreeSet<_> = [pool(&a), pool(&b)]
        .iter()
        .flat_map(|p| {
            [
                Entry::NetNet(p.subnet, p.subnet),
                Entry::NetNet(p.subnet, p.vips),
            ]
        })
        .collect();
    assert!(router.sets["same"].entries.keys().eq(&expected));
    assert!(
        want[&Place::Host].sets["ivm-internal"]
            .entries
            .keys()
            .eq(&[Entry::Net(pool(&b).subnet)])
    );
}

#[test]
fn node_addresses_are_in_the_nodes_pool() {
    for ranges in dual().ranges() {
        let mut seen = BTreeSet::new();
        for number in [1, 2, 255] {
            let at = NodeAddresses::new(&ranges, number);
            for address in [at.host(), at.ingress(2), at.ingress(254)] {
                assert!(ranges.nodes.contains(&address) && at.block.contains(&address));
                assert!(seen.insert(address));
            }
        }
    }
    let four = dual().ranges().next().unwrap();
    assert_eq!(
        NodeAddresses::new(&four, 2).host(),
        IpAddr::from([10, 90, 2, 1])
    );
    let small = Ranges {
        nodes: net("10.90.6.0/23"),
        ..four
    };
    assert!(
        small
            .nodes
            .contains(&NodeAddresses::new(&small, 1).ingress(2))
    );
}

#[derive(Clone, Debug)]
enum Step {
    Create {
        replicas: u32,
        dnsrr: bool,
        on: Vec<usize>,
        ports: Vec<(u8, u16, Option<u16>)>,
        options: u8,
    },
    Remove(usize),
    Scale(usize, u32),
    Options(usize, u8),
    Fate(usize, u8, bool),
    Settle,
    Wait,
}

fn step() -> impl Strategy<Value = Step> {
    let port = (0..12u8, 79..82u16, proptest::option::of(8000..8004u16));
    prop_oneof![
        5 => (
            0..4u32,
            any::<bool>(),
            proptest::sample::subsequence(vec![0usize, 1, 2], 1..=3),
            proptest::collection::vec(port, 0..4),
            0..4u8,
        )
            .prop_map(|(replicas, dnsrr, on, ports, options)| Step::Create { replicas, dnsrr, on, ports, options }),
        1 => any::<usize>().prop_map(Step::Remove),
        2 => (any::<usize>(), 0..4u32).prop_map(|(which, replicas)| Step::Scale(which, replicas)),
        2 => (any::<usize>(), 0..4u8).prop_map(|(which, options)| Step::Options(which, options)),
        4 => (any::<usize>(), 0..4u8, any::<bool>()).prop_map(|(which, fate, attached)| Step::Fate(which, fate, attached)),
        4 => Just(Step::Settle),
        1 => Just(Step::Wait),
    ]
}

fn options(spec: &mut model::ServiceSpec, which: u8) {
    let labels: &[(&str, &str)] = match which {
        0 => &[],
        1 => &[
            (label::SCHEDULER, "sh"),
            (label::AFFINITY, "client-ip,1m,/24"),
        ],
        2 => &[(label::WEIGHT, "1=0,2=5"), (label::CONNECTION_LIMIT, "9:7")],
        _ => &[(label::SCHEDULER, "wlc")],
    };
    let labels = labels.iter();
    spec.labels = labels
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
}

fn published((kind, target, published): (u8, u16, Option<u16>)) -> PublishedPort {
    let ip = |text: &str| text.parse().ok();
    PublishedPort {
        protocol: [Protocol::Tcp, Protocol::Udp, Protocol::Sctp][usize::from(kind % 3)],
        target,
        published,
        mode: if kind == 3 {
            PublishMode::Host
        } else {
            PublishMode::Ingress
        },
        host_ip: match kind {
            4 | 5 => ip("127.0.0.1"),
            6 | 7 => ip("192.0.2.1"),
            8 => ip("2001:db8::1"),
            9 => ip("0.0.0.0"),
            _ => None,
        },
    }
}

/// Does a step, if it makes sense.
fn take(mesh: &mut Mesh, networks: &[NetworkId], number: usize, step: &Step) {
    let nth = |ids: Vec<ServiceId>, which: usize| ids.get(which % ids.len().max(1)).cloned();
    let services = |mesh: &Mesh| mesh.state.services.keys().cloned().collect::<Vec<_>>();
    match step {
        Step::Create {
            replicas,
            dnsrr,
            on,
            ports,
            options: which,
        } => {
            let on: Vec<_> = on.iter().map(|n| &networks[*n]).collect();
            let mut spec = service(&format!("s{number}"), *replicas).on(&on);
            spec.endpoint.ports = ports.iter().copied().map(published).collect();
            options(&mut spec, *which);
            // ports of others are refused
            let _ = mesh.create(&if *dnsrr { spec.dnsrr() } else { spec });
        }
        Step::Remove(which) => {
            if let Some(id) = nth(services(mesh), *which) {
                mesh.remove(&id);
            }
        }
        Step::Scale(which, replicas) => {
            if let Some(id) = nth(services(mesh), *which) {
                let mut spec = mesh.get(&id).spec.clone();
                spec.mode = model::Mode::Replicated {
                    replicas: *replicas,
                };
                let _ = mesh.update(&id, &spec);
            }
        }
        Step::Options(which, options_of) => {
            if let Some(id) = nth(services(mesh), *which) {
                let mut spec = mesh.get(&id).spec.clone();
                options(&mut spec, *options_of);
                let _ = mesh.update(&id, &spec);
            }
        }
        Step::Fate(which, fate, attached) => {
            let tasks: Vec<_> = mesh.state.statuses.keys().cloned().collect();
            if let Some(id) = tasks.get(which % tasks.len().max(1)) {
                let status = mesh.status_mut(id);
                status.attached = *attached;
                match fate {
                    0 => status.draining = true,
                    1 => status.state = TaskState::Failed,
                    _ => {}
                }
            }
        }
        Step::Settle => mesh.settle(),
        Step::Wait => mesh.wait(100),
    }
}

fn three_networks() -> (Mesh, Vec<NetworkId>) {
    let mut mesh = Mesh::with_pools(&dual(), 1);
    let networks = vec![
        mesh.network("a"),
        internal(&mut mesh, "b"),
        dual_network(&mut mesh, "c"),
    ];
    (mesh, networks)
}

fn any_mesh() -> impl Strategy<Value = Mesh> {
    proptest::collection::vec(step(), 1..14).prop_map(|steps| {
        let (mut mesh, networks) = three_networks();
        for (number, step) in steps.iter().enumerate() {
            take(&mut mesh, &networks, number, step);
        }
        mesh
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    /// What is wanted is the same whether it was followed step by step or made from
    /// nothing, whichever states were seen in between.
    #[test]
    fn following_leads_where_starting_anew_does(
        steps in proptest::collection::vec((step(), any::<bool>()), 1..24)
    ) {
        let (mut mesh, networks) = three_networks();
        let mut datapath = Datapath::new(node_id(1), Instance::default(), Settings::default());
        for (number, (step, look)) in steps.iter().enumerate() {
            take(&mut mesh, &networks, number, step);
            if *look {
                let sandboxes = sandboxes(&mesh);
                let followed = datapath.follow(&mesh.state, &sandboxes);
                let anew = want(&mesh);
                prop_assert_eq!(plan_writes(followed, &anew), []);
                prop_assert!(*followed == anew);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    /// Whatever runs: marks lead to services that take new connections, no two
    /// of which share one; routes do not displace each other; a plan can be made.
    #[test]
    fn what_is_wanted_holds_together(mesh in any_mesh()) {
        let want = want(&mesh);
        let mut marks = BTreeSet::new();
        for (place, netns) in &want {
            for set in netns.sets.values() {
                for (entry, mark) in &set.entries {
                    let Some(mark) = mark else { continue };
                    let family = match entry {
                        Entry::Ip(ip) | Entry::IpPort(ip, ..) => Family::from(*ip),
                        _ => Family::V4,
                    };
                    let service = netns.services.get(&(family, *mark));
                    prop_assert!(service.is_some_and(takes_new), "{:?} {:?}", place, entry);
                }
            }
            for ((family, mark), service) in &netns.services {
                prop_assert!(marks.insert((*family, *mark)), "{} twice", mark);
                prop_assert!(!service.destinations.is_empty());
                for (address, _) in service.destinations.keys() {
                    // one that has ended and left has given its address back
                    let holds = |t: &&model::Versioned<model::Task>| {
                        let status = mesh.state.status(&t.id);
                        status.is_some_and(|s| s.attached || !s.state.is_final())
                            && t.attachments.iter().any(|a| a.addresses.contains(address))
                    };
                    let task = mesh.state.tasks.values().find(holds);
                    let status = mesh.state.status(&task.unwrap().id).unwrap();
                    prop_assert_eq!(status.state, TaskState::Running);
                }
            }
            let keys: BTreeSet<_> = netns.routes.iter().map(|r| (r.kind == RouteKind::Local, r.to, r.metric)).collect();
            prop_assert_eq!(keys.len(), netns.routes.len());
            for (link, _) in &netns.addresses {
                prop_assert!(netns.links.contains_key(link));
            }
            for route in &netns.routes {
                if let Some(dev) = &route.dev {
                    prop_assert!(netns.links.contains_key(dev));
                }
            }
            for link in netns.links.keys() {
                prop_assert!(link.len() < 16);
            }
        }
        prop_assert_eq!(plan_writes(&want, &want), []);
        for (place, _) in plan_writes(&Places::new(), &want) {
            prop_assert!(want.contains_key(&place));
        }
    }
}

/// What the host's links are the state does not say, so that nothing of the state takes it
/// away.
#[test]
fn connections_are_shortened_between_the_links_that_are_told() {
    let (mut mesh, _) = three_networks();
    let mut datapath = Datapath::new(node_id(1), Instance::default(), Settings::default());
    let links = OrdSet::unit("eth0".to_owned());
    let host = |datapath: &mut Datapath, mesh: &Mesh| {
        datapath.follow(&mesh.state, &OrdSet::new())[&Place::Host].clone()
    };
    datapath.shorten(links.clone());
    assert_eq!(host(&mut datapath, &mesh).flowtable, Some(links.clone()));
    // begins anew
    internal(&mut mesh, "more");
    let before = host(&mut datapath, &mesh);
    assert_eq!(before.flowtable, Some(links.clone()));
    datapath.shorten(links);
    assert!(host(&mut datapath, &mesh).links.ptr_eq(&before.links));
    datapath.shorten(OrdSet::new());
    assert_eq!(host(&mut datapath, &mesh).flowtable, None);
}
