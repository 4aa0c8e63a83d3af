//! The responder as a whole: the names it has, and its start and end.

use std::{
    net::IpAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use hickory_proto::op::ResponseCode;
use model::names::Update;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    net::UnixListener,
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Config, Error, Predecessor, Sockets,
    cache::{Cache, Key},
    control::{self, End, Orders, Status},
    forward::Forward,
    names::{Behind, Names},
    respond::{Response, Said, respond},
    tcp, udp,
    upstreams::Upstreams,
    wire::{Request, Transport},
};

/// How long questions on their way to other servers may keep us from ending.
const GRACE: Duration = Duration::from_millis(500);

/// What only tests set otherwise.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Where other servers listen.
    pub(crate) port: u16,
    /// How long another server may take.
    pub(crate) patience: Duration,
    /// How many questions may be on their way to other servers; with more,
    /// they are too slow, and clients are better told so.
    pub(crate) forwards: usize,
    /// How many TCP connections there may be.
    pub(crate) connections: usize,
    /// How long a TCP connection may be silent (RFC 7766 §6.2.3: seconds).
    pub(crate) idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            port: 53,
            patience: Duration::from_secs(2),
            forwards: 1024,
            connections: 512,
            idle: Duration::from_secs(10),
        }
    }
}

/// What all loops share.
pub(crate) struct Server {
    pub(crate) limits: Limits,
    /// Read for each question, written for a moment at each change.
    names: RwLock<Names>,
    pub(crate) upstreams: Mutex<Upstreams>,
    pub(crate) cache: Mutex<Cache>,
    /// To be passed on.
    pub(crate) sockets: Sockets,
    forwards: Arc<Semaphore>,
    pub(crate) connections: Arc<Semaphore>,
    started: Instant,
    pub(crate) count: Count,
}

/// What happened so far.
#[derive(Default)]
pub(crate) struct Count {
    queries: AtomicU64,
    tcp: AtomicU64,
    answered: AtomicU64,
    denied: AtomicU64,
    refused: AtomicU64,
    forwarded: AtomicU64,
    cached: AtomicU64,
    pub(crate) failed: AtomicU64,
}

/// What is to be done about a packet.
pub(crate) enum Next {
    Silence,
    Reply(Vec<u8>),
    Forward(Box<Forward>),
}

/// A lock of ours, whatever became of who had it: what is behind it is whole between any
/// two statements.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    pub(crate) fn new(resolv_conf: PathBuf, limits: Limits, sockets: Sockets) -> Self {
        Self {
            limits,
            names: RwLock::default(),
            upstreams: Mutex::new(Upstreams::new(resolv_conf, limits.port)),
            cache: Mutex::default(),
            sockets,
            forwards: Arc::new(Semaphore::new(limits.forwards)),
            connections: Arc::new(Semaphore::new(limits.connections)),
            started: Instant::now(),
            count: Count::default(),
        }
    }

    /// Takes in what changed.
    pub(crate) fn apply(&self, update: Update) -> Result<(), Behind> {
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        names.apply(update)
    }

    /// Answers from these from now on.
    pub(crate) fn replace(&self, names: Names) {
        *self.names.write().unwrap_or_else(PoisonError::into_inner) = names;
    }

    pub(crate) fn status(&self) -> Status {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        let count = &self.count;
        Status {
            revision: names.revision,
            pid: std::process::id(),
            uptime: self.started.elapsed().as_secs(),
            place: self.sockets.place,
            queries: count.queries.load(Relaxed),
            tcp: count.tcp.load(Relaxed),
            answered: count.answered.load(Relaxed),
            denied: count.denied.load(Relaxed),
            refused: count.refused.load(Relaxed),
            forwarded: count.forwarded.load(Relaxed),
            cached: count.cached.load(Relaxed),
            failed: count.failed.load(Relaxed),
        }
    }

    /// Answers a packet, or says what it takes to.
    pub(crate) fn take(
        self: &Arc<Self>,
        packet: &[u8],
        client: IpAddr,
        transport: Transport,
    ) -> Next {
        let count = &self.count;
        count.queries.fetch_add(1, Relaxed);
        if transport == Transport::Tcp {
            count.tcp.fetch_add(1, Relaxed);
        }
        let response = {
            let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
            respond(&names, client, packet, transport)
        };
        match response {
            Response::Silence => Next::Silence,
            Response::Reply(said, reply) => {
                let counter = match said {
                    Said::Answer => &count.answered,
                    Said::No => &count.denied,
                    Said::Refusal => &count.refused,
                };
                counter.fetch_add(1, Relaxed);
                Next::Reply(reply)
            }
            Response::Forward(request, servers) => {
                self.forward(*request, &servers, packet, transport)
            }
        }
    }

    /// Answers out of the cache, or has other servers asked: these, or the host's where
    /// there are none.
    fn forward(
        self: &Arc<Self>,
        request: Request,
        servers: &[IpAddr],
        packet: &[u8],
        transport: Transport,
    ) -> Next {
        let now = Instant::now();
        let mut upstreams = lock(&self.upstreams);
        let mut cache = lock(&self.cache);
        if upstreams.refresh(now) {
            // others may know other things, inside a company's network for example
            cache.clear();
        }
        let of_host: Vec<IpAddr>;
        let servers = match servers.is_empty() {
            // ourselves, if the host asks us: it would go round for ever
            true => {
                let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
                let others = upstreams.of_host().iter();
                of_host = others
                    .filter(|ip| !names.mesh.covers(**ip))
                    .copied()
                    .collect();
                &of_host
            }
            false => servers,
        };
        let key = Key::new(&request, transport, servers);
        if let Some(reply) = key.as_ref().and_then(|key| cache.get(key, packet, now)) {
            self.count.cached.fetch_add(1, Relaxed);
            return Next::Reply(reply);
        }
        let servers = upstreams.in_order(servers, now);
        match self.forwards.clone().try_acquire_owned() {
            Ok(_permit) if !servers.is_empty() => {
                self.count.forwarded.fetch_add(1, Relaxed);
                Next::Forward(Box::new(Forward {
                    request,
                    packet: packet.to_vec(),
                    transport,
                    servers,
                    patience: self.limits.patience,
                    key,
                    server: self.clone(),
                    _permit,
                }))
            }
            _ => {
                self.count.failed.fetch_add(1, Relaxed);
                let reply = request.fail(ResponseCode::ServFail);
                reply.map_or(Next::Silence, Next::Reply)
            }
        }
    }
}

