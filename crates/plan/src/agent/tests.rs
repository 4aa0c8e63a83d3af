//! A node in memory: what the daemon does for each action, in the small steps
//! between which it may be killed.

use jiff::SignedDuration;
use model::{Name, ServiceId, TaskId};
use proptest::prelude::*;

use super::*;
use crate::testing::{Mesh, With, node_id, service};

fn now() -> Timestamp {
    "2025-01-01T00:00:00Z".parse().unwrap()
}

/// Its command runs, and nothing checks it.
const RUNNING: Seen = Seen::Running {
    health: Health::None,
};
const TIMEOUT: Duration = Duration::from_secs(30);

/// Nobody is connected.
const ALONE: Leaving = Leaving {
    timeout: TIMEOUT,
    connections: Some(0),
};

/// Decides about a task to which nobody is connected.
fn next_action(
    task: &Task,
    status: Option<&TaskStatus>,
    seen: Option<&Seen>,
    now: Timestamp,
) -> Action {
    super::next_action(task, status, seen, ALONE, now)
}

fn task(desired: DesiredState) -> Task {
    let spec = service("vote", 1);
    Task {
        id: TaskId::from_random([1; 16]),
        service: ServiceId::from_random([1; 16]),
        service_name: "vote".parse::<Name>().unwrap(),
        slot: 1,
        node: node_id(1),
        spec: spec.task,
        attachments: Vec::new(),
        desired,
        created: now(),
        not_before: None,
        elsewhere: None,
    }
}

fn status(state: TaskState) -> TaskStatus {
    TaskStatus {
        state,
        ..TaskStatus::new(task(DesiredState::Running).id, now())
    }
}

fn exited(code: i32, rejected: bool) -> Seen {
    Seen::Exited {
        code,
        error: if code == 0 { "" } else { "why" }.to_owned(),
        rejected,
    }
}

fn reported(action: Action) -> (TaskState, String, Option<i32>) {
    match action {
        Action::Report {
            state, error, code, ..
        } => (state, error, code),
        other => panic!("{other:?}"),
    }
}

const STATES: [TaskState; 11] = [
    TaskState::New,
    TaskState::Pending,
    TaskState::Assigned,
    TaskState::Preparing,
    TaskState::Starting,
    TaskState::Running,
    TaskState::Complete,
    TaskState::Shutdown,
    TaskState::Failed,
    TaskState::Rejected,
    TaskState::Orphaned,
];

#[test]
fn who_ended_is_sent_nothing_before_it_is_known_how() {
    let task = task(DesiredState::Running);
    let mut status = status(TaskState::Running);
    let next = |status: &TaskStatus, seen| next_action(&task, Some(status), Some(&seen), now());
    assert_eq!(next(&status, Seen::Ended), Action::Withdraw);
    status.ended = true;
    assert!(!status.serves());
    assert_eq!(next(&status, Seen::Ended), Action::Wait(None));
    for (code, state) in [(0, TaskState::Complete), (1, TaskState::Failed)] {
        let (said, _, exit) = reported(next(&status, exited(code, false)));
        assert_eq!((said, exit), (state, Some(code)));
    }
}

