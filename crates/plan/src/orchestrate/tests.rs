use std::{collections::BTreeSet, num::NonZeroU32, time::Duration};

use jiff::SignedDuration;
use model::{
    Mode, Resource, RestartCondition, RestartPolicy, ServiceSpec, TaskId, TaskState, UpdateOrder,
    UpdateState,
};
use proptest::prelude::*;

use super::*;
use crate::testing::{Mesh, With as _, net, node_id, service};

/// Slots of the tasks that shall run.
fn slots(mesh: &Mesh, id: &ServiceId) -> Vec<u32> {
    let tasks = mesh.tasks(id).into_iter();
    tasks
        .filter(|task| task.desired == DesiredState::Running)
        .map(|task| task.slot)
        .collect()
}

/// The task that shall run in a slot.
fn current(mesh: &Mesh, id: &ServiceId, slot: u32) -> Task {
    let mut tasks = mesh
        .tasks(id)
        .into_iter()
        .filter(|task| task.slot == slot && task.desired == DesiredState::Running);
    let task = tasks.next().unwrap();
    assert!(tasks.next().is_none(), "two tasks in slot {slot}");
    task
}

fn scaled(spec: &ServiceSpec, replicas: u32) -> ServiceSpec {
    ServiceSpec {
        mode: Mode::Replicated { replicas },
        ..spec.clone()
    }
}

fn with_restart(name: &str, policy: RestartPolicy) -> ServiceSpec {
    let mut spec = service(name, 1);
    spec.task.restart = policy;
    spec
}

/// The task ends and leaves its node.
fn end(mesh: &mut Mesh, task: &TaskId, state: TaskState) {
    mesh.report(task, state, true);
    mesh.report(task, state, false);
}

#[test]
fn each_replica_has_a_slot_a_node_and_an_address_on_each_network() {
    let mut mesh = Mesh::new(1);
    let (a, b) = (
        mesh.network("a"),
        mesh.try_network("b", &["10.103.0.0/28"]).unwrap(),
    );
    let id = mesh.create(&service("vote", 3).on(&[&b, &a])).unwrap();
    mesh.orchestrate();
    let tasks = mesh.tasks(&id);
    let names: Vec<_> = tasks.iter().map(Task::name).collect();
    assert_eq!(names, ["vote.1", "vote.2", "vote.3"]);
    let lease = |network: &NetworkId| mesh.state.lease(network, &node_id(1)).unwrap();
    // a block where the subnet has several, else all of it
    assert_eq!(lease(&a).block, net("10.100.0.0/24"));
    assert_eq!(lease(&b).block, net("10.103.0.0/28"));
    let mut seen = BTreeSet::new();
    for task in &tasks {
        assert_eq!(task.node, node_id(1));
        assert_eq!(task.spec, mesh.get(&id).spec.task);
        for (attachment, network) in task.attachments.iter().zip([&b, &a]) {
            assert_eq!(attachment.network, *network);
            let [address] = attachment.addresses[..] else {
                panic!("{attachment:?}")
            };
            assert!(lease(network).block.contains(&address));
            assert!(address != lease(network).gateway() && seen.insert(address));
            assert_eq!(
                mesh.holder(&Resource::Address(address)),
                Some(task.id.as_str())
            );
        }
    }
    assert!(mesh.plan().is_empty());
}

#[test]
fn scaling_up_fills_gaps_and_scaling_down_takes_what_does_not_run_then_the_highest() {
    let mut mesh = Mesh::new(1);
    let id = mesh.create(&service("vote", 0)).unwrap();
    let spec = mesh.get(&id).spec.clone();
    mesh.settle();
    assert_eq!(slots(&mesh, &id), [0; 0]);
    mesh.update(&id, &scaled(&spec, 5)).unwrap();
    mesh.settle();
    assert_eq!(slots(&mesh, &id), [1, 2, 3, 4, 5]);
    let kept = current(&mesh, &id, 4).id;

    // 2 waits for its restart: it goes first, then 5
    let two = current(&mesh, &id, 2).id;
    end(&mut mesh, &two, TaskState::Failed);
    mesh.orchestrate();
    mesh.update(&id, &scaled(&spec, 3)).unwrap();
    mesh.orchestrate();
    assert_eq!(slots(&mesh, &id), [1, 3, 4]);
    let going = mesh
        .tasks(&id)
        .into_iter()
        .filter(|t| t.desired == DesiredState::Remove);
    let going: BTreeSet<_> = going.map(|task| task.slot).collect();
    assert_eq!(going, BTreeSet::from([2, 5]));
    mesh.settle();
    assert_eq!(
        mesh.tasks(&id).len(),
        3,
        "those that were taken away are forgotten"
    );

    mesh.update(&id, &scaled(&spec, 4)).unwrap();
    mesh.settle();
    assert_eq!(slots(&mesh, &id), [1, 2, 3, 4]);
    assert_eq!(current(&mesh, &id, 4).id, kept, "what stays is not touched");
    mesh.update(&id, &scaled(&spec, 0)).unwrap();
    mesh.settle();
    assert!(mesh.tasks(&id).is_empty());
    assert!(mesh.state.services.contains_key(&id));
}

