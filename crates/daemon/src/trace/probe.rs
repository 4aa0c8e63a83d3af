//! Sends one packet and waits for what comes back.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use kernel::netns::Netns;
use model::Protocol;
use tokio::{
    net::{TcpSocket, TcpStream, UdpSocket},
    time::timeout,
};

/// What a datagram says: who finds it in a log knows where it is from.
const DATAGRAM: &[u8] = b"ipvsmesh trace\n";

/// A probe that was sent.
#[derive(Debug)]
pub(crate) struct Sent {
    /// Address and port that it was sent from, as far as that is known.
    pub(crate) from: Option<SocketAddr>,
    /// What came back.
    pub(crate) outcome: Outcome,
    /// How long that took.
    pub(crate) took: Duration,
    /// Holds the connection open while it is looked at.
    pub(crate) _connection: Option<TcpStream>,
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A connection, or a datagram.
    Answered,
    /// "No": a reset, or "port unreachable".
    Refused,
    /// The network says that there is no way, in these words.
    Unreachable(String),
    /// Nothing.
    Silent,
}

/// Sends a probe out of a namespace. TCP's is a connection on which nothing is said.
pub(crate) async fn send(
    netns: &Netns,
    protocol: Protocol,
    to: SocketAddr,
    patience: Duration,
) -> Sent {
    let begun = Instant::now();
    let mut from = None;
    let sent = match protocol {
        Protocol::Udp => udp(netns, to, patience, &mut from).await.map(|()| None),
        _ => tcp(netns, to, patience, &mut from).await.map(Some),
    };
    let (outcome, connection) = match sent {
        Ok(connection) => (Outcome::Answered, connection),
        Err(error) => (outcome(&error), None),
    };
    Sent {
        from,
        outcome,
        took: begun.elapsed(),
        _connection: connection,
    }
}

fn outcome(error: &io::Error) -> Outcome {
    match error.kind() {
        io::ErrorKind::TimedOut => Outcome::Silent,
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Outcome::Refused,
        _ => Outcome::Unreachable(error.to_string()),
    }
}

fn any(to: SocketAddr) -> SocketAddr {
    let ip: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    SocketAddr::new(ip, 0)
}

/// A UDP socket in the namespace that is connected: nothing is sent by that, but the
/// kernel has looked for a way.
fn connected(netns: &Netns, to: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let open = || {
        let socket = std::net::UdpSocket::bind(any(to))?;
        socket.connect(to)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    netns.run(open).map_err(io::Error::other)?
}

/// Opens a socket in a namespace, off the event loop.
async fn inside<T: Send + 'static>(
    netns: &Netns,
    open: impl FnOnce(&Netns) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let netns = netns.clone();
    let opened = tokio::task::spawn_blocking(move || open(&netns)).await;
    opened.map_err(io::Error::other)?
}

async fn tcp(
    netns: &Netns,
    to: SocketAddr,
    patience: Duration,
    from: &mut Option<SocketAddr>,
) -> io::Result<TcpStream> {
    let open = move |netns: &Netns| {
        let source = connected(netns, to)?.local_addr()?.ip();
        let open = || {
            let socket = match to {
                SocketAddr::V4(_) => TcpSocket::new_v4(),
                SocketAddr::V6(_) => TcpSocket::new_v6(),
            }?;
            // the port is known though nothing should come back
            socket.bind(any(to))?;
            io::Result::Ok(socket)
        };
        let socket = netns.run(open).map_err(io::Error::other)??;
        let port = socket.local_addr()?.port();
        Ok((socket, SocketAddr::new(source, port)))
    };
    let (socket, source) = inside(netns, open).await?;
    *from = Some(source);
    let connected = timeout(patience, socket.connect(to)).await;
    connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn udp(
    netns: &Netns,
    to: SocketAddr,
    patience: Duration,
    from: &mut Option<SocketAddr>,
) -> io::Result<()> {
    let socket = inside(netns, move |netns| connected(netns, to)).await?;
    let socket = UdpSocket::from_std(socket)?;
    *from = Some(socket.local_addr()?);
    socket.send(DATAGRAM).await?;
    let mut answer = [0; 64];
    let received = timeout(patience, socket.recv(&mut answer)).await;
    let received = received.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    received.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(200);

    /// As many of these tests as need no root: entering even one's own namespace does.
    fn here() -> Option<Netns> {
        let here = Netns::current().unwrap();
        here.run(|| ()).is_ok().then_some(here)
    }

    #[tokio::test]
    async fn what_comes_back_is_told_apart() {
        let Some(here) = here() else { return };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let sent = send(&here, Protocol::Tcp, to, PATIENCE).await;
        assert_eq!(sent.outcome, Outcome::Answered);
        let (_, peer) = listener.accept().unwrap();
        assert_eq!(sent.from, Some(peer));
        drop(listener);
        let sent = send(&here, Protocol::Tcp, to, PATIENCE).await;
        assert_eq!(sent.outcome, Outcome::Refused);

        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = socket.local_addr().unwrap();
        let sent = send(&here, Protocol::Udp, to, PATIENCE).await;
        assert_eq!(sent.outcome, Outcome::Silent);
        let mut datagram = [0; 64];
        let (length, peer) = socket.recv_from(&mut datagram).unwrap();
        assert_eq!((&datagram[..length], Some(peer)), (DATAGRAM, sent.from));
        drop(socket);
        let sent = send(&here, Protocol::Udp, to, PATIENCE).await;
        assert_eq!(sent.outcome, Outcome::Refused);
    }
}
