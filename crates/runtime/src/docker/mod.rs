//! The docker runtime: each task is a container of the Docker Engine in a network
//! namespace that the mesh attaches before anything of the task runs.
//!
//! Docker cannot make such a namespace by itself, so that the container's first program
//! is a gate, which becomes the task's own once the mesh is there. Docker never calls us
//! and never restarts anything: both may be absent or die without the other.

mod container;
mod engine;
mod events;
mod gate;
pub mod guests;
mod logs;
mod look;
mod make;
mod phase;
mod pull;
mod record;
mod stop;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZero,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::available_parallelism,
    time::Duration,
};

use model::{Instance, ProcessIdentity, RuntimeSpec, Task, TaskId};
use tokio::sync::{Semaphore, broadcast, mpsc};

use self::{engine::Engine, gate::Gates, record::Records};
use crate::{
    Event, LogLine, LogOptions, Observed, Phase, Runtime, RuntimeError, Sandbox, TaskFiles,
    hand_out::HandedOut, identity,
};

/// How the docker runtime works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DockerSettings {
    /// The engine's socket; it may be absent.
    pub socket: PathBuf,
}

/// The docker runtime.
pub struct Docker {
    inner: Arc<Inner>,
}

/// What its own tasks need as well.
struct Inner {
    /// What its containers are labelled with.
    prefix: String,
    engine: Engine,
    records: Records,
    gates: Gates,
    files: HandedOut,
    events: broadcast::Sender<Event>,
    /// What was told last.
    told: Mutex<BTreeMap<TaskId, Phase>>,
    /// Processes whose ends are awaited.
    watched: Mutex<BTreeMap<TaskId, ProcessIdentity>>,
    /// Tasks of which nothing shall be left.
    erasing: Mutex<BTreeSet<TaskId>>,
    /// Tasks whose time of grace is being kept.
    stopping: Mutex<BTreeSet<TaskId>>,
    /// As many containers are made at once as there are processors: more take each
    /// other's, and the first one answers no sooner than the last.
    making: Semaphore,
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
                engine: Engine::new(settings.socket),
                records: Records::new(instance.data_dir().join("containers")),
                gates: Gates::new(instance.data_dir().join("gates")),
                files: HandedOut::new(instance.run_dir().join("files")),
                events,
                told: Mutex::new(BTreeMap::new()),
                watched: Mutex::new(BTreeMap::new()),
                erasing: Mutex::new(BTreeSet::new()),
                stopping: Mutex::new(BTreeSet::new()),
                making: Semaphore::new(available_parallelism().map_or(1, NonZero::get)),
                followed: AtomicBool::new(false),
            }),
        }
    }

    /// The versions of the engine behind a socket, and of its API.
    ///
    /// # Errors
    /// Docker is not available.
    pub async fn version(settings: &DockerSettings) -> Result<(String, String), RuntimeError> {
        let engine = Engine::new(settings.socket.clone());
        let said = engine.client().await?.version().await;
        let said = said.map_err(|error| engine.failed("say", "its version", &error))?;
        let (version, api) = (said.version, said.api_version);
        Ok((version.unwrap_or_default(), api.unwrap_or_default()))
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
        Ok(())
    }

    fn follow(&self) {
        if !self.inner.followed.swap(true, Ordering::Relaxed) {
            tokio::spawn(events::follow(self.inner.clone()));
        }
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
        let Some(process) = &record.process else {
            return Err(RuntimeError::Sandbox("it is not in the gate".to_owned()));
        };
        inner.records.change(task, |record| record.started = true)?;
        inner.let_through(task, process).await
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
        self.inner.stop(task, signal, grace).await
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
        inner.kill(&client, &record).await?;
        inner.gates.of(task).remove()?;
        inner.files.remove(task)?;
        inner.records.change(task, |record| record.removed = true)
    }

    async fn forget(&self, task: &TaskId) -> Result<(), RuntimeError> {
        let inner = &self.inner;
        let Some(record) = inner.records.get(task) else {
            return Ok(());
        };
        let records = &inner.records;
        records.change(task, |record| record.forgotten = true)?;
        inner.erase_later(task, record);
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
