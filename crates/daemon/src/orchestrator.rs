//! Makes and retires tasks as services want them.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use plan::{
    admit::{self, Refusal},
    orchestrate::{Failed, Orchestrator},
};
use store::Store;

use crate::mesh::{DecideError, Mesh};

/// How often old tombstones are looked for.
const SWEEP: Duration = Duration::from_secs(30);

/// Runs until the daemon ends.
pub(crate) async fn run<S: Store>(mesh: Arc<Mesh<S>>) {
    let mut state = mesh.subscribe();
    let mut orchestrator = Orchestrator::default();
    let mut sweep = tokio::time::Instant::now();
    loop {
        state.borrow_and_update();
        let (mut wake, mut rollbacks) = (None, Vec::new());
        let planned = mesh
            .decide(|state| {
                let plan = orchestrator.look(state, Timestamp::now(), &mut crate::random);
                (wake, rollbacks) = (plan.wake, plan.rollbacks);
                Ok::<_, std::convert::Infallible>(plan.tx)
            })
            .await;
        if let Err(error) = planned {
            tracing::error!(
                error = crate::chain(&error),
                "cannot write what tasks are wanted"
            );
        }
        for failed in rollbacks {
            roll_back(&mesh, &failed).await;
        }
        if sweep <= tokio::time::Instant::now() {
            let swept = mesh
                .decide(|state| {
                    Ok::<_, std::convert::Infallible>(plan::tombstones::sweep(
                        state,
                        Timestamp::now(),
                    ))
                })
                .await;
            if let Err(error) = swept {
                tracing::warn!(error = crate::chain(&error), "cannot sweep tombstones");
            }
            sweep = tokio::time::Instant::now() + SWEEP;
        }
        let pause = wake
            .and_then(|at| Duration::try_from(at - Timestamp::now()).ok())
            .unwrap_or(SWEEP)
            .clamp(Duration::from_millis(10), SWEEP);
        tokio::select! {
            changed = state.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Gives a service whose update failed its previous spec; where that cannot be, the
/// update stays where it is, and says why.
async fn roll_back<S: Store>(mesh: &Mesh<S>, failed: &Failed) {
    let Failed {
        service, version, ..
    } = failed;
    let held = crate::backend::held_ports();
    let routes = kernel::host::routes().unwrap_or_default();
    let back = mesh
        .admit(&held, &routes, |state, context| {
            let message = failed.message.clone();
            admit::rollback_failed(state, service, *version, message, context)
        })
        .await;
    let why = match back {
        Ok(_) => {
            tracing::warn!(%service, failed.message, "rolling back");
            return;
        }
        // somebody else was faster, and all is decided anew
        Err(DecideError::Refused(Refusal::OutOfSequence { .. } | Refusal::NotFound { .. })) => {
            return;
        }
        Err(error) => crate::chain(&error),
    };
    tracing::error!(%service, error = why, "cannot roll back");
    let message = format!("{}, but that cannot be: {why}", failed.message);
    let paused = mesh
        .decide(|state| admit::pause_update(state, service, message.clone()))
        .await;
    if let Err(error) = paused {
        tracing::error!(%service, error = crate::chain(&error), "cannot pause the update");
    }
}
