//! What a task is at, by what Docker says of its two containers and what was
//! written down.

use jiff::Timestamp;
use model::{Health, ProcessIdentity, TaskId};

use super::record::Record;
use crate::{Observed, Phase};

/// Exit status of a task whose end nobody saw: that of one that was killed.
const DIED: i32 = 137;

/// One of a task's containers, as Docker has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Container {
    /// What it is at.
    pub(crate) state: State,
    /// What its check says.
    pub(crate) health: Health,
}

/// What a container is at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Made, never started.
    Created,
    /// Its first process runs.
    Running {
        /// Which.
        pid: u32,
        /// Which exactly; `None`: it ended since Docker was asked.
        identity: Option<ProcessIdentity>,
    },
    /// It ended, or could not start.
    Ended {
        /// Exit status.
        code: i32,
        /// What Docker says of it.
        error: String,
        /// It never ran.
        rejected: bool,
        /// When.
        at: Timestamp,
    },
}

/// Both of a task's containers, where there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) sandbox: Option<Container>,
    pub(crate) task: Option<Container>,
}

impl Pair {
    /// The sandbox's process, while that runs.
    pub(crate) fn sandbox_identity(&self) -> Option<&ProcessIdentity> {
        match &self.sandbox.as_ref()?.state {
            State::Running { identity, .. } => identity.as_ref(),
            _ => None,
        }
    }
}

fn died(error: &str, at: Timestamp) -> Phase {
    Phase::Exited {
        code: DIED,
        error: error.to_owned(),
        rejected: false,
        at,
    }
}

/// What a task is at, where Docker says what there is. `boot_id` is this start of
/// the machine's.
pub(crate) fn by_docker(
    task: &TaskId,
    record: &Record,
    pair: &Pair,
    boot_id: &str,
    now: Timestamp,
) -> Observed {
    let sandbox = pair.sandbox_identity();
    let (phase, identity) = if record.removed {
        (Phase::Gone, None)
    } else {
        match pair.task.as_ref().map(|task| (&task.state, task.health)) {
            Some((State::Running { pid, identity }, health)) => match identity {
                Some(identity) if !is_in_its_netns(record, identity) => {
                    let error = "its container was started again by another than ipvsmesh, without its network";
                    (died(error, now), None)
                }
                identity => {
                    let identity = identity.as_ref().or(record.task.as_ref());
                    (Phase::Running { pid: *pid, health }, identity.cloned())
                }
            },
            Some((
                State::Ended {
                    code,
                    error,
                    rejected,
                    at,
                },
                _,
            )) => {
                let phase = if record.boot_id == boot_id || *rejected {
                    Phase::Exited {
                        code: *code,
                        error: error.clone(),
                        rejected: *rejected,
                        at: *at,
                    }
                } else {
                    died("the machine was started anew", *at)
                };
                (phase, sandbox.cloned())
            }
            Some((State::Created, _)) => match sandbox {
                Some(identity) => (Phase::Prepared, Some(identity.clone())),
                None => (Phase::Gone, None),
            },
            None if record.started => {
                let error = "its container was removed by another than ipvsmesh";
                (died(error, now), sandbox.cloned())
            }
            // half made
            None => (Phase::Gone, None),
        }
    };
    Observed {
        task: task.clone(),
        phase,
        identity,
    }
}

/// A container that was restarted by hand may be in another namespace.
fn is_in_its_netns(record: &Record, identity: &ProcessIdentity) -> bool {
    let known = record.sandbox.as_ref();
    known.is_none_or(|known| {
        known.boot_id == identity.boot_id && known.netns_inode == identity.netns_inode
    })
}

