//! Keeps the kernel as it is wanted: observe, plan, apply.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use imbl::OrdSet;
use kernel::Kernel;
use model::{Instance, State, TaskId};
use plan::{
    datapath::{Datapath, Settings},
    netns::{Op, Place, Places},
};
use store::Store;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use crate::{
    ended::{Ended, foreseen},
    events::Events,
    mesh::Mesh,
    metrics::Timings,
    repairs::Looked,
};

/// How often the kernel is asked whether it is still as it was left: others may have
/// changed what it tells nobody of.
const CHECK: Duration = Duration::from_secs(3);
/// How often it is read in full, for what the check does not see.
const RESYNC: Duration = Duration::from_secs(60);
/// Looking takes at most one part in so many of the time: with ten thousands of services
/// it is done less often.
const SPARE: u32 = 4;
/// Tasks' namespaces that are looked into at each check, one after the other.
const TASKS_AT_ONCE: usize = 32;
/// How long changes that the kernel tells of are gathered: they come in crowds.
const GATHER: Duration = Duration::from_millis(50);
/// Where nothing is repaired it is not.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);
/// How soon a pass that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The tasks whose namespace exists: what the agent tells the data plane.
pub(crate) type Sandboxes = watch::Sender<OrdSet<TaskId>>;

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

/// What the kernel is made to be.
#[derive(Clone, Debug, Default)]
pub(crate) struct Followed {
    /// By this state, with what has ended since.
    pub(crate) state: Arc<State>,
    pub(crate) sandboxes: OrdSet<TaskId>,
    /// What both ask for; who looks whether it is so works that out by itself.
    wanted: Places,
    /// It is; else it is being made so, or could not be.
    pub(crate) done: bool,
}

impl Followed {
    /// Takes what is to be followed from now on; whether that asks for something else.
    fn renew(&mut self, next: Self) -> bool {
        let done = self.done && self.wanted.ptr_eq(&next.wanted);
        *self = Self { done, ..next };
        !done
    }
}

/// Who is told what passes do.
pub(crate) struct Reports {
    pub(crate) counters: watch::Sender<Counters>,
    pub(crate) followed: watch::Sender<Followed>,
    /// As they are followed.
    pub(crate) settings: watch::Sender<Settings>,
    pub(crate) events: Arc<Events>,
    pub(crate) timings: Timings,
}

/// What the data plane is told beside the state.
pub(crate) struct Told {
    pub(crate) sandboxes: Arc<Sandboxes>,
    pub(crate) ended: Arc<Ended>,
}

/// The reconcile loop of one node.
pub(crate) struct Reconciler<S> {
    pub(crate) mesh: Arc<Mesh<S>>,
    pub(crate) kernel: Arc<Kernel>,
    pub(crate) instance: Instance,
    told: Told,
    reports: Reports,
    requests: mpsc::UnboundedReceiver<Answer>,
    /// Those that are known to be available.
    schedulers: BTreeSet<String>,
    /// What others change is set right.
    repairs: bool,
    /// Established connections of published ports go past the host's rules.
    shortens: bool,
    /// Why the kernel took no flowtable last.
    no_flowtable: Option<String>,
}

impl<S: Store> Reconciler<S> {
    /// The loop's parts, and the handle that asks it for passes.
    pub(crate) fn new(
        mesh: Arc<Mesh<S>>,
        kernel: Arc<Kernel>,
        instance: Instance,
        told: Told,
        reports: Reports,
    ) -> (Self, Handle) {
        let (sender, requests) = mpsc::unbounded_channel();
        let this = Self {
            mesh,
            kernel,
            instance,
            told,
            reports,
            requests,
            schedulers: BTreeSet::new(),
            repairs: true,
            shortens: false,
            no_flowtable: None,
        };
        (this, Handle { requests: sender })
    }

    /// Whether what others change is set right, or only told of. What the state asks for
    /// is written in any case.
    pub(crate) fn repairing(self, repairs: bool) -> Self {
        Self { repairs, ..self }
    }

    /// Whether established connections of published ports go past the host's rules.
    pub(crate) fn shortening(self, shortens: bool) -> Self {
        Self { shortens, ..self }
    }

