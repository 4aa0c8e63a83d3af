//! Sockets: datagrams and streams in, answers out.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, ResponseCode},
    rr::{
        Name, RData, Record,
        rdata::{A, AAAA, PTR, SOA},
    },
};
use model::names::Snapshot;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
};

use crate::{Answer, Error, forward::Forwarder, lookup};

/// Datagrams to clients that name no size (RFC 1035 §4.2.1), and the most that
/// we send (RFC 9715).
const SMALLEST: usize = 512;
const LARGEST: u16 = 1232;
/// How long a TCP client may be silent.
const TCP_IDLE: Duration = Duration::from_secs(5);
/// TCP clients at once, and questions under way at once.
const CLIENTS: usize = 256;
const QUESTIONS: usize = 4096;

/// The names, exchanged whole.
pub(crate) struct Names(ArcSwap<Snapshot>);

impl Names {
    pub(crate) fn load(path: &Path) -> Result<Self, Error> {
        Ok(Self(ArcSwap::from_pointee(read(path)?)))
    }

    pub(crate) fn reload(&self, path: &Path) -> Result<u64, Error> {
        let snapshot = read(path)?;
        let revision = snapshot.revision;
        self.0.store(Arc::new(snapshot));
        Ok(revision)
    }

    pub(crate) fn revision(&self) -> u64 {
        self.0.load().revision
    }
}

fn read(path: &Path) -> Result<Snapshot, Error> {
    let fail = |source| Error::Snapshot {
        path: path.to_owned(),
        source,
    };
    let bytes = fs::read(path).map_err(fail)?;
    serde_json::from_slice(&bytes).map_err(|error| fail(error.into()))
}

pub(crate) struct Server {
    pub(crate) names: Names,
    forwarder: Forwarder,
    questions: Arc<Semaphore>,
    clients: Arc<Semaphore>,
    pub(crate) asked: AtomicU64,
    pub(crate) forwarded: AtomicU64,
    pub(crate) started: Instant,
}

impl Server {
    pub(crate) fn new(names: Names) -> Self {
        Self {
            names,
            forwarder: Forwarder::default(),
            questions: Arc::new(Semaphore::new(QUESTIONS)),
            clients: Arc::new(Semaphore::new(CLIENTS)),
            asked: AtomicU64::new(0),
            forwarded: AtomicU64::new(0),
            started: Instant::now(),
        }
    }

    pub(crate) async fn serve_udp(self: Arc<Self>, socket: UdpSocket) {
        let socket = Arc::new(socket);
        let mut buffer = vec![0; 65_535];
        loop {
            // an error is an ICMP answer to an earlier datagram
            let Ok((length, client)) = socket.recv_from(&mut buffer).await else {
                continue;
            };
            // more than we can do is not answered: the client asks again
            let Ok(place) = self.questions.clone().try_acquire_owned() else {
                continue;
            };
            let question = buffer[..length].to_vec();
            let (server, socket) = (self.clone(), socket.clone());
            tokio::spawn(async move {
                if let Some(answer) = server.answer(&question, client, false).await {
                    let _ = socket.send_to(&answer, client).await;
                }
                drop(place);
            });
        }
    }

