//! The DNS responder's process: started by the daemon, outliving it, told of
//! every change.

use std::{
    io::Write as _,
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    os::unix::{fs::PermissionsExt as _, net::UnixListener, process::CommandExt as _},
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use model::{Instance, Revision, names::Snapshot};
use store::Store;
use tokio::sync::watch;

use crate::{Error, datapath, mesh::Mesh};

/// TTL of our own answers: clients ask again soon, so that they follow changes.
const TTL: u32 = 2;
/// How often the responder is looked after, though no name changed.
const CHECK: Duration = Duration::from_secs(2);
/// How long it may take to answer on its control socket.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where the responder's things are.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    pub(crate) snapshot: PathBuf,
    pub(crate) control: PathBuf,
}

impl Paths {
    pub(crate) fn new(instance: &Instance) -> Self {
        let run = instance.run_dir();
        Self {
            snapshot: run.join("names.json"),
            control: run.join("dns.sock"),
        }
    }
}

/// Keeps the responder running and its names the latest.
pub(crate) struct Keeper<S> {
    pub(crate) mesh: Arc<Mesh<S>>,
    pub(crate) instance: Instance,
    pub(crate) datapath: datapath::Handle,
    pub(crate) sandboxes: Arc<datapath::Sandboxes>,
    /// Revision of the last state whose names the responder has.
    pub(crate) answered: watch::Sender<Revision>,
    /// This program, which is the responder's as well.
    pub(crate) program: PathBuf,
}

impl<S: Store> Keeper<S> {
    /// Runs until the daemon ends.
    pub(crate) async fn run(self) {
        let paths = Paths::new(&self.instance);
        let mut state = self.mesh.subscribe();
        let mut sandboxes = self.sandboxes.subscribe();
        let mut told: Option<Snapshot> = None;
        // its socket is in the router's namespace, which must be there
        while let Err(error) = self.datapath.sync().await {
            tracing::warn!(error, "the DNS responder waits for the router's namespace");
        }
        loop {
            let (revision, snapshot) = {
                let state = state.borrow_and_update().clone();
                let sandboxes = sandboxes.borrow_and_update().clone();
                let upstreams = kernel::host::upstream_nameservers();
                let records =
                    plan::records::records(&state, &self.mesh.node, &sandboxes, upstreams, TTL);
                (state.revision, records)
            };
            match self.tell(&paths, &mut told, snapshot).await {
                Ok(()) => {
                    self.answered.send_replace(revision);
                }
                Err(error) => {
                    tracing::warn!(
                        error = crate::chain(&error),
                        "the DNS responder is not the latest"
                    );
                    told = None;
                }
            }
            tokio::select! {
                _ = state.changed() => {}
                _ = sandboxes.changed() => {}
                () = tokio::time::sleep(CHECK) => {}
            }
        }
    }

    async fn tell(
        &self,
        paths: &Paths,
        told: &mut Option<Snapshot>,
        snapshot: Snapshot,
    ) -> Result<(), Error> {
        let same = told.as_ref().is_some_and(|told| {
            // a revision that changed no name is not worth a write
            *told
                == Snapshot {
                    revision: told.revision,
                    ..snapshot.clone()
                }
        });
        if !same {
            write_whole(
                &paths.snapshot,
                &serde_json::to_vec(&snapshot).map_err(Error::Json)?,
            )?;
        }
        if same && self.lives(paths).await {
            return Ok(());
        }
        if dns::request(&paths.control, "reload", PATIENCE)
            .await
            .is_err()
            || !self.lives(paths).await
        {
            self.start(paths).await?;
        }
        *told = Some(snapshot);
        Ok(())
    }

    /// Whether it answers, in the router namespace that there is now.
    async fn lives(&self, paths: &Paths) -> bool {
        let Ok(status) = dns::request(&paths.control, "status", PATIENCE).await else {
            return false;
        };
        let status: serde_json::Value = serde_json::from_str(&status).unwrap_or_default();
        let inode = kernel::netns::inode(&self.instance.router_netns()).unwrap_or(0);
        let theirs = std::fs::read_to_string(paths.control.with_extension("netns"));
        status.is_object() && theirs.is_ok_and(|text| text.trim() == inode.to_string())
    }

    async fn start(&self, paths: &Paths) -> Result<(), Error> {
        // one in a namespace that is gone must leave its socket
        let _ = dns::request(&paths.control, "quit", PATIENCE).await;
        let mut command = Command::new(&self.program);
        if !self.instance.to_string().is_empty() {
            command.arg("--instance").arg(self.instance.to_string());
        }
        command
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
        tracing::info!(pid = child.id(), "started the DNS responder");
        // reaps it should it end while the daemon lives
        std::thread::spawn(move || {
            let mut child = child;
            let _ = child.wait();
        });
        for _ in 0..50 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if self.lives(paths).await {
                return Ok(());
            }
        }
        Err(Error::Responder)
    }
}

/// Writes a file so that readers see the old one or the new one.
fn write_whole(path: &std::path::Path, bytes: &[u8]) -> Result<(), Error> {
    let fail = |source| Error::Write {
        path: path.to_owned(),
        source,
    };
    let beside = path.with_extension("new");
    let mut file = std::fs::File::create(&beside).map_err(fail)?;
    file.write_all(bytes).map_err(fail)?;
    // the responder, which is nobody, must read it whatever our umask is
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
        .map_err(fail)?;
    std::fs::rename(&beside, path).map_err(fail)
}

/// The responder itself: `ipvsmeshd dns`. Its sockets are in the router's
/// namespace, its questions to other servers go out of the host's.
pub async fn run_responder(instance: &Instance) -> Result<(), Error> {
    let paths = Paths::new(instance);
    let router = kernel::netns::Netns::open(&instance.router_netns())?;
    let inode = kernel::netns::inode(&instance.router_netns())?;
    let at = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 53));
    let (udp, tcp) = router
        .run(move || Ok::<_, std::io::Error>((UdpSocket::bind(at)?, TcpListener::bind(at)?)))?
        .map_err(|source| Error::Bind { at, source })?;
    let _ = std::fs::remove_file(&paths.control);
    let control = UnixListener::bind(&paths.control).map_err(|source| Error::Write {
        path: paths.control.clone(),
        source,
    })?;
    write_whole(
        &paths.control.with_extension("netns"),
        inode.to_string().as_bytes(),
    )?;
    // everything that takes root is open now
    kernel::privileges::give_up().map_err(Error::Privileges)?;
    let config = dns::Config {
        snapshot: paths.snapshot,
    };
    dns::serve(config, vec![udp], vec![tcp], control)
        .await
        .map_err(Error::Dns)
}
