//! A node in memory whose tasks start, become healthy or not, and end; and services
//! that are updated over them.

use std::time::Duration;

use model::{DesiredState, Mode, ServiceId, ServiceSpec, Task, TaskId};
use proptest::prelude::*;

use super::*;
use crate::testing::{Mesh, With as _, node_id, service};

/// What the tasks of a spec do; it is in their command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Good,
    /// Ends once it has begun to serve.
    Crashes,
    /// Is never healthy.
    Sick,
    /// Cannot start.
    Missing,
}

fn command(version: Version, number: u32) -> Vec<String> {
    vec![format!("{version:?}"), number.to_string()]
}

fn command_of(task: &model::TaskSpec) -> &[String] {
    match &task.runtime {
        model::RuntimeSpec::Process(process) => &process.command,
        _ => unreachable!("these are processes"),
    }
}

fn version(task: &Task) -> Version {
    match command_of(&task.spec)[0].as_str() {
        "Crashes" => Version::Crashes,
        "Sick" => Version::Sick,
        "Missing" => Version::Missing,
        _ => Version::Good,
    }
}

fn serving(mesh: &Mesh, task: &Task) -> bool {
    let status = mesh.state.status(&task.id);
    task.desired == DesiredState::Running && status.is_some_and(model::TaskStatus::serves)
}

/// A node's next step with a task; whether there was one.
fn step(mesh: &mut Mesh, id: &TaskId) -> bool {
    let Some(task) = mesh.state.tasks.get(id).map(|task| Task::clone(task)) else {
        return false;
    };
    let status = mesh.state.status(id).cloned();
    let state = status.as_ref().map_or(TaskState::New, |s| s.state);
    let (attached, draining) = status
        .as_ref()
        .map_or((false, false), |s| (s.attached, s.draining));
    let drain = |mesh: &mut Mesh| {
        let now = mesh.now;
        let status = mesh.status_mut(id);
        (status.draining, status.draining_since) = (true, Some(now));
        mesh.state.revision.0 += 1;
    };
    let wanted = task.desired == DesiredState::Running;
    match (wanted, state, version(&task)) {
        (_, state, _) if state.is_final() => {
            if attached {
                mesh.report(id, state, false);
            }
            return attached;
        }
        (true, TaskState::New, _) if task.not_before.is_some_and(|at| at > mesh.now) => {
            return false;
        }
        (true, TaskState::New, _) => mesh.report(id, TaskState::Preparing, true),
        (true, TaskState::Preparing, Version::Missing) => {
            mesh.report(id, TaskState::Rejected, true);
        }
        (true, TaskState::Preparing, _) => mesh.report(id, TaskState::Starting, true),
        (true, TaskState::Starting, Version::Sick) if draining => {
            mesh.report(id, TaskState::Failed, true);
        }
        (true, TaskState::Starting, Version::Sick) => drain(mesh),
        (true, TaskState::Running, Version::Crashes) => mesh.report(id, TaskState::Failed, true),
        (true, TaskState::Starting, _) => mesh.report(id, TaskState::Running, true),
        (true, _, _) => return false,
        (false, TaskState::Running, _) if !draining => drain(mesh),
        (false, _, _) => mesh.report(id, TaskState::Shutdown, true),
    }
    true
}

/// A service with its node and everything that must always hold.
struct World {
    mesh: Mesh,
    id: ServiceId,
    number: u32,
}

impl World {
    fn new(replicas: u32, update: UpdateConfig) -> Self {
        let mut spec = service("vote", replicas);
        (spec.update, spec.rollback) = (update, UpdateConfig::default());
        Self::of(Mesh::new(1), spec)
    }

    /// One of so many nodes, with a task on each.
    fn global(nodes: u8, update: UpdateConfig) -> Self {
        let mut spec = service("vote", 1);
        (spec.mode, spec.update) = (Mode::Global, update);
        Self::of(Mesh::new(nodes), spec)
    }

    /// One with this service, which serves.
    fn of(mut mesh: Mesh, mut spec: ServiceSpec) -> Self {
        spec.process().command = command(Version::Good, 0);
        let id = mesh.create(&spec).unwrap();
        let mut world = Self {
            mesh,
            id,
            number: 0,
        };
        world.run(3);
        world
    }

    fn spec(&self) -> ServiceSpec {
        self.mesh.get(&self.id).spec.clone()
    }

    fn status(&self) -> Option<UpdateStatus> {
        self.mesh.get(&self.id).update_status.clone()
    }

    fn state(&self) -> Option<UpdateState> {
        self.status().map(|status| status.state)
    }

