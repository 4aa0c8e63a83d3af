//! A mesh in memory, for tests: real decisions of `plan`, and tasks that run as
//! soon as they are wanted. A command whose program begins with `/no/such` is
//! rejected.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test binary uses its own part; a test fails so"
)]

use std::{
    collections::BTreeMap,
    future::ready,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use api::{
    ApiError, Backend, Engine, ErrorKind, Events, LogLine, LogOptions, SandboxRef,
    inspect::{Inspected, Inspection, Target, TaskEntry},
    stats::{ServiceStats, Stats},
    trace::{Trace, TraceRequest},
};
use futures::{
    StreamExt as _,
    stream::{BoxStream, iter, once, pending},
};
use jiff::Timestamp;
use model::{
    Availability, BlobId, BlobKind, BlobSpec, Change, DesiredState, Happened, NetworkId,
    NetworkSpec, NodeId, Object, Pools, Revision, RuntimeSpec, ServiceId, ServiceSpec, State,
    TaskId, TaskState, TaskStatus, Transaction,
};
use plan::{
    admit::{self, Context, Kind, Refusal},
    orchestrate::Orchestrator,
};
use serde_json::{Value, json};
use tokio::{
    net::UnixListener,
    sync::{oneshot, watch},
};

/// The mesh.
pub(crate) struct Fake {
    state: watch::Sender<Arc<State>>,
    happened: Mutex<Vec<Arc<Happened>>>,
    seed: Mutex<u128>,
    node: NodeId,
    engine: Engine,
}

fn random(seed: &mut u128) -> [u8; 16] {
    // any odd factor makes numbers that differ in all digits
    *seed = seed
        .wrapping_mul(0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645)
        .wrapping_add(1);
    seed.to_be_bytes()
}

fn commit(state: &mut State, tx: Transaction) {
    state.apply(Revision(state.revision.0 + 1), tx.changes);
}

impl Fake {
    /// A mesh with one node and nothing on it.
    pub(crate) fn new() -> Self {
        let node = NodeId::from_random([7; 16]);
        let mut state = State::default();
        let now = Timestamp::now();
        let tx = admit::init(&state, &node, "one", &Pools::default(), &[], now).unwrap();
        commit(&mut state, tx);
        Self {
            state: watch::Sender::new(Arc::new(state)),
            happened: Mutex::default(),
            seed: Mutex::new(1),
            node,
            engine: Engine::new("/nowhere/docker.sock".into()),
        }
    }

    fn decide<T>(
        &self,
        decision: impl FnOnce(&State, &mut Context<'_>) -> Result<(T, Transaction), Refusal>,
    ) -> Result<T, ApiError> {
        let seed = &mut *self.seed.lock().unwrap();
        let mut state = State::clone(&self.state());
        let mut context = Context {
            now: Timestamp::now(),
            random: &mut || random(seed),
            held: &[],
            routes: &[],
        };
        let (value, tx) = decision(&state, &mut context).map_err(|refusal| ApiError {
            kind: match refusal.kind() {
                Kind::NotFound => ErrorKind::NotFound,
                Kind::Conflict => ErrorKind::Conflict,
                Kind::Invalid => ErrorKind::Invalid,
            },
            message: refusal.to_string(),
        })?;
        commit(&mut state, tx);
        settle(&mut state, seed);
        let happened = plan::events::between(&self.state(), &state);
        let at = Timestamp::now();
        let happened = happened.into_iter();
        let happened = happened.map(|event| Arc::new(Happened { at, event }));
        self.happened.lock().unwrap().extend(happened);
        self.state.send_replace(Arc::new(state));
        Ok(value)
    }
}

/// Makes and ends tasks until all is as wanted.
fn settle(state: &mut State, seed: &mut u128) {
    let mut now = Timestamp::now();
    let mut orchestrator = Orchestrator::default();
    for _ in 0..50 {
        let plan = orchestrator.look(state, now, &mut || random(seed));
        let done = plan.tx.is_empty();
        commit(state, plan.tx);
        let statuses: Vec<_> = state
            .tasks
            .values()
            .filter_map(|task| status(state, task))
            .collect();
        if done && statuses.is_empty() {
            let mut services = state.services.values();
            let updates = services.any(|service| {
                let status = service.update_status.as_ref();
                status.is_some_and(|status| status.state.in_progress())
            });
            match plan.wake {
                // an update is watched for a while, which is over here at once
                Some(wake) if updates => now = wake,
                _ => return,
            }
        }
        let changes = statuses
            .into_iter()
            .map(|status| Change::Put(Object::Status(status)));
        state.apply(Revision(state.revision.0 + 1), changes);
    }
}

/// What becomes of a task at once; `None`: nothing.
fn status(state: &State, task: &model::Task) -> Option<TaskStatus> {
    let program = match &task.spec.runtime {
        RuntimeSpec::Process(process) => process.command[0].as_str(),
        RuntimeSpec::Docker(container) => container.image.as_str(),
        RuntimeSpec::Static | RuntimeSpec::Adopted { .. } => "",
    };
    let missing = program.contains("no/such");
    let has = state.status(&task.id).map(|status| status.state);
    let (next, error) = match (task.desired, has) {
        (DesiredState::Running, None) if missing && task.not_before.is_none() => {
            (TaskState::Rejected, format!("cannot run {program}"))
        }
        (DesiredState::Running, None) if !missing => (TaskState::Running, String::new()),
        (DesiredState::Shutdown | DesiredState::Remove, None | Some(TaskState::Running)) => {
            (TaskState::Shutdown, String::new())
        }
        _ => return None,
    };
    Some(TaskStatus {
        task: task.id.clone(),
        state: next,
        since: Timestamp::now(),
        started: (next == TaskState::Running).then(Timestamp::now),
        message: "started".to_owned(),
        error,
        exit_code: None,
        process: None,
        draining: false,
        draining_since: None,
        ended: false,
        attached: false,
    })
}

impl Backend for Fake {
    fn states(&self) -> watch::Receiver<Arc<State>> {
        self.state.subscribe()
    }

    fn node(&self) -> NodeId {
        self.node.clone()
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
        self.decide(|state, _| {
            let tx = admit::update_node(state, &id, version, labels, availability)?;
            Ok(((), tx))
        })
    }

    async fn create_network(&self, spec: NetworkSpec, raw: Value) -> Result<NetworkId, ApiError> {
        self.decide(|state, context| admit::create_network(state, &spec, &raw, context))
    }

    async fn remove_network(&self, id: NetworkId) -> Result<(), ApiError> {
        self.decide(|state, context| Ok(((), admit::remove_network(state, &id, context.now)?)))
    }

    async fn create_blob(&self, kind: BlobKind, spec: BlobSpec) -> Result<BlobId, ApiError> {
        self.decide(|state, context| admit::create_blob(state, kind, spec, context))
    }

    async fn label_blob(
        &self,
        id: BlobId,
        version: Revision,
        labels: BTreeMap<String, String>,
    ) -> Result<(), ApiError> {
        self.decide(|state, context| {
            let tx = admit::label_blob(state, &id, version, labels, context.now)?;
            Ok(((), tx))
        })
    }

    async fn remove_blob(&self, id: BlobId) -> Result<(), ApiError> {
        self.decide(|state, context| Ok(((), admit::remove_blob(state, &id, context.now)?)))
    }

    async fn create_service(&self, spec: ServiceSpec, raw: Value) -> Result<ServiceId, ApiError> {
        self.decide(|state, context| admit::create_service(state, spec, &raw, context))
    }

    async fn update_service(
        &self,
        id: ServiceId,
        version: Revision,
        spec: ServiceSpec,
        raw: Value,
    ) -> Result<(), ApiError> {
        self.decide(|state, context| {
            let tx = admit::update_service(state, &id, version, spec, &raw, context)?;
            Ok(((), tx))
        })
    }

    async fn rollback_service(&self, id: ServiceId, version: Revision) -> Result<(), ApiError> {
        self.decide(|state, context| {
            Ok(((), admit::rollback_service(state, &id, version, context)?))
        })
    }

    async fn remove_service(&self, id: ServiceId) -> Result<(), ApiError> {
        self.decide(|state, context| Ok(((), admit::remove_service(state, &id, context.now)?)))
    }

    fn logs(
        &self,
        task: &TaskId,
        options: LogOptions,
    ) -> BoxStream<'static, Result<LogLine, ApiError>> {
        let name = self.state().tasks[task].name();
        let line = |second: i64, stderr: bool, word: &str| LogLine {
            time: Timestamp::from_second(second).unwrap(),
            stderr,
            text: format!("{word} from {name}\n"),
        };
        let mut lines = vec![
            line(1, false, "hello"),
            line(2, true, "oops"),
            line(3, false, "bye"),
        ];
        lines.drain(..lines.len().saturating_sub(options.tail.unwrap_or(3)));
        // a followed one ends with its task
        let (task, mut states) = (task.clone(), self.states());
        let end = once(async move {
            let ended = |state: &Arc<State>| {
                let status = state.status(&task);
                !options.follow || status.is_none_or(|status| status.state.is_final())
            };
            let _ = states.wait_for(ended).await;
            None
        });
        iter(lines).map(Ok).chain(end.filter_map(ready)).boxed()
    }

    fn events(&self) -> Events {
        Events {
            past: self.happened.lock().unwrap().clone(),
            coming: pending().boxed(),
        }
    }

    async fn inspect(&self, target: Target) -> Result<Inspected, ApiError> {
        let state = self.state();
        let service = match target {
            Target::Service(service) => service,
            Target::Task(task) => state.tasks[&task].service.clone(),
            other => return Err(ApiError::not_found("service", &format!("{other:?}"))),
        };
        let found = &state.services[&service];
        let tasks = state.tasks_of(&service).into_iter().map(|task| TaskEntry {
            name: task.name(),
            ..TaskEntry::default()
        });
        Ok(Inspected::Service(Inspection {
            name: found.spec.name.to_string(),
            tasks: tasks.collect(),
            ..Inspection::default()
        }))
    }

    async fn stats(&self) -> Result<Stats, ApiError> {
        let services = self
            .state()
            .services
            .values()
            .map(|service| ServiceStats {
                name: service.spec.name.to_string(),
                ..ServiceStats::default()
            })
            .collect();
        Ok(Stats { services })
    }

    async fn trace(&self, request: TraceRequest) -> Result<Trace, ApiError> {
        Ok(Trace {
            from: request.from,
            to: request.to,
            arrived: request.port == Some(80),
            ..Trace::default()
        })
    }

    fn sandbox(&self, task: TaskId) -> Result<SandboxRef, ApiError> {
        Err(ApiError {
            kind: ErrorKind::Unavailable,
            message: format!("task {task} has no sandbox here"),
        })
    }

    async fn settled(&self) -> Result<(), ApiError> {
        Ok(())
    }

    fn status(&self) -> Value {
        json!({"version": "0", "instance": "", "revision": self.state().revision, "counters": {}})
    }
}

/// A served mesh; ends when it is dropped.
pub(crate) struct Served {
    /// Where it listens.
    pub(crate) socket: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

impl Served {
    /// Serves a new mesh on a socket of its own.
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("mesh.sock");
        let (stop, stopped) = oneshot::channel();
        let (ready, listening) = std::sync::mpsc::channel();
        let path = socket.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(async {
                let listener = UnixListener::bind(path).unwrap();
                ready.send(()).unwrap();
                let stopped = async { drop(stopped.await) };
                api::serve(Arc::new(Fake::new()), listener, stopped)
                    .await
                    .unwrap();
            });
        });
        listening.recv().unwrap();
        Self {
            socket,
            stop: Some(stop),
            thread: Some(thread),
            _dir: dir,
        }
    }

    /// Ends it and waits until it has.
    pub(crate) fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.stop.take());
    }
}

/// Sends a request as it is; gives the status, the head and the body.
pub(crate) fn raw(served: &Served, method: &str, path: &str, body: &str) -> (u16, String, String) {
    let mut stream = UnixStream::connect(&served.socket).unwrap();
    let length = body.len();
    // a refusal may come before all was sent
    let _ = write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text);
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_ascii_lowercase(), body.to_owned())
}
