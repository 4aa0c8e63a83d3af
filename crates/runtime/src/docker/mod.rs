//! The docker runtime: each task is a container of the Docker Engine in a network
//! namespace that the mesh attaches before anything of the task runs.
//!
//! Docker cannot make such a namespace by itself, so a second container, the
//! sandbox, holds it from the preparation until the task's first process is in it;
//! then it is killed, for the namespace lives on with the task. Docker never calls
//! us and never restarts anything: both may be absent or die without the other.

mod container;
mod engine;
mod events;
mod logs;
mod look;
mod pause;
mod phase;
mod pull;
mod record;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bollard::{
    Docker as Client,
    models::ContainerCreateBody,
    query_parameters::{
        CreateContainerOptionsBuilder, KillContainerOptionsBuilder, RemoveContainerOptionsBuilder,
    },
};
use jiff::Timestamp;
use model::{Health, Instance, RuntimeSpec, Task, TaskId};
use tokio::{
    sync::{broadcast, mpsc},
    time::{Instant, sleep},
};

use self::{
    container::sandbox_name,
    engine::{Engine, is_missing, refusal},
    phase::{Pair, State},
    record::{Record, Records, Stop},
};
use crate::{
    Event, LogLine, LogOptions, Observed, Phase, Runtime, RuntimeError, Sandbox, TaskFiles,
    identity,
};

/// How long a container may take to end when it is killed.
const KILL: Duration = Duration::from_secs(30);
/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(100);
/// How often a time of grace is looked at, which may be shortened.
const GRACE: Duration = Duration::from_millis(500);

/// How the docker runtime works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DockerSettings {
    /// The engine's socket; it may be absent.
    pub socket: PathBuf,
    /// Sandboxes are left running beside their tasks: a shim more a task, and
    /// `docker stats` knows its numbers, for which Docker asks the sandbox.
    pub keep_sandboxes: bool,
}

/// The docker runtime.
pub struct Docker {
    inner: Arc<Inner>,
}

/// What its own tasks need as well.
struct Inner {
    /// What its containers are labelled with.
    prefix: String,
    keep_sandboxes: bool,
    engine: Engine,
    records: Records,
    events: broadcast::Sender<Event>,
    /// What was told last.
    told: Mutex<BTreeMap<TaskId, Phase>>,
    /// Tasks whose sandboxes are being killed.
    ending: Mutex<BTreeSet<TaskId>>,
    /// Tasks whose time of grace is being kept.
    stopping: Mutex<BTreeSet<TaskId>>,
    /// One at a time makes the sandboxes' image.
    pause: tokio::sync::Mutex<()>,
    /// Docker's events are being followed.
    followed: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn boot_id() -> String {
    identity::boot_id().unwrap_or_default()
}

impl Docker {
    /// A runtime whose engine is not asked for anything before there is a docker task.
    pub fn new(
        instance: &Instance,
        settings: DockerSettings,
        events: broadcast::Sender<Event>,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                prefix: instance.prefix(),
                keep_sandboxes: settings.keep_sandboxes,
                engine: Engine::new(settings.socket),
                records: Records::new(instance.data_dir().join("containers")),
                events,
                told: Mutex::new(BTreeMap::new()),
                ending: Mutex::new(BTreeSet::new()),
                stopping: Mutex::new(BTreeSet::new()),
                pause: tokio::sync::Mutex::new(()),
                followed: AtomicBool::new(false),
            }),
        }
    }

    /// Whether a task is, or was, one of this runtime's.
    pub(crate) fn knows(&self, task: &TaskId) -> bool {
        self.inner.records.get(task).is_some()
    }

    /// Removes all that this instance ever made in Docker, and nothing else.
    ///
    /// # Errors
    /// Docker is not available, or refuses; not where there never was a docker task.
    pub async fn clean_up(&self) -> Result<(), RuntimeError> {
        let inner = &self.inner;
        if !inner.records.any() {
            return Ok(());
        }
        let client = inner.engine.await_client().await?;
        let listed = look::list(&client, &inner.prefix).await;
        let listed = listed.map_err(|error| inner.engine.failed("list", "containers", &error))?;
        for container in listed.into_values().flatten() {
            if let Some(id) = container.id {
                inner.delete(&client, &id).await?;
            }
        }
        pull::remove_pause(&inner.engine, &client).await
    }

    fn follow(&self) {
        if !self.inner.followed.swap(true, Ordering::Relaxed) {
            tokio::spawn(events::follow(self.inner.clone()));
        }
    }
}