    fn change(&mut self, change: impl FnOnce(&mut ServiceSpec)) {
        let mut spec = self.spec();
        change(&mut spec);
        self.mesh.update(&self.id, &spec).unwrap();
    }

    fn update(&mut self, to: Version) {
        self.number += 1;
        let number = self.number;
        self.change(|spec| spec.process().command = command(to, number));
    }

    fn rollback(&mut self) {
        let (id, version) = (self.id.clone(), self.mesh.get(&self.id).version);
        let tx = self
            .mesh
            .decide(|state, context| crate::admit::rollback_service(state, &id, version, context));
        self.mesh.commit(&tx.unwrap());
    }

    fn tasks(&self) -> Vec<Task> {
        self.mesh.tasks(&self.id)
    }

    fn serving(&self) -> usize {
        let tasks = self.tasks();
        tasks
            .iter()
            .filter(|task| serving(&self.mesh, task))
            .count()
    }

    fn places(&self) -> Vec<(u32, model::NodeId)> {
        let tasks = self.tasks().into_iter();
        let mut all: Vec<_> = tasks.map(|task| (task.slot, task.node)).collect();
        all.dedup();
        all
    }

    /// Whether all that shall run serves and is as the service wants it.
    fn is_as_wanted(&self) -> bool {
        let service = self.mesh.get(&self.id);
        let nodes = u32::try_from(self.mesh.state.nodes.len()).unwrap();
        let tasks = self.tasks();
        let shall = tasks.iter().filter(|t| t.desired == DesiredState::Running);
        let shall: Vec<_> = shall.collect();
        shall.len() == service.wanted_tasks(nodes) as usize
            && shall
                .iter()
                .all(|task| task.spec == service.spec.task && serving(&self.mesh, task))
    }

    /// One look, and what must hold after each.
    fn look(&mut self) {
        let before = self.mesh.get(&self.id).clone();
        let was: Vec<Task> = self.tasks();
        let served: Vec<_> = was
            .iter()
            .filter(|task| serving(&self.mesh, task))
            .collect();
        self.mesh.orchestrate();
        for (slot, node) in self.places() {
            let tasks = self.tasks();
            let here = tasks.iter().filter(|t| (t.slot, &t.node) == (slot, &node));
            let live: Vec<_> = here
                .filter(|task| {
                    let status = self.mesh.state.status(&task.id);
                    task.desired == DesiredState::Running
                        && status.is_none_or(|status| !status.state.is_final())
                })
                .collect();
            assert!(live.len() <= 2, "slot {slot} has {live:?}");
            // told to leave in the same look in which the other one serves, or in the
            // next one where this one took the spec back
            let serve = live.iter().filter(|task| serving(&self.mesh, task));
            let rolled_back = self.mesh.get(&self.id).spec != before.spec;
            assert!(
                rolled_back || serve.count() <= 1,
                "two serve in slot {slot}"
            );
            if let [one, two] = live[..] {
                assert_ne!(one.spec, two.spec, "two alike in slot {slot}");
            }
        }
        let after = self.mesh.get(&self.id).clone();
        let paused = |status: &Option<UpdateStatus>| {
            status
                .as_ref()
                .is_some_and(|status| status.state.is_paused())
        };
        if paused(&before.update_status) && paused(&after.update_status) {
            // what serves goes on, unless its successor was on its way already
            for task in served {
                let now = &self.mesh.state.tasks[&task.id];
                let successor = was.iter().any(|other| {
                    (other.slot, &other.node) == (task.slot, &task.node)
                        && other.id != task.id
                        && serving(&self.mesh, other)
                });
                assert!(
                    now.desired == task.desired || successor,
                    "paused, but {now:?}"
                );
            }
        }
        if after.spec != before.spec {
            // the orchestrator itself changes a spec in one way only
            assert_eq!(Some(&after.spec), before.previous.as_deref());
            let state = after.update_status.as_ref().map(|status| status.state);
            assert_eq!(state, Some(UpdateState::RollbackStarted));
            assert_eq!(after.previous, None);
        }
    }

    /// Looks and steps of the node, in turn, for so many seconds.
    fn run(&mut self, seconds: u32) {
        for _ in 0..seconds {
            for _ in 0..12 {
                self.look();
                let ids: Vec<_> = self.mesh.state.tasks.keys().cloned().collect();
                let moved = ids.iter().filter(|id| step(&mut self.mesh, id)).count();
                if moved == 0 {
                    break;
                }
            }
            self.mesh.wait(1);
        }
        self.look();
    }
}

