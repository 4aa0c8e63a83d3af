use model::{ServiceId, TaskState, TaskStatus, Versioned};

use super::*;
use crate::testing::{Mesh, With as _, name, node_id, service};

fn container(n: u8, labels: &[(&str, &str)]) -> Candidate {
    let labels = [(label::SERVICE, "web")].iter().chain(labels);
    Candidate {
        id: format!("c{n}"),
        name: format!("proj_app_{n}"),
        image: "nginx".to_owned(),
        labels: labels
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect(),
        created: n.into(),
        running: true,
        health: Health::None,
        addresses: vec![[172, 18, 0, n].into()],
        bridges: vec!["172.18.0.0/16".parse().unwrap()],
        exposed: vec![(80, model::Protocol::Tcp)],
        obstacle: None,
    }
}

/// Steps until there is nothing to do; what could not be had.
fn adopt(mesh: &mut Mesh, seen: &[Candidate]) -> Vec<String> {
    for _ in 0..20 {
        let step = mesh
            .decide(|state, context| Ok(plan_adoption(state, &node_id(1), seen, context)))
            .unwrap();
        if step.tx.is_empty() {
            return step.problems.into_values().flatten().collect();
        }
        mesh.commit(&step.tx);
    }
    panic!("it does not come to an end");
}

fn web(mesh: &Mesh) -> Option<Versioned<model::Service>> {
    let mut all = mesh.state.services.values();
    all.find(|s| s.spec.name.as_str() == "web").cloned()
}

/// Names and addresses of its tasks.
fn tasks(mesh: &Mesh, id: &ServiceId) -> Vec<String> {
    let tasks = mesh.tasks(id).into_iter();
    let line = |task: Task| format!("{} {}", task.name(), task.addresses().next().unwrap());
    tasks.map(line).collect()
}

#[test]
fn a_service_comes_and_goes_with_its_containers() {
    let mut mesh = Mesh::new(1);
    let published = [(label::PORT, "8000"), (label::PUBLISH, "8080")];
    let mut seen = vec![container(2, &published), container(1, &published)];
    assert_eq!(adopt(&mut mesh, &seen), [""; 0]);
    let service = web(&mesh).unwrap();
    assert_eq!(
        tasks(&mesh, &service.id),
        ["web.1 172.18.0.1", "web.2 172.18.0.2"]
    );
    let port = &service.endpoint.ports[0];
    assert_eq!((port.published(), port.port.target), (8080, 8000));
    let vips: Vec<_> = service
        .endpoint
        .vips
        .iter()
        .map(|vip| vip.address)
        .collect();
    assert_eq!(vips.len(), 1, "none of IPv6");
    assert_eq!(service.wanted_tasks(1), 2);

    // the orchestrator leaves them alone, and nothing of theirs is claimed
    let before = mesh.state.revision;
    mesh.orchestrate();
    assert_eq!(mesh.state.revision, before);

    // one stops, one is new: slots and the VIP stay
    seen[1].running = false;
    seen.push(container(3, &published));
    adopt(&mut mesh, &seen);
    assert_eq!(
        tasks(&mesh, &service.id),
        ["web.1 172.18.0.3", "web.2 172.18.0.2"]
    );
    // with an IPv6 address comes a VIP of it, which stays
    for container in &mut seen {
        container.running = false;
    }
    adopt(&mut mesh, &seen);
    let service = web(&mesh).unwrap();
    assert_eq!(service.wanted_tasks(1), 0);
    assert_eq!(service.endpoint.vips[0].address, vips[0]);
    assert_eq!(tasks(&mesh, &service.id), [""; 0]);

    // all gone, but the networks it was on
    adopt(&mut mesh, &[]);
    assert!(web(&mesh).is_none() && mesh.state.leaving.is_empty());
    assert!(
        !mesh.claimed().iter().any(|claim| claim.contains("web")),
        "{:?}",
        mesh.claimed()
    );
}