#[test]
fn a_slot_may_be_filled_while_its_former_task_is_taken_away() {
    let mut mesh = Mesh::new(1);
    let id = mesh.create(&service("vote", 2)).unwrap();
    let spec = mesh.get(&id).spec.clone();
    mesh.settle();
    mesh.update(&id, &scaled(&spec, 1)).unwrap();
    mesh.orchestrate();
    mesh.update(&id, &scaled(&spec, 2)).unwrap();
    mesh.orchestrate();
    assert_eq!(slots(&mesh, &id), [1, 2]);
    mesh.settle();
    assert_eq!(mesh.tasks(&id).len(), 2);
}

#[test]
fn what_ended_is_replaced_after_the_delay() {
    let mut mesh = Mesh::new(1);
    let id = mesh.create(&service("vote", 2)).unwrap();
    mesh.settle();
    let old = current(&mesh, &id, 1);
    mesh.wait(100);
    end(&mut mesh, &old.id, TaskState::Failed);
    mesh.wait(2);
    let wake = mesh.orchestrate();
    let new = current(&mesh, &id, 1);
    assert_ne!(new.id, old.id);
    let at = mesh.now + SignedDuration::from_secs(3);
    assert_eq!((new.not_before, wake), (Some(at), None));
    let Plan { tx, wake, .. } =
        Orchestrator::default().look(&mesh.state, mesh.now, &mut || [0; 16]);
    assert!(tx.is_empty(), "{tx:?}");
    assert_eq!(wake, Some(at));
    assert_eq!(mesh.state.tasks[&old.id].desired, DesiredState::Shutdown);
    assert_ne!(new.attachments[0].addresses, old.attachments[0].addresses);
}

#[test]
fn a_look_is_at_what_changed() {
    let mut mesh = Mesh::new(1);
    let back = mesh.network("back");
    let make = |mesh: &mut Mesh, name: &str| {
        let id = mesh.create(&service(name, 1).on(&[&back])).unwrap();
        mesh.settle();
        id
    };
    let all: BTreeSet<_> = ["a", "b", "c"].map(|name| make(&mut mesh, name)).into();
    let mut orchestrator = Orchestrator::default();
    let mut looked = |mesh: &Mesh| {
        let services = orchestrator.services(&mesh.state, mesh.now);
        orchestrator.look(&mesh.state, mesh.now, &mut || [0; 16]);
        services
    };
    assert_eq!(looked(&mesh), all);
    assert_eq!(looked(&mesh), BTreeSet::new());
    // which writes the network anew
    let one = make(&mut mesh, "d");
    assert_eq!(looked(&mesh), [one.clone()].into());
    let task = current(&mesh, &one, 1);
    end(&mut mesh, &task.id, TaskState::Failed);
    assert_eq!(looked(&mesh), [one.clone()].into());
    // what it would do then is not written
    assert_eq!(looked(&mesh), [one.clone()].into());
    mesh.network("other");
    assert_eq!(looked(&mesh).len(), 4);
}

