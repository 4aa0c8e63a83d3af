//! The DNS responder: answers the mesh's names and passes all other questions on to
//! the host's servers.
//!
//! It is a process of its own, so that names are answered while the daemon is dead or
//! being upgraded. The daemon tells it all names once and then what changes of them, by
//! the control socket; see [`request`] and [`update`]. It answers nothing before it has
//! names: until then the responder before it does, whose sockets it takes over.
//!
//! ```text
//! udp, tcp ─► respond ─► lookup (pure) ─► answer from the names
//!                                     └─► cache, or forward ─► the host's servers
//! control ─► update | status | sockets | retire | quit
//! ```
//!
//! The loops are our own, on hickory's wire format: an answer must leave from
//! the address that was asked (the router has one on every network), and what
//! other servers answer is passed on byte for byte, so that record types nobody
//! here knows arrive whole.
#![forbid(unsafe_code)]

mod addresses;
mod ask;
mod cache;
mod control;
mod error;
mod forward;
mod handover;
mod lookup;
mod names;
mod respond;
mod server;
mod tcp;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod udp;
mod upstreams;
mod wire;

use std::{os::unix::net::UnixListener, path::PathBuf};

pub use ask::{AskError, Code, Said, ask};
pub use control::{Status, request, update};
pub use error::Error;
pub use handover::{Predecessor, Sockets};
pub use upstreams::nameservers;

/// What the responder is told when it starts.
#[derive(Debug)]
pub struct Config {
    /// The host's resolv.conf(5), which names the servers for other names.
    pub resolv_conf: PathBuf,
    /// Who answers until there are names.
    pub predecessor: Option<Predecessor>,
}

/// Answers on these sockets, once there are names, until it is told to end by the
/// control socket.
///
/// The sockets are the caller's so that they can be in another network
/// namespace; questions to other servers leave from this process's own.
///
/// Must be called in a tokio runtime with I/O and time. Raises the process's
/// soft limit on open files to the hard one.
///
/// # Errors
/// A socket cannot be used.
pub async fn serve(config: Config, sockets: Sockets, control: UnixListener) -> Result<(), Error> {
    server::run(config, server::Limits::default(), sockets, control).await
}
