//! The DNS responder's process: started by the daemon, outliving it, told of
//! every change.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    os::unix::{fs::MetadataExt as _, net::UnixListener, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use model::{
    EventKind, Instance, Revision,
    names::{Change, Update},
};
use plan::records::Records;
use store::Store;
use tokio::{sync::watch, time::Instant};

use crate::{Error, datapath, events::Events, mesh::Mesh};

/// TTL of our own answers, in seconds: clients ask again soon, so that they follow changes.
const TTL: u32 = 2;
/// How often the responder is looked after, though no name changed.
const CHECK: Duration = Duration::from_secs(2);
/// How long it may take to answer on its control socket.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many changes a part of an update has: what the responder reads at once.
const PART: usize = 256;

/// Where the responder's control socket is.
pub(crate) fn control(instance: &Instance) -> PathBuf {
    instance.run_dir().join("dns.sock")
}

/// What a responder is started with.
#[derive(Clone, Debug)]
pub struct Names {
    /// The host's resolv.conf(5).
    pub resolv_conf: PathBuf,
}

/// Keeps the responder running and its names the latest.
pub(crate) struct Keeper<S> {
    pub(crate) mesh: Arc<Mesh<S>>,
    pub(crate) instance: Instance,
    pub(crate) datapath: datapath::Handle,
    pub(crate) sandboxes: Arc<datapath::Sandboxes>,
    pub(crate) names: Names,
    /// Revision of the last state whose names the responder has.
    pub(crate) answered: watch::Sender<Revision>,
    /// How the responder was when it was last looked after.
    pub(crate) seen: watch::Sender<dns::Status>,
    pub(crate) events: Arc<Events>,
    /// This program, which is the responder's as well.
    pub(crate) program: PathBuf,
}

/// What the responder was told.
struct Told {
    /// As of which revision; `None`: not known to be anything.
    revision: Option<u64>,
    records: Records,
    /// When it is looked after again.
    check: Instant,
    /// The process that we have started.
    started: Option<u32>,
}

impl<S: Store> Keeper<S> {
    /// Runs until the daemon ends.
    pub(crate) async fn run(self) {
        let control = control(&self.instance);
        let mut state = self.mesh.subscribe();
        let mut sandboxes = self.sandboxes.subscribe();
        let mut told = Told {
            revision: None,
            records: self.nothing(),
            check: Instant::now(),
            started: None,
        };
        // its socket is in the router's namespace, which must be there
        while let Err(error) = self.datapath.sync().await {
            tracing::warn!(error, "the DNS responder waits for the router's namespace");
        }
        loop {
            let state_now = state.borrow_and_update().clone();
            let sandboxes_now = sandboxes.borrow_and_update().clone();
            let revision = state_now.revision;
            match self
                .tell(&control, &mut told, &state_now, &sandboxes_now)
                .await
            {
                Ok(()) => {
                    self.answered.send_replace(revision);
                }
                Err(error) => {
                    tracing::warn!(
                        error = crate::chain(&error),
                        "the DNS responder is not the latest"
                    );
                    (told.revision, told.check) = (None, Instant::now() + CHECK);
                    tokio::time::sleep(CHECK / 4).await;
                    continue;
                }
            }
            tokio::select! {
                _ = state.changed() => {}
                _ = sandboxes.changed() => {}
                () = tokio::time::sleep_until(told.check) => {}
            }
        }
    }

    /// What a responder without names knows.
    fn nothing(&self) -> Records {
        Records::new(self.mesh.node.clone(), TTL)
    }

    /// Tells it what changed; everything, where it is another one than before.
    async fn tell(
        &self,
        control: &Path,
        told: &mut Told,
        state: &model::State,
        sandboxes: &imbl::OrdSet<model::TaskId>,
    ) -> Result<(), Error> {
        if told.revision.is_none() || Instant::now() >= told.check {
            let status = self.look(control, told.started).await;
            let status = match status {
                Ok(status) => status,
                Err(why) => self.start(control, told, why).await?,
            };
            if told.revision != Some(status.revision) {
                told.revision = None;
            }
            self.seen.send_replace(status);
            told.check = Instant::now() + CHECK;
        }
        if let Some(since) = told.revision {
            let changes = told.records.follow(state, sandboxes);
            // a revision that changed no name is not worth a word
            if changes.is_empty() {
                return Ok(());
            }
            let revision = state.revision.0;
            let update = Update {
                since: Some(since),
                revision,
                more: false,
                changes,
            };
            match dns::update(control, std::iter::once(update), PATIENCE).await {
                Ok(()) => {
                    told.revision = Some(revision);
                    return Ok(());
                }
                Err(error) => {
                    tracing::info!(error = crate::chain(&error), "telling all names anew");
                    told.revision = None;
                    if let Err(why) = self.look(control, told.started).await {
                        self.start(control, told, why).await?;
                    }
                }
            }
        }
        told.records = self.nothing();
        let changes = told.records.follow(state, sandboxes);
        let revision = state.revision.0;
        dns::update(control, parts(&changes, revision), PATIENCE)
            .await
            .map_err(Error::Dns)?;
        told.revision = Some(revision);
        Ok(())
    }

