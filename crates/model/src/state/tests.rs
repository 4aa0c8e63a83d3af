use std::collections::BTreeMap;

use ipnet::IpNet;
use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::{
    DesiredState, Endpoint, EndpointSpec, Listener, Mark, Mode, Name, NetworkSpec, ProcessSpec,
    Protocol, RestartPolicy, RuntimeSpec, ServiceSpec, TaskSpec, TaskState, Transaction,
};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn task_spec() -> TaskSpec {
    TaskSpec {
        runtime: RuntimeSpec::Process(ProcessSpec::default()),
        networks: Vec::new(),
        restart: RestartPolicy::default(),
        force_update: 0,
    }
}

fn service(id: &str, text: &str) -> Object {
    Object::Service(Box::new(Service {
        id: id.parse().unwrap(),
        spec: ServiceSpec {
            name: name(text),
            labels: BTreeMap::new(),
            mode: Mode::Replicated { replicas: 1 },
            task: task_spec(),
            placement: Default::default(),
            endpoint: EndpointSpec::default(),
            update: Default::default(),
            rollback: Default::default(),
            registry_auth: None,
        },
        spec_after: Revision::default(),
        previous: None,
        endpoint: Endpoint::default(),
        created: at(0),
        updated: at(0),
        update_status: None,
        raw: serde_json::Value::Null,
        raw_previous: serde_json::Value::Null,
    }))
}

fn network(id: &str, text: &str) -> Object {
    Object::Network(Network {
        id: id.parse().unwrap(),
        spec: NetworkSpec {
            name: name(text),
            labels: BTreeMap::new(),
            internal: false,
            ipv6: false,
            subnets: Vec::new(),
        },
        pools: Vec::new(),
        created: at(0),
        raw: serde_json::Value::Null,
    })
}

fn task(id: &str, slot: u32, created: i64, desired: DesiredState) -> Object {
    Object::Task(Box::new(Task {
        id: id.parse().unwrap(),
        service: "svc0000000000000000000000".parse().unwrap(),
        service_name: name("Vote"),
        slot,
        node: "node000000000000000000000".parse().unwrap(),
        spec: task_spec(),
        attachments: Vec::new(),
        desired,
        created: at(created),
        not_before: None,
        elsewhere: None,
    }))
}

fn state(objects: impl IntoIterator<Item = Object>) -> State {
    let mut state = State::default();
    for object in objects {
        state.put(Revision(1), object);
    }
    state
}

const A1: &str = "aa10000000000000000000000";
const A2: &str = "aa20000000000000000000000";
const B1: &str = "bb10000000000000000000000";

#[test]
fn services_and_networks_are_found_by_id_name_or_what_an_id_alone_begins_with() {
    // the last one's name is the beginning of an id, and one's is another's whole id
    let all =
        |make: fn(&str, &str) -> Object| state([make(A1, "Vote"), make(A2, B1), make(B1, "aa1")]);
    let (services, networks) = (all(service), all(network));
    for (text, found) in [
        (A1, Some(A1)),
        ("vote", Some(A1)),
        ("VOTE", Some(A1)),
        // ids before names, names before beginnings
        (B1, Some(B1)),
        ("aa1", Some(B1)),
        ("aa2", Some(A2)),
        ("bb", Some(B1)),
        ("aa", None),
        ("vot", None),
        ("", None),
        ("cc", None),
    ] {
        let service = services.find_service(text).map(|s| s.id.as_str());
        let network = networks.find_network(text).map(|n| n.id.as_str());
        assert_eq!((service, network), (found, found), "{text:?}");
    }
}

#[test]
fn a_task_is_found_by_its_name_as_the_one_that_matters() {
    let mut state = state([
        task(A1, 1, 30, DesiredState::Remove),
        task(A2, 1, 10, DesiredState::Running),
        task(B1, 1, 20, DesiredState::Shutdown),
    ]);
    let found = |state: &State, text: &str| state.find_task(text).map(|t| t.id.to_string());
    assert_eq!(
        found(&state, "vote.1").unwrap(),
        A2,
        "the one that shall run"
    );
    assert_eq!(found(&state, B1).unwrap(), B1);
    assert_eq!(found(&state, "bb").unwrap(), B1);
    for nothing in ["aa", "", "vote", "vote.2"] {
        assert_eq!(found(&state, nothing), None);
    }
    state.delete(&Key::Task(A2.parse().unwrap()));
    assert_eq!(found(&state, "Vote.1").unwrap(), B1);
    state.put(Revision(2), task(A2, 1, 21, DesiredState::Shutdown));
    assert_eq!(found(&state, "vote.1").unwrap(), A2, "the newest");
}