#[test]
fn the_restart_condition_says_what_is_replaced() {
    use RestartCondition::{Any, None, OnFailure};
    use TaskState::{Complete, Failed, Rejected};
    for (condition, state, again) in [
        (Any, Complete, true),
        (Any, Failed, true),
        (Any, Rejected, true),
        (OnFailure, Complete, false),
        (OnFailure, Failed, true),
        (OnFailure, Rejected, true),
        (None, Complete, false),
        (None, Failed, false),
        (None, Rejected, false),
    ] {
        let mut mesh = Mesh::new(1);
        let policy = RestartPolicy {
            condition,
            ..RestartPolicy::default()
        };
        let id = mesh.create(&with_restart("vote", policy)).unwrap();
        mesh.settle();
        let task = current(&mesh, &id, 1).id;
        end(&mut mesh, &task, state);
        mesh.orchestrate();
        mesh.wait(100);
        mesh.orchestrate();
        let replaced = current(&mesh, &id, 1).id != task;
        assert_eq!(replaced, again, "{condition:?} {state:?}");
    }
}

/// How many tasks a slot has until no more are made, if each fails at once.
fn runs(mesh: &mut Mesh, id: &ServiceId) -> usize {
    let mut made = BTreeSet::new();
    for _ in 0..200 {
        mesh.orchestrate();
        let task = current(mesh, id, 1);
        if !made.insert(task.id.clone()) {
            return made.len();
        }
        mesh.wait(10);
        mesh.report(&task.id, TaskState::Running, true);
        end(mesh, &task.id, TaskState::Failed);
    }
    made.len()
}

#[test]
fn the_most_attempts_are_kept_to_even_beyond_the_history() {
    for attempts in [1, 2, 4, 5, 20] {
        let mut mesh = Mesh::new(1);
        let policy = RestartPolicy {
            max_attempts: attempts,
            ..RestartPolicy::default()
        };
        let id = mesh.create(&with_restart("vote", policy)).unwrap();
        assert_eq!(runs(&mut mesh, &id) as u64, 1 + attempts);
        // a changed spec has all of its attempts, and so has one that comes back
        let first = mesh.get(&id).spec.clone();
        let mut second = first.clone();
        second.task.force_update += 1;
        for spec in [&second, &first] {
            mesh.update(&id, spec).unwrap();
            assert_eq!(runs(&mut mesh, &id) as u64, 1 + attempts);
        }
    }
    let mut mesh = Mesh::new(1);
    let id = mesh.create(&service("vote", 1)).unwrap();
    assert_eq!(runs(&mut mesh, &id), 200, "without a limit there is none");
    let policy = RestartPolicy {
        max_attempts: 101,
        ..RestartPolicy::default()
    };
    let refusal = mesh.create(&with_restart("x", policy)).unwrap_err();
    assert!(refusal.to_string().contains("100 at most"));
}

#[test]
fn attempts_before_the_window_are_forgiven() {
    let mut mesh = Mesh::new(1);
    let policy = RestartPolicy {
        max_attempts: 2,
        window: Duration::from_secs(60),
        ..RestartPolicy::default()
    };
    let id = mesh.create(&with_restart("vote", policy)).unwrap();
    // each at the edge of the window of the one after the next
    for _ in 0..10 {
        mesh.orchestrate();
        let task = current(&mesh, &id, 1).id;
        mesh.report(&task, TaskState::Running, true);
        mesh.wait(30);
        end(&mut mesh, &task, TaskState::Failed);
    }
    mesh.orchestrate();
    assert_eq!(runs(&mut mesh, &id), 2);
    // that it was one too many is decided once
    let last = current(&mesh, &id, 1).id;
    mesh.wait(600);
    mesh.orchestrate();
    assert_eq!(current(&mesh, &id, 1).id, last);
}

#[test]
fn a_few_ended_tasks_are_remembered_without_their_addresses() {
    let mut mesh = Mesh::new(1);
    let id = mesh.create(&service("vote", 1)).unwrap();
    let mut all = Vec::new();
    for _ in 0..8 {
        mesh.settle();
        mesh.wait(10);
        mesh.settle();
        let task = current(&mesh, &id, 1).id;
        end(&mut mesh, &task, TaskState::Failed);
        all.push(task);
    }
    mesh.settle();
    let mut kept: Vec<_> = mesh.tasks(&id);
    kept.sort_by_key(|task| task.created);
    let kept: Vec<_> = kept.into_iter().map(|task| task.id).collect();
    assert_eq!(kept[..4], all[4..], "the last four");
    assert_eq!(kept.len(), 5);
    assert_eq!(mesh.state.statuses.len(), 4);
    let held = mesh
        .claimed()
        .into_iter()
        .filter(|c| c.starts_with("address/10.100."));
    assert_eq!(
        held.count(),
        1,
        "only the one that is to run has an address"
    );
}