fn config(order: UpdateOrder, parallelism: u64, failure_action: FailureAction) -> UpdateConfig {
    UpdateConfig {
        order,
        parallelism,
        failure_action,
        ..UpdateConfig::default()
    }
}

use FailureAction::{Continue, Pause, Rollback};
use UpdateOrder::{StartFirst, StopFirst};

#[test]
fn start_first_has_two_in_a_slot_until_the_new_one_serves() {
    let mut world = World::new(2, config(StartFirst, 1, Pause));
    world.update(Version::Good);
    assert_eq!(world.state(), Some(UpdateState::Updating));
    world.look();
    let old = world.tasks();
    assert_eq!((old.len(), world.serving()), (3, 2));
    let new = old.iter().find(|t| t.spec == world.spec().task).unwrap();
    for _ in 0..2 {
        assert!(step(&mut world.mesh, &new.id));
        assert!(world.mesh.plan().is_empty(), "the old one waits for it");
    }
    assert!(step(&mut world.mesh, &new.id));
    world.look();
    let old = world.tasks().into_iter();
    let leaving: Vec<_> = old
        .filter(|t| t.desired == DesiredState::Shutdown)
        .collect();
    assert_eq!((leaving.len(), leaving[0].slot), (1, new.slot));
    assert_eq!(world.serving(), 2);
}

#[test]
fn an_update_is_complete_once_the_last_task_was_watched_and_delays_are_kept() {
    let mut update = config(StopFirst, 1, Pause);
    (update.delay, update.monitor) = (Duration::from_secs(10), Duration::from_secs(7));
    let mut world = World::new(2, update);
    world.update(Version::Good);
    world.run(2);
    let new = |world: &World| {
        let spec = world.spec().task;
        let tasks = world.tasks().into_iter();
        tasks.filter(|task| task.spec == spec).count()
    };
    assert_eq!(new(&world), 1);
    let wake = world.mesh.orchestrate().unwrap();
    world.run(7);
    assert_eq!(new(&world), 1, "the delay is not over");
    world.mesh.now = wake;
    world.run(2);
    assert_eq!((new(&world), world.is_as_wanted()), (2, true));
    world.run(6);
    assert_eq!(world.state(), Some(UpdateState::Updating));
    world.run(3);
    let status = world.status().unwrap();
    assert_eq!(status.state, UpdateState::Completed);
    assert_eq!(status.message, "update completed");
    assert!(status.completed.is_some());
}

#[test]
fn a_failure_pauses_and_any_change_takes_it_up_again() {
    for version in [Version::Crashes, Version::Sick, Version::Missing] {
        for order in [StartFirst, StopFirst] {
            let mut world = World::new(3, config(order, 1, Pause));
            world.update(version);
            world.run(30);
            let status = world.status().unwrap();
            assert_eq!(status.state, UpdateState::Paused, "{version:?} {order:?}");
            let why = "update paused due to failure or early termination of task";
            assert!(status.message.starts_with(why), "{}", status.message);
            let old = world
                .tasks()
                .into_iter()
                .filter(|task| task.spec != world.spec().task && serving(&world.mesh, task));
            // one that crashes has taken the place of its old one by then
            let beside = order == StartFirst && version != Version::Crashes;
            // and the next old one was told to leave at once
            let next = order == StopFirst && version == Version::Crashes;
            let left = 2 + usize::from(beside) - usize::from(next);
            assert_eq!(old.count(), left, "{version:?} {order:?}");
            world.update(Version::Good);
            assert_eq!(world.state(), Some(UpdateState::Updating));
            world.run(30);
            assert!(world.is_as_wanted());
            assert_eq!(world.state(), Some(UpdateState::Completed));
        }
    }
}

#[test]
fn a_failure_rolls_back_and_what_was_not_touched_is_not_touched() {
    for order in [StartFirst, StopFirst] {
        let mut world = World::new(3, config(order, 1, Rollback));
        let (before, tasks) = (world.spec(), world.tasks());
        world.update(Version::Sick);
        world.run(40);
        assert_eq!(world.state(), Some(UpdateState::RollbackCompleted));
        assert_eq!(world.spec(), before);
        assert!(world.is_as_wanted());
        let kept = tasks
            .iter()
            .filter(|task| serving(&world.mesh, task))
            .count();
        assert_eq!(kept, if order == StartFirst { 3 } else { 2 });
    }
}