    pub(crate) async fn serve_tcp(self: Arc<Self>, listener: TcpListener) {
        loop {
            let Ok((stream, client)) = listener.accept().await else {
                // out of file descriptors: wait for some to be closed
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let Ok(place) = self.clients.clone().try_acquire_owned() else {
                continue;
            };
            let server = self.clone();
            tokio::spawn(async move {
                let _ = server.serve_stream(stream, client).await;
                drop(place);
            });
        }
    }

    async fn serve_stream(&self, mut stream: TcpStream, client: SocketAddr) -> io::Result<()> {
        loop {
            let mut length = [0; 2];
            tokio::time::timeout(TCP_IDLE, stream.read_exact(&mut length)).await??;
            let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
            tokio::time::timeout(TCP_IDLE, stream.read_exact(&mut question)).await??;
            let Some(answer) = self.answer(&question, client, true).await else {
                return Ok(());
            };
            let Ok(length) = u16::try_from(answer.len()) else {
                return Ok(());
            };
            let mut whole = length.to_be_bytes().to_vec();
            whole.extend(answer);
            stream.write_all(&whole).await?;
        }
    }

    /// The answer to a message; `None` for what deserves none.
    async fn answer(&self, bytes: &[u8], client: SocketAddr, tcp: bool) -> Option<Vec<u8>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let question = match Message::from_vec(bytes) {
            Ok(question) if question.metadata.message_type == MessageType::Query => question,
            // an answer must not be answered
            Ok(_) => return None,
            Err(_) => return malformed(bytes),
        };
        let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
        answer.metadata.recursion_desired = question.metadata.recursion_desired;
        answer.metadata.recursion_available = true;
        answer.add_queries(question.queries.iter().cloned());
        if let Some(edns) = &question.edns {
            let mut ours = Edns::new();
            ours.set_max_payload(LARGEST);
            ours.set_version(0);
            answer.set_edns(ours);
            if edns.version() > 0 {
                answer.metadata.response_code = ResponseCode::BADVERS;
                return answer.to_vec().ok();
            }
        }
        if question.metadata.op_code != OpCode::Query {
            answer.metadata.response_code = ResponseCode::NotImp;
            return answer.to_vec().ok();
        }
        let [query] = question.queries.as_slice() else {
            answer.metadata.response_code = ResponseCode::FormErr;
            return answer.to_vec().ok();
        };
        let snapshot = self.names.0.load_full();
        let (name, kind) = (query.name(), query.query_type());
        let found = lookup(&snapshot, client.ip(), name, kind, query.query_class());
        let ours = !matches!(found, Answer::Forward | Answer::Refused);
        answer.metadata.authoritative = ours;
        match found {
            Answer::Forward => {
                self.forwarded.fetch_add(1, Ordering::Relaxed);
                match self.forwarder.ask(&snapshot.upstreams, bytes, tcp).await {
                    Some(theirs) => return Some(theirs),
                    None => answer.metadata.response_code = ResponseCode::ServFail,
                }
            }
            Answer::Refused => answer.metadata.response_code = ResponseCode::Refused,
            Answer::NoSuchName => {
                answer.metadata.response_code = ResponseCode::NXDomain;
                answer.add_authority(soa(&snapshot));
            }
            Answer::NoData => {
                answer.add_authority(soa(&snapshot));
            }
            Answer::Name(text) => {
                let target = Name::from_ascii(format!("{text}.")).ok()?;
                let record =
                    Record::from_rdata(name.clone(), snapshot.ttl, RData::PTR(PTR(target)));
                answer.add_answer(record);
            }
            Answer::Addresses(mut addresses) => {
                shuffle(&mut addresses);
                for address in addresses {
                    let data = match address {
                        IpAddr::V4(v4) => RData::A(A(v4)),
                        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
                    };
                    answer.add_answer(Record::from_rdata(name.clone(), snapshot.ttl, data));
                }
            }
        }
        let bytes = answer.to_vec().ok()?;
        let room = match &question.edns {
            _ if tcp => usize::from(u16::MAX),
            Some(edns) => usize::from(edns.max_payload().min(LARGEST)).max(SMALLEST),
            None => SMALLEST,
        };
        if bytes.len() <= room {
            return Some(bytes);
        }
        // the client asks again over TCP
        answer.answers.clear();
        answer.metadata.truncation = true;
        answer.to_vec().ok()
    }
}

/// FORMERR with the id of what could not be read.
fn malformed(bytes: &[u8]) -> Option<Vec<u8>> {
    let id = u16::from_be_bytes([*bytes.first()?, *bytes.get(1)?]);
    // the third octet's first bit: it is an answer
    if bytes.get(2)? & 0x80 != 0 {
        return None;
    }
    Message::error_msg(id, OpCode::Query, ResponseCode::FormErr)
        .to_vec()
        .ok()
}

/// Tells how long a negative answer may be kept: as long as a positive one.
fn soa(snapshot: &Snapshot) -> Record {
    let serial = u32::try_from(snapshot.revision & 0xffff_ffff).unwrap_or(0);
    let soa = SOA::new(
        Name::root(),
        Name::root(),
        serial,
        3600,
        600,
        86_400,
        snapshot.ttl,
    );
    Record::from_rdata(Name::root(), snapshot.ttl, RData::SOA(soa))
}

/// Each order as likely as any other (Fisher-Yates), so that clients spread.
fn shuffle(addresses: &mut [IpAddr]) {
    if addresses.len() < 2 {
        return;
    }
    let mut random = vec![0; 4 * addresses.len()];
    if getrandom::fill(&mut random).is_err() {
        return;
    }
    for (last, word) in (1..addresses.len()).rev().zip(random.chunks_exact(4)) {
        let number = u32::from_ne_bytes([word[0], word[1], word[2], word[3]]);
        addresses.swap(last, number as usize % (last + 1));
    }
}