#[test]
fn a_crowded_network_does_not_run_dry_by_restarts() {
    let mut mesh = Mesh::new(1);
    let tiny = mesh.try_network("tiny", &["10.101.0.0/29"]).unwrap();
    let id = mesh.create(&service("vote", 5).on(&[&tiny])).unwrap();
    for _ in 0..6 {
        mesh.settle();
        mesh.wait(6);
        mesh.settle();
        assert_eq!(slots(&mesh, &id), [1, 2, 3, 4, 5]);
        for slot in 1..=5 {
            let task = current(&mesh, &id, slot).id;
            end(&mut mesh, &task, TaskState::Failed);
        }
    }
}

#[test]
fn an_update_replaces_one_task_at_a_time_each_once_the_last_runs() {
    let mut mesh = Mesh::new(1);
    let id = mesh.create(&service("vote", 3)).unwrap();
    mesh.settle();
    let mut spec = mesh.get(&id).spec.clone();
    spec.task.force_update += 1;
    mesh.update(&id, &spec).unwrap();
    for round in 1..=3 {
        mesh.orchestrate();
        let leaving: Vec<_> = mesh
            .tasks(&id)
            .into_iter()
            .filter(|task| {
                task.desired == DesiredState::Shutdown
                    && !mesh.state.status(&task.id).unwrap().state.is_final()
            })
            .collect();
        assert_eq!(leaving.len(), 1, "round {round}");
        assert!(mesh.plan().is_empty(), "its successor waits for its end");
        let slot = leaving[0].slot;
        assert!(!slots(&mesh, &id).contains(&slot));
        mesh.report(&leaving[0].id, TaskState::Shutdown, true);
        mesh.orchestrate();
        let new = current(&mesh, &id, slot);
        assert_eq!(new.spec, spec.task);
        assert!(mesh.plan().is_empty(), "the next waits for it to run");
        mesh.report(&new.id, TaskState::Running, true);
    }
    assert!(slots(&mesh, &id) == [1, 2, 3] && mesh.plan().is_empty());
    assert!((1..=3).all(|slot| current(&mesh, &id, slot).spec == spec.task));
}

#[test]
fn an_update_that_fails_stops_and_one_that_mends_it_goes_on() {
    let mut mesh = Mesh::new(1);
    let id = mesh.create(&service("vote", 3)).unwrap();
    mesh.settle();
    let old = mesh.get(&id).spec.clone();
    let mut bad = old.clone();
    bad.task.force_update = 1;
    mesh.update(&id, &bad).unwrap();
    for _ in 0..4 {
        mesh.orchestrate();
        mesh.wait(6);
        for task in mesh.tasks(&id) {
            let status = mesh.state.status(&task.id).map(|s| s.state);
            match (task.desired, status) {
                (DesiredState::Shutdown, Some(TaskState::Running)) => {
                    mesh.report(&task.id, TaskState::Shutdown, false);
                }
                (DesiredState::Running, None) => {
                    mesh.report(&task.id, TaskState::Rejected, false);
                }
                _ => {}
            }
        }
    }
    let good = mesh
        .tasks(&id)
        .into_iter()
        .filter(|t| t.spec == old.task && t.desired == DesiredState::Running);
    assert_eq!(good.count(), 2, "the others go on");
    let mut mended = old.clone();
    mended.task.force_update = 2;
    mesh.update(&id, &mended).unwrap();
    mesh.settle();
    assert!((1..=3).all(|slot| current(&mesh, &id, slot).spec == mended.task));
}

