//! One responder takes another's place without a gap: the sockets themselves are passed
//! on (SCM_RIGHTS, unix(7)), so that a question that is in their queue is answered by
//! whoever reads it.

use std::{
    io::{self, IoSlice, IoSliceMut, Read as _, Write as _},
    mem::MaybeUninit,
    net::{TcpListener, UdpSocket},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    time::Duration,
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketType, recvmsg, sendmsg, sockopt,
};

/// More sockets than any responder has.
const MOST: usize = 8;
/// How long the other one may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// What is said with the sockets, before their place.
const SAID: &str = "sockets ";

/// The sockets on which names are asked for.
#[derive(Debug, Default)]
pub struct Sockets {
    /// Of UDP.
    pub udp: Vec<UdpSocket>,
    /// Of TCP.
    pub tcp: Vec<TcpListener>,
    /// Which network namespace they are in, by its inode.
    pub place: u64,
}

impl Sockets {
    /// The same sockets once more.
    pub(crate) fn duplicate(&self) -> io::Result<Self> {
        Ok(Self {
            udp: self
                .udp
                .iter()
                .map(UdpSocket::try_clone)
                .collect::<Result<_, _>>()?,
            tcp: self
                .tcp
                .iter()
                .map(TcpListener::try_clone)
                .collect::<Result<_, _>>()?,
            place: self.place,
        })
    }

    /// Sends them, with a line that says where they are.
    pub(crate) fn send(&self, stream: impl AsFd) -> io::Result<()> {
        let udp = self.udp.iter().map(AsFd::as_fd);
        let all: Vec<BorrowedFd<'_>> = udp.chain(self.tcp.iter().map(AsFd::as_fd)).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&all)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let line = format!("{SAID}{}\n", self.place);
        sendmsg(
            stream,
            &[IoSlice::new(line.as_bytes())],
            &mut control,
            SendFlags::NOSIGNAL,
        )?;
        Ok(())
    }

    fn receive(stream: &UnixStream) -> io::Result<Self> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut line = [0; 64];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = recvmsg(
            stream,
            &mut [IoSliceMut::new(&mut line)],
            &mut control,
            flags,
        )?;
        let line = line
            .get(..received.bytes)
            .and_then(|line| str::from_utf8(line).ok());
        let place = line.and_then(|line| line.strip_prefix(SAID)?.trim_end().parse().ok());
        // an older one knows no such command
        let place = place.ok_or(io::ErrorKind::Unsupported)?;
        let mut sockets = Self {
            place,
            ..Self::default()
        };
        let files: Vec<OwnedFd> = control
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(files) => Some(files),
                _ => None,
            })
            .flatten()
            .collect();
        for file in files {
            match sockopt::socket_type(&file)? {
                SocketType::DGRAM => sockets.udp.push(file.into()),
                _ => sockets.tcp.push(file.into()),
            }
        }
        Ok(sockets)
    }
}

/// The responder that is there before us, and goes on until we have names.
#[derive(Debug)]
pub struct Predecessor(UnixStream);

impl Predecessor {
    /// Asks the responder at this control socket for its sockets.
    ///
    /// # Errors
    /// None is there, or it cannot pass them on.
    pub fn find(control: &Path) -> io::Result<(Self, Sockets)> {
        let mut stream = UnixStream::connect(control)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"sockets\n")?;
        let sockets = Sockets::receive(&stream)?;
        Ok((Self(stream), sockets))
    }

    /// Returns once it reads no more questions; it still answers those that it has read.
    pub(crate) fn retire(mut self) -> io::Result<()> {
        self.0.write_all(b"retire\n")?;
        let mut answer = [0; 3];
        self.0.read_exact(&mut answer)
    }
}
