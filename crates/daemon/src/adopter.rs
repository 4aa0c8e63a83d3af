//! Takes containers that are not ours into the state, as their labels say.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use model::{Candidate, EventKind, RuntimeSpec, State, Transaction};
use plan::{
    admit::Context,
    adopt::{Step, healths, plan_adoption},
};
use runtime::guests::Candidates;
use store::Store;
use tokio::sync::watch;

use crate::{
    events::Events,
    mesh::{DecideError, Mesh},
    probe::Healths,
};

/// What could not be had, by the service's name in lower case.
pub(crate) type Problems = watch::Sender<BTreeMap<String, BTreeSet<String>>>;

/// Follows Docker.
pub(crate) struct Adopter<S> {
    pub(crate) mesh: Arc<Mesh<S>>,
    pub(crate) events: Arc<Events>,
    pub(crate) seen: Arc<Candidates>,
    /// What Docker says of their health, by task.
    pub(crate) guests: Arc<Healths>,
    pub(crate) problems: Arc<Problems>,
}

impl<S: Store> Adopter<S> {
    /// Runs until the daemon ends.
    pub(crate) async fn run(self) {
        let mut seen = self.seen.subscribe();
        let mut state = self.mesh.subscribe();
        loop {
            let containers = seen.borrow_and_update().clone();
            state.borrow_and_update();
            if let Some(containers) = containers {
                self.adopt(&containers).await;
                let of_tasks = healths(&self.mesh.state(), &containers);
                let of_tasks = of_tasks.into_iter().collect();
                self.guests.send_if_modified(|before| {
                    let changed = *before != of_tasks;
                    *before = of_tasks;
                    changed
                });
            }
            tokio::select! {
                changed = seen.changed() => if changed.is_err() { return },
                changed = state.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Steps until there is none.
    async fn adopt(&self, containers: &[Candidate]) {
        // who has none, and no service of such, costs nothing
        let state = self.mesh.state();
        let any = state
            .services
            .values()
            .any(|service| matches!(service.spec.task.runtime, RuntimeSpec::Adopted { .. }));
        if containers.is_empty() && !any {
            self.tell(BTreeMap::new());
            return;
        }
        // nearly always all is as it should be, and no port needs to be free
        let step = self.plan(&state, containers);
        if step.tx.is_empty() {
            return self.tell(step.problems);
        }
        let held = crate::backend::held_ports();
        let routes = kernel::host::routes().unwrap_or_default();
        loop {
            let (mut problems, mut done) = (BTreeMap::new(), false);
            let written = self
                .mesh
                .admit(&held, &routes, |state, context| {
                    let step = plan_adoption(state, &self.mesh.node, containers, context);
                    (problems, done) = (step.problems, step.tx.is_empty());
                    Ok::<Transaction, _>(step.tx)
                })
                .await;
            match written {
                Ok(_) if done => return self.tell(problems),
                Ok(_) => {}
                Err(DecideError::Refused(refusal)) => {
                    tracing::error!(%refusal, "cannot adopt containers");
                    return;
                }
                Err(error) => {
                    let error = crate::chain(&error);
                    tracing::error!(error, "cannot write what containers there are");
                    return;
                }
            }
        }
    }

    /// What would be written if no port was taken by others.
    fn plan(&self, state: &State, containers: &[Candidate]) -> Step {
        let mut context = Context {
            now: jiff::Timestamp::now(),
            random: &mut crate::random,
            held: &[],
            routes: &[],
        };
        plan_adoption(state, &self.mesh.node, containers, &mut context)
    }

    /// Tells what is new of what cannot be had.
    fn tell(&self, problems: BTreeMap<String, BTreeSet<String>>) {
        self.problems.send_if_modified(|before| {
            for (service, all) in &problems {
                let known = before.get(service);
                for why in all {
                    if known.is_some_and(|known| known.contains(why)) {
                        continue;
                    }
                    tracing::warn!(service, "{why}");
                    let event = self.events.here(EventKind::Service, "conflict");
                    self.events
                        .tell([event.with("name", service).with("reason", why)]);
                }
            }
            let changed = *before != problems;
            *before = problems;
            changed
        });
    }
}
