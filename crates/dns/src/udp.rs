//! Questions by UDP.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6},
    os::fd::AsRawFd as _,
    sync::Arc,
    time::Duration,
};

use nix::{
    cmsg_space, libc,
    sys::socket::{
        ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg,
        setsockopt, sockopt,
    },
};
use tokio::{io::Interest, net::UdpSocket};

use crate::{
    server::{Next, Server, Tasks},
    wire::{DATAGRAM, Transport},
};

/// A UDP socket that answers from the address that was asked. On one that is
/// bound to all addresses the kernel would choose by the route, and clients
/// drop what comes from elsewhere (RFC 2181 §4.1).
pub(crate) struct Socket(UdpSocket);

/// Where an answer goes, and from which of our addresses.
#[derive(Clone, Copy)]
pub(crate) struct WayBack {
    peer: SocketAddr,
    local: Option<IpAddr>,
}

impl Socket {
    pub(crate) fn new(socket: std::net::UdpSocket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        match socket.local_addr()? {
            SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?,
            SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?,
        }
        UdpSocket::from_std(socket).map(Self)
    }

    async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, WayBack)> {
        self.0
            .async_io(Interest::READABLE, || self.try_receive(buffer))
            .await
    }

    fn try_receive(&self, buffer: &mut [u8]) -> io::Result<(usize, WayBack)> {
        let mut control = cmsg_space!(libc::in_pktinfo, libc::in6_pktinfo);
        let mut buffers = [IoSliceMut::new(buffer)];
        let received = recvmsg::<SockaddrStorage>(
            self.0.as_raw_fd(),
            &mut buffers,
            Some(&mut control),
            MsgFlags::empty(),
        )?;
        let peer = received
            .address
            .as_ref()
            .and_then(to_std)
            .ok_or(io::ErrorKind::InvalidData)?;
        let local = received.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::Ipv4PacketInfo(info) => Some(IpAddr::from(
                u32::from_be(info.ipi_spec_dst.s_addr).to_be_bytes(),
            )),
            ControlMessageOwned::Ipv6PacketInfo(info) => Some(IpAddr::from(info.ipi6_addr.s6_addr)),
            _ => None,
        });
        Ok((received.bytes, WayBack { peer, local }))
    }

    pub(crate) async fn send(&self, packet: &[u8], back: WayBack) -> io::Result<()> {
        self.0
            .async_io(Interest::WRITABLE, || self.try_send(packet, back))
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
    let mut buffer = vec![0; DATAGRAM.into()];
    loop {
        let (length, back) = match socket.receive(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                tracing::warn!(%error, "cannot receive a question");
                // must neither end the loop nor let it spin
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        match server.take(&buffer[..length], back.peer.ip(), Transport::Udp) {
            Next::Silence => {}
            Next::Reply(reply) => send(&socket, &reply, back).await,
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

/// A client that cannot be reached is not our trouble: it asks again.
async fn send(socket: &Socket, reply: &[u8], back: WayBack) {
    if let Err(error) = socket.send(reply, back).await {
        tracing::debug!(peer = %back.peer, %error, "cannot send an answer");
    }
}
