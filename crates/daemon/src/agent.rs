//! The node agent: takes each task of this node through its life, one step at
//! a time, as [`plan::agent::next_action`] says.

mod due;

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use imbl::{OrdMap, OrdSet};
use jiff::Timestamp;
use kernel::{Kernel, Watched};
use model::{
    FileRef, Health, Instance, Object, ProcessIdentity, State, Task, TaskId, TaskState, TaskStatus,
    Transaction, differences,
};
use plan::{
    agent::{
        Action, Leaving, Seen, UNHEALTHY, drain_timeout, next_action, next_action_elsewhere, ways,
    },
    template::Placeholders,
};
use runtime::{Observed, Phase, Runtime, TaskFile, TaskFiles};
use store::Store;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

use self::due::Due;
use crate::{
    datapath,
    mesh::Mesh,
    probe::{Healths, health},
};

/// How often the runtime is looked at in full, though it said nothing.
const RESYNC: Duration = Duration::from_secs(10);
/// How soon a step that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// What stood in a step's way, and goes by itself, is not there any more when the next try
/// takes longer than this.
const WAY: Duration = Duration::from_secs(2);
/// How often connections are counted while a task waits for its own to end.
const COUNT: Duration = Duration::from_millis(500);

/// Open connections of tasks.
type Connections = BTreeMap<TaskId, u64>;

/// The agent of one node.
pub(crate) struct Agent<S, R> {
    pub(crate) mesh: Arc<Mesh<S>>,
    pub(crate) runtime: Arc<R>,
    pub(crate) kernel: Arc<Kernel>,
    pub(crate) instance: Instance,
    pub(crate) datapath: datapath::Handle,
    pub(crate) sandboxes: Arc<datapath::Sandboxes>,
    pub(crate) healths: Arc<Healths>,
    /// What Docker says of containers that are not ours.
    pub(crate) guests: Arc<Healths>,
}

impl<S: Store, R: Runtime> Agent<S, R> {
    /// Takes over what runs already: tasks of the state keep their sandboxes,
    /// everything else of ours is taken away.
    pub(crate) async fn adopt(&self) -> Result<BTreeMap<TaskId, Observed>, runtime::RuntimeError> {
        let state = self.mesh.state();
        let mut seen = BTreeMap::new();
        for observed in self.runtime.observe().await? {
            if state.tasks.contains_key(&observed.task) {
                seen.insert(observed.task.clone(), observed);
            } else {
                tracing::info!(task = %observed.task, "removing a task that nobody knows");
                let (runtime, task) = (self.runtime.clone(), observed.task);
                // may take long, and nothing waits for it
                tokio::spawn(async move {
                    let removed = runtime.remove(&task).await;
                    if let Err(error) = removed.and(runtime.forget(&task).await) {
                        let error = crate::chain(&error);
                        tracing::warn!(%task, error, "cannot remove a task that nobody knows");
                    }
                });
            }
        }
        let prefix = format!("{}-", self.instance.prefix());
        for name in kernel::netns::list(&prefix).unwrap_or_default() {
            let task = name
                .strip_prefix(&prefix)
                .and_then(|id| id.parse::<TaskId>().ok());
            let Some(task) = task else { continue };
            let lives = seen.get(&task).is_some_and(|o| o.identity.is_some());
            if !lives && let Err(error) = kernel::netns::delete(&name) {
                tracing::warn!(%name, error = crate::chain(&error), "cannot delete a namespace");
            }
        }
        let living = seen.values().filter(|observed| observed.identity.is_some());
        let sandboxes: OrdSet<_> = living.map(|observed| observed.task.clone()).collect();
        self.pin_all(&sandboxes, &seen);
        self.sandboxes.send_replace(sandboxes);
        Ok(seen)
    }

