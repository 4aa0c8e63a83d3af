//! The responder as a whole: the names it has, and its start and end.

use std::{
    fs,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    os::unix::net::UnixListener,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use hickory_proto::op::ResponseCode;
use model::names::Snapshot;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Config, Error, control,
    control::Status,
    forward::Forward,
    respond::{Response, respond},
    tcp, udp,
    wire::Transport,
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
    path: PathBuf,
    pub(crate) limits: Limits,
    names: ArcSwap<Snapshot>,
    /// Held while the file is read, so that an older one never comes after a newer.
    reloading: Mutex<()>,
    forwards: Arc<Semaphore>,
    pub(crate) connections: Arc<Semaphore>,
    started: Instant,
    queries: AtomicU64,
    forwarded: AtomicU64,
}

/// What is to be done about a packet.
pub(crate) enum Next {
    Silence,
    Reply(Vec<u8>),
    Forward(Forward),
}

impl Server {
    pub(crate) fn new(path: PathBuf, limits: Limits) -> Result<Self, Error> {
        let names = read(&path)?;
        Ok(Self {
            path,
            limits,
            names: ArcSwap::from_pointee(names),
            reloading: Mutex::new(()),
            forwards: Arc::new(Semaphore::new(limits.forwards)),
            connections: Arc::new(Semaphore::new(limits.connections)),
            started: Instant::now(),
            queries: AtomicU64::new(0),
            forwarded: AtomicU64::new(0),
        })
    }

    /// Reads the snapshot again and returns its revision; if that fails, the
    /// old one stays. Blocks.
    pub(crate) fn reload(&self) -> Result<u64, Error> {
        let _alone = self
            .reloading
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let names = read(&self.path)?;
        let revision = names.revision;
        self.names.store(Arc::new(names));
        Ok(revision)
    }

    pub(crate) fn status(&self) -> Status {
        Status {
            revision: self.names.load().revision,
            queries: self.queries.load(Relaxed),
            forwarded: self.forwarded.load(Relaxed),
            pid: std::process::id(),
            uptime: self.started.elapsed().as_secs(),
        }
    }

    /// Answers a packet, or says what it takes to.
    pub(crate) fn take(&self, packet: &[u8], client: IpAddr, transport: Transport) -> Next {
        self.queries.fetch_add(1, Relaxed);
        let names = self.names.load();
        let request = match respond(&names, client, packet, transport) {
            Response::Silence => return Next::Silence,
            Response::Reply(reply) => return Next::Reply(reply),
            Response::Forward(request) => *request,
        };
        let servers: Vec<_> = names
            .upstreams
            .iter()
            .map(|ip| SocketAddr::new(*ip, self.limits.port))
            .collect();
        match self.forwards.clone().try_acquire_owned() {
            Ok(_permit) if !servers.is_empty() => {
                self.forwarded.fetch_add(1, Relaxed);
                Next::Forward(Forward {
                    request,
                    packet: packet.to_vec(),
                    transport,
                    servers,
                    patience: self.limits.patience,
                    _permit,
                })
            }
            _ => request
                .fail(ResponseCode::ServFail)
                .map_or(Next::Silence, Next::Reply),
        }
    }
}

fn read(path: &PathBuf) -> Result<Snapshot, Error> {
    let bytes = fs::read(path).map_err(|source| Error::ReadSnapshot {
        path: path.clone(),
        source,
    })?;
    serde_json::from_slice(&bytes).map_err(|source| Error::ParseSnapshot {
        path: path.clone(),
        source,
    })
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
    udp: Vec<UdpSocket>,
    tcp: Vec<TcpListener>,
    control: UnixListener,
) -> Result<(), Error> {
    raise_file_limit();
    let server = Arc::new(Server::new(config.snapshot, limits)?);
    let tasks = Tasks::default();

    let mut loops = JoinSet::new();
    for socket in udp {
        let socket = Arc::new(udp::Socket::new(socket).map_err(Error::Socket)?);
        loops.spawn(udp::serve(server.clone(), socket, tasks.clone()));
    }
    for listener in tcp {
        listener.set_nonblocking(true).map_err(Error::Socket)?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(Error::Socket)?;
        loops.spawn(tcp::listen(server.clone(), listener, tasks.clone()));
    }
    control.set_nonblocking(true).map_err(Error::Socket)?;
    let control = tokio::net::UnixListener::from_std(control).map_err(Error::Socket)?;
    let (quit, mut quitters) = mpsc::channel(1);
    loops.spawn(control::listen(
        server.clone(),
        control,
        tasks.clone(),
        quit,
    ));
    tracing::info!(revision = server.status().revision, "answering names");

    let quitter = tokio::select! {
        quitter = quitters.recv() => quitter,
        // half a responder is worse than a new one
        Some(ended) = loops.join_next() => return Err(Error::Broken(ended.err())),
    };
    loops.shutdown().await;
    tasks.end().await;
    // only now: whoever comes after us needs our sockets' addresses
    if let Some(stream) = quitter {
        control::say_goodbye(stream).await;
    }
    tracing::info!("no longer answering names");
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
