//! One netlink socket, used as a conversation: ask, and read the answers.
//!
//! Any number of requests goes out in one `send(2)` of up to 60 kB, with one
//! acknowledgement on the last. The kernel goes on after an error and says of
//! each, by sequence number, which request it was.

use std::{collections::BTreeMap, io};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};

/// `struct nlmsghdr`
const HEADER: usize = 16;
/// Octets sent at once: the kernel takes a message of up to the send buffer.
const BATCH: usize = 60_000;
/// Receive buffer: errors of a whole batch must fit.
const RECEIVE_BUFFER: usize = 4 << 20;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 0x10;

/// A request without its header.
#[derive(Clone, Debug)]
pub struct Request {
    /// Message type.
    pub kind: u16,
    /// Flags besides `NLM_F_REQUEST` and `NLM_F_ACK`.
    pub flags: u16,
    /// What follows the header.
    pub body: Vec<u8>,
}

impl Request {
    /// The request for a typed message.
    pub fn new(message: &impl NetlinkSerializable, flags: u16) -> Self {
        let mut body = vec![0; message.buffer_len()];
        message.serialize(&mut body);
        Self {
            kind: message.message_type(),
            flags,
            body,
        }
    }
}

/// A netlink socket in some network namespace.
pub struct Conversation {
    socket: Socket,
    sequence: u32,
}

impl Conversation {
    /// Opens a socket in the calling thread's network namespace, where it stays.
    /// `protocol`: `NETLINK_ROUTE` 0, `NETLINK_NETFILTER` 12, `NETLINK_GENERIC` 16.
    ///
    /// # Errors
    /// The kernel has no such protocol.
    pub fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_cap_ack(true)?;
        // strict checking makes dumps filter by what they are asked for; old
        // kernels do not know it
        let _ = socket.set_netlink_get_strict_chk(true);
        let _ = socket.set_rx_buf_sz(RECEIVE_BUFFER);
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    fn emit(&mut self, buffer: &mut Vec<u8>, request: &Request, flags: u16) -> u32 {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        let length = HEADER + request.body.len();
        buffer.extend((length as u32).to_ne_bytes());
        buffer.extend(request.kind.to_ne_bytes());
        buffer.extend((request.flags | flags | NLM_F_REQUEST).to_ne_bytes());
        buffer.extend(self.sequence.to_ne_bytes());
        buffer.extend(0_u32.to_ne_bytes());
        buffer.extend(&request.body);
        buffer.resize(buffer.len().next_multiple_of(4), 0);
        self.sequence
    }

    /// Does all requests in order, each independent of the others' success.
    /// Gives back, by index, the ones that failed.
    ///
    /// # Errors
    /// The socket itself failed; then it is unknown what was done.
    pub fn batch(&mut self, requests: &[Request]) -> io::Result<BTreeMap<usize, io::Error>> {
        let mut failed = BTreeMap::new();
        let mut start = 0;
        while start < requests.len() {
            let mut buffer = Vec::new();
            let mut numbers = BTreeMap::new();
            let mut end = start;
            while end < requests.len()
                && (end == start || buffer.len() + HEADER + requests[end].body.len() <= BATCH)
            {
                let last = end + 1 == requests.len()
                    || buffer.len()
                        + 2 * HEADER
                        + requests[end].body.len()
                        + requests[end + 1].body.len()
                        > BATCH;
                let flags = if last { NLM_F_ACK } else { 0 };
                numbers.insert(self.emit(&mut buffer, &requests[end], flags), end);
                end += 1;
                if last {
                    break;
                }
            }
            let last = self.sequence;
            self.send(&buffer)?;
            self.answers(|sequence, kind, _, body| {
                if kind == NLMSG_ERROR
                    && let Some(index) = numbers.get(&sequence)
                    && let Some(error) = errno(body)
                {
                    failed.insert(*index, error);
                }
                // errors arrive in order, the last request's always
                Ok(kind == NLMSG_ERROR && sequence == last)
            })?;
            start = end;
        }
        Ok(failed)
    }

    /// Asks for a dump; calls `each` with the body of every answer.
    ///
    /// # Errors
    /// The kernel refused, or the objects changed under the dump
    /// (`ErrorKind::Interrupted`: ask again).
    pub fn dump(&mut self, request: &Request, mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
        let mut buffer = Vec::new();
        let sequence = self.emit(&mut buffer, request, NLM_F_DUMP);
        self.send(&buffer)?;
        let mut interrupted = false;
        self.answers(|answer, kind, flags, body| {
            if answer != sequence {
                return Ok(false);
            }
            interrupted |= flags & NLM_F_DUMP_INTR != 0;
            match kind {
                NLMSG_DONE => Ok(true),
                NLMSG_ERROR => errno(body).map_or(Ok(true), Err),
                _ => {
                    each(kind, body);
                    Ok(false)
                }
            }
        })?;
        if interrupted {
            Err(io::ErrorKind::Interrupted.into())
        } else {
            Ok(())
        }
    }

    /// Asks for one object.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn get(&mut self, request: &Request) -> io::Result<Option<(u16, Vec<u8>)>> {
        let mut buffer = Vec::new();
        let sequence = self.emit(&mut buffer, request, NLM_F_ACK);
        self.send(&buffer)?;
        let mut found = None;
        self.answers(|answer, kind, _, body| match kind {
            _ if answer != sequence => Ok(false),
            NLMSG_ERROR => errno(body).map_or(Ok(true), Err),
            _ => {
                found = Some((kind, body.to_vec()));
                Ok(false)
            }
        })?;
        Ok(found)
    }

    fn send(&self, buffer: &[u8]) -> io::Result<()> {
        let sent = self.socket.send(buffer, 0)?;
        if sent == buffer.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::WriteZero.into())
        }
    }

    /// Reads messages until `each` says that this was the last.
    fn answers(
        &mut self,
        mut each: impl FnMut(u32, u16, u16, &[u8]) -> io::Result<bool>,
    ) -> io::Result<()> {
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = datagram.as_slice();
            while rest.len() >= HEADER {
                let length = u32_at(rest, 0) as usize;
                if length < HEADER || length > rest.len() {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "netlink message is cut",
                    ));
                }
                let kind = u16::from_ne_bytes([rest[4], rest[5]]);
                let flags = u16::from_ne_bytes([rest[6], rest[7]]);
                let sequence = u32_at(rest, 8);
                if each(sequence, kind, flags, &rest[HEADER..length])? {
                    return Ok(());
                }
                rest = &rest[length.next_multiple_of(4).min(rest.len())..];
            }
        }
    }
}

/// Four octets of a message whose length was checked.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The error in an `NLMSG_ERROR`; `None` is an acknowledgement.
fn errno(body: &[u8]) -> Option<io::Error> {
    match body.get(..4).map(|_| u32_at(body, 0).cast_signed()) {
        Some(0) => None,
        Some(code) => Some(io::Error::from_raw_os_error(code.saturating_neg())),
        None => Some(io::ErrorKind::InvalidData.into()),
    }
}

/// Reads a typed message out of an answer.
///
/// # Errors
/// It is not of that type.
pub fn parse<M: NetlinkDeserializable>(kind: u16, body: &[u8]) -> Result<M, String> {
    let mut header = NetlinkHeader::default();
    header.message_type = kind;
    header.length = (HEADER + body.len()) as u32;
    M::deserialize(&header, body).map_err(|error| error.to_string())
}