impl Inner {
    /// Removes a container and its anonymous volumes, whatever it is at.
    async fn delete(&self, client: &Client, name: &str) -> Result<(), RuntimeError> {
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true);
        let end = Instant::now() + KILL;
        loop {
            let removed = client.remove_container(name, Some(options.clone().build()));
            match removed.await {
                Ok(()) => return Ok(()),
                Err(error) if is_missing(&error) => return Ok(()),
                // being removed already
                Err(error)
                    if refusal(&error).is_some_and(|(code, _)| code == 409)
                        && Instant::now() < end =>
                {
                    sleep(LOOK).await;
                }
                Err(error) => return Err(self.engine.failed("remove container", name, &error)),
            }
        }
    }

    async fn create(
        &self,
        client: &Client,
        name: &str,
        body: ContainerCreateBody,
    ) -> Result<(), RuntimeError> {
        let options = CreateContainerOptionsBuilder::default().name(name).build();
        let created = client.create_container(Some(options), body).await;
        let created =
            created.map_err(|error| self.engine.failed("create container", name, &error))?;
        for warning in created.warnings {
            tracing::warn!(name, warning, "Docker says");
        }
        Ok(())
    }

    async fn start(&self, client: &Client, name: &str) -> Result<(), RuntimeError> {
        let started = client.start_container(name, None).await;
        started.map_err(|error| self.engine.failed("start container", name, &error))
    }

    /// Sends a signal; nothing where nothing runs.
    async fn signal(&self, client: &Client, name: &str, signal: &str) -> Result<(), RuntimeError> {
        let options = KillContainerOptionsBuilder::default().signal(signal);
        match client.kill_container(name, Some(options.build())).await {
            Err(error) if !refusal(&error).is_some_and(|(code, _)| [404, 409].contains(&code)) => {
                Err(self.engine.failed("signal container", name, &error))
            }
            _ => Ok(()),
        }
    }

    async fn pair(&self, client: &Client, name: &str) -> Result<Pair, RuntimeError> {
        let pair = look::pair(client, name).await;
        pair.map_err(|error| self.engine.failed("look at container", name, &error))
    }

    /// What a task is at, by these containers; and what follows from that: who runs
    /// is written down, and a sandbox that has done its work is killed.
    async fn settle(
        self: &Arc<Self>,
        client: &Client,
        task: &TaskId,
        record: &Record,
        pair: &Pair,
    ) -> Observed {
        let observed = phase::by_docker(task, record, pair, &boot_id(), Timestamp::now());
        if !matches!(observed.phase, Phase::Running { .. }) {
            return observed;
        }
        let noted = self.records.change(task, |record| {
            record.started = true;
            record.task.clone_from(&observed.identity);
            if record.sandbox.is_none() {
                // all that is needed of it is its namespace
                record.sandbox.clone_from(&observed.identity);
            }
        });
        if let Err(error) = noted {
            tracing::warn!(%task, %error, "cannot write down who runs");
        } else if !self.keep_sandboxes && pair.sandbox_identity().is_some() {
            self.end_sandbox(client, task, sandbox_name(&record.name));
        }
        observed
    }

    /// Kills a sandbox that has done its work; the task does not wait for that.
    fn end_sandbox(self: &Arc<Self>, client: &Client, task: &TaskId, name: String) {
        if !lock(&self.ending).insert(task.clone()) {
            return;
        }
        let (this, client, task) = (self.clone(), client.clone(), task.clone());
        tokio::spawn(async move {
            if let Err(error) = this.signal(&client, &name, "SIGKILL").await {
                tracing::debug!(%task, %error, "a sandbox stays for a while");
            }
            lock(&this.ending).remove(&task);
        });
    }

    /// What a task is at while Docker does not answer.
    fn blind(&self, task: &TaskId, record: &Record) -> Observed {
        let health = match lock(&self.told).get(task) {
            Some(Phase::Running { health, .. }) => *health,
            _ => Health::None,
        };
        phase::by_processes(task, record, identity::lives, health, Timestamp::now())
    }

    /// What there is of one task; `None`: it is none of ours.
    async fn look(self: &Arc<Self>, task: &TaskId) -> Result<Option<Observed>, RuntimeError> {
        let record = self.records.get(task);
        let Some(record) = record.filter(|record| !record.forgotten) else {
            return Ok(None);
        };
        let looked = async {
            let client = self.engine.client().await?;
            let pair = self.pair(&client, &record.name).await?;
            Ok(self.settle(&client, task, &record, &pair).await)
        };
        match looked.await {
            Err(RuntimeError::Unavailable { .. }) => Ok(Some(self.blind(task, &record))),
            looked => looked.map(Some),
        }
    }

    async fn observe(self: &Arc<Self>) -> Result<Vec<Observed>, RuntimeError> {
        if !self.records.any() {
            return Ok(Vec::new());
        }
        match self.observe_docker().await {
            Err(RuntimeError::Unavailable { .. }) => {
                let records = self.records.all()?;
                let wanted = records.iter().filter(|(_, record)| !record.forgotten);
                Ok(wanted
                    .map(|(task, record)| self.blind(task, record))
                    .collect())
            }
            observed => observed,
        }
    }

    async fn observe_docker(self: &Arc<Self>) -> Result<Vec<Observed>, RuntimeError> {
        let client = self.engine.client().await?;
        let listed = look::list(&client, &self.prefix).await;
        let mut listed =
            listed.map_err(|error| self.engine.failed("list", "containers", &error))?;
        let mut records: BTreeMap<_, _> = self.records.all()?.into_iter().collect();
        for (task, containers) in &listed {
            let mut work = containers
                .iter()
                .filter(|c| look::is_role(c, container::label::WORK));
            if records.contains_key(task) {
                continue;
            }
            // its record was lost, as after a power failure
            let name = work.next().and_then(look::listed_name);
            let sandbox = containers.first().and_then(look::listed_name);
            let sandbox = sandbox.map(|name| name.trim_end_matches(".sandbox").to_owned());
            let record = Record {
                name: name.or(sandbox).unwrap_or_default(),
                ..Record::default()
            };
            self.records.put(task, &record)?;
            records.insert(task.clone(), record);
        }
        let mut all = Vec::new();
        for (task, record) in records {
            if record.forgotten {
                if let Err(error) = self.erase(&client, &task, &record).await {
                    tracing::warn!(%task, %error, "cannot remove what is left of a task");
                }
                continue;
            }
            let containers = listed.remove(&task).unwrap_or_default();
            let pair = match look::pair_of_list(&containers, &record) {
                _ if record.removed => Pair::default(),
                Some(pair) => pair,
                None => self.pair(&client, &record.name).await?,
            };
            all.push(self.settle(&client, &task, &record, &pair).await);
        }
        Ok(all)
    }

    /// Removes what is left of a task.
    async fn erase(
        &self,
        client: &Client,
        task: &TaskId,
        record: &Record,
    ) -> Result<(), RuntimeError> {
        for name in [sandbox_name(&record.name), record.name.clone()] {
            self.delete(client, &name).await?;
        }
        lock(&self.told).remove(task);
        self.records.delete(task)
    }

    /// Tells what a task is at, if that is news.
    async fn tell(self: &Arc<Self>, task: &TaskId) {
        match self.look(task).await {
            Ok(Some(observed)) => self.news(observed),
            Ok(None) => {}
            Err(error) => tracing::warn!(%task, %error, "cannot see what became of a task"),
        }
    }

    /// The same of all tasks.
    async fn tell_all(self: &Arc<Self>) {
        match self.observe().await {
            Ok(all) => all.into_iter().for_each(|observed| self.news(observed)),
            Err(error) => tracing::warn!(%error, "cannot see what became of tasks"),
        }
    }

    fn news(&self, observed: Observed) {
        let Observed { task, phase, .. } = observed;
        let before = lock(&self.told).insert(task.clone(), phase.clone());
        if before.as_ref() != Some(&phase) {
            // nobody may be listening
            let _ = self.events.send(Event { task, phase });
        }
    }

    /// Kills a task when its time of grace is over, however often that is shortened.
    fn keep_grace(self: &Arc<Self>, task: &TaskId) {
        if !lock(&self.stopping).insert(task.clone()) {
            return;
        }
        let (this, task) = (self.clone(), task.clone());
        tokio::spawn(async move {
            while let Some(record) = this.records.get(&task) {
                let Some(stop) = record.stop.as_ref().filter(|_| !record.removed) else {
                    break;
                };
                let left = Duration::try_from(stop.deadline - Timestamp::now());
                match left {
                    Ok(left) if !left.is_zero() => sleep(left.min(GRACE)).await,
                    _ => {
                        let killed = async {
                            let client = this.engine.client().await?;
                            this.signal(&client, &record.name, "SIGKILL").await
                        };
                        if let Err(error) = killed.await {
                            // whoever wants it stopped asks again
                            tracing::warn!(%task, %error, "cannot kill a task");
                        }
                        break;
                    }
                }
                let ended = record.task.as_ref().is_none_or(|id| !identity::lives(id));
                if ended {
                    break;
                }
            }
            lock(&this.stopping).remove(&task);
        });
    }

    /// Kills a task's container and waits until it has ended.
    async fn kill(&self, client: &Client, name: &str) -> Result<(), RuntimeError> {
        let end = Instant::now() + KILL;
        loop {
            self.signal(client, name, "SIGKILL").await?;
            let task = self.pair(client, name).await?.task;
            match task.map(|task| task.state) {
                Some(State::Running { .. }) if Instant::now() < end => sleep(LOOK).await,
                Some(State::Running { .. }) => {
                    return Err(RuntimeError::Engine {
                        action: "kill container",
                        on: name.to_owned(),
                        code: 0,
                        message: format!("it still runs after {} s", KILL.as_secs()),
                    });
                }
                // has nothing to tell
                Some(State::Created) => return self.delete(client, name).await,
                _ => return Ok(()),
            }
        }
    }

    /// Makes a task's containers, and starts the sandbox's.
    async fn make(
        &self,
        task: &Task,
        spec: &model::ContainerSpec,
        files: &TaskFiles,
    ) -> Result<Sandbox, RuntimeError> {
        let client = self.engine.await_client().await?;
        pull::ensure(&self.engine, &client, &spec.image, spec.pull).await?;
        {
            let _alone = self.pause.lock().await;
            pull::ensure_pause(&self.engine, &client).await?;
        }
        let name = task.container_name();
        let sandbox = sandbox_name(&name);
        // the rest of one that was interrupted or died
        for name in [&name, &sandbox] {
            self.delete(&client, name).await?;
        }
        let mut record = Record {
            name: name.clone(),
            boot_id: boot_id(),
            ..Record::default()
        };
        self.records.put(&task.id, &record)?;
        let body = container::sandbox(&self.prefix, task, spec, files);
        self.create(&client, &sandbox, body).await?;
        let body = container::task(&self.prefix, task, spec, &sandbox);
        let (created, started) = tokio::join!(
            self.create(&client, &name, body),
            self.start(&client, &sandbox)
        );
        created.and(started)?;
        let pair = self.pair(&client, &name).await?;
        let Some(identity) = pair.sandbox_identity().cloned() else {
            return Err(RuntimeError::Sandbox(format!(
                "container {sandbox} ended at once: see docker inspect {sandbox}"
            )));
        };
        record.sandbox = Some(identity.clone());
        self.records.put(&task.id, &record)?;
        Ok(Sandbox {
            netns: format!("/proc/{}/ns/net", identity.pid).into(),
            identity,
        })
    }
}