#[test]
fn one_that_goes_on_replaces_all() {
    let mut world = World::new(3, config(StopFirst, 1, Continue));
    world.update(Version::Missing);
    world.run(60);
    let spec = world.spec().task;
    let tasks = world.tasks();
    let mut shall = tasks.iter().filter(|t| t.desired == DesiredState::Running);
    assert!(shall.all(|task| task.spec == spec));
    assert_eq!(world.state(), Some(UpdateState::Completed));
}

#[test]
fn some_may_fail() {
    let mut update = config(StopFirst, 1, Pause);
    update.max_failure_ratio = 0.5;
    let mut world = World::new(4, update);
    world.update(Version::Missing);
    world.run(60);
    assert_eq!(world.state(), Some(UpdateState::Paused));
    let spec = world.spec().task;
    let tasks = world.tasks();
    let old = tasks
        .iter()
        .filter(|t| t.spec != spec && serving(&world.mesh, t));
    assert_eq!(old.count(), 1, "the third failure of four is one too many");
}

#[test]
fn a_rollback_has_its_own_way() {
    let mut world = World::new(3, config(StopFirst, 1, Pause));
    let first = world.spec();
    world.update(Version::Good);
    world.run(30);
    let second = world.spec();
    world.rollback();
    assert_eq!(world.state(), Some(UpdateState::RollbackStarted));
    assert_eq!(
        world.status().unwrap().message,
        "manually requested rollback"
    );
    world.run(30);
    assert_eq!((world.spec(), world.is_as_wanted()), (first, true));
    assert_eq!(world.state(), Some(UpdateState::RollbackCompleted));
    // and back again
    world.rollback();
    world.run(30);
    assert_eq!((world.spec(), world.is_as_wanted()), (second, true));
    // to one that fails
    world.update(Version::Sick);
    world.update(Version::Good);
    world.run(30);
    world.rollback();
    world.run(30);
    assert_eq!(world.state(), Some(UpdateState::RollbackPaused));
}

#[test]
fn scaling_does_not_stop_an_update_and_keeps_the_way_back() {
    let mut world = World::new(3, config(StopFirst, 1, Rollback));
    let first = world.spec().task;
    world.update(Version::Good);
    world.look();
    let started = world.status().unwrap().started;
    world.mesh.wait(1);
    world.change(|spec| spec.mode = Mode::Replicated { replicas: 5 });
    assert_eq!(world.status().unwrap().started, started);
    let previous = world.mesh.get(&world.id).previous.clone().unwrap();
    assert_eq!(
        (previous.task, previous.mode),
        (first, Mode::Replicated { replicas: 3 })
    );
    world.run(40);
    assert!(world.is_as_wanted());
    // with nothing to replace there is no update
    world.change(|spec| spec.mode = Mode::Replicated { replicas: 2 });
    assert_eq!(world.state(), None);
}

#[test]
fn without_room_for_two_one_goes_first() {
    let mut mesh = Mesh::new(1);
    let tiny = mesh.try_network("tiny", &["10.101.0.0/29"]).unwrap();
    let mut spec = service("vote", 5).on(&[&tiny]);
    spec.update = config(StartFirst, 1, Pause);
    let mut world = World::of(mesh, spec);
    world.update(Version::Good);
    world.run(40);
    assert!(world.is_as_wanted());
}

#[test]
fn a_global_service_is_updated_node_by_node() {
    let mut world = World::global(3, config(StartFirst, 2, Pause));
    world.update(Version::Good);
    world.look();
    let nodes: BTreeSet<_> = world.tasks().into_iter().map(|task| task.node).collect();
    assert_eq!((world.tasks().len(), nodes.len()), (5, 3), "two at once");
    assert_eq!(
        nodes.first(),
        Some(&node_id(1)).filter(|n| nodes.contains(n))
    );
    world.run(20);
    assert!(world.is_as_wanted());
    assert_eq!(world.state(), Some(UpdateState::Completed));
}

#[derive(Clone, Debug)]
enum Event {
    Update(Version),
    Config(UpdateConfig),
    Scale(u32),
    Rollback,
    /// The node does its next step with the n-th task.
    Step(usize),
    /// A task that serves ends.
    Fail(usize),
    Wait(i64),
}

fn any_config() -> impl Strategy<Value = UpdateConfig> {
    let order = prop_oneof![Just(StartFirst), Just(StopFirst)];
    let action = prop_oneof![Just(Pause), Just(Continue), Just(Rollback)];
    (order, action, 0..3u64, 0..3u64, 0..3u8).prop_map(
        |(order, action, parallelism, delay, ratio)| UpdateConfig {
            delay: Duration::from_secs(delay),
            max_failure_ratio: f64::from(ratio) / 4.0,
            ..config(order, parallelism, action)
        },
    )
}