#[test]
fn a_task_with_a_check_serves_once_it_is_healthy_and_leaves_once_it_is_not() {
    let task = task(DesiredState::Running);
    let next = |state, draining, health| {
        let status = TaskStatus {
            draining,
            draining_since: draining.then(now),
            ..status(state)
        };
        let seen = Seen::Running { health };
        next_action(&task, Some(&status), Some(&seen), now())
    };
    use Health::{Healthy, None, Starting, Unhealthy};
    use TaskState::{Preparing, Running};
    let said = |action| reported(action).0;
    assert_eq!(said(next(Preparing, false, None)), Running);
    assert_eq!(said(next(Preparing, false, Starting)), TaskState::Starting);
    let waits = next(TaskState::Starting, false, Starting);
    assert_eq!(waits, Action::Wait(Option::None));
    assert_eq!(said(next(TaskState::Starting, false, Healthy)), Running);
    // a daemon that asks anew, or a Docker that was restarted, knows nothing yet
    assert_eq!(next(Running, false, Starting), Action::Wait(Option::None));
    assert_eq!(next(Running, false, Unhealthy), Action::Drain);
    assert_eq!(next(TaskState::Starting, false, Unhealthy), Action::Drain);
    // what was written down is done, whatever it says by now
    for health in [Starting, Healthy, Unhealthy] {
        assert_eq!(next(Running, true, health), Action::Stop);
    }
    let leaving = TaskStatus {
        draining: true,
        ..status(Running)
    };
    let ended = next_action(&task, Some(&leaving), Some(&exited(0, false)), now());
    let (state, error, code) = reported(ended);
    assert_eq!((state, code), (TaskState::Failed, Some(0)));
    assert_eq!(error, "task: unhealthy container");
}

#[test]
fn a_task_that_is_lost_while_it_starts_has_failed() {
    let task = task(DesiredState::Running);
    let action = next_action(&task, Some(&status(TaskState::Starting)), None, now());
    assert_eq!(reported(action).0, TaskState::Failed);
}

#[test]
fn a_restart_delay_is_waited_for_before_anything_is_made() {
    let mut task = task(DesiredState::Running);
    let later = now() + SignedDuration::from_secs(5);
    task.not_before = Some(later);
    for status in [None, Some(status(TaskState::Pending))] {
        let action = next_action(&task, status.as_ref(), None, now());
        assert_eq!(action, Action::Wait(Some(later)));
        assert_eq!(
            next_action(&task, status.as_ref(), None, later),
            Action::Prepare
        );
    }
    // whoever is not to run at all does not wait for it
    task.desired = DesiredState::Remove;
    let (state, ..) = reported(next_action(&task, None, None, now()));
    assert_eq!(state, TaskState::Shutdown);
}

#[test]
fn an_end_is_told_as_it_was() {
    let running = status(TaskState::Running);
    for (desired, seen, expected) in [
        (
            DesiredState::Running,
            exited(0, false),
            (TaskState::Complete, "", Some(0)),
        ),
        (
            DesiredState::Running,
            exited(3, false),
            (TaskState::Failed, "why", Some(3)),
        ),
        (
            DesiredState::Running,
            exited(137, false),
            (TaskState::Failed, "why", Some(137)),
        ),
        (
            DesiredState::Running,
            exited(127, true),
            (TaskState::Rejected, "why", Some(127)),
        ),
        (
            DesiredState::Running,
            exited(0, true),
            (TaskState::Rejected, "", Some(0)),
        ),
        (
            DesiredState::Shutdown,
            exited(143, false),
            (TaskState::Shutdown, "", Some(143)),
        ),
        (
            DesiredState::Remove,
            exited(0, false),
            (TaskState::Shutdown, "", Some(0)),
        ),
    ] {
        // also where the daemon died before it could write that it ran
        for before in [&running, &status(TaskState::Preparing)] {
            let (state, error, code) = reported(next_action(
                &task(desired),
                Some(before),
                Some(&seen),
                now(),
            ));
            assert_eq!((state, error.as_str(), code), expected, "{seen:?}");
        }
    }
}

#[test]
fn a_task_that_vanished_is_lost_if_it_was_to_run() {
    let running = status(TaskState::Running);
    let (state, error, code) = reported(next_action(
        &task(DesiredState::Running),
        Some(&running),
        None,
        now(),
    ));
    assert_eq!((state, code), (TaskState::Failed, None));
    assert!(error.contains("gone"));
    let leaving = next_action(&task(DesiredState::Shutdown), Some(&running), None, now());
    let Action::Report { state, message, .. } = leaving else {
        panic!("{leaving:?}")
    };
    assert_eq!((state, message), (TaskState::Shutdown, "shutdown"));
    let early = next_action(&task(DesiredState::Shutdown), None, None, now());
    assert!(matches!(
        early,
        Action::Report {
            message: "never started",
            ..
        }
    ));
}

