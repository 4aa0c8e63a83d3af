//! Makes, signals and removes containers.

use std::{sync::Arc, time::Duration};

use bollard::{
    Docker as Client,
    models::ContainerCreateBody,
    query_parameters::{
        CreateContainerOptionsBuilder, KillContainerOptionsBuilder, RemoveContainerOptionsBuilder,
    },
};
use model::{ContainerSpec, Task, TaskId};
use tokio::time::{Instant, sleep};

use super::{
    Inner, boot_id,
    container::{self, sandbox_name},
    engine::{is_missing, refusal},
    lock, look,
    phase::{Pair, State},
    pull,
    record::Record,
};
use crate::{RuntimeError, Sandbox, TaskFiles};

/// How long a container may take to end when it is killed.
const KILL: Duration = Duration::from_secs(30);
/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(100);

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

    pub(super) async fn pair(&self, client: &Client, name: &str) -> Result<Pair, RuntimeError> {
        let pair = look::pair(client, name).await;
        pair.map_err(|error| self.engine.failed("look at container", name, &error))
    }

    /// Removes what is left of a task.
    pub(super) async fn erase(
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
    pub(super) async fn kill(&self, client: &Client, name: &str) -> Result<(), RuntimeError> {
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
    pub(super) async fn make(
        &self,
        task: &Task,
        spec: &ContainerSpec,
        files: &TaskFiles,
    ) -> Result<Sandbox, RuntimeError> {
        let client = self.engine.await_client().await?;
        let auth = files.registry_auth.as_ref();
        pull::ensure(&self.engine, &client, &spec.image, spec.pull, auth).await?;
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
