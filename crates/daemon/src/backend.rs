//! What the API asks of the daemon: decisions of `plan::admit`, written to the
//! store.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use api::{
    ApiError, ContainerRef, Engine, ErrorKind, LogLine, LogOptions, SandboxRef,
    inspect::{Inspected, Target},
    trace::{Trace, TraceRequest},
};
use futures::{StreamExt as _, stream};
use imbl::OrdSet;
use kernel::Kernel;
use model::{
    Availability, BlobId, BlobKind, BlobSpec, Instance, NetworkId, NetworkSpec, NodeId, Options,
    Revision, RuntimeSpec, Server, ServiceId, ServiceSpec, State, TaskId, Transaction,
};
use plan::{
    admit::{self, Context, HeldPort, Kind, Refusal},
    datapath::Settings,
};
use runtime::{LogStream, Runtime};
use serde_json::{Value, json};
use store::Store;
use tokio::sync::watch;

use crate::{
    adopter::Problems,
    datapath::{self, Counters, Followed, Sandboxes},
    events::Events,
    inspect::Inspector,
    mesh::{DecideError, Mesh},
    probe::Healths,
    trace::Tracer,
};

/// How long the DNS responder may take to have the latest names.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long who looks at the kernel waits until it is as the newest state wants it.
const SETTLING: Duration = Duration::from_secs(1);
/// How often it is looked at anew because it was changed meanwhile.
const LOOKS: u32 = 3;

/// How long a network's removal waits for tasks that are ending.
const STOPPING: Duration = Duration::from_secs(120);

/// The daemon as the API sees it.
pub(crate) struct Daemon<S, R> {
    pub(crate) mesh: Arc<Mesh<S>>,
    pub(crate) runtime: Arc<R>,
    pub(crate) kernel: Arc<Kernel>,
    pub(crate) instance: Instance,
    pub(crate) settings: watch::Receiver<Settings>,
    pub(crate) engine: Engine,
    pub(crate) sandboxes: Arc<Sandboxes>,
    pub(crate) datapath: datapath::Handle,
    pub(crate) followed: watch::Receiver<Followed>,
    pub(crate) answered: watch::Receiver<Revision>,
    pub(crate) counters: watch::Receiver<Counters>,
    pub(crate) events: Arc<Events>,
    pub(crate) healths: Arc<Healths>,
    /// What labelled containers ask for and cannot have.
    pub(crate) conflicts: Arc<Problems>,
    /// How the responder was when it was last looked after.
    pub(crate) responder: watch::Receiver<dns::Status>,
    /// Names the servers for names outside of the mesh.
    pub(crate) resolv_conf: PathBuf,
    /// What others change is set right.
    pub(crate) repairs: bool,
}

fn refused(error: DecideError<Refusal>) -> ApiError {
    match error {
        DecideError::Refused(refusal) => ApiError {
            kind: match refusal.kind() {
                Kind::NotFound => ErrorKind::NotFound,
                Kind::Conflict => ErrorKind::Conflict,
                Kind::Invalid => ErrorKind::Invalid,
            },
            message: refusal.to_string(),
        },
        other => ApiError::internal(crate::chain(&other)),
    }
}