#[test]
fn a_task_that_did_its_work_does_not_hold_up_an_update() {
    let mut mesh = Mesh::new(1);
    let policy = RestartPolicy {
        condition: RestartCondition::OnFailure,
        ..RestartPolicy::default()
    };
    let mut spec = with_restart("vote", policy);
    spec.mode = Mode::Replicated { replicas: 2 };
    let id = mesh.create(&spec).unwrap();
    mesh.settle();
    let mut spec = mesh.get(&id).spec.clone();
    spec.task.force_update = 1;
    mesh.update(&id, &spec).unwrap();
    // whichever is replaced first completes its work with the new spec
    for _ in 0..20 {
        mesh.orchestrate();
        for task in mesh.tasks(&id) {
            let state = mesh.state.status(&task.id).map(|s| s.state);
            if task.desired == DesiredState::Shutdown && state == Some(TaskState::Running) {
                mesh.report(&task.id, TaskState::Shutdown, false);
            }
            if task.desired == DesiredState::Running && state.is_none() {
                mesh.report(&task.id, TaskState::Complete, false);
            }
        }
    }
    assert!((1..=2).all(|slot| current(&mesh, &id, slot).spec == spec.task));
}

#[test]
fn tasks_leave_a_node_that_is_drained_and_none_come_to_one_that_is_not_active() {
    let mut mesh = Mesh::new(2);
    let id = mesh.create(&service("web", 4)).unwrap();
    mesh.settle();
    let on = |mesh: &Mesh, node: u8| {
        let tasks = mesh.tasks(&id).into_iter();
        let on = tasks.filter(|task| task.node == node_id(node));
        on.filter(|task| task.desired == DesiredState::Running)
            .count()
    };
    let set = |mesh: &mut Mesh, node: u8, availability| {
        let version = mesh.state.nodes[&node_id(node)].version;
        let tx = crate::admit::update_node(
            &mesh.state,
            &node_id(node),
            version,
            BTreeMap::new(),
            availability,
        );
        mesh.commit(&tx.unwrap());
        mesh.settle();
    };
    assert_eq!((on(&mesh, 1), on(&mesh, 2)), (2, 2));
    set(&mut mesh, 1, Availability::Drain);
    assert_eq!((on(&mesh, 1), on(&mesh, 2)), (0, 4));
    // with no node left, none; they are back with the first one
    set(&mut mesh, 2, Availability::Drain);
    assert_eq!((on(&mesh, 1), on(&mesh, 2)), (0, 0));
    set(&mut mesh, 1, Availability::Pause);
    assert_eq!((on(&mesh, 1), on(&mesh, 2)), (0, 0));
    set(&mut mesh, 1, Availability::Active);
    assert_eq!((on(&mesh, 1), on(&mesh, 2)), (4, 0));
    // a pause moves nothing
    set(&mut mesh, 2, Availability::Active);
    set(&mut mesh, 1, Availability::Pause);
    assert_eq!((on(&mesh, 1), on(&mesh, 2)), (4, 0));
    // constraints choose, and move tasks as the nodes' labels change
    let mut spec = service("fast", 2);
    spec.placement.constraints = vec!["node.labels.disk==ssd".parse().unwrap()];
    let fast = mesh.create(&spec).unwrap();
    mesh.settle();
    let running = |mesh: &Mesh| {
        let tasks = mesh.tasks(&fast).into_iter();
        tasks
            .filter(|task| task.desired == DesiredState::Running)
            .map(|task| task.node)
            .collect::<Vec<_>>()
    };
    assert_eq!(running(&mesh), []);
    let label = |mesh: &mut Mesh, disk: &str| {
        let node = &mesh.state.nodes[&node_id(2)];
        let labels = [("disk".to_owned(), disk.to_owned())].into();
        let tx = crate::admit::update_node(
            &mesh.state,
            &node_id(2),
            node.version,
            labels,
            Availability::Active,
        );
        mesh.commit(&tx.unwrap());
        mesh.settle();
    };
    label(&mut mesh, "ssd");
    assert_eq!(running(&mesh), [node_id(2), node_id(2)]);
    label(&mut mesh, "rust");
    assert_eq!(running(&mesh), []);
    // nor does a global service come to it
    let mut spec = service("every", 1);
    spec.mode = Mode::Global;
    let every = mesh.create(&spec).unwrap();
    mesh.settle();
    assert_eq!(mesh.tasks(&every).len(), 1);
}