    /// Runs until the daemon ends.
    pub(crate) async fn run(mut self) {
        let mut state = self.mesh.subscribe();
        let mut sandboxes = self.told.sandboxes.subscribe();
        let mut ended = self.told.ended.subscribe();
        let mut datapath = Datapath::new(
            self.mesh.node.clone(),
            self.instance.clone(),
            self.reports.settings.borrow().clone(),
        );
        let mut belief = Belief::default();
        let (mut check, mut resync) = (Instant::now() + CHECK, Instant::now());
        let mut waiting: Vec<(Answer, u32)> = Vec::new();
        loop {
            while let Ok(request) = self.requests.try_recv() {
                waiting.push((request, 0));
            }
            if Instant::now() >= resync {
                belief.doubt_all();
            }
            if belief.all_doubted && self.shortens {
                self.shorten_what_can_be(&mut datapath).await;
            }
            let wanted = {
                let state: Arc<State> = state.borrow_and_update().clone();
                let state = foreseen(&state, &ended.borrow_and_update());
                let sandboxes = sandboxes.borrow_and_update().clone();
                let mut wanted = datapath.follow(&state, &sandboxes).clone();
                let followed = Followed {
                    state: Arc::new(state),
                    sandboxes: sandboxes.clone(),
                    wanted: wanted.clone(),
                    done: false,
                };
                let told = &self.reports.followed;
                told.send_if_modified(|before| before.renew(followed));
                // what is inside cannot be looked at; the ways to it stay
                for task in belief.unnamed(&sandboxes, &self.instance) {
                    wanted.remove(&Place::Task(task.clone()));
                }
                wanted
            };
            let (begun, full) = (Instant::now(), belief.all_doubted);
            let passed = self.pass(&mut belief, wanted).await;
            if self.no_flowtable.is_some() {
                // until all is read again
                self.shorten(&mut datapath, OrdSet::new());
            }
            self.reports
                .timings
                .pass(full, begun.elapsed(), passed.is_err());
            let next = match passed {
                Ok(()) => {
                    let done =
                        |followed: &mut Followed| !std::mem::replace(&mut followed.done, true);
                    self.reports.followed.send_if_modified(done);
                    for (done, _) in waiting.drain(..) {
                        // who does not wait any more does not mind
                        let _ = done.send(Ok(()));
                    }
                    if full {
                        let after = RESYNC.max(begun.elapsed() * SPARE);
                        resync = Instant::now() + if self.repairs { after } else { NEVER };
                    }
                    check.min(resync)
                }
                Err(error) => {
                    belief.doubt_all();
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
                _ = ended.changed() => {}
                Some(request) = self.requests.recv() => waiting.push((request, 0)),
                told = self.kernel.notified() => {
                    tokio::time::sleep(GATHER).await;
                    let differing = match told {
                        Ok(()) => self.kernel.told(&belief.places).await,
                        Err(error) => Err(error),
                    };
                    belief.doubt(differing, self.repairs);
                }
                () = tokio::time::sleep_until(next) => {
                    let begun = Instant::now();
                    if begun >= check {
                        let differing = self.kernel.drifted(&belief.places).await;
                        belief.doubt(differing, self.repairs);
                        if self.repairs {
                            belief.doubt_some_tasks();
                        }
                        check = Instant::now() + CHECK.max(begun.elapsed() * SPARE);
                    }
                }
            }
        }
    }

    /// One pass; the first of its errors, in words.
    async fn pass(&mut self, belief: &mut Belief, mut wanted: Places) -> Result<(), String> {
        let adopting = self.reports.counters.borrow().full_passes == 0;
        let full = belief.all_doubted;
        let repairing = full || !belief.doubted.is_empty();
        let looked = belief.looked();
        let mut observed = std::mem::take(&mut belief.places);
        for place in std::mem::take(&mut belief.doubted) {
            observed.remove(&place);
        }
        if std::mem::take(&mut belief.all_doubted) {
            observed.clear();
        }
        if let Err(error) =
            observe_places(&self.kernel, &self.instance, &wanted, &mut observed).await
        {
            let error = crate::chain(&error);
            tracing::error!(error, "cannot read the kernel's state");
            return Err(error);
        }
        let ops = Arc::new(plan::plan_writes(&observed, &wanted));
        if !ops.is_empty() {
            tracing::debug!(writes = ops.len(), full, ?ops, "applying");
        }
        self.load_schedulers(&ops).await;
        let errors = self.kernel.apply(Arc::clone(&ops)).await;
        self.reports.counters.send_modify(|counters| {
            counters.passes += 1;
            counters.full_passes += u64::from(full);
            counters.writes += ops.len() as u64;
            if repairing && !adopting {
                counters.repairs += ops.len() as u64;
            }
        });
        if let Some(looked) = looked.filter(|_| !ops.is_empty()) {
            let named = |place: &Place| self.named(place);
            let repairs = looked.repairs(&self.reports.events, &observed, &ops, &errors, named);
            self.reports.events.tell(repairs);
        }
        let (flowtable, errors): (Vec<_>, Vec<_>) = errors
            .into_iter()
            .partition(|(index, _)| ops.get(*index).is_some_and(makes_flowtable));
        self.without_flowtable(&flowtable, &ops, &mut wanted);
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
                belief.places = wanted;
                Ok(())
            }
        }
    }
}