impl<S: Store, R: Runtime> Daemon<S, R> {
    /// Decides with all that a decision needs from outside, and writes it.
    async fn decide<T: Clone>(
        &self,
        ports: bool,
        mut decision: impl FnMut(&State, &mut Context<'_>) -> Result<(T, Transaction), Refusal>,
    ) -> Result<T, ApiError> {
        let held = if ports { held_ports() } else { Vec::new() };
        let routes =
            kernel::host::routes().map_err(|error| ApiError::internal(crate::chain(&error)))?;
        let mut given = None;
        self.mesh
            .admit(&held, &routes, |state, context| {
                let (value, tx) = decision(state, context)?;
                given = Some(value);
                Ok(tx)
            })
            .await
            .map_err(refused)?;
        given.ok_or_else(|| ApiError::internal("nothing was decided"))
    }

    /// By which state and for which namespaces the kernel was made: by the newest; by that
    /// one too, where it cannot be made so for now.
    async fn followed(&self, told: &mut watch::Receiver<Followed>) -> (Arc<State>, OrdSet<TaskId>) {
        let state = self.mesh.state();
        let is_new =
            |followed: &Followed| followed.done && followed.state.revision >= state.revision;
        let newest = tokio::time::timeout(SETTLING, told.wait_for(is_new)).await;
        if let Ok(Ok(newest)) = newest {
            return (newest.state.clone(), newest.sandboxes.clone());
        }
        // else each look would wait for what is no change
        drop(newest);
        told.mark_unchanged();
        (state, self.sandboxes.borrow().clone())
    }
}

/// Ports of the host that others listen on. (Ours have no socket.)
pub(crate) fn held_ports() -> Vec<HeldPort> {
    let unknown = || "of another program".to_owned();
    kernel::host::listeners()
        .into_iter()
        .map(|held| HeldPort {
            listener: held.listener,
            holder: held.holder.unwrap_or_else(unknown),
        })
        .collect()
}

/// Refuses a scheduler that this kernel does not have.
async fn check_scheduler(spec: &ServiceSpec) -> Result<(), ApiError> {
    let invalid = |message: String| ApiError {
        kind: ErrorKind::Invalid,
        message,
    };
    let options = Options::of(&spec.labels).map_err(|error| invalid(error.to_string()))?;
    let name = options.scheduler.as_str();
    let loaded = tokio::task::spawn_blocking(move || kernel::scheduler::load(name)).await;
    let loaded = loaded.map_err(|error| ApiError::internal(error.to_string()))?;
    loaded.map_err(|error| invalid(crate::chain(&error)))
}

/// Refuses servers that are this host: an answer of its own does not go where packets
/// that it forwards are turned back.
fn check_servers(spec: &ServiceSpec) -> Result<(), ApiError> {
    if spec.task.runtime != RuntimeSpec::Static {
        return Ok(());
    }
    // what is wrong with them is said by who admits them
    let servers = Server::of_labels(&spec.labels).unwrap_or_default();
    let own = kernel::host::addresses();
    let own = own.map_err(|error| ApiError::internal(crate::chain(&error)))?;
    for server in servers {
        if let Some((_, link)) = own.iter().find(|(net, _)| net.addr() == server.ip) {
            return Err(ApiError {
                kind: ErrorKind::Invalid,
                message: format!(
                    "endpoint {server} is this host's own address (of {link}), which cannot be reached from the mesh's namespaces: run that server as a service of the mesh, or on another machine"
                ),
            });
        }
    }
    Ok(())
}

impl<S: Store, R: Runtime> api::Backend for Daemon<S, R> {
    fn states(&self) -> watch::Receiver<Arc<State>> {
        self.mesh.subscribe()
    }

    fn node(&self) -> NodeId {
        self.mesh.node.clone()
    }

    fn engine(&self) -> &Engine {
        &self.engine
    }

    async fn update_node(
        &self,
        id: NodeId,
        version: Revision,
        labels: BTreeMap<String, String>,
        availability: Availability,
    ) -> Result<(), ApiError> {
        self.decide(false, |state, _| {
            let tx = admit::update_node(state, &id, version, labels.clone(), availability)?;
            Ok(((), tx))
        })
        .await
    }

    async fn create_network(&self, spec: NetworkSpec, raw: Value) -> Result<NetworkId, ApiError> {
        self.decide(false, |state, context| {
            admit::create_network(state, &spec, &raw, context)
        })
        .await
    }

    async fn remove_network(&self, id: NetworkId) -> Result<(), ApiError> {
        // docker's stack rm removes services, and their networks at once
        let stopping = |state: &Arc<State>| {
            let removed = admit::remove_network(state, &id, jiff::Timestamp::now());
            matches!(removed, Err(Refusal::StillStopping { .. }))
        };
        let mut states = self.mesh.subscribe();
        let ended = states.wait_for(|state| !stopping(state));
        // those that take longer are named then
        let _ = tokio::time::timeout(STOPPING, ended).await;
        self.decide(false, |state, context| {
            Ok(((), admit::remove_network(state, &id, context.now)?))
        })
        .await
    }

    async fn create_blob(&self, kind: BlobKind, spec: BlobSpec) -> Result<BlobId, ApiError> {
        self.decide(false, |state, context| {
            admit::create_blob(state, kind, spec.clone(), context)
        })
        .await
    }

    async fn label_blob(
        &self,
        id: BlobId,
        version: Revision,
        labels: BTreeMap<String, String>,
    ) -> Result<(), ApiError> {
        self.decide(false, |state, context| {
            let tx = admit::label_blob(state, &id, version, labels.clone(), context.now)?;
            Ok(((), tx))
        })
        .await
    }

    async fn remove_blob(&self, id: BlobId) -> Result<(), ApiError> {
        self.decide(false, |state, context| {
            Ok(((), admit::remove_blob(state, &id, context.now)?))
        })
        .await
    }

    async fn create_service(&self, spec: ServiceSpec, raw: Value) -> Result<ServiceId, ApiError> {
        check_scheduler(&spec).await?;
        check_servers(&spec)?;
        let ports = !spec.endpoint.ports.is_empty();
        self.decide(ports, |state, context| {
            admit::create_service(state, spec.clone(), &raw, context)
        })
        .await
    }

    async fn update_service(
        &self,
        id: ServiceId,
        version: Revision,
        spec: ServiceSpec,
        raw: Value,
    ) -> Result<(), ApiError> {
        check_scheduler(&spec).await?;
        check_servers(&spec)?;
        let ports = !spec.endpoint.ports.is_empty();
        self.decide(ports, |state, context| {
            let tx = admit::update_service(state, &id, version, spec.clone(), &raw, context)?;
            Ok(((), tx))
        })
        .await
    }

