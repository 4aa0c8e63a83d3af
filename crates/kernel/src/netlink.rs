//! One netlink socket, used as a conversation: ask, and read the answers.
//!
//! Any number of requests goes out in one `send(2)` of up to 60 kB, with one
//! acknowledgement on the last. The kernel goes on after an error and says of
//! each, by sequence number, which request it was.

use std::{
    collections::BTreeMap,
    fmt, io,
    sync::{Arc, Mutex, PoisonError},
};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader,
    NetlinkSerializable, NlasIterator,
};
use netlink_sys::{Socket, SocketAddr};
use nix::{
    libc,
    sys::{
        socket::{setsockopt, sockopt},
        time::{TimeVal, TimeValLike as _},
    },
};

/// `struct nlmsghdr`
const HEADER: usize = 16;
/// Octets sent at once: the kernel takes a message of up to the send buffer.
const BATCH: usize = 60_000;
/// Receive buffer: the errors of a whole batch must fit.
const RECEIVE_BUFFER: usize = 4 << 20;
/// Receive buffer that one error takes, with the kernel's own structures (768 on
/// Linux 6.1) and its text. What does not fit would be lost.
const ERROR_ROOM: usize = 2048;
/// Largest datagram: dumps come in pieces of at most 32 kB.
const DATAGRAM: usize = 64 << 10;
/// The least that the kernel must be able to send at once.
const SMALL_DATAGRAM: usize = 8 << 10;
/// The answer is there when `send` returns, so this is for a kernel that lost it.
const PATIENCE_SECONDS: i64 = 10;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 0x10;
/// The error repeats the request's header only.
const NLM_F_CAPPED: u16 = 0x100;
/// The error has attributes.
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// Numbers that say that something is there or is gone already. Callers compare
/// them, so they come as plain errors, without the kernel's text.
const PLAIN: [i32; 5] = [
    libc::EEXIST,
    libc::ENOENT,
    libc::ESRCH,
    libc::ENODEV,
    libc::EADDRNOTAVAIL,
];

/// The kernel's refusal with a text, inside an [`io::Error`].
#[derive(Debug)]
struct Refusal {
    code: i32,
    said: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.code < 4096 {
            write!(f, "{}: ", io::Error::from_raw_os_error(self.code))?;
        }
        f.write_str(&self.said)
    }
}

impl std::error::Error for Refusal {}

/// An error with a text; [`code`] still finds its number.
pub(crate) fn explained(code: i32, said: impl Into<String>) -> io::Error {
    let kind = io::Error::from_raw_os_error(code).kind();
    let said = said.into();
    io::Error::new(kind, Refusal { code, said })
}

/// The number of the kernel's error, with a text or without: an errno, or from
/// 4096 on one of ipset's own.
pub fn code(error: &io::Error) -> Option<i32> {
    let refusal = || error.get_ref()?.downcast_ref::<Refusal>();
    error
        .raw_os_error()
        .or_else(|| refusal().map(|refusal| refusal.code))
}

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

/// A request that is written straight to where it is sent from.
pub trait Emit {
    /// Message type.
    fn kind(&self) -> u16;
    /// Flags besides `NLM_F_REQUEST` and `NLM_F_ACK`.
    fn flags(&self) -> u16;
    /// Appends what follows the header.
    fn emit(&self, buffer: &mut Vec<u8>);
}

impl Emit for Request {
    fn kind(&self) -> u16 {
        self.kind
    }

    fn flags(&self) -> u16 {
        self.flags
    }

    fn emit(&self, buffer: &mut Vec<u8>) {
        buffer.extend_from_slice(&self.body);
    }
}

impl<T: Emit> Emit for &T {
    fn kind(&self) -> u16 {
        (*self).kind()
    }

    fn flags(&self) -> u16 {
        (*self).flags()
    }

    fn emit(&self, buffer: &mut Vec<u8>) {
        (*self).emit(buffer);
    }
}

