//! Which tasks' processes have ended, told to the data plane of their node at once: that
//! it is written down takes a commit and the agent's turn, and until then new connections
//! to such a task are refused.

use std::sync::Arc;

use imbl::OrdSet;
use model::{State, TaskId, TaskStatus};
use runtime::{Phase, Runtime};
use store::Store;
use tokio::sync::{broadcast::error::RecvError, watch};

use crate::mesh::Mesh;

/// The tasks that have ended and of which that is not written down yet.
pub(crate) type Ended = watch::Sender<OrdSet<TaskId>>;

/// Runs until the daemon ends.
pub(crate) async fn follow<S: Store>(
    mesh: Arc<Mesh<S>>,
    runtime: Arc<impl Runtime>,
    ended: Arc<Ended>,
) {
    let mut events = runtime.events();
    let mut state = mesh.subscribe();
    loop {
        let waiting = !ended.borrow().is_empty();
        tokio::select! {
            event = events.recv() => match event {
                Ok(event) => {
                    if matches!(event.phase, Phase::Ended | Phase::Exited { .. }) {
                        ended.send_if_modified(|all| all.insert(event.task).is_none());
                    }
                }
                // the agent looks at all
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            },
            _ = state.changed(), if waiting => {
                let state = state.borrow_and_update().clone();
                ended.send_if_modified(|all| {
                    let before = all.len();
                    *all = all.iter().filter(|id| is_news(&state, id)).cloned().collect();
                    all.len() != before
                });
            }
        }
    }
}

/// Whether the state does not know yet that a task has ended.
fn is_news(state: &State, task: &TaskId) -> bool {
    let is_over = |status: &TaskStatus| status.ended || status.state.is_final();
    state.status(task).is_some_and(|status| !is_over(status))
}

/// The state as it will be once it is written down that these have ended.
pub(crate) fn foreseen(state: &State, ended: &OrdSet<TaskId>) -> State {
    let mut foreseen = state.clone();
    for task in ended.iter().filter(|task| is_news(state, task)) {
        if let Some(status) = foreseen.statuses.get_mut(task) {
            Arc::make_mut(&mut status.value).ended = true;
        }
    }
    foreseen
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use model::{Revision, TaskState, Versioned};

    use super::*;

    #[test]
    fn who_has_ended_is_foreseen_until_it_is_written_down() {
        let id = TaskId::from_random([1; 16]);
        let mut state = State::default();
        let ended = OrdSet::unit(id.clone());
        assert_eq!(foreseen(&state, &ended), state, "a task that is gone");
        let running = TaskStatus {
            state: TaskState::Running,
            ..TaskStatus::new(id.clone(), Timestamp::UNIX_EPOCH)
        };
        let known = Versioned::new(Revision(1), running.clone());
        state.statuses.insert(id.clone(), known);
        assert!(is_news(&state, &id));
        assert_eq!(foreseen(&state, &OrdSet::new()), state);
        let known = Versioned::new(
            Revision(1),
            TaskStatus {
                ended: true,
                ..running
            },
        );
        let after = foreseen(&state, &ended);
        assert_eq!(after.statuses[&id], known);
        assert!(!is_news(&after, &id));
        assert_eq!(foreseen(&after, &ended), after);
    }
}
