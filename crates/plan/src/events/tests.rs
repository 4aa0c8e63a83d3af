use std::collections::BTreeMap;

use model::{DesiredState, Event, ServiceId, TaskId};
use proptest::prelude::*;

use super::*;
use crate::testing::{Mesh, service};

/// `task running vote.1: reason`
fn words(events: &[Event]) -> Vec<String> {
    let word = |event: &Event| {
        let name = event.attributes.get("name").map_or("", String::as_str);
        let mut text = format!("{} {} {name}", event.kind.as_str(), event.action);
        if let Some(reason) = event.attributes.get("reason") {
            text.push_str(&format!(": {reason}"));
        }
        text
    };
    events.iter().map(word).collect()
}

/// What happens while something is done to a mesh.
fn during(mesh: &mut Mesh, act: impl FnOnce(&mut Mesh)) -> Vec<String> {
    let before = mesh.state.clone();
    act(mesh);
    words(&between(&before, &mesh.state))
}

fn first(mesh: &Mesh, service: &ServiceId) -> TaskId {
    mesh.tasks(service)[0].id.clone()
}

#[test]
fn the_life_of_a_service_is_told() {
    let mut mesh = Mesh::new(1);
    let mut spec = service("vote", 1);
    let mut id = None;
    let told = during(&mut mesh, |mesh| id = Some(mesh.create(&spec).unwrap()));
    // a service on no network is put on the default one
    assert!(told.contains(&"service create vote".to_owned()), "{told:?}");
    let id = id.unwrap();
    let told = during(&mut mesh, |mesh| {
        mesh.orchestrate();
    });
    assert_eq!(told, ["task create vote.1"]);
    let task = first(&mesh, &id);
    let told = during(&mut mesh, |mesh| {
        mesh.report(&task, TaskState::Starting, true)
    });
    assert_eq!(told, ["task starting vote.1"]);
    let told = during(&mut mesh, |mesh| {
        mesh.report(&task, TaskState::Running, true)
    });
    assert_eq!(
        told,
        ["task running vote.1", "destination add vote.1: running"]
    );

    spec.mode = Mode::Replicated { replicas: 0 };
    let old = mesh.state.clone();
    mesh.update(&id, &spec).unwrap();
    let events = between(&old, &mesh.state);
    assert_eq!(words(&events), ["service update vote"]);
    let attributes = &events[0].attributes;
    assert_eq!(
        (&*attributes["replicas.old"], &*attributes["replicas.new"]),
        ("1", "0")
    );
    assert_eq!(attributes["changed"], "mode");
    let told = during(&mut mesh, |mesh| {
        mesh.orchestrate();
    });
    assert_eq!(told, ["destination drain vote.1: scaled down"]);
    let told = during(&mut mesh, |mesh| {
        mesh.report(&task, TaskState::Shutdown, true)
    });
    assert_eq!(
        told,
        ["task shutdown vote.1", "destination remove vote.1: stopped"]
    );
    let told = during(&mut mesh, |mesh| mesh.settle());
    assert_eq!(told, ["task remove vote.1"]);
    let told = during(&mut mesh, |mesh| mesh.remove(&id));
    assert_eq!(told, ["service remove vote"]);
}

#[test]
fn what_stands_in_a_tasks_way_is_told_once() {
    let mut mesh = Mesh::new(1);
    let id = mesh.create(&service("vote", 1)).unwrap();
    mesh.orchestrate();
    let task = first(&mesh, &id);
    let told = during(&mut mesh, |mesh| {
        mesh.report(&task, TaskState::Preparing, true)
    });
    assert_eq!(told, ["task preparing vote.1"]);
    let fail = |why: &str, mesh: &mut Mesh| why.clone_into(&mut mesh.status_mut(&task).error);
    let told = during(&mut mesh, |mesh| fail("no Docker", mesh));
    assert_eq!(told, ["task preparing vote.1: no Docker"]);
    let told = during(&mut mesh, |mesh| mesh.status_mut(&task).attached = true);
    assert!(told.is_empty(), "{told:?}");
    let told = during(&mut mesh, |mesh| fail("", mesh));
    assert!(told.is_empty(), "{told:?}");
}