#[test]
fn tasks_come_by_slot_then_age() {
    let state = state([
        task(A1, 2, 10, DesiredState::Running),
        task(A2, 1, 30, DesiredState::Running),
        task(B1, 1, 20, DesiredState::Shutdown),
    ]);
    let service = "svc0000000000000000000000".parse().unwrap();
    let ids: Vec<_> = state
        .tasks_of(&service)
        .iter()
        .map(|t| t.id.as_str())
        .collect();
    assert_eq!(ids, [B1, A2, A1]);
    let other = "other00000000000000000000".parse().unwrap();
    assert!(state.tasks_of(&other).is_empty());
}

#[test]
fn a_global_task_is_named_after_its_node() {
    let Object::Task(task) = task(A1, 0, 0, DesiredState::Running) else {
        unreachable!()
    };
    assert_eq!(task.name(), "Vote.node000000000000000000000");
    assert_eq!(task.link(), "taa1000000000");
    assert!(task.link().len() <= 15);
}

#[test]
fn desires_and_states_are_in_the_order_in_which_they_come() {
    assert!(DesiredState::Running < DesiredState::Shutdown);
    assert!(DesiredState::Shutdown < DesiredState::Remove);
    for (state, is_final) in [
        (TaskState::New, false),
        (TaskState::Running, false),
        (TaskState::Complete, true),
        (TaskState::Shutdown, true),
        (TaskState::Orphaned, true),
    ] {
        assert_eq!(state.is_final(), is_final, "{}", state.as_str());
    }
}

fn resource() -> impl Strategy<Value = Resource> {
    let net = (any::<[u8; 4]>(), 0..=32u8)
        .prop_map(|(ip, len)| IpNet::new_assert(std::net::IpAddr::from(ip), len));
    let listener = (
        proptest::option::of(any::<std::net::IpAddr>()),
        any::<bool>(),
        any::<u16>(),
    );
    prop_oneof![
        "[a-c]{1,2}".prop_map(Resource::ServiceName),
        "[a-c]{1,2}".prop_map(Resource::NetworkName),
        net.prop_map(Resource::Block),
        any::<std::net::IpAddr>().prop_map(Resource::Address),
        (1..300u32).prop_map(|n| Resource::Mark(Mark::new(n).unwrap())),
        listener.prop_map(|(host_ip, tcp, port)| Resource::Listener(Listener {
            host_ip,
            protocol: if tcp { Protocol::Tcp } else { Protocol::Udp },
            port,
        })),
    ]
}

const TASKS: [&str; 3] = [A1, A2, B1];
const SERVICES: [&str; 2] = ["svc0000000000000000000000", "svc1000000000000000000000"];

/// A change of one of few things; which service a task is of never changes.
fn change() -> impl Strategy<Value = Change> {
    let put = |object| Change::Put(object);
    let service_of = |n: usize| SERVICES[n % 2].parse().unwrap();
    let task = move |n: usize, created| {
        let Object::Task(mut task) = task(TASKS[n], 1, created, DesiredState::Running) else {
            unreachable!()
        };
        task.service = service_of(n);
        put(Object::Task(task))
    };
    let status = move |n: usize, since| {
        let status = TaskStatus::new(TASKS[n].parse().unwrap(), at(since));
        put(Object::Status(status))
    };
    let left = move |n: usize| {
        let Object::Service(gone) = service(SERVICES[n], "web") else {
            unreachable!()
        };
        put(Object::Leaving(gone))
    };
    prop_oneof![
        4 => (0..3_usize, 0..2_i64).prop_map(move |(n, created)| task(n, created)),
        4 => (0..3_usize, 0..2_i64).prop_map(move |(n, since)| status(n, since)),
        1 => (0..2_usize).prop_map(move |n| put(service(SERVICES[n], "web"))),
        1 => (0..2_usize).prop_map(left),
        2 => (0..3_usize).prop_map(|n| Change::Delete(Key::Task(TASKS[n].parse().unwrap()))),
        2 => (0..3_usize).prop_map(|n| Change::Delete(Key::Status(TASKS[n].parse().unwrap()))),
        1 => (0..2_usize).prop_map(|n| Change::Delete(Key::Service(SERVICES[n].parse().unwrap()))),
        1 => (0..2_usize).prop_map(|n| Change::Delete(Key::Leaving(SERVICES[n].parse().unwrap()))),
    ]
}