/// A netlink socket in some network namespace.
pub struct Conversation {
    socket: Socket,
    sequence: u32,
    datagram: Vec<u8>,
    /// Requests sent at once: as many as errors fit into the receive buffer.
    at_once: usize,
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
        let patience = TimeVal::seconds(PATIENCE_SECONDS);
        setsockopt(&socket, sockopt::ReceiveTimeout, &patience)?;
        socket.set_cap_ack(true)?;
        // strict checking makes dumps filter by what they are asked for, and the
        // other adds words to errors; old kernels do not know them
        let _ = socket.set_netlink_get_strict_chk(true);
        let _ = socket.set_ext_ack(true);
        // past net.core.rmem_max only root can go
        if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            let _ = socket.set_rx_buf_sz(RECEIVE_BUFFER as u32);
        }
        let at_once = (socket.get_rx_buf_sz()? / ERROR_ROOM).max(1);
        Ok(Self {
            socket,
            sequence: 0,
            datagram: Vec::with_capacity(DATAGRAM),
            at_once,
        })
    }

    /// For many small dumps: the kernel makes and clears room for as much as is read at
    /// once (32 kB at most), twice a dump. `NLMSG_GOODSIZE` (8 kB) it sends in any case.
    #[must_use]
    pub fn for_small_dumps(mut self) -> Self {
        self.datagram = Vec::with_capacity(SMALL_DATAGRAM);
        self
    }

    fn emit(&mut self, buffer: &mut Vec<u8>, request: &impl Emit, flags: u16) -> u32 {
        // numbers of a batch are in a row
        self.sequence = self.sequence.wrapping_add(1);
        let start = buffer.len();
        buffer.extend_from_slice(&[0; 4]);
        buffer.extend_from_slice(&request.kind().to_ne_bytes());
        buffer.extend_from_slice(&(request.flags() | flags | NLM_F_REQUEST).to_ne_bytes());
        buffer.extend_from_slice(&self.sequence.to_ne_bytes());
        buffer.extend_from_slice(&[0; 4]);
        request.emit(buffer);
        let length = (buffer.len() - start) as u32;
        buffer[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        buffer.resize(buffer.len().next_multiple_of(4), 0);
        self.sequence
    }

    /// Does all requests in order, each independent of the others' success.
    /// Gives back, by index, the ones that failed.
    ///
    /// # Errors
    /// The socket itself failed (`ENOBUFS`: the kernel had no memory for an
    /// answer); then it is unknown what was done, and must be read.
    pub fn batch<E: Emit>(
        &mut self,
        requests: impl IntoIterator<Item = E>,
    ) -> io::Result<BTreeMap<usize, io::Error>> {
        let mut failed = BTreeMap::new();
        let mut buffer = Vec::with_capacity(BATCH);
        // of what is in the buffer: how many requests, the first one's index, and
        // where the last one begins
        let (mut count, mut first, mut last) = (0, 0, 0);
        for request in requests {
            let start = buffer.len();
            self.emit(&mut buffer, &request, 0);
            if count > 0 && (buffer.len() > BATCH || count == self.at_once) {
                let sequence = self.sequence.wrapping_sub(1);
                self.exchange(&mut buffer[..start], last, sequence, first, &mut failed)?;
                buffer.drain(..start);
                (count, first, last) = (1, first + count, 0);
            } else {
                count += 1;
                last = start;
            }
        }
        if count > 0 {
            self.exchange(&mut buffer, last, self.sequence, first, &mut failed)?;
        }
        Ok(failed)
    }

    /// Does all requests or none: a batch of nfnetlink's, which only nftables has
    /// (`net/netfilter/nfnetlink.c`).
    ///
    /// # Errors
    /// The first that was refused, or the socket's.
    pub fn transaction(&mut self, requests: &[Request]) -> io::Result<()> {
        /// `NFNL_MSG_BATCH_BEGIN`
        const BEGIN: u16 = 16;
        /// `NFNL_MSG_BATCH_END`
        const END: u16 = 17;
        /// `NFNL_SUBSYS_NFTABLES`, in the network's byte order at the end of `struct nfgenmsg`
        const FOR: [u8; 4] = [0, 0, 0, 10];
        let edge = |kind| Request {
            kind,
            flags: 0,
            body: FOR.to_vec(),
        };
        let mut buffer = Vec::new();
        self.emit(&mut buffer, &edge(BEGIN), 0);
        let mut last = 0;
        for request in requests {
            last = buffer.len();
            self.emit(&mut buffer, request, 0);
        }
        let sequence = self.sequence;
        self.emit(&mut buffer, &edge(END), 0);
        let mut failed = BTreeMap::new();
        self.exchange(&mut buffer, last, sequence, 0, &mut failed)?;
        match failed.into_values().next() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Sends requests, of which the last begins at `last` and is answered in any
    /// case; `first` is the index of the first.
    fn exchange(
        &mut self,
        requests: &mut [u8],
        last: usize,
        sequence: u32,
        first: usize,
        failed: &mut BTreeMap<usize, io::Error>,
    ) -> io::Result<()> {
        let flags = u16::from_ne_bytes([requests[last + 6], requests[last + 7]]) | NLM_F_ACK;
        requests[last + 6..last + 8].copy_from_slice(&flags.to_ne_bytes());
        let begin = u32_at(requests, 8);
        self.send(requests)?;
        self.answers(|answer| {
            let index = answer.sequence.wrapping_sub(begin);
            if answer.kind == NLMSG_ERROR
                && index <= sequence.wrapping_sub(begin)
                && let Some(error) = answer.error()
            {
                failed.insert(first + index as usize, error);
            }
            // errors arrive in order, the last request's always
            Ok(answer.kind == NLMSG_ERROR && answer.sequence == sequence)
        })
    }

    /// Asks for a dump; calls `each` with type and body of every answer.
    ///
    /// # Errors
    /// The kernel refused, or the objects changed under the dump
    /// (`ErrorKind::Interrupted`: ask again).
    pub fn dump(&mut self, request: &Request, mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
        let mut buffer = Vec::new();
        let sequence = self.emit(&mut buffer, request, NLM_F_DUMP);
        self.send(&buffer)?;
        let mut interrupted = false;
        self.answers(|answer| {
            if answer.sequence != sequence {
                return Ok(false);
            }
            interrupted |= answer.flags & NLM_F_DUMP_INTR != 0;
            match answer.kind {
                // a dump that fails half way says so at its end
                NLMSG_DONE | NLMSG_ERROR => answer.error().map_or(Ok(true), Err),
                kind => {
                    each(kind, answer.body);
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

    /// Asks for one object; gives back type and body of the answer, if there is
    /// one beside the acknowledgement.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn get(&mut self, request: &Request) -> io::Result<Option<(u16, Vec<u8>)>> {
        let mut buffer = Vec::new();
        let sequence = self.emit(&mut buffer, request, NLM_F_ACK);
        self.send(&buffer)?;
        let mut found = None;
        self.answers(|answer| match answer.kind {
            _ if answer.sequence != sequence => Ok(false),
            NLMSG_ERROR => answer.error().map_or(Ok(true), Err),
            kind => {
                found = Some((kind, answer.body.to_vec()));
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

    /// Reads one datagram.
    fn receive(&mut self) -> io::Result<()> {
        loop {
            self.datagram.clear();
            return match self.socket.recv(&mut self.datagram, libc::MSG_TRUNC) {
                Ok(length) if length > self.datagram.len() => Err(cut()),
                Ok(_) => Ok(()),
                Err(error) => match error.kind() {
                    // a signal; must not look like an interrupted dump
                    io::ErrorKind::Interrupted => continue,
                    io::ErrorKind::WouldBlock => Err(io::Error::new(
                        io::ErrorKind::TimedOut,
                        format!("the kernel did not answer within {PATIENCE_SECONDS} s"),
                    )),
                    _ => Err(error),
                },
            };
        }
    }

    /// Reads messages until `each` says that this was the last. Ones that an
    /// earlier, failed request left behind come too: `each` must look at the
    /// sequence number.
    fn answers(&mut self, mut each: impl FnMut(&Answer<'_>) -> io::Result<bool>) -> io::Result<()> {
        loop {
            self.receive()?;
            let mut rest = self.datagram.as_slice();
            while rest.len() >= HEADER {
                let answer = Answer::first(&mut rest).ok_or_else(cut)?;
                if each(&answer)? {
                    return Ok(());
                }
            }
        }
    }
}

/// Type and body of each message in a datagram; stops at nonsense.
pub(crate) fn messages(datagram: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let message = Answer::first(&mut rest)?;
        Some((message.kind, message.body))
    })
}

/// A message from the kernel.
struct Answer<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

impl<'a> Answer<'a> {
    /// Takes the first message off; `None` where it is cut.
    fn first(rest: &mut &'a [u8]) -> Option<Self> {
        let whole = *rest;
        if whole.len() < HEADER {
            return None;
        }
        let length = u32_at(whole, 0) as usize;
        let body = whole.get(HEADER..length)?;
        *rest = &whole[length.next_multiple_of(4).min(whole.len())..];
        Some(Self {
            kind: u16::from_ne_bytes([whole[4], whole[5]]),
            flags: u16::from_ne_bytes([whole[6], whole[7]]),
            sequence: u32_at(whole, 8),
            body,
        })
    }

    /// The error in an `NLMSG_ERROR` or `NLMSG_DONE`; `None` is an
    /// acknowledgement, or the end.
    fn error(&self) -> Option<io::Error> {
        if self.body.len() < 4 {
            let end = self.kind == NLMSG_DONE;
            return (!end).then(cut);
        }
        let code = u32_at(self.body, 0).cast_signed().saturating_neg();
        // positive values count what a dump brought
        if code <= 0 {
            return None;
        }
        Some(match self.text() {
            Some(said) if !PLAIN.contains(&code) => explained(code, said),
            _ => io::Error::from_raw_os_error(code),
        })
    }

    /// The kernel's words (extended acknowledgement).
    fn text(&self) -> Option<String> {
        if self.flags & NLM_F_ACK_TLVS == 0 {
            return None;
        }
        let request = match self.kind {
            NLMSG_DONE => 0,
            _ if self.flags & NLM_F_CAPPED != 0 => HEADER,
            _ => (u32_at(self.body.get(4..8)?, 0) as usize).next_multiple_of(4),
        };
        let attributes = self.body.get(4_usize.checked_add(request)?..)?;
        let text = NlasIterator::new(attributes)
            .map_while(Result::ok)
            .find(|nla| nla.kind() == NLMSGERR_ATTR_MSG)?;
        let text = text.value();
        let text = text.strip_suffix(&[0]).unwrap_or(text);
        Some(String::from_utf8_lossy(text).into_owned())
    }
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a netlink message is cut")
}

/// Four octets of a message whose length was checked.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
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

/// A blocking handle, such as [`crate::ipvs::Ipvs`], for async code. Its work is
/// done on a blocking thread, since the kernel does a request inside `send(2)`:
/// even a socket that never waits would hold up whoever writes a large batch.
pub struct Handle<S>(Arc<Mutex<S>>);

impl<S> Clone for Handle<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: Send + 'static> Handle<S> {
    /// Takes the blocking handle over.
    pub fn new(inner: S) -> Self {
        Self(Arc::new(Mutex::new(inner)))
    }

    /// Does something with it; others wait. Must be called in a tokio runtime.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut S) -> T + Send + 'static,
    ) -> T {
        let inner = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || {
            // after a panic the socket may have unread answers, which are told by number
            work(&mut inner.lock().unwrap_or_else(PoisonError::into_inner))
        });
        match done.await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // the runtime is going down, and the caller with it
                Err(_) => std::future::pending().await,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(kind: u16, flags: u16, body: &[u8]) -> Answer<'_> {
        Answer {
            kind,
            flags,
            sequence: 1,
            body,
        }
    }

    /// An attribute with a text, after an error number and `request` octets.
    fn body(code: i32, request: usize, text: &str) -> Vec<u8> {
        let mut body = code.to_ne_bytes().to_vec();
        body.extend((request as u32).to_ne_bytes());
        body.resize(4 + request.next_multiple_of(4), 0);
        body.extend((4 + text.len() as u16 + 1).to_ne_bytes());
        body.extend(NLMSGERR_ATTR_MSG.to_ne_bytes());
        body.extend(text.as_bytes());
        body.push(0);
        body
    }

    #[test]
    fn an_error_has_the_kernels_words() {
        let capped = body(-libc::EINVAL, HEADER, "no such thing");
        let flags = NLM_F_ACK_TLVS | NLM_F_CAPPED;
        let error = answer(NLMSG_ERROR, flags, &capped).error().unwrap();
        assert_eq!(code(&error), Some(libc::EINVAL));
        assert!(error.to_string().ends_with(": no such thing"), "{error}");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);

        let whole = body(-libc::EINVAL, 41, "no such thing");
        let error = answer(NLMSG_ERROR, NLM_F_ACK_TLVS, &whole).error().unwrap();
        assert!(error.to_string().ends_with(": no such thing"), "{error}");
    }

    #[test]
    fn numbers_that_are_compared_stay_plain() {
        let exists = body(-libc::EEXIST, HEADER, "is there");
        let flags = NLM_F_ACK_TLVS | NLM_F_CAPPED;
        let error = answer(NLMSG_ERROR, flags, &exists).error().unwrap();
        assert_eq!(error.raw_os_error(), Some(libc::EEXIST));
    }

    #[test]
    fn no_error_is_none() {
        let zero = 0_i32.to_ne_bytes();
        assert!(answer(NLMSG_ERROR, 0, &zero).error().is_none());
        assert!(answer(NLMSG_DONE, 0, &zero).error().is_none());
        assert!(answer(NLMSG_DONE, 0, &[]).error().is_none());
        let count = 77_i32.to_ne_bytes();
        assert!(answer(NLMSG_DONE, 0, &count).error().is_none());
        let late = (-libc::ENOENT).to_ne_bytes();
        let error = answer(NLMSG_DONE, 0, &late).error().unwrap();
        assert_eq!(code(&error), Some(libc::ENOENT));
    }

    #[test]
    fn nonsense_does_no_harm() {
        let flags = [0, NLM_F_ACK_TLVS, NLM_F_ACK_TLVS | NLM_F_CAPPED];
        for kind in [NLMSG_ERROR, NLMSG_DONE] {
            for flags in flags {
                for length in 0..40 {
                    let bytes = vec![0xff; length];
                    let _ = answer(kind, flags, &bytes).error();
                }
            }
        }
    }
}
