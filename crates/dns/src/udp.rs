//! Questions by UDP.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6},
    ops::Range,
    os::fd::AsRawFd as _,
    sync::Arc,
    time::Duration,
};

use nix::{
    cmsg_space, libc,
    sys::socket::{
        ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg,
        sendmsg, setsockopt, sockopt,
    },
};
use tokio::io::{Interest, unix::AsyncFd};

use crate::{
    server::{Next, Server, Tasks},
    wire::{DATAGRAM, Transport},
};

/// How many questions are taken from the kernel at once.
const BATCH: usize = 8;

/// A UDP socket that answers from the address that was asked. On one that is
/// bound to all addresses the kernel would choose by the route, and clients
/// drop what comes from elsewhere (RFC 2181 §4.1).
pub(crate) struct Socket(AsyncFd<std::net::UdpSocket>);

/// Where an answer goes, and from which of our addresses.
#[derive(Clone, Copy)]
pub(crate) struct WayBack {
    peer: SocketAddr,
    local: Option<IpAddr>,
}

/// What was received by one call.
struct Inbox {
    /// [`BATCH`] times the largest datagram.
    buffer: Vec<u8>,
    /// The datagrams in the buffer.
    received: Vec<(Range<usize>, WayBack)>,
}

impl Inbox {
    fn new() -> Self {
        Self {
            buffer: vec![0; BATCH * usize::from(DATAGRAM)],
            received: Vec::with_capacity(BATCH),
        }
    }

    /// Takes what is there, at most as much as there is room for.
    fn fill(&mut self, socket: &std::net::UdpSocket) -> io::Result<()> {
        self.received.clear();
        let control = cmsg_space!(libc::in_pktinfo, libc::in6_pktinfo);
        // anew each time: the kernel writes into them how much room it has used
        let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, Some(control));
        let chunks = self.buffer.chunks_mut(DATAGRAM.into());
        let mut slices: Vec<_> = chunks.map(|chunk| [IoSliceMut::new(chunk)]).collect();
        let messages = recvmmsg(
            socket.as_raw_fd(),
            &mut headers,
            &mut slices,
            MsgFlags::empty(),
            None,
        )?;
        for (number, message) in messages.enumerate() {
            let begin = number * usize::from(DATAGRAM);
            let mut control = message.cmsgs().into_iter().flatten();
            let local = control.find_map(|message| match message {
                ControlMessageOwned::Ipv4PacketInfo(info) => Some(IpAddr::from(
                    u32::from_be(info.ipi_spec_dst.s_addr).to_be_bytes(),
                )),
                ControlMessageOwned::Ipv6PacketInfo(info) => {
                    Some(IpAddr::from(info.ipi6_addr.s6_addr))
                }
                _ => None,
            });
            let peer = message.address.as_ref().and_then(to_std);
            if let Some(peer) = peer {
                let back = WayBack { peer, local };
                self.received.push((begin..begin + message.bytes, back));
            }
        }
        Ok(())
    }
}

impl Socket {
    pub(crate) fn new(socket: std::net::UdpSocket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        match socket.local_addr()? {
            SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?,
            SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?,
        }
        #[expect(
            deprecated,
            reason = "unsound for types that close their descriptor early, which UdpSocket cannot"
        )]
        AsyncFd::new(socket).map(Self)
    }

    async fn receive(&self, inbox: &mut Inbox) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|socket| inbox.fill(socket.get_ref())) {
                Ok(received) => {
                    // no more was there: this saves the call that would say so. One that
                    // comes after it is told by an event of its own
                    if inbox.received.len() < BATCH {
                        ready.clear_ready();
                    }
                    return received;
                }
                Err(_would_block) => {}
            }
        }
    }

    pub(crate) async fn send(&self, packet: &[u8], back: WayBack) -> io::Result<()> {
        self.0
            .async_io(Interest::WRITABLE, |_| self.try_send(packet, back))
            .await
    }

    fn try_send(&self, packet: &[u8], back: WayBack) -> io::Result<()> {
        // interface 0: the route decides
        let (v4, v6);
        let from = match back.local {
            Some(IpAddr::V4(address)) => {
                v4 = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: libc::in_addr {
                        s_addr: u32::from(address).to_be(),
                    },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                Some(ControlMessage::Ipv4PacketInfo(&v4))
            }
            Some(IpAddr::V6(address)) => {
                v6 = libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr {
                        s6_addr: address.octets(),
                    },
                    ipi6_ifindex: 0,
                };
                Some(ControlMessage::Ipv6PacketInfo(&v6))
            }
            None => None,
        };
        sendmsg(
            self.0.as_raw_fd(),
            &[IoSlice::new(packet)],
            from.as_slice(),
            MsgFlags::empty(),
            Some(&SockaddrStorage::from(back.peer)),
        )?;
        Ok(())
    }
}

fn to_std(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address
        .as_sockaddr_in()
        .map(|v4| SocketAddrV4::from(*v4).into());
    v4.or_else(|| {
        address
            .as_sockaddr_in6()
            .map(|v6| SocketAddrV6::from(*v6).into())
    })
}

/// Answers datagrams until it is dropped.
pub(crate) async fn serve(server: Arc<Server>, socket: Arc<Socket>, tasks: Tasks) {
    let mut inbox = Inbox::new();
    loop {
        if let Err(error) = socket.receive(&mut inbox).await {
            tracing::warn!(%error, "cannot receive a question");
            // must neither end the loop nor let it spin
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        }
        for (place, back) in inbox.received.drain(..) {
            let question = inbox.buffer.get(place).unwrap_or_default();
            match server.take(question, back.peer.ip(), Transport::Udp) {
                Next::Silence => {}
                Next::Reply(reply) => {
                    // no waiting in between: what was read is answered, whenever the loop
                    // is told to end
                    if socket
                        .try_send(&reply, back)
                        .is_err_and(|error| would_block(&error))
                    {
                        let socket = socket.clone();
                        tasks.spawn(async move { send(&socket, &reply, back).await });
                    }
                }
                Next::Forward(forward) => {
                    let socket = socket.clone();
                    tasks.spawn(async move {
                        if let Some(reply) = forward.run().await {
                            send(&socket, &reply, back).await;
                        }
                    });
                }
            }
        }
    }
}

fn would_block(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

/// A client that cannot be reached is not our trouble: it asks again.
async fn send(socket: &Socket, reply: &[u8], back: WayBack) {
    if let Err(error) = socket.send(reply, back).await {
        tracing::debug!(peer = %back.peer, %error, "cannot send an answer");
    }
}
