//! Makes, signals and removes containers.

use std::{sync::Arc, time::Duration};

use bollard::{
    Docker as Client,
    models::ContainerCreateBody,
    query_parameters::{
        CreateContainerOptionsBuilder, KillContainerOptionsBuilder, RemoveContainerOptionsBuilder,
    },
};
use model::{ContainerSpec, ProcessIdentity, Task, TaskId};
use tokio::time::{Instant, sleep};

use super::{
    Inner, boot_id, container,
    engine::{is_missing, refusal},
    gate::{self, Gate},
    lock, look,
    phase::{Container, State},
    pull,
    record::Record,
};
use crate::{RuntimeError, Sandbox, TaskFiles, identity};

/// How long a container may take to end when it is killed.
const KILL: Duration = Duration::from_secs(30);
/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(100);
/// How long a container that was started may take to come to the gate, and who was
/// let through to leave it.
const GATE: Duration = Duration::from_secs(30);
/// How often it is looked where a process is.
const STEP: Duration = Duration::from_millis(1);

impl Inner {
    /// Removes a container and its anonymous volumes, whatever it is at.
    pub(super) async fn delete(&self, client: &Client, name: &str) -> Result<(), RuntimeError> {
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

    pub(super) async fn create(
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

    pub(super) async fn start(&self, client: &Client, name: &str) -> Result<(), RuntimeError> {
        let started = client.start_container(name, None).await;
        started.map_err(|error| self.engine.failed("start container", name, &error))
    }

    /// Sends a signal; nothing where nothing runs.
    pub(super) async fn signal(
        &self,
        client: &Client,
        name: &str,
        signal: &str,
    ) -> Result<(), RuntimeError> {
        let options = KillContainerOptionsBuilder::default().signal(signal);
        match client.kill_container(name, Some(options.build())).await {
            Err(error) if !refusal(&error).is_some_and(|(code, _)| [404, 409].contains(&code)) => {
                Err(self.engine.failed("signal container", name, &error))
            }
            _ => Ok(()),
        }
    }

    pub(super) async fn inspect(
        &self,
        client: &Client,
        name: &str,
    ) -> Result<Option<Container>, RuntimeError> {
        let inspected = look::inspect(client, name).await;
        inspected.map_err(|error| self.engine.failed("look at container", name, &error))
    }

    /// Removes what is left of a task.
    pub(super) async fn erase(
        &self,
        client: &Client,
        task: &TaskId,
        record: &Record,
    ) -> Result<(), RuntimeError> {
        self.delete(client, &record.name).await?;
        self.gates.of(task).remove()?;
        self.files.remove(task)?;
        lock(&self.told).remove(task);
        self.records.delete(task)
    }

    /// The same, which nobody waits for; it is tried again at each look at all tasks.
    pub(super) fn erase_later(self: &Arc<Self>, task: &TaskId, record: Record) {
        if !lock(&self.erasing).insert(task.clone()) {
            return;
        }
        let (this, task) = (self.clone(), task.clone());
        tokio::spawn(async move {
            let erased = async {
                let client = this.engine.client().await?;
                this.erase(&client, &task, &record).await
            };
            if let Err(error) = erased.await {
                tracing::warn!(%task, %error, "cannot remove what is left of a task yet");
            }
            lock(&this.erasing).remove(&task);
        });
    }

    /// Kills a task's container and waits until it has ended.
    pub(super) async fn kill(&self, client: &Client, record: &Record) -> Result<(), RuntimeError> {
        let name = &record.name;
        let end = Instant::now() + KILL;
        loop {
            self.signal(client, name, "SIGKILL").await?;
            let container = self.inspect(client, name).await?;
            match container.map(|container| container.state) {
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
                _ if !record.started => return self.delete(client, name).await,
                _ => return Ok(()),
            }
        }
    }

    /// Makes a task's container and starts it, which takes it to the gate.
    pub(super) async fn make(
        self: &Arc<Self>,
        task: &Task,
        spec: &ContainerSpec,
        files: &TaskFiles,
    ) -> Result<Sandbox, RuntimeError> {
        let client = self.engine.client().await?;
        let auth = files.registry_auth.as_ref();
        let image = pull::ensure(&self.engine, &client, &spec.image, spec.pull, auth).await?;
        // the semaphore is never closed
        let _turn = self.making.acquire().await.ok();
        let name = task.container_name();
        let gate = self.gates.of(&task.id);
        // the rest of one that was interrupted or died
        self.delete(&client, &name).await?;
        lock(&self.told).remove(&task.id);
        let mut record = Record {
            name: name.clone(),
            boot_id: boot_id(),
            ..Record::default()
        };
        self.records.put(&task.id, &record)?;
        let body = container::container(&self.prefix, task, spec, files, &image, gate.dir());
        let Some(mut body) = body else {
            return Err(RuntimeError::Engine {
                action: "create container",
                on: name,
                code: 0,
                message: format!(
                    "no command specified, neither for the service nor by image {}",
                    spec.image
                ),
            });
        };
        let mut program = body.entrypoint.iter().flatten();
        let program = program.nth(gate::entrypoint().len()).cloned();
        gate.make()?;
        let handed = self.files.write(&task.id, &files.files)?;
        container::hand_over(&mut body, &handed);
        self.create(&client, &name, body).await?;
        self.start(&client, &name).await?;
        let program = program.unwrap_or_default();
        let identity = self.await_gate(&client, &name, &program, &gate).await?;
        record.process = Some(identity.clone());
        self.records.put(&task.id, &record)?;
        self.watch(&task.id, &identity);
        Ok(Sandbox {
            netns: format!("/proc/{}/ns/net", identity.pid).into(),
            identity,
        })
    }

    /// Waits until a container is in the gate, or has ended because its program
    /// is not there.
    async fn await_gate(
        &self,
        client: &Client,
        name: &str,
        program: &str,
        gate: &Gate,
    ) -> Result<ProcessIdentity, RuntimeError> {
        let end = Instant::now() + GATE;
        let failed = |message: String| RuntimeError::Engine {
            action: "start container",
            on: name.to_owned(),
            code: 0,
            message,
        };
        while Instant::now() < end {
            let container = self.inspect(client, name).await?;
            let identity = match container.map(|container| container.state) {
                Some(State::Running { identity, .. }) => identity,
                Some(State::Ended { code, error, .. }) => {
                    return Err(failed(gate::rejection(program, code).unwrap_or(error)));
                }
                Some(State::Created) => None,
                None => return Err(failed("it was removed".to_owned())),
            };
            if let Some(identity) = identity {
                while Instant::now() < end && identity::lives(&identity) {
                    if gate.waits(identity.pid) {
                        return Ok(identity);
                    }
                    sleep(STEP).await;
                }
            }
            // which Docker does not know yet
            sleep(LOOK).await;
        }
        Err(failed(format!(
            "it has not come to {} in {} s",
            gate::entrypoint().join(" "),
            GATE.as_secs()
        )))
    }

    /// Opens a task's gate, and waits until it is through. That it has ended is told
    /// elsewhere.
    pub(super) async fn let_through(
        &self,
        task: &TaskId,
        process: &ProcessIdentity,
    ) -> Result<(), RuntimeError> {
        let gate = self.gates.of(task);
        let end = Instant::now() + GATE;
        while identity::lives(process) && gate.holds(process.pid) {
            if Instant::now() > end {
                return Err(RuntimeError::Sandbox(format!(
                    "its process {} does not go on though it was told to: is its container paused?",
                    process.pid
                )));
            }
            gate.open()?;
            sleep(STEP).await;
        }
        Ok(())
    }
}