#[test]
fn a_container_with_a_status_can_go_at_once() {
    let mut mesh = Mesh::new(1);
    let seen = [container(1, &[])];
    adopt(&mut mesh, &seen);
    let id = web(&mesh).unwrap().id.clone();
    let task = mesh.tasks(&id)[0].id.clone();
    mesh.report(&task, TaskState::Running, false);
    assert!(mesh.state.status(&task).is_some_and(TaskStatus::serves));
    adopt(&mut mesh, &[]);
    assert!(mesh.state.statuses.is_empty() && mesh.state.tasks.is_empty());
}

#[test]
fn what_cannot_be_had_is_told_and_breaks_nothing() {
    let mut mesh = Mesh::new(1);
    let other = mesh.create(&service("other", 1).port("8080:80")).unwrap();
    let seen = [
        container(1, &[(label::PUBLISH, "8080:80,8081:80")]),
        container(2, &[(label::PUBLISH, "9090:80")]),
    ];
    let problems = adopt(&mut mesh, &seen);
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(
        problems
            .iter()
            .any(|p| p.contains("8080") && p.contains("other"))
    );
    assert!(
        problems
            .iter()
            .any(|p| p.contains("proj_app_2 asks for other"))
    );
    // reached by VIP and name all the same
    let web_now = web(&mesh).unwrap();
    assert!(web_now.endpoint.ports.is_empty());
    assert_eq!(tasks(&mesh, &web_now.id).len(), 2);
    // the port becomes free
    mesh.remove(&other);
    let problems = adopt(&mut mesh, &seen[..1]);
    assert_eq!(problems, [""; 0]);
    assert_eq!(web(&mesh).unwrap().endpoint.ports.len(), 2);

    // nobody changes or removes it otherwise
    let asked = admit::remove_service(&mesh.state, &web_now.id, mesh.now);
    assert!(
        asked
            .unwrap_err()
            .to_string()
            .contains("ipvsmesh.service=web")
    );
}

#[test]
fn an_ordinary_service_keeps_its_name() {
    let mut mesh = Mesh::new(1);
    mesh.create(&service("web", 1)).unwrap();
    let problems = adopt(&mut mesh, &[container(1, &[])]);
    assert_eq!(problems.len(), 1);
    assert!(
        problems[0].contains("no service of labelled containers"),
        "{problems:?}"
    );
    // and one that comes later finds the name taken
    let mut mesh = Mesh::new(1);
    adopt(&mut mesh, &[container(1, &[])]);
    assert!(mesh.create(&service("web", 1)).is_err());
    let _ = name("web");
}

#[test]
fn labels_are_read_as_flags_are() {
    let of = |labels: &[(&str, &str)]| {
        let ports = ports(&container(1, labels));
        ports.map(|ports| {
            let line = |p: PublishedPort| {
                format!("{}:{}/{}", p.published.unwrap_or(0), p.target, p.protocol)
            };
            ports.into_iter().map(line).collect::<Vec<_>>().join(" ")
        })
    };
    let publish = label::PUBLISH;
    assert_eq!(of(&[]).unwrap(), "");
    assert_eq!(of(&[(publish, "8080")]).unwrap(), "8080:80/tcp");
    assert_eq!(
        of(&[(publish, "53/udp"), (label::PORT, "5353")]).unwrap(),
        "53:5353/udp"
    );
    assert_eq!(
        of(&[(publish, "8080:80, 8443:443")]).unwrap(),
        "8080:80/tcp 8443:443/tcp"
    );
    for bad in ["x", "0", "8080:", "target=80,published=8080,mode=host"] {
        assert!(of(&[(publish, bad)]).is_err(), "{bad}");
    }
    let two = Candidate {
        exposed: Vec::new(),
        ..container(1, &[(publish, "8080")])
    };
    assert!(
        super::ports(&two)
            .unwrap_err()
            .contains("ipvsmesh.port=PORT")
    );
}
