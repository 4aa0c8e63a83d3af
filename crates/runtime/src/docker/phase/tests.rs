use super::*;

const BOOT: &str = "now";

fn task() -> TaskId {
    TaskId::from_random([5; 16])
}

fn process(pid: u32) -> ProcessIdentity {
    ProcessIdentity {
        pid,
        start_time: 1,
        boot_id: BOOT.to_owned(),
        netns_inode: 77,
    }
}

fn is(state: State, health: Health) -> Option<Container> {
    Some(Container { state, health })
}

fn running(pid: u32) -> Option<Container> {
    let identity = Some(process(pid));
    is(State::Running { pid, identity }, Health::Healthy)
}

fn ended(code: i32) -> Option<Container> {
    let state = State::Ended {
        code,
        error: "why".to_owned(),
        at: Timestamp::UNIX_EPOCH,
    };
    is(state, Health::None)
}

/// One that is in the gate, or was.
fn made(started: bool) -> Record {
    Record {
        name: "web.1".to_owned(),
        boot_id: BOOT.to_owned(),
        process: Some(process(11)),
        started,
        ..Record::default()
    }
}

fn look(record: &Record, container: &Option<Container>, held: bool) -> (Phase, bool) {
    let now = Timestamp::UNIX_EPOCH;
    let observed = by_docker(&task(), record, container.as_ref(), |_| held, BOOT, now);
    (observed.phase, observed.identity == Some(process(11)))
}

const RUNS: Phase = Phase::Running {
    pid: 11,
    health: Health::Healthy,
};

#[test]
fn a_life_without_accidents() {
    let half = Record {
        process: None,
        ..made(false)
    };
    let created = is(State::Created, Health::None);
    for container in [None, created, running(11), ended(127)] {
        assert_eq!(look(&half, &container, true), (Phase::Gone, false));
    }
    assert_eq!(
        look(&made(false), &running(11), true),
        (Phase::Prepared, true)
    );
    // we died between writing down that it starts and opening the gate, or just behind
    assert_eq!(
        look(&made(true), &running(11), true),
        (Phase::Prepared, true)
    );
    assert_eq!(look(&made(true), &running(11), false), (RUNS, true));
    let dead = State::Running {
        pid: 11,
        identity: None,
    };
    let dead = is(dead, Health::Healthy);
    assert_eq!(look(&made(true), &dead, false), (Phase::Ended, false));
    let exited = Phase::Exited {
        code: 3,
        error: "why".to_owned(),
        rejected: false,
        at: Timestamp::UNIX_EPOCH,
    };
    assert_eq!(look(&made(true), &ended(3), false), (exited, false));
    let removed = Record {
        removed: true,
        ..made(true)
    };
    // its container stays for its log
    assert_eq!(look(&removed, &ended(3), false), (Phase::Gone, false));
}

#[test]
fn accidents_are_told() {
    let fails = |record: &Record, container, word: &str| {
        let (phase, lives) = look(record, &container, true);
        let Phase::Exited { code, error, .. } = &phase else {
            panic!("{phase:?}");
        };
        assert_eq!((*code, lives), (137, false));
        assert!(error.contains(word), "{error}");
    };
    let record = made(true);
    fails(&record, None, "removed");
    // it waits in the gate again, in another namespace
    fails(&record, running(21), "without its network");
    let before = Record {
        boot_id: "before".to_owned(),
        ..record
    };
    fails(&before, ended(0), "started anew");
    // what was not let through has done nothing yet: it is made again
    for container in [None, running(21), ended(137)] {
        assert_eq!(look(&made(false), &container, true), (Phase::Gone, false));
    }
}

#[test]
fn one_whose_record_was_lost_is_taken_over() {
    let lost = Record {
        process: None,
        ..made(true)
    };
    assert_eq!(look(&lost, &running(11), false), (RUNS, true));
    assert_eq!(look(&lost, &running(11), true), (Phase::Prepared, true));
}

#[test]
fn without_docker_its_process_tells() {
    let by = |record: &Record, lives: bool, held: bool| {
        let (task, now) = (task(), Timestamp::UNIX_EPOCH);
        let (lives, held) = (|_: &_| lives, |_| held);
        let observed = by_process(&task, record, lives, held, Health::Healthy, now);
        (observed.phase, observed.identity == Some(process(11)))
    };
    assert_eq!(by(&made(false), true, true), (Phase::Prepared, true));
    assert_eq!(by(&made(false), false, false), (Phase::Gone, false));
    assert_eq!(by(&made(true), true, true), (Phase::Prepared, true));
    assert_eq!(by(&made(true), true, false), (RUNS, true));
    let (died, _) = by(&made(true), false, false);
    assert!(matches!(died, Phase::Exited { code: 137, .. }), "{died:?}");
    let removed = Record {
        removed: true,
        ..made(true)
    };
    assert_eq!(by(&removed, true, false), (Phase::Gone, false));
}