impl Runtime for Docker {
    async fn prepare(&self, task: &Task, files: &TaskFiles) -> Result<Sandbox, RuntimeError> {
        let RuntimeSpec::Docker(spec) = &task.spec.runtime else {
            return Err(RuntimeError::Sandbox("it is no container".to_owned()));
        };
        let before = self.inner.look(&task.id).await?;
        if let Some(identity) = before.and_then(|observed| observed.identity) {
            self.follow();
            return Ok(Sandbox {
                netns: format!("/proc/{}/ns/net", identity.pid).into(),
                identity,
            });
        }
        let made = self.inner.make(task, spec, files).await;
        self.follow();
        made
    }

    async fn start(&self, task: &TaskId) -> Result<(), RuntimeError> {
        let inner = &self.inner;
        let Some(record) = inner.records.get(task) else {
            return Err(RuntimeError::Sandbox("it was not prepared".to_owned()));
        };
        let client = inner.engine.client().await?;
        inner.records.change(task, |record| record.started = true)?;
        inner.start(&client, &record.name).await?;
        inner.tell(task).await;
        Ok(())
    }

    async fn observe(&self) -> Result<Vec<Observed>, RuntimeError> {
        if self.inner.records.any() {
            self.follow();
        }
        self.inner.observe().await
    }