#[test]
fn a_node_has_no_more_tasks_of_a_service_than_it_may() {
    let mut mesh = Mesh::new(2);
    let mut spec = service("web", 5);
    spec.placement.max_per_node = NonZeroU32::new(2);
    let id = mesh.create(&spec).unwrap();
    mesh.settle();
    assert_eq!(slots(&mesh, &id), [1, 2, 3, 4]);
    assert_eq!(on_nodes(&mesh, &id), [2, 2]);
    let why = crate::placement::nowhere(&mesh.state, mesh.get(&id)).unwrap();
    assert!(why.contains("--replicas-max-per-node"), "{why}");
    // an update goes through, also one that begins with the new one
    for order in [UpdateOrder::StopFirst, UpdateOrder::StartFirst] {
        let mut spec = mesh.get(&id).spec.clone();
        spec.task.force_update += 1;
        spec.update.order = order;
        mesh.update(&id, &spec).unwrap();
        for _ in 0..20 {
            mesh.settle();
            mesh.wait(10);
        }
        assert_eq!(on_nodes(&mesh, &id), [2, 2]);
        let status = mesh.get(&id).update_status.clone().unwrap();
        assert_eq!(status.state, UpdateState::Completed);
        let tasks = mesh.tasks(&id).into_iter();
        let mut live = tasks.filter(|task| task.desired == DesiredState::Running);
        assert!(live.all(|task| task.spec == spec.task));
    }
    // fewer are let go, and more come
    let mut spec = mesh.get(&id).spec.clone();
    spec.placement.max_per_node = NonZeroU32::new(1);
    mesh.update(&id, &spec).unwrap();
    mesh.settle();
    assert_eq!(on_nodes(&mesh, &id), [1, 1]);
    spec.placement.max_per_node = None;
    mesh.update(&id, &spec).unwrap();
    mesh.settle();
    assert_eq!(slots(&mesh, &id), [1, 2, 3, 4, 5]);
}

#[test]
fn tasks_are_spread_over_what_nodes_have_in_common() {
    let mut mesh = Mesh::new(3);
    for (node, rack) in [(1, "a"), (2, "a"), (3, "b")] {
        let id = node_id(node);
        let version = mesh.state.nodes[&id].version;
        let labels = [("rack".to_owned(), rack.to_owned())].into();
        let active = Availability::Active;
        let tx = crate::admit::update_node(&mesh.state, &id, version, labels, active);
        mesh.commit(&tx.unwrap());
    }
    let mut spec = service("web", 4);
    spec.placement.spread = vec!["node.labels.rack".parse().unwrap()];
    let id = mesh.create(&spec).unwrap();
    mesh.settle();
    assert_eq!(on_nodes(&mesh, &id), [1, 1, 2]);
    // what leaves is made good where it was
    let spec = scaled(&mesh.get(&id).spec, 6);
    mesh.update(&id, &spec).unwrap();
    mesh.settle();
    let on = on_nodes(&mesh, &id);
    assert_eq!((on[0] + on[1], on[2]), (3, 3));
}

/// How many tasks shall run on each node.
fn on_nodes(mesh: &Mesh, id: &ServiceId) -> Vec<usize> {
    let on = |node: &NodeId| {
        let tasks = mesh.tasks(id).into_iter();
        let tasks = tasks.filter(|task| task.desired == DesiredState::Running);
        tasks.filter(|task| task.node == *node).count()
    };
    (1..=mesh.state.nodes.len())
        .map(|n| on(&node_id(u8::try_from(n).unwrap())))
        .collect()
}

#[test]
fn a_global_service_has_one_task_on_each_node() {
    let mut mesh = Mesh::new(2);
    let mut spec = service("every", 1);
    spec.mode = Mode::Global;
    let id = mesh.create(&spec).unwrap();
    mesh.settle();
    let nodes = |mesh: &Mesh| -> Vec<NodeId> {
        let tasks = mesh.tasks(&id);
        tasks
            .into_iter()
            .map(|task| task.node)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect()
    };
    assert_eq!(nodes(&mesh), [node_id(1), node_id(2)]);
    assert_eq!(mesh.tasks(&id)[0].slot, 0);
    let pools = mesh.state.pools.clone().unwrap().value;
    let tx = crate::admit::init(&mesh.state, &node_id(3), "c", &pools, &[], mesh.now).unwrap();
    mesh.commit(&tx);
    mesh.settle();
    assert_eq!(nodes(&mesh).len(), 3);
    // to replicas and back
    let mut spec = mesh.get(&id).spec.clone();
    spec.mode = Mode::Replicated { replicas: 2 };
    mesh.update(&id, &spec).unwrap();
    mesh.settle();
    assert_eq!(slots(&mesh, &id), [1, 2]);
    spec.mode = Mode::Global;
    mesh.update(&id, &spec).unwrap();
    mesh.settle();
    assert_eq!(slots(&mesh, &id), [0, 0, 0]);
}