#[test]
fn a_running_task_is_drained_before_it_is_stopped() {
    for desired in [DesiredState::Shutdown, DesiredState::Remove] {
        let mut status = status(TaskState::Running);
        let next =
            |status: &TaskStatus| next_action(&task(desired), Some(status), Some(&RUNNING), now());
        assert_eq!(next(&status), Action::Drain);
        // as a daemon wrote it that did not wait
        status.draining = true;
        assert_eq!(next(&status), Action::Drain);
        status.draining_since = Some(now());
        assert_eq!(next(&status), Action::Stop);
    }
}

#[test]
fn a_leaving_task_is_stopped_once_nobody_is_connected_or_its_time_is_over() {
    let task = task(DesiredState::Remove);
    let leaving = TaskStatus {
        draining: true,
        draining_since: Some(now()),
        ..status(TaskState::Running)
    };
    let end = now() + TIMEOUT;
    let next = |connections, timeout, seen: Seen, now| {
        let left = Leaving {
            timeout,
            connections,
        };
        super::next_action(&task, Some(&leaving), Some(&seen), left, now)
    };
    let early = end - SignedDuration::from_millis(1);
    for open in [None, Some(1), Some(u64::MAX)] {
        for moment in [now(), early] {
            let action = next(open, TIMEOUT, RUNNING, moment);
            assert_eq!(action, Action::AwaitConnections(end), "{open:?} {moment}");
        }
        assert_eq!(next(open, TIMEOUT, RUNNING, end), Action::Stop);
        // the time-out may be changed meanwhile
        assert_eq!(next(open, Duration::ZERO, RUNNING, now()), Action::Stop);
        let for_ever = next(open, Duration::MAX, RUNNING, end);
        assert_eq!(for_ever, Action::AwaitConnections(Timestamp::MAX));
    }
    assert_eq!(next(Some(0), TIMEOUT, RUNNING, now()), Action::Stop);
    // who ends meanwhile has ended
    let ended = next(Some(1), TIMEOUT, exited(0, false), early);
    assert_eq!(reported(ended).0, TaskState::Shutdown);
    // a clock that was set back begins anew rather than wait for the old time
    let before = now() - SignedDuration::from_secs(1);
    assert_eq!(next(Some(1), TIMEOUT, RUNNING, before), Action::Drain);
}

#[test]
fn the_drain_timeout_is_the_services_and_none_without_it() {
    let mut mesh = Mesh::new(1);
    let mut spec = service("web", 1).port("8080:80").port("8080:80/udp");
    let label = model::label::DRAIN_TIMEOUT.to_owned();
    spec.labels.insert(label, "5m".to_owned());
    let id = mesh.create(&spec).unwrap();
    let mut of = task(DesiredState::Remove);
    assert_eq!(drain_timeout(&mesh.state, &of), Duration::ZERO);
    of.service = id.clone();
    assert_eq!(drain_timeout(&mesh.state, &of), Duration::from_secs(300));
    let service = mesh.state.services.get_mut(&id).unwrap();
    std::sync::Arc::make_mut(&mut service.value)
        .spec
        .labels
        .clear();
    assert_eq!(drain_timeout(&mesh.state, &of), TIMEOUT);

    // a VIP and the TCP port; UDP does not drain
    let service = &mesh.state.services[&id].value;
    let expected = BTreeSet::from([
        (Place::Router, service.endpoint.vips[0].tcp),
        (Place::Ingress, service.endpoint.ports[0].mark),
    ]);
    assert_eq!(ways(service), expected);
}

