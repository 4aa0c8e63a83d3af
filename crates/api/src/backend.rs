use std::{collections::BTreeMap, future::Future, path::PathBuf, sync::Arc};

use futures::stream::BoxStream;
use jiff::Timestamp;
use model::{
    Availability, BlobId, BlobKind, BlobSpec, Happened, NetworkId, NetworkSpec, NodeId, Revision,
    ServiceId, ServiceSpec, State, TaskId,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;

use crate::{
    Engine,
    inspect::{Inspected, Target},
    stats::Stats,
    trace::{Trace, TraceRequest},
};

/// What the API needs of the daemon. Each writing call is decided, written and
/// visible in [`Self::state`] when it returns.
pub trait Backend: Send + Sync + 'static {
    /// The latest state, and each one that comes.
    fn states(&self) -> watch::Receiver<Arc<State>>;

    /// The latest state.
    fn state(&self) -> Arc<State> {
        self.states().borrow().clone()
    }

    /// The node that answers.
    fn node(&self) -> NodeId;

    /// The Docker Engine that does what is not ours.
    fn engine(&self) -> &Engine;

    /// Changes a node that still has this version.
    fn update_node(
        &self,
        id: NodeId,
        version: Revision,
        labels: BTreeMap<String, String>,
        availability: Availability,
    ) -> impl Future<Output = Result<(), ApiError>> + Send;

    /// Makes a network; `raw` is the request as it came.
    fn create_network(
        &self,
        spec: NetworkSpec,
        raw: Value,
    ) -> impl Future<Output = Result<NetworkId, ApiError>> + Send;

    /// Removes a network.
    fn remove_network(&self, id: NetworkId) -> impl Future<Output = Result<(), ApiError>> + Send;

    /// Makes a config or a secret.
    fn create_blob(
        &self,
        kind: BlobKind,
        spec: BlobSpec,
    ) -> impl Future<Output = Result<BlobId, ApiError>> + Send;

    /// Gives a config or a secret that still has this version other labels.
    fn label_blob(
        &self,
        id: BlobId,
        version: Revision,
        labels: BTreeMap<String, String>,
    ) -> impl Future<Output = Result<(), ApiError>> + Send;

    /// Removes a config or a secret.
    fn remove_blob(&self, id: BlobId) -> impl Future<Output = Result<(), ApiError>> + Send;

    /// Makes a service; `raw` is the spec as it came.
    fn create_service(
        &self,
        spec: ServiceSpec,
        raw: Value,
    ) -> impl Future<Output = Result<ServiceId, ApiError>> + Send;

    /// Changes a service that still has this version.
    fn update_service(
        &self,
        id: ServiceId,
        version: Revision,
        spec: ServiceSpec,
        raw: Value,
    ) -> impl Future<Output = Result<(), ApiError>> + Send;

    /// Changes a service back to its previous spec.
    fn rollback_service(
        &self,
        id: ServiceId,
        version: Revision,
    ) -> impl Future<Output = Result<(), ApiError>> + Send;

    /// Removes a service.
    fn remove_service(&self, id: ServiceId) -> impl Future<Output = Result<(), ApiError>> + Send;

    /// What a task has written, oldest first; followed, until it ended. Must be
    /// called within an asynchronous runtime.
    fn logs(
        &self,
        task: &TaskId,
        options: LogOptions,
    ) -> BoxStream<'static, Result<LogLine, ApiError>>;

    /// What happened lately, and what will.
    fn events(&self) -> Events;

    /// What is wanted of something, and what the kernel has.
    fn inspect(&self, target: Target) -> impl Future<Output = Result<Inspected, ApiError>> + Send;

    /// What passes through all services on this node.
    fn stats(&self) -> impl Future<Output = Result<Stats, ApiError>> + Send;

    /// Sends a probe, and says what became of it.
    fn trace(&self, request: TraceRequest) -> impl Future<Output = Result<Trace, ApiError>> + Send;

    /// Where a running task lives.
    fn sandbox(&self, task: TaskId) -> Result<SandboxRef, ApiError>;

    /// Waits until traffic and names go as the state that there is now says.
    fn settled(&self) -> impl Future<Output = Result<(), ApiError>> + Send;

    /// Version, counters and the like.
    fn status(&self) -> Value;
}

/// What happened, in order and without a gap between past and future.
pub struct Events {
    /// As far back as it is remembered.
    pub past: Vec<Arc<Happened>>,
    /// As it happens.
    pub coming: BoxStream<'static, Arc<Happened>>,
}

/// Which lines of a task's log are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Of those that are there, only so many of the last.
    pub tail: Option<usize>,
    /// Then those that come.
    pub follow: bool,
    /// Only those from this moment on.
    pub since: Option<Timestamp>,
}

/// A line that a task wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// When.
    pub time: Timestamp,
    /// To standard error rather than output.
    pub stderr: bool,
    /// The text with its line feed.
    pub text: String,
}

/// Where a running task lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxRef {
    /// A process in its namespaces, as the host numbers it.
    pub pid: u32,
    /// The name of its network namespace under `/run/netns`.
    pub netns: String,
    /// Its container, if it is in one.
    #[serde(default)]
    pub container: Option<ContainerRef>,
}

/// Which container of which Docker Engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRef {
    /// The engine's socket.
    pub socket: PathBuf,
    /// Its name there.
    pub name: String,
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// What kind of failure, for the status code.
    pub kind: ErrorKind,
    /// For people.
    pub message: String,
}

/// What kind of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// 400
    Invalid,
    /// 404
    NotFound,
    /// 409
    Conflict,
    /// 503
    Unavailable,
    /// 500
    Internal,
}

/// How much alike a name must be to be suggested; what clap takes is 0.7, and names of
/// services are alike more often than options are.
const ALIKE: f64 = 0.8;

impl ApiError {
    /// The request itself is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self {
            kind: ErrorKind::Invalid,
            message: message.into(),
        }
    }

    /// There is no such thing.
    pub fn not_found(what: &str, name: &str) -> Self {
        Self {
            kind: ErrorKind::NotFound,
            message: format!("{what} {name} not found"),
        }
    }

    /// The same, with the one of these names that may have been meant.
    #[must_use]
    pub fn or_meant<'a>(mut self, name: &str, known: impl Iterator<Item = &'a str>) -> Self {
        let alike = |known: &'a str| (strsim::jaro_winkler(name, known), known);
        let closest = known.map(alike).max_by(|(a, _), (b, _)| a.total_cmp(b));
        if let Some((_, known)) = closest.filter(|(alike, _)| *alike > ALIKE) {
            self.message.push_str(&format!("; did you mean {known}?"));
        }
        self
    }

    /// It cannot be so beside what there is.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self {
            kind: ErrorKind::Conflict,
            message: message.into(),
        }
    }

    /// It is our fault.
    pub fn internal(message: impl Into<String>) -> Self {
        Self {
            kind: ErrorKind::Internal,
            message: message.into(),
        }
    }
}