#[test]
fn tasks_spread_over_nodes_even_if_made_at_once() {
    let mut mesh = Mesh::new(3);
    let id = mesh.create(&service("vote", 9)).unwrap();
    mesh.orchestrate();
    for n in 1..=3 {
        let there = mesh.tasks(&id).into_iter().filter(|t| t.node == node_id(n));
        assert_eq!(there.count(), 3, "node {n}");
    }
    let blocks: BTreeSet<_> = mesh
        .state
        .leases
        .values()
        .map(|lease| lease.block)
        .collect();
    assert_eq!(blocks.len(), 3, "each node has a block of its own");
}

#[test]
fn a_plan_does_not_hold_for_a_service_that_changed() {
    let mut mesh = Mesh::new(1);
    let id = mesh.create(&service("vote", 2)).unwrap();
    let plan = mesh.plan();
    assert!(mesh.takes(&plan) && !plan.is_empty());
    let spec = mesh.get(&id).spec.clone();
    let mut other = Mesh::new(0);
    other.state = mesh.state.clone();
    other.update(&id, &scaled(&spec, 1)).unwrap();
    assert!(!other.takes(&plan));
    mesh.remove(&id);
    assert!(!mesh.takes(&plan));
}

#[test]
fn two_tasks_of_one_slot_become_one() {
    let mut mesh = Mesh::new(1);
    let id = mesh.create(&service("vote", 1)).unwrap();
    mesh.settle();
    let first = current(&mesh, &id, 1);
    let second = Task {
        id: TaskId::from_random([9; 16]),
        attachments: Vec::new(),
        ..first.clone()
    };
    let mut tx = Transaction::default();
    tx.create(Object::Task(Box::new(second)));
    mesh.commit(&tx);
    mesh.settle();
    assert_eq!(current(&mesh, &id, 1).id, first.id, "the one that runs");
    assert_eq!(mesh.state.tasks.len(), 1);
}

#[test]
fn tasks_of_a_service_that_is_gone_are_forgotten() {
    let mut mesh = Mesh::new(1);
    let id = mesh.create(&service("vote", 1)).unwrap();
    mesh.settle();
    let task = current(&mesh, &id, 1);
    let mut tx = Transaction::default();
    tx.delete(mesh.get(&id).version, Key::Service(id.clone()));
    mesh.commit(&tx);
    mesh.orchestrate();
    assert_eq!(mesh.state.tasks[&task.id].desired, DesiredState::Remove);
    // not before nothing is left of it
    mesh.report(&task.id, TaskState::Shutdown, true);
    assert!(mesh.plan().is_empty());
    mesh.report(&task.id, TaskState::Shutdown, false);
    mesh.orchestrate();
    assert!(mesh.state.tasks.is_empty() && mesh.state.statuses.is_empty());
    let claim = &mesh.state.claims[&Resource::Address(task.attachments[0].addresses[0])];
    assert_eq!(claim.released, Some(mesh.now), "a tombstone");
}

#[derive(Clone, Debug)]
enum Event {
    Scale(u32),
    Force,
    /// The n-th task gets so far.
    Task(usize, TaskState),
    Detached(usize),
    Wait(i64),
}