    /// Runs until the daemon ends.
    pub(crate) async fn run(self: Arc<Self>, mut seen: BTreeMap<TaskId, Observed>) {
        let mut states = self.mesh.subscribe();
        let mut events = self.runtime.events();
        let mut healths = self.healths.subscribe();
        let mut guests = self.guests.subscribe();
        let mut before = Inputs::default();
        let mut due = Due::default();
        let mut busy: BTreeSet<TaskId> = BTreeSet::new();
        let (done, mut finished) = mpsc::unbounded_channel::<(TaskId, bool)>();
        let mut not_before: BTreeMap<TaskId, Instant> = BTreeMap::new();
        // those that wait for their connections to end
        let mut connected: BTreeMap<TaskId, Arc<Task>> = BTreeMap::new();
        let mut connections = Connections::new();
        let (counted, mut counts) = mpsc::unbounded_channel::<Option<Connections>>();
        let (mut counting, mut next_count) = (false, Instant::now());
        let mut resync = Instant::now() + RESYNC;
        if self.drains() {
            // the daemon before may have died between writing it down and doing it;
            // where it cannot be done, a task is stopped all the same
            let _ = self.datapath.sync().await;
        }
        loop {
            let now = Timestamp::now();
            let current = Inputs {
                state: states.borrow_and_update().clone(),
                probed: healths.borrow_and_update().clone(),
                of_docker: guests.borrow_and_update().clone(),
            };
            due.now(current.changed_since(&before));
            let is_mine = |task: &Arc<Task>| task.node == self.mesh.node;
            for id in due.take(Instant::now()) {
                connected.remove(&id);
                let of = |inputs: &Inputs| inputs.state.tasks.get(&id).map(|t| t.value.clone());
                let Some(task) = of(&current).filter(is_mine) else {
                    not_before.remove(&id);
                    connections.remove(&id);
                    if of(&before).is_some_and(|task| is_mine(&task))
                        && let Err(error) = self.runtime.forget(&id).await
                    {
                        tracing::warn!(task = %id, error = crate::chain(&error), "cannot forget");
                    }
                    continue;
                };
                // it is looked at once that is done
                if busy.contains(&id) {
                    continue;
                }
                if let Some(at) = not_before.get(&id).filter(|at| **at > Instant::now()) {
                    due.later(&id, *at);
                    continue;
                }
                not_before.remove(&id);
                let status = current.state.status(&id);
                let open = connections.get(&id).copied();
                let action = current.action(&task, seen.get(&id), open, now);
                if let Action::Wait(Some(at)) | Action::AwaitConnections(at) = action {
                    let left = Duration::try_from(at - now).unwrap_or_default();
                    due.later(&id, Instant::now() + left);
                }
                match action {
                    Action::Wait(_) => {}
                    Action::AwaitConnections(_) => drop(connected.insert(id, task)),
                    action => {
                        busy.insert(id.clone());
                        let (this, done) = (self.clone(), done.clone());
                        let status = status.cloned();
                        let sandbox = seen.get(&id).and_then(|o| o.identity.clone());
                        tokio::spawn(async move {
                            let ok = this.act(&task, status, sandbox, action).await;
                            // the loop ends only with the daemon
                            let _ = done.send((id, ok));
                        });
                    }
                }
            }
            before = current;
            let count = !connected.is_empty() && !counting;
            if count && next_count <= Instant::now() {
                counting = true;
                let (this, counted) = (self.clone(), counted.clone());
                let connected: Vec<_> = connected.values().cloned().collect();
                tokio::spawn(async move {
                    let count = this.count(&connected).await;
                    let _ = counted.send(count);
                });
            }
            let next = due.next().map_or(resync, |next| next.min(resync));
            tokio::select! {
                _ = states.changed() => {}
                _ = healths.changed() => {}
                _ = guests.changed() => {}
                event = events.recv() => match event {
                    Ok(event) => {
                        due.now([event.task.clone()]);
                        self.observe_one(&mut seen, event);
                    }
                    // all is looked at
                    Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {
                        resync = Instant::now();
                    }
                    Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
                },
                Some((id, ok)) = finished.recv() => {
                    busy.remove(&id);
                    if !ok {
                        not_before.insert(id.clone(), Instant::now() + RETRY);
                    }
                    due.now([id.clone()]);
                    // what the step changed in the runtime
                    self.look(&mut seen, id).await;
                }
                Some(count) = counts.recv() => {
                    (counting, next_count) = (false, Instant::now() + COUNT);
                    connections.extend(count.into_iter().flatten());
                    due.now(connected.keys().cloned());
                }
                () = tokio::time::sleep_until(next_count), if count && !counting => {}
                () = tokio::time::sleep_until(next) => {}
            }
            if resync <= Instant::now() {
                self.observe_all(&mut seen).await;
                due.now(before.state.tasks.keys().cloned());
                resync = Instant::now() + RESYNC;
            }
        }
    }