/// What a task is at, where Docker does not answer: its processes may well live.
/// `lives` tells whether exactly that process does, `health` is what was last known.
pub(crate) fn by_processes(
    task: &TaskId,
    record: &Record,
    lives: impl Fn(&ProcessIdentity) -> bool,
    health: Health,
    now: Timestamp,
) -> Observed {
    let living = |identity: &Option<ProcessIdentity>| identity.clone().filter(|id| lives(id));
    let sandbox = living(&record.sandbox);
    let (phase, identity) = match &record.task {
        _ if record.removed => (Phase::Gone, None),
        Some(process) => match living(&record.task) {
            Some(identity) => {
                let pid = process.pid;
                (Phase::Running { pid, health }, Some(identity))
            }
            None => {
                let error = "it ended while Docker did not answer; its exit status is not known";
                (died(error, now), sandbox)
            }
        },
        // told to start, and it is not known what came of it
        None if sandbox.is_some() => (Phase::Prepared, sandbox),
        None => (Phase::Gone, None),
    };
    Observed {
        task: task.clone(),
        phase,
        identity,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: &str = "now";

    fn task() -> TaskId {
        TaskId::from_random([5; 16])
    }

    fn process(pid: u32, netns_inode: u64) -> ProcessIdentity {
        ProcessIdentity {
            pid,
            start_time: 1,
            boot_id: BOOT.to_owned(),
            netns_inode,
        }
    }

    fn running(pid: u32, netns: u64) -> Option<Container> {
        Some(Container {
            state: State::Running {
                pid,
                identity: Some(process(pid, netns)),
            },
            health: Health::Healthy,
        })
    }

    fn is(state: State) -> Option<Container> {
        Some(Container {
            state,
            health: Health::None,
        })
    }

    fn ended(code: i32, rejected: bool) -> Option<Container> {
        is(State::Ended {
            code,
            error: "why".to_owned(),
            rejected,
            at: Timestamp::UNIX_EPOCH,
        })
    }

    fn made() -> Record {
        Record {
            name: "web.1".to_owned(),
            boot_id: BOOT.to_owned(),
            sandbox: Some(process(10, 77)),
            ..Record::default()
        }
    }

    fn look(record: &Record, sandbox: Option<Container>, own: Option<Container>) -> Observed {
        let pair = Pair { sandbox, task: own };
        by_docker(&task(), record, &pair, BOOT, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_life_without_accidents() {
        let record = made();
        // half made
        assert_eq!(look(&record, None, None).phase, Phase::Gone);
        assert_eq!(look(&record, running(10, 77), None).phase, Phase::Gone);
        let prepared = look(&record, running(10, 77), is(State::Created));
        assert_eq!(prepared.phase, Phase::Prepared);
        assert_eq!(prepared.identity, Some(process(10, 77)));
        let record = Record {
            started: true,
            ..record
        };
        let runs = Phase::Running {
            pid: 11,
            health: Health::Healthy,
        };
        // with its sandbox, and without
        for sandbox in [running(10, 77), ended(137, false), None] {
            let now = look(&record, sandbox, running(11, 77));
            assert_eq!(now.phase, runs);
            assert_eq!(now.identity, Some(process(11, 77)));
        }
        let exited = look(&record, ended(137, false), ended(3, false));
        assert!(
            matches!(
                exited.phase,
                Phase::Exited {
                    code: 3,
                    rejected: false,
                    ..
                }
            ),
            "{exited:?}"
        );
        assert_eq!(exited.identity, None);
        let record = Record {
            removed: true,
            ..record
        };
        // its container stays for its log
        assert_eq!(look(&record, None, ended(3, false)).phase, Phase::Gone);
    }

    #[test]
    fn accidents_are_told() {
        let fails = |record: &Record, sandbox, own, word: &str| {
            let observed = look(record, sandbox, own);
            let Phase::Exited {
                code,
                error,
                rejected,
                ..
            } = &observed.phase
            else {
                panic!("{observed:?}");
            };
            assert_eq!((*code, *rejected), (137, false));
            assert!(error.contains(word), "{error}");
        };
        let record = Record {
            started: true,
            ..made()
        };
        fails(&record, None, None, "removed");
        fails(
            &record,
            running(20, 88),
            running(21, 88),
            "without its network",
        );
        let before = Record {
            boot_id: "before".to_owned(),
            ..record.clone()
        };
        fails(&before, None, ended(0, false), "started anew");
        // a program that is not there, and a sandbox that died before the task began
        let refused = look(&record, running(10, 77), ended(127, true));
        assert!(
            matches!(
                refused.phase,
                Phase::Exited {
                    code: 127,
                    rejected: true,
                    ..
                }
            ),
            "{refused:?}"
        );
        let record = made();
        let lost = look(&record, ended(137, false), is(State::Created));
        assert_eq!((lost.phase, lost.identity), (Phase::Gone, None));
    }

    #[test]
    fn a_process_that_ended_since_docker_was_asked_is_told_by_its_event() {
        let record = Record {
            started: true,
            task: Some(process(11, 77)),
            ..made()
        };
        let own = is(State::Running {
            pid: 11,
            identity: None,
        });
        let now = look(&record, None, own);
        assert!(
            matches!(now.phase, Phase::Running { pid: 11, .. }),
            "{now:?}"
        );
        assert_eq!(now.identity, Some(process(11, 77)));
    }

    #[test]
    fn without_docker_processes_tell() {
        let by = |record: &Record, living: &[u32]| {
            let lives = |id: &ProcessIdentity| living.contains(&id.pid);
            by_processes(
                &task(),
                record,
                lives,
                Health::Healthy,
                Timestamp::UNIX_EPOCH,
            )
        };
        let record = made();
        assert_eq!(by(&record, &[10]).phase, Phase::Prepared);
        assert_eq!(by(&record, &[]).phase, Phase::Gone);
        let record = Record {
            started: true,
            task: Some(process(11, 77)),
            ..record
        };
        let runs = Phase::Running {
            pid: 11,
            health: Health::Healthy,
        };
        assert_eq!(by(&record, &[11]).phase, runs);
        assert_eq!(by(&record, &[11]).identity, Some(process(11, 77)));
        let died = by(&record, &[]);
        assert!(
            matches!(died.phase, Phase::Exited { code: 137, .. }),
            "{died:?}"
        );
        let record = Record {
            removed: true,
            ..record
        };
        assert_eq!(by(&record, &[11]).phase, Phase::Gone);
    }
}
