//! A connection that connection tracking has, asked for by itself.

use std::net::{IpAddr, SocketAddr};

use super::Connection;
use crate::{
    Error,
    conntrack::{Conntrack, Way},
    netns::Netns,
};

/// What the host did with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tracked {
    /// Who is asked behind any translation: where answers come from.
    pub to: SocketAddr,
    /// Who asks, behind any translation: where answers go.
    pub from: SocketAddr,
}

/// The connection in a namespace's connection tracking; `None` where it has no such one.
/// It has one only once the first packet has left: not of one that a rule dropped.
///
/// # Errors
/// The namespace cannot be entered, or the kernel refused.
pub fn tracked(netns: &Netns, connection: &Connection) -> Result<Option<Tracked>, Error> {
    let ask = || {
        let way = Way {
            protocol: connection.protocol,
            from: connection.from,
            to: connection.to,
        };
        let found = Conntrack::open()?.find(&way)?;
        Ok(found.map(|reply| Tracked {
            to: canonical(reply.from),
            from: canonical(reply.to),
        }))
    };
    netns.run(ask)?
}

fn canonical(end: SocketAddr) -> SocketAddr {
    let ip: IpAddr = end.ip().to_canonical();
    SocketAddr::new(ip, end.port())
}