#[test]
fn why_a_task_gets_no_connections_any_more_is_said() {
    let mut mesh = Mesh::new(1);
    let id = mesh.create(&service("vote", 1)).unwrap();
    mesh.settle();
    let task = first(&mesh, &id);
    let serving = mesh.state.clone();

    let told = during(&mut mesh, |mesh| mesh.status_mut(&task).draining = true);
    assert_eq!(told, ["destination drain vote.1: unhealthy"]);
    let told = during(&mut mesh, |mesh| {
        let status = mesh.status_mut(&task);
        (status.state, status.error) = (TaskState::Failed, "task: unhealthy container".to_owned());
    });
    assert_eq!(
        told,
        [
            "task failed vote.1: task: unhealthy container",
            "destination remove vote.1: task: unhealthy container"
        ]
    );

    mesh.state = serving.clone();
    let told = during(&mut mesh, |mesh| mesh.status_mut(&task).ended = true);
    assert_eq!(told, ["destination remove vote.1: its process has ended"]);
    let told = during(&mut mesh, |mesh| {
        let status = mesh.status_mut(&task);
        (status.state, status.exit_code) = (TaskState::Failed, Some(7));
    });
    assert_eq!(told, ["task failed vote.1"], "it was no destination before");

    mesh.state = serving.clone();
    let told = during(&mut mesh, |mesh| {
        mesh.remove(&id);
        mesh.orchestrate();
    });
    assert!(
        told.contains(&"destination drain vote.1: its service was removed".to_owned()),
        "{told:?}"
    );

    mesh.state = serving;
    let mut spec = service("vote", 1);
    spec.task.force_update = 1;
    let told = during(&mut mesh, |mesh| {
        mesh.update(&id, &spec).unwrap();
        mesh.orchestrate();
    });
    let drained = "destination drain vote.1: replaced by an update".to_owned();
    assert!(told.contains(&drained), "{told:?}");
}

#[test]
fn updates_tell_how_far_they_are() {
    let mut mesh = Mesh::new(1);
    let id = mesh.create(&service("vote", 1)).unwrap();
    mesh.settle();
    let mut spec = service("vote", 1);
    spec.task.force_update = 1;
    let old = mesh.state.clone();
    mesh.update(&id, &spec).unwrap();
    mesh.settle();
    mesh.wait(60);
    mesh.settle();
    // of each revision, not of the two ends alone
    let end = between(&old, &mesh.state);
    let update = end
        .iter()
        .find(|event| event.kind == EventKind::Service)
        .unwrap();
    assert_eq!(update.attributes["updatestate.new"], "completed");
    assert_eq!(update.attributes["reason"], "update completed");
    assert_eq!(update.attributes["changed"], "task");
}

#[test]
fn what_matters_to_nobody_is_not_told() {
    let mut mesh = Mesh::new(1);
    let id = mesh.create(&service("vote", 1)).unwrap();
    mesh.settle();
    let task = first(&mesh, &id);
    let told = during(&mut mesh, |mesh| {
        mesh.status_mut(&task).message = "another".to_owned();
        mesh.sweep();
    });
    assert_eq!(told, Vec::<String>::new());
    assert_eq!(
        words(&between(&mesh.state, &mesh.state)),
        Vec::<String>::new()
    );
}

/// Who takes new connections, as the events tell it.
fn told(destinations: &mut BTreeMap<String, &'static str>, events: &[Event]) {
    for event in events
        .iter()
        .filter(|event| event.kind == EventKind::Destination)
    {
        match event.action {
            "remove" => destinations.remove(&event.actor),
            action => destinations.insert(event.actor.clone(), action),
        };
    }
}

proptest! {
    /// Whatever happens, and however many revisions are looked at in one go: who adds up
    /// the events knows who takes connections.
    #[test]
    fn events_add_up_to_the_state(steps in prop::collection::vec((0u8..6, 0u8..4, any::<bool>()), 1..40)) {
        let mut mesh = Mesh::new(1);
        let id = mesh.create(&service("vote", 2)).unwrap();
        let mut destinations = BTreeMap::new();
        let mut seen = model::State::default();
        for (what, number, look) in steps {
            let tasks = mesh.tasks(&id);
            let task = tasks.get(usize::from(number)).map(|task| task.id.clone());
            let status = task.filter(|task| mesh.state.statuses.contains_key(task));
            match (what, status) {
                (0, _) => mesh.settle(),
                (1, Some(task)) => mesh.status_mut(&task).draining = true,
                (2, Some(task)) => mesh.status_mut(&task).ended = true,
                (3, Some(task)) => mesh.status_mut(&task).state = TaskState::Failed,
                (4, Some(task)) => mesh.task_mut(&task).desired = DesiredState::Shutdown,
                _ => {
                    mesh.orchestrate();
                }
            }
            if look {
                told(&mut destinations, &between(&seen, &mesh.state));
                seen = mesh.state.clone();
            }
        }
        told(&mut destinations, &between(&seen, &mesh.state));
        let shares = mesh.state.tasks.keys().filter_map(|id| {
            let word = match Look::of(&mesh.state, id).share() {
                Share::None => return None,
                Share::Open => "drain",
                Share::New => "add",
            };
            Some((id.to_string(), word))
        });
        prop_assert_eq!(destinations, shares.collect::<BTreeMap<_, _>>());
    }
}
