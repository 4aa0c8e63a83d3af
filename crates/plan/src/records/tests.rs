use model::{NetworkSpec, ServiceId, TaskState};

use super::*;
use crate::testing::{Mesh, With as _, name, node_id, service};

fn snapshot(mesh: &Mesh) -> Snapshot {
    let all = mesh.state.tasks.keys().cloned().collect();
    let upstreams = vec!["192.0.2.53".parse().unwrap()];
    records(&mesh.state, &node_id(1), &all, upstreams, 2)
}

fn zone<'a>(snapshot: &'a Snapshot, name: &str) -> &'a Zone {
    let mut zones = snapshot.networks.values();
    zones.find(|zone| zone.name == name).unwrap()
}

fn addresses(mesh: &Mesh, id: &ServiceId, place: usize) -> Vec<IpAddr> {
    let tasks = mesh.state.tasks.values().filter(|t| t.service == *id);
    tasks
        .map(|task| task.attachments[place].addresses[0])
        .collect()
}

fn sorted(mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    addresses.sort();
    addresses
}

#[test]
fn a_service_has_a_name_aliases_task_names_and_reverse_ones() {
    let mut mesh = Mesh::new(1);
    let back = mesh.network("Back");
    let mut spec = service("Vote", 2).on(&[&back]);
    spec.task.networks[0].aliases = ["Web", "web", "vote"].map(str::to_owned).to_vec();
    let id = mesh.create(&spec).unwrap();
    mesh.settle();
    let vip = mesh.get(&id).endpoint.vips[0].address;
    let snapshot = snapshot(&mesh);
    assert_eq!(
        (snapshot.ttl, snapshot.revision),
        (2, mesh.state.revision.0)
    );
    let zone = zone(&snapshot, "back");
    for name in ["vote", "web"] {
        assert_eq!(zone.names[name], [vip], "{name}, once");
    }
    assert_eq!(zone.names["tasks.vote"], addresses(&mesh, &id, 0));
    assert_eq!(zone.reverse[&vip], "vote.back");
    for task in mesh.tasks(&id) {
        let own = &task.attachments[0].addresses;
        let named = format!("vote.{}", task.slot);
        assert_eq!(zone.names[&named], *own);
        assert_eq!(zone.names[task.id.as_str()], *own);
        assert_eq!(zone.reverse[&own[0]], format!("{named}.back"));
    }
    assert_eq!(zone.names.len(), 3 + 2 * 2);
    assert_eq!(zone.reverse.len(), 3);
}

#[test]
fn dnsrr_gives_the_tasks_that_run_and_exists_without_any() {
    let mut mesh = Mesh::new(1);
    let back = mesh.network("back");
    let mut spec = service("vote", 2).on(&[&back]).dnsrr();
    spec.task.networks[0].aliases = ["web", "vote"].map(str::to_owned).to_vec();
    let id = mesh.create(&spec).unwrap();
    for _ in 0..2 {
        let empty = snapshot(&mesh);
        for name in ["vote", "web", "tasks.vote"] {
            assert!(zone(&empty, "back").names[name].is_empty());
        }
        mesh.orchestrate();
    }
    mesh.settle();
    let full = snapshot(&mesh);
    for name in ["vote", "web", "tasks.vote"] {
        assert_eq!(
            zone(&full, "back").names[name],
            addresses(&mesh, &id, 0),
            "{name}"
        );
    }
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
        let snapshot = snapshot(&mesh);
        let zone = zone(&snapshot, "mesh");
        for name in ["vote", "tasks.vote"] {
            assert_eq!(zone.names[name], stays.attachments[0].addresses);
        }
        assert!(!zone.names.contains_key("vote.1") && zone.names.contains_key("vote.2"));
        assert!(!zone.reverse.contains_key(&gone.attachments[0].addresses[0]));
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
    let snapshot = snapshot(&mesh);
    let knows = |network: &str, name: &str| {
        let zone = zone(&snapshot, network);
        ["", "tasks."].map(|before| zone.names.contains_key(&format!("{before}{name}")))
            == [true; 2]
    };
    for (name, networks) in [
        ("only", vec!["a"]),
        ("both", vec!["b", "inside"]),
        ("closed", vec!["inside"]),
    ] {
        for network in ["a", "b", "inside"] {
            assert_eq!(
                knows(network, name),
                networks.contains(&network),
                "{name} on {network}"
            );
        }
    }
    // each place of a task has the address of that network
    for (place, network) in [(0, "b"), (1, "inside")] {
        let own = addresses(&mesh, &on_two, place);
        assert_eq!(zone(&snapshot, network).names["both.1"], own);
        let vip = mesh.get(&on_two).endpoint.vips[place].address;
        assert_eq!(zone(&snapshot, network).names["both"], [vip]);
    }

    let client = |address: IpAddr| snapshot.clients[&address].clone();
    let ids = |all: &[&model::NetworkId]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
    let only = client(addresses(&mesh, &on_a, 0)[0]);
    assert_eq!((only.networks, only.forward), (ids(&[&a]), true));
    for place in [0, 1] {
        // from whichever of its addresses it asks; in the order of its spec
        let both = client(addresses(&mesh, &on_two, place)[0]);
        assert_eq!((both.networks, both.forward), (ids(&[&b, &inside]), true));
    }
    let closed = client(addresses(&mesh, &closed, 0)[0]);
    assert_eq!((closed.networks, closed.forward), (ids(&[&inside]), false));
    let host = client("10.90.1.1".parse().unwrap());
    assert_eq!((host.networks.len(), host.forward), (3, true));
    assert_eq!(snapshot.clients.len(), 5);
}

#[test]
fn only_tasks_with_a_sandbox_on_this_node_are_clients() {
    let mut mesh = Mesh::new(1);
    let id = mesh.create(&service("vote", 2)).unwrap();
    mesh.settle();
    let tasks = mesh.tasks(&id);
    let here = OrdSet::unit(tasks[0].id.clone());
    let snapshot = records(&mesh.state, &node_id(1), &here, Vec::new(), 2);
    let clients: Vec<_> = snapshot.clients.keys().copied().collect();
    let own = tasks[0].attachments[0].addresses[0];
    assert_eq!(clients, sorted(vec!["10.90.1.1".parse().unwrap(), own]));
    // names are the mesh's, whatever is here
    assert_eq!(zone(&snapshot, "mesh").names["tasks.vote"].len(), 2);
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
    let snapshot = snapshot(&mesh);
    assert_eq!(
        zone(&snapshot, "mesh").names["vote.1"],
        new.attachments[0].addresses
    );
}