/// The tasks that serve one client each, and how they are ended.
#[derive(Clone, Default)]
pub(crate) struct Tasks {
    all: TaskTracker,
    /// Take no more questions.
    stop: CancellationToken,
    /// Do not wait for answers either.
    kill: CancellationToken,
}

impl Tasks {
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let kill = self.kill.clone();
        self.all
            .spawn(async move { kill.run_until_cancelled(task).await });
    }

    /// Runs something that must not begin any more when we are stopping.
    pub(crate) async fn unless_stopping<F: Future>(&self, work: F) -> Option<F::Output> {
        self.stop.run_until_cancelled(work).await
    }

    /// Ends all of them, those that are answering a little later.
    async fn end(&self) {
        self.stop.cancel();
        self.all.close();
        if timeout(GRACE, self.all.wait()).await.is_err() {
            self.kill.cancel();
            self.all.wait().await;
        }
    }
}

pub(crate) async fn run(
    config: Config,
    limits: Limits,
    sockets: Sockets,
    control: std::os::unix::net::UnixListener,
) -> Result<(), Error> {
    raise_file_limit();
    let passed_on = sockets.duplicate().map_err(Error::Socket)?;
    let server = Arc::new(Server::new(config.resolv_conf, limits, passed_on));
    let tasks = Tasks::default();

    let mut loops = JoinSet::new();
    control.set_nonblocking(true).map_err(Error::Socket)?;
    let control = UnixListener::from_std(control).map_err(Error::Socket)?;
    let (begin, mut begins) = mpsc::channel(1);
    let (end, mut ends) = mpsc::channel(1);
    let orders = Orders { begin, end };
    loops.spawn(control::listen(
        server.clone(),
        control,
        tasks.clone(),
        orders,
    ));

    let mut waiting = Some((sockets, config.predecessor));
    let end = loop {
        tokio::select! {
            Some(begun) = begins.recv() => {
                if let Some((sockets, predecessor)) = waiting.take() {
                    if let Some(Err(error)) = predecessor.map(Predecessor::retire) {
                        tracing::warn!(%error, "the responder before us does not go");
                    }
                    begin_loops(&server, sockets, &tasks, &mut loops)?;
                    tracing::info!(revision = server.status().revision, "answering names");
                }
                // who does not wait any more does not mind
                let _ = begun.send(());
            }
            end = ends.recv() => break end,
            // half a responder is worse than a new one
            Some(ended) = loops.join_next() => return Err(Error::Broken(ended.err())),
        }
    };
    loops.shutdown().await;
    match end {
        Some(End::Retire(stream)) => {
            control::say_ok(stream).await;
            tasks.end().await;
        }
        Some(End::Quit(stream)) => {
            tasks.end().await;
            drop(server);
            // only now: whoever comes after us needs our sockets' addresses
            control::say_ok(stream).await;
        }
        None => tasks.end().await,
    }
    tracing::info!("no longer answering names");
    Ok(())
}

fn begin_loops(
    server: &Arc<Server>,
    sockets: Sockets,
    tasks: &Tasks,
    loops: &mut JoinSet<()>,
) -> Result<(), Error> {
    for socket in sockets.udp {
        let socket = Arc::new(udp::Socket::new(socket).map_err(Error::Socket)?);
        loops.spawn(udp::serve(server.clone(), socket, tasks.clone()));
    }
    for listener in sockets.tcp {
        listener.set_nonblocking(true).map_err(Error::Socket)?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(Error::Socket)?;
        loops.spawn(tcp::listen(server.clone(), listener, tasks.clone()));
    }
    Ok(())
}

/// Each forwarded question and each connection is a file, and 1024 is the usual
/// limit for programs that might use `select`. We do not.
fn raise_file_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::debug!(%error, "cannot raise the limit on open files");
    }
}
