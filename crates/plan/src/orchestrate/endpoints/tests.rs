use model::{Mode, RuntimeSpec, ServiceId, ServiceSpec, TaskState, label};

use crate::testing::{Mesh, With as _, service};

fn legacy(endpoints: &str) -> ServiceSpec {
    let mut spec = service("legacy", 1).port("8080:80");
    spec.task.runtime = RuntimeSpec::Static;
    spec.mode = Mode::Replicated {
        replicas: u32::try_from(endpoints.split(',').count()).unwrap(),
    };
    spec.labels
        .insert(label::ENDPOINTS.to_owned(), endpoints.to_owned());
    spec
}

/// Slot, address, port and what is wanted of each task.
fn tasks(mesh: &Mesh, id: &ServiceId) -> Vec<String> {
    let tasks = mesh.tasks(id).into_iter();
    let line = |task: model::Task| {
        let ip = task.addresses().next().unwrap();
        format!("{} {ip}:{} {:?}", task.name(), task.port(80), task.desired)
    };
    tasks.map(line).collect()
}

#[test]
fn each_server_is_a_task_with_a_slot_of_its_own() {
    let mut mesh = Mesh::new(1);
    let id = mesh.create(&legacy("192.0.2.1:8000,192.0.2.2")).unwrap();
    let used = mesh.claimed().len();
    mesh.orchestrate();
    let expected = [
        "legacy.1 192.0.2.1:8000 Running",
        "legacy.2 192.0.2.2:80 Running",
    ];
    assert_eq!(tasks(&mesh, &id), expected);
    assert!(mesh.plan().is_empty(), "{:?}", mesh.plan());
    assert_eq!(mesh.claimed().len(), used, "no address of ours is theirs");

    // another label replaces none but those that are not in it
    for task in mesh.tasks(&id) {
        mesh.report(&task.id, TaskState::Running, false);
    }
    mesh.update(&id, &legacy("192.0.2.2,192.0.2.3:80")).unwrap();
    assert_eq!(mesh.get(&id).update_status, None);
    mesh.orchestrate();
    let expected = [
        "legacy.1 192.0.2.1:8000 Remove",
        "legacy.2 192.0.2.2:80 Running",
        "legacy.3 192.0.2.3:80 Running",
    ];
    assert_eq!(tasks(&mesh, &id), expected);
    // once its connections have ended nothing is left of it
    let first = mesh.tasks(&id)[0].id.clone();
    mesh.report(&first, TaskState::Shutdown, false);
    mesh.orchestrate();
    assert_eq!(tasks(&mesh, &id), expected[1..]);

    mesh.remove(&id);
    for task in mesh.tasks(&id) {
        mesh.report(&task.id, TaskState::Shutdown, false);
    }
    mesh.orchestrate();
    mesh.orchestrate();
    assert!(mesh.state.tasks.is_empty() && mesh.state.leaving.is_empty());
}

#[test]
fn what_cannot_be_reached_is_refused() {
    let mut mesh = Mesh::new(1);
    for (endpoints, word) in [
        ("", "needs an endpoint"),
        ("10.100.0.2:80", "own ranges"),
        ("127.0.0.1:80", "loopback"),
    ] {
        let refused = mesh.create(&legacy(endpoints)).unwrap_err().to_string();
        assert!(refused.contains(word), "{refused}");
    }
    let id = mesh.create(&legacy("192.0.2.1:80")).unwrap();
    let other = mesh.update(&id, &service("legacy", 1)).unwrap_err();
    assert!(other.to_string().contains("cannot become"), "{other}");
    // IPVS could not translate the port
    let mut affine = legacy("192.0.2.1:8000");
    affine
        .labels
        .insert(label::AFFINITY.to_owned(), "client-ip".to_owned());
    let refused = mesh.update(&id, &affine).unwrap_err().to_string();
    assert!(refused.contains("8000"), "{refused}");
}
