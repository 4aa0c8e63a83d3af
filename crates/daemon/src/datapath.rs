//! Keeps the kernel as it is wanted: observe, plan, apply.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use kernel::Kernel;
use model::{Instance, State, TaskId};
use plan::{
    datapath::Settings,
    netns::{Netns, Place},
};
use store::Store;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use crate::mesh::Mesh;

/// How often the kernel is read in full, though nothing changed: others may have
/// changed it.
const RESYNC: Duration = Duration::from_secs(5);
/// How soon a pass that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The tasks whose namespace exists: what the agent tells the data plane.
pub(crate) type Sandboxes = watch::Sender<BTreeSet<TaskId>>;

/// How many passes may fail before who waits for one is told.
const PATIENCE: u32 = 5;

/// Asks for passes.
#[derive(Clone)]
pub(crate) struct Handle {
    requests: mpsc::UnboundedSender<Answer>,
}

/// Where somebody waits for a pass; an error is in words.
type Answer = oneshot::Sender<Result<(), String>>;

impl Handle {
    /// Returns once a pass that began after this call has gone through.
    ///
    /// # Errors
    /// The last of several passes that failed, as words.
    pub(crate) async fn sync(&self) -> Result<(), String> {
        let (done, wait) = oneshot::channel();
        let ended = || "the data plane's loop ended".to_owned();
        self.requests.send(done).map_err(|_| ended())?;
        wait.await.map_err(|_| ended())?
    }
}

/// What passes did so far, for `status` and tests.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub(crate) struct Counters {
    /// Passes that read the whole kernel state.
    pub(crate) full_passes: u64,
    /// Passes in all.
    pub(crate) passes: u64,
    /// Writes in all.
    pub(crate) writes: u64,
    /// Writes that repaired what others had changed.
    pub(crate) repairs: u64,
}

/// The reconcile loop of one node.
pub(crate) struct Reconciler<S> {
    pub(crate) mesh: Arc<Mesh<S>>,
    pub(crate) kernel: Arc<Kernel>,
    pub(crate) instance: Instance,
    pub(crate) settings: Settings,
    pub(crate) sandboxes: Arc<Sandboxes>,
    pub(crate) counters: watch::Sender<Counters>,
    requests: mpsc::UnboundedReceiver<Answer>,
}

impl<S: Store> Reconciler<S> {
    /// The loop's parts, and the handle that asks it for passes.
    pub(crate) fn new(
        mesh: Arc<Mesh<S>>,
        kernel: Arc<Kernel>,
        instance: Instance,
        settings: Settings,
        sandboxes: Arc<Sandboxes>,
        counters: watch::Sender<Counters>,
    ) -> (Self, Handle) {
        let (sender, requests) = mpsc::unbounded_channel();
        let this = Self {
            mesh,
            kernel,
            instance,
            settings,
            sandboxes,
            counters,
            requests,
        };
        (this, Handle { requests: sender })
    }

