//! The DNS responder: answers for the mesh's names from a snapshot, and forwards
//! everything else. It is a process of its own, which goes on with its last
//! snapshot when the daemon is away.
#![forbid(unsafe_code)]

mod control;
mod forward;
mod lookup;
mod server;

use std::{
    io,
    net::{TcpListener, UdpSocket},
    os::unix::net::UnixListener,
    path::PathBuf,
};

pub use control::request;
pub use lookup::{Answer, lookup};

/// Where the responder's names are.
#[derive(Clone, Debug)]
pub struct Config {
    /// JSON of a [`model::names::Snapshot`].
    pub snapshot: PathBuf,
}

/// Why the responder cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A socket failed.
    #[error("a socket failed")]
    Socket(#[source] io::Error),
    /// The snapshot cannot be read.
    #[error("cannot read the names in {}", path.display())]
    Snapshot {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Answers until it is told to quit. The sockets are bound already, in whichever
/// namespace the clients are; questions to other servers go out of the caller's.
///
/// # Errors
/// The snapshot cannot be read, or a socket failed at the start.
pub async fn serve(
    config: Config,
    udp: Vec<UdpSocket>,
    tcp: Vec<TcpListener>,
    control: UnixListener,
) -> Result<(), Error> {
    let names = server::Names::load(&config.snapshot)?;
    let server = std::sync::Arc::new(server::Server::new(names));
    let mut tasks = tokio::task::JoinSet::new();
    for socket in udp {
        socket.set_nonblocking(true).map_err(Error::Socket)?;
        let socket = tokio::net::UdpSocket::from_std(socket).map_err(Error::Socket)?;
        tasks.spawn(server.clone().serve_udp(socket));
    }
    for socket in tcp {
        socket.set_nonblocking(true).map_err(Error::Socket)?;
        let socket = tokio::net::TcpListener::from_std(socket).map_err(Error::Socket)?;
        tasks.spawn(server.clone().serve_tcp(socket));
    }
    control.set_nonblocking(true).map_err(Error::Socket)?;
    let control = tokio::net::UnixListener::from_std(control).map_err(Error::Socket)?;
    // returns when it is told to; the others end with it
    control::serve(&server, &config, control).await;
    Ok(())
}