    /// Whether a task of this node is leaving.
    fn drains(&self) -> bool {
        let state = self.mesh.state();
        let mut statuses = state.statuses.values();
        statuses.any(|status| {
            let task = state.tasks.get(&status.task);
            let mine = task.is_some_and(|task| task.node == self.mesh.node);
            mine && status.draining && !status.state.is_final()
        })
    }

    /// How many connections are open to each of these tasks; `None` where the
    /// kernel does not say.
    async fn count(&self, tasks: &[Arc<Task>]) -> Option<Connections> {
        let state = self.mesh.state();
        let services: BTreeSet<_> = tasks.iter().map(|task| &task.service).collect();
        let services = services.into_iter().filter_map(|id| state.services.get(id));
        let watched = Watched {
            tasks: tasks
                .iter()
                .map(|task| (task.id.clone(), task.addresses().collect()))
                .collect(),
            services: services.flat_map(|service| ways(service)).collect(),
        };
        match self.kernel.connections(watched).await {
            Ok(open) => {
                let of = |task: &Task| task.addresses().filter_map(|a| open.get(&a)).sum();
                let counts = tasks.iter().map(|task| (task.id.clone(), of(task)));
                Some(counts.collect())
            }
            Err(error) => {
                let error = crate::chain(&error);
                tracing::warn!(
                    error,
                    "cannot count connections; tasks drain until their time-out"
                );
                None
            }
        }
    }

    fn observe_one(&self, seen: &mut BTreeMap<TaskId, Observed>, event: runtime::Event) {
        if let Some(observed) = seen.get_mut(&event.task) {
            observed.phase = event.phase;
        }
    }

    async fn look(&self, seen: &mut BTreeMap<TaskId, Observed>, id: TaskId) {
        match self.runtime.look(&id).await {
            Ok(Some(observed)) => {
                seen.insert(id, observed);
            }
            Ok(None) => {
                seen.remove(&id);
            }
            Err(error) => {
                tracing::error!(task = %id, error = crate::chain(&error), "cannot see what runs");
            }
        }
    }

    async fn observe_all(&self, seen: &mut BTreeMap<TaskId, Observed>) {
        match self.runtime.observe().await {
            Ok(all) => {
                *seen = all.into_iter().map(|o| (o.task.clone(), o)).collect();
                // names that somebody deleted
                self.pin_all(&self.sandboxes.borrow(), seen);
            }
            Err(error) => {
                tracing::error!(error = crate::chain(&error), "cannot see what runs");
            }
        }
    }