    /// Runs until the daemon ends.
    pub(crate) async fn run(mut self) {
        let mut state = self.mesh.subscribe();
        let mut sandboxes = self.sandboxes.subscribe();
        // what the kernel is believed to hold; `None`: to be read
        let mut believed: Option<BTreeMap<Place, Netns>> = None;
        // tasks whose namespace has no name: somebody deleted it, and the agent gives
        // it one again
        let mut unnamed: BTreeSet<TaskId> = BTreeSet::new();
        let mut resync = Instant::now();
        let mut waiting: Vec<(Answer, u32)> = Vec::new();
        loop {
            while let Ok(request) = self.requests.try_recv() {
                waiting.push((request, 0));
            }
            if Instant::now() >= resync {
                believed = None;
            }
            let wanted = {
                let state = state.borrow_and_update().clone();
                let sandboxes = sandboxes.borrow_and_update().clone();
                // all are looked for when all is read anyway, else only those that were missing
                if believed.is_none() {
                    unnamed.clone_from(&sandboxes);
                }
                unnamed
                    .retain(|task| kernel::netns::inode(&self.instance.task_netns(task)).is_err());
                let mut wanted = self.wanted(&state, &sandboxes);
                // what is inside cannot be looked at; the ways to it stay
                wanted.retain(|place, _| !matches!(place, Place::Task(id) if unnamed.contains(id)));
                wanted
            };
            let passed = self.pass(&mut believed, wanted).await;
            let next = match passed {
                Ok(()) => {
                    for (done, _) in waiting.drain(..) {
                        // who does not wait any more does not mind
                        let _ = done.send(Ok(()));
                    }
                    if Instant::now() >= resync {
                        resync = Instant::now() + RESYNC;
                    }
                    resync
                }
                Err(error) => {
                    believed = None;
                    for (_, failures) in &mut waiting {
                        *failures += 1;
                    }
                    for (done, _) in waiting.extract_if(.., |(_, failures)| *failures >= PATIENCE) {
                        let _ = done.send(Err(error.clone()));
                    }
                    Instant::now() + RETRY
                }
            };
            tokio::select! {
                _ = state.changed() => {}
                _ = sandboxes.changed() => {}
                Some(request) = self.requests.recv() => waiting.push((request, 0)),
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }

    fn wanted(&self, state: &State, sandboxes: &BTreeSet<TaskId>) -> BTreeMap<Place, Netns> {
        let (node, instance) = (&self.mesh.node, &self.instance);
        plan::datapath::wanted(state, node, instance, sandboxes, &self.settings)
    }

    /// One pass; the first of its errors, in words.
    async fn pass(
        &self,
        believed: &mut Option<BTreeMap<Place, Netns>>,
        wanted: BTreeMap<Place, Netns>,
    ) -> Result<(), String> {
        let known = believed.take();
        let adopting = self.counters.borrow().full_passes == 0;
        let full = known.is_none();
        let observed = match known {
            Some(known) => known,
            None => match observe_places(&self.kernel, &self.instance, &wanted).await {
                Ok(observed) => observed,
                Err(error) => {
                    let error = crate::chain(&error);
                    tracing::error!(error, "cannot read the kernel's state");
                    return Err(error);
                }
            },
        };
        let ops = plan::plan_writes(&observed, &wanted);
        if !ops.is_empty() {
            tracing::debug!(writes = ops.len(), full, ?ops, "applying");
        }
        let errors = self.kernel.apply(&ops).await;
        self.counters.send_modify(|counters| {
            counters.passes += 1;
            counters.full_passes += u64::from(full);
            counters.writes += ops.len() as u64;
            if full && !adopting {
                counters.repairs += ops.len() as u64;
            }
        });
        for (index, error) in &errors {
            let op = ops.get(*index);
            tracing::warn!(
                ?op,
                error = crate::chain(error),
                "a write to the kernel failed"
            );
        }
        match errors.first() {
            Some((_, error)) => Err(crate::chain(error)),
            None => {
                *believed = Some(wanted);
                Ok(())
            }
        }
    }
}

/// Reads every wanted place, making the two namespaces of the node where they
/// are missing. A task's namespace that is missing is left to its agent.
pub(crate) async fn observe_places(
    kernel: &Kernel,
    instance: &Instance,
    wanted: &BTreeMap<Place, Netns>,
) -> Result<BTreeMap<Place, Netns>, kernel::Error> {
    let mut observed = BTreeMap::new();
    for (place, netns) in wanted {
        let sysctls: BTreeSet<String> = netns.sysctls.keys().cloned().collect();
        let mut seen = kernel.observe(place, &sysctls).await?;
        if seen.is_none() {
            let name = match place {
                Place::Ingress => instance.ingress_netns(),
                Place::Router => instance.router_netns(),
                Place::Host | Place::Task(_) => continue,
            };
            kernel::netns::create(&name)?;
            seen = kernel.observe(place, &sysctls).await?;
        }
        if let Some(seen) = seen {
            observed.insert(place.clone(), seen);
        }
    }
    Ok(observed)
}
