//! Makes and retires tasks as services want them.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use store::Store;

use crate::mesh::Mesh;

/// How often old tombstones are looked for.
const SWEEP: Duration = Duration::from_secs(30);

/// Runs until the daemon ends.
pub(crate) async fn run<S: Store>(mesh: Arc<Mesh<S>>) {
    let mut state = mesh.subscribe();
    let mut sweep = tokio::time::Instant::now();
    loop {
        state.borrow_and_update();
        let mut wake = None;
        let planned = mesh
            .decide(|state| {
                let (tx, next) =
                    plan::orchestrate::plan_tasks(state, Timestamp::now(), &mut crate::random);
                wake = next;
                Ok::<_, std::convert::Infallible>(tx)
            })
            .await;
        if let Err(error) = planned {
            tracing::error!(
                error = crate::chain(&error),
                "cannot write what tasks are wanted"
            );
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
