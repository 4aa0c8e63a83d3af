//! The DNS responder: answers the mesh's names from a [`model::names::Snapshot`]
//! and passes all other questions on to the host's servers.
//!
//! It is a process of its own, so that names are answered while the daemon is
//! dead or being upgraded. The daemon writes the snapshot to a file and says
//! `reload` on the control socket; see [`request`].
//!
//! ```text
//! udp, tcp ─► respond ─► lookup (pure) ─► answer from the snapshot
//!                                     └─► forward ─► the host's servers
//! control ─► reload | status | quit
//! ```
//!
//! The loops are our own, on hickory's wire format: an answer must leave from
//! the address that was asked (the router has one on every network), and what
//! other servers answer is passed on byte for byte, so that record types nobody
//! here knows arrive whole.
#![forbid(unsafe_code)]

mod control;
mod error;
mod forward;
mod lookup;
mod respond;
mod server;
mod tcp;
#[cfg(test)]
mod tests;

mod udp;
mod wire;

use std::{
    net::{TcpListener, UdpSocket},
    os::unix::net::UnixListener,
    path::PathBuf,
};

pub use control::{Status, request};
pub use error::Error;
pub use lookup::{Answer, lookup};

/// What the responder is told when it starts.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file with the [`model::names::Snapshot`], as JSON; read at the start
    /// and at each `reload`. Whoever writes it replaces it whole (by rename).
    pub snapshot: PathBuf,
}

/// Answers on these sockets until `quit` comes by the control socket.
///
/// The sockets are the caller's so that they can be in another network
/// namespace; questions to other servers leave from this process's own.
///
/// Must be called in a tokio runtime with I/O and time. Raises the process's
/// soft limit on open files to the hard one.
pub async fn serve(
    config: Config,
    udp: Vec<UdpSocket>,
    tcp: Vec<TcpListener>,
    control: UnixListener,
) -> Result<(), Error> {
    server::run(config, server::Limits::default(), udp, tcp, control).await
}