fn any_event() -> impl Strategy<Value = Event> {
    let version = prop_oneof![
        4 => Just(Version::Good),
        1 => Just(Version::Crashes),
        1 => Just(Version::Sick),
        1 => Just(Version::Missing),
    ];
    prop_oneof![
        2 => version.prop_map(Event::Update),
        1 => any_config().prop_map(Event::Config),
        1 => (0..6u32).prop_map(Event::Scale),
        1 => Just(Event::Rollback),
        20 => (0..40usize).prop_map(Event::Step),
        2 => (0..40usize).prop_map(Event::Fail),
        3 => (1..8i64).prop_map(Event::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    /// Whatever happens in whatever order, the rules of [`World::look`] hold; and when
    /// nobody does anything more, all is as wanted, or the update says why not.
    #[test]
    fn updates_keep_their_rules_and_end(
        update in any_config(),
        everywhere in any::<bool>(),
        events in proptest::collection::vec(any_event(), 0..80),
    ) {
        let mut world = match everywhere {
            true => World::global(3, update),
            false => World::new(3, update),
        };
        let mut good = true;
        for event in events {
            let ids: Vec<_> = world.mesh.state.tasks.keys().cloned().collect();
            let nth = |n: usize| (!ids.is_empty()).then(|| &ids[n % ids.len()]);
            match event {
                Event::Update(version) => {
                    good &= version == Version::Good;
                    world.update(version);
                }
                Event::Config(config) => world.change(|spec| spec.update = config),
                Event::Scale(replicas) => if !everywhere {
                    world.change(|spec| spec.mode = Mode::Replicated { replicas });
                },
                Event::Rollback => if world.mesh.get(&world.id).previous.is_some() {
                    world.rollback();
                },
                Event::Step(n) => if let Some(id) = nth(n) {
                    step(&mut world.mesh, id);
                },
                Event::Fail(n) => if let Some(id) = nth(n) {
                    let task = world.mesh.state.tasks[id].clone();
                    if serving(&world.mesh, &task) {
                        good = false;
                        world.mesh.report(id, TaskState::Failed, true);
                    }
                },
                Event::Wait(seconds) => world.mesh.wait(seconds),
            }
            world.look();
            // what follows on a failure takes a few: back, away with the new, forgotten
            for _ in 0..5 {
                world.look();
            }
            // a look that follows on nothing finds nothing to do
            prop_assert!(world.mesh.plan().is_empty(), "{:?}", world.mesh.plan());
        }
        world.run(120);
        let state = world.state();
        let spec = world.spec();
        let last_is_good = command_of(&spec.task)[0] == "Good";
        let paused = state.is_some_and(UpdateState::is_paused);
        if good {
            prop_assert!(!paused);
        }
        if !paused && last_is_good {
            prop_assert!(world.is_as_wanted(), "{:?}: {:#?}", state, world.tasks());
            prop_assert!(state.is_none_or(|state| !state.in_progress()), "{:?}", state);
        }
    }

    /// While nothing fails, so many serve at each moment: all of them where the new
    /// one is first, and all but those that are worked on where the old one is.
    #[test]
    fn enough_tasks_serve_during_an_update(
        replicas in 1..6u32,
        parallelism in 1..4u64,
        start_first in any::<bool>(),
        delay in 0..3u64,
        steps in proptest::collection::vec((0..40usize, 0..12u8), 1..150),
    ) {
        let order = if start_first { StartFirst } else { StopFirst };
        let update = UpdateConfig {
            delay: Duration::from_secs(delay),
            ..config(order, parallelism, Pause)
        };
        let mut world = World::new(replicas, update);
        let all = replicas as usize;
        let least = if start_first { all } else { all.saturating_sub(usize::try_from(parallelism).unwrap()) };
        prop_assert_eq!(world.serving(), all);
        world.update(Version::Good);
        for (n, what) in steps {
            match what {
                // superseded
                0 => world.update(Version::Good),
                1 => world.mesh.wait(1),
                _ => {
                    let ids: Vec<_> = world.mesh.state.tasks.keys().cloned().collect();
                    step(&mut world.mesh, &ids[n % ids.len()]);
                }
            }
            world.look();
            prop_assert!(world.serving() >= least, "{} of {all} serve", world.serving());
        }
        world.run(60);
        prop_assert!(world.is_as_wanted());
        prop_assert_eq!(world.state(), Some(UpdateState::Completed));
    }
}
