use imbl::OrdSet;
use model::{NetworkSpec, TaskState};

use super::*;
use crate::testing::{Mesh, With as _, name, node_id, service};

/// What a responder has that was told everything since the beginning.
#[derive(Default, Debug, PartialEq)]
struct Seen {
    mesh: Option<model::names::Mesh>,
    networks: BTreeMap<NetworkId, String>,
    services: BTreeMap<(NetworkId, ServiceId), ServiceNames>,
    clients: BTreeMap<IpAddr, Client>,
}

impl Seen {
    fn take(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Mesh(mesh) => self.mesh = Some(mesh),
                Change::Network(id, Some(zone)) => drop(self.networks.insert(id, zone.name)),
                Change::Network(id, None) => {
                    self.networks.remove(&id);
                    self.services.retain(|(network, _), _| *network != id);
                }
                Change::Service(at, id, Some(names)) => {
                    assert!(self.networks.contains_key(&at), "a network comes first");
                    self.services.insert((at, id), names);
                }
                Change::Service(at, id, None) => drop(self.services.remove(&(at, id))),
                Change::Client(at, Some(client)) => drop(self.clients.insert(at, client)),
                Change::Client(at, None) => drop(self.clients.remove(&at)),
            }
        }
    }

    /// The service's names on the network of this name.
    fn find(&self, network: &str, service: &str) -> Option<&ServiceNames> {
        let mut networks = self.networks.iter();
        let (id, _) = networks.find(|(_, name)| *name == network).unwrap();
        let mut services = self.services.iter();
        let found = services.find(|((at, _), names)| at == id && *names.name == *service);
        found.map(|(_, names)| names)
    }

    /// The same, which are there.
    fn at(&self, network: &str, service: &str) -> &ServiceNames {
        self.find(network, service).unwrap()
    }

    fn knows(&self, network: &str, service: &str) -> bool {
        self.find(network, service).is_some()
    }
}

fn all(mesh: &Mesh) -> Seen {
    let sandboxes = mesh.state.tasks.keys().cloned().collect();
    let mut seen = Seen::default();
    seen.take(Records::new(node_id(1), 2).follow(&mesh.state, &sandboxes));
    seen
}

fn of_tasks(names: &ServiceNames) -> Vec<IpAddr> {
    let mut all: Vec<_> = names
        .tasks
        .iter()
        .flat_map(|task| task.addresses.to_vec())
        .collect();
    all.sort();
    all
}

fn addresses(mesh: &Mesh, id: &ServiceId, place: usize) -> Vec<IpAddr> {
    let tasks = mesh.state.tasks.values().filter(|t| t.service == *id);
    let mut all: Vec<_> = tasks
        .map(|task| task.attachments[place].addresses[0])
        .collect();
    all.sort();
    all
}

#[test]
fn a_service_has_a_name_aliases_and_tasks() {
    let mut mesh = Mesh::new(1);
    let back = mesh.network("Back");
    let mut spec = service("Vote", 2).on(&[&back]);
    spec.task.networks[0].aliases = ["Web", "web", "vote"].map(str::to_owned).to_vec();
    let labels = [
        ("ipvsmesh.port-names", "http=80"),
        ("ipvsmesh.dns-answers", "1"),
        ("ipvsmesh.dns-ttl", "4s"),
    ];
    spec.labels = labels
        .map(|(label, text)| (label.to_owned(), text.to_owned()))
        .into();
    let id = mesh.create(&spec).unwrap();
    mesh.settle();
    let vip = mesh.get(&id).endpoint.vips[0].address;
    let seen = all(&mesh);
    assert_eq!(seen.mesh.as_ref().unwrap().ttl, 2);
    assert!(seen.mesh.as_ref().unwrap().covers(vip));
    let names = seen.at("back", "vote");
    assert_eq!(
        *names.aliases,
        ["web".into()],
        "once, and not the name itself"
    );
    assert_eq!(*names.vips, [vip]);
    assert_eq!((names.ttl, names.answers), (Some(4), 1));
    assert_eq!((&*names.ports[0].name, names.ports[0].port), ("http", 80));
    let slots: Vec<_> = names.tasks.iter().map(|task| task.slot).collect();
    assert_eq!(slots, [1, 2]);
    for task in mesh.tasks(&id) {
        let its = names.tasks.iter().find(|its| its.id == task.id).unwrap();
        assert_eq!(*its.addresses, *task.attachments[0].addresses);
        assert_eq!((its.slot, &its.node), (task.slot, &None));
    }
}

