//! The daemon: a store, controllers that look at its state, and the edges they
//! act on, wired together. It may be killed at any instruction; what it made
//! goes on without it, and the next one takes it over.
#![forbid(unsafe_code)]

mod adopter;
mod agent;
mod backend;
mod cleanup;
mod datapath;
pub mod doctor;
mod ended;
mod events;
mod inspect;
mod mesh;
mod metrics;
mod orchestrator;
mod probe;
mod repairs;
mod responder;
mod stats;
mod trace;

use std::{
    future::pending,
    io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use ipnet::{IpNet, Ipv6Net};
use jiff::Timestamp;
use kernel::Kernel;
use model::{EventKind, Instance, NodeId, Pools, Ranges, Revision, State};
use store::{Embedded, Store as _};
use tokio::{
    net::{TcpListener, UnixListener},
    signal::unix::{SignalKind, signal},
    sync::watch,
};

pub use api::TlsSettings;
pub use cleanup::cleanup;
pub use plan::{datapath::Settings, netns::Timeouts};
pub use responder::{Names, run_responder};
pub use runtime::DockerSettings;

/// Why the daemon cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The machine lacks something.
    #[error("this machine cannot run the mesh:\n{}", .0.join("\n"))]
    Preflight(Vec<String>),
    /// The store cannot be opened or read.
    #[error(transparent)]
    Open(#[from] store::OpenError),
    /// The store failed.
    #[error("the store failed")]
    Store(#[from] store::StoreError),
    /// The kernel refused something.
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    /// The runtime failed.
    #[error(transparent)]
    Runtime(#[from] runtime::RuntimeError),
    /// A file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An address is taken.
    #[error("cannot listen on {at} in the router namespace")]
    Bind {
        /// Which.
        at: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The address for metrics is taken, or none of this machine's.
    #[error("cannot listen on {at} for --metrics; choose another address")]
    Metrics {
        /// Which.
        at: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The API cannot be served by TLS.
    #[error(transparent)]
    Tls(#[from] api::TlsError),
    /// The metrics are described wrongly.
    #[error("the metrics have no sense; this is a bug of ipvsmesh")]
    Described(#[from] prometheus::Error),
    /// A program cannot be started.
    #[error("cannot start {}", program.display())]
    Spawn {
        /// Which.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The responder was started and did not answer.
    #[error("the DNS responder does not answer on its control socket")]
    Responder,
    /// The responder failed.
    #[error("the DNS responder failed")]
    Dns(#[source] dns::Error),
    /// The responder will not go on as root.
    #[error("cannot give up the privileges of root")]
    Privileges(#[source] io::Error),
    /// A file of ours has no sense.
    #[error("{} holds {text:?}, which is no node id: restore it from a backup; without it this node is a new one", path.display())]
    NodeFile {
        /// Which.
        path: PathBuf,
        /// What is in it.
        text: String,
    },
    /// No address range is free.
    #[error(
        "no free address range for the mesh: each of {tried} overlaps a route of this host; give others with --task-pool and --vip-pool"
    )]
    Pools {
        /// What was tried.
        tried: String,
    },
    /// The first start was refused.
    #[error("cannot set up the mesh: {0}")]
    Init(String),
    /// A task of the daemon ended.
    #[error("{0} stopped; this is a bug of ipvsmesh")]
    Stopped(&'static str),
}

/// An error with everything that caused it, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// What the daemon is told on its command line.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which of several daemons this is.
    pub instance: Instance,
    /// Where the store is; the instance's own directory without.
    pub data_dir: Option<PathBuf>,
    /// Pools for a mesh that is new.
    pub pools: PoolChoice,
    /// MTU and time-outs.
    pub settings: Settings,
    /// What the DNS responder is started with.
    pub names: Names,
    /// Which Docker Engine runs tasks in containers, and how.
    pub docker: DockerSettings,
    /// Where Prometheus is answered, if it is.
    pub metrics: Option<SocketAddr>,
    /// The API is served there as well.
    pub tls: Option<api::TlsSettings>,
    /// Whether what others change in the kernel is set right, or only told of.
    pub repairs: bool,
    /// Whether established TCP connections of published ports go past the host's rules, by a
    /// flowtable, where the kernel can do that.
    pub flowtable: bool,
}

/// Address ranges asked for; those that are not are chosen by what is free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolChoice {
    /// Of tasks' subnets.
    pub tasks: Option<IpNet>,
    /// Of VIPs.
    pub vips: Option<IpNet>,
    /// Between hosts and their ingress namespaces.
    pub nodes: Option<IpNet>,
    /// Of IPv6.
    pub six: Ipv6Choice,
}

/// Which IPv6 ranges a mesh gets that has none yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ipv6Choice {
    /// A unique local prefix with a random global id, where the kernel has IPv6.
    #[default]
    Random,
    /// Out of this /48.
    Prefix(Ipv6Net),
    /// None.
    None,
}

impl Ipv6Choice {
    /// The ranges, where this machine can do anything with them.
    fn ranges(self) -> Option<Ranges> {
        if self == Self::None {
            return None;
        }
        if let Some(why) = kernel::preflight::without_ipv6() {
            tracing::warn!(why, "the mesh has no IPv6");
            return None;
        }
        match self {
            Self::None => None,
            Self::Prefix(prefix) => Some(Ranges::of_prefix(prefix)),
            Self::Random => Some(Ranges::unique_local(random())),
        }
    }
}

impl PoolChoice {
    /// These pools with what was asked for in the place of theirs.
    fn over(&self, pools: &Pools) -> Pools {
        Pools {
            tasks: self.tasks.unwrap_or(pools.tasks),
            vips: self.vips.unwrap_or(pools.vips),
            nodes: self.nodes.unwrap_or(pools.nodes),
            ..*pools
        }
    }
}

/// Runs the daemon until SIGTERM or SIGINT. What it made stays and goes on.
pub async fn run(config: Config) -> Result<(), Error> {
    let instance = config.instance.clone();
    let problems: Vec<_> = kernel::preflight::check()
        .iter()
        .map(ToString::to_string)
        .collect();
    if !problems.is_empty() {
        return Err(Error::Preflight(problems));
    }
    let data_dir = config
        .data_dir
        .clone()
        .unwrap_or_else(|| instance.data_dir());
    for dir in [&data_dir, &instance.run_dir()] {
        std::fs::create_dir_all(dir).map_err(|source| Error::Write {
            path: dir.clone(),
            source,
        })?;
    }
    // the responder, which is nobody, reads its names in there
    let (run_dir, mode) = (instance.run_dir(), std::fs::Permissions::from_mode(0o755));
    std::fs::set_permissions(&run_dir, mode).map_err(|source| Error::Write {
        path: run_dir,
        source,
    })?;
    let store = Embedded::open(&data_dir)?;
    let node = node_id(&data_dir.join("node"))?;
    first_start(&store, &node, &config).await?;

    let events = Arc::new(events::Events::new(node.clone()));
    let mesh = Arc::new(mesh::Mesh::open(store, node, events.clone()).await?);
    let kernel = Arc::new(Kernel::with_ipv6(instance.clone())?);
    let program = std::env::current_exe().map_err(|source| Error::Spawn {
        program: "/proc/self/exe".into(),
        source,
    })?;
    let docker_socket = config.docker.socket.clone();
    let runtime = runtime::Runtimes::new(&instance, program.clone(), config.docker.clone())?;
    let runtime = Arc::new(runtime);
    let sandboxes = Arc::new(watch::Sender::new(imbl::OrdSet::new()));
    let ended = Arc::new(ended::Ended::default());
    cleanup::remember_sysctls(&data_dir)?;

    let scraped = match config.metrics {
        Some(at) => {
            let fail = |source| Error::Metrics { at, source };
            Some(TcpListener::bind(at).await.map_err(fail)?)
        }
        None => None,
    };
    let encrypted = match &config.tls {
        Some(settings) => Some(api::TlsListener::bind(settings).await?),
        None => None,
    };
    let timings = metrics::Timings::new()?;
    let (counters, seen_counters) = watch::channel(datapath::Counters::default());
    let (followed, seen_followed) = watch::channel(datapath::Followed::default());
    let (settings, seen_settings) = watch::channel(config.settings.clone());
    let (reconciler, datapath) = datapath::Reconciler::new(
        mesh.clone(),
        kernel.clone(),
        instance.clone(),
        datapath::Told {
            sandboxes: sandboxes.clone(),
            ended: ended.clone(),
        },
        datapath::Reports {
            counters,
            followed,
            settings,
            events: events.clone(),
            timings: timings.clone(),
        },
    );
    let reconciler = reconciler
        .repairing(config.repairs)
        .shortening(can_shorten(&config));
    let healths = Arc::new(watch::Sender::default());
    let (candidates, conflicts) = (Arc::default(), Arc::new(watch::Sender::default()));
    let guests = Arc::new(watch::Sender::default());
    let prober = probe::Prober {
        mesh: mesh.clone(),
        instance: instance.clone(),
        healths: healths.clone(),
        events: events.clone(),
    };
    let agent = Arc::new(agent::Agent {
        mesh: mesh.clone(),
        runtime: runtime.clone(),
        kernel: kernel.clone(),
        instance: instance.clone(),
        datapath: datapath.clone(),
        sandboxes: sandboxes.clone(),
        healths: healths.clone(),
        guests: guests.clone(),
    });
    let adopter = adopter::Adopter {
        mesh: mesh.clone(),
        events: events.clone(),
        seen: Arc::clone(&candidates),
        guests,
        problems: conflicts.clone(),
    };
    let answered = watch::Sender::new(Revision::default());
    let seen_answered = answered.subscribe();
    let (seen, seen_responder) = watch::channel(dns::Status::default());
    let keeper = responder::Keeper {
        mesh: mesh.clone(),
        instance: instance.clone(),
        datapath: datapath.clone(),
        sandboxes: sandboxes.clone(),
        names: config.names.clone(),
        answered,
        seen,
        events: events.clone(),
        program,
    };
    let figures = metrics::Metrics {
        mesh: mesh.clone(),
        kernel: kernel.clone(),
        instance: instance.clone(),
        counters: seen_counters.clone(),
        timings,
    };
    let follow_ended = ended::follow(mesh.clone(), runtime.clone(), ended);
    let backend = Arc::new(backend::Daemon {
        mesh: mesh.clone(),
        runtime,
        kernel,
        instance: instance.clone(),
        settings: seen_settings,
        engine: api::Engine::new(docker_socket.clone()),
        sandboxes,
        datapath,
        followed: seen_followed,
        answered: seen_answered,
        responder: seen_responder,
        counters: seen_counters,
        events: events.clone(),
        healths,
        conflicts,
        resolv_conf: config.names.resolv_conf.clone(),
        repairs: config.repairs,
    });

    // adopted tasks must be wanted before the first pass could take them away
    let adopted = agent.adopt().await?;
    let listener = listen(&instance.socket())?;

    let follow = mesh.clone();
    let mut controllers = tokio::task::JoinSet::new();
    controllers.spawn(async move {
        if let Err(error) = follow.follow().await {
            tracing::error!(error = chain(&error), "the store failed");
        }
        "following the store"
    });
    controllers.spawn(async move {
        reconciler.run().await;
        "the data plane's loop"
    });
    controllers.spawn(async move {
        follow_ended.await;
        "following what ended"
    });
    controllers.spawn(async move {
        agent.run(adopted).await;
        "the node agent"
    });
    let orchestrator = mesh.clone();
    controllers.spawn(async move {
        orchestrator::run(orchestrator).await;
        "the orchestrator"
    });
    controllers.spawn(async move {
        runtime::guests::follow(docker_socket, candidates).await;
        "following labelled containers"
    });
    controllers.spawn(async move {
        adopter.run().await;
        "the adopter"
    });
    controllers.spawn(async move {
        prober.run().await;
        "the prober"
    });
    controllers.spawn(async move {
        keeper.run().await;
        "the responder's keeper"
    });

    if let Some(listener) = scraped {
        controllers.spawn(async move {
            if let Err(error) = api::serve_metrics(figures, listener).await {
                tracing::error!(%error, "the socket for metrics failed");
            }
            "serving metrics"
        });
    }
    if let Some(listener) = encrypted {
        let backend = backend.clone();
        controllers.spawn(async move {
            // until the daemon ends
            if let Err(error) = api::serve(backend, listener, pending()).await {
                tracing::error!(%error, "the socket for the API by TLS failed");
            }
            "serving the API by TLS"
        });
    }

    let (mut term, mut int) = (
        terminate(SignalKind::terminate())?,
        terminate(SignalKind::interrupt())?,
    );
    let stop = async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
    };
    // systemd waits for this line; elsewhere nobody listens
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let started = events.here(EventKind::Daemon, "start");
    events.tell([started
        .with("name", kernel::host::hostname())
        .with("version", env!("CARGO_PKG_VERSION"))]);
    tracing::info!(%instance, socket = %instance.socket().display(), "ready");
    tokio::select! {
        served = api::serve(backend, listener, stop) => {
            served.map_err(|source| Error::Write { path: instance.socket(), source })?;
            tracing::info!("stopped; tasks and traffic go on");
            Ok(())
        }
        Some(ended) = controllers.join_next() => {
            Err(Error::Stopped(ended.unwrap_or("a controller panicked, and")))
        }
    }
}

/// Whether the flowtable is wanted and can be had.
fn can_shorten(config: &Config) -> bool {
    if !config.flowtable {
        return false;
    }
    match kernel::preflight::without_flowtable() {
        None => true,
        Some(why) => {
            tracing::info!(
                why,
                "published ports' connections go by all of the host's rules"
            );
            false
        }
    }
}

fn terminate(kind: SignalKind) -> Result<tokio::signal::unix::Signal, Error> {
    signal(kind).map_err(|source| Error::Write {
        path: "/dev/signal".into(),
        source,
    })
}

/// The API socket: root's alone.
fn listen(path: &Path) -> Result<UnixListener, Error> {
    let fail = |source| Error::Write {
        path: path.to_owned(),
        source,
    };
    // a daemon before us left it; a living one holds the store's lock
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(fail)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(fail)?;
    Ok(listener)
}

/// This node's identity, made at the first start.
fn node_id(path: &Path) -> Result<NodeId, Error> {
    match std::fs::read_to_string(path) {
        Ok(text) => text.trim().parse().map_err(|_| Error::NodeFile {
            path: path.to_owned(),
            text: text.trim().to_owned(),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let id = NodeId::from_random(random());
            std::fs::write(path, format!("{id}\n")).map_err(|source| Error::Write {
                path: path.to_owned(),
                source,
            })?;
            Ok(id)
        }
        Err(source) => Err(Error::Write {
            path: path.to_owned(),
            source,
        }),
    }
}

/// 128 random bits of the kernel's.
pub(crate) fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    // fails only on kernels without getrandom(2), which have no cgroup v2 either
    if let Err(error) = getrandom::fill(&mut bytes) {
        tracing::error!(%error, "no randomness");
    }
    bytes
}

/// Makes the mesh's first objects where there are none.
async fn first_start(store: &Embedded, node: &NodeId, config: &Config) -> Result<(), Error> {
    let state: State = store.load().await?;
    // routes of ours, left by a mesh whose store is gone, are replaced
    let mut routes = kernel::host::routes()?;
    routes.retain(|(_, link)| *link != config.instance.host_link());
    let mut pools = match &state.pools {
        Some(kept) => config.pools.over(kept),
        None => free_pools(&config.pools, &routes)?,
    };
    if let (Some(six), Ipv6Choice::Prefix(prefix)) = (pools.six, config.pools.six)
        && six != Ranges::of_prefix(prefix)
    {
        return Err(Error::Init(format!(
            "the mesh has the IPv6 ranges {} and {}, which cannot be changed: start without --ipv6-prefix",
            six.tasks, six.vips
        )));
    }
    if pools.six.is_none() {
        pools.six = config.pools.six.ranges();
    }
    let hostname = kernel::host::hostname();
    let tx = plan::admit::init(&state, node, &hostname, &pools, &routes, Timestamp::now())
        .map_err(|refusal| Error::Init(refusal.to_string()))?;
    if tx.is_empty() {
        return Ok(());
    }
    match store.commit(tx).await {
        Ok(_) => Ok(()),
        Err(error) => Err(Error::Init(chain(&error))),
    }
}

/// What was asked for; for the rest the default pools, or the first others that
/// overlap no route of this host.
fn free_pools(choice: &PoolChoice, routes: &[(IpNet, String)]) -> Result<Pools, Error> {
    let overlaps = |pools: &Pools| {
        let ours = [
            choice.tasks.is_none().then_some(pools.tasks),
            choice.vips.is_none().then_some(pools.vips),
            choice.nodes.is_none().then_some(pools.nodes),
        ];
        let mut ours = ours.into_iter().flatten();
        ours.any(|pool| {
            let asked = [choice.tasks, choice.vips, choice.nodes];
            let asked = asked.iter().flatten();
            let mut others = routes.iter().map(|(to, _)| to).chain(asked);
            others.any(|to| pool.contains(&to.network()) || to.contains(&pool.network()))
        })
    };
    let candidates = (0..12u8).map(|n| {
        let base = Pools::default();
        let net = |second: u8, len| {
            IpNet::new_assert(std::net::Ipv4Addr::new(10, second, 0, 0).into(), len)
        };
        choice.over(&Pools {
            tasks: net(100 + 4 * n, 14),
            vips: net(200 + 4 * n, 14),
            nodes: net(90 - n, 16),
            ..base
        })
    });
    let mut tried = Vec::new();
    for pools in candidates {
        if !overlaps(&pools) {
            return Ok(pools);
        }
        tried.push(format!(
            "{} + {} + {}",
            pools.tasks, pools.vips, pools.nodes
        ));
    }
    Err(Error::Pools {
        tried: tried.join(", "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_keep_clear_of_the_hosts_routes() {
        let route = |text: &str| (text.parse().unwrap(), "eth0".to_owned());
        let free = |choice: &PoolChoice, routes: &[(IpNet, String)]| free_pools(choice, routes);
        let any = PoolChoice::default();
        assert_eq!(
            free(&any, &[route("192.168.0.0/16")]).unwrap(),
            Pools::default()
        );
        let moved = free(&any, &[route("10.101.0.0/24"), route("10.89.3.0/24")]).unwrap();
        assert_eq!(moved.tasks, "10.108.0.0/14".parse().unwrap());
        assert!(free(&any, &[route("10.0.0.0/8")]).is_err());
    }

    #[test]
    fn pools_keep_clear_of_those_that_were_asked_for() {
        let asked = "10.200.0.0/16".parse().unwrap();
        let choice = PoolChoice {
            tasks: Some(asked),
            ..PoolChoice::default()
        };
        let pools = free_pools(&choice, &[]).unwrap();
        assert_eq!(pools.tasks, asked);
        assert_eq!(pools.vips, "10.204.0.0/14".parse().unwrap());
        assert_eq!(pools.nodes, "10.89.0.0/16".parse().unwrap());
    }
}