    /// One step; whether it went well.
    async fn act(
        &self,
        task: &Task,
        status: Option<TaskStatus>,
        sandbox: Option<ProcessIdentity>,
        action: Action,
    ) -> bool {
        tracing::debug!(task = %task.name(), id = %task.id, ?action, "step");
        let new = || TaskStatus::new(task.id.clone(), Timestamp::now());
        let status = status.unwrap_or_else(new);
        let result = match action {
            Action::Wait(_) | Action::AwaitConnections(_) => Ok(()),
            Action::Prepare => self.prepare(task, status.clone()).await,
            Action::Start => self.start(task, status.clone(), sandbox.as_ref()).await,
            Action::Drain => {
                self.write(TaskStatus {
                    draining: true,
                    draining_since: Some(Timestamp::now()),
                    ..status.clone()
                })
                .await;
                self.datapath.sync().await.map_err(Failure::from)
            }
            Action::Suspend => {
                self.write(TaskStatus {
                    since: Timestamp::now(),
                    draining: true,
                    draining_since: Some(Timestamp::now()),
                    message: "unhealthy".to_owned(),
                    error: UNHEALTHY.to_owned(),
                    ..status.clone()
                })
                .await;
                Ok(())
            }
            Action::Resume => {
                self.write(TaskStatus {
                    since: Timestamp::now(),
                    draining: false,
                    draining_since: None,
                    message: "serves".to_owned(),
                    error: String::new(),
                    ..status.clone()
                })
                .await;
                Ok(())
            }
            Action::Withdraw => {
                self.write(TaskStatus {
                    ended: true,
                    ..status.clone()
                })
                .await;
                self.datapath.sync().await.map_err(Failure::from)
            }
            Action::Stop => self.stop(task).await,
            Action::Report {
                state,
                message,
                error,
                code,
            } => {
                let process = sandbox.or_else(|| status.process.clone());
                let process = process.filter(|_| !state.is_final());
                let message = message.to_owned();
                let since = Timestamp::now();
                self.write(TaskStatus {
                    state,
                    since,
                    message,
                    error,
                    exit_code: code,
                    process,
                    ..status.clone()
                })
                .await;
                Ok(())
            }
            Action::Detach => self.detach(task, status.clone()).await,
        };
        if let Err(failure) = &result {
            // what the step had written before it failed
            let latest = self.mesh.state().status(&task.id).cloned();
            self.failed(task, latest.unwrap_or(status), failure).await;
        }
        result.is_ok()
    }

    /// Writes down why a step failed. What can never start is said to be so at once; all
    /// else is tried again.
    async fn failed(&self, task: &Task, status: TaskStatus, failure: &Failure) {
        let Failure { why, temporary } = failure;
        if *temporary && status.error == *why {
            return;
        }
        tracing::warn!(task = %task.name(), id = %task.id, error = why, "step failed");
        if status.state >= TaskState::Starting {
            return;
        }
        let state = match temporary {
            true => TaskState::Preparing,
            false => TaskState::Rejected,
        };
        self.write(TaskStatus {
            state,
            since: Timestamp::now(),
            message: "preparing".to_owned(),
            error: why.clone(),
            ..status
        })
        .await;
    }

    /// Writes a status, unless the task is gone.
    async fn write(&self, mut status: TaskStatus) {
        if status.state == TaskState::Running {
            status.started.get_or_insert(status.since);
        }
        let decided = self
            .mesh
            .decide(|state| {
                let mut tx = Transaction::default();
                if !state.tasks.contains_key(&status.task) {
                    return Err("the task is gone");
                }
                let object = Object::Status(status.clone());
                match state.statuses.get(&status.task) {
                    Some(before) if **before == status => {}
                    Some(before) => tx.replace(before.version, object),
                    None => tx.create(object),
                }
                Ok::<_, &str>(tx)
            })
            .await;
        if let Err(error) = decided {
            tracing::warn!(task = %status.task, %error, "cannot write a task's status");
        }
    }

    async fn prepare(&self, task: &Task, status: TaskStatus) -> Result<(), Failure> {
        // not again where it was tried a moment ago
        if status.state < TaskState::Preparing || !status.attached {
            self.write(TaskStatus {
                state: TaskState::Preparing,
                since: Timestamp::now(),
                message: "preparing".to_owned(),
                attached: true,
                ..status
            })
            .await;
        }
        let files = self.files(task)?;
        let filled_in = self.filled_in(task)?;
        let mut prepared = pin!(self.runtime.prepare(&filled_in, &files));
        let sandbox = match timeout(WAY, &mut prepared).await {
            Ok(prepared) => prepared,
            Err(_) => {
                self.clear_error(&task.id).await;
                prepared.await
            }
        }?;
        self.pin(&task.id, &sandbox.identity)
            .map_err(|error| crate::chain(&error))?;
        self.sandboxes.send_modify(|all| {
            all.insert(task.id.clone());
        });
        Ok(())
    }