    async fn rollback_service(&self, id: ServiceId, version: Revision) -> Result<(), ApiError> {
        self.decide(true, |state, context| {
            Ok(((), admit::rollback_service(state, &id, version, context)?))
        })
        .await
    }

    async fn remove_service(&self, id: ServiceId) -> Result<(), ApiError> {
        self.decide(false, |state, context| {
            Ok(((), admit::remove_service(state, &id, context.now)?))
        })
        .await
    }

    fn logs(
        &self,
        task: &TaskId,
        options: LogOptions,
    ) -> stream::BoxStream<'static, Result<LogLine, ApiError>> {
        let options = runtime::LogOptions {
            tail: options.tail,
            follow: options.follow,
            since: options.since,
        };
        let mut lines = self.runtime.logs(task, options);
        let lines = stream::poll_fn(move |context| lines.poll_recv(context));
        let line = |line: runtime::LogLine| LogLine {
            time: line.time,
            stderr: line.stream == LogStream::Stderr,
            text: line.log,
        };
        let failed = |error| ApiError::internal(crate::chain(&error));
        lines
            .map(move |read| read.map(line).map_err(failed))
            .boxed()
    }

    fn events(&self) -> api::Events {
        self.events.all()
    }

    async fn inspect(&self, target: Target) -> Result<Inspected, ApiError> {
        let mut told = self.followed.clone();
        let mut looks = 1;
        loop {
            let (state, sandboxes) = self.followed(&mut told).await;
            let settings = self.settings.borrow().clone();
            let inspector = Inspector {
                state: &state,
                node: &self.mesh.node,
                instance: &self.instance,
                settings: &settings,
                kernel: &self.kernel,
                sandboxes,
                healths: self.healths.borrow().clone(),
                conflicts: self.conflicts.borrow().clone(),
                counters: *self.counters.borrow(),
                responder: *self.responder.borrow(),
            };
            let seen = inspector.inspect(&target).await;
            if looks == LOOKS || !told.has_changed().unwrap_or_default() {
                return seen;
            }
            looks += 1;
        }
    }

    async fn stats(&self) -> Result<api::stats::Stats, ApiError> {
        let state = self.mesh.state();
        let fronts = crate::metrics::fronts(&state, &self.mesh.node, &self.instance);
        let live = crate::metrics::live(&self.kernel, &fronts).await;
        let live = live.map_err(|error| ApiError::internal(crate::chain(&error)))?;
        let services = live.iter().flat_map(|(_, services)| services.values());
        let destinations = services.flat_map(|service| &service.destinations);
        Ok(crate::stats::stats(&state, destinations))
    }

    async fn trace(&self, request: TraceRequest) -> Result<Trace, ApiError> {
        let (state, sandboxes) = self.followed(&mut self.followed.clone()).await;
        let node = &self.mesh.node;
        let settings = self.settings.borrow().clone();
        let wanted = plan::datapath::wanted(&state, node, &self.instance, &sandboxes, &settings);
        let responder = self.responder.borrow().pid;
        let tracer = Tracer {
            state,
            node,
            instance: &self.instance,
            kernel: &self.kernel,
            wanted,
            resolv_conf: &self.resolv_conf,
            responder,
            repairs: self.repairs,
        };
        tracer.run(&request).await
    }

    fn sandbox(&self, task: TaskId) -> Result<SandboxRef, ApiError> {
        let state = self.mesh.state();
        let process = state
            .status(&task)
            .and_then(|status| status.process.as_ref());
        let process = process.ok_or_else(|| ApiError {
            kind: ErrorKind::Conflict,
            message: format!("task {task} is not running"),
        })?;
        let spec = state.tasks.get(&task);
        let docker = spec.filter(|task| matches!(task.spec.runtime, RuntimeSpec::Docker(_)));
        Ok(SandboxRef {
            pid: process.pid,
            netns: self.instance.task_netns(&task),
            container: docker.map(|task| ContainerRef {
                socket: self.engine.socket().to_owned(),
                name: task.container_name(),
            }),
        })
    }

    async fn settled(&self) -> Result<(), ApiError> {
        let revision = self.mesh.state().revision;
        let behind = |what: &str, why: &str| ApiError {
            kind: ErrorKind::Unavailable,
            message: format!(
                "{what} not yet as wanted: {why}; it is tried again, see the log of ipvsmeshd"
            ),
        };
        let synced = self.datapath.sync().await;
        synced.map_err(|why| behind("the kernel is", &why))?;
        let mut answered = self.answered.clone();
        let told = answered.wait_for(|told| *told >= revision);
        match tokio::time::timeout(PATIENCE, told).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(behind("names are", "the DNS responder does not answer")),
        }
    }

    fn status(&self) -> Value {
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "instance": self.instance,
            "node": self.mesh.node,
            "revision": self.mesh.state().revision,
            "counters": *self.counters.borrow(),
            "names": *self.responder.borrow(),
        })
    }
}
