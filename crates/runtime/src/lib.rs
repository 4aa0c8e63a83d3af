//! What runs tasks. A runtime makes a sandbox (a network namespace in which
//! nothing of the user runs yet), the data plane attaches it, then the task is
//! started in it. Sandboxes outlive the daemon and are found again by it.
#![forbid(unsafe_code)]

mod cgroup;
mod docker;
mod files;
mod hand_out;
mod identity;
mod launch;
mod log;
mod process;
mod protocol;
mod runtimes;
mod sandbox;
mod shim;
mod users;

use std::{
    future::Future,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use model::{Health, ProcessIdentity, Task, TaskId};
use tokio::sync::{broadcast, mpsc};

pub use docker::{Docker, DockerSettings, guests};
pub use files::TaskFiles;
pub use hand_out::TaskFile;
pub use log::{LogLine, LogOptions, LogStream};
pub use process::Process;
pub use runtimes::Runtimes;
pub use shim::{ShimError, shim_main};

/// Runs tasks of one kind on this node.
pub trait Runtime: Send + Sync + 'static {
    /// Makes the task's sandbox; nothing of the user runs yet. One that lives
    /// already is given back as it is.
    fn prepare(
        &self,
        task: &Task,
        files: &TaskFiles,
    ) -> impl Future<Output = Result<Sandbox, RuntimeError>> + Send;

    /// Starts the task in its sandbox; nothing where it was started already. That
    /// it could not start is told by an error, or by [`Phase::Exited`] with `rejected`.
    fn start(&self, task: &TaskId) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Everything that exists, whoever made it: what a new daemon finds. From then
    /// on events tell of its changes.
    fn observe(&self) -> impl Future<Output = Result<Vec<Observed>, RuntimeError>> + Send;

    /// What there is of one task, as [`Self::observe`] says it; `None`: nothing.
    fn look(
        &self,
        task: &TaskId,
    ) -> impl Future<Output = Result<Option<Observed>, RuntimeError>> + Send;

    /// Sends the signal (`None`: the task's usual one), and kills whatever is left
    /// after `grace`. Returns at once; the end comes as an event. Asking again sends another signal if it
    /// is another, and can only shorten the time. Nothing where nothing runs.
    fn stop(
        &self,
        task: &TaskId,
        signal: Option<&str>,
        grace: Duration,
    ) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Ends and removes all of a task but its log. No error where nothing is.
    fn remove(&self, task: &TaskId) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Deletes a task's log.
    fn forget(&self, task: &TaskId) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Tells of changes of all that was prepared or observed; who misses some
    /// calls [`Self::observe`].
    fn events(&self) -> broadcast::Receiver<Event>;

    /// A task's log, line by line; ends when there are no more. No error where
    /// there is no log. Must be called within an asynchronous runtime.
    fn logs(
        &self,
        task: &TaskId,
        options: LogOptions,
    ) -> mpsc::Receiver<Result<LogLine, RuntimeError>>;
}

/// A namespace in which a task can be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// `/proc/PID/ns/net`
    pub netns: PathBuf,
    /// The process that holds it.
    pub identity: ProcessIdentity,
}

/// How far a task is for its runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Its sandbox exists, and nothing runs in it.
    Prepared,
    /// Its command runs.
    Running {
        /// Process id in the host's pid namespace.
        pid: u32,
        /// What the runtime's own check of it says.
        health: Health,
    },
    /// Its command ended, and it is not known yet how; [`Self::Exited`] follows.
    Ended,
    /// Its command ended.
    Exited {
        /// Exit status; 128 + signal where it was killed.
        code: i32,
        /// Why, if not by itself.
        error: String,
        /// It could not be started at all.
        rejected: bool,
        /// When.
        at: Timestamp,
    },
    /// Nothing of it runs, and it is not known how it ended.
    Gone,
}

/// What there is of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Which.
    pub task: TaskId,
    /// How far it is.
    pub phase: Phase,
    /// The process that holds its sandbox; `None`: there is no sandbox any more.
    pub identity: Option<ProcessIdentity>,
}

/// A change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Of this task.
    pub task: TaskId,
    /// What it came to.
    pub phase: Phase,
}

/// Why the runtime cannot do as asked.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// A file or directory.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The sandbox could not be made, as the shim says.
    #[error("cannot make a sandbox for the task: {0}")]
    Sandbox(String),
    /// The task's shim does not answer.
    #[error("the shim of task {task} does not answer")]
    Shim {
        /// Which task.
        task: TaskId,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It was killed and still is there.
    #[error(
        "processes of task {task} do not end though they were killed: they wait in the kernel, for a disk perhaps (see /proc/PID/stack); removing is tried again"
    )]
    Remains {
        /// Which task.
        task: TaskId,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// Docker does not answer.
    #[error(
        "Docker is not available: {why}: install or start it (systemctl start docker), or name its socket (ipvsmeshd --docker-socket, now {})",
        socket.display()
    )]
    Unavailable {
        /// Where it was asked.
        socket: PathBuf,
        /// What happened.
        why: String,
    },
    /// Docker refuses.
    #[error("Docker cannot {action} {on}: {message}")]
    Engine {
        /// What was asked.
        action: &'static str,
        /// Of what.
        on: String,
        /// Its status code; 0: it was not asked.
        code: u16,
        /// What it says.
        message: String,
    },
    /// A task's image is not to be had.
    #[error("No such image: {image}: {why}")]
    Image {
        /// Its name.
        image: String,
        /// Why.
        why: String,
    },
    /// The signal has no such name.
    #[error("signal {0:?} is not known: use a name such as SIGTERM")]
    Signal(String),
}

impl RuntimeError {
    /// Whether the same may work a while later without anybody doing anything for it:
    /// nothing is wrong with the task.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

/// The error of what was done to a file or directory.
pub(crate) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RuntimeError {
    let path = path.to_owned();
    move |source| RuntimeError::File {
        action,
        path,
        source,
    }
}
