//! Other names: the question goes to the host's servers as it is, and so does
//! their answer to the client; only the id is another one.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use hickory_proto::op::{Metadata, ResponseCode};
use tokio::{
    net::{TcpStream, UdpSocket},
    sync::OwnedSemaphorePermit,
    time::timeout,
};

use crate::{
    cache::Key,
    server::{Server, lock},
    tcp::{read_message, write_message},
    wire::{Request, Transport},
};

/// A question on its way to other servers.
pub(crate) struct Forward {
    pub(crate) request: Request,
    /// It, as it came.
    pub(crate) packet: Vec<u8>,
    pub(crate) transport: Transport,
    /// In the order in which they are asked.
    pub(crate) servers: Vec<SocketAddr>,
    /// How long each has.
    pub(crate) patience: Duration,
    /// What its answer is kept for, if it may be.
    pub(crate) key: Option<Key>,
    pub(crate) server: Arc<Server>,
    /// One of a limited number: each holds a socket.
    pub(crate) _permit: OwnedSemaphorePermit,
}

impl Forward {
    /// Asks the servers one after the other. A server that fails or refuses is
    /// not believed while there is another; if all do, the last one's word is
    /// passed on.
    pub(crate) async fn run(self) -> Option<Vec<u8>> {
        let mut refusal = None;
        let upstreams = &self.server.upstreams;
        for &server in &self.servers {
            let asked = timeout(self.patience, self.ask(server)).await;
            match asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok((said, reply)) => {
                    lock(upstreams).fared(server.ip(), true, Instant::now());
                    match said.response_code {
                        ResponseCode::ServFail | ResponseCode::NotImp | ResponseCode::Refused => {
                            refusal = Some(reply);
                        }
                        code => {
                            if let Some(key) = self.key {
                                let now = Instant::now();
                                lock(&self.server.cache).put(key, code, &reply, now);
                            }
                            return Some(reply);
                        }
                    }
                }
                Err(error) => {
                    lock(upstreams).fared(server.ip(), false, Instant::now());
                    tracing::debug!(%server, %error, "a name server does not answer");
                }
            }
        }
        self.server.count.failed.fetch_add(1, Relaxed);
        refusal.or_else(|| self.request.fail(ResponseCode::ServFail))
    }

    /// Asks one server: by UDP, and by TCP if that was too small and the
    /// client takes more. A client on UDP is told of the truncation and comes
    /// again by TCP itself.
    async fn ask(&self, server: SocketAddr) -> io::Result<(Metadata, Vec<u8>)> {
        // unguessable together with the port, which the kernel draws for each
        // question anew (RFC 5452 §9.2)
        let id: u16 = rand::random();
        let mut packet = self.packet.clone();
        set_id(&mut packet, id);

        let (said, mut reply) = match self.ask_udp(server, id, &packet).await? {
            (said, _) if said.truncation && self.transport == Transport::Tcp => {
                self.ask_tcp(server, id, &packet).await?
            }
            answer => answer,
        };
        set_id(&mut reply, self.request.id());
        Ok((said, reply))
    }

    async fn ask_udp(
        &self,
        server: SocketAddr,
        id: u16,
        packet: &[u8],
    ) -> io::Result<(Metadata, Vec<u8>)> {
        let any: IpAddr = match server {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).await?;
        // connected: the kernel drops what others send, and tells of a dead port
        socket.connect(server).await?;
        socket.send(packet).await?;
        // any size: how much the client takes is in the question
        let mut reply = Vec::with_capacity(u16::MAX.into());
        loop {
            socket.recv_buf(&mut reply).await?;
            // not an error: whoever guesses wrongly must not end the wait
            if let Some(said) = self.request.answered_by(id, &reply) {
                return Ok((said, reply));
            }
            reply.clear();
        }
    }

    async fn ask_tcp(
        &self,
        server: SocketAddr,
        id: u16,
        packet: &[u8],
    ) -> io::Result<(Metadata, Vec<u8>)> {
        let mut stream = TcpStream::connect(server).await?;
        write_message(&mut stream, packet).await?;
        let reply = read_message(&mut stream)
            .await?
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        let said = self
            .request
            .answered_by(id, &reply)
            .ok_or(io::ErrorKind::InvalidData)?;
        Ok((said, reply))
    }
}

/// The id is the first two octets (RFC 1035 §4.1.1).
fn set_id(packet: &mut [u8], id: u16) {
    if let Some(octets) = packet.first_chunk_mut() {
        *octets = id.to_be_bytes();
    }
}