fn event() -> impl Strategy<Value = Event> {
    let state = prop_oneof![
        1 => Just(TaskState::Preparing),
        3 => Just(TaskState::Running),
        1 => Just(TaskState::Complete),
        1 => Just(TaskState::Failed),
        1 => Just(TaskState::Rejected),
        1 => Just(TaskState::Shutdown),
    ];
    prop_oneof![
        1 => (0..6u32).prop_map(Event::Scale),
        1 => Just(Event::Force),
        6 => (0..20usize, state).prop_map(|(n, state)| Event::Task(n, state)),
        3 => (0..20usize).prop_map(Event::Detached),
        2 => (1..20i64).prop_map(Event::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    /// Whatever happens to tasks in whatever order: three looks are enough, no slot
    /// has two, and in the end what is wanted runs.
    #[test]
    fn tasks_become_what_the_service_wants(
        events in proptest::collection::vec(event(), 0..60),
        condition in prop_oneof![Just(RestartCondition::Any), Just(RestartCondition::OnFailure), Just(RestartCondition::None)],
        max_attempts in 0..3u64,
        nodes in 1..3u8,
        most in 0..3u32,
    ) {
        let mut mesh = Mesh::new(nodes);
        let policy = RestartPolicy { condition, max_attempts, ..RestartPolicy::default() };
        let mut spec = with_restart("vote", policy);
        spec.placement.max_per_node = NonZeroU32::new(most);
        let most = if most == 0 { usize::MAX } else { most as usize };
        let id = mesh.create(&spec).unwrap();
        for event in events {
            let nth = |mesh: &Mesh, n: usize| {
                let all: Vec<_> = mesh.state.tasks.keys().cloned().collect();
                (!all.is_empty()).then(|| all[n % all.len()].clone())
            };
            match event {
                Event::Scale(n) => {
                    let spec = scaled(&mesh.get(&id).spec, n);
                    mesh.update(&id, &spec).unwrap();
                }
                Event::Force => {
                    let mut spec = mesh.get(&id).spec.clone();
                    spec.task.force_update += 1;
                    mesh.update(&id, &spec).unwrap();
                }
                Event::Task(n, state) => if let Some(task) = nth(&mesh, n) {
                    // a task's state only moves on
                    let before = mesh.state.status(&task).map_or(TaskState::New, |s| s.state);
                    if state > before && !before.is_final() {
                        mesh.report(&task, state, true);
                    }
                },
                Event::Detached(n) => if let Some(task) = nth(&mesh, n) {
                    let state = mesh.state.status(&task).map_or(TaskState::New, |s| s.state);
                    if state.is_final() {
                        mesh.report(&task, state, false);
                    }
                },
                Event::Wait(seconds) => mesh.wait(seconds),
            }
            // retired, surplus, forgotten: one look each
            for _ in 0..3 {
                mesh.orchestrate();
            }
            prop_assert!(mesh.plan().is_empty(), "{:?}", mesh.plan());
            let mut shall = slots(&mesh, &id);
            let Mode::Replicated { replicas } = mesh.get(&id).spec.mode else { unreachable!() };
            prop_assert!(shall.len() <= replicas as usize);
            let live = crate::placement::slots(&mesh.state, mesh.tasks(&id).iter());
            prop_assert!(live.values().all(|slots| slots.len() <= most), "{live:?}");
            shall.dedup();
            prop_assert_eq!(shall.len(), slots(&mesh, &id).len());
            for slot in shall {
                let ended = mesh.tasks(&id).into_iter().filter(|task| {
                    task.slot == slot
                        && task.desired == DesiredState::Shutdown
                        && mesh.state.status(&task.id).is_some_and(|s| s.state.is_final())
                });
                prop_assert!(ended.count() <= HISTORY + 1);
            }
        }
        mesh.settle();
        mesh.wait(60);
        mesh.settle();
        let Mode::Replicated { replicas } = mesh.get(&id).spec.mode else { unreachable!() };
        let room = most.saturating_mul(nodes.into());
        prop_assert_eq!(slots(&mesh, &id).len(), room.min(replicas as usize));
        let last: Vec<_> = mesh
            .tasks(&id)
            .into_iter()
            .filter(|task| task.desired == DesiredState::Running)
            .map(|task| (mesh.state.status(&task.id).unwrap().state, task.spec))
            .collect();
        let did_its_work = |state| state == TaskState::Complete && condition != RestartCondition::Any;
        // an update does not go on over tasks that fail
        let failed = last.iter().any(|(state, _)| state.is_final() && !did_its_work(*state));
        let status = &mesh.get(&id).update_status;
        let failed = failed || status.as_ref().is_some_and(|status| status.state.is_paused());
        for (state, spec) in last {
            if state == TaskState::Running {
                prop_assert!(failed || spec == mesh.get(&id).spec.task);
            } else {
                prop_assert!(condition != RestartCondition::Any || max_attempts > 0);
                prop_assert!(state.is_final());
            }
        }
    }
}