    /// How it is, or why another one is to be started.
    async fn look(&self, control: &Path, ours: Option<u32>) -> Result<dns::Status, &'static str> {
        let status = dns::request(control, "status", PATIENCE).await;
        let status = status.map_err(|_| "none answered")?;
        let status: dns::Status =
            serde_json::from_str(&status).map_err(|_| "the one before is of another version")?;
        if !kernel::netns::inode(&self.instance.router_netns()).is_ok_and(|at| at == status.place) {
            return Err("the one before is in a namespace that is gone");
        }
        match ours == Some(status.pid) || same_program(status.pid) {
            true => Ok(status),
            false => Err("the one before is of another build"),
        }
    }

    /// Starts one, which takes the place of the one that is there once it has names.
    async fn start(
        &self,
        control: &Path,
        told: &mut Told,
        why: &'static str,
    ) -> Result<dns::Status, Error> {
        told.revision = None;
        let mut command = Command::new(&self.program);
        if !self.instance.to_string().is_empty() {
            command.arg("--instance").arg(self.instance.to_string());
        }
        command
            .arg("--resolv-conf")
            .arg(&self.names.resolv_conf)
            .arg("dns")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        // its own process group: a Ctrl-C for the daemon is not for it
        let child = command
            .process_group(0)
            .spawn()
            .map_err(|source| Error::Spawn {
                program: self.program.clone(),
                source,
            })?;
        let pid = child.id();
        tracing::info!(pid, "started the DNS responder");
        // reaps it should it end while the daemon lives
        std::thread::spawn(move || {
            let mut child = child;
            let _ = child.wait();
        });
        for _ in 0..250 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            if let Ok(status) = self.look(control, Some(pid)).await
                && status.pid == pid
            {
                told.started = Some(pid);
                let event = self.events.here(EventKind::Responder, "start");
                self.events
                    .tell([event.with("pid", pid).with("reason", why)]);
                return Ok(status);
            }
        }
        Err(Error::Responder)
    }
}

/// An update from nothing, a part at a time.
fn parts(changes: &[Change], revision: u64) -> impl Iterator<Item = Update> {
    let count = changes.len().div_ceil(PART).max(1);
    (0..count).map(move |number| {
        let from = number * PART;
        let to = changes.len().min(from + PART);
        Update {
            since: None,
            revision,
            more: number + 1 < count,
            changes: changes.get(from..to).unwrap_or_default().to_vec(),
        }
    })
}

/// Whether a process runs the program that this one runs: that very file, be it deleted.
fn same_program(pid: u32) -> bool {
    let file = |process: &str| {
        let file = std::fs::metadata(format!("/proc/{process}/exe")).ok()?;
        Some((file.dev(), file.ino()))
    };
    let ours = file("self");
    ours.is_some() && file(&pid.to_string()) == ours
}

/// The responder itself: `ipvsmeshd dns`. Its sockets are in the router's
/// namespace, its questions to other servers go out of the host's.
pub async fn run_responder(instance: &Instance, names: Names) -> Result<(), Error> {
    let path = control(instance);
    let here = kernel::netns::inode(&instance.router_netns())?;
    let (predecessor, sockets) = match dns::Predecessor::find(&path) {
        // in a namespace that is gone its sockets are of no use, nor in our way
        Ok((before, sockets)) if sockets.place == here => (Some(before), sockets),
        found => {
            let before = match found {
                Ok((before, _)) => Some(before),
                Err(_) => {
                    // one that cannot pass on its sockets must leave them
                    let _ = dns::request(&path, "quit", PATIENCE).await;
                    None
                }
            };
            (before, open(instance, here)?)
        }
    };
    let control = listen(&path)?;
    // everything that takes root is open now
    kernel::privileges::give_up().map_err(Error::Privileges)?;
    let config = dns::Config {
        resolv_conf: names.resolv_conf,
        predecessor,
    };
    dns::serve(config, sockets, control)
        .await
        .map_err(Error::Dns)
}

/// Fresh sockets in the router's namespace.
fn open(instance: &Instance, place: u64) -> Result<dns::Sockets, Error> {
    let router = kernel::netns::Netns::open(&instance.router_netns())?;
    let at = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 53));
    let (udp, tcp) = router
        .run(move || Ok::<_, std::io::Error>((UdpSocket::bind(at)?, TcpListener::bind(at)?)))?
        .map_err(|source| Error::Bind { at, source })?;
    Ok(dns::Sockets {
        udp: vec![udp],
        tcp: vec![tcp],
        place,
    })
}

/// The control socket, in the place of the one that may be there: who asks finds one of
/// them at any time.
fn listen(path: &Path) -> Result<UnixListener, Error> {
    let fail = |source| Error::Write {
        path: path.to_owned(),
        source,
    };
    let beside = path.with_extension("new");
    let _ = std::fs::remove_file(&beside);
    let listener = UnixListener::bind(&beside).map_err(fail)?;
    std::fs::rename(&beside, path).map_err(fail)?;
    Ok(listener)
}
