//! What a network namespace knows of one connection, and what it counts of packets
//! that it did not let through. All of it is read; nothing is changed, so that whoever
//! looks for a lost packet leaves nothing behind.

mod balanced;
mod dropped;
mod sockets;
mod tracked;

use std::net::SocketAddr;

use model::Protocol;

pub use balanced::{Balanced, balanced};
pub use dropped::{Counts, Dropped, Rule, counts};
pub use sockets::{End, Holder, Listening, Sockets, process, process_state, sockets};
pub use tracked::{Tracked, tracked};

/// One connection, as its first packet is in the namespace that is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Who asks.
    pub from: SocketAddr,
    /// Who is asked.
    pub to: SocketAddr,
}