    /// Writes down that nothing stands in a task's way any more: it is being made, which
    /// may take as long as its image does.
    async fn clear_error(&self, task: &TaskId) {
        let status = self.mesh.state().status(task).cloned();
        if let Some(status) = status.filter(|status| !status.error.is_empty()) {
            self.write(TaskStatus {
                since: Timestamp::now(),
                error: String::new(),
                ..status
            })
            .await;
        }
    }

    /// Makes the sandbox's namespace known by name: for `ip netns exec`, and for the
    /// data plane, which finds it so.
    fn pin(&self, task: &TaskId, identity: &ProcessIdentity) -> Result<(), kernel::Error> {
        let name = self.instance.task_netns(task);
        if kernel::netns::inode(&name).is_ok_and(|inode| inode == identity.netns_inode) {
            return Ok(());
        }
        let path = format!("/proc/{}/ns/net", identity.pid);
        let _ = kernel::netns::delete(&name);
        kernel::netns::pin(path.as_ref(), &name)
    }

    /// Names the namespaces of all these tasks that live.
    fn pin_all(&self, tasks: &OrdSet<TaskId>, seen: &BTreeMap<TaskId, Observed>) {
        let living = tasks
            .iter()
            .filter_map(|id| Some((id, seen.get(id)?.identity.as_ref()?)));
        for (task, identity) in living {
            if let Err(error) = self.pin(task, identity) {
                let error = crate::chain(&error);
                tracing::warn!(%task, error, "cannot name a task's namespace");
            }
        }
    }

    async fn start(
        &self,
        task: &Task,
        status: TaskStatus,
        sandbox: Option<&ProcessIdentity>,
    ) -> Result<(), Failure> {
        // one without a name cannot be attached
        if let Some(identity) = sandbox {
            self.pin(&task.id, identity)
                .map_err(|error| crate::chain(&error))?;
        }
        self.sandboxes
            .send_if_modified(|all| all.insert(task.id.clone()).is_none());
        self.datapath.sync().await?;
        self.runtime.start(&task.id).await?;
        let observed = self.runtime.look(&task.id).await?;
        // one that ended at once is told by its event
        let own = match observed.as_ref().map(|observed| &observed.phase) {
            Some(Phase::Running { health, .. }) => *health,
            _ => Health::None,
        };
        let checked = health(&self.mesh.state(), &OrdMap::new(), task, own) != Health::None;
        let process = observed.and_then(|observed| observed.identity);
        // one that is checked serves once it is healthy
        let (state, message) = match checked {
            true => (TaskState::Starting, "starting"),
            false => (TaskState::Running, "started"),
        };
        self.write(TaskStatus {
            state,
            since: Timestamp::now(),
            message: message.to_owned(),
            // what was tried until it went
            error: String::new(),
            process,
            attached: true,
            ..status
        })
        .await;
        Ok(())
    }

    async fn stop(&self, task: &Task) -> Result<(), Failure> {
        let spec = &task.spec.runtime;
        let (signal, grace) = (spec.stop_signal(), spec.stop_grace());
        self.runtime.stop(&task.id, signal, grace).await?;
        // the exit comes as an event; until then there is nothing to do
        tokio::time::sleep(grace.min(RETRY)).await;
        Ok(())
    }

    async fn detach(&self, task: &Task, status: TaskStatus) -> Result<(), Failure> {
        self.sandboxes
            .send_if_modified(|all| all.remove(&task.id).is_some());
        self.datapath.sync().await?;
        kernel::netns::delete(&self.instance.task_netns(&task.id))
            .map_err(|error| crate::chain(&error))?;
        self.runtime.remove(&task.id).await?;
        self.write(TaskStatus {
            attached: false,
            process: None,
            ..status
        })
        .await;
        Ok(())
    }

    /// The task with what placeholders of its spec stand for.
    fn filled_in(&self, task: &Task) -> Result<Task, String> {
        let state = self.mesh.state();
        let mut task = task.clone();
        let service = state.services.get(&task.service);
        if let Some((service, node)) = service.zip(state.nodes.get(&task.node)) {
            let placeholders = Placeholders::new(service, &task, node);
            let filled = placeholders.expand(&mut task.spec.runtime);
            filled.map_err(|error| error.to_string())?;
        }
        Ok(task)
    }