    async fn look(&self, task: &TaskId) -> Result<Option<Observed>, RuntimeError> {
        self.inner.look(task).await
    }

    async fn stop(
        &self,
        task: &TaskId,
        signal: Option<&str>,
        grace: Duration,
    ) -> Result<(), RuntimeError> {
        let inner = &self.inner;
        let Some(record) = inner.records.get(task) else {
            return Ok(());
        };
        let client = inner.engine.client().await?;
        let inspected = client.inspect_container(&record.name, None).await;
        let inspected = match inspected {
            Err(error) if is_missing(&error) => return Ok(()),
            inspected => {
                inspected.map_err(|e| inner.engine.failed("look at container", &record.name, &e))?
            }
        };
        let own = inspected
            .config
            .as_ref()
            .and_then(|c| c.stop_signal.clone());
        if !matches!(look::container(inspected).state, State::Running { .. }) {
            return Ok(());
        }
        let own = own.filter(|signal| !signal.is_empty());
        let signal = signal.map(str::to_owned).or(own);
        let signal = signal.unwrap_or_else(|| "SIGTERM".to_owned());
        let asked = Timestamp::now().saturating_add(grace);
        let deadline = asked.unwrap_or(Timestamp::MAX);
        let before = record.stop.as_ref();
        let stop = Stop {
            signal: signal.clone(),
            deadline: before.map_or(deadline, |before| before.deadline.min(deadline)),
        };
        if before.is_none_or(|before| before.signal != signal) {
            inner.signal(&client, &record.name, &signal).await?;
        }
        inner
            .records
            .change(task, |record| record.stop = Some(stop))?;
        inner.keep_grace(task);
        Ok(())
    }