#[test]
fn dnsrr_has_the_tasks_that_run_and_exists_without_any() {
    let mut mesh = Mesh::new(1);
    let back = mesh.network("back");
    let id = mesh
        .create(&service("vote", 2).on(&[&back]).dnsrr())
        .unwrap();
    for _ in 0..2 {
        let seen = all(&mesh);
        let names = seen.at("back", "vote");
        assert!(names.vips.is_empty() && names.tasks.is_empty());
        mesh.orchestrate();
    }
    mesh.settle();
    assert_eq!(
        of_tasks(all(&mesh).at("back", "vote")),
        addresses(&mesh, &id, 0)
    );
}

#[test]
fn a_task_that_leaves_or_does_not_run_has_no_name() {
    for (state, draining, desired) in [
        (TaskState::Running, true, DesiredState::Running),
        (TaskState::Running, false, DesiredState::Shutdown),
        (TaskState::Starting, false, DesiredState::Running),
        (TaskState::Failed, false, DesiredState::Running),
    ] {
        let mut mesh = Mesh::new(1);
        let id = mesh.create(&service("vote", 2).dnsrr()).unwrap();
        mesh.settle();
        let tasks = mesh.tasks(&id);
        let (gone, stays) = (&tasks[0], &tasks[1]);
        mesh.task_mut(&gone.id).desired = desired;
        let status = mesh.status_mut(&gone.id);
        (status.state, status.draining) = (state, draining);
        let seen = all(&mesh);
        let ids: Vec<_> = seen
            .at("mesh", "vote")
            .tasks
            .iter()
            .map(|t| &t.id)
            .collect();
        assert_eq!(ids, [&stays.id]);
    }
}

#[test]
fn names_are_known_on_their_network_only_and_clients_see_their_own() {
    let mut mesh = Mesh::new(1);
    let (a, b) = (mesh.network("a"), mesh.network("b"));
    let spec = NetworkSpec {
        name: name("inside"),
        labels: Default::default(),
        internal: true,
        ipv6: false,
        subnets: Vec::new(),
    };
    let inside = mesh.make_network(&spec).unwrap();
    let on_a = mesh.create(&service("only", 1).on(&[&a])).unwrap();
    let on_two = mesh.create(&service("both", 1).on(&[&b, &inside])).unwrap();
    let closed = mesh.create(&service("closed", 1).on(&[&inside])).unwrap();
    mesh.settle();
    let seen = all(&mesh);
    for (name, networks) in [
        ("only", vec!["a"]),
        ("both", vec!["b", "inside"]),
        ("closed", vec!["inside"]),
    ] {
        for network in ["a", "b", "inside"] {
            assert_eq!(
                seen.knows(network, name),
                networks.contains(&network),
                "{name} on {network}"
            );
        }
    }
    // each place of a task has the address of that network
    for (place, network) in [(0, "b"), (1, "inside")] {
        assert_eq!(
            of_tasks(seen.at(network, "both")),
            addresses(&mesh, &on_two, place)
        );
        let vip = mesh.get(&on_two).endpoint.vips[place].address;
        assert_eq!(*seen.at(network, "both").vips, [vip]);
    }

    let client = |address: IpAddr| seen.clients[&address].clone();
    let only = client(addresses(&mesh, &on_a, 0)[0]);
    assert_eq!((&*only.networks, only.forward), (&[a][..], true));
    for place in [0, 1] {
        // from whichever of its addresses it asks; in the order of its spec
        let both = client(addresses(&mesh, &on_two, place)[0]);
        assert_eq!(
            (&*both.networks, both.forward),
            (&[b.clone(), inside.clone()][..], true)
        );
    }
    let closed = client(addresses(&mesh, &closed, 0)[0]);
    assert_eq!((&*closed.networks, closed.forward), (&[inside][..], false));
    let host = client("10.90.1.1".parse().unwrap());
    assert_eq!((host.networks.len(), host.forward), (3, true));
    assert_eq!(seen.clients.len(), 5);
}