/// All that there is of a service, found the long way.
fn all_of<'a>(state: &'a State, id: &ServiceId) -> impl PartialEq + use<'a> {
    let tasks = state.tasks.values().filter(|task| task.service == *id);
    let tasks: Vec<_> = tasks
        .map(|task| (task, state.statuses.get(&task.id)))
        .collect();
    (state.services.get(id), state.leaving.get(id), tasks)
}

proptest! {
    /// What is found by the tasks' index is what is found without one.
    #[test]
    fn tasks_and_changes_of_services_are_found_by_what_changed(
        changes in proptest::collection::vec(change(), 0..40), seen in 0..40_usize,
    ) {
        let mut state = State::default();
        let mut before = State::default();
        for (n, change) in changes.into_iter().enumerate() {
            if n == seen {
                before = state.clone();
            }
            state.apply(Revision(n as u64 + 1), [change]);
        }
        for id in SERVICES.map(|id| id.parse::<ServiceId>().unwrap()) {
            let found: BTreeSet<_> = state.tasks_of(&id).iter().map(|task| &task.id).collect();
            let all = state.tasks.values().filter(|task| task.service == id);
            prop_assert_eq!(found, all.map(|task| &task.id).collect());
            let changed = state.services_changed_since(&before).contains(&id);
            prop_assert_eq!(changed, all_of(&state, &id) != all_of(&before, &id));
            for task in before.tasks_of(&id).into_iter().chain(state.tasks_of(&id)) {
                let listed = state.tasks_changed_since(&before).contains(&task.id);
                prop_assert_eq!(listed, changed);
            }
        }
    }

    /// The store's keys are texts: two things must never have the same.
    #[test]
    fn texts_of_keys_tell_them_apart(one in resource(), two in resource()) {
        let same = Key::Claim(one.clone()).to_string() == Key::Claim(two.clone()).to_string();
        prop_assert_eq!(same, one == two);
    }

    /// Objects are stored as JSON and come back as they were.
    #[test]
    fn claims_survive_json(resource in resource(), released: bool) {
        let claim = Object::Claim(Claim {
            resource,
            owner: "x".to_owned(),
            released: released.then(|| at(1)),
        });
        let json = serde_json::to_string(&claim).unwrap();
        prop_assert_eq!(serde_json::from_str::<Object>(&json).unwrap(), claim);
    }

    /// A state is what was put last and not deleted since, at its revision.
    #[test]
    fn applying_is_putting_and_deleting(writes in proptest::collection::vec((resource(), any::<bool>()), 0..20)) {
        let mut state = State::default();
        let mut expected = BTreeMap::new();
        for ((resource, put), revision) in writes.into_iter().zip(1..) {
            let mut tx = Transaction::default();
            let claim = Claim { resource: resource.clone(), owner: revision.to_string(), released: None };
            let before = state.claims.get(&resource).map(|claim| claim.version);
            prop_assert_eq!(before, expected.get(&resource).copied());
            match (put, before) {
                (true, None) => tx.create(Object::Claim(claim)),
                (true, Some(version)) => tx.replace(version, Object::Claim(claim)),
                (false, Some(version)) => tx.delete(version, Key::Claim(resource.clone())),
                (false, None) => {}
            }
            if put {
                expected.insert(resource, Revision(revision));
            } else {
                expected.remove(&resource);
            }
            prop_assert!(tx.expect.iter().all(|expect| expect.version == before));
            state.apply(Revision(revision), tx.changes);
            prop_assert_eq!(state.revision, Revision(revision));
        }
        let is: BTreeMap<_, _> = state.claims.iter().map(|(r, c)| (r.clone(), c.version)).collect();
        prop_assert_eq!(is, expected);
    }
}