    async fn remove(&self, task: &TaskId) -> Result<(), RuntimeError> {
        let inner = &self.inner;
        let Some(record) = inner.records.get(task) else {
            return Ok(());
        };
        if record.removed {
            return Ok(());
        }
        let client = inner.engine.client().await?;
        inner.kill(&client, &record.name).await?;
        inner.delete(&client, &sandbox_name(&record.name)).await?;
        inner.records.change(task, |record| record.removed = true)
    }

    async fn forget(&self, task: &TaskId) -> Result<(), RuntimeError> {
        let inner = &self.inner;
        let Some(record) = inner.records.get(task) else {
            return Ok(());
        };
        let records = &inner.records;
        records.change(task, |record| record.forgotten = true)?;
        // nobody waits for it; it is tried again at each look at all of them
        let (inner, task) = (inner.clone(), task.clone());
        tokio::spawn(async move {
            let erased = async {
                let client = inner.engine.client().await?;
                inner.erase(&client, &task, &record).await
            };
            if let Err(error) = erased.await {
                tracing::warn!(%task, %error, "cannot remove what is left of a task yet");
            }
        });
        Ok(())
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.inner.events.subscribe()
    }

    fn logs(
        &self,
        task: &TaskId,
        options: LogOptions,
    ) -> mpsc::Receiver<Result<LogLine, RuntimeError>> {
        let (lines, receiver) = mpsc::channel(256);
        let (inner, task) = (self.inner.clone(), task.clone());
        tokio::spawn(async move {
            let Some(record) = inner.records.get(&task) else {
                return;
            };
            if let Err(error) = logs::read(&inner.engine, &record.name, options, &lines).await {
                // who asked may be gone
                let _ = lines.send(Err(error)).await;
            }
        });
        receiver
    }
}