    /// What the task finds in its file system besides its image.
    fn files(&self, task: &Task) -> Result<TaskFiles, String> {
        let state = self.mesh.state();
        let file = |file: &FileRef| {
            let blob = state.blobs.get(&file.blob);
            let blob = blob.ok_or_else(|| {
                let FileRef { kind, name, .. } = file;
                format!("{kind} {name} was removed: make a new one, and name it in the service")
            })?;
            Ok(TaskFile {
                file: file.clone(),
                data: blob.spec.data.clone(),
            })
        };
        let files = task.spec.runtime.files().iter().map(file);
        let files = files.collect::<Result<_, String>>()?;
        let first = task.attachments.first();
        let lease = first.and_then(|a| state.lease(&a.network, &task.node));
        Ok(TaskFiles {
            files,
            hostname: task.name(),
            addresses: task.addresses().take(1).collect(),
            nameservers: lease.map(|lease| lease.gateway()).into_iter().collect(),
            registry_auth: (state.services.get(&task.service))
                .and_then(|service| service.spec.registry_auth.clone()),
        })
    }
}

/// Why a step failed.
#[derive(Debug)]
struct Failure {
    why: String,
    /// It may work a while later, as it is.
    temporary: bool,
}

impl From<String> for Failure {
    fn from(why: String) -> Self {
        Self {
            why,
            temporary: false,
        }
    }
}

impl From<runtime::RuntimeError> for Failure {
    fn from(error: runtime::RuntimeError) -> Self {
        Self {
            why: crate::chain(&error),
            temporary: error.is_temporary(),
        }
    }
}

/// What is known of tasks beside what the runtime has, as of one look.
#[derive(Clone, Debug, Default)]
struct Inputs {
    state: Arc<State>,
    probed: OrdMap<TaskId, Health>,
    of_docker: OrdMap<TaskId, Health>,
}

impl Inputs {
    /// The tasks of which another look may think otherwise.
    fn changed_since(&self, before: &Self) -> BTreeSet<TaskId> {
        let mut tasks = self.state.tasks_changed_since(&before.state);
        let probed = differences(&before.probed, &self.probed);
        let of_docker = differences(&before.of_docker, &self.of_docker);
        tasks.extend(probed.chain(of_docker).map(|(id, ..)| id.clone()));
        tasks
    }

    /// What is to be done next with a task of which the runtime has this, and so many
    /// connections are open.
    fn action(
        &self,
        task: &Task,
        observed: Option<&Observed>,
        connections: Option<u64>,
        now: Timestamp,
    ) -> Action {
        let status = self.state.status(&task.id);
        let checked = |own| health(&self.state, &self.probed, task, own);
        let leaving = Leaving {
            timeout: drain_timeout(&self.state, task),
            connections,
        };
        let Some(elsewhere) = &task.elsewhere else {
            let looked = observed.and_then(|observed| look(&observed.phase, checked));
            return next_action(task, status, looked.as_ref(), leaving, now);
        };
        let own = match elsewhere.container {
            None => Some(Health::None),
            Some(_) => self.of_docker.get(&task.id).copied(),
        };
        next_action_elsewhere(task, status, own.map(checked), leaving, now)
    }
}

/// The plan's word for the runtime's; `checked` makes of its health what counts.
fn look(phase: &Phase, checked: impl FnOnce(Health) -> Health) -> Option<Seen> {
    match phase {
        Phase::Prepared => Some(Seen::Prepared),
        Phase::Running { health, .. } => Some(Seen::Running {
            health: checked(*health),
        }),
        Phase::Ended => Some(Seen::Ended),
        Phase::Exited {
            code,
            error,
            rejected,
            ..
        } => Some(Seen::Exited {
            code: *code,
            error: error.clone(),
            rejected: *rejected,
        }),
        Phase::Gone => None,
    }
}
