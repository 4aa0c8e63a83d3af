//! All runtimes of a node as one: each task is run by the one that its spec names.

use std::{path::PathBuf, time::Duration};

use model::{Instance, RuntimeSpec, Task, TaskId};
use tokio::sync::{broadcast, mpsc};

use crate::{
    Docker, DockerSettings, Event, LogLine, LogOptions, Observed, Process, Runtime, RuntimeError,
    Sandbox, TaskFiles,
};

/// The runtimes of a node.
pub struct Runtimes {
    process: Process,
    docker: Docker,
}

impl Runtimes {
    /// Process tasks have shims that are `program shim DIR`, docker tasks an
    /// engine.
    ///
    /// # Errors
    /// Directories cannot be made.
    pub fn new(
        instance: &Instance,
        program: PathBuf,
        docker: DockerSettings,
    ) -> Result<Self, RuntimeError> {
        let process = Process::new(instance, program)?;
        let docker = Docker::new(instance, docker, process.sender());
        Ok(Self { process, docker })
    }
}

impl Runtime for Runtimes {
    async fn prepare(&self, task: &Task, files: &TaskFiles) -> Result<Sandbox, RuntimeError> {
        match task.spec.runtime {
            RuntimeSpec::Process(_) => self.process.prepare(task, files).await,
            RuntimeSpec::Docker(_) => self.docker.prepare(task, files).await,
            RuntimeSpec::Static | RuntimeSpec::Adopted { .. } => Err(RuntimeError::Sandbox(
                "it is not ours to start; this is a bug of ipvsmesh".to_owned(),
            )),
        }
    }

    async fn start(&self, task: &TaskId) -> Result<(), RuntimeError> {
        match self.docker.knows(task) {
            true => self.docker.start(task).await,
            false => self.process.start(task).await,
        }
    }

    async fn observe(&self) -> Result<Vec<Observed>, RuntimeError> {
        let mut all = self.process.observe().await?;
        all.extend(self.docker.observe().await?);
        Ok(all)
    }

    async fn look(&self, task: &TaskId) -> Result<Option<Observed>, RuntimeError> {
        match self.docker.knows(task) {
            true => self.docker.look(task).await,
            false => self.process.look(task).await,
        }
    }

    async fn stop(
        &self,
        task: &TaskId,
        signal: Option<&str>,
        grace: Duration,
    ) -> Result<(), RuntimeError> {
        match self.docker.knows(task) {
            true => self.docker.stop(task, signal, grace).await,
            false => self.process.stop(task, signal, grace).await,
        }
    }

    async fn remove(&self, task: &TaskId) -> Result<(), RuntimeError> {
        match self.docker.knows(task) {
            true => self.docker.remove(task).await,
            false => self.process.remove(task).await,
        }
    }

    async fn forget(&self, task: &TaskId) -> Result<(), RuntimeError> {
        match self.docker.knows(task) {
            true => self.docker.forget(task).await,
            false => self.process.forget(task).await,
        }
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        // both tell by one channel
        self.process.events()
    }

    fn logs(
        &self,
        task: &TaskId,
        options: LogOptions,
    ) -> mpsc::Receiver<Result<LogLine, RuntimeError>> {
        match self.docker.knows(task) {
            true => self.docker.logs(task, options),
            false => self.process.logs(task, options),
        }
    }
}