#[test]
fn what_ended_is_taken_away_and_stays_told() {
    for state in STATES.into_iter().filter(|state| state.is_final()) {
        for desired in [
            DesiredState::Running,
            DesiredState::Shutdown,
            DesiredState::Remove,
        ] {
            let task = task(desired);
            let mut status = status(state);
            for seen in [Seen::Prepared, RUNNING, exited(0, false)] {
                assert_eq!(
                    next_action(&task, Some(&status), Some(&seen), now()),
                    Action::Detach
                );
            }
            status.attached = true;
            assert_eq!(
                next_action(&task, Some(&status), None, now()),
                Action::Detach
            );
            status.attached = false;
            assert_eq!(
                next_action(&task, Some(&status), None, now()),
                Action::Wait(None)
            );
        }
    }
}

/// A node with one task.
#[derive(Clone, Debug)]
struct Node {
    task: Task,
    status: Option<TaskStatus>,
    seen: Option<Seen>,
    /// Open connections, where they were counted.
    connections: Option<u64>,
    now: Timestamp,
    /// What the command will do once it runs.
    ends: Option<i32>,
    starts: u32,
}

impl Node {
    fn next(&self) -> Action {
        let leaving = Leaving {
            timeout: TIMEOUT,
            connections: self.connections,
        };
        let (status, seen) = (self.status.as_ref(), self.seen.as_ref());
        super::next_action(&self.task, status, seen, leaving, self.now)
    }

    fn write(&mut self, change: impl FnOnce(&mut TaskStatus)) {
        let mut new = self
            .status
            .clone()
            .unwrap_or_else(|| status(TaskState::New));
        change(&mut new);
        self.status = Some(new);
    }

    /// Does `action` up to the given step; whether it is done.
    fn act(&mut self, action: &Action, steps: u32) -> bool {
        for step in 0..steps {
            let more = match (action, step) {
                (Action::Prepare, 0) => {
                    self.write(|status| {
                        status.state = TaskState::Preparing;
                        status.attached = true;
                    });
                    true
                }
                (Action::Prepare, _) => {
                    self.seen.get_or_insert(Seen::Prepared);
                    false
                }
                (Action::Start, 0) => {
                    assert_eq!(self.seen, Some(Seen::Prepared), "started twice");
                    assert_eq!(self.task.desired, DesiredState::Running);
                    self.seen = Some(RUNNING);
                    self.starts += 1;
                    true
                }
                (Action::Start, _) => {
                    self.write(|status| {
                        status.state = TaskState::Running;
                        status.attached = true;
                    });
                    false
                }
                (Action::Drain, _) => {
                    let now = self.now;
                    self.write(|status| {
                        status.draining = true;
                        status.draining_since = Some(now);
                    });
                    false
                }
                (Action::Withdraw, _) => {
                    self.write(|status| status.ended = true);
                    false
                }
                (Action::AwaitConnections(until), _) => {
                    assert!(*until > self.now);
                    assert_ne!(self.connections, Some(0));
                    self.now = *until;
                    false
                }
                (Action::Stop, _) => {
                    self.seen = Some(exited(143, false));
                    false
                }
                (Action::Report { state, code, .. }, _) => {
                    assert!(*state > self.status.as_ref().map_or(TaskState::New, |s| s.state));
                    self.write(|status| {
                        status.state = *state;
                        status.exit_code = *code;
                    });
                    false
                }
                (Action::Detach, 0) => {
                    self.seen = None;
                    true
                }
                (Action::Detach, _) => {
                    self.write(|status| status.attached = false);
                    false
                }
                (Action::Wait(_) | Action::Suspend | Action::Resume, _) => false,
            };
            if !more {
                return true;
            }
        }
        false
    }
}