fn makes_flowtable((_, op): &(Place, Op)) -> bool {
    matches!(op, Op::SetFlowtable(_))
}

impl<S: Store> Reconciler<S> {
    /// Looks between which links connections can be shortened.
    async fn shorten_what_can_be(&self, datapath: &mut Datapath) {
        match self.kernel.ways_in().await {
            Ok(links) => self.shorten(datapath, links),
            Err(error) => {
                tracing::warn!(error = crate::chain(&error), "cannot read the host's links");
            }
        }
    }

    fn shorten(&self, datapath: &mut Datapath, links: OrdSet<String>) {
        datapath.shorten(links.clone());
        self.reports.settings.send_if_modified(|settings| {
            let before = std::mem::replace(&mut settings.shortened, links);
            before != settings.shortened
        });
    }

    /// The mesh does without a flowtable where the kernel takes none.
    fn without_flowtable(
        &mut self,
        refused: &[(usize, kernel::Error)],
        ops: &[(Place, Op)],
        wanted: &mut Places,
    ) {
        let refused = refused.first().map(|(_, error)| crate::chain(error));
        if let Some(error) = &refused {
            if self.no_flowtable != refused {
                tracing::warn!(
                    error,
                    "published ports' connections go by all of the host's rules"
                );
            }
            if let Some(host) = wanted.get_mut(&Place::Host) {
                host.flowtable = None;
            }
            self.no_flowtable = refused;
        } else if ops.iter().any(makes_flowtable) {
            self.no_flowtable = None;
        }
    }

    /// What people call a place.
    fn named(&self, place: &Place) -> String {
        match place {
            Place::Host => "host".to_owned(),
            Place::Ingress => "ingress".to_owned(),
            Place::Router => "router".to_owned(),
            Place::Task(id) => {
                let state = self.mesh.state();
                let task = state.tasks.get(id);
                task.map_or_else(|| id.to_string(), |task| format!("task {}", task.name()))
            }
        }
    }
}

impl<S> Reconciler<S> {
    /// Makes the schedulers of these writes available; one that cannot be is refused by
    /// the write itself.
    async fn load_schedulers(&mut self, ops: &[(Place, Op)]) {
        let named = ops.iter().filter_map(|(_, op)| match op {
            Op::NewService(.., how) | Op::SetService(.., how) => Some(&how.scheduler),
            _ => None,
        });
        let new: BTreeSet<String> = named
            .filter(|name| !self.schedulers.contains(&***name))
            .map(|name| name.to_string())
            .collect();
        for name in new {
            let load = move || kernel::scheduler::load(&name).map(|()| name);
            match tokio::task::spawn_blocking(load).await {
                Ok(Ok(name)) => {
                    self.schedulers.insert(name);
                }
                Ok(Err(error)) => tracing::warn!(error = crate::chain(&error), "no such scheduler"),
                Err(error) => tracing::error!(%error, "loading a scheduler panicked"),
            }
        }
    }
}

/// What the kernel is believed to hold, and what of it is to be read again.
struct Belief {
    places: Places,
    doubted: BTreeSet<Place>,
    all_doubted: bool,
    /// Tasks whose namespace has no name: somebody deleted it, and the agent gives it one
    /// again.
    unnamed: BTreeSet<TaskId>,
    /// The task up to which namespaces were looked into.
    seen: Option<Place>,
    /// What differed at the last look.
    differing: BTreeMap<Place, &'static str>,
}

impl Default for Belief {
    /// Nothing is known.
    fn default() -> Self {
        Self {
            places: Places::new(),
            doubted: BTreeSet::new(),
            all_doubted: true,
            unnamed: BTreeSet::new(),
            seen: None,
            differing: BTreeMap::new(),
        }
    }
}

impl Belief {
    fn doubt_all(&mut self) {
        self.all_doubted = true;
    }

