//! Asks the host's servers. Their answers are passed on as they are, but for the
//! id, so that record types unknown here get through.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    sync::Semaphore,
};

/// How long each server has.
const PATIENCE: Duration = Duration::from_secs(2);
/// Questions under way at once; more are refused, so that a flood costs no memory.
const AT_ONCE: usize = 1024;

/// Bounds the questions under way.
pub(crate) struct Forwarder {
    places: Semaphore,
}

impl Default for Forwarder {
    fn default() -> Self {
        Self {
            places: Semaphore::new(AT_ONCE),
        }
    }
}

impl Forwarder {
    /// The first answer that a server gives to this message, over TCP if the
    /// client came over TCP; `None`: none did.
    pub(crate) async fn ask(
        &self,
        upstreams: &[IpAddr],
        message: &[u8],
        tcp: bool,
    ) -> Option<Vec<u8>> {
        let _place = self.places.try_acquire().ok()?;
        for server in upstreams {
            let at = SocketAddr::new(*server, 53);
            let asked = async {
                if tcp {
                    over_tcp(at, message).await
                } else {
                    over_udp(at, message).await
                }
            };
            match tokio::time::timeout(PATIENCE, asked).await {
                Ok(Ok(answer)) => return Some(answer),
                Ok(Err(error)) => tracing::debug!(%server, %error, "no answer"),
                Err(_) => tracing::debug!(%server, "no answer in time"),
            }
        }
        None
    }
}

/// The message with another id.
fn with_id(message: &[u8], id: [u8; 2]) -> Vec<u8> {
    let mut copy = message.to_vec();
    copy[..2].copy_from_slice(&id);
    copy
}

async fn over_udp(at: SocketAddr, message: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr = match at {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // port and id are both random: an answer cannot be guessed
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(at).await?;
    let mut id = [0; 2];
    getrandom::fill(&mut id).map_err(|_| io::ErrorKind::Other)?;
    socket.send(&with_id(message, id)).await?;
    let mut buffer = vec![0; 65_535];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if length >= 12 && buffer[..2] == id && same_question(message, &buffer[..length]) {
            return Ok(with_id(&buffer[..length], [message[0], message[1]]));
        }
    }
}

async fn over_tcp(at: SocketAddr, message: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(at).await?;
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(message).await?;
    let mut length = [0; 2];
    stream.read_exact(&mut length).await?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).await?;
    if answer.len() < 12 || answer[..2] != message[..2] {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(answer)
}

/// Whether the answer repeats the question (RFC 5452 §9.1), octet by octet but
/// for the case of letters.
fn same_question(question: &[u8], answer: &[u8]) -> bool {
    let mut end = 12;
    while let Some(&length) = question.get(end) {
        end += usize::from(length) + 1;
        if length == 0 {
            break;
        }
    }
    match (question.get(12..end + 4), answer.get(12..end + 4)) {
        (Some(question), Some(answer)) => question.eq_ignore_ascii_case(answer),
        _ => false,
    }
}