#[test]
fn only_tasks_with_a_sandbox_on_this_node_are_clients() {
    let mut mesh = Mesh::new(1);
    let id = mesh.create(&service("vote", 2)).unwrap();
    mesh.settle();
    let tasks = mesh.tasks(&id);
    let here = OrdSet::unit(tasks[0].id.clone());
    let mut seen = Seen::default();
    seen.take(Records::new(node_id(1), 2).follow(&mesh.state, &here));
    let clients: Vec<_> = seen.clients.keys().copied().collect();
    let own = tasks[0].attachments[0].addresses[0];
    assert_eq!(clients, ["10.90.1.1".parse().unwrap(), own]);
    // names are the mesh's, whatever is here
    assert_eq!(seen.at("mesh", "vote").tasks.len(), 2);
}

#[test]
fn a_docker_task_may_have_servers_of_its_own() {
    let mut mesh = Mesh::new(1);
    let mut spec = service("vote", 1);
    spec.task.runtime = RuntimeSpec::Docker(Box::new(model::ContainerSpec {
        image: "web".to_owned(),
        dns: model::DnsConfig {
            servers: vec!["192.0.2.1".to_owned()],
            ..Default::default()
        },
        ..Default::default()
    }));
    let id = mesh.create(&spec).unwrap();
    mesh.settle();
    let seen = all(&mesh);
    let client = &seen.clients[&addresses(&mesh, &id, 0)[0]];
    assert_eq!(*client.servers, [IpAddr::from([192, 0, 2, 1])]);
}

/// What is told step by step is at each step what is told at once.
#[test]
fn following_is_telling_everything_anew() {
    let mut mesh = Mesh::new(1);
    let mut records = Records::new(node_id(1), 2);
    let mut seen = Seen::default();
    let mut steps = 0;
    let mut check = |mesh: &Mesh, what: &str| {
        let sandboxes = mesh.state.tasks.keys().cloned().collect();
        let changes = records.follow(&mesh.state, &sandboxes);
        // nothing changes twice
        assert!(records.follow(&mesh.state, &sandboxes).is_empty());
        seen.take(changes);
        assert_eq!(seen, all(mesh), "{what}");
        steps += 1;
    };
    check(&mesh, "nothing");
    let back = mesh.network("back");
    let front = mesh.network("front");
    check(&mesh, "networks");
    let mut spec = service("vote", 2).on(&[&back]);
    let id = mesh.create(&spec).unwrap();
    let other = mesh
        .create(&service("rr", 2).on(&[&back, &front]).dnsrr())
        .unwrap();
    check(&mesh, "created");
    for _ in 0..3 {
        mesh.orchestrate();
        check(&mesh, "orchestrated");
    }
    mesh.settle();
    check(&mesh, "settled");
    spec.endpoint.mode = EndpointMode::DnsRr;
    mesh.update(&id, &spec).unwrap();
    check(&mesh, "dnsrr");
    spec.endpoint.mode = EndpointMode::Vip;
    spec.task.networks[0].aliases = vec!["poll".to_owned()];
    mesh.update(&id, &spec).unwrap();
    check(&mesh, "vip, and an alias");
    mesh.orchestrate();
    check(&mesh, "replacing");
    mesh.settle();
    check(&mesh, "replaced");
    spec.mode = model::Mode::Replicated { replicas: 0 };
    mesh.update(&id, &spec).unwrap();
    mesh.settle();
    check(&mesh, "scaled to zero");
    mesh.remove(&other);
    check(&mesh, "removed");
    mesh.settle();
    check(&mesh, "gone");
    mesh.remove_network(&front).unwrap();
    check(&mesh, "a network less");
    assert_eq!(steps, 15);
}

#[test]
fn while_a_task_is_replaced_its_name_is_the_new_ones() {
    let mut mesh = Mesh::new(1);
    let id = mesh.create(&service("vote", 1)).unwrap();
    mesh.settle();
    let old = mesh.tasks(&id)[0].clone();
    let mut spec = mesh.get(&id).spec.clone();
    spec.mode = model::Mode::Replicated { replicas: 0 };
    mesh.update(&id, &spec).unwrap();
    mesh.orchestrate();
    spec.mode = model::Mode::Replicated { replicas: 1 };
    mesh.update(&id, &spec).unwrap();
    mesh.orchestrate();
    let new = mesh
        .tasks(&id)
        .into_iter()
        .find(|t| t.id != old.id)
        .unwrap();
    mesh.report(&new.id, TaskState::Running, true);
    assert_eq!(mesh.state.tasks.len(), 2, "the old one still stops");
    assert_eq!(
        of_tasks(all(&mesh).at("mesh", "vote")),
        new.attachments[0].addresses
    );
}