    /// What repairs are told from; nothing where none can be: nothing is read, or nothing
    /// is believed since the pass before failed, which has told.
    fn looked(&self) -> Option<Looked> {
        let doubts = self.all_doubted || !self.doubted.is_empty();
        (doubts && !self.places.is_empty()).then(|| Looked {
            believed: self.places.clone(),
            doubted: (!self.all_doubted).then(|| self.doubted.iter().cloned().collect()),
        })
    }

    /// What differs is read again; everything, where that could not be found out.
    fn doubt(
        &mut self,
        differing: Result<BTreeMap<Place, &'static str>, kernel::Error>,
        repairs: bool,
    ) {
        match differing {
            Ok(differing) => {
                for (place, what) in &differing {
                    // what is left as it is differs at each look
                    if repairs || self.differing.get(place) != Some(what) {
                        tracing::info!(?place, what, "somebody changed the kernel's state");
                    }
                }
                if repairs {
                    self.doubted.extend(differing.keys().cloned());
                }
                self.differing = differing;
            }
            Err(error) => {
                tracing::warn!(
                    error = crate::chain(&error),
                    "cannot check the kernel's state"
                );
                self.doubt_all();
            }
        }
    }

    /// The next few tasks: nothing tells of changes in their namespaces.
    fn doubt_some_tasks(&mut self) {
        use std::ops::Bound::{Excluded, Unbounded};
        let first = Place::Router;
        let from = self.seen.clone().unwrap_or(first);
        let next = self.places.range((Excluded(from), Unbounded));
        let next: Vec<Place> = next
            .map(|(place, _)| place.clone())
            .filter(|place| matches!(place, Place::Task(_)))
            .take(TASKS_AT_ONCE)
            .collect();
        // at the end it begins anew
        self.seen = next.last().filter(|_| next.len() == TASKS_AT_ONCE).cloned();
        self.doubted.extend(next);
    }

    /// The tasks whose namespace cannot be found by its name. All are looked for when all
    /// is read anyway, else only those that are looked into or were missing.
    fn unnamed(&mut self, sandboxes: &OrdSet<TaskId>, instance: &Instance) -> &BTreeSet<TaskId> {
        if self.all_doubted {
            self.unnamed = sandboxes.iter().cloned().collect();
        }
        for place in &self.doubted {
            if let Place::Task(task) = place {
                self.unnamed.insert(task.clone());
            }
        }
        let missing = |task: &TaskId| kernel::netns::inode(&instance.task_netns(task)).is_err();
        self.unnamed
            .retain(|task| sandboxes.contains(task) && missing(task));
        &self.unnamed
    }
}

/// Reads the wanted places that are not known, making the two namespaces of the node
/// where they are missing. A task's namespace that is missing is left to its agent.
pub(crate) async fn observe_places(
    kernel: &Kernel,
    instance: &Instance,
    wanted: &Places,
    known: &mut Places,
) -> Result<(), kernel::Error> {
    let unknown = known.diff(wanted).filter_map(|item| match item {
        imbl::ordmap::DiffItem::Add(place, netns) => Some((place.clone(), netns.clone())),
        _ => None,
    });
    let unknown: Vec<_> = unknown.collect();
    for (place, netns) in unknown {
        let sysctls: BTreeSet<String> = netns.sysctls.keys().cloned().collect();
        let mut seen = kernel.observe(&place, &sysctls).await?;
        if seen.is_none() {
            let name = match &place {
                Place::Ingress => instance.ingress_netns(),
                Place::Router => instance.router_netns(),
                Place::Host | Place::Task(_) => continue,
            };
            kernel::netns::create(&name)?;
            seen = kernel.observe(&place, &sysctls).await?;
        }
        if let Some(seen) = seen {
            known.insert(place, seen);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_followed_is_done_until_something_else_is_wanted() {
        let wanted = Places::unit(Place::Host, plan::netns::Netns::default());
        let next = |wanted: &Places, revision| {
            let mut state = State::default();
            state.apply(model::Revision(revision), []);
            Followed {
                state: Arc::new(state),
                wanted: wanted.clone(),
                ..Followed::default()
            }
        };
        let mut followed = Followed::default();
        assert!(followed.renew(next(&wanted, 1)));
        assert!(!followed.done);
        followed.done = true;
        assert!(!followed.renew(next(&wanted, 2)), "no news");
        assert!(followed.done && followed.state.revision == model::Revision(2));
        let other = Places::unit(Place::Router, plan::netns::Netns::default());
        assert!(followed.renew(next(&other, 3)));
        assert!(!followed.done);
    }
}