#[derive(Clone, Debug)]
enum Event {
    /// The daemon is killed after so many steps of its next action.
    Killed(u32),
    /// It goes on.
    Acts,
    /// The command ends by itself, if it runs.
    Ends(i32),
    /// The machine restarts: all that ran is gone.
    Reboot,
    Desired(DesiredState),
    /// Connections are counted, or the daemon that did is gone.
    Counted(Option<u64>),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (0..2u32).prop_map(Event::Killed),
        4 => Just(Event::Acts),
        1 => prop_oneof![Just(0), Just(1), Just(137)].prop_map(Event::Ends),
        1 => Just(Event::Reboot),
        1 => proptest::option::of(0..2u64).prop_map(Event::Counted),
        1 => prop_oneof![Just(DesiredState::Shutdown), Just(DesiredState::Remove)].prop_map(Event::Desired),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]
    /// From any crash point on, a task comes to rest: running if that is wanted
    /// and possible, else ended with nothing left of it; and its command is
    /// started once at most per boot.
    #[test]
    fn a_task_comes_to_rest_wherever_the_daemon_died(events in proptest::collection::vec(event(), 0..40)) {
        let mut node = Node {
            task: task(DesiredState::Running),
            status: None,
            seen: None,
            connections: None,
            now: now(),
            ends: None,
            starts: 0,
        };
        let mut boots = 1;
        for event in events {
            match event {
                Event::Killed(steps) => {
                    let action = node.next();
                    node.act(&action, steps);
                }
                Event::Acts => {
                    let action = node.next();
                    prop_assert!(node.act(&action, 2));
                }
                Event::Ends(code) => if node.seen == Some(RUNNING) {
                    node.seen = Some(exited(code, false));
                    node.ends = Some(code);
                },
                Event::Reboot => {
                    node.seen = None;
                    boots += 1;
                }
                Event::Counted(open) => node.connections = open,
                Event::Desired(desired) => node.task.desired = node.task.desired.max(desired),
            }
            prop_assert!(node.starts <= boots);
        }
        let mut steps = 0;
        loop {
            let action = node.next();
            if action == Action::Wait(None) {
                break;
            }
            prop_assert!(node.act(&action, 2));
            steps += 1;
            prop_assert!(steps < 8, "goes round: {:?} {:?}", action, node);
        }
        let end = node.status.unwrap();
        if end.state == TaskState::Running {
            prop_assert_eq!(node.task.desired, DesiredState::Running);
            prop_assert_eq!(node.seen, Some(RUNNING));
            prop_assert!(end.attached && !end.draining);
        } else {
            prop_assert!(end.state.is_final() && !end.attached);
            prop_assert_eq!(node.seen, None);
            prop_assert!(end.state != TaskState::Complete || node.ends == Some(0));
        }
    }

    /// No combination, however it came about, is without an end.
    #[test]
    fn every_combination_comes_to_rest(
        state in proptest::option::of(proptest::sample::select(STATES.to_vec())),
        attached: bool,
        draining: bool,
        since in proptest::option::of((-60..60i64).prop_map(|s| now() + SignedDuration::from_secs(s))),
        connections in proptest::option::of(0..2u64),
        desired in prop_oneof![Just(DesiredState::Running), Just(DesiredState::Shutdown), Just(DesiredState::Remove)],
        seen in proptest::option::of(prop_oneof![
            Just(Seen::Prepared),
            Just(RUNNING),
            Just(Seen::Ended),
            (0..2i32, any::<bool>()).prop_map(|(code, rejected)| exited(code, rejected)),
        ]),
    ) {
        let mut node = Node {
            task: task(desired),
            status: state.map(|state| TaskStatus { attached, draining, draining_since: since, ..status(state) }),
            seen,
            connections,
            now: now(),
            ends: None,
            starts: 0,
        };
        for _ in 0..8 {
            let action = node.next();
            if action == Action::Wait(None) && node.seen == Some(Seen::Ended) {
                prop_assert!(!node.status.as_ref().is_some_and(|status| status.serves()) || desired != DesiredState::Running);
                node.seen = Some(exited(1, false));
                continue;
            }
            if action == Action::Wait(None) {
                let end = node.status.unwrap();
                prop_assert_eq!(
                    end.state == TaskState::Running,
                    desired == DesiredState::Running && node.seen == Some(RUNNING)
                );
                prop_assert!(end.state == TaskState::Running || end.state.is_final() && !end.attached);
                return Ok(());
            }
            node.act(&action, 2);
        }
        prop_assert!(false, "goes round: {:?}", node);
    }
}
