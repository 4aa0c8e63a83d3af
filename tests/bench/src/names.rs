//! The responder by itself, as a release has it, and the names of a large mesh for it.

use std::{
    net::{SocketAddr, TcpListener, UdpSocket},
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use imbl::OrdSet;
use model::names::{Change, Client, Update};
use plan::records::Records;
use tokio::runtime::Runtime;

use crate::{figure, mesh::Mesh};

/// How long the responder may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Changes in a part of an update, as the daemon has them.
const PART: usize = 256;

/// `respond`
#[derive(Args)]
pub(crate) struct Respond {
    /// Where it answers
    #[arg(long)]
    at: SocketAddr,
    /// Its control socket
    #[arg(long)]
    control: PathBuf,
}

/// `names`
#[derive(Args)]
pub(crate) struct Options {
    /// How many services of two tasks, called service0 and so on
    #[arg(long)]
    services: u32,
    /// The responder's control socket
    #[arg(long)]
    control: PathBuf,
    /// Where it answers; it is asked by 127.0.0.1
    #[arg(long)]
    at: SocketAddr,
    /// How many changes are made then, one after the other, and timed
    #[arg(long, default_value_t = 0)]
    changes: u64,
}

fn runtime() -> Result<Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.context("cannot make a runtime")
}

/// Answers until it is killed.
pub(crate) fn respond(options: &Respond) -> Result<()> {
    let sockets = dns::Sockets {
        udp: vec![UdpSocket::bind(options.at)?],
        tcp: vec![TcpListener::bind(options.at)?],
        place: 0,
    };
    let control = UnixListener::bind(&options.control)?;
    let config = dns::Config {
        resolv_conf: "/etc/resolv.conf".into(),
        predecessor: None,
    };
    Ok(runtime()?.block_on(dns::serve(config, sockets, control))?)
}

/// Tells the responder a mesh, and then changes of it.
pub(crate) fn run(options: &Options) -> Result<()> {
    let runtime = runtime()?;
    let mut mesh = Mesh::new(options.services)?;
    let mut records = Records::new(mesh.here.clone(), 2);
    let nobody = OrdSet::new();
    let begun = Instant::now();
    let mut changes = records.follow(&mesh.state, &nobody);
    let networks = mesh.state.networks.keys().cloned().collect();
    let client = Client {
        networks,
        ..Client::default()
    };
    changes.push(Change::Client([127, 0, 0, 1].into(), Some(client)));
    let mut revision = mesh.state.revision.0;
    let count = changes.len().div_ceil(PART);
    let parts = changes.chunks(PART).zip(1..).map(|(part, number)| Update {
        since: None,
        revision,
        more: number < count,
        changes: part.to_vec(),
    });
    runtime.block_on(dns::update(&options.control, parts, PATIENCE))?;
    figure("names-all", "ours", begun.elapsed().as_secs_f64());

    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(options.at)?;
    for step in 0..options.changes {
        let number = usize::try_from(step)?;
        let name = mesh.tasks_name(number / 2);
        let draining = step % 2 == 0;
        // there must be something to see
        ask(&socket, &name, if draining { 2 } else { 1 })?;
        let begun = Instant::now();
        mesh.drain(number / 2, draining)?;
        let update = Update {
            since: Some(revision),
            revision: mesh.state.revision.0,
            more: false,
            changes: records.follow(&mesh.state, &nobody),
        };
        revision = mesh.state.revision.0;
        runtime.block_on(tell(&options.control, update))?;
        ask(&socket, &name, if draining { 1 } else { 2 })?;
        figure("names-change", "ours", begun.elapsed().as_secs_f64() * 1e3);
    }
    Ok(())
}

async fn tell(control: &Path, update: Update) -> Result<()> {
    Ok(dns::update(control, std::iter::once(update), PATIENCE).await?)
}

/// Asks once: the answer must have so many addresses.
fn ask(socket: &UdpSocket, name: &str, addresses: u16) -> Result<()> {
    let mut question = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(u8::try_from(label.len())?);
        question.extend(label.bytes());
    }
    question.extend([0, 0, 1, 0, 1]);
    socket.send(&question)?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer)?;
    let count = answer.get(6..8).filter(|_| length > 12);
    if count != Some(&addresses.to_be_bytes()[..]) {
        bail!("{name}: {addresses} addresses expected, not {count:?}");
    }
    Ok(())
}
